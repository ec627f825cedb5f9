//! Owns `coati log dump`: shows what Kafka's log files hold and says what is wrong with them. It reads
//! files only, needs no broker, and changes nothing.

mod contents;
mod segment;

use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::Outcome;
use crate::ids::Offset;
use crate::log::checkpoints::{
    self, CleanShutdown, FormatError, MetaProperties, PartitionMetadata,
};
use crate::log::epochs::EpochCache;
use crate::log::offset_index::OffsetIndex;
use crate::log::producers::ProducerStates;
use crate::log::time_index::TimeIndex;
use crate::log::transaction_index::TransactionIndex;
use segment::Scan;

/// Print the batches of Kafka log files, and verify checksums, offsets and indexes.
#[derive(Debug, Clone, clap::Args)]
pub struct DumpArgs {
    /// Folders (of a partition, or a whole data folder) and single files
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Print the records of each batch as well
    #[arg(long)]
    pub records: bool,
    /// Holes between offsets are no problem: compacted logs have them
    #[arg(long)]
    pub holes: bool,
}

/// Prints and verifies; fails when anything is wrong with a file, or one can't be read.
pub fn run(args: &DumpArgs) -> Outcome {
    let mut out = BufWriter::new(io::stdout().lock());
    let finished = dump(args, &mut out).and_then(|problems| out.flush().map(|()| problems));
    match finished {
        Ok(0) => Ok(()),
        Ok(problems) => Err(format!("problems found: {problems}").into()),
        // Whoever reads has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns how many problems were found.
fn dump(args: &DumpArgs, out: &mut dyn Write) -> io::Result<usize> {
    let mut report = Report {
        out,
        records: args.records,
        holes: args.holes,
        problems: 0,
        scan: None,
    };
    for path in &args.paths {
        dump_path(path, &mut report)?;
    }
    let problems = report.problems;
    if problems == 0 {
        writeln!(out, "No problems.")?;
    }
    Ok(problems)
}

/// Where output goes and what is known so far.
struct Report<'a> {
    out: &'a mut dyn Write,
    records: bool,
    holes: bool,
    problems: usize,
    /// The segment scanned last: its indexes come next.
    scan: Option<Scan>,
}

impl Report<'_> {
    fn line(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        writeln!(self.out, "{text}")
    }

    fn problem(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        self.problems += 1;
        writeln!(self.out, "  PROBLEM: {text}")
    }
}

fn dump_path(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    if !path.is_dir() {
        return dump_file(path, report);
    }
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        entries.push(entry?.path());
    }
    entries.sort_by_key(|path| (path.is_dir(), sort_key(path)));
    let mut next_offset: Option<Offset> = None;
    for entry in entries {
        dump_path(&entry, report)?;
        let is_segment = entry
            .extension()
            .is_some_and(|extension| extension == "log");
        if let Some(scan) = report
            .scan
            .as_ref()
            .filter(|scan| is_segment && scan.path == entry)
        {
            let (base, end) = (scan.base_offset, scan.next_offset);
            if let Some(expected) = next_offset
                && (base < expected || base > expected && !report.holes)
            {
                report.problem(format_args!("the segment before ends at offset {expected}"))?;
            }
            next_offset = end.or(next_offset);
        }
    }
    Ok(())
}

/// A segment before its indexes, segments in order.
fn sort_key(path: &Path) -> (String, u8, String) {
    let stem = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    (stem, u8::from(extension != "log"), extension)
}

fn dump_file(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let extension = path
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    if name == ".lock" || extension == "deleted" || extension == "tmp" {
        return Ok(());
    }
    report.line(format_args!("{}", path.display()))?;
    match (name.as_str(), extension.as_str()) {
        (_, "log" | "checkpoint") => {
            let scan = segment::scan(path, Some(report))?;
            report.scan = Some(scan);
            Ok(())
        }
        (_, "index") => dump_offset_index(path, report),
        (_, "timeindex") => dump_time_index(path, report),
        (_, "txnindex") => dump_transaction_index(path, report),
        (_, "snapshot") => dump_snapshot(path, report),
        (checkpoints::LEADER_EPOCH_FILE, _) => text(path, report, |text| {
            EpochCache::parse(text).map(|epochs| {
                epochs
                    .iter()
                    .map(|entry| {
                        format!("epoch {} from offset {}", entry.epoch, entry.start_offset)
                    })
                    .collect()
            })
        }),
        (
            checkpoints::RECOVERY_POINT_FILE
            | checkpoints::LOG_START_OFFSET_FILE
            | checkpoints::HIGH_WATERMARK_FILE
            | checkpoints::CLEANER_OFFSET_FILE,
            _,
        ) => text(path, report, |text| {
            checkpoints::parse_offsets(text).map(|offsets| {
                offsets
                    .iter()
                    .map(|((topic, partition), offset)| format!("{topic}-{partition} {offset}"))
                    .collect()
            })
        }),
        (checkpoints::PARTITION_METADATA_FILE, _) => text(path, report, |text| {
            PartitionMetadata::parse(text)
                .map(|partition| vec![format!("topic id {}", partition.topic_id)])
        }),
        (checkpoints::META_PROPERTIES_FILE, _) => text(path, report, |text| {
            MetaProperties::parse(text).map(|meta| {
                let directory = meta
                    .directory_id
                    .map_or("none".to_owned(), |id| id.to_string());
                vec![format!(
                    "node {}  cluster {}  folder {directory}",
                    meta.node_id, meta.cluster_id
                )]
            })
        }),
        (checkpoints::CLEAN_SHUTDOWN_FILE, _) => text(path, report, |text| {
            let epoch = CleanShutdown::parse(text).broker_epoch;
            Ok(vec![format!(
                "a clean stop, broker epoch {}",
                epoch.map_or("unknown".to_owned(), |e| e.to_string())
            )])
        }),
        ("quorum-state", _) => text(path, report, |text| Ok(vec![text.trim_end().to_owned()])),
        _ => report.line("  (not a file of the log)"),
    }
}

fn text(
    path: &Path,
    report: &mut Report<'_>,
    lines: impl FnOnce(&str) -> Result<Vec<String>, FormatError>,
) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let Ok(content) = std::str::from_utf8(&bytes) else {
        return report.problem("it is not text");
    };
    match lines(content) {
        Ok(lines) => lines
            .iter()
            .try_for_each(|line| report.line(format_args!("  {line}"))),
        Err(error) => report.problem(error),
    }
}

/// The offset in a segment file's name.
fn base_offset(path: &Path) -> Option<Offset> {
    let stem = path.file_stem()?.to_str()?;
    // Snapshots of the metadata log have an epoch behind the offset.
    let digits = stem.split('-').next()?;
    let offset = digits.parse().ok().filter(|offset| *offset >= 0)?;
    Some(Offset(offset))
}

/// The scan of the segment that an index belongs to, if the segment is there.
fn segment_of(index: &Path, report: &mut Report<'_>) -> io::Result<Option<Scan>> {
    let segment = index.with_extension("log");
    if let Some(scan) = report.scan.take_if(|scan| scan.path == segment) {
        return Ok(Some(scan));
    }
    match segment.exists() {
        true => segment::scan(&segment, None).map(Some),
        false => Ok(None),
    }
}

fn dump_offset_index(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let Some(base) = base_offset(path) else {
        return report.problem("no offset in its name");
    };
    let index = match OffsetIndex::decode(base, &fs::read(path)?) {
        Ok(index) => index,
        Err(error) => return report.problem(error),
    };
    let scan = segment_of(path, report)?;
    for entry in index.iter() {
        report.line(format_args!(
            "  offset {}  position {}",
            entry.offset, entry.position
        ))?;
        let Some(scan) = &scan else { continue };
        match scan.batch_at(u64::from(entry.position)) {
            Some(batch) if batch.last_offset == entry.offset => {}
            Some(batch) => report.problem(format_args!(
                "the batch there ends at {}",
                batch.last_offset
            ))?,
            None => report.problem("no batch begins there")?,
        }
    }
    report.scan = scan;
    Ok(())
}

fn dump_time_index(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let Some(base) = base_offset(path) else {
        return report.problem("no offset in its name");
    };
    let index = match TimeIndex::decode(base, &fs::read(path)?) {
        Ok(index) => index,
        Err(error) => return report.problem(error),
    };
    let scan = segment_of(path, report)?;
    for entry in index.iter() {
        report.line(format_args!(
            "  timestamp {}  offset {}",
            entry.timestamp, entry.offset
        ))?;
        let Some(scan) = &scan else { continue };
        match scan.largest_timestamp_upto(entry.offset) {
            Some(largest) if largest == entry.timestamp => {}
            Some(largest) => {
                report.problem(format_args!("up to there the largest is {largest}"))?
            }
            None => report.problem("the segment has no such offset")?,
        }
    }
    report.scan = scan;
    Ok(())
}

fn dump_transaction_index(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let Some(base) = base_offset(path) else {
        return report.problem("no offset in its name");
    };
    match TransactionIndex::decode(base, &fs::read(path)?) {
        Ok(index) => index.iter().try_for_each(|entry| {
            report.line(format_args!(
                "  aborted: producer {}  offsets {} to {}  last stable offset {}",
                entry.producer_id, entry.first_offset, entry.last_offset, entry.last_stable_offset
            ))
        }),
        Err(error) => report.problem(error),
    }
}

fn dump_snapshot(path: &Path, report: &mut Report<'_>) -> io::Result<()> {
    let Some(end_offset) = base_offset(path) else {
        return report.problem("no offset in its name");
    };
    match ProducerStates::decode_snapshot(end_offset, &fs::read(path)?) {
        Ok(states) => states.active().try_for_each(|producer| {
            let open = producer.transaction_first_offset;
            report.line(format_args!(
                "  producer {}  epoch {}  last sequence {}  last timestamp {}  coordinator epoch {}{}",
                producer.producer_id,
                producer.producer_epoch,
                producer.last_sequence,
                producer.last_timestamp,
                producer.coordinator_epoch,
                open.map_or(String::new(), |offset| format!("  transaction open since offset {offset}")),
            ))
        }),
        Err(error) => report.problem(error),
    }
}

#[cfg(test)]
mod tests;
