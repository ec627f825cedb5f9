//! Owns what is in the records: a head that tells whose record it is, which one, and when it was meant to leave, then
//! bytes as compressible as asked for. It reads back what it wrote.

use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};

use crate::random::Random;

/// Run, intended time, writer, sequence number, checksum.
pub const HEAD_BYTES: usize = 32;

const CHECKSUM_AT: usize = 28;

/// Bytes of which about this share does not compress, the same for every `seed`.
pub fn noise(seed: u64, length: usize, random_share: f64) -> Bytes {
    // Compressible text repeats within a block, so that a codec finds it whatever its window.
    const BLOCK: usize = 64;
    let random_bytes = (BLOCK as f64 * random_share.clamp(0.0, 1.0)).round() as usize;
    let mut random = Random::new(seed);
    let mut bytes = BytesMut::with_capacity(length + BLOCK);
    while bytes.len() < length {
        for place in 0..BLOCK {
            if place >= random_bytes {
                bytes.put_u8(b'-');
                continue;
            }
            bytes.put_u8((random.next_number() >> 56) as u8);
        }
    }
    bytes.truncate(length);
    bytes.freeze()
}

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub intended: Instant,
    /// Writers number each partition's records on their own, from 0.
    pub writer: u32,
    pub sequence: u64,
}

/// Values of records of one run, that their reader knows again.
#[derive(Clone, Debug)]
pub struct Payload {
    run: u64,
    epoch: Instant,
    checked: bool,
    value: BytesMut,
}

impl Payload {
    /// `epoch` is the time that intended times count from; no value is shorter than its head. With `checked` the values
    /// carry a checksum.
    pub fn new(run: u64, epoch: Instant, checked: bool, body: &[u8]) -> Payload {
        let mut value = BytesMut::from(body);
        if value.len() < HEAD_BYTES {
            value.resize(HEAD_BYTES, 0);
        }
        Payload {
            run,
            epoch,
            checked,
            value,
        }
    }

    /// The value of a record, of this length if its head has room; not longer than the body.
    pub fn write(&mut self, head: Head, length: usize) -> &[u8] {
        let nanos = head.intended.saturating_duration_since(self.epoch);
        let value = &mut self.value[..length.max(HEAD_BYTES)];
        value[..8].copy_from_slice(&self.run.to_be_bytes());
        value[8..16].copy_from_slice(&(nanos.as_nanos() as u64).to_be_bytes());
        value[16..20].copy_from_slice(&head.writer.to_be_bytes());
        value[20..28].copy_from_slice(&head.sequence.to_be_bytes());
        let checksum = if self.checked { checksum(value) } else { 0 };
        value[CHECKSUM_AT..HEAD_BYTES].copy_from_slice(&checksum.to_be_bytes());
        value
    }

    /// `None` if the record is not of this run; an error if it is not as it was written.
    pub fn read(&self, value: &[u8]) -> Option<Result<Head, Altered>> {
        let run = u64::from_be_bytes(*value.first_chunk()?);
        if run != self.run {
            return None;
        }
        let Some(head) = value.first_chunk::<HEAD_BYTES>() else {
            return Some(Err(Altered));
        };
        let number = |at: usize| u64::from_be_bytes(*head[at..].first_chunk().expect("8 bytes"));
        let short = |at: usize| u32::from_be_bytes(*head[at..].first_chunk().expect("4 bytes"));
        if self.checked && short(CHECKSUM_AT) != checksum(value) {
            return Some(Err(Altered));
        }
        Some(Ok(Head {
            intended: self.epoch + Duration::from_nanos(number(8)),
            writer: short(16),
            sequence: number(20),
        }))
    }
}

/// A record of this run is not as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Altered;

/// Of everything but the checksum itself.
fn checksum(value: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&value[..CHECKSUM_AT]), &value[HEAD_BYTES..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_tells_whose_it_is_and_when_it_was_meant_to_leave() {
        let epoch = crate::clock::now();
        let mut payload = Payload::new(7, epoch, true, &noise(1, 100, 1.0));
        let head = Head {
            intended: epoch + Duration::from_nanos(123_456_789),
            writer: 3,
            sequence: 1 << 40,
        };
        let short = payload.write(head, 60).to_vec();
        assert_eq!(payload.read(&short), Some(Ok(head)));
        let mut value = payload.write(head, 100).to_vec();
        assert_eq!(value.len(), 100);
        assert_eq!(payload.read(&value), Some(Ok(head)));
        let other_run = Payload::new(8, epoch, true, b"");
        assert_eq!(other_run.read(&value), None);
        assert_eq!(payload.read(b"short"), None);
        assert_eq!(payload.read(&value[..20]), Some(Err(Altered)));
        for at in [9, 17, 25, 29, 40, 99] {
            value[at] ^= 1;
            assert_eq!(payload.read(&value), Some(Err(Altered)), "byte {at}");
            value[at] ^= 1;
        }
    }

    #[test]
    fn noise_is_as_random_as_asked_for() {
        let plain = noise(1, 6400, 0.25);
        assert_eq!(plain.iter().filter(|byte| **byte == b'-').count() / 100, 48);
        assert_ne!(noise(1, 100, 1.0), noise(2, 100, 1.0));
        assert_eq!(noise(1, 100, 1.0), noise(1, 100, 1.0));
    }
}
