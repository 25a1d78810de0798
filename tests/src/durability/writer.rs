//! A client that writes in pipelines until it is cut off, and notes what was answered.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use fastrand::Rng;
use gridkv_net::resp::Value;

use super::deed::{draw, key_name};
use super::ledger::Ledger;
use super::mark::Mark;
use crate::client::{Client, encode};

/// Requests in a pipeline at most.
const PIPELINE_LEN_MAX: usize = 32;

/// What all writers of a round share.
#[derive(Debug)]
pub struct Load {
    /// Where the node listens.
    pub address: SocketAddr,
    /// How many clients there are.
    pub client_count: u16,
    /// When the run began.
    pub began: Instant,
    /// Set before the node is told to end: from then on, being cut off is no failure.
    pub is_ending: AtomicBool,
}

/// What a client has read of another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The key.
    pub key: usize,
    /// The write that it showed.
    pub mark: Mark,
}

/// What came of it.
#[derive(Debug, Default)]
pub struct Written {
    /// Writes that were answered.
    pub acknowledged_count: usize,
    /// What was read of other clients.
    pub seen: Vec<Seen>,
}

/// A request on its way.
enum Asked {
    Write,
    /// A look at another client's key.
    Look {
        client: u16,
        key: usize,
    },
}

/// Writes until the node ends.
///
/// # Errors
///
/// When an answer is wrong, or the node ends unasked.
pub fn write_until_cut(load: &Load, ledger: &mut Ledger, mut rng: Rng) -> Result<Written, String> {
    let mut written = Written::default();
    let mut connection = match Client::try_connect(load.address) {
        Ok(connection) => connection,
        Err(_) if load.is_ending.load(Ordering::Acquire) => return Ok(written),
        Err(error) => return Err(format!("cannot connect to {}: {error}", load.address)),
    };
    loop {
        let (requests, asked) = pipeline(load, ledger, &mut rng);
        if connection.stream().write_all(&requests).is_err() {
            return cut_off(load, written, "does not read");
        }
        for asked in asked {
            let Ok(bytes) = connection.try_reply_bytes() else {
                return cut_off(load, written, "does not answer");
            };
            let reply = crate::client::value(&bytes);
            if let Value::Error(text) = &reply {
                // Whether it has happened is unknown, as it is of those behind it.
                return cut_off(load, written, &format!("refuses: {}", text.escape_ascii()));
            }
            match asked {
                Asked::Write => {
                    ledger.answer(&reply, load.began.elapsed())?;
                    written.acknowledged_count += 1;
                }
                Asked::Look { client, key } => written.seen.extend(look(client, key, &reply)?),
            }
        }
    }
}

fn pipeline(load: &Load, ledger: &mut Ledger, rng: &mut Rng) -> (Vec<u8>, Vec<Asked>) {
    let mut requests = Vec::new();
    let mut asked = Vec::new();
    for _ in 0..rng.usize(1..=PIPELINE_LEN_MAX) {
        let client = rng.u16(..load.client_count);
        if client != ledger.client() && rng.u8(..10) == 0 {
            let key = rng.usize(..ledger.keys().text_count);
            requests.extend(encode(&[b"GET", key_name(client, key).as_slice()]));
            asked.push(Asked::Look { client, key });
        } else {
            let (key, deed) = draw(rng, ledger.keys());
            requests.extend(ledger.send(key, deed, load.began.elapsed()));
            asked.push(Asked::Write);
        }
    }
    (requests, asked)
}

/// What a reply to GET shows of another client's key.
fn look(client: u16, key: usize, reply: &Value) -> Result<Option<Seen>, String> {
    let name = || String::from_utf8_lossy(&key_name(client, key)).into_owned();
    match reply {
        Value::Null => Ok(None),
        Value::Bulk(value) => match Mark::read(value) {
            Ok(mark) if mark.client == client => Ok(Some(Seen { key, mark })),
            Ok(mark) => Err(format!("{}: was read as {mark}", name())),
            Err(wrong) => Err(format!("{}: was read as {wrong}", name())),
        },
        other => Err(format!("{}: GET was answered with {other:?}", name())),
    }
}

fn cut_off(load: &Load, written: Written, how: &str) -> Result<Written, String> {
    if load.is_ending.load(Ordering::Acquire) {
        return Ok(written);
    }
    Err(format!("the node was not told to end, and {how}"))
}
