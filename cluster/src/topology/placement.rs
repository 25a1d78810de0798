//! Which members keep a slot's copies: consistent hashing with virtual nodes.
//!
//! Each member stands on the ring of tokens in as many places as its weight says. The copies of a
//! slot are kept by the first distinct members found from its first token on, in the direction of
//! growing tokens; members of zones that have none yet come first (Karger et al., 1997; DeCandia et
//! al., "Dynamo", 2007, section 6.2).
//!
//! # Invariants
//!
//! - It follows from the topology alone, so that it is the same on every node.
//! - The members of a token are distinct, and as many as there are to be or as there are.

use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64;

use super::{Epoch, Topology};
use crate::model::NodeId;
use crate::token::{SLOT_COUNT, Slot, Token, TokenKey};

/// The members that keep a slot's copies, the preferred one first.
pub type Replicas = SmallVec<[NodeId; 5]>;

/// The ring of one topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    epoch: Epoch,
    token_key: TokenKey,
    /// The last token of each run of slots that have the same members; the last run ends with the
    /// last token.
    ends: Vec<Token>,
    /// The members of each run, `width` of them.
    members: Vec<NodeId>,
    width: usize,
}

impl Placement {
    /// The ring that follows from `topology`.
    #[must_use]
    pub fn new(topology: &Topology) -> Self {
        let mut places: Vec<(Token, usize)> = Vec::new();
        for (index, member) in topology.members.iter().enumerate() {
            for number in 0..u64::from(member.weight) {
                let mut seed = [0; 16];
                seed[..8].copy_from_slice(&member.id.to_le_bytes());
                seed[8..].copy_from_slice(&number.to_le_bytes());
                places.push((Token(xxh3_64(&seed)), index));
            }
        }
        places.sort_unstable();
        places.dedup_by_key(|place| place.0);
        let width = usize::from(topology.replica_count).min(topology.members.len());
        let (mut ends, mut members) = (Vec::new(), Vec::new());
        let mut last: Option<(usize, Replicas)> = None;
        for slot in Slot::all() {
            let start = places.partition_point(|place| place.0 < slot.first()) % places.len();
            if last.as_ref().is_none_or(|(before, _)| *before != start) {
                let chosen = choose(topology, &places, start, width);
                let is_same = last.as_ref().is_some_and(|(_, before)| *before == chosen);
                if !is_same {
                    members.extend_from_slice(&chosen);
                    ends.push(slot.last());
                }
                last = Some((start, chosen));
            }
            *ends.last_mut().expect("the first slot begins a run") = slot.last();
        }
        assert_eq!(ends.last(), Some(&Token::MAX));
        let token_key = TokenKey::new(topology.token_secret);
        Self { epoch: topology.epoch(), token_key, ends, members, width }
    }

    /// What tokens are made with.
    #[must_use]
    pub const fn token_key(&self) -> &TokenKey {
        &self.token_key
    }

    /// The token of a key.
    #[must_use]
    #[inline]
    pub fn token(&self, key: &[u8]) -> Token {
        self.token_key.token(key)
    }

    /// The topology it follows from.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Who keeps copies of a token, the preferred one first.
    #[must_use]
    #[inline]
    pub fn replicas(&self, token: Token) -> &[NodeId] {
        &self.members[self.run_of(token) * self.width..][..self.width]
    }

    fn run_of(&self, token: Token) -> usize {
        self.ends.partition_point(|end| *end < token)
    }

    /// The last token, from `token` on, whose copies are kept by the same members in the same order.
    #[must_use]
    pub fn run_end(&self, token: Token) -> Token {
        self.ends[self.run_of(token)]
    }

    /// The part of all slots, 0 to 1, of which `node` keeps a copy.
    #[must_use]
    pub fn share(&self, node: NodeId) -> f64 {
        let mut slot_count = 0;
        let mut first = 0;
        for (end, replicas) in self.ends.iter().zip(self.members.chunks(self.width)) {
            let next = u32::from(end.slot().number()) + 1;
            slot_count += if replicas.contains(&node) { next - first } else { 0 };
            first = next;
        }
        f64::from(slot_count) / f64::from(SLOT_COUNT)
    }
}

/// The members of slots whose first place on the ring is `places[start]`.
fn choose(topology: &Topology, places: &[(Token, usize)], start: usize, width: usize) -> Replicas {
    let mut order: SmallVec<[usize; 8]> = SmallVec::new();
    let mut chosen: SmallVec<[usize; 5]> = SmallVec::new();
    let zone = |index: usize| &topology.members[index].zone;
    for step in 0..places.len() {
        let (_, index) = places[(start + step) % places.len()];
        if order.contains(&index) {
            continue;
        }
        order.push(index);
        // A zone without a name is nobody else's.
        let is_new_zone = chosen.iter().all(|it| zone(*it).is_empty() || zone(*it) != zone(index));
        if is_new_zone {
            chosen.push(index);
        }
        if chosen.len() == width || order.len() == topology.members.len() {
            break;
        }
    }
    for index in order {
        if chosen.len() == width {
            break;
        }
        if !chosen.contains(&index) {
            chosen.push(index);
        }
    }
    assert_eq!(chosen.len(), width);
    chosen.into_iter().map(|index| topology.members[index].node()).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::{member, topology};
    use super::super::{Change, Topology};
    use super::*;

    proptest! {
        #[test]
        fn copies_are_kept_by_distinct_members_as_many_as_can_be(
            count in 1_u16..9, replica_count in 1_u8..6, token: u64
        ) {
            let topology = topology(count, replica_count);
            let placement = Placement::new(&topology);
            let replicas = placement.replicas(Token(token));
            prop_assert_eq!(replicas.len(), usize::from(replica_count).min(usize::from(count)));
            let mut distinct = replicas.to_vec();
            distinct.sort_unstable();
            distinct.dedup();
            prop_assert_eq!(distinct.len(), replicas.len());
            let end = placement.run_end(Token(token));
            prop_assert!(end.0 >= token);
            prop_assert_eq!(placement.replicas(end), replicas);
            if let Some(next) = end.next() {
                prop_assert_ne!(placement.replicas(next), replicas);
            }
        }
    }

    #[test]
    fn zones_come_before_neighbours() {
        let mut topology = Topology::first(7, [7; 16], 3, zoned(1, "a"));
        for (number, zone) in [(2, "a"), (3, "a"), (4, "b"), (5, "c")] {
            topology = topology.after(&Change::Join(zoned(number, zone))).unwrap().unwrap();
        }
        let placement = Placement::new(&topology);
        for token in (0..1_000_u64).map(|it| Token(it.wrapping_mul(0x9e37_79b9_7f4a_7c15))) {
            let mut zones: Vec<&str> = placement
                .replicas(token)
                .iter()
                .map(|node| topology.by_node(*node).unwrap().zone.as_str())
                .collect();
            zones.sort_unstable();
            assert_eq!(zones, ["a", "b", "c"]);
        }
    }

    fn zoned(number: u16, zone: &str) -> super::super::Member {
        super::super::Member { zone: zone.to_owned(), ..member(number) }
    }

    #[test]
    fn shares_add_up_and_are_even() {
        let placement = Placement::new(&topology(6, 3));
        let shares: Vec<f64> = (1..=6).map(|node| placement.share(NodeId(node))).collect();
        assert!((shares.iter().sum::<f64>() - 3.0).abs() < 1e-6, "{shares:?}");
        assert!(shares.iter().all(|share| (0.35..0.65).contains(share)), "{shares:?}");
        let alone = Placement::new(&topology(1, 3));
        assert!((alone.share(NodeId(1)) - 1.0).abs() < 1e-6);
    }

    #[test]
    fn a_newcomer_takes_its_share_and_moves_nothing_else() {
        let (before, after) = (topology(5, 1), topology(6, 1));
        let (before, after) = (Placement::new(&before), Placement::new(&after));
        let tokens = (0..10_000_u64).map(|it| Token(it.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        let mut moved = 0;
        for token in tokens {
            if before.replicas(token) != after.replicas(token) {
                assert_eq!(after.replicas(token), [NodeId(6)]);
                moved += 1;
            }
        }
        assert!((1_000..2_500).contains(&moved), "{moved}");
    }
}
