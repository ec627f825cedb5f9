//! One run: lives of a few logs and their journals between crashes, with everything random from one seed.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use coati::ids::{LeaderEpoch, Offset, PartitionIndex, TimestampMs};
use coati::io::entropy::Random;
use coati::io::simulated::{Executor, SimulatedDisk};
use coati::io::{BLOCK, Disk};
use coati::log::checkpoints::{
    LOG_START_OFFSET_FILE, PartitionMetadata, RECOVERY_POINT_FILE, format_offsets,
};
use coati::log::directory;
use coati::log::journal::replay::{self, Journaled};
use coati::log::journal::{Journal, JournalKey, JournalLimits};
use coati::log::producers::ProducerStates;
use coati::log::{
    FlushPolicy, Log, LogContext, LogError, LogSettings, Opening, Sabotage, TailBudget, WriteLimits,
};
use coati::protocol::{Records, Uuid};
use futures::lock::Mutex;

use crate::model::Model;

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// No recovery of these small logs takes more steps.
const STEPS_MAX: usize = 500_000;

pub struct World {
    random: Random,
    disk: SimulatedDisk,
    settings: LogSettings,
    sabotage: Sabotage,
    topics: Vec<Topic>,
    /// The same, for those that look at them later.
    current: Rc<RefCell<Vec<Topic>>>,
    /// Held by the one that writes a checkpoint of the data folder.
    checkpoint_turn: Rc<Mutex<()>>,
    now_ms: TimestampMs,
    trace: Vec<String>,
    topics_made: u8,
}

/// A topic of one partition.
#[derive(Clone)]
struct Topic {
    name: &'static str,
    id: Uuid,
    model: SharedModel,
    /// None: it could not be opened in this life.
    log: Option<Rc<Log>>,
    /// The checkpoints may still say something of another topic of this name.
    is_new: bool,
    /// Recovery point and log start as the checkpoints have them, while it is not open.
    former: (Offset, Offset),
}

/// What one life runs on.
struct Life {
    executor: Executor,
    /// By core.
    contexts: Vec<LogContext>,
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

impl Topic {
    fn dir(&self) -> PathBuf {
        root().join(format!("{}-0", self.name))
    }

    fn key(&self) -> JournalKey {
        JournalKey {
            topic_id: self.id,
            partition: PartitionIndex(0),
        }
    }

    fn metadata(&self) -> String {
        PartitionMetadata { topic_id: self.id }.format()
    }
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
            may_have_gaps: random.chance(1, 4),
            ..LogSettings::default()
        };
        let mut world = World {
            random,
            disk,
            settings,
            sabotage,
            topics: Vec::new(),
            current: Rc::default(),
            checkpoint_turn: Rc::default(),
            now_ms: 1_000_000,
            trace: Vec::new(),
            topics_made: 0,
        };
        let count = 1 + world.random.below(3) as usize;
        for name in ["a", "b", "c"].into_iter().take(count) {
            let id = world.new_id();
            world.topics.push(Topic {
                name,
                id,
                model: SharedModel::default(),
                log: None,
                is_new: false,
                former: (Offset(0), Offset(0)),
            });
        }
        world
    }

    fn new_id(&mut self) -> Uuid {
        self.topics_made += 1;
        Uuid([self.topics_made; 16])
    }

    /// What happened, for comparing runs.
    pub fn trace(&self) -> Vec<String> {
        self.trace.clone()
    }

    pub fn run(&mut self) -> Result<(), String> {
        let mut life = self.begin_life();
        let disk = Disk::simulated(self.disk.clone());
        let prepare = async move {
            disk.create_dir_all(&root()).await?;
            disk.sync_dir(Path::new("/")).await
        };
        life.executor.run(prepare).expect("no faults yet");
        begin_journals(&life.contexts);
        for index in 0..self.topics.len() {
            self.create(&mut life, index)?;
        }
        for _ in 0..1 + self.random.below(4) {
            let end = self.live(&mut life)?;
            // A device that failed a sync may have lost what it had taken.
            let failed = self.disk.take_failed_sync();
            for topic in &mut self.topics {
                topic.log = None;
            }
            self.publish();
            drop(life);
            match end {
                End::PowerCut => self.disk.power_cut(),
                End::Kill => self.disk.kill(),
                End::Clean => {}
            }
            life = self.recover(end, failed)?;
            self.check(&mut life)?;
        }
        Ok(())
    }

    fn publish(&self) {
        self.current.replace(self.topics.clone());
    }

    fn begin_life(&mut self) -> Life {
        let executor = Executor::new(self.random.next_u64(), self.disk.clone());
        let cores = 1 + self.random.below(2) as u16;
        let contexts = (0..cores).map(|core| self.context(&executor, core));
        Life {
            contexts: contexts.collect(),
            executor,
        }
    }

    fn context(&mut self, executor: &Executor, core: u16) -> LogContext {
        let disk = Disk::simulated(self.disk.clone());
        let budget = TailBudget::new(self.random.below(200_000) as usize);
        let mut context = LogContext::new(disk.clone(), executor.spawner(), budget);
        context.producer_id_expiration_ms.set(i64::MAX);
        context.sabotage = self.sabotage;
        if self.random.chance(3, 4) {
            // With the real sizes hardly any simulated batch would be written beside another.
            context.writes = WriteLimits {
                most_bytes: 1 << (12 + self.random.below(7)),
                least_bytes_beside: 1 << self.random.below(15),
                in_flight: 1 + self.random.below(5) as usize,
                behind_bytes: 1 << self.random.below(18),
            };
        }
        if self.random.chance(7, 8) {
            let entry_bytes_max = 1_usize << (8 + self.random.below(7));
            let frame_bytes_max =
                (entry_bytes_max + 1).next_multiple_of(BLOCK) << self.random.below(3);
            let limits = JournalLimits {
                append_bytes_max: entry_bytes_max >> self.random.below(3),
                entry_bytes_max,
                frame_bytes_max,
                zone_bytes: (frame_bytes_max as u32) << self.random.below(3),
                zones_few: 1 + self.random.below(2) as usize,
                zones_max: 1 + self.random.below(4) as usize,
                logs_per_zone: 1,
                pace_appends: 1 + self.random.below(16),
            };
            let path = replay::path_of(&root(), core);
            let generation = self.random.next_u64();
            let time = Executor::time(self.random.next_u64());
            let spawn = executor.spawner();
            let journal = Journal::new(disk, spawn, time, path, generation, limits);
            if self.sabotage == Sabotage::RecycleBeforeSync {
                journal.forget_too_early();
            }
            context.journal = Some(journal);
        }
        context
    }

    fn create(&mut self, life: &mut Life, index: usize) -> Result<(), String> {
        let topic = &self.topics[index];
        let context = life.contexts[index % life.contexts.len()].clone();
        let (settings, now_ms) = (self.settings.clone(), self.now_ms);
        let (dir, metadata) = (topic.dir(), topic.metadata());
        let create =
            async move { Log::create(context, dir, Some(&metadata), settings, now_ms).await };
        let log = life
            .executor
            .run(create)
            .map_err(|error| error.to_string())?;
        log.use_journal(topic.key());
        self.topics[index].log = Some(log);
        self.publish();
        Ok(())
    }

    /// The topic goes, and another gets its name. False if that went wrong half way: then only a crash helps.
    fn recreate(&mut self, life: &mut Life, index: usize) -> bool {
        let id = self.new_id();
        let Some(log) = self.topics[index].log.take() else {
            return true;
        };
        self.trace
            .push(format!("recreated {}", self.topics[index].name));
        let topic = &mut self.topics[index];
        topic.id = id;
        topic.model = SharedModel::default();
        topic.is_new = true;
        topic.former = (Offset(0), Offset(0));
        self.publish();
        let unique = [self.random.next_u64() as u8; 16];
        if life
            .executor
            .run(async move { log.delete(unique).await.is_err() })
        {
            return false;
        }
        let rows = self.checkpoints();
        let forgotten = async move { rows.write().await.is_ok() };
        if !life.executor.run(forgotten) {
            return false;
        }
        self.topics[index].is_new = false;
        self.create(life, index).is_ok()
    }

    /// Lets the logs work until their life ends.
    fn live(&mut self, life: &mut Life) -> Result<End, String> {
        let actions = match self.random.below(4) {
            0 => self.random.below(10),
            1 => self.random.below(400),
            _ => self.random.below(100),
        };
        let mut stuck = false;
        for _ in 0..actions {
            let index = self.random.below(self.topics.len() as u64) as usize;
            if self.random.chance(1, 300) && !self.recreate(life, index) {
                stuck = true;
                break;
            }
            self.act(life, index);
            for _ in 0..self.random.below(12) {
                life.executor.step();
            }
            self.note_promises();
            self.check_problems()?;
        }
        let end = match self.random.below(5) {
            0 | 1 => End::PowerCut,
            2 | 3 => End::Kill,
            _ => End::Clean,
        };
        if end == End::Clean && !stuck && self.stop_cleanly(life)? {
            return Ok(End::Clean);
        }
        let end = if end == End::Clean { End::Kill } else { end };
        for topic in &self.topics {
            let log = topic.log.as_ref();
            self.trace.push(format!(
                "{end:?}: {} at {:?} {:?}",
                topic.name,
                log.map(|log| log.end_offset()),
                log.and_then(|log| log.failure())
            ));
        }
        Ok(end)
    }

    fn act(&mut self, life: &mut Life, index: usize) {
        self.now_ms += self.random.below(200) as i64;
        let topic = self.topics[index].clone();
        let Some(log) = topic.log.clone() else {
            return;
        };
        let executor = &mut life.executor;
        match self.random.below(100) {
            0..60 => self.append(&topic, &log),
            60..75 => self.read(executor, &topic, &log),
            75..79 => self.search(executor, &topic, &log),
            79..84 => {
                self.now_ms += self.random.below(15_000) as i64;
                let now_ms = self.now_ms;
                executor.spawn(async move {
                    let _ = log.tick(now_ms).await;
                });
            }
            84..88 => {
                let (now_ms, high) = (self.now_ms, log.durable_end());
                executor.spawn(async move {
                    let _ = log.enforce_retention(now_ms, high).await;
                });
            }
            88..90 => self.delete_records(executor, &log),
            90..93 => {
                executor.spawn(async move {
                    let _ = log.flush().await;
                });
            }
            93..96 => {
                let rows = self.checkpoints();
                executor.spawn(async move {
                    let _ = rows.write().await;
                });
            }
            96..98 => {
                let mut model = topic.model.borrow_mut();
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

    fn append(&mut self, topic: &Topic, log: &Rc<Log>) {
        let mut model = topic.model.borrow_mut();
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

    fn read(&mut self, executor: &mut Executor, topic: &Topic, log: &Rc<Log>) {
        let start = log.start_offset();
        let upto = match self.random.below(3) {
            0 => log.end_offset(),
            1 => log.durable_end(),
            _ => {
                let model = topic.model.borrow();
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
        let memory_max = match self.random.chance(1, 4) {
            true => self.random.below(2_000) as usize,
            false => usize::MAX,
        };
        let (log, model, disk) = (log.clone(), topic.model.clone(), self.disk.clone());
        executor.spawn(async move {
            let read = log.read_within(from, upto, max_bytes, at_least_one, memory_max);
            match read.await {
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
                // A log that failed, or was deleted, says so to all.
                Err(error) => {
                    assert!(log.failure().is_some(), "online in spite of {error:?}");
                }
            }
        });
    }

    fn search(&mut self, executor: &mut Executor, topic: &Topic, log: &Rc<Log>) {
        let timestamp = self.now_ms - self.random.below(20_000) as i64;
        let (log, model, disk) = (log.clone(), topic.model.clone(), self.disk.clone());
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
        let (log, rows) = (log.clone(), self.checkpoints());
        executor.spawn(async move {
            if log.delete_records_before(offset).await.is_ok() {
                let _answered = rows.write_log_starts().await;
            }
        });
    }

    fn checkpoints(&self) -> Checkpoints {
        Checkpoints {
            disk: Disk::simulated(self.disk.clone()),
            turn: self.checkpoint_turn.clone(),
            topics: self.current.clone(),
        }
    }

    fn stop_cleanly(&mut self, life: &mut Life) -> Result<bool, String> {
        life.executor.settle();
        self.note_promises();
        let logs: Option<Vec<_>> = self.topics.iter().map(|topic| topic.log.clone()).collect();
        let Some(logs) = logs else {
            return Ok(false);
        };
        let disk = Disk::simulated(self.disk.clone());
        let (rows, stopping) = (self.checkpoints(), logs.clone());
        let contexts = life.contexts.clone();
        let stop = async move {
            for log in stopping {
                if log.close().await.is_err() {
                    return false;
                }
            }
            for journal in contexts
                .iter()
                .filter_map(|context| context.journal.as_ref())
            {
                journal.stop();
            }
            rows.write().await.is_ok()
                && replay::discard(&disk, &root(), &Journaled::new(), &[])
                    .await
                    .is_ok()
                && directory::mark_clean(&disk, &root(), None).await.is_ok()
        };
        let stopped = life.executor.run(stop);
        if stopped {
            for topic in &self.topics {
                let end = topic.log.as_ref().expect("all are open").end_offset();
                let mut model = topic.model.borrow_mut();
                model.durable = end;
                model.written = end;
                self.trace.push(format!("clean: {} at {end}", topic.name));
            }
            // Power may fail after a clean stop as well.
            life.executor.settle();
            if self.random.chance(1, 2) {
                self.disk.power_cut();
            }
            let disk = Disk::simulated(self.disk.clone());
            let entries = life.executor.run(async move { disk.list(&root()).await });
            for entry in entries.map_err(|error| error.to_string())? {
                if entry.name.contains("journal") {
                    return Err(format!("{} is left by a clean stop", entry.name));
                }
            }
        }
        Ok(stopped)
    }

    fn note_promises(&mut self) {
        for topic in &self.topics {
            let Some(log) = &topic.log else { continue };
            let mut model = topic.model.borrow_mut();
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
    }

    /// Opens the logs again, crashing on the way now and then.
    fn recover(&mut self, end: End, failed: bool) -> Result<Life, String> {
        let mut lost_power = failed || end == End::PowerCut;
        loop {
            let mut life = self.begin_life();
            let open = Start {
                disk: Disk::simulated(self.disk.clone()),
                topics: self.topics.clone(),
                contexts: life.contexts.clone(),
                settings: self.settings.clone(),
                now_ms: self.now_ms,
                trusting: self.sabotage == Sabotage::TrustJournal,
                mixes_topics: self.sabotage == Sabotage::MixTopics,
                // It stays closed for this life, as if it could not be opened.
                skipped: self
                    .random
                    .chance(1, 20)
                    .then(|| self.random.below(3) as usize),
                unique: [self.random.next_u64() as u8; 16],
                turn: self.checkpoint_turn.clone(),
            };
            let result = Rc::new(RefCell::new(None));
            let slot = result.clone();
            life.executor.spawn(async move {
                let opened = open.run().await;
                *slot.borrow_mut() = Some(opened);
            });
            let most = if self.random.chance(1, 2) { 60 } else { 400 };
            let crash_at = self
                .random
                .chance(1, 3)
                .then(|| self.random.below(most) as usize);
            let mut steps = 0;
            while result.borrow().is_none() && crash_at != Some(steps) {
                if !life.executor.step() || steps > STEPS_MAX {
                    return Err("recovery does not end".to_owned());
                }
                steps += 1;
            }
            let Some(opened) = result.take() else {
                drop(life);
                self.checkpoint_turn = Rc::default();
                if self.random.chance(1, 2) {
                    lost_power = true;
                    self.disk.power_cut();
                } else {
                    self.disk.kill();
                }
                continue;
            };
            self.topics = opened?;
            self.publish();
            for topic in self.topics.clone() {
                if let Some(log) = &topic.log {
                    self.judge_recovery(&topic, log, lost_power, end)?;
                }
            }
            return Ok(life);
        }
    }

    fn judge_recovery(
        &mut self,
        topic: &Topic,
        log: &Rc<Log>,
        lost_power: bool,
        end: End,
    ) -> Result<(), String> {
        let mut model = topic.model.borrow_mut();
        // It was not open in the life before, and may have lost power then.
        let lost_power = lost_power || std::mem::take(&mut model.slept);
        let promised = if lost_power && end != End::Clean {
            model.durable
        } else {
            model.written.max(model.durable)
        };
        let recovered = log.end_offset();
        let name = topic.name;
        self.trace.push(format!("recovered {name} {recovered}"));
        if recovered < promised {
            return Err(format!(
                "lost: {promised} of {name} was promised, {recovered} came back"
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
            let whole = model.producers_below(recovered);
            if relaxed && !is_alike(&log.producers().borrow(), &whole) {
                model.forget_below(log.start_offset());
            }
            model.truncate(recovered);
        }
        // Recovery syncs what it keeps.
        model.durable = recovered;
        model.written = recovered;
        Ok(())
    }

    /// Reads everything and compares.
    fn check(&mut self, life: &mut Life) -> Result<(), String> {
        for topic in self.topics.clone() {
            match &topic.log {
                Some(log) => check_log(&mut life.executor, &topic.model, log)
                    .map_err(|problem| format!("{}: {problem}", topic.name))?,
                None => topic.model.borrow_mut().slept = true,
            }
        }
        self.check_problems()
    }

    fn check_problems(&self) -> Result<(), String> {
        for topic in &self.topics {
            if let Some(problem) = topic.model.borrow().problems.first() {
                return Err(format!("{}: {problem}", topic.name));
            }
        }
        Ok(())
    }
}

fn begin_journals(contexts: &[LogContext]) {
    let journals = contexts
        .iter()
        .filter_map(|context| context.journal.as_ref());
    journals.for_each(Journal::begin);
}

type SharedModel = Rc<RefCell<Model>>;

fn is_alike(found: &ProducerStates, expected: &ProducerStates) -> bool {
    found.encode_snapshot() == expected.encode_snapshot()
        && found.end_offset() == expected.end_offset()
}

fn check_log(executor: &mut Executor, checked: &SharedModel, log: &Rc<Log>) -> Result<(), String> {
    let (start, end) = (log.start_offset(), log.end_offset());
    let reader = log.clone();
    let model = checked.clone();
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
    let model = checked.borrow();
    let expected = model.producers();
    let found = log.producers().borrow();
    if !is_alike(&found, &expected) {
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
    Ok(())
}

/// What the broker writes now and then, and when all logs are closed.
struct Checkpoints {
    disk: Disk,
    turn: Rc<Mutex<()>>,
    topics: Rc<RefCell<Vec<Topic>>>,
}

impl Checkpoints {
    async fn write(&self) -> io::Result<()> {
        let points = |topic: &Topic| match &topic.log {
            Some(log) => log.recovery_point(),
            None => topic.former.0,
        };
        self.write_file(RECOVERY_POINT_FILE, points).await?;
        self.write_log_starts().await
    }

    /// When this resolves, records below the logs' starts are promised to be gone.
    async fn write_log_starts(&self) -> io::Result<()> {
        let starts = |topic: &Topic| match &topic.log {
            Some(log) => log.start_offset(),
            None => topic.former.1,
        };
        for (model, start) in self.write_file(LOG_START_OFFSET_FILE, starts).await? {
            let mut model = model.borrow_mut();
            model.gone = model.gone.max(start);
        }
        Ok(())
    }

    /// One writer at a time, as in the broker; what it writes is as of its turn.
    async fn write_file(
        &self,
        file: &str,
        offset: impl Fn(&Topic) -> Offset,
    ) -> io::Result<Vec<(SharedModel, Offset)>> {
        let _turn = self.turn.lock().await;
        let topics = self.topics.borrow().clone();
        let rows = topics
            .iter()
            .map(|topic| (topic.name, PartitionIndex(0), offset(topic)));
        let text = format_offsets(rows);
        let written = topics
            .iter()
            .map(|topic| (topic.model.clone(), offset(topic)));
        let written = written.collect();
        self.disk
            .write_file_atomic(&root().join(file), text.as_bytes())
            .await?;
        Ok(written)
    }
}

/// What a broker does at start: the folder's stock, then the logs, made anew if they never came to be, with what the
/// journals have for them.
struct Start {
    disk: Disk,
    topics: Vec<Topic>,
    contexts: Vec<LogContext>,
    settings: LogSettings,
    now_ms: TimestampMs,
    trusting: bool,
    mixes_topics: bool,
    skipped: Option<usize>,
    unique: [u8; 16],
    turn: Rc<Mutex<()>>,
}

impl Start {
    async fn run(mut self) -> Result<Vec<Topic>, String> {
        let told = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
        let stock = directory::take_stock(&self.disk, &root()).await;
        let mut folder = stock.map_err(told("taking stock"))?;
        if self.trusting && folder.clean.is_none() {
            let trusted = replay::read_trusting(&self.disk, &root()).await;
            folder.journaled = trusted.map_err(told("reading journals"))?;
        }
        if self
            .skipped
            .is_some_and(|skipped| skipped >= self.topics.len())
        {
            self.skipped = None;
        }
        let mut missing = Vec::new();
        for index in 0..self.topics.len() {
            let topic = self.topics[index].clone();
            let found = folder.logs.iter().find(|log| log.topic == topic.name);
            if !topic.is_new {
                let point = found.and_then(|found| found.opening.recovery_point);
                let start = folder.log_start(topic.name, PartitionIndex(0));
                self.topics[index].former = (point.unwrap_or_default(), start.unwrap_or_default());
            }
            if self.skipped == Some(index) && folder.clean.is_none() {
                missing.push(topic.key());
                continue;
            }
            let adopted = found.filter(|found| found.metadata == Some(topic.metadata()));
            if let (Some(stray), None) = (found, adopted) {
                let aside = directory::renamed(&stray.dir, self.unique, "stray");
                let renamed = self.disk.rename(&stray.dir, &aside).await;
                renamed.map_err(told("setting aside"))?;
            }
            let mut opening = adopted
                .map(|found| found.opening.clone())
                .unwrap_or_default();
            // A new topic's log, though a start that crashed has made it, is not what the rows of its name tell of.
            let of_its_name = folder.log_start(topic.name, PartitionIndex(0));
            opening.log_start = of_its_name.filter(|_| !topic.is_new);
            let keys = folder.journaled.iter();
            opening.journaled = keys
                .filter(|(key, _)| **key == topic.key() || self.mixes_topics)
                .flat_map(|(_, runs)| runs.clone())
                .collect();
            let log = self.open(index, adopted.is_some(), opening).await;
            let log = log.map_err(|error| error.to_string())?;
            log.use_journal(topic.key());
            self.topics[index].log = Some(log);
        }
        replay::discard(&self.disk, &root(), &folder.journaled, &missing)
            .await
            .map_err(told("discarding journals"))?;
        begin_journals(&self.contexts);
        if folder.clean.is_none() {
            let rows = Checkpoints {
                disk: self.disk.clone(),
                turn: self.turn.clone(),
                topics: Rc::new(RefCell::new(self.topics.clone())),
            };
            rows.write().await.map_err(told("writing checkpoints"))?;
            for topic in &mut self.topics {
                topic.is_new = false;
            }
        }
        Ok(self.topics)
    }

    async fn open(&self, index: usize, found: bool, opening: Opening) -> Result<Rc<Log>, LogError> {
        let topic = &self.topics[index];
        let context = self.contexts[index % self.contexts.len()].clone();
        let (dir, settings) = (topic.dir(), self.settings.clone());
        if !found {
            let text = topic.metadata();
            let (context, dir, settings) = (context.clone(), dir.clone(), settings.clone());
            let log = Log::create(context, dir, Some(&text), settings, self.now_ms).await?;
            if opening.journaled.is_empty() && opening.log_start.is_none_or(|start| start.0 == 0) {
                return Ok(log);
            }
        }
        let opened = Log::open(context, dir, settings, opening, self.now_ms).await?;
        Ok(opened.0)
    }
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
