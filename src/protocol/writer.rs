//! Owns writing a frame: a growing buffer with pieces of elsewhere spliced in, so that records are sent
//! from where they lie. It never copies records of more than `COPIED_MAX` bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::parts::{Part, Parts, Records};
use super::wire::{Context, Wire};

/// Records up to this size are cheaper to copy than to send as a piece of their own.
const COPIED_MAX: usize = 512;

/// Why a message cannot be written in a version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("{message} has no version {version}")]
    UnsupportedVersion { message: &'static str, version: i16 },
    #[error("{structure}.{field} is set and version {version} cannot carry it")]
    FieldNotInVersion {
        structure: &'static str,
        field: &'static str,
        version: i16,
    },
    #[error("{structure}.{field} is null and version {version} cannot carry that")]
    NullNotInVersion {
        structure: &'static str,
        field: &'static str,
        version: i16,
    },
    #[error("{length} bytes or elements are too many for one field")]
    TooLong { length: usize },
}

#[derive(Debug)]
pub struct Writer {
    /// Where writing goes on.
    head: BytesMut,
    /// What comes before `head`.
    done: Vec<Piece>,
    done_length: usize,
    is_frame: bool,
}

#[derive(Debug)]
enum Piece {
    Written(BytesMut),
    Spliced(Part),
}

impl Default for Writer {
    fn default() -> Writer {
        Writer::new()
    }
}

impl Writer {
    pub fn new() -> Writer {
        Writer {
            head: BytesMut::with_capacity(256),
            done: Vec::new(),
            done_length: 0,
            is_frame: false,
        }
    }

    /// Begins with the four bytes of length that go ahead of requests and responses; `finish` fills them in.
    pub fn frame() -> Writer {
        let mut writer = Writer::new();
        writer.is_frame = true;
        writer.head.put_i32(0);
        writer
    }

    /// Bytes so far, spliced ones and a frame's length included.
    pub fn len(&self) -> usize {
        self.done_length + self.head.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pieces in order.
    pub fn finish(mut self) -> Parts {
        if self.is_frame {
            let length = (self.len() - 4) as u32;
            let first = match self.done.first_mut() {
                Some(Piece::Written(first)) => first,
                Some(Piece::Spliced(_)) => unreachable!("a frame begins with its length"),
                None => &mut self.head,
            };
            first[..4].copy_from_slice(&length.to_be_bytes());
        }
        let is_all = self.done.is_empty();
        let done = self.done.into_iter().map(|piece| match piece {
            Piece::Written(bytes) => Part::Memory(bytes.freeze()),
            Piece::Spliced(part) => part,
        });
        let last = match self.head {
            head if head.is_empty() => None,
            // Frozen it would keep all of the buffer, and take a count of its sharers beside.
            head if is_all && head.len() <= COPIED_MAX => Some(Bytes::copy_from_slice(&head)),
            head => Some(head.freeze()),
        };
        done.chain(last.map(Part::Memory)).collect()
    }

    /// All of it in one piece, for messages without records in files.
    ///
    /// # Panics
    /// When a part lies in a file.
    pub fn into_bytes(self) -> Bytes {
        Records::from(self.finish()).to_bytes()
    }

    pub fn put<T: Wire>(&mut self, value: &T, context: Context) -> Result<(), EncodeError> {
        value.write(self, context)
    }

    pub fn u8(&mut self, value: u8) {
        self.head.put_u8(value);
    }

    pub fn i8(&mut self, value: i8) {
        self.head.put_i8(value);
    }

    pub fn i16(&mut self, value: i16) {
        self.head.put_i16(value);
    }

    pub fn i32(&mut self, value: i32) {
        self.head.put_i32(value);
    }

    pub fn i64(&mut self, value: i64) {
        self.head.put_i64(value);
    }

    pub fn uvarint(&mut self, value: u32) {
        put_uvarint(&mut self.head, value);
    }

    pub fn slice(&mut self, bytes: &[u8]) {
        self.head.put_slice(bytes);
    }

    /// Records: copied when short, else sent from where they lie.
    pub fn records(&mut self, records: &Records) {
        for part in records.parts() {
            match part {
                Part::Memory(bytes) if bytes.len() <= COPIED_MAX => self.slice(bytes),
                part => self.splice(part.clone()),
            }
        }
    }

    fn splice(&mut self, part: Part) {
        if !self.head.is_empty() {
            let written = self.head.split();
            self.done_length += written.len();
            self.done.push(Piece::Written(written));
        }
        self.done_length += part.len();
        self.done.push(Piece::Spliced(part));
    }

    /// Length of what follows, `None` for null; the mirror of `Reader::length`.
    pub(super) fn length(
        &mut self,
        context: Context,
        short: bool,
        length: Option<usize>,
    ) -> Result<(), EncodeError> {
        let limit = if short {
            i16::MAX as usize
        } else {
            i32::MAX as usize - 1
        };
        if let Some(length) = length.filter(|length| *length > limit) {
            return Err(EncodeError::TooLong { length });
        }
        if context.flexible {
            self.uvarint(length.map_or(0, |length| length as u32 + 1));
        } else if short {
            self.i16(length.map_or(-1, |length| length as i16));
        } else {
            self.i32(length.map_or(-1, |length| length as i32));
        }
        Ok(())
    }

    /// Begins a struct's tagged fields with a count of none. The answer is for `tag`.
    pub fn begin_tags(&mut self) -> usize {
        self.u8(0);
        self.len() - 1
    }

    /// Adds a tagged field, in the order of tags.
    pub fn tag<T: Wire>(
        &mut self,
        tags: usize,
        tag: u32,
        value: &T,
        context: Context,
    ) -> Result<(), EncodeError> {
        let count = tags - self.done_length;
        self.head[count] += 1;
        // Tables have a handful of tagged fields, so their count is one byte.
        assert!(self.head[count] < 0x80);
        self.uvarint(tag);
        let start = self.head.len();
        value.write(self, context)?;
        // The size goes ahead of the value and is known only now: move the value up to make room.
        let end = self.head.len();
        self.uvarint((end - start) as u32);
        self.head[start..].rotate_left(end - start);
        Ok(())
    }

    pub fn no_tags(&mut self, context: Context) {
        if context.flexible {
            self.u8(0);
        }
    }
}

/// Up to five bytes of seven bits, the lowest first (KIP-482).
pub fn put_uvarint(out: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_records_are_spliced_and_short_ones_copied() {
        let long = Bytes::from(vec![7u8; COPIED_MAX + 1]);
        let mut writer = Writer::frame();
        writer.i16(1);
        writer.records(&Records::from(long.clone()));
        writer.records(&Records::from(Bytes::from_static(b"short")));
        assert_eq!(writer.len(), 4 + 2 + long.len() + 5);
        let parts = writer.finish();
        assert_eq!(parts.len(), 3);
        let Part::Memory(head) = &parts[0] else {
            panic!("memory first")
        };
        assert_eq!(head[..4], (2 + long.len() as u32 + 5).to_be_bytes());
        let Part::Memory(spliced) = &parts[1] else {
            panic!("memory second")
        };
        assert_eq!(spliced.as_ptr(), long.as_ptr());
    }
}
