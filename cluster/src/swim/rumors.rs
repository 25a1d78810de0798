//! News that rides on the packets: at most one item a member, the least sent first.
//!
//! # Invariants
//!
//! - An item leaves after it was sent `sent_max` times, or when newer news of its member comes.
//! - Of items sent equally often the newest goes first, so that a flood does not hold up what is
//!   fresh.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::member::Claim;
use crate::model::MemberId;

type Place = (u32, Reverse<u64>);

#[derive(Debug, Default)]
pub(super) struct Rumors {
    claims: BTreeMap<MemberId, (Place, Claim)>,
    order: BTreeSet<(Place, MemberId)>,
    added_count: u64,
}

impl Rumors {
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.claims.len(), self.order.len());
        self.claims.len()
    }

    /// Spreads a claim, in place of what was said of this member before.
    pub(super) fn add(&mut self, claim: Claim) {
        let id = claim.member.id;
        self.remove(id);
        self.added_count += 1;
        let place = (0, Reverse(self.added_count));
        self.claims.insert(id, (place, claim));
        let is_new = self.order.insert((place, id));
        assert!(is_new, "the place is free");
    }

    pub(super) fn remove(&mut self, id: MemberId) {
        if let Some((place, _)) = self.claims.remove(&id) {
            let was_there = self.order.remove(&(place, id));
            assert!(was_there, "both sides know every item");
        }
    }

    pub(super) fn clear(&mut self) {
        self.claims.clear();
        self.order.clear();
    }

    /// Hands items to `take` until it refuses one, and counts those taken as sent.
    pub(super) fn take(&mut self, sent_max: u32, mut take: impl FnMut(&Claim) -> bool) {
        assert!(sent_max > 0);
        let mut taken = Vec::new();
        for &(place, id) in &self.order {
            let (_, claim) = self.claims.get(&id).expect("both sides know every item");
            if !take(claim) {
                break;
            }
            taken.push((place, id));
        }
        for (place, id) in taken {
            self.order.remove(&(place, id));
            let sent_count = place.0 + 1;
            if sent_count >= sent_max {
                self.claims.remove(&id);
                continue;
            }
            let place = (sent_count, place.1);
            self.claims.get_mut(&id).expect("both sides know every item").0 = place;
            self.order.insert((place, id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::member::{Member, State};
    use super::*;

    fn claim(id: u64, incarnation: u32) -> Claim {
        let address = "10.0.0.1:7000".parse().unwrap();
        let member = Member { id: MemberId(id), address, state: State::Alive, incarnation, run: 1 };
        Claim::plain(member)
    }

    fn taken(rumors: &mut Rumors, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        rumors.take(2, |it| {
            let fits = ids.len() < count;
            if fits {
                ids.push(it.member.id.0);
            }
            fits
        });
        ids
    }

    #[test]
    fn the_least_sent_goes_first_and_leaves_when_sent_often_enough() {
        let mut rumors = Rumors::default();
        for id in 1..=3 {
            rumors.add(claim(id, 0));
        }
        assert_eq!(taken(&mut rumors, 2), [3, 2]);
        assert_eq!(taken(&mut rumors, 2), [1, 3]);
        assert_eq!(taken(&mut rumors, 9), [2, 1]);
        assert_eq!(rumors.len(), 0);
    }

    #[test]
    fn newer_news_of_a_member_begins_anew() {
        let mut rumors = Rumors::default();
        rumors.add(claim(1, 0));
        assert_eq!(taken(&mut rumors, 9), [1]);
        rumors.add(claim(1, 1));
        assert_eq!(rumors.len(), 1);
        assert_eq!(taken(&mut rumors, 9), [1]);
        assert_eq!(taken(&mut rumors, 9), [1]);
        assert_eq!(rumors.len(), 0);
    }
}
