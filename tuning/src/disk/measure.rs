//! Owns one measurement: the files are made, every step of the plan gets its share of the time, and what it found is kept.
//! The folder, and that it goes again, is the caller's.

use std::cell::Cell;
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coati_bench::random::Random;
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::device::{Disk, File};
use super::load::{self, FileState, Load, Place};
use super::plan::{Division, Kind, Step};
use super::read;
use super::report::{Appends, Figures, Mixed, Reads};
use crate::progress::Progress;
use crate::scratch::{self, Folder};

const JOURNAL: &str = "journal";
const SEGMENT: &str = "segment";
const COLD: &str = "cold";

/// What it makes.
pub const SCRATCH: scratch::Kind = scratch::Kind {
    name: "coati-tune-disk",
    marker: "made-by-coati-tune-disk",
    marker_text: "Files of a measurement by `coati tune disk`. If none runs, they are leftovers of one that was killed; the next one removes them.\n",
    files: &[JOURNAL, SEGMENT, COLD],
    folders: &[],
};

/// What writes are cut out of: larger than any of them, and of bytes that no disk can make smaller.
const CONTENT_BYTES: usize = 4 << 20;
const CONTENT_SEED: u64 = 7;

/// Files are filled by writes of so many bytes, so many at a time.
const FILL_BYTES: usize = 1 << 20;
const FILL_DEPTH: usize = 4;

/// However little time is left, a step gets this.
const STEP_LEAST: Duration = Duration::from_millis(10);

#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    #[error(
        "the file system refuses direct I/O (O_DIRECT), which the broker writes with: it would go through the page cache, and so nothing was measured"
    )]
    NotDirect,
    #[error("the disk has become full; what the measurement had made is removed")]
    Full,
    #[error("{what}: {error}")]
    Io { what: String, error: io::Error },
}

struct Files<F> {
    journal: F,
    segment: F,
    cold: F,
}

/// Measures all `steps` in `seconds`, as far as making the files leaves so much.
pub async fn measure<D: Disk>(
    disk: &D,
    folder: &Folder,
    division: Division,
    (steps, seconds): (&[Step], f64),
    progress: &mut Progress,
) -> Result<Figures, MeasureError> {
    let began = disk.now();
    let end = began + Duration::from_secs_f64(seconds);
    let mut at = |now: Instant, what: &str| {
        let left = end.saturating_duration_since(now);
        progress.show(1.0 - left.as_secs_f64() / seconds, left, what);
    };
    at(began, "making the files");
    let content = content(disk);
    let files = made(
        "making the files",
        make(disk, folder, division, &content).await,
    )?;
    if !disk.is_direct() {
        return Err(MeasureError::NotDirect);
    }
    let refuses_allocation = Cell::new(false);
    let place = |load: Load| {
        let (file, length) = match load.file {
            FileState::Zeroed => (&files.journal, division.journal),
            FileState::Growing | FileState::Allocated => (&files.segment, division.segment),
        };
        Place {
            disk,
            file,
            length,
            content: &content,
            refuses_allocation: &refuses_allocation,
        }
    };
    let mut figures = Figures {
        preparing_seconds: (disk.now() - began).as_secs_f64(),
        ..Figures::default()
    };
    let mut weight_left: u32 = steps.iter().map(|step| step.weight).sum();
    for step in steps {
        let now = disk.now();
        let what = step.kind.to_string();
        at(now, &what);
        let share = end.saturating_duration_since(now) * step.weight / weight_left;
        let until = now + share.max(STEP_LEAST);
        weight_left -= step.weight;
        match step.kind {
            Kind::Append(load) => {
                let appended = load::append(&place(load), load, until).await;
                let appends = Appends::of(load, &made(&what, appended)?);
                figures.appends.push(appends);
            }
            Kind::Read(readers) => {
                let read = read::read(disk, &files.cold, division.cold, readers, until).await;
                figures.reads.push(Reads::of(readers, &made(&what, read)?));
            }
            Kind::Mixed(load, readers) => {
                let place = place(load);
                let appending = load::append(&place, load, until);
                let reading = read::read(disk, &files.cold, division.cold, readers, until);
                let both = futures::future::try_join(appending, reading).await;
                let (appended, read) = made(&what, both)?;
                figures.mixed.push(Mixed {
                    append: Appends::of(load, &appended),
                    read: Reads::of(readers, &read),
                });
            }
        }
    }
    figures.refuses_allocation = refuses_allocation.get();
    Ok(figures)
}

fn made<T>(what: &str, result: io::Result<T>) -> Result<T, MeasureError> {
    result.map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => MeasureError::Full,
        _ => MeasureError::Io {
            what: what.to_owned(),
            error,
        },
    })
}

fn content<D: Disk>(disk: &D) -> Bytes {
    let mut random = Random::new(CONTENT_SEED);
    let words = std::iter::repeat_with(|| random.next_number().to_le_bytes());
    let content: Vec<u8> = words.take(CONTENT_BYTES / 8).flatten().collect();
    disk.aligned(&content)
}

async fn make<D: Disk>(
    disk: &D,
    folder: &Folder,
    division: Division,
    content: &Bytes,
) -> io::Result<Files<D::File>> {
    let journal = disk.create(&folder.path_of(JOURNAL)).await?;
    let zeroes = disk.aligned(&vec![0; FILL_BYTES]);
    fill(&journal, division.journal, &zeroes).await?;
    let cold = disk.create(&folder.path_of(COLD)).await?;
    fill(&cold, division.cold, content).await?;
    let segment = disk.create(&folder.path_of(SEGMENT)).await?;
    Ok(Files {
        journal,
        segment,
        cold,
    })
}

/// Makes the file as long, of `content` over and over, on stable storage.
async fn fill<F: File>(file: &F, length: u64, content: &Bytes) -> io::Result<()> {
    match file.allocate(0, length).await {
        Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
        _ => {}
    }
    let mut writes = FuturesUnordered::new();
    for position in (0..length).step_by(FILL_BYTES) {
        let bytes = FILL_BYTES.min((length - position) as usize);
        let at = (position % content.len() as u64) as usize;
        writes.push(file.write(content.slice(at..at + bytes), position));
        if writes.len() >= FILL_DEPTH
            && let Some(written) = writes.next().await
        {
            written?;
        }
    }
    while let Some(written) = writes.next().await {
        written?;
    }
    drop(writes);
    file.sync().await
}
