//! Owns the journal's bytes: the file's header, and frames, one a device write, of entries, one a log. A frame proves
//! where it stands and when it was written, an entry whose it is. Pure: it touches no file.

use bytes::Bytes;
use zerocopy::byteorder::little_endian::{I32, I64, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ids::{Offset, PartitionIndex};
use crate::io::{AppendBuffer, BLOCK};
use crate::protocol::Uuid;
use crate::protocol::checksum::crc32c;

const FILE_MAGIC: [u8; 8] = *b"CoatiJnl";
const FRAME_MAGIC: u32 = 0x4d52_464a; // "JFRM"
const VERSION: u32 = 1;
const CRC_END: usize = 8;

/// Whose records an entry has.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct JournalKey {
    pub topic_id: Uuid,
    pub partition: PartitionIndex,
}

/// Batches of one log as they lie in it, one behind the other: an entry's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct JournaledRun {
    pub from: Offset,
    /// Behind the last record.
    pub to: Offset,
    /// Where the log began when this was written.
    pub log_start: Offset,
    pub batches: Bytes,
}

/// Stands alone in the file's first block.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFile {
    magic: [u8; 8],
    generation: U64,
    version: U32,
    zone_bytes: U32,
    crc: U32,
}

/// What a journal file says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FileHeader {
    /// Of this file, a random number: no frame of another is taken for one of its.
    pub(super) generation: u64,
    pub(super) zone_bytes: u32,
}

impl FileHeader {
    pub(super) fn encode(self) -> AppendBuffer {
        let mut raw = RawFile {
            magic: FILE_MAGIC,
            generation: self.generation.into(),
            version: VERSION.into(),
            zone_bytes: self.zone_bytes.into(),
            crc: 0.into(),
        };
        let covered = raw.as_bytes().len() - size_of::<U32>();
        raw.crc = crc32c(&raw.as_bytes()[..covered]).into();
        let mut block = AppendBuffer::with_capacity(BLOCK);
        block.append(raw.as_bytes());
        pad(&mut block);
        block
    }

    /// None: not a journal that was ever ready.
    pub(super) fn decode(block: &[u8]) -> Option<FileHeader> {
        let (raw, _) = RawFile::ref_from_prefix(block).ok()?;
        let covered = size_of::<RawFile>() - size_of::<U32>();
        let is_sound = raw.magic == FILE_MAGIC
            && raw.version.get() == VERSION
            && raw.crc.get() == crc32c(&block[..covered])
            && raw.zone_bytes.get() > 0
            && (raw.zone_bytes.get() as usize).is_multiple_of(BLOCK);
        is_sound.then(|| FileHeader {
            generation: raw.generation.get(),
            zone_bytes: raw.zone_bytes.get(),
        })
    }
}

/// Where and when a frame is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) generation: u64,
    /// Of the zone's use: it grows with each zone that is begun.
    pub(super) sequence: u64,
    /// No zone begun before this one is needed any more.
    pub(super) floor: u64,
    /// In the file.
    pub(super) position: u64,
    /// Counts the frames of the zone's use from 0.
    pub(super) number: u32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawFrame {
    magic: U32,
    /// Of all that follows, up to `length`.
    crc: U32,
    generation: U64,
    sequence: U64,
    floor: U64,
    position: U64,
    number: U32,
    /// With this header, without what fills the last block.
    length: U32,
    entries: U32,
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, Clone, Copy)]
#[repr(C)]
struct RawEntry {
    topic_id: [u8; 16],
    partition: I32,
    /// Of the batches behind it.
    length: U32,
    from: I64,
    to: I64,
    log_start: I64,
}

pub(super) const FRAME_HEADER_BYTES: usize = size_of::<RawFrame>();
pub(super) const ENTRY_HEADER_BYTES: usize = size_of::<RawEntry>();

/// A frame being put together in one aligned buffer.
pub(super) struct FrameBuilder {
    buffer: AppendBuffer,
    entries: u32,
}

impl FrameBuilder {
    /// `length`: of headers and batches together.
    pub(super) fn new(length: usize) -> FrameBuilder {
        let mut buffer = AppendBuffer::with_capacity(length.next_multiple_of(BLOCK));
        buffer.append(&[0; FRAME_HEADER_BYTES]);
        FrameBuilder { buffer, entries: 0 }
    }

    /// Begins an entry; `length` bytes of batches follow by `append`.
    pub(super) fn entry(
        &mut self,
        key: JournalKey,
        offsets: std::ops::Range<Offset>,
        log_start: Offset,
        length: usize,
    ) {
        self.entries += 1;
        let raw = RawEntry {
            topic_id: key.topic_id.0,
            partition: key.partition.0.into(),
            length: (length as u32).into(),
            from: offsets.start.0.into(),
            to: offsets.end.0.into(),
            log_start: log_start.0.into(),
        };
        self.buffer.append(raw.as_bytes());
    }

    pub(super) fn append(&mut self, batches: &[u8]) {
        self.buffer.append(batches);
    }

    /// The whole frame, filled up to a block.
    pub(super) fn finish(mut self, place: Place) -> Bytes {
        let length = self.buffer.len();
        let mut raw = RawFrame {
            magic: FRAME_MAGIC.into(),
            crc: 0.into(),
            generation: place.generation.into(),
            sequence: place.sequence.into(),
            floor: place.floor.into(),
            position: place.position.into(),
            number: place.number.into(),
            length: (length as u32).into(),
            entries: self.entries.into(),
        };
        self.buffer.patch(0, raw.as_bytes());
        raw.crc = crc32c(self.buffer.peek(CRC_END..length)).into();
        self.buffer.patch(0, raw.as_bytes());
        pad(&mut self.buffer);
        self.buffer.slice(0..self.buffer.len())
    }
}

fn pad(buffer: &mut AppendBuffer) {
    let over = buffer.len() % BLOCK;
    if over > 0 {
        buffer.append(&[0; BLOCK][over..]);
    }
}

/// A frame that proved itself.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) place: Place,
    /// In the file, with what fills the last block.
    pub(super) stored_bytes: usize,
    pub(super) entries: Vec<(JournalKey, JournaledRun)>,
}

/// Reads the frame at the start of `bytes`, which lie at `position` of a file of this generation. None: there is no
/// whole one, or it was written elsewhere or in another time. `trusting` leaves the checksum out, to see it missed.
pub(super) fn decode(
    bytes: &Bytes,
    generation: u64,
    position: u64,
    trusting: bool,
) -> Option<Frame> {
    let (raw, _) = RawFrame::ref_from_prefix(bytes).ok()?;
    let length = raw.length.get() as usize;
    let is_here = raw.magic.get() == FRAME_MAGIC
        && raw.generation.get() == generation
        && raw.position.get() == position
        && (FRAME_HEADER_BYTES..=bytes.len()).contains(&length);
    if !is_here || (!trusting && raw.crc.get() != crc32c(&bytes[CRC_END..length])) {
        return None;
    }
    let mut entries = Vec::new();
    let mut at = FRAME_HEADER_BYTES;
    for _ in 0..raw.entries.get() {
        let (entry, _) = RawEntry::ref_from_prefix(bytes.get(at..length)?).ok()?;
        let start = at + ENTRY_HEADER_BYTES;
        let end = start.checked_add(entry.length.get() as usize)?;
        if end > length {
            return None;
        }
        let key = JournalKey {
            topic_id: Uuid(entry.topic_id),
            partition: PartitionIndex(entry.partition.get()),
        };
        let run = JournaledRun {
            from: Offset(entry.from.get()),
            to: Offset(entry.to.get()),
            log_start: Offset(entry.log_start.get()),
            batches: bytes.slice(start..end),
        };
        entries.push((key, run));
        at = end;
    }
    Some(Frame {
        place: Place {
            generation,
            sequence: raw.sequence.get(),
            floor: raw.floor.get(),
            position,
            number: raw.number.get(),
        },
        stored_bytes: length.next_multiple_of(BLOCK),
        entries,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: JournalKey = JournalKey {
        topic_id: Uuid([7; 16]),
        partition: PartitionIndex(3),
    };
    const PLACE: Place = Place {
        generation: 11,
        sequence: 5,
        floor: 4,
        position: 8192,
        number: 2,
    };

    fn frame() -> Bytes {
        let length = FRAME_HEADER_BYTES + 2 * ENTRY_HEADER_BYTES + 5000 + 10;
        let mut builder = FrameBuilder::new(length);
        builder.entry(KEY, Offset(10)..Offset(20), Offset(0), 5000);
        builder.append(&[1; 5000]);
        builder.entry(KEY, Offset(20)..Offset(21), Offset(3), 10);
        builder.append(&[2; 10]);
        builder.finish(PLACE)
    }

    #[test]
    fn what_is_written_is_read() {
        let bytes = frame();
        assert_eq!(bytes.len(), 2 * BLOCK);
        let frame = decode(&bytes, 11, 8192, false).unwrap();
        assert_eq!(frame.place, PLACE);
        assert_eq!(frame.stored_bytes, bytes.len());
        let (key, run) = &frame.entries[1];
        assert_eq!(*key, KEY);
        assert_eq!((run.from, run.to), (Offset(20), Offset(21)));
        assert_eq!(run.log_start, Offset(3));
        assert_eq!(&run.batches[..], [2; 10]);
    }

    #[test]
    fn what_is_torn_or_of_elsewhere_is_no_frame() {
        let bytes = frame();
        assert!(decode(&bytes, 12, 8192, false).is_none());
        assert!(decode(&bytes, 11, 4096, false).is_none());
        assert!(decode(&bytes.slice(..BLOCK), 11, 8192, false).is_none());
        assert!(decode(&Bytes::from(vec![0; BLOCK]), 11, 8192, false).is_none());
        let used = FRAME_HEADER_BYTES + 2 * ENTRY_HEADER_BYTES + 5010;
        for at in (0..used).step_by(61) {
            let mut torn = bytes.to_vec();
            torn[at] ^= 1;
            assert!(decode(&torn.into(), 11, 8192, false).is_none(), "{at}");
        }
    }

    #[test]
    fn a_file_says_what_it_is() {
        let header = FileHeader {
            generation: 99,
            zone_bytes: 1 << 20,
        };
        let block = header.encode();
        let mut bytes = block.peek(0..BLOCK).to_vec();
        assert_eq!(FileHeader::decode(&bytes), Some(header));
        bytes[9] ^= 1;
        assert_eq!(FileHeader::decode(&bytes), None);
        assert_eq!(FileHeader::decode(&[0; BLOCK]), None);
        assert_eq!(FileHeader::decode(&[]), None);
    }
}
