//! Owns sending records: which partition, in which batch, in which request, and again until it is acknowledged.
//! One batch a partition is in flight at a time, so that trying again never changes the order; what arrives
//! meanwhile makes the next one. It never blocks its caller but for room in its buffer.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::{Either, select};

use super::notify::Notify;
use super::partitioner::{Sticky, partition_of_key};
use super::time::Attempts;
use super::{ClientError, Cluster, Missing, Topic};
use crate::ids::{BrokerId, Offset, PartitionIndex, ProducerId, TimestampMs};
use crate::io::timer;
use crate::io::turn;
use crate::io::{clock, entropy};
use crate::protocol::batch::{BatchBuilder, RecordHeader};
use crate::protocol::compression::Codec;
use crate::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::produce_response::PartitionProduceResponse;
use crate::protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse};
use crate::protocol::{ErrorCode, Message, Records, Str};

/// Newer versions tell topics by id only.
const LAST_VERSION_BY_NAME: i16 = 12;

/// The first version in which brokers take zstd (KIP-110).
const FIRST_VERSION_WITH_ZSTD: i16 = 7;

/// What a record costs in a batch beyond its key and value, at most, without headers.
const RECORD_OVERHEAD_BYTES: usize = 36;

/// What has to happen to a record before its producer hears of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acks {
    /// Nothing: there is no answer.
    None,
    Leader,
    /// Every in-sync replica has it.
    All,
}

impl Acks {
    fn code(self) -> i16 {
        match self {
            Acks::None => 0,
            Acks::Leader => 1,
            Acks::All => -1,
        }
    }
}

#[derive(Clone, Debug)]
pub struct ProducerOptions {
    pub acks: Acks,
    pub codec: Codec,
    /// The codec's own level; `None` is its default.
    pub level: Option<i32>,
    /// How long a batch waits for more records while nothing of its partition is in flight.
    pub linger: Duration,
    /// A batch takes no more records beyond this.
    pub batch_bytes: usize,
    /// Batches of different partitions share a request up to this.
    pub request_bytes: usize,
    /// [`Producer::send`] waits while more than this is not yet acknowledged.
    pub buffer_bytes: usize,
    /// How long a record may take, with all attempts, before it counts as not delivered.
    pub delivery_timeout: Duration,
    /// No record twice, whatever has to be sent again (KIP-98). Asks for `Acks::All`.
    pub idempotent: bool,
    /// Whether a topic that does not exist may be created by sending to it.
    pub missing: Missing,
}

impl Default for ProducerOptions {
    fn default() -> ProducerOptions {
        ProducerOptions {
            acks: Acks::All,
            codec: Codec::None,
            level: None,
            linger: Duration::from_millis(5),
            batch_bytes: 256 << 10,
            request_bytes: 1 << 20,
            buffer_bytes: 32 << 20,
            delivery_timeout: Duration::from_secs(60),
            idempotent: false,
            missing: Missing::Create,
        }
    }
}

/// A record to be sent.
#[derive(Clone, Debug, Default)]
pub struct ProducerRecord {
    pub topic: Str,
    /// `None` leaves it to the key, or to the partitioner when there is none.
    pub partition: Option<PartitionIndex>,
    /// `None` is now.
    pub timestamp: Option<TimestampMs>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone.
    pub value: Option<Bytes>,
    pub headers: Vec<RecordHeader>,
}

/// Where a record was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivered {
    pub partition: PartitionIndex,
    /// `None` with `Acks::None`, and for a batch that the broker had already.
    pub offset: Option<Offset>,
}

/// What becomes of one record.
#[derive(Clone, Debug)]
pub struct Delivery {
    batch: Rc<Fate>,
    index: i64,
    partition: PartitionIndex,
}

impl Delivery {
    pub async fn wait(&self) -> Result<Delivered, ClientError> {
        let settled = || self.batch.outcome.borrow().is_some();
        self.batch.settled.wait_until(settled).await;
        let outcome = self.batch.outcome.borrow().clone().expect("settled");
        outcome.map(|base| Delivered {
            partition: self.partition,
            offset: base.map(|base| base.plus(self.index)),
        })
    }
}

/// What becomes of a batch; its records' deliveries look here.
#[derive(Debug, Default)]
struct Fate {
    outcome: RefCell<Option<Result<Option<Offset>, ClientError>>>,
    settled: Notify,
}

impl Fate {
    fn settle(&self, outcome: Result<Option<Offset>, ClientError>) {
        *self.outcome.borrow_mut() = Some(outcome);
        self.settled.notify();
    }
}

/// Dropping it drops what is not yet in flight; `flush` first.
#[derive(Debug)]
pub struct Producer {
    inner: Rc<Inner>,
}

impl Producer {
    pub async fn new(cluster: Cluster, options: ProducerOptions) -> Result<Producer, ClientError> {
        let identity = match options.idempotent {
            true => Some(init_producer_id(&cluster).await?),
            false => None,
        };
        if options.idempotent && options.acks != Acks::All {
            return Err(ClientError::Refused(
                "an idempotent producer needs acks=all".into(),
            ));
        }
        let inner = Rc::new(Inner {
            cluster,
            options,
            identity,
            sticky: RefCell::default(),
            queues: RefCell::default(),
            buffered_bytes: Cell::new(0),
            delivered: Cell::new(0),
            first_loss: RefCell::default(),
            flushing: Cell::new(0),
            closed: Cell::new(false),
            broken: RefCell::default(),
            to_send: Notify::default(),
            settled: Notify::default(),
        });
        glommio::spawn_local(Rc::clone(&inner).dispatch()).detach();
        Ok(Producer { inner })
    }

    /// Puts a record into its partition's batch; waits only for metadata, and for room while the buffer is full.
    pub async fn send(&self, record: ProducerRecord) -> Result<Delivery, ClientError> {
        let inner = &self.inner;
        let topic = match inner.cluster.known_topic(&record.topic) {
            Some(topic) => topic,
            None => {
                let missing = inner.options.missing;
                inner.cluster.topic(&record.topic, missing).await?
            }
        };
        let has_room = || inner.buffered_bytes.get() < inner.options.buffer_bytes;
        if !has_room() {
            inner.settled.wait_until(has_room).await;
        }
        if let Some(error) = &*inner.broken.borrow() {
            return Err(error.clone());
        }
        let partition = inner.choose_partition(&topic, &record)?;
        Ok(inner.append(&topic.name, partition, &record))
    }

    /// Resolves when everything sent so far is acknowledged or has failed; the deliveries tell which.
    pub async fn flush(&self) {
        let inner = &self.inner;
        inner.flushing.set(inner.flushing.get() + 1);
        inner.to_send.notify();
        let empty = || inner.buffered_bytes.get() == 0;
        inner.settled.wait_until(empty).await;
        inner.flushing.set(inner.flushing.get() - 1);
    }

    /// Records acknowledged so far; with `Acks::None`, records sent.
    pub fn delivered(&self) -> u64 {
        self.inner.delivered.get()
    }

    /// Why a record was not delivered, if one was not: the first such reason.
    pub fn first_loss(&self) -> Option<ClientError> {
        self.inner.first_loss.borrow().clone()
    }

    /// Bytes of records that are not yet acknowledged.
    pub fn buffered_bytes(&self) -> usize {
        self.inner.buffered_bytes.get()
    }
}

impl Drop for Producer {
    fn drop(&mut self) {
        self.inner.closed.set(true);
        self.inner.to_send.notify();
    }
}

async fn init_producer_id(cluster: &Cluster) -> Result<(ProducerId, i16), ClientError> {
    let request = InitProducerIdRequest {
        transactional_id: None,
        transaction_timeout_ms: i32::MAX,
        producer_id: -1,
        producer_epoch: -1,
        ..InitProducerIdRequest::default()
    };
    let mut attempts = cluster.attempts();
    loop {
        let response = cluster.any().await?.call(&request).await?;
        match ClientError::check(response.error_code, None, || "producer id".into()) {
            Ok(()) => return Ok((ProducerId(response.producer_id), response.producer_epoch)),
            Err(error) => attempts.again(error).await?,
        }
    }
}

/// Partitions for records without a key: those that have a leader, as the others would only make them wait.
fn candidates(topic: &Topic) -> Vec<usize> {
    let all = || 0..topic.partitions.len();
    let led: Vec<usize> = all()
        .filter(|index| topic.partitions[*index].leader.is_some())
        .collect();
    if led.is_empty() { all().collect() } else { led }
}

type Place = (Str, PartitionIndex);

#[derive(Debug)]
struct Inner {
    cluster: Cluster,
    options: ProducerOptions,
    identity: Option<(ProducerId, i16)>,
    sticky: RefCell<HashMap<Str, Sticky>>,
    queues: RefCell<BTreeMap<Place, Queue>>,
    buffered_bytes: Cell<usize>,
    delivered: Cell<u64>,
    first_loss: RefCell<Option<ClientError>>,
    flushing: Cell<usize>,
    closed: Cell<bool>,
    /// Why an idempotent producer must not go on: a batch of its sequence is lost.
    broken: RefCell<Option<ClientError>>,
    to_send: Notify,
    settled: Notify,
}

/// What waits for one partition.
#[derive(Debug, Default)]
struct Queue {
    /// Ahead of the open batch, oldest first.
    full: VecDeque<Batch>,
    open: Option<OpenBatch>,
    in_flight: bool,
    next_sequence: i32,
}

#[derive(Debug)]
struct OpenBatch {
    builder: BatchBuilder,
    opened: Instant,
    fate: Rc<Fate>,
    counted_bytes: usize,
}

/// A batch that takes no more records.
#[derive(Debug)]
struct Batch {
    /// As sent.
    bytes: Bytes,
    records: i32,
    fate: Rc<Fate>,
    /// What it holds of the buffer.
    counted_bytes: usize,
    attempts: Attempts,
}

impl Inner {
    fn choose_partition(
        &self,
        topic: &Topic,
        record: &ProducerRecord,
    ) -> Result<PartitionIndex, ClientError> {
        let unknown = |partition| {
            let code = ErrorCode::UnknownTopicOrPartition.code();
            ClientError::from_code(code, None, || {
                format!("partition {}-{partition}", topic.name)
            })
            .expect("an error")
        };
        if let Some(partition) = record.partition {
            let known = topic.partition(partition).is_some();
            return known.then_some(partition).ok_or_else(|| unknown(partition));
        }
        if topic.partitions.is_empty() {
            return Err(unknown(PartitionIndex(0)));
        }
        let index = match &record.key {
            Some(key) => partition_of_key(key, topic.partitions.len()),
            None => {
                let bytes = record.value.as_ref().map_or(0, Bytes::len) + RECORD_OVERHEAD_BYTES;
                let mut sticky = self.sticky.borrow_mut();
                if !sticky.contains_key(&topic.name) {
                    sticky.insert(topic.name.clone(), Sticky::new(entropy::seed()));
                }
                let sticky = sticky.get_mut(&topic.name).expect("just made");
                sticky
                    .stay(bytes)
                    .filter(|index| *index < topic.partitions.len())
                    .unwrap_or_else(|| sticky.switch(&candidates(topic), self.options.batch_bytes))
            }
        };
        Ok(topic.partitions[index].index)
    }

    fn append(&self, topic: &Str, partition: PartitionIndex, record: &ProducerRecord) -> Delivery {
        let headers: usize = record
            .headers
            .iter()
            .map(|h| h.key.len() + h.value.as_ref().map_or(0, Bytes::len) + 10)
            .sum();
        let length = |bytes: &Option<Bytes>| bytes.as_ref().map_or(0, Bytes::len);
        let bytes = length(&record.key) + length(&record.value) + headers + RECORD_OVERHEAD_BYTES;

        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry((topic.clone(), partition)).or_default();
        let is_full =
            |open: &OpenBatch| open.builder.size_in_bytes() + bytes > self.options.batch_bytes;
        if queue.open.as_ref().is_some_and(is_full) {
            let batch = self.seal(queue);
            queue.full.extend(batch);
            self.to_send.notify();
        }
        let is_first = queue.open.is_none();
        let open = queue.open.get_or_insert_with(|| OpenBatch {
            builder: BatchBuilder::new().codec(self.options.codec, self.options.level),
            opened: clock::now(),
            fate: Rc::default(),
            counted_bytes: 0,
        });
        let index = i64::from(open.builder.records_count());
        open.builder.append(
            record.timestamp.unwrap_or_else(clock::wall_ms),
            record.key.as_deref(),
            record.value.as_deref(),
            &record.headers,
        );
        open.counted_bytes += bytes;
        self.buffered_bytes.set(self.buffered_bytes.get() + bytes);
        let delivery = Delivery {
            batch: Rc::clone(&open.fate),
            index,
            partition,
        };
        if is_first {
            self.to_send.notify();
        }
        delivery
    }

    /// Makes the open batch ready to be sent; its place in the sequence is fixed from here on.
    fn seal(&self, queue: &mut Queue) -> Option<Batch> {
        let open = queue.open.take()?;
        let mut builder = open.builder;
        let records = builder.records_count();
        if let Some((id, epoch)) = self.identity {
            builder = builder.producer(id, epoch, queue.next_sequence);
            // Sequences go round from i32::MAX to 0.
            queue.next_sequence = queue.next_sequence.wrapping_add(records) & i32::MAX;
        }
        Some(Batch {
            bytes: builder.build(),
            records,
            fate: open.fate,
            counted_bytes: open.counted_bytes,
            attempts: Attempts::until(open.opened + self.options.delivery_timeout),
        })
    }

    /// Sends what is due, until the producer is dropped.
    async fn dispatch(self: Rc<Self>) {
        while !self.closed.get() {
            // Records that arrive in one turn of the executor share a batch.
            turn::yield_now().await;
            let due = self.take_due();
            let is_idle = due.batches.is_empty();
            for (leader, batches) in due.batches {
                self.send_to(leader, batches);
            }
            if !is_idle {
                continue;
            }
            let woken = Cell::new(false);
            let change = self.to_send.wait_until(|| woken.replace(true));
            match due.next {
                None => change.await,
                Some(next) => {
                    let pause = next.saturating_duration_since(clock::now());
                    let timer = std::pin::pin!(timer::sleep(pause));
                    match select(std::pin::pin!(change), timer).await {
                        Either::Left(_) | Either::Right(_) => {}
                    }
                }
            }
        }
    }

    /// Takes the batches that may be sent now, by leader.
    fn take_due(&self) -> Due {
        let mut due = Due::default();
        let now = clock::now();
        let hurry =
            self.flushing.get() > 0 || self.buffered_bytes.get() >= self.options.buffer_bytes;
        let mut queues = self.queues.borrow_mut();
        for (place, queue) in queues.iter_mut() {
            if queue.in_flight {
                continue;
            }
            if queue.full.is_empty()
                && let Some(open) = &queue.open
            {
                let ripe = open.opened + self.options.linger;
                if !hurry && ripe > now {
                    due.next = Some(due.next.map_or(ripe, |next| next.min(ripe)));
                    continue;
                }
                let batch = self.seal(queue);
                queue.full.extend(batch);
            }
            let Some(batch) = queue.full.pop_front() else {
                continue;
            };
            queue.in_flight = true;
            let topic = self.cluster.known_topic(&place.0);
            let leader = topic.and_then(|topic| topic.partition(place.1)?.leader);
            let batches = due.batches.entry(leader).or_default();
            batches.push((place.clone(), batch));
        }
        due
    }

    /// Starts requests for batches of one leader.
    fn send_to(self: &Rc<Self>, leader: Option<BrokerId>, batches: Vec<(Place, Batch)>) {
        let mut request = Vec::new();
        let mut bytes = 0;
        for (place, batch) in batches {
            let size = batch.bytes.len();
            if bytes + size > self.options.request_bytes && !request.is_empty() {
                let full = std::mem::take(&mut request);
                glommio::spawn_local(Rc::clone(self).deliver(leader, full)).detach();
                bytes = 0;
            }
            bytes += size;
            request.push((place, batch));
        }
        glommio::spawn_local(Rc::clone(self).deliver(leader, request)).detach();
    }

    /// One request and what follows from its answer.
    async fn deliver(self: Rc<Self>, leader: Option<BrokerId>, batches: Vec<(Place, Batch)>) {
        let answered = self.request(leader, &batches).await;
        let mut outcomes = match answered {
            Ok(outcomes) => outcomes,
            Err(error) => batches
                .iter()
                .map(|(place, _)| (place.clone(), Err(error.clone())))
                .collect(),
        };
        for (place, batch) in batches {
            let silent = || {
                let topic = &place.0;
                let text = format!(
                    "the broker's answer leaves out partition {topic}-{}",
                    place.1
                );
                Err(ClientError::Refused(text))
            };
            match outcomes.remove(&place).unwrap_or_else(silent) {
                Ok(offset) => self.settle(&place, batch, Ok(offset)),
                Err(error) if error.code() == Some(ErrorCode::DuplicateSequenceNumber) => {
                    self.settle(&place, batch, Ok(None));
                }
                Err(error) => {
                    let inner = Rc::clone(&self);
                    glommio::spawn_local(inner.again(place, batch, error)).detach();
                }
            }
        }
    }

    /// After a failed attempt: waits, asks who leads now, and puts the batch back at the head of its queue.
    async fn again(self: Rc<Self>, place: Place, mut batch: Batch, error: ClientError) {
        let failed = |last: ClientError| match last.retriable() {
            true => ClientError::Undelivered {
                subject: format!("partition {}-{}", place.0, place.1),
                waited_ms: self.options.delivery_timeout.as_millis() as u64,
                last: Box::new(last),
            },
            false => last,
        };
        if let Err(error) = batch.attempts.again(error).await {
            let error = failed(error);
            if self.identity.is_some() {
                self.break_down(&error);
            }
            return self.settle(&place, batch, Err(error));
        }
        self.cluster.renew(&place.0).await;
        let mut queues = self.queues.borrow_mut();
        let queue = queues.entry(place).or_default();
        queue.full.push_front(batch);
        queue.in_flight = false;
        drop(queues);
        self.to_send.notify();
    }

    /// What comes after a lost batch of a sequence would be refused as out of order: nothing more is sent.
    fn break_down(&self, error: &ClientError) {
        self.broken.borrow_mut().get_or_insert(error.clone());
        let mut queues = self.queues.borrow_mut();
        for queue in queues.values_mut() {
            let open = self.seal(queue);
            for batch in queue.full.drain(..).chain(open) {
                self.account(batch, Err(error.clone()));
            }
        }
        drop(queues);
        self.settled.notify();
    }

    fn settle(&self, place: &Place, batch: Batch, outcome: Result<Option<Offset>, ClientError>) {
        if let Some(queue) = self.queues.borrow_mut().get_mut(place) {
            queue.in_flight = false;
        }
        self.account(batch, outcome);
        self.settled.notify();
        self.to_send.notify();
    }

    fn account(&self, batch: Batch, outcome: Result<Option<Offset>, ClientError>) {
        let buffered = self.buffered_bytes.get() - batch.counted_bytes;
        self.buffered_bytes.set(buffered);
        match &outcome {
            Ok(_) => self
                .delivered
                .set(self.delivered.get() + batch.records as u64),
            Err(error) => {
                self.first_loss.borrow_mut().get_or_insert(error.clone());
            }
        }
        batch.fate.settle(outcome);
    }

    /// Sends one request; the answer for each partition is its base offset.
    async fn request(
        &self,
        leader: Option<BrokerId>,
        batches: &[(Place, Batch)],
    ) -> Result<Outcomes, ClientError> {
        let leader = leader.ok_or_else(|| {
            let (topic, partition) = &batches[0].0;
            let code = ErrorCode::LeaderNotAvailable.code();
            ClientError::from_code(code, None, || format!("partition {topic}-{partition}"))
                .expect("an error")
        })?;
        let connection = self.cluster.broker(leader).await?;
        let topics = self.by_topic(batches);
        let all_have_ids = topics.iter().all(|topic| !topic.topic_id.is_zero());
        let version = connection.version_up_to::<ProduceRequest>(match all_have_ids {
            true => ProduceRequest::MAX_VERSION,
            false => LAST_VERSION_BY_NAME,
        })?;
        if self.options.codec == Codec::Zstd && version < FIRST_VERSION_WITH_ZSTD {
            let text = format!("{} is too old for zstd", connection.address());
            return Err(ClientError::Refused(text));
        }
        let names: HashMap<_, _> = topics
            .iter()
            .map(|t| (t.topic_id, t.name.clone()))
            .collect();
        let timeout_ms = self
            .cluster
            .options()
            .connection
            .request_timeout
            .as_millis();
        let request = ProduceRequest {
            transactional_id: None,
            acks: self.options.acks.code(),
            timeout_ms: i32::try_from(timeout_ms).unwrap_or(i32::MAX),
            topic_data: topics,
        };
        if self.options.acks == Acks::None {
            connection.submit_unanswered(&request, version)?;
            connection.flushed().await?;
            return Ok(batches
                .iter()
                .map(|(place, _)| (place.clone(), Ok(None)))
                .collect());
        }
        let response = connection.submit(&request, version)?.await?;
        Ok(outcomes(&response, &names))
    }

    fn by_topic(&self, batches: &[(Place, Batch)]) -> Vec<TopicProduceData> {
        let mut topics: Vec<TopicProduceData> = Vec::new();
        // The queues are in order of their topics, so equal ones are neighbours.
        for ((topic, partition), batch) in batches {
            let data = PartitionProduceData {
                index: partition.0,
                records: Some(Records::from(batch.bytes.clone())),
            };
            match topics.last_mut() {
                Some(last) if last.name == *topic => last.partition_data.push(data),
                _ => topics.push(TopicProduceData {
                    name: topic.clone(),
                    topic_id: self
                        .cluster
                        .known_topic(topic)
                        .map_or_else(Default::default, |topic| topic.id),
                    partition_data: vec![data],
                }),
            }
        }
        topics
    }
}

type Outcomes = HashMap<Place, Result<Option<Offset>, ClientError>>;

#[derive(Debug, Default)]
struct Due {
    batches: BTreeMap<Option<BrokerId>, Vec<(Place, Batch)>>,
    /// When the next batch has waited long enough.
    next: Option<Instant>,
}

fn outcomes(response: &ProduceResponse, names: &HashMap<crate::protocol::Uuid, Str>) -> Outcomes {
    let mut outcomes = HashMap::new();
    for topic in &response.responses {
        let name = match topic.name.is_empty() {
            false => Some(&topic.name),
            true => names.get(&topic.topic_id),
        };
        let Some(name) = name else { continue };
        for partition in &topic.partition_responses {
            let place = (name.clone(), PartitionIndex(partition.index));
            outcomes.insert(place, outcome(name, partition));
        }
    }
    outcomes
}

fn outcome(
    topic: &Str,
    partition: &PartitionProduceResponse,
) -> Result<Option<Offset>, ClientError> {
    let first = partition.record_errors.first();
    let of_record = first.and_then(|error| error.batch_index_error_message.as_deref());
    let message = partition.error_message.as_deref().or(of_record);
    ClientError::check(partition.error_code, message, || {
        format!("partition {topic}-{}", partition.index)
    })?;
    Ok((partition.base_offset >= 0).then_some(Offset(partition.base_offset)))
}
