//! Owns which part of the journal's files is used for what: zones that are filled one after the other, and freed when
//! every log with entries in them has these in synced segments. Touches no file.

use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::frame::Place;
use crate::ids::Offset;
use crate::io::BLOCK;
use crate::log::Log;

/// A log's entry in the list of a zone: the sequence of the zone's use, and the number in the list.
pub(in crate::log) type Slot = Option<(u64, usize)>;

pub(super) struct Zones {
    generation: u64,
    zone_bytes: u32,
    files: usize,
    zones: Vec<Zone>,
    /// Begun and still needed, oldest first; the last is being filled.
    live: VecDeque<usize>,
    free: VecDeque<usize>,
    next_sequence: u64,
}

struct Zone {
    file: usize,
    /// In the file.
    start: u64,
    sequence: u64,
    used: u32,
    frames: u32,
    holders: Vec<Holder>,
}

/// A log, and the offset behind its last record in the zone.
struct Holder {
    log: Weak<Log>,
    upto: Offset,
}

impl Holder {
    fn is_settled(&self) -> bool {
        // A log that is gone was deleted.
        let log = self.log.upgrade();
        log.is_none_or(|log| log.is_stored_below(self.upto))
    }
}

impl Zones {
    pub(super) fn new(generation: u64, zone_bytes: u32) -> Zones {
        Zones {
            generation,
            zone_bytes,
            files: 0,
            zones: Vec::new(),
            live: VecDeque::new(),
            free: VecDeque::new(),
            next_sequence: 1,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.zones.len()
    }

    pub(super) fn free_count(&self) -> usize {
        self.free.len()
    }

    pub(super) fn live_count(&self) -> usize {
        self.live.len()
    }

    /// The number of the file that comes next, and what tells its frames from those of all others.
    pub(super) fn next_file(&self) -> (usize, u64) {
        (self.files, self.generation_of(self.files))
    }

    fn generation_of(&self, file: usize) -> u64 {
        self.generation.wrapping_add(file as u64)
    }

    /// The next file, zeroed and synced, has so many zones.
    pub(super) fn add_file(&mut self, zones: usize) {
        let before = self.zones.len();
        let starts = (BLOCK as u64..).step_by(self.zone_bytes as usize);
        self.zones.extend(starts.take(zones).map(|start| Zone {
            file: self.files,
            start,
            sequence: 0,
            used: 0,
            frames: 0,
            holders: Vec::new(),
        }));
        self.files += 1;
        self.free.extend(before..self.zones.len());
    }

    /// Bytes that one frame may take which needs at least `bytes`, beginning a new zone if need be. None: full.
    pub(super) fn room_for(&mut self, bytes: usize) -> Option<usize> {
        let bytes = bytes.next_multiple_of(BLOCK);
        assert!(bytes <= self.zone_bytes as usize);
        if let Some(current) = self.live.back() {
            let room = (self.zone_bytes - self.zones[*current].used) as usize;
            if room >= bytes {
                return Some(room);
            }
        }
        let next = self.free.pop_front()?;
        let zone = &mut self.zones[next];
        (zone.sequence, zone.used, zone.frames) = (self.next_sequence, 0, 0);
        self.next_sequence += 1;
        self.live.push_back(next);
        Some(self.zone_bytes as usize)
    }

    /// A place for a frame of `bytes`, for which there is room, and the number of its file.
    pub(super) fn place(&mut self, bytes: usize) -> (usize, Place) {
        let bytes = bytes.next_multiple_of(BLOCK) as u32;
        let floor = self.zones[self.live[0]].sequence;
        let number = *self.live.back().expect("room was made");
        let file = self.zones[number].file;
        let generation = self.generation_of(file);
        let zone = &mut self.zones[number];
        assert!(zone.used + bytes <= self.zone_bytes);
        let place = Place {
            generation,
            sequence: zone.sequence,
            floor,
            position: zone.start + u64::from(zone.used),
            number: zone.frames,
        };
        zone.used += bytes;
        zone.frames += 1;
        (file, place)
    }

    /// The current zone has an entry of `log` that ends at `upto`.
    pub(super) fn hold(&mut self, log: &Rc<Log>, upto: Offset) {
        let current = *self.live.back().expect("an entry was placed");
        let zone = &mut self.zones[current];
        match log.journal_slot() {
            Some((sequence, index)) if sequence == zone.sequence => zone.holders[index].upto = upto,
            _ => {
                log.set_journal_slot(Some((zone.sequence, zone.holders.len())));
                zone.holders.push(Holder {
                    log: Rc::downgrade(log),
                    upto,
                });
            }
        }
    }

    /// More than half of all the room is taken.
    pub(super) fn runs_short(&self) -> bool {
        let zone_bytes = self.zone_bytes as usize;
        let current = self.live.back();
        let left = current.map_or(0, |current| zone_bytes - self.zones[*current].used as usize);
        left + self.free.len() * zone_bytes < self.zones.len() * zone_bytes / 2
    }

    /// Logs that had something in the last zone that was filled.
    pub(super) fn log_count(&self) -> usize {
        let last_filled = self.live.iter().rev().nth(1);
        last_filled.map_or(0, |number| self.zones[*number].holders.len())
    }

    /// The sequence of the use of the one that is being filled.
    pub(super) fn current_sequence(&self) -> Option<u64> {
        let current = self.live.back()?;
        Some(self.zones[*current].sequence)
    }

    /// What keeps the live zone of this number, oldest first, from being freed. None: it was begun with `below` or later.
    pub(super) fn keepers(&self, live: usize, below: u64) -> Option<Vec<Rc<Log>>> {
        let zone = &self.zones[*self.live.get(live)?];
        let keepers = zone.holders.iter().filter(|holder| !holder.is_settled());
        (zone.sequence < below).then(|| keepers.filter_map(|holder| holder.log.upgrade()).collect())
    }

    /// Frees the live zone of this number unless it is still needed; `anyway` to see that it is missed. Whether it did.
    pub(super) fn recycle(&mut self, live: usize, anyway: bool) -> bool {
        let number = self.live[live];
        let holders = &mut self.zones[number].holders;
        let frees = anyway || holders.iter().all(Holder::is_settled);
        if frees {
            holders.clear();
            self.live.remove(live);
            self.free.push_back(number);
        }
        frees
    }
}
