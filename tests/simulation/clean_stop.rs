//! What a clean stop leaves is believed by the starts after it, also when the first of them begins another segment at
//! once and loses power while it finishes the one before.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use coati::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use coati::io::Disk;
use coati::io::simulated::{Executor, SimulatedDisk};
use coati::log::{Log, LogContext, LogSettings, Opening, TailBudget};
use coati::protocol::batch::{BatchBuilder, ControlType, control_key};
use futures::future::LocalBoxFuture;

const START_MS: TimestampMs = 1_000_000;
/// From then on the log is idle.
const IDLE_MS: TimestampMs = START_MS + 1_000_000;
/// From then on a batch begins another segment.
const ROLL_MS: TimestampMs = START_MS + 2_000_000;
const PRODUCER: ProducerId = ProducerId(7);

fn dir() -> PathBuf {
    PathBuf::from("/data/t-0")
}

fn context(executor: &Executor, disk: &SimulatedDisk) -> LogContext {
    let disk = Disk::simulated(disk.clone());
    LogContext::new(disk, executor.spawner(), TailBudget::new(1 << 20))
}

fn settings() -> LogSettings {
    LogSettings {
        segment_ms: ROLL_MS - IDLE_MS,
        retention_ms: -1,
        ..LogSettings::default()
    }
}

fn records(time: TimestampMs) -> BatchBuilder {
    let mut builder = BatchBuilder::new().producer(PRODUCER, 0, 0).transactional();
    builder.append(time, None, Some(&[9; 500]), &[]);
    builder
}

fn abort(time: TimestampMs) -> BatchBuilder {
    let builder = BatchBuilder::new().producer(PRODUCER, 0, -1);
    let mut builder = builder.transactional().control();
    let key = control_key(ControlType::Abort);
    builder.append(time, Some(&key), Some(&[0; 6]), &[]);
    builder
}

fn append(log: &Rc<Log>, builder: BatchBuilder, time: TimestampMs) {
    let appended = log.append(&builder.build(), LeaderEpoch(0), time);
    appended.expect("no faults");
}

async fn open(context: LogContext, clean: bool, end: Option<Offset>) -> Rc<Log> {
    let opening = Opening {
        clean,
        recovery_point: end,
        ..Opening::default()
    };
    let opened = Log::open(context, dir(), settings(), opening, ROLL_MS).await;
    opened.expect("no faults").0
}

/// A power cut after so many steps of the second life; what is wrong then.
pub fn run(seed: u64, steps: usize) -> Result<(), String> {
    let disk = SimulatedDisk::new(seed);
    let first = live(&disk, seed, |context| {
        Box::pin(async move {
            context.disk.create_dir_all(&dir()).await.unwrap();
            context.disk.sync_dir(Path::new("/")).await.unwrap();
            let log = Log::create(context, dir(), None, settings(), START_MS).await;
            let log = log.unwrap();
            append(&log, records(START_MS), START_MS);
            append(&log, abort(START_MS), START_MS);
            log.flush().await.unwrap();
            log.tick(IDLE_MS).await.unwrap();
            let end = log.end_offset();
            let read = log.read(Offset(0), end, 1 << 20, true).await.unwrap();
            log.close().await.unwrap();
            (end, read.to_bytes())
        })
    });
    let (end, bytes) = first;
    let mut executor = Executor::new(seed, disk.clone());
    let opening = open(context(&executor, &disk), true, Some(end));
    let log = executor.run(opening);
    append(&log, records(ROLL_MS), ROLL_MS);
    for _ in 0..steps {
        executor.step();
    }
    drop((log, executor));
    disk.power_cut();
    let (read, aborted) = live(&disk, seed, |context| {
        Box::pin(async move {
            let log = open(context, false, Some(end)).await;
            let read = log.read(Offset(0), end, 1 << 20, true).await.unwrap();
            let aborted = log.aborted_transactions(Offset(0), end).await.unwrap();
            (read.to_bytes(), aborted)
        })
    });
    if read != bytes {
        let (read, bytes) = (read.len(), bytes.len());
        return Err(format!("{read} bytes where there were {bytes}"));
    }
    match aborted.len() {
        1 => Ok(()),
        others => Err(format!("{others} aborted transactions where there was one")),
    }
}

/// A life on the disk; nothing of it goes on when it is over.
fn live<T: 'static>(
    disk: &SimulatedDisk,
    seed: u64,
    work: impl FnOnce(LogContext) -> LocalBoxFuture<'static, T>,
) -> T {
    let mut executor = Executor::new(seed, disk.clone());
    let result = executor.run(work(context(&executor, disk)));
    drop(executor);
    disk.kill();
    result
}
