//! Owns the offset index of one segment (`<base offset>.index`): which batch starts where.
//! Sparse, in memory as large as on disk, nothing while empty. It never reads or writes the file:
//! whoever does hands it the bytes and takes them from it.
//!
//! The file is a row of 8-byte big-endian entries: offset minus the segment's base offset (4 bytes),
//! position of a batch in the segment (4 bytes). Kafka enters a batch's *last* offset with the
//! position where that batch begins, so a search for any offset of it finds the entry before.

use super::checkpoints::FormatError;
use crate::ids::Offset;

/// An offset and where in the segment's file the batch begins that ends with it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OffsetPosition {
    pub offset: Offset,
    /// Bytes from the start of the segment's file.
    pub position: u32,
}

/// Why a segment's index refuses an entry. The answer to each is to roll the segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IndexRefusal {
    #[error("offset {offset} is further than 2^31-1 from the segment's base offset {base_offset}")]
    OffsetOverflow { offset: Offset, base_offset: Offset },
    #[error("offset {offset} does not come after the last entry's {last}")]
    OutOfOrder { offset: Offset, last: Offset },
}

#[derive(Debug, Clone, PartialEq)]
pub struct OffsetIndex {
    base_offset: Offset,
    entries: Vec<Entry>,
    bytes_since_entry: u64,
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Entry {
    relative_offset: u32,
    position: u32,
}

impl OffsetIndex {
    pub const ENTRY_BYTES: usize = 8;

    /// An empty index; allocates nothing until the first entry.
    pub fn new(base_offset: Offset) -> OffsetIndex {
        OffsetIndex {
            base_offset,
            entries: Vec::new(),
            bytes_since_entry: 0,
        }
    }

    /// Reads a whole file. Zeroes at its end are room that Apache Kafka preallocates on active
    /// segments, and are left out. An error means that the index must be rebuilt from the segment.
    pub fn decode(base_offset: Offset, bytes: &[u8]) -> Result<OffsetIndex, FormatError> {
        let (raw_entries, rest) = bytes.as_chunks::<{ Self::ENTRY_BYTES }>();
        if !rest.is_empty() {
            return Err(FormatError::Length {
                length: bytes.len(),
                entry_bytes: Self::ENTRY_BYTES,
            });
        }
        let used = raw_entries
            .iter()
            .rposition(|raw| *raw != [0; 8])
            .map_or(0, |last| last + 1);
        let mut entries: Vec<Entry> = Vec::with_capacity(used);
        for (number, raw) in raw_entries[..used].iter().enumerate() {
            let entry = Entry::from_bytes(*raw);
            if i32::try_from(entry.relative_offset).is_err()
                || i32::try_from(entry.position).is_err()
            {
                return Err(FormatError::Entry {
                    number,
                    problem: "is below the segment's base offset or start",
                });
            }
            if let Some(before) = entries.last()
                && (entry.relative_offset <= before.relative_offset
                    || entry.position <= before.position)
            {
                return Err(FormatError::Entry {
                    number,
                    problem: "does not come after the one before it",
                });
            }
            entries.push(entry);
        }
        Ok(OffsetIndex {
            base_offset,
            entries,
            bytes_since_entry: 0,
        })
    }

    /// The file's bytes from entry number `first` on: 0 for the whole file, a former `len()` for
    /// what has been added since.
    pub fn encode_from(&self, first: usize) -> Vec<u8> {
        self.entries[first.min(self.entries.len())..]
            .iter()
            .flat_map(|entry| entry.to_bytes())
            .collect()
    }

    /// Counts a batch that is being appended at `position` and enters it when more than
    /// `interval_bytes` (`index.interval.bytes`) of batches came since the last entry.
    /// `Ok(true)`: an entry was made, the time index is to be offered one as well.
    pub fn maybe_append(
        &mut self,
        last_offset: Offset,
        position: u32,
        batch_bytes: u32,
        interval_bytes: u32,
    ) -> Result<bool, IndexRefusal> {
        let due = self.bytes_since_entry > u64::from(interval_bytes);
        if due {
            self.append(last_offset, position)?;
            self.bytes_since_entry = 0;
        }
        self.bytes_since_entry += u64::from(batch_bytes);
        Ok(due)
    }

    /// Enters a batch that ends with `last_offset` and begins at `position`.
    pub fn append(&mut self, last_offset: Offset, position: u32) -> Result<(), IndexRefusal> {
        let relative_offset = relative_offset(last_offset, self.base_offset)?;
        if let Some(last) = self.entries.last()
            && relative_offset <= last.relative_offset
        {
            return Err(IndexRefusal::OutOfOrder {
                offset: last_offset,
                last: self.absolute(*last).offset,
            });
        }
        self.entries.push(Entry {
            relative_offset,
            position,
        });
        Ok(())
    }

    /// Where to start reading to find `offset`: the last entry at or below it, or the segment's start.
    pub fn lookup(&self, offset: Offset) -> OffsetPosition {
        match self.count_at_or_below(offset) {
            0 => OffsetPosition {
                offset: self.base_offset,
                position: 0,
            },
            count => self.absolute(self.entries[count - 1]),
        }
    }

    /// The first entry that begins at or after `position`: an upper bound for a read of a known size.
    pub fn first_at_or_after_position(&self, position: u64) -> Option<OffsetPosition> {
        let number = self
            .entries
            .partition_point(|entry| u64::from(entry.position) < position);
        self.entries.get(number).map(|entry| self.absolute(*entry))
    }

    /// Forgets all entries at or above `offset`. The caller truncates the file to `encoded_len`.
    pub fn truncate_to(&mut self, offset: Offset) {
        let keep = self
            .entries
            .partition_point(|entry| self.absolute(*entry).offset < offset);
        self.entries.truncate(keep);
        self.bytes_since_entry = 0;
    }

    /// Whether a batch that ends with `offset` can still be entered here (relative offsets have 31 bits).
    pub fn can_hold(&self, offset: Offset) -> bool {
        relative_offset(offset, self.base_offset).is_ok()
    }

    /// Full by `segment.index.bytes`: time to roll the segment.
    pub fn is_full(&self, index_bytes_max: u32) -> bool {
        self.entries.len() >= index_bytes_max as usize / Self::ENTRY_BYTES
    }

    pub fn base_offset(&self) -> Offset {
        self.base_offset
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn encoded_len(&self) -> u64 {
        (self.entries.len() * Self::ENTRY_BYTES) as u64
    }

    pub fn last(&self) -> Option<OffsetPosition> {
        self.entries.last().map(|entry| self.absolute(*entry))
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = OffsetPosition> + '_ {
        self.entries.iter().map(|entry| self.absolute(*entry))
    }

    /// Gives back memory reserved for growth; for a segment that has been rolled or lies idle.
    pub fn shrink(&mut self) {
        self.entries.shrink_to_fit();
    }

    fn count_at_or_below(&self, offset: Offset) -> usize {
        self.entries
            .partition_point(|entry| self.absolute(*entry).offset <= offset)
    }

    fn absolute(&self, entry: Entry) -> OffsetPosition {
        OffsetPosition {
            offset: self.base_offset.plus(i64::from(entry.relative_offset)),
            position: entry.position,
        }
    }
}

impl Entry {
    fn from_bytes(raw: [u8; 8]) -> Entry {
        let [a, b, c, d, e, f, g, h] = raw;
        Entry {
            relative_offset: u32::from_be_bytes([a, b, c, d]),
            position: u32::from_be_bytes([e, f, g, h]),
        }
    }

    fn to_bytes(self) -> [u8; 8] {
        (u64::from(self.relative_offset) << 32 | u64::from(self.position)).to_be_bytes()
    }
}

/// Kafka keeps relative offsets in a signed 32-bit number that is never negative.
pub(super) fn relative_offset(offset: Offset, base_offset: Offset) -> Result<u32, IndexRefusal> {
    offset
        .0
        .checked_sub(base_offset.0)
        .filter(|relative| (0..=i64::from(i32::MAX)).contains(relative))
        .and_then(|relative| u32::try_from(relative).ok())
        .ok_or(IndexRefusal::OffsetOverflow {
            offset,
            base_offset,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Offset = Offset(1000);

    fn filled() -> OffsetIndex {
        let mut index = OffsetIndex::new(BASE);
        for (offset, position) in [(1009, 5000), (1020, 10_000), (1021, 15_000)] {
            index.append(Offset(offset), position).unwrap();
        }
        index
    }

    #[test]
    fn an_empty_index_points_at_the_segments_start_and_owns_no_memory() {
        let index = OffsetIndex::new(BASE);
        assert_eq!(
            index.lookup(Offset(5000)),
            OffsetPosition {
                offset: BASE,
                position: 0
            }
        );
        assert_eq!(index.entries.capacity(), 0);
        assert_eq!(index.encode_from(0), Vec::<u8>::new());
    }

    #[test]
    fn lookup_finds_the_last_entry_at_or_below() {
        let index = filled();
        let position = |offset| index.lookup(Offset(offset)).position;
        assert_eq!(position(999), 0);
        assert_eq!(position(1008), 0);
        assert_eq!(position(1009), 5000);
        assert_eq!(position(1019), 5000);
        assert_eq!(position(1020), 10_000);
        assert_eq!(position(i64::MAX), 15_000);
    }

    #[test]
    fn upper_bounds_are_found_by_position() {
        let index = filled();
        assert_eq!(
            index.first_at_or_after_position(5001).unwrap().offset,
            Offset(1020)
        );
        assert_eq!(
            index.first_at_or_after_position(5000).unwrap().offset,
            Offset(1009)
        );
        assert_eq!(index.first_at_or_after_position(15_001), None);
    }

    #[test]
    fn bytes_are_kafkas() {
        let bytes = filled().encode_from(0);
        assert_eq!(
            &bytes[..16],
            [0, 0, 0, 9, 0, 0, 0x13, 0x88, 0, 0, 0, 20, 0, 0, 0x27, 0x10]
        );
        assert_eq!(filled().encode_from(2), [0, 0, 0, 21, 0, 0, 0x3a, 0x98]);
        assert_eq!(filled().encode_from(9), Vec::<u8>::new());
        assert_eq!(OffsetIndex::decode(BASE, &bytes).unwrap(), filled());
    }

    #[test]
    fn preallocated_zeroes_are_left_out() {
        let mut bytes = filled().encode_from(0);
        bytes.resize(8 * 1000, 0);
        assert_eq!(OffsetIndex::decode(BASE, &bytes).unwrap(), filled());
        assert!(OffsetIndex::decode(BASE, &[0; 80]).unwrap().is_empty());
    }

    #[test]
    fn damage_is_told() {
        let good = filled().encode_from(0);
        assert!(matches!(
            OffsetIndex::decode(BASE, &good[..15]),
            Err(FormatError::Length { length: 15, .. })
        ));
        let mut swapped = good.clone();
        swapped[..16].rotate_left(8);
        assert!(matches!(
            OffsetIndex::decode(BASE, &swapped),
            Err(FormatError::Entry { number: 1, .. })
        ));
        let mut same_position = good.clone();
        same_position.copy_within(4..8, 12);
        assert!(matches!(
            OffsetIndex::decode(BASE, &same_position),
            Err(FormatError::Entry { number: 1, .. })
        ));
        let mut negative = good;
        negative[0] = 0x80;
        assert!(matches!(
            OffsetIndex::decode(BASE, &negative),
            Err(FormatError::Entry { number: 0, .. })
        ));
    }

    #[test]
    fn entries_come_by_interval() {
        let mut index = OffsetIndex::new(Offset(0));
        // Kafka's rule: more than the interval since the last entry, counted before this batch.
        let mut made = Vec::new();
        for number in 0..10u32 {
            let last_offset = Offset(i64::from(number) * 10 + 9);
            if index
                .maybe_append(last_offset, number * 2048, 2048, 4096)
                .unwrap()
            {
                made.push(number);
            }
        }
        assert_eq!(made, [3, 6, 9]);
        assert_eq!(
            index.lookup(Offset(45)),
            OffsetPosition {
                offset: Offset(39),
                position: 3 * 2048
            }
        );
    }

    #[test]
    fn truncation_drops_the_exact_offset_too() {
        for (to, left) in [
            (1021, 2),
            (1022, 3),
            (1020, 1),
            (1010, 1),
            (1009, 0),
            (0, 0),
        ] {
            let mut index = filled();
            index.truncate_to(Offset(to));
            assert_eq!(index.len(), left, "to {to}");
        }
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let mut index = filled();
        assert!(matches!(
            index.append(Offset(1021), 20_000),
            Err(IndexRefusal::OutOfOrder { .. })
        ));
        assert!(matches!(
            index.append(Offset(999), 20_000),
            Err(IndexRefusal::OffsetOverflow { .. })
        ));
        let far = BASE.plus(i64::from(i32::MAX));
        assert!(index.can_hold(far) && !index.can_hold(far.plus(1)));
        index.append(far, 20_000).unwrap();
        assert_eq!(
            index.last(),
            Some(OffsetPosition {
                offset: far,
                position: 20_000
            })
        );
        assert!(index.is_full(32) && index.is_full(39) && !index.is_full(40));
    }

    #[test]
    fn apache_kafkas_file_is_read_and_written_again() {
        let bytes = include_bytes!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/kafka-4.4/small-0/00000000000000000000.index"
        ));
        let index = OffsetIndex::decode(Offset(0), bytes).unwrap();
        assert_eq!(index.len(), 5);
        assert_eq!(index.encode_from(0), bytes);
    }
}
