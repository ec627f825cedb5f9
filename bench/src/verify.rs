//! Owns checking that what was read is what was written: per writer and partition, each sequence number once and in
//! order. It names the first record of each fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::payload::{Altered, Head};

/// Gaps that are remembered a writer and partition; beyond, the rest counts as missing at once.
const GAPS_MAX: usize = 100_000;

/// Which records: those of one writer in one partition, as one subscription reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream {
    pub subscription: u32,
    pub topic: u32,
    pub partition: i32,
    pub writer: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    Missing,
    Doubled,
    OutOfOrder,
    Altered,
}

#[derive(Clone, Debug, Default)]
struct Progress {
    next: u64,
    missing: BTreeSet<u64>,
}

/// What was found, and where first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    pub checked: u64,
    pub missing: u64,
    pub doubled: u64,
    pub out_of_order: u64,
    pub altered: u64,
    /// A sentence that names the record.
    pub first: Option<String>,
}

impl Verdict {
    pub fn is_clean(&self) -> bool {
        self.first.is_none()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} records checked: {} missing, {} doubled, {} out of order, {} altered",
            self.checked, self.missing, self.doubled, self.out_of_order, self.altered
        )?;
        match &self.first {
            Some(first) => write!(out, "; first {first}"),
            None => Ok(()),
        }
    }
}

/// Takes each record as it is read.
#[derive(Debug, Default)]
pub struct Verifier {
    streams: BTreeMap<Stream, Progress>,
    verdict: Verdict,
}

impl Verifier {
    /// `stream.writer` is filled in from the record's head.
    pub fn on_record(&mut self, mut stream: Stream, offset: i64, read: Result<Head, Altered>) {
        self.verdict.checked += 1;
        let Ok(head) = read else {
            self.verdict.altered += 1;
            return self.note(Fault::Altered, stream, None, Some(offset));
        };
        stream.writer = head.writer;
        let progress = self.streams.entry(stream).or_default();
        if head.sequence >= progress.next {
            let room = (GAPS_MAX - progress.missing.len()) as u64;
            let gap = progress.next..head.sequence;
            self.verdict.missing += (gap.end - gap.start).saturating_sub(room);
            progress.missing.extend(gap.take(room as usize));
            progress.next = head.sequence + 1;
        } else if progress.missing.remove(&head.sequence) {
            self.verdict.out_of_order += 1;
            self.note(Fault::OutOfOrder, stream, Some(head.sequence), Some(offset));
        } else {
            self.verdict.doubled += 1;
            self.note(Fault::Doubled, stream, Some(head.sequence), Some(offset));
        }
    }

    /// All has been read; `written` tells how many records went to each stream.
    pub fn finish(mut self, written: impl IntoIterator<Item = (Stream, u64)>) -> Verdict {
        for (stream, count) in written {
            let progress = self.streams.entry(stream).or_default();
            let tail = count.saturating_sub(progress.next);
            let first = progress.missing.first().copied();
            let first = first.or((tail > 0).then_some(progress.next));
            self.verdict.missing += progress.missing.len() as u64 + tail;
            if first.is_some() {
                self.note(Fault::Missing, stream, first, None);
            }
        }
        self.verdict
    }

    fn note(&mut self, fault: Fault, stream: Stream, sequence: Option<u64>, offset: Option<i64>) {
        if self.verdict.first.is_some() {
            return;
        }
        let what = match fault {
            Fault::Missing => "missing",
            Fault::Doubled => "doubled",
            Fault::OutOfOrder => "out of order",
            Fault::Altered => "altered",
        };
        let whose = sequence.map_or(String::new(), |sequence| {
            format!(" record {sequence} of producer {},", stream.writer)
        });
        let at = offset.map_or(String::new(), |offset| format!(" at offset {offset}"));
        self.verdict.first = Some(format!(
            "{what}:{whose} topic {} partition {}{at}",
            stream.topic, stream.partition
        ));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Stream = Stream {
        subscription: 0,
        topic: 0,
        partition: 2,
        writer: 5,
    };

    fn verdict(sequences: &[u64], written: u64) -> Verdict {
        let mut verifier = Verifier::default();
        for (offset, sequence) in sequences.iter().enumerate() {
            let head = Head {
                intended: crate::clock::now(),
                writer: 5,
                sequence: *sequence,
            };
            verifier.on_record(STREAM, offset as i64, Ok(head));
        }
        verifier.finish([(STREAM, written)])
    }

    #[test]
    fn each_fault_is_told_from_the_others() {
        assert!(verdict(&[0, 1, 2, 3], 4).is_clean());
        let lost = verdict(&[0, 1, 3], 4);
        assert_eq!((lost.missing, lost.out_of_order, lost.doubled), (1, 0, 0));
        assert_eq!(
            lost.first.unwrap(),
            "missing: record 2 of producer 5, topic 0 partition 2"
        );
        assert_eq!(verdict(&[0, 1], 4).missing, 2);
        assert_eq!(verdict(&[], 4).missing, 4);
        let doubled = verdict(&[0, 1, 1, 2, 3], 4);
        assert_eq!((doubled.missing, doubled.doubled), (0, 1));
        assert!(doubled.first.unwrap().ends_with("at offset 2"));
        let swapped = verdict(&[0, 2, 1, 3], 4);
        assert_eq!((swapped.missing, swapped.out_of_order), (0, 1));
        let mut verifier = Verifier::default();
        verifier.on_record(STREAM, 7, Err(Altered));
        let altered = verifier.finish([]);
        assert_eq!(altered.altered, 1);
        assert!(altered.to_string().contains("altered:"), "{altered}");
    }
}
