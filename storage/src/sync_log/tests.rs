use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use fastrand::Rng;
use gridkv_cluster::mutation::{access, encode};
use gridkv_cluster::{Mutation, NodeId, Timestamp, Version, WallTime};
use proptest::prelude::*;
use rkyv::util::AlignedVec;

use super::*;

/// What entry `sequence` says, of `words` words: each tells entry and place.
fn entry(sequence: u64, words: u64) -> Vec<u8> {
    (0..words).flat_map(|at| (sequence << 20 | at << 10 | words).to_ne_bytes()).collect()
}

/// Panics unless the bytes are those of `entry`, whole.
fn assert_is_whole(sequence: Sequence, bytes: &[u8]) {
    let words = bytes.len() as u64 / 8;
    assert!(words > 0);
    assert_eq!(bytes, entry(sequence.0, words), "entry {}", sequence.0);
}

#[test]
fn a_mutation_is_read_in_place() {
    let (mut log, reader) = sync_log(0);
    let mutation = Mutation {
        key: b"key",
        value: Some(b"value"),
        version: Version { timestamp: Timestamp(7), node: NodeId(3) },
        expires_at: Some(WallTime::from_millis(9)),
    };
    let mut bytes = AlignedVec::new();
    assert_eq!(reader.read(Sequence::FIRST, &mut bytes), Read::End);
    for number in 1..=10_000 {
        let sequence = log.push(&encode(&mutation));
        assert_eq!(sequence, Sequence(number));
        let next = sequence.next();
        assert_eq!(reader.read(sequence, &mut bytes), Read::Entry { sequence, next });
        assert_eq!(access(&bytes), Ok(mutation));
        assert_eq!(reader.read(next, &mut bytes), Read::End);
    }
    assert!(log.oldest() > Sequence::FIRST);
    assert_eq!((log.next(), reader.next()), (Sequence(10_001), Sequence(10_001)));
}

#[test]
fn what_is_too_large_takes_a_number_and_is_told_as_missed() {
    let (mut log, reader) = sync_log(64 << 10);
    let mut bytes = AlignedVec::new();
    log.push(&entry(1, 10));
    assert_eq!(log.push(&vec![1; (16 << 10) + 8]), Sequence(2));
    assert_eq!(log.push(&vec![2; 16 << 10]), Sequence(3));
    let (sequence, next) = (Sequence(1), Sequence(2));
    assert_eq!(reader.read(sequence, &mut bytes), Read::Entry { sequence, next });
    assert_eq!(reader.read(next, &mut bytes), Read::Overrun { oldest: Sequence(3) });
    let (sequence, next) = (Sequence(3), Sequence(4));
    assert_eq!(reader.read(sequence, &mut bytes), Read::Entry { sequence, next });
    assert_eq!(&bytes[..], vec![2; 16 << 10]);
    assert_eq!(log.oldest(), Sequence(1), "what is not kept overwrites nothing");
}

#[test]
fn a_place_before_the_first_entry_is_overrun_and_one_behind_the_last_is_the_end() {
    let (mut log, reader) = sync_log(64 << 10);
    log.push(&entry(1, 1));
    let mut bytes = AlignedVec::new();
    let oldest = Sequence::FIRST;
    assert_eq!(reader.read(Sequence(0), &mut bytes), Read::Overrun { oldest });
    for behind in [2, 3, u64::MAX] {
        assert_eq!(reader.read(Sequence(behind), &mut bytes), Read::End);
    }
}

proptest! {
    #[test]
    fn the_log_holds_the_latest_entries_as_far_as_they_fit(
        word_bits in 3_u32..10, slot_bits in 1_u32..8,
        lens in proptest::collection::vec(1_u64..40, 1..300),
    ) {
        let (word_count, slot_count) = (1_usize << word_bits, 1_usize << slot_bits);
        let mut log = SyncLog::new(word_count, slot_count);
        let reader = log.reader();
        let mut kept: VecDeque<(Sequence, Vec<u8>)> = VecDeque::new();
        let mut bytes = AlignedVec::new();
        for len in lens {
            let next = log.next();
            prop_assert_eq!(log.push(&entry(next.0, len)), next);
            let is_kept = len as usize <= word_count / 4;
            kept.push_back((next, if is_kept { entry(next.0, len) } else { Vec::new() }));
            let total = |kept: &VecDeque<(Sequence, Vec<u8>)>| -> usize {
                kept.iter().map(|(_, bytes)| bytes.len() / 8).sum()
            };
            while total(&kept) > word_count || kept.len() >= slot_count {
                kept.pop_front();
            }
            let oldest = kept.front().map_or_else(|| log.next(), |(sequence, _)| *sequence);
            prop_assert_eq!(log.oldest(), oldest);
            if oldest > Sequence::FIRST {
                let gone = Sequence(oldest.0 - 1);
                prop_assert_eq!(reader.read(gone, &mut bytes), Read::Overrun { oldest });
            }
            for (sequence, expected) in &kept {
                let (sequence, next) = (*sequence, sequence.next());
                let read = reader.read(sequence, &mut bytes);
                if expected.is_empty() {
                    prop_assert_eq!(read, Read::Overrun { oldest: next });
                } else {
                    prop_assert_eq!(read, Read::Entry { sequence, next });
                    prop_assert_eq!(&bytes[..], &expected[..]);
                }
            }
            prop_assert_eq!(reader.read(log.next(), &mut bytes), Read::End);
        }
    }
}

/// Reads everything until the writer is done, now and then slower than it. Returns how many entries
/// were read and how many were missed.
fn follow(reader: &SyncReader, is_done: &AtomicBool, seed: u64) -> (u64, u64) {
    let mut rng = Rng::with_seed(seed);
    let mut bytes = AlignedVec::new();
    let (mut from, mut read, mut missed) = (Sequence::FIRST, 0, 0);
    loop {
        let was_done = is_done.load(Ordering::Acquire);
        match reader.read(from, &mut bytes) {
            Read::Entry { sequence, next } => {
                assert_eq!((sequence, next), (from, from.next()));
                assert_is_whole(sequence, &bytes);
                read += 1;
                from = next;
            }
            Read::Overrun { oldest } => {
                assert!(oldest > from, "an overrun leads forward");
                missed += oldest.0 - from.0;
                from = oldest;
            }
            Read::End if was_done => break,
            Read::End => std::thread::yield_now(),
        }
        if rng.u32(..5_000) == 0 {
            // As long as the writer takes for some rounds of the ring.
            (0..rng.u32(..2_000)).for_each(|_| std::thread::yield_now());
        }
    }
    assert_eq!(from, reader.next());
    assert_eq!(read + missed, from.0 - 1, "each entry was read or missed");
    (read, missed)
}

#[test]
fn what_is_read_beside_a_writer_is_whole_and_in_order() {
    const ENTRY_COUNT: u64 = 400_000;
    let (mut log, reader) = sync_log(64 << 10);
    let is_done = AtomicBool::new(false);
    let (read, missed) = (AtomicU64::new(0), AtomicU64::new(0));
    let mut rng = Rng::with_seed(3);
    // More than there is room for: whoever begins at the first entry has been overtaken.
    for _ in 0..10_000 {
        let sequence = log.next().0;
        log.push(&entry(sequence, rng.u64(1..40)));
    }
    std::thread::scope(|scope| {
        for seed in 1..=2 {
            let (reader, is_done, read, missed) = (reader.clone(), &is_done, &read, &missed);
            scope.spawn(move || {
                let counts = follow(&reader, is_done, seed);
                read.fetch_add(counts.0, Ordering::Relaxed);
                missed.fetch_add(counts.1, Ordering::Relaxed);
            });
        }
        for _ in 0..ENTRY_COUNT {
            let sequence = log.next().0;
            let words = if rng.u8(..50) == 0 { 900 } else { rng.u64(1..40) };
            log.push(&entry(sequence, words));
            if rng.u8(..8) == 0 {
                std::thread::yield_now();
            }
        }
        is_done.store(true, Ordering::Release);
    });
    // At least what is there when the writer has ended, however the threads were run.
    assert!(read.into_inner() > 0);
    assert!(missed.into_inner() > 0, "a reader was overtaken");
}
