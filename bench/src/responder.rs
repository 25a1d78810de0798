//! A server that does next to nothing: what the load generator itself can do, and what it sees of a
//! stall, is measured against it.
//!
//! It parses requests and answers each at once: a read with two bytes, anything else with `OK`. One
//! thread serves all connections, so a stall stalls them all.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use gridkv_net::resp::{Arguments, Limits, Parser, Step};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Room for the requests of one read.
const INPUT_BYTES: usize = 256 << 10;

/// The longest bulk string, and the longest request.
const LIMITS: (usize, usize) = (64 << 10, 128 << 10);

const EVENTS_MAX: usize = 256;

/// How soon it sees that it is to end.
const TICK: Duration = Duration::from_millis(20);

/// The event of the listening socket.
const LISTENER: u64 = u64::MAX;

/// One pause in the service of all connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stall {
    /// How long after the first request but `PING`.
    pub after: Duration,
    /// How long it is.
    pub length: Duration,
}

/// A listening responder.
#[derive(Debug)]
pub struct Responder {
    listener: TcpListener,
    epoll: OwnedFd,
    peers: Vec<Option<Peer>>,
    stall: Option<Stall>,
    stall_at: Option<Instant>,
}

#[derive(Debug)]
struct Peer {
    stream: TcpStream,
    parser: Parser,
    arguments: Arguments,
    input: Vec<u8>,
    filled: usize,
    output: Vec<u8>,
    written: usize,
    awaits_room: bool,
}

impl Responder {
    /// Listens at `address`.
    ///
    /// # Errors
    ///
    /// When that is taken.
    pub fn bind(address: SocketAddr, stall: Option<Stall>) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        Ok(Self { listener, epoll, peers: Vec::new(), stall, stall_at: None })
    }

    /// Where it listens.
    ///
    /// # Errors
    ///
    /// When the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `stop` is set.
    ///
    /// # Errors
    ///
    /// When the system refuses to wait.
    pub fn serve(mut self, stop: &AtomicBool) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let tick = Timespec::try_from(TICK).expect("a tick is short");
        while !stop.load(Ordering::Relaxed) {
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&tick)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    // An index of this machine.
                    index => self.turn(index as usize),
                }
            }
        }
        Ok(())
    }

    fn accept(&mut self) -> io::Result<()> {
        // A peer that is gone again is no error.
        let Ok((stream, _)) = self.listener.accept() else { return Ok(()) };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let free = self.peers.iter().position(Option::is_none);
        let index = free.unwrap_or_else(|| {
            self.peers.push(None);
            self.peers.len() - 1
        });
        epoll::add(&self.epoll, &stream, EventData::new_u64(index as u64), EventFlags::IN)?;
        self.peers[index] = Some(Peer {
            stream,
            parser: Parser::new(),
            arguments: Arguments::new(),
            input: vec![0; INPUT_BYTES],
            filled: 0,
            output: Vec::new(),
            written: 0,
            awaits_room: false,
        });
        Ok(())
    }

    fn turn(&mut self, index: usize) {
        self.pause();
        let Some(peer) = &mut self.peers[index] else { return };
        let is_first = self.stall_at.is_none();
        match peer.turn(&self.epoll, index) {
            Ok(is_asked) => {
                if let (true, true, Some(stall)) = (is_first, is_asked, self.stall) {
                    self.stall_at = Some(Instant::now() + stall.after);
                }
            }
            // Whatever ends a connection, closing it also takes it from the epoll.
            Err(_) => self.peers[index] = None,
        }
    }

    fn pause(&mut self) {
        let Some(stall) = self.stall else { return };
        if self.stall_at.is_some_and(|at| Instant::now() >= at) {
            self.stall = None;
            thread::sleep(stall.length);
        }
    }
}

impl Peer {
    /// Reads, answers and writes once; says whether there was a request other than `PING`.
    fn turn(&mut self, epoll: &OwnedFd, index: usize) -> io::Result<bool> {
        let mut is_asked = false;
        if !self.awaits_room {
            match self.stream.read(&mut self.input[self.filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => self.filled += read,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
            is_asked = self.answer()?;
        }
        let is_done = self.flush()?;
        if is_done == self.awaits_room {
            self.awaits_room = !is_done;
            let flags = if is_done { EventFlags::IN } else { EventFlags::OUT };
            epoll::modify(epoll, &self.stream, EventData::new_u64(index as u64), flags)?;
        }
        Ok(is_asked)
    }

    fn answer(&mut self) -> io::Result<bool> {
        let limits = Limits::new(LIMITS.0, LIMITS.1);
        let (mut taken, mut is_asked) = (0, false);
        loop {
            let input = &self.input[taken..self.filled];
            match self.parser.parse(input, &limits, &mut self.arguments) {
                Ok(Step::Request { consumed }) => {
                    let name = self.arguments.get(0, input);
                    is_asked |= name != b"PING";
                    self.output.extend_from_slice(match name {
                        b"GET" => b"$2\r\nok\r\n",
                        b"PING" => b"+PONG\r\n",
                        _ => b"+OK\r\n",
                    });
                    taken += consumed;
                }
                Ok(_) => break,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
        self.input.copy_within(taken..self.filled, 0);
        self.filled -= taken;
        Ok(is_asked)
    }

    fn flush(&mut self) -> io::Result<bool> {
        while self.written < self.output.len() {
            match self.stream.write(&self.output[self.written..]) {
                Ok(written) => self.written += written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.written = 0;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::options::parse_measure;
    use crate::target::{Measurement, RemoteTarget, Target};

    /// What a run against a responder measures.
    fn measure(stall: Option<Stall>, line: &str) -> Measurement {
        let responder = Responder::bind("127.0.0.1:0".parse().unwrap(), stall).unwrap();
        let url = format!("resp://{}", responder.address().unwrap());
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let server = thread::spawn(move || responder.serve(&ended));
        let options = parse_measure(&url, line);
        let workload = options.workload.workload().unwrap();
        let mut target = RemoteTarget::open(&url, workload, options).unwrap();
        let measurement = target.measure().unwrap();
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
        measurement
    }

    #[test]
    fn every_request_is_answered() {
        let measurement = measure(None, "-n 20000 -c 5 -P 64 --value-size 1000 --warmup 0s");
        assert_eq!(measurement.partial, None);
        assert_eq!(measurement.recorder.completed, 20_000);
        assert_eq!(measurement.recorder.errors.failed_requests(), 0);
    }

    /// Late requests of a run with a stall of 100 ms, above 80, 60 and 40 ms; and where on the time
    /// line there are any above 90 ms.
    fn late() -> ([u64; 3], Vec<f64>) {
        let (after, length) = (Duration::from_millis(500), Duration::from_millis(100));
        let line = "-c 4 -P 1000 --rate 2000 --arrivals fixed --duration 1500ms --warmup 0s";
        let measurement = measure(Some(Stall { after, length }), line);
        let recorder = &measurement.recorder;
        assert_eq!((recorder.completed, recorder.errors.failed_requests()), (3000, 0));
        let all = recorder.all();
        let late = [80, 60, 40].map(|bound| all.count_above(Duration::from_millis(bound)));
        let slow = measurement
            .timeline
            .iter()
            .filter(|it| it.max_us.is_some_and(|max| max > 90_000.0))
            .map(|it| it.start_seconds);
        (late, slow.collect())
    }

    /// 100 ms without service at 2000 requests a second: 200 are late, the first by 100 ms and each
    /// by half a millisecond less than the one before.
    #[test]
    fn a_stall_of_a_known_length_delays_as_many_requests_as_were_due_within() {
        const EXPECTED: [u64; 3] = [40, 80, 120];
        let mut seen = Vec::new();
        // What else this machine does delays requests too: one run in which it does little shows
        // that there are no more. There are never less, which would be an omission.
        for _ in 0..20 {
            let (late, slow) = late();
            let mut pairs = late.iter().zip(EXPECTED);
            assert!(pairs.clone().all(|(late, expected)| late + 2 >= expected), "{late:?}");
            let is_right = pairs.all(|(late, expected)| *late <= expected + 10);
            if is_right && slow.iter().all(|start| (0.4..0.8).contains(start)) && slow.len() == 1 {
                return;
            }
            seen.push((late, slow));
        }
        panic!("{seen:?}");
    }

    #[test]
    fn nonsense_ends_the_connection_and_no_other() {
        let responder = Responder::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let address = responder.address().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&stop);
        let server = thread::spawn(move || responder.serve(&ended));
        let mut good = TcpStream::connect(address).unwrap();
        let mut bad = TcpStream::connect(address).unwrap();
        bad.write_all(b"*1\r\n$-7\r\n").unwrap();
        assert_eq!(bad.read(&mut [0; 16]).unwrap(), 0);
        good.write_all(b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n").unwrap();
        let mut reply = [0; 8];
        good.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"$2\r\nok\r\n");
        stop.store(true, Ordering::Relaxed);
        server.join().unwrap().unwrap();
    }
}
