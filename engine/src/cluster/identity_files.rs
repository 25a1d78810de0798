//! A node's identity on disk.
//!
//! ```text
//! DIR/identity.key    the secret key: 64 hexadecimal digits and a line feed; for the owner only
//! DIR/identity.cert   the certificate of the cluster's key, in its one line; not secret
//! DIR/identity.*.tmp  one of them under way, with the number of the process
//! ```
//!
//! A file appears whole or not at all: it is written and made durable under another name. A key is
//! never replaced, for whoever loses it is another node.
//!
//! The key of a cluster is a file of the same form as a node's, wherever its owner keeps it.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use gridkv_cluster::identity::{Certificate, Identity, KEY_BYTES, hex};
use rustix::rand::{GetRandomFlags, getrandom};

const KEY: &str = "identity.key";
const CERTIFICATE: &str = "identity.cert";
/// What is longer is no file of ours.
const FILE_BYTES_MAX: u64 = 1 << 10;
const SECRET_MODE: u32 = 0o600;
const PUBLIC_MODE: u32 = 0o644;

/// An identity could not be read or made. What was there before still is.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The operating system refuses.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With which file or directory.
        path: PathBuf,
        /// Why it did not work.
        #[source]
        source: io::Error,
    },
    /// There is a key already.
    #[error("{} is there: a key is not replaced", path.display())]
    Exists {
        /// Its file.
        path: PathBuf,
    },
    /// The file is no key.
    #[error("{} is not a secret key, which is 64 hexadecimal digits", path.display())]
    NotAKey {
        /// The file.
        path: PathBuf,
    },
    /// The file is no certificate.
    #[error("{} is not a certificate: make it anew with `gridkv keygen`", path.display())]
    NotACertificate {
        /// The file.
        path: PathBuf,
    },
    /// The operating system has no random bytes.
    #[error("no random bytes for a key")]
    Random(#[source] io::Error),
}

fn failed<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> IdentityError + 'a {
    move |source| IdentityError::Io { action, path: path.to_owned(), source }
}

/// The file with the secret key of a data directory.
#[must_use]
pub fn key_path(directory: &Path) -> PathBuf {
    directory.join(KEY)
}

/// The file with the certificate of a data directory.
#[must_use]
pub fn certificate_path(directory: &Path) -> PathBuf {
    directory.join(CERTIFICATE)
}

/// The identity of a data directory, which is made if it has none. Where two processes make one at
/// the same time, both get the one that was first.
///
/// # Errors
///
/// [`IdentityError`].
pub fn load_or_create(directory: &Path) -> Result<Identity, IdentityError> {
    let path = key_path(directory);
    if let Some(identity) = load_key(&path)? {
        return Ok(identity);
    }
    match create_key(&path) {
        Err(IdentityError::Exists { .. }) => {
            load_key(&path)?.ok_or_else(|| failed("read", &path)(ErrorKind::NotFound.into()))
        }
        made => made,
    }
}

/// The key pair whose secret is in a file; `None` without the file.
///
/// # Errors
///
/// [`IdentityError`].
pub fn load_key(path: &Path) -> Result<Option<Identity>, IdentityError> {
    let Some(text) = read(path)? else { return Ok(None) };
    let secret = hex::decode::<KEY_BYTES>(text.trim());
    let secret = secret.ok_or_else(|| IdentityError::NotAKey { path: path.to_owned() })?;
    Ok(Some(Identity::from_secret(secret)))
}

/// Makes a key pair and the file with its secret, in a directory that is made if it is not there.
///
/// # Errors
///
/// [`IdentityError`], when there is a file already, too.
pub fn create_key(path: &Path) -> Result<Identity, IdentityError> {
    let identity = Identity::from_secret(random_secret()?);
    make_directory(parent_of(path))?;
    let text = format!("{}\n", hex::encode(identity.secret()));
    let partial = write_partial(path, &text, SECRET_MODE)?;
    // Unlike a rename, a link does not replace what is there.
    let linked = std::fs::hard_link(&partial, path);
    let removed = std::fs::remove_file(&partial);
    match linked {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            return Err(IdentityError::Exists { path: path.to_owned() });
        }
        linked => linked.map_err(failed("make", path))?,
    }
    removed.map_err(failed("remove", &partial))?;
    sync_directory(parent_of(path))?;
    Ok(identity)
}

/// The certificate of a data directory; `None` when it has none.
///
/// # Errors
///
/// [`IdentityError`].
pub fn load_certificate(directory: &Path) -> Result<Option<Certificate>, IdentityError> {
    let path = certificate_path(directory);
    let Some(text) = read(&path)? else { return Ok(None) };
    text.parse().map(Some).map_err(|_| IdentityError::NotACertificate { path })
}

/// Puts a certificate into a data directory, in place of the one that it has.
///
/// # Errors
///
/// [`IdentityError`].
pub fn store_certificate(directory: &Path, certificate: &Certificate) -> Result<(), IdentityError> {
    let path = certificate_path(directory);
    let partial = write_partial(&path, &format!("{certificate}\n"), PUBLIC_MODE)?;
    std::fs::rename(&partial, &path).map_err(failed("make", &path))?;
    sync_directory(directory)
}

fn random_secret() -> Result<[u8; KEY_BYTES], IdentityError> {
    let mut secret = [0; KEY_BYTES];
    let filled = rustix::io::retry_on_intr(|| getrandom(&mut secret, GetRandomFlags::empty()));
    let filled_bytes = filled.map_err(|error| IdentityError::Random(error.into()))?;
    assert_eq!(filled_bytes, KEY_BYTES, "the kernel gives up to 256 bytes at once");
    Ok(secret)
}

/// The text of a file; `None` without the file.
fn read(path: &Path) -> Result<Option<String>, IdentityError> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|it| it.take(FILE_BYTES_MAX).read_to_end(&mut bytes)) {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Writes a text durably under another name.
fn write_partial(path: &Path, text: &str, mode: u32) -> Result<PathBuf, IdentityError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let partial = path.with_file_name(name);
    let make = || OpenOptions::new().write(true).create_new(true).mode(mode).open(&partial);
    let mut file = match make() {
        // Of an earlier process with this number, which is over.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            std::fs::remove_file(&partial).map_err(failed("remove", &partial))?;
            make()
        }
        made => made,
    }
    .map_err(failed("make", &partial))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    if let Err(error) = written {
        // The error that came first is the one to tell.
        let _ = std::fs::remove_file(&partial);
        return Err(failed("write", &partial)(error));
    }
    Ok(partial)
}

/// Makes a directory and those above it. What is in it is nobody else's to read.
fn make_directory(path: &Path) -> Result<(), IdentityError> {
    if path.is_dir() {
        return Ok(());
    }
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed("make", path))?;
    sync_directory(parent_of(path))
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_directory(path: &Path) -> Result<(), IdentityError> {
    File::open(path).and_then(|it| it.sync_all()).map_err(failed("sync", path))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = std::fs::read_dir(directory).unwrap();
        let mut names: Vec<_> =
            entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("new").join("data");
        let identity = load_or_create(&directory).unwrap();
        assert_eq!(load_or_create(&directory).unwrap().id(), identity.id());
        assert_eq!(names(&directory), [KEY]);
        let mode = std::fs::metadata(key_path(&directory)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, SECRET_MODE);
        let again = create_key(&key_path(&directory)).unwrap_err();
        assert!(matches!(again, IdentityError::Exists { .. }), "{again}");
        assert_eq!(names(&directory), [KEY]);
        assert_eq!(load_or_create(&directory).unwrap().id(), identity.id());
        let other = load_or_create(place.path()).unwrap();
        assert_ne!(other.id(), identity.id());
    }

    #[test]
    fn a_certificate_is_replaced() {
        let place = tempfile::tempdir().unwrap();
        assert_eq!(load_certificate(place.path()).unwrap(), None);
        let (key, node) = (Identity::from_secret([1; 32]), Identity::from_secret([2; 32]).public());
        for cluster in ["blue", "red"] {
            let certificate = Certificate::issue(&key, node, cluster);
            store_certificate(place.path(), &certificate).unwrap();
            assert_eq!(load_certificate(place.path()).unwrap(), Some(certificate));
        }
        assert_eq!(names(place.path()), [CERTIFICATE]);
    }

    #[test]
    fn files_that_are_none_are_refused_and_kept() {
        let place = tempfile::tempdir().unwrap();
        for text in ["", "abc", &"0".repeat(63), &"g".repeat(64)] {
            std::fs::write(key_path(place.path()), text).unwrap();
            let found = load_or_create(place.path()).unwrap_err();
            assert!(matches!(found, IdentityError::NotAKey { .. }), "{found}");
            assert_eq!(std::fs::read_to_string(key_path(place.path())).unwrap(), text);
            std::fs::write(certificate_path(place.path()), text).unwrap();
            let found = load_certificate(place.path()).unwrap_err();
            assert!(matches!(found, IdentityError::NotACertificate { .. }), "{found}");
        }
    }

    #[test]
    fn what_an_interrupted_attempt_has_left_is_no_hindrance() {
        let place = tempfile::tempdir().unwrap();
        let left = format!("{KEY}.{}.tmp", std::process::id());
        std::fs::write(place.path().join(left), "half").unwrap();
        load_or_create(place.path()).unwrap();
        assert_eq!(names(place.path()), [KEY]);
    }
}
