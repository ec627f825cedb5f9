//! Owns what recovery does with segments that a crash may have torn: every batch is checked, the first that does not
//! continue the log ends it, and what the journals have goes in behind.

use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;

use super::{Found, FoundSegment, Recovery, SCAN_BYTES};
use crate::ids::Offset;
use crate::io::{AppendBuffer, BLOCK, Mode};
use crate::log::appender::{index_batch, should_roll};
use crate::log::epochs::EpochCache;
use crate::log::header::{HEADER_BYTES, Header};
use crate::log::producers::ProducerStates;
use crate::log::reader::Scanner;
use crate::log::segment::Segment;

impl Recovery<'_> {
    /// Scans all segments from number `first` on and keeps what continues the log.
    pub(super) async fn scan_all(
        &mut self,
        found: &Found,
        first: usize,
        segments: &mut VecDeque<Rc<Segment>>,
        producers: &mut ProducerStates,
        epochs: &mut EpochCache,
    ) -> io::Result<()> {
        let mut expected = found.segments[first].base;
        let mut last_kept: Option<Rc<Segment>> = None;
        let mut is_torn = false;
        for (number, next) in found.segments[first..].iter().enumerate() {
            if let Some(torn) = last_kept.as_ref().filter(|_| next.base > expected) {
                self.fill(torn, next.base, producers, epochs).await?;
                expected = torn.next_offset.get();
            }
            let is_hole = next.base > expected && !self.may_begin_behind_a_gap(next.base, is_torn);
            if next.base < expected || is_hole {
                // From the last back, so that a crash in here leaves no hole.
                for gone in found.segments[first + number..].iter().rev() {
                    self.remove_segment(gone.base).await?;
                    self.report.removed_segments += 1;
                }
                break;
            }
            if let Some(sealed) = last_kept.take() {
                self.seal_scanned(&sealed, producers).await?;
            }
            let segment = Rc::new(self.scan(next, producers, epochs).await?);
            is_torn = u64::from(segment.size.get()) < next.length;
            expected = segment.next_offset.get();
            segments.push_back(segment.clone());
            last_kept = Some(segment);
        }
        let mut last = last_kept.expect("the first is kept");
        while self
            .fill(&last, Offset(i64::MAX), producers, epochs)
            .await?
        {
            self.seal_scanned(&last, producers).await?;
            last = Rc::new(Segment::empty(last.next_offset.get(), self.now_ms));
            segments.push_back(last.clone());
        }
        Ok(())
    }

    /// Whether the gap before the segment at `base` is a cleaning's. A crash may have taken the end of the one before, while
    /// this one's beginning, of a later write, survived; but then the one before was never finished.
    fn may_begin_behind_a_gap(&self, base: Offset, before_is_torn: bool) -> bool {
        let is_below_point = match self.opening.recovery_point {
            Some(point) => base <= point,
            None => self.opening.first_dirty.is_some() && !before_is_torn,
        };
        self.settings.may_have_gaps && (is_below_point || self.finished.contains(&base))
    }

    /// Puts what the journals have of the log behind a segment's end, below `limit`, into it. True if there is more for
    /// a segment behind it.
    async fn fill(
        &mut self,
        segment: &Segment,
        limit: Offset,
        producers: &mut ProducerStates,
        epochs: &mut EpochCache,
    ) -> io::Result<bool> {
        let stored = segment.size.get();
        let mut more = false;
        let mut filling = Vec::new();
        while let Some((header, batch)) = self.journaled.front() {
            if header.base_offset < segment.next_offset.get() {
                self.journaled.pop_front();
                continue;
            }
            // An entry of another leader's time, or behind a hole, continues nothing: it was never acknowledged.
            let is_older = epochs.latest_epoch() > Some(header.leader_epoch);
            let is_next = header.base_offset == segment.next_offset.get();
            if !is_next || is_older || header.next_offset() > limit {
                break;
            }
            if should_roll(segment, header, self.settings, self.now_ms) {
                more = limit == Offset(i64::MAX);
                break;
            }
            let is_whole = self.context.trusts_journal() || self.is_whole(header, batch);
            if !is_whole || !self.continues(segment, header) {
                break;
            }
            index_batch(segment, header, self.settings.index_interval_bytes);
            if let Some(aborted) = header.note_producer(&batch[HEADER_BYTES..], producers) {
                segment.note_aborted(aborted);
            }
            if header.leader_epoch.0 >= 0 {
                epochs.assign(header.leader_epoch, header.base_offset);
            }
            filling.extend(self.journaled.pop_front().map(|(_, batch)| batch));
        }
        if !filling.is_empty() {
            self.write_behind(segment, stored, &filling).await?;
            self.report.journaled_bytes += u64::from(segment.size.get() - stored);
        }
        Ok(more)
    }

    /// Writes batches behind the first `stored` bytes of a segment's file, and syncs it.
    async fn write_behind(
        &self,
        segment: &Segment,
        stored: u32,
        batches: &[Bytes],
    ) -> io::Result<()> {
        let size = segment.size.get();
        let shared = stored as usize % BLOCK;
        let start = u64::from(stored) - shared as u64;
        let path = self.path(segment.base, "log");
        let file = self.disk().open(&path, Mode::Create).await?;
        let reader = self.disk().open(&path, Mode::Read).await?;
        let before = reader.read_at(start, shared).await?;
        if before.len() < shared {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let length = ((size - stored) as usize + shared).next_multiple_of(BLOCK);
        let mut buffer = AppendBuffer::with_capacity(length);
        buffer.append(&before);
        for batch in batches {
            buffer.append(batch);
        }
        buffer.append(&[0; BLOCK][..buffer.room()]);
        file.write_at(vec![buffer.slice(0..length)], start).await?;
        file.truncate(u64::from(size)).await?;
        file.sync_data().await?;
        segment.set_stored(size);
        Ok(())
    }

    /// A scanned segment with another behind it: as it would be had it been finished.
    async fn seal_scanned(&self, segment: &Segment, producers: &ProducerStates) -> io::Result<()> {
        self.write_indexes(segment).await?;
        let path = self.path(segment.next_offset.get(), "snapshot");
        let snapshot = producers.encode_snapshot();
        self.disk().write_file_synced(&path, &snapshot).await?;
        segment.indexes.replace(None);
        Ok(())
    }

    /// Checks every batch of a segment, cuts the file behind the last good one, and syncs it.
    async fn scan(
        &mut self,
        found: &FoundSegment,
        producers: &mut ProducerStates,
        epochs: &mut EpochCache,
    ) -> io::Result<Segment> {
        let FoundSegment {
            base,
            length,
            modified_ms,
        } = *found;
        let segment = Segment::empty(base, modified_ms);
        // What it says is found out again.
        let stale = self.path(base, "txnindex");
        if self.disk().exists(&stale).await? {
            self.disk().remove(&stale).await?;
        }
        let file = self
            .disk()
            .open(&self.path(base, "log"), Mode::Read)
            .await?;
        file.forget_cached();
        let mut scanner = Scanner::new(file, length, SCAN_BYTES);
        loop {
            let position = u64::from(segment.size.get());
            let Some(header) = scanner.header(position).await? else {
                break;
            };
            let batch = scanner.bytes(position, header.size as usize).await?;
            if !self.is_whole(&header, &batch) || !self.continues(&segment, &header) {
                break;
            }
            self.report.scanned_bytes += batch.len() as u64;
            index_batch(&segment, &header, self.settings.index_interval_bytes);
            if let Some(aborted) = header.note_producer(&batch[HEADER_BYTES..], producers) {
                segment.note_aborted(aborted);
            }
            if header.leader_epoch.0 >= 0 {
                epochs.assign(header.leader_epoch, header.base_offset);
            }
        }
        let kept = segment.size.get();
        self.report.cut_bytes += self
            .count_torn(&mut scanner, u64::from(kept), length)
            .await?;
        let file = self
            .disk()
            .open(&self.path(base, "log"), Mode::Write)
            .await?;
        if length > u64::from(kept) {
            file.truncate(u64::from(kept)).await?;
        }
        file.sync_data().await?;
        segment.set_stored(kept);
        Ok(segment)
    }

    fn is_whole(&self, header: &Header, batch: &[u8]) -> bool {
        batch.len() == header.size as usize
            && (self.context.skips_checksums() || header.checksum_fits(batch))
    }

    fn continues(&self, segment: &Segment, header: &Header) -> bool {
        let indexes = segment.indexes.borrow();
        let indexes = indexes.as_ref().expect("being built");
        let expected = segment.next_offset.get();
        let follows = match self.settings.may_have_gaps {
            true => header.base_offset >= expected,
            false => header.base_offset == expected,
        };
        follows && indexes.offsets.can_hold(header.last_offset())
    }

    /// Bytes from `position` on up to the last that is not zero.
    async fn count_torn(
        &self,
        scanner: &mut Scanner,
        position: u64,
        length: u64,
    ) -> io::Result<u64> {
        let mut torn = 0;
        let mut at = position;
        while at < length {
            let bytes = scanner.bytes(at, SCAN_BYTES).await?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                torn = at + last as u64 + 1 - position;
            }
            at += bytes.len() as u64;
        }
        Ok(torn)
    }
}
