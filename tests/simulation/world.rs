//! One run: lives of a log between crashes, with everything random from one seed.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use coati::ids::{LeaderEpoch, Offset, PartitionIndex, TimestampMs};
use coati::io::Disk;
use coati::io::entropy::Random;
use coati::io::simulated::{Executor, SimulatedDisk};
use coati::log::checkpoints::{LOG_START_OFFSET_FILE, RECOVERY_POINT_FILE, format_offsets};
use coati::log::directory;
use coati::log::{
    FlushPolicy, Log, LogContext, LogError, LogSettings, Opening, Sabotage, TailBudget, WriteLimits,
};
use coati::protocol::Records;

use crate::model::Model;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// No recovery of these small logs takes more steps.
const STEPS_MAX: usize = 200_000;

pub struct World {
    random: Random,
    disk: SimulatedDisk,
    settings: LogSettings,
    sabotage: Sabotage,
    model: Rc<RefCell<Model>>,
    now_ms: TimestampMs,
    trace: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    PowerCut,
    Kill,
    Clean,
}

fn root() -> PathBuf {
    PathBuf::from("/data")
}

fn log_dir() -> PathBuf {
    root().join("t-0")
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.next_u64());
        let settings = LogSettings {
            segment_bytes: 10_000 + random.below(60_000) as u32,
            segment_ms: 1_000 + random.below(100_000) as i64,
            retention_ms: if random.chance(1, 2) {
                -1
            } else {
                random.below(200_000) as i64
            },
            retention_bytes: if random.chance(1, 2) {
                -1
            } else {
                random.below(200_000) as i64
            },
            index_interval_bytes: random.below(5_000) as u32,
            file_delete_delay_ms: random.below(30_000) as i64,
            flush_policy: if random.chance(1, 5) {
                FlushPolicy::Os
            } else {
                FlushPolicy::Durable
            },
            flush_ms: u64::MAX,
            preallocate: random.chance(1, 8),
            ..LogSettings::default()
        };
        World {
            random,
            disk,
            settings,
            sabotage,
            model: Rc::default(),
            now_ms: 1_000_000,
            trace: Vec::new(),
        }
    }

    /// What happened, for comparing runs.
    pub fn trace(&self) -> Vec<String> {
        self.trace.clone()
    }

    pub fn run(&mut self) -> Result<(), String> {
        let mut executor = self.executor();
        let disk = Disk::simulated(self.disk.clone());
        let prepare = async move {
            disk.create_dir_all(&root()).await?;
            disk.sync_dir(Path::new("/")).await
        };
        executor.run(prepare).expect("no faults yet");
        let mut log = self.create(&mut executor)?;
        for _ in 0..1 + self.random.below(4) {
            let end = self.live(&mut executor, &log)?;
            // A device that failed a sync may have lost what it had taken.
            let failed = self.disk.take_failed_sync();
            drop(log);
            drop(executor);
            match end {
                End::PowerCut => self.disk.power_cut(),
                End::Kill => self.disk.kill(),
                End::Clean => {}
            }
            (executor, log) = self.recover(end, failed)?;
            self.check(&mut executor, &log)?;
        }
        Ok(())
    }

    fn executor(&mut self) -> Executor {
        Executor::new(self.random.next_u64(), self.disk.clone())
    }

    fn context(&mut self, executor: &Executor) -> LogContext {
        let disk = Disk::simulated(self.disk.clone());
        let budget = TailBudget::new(self.random.below(200_000) as usize);
        let mut context = LogContext::new(disk, executor.spawner(), budget);
        context.producer_id_expiration_ms.set(i64::MAX);
        context.sabotage = self.sabotage;
        if self.random.chance(3, 4) {
            // With the real sizes hardly any simulated batch would be written beside another.
            context.writes = WriteLimits {
                most_bytes: 1 << (12 + self.random.below(7)),
                least_bytes_beside: 1 << self.random.below(15),
                in_flight: 1 + self.random.below(5) as usize,
            };
        }
        context
    }

    fn create(&mut self, executor: &mut Executor) -> Result<Rc<Log>, String> {
        let context = self.context(executor);
        let create = Log::create(
            context,
            log_dir(),
            Some("version: 0\ntopic_id: AAAAAAAAAAAAAAAAAAAAAQ\n"),
            self.settings.clone(),
            self.now_ms,
        );
        executor.run(create).map_err(|error| error.to_string())
    }

    /// Lets the log work until its life ends.
    fn live(&mut self, executor: &mut Executor, log: &Rc<Log>) -> Result<End, String> {
        let actions = match self.random.below(4) {
            0 => self.random.below(10),
            1 => self.random.below(400),
            _ => self.random.below(100),
        };
        for _ in 0..actions {
            self.act(executor, log);
            for _ in 0..self.random.below(12) {
                executor.step();
            }
            self.note_promises(log);
            self.check_problems()?;
        }
        let end = match self.random.below(5) {
            0 | 1 => End::PowerCut,
            2 | 3 => End::Kill,
            _ => End::Clean,
        };
        if end == End::Clean && self.stop_cleanly(executor, log) {
            return Ok(End::Clean);
        }
        let end = if end == End::Clean { End::Kill } else { end };
        self.trace.push(format!(
            "{end:?} at {} {:?}",
            log.end_offset(),
            log.failure()
        ));
        Ok(end)
    }

    fn act(&mut self, executor: &mut Executor, log: &Rc<Log>) {
        self.now_ms += self.random.below(200) as i64;
        match self.random.below(100) {
            0..60 => self.append(log),
            60..75 => self.read(executor, log),
            75..79 => self.search(executor, log),
            79..84 => {
                self.now_ms += self.random.below(15_000) as i64;
                let (log, now_ms) = (log.clone(), self.now_ms);
                executor.spawn(async move {
                    let _ = log.tick(now_ms).await;
                });
            }
            84..88 => {
                let (log, now_ms, high) = (log.clone(), self.now_ms, log.durable_end());
                executor.spawn(async move {
                    let _ = log.enforce_retention(now_ms, high).await;
                });
            }
            88..90 => self.delete_records(executor, log),
            90..93 => {
                let log = log.clone();
                executor.spawn(async move {
                    let _ = log.flush().await;
                });
            }
            93..96 => self.write_checkpoints(executor, log),
            96..98 => {
                let mut model = self.model.borrow_mut();
                model.epoch = LeaderEpoch(model.epoch.0 + 1);
            }
            98 => executor.settle(),
            _ if self.random.chance(1, 10) => {
                let number = if self.random.chance(1, 2) {
                    EIO
                } else {
                    ENOSPC
                };
                self.disk.fail_after(self.random.below(20), number);
            }
            _ => {}
        }
    }

    fn append(&mut self, log: &Rc<Log>) {
        let mut model = self.model.borrow_mut();
        let (batch, timestamps) = model.make_batch(&mut self.random, self.now_ms);
        match log.append(&batch, model.epoch, self.now_ms) {
            Ok(appended) => {
                if appended.base_offset != model.end() {
                    let problem = format!("appended at {}", appended.base_offset);
                    model.problems.push(problem);
                }
                model.on_appended(&batch, timestamps);
            }
            Err(LogError::BatchTooLarge { .. }) => {}
            Err(error) => assert_eq!(log.failure(), Some(error)),
        }
    }

    fn read(&mut self, executor: &mut Executor, log: &Rc<Log>) {
        let start = log.start_offset();
        let upto = match self.random.below(3) {
            0 => log.end_offset(),
            1 => log.durable_end(),
            _ => {
                let model = self.model.borrow();
                let index = self.random.below(model.batches.len() as u64 + 1) as usize;
                model
                    .batches
                    .get(index)
                    .map_or(model.end(), |batch| batch.base)
            }
        };
        let span = (log.end_offset().0 - start.0) as u64 + 1;
        let from = start.plus(self.random.below(span) as i64);
        let max_bytes = self.random.below(20_000) as usize;
        let at_least_one = self.random.chance(1, 2);
        let (log, model, disk) = (log.clone(), self.model.clone(), self.disk.clone());
        executor.spawn(async move {
            match log.read(from, upto, max_bytes, at_least_one).await {
                Ok(_) if disk.has_failed_sync() => {}
                Ok(records) => {
                    let problem = judge(
                        &model.borrow(),
                        &records,
                        from,
                        upto,
                        max_bytes,
                        at_least_one,
                    );
                    model.borrow_mut().problems.extend(problem);
                }
                Err(LogError::OffsetOutOfRange { .. }) if from < log.start_offset() => {}
                Err(error) => assert_eq!(log.failure(), Some(error)),
            }
        });
    }

    fn search(&mut self, executor: &mut Executor, log: &Rc<Log>) {
        let timestamp = self.now_ms - self.random.below(20_000) as i64;
        let (log, model, disk) = (log.clone(), self.model.clone(), self.disk.clone());
        executor.spawn(async move {
            let (start, end) = (log.start_offset(), log.end_offset());
            let Ok(found) = log.offset_for_timestamp(timestamp).await else {
                return;
            };
            // The files have lost what a failed sync had not stored; the log hears of it in a moment.
            if disk.has_failed_sync() {
                return;
            }
            let found = found.map(|found| (found.timestamp, found.offset));
            let mut model = model.borrow_mut();
            let expected = model.first_at(timestamp, start);
            // Batches may have gone while it looked; what came is not its business.
            let gone = log.start_offset() != start;
            let expected = expected.filter(|(_, offset)| *offset < end);
            if found != expected && !gone {
                let problem = format!("time {timestamp}: found {found:?}, not {expected:?}");
                model.problems.push(problem);
            }
        });
    }

    fn delete_records(&mut self, executor: &mut Executor, log: &Rc<Log>) {
        let (start, durable) = (log.start_offset(), log.durable_end());
        if durable <= start {
            return;
        }
        let offset = start.plus(self.random.below((durable.0 - start.0) as u64 / 2 + 1) as i64);
        let (log, disk, model) = (log.clone(), self.disk.clone(), self.model.clone());
        executor.spawn(async move {
            if log.delete_records_before(offset).await.is_ok() {
                let _answered = write_log_start(&Disk::simulated(disk), &log, &model).await;
            }
        });
    }

    fn write_checkpoints(&mut self, executor: &mut Executor, log: &Rc<Log>) {
        let disk = Disk::simulated(self.disk.clone());
        let (log, model) = (log.clone(), self.model.clone());
        executor.spawn(async move {
            let _ = write_checkpoints(&disk, &log, &model).await;
        });
    }

    fn stop_cleanly(&mut self, executor: &mut Executor, log: &Rc<Log>) -> bool {
        executor.settle();
        self.note_promises(log);
        let disk = Disk::simulated(self.disk.clone());
        let (stopping, model) = (log.clone(), self.model.clone());
        let stop = async move {
            stopping.close().await.is_ok()
                && write_checkpoints(&disk, &stopping, &model).await.is_ok()
                && directory::mark_clean(&disk, &root(), None).await.is_ok()
        };
        let stopped = executor.run(stop);
        if stopped {
            let mut model = self.model.borrow_mut();
            model.durable = log.end_offset();
            model.written = log.end_offset();
            drop(model);
            // Power may fail after a clean stop as well.
            executor.settle();
            if self.random.chance(1, 2) {
                self.disk.power_cut();
            }
            self.trace.push(format!("clean at {}", log.end_offset()));
        }
        stopped
    }

    fn note_promises(&mut self, log: &Rc<Log>) {
        let mut model = self.model.borrow_mut();
        model.written = model.written.max(log.written_end());
        model.start = model.start.max(log.start_offset());
        if self.settings.flush_policy == FlushPolicy::Durable {
            model.durable = model.durable.max(log.durable_end());
        }
        let ordered =
            log.durable_end() <= log.written_end() && log.written_end() <= log.end_offset();
        if !ordered || log.end_offset() != model.end() {
            let problem = format!(
                "ends out of order: {} {} {}, the model's is {}",
                log.durable_end(),
                log.written_end(),
                log.end_offset(),
                model.end()
            );
            model.problems.push(problem);
        }
    }

    /// Opens the log again, crashing on the way now and then.
    fn recover(&mut self, end: End, failed: bool) -> Result<(Executor, Rc<Log>), String> {
        let mut lost_power = failed || end == End::PowerCut;
        loop {
            let mut executor = self.executor();
            let context = self.context(&executor);
            let disk = Disk::simulated(self.disk.clone());
            let (settings, now_ms) = (self.settings.clone(), self.now_ms);
            let result = Rc::new(RefCell::new(None));
            let slot = result.clone();
            executor.spawn(async move {
                let opened = open(context, disk, settings, now_ms).await;
                *slot.borrow_mut() = Some(opened);
            });
            let crash_at = self
                .random
                .chance(1, 3)
                .then(|| self.random.below(60) as usize);
            let mut steps = 0;
            while result.borrow().is_none() && crash_at != Some(steps) {
                if !executor.step() || steps > STEPS_MAX {
                    return Err("recovery does not end".to_owned());
                }
                steps += 1;
            }
            let Some(opened) = result.take() else {
                drop(executor);
                if self.random.chance(1, 2) {
                    lost_power = true;
                    self.disk.power_cut();
                } else {
                    self.disk.kill();
                }
                continue;
            };
            let log = opened?;
            self.judge_recovery(&log, lost_power, end)?;
            return Ok((executor, log));
        }
    }

    fn judge_recovery(&mut self, log: &Rc<Log>, lost_power: bool, end: End) -> Result<(), String> {
        let mut model = self.model.borrow_mut();
        let promised = if lost_power && end != End::Clean {
            model.durable
        } else {
            model.written.max(model.durable)
        };
        let recovered = log.end_offset();
        self.trace.push(format!("recovered {recovered}"));
        if recovered < promised {
            return Err(format!(
                "lost: {promised} was promised, {recovered} came back"
            ));
        }
        if recovered > model.end() {
            return Err(format!(
                "{recovered} came back, {} was appended",
                model.end()
            ));
        }
        if log.start_offset() > model.start {
            return Err(format!(
                "starts at {}, not {}",
                log.start_offset(),
                model.start
            ));
        }
        if log.start_offset() < model.gone {
            return Err(format!(
                "deleted records are back: starts at {}, below {} all was promised to be gone",
                log.start_offset(),
                model.gone
            ));
        }
        // Without syncs, deleted records may be remembered longer than the records; an earlier deletion
        // instead of the last.
        let relaxed = self.settings.flush_policy == FlushPolicy::Os;
        let empty = log.start_offset() == recovered && log.producers().borrow().is_empty();
        if relaxed && empty && recovered <= model.start {
            model.begin_at(recovered);
        } else {
            model.truncate(recovered);
        }
        // Recovery syncs what it keeps.
        model.durable = recovered;
        model.written = recovered;
        Ok(())
    }

    /// Reads everything and compares.
    fn check(&mut self, executor: &mut Executor, log: &Rc<Log>) -> Result<(), String> {
        let (start, end) = (log.start_offset(), log.end_offset());
        let reader = log.clone();
        let model = self.model.clone();
        let read = async move {
            let mut at = start;
            while at < end {
                let records = reader.read(at, end, 10_000, true).await;
                let records = records.map_err(|error| format!("reading {at}: {error}"))?;
                let model = model.borrow();
                if let Some(problem) = judge(&model, &records, at, end, 10_000, true) {
                    return Err(format!("after recovery: {problem}"));
                }
                let length = records.len();
                let mut seen = 0;
                let from = at;
                for batch in model.batches.iter().filter(|batch| batch.next > from) {
                    seen += batch.bytes.len();
                    if seen > length {
                        break;
                    }
                    at = batch.next;
                }
            }
            Ok(())
        };
        executor.run(read)?;
        let model = self.model.borrow();
        let expected = model.producers();
        let found = log.producers().borrow();
        if found.encode_snapshot() != expected.encode_snapshot()
            || found.end_offset() != expected.end_offset()
        {
            return Err(format!("producers are {found:?}, not {expected:?}"));
        }
        // Deleted records may come back, their epochs need not.
        for batch in model
            .batches
            .iter()
            .filter(|batch| batch.base >= model.start)
        {
            let epoch = log.epoch_for_offset(batch.base);
            if epoch != Some(batch.epoch) {
                return Err(format!(
                    "epoch of {} is {epoch:?}, not {}",
                    batch.base, batch.epoch
                ));
            }
        }
        drop(model);
        self.check_problems()
    }

    fn check_problems(&self) -> Result<(), String> {
        match self.model.borrow().problems.first() {
            None => Ok(()),
            Some(problem) => Err(problem.clone()),
        }
    }
}

type SharedModel = Rc<RefCell<Model>>;

/// What the broker writes now and then, and when all logs are closed.
async fn write_checkpoints(disk: &Disk, log: &Log, model: &SharedModel) -> io::Result<()> {
    write_checkpoint(disk, model, RECOVERY_POINT_FILE, || log.recovery_point()).await?;
    write_log_start(disk, log, model).await
}

/// When this resolves, records below the log's start are promised to be gone.
async fn write_log_start(disk: &Disk, log: &Log, model: &SharedModel) -> io::Result<()> {
    let written = Cell::new(Offset(0));
    let start = || {
        written.set(log.start_offset());
        written.get()
    };
    write_checkpoint(disk, model, LOG_START_OFFSET_FILE, start).await?;
    let mut model = model.borrow_mut();
    model.gone = model.gone.max(written.get());
    Ok(())
}

/// One writer at a time, as in the broker; what it writes is as of its turn.
async fn write_checkpoint(
    disk: &Disk,
    model: &SharedModel,
    file: &str,
    offset: impl FnOnce() -> Offset,
) -> io::Result<()> {
    let turn = model.borrow().checkpoint_turn.clone();
    let _turn = turn.lock().await;
    let text = format_offsets(std::iter::once(("t", PartitionIndex(0), offset())));
    disk.write_file_atomic(&root().join(file), text.as_bytes())
        .await
}

/// What a broker does at start: the folder's stock, then the log, made anew if it never came to be.
async fn open(
    context: LogContext,
    disk: Disk,
    settings: LogSettings,
    now_ms: TimestampMs,
) -> Result<Rc<Log>, String> {
    let folder = directory::take_stock(&disk, &root())
        .await
        .map_err(|error| format!("taking stock: {error}"))?;
    let log = match folder.logs.first() {
        Some(found) => {
            let opening: Opening = found.opening;
            Log::open(context, found.dir.clone(), settings, opening, now_ms)
                .await
                .map(|(log, _)| log)
        }
        None => Log::create(context, log_dir(), None, settings, now_ms).await,
    };
    log.map_err(|error| error.to_string())
}

/// What is wrong with the answer to a read.
fn judge(
    model: &Model,
    records: &Records,
    from: Offset,
    upto: Offset,
    max_bytes: usize,
    at_least_one: bool,
) -> Option<String> {
    let bytes = records.to_bytes();
    let expected = model.expected(from, upto);
    let what = format!("read {from}..{upto}, at most {max_bytes}");
    if !expected.starts_with(&bytes) {
        let same = bytes
            .iter()
            .zip(&expected)
            .take_while(|(a, b)| a == b)
            .count();
        return Some(format!(
            "{what}: {} bytes, of which {same} are those of the log, {} long there",
            bytes.len(),
            expected.len()
        ));
    }
    let mut batches = model.batches.iter();
    let first = batches.find(|batch| batch.next > from && batch.next <= upto)?;
    let first_bytes = first.bytes.len();
    if bytes.len() > max_bytes.max(if at_least_one { first_bytes } else { 0 }) {
        return Some(format!("{what}: {} bytes", bytes.len()));
    }
    if bytes.len() < first_bytes && (at_least_one || first_bytes <= max_bytes) {
        return Some(format!("{what}: nothing of the first batch"));
    }
    None
}
