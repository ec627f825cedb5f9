//! Owns one segment: its file, how far it is appended, written and synced, and its indexes: in memory
//! while it is active, on disk once it is sealed. It knows nothing of other segments.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;

use super::offset_index::{OffsetIndex, OffsetPosition};
use super::segment_path;
use super::time_index::{NO_TIMESTAMP, TimeIndex, TimestampOffset};
use super::transaction_index::{AbortedSearch, AbortedTransaction, TransactionIndex};
use crate::ids::{Offset, TimestampMs};
use crate::io::{Disk, File, Mode};

pub(super) struct Segment {
    pub(super) base: Offset,
    /// Behind the last record.
    pub(super) next_offset: Cell<Offset>,
    /// Bytes of batches, as far as appended.
    pub(super) size: Cell<u32>,
    /// Of these, handed to the device.
    pub(super) issued: Cell<u32>,
    /// Of these, taken by the device.
    pub(super) written: Cell<u32>,
    /// Of these, on stable storage.
    pub(super) synced: Cell<u32>,
    /// The file's length; behind `size` it holds zeroes.
    pub(super) allocated: Cell<u64>,
    pub(super) allocating: Cell<bool>,
    pub(super) syncing: Cell<bool>,
    /// The file's name is on stable storage.
    pub(super) name_durable: Cell<bool>,
    /// When it was begun, or when its file last changed.
    pub(super) created_ms: TimestampMs,
    /// Of the first batch; time-based rolling counts from it.
    pub(super) first_timestamp: Cell<Option<TimestampMs>>,
    /// The largest timestamp, and the last offset of its batch. None: ask the time index.
    pub(super) largest: Cell<Option<TimestampOffset>>,
    /// None once sealed and finished: then they are on disk.
    pub(super) indexes: RefCell<Option<Indexes>>,
    /// The transactions whose abort markers lie here. None: nobody has asked the file yet.
    pub(super) aborted: RefCell<Option<TransactionIndex>>,
    reader: RefCell<Option<File>>,
    /// Since the last `close_idle_reader`.
    was_read: Cell<bool>,
    writer: RefCell<Option<File>>,
}

pub(super) struct Indexes {
    pub(super) offsets: OffsetIndex,
    pub(super) times: TimeIndex,
}

impl Indexes {
    pub(super) fn new(base: Offset) -> Indexes {
        Indexes {
            offsets: OffsetIndex::new(base),
            times: TimeIndex::new(base),
        }
    }
}

impl Segment {
    /// A segment without bytes; its file need not exist yet.
    pub(super) fn empty(base: Offset, now_ms: TimestampMs) -> Segment {
        Segment {
            base,
            next_offset: Cell::new(base),
            size: Cell::new(0),
            issued: Cell::new(0),
            written: Cell::new(0),
            synced: Cell::new(0),
            allocated: Cell::new(0),
            allocating: Cell::new(false),
            syncing: Cell::new(false),
            name_durable: Cell::new(false),
            created_ms: now_ms,
            first_timestamp: Cell::new(None),
            largest: Cell::new(Some(no_timestamp(base))),
            indexes: RefCell::new(Some(Indexes::new(base))),
            aborted: RefCell::new(Some(TransactionIndex::new())),
            reader: RefCell::new(None),
            was_read: Cell::new(false),
            writer: RefCell::new(None),
        }
    }

    /// A segment whose file holds `size` bytes up to `next_offset`, all of them on stable storage, with
    /// its indexes on disk.
    pub(super) fn sealed(
        base: Offset,
        next_offset: Offset,
        size: u32,
        modified_ms: TimestampMs,
    ) -> Segment {
        let segment = Segment::empty(base, modified_ms);
        segment.next_offset.set(next_offset);
        segment.set_stored(size);
        segment.name_durable.set(true);
        segment.largest.set(None);
        segment.indexes.replace(None);
        segment.aborted.replace(None);
        segment
    }

    /// The file holds exactly these bytes.
    pub(super) fn set_stored(&self, size: u32) {
        self.size.set(size);
        self.issued.set(size);
        self.written.set(size);
        self.synced.set(size);
        self.allocated.set(u64::from(size));
    }

    pub(super) fn is_written(&self) -> bool {
        self.written.get() == self.size.get()
    }

    pub(super) fn note_timestamp(&self, seen: TimestampOffset) {
        let known = self.largest.get().unwrap_or(no_timestamp(self.base));
        if seen.timestamp > known.timestamp {
            self.largest.set(Some(seen));
        }
    }

    /// For searches, and ranges for sockets.
    pub(super) async fn reader(&self, disk: &Disk, dir: &Path) -> io::Result<File> {
        self.was_read.set(true);
        if let Some(file) = &*self.reader.borrow() {
            return Ok(file.clone());
        }
        let path = segment_path(dir, self.base, "log");
        let file = disk.open(&path, Mode::Serve).await?;
        file.read_nothing_ahead();
        self.reader.replace(Some(file.clone()));
        Ok(file)
    }

    /// For direct writes; makes the file if need be.
    pub(super) async fn writer(&self, disk: &Disk, dir: &Path) -> io::Result<File> {
        if let Some(file) = &*self.writer.borrow() {
            return Ok(file.clone());
        }
        let path = segment_path(dir, self.base, "log");
        let file = disk.open(&path, Mode::Create).await?;
        // Another write may have opened it meanwhile.
        Ok(self.writer.borrow_mut().get_or_insert(file).clone())
    }

    /// Lets go of the descriptors; what is in flight keeps its own.
    pub(super) fn close_files(&self) {
        self.reader.replace(None);
        self.writer.replace(None);
    }

    /// Lets go of the reading descriptor if nobody asked for it since the last call.
    pub(super) fn close_idle_reader(&self) {
        if !self.was_read.replace(false) {
            self.reader.replace(None);
        }
    }

    pub(super) fn has_files(&self) -> bool {
        self.reader.borrow().is_some() || self.writer.borrow().is_some()
    }

    /// Where to start looking for `offset`.
    pub(super) async fn lookup(
        &self,
        disk: &Disk,
        dir: &Path,
        offset: Offset,
    ) -> io::Result<OffsetPosition> {
        if let Some(indexes) = &*self.indexes.borrow() {
            return Ok(indexes.offsets.lookup(offset));
        }
        let start = OffsetPosition {
            offset: self.base,
            position: 0,
        };
        let path = segment_path(dir, self.base, "index");
        let relative = offset.0 - self.base.0;
        let found = search::<8>(disk, &path, |entry| {
            i64::from(u32::from_be_bytes(take(entry, 0))) <= relative
        })
        .await?;
        Ok(found.map_or(start, |entry| OffsetPosition {
            offset: self
                .base
                .plus(i64::from(u32::from_be_bytes(take(&entry, 0)))),
            position: u32::from_be_bytes(take(&entry, 4)),
        }))
    }

    /// The last time index entry at or below `timestamp`: an offset before which no record is younger.
    pub(super) async fn lookup_time(
        &self,
        disk: &Disk,
        dir: &Path,
        timestamp: TimestampMs,
    ) -> io::Result<TimestampOffset> {
        if let Some(indexes) = &*self.indexes.borrow() {
            return Ok(indexes.times.lookup(timestamp));
        }
        let path = segment_path(dir, self.base, "timeindex");
        let found = search::<12>(disk, &path, |entry| {
            i64::from_be_bytes(take(entry, 0)) <= timestamp
        })
        .await?;
        Ok(
            found.map_or(no_timestamp(self.base), |entry| TimestampOffset {
                timestamp: i64::from_be_bytes(take(&entry, 0)),
                offset: self
                    .base
                    .plus(i64::from(u32::from_be_bytes(take(&entry, 8)))),
            }),
        )
    }

    /// The abort marker of this transaction has been appended here.
    pub(super) fn note_aborted(&self, transaction: AbortedTransaction) {
        let mut aborted = self.aborted.borrow_mut();
        let index = aborted.as_mut().expect("known where batches are appended");
        index.append(transaction);
    }

    /// The transactions aborted in this segment that have records in `from..upto`.
    pub(super) async fn search_aborted(
        &self,
        disk: &Disk,
        dir: &Path,
        from: Offset,
        upto: Offset,
    ) -> io::Result<AbortedSearch> {
        if self.aborted.borrow().is_none() {
            let index = self.read_aborted(disk, dir).await?;
            self.aborted.borrow_mut().get_or_insert(index);
        }
        let aborted = self.aborted.borrow();
        Ok(aborted.as_ref().expect("just read").search(from, upto))
    }

    /// Most segments have no transaction index.
    pub(super) async fn read_aborted(
        &self,
        disk: &Disk,
        dir: &Path,
    ) -> io::Result<TransactionIndex> {
        let path = segment_path(dir, self.base, "txnindex");
        if !disk.exists(&path).await? {
            return Ok(TransactionIndex::new());
        }
        let bytes = disk.read_file(&path).await?;
        TransactionIndex::decode(self.base, &bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// The largest timestamp in the segment; `NO_TIMESTAMP` where no record has one.
    pub(super) async fn largest_timestamp(
        &self,
        disk: &Disk,
        dir: &Path,
    ) -> io::Result<TimestampOffset> {
        if let Some(largest) = self.largest.get() {
            return Ok(largest);
        }
        let largest = self.lookup_time(disk, dir, i64::MAX).await?;
        self.largest.set(Some(largest));
        Ok(largest)
    }
}

pub(super) fn no_timestamp(base: Offset) -> TimestampOffset {
    TimestampOffset {
        timestamp: NO_TIMESTAMP,
        offset: base,
    }
}

fn take<const N: usize>(entry: &[u8], at: usize) -> [u8; N] {
    entry[at..at + N].try_into().expect("N bytes")
}

/// The last entry of a sorted index file that `reached` holds for. Entries of zeroes behind the first
/// are room that Apache Kafka preallocates, and count as not reached.
async fn search<const ENTRY: usize>(
    disk: &Disk,
    path: &Path,
    reached: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<[u8; ENTRY]>> {
    /// Entries worth reading at once.
    const LAST_STEP: u64 = 256;
    let file = disk.open(path, Mode::Read).await?;
    let count = file.len()? / ENTRY as u64;
    let holds = |number: u64, entry: &[u8]| {
        let empty = number > 0 && entry.iter().all(|byte| *byte == 0);
        !empty && reached(entry)
    };
    let (mut low, mut high) = (0, count);
    while high - low > LAST_STEP {
        let middle = low + (high - low) / 2;
        let entry = file.read_at(middle * ENTRY as u64, ENTRY).await?;
        if entry.len() == ENTRY && holds(middle, &entry) {
            low = middle;
        } else {
            high = middle;
        }
    }
    let length = (high - low) as usize * ENTRY;
    let entries = file.read_at(low * ENTRY as u64, length).await?;
    let mut found = None;
    for (index, entry) in entries.chunks_exact(ENTRY).enumerate() {
        if !holds(low + index as u64, entry) {
            break;
        }
        found = Some(take(entry, 0));
    }
    Ok(found)
}
