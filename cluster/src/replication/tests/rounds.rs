//! What an agreed change tells its client holds, however often its round is tried.

use super::super::*;
use super::kit::{CONFIG, End, is_acknowledged};
use super::script::{Script, promised, proposed, record};
use crate::mutation::Mutation;
use crate::wire::message::{AskKind, ReplyKind};

/// Two appends that share a round: "a" is begun first, and has less time left.
fn two_in_a_round(script: &mut Script) -> (OpId, OpId) {
    let before = script.begin(b"k", Level::Linearizable, Work::Read);
    // What is read is not agreed on, so that a round is under way, behind which the two wait.
    script.reply(1, super::script::found(), None);
    script.reply(2, super::script::found(), Some(&record(b"k", b"x", 5)));
    assert_eq!(script.last().1.kind, AskKind::Prepare);
    let early = script.begin(b"k", Level::Linearizable, Work::Change);
    script.run_for(CONFIG.request_timeout / 2);
    let late = script.begin(b"k", Level::Linearizable, Work::Change);
    script.reply(1, promised(), Some(&record(b"k", b"x", 5)));
    script.reply(2, promised(), Some(&record(b"k", b"x", 5)));
    script.reply(1, ReplyKind::Accepted, None);
    script.reply(2, ReplyKind::Accepted, None);
    assert!(script.ends.contains_key(&before));
    assert_eq!(script.last().1.kind, AskKind::Prepare, "the two begin");
    (early, late)
}

#[test]
fn what_may_have_been_accepted_is_proposed_again_with_all_its_changes() {
    let mut script = Script::new(3);
    let (early, late) = two_in_a_round(&mut script);
    let base = record(b"k", b"x", 5);
    let letters = |script: &Script| script.made[&late].clone();
    // The third accepts it, two do not.
    script.reply(1, promised(), Some(&base));
    script.reply(2, promised(), Some(&base));
    let first = script.last().2.clone();
    let both = letters(&script);
    assert_eq!(proposed(&first).value, Some(&both[..]));
    script.outbid(1);
    script.outbid(2);
    script.reply(3, ReplyKind::Accepted, None);
    // The first has no more time.
    script.now = script.now + CONFIG.request_timeout / 2;
    script.run_until_asked(AskKind::Prepare);
    assert!(matches!(script.ends[&early], End::Done(Outcome::Unknown(_))), "{:?}", script.ends);
    // The second try does not find it, and nobody takes the second try.
    script.reply(1, promised(), Some(&base));
    script.reply(2, promised(), Some(&base));
    assert_eq!(script.last().1.kind, AskKind::Accept);
    let second = script.last().2.clone();
    assert_eq!(proposed(&second).value, Some(&both[..]), "the same again");
    assert!(proposed(&second).version > proposed(&first).version);
    script.outbid(1);
    script.outbid(2);
    script.outbid(3);
    // The third does.
    script.run_until_asked(AskKind::Prepare);
    script.reply(1, promised(), Some(&base));
    let found = Mutation { ..proposed(&first) };
    script.reply(3, promised(), Some(&found));
    let third = script.last().2.clone();
    assert_eq!(proposed(&third).value, Some(&both[..]));
    script.reply(1, ReplyKind::Accepted, None);
    script.reply(3, ReplyKind::Accepted, None);
    assert!(is_acknowledged(&script.ends[&late]));
    assert_eq!(letters(&script), both, "what its client is told is what there is");
    let stats = script.coordinator.stats();
    assert_eq!((stats.long_reads, stats.rounds, stats.changes, stats.retries), (1, 2, 2, 2));
}

#[test]
fn a_change_that_was_not_applied_is_in_no_later_try() {
    let mut script = Script::new(3);
    let (early, late) = two_in_a_round(&mut script);
    // Nobody promises, until the first has no more time.
    script.outbid(1);
    script.outbid(2);
    script.outbid(3);
    script.now = script.now + CONFIG.request_timeout / 2;
    script.run_until_asked(AskKind::Prepare);
    assert!(matches!(script.ends[&early], End::Done(Outcome::NotApplied(_))), "{:?}", script.ends);
    let base = record(b"k", b"x", 5);
    script.reply(1, promised(), Some(&base));
    script.reply(2, promised(), Some(&base));
    let made = script.made[&late].clone();
    assert_eq!(made.len(), 2, "x and its own letter");
    assert_eq!(proposed(&script.last().2).value, Some(&made[..]));
    assert_eq!(script.coordinator.stats().retries, 1, "the first tries are none");
}
