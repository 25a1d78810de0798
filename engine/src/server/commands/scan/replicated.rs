//! Walking over keys that have copies on several nodes.
//!
//! A step asks as many replicas of the tokens at hand as a read does. A key that all of them have is
//! there: a deletion that was acknowledged would be known to one of them at least. One that only some
//! have is read.

use std::collections::BTreeMap;

use gridkv_cluster::Token;
use gridkv_cluster::model::NodeId;
use gridkv_cluster::replication::Why;
use gridkv_cluster::topology::placement::Placement;
use gridkv_cluster::wire::call::{Call, CallAnswer};

use crate::cluster::Told;
use crate::cluster::face::Leaders;
use crate::error::Error;
use crate::handle::Handle;

type Keys = Vec<Vec<u8>>;

/// Walks one step from `from` on, over the tokens that the same replicas keep; where there are
/// `leaders`, over those of slots that this node leads.
pub(super) async fn step(
    handle: &Handle,
    from: Token,
    budget: usize,
    leaders: Option<&Leaders>,
) -> Result<(Keys, Option<Token>), Error> {
    let told = handle.told().await?;
    let to = run_end(&told.placement, from, leaders);
    let budget = u32::try_from(budget).unwrap_or(u32::MAX);
    let (replicas, needed) = read_replicas(handle, &told, from)?;
    let (mut seen, mut stopped) = (BTreeMap::<(Token, Vec<u8>), usize>::new(), None);
    let mut walked = 0;
    for node in &replicas {
        if walked == needed {
            break;
        }
        let call = Call::Walk { from: from.0, to: to.0, budget };
        let (keys, next) = match handle.call(*node, call).await {
            Ok(CallAnswer::Keys(keys, next)) => (keys, next),
            // It is not counted, and another is asked.
            Ok(CallAnswer::NotServing) | Err(Error::Interrupted) => continue,
            Ok(_) => return Err(Error::Interrupted),
            Err(error) => return Err(error),
        };
        walked += 1;
        for key in keys {
            *seen.entry((told.placement.token(&key), key)).or_default() += 1;
        }
        // What lies behind where one has stopped is seen in the next step.
        let next = next.map(Token);
        stopped = [stopped, next].into_iter().flatten().min();
    }
    if walked < needed {
        return Err(Error::NotApplied { why: Why::TooFew { reachable: walked, needed } });
    }
    let mut keys = Keys::new();
    for ((token, key), count) in seen {
        if stopped.is_some_and(|stopped| token >= stopped) {
            break;
        }
        if count == walked || handle.exists(&key).await? {
            keys.push(key);
        }
    }
    Ok((keys, stopped.or_else(|| to.next())))
}

/// The last token from `from` on whose copies are kept by the same nodes, in whatever order.
fn run_end(placement: &Placement, from: Token, leaders: Option<&Leaders>) -> Token {
    let sorted = |token| {
        let mut nodes = placement.replicas(token).to_vec();
        nodes.sort_unstable();
        nodes
    };
    let (nodes, mut end) = (sorted(from), placement.run_end(from));
    while let Some(next) = end.next()
        && sorted(next) == nodes
        && leaders.is_none_or(|leaders| leaders.is_own(next))
    {
        end = placement.run_end(next);
    }
    end
}

/// The replicas that answer, this node first, and how many of them a read asks.
fn read_replicas(
    handle: &Handle,
    told: &Told,
    token: Token,
) -> Result<(Vec<NodeId>, usize), Error> {
    let needed = read_needed(handle, told);
    let replicas = told.placement.replicas(token).iter().copied();
    let mut replicas: Vec<NodeId> = replicas.filter(|node| told.alive.contains(node)).collect();
    if replicas.len() < needed {
        let why = Why::TooFew { reachable: replicas.len(), needed };
        return Err(Error::NotApplied { why });
    }
    replicas.sort_by_key(|node| Some(*node) != told.own);
    Ok((replicas, needed))
}

/// How many replicas a read asks.
fn read_needed(handle: &Handle, told: &Told) -> usize {
    let majority = told.topology.replica_count / 2 + 1;
    usize::from(handle.node().config.cluster.read_quorum.unwrap_or(majority))
}

/// How many keys there are: what the members that answer have, divided by how many copies of all keys
/// that is. Exact where all have the same share, and agree.
#[expect(clippy::cast_precision_loss, reason = "an estimate where shares differ")]
#[expect(clippy::cast_possible_truncation, reason = "a count")]
#[expect(clippy::cast_sign_loss, reason = "a count")]
pub(super) async fn key_count(handle: &Handle) -> Result<u64, Error> {
    let told = handle.told().await?;
    let (mut copies, mut shares) = (0, 0.0);
    for node in &told.alive {
        if let Ok(CallAnswer::Count(count)) = handle.call(*node, Call::Count).await {
            copies += count;
            shares += told.placement.share(*node);
        }
    }
    if shares == 0.0 {
        let needed = read_needed(handle, &told);
        return Err(Error::NotApplied { why: Why::TooFew { reachable: 0, needed } });
    }
    Ok((copies as f64 / shares).round() as u64)
}

/// Whether all members answer that they hold no keys: so no write that was acknowledged before is left.
pub(super) async fn is_empty(handle: &Handle) -> Result<bool, Error> {
    let told = handle.told().await?;
    if told.alive.len() < told.topology.members.len() {
        return Ok(false);
    }
    for node in &told.alive {
        if handle.call(*node, Call::Count).await != Ok(CallAnswer::Count(0)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A key at or behind a token drawn at random.
pub(super) async fn random_key(handle: &Handle) -> Result<Option<Vec<u8>>, Error> {
    const STEP_SLOTS: usize = 512;
    let start = Token(fastrand::u64(..));
    let mut next = Some(start);
    let mut has_wrapped = false;
    while let Some(from) = next {
        let (keys, after) = step(handle, from, STEP_SLOTS, None).await?;
        if !keys.is_empty() {
            return Ok(Some(keys[fastrand::usize(..keys.len())].clone()));
        }
        next = after;
        if next.is_none() && !has_wrapped {
            (next, has_wrapped) = (Some(Token::MIN), true);
        }
        if has_wrapped && next.is_some_and(|next| next > start) {
            break;
        }
    }
    Ok(None)
}
