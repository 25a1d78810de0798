//! The ring in all orders of two threads, and all that the memory model lets loads see.

#[allow(
    clippy::duplicate_mod,
    dead_code,
    unreachable_pub,
    reason = "it is the file that the crate has, once more, made of other parts"
)]
#[path = "ring.rs"]
mod ring;

mod sync {
    pub(super) use ::loom::sync::Arc;
    pub(super) use ::loom::sync::atomic::{AtomicU64, Ordering, fence};
}

use ::loom::model::Builder;
use ::loom::thread;
use rkyv::util::AlignedVec;

use self::ring::{Read, Sequence, SyncLog, SyncReader};

/// Times that a thread is interrupted where it could go on. More find no more, and take long.
const PREEMPTIONS: usize = 3;

fn check(case: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(case);
}

/// What entry `sequence` says: as many words as asked for, each of them the same.
fn entry(sequence: u64, word_count: usize) -> Vec<u8> {
    (100 + sequence).to_ne_bytes().repeat(word_count)
}

fn push(log: &mut SyncLog, word_count: usize) {
    let next = log.next();
    assert_eq!(log.push(&entry(next.0, word_count)), next);
}

/// Reads on from `from` in `count` steps. Whatever is read is whole, and overruns lead forward.
fn read_on(reader: &SyncReader, from: u64, count: usize, word_count: usize) -> Sequence {
    let mut from = Sequence(from);
    let mut bytes = AlignedVec::new();
    for _ in 0..count {
        match reader.read(from, &mut bytes) {
            Read::Entry { sequence, next } => {
                assert_eq!((sequence, next), (from, from.next()));
                assert_eq!(&bytes[..], entry(sequence.0, word_count));
                from = next;
            }
            Read::End => {}
            Read::Overrun { oldest } => {
                assert!(oldest > from);
                from = oldest;
            }
        }
    }
    from
}

/// A ring with `before` entries, into which `during` more are pushed while a reader is in it.
fn race(word_count: usize, slot_count: usize, entry_words: usize, before: usize, during: usize) {
    check(move || {
        let mut log = SyncLog::new(word_count, slot_count);
        (0..before).for_each(|_| push(&mut log, entry_words));
        let reader = log.reader();
        let from = log.oldest().0;
        let other = thread::spawn(move || {
            (0..during).for_each(|_| push(&mut log, entry_words));
            log
        });
        read_on(&reader, from, 2, entry_words);
        let log = other.join().unwrap();
        // What is left at rest is read to the end.
        let end = read_on(&reader, log.oldest().0, word_count + 1, entry_words);
        assert_eq!(end, log.next());
    });
}

#[test]
fn an_entry_that_is_published_is_whole() {
    race(16, 8, 2, 0, 2);
}

#[test]
fn overwritten_words_are_noticed() {
    race(8, 16, 2, 4, 2);
    race(4, 16, 1, 4, 3);
}

#[test]
fn an_overwritten_place_in_the_index_is_noticed() {
    race(32, 2, 2, 1, 2);
    race(32, 4, 2, 3, 3);
}

#[test]
fn two_readers_do_not_disturb_each_other() {
    check(|| {
        let mut log = SyncLog::new(8, 8);
        (0..4).for_each(|_| push(&mut log, 2));
        let reader = log.reader();
        let other = reader.clone();
        let reading = thread::spawn(move || read_on(&other, 1, 1, 2));
        let writing = thread::spawn(move || push(&mut log, 2));
        read_on(&reader, 1, 1, 2);
        reading.join().unwrap();
        writing.join().unwrap();
    });
}
