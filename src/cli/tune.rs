//! `coati tune`: hands what the kernel says of its io_uring to the tuners, and the broker's own way to a disk to what measures
//! it.

use std::path::Path;
use std::time::Instant;

use bytes::Bytes;
use coati_tuning::disk::{self, DiskArgs, Space};
use coati_tuning::{Ending, Told, TuneArgs, TuneError};
use glommio::{LocalExecutorBuilder, Placement};

use super::{Failure, Outcome, print};
use crate::io::process::{self, FolderLock, StopSignals};
use crate::io::{AppendBuffer, Disk, File, Mode, clock, probe, ring, space, watchdog};

const EXECUTOR_NAME: &str = "tune";

pub fn run(args: TuneArgs) -> Outcome {
    let ring = || probe::features().map_err(|error| error.to_string());
    let told = args.run(ring, on_executor)?;
    print(&told.text)?;
    match told.ending {
        Ending::Well => Ok(()),
        Ending::Interrupted => Err(Failure::Interrupted),
        Ending::Found(code) => Err(Failure::Found(code)),
        Ending::Failed(error) => Err(error.into()),
    }
}

/// One as the broker's first core has.
fn on_executor(args: DiskArgs) -> Result<Told, TuneError> {
    let failed = |error: &dyn std::fmt::Display| TuneError::Executor(error.to_string());
    process::block_stop_signals().map_err(|error| failed(&error))?;
    let cpus = process::allowed_cpus().map_err(|error| failed(&error))?;
    let placement = cpus
        .first()
        .map_or(Placement::Unbound, |cpu| Placement::Fixed(*cpu));
    let watch = watchdog::watch(EXECUTOR_NAME);
    let executor = LocalExecutorBuilder::new(placement)
        .name(EXECUTOR_NAME)
        .spawn(move || async move {
            drop(watch);
            ring::init_thread().map_err(|error| TuneError::Executor(error.to_string()))?;
            let signals = StopSignals::watch();
            let signals = signals.map_err(|error| TuneError::Executor(error.to_string()))?;
            let disk = Measured {
                disk: Disk::direct(),
                signals,
            };
            args.run(disk).await.map_err(TuneError::from)
        });
    let joined = executor.and_then(|executor| executor.join());
    joined.map_err(|error| failed(&error))?
}

struct Measured {
    disk: Disk,
    signals: StopSignals,
}

/// For writes, and for reads as of records that are in no memory.
#[derive(Clone)]
struct MeasuredFile {
    writer: File,
    reader: File,
}

impl disk::Disk for Measured {
    type File = MeasuredFile;

    fn now(&self) -> Instant {
        clock::now()
    }

    async fn create(&self, path: &Path) -> std::io::Result<MeasuredFile> {
        let writer = self.disk.open(path, Mode::Create).await?;
        let reader = self.disk.open(path, Mode::Serve).await?;
        reader.read_nothing_ahead();
        Ok(MeasuredFile { writer, reader })
    }

    fn is_direct(&self) -> bool {
        self.disk.is_direct()
    }

    fn aligned(&self, content: &[u8]) -> Bytes {
        let mut buffer = AppendBuffer::with_capacity(content.len());
        let range = buffer.append(content);
        buffer.slice(range)
    }

    fn space(&self, folder: &Path) -> std::io::Result<Space> {
        let space::DiskSpace { total, usable } = space::disk_space(folder)?;
        Ok(Space { total, usable })
    }

    fn is_in_use(&self, folder: &Path) -> bool {
        FolderLock::is_held(folder)
    }

    async fn interrupted(&self) {
        // A signal that cannot be waited for never comes.
        if self.signals.next().await.is_err() {
            std::future::pending().await
        }
    }
}

impl disk::File for MeasuredFile {
    async fn write(&self, bytes: Bytes, position: u64) -> std::io::Result<()> {
        self.writer.write_at(vec![bytes], position).await
    }

    async fn read(&self, position: u64, length: usize) -> std::io::Result<usize> {
        let range = self.reader.range(position, length as u32);
        let range = range.expect("real files have ranges");
        Ok(range.read(position, length).await?.len())
    }

    async fn sync(&self) -> std::io::Result<()> {
        self.writer.sync_data().await
    }

    async fn truncate(&self, length: u64) -> std::io::Result<()> {
        self.writer.truncate(length).await
    }

    async fn allocate(&self, from: u64, length: u64) -> std::io::Result<()> {
        self.writer.allocate(from, length).await
    }
}
