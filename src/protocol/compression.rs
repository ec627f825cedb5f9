//! Owns the codecs of record batches, in the framings that Kafka's clients use. Decompression stops at the
//! caller's limit and reserves memory only as data really comes.

use std::io::{Read, Write};

use bytes::Bytes;

/// How a batch's records are compressed; the number is that in its attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    None = 0,
    Gzip = 1,
    Snappy = 2,
    Lz4 = 3,
    Zstd = 4,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    #[error("not {}", .0.name())]
    Malformed(Codec),
    #[error("more than {limit} bytes when decompressed")]
    TooLarge { limit: usize },
}

impl Codec {
    pub const ALL: [Codec; 5] = [
        Codec::None,
        Codec::Gzip,
        Codec::Snappy,
        Codec::Lz4,
        Codec::Zstd,
    ];

    pub fn id(self) -> i16 {
        self as i16
    }

    pub fn from_id(id: i16) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.id() == id)
    }

    /// As producers' `compression.type` has it.
    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Gzip => "gzip",
            Codec::Snappy => "snappy",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        }
    }

    pub fn from_name(name: &str) -> Option<Codec> {
        Codec::ALL.into_iter().find(|codec| codec.name() == name)
    }
}

/// Compresses. `level` is the codec's own; snappy has none and our lz4 has one alone, so they ignore it.
pub fn compress(codec: Codec, level: Option<i32>, data: &[u8]) -> Vec<u8> {
    const IN_MEMORY: &str = "writing to memory";
    match codec {
        Codec::None => data.to_vec(),
        Codec::Gzip => {
            let level = match level {
                Some(level @ 0..=9) => flate2::Compression::new(level as u32),
                _ => flate2::Compression::default(),
            };
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), level);
            encoder.write_all(data).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Codec::Snappy => compress_snappy(data),
        Codec::Lz4 => {
            // Independent blocks of 64 KiB without checksums: Java's reader accepts no other.
            let frame = lz4_flex::frame::FrameInfo::new()
                .block_size(lz4_flex::frame::BlockSize::Max64KB)
                .block_mode(lz4_flex::frame::BlockMode::Independent);
            let mut encoder = lz4_flex::frame::FrameEncoder::with_frame_info(frame, Vec::new());
            encoder.write_all(data).expect(IN_MEMORY);
            encoder.finish().expect(IN_MEMORY)
        }
        Codec::Zstd => {
            let range = zstd::compression_level_range();
            let level = level.unwrap_or(zstd::DEFAULT_COMPRESSION_LEVEL);
            let level = level.clamp(*range.start(), *range.end());
            zstd::bulk::compress(data, level).expect(IN_MEMORY)
        }
    }
}

/// Decompresses to at most `limit` bytes. Without a codec the data is shared, not copied.
pub fn decompress(codec: Codec, data: &Bytes, limit: usize) -> Result<Bytes, CompressionError> {
    let malformed = |_| CompressionError::Malformed(codec);
    match codec {
        Codec::None if data.len() > limit => Err(CompressionError::TooLarge { limit }),
        Codec::None => Ok(data.clone()),
        Codec::Gzip => read_all(codec, flate2::read::MultiGzDecoder::new(&data[..]), limit),
        Codec::Snappy => decompress_snappy(data, limit),
        Codec::Lz4 => read_all(codec, lz4_flex::frame::FrameDecoder::new(&data[..]), limit),
        Codec::Zstd => {
            let decoder = zstd::stream::read::Decoder::with_buffer(&data[..]).map_err(malformed)?;
            read_all(codec, decoder, limit)
        }
    }
}

fn read_all(codec: Codec, decoder: impl Read, limit: usize) -> Result<Bytes, CompressionError> {
    let mut out = Vec::new();
    // One byte more than may be tells "full" from "too large".
    let mut bounded = decoder.take(limit as u64 + 1);
    bounded
        .read_to_end(&mut out)
        .map_err(|_| CompressionError::Malformed(codec))?;
    if out.len() > limit {
        Err(CompressionError::TooLarge { limit })
    } else {
        Ok(out.into())
    }
}

/// The stream format of Java's snappy library, which Kafka's clients wrap blocks in: this, two versions of
/// four bytes, then blocks with their length ahead.
const SNAPPY_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
const SNAPPY_HEADER_BYTES: usize = 16;
const SNAPPY_BLOCK_BYTES: usize = 32 * 1024;
/// A copy element of three bytes makes at most 64.
const SNAPPY_EXPANSION_MAX: usize = 22;

fn compress_snappy(data: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(SNAPPY_HEADER_BYTES + data.len() / 2);
    out.extend_from_slice(&SNAPPY_MAGIC);
    out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
    let mut encoder = snap::raw::Encoder::new();
    let mut block = vec![0; snap::raw::max_compress_len(SNAPPY_BLOCK_BYTES)];
    for chunk in data.chunks(SNAPPY_BLOCK_BYTES) {
        let length = encoder
            .compress(chunk, &mut block)
            .expect("a block's worth of room");
        out.extend_from_slice(&(length as u32).to_be_bytes());
        out.extend_from_slice(&block[..length]);
    }
    out
}

fn decompress_snappy(data: &[u8], limit: usize) -> Result<Bytes, CompressionError> {
    let malformed = CompressionError::Malformed(Codec::Snappy);
    let mut out = Vec::new();
    if !data.starts_with(&SNAPPY_MAGIC) {
        snappy_block(data, &mut out, limit)?;
        return Ok(out.into());
    }
    let mut rest = data;
    while !rest.is_empty() {
        // Streams may be appended to each other, header and all.
        if rest.starts_with(&SNAPPY_MAGIC) {
            rest = rest.get(SNAPPY_HEADER_BYTES..).ok_or(malformed)?;
            continue;
        }
        let (length, after) = rest.split_first_chunk::<4>().ok_or(malformed)?;
        let length = u32::from_be_bytes(*length) as usize;
        let block = after.get(..length).ok_or(malformed)?;
        snappy_block(block, &mut out, limit)?;
        rest = &after[length..];
    }
    Ok(out.into())
}

/// Appends what one block holds.
fn snappy_block(block: &[u8], out: &mut Vec<u8>, limit: usize) -> Result<(), CompressionError> {
    let malformed = |_| CompressionError::Malformed(Codec::Snappy);
    let length = snap::raw::decompress_len(block).map_err(malformed)?;
    if length > block.len() * SNAPPY_EXPANSION_MAX {
        return Err(CompressionError::Malformed(Codec::Snappy));
    }
    if length > limit - out.len() {
        return Err(CompressionError::TooLarge { limit });
    }
    let start = out.len();
    out.resize(start + length, 0);
    snap::raw::Decoder::new()
        .decompress(block, &mut out[start..])
        .map_err(malformed)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: usize) -> Vec<u8> {
        (0..length)
            .map(|index| b"the tail of the log"[index % 19] ^ (index >> 12) as u8)
            .collect()
    }

    #[test]
    fn every_codec_gives_back_what_it_took() {
        for codec in Codec::ALL {
            for level in [None, Some(1), Some(9)] {
                for length in [0, 1, 500, SNAPPY_BLOCK_BYTES, 200_000] {
                    let data = text(length);
                    let compressed = Bytes::from(compress(codec, level, &data));
                    assert_eq!(
                        decompress(codec, &compressed, length),
                        Ok(data.into()),
                        "{codec:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_limit_holds() {
        for codec in Codec::ALL {
            let compressed = Bytes::from(compress(codec, None, &text(100_000)));
            let result = decompress(codec, &compressed, 99_999);
            assert_eq!(
                result,
                Err(CompressionError::TooLarge { limit: 99_999 }),
                "{codec:?}"
            );
        }
    }

    #[test]
    fn damaged_data_is_an_error_or_other_data() {
        for codec in Codec::ALL {
            let compressed = compress(codec, None, &text(1000));
            for end in 0..compressed.len() {
                let _ = decompress(codec, &Bytes::copy_from_slice(&compressed[..end]), 10_000);
                let mut damaged = compressed.clone();
                damaged[end] ^= 0xff;
                let _ = decompress(codec, &damaged.into(), 10_000);
            }
        }
        for codec in &Codec::ALL[1..] {
            let result = decompress(*codec, &Bytes::from_static(b"no such thing"), 1000);
            assert_eq!(result, Err(CompressionError::Malformed(*codec)));
        }
    }

    #[test]
    fn snappy_is_read_without_framing_and_with_frames_appended() {
        let data = text(70_000);
        let raw = snap::raw::Encoder::new().compress_vec(&data).unwrap();
        assert_eq!(
            decompress(Codec::Snappy, &raw.into(), 70_000),
            Ok(data.clone().into())
        );
        let mut twice = compress_snappy(&data);
        twice.extend(compress_snappy(&data));
        assert_eq!(
            decompress(Codec::Snappy, &twice.into(), 140_000)
                .unwrap()
                .len(),
            140_000
        );
    }

    #[test]
    fn a_snappy_block_reserves_nothing_on_its_word() {
        // Claims 4 GiB in five bytes.
        let claim = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]);
        let result = decompress(Codec::Snappy, &claim, usize::MAX);
        assert_eq!(result, Err(CompressionError::Malformed(Codec::Snappy)));
    }

    #[test]
    fn names_and_numbers_lead_back() {
        for codec in Codec::ALL {
            assert_eq!(Codec::from_id(codec.id()), Some(codec));
            assert_eq!(Codec::from_name(codec.name()), Some(codec));
        }
        assert_eq!(Codec::from_id(5), None);
    }
}
