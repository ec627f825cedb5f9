//! Owns record batches of magic 2 (KIP-98) as they lie on the wire and on disk: header fields read in
//! place, checks, and the few patches a broker makes. It copies nothing and opens no compressed batch
//! unless `records` is asked to.

mod builder;
mod records;
#[cfg(test)]
mod tests;

pub use builder::{BatchBuilder, ControlType, control_key};
pub use records::{Record, RecordHeader, RecordIterator, records};

use bytes::Bytes;
use zerocopy::byteorder::big_endian::{I16, I32, I64, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};

use super::checksum::crc32c;
use super::compression::{Codec, CompressionError};

/// Bytes ahead of the records.
pub const HEADER_BYTES: usize = 61;
/// Base offset and batch length: `batch_length` counts what comes after these.
pub const LENGTH_END: usize = 12;
/// The CRC covers all from here.
const CRC_START: usize = 21;
const MAGIC: i8 = 2;

const CODEC_MASK: i16 = 0x07;
const LOG_APPEND_TIME: i16 = 0x08;
const TRANSACTIONAL: i16 = 0x10;
const CONTROL: i16 = 0x20;
const DELETE_HORIZON: i16 = 0x40;

/// Whose time a batch's timestamps are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimestampType {
    CreateTime,
    LogAppendTime,
}

/// Why bytes are not a batch, or not one that may be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// The bytes end before the batch does; more of them may help.
    #[error("batch of {size} bytes, of which {available} are here")]
    Incomplete { size: usize, available: usize },
    #[error("batch length {0} is not possible")]
    BadLength(i32),
    #[error("magic {0} is not 2")]
    BadMagic(i8),
    #[error("CRC is {actual:08x}, the header says {stated:08x}")]
    BadCrc { stated: u32, actual: u32 },
    #[error("{records} records with a last offset delta of {last_offset_delta}")]
    BadCount {
        records: i32,
        last_offset_delta: i32,
    },
    #[error("codec {0} is not known")]
    BadCodec(i16),
    #[error("base offset {0} from a producer, not 0")]
    BadBaseOffset(i64),
    #[error("control batch from a producer")]
    ControlFromProducer,
    #[error("producer id {producer_id}, epoch {epoch} and sequence {sequence} do not go together")]
    BadProducer {
        producer_id: i64,
        epoch: i16,
        sequence: i32,
    },
    #[error("record {index} of the batch is malformed or should not be there")]
    BadRecord { index: i32 },
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// The first 61 bytes of a batch, in place.
#[derive(
    FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy, Debug, PartialEq,
)]
#[repr(C)]
pub struct BatchHeader {
    base_offset: I64,
    batch_length: I32,
    partition_leader_epoch: I32,
    magic: i8,
    crc: U32,
    attributes: I16,
    last_offset_delta: I32,
    base_timestamp: I64,
    max_timestamp: I64,
    producer_id: I64,
    producer_epoch: I16,
    base_sequence: I32,
    records_count: I32,
}

const _: () = assert!(size_of::<BatchHeader>() == HEADER_BYTES);

impl BatchHeader {
    /// The header at the start of `bytes`, unchecked; `None` when they are too few.
    pub fn peek(bytes: &[u8]) -> Option<&BatchHeader> {
        BatchHeader::ref_from_prefix(bytes)
            .ok()
            .map(|(header, _)| header)
    }

    pub fn base_offset(&self) -> Offset {
        Offset(self.base_offset.get())
    }

    pub fn batch_length(&self) -> i32 {
        self.batch_length.get()
    }

    pub fn partition_leader_epoch(&self) -> LeaderEpoch {
        LeaderEpoch(self.partition_leader_epoch.get())
    }

    pub fn magic(&self) -> i8 {
        self.magic
    }

    pub fn crc(&self) -> u32 {
        self.crc.get()
    }

    pub fn attributes(&self) -> i16 {
        self.attributes.get()
    }

    /// Number of the compression codec.
    pub fn codec_id(&self) -> i16 {
        self.attributes() & CODEC_MASK
    }

    pub fn timestamp_type(&self) -> TimestampType {
        if self.attributes() & LOG_APPEND_TIME == 0 {
            TimestampType::CreateTime
        } else {
            TimestampType::LogAppendTime
        }
    }

    pub fn is_transactional(&self) -> bool {
        self.attributes() & TRANSACTIONAL != 0
    }

    /// Holds a marker of Kafka's own (end of a transaction, new leader), not records of clients.
    pub fn is_control(&self) -> bool {
        self.attributes() & CONTROL != 0
    }

    /// When the cleaner may drop this batch's tombstones (KIP-534); the base timestamp holds it then.
    pub fn delete_horizon_ms(&self) -> Option<TimestampMs> {
        (self.attributes() & DELETE_HORIZON != 0).then_some(self.base_timestamp.get())
    }

    pub fn last_offset_delta(&self) -> i32 {
        self.last_offset_delta.get()
    }

    pub fn last_offset(&self) -> Offset {
        let last = self
            .base_offset
            .get()
            .saturating_add(self.last_offset_delta().into());
        Offset(last)
    }

    /// The offset that the batch after this one starts at, when none was cleaned away between.
    pub fn next_offset(&self) -> Offset {
        Offset(self.last_offset().0.saturating_add(1))
    }

    pub fn base_timestamp(&self) -> TimestampMs {
        self.base_timestamp.get()
    }

    pub fn max_timestamp(&self) -> TimestampMs {
        self.max_timestamp.get()
    }

    pub fn producer_id(&self) -> ProducerId {
        ProducerId(self.producer_id.get())
    }

    pub fn has_producer_id(&self) -> bool {
        self.producer_id.get() >= 0
    }

    pub fn producer_epoch(&self) -> i16 {
        self.producer_epoch.get()
    }

    /// -1 without a producer id.
    pub fn base_sequence(&self) -> i32 {
        self.base_sequence.get()
    }

    /// Sequence of the last record; sequences go round from `i32::MAX` to 0. -1 without a producer id.
    pub fn last_sequence(&self) -> i32 {
        match self.base_sequence() {
            ..0 => -1,
            base => ((i64::from(base) + i64::from(self.last_offset_delta())) % (1 << 31)) as i32,
        }
    }

    pub fn records_count(&self) -> i32 {
        self.records_count.get()
    }

    /// Size of the whole batch, if its length is possible.
    pub fn size(&self) -> Result<usize, BatchError> {
        let length = self.batch_length();
        match usize::try_from(length) {
            Ok(after) if after >= HEADER_BYTES - LENGTH_END => Ok(LENGTH_END + after),
            _ => Err(BatchError::BadLength(length)),
        }
    }
}

/// One whole batch, borrowed. Its header's fields are had through `Deref`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchView<'a> {
    bytes: &'a [u8],
}

impl std::ops::Deref for BatchView<'_> {
    type Target = BatchHeader;

    fn deref(&self) -> &BatchHeader {
        BatchHeader::peek(self.bytes).expect("parsed")
    }
}

impl<'a> BatchView<'a> {
    /// The batch at the start of `bytes`. Its size, magic, codec and counts are possible; the CRC is not
    /// looked at, nor is the base offset.
    pub fn parse(bytes: &'a [u8]) -> Result<BatchView<'a>, BatchError> {
        let available = bytes.len();
        let incomplete = BatchError::Incomplete {
            size: HEADER_BYTES,
            available,
        };
        let header = BatchHeader::peek(bytes).ok_or(incomplete)?;
        let size = header.size()?;
        if header.magic != MAGIC {
            return Err(BatchError::BadMagic(header.magic));
        }
        if size > available {
            return Err(BatchError::Incomplete { size, available });
        }
        let (records, last_offset_delta) = (header.records_count(), header.last_offset_delta());
        // Cleaning leaves fewer records than offsets, perhaps none.
        if records < 0 || last_offset_delta < 0 || records - 1 > last_offset_delta {
            return Err(BatchError::BadCount {
                records,
                last_offset_delta,
            });
        }
        if Codec::from_id(header.codec_id()).is_none() {
            return Err(BatchError::BadCodec(header.codec_id()));
        }
        Ok(BatchView {
            bytes: &bytes[..size],
        })
    }

    pub fn header(&self) -> &'a BatchHeader {
        BatchHeader::peek(self.bytes).expect("parsed")
    }

    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    pub fn size_in_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn codec(&self) -> Codec {
        Codec::from_id(self.codec_id()).expect("parsed")
    }

    /// What follows the header, compressed if the batch is.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    pub fn verify_crc(&self) -> Result<(), BatchError> {
        verify_crc(self.bytes)
    }

    /// What a producer must keep to beyond `parse`, as Kafka checks it: offsets from 0 without holes, no
    /// control batches, producer id, epoch and sequence together or not at all.
    pub fn check_produced(&self) -> Result<(), BatchError> {
        let (records, last_offset_delta) = (self.records_count(), self.last_offset_delta());
        if records == 0 || records - 1 != last_offset_delta {
            return Err(BatchError::BadCount {
                records,
                last_offset_delta,
            });
        }
        if self.base_offset() != Offset(0) {
            return Err(BatchError::BadBaseOffset(self.base_offset().0));
        }
        if self.is_control() {
            return Err(BatchError::ControlFromProducer);
        }
        let (producer_id, epoch, sequence) = (
            self.producer_id().0,
            self.producer_epoch(),
            self.base_sequence(),
        );
        let has_sequence = epoch >= 0 && sequence >= 0;
        if (self.has_producer_id() && !has_sequence) || (self.is_transactional() && producer_id < 0)
        {
            return Err(BatchError::BadProducer {
                producer_id,
                epoch,
                sequence,
            });
        }
        Ok(())
    }
}

/// One whole batch that shares the memory it came in.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    bytes: Bytes,
}

impl std::ops::Deref for Batch {
    type Target = BatchHeader;

    fn deref(&self) -> &BatchHeader {
        BatchHeader::peek(&self.bytes).expect("parsed")
    }
}

impl Batch {
    /// The batch at the start of `bytes`; see [`BatchView::parse`].
    pub fn parse(bytes: &Bytes) -> Result<Batch, BatchError> {
        let size = BatchView::parse(bytes)?.size_in_bytes();
        Ok(Batch {
            bytes: bytes.slice(..size),
        })
    }

    /// As [`Batch::parse`], and takes the bytes as they are if there is nothing behind the batch.
    pub fn of(bytes: Bytes) -> Result<Batch, BatchError> {
        if BatchView::parse(&bytes)?.size_in_bytes() < bytes.len() {
            return Batch::parse(&bytes);
        }
        Ok(Batch { bytes })
    }

    pub fn view(&self) -> BatchView<'_> {
        BatchView { bytes: &self.bytes }
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub fn size_in_bytes(&self) -> usize {
        self.bytes.len()
    }

    pub fn codec(&self) -> Codec {
        Codec::from_id(self.codec_id()).expect("parsed")
    }

    /// What follows the header, compressed if the batch is.
    pub fn payload(&self) -> Bytes {
        self.bytes.slice(HEADER_BYTES..)
    }

    pub fn verify_crc(&self) -> Result<(), BatchError> {
        self.view().verify_crc()
    }

    /// See [`BatchView::check_produced`].
    pub fn check_produced(&self) -> Result<(), BatchError> {
        self.view().check_produced()
    }
}

/// The batches that lie one after another in `bytes`. Ends after the first error; a batch cut short at
/// the end, as fetch responses may have, is the error `Incomplete`.
pub fn batches(bytes: &Bytes) -> impl Iterator<Item = Result<Batch, BatchError>> {
    let mut rest = bytes.clone();
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let batch = Batch::parse(&rest);
        match &batch {
            Ok(batch) => rest = rest.slice(batch.size_in_bytes()..),
            Err(_) => rest.clear(),
        }
        Some(batch)
    })
}

/// The same, borrowed.
pub fn views(bytes: &[u8]) -> impl Iterator<Item = Result<BatchView<'_>, BatchError>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let batch = BatchView::parse(rest);
        match &batch {
            Ok(batch) => rest = &rest[batch.size_in_bytes()..],
            Err(_) => rest = &[],
        }
        Some(batch)
    })
}

/// Checks the CRC of one whole batch, of which nothing else needs to be right.
///
/// # Panics
/// When `batch` is shorter than a header.
pub fn verify_crc(batch: &[u8]) -> Result<(), BatchError> {
    let header = BatchHeader::peek(batch).expect("a whole batch");
    let (stated, actual) = (header.crc(), crc32c(&batch[CRC_START..]));
    if stated == actual {
        Ok(())
    } else {
        Err(BatchError::BadCrc { stated, actual })
    }
}

/// The header at the start of a batch that is about to be stored.
///
/// # Panics
/// When `batch` is shorter than a header, here and below.
fn header_mut(batch: &mut [u8]) -> &mut BatchHeader {
    BatchHeader::mut_from_prefix(batch)
        .expect("a whole batch")
        .0
}

/// Moves a batch to its place in the log. The CRC does not cover this field.
pub fn set_base_offset(batch: &mut [u8], offset: Offset) {
    header_mut(batch).base_offset.set(offset.0);
}

/// Notes the leader that took the batch. The CRC does not cover this field.
pub fn set_leader_epoch(batch: &mut [u8], epoch: LeaderEpoch) {
    header_mut(batch).partition_leader_epoch.set(epoch.0);
}

/// Gives all records of one whole batch the broker's time, for topics with `LogAppendTime`; makes the CRC anew.
pub fn set_log_append_time(batch: &mut [u8], now: TimestampMs) {
    let header = header_mut(batch);
    let attributes = header.attributes() | LOG_APPEND_TIME;
    header.attributes.set(attributes);
    header.max_timestamp.set(now);
    seal(batch);
}

/// Makes one whole batch say that its records have their producers' times, of which `max` is the
/// largest; makes the CRC anew.
pub fn set_create_time(batch: &mut [u8], max: TimestampMs) {
    let header = header_mut(batch);
    let attributes = header.attributes() & !LOG_APPEND_TIME;
    header.attributes.set(attributes);
    header.max_timestamp.set(max);
    seal(batch);
}

/// The batch that `header` stands for with its records packed otherwise: `payload` is the same records
/// compressed with `codec`.
///
/// # Panics
/// When the batch would be 2 GiB or more.
pub fn repack(header: &BatchHeader, codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mut batch = Vec::with_capacity(HEADER_BYTES + payload.len());
    batch.extend_from_slice(header.as_bytes());
    batch.extend_from_slice(payload);
    let length = i32::try_from(batch.len() - LENGTH_END).expect("batches are below 2 GiB");
    let header = header_mut(&mut batch);
    let attributes = header.attributes() & !CODEC_MASK | codec.id();
    header.attributes.set(attributes);
    header.batch_length.set(length);
    seal(&mut batch);
    batch
}

/// Makes the CRC of one whole batch anew.
fn seal(batch: &mut [u8]) {
    let crc = crc32c(&batch[CRC_START..]);
    header_mut(batch).crc.set(crc);
}
