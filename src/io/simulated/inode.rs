//! Owns one simulated file's content: what the running system sees, what stable storage has, and
//! the unsynced changes between them.

use bytes::Bytes;

use super::prefix;
use crate::io::entropy::Random;

const SECTOR: usize = 512;

#[derive(Default)]
pub(super) struct Inode {
    content: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// Changes ever made durable or dropped.
    settled: usize,
}

enum Change {
    Write { position: usize, bytes: Vec<u8> },
    Length(usize),
}

impl Inode {
    pub(super) fn len(&self) -> u64 {
        self.content.len() as u64
    }

    pub(super) fn read(&self, position: u64, length: usize) -> Bytes {
        let start = (position as usize).min(self.content.len());
        let end = (start + length).min(self.content.len());
        Bytes::copy_from_slice(&self.content[start..end])
    }

    pub(super) fn write(&mut self, position: u64, bytes: Vec<u8>) {
        let position = position as usize;
        let end = position + bytes.len();
        let grows = end > self.content.len();
        let write = Change::Write { position, bytes };
        self.apply(write);
        if grows {
            self.apply(Change::Length(end));
        }
    }

    /// Some sectors of a write arrive, others do not.
    pub(super) fn write_in_part(&mut self, position: u64, bytes: &[u8], random: &mut Random) {
        for (index, sector) in bytes.chunks(SECTOR).enumerate() {
            let at = position + (index * SECTOR) as u64;
            if random.chance(1, 2) && at + sector.len() as u64 <= self.len() {
                self.write(at, sector.to_vec());
            }
        }
    }

    pub(super) fn set_length(&mut self, length: u64) {
        if length as usize != self.content.len() {
            self.apply(Change::Length(length as usize));
        }
    }

    /// Changes ever made: a sync begun now covers them.
    pub(super) fn change_count(&self) -> usize {
        self.settled + self.changes.len()
    }

    pub(super) fn sync(&mut self, upto: usize) {
        let count = upto.saturating_sub(self.settled);
        for change in self.changes.drain(..count) {
            replay(&mut self.durable, &change);
        }
        self.settled += count;
    }

    /// A failed sync: what it covered is on the device or lost, and reads see which (direct writes
    /// leave nothing in the page cache that could hide it).
    pub(super) fn sync_in_part(&mut self, upto: usize, random: &mut Random) {
        let count = upto.saturating_sub(self.settled);
        self.survive(count, random);
        self.content = self.durable.clone();
        for change in &self.changes {
            replay(&mut self.content, change);
        }
    }

    pub(super) fn power_cut(&mut self, random: &mut Random) {
        self.survive(self.changes.len(), random);
        self.content = self.durable.clone();
    }

    /// Settles the first `count` changes: lengths in order up to some point, sectors at random.
    fn survive(&mut self, count: usize, random: &mut Random) {
        let lengths = self.changes[..count]
            .iter()
            .filter(|change| matches!(change, Change::Length(_)))
            .count();
        let mut lengths_kept = prefix(random, lengths);
        // Some crashes keep nearly all, some nearly nothing: both are likelier to hurt than halves.
        let kept_in_8 = [0, 1, 4, 7, 8][random.below(5) as usize];
        let mut disk = std::mem::take(&mut self.durable);
        let mut length = disk.len();
        for change in self.changes.drain(..count) {
            match change {
                Change::Length(new) => {
                    if lengths_kept > 0 {
                        lengths_kept -= 1;
                        if new < length {
                            disk.resize(new, 0); // What is cut off never comes back.
                        }
                        length = new;
                    }
                }
                Change::Write { position, bytes } => {
                    let end = position + bytes.len();
                    if disk.len() < end {
                        disk.resize(end, 0);
                    }
                    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
                        if random.chance(kept_in_8, 8) {
                            let at = position + index * SECTOR;
                            disk[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        disk.resize(length, 0);
        self.durable = disk;
        self.settled += count;
    }

    fn apply(&mut self, change: Change) {
        replay(&mut self.content, &change);
        self.changes.push(change);
    }
}

fn replay(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(length) => content.resize(*length, 0),
        Change::Write { position, bytes } => {
            let end = position + bytes.len();
            if content.len() < end {
                content.resize(end, 0);
            }
            content[*position..end].copy_from_slice(bytes);
        }
    }
}
