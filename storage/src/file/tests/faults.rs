//! A disk that fails or is full: what was acknowledged stays, what cannot be done is said, reads go
//! on.

use std::collections::BTreeMap;

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;

/// Whether clients are told that there is room is looked at for so many turns.
const TURNS: usize = 2_000;
/// Full disks in an ordinary run.
const SEED_COUNT: u64 = 200;
/// A write that has to wait is tried again at most so often.
const TRIES_MAX: usize = 20_000;

/// Everything that changes a disk.
fn changes(disk: &SimulatedDisk) -> [u64; 5] {
    let it = disk.counts();
    let writes = [it.write_count, it.durable_write_count, it.sync_count];
    [writes[0], writes[1], writes[2], it.create_count, it.delete_count]
}

fn after_a_failure(durability: Durability, faults: Faults) {
    let disk = SimulatedDisk::new(1, Faults::NONE);
    let mut rig = Rig::open(disk.clone(), Setup { durability, ..small() });
    let mut model = BTreeMap::new();
    for number in 0..100_u32 {
        rig.set(&number.to_be_bytes(), &[7; 1_000]);
        model.insert(number.to_be_bytes().to_vec(), vec![7; 1_000]);
    }
    rig.store.request_commit();
    rig.commit();
    rig.settle(&disk);

    disk.set_faults(faults);
    rig.set(b"staged", b"not acknowledged");
    rig.store.request_commit();
    (0..TURNS).for_each(|_| rig.turn());
    assert!(rig.store.has_failed());
    assert!(rig.store.durable() < rig.store.appended());
    assert_eq!(rig.stats().failed_count, 1);
    let before = changes(&disk);

    disk.set_faults(Faults::NONE);
    assert!(matches!(rig.write(b"later", Some(b"x"), None), Err(Error::LogFailed)));
    assert!(matches!(rig.write(&[0; 4], None, None), Err(Error::LogFailed)));
    assert_eq!(rig.read(b"staged").unwrap().unwrap(), b"not acknowledged");
    model.iter().for_each(|(key, value)| assert_eq!(&rig.read(key).unwrap().unwrap(), value));
    rig.store.request_commit();
    (0..TURNS).for_each(|_| rig.turn_after(Duration::from_millis(10)));
    rig.store.close();
    assert_eq!(changes(&disk), before, "nothing is written after a failure");
    assert!(rig.store.durable() < rig.store.appended());

    disk.crash();
    let mut rig = rig.reopen(disk.clone());
    for (key, value) in &model {
        assert_eq!(&rig.read(key).unwrap().unwrap(), value);
    }
    rig.set(b"later", b"x");
    rig.store.request_commit();
    rig.commit();
}

#[test]
fn after_a_failed_durable_write_nothing_more_is_written_and_all_is_read() {
    after_a_failure(Durability::Commit, Faults { sync_failure: 1.0, ..Faults::NONE });
    after_a_failure(Durability::Commit, Faults { write_failure: 1.0, ..Faults::NONE });
}

#[test]
fn after_a_failed_sync_nothing_more_is_written_and_all_is_read() {
    let durability = Durability::Interval(Duration::from_millis(5));
    after_a_failure(durability, Faults { sync_failure: 1.0, ..Faults::NONE });
    after_a_failure(Durability::None, Faults { sync_failure: 1.0, ..Faults::NONE });
}

/// Writes new keys until the disk is full. Returns how many there are.
fn fill_up(rig: &mut Rig<SimulatedDisk>, model: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> u32 {
    fill_up_with(rig, model, 1_000)
}

fn fill_up_with(
    rig: &mut Rig<SimulatedDisk>,
    model: &mut BTreeMap<Vec<u8>, Vec<u8>>,
    value_len: usize,
) -> u32 {
    for number in 0_u32.. {
        let key = number.to_be_bytes();
        match rig.write(&key, Some(&vec![7; value_len]), None) {
            Ok(_) => drop(model.insert(key.to_vec(), vec![7; value_len])),
            Err(Error::Busy(ticket)) => rig.wait_for(ticket).unwrap(),
            Err(Error::DiskFull) => return number,
            Err(error) => panic!("{error}"),
        }
        rig.turn();
    }
    unreachable!("the disk is bounded")
}

fn full(segments: u64) -> Faults {
    let capacity_bytes = Some(segments * u64::from(SEGMENT_BYTES));
    Faults { capacity_bytes, ..Faults::NONE }
}

#[test]
fn a_full_disk_takes_deletions_and_goes_on_when_there_is_room() {
    let (mut rig, disk) = Rig::new(2);
    let mut model = BTreeMap::new();
    disk.set_faults(full(6));
    let count = fill_up(&mut rig, &mut model);
    assert!(count > 140, "{count} keys");
    assert_eq!(rig.stats().full_count, 1);
    for number in 0..10_u32 {
        rig.delete(&number.to_be_bytes());
        model.remove(&number.to_be_bytes()[..]);
    }
    assert!(matches!(rig.write(b"new", Some(&[7; 1_000]), None), Err(Error::DiskFull)));
    rig.commit();
    rig.assert_holds(&model);

    disk.set_faults(Faults::NONE);
    rig.turn_after(Duration::from_secs(1));
    (0..100).for_each(|_| rig.turn());
    assert_eq!(rig.stats().full_count, 0);
    rig.set(b"new", b"value");
    model.insert(b"new".to_vec(), b"value".to_vec());
    rig.commit();
    disk.crash();
    let mut rig = rig.reopen(disk);
    rig.assert_holds(&model);
}

/// A file that could not be made, and that is not needed any more, is not due.
#[test]
fn a_log_that_was_full_lets_its_core_rest() {
    let mut full_count = 0;
    for segment_count in 4..9 {
        let (mut rig, disk) = Rig::new(segment_count);
        let mut model = BTreeMap::new();
        disk.set_faults(full(segment_count));
        let count = fill_up(&mut rig, &mut model);
        for number in 0..count {
            full_count += rig.stats().full_count;
            delete(&mut rig, &number.to_be_bytes());
            (0..2_000).for_each(|_| rig.turn());
            rig.turn_after(Duration::from_secs(1));
            (0..2_000).for_each(|_| rig.turn());
            assert!(!rig.is_at_work(&disk), "after {number} of {count}: {:?}", rig.stats());
        }
    }
    assert!(full_count > 0, "it was full");
}

/// Deletes a key as a client does, which waits when it is told to. `false` where the disk is full for
/// deletions too.
fn delete(rig: &mut Rig<SimulatedDisk>, key: &[u8]) -> bool {
    for _ in 0..TRIES_MAX {
        match rig.write(key, None, None) {
            Ok(_) => return true,
            Err(Error::Busy(ticket)) => rig.wait_for(ticket).unwrap(),
            // Crashes have left no segment with room for what is live in another.
            Err(Error::DiskFull) => return false,
            Err(error) => panic!("a deletion was refused: {error}"),
        }
    }
    panic!("a deletion waits for ever: {:?}", rig.stats());
}

/// However many deletions there are, and however small they are: each is taken in the end.
#[test]
fn a_full_disk_frees_itself_by_deletions_also_when_it_crashes_meanwhile() {
    let mut stuck_count = 0;
    for seed in 0..SEED_COUNT {
        let disk = SimulatedDisk::new(seed, Faults::NONE);
        let mut rig = Rig::open(disk.clone(), small());
        let mut rng = Rng::with_seed(seed);
        let mut model = BTreeMap::new();
        let mut segment_count = 5 + seed % 3;
        disk.set_faults(full(segment_count));
        let mut has_crashed = false;
        let value_len = [0, 8, 1_000][rng.usize(..3)];
        let count = fill_up_with(&mut rig, &mut model, value_len);
        let crash_every = rng.usize(5..500);
        let mut keys: Vec<u32> = (0..count).collect();
        rng.shuffle(&mut keys);
        for (number, key) in keys.into_iter().enumerate() {
            while !delete(&mut rig, &key.to_be_bytes()) {
                assert!(
                    has_crashed,
                    "seed {seed}: only crashes use up what is kept for compaction"
                );
                stuck_count += 1;
                segment_count += 1;
                disk.set_faults(full(segment_count));
                rig.turn_after(Duration::from_secs(1));
            }
            model.remove(&key.to_be_bytes()[..]);
            rig.turn_after(Duration::from_millis(1));
            if number % crash_every == crash_every - 1 {
                rig.commit();
                disk.crash();
                has_crashed = true;
                rig = rig.reopen(disk.clone());
                assert_eq!(rig.recovered.damages, [], "seed {seed}");
            }
        }
        rig.commit();
        rig.settle(&disk);
        rig.assert_holds(&model);
        let again = fill_up_with(&mut rig, &mut model, value_len);
        assert!(again * 4 > count, "seed {seed}: {again} keys, and {count} at first");
    }
    // Eight in 1,500 seeds.
    assert!(stuck_count * 50 < SEED_COUNT, "{stuck_count} times");
}

#[test]
fn a_read_that_the_disk_refuses_fails_and_the_next_one_does_not() {
    let (mut rig, disk) = Rig::new(4);
    for number in 0..100_u32 {
        rig.set(&number.to_be_bytes(), &[7; 1_000]);
    }
    rig.commit();
    rig.settle(&disk);
    let key = 3_u32.to_be_bytes();
    let (file, offset) = rig.place_of(&key);
    disk.set_faults(Faults { read_failure: 1.0, ..Faults::NONE });
    let error = rig.read(&key).unwrap_err();
    let ReadError::Disk { file: name, offset: at, .. } = error else { panic!("{error}") };
    assert_eq!((name, at), (format!("{:010}.log", file.0), offset));
    assert!(rig.store.load_now(contract::token_of(&key), &key).is_err());
    assert_eq!((rig.stats().read_error_count, rig.stats().damaged_count), (2, 0));
    disk.set_faults(Faults::NONE);
    assert_eq!(rig.read(&key).unwrap(), Some(vec![7; 1_000]));
    assert!(!rig.store.has_failed());
}

#[test]
fn those_who_wait_for_room_are_told_when_there_is_some() {
    let (mut rig, _) = Rig::new(5);
    let mut waited = 0;
    for number in 0..1_000_u32 {
        match rig.write(&number.to_be_bytes(), Some(&[7; 1_000]), None) {
            Ok(_) => {}
            Err(Error::Busy(ticket)) => {
                rig.wait_for(ticket).unwrap();
                waited += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(waited > 5, "it waited {waited} times");
}

#[test]
fn those_who_wait_for_room_are_told_when_the_log_fails() {
    let disk = SimulatedDisk::new(6, Faults::NONE);
    let mut rig = Rig::open(disk.clone(), setup(32 << 20, 0));
    let ticket = (0_u32..).find_map(|number| {
        match rig.write(&number.to_be_bytes(), Some(&[7; 10_000]), None) {
            Ok(_) => None,
            Err(Error::Busy(ticket)) => Some(ticket),
            Err(error) => panic!("{error}"),
        }
    });
    disk.set_faults(Faults { sync_failure: 1.0, ..Faults::NONE });
    rig.wait_for(ticket.unwrap()).unwrap();
    assert!(matches!(rig.write(b"key", Some(b"value"), None), Err(Error::LogFailed)));
}
