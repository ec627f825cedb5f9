//! Owns what a cleaning knows of transactions on its way through the log: which are aborted, and whether anything of one
//! was met before its marker. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{Offset, ProducerId};
use crate::log::transaction_index::AbortedTransaction;
use crate::protocol::batch::{self, Batch, BatchError, BatchHeader, ControlType};

/// A marker's record is some twenty bytes.
const MARKER_BYTES_MAX: usize = 64 << 10;

#[derive(Clone, Default)]
pub struct Transactions {
    /// Those to come, by their first offset.
    aborted: BTreeMap<(Offset, Offset), AbortedTransaction>,
    /// Those begun, and whether a batch of theirs was met. Of one whose marker went with its segment another marker or
    /// batch of its producer tells, behind its end.
    aborting: BTreeMap<ProducerId, (AbortedTransaction, bool)>,
    committing: BTreeSet<ProducerId>,
}

/// What becomes of a control batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Marker {
    /// Nothing of its transaction is left.
    Discardable,
    /// It says that these were aborted.
    Needed(Option<AbortedTransaction>),
}

impl Transactions {
    /// What the transaction indexes say of what comes next; the same more than once is no harm.
    pub fn expect(&mut self, aborted: impl IntoIterator<Item = AbortedTransaction>) {
        for transaction in aborted {
            let key = (transaction.first_offset, transaction.last_offset);
            self.aborted.insert(key, transaction);
        }
    }

    /// Whether the records of this batch were aborted.
    pub fn on_batch(&mut self, batch: &BatchHeader) -> bool {
        self.begin_upto(batch.last_offset());
        if !batch.is_transactional() {
            return false;
        }
        match self.aborting.get_mut(&batch.producer_id()) {
            Some((transaction, met)) if batch.base_offset() <= transaction.last_offset => {
                *met = true;
                true
            }
            _ => {
                self.committing.insert(batch.producer_id());
                false
            }
        }
    }

    pub fn on_control(&mut self, batch: &Batch) -> Result<Marker, BatchError> {
        self.begin_upto(batch.last_offset());
        let Some(record) = batch::records(batch, MARKER_BYTES_MAX)?.next() else {
            return Ok(Marker::Discardable); // Emptied by an earlier cleaning.
        };
        let key = record?.key.unwrap_or_default();
        let kind = key
            .get(2..4)
            .map(|kind| i16::from_be_bytes([kind[0], kind[1]]));
        let producer = batch.producer_id();
        Ok(match kind {
            Some(kind) if kind == ControlType::Abort as i16 => {
                match self.aborting.remove(&producer) {
                    Some((transaction, true)) if transaction.last_offset == batch.last_offset() => {
                        Marker::Needed(Some(transaction))
                    }
                    _ => Marker::Discardable,
                }
            }
            Some(kind) if kind == ControlType::Commit as i16 => {
                match self.committing.remove(&producer) {
                    true => Marker::Needed(None),
                    false => Marker::Discardable,
                }
            }
            _ => Marker::Needed(None),
        })
    }

    fn begin_upto(&mut self, offset: Offset) {
        while let Some(first) = self.aborted.first_entry()
            && first.key().0 <= offset
        {
            let transaction = first.remove();
            let producer = transaction.producer_id;
            let begun = self
                .aborting
                .entry(producer)
                .or_insert((transaction, false));
            if begun.0.last_offset < transaction.first_offset {
                *begun = (transaction, false);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::batch::{BatchBuilder, control_key};

    fn batch_at(offset: i64, control: Option<ControlType>) -> Batch {
        let mut builder = BatchBuilder::new()
            .base_offset(Offset(offset))
            .producer(ProducerId(7), 0, -1)
            .transactional();
        match control {
            None => builder.append(0, Some(b"key"), Some(b"value"), &[]),
            Some(kind) => {
                builder = builder.control();
                builder.append(0, Some(&control_key(kind)), Some(&[0; 6]), &[]);
            }
        }
        Batch::parse(&builder.build()).unwrap()
    }

    fn aborted(first: i64, last: i64) -> AbortedTransaction {
        AbortedTransaction {
            producer_id: ProducerId(7),
            first_offset: Offset(first),
            last_offset: Offset(last),
            last_stable_offset: Offset(last + 1),
        }
    }

    #[test]
    fn what_was_aborted_by_a_marker_that_is_gone_is_over() {
        for next_is_committed in [true, false] {
            let mut transactions = Transactions::default();
            transactions.expect([aborted(10, 12)]);
            assert!(transactions.on_batch(&batch_at(10, None)));
            // The marker at 12 went with its segment, while records were deleted.
            let (kind, needed) = match next_is_committed {
                true => (ControlType::Commit, None),
                false => {
                    transactions.expect([aborted(20, 21)]);
                    (ControlType::Abort, Some(aborted(20, 21)))
                }
            };
            assert_eq!(
                transactions.on_batch(&batch_at(20, None)),
                !next_is_committed
            );
            let marker = transactions.on_control(&batch_at(21, Some(kind)));
            assert_eq!(marker, Ok(Marker::Needed(needed)));
        }
        let mut transactions = Transactions::default();
        transactions.expect([aborted(10, 12)]);
        transactions.on_batch(&batch_at(10, None));
        // A marker that ends nothing.
        let marker = transactions.on_control(&batch_at(21, Some(ControlType::Abort)));
        assert_eq!(marker, Ok(Marker::Discardable));
    }
}
