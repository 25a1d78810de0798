//! A store as it should be: one map, one request after the other; and random requests for it.

use std::collections::BTreeMap;

use fastrand::Rng;
use gridkv_net::resp::Value;

use crate::client::{bulk, ok};

/// What a store holds.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// The keys and their values.
    pub values: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    /// What a request, of those that [`request`] makes, is answered with.
    ///
    /// # Panics
    ///
    /// When it is another one.
    pub fn answer(&mut self, words: &[Vec<u8>]) -> Value {
        let key = words.get(1).cloned().unwrap_or_default();
        match words[0].as_slice() {
            b"PING" => Value::Simple(b"PONG".to_vec()),
            b"ECHO" => Value::Bulk(key),
            b"GET" => self.get(&key),
            b"SET" => {
                self.values.insert(key, words[2].clone());
                ok()
            }
            b"SETNX" => {
                let is_absent = !self.values.contains_key(&key);
                self.values.entry(key).or_insert_with(|| words[2].clone());
                Value::Integer(i64::from(is_absent))
            }
            b"GETDEL" => self.values.remove(&key).map_or(Value::Null, Value::Bulk),
            b"APPEND" => {
                let value = self.values.entry(key).or_default();
                value.extend_from_slice(&words[2]);
                integer(value.len())
            }
            b"STRLEN" => integer(self.values.get(&key).map_or(0, Vec::len)),
            b"INCR" => self.increment(key),
            b"MGET" => Value::Array(words[1..].iter().map(|key| self.get(key)).collect()),
            b"MSET" => {
                for pair in words[1..].chunks(2) {
                    self.values.insert(pair[0].clone(), pair[1].clone());
                }
                ok()
            }
            b"MSETNX" => self.set_all_if_absent(&words[1..]),
            b"DEL" => {
                integer(words[1..].iter().filter(|key| self.values.remove(*key).is_some()).count())
            }
            b"EXISTS" => {
                integer(words[1..].iter().filter(|key| self.values.contains_key(*key)).count())
            }
            b"RENAME" => match self.values.remove(&key) {
                Some(value) => {
                    self.values.insert(words[2].clone(), value);
                    ok()
                }
                None => Value::Error(b"ERR no such key".to_vec()),
            },
            b"COPY" => match self.values.get(&key).cloned() {
                Some(value) if !self.values.contains_key(&words[2]) => {
                    self.values.insert(words[2].clone(), value);
                    Value::Integer(1)
                }
                _ => Value::Integer(0),
            },
            b"DBSIZE" => integer(self.values.len()),
            other => panic!("a request of the model, not {:?}", other.escape_ascii()),
        }
    }

    fn get(&self, key: &[u8]) -> Value {
        self.values.get(key).map_or(Value::Null, bulk)
    }

    fn increment(&mut self, key: Vec<u8>) -> Value {
        let current = self.values.get(&key).map_or(Some(0), |value| {
            let text = std::str::from_utf8(value).ok()?;
            let number: i64 = text.parse().ok()?;
            (number.to_string() == text).then_some(number)
        });
        match current {
            Some(number) if number < i64::MAX => {
                self.values.insert(key, (number + 1).to_string().into_bytes());
                Value::Integer(number + 1)
            }
            Some(_) => Value::Error(b"ERR increment or decrement would overflow".to_vec()),
            None => Value::Error(b"ERR value is not an integer or out of range".to_vec()),
        }
    }

    fn set_all_if_absent(&mut self, pairs: &[Vec<u8>]) -> Value {
        let is_free = pairs.chunks(2).all(|pair| !self.values.contains_key(&pair[0]));
        if is_free {
            for pair in pairs.chunks(2) {
                self.values.insert(pair[0].clone(), pair[1].clone());
            }
        }
        Value::Integer(i64::from(is_free))
    }
}

fn integer(count: usize) -> Value {
    Value::Integer(i64::try_from(count).expect("small"))
}

/// A key of `key_count`.
pub fn key(rng: &mut Rng, key_count: usize) -> Vec<u8> {
    format!("key:{}", rng.usize(..key_count)).into_bytes()
}

/// Any bytes, mostly few.
pub fn any_value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.u8(..20) {
        0 => rng.usize(..20_000),
        1..=4 => return rng.u16(..).to_string().into_bytes(),
        _ => rng.usize(..40),
    };
    std::iter::repeat_with(|| rng.u8(..)).take(len).collect()
}

/// A random request over `key_count` keys.
pub fn request(rng: &mut Rng, key_count: usize) -> Vec<Vec<u8>> {
    let name = |name: &str| name.as_bytes().to_vec();
    let most = if rng.u8(..20) == 0 { 600 } else { 8 };
    let many = rng.usize(1..most);
    let one = key(rng, key_count);
    match rng.u8(..32) {
        0 => vec![name("PING")],
        1 => vec![name("ECHO"), any_value(rng)],
        2 => vec![name("DBSIZE")],
        3 => vec![name("RENAME"), one, key(rng, key_count)],
        4 => {
            // A key that is copied to itself is an error, which the tables show.
            let target = format!("copy:{}", rng.usize(..key_count)).into_bytes();
            vec![name("COPY"), one, target]
        }
        5 => vec![name("GETDEL"), one],
        6 => vec![name("STRLEN"), one],
        7 => vec![name("SETNX"), one, any_value(rng)],
        8 | 9 => vec![name("APPEND"), one, any_value(rng)],
        10..=12 => vec![name("INCR"), one],
        13 | 14 => [vec![name("MGET")], keys(rng, key_count, many)].concat(),
        15 | 16 => [vec![name("DEL")], keys(rng, key_count, many)].concat(),
        17 => [vec![name("EXISTS")], keys(rng, key_count, many)].concat(),
        18 | 19 => {
            let command = if rng.bool() { "MSET" } else { "MSETNX" };
            let mut words = vec![name(command)];
            for _ in 0..many.min(20) {
                words.push(key(rng, key_count));
                words.push(any_value(rng));
            }
            words
        }
        20..=25 => vec![name("SET"), one, any_value(rng)],
        _ => vec![name("GET"), one],
    }
}

fn keys(rng: &mut Rng, key_count: usize, count: usize) -> Vec<Vec<u8>> {
    std::iter::repeat_with(|| key(rng, key_count)).take(count).collect()
}
