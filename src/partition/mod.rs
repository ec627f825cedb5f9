//! Owns one partition on its core: its log, its marks, its place in metadata, and what waits for it.
//! It decides what a client may see and when an append is acknowledged; it never touches a socket or a file.

pub mod pace;
#[cfg(test)]
mod tests;
pub mod validate;
pub mod waiting;

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::collections::VecDeque;
use std::ops::Add;
use std::rc::Rc;

use crate::ids::{LeaderEpoch, Offset, PartitionIndex, TimestampMs};
use crate::io::clock::Ticks;
use crate::log::producers::{Origin, ProducerBatch, ProducerRefusal, Verdict};
use crate::log::transaction_index::AbortedTransaction;
use crate::log::{Log, LogError, LogEvent};
use crate::protocol::batch::{Batch, BatchHeader, TimestampType};
use crate::protocol::{Records, Str, Uuid};
use pace::{Pace, Rates};
use waiting::{DelayedFetches, DelayedProduces, FetchWaiter, Ticket};

/// When a produce is acknowledged (`acks`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Acks {
    None,
    /// The leader's write has completed.
    Leader,
    /// On stable storage of every in-sync replica.
    All,
}

pub struct Partition {
    pub topic: Str,
    pub topic_id: Uuid,
    pub index: PartitionIndex,
    log: Rc<Log>,
    arrived: Cell<Arrived>,
    /// Bytes of record batches read for fetches; one that waits for more reads them again.
    fetched_bytes: Cell<u64>,
    pace: Pace,
    leader_epoch: Cell<LeaderEpoch>,
    high_watermark: Cell<Offset>,
    /// Sizes of appended batches above the high watermark, by their end offset.
    hidden: RefCell<VecDeque<(Offset, u64)>>,
    /// Bytes that have ever become readable since start: fetches compare it to know what they missed.
    readable_bytes: Cell<u64>,
    written: RefCell<DelayedProduces>,
    replicated: RefCell<DelayedProduces>,
    fetches: RefCell<DelayedFetches>,
}

/// What clients have appended since the partition came to this core.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Arrived {
    pub records: u64,
    pub bytes: u64,
}

impl Add for Arrived {
    type Output = Arrived;

    fn add(self, other: Arrived) -> Arrived {
        Arrived {
            records: self.records + other.records,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// What an append gave its records, and when it counts as done.
pub struct Produced {
    pub base_offset: Offset,
    /// -1 unless the topic stamps records itself.
    pub log_append_time_ms: TimestampMs,
    pub log_start_offset: Offset,
}

/// Why a partition does not do what a client wants.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PartitionError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Producer(#[from] ProducerRefusal),
    #[error("the partition does not live here")]
    NotHere,
    #[error("the partition's log could not be opened")]
    Offline,
    #[error("the client knows leader epoch {0}, which is over")]
    FencedLeaderEpoch(LeaderEpoch),
    #[error("the client knows leader epoch {0}, which has not begun here")]
    UnknownLeaderEpoch(LeaderEpoch),
    #[error("offset {0} is not in the log")]
    OffsetOutOfRange(Offset),
}

/// The bounds of what clients see, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marks {
    pub log_start: Offset,
    pub last_stable: Offset,
    pub high_watermark: Offset,
    pub log_end: Offset,
}

/// What a fetch read from one partition.
pub struct FetchedRecords {
    pub marks: Marks,
    pub records: Records,
    /// Whose records among them a read_committed client leaves out; none for other clients.
    pub aborted: Vec<AbortedTransaction>,
    /// Hand it to [`Partition::watch`], so that what became readable since is not missed.
    pub seen: u64,
    /// The reader's log parts from this one after the end of this epoch: it gets no records (KIP-595).
    pub diverging: Option<(LeaderEpoch, Offset)>,
}

/// What ListOffsets asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lookup {
    Earliest,
    Latest,
    /// The record with the largest timestamp (KIP-734).
    MaxTimestamp,
    /// The first record with this timestamp or a later one.
    Timestamp(TimestampMs),
    /// Something of a tier that does not exist.
    Nothing,
}

/// What ListOffsets found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FoundOffset {
    /// -1 where the question was not of a record.
    pub timestamp: TimestampMs,
    pub offset: Offset,
    pub leader_epoch: Option<LeaderEpoch>,
}

/// What a fetch wants from one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadBounds {
    pub offset: Offset,
    pub max_bytes: usize,
    /// What of it may lie in memory; a first batch larger than that comes from the file.
    pub memory_max: usize,
    /// The first batch is returned whole even if it is larger than `max_bytes` (KIP-74).
    pub at_least_one: bool,
    pub read_committed: bool,
    /// The epoch of the record before `offset` as the reader has it; -1 if it does not say.
    pub last_fetched_epoch: LeaderEpoch,
}

impl Partition {
    pub fn new(
        topic: Str,
        topic_id: Uuid,
        index: PartitionIndex,
        leader_epoch: LeaderEpoch,
        log: Rc<Log>,
    ) -> Rc<Partition> {
        let high_watermark = log.durable_end();
        log.producers()
            .borrow_mut()
            .on_high_watermark(high_watermark);
        let partition = Rc::new(Partition {
            topic,
            topic_id,
            index,
            leader_epoch: Cell::new(leader_epoch),
            // What recovery kept is on this, the only in-sync, replica.
            high_watermark: Cell::new(high_watermark),
            hidden: RefCell::default(),
            readable_bytes: Cell::new(0),
            written: RefCell::default(),
            replicated: RefCell::default(),
            fetches: RefCell::default(),
            log: log.clone(),
            arrived: Cell::default(),
            fetched_bytes: Cell::default(),
            pace: Pace::default(),
        });
        let observed = Rc::downgrade(&partition);
        log.set_observer(Rc::new(move |event| {
            if let Some(partition) = observed.upgrade() {
                partition.on_log_event(event);
            }
        }));
        partition
    }

    pub fn log(&self) -> &Rc<Log> {
        &self.log
    }

    pub fn arrived(&self) -> Arrived {
        self.arrived.get()
    }

    /// To be called about twice a second.
    pub fn on_tick(&self, now: Ticks) {
        let fetched = self.fetched_bytes.get();
        self.pace.on_tick(now, self.arrived.get(), fetched);
    }

    /// What came and went in the last second.
    pub fn rates(&self) -> Rates {
        self.pace.rates()
    }

    pub fn leader_epoch(&self) -> LeaderEpoch {
        self.leader_epoch.get()
    }

    /// Metadata says so. Fetches are answered, so that their clients learn of it.
    pub fn set_leader_epoch(&self, epoch: LeaderEpoch) {
        if epoch != self.leader_epoch.replace(epoch) {
            self.fetches.borrow_mut().on_change();
        }
    }

    /// Refuses a client whose idea of the leader's epoch is another (KIP-320); -1 is no idea.
    pub fn check_epoch(&self, epoch: i32) -> Result<(), PartitionError> {
        let epoch = LeaderEpoch(epoch);
        match epoch.cmp(&self.leader_epoch.get()) {
            _ if epoch.0 == -1 => Ok(()),
            Ordering::Less => Err(PartitionError::FencedLeaderEpoch(epoch)),
            Ordering::Greater => Err(PartitionError::UnknownLeaderEpoch(epoch)),
            Ordering::Equal => Ok(()),
        }
    }

    pub fn marks(&self) -> Marks {
        let high_watermark = self.high_watermark.get();
        let first_unstable = self.log.producers().borrow().first_unstable_offset();
        Marks {
            log_start: self.log.start_offset(),
            last_stable: first_unstable.map_or(high_watermark, |first| first.min(high_watermark)),
            high_watermark,
            log_end: self.log.end_offset(),
        }
    }

    /// Appends one validated batch. All that decides its place in the order happens before this returns.
    /// A batch that its idempotent producer repeats is answered with its first offset (KIP-98).
    pub fn produce(
        &self,
        batch: &Batch,
        acks: Acks,
        now: TimestampMs,
        ticket: impl FnOnce() -> Ticket,
    ) -> Result<Produced, PartitionError> {
        let header = batch.view().header();
        let repeated = match producer_batch(header, self.log.end_offset()) {
            Some(producer) => self
                .log
                .producers()
                .borrow()
                .check(&producer, Origin::Client)?,
            None => Verdict::Append,
        };
        let (base_offset, end, timestamp) = match repeated {
            Verdict::Duplicate {
                base_offset,
                last_offset,
                timestamp,
            } => (base_offset, last_offset.plus(1), timestamp),
            Verdict::Append => {
                let appended = self
                    .log
                    .append(batch.bytes(), self.leader_epoch.get(), now)?;
                let end = appended.last_offset.plus(1);
                let bytes = batch.size_in_bytes() as u64;
                self.hidden.borrow_mut().push_back((end, bytes));
                let records = u64::try_from(header.records_count()).unwrap_or(0);
                self.arrived
                    .set(self.arrived.get() + Arrived { records, bytes });
                (appended.base_offset, end, header.max_timestamp())
            }
        };
        let log_append_time_ms = match (repeated, header.timestamp_type()) {
            // As Kafka tells it, whatever the type.
            (Verdict::Duplicate { .. }, _) | (_, TimestampType::LogAppendTime) => timestamp,
            (Verdict::Append, TimestampType::CreateTime) => -1,
        };
        self.wait(acks, end, ticket);
        Ok(Produced {
            base_offset,
            log_append_time_ms,
            log_start_offset: self.log.start_offset(),
        })
    }

    fn wait(&self, acks: Acks, end: Offset, ticket: impl FnOnce() -> Ticket) {
        let (is_reached, delayed) = match acks {
            // Nobody waits for an answer; but who produces faster than the disk takes it is read no faster.
            Acks::None => (!self.log.is_behind(), &self.written),
            Acks::Leader => (self.log.written_end() >= end, &self.written),
            Acks::All => (self.high_watermark.get() >= end, &self.replicated),
        };
        if !is_reached {
            delayed.borrow_mut().wait(end, ticket());
        }
    }

    /// Reads what `bounds` may see.
    pub async fn fetch(&self, bounds: ReadBounds) -> Result<FetchedRecords, PartitionError> {
        let seen = self.readable_bytes.get();
        let marks = self.marks();
        let diverging = self.divergence(bounds.last_fetched_epoch, bounds.offset)?;
        let in_log = marks.log_start <= bounds.offset && bounds.offset <= marks.log_end;
        if !in_log && diverging.is_none() {
            return Err(PartitionError::OffsetOutOfRange(bounds.offset));
        }
        let upto = if bounds.read_committed {
            marks.last_stable
        } else {
            marks.high_watermark
        };
        let mut records = Records::default();
        let mut aborted = Vec::new();
        if bounds.offset < upto && diverging.is_none() {
            records = self
                .log
                .read_within(
                    bounds.offset,
                    upto,
                    bounds.max_bytes,
                    bounds.at_least_one,
                    bounds.memory_max,
                )
                .await?;
            let fetched = &self.fetched_bytes;
            fetched.set(fetched.get() + records.len() as u64);
            if bounds.read_committed && !records.is_empty() {
                // More than these records need is no harm: clients take them by their offsets.
                aborted = self.log.aborted_transactions(bounds.offset, upto).await?;
            }
        }
        Ok(FetchedRecords {
            marks,
            records,
            aborted,
            seen,
            diverging,
        })
    }

    /// Finds an offset below what the client may see.
    pub async fn find_offset(
        &self,
        lookup: Lookup,
        read_committed: bool,
    ) -> Result<Option<FoundOffset>, PartitionError> {
        let marks = self.marks();
        let upto = if read_committed {
            marks.last_stable
        } else {
            marks.high_watermark
        };
        let plain = |offset, leader_epoch| FoundOffset {
            timestamp: -1,
            offset,
            leader_epoch,
        };
        let record = match lookup {
            Lookup::Nothing => return Ok(None),
            Lookup::Earliest => {
                let epoch = self.log.epoch_for_offset(marks.log_start);
                let epoch = epoch.unwrap_or(self.leader_epoch.get());
                return Ok(Some(plain(marks.log_start, Some(epoch))));
            }
            Lookup::Latest => return Ok(Some(plain(upto, Some(self.leader_epoch.get())))),
            Lookup::MaxTimestamp => self.log.max_timestamp().await?,
            Lookup::Timestamp(timestamp) => self.log.offset_for_timestamp(timestamp).await?,
        };
        Ok(record
            .filter(|record| record.offset < upto)
            .map(|record| FoundOffset {
                timestamp: record.timestamp,
                offset: record.offset,
                leader_epoch: Some(record.leader_epoch),
            }))
    }

    /// The largest epoch at or below `requested`, and the offset behind its last record (KIP-101). The leader's own
    /// epoch is known before it has a record.
    pub fn end_offset_for(&self, requested: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let (current, end) = (self.leader_epoch.get(), self.log.end_offset());
        if requested > current || requested.0 == -1 {
            return None;
        }
        if requested == current {
            return Some((current, end));
        }
        let found = self.log.end_offset_for(requested);
        Some(found.unwrap_or((self.log.latest_epoch().unwrap_or(requested), end)))
    }

    /// Where a reader whose last record before `offset` is of `epoch` must cut its log, if it must (KIP-595).
    fn divergence(
        &self,
        epoch: LeaderEpoch,
        offset: Offset,
    ) -> Result<Option<(LeaderEpoch, Offset)>, PartitionError> {
        if epoch.0 == -1 {
            return Ok(None);
        }
        let (found, end) = self
            .end_offset_for(epoch)
            .ok_or(PartitionError::OffsetOutOfRange(offset))?;
        Ok((found < epoch || end < offset).then_some((found, end)))
    }

    /// Wakes `waiter` by the bytes that become readable, counting from when a fetch had `seen` so many.
    pub fn watch(&self, waiter: &Rc<FetchWaiter>, seen: u64) {
        self.fetches.borrow_mut().add(waiter);
        waiter.on_bytes(self.readable_bytes.get() - seen);
    }

    /// The partition leaves this core: whoever waits for it gets an answer.
    pub fn on_removed(&self) {
        let gone = LogError::Closed;
        self.written.borrow_mut().on_failure(&gone);
        self.replicated.borrow_mut().on_failure(&gone);
        self.fetches.borrow_mut().on_change();
    }

    /// The broker stops: fetches that wait answer with what there is.
    pub fn on_stopping(&self) {
        self.fetches.borrow_mut().on_change();
    }

    fn on_log_event(&self, event: LogEvent) {
        match event {
            LogEvent::Written => self.written.borrow_mut().on_advance(self.log.written_end()),
            LogEvent::Durable => self.on_durable(self.log.durable_end()),
            LogEvent::Offline(error) => {
                self.written.borrow_mut().on_failure(&error);
                self.replicated.borrow_mut().on_failure(&error);
                self.fetches.borrow_mut().on_change();
            }
        }
    }

    /// The smallest durable end offset of the in-sync replicas is the high watermark; here, of the only one.
    fn on_durable(&self, durable_end: Offset) {
        if durable_end <= self.high_watermark.get() {
            return;
        }
        self.high_watermark.set(durable_end);
        self.log
            .producers()
            .borrow_mut()
            .on_high_watermark(durable_end);
        self.replicated.borrow_mut().on_advance(durable_end);
        let mut bytes = 0;
        let mut hidden = self.hidden.borrow_mut();
        while hidden.front().is_some_and(|(end, _)| *end <= durable_end) {
            bytes += hidden.pop_front().map_or(0, |(_, size)| size);
        }
        drop(hidden);
        self.readable_bytes.set(self.readable_bytes.get() + bytes);
        self.fetches.borrow_mut().on_bytes(bytes);
    }
}

/// What a header says of its idempotent producer; `None` when it has none.
fn producer_batch(header: &BatchHeader, base_offset: Offset) -> Option<ProducerBatch> {
    header.has_producer_id().then(|| ProducerBatch {
        producer_id: header.producer_id(),
        producer_epoch: header.producer_epoch(),
        base_sequence: header.base_sequence(),
        base_offset,
        last_offset: base_offset.plus(i64::from(header.last_offset_delta())),
        max_timestamp: header.max_timestamp(),
        transactional: header.is_transactional(),
    })
}
