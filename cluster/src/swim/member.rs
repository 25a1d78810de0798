//! What is said of a member, and which of two sayings is newer.
//!
//! # Invariants
//!
//! - What is said of one member is totally ordered: by run, address, incarnation, state. Everybody
//!   keeps the largest, so everybody ends with the same, whatever the order of arrival.
//! - Only the member itself makes a larger run or incarnation; others only make the state worse.

use std::net::SocketAddr;

use crate::model::MemberId;

/// What a member is believed to be, from the best to the worst.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum State {
    /// It answers.
    Alive,
    /// It did not answer somebody, and has not refuted that yet.
    Suspect,
    /// It was suspect for too long.
    Dead,
    /// It said that it goes.
    Left,
}

impl State {
    /// Whether the member takes part: alive, or only suspected.
    #[must_use]
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// One member, as this node knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub id: MemberId,
    /// Where it is reached.
    pub address: SocketAddr,
    /// What it is believed to be.
    pub state: State,
    /// Raised by the member itself, to refute.
    pub incarnation: u32,
    /// The process: wall-clock milliseconds at its start.
    pub run: u64,
}

impl Member {
    /// The place in the order of all that is said of this member.
    pub(super) const fn rank(&self) -> Rank {
        Rank { process: (self.run, self.address), incarnation: self.incarnation, state: self.state }
    }
}

/// See [`Member::rank`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Two processes of one node differ in this.
    pub(super) process: (u64, SocketAddr),
    pub(super) incarnation: u32,
    pub(super) state: State,
}

impl Rank {
    /// The saying that has this rank.
    pub(super) const fn of(self, id: MemberId) -> Member {
        let (run, address) = self.process;
        Member { id, address, state: self.state, incarnation: self.incarnation, run }
    }
}

/// A member, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) member: Member,
    /// Who suspects the member; travels with suspicions only.
    pub(super) by: MemberId,
}

impl Claim {
    /// A claim of the member itself, or one whose origin does not matter.
    pub(super) const fn plain(member: Member) -> Self {
        Self { member, by: member.id }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_run_beats_a_higher_incarnation_and_that_a_worse_state() {
        let address = "10.0.0.1:7000".parse().unwrap();
        let member =
            Member { id: MemberId(1), address, state: State::Alive, incarnation: 0, run: 5 };
        let restarted = Member { run: 6, ..member };
        let refuted = Member { incarnation: 1, ..member };
        let left = Member { state: State::Left, ..member };
        assert!(restarted.rank() > refuted.rank());
        assert!(refuted.rank() > left.rank());
        assert!(left.rank() > member.rank());
        assert_eq!(left.rank().of(member.id), left);
    }
}
