//! Owns loading a file with readers that go through it one after another piece, each from a place of its own, as consumers that
//! have fallen behind do.

use std::cell::RefCell;
use std::io;
use std::time::{Duration, Instant};

use coati_bench::latency::Latencies;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};

use super::device::{BLOCK, Disk, File};
use super::load::in_words;

/// Readers of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readers {
    /// That each reads at a time.
    pub bytes: usize,
    pub readers: usize,
}

impl std::fmt::Display for Readers {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let size = in_words(self.bytes as u64);
        match self.readers {
            1 => write!(out, "cold reads of {size}, one reader"),
            many => write!(out, "cold reads of {size}, {many} readers"),
        }
    }
}

/// What became of reading.
#[derive(Debug, Default)]
pub struct Read {
    pub reads: u64,
    pub bytes: u64,
    pub time: Duration,
    pub latencies: Latencies,
}

/// Reads until the time has come, round and round in a file of this length.
pub async fn read<D: Disk>(
    disk: &D,
    file: &D::File,
    length: u64,
    load: Readers,
    until: Instant,
) -> io::Result<Read> {
    assert!(load.bytes.is_multiple_of(BLOCK) && load.bytes as u64 <= length);
    let total = RefCell::new(Read::default());
    let began = disk.now();
    let pieces = length / load.bytes as u64;
    let one = async |first: u64| -> io::Result<()> {
        let mut piece = first % pieces;
        loop {
            let began = disk.now();
            if began >= until {
                return Ok(());
            }
            let count = file.read(piece * load.bytes as u64, load.bytes).await?;
            if count < load.bytes {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let total = &mut *total.borrow_mut();
            total.latencies.record(disk.now() - began);
            total.reads += 1;
            total.bytes += count as u64;
            piece = (piece + 1) % pieces;
        }
    };
    let readers = load.readers as u64;
    try_join_all((0..readers).map(|number| one(pieces * number / readers))).await?;
    let mut total = total.into_inner();
    total.time = disk.now() - began;
    Ok(total)
}
