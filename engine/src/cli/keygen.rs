//! `gridkv keygen`: makes the identity of a node, its certificate, or the key of a cluster.
//!
//! ```text
//! gridkv keygen DIR                                        an identity
//! gridkv keygen DIR --cluster-key FILE --cluster-name NAME a certificate, and the identity if there is none
//! gridkv keygen DIR --show                                 the public key of the one there is
//! gridkv keygen --new-cluster-key FILE                     a key for a cluster
//! ```
//!
//! A key is never replaced. What is printed is public: the keys go into the lists of the others.

use std::path::Path;
use std::process::ExitCode;

use clap::{Arg, ArgAction, ArgMatches, Command};
use gridkv::identity_files::{
    certificate_path, create_key, key_path, load_certificate, load_key, load_or_create,
    store_certificate,
};
use gridkv_cluster::identity::{Certificate, Identity, is_cluster_name};

use super::{describe, flag, say};

pub(super) fn command() -> Command {
    let directory = Arg::new("directory").value_name("DIR");
    let show = Arg::new("show").long("show").action(ArgAction::SetTrue);
    let new_cluster_key =
        flag("new-cluster-key", "FILE", "makes a key that certifies nodes; keep it off the nodes");
    Command::new("keygen")
        .about("makes the identity of a node, its certificate, or the key of a cluster")
        .arg(directory.help("the node's data directory").required_unless_present("new-cluster-key"))
        .arg(
            flag("cluster-key", "FILE", "certifies the node with the key of its cluster")
                .requires("cluster-name"),
        )
        .arg(
            flag("cluster-name", "NAME", "the cluster that the certificate is for")
                .requires("cluster-key"),
        )
        .arg(
            show.help("prints the public key of the identity there is")
                .conflicts_with_all(["cluster-key", "cluster-name"]),
        )
        .arg(new_cluster_key.conflicts_with_all([
            "directory",
            "cluster-key",
            "cluster-name",
            "show",
        ]))
}

pub(super) fn run(matches: &ArgMatches) -> ExitCode {
    let value = |name: &str| matches.get_one::<String>(name).map(String::as_str);
    let done = match (value("new-cluster-key"), value("directory")) {
        (Some(file), _) => make_cluster_key(Path::new(file)),
        (None, Some(directory)) => {
            let directory = Path::new(directory);
            match value("cluster-key").zip(value("cluster-name")) {
                Some((file, name)) => certify(directory, Path::new(file), name),
                None if matches.get_flag("show") => show(directory),
                None => make_identity(directory),
            }
        }
        (None, None) => Err("keygen needs a directory".to_owned()),
    };
    match done {
        Ok(lines) => {
            lines.iter().for_each(|line| say(line));
            ExitCode::SUCCESS
        }
        Err(problem) => crate::fail(&problem),
    }
}

fn make_identity(directory: &Path) -> Result<Vec<String>, String> {
    let identity = create_key(&key_path(directory)).map_err(|error| describe(&error))?;
    Ok(lines(&identity))
}

fn show(directory: &Path) -> Result<Vec<String>, String> {
    let identity = load(&key_path(directory))?;
    let mut lines = lines(&identity);
    if load_certificate(directory).map_err(|error| describe(&error))?.is_some() {
        lines.push(format!("certificate {}", certificate_path(directory).display()));
    }
    Ok(lines)
}

fn certify(directory: &Path, file: &Path, name: &str) -> Result<Vec<String>, String> {
    if !is_cluster_name(name) {
        return Err(format!(
            "{name:?} cannot be the name of a cluster: 1 to 64 visible ASCII characters"
        ));
    }
    let cluster_key = load(file)?;
    let identity = load_or_create(directory).map_err(|error| describe(&error))?;
    if identity.id() == cluster_key.id() {
        return Err(format!("{} is the key of the node, not of a cluster", file.display()));
    }
    let certificate = Certificate::issue(&cluster_key, identity.public(), name);
    store_certificate(directory, &certificate).map_err(|error| describe(&error))?;
    let mut lines = lines(&identity);
    lines.push(format!("certificate {}", certificate_path(directory).display()));
    lines.push(format!("cluster key {}", cluster_key.public()));
    Ok(lines)
}

fn make_cluster_key(file: &Path) -> Result<Vec<String>, String> {
    let key = create_key(file).map_err(|error| describe(&error))?;
    Ok(vec![format!("cluster key {}", key.public())])
}

fn load(file: &Path) -> Result<Identity, String> {
    let key = load_key(file).map_err(|error| describe(&error))?;
    key.ok_or_else(|| format!("{} is not there: make it with `gridkv keygen`", file.display()))
}

fn lines(identity: &Identity) -> Vec<String> {
    vec![format!("public key {}", identity.public()), format!("id {}", identity.id())]
}
