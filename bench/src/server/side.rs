//! What is loaded: a target, and the processes that serve it.
//!
//! | placeholder | stands for |
//! |---|---|
//! | `{port}` | a free port of 127.0.0.1; `{port2}`, `{port3}` and so on for others |
//! | `{dir}` | a new empty directory, removed in the end; `{dir2}` and so on for others |
//! | any other | the value of a knob of `sweep` |
//!
//! All commands of a side and its target share them. A command *serves* on the first port that it
//! names and no command before it does. It is ready when that accepts connections; the first port of
//! a target that speaks RESP has to answer a `PING` too, with whatever it likes.

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::{CommandTemplate, Error, Process, TargetTemplate, Values};
use crate::interrupt;
use crate::options::{ServerOptions, TargetName};

const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// How long a server may take to accept a connection, or to answer it, before it is asked again.
const PROBE_TIMEOUT: Duration = Duration::from_millis(500);

/// A target and the commands that serve it, none for a target that is there already.
#[derive(Clone, Debug)]
pub struct Side {
    target: TargetTemplate,
    commands: Vec<CommandTemplate>,
}

impl Side {
    /// What `target` and `commands` describe. `side` and `option` are for errors: which side it is,
    /// and the option that gives it a command.
    ///
    /// # Errors
    ///
    /// When there is nothing to load, or a command for a target that needs none.
    pub fn new(
        target: &TargetTemplate,
        commands: &[CommandTemplate],
        side: &'static str,
        option: &'static str,
    ) -> Result<Self, Error> {
        match target {
            TargetTemplate::Auto if commands.is_empty() => {
                return Err(Error::Nothing { side, option });
            }
            TargetTemplate::Plain(name @ (TargetName::InCore | TargetName::Embedded))
                if !commands.is_empty() =>
            {
                return Err(Error::InProcess { target: name.to_string() });
            }
            _ => {}
        }
        Ok(Self { target: target.clone(), commands: commands.to_vec() })
    }

    /// The placeholders in its commands.
    #[must_use]
    pub fn command_placeholders(&self) -> BTreeSet<String> {
        self.commands.iter().flat_map(CommandTemplate::placeholders).collect()
    }

    /// The placeholders in its target.
    #[must_use]
    pub fn target_placeholders(&self) -> BTreeSet<String> {
        self.target.placeholders()
    }

    /// Fills in all placeholders, those of `knobs` with their values. Nothing is started yet.
    ///
    /// # Errors
    ///
    /// When a placeholder is unknown, a port or a directory is not to be had, or there is no such
    /// target.
    pub fn layout(&self, knobs: &Values, options: &ServerOptions) -> Result<Layout, Error> {
        let mut names = self.command_placeholders();
        names.extend(self.target.placeholders());
        let mut values = knobs.clone();
        let ports = choose_ports(names.iter().filter(|it| is_numbered(it, "port")), &mut values)?;
        let directory = if self.commands.is_empty() { None } else { Some(directory(options)?) };
        if let Some(directory) = &directory {
            for name in names.iter().filter(|it| is_numbered(it, "dir")) {
                let path = directory.path().join(name);
                std::fs::create_dir(&path).map_err(prepare(&path.display().to_string()))?;
                values.insert(name.clone(), path.display().to_string());
            }
        }
        let mut named = BTreeSet::new();
        let mut servers = Vec::new();
        for command in &self.commands {
            let placeholders = command.placeholders();
            let mut new = ports.iter().filter(|(name, _)| {
                placeholders.contains(name.as_str()) && !named.contains(name.as_str())
            });
            let port = new.next().map(|it| it.1);
            servers.push(Server { words: command.fill(&values)?, port });
            named.extend(placeholders);
        }
        let target = self.target_of(&servers, &values)?;
        Ok(Layout { target, values, servers, directory, options: options.clone() })
    }

    /// What to load of a side that runs, with other values of `knobs` that its commands do not have.
    ///
    /// # Errors
    ///
    /// When there is no such target.
    pub fn target_with(&self, running: &Running, knobs: &Values) -> Result<TargetName, Error> {
        let mut values = running.values.clone();
        values.extend(knobs.clone());
        self.target_of(&running.servers, &values)
    }

    fn target_of(&self, servers: &[Server], values: &Values) -> Result<TargetName, Error> {
        let target = self.target.fill(values)?;
        Ok(with_peers(target, servers.iter().skip(1).filter_map(|it| it.port)))
    }
}

/// A side whose placeholders are filled in.
#[derive(Debug)]
pub struct Layout {
    target: TargetName,
    values: Values,
    servers: Vec<Server>,
    directory: Option<TempDir>,
    options: ServerOptions,
}

#[derive(Debug)]
struct Server {
    words: Vec<String>,
    /// The port it serves on.
    port: Option<u16>,
}

impl Layout {
    /// What to load.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.target
    }

    /// Starts all processes and waits until they serve.
    ///
    /// # Errors
    ///
    /// When one cannot be started, or ends, or does not serve in time. None is left then.
    pub fn start(self) -> Result<Running, Error> {
        let Self { target, values, servers, directory, .. } = self;
        let mut running = Running { target, values, servers, processes: Vec::new(), directory };
        let Some(directory) = &running.directory else { return Ok(running) };
        let cpus = self.options.server_cpus.as_ref().map(|it| it.0.clone()).unwrap_or_default();
        for (index, server) in running.servers.iter().enumerate() {
            let output = directory.path().join(format!("output{}", index + 1));
            running.processes.push(Process::start(&server.words, output, &cpus)?);
        }
        running.await_ready(self.options.server_start_timeout)?;
        Ok(running)
    }
}

/// A side that can be loaded. Its processes are stopped, and its directory is removed, on drop.
#[derive(Debug)]
pub struct Running {
    target: TargetName,
    values: Values,
    servers: Vec<Server>,
    processes: Vec<Process>,
    directory: Option<TempDir>,
}

impl Running {
    /// What to load.
    #[must_use]
    pub fn target(&self) -> &TargetName {
        &self.target
    }

    /// How a process of it ended under way, if one has.
    pub fn obituary(&mut self) -> Option<String> {
        self.processes.iter_mut().find_map(|process| {
            let status = process.status()?;
            Some(format!("`{}` ended ({status}); {}", process.command(), process.last_words()))
        })
    }

    fn await_ready(&mut self, timeout: Duration) -> Result<(), Error> {
        let is_resp = self.target.is_plain_resp();
        let deadline = Instant::now() + timeout;
        let ports: Vec<_> = self.servers.iter().map(|it| it.port).collect();
        for (index, port) in ports.into_iter().enumerate() {
            let Some(port) = port else { continue };
            loop {
                let why = match probe(port, is_resp && index == 0) {
                    Ok(()) => break,
                    Err(error) => format!("port {port}: {error}"),
                };
                self.all_live()?;
                if interrupt::is_set() {
                    return Err(Error::Interrupted);
                }
                let process = &self.processes[index];
                if Instant::now() > deadline {
                    return Err(Error::NotReady {
                        command: process.command().to_owned(),
                        seconds: timeout.as_secs_f64(),
                        why,
                        output: process.last_words(),
                    });
                }
                thread::sleep(LOOK_INTERVAL);
            }
        }
        // A port may be served by another program than the one that failed to get it.
        self.all_live()
    }

    fn all_live(&mut self) -> Result<(), Error> {
        for process in &mut self.processes {
            if let Some(status) = process.status() {
                return Err(Error::Exited {
                    command: process.command().to_owned(),
                    status,
                    output: process.last_words(),
                });
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // All at once, so that they need not wait for one another; each drop waits for its own.
        self.processes.iter_mut().for_each(Process::ask_to_stop);
        self.processes.clear();
    }
}

/// Whether `name` is `kind`, or that with a number above 1 behind.
fn is_numbered(name: &str, kind: &str) -> bool {
    name.strip_prefix(kind).is_some_and(|number| {
        number.is_empty()
            || (!number.starts_with('0') && number.parse().is_ok_and(|it: u32| it > 1))
    })
}

/// A free port for each of `names`, in their order.
fn choose_ports<'a>(
    names: impl Iterator<Item = &'a String>,
    values: &mut Values,
) -> Result<Vec<(String, u16)>, Error> {
    // Held until all are chosen, so that they differ.
    let mut listeners = Vec::new();
    let mut ports = Vec::new();
    for name in names {
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| Ok((listener.local_addr()?.port(), listener)));
        let (port, listener) = free.map_err(prepare("a free port"))?;
        listeners.push(listener);
        values.insert(name.clone(), port.to_string());
        ports.push((name.clone(), port));
    }
    Ok(ports)
}

fn directory(options: &ServerOptions) -> Result<TempDir, Error> {
    let parent = options.dir.clone().unwrap_or_else(std::env::temp_dir);
    let made = tempfile::Builder::new().prefix("gridkv-bench-").tempdir_in(&parent);
    made.map_err(prepare(&format!("a directory in {}", parent.display())))
}

/// The time of all processes counts with that of the one that is loaded.
fn with_peers(target: TargetName, ports: impl Iterator<Item = u16>) -> TargetName {
    let peers: Vec<String> = ports.map(|port| format!("127.0.0.1:{port}")).collect();
    match target {
        TargetName::Remote(address)
            if !address.starts_with("memcached:")
                && !peers.is_empty()
                && !address.contains("peers=") =>
        {
            let mark = if address.contains('?') { '&' } else { '?' };
            TargetName::Remote(format!("{address}{mark}peers={}", peers.join(",")))
        }
        other => other,
    }
}

/// Whether a port is served.
fn probe(port: u16, is_resp: bool) -> io::Result<()> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PROBE_TIMEOUT)?;
    if !is_resp {
        return Ok(());
    }
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    stream.write_all(b"PING\r\n")?;
    let no_answer = |error: io::Error| io::Error::other(format!("no answer to a PING ({error})"));
    stream.read_exact(&mut [0]).map_err(no_answer)
}

fn prepare(context: &str) -> impl Fn(io::Error) -> Error {
    move |source| Error::Prepare { context: context.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn options() -> ServerOptions {
        ServerOptions {
            server_cpus: None,
            dir: None,
            server_start_timeout: Duration::from_millis(200),
        }
    }

    fn side(target: &str, commands: &[&str]) -> Result<Side, Error> {
        let commands: Vec<CommandTemplate> =
            commands.iter().map(|it| it.parse().unwrap()).collect();
        Side::new(&target.parse().unwrap(), &commands, " as A", "--a-cmd")
    }

    fn layout(target: &str, commands: &[&str]) -> Layout {
        side(target, commands).unwrap().layout(&Values::new(), &options()).unwrap()
    }

    fn has_no(process: u32) -> bool {
        !Path::new(&format!("/proc/{process}")).exists()
    }

    #[test]
    fn the_commands_of_a_side_share_its_placeholders() {
        let layout = layout(
            "auto",
            &["a {port} {dir}", "b {port} {port2} {dir}", "c {port}", "d {port3} {dir2}"],
        );
        let word = |server: usize, word: usize| layout.servers[server].words[word].as_str();
        assert_eq!(word(0, 1), word(1, 1));
        assert_eq!(word(0, 2), word(1, 3));
        assert_ne!(word(1, 1), word(1, 2));
        assert_ne!(word(0, 2), word(3, 2));
        assert!(std::fs::read_dir(word(0, 2)).unwrap().next().is_none());
        let ports: Vec<bool> = layout.servers.iter().map(|it| it.port.is_some()).collect();
        assert_eq!(ports, [true, true, false, true]);
        let (first, second, third) = (word(0, 1), word(1, 2), word(3, 1));
        let target = format!("resp://127.0.0.1:{first}?peers=127.0.0.1:{second},127.0.0.1:{third}");
        assert_eq!(layout.target().to_string(), target);
    }

    #[test]
    fn peers_that_the_target_names_itself_stay() {
        let name = |text: &str| TargetName::Remote(format!("resp://{text}"));
        assert_eq!(with_peers(name("h:1?peers=h:3"), [2].into_iter()), name("h:1?peers=h:3"));
        let expected = name("h:1?wait=1&peers=127.0.0.1:2");
        assert_eq!(with_peers(name("h:1?wait=1"), [2].into_iter()), expected);
        assert_eq!(with_peers(name("h:1"), std::iter::empty()), name("h:1"));
    }

    #[test]
    fn a_side_has_a_target_or_a_command() {
        let error = side("auto", &[]).unwrap_err().to_string();
        let expected =
            "nothing to load as A: name a target, or a command that starts one (--a-cmd)";
        assert_eq!(error, expected);
        assert!(side("in-core", &["x"]).is_err());
        assert!(side("in-core", &[]).is_ok());
        let known = side("auto", &["x {prot}"]).unwrap().layout(&Values::new(), &options());
        assert!(known.unwrap_err().to_string().contains("{prot}"));
    }

    #[test]
    fn only_whole_numbers_above_one_are_numbered() {
        assert!(["port", "port2", "port10"].iter().all(|it| is_numbered(it, "port")));
        assert!(
            !["port0", "port1", "port02", "ports", "dir"].iter().any(|it| is_numbered(it, "port"))
        );
    }

    #[test]
    fn the_directory_goes_with_the_side() {
        let layout = layout("auto", &["x {dir}"]);
        let path = layout.directory.as_ref().unwrap().path().to_owned();
        assert!(path.join("dir").is_dir());
        assert!(matches!(layout.start(), Err(Error::Prepare { .. } | Error::Spawn { .. })));
        assert!(!path.exists());
    }

    #[test]
    fn what_ends_at_once_is_told_with_its_last_words() {
        let layout = layout("auto", &["sh -c 'echo out of luck >&2; exit 3' {port}"]);
        let error = layout.start().unwrap_err().to_string();
        assert!(error.contains("ended before it was ready (exit status: 3)"), "{error}");
        assert!(error.ends_with("it said: out of luck"), "{error}");
    }

    #[test]
    fn what_never_listens_is_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        let line = format!("sh -c 'echo $$ > {}; exec sleep 100' {{port}}", file.display());
        let error = layout("auto", &[&line]).start().unwrap_err().to_string();
        assert!(error.contains("was not ready within 0.2 s: port "), "{error}");
        let process = std::fs::read_to_string(file).unwrap().trim().parse().unwrap();
        assert!(has_no(process));
    }
}
