//! Owns what the generator needs of a Kafka client. The binary implements it with its own client; a test may with
//! anything. Errors are sentences for people: a run that meets one ends with it.

use std::future::Future;
use std::time::{Duration, Instant};

use bytes::Bytes;

pub type Outcome<T> = Result<T, String>;

/// A topic as requests name it.
#[derive(Clone, Debug)]
pub struct Topic {
    pub name: String,
    pub id: [u8; 16],
    /// Address of each partition's leader.
    pub leaders: Vec<String>,
}

/// Where records go to and come from.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub topic: &'a Topic,
    pub partition: i32,
}

/// What one fetch asks of one partition.
#[derive(Clone, Copy, Debug)]
pub struct Position<'a> {
    pub target: Target<'a>,
    pub offset: i64,
}

/// How a fetch may be answered.
#[derive(Clone, Copy, Debug)]
pub struct FetchBounds {
    pub max_bytes: i32,
    pub min_bytes: i32,
    pub max_wait: Duration,
}

/// The codec of a batch.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    serde::Serialize,
    serde::Deserialize,
    clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    #[default]
    None,
    Gzip,
    Snappy,
    Lz4,
    Zstd,
}

/// A header of a record.
#[derive(Clone, Debug)]
pub struct Header {
    pub key: String,
    pub value: Bytes,
}

/// Who produces idempotently, and the first sequence number of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Sequence {
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub first: i32,
}

/// Speaks with one cluster, on one core.
pub trait Client: Clone + 'static {
    type Connection: Connection;
    type Batch: Batch;

    /// Resolves at `due`, to the moment, on the executor that the connections are served by.
    fn sleep_until(due: Instant) -> impl Future<Output = ()>;

    /// From now on the executor does not sleep: nothing that it waits for is late for having to wake it.
    fn stay_awake();

    /// For how long it has stayed awake with nothing to do.
    fn idled() -> Duration;

    /// Creates the topic; `false` if it was there, and stays as it is. `configs` are `name=value`.
    fn create_topic(
        &self,
        topic: &str,
        partitions: i32,
        configs: &[String],
    ) -> impl Future<Output = Outcome<bool>>;

    fn delete_topic(&self, topic: &str) -> impl Future<Output = Outcome<()>>;

    /// Finds a topic, waiting until each of its partitions has a leader.
    fn topic(&self, name: &str) -> impl Future<Output = Outcome<Topic>>;

    /// In words, when the broker says that what it acknowledged with acks=all is on stable storage.
    fn flush_mode(&self, topic: &str) -> impl Future<Output = Outcome<String>>;

    fn connect(&self, address: &str) -> impl Future<Output = Outcome<Self::Connection>>;

    /// An id and epoch to produce with idempotently.
    fn producer_id(&self) -> impl Future<Output = Outcome<(i64, i16)>>;

    /// A batch of which each record has these headers.
    fn batch(&self, codec: Codec, headers: &[Header]) -> Self::Batch;

    /// Hands every record at or above `from` to `each`, in order: offset, value. Returns the offset behind the last whole
    /// batch, or `from`.
    fn values(&self, records: &Bytes, from: i64, each: impl FnMut(i64, &[u8])) -> Outcome<i64>;

    /// The offset behind the last whole batch, or `from` if there is none. Opens no batch.
    fn next_offset(&self, records: &Bytes, from: i64) -> Outcome<i64>;
}

/// Gathers the records of one batch.
pub trait Batch: 'static {
    fn append(&mut self, timestamp_ms: i64, key: Option<&[u8]>, value: &[u8]);

    /// Size before compression.
    fn size_in_bytes(&self) -> usize;

    fn build(self, sequence: Option<Sequence>) -> Bytes;
}

/// One connection; clones share it. Requests leave in the order they were submitted.
pub trait Connection: Clone + 'static {
    /// Submits a request at once, ahead of all that is submitted later: a batch for each of these partitions.
    fn produce(&self, topic: &Topic, batches: Vec<(i32, Bytes)>, acks: i16) -> Outcome<()>;

    /// Resolves when requests have been acknowledged since it last did: how many, the first submitted first. Nobody tells of
    /// those with acks=0.
    fn acknowledged(&self) -> impl Future<Output = Outcome<usize>>;

    /// Records of each position, in its order.
    fn fetch(
        &self,
        positions: &[Position<'_>],
        bounds: FetchBounds,
    ) -> impl Future<Output = Outcome<Vec<Bytes>>>;

    /// First and last offset that consumers see, the last exclusive.
    fn offsets(&self, target: Target<'_>) -> impl Future<Output = Outcome<(i64, i64)>>;

    /// Resolves when so little waits to be sent that more may be submitted.
    fn room(&self) -> impl Future<Output = ()>;
}
