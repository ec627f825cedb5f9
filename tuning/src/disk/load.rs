//! Owns loading a file with appends: so many outstanding at all times, written as the broker writes (what waits goes together,
//! few writes at a time, one sync at a time for all that was written before) or one by one. A closed loop: it finds out what
//! the disk gives, not how a broker fares under a rate.

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coati_bench::latency::Latencies;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use super::device::{BLOCK, Disk, File};

/// Space is reserved ahead of the writer in steps between these, as the broker does for its segments.
const ALLOCATION_MIN: u64 = 64 << 10;
const ALLOCATION_MAX: u64 = 32 << 20;

/// Bytes that a journal writes at a time, at most.
const JOURNAL_WRITE_BYTES_MAX: usize = 1 << 20;

/// Bytes that a segment is written at a time, at most.
const SEGMENT_WRITE_BYTES_MAX: usize = 2 << 20;

/// So many must wait for a write of a segment beside another.
const SEGMENT_BESIDE_BYTES_LEAST: usize = 512 << 10;

/// What a file is where an append comes to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileState {
    /// Its end: each write makes the file longer.
    Growing,
    /// Reserved (fallocate) and never written.
    Allocated,
    /// Written before, if only with zeroes.
    Zeroed,
}

/// Who appends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Way {
    /// Nobody in particular: each append is a write.
    Plain,
    /// As the broker's small appends go.
    Journal,
    /// As its large ones go.
    Segment,
}

/// Appends of one size, so many at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Load {
    pub way: Way,
    pub file: FileState,
    /// An append is done when it is on stable storage; else when the device has taken it.
    pub synced: bool,
    pub bytes: usize,
    /// Appends that are outstanding.
    pub depth: usize,
}

impl Load {
    pub fn plain(file: FileState, synced: bool, bytes: usize, depth: usize) -> Load {
        Load {
            way: Way::Plain,
            file,
            synced,
            bytes,
            depth,
        }
    }

    pub fn journal(bytes: usize, depth: usize) -> Load {
        Load {
            way: Way::Journal,
            file: FileState::Zeroed,
            synced: true,
            bytes,
            depth,
        }
    }

    pub fn segment(bytes: usize, depth: usize) -> Load {
        Load {
            way: Way::Segment,
            file: FileState::Allocated,
            ..Load::journal(bytes, depth)
        }
    }

    /// Appends that go into one write, at most.
    fn together_max(self) -> usize {
        let bytes = match self.way {
            Way::Plain => self.bytes,
            Way::Journal => JOURNAL_WRITE_BYTES_MAX,
            Way::Segment => SEGMENT_WRITE_BYTES_MAX,
        };
        (bytes / self.bytes).max(1)
    }

    /// How many appends must wait for a write beside so many; `None`: there may be none.
    fn waiting_least(self, writes: usize) -> Option<usize> {
        match (self.way, writes) {
            (_, 0) => Some(1),
            (Way::Plain, _) if writes < self.depth => Some(1),
            (Way::Segment, 1) => Some(SEGMENT_BESIDE_BYTES_LEAST.div_ceil(self.bytes)),
            _ => None,
        }
    }

    /// Bytes that are in flight at one time, at most.
    pub fn bytes_in_flight_max(self) -> usize {
        self.bytes * self.depth
    }
}

/// As people read it.
impl fmt::Display for Load {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (size, depth) = (in_words(self.bytes as u64), self.depth);
        let at_a_time = match depth {
            1 => "one at a time".to_owned(),
            depth => format!("{depth} at a time"),
        };
        match self.way {
            Way::Journal => write!(out, "journal: appends of {size}, {at_a_time}"),
            Way::Segment => write!(out, "segment: appends of {size}, {at_a_time}"),
            Way::Plain => {
                let synced = if self.synced { ", each synced" } else { "" };
                let state = match self.file {
                    FileState::Growing => "growing",
                    FileState::Allocated => "allocated",
                    FileState::Zeroed => "zeroed",
                };
                write!(out, "{state} file: writes of {size}, {at_a_time}{synced}")
            }
        }
    }
}

/// `64 KiB`: the largest unit that leaves no rest.
pub fn in_words(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units
        .iter()
        .find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift));
    unit.map_or(format!("{bytes} B"), |(shift, unit)| {
        format!("{} {unit}", bytes >> shift)
    })
}

/// Where appends come to lie, and what is in them.
pub struct Place<'a, D: Disk> {
    pub disk: &'a D,
    pub file: &'a D::File,
    /// Of the file, at most.
    pub length: u64,
    /// What writes are cut out of.
    pub content: &'a Bytes,
    /// Set when the file system refuses to reserve space.
    pub refuses_allocation: &'a Cell<bool>,
}

/// What became of a load.
#[derive(Debug, Default)]
pub struct Appended {
    pub appends: u64,
    pub writes: u64,
    pub syncs: u64,
    pub bytes: u64,
    /// Without the time that it took to begin the file anew.
    pub time: Duration,
    pub latencies: Latencies,
}

/// Appends until the time has come.
pub async fn append<D: Disk>(
    place: &Place<'_, D>,
    load: Load,
    until: Instant,
) -> io::Result<Appended> {
    assert!(load.bytes.is_multiple_of(BLOCK) && load.bytes_in_flight_max() as u64 <= place.length);
    let mut appended = Appended::default();
    loop {
        if load.file != FileState::Zeroed {
            place.file.truncate(0).await?;
        }
        let began = place.disk.now();
        if began >= until {
            return Ok(appended);
        }
        Round::new(place, load, until, &mut appended).run().await?;
        appended.time += place.disk.now() - began;
    }
}

/// What is done, and of which appends: when each began.
enum Done {
    Written(Vec<Instant>),
    Synced(Vec<Instant>),
    Allocated(u64),
}

type Doing<'a> = Pin<Box<dyn Future<Output = io::Result<Done>> + 'a>>;

/// Appends until the time has come or the file is full.
struct Round<'a, D: Disk> {
    place: &'a Place<'a, D>,
    load: Load,
    until: Instant,
    appended: &'a mut Appended,
    doing: FuturesUnordered<Doing<'a>>,
    /// Not in a write yet.
    waiting: VecDeque<Instant>,
    /// Written, and in no sync yet.
    written: Vec<Instant>,
    writes: usize,
    is_syncing: bool,
    is_allocating: bool,
    position: u64,
    /// How far space is reserved.
    allocated: u64,
    is_over: bool,
}

impl<'a, D: Disk> Round<'a, D> {
    fn new(
        place: &'a Place<'a, D>,
        load: Load,
        until: Instant,
        appended: &'a mut Appended,
    ) -> Round<'a, D> {
        let reserves = load.file == FileState::Allocated && !place.refuses_allocation.get();
        Round {
            place,
            load,
            until,
            appended,
            doing: FuturesUnordered::new(),
            waiting: VecDeque::from(vec![place.disk.now(); load.depth]),
            written: Vec::new(),
            writes: 0,
            is_syncing: false,
            is_allocating: false,
            position: 0,
            allocated: if reserves { 0 } else { u64::MAX },
            is_over: false,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        // Producers do not move in step: one half is written while the other is synced.
        let mut together_max = self.load.together_max().min(self.load.depth.div_ceil(2));
        loop {
            self.is_over |= self.place.disk.now() >= self.until;
            while !self.is_over && self.begin_write(together_max) {
                together_max = self.load.together_max();
            }
            self.begin_sync();
            match self.doing.next().await {
                None => return Ok(()),
                Some(done) => self.on_done(done?),
            }
        }
    }

    /// Whether there was one to begin.
    fn begin_write(&mut self, together_max: usize) -> bool {
        let Some(least) = self.load.waiting_least(self.writes) else {
            return false;
        };
        let count = self.waiting.len().min(together_max);
        if count < least {
            return false;
        }
        let bytes = (count * self.load.bytes) as u64;
        let mut position = self.position;
        if position + bytes > self.place.length {
            if self.load.file != FileState::Zeroed {
                self.is_over = true;
                return false;
            }
            position = 0;
        }
        if !self.has_space_upto(position + bytes) {
            return false;
        }
        self.position = position + bytes;
        self.writes += 1;
        self.appended.writes += 1;
        self.appended.bytes += bytes;
        let began: Vec<Instant> = self.waiting.drain(..count).collect();
        let content = self.place.content;
        // Not the same bytes again and again.
        let at = (position as usize) % (content.len() - bytes as usize + 1) / BLOCK * BLOCK;
        let (file, bytes) = (self.place.file, content.slice(at..at + bytes as usize));
        self.doing.push(Box::pin(async move {
            file.write(bytes, position).await?;
            Ok(Done::Written(began))
        }));
        true
    }

    /// Keeps the file ahead of the writer, as the broker does.
    fn has_space_upto(&mut self, needed: u64) -> bool {
        let step = needed
            .next_power_of_two()
            .clamp(ALLOCATION_MIN, ALLOCATION_MAX);
        let target = (needed + step).min(self.place.length);
        let runs_short = self.allocated < needed.saturating_add(step / 2);
        if runs_short && self.allocated < target && !self.is_allocating {
            self.is_allocating = true;
            let (place, from) = (self.place, self.allocated);
            self.doing.push(Box::pin(async move {
                match place.file.allocate(from, target - from).await {
                    Ok(()) => Ok(Done::Allocated(target)),
                    Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                        place.refuses_allocation.set(true);
                        Ok(Done::Allocated(u64::MAX))
                    }
                    Err(error) => Err(error),
                }
            }));
        }
        self.allocated >= needed
    }

    /// One at a time, for all that was written before it.
    fn begin_sync(&mut self) {
        if !self.load.synced || self.is_syncing || self.written.is_empty() {
            return;
        }
        self.is_syncing = true;
        self.appended.syncs += 1;
        let (file, written) = (self.place.file, std::mem::take(&mut self.written));
        self.doing.push(Box::pin(async move {
            file.sync().await?;
            Ok(Done::Synced(written))
        }));
    }

    fn on_done(&mut self, done: Done) {
        match done {
            Done::Written(mut began) => {
                self.writes -= 1;
                match self.load.synced {
                    true => self.written.append(&mut began),
                    false => self.acknowledge(&began),
                }
            }
            Done::Synced(began) => {
                self.is_syncing = false;
                self.acknowledge(&began);
            }
            Done::Allocated(upto) => {
                self.is_allocating = false;
                self.allocated = upto;
            }
        }
    }

    fn acknowledge(&mut self, began: &[Instant]) {
        let now = self.place.disk.now();
        for began in began {
            self.appended.latencies.record(now - *began);
            self.appended.appends += 1;
            self.waiting.push_back(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::disk::fake::FakeDisk;

    fn appended(load: Load, length: u64) -> Appended {
        let disk = FakeDisk::default();
        let dir = tempfile::tempdir().unwrap();
        let file = disk.create(&dir.path().join("file")).now_or_never();
        let file = file.unwrap().unwrap();
        let place = Place {
            disk: &disk,
            file: &file,
            length,
            content: &disk.aligned(&[7; 4 << 20]),
            refuses_allocation: &Cell::new(false),
        };
        let until = disk.now() + Duration::from_secs(1);
        append(&place, load, until).now_or_never().unwrap().unwrap()
    }

    #[test]
    fn small_appends_go_into_the_journal_together() {
        let alone = appended(Load::journal(4096, 1), 64 << 20);
        assert_eq!((alone.writes, alone.syncs), (alone.appends, alone.appends));
        let many = appended(Load::journal(4096, 64), 64 << 20);
        assert_eq!(many.bytes, many.appends * 4096);
        let together = many.appends / many.writes;
        assert!((30..=64).contains(&together), "{together} a write");
        // None is larger than a journal writes at a time.
        let large = appended(Load::journal(128 << 10, 64), 64 << 20);
        assert_eq!(large.appends / large.writes, 8);
    }

    #[test]
    fn segments_are_written_in_groups_and_plain_writes_are_not() {
        let segment = appended(Load::segment(256 << 10, 16), 64 << 20);
        assert_eq!(segment.bytes, segment.appends * (256 << 10));
        assert!((7..=8).contains(&(segment.appends / segment.writes)));
        for file in [FileState::Growing, FileState::Allocated, FileState::Zeroed] {
            for synced in [false, true] {
                // Full again and again.
                let plain = appended(Load::plain(file, synced, 64 << 10, 16), 1 << 20);
                assert_eq!(plain.appends, plain.writes);
                assert_eq!(plain.syncs > 0, synced);
                assert_eq!(plain.latencies.count(), plain.appends);
                assert!(
                    plain.time <= Duration::from_millis(1100),
                    "{:?}",
                    plain.time
                );
            }
        }
    }

    #[test]
    fn a_latency_is_from_when_a_place_was_free_until_the_append_is_done() {
        // Of the fake disk a write of 4 KiB takes 0.204 ms and a sync 0.2 ms, one after another.
        let alone = appended(Load::journal(4096, 1), 64 << 20);
        let summary = alone.latencies.summary().unwrap();
        assert!((summary.p50 - 0.404).abs() < 0.002, "{summary:?}");
        let rate = alone.appends as f64 / alone.time.as_secs_f64();
        assert!((rate - 1e3 / 0.404).abs() < 10.0, "{rate}");
    }

    #[test]
    fn sizes_are_in_the_largest_unit_that_fits() {
        let sizes = [0, 1000, 4096, 1 << 20, 3 << 30, (1 << 20) + 4096];
        let words = ["0 B", "1000 B", "4 KiB", "1 MiB", "3 GiB", "1028 KiB"];
        assert_eq!(sizes.map(in_words), words);
    }
}
