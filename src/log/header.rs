//! Owns the log's look at record batches: what ordering, indexing and recovery need of a header, and
//! what a batch does to producer state. Looks at records only for markers and timestamps.

use bytes::Bytes;

use super::producers::{EndMarker, ProducerBatch, ProducerStates};
use super::time_index::NO_TIMESTAMP;
use super::transaction_index::AbortedTransaction;
use crate::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use crate::protocol::batch::{self, Batch, BatchError, BatchHeader, BatchView};
use crate::protocol::{DecodeError, Reader};

pub(super) use crate::protocol::batch::HEADER_BYTES;

/// Searching by time opens no batch that is larger than this inside.
const DECOMPRESSED_BYTES_MAX: usize = 256 << 20;

/// A batch's header, with the offset and epoch it has in this log.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Header {
    pub(super) base_offset: Offset,
    pub(super) leader_epoch: LeaderEpoch,
    /// Of the whole batch.
    pub(super) size: u32,
    raw: BatchHeader,
}

/// A record's place in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RecordTime {
    pub(super) offset: Offset,
    pub(super) timestamp: TimestampMs,
}

impl Header {
    /// None if these are not the first bytes of a version-2 batch, as zeroes are not.
    pub(super) fn parse(bytes: &[u8]) -> Option<Header> {
        let raw = *BatchHeader::peek(bytes)?;
        let header = Header {
            base_offset: raw.base_offset(),
            leader_epoch: raw.partition_leader_epoch(),
            size: u32::try_from(raw.size().ok()?).ok()?,
            raw,
        };
        let last_possible = i64::MAX - i64::from(i32::MAX) - 1;
        let sane = raw.magic() == 2
            && (0..=last_possible).contains(&header.base_offset.0)
            && raw.last_offset_delta() >= 0;
        sane.then_some(header)
    }

    /// The same batch with the place that the log gives it.
    pub(super) fn at(self, base_offset: Offset, leader_epoch: LeaderEpoch) -> Header {
        Header {
            base_offset,
            leader_epoch,
            ..self
        }
    }

    pub(super) fn last_offset(&self) -> Offset {
        self.base_offset
            .plus(i64::from(self.raw.last_offset_delta()))
    }

    pub(super) fn next_offset(&self) -> Offset {
        self.last_offset().plus(1)
    }

    /// Of its records; below zero without any. A batch that a cleaning left empty still says what it was.
    pub(super) fn max_timestamp(&self) -> TimestampMs {
        match self.raw.records_count() {
            0 => NO_TIMESTAMP,
            _ => self.raw.max_timestamp(),
        }
    }

    pub(super) fn is_control(&self) -> bool {
        self.raw.is_control()
    }

    /// `batch` is the whole batch.
    pub(super) fn checksum_fits(&self, batch: &[u8]) -> bool {
        BatchView::parse(batch).is_ok_and(|view| view.verify_crc().is_ok())
    }

    /// The first 16 bytes as this log has them: offset and epoch are the log's, outside the CRC.
    pub(super) fn placed(batch: &[u8], base: Offset, epoch: LeaderEpoch) -> [u8; 16] {
        let mut head: [u8; 16] = batch[..16].try_into().expect("16 bytes");
        head[..8].copy_from_slice(&base.0.to_be_bytes());
        head[12..].copy_from_slice(&epoch.0.to_be_bytes());
        head
    }

    /// Notes this batch in the producers' state, as it lies in the log. `body` is what follows the
    /// header, needed for control batches only. Returns the transaction that it aborts, for the index
    /// of the batch's segment.
    pub(super) fn note_producer(
        &self,
        body: &[u8],
        producers: &mut ProducerStates,
    ) -> Option<AbortedTransaction> {
        let mut aborted = None;
        if self.raw.has_producer_id() {
            if self.is_control() {
                aborted = self.note_marker(body, producers);
            } else {
                producers.append(&self.producer_batch());
            }
        }
        producers.advance_to(self.next_offset());
        aborted
    }

    fn producer_batch(&self) -> ProducerBatch {
        ProducerBatch {
            producer_id: self.raw.producer_id(),
            producer_epoch: self.raw.producer_epoch(),
            base_sequence: self.raw.base_sequence(),
            base_offset: self.base_offset,
            last_offset: self.last_offset(),
            max_timestamp: self.raw.max_timestamp(),
            transactional: self.raw.is_transactional(),
        }
    }

    fn note_marker(
        &self,
        body: &[u8],
        producers: &mut ProducerStates,
    ) -> Option<AbortedTransaction> {
        let (committed, coordinator_epoch) = end_marker(body)?;
        let producer_id: ProducerId = self.raw.producer_id();
        producers.end_transaction(&EndMarker {
            producer_id,
            producer_epoch: self.raw.producer_epoch(),
            coordinator_epoch,
            committed,
            offset: self.last_offset(),
            timestamp: self.max_timestamp(),
        })
    }

    /// The first record of `batch` that `wanted` holds for.
    pub(super) fn first_record(
        batch: &Bytes,
        wanted: impl Fn(&RecordTime) -> bool,
    ) -> Result<Option<RecordTime>, BatchError> {
        let batch = Batch::parse(batch)?;
        for record in batch::records(&batch, DECOMPRESSED_BYTES_MAX)? {
            let record = record?;
            let seen = RecordTime {
                offset: record.offset,
                timestamp: record.timestamp,
            };
            if wanted(&seen) {
                return Ok(Some(seen));
            }
        }
        Ok(None)
    }
}

/// Reads an end-of-transaction record: whether it commits, and its coordinator's epoch.
/// None for other control records.
fn end_marker(body: &[u8]) -> Option<(bool, i32)> {
    // The few bytes of a rare record, in memory that its reader may share.
    let (key, value) = key_and_value(Reader::new(Bytes::copy_from_slice(body))).ok()?;
    // Key: version, type (0 abort, 1 commit). Value: version, coordinator epoch.
    let kind = i16::from_be_bytes(key.get(2..4)?.try_into().ok()?);
    let epoch = i32::from_be_bytes(value.get(2..6)?.try_into().ok()?);
    matches!(kind, 0 | 1).then_some((kind == 1, epoch))
}

fn key_and_value(mut record: Reader) -> Result<(Bytes, Bytes), DecodeError> {
    let _length = record.varint()?;
    let _attributes = record.u8()?;
    let _timestamp_delta = record.varlong()?;
    let _offset_delta = record.varint()?;
    let mut bytes = || {
        // A marker has both: the length of null is beyond what there is.
        let length = record.varint()?;
        record.slice(usize::try_from(length).unwrap_or(usize::MAX))
    };
    Ok((bytes()?, bytes()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Version 0 of both, the coordinator's epoch 7.
    const COMMIT: [u8; 17] = [32, 0, 0, 0, 8, 0, 0, 0, 1, 12, 0, 0, 0, 0, 0, 7, 0];

    #[test]
    fn a_marker_is_read_whole_or_not_at_all() {
        assert_eq!(end_marker(&COMMIT), Some((true, 7)));
        let mut abort = COMMIT;
        abort[8] = 0;
        assert_eq!(end_marker(&abort), Some((false, 7)));
        let without_headers = COMMIT.len() - 1;
        for end in 0..without_headers {
            assert_eq!(end_marker(&COMMIT[..end]), None, "cut at {end}");
        }
        // A null key, a null value, a number without an end, a leader change.
        for (at, byte) in [(4, 1), (9, 1), (2, 0x80), (8, 2)] {
            let mut other = COMMIT;
            other[at] = byte;
            if byte == 0x80 {
                other[at..].fill(byte);
            }
            assert_eq!(end_marker(&other), None, "{byte} at {at}");
        }
    }
}
