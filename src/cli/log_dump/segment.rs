//! Owns the walk through one segment: each batch is printed and verified, one in memory at a time.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::contents::{self, Contents};
use super::{Report, base_offset};
use crate::ids::{Offset, TimestampMs};
use crate::limits::DECOMPRESSED_BATCH_BYTES_MAX;
use crate::protocol::batch::{self, Batch, BatchError, HEADER_BYTES, TimestampType};

/// What a segment was found to hold.
pub struct Scan {
    pub path: PathBuf,
    pub base_offset: Offset,
    /// Behind the last good batch, `None` without one.
    pub next_offset: Option<Offset>,
    /// In the order of the file.
    batches: Vec<BatchPlace>,
}

#[derive(Clone, Copy, Debug)]
pub struct BatchPlace {
    position: u64,
    pub last_offset: Offset,
    max_timestamp: TimestampMs,
}

impl Scan {
    pub fn batch_at(&self, position: u64) -> Option<BatchPlace> {
        let found = self
            .batches
            .binary_search_by_key(&position, |batch| batch.position);
        found.ok().map(|number| self.batches[number])
    }

    /// The largest timestamp of all batches up to the one that ends with `offset`.
    pub fn largest_timestamp_upto(&self, offset: Offset) -> Option<TimestampMs> {
        let end = self
            .batches
            .iter()
            .position(|batch| batch.last_offset == offset)?;
        self.batches[..=end]
            .iter()
            .map(|batch| batch.max_timestamp)
            .max()
    }
}

/// What comes next in the file.
enum Next {
    Batch(Batch),
    /// Room that the broker has allocated ahead of its data.
    Zeroes(u64),
    Bad(String),
    End,
}

/// Walks the segment, or the snapshot of the metadata log, at `path`; prints and verifies if there is a report.
pub fn scan(path: &Path, mut report: Option<&mut Report<'_>>) -> io::Result<Scan> {
    let file = File::open(path)?;
    let mut left = file.metadata()?.len();
    let mut reader = BufReader::with_capacity(1 << 16, file);
    let is_snapshot = path
        .extension()
        .is_some_and(|extension| extension == "checkpoint");
    let named = base_offset(path);
    let mut scan = Scan {
        path: path.to_owned(),
        base_offset: named.unwrap_or(Offset(0)),
        next_offset: None,
        batches: Vec::new(),
    };
    if named.is_none()
        && let Some(report) = report.as_deref_mut()
    {
        report.problem("no offset in its name")?;
    }
    let contents = Contents::of(path);
    // Offsets of a snapshot are its own, from 0, whatever its name.
    let mut expected = if is_snapshot {
        Offset(0)
    } else {
        scan.base_offset
    };
    let mut position = 0;
    loop {
        let batch = match next(&mut reader, left)? {
            Next::Batch(batch) => batch,
            Next::Zeroes(count) => {
                if let Some(report) = report {
                    report.line(format_args!(
                        "  position {position}  {count} bytes of zeroes, allocated ahead"
                    ))?;
                }
                break;
            }
            Next::Bad(problem) => {
                if let Some(report) = report {
                    report.problem(format_args!(
                        "position {position}: {problem}; {left} bytes are left"
                    ))?;
                }
                break;
            }
            Next::End => break,
        };
        if let Some(report) = report.as_deref_mut() {
            print_batch(&batch, position, report)?;
            check_batch(&batch, expected, scan.next_offset.is_none(), report)?;
            if report.records {
                contents::print_records(&batch, contents, report)?;
            }
        }
        scan.batches.push(BatchPlace {
            position,
            last_offset: batch.last_offset(),
            max_timestamp: batch.max_timestamp(),
        });
        expected = batch.next_offset();
        scan.next_offset = Some(expected);
        position += batch.size_in_bytes() as u64;
        left -= batch.size_in_bytes() as u64;
    }
    Ok(scan)
}

fn next(reader: &mut impl Read, left: u64) -> io::Result<Next> {
    if left == 0 {
        return Ok(Next::End);
    }
    let mut head = vec![0; HEADER_BYTES.min(left as usize)];
    reader.read_exact(&mut head)?;
    if head.iter().all(|byte| *byte == 0) {
        return Ok(match only_zeroes(reader)? {
            true => Next::Zeroes(left),
            false => Next::Bad("zeroes with data behind them".to_owned()),
        });
    }
    let size = match batch::BatchHeader::peek(&head).map(|header| header.size()) {
        Some(Ok(size)) if size as u64 <= left => size,
        Some(Ok(size)) => return Ok(Next::Bad(format!("a batch of {size} bytes is cut short"))),
        Some(Err(error)) => return Ok(Next::Bad(error.to_string())),
        None => return Ok(Next::Bad("a batch's header is cut short".to_owned())),
    };
    head.resize(size, 0);
    reader.read_exact(&mut head[HEADER_BYTES..])?;
    Ok(match Batch::parse(&Bytes::from(head)) {
        Ok(batch) => Next::Batch(batch),
        Err(error) => Next::Bad(error.to_string()),
    })
}

fn only_zeroes(reader: &mut impl Read) -> io::Result<bool> {
    let mut block = vec![0; 1 << 16];
    loop {
        match reader.read(&mut block)? {
            0 => return Ok(true),
            count if block[..count].iter().any(|byte| *byte != 0) => return Ok(false),
            _ => {}
        }
    }
}

fn print_batch(batch: &Batch, position: u64, report: &mut Report<'_>) -> io::Result<()> {
    let time = match batch.timestamp_type() {
        TimestampType::CreateTime => "CreateTime",
        TimestampType::LogAppendTime => "LogAppendTime",
    };
    let mut line = format!(
        "  offsets {}..{}  position {position}  size {}  records {}  {}  {time} {}  leader epoch {}  crc {:08x}",
        batch.base_offset(),
        batch.last_offset(),
        batch.size_in_bytes(),
        batch.records_count(),
        batch.codec().name(),
        batch.max_timestamp(),
        batch.partition_leader_epoch(),
        batch.crc(),
    );
    if batch.has_producer_id() {
        let (first, last) = (batch.base_sequence(), batch.last_sequence());
        line += &format!(
            "  producer {} epoch {}",
            batch.producer_id(),
            batch.producer_epoch()
        );
        line += &if first < 0 {
            String::new()
        } else {
            format!(" sequences {first}..{last}")
        };
    }
    for (is_so, word) in [
        (batch.is_transactional(), "transactional"),
        (batch.is_control(), "control"),
    ] {
        line += &if is_so {
            format!("  {word}")
        } else {
            String::new()
        };
    }
    if let Some(horizon) = batch.delete_horizon_ms() {
        line += &format!("  tombstones kept until {horizon}");
    }
    report.line(line)
}

fn check_batch(
    batch: &Batch,
    expected: Offset,
    is_first: bool,
    report: &mut Report<'_>,
) -> io::Result<()> {
    if let Err(error) = batch.verify_crc() {
        report.problem(error)?;
    }
    let base = batch.base_offset();
    if base < expected {
        report.problem(format_args!(
            "offset {base} where {expected} is the least that can follow"
        ))?;
    } else if base > expected && !report.holes {
        // Deleting records up to an offset leaves a segment's first batch where it is.
        let problem = if is_first {
            "the segment's name says"
        } else {
            "the batch before leads to"
        };
        report.problem(format_args!("offset {base}, {problem} {expected}"))?;
    }
    match batch::records(batch, DECOMPRESSED_BATCH_BYTES_MAX) {
        Ok(mut records) => {
            if let Some(error) = records.find_map(Result::err) {
                report.problem(error)?;
            }
            Ok(())
        }
        Err(BatchError::Compression(error)) => report.problem(error),
        Err(error) => report.problem(error),
    }
}
