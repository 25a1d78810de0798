//! Space is bounded: by what is live and a few segments, whatever the load, and over restarts.

use std::collections::BTreeMap;

use super::kit::{Rig, SEGMENT_BYTES};
use super::*;

const KEYS: u32 = 400;
const VALUE_BYTES: usize = 1_000;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

fn assert_is_bounded(rig: &Rig<SimulatedDisk>) {
    let stats = rig.stats();
    let bound = stats.live_bytes * 3 / 2 + 4 * u64::from(SEGMENT_BYTES);
    assert!(stats.disk_bytes <= bound, "{} bytes on disk, {stats:?}", stats.disk_bytes);
}

/// What a crash leaves is the same, and takes no more room.
fn assert_survives(mut rig: Rig<SimulatedDisk>, disk: &SimulatedDisk, model: &Model) {
    rig.assert_holds(model);
    rig.commit();
    disk.crash();
    let mut rig = rig.reopen(disk.clone());
    assert_eq!(rig.recovered.damages, []);
    rig.assert_holds(model);
    rig.settle(disk);
    assert_is_bounded(&rig);
    rig.assert_holds(model);
}

fn overwrite(rig: &mut Rig<SimulatedDisk>, model: &mut Model, rounds: u32) {
    for round in 0..rounds {
        for number in 0..KEYS {
            let key = format!("key-{number}").into_bytes();
            let value = vec![(round + number) as u8; VALUE_BYTES];
            rig.set(&key, &value);
            model.insert(key, value);
            if number % 4 == 0 {
                rig.turn();
            }
        }
    }
}

#[test]
fn overwriting_takes_half_as_much_again_as_what_is_live() {
    let (mut rig, disk) = Rig::new(1);
    let mut model = Model::new();
    overwrite(&mut rig, &mut model, 20);
    rig.settle(&disk);
    assert_is_bounded(&rig);
    assert_survives(rig, &disk, &model);
}

#[test]
fn compaction_goes_on_by_itself_until_it_has_caught_up() {
    let (mut rig, disk) = Rig::new(2);
    let mut model = Model::new();
    overwrite(&mut rig, &mut model, 20);
    rig.settle_by_due_times(&disk);
    assert_is_bounded(&rig);
    assert_survives(rig, &disk, &model);
}

#[test]
fn what_is_all_live_is_not_written_again() {
    for (segment_bytes, value_bytes, count) in [(64 << 10, 1_000, 1_000), (1 << 20, 16, 60_000)] {
        let disk = SimulatedDisk::new(8, Faults::NONE);
        let mut rig = Rig::open(disk.clone(), setup(segment_bytes, 0));
        for number in 0..count {
            rig.set(format!("key-{number}").as_bytes(), &vec![7; value_bytes]);
            if number % 100 == 0 {
                rig.turn();
            }
        }
        rig.settle(&disk);
        let stats = rig.stats();
        assert!(stats.compacted_bytes < stats.live_bytes / 10, "{value_bytes}: {stats:?}");
    }
}

#[test]
fn deleting_everything_leaves_a_few_segments() {
    let (mut rig, disk) = Rig::new(3);
    overwrite(&mut rig, &mut Model::new(), 2);
    for number in 0..KEYS {
        rig.delete(format!("key-{number}").as_bytes());
        rig.turn();
    }
    rig.settle(&disk);
    assert!(rig.stats().segment_count <= 4, "{:?}", rig.stats());
    assert_survives(rig, &disk, &Model::new());
}

#[test]
fn a_queue_of_keys_used_once_stays_small() {
    let (mut rig, disk) = Rig::new(4);
    let mut segment_count_max = 0;
    for number in 0..20_000_u32 {
        rig.set(format!("job-{number}").as_bytes(), &[7; 100]);
        if let Some(done) = number.checked_sub(50) {
            rig.delete(format!("job-{done}").as_bytes());
        }
        if number % 4 == 0 {
            rig.turn();
        }
        if number % 1_000 == 999 {
            rig.settle(&disk);
            segment_count_max = segment_count_max.max(rig.stats().segment_count);
        }
    }
    assert!(segment_count_max <= 6, "{segment_count_max} segments");
    let live = (19_950..20_000).map(|number| (format!("job-{number}").into(), vec![7; 100]));
    assert_survives(rig, &disk, &live.collect());
}

#[test]
fn what_has_expired_leaves_the_disk() {
    let (mut rig, disk) = Rig::new(5);
    rig.set(b"stays", b"here");
    let expires_at = rig.now + Duration::from_secs(1);
    for number in 0..1_000_u32 {
        rig.apply(&number.to_be_bytes(), Some(&[7; 500]), Some(expires_at));
        rig.turn();
    }
    rig.settle(&disk);
    assert!(rig.stats().segment_count >= 8, "{:?}", rig.stats());
    rig.now = expires_at;
    rig.store.collect_expired(10_000, expires_at);
    rig.settle(&disk);
    assert!(rig.stats().segment_count <= 4, "{:?}", rig.stats());
    assert_survives(rig, &disk, &Model::from([(b"stays".to_vec(), b"here".to_vec())]));
}

/// Restarts a store over and over, with some load before each, and returns the most segments that
/// it had once it had come to rest.
fn segments_over_restarts(seed: u64, keys_a_round: u32, turns: u32, is_crash: bool) -> u64 {
    let (mut rig, disk) = Rig::new(seed);
    let (mut model, mut segment_count_max) = (Model::new(), 0);
    for round in 0..30_u32 {
        for number in 0..keys_a_round {
            let key = format!("key-{}", (round * 7 + number) % 60).into_bytes();
            if number % 3 == 2 {
                rig.delete(&key);
                model.remove(&key);
            } else {
                let value = vec![round as u8; VALUE_BYTES];
                rig.set(&key, &value);
                model.insert(key, value);
            }
            (0..turns).for_each(|_| rig.turn());
        }
        rig.commit();
        if is_crash {
            disk.crash();
        } else {
            disk.kill();
        }
        rig = rig.reopen(disk.clone());
        assert_eq!(rig.recovered.damages, []);
        segment_count_max = segment_count_max.max(rig.stats().segment_count);
    }
    rig.assert_holds(&model);
    rig.settle(&disk);
    assert_survives(rig, &disk, &model);
    segment_count_max
}

#[test]
fn restarts_with_little_writing_do_not_use_up_the_disk() {
    for is_crash in [false, true] {
        let count = segments_over_restarts(6, 5, 40, is_crash);
        assert!(count <= 12, "{count} segments");
    }
}

#[test]
fn restarts_under_load_do_not_use_up_the_disk() {
    for is_crash in [false, true] {
        let count = segments_over_restarts(7, 1_000, 2, is_crash);
        assert!(count <= 30, "{count} segments");
    }
}
