//! Owns the cutting of a byte stream into Kafka's frames: a 32-bit length, then that many bytes.
//! It never decodes what is inside.

use bytes::{Buf, Bytes, BytesMut};

use crate::limits::{RECEIVE_BYTES, RECEIVE_BYTES_LEAST, RECEIVE_BYTES_MAX};

pub const LENGTH_BYTES: usize = 4;

/// What is reserved for a frame before its bytes arrive; a larger frame earns more by sending.
const RESERVE_MAX: usize = 1 << 20;

/// Less room than this is not worth a receive.
const SPARE_MIN: usize = 4 << 10;

/// A length that no frame may have.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("frame of {length} bytes, allowed are 0 to {max} (socket.request.max.bytes)")]
pub struct BadLength {
    pub length: i32,
    pub max: usize,
}

/// Takes the first whole frame out of `buffer`, without its length. `None` while it is incomplete.
pub fn take(buffer: &mut BytesMut, max: usize) -> Result<Option<Bytes>, BadLength> {
    let Some(length) = announced(buffer, max)? else {
        return Ok(None);
    };
    if buffer.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    buffer.advance(LENGTH_BYTES);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// Makes room for more of the frame that `buffer` begins with, or for one like the `last`: to grow inside a frame costs a
/// copy of what is there of it. A new allocation has at least `least` bytes.
pub fn reserve(buffer: &mut BytesMut, max: usize, least: usize, last: usize) {
    let missing = match announced(buffer, max) {
        Ok(Some(length)) => (LENGTH_BYTES + length).saturating_sub(buffer.len()),
        _ if last >= RECEIVE_BYTES => LENGTH_BYTES + last,
        _ => 0,
    };
    let wanted = missing.min(RESERVE_MAX.max(buffer.len()));
    let spare = buffer.capacity() - buffer.len();
    if spare < wanted.max(SPARE_MIN) {
        let like_last = (LENGTH_BYTES + last).next_multiple_of(RECEIVE_BYTES);
        let usual = least.max(like_last.min(2 * RESERVE_MAX));
        buffer.reserve(wanted.max(usual.saturating_sub(buffer.len())));
    }
}

/// How many more bytes of the frame that `buffer` begins with are worth a receive: each costs a system call, and mostly
/// a wake-up. Where a frame is, or begins, it is one.
pub fn least(buffer: &BytesMut, max: usize) -> usize {
    let missing = match announced(buffer, max) {
        Ok(Some(length)) => (LENGTH_BYTES + length).saturating_sub(buffer.len()),
        _ => 0,
    };
    missing.clamp(1, RECEIVE_BYTES_LEAST)
}

/// How large the buffer after one of `bytes` is to be, when a receive brought `received` of the `room` it had.
/// A buffer that ends inside a frame costs a copy of what is there of it, so a stream that fills its
/// buffers gets larger ones, until it no longer does.
pub fn next_receive(bytes: usize, received: usize, room: usize) -> usize {
    if received == room {
        (2 * bytes).min(RECEIVE_BYTES_MAX)
    } else if received < bytes / 8 {
        (bytes / 2).max(RECEIVE_BYTES)
    } else {
        bytes
    }
}

fn announced(buffer: &BytesMut, max: usize) -> Result<Option<usize>, BadLength> {
    let Some(prefix) = buffer.first_chunk::<LENGTH_BYTES>() else {
        return Ok(None);
    };
    let length = i32::from_be_bytes(*prefix);
    match usize::try_from(length) {
        Ok(size) if size <= max => Ok(Some(size)),
        _ => Err(BadLength { length, max }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_wherever_the_stream_was_split() {
        let stream = [&b"\0\0\0\x03abc"[..], b"\0\0\0\0", b"\0\0\0\x01d"].concat();
        for split in 0..=stream.len() {
            let mut buffer = BytesMut::from(&stream[..split]);
            let mut frames = Vec::new();
            while let Some(frame) = take(&mut buffer, 10).unwrap() {
                frames.push(frame);
            }
            buffer.extend_from_slice(&stream[split..]);
            while let Some(frame) = take(&mut buffer, 10).unwrap() {
                frames.push(frame);
            }
            assert_eq!(frames, [&b"abc"[..], b"", b"d"]);
        }
    }

    #[test]
    fn a_stream_that_fills_its_buffers_gets_larger_ones() {
        let mut bytes = RECEIVE_BYTES;
        for _ in 0..10 {
            bytes = next_receive(bytes, bytes, bytes);
        }
        assert_eq!(bytes, RECEIVE_BYTES_MAX);
        assert_eq!(next_receive(bytes, bytes / 2, bytes), bytes);
        for _ in 0..10 {
            bytes = next_receive(bytes, 100, bytes);
        }
        assert_eq!(bytes, RECEIVE_BYTES);
    }

    #[test]
    fn the_rest_of_a_frame_is_waited_for_and_of_a_large_one_a_piece() {
        let with = |length: i32, received: usize| {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            buffer.resize(LENGTH_BYTES + received, 0);
            least(&buffer, 100 << 20)
        };
        assert_eq!(with(1000, 300), 700);
        assert_eq!(with(1000, 1000), 1);
        assert_eq!(with(1000, 1200), 1);
        assert_eq!(with(64 << 20, 300), RECEIVE_BYTES_LEAST);
        // What is refused next, and where nothing is known yet.
        assert_eq!(with(-1, 0), 1);
        assert_eq!(least(&BytesMut::new(), 1000), 1);
        assert_eq!(least(&BytesMut::from(&[0, 0][..]), 1000), 1);
    }

    #[test]
    fn a_length_out_of_bounds_is_refused() {
        for length in [-1, i32::MIN, 11] {
            let mut buffer = BytesMut::from(&length.to_be_bytes()[..]);
            assert_eq!(take(&mut buffer, 10), Err(BadLength { length, max: 10 }));
        }
    }

    #[test]
    fn an_announced_length_reserves_little_until_bytes_arrive() {
        let mut buffer = BytesMut::from(&100_000_000_i32.to_be_bytes()[..]);
        reserve(&mut buffer, 200_000_000, 64 << 10, 0);
        assert!(buffer.capacity() <= 2 * RESERVE_MAX);
        assert!(buffer.capacity() >= RESERVE_MAX);
        let mut buffer = BytesMut::new();
        reserve(&mut buffer, 200_000_000, 64 << 10, 100_000_000);
        assert!(buffer.capacity() <= 2 * RESERVE_MAX);
    }

    #[test]
    fn frames_of_one_size_need_no_second_buffer() {
        let frame = [&1_000_000_i32.to_be_bytes()[..], &[7; 1_000_000]].concat();
        let mut buffer = BytesMut::new();
        let mut last = 0;
        for _ in 0..3 {
            let mut rest = &frame[..];
            while !rest.is_empty() {
                let before = buffer.len();
                reserve(&mut buffer, 2_000_000, 64 << 10, last);
                let start = buffer.as_ptr();
                let received = (buffer.capacity() - before).min(rest.len()).min(300_000);
                buffer.extend_from_slice(&rest[..received]);
                assert_eq!(buffer.as_ptr(), start);
                rest = &rest[received..];
                let room = buffer.capacity() - buffer.len();
                assert!(last == 0 || room >= rest.len(), "it would have to grow");
            }
            last = take(&mut buffer, 2_000_000).unwrap().unwrap().len();
            assert_eq!(last, 1_000_000);
        }
    }
}
