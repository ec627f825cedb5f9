//! Owns `Records`: the value of a `records` field, in pieces that lie in memory or in files.
//! It never looks inside; `batch` does.

use bytes::{Bytes, BytesMut};
use smallvec::{SmallVec, smallvec};

use crate::io::FileRange;

/// A piece of something to be sent.
#[derive(Clone, Debug)]
pub enum Part {
    Memory(Bytes),
    File(FileRange),
}

/// Mostly one, which needs no memory of its own.
pub type Parts = SmallVec<[Part; 1]>;

impl Part {
    pub fn len(&self) -> usize {
        match self {
            Part::Memory(bytes) => bytes.len(),
            Part::File(range) => range.length as usize,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl PartialEq for Part {
    /// File ranges are the same when they are the same bytes of the same open file.
    fn eq(&self, other: &Part) -> bool {
        match (self, other) {
            (Part::Memory(left), Part::Memory(right)) => left == right,
            (Part::File(left), Part::File(right)) => left.is_same(right),
            (Part::Memory(_), Part::File(_)) | (Part::File(_), Part::Memory(_)) => false,
        }
    }
}

/// The value of a `records` field: whole record batches on the way in, on the way out perhaps cut short.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Records {
    parts: Parts,
}

impl Records {
    pub const EMPTY: Records = Records {
        parts: Parts::new_const(),
    };

    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Bytes of those parts that lie in memory.
    pub fn memory_len(&self) -> usize {
        let parts = self.parts.iter();
        let in_memory = parts.filter(|part| matches!(part, Part::Memory(_)));
        in_memory.map(Part::len).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.parts.iter().all(Part::is_empty)
    }

    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    pub fn push(&mut self, part: Part) {
        self.parts.push(part);
    }

    /// As [`Records::to_bytes`].
    pub fn into_bytes(mut self) -> Bytes {
        match (self.parts.len(), self.parts.pop()) {
            (1, Some(Part::Memory(bytes))) => bytes,
            (_, last) => {
                self.parts.extend(last);
                self.to_bytes()
            }
        }
    }

    /// What of the bytes lies in memory in one piece from the first on.
    pub fn as_slice(&self) -> &[u8] {
        match self.parts.first() {
            Some(Part::Memory(bytes)) => bytes,
            _ => &[],
        }
    }

    /// The bytes in one piece: shared when they are one already, else copied.
    ///
    /// # Panics
    /// When a part lies in a file.
    pub fn to_bytes(&self) -> Bytes {
        let memory = |part: &Part| match part {
            Part::Memory(bytes) => bytes.clone(),
            Part::File(_) => panic!("records in a file have no bytes at hand"),
        };
        match self.parts.as_slice() {
            [] => Bytes::new(),
            [only] => memory(only),
            parts => {
                let mut all = BytesMut::with_capacity(self.len());
                parts
                    .iter()
                    .for_each(|part| all.extend_from_slice(&memory(part)));
                all.freeze()
            }
        }
    }
}

impl From<Bytes> for Records {
    fn from(bytes: Bytes) -> Records {
        Records {
            parts: smallvec![Part::Memory(bytes)],
        }
    }
}

impl From<Parts> for Records {
    fn from(parts: Parts) -> Records {
        Records { parts }
    }
}

impl From<FileRange> for Records {
    fn from(range: FileRange) -> Records {
        Records {
            parts: smallvec![Part::File(range)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_in_one_piece_are_not_copied_and_others_are_joined() {
        let one = Bytes::from_static(b"one");
        let taken = Records::from(one.clone());
        assert_eq!(taken.as_slice(), b"one");
        assert_eq!(taken.into_bytes().as_ptr(), one.as_ptr());
        let parts = [
            one,
            Bytes::from_static(b"two"),
            Bytes::from_static(b"three"),
        ];
        let several = Records::from(Parts::from_iter(parts.map(Part::Memory)));
        assert_eq!(several.as_slice(), b"one");
        assert_eq!(several.into_bytes(), "onetwothree");
        assert_eq!(Records::EMPTY.into_bytes(), "");
        assert_eq!(Records::EMPTY.as_slice(), b"");
    }
}
