//! Owns making record batches: for clients, for topics that recompress, and for the metadata log.

use bytes::{BufMut, Bytes, BytesMut};
use zerocopy::IntoBytes;

use crate::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use crate::protocol::compression::{Codec, compress};

use super::records::RecordHeader;
use super::{
    BatchHeader, CONTROL, DELETE_HORIZON, HEADER_BYTES, LENGTH_END, LOG_APPEND_TIME, MAGIC,
    TRANSACTIONAL, seal,
};

/// Gathers records, then makes one batch of them.
///
/// ```
/// use coati::protocol::batch::{Batch, BatchBuilder, records};
/// let mut builder = BatchBuilder::new();
/// builder.append(1_700_000_000_000, Some(b"key"), Some(b"value"), &[]);
/// let batch = Batch::parse(&builder.build()).unwrap();
/// assert_eq!(batch.verify_crc(), Ok(()));
/// assert_eq!(records(&batch, 1000).unwrap().count(), 1);
/// ```
#[derive(Clone, Debug)]
pub struct BatchBuilder {
    /// Room for the header, then the records: an uncompressed batch is made where they lie.
    batch: BytesMut,
    count: i32,
    next_offset_delta: i32,
    base_timestamp: Option<TimestampMs>,
    max_timestamp: TimestampMs,
    log_append_time: Option<TimestampMs>,
    last_offset_delta: i32,
    codec: Codec,
    level: Option<i32>,
    base_offset: Offset,
    leader_epoch: LeaderEpoch,
    producer_id: ProducerId,
    producer_epoch: i16,
    base_sequence: i32,
    attributes: i16,
}

impl Default for BatchBuilder {
    fn default() -> BatchBuilder {
        BatchBuilder::new()
    }
}

impl BatchBuilder {
    /// Uncompressed, from offset 0, with no leader epoch and no producer id.
    pub fn new() -> BatchBuilder {
        BatchBuilder {
            batch: BytesMut::zeroed(HEADER_BYTES),
            count: 0,
            next_offset_delta: 0,
            base_timestamp: None,
            max_timestamp: -1,
            log_append_time: None,
            last_offset_delta: 0,
            codec: Codec::None,
            level: None,
            base_offset: Offset(0),
            leader_epoch: LeaderEpoch(-1),
            producer_id: ProducerId(-1),
            producer_epoch: -1,
            base_sequence: -1,
            attributes: 0,
        }
    }

    /// `level` is the codec's own, `None` its default.
    pub fn codec(mut self, codec: Codec, level: Option<i32>) -> BatchBuilder {
        (self.codec, self.level) = (codec, level);
        self
    }

    pub fn base_offset(mut self, offset: Offset) -> BatchBuilder {
        self.base_offset = offset;
        self
    }

    pub fn leader_epoch(mut self, epoch: LeaderEpoch) -> BatchBuilder {
        self.leader_epoch = epoch;
        self
    }

    pub fn producer(mut self, id: ProducerId, epoch: i16, base_sequence: i32) -> BatchBuilder {
        (self.producer_id, self.producer_epoch, self.base_sequence) = (id, epoch, base_sequence);
        self
    }

    pub fn transactional(mut self) -> BatchBuilder {
        self.attributes |= TRANSACTIONAL;
        self
    }

    /// For records of Kafka's own; their keys are from [`control_key`].
    pub fn control(mut self) -> BatchBuilder {
        self.attributes |= CONTROL;
        self
    }

    /// Gives all records this time, as topics with `LogAppendTime` want it.
    pub fn log_append_time(mut self, now: TimestampMs) -> BatchBuilder {
        self.attributes |= LOG_APPEND_TIME;
        self.log_append_time = Some(now);
        self
    }

    /// The batch ends here at least, though its last records may have been cleaned away.
    pub fn last_offset_delta(mut self, delta: i32) -> BatchBuilder {
        self.last_offset_delta = delta;
        self
    }

    /// The largest timestamp is this at least.
    pub fn max_timestamp(mut self, timestamp: TimestampMs) -> BatchBuilder {
        self.max_timestamp = timestamp;
        self
    }

    /// When the cleaner may drop the batch's tombstones (KIP-534); to be said before the first record.
    pub fn delete_horizon(mut self, horizon_ms: TimestampMs) -> BatchBuilder {
        self.attributes |= DELETE_HORIZON;
        self.base_timestamp = Some(horizon_ms);
        self
    }

    /// Adds a record at the next offset.
    pub fn append(
        &mut self,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) {
        self.append_at(self.next_offset_delta, timestamp, key, value, headers);
    }

    /// Adds a record at an offset relative to the base, for batches with holes. Deltas must rise.
    pub fn append_at(
        &mut self,
        offset_delta: i32,
        timestamp: TimestampMs,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &[RecordHeader],
    ) {
        assert!(offset_delta >= self.next_offset_delta, "offsets rise");
        self.count += 1;
        self.next_offset_delta = offset_delta + 1;
        let base_timestamp = *self.base_timestamp.get_or_insert(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);

        let timestamp_delta = timestamp.wrapping_sub(base_timestamp);
        let headers_bytes: usize = headers
            .iter()
            .map(|header| {
                nullable_bytes(Some(header.key.as_bytes()))
                    + nullable_bytes(header.value.as_deref())
            })
            .sum();
        let body = 1
            + varlong_bytes(timestamp_delta)
            + varint_bytes(offset_delta)
            + nullable_bytes(key)
            + nullable_bytes(value)
            + varint_bytes(headers.len() as i32)
            + headers_bytes;
        let batch = &mut self.batch;
        batch.reserve(varint_bytes(body as i32) + body);
        put_varint(batch, body as i32);
        let start = batch.len();
        batch.put_u8(0);
        put_varlong(batch, timestamp_delta);
        put_varint(batch, offset_delta);
        put_nullable(batch, key);
        put_nullable(batch, value);
        put_varint(batch, headers.len() as i32);
        for header in headers {
            put_nullable(batch, Some(header.key.as_bytes()));
            put_nullable(batch, header.value.as_deref());
        }
        debug_assert_eq!(batch.len() - start, body);
    }

    pub fn records_count(&self) -> i32 {
        self.count
    }

    /// Size of the batch as it stands, before compression.
    pub fn size_in_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Makes the batch, CRC included.
    ///
    /// # Panics
    /// When it is 2 GiB or more; callers stop long before.
    pub fn build(self) -> Bytes {
        let mut batch = self.batch;
        if self.codec != Codec::None {
            let records = compress(self.codec, self.level, &batch[HEADER_BYTES..]);
            batch.truncate(HEADER_BYTES);
            batch.put_slice(&records);
        }
        let length = i32::try_from(batch.len() - LENGTH_END).expect("batches are below 2 GiB");
        let header = BatchHeader {
            base_offset: self.base_offset.0.into(),
            batch_length: length.into(),
            partition_leader_epoch: self.leader_epoch.0.into(),
            magic: MAGIC,
            crc: 0.into(),
            attributes: (self.attributes | self.codec.id()).into(),
            last_offset_delta: (self.next_offset_delta - 1)
                .max(self.last_offset_delta)
                .into(),
            base_timestamp: self.base_timestamp.unwrap_or(-1).into(),
            max_timestamp: self.log_append_time.unwrap_or(self.max_timestamp).into(),
            producer_id: self.producer_id.0.into(),
            producer_epoch: self.producer_epoch.into(),
            base_sequence: self.base_sequence.into(),
            records_count: self.count.into(),
        };
        batch[..HEADER_BYTES].copy_from_slice(header.as_bytes());
        seal(&mut batch);
        batch.freeze()
    }
}

/// What a control record is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlType {
    Abort = 0,
    Commit = 1,
    LeaderChange = 2,
    SnapshotHeader = 3,
    SnapshotFooter = 4,
    KRaftVersion = 5,
    KRaftVoters = 6,
}

/// Key of a control record: its own version, always 0, and what it is.
pub fn control_key(control: ControlType) -> [u8; 4] {
    [0, 0, 0, control as u8]
}

fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

fn varlong_bytes(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

fn varint_bytes(value: i32) -> usize {
    varlong_bytes(i64::from(value))
}

fn nullable_bytes(bytes: Option<&[u8]>) -> usize {
    let length = bytes.map_or(-1, |bytes| bytes.len() as i32);
    varint_bytes(length) + length.max(0) as usize
}

fn put_varint(out: &mut BytesMut, value: i32) {
    put_varlong(out, i64::from(value));
}

fn put_varlong(out: &mut BytesMut, value: i64) {
    let mut value = zigzag(value);
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

fn put_nullable(out: &mut BytesMut, bytes: Option<&[u8]>) {
    put_varint(out, bytes.map_or(-1, |bytes| bytes.len() as i32));
    out.put_slice(bytes.unwrap_or_default());
}
