//! Owns Kafka's log compaction (KIP-58): a round reads the keys behind what is clean already, then writes each group of
//! sealed segments anew without what later records of the same key have made void, and swaps it in. It never touches the
//! active segment, leaves out what retention takes meanwhile, and gives up at once when the log's settings or life change
//! under it.
//!
//! A round: `dirt` says whether it is worth it, `offset_map` holds the last offset of each key, `retain` decides batch by
//! batch, `groups` which segments become one, `swap` puts the new file in the old ones' place.

pub mod groups;
pub mod offset_map;
pub mod retain;
pub mod transactions;

mod dirt;
mod output;
mod swap;
#[cfg(test)]
mod tests;

use std::io;
use std::rc::Rc;

use bytes::Bytes;
use futures::future::LocalBoxFuture;

use super::appender::{add_last_time_entry, index_batch};
use super::header::Header;
use super::reader::Scanner;
use super::segment::Segment;
use super::{Log, LogError, segment_path};
use crate::ids::{Offset, TimestampMs};
use crate::io::Mode;
use crate::protocol::batch::{self, Batch, BatchError};
pub use dirt::Dirt;
use groups::Member;
use offset_map::OffsetMap;
use output::Output;
use retain::{DECOMPRESSED_BYTES_MAX, Kept, LastOfProducer, Rules};
pub(super) use swap::finish_swaps;
use transactions::Transactions;

/// Read at a time.
const READ_BYTES: usize = 256 << 10;
/// After so many bytes read and written others get their turn.
const STEP_BYTES: u64 = 64 << 10;
/// What a cleaned segment may come to: positions in Kafka's indexes are 31 bits.
const SEGMENT_BYTES_MAX: u64 = i32::MAX as u64;

/// Topic settings that only compaction knows, under Kafka's names.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Compaction {
    pub delete_retention_ms: i64,
    pub min_cleanable_dirty_ratio: f64,
    pub min_compaction_lag_ms: i64,
    pub max_compaction_lag_ms: i64,
}

/// Called with the bytes read and written since the last time; resolves when the cleaning may go on.
pub type Pace = Rc<dyn Fn(u64) -> LocalBoxFuture<'static, ()>>;

/// One round of cleaning.
#[derive(Clone)]
pub struct Round {
    pub now_ms: TimestampMs,
    /// No record at or above is looked at; where a segment begins.
    pub upto: Offset,
    /// For the map of keys (`log.cleaner.dedupe.buffer.size`), and how full it may get.
    pub map_bytes: usize,
    pub map_load: f64,
    /// Of nobody's knowledge.
    pub salt: [u64; 2],
    pub pace: Pace,
}

/// What a round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Cleaned {
    /// All below is clean now.
    pub end: Offset,
    pub keys: usize,
    pub bytes_before: u64,
    pub bytes_after: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CleaningError {
    /// The log's settings or its segments changed: the next round begins anew.
    #[error("the log changed while it was cleaned")]
    Aborted,
    /// The segments are as they were, and will not be cleaned before the next start.
    #[error("{what} cannot be cleaned: {problem}")]
    Unreadable { what: String, problem: String },
    /// A file could not be read or written just now; another round may be luckier.
    #[error("cleaning {what}: {problem}")]
    Storage { what: String, problem: String },
    #[error(transparent)]
    Log(#[from] LogError),
}

impl CleaningError {
    fn of_batch(segment: &Segment, position: u32, error: BatchError) -> CleaningError {
        CleaningError::Unreadable {
            what: format!("the segment at {}", segment.base),
            problem: format!("the batch at byte {position}: {error}"),
        }
    }
}

/// A round under way.
struct Cleaner<'a> {
    log: &'a Rc<Log>,
    round: &'a Round,
    /// As they were when it began.
    compaction: Compaction,
    /// Read and written since the last pause.
    unpaced: u64,
}

impl Log {
    /// Cleans what lies below `round.upto`. The recovery point must be above that on disk, as a journal may still hold what
    /// is taken out, and so must the first dirty offset be, as a start must know of the gaps. One round at a time.
    pub async fn clean(self: &Rc<Self>, round: &Round) -> Result<Cleaned, CleaningError> {
        let compaction = self.settings().compaction.ok_or(CleaningError::Aborted)?;
        let mut cleaner = Cleaner {
            log: self,
            round,
            compaction,
            unpaced: 0,
        };
        let cleaned = cleaner.run().await;
        if let Err(CleaningError::Unreadable { .. }) = &cleaned {
            self.uncleanable.set(true);
        }
        cleaned
    }

    /// Where the first record lies that no round has cleaned; goes to `cleaner-offset-checkpoint`.
    pub fn first_dirty_offset(&self) -> Option<Offset> {
        self.state.borrow().first_dirty
    }
}

impl Cleaner<'_> {
    async fn run(&mut self) -> Result<Cleaned, CleaningError> {
        let segments = self.log.segments_below(self.round.upto);
        let first_dirty = self.log.first_dirty();
        let map = self.map_keys(&segments, first_dirty).await?;
        let end = map.latest().plus(1);
        let mut cleaned = Cleaned {
            end: end.max(first_dirty),
            keys: map.len(),
            ..Cleaned::default()
        };
        if end <= first_dirty {
            return Ok(cleaned);
        }
        let rules = Rules {
            map,
            producers: self.producers(),
            end,
            now_ms: self.round.now_ms,
            delete_retention_ms: self.compaction.delete_retention_ms,
        };
        let mut transactions = Transactions::default();
        let cleanable: Vec<_> = segments.into_iter().filter(|s| s.base < end).collect();
        for group in self.groups(cleanable).await? {
            self.clean_group(&group, &rules, &mut transactions, &mut cleaned)
                .await?;
        }
        self.check_goes_on()?;
        let mut state = self.log.state.borrow_mut();
        state.first_dirty = Some(end);
        Ok(cleaned)
    }

    fn producers(&self) -> std::collections::BTreeMap<crate::ids::ProducerId, LastOfProducer> {
        let producers = self.log.producers.borrow();
        let last = producers.last_offsets();
        last.map(|(id, epoch, data_offset)| (id, LastOfProducer { data_offset, epoch }))
            .collect()
    }

    /// The last offset of each key from `first_dirty` on, as far as the map has room.
    async fn map_keys(
        &mut self,
        segments: &[Rc<Segment>],
        first_dirty: Offset,
    ) -> Result<OffsetMap, CleaningError> {
        let round = self.round;
        let reach = segments
            .last()
            .map_or(first_dirty, |last| last.next_offset.get());
        let keys = (reach.0 - first_dirty.0).max(0) as u64;
        let mut map = OffsetMap::new(keys, round.map_bytes, round.map_load, round.salt);
        map.advance_to(first_dirty.plus(-1));
        let mut transactions = Transactions::default();
        let dirty = segments
            .iter()
            .filter(|segment| segment.next_offset.get() > first_dirty);
        for segment in dirty {
            let mapped = self.map_segment(segment, first_dirty, &mut map, &mut transactions);
            match mapped.await {
                Ok(true) => map.advance_to(segment.next_offset.get().plus(-1)),
                Ok(false) => break,
                Err(_) if self.is_gone(segment) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(map)
    }

    /// False: the map is full.
    async fn map_segment(
        &mut self,
        segment: &Segment,
        first_dirty: Offset,
        map: &mut OffsetMap,
        transactions: &mut Transactions,
    ) -> Result<bool, CleaningError> {
        transactions.expect(self.aborted_in(segment).await?);
        let mut scan = self.scan(segment).await?;
        while let Some((batch, position)) = self.next_batch(&mut scan, segment).await? {
            let failed = |error| CleaningError::of_batch(segment, position, error);
            if batch.is_control() {
                transactions.on_control(&batch).map_err(failed)?;
            } else if (!transactions.on_batch(&batch) || self.log.context.counts_aborted())
                && batch.last_offset() >= first_dirty
            {
                let records = batch::records(&batch, DECOMPRESSED_BYTES_MAX);
                for record in records.map_err(failed)? {
                    let record = record.map_err(failed)?;
                    let key = record.key.filter(|_| record.offset >= first_dirty);
                    if key.is_some_and(|key| !map.put(&key, record.offset)) {
                        return Ok(false);
                    }
                }
            }
            if batch.last_offset() >= first_dirty {
                map.advance_to(batch.last_offset());
            }
        }
        Ok(true)
    }

    /// Neighbours that become one, each time.
    async fn groups(
        &self,
        segments: Vec<Rc<Segment>>,
    ) -> Result<Vec<Vec<Rc<Segment>>>, CleaningError> {
        let settings = self.log.settings();
        let (mut members, mut there) = (Vec::new(), Vec::new());
        for segment in segments {
            match self.member(&segment).await {
                Ok(member) => {
                    members.push(member);
                    there.push(segment);
                }
                Err(_) if self.is_gone(&segment) => {}
                Err(error) => return Err(error),
            }
        }
        let counts = groups::group(
            &members,
            settings.segment_bytes.into(),
            settings.segment_index_bytes.into(),
        );
        let mut there = there.into_iter();
        let group = |count: &usize| there.by_ref().take(*count).collect();
        Ok(counts.iter().map(group).collect())
    }

    async fn member(&self, segment: &Segment) -> Result<Member, CleaningError> {
        let length = async |extension: &str| {
            let path = self.log.segment_path(segment.base, extension);
            let file = self.log.context.disk.open(&path, Mode::Read).await;
            self.checked(file.and_then(|file| file.len()))
        };
        Ok(Member {
            base: segment.base,
            next_offset: segment.next_offset.get(),
            bytes: segment.size.get().into(),
            index_bytes: length("index").await?,
            time_index_bytes: length("timeindex").await?,
        })
    }

    /// Makes one segment of a group, without those at its front that retention takes meanwhile.
    async fn clean_group(
        &mut self,
        group: &[Rc<Segment>],
        rules: &Rules,
        transactions: &mut Transactions,
        cleaned: &mut Cleaned,
    ) -> Result<(), CleaningError> {
        loop {
            let there = self.there_of(group);
            if there.is_empty() {
                return Ok(());
            }
            let mut met = transactions.clone();
            match self.make_one(there, rules, &mut met).await {
                Ok((before, after)) => {
                    cleaned.bytes_before += before;
                    cleaned.bytes_after += after;
                    *transactions = met;
                    return Ok(());
                }
                Err(error) => {
                    self.remove_cleaned(there[0].base).await;
                    if self.there_of(group).len() == there.len() {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Answers how many bytes they had, and have.
    async fn make_one(
        &mut self,
        group: &[Rc<Segment>],
        rules: &Rules,
        transactions: &mut Transactions,
    ) -> Result<(u64, u64), CleaningError> {
        let base = group[0].base;
        let path = self.log.segment_path(base, "log.cleaned");
        let turn = self.log.rearranging.lock().await;
        self.check_goes_on()?;
        let output = Output::create(&self.log.context.disk, &path).await;
        drop(turn);
        let mut output = self.checked(output)?;
        let fresh = Segment::empty(base, group[group.len() - 1].created_ms);
        let interval = self.log.settings().index_interval_bytes;
        let mut changed = group.len() > 1;
        let before: u64 = group.iter().map(|s| u64::from(s.size.get())).sum();
        // Its last batch stays, if only empty: it tells a start how far the group went (`finish_swaps`).
        let filled = group.iter().rev().find(|segment| segment.size.get() > 0);
        let last = filled.unwrap_or(&group[0]);
        for segment in group {
            transactions.expect(self.aborted_in(segment).await?);
            let mut scan = self.scan(segment).await?;
            while let Some((batch, position)) = self.next_batch(&mut scan, segment).await? {
                let ends_group = Rc::ptr_eq(segment, last) && scan.position == segment.size.get();
                let (kept, aborted) = rules
                    .apply(&batch, transactions, ends_group)
                    .map_err(|error| CleaningError::of_batch(segment, position, error))?;
                changed |= kept != Kept::All;
                let bytes: Bytes = match kept {
                    Kept::Nothing => continue,
                    Kept::All => batch.bytes().clone(),
                    Kept::Anew(bytes) => bytes,
                };
                if u64::from(fresh.size.get()) + bytes.len() as u64 > SEGMENT_BYTES_MAX {
                    return Err(CleaningError::Unreadable {
                        what: format!("the segment at {base}"),
                        problem: "compressed anew it is larger than a segment can be".to_owned(),
                    });
                }
                let header = Header::parse(&bytes).expect("just made");
                index_batch(&fresh, &header, interval);
                if let Some(aborted) = aborted {
                    fresh.note_aborted(aborted);
                }
                self.unpaced += bytes.len() as u64;
                self.checked(output.append(&bytes).await)?;
            }
        }
        let after = u64::from(fresh.size.get());
        let syncs = self.log.context.syncs_before_swap();
        self.checked(output.finish(after, syncs).await)?;
        if !changed {
            let removed = self.log.context.disk.remove(&path).await;
            return self.checked(removed).map(|()| (before, before));
        }
        add_last_time_entry(&fresh);
        self.swap_in(group, fresh).await?;
        Ok((before, after))
    }

    /// Gives back the room of what a group would have become.
    async fn remove_cleaned(&self, base: Offset) {
        let _turn = self.log.rearranging.lock().await;
        // Of a log that has ended nobody knows whose folder it is by now.
        if self.log.check_open().is_ok() {
            self.log.remove_cleaned(base).await;
        }
    }

    /// Whether all of a segment lies before the log, so that retention takes it, if it has not already.
    fn is_gone(&self, segment: &Segment) -> bool {
        segment.next_offset.get() <= self.log.start_offset()
    }

    fn there_of<'a>(&self, group: &'a [Rc<Segment>]) -> &'a [Rc<Segment>] {
        let gone = group.iter().take_while(|segment| self.is_gone(segment));
        &group[gone.count()..]
    }

    /// The aborted transactions with records in this segment.
    async fn aborted_in(
        &self,
        segment: &Segment,
    ) -> Result<Vec<super::transaction_index::AbortedTransaction>, CleaningError> {
        let upto = segment.next_offset.get();
        Ok(self.log.aborted_transactions(segment.base, upto).await?)
    }

    async fn scan(&self, segment: &Segment) -> Result<Scan, CleaningError> {
        let path = segment_path(&self.log.dir(), segment.base, "log");
        let file = self.log.context.disk.open(&path, Mode::Serve).await;
        let file = self.checked(file)?;
        let end = u64::from(segment.size.get());
        Ok(Scan {
            scanner: Scanner::new(file, end, READ_BYTES),
            position: 0,
        })
    }

    /// The next batch of a segment and its position. Others get their turn now and then.
    async fn next_batch(
        &mut self,
        scan: &mut Scan,
        segment: &Segment,
    ) -> Result<Option<(Batch, u32)>, CleaningError> {
        let position = scan.position;
        if position >= segment.size.get() {
            return Ok(None);
        }
        if self.unpaced >= STEP_BYTES {
            let bytes = std::mem::take(&mut self.unpaced);
            (self.round.pace)(bytes).await;
            self.check_goes_on()?;
        }
        let header = self.checked(scan.scanner.header(u64::from(position)).await)?;
        let Some(header) = header else {
            return Err(CleaningError::Unreadable {
                what: format!("the segment at {}", segment.base),
                problem: format!("no batch begins at byte {position}"),
            });
        };
        let bytes = scan
            .scanner
            .bytes(u64::from(position), header.size as usize)
            .await;
        let bytes = self.checked(bytes)?;
        let failed = |error| CleaningError::of_batch(segment, position, error);
        let batch = Batch::parse(&bytes).map_err(failed)?;
        // What has rotted is not to get a checksum that fits.
        batch.verify_crc().map_err(failed)?;
        scan.position += header.size;
        self.unpaced += u64::from(header.size);
        Ok(Some((batch, position)))
    }

    fn check_goes_on(&self) -> Result<(), CleaningError> {
        self.log.check_open()?;
        match self.log.settings().compaction == Some(self.compaction) {
            true => Ok(()),
            false => Err(CleaningError::Aborted),
        }
    }

    /// What went wrong counts only while the log is the same. Reading and writing aside harms nobody but this round.
    fn checked<T>(&self, result: io::Result<T>) -> Result<T, CleaningError> {
        result.or_else(|error| {
            self.check_goes_on()?;
            Err(CleaningError::Storage {
                what: self.log.dir().display().to_string(),
                problem: error.to_string(),
            })
        })
    }
}

/// How far the reading of one segment has come.
struct Scan {
    scanner: Scanner,
    position: u32,
}
