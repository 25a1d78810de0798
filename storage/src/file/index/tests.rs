use std::collections::BTreeMap;

use fastrand::Rng;
use gridkv_cluster::{NodeId, Timestamp};

use super::entry::Entry;
use super::*;
use crate::disk::FileId;
use crate::file::format::GRANULE_BYTES;

fn known(rng: &mut Rng) -> Known {
    let is_odd = rng.u8(..8) == 0;
    Known {
        place: Place {
            file: FileId(rng.u32(..FILE_COUNT_MAX)),
            offset: rng.u32(..1 << 23) * GRANULE_BYTES as u32,
        },
        version: Version {
            timestamp: Timestamp(if is_odd { rng.u64(..) } else { rng.u64(..1 << 58) }),
            node: NodeId(if is_odd { rng.u16(..) } else { rng.u16(..64) }),
        },
        expires_at: is_odd.then(|| WallTime::from_millis(rng.u64(1..1_000))),
        payload_bytes: if is_odd { rng.u32(..1 << 28) } else { rng.u32(..1 << 14) },
        is_tombstone: rng.u8(..10) == 0,
    }
}

/// Where the positions of a test are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crowd {
    /// All over the index, few of them equal.
    None,
    /// Below the 14 bits of one hash tag.
    HashTag,
    /// Next to each other, so that no part that splits tells them apart.
    Neighbours,
    Mixed,
}

fn ident(rng: &mut Rng, crowd: Crowd) -> Ident {
    let position = match crowd {
        Crowd::None => rng.u64(..3_000) << 52 ^ rng.u64(..2),
        Crowd::HashTag => 0x2a51 << 50 | rng.u64(..3_000) << 34,
        Crowd::Neighbours => u64::MAX - rng.u64(..900),
        Crowd::Mixed => {
            let crowd = rng.choice([Crowd::None, Crowd::HashTag, Crowd::Neighbours]).unwrap();
            return ident(rng, crowd);
        }
    };
    // Bits in each place that a fingerprint has in an entry.
    let fingerprint = [0, 15, 16, 19, 20, 27].map(|bit| rng.u32(..2) << bit).iter().sum();
    Ident { position, fingerprint }
}

fn plain(rng: &mut Rng) -> Known {
    let known = Known { expires_at: None, is_tombstone: false, payload_bytes: 116, ..known(rng) };
    Known { version: Version::ZERO, ..known }
}

/// `count` entries at positions that share their first 14 bits, or none.
fn filled(count: usize, crowd: Crowd) -> Index {
    let mut rng = Rng::with_seed(3);
    let (mut index, plain) = (Index::new(), plain(&mut rng));
    for _ in 0..count {
        let position = match crowd {
            Crowd::HashTag => 0x2a51 << 50 | rng.u64(..) >> 14,
            _ => rng.u64(..),
        };
        index.put(Ident { position, fingerprint: 0 }, &plain);
        let part_len = index.part(position).len();
        assert!(part_len <= ENTRY_COUNT_MAX, "{part_len} entries in a part");
    }
    index
}

impl Index {
    fn assert_invariants(&self) {
        self.trie.assert_invariants();
        let mut part_bytes = 0;
        for (number, part) in (0..).zip(self.parts.iter()) {
            part_bytes += part.bytes();
            for (at, known) in part.all_known().enumerate() {
                assert_eq!(self.trie.leaf(part.ident(at).position), number);
                assert!(known.version.timestamp <= part.timestamp_max());
                assert!(known.version.timestamp <= self.timestamp_max);
            }
        }
        assert_eq!(part_bytes, self.part_bytes);
    }
}

/// What a dump in pieces of `piece_len` bytes is read as.
fn read_dump(bytes: &[u8], piece_len: usize) -> Option<Index> {
    let mut dumped = Dumped::new();
    for piece in bytes.chunks(piece_len) {
        dumped.take(piece)?;
    }
    dumped.finish()
}

fn dump(index: &Index) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = index.dump(&mut |piece| -> Result<(), std::convert::Infallible> {
        bytes.extend_from_slice(piece);
        Ok(())
    });
    assert_eq!(written, Ok(()));
    assert_eq!(bytes.len() as u64, index.dump_bytes());
    bytes
}

fn assert_agrees(index: &Index, model: &BTreeMap<Ident, Known>, budget: usize) {
    index.assert_invariants();
    let mut totals = Totals::default();
    model.values().for_each(|known| totals.add(known));
    assert_eq!(*index.totals(), totals);
    let (mut seen, mut from) = (Vec::new(), Some(0));
    while let Some(position) = from {
        from = index.walk(position, budget, &mut |ident, known| seen.push((ident, known)));
        assert!(from.is_none_or(|next| next > position));
    }
    assert!(seen.iter().copied().eq(model.iter().map(|(ident, known)| (*ident, *known))));
}

#[test]
fn the_index_does_what_a_map_does() {
    for seed in 0..40 {
        let mut rng = Rng::with_seed(seed);
        let crowds = [Crowd::None, Crowd::HashTag, Crowd::Neighbours, Crowd::Mixed];
        let crowd = crowds[seed as usize % 4];
        let (mut index, mut model) = (Index::new(), BTreeMap::new());
        let growth = rng.u8(1..10);
        for step in 0..6_000 {
            let ident = ident(&mut rng, crowd);
            if rng.u8(..10) <= growth {
                let known = known(&mut rng);
                assert_eq!(index.put(ident, &known), model.insert(ident, known));
            } else {
                assert_eq!(index.remove(ident), model.remove(&ident));
            }
            assert_eq!(index.find(ident), model.get(&ident).copied());
            if step % 1_000 == 0 {
                assert_agrees(&index, &model, rng.usize(..500));
            }
        }
        let again = read_dump(&dump(&index), rng.usize(1..9_000)).unwrap();
        assert_agrees(&again, &model, 1_000);
        let version = Version { timestamp: Timestamp(1 << 57), node: NodeId(0) };
        let left = index.clear(version);
        model.retain(|_, known| known.version > version);
        assert_eq!(left.len(), model.len());
        assert_agrees(&index, &model, 100);
        while index.is_freeing() {
            let before = index.memory_bytes();
            index.free_some(3);
            assert!(index.memory_bytes() <= before);
        }
        assert_agrees(&index, &model, 100);
    }
}

#[test]
fn keys_of_one_hash_tag_cost_what_others_cost() {
    const COUNT: usize = 200_000;
    let [uniform, crowded] = [Crowd::None, Crowd::HashTag].map(|crowd| filled(COUNT, crowd));
    for index in [&uniform, &crowded] {
        index.assert_invariants();
        assert!(index.trie.node_len_max() <= 4_096);
        let mut positions = Vec::new();
        let end = index.walk(0, usize::MAX, &mut |ident, _| positions.push(ident.position));
        assert_eq!((end, positions.len()), (None, COUNT));
        assert!(positions.is_sorted());
    }
    let (one, other) = (uniform.memory_bytes() as f64, crowded.memory_bytes() as f64);
    assert!(other / one < 1.02, "{other} bytes of one tag, {one} of none");
    let (one, other) = (uniform.parts.len(), crowded.parts.len());
    // Those that the index begins with, and some on the way to the crowd.
    assert!(other <= one + 300, "{other} parts of one tag, {one} of none");
}

#[test]
fn a_new_key_grows_the_index_by_no_more_than_announced() {
    for crowd in [Crowd::None, Crowd::HashTag] {
        let mut rng = Rng::with_seed(9);
        let (mut index, plain) = (Index::new(), plain(&mut rng));
        for number in 0..60_000 {
            let position = match crowd {
                Crowd::HashTag => 0x2a51 << 50 | rng.u64(..) >> 14,
                _ => rng.u64(..),
            };
            let bound = index.memory_bytes() + index.growth_bytes_max(position);
            index.put(Ident { position, fingerprint: 0 }, &plain);
            assert!(index.memory_bytes() <= bound, "key {number}, {crowd:?}");
        }
    }
}

#[test]
fn a_search_begins_near_its_entry_in_a_part_of_any_depth() {
    for index in [Crowd::None, Crowd::HashTag].map(|crowd| filled(100_000, crowd)) {
        let (mut distance, mut count) = (0, 0);
        for part in index.parts.iter() {
            for at in 0..part.len() {
                let sort = part.entries()[at].sort();
                let guess = part.second_guess(part.first_guess(sort), sort);
                distance += guess.abs_diff(at);
                count += 1;
            }
        }
        assert!(distance < count * 2, "{distance} entries to go in {count} searches");
    }
}

#[test]
fn a_search_finds_where_an_entry_is_or_would_be_however_far_from_its_guess() {
    let mut rng = Rng::with_seed(8);
    let plain = plain(&mut rng);
    for (crowd_len, other_len) in [(0, 5), (200, 30), (100, 100), (30, 200)] {
        let (mut part, mut sorts) = (Part::new(0, 8), std::collections::BTreeSet::new());
        for number in 0..crowd_len + other_len {
            let bits = if number < crowd_len { 40 } else { 56 };
            let position = 3 << 40 | rng.u64(..1 << bits);
            sorts.insert(Sort::of(Ident { position, fingerprint: 0 }));
        }
        for (at, sort) in sorts.iter().enumerate() {
            part.insert(at, *sort, &plain);
        }
        for (at, sort) in sorts.iter().enumerate() {
            assert_eq!(part.search(*sort), Ok(at));
            let ident = sort.ident(0);
            let next = Ident { fingerprint: 1, ..ident };
            assert_eq!(part.search(Sort::of(next)), Err(at + 1));
            for guess in 0..=sorts.len() + 1 {
                assert_eq!(part.search_from(guess, *sort), Ok(at));
                assert_eq!(part.search_from(guess, Sort::of(next)), Err(at + 1));
            }
        }
        let ends =
            [Ident { position: 0, fingerprint: 0 }, Ident { position: !0 >> 8, fingerprint: 0 }];
        assert_eq!(ends.map(|end| part.search(Sort::of(end))), [Err(0), Err(sorts.len())]);
    }
}

#[test]
fn all_entries_are_as_likely_to_be_drawn_wherever_they_crowd() {
    const DRAWS_PER_KEY: usize = 40;
    for (count, crowd) in [3, 200, 1_000, 20_000]
        .into_iter()
        .flat_map(|count| [Crowd::None, Crowd::HashTag].map(|crowd| (count, crowd)))
    {
        let index = filled(count, crowd);
        let mut rng = Rng::with_seed(1);
        let mut drawn = BTreeMap::new();
        for _ in 0..count * DRAWS_PER_KEY {
            let tries = (0..64).find_map(|_| index.draw(rng.u64(..), rng.u64(..)));
            let found = tries
                .or_else(|| index.entry_from(rng.u64(..), rng.u64(..), 4_096, |_| true))
                .unwrap();
            *drawn.entry(found.0).or_insert(0) += 1;
        }
        assert_eq!(drawn.len(), count);
        let bounds = DRAWS_PER_KEY / 4..DRAWS_PER_KEY * 5 / 2;
        assert!(drawn.values().all(|times| bounds.contains(times)), "{count} keys, {crowd:?}");
    }
}

#[test]
fn a_search_for_an_entry_goes_round_and_gives_up_at_its_bound() {
    let mut index = filled(3_000, Crowd::HashTag);
    let one = Ident { position: 0x2a51 << 50 | 12_345, fingerprint: 9 };
    let known = Known { is_tombstone: true, ..plain(&mut Rng::with_seed(1)) };
    index.put(one, &known);
    let mut rng = Rng::with_seed(2);
    for _ in 0..100 {
        let (part, choice) = (rng.u64(..), rng.u64(..));
        let found = index.entry_from(part, choice, 5_000, |known| known.is_tombstone);
        assert_eq!(found, Some((one, known)));
        let looked_at = Cell::new(0);
        let refuse = |_: &Known| {
            looked_at.set(looked_at.get() + 1);
            false
        };
        assert_eq!(index.entry_from(part, choice, 300, refuse), None);
        assert!(looked_at.get() <= 300);
    }
    assert_eq!(Index::new().entry_from(7, 7, 300, |_| true), None);
}

#[test]
fn a_damaged_dump_is_refused_or_read_as_a_sound_index() {
    let mut rng = Rng::with_seed(5);
    let mut index = Index::new();
    for _ in 0..3_000 {
        let ident = ident(&mut rng, Crowd::Mixed);
        let known = known(&mut rng);
        index.put(ident, &known);
    }
    let bytes = dump(&index);
    assert!(read_dump(&bytes[..bytes.len() - 1], 777).is_none());
    assert!(read_dump(&[&bytes[..], &[0; 16]].concat(), 777).is_none());
    let mut sound_count = 0;
    for _ in 0..600 {
        let mut damaged = bytes.clone();
        for _ in 0..rng.usize(1..4) {
            let at = rng.usize(..damaged.len());
            damaged[at] ^= 1 << rng.u32(..8);
        }
        if let Some(read) = read_dump(&damaged, 4_000) {
            read.assert_invariants();
            sound_count += 1;
        }
    }
    assert!(sound_count > 0, "places and versions can be anything");
    assert!(sound_count < 600, "positions cannot");
}

fn part_bytes(depth: u32, entries: &[Entry]) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        [depth, entries.len() as u32, 0, 0].iter().flat_map(|it| it.to_le_bytes()).collect();
    entries.iter().for_each(|entry| entry.dump(&mut bytes));
    bytes
}

#[test]
fn parts_that_do_not_fit_together_are_no_dump() {
    let read = |depths: &[u32]| {
        let bytes: Vec<u8> = depths.iter().flat_map(|depth| part_bytes(*depth, &[])).collect();
        let read = read_dump(&bytes, 100);
        read.iter().for_each(Index::assert_invariants);
        read.is_some()
    };
    assert!(read(&[8; 256]));
    assert!(read(&[&[9, 10, 10][..], &[8; 255]].concat()));
    assert!(!read(&[8; 255]), "the last is missing");
    assert!(!read(&[8; 257]), "one lies behind the end");
    assert!(!read(&[&[9, 8, 9][..], &[8; 254]].concat()), "one begins within its prefix");
    assert!(!read(&[7; 128]));
    assert!(!read(&[49; 256]));
    let plain = plain(&mut Rng::with_seed(1));
    for (upper, is_sound) in [(0, true), (1, false)] {
        let position = upper << 55 | 77;
        let entry = Entry::new(Sort::of(Ident { position, fingerprint: 0 }), &plain).0;
        let others = [8; 255].map(|depth| part_bytes(depth, &[])).concat();
        let bytes = [part_bytes(9, &[entry]), part_bytes(9, &[]), others].concat();
        assert_eq!(read_dump(&bytes, 100).is_some(), is_sound, "an entry of another part");
    }
}

#[test]
fn what_was_read_of_a_dump_is_cleared_without_a_look_at_it() {
    let index = filled(10_000, Crowd::None);
    let mut read = read_dump(&dump(&index), 5_000).unwrap();
    assert_eq!(read.timestamp_max, Timestamp::ZERO);
    let full = read.memory_bytes();
    let version = Version { timestamp: Timestamp(1), node: NodeId(1) };
    assert!(read.clear(version).is_empty());
    assert_eq!(read.totals().key_count, 0);
    let empty = Index::new().memory_bytes();
    assert_eq!(read.memory_bytes(), full + empty, "nothing was freed yet");
    let mut steps = 0;
    while read.is_freeing() {
        let before = read.memory_bytes();
        read.free_some(8);
        let freed = before - read.memory_bytes();
        assert!(freed <= 8 * 26 * 256 * 5 / 4 || !read.is_freeing());
        steps += 1;
    }
    assert!(steps >= 10_000 / 256 / 8);
    assert_eq!(read.memory_bytes(), empty);
}

#[test]
fn what_is_due_is_found_once_with_a_bounded_number_of_looks() {
    let mut rng = Rng::with_seed(7);
    let (mut index, mut model) = (Index::new(), BTreeMap::new());
    for _ in 0..50_000 {
        let ident = Ident { position: rng.u64(..), fingerprint: 0 };
        let known = known(&mut rng);
        index.put(ident, &known);
        model.insert(ident, known);
    }
    let now = WallTime::from_millis(500);
    // A value that was freed does not expire again.
    let is_due =
        |known: &&Known| !known.is_tombstone && known.expires_at.is_some_and(|at| at <= now);
    let due = model.values().filter(is_due).count();
    let mut found = 0;
    for _ in 0..2_000 {
        let mut budget = 100;
        while let Some(ident) = index.next_due(&mut budget, now) {
            assert!(budget < 100, "a key that is due is not free");
            let known = index.remove(ident).unwrap();
            assert!(known.expires_at.unwrap() <= now);
            found += 1;
        }
    }
    assert_eq!(found, due);
}

#[test]
fn an_entry_moves_only_from_where_it_is() {
    let mut rng = Rng::with_seed(1);
    let mut index = Index::new();
    let ident = Ident { position: 1, fingerprint: 9 };
    let known = known(&mut rng);
    index.put(ident, &known);
    let to = Place { file: FileId(3), offset: 16 };
    assert!(!index.relocate(ident, to, known.place));
    assert!(index.relocate(ident, known.place, to));
    assert_eq!(index.find(ident), Some(Known { place: to, ..known }));
}

#[test]
fn a_key_costs_less_than_32_bytes() {
    let mut rng = Rng::with_seed(1);
    let (mut index, plain) = (Index::new(), plain(&mut rng));
    let mut largest = 0.0_f64;
    for count in 1..=1_000_000_u64 {
        index.put(Ident { position: rng.u64(..), fingerprint: 0 }, &plain);
        if count >= 100_000 && count.is_multiple_of(50_000) {
            largest = largest.max(index.memory_bytes() as f64 / count as f64);
        }
    }
    println!("{largest:.2} bytes a key at most");
    assert!(largest < 32.0, "{largest:.2} bytes a key");
}
