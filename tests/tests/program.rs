//! The program `gridkv`: its options, its end, its pages.

use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::process::Stdio;

use gridkv_net::resp::Value;
use gridkv_tests::client::{Client, End, encode, ok};
use gridkv_tests::program::{Ended, Program, command, page, path, run};
use gridkv_tests::until;
use rustix::process::Signal;

/// The one line that a program that could not start has said.
fn refusal(ended: &Ended) -> String {
    assert_eq!(ended.status.code(), Some(1), "{ended:?}");
    let said: Vec<&str> = ended.err.lines().filter(|it| it.starts_with("gridkv: ")).collect();
    assert_eq!(said.len(), 1, "{ended:?}");
    said[0].to_owned()
}

fn config_file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("a directory for files");
    file.write_all(text.as_bytes()).expect("room for a file");
    file
}

#[test]
fn flags_win_over_variables_and_these_over_the_file() {
    let file = config_file("max_clients = 1\nslowlog_len = 1\nclient_timeout = \"1s\"\n");
    let mut config = command(&["config", "--config", file.path().to_str().unwrap()]);
    config.args(["--max-clients", "3"]);
    config.env("GRIDKV_MAX_CLIENTS", "2").env("GRIDKV_SLOWLOG_LEN", "2");
    let ended = run(config);
    assert!(ended.status.success(), "{ended:?}");
    let table: toml::Table = ended.out.parse().unwrap();
    assert_eq!(table["max_clients"].as_str(), Some("3"));
    assert_eq!(table["slowlog_len"].as_str(), Some("2"));
    assert_eq!(table["client_timeout"].as_str(), Some("1s"));
    assert_eq!(table["listen"].as_str(), Some("127.0.0.1:7379"));

    // The file may be named by a variable too, and what is printed is a file.
    let printed = config_file(&ended.out);
    let mut config = command(&["config"]);
    config.env("GRIDKV_CONFIG", printed.path());
    assert_eq!(run(config).out, ended.out);
}

#[test]
fn what_is_not_understood_is_named_with_what_is_allowed() {
    let file = config_file("lisen = \"127.0.0.1:0\"\n");
    let path = file.path().to_str().unwrap();
    let said = refusal(&run(command(&["--config", path])));
    assert!(said.contains("unknown option `lisen`") && said.contains(path), "{said}");
    assert!(said.contains("listen"), "{said}");

    let mut variable = command(&["config"]);
    variable.env("GRIDKV_LISEN", "x");
    assert!(refusal(&run(variable)).contains("`lisen` in GRIDKV_LISEN"));

    let said = refusal(&run(command(&["--cores", "many"])));
    assert!(said.contains("--cores") && said.contains("whole number"), "{said}");
    let said = refusal(&run(command(&["--eviction", "lru"])));
    assert!(said.contains("noeviction or lfu"), "{said}");
    let said = refusal(&run(command(&["--config", "/nonexistent/file"])));
    assert!(said.contains("/nonexistent/file"), "{said}");
    let broken = config_file("listen = [\n");
    refusal(&run(command(&["--config", broken.path().to_str().unwrap()])));
    let said = refusal(&run(command(&["--listen", "off", "--admin", "off", "--storage", "tape"])));
    assert!(said.contains("tape") && said.contains("memory"), "{said}");
    let said = refusal(&run(command(&["--cores", "1000", "--listen", "off", "--admin", "off"])));
    assert!(said.contains("cores") && said.contains("may use only"), "{said}");

    let ended = run(command(&["--lisen", "x"]));
    assert!(!ended.status.success() && ended.err.contains("--lisen"), "{ended:?}");
    let ended = run(command(&["no-such-command"]));
    assert!(!ended.status.success() && ended.err.contains("no-such-command"), "{ended:?}");
}

#[test]
fn a_port_that_is_taken_is_named_with_the_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let said = refusal(&run(command(&["--listen", &address, "--admin", "off"])));
    assert!(
        said.contains(&address) && said.contains("in use") && said.contains("`listen`"),
        "{said}"
    );
    let said = refusal(&run(command(&["--admin", &address, "--listen", "127.0.0.1:0"])));
    assert!(said.contains(&address) && said.contains("`admin`"), "{said}");
}

#[test]
fn sigterm_gives_clients_the_replies_they_are_owed() {
    let mut program = Program::start(&["--debug-commands", "true"]);
    let mut client = program.connect();
    let value = "v".repeat(1_000);
    assert_eq!(client.call(&["SET", "key", &value]), ok());
    // More than the kernel's buffers hold, so that some of it waits for the reader at the end.
    client.send_raw(&encode(&["GET", "key"]).repeat(20_000));
    // Begun before the signal, and not over.
    let mut waiting = program.connect();
    waiting.send(&["DEBUG", "SLEEP", "0.5"]);
    let mut idle = program.connect();
    assert_eq!(idle.ask("PING"), Value::Simple(b"PONG".to_vec()));
    program.signal(Signal::TERM);
    program.wait_for_line("stopping: clients get the replies they are owed");
    let mut count = 0;
    let end = loop {
        match client.try_reply_bytes() {
            Ok(reply) => assert_eq!(reply.len(), "$1000\r\n\r\n".len() + 1_000),
            Err(end) => break end,
        }
        count += 1;
    };
    assert_eq!(end, End::Closed, "after {count} whole replies");
    assert!(count > 0);
    assert_eq!(client.rest(), (Vec::new(), End::Closed), "no reply is cut in two");
    assert_eq!(waiting.reply(), ok());
    assert_eq!(idle.rest(), (Vec::new(), End::Closed));
    assert_eq!(program.wait().code(), Some(0));
    assert!(program.lines.iter().any(|line| line.contains("\"stopped\"")), "{:#?}", program.lines);
}

#[test]
fn a_second_signal_ends_the_program_at_once() {
    let mut program = Program::start(&["--debug-commands", "true"]);
    let mut client = program.connect();
    // Keeps the drain going for its five seconds.
    client.send(&["DEBUG", "SLEEP", "3600"]);
    let mut other = program.connect();
    assert_eq!(other.ask("PING"), Value::Simple(b"PONG".to_vec()));
    program.signal(Signal::TERM);
    program.wait_for_line("stopping: clients get the replies they are owed");
    program.signal(Signal::TERM);
    assert_eq!(program.wait().code(), Some(1));
}

#[test]
fn shutdown_and_interrupt_end_the_program_in_order() {
    let mut program = Program::start(&[]);
    let mut client = program.connect();
    client.send(&["SHUTDOWN", "NOSAVE"]);
    assert_eq!(client.rest(), (Vec::new(), End::Closed));
    assert_eq!(program.wait().code(), Some(0));

    let mut program = Program::start(&[]);
    program.signal(Signal::INT);
    assert_eq!(program.wait().code(), Some(0));
}

#[test]
fn a_core_that_panics_ends_the_program_with_a_failure() {
    let mut program = Program::start(&["--debug-commands", "true"]);
    let mut client = program.connect();
    client.send(&["DEBUG", "PANIC"]);
    assert!(client.try_reply_bytes().is_err(), "its clients are disconnected");
    assert_eq!(program.wait().code(), Some(1));

    let program = Program::start(&[]);
    let Value::Error(refused) = program.connect().ask("DEBUG PANIC") else { panic!("an error") };
    let refused = String::from_utf8_lossy(&refused);
    assert!(refused.contains("DEBUG command not allowed"), "{refused}");
}

#[test]
fn the_admin_port_tells_health_readiness_and_figures() {
    let mut program = Program::start(&[]);
    let mut client = program.connect();
    assert_eq!(client.ask("SET key value"), ok());
    assert_eq!(client.ask("GET key"), Value::Bulk(b"value".to_vec()));
    assert_eq!(program.page("/healthz"), (200, "ok\n".to_owned()));
    assert_eq!(program.page("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(program.page("/nothing").0, 404);
    let (status, metrics) = program.page("/metrics");
    assert_eq!(status, 200);
    for name in
        ["gridkv_keys 1", "gridkv_clients 1", "gridkv_hits_total 1", "gridkv_cores_stopped 0"]
    {
        assert!(metrics.lines().any(|line| line == name), "{name}: {metrics}");
    }
    assert!(!metrics.contains("core=\""), "no series of each core unless asked for");
    // Every sample is a name and a number, described before it, each name once.
    let mut names = Vec::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.split_once(' ').unwrap();
        assert!(value.parse::<f64>().is_ok(), "{line}");
        let name = series.split('{').next().unwrap();
        assert!(metrics.contains(&format!("# TYPE {name} ")), "{line}");
        names.push(series);
    }
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count);
    assert_eq!(program.terminate().code(), Some(0));
}

#[test]
fn a_reader_of_metrics_that_does_not_read_holds_up_neither_others_nor_the_end() {
    let mut program = Program::start(&[]);
    let mut stuck = std::net::TcpStream::connect(program.admin).unwrap();
    stuck.set_write_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
    let request = b"GET /metrics HTTP/1.1\r\nHost: gridkv\r\n\r\n".repeat(5_000);
    // As much as it takes; then its replies fill all buffers.
    let _ = stuck.write_all(&request);
    // Others are served meanwhile, and after.
    for _ in 0..3 {
        assert_eq!(program.page("/healthz").0, 200);
    }
    assert_eq!(program.terminate().code(), Some(0));
}

#[test]
fn every_line_of_a_json_log_is_an_object() {
    let mut program = Program::start(&["--log", "debug", "--storage", "memory"]);
    program.connect().send_raw(b"*x\r\n");
    assert_eq!(program.terminate().code(), Some(0));
    for line in &program.lines {
        let json: serde_json::Value = serde_json::from_str(line).expect(line);
        assert!(json["level"].is_string() && json["timestamp"].is_string(), "{line}");
        assert!(json["fields"]["message"].is_string(), "{line}");
    }
    assert!(program.lines.len() >= 3, "{:#?}", program.lines);
}

/// Standard error that is full already: whoever writes to it waits for a reader, who never comes.
fn unread_pipe() -> (OwnedFd, OwnedFd) {
    let (reader, writer) = rustix::pipe::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&writer, true).expect("a pipe");
    while rustix::io::write(&writer, &[b'.'; 4_096]).is_ok() {}
    while rustix::io::write(&writer, b".").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).expect("a pipe");
    (reader, writer)
}

/// A process that does not outlive the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // Both fail only when it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_log_that_nobody_reads_holds_up_no_core_and_no_end() {
    let (_reader, writer) = unread_pipe();
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let listen = address.to_string();
    let arguments = ["--admin", "off", "--output-limit", "64KiB", "--log", "debug", "--listen"];
    let mut command = command(&arguments);
    command.arg(&listen).stdin(Stdio::null()).stdout(Stdio::null()).stderr(writer);
    let mut node = Killed(command.spawn().unwrap());
    until("it serves", || Client::try_connect(address).is_ok());
    let mut client = Client::connect(address);
    let value = "v".repeat(128 << 10);
    let keys: Vec<String> = (0..8).map(|number| format!("key:{number}")).collect();
    keys.iter().for_each(|key| assert_eq!(client.call(&["SET", key, &value]), ok()));
    // A reply from another core is longer than may be: a core says that it disconnects the client.
    for key in keys.iter().cycle().take(64) {
        let mut cut = Client::connect(address);
        cut.send(&["GET", key]);
        cut.finish_sending();
        let _ = cut.rest();
    }
    for _ in 0..4 {
        let mut client = Client::connect(address);
        assert_eq!(client.call(&["SET", "key", "value"]), ok());
        assert_eq!(client.ask("PING"), Value::Simple(b"PONG".to_vec()));
    }
    let id = rustix::process::Pid::from_child(&node.0);
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    let mut ended = None;
    until("it ends", || {
        ended = node.0.try_wait().unwrap();
        ended.is_some()
    });
    assert_eq!(ended.unwrap().code(), Some(0));
}

#[test]
fn too_little_of_what_the_kernel_grants_is_said_in_one_line_or_makes_do() {
    if std::process::Command::new("prlimit").arg("--version").output().is_err() {
        gridkv_tests::process::say("SKIPPED: prlimit is not installed");
        return;
    }
    // Too few descriptors even for the cores.
    let mut few = std::process::Command::new("prlimit");
    few.arg("--nofile=12:12").arg(path()).args(["--listen", "127.0.0.1:0", "--admin", "off"]);
    few.env("GRIDKV_STORAGE", "memory");
    let said = refusal(&run(few));
    assert!(said.to_lowercase().contains("open files") || said.contains("RLIMIT"), "{said}");
    // Descriptors for some clients, but not for max_clients: it says so and serves.
    let mut some = std::process::Command::new("prlimit");
    some.arg("--nofile=200:200").arg(path());
    let mut program = Program::spawn(some, &[]);
    let warning = "too few descriptors for max_clients: raise RLIMIT_NOFILE (ulimit -n)";
    assert!(program.lines.iter().any(|line| line.contains(warning)), "{:#?}", program.lines);
    let mut clients: Vec<_> =
        (0..200).filter_map(|_| Client::try_connect(program.address).ok()).collect();
    // Those beyond the limit wait; as soon as some leave, they are served.
    clients.drain(..150);
    for client in &mut clients {
        assert_eq!(client.ask("PING"), Value::Simple(b"PONG".to_vec()));
    }
    drop(clients);
    assert_eq!(page(program.admin, "/healthz").0, 200);
    until("all clients are gone", || {
        page(program.admin, "/metrics").1.contains("gridkv_clients 0\n")
    });
    assert_eq!(program.terminate().code(), Some(0));
}
