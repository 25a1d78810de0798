//! Which clients know of the cluster.
//!
//! Libraries for Redis' cluster ask one node on one connection which slots lie where, often close that
//! connection, and open others to all masters. None of those says what it is for. So a node remembers
//! who has asked: connections of the same library from the same host are taken for the same client's.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use gridkv_cluster::Instant;
use gridkv_cluster::wire::call::{Call, CallAnswer, Kin};

use super::control::CONTROL_CORE;
use crate::core::Core;
use crate::error::Error;
use crate::handle::Handle;

/// How long who has asked is remembered, from the last time that it mattered.
const REMEMBERED: Duration = Duration::from_hours(24);
/// How many are, at most: the one that mattered longest ago goes.
const KIN_COUNT_MAX: usize = 1_024;
/// Longest name or version of a library that tells clients apart, in bytes.
const WORD_BYTES_MAX: usize = 128;

/// What the connections of a client have in common that has named its library (`CLIENT SETINFO`);
/// others have no kin: people, and tools that talk to one node.
pub(crate) fn kin(host: IpAddr, library: &[u8], version: &[u8]) -> Option<Kin> {
    let is_named = !library.is_empty();
    let is_short = library.len() <= WORD_BYTES_MAX && version.len() <= WORD_BYTES_MAX;
    (is_named && is_short).then(|| Kin {
        host: host.to_canonical(),
        library: library.to_vec(),
        version: version.to_vec(),
    })
}

/// Those who have asked a node which slots lie where.
#[derive(Debug, Default)]
pub(crate) struct KnownKin {
    known: BTreeMap<Kin, Instant>,
}

impl KnownKin {
    pub(crate) fn note(&mut self, now: Instant, kin: Kin) {
        self.known.insert(kin, now);
        if self.known.len() > KIN_COUNT_MAX {
            let oldest = self.known.iter().min_by_key(|(_, at)| **at);
            let oldest = oldest.expect("there are many").0.clone();
            self.known.remove(&oldest);
        }
    }

    /// Whether one of them has asked; it matters.
    pub(crate) fn knows(&mut self, now: Instant, kin: &Kin) -> bool {
        let Some(at) = self.known.get_mut(kin) else { return false };
        if *at + REMEMBERED < now {
            self.known.remove(kin);
            return false;
        }
        *at = now;
        true
    }
}

fn known(core: &mut Core) -> Option<(Instant, &mut KnownKin)> {
    let now = core.world.instant();
    Some((now, &mut core.world.cluster.as_mut()?.control.as_mut()?.kin))
}

impl Handle {
    /// Remembers that a client has asked which slots lie where.
    pub(crate) async fn note_kin(&self, kin: Kin) -> Result<(), Error> {
        let note = |core: &mut Core| {
            if let Some((now, known)) = known(core) {
                known.note(now, kin);
            }
        };
        self.on_core(CONTROL_CORE, note).await
    }

    /// Whether such a client has asked this node.
    pub(crate) async fn knows_kin(&self, kin: Kin) -> Result<bool, Error> {
        let knows =
            move |core: &mut Core| known(core).is_some_and(|(now, known)| known.knows(now, &kin));
        self.on_core(CONTROL_CORE, knows).await
    }

    /// Whether such a client has asked any member that answers.
    pub(crate) async fn has_asked(&self, kin: &Kin) -> Result<bool, Error> {
        if self.knows_kin(kin.clone()).await? {
            return Ok(true);
        }
        let told = self.told().await?;
        for node in told.alive.iter().filter(|node| Some(**node) != told.own) {
            // Who does not answer does not know.
            if self.call(*node, Call::KnowsKin(kin.clone())).await == Ok(CallAnswer::Is(true)) {
                self.note_kin(kin.clone()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(version: usize) -> Kin {
        let host = IpAddr::from([127, 0, 0, 1]);
        kin(host, b"library", version.to_string().as_bytes()).expect("it has a name")
    }

    #[test]
    fn who_has_asked_is_known_for_a_day_from_the_last_time_it_mattered() {
        let (mut known, hour) = (KnownKin::default(), Duration::from_hours(1));
        known.note(Instant::ZERO, of(1));
        assert!(!known.knows(Instant::ZERO, &of(2)));
        assert!(known.knows(Instant::ZERO + hour * 20, &of(1)));
        assert!(known.knows(Instant::ZERO + hour * 40, &of(1)));
        assert!(!known.knows(Instant::ZERO + hour * 65, &of(1)));
        assert!(!known.knows(Instant::ZERO + hour * 65, &of(1)));
    }

    #[test]
    fn those_who_are_known_are_bounded() {
        let mut known = KnownKin::default();
        let at = |number: usize| Instant::ZERO + Duration::from_millis(number as u64);
        (0..=KIN_COUNT_MAX).for_each(|number| known.note(at(number), of(number)));
        assert_eq!(known.known.len(), KIN_COUNT_MAX);
        assert!(!known.knows(at(KIN_COUNT_MAX), &of(0)));
        assert!(known.knows(at(KIN_COUNT_MAX), &of(1)));
    }

    #[test]
    fn who_names_no_library_has_no_kin() {
        let host = "::ffff:127.0.0.1".parse().expect("an address");
        assert_eq!(kin(host, b"", b"1"), None);
        assert_eq!(kin(host, &[b'x'; WORD_BYTES_MAX + 1], b""), None);
        assert_eq!(kin(host, b"library", b"7"), Some(of(7)));
    }
}
