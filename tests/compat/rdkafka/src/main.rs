//! The rdkafka crate's part of the compatibility suite; see tests/compat/README.md.
//!
//! `compat-rdkafka BOOTSTRAP`: a case a line on stdin (JSON), `pass NAME` or `FAIL NAME: why` a line on stdout.

use std::io::BufRead;
use std::sync::Mutex;
use std::sync::mpsc::TryRecvError;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer, ProducerContext};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde_json::Value;

const DEADLINE: Duration = Duration::from_secs(20);

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

struct Case {
    name: String,
    kind: String,
    topic: String,
    partitions: usize,
    records: usize,
    base_timestamp: i64,
    codec: String,
    acks: String,
    idempotent: bool,
    timestamps: bool,
}

fn main() {
    let bootstrap = std::env::args().nth(1).expect("usage: compat-rdkafka BOOTSTRAP");
    let more: Vec<String> = std::env::args().skip(2).collect();
    if let [_, group, topic, assignor, instance @ ..] = &more[..] {
        member(&bootstrap, group, topic, assignor, instance.first()).expect("a member ends in order");
        return;
    }
    for line in std::io::stdin().lock().lines() {
        let case = parse(&line.expect("stdin"));
        let outcome = match case.kind.as_str() {
            "admin" => admin(&bootstrap, &case),
            "produce" => produce(&bootstrap, &case).and_then(|()| verify(&bootstrap, &case)),
            _ => verify(&bootstrap, &case),
        };
        match outcome {
            Ok(()) => println!("pass {}", case.name),
            Err(error) => println!("FAIL {}: {error}", case.name),
        }
    }
}

/// A member of a group (groups.py): see "In a group" in tests/compat/README.md.
fn member(bootstrap: &str, group: &str, topic: &str, assignor: &str, instance: Option<&String>) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("group.id", group).set("enable.auto.commit", "false");
    config.set("auto.offset.reset", "earliest").set("topic.metadata.refresh.interval.ms", "1000");
    match assignor {
        "consumer" => {
            config.set("group.protocol", "consumer");
        }
        _ => {
            config.set("session.timeout.ms", "6000").set("heartbeat.interval.ms", "500");
            config.set("partition.assignment.strategy", assignor);
        }
    }
    if let Some(instance) = instance {
        config.set("group.instance.id", instance);
    }
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    let (commands, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            commands.send(line).expect("somebody listens");
        }
    });
    let (mut uncommitted, mut mode) = (false, CommitMode::Sync);
    loop {
        match told.try_recv() {
            Ok(line) => {
                let (line, assigned) = (line?, consumer.assignment()?);
                match line.split_once(' ') {
                    Some(("seek", offset)) => {
                        let mut to = TopicPartitionList::new();
                        for one in assigned.elements() {
                            to.add_partition_offset(one.topic(), one.partition(), Offset::Offset(offset.parse()?))?;
                        }
                        consumer.seek_partitions(to, DEADLINE)?;
                    }
                    _ if line == "pause" => consumer.pause(&assigned)?,
                    _ if line == "resume" => consumer.resume(&assigned)?,
                    _ => mode = CommitMode::Async,
                }
                println!("done");
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => return Ok(()),
        }
        match consumer.poll(Duration::from_millis(20)) {
            Some(Ok(record)) => {
                println!("record {} {} {}", record.topic(), record.partition(), record.offset());
                uncommitted = true;
            }
            Some(Err(error)) => println!("error {error}"),
            None if uncommitted => {
                uncommitted = false;
                if let Err(error) = consumer.commit_consumer_state(mode) {
                    println!("uncommitted {error}");
                    uncommitted = true;
                }
            }
            None => {}
        }
    }
}

fn parse(line: &str) -> Case {
    let value: Value = serde_json::from_str(line).expect("a case is JSON");
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_string();
    let number = |name: &str| value[name].as_i64().unwrap_or_default();
    let flag = |name: &str| value[name].as_bool().unwrap_or_default();
    Case {
        name: text("name"),
        kind: text("kind"),
        topic: text("topic"),
        partitions: number("partitions") as usize,
        records: number("records") as usize,
        base_timestamp: number("base_timestamp"),
        codec: text("codec"),
        acks: text("acks"),
        idempotent: flag("idempotent"),
        timestamps: flag("timestamps"),
    }
}

fn key(i: usize) -> Option<Vec<u8>> {
    (i % 7 != 3 || i % 11 == 5).then(|| format!("key-{i}").into_bytes())
}

fn value(i: usize) -> Option<Vec<u8>> {
    let byte = |k: usize| match (i * 31 + k * 7) as u8 {
        10 | 31 => 0,
        byte => byte,
    };
    (i % 11 != 5).then(|| (0..1 + i * 37 % 900).map(byte).collect())
}

fn headers(partition: usize) -> Vec<(&'static str, Vec<u8>)> {
    let both = [("h0", format!("v{partition}").into_bytes()), ("h1", vec![0xff, b'a' + partition as u8])];
    both.into_iter().take(partition % 3).collect()
}

fn check(holds: bool, what: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// Collects what each record was answered with: its number, and its offset or error.
#[derive(Default)]
struct Deliveries(Mutex<Vec<(usize, std::result::Result<i64, String>)>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, number: Box<usize>) {
        let answer = match result {
            Ok(message) => Ok(message.offset()),
            Err((error, _)) => Err(error.to_string()),
        };
        self.0.lock().expect("not poisoned").push((*number, answer));
    }
}

fn produce(bootstrap: &str, case: &Case) -> Result<()> {
    let producer: BaseProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("acks", &case.acks)
        .set("compression.type", &case.codec)
        .set("enable.idempotence", case.idempotent.to_string())
        .set("max.in.flight.requests.per.connection", if case.idempotent { "5" } else { "1" })
        .set("linger.ms", "20")
        .create_with_context(Deliveries::default())?;
    for i in 0..case.records {
        let partition = i % case.partitions;
        let (key, value) = (key(i), value(i));
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(&case.topic, Box::new(i))
            .partition(partition as i32)
            .timestamp(case.base_timestamp + i as i64 * 10)
            .headers(
                headers(partition)
                    .iter()
                    .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) })),
            );
        record.key = key.as_deref();
        record.payload = value.as_deref();
        producer.send(record).map_err(|(error, _)| error)?;
        producer.poll(Duration::ZERO);
    }
    producer.flush(DEADLINE)?;
    let deliveries = std::mem::take(&mut *producer.context().0.lock().expect("not poisoned"));
    check(deliveries.len() == case.records, || format!("{} deliveries", deliveries.len()))?;
    for (i, answer) in deliveries {
        let offset = answer?;
        check(case.acks == "0" || offset as usize == i / case.partitions, || format!("record {i} acknowledged at offset {offset}"))?;
    }
    Ok(())
}

fn compare(case: &Case, record: &BorrowedMessage<'_>, expected: usize) -> Result<()> {
    let partition = record.partition() as usize;
    let i = expected * case.partitions + partition;
    let told = |what: &str| format!("partition {partition} offset {expected}: {what} differs: {record:?}");
    check(record.offset() == expected as i64, || told("offset"))?;
    check(record.key() == key(i).as_deref(), || told("key"))?;
    check(record.payload() == value(i).as_deref(), || told("value"))?;
    let timestamp = case.base_timestamp + i as i64 * 10;
    check(!case.timestamps || record.timestamp().to_millis() == Some(timestamp), || told("timestamp"))?;
    let wanted = headers(partition);
    let got: Vec<_> = record.headers().into_iter().flat_map(|headers| headers.iter()).collect();
    check(got.len() == wanted.len(), || told("header count"))?;
    for (got, (key, value)) in got.iter().zip(&wanted) {
        check(got.key == *key && got.value == Some(value), || told("header"))?;
    }
    Ok(())
}

fn verify(bootstrap: &str, case: &Case) -> Result<()> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap)
        .set("group.id", "none: partitions are assigned")
        .set("enable.auto.commit", "false")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "10")
        .create()?;
    let metadata = consumer.fetch_metadata(Some(&case.topic), DEADLINE)?;
    check(metadata.topics()[0].partitions().len() == case.partitions, || "partition count".to_string())?;
    let mut timestamps = vec![Vec::new(); case.partitions];
    let all = (0..case.partitions).map(|partition| (partition, Offset::Beginning)).collect::<Vec<_>>();
    consume(&consumer, case, &all, case.records, |record| {
        let seen: &mut Vec<i64> = &mut timestamps[record.partition() as usize];
        compare(case, record, seen.len())?;
        seen.push(record.timestamp().to_millis().unwrap_or(-1));
        Ok(())
    })?;
    for (partition, times) in timestamps.iter().enumerate() {
        let ends = consumer.fetch_watermarks(&case.topic, partition as i32, DEADLINE)?;
        check(ends == (0, times.len() as i64), || format!("partition {partition} goes from {} to {}", ends.0, ends.1))?;
    }
    by_timestamp(&consumer, case, &timestamps)
}

/// Reads `count` records from the given places on, in each partition's order.
fn consume(
    consumer: &BaseConsumer,
    case: &Case,
    from: &[(usize, Offset)],
    count: usize,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in from {
        list.add_partition_offset(&case.topic, *partition as i32, *offset)?;
    }
    consumer.assign(&list)?;
    let started = Instant::now();
    let mut read = 0;
    while read < count {
        check(started.elapsed() < DEADLINE, || format!("read only {read} of {count} records"))?;
        if let Some(record) = consumer.poll(Duration::from_millis(200)) {
            each(&record?)?;
            read += 1;
        }
    }
    Ok(())
}

fn by_timestamp(consumer: &BaseConsumer, case: &Case, timestamps: &[Vec<i64>]) -> Result<()> {
    let last = timestamps[0].len() - 1;
    for (j, less) in [(0, 0), (0, 1), (last / 2, 0), (last / 2, 1), (last, 0), (last, 1), (last, -1)] {
        let mut asked = TopicPartitionList::new();
        for (partition, times) in timestamps.iter().enumerate() {
            asked.add_partition_offset(&case.topic, partition as i32, Offset::Offset(times[j] - less))?;
        }
        let found = consumer.offsets_for_times(asked, DEADLINE)?;
        for (partition, times) in timestamps.iter().enumerate() {
            let expected = match times.iter().position(|time| *time >= times[j] - less) {
                Some(offset) => Offset::Offset(offset as i64),
                None => Offset::End,
            };
            let got = found.find_partition(&case.topic, partition as i32).ok_or("a partition is missing")?.offset();
            check(got == expected, || format!("partition {partition} timestamp {} found {got:?}, not {expected:?}", times[j] - less))?;
        }
    }
    let middle = last / 2;
    let from = (0..case.partitions).map(|partition| (partition, Offset::Offset(middle as i64))).collect::<Vec<_>>();
    let count = timestamps.iter().map(|times| times.len() - middle).sum();
    let mut next = vec![middle; case.partitions];
    consume(consumer, case, &from, count, |record| {
        let next = &mut next[record.partition() as usize];
        *next += 1;
        compare(case, record, *next - 1)
    })
}

/// rdkafka's admin calls are futures that librdkafka's own thread completes: this thread parks until then.
fn wait<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(std::thread::Thread);
    impl std::task::Wake for Unpark {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unpark(std::thread::current())).into();
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
            std::task::Poll::Ready(value) => return value,
            std::task::Poll::Pending => std::thread::park(),
        }
    }
}

fn admin(bootstrap: &str, case: &Case) -> Result<()> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new().set("bootstrap.servers", bootstrap).create()?;
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE));
    let topic = NewTopic::new(&case.topic, 3, TopicReplication::Fixed(1));
    for result in wait(admin.create_topics([&topic], &options))? {
        result.map_err(|(_, code)| code)?;
    }
    let listed = admin.inner().fetch_metadata(None, DEADLINE)?;
    let found = listed.topics().iter().find(|topic| topic.name() == case.topic);
    check(found.is_some_and(|topic| topic.partitions().len() == 3), || "the new topic is not listed with 3 partitions".to_string())?;
    for result in wait(admin.delete_topics(&[&case.topic], &options))? {
        result.map_err(|(_, code)| code)?;
    }
    // A deletion reaches a broker's own view a moment after the controller has answered.
    let started = Instant::now();
    while admin.inner().fetch_metadata(None, DEADLINE)?.topics().iter().any(|topic| topic.name() == case.topic) {
        check(started.elapsed() < DEADLINE, || "the deleted topic is still listed".to_string())?;
    }
    Ok(())
}
