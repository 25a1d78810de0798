//! Answers that wait until the log of a shard is durable.
//!
//! A hold is a place in a shard's log. What waits for the same place leaves together; replies of a
//! connection stay in its own queue, which is told to look again.
//!
//! # Invariants
//!
//! - What is held leaves once: when the log is durable through its hold, or as an error when the
//!   log has failed before.

use std::collections::BTreeMap;

use gridkv_net::ring::ConnectionId;
use gridkv_storage::LogPosition;
use smallvec::SmallVec;

use super::job::Job;
use super::request::Asker;
use crate::server::commands::Part;

/// What must be durable before an answer may leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hold {
    /// The shard, by its number in the node.
    pub(crate) shard: u16,
    pub(crate) position: LogPosition,
}

/// What has become of a hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Waiting,
    Durable,
    /// The log has failed: it will never be durable.
    Lost,
}

/// The holds of one answer.
pub(crate) type Holds = SmallVec<[Hold; 1]>;

/// What waits for one hold.
#[derive(Default)]
pub(crate) struct Batch {
    /// Connections whose output begins with a held reply.
    pub(crate) connections: Vec<ConnectionId>,
    parts: Vec<(Asker, Part, u32)>,
    /// The bytes of the parts, one after the other.
    bytes: Vec<u8>,
    /// Each with the other holds that it waits for.
    pub(crate) jobs: Vec<(Box<dyn Job>, Holds)>,
}

impl Batch {
    /// The parts of replies, each with who asked.
    pub(crate) fn parts(&self) -> impl Iterator<Item = (Asker, Part, &[u8])> {
        let mut rest = &self.bytes[..];
        self.parts.iter().map(move |(asker, part, len)| {
            let (own, after) = rest.split_at(*len as usize);
            rest = after;
            (*asker, *part, own)
        })
    }
}

/// What one core holds.
#[derive(Default)]
pub(crate) struct Held {
    batches: BTreeMap<Hold, Batch>,
}

impl Held {
    /// Whether nothing is held.
    pub(crate) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Holds a part of a reply.
    pub(crate) fn part(&mut self, hold: Hold, asker: Asker, part: Part, bytes: &[u8]) {
        let batch = self.batches.entry(hold).or_default();
        let len = u32::try_from(bytes.len()).expect("a reply is below 4 GiB");
        batch.parts.push((asker, part, len));
        batch.bytes.extend_from_slice(bytes);
    }

    /// Holds the answer of a job until the first of `holds` is durable; the others come after.
    pub(crate) fn job(&mut self, job: Box<dyn Job>, mut holds: Holds) {
        let hold = holds.pop().expect("there is something to wait for");
        self.batches.entry(hold).or_default().jobs.push((job, holds));
    }

    /// Notes that a connection's output begins with a held reply.
    pub(crate) fn connection(&mut self, hold: Hold, id: ConnectionId) {
        self.batches.entry(hold).or_default().connections.push(id);
    }

    /// Takes out what waits for the lowest hold of `shard`, if that is at most `through`.
    pub(crate) fn take(&mut self, shard: u16, through: LogPosition) -> Option<(Hold, Batch)> {
        let first = Hold { shard, position: LogPosition(0) };
        let last = Hold { shard, position: through };
        let hold = *self.batches.range(first..=last).next()?.0;
        self.batches.remove_entry(&hold)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_taken_in_the_order_of_its_log_and_no_further() {
        let mut held = Held::default();
        let hold = |shard, position| Hold { shard, position: LogPosition(position) };
        let asker = |id| Asker::Core { core: 1, id };
        for (number, at) in [(0, hold(1, 7)), (1, hold(1, 5)), (2, hold(0, 9)), (3, hold(1, 5))] {
            held.part(at, asker(number), Part::Reply, number.to_string().as_bytes());
        }
        let (at, batch) = held.take(1, LogPosition(6)).unwrap();
        assert_eq!(at, hold(1, 5));
        let parts: Vec<_> = batch.parts().collect();
        let expected: [(Asker, Part, &[u8]); 2] =
            [(asker(1), Part::Reply, b"1"), (asker(3), Part::Reply, b"3")];
        assert_eq!(parts, expected);
        assert!(held.take(1, LogPosition(6)).is_none());
        assert!(held.take(2, LogPosition(u64::MAX)).is_none());
        assert!(held.take(0, LogPosition(u64::MAX)).is_some());
        assert!(!held.is_empty());
        assert_eq!(held.take(1, LogPosition(7)).unwrap().0, hold(1, 7));
        assert!(held.is_empty());
    }
}
