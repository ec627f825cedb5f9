//! Owns the texts of Kafka's small files: the offset checkpoints of a data folder, the identity of a
//! partition (`partition.metadata`) and of a data folder (`meta.properties`), and the mark of a clean
//! stop (`.kafka_cleanshutdown`). It parses and formats; others read, write and rename.

use std::collections::BTreeMap;

use crate::ids::{BrokerId, Offset, PartitionIndex, TimestampMs};
use crate::protocol::Uuid;

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
    offsets: impl Iterator<Item = (&'a str, PartitionIndex, Offset)>,
) -> String {
    let mut lines = OffsetLines::default();
    offsets.for_each(|(topic, partition, offset)| lines.push(topic, partition, offset));
    lines.finish()
}

/// The text of such a file, for those who write it line by line; in the order of the entries.
#[derive(Default)]
pub struct OffsetLines {
    lines: String,
    count: usize,
}

impl OffsetLines {
    pub fn push(&mut self, topic: &str, partition: PartitionIndex, offset: Offset) {
        let mut digits = itoa::Buffer::new();
        self.lines.push_str(topic);
        self.lines.push(' ');
        self.lines.push_str(digits.format(partition.0));
        self.lines.push(' ');
        self.lines.push_str(digits.format(offset.0));
        self.lines.push('\n');
        self.count += 1;
    }

    pub fn finish(self) -> String {
        format!("0\n{}\n{}", self.count, self.lines)
    }
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

/// Content of `partition.metadata`: which topic the partition's folder belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PartitionMetadata {
    pub topic_id: Uuid,
}

impl PartitionMetadata {
    pub fn parse(text: &str) -> Result<PartitionMetadata, FormatError> {
        let mut lines = text.lines();
        let version = lines.next().and_then(|line| line.strip_prefix("version:"));
        let version = version.and_then(|version| version.trim().parse::<i32>().ok());
        // Later versions may add lines but keep these, says Kafka's own reader.
        if version.is_none_or(|version| version < 0) {
            return Err(FormatError::line(1, "`version: ` and a number"));
        }
        let topic_id = lines.next().and_then(|line| line.strip_prefix("topic_id:"));
        let topic_id = topic_id.and_then(|id| id.trim().parse::<Uuid>().ok());
        match topic_id {
            Some(topic_id) if !topic_id.is_zero() => Ok(PartitionMetadata { topic_id }),
            _ => Err(FormatError::line(2, "`topic_id: ` and a topic id")),
        }
    }

    /// The text, which ends without a line feed, as Kafka's does.
    pub fn format(self) -> String {
        format!("version: 0\ntopic_id: {}", self.topic_id)
    }
}

/// Content of `meta.properties`: whose data folder this is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MetaProperties {
    pub node_id: BrokerId,
    pub cluster_id: String,
    /// Folders written before KIP-858 have none.
    pub directory_id: Option<Uuid>,
}

impl MetaProperties {
    pub fn parse(text: &str) -> Result<MetaProperties, FormatError> {
        let properties = properties(text);
        let required = |key: &'static str| {
            let value = properties
                .get(key)
                .map(String::as_str)
                .filter(|value| !value.is_empty());
            value.ok_or(FormatError::Property {
                key,
                problem: "is missing",
            })
        };
        // Version 0 is from ZooKeeper's days: the id of its broker may be missing, and it has another name.
        if required("version")? != "1" {
            return Err(FormatError::Property {
                key: "version",
                problem: "is not 1",
            });
        }
        let node_id: i32 = required("node.id")?
            .parse()
            .ok()
            .filter(|id| *id >= 0)
            .ok_or(FormatError::Property {
                key: "node.id",
                problem: "is not a node's number",
            })?;
        let directory_id = match properties.get("directory.id") {
            None => None,
            Some(id) => Some(id.parse().map_err(|_| FormatError::Property {
                key: "directory.id",
                problem: "is not 22 letters of base64",
            })?),
        };
        Ok(MetaProperties {
            node_id: BrokerId(node_id),
            cluster_id: required("cluster.id")?.to_owned(),
            directory_id,
        })
    }

    /// The text, with the comment and the order that Kafka's has.
    pub fn format(&self, now_ms: TimestampMs) -> String {
        let directory_id = self
            .directory_id
            .map_or(String::new(), |id| format!("directory.id={id}\n"));
        format!(
            "#\n#{}\nnode.id={}\n{directory_id}version=1\ncluster.id={}\n",
            java_date(now_ms),
            self.node_id,
            escape_property(&self.cluster_id),
        )
    }
}

/// What of Java's properties files Kafka's have: comments, `key=value` or `key: value`, and backslashes
/// before letters that mean themselves. The last of several equal keys counts.
fn properties(text: &str) -> BTreeMap<&str, String> {
    let mut properties = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        if let Some((key, value)) = line.split_once(['=', ':']) {
            properties.insert(key.trim_end(), value.trim_start().replace('\\', ""));
        }
    }
    properties
}

fn escape_property(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for letter in value.chars() {
        if matches!(letter, '=' | ':' | '#' | '!') {
            escaped.push('\\');
        }
        escaped.push(letter);
    }
    escaped
}

/// A time as Java's `Date` prints it, in UTC: `Sat Nov 21 08:52:59 UTC 2026`.
fn java_date(now_ms: TimestampMs) -> String {
    const DAY_SECONDS: i64 = 86_400;
    const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let seconds = now_ms.div_euclid(1000);
    let (days, of_day) = (
        seconds.div_euclid(DAY_SECONDS),
        seconds.rem_euclid(DAY_SECONDS),
    );
    // The Gregorian calendar repeats every 400 years; counted from March a leap day comes last.
    let from_march = days + 719_468;
    let (era, of_era) = (
        from_march.div_euclid(146_097),
        from_march.rem_euclid(146_097),
    );
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12;
    let year = year_of_era + era * 400 + i64::from(month < 2);
    format!(
        "{} {} {day:02} {:02}:{:02}:{:02} UTC {year}",
        WEEKDAYS[days.rem_euclid(7) as usize],
        MONTHS[month as usize],
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
    )
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

    /// Written by Apache Kafka 4.4.
    macro_rules! fixture {
        ($name:literal) => {
            include_str!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/tests/fixtures/kafka-4.4/",
                $name
            ))
        };
    }

    #[test]
    fn apache_kafkas_files_are_read_and_written_again() {
        let offsets = parse_offsets(fixture!("recovery-point-offset-checkpoint")).unwrap();
        assert_eq!(offsets.len(), 5);
        assert_eq!(
            offsets[&("codecs".to_owned(), PartitionIndex(0))],
            Offset(25)
        );
        assert_eq!(
            offsets,
            parse_offsets(fixture!("replication-offset-checkpoint")).unwrap()
        );
        assert!(
            parse_offsets(fixture!("log-start-offset-checkpoint"))
                .unwrap()
                .is_empty()
        );

        let clean = CleanShutdown::parse(fixture!(".kafka_cleanshutdown"));
        assert_eq!(clean.broker_epoch, Some(12));
        assert_eq!(clean.format(), fixture!(".kafka_cleanshutdown"));

        let partition = PartitionMetadata::parse(fixture!("plain-0/partition.metadata")).unwrap();
        assert_eq!(partition.topic_id.to_string(), "28zYiOt7TIuvc_RSs8RRtQ");
        assert_eq!(partition.format(), fixture!("plain-0/partition.metadata"));

        let meta = MetaProperties::parse(fixture!("meta.properties")).unwrap();
        assert_eq!(meta.node_id, BrokerId(0));
        assert_eq!(meta.cluster_id, "MkU3OEVBNTcwNTJENDM2Qg");
        // Sat Nov 21 11:55:47 UTC 2026
        assert_eq!(meta.format(1_795_262_147_000), fixture!("meta.properties"));
    }

    #[test]
    fn malformed_metadata_is_told() {
        let told = |text: &str| PartitionMetadata::parse(text).unwrap_err().to_string();
        assert_eq!(told(""), "line 1 is not `version: ` and a number");
        assert_eq!(
            told("version: -1\n"),
            "line 1 is not `version: ` and a number"
        );
        assert_eq!(
            told("version: 0\n"),
            "line 2 is not `topic_id: ` and a topic id"
        );
        assert_eq!(
            told("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAA"),
            told("version: 0\n")
        );

        let told = |text: &str| MetaProperties::parse(text).unwrap_err().to_string();
        assert_eq!(told(""), "version is missing");
        assert_eq!(told("version=0\nbroker.id=1"), "version is not 1");
        assert_eq!(told("version=1\n"), "node.id is missing");
        assert_eq!(
            told("version=1\nnode.id=-1\n"),
            "node.id is not a node's number"
        );
        assert_eq!(told("version=1\nnode.id=1\n"), "cluster.id is missing");
        let text = "! hand-made\n version = 1\nnode.id: 7\ncluster.id=a\\=b\n\n";
        let meta = MetaProperties::parse(text).unwrap();
        assert_eq!(
            (meta.node_id, meta.cluster_id.as_str(), meta.directory_id),
            (BrokerId(7), "a=b", None)
        );
        assert_eq!(MetaProperties::parse(&meta.format(0)).unwrap(), meta);
    }

    #[test]
    fn dates_are_javas() {
        assert_eq!(java_date(0), "Thu Jan 01 00:00:00 UTC 1970");
        assert_eq!(java_date(951_782_399_999), "Mon Feb 28 23:59:59 UTC 2000");
        assert_eq!(java_date(951_782_400_000), "Tue Feb 29 00:00:00 UTC 2000");
        assert_eq!(java_date(4_107_542_400_000), "Mon Mar 01 00:00:00 UTC 2100");
        assert_eq!(java_date(-1), "Wed Dec 31 23:59:59 UTC 1969");
    }
}
