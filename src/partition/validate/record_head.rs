//! Owns taking the records of a payload one by one, with what a check needs of each. A full request has thousands of
//! them, so those that are like nearly all are read without a check for every byte.

/// What a check needs of one record.
#[derive(Debug, PartialEq)]
pub(super) struct RecordHead {
    pub timestamp_delta: i64,
    pub offset_delta: i32,
    pub has_key: bool,
}

/// What [`RecordHead::take_common`] looks at in one go: five numbers of at most three bytes, and the attributes. A power
/// of two, so that a place in it needs no check.
const WINDOW_BYTES: usize = 16;

type Window = [u8; WINDOW_BYTES];

impl RecordHead {
    /// Takes one record off `rest`; `None` if it is malformed or its body longer than `body_max`.
    pub fn take(rest: &mut &[u8], body_max: usize) -> Option<Self> {
        if let Some((head, end)) = Self::take_common(rest, body_max) {
            *rest = &rest[end..];
            return Some(head);
        }
        Self::take_any(rest, body_max)
    }

    /// The record that `bytes` begin with and where it ends, if it has no headers and all its numbers are short.
    /// `None` says nothing of any other.
    #[inline]
    fn take_common(bytes: &[u8], body_max: usize) -> Option<(Self, usize)> {
        let window: &Window = bytes.first_chunk()?;
        let mut at = 0;
        let length = usize::try_from(short_varint(window, &mut at)?).ok()?;
        let end = at + length;
        if length > body_max || end > bytes.len() {
            return None;
        }
        // Attributes, of which no bit means anything.
        at += 1;
        let timestamp_delta = short_varint(window, &mut at)?.into();
        let offset_delta = short_varint(window, &mut at)?;
        let key = usize::try_from(short_varint(window, &mut at)?);
        let value = match key {
            Ok(key) => {
                at += key;
                let window = bytes.get(at..)?.first_chunk()?;
                let mut after_key = 0;
                let value = short_varint(window, &mut after_key)?;
                at += after_key;
                value
            }
            Err(_) => short_varint(window, &mut at)?,
        };
        at += usize::try_from(value).unwrap_or(0);
        let has_no_headers = bytes.get(at) == Some(&0) && at + 1 == end;
        let head = Self {
            timestamp_delta,
            offset_delta,
            has_key: key.is_ok(),
        };
        has_no_headers.then_some((head, end))
    }

    fn take_any(rest: &mut &[u8], body_max: usize) -> Option<Self> {
        let length = usize::try_from(take_varint(rest)?).ok()?;
        if length > body_max {
            return None;
        }
        let mut body = rest.split_off(..length)?;
        let body = &mut body;
        body.split_off_first()?;
        let timestamp_delta = take_varlong(body)?;
        let offset_delta = take_varint(body)?;
        let has_key = skip_bytes(body)?;
        skip_bytes(body)?;
        let headers = usize::try_from(take_varint(body)?).ok()?;
        for _ in 0..headers {
            let has_name = skip_bytes(body)?;
            if !has_name {
                return None;
            }
            skip_bytes(body)?;
        }
        body.is_empty().then_some(Self {
            timestamp_delta,
            offset_delta,
            has_key,
        })
    }
}

/// A number of at most three bytes. Each size is a branch of its own: records that follow each other are alike, so that
/// the processor need not wait for one to know where the next begins.
#[inline(always)]
fn short_varint(window: &Window, at: &mut usize) -> Option<i32> {
    let byte = |place: usize| u32::from(window[(*at + place) % WINDOW_BYTES]);
    let (low, middle, high) = (byte(0), byte(1), byte(2));
    if low < 0x80 {
        *at += 1;
        return Some(unzigzag(low));
    }
    if middle < 0x80 {
        *at += 2;
        return Some(unzigzag(low & 0x7f | middle << 7));
    }
    if high < 0x80 {
        *at += 3;
        return Some(unzigzag(low & 0x7f | (middle & 0x7f) << 7 | high << 14));
    }
    None
}

/// Skips bytes with their length ahead; false if the length is negative, which stands for null.
fn skip_bytes(rest: &mut &[u8]) -> Option<bool> {
    match usize::try_from(take_varint(rest)?) {
        Ok(length) => rest.split_off(..length).map(|_| true),
        Err(_) => Some(false),
    }
}

fn take_varint(rest: &mut &[u8]) -> Option<i32> {
    Some(unzigzag(take_unsigned(rest, 5)? as u32))
}

fn take_varlong(rest: &mut &[u8]) -> Option<i64> {
    let value = take_unsigned(rest, 10)?;
    Some((value >> 1) as i64 ^ -((value & 1) as i64))
}

fn unzigzag(value: u32) -> i32 {
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

#[inline]
fn take_unsigned(rest: &mut &[u8], bytes_max: usize) -> Option<u64> {
    let mut value = 0;
    for place in 0..bytes_max {
        let byte = *rest.split_off_first()?;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn put(out: &mut Vec<u8>, value: i64) {
        let mut value = ((value << 1) ^ (value >> 63)) as u64;
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    fn put_bytes(out: &mut Vec<u8>, size: Option<usize>) {
        put(out, size.map_or(-1, |size| size as i64));
        out.extend(std::iter::repeat_n(b'b', size.unwrap_or(0)));
    }

    fn record(
        timestamp_delta: i64,
        offset_delta: i32,
        key: Option<usize>,
        value: Option<usize>,
        headers: usize,
    ) -> Vec<u8> {
        let mut body = vec![0];
        put(&mut body, timestamp_delta);
        put(&mut body, offset_delta.into());
        put_bytes(&mut body, key);
        put_bytes(&mut body, value);
        put(&mut body, headers as i64);
        for _ in 0..headers {
            put_bytes(&mut body, Some(2));
            put_bytes(&mut body, None);
        }
        let mut record = Vec::new();
        put(&mut record, body.len() as i64);
        record.extend(body);
        record
    }

    fn any_record() -> impl Strategy<Value = Vec<u8>> {
        let sizes = || prop_oneof![0..20_usize, 60..70_usize, 8_180..8_200_usize];
        let deltas = prop_oneof![-70..70_i64, -9_000..9_000_i64, any::<i64>()];
        let offsets = prop_oneof![0..200_i32, 8_000..9_000_i32, any::<i32>()];
        let key = prop::option::of(sizes());
        let value = prop::option::of(sizes());
        let headers = prop_oneof![4 => Just(0_usize), 1 => 1..3_usize];
        (deltas, offsets, key, value, headers).prop_map(|(delta, offset, key, value, headers)| {
            record(delta, offset, key, value, headers)
        })
    }

    /// Both ways, where the short one is open.
    fn check_same(bytes: &[u8], body_max: usize) {
        let Some((head, end)) = RecordHead::take_common(bytes, body_max) else {
            return;
        };
        let mut rest = bytes;
        assert_eq!(RecordHead::take_any(&mut rest, body_max), Some(head));
        assert_eq!(rest, &bytes[end..]);
    }

    #[test]
    fn what_most_records_are_like_takes_the_short_way() {
        let after = [0; WINDOW_BYTES];
        for (key, value) in [
            (None, Some(100)),
            (Some(10), Some(1_000)),
            (Some(0), None),
            (Some(0), Some(0)),
            (None, Some(1_000_000)),
        ] {
            for (timestamp_delta, offset_delta) in [(0, 0), (-1, 63), (9_999, 9_999)] {
                let mut bytes = record(timestamp_delta, offset_delta, key, value, 0);
                let size = bytes.len();
                bytes.extend(after);
                let head = RecordHead {
                    timestamp_delta,
                    offset_delta,
                    has_key: key.is_some(),
                };
                assert_eq!(
                    RecordHead::take_common(&bytes, usize::MAX),
                    Some((head, size))
                );
            }
        }
    }

    proptest! {
        #[test]
        fn the_short_way_says_what_the_long_one_does(
            first in any_record(),
            then in any_record(),
            changes in prop::collection::vec((0..24_usize, any::<u8>()), 0..3),
            cut in prop::option::of(0..40_usize),
        ) {
            let mut bytes = first.clone();
            bytes.extend(&then);
            check_same(&bytes, usize::MAX);
            check_same(&bytes, 20);
            for (place, byte) in changes {
                if let Some(there) = bytes.get_mut(place) {
                    *there = byte;
                }
            }
            check_same(&bytes, usize::MAX);
            bytes.truncate(cut.map_or(bytes.len(), |cut| first.len().saturating_sub(cut)));
            check_same(&bytes, usize::MAX);
        }
    }
}
