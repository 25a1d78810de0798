//! What one node has another do beside replication: walk over its keys, count them, tell whether it
//! has cleared. Calls travel between the cores that speak for their nodes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use gridkv_cluster::model::{NodeId, Timestamp, Version};
use gridkv_cluster::replication::Standing;
use gridkv_cluster::topology::Change;
use gridkv_cluster::topology::agreement::{Failure, Survey, Via};
use gridkv_cluster::wire::body;
use gridkv_cluster::wire::call::{Call, CallAnswer};
use gridkv_cluster::wire::frame::Kind;
use gridkv_cluster::wire::preamble::CONTROL;
use gridkv_cluster::{Instant, Token};

use super::Told;
use super::control::{CONTROL_CORE, Control, Desk};
use super::link::Target;
use super::machine::LinkId;
use crate::core::mailbox::Message;
use crate::core::tasks::Urgency;
use crate::core::{Core, World};
use crate::error::Error;
use crate::handle::Handle;
use crate::node::Node;
use crate::server::commands::walk_own;

/// How long a call may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Calls under way at most, each way.
const CALL_COUNT_MAX: usize = 1_024;
/// Keys in one answer, at most, in bytes.
const ANSWER_BYTES_MAX: usize = 4 << 20;

type Waiting = oneshot::Sender<Result<CallAnswer, Error>>;

/// Calls to other nodes that have no answer yet.
#[derive(Default)]
pub(crate) struct Calls {
    waiting: BTreeMap<u64, (Instant, Waiting)>,
    next: u64,
    /// Calls of others that are being served.
    served_count: usize,
}

impl Control {
    /// Gives up calls that have taken too long.
    pub(super) fn expire_calls(&mut self, now: Instant) {
        let late = |it: &(&u64, &(Instant, Waiting))| it.1.0 <= now;
        let late: Vec<u64> = self.calls.waiting.iter().filter(late).map(|(id, _)| *id).collect();
        for id in late {
            self.calls.waiting.remove(&id);
        }
    }
}

impl Handle {
    /// Whether keys have copies on other nodes.
    pub(crate) fn is_replicated(&self) -> bool {
        self.node().cluster.is_some()
    }

    /// What holds in the cluster, as the core that speaks for the node knows it.
    pub(crate) async fn told(&self) -> Result<Told, Error> {
        let told = self.on_core(CONTROL_CORE, |core| {
            core.world.machine.as_ref().and_then(|machine| machine.state().cloned())
        });
        told.await?.ok_or(Error::NotApplied { why: gridkv_cluster::replication::Why::NoCluster })
    }

    /// Has a node, perhaps this one, do something.
    pub(crate) async fn call(&self, node: NodeId, call: Call) -> Result<CallAnswer, Error> {
        let told = self.told().await?;
        if told.own == Some(node) {
            return Ok(serve(self, call).await);
        }
        let Some(member) = told.topology.by_node(node) else { return Err(Error::Interrupted) };
        let address = member.address;
        let (sender, receiver) = oneshot::async_channel();
        let start = move |core: &mut Core| {
            core.with_control(|control, desk| {
                if control.calls.waiting.len() >= CALL_COUNT_MAX {
                    return;
                }
                control.calls.next += 1;
                let id = control.calls.next;
                control.calls.waiting.insert(id, (desk.now.at + PATIENCE, sender));
                let link = desk.links.dial(Target { address, shard: CONTROL });
                desk.links.push(link, Kind::Command, body::tagged(body::ASK, &call.encode(id)));
            });
        };
        self.on_core(CONTROL_CORE, start).await?;
        receiver.await.map_err(|_| Error::Interrupted)?
    }

    /// Removes all keys, on all nodes.
    pub(crate) async fn clear_cluster(&self) -> Result<(), Error> {
        let (sender, receiver) = oneshot::async_channel();
        let start = move |core: &mut Core| {
            let now = core.world.time();
            let version = core.world.machine.as_mut()?.tick(now);
            let change = Change::Clear(version.timestamp.0, version.node.0);
            // Nobody may be waiting any more.
            core.wish(change, Box::new(move |result| drop(sender.send(result))));
            Some(version)
        };
        let version = self.on_core(CONTROL_CORE, start).await?.ok_or(Error::Closed)?;
        let result = receiver.await.map_err(|_| Error::Interrupted)?;
        result.map_err(|failure| match failure {
            Failure::Refused(refusal) => Error::TopologyRefused { refusal },
            Failure::Unknown(refusal) => Error::TopologyUnknown { refusal },
        })?;
        let deadline = std::time::Instant::now() + PATIENCE;
        let call = Call::HasCleared { timestamp: version.timestamp.0, node: version.node.0 };
        loop {
            let told = self.told().await?;
            let mut are_cleared = true;
            for node in &told.alive {
                let answer = self.call(*node, call.clone()).await;
                are_cleared &= answer == Ok(CallAnswer::Is(true));
            }
            if are_cleared {
                return Ok(());
            }
            if std::time::Instant::now() > deadline {
                return Err(Error::Interrupted);
            }
            futures_lite::future::yield_now().await;
        }
    }
}

impl Control {
    /// A call of another node, or its answer, has arrived.
    pub(super) fn take_call_frame(
        &mut self,
        desk: &mut Desk<'_>,
        link: LinkId,
        bytes: &[u8],
    ) -> Result<(), &'static str> {
        let (tag, bytes) = bytes.split_first().ok_or("a call is empty")?;
        if *tag == body::ANSWER {
            let (id, answer) = CallAnswer::decode(bytes)?;
            if let Some((_, waiting)) = self.calls.waiting.remove(&id) {
                // Nobody may be waiting any more.
                let _ = waiting.send(Ok(answer));
            }
            return Ok(());
        }
        let (id, call) = Call::decode(bytes)?;
        if self.calls.served_count >= CALL_COUNT_MAX {
            let answer = CallAnswer::Failed("too many calls are under way".to_owned());
            desk.links.push(link, Kind::Command, body::tagged(body::ANSWER, &answer.encode(id)));
            return Ok(());
        }
        self.calls.served_count += 1;
        let handle = Handle::of_command(desk.node);
        desk.tasks.spawn_quietly(Urgency::Background, async move {
            let answer = serve(&handle, call).await;
            let reply = move |core: &mut Core| {
                core.with_control(|control, desk| {
                    control.calls.served_count -= 1;
                    desk.links.push(
                        link,
                        Kind::Command,
                        body::tagged(body::ANSWER, &answer.encode(id)),
                    );
                });
            };
            // Fails only when the core has stopped.
            let _ = handle.on_core(CONTROL_CORE, reply).await;
        });
        Ok(())
    }
}

/// Does what a call asks for, with what this node has itself.
async fn serve(handle: &Handle, call: Call) -> CallAnswer {
    if matches!(call, Call::Walk { .. } | Call::Count) {
        let serves = |core: &mut Core| {
            core.world.machine.as_ref().is_some_and(|it| it.standing() == Standing::Serving)
        };
        match handle.on_all_cores(serves).await {
            Ok(serve) if serve.iter().all(|it| *it) => {}
            Ok(_) => return CallAnswer::NotServing,
            Err(error) => return CallAnswer::Failed(error.to_string()),
        }
    }
    let result = match call {
        Call::KnowsKin(kin) => handle.knows_kin(kin).await.map(CallAnswer::Is),
        Call::Count => handle.stats().await.map(|stats| CallAnswer::Count(stats.key_count)),
        Call::HasCleared { timestamp, node } => {
            let version = Version { timestamp: Timestamp(timestamp), node: NodeId(node) };
            let has_cleared = move |core: &mut Core| {
                let machine = core.world.machine.as_ref();
                machine.is_some_and(|machine| machine.has_cleared(version))
            };
            let cores = handle.on_all_cores(has_cleared).await;
            cores.map(|cores| CallAnswer::Is(cores.into_iter().all(|it| it)))
        }
        Call::Walk { from, to, budget } => {
            walk(handle, Token(from), Token(to), budget as usize).await
        }
    };
    result.unwrap_or_else(|error| CallAnswer::Failed(error.to_string()))
}

async fn walk(
    handle: &Handle,
    from: Token,
    to: Token,
    mut budget: usize,
) -> Result<CallAnswer, Error> {
    const STEP_SLOTS: usize = 2_048;
    let (mut next, mut keys, mut bytes) = (Some(from), Vec::new(), 0);
    while let Some(at) = next
        && at <= to
        && budget > 0
        && bytes < ANSWER_BYTES_MAX
    {
        let slots = budget.min(STEP_SLOTS);
        let (found, after) = walk_own(handle, at, slots).await?;
        bytes += found.iter().map(Vec::len).sum::<usize>();
        keys.extend(found.into_iter().filter(|key| handle.token_of(key) <= to));
        next = after;
        budget -= slots;
    }
    let next = next.filter(|next| *next <= to).map(|next| next.0);
    Ok(CallAnswer::Keys(keys, next))
}

/// Has all cores stop taking writes, and asks whether they hold anything.
pub(super) fn survey(node: &Arc<Node>, own: usize, via: Via) {
    let left = Arc::new(std::sync::atomic::AtomicUsize::new(node.ports.len()));
    let is_empty = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let latest = Arc::new(std::sync::atomic::AtomicU64::new(0));
    for port in &node.ports {
        let (left, is_empty, node) = (Arc::clone(&left), Arc::clone(&is_empty), Arc::clone(node));
        let latest = Arc::clone(&latest);
        let work = move |core: &mut Core| {
            use std::sync::atomic::Ordering;
            let World { machine: Some(machine), shards, .. } = &mut core.world else { return };
            let survey = machine.survey(shards);
            is_empty.fetch_and(survey.is_empty, Ordering::AcqRel);
            latest.fetch_max(survey.latest, Ordering::AcqRel);
            if left.fetch_sub(1, Ordering::AcqRel) == 1 {
                let is_empty = is_empty.load(Ordering::Acquire);
                let survey = Survey { is_empty, latest: latest.load(Ordering::Acquire) };
                let told = Message::Call(Box::new(move |core| core.surveyed(via, survey)));
                // A full mailbox loses it: the proposer asks again.
                let _ = node.ports[own].try_post(told);
            }
        };
        // As above.
        let _ = port.try_post(Message::Call(Box::new(work)));
    }
}
