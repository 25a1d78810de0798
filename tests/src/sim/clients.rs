//! Clients: each attached to a node, with one operation at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use gridkv::simulation::Call;
use gridkv_cluster::WallTime;
use gridkv_cluster::replication::Level;

use super::history::{Class, Ending, Kind, Operation, Value};
use super::options::Options;
use super::stream::stream;
use super::world::{Event, World};

/// What all clients do in one run, at most.
const OPERATION_COUNT_MAX: usize = 6_000;

struct Client {
    node: usize,
    is_busy: bool,
    /// What it last saw of each key.
    seen: BTreeMap<usize, Value>,
}

/// All clients.
pub(super) struct Clients {
    rng: Rng,
    list: Vec<Client>,
    pub(super) classes: Vec<Class>,
    think_max: Duration,
    value_bytes_max: usize,
    has_expiry: bool,
    is_aimed: bool,
    change_percent: u8,
    weak_percent: u8,
    next_value: u64,
    pub(super) is_on: bool,
}

/// The key of that number.
pub(super) fn key_of(number: usize) -> Vec<u8> {
    format!("key-{number}").into_bytes()
}

impl Clients {
    pub(super) fn new(options: &Options) -> Self {
        let mut rng = stream(options.seed, "clients");
        let mixed_of_ten = if options.is_aimed { 2 } else { 4 };
        let class = |rng: &mut Rng| match rng.u8(..10) {
            number if number < mixed_of_ten => Class::Mixed,
            ..8 => Class::Register,
            _ => Class::Counter,
        };
        let classes = (0..options.key_count).map(|_| class(&mut rng)).collect();
        let client = |rng: &mut Rng| Client {
            node: rng.usize(..options.node_count),
            is_busy: false,
            seen: BTreeMap::new(),
        };
        let list = (0..options.client_count).map(|_| client(&mut rng)).collect();
        Self {
            rng,
            list,
            classes,
            think_max: options.think_max,
            value_bytes_max: options.value_bytes_max,
            has_expiry: options.has_expiry,
            is_aimed: options.is_aimed,
            change_percent: options.change_percent,
            weak_percent: options.weak_percent,
            next_value: 1,
            is_on: false,
        }
    }

    /// How long a client waits.
    pub(super) fn think(&mut self) -> Duration {
        self.think_max * self.rng.u32(0..=1_000) / 1_000
    }

    /// A client's operation has ended.
    pub(super) fn release(&mut self, client: usize) {
        if let Some(client) = self.list.get_mut(client) {
            client.is_busy = false;
        }
    }

    /// A value that nobody else writes. It ends with a comma.
    fn value(&mut self, is_padded: bool) -> Vec<u8> {
        let number = self.next_value;
        self.next_value += 1;
        let mut value = number.to_string().into_bytes();
        if is_padded {
            let bytes = self.rng.usize(..self.value_bytes_max);
            value.resize(value.len().max(bytes), b'x');
        }
        value.push(b',');
        value
    }

    fn kind(&mut self, class: Class) -> Kind {
        let percent = self.rng.u8(..100);
        match class {
            Class::Counter if percent < 70 => Kind::Increment,
            Class::Counter => Kind::Read,
            Class::Register if self.is_aimed && percent >= self.change_percent => Kind::Read,
            Class::Register if self.is_aimed => match self.rng.u8(..100) {
                0..70 => Kind::Append,
                70..77 => Kind::Write,
                77..82 => Kind::Delete,
                82..90 => Kind::SetIfAbsent,
                _ => Kind::CompareAndSet,
            },
            Class::Register => match percent {
                0..35 => Kind::Read,
                35..50 => Kind::Write,
                50..57 => Kind::Delete,
                57..70 => Kind::Append,
                70..82 => Kind::SetIfAbsent,
                _ => Kind::CompareAndSet,
            },
            Class::Mixed => match percent {
                0..40 => Kind::Read,
                40..80 => Kind::Write,
                80..90 => Kind::Delete,
                90..94 => Kind::Append,
                94..97 => Kind::SetIfAbsent,
                _ => Kind::CompareAndSet,
            },
        }
    }

    fn level(&mut self, class: Class, kind: Kind, replica_count: u8) -> Level {
        let is_weak =
            class == Class::Mixed || (kind == Kind::Read && self.rng.u8(..100) < self.weak_percent);
        if !is_weak || kind.is_change() {
            return Level::Linearizable;
        }
        match self.rng.u8(..20) {
            0..3 => Level::One,
            3..12 => Level::Quorum,
            12..15 => Level::All,
            15..17 => Level::Count(self.rng.u8(1..=replica_count)),
            _ => Level::Linearizable,
        }
    }

    /// What a client does next.
    fn draw(&mut self, client: usize, replica_count: u8, wall: WallTime) -> Operation {
        let count = self.classes.len();
        let key = self.rng.usize(..count).min(self.rng.usize(..count));
        let class = self.classes[key];
        let kind = self.kind(class);
        let level = self.level(class, kind, replica_count);
        let expires = class != Class::Counter && self.has_expiry && self.rng.u8(..3) == 0;
        let seen = &self.list[client].seen;
        let expected = seen.get(&key).cloned().unwrap_or_default();
        let value = match kind {
            Kind::Write | Kind::SetIfAbsent | Kind::CompareAndSet => self.value(true),
            Kind::Append => self.value(false),
            Kind::Read | Kind::Delete | Kind::Increment | Kind::Flush => Vec::new(),
        };
        let sets = matches!(kind, Kind::Write | Kind::SetIfAbsent | Kind::CompareAndSet);
        let lifetime_max_ms = if self.rng.bool() { 1_000 } else { 8_000 };
        let expires_at = (expires && sets)
            .then(|| wall + Duration::from_millis(self.rng.u64(100..lifetime_max_ms)));
        Operation {
            client,
            node: self.list[client].node,
            key,
            kind,
            level,
            // A deletion is agreed, whatever the level.
            needed: needed(
                if kind == Kind::Delete { Level::Linearizable } else { level },
                replica_count,
            ),
            value,
            expected,
            expires_at,
            invoked: gridkv_cluster::Instant::ZERO,
            completed: None,
            before: None,
            ending: Ending::None,
        }
    }
}

/// Replicas that an operation waits for.
pub(super) fn needed(level: Level, replica_count: u8) -> usize {
    usize::from(match level {
        Level::One => 1,
        Level::Quorum | Level::Linearizable => replica_count / 2 + 1,
        Level::Count(count) => count,
        Level::All => replica_count,
    })
}

impl World {
    /// All clients begin.
    pub(super) fn begin_clients(&mut self) {
        self.clients.is_on = true;
        for client in 0..self.options.client_count {
            let pause = self.clients.think();
            self.after(pause, Event::Client(client));
        }
    }

    pub(super) fn on_client(&mut self, client: usize) {
        let is_enough = self.ledger.operations.len() >= OPERATION_COUNT_MAX;
        if !self.clients.is_on || is_enough || self.clients.list[client].is_busy {
            return;
        }
        let node = self.clients.list[client].node;
        let can = |it: &super::world::Node| it.process.is_some() && !it.is_paused;
        let moves = self.clients.rng.u8(..100) < if can(&self.nodes[node]) { 1 } else { 30 };
        if moves {
            self.clients.list[client].node = self.clients.rng.usize(..self.options.node_count);
        }
        let node = self.clients.list[client].node;
        if !can(&self.nodes[node]) {
            let pause = self.clients.think() + Duration::from_millis(20);
            return self.after(pause, Event::Client(client));
        }
        let wall = self.node_now(node).wall;
        let operation = self.clients.draw(client, self.options.replica_count, wall);
        self.clients.list[client].is_busy = true;
        self.begin(operation);
    }

    /// Begins an operation at its node, which runs.
    pub(super) fn begin(&mut self, mut operation: Operation) -> usize {
        let node = operation.node;
        operation.invoked = self.now;
        let now = self.node_now(node);
        let process = self.nodes[node].process.as_mut().expect("it runs");
        let key = key_of(operation.key);
        let index = self.ledger.operations.len();
        let (tag, level) = (index as u64, operation.level);
        let is_begun = match operation.kind {
            Kind::Read => {
                process.call(now, tag, key, Call::Get, level);
                true
            }
            Kind::Write => {
                let (value, expires_at) = (operation.value.clone(), operation.expires_at);
                process.call(now, tag, key, Call::Set { value, expires_at }, level);
                true
            }
            Kind::Delete => {
                process.call(now, tag, key, Call::Delete, level);
                true
            }
            _ => {
                let core = self.clients.rng.usize(..process.core_count());
                let words = operation.words(&key);
                let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
                process.request(core, tag, &words, level)
            }
        };
        self.trace.note(self.now, [11, node as u64, tag]);
        self.trace.say(self.now, || {
            let Operation { client, key, kind, level, .. } = &operation;
            let value = String::from_utf8_lossy(&operation.value);
            format!("n{node} begins {tag}: client {client} key-{key} {kind:?} {level:?} {value}")
        });
        if is_begun {
            self.ledger.pending.insert(index);
        } else {
            operation.completed = Some(self.now);
            operation.ending = Ending::NotApplied;
        }
        self.ledger.operations.push(operation);
        if is_begun {
            self.turn(node);
        } else {
            self.on_ended(index);
        }
        index
    }

    /// An operation has ended.
    pub(super) fn on_ended(&mut self, index: usize) {
        let operation = &self.ledger.operations[index];
        let (client, key, kind) = (operation.client, operation.key, operation.kind);
        let ending = match &operation.ending {
            Ending::Found(_) => "found",
            Ending::Acknowledged(_) => "acknowledged",
            Ending::NotApplied => "not applied",
            Ending::Unknown | Ending::None => "unknown",
        };
        let level = match operation.level {
            Level::Count(_) => "Count".to_owned(),
            level => format!("{level:?}"),
        };
        let what = format!("operations: {kind:?} at {level} {ending}");
        self.report.count(&what);
        let seen = match &operation.ending {
            Ending::Found(found) => found.as_ref().map(|it| it.1.clone()).or(Some(None)),
            Ending::Acknowledged(_) => {
                let before = operation.before.as_ref().and_then(|it| it.exactly().cloned());
                before.map(|before| operation.apply(&before).unwrap_or(before))
            }
            _ => None,
        };
        if client >= self.clients.list.len() {
            return;
        }
        if let Some(seen) = seen {
            self.clients.list[client].seen.insert(key, seen);
        }
        self.clients.release(client);
        let is_refused = self.ledger.operations[index].ending == Ending::NotApplied;
        let rest = Duration::from_millis(if is_refused { 100 } else { 0 });
        let pause = self.clients.think() + rest;
        self.after(pause, Event::Client(client));
    }
}
