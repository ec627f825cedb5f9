//! Owns group writes: which bytes go to the device next, the few writes that are in flight at once, and
//! how far what the device has taken reaches without a hole. Two writes in flight never share a block.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::try_join;

use super::segment::Segment;
use super::settings::Durability;
use super::tail_cache::Chunk;
use super::{Log, LogError, State};
use crate::ids::Offset;
use crate::io::{BLOCK, File};
use crate::limits::BEHIND_BYTES_MAX;
use crate::stages::{self, Stage};

/// Space is reserved ahead of the writer in steps that grow with the segment, between these.
const ALLOCATION_MIN: u64 = 64 << 10;
const ALLOCATION_MAX: u64 = 32 << 20;

/// What group writes keep to.
#[derive(Clone, Copy, Debug)]
pub struct WriteLimits {
    /// A group takes about so many bytes, more only for a batch that is larger.
    pub most_bytes: u32,
    /// So many must have come for a write beside another: fewer wait for it and go together.
    pub least_bytes_beside: u32,
    /// Writes of one log in flight.
    pub in_flight: usize,
    /// So many that are in the journal already are worth a write of their own.
    pub behind_bytes: u32,
}

impl Default for WriteLimits {
    fn default() -> WriteLimits {
        WriteLimits {
            most_bytes: 2 << 20,
            least_bytes_beside: 512 << 10,
            in_flight: 2,
            behind_bytes: BEHIND_BYTES_MAX,
        }
    }
}

/// How far the writing of one log has come.
#[derive(Default)]
pub(super) struct Writing {
    /// Oldest first. One that is done stays while an older one is not.
    in_flight: VecDeque<Rc<GroupWrite>>,
    /// No write may begin: the file is being read or cut.
    held: bool,
}

/// One group write: from a block of the file to `end`.
struct GroupWrite {
    segment: Rc<Segment>,
    position: u32,
    end: u32,
    /// The first block has been written before, padded.
    repeats_a_block: bool,
    /// The offset behind the batches that it completes.
    end_offset: Offset,
    done: Cell<bool>,
}

impl GroupWrite {
    /// The last block is padded: it will be written again with what follows.
    fn ends_inside_a_block(&self) -> bool {
        !self.end.is_multiple_of(BLOCK as u32)
    }
}

enum NextWrite {
    Nothing,
    /// Bytes of earlier batches share the first block: they must be read before.
    FillGap {
        segment: Rc<Segment>,
        position: u32,
        length: usize,
    },
    Write(GroupWrite, Vec<Bytes>),
}

impl Writing {
    pub(super) fn is_at_rest(&self) -> bool {
        self.in_flight.is_empty() && !self.held
    }

    /// Keeps writes from beginning; to be called at rest.
    pub(super) fn hold(&mut self) {
        self.held = true;
    }

    pub(super) fn release(&mut self) {
        self.held = false;
    }
}

impl State {
    /// Whether a write may begin now, if what has come makes one.
    fn may_write(&self, limits: &WriteLimits) -> bool {
        let least = match self.writing.in_flight.len() {
            0 => 1,
            count if count < limits.in_flight => limits.least_bytes_beside as usize,
            _ => return false,
        };
        let bytes = self.bytes_behind(|segment| segment.issued.get());
        let is_due = self.issued_end < self.store_target || bytes >= limits.behind_bytes as usize;
        !self.writing.held && is_due && bytes >= least
    }

    /// Bytes appended and not yet `done`, which says how far it has come in a segment.
    pub(super) fn bytes_behind(&self, done: impl Fn(&Segment) -> u32) -> usize {
        let segments = self.segments.iter().rev();
        segments
            .skip_while(|segment| segment.size.get() == 0)
            .map(|segment| (segment.size.get() - done(segment)) as usize)
            .take_while(|bytes| *bytes > 0)
            .sum()
    }

    fn next_write(&self, limits: &WriteLimits) -> NextWrite {
        if !self.may_write(limits) {
            return NextWrite::Nothing;
        }
        let beside = !self.writing.in_flight.is_empty();
        let mut chunks = self.tail.chunks_behind(|segment| segment.issued.get());
        let first = chunks.next().expect("unwritten bytes are in the tail");
        let segment = &first.segment;
        let shares_a_block = |earlier: &Rc<GroupWrite>| {
            Rc::ptr_eq(&earlier.segment, segment) && earlier.ends_inside_a_block()
        };
        if self.writing.in_flight.iter().any(shares_a_block) {
            return NextWrite::Nothing;
        }
        if first.buffer.gap() > 0 {
            if beside {
                return NextWrite::Nothing;
            }
            return NextWrite::FillGap {
                segment: segment.clone(),
                position: first.file_position,
                length: first.buffer.gap(),
            };
        }
        let issued = segment.issued.get();
        let position = block_of(issued);
        let mut group = vec![first];
        group.extend(chunks.take_while(|chunk| {
            Rc::ptr_eq(&chunk.segment, segment)
                && chunk.buffer.gap() == 0
                && chunk.end() - position <= limits.most_bytes
        }));
        let last = group[group.len() - 1];
        let completes_segment =
            last.end() == segment.size.get() && !Rc::ptr_eq(segment, self.active());
        // A long write leaves the block that is not full yet to the next, which may then come beside it.
        let whole = block_of(last.end());
        let is_long = whole > position && whole - position >= limits.least_bytes_beside;
        if beside && !is_long && !completes_segment {
            return NextWrite::Nothing;
        }
        let end = if is_long && !completes_segment {
            whole
        } else {
            last.end()
        };
        let ends_before = self.writing.in_flight.back();
        let completed = group
            .iter()
            .rev()
            .find_map(|chunk| chunk.offset_behind(end));
        let write = GroupWrite {
            segment: segment.clone(),
            position,
            end,
            repeats_a_block: position < issued,
            end_offset: completed
                .or(ends_before.map(|earlier| earlier.end_offset))
                .unwrap_or(self.stored_end),
            done: Cell::new(false),
        };
        NextWrite::Write(write, slices(&group, position, end))
    }

    /// Notes what the device has taken up to the first write that is not done. The segments among it
    /// that are complete and sealed are to be finished.
    fn advance_stored(&mut self) -> Advanced {
        let mut advanced = Advanced::default();
        let done = |write: &Rc<GroupWrite>| write.done.get();
        while self.writing.in_flight.front().is_some_and(done) {
            let write = self.writing.in_flight.pop_front().expect("just seen");
            write.segment.written.set(write.end);
            advanced.batches |= self.stored_end < write.end_offset;
            self.stored_end = write.end_offset;
            advanced.sealed |=
                write.segment.is_written() && !Rc::ptr_eq(&write.segment, self.active());
        }
        advanced
    }
}

#[derive(Default)]
struct Advanced {
    /// Some batches are written that were not.
    batches: bool,
    /// A sealed segment is.
    sealed: bool,
}

/// The start of the block that a position lies in.
fn block_of(position: u32) -> u32 {
    position / BLOCK as u32 * BLOCK as u32
}

/// The bytes of these chunks from one position to another, the last block padded with zeroes.
fn slices(group: &[&Chunk], position: u32, end: u32) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut from = position;
    for (index, chunk) in group.iter().enumerate() {
        // The next chunk repeats the block this one ends in.
        let following = group.get(index + 1).map(|next| next.file_position);
        let upto = following.unwrap_or(block_of(end)).min(end);
        if from < upto {
            parts.push(chunk.slice(from, upto));
            from = upto;
        }
    }
    if from < end {
        let last = group[group.len() - 1];
        let start = (from - last.file_position) as usize;
        parts.push(last.buffer.padded_block(start..last.buffer.len()));
    }
    parts
}

impl Log {
    /// Hands to the device what may go there now.
    pub(super) fn begin_writes(self: &Rc<Self>) {
        while self.failure.borrow().is_none() {
            let next = self.state.borrow().next_write(&self.context.writes);
            match next {
                NextWrite::Nothing => return,
                NextWrite::FillGap {
                    segment,
                    position,
                    length,
                } => {
                    self.state.borrow_mut().writing.hold();
                    let log = self.clone();
                    (self.context.spawn)(Box::pin(async move {
                        let filled = log.fill_gap(&segment, position, length).await;
                        log.state.borrow_mut().writing.release();
                        log.go_on_writing(filled, "reading the last block of a segment");
                    }));
                }
                NextWrite::Write(write, parts) => {
                    let write = Rc::new(write);
                    write.segment.issued.set(write.end);
                    {
                        let state = &mut *self.state.borrow_mut();
                        state.issued_end = write.end_offset;
                        state.writing.in_flight.push_back(write.clone());
                    }
                    let log = self.clone();
                    (self.context.spawn)(Box::pin(async move {
                        let written = log.write_group(&write, parts).await;
                        if written.is_ok() {
                            log.on_written(&write);
                        }
                        log.go_on_writing(written, "writing a segment");
                    }));
                }
            }
        }
    }

    fn go_on_writing(self: &Rc<Self>, result: io::Result<()>, what: &str) {
        match result {
            Ok(()) => self.begin_writes(),
            Err(error) => self.go_offline(LogError::storage(what, &error)),
        }
        self.wake_waiters();
    }

    async fn fill_gap(
        &self,
        segment: &Rc<Segment>,
        position: u32,
        length: usize,
    ) -> io::Result<()> {
        let dir = self.dir();
        let file = segment.reader(&self.context.disk, &dir).await?;
        let bytes = file.read_at(u64::from(position), length).await?;
        if bytes.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut state = self.state.borrow_mut();
        for chunk in state.tail.chunks_mut() {
            let same = Rc::ptr_eq(&chunk.segment, segment) && chunk.file_position == position;
            if same && chunk.buffer.gap() == length {
                chunk.buffer.fill_gap(&bytes);
            }
        }
        Ok(())
    }

    async fn write_group(
        self: &Rc<Self>,
        write: &GroupWrite,
        mut parts: Vec<Bytes>,
    ) -> io::Result<()> {
        let segment = &write.segment;
        let dir = self.dir();
        let file = segment.writer(&self.context.disk, &dir).await?;
        let file_end = u64::from(write.end).next_multiple_of(BLOCK as u64);
        let began = stages::begin();
        self.reserve_space(segment, &file, file_end).await;
        let began = stages::end(Stage::Reserve, began);
        let position = u64::from(write.position);
        if write.repeats_a_block && file_end - position > BLOCK as u64 {
            // A write into space that is in part written, in part only reserved is one that ext4 locks the file for: the
            // ring then hands it to a worker, where it waits for the writes beside it and they for it.
            let first = parts[0].split_to(BLOCK);
            parts.retain(|part| !part.is_empty());
            let repeated = file.write_at(vec![first], position);
            let others = file.write_at(parts, position + BLOCK as u64);
            try_join(repeated, others).await?;
        } else {
            file.write_at(parts, position).await?;
        }
        stages::end(Stage::Write, began);
        segment.allocated.set(segment.allocated.get().max(file_end));
        Ok(())
    }

    fn on_written(self: &Rc<Self>, write: &GroupWrite) {
        write.done.set(true);
        if self.failure.borrow().is_some() {
            return;
        }
        let counts_as_durable = self.settings().durability() != Durability::Synced
            || self.context.acknowledges_before_sync();
        let advanced = {
            let state = &mut *self.state.borrow_mut();
            let advanced = state.advance_stored();
            state.tail.drop_written();
            advanced
        };
        if advanced.batches {
            self.wake_waiters();
            let stored = self.state.borrow().stored_end;
            self.advance_promises(stored, if counts_as_durable { stored } else { Offset(0) });
            self.kick_syncer();
            self.send_waiting();
        }
        if advanced.sealed {
            self.kick_finisher();
        }
    }

    /// Keeps the file ahead of the writer. Failing is no failure: the write itself will tell.
    async fn reserve_space(self: &Rc<Self>, segment: &Rc<Segment>, file: &File, needed: u64) {
        let settings = self.settings();
        // The first write of a segment stands for itself: most partitions see few.
        let full = u64::from(settings.segment_bytes).next_multiple_of(BLOCK as u64);
        let step = if settings.preallocate {
            full
        } else if segment.written.get() == 0 && needed < ALLOCATION_MIN {
            return;
        } else {
            needed
                .next_power_of_two()
                .clamp(ALLOCATION_MIN, ALLOCATION_MAX)
        };
        let target = (needed + step).min(full).max(needed);
        while segment.allocated.get() < needed {
            if !segment.allocating.replace(true) {
                self.allocate(segment, file, target).await;
                break;
            }
            let free = self.wait_until(|_| !segment.allocating.get());
            if free.await.is_err() {
                return;
            }
        }
        if segment.allocated.get() < needed + step / 2
            && segment.allocated.get() < target
            && !segment.allocating.replace(true)
        {
            let (log, segment, file) = (self.clone(), segment.clone(), file.clone());
            (self.context.spawn)(Box::pin(async move {
                log.allocate(&segment, &file, target).await;
            }));
        }
    }

    /// Ends `allocating`, which the caller began.
    async fn allocate(&self, segment: &Segment, file: &File, target: u64) {
        let from = segment.allocated.get();
        if target > from && file.allocate(from, target - from).await.is_ok() {
            segment.allocated.set(segment.allocated.get().max(target));
        }
        segment.allocating.set(false);
        self.wake_waiters();
    }
}
