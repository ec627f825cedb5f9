//! Owns how a log comes to life: creation, opening after a clean stop without looking at its data, and
//! recovery after a crash, which scans from the recovery point, cuts what does not continue, and rebuilds
//! indexes and producer state. It ends with everything it kept on stable storage.

mod scan;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use futures::lock::Mutex;

use super::appender::{add_last_time_entry, index_batch, write_aborted};
use super::compaction;
use super::epochs::EpochCache;
use super::header::{HEADER_BYTES, Header};
use super::journal::{JournaledRun, Journaling};
use super::offset_index::OffsetIndex;
use super::producers::ProducerStates;
use super::reader::Scanner;
use super::segment::{Indexes, Segment};
use super::tail_cache::Tail;
use super::time_index::{TimeIndex, TimestampOffset};
use super::writer::Writing;
use super::{Log, LogContext, LogError, LogSettings, State, checkpoints, segment_path};
use crate::ids::{Offset, TimestampMs};
use crate::io::{Disk, Mode};

/// Read at a time when whole segments are scanned.
const SCAN_BYTES: usize = 1 << 20;

/// What the checkpoints of the data folder say of a log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Opening {
    /// The last stop was clean: all files are complete and durable.
    pub clean: bool,
    pub recovery_point: Option<Offset>,
    pub log_start: Option<Offset>,
    /// Below lies what was cleaned.
    pub first_dirty: Option<Offset>,
    /// What the journals hold of it, oldest first; of no account after a clean stop.
    pub journaled: Vec<JournaledRun>,
}

/// What opening found and did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recovered {
    /// Read and checked, in bytes.
    pub scanned_bytes: u64,
    /// Cut off behind the last good batch; without preallocated zeroes.
    pub cut_bytes: u64,
    /// Removed because they do not continue the log.
    pub removed_segments: usize,
    /// Put into the segments from the journals.
    pub journaled_bytes: u64,
}

impl Log {
    /// A new, empty log in `dir`, which is made; `metadata` is the text of its `partition.metadata`.
    /// Nothing is synced before the first record is: the metadata log knows that the partition exists.
    pub async fn create(
        context: LogContext,
        dir: PathBuf,
        metadata: Option<&str>,
        settings: LogSettings,
        now_ms: TimestampMs,
    ) -> Result<Rc<Log>, LogError> {
        let create = async {
            let disk = &context.disk;
            disk.create_dir_all(&dir).await?;
            if let Some(text) = metadata {
                let path = dir.join(checkpoints::PARTITION_METADATA_FILE);
                disk.write_file(&path, text.as_bytes()).await?;
            }
            let segment = Segment::empty(Offset(0), now_ms);
            disk.open(&segment_path(&dir, segment.base, "log"), Mode::Create)
                .await?;
            Ok(segment)
        };
        let segment = create
            .await
            .map_err(|error| LogError::storage("creating a log", &error))?;
        let opened = Opened {
            segments: VecDeque::from([Rc::new(segment)]),
            producers: ProducerStates::new(Offset(0)),
            epochs: EpochCache::new(),
            start: Offset(0),
            recovery_point: Offset(0),
            first_dirty: None,
            dir_durable: false,
            changed: false,
        };
        Ok(opened.into_log(context, dir, settings, now_ms))
    }

    /// Opens the log in `dir`, recovering it where `opening` says that the last stop was not clean.
    pub async fn open(
        context: LogContext,
        dir: PathBuf,
        mut settings: LogSettings,
        opening: Opening,
        now_ms: TimestampMs,
    ) -> Result<(Rc<Log>, Recovered), LogError> {
        // It may have been compacted once, whatever its policy is now.
        settings.may_have_gaps |= opening.first_dirty.is_some();
        let mut recovery = Recovery {
            context: &context,
            dir: &dir,
            settings: &settings,
            now_ms,
            report: Recovered::default(),
            opening: &opening,
            finished: BTreeSet::new(),
            journaled: batches_of(&opening.journaled),
        };
        let opened = recovery
            .run(&opening)
            .await
            .map_err(|error| LogError::storage("opening a log", &error))?;
        let report = recovery.report;
        Ok((opened.into_log(context, dir, settings, now_ms), report))
    }
}

struct Opened {
    segments: VecDeque<Rc<Segment>>,
    producers: ProducerStates,
    epochs: EpochCache,
    start: Offset,
    recovery_point: Offset,
    first_dirty: Option<Offset>,
    dir_durable: bool,
    /// Something is not on disk as a clean stop leaves it.
    changed: bool,
}

impl Opened {
    fn into_log(
        self,
        context: LogContext,
        dir: PathBuf,
        settings: LogSettings,
        now_ms: TimestampMs,
    ) -> Rc<Log> {
        let end = self
            .segments
            .back()
            .expect("a log has a segment")
            .next_offset
            .get();
        let tail = Tail::new(context.budget.clone());
        let state = State {
            segments: self.segments,
            tail,
            epochs: self.epochs,
            epochs_dirty: false,
            changed: self.changed,
            doomed: Vec::new(),
            start: self.start,
            end,
            written_end: end,
            durable_end: end,
            issued_end: end,
            stored_end: end,
            synced_end: end,
            store_target: end,
            straight_end: end,
            behind_since_ms: now_ms,
            journaling: Journaling::new(end),
            recovery_point: self.recovery_point,
            unfinished: VecDeque::new(),
            writing: Writing::default(),
            syncing: false,
            finishing: false,
            flush_target: end,
            last_flush_ms: now_ms,
            last_append_ms: now_ms,
            readers_checked_ms: now_ms,
            first_dirty: self.first_dirty,
            swapping: false,
            swaps: 0,
            dir_durable: self.dir_durable.into(),
        };
        Rc::new(Log {
            context,
            dir: dir.into(),
            settings: Rc::new(settings).into(),
            state: state.into(),
            producers: self.producers.into(),
            observer: None.into(),
            failure: None.into(),
            waiters: Vec::new().into(),
            closing: false.into(),
            deleted: false.into(),
            uncleanable: false.into(),
            rearranging: Mutex::new(()),
        })
    }
}

/// Where a log without segments begins: where the journals' first entry does, unless something was between the log's
/// start and that, and is lost.
fn first_base(opening: &Opening) -> Offset {
    let log_start = opening.log_start.unwrap_or(Offset(0));
    match opening.journaled.first() {
        None => log_start,
        Some(first) => first.from.min(log_start.max(first.log_start)),
    }
}

/// The batches of the journals' entries.
fn batches_of(runs: &[JournaledRun]) -> VecDeque<(Header, Bytes)> {
    let mut batches = VecDeque::new();
    for run in runs {
        let mut rest = run.batches.clone();
        while let Some(header) = Header::parse(&rest)
            && header.size as usize <= rest.len()
        {
            batches.push_back((header, rest.split_to(header.size as usize)));
        }
    }
    batches
}

/// What a log's folder holds.
#[derive(Default)]
struct Found {
    /// By base offset.
    segments: Vec<FoundSegment>,
    snapshots: BTreeSet<Offset>,
    indexes: BTreeSet<Offset>,
    time_indexes: BTreeSet<Offset>,
    transaction_indexes: BTreeSet<Offset>,
}

#[derive(Clone, Copy)]
struct FoundSegment {
    base: Offset,
    length: u64,
    modified_ms: TimestampMs,
}

struct Recovery<'a> {
    context: &'a LogContext,
    dir: &'a Path,
    settings: &'a LogSettings,
    now_ms: TimestampMs,
    report: Recovered,
    opening: &'a Opening,
    /// Where there were snapshots of the producers: a segment that ended there had been synced before.
    finished: BTreeSet<Offset>,
    /// Batches that the journals hold and the segments may lack, oldest first.
    journaled: VecDeque<(Header, Bytes)>,
}

impl Recovery<'_> {
    fn disk(&self) -> &Disk {
        &self.context.disk
    }

    fn path(&self, base: Offset, extension: &str) -> PathBuf {
        segment_path(self.dir, base, extension)
    }

    async fn run(&mut self, opening: &Opening) -> io::Result<Opened> {
        let mut found = self.look_around().await?;
        if found.segments.is_empty() {
            // Where nothing was ever synced, the names in the folder may be gone, and only the journal knows.
            let base = first_base(opening);
            found.segments.push(FoundSegment {
                base,
                length: 0,
                modified_ms: self.now_ms,
            });
            self.disk()
                .open(&self.path(base, "log"), Mode::Create)
                .await?;
        }
        let mut epochs = self.read_epochs().await?;
        let last = found.segments.len() - 1;
        let mut clean = opening.clean;
        let mut segments = VecDeque::new();
        let scan_from = if clean {
            last
        } else {
            let point = opening.recovery_point.unwrap_or(Offset(0));
            let below = |index: usize| found.segments[index + 1].base <= point;
            (0..last).find(|index| !below(*index)).unwrap_or(last)
        };
        for index in 0..scan_from {
            let segment = self.trusted(&found, index).await?;
            segments.push_back(Rc::new(segment));
        }
        let mut producers = None;
        if clean {
            match self.load_active(&found).await? {
                Some(active) => segments.push_back(Rc::new(active)),
                None => clean = false, // Whoever said so was wrong.
            }
        }
        if clean {
            let end = segments.back().expect("just loaded").next_offset.get();
            producers = Some(self.load_producers(&found, &segments, end).await?);
        } else {
            let base = found.segments[scan_from].base;
            self.finished = found.snapshots.clone();
            self.remove_snapshots_above(&mut found, base).await?;
            let mut states = self.load_producers(&found, &segments, base).await?;
            epochs.truncate_from_end(base);
            self.scan_all(&found, scan_from, &mut segments, &mut states, &mut epochs)
                .await?;
            producers.replace(states);
        }
        let producers = producers.expect("loaded in both cases");
        self.conclude(opening, clean, segments, producers, epochs)
            .await
    }

    async fn conclude(
        &mut self,
        opening: &Opening,
        clean: bool,
        mut segments: VecDeque<Rc<Segment>>,
        mut producers: ProducerStates,
        mut epochs: EpochCache,
    ) -> io::Result<Opened> {
        let first = segments.front().expect("a log has a segment").base;
        let start = opening.log_start.unwrap_or(first).max(first);
        let end = segments
            .back()
            .expect("a log has a segment")
            .next_offset
            .get();
        if start > end {
            // What was kept lies wholly below the start: nothing of it may be served.
            for segment in segments.drain(..) {
                self.remove_segment(segment.base).await?;
            }
            self.disk()
                .open(&self.path(start, "log"), Mode::Create)
                .await?;
            segments.push_back(Rc::new(Segment::empty(start, self.now_ms)));
            producers = ProducerStates::new(start);
            epochs.clear();
        }
        epochs.truncate_from_start(start);
        epochs.truncate_from_end(end.max(start));
        producers.expire(self.now_ms, self.context.producer_id_expiration_ms.get());
        if !clean {
            // What is kept is promised from now on, and a folder that does not say whose it is would be set aside.
            let metadata = self.dir.join(checkpoints::PARTITION_METADATA_FILE);
            if self.disk().exists(&metadata).await? {
                let file = self.disk().open(&metadata, Mode::Read).await?;
                file.sync_data().await?;
            }
            // From here on the recovery point says that no one need look at these segments again.
            let path = self.dir.join(checkpoints::LEADER_EPOCH_FILE);
            let text = epochs.format();
            self.disk()
                .write_file_atomic(&path, text.as_bytes())
                .await?;
            self.disk().sync_dir(self.dir).await?;
            let parent = self.dir.parent().expect("a log lies in a data folder");
            self.disk().sync_dir(parent).await?;
        }
        let active = segments.back().expect("a log has a segment");
        Ok(Opened {
            recovery_point: if clean { end } else { active.base },
            segments,
            producers,
            epochs,
            start,
            // Never forgotten: whatever the log's policy becomes, the gaps stay.
            first_dirty: opening.first_dirty.map(|offset| offset.min(end)),
            // A log that was never written to has names that were never synced: the first sync sees to it.
            dir_durable: false,
            changed: !clean,
        })
    }

    /// Lists the folder, removing what earlier lives left half done.
    async fn look_around(&mut self) -> io::Result<Found> {
        compaction::finish_swaps(self.disk(), self.dir).await?;
        let mut found = Found::default();
        for entry in self.disk().list(self.dir).await? {
            let Some((stem, extension)) = entry.name.split_once('.') else {
                continue;
            };
            if [".deleted", ".tmp", ".cleaned"]
                .iter()
                .any(|suffix| entry.name.ends_with(suffix))
            {
                self.disk().remove(&self.dir.join(&entry.name)).await?;
                continue;
            }
            let Some(base) = stem.parse().ok().filter(|base| *base >= 0).map(Offset) else {
                continue;
            };
            match extension {
                "log" => found.segments.push(FoundSegment {
                    base,
                    length: entry.length,
                    modified_ms: entry.modified_ms,
                }),
                "snapshot" => drop(found.snapshots.insert(base)),
                "index" => drop(found.indexes.insert(base)),
                "timeindex" => drop(found.time_indexes.insert(base)),
                "txnindex" => drop(found.transaction_indexes.insert(base)),
                _ => {}
            }
        }
        found.segments.sort_by_key(|segment| segment.base);
        self.remove_orphans(&mut found).await?;
        Ok(found)
    }

    /// Indexes whose segment is gone, and snapshots that no recovery can start from.
    async fn remove_orphans(&self, found: &mut Found) -> io::Result<()> {
        let bases: BTreeSet<Offset> = found.segments.iter().map(|segment| segment.base).collect();
        let last_snapshot = found.snapshots.last().copied();
        let kept = |offset: &Offset| bases.contains(offset) || Some(*offset) == last_snapshot;
        for (extension, offsets) in [
            ("index", &mut found.indexes),
            ("timeindex", &mut found.time_indexes),
            ("txnindex", &mut found.transaction_indexes),
            ("snapshot", &mut found.snapshots),
        ] {
            let is_index = extension != "snapshot";
            let gone = |offset: &Offset| !bases.contains(offset) && (is_index || !kept(offset));
            for offset in offsets.extract_if(.., |offset| gone(offset)) {
                self.disk().remove(&self.path(offset, extension)).await?;
            }
        }
        Ok(())
    }

    async fn read_epochs(&self) -> io::Result<EpochCache> {
        let path = self.dir.join(checkpoints::LEADER_EPOCH_FILE);
        if !self.disk().exists(&path).await? {
            return Ok(EpochCache::new());
        }
        let bytes = self.disk().read_file(&path).await?;
        let parsed = std::str::from_utf8(&bytes)
            .ok()
            .and_then(|text| EpochCache::parse(text).ok());
        if parsed.is_none() {
            tracing::warn!(path = %path.display(), "the leader epochs are unreadable and start anew");
        }
        Ok(parsed.unwrap_or_default())
    }

    /// A sealed segment below the recovery point, or any after a clean stop: nothing of it is read,
    /// unless its indexes are gone.
    async fn trusted(&mut self, found: &Found, index: usize) -> io::Result<Segment> {
        let FoundSegment {
            base,
            length,
            modified_ms,
        } = found.segments[index];
        let next_offset = found.segments[index + 1].base;
        let segment = Segment::sealed(base, next_offset, length as u32, modified_ms);
        if !found.indexes.contains(&base) || !found.time_indexes.contains(&base) {
            let rebuilt = Segment::empty(base, self.now_ms);
            let mut scanner = self.scanner(base, length).await?;
            while let Some(header) = scanner.header(u64::from(rebuilt.size.get())).await? {
                index_batch(&rebuilt, &header, self.settings.index_interval_bytes);
            }
            self.write_indexes(&rebuilt).await?;
            self.disk().sync_dir(self.dir).await?;
            segment.largest.set(rebuilt.largest.get());
        }
        Ok(segment)
    }

    /// The active segment after a clean stop: its indexes, and the headers behind the last entry. None
    /// if the file does not end where a batch does.
    async fn load_active(&mut self, found: &Found) -> io::Result<Option<Segment>> {
        let FoundSegment {
            base,
            length,
            modified_ms,
        } = *found.segments.last().expect("at least one");
        let segment = Segment::empty(base, modified_ms);
        let indexes = self.read_indexes(found, base, length).await?;
        match segment.read_aborted(self.disk(), self.dir).await {
            Ok(aborted) => drop(segment.aborted.replace(Some(aborted))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => return Ok(None),
            Err(error) => return Err(error),
        }
        let (start, largest) = match &indexes {
            None => (0, None),
            Some(indexes) => (
                indexes.offsets.last().map_or(0, |entry| entry.position),
                indexes.times.last(),
            ),
        };
        let mut scanner = self.scanner(base, length).await?;
        if start > 0 {
            let first = scanner.header(0).await?;
            segment
                .first_timestamp
                .set(first.map(|header| header.max_timestamp()));
        }
        if let Some(indexes) = indexes {
            segment.indexes.replace(Some(indexes));
        }
        if let Some(largest) = largest {
            segment.note_timestamp(largest);
        }
        segment.size.set(start);
        while let Some(header) = scanner.header(u64::from(segment.size.get())).await? {
            // The last entry's own batch is met again.
            if start > 0 && segment.size.get() == start {
                segment.size.set(start + header.size);
                segment.next_offset.set(header.next_offset());
                segment.note_timestamp(TimestampOffset {
                    timestamp: header.max_timestamp(),
                    offset: header.last_offset(),
                });
                continue;
            }
            index_batch(&segment, &header, self.settings.index_interval_bytes);
        }
        if u64::from(segment.size.get()) != length {
            return Ok(None);
        }
        segment.set_stored(length as u32);
        Ok(Some(segment))
    }

    async fn read_indexes(
        &self,
        found: &Found,
        base: Offset,
        length: u64,
    ) -> io::Result<Option<Indexes>> {
        if !found.indexes.contains(&base) || !found.time_indexes.contains(&base) {
            return Ok(None);
        }
        let offsets = self.disk().read_file(&self.path(base, "index")).await?;
        let times = self.disk().read_file(&self.path(base, "timeindex")).await?;
        let decoded = OffsetIndex::decode(base, &offsets)
            .and_then(|offsets| Ok((offsets, TimeIndex::decode(base, &times)?)));
        let indexes = decoded
            .ok()
            .map(|(offsets, times)| Indexes { offsets, times });
        Ok(indexes.filter(|indexes| {
            let last = indexes.offsets.last();
            last.is_none_or(|entry| u64::from(entry.position) < length)
        }))
    }

    async fn scanner(&self, base: Offset, length: u64) -> io::Result<Scanner> {
        let file = self
            .disk()
            .open(&self.path(base, "log"), Mode::Read)
            .await?;
        Ok(Scanner::new(file, length, SCAN_BYTES))
    }

    async fn write_indexes(&self, segment: &Segment) -> io::Result<()> {
        add_last_time_entry(segment);
        write_aborted(self.disk(), self.dir, segment).await?;
        let (offsets, times) = {
            let indexes = segment.indexes.borrow();
            let indexes = indexes.as_ref().expect("just built");
            (indexes.offsets.encode_from(0), indexes.times.encode_from(0))
        };
        let path = self.path(segment.base, "index");
        self.disk().write_file_synced(&path, &offsets).await?;
        let path = self.path(segment.base, "timeindex");
        self.disk().write_file_synced(&path, &times).await
    }

    async fn remove_snapshots_above(&self, found: &mut Found, limit: Offset) -> io::Result<()> {
        for offset in found.snapshots.split_off(&limit.plus(1)) {
            self.disk().remove(&self.path(offset, "snapshot")).await?;
        }
        Ok(())
    }

    /// The producers' state at `upto`: the latest readable snapshot, and the headers from there on.
    async fn load_producers(
        &self,
        found: &Found,
        segments: &VecDeque<Rc<Segment>>,
        upto: Offset,
    ) -> io::Result<ProducerStates> {
        let first = segments.front().map_or(upto, |segment| segment.base);
        let mut states = ProducerStates::new(first);
        for offset in found.snapshots.range(..=upto).rev() {
            let bytes = self
                .disk()
                .read_file(&self.path(*offset, "snapshot"))
                .await?;
            match ProducerStates::decode_snapshot(*offset, &bytes) {
                Ok(decoded) => {
                    states = decoded;
                    break;
                }
                Err(error) => {
                    tracing::warn!(dir = %self.dir.display(), %offset, %error, "a producer snapshot is unreadable");
                }
            }
        }
        for segment in segments {
            if segment.next_offset.get() > states.end_offset() {
                self.replay_producers(segment, &mut states, upto).await?;
            }
        }
        states.advance_to(upto);
        Ok(states)
    }

    async fn replay_producers(
        &self,
        segment: &Segment,
        states: &mut ProducerStates,
        upto: Offset,
    ) -> io::Result<()> {
        let from = states.end_offset();
        let start = segment.lookup(self.disk(), self.dir, from).await?;
        let length = u64::from(segment.size.get());
        let mut scanner = self.scanner(segment.base, length).await?;
        let mut position = u64::from(start.position);
        while let Some(header) = scanner.header(position).await? {
            if header.base_offset >= upto {
                break;
            }
            if header.base_offset >= from {
                let body = if header.is_control() {
                    scanner.bytes(position, header.size as usize).await?
                } else {
                    bytes::Bytes::from_static(&[0; HEADER_BYTES])
                };
                header.note_producer(&body[HEADER_BYTES..], states);
            }
            position += u64::from(header.size);
        }
        Ok(())
    }

    async fn remove_segment(&self, base: Offset) -> io::Result<()> {
        for extension in ["index", "timeindex", "txnindex", "snapshot", "log"] {
            let path = self.path(base, extension);
            if self.disk().exists(&path).await? {
                self.disk().remove(&path).await?;
            }
        }
        Ok(())
    }
}
