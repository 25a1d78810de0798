//! One simulated file: what the disk holds, and what was written since and may be lost.
//!
//! ```text
//! durable    block 0 | block 1 | block 2 | ...        what a crash leaves
//! volatile             v1, v2                         completed, not synced: the newest is read
//! ```
//!
//! A version is *doomed* when the sync that was to make it durable has failed, and the kernel has
//! marked it as clean all the same: it is read until the next crash, and no sync brings it back.

use std::collections::BTreeMap;
use std::ops::Range;

use fastrand::Rng;

use super::Counts;
use crate::disk::BLOCK_BYTES;

/// What a disk writes in one piece.
const SECTOR_BYTES: usize = 512;

/// More versions of one block than this are not kept: the oldest has reached the disk by then.
const VERSION_COUNT_MAX: usize = 16;

/// A block as a write has left it.
struct Version {
    bytes: Box<[u8]>,
    completed_at: u64,
    is_doomed: bool,
}

/// The content of a file.
pub(super) struct File {
    durable: Vec<u8>,
    volatile: BTreeMap<usize, Vec<Version>>,
}

impl File {
    /// A file of `bytes`, all of them durable.
    pub(super) const fn new(bytes: Vec<u8>) -> Self {
        Self { durable: bytes, volatile: BTreeMap::new() }
    }

    pub(super) const fn len(&self) -> usize {
        self.durable.len()
    }

    /// What is durable.
    pub(super) fn durable(&self) -> &[u8] {
        &self.durable
    }

    /// What is read.
    pub(super) fn visible(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.len()];
        self.read(0, &mut bytes);
        bytes
    }

    fn block(&self, index: usize) -> Range<usize> {
        let start = index * BLOCK_BYTES;
        start..(start + BLOCK_BYTES).min(self.len())
    }

    /// Fills `buffer` with what completed writes have left.
    pub(super) fn read(&self, offset: usize, buffer: &mut [u8]) {
        assert!(offset.is_multiple_of(BLOCK_BYTES));
        buffer.copy_from_slice(&self.durable[offset..offset + buffer.len()]);
        for (chunk, index) in buffer.chunks_mut(BLOCK_BYTES).zip(offset / BLOCK_BYTES..) {
            if let Some(version) = self.volatile.get(&index).and_then(|it| it.last()) {
                chunk.copy_from_slice(&version.bytes[..chunk.len()]);
            }
        }
    }

    /// Takes in a completed write that is to be synced.
    pub(super) fn write(&mut self, offset: usize, bytes: &[u8], now: u64) {
        assert!(offset + bytes.len() <= self.len());
        for (chunk, index) in bytes.chunks_exact(BLOCK_BYTES).zip(offset / BLOCK_BYTES..) {
            self.add(index, chunk.into(), now, false);
        }
    }

    /// Takes in a completed write that is durable; what else was written is not touched.
    pub(super) fn write_durable(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len());
        for index in (offset / BLOCK_BYTES)..((offset + bytes.len()) / BLOCK_BYTES) {
            self.volatile.remove(&index);
        }
        self.durable[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Takes in a write that has failed: any of its sectors may have been written, any of its
    /// blocks may be read and yet never become durable.
    pub(super) fn write_badly(&mut self, offset: usize, bytes: &[u8], now: u64, rng: &mut Rng) {
        assert!(offset + bytes.len() <= self.len());
        for (chunk, index) in bytes.chunks_exact(BLOCK_BYTES).zip(offset / BLOCK_BYTES..) {
            if rng.bool() {
                let mut block = vec![0; BLOCK_BYTES];
                self.read(index * BLOCK_BYTES, &mut block);
                mix_sectors(&mut block, chunk, rng);
                self.add(index, block.into(), now, rng.bool());
            }
        }
    }

    /// Takes in some blocks of a write whose process has died.
    pub(super) fn write_some(&mut self, offset: usize, bytes: &[u8], now: u64, rng: &mut Rng) {
        assert!(offset + bytes.len() <= self.len());
        for (chunk, index) in bytes.chunks_exact(BLOCK_BYTES).zip(offset / BLOCK_BYTES..) {
            if rng.bool() {
                self.add(index, chunk.into(), now, false);
            }
        }
    }

    fn add(&mut self, index: usize, bytes: Box<[u8]>, now: u64, is_doomed: bool) {
        assert_eq!(bytes.len(), BLOCK_BYTES);
        let block = self.block(index);
        let versions = self.volatile.entry(index).or_default();
        versions.push(Version { bytes, completed_at: now, is_doomed });
        if versions.len() > VERSION_COUNT_MAX {
            let oldest = versions.remove(0);
            if !oldest.is_doomed {
                self.durable[block].copy_from_slice(&oldest.bytes);
            }
        }
    }

    /// A sync that started at `started_at` has ended well.
    pub(super) fn sync(&mut self, started_at: u64) {
        let indices: Vec<usize> = self.volatile.keys().copied().collect();
        for index in indices {
            self.sync_block(index, started_at);
        }
    }

    /// The newest version that the sync covers becomes durable; newer ones stay as they are.
    fn sync_block(&mut self, index: usize, started_at: u64) {
        let block = self.block(index);
        let versions = self.volatile.get_mut(&index).expect("the caller has seen it");
        let covers = |it: &Version| it.completed_at <= started_at && !it.is_doomed;
        if let Some(newest) = versions.iter().rposition(covers) {
            self.durable[block].copy_from_slice(&versions[newest].bytes);
            versions.drain(..=newest);
        }
        if versions.is_empty() {
            self.volatile.remove(&index);
        }
    }

    /// A sync that started at `started_at` has failed: of the blocks that it covers some were
    /// written, some are marked as clean though they were not, and some are as they were.
    pub(super) fn sync_badly(&mut self, started_at: u64, rng: &mut Rng, counts: &mut Counts) {
        let indices: Vec<usize> = self.volatile.keys().copied().collect();
        for index in indices {
            match rng.u8(..4) {
                0 => self.sync_block(index, started_at),
                1 => {}
                _ => {
                    let versions = self.volatile.get_mut(&index).expect("it is one of the keys");
                    for version in versions.iter_mut().filter(|it| it.completed_at <= started_at) {
                        counts.doomed_block_count += u64::from(!version.is_doomed);
                        version.is_doomed = true;
                    }
                }
            }
        }
    }

    /// Loses what is not durable: of each block independently all, nothing, or some sectors.
    pub(super) fn crash(&mut self, rng: &mut Rng, counts: &mut Counts) {
        for (index, mut versions) in std::mem::take(&mut self.volatile) {
            let block = self.block(index);
            let newest = versions.last().expect("a block without versions is removed");
            let newest = newest.bytes.clone();
            versions.retain(|it| !it.is_doomed);
            let is_torn = !versions.is_empty() && rng.u8(..4) == 0;
            let reached = rng.usize(0..=versions.len() - usize::from(is_torn));
            if reached > 0 {
                self.durable[block.clone()].copy_from_slice(&versions[reached - 1].bytes);
            }
            if is_torn {
                let bytes = &versions[reached].bytes;
                mix_sectors(&mut self.durable[block.clone()], bytes, rng);
            }
            let sectors = self.durable[block].chunks(SECTOR_BYTES).zip(newest.chunks(SECTOR_BYTES));
            let lost = sectors.filter(|(kept, wanted)| kept != wanted).count();
            counts.lost_sector_count += lost as u64;
            counts.torn_block_count += u64::from(is_torn && lost > 0);
            counts.lost_block_count += u64::from(!is_torn && lost > 0);
            counts.kept_block_count += u64::from(lost == 0);
        }
    }

    /// A write that a crash has cut off: each sector is as it was or as it was to be.
    pub(super) fn tear(&mut self, offset: usize, bytes: &[u8], rng: &mut Rng) {
        assert!(self.volatile.is_empty(), "a crash leaves what is durable");
        mix_sectors(&mut self.durable[offset..offset + bytes.len()], bytes, rng);
    }

    /// Changes one bit, wherever the byte is.
    pub(super) fn flip(&mut self, offset: usize, bit: u8) {
        self.durable[offset] ^= 1 << bit;
        for version in self.volatile.get_mut(&(offset / BLOCK_BYTES)).into_iter().flatten() {
            version.bytes[offset % BLOCK_BYTES] ^= 1 << bit;
        }
    }

    /// Makes it shorter, or longer with zeros.
    pub(super) fn resize(&mut self, len: usize) {
        self.durable = self.visible();
        self.volatile.clear();
        self.durable.resize(len, 0);
    }
}

/// Takes over about half of the sectors: none and all are among what may come out.
fn mix_sectors(into: &mut [u8], from: &[u8], rng: &mut Rng) {
    for (into, from) in into.chunks_mut(SECTOR_BYTES).zip(from.chunks(SECTOR_BYTES)) {
        if rng.bool() {
            into.copy_from_slice(&from[..into.len()]);
        }
    }
}
