//! A server small enough for a test: the test program, run again with a port in its environment.
//!
//! It keeps nothing; every read finds a value. What else it does is in its manner: `exit` at once,
//! be `deaf` (never listen) or `mute` (never answer), `die-after=N` requests, or take `busy-us=N`
//! microseconds for each request, one after another.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PORT: &str = "RESPONDER_PORT";
const MANNER: &str = "RESPONDER_MANNER";
const MARK: &str = "RESPONDER_MARK";

/// A command line that starts one, told from those of other tests by its mark.
pub(crate) fn command(mark: &str, manner: &str) -> String {
    let program = std::env::current_exe().unwrap();
    let program = program.display();
    let test = "responder::serves_when_asked";
    format!(
        "env {PORT}={{port}} {MANNER}={manner} {MARK}=.{mark}. {program} --exact {test} --nocapture"
    )
}

/// Those with a mark that live.
pub(crate) fn running(mark: &str) -> Vec<u32> {
    let mark = format!("{MARK}=.{mark}.");
    let ids = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = ids.filter_map(|it| it.file_name().to_str()?.parse().ok());
    let has_mark = |id: &u32| {
        let environment = std::fs::read(format!("/proc/{id}/environ")).unwrap_or_default();
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        environment.split(|it| *it == 0).any(|it| it == mark.as_bytes()) && !stat.contains(") Z")
    };
    ids.filter(has_mark).collect()
}

/// Is a server when the environment says so, and no test otherwise.
#[test]
fn serves_when_asked() {
    let Ok(port) = std::env::var(PORT) else { return };
    let manner = std::env::var(MANNER).unwrap();
    let number = |name: &str| -> Option<u64> { manner.strip_prefix(name)?.parse().ok() };
    match manner.as_str() {
        "exit" => {
            std::io::stderr().write_all(b"out of luck\n").unwrap();
            std::process::exit(3);
        }
        "deaf" => thread::sleep(Duration::from_secs(600)),
        _ => {}
    }
    let listener = TcpListener::bind(("127.0.0.1", port.parse().unwrap())).unwrap();
    let busy = number("busy-us=").map(Duration::from_micros);
    let service = Service {
        is_mute: manner == "mute",
        left: AtomicU64::new(number("die-after=").unwrap_or(u64::MAX)),
        busy: busy.unwrap_or_default(),
        turn: Mutex::new(()),
    };
    thread::scope(|scope| {
        for stream in listener.incoming().flatten() {
            scope.spawn(|| service.serve(stream));
        }
    });
}

struct Service {
    is_mute: bool,
    left: AtomicU64,
    busy: Duration,
    turn: Mutex<()>,
}

impl Service {
    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        let mut input = Vec::new();
        let mut chunk = [0; 65536];
        while let Ok(read @ 1..) = stream.read(&mut chunk) {
            input.extend_from_slice(&chunk[..read]);
            let mut replies = Vec::new();
            while let Some((name, len)) = request(&input) {
                replies.extend_from_slice(self.answer(&name));
                input.drain(..len);
            }
            if !self.is_mute && stream.write_all(&replies).is_err() {
                return;
            }
        }
    }

    fn answer(&self, name: &[u8]) -> &'static [u8] {
        if self.left.fetch_sub(1, Ordering::Relaxed) == 0 {
            std::io::stderr().write_all(b"had enough\n").unwrap();
            std::process::exit(4);
        }
        if !self.busy.is_zero() {
            let _turn = self.turn.lock().unwrap();
            let start = Instant::now();
            while start.elapsed() < self.busy {
                thread::yield_now();
            }
        }
        match name {
            b"PING" => b"+PONG\r\n",
            b"DBSIZE" => b":0\r\n",
            b"GET" => b"$1\r\nx\r\n",
            _ => b"+OK\r\n",
        }
    }
}

/// The name of the first request and its length, once it is whole.
fn request(input: &[u8]) -> Option<(Vec<u8>, usize)> {
    let line = |from: usize| {
        let len = input.get(from..)?.windows(2).position(|it| it == b"\r\n")?;
        Some((&input[from..from + len], from + len + 2))
    };
    let number = |text: &[u8]| std::str::from_utf8(&text[1..]).unwrap().parse::<usize>().unwrap();
    let (head, mut at) = line(0)?;
    if head.first() != Some(&b'*') {
        return Some((head.to_vec(), at));
    }
    let mut name = Vec::new();
    for index in 0..number(head) {
        let (len, start) = line(at)?;
        let end = start + number(len);
        let word = input.get(start..end)?;
        input.get(end..end + 2)?;
        if index == 0 {
            name = word.to_vec();
        }
        at = end + 2;
    }
    Some((name, at))
}
