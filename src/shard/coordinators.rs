//! Owns the coordinators of this core: those of the partitions of `__consumer_offsets` that live here. It loads them
//! from their logs, hands them requests and the time, appends what they write, and lets their answers out when all
//! before them is committed. It decides nothing about groups itself.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::{Either, select};
use futures::task::AtomicWaker;
use tracing::{error, info, warn};

use crate::controller::boot::in_memory;
use crate::controller::{MetadataDelta, MetadataImage};
use crate::coordinator::{
    Actions, Answer, Coordinator, Now, OFFSETS_TOPIC, Record, Request, Settings, Token,
};
use crate::ids::{Offset, PartitionIndex, TimestampMs};
use crate::io::clock;
use crate::io::timer;
use crate::io::turn;
use crate::limits::{COORDINATOR_LOAD_BYTES, DECOMPRESSED_BATCH_BYTES_MAX};
use crate::log::LogError;
use crate::partition::waiting::ProduceWaiter;
use crate::partition::{Acks, Partition, PartitionError};
use crate::protocol::batch::{self, Batch, BatchBuilder, records};
use crate::protocol::compression::Codec;
use crate::protocol::{ErrorCode, Str};
use crate::shard::Shard;
use crate::shard::held::{Caller, HeldAnswers};
use crate::stages::tasks::{self, Task};

/// The coordinators of one core.
pub struct Coordinators {
    slots: RefCell<BTreeMap<PartitionIndex, Slot>>,
    /// Where monotonic time begins.
    epoch: Instant,
    /// Until when the core's clock task sleeps.
    sleeps_until: Cell<i64>,
    clock: AtomicWaker,
    next_token: Cell<u64>,
    stopped: Cell<bool>,
}

/// What has become of a partition's coordinator.
enum Slot {
    Loading(Rc<Partition>),
    Ready(Rc<Driver>),
    /// Its log cannot be read or written.
    Failed,
}

/// A group, as those see it who look from outside.
pub struct GroupSeen {
    pub id: Str,
    pub type_name: &'static str,
    pub state_name: &'static str,
    pub members: usize,
}

/// A coordinator at work.
struct Driver {
    partition: Rc<Partition>,
    codec: Codec,
    machine: RefCell<Coordinator>,
    /// Requests that the coordinator has not answered yet.
    waiting: RefCell<BTreeMap<Token, Caller>>,
    /// Answers that wait for records.
    held: Rc<RefCell<HeldAnswers>>,
    /// For each step of those, the last record before it; `None`: whatever the step before waits for.
    commits: mpsc::UnboundedSender<Option<Rc<ProduceWaiter>>>,
}

impl Coordinators {
    pub fn new(now: Instant) -> Coordinators {
        Coordinators {
            slots: RefCell::default(),
            epoch: now,
            sleeps_until: Cell::new(i64::MAX),
            clock: AtomicWaker::new(),
            next_token: Cell::new(0),
            stopped: Cell::new(false),
        }
    }

    fn now(&self) -> Now {
        let elapsed = clock::now().saturating_duration_since(self.epoch);
        Now {
            monotonic_ms: elapsed.as_millis() as i64,
            wall_ms: clock::wall_ms(),
        }
    }

    /// Hands a request to a coordinator of this core.
    ///
    /// Errors: what the client is told when there is no coordinator that could decide.
    pub async fn ask(
        &self,
        partition: PartitionIndex,
        request: Request,
    ) -> Result<Answer, ErrorCode> {
        let driver = self.ready(partition)?;
        let (caller, answer) = oneshot::channel();
        let token = Token(self.next_token.replace(self.next_token.get() + 1));
        driver.waiting.borrow_mut().insert(token, caller);
        let now = self.now();
        let elsewhere = match request.tells_of_members() {
            true => self.member_bytes_beside(&driver),
            false => 0,
        };
        let actions = {
            let mut machine = driver.machine.borrow_mut();
            machine.on_request(now, token, request, elsewhere)
        };
        self.perform(&driver, now, actions);
        answer.await.unwrap_or(Err(ErrorCode::NotCoordinator))
    }

    fn ready(&self, partition: PartitionIndex) -> Result<Rc<Driver>, ErrorCode> {
        match self.slots.borrow().get(&partition) {
            Some(Slot::Ready(driver)) => Ok(driver.clone()),
            Some(Slot::Loading(_)) => Err(ErrorCode::CoordinatorLoadInProgress),
            Some(Slot::Failed) | None => Err(ErrorCode::NotCoordinator),
        }
    }

    /// What the members of this core's other coordinators hold.
    fn member_bytes_beside(&self, one: &Rc<Driver>) -> usize {
        let slots = self.slots.borrow();
        let others = slots.values().filter_map(|slot| match slot {
            Slot::Ready(driver) if !Rc::ptr_eq(driver, one) => Some(driver),
            Slot::Ready(_) | Slot::Loading(_) | Slot::Failed => None,
        });
        others
            .map(|other| other.machine.borrow().member_bytes())
            .sum()
    }

    /// The partitions whose coordinators are here.
    pub fn partitions(&self) -> Vec<PartitionIndex> {
        self.slots.borrow().keys().copied().collect()
    }

    /// How many groups this core's coordinators have.
    pub fn group_count(&self) -> usize {
        let drivers = self.drivers().into_iter();
        drivers
            .map(|driver| driver.machine.borrow().group_count())
            .sum()
    }

    /// As many groups of one coordinator, those behind `id` in the order of their ids, the first behind none; no group when it is not ready.
    pub fn groups_behind(
        &self,
        partition: PartitionIndex,
        id: Option<&str>,
        count: usize,
    ) -> Vec<GroupSeen> {
        let Ok(driver) = self.ready(partition) else {
            return Vec::new();
        };
        let machine = driver.machine.borrow();
        let groups = machine.groups_behind(id).take(count);
        groups
            .map(|(id, group)| GroupSeen {
                id: id.clone(),
                type_name: group.type_name(),
                state_name: group.state_name(),
                members: group.member_count(),
            })
            .collect()
    }

    fn perform(&self, driver: &Rc<Driver>, now: Now, actions: Actions) {
        let committed = match driver.append(&actions.records, now.wall_ms) {
            Ok(committed) => committed,
            Err(error) => return self.fail(driver, &error),
        };
        let mut waiting = driver.waiting.borrow_mut();
        let answers = actions.answers.into_iter();
        let answers = answers.filter_map(|(token, answer)| Some((waiting.remove(&token)?, answer)));
        let answers: Vec<_> = answers.collect();
        drop(waiting);
        if committed.is_none() && driver.held.borrow().is_empty() {
            answer_all(answers);
        } else if committed.is_some() || !answers.is_empty() {
            let timeout_ms = driver.machine.borrow().settings().commit_timeout_ms;
            let due_ms = now.monotonic_ms + timeout_ms;
            driver.held.borrow_mut().push(due_ms, answers);
            if driver.commits.unbounded_send(committed).is_err() {
                // The task that takes them is gone, and the coordinator with it.
                driver.held.borrow_mut().clear();
            }
        }
        self.watch(driver);
    }

    /// Has the clock look again if a time comes earlier than what it sleeps for.
    fn watch(&self, driver: &Driver) {
        if driver.next_due() < self.sleeps_until.get() {
            self.clock.wake();
        }
    }

    /// A coordinator whose log fails can promise nothing any more, and has not told what it could not store.
    fn fail(&self, driver: &Rc<Driver>, error: &PartitionError) {
        let index = driver.partition.index;
        let mut slots = self.slots.borrow_mut();
        if let Some(Slot::Ready(current)) = slots.get(&index)
            && Rc::ptr_eq(current, driver)
        {
            error!(partition = %index, %error, "a group coordinator has lost its log");
            slots.insert(index, Slot::Failed);
        }
        drop(slots);
        driver.give_up();
    }

    /// The broker stops: whoever waits for other members is told to look elsewhere.
    pub fn stop(&self) {
        self.stopped.set(true);
        for slot in self.slots.take().into_values() {
            if let Slot::Ready(driver) = slot {
                driver.give_up();
            }
        }
        self.clock.wake();
    }
}

impl Driver {
    /// Appends records in as few batches as they fit in.
    fn append(
        &self,
        records: &[Record],
        now: TimestampMs,
    ) -> Result<Option<Rc<ProduceWaiter>>, PartitionError> {
        let bytes_max = self.machine.borrow().settings().batch_bytes_max;
        let mut committed = None;
        let mut rest = records;
        while !rest.is_empty() {
            let mut builder = BatchBuilder::new().codec(self.codec, None);
            let mut bytes = 0;
            while let Some((record, after)) = rest.split_first() {
                bytes += record.size_in_bytes();
                if builder.records_count() > 0 && bytes > bytes_max {
                    break;
                }
                builder.append(now, Some(&record.key), record.value.as_deref(), &[]);
                rest = after;
            }
            let batch = Batch::parse(&builder.build()).expect("a batch that was just made");
            committed = None;
            let ticket = || {
                let (waiter, ticket) = ProduceWaiter::alone();
                committed = Some(waiter);
                ticket
            };
            self.partition.produce(&batch, Acks::All, now, ticket)?;
        }
        Ok(committed)
    }

    /// When time has something to do for it.
    fn next_due(&self) -> i64 {
        let machine = self.machine.borrow().next_due();
        let held = self.held.borrow().next_due();
        machine.into_iter().chain(held).min().unwrap_or(i64::MAX)
    }

    /// Tells those whose records are not committed in time to ask again; the records may still be.
    fn give_up_held(&self, now: Now) {
        let callers = self.held.borrow_mut().give_up(now.monotonic_ms);
        if !callers.is_empty() {
            warn!(partition = %self.partition.index, requests = callers.len(), "group records are not committed within offsets.commit.timeout.ms");
        }
        for caller in callers {
            let _client_gone = caller.send(Err(ErrorCode::CoordinatorNotAvailable));
        }
    }

    fn give_up(&self) {
        for caller in self.waiting.take().into_values() {
            let _client_gone = caller.send(Err(ErrorCode::NotCoordinator));
        }
    }
}

fn answer_all(answers: Vec<(Caller, Answer)>) {
    for (caller, answer) in answers {
        let _client_gone = caller.send(Ok(answer));
    }
}

/// Lets answers out in order, each when what was appended before it is committed, also when the coordinator has gone
/// meanwhile.
async fn release(
    shard: Rc<Shard>,
    driver: Weak<Driver>,
    held: Rc<RefCell<HeldAnswers>>,
    mut commits: mpsc::UnboundedReceiver<Option<Rc<ProduceWaiter>>>,
) {
    while let Some(committed) = commits.next().await {
        if let Some(committed) = committed
            && let Err(error) = committed.outcome().await
        {
            held.borrow_mut().clear();
            if let Some(driver) = driver.upgrade() {
                shard.coordinators.fail(&driver, &error.into());
            }
            return;
        }
        let answers = held.borrow_mut().pop();
        answer_all(answers);
    }
}

/// Makes this core's coordinators what the image says: new partitions are loaded, deleted ones and what was committed
/// for deleted topics are forgotten.
pub fn on_image(shard: &Rc<Shard>, image: &Arc<MetadataImage>, delta: Option<&MetadataDelta>) {
    if let Some(delta) = delta
        && !delta.deleted_topics.is_empty()
    {
        let gone = delta.deleted_topics.values();
        on_topics_deleted(shard, gone.map(|topic| topic.name.clone()).collect());
    }
    shard.coordinators.on_image(shard, image, delta);
    let Some(topic) = image.topic(OFFSETS_TOPIC) else {
        return;
    };
    for index in 0..topic.partitions.len() {
        let index = PartitionIndex(index as i32);
        let known = shard.coordinators.slots.borrow().contains_key(&index);
        if !known && let Ok(partition) = shard.partition(topic.id, index) {
            begin(shard, partition);
        }
    }
}

fn on_topics_deleted(shard: &Rc<Shard>, gone: Vec<Str>) {
    let coordinators = &shard.coordinators;
    if gone.iter().any(|name| **name == *OFFSETS_TOPIC) {
        for slot in coordinators.slots.take().into_values() {
            if let Slot::Ready(driver) = slot {
                driver.give_up();
            }
        }
    }
    for driver in coordinators.drivers() {
        let now = coordinators.now();
        let actions = {
            let mut machine = driver.machine.borrow_mut();
            machine.on_topics_deleted(|topic| gone.contains(topic))
        };
        coordinators.perform(&driver, now, actions);
    }
}

impl Coordinators {
    /// Tells the coordinators what the cluster is now.
    fn on_image(&self, shard: &Shard, image: &Arc<MetadataImage>, delta: Option<&MetadataDelta>) {
        let resets = delta.is_some_and(|delta| delta.broker_configs_changed);
        for driver in self.drivers() {
            let mut machine = driver.machine.borrow_mut();
            machine.on_image(image.clone(), delta);
            if resets {
                machine.on_settings(settings(shard, &driver.partition));
            }
        }
    }

    fn drivers(&self) -> Vec<Rc<Driver>> {
        let slots = self.slots.borrow();
        let ready = slots.values().filter_map(|slot| match slot {
            Slot::Ready(driver) => Some(driver.clone()),
            Slot::Loading(_) | Slot::Failed => None,
        });
        ready.collect()
    }
}

fn begin(shard: &Rc<Shard>, partition: Rc<Partition>) {
    let (coordinators, index) = (&shard.coordinators, partition.index);
    let marks = partition.marks();
    if marks.log_start == marks.high_watermark {
        let machine = Coordinator::new(settings(shard, &partition));
        return take_over(shard, partition, machine);
    }
    let slot = Slot::Loading(partition.clone());
    coordinators.slots.borrow_mut().insert(index, slot);
    let shard = shard.clone();
    tasks::spawn(Task::GROUPS, async move {
        let loaded = load(&shard, &partition).await;
        let is_current = match shard.coordinators.slots.borrow().get(&index) {
            Some(Slot::Loading(loading)) => Rc::ptr_eq(loading, &partition),
            _ => false,
        };
        match loaded {
            _ if !is_current => {}
            Ok(machine) => take_over(&shard, partition, machine),
            Err(error) => {
                error!(partition = %index, %error, "a group coordinator could not be loaded");
                let slot = Slot::Failed;
                shard.coordinators.slots.borrow_mut().insert(index, slot);
            }
        }
    })
    .detach();
}

/// From here on the coordinator serves.
fn take_over(shard: &Rc<Shard>, partition: Rc<Partition>, machine: Coordinator) {
    let (commits, receiver) = mpsc::unbounded();
    let coordinators = &shard.coordinators;
    let index = partition.index;
    let mut machine = machine;
    machine.on_image(Arc::clone(&shard.image()), None);
    let driver = Rc::new(Driver {
        partition,
        codec: shard.broker.config.offsets_topic_codec,
        machine: RefCell::new(machine),
        waiting: RefCell::default(),
        held: Rc::default(),
        commits,
    });
    let slot = Slot::Ready(driver.clone());
    coordinators.slots.borrow_mut().insert(index, slot);
    let (watched, held) = (Rc::downgrade(&driver), driver.held.clone());
    let releasing = release(shard.clone(), watched, held, receiver);
    tasks::spawn(Task::GROUPS, releasing).detach();
    let now = coordinators.now();
    let loaded = { driver.machine.borrow_mut().on_loaded(now) };
    coordinators.perform(&driver, now, loaded);
    // Of topics that were deleted while nobody was there to forget what was committed for them.
    let image = shard.image();
    let forgotten = {
        let mut machine = driver.machine.borrow_mut();
        machine.on_topics_deleted(|topic| image.topic(topic).is_none())
    };
    coordinators.perform(&driver, now, forgotten);
}

/// Replays a partition's log.
async fn load(shard: &Shard, partition: &Partition) -> Result<Coordinator, LogError> {
    let began = clock::now();
    let mut machine = Coordinator::new(settings(shard, partition));
    let log = partition.log();
    let marks = partition.marks();
    let (mut next, end) = (marks.log_start, marks.high_watermark);
    let mut count = 0_u64;
    while next < end {
        let read = log.read(next, end, COORDINATOR_LOAD_BYTES, true).await?;
        let bytes = in_memory(read).await;
        let bytes = bytes.map_err(|error| LogError::storage("loading groups", &error))?;
        let before = next;
        for batch in batch::batches(&bytes).map_while(Result::ok) {
            next = batch.view().header().next_offset();
            count += replay(&mut machine, &batch, before);
            turn::yield_if_needed().await;
        }
        if next <= before {
            let error = std::io::Error::other(format!("offset {before} is unreadable"));
            return Err(LogError::storage("loading groups", &error));
        }
    }
    info!(
        partition = %partition.index,
        records = count,
        groups = machine.group_count(),
        ms = began.elapsed().as_millis() as u64,
        "group coordinator loaded"
    );
    Ok(machine)
}

/// Takes one batch in; answers how many records it had.
fn replay(machine: &mut Coordinator, batch: &Batch, from: Offset) -> u64 {
    let header = batch.view().header();
    // Nobody here writes any; those of another broker's transactions wait for transactions.
    if header.is_control() || header.is_transactional() {
        return 0;
    }
    let mut count = 0;
    let Ok(found) = records(batch, DECOMPRESSED_BATCH_BYTES_MAX) else {
        warn!(offset = %header.base_offset(), "a batch of the group log cannot be read; it is left out");
        return 0;
    };
    for record in found.map_while(Result::ok) {
        if record.offset < from {
            continue;
        }
        count += 1;
        if let Err(error) = machine.replay(record.key.as_ref(), record.value.as_ref()) {
            warn!(offset = %record.offset, %error, "a record of the group log is left out");
        }
    }
    count
}

fn settings(shard: &Shard, partition: &Partition) -> Settings {
    let (broker, image) = (&shard.broker, shard.image());
    let dynamic = image.dynamic_configs(broker.id());
    Settings {
        batch_bytes_max: shard.topic_config(partition.topic_id).max_message_bytes as usize,
        ..broker.config.groups_with(&dynamic)
    }
}

/// Tells the coordinators the time, until the core stops.
pub async fn keep_time(shard: Rc<Shard>) {
    let coordinators = &shard.coordinators;
    while !coordinators.stopped.get() {
        let now = coordinators.now();
        let mut next = i64::MAX;
        for driver in coordinators.drivers() {
            if driver.next_due() <= now.monotonic_ms {
                driver.give_up_held(now);
                let actions = { driver.machine.borrow_mut().on_time(now) };
                coordinators.perform(&driver, now, actions);
            }
            next = next.min(driver.next_due());
        }
        coordinators.sleeps_until.set(next);
        let pause = Duration::from_millis(next.saturating_sub(now.monotonic_ms).max(1) as u64);
        let mut looked = false;
        let woken = poll_fn(|context| {
            coordinators.clock.register(context.waker());
            match std::mem::replace(&mut looked, true) {
                false => Poll::Pending,
                true => Poll::Ready(()),
            }
        });
        match next {
            i64::MAX => woken.await,
            // Of thousands of members there is nearly always one whose time has come.
            _ => match select(pin!(woken), pin!(timer::sleep_until_beat_after(pause))).await {
                Either::Left(_) | Either::Right(_) => {}
            },
        }
    }
}
