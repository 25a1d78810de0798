//! What tools ask of a cluster: CLUSTER INFO, NODES, MYID, SHARDS, SLOTS, what slots hold, and GRIDKV
//! CONSISTENCY and SCOPE.
//!
//! Slots are shown as they are placed ([`face`](crate::cluster::face)). Any node serves any key all the
//! same: no client is ever sent elsewhere.
//!
//! What a slot holds is asked of the node itself: its own live copies, whether it is alone or not.

use gridkv_cluster::replication::Level;
use gridkv_cluster::topology::endpoint::Endpoint;
use gridkv_cluster::{Slot, Token};
use gridkv_net::resp::Reply;

use super::node::Task;
use super::scope::{Scope, on_asked, on_listed};
use super::strings::len_integer;
use super::{Failure, SessionCall, TaskCall, integer, is_word, text};
use crate::cluster::face::{Face, Node, quorum};
use crate::cluster::status::Status;
use crate::core::job::Tokens;
use crate::core::shards::Shards;
use crate::error::Error;
use crate::handle::Handle;

/// Places in the index looked at in one step of a walk over a slot's keys: one to two hundred keys. At the
/// end of a slot, what is left of a step is spent on the keys behind it.
const STEP_PLACES: usize = 256;

/// What a key takes in a reply, besides itself.
const KEY_OVERHEAD_BYTES: usize = 16;

/// Keys are written into pieces of so many bytes, so that no step copies or frees all of them.
const PIECE_BYTES: usize = 256 << 10;

/// The state of the cluster, for a node that belongs to one, and what the client is shown of it.
async fn face(call: &TaskCall) -> Result<(Status, Face), Failure> {
    check_enabled(&call.handle)?;
    let status = Status::collect(&call.handle).await?;
    let announced = call.handle.node().config.announce.clone();
    let reached = announced.or_else(|| call.client.local_address.map(Endpoint::from));
    let face = Face::new(&status, reached, quorum(&call.handle, status.replicas));
    Ok((status, face))
}

fn check_enabled(handle: &Handle) -> Result<(), Failure> {
    if handle.is_replicated() {
        return Ok(());
    }
    Err(Failure::text("ERR This instance has cluster support disabled"))
}

/// `CLUSTER INFO`
pub(super) fn info(call: TaskCall) -> Task {
    Box::pin(async move {
        let (status, face) = face(&call).await?;
        let counts = face.counts;
        let is_well = status.standing == "serving" && counts.assigned > 0 && counts.failed == 0;
        let state = if is_well { "ok" } else { "fail" };
        let lines = [
            "cluster_enabled:1".to_owned(),
            format!("cluster_state:{state}"),
            format!("cluster_slots_assigned:{}", counts.assigned),
            format!("cluster_slots_ok:{}", counts.ok),
            format!("cluster_slots_pfail:{}", counts.suspected),
            format!("cluster_slots_fail:{}", counts.failed),
            format!("cluster_known_nodes:{}", face.nodes.len()),
            format!("cluster_size:{}", face.masters().len()),
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
        let (_, face) = face(&call).await?;
        let own = face.nodes.iter().find(|node| node.is_self);
        call.reply(|reply| reply.bulk(own.map_or("", |node| node.id.as_str()).as_bytes()));
        Ok(())
    })
}

/// `CLUSTER NODES`: of each member the slots that it leads.
pub(super) fn nodes(call: TaskCall) -> Task {
    Box::pin(async move {
        let (status, face) = face(&call).await?;
        on_listed(&call).await?;
        let masters = face.masters();
        let mut lines = String::new();
        for (index, node) in face.nodes.iter().enumerate() {
            let Endpoint { host, port } = &node.endpoint;
            let bus = node.address.port();
            let name =
                if node.endpoint.address().is_none() { format!(",{host}") } else { String::new() };
            let own = if node.is_self { "myself,master" } else { "master" };
            let flags = match (node.state, node.is_heard) {
                ("alive", true) => own.to_owned(),
                ("alive" | "suspect", _) => format!("{own},fail?"),
                _ => format!("{own},fail"),
            };
            let link = if node.is_heard { "connected" } else { "disconnected" };
            let ranges: String = masters
                .get(&index)
                .map_or_else(String::new, |ranges| ranges.iter().map(range_text).collect());
            let (id, epoch) = (&node.id, status.epoch);
            lines.push_str(&format!(
                "{id} {host}:{port}@{bus}{name} {flags} - 0 0 {epoch} {link}{ranges}\n"
            ));
        }
        call.reply(|reply| reply.bulk(lines.as_bytes()));
        Ok(())
    })
}

fn range_text((first, last): &(u16, u16)) -> String {
    if first == last { format!(" {first}") } else { format!(" {first}-{last}") }
}

/// `CLUSTER SHARDS`: one shard for each master, with those that keep copies of all that it leads.
pub(super) fn shards(call: TaskCall) -> Task {
    Box::pin(async move {
        let (_, face) = face(&call).await?;
        on_asked(&call).await?;
        let masters = face.masters();
        call.reply(|reply| {
            reply.array(masters.len());
            for (master, ranges) in &masters {
                reply.map(2);
                reply.bulk(b"slots");
                reply.array(2 * ranges.len());
                for (first, last) in ranges {
                    reply.integer(i64::from(*first));
                    reply.integer(i64::from(*last));
                }
                let replicas = face.replicas_of(*master);
                reply.bulk(b"nodes");
                reply.array(1 + replicas.len());
                write_node(reply, &face.nodes[*master], "master");
                for replica in replicas {
                    write_node(reply, &face.nodes[replica], "replica");
                }
            }
        });
        Ok(())
    })
}

fn write_node(reply: &mut Reply<'_>, node: &Node, role: &str) {
    let host = &node.endpoint.host;
    let is_name = node.endpoint.address().is_none();
    let ip = if is_name { node.address.ip().to_string() } else { host.clone() };
    reply.map(if is_name { 8 } else { 7 });
    let name = is_name.then_some(("hostname", host));
    let texts = [("id", &node.id), ("ip", &ip), ("endpoint", host)];
    for (key, value) in texts.into_iter().chain(name) {
        reply.bulk(key.as_bytes());
        reply.bulk(value.as_bytes());
    }
    reply.bulk(b"port");
    reply.integer(i64::from(node.endpoint.port));
    reply.bulk(b"role");
    reply.bulk(role.as_bytes());
    reply.bulk(b"replication-offset");
    reply.integer(0);
    reply.bulk(b"health");
    reply.bulk(if node.is_heard { b"online" } else { b"fail" });
}

/// `CLUSTER SLOTS`: of each run of slots the master, then the replicas that answer.
pub(super) fn slots(call: TaskCall) -> Task {
    Box::pin(async move {
        let (_, face) = face(&call).await?;
        on_asked(&call).await?;
        let runs = face.shown_runs();
        call.reply(|reply| {
            reply.array(runs.len());
            for run in &runs {
                reply.array(3 + run.replicas.len());
                reply.integer(i64::from(run.first));
                reply.integer(i64::from(run.last));
                for index in std::iter::once(&run.master).chain(&run.replicas) {
                    let node = &face.nodes[*index];
                    reply.array(3);
                    reply.bulk(node.endpoint.host.as_bytes());
                    reply.integer(i64::from(node.endpoint.port));
                    reply.bulk(node.id.as_bytes());
                }
            }
        });
        Ok(())
    })
}

/// `READONLY`, `READWRITE`, `ASKING`: of clients that know of clusters, and without effect, since any
/// node serves any key.
pub(super) fn no_effect(call: &mut SessionCall<'_, '_>) -> Result<(), Failure> {
    check_enabled(&Handle::of_command(&call.world.node))?;
    call.client.scope.find(Scope::Led);
    call.reply.ok();
    Ok(())
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

/// `GRIDKV SCOPE [auto | cluster | node]`: which keys SCAN, KEYS and DBSIZE treat on this connection.
pub(super) fn scope(call: &mut SessionCall<'_, '_>) -> Result<(), Failure> {
    match call.arguments[2..] {
        [] => {
            let scope = match call.client.scope.known() {
                None => "auto",
                Some(Scope::All) => "cluster",
                Some(Scope::Led) => "node",
            };
            call.reply.bulk(scope.as_bytes());
            return Ok(());
        }
        [word] if is_word(word, "auto") => call.client.scope.fix(None),
        [word] if is_word(word, "cluster") => call.client.scope.fix(Some(Scope::All)),
        [word] if is_word(word, "node") => call.client.scope.fix(Some(Scope::Led)),
        _ => return Err(Failure::text("ERR auto, cluster or node is needed")),
    }
    call.reply.ok();
    Ok(())
}
