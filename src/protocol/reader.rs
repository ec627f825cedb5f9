//! Owns reading a frame: numbers, lengths, slices. It never copies what is long, never reserves memory
//! on the word of a length, and answers every malformed input with an error.

use bytes::Bytes;

use super::wire::{Context, Wire};

/// Why bytes are not the message that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("ends {missing} bytes short at byte {position}")]
    Truncated { position: usize, missing: usize },
    #[error("length {length} at byte {position} is not possible")]
    BadLength { position: usize, length: i64 },
    #[error("null at byte {position} where none may be")]
    UnexpectedNull { position: usize },
    #[error("text at byte {position} is not UTF-8")]
    BadText { position: usize },
    #[error("number at byte {position} is longer than its type")]
    BadVarint { position: usize },
    #[error("tagged field {tag} does not fill its size, at byte {position}")]
    BadTag { position: usize, tag: u32 },
    #[error("{remaining} bytes are left over")]
    LeftOver { remaining: usize },
    #[error("{message} has no version {version}")]
    UnsupportedVersion { message: &'static str, version: i16 },
    #[error("API key {key} is not known")]
    UnknownApi { key: i16 },
    #[error("record type {record_type} is not known")]
    UnknownRecordType { record_type: i16 },
    #[error("frame version {version} of a metadata record is not known")]
    UnknownFrameVersion { version: u32 },
}

/// A place in a frame. Slices taken from it share the frame's memory.
#[derive(Debug, Clone)]
pub struct Reader {
    frame: Bytes,
    position: usize,
    /// Nothing at or past this byte is read: the end of the frame or of a tagged field.
    end: usize,
}

type Decoded<T> = Result<T, DecodeError>;

impl Reader {
    pub fn new(frame: Bytes) -> Reader {
        Reader {
            position: 0,
            end: frame.len(),
            frame,
        }
    }

    pub fn remaining(&self) -> usize {
        self.end - self.position
    }

    pub fn position(&self) -> usize {
        self.position
    }

    /// An error when anything is left.
    pub fn expect_end(&self) -> Decoded<()> {
        match self.remaining() {
            0 => Ok(()),
            remaining => Err(DecodeError::LeftOver { remaining }),
        }
    }

    pub fn get<T: Wire>(&mut self, context: Context) -> Decoded<T> {
        T::read(self, context)
    }

    pub fn u8(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }

    pub fn i8(&mut self) -> Decoded<i8> {
        Ok(self.u8()? as i8)
    }

    pub fn i16(&mut self) -> Decoded<i16> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    pub fn i32(&mut self) -> Decoded<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    pub fn i64(&mut self) -> Decoded<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// Up to five bytes of seven bits, the lowest first (KIP-482).
    pub fn uvarint(&mut self) -> Decoded<u32> {
        let position = self.position;
        let mut value = 0u32;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.u8()?;
            if shift == 28 && byte > 0x0f {
                break;
            }
            value |= u32::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::BadVarint { position })
    }

    /// Zigzag, as records have it.
    pub fn varint(&mut self) -> Decoded<i32> {
        let value = self.uvarint()?;
        Ok((value >> 1) as i32 ^ -((value & 1) as i32))
    }

    /// Zigzag in up to ten bytes.
    pub fn varlong(&mut self) -> Decoded<i64> {
        let position = self.position;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            let byte = self.u8()?;
            if shift == 63 && byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok((value >> 1) as i64 ^ -((value & 1) as i64));
            }
        }
        Err(DecodeError::BadVarint { position })
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let start = self.advance(N)?;
        Ok(self.frame[start..start + N].try_into().expect("N bytes"))
    }

    /// The next `length` bytes, shared with the frame.
    pub fn slice(&mut self, length: usize) -> Decoded<Bytes> {
        let start = self.advance(length)?;
        Ok(self.frame.slice(start..start + length))
    }

    /// All that is left, shared with the frame.
    pub fn rest(&mut self) -> Bytes {
        let start = std::mem::replace(&mut self.position, self.end);
        self.frame.slice(start..self.end)
    }

    fn advance(&mut self, length: usize) -> Decoded<usize> {
        let start = self.position;
        if length > self.remaining() {
            let missing = length - self.remaining();
            return Err(DecodeError::Truncated {
                position: start,
                missing,
            });
        }
        self.position += length;
        Ok(start)
    }

    /// Length of what follows, `None` for null. `short` lengths are two bytes where they are not compact.
    /// A length greater than what remains is an error, so that callers may trust it.
    pub(super) fn length(&mut self, context: Context, short: bool) -> Decoded<Option<usize>> {
        let position = self.position;
        let length = if context.flexible {
            i64::from(self.uvarint()?) - 1
        } else if short {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        match usize::try_from(length) {
            Ok(length) if length <= self.remaining() => Ok(Some(length)),
            Ok(length) => {
                let missing = length - self.remaining();
                Err(DecodeError::Truncated { position, missing })
            }
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(DecodeError::BadLength { position, length }),
        }
    }

    /// Reads the tagged fields that end a struct. `field` reads the one it is asked for and says true,
    /// or says false to have it skipped.
    pub fn tags(
        &mut self,
        context: Context,
        mut field: impl FnMut(&mut Reader, u32) -> Decoded<bool>,
    ) -> Decoded<()> {
        if !context.flexible {
            return Ok(());
        }
        for _ in 0..self.uvarint()? {
            let tag = self.uvarint()?;
            let size = self.uvarint()? as usize;
            let start = self.advance(size)?;
            self.position = start;
            let outer_end = std::mem::replace(&mut self.end, start + size);
            let known = field(self, tag)?;
            let filled = self.position == self.end;
            self.end = outer_end;
            self.position = start + size;
            if known && !filled {
                return Err(DecodeError::BadTag {
                    position: start,
                    tag,
                });
            }
        }
        Ok(())
    }

    pub fn skip_tags(&mut self, context: Context) -> Decoded<()> {
        self.tags(context, |_, _| Ok(false))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(bytes: &'static [u8]) -> Reader {
        Reader::new(Bytes::from_static(bytes))
    }

    #[test]
    fn varints_at_their_edges() {
        assert_eq!(
            reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).uvarint(),
            Ok(u32::MAX)
        );
        assert!(reader(&[0xff, 0xff, 0xff, 0xff, 0x1f]).uvarint().is_err());
        assert!(reader(&[0xff; 6]).uvarint().is_err());
        assert_eq!(reader(&[1]).varint(), Ok(-1));
        assert_eq!(
            reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).varint(),
            Ok(i32::MIN)
        );
        let longest = &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(reader(longest).varlong(), Ok(i64::MIN));
        assert!(reader(&[0xff; 11]).varlong().is_err());
    }

    #[test]
    fn a_tagged_field_cannot_read_past_its_size() {
        let context = Context {
            version: 0,
            flexible: true,
            tagged: false,
        };
        let mut reader = reader(&[1, 0, 2, 0, 0, 0, 9]);
        let result = reader.tags(context, |r, _| r.i32().map(|_| true));
        assert!(matches!(result, Err(DecodeError::Truncated { .. })));
    }
}
