//! Owns the time index of one segment (`<base offset>.timeindex`): the largest timestamp seen so far,
//! every now and then. Sparse, in memory as large as on disk, nothing while empty. No I/O.
//!
//! The file is a row of 12-byte big-endian entries: timestamp (8 bytes) and, relative to the
//! segment's base offset, the last offset of the batch that carries it (4 bytes): no record before
//! the next entry's batch is younger than that.

use super::checkpoints::FormatError;
use super::offset_index::{IndexRefusal, relative_offset};
use crate::ids::{Offset, TimestampMs};

/// A timestamp and the last offset of the batch that carries it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimestampOffset {
    pub timestamp: TimestampMs,
    pub offset: Offset,
}

/// What Kafka's records carry when they have no timestamp.
pub const NO_TIMESTAMP: TimestampMs = -1;

#[derive(Debug, Clone, PartialEq)]
pub struct TimeIndex {
    base_offset: Offset,
    // Two rows instead of one of pairs: a pair would be padded from 12 bytes to 16.
    timestamps: Vec<TimestampMs>,
    relative_offsets: Vec<u32>,
}

impl TimeIndex {
    pub const ENTRY_BYTES: usize = 12;

    /// An empty index; allocates nothing until the first entry.
    pub fn new(base_offset: Offset) -> TimeIndex {
        TimeIndex {
            base_offset,
            timestamps: Vec::new(),
            relative_offsets: Vec::new(),
        }
    }

    /// Reads a whole file. Zeroes at its end are room that Apache Kafka preallocates on active
    /// segments, and are left out. An error means that the index must be rebuilt from the segment.
    pub fn decode(base_offset: Offset, bytes: &[u8]) -> Result<TimeIndex, FormatError> {
        let (raw_entries, rest) = bytes.as_chunks::<{ Self::ENTRY_BYTES }>();
        if !rest.is_empty() {
            return Err(FormatError::Length {
                length: bytes.len(),
                entry_bytes: Self::ENTRY_BYTES,
            });
        }
        let used = match raw_entries.iter().rposition(|raw| *raw != [0; 12]) {
            Some(last) => last + 1,
            // One entry of zeroes and nothing else is no preallocation but time 0 at the base offset.
            None => usize::from(raw_entries.len() == 1),
        };
        let mut index = TimeIndex::new(base_offset);
        index.timestamps.reserve_exact(used);
        index.relative_offsets.reserve_exact(used);
        for (number, raw) in raw_entries[..used].iter().enumerate() {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *raw;
            let timestamp = i64::from_be_bytes([a, b, c, d, e, f, g, h]);
            let relative = u32::from_be_bytes([i, j, k, l]);
            if i32::try_from(relative).is_err() || timestamp < 0 {
                return Err(FormatError::Entry {
                    number,
                    problem: "is below the segment's base offset or time 0",
                });
            }
            if let (Some(time_before), Some(offset_before)) =
                (index.timestamps.last(), index.relative_offsets.last())
                && (timestamp <= *time_before || relative < *offset_before)
            {
                return Err(FormatError::Entry {
                    number,
                    problem: "does not come after the one before it",
                });
            }
            index.timestamps.push(timestamp);
            index.relative_offsets.push(relative);
        }
        Ok(index)
    }

    /// The file's bytes from entry number `first` on: 0 for the whole file, a former `len()` for
    /// what has been added since.
    pub fn encode_from(&self, first: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.len().saturating_sub(first) * Self::ENTRY_BYTES);
        for (timestamp, relative) in self
            .timestamps
            .iter()
            .zip(&self.relative_offsets)
            .skip(first)
        {
            bytes.extend_from_slice(&timestamp.to_be_bytes());
            bytes.extend_from_slice(&relative.to_be_bytes());
        }
        bytes
    }

    /// Offers the largest timestamp of the segment so far with its offset. Entered only when it is
    /// larger than the last entry's; `Ok(true)` then. To be called when the offset index has made an
    /// entry, and once more when the segment is rolled or closed.
    pub fn maybe_append(&mut self, largest: TimestampOffset) -> Result<bool, IndexRefusal> {
        let relative = relative_offset(largest.offset, self.base_offset)?;
        let last = self.last();
        if let Some(last) = last
            && largest.offset < last.offset
        {
            return Err(IndexRefusal::OutOfOrder {
                offset: largest.offset,
                last: last.offset,
            });
        }
        if largest.timestamp <= last.map_or(NO_TIMESTAMP, |last| last.timestamp) {
            return Ok(false);
        }
        self.timestamps.push(largest.timestamp);
        self.relative_offsets.push(relative);
        Ok(true)
    }

    /// The last entry whose timestamp is at or below `timestamp`, or `(NO_TIMESTAMP, base offset)`.
    /// A record of that time or later can't lie before the entry's offset.
    pub fn lookup(&self, timestamp: TimestampMs) -> TimestampOffset {
        match self.timestamps.partition_point(|entry| *entry <= timestamp) {
            0 => TimestampOffset {
                timestamp: NO_TIMESTAMP,
                offset: self.base_offset,
            },
            count => self.entry(count - 1),
        }
    }

    /// Forgets all entries at or above `offset`. The caller truncates the file to `encoded_len`.
    pub fn truncate_to(&mut self, offset: Offset) {
        let keep = self
            .relative_offsets
            .partition_point(|relative| self.base_offset.plus(i64::from(*relative)) < offset);
        self.timestamps.truncate(keep);
        self.relative_offsets.truncate(keep);
    }

    /// Full by `segment.index.bytes`, with the last place kept for the entry made when rolling.
    pub fn is_full(&self, index_bytes_max: u32) -> bool {
        self.len() + 1 >= index_bytes_max as usize / Self::ENTRY_BYTES
    }

    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    pub fn len(&self) -> usize {
        self.timestamps.len()
    }

    pub fn is_empty(&self) -> bool {
        self.timestamps.is_empty()
    }

    pub fn encoded_len(&self) -> u64 {
        (self.len() * Self::ENTRY_BYTES) as u64
    }

    pub fn last(&self) -> Option<TimestampOffset> {
        self.len().checked_sub(1).map(|last| self.entry(last))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = TimestampOffset> + '_ {
        (0..self.len()).map(|number| self.entry(number))
    }

    /// Gives back memory reserved for growth; for a segment that has been rolled or lies idle.
    pub fn shrink(&mut self) {
        self.timestamps.shrink_to_fit();
        self.relative_offsets.shrink_to_fit();
    }

    fn entry(&self, number: usize) -> TimestampOffset {
        TimestampOffset {
            timestamp: self.timestamps[number],
            offset: self
                .base_offset
                .plus(i64::from(self.relative_offsets[number])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Offset = Offset(500);

    fn at(timestamp: TimestampMs, offset: i64) -> TimestampOffset {
        TimestampOffset {
            timestamp,
            offset: Offset(offset),
        }
    }

    fn filled() -> TimeIndex {
        let mut index = TimeIndex::new(BASE);
        for entry in [at(10_000, 509), at(10_500, 520), at(20_000, 530)] {
            assert!(index.maybe_append(entry).unwrap());
        }
        index
    }

    #[test]
    fn lookup_finds_the_last_entry_at_or_below() {
        let index = filled();
        assert_eq!(TimeIndex::new(BASE).lookup(5), at(NO_TIMESTAMP, 500));
        assert_eq!(index.lookup(9_999), at(NO_TIMESTAMP, 500));
        assert_eq!(index.lookup(10_000), at(10_000, 509));
        assert_eq!(index.lookup(19_999), at(10_500, 520));
        assert_eq!(index.lookup(i64::MAX), at(20_000, 530));
    }

    #[test]
    fn bytes_are_kafkas() {
        let bytes = filled().encode_from(0);
        assert_eq!(&bytes[..12], [0, 0, 0, 0, 0, 0, 0x27, 0x10, 0, 0, 0, 9]);
        assert_eq!(bytes.len() as u64, filled().encoded_len());
        assert_eq!(TimeIndex::decode(BASE, &bytes).unwrap(), filled());
        assert_eq!(filled().encode_from(1), bytes[12..]);
        let mut padded = bytes;
        padded.resize(12 * 500, 0);
        assert_eq!(TimeIndex::decode(BASE, &padded).unwrap(), filled());
    }

    #[test]
    fn a_single_entry_of_zeroes_is_an_entry() {
        let mut index = TimeIndex::new(BASE);
        assert!(index.maybe_append(at(0, 500)).unwrap());
        assert_eq!(
            TimeIndex::decode(BASE, &index.encode_from(0)).unwrap(),
            index
        );
        assert!(TimeIndex::decode(BASE, &[0; 24]).unwrap().is_empty());
    }

    #[test]
    fn only_a_larger_timestamp_is_entered() {
        let mut index = filled();
        assert_eq!(index.maybe_append(at(20_000, 540)), Ok(false));
        assert_eq!(index.maybe_append(at(20_000, 530)), Ok(false));
        assert_eq!(index.maybe_append(at(19_000, 540)), Ok(false));
        assert_eq!(index.maybe_append(at(20_001, 540)), Ok(true));
        assert!(matches!(
            index.maybe_append(at(30_000, 539)),
            Err(IndexRefusal::OutOfOrder { .. })
        ));
        assert_eq!(
            TimeIndex::new(BASE).maybe_append(at(NO_TIMESTAMP, 500)),
            Ok(false)
        );
    }

    #[test]
    fn truncation_drops_the_exact_offset_too() {
        for (to, left) in [(531, 3), (530, 2), (521, 2), (520, 1), (0, 0)] {
            let mut index = filled();
            index.truncate_to(Offset(to));
            assert_eq!(index.len(), left, "to {to}");
        }
    }

    #[test]
    fn damage_is_told() {
        let good = filled().encode_from(0);
        assert!(matches!(
            TimeIndex::decode(BASE, &good[..13]),
            Err(FormatError::Length { .. })
        ));
        let mut swapped = good.clone();
        swapped[..24].rotate_left(12);
        assert!(matches!(
            TimeIndex::decode(BASE, &swapped),
            Err(FormatError::Entry { number: 1, .. })
        ));
        let mut negative = good;
        negative[0] = 0xff;
        assert!(matches!(
            TimeIndex::decode(BASE, &negative),
            Err(FormatError::Entry { number: 0, .. })
        ));
    }

    #[test]
    fn the_last_place_is_kept_for_rolling() {
        assert!(filled().is_full(48) && !filled().is_full(60));
    }

    #[test]
    fn apache_kafkas_file_is_read_and_written_again() {
        let bytes = include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/kafka-4.4/plain-0/00000000000000000000.timeindex"
        ));
        let index = TimeIndex::decode(Offset(0), bytes).unwrap();
        assert_eq!(index.len(), 3);
        assert_eq!(index.encode_from(0), bytes);
    }
}
