//! Owns what a leader checks of a produced batch before its partition takes it, and how the batch is
//! rewritten where the topic asks for that: the broker's time, another codec. Kafka's rules, in Kafka's
//! order, with Kafka's error codes. It knows nothing of producers' sequences nor of the log.
//!
//! The header is checked always. Records are walked always when they are not compressed, for that costs
//! little. A compressed batch is opened only if something depends on its records: another codec, keys on a
//! compacted topic, timestamps that the header can't decide, or [`CompressedRecords::Walk`]. Kafka always
//! opens it; so damage behind a right CRC, which only a broken producer makes, is found by Kafka here and
//! by Coati at the consumer.

use std::fmt::Display;

use bytes::Bytes;

use crate::config::topic::{Compression, TimestampType as TopicTime, TopicConfig};
use crate::ids::{Offset, TimestampMs};
use crate::limits;
use crate::protocol::ErrorCode;
use crate::protocol::batch::{self, BatchError, BatchHeader, HEADER_BYTES, TimestampType};
use crate::protocol::compression::{Codec, CompressionError, compress, decompress};

use record_head::RecordHead;

mod record_head;

/// A batch that may be appended.
#[derive(Clone, Debug, PartialEq)]
pub struct Validated {
    /// One batch with a right CRC: what came in, shared, unless something had to be rewritten.
    pub batch: Bytes,
    /// The time all its records got, for the answer's `LogAppendTimeMs`; `None` is -1 there.
    pub log_append_time: Option<TimestampMs>,
}

/// Why nothing of a partition's records is stored, as the answer says it.
#[derive(Clone, Debug, PartialEq)]
pub struct Rejection {
    pub error: ErrorCode,
    /// For the answer's `ErrorMessage`; most refusals have none, as in Kafka.
    pub message: Option<String>,
    pub record_errors: Vec<RecordError>,
    /// Kafka tells the log's start offset along with some refusals; -1 is the answer otherwise.
    pub tells_log_start: bool,
    /// For the broker's own log.
    pub reason: Reason,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecordError {
    /// Number of the record in its batch.
    pub batch_index: i32,
    pub message: String,
}

/// What is wrong with the records of one partition.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Reason {
    #[error("there is no whole batch")]
    NoBatch,
    #[error("there is more than one batch")]
    SeveralBatches,
    #[error("the batch's magic is {0}, not 2")]
    Magic(i8),
    #[error("a batch of length {0} is not possible")]
    Length(i32),
    #[error("produce requests of version {0} may not use zstd")]
    ZstdTooEarly(i16),
    #[error("the base offset is {0}, not 0")]
    BaseOffset(Offset),
    #[error("the batch has {size} bytes, of which {max} are allowed")]
    TooLarge { size: usize, max: usize },
    #[error("the batch has {size} bytes, a segment {max}")]
    LargerThanSegment { size: usize, max: usize },
    #[error(transparent)]
    Batch(#[from] BatchError),
    #[error("a control batch from a client")]
    Control,
    #[error("base sequence {0} with a producer id")]
    Sequence(i32),
    #[error("record {0} is malformed")]
    Record(i32),
    #[error("bytes follow the last record")]
    BytesAfterRecords,
    #[error(transparent)]
    Compression(#[from] CompressionError),
    #[error("records of the batch are refused, the first for: {0}")]
    Records(String),
}

/// Whether compressed batches are opened that need not be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CompressedRecords {
    /// Their header is believed, as it is covered by the CRC.
    Trust,
    /// They are opened and walked, as Kafka does.
    Walk,
}

/// Checks the records field of a produce request of `version` for one partition of `topic`, which `partition` names to
/// the client.
pub fn validate(
    records: &Bytes,
    version: i16,
    partition: &dyn Display,
    topic: &TopicConfig,
    compressed: CompressedRecords,
    now: TimestampMs,
) -> Result<Validated, Rejection> {
    let batch = only_batch(records, version)?;
    let header = *check_header(&batch, topic)?;
    let codec = Codec::from_id(header.codec_id()).expect("checked with the header");
    let target = target_codec(topic, codec);
    let must_open = match codec {
        Codec::None => true,
        _ => {
            target.is_some()
                || compressed == CompressedRecords::Walk
                || depends_on_records(&header, topic, now)
        }
    };
    let mut max_timestamp = header.max_timestamp();
    let mut batch = batch;
    if must_open {
        let payload = decompress(
            codec,
            &batch.slice(HEADER_BYTES..),
            limits::DECOMPRESSED_BATCH_BYTES_MAX,
        )
        .map_err(|error| match error {
            CompressionError::Malformed(_) => {
                refuse(ErrorCode::UnknownServerError, Reason::Compression(error))
            }
            CompressionError::TooLarge { .. } => {
                refuse(ErrorCode::MessageTooLarge, Reason::Compression(error))
            }
        })?;
        max_timestamp = walk(&payload, &header, partition, topic, now)?;
        if let Some((codec, level)) = target {
            let payload = compress(codec, level, &payload);
            batch = batch::repack(&header, codec, &payload).into();
            check_size(batch.len(), topic)?;
        }
    }
    check_fits_segment(batch.len(), topic)?;
    Ok(stamp(batch, max_timestamp, topic, now))
}

/// The one batch that there is. What follows it is ignored if it is no whole batch: so does Kafka.
fn only_batch(records: &Bytes, version: i16) -> Result<Bytes, Rejection> {
    let Some(size) = next_batch_size(records)? else {
        return Err(refuse_early(ErrorCode::InvalidRecord, Reason::NoBatch));
    };
    let batch = records.slice(..size);
    if batch[MAGIC_AT] != 2 {
        let magic = Reason::Magic(batch[MAGIC_AT] as i8);
        return Err(refuse_early(ErrorCode::InvalidRecord, magic));
    }
    let zstd =
        BatchHeader::peek(&batch).is_some_and(|header| header.codec_id() == Codec::Zstd.id());
    if version < ZSTD_SINCE && zstd {
        return Err(refuse_early(
            ErrorCode::UnsupportedCompressionType,
            Reason::ZstdTooEarly(version),
        ));
    }
    // Kafka, looking for zstd in these versions, meets an unknown codec before it looks into the batch.
    let codec = BatchHeader::peek(&batch).map_or(0, BatchHeader::codec_id);
    if version < ZSTD_SINCE && Codec::from_id(codec).is_none() {
        let reason = BatchError::BadCodec(codec);
        return Err(refuse_early(ErrorCode::UnknownServerError, reason.into()));
    }
    if next_batch_size(&records[size..])?.is_some() {
        return Err(refuse_early(
            ErrorCode::InvalidRecord,
            Reason::SeveralBatches,
        ));
    }
    Ok(batch)
}

/// KIP-110
const ZSTD_SINCE: i16 = 7;
const MAGIC_AT: usize = 16;
/// The least that follows the length in any version of the format.
const LENGTH_MIN: i32 = 14;

/// Size of the batch at the start of `bytes`, `None` when it is not whole.
fn next_batch_size(bytes: &[u8]) -> Result<Option<usize>, Rejection> {
    let Some(length) = bytes.get(8..batch::LENGTH_END) else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
    let corrupt = |reason: Reason| Rejection {
        message: Some(reason.to_string()),
        ..refuse_early(ErrorCode::CorruptMessage, reason)
    };
    if length < LENGTH_MIN {
        return Err(corrupt(Reason::Length(length)));
    }
    let Some(magic) = bytes.get(MAGIC_AT) else {
        return Ok(None);
    };
    if *magic > 2 {
        return Err(corrupt(Reason::Magic(*magic as i8)));
    }
    let size = batch::LENGTH_END + length as usize;
    Ok((size <= bytes.len()).then_some(size))
}

fn check_header<'a>(batch: &'a [u8], topic: &TopicConfig) -> Result<&'a BatchHeader, Rejection> {
    let invalid = |reason| refuse(ErrorCode::InvalidRecord, reason);
    let Some(header) = BatchHeader::peek(batch) else {
        let length = (batch.len() - batch::LENGTH_END) as i32;
        return Err(refuse_early(
            ErrorCode::CorruptMessage,
            Reason::Length(length),
        ));
    };
    if header.base_offset() != Offset(0) {
        return Err(invalid(Reason::BaseOffset(header.base_offset())));
    }
    check_size(batch.len(), topic)?;
    batch::verify_crc(batch)
        .map_err(|error| refuse_early(ErrorCode::CorruptMessage, error.into()))?;
    if Codec::from_id(header.codec_id()).is_none() {
        let reason = BatchError::BadCodec(header.codec_id());
        return Err(refuse(ErrorCode::UnknownServerError, reason.into()));
    }
    let (records, last_offset_delta) = (header.records_count(), header.last_offset_delta());
    if records <= 0 || records - 1 != last_offset_delta {
        return Err(invalid(
            BatchError::BadCount {
                records,
                last_offset_delta,
            }
            .into(),
        ));
    }
    if header.is_control() {
        return Err(invalid(Reason::Control));
    }
    if header.has_producer_id() && header.base_sequence() < 0 {
        return Err(invalid(Reason::Sequence(header.base_sequence())));
    }
    Ok(header)
}

fn check_size(size: usize, topic: &TopicConfig) -> Result<(), Rejection> {
    let max = topic.max_message_bytes as usize;
    if size > max {
        return Err(refuse_early(
            ErrorCode::MessageTooLarge,
            Reason::TooLarge { size, max },
        ));
    }
    Ok(())
}

fn check_fits_segment(size: usize, topic: &TopicConfig) -> Result<(), Rejection> {
    let max = topic.segment_bytes as usize;
    if size > max {
        let reason = Reason::LargerThanSegment { size, max };
        return Err(refuse_early(ErrorCode::RecordListTooLarge, reason));
    }
    Ok(())
}

/// The codec and level that records are to be packed anew with, `None` if they stay as they are.
fn target_codec(topic: &TopicConfig, codec: Codec) -> Option<(Codec, Option<i32>)> {
    let (target, level) = match topic.compression {
        Compression::Producer => return None,
        Compression::Uncompressed => (Codec::None, None),
        Compression::Gzip { level } => (Codec::Gzip, level.and_then(|level| level.try_into().ok())),
        Compression::Snappy => (Codec::Snappy, None),
        Compression::Lz4 { level } => (Codec::Lz4, level.try_into().ok()),
        Compression::Zstd { level } => (Codec::Zstd, Some(level)),
    };
    (target != codec).then_some((target, level))
}

/// Whether the header of a compressed batch leaves open what the answer is.
fn depends_on_records(header: &BatchHeader, topic: &TopicConfig, now: TimestampMs) -> bool {
    topic.compact
        || header.timestamp_type() == TimestampType::LogAppendTime
        || topic.timestamp_type == TopicTime::CreateTime
            && (topic.timestamp_before_max_ms != i64::MAX
                || is_out_of_range(header.max_timestamp(), topic, now)
                || is_out_of_range(header.base_timestamp(), topic, now))
}

/// Without timestamp, a record is never too old nor too new.
fn is_out_of_range(timestamp: TimestampMs, topic: &TopicConfig, now: TimestampMs) -> bool {
    let age = now.wrapping_sub(timestamp);
    timestamp != NO_TIMESTAMP
        && (age > topic.timestamp_before_max_ms
            || age.wrapping_neg() > topic.timestamp_after_max_ms)
}

const NO_TIMESTAMP: TimestampMs = -1;

/// Gives the batch the time that the topic wants, and a header that tells the records' largest.
fn stamp(
    batch: Bytes,
    max_timestamp: TimestampMs,
    topic: &TopicConfig,
    now: TimestampMs,
) -> Validated {
    let header = BatchHeader::peek(&batch).expect("checked");
    let says_create_time = header.timestamp_type() == TimestampType::CreateTime;
    match topic.timestamp_type {
        TopicTime::LogAppendTime => {
            let mut stamped = batch.to_vec();
            batch::set_log_append_time(&mut stamped, now);
            Validated {
                batch: stamped.into(),
                log_append_time: Some(now),
            }
        }
        TopicTime::CreateTime if says_create_time && header.max_timestamp() == max_timestamp => {
            Validated {
                batch,
                log_append_time: None,
            }
        }
        TopicTime::CreateTime => {
            let mut stamped = batch.to_vec();
            batch::set_create_time(&mut stamped, max_timestamp);
            Validated {
                batch: stamped.into(),
                log_append_time: None,
            }
        }
    }
}

/// Walks the records and returns their largest timestamp.
fn walk(
    payload: &[u8],
    header: &BatchHeader,
    partition: &dyn Display,
    topic: &TopicConfig,
    now: TimestampMs,
) -> Result<TimestampMs, Rejection> {
    let is_compressed = header.codec_id() != Codec::None.id();
    let body_max = if is_compressed {
        topic.max_decompressed_bytes as usize
    } else {
        usize::MAX
    };
    let stamped_time =
        (header.timestamp_type() == TimestampType::LogAppendTime).then_some(header.max_timestamp());
    let mut rest = payload;
    let mut max_timestamp = NO_TIMESTAMP;
    let mut errors = RecordErrors::default();
    for index in 0..header.records_count() {
        let malformed = || refuse(ErrorCode::InvalidRecord, Reason::Record(index));
        let record = RecordHead::take(&mut rest, body_max).ok_or_else(malformed)?;
        // Kafka stores an uncompressed batch with holes, and its consumers then see wrong offsets.
        if record.offset_delta != index {
            return Err(malformed());
        }
        let timestamp =
            stamped_time.unwrap_or(header.base_timestamp().wrapping_add(record.timestamp_delta));
        max_timestamp = max_timestamp.max(timestamp);
        if topic.compact && !record.has_key {
            errors.push(index, || {
                format!("Compacted topic cannot accept message without key in topic partition {partition}")
            });
            continue;
        }
        errors.check_time(index, timestamp, stamped_time.is_some(), topic, now);
    }
    if !rest.is_empty() {
        return Err(refuse(ErrorCode::InvalidRecord, Reason::BytesAfterRecords));
    }
    errors.into_result().map(|()| max_timestamp)
}

/// The records of one batch that are refused each for itself, which refuses the batch.
#[derive(Default)]
struct RecordErrors {
    errors: Vec<RecordError>,
    count: usize,
    any_timestamp: bool,
}

impl RecordErrors {
    fn check_time(
        &mut self,
        index: i32,
        timestamp: TimestampMs,
        is_stamped: bool,
        topic: &TopicConfig,
        now: TimestampMs,
    ) {
        if topic.timestamp_type == TopicTime::CreateTime && timestamp != NO_TIMESTAMP {
            if is_out_of_range(timestamp, topic, now) {
                self.any_timestamp = true;
                let from = now.wrapping_sub(topic.timestamp_before_max_ms);
                let to = now.wrapping_add(topic.timestamp_after_max_ms);
                self.push(index, || {
                    format!("timestamp {timestamp} is not within [{from}, {to}]")
                });
            }
        } else if is_stamped {
            self.any_timestamp = true;
            self.push(index, || {
                "only the broker may set the timestamp type LogAppendTime".to_owned()
            });
        }
    }

    fn push(&mut self, batch_index: i32, message: impl FnOnce() -> String) {
        self.count += 1;
        if self.errors.len() < limits::RECORD_ERRORS_MAX {
            self.errors.push(RecordError {
                batch_index,
                message: message(),
            });
        }
    }

    fn into_result(self) -> Result<(), Rejection> {
        let Some(first) = self.errors.first() else {
            return Ok(());
        };
        let reason = Reason::Records(first.message.clone());
        let (error, message) = match self.any_timestamp {
            true => (
                ErrorCode::InvalidTimestamp,
                "the batch has records with invalid timestamps".to_owned(),
            ),
            false => {
                let shown: Vec<_> = self
                    .errors
                    .iter()
                    .take(3)
                    .map(|error| {
                        let (index, message) = (error.batch_index, &error.message);
                        format!("RecordError(batchIndex={index}, message='{message}')")
                    })
                    .collect();
                // Kafka's words, for programs that look at them.
                let message = format!(
                    "One or more records have been rejected due to {} record errors in total, and only showing the \
                     first three errors at most: [{}]",
                    self.count,
                    shown.join(", ")
                );
                (ErrorCode::InvalidRecord, message)
            }
        };
        Err(Rejection {
            message: Some(message),
            record_errors: self.errors,
            ..refuse(error, reason)
        })
    }
}

/// A refusal that Kafka makes when it looks into the batch; it tells the log's start then.
fn refuse(error: ErrorCode, reason: Reason) -> Rejection {
    Rejection {
        error,
        message: None,
        record_errors: Vec::new(),
        tells_log_start: true,
        reason,
    }
}

/// One that Kafka makes before that.
fn refuse_early(error: ErrorCode, reason: Reason) -> Rejection {
    Rejection {
        tells_log_start: false,
        ..refuse(error, reason)
    }
}

#[cfg(test)]
mod tests;
