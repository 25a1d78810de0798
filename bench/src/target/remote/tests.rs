mod manners;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use gridkv_net::resp::{Arguments, Limits, Parser, Step};

use super::*;
use crate::options::parse_measure;

/// What a responder does with a request, given its number, from 1 on, and its name.
type React = dyn Fn(u64, &[u8]) -> Reaction + Send + Sync;

enum Reaction {
    Reply(&'static [u8]),
    Close,
}

const OK: Reaction = Reaction::Reply(b"+OK\r\n");

/// Serves connections, a thread for each, and forgets what it is told. It ends with the test
/// process; after `accept_max` connections it refuses more.
struct Responder {
    address: SocketAddr,
}

impl Responder {
    fn start(react: impl Fn(u64, &[u8]) -> Reaction + Send + Sync + 'static) -> Self {
        Self::accepting(usize::MAX, react)
    }

    fn accepting(
        accept_max: usize,
        react: impl Fn(u64, &[u8]) -> Reaction + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let react: Arc<React> = Arc::new(react);
        let requests = Arc::new(AtomicU64::new(0));
        thread::spawn(move || {
            for stream in listener.incoming().take(accept_max) {
                let (react, requests) = (Arc::clone(&react), Arc::clone(&requests));
                let stream = stream.unwrap();
                thread::spawn(move || serve(stream, &*react, &requests));
            }
        });
        Self { address }
    }

    fn target(&self, options: &str) -> RemoteTarget {
        open(self.address, options).unwrap_or_else(|failure| panic!("{failure}"))
    }
}

fn open(address: SocketAddr, options: &str) -> Result<RemoteTarget, Failure> {
    open_url(&format!("resp://{address}"), options)
}

fn open_url(url: &str, options: &str) -> Result<RemoteTarget, Failure> {
    let options = parse_measure(url, options);
    RemoteTarget::open(url, options.workload.workload().unwrap(), options)
}

fn serve(mut stream: impl Read + Write, react: &React, requests: &AtomicU64) {
    let limits = Limits::new(1 << 20, 1 << 21);
    let (mut parser, mut arguments) = (Parser::new(), Arguments::new());
    let (mut input, mut filled) = (vec![0; 1 << 18], 0);
    let mut output = Vec::new();
    // A peer that goes away ends the thread.
    while let Ok(read @ 1..) = stream.read(&mut input[filled..]) {
        filled += read;
        let mut taken = 0;
        while let Step::Request { consumed } =
            parser.parse(&input[taken..filled], &limits, &mut arguments).unwrap()
        {
            taken += consumed;
            let request = &input[taken - consumed..filled];
            if arguments.get(0, request) == b"PING" {
                output.extend_from_slice(b"+PONG\r\n");
                continue;
            }
            let number = requests.fetch_add(1, Ordering::Relaxed) + 1;
            match react(number, arguments.get(0, request)) {
                Reaction::Reply(reply) => output.extend_from_slice(reply),
                Reaction::Close => return,
            }
        }
        input.copy_within(taken..filled, 0);
        filled -= taken;
        if stream.write_all(&output).is_err() {
            return;
        }
        output.clear();
    }
}

#[test]
fn every_request_is_answered_and_counted_once() {
    let responder = Responder::start(|_, name| match name {
        b"GET" => Reaction::Reply(b"$3\r\nabc\r\n"),
        _ => OK,
    });
    for options in [
        "-n 10007 -c 7 -P 16 --threads 2 --warmup 0s",
        "-n 5003 -c 3 -P 1 --threads 1 --warmup 20ms --client-cpus 0",
        "-n 2001 -c 3 -P 4 --threads 2 --rate 100000 --warmup 10ms",
    ] {
        let mut target = responder.target(options);
        let measurement = target.measure().unwrap();
        let count = target.options.requests.unwrap();
        assert_eq!(measurement.partial, None);
        assert_eq!(measurement.recorder.completed, count, "{options}");
        assert_eq!(measurement.recorder.all().count(), count);
        assert_eq!(measurement.recorder.missing, 0);
        assert_eq!(measurement.recorder.errors.failed_requests(), 0);
    }
}

#[test]
fn missing_keys_are_told_from_values() {
    let responder = Responder::start(|_, _| Reaction::Reply(b"$-1\r\n"));
    let measurement = responder.target("-n 100 --reads 1 --warmup 0s").measure().unwrap();
    assert_eq!((measurement.recorder.completed, measurement.recorder.missing), (100, 100));
}

#[test]
fn replies_larger_than_the_buffer_arrive_whole() {
    let mut reply = b"$300000\r\n".to_vec();
    reply.resize(reply.len() + 300_000, b'x');
    reply.extend_from_slice(b"\r\n");
    let reply: &'static [u8] = reply.leak();
    let responder = Responder::start(move |_, _| Reaction::Reply(reply));
    let measurement = responder.target("-n 100 -c 2 -P 3 --warmup 0s").measure().unwrap();
    assert_eq!(measurement.recorder.completed, 100);
}

#[test]
fn error_replies_are_counted_and_the_first_is_kept() {
    let responder = Responder::start(|number, _| match number % 10 {
        0 => Reaction::Reply(b"-OOM no room\r\n"),
        _ => OK,
    });
    let measurement = responder.target("-n 1000 -P 8 --warmup 0s").measure().unwrap();
    assert_eq!(measurement.partial, None);
    assert_eq!(measurement.recorder.completed, 900);
    assert_eq!(measurement.recorder.errors.error_replies, 100);
    let first = measurement.recorder.errors.first_error_reply.as_deref();
    assert_eq!(first, Some("OOM no room"));
}

#[test]
fn a_stall_delays_every_request_that_was_due_within() {
    const STALL: Duration = Duration::from_millis(100);
    let responder = Responder::start(|number, _| {
        if number == 1000 {
            thread::sleep(STALL);
        }
        OK
    });
    let options = "-c 1 -P 10000 --rate 4000 --arrivals fixed --duration 1s --warmup 0s";
    let measurement = responder.target(options).measure().unwrap();
    // 80 ms before the stall ends, 4000 requests a second: each of these waits for 20 ms and more.
    let late = measurement.recorder.all().count_above(Duration::from_millis(20));
    assert!(late >= 310, "{late} late");
    assert_eq!(measurement.recorder.completed, 4000);
    assert_eq!(measurement.recorder.send_delays.count(), 4000);
}

#[test]
fn requests_that_were_due_and_never_sent_are_counted_with_their_wait() {
    let responder = Responder::start(|_, _| {
        thread::sleep(Duration::from_millis(10));
        OK
    });
    let options = "-c 1 -P 1 --rate 10000 --arrivals fixed --duration 100ms --warmup 0s";
    let recorder = responder.target(options).measure().unwrap().recorder;
    // At most one each 10 ms until the drain ends after 1.1 s; room for a little imprecision.
    assert!(recorder.errors.unsent > 850, "{:?}", recorder.errors);
    assert_eq!(recorder.completed + recorder.errors.unsent, 1000);
    assert_eq!(recorder.all().count(), 1000);
    assert!(recorder.all().count_above(Duration::from_millis(900)) > 850);
}

#[test]
fn a_connection_that_ends_is_counted_and_replaced() {
    let responder = Responder::start(|number, _| if number == 500 { Reaction::Close } else { OK });
    let measurement = responder.target("-n 2000 -c 4 -P 1 --warmup 0s").measure().unwrap();
    assert_eq!(measurement.partial, None);
    let errors = &measurement.recorder.errors;
    assert_eq!((errors.lost_connections, errors.unanswered), (1, 1));
    assert_eq!(measurement.recorder.completed, 1999);
}

#[test]
fn a_server_that_dies_leaves_a_partial_result_and_says_so() {
    // One connection to look whether there is a server, then four to load it.
    let responder =
        Responder::accepting(5, |number, _| if number > 500 { Reaction::Close } else { OK });
    let measurement = responder.target("-n 100000 -c 4 --warmup 0s").measure().unwrap();
    let reason = measurement.partial.unwrap();
    assert!(reason.starts_with(&format!("{} died under way", responder.address)), "{reason}");
    assert!(measurement.recorder.errors.lost_connections > 0);
    assert!(measurement.recorder.completed <= 500);
}

#[test]
fn a_server_that_falls_silent_is_given_up() {
    let responder = Responder::start(|_, _| Reaction::Reply(b""));
    let options = "-n 100 -c 2 --warmup 0s --reply-timeout 50ms";
    let measurement = responder.target(options).measure().unwrap();
    let reason = measurement.partial.unwrap();
    assert!(reason.contains("sent no reply for 0."), "{reason}");
    assert_eq!(measurement.recorder.errors.unanswered, 2);
}

#[test]
fn what_is_no_reply_is_told() {
    for (reply, expected) in [
        (&b"hello\r\n"[..], "does not answer in its protocol: reply of unknown type"),
        (b"+OK\r\n-ERR max number of clients\r\n", "a reply to no request: ERR max number"),
    ] {
        let responder = Responder::start(move |_, _| Reaction::Reply(reply));
        let measurement = responder.target("-n 100 -c 1 --warmup 0s").measure().unwrap();
        let reason = measurement.partial.unwrap();
        assert!(reason.contains(expected), "{reason}");
    }
}

#[test]
fn nobody_listening_is_a_clear_error() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = open(address, "").err().unwrap().to_string();
    assert_eq!(text, format!("cannot connect to {address}: Connection refused (os error 111)"));
}

#[test]
fn loading_writes_all_keys_and_fails_when_one_is_refused() {
    let sets = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sets);
    let responder = Responder::start(move |_, name| {
        count.fetch_add(u64::from(name == b"SET"), Ordering::Relaxed);
        OK
    });
    let mut target = responder.target("--load --report-rss --keys 5001 --threads 2 -c 3");
    let loading = target.prepare().unwrap().loading.unwrap();
    assert_eq!((loading.keys, sets.load(Ordering::Relaxed)), (5001, 5001));
    assert!(loading.memory.is_some());

    let responder = Responder::start(|number, _| match number {
        7 => Reaction::Reply(b"-READONLY no\r\n"),
        _ => OK,
    });
    let failure = responder.target("--load --keys 100").prepare().unwrap_err().to_string();
    assert!(failure.ends_with("refused 1 of 100 writes while loading: READONLY no"), "{failure}");
}

#[test]
fn idle_connections_are_opened_and_answer() {
    let responder = Responder::start(|_, _| Reaction::Reply(b"+PONG\r\n"));
    let mut target = responder.target("--idle-connections 20");
    let idle = target.prepare().unwrap().idle_connections.unwrap();
    assert_eq!(idle.connections, 20);
    assert!(idle.bytes_per_connection.is_some());
}
