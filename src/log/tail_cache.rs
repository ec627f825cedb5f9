//! Owns the buffers that batches were copied into: what the appender writes and what hot fetches send.
//! All logs of a shard share one budget; what is written and oldest goes first. Does no I/O.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ops::Range;
use std::rc::{Rc, Weak};

use bytes::Bytes;

use super::Log;
use super::segment::Segment;
use crate::ids::{Offset, TimestampMs};
use crate::io::{AppendBuffer, BLOCK, HUGE_PAGE};

const CHUNK_BYTES_MIN: usize = 16 << 10;
const CHUNK_BYTES_MAX: usize = HUGE_PAGE;
/// While no huge page is ready, or the last chunk took longer than `HUGE_PAGES_FILL_MS`: getting one costs as much as
/// many small appends.
const SMALL_PAGES_BYTES_MAX: usize = 1 << 20;
const HUGE_PAGES_FILL_MS: TimestampMs = 20;

/// A part of the budget that is kept free, so that appends need not wait until what leaves is written.
const FREE_SHARE: usize = 16;

/// The tail cache memory of one shard. Clones are handles on the same budget.
#[derive(Clone)]
pub struct TailBudget(Rc<Budget>);

struct Budget {
    limit: usize,
    used: Cell<usize>,
    /// Of these, in chunks that go as soon as they are written.
    leaving: Cell<usize>,
    /// In the order the chunks were made, over all logs.
    queue: RefCell<VecDeque<Weak<Log>>>,
    /// At most so many places in the queue are of logs that are gone.
    gone: Cell<usize>,
}

impl TailBudget {
    pub fn new(limit_bytes: usize) -> TailBudget {
        TailBudget(Rc::new(Budget {
            limit: limit_bytes,
            used: Cell::new(0),
            leaving: Cell::new(0),
            queue: RefCell::default(),
            gone: Cell::new(0),
        }))
    }

    /// Bytes held by tail caches now. Unwritten bytes may take it above the limit.
    pub fn used(&self) -> usize {
        self.0.used.get()
    }

    pub fn limit(&self) -> usize {
        self.0.limit
    }

    /// More is unwritten than may be kept.
    pub fn is_exceeded(&self) -> bool {
        self.0.used.get() > self.0.limit
    }

    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.0.queue.borrow().len()
    }

    fn take(&self, bytes: usize) {
        self.set_used(self.used() + bytes);
    }

    fn give_back(&self, bytes: usize) {
        self.set_used(self.used() - bytes);
    }

    /// What has grown is kept for the next records, also when it is in use no more.
    fn set_used(&self, bytes: usize) {
        self.0.used.set(bytes);
        AppendBuffer::keep_huge_pages(self.limit().saturating_sub(bytes));
    }

    /// Notes that `log` has one chunk more, then evicts.
    pub(super) fn on_new_chunk(&self, log: &Rc<Log>) {
        self.0.queue.borrow_mut().push_back(Rc::downgrade(log));
        self.evict();
    }

    /// Lets the oldest chunks go until a little is free: at once what is written, all else when it will be. No borrow of
    /// any log may be held.
    fn evict(&self) {
        let keep = self.limit() - self.limit() / FREE_SHARE;
        while self.used() - self.0.leaving.get() > keep {
            let Some(oldest) = self.0.queue.borrow_mut().pop_front() else {
                return;
            };
            // Its chunks went with it, if it is gone.
            if let Some(log) = oldest.upgrade() {
                log.evict_oldest_chunk();
            }
        }
    }

    /// A log is gone that has made so many chunks. Its places in the queue go when they may be half of all: as long as one
    /// is there, the log's memory is.
    fn on_log_gone(&self, chunks: usize) {
        let mut queue = self.0.queue.borrow_mut();
        let gone = self.0.gone.get() + chunks;
        if gone <= queue.len() / 2 {
            self.0.gone.set(gone);
            return;
        }
        self.0.gone.set(0);
        queue.retain(|log| log.strong_count() > 0);
    }
}

/// A stretch of one segment, in one buffer that starts at a block of the file.
pub(super) struct Chunk {
    pub(super) segment: Rc<Segment>,
    /// Where in the file the buffer's first byte lies; a multiple of a block.
    pub(super) file_position: u32,
    pub(super) buffer: AppendBuffer,
    /// Whole batches; the first starts behind the bytes that share its block with an earlier one.
    pub(super) batches: Vec<Placed>,
    /// The offset behind them.
    pub(super) next_offset: Offset,
    begun_ms: TimestampMs,
    /// Takes no more, and goes as soon as it is written.
    leaving: bool,
}

#[derive(Clone, Copy)]
pub(super) struct Placed {
    pub(super) base_offset: Offset,
    /// In the file.
    pub(super) position: u32,
    pub(super) size: u32,
}

impl Chunk {
    /// Position in the file behind the last batch.
    pub(super) fn end(&self) -> u32 {
        self.file_position + self.buffer.len() as u32
    }

    fn is_written(&self) -> bool {
        self.segment.written.get() >= self.end()
    }

    fn first_offset(&self) -> Offset {
        self.batches[0].base_offset
    }

    /// The offset behind the last batch that lies wholly below a position of the file.
    pub(super) fn offset_behind(&self, position: u32) -> Option<Offset> {
        let whole = |batch: &Placed| batch.position + batch.size <= position;
        match self.batches.partition_point(whole) {
            0 => None,
            count if count == self.batches.len() => Some(self.next_offset),
            count => Some(self.batches[count].base_offset),
        }
    }

    /// The batches from this number on.
    pub(super) fn bytes_from(&self, batch: usize) -> &[u8] {
        let start = self.batches[batch].position - self.file_position;
        self.buffer.peek(start as usize..self.buffer.len())
    }

    pub(super) fn slice(&self, from: u32, to: u32) -> Bytes {
        let start = (from - self.file_position) as usize;
        let end = (to - self.file_position) as usize;
        self.buffer.slice(start..end)
    }
}

/// One log's chunks, by offset, without holes between them.
pub(super) struct Tail {
    chunks: VecDeque<Chunk>,
    /// So many there have been.
    made: usize,
    budget: TailBudget,
    next_capacity: usize,
}

impl Tail {
    pub(super) fn new(budget: TailBudget) -> Tail {
        Tail {
            chunks: VecDeque::new(),
            made: 0,
            budget,
            next_capacity: CHUNK_BYTES_MIN,
        }
    }

    /// Copies a batch with these offsets to the end of `segment`, with `head` in place of its first
    /// bytes. True if that took a new chunk.
    pub(super) fn append(
        &mut self,
        segment: &Rc<Segment>,
        batch: &[u8],
        head: &[u8],
        offsets: Range<Offset>,
        now_ms: TimestampMs,
    ) -> bool {
        let position = segment.size.get();
        let fits = self.chunks.back().is_some_and(|chunk| {
            let has_room = chunk.buffer.room() >= batch.len();
            has_room && !chunk.leaving && Rc::ptr_eq(&chunk.segment, segment)
        });
        if !fits {
            self.add_chunk(segment, position, batch.len(), offsets.start, now_ms);
        }
        let chunk = self.chunks.back_mut().expect("just made sure");
        assert_eq!(chunk.end(), position, "a chunk ends where its segment does");
        let range = chunk.buffer.append(batch);
        chunk.buffer.patch(range.start, head);
        chunk.batches.push(Placed {
            base_offset: offsets.start,
            position,
            size: batch.len() as u32,
        });
        chunk.next_offset = offsets.end;
        !fits
    }

    fn add_chunk(
        &mut self,
        segment: &Rc<Segment>,
        position: u32,
        batch_bytes: usize,
        next_offset: Offset,
        now_ms: TimestampMs,
    ) {
        let shared = position as usize % BLOCK;
        let file_position = position - shared as u32;
        let needed = (shared + batch_bytes).next_multiple_of(BLOCK);
        let share = (self.budget.0.limit / 16).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        let largest = 1 << share.ilog2();
        let mut capacity = self.next_capacity.min(largest).max(needed);
        let soon_full = |last: &Chunk| now_ms - last.begun_ms <= HUGE_PAGES_FILL_MS;
        let fills_them = self.chunks.back().is_some_and(soon_full);
        if capacity == HUGE_PAGE && !(fills_them && AppendBuffer::huge_page_is_ready()) {
            capacity = SMALL_PAGES_BYTES_MAX.max(needed);
        }
        self.next_capacity = (capacity * 2).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
        // The block begins with bytes of earlier batches: of the chunk before, or of the file alone,
        // which is a gap that the writer fills.
        let before = self.chunks.back();
        let buffer = match before.filter(|chunk| Rc::ptr_eq(&chunk.segment, segment)) {
            None => AppendBuffer::with_gap(capacity, shared),
            Some(chunk) => {
                let unknown = chunk.file_position + chunk.buffer.gap() as u32;
                let gap = unknown.saturating_sub(file_position) as usize;
                let mut buffer = AppendBuffer::with_gap(capacity, gap);
                buffer.append(&chunk.slice(file_position + gap as u32, position));
                buffer
            }
        };
        self.budget.take(capacity);
        self.made += 1;
        self.chunks.push_back(Chunk {
            segment: segment.clone(),
            file_position,
            buffer,
            batches: Vec::new(),
            next_offset,
            begun_ms: now_ms,
            leaving: false,
        });
    }

    /// The chunks with bytes that are not `done`, which says how far it has come in a segment.
    pub(super) fn chunks_behind(
        &self,
        done: impl Fn(&Segment) -> u32,
    ) -> impl Iterator<Item = &Chunk> {
        let newest_first = self.chunks.iter().rev();
        let behind = newest_first.take_while(|chunk| done(&chunk.segment) < chunk.end());
        self.chunks.iter().skip(self.chunks.len() - behind.count())
    }

    pub(super) fn chunks_mut(&mut self) -> impl Iterator<Item = &mut Chunk> {
        self.chunks.iter_mut()
    }

    /// Index of the chunk, and of the batch in it, that holds `offset`.
    pub(super) fn find(&self, offset: Offset) -> Option<(usize, usize)> {
        let following = self
            .chunks
            .partition_point(|chunk| chunk.first_offset() <= offset);
        let chunk = following.checked_sub(1)?;
        let following = self.chunks[chunk]
            .batches
            .partition_point(|batch| batch.base_offset <= offset);
        Some((chunk, following - 1))
    }

    pub(super) fn chunk(&self, index: usize) -> Option<&Chunk> {
        self.chunks.get(index)
    }

    /// Lets the oldest chunk go that has not been let go before. True if it must be written first.
    fn evict(&mut self) -> bool {
        let newest = self.chunks.len().wrapping_sub(1);
        let Some(index) = self.chunks.iter().position(|chunk| !chunk.leaving) else {
            return false; // It dropped its chunks meanwhile.
        };
        let chunk = &mut self.chunks[index];
        if index == newest {
            // The cache has no room for more than what this log writes in the time of a chunk.
            let filled = chunk.buffer.len().next_power_of_two();
            self.next_capacity = filled.clamp(CHUNK_BYTES_MIN, self.next_capacity);
        }
        chunk.leaving = true;
        let leaving = &self.budget.0.leaving;
        leaving.set(leaving.get() + chunk.buffer.capacity());
        let is_unwritten = !chunk.is_written();
        self.drop_written();
        is_unwritten
    }

    /// Drops the chunks that only had to be written.
    pub(super) fn drop_written(&mut self) {
        let may_go = |chunk: &Chunk| chunk.leaving && chunk.is_written();
        while self.chunks.front().is_some_and(may_go) {
            self.drop_front();
        }
    }

    fn drop_front(&mut self) {
        if let Some(chunk) = self.chunks.pop_front() {
            let capacity = chunk.buffer.capacity();
            if chunk.leaving {
                let leaving = &self.budget.0.leaving;
                leaving.set(leaving.get() - capacity);
            }
            self.budget.give_back(capacity);
        }
    }

    /// Lets go of everything; all must have been written.
    pub(super) fn clear(&mut self) {
        while !self.chunks.is_empty() {
            self.drop_front();
        }
        self.next_capacity = CHUNK_BYTES_MIN;
    }

    /// Lets go of what lies wholly below `offset` and has been written.
    pub(super) fn forget_below(&mut self, offset: Offset) {
        let is_below = |chunk: &Chunk| chunk.next_offset <= offset;
        while self.chunks.front().is_some_and(is_below) {
            self.drop_front();
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.clear();
        self.budget.on_log_gone(self.made);
    }
}

impl Log {
    /// What only the journal has stays until it is written behind, which is time now.
    fn evict_oldest_chunk(self: &Rc<Self>) {
        let is_unwritten = self.state.borrow_mut().tail.evict();
        if is_unwritten {
            self.store_now();
        }
    }
}
