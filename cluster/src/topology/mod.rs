//! The topology: who is a member of the cluster, with which weight, and how many copies are kept.
//!
//! It is a value with an [`Epoch`]. Members agree on each epoch's value before anybody acts on it
//! ([`agreement`]); what follows from a value is computed the same on every node ([`placement`]).
//! Who *answers* at the moment is another question, and SWIM's.

pub mod agreement;
pub mod endpoint;
pub mod placement;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use rkyv::rancor;
use rkyv::util::AlignedVec;
use rkyv::{Archive, Deserialize, Serialize};

use self::endpoint::Endpoint;
use crate::model::{MemberId, NodeId, Timestamp, Version};

/// The number of a topology; each change makes the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// More changes than this are not made. It leaves room to count on.
pub(crate) const EPOCH_MAX: u64 = u64::MAX / 2;

/// Nothing was removed up to later than this, in the year 6429: clocks go above it.
const CLEARED_TIMESTAMP_MAX: u64 = u64::MAX / 2;

/// Members that vote on changes, at most: those with the lowest numbers.
pub const VOTER_COUNT_MAX: usize = 7;

/// Members, at most.
pub const MEMBER_COUNT_MAX: usize = 1_000;

/// Longest name of a node or a zone, in bytes.
pub const NAME_BYTES_MAX: usize = 64;

/// A node's place in the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedMember, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Member {
    /// Its identity.
    pub id: u64,
    /// Its number, which is never given to another.
    pub node: u16,
    /// Its public key (Ed25519).
    pub key: [u8; 32],
    /// What people call it.
    pub name: String,
    /// Where other nodes reach it.
    pub address: SocketAddr,
    /// Where clients reach it, as it announces; `None` for one that has no clients.
    pub clients: Option<Endpoint>,
    /// Replicas are kept in different zones where there are as many.
    pub zone: String,
    /// Its virtual nodes.
    pub weight: u16,
    /// Its shards.
    pub shard_count: u16,
    /// Tells its store from one that replaced it, which is empty.
    pub store: u64,
}

impl Member {
    /// Its identity.
    #[must_use]
    pub const fn id(&self) -> MemberId {
        MemberId(self.id)
    }

    /// Its number.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        NodeId(self.node)
    }
}

/// Who the members are.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedTopology, attr(allow(missing_docs, reason = "as in what it archives")))]
pub struct Topology {
    /// Its number.
    pub epoch: u64,
    /// Drawn by the first node: two clusters of one name are not one.
    pub cluster: u64,
    /// What tokens are made with, the same on all members: the first node's.
    pub token_secret: [u8; 16],
    /// Copies of each key.
    pub replica_count: u8,
    /// The next newcomer's number.
    pub next_node: u16,
    /// In the order of their numbers.
    pub members: Vec<Member>,
    /// Everything up to this timestamp was removed (`FLUSHALL`).
    pub cleared_timestamp: u64,
    /// The node of that version.
    pub cleared_node: u16,
}

/// What a member asks the others to agree on.
#[derive(Clone, Debug, PartialEq, Eq, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedChange, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Change {
    /// A node joins, or comes back: at another address, with another weight, or with an empty
    /// store. Its number is not yet given.
    Join(Member),
    /// Everything up to this timestamp and node goes.
    Clear(u64, u16),
}

/// Why a change cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Archive, Serialize, Deserialize)]
#[rkyv(archived = ArchivedRefusal, attr(allow(missing_docs, reason = "as in what it archives")))]
pub enum Refusal {
    /// Moving what members hold to a newcomer is not possible.
    #[error("the cluster holds data: a node can join only while it is empty")]
    HoldsData,
    /// So many replicas of some slot have lost their data that nobody left need have a key which was
    /// acknowledged.
    #[error(
        "so many members have lost their data that nobody knows what else they held: FLUSHALL says that \
         all of it is gone, and takes them in"
    )]
    LostData,
    /// The newcomer holds keys that the cluster does not have.
    #[error(
        "the newcomer holds keys of its own, which would be on one node only: it can join with an \
         empty data directory"
    )]
    HoldsOwnData,
    /// The node would form a second cluster of the name.
    #[error(
        "a cluster of this name is alive, and this node does not belong to it: no second one is formed. \
         Give the node its data directory back, or the address of a member to join"
    )]
    ClusterLives,
    /// There are as many members as there may be.
    #[error("the cluster has as many members as it may have")]
    Full,
    /// Another node has the address.
    #[error(
        "a member of another identity has this address: give the node that member's data directory \
         back, or another address"
    )]
    AddressTaken,
    /// What the newcomer says of itself is not valid.
    #[error("the newcomer's description is not valid")]
    Invalid,
    /// Every member has to answer, and some do not.
    #[error("not all members answer, and all must be known to be empty")]
    NotAllAnswer,
    /// Another node was faster; try again.
    #[error("another change is under way")]
    Busy,
    /// Too few members answer.
    #[error("no majority of the members answers")]
    NoMajority,
    /// The newcomer belongs to another cluster.
    #[error("the node belongs to another cluster")]
    OtherCluster,
}

/// The bytes are not a topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a topology")]
pub struct DecodeError;

impl Topology {
    /// A cluster of one. The member gets number 1: 0 is that of a node without a cluster.
    #[must_use]
    pub fn first(
        cluster: u64,
        token_secret: [u8; 16],
        replica_count: u8,
        mut member: Member,
    ) -> Self {
        assert!(replica_count > 0);
        member.node = 1;
        Self {
            epoch: 1,
            cluster,
            token_secret,
            replica_count,
            next_node: 2,
            members: vec![member],
            cleared_timestamp: 0,
            cleared_node: 0,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        Epoch(self.epoch)
    }

    /// Everything up to this version was removed.
    #[must_use]
    pub const fn cleared(&self) -> Version {
        Version { timestamp: Timestamp(self.cleared_timestamp), node: NodeId(self.cleared_node) }
    }

    /// The member of that identity.
    #[must_use]
    pub fn member(&self, id: MemberId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == id.0)
    }

    /// The member of that number.
    #[must_use]
    pub fn by_node(&self, node: NodeId) -> Option<&Member> {
        let at = self.members.binary_search_by_key(&node.0, |member| member.node).ok()?;
        Some(&self.members[at])
    }

    /// Those who vote on the next change.
    pub fn voters(&self) -> impl Iterator<Item = NodeId> {
        self.members.iter().take(VOTER_COUNT_MAX).map(Member::node)
    }

    /// The topology after a change; `None` when it changes nothing.
    ///
    /// # Errors
    ///
    /// [`Refusal`] when it is not possible.
    pub fn after(&self, change: &Change) -> Result<Option<Self>, Refusal> {
        let mut next = self.clone();
        next.epoch += 1;
        if next.epoch > EPOCH_MAX {
            return Err(Refusal::Full);
        }
        match change {
            Change::Clear(timestamp, _) if *timestamp > CLEARED_TIMESTAMP_MAX => {
                return Err(Refusal::Invalid);
            }
            Change::Clear(timestamp, node) => {
                let version = Version { timestamp: Timestamp(*timestamp), node: NodeId(*node) };
                if version <= self.cleared() {
                    return Ok(None);
                }
                (next.cleared_timestamp, next.cleared_node) = (*timestamp, *node);
            }
            Change::Join(newcomer) => {
                if !is_valid(newcomer) {
                    return Err(Refusal::Invalid);
                }
                let address_taken = |it: &Member| it.address == newcomer.address;
                if self.members.iter().any(|it| it.id != newcomer.id && address_taken(it)) {
                    return Err(Refusal::AddressTaken);
                }
                match next.members.iter_mut().find(|it| it.id == newcomer.id) {
                    Some(known) => {
                        let node = known.node;
                        *known = newcomer.clone();
                        known.node = node;
                    }
                    None if self.members.len() >= MEMBER_COUNT_MAX => return Err(Refusal::Full),
                    None => {
                        let member = Member { node: self.next_node, ..newcomer.clone() };
                        next.next_node = self.next_node.checked_add(1).ok_or(Refusal::Full)?;
                        next.members.push(member);
                    }
                }
                if next.members == self.members {
                    return Ok(None);
                }
            }
        }
        assert!(next.members.is_sorted_by_key(|member| member.node));
        Ok(Some(next))
    }

    /// Whether it can be what was agreed on after `base`.
    pub(crate) fn follows(&self, base: &Self) -> bool {
        let what_stays = |it: &Self| (it.cluster, it.token_secret, it.replica_count);
        self.epoch == base.epoch + 1 && what_stays(self) == what_stays(base)
    }

    /// Whether keys have other replicas, or replicas other stores, than in `next`. That loses what
    /// the cluster holds, so it must hold nothing.
    #[must_use]
    pub fn moves_data(&self, next: &Self) -> bool {
        let what_places = |it: &Member| (it.id, it.node, it.zone.clone(), it.weight, it.store);
        self.replica_count != next.replica_count
            || self.members.len() != next.members.len()
            || self.members.iter().map(what_places).ne(next.members.iter().map(what_places))
    }

    /// Its bytes, for a file or a message.
    #[must_use]
    pub fn encode(&self) -> AlignedVec {
        rkyv::to_bytes::<rancor::Error>(self).expect("writing into memory does not fail")
    }

    /// Reads what [`Topology::encode`] wrote, aligned or not.
    ///
    /// # Errors
    ///
    /// [`DecodeError`] on anything else.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut aligned: AlignedVec = AlignedVec::with_capacity(bytes.len());
        aligned.extend_from_slice(bytes);
        let topology: Self =
            rkyv::from_bytes::<_, rancor::Error>(&aligned).map_err(|_| DecodeError)?;
        if topology.is_valid() { Ok(topology) } else { Err(DecodeError) }
    }

    /// Whether it can be one that [`Topology::after`] has made.
    pub(crate) fn is_valid(&self) -> bool {
        self.epoch > 0
            && self.epoch <= EPOCH_MAX
            && self.cleared_timestamp <= CLEARED_TIMESTAMP_MAX
            && self.replica_count > 0
            && !self.members.is_empty()
            && self.members.len() <= MEMBER_COUNT_MAX
            && self.members.iter().all(|member| is_valid(member) && member.node > 0)
            && self.members.windows(2).all(|pair| pair[0].node < pair[1].node)
            && self.members.last().is_some_and(|member| member.node < self.next_node)
            && are_distinct(self.members.iter().map(|member| member.id))
            && are_distinct(self.members.iter().map(|member| member.address))
    }
}

fn are_distinct<T: Ord>(items: impl ExactSizeIterator<Item = T>) -> bool {
    let count = items.len();
    items.collect::<BTreeSet<T>>().len() == count
}

/// Whether others can connect there.
fn is_reachable(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_unspecified() && address.port() != 0
}

fn is_valid(member: &Member) -> bool {
    member.weight > 0
        && member.weight <= 4_096
        && member.shard_count > 0
        && member.name.len() <= NAME_BYTES_MAX
        && member.zone.len() <= NAME_BYTES_MAX
        && member.clients.as_ref().is_none_or(Endpoint::is_valid)
        && is_reachable(member.address)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member that says of itself what its number allows.
    pub(crate) fn member(number: u16) -> Member {
        Member {
            id: u64::from(number) * 1_000_003,
            node: 0,
            key: [0; 32],
            name: format!("n{number}"),
            address: SocketAddr::from(([127, 0, 0, 1], 7_000 + number)),
            clients: None,
            zone: String::new(),
            weight: 128,
            shard_count: 1,
            store: u64::from(number),
        }
    }

    /// A topology of so many members.
    pub(crate) fn topology(count: u16, replica_count: u8) -> Topology {
        let mut topology = Topology::first(7, [7; 16], replica_count, member(1));
        for number in 2..=count {
            topology = topology.after(&Change::Join(member(number))).unwrap().unwrap();
        }
        topology
    }

    #[test]
    fn a_newcomer_gets_a_number_that_nobody_had() {
        let topology = topology(3, 3);
        assert_eq!(topology.epoch(), Epoch(3));
        let numbers: Vec<u16> = topology.members.iter().map(|member| member.node).collect();
        assert_eq!(numbers, [1, 2, 3]);
        assert_eq!(topology.next_node, 4);
    }

    #[test]
    fn who_comes_back_unchanged_changes_nothing_and_elsewhere_moves_no_data() {
        let before = topology(3, 3);
        let mut back = member(2);
        assert_eq!(before.after(&Change::Join(back.clone())), Ok(None));
        back.address = SocketAddr::from(([127, 0, 0, 1], 9_999));
        let after = before.after(&Change::Join(back.clone())).unwrap().unwrap();
        assert!(!before.moves_data(&after));
        assert_eq!(after.members[1].node, 2);
        back.store = 99;
        let after = before.after(&Change::Join(back)).unwrap().unwrap();
        assert!(before.moves_data(&after));
    }

    #[test]
    fn an_address_belongs_to_one_member() {
        let mut thief = member(4);
        thief.address = member(1).address;
        assert_eq!(topology(3, 3).after(&Change::Join(thief)), Err(Refusal::AddressTaken));
    }

    /// A member whose clock has to be above the last timestamp has none to give.
    #[test]
    fn what_leaves_no_room_above_it_is_no_topology() {
        let valid = topology(3, 3);
        let epoch = |epoch| Topology { epoch, ..valid.clone() };
        let cleared = |cleared_timestamp| Topology { cleared_timestamp, ..valid.clone() };
        for (topology, is_valid) in [
            (epoch(EPOCH_MAX), true),
            (epoch(EPOCH_MAX + 1), false),
            (cleared(CLEARED_TIMESTAMP_MAX), true),
            (cleared(u64::MAX), false),
        ] {
            assert_eq!(Topology::decode(&topology.encode()).is_ok(), is_valid);
        }
        assert_eq!(valid.after(&Change::Clear(u64::MAX, 1)), Err(Refusal::Invalid));
        assert_eq!(epoch(EPOCH_MAX).after(&Change::Clear(1, 1)), Err(Refusal::Full));
    }

    /// What a member says of itself is told to clients, in lines.
    #[test]
    fn a_member_that_nobody_can_reach_is_not_let_in() {
        let endpoint = |host: &str, port| Some(Endpoint { host: host.to_owned(), port });
        let elsewhere = |address: &str| address.parse().unwrap();
        for (clients, address, is_valid) in [
            (endpoint("node-4.example", 7_379), "10.0.0.4:7380", true),
            (None, "[2001:db8::1]:7380", true),
            (endpoint("", 7_379), "10.0.0.4:7380", false),
            (endpoint("0.0.0.0", 7_379), "10.0.0.4:7380", false),
            (endpoint("::", 7_379), "10.0.0.4:7380", false),
            (endpoint("node-4\r\n", 7_379), "10.0.0.4:7380", false),
            (endpoint("node-4", 0), "10.0.0.4:7380", false),
            (None, "0.0.0.0:7380", false),
            (None, "10.0.0.4:0", false),
        ] {
            let newcomer = Member { clients, address: elsewhere(address), ..member(4) };
            let after = topology(3, 3).after(&Change::Join(newcomer.clone()));
            assert_eq!(after != Err(Refusal::Invalid), is_valid, "{newcomer:?}");
        }
    }

    /// Each has its own places on the ring: with two of one identity there are fewer copies than members.
    #[test]
    fn members_are_distinct_by_identity_number_and_address() {
        let valid = topology(3, 3);
        let changes: [fn(&mut Member); 3] =
            [|it| it.id = member(1).id, |it| it.node = 1, |it| it.address = member(1).address];
        for change in changes {
            let mut double = valid.clone();
            change(&mut double.members[2]);
            assert_eq!(Topology::decode(&double.encode()), Err(DecodeError));
        }
    }

    #[test]
    fn its_bytes_come_back_and_no_others_are_taken() {
        let topology = topology(5, 3);
        let bytes = topology.encode();
        assert_eq!(Topology::decode(&bytes), Ok(topology));
        for len in 0..bytes.len() {
            assert!(Topology::decode(&bytes[..len]).is_err(), "{len}");
        }
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x55;
            // Whatever it says is read without a panic.
            let _ = Topology::decode(&damaged);
        }
    }
}
