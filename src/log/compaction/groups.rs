//! Owns which neighbouring segments are cleaned into one, so that a log of many small leftovers becomes one of few
//! segments. Pure.

use crate::ids::Offset;

/// What grouping must know of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    pub base: Offset,
    pub next_offset: Offset,
    pub bytes: u64,
    pub index_bytes: u64,
    pub time_index_bytes: u64,
}

/// How many segments each group has, in order: as many as fit `segment_bytes`, `index_bytes_max`, and the offsets that
/// one index can express.
pub fn group(members: &[Member], segment_bytes: u64, index_bytes_max: u64) -> Vec<usize> {
    let mut groups = Vec::new();
    let mut rest = members;
    while let Some((first, following)) = rest.split_first() {
        let mut sum = *first;
        let mut count = 1;
        for next in following {
            sum.bytes += next.bytes;
            sum.index_bytes += next.index_bytes;
            sum.time_index_bytes += next.time_index_bytes;
            let reach = next.next_offset.0 - 1 - first.base.0;
            let fits = sum.bytes <= segment_bytes
                && sum.index_bytes <= index_bytes_max
                && sum.time_index_bytes <= index_bytes_max
                && reach <= i64::from(i32::MAX);
            if !fits {
                break;
            }
            count += 1;
        }
        groups.push(count);
        rest = &rest[count..];
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(base: i64, next: i64, bytes: u64) -> Member {
        Member {
            base: Offset(base),
            next_offset: Offset(next),
            bytes,
            index_bytes: bytes / 10,
            time_index_bytes: bytes / 10,
        }
    }

    #[test]
    fn neighbours_go_together_as_far_as_they_fit() {
        let members = [
            member(0, 10, 40),
            member(10, 20, 60),
            member(20, 30, 1),
            member(30, 40, 0),
            member(40, 50, 200),
            member(50, 60, 10),
        ];
        assert_eq!(group(&members, 100, 100), [2, 2, 1, 1]);
        assert_eq!(group(&members, 1_000, 100), [6]);
        assert_eq!(group(&members, 1_000, 10), [4, 1, 1]);
        assert_eq!(group(&[], 1_000, 10), [0; 0]);
    }

    #[test]
    fn an_index_reaches_so_far_and_no_further() {
        let far = i64::from(i32::MAX);
        let members = |next| [member(0, 10, 1), member(10, next, 1)];
        assert_eq!(group(&members(far + 1), 100, 100), [2]);
        assert_eq!(group(&members(far + 2), 100, 100), [1, 1]);
    }
}
