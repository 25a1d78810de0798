//! One node of a cluster, which may be down.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::process::Signal;
use serde_json::Value as Json;

use super::{Spec, free_address};
use crate::client::Client;
use crate::program::{self, Program};
use crate::until;

/// Where clients reach a node; nowhere while it is down.
#[derive(Clone, Debug, Default)]
pub struct Endpoint(Arc<Mutex<Option<SocketAddr>>>);

impl Endpoint {
    /// The address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }
}

/// A node.
#[derive(Debug)]
pub struct Member {
    /// Its name.
    pub name: String,
    /// Where other nodes reach it.
    pub address: SocketAddr,
    /// Its data directory.
    pub data: PathBuf,
    /// All it is told but for where clients connect.
    pub arguments: Vec<String>,
    /// Where clients, and who asks for its status, reach it.
    pub host: IpAddr,
    /// What wraps the program, word by word; empty for nothing.
    pub wrapper: Vec<String>,
    endpoint: Endpoint,
    program: Option<Program>,
    /// Lines of the log up to here were looked at.
    seen_lines: usize,
}

impl Member {
    /// A node that is not started.
    #[must_use]
    pub fn planned(name: &str, seed: Option<SocketAddr>, data: PathBuf, spec: &Spec) -> Self {
        let address = free_address();
        let mut arguments = spec.arguments.clone();
        arguments.extend(["--cores", "1", "--node-id", name].map(str::to_owned));
        arguments.extend(["--cluster".to_owned(), address.to_string()]);
        arguments.extend(["--data".to_owned(), data.display().to_string()]);
        match seed {
            Some(seed) => arguments.extend(["--join".to_owned(), seed.to_string()]),
            // It listens for others otherwise, and every test would wait for that.
            None => arguments.extend(["--bootstrap", "true"].map(str::to_owned)),
        }
        let (endpoint, program, wrapper) = (Endpoint::default(), None, Vec::new());
        let name = name.to_owned();
        let host = IpAddr::V4(Ipv4Addr::LOCALHOST);
        Self { name, address, data, arguments, host, wrapper, endpoint, program, seen_lines: 0 }
    }

    /// Starts it, without waiting.
    ///
    /// # Panics
    ///
    /// When it runs.
    pub fn launch(&mut self) {
        assert!(self.program.is_none(), "{} runs", self.name);
        let command = match self.wrapper.split_first() {
            None => program::command(&[]),
            Some((first, rest)) => {
                let mut command = std::process::Command::new(first);
                command.args(rest).arg(program::path());
                command
            }
        };
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.program = Some(Program::launch_on(command, self.host, &arguments));
        self.seen_lines = 0;
    }

    /// Waits until it takes clients' connections: it may not be a member yet.
    ///
    /// # Panics
    ///
    /// When it ends instead.
    pub fn wait_until_ready(&mut self) {
        let (name, program) = (&self.name, self.program.as_mut().expect("it was started"));
        if program.address.port() == 0 {
            program.wait_until_ready().unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        self.endpoint.set(Some(program.address));
    }

    /// Starts it, and waits until it takes connections.
    pub fn start(&mut self) {
        self.launch();
        self.wait_until_ready();
    }

    /// Whether it was started and not ended.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.program.is_some()
    }

    /// The process.
    ///
    /// # Panics
    ///
    /// When it is down.
    pub fn program(&mut self) -> &mut Program {
        self.program.as_mut().unwrap_or_else(|| panic!("{} is down", self.name))
    }

    /// Kills it: what it was doing stays half done.
    pub fn kill(&mut self) {
        self.program().signal(Signal::KILL);
        self.wait();
    }

    /// Tells it to end, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.program().signal(Signal::TERM);
        self.wait()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) -> ExitStatus {
        let status = self.program().wait();
        self.endpoint.set(None);
        self.program = None;
        status
    }

    /// Waits until it has ended by itself. Returns how, and all that it has said.
    pub fn wait_for_end(&mut self) -> (ExitStatus, String) {
        let status = self.program().wait();
        let said = self.program().lines.join("\n");
        self.endpoint.set(None);
        self.program = None;
        (status, said)
    }

    /// Stops its threads until [`Member::resume`].
    pub fn pause(&mut self) {
        self.program().signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&mut self) {
        self.program().signal(Signal::CONT);
    }

    /// Where clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        self.endpoint.clone()
    }

    /// A new connection.
    ///
    /// # Panics
    ///
    /// When it is down.
    pub fn connect(&mut self) -> Client {
        self.program().connect()
    }

    /// A new connection at a level.
    ///
    /// # Panics
    ///
    /// When it is down.
    pub fn connect_at(&mut self, level: &str) -> Client {
        let mut client = self.program().connect();
        assert_eq!(client.ask(&format!("GRIDKV CONSISTENCY {level}")), crate::client::ok());
        client
    }

    /// What it tells of the cluster.
    ///
    /// # Panics
    ///
    /// When it does not.
    pub fn status(&mut self) -> Json {
        let (code, body) = self.program().page("/status");
        assert_eq!(code, 200, "{body}");
        serde_json::from_str(&body).expect("the status is JSON")
    }

    /// Waits until its status is as wanted, and returns it.
    ///
    /// # Panics
    ///
    /// When that does not come to be: with the last status and the log.
    pub fn wait_for_status(&mut self, what: &str, mut is_so: impl FnMut(&Json) -> bool) -> Json {
        let deadline = std::time::Instant::now() + crate::DEADLINE;
        loop {
            let status = self.status();
            if is_so(&status) {
                return status;
            }
            if std::time::Instant::now() > deadline {
                let program = self.program();
                program.read_log();
                let log = program.lines.join("\n");
                panic!("{} waited in vain for {what}: {status:#}\n{log}", self.name);
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }

    /// A figure of its metrics page, by its whole name.
    ///
    /// # Panics
    ///
    /// When there is none.
    pub fn metric(&mut self, name: &str) -> u64 {
        let (_, page) = self.program().page("/metrics");
        let prefix = format!("{name} ");
        let line = page.lines().find_map(|line| line.strip_prefix(&prefix));
        let value = line.and_then(|text| text.trim().parse::<f64>().ok());
        let value = value.unwrap_or_else(|| panic!("no {name} in {page}"));
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a count")]
        let count = value as u64;
        count
    }

    /// Waits for a line of its log that was not looked at before and has all these texts in it.
    pub fn wait_for_log(&mut self, texts: &[&str]) -> String {
        let mut found = None;
        until(&format!("{texts:?} in the log of {}", self.name), || {
            found = self.find_in_log(texts);
            found.is_some()
        });
        found.expect("it was just found")
    }

    /// As [`Member::wait_for_log`] for what may not be there.
    pub fn find_in_log(&mut self, texts: &[&str]) -> Option<String> {
        let seen = self.seen_lines;
        let program = self.program();
        program.read_log();
        let is_it = |line: &&String| texts.iter().all(|text| line.contains(text));
        let index = program.lines.iter().skip(seen).position(|line| is_it(&line))?;
        let line = program.lines[seen + index].clone();
        self.seen_lines = seen + index + 1;
        Some(line)
    }

    /// How many lines of its log have all these texts in them.
    pub fn count_in_log(&mut self, texts: &[&str]) -> usize {
        let program = self.program();
        program.read_log();
        program.lines.iter().filter(|line| texts.iter().all(|text| line.contains(text))).count()
    }

    /// Makes its identity, and returns the public key.
    #[must_use]
    pub fn keygen(&self) -> String {
        keygen(&self.data)
    }
}

/// Makes the identity of a data directory, and returns the public key.
///
/// # Panics
///
/// When that fails.
#[must_use]
pub fn keygen(data: &Path) -> String {
    let data = data.to_str().expect("a path that is a text");
    let ended = program::run(program::command(&["keygen", data]));
    assert!(ended.status.success(), "{ended:?}");
    let key = ended.out.lines().find_map(|line| line.strip_prefix("public key "));
    key.unwrap_or_else(|| panic!("a key in {}", ended.out)).to_owned()
}
