//! `coati bench`: hands our client to the load generator.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use coati_bench::client::{self as bench, FetchBounds, Outcome, Position, Sequence, Target};

use super::{Failure, Outcome as CommandOutcome};
use crate::client::time::Attempts;
use crate::client::{
    Answer, ClientError, Cluster, ClusterOptions, Connection, ConnectionOptions, Pipeline,
};
use crate::ids::{Offset, ProducerId};
use crate::io::{timer, turn, watchdog};
use crate::protocol::batch::{self, BatchBuilder, RecordHeader};
use crate::protocol::compression::Codec;
use crate::protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use crate::protocol::messages::describe_configs_request::DescribeConfigsResource;
use crate::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::protocol::messages::fetch_response::PartitionData;
use crate::protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use crate::protocol::messages::metadata_request::MetadataRequestTopic;
use crate::protocol::messages::metadata_response::MetadataResponse;
use crate::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::{
    DescribeClusterRequest, DescribeConfigsRequest, FetchRequest, FetchResponse,
    InitProducerIdRequest, ListOffsetsRequest, MetadataRequest, ProduceRequest, ProduceResponse,
};
use crate::protocol::{ErrorCode, Records, Str, Uuid};

/// How long a run waits for a topic to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// Batches that a run opens are its own.
const DECOMPRESSED_BYTES_MAX: usize = 64 << 20;

/// The type of brokers in DescribeConfigs.
const BROKER_RESOURCE: i8 = 4;

const EARLIEST: i64 = -2;
const LATEST: i64 = -1;

pub fn run(args: coati_bench::BenchArgs) -> CommandOutcome {
    let watch = watchdog::watch(coati_bench::EXECUTOR_NAME);
    let ended = args.run(move || {
        drop(watch);
        |bootstrap: &str| Client {
            bootstrap: bootstrap.to_owned(),
        }
    })?;
    match ended {
        coati_bench::Ended::AsMeant => Ok(()),
        coati_bench::Ended::Interrupted => Err(Failure::Interrupted),
    }
}

#[derive(Clone)]
struct Client {
    bootstrap: String,
}

/// A connection, and the versions that its hot requests use.
#[derive(Clone)]
struct Link {
    connection: Connection,
    produce_version: i16,
    fetch_version: i16,
    produced: Rc<Pipeline<ProduceRequest>>,
}

fn said(error: ClientError) -> String {
    error.to_string()
}

fn check(code: i16, message: Option<&str>, target: Target<'_>) -> Result<(), ClientError> {
    ClientError::check(code, message, || {
        format!("{}-{}", target.topic.name, target.partition)
    })
}

impl Client {
    async fn cluster(&self) -> Result<Cluster, ClientError> {
        let options = ClusterOptions {
            retry_for: PATIENCE,
            ..ClusterOptions::default()
        };
        Cluster::connect(std::slice::from_ref(&self.bootstrap), options).await
    }

    async fn bootstrap(&self) -> Result<Connection, ClientError> {
        Connection::connect(&self.bootstrap, &ConnectionOptions::default()).await
    }

    /// The broker's own word for when it syncs; Apache Kafka has none.
    async fn flush_policy(&self) -> Result<Option<String>, ClientError> {
        const POLICY: &str = "log.flush.policy";
        let connection = self.bootstrap().await?;
        let described = connection.call(&DescribeClusterRequest::default()).await?;
        let Some(broker) = described.brokers.first() else {
            return Ok(None);
        };
        let request = DescribeConfigsRequest {
            resources: vec![DescribeConfigsResource {
                resource_type: BROKER_RESOURCE,
                resource_name: Str::from(broker.broker_id.to_string()),
                configuration_keys: Some(vec![Str::from(POLICY)]),
            }],
            ..Default::default()
        };
        let response = connection.call(&request).await?;
        let configs = response.results.iter().flat_map(|result| &result.configs);
        let policy = configs.filter(|config| &*config.name == POLICY);
        Ok(policy
            .last()
            .and_then(|config| Some(config.value.as_deref()?.to_owned())))
    }
}

/// The topic, when each of its partitions has a leader.
fn topic_in(response: &MetadataResponse, name: &str) -> Result<bench::Topic, ClientError> {
    let subject = || format!("topic {name}");
    let missing = |code: ErrorCode| {
        ClientError::from_code(code.code(), None, subject).expect("it is an error")
    };
    let Some(topic) = response.topics.first() else {
        return Err(missing(ErrorCode::UnknownTopicOrPartition));
    };
    ClientError::check(topic.error_code, None, subject)?;
    let mut partitions: Vec<_> = topic.partitions.iter().collect();
    partitions.sort_by_key(|partition| partition.partition_index);
    let mut leaders = Vec::new();
    for partition in partitions {
        ClientError::check(partition.error_code, None, subject)?;
        let mut brokers = response.brokers.iter();
        let leader = brokers.find(|broker| broker.node_id == partition.leader_id);
        let leader = leader.ok_or_else(|| missing(ErrorCode::LeaderNotAvailable))?;
        leaders.push(format!("{}:{}", leader.host, leader.port));
    }
    if leaders.is_empty() {
        return Err(missing(ErrorCode::UnknownTopicOrPartition));
    }
    Ok(bench::Topic {
        name: name.to_owned(),
        id: topic.topic_id.0,
        leaders,
    })
}

/// Returns when the leaders take requests: a broker may be told to lead a moment after metadata say that it does.
async fn leaders_answer(topic: &bench::Topic, attempts: &mut Attempts) -> Result<(), ClientError> {
    let mut by_leader = BTreeMap::<&String, Vec<i32>>::new();
    for (partition, leader) in topic.leaders.iter().enumerate() {
        by_leader.entry(leader).or_default().push(partition as i32);
    }
    for (leader, partitions) in by_leader {
        let connection = Connection::connect(leader, &ConnectionOptions::default()).await?;
        let request = ends_of(topic, partitions, LATEST);
        loop {
            let response = connection.call(&request).await?;
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            let answer = partitions
                .map(|partition| {
                    ClientError::check(partition.error_code, None, || topic.name.clone())
                })
                .find(Result::is_err);
            match answer {
                Some(Err(error)) => attempts.again(error).await?,
                _ => break,
            }
        }
    }
    Ok(())
}

/// Asks for offsets of partitions: the first or the last.
fn ends_of(
    topic: &bench::Topic,
    partitions: impl IntoIterator<Item = i32>,
    timestamp: i64,
) -> ListOffsetsRequest {
    let partition = |partition_index| ListOffsetsPartition {
        partition_index,
        current_leader_epoch: -1,
        timestamp,
    };
    ListOffsetsRequest {
        replica_id: -1,
        topics: vec![ListOffsetsTopic {
            name: Str::from(topic.name.clone()),
            partitions: partitions.into_iter().map(partition).collect(),
        }],
        ..Default::default()
    }
}

impl coati_bench::Client for Client {
    type Connection = Link;
    type Batch = Batch;

    async fn sleep_until(due: Instant) {
        timer::sleep_until(due).await;
    }

    fn stay_awake() {
        turn::stay_awake();
    }

    fn idled() -> Duration {
        turn::idled()
    }

    async fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        configs: &[String],
    ) -> Outcome<bool> {
        let configs = configs.iter().map(|config| {
            let (name, value) = config
                .split_once('=')
                .ok_or_else(|| format!("'{config}' is not of the form name=value"))?;
            Ok(CreatableTopicConfig {
                name: Str::from(name.to_owned()),
                value: Some(Str::from(value.to_owned())),
            })
        });
        let request = CreatableTopic {
            name: Str::from(topic.to_owned()),
            num_partitions: partitions,
            replication_factor: -1,
            configs: configs.collect::<Result<_, String>>()?,
            ..Default::default()
        };
        let cluster = self.cluster().await.map_err(said)?;
        match cluster.create_topic(request, false).await {
            Ok(_) => Ok(true),
            Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => Ok(false),
            Err(error) => Err(said(error)),
        }
    }

    async fn delete_topic(&self, topic: &str) -> Outcome<()> {
        let cluster = self.cluster().await.map_err(said)?;
        let name = Str::from(topic.to_owned());
        cluster.delete_topic(&name).await.map_err(said)
    }

    async fn topic(&self, name: &str) -> Outcome<bench::Topic> {
        let find = async {
            let connection = self.bootstrap().await?;
            let mut attempts = Attempts::within(PATIENCE);
            let topic = loop {
                let request = MetadataRequest {
                    topics: Some(vec![MetadataRequestTopic {
                        name: Some(Str::from(name.to_owned())),
                        ..Default::default()
                    }]),
                    allow_auto_topic_creation: false,
                    ..Default::default()
                };
                let found = connection.call(&request).await;
                match found.and_then(|response| topic_in(&response, name)) {
                    Ok(topic) => break topic,
                    Err(error) => attempts.again(error).await?,
                }
            };
            leaders_answer(&topic, &mut attempts).await?;
            Ok(topic)
        };
        find.await.map_err(said)
    }

    async fn flush_mode(&self, topic: &str) -> Outcome<String> {
        let cluster = self.cluster().await.map_err(said)?;
        let name = Str::from(topic.to_owned());
        let described = cluster
            .describe_topic_configs(&[name])
            .await
            .map_err(said)?;
        let value = |name: &str| {
            let configs = described.iter().flat_map(|topic| &topic.configs);
            let mut named = configs.filter(|config| &*config.name == name);
            let value = named.next()?.value.as_deref()?;
            Some(value.to_owned()).filter(|value| *value != i64::MAX.to_string())
        };
        let mut words = Vec::new();
        for name in ["flush.messages", "flush.ms"] {
            words.extend(value(name).map(|value| format!("{name}={value}")));
        }
        if words.is_empty() {
            let policy = self.flush_policy().await.map_err(said)?;
            words.push(match policy.as_deref() {
                Some("durable") => "durable: acks=all is on stable storage".into(),
                Some(policy) => format!("log.flush.policy={policy}: the system decides"),
                None => "page cache: the system decides".into(),
            });
        }
        Ok(words.join(", "))
    }

    async fn connect(&self, address: &str) -> Outcome<Link> {
        let connect = async {
            let connection = Connection::connect(address, &ConnectionOptions::default()).await?;
            let produce_version = connection.version::<ProduceRequest>()?;
            Ok(Link {
                produce_version,
                fetch_version: connection.version::<FetchRequest>()?,
                produced: Rc::new(Pipeline::new(connection.clone(), produce_version)),
                connection,
            })
        };
        connect.await.map_err(said)
    }

    async fn producer_id(&self) -> Outcome<(i64, i16)> {
        let ask = async {
            let connection = self.bootstrap().await?;
            let request = InitProducerIdRequest {
                transactional_id: None,
                transaction_timeout_ms: i32::MAX,
                producer_id: -1,
                producer_epoch: -1,
                ..Default::default()
            };
            let mut attempts = Attempts::within(PATIENCE);
            loop {
                let response = connection.call(&request).await?;
                match ClientError::check(response.error_code, None, || "producer id".into()) {
                    Ok(()) => return Ok((response.producer_id, response.producer_epoch)),
                    Err(error) => attempts.again(error).await?,
                }
            }
        };
        ask.await.map_err(said)
    }

    fn batch(&self, codec: bench::Codec, headers: &[bench::Header]) -> Batch {
        let codec = match codec {
            bench::Codec::None => Codec::None,
            bench::Codec::Gzip => Codec::Gzip,
            bench::Codec::Snappy => Codec::Snappy,
            bench::Codec::Lz4 => Codec::Lz4,
            bench::Codec::Zstd => Codec::Zstd,
        };
        let header = |header: &bench::Header| RecordHeader {
            key: Str::from(header.key.clone()),
            value: Some(header.value.clone()),
        };
        Batch {
            builder: BatchBuilder::new().codec(codec, None),
            headers: headers.iter().map(header).collect(),
        }
    }

    fn values(&self, records: &Bytes, from: i64, mut each: impl FnMut(i64, &[u8])) -> Outcome<i64> {
        let mut next = from;
        for batch in whole_batches(records) {
            let batch = batch?;
            let records = batch::records(&batch, DECOMPRESSED_BYTES_MAX);
            for record in records.map_err(|error| error.to_string())? {
                let record = record.map_err(|error| error.to_string())?;
                if record.offset >= Offset(from) {
                    each(record.offset.0, record.value.as_deref().unwrap_or_default());
                }
            }
            next = batch.view().header().next_offset().0;
        }
        Ok(next)
    }

    fn next_offset(&self, records: &Bytes, from: i64) -> Outcome<i64> {
        let last = whole_batches(records).last().transpose()?;
        Ok(last.map_or(from, |batch| batch.view().header().next_offset().0))
    }
}

struct Batch {
    builder: BatchBuilder,
    /// Those of each record.
    headers: Vec<RecordHeader>,
}

impl coati_bench::Batch for Batch {
    fn append(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]) {
        let headers = &self.headers;
        self.builder.append(timestamp_ms, key, Some(value), headers);
    }

    fn size_in_bytes(&self) -> usize {
        self.builder.size_in_bytes()
    }

    fn build(self, sequence: Option<Sequence>) -> Bytes {
        let builder = match sequence {
            Some(sequence) => self.builder.producer(
                ProducerId(sequence.producer_id),
                sequence.producer_epoch,
                sequence.first,
            ),
            None => self.builder,
        };
        builder.build()
    }
}

/// Fetched records may end in a part of a batch.
fn whole_batches(records: &Bytes) -> impl Iterator<Item = Outcome<batch::Batch>> {
    batch::batches(records)
        .take_while(|batch| !matches!(batch, Err(batch::BatchError::Incomplete { .. })))
        .map(|batch| batch.map_err(|error| error.to_string()))
}

fn check_produced(response: ProduceResponse) -> Result<(), ClientError> {
    let topics = response.responses.iter();
    let mut partitions = topics.flat_map(|topic| &topic.partition_responses);
    partitions.try_for_each(|partition| {
        let message = partition.error_message.as_deref();
        ClientError::check(partition.error_code, message, || {
            format!("producing to partition {}", partition.index)
        })
    })
}

impl Link {
    /// Sends one fetch of all positions. No session: each fetch names all it wants.
    fn submit_fetch(
        &self,
        positions: &[Position<'_>],
        bounds: FetchBounds,
    ) -> Result<Answer<FetchResponse>, ClientError> {
        let by_id = self.fetch_version >= 13;
        let mut request = FetchRequest {
            max_wait_ms: bounds.max_wait.as_millis() as i32,
            min_bytes: bounds.min_bytes,
            max_bytes: bounds.max_bytes,
            session_id: 0,
            session_epoch: -1,
            ..Default::default()
        };
        for position in positions {
            let topic = position.target.topic;
            let (name, id) = name_or_id(topic, by_id);
            let same = |last: &FetchTopic| last.topic == name && last.topic_id == id;
            if !request.topics.last().is_some_and(same) {
                request.topics.push(FetchTopic {
                    topic: name,
                    topic_id: id,
                    ..Default::default()
                });
            }
            let asked = request.topics.last_mut().expect("just pushed");
            asked.partitions.push(FetchPartition {
                partition: position.target.partition,
                current_leader_epoch: -1,
                fetch_offset: position.offset,
                partition_max_bytes: bounds.max_bytes,
                ..Default::default()
            });
        }
        self.connection.submit(&request, self.fetch_version)
    }
}

/// Newer versions of requests tell topics by id alone.
fn name_or_id(topic: &bench::Topic, by_id: bool) -> (Str, Uuid) {
    if by_id {
        (Str::default(), Uuid(topic.id))
    } else {
        (Str::from(topic.name.clone()), Uuid::ZERO)
    }
}

/// What came of one position.
fn records_of(response: &mut FetchResponse, position: &Position<'_>) -> Result<Bytes, ClientError> {
    let target = position.target;
    let topics = response
        .responses
        .iter_mut()
        .filter(|topic| topic.topic_id.0 == target.topic.id || *topic.topic == *target.topic.name);
    let mut partitions = topics.flat_map(|topic| &mut topic.partitions);
    let is_asked = |data: &&mut PartitionData| data.partition_index == target.partition;
    let Some(partition) = partitions.find(is_asked) else {
        return Ok(Bytes::new());
    };
    check(partition.error_code, None, target)?;
    let records = partition.records.take().unwrap_or_default();
    Ok(records.to_bytes())
}

impl coati_bench::Connection for Link {
    fn produce(&self, topic: &bench::Topic, batches: Vec<(i32, Bytes)>, acks: i16) -> Outcome<()> {
        let version = self.produce_version;
        let (name, topic_id) = name_or_id(topic, version >= 13);
        let data = |(index, batch)| PartitionProduceData {
            index,
            records: Some(Records::from(batch)),
        };
        let request = ProduceRequest {
            acks,
            timeout_ms: PATIENCE.as_millis() as i32,
            topic_data: vec![TopicProduceData {
                name,
                topic_id,
                partition_data: batches.into_iter().map(data).collect(),
            }],
            ..Default::default()
        };
        let submitted = match acks {
            0 => self.connection.submit_unanswered(&request, version),
            _ => self.produced.submit(&request),
        };
        submitted.map_err(said)
    }

    async fn acknowledged(&self) -> Outcome<usize> {
        self.produced.take(check_produced).await.map_err(said)
    }

    async fn fetch(&self, positions: &[Position<'_>], bounds: FetchBounds) -> Outcome<Vec<Bytes>> {
        let fetched = async {
            let mut response = self.submit_fetch(positions, bounds)?.await?;
            ClientError::check(response.error_code, None, || "fetch".into())?;
            let mut positions = positions.iter();
            positions.try_fold(Vec::new(), |mut all, position| {
                all.push(records_of(&mut response, position)?);
                Ok(all)
            })
        };
        fetched.await.map_err(said)
    }

    async fn offsets(&self, target: Target<'_>) -> Outcome<(i64, i64)> {
        let mut found = [0; 2];
        for (found, timestamp) in found.iter_mut().zip([EARLIEST, LATEST]) {
            let request = ends_of(target.topic, [target.partition], timestamp);
            let response = self.connection.call(&request).await.map_err(said)?;
            let partition = response
                .topics
                .first()
                .and_then(|topic| topic.partitions.first())
                .ok_or("the broker told no offsets")?;
            check(partition.error_code, None, target).map_err(said)?;
            *found = partition.offset;
        }
        Ok((found[0], found[1]))
    }

    async fn room(&self) {
        self.connection.room().await;
    }
}
