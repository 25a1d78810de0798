//! What tools ask of a cluster: CLUSTER INFO, NODES, MYID, SHARDS, SLOTS, and GRIDKV CONSISTENCY.
//!
//! Every node serves every key, so slots mean nothing here. Tools that insist on them are given an
//! even share a node, of those that answer: it spreads their requests.

use std::net::SocketAddr;

use gridkv_cluster::replication::Level;
use gridkv_net::resp::Reply;

use super::node::Task;
use super::{Failure, SessionCall, TaskCall, is_word, text};
use crate::cluster::status::{MemberStatus, Status};

/// Slots of Redis' cluster.
const SLOT_COUNT: usize = 16_384;

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
