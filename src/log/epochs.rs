//! Owns the leader epochs of one partition's log: at which offset each leader began to write
//! (KIP-101, KIP-279), and the text of its `leader-epoch-checkpoint`. No I/O: whoever writes the file
//! does so when a call says that something changed.

use super::checkpoints::{self, FormatError};
use crate::ids::{LeaderEpoch, Offset};

/// A leader epoch and the offset of its first record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EpochStart {
    pub epoch: LeaderEpoch,
    pub start_offset: Offset,
}

/// The epochs whose records are in the log, both columns strictly rising.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EpochCache {
    entries: Vec<EpochStart>,
}

impl EpochCache {
    pub fn new() -> EpochCache {
        EpochCache::default()
    }

    /// Reads the text of a `leader-epoch-checkpoint`: a version line `0`, a count, `epoch offset` lines.
    pub fn parse(text: &str) -> Result<EpochCache, FormatError> {
        let mut cache = EpochCache::new();
        for (line, fields) in checkpoints::entry_lines::<2>(text)? {
            let malformed = || FormatError::line(line, "two whole numbers: epoch and offset");
            let epoch: i32 = fields[0].parse().map_err(|_| malformed())?;
            let start_offset: i64 = fields[1].parse().map_err(|_| malformed())?;
            if epoch < 0 || start_offset < 0 {
                return Err(malformed());
            }
            cache.assign(LeaderEpoch(epoch), Offset(start_offset));
        }
        Ok(cache)
    }

    /// The text of the file, as Kafka writes it.
    pub fn format(&self) -> String {
        checkpoints::format_entries(
            self.entries
                .iter()
                .map(|entry| format!("{} {}", entry.epoch, entry.start_offset)),
        )
    }

    /// Notes that the leader of `epoch` wrote its first record at `start_offset`. Entries that can't be
    /// true any more (a later epoch or offset) give way to it. `true` when something changed: the
    /// checkpoint has to be written before the records count as durable.
    pub fn assign(&mut self, epoch: LeaderEpoch, start_offset: Offset) -> bool {
        assert!(
            epoch.0 >= 0 && start_offset.0 >= 0,
            "epoch {epoch} at {start_offset}"
        );
        if let Some(latest) = self.entries.last()
            && latest.epoch == epoch
            && latest.start_offset <= start_offset
        {
            return false;
        }
        let keep = self
            .entries
            .iter()
            .rposition(|entry| entry.epoch < epoch && entry.start_offset < start_offset)
            .map_or(0, |last| last + 1);
        self.entries.truncate(keep);
        self.entries.push(EpochStart {
            epoch,
            start_offset,
        });
        true
    }

    pub fn latest(&self) -> Option<EpochStart> {
        self.entries.last().copied()
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.latest().map(|entry| entry.epoch)
    }

    pub fn earliest(&self) -> Option<EpochStart> {
        self.entries.first().copied()
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = EpochStart> + '_ {
        self.entries.iter().copied()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The largest known epoch at or below `requested`, and the offset behind its last record
    /// (OffsetForLeaderEpoch). `None`: undefined, on the wire epoch -1 and offset -1.
    pub fn end_offset_for(
        &self,
        requested: LeaderEpoch,
        log_end_offset: Offset,
    ) -> Option<(LeaderEpoch, Offset)> {
        // Kafka has no name for an epoch below -1 either, and yet finds the start of the log for it.
        if requested.0 == -1 {
            return None;
        }
        let latest = self.entries.last()?;
        if latest.epoch == requested {
            return Some((requested, log_end_offset));
        }
        let following = self
            .entries
            .partition_point(|entry| entry.epoch <= requested);
        let end_offset = self.entries.get(following)?.start_offset;
        // Older than anything kept: those records are gone, the log starts with the epoch that follows.
        let found = following
            .checked_sub(1)
            .map_or(requested, |floor| self.entries[floor].epoch);
        Some((found, end_offset))
    }

    /// The epoch in which the record at `offset` was written.
    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        let following = self
            .entries
            .partition_point(|entry| entry.start_offset <= offset);
        following
            .checked_sub(1)
            .map(|floor| self.entries[floor].epoch)
    }

    /// The records below `start_offset` are gone: the epoch that is open there starts there now.
    /// `true` when something changed.
    pub fn truncate_from_start(&mut self, start_offset: Offset) -> bool {
        let gone = self
            .entries
            .partition_point(|entry| entry.start_offset <= start_offset);
        let Some(open) = gone.checked_sub(1) else {
            return false;
        };
        let changed = open > 0 || self.entries[open].start_offset != start_offset;
        self.entries.drain(..open);
        self.entries[0].start_offset = start_offset;
        changed
    }

    /// The records at and above `end_offset` are gone, and the epochs that began there.
    /// `true` when something changed.
    pub fn truncate_from_end(&mut self, end_offset: Offset) -> bool {
        let keep = self
            .entries
            .partition_point(|entry| entry.start_offset < end_offset);
        let changed = keep < self.entries.len();
        self.entries.truncate(keep);
        changed
    }

    pub fn clear(&mut self) {
        self.entries.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(entries: &[(i32, i64)]) -> EpochCache {
        let mut cache = EpochCache::new();
        for (epoch, start) in entries {
            assert!(cache.assign(LeaderEpoch(*epoch), Offset(*start)));
        }
        cache
    }

    fn pairs(cache: &EpochCache) -> Vec<(i32, i64)> {
        cache
            .iter()
            .map(|entry| (entry.epoch.0, entry.start_offset.0))
            .collect()
    }

    fn end(cache: &EpochCache, epoch: i32, log_end: i64) -> Option<(i32, i64)> {
        cache
            .end_offset_for(LeaderEpoch(epoch), Offset(log_end))
            .map(|(epoch, end)| (epoch.0, end.0))
    }

    #[test]
    fn text_is_kafkas() {
        assert_eq!(EpochCache::new().format(), "0\n0\n");
        assert_eq!(cache(&[(0, 0)]).format(), "0\n1\n0 0\n");
        let three = cache(&[(0, 0), (4, 100), (5, 107)]);
        assert_eq!(three.format(), "0\n3\n0 0\n4 100\n5 107\n");
        assert_eq!(EpochCache::parse(&three.format()).unwrap(), three);
        assert!(EpochCache::parse("").unwrap().is_empty());
        assert!(EpochCache::parse("0\n").unwrap().is_empty());
    }

    #[test]
    fn malformed_text_is_told() {
        for text in [
            "1\n0\n",
            "x",
            "0\n2\n0 0\n",
            "0\n1\n0\n",
            "0\n1\n0 0 0\n",
            "0\n1\n-1 0\n",
            "0\n1\n0 -5\n",
            "0\n-1\n",
        ] {
            assert!(EpochCache::parse(text).is_err(), "{text:?}");
        }
        assert_eq!(
            EpochCache::parse("0\n1\n0 x\n").unwrap_err().to_string(),
            "line 3 is not two whole numbers: epoch and offset"
        );
    }

    #[test]
    fn an_epoch_is_assigned_once() {
        let mut epochs = cache(&[(2, 10)]);
        assert!(!epochs.assign(LeaderEpoch(2), Offset(10)));
        assert!(!epochs.assign(LeaderEpoch(2), Offset(15)));
        assert!(epochs.assign(LeaderEpoch(2), Offset(7)));
        assert_eq!(pairs(&epochs), [(2, 7)]);
    }

    #[test]
    fn entries_that_contradict_the_new_one_give_way() {
        // Nothing was written in epoch 3: its entry is replaced.
        assert_eq!(
            pairs(&cache(&[(1, 0), (3, 10), (4, 10)])),
            [(1, 0), (4, 10)]
        );
        // An older epoch at a higher offset than a newer one.
        assert_eq!(
            pairs(&cache(&[(1, 0), (3, 10), (2, 20)])),
            [(1, 0), (2, 20)]
        );
        assert_eq!(pairs(&cache(&[(1, 5), (3, 10), (4, 2)])), [(4, 2)]);
    }

    #[test]
    fn the_end_of_an_epoch_is_where_the_next_begins() {
        let epochs = cache(&[(2, 5), (4, 100), (6, 200)]);
        assert_eq!(end(&epochs, 6, 300), Some((6, 300)));
        assert_eq!(end(&epochs, 4, 300), Some((4, 200)));
        assert_eq!(end(&epochs, 5, 300), Some((4, 200)));
        assert_eq!(end(&epochs, 3, 300), Some((2, 100)));
        assert_eq!(end(&epochs, 1, 300), Some((1, 5)), "older than the log");
        assert_eq!(end(&epochs, 7, 300), None, "newer than any");
        assert_eq!(end(&epochs, -1, 300), None);
        assert_eq!(end(&epochs, -2, 300), Some((-2, 5)), "as Kafka");
        assert_eq!(end(&EpochCache::new(), 0, 300), None);
    }

    #[test]
    fn offsets_find_their_epoch() {
        let epochs = cache(&[(2, 5), (4, 100)]);
        let of = |offset| epochs.epoch_for_offset(Offset(offset)).map(|epoch| epoch.0);
        assert_eq!(
            [of(4), of(5), of(99), of(100), of(1000)],
            [None, Some(2), Some(2), Some(4), Some(4)]
        );
    }

    #[test]
    fn truncation_from_the_start_moves_the_open_epoch() {
        let from = |offset| {
            let mut epochs = cache(&[(2, 6), (3, 8), (4, 11)]);
            (epochs.truncate_from_start(Offset(offset)), pairs(&epochs))
        };
        assert_eq!(from(5), (false, vec![(2, 6), (3, 8), (4, 11)]));
        assert_eq!(from(6), (false, vec![(2, 6), (3, 8), (4, 11)]));
        assert_eq!(from(7), (true, vec![(2, 7), (3, 8), (4, 11)]));
        assert_eq!(from(8), (true, vec![(3, 8), (4, 11)]));
        assert_eq!(from(100), (true, vec![(4, 100)]));
    }

    #[test]
    fn truncation_from_the_end_drops_epochs_that_begin_there() {
        let from = |offset| {
            let mut epochs = cache(&[(2, 6), (3, 8), (4, 11)]);
            (epochs.truncate_from_end(Offset(offset)), pairs(&epochs))
        };
        assert_eq!(from(12), (false, vec![(2, 6), (3, 8), (4, 11)]));
        assert_eq!(from(11), (true, vec![(2, 6), (3, 8)]));
        assert_eq!(from(9), (true, vec![(2, 6), (3, 8)]));
        assert_eq!(from(0), (true, vec![]));
    }
}
