//! Owns the texts of Kafka's small files: the offset checkpoints of a data folder, the identity of a
//! partition (`partition.metadata`) and of a data folder (`meta.properties`), and the mark of a clean
//! stop (`.kafka_cleanshutdown`). It parses and formats; others read, write and rename.

use std::collections::BTreeMap;

use crate::ids::{Offset, PartitionIndex};

/// File names in a data folder, then in a partition's folder.
pub const RECOVERY_POINT_FILE: &str = "recovery-point-offset-checkpoint";
pub const LOG_START_OFFSET_FILE: &str = "log-start-offset-checkpoint";
pub const HIGH_WATERMARK_FILE: &str = "replication-offset-checkpoint";
pub const CLEANER_OFFSET_FILE: &str = "cleaner-offset-checkpoint";
pub const META_PROPERTIES_FILE: &str = "meta.properties";
pub const CLEAN_SHUTDOWN_FILE: &str = ".kafka_cleanshutdown";
pub const PARTITION_METADATA_FILE: &str = "partition.metadata";
pub const LEADER_EPOCH_FILE: &str = "leader-epoch-checkpoint";

/// What is wrong with the content of a file of the log; the caller knows the path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FormatError {
    #[error("its length {length} is not a multiple of {entry_bytes}")]
    Length { length: usize, entry_bytes: usize },
    #[error("entry {number} {problem}")]
    Entry {
        number: usize,
        problem: &'static str,
    },
    #[error("version {found} instead of {expected}")]
    Version { found: i64, expected: i64 },
    #[error("line {line} is not {expected}")]
    Line { line: usize, expected: &'static str },
    #[error("{announced} entries announced, {found} found")]
    Count { announced: i64, found: usize },
    #[error("it ends within {within}")]
    Truncated { within: &'static str },
    #[error("{excess} bytes follow the last entry")]
    Excess { excess: usize },
    #[error("checksum {stored:#010x} stored, {computed:#010x} computed")]
    Checksum { stored: u32, computed: u32 },
    #[error("{key} {problem}")]
    Property {
        key: &'static str,
        problem: &'static str,
    },
}

impl FormatError {
    pub(super) fn line(line: usize, expected: &'static str) -> FormatError {
        FormatError::Line { line, expected }
    }
}

/// Offsets by partition, as in the three offset checkpoints of a data folder.
/// Ordered, so that a file's bytes depend on its content alone.
pub type OffsetsByPartition = BTreeMap<(String, PartitionIndex), Offset>;

/// Reads a version line `0`, a count, and `topic partition offset` lines. An empty file is no entries.
pub fn parse_offsets(text: &str) -> Result<OffsetsByPartition, FormatError> {
    let mut offsets = OffsetsByPartition::new();
    for (line, [topic, partition, offset]) in entry_lines::<3>(text)? {
        let malformed = || FormatError::line(line, "topic, partition and offset");
        let partition: i32 = partition.parse().map_err(|_| malformed())?;
        let offset: i64 = offset.parse().map_err(|_| malformed())?;
        if partition < 0 {
            return Err(malformed());
        }
        offsets.insert(
            (topic.to_owned(), PartitionIndex(partition)),
            Offset(offset),
        );
    }
    Ok(offsets)
}

pub fn format_offsets<'a>(
    offsets: impl ExactSizeIterator<Item = (&'a str, PartitionIndex, Offset)>,
) -> String {
    format_entries(
        offsets.map(|(topic, partition, offset)| format!("{topic} {partition} {offset}")),
    )
}

/// The lines of a checkpoint file behind version and count, each with its number and `FIELDS` fields.
pub(super) fn entry_lines<const FIELDS: usize>(
    text: &str,
) -> Result<Vec<(usize, [&str; FIELDS])>, FormatError> {
    let mut lines = text.lines();
    let Some(version) = lines.next() else {
        return Ok(Vec::new());
    };
    let version: i64 = version
        .parse()
        .map_err(|_| FormatError::line(1, "a version number"))?;
    if version != 0 {
        return Err(FormatError::Version {
            found: version,
            expected: 0,
        });
    }
    let Some(count) = lines.next() else {
        return Ok(Vec::new());
    };
    let announced: i64 = count
        .parse()
        .map_err(|_| FormatError::line(2, "the number of entries"))?;
    let mut entries = Vec::new();
    for (number, text) in lines.enumerate() {
        let line = number + 3;
        let mut fields = text.split_ascii_whitespace();
        let mut row = [""; FIELDS];
        for field in &mut row {
            *field = fields
                .next()
                .ok_or(FormatError::line(line, "as many fields as an entry has"))?;
        }
        if fields.next().is_some() {
            return Err(FormatError::line(line, "as many fields as an entry has"));
        }
        entries.push((line, row));
    }
    if usize::try_from(announced) != Ok(entries.len()) {
        return Err(FormatError::Count {
            announced,
            found: entries.len(),
        });
    }
    Ok(entries)
}

/// A checkpoint file's text: version 0, the count, a line an entry.
pub(super) fn format_entries(entries: impl ExactSizeIterator<Item = String>) -> String {
    let mut text = format!("0\n{}\n", entries.len());
    for entry in entries {
        text.push_str(&entry);
        text.push('\n');
    }
    text
}

/// Content of `.kafka_cleanshutdown`, left in each data folder by a clean stop and taken away at start.
/// The broker epoch lets the controller know that nothing was lost since (KIP-966).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CleanShutdown {
    /// Absent in the files of versions before 3.8, which are empty, and of those that could not tell.
    pub broker_epoch: Option<i64>,
}

#[derive(serde::Deserialize)]
struct CleanShutdownJson {
    version: i32,
    #[serde(rename = "brokerEpoch")]
    broker_epoch: Option<i64>,
}

impl CleanShutdown {
    /// Never fails: that the file is there says that the stop was clean, whatever is in it.
    pub fn parse(text: &str) -> CleanShutdown {
        let broker_epoch = serde_json::from_str::<CleanShutdownJson>(text)
            .ok()
            .filter(|json| json.version >= 0)
            .and_then(|json| json.broker_epoch);
        CleanShutdown { broker_epoch }
    }

    pub fn format(self) -> String {
        format!(
            r#"{{"version":0,"brokerEpoch":{}}}"#,
            self.broker_epoch.unwrap_or(-1)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_written_as_kafka_writes_them() {
        assert_eq!(format_offsets(std::iter::empty()), "0\n0\n");
        let rows = [
            ("__consumer_offsets", PartitionIndex(29), Offset(0)),
            ("t", PartitionIndex(0), Offset(591)),
        ];
        let text = format_offsets(rows.into_iter());
        assert_eq!(text, "0\n2\n__consumer_offsets 29 0\nt 0 591\n");
        let offsets = parse_offsets(&text).unwrap();
        assert_eq!(offsets[&("t".to_owned(), PartitionIndex(0))], Offset(591));
        assert_eq!(offsets.len(), 2);
        assert!(parse_offsets("").unwrap().is_empty());
    }

    #[test]
    fn malformed_offsets_are_told() {
        let told = |text: &str| parse_offsets(text).unwrap_err().to_string();
        assert_eq!(told("one\n"), "line 1 is not a version number");
        assert_eq!(told("1\n0\n"), "version 1 instead of 0");
        assert_eq!(told("0\nmany\n"), "line 2 is not the number of entries");
        assert_eq!(told("0\n2\nt 0 5\n"), "2 entries announced, 1 found");
        assert_eq!(told("0\n0\nt 0 5\n"), "0 entries announced, 1 found");
        assert_eq!(
            told("0\n1\nt 0\n"),
            "line 3 is not as many fields as an entry has"
        );
        assert_eq!(
            told("0\n1\nt 0 x\n"),
            "line 3 is not topic, partition and offset"
        );
        assert_eq!(
            told("0\n1\nt -1 0\n"),
            "line 3 is not topic, partition and offset"
        );
    }

    #[test]
    fn a_clean_stop_carries_the_broker_epoch() {
        let clean = CleanShutdown {
            broker_epoch: Some(42),
        };
        assert_eq!(clean.format(), r#"{"version":0,"brokerEpoch":42}"#);
        assert_eq!(CleanShutdown::parse(&clean.format()), clean);
        assert_eq!(
            CleanShutdown::parse(r#"{"version":1,"brokerEpoch":42,"more":[]}"#),
            clean
        );
        assert_eq!(CleanShutdown::parse("").broker_epoch, None);
        assert_eq!(CleanShutdown::parse("}{").broker_epoch, None);
    }
}
