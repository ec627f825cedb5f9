//! One compacted log and its core's journal against the simulated disk: few keys written over and over and deleted, inside
//! transactions too, which are committed or aborted, rolls, rounds of cleaning with a map that may be too small, deleted
//! records, its policy changed to and fro, faults of the disk, reads all the while; a power cut, a kill -9 or a clean stop at any instant, between two renames too; and after it a
//! comparison with all that was ever written.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use coati::ids::{LeaderEpoch, Offset, PartitionIndex, ProducerId, TimestampMs};
use coati::io::Disk;
use coati::io::entropy::Random;
use coati::io::simulated::{Executor, SimulatedDisk};
use coati::log::checkpoints::{
    CLEANER_OFFSET_FILE, LOG_START_OFFSET_FILE, PartitionMetadata, RECOVERY_POINT_FILE,
    format_offsets,
};
use coati::log::compaction::{CleaningError, Compaction, Round};
use coati::log::directory;
use coati::log::journal::replay::{self, Journaled};
use coati::log::journal::{Journal, JournalKey, JournalLimits};
use coati::log::transaction_index::AbortedTransaction;
use coati::log::{Log, LogContext, LogError, LogSettings, Opening, Sabotage, TailBudget};
use coati::protocol::batch::{self, Batch, BatchBuilder, ControlType, control_key};
use coati::protocol::compression::Codec;
use coati::protocol::{Records, Uuid};
use futures::lock::Mutex;

const ID: Uuid = Uuid([7; 16]);
const STEPS_MAX: usize = 500_000;
const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// What they write is of no transaction, or always of one.
const PLAIN: ProducerId = ProducerId(5);
const TRANSACTIONAL: [ProducerId; 2] = [ProducerId(6), ProducerId(7)];
/// Stands for none: such records come while the log is not compacted, and go when it is.
const NO_KEY: u8 = 255;

#[derive(Clone, Copy, PartialEq, Debug)]
enum End {
    PowerCut,
    Kill,
    Clean,
}

#[derive(Clone, PartialEq, Debug)]
struct Written {
    offset: Offset,
    key: u8,
    /// None deletes the key.
    value: Option<Vec<u8>>,
    timestamp: TimestampMs,
    /// When it was appended.
    at_ms: TimestampMs,
    producer: ProducerId,
}

/// The end of a transaction.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Marker {
    offset: Offset,
    producer: ProducerId,
    commits: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Committed,
    Aborted,
    Undecided,
}

/// All that was ever appended, and what was promised.
#[derive(Default)]
struct Model {
    written: Vec<Written>,
    markers: Vec<Marker>,
    end: Offset,
    durable: Offset,
    stored: Offset,
    start: Offset,
    problems: Vec<String>,
}

impl Model {
    fn next_sequence(&self, producer: ProducerId) -> i32 {
        let of_it = self
            .written
            .iter()
            .filter(|written| written.producer == producer);
        of_it.count() as i32
    }

    fn outcome(&self, producer: ProducerId, offset: Offset) -> Outcome {
        if producer == PLAIN {
            return Outcome::Committed;
        }
        let ends = |marker: &&Marker| marker.producer == producer && marker.offset > offset;
        match self.markers.iter().find(ends) {
            Some(marker) if marker.commits => Outcome::Committed,
            Some(_) => Outcome::Aborted,
            None => Outcome::Undecided,
        }
    }

    fn is_open(&self, producer: ProducerId) -> bool {
        let mut written = self.written.iter().rev();
        let last = written.find(|written| written.producer == producer);
        last.is_some_and(|last| self.outcome(producer, last.offset) == Outcome::Undecided)
    }
}

pub struct World {
    random: Random,
    disk: SimulatedDisk,
    settings: LogSettings,
    /// Whether its policy is to be compacted just now.
    compacts: bool,
    sabotage: Sabotage,
    /// An operation fails in this life, or did.
    has_fault: Rc<Cell<bool>>,
    journal: Option<Journal>,
    model: Rc<RefCell<Model>>,
    log: Option<Rc<Log>>,
    /// Held by the one that writes checkpoints.
    turn: Rc<Mutex<()>>,
    /// Held by the one that cleans.
    cleaning: Rc<Mutex<()>>,
    now_ms: TimestampMs,
    trace: Rc<RefCell<Vec<String>>>,
}

fn root() -> PathBuf {
    PathBuf::from("/data")
}

fn dir() -> PathBuf {
    root().join("t-0")
}

fn key() -> JournalKey {
    JournalKey {
        topic_id: ID,
        partition: PartitionIndex(0),
    }
}

impl World {
    pub fn new(seed: u64, sabotage: Sabotage) -> World {
        let mut random = Random::new(seed);
        let disk = SimulatedDisk::new(random.next_u64());
        let settings = LogSettings {
            segment_bytes: 2_000 + random.below(20_000) as u32,
            segment_ms: 1_000 + random.below(50_000) as i64,
            retention_ms: -1,
            index_interval_bytes: random.below(2_000) as u32,
            file_delete_delay_ms: random.below(5_000) as i64,
            may_have_gaps: true,
            compaction: Some(Compaction {
                delete_retention_ms: random.below(30_000) as i64,
                min_cleanable_dirty_ratio: 0.0,
                min_compaction_lag_ms: [0, random.below(5_000) as i64][random.below(2) as usize],
                max_compaction_lag_ms: i64::MAX,
            }),
            ..LogSettings::default()
        };
        World {
            random,
            disk,
            settings,
            compacts: true,
            sabotage,
            has_fault: Rc::default(),
            journal: None,
            model: Rc::default(),
            log: None,
            turn: Rc::default(),
            cleaning: Rc::default(),
            now_ms: 1_000_000,
            trace: Rc::default(),
        }
    }

    pub fn trace(&self) -> Vec<String> {
        self.trace.borrow().clone()
    }

    pub fn run(&mut self) -> Result<(), String> {
        let (mut executor, context) = self.begin_life();
        let (disk, settings, now_ms) = (self.io(), self.settings.clone(), self.now_ms);
        let made = context.clone();
        let log = executor.run(async move {
            disk.create_dir_all(&root()).await.expect("no faults");
            disk.sync_dir(Path::new("/")).await.expect("no faults");
            let metadata = PartitionMetadata { topic_id: ID }.format();
            Log::create(made, dir(), Some(&metadata), settings, now_ms).await
        });
        self.begin_log(log.map_err(|error| error.to_string())?, &context);
        for _ in 0..1 + self.random.below(4) {
            let end = self.live(&mut executor)?;
            let failed_sync = self.disk.take_failed_sync();
            self.log = None;
            (self.turn, self.cleaning) = Default::default();
            drop(executor);
            self.crash(end);
            executor = self.recover(end, failed_sync)?;
            self.check(&mut executor)?;
        }
        Ok(())
    }

    /// What the log is told just now.
    fn settings_of_now(&self) -> LogSettings {
        LogSettings {
            may_have_gaps: self.compacts,
            compaction: self.settings.compaction.filter(|_| self.compacts),
            ..self.settings.clone()
        }
    }

    fn io(&self) -> Disk {
        Disk::simulated(self.disk.clone())
    }

    fn crash(&mut self, end: End) {
        match end {
            End::PowerCut => self.disk.power_cut(),
            // After a clean stop nothing is left that a kill could reach.
            End::Kill | End::Clean => self.disk.kill(),
        }
        self.has_fault.set(false);
        let mut executor = Executor::new(1, self.disk.clone());
        let disk = self.io();
        let there = executor.run(async move { disk.list(&dir()).await });
        let names = there.into_iter().flatten().map(|entry| entry.name);
        let swapping: Vec<_> = names.filter(|name| name.ends_with(".swap")).collect();
        self.trace
            .borrow_mut()
            .push(format!("{end:?}, swapping {swapping:?}"));
    }

    fn begin_log(&mut self, log: Rc<Log>, context: &LogContext) {
        log.use_journal(key());
        if let Some(journal) = &context.journal {
            journal.begin();
        }
        self.journal = context.journal.clone();
        self.log = Some(log);
    }

    fn begin_life(&mut self) -> (Executor, LogContext) {
        let executor = Executor::new(self.random.next_u64(), self.disk.clone());
        let budget = TailBudget::new(self.random.below(50_000) as usize);
        let mut context = LogContext::new(self.io(), executor.spawner(), budget);
        context.producer_id_expiration_ms.set(i64::MAX);
        context.sabotage = self.sabotage;
        if self.random.chance(3, 4) {
            let limits = JournalLimits {
                append_bytes_max: 1 << self.random.below(12),
                entry_bytes_max: 4095,
                frame_bytes_max: 4096 << 1,
                zone_bytes: 8192 << self.random.below(3),
                zones_few: 1 + self.random.below(2) as usize,
                zones_max: 1 + self.random.below(4) as usize,
                logs_per_zone: 1,
                pace_appends: 1 + self.random.below(16),
            };
            let path = replay::path_of(&root(), 0);
            let generation = self.random.next_u64();
            let time = Executor::time(self.random.next_u64());
            let spawn = executor.spawner();
            let journal = Journal::new(self.io(), spawn, time, path, generation, limits);
            context.journal = Some(journal);
        }
        (executor, context)
    }

    /// Lets the log work until its life ends.
    fn live(&mut self, executor: &mut Executor) -> Result<End, String> {
        for _ in 0..self.random.below(300) {
            self.act(executor);
            for _ in 0..self.random.below(12) {
                executor.step();
            }
            self.note_promises();
            self.check_problems()?;
        }
        if self.random.chance(1, 8) {
            executor.settle();
            self.note_promises();
        }
        Ok(match self.random.below(5) {
            0 | 1 => End::PowerCut,
            2 if self.stop_cleanly(executor) => End::Clean,
            _ => End::Kill,
        })
    }

    /// False: a fault came between.
    fn stop_cleanly(&mut self, executor: &mut Executor) -> bool {
        let log = self.log.clone().expect("open while it lives");
        let (disk, rows, journal) = (self.io(), self.rows(), self.journal.clone());
        let stopping = log.clone();
        let stopped = executor.run(async move {
            if stopping.close().await.is_err() {
                return false;
            }
            if let Some(journal) = journal {
                journal.stop();
            }
            rows.write(&stopping).await.is_ok()
                && (replay::discard(&disk, &root(), &Journaled::new(), &[]).await).is_ok()
                && directory::mark_clean(&disk, &root(), None).await.is_ok()
        });
        // What was under way went on while it stopped.
        let mut model = self.model.borrow_mut();
        model.start = model.start.max(log.start_offset());
        if stopped {
            let end = log.end_offset();
            (model.durable, model.stored) = (end, end);
        }
        stopped
    }

    fn act(&mut self, executor: &mut Executor) {
        self.now_ms += self.random.below(200) as i64;
        let log = self.log.clone().expect("open while it lives");
        match self.random.below(100) {
            0..54 => self.append(&log),
            54..60 => self.end_transaction(&log),
            60..75 => self.read(executor, &log),
            75..82 => {
                self.now_ms += self.random.below(15_000) as i64;
                let now_ms = self.now_ms;
                executor.spawn(async move {
                    let _ = log.tick(now_ms).await;
                });
            }
            82..93 => self.clean(executor, log),
            93..95 => {
                let (start, durable) = (log.start_offset(), log.durable_end());
                let span = (durable.0 - start.0).max(0) as u64 / 8 + 1;
                let offset = start.plus(self.random.below(span) as i64);
                let rows = self.rows();
                executor.spawn(async move {
                    if log.delete_records_before(offset).await.is_ok() {
                        let _ = rows.write(&log).await;
                    }
                });
            }
            95..97 => {
                let (now_ms, high) = (self.now_ms, log.durable_end());
                executor.spawn(async move {
                    let _ = log.enforce_retention(now_ms, high).await;
                });
            }
            97 => {
                self.compacts = !self.compacts;
                log.set_settings(self.settings_of_now());
            }
            98 if self.random.chance(1, 4) => {
                let number = [EIO, ENOSPC][self.random.below(2) as usize];
                self.has_fault.set(true);
                self.disk.fail_after(self.random.below(40), number);
            }
            _ => {
                let rows = self.rows();
                executor.spawn(async move {
                    let _ = rows.write(&log).await;
                });
            }
        }
    }

    fn append(&mut self, log: &Rc<Log>) {
        let mut model = self.model.borrow_mut();
        let codec = [Codec::None, Codec::Lz4][self.random.below(2) as usize];
        let producer = match self.random.below(5) {
            number @ (0 | 1) => TRANSACTIONAL[number as usize],
            _ => PLAIN,
        };
        let sequence = model.next_sequence(producer);
        let builder = BatchBuilder::new().producer(producer, 0, sequence);
        let mut builder = builder.codec(codec, None);
        if producer != PLAIN {
            builder = builder.transactional();
        }
        let count = 1 + self.random.below(5);
        let mut written = Vec::new();
        for index in 0..count {
            let key = match !self.compacts && self.random.chance(1, 3) {
                true => NO_KEY,
                false => self.random.below(12) as u8,
            };
            let value = (!self.random.chance(1, 5)).then(|| {
                let length = self.random.below(400) as usize;
                vec![self.random.next_u64() as u8; length]
            });
            let bytes = [key];
            let named = (key != NO_KEY).then_some(&bytes[..]);
            builder.append(self.now_ms, named, value.as_deref(), &[]);
            written.push(Written {
                offset: model.end.plus(index as i64),
                key,
                value,
                timestamp: self.now_ms,
                at_ms: self.now_ms,
                producer,
            });
        }
        let appended = log.append(&builder.build(), LeaderEpoch(0), self.now_ms);
        match appended {
            Ok(appended) => {
                assert_eq!(appended.base_offset, model.end);
                model.written.extend(written);
                model.end = model.end.plus(count as i64);
            }
            Err(LogError::BatchTooLarge { .. }) => {}
            Err(_) if self.has_fault.get() => {}
            Err(error) => model.problems.push(format!("no append: {error}")),
        }
    }

    /// By a marker, which now and then ends nothing.
    fn end_transaction(&mut self, log: &Rc<Log>) {
        let mut model = self.model.borrow_mut();
        let producer = TRANSACTIONAL[self.random.below(2) as usize];
        if !model.is_open(producer) && !self.random.chance(1, 10) {
            return;
        }
        let commits = self.random.chance(1, 2);
        let kind = match commits {
            true => ControlType::Commit,
            false => ControlType::Abort,
        };
        let builder = BatchBuilder::new().producer(producer, 0, -1);
        let mut builder = builder.transactional().control();
        builder.append(self.now_ms, Some(&control_key(kind)), Some(&[0; 6]), &[]);
        match log.append(&builder.build(), LeaderEpoch(0), self.now_ms) {
            Ok(appended) => {
                model.markers.push(Marker {
                    offset: appended.base_offset,
                    producer,
                    commits,
                });
                model.end = model.end.plus(1);
            }
            Err(_) if self.has_fault.get() => {}
            Err(error) => model.problems.push(format!("no marker: {error}")),
        }
    }

    fn read(&mut self, executor: &Executor, log: &Rc<Log>) {
        let start = log.start_offset();
        let span = (log.end_offset().0 - start.0) as u64 + 1;
        let from = start.plus(self.random.below(span) as i64);
        let (log, model) = (log.clone(), self.model.clone());
        let (disk, has_fault) = (self.disk.clone(), self.has_fault.clone());
        executor.spawn(async move {
            let upto = log.end_offset();
            match log.read(from, upto, 3_000, true).await {
                // The files have lost what was not stored; the log hears of it in a moment.
                Ok(_) if disk.has_failed_sync() => {}
                Ok(records) => {
                    let problem = judge(&model.borrow(), &records, from);
                    model.borrow_mut().problems.extend(problem);
                }
                Err(LogError::OffsetOutOfRange { .. }) if from < log.start_offset() => {}
                Err(_) if has_fault.get() && log.failure().is_some() => {}
                Err(error) => {
                    let problem = format!("reading {from}: {error}");
                    model.borrow_mut().problems.push(problem);
                }
            }
        });
    }

    fn clean(&mut self, executor: &Executor, log: Rc<Log>) {
        let (now_ms, rows, turn) = (self.now_ms, self.rows(), self.cleaning.clone());
        let (model, trace) = (self.model.clone(), self.trace.clone());
        let map_bytes = 24 << self.random.below(8);
        let (disk, has_fault) = (self.disk.clone(), self.has_fault.clone());
        executor.spawn(async move {
            let Some(_turn) = turn.try_lock() else { return };
            let stable = last_stable(&log);
            let Ok(Some(dirt)) = log.dirt(now_ms, stable).await else {
                return;
            };
            if rows.write(&log).await.is_err() {
                return;
            }
            let yielding = disk.clone();
            let round = Round {
                now_ms,
                upto: dirt.upto,
                map_bytes,
                map_load: 0.9,
                salt: [1, 2],
                pace: Rc::new(move |_| {
                    let disk = yielding.clone();
                    Box::pin(async move {
                        let _waits = Disk::simulated(disk).sync_dir(&root()).await;
                    })
                }),
            };
            match log.clean(&round).await {
                Ok(cleaned) => {
                    trace.borrow_mut().push(format!("cleaned {cleaned:?}"));
                    let _ = rows.write(&log).await;
                }
                Err(CleaningError::Aborted | CleaningError::Log(LogError::Closed)) => {}
                Err(CleaningError::Storage { .. } | CleaningError::Log(_)) if has_fault.get() => {}
                Err(error) => {
                    let problem = format!("cleaning: {error}");
                    model.borrow_mut().problems.push(problem);
                }
            }
        });
    }

    fn rows(&self) -> Rows {
        Rows {
            disk: self.io(),
            turn: self.turn.clone(),
        }
    }

    fn note_promises(&mut self) {
        let log = self.log.as_ref().expect("open while it lives");
        let mut model = self.model.borrow_mut();
        model.durable = model.durable.max(log.durable_end());
        model.stored = model.stored.max(log.written_end());
        model.start = model.start.max(log.start_offset());
        let mut problems = Vec::new();
        if log.end_offset() != model.end {
            problems.push(format!("ends at {}", log.end_offset()));
        }
        if let Some(failure) = log.failure().filter(|_| !self.has_fault.get()) {
            problems.push(format!("offline: {failure}"));
        }
        model.problems.extend(problems);
    }

    fn check_problems(&self) -> Result<(), String> {
        match self.model.borrow().problems.first() {
            Some(problem) => Err(problem.clone()),
            None => Ok(()),
        }
    }

    /// Opens the log again, crashing on the way now and then.
    fn recover(&mut self, end: End, failed_sync: bool) -> Result<Executor, String> {
        let mut lost_power = failed_sync || end == End::PowerCut;
        loop {
            let (mut executor, context) = self.begin_life();
            let result = Rc::new(RefCell::new(None));
            let (slot, opening) = (result.clone(), context.clone());
            let (disk, settings, now_ms) = (self.io(), self.settings_of_now(), self.now_ms);
            let rows = Rows {
                disk: self.io(),
                turn: Rc::default(),
            };
            executor.spawn(async move {
                let opened = open(&disk, opening, settings, now_ms, &rows).await;
                *slot.borrow_mut() = Some(opened);
            });
            let crash_at = self.random.chance(1, 3).then(|| self.random.below(200));
            let mut steps = 0;
            while result.borrow().is_none() && crash_at != Some(steps) {
                if !executor.step() || steps as usize > STEPS_MAX {
                    return Err("recovery does not end".to_owned());
                }
                steps += 1;
            }
            let Some(opened) = result.take() else {
                drop(executor);
                let again = [End::PowerCut, End::Kill][self.random.below(2) as usize];
                lost_power |= again == End::PowerCut;
                self.crash(again);
                continue;
            };
            let log = opened.map_err(|error| format!("opening: {error}"))?;
            self.begin_log(log.clone(), &context);
            let mut model = self.model.borrow_mut();
            let promised = match lost_power && end != End::Clean {
                true => model.durable,
                false => model.stored.max(model.durable),
            };
            let end = log.end_offset();
            let line = format!("recovered {}..{end}", log.start_offset());
            self.trace.borrow_mut().push(line);
            if end < promised || end > model.end {
                return Err(format!("{end} came back of {promised} to {}", model.end));
            }
            if log.start_offset() > model.start {
                return Err(format!("starts at {}", log.start_offset()));
            }
            model.written.retain(|written| written.offset < end);
            model.markers.retain(|marker| marker.offset < end);
            (model.end, model.durable, model.stored) = (end, end, end);
            check_producers(&model, &log)?;
            return Ok(executor);
        }
    }

    /// Reads everything and compares.
    fn check(&mut self, executor: &mut Executor) -> Result<(), String> {
        let log = self.log.clone().expect("just opened");
        let reader = log.clone();
        let (batches, aborted) = executor.run(async move { read_all(&reader).await })?;
        let (start, stable) = (log.start_offset(), last_stable(&log));
        let model = &*self.model.borrow();
        let mut found = Vec::new();
        for batch in batches.iter().filter(|batch| !batch.is_control()) {
            found.extend(records_of(batch)?);
        }
        compare(model, &found, start, stable)?;
        let committed = committed_of(&batches, aborted, stable)?;
        let delete_retention_ms = self.settings.compaction.expect("set").delete_retention_ms;
        compare_committed(
            model,
            &committed,
            start..stable,
            self.now_ms,
            delete_retention_ms,
        )
    }
}

/// As a partition whose only replica this is.
fn last_stable(log: &Log) -> Offset {
    let durable = log.durable_end();
    let mut producers = log.producers().borrow_mut();
    producers.on_high_watermark(durable);
    let first_unstable = producers.first_unstable_offset();
    first_unstable.map_or(durable, |first| first.min(durable))
}

/// What a start knows of the producers is what they have written, unless all of that lies before the log.
fn check_producers(model: &Model, log: &Log) -> Result<(), String> {
    for producer in [PLAIN, TRANSACTIONAL[0], TRANSACTIONAL[1]] {
        let wanted = model.next_sequence(producer);
        let active = log.producers().borrow();
        let active = active
            .active()
            .find(|active| active.producer_id == producer);
        let mut written = model.written.iter().rev();
        let last = written.find(|written| written.producer == producer);
        let found = active.map_or(0, |active| active.last_sequence + 1);
        let is_before_log = last.is_none_or(|last| last.offset < log.start_offset());
        if found != wanted && !(is_before_log && found == 0) {
            return Err(format!(
                "sequence {found} of {producer} is next, not {wanted}"
            ));
        }
    }
    Ok(())
}

/// All batches, and the aborted transactions that a fetch of them is told.
async fn read_all(log: &Rc<Log>) -> Result<(Vec<Batch>, Vec<AbortedTransaction>), String> {
    let (start, end) = (log.start_offset(), log.end_offset());
    let (mut at, mut found) = (start, Vec::new());
    while at < end {
        let records = log.read(at, end, 5_000, true).await;
        let records = records.map_err(|error| format!("reading {at}: {error}"))?;
        let before = at;
        for batch in batch::batches(&records.to_bytes()).map_while(Result::ok) {
            at = batch.next_offset();
            found.push(batch);
        }
        if at == before {
            break; // A gap up to the end.
        }
    }
    let aborted = log.aborted_transactions(start, end).await;
    let aborted = aborted.map_err(|error| format!("aborted transactions: {error}"))?;
    Ok((found, aborted))
}

/// What a consumer makes of it that wants to see only what was committed.
fn committed_of(
    batches: &[Batch],
    mut aborted: Vec<AbortedTransaction>,
    stable: Offset,
) -> Result<Vec<Written>, String> {
    aborted.sort_by_key(|transaction| std::cmp::Reverse(transaction.first_offset));
    let mut aborting = BTreeSet::new();
    let mut committed = Vec::new();
    for batch in batches
        .iter()
        .take_while(|batch| batch.base_offset() < stable)
    {
        while (aborted.last()).is_some_and(|next| next.first_offset <= batch.last_offset()) {
            aborting.extend(aborted.pop().map(|transaction| transaction.producer_id));
        }
        let producer = batch.producer_id();
        if batch.is_control() {
            if aborts(batch)? {
                aborting.remove(&producer);
            }
        } else if !(batch.is_transactional() && aborting.contains(&producer)) {
            committed.extend(records_of(batch)?);
        }
    }
    Ok(committed)
}

fn aborts(batch: &Batch) -> Result<bool, String> {
    let mut records = batch::records(batch, 1 << 20).map_err(|error| error.to_string())?;
    let Some(record) = records.next() else {
        return Ok(false); // Cleaned away.
    };
    let record = record.map_err(|error| error.to_string())?;
    Ok(record.key.as_deref() == Some(&control_key(ControlType::Abort)))
}

/// What the broker writes of a log in the data folder.
struct Rows {
    disk: Disk,
    turn: Rc<Mutex<()>>,
}

impl Rows {
    async fn write(&self, log: &Log) -> io::Result<()> {
        let _turn = self.turn.lock().await;
        for file in [
            RECOVERY_POINT_FILE,
            LOG_START_OFFSET_FILE,
            CLEANER_OFFSET_FILE,
        ] {
            let offset = match file {
                RECOVERY_POINT_FILE => Some(log.recovery_point()),
                LOG_START_OFFSET_FILE => Some(log.start_offset()),
                _ => log.first_dirty_offset(),
            };
            let rows = offset.map(|offset| ("t", PartitionIndex(0), offset));
            let text = format_offsets(rows.into_iter().collect::<Vec<_>>().into_iter());
            let path = root().join(file);
            self.disk.write_file_atomic(&path, text.as_bytes()).await?;
        }
        Ok(())
    }
}

async fn open(
    disk: &Disk,
    context: LogContext,
    settings: LogSettings,
    now_ms: TimestampMs,
    rows: &Rows,
) -> Result<Rc<Log>, String> {
    let told = |error: io::Error| error.to_string();
    disk.create_dir_all(&root()).await.map_err(told)?;
    let folder = directory::take_stock(disk, &root()).await.map_err(told)?;
    let found = folder.logs.iter().find(|log| log.topic == "t");
    let mut opening = match found {
        Some(found) => found.opening.clone(),
        None => {
            disk.create_dir_all(&dir()).await.map_err(told)?;
            Opening::default()
        }
    };
    opening.log_start = folder.log_start("t", PartitionIndex(0));
    opening.journaled = folder.journaled.get(&key()).cloned().unwrap_or_default();
    let metadata = PartitionMetadata { topic_id: ID }.format();
    let path = dir().join("partition.metadata");
    let written = disk.write_file(&path, metadata.as_bytes()).await;
    written.map_err(told)?;
    let opened = Log::open(context, dir(), settings, opening, now_ms).await;
    let log = opened.map_err(|error| error.to_string())?.0;
    replay::discard(disk, &root(), &Journaled::new(), &[])
        .await
        .map_err(told)?;
    rows.write(&log).await.map_err(told)?;
    Ok(log)
}

fn records_of(batch: &Batch) -> Result<Vec<Written>, String> {
    batch.verify_crc().map_err(|error| error.to_string())?;
    let records = batch::records(batch, 1 << 20).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for record in records {
        let record = record.map_err(|error| error.to_string())?;
        found.push(Written {
            offset: record.offset,
            key: record.key.map_or(NO_KEY, |key| key[0]),
            value: record.value.map(|value| value.to_vec()),
            timestamp: record.timestamp,
            at_ms: 0,
            producer: batch.producer_id(),
        });
    }
    Ok(found)
}

/// What is wrong with the answer to a read: it holds what was written, in order, from `from` on.
fn judge(model: &Model, records: &Records, from: Offset) -> Option<String> {
    let mut last: Option<Offset> = None;
    for batch in batch::batches(&records.to_bytes()).map_while(Result::ok) {
        if batch.last_offset() < from {
            return Some(format!("read {from}: a batch before it"));
        }
        let found = match records_of(&batch) {
            Ok(_) if batch.is_control() => continue,
            Ok(found) => found,
            Err(problem) => return Some(format!("read {from}: {problem}")),
        };
        for record in found {
            if last.is_some_and(|last| record.offset <= last) {
                return Some(format!("read {from}: {} after {last:?}", record.offset));
            }
            last = Some(record.offset);
            if !was_written(model, &record) {
                return Some(format!("read {from}: {record:?} was never written"));
            }
        }
    }
    None
}

fn was_written(model: &Model, record: &Written) -> bool {
    let index = model
        .written
        .binary_search_by_key(&record.offset, |written| written.offset);
    index.is_ok_and(|index| {
        let written = &model.written[index];
        (
            written.key,
            &written.value,
            written.timestamp,
            written.producer,
        ) == (record.key, &record.value, record.timestamp, record.producer)
    })
}

/// Each record is one that was written, and all is there that was not yet to be cleaned.
fn compare(model: &Model, found: &[Written], start: Offset, stable: Offset) -> Result<(), String> {
    let mut before = None;
    for record in found {
        if before.is_some_and(|before| record.offset <= before) {
            return Err(format!("{} comes after {before:?}", record.offset));
        }
        before = Some(record.offset);
        if !was_written(model, record) {
            return Err(format!("{record:?} was never written"));
        }
    }
    let unstable = |record: &&Written| record.offset >= stable.max(start);
    let (wanted, there) = (
        model.written.iter().filter(unstable).count(),
        found.iter().filter(unstable).count(),
    );
    match wanted == there {
        true => Ok(()),
        false => Err(format!(
            "{there} of {wanted} records are there from {stable} on"
        )),
    }
}

/// Each key's last committed value is there, what was deleted stays deleted, and what was aborted is not seen.
fn compare_committed(
    model: &Model,
    found: &[Written],
    range: Range<Offset>,
    now_ms: TimestampMs,
    delete_retention_ms: i64,
) -> Result<(), String> {
    let mut last_found: BTreeMap<u8, &Written> = BTreeMap::new();
    for record in found.iter().filter(|record| range.contains(&record.offset)) {
        if model.outcome(record.producer, record.offset) != Outcome::Committed {
            return Err(format!("{record:?} is seen, and was not committed"));
        }
        last_found.insert(record.key, record);
    }
    let mut last_written: BTreeMap<u8, &Written> = BTreeMap::new();
    for record in &model.written {
        let is_committed = model.outcome(record.producer, record.offset) == Outcome::Committed;
        if is_committed && range.contains(&record.offset) {
            last_written.insert(record.key, record);
        }
    }
    last_written.remove(&NO_KEY);
    for (key, record) in last_written {
        let found = last_found.get(&key);
        let is_there = found.is_some_and(|found| found.offset == record.offset);
        let may_be_gone = record.value.is_none() && record.at_ms + delete_retention_ms <= now_ms;
        if !(is_there || may_be_gone && found.is_none()) {
            return Err(format!(
                "the last of key {key} is {record:?}, found {found:?}"
            ));
        }
    }
    Ok(())
}
