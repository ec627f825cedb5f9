//! Owns how records are shown: plain ones as text or bytes, those of Kafka's own logs decoded.

use std::fmt::Debug;
use std::io;
use std::path::Path;

use bytes::Bytes;

use super::Report;
use crate::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use crate::protocol::DecodeError;
use crate::protocol::batch::{self, Batch, Record};
use crate::protocol::records::{group, metadata, share, transaction};

/// Whose records a segment holds, by its folder's name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Contents {
    Plain,
    Metadata,
    Groups,
    Transactions,
    ShareGroups,
}

impl Contents {
    pub fn of(segment: &Path) -> Contents {
        let folder = segment.canonicalize().ok();
        let folder = folder
            .as_deref()
            .and_then(Path::parent)
            .and_then(Path::file_name);
        let folder = folder.unwrap_or_default().to_string_lossy();
        match folder.rsplit_once('-').map_or("", |(topic, _)| topic) {
            "__cluster_metadata" => Contents::Metadata,
            "__consumer_offsets" => Contents::Groups,
            "__transaction_state" => Contents::Transactions,
            "__share_group_state" => Contents::ShareGroups,
            _ => Contents::Plain,
        }
    }
}

/// Prints the records of a batch; what is wrong with the batch has been told.
pub fn print_records(batch: &Batch, contents: Contents, report: &mut Report<'_>) -> io::Result<()> {
    let Ok(records) = batch::records(batch, DECOMPRESSED_BATCH_BYTES_MAX) else {
        return Ok(());
    };
    for record in records.map_while(Result::ok) {
        let place = format!("    {}  {}", record.offset, record.timestamp);
        if batch.is_control() {
            report.line(format_args!("{place}  {}", control(&record)))?;
            continue;
        }
        match decoded(&record, contents) {
            Ok(Some(text)) => report.line(format_args!("{place}  {text}"))?,
            Ok(None) => report.line(format_args!("{place}  {}", plain(&record)))?,
            Err(error) => {
                report.line(format_args!("{place}  {}", plain(&record)))?;
                report.problem(format_args!("record {}: {error}", record.offset))?;
            }
        }
    }
    Ok(())
}

/// `None` for records that are just bytes.
fn decoded(record: &Record, contents: Contents) -> Result<Option<String>, DecodeError> {
    let (key, value) = (record.key.as_ref(), record.value.as_ref());
    Ok(match (contents, key, value) {
        (Contents::Metadata, _, Some(value)) => {
            Some(format!("{:?}", metadata::MetadataRecord::decode(value)?))
        }
        (Contents::Groups, Some(key), value) => {
            let key = group::Key::decode(key)?;
            let value = value
                .map(|value| group::Value::decode(key.record_type(), value))
                .transpose()?;
            Some(pair(&key, value.as_ref()))
        }
        (Contents::Transactions, Some(key), value) => {
            let key = transaction::Key::decode(key)?;
            let value = value
                .map(|value| transaction::Value::decode(key.record_type(), value))
                .transpose()?;
            Some(pair(&key, value.as_ref()))
        }
        (Contents::ShareGroups, Some(key), value) => {
            let key = share::Key::decode(key)?;
            let value = value
                .map(|value| share::Value::decode(key.record_type(), value))
                .transpose()?;
            Some(pair(&key, value.as_ref()))
        }
        _ => None,
    })
}

fn pair(key: &impl Debug, value: Option<&impl Debug>) -> String {
    match value {
        Some(value) => format!("{key:?} -> {value:?}"),
        None => format!("{key:?} -> deleted"),
    }
}

fn control(record: &Record) -> String {
    let kind = record.key.as_ref().and_then(|key| key.get(2..4));
    let name = match kind {
        Some([0, 0]) => "abort",
        Some([0, 1]) => "commit",
        Some([0, 2]) => "leader change",
        Some([0, 3]) => "snapshot header",
        Some([0, 4]) => "snapshot footer",
        Some([0, 5]) => "KRaft version",
        Some([0, 6]) => "KRaft voters",
        _ => "unknown control record",
    };
    format!("{name}  value {}", bytes(record.value.as_ref()))
}

fn plain(record: &Record) -> String {
    let mut text = format!(
        "key {}  value {}",
        bytes(record.key.as_ref()),
        bytes(record.value.as_ref())
    );
    for header in &record.headers {
        text += &format!("  header {} = {}", header.key, bytes(header.value.as_ref()));
    }
    text
}

/// Text in quotes, other bytes as hexadecimal.
fn bytes(bytes: Option<&Bytes>) -> String {
    let Some(bytes) = bytes else {
        return "null".to_owned();
    };
    match std::str::from_utf8(bytes) {
        Ok(text)
            if text
                .chars()
                .all(|letter| !letter.is_control() || letter.is_ascii_whitespace()) =>
        {
            format!("{text:?}")
        }
        _ => bytes
            .iter()
            .fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}")),
    }
}
