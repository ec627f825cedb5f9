//! Owns how each type looks on the wire, and the traits that generated messages have. Which field exists
//! in which version is not its business: that is generated (`generator/emit.rs`).

pub use bytes::Bytes;

pub use super::parts::Records;
pub use super::reader::{DecodeError, Reader};
pub use super::str::Str;
pub use super::uuid::Uuid;
pub use super::writer::{EncodeError, Writer};

type Decoded<T> = Result<T, DecodeError>;
type Encoded = Result<(), EncodeError>;

/// The version that is being read or written.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    pub version: i16,
    /// Lengths are compact and structs end with tagged fields (KIP-482).
    pub flexible: bool,
    /// The value is a tagged field's, where the mark ahead of a struct that may be null is another one.
    pub tagged: bool,
}

impl Context {
    pub fn tagged(self) -> Context {
        Context {
            tagged: true,
            ..self
        }
    }

    /// For the odd field that never became flexible.
    pub fn rigid(self) -> Context {
        Context {
            flexible: false,
            ..self
        }
    }

    pub fn lacks(self, structure: &'static str, field: &'static str) -> EncodeError {
        EncodeError::FieldNotInVersion {
            structure,
            field,
            version: self.version,
        }
    }

    pub fn required<'a, T>(
        self,
        value: &'a Option<T>,
        structure: &'static str,
        field: &'static str,
    ) -> Result<&'a T, EncodeError> {
        let version = self.version;
        value.as_ref().ok_or(EncodeError::NullNotInVersion {
            structure,
            field,
            version,
        })
    }
}

/// A type with a place on the wire.
pub trait Wire: Sized {
    fn read(reader: &mut Reader, context: Context) -> Decoded<Self>;
    fn write(&self, writer: &mut Writer, context: Context) -> Encoded;

    /// Null is a mark of its own ahead of structs, and a length of -1 for all that has a length.
    /// The mark is -1 or 1, in a tagged field 0 or 1.
    fn read_nullable(reader: &mut Reader, context: Context) -> Decoded<Option<Self>> {
        let present = if context.tagged {
            reader.uvarint()? > 0
        } else {
            reader.i8()? >= 0
        };
        let context = Context {
            tagged: false,
            ..context
        };
        if present {
            Self::read(reader, context).map(Some)
        } else {
            Ok(None)
        }
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, context: Context) -> Encoded {
        writer.i8(match value {
            Some(_) => 1,
            None if context.tagged => 0,
            None => -1,
        });
        let context = Context {
            tagged: false,
            ..context
        };
        value.map_or(Ok(()), |value| value.write(writer, context))
    }
}

/// A whole message or record.
pub trait Message: Wire + Default {
    const NAME: &'static str;
    const MIN_VERSION: i16;
    const MAX_VERSION: i16;
    /// `i16::MAX` where no version is flexible.
    const FIRST_FLEXIBLE: i16;

    /// What a version means for this message.
    fn context(version: i16) -> Option<Context> {
        (Self::MIN_VERSION..=Self::MAX_VERSION)
            .contains(&version)
            .then_some(Context {
                version,
                flexible: version >= Self::FIRST_FLEXIBLE,
                tagged: false,
            })
    }

    /// Reads one from where the reader stands; says nothing about what follows it.
    fn decode(reader: &mut Reader, version: i16) -> Result<Self, DecodeError> {
        let unsupported = DecodeError::UnsupportedVersion {
            message: Self::NAME,
            version,
        };
        Self::read(reader, Self::context(version).ok_or(unsupported)?)
    }

    /// Fails when a field that is not ignorable is set and the version lacks it.
    fn encode(&self, writer: &mut Writer, version: i16) -> Result<(), EncodeError> {
        let unsupported = EncodeError::UnsupportedVersion {
            message: Self::NAME,
            version,
        };
        self.write(writer, Self::context(version).ok_or(unsupported)?)
    }

    /// Encoded on its own. Not for messages with records in files.
    fn to_bytes(&self, version: i16) -> Result<Bytes, EncodeError> {
        let mut writer = Writer::new();
        self.encode(&mut writer, version)?;
        Ok(writer.into_bytes())
    }

    /// Decoded from bytes that hold it and nothing else.
    fn from_bytes(bytes: &Bytes, version: i16) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(bytes.clone());
        let message = Self::decode(&mut reader, version)?;
        reader.expect_end()?;
        Ok(message)
    }
}

pub trait Request: Message {
    const KEY: i16;
    type Response: Response;

    /// Version of the header ahead of it.
    fn header_version(version: i16) -> i16 {
        if version >= Self::FIRST_FLEXIBLE {
            2
        } else {
            1
        }
    }
}

pub trait Response: Message {
    const KEY: i16;

    /// Version of the header ahead of it. That of ApiVersions never changes, so that a client can read
    /// the answer to a version that the broker does not have (KIP-511).
    fn header_version(version: i16) -> i16 {
        let flexible = version >= Self::FIRST_FLEXIBLE && Self::KEY != API_VERSIONS;
        if flexible { 1 } else { 0 }
    }
}

pub(super) const API_VERSIONS: i16 = 18;

/// A record of the metadata log.
pub trait MetadataMessage: Message {
    const TYPE: i16;
}

/// Key of a coordinator's record.
pub trait CoordinatorKey: Message {
    const TYPE: i16;
}

/// Value of a coordinator's record.
pub trait CoordinatorValue: Message {
    /// That of its key.
    const TYPE: i16;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(
        impl Wire for $number {
            fn read(reader: &mut Reader, _: Context) -> Decoded<Self> {
                Ok(<$number>::from_be_bytes(reader.array()?))
            }

            fn write(&self, writer: &mut Writer, _: Context) -> Encoded {
                writer.slice(&self.to_be_bytes());
                Ok(())
            }
        }
    )* };
}

numbers!(i8, i16, i32, i64, u16, u32, f64);

impl Wire for bool {
    fn read(reader: &mut Reader, _: Context) -> Decoded<Self> {
        Ok(reader.u8()? != 0)
    }

    fn write(&self, writer: &mut Writer, _: Context) -> Encoded {
        writer.u8(u8::from(*self));
        Ok(())
    }
}

impl Wire for Uuid {
    fn read(reader: &mut Reader, _: Context) -> Decoded<Self> {
        Ok(Uuid(reader.array()?))
    }

    fn write(&self, writer: &mut Writer, _: Context) -> Encoded {
        writer.slice(&self.0);
        Ok(())
    }
}

/// Reading and writing of what is never null, in terms of the same with null.
macro_rules! never_null {
    () => {
        fn read(reader: &mut Reader, context: Context) -> Decoded<Self> {
            let position = reader.position();
            Self::read_nullable(reader, context)?.ok_or(DecodeError::UnexpectedNull { position })
        }

        fn write(&self, writer: &mut Writer, context: Context) -> Encoded {
            Self::write_nullable(Some(self), writer, context)
        }
    };
}

impl Wire for Str {
    never_null!();

    fn read_nullable(reader: &mut Reader, context: Context) -> Decoded<Option<Self>> {
        let Some(length) = reader.length(context, true)? else {
            return Ok(None);
        };
        let position = reader.position();
        if length > i16::MAX as usize {
            return Err(DecodeError::BadLength {
                position,
                length: length as i64,
            });
        }
        let text = Str::from_utf8(reader.slice(length)?);
        text.map(Some)
            .map_err(|_| DecodeError::BadText { position })
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, context: Context) -> Encoded {
        writer.length(context, true, value.map(|text| text.as_bytes().len()))?;
        writer.slice(value.map_or(&[], |text| text.as_bytes()));
        Ok(())
    }
}

impl Wire for Bytes {
    never_null!();

    fn read_nullable(reader: &mut Reader, context: Context) -> Decoded<Option<Self>> {
        reader
            .length(context, false)?
            .map(|length| reader.slice(length))
            .transpose()
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, context: Context) -> Encoded {
        writer.length(context, false, value.map(Bytes::len))?;
        writer.slice(value.map_or(&[], |bytes| bytes));
        Ok(())
    }
}

impl Wire for Records {
    never_null!();

    fn read_nullable(reader: &mut Reader, context: Context) -> Decoded<Option<Self>> {
        Ok(match reader.length(context, false)? {
            None => None,
            Some(0) => Some(Records::EMPTY),
            Some(length) => Some(reader.slice(length)?.into()),
        })
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, context: Context) -> Encoded {
        writer.length(context, false, value.map(Records::len))?;
        value
            .into_iter()
            .for_each(|records| writer.records(records));
        Ok(())
    }
}

impl<T: Wire> Wire for Vec<T> {
    never_null!();

    fn read_nullable(reader: &mut Reader, context: Context) -> Decoded<Option<Self>> {
        let Some(length) = reader.length(context, false)? else {
            return Ok(None);
        };
        let mut elements = Vec::with_capacity(capacity::<T>(length, reader.remaining()));
        for _ in 0..length {
            elements.push(T::read(reader, context)?);
        }
        Ok(Some(elements))
    }

    fn write_nullable(value: Option<&Self>, writer: &mut Writer, context: Context) -> Encoded {
        writer.length(context, false, value.map(Vec::len))?;
        value
            .into_iter()
            .flatten()
            .try_for_each(|element| element.write(writer, context))
    }
}

/// How many elements to reserve for. One is mostly larger here than on the wire: reserve what the frame's
/// own size pays for; beyond that the vector grows as elements really come.
fn capacity<T>(length: usize, remaining: usize) -> usize {
    length.min(remaining / size_of::<T>().max(1))
}

impl<T: Wire> Wire for Option<T> {
    fn read(reader: &mut Reader, context: Context) -> Decoded<Self> {
        T::read_nullable(reader, context)
    }

    fn write(&self, writer: &mut Writer, context: Context) -> Encoded {
        T::write_nullable(self.as_ref(), writer, context)
    }
}

/// The only frame version of metadata records.
const METADATA_FRAME_VERSION: u32 = 1;

/// Reads frame version, type and version, then hands over to `fields(reader, type, version)`.
pub(super) fn decode_metadata<T>(
    value: &Bytes,
    fields: impl FnOnce(&mut Reader, i16, i16) -> Decoded<T>,
) -> Decoded<T> {
    let mut reader = Reader::new(value.clone());
    let version = reader.uvarint()?;
    if version != METADATA_FRAME_VERSION {
        return Err(DecodeError::UnknownFrameVersion { version });
    }
    let mut short = || {
        let position = reader.position();
        i16::try_from(reader.uvarint()?).map_err(|_| DecodeError::BadVarint { position })
    };
    let (record_type, version) = (short()?, short()?);
    let record = fields(&mut reader, record_type, version)?;
    reader.expect_end()?;
    Ok(record)
}

pub(super) fn encode_metadata(
    record_type: i16,
    version: i16,
    fields: impl FnOnce(&mut Writer) -> Encoded,
) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    writer.uvarint(METADATA_FRAME_VERSION);
    writer.uvarint(record_type as u32);
    writer.uvarint(version as u32);
    fields(&mut writer)?;
    Ok(writer.into_bytes())
}

/// Reads the two bytes ahead of a coordinator's key or value, then hands over to `fields`.
pub(super) fn decode_prefixed<T>(
    bytes: &Bytes,
    fields: impl FnOnce(&mut Reader, i16) -> Decoded<T>,
) -> Decoded<T> {
    let mut reader = Reader::new(bytes.clone());
    let prefix = reader.i16()?;
    let record = fields(&mut reader, prefix)?;
    reader.expect_end()?;
    Ok(record)
}

pub(super) fn encode_prefixed(
    prefix: i16,
    fields: impl FnOnce(&mut Writer) -> Encoded,
) -> Result<Bytes, EncodeError> {
    let mut writer = Writer::new();
    writer.i16(prefix);
    fields(&mut writer)?;
    Ok(writer.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::messages::fetch_request::FetchTopic;

    #[test]
    fn an_array_reserves_no_more_than_its_frame_pays_for() {
        // 4 KiB whose first four bytes claim as many topics as bytes follow: the most that is believed.
        let mut frame = vec![0u8; 4096];
        frame[..4].copy_from_slice(&4092u32.to_be_bytes());
        let remaining = frame.len() - 4;
        assert!(remaining * size_of::<FetchTopic>() > 10 * frame.len());
        let context = Context {
            version: 4,
            flexible: false,
            tagged: false,
        };
        // A topic takes six bytes here, so reading ends short of the claim.
        let result = Reader::new(frame.clone().into()).get::<Vec<FetchTopic>>(context);
        assert!(matches!(result, Err(DecodeError::Truncated { .. })));
        assert!(capacity::<FetchTopic>(4092, remaining) * size_of::<FetchTopic>() <= remaining);

        // One more than the bytes that follow is not believed at all.
        frame[..4].copy_from_slice(&4093u32.to_be_bytes());
        let result = Reader::new(frame.into()).get::<Vec<i8>>(context);
        assert_eq!(
            result,
            Err(DecodeError::Truncated {
                position: 0,
                missing: 1
            })
        );
    }

    #[test]
    fn arrays_of_numbers_are_reserved_exactly() {
        assert_eq!(capacity::<i32>(10, 40), 10);
        assert_eq!(capacity::<i8>(10, 10), 10);
    }
}
