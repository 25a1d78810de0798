//! Clients that write and read while nodes fail, and note what they were told.
//!
//! Each has keys and a counter of its own, and one request under way. A client whose node does not
//! answer, or refuses, goes to the next of its nodes.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use gridkv_net::resp::Value;

use super::book::{Book, Fate};
use super::member::Endpoint;
use crate::client::{Client, End, encode, ok, value};

/// How long a client waits for an answer before it gives its connection up. More than a node takes
/// to say that the others do not answer.
const PATIENCE: Duration = Duration::from_secs(4);
/// A client that was refused waits a little.
const PAUSE: Duration = Duration::from_millis(5);

/// What a load is.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes of each client: it begins with the first.
    pub endpoints: Vec<Vec<Endpoint>>,
    /// Keys of each client.
    pub key_count: usize,
    /// What all choices derive from.
    pub seed: u64,
}

/// What a client tells while it runs.
#[derive(Debug, Default)]
struct Pulse {
    /// Requests answered well, in a row.
    row: AtomicU64,
    done: AtomicU64,
    /// What the latest refusal said.
    refusal: Mutex<String>,
}

/// One client's keys, counter and experience.
#[derive(Debug)]
pub struct Account {
    /// Its keys.
    pub book: Book,
    /// Its counter.
    pub counter: Counter,
    /// From when the first request was sent that went wrong, to the next good answer.
    pub outages: Vec<(Instant, Instant)>,
}

/// A number that one client counts up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counter {
    done: u64,
    unknown: u64,
    /// The largest value that was seen.
    last: u64,
}

impl Counter {
    /// Takes in a value; `is_own` when it is the answer to an increment.
    fn see(&mut self, number: i64, is_own: bool) -> Result<(), String> {
        let found = u64::try_from(number).map_err(|_| format!("a counter is {number}"))?;
        if is_own {
            self.done += 1;
        }
        let range = self.done..=self.done + self.unknown;
        let has_gone_back = found < self.last || is_own && found == self.last;
        if has_gone_back || !range.contains(&found) {
            return Err(format!("a counter is {found}, own {is_own}: {self:?}"));
        }
        self.last = found;
        Ok(())
    }
}

/// A load under way. Ended when dropped.
#[derive(Debug)]
pub struct Load {
    pulses: Vec<Arc<Pulse>>,
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<Account, String>>>,
}

impl Load {
    /// Starts clients that have written nothing yet.
    #[must_use]
    pub fn start(options: &Options) -> Self {
        let book = |client| Book::new(u16::try_from(client).expect("few"), options.key_count);
        let account = |client| Account {
            book: book(client),
            counter: Counter::default(),
            outages: Vec::new(),
        };
        Self::go_on((0..options.endpoints.len()).map(account).collect(), options)
    }

    /// Starts clients that have a history.
    #[must_use]
    pub fn go_on(accounts: Vec<Account>, options: &Options) -> Self {
        let mut rng = Rng::with_seed(options.seed);
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut pulses, mut threads) = (Vec::new(), Vec::new());
        for (account, endpoints) in accounts.into_iter().zip(&options.endpoints) {
            let pulse = Arc::new(Pulse::default());
            let mut client = LoadClient {
                account,
                endpoints: endpoints.clone(),
                current: 0,
                connection: None,
                rng: rng.fork(),
                pulse: Arc::clone(&pulse),
                failing_since: None,
            };
            let is_over = Arc::clone(&is_over);
            pulses.push(pulse);
            threads.push(std::thread::spawn(move || {
                while !is_over.load(Ordering::Acquire) {
                    client.step()?;
                }
                client.note_success();
                Ok(client.account)
            }));
        }
        Self { pulses, is_over, threads }
    }

    /// Waits until every client was answered well so many times in a row, from here on.
    ///
    /// # Panics
    ///
    /// When that does not come to be.
    pub fn wait_for_row(&self, what: &str, count: u64) {
        for pulse in &self.pulses {
            pulse.row.store(0, Ordering::Release);
        }
        let deadline = Instant::now() + crate::DEADLINE;
        while !self.pulses.iter().all(|pulse| pulse.row.load(Ordering::Acquire) >= count) {
            assert!(!self.has_failed(), "a client has found something wrong");
            assert!(Instant::now() < deadline, "waited in vain for: {what}: {}", self.refusals());
            std::thread::sleep(PAUSE);
        }
    }

    /// Whether a client has found something wrong.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    /// Writes that were acknowledged so far.
    #[must_use]
    pub fn done_count(&self) -> u64 {
        self.pulses.iter().map(|pulse| pulse.done.load(Ordering::Acquire)).sum()
    }

    fn refusals(&self) -> String {
        let text = |pulse: &Arc<Pulse>| {
            pulse.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        self.pulses.iter().map(text).collect::<Vec<_>>().join("; ")
    }

    /// Ends it.
    ///
    /// # Errors
    ///
    /// The first wrong answer.
    pub fn stop(mut self) -> Result<Vec<Account>, String> {
        self.is_over.store(true, Ordering::Release);
        let threads = std::mem::take(&mut self.threads);
        let panicked = |_| Err("a client has panicked, as said above".to_owned());
        threads.into_iter().map(|it| it.join().unwrap_or_else(panicked)).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
        for thread in std::mem::take(&mut self.threads) {
            if let Ok(Err(wrong)) = thread.join() {
                crate::process::say(&wrong);
            }
        }
    }
}

struct LoadClient {
    account: Account,
    endpoints: Vec<Endpoint>,
    current: usize,
    connection: Option<Client>,
    rng: Rng,
    pulse: Arc<Pulse>,
    failing_since: Option<Instant>,
}

/// What came of a request.
enum Told {
    Value(Value),
    Refused,
    Unknown,
    /// It was not sent.
    Nobody,
}

impl LoadClient {
    fn step(&mut self) -> Result<(), String> {
        let key = self.rng.usize(..self.account.book.key_count());
        match self.rng.u8(..100) {
            0..25 => self.read(key),
            25..40 => self.count(),
            kind => self.write(key, kind < 50),
        }
    }

    fn write(&mut self, key: usize, is_deletion: bool) -> Result<(), String> {
        let name = self.account.book.key_name(key);
        let (write, bytes) = self.account.book.begin(is_deletion, self.rng.usize(..200));
        let told = match &bytes {
            Some(bytes) => self.ask(&[b"SET", name.as_bytes(), bytes]),
            None => self.ask(&[b"DEL", name.as_bytes()]),
        };
        let fate = match told {
            Told::Value(reply) if reply == ok() || matches!(reply, Value::Integer(0 | 1)) => {
                self.pulse.done.fetch_add(1, Ordering::Release);
                Fate::Done
            }
            Told::Value(other) => return Err(format!("{name}: answered with {other:?}")),
            Told::Refused | Told::Nobody => Fate::Refused,
            Told::Unknown => Fate::Unknown,
        };
        self.account.book.end(key, write, fate);
        Ok(())
    }

    fn read(&mut self, key: usize) -> Result<(), String> {
        let name = self.account.book.key_name(key);
        match self.ask(&[b"GET", name.as_bytes()]) {
            Told::Value(Value::Null) => self.account.book.check(key, None, false),
            Told::Value(Value::Bulk(bytes)) => self.account.book.check(key, Some(&bytes), false),
            Told::Value(other) => Err(format!("{name}: GET is answered with {other:?}")),
            Told::Refused | Told::Unknown | Told::Nobody => Ok(()),
        }
    }

    fn count(&mut self) -> Result<(), String> {
        let name = self.account.counter_name();
        match self.ask(&[b"INCR", name.as_bytes()]) {
            Told::Value(Value::Integer(number)) => {
                self.pulse.done.fetch_add(1, Ordering::Release);
                let seen = self.account.counter.see(number, true);
                seen.map_err(|wrong| format!("{name}: {wrong}"))
            }
            Told::Value(other) => Err(format!("{name}: INCR is answered with {other:?}")),
            Told::Unknown => {
                self.account.counter.unknown += 1;
                Ok(())
            }
            Told::Refused | Told::Nobody => Ok(()),
        }
    }

    fn ask(&mut self, words: &[&[u8]]) -> Told {
        let asked_at = Instant::now();
        let told = self.try_ask(words);
        if matches!(told, Told::Value(_)) {
            self.note_success();
        } else {
            self.pulse.row.store(0, Ordering::Release);
            self.failing_since.get_or_insert(asked_at);
            self.current += 1;
            self.connection = None;
            std::thread::sleep(PAUSE);
        }
        told
    }

    fn note_success(&mut self) {
        self.pulse.row.fetch_add(1, Ordering::AcqRel);
        if let Some(since) = self.failing_since.take() {
            self.account.outages.push((since, Instant::now()));
        }
    }

    fn try_ask(&mut self, words: &[&[u8]]) -> Told {
        if self.connection.is_none() {
            let endpoint = &self.endpoints[self.current % self.endpoints.len()];
            let connected = endpoint.address().map(Client::try_connect);
            let Some(Ok(connection)) = connected else { return Told::Nobody };
            if connection.stream().set_read_timeout(Some(PATIENCE)).is_err() {
                return Told::Nobody;
            }
            self.connection = Some(connection);
        }
        let connection = self.connection.as_mut().expect("it was just made");
        if connection.stream().write_all(&encode(words)).is_err() {
            return Told::Unknown;
        }
        let reply: Result<Vec<u8>, End> = connection.try_reply_bytes();
        match reply.map(|bytes| value(&bytes)) {
            Ok(Value::Error(text)) => {
                let mut refusal = self.pulse.refusal.lock().unwrap_or_else(PoisonError::into_inner);
                *refusal = String::from_utf8_lossy(&text).into_owned();
                if text.starts_with(b"NOQUORUM") { Told::Refused } else { Told::Unknown }
            }
            Err(_) => Told::Unknown,
            Ok(reply) => Told::Value(reply),
        }
    }
}

impl Account {
    /// Writes that have happened.
    #[must_use]
    pub fn done_count(&self) -> u64 {
        self.book.done_count + self.counter.done
    }

    /// What its counter is called.
    #[must_use]
    pub fn counter_name(&self) -> String {
        format!("{}:count", self.book.key_name(0))
    }

    /// Reads all its keys, and compares.
    ///
    /// # Errors
    ///
    /// The first that holds what it may not.
    pub fn verify(&mut self, connection: &mut Client, settles: bool) -> Result<(), String> {
        for key in 0..self.book.key_count() {
            match connection.ask(&format!("GET {}", self.book.key_name(key))) {
                Value::Null => self.book.check(key, None, settles)?,
                Value::Bulk(bytes) => self.book.check(key, Some(&bytes), settles)?,
                other => return Err(format!("GET is answered with {other:?}")),
            }
        }
        let name = self.counter_name();
        let number = match connection.ask(&format!("GET {name}")) {
            Value::Null => 0,
            Value::Bulk(text) => String::from_utf8_lossy(&text).parse().unwrap_or(-1),
            other => return Err(format!("GET is answered with {other:?}")),
        };
        let mut counter = self.counter;
        counter.see(number, false).map_err(|wrong| format!("{name}: {wrong}"))?;
        if settles {
            self.counter = counter;
        }
        Ok(())
    }

    /// The longest time without a good answer.
    #[must_use]
    pub fn longest_outage(&self) -> Duration {
        self.outages.iter().map(|(from, to)| *to - *from).max().unwrap_or_default()
    }
}
