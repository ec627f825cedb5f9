//! Owns one run of one workload: topics, producers, consumers, its seconds, and the report of what was measured.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{join_all, select};
use glommio::Task;

use crate::broker::Process;
use crate::client::{Client, Header, Outcome, Topic};
use crate::clock;
use crate::command::Ended;
use crate::conditions::Conditions;
use crate::consume::{Consumer, Until};
use crate::explain::Explainer;
use crate::hdr::HdrLog;
use crate::payload::{Altered, Head, Payload, noise};
use crate::produce::Producer;
use crate::recorder::{Point, Recorder, Sample};
use crate::report::{Ending, Report};
use crate::schedule::Schedule;
use crate::size::Sizes;
use crate::verify::{Stream, Verifier};
use crate::workload::Workload;

/// How long records may take to arrive after the last one left, or the one before them came.
const PATIENCE: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 15 });

/// How long a run that was stopped waits for what is on its way.
const GRACE: Duration = Duration::from_secs(2);

/// What is left of a second at the start or the end of a run is told only if it is worth it.
const SECOND_MIN: Duration = Duration::from_millis(100);

/// How often a run looks whether it was stopped.
const LOOK: Duration = Duration::from_millis(100);

/// Shared by all that take part in a run.
pub struct Run {
    pub workload: Workload,
    pub topics: Vec<Topic>,
    pub recorder: Recorder,
    /// What values are made of, each long enough for any of them.
    pub bodies: Vec<Bytes>,
    pub sizes: Sizes,
    /// Those of each record.
    pub headers: Vec<Header>,
    pub verifier: RefCell<Option<Verifier>>,
    id: u64,
    epoch: Instant,
    /// Reads what values say; writes none.
    reader: Payload,
    end: Cell<Instant>,
    stopped: Cell<bool>,
    all_sent: Cell<bool>,
    sent: Cell<u64>,
    read: Cell<u64>,
    last_read: Cell<Instant>,
    written: RefCell<BTreeMap<(usize, i32, u32), u64>>,
    failure: RefCell<Option<String>>,
    /// Consumers that are still at work.
    reading: Cell<usize>,
}

impl Run {
    pub fn end(&self) -> Instant {
        self.end.get()
    }

    pub fn payloads(&self) -> Vec<Payload> {
        let checked = self.workload.verify;
        self.bodies
            .iter()
            .map(|body| Payload::new(self.id, self.epoch, checked, body))
            .collect()
    }

    /// `None` for a record of another run.
    pub fn read(&self, value: &[u8]) -> Option<Result<Head, Altered>> {
        self.reader.read(value)
    }

    pub fn note_sent(&self, records: u64) {
        self.sent.set(self.sent.get() + records);
    }

    pub fn note_read(&self, records: u64) {
        if records > 0 {
            self.read.set(self.read.get() + records);
            self.last_read.set(clock::now());
        }
    }

    pub fn note_written(&self, topic: usize, partition: i32, writer: u32, records: u64) {
        let mut written = self.written.borrow_mut();
        written.insert((topic, partition, writer), records);
    }

    /// Records that consumers have not had.
    pub fn unread(&self) -> u64 {
        let due = self.sent.get() * u64::from(self.workload.subscriptions_per_topic);
        due.saturating_sub(self.read.get())
    }

    /// Whether consumers have had all, or need not wait for it any longer.
    pub fn is_read(&self) -> bool {
        let over = self.all_sent.get() && self.unread() == 0;
        // A broker that has fallen behind has its records come long after the end, and they are not missing.
        let waited_from = self.end().max(self.last_read.get());
        over || self.failed() || clock::now() > waited_from + PATIENCE
    }

    pub fn is_stopped(&self) -> bool {
        self.stopped.get() || self.failed()
    }

    fn failed(&self) -> bool {
        self.failure.borrow().is_some()
    }

    /// Ends measuring now.
    fn finish(&self) {
        self.end.set(self.end().min(clock::now()));
    }

    fn fail(&self, reason: String) {
        self.failure.borrow_mut().get_or_insert(reason);
        self.finish();
    }

    /// Runs a part of the run beside the others; its error ends the run.
    fn spawn(self: &Rc<Self>, part: impl Future<Output = Outcome<()>> + 'static) -> Task<()> {
        let run = Rc::clone(self);
        glommio::spawn_local(async move {
            if let Err(reason) = part.await {
                run.fail(reason);
            }
        })
    }
}

/// What a run is given beside its workload.
pub struct Setting {
    /// Names the topics; fresh ones, removed afterwards, when not given.
    pub topic: Option<String>,
    /// Of the broker that is asked first.
    pub address: String,
    pub broker: Option<Process>,
    /// Says that somebody wants the run to end.
    pub stop: Rc<Cell<bool>>,
    /// A topic that is read from its beginning, as fast as it comes, while the run goes; its end is the run's.
    pub catch_up: Option<String>,
    /// Told each second.
    pub progress: Box<dyn Fn(&Point)>,
    /// Given each second's histograms.
    pub hdr: RefCell<Option<HdrLog>>,
    /// Asks the broker where its time goes.
    pub explainer: Option<Explainer>,
}

impl Setting {
    /// Says which of several runs is next.
    pub fn begin_part(&self, part: &str) {
        if let Some(log) = &mut *self.hdr.borrow_mut() {
            log.begin(part);
        }
    }

    pub fn ended(&self) -> Ended {
        if self.stop.get() {
            Ended::Interrupted
        } else {
            Ended::AsMeant
        }
    }

    fn ask_broker(&self) {
        if let Some(explainer) = &self.explainer {
            explainer.ask();
        }
    }

    fn end_interval(&self, recorder: &Recorder) -> Outcome<()> {
        match &mut *self.hdr.borrow_mut() {
            Some(log) => log.end_interval(clock::now(), recorder),
            None => Ok(()),
        }
    }

    /// Waits for what is to be done at the end; if somebody wants the end now, or in a hurry, not for long.
    async fn settle<C: Client>(&self, work: impl Future<Output = ()>, hurry: bool) {
        let given_up = async {
            while !self.stop.get() && !hurry {
                C::sleep_until(clock::now() + LOOK).await;
            }
            C::sleep_until(clock::now() + GRACE).await;
        };
        select(pin!(work), pin!(given_up)).await;
    }
}

/// Runs a workload and reports it.
pub async fn run<C: Client>(client: &C, workload: &Workload, setting: &Setting) -> Outcome<Report> {
    let id = clock::wall_ms() as u64;
    let prefix = match &setting.topic {
        Some(topic) => topic.clone(),
        None => format!("coati-bench-{id:x}"),
    };
    let names = topic_names(&prefix, workload.topics);
    let mut ours = Vec::new();
    for name in &names {
        let (partitions, configs) = (workload.partitions_per_topic, &workload.topic_configs);
        if client.create_topic(name, partitions, configs).await? && setting.topic.is_none() {
            ours.push(name.clone());
        }
    }
    let measured = run_on(client, workload, setting, id, &names).await;
    let removing = async {
        for name in ours {
            if let Err(reason) = client.delete_topic(&name).await {
                eprintln!("topic {name} is left behind: {reason}");
            }
        }
    };
    let failed = measured
        .as_ref()
        .map_or(true, |report| report.failure.is_some());
    setting.settle::<C>(removing, failed).await;
    measured
}

async fn all(tasks: Vec<Task<()>>) {
    join_all(tasks).await;
}

fn topic_names(prefix: &str, count: u32) -> Vec<String> {
    match count {
        1 => vec![prefix.to_owned()],
        _ => (0..count)
            .map(|number| format!("{prefix}-{number}"))
            .collect(),
    }
}

async fn run_on<C: Client>(
    client: &C,
    workload: &Workload,
    setting: &Setting,
    id: u64,
    names: &[String],
) -> Outcome<Report> {
    let mut topics = Vec::new();
    for name in names.iter().chain(&setting.catch_up) {
        topics.push(client.topic(name).await?);
    }
    if workload.consumer_backlog_gb > 0.0 {
        let backlog = (workload.consumer_backlog_gb * 1e9 / names.len() as f64) as u64;
        fill(client, workload, &topics[..names.len()], backlog, setting).await?;
    }
    let flush_mode = client.flush_mode(&names[0]).await?;
    let conditions = Conditions::now(&setting.address);
    let run = Rc::new(prepare::<C>(workload, topics, id)?);
    let mut parts = connect(client, &run, setting).await?;
    let idle = connect_idle(client, &run).await?;

    // From here on the clock counts.
    let start = clock::now() + Duration::from_millis(20);
    let only_reads = workload.producers_per_topic == 0;
    let warm_up = if only_reads {
        Duration::ZERO
    } else {
        workload.warm_up()
    };
    let measure_from = start + warm_up;
    run.recorder.start(measure_from);
    run.end.set(measure_from + workload.test_duration());
    let sending = parts.start_producers(&run, start);
    let reading = parts.start_consumers(&run);
    let seconds = watch::<C>(&run, setting, measure_from).await;
    setting.settle::<C>(all(sending), run.failed()).await;
    run.all_sent.set(true);
    setting.settle::<C>(all(reading), run.failed()).await;
    drop(idle);
    setting.end_interval(&run.recorder)?;
    let mut report = report(&run, setting, conditions, flush_mode, seconds);
    if let Some(explainer) = &setting.explainer {
        match explainer.explain(report.seen()).await {
            Ok(explanation) => report.explanation = Some(explanation),
            // What was measured is worth having without it.
            Err(reason) => eprintln!("nothing is explained: {reason}"),
        }
    }
    Ok(report)
}

fn prepare<C: Client>(workload: &Workload, topics: Vec<Topic>, id: u64) -> Outcome<Run> {
    let now = clock::now();
    let sizes = Sizes::load(&workload.message_size, workload.value_bytes_min())?;
    let bodies = bodies(workload, sizes.most())?;
    Ok(Run {
        recorder: Recorder::new(now, C::idled),
        verifier: RefCell::new(workload.verify.then(Verifier::default)),
        id,
        epoch: now,
        reader: Payload::new(id, now, workload.verify, b""),
        end: Cell::new(now),
        stopped: Cell::new(false),
        all_sent: Cell::new(false),
        sent: Cell::new(0),
        read: Cell::new(0),
        last_read: Cell::new(now),
        written: RefCell::default(),
        failure: RefCell::default(),
        reading: Cell::new(0),
        bodies,
        sizes,
        headers: headers(workload),
        topics,
        workload: workload.clone(),
    })
}

/// What values are made of: pieces of the file, or noise.
fn bodies(workload: &Workload, size: usize) -> Outcome<Vec<Bytes>> {
    let count = workload.randomized_payload_pool_size.max(1);
    if let Some(path) = &workload.payload_file {
        let file = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        if file.is_empty() {
            return Err(format!("{} is empty", path.display()));
        }
        let file = Bytes::from(file.repeat(size.div_ceil(file.len()) + 1));
        return Ok((0..count)
            .map(|number| {
                let at = number * size % (file.len() - size);
                file.slice(at..at + size)
            })
            .collect());
    }
    let share = if workload.use_randomized_payloads {
        workload.random_bytes_ratio
    } else {
        0.0
    };
    Ok((0..count)
        .map(|number| noise(number as u64 + 1, size, share))
        .collect())
}

fn headers(workload: &Workload) -> Vec<Header> {
    (0..workload.headers_per_message)
        .map(|number| Header {
            key: format!("header-{number}"),
            value: noise(number as u64 + 1, workload.header_size, 1.0),
        })
        .collect()
}

/// Those who take part, connected, and not yet at work.
struct Parts<C: Client> {
    producers: Vec<Producer<C>>,
    consumers: Vec<Consumer<C>>,
    catch_up: Option<Consumer<C>>,
}

async fn connect<C: Client>(client: &C, run: &Rc<Run>, setting: &Setting) -> Outcome<Parts<C>> {
    let workload = &run.workload;
    let own_topics = workload.topics as usize;
    let mut parts = Parts {
        producers: Vec::new(),
        consumers: Vec::new(),
        catch_up: None,
    };
    let only_reads = workload.producers_per_topic == 0;
    for topic in 0..own_topics {
        let partitions: Vec<i32> = (0..run.topics[topic].leaders.len() as i32).collect();
        for subscription in 0..workload.subscriptions_per_topic {
            for number in 0..workload.consumer_per_subscription as usize {
                let count = workload.consumer_per_subscription as usize;
                let share: Vec<(usize, i32)> = partitions
                    .iter()
                    .skip(number)
                    .step_by(count)
                    .map(|partition| (topic, *partition))
                    .collect();
                let until = if only_reads {
                    Until::TopicEnd
                } else {
                    Until::RunIsRead
                };
                let from_beginning = only_reads || workload.consumer_backlog_gb > 0.0;
                let consumer = Consumer::connect(
                    Rc::clone(run),
                    client.clone(),
                    subscription,
                    &share,
                    from_beginning,
                    until,
                );
                parts.consumers.push(consumer.await?);
            }
        }
        for _ in 0..workload.producers_per_topic {
            let writer = parts.producers.len() as u32;
            let producer = Producer::connect(Rc::clone(run), client.clone(), topic, writer);
            parts.producers.push(producer.await?);
        }
    }
    if setting.catch_up.is_some() {
        let partitions = run.topics[own_topics].leaders.len() as i32;
        let share: Vec<(usize, i32)> = (0..partitions)
            .map(|partition| (own_topics, partition))
            .collect();
        let consumer = Consumer::connect(
            Rc::clone(run),
            client.clone(),
            0,
            &share,
            true,
            Until::TopicEnd,
        );
        parts.catch_up = Some(consumer.await?);
    }
    Ok(parts)
}

impl<C: Client> Parts<C> {
    /// The tasks end when all is acknowledged.
    fn start_producers(&mut self, run: &Rc<Run>, start: Instant) -> Vec<Task<()>> {
        let producers = std::mem::take(&mut self.producers);
        let count = producers.len() as f64;
        let mut tasks = Vec::new();
        for (number, producer) in producers.into_iter().enumerate() {
            let rate = run.workload.producer_rate / count;
            let schedule = (rate > 0.0).then(|| {
                // Producers take turns instead of all sending at once.
                let turn = Duration::from_secs_f64(number as f64 / count / rate);
                Schedule::new(start + turn, rate)
            });
            tasks.push(run.spawn(async move {
                C::sleep_until(start).await;
                producer.produce(schedule).await
            }));
        }
        tasks
    }

    fn start_consumers(&mut self, run: &Rc<Run>) -> Vec<Task<()>> {
        let consumers = std::mem::take(&mut self.consumers);
        let mut tasks: Vec<Task<()>> = consumers
            .into_iter()
            .map(|consumer| {
                run.reading.set(run.reading.get() + 1);
                let counting = Rc::clone(run);
                run.spawn(async move {
                    if counting.workload.producers_per_topic == 0 {
                        C::sleep_until(counting.recorder.measure_from()).await;
                    }
                    let consumed = consumer.consume().await;
                    counting.reading.set(counting.reading.get() - 1);
                    consumed
                })
            })
            .collect();
        if let Some(reader) = self.catch_up.take() {
            let ending = Rc::clone(run);
            tasks.push(run.spawn(async move {
                C::sleep_until(ending.recorder.measure_from()).await;
                let read = reader.consume().await;
                ending.finish();
                read
            }));
        }
        tasks
    }
}

async fn connect_idle<C: Client>(client: &C, run: &Run) -> Outcome<Vec<C::Connection>> {
    let leaders = &run.topics[0].leaders;
    let mut idle = Vec::new();
    for number in 0..run.workload.idle_connections as usize {
        idle.push(client.connect(&leaders[number % leaders.len()]).await?);
    }
    Ok(idle)
}

/// First and last moment of what is measured.
struct Seconds {
    first: Sample,
    last: Sample,
}

/// Follows the run to its end, second by second.
async fn watch<C: Client>(run: &Rc<Run>, setting: &Setting, measure_from: Instant) -> Seconds {
    let take = || Sample::take(clock::now(), &run.recorder, setting.broker);
    let only_reads = run.workload.producers_per_topic == 0;
    let mut second = take();
    let mut first = None;
    let mut tick = measure_from;
    // The warm-up's seconds end where measuring begins.
    while tick > second.at + Duration::from_millis(1500) {
        tick -= Duration::from_secs(1);
    }
    if tick < second.at + SECOND_MIN {
        tick += Duration::from_secs(1);
    }
    let end_second = |second: &mut Sample| {
        let point = run
            .recorder
            .end_second(clock::now(), second, setting.broker);
        (setting.progress)(&point);
        if let Err(reason) = setting.end_interval(&run.recorder) {
            run.fail(reason);
        }
    };
    loop {
        let now = clock::now();
        if setting.stop.get() {
            run.stopped.set(true);
            run.finish();
        }
        if now >= tick {
            end_second(&mut second);
            tick += Duration::from_secs(1);
        }
        if now >= measure_from && first.is_none() {
            first = Some(take());
            setting.ask_broker();
        }
        let all_read = only_reads && run.reading.get() == 0;
        if (!only_reads && now >= run.end()) || all_read || run.is_stopped() {
            break;
        }
        let next = if only_reads {
            tick
        } else {
            tick.min(run.end())
        };
        // To the moment: a short run is over soon.
        let next = first.map_or(next.min(measure_from), |_| next);
        C::sleep_until(next.min(now + LOOK)).await;
    }
    let last = take();
    setting.ask_broker();
    if last.at > second.at + SECOND_MIN {
        end_second(&mut second);
    }
    Seconds {
        first: first.unwrap_or(last),
        last,
    }
}

/// Puts `bytes` of noise into a topic.
pub async fn fill_topic<C: Client>(
    client: &C,
    workload: &Workload,
    topic: &str,
    bytes: u64,
    setting: &Setting,
) -> Outcome<()> {
    let topic = client.topic(topic).await?;
    fill(client, workload, &[topic], bytes, setting).await
}

/// Puts `bytes` of noise into each topic.
async fn fill<C: Client>(
    client: &C,
    workload: &Workload,
    topics: &[Topic],
    bytes: u64,
    setting: &Setting,
) -> Outcome<()> {
    let filler = Workload {
        topics: topics.len() as u32,
        idle_connections: 0,
        producers_per_topic: 1,
        producer_rate: 0.0,
        subscriptions_per_topic: 0,
        verify: false,
        idempotent: false,
        acks: crate::workload::Acks::Leader,
        ..workload.clone()
    };
    let (count, gigabytes) = (topics.len(), bytes as f64 / 1e9);
    eprintln!("filling {count} topic(s) with {gigabytes} GB each");
    let run = Rc::new(prepare::<C>(&filler, topics.to_vec(), 0)?);
    run.end.set(clock::now() + Duration::from_secs(24 * 3600));
    let mut parts = connect(client, &run, setting).await?;
    let tasks = parts.start_producers(&run, clock::now());
    let mut second = Sample::take(clock::now(), &run.recorder, setting.broker);
    while run.recorder.volumes().0.bytes < bytes * topics.len() as u64 && !run.is_stopped() {
        run.stopped.set(setting.stop.get());
        let now = clock::now();
        if now > second.at + Duration::from_secs(1) {
            (setting.progress)(&run.recorder.end_second(now, &mut second, setting.broker));
        }
        C::sleep_until(clock::now() + Duration::from_millis(5)).await;
    }
    run.finish();
    setting.settle::<C>(all(tasks), run.failed()).await;
    run.failure.take().map_or(Ok(()), Err)
}

fn report(
    run: &Run,
    setting: &Setting,
    conditions: Conditions,
    flush_mode: String,
    seconds: Seconds,
) -> Report {
    let cut_off = run.failed() || (setting.stop.get() && run.unread() > 0);
    let verdict = run.verifier.take().map(|verifier| {
        if cut_off {
            // What has not come may have been on its way.
            return verifier.finish([]);
        }
        let written = run.written.borrow();
        let subscriptions = 0..run.workload.subscriptions_per_topic;
        verifier.finish(subscriptions.flat_map(|subscription| {
            written
                .iter()
                .map(move |(&(topic, partition, writer), count)| {
                    let stream = Stream {
                        subscription,
                        topic: topic as u32,
                        partition,
                        writer,
                    };
                    (stream, *count)
                })
        }))
    });
    let unread = if run.workload.readers() > 0 && run.workload.producers_per_topic > 0 {
        run.unread()
    } else {
        0
    };
    Report::new(
        conditions,
        run.workload.clone(),
        flush_mode,
        (&seconds.first, &seconds.last),
        setting.broker.is_some(),
        &run.recorder,
        Ending {
            verdict,
            unread,
            interrupted: setting.stop.get(),
            failure: run.failure.take(),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{FakeBroker, Spoil, on_executor};
    use crate::size::Size;
    use crate::verify::Verdict;

    fn setting() -> Setting {
        Setting {
            topic: None,
            address: String::new(),
            broker: None,
            stop: Rc::default(),
            catch_up: None,
            progress: Box::new(|_| {}),
            hdr: RefCell::default(),
            explainer: None,
        }
    }

    fn workload() -> Workload {
        Workload {
            partitions_per_topic: 2,
            producers_per_topic: 1,
            producer_rate: 2000.0,
            test_duration_minutes: 0.4 / 60.0,
            warmup_duration_minutes: 0.1 / 60.0,
            message_size: Size::Uniform {
                least: 40,
                most: 60,
            },
            batch_bytes: 500,
            verify: true,
            ..Workload::default()
        }
    }

    fn verdict(spoil: Spoil) -> (Verdict, Report) {
        let broker = FakeBroker::new(spoil);
        let report = on_executor(run(&broker, &workload(), &setting())).unwrap();
        (report.verdict.clone().unwrap(), report)
    }

    #[test]
    fn a_run_without_faults_is_clean_and_adds_up() {
        let (verdict, report) = verdict(Spoil::Nothing);
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!(report.fault(), None);
        // 0.1 s of warm-up and 0.4 s of measuring, at 2,000 records a second.
        assert_eq!(verdict.checked, 1000);
        assert_eq!(report.end_to_end.as_ref().unwrap().count, 800);
        assert_eq!(report.acknowledge.as_ref().unwrap().count, 800);
        assert_eq!(report.unread, 0);
        assert!(report.open_loop);
    }

    #[test]
    fn requests_have_as_many_partitions_as_they_may() {
        let mut broker = FakeBroker::new(Spoil::Nothing);
        broker.leaders.push("one".into());
        let workload = Workload {
            partitions_per_request: 2,
            batch_bytes: 100,
            ..workload()
        };
        let report = on_executor(run(&broker, &workload, &setting())).unwrap();
        let verdict = report.verdict.unwrap();
        assert!(verdict.is_clean(), "{verdict}");
        assert_eq!((verdict.checked, report.unread), (1000, 0));
        let as_they_may = |broker: &FakeBroker| {
            let widths = broker.widths.take();
            widths.contains(&1) && widths.contains(&2) && !widths.iter().any(|width| *width > 2)
        };
        assert!(as_they_may(&broker));

        let unread = Workload {
            consumer_per_subscription: 0,
            producer_rate: 0.0,
            verify: false,
            ..workload
        };
        on_executor(run(&broker, &unread, &setting())).unwrap();
        assert!(as_they_may(&broker));
    }

    /// One record in each of two partitions is spoilt.
    #[test]
    fn every_kind_of_fault_is_found_and_named() {
        let (lost, report) = verdict(Spoil::Double);
        assert_eq!((lost.missing, lost.doubled), (0, 2), "{lost}");
        assert!(
            report
                .fault()
                .unwrap()
                .contains("first doubled: record 100")
        );
        let (swapped, report) = verdict(Spoil::SwapWithNext);
        assert_eq!(swapped.out_of_order, 2, "{swapped}");
        assert_eq!(swapped.missing, 0);
        assert!(
            report
                .fault()
                .unwrap()
                .contains("first out of order: record 100")
        );
        let (altered, report) = verdict(Spoil::Alter);
        assert_eq!(altered.altered, 2, "{altered}");
        let first = report.fault().unwrap();
        assert!(first.contains("first altered:") && first.contains("at offset 100"));
    }

    /// A broker that took more than it could hand on in time once failed its run with records that "never arrived".
    #[test]
    fn records_that_still_come_are_waited_for() {
        let (slow, report) = verdict(Spoil::Slow);
        assert!(slow.is_clean(), "{slow}");
        assert_eq!((slow.checked, report.unread), (1000, 0));
        let latest = report.end_to_end.as_ref().unwrap().max;
        let patience = PATIENCE.as_secs_f64() * 1e3;
        assert!(latest > patience, "{latest} ms: it came too soon");
    }

    #[test]
    fn a_lost_record_is_found_when_no_more_come() {
        let (lost, report) = verdict(Spoil::Lose);
        assert_eq!((lost.missing, lost.doubled), (2, 0), "{lost}");
        assert!(
            report
                .fault()
                .unwrap()
                .contains("first missing: record 100")
        );
    }
}
