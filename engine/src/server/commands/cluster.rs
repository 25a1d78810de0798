//! What tools ask of a cluster: CLUSTER INFO, NODES, MYID, SHARDS, SLOTS, what slots hold, and GRIDKV
//! CONSISTENCY.
//!
//! Every node serves every key, so it does not matter whom slots are said to belong to. Tools that
//! insist on that are given an even share a node, of those that answer: it spreads their requests.
//!
//! What a slot holds is asked of the node itself: its own live copies, whether it is alone or not.

use std::net::SocketAddr;

use gridkv_cluster::replication::Level;
use gridkv_cluster::{Slot, Token};
use gridkv_net::resp::Reply;

use super::node::Task;
use super::strings::len_integer;
use super::{Failure, SessionCall, TaskCall, integer, is_word, text};
use crate::cluster::status::{MemberStatus, Status};
use crate::core::job::Tokens;
use crate::core::shards::Shards;
use crate::error::Error;
use crate::handle::Handle;

/// Slots of Redis' cluster.
const SLOT_COUNT: usize = 16_384;

/// Places in the index looked at in one step of a walk over a slot's keys: one to two hundred keys. At the
/// end of a slot, what is left of a step is spent on the keys behind it.
const STEP_PLACES: usize = 256;

/// What a key takes in a reply, besides itself.
const KEY_OVERHEAD_BYTES: usize = 16;

/// Keys are written into pieces of so many bytes, so that no step copies or frees all of them.
const PIECE_BYTES: usize = 256 << 10;

/// The state of the cluster, for a node that belongs to one.
async fn status(call: &TaskCall) -> Result<Status, Failure> {
    if !call.handle.is_replicated() {
        return Err(Failure::text("ERR This instance has cluster support disabled"));
    }
    Ok(Status::collect(&call.handle).await?)
}

/// Forty hexadecimal digits, as tools expect.
fn long_id(member: &MemberStatus) -> String {
    format!("{:0>40}", member.identity)
}

/// Where clients reach a member: what it says, else its own address.
fn client_address(member: &MemberStatus) -> (String, u16) {
    let address = member.clients.as_ref().unwrap_or(&member.address);
    let parsed = address.parse::<SocketAddr>().ok();
    parsed.map_or_else(|| (address.clone(), 0), |it| (it.ip().to_string(), it.port()))
}

/// The members that answer, each with its slots.
fn with_slots(status: &Status) -> Vec<(&MemberStatus, std::ops::RangeInclusive<usize>)> {
    let live = |it: &&MemberStatus| matches!(it.state, "alive" | "suspect") && it.node != 0;
    let members: Vec<&MemberStatus> = status.members.iter().filter(live).collect();
    let count = members.len().max(1);
    let first = |index: usize| index * SLOT_COUNT / count;
    let slots = |(index, member)| (member, first(index)..=first(index + 1) - 1);
    members.into_iter().enumerate().map(slots).collect()
}

/// `CLUSTER INFO`
pub(super) fn info(call: TaskCall) -> Task {
    Box::pin(async move {
        let status = status(&call).await?;
        let members = status.members.iter().filter(|it| it.node != 0).count();
        let needed = usize::from(status.replicas) / 2 + 1;
        let is_well = status.standing == "serving" && status.alive_count() >= needed;
        let state = if is_well { "ok" } else { "fail" };
        let lines = [
            "cluster_enabled:1".to_owned(),
            format!("cluster_state:{state}"),
            format!("cluster_slots_assigned:{SLOT_COUNT}"),
            format!("cluster_slots_ok:{}", if is_well { SLOT_COUNT } else { 0 }),
            "cluster_slots_pfail:0".to_owned(),
            format!("cluster_slots_fail:{}", if is_well { 0 } else { SLOT_COUNT }),
            format!("cluster_known_nodes:{members}"),
            format!("cluster_size:{members}"),
            format!("cluster_current_epoch:{}", status.epoch),
            format!("cluster_my_epoch:{}", status.epoch),
            format!("gridkv_replicas:{}", status.replicas),
            format!("gridkv_standing:{}", status.standing),
        ];
        call.reply(|reply| reply.bulk((lines.join("\r\n") + "\r\n").as_bytes()));
        Ok(())
    })
}

/// `CLUSTER MYID`
pub(super) fn my_id(call: TaskCall) -> Task {
    Box::pin(async move {
        let status = status(&call).await?;
        let own = status.members.iter().find(|member| member.is_self).map(long_id);
        call.reply(|reply| reply.bulk(own.unwrap_or_default().as_bytes()));
        Ok(())
    })
}

/// `CLUSTER NODES`
pub(super) fn nodes(call: TaskCall) -> Task {
    Box::pin(async move {
        let status = status(&call).await?;
        let slots = with_slots(&status);
        let mut lines = String::new();
        for member in status.members.iter().filter(|it| it.node != 0) {
            let (host, port) = client_address(member);
            let bus = member.address.rsplit(':').next().unwrap_or_default();
            let own = if member.is_self { "myself,master" } else { "master" };
            let (flags, link) = match member.state {
                "alive" => (own.to_owned(), "connected"),
                "suspect" => (format!("{own},fail?"), "connected"),
                _ => (format!("{own},fail"), "disconnected"),
            };
            let slots = slots.iter().find(|(it, _)| it.identity == member.identity);
            let range = slots
                .map(|(_, slots)| format!(" {}-{}", slots.start(), slots.end()))
                .unwrap_or_default();
            let id = long_id(member);
            let epoch = status.epoch;
            lines.push_str(&format!(
                "{id} {host}:{port}@{bus} {flags} - 0 0 {epoch} {link}{range}\n"
            ));
        }
        call.reply(|reply| reply.bulk(lines.as_bytes()));
        Ok(())
    })
}

/// `CLUSTER SHARDS`
pub(super) fn shards(call: TaskCall) -> Task {
    Box::pin(async move {
        let status = status(&call).await?;
        let members = with_slots(&status);
        call.reply(|reply| {
            reply.array(members.len());
            for (member, slots) in &members {
                reply.map(2);
                reply.bulk(b"slots");
                reply.array(2);
                reply.integer(number(*slots.start()));
                reply.integer(number(*slots.end()));
                reply.bulk(b"nodes");
                reply.array(1);
                write_node(reply, member);
            }
        });
        Ok(())
    })
}

fn write_node(reply: &mut Reply<'_>, member: &MemberStatus) {
    let (host, port) = client_address(member);
    reply.map(7);
    for (name, value) in [("id", long_id(member)), ("ip", host.clone()), ("endpoint", host)] {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"port");
    reply.integer(i64::from(port));
    reply.bulk(b"role");
    reply.bulk(b"master");
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(b"online");
}

/// `CLUSTER SLOTS`
pub(super) fn slots(call: TaskCall) -> Task {
    Box::pin(async move {
        let status = status(&call).await?;
        let members = with_slots(&status);
        call.reply(|reply| {
            reply.array(members.len());
            for (member, slots) in &members {
                let (host, port) = client_address(member);
                reply.array(3);
                reply.integer(number(*slots.start()));
                reply.integer(number(*slots.end()));
                reply.array(3);
                reply.bulk(host.as_bytes());
                reply.integer(i64::from(port));
                reply.bulk(long_id(member).as_bytes());
            }
        });
        Ok(())
    })
}

fn number(slot: usize) -> i64 {
    i64::try_from(slot).expect("slots are few")
}

/// `CLUSTER KEYSLOT key`
pub(super) fn key_slot(call: &mut SessionCall<'_, '_>) -> Result<(), Failure> {
    call.reply.integer(i64::from(Slot::of(call.arguments[2]).number()));
    Ok(())
}

/// `CLUSTER COUNTKEYSINSLOT slot`
pub(super) fn count_keys_in_slot(call: TaskCall) -> Task {
    Box::pin(async move {
        let slot = slot_of_number(integer(&call.arguments[2])?);
        let slot = slot.ok_or_else(|| Failure::text("ERR Invalid slot"))?;
        let (mut next, mut count) = (Some(slot.first()), 0);
        while let Some(from) = next {
            let seen;
            (seen, next) = step(&call.handle, from, |_| ()).await?;
            count += seen.len();
        }
        call.reply(|reply| reply.integer(len_integer(count)));
        Ok(())
    })
}

/// `CLUSTER GETKEYSINSLOT slot count`
pub(super) fn keys_in_slot(call: TaskCall) -> Task {
    Box::pin(async move {
        let slot = slot_of_number(integer(&call.arguments[2])?);
        let count_max = usize::try_from(integer(&call.arguments[3])?).ok();
        let wanted = slot.zip(count_max);
        let (slot, count_max) =
            wanted.ok_or_else(|| Failure::text("ERR Invalid slot or number of keys"))?;
        let limit = call.handle.node().config.output_limit;
        let (mut next, mut count, mut bytes) = (Some(slot.first()), 0, 0);
        let (mut pieces, mut piece) = (vec![Vec::new()], Vec::new());
        while let Some(from) = next.filter(|_| count < count_max) {
            let mut found;
            (found, next) = step(&call.handle, from, <[u8]>::to_vec).await?;
            found.truncate(count_max - count);
            bytes += found.iter().map(|key| KEY_OVERHEAD_BYTES + key.len()).sum::<usize>();
            if bytes > limit {
                let why = "ERR more keys than output_limit allows: ask for fewer";
                return Err(Failure::text(why));
            }
            count += found.len();
            let mut reply = Reply::new(&mut piece, call.protocol);
            found.iter().for_each(|key| reply.bulk(key));
            if piece.len() >= PIECE_BYTES {
                pieces.push(std::mem::take(&mut piece));
            }
        }
        // How many there are is said first and known last.
        Reply::new(&mut pieces[0], call.protocol).array(count);
        call.pieces.replace(pieces);
        call.out.replace(piece);
        Ok(())
    })
}

fn slot_of_number(number: i64) -> Option<Slot> {
    u16::try_from(number).ok().and_then(Slot::new)
}

/// Walks one step over this node's live keys of the slot that `from` lies in: what `note` makes of
/// each, and where to go on; `None` at the slot's end.
async fn step<T: Send + 'static>(
    handle: &Handle,
    from: Token,
    note: fn(&[u8]) -> T,
) -> Result<(Vec<T>, Option<Token>), Error> {
    let slot = from.slot();
    let work = move |shards: &mut Shards| {
        let mut notes = Vec::new();
        let next = shards.of(from).walk(from, STEP_PLACES, &mut |entry| {
            if entry.token.slot() == slot {
                notes.push(note(entry.key));
            }
        })?;
        Ok((notes, next.filter(|next| *next <= slot.last())))
    };
    handle.again_on(handle.node().layout.core_of(from), Tokens::new(), work).await
}

/// `GRIDKV CONSISTENCY [one | quorum | all | linearizable | N]`: for this connection, from here on.
pub(super) fn consistency(call: &mut SessionCall<'_, '_>) -> Result<(), Failure> {
    let word = match call.arguments[2..] {
        [] => {
            let level = match call.client.level {
                Level::One => "one".to_owned(),
                Level::Quorum => "quorum".to_owned(),
                Level::All => "all".to_owned(),
                Level::Linearizable => "linearizable".to_owned(),
                Level::Count(count) => count.to_string(),
            };
            call.reply.bulk(level.as_bytes());
            return Ok(());
        }
        [word] => word,
        _ => return Err(Failure::Arity("gridkv|consistency".to_owned())),
    };
    let count = || text(word).parse::<u8>().ok().filter(|count| (1..=16).contains(count));
    call.client.level = match word {
        _ if is_word(word, "one") => Level::One,
        _ if is_word(word, "quorum") => Level::Quorum,
        _ if is_word(word, "all") => Level::All,
        _ if is_word(word, "linearizable") => Level::Linearizable,
        _ => Level::Count(count().ok_or_else(|| {
            Failure::text("ERR one, quorum, all, linearizable or a number of replicas is needed")
        })?),
    };
    call.reply.ok();
    Ok(())
}
