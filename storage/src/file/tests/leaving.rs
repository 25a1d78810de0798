//! Files that leave the log: no snapshot is told of them, and one that a snapshot has is not written to.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::rc::Rc;

use super::kit::{Rig, small};
use super::*;
use crate::disk::{Buffer, Completion, Op, OpId};
use crate::file::log::File;

/// What a test knows of the files besides their contents.
#[derive(Debug, Default)]
struct Names {
    /// Those that another directory has too.
    shared: BTreeSet<FileId>,
    /// What is being deleted, and whose header is being written.
    leaving: BTreeMap<OpId, FileId>,
    deleted_shared_count: u64,
}

/// A disk with second names, which sees to it that nothing is written to a file that has one.
struct Linked {
    disk: SimulatedDisk,
    names: Rc<RefCell<Names>>,
}

impl Disk for Linked {
    fn start(&mut self, op: Op) -> OpId {
        let file = op.file();
        let mut names = self.names.borrow_mut();
        let is_shared = names.shared.contains(&file);
        let leaves = match &op {
            Op::Create { .. } | Op::Write { .. } if is_shared => {
                panic!("file {} has a second name and is written to", file.0)
            }
            Op::Delete { .. } => {
                names.deleted_shared_count += u64::from(names.shared.remove(&file));
                true
            }
            Op::Write { offset, .. } => *offset == 0,
            Op::Create { .. } | Op::Sync { .. } | Op::Read { .. } => false,
        };
        let id = self.disk.start(op);
        if leaves {
            names.leaving.insert(id, file);
        }
        id
    }

    fn poll(&mut self) -> Option<Completion> {
        let completion = self.disk.poll()?;
        self.names.borrow_mut().leaving.remove(&completion.id);
        Some(completion)
    }

    fn wait(&mut self) -> io::Result<()> {
        self.disk.wait()
    }

    fn read_now(&mut self, file: FileId, offset: u64, buffer: &mut Buffer) -> io::Result<()> {
        self.disk.read_now(file, offset, buffer)
    }

    fn files(&self) -> Vec<(FileId, u64)> {
        self.disk.files()
    }

    fn is_shared(&self, file: FileId) -> bool {
        self.names.borrow().shared.contains(&file)
    }
}

/// A store that overwrites its keys, so that files are freed and deleted, and what was seen on the way.
struct Churn {
    rig: Rig<Linked>,
    names: Rc<RefCell<Names>>,
    rng: Rng,
    leaving_count: u64,
}

impl Churn {
    fn new(seed: u64) -> Self {
        let disk = SimulatedDisk::new(seed, Faults { slow_operation: 0.05, ..Faults::NONE });
        let names = Rc::new(RefCell::new(Names::default()));
        let rig = Rig::open(Linked { disk, names: Rc::clone(&names) }, small());
        Self { rig, names, rng: Rng::with_seed(seed), leaving_count: 0 }
    }

    /// Overwrites a key, and looks.
    fn step(&mut self) {
        let key = self.rng.u32(..100).to_be_bytes();
        self.rig.set(&key, &vec![7; self.rng.usize(..3_000)]);
        self.rig.turn();
        if self.rng.u8(..50) == 0 {
            self.rig.turn_after(Duration::from_secs(5));
        }
        let listed = self.rig.store.record_files();
        for file in self.names.borrow().leaving.values() {
            assert!(!listed.contains(&file.name()), "file {} is listed and leaves", file.0);
            let is_leaving = self.rig.store.log.file(*file).state == State::Leaving;
            self.leaving_count += u64::from(is_leaving);
        }
    }

    /// The files in one of these states.
    fn files_in(&self, states: &[State]) -> Vec<FileId> {
        let files = (0..).map(FileId).zip(&self.rig.store.log.files);
        let is_wanted = |file: &Option<File>| file.is_some_and(|it| states.contains(&it.state));
        files.filter(|(_, file)| is_wanted(file)).map(|(number, _)| number).collect()
    }

    /// Gives a file in one of these states a second name.
    fn share_one(&mut self, states: &[State]) -> Option<FileId> {
        let file = self.files_in(states).first().copied()?;
        let is_quiet = !self.names.borrow().leaving.values().any(|it| *it == file);
        (is_quiet && self.names.borrow_mut().shared.insert(file)).then_some(file)
    }
}

#[test]
fn a_file_that_is_marked_free_or_deleted_is_not_listed() {
    for seed in 0..4 {
        let mut churn = Churn::new(seed);
        for _ in 0..4_000 {
            churn.step();
        }
        assert!(churn.leaving_count > 100, "{} seen leaving", churn.leaving_count);
    }
}

#[test]
fn a_free_file_with_a_second_name_is_deleted_and_not_used_again() {
    for states in [&[State::Free][..], &[State::Sealed, State::Emptied]] {
        let mut churn = Churn::new(9);
        let mut shared_count = 0;
        for _ in 0..6_000 {
            churn.step();
            if churn.rng.u8(..20) == 0 {
                shared_count += u64::from(churn.share_one(states).is_some());
            }
        }
        let names = churn.names.borrow();
        assert!(names.deleted_shared_count > 20, "{} were deleted", names.deleted_shared_count);
        assert_eq!(names.deleted_shared_count + names.shared.len() as u64, shared_count);
    }
}
