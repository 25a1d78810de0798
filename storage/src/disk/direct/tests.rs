use std::os::fd::AsRawFd;

use super::*;
use crate::disk::contract::{self, create, done, end_all, read, run, write};

const METHODS: [SyncMethod; 2] = [SyncMethod::Fdatasync, SyncMethod::Dsync];
const FILE: FileId = FileId(7);

fn open(directory: &Path, method: SyncMethod) -> DirectDisk {
    DirectDisk::open(directory, IoPort::new(), method).unwrap()
}

#[test]
fn the_direct_disk_is_a_disk() {
    for method in METHODS {
        let mut directories = Vec::new();
        contract::check(|| {
            directories.push(tempfile::tempdir().unwrap());
            Box::new(open(directories.last().unwrap().path(), method))
        });
    }
}

#[test]
fn what_was_written_is_there_when_the_directory_is_opened_again() {
    for method in METHODS {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("notes.txt"), "not a log").unwrap();
        std::fs::write(directory.path().join("7.log"), "not a log").unwrap();
        std::fs::write(directory.path().join("9999999999.log"), "not a log").unwrap();
        let mut disk = open(directory.path(), method);
        assert_eq!(disk.files(), []);
        done(&mut disk, create(3, true));
        done(&mut disk, write(1, 1, 8, true));
        assert_eq!(disk.files(), [], "what was there when it was opened");
        drop(disk);
        let mut disk = open(directory.path(), method);
        assert_eq!(disk.files(), [(FILE, 3 * BLOCK_BYTES as u64)]);
        let bytes = done(&mut disk, read(0, 3)).unwrap();
        let firsts: Vec<u8> = bytes.chunks(BLOCK_BYTES).map(|it| it[0]).collect();
        assert_eq!(firsts, [0, 8, 0]);
        done(&mut disk, Op::Delete { file: FILE });
        drop(disk);
        assert_eq!(open(directory.path(), method).files(), []);
        assert!(directory.path().join("7.log").exists());
    }
}

#[test]
fn a_file_that_does_not_fit_leaves_nothing_behind() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = open(directory.path(), SyncMethod::Dsync);
    let too_much = Op::Create { file: FILE, bytes: 1 << 60, is_written: true };
    assert!(run(&mut disk, too_much).result.is_err());
    assert!(std::fs::read_dir(directory.path()).unwrap().next().is_none());
    assert!(disk.read_now(FILE, 0, &mut crate::disk::zeroed(BLOCK_BYTES)).is_err());
    done(&mut disk, create(1, false));
}

#[test]
fn the_descriptor_of_a_removed_file_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = open(directory.path(), SyncMethod::Fdatasync);
    done(&mut disk, create(64, true));
    let number = disk.files[&FILE].descriptor.as_raw_fd();
    let link = format!("/proc/self/fd/{number}");
    let target = std::fs::read_link(&link).unwrap();
    assert!(target.starts_with(directory.path()));
    let reading = disk.start(read(0, 64));
    let deleting = disk.start(Op::Delete { file: FILE });
    end_all(&mut disk, &[reading, deleting]);
    // The close comes last, and nobody is told of it.
    while !disk.under_way.is_empty() || !disk.leaving.is_empty() {
        disk.port.drive(true).unwrap();
        disk.advance();
    }
    assert!(disk.ended.is_empty());
    let now = std::fs::read_link(&link);
    assert!(now.is_err() || !now.unwrap().starts_with(directory.path()));
}

#[test]
fn two_disks_of_one_port_hear_of_their_own_operations_only() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let port = IoPort::new();
    let mut disks = directories
        .each_ref()
        .map(|it| DirectDisk::open(it.path(), port.clone(), SyncMethod::Dsync).unwrap());
    for disk in &mut disks {
        done(disk, create(8, false));
    }
    let ids = disks
        .each_mut()
        .map(|disk| (0..8).map(|block| disk.start(write(block, 1, 1, true))).collect::<Vec<_>>());
    for (disk, ids) in disks.iter_mut().zip(ids) {
        assert_eq!(end_all(disk, &ids).len(), 8);
    }
    assert_eq!(port.in_flight(), 0);
    assert!(!port.has_submissions());
}

#[test]
fn a_disk_dropped_with_operations_under_way_leaves_the_port_usable() {
    let directories = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let port = IoPort::new();
    let open = |index: usize| {
        let path = directories[index].path();
        DirectDisk::open(path, port.clone(), SyncMethod::Fdatasync).unwrap()
    };
    let mut disk = open(0);
    done(&mut disk, create(64, true));
    disk.start(write(0, 32, 1, true));
    port.drive(false).unwrap();
    disk.start(write(32, 32, 1, true));
    disk.start(Op::Create { file: FileId(8), bytes: 1 << 20, is_written: true });
    drop(disk);
    let mut other = open(1);
    done(&mut other, create(1, true));
    port.stop_driving();
    assert_eq!(port.in_flight(), 0);
    assert!(port.next_submission().is_none());
}

#[test]
fn a_missing_directory_is_refused_by_name() {
    let error = DirectDisk::open(Path::new("/nowhere/at/all"), IoPort::new(), SyncMethod::Dsync)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("/nowhere/at/all"));
}

#[test]
fn a_file_made_anew_leaves_the_one_alone_that_a_snapshot_has() {
    for method in METHODS {
        let directory = tempfile::tempdir().unwrap();
        let mut disk = open(directory.path(), method);
        done(&mut disk, create(1, true));
        done(&mut disk, write(0, 1, 8, true));
        let (own, kept) =
            (directory.path().join(FILE.name()), directory.path().join("kept in a snapshot"));
        std::fs::hard_link(own, &kept).unwrap();
        done(&mut disk, create(1, true));
        let bytes = done(&mut disk, read(0, 1)).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0), "it is another file");
        assert!(std::fs::read(kept).unwrap().iter().all(|byte| *byte == 8));
    }
}
