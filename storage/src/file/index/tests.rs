use std::collections::BTreeMap;

use fastrand::Rng;
use gridkv_cluster::{NodeId, Timestamp};

use super::*;
use crate::disk::FileId;
use crate::file::format::GRANULE_BYTES;

fn known(rng: &mut Rng) -> Known {
    let is_odd = rng.u8(..8) == 0;
    Known {
        place: Place {
            file: FileId(rng.u32(..FILE_COUNT_MAX)),
            offset: rng.u32(..1 << 22) * GRANULE_BYTES as u32,
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

/// Positions all over the index, or crowded into a corner of it.
fn ident(rng: &mut Rng, is_crowded: bool) -> Ident {
    let position = if is_crowded { u64::MAX - rng.u64(..900) } else { rng.u64(..3_000) << 52 };
    Ident { position: position ^ rng.u64(..2), fingerprint: rng.u16(..2) << 11 | rng.u16(..2) }
}

fn assert_agrees(index: &Index, model: &BTreeMap<Ident, Known>, budget: usize) {
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
        let is_crowded = seed % 2 == 0;
        let (mut index, mut model) = (Index::new(), BTreeMap::new());
        let growth = rng.u8(1..10);
        for step in 0..6_000 {
            let ident = ident(&mut rng, is_crowded);
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
        let version = Version { timestamp: Timestamp(1 << 57), node: NodeId(0) };
        let left = index.clear(version);
        model.retain(|_, known| known.version > version);
        assert_eq!(left.len(), model.len());
        assert_agrees(&index, &model, 100);
    }
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
    let due = model.values().filter(|known| known.expires_at.is_some_and(|at| at <= now)).count();
    let mut found = 0;
    for _ in 0..2_000 {
        let mut budget = 100;
        while let Some(ident) = index.next_due(&mut budget, now) {
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
    let mut index = Index::new();
    let plain =
        Known { expires_at: None, is_tombstone: false, payload_bytes: 116, ..known(&mut rng) };
    let plain = Known { version: Version::ZERO, ..plain };
    for count in 1..=1_000_000_u64 {
        index.put(Ident { position: rng.u64(..), fingerprint: 0 }, &plain);
        if count >= 100_000 && count.is_multiple_of(50_000) {
            let bytes = index.memory_bytes() as f64 / count as f64;
            assert!(bytes < 32.0, "{bytes:.1} bytes a key at {count} keys");
        }
    }
}
