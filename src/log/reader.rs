//! Owns finding batches again: by offset, hot from the tail cache or cold as ranges of segment files,
//! and by timestamp. Never shows a byte at or above the offset it was told to stop at.

use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::header::{HEADER_BYTES, Header};
use super::segment::Segment;
use super::time_index::TimestampOffset;
use super::transaction_index::AbortedTransaction;
use super::{Log, LogError};
use crate::ids::{LeaderEpoch, Offset, TimestampMs};
use crate::io::File;
use crate::protocol::{Part, Parts, Records};

/// Read at a time while looking for a batch; more than `index.interval.bytes` by default.
const SEARCH_BYTES: usize = 8 << 10;

/// A record found by time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundByTime {
    pub timestamp: TimestampMs,
    pub offset: Offset,
    pub leader_epoch: LeaderEpoch,
}

impl Log {
    /// Whole batches from the one that holds `from`, below `upto`, of at most `max_bytes`; with
    /// `at_least_one` the first batch whatever its size (KIP-74). Cold reads may end in a part of a
    /// batch, as Kafka's do. Empty at the end. `OffsetOutOfRange` below the start or above the end.
    pub async fn read(
        self: &Rc<Self>,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> Result<Records, LogError> {
        self.read_within(from, upto, max_bytes, at_least_one, usize::MAX)
            .await
    }

    /// As [`Log::read`], with at most `memory_max` bytes from memory: where that is less than
    /// the first batch, a range of the file is the answer, though the batch is in memory.
    pub async fn read_within(
        self: &Rc<Self>,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
        memory_max: usize,
    ) -> Result<Records, LogError> {
        self.check_online()?;
        let upto = {
            let state = self.state.borrow();
            if from < state.start || from > state.end {
                return Err(LogError::OffsetOutOfRange {
                    offset: from,
                    start: state.start,
                    end: state.end,
                });
            }
            upto.min(state.end)
        };
        if from >= upto {
            return Ok(Records::EMPTY);
        }
        if let Some(hot) = self.read_hot(from, upto, max_bytes, at_least_one, memory_max) {
            return Ok(hot);
        }
        // What only the journal has must be in the segment before a range of it can be an answer.
        self.wait_until_stored(from).await?;
        let cold = self.in_files(|| self.read_cold(from, upto, max_bytes, at_least_one));
        match cold.await? {
            Ok(records) => Ok(records),
            // Retention may have taken the segment while we looked.
            Err(_) if from < self.start_offset() => Err(LogError::OffsetOutOfRange {
                offset: from,
                start: self.start_offset(),
                end: self.end_offset(),
            }),
            Err(error) => {
                let error = LogError::storage("reading a segment", &error);
                self.go_offline(error.clone());
                Err(error)
            }
        }
    }

    /// What `look` finds in the segments' files, which are no others when it is done than when it began.
    async fn in_files<T>(
        &self,
        look: impl AsyncFn() -> io::Result<T>,
    ) -> Result<io::Result<T>, LogError> {
        loop {
            self.wait_until(|state| !state.swapping).await?;
            let swaps = self.state.borrow().swaps;
            let found = look().await;
            if self.state.borrow().swaps == swaps {
                return Ok(found);
            }
        }
    }

    /// Has the segments written at least up to the batch that holds `from`.
    async fn wait_until_stored(self: &Rc<Self>, from: Offset) -> Result<(), LogError> {
        if self.state.borrow().stored_end > from {
            return Ok(());
        }
        self.store_now();
        self.wait_until(|state| state.stored_end > from).await
    }

    fn read_hot(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
        memory_max: usize,
    ) -> Option<Records> {
        let state = self.state.borrow();
        let (mut index, first_batch) = state.tail.find(from)?;
        if state.tail.chunk(index)?.batches[first_batch].size as usize > memory_max {
            return None;
        }
        let mut first_batch = first_batch;
        let mut parts = Parts::new();
        let mut room = max_bytes.min(memory_max);
        let mut forced = at_least_one;
        while let Some(chunk) = state.tail.chunk(index) {
            let batches = &chunk.batches[first_batch..];
            let start = batches[0].position;
            let mut end = start;
            for (number, batch) in batches.iter().enumerate() {
                let next_offset = batches
                    .get(number + 1)
                    .map_or(chunk.next_offset, |next| next.base_offset);
                let size = batch.size as usize;
                if next_offset > upto || (size > room && !forced) {
                    room = 0;
                    break;
                }
                forced = false;
                room = room.saturating_sub(size);
                end = batch.position + batch.size;
            }
            if start < end {
                parts.push(Part::Memory(chunk.slice(start, end)));
            }
            if room == 0 {
                break;
            }
            index += 1;
            first_batch = 0;
        }
        Some(Records::from(parts))
    }

    async fn read_cold(
        &self,
        from: Offset,
        upto: Offset,
        max_bytes: usize,
        at_least_one: bool,
    ) -> io::Result<Records> {
        let mut next = self.segment_at(from);
        while let Some(segment) = next {
            if let Some((header, position)) = self.find_offset(&segment, from).await? {
                if header.next_offset() > upto {
                    return Ok(Records::EMPTY);
                }
                let limit = self.position_of(&segment, upto).await?;
                let available = limit.saturating_sub(position) as usize;
                let first = header.size as usize;
                let mut length = available.min(max_bytes);
                if length < first {
                    if !at_least_one || available < first {
                        return Ok(Records::EMPTY);
                    }
                    length = first;
                }
                return self.part_of(&segment, position, length).await;
            }
            // `from` lies in a gap at the segment's end, as compaction leaves them.
            next = self.segment_after(&segment).filter(|next| next.base < upto);
        }
        Ok(Records::EMPTY)
    }

    async fn part_of(
        &self,
        segment: &Segment,
        position: u32,
        length: usize,
    ) -> io::Result<Records> {
        let file = segment.reader(&self.context.disk, &self.dir()).await?;
        match file.range(u64::from(position), length as u32) {
            Some(range) => Ok(Records::from(range)),
            None => Ok(Records::from(
                file.read_at(u64::from(position), length).await?,
            )),
        }
    }

    /// The segment that would hold `offset`.
    fn segment_at(&self, offset: Offset) -> Option<Rc<Segment>> {
        let state = self.state.borrow();
        let following = state
            .segments
            .partition_point(|segment| segment.base <= offset);
        state.segments.get(following.saturating_sub(1)).cloned()
    }

    fn segment_after(&self, segment: &Segment) -> Option<Rc<Segment>> {
        let state = self.state.borrow();
        let following = state
            .segments
            .partition_point(|other| other.base <= segment.base);
        state.segments.get(following).cloned()
    }

    /// The first written batch of the segment that ends at or above `offset`, and its position.
    async fn find_offset(
        &self,
        segment: &Segment,
        offset: Offset,
    ) -> io::Result<Option<(Header, u32)>> {
        let disk = &self.context.disk;
        let dir = self.dir();
        let start = segment.lookup(disk, &dir, offset).await?;
        let mut scanner = Scanner::new(
            segment.reader(disk, &dir).await?,
            u64::from(segment.written.get()),
            SEARCH_BYTES,
        );
        scanner
            .find(start.position, |header| header.last_offset() >= offset)
            .await
    }

    /// Where the batches below `upto` end in the segment, as far as written.
    async fn position_of(&self, segment: &Rc<Segment>, upto: Offset) -> io::Result<u32> {
        if upto >= segment.next_offset.get() {
            return Ok(segment.written.get());
        }
        let in_memory = {
            let state = self.state.borrow();
            state.tail.find(upto).and_then(|(chunk, batch)| {
                let chunk = state.tail.chunk(chunk)?;
                Rc::ptr_eq(&chunk.segment, segment).then(|| chunk.batches[batch].position)
            })
        };
        if let Some(position) = in_memory {
            return Ok(position.min(segment.written.get()));
        }
        let found = self.find_offset(segment, upto).await?;
        Ok(found.map_or(segment.written.get(), |(_, position)| position))
    }

    /// The first record with this timestamp or a later one (ListOffsets).
    pub async fn offset_for_timestamp(
        self: &Rc<Self>,
        timestamp: TimestampMs,
    ) -> Result<Option<FoundByTime>, LogError> {
        self.check_online()?;
        let end = self.end_offset();
        self.wait_until_all_stored(end).await?;
        let found = self
            .in_files(|| self.search_time(timestamp, end))
            .await?
            .map_err(|error| LogError::storage("searching a segment", &error))?;
        // What a device that fails still has of a file, nobody knows.
        self.check_online()?;
        Ok(found)
    }

    /// Searches look at files alone.
    async fn wait_until_all_stored(self: &Rc<Self>, end: Offset) -> Result<(), LogError> {
        if self.state.borrow().stored_end < end {
            self.store_now();
        }
        self.wait_until(|state| state.stored_end >= end).await
    }

    /// What comes at or behind `end` came after the search began.
    async fn search_time(
        &self,
        timestamp: TimestampMs,
        end: Offset,
    ) -> io::Result<Option<FoundByTime>> {
        let start = self.start_offset();
        let mut next = self.segment_at(start);
        while let Some(segment) = next {
            let largest = self.largest_timestamp(&segment).await?;
            if largest.timestamp >= timestamp
                && let Some(found) = self.search_time_in(&segment, timestamp, start).await?
            {
                return Ok(Some(found).filter(|found| found.offset < end));
            }
            next = self.segment_after(&segment).filter(|next| next.base < end);
        }
        Ok(None)
    }

    async fn search_time_in(
        &self,
        segment: &Segment,
        timestamp: TimestampMs,
        start: Offset,
    ) -> io::Result<Option<FoundByTime>> {
        let disk = &self.context.disk;
        let dir = self.dir();
        // An entry at the very timestamp may stand behind its first record.
        let hint = segment.lookup_time(disk, &dir, timestamp - 1).await?;
        let from = segment.lookup(disk, &dir, hint.offset.max(start)).await?;
        let mut scanner = Scanner::new(
            segment.reader(disk, &dir).await?,
            u64::from(segment.written.get()),
            SEARCH_BYTES,
        );
        let wanted =
            |header: &Header| header.max_timestamp() >= timestamp && header.last_offset() >= start;
        let mut from = from.position;
        while let Some((header, position)) = scanner.find(from, wanted).await? {
            let batch = scanner
                .bytes(u64::from(position), header.size as usize)
                .await?;
            let found = Header::first_record(&batch, |record| {
                record.timestamp >= timestamp && record.offset >= start
            })
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if let Some(record) = found {
                return Ok(Some(FoundByTime {
                    timestamp: record.timestamp,
                    offset: record.offset,
                    leader_epoch: header.leader_epoch,
                }));
            }
            // Of the batch that the log starts in, the late records are deleted.
            from = position + header.size;
        }
        Ok(None)
    }

    /// The aborted transactions with records in `from..upto`, which a fetch with isolation level
    /// read_committed is told, by the offsets of their markers.
    pub async fn aborted_transactions(
        &self,
        from: Offset,
        upto: Offset,
    ) -> Result<Vec<AbortedTransaction>, LogError> {
        self.check_online()?;
        let mut aborted = Vec::new();
        let mut next = self.segment_at(from);
        while let Some(segment) = next {
            let dir = self.dir();
            let search = self
                .in_files(|| segment.search_aborted(&self.context.disk, &dir, from, upto))
                .await?
                .map_err(|error| LogError::storage("searching a transaction index", &error))?;
            aborted.extend(search.aborted);
            if search.complete {
                break;
            }
            next = self.segment_after(&segment);
        }
        Ok(aborted)
    }

    /// The record with the largest timestamp of the log (ListOffsets with -3, KIP-734).
    pub async fn max_timestamp(self: &Rc<Self>) -> Result<Option<FoundByTime>, LogError> {
        self.check_online()?;
        let end = self.end_offset();
        self.wait_until_all_stored(end).await?;
        let search = async || {
            let mut largest: Option<TimestampOffset> = None;
            let mut next = self.segment_at(self.start_offset());
            while let Some(segment) = next {
                let seen = self.largest_timestamp(&segment).await?;
                if seen.timestamp >= 0
                    && largest.is_none_or(|known| seen.timestamp > known.timestamp)
                {
                    largest = Some(seen);
                }
                next = self.segment_after(&segment);
            }
            match largest {
                None => Ok(None),
                Some(largest) => self.search_time(largest.timestamp, end).await,
            }
        };
        self.in_files(search)
            .await?
            .map_err(|error| LogError::storage("searching a segment", &error))
    }

    pub(super) async fn largest_timestamp(&self, segment: &Segment) -> io::Result<TimestampOffset> {
        segment
            .largest_timestamp(&self.context.disk, &self.dir())
            .await
    }
}

/// Reads a segment's file in steps and looks at the headers in it.
pub(super) struct Scanner {
    file: File,
    end: u64,
    step: usize,
    window: Bytes,
    window_at: u64,
}

impl Scanner {
    /// Looks at the file below `end`, `step` bytes at a time.
    pub(super) fn new(file: File, end: u64, step: usize) -> Scanner {
        Scanner {
            file,
            end,
            step,
            window: Bytes::new(),
            window_at: 0,
        }
    }

    /// `length` bytes at `position`; fewer at the end.
    pub(super) async fn bytes(&mut self, position: u64, length: usize) -> io::Result<Bytes> {
        let length = (self.end.saturating_sub(position)).min(length as u64) as usize;
        let within = position >= self.window_at
            && position + length as u64 <= self.window_at + self.window.len() as u64;
        if !within {
            let step = self.end.saturating_sub(position).min(self.step as u64) as usize;
            self.window = self.file.read_at(position, length.max(step)).await?;
            self.window_at = position;
        }
        let start = ((position - self.window_at) as usize).min(self.window.len());
        let end = (start + length).min(self.window.len());
        Ok(self.window.slice(start..end))
    }

    /// The header at `position`, if a whole batch may be there.
    pub(super) async fn header(&mut self, position: u64) -> io::Result<Option<Header>> {
        let bytes = self.bytes(position, HEADER_BYTES).await?;
        let header = Header::parse(&bytes);
        Ok(header.filter(|header| position + u64::from(header.size) <= self.end))
    }

    /// The first batch from `position` on that `wanted` holds for.
    pub(super) async fn find(
        &mut self,
        position: u32,
        wanted: impl Fn(&Header) -> bool,
    ) -> io::Result<Option<(Header, u32)>> {
        let mut position = position;
        while let Some(header) = self.header(u64::from(position)).await? {
            if wanted(&header) {
                return Ok(Some((header, position)));
            }
            position += header.size;
        }
        Ok(None)
    }
}
