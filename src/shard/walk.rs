//! Owns how all partitions of a core are looked at: in an order, some at a time, so that however many there are nobody
//! else on the core waits for it; and how what several cores tell in that order becomes one list.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;
use std::rc::Rc;
use std::slice;

use crate::ids::PartitionIndex;
use crate::io::turn;
use crate::partition::Partition;
use crate::protocol::{Str, Uuid};

use super::Shard;

/// Between two looks at whether others should run.
const PARTITIONS_AT_ONCE: usize = 64;

/// The order: by topic name and number. While a topic goes and another gets its name there may be two of them.
pub(super) type WalkKey = (Str, PartitionIndex, Uuid);

pub(super) fn key_of(partition: &Partition) -> WalkKey {
    let topic = partition.topic.clone();
    (topic, partition.index, partition.topic_id)
}

/// One walk over the partitions of a core. It meets all that are there as long as it lasts; of those that come or go
/// meanwhile some.
pub struct Walk<'a> {
    shard: &'a Shard,
    last: Option<WalkKey>,
}

impl Walk<'_> {
    pub(super) fn new(shard: &Shard) -> Walk<'_> {
        Walk { shard, last: None }
    }

    /// The next few; none at the end. Others run in between, if the turn has lasted long.
    pub async fn next(&mut self) -> Option<Vec<Rc<Partition>>> {
        turn::yield_if_needed().await;
        let behind = self.last.as_ref();
        let behind = behind.map_or(Bound::Unbounded, Bound::Excluded);
        let in_order = self.shard.in_order.borrow();
        let some = in_order.range((behind, Bound::Unbounded));
        let some: Vec<_> = some
            .take(PARTITIONS_AT_ONCE)
            .map(|(_, one)| one.clone())
            .collect();
        self.last = some.last().map(|last| key_of(last)).or(self.last.take());
        (!some.is_empty()).then_some(some)
    }
}

/// All items of lists that are in the order of their keys, in that order, with the number of their list; among those
/// of the same key that of the first list comes first.
pub fn merged<'a, T, K: Ord, F: Fn(&'a T) -> K>(
    lists: &[&'a [T]],
    key: F,
) -> impl Iterator<Item = (usize, &'a T)> + use<'a, T, K, F> {
    let mut rest: Vec<_> = lists.iter().map(|list| list.iter()).collect();
    let first_key = move |rest: &slice::Iter<'a, T>| rest.as_slice().first().map(&key);
    let heads = rest.iter().enumerate();
    let heads = heads.filter_map(|(list, rest)| Some(Reverse((first_key(rest)?, list))));
    let mut heads: BinaryHeap<_> = heads.collect();
    std::iter::from_fn(move || {
        let Reverse((_, list)) = heads.pop()?;
        let item = rest[list].next();
        heads.extend(first_key(&rest[list]).map(|next| Reverse((next, list))));
        Some((list, item.expect("it has a key")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_in_order_become_one() {
        let lists = [&["b2", "d", "h"][..], &[], &["a", "b1", "e"]];
        let merged: Vec<_> = merged(&lists, |item| &item[..1]).collect();
        let wanted = [
            (2, &"a"),
            (0, &"b2"),
            (2, &"b1"),
            (0, &"d"),
            (2, &"e"),
            (0, &"h"),
        ];
        assert_eq!(merged, wanted);
        assert!(super::merged(&[], |item: &u8| *item).next().is_none());
    }
}
