//! The bytes on disk are those of the fixture: a change of format must be meant.
//!
//! # When a change is meant
//!
//! Raise `FORMAT`, and add a fixture beside the old one, which the program must still read or
//! refuse: `UPDATE_FIXTURE=1 cargo test -p gridkv-storage the_log_is_written_as_ever` writes the
//! fixture of the present `FORMAT`.
//!
//! # The fixture
//!
//! ```text
//! file 0000000000.log of 65536 bytes
//! 00000000 9f3c...        32 bytes from this offset; lines of zeros are left out
//! ```

use std::fmt::Write as _;
use std::path::PathBuf;

use super::kit::{Rig, SEGMENT_BYTES, small};
use super::*;
use crate::file::format::FORMAT;

const LINE_BYTES: usize = 32;
const EXPIRES_AFTER: Duration = Duration::from_secs(3_600);

const PROMISED: Version = contract::version(40);

fn path(format: u32) -> PathBuf {
    let name = format!("tests/fixtures/format-{format}.txt");
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn long_key() -> Vec<u8> {
    (0..1_500_u32).map(|number| (number % 251) as u8).collect()
}

/// A directory with a sealed segment and one that is not.
fn write_directory() -> SimulatedDisk {
    let (mut rig, disk) = Rig::new(1);
    rig.set(b"cleared", b"gone");
    rig.commit();
    let cleared = contract::version(2);
    rig.store.clear(cleared).unwrap();
    rig.commit();
    rig.skip_version();
    rig.set(b"value", b"kept");
    rig.set(b"overwritten", b"before");
    rig.set(b"deleted", b"gone");
    let expires_at = rig.now + EXPIRES_AFTER;
    rig.apply(b"expiring", Some(b"for an hour"), Some(expires_at));
    rig.commit();
    rig.set(&long_key(), &[0xa5; 3_000]);
    rig.store.promise(PROMISED).unwrap();
    rig.commit();
    while let Err(error) = rig.store.roll() {
        let Error::Busy(ticket) = error else { panic!("{error}") };
        rig.wait_for(ticket).unwrap();
    }
    rig.set(b"overwritten", b"after");
    rig.set(b"empty", b"");
    rig.commit();
    rig.delete(b"deleted");
    rig.set(b"unsealed", b"in the last segment");
    rig.commit();
    let is_sealed = |rig: &Rig<SimulatedDisk>| rig.store.log.file(FileId(0)).state == State::Sealed;
    while !is_sealed(&rig) {
        rig.turn();
    }
    disk.crash();
    disk
}

fn dump(disk: &SimulatedDisk) -> String {
    let mut text = String::new();
    for (file, len) in disk.files() {
        writeln!(text, "file {:010}.log of {len} bytes", file.0).unwrap();
        let bytes = disk.bytes(file).unwrap();
        for (number, line) in bytes.chunks(LINE_BYTES).enumerate() {
            if line.iter().any(|byte| *byte != 0) {
                let hex: String = line.iter().map(|byte| format!("{byte:02x}")).collect();
                writeln!(text, "{:08x} {hex}", number * LINE_BYTES).unwrap();
            }
        }
    }
    text
}

/// A disk with the files of a format's fixture.
pub(in crate::file) fn fixture(format: u32) -> SimulatedDisk {
    let text = std::fs::read_to_string(path(format)).expect("the fixture is checked in");
    restore_dump(&text)
}

fn restore_dump(text: &str) -> SimulatedDisk {
    let disk = SimulatedDisk::new(2, Faults::NONE);
    let (mut file, mut bytes) = (FileId(0), Vec::new());
    for line in text.lines() {
        let (first, rest) = line.split_once(' ').unwrap();
        if first == "file" {
            file = FileId(rest.split('.').next().unwrap().parse().unwrap());
            bytes = vec![0; SEGMENT_BYTES as usize];
            disk.put(file, bytes.clone());
            continue;
        }
        let at = usize::from_str_radix(first, 16).unwrap();
        for (index, pair) in rest.as_bytes().chunks(2).enumerate() {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes[at + index] = u8::from_str_radix(pair, 16).unwrap();
        }
        disk.put(file, bytes.clone());
    }
    disk
}

#[test]
fn the_log_is_written_as_ever() {
    let found = dump(&write_directory());
    if std::env::var_os("UPDATE_FIXTURE").is_some() {
        std::fs::create_dir_all(path(FORMAT).parent().unwrap()).unwrap();
        std::fs::write(path(FORMAT), &found).unwrap();
    }
    let expected = std::fs::read_to_string(path(FORMAT)).expect("the fixture is checked in");
    let mut lines = expected.lines().zip(found.lines());
    let difference = lines.find(|(expected, found)| expected != found);
    assert!(
        difference.is_none() && expected.len() == found.len(),
        "the bytes on disk are others than those of format {FORMAT}: {difference:?}. Nodes in use \
         have the old ones. If the change is meant, raise FORMAT, and add a fixture beside the old \
         one with UPDATE_FIXTURE=1"
    );
}

/// A key, its value, its version's number, and its expiry.
type Expected<'a> = (&'a [u8], &'a [u8], u64, Option<WallTime>);

#[test]
fn the_fixture_of_the_format_is_read() {
    let mut rig = Rig::open(fixture(FORMAT), small());
    let expected = Recovered {
        has_checkpoint: false,
        segment_count: 2,
        scanned_count: 1,
        record_count: 12,
        torn_bytes: 0,
        damages: Vec::new(),
    };
    assert_eq!(rig.recovered, expected);
    let long_key = long_key();
    let expires_at = rig.now + EXPIRES_AFTER;
    let records: [Expected<'_>; 6] = [
        (b"value", b"kept", 3, None),
        (b"expiring", b"for an hour", 6, Some(expires_at)),
        (&long_key, &[0xa5; 3_000], 7, None),
        (b"overwritten", b"after", 8, None),
        (b"empty", b"", 9, None),
        (b"unsealed", b"in the last segment", 11, None),
    ];
    for (key, value, version, expires_at) in records {
        let ticket = rig.store.load_now(contract::token_of(key), key).unwrap();
        let found = rig.store.peek(contract::token_of(key), key, rig.now).record().unwrap();
        let version = contract::version(version);
        assert_eq!(found, Some(Record { value, version, expires_at }));
        rig.store.release(ticket);
    }
    let model = records.map(|(key, value, ..)| (key.to_vec(), value.to_vec()));
    rig.assert_holds(&model.into());
    assert_eq!(rig.store.version_max(), contract::version(11));
    assert_eq!(rig.store.promised(), PROMISED);
    rig.now = expires_at;
    assert_eq!(rig.read(b"expiring").unwrap(), None);
}
