//! Owns reading the records inside a batch, decompressing it when it must. Keys and values stay slices of
//! the batch or of its decompressed records.

use bytes::Bytes;

use crate::ids::{Offset, TimestampMs};
use crate::protocol::compression::decompress;
use crate::protocol::{DecodeError, Reader, Str};

use super::{Batch, BatchError, TimestampType};

/// One record of a batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub offset: Offset,
    pub timestamp: TimestampMs,
    pub key: Option<Bytes>,
    /// None is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RecordHeader {
    pub key: Str,
    pub value: Option<Bytes>,
}

/// The records of a batch, decompressed to at most `limit` bytes. Each is checked to fill its length; the
/// batch to hold as many as its header says and nothing after them. Offsets are not checked to be dense:
/// cleaned batches have holes. Ends after the first error.
pub fn records(batch: &Batch, limit: usize) -> Result<RecordIterator, BatchError> {
    let payload = decompress(batch.codec(), &batch.payload(), limit)?;
    let fixed_timestamp = match batch.timestamp_type() {
        TimestampType::CreateTime => None,
        TimestampType::LogAppendTime => Some(batch.max_timestamp()),
    };
    Ok(RecordIterator {
        reader: Reader::new(payload),
        base_offset: batch.base_offset(),
        last_offset_delta: batch.last_offset_delta(),
        base_timestamp: batch.base_timestamp(),
        fixed_timestamp,
        index: 0,
        count: batch.records_count(),
        is_over: false,
    })
}

/// See [`records`].
#[derive(Debug)]
pub struct RecordIterator {
    reader: Reader,
    base_offset: Offset,
    last_offset_delta: i32,
    base_timestamp: TimestampMs,
    /// All records' timestamp when it is the broker's.
    fixed_timestamp: Option<TimestampMs>,
    index: i32,
    count: i32,
    is_over: bool,
}

impl Iterator for RecordIterator {
    type Item = Result<Record, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let index = self.index;
        if index == self.count {
            self.is_over = true;
            return (self.reader.remaining() > 0).then_some(Err(BatchError::BadRecord { index }));
        }
        self.index += 1;
        match self.record() {
            Ok(record) => Some(Ok(record)),
            Err(_) => {
                self.is_over = true;
                Some(Err(BatchError::BadRecord { index }))
            }
        }
    }
}

impl RecordIterator {
    fn record(&mut self) -> Result<Record, DecodeError> {
        let length = self.reader.varint()?;
        let position = self.reader.position();
        let bad_length = |length: i32| DecodeError::BadLength {
            position,
            length: length.into(),
        };
        let length = usize::try_from(length).map_err(|_| bad_length(length))?;
        if length > self.reader.remaining() {
            let missing = length - self.reader.remaining();
            return Err(DecodeError::Truncated { position, missing });
        }
        let reader = &mut self.reader;
        // Attributes, of which no bit means anything yet.
        reader.u8()?;
        let timestamp_delta = reader.varlong()?;
        let offset_delta = reader.varint()?;
        if offset_delta < 0 || offset_delta > self.last_offset_delta {
            return Err(bad_length(offset_delta));
        }
        let record = Record {
            offset: self.base_offset.plus(offset_delta.into()),
            timestamp: self
                .fixed_timestamp
                .unwrap_or(self.base_timestamp.wrapping_add(timestamp_delta)),
            key: nullable_bytes(reader)?,
            value: nullable_bytes(reader)?,
            headers: headers(reader)?,
        };
        match reader.position() - position {
            read if read == length => Ok(record),
            read => Err(bad_length(read as i32)),
        }
    }
}

fn nullable_bytes(reader: &mut Reader) -> Result<Option<Bytes>, DecodeError> {
    match usize::try_from(reader.varint()?) {
        Ok(length) => reader.slice(length).map(Some),
        Err(_) => Ok(None),
    }
}

fn headers(reader: &mut Reader) -> Result<Vec<RecordHeader>, DecodeError> {
    let position = reader.position();
    let count = reader.varint()?;
    let bad_length = DecodeError::BadLength {
        position,
        length: count.into(),
    };
    let count = usize::try_from(count).map_err(|_| bad_length.clone())?;
    // A header is two bytes at least.
    if count > reader.remaining() / 2 {
        return Err(bad_length);
    }
    let mut headers = Vec::with_capacity(count.min(16));
    for _ in 0..count {
        let position = reader.position();
        let key = nullable_bytes(reader)?.ok_or(DecodeError::UnexpectedNull { position })?;
        let key = Str::from_utf8(key).map_err(|_| DecodeError::BadText { position })?;
        headers.push(RecordHeader {
            key,
            value: nullable_bytes(reader)?,
        });
    }
    Ok(headers)
}
