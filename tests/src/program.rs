//! The program `gridkv` as a process of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value as Json;

use crate::DEADLINE;
use crate::client::Client;

/// The program, built once for all tests of this process.
///
/// # Panics
///
/// When it does not build.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "--package", "gridkv", "--bin", "gridkv"]);
        build.args(["--message-format", "json"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let output = build.stderr(Stdio::inherit()).output().expect("cargo runs");
        assert!(output.status.success(), "the program builds");
        let text = String::from_utf8_lossy(&output.stdout);
        let messages = text.lines().filter_map(|line| serde_json::from_str::<Json>(line).ok());
        let is_program = |message: &Json| message["target"]["name"] == "gridkv";
        let path = messages
            .filter(is_program)
            .find_map(|message| message["executable"].as_str().map(PathBuf::from));
        path.expect("cargo names the program it has built")
    })
}

/// The program with arguments, and nothing of this process' `GRIDKV_*` variables. It keeps its keys
/// in memory unless an argument says otherwise.
#[must_use]
pub fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(path());
    clean(&mut command);
    command.args(arguments);
    command
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GRIDKV_") {
            command.env_remove(name);
        }
    }
    command.env("GRIDKV_STORAGE", "memory");
}

/// What a program that has ended said.
#[derive(Debug)]
pub struct Ended {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Runs a command that ends by itself.
///
/// # Panics
///
/// When it does not run.
#[must_use]
pub fn run(mut command: Command) -> Ended {
    let output = command.stdin(Stdio::null()).output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ended { status: output.status, out: text(&output.stdout), err: text(&output.stderr) }
}

/// A running node. Killed when dropped.
#[derive(Debug)]
pub struct Program {
    child: Child,
    log: Receiver<String>,
    /// Its log so far, line by line.
    pub lines: Vec<String>,
    /// Where clients connect.
    pub address: SocketAddr,
    /// Where metrics are served.
    pub admin: SocketAddr,
}

impl Program {
    /// Starts a node with free ports and these further arguments, and waits until it is ready.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Self {
        Self::spawn(command(&[]), arguments)
    }

    /// As [`Program::start`], with a command that may wrap the program.
    ///
    /// # Panics
    ///
    /// When it is not ready in time.
    #[must_use]
    pub fn spawn(command: Command, arguments: &[&str]) -> Self {
        let mut program = Self::launch(command, arguments);
        program.wait_until_ready().unwrap_or_else(|error| panic!("{error}"));
        program
    }

    /// As [`Program::spawn`], without waiting: it has no addresses yet.
    ///
    /// # Panics
    ///
    /// When the operating system does not start it.
    #[must_use]
    pub fn launch(command: Command, arguments: &[&str]) -> Self {
        Self::launch_on(command, Ipv4Addr::LOCALHOST.into(), arguments)
    }

    /// As [`Program::launch`], for clients at another address.
    ///
    /// # Panics
    ///
    /// When the operating system does not start it.
    #[must_use]
    pub fn launch_on(mut command: Command, host: IpAddr, arguments: &[&str]) -> Self {
        clean(&mut command);
        let any_port = SocketAddr::new(host, 0).to_string();
        command.args(["--listen", &any_port, "--admin", &any_port]);
        command.args(["--log-format", "json"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let errors = child.stderr.take().expect("it was asked for");
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(errors).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        Self { child, log, lines: Vec::new(), address: nowhere, admin: nowhere }
    }

    /// Waits until it serves clients, and notes where.
    ///
    /// # Errors
    ///
    /// What it has said, when it does not come that far.
    pub fn wait_until_ready(&mut self) -> Result<(), String> {
        let ready = self.try_wait_for_line("ready")?;
        let address = |name: &str| {
            let text = ready["fields"][name].as_str();
            let address = text.and_then(|text| text.parse().ok());
            address.ok_or_else(|| format!("no address `{name}` in {ready}"))
        };
        self.address = address("listen")?;
        self.admin = address("admin")?;
        Ok(())
    }

    /// Waits for a message in the log, and returns its line.
    ///
    /// # Panics
    ///
    /// When the program says something else to the end, or nothing.
    pub fn wait_for_line(&mut self, message: &str) -> Json {
        self.try_wait_for_line(message).unwrap_or_else(|error| panic!("{error}"))
    }

    fn try_wait_for_line(&mut self, message: &str) -> Result<Json, String> {
        loop {
            let Ok(line) = self.log.recv_timeout(DEADLINE) else {
                return Err(format!("no `{message}` in {:#?}", self.lines));
            };
            self.lines.push(line.clone());
            if let Ok(json) = serde_json::from_str::<Json>(&line)
                && json["fields"]["message"] == message
            {
                return Ok(json);
            }
        }
    }

    /// Takes in what it has said so far.
    pub fn read_log(&mut self) {
        self.lines.extend(self.log.try_iter());
    }

    /// A new connection.
    #[must_use]
    pub fn connect(&self) -> Client {
        Client::connect(self.address)
    }

    /// The number of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its resident set, in bytes.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        crate::process::resident_bytes(self.id())
    }

    /// Sends it a signal.
    ///
    /// # Panics
    ///
    /// When it is not there.
    pub fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(id.expect("a process has a number"), signal).expect("it is there");
    }

    /// Whether it has ended, and how.
    ///
    /// # Panics
    ///
    /// When that cannot be known.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not come.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(status) = self.ended() {
                self.lines.extend(self.log.iter());
                return status;
            }
            if Instant::now() > deadline {
                self.read_log();
                panic!("it has not ended: {:#?}", self.lines);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
    }

    /// Asks it to end with a signal, and waits until it has.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Status and body of a page of the admin port.
    #[must_use]
    pub fn page(&self, path: &str) -> (u16, String) {
        page(self.admin, path)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Status and body of a page.
///
/// # Panics
///
/// When it is not served.
#[must_use]
pub fn page(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the admin port is open");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: gridkv\r\nConnection: close\r\n\r\n")
        .expect("it reads");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|it| it.parse().ok()).expect("a status");
    (status, body.to_owned())
}
