//! Owns the aborted transactions of one segment (`<base offset>.txnindex`), which a fetch with
//! isolation level read_committed answers. Nothing while there are none. No I/O.
//!
//! The file is a row of 34-byte big-endian entries: version 0 (2 bytes), producer id, first offset,
//! last offset (the marker's), last stable offset when the marker came (8 bytes each).

use zerocopy::byteorder::big_endian::{I16, I64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::checkpoints::FormatError;
use crate::ids::{Offset, ProducerId};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AbortedTransaction {
    pub producer_id: ProducerId,
    pub first_offset: Offset,
    /// The offset of the abort marker.
    pub last_offset: Offset,
    pub last_stable_offset: Offset,
}

/// What a search in one segment found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AbortedSearch {
    pub aborted: Vec<AbortedTransaction>,
    /// Whether later segments can't add to it.
    pub complete: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TransactionIndex {
    entries: Vec<AbortedTransaction>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    version: I16,
    producer_id: I64,
    first_offset: I64,
    last_offset: I64,
    last_stable_offset: I64,
}

impl TransactionIndex {
    pub const ENTRY_BYTES: usize = size_of::<RawEntry>();

    pub fn new() -> TransactionIndex {
        TransactionIndex::default()
    }

    /// Reads a whole file of the segment that starts at `base_offset`.
    pub fn decode(base_offset: Offset, bytes: &[u8]) -> Result<TransactionIndex, FormatError> {
        let raw_entries = <[RawEntry]>::ref_from_bytes(bytes).map_err(|_| FormatError::Length {
            length: bytes.len(),
            entry_bytes: Self::ENTRY_BYTES,
        })?;
        let mut index = TransactionIndex {
            entries: Vec::with_capacity(raw_entries.len()),
        };
        for (number, raw) in raw_entries.iter().enumerate() {
            if raw.version.get() != 0 {
                return Err(FormatError::Version {
                    found: raw.version.get().into(),
                    expected: 0,
                });
            }
            let entry = AbortedTransaction {
                producer_id: ProducerId(raw.producer_id.get()),
                first_offset: Offset(raw.first_offset.get()),
                last_offset: Offset(raw.last_offset.get()),
                last_stable_offset: Offset(raw.last_stable_offset.get()),
            };
            if entry.last_offset < base_offset || entry.last_offset < entry.first_offset {
                return Err(FormatError::Entry {
                    number,
                    problem: "ends before the segment or before itself",
                });
            }
            if index
                .entries
                .last()
                .is_some_and(|before| entry.last_offset <= before.last_offset)
            {
                return Err(FormatError::Entry {
                    number,
                    problem: "does not come after the one before it",
                });
            }
            index.entries.push(entry);
        }
        Ok(index)
    }

    /// The file's bytes from entry number `first` on: 0 for the whole file, a former `len()` for
    /// what has been added since.
    pub fn encode_from(&self, first: usize) -> Vec<u8> {
        let mut bytes =
            Vec::with_capacity(self.entries.len().saturating_sub(first) * Self::ENTRY_BYTES);
        for entry in self.entries.iter().skip(first) {
            let raw = RawEntry {
                version: 0.into(),
                producer_id: entry.producer_id.0.into(),
                first_offset: entry.first_offset.0.into(),
                last_offset: entry.last_offset.0.into(),
                last_stable_offset: entry.last_stable_offset.0.into(),
            };
            bytes.extend_from_slice(raw.as_bytes());
        }
        bytes
    }

    /// Adds a transaction whose abort marker has just been appended to the segment.
    pub fn append(&mut self, aborted: AbortedTransaction) {
        let last = self.entries.last();
        assert!(
            last.is_none_or(|last| last.last_offset < aborted.last_offset),
            "markers come in order"
        );
        self.entries.push(aborted);
    }

    /// The aborted transactions with records in `from` (inclusive) to `upto` (exclusive).
    pub fn search(&self, from: Offset, upto: Offset) -> AbortedSearch {
        let mut aborted = Vec::new();
        for entry in &self.entries {
            if entry.last_offset >= from && entry.first_offset < upto {
                aborted.push(*entry);
            }
            // All before the stable offset was decided by then; nothing behind it reaches back further.
            if entry.last_stable_offset >= upto {
                return AbortedSearch {
                    aborted,
                    complete: true,
                };
            }
        }
        AbortedSearch {
            aborted,
            complete: false,
        }
    }

    /// Forgets all that ended at or above `offset`. The caller truncates the file to `encoded_len`.
    pub fn truncate_to(&mut self, offset: Offset) {
        let keep = self
            .entries
            .partition_point(|entry| entry.last_offset < offset);
        self.entries.truncate(keep);
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

    pub fn iter(&self) -> impl ExactSizeIterator<Item = AbortedTransaction> + '_ {
        self.entries.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn aborted(first: i64, last: i64, stable: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(7),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(stable),
        }
    }

    fn filled() -> TransactionIndex {
        let mut index = TransactionIndex::new();
        for entry in [
            aborted(0, 10, 11),
            aborted(5, 15, 13),
            aborted(18, 35, 25),
            aborted(32, 50, 40),
        ] {
            index.append(entry);
        }
        index
    }

    #[test]
    fn bytes_are_kafkas() {
        let mut index = TransactionIndex::new();
        index.append(aborted(15, 16, 17));
        let bytes = index.encode_from(0);
        let mut expected = vec![0u8; 34];
        for (place, value) in [(9, 7), (17, 15), (25, 16), (33, 17)] {
            expected[place] = value;
        }
        assert_eq!(bytes, expected);
        assert_eq!(TransactionIndex::decode(Offset(0), &bytes).unwrap(), index);
        let all = filled();
        assert_eq!(
            TransactionIndex::decode(Offset(0), &all.encode_from(0)).unwrap(),
            all
        );
        assert_eq!(all.encode_from(3), all.encode_from(0)[3 * 34..]);
    }

    #[test]
    fn damage_is_told() {
        let bytes = filled().encode_from(0);
        assert!(matches!(
            TransactionIndex::decode(Offset(0), &bytes[1..]),
            Err(FormatError::Length { .. })
        ));
        assert!(matches!(
            TransactionIndex::decode(Offset(11), &bytes),
            Err(FormatError::Entry { number: 0, .. })
        ));
        let mut newer = bytes.clone();
        newer[1] = 1;
        assert!(matches!(
            TransactionIndex::decode(Offset(0), &newer),
            Err(FormatError::Version { .. })
        ));
        let mut swapped = bytes;
        swapped[..68].rotate_left(34);
        assert!(matches!(
            TransactionIndex::decode(Offset(0), &swapped),
            Err(FormatError::Entry { number: 1, .. })
        ));
    }

    #[test]
    fn search_finds_what_overlaps_and_knows_when_it_is_done() {
        let found = |from, upto| {
            let search = filled().search(Offset(from), Offset(upto));
            let lasts: Vec<i64> = search
                .aborted
                .iter()
                .map(|entry| entry.last_offset.0)
                .collect();
            (lasts, search.complete)
        };
        assert_eq!(found(0, 100), (vec![10, 15, 35, 50], false));
        assert_eq!(found(0, 32), (vec![10, 15, 35], true));
        assert_eq!(found(0, 35), (vec![10, 15, 35, 50], true));
        assert_eq!(found(10, 35), (vec![10, 15, 35, 50], true));
        assert_eq!(found(11, 35), (vec![15, 35, 50], true));
        assert_eq!(found(20, 41), (vec![35, 50], false));
    }

    #[test]
    fn truncation_drops_the_exact_marker_too() {
        for (to, left) in [(51, 4), (50, 3), (36, 3), (10, 0)] {
            let mut index = filled();
            index.truncate_to(Offset(to));
            assert_eq!(index.len(), left);
        }
    }
}
