//! Owns what one partition's log knows of its producers: epochs, sequences and the last batches of
//! each (KIP-98), open transactions with the first unstable offset, and the `.snapshot` file's bytes.
//! It never reads a clock or a file, and never looks into a batch: callers hand in what its header says.
//!
//! The order of calls for a batch with a producer id: `check`, then the append to the log, then
//! `append`. For a control batch: `check_marker`, append to the log, `append_marker`; if that returns a
//! completed transaction, `last_stable_offset_after` gives the aborted-transaction index its entry, and
//! `complete` closes it. After every batch, with or without producer id, `advance_to`.

use std::collections::BTreeMap;

use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checkpoints::FormatError;
use super::transaction_index::AbortedTransaction;
use crate::ids::{Offset, ProducerId, TimestampMs};
use crate::protocol::batch::{self, Batch, BatchError, BatchHeader, ControlType};
use crate::protocol::crc32c;

/// Kafka caches as many batches a producer, because a producer may have as many requests in flight.
pub const BATCHES_CACHED: usize = 5;

/// Who appends; decides how much is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A produce request: epoch and sequence must fit, repeated batches are recognised.
    Client,
    /// A group or transaction coordinator of this broker: its batches have no sequence to check.
    Coordinator,
    /// A follower's fetch, or recovery from the log itself: what the leader accepted is accepted.
    Replication,
}

/// What a batch's header says about its producer. Offsets are those it has, or would get, in the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProducerBatch {
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    pub base_sequence: i32,
    pub base_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp: TimestampMs,
    pub transactional: bool,
}

/// The end of a transaction, as a control batch says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EndMarker {
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
    pub committed: bool,
    pub offset: Offset,
    pub timestamp: TimestampMs,
}

/// What is to be done with a batch that is not refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Append,
    /// It is in the log already: answer these and append nothing.
    Duplicate {
        base_offset: Offset,
        last_offset: Offset,
        timestamp: TimestampMs,
    },
}

/// Why a batch or marker is not appended; each is one of Kafka's error codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProducerRefusal {
    /// OUT_OF_ORDER_SEQUENCE_NUMBER
    #[error("producer {producer_id} sent sequence {found} where {expected} follows")]
    OutOfOrderSequence {
        producer_id: ProducerId,
        found: i32,
        expected: i32,
    },
    /// INVALID_PRODUCER_EPOCH
    #[error("producer {producer_id} has epoch {found}, the partition has seen {current}")]
    InvalidProducerEpoch {
        producer_id: ProducerId,
        found: i16,
        current: i16,
    },
    /// INVALID_TXN_STATE
    #[error("producer {producer_id} sent a batch outside the transaction it has open")]
    NotInTransaction { producer_id: ProducerId },
    /// TRANSACTION_COORDINATOR_FENCED
    #[error("a marker of coordinator epoch {found}, the partition has seen {current}")]
    CoordinatorFenced { found: i32, current: i32 },
}

/// A transaction whose marker has been appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CompletedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// The marker's offset.
    pub last_offset: Offset,
    pub aborted: bool,
}

/// One producer as DescribeProducers lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ActiveProducer {
    pub producer_id: ProducerId,
    pub producer_epoch: i16,
    /// -1: none since the last marker that raised the epoch.
    pub last_sequence: i32,
    pub last_timestamp: TimestampMs,
    /// -1: no marker yet.
    pub coordinator_epoch: i32,
    pub transaction_first_offset: Option<Offset>,
}

#[derive(Clone, PartialEq, Debug, Default)]
pub struct ProducerStates {
    producers: BTreeMap<ProducerId, Producer>,
    /// Open transactions by their first offset.
    ongoing: BTreeMap<Offset, ProducerId>,
    /// Ended transactions whose marker, here the value, is not below the high watermark yet.
    unreplicated: BTreeMap<Offset, Offset>,
    end_offset: Offset,
}

#[derive(Clone, PartialEq, Debug)]
struct Producer {
    epoch: i16,
    coordinator_epoch: i32,
    last_timestamp: TimestampMs,
    transaction_first_offset: Option<Offset>,
    batches: CachedBatches,
}

const NO_EPOCH: i16 = -1;
const NO_SEQUENCE: i32 = -1;

impl ProducerStates {
    /// No producer known, the log's next record to come at `end_offset`.
    pub fn new(end_offset: Offset) -> ProducerStates {
        ProducerStates {
            end_offset,
            ..ProducerStates::default()
        }
    }

    /// Whether `batch` fits what is known of its producer. Of a producer never seen, or forgotten,
    /// any sequence is accepted, as Kafka does since 2.5 (KIP-360).
    pub fn check(&self, batch: &ProducerBatch, origin: Origin) -> Result<Verdict, ProducerRefusal> {
        if origin == Origin::Replication {
            return Ok(Verdict::Append);
        }
        let unknown = Producer::unknown();
        let producer = self.producers.get(&batch.producer_id).unwrap_or(&unknown);
        if origin == Origin::Client
            && let Some(duplicate) = producer.find_duplicate(batch)
        {
            return Ok(duplicate);
        }
        if batch.producer_epoch < producer.epoch {
            return Err(ProducerRefusal::InvalidProducerEpoch {
                producer_id: batch.producer_id,
                found: batch.producer_epoch,
                current: producer.epoch,
            });
        }
        if origin == Origin::Client {
            producer.check_sequence(batch)?;
        }
        if producer.transaction_first_offset.is_some() && !batch.transactional {
            return Err(ProducerRefusal::NotInTransaction {
                producer_id: batch.producer_id,
            });
        }
        Ok(Verdict::Append)
    }

    /// Notes a batch that has been appended to the log with the offsets it says.
    pub fn append(&mut self, batch: &ProducerBatch) {
        assert!(
            batch.producer_id.0 >= 0,
            "a batch without producer id has no producer state"
        );
        let producer = self
            .producers
            .entry(batch.producer_id)
            .or_insert_with(Producer::unknown);
        producer.set_epoch(batch.producer_epoch);
        producer.batches.push(CachedBatch {
            last_sequence: batch.last_sequence(),
            offset_delta: batch.offset_delta(),
            last_offset: batch.last_offset,
            timestamp: batch.max_timestamp,
        });
        producer.last_timestamp = batch.max_timestamp;
        if batch.transactional && producer.transaction_first_offset.is_none() {
            producer.transaction_first_offset = Some(batch.base_offset);
            self.ongoing.insert(batch.base_offset, batch.producer_id);
        }
    }

    /// Whether the coordinator may end this producer's transaction here. `transaction_version` is the
    /// `transaction.version` level that the coordinator acts by: from 2 on it raises the epoch before
    /// each marker, so a marker of the current epoch is a late one (KIP-890) unless it repeats the last.
    pub fn check_marker(
        &self,
        marker: &EndMarker,
        transaction_version: i16,
    ) -> Result<(), ProducerRefusal> {
        let Some(producer) = self.producers.get(&marker.producer_id) else {
            return Ok(());
        };
        let stale = marker.producer_epoch < producer.epoch
            || (transaction_version >= 2
                && marker.producer_epoch == producer.epoch
                && producer.transaction_first_offset.is_some());
        if stale {
            return Err(ProducerRefusal::InvalidProducerEpoch {
                producer_id: marker.producer_id,
                found: marker.producer_epoch,
                current: producer.epoch,
            });
        }
        if marker.coordinator_epoch < producer.coordinator_epoch {
            return Err(ProducerRefusal::CoordinatorFenced {
                found: marker.coordinator_epoch,
                current: producer.coordinator_epoch,
            });
        }
        Ok(())
    }

    /// Notes a marker that has been appended. Returns the transaction it ends, none if that was empty.
    pub fn append_marker(&mut self, marker: &EndMarker) -> Option<CompletedTransaction> {
        let producer = self
            .producers
            .entry(marker.producer_id)
            .or_insert_with(Producer::unknown);
        producer.set_epoch(marker.producer_epoch);
        producer.coordinator_epoch = marker.coordinator_epoch;
        producer.last_timestamp = marker.timestamp;
        producer
            .transaction_first_offset
            .take()
            .map(|first_offset| CompletedTransaction {
                producer_id: marker.producer_id,
                first_offset,
                last_offset: marker.offset,
                aborted: !marker.committed,
            })
    }

    /// The last stable offset once `completed` is closed: the first offset of another open transaction,
    /// else the offset behind the marker. The aborted-transaction index records it.
    pub fn last_stable_offset_after(&self, completed: &CompletedTransaction) -> Offset {
        self.ongoing
            .iter()
            .find(|(_, producer_id)| **producer_id != completed.producer_id)
            .map_or(completed.last_offset.plus(1), |(first_offset, _)| {
                *first_offset
            })
    }

    /// Closes a transaction. It holds the last stable offset back until its marker is replicated.
    pub fn complete(&mut self, completed: &CompletedTransaction) {
        let ended = self.ongoing.remove(&completed.first_offset);
        assert_eq!(
            ended,
            Some(completed.producer_id),
            "the transaction at {} was open",
            completed.first_offset
        );
        self.unreplicated
            .insert(completed.first_offset, completed.last_offset);
    }

    /// The high watermark moved: markers below it no longer hold the last stable offset back.
    pub fn on_high_watermark(&mut self, high_watermark: Offset) {
        self.unreplicated
            .retain(|_, marker_offset| *marker_offset >= high_watermark);
    }

    /// The first offset of a transaction that is open, or whose end is not replicated yet. The last
    /// stable offset is this or the high watermark, whichever is lower.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        let undecided = self.ongoing.keys().next();
        let unreplicated = self.unreplicated.keys().next();
        undecided.into_iter().chain(unreplicated).min().copied()
    }

    /// The first offset of a transaction that is open.
    pub fn first_undecided_offset(&self) -> Option<Offset> {
        self.ongoing.keys().next().copied()
    }

    /// Whether this producer has a transaction open in this epoch.
    pub fn has_open_transaction(&self, producer_id: ProducerId, producer_epoch: i16) -> bool {
        self.producers.get(&producer_id).is_some_and(|producer| {
            producer.transaction_first_offset.is_some() && producer.epoch == producer_epoch
        })
    }

    /// When the producer of the oldest open transaction last wrote; tells transactions left hanging.
    pub fn oldest_transaction_timestamp(&self) -> Option<TimestampMs> {
        let producer_id = self.ongoing.values().next()?;
        self.producers
            .get(producer_id)
            .map(|producer| producer.last_timestamp)
    }

    /// Forgets producers that have not written for `expiration_ms` (`producer.id.expiration.ms`)
    /// and have no transaction open. Returns how many.
    pub fn expire(&mut self, now_ms: TimestampMs, expiration_ms: i64) -> usize {
        let before = self.producers.len();
        self.producers
            .retain(|_, producer| !producer.is_expired(now_ms, expiration_ms));
        before - self.producers.len()
    }

    /// The log's start moved: ended transactions wholly below it are history.
    pub fn on_log_start_offset(&mut self, log_start_offset: Offset) {
        self.on_high_watermark(log_start_offset);
        self.end_offset = self.end_offset.max(log_start_offset);
    }

    /// The state covers all of the log below this offset; a snapshot of it is named by it.
    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    pub fn advance_to(&mut self, end_offset: Offset) {
        self.end_offset = end_offset;
    }

    pub fn len(&self) -> usize {
        self.producers.len()
    }

    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Of each producer the epoch, and the last offset of its last batch in that epoch.
    pub fn last_offsets(&self) -> impl Iterator<Item = (ProducerId, i16, Option<Offset>)> + '_ {
        self.producers.iter().map(|(producer_id, producer)| {
            let last = producer.batches.last().map(|batch| batch.last_offset);
            (*producer_id, producer.epoch, last)
        })
    }

    /// All producers in the order of their ids.
    pub fn active(&self) -> impl ExactSizeIterator<Item = ActiveProducer> + '_ {
        self.producers
            .iter()
            .map(|(producer_id, producer)| ActiveProducer {
                producer_id: *producer_id,
                producer_epoch: producer.epoch,
                last_sequence: producer.last_sequence(),
                last_timestamp: producer.last_timestamp,
                coordinator_epoch: producer.coordinator_epoch,
                transaction_first_offset: producer.transaction_first_offset,
            })
    }
}

impl ProducerStates {
    /// Takes in a batch that is in the log already: at recovery, and on a follower. Returns the entry
    /// that the segment's aborted-transaction index gets, if the batch ends an aborted transaction.
    /// An error means that the batch does not continue the log, or is a control batch that can't be read.
    pub fn replay(&mut self, batch: &Batch) -> Result<Option<AbortedTransaction>, BatchError> {
        let base_offset = batch.base_offset();
        if !(self.end_offset..=OFFSET_MAX).contains(&base_offset) {
            return Err(BatchError::BadBaseOffset(base_offset.0));
        }
        let mut aborted = None;
        if batch.has_producer_id() {
            if !batch.is_control() {
                self.append(&ProducerBatch::of(batch, base_offset));
            } else if let Some(marker) = EndMarker::of(batch)? {
                aborted = self.end_transaction(&marker);
            }
        }
        self.advance_to(batch.next_offset());
        Ok(aborted)
    }

    /// `append_marker` and what follows from it, in one.
    pub fn end_transaction(&mut self, marker: &EndMarker) -> Option<AbortedTransaction> {
        let completed = self.append_marker(marker)?;
        let last_stable_offset = self.last_stable_offset_after(&completed);
        self.complete(&completed);
        completed.aborted.then_some(AbortedTransaction {
            producer_id: completed.producer_id,
            first_offset: completed.first_offset,
            last_offset: completed.last_offset,
            last_stable_offset,
        })
    }
}

impl EndMarker {
    /// The marker that a control batch holds; `None` when cleaning has emptied it, or it is a control
    /// batch of another kind.
    pub fn of(batch: &Batch) -> Result<Option<EndMarker>, BatchError> {
        let Some(record) = batch::records(batch, MARKER_BATCH_BYTES_MAX)?.next() else {
            return Ok(None);
        };
        let record = record?;
        let unreadable = BatchError::BadRecord { index: 0 };
        // Key: version and type, two bytes each. Value: version (two bytes) and coordinator epoch.
        let key = record.key.ok_or(unreadable)?;
        let kind = key.get(2..4).ok_or(unreadable)?;
        let committed = match i16::from_be_bytes([kind[0], kind[1]]) {
            kind if kind == ControlType::Commit as i16 => true,
            kind if kind == ControlType::Abort as i16 => false,
            _ => return Ok(None),
        };
        let value = record.value.ok_or(unreadable)?;
        let coordinator_epoch = value.get(2..).and_then(|rest| rest.first_chunk::<4>());
        Ok(Some(EndMarker {
            producer_id: batch.producer_id(),
            producer_epoch: batch.producer_epoch(),
            coordinator_epoch: i32::from_be_bytes(*coordinator_epoch.ok_or(unreadable)?),
            committed,
            offset: batch.base_offset(),
            timestamp: record.timestamp,
        }))
    }
}

/// The batch with the highest offsets still leaves room to count on.
const OFFSET_MAX: Offset = Offset(i64::MAX - u32::MAX as i64);

/// A marker's record is some twenty bytes.
const MARKER_BATCH_BYTES_MAX: usize = 4096;

impl ProducerBatch {
    /// What `header` says, with the offsets the batch gets when it is appended at `base_offset`.
    pub fn of(header: &BatchHeader, base_offset: Offset) -> ProducerBatch {
        ProducerBatch {
            producer_id: header.producer_id(),
            producer_epoch: header.producer_epoch(),
            base_sequence: header.base_sequence(),
            base_offset,
            last_offset: base_offset.plus(header.last_offset_delta().into()),
            max_timestamp: header.max_timestamp(),
            transactional: header.is_transactional(),
        }
    }

    /// Sequences go from `i32::MAX` to 0.
    pub fn last_sequence(&self) -> i32 {
        if self.base_sequence == NO_SEQUENCE {
            return NO_SEQUENCE;
        }
        self.base_sequence.wrapping_add(self.offset_delta()) & i32::MAX
    }

    fn offset_delta(&self) -> i32 {
        let delta = self.last_offset.0 - self.base_offset.0;
        i32::try_from(delta)
            .ok()
            .filter(|delta| *delta >= 0)
            .expect("a batch spans 0 to 2^31-1 offsets")
    }
}

impl Producer {
    fn unknown() -> Producer {
        Producer {
            epoch: NO_EPOCH,
            coordinator_epoch: -1,
            last_timestamp: -1,
            transaction_first_offset: None,
            batches: CachedBatches::default(),
        }
    }

    fn find_duplicate(&self, batch: &ProducerBatch) -> Option<Verdict> {
        if batch.producer_epoch != self.epoch {
            return None;
        }
        let found = self.batches.iter().find(|cached| {
            cached.base_sequence() == batch.base_sequence
                && cached.last_sequence == batch.last_sequence()
        })?;
        Some(Verdict::Duplicate {
            base_offset: found.base_offset(),
            last_offset: found.last_offset,
            timestamp: found.timestamp,
        })
    }

    fn check_sequence(&self, batch: &ProducerBatch) -> Result<(), ProducerRefusal> {
        let expected = match self.last_sequence() {
            _ if batch.producer_epoch != self.epoch => 0,
            NO_SEQUENCE => 0,
            last => last.wrapping_add(1) & i32::MAX,
        };
        // A state without epoch holds nothing to compare with.
        if self.epoch == NO_EPOCH || batch.base_sequence == expected {
            return Ok(());
        }
        Err(ProducerRefusal::OutOfOrderSequence {
            producer_id: batch.producer_id,
            found: batch.base_sequence,
            expected,
        })
    }

    /// A new epoch starts its own sequence; the cached batches belong to the old one.
    fn set_epoch(&mut self, epoch: i16) {
        if self.epoch != epoch {
            self.epoch = epoch;
            self.batches = CachedBatches::default();
        }
    }

    fn last_sequence(&self) -> i32 {
        self.batches
            .last()
            .map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn is_expired(&self, now_ms: TimestampMs, expiration_ms: i64) -> bool {
        self.transaction_first_offset.is_none()
            && now_ms.saturating_sub(self.last_timestamp) >= expiration_ms
    }
}

#[derive(Clone, Copy, PartialEq, Debug, Default)]
struct CachedBatch {
    last_sequence: i32,
    offset_delta: i32,
    last_offset: Offset,
    timestamp: TimestampMs,
}

impl CachedBatch {
    fn base_sequence(&self) -> i32 {
        self.last_sequence.wrapping_sub(self.offset_delta) & i32::MAX
    }

    fn base_offset(&self) -> Offset {
        self.last_offset.plus(-i64::from(self.offset_delta))
    }
}

/// The last batches of one epoch, oldest first, without an allocation of their own.
#[derive(Clone, PartialEq, Debug, Default)]
struct CachedBatches {
    batches: [CachedBatch; BATCHES_CACHED],
    count: usize,
}

impl CachedBatches {
    fn push(&mut self, batch: CachedBatch) {
        if self.count == BATCHES_CACHED {
            self.batches.rotate_left(1);
            self.count -= 1;
        }
        self.batches[self.count] = batch;
        self.count += 1;
    }

    fn iter(&self) -> impl Iterator<Item = &CachedBatch> {
        self.batches[..self.count].iter()
    }

    fn last(&self) -> Option<&CachedBatch> {
        self.batches[..self.count].last()
    }
}

/// `<end offset>.snapshot`: version 1 (2 bytes), CRC-32C of all that follows it (4 bytes), the number
/// of producers (4 bytes) and for each the entry below, all big-endian.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SnapshotEntry {
    producer_id: I64,
    epoch: I16,
    last_sequence: I32,
    last_offset: I64,
    offset_delta: I32,
    timestamp: I64,
    coordinator_epoch: I32,
    transaction_first_offset: I64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct SnapshotHead {
    version: I16,
    crc: U32,
    count: I32,
}

const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_CRC_FROM: usize = 6;
const _: () = assert!(size_of::<SnapshotEntry>() == 46 && size_of::<SnapshotHead>() == 10);

impl ProducerStates {
    /// The bytes of the snapshot file to be named by `end_offset()`. Of the cached batches only the
    /// last survives in it, as in Kafka.
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let count = i32::try_from(self.producers.len()).expect("fewer than 2^31 producers");
        let head = SnapshotHead {
            version: SNAPSHOT_VERSION.into(),
            crc: 0.into(),
            count: count.into(),
        };
        let mut bytes = Vec::with_capacity(
            size_of::<SnapshotHead>() + self.producers.len() * size_of::<SnapshotEntry>(),
        );
        bytes.extend_from_slice(head.as_bytes());
        for (producer_id, producer) in &self.producers {
            let last = producer.batches.last();
            let entry = SnapshotEntry {
                producer_id: producer_id.0.into(),
                epoch: producer.epoch.into(),
                last_sequence: producer.last_sequence().into(),
                last_offset: last.map_or(-1, |batch| batch.last_offset.0).into(),
                offset_delta: last.map_or(0, |batch| batch.offset_delta).into(),
                timestamp: producer.last_timestamp.into(),
                coordinator_epoch: producer.coordinator_epoch.into(),
                transaction_first_offset: producer
                    .transaction_first_offset
                    .map_or(-1, |offset| offset.0)
                    .into(),
            };
            bytes.extend_from_slice(entry.as_bytes());
        }
        let crc = crc32c(&bytes[SNAPSHOT_CRC_FROM..]);
        bytes[2..SNAPSHOT_CRC_FROM].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    /// Reads a snapshot file named by `end_offset`. Expired producers are left out by `expire`.
    pub fn decode_snapshot(
        end_offset: Offset,
        bytes: &[u8],
    ) -> Result<ProducerStates, FormatError> {
        let (head, rest) =
            SnapshotHead::ref_from_prefix(bytes).map_err(|_| FormatError::Truncated {
                within: "the head of the snapshot",
            })?;
        if head.version.get() != SNAPSHOT_VERSION {
            return Err(FormatError::Version {
                found: head.version.get().into(),
                expected: SNAPSHOT_VERSION.into(),
            });
        }
        let computed = crc32c(&bytes[SNAPSHOT_CRC_FROM..]);
        if head.crc.get() != computed {
            return Err(FormatError::Checksum {
                stored: head.crc.get(),
                computed,
            });
        }
        let announced = i64::from(head.count.get());
        let count = usize::try_from(announced).unwrap_or(usize::MAX);
        let (entries, excess) = <[SnapshotEntry]>::ref_from_prefix_with_elems(rest, count)
            .map_err(|_| FormatError::Count {
                announced,
                found: rest.len() / size_of::<SnapshotEntry>(),
            })?;
        if !excess.is_empty() {
            return Err(FormatError::Excess {
                excess: excess.len(),
            });
        }
        let mut states = ProducerStates::new(end_offset);
        for (number, entry) in entries.iter().enumerate() {
            states
                .load(entry)
                .map_err(|problem| FormatError::Entry { number, problem })?;
        }
        Ok(states)
    }

    fn load(&mut self, entry: &SnapshotEntry) -> Result<(), &'static str> {
        let producer_id = ProducerId(entry.producer_id.get());
        let mut producer = Producer {
            epoch: entry.epoch.get(),
            coordinator_epoch: entry.coordinator_epoch.get(),
            last_timestamp: entry.timestamp.get(),
            transaction_first_offset: None,
            batches: CachedBatches::default(),
        };
        if producer_id.0 < 0 {
            return Err("has a negative producer id");
        }
        if entry.last_offset.get() >= 0 {
            let offset_delta = entry.offset_delta.get();
            if offset_delta < 0 || i64::from(offset_delta) > entry.last_offset.get() {
                return Err("has a batch that begins below offset 0");
            }
            producer.batches.push(CachedBatch {
                last_sequence: entry.last_sequence.get(),
                offset_delta,
                last_offset: Offset(entry.last_offset.get()),
                timestamp: entry.timestamp.get(),
            });
        }
        if entry.transaction_first_offset.get() >= 0 {
            let first_offset = Offset(entry.transaction_first_offset.get());
            producer.transaction_first_offset = Some(first_offset);
            if self.ongoing.insert(first_offset, producer_id).is_some() {
                return Err("opens a transaction where another one does");
            }
        }
        if self.producers.insert(producer_id, producer).is_some() {
            return Err("repeats a producer id");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: ProducerId = ProducerId(7);

    fn batch(epoch: i16, base_sequence: i32, base_offset: i64, count: i64) -> ProducerBatch {
        ProducerBatch {
            producer_id: PID,
            producer_epoch: epoch,
            base_sequence,
            base_offset: Offset(base_offset),
            last_offset: Offset(base_offset + count - 1),
            max_timestamp: 1000 + base_offset,
            transactional: false,
        }
    }

    fn transactional(producer_id: i64, base_sequence: i32, base_offset: i64) -> ProducerBatch {
        ProducerBatch {
            producer_id: ProducerId(producer_id),
            transactional: true,
            ..batch(0, base_sequence, base_offset, 1)
        }
    }

    fn marker(producer_id: i64, epoch: i16, committed: bool, offset: i64) -> EndMarker {
        EndMarker {
            producer_id: ProducerId(producer_id),
            producer_epoch: epoch,
            coordinator_epoch: 3,
            committed,
            offset: Offset(offset),
            timestamp: 5000,
        }
    }

    fn check(states: &ProducerStates, batch: ProducerBatch) -> Result<Verdict, ProducerRefusal> {
        states.check(&batch, Origin::Client)
    }

    fn appended(batches: &[ProducerBatch]) -> ProducerStates {
        let mut states = ProducerStates::new(Offset(0));
        for batch in batches {
            assert_eq!(check(&states, *batch), Ok(Verdict::Append), "{batch:?}");
            states.append(batch);
            states.advance_to(batch.last_offset.plus(1));
        }
        states
    }

    #[test]
    fn sequences_follow_each_other() {
        let states = appended(&[batch(0, 0, 0, 10), batch(0, 10, 10, 1)]);
        assert_eq!(check(&states, batch(0, 11, 11, 4)), Ok(Verdict::Append));
        let gap = ProducerRefusal::OutOfOrderSequence {
            producer_id: PID,
            found: 12,
            expected: 11,
        };
        assert_eq!(check(&states, batch(0, 12, 11, 1)), Err(gap));
        let overlap = ProducerRefusal::OutOfOrderSequence {
            producer_id: PID,
            found: 10,
            expected: 11,
        };
        assert_eq!(
            check(&states, batch(0, 10, 11, 2)),
            Err(overlap),
            "neither the same nor the next"
        );
    }

    #[test]
    fn an_unknown_producer_may_start_anywhere() {
        let states = appended(&[batch(4, 1234, 0, 1)]);
        assert_eq!(check(&states, batch(4, 1235, 1, 1)), Ok(Verdict::Append));
        // With any epoch that there can be, and with none.
        assert_eq!(
            check(&ProducerStates::default(), batch(-1, 3, 0, 1)),
            Ok(Verdict::Append)
        );
        assert!(check(&ProducerStates::default(), batch(-2, 0, 0, 1)).is_err());
    }

    #[test]
    fn the_last_five_batches_are_recognised() {
        let batches: Vec<_> = (0..6)
            .map(|n| batch(0, n * 2, i64::from(n) * 2, 2))
            .collect();
        let states = appended(&batches);
        for repeated in &batches[1..] {
            let again = ProducerBatch {
                base_offset: Offset(100),
                last_offset: Offset(101),
                ..*repeated
            };
            let known = Verdict::Duplicate {
                base_offset: repeated.base_offset,
                last_offset: repeated.last_offset,
                timestamp: repeated.max_timestamp,
            };
            assert_eq!(check(&states, again), Ok(known));
        }
        let forgotten = ProducerBatch {
            base_offset: Offset(100),
            last_offset: Offset(101),
            ..batches[0]
        };
        assert!(matches!(
            check(&states, forgotten),
            Err(ProducerRefusal::OutOfOrderSequence { .. })
        ));
        assert_eq!(
            states.check(&forgotten, Origin::Replication),
            Ok(Verdict::Append)
        );
    }

    #[test]
    fn sequences_wrap_to_zero() {
        let states = appended(&[batch(0, i32::MAX - 1, 0, 1), batch(0, i32::MAX, 1, 3)]);
        assert_eq!(states.active().next().unwrap().last_sequence, 1);
        assert_eq!(check(&states, batch(0, 2, 4, 1)), Ok(Verdict::Append));
        let known = Verdict::Duplicate {
            base_offset: Offset(1),
            last_offset: Offset(3),
            timestamp: 1001,
        };
        assert_eq!(check(&states, batch(0, i32::MAX, 50, 3)), Ok(known));
        let at_the_end = appended(&[batch(0, i32::MAX, 0, 1)]);
        assert_eq!(check(&at_the_end, batch(0, 0, 1, 1)), Ok(Verdict::Append));
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old() {
        let states = appended(&[batch(1, 0, 0, 5)]);
        assert_eq!(check(&states, batch(2, 0, 5, 1)), Ok(Verdict::Append));
        let no_start = ProducerRefusal::OutOfOrderSequence {
            producer_id: PID,
            found: 5,
            expected: 0,
        };
        assert_eq!(check(&states, batch(2, 5, 5, 1)), Err(no_start));
        let old = ProducerRefusal::InvalidProducerEpoch {
            producer_id: PID,
            found: 0,
            current: 1,
        };
        assert_eq!(check(&states, batch(0, 5, 5, 1)), Err(old));
        let bumped = appended(&[batch(1, 0, 0, 5), batch(2, 0, 5, 1)]);
        let fenced = ProducerRefusal::InvalidProducerEpoch {
            producer_id: PID,
            found: 1,
            current: 2,
        };
        assert_eq!(
            check(&bumped, batch(1, 0, 6, 5)),
            Err(fenced),
            "no duplicate of an older epoch"
        );
    }

    #[test]
    fn coordinators_are_checked_by_epoch_alone() {
        let states = appended(&[batch(1, 0, 0, 5)]);
        let unsequenced = ProducerBatch {
            base_sequence: -1,
            ..batch(1, 0, 5, 2)
        };
        assert_eq!(
            states.check(&unsequenced, Origin::Coordinator),
            Ok(Verdict::Append)
        );
        assert_eq!(unsequenced.last_sequence(), -1);
        let old = ProducerBatch {
            producer_epoch: 0,
            ..unsequenced
        };
        assert!(states.check(&old, Origin::Coordinator).is_err());
    }

    #[test]
    fn a_transaction_holds_the_stable_offset_until_its_marker_is_replicated() {
        let mut states = appended(&[
            transactional(1, 0, 10),
            transactional(2, 0, 11),
            transactional(1, 1, 12),
        ]);
        assert_eq!(states.first_unstable_offset(), Some(Offset(10)));
        assert_eq!(states.oldest_transaction_timestamp(), Some(1012));
        assert!(states.has_open_transaction(ProducerId(1), 0));

        let completed = states.append_marker(&marker(1, 0, false, 13)).unwrap();
        assert!(completed.aborted);
        assert_eq!(
            (completed.first_offset, completed.last_offset),
            (Offset(10), Offset(13))
        );
        assert_eq!(states.last_stable_offset_after(&completed), Offset(11));
        states.complete(&completed);
        assert_eq!(
            states.first_unstable_offset(),
            Some(Offset(10)),
            "the marker is not replicated"
        );
        assert_eq!(states.first_undecided_offset(), Some(Offset(11)));
        states.on_high_watermark(Offset(13));
        assert_eq!(states.first_unstable_offset(), Some(Offset(10)));
        states.on_high_watermark(Offset(14));
        assert_eq!(states.first_unstable_offset(), Some(Offset(11)));

        let completed = states.append_marker(&marker(2, 0, true, 14)).unwrap();
        assert_eq!(states.last_stable_offset_after(&completed), Offset(15));
        states.complete(&completed);
        states.on_high_watermark(Offset(15));
        assert_eq!(states.first_unstable_offset(), None);
        assert_eq!(
            states.append_marker(&marker(2, 0, true, 15)),
            None,
            "nothing was open"
        );
    }

    #[test]
    fn a_batch_outside_the_open_transaction_is_refused() {
        let states = appended(&[transactional(7, 0, 0)]);
        let outside = batch(0, 1, 1, 1);
        assert_eq!(
            check(&states, outside),
            Err(ProducerRefusal::NotInTransaction { producer_id: PID })
        );
    }

    #[test]
    fn a_marker_may_raise_the_epoch_and_then_sequences_restart() {
        let mut states = appended(&[transactional(7, 0, 0)]);
        let completed = states.append_marker(&marker(7, 1, true, 1)).unwrap();
        states.complete(&completed);
        let next = ProducerBatch {
            producer_epoch: 1,
            ..transactional(7, 0, 2)
        };
        assert_eq!(check(&states, next), Ok(Verdict::Append));
        let wrong = ProducerBatch {
            base_sequence: 1,
            ..next
        };
        assert!(matches!(
            check(&states, wrong),
            Err(ProducerRefusal::OutOfOrderSequence { expected: 0, .. })
        ));
        let old = transactional(7, 1, 2);
        assert!(matches!(
            check(&states, old),
            Err(ProducerRefusal::InvalidProducerEpoch { .. })
        ));
        assert_eq!(states.active().next().unwrap().coordinator_epoch, 3);
    }

    #[test]
    fn late_markers_are_refused() {
        let mut states = appended(&[transactional(7, 0, 0)]);
        assert_eq!(states.check_marker(&marker(7, 0, true, 1), 1), Ok(()));
        let late = ProducerRefusal::InvalidProducerEpoch {
            producer_id: PID,
            found: 0,
            current: 0,
        };
        assert_eq!(states.check_marker(&marker(7, 0, true, 1), 2), Err(late));
        assert_eq!(states.check_marker(&marker(7, 1, true, 1), 2), Ok(()));
        let completed = states.append_marker(&marker(7, 1, true, 1)).unwrap();
        states.complete(&completed);
        assert_eq!(
            states.check_marker(&marker(7, 1, true, 2), 2),
            Ok(()),
            "the same one again"
        );
        assert!(states.check_marker(&marker(7, 0, true, 2), 1).is_err());
        let zombie = EndMarker {
            coordinator_epoch: 2,
            ..marker(7, 2, true, 2)
        };
        let fenced = ProducerRefusal::CoordinatorFenced {
            found: 2,
            current: 3,
        };
        assert_eq!(states.check_marker(&zombie, 2), Err(fenced));
        assert_eq!(
            states.check_marker(&marker(99, 0, true, 2), 2),
            Ok(()),
            "an unknown producer"
        );
    }

    #[test]
    fn idle_producers_expire_unless_in_a_transaction() {
        let mut states = appended(&[batch(0, 0, 0, 1), transactional(8, 0, 1)]);
        assert_eq!(states.expire(1099, 100), 0);
        assert_eq!(states.expire(1100, 100), 1);
        assert_eq!(
            states
                .active()
                .map(|producer| producer.producer_id.0)
                .collect::<Vec<_>>(),
            [8]
        );
        assert_eq!(states.expire(i64::MAX, 100), 0);
    }

    #[test]
    fn a_snapshot_brings_back_all_but_the_older_batches() {
        let mut states = appended(&[batch(0, 0, 0, 3), batch(0, 3, 3, 2), transactional(9, 5, 5)]);
        states.append_marker(&marker(11, 2, true, 6));
        states.advance_to(Offset(7));
        let loaded = ProducerStates::decode_snapshot(Offset(7), &states.encode_snapshot()).unwrap();
        assert_eq!(
            loaded.active().collect::<Vec<_>>(),
            states.active().collect::<Vec<_>>()
        );
        assert_eq!(loaded.first_unstable_offset(), Some(Offset(5)));
        assert_eq!(loaded.end_offset(), Offset(7));
        let known = Verdict::Duplicate {
            base_offset: Offset(3),
            last_offset: Offset(4),
            timestamp: 1003,
        };
        assert_eq!(check(&loaded, batch(0, 3, 50, 2)), Ok(known));
        assert!(check(&loaded, batch(0, 0, 50, 3)).is_err());
        assert_eq!(check(&loaded, batch(0, 5, 50, 3)), Ok(Verdict::Append));
        assert_eq!(loaded.encode_snapshot(), states.encode_snapshot());
    }

    #[test]
    fn snapshot_bytes_are_kafkas() {
        let states = appended(&[batch(1, 0, 0x10, 3)]);
        let bytes = states.encode_snapshot();
        assert_eq!(bytes.len(), 10 + 46);
        assert_eq!(bytes[..2], [0, 1]);
        assert_eq!(bytes[2..6], crc32c::crc32c(&bytes[6..]).to_be_bytes());
        assert_eq!(bytes[6..10], [0, 0, 0, 1]);
        assert_eq!(bytes[10..18], [0, 0, 0, 0, 0, 0, 0, 7]);
        assert_eq!(bytes[18..24], [0, 1, 0, 0, 0, 2]);
        assert_eq!(bytes[24..36], [0, 0, 0, 0, 0, 0, 0, 0x12, 0, 0, 0, 2]);
        assert_eq!(bytes[36..44], 1016i64.to_be_bytes());
        assert_eq!(bytes[44..], [0xff; 12]);
        assert_eq!(ProducerStates::new(Offset(0)).encode_snapshot().len(), 10);
    }

    #[test]
    fn a_damaged_snapshot_is_told() {
        let good = appended(&[batch(1, 0, 0, 3)]).encode_snapshot();
        let decode = |bytes: &[u8]| ProducerStates::decode_snapshot(Offset(3), bytes).unwrap_err();
        assert!(matches!(decode(&good[..9]), FormatError::Truncated { .. }));
        for place in 6..good.len() {
            let mut bad = good.clone();
            bad[place] ^= 1;
            assert!(
                matches!(decode(&bad), FormatError::Checksum { .. }),
                "byte {place}"
            );
        }
        let with_crc = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            let crc = crc32c::crc32c(&bytes[6..]).to_be_bytes();
            bytes[2..6].copy_from_slice(&crc);
            decode(&bytes)
        };
        assert!(matches!(
            with_crc(&|b| b[1] = 2),
            FormatError::Version { found: 2, .. }
        ));
        assert!(matches!(
            with_crc(&|b| b[9] = 2),
            FormatError::Count {
                announced: 2,
                found: 1
            }
        ));
        assert!(matches!(
            with_crc(&|b| b[6] = 0x80),
            FormatError::Count { .. }
        ));
        assert!(matches!(
            with_crc(&|b| b.push(0)),
            FormatError::Excess { excess: 1 }
        ));
        assert!(matches!(
            with_crc(&|b| b[35] = 9),
            FormatError::Entry { number: 0, .. }
        ));
        let twice = with_crc(&|b| {
            b[9] = 2;
            b.extend_from_within(10..);
        });
        assert!(matches!(twice, FormatError::Entry { number: 1, .. }));
    }

    /// Written by Apache Kafka 4.4: two producers, of which one has a transaction open.
    const SNAPSHOT: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/kafka-4.4/txn-0/00000000000000000019.snapshot"
    ));
    const TRANSACTIONS_LOG: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/kafka-4.4/txn-0/00000000000000000000.log"
    ));
    const TRANSACTIONS_INDEX: &[u8] = include_bytes!(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/kafka-4.4/txn-0/00000000000000000000.txnindex"
    ));

    #[test]
    fn apache_kafkas_snapshot_is_read_and_written_again() {
        let states = ProducerStates::decode_snapshot(Offset(19), SNAPSHOT).unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(states.first_unstable_offset(), Some(Offset(18)));
        assert_eq!(states.encode_snapshot(), SNAPSHOT);
    }

    #[test]
    fn apache_kafkas_log_leads_to_its_snapshot_and_its_index() {
        let mut states = ProducerStates::new(Offset(0));
        let mut index = crate::log::transaction_index::TransactionIndex::new();
        for batch in batch::batches(&bytes::Bytes::from_static(TRANSACTIONS_LOG)) {
            if let Some(aborted) = states.replay(&batch.unwrap()).unwrap() {
                index.append(aborted);
            }
        }
        assert_eq!(states.end_offset(), Offset(19));
        assert_eq!(states.encode_snapshot(), SNAPSHOT);
        assert_eq!(index.encode_from(0), TRANSACTIONS_INDEX);
        assert_eq!(
            states.first_unstable_offset(),
            Some(Offset(0)),
            "nothing is replicated yet"
        );
        states.on_high_watermark(Offset(19));
        assert_eq!(states.first_unstable_offset(), Some(Offset(18)));
    }

    #[test]
    fn a_thousand_answers_are_apache_kafkas() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/kafka-4.4/sequences.txt"
        ));
        let mut states = ProducerStates::new(Offset(0));
        for (number, line) in text.lines().enumerate() {
            let fields: Vec<i64> = line
                .split(' ')
                .map(|field| field.parse().unwrap())
                .collect();
            let [producer_id, epoch, sequence, count, error, offset, time] = fields[..] else {
                panic!("{line}");
            };
            let sent = ProducerBatch {
                producer_id: ProducerId(producer_id),
                max_timestamp: 1_795_000_000_000 + number as i64,
                ..batch(epoch as i16, sequence as i32, states.end_offset().0, count)
            };
            let answer = match check(&states, sent) {
                Ok(Verdict::Append) => {
                    states.append(&sent);
                    states.advance_to(sent.last_offset.plus(1));
                    (0, sent.base_offset.0, -1)
                }
                Ok(Verdict::Duplicate {
                    base_offset,
                    timestamp,
                    ..
                }) => (0, base_offset.0, timestamp),
                Err(ProducerRefusal::OutOfOrderSequence { .. }) => (45, -1, -1),
                Err(ProducerRefusal::InvalidProducerEpoch { .. }) => (47, -1, -1),
                Err(other) => panic!("{other}"),
            };
            assert_eq!(answer, (error, offset, time), "line {}: {line}", number + 1);
        }
    }
}
