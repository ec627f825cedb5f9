//! Owns reading partitions of a topic: where to begin, fetching from all leaders at once, and which records are
//! to be seen. It knows no groups (`membership` does) and commits nothing.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;

use super::offsets::{Isolation, OffsetSpec};
use super::time::Attempts;
use super::{ClientError, Cluster, Missing};
use crate::ids::{BrokerId, Offset, PartitionIndex, ProducerId};
use crate::protocol::batch::{Batch, BatchError, Record, batches, records};
use crate::protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use crate::protocol::messages::fetch_response::{AbortedTransaction, PartitionData};
use crate::protocol::messages::{FetchRequest, FetchResponse};
use crate::protocol::{ErrorCode, Message, Str, Uuid};

/// Newer versions tell topics by id only.
const LAST_VERSION_BY_NAME: i16 = 12;

/// How far one batch may grow when decompressed.
const BATCH_BYTES_MAX: usize = 512 << 20;

/// Where reading a partition begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartAt {
    Beginning,
    End,
    Offset(Offset),
    /// This many records before the end.
    BeforeEnd(i64),
    /// The first record with this timestamp or a later one; the end when there is none.
    Timestamp(i64),
}

#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    pub start: StartAt,
    /// End when everything that was there at the beginning has been read, instead of waiting for more.
    pub stop_at_end: bool,
    pub isolation: Isolation,
    pub max_wait: Duration,
    pub min_bytes: i32,
    pub max_bytes: i32,
    pub partition_max_bytes: i32,
    pub check_crcs: bool,
}

impl Default for ConsumerOptions {
    fn default() -> ConsumerOptions {
        ConsumerOptions {
            start: StartAt::End,
            stop_at_end: false,
            isolation: Isolation::ReadUncommitted,
            max_wait: Duration::from_millis(500),
            min_bytes: 1,
            max_bytes: 50 << 20,
            partition_max_bytes: 1 << 20,
            check_crcs: true,
        }
    }
}

/// Records of one partition, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Fetched {
    pub partition: PartitionIndex,
    pub high_watermark: Offset,
    pub records: Vec<Record>,
}

/// Reads some or all partitions of one topic.
#[derive(Debug)]
pub struct Consumer {
    cluster: Cluster,
    options: ConsumerOptions,
    topic: Str,
    positions: BTreeMap<PartitionIndex, Position>,
    fetching: FuturesUnordered<LocalBoxFuture<'static, Round>>,
    ready: VecDeque<Fetched>,
    attempts: Option<Attempts>,
}

#[derive(Debug)]
struct Position {
    next: Offset,
    /// Where to stop, if anywhere.
    end: Option<Offset>,
    is_asked: bool,
}

/// One fetch request's partitions and what came of it.
struct Round {
    partitions: Vec<PartitionIndex>,
    outcome: Result<FetchResponse, ClientError>,
}

impl Consumer {
    /// Finds out where to begin. `None` reads all partitions of the topic.
    pub async fn assign(
        cluster: Cluster,
        topic: Str,
        partitions: Option<&[PartitionIndex]>,
        options: ConsumerOptions,
    ) -> Result<Consumer, ClientError> {
        let known = cluster.topic(&topic, Missing::Fail).await?;
        let all: Vec<PartitionIndex> = known.partitions.iter().map(|p| p.index).collect();
        let chosen = partitions.map_or_else(|| all.clone(), <[PartitionIndex]>::to_vec);
        if let Some(unknown) = chosen.iter().find(|index| !all.contains(index)) {
            let code = ErrorCode::UnknownTopicOrPartition.code();
            ClientError::check(code, None, || format!("partition {topic}-{unknown}"))?;
        }
        let positions = positions(&cluster, &topic, &chosen, &options).await?;
        Ok(Consumer {
            cluster,
            options,
            topic,
            positions,
            fetching: FuturesUnordered::new(),
            ready: VecDeque::new(),
            attempts: None,
        })
    }

    /// The next records of any of the partitions. `None` once all are read to where they ended at the beginning,
    /// if that was asked for; else it waits for more.
    pub async fn next(&mut self) -> Result<Option<Fetched>, ClientError> {
        loop {
            if let Some(fetched) = self.ready.pop_front() {
                return Ok(Some(fetched));
            }
            if self.positions.values().all(Position::is_at_end) {
                return Ok(None);
            }
            if let Err(error) = self.ask().await {
                self.again(error).await?;
                continue;
            }
            let Some(round) = self.fetching.next().await else {
                continue;
            };
            for partition in &round.partitions {
                self.position(*partition).is_asked = false;
            }
            let taken = match round.outcome {
                Ok(response) => self.take(response).await,
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => self.attempts = None,
                Err(error) => self.again(error).await?,
            }
            // The next fetch travels while the caller works on what came of this one.
            if !self.ready.is_empty() {
                let _asked_again_later = self.ask().await;
            }
        }
    }

    /// Reads on from another offset; what was fetched before and not handed out yet still comes.
    pub fn seek(&mut self, partition: PartitionIndex, offset: Offset) {
        self.position(partition).next = offset;
    }

    /// The offset that comes next, by partition.
    pub fn positions(&self) -> impl Iterator<Item = (PartitionIndex, Offset)> {
        self.positions.iter().map(|(index, at)| (*index, at.next))
    }

    fn position(&mut self, partition: PartitionIndex) -> &mut Position {
        let position = self.positions.get_mut(&partition);
        position.expect("only assigned partitions are asked for")
    }

    async fn again(&mut self, error: ClientError) -> Result<(), ClientError> {
        let cluster = &self.cluster;
        let attempts = self.attempts.get_or_insert_with(|| cluster.attempts());
        attempts.again(error).await?;
        self.cluster.renew(&self.topic).await;
        Ok(())
    }

    /// Starts a fetch from each leader that has partitions which are not being fetched.
    async fn ask(&mut self) -> Result<(), ClientError> {
        let topic = self.cluster.topic(&self.topic, Missing::Fail).await?;
        let mut by_leader = BTreeMap::<BrokerId, Vec<PartitionIndex>>::new();
        let mut leaderless = None;
        for (index, position) in &self.positions {
            if position.is_asked || position.is_at_end() {
                continue;
            }
            match self.cluster.leader(&self.topic, *index).await {
                Ok(leader) => by_leader.entry(leader).or_default().push(*index),
                Err(error) => leaderless = Some(error),
            }
        }
        for (leader, partitions) in by_leader {
            let request = self.request(topic.id, &partitions);
            let (cluster, name) = (self.cluster.clone(), self.topic.clone());
            for partition in &partitions {
                self.position(*partition).is_asked = true;
            }
            self.fetching.push(Box::pin(async move {
                let outcome = fetch(&cluster, leader, request, name).await;
                Round {
                    partitions,
                    outcome,
                }
            }));
        }
        match leaderless {
            Some(error) if self.fetching.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    fn request(&self, topic_id: Uuid, partitions: &[PartitionIndex]) -> FetchRequest {
        let ask = |partition: &PartitionIndex| FetchPartition {
            partition: partition.0,
            current_leader_epoch: -1,
            fetch_offset: self.positions[partition].next.0,
            log_start_offset: -1,
            partition_max_bytes: self.options.partition_max_bytes,
            ..FetchPartition::default()
        };
        FetchRequest {
            max_wait_ms: i32::try_from(self.options.max_wait.as_millis()).unwrap_or(i32::MAX),
            min_bytes: self.options.min_bytes,
            max_bytes: self.options.max_bytes,
            isolation_level: self.options.isolation.code(),
            // No session: each request is complete in itself (KIP-227).
            session_id: 0,
            session_epoch: -1,
            topics: vec![FetchTopic {
                topic: self.topic.clone(),
                topic_id,
                partitions: partitions.iter().map(ask).collect(),
            }],
            ..FetchRequest::default()
        }
    }

    async fn take(&mut self, response: FetchResponse) -> Result<(), ClientError> {
        let subject = || format!("fetch of topic '{}'", self.topic);
        ClientError::check(response.error_code, None, subject)?;
        let mut failed = Ok(());
        for data in response.responses.iter().flat_map(|t| &t.partitions) {
            let index = PartitionIndex(data.partition_index);
            if !self.positions.contains_key(&index) {
                continue;
            }
            if data.error_code == ErrorCode::OffsetOutOfRange.code() {
                self.reset(index).await?;
                continue;
            }
            let subject = || format!("partition {}-{index}", self.topic);
            match ClientError::check(data.error_code, None, subject) {
                Ok(()) => self.take_partition(data)?,
                Err(error) => failed = Err(error),
            }
        }
        failed
    }

    /// An offset that is no longer there: goes on with the first that is. One past the end is the caller's mistake.
    async fn reset(&mut self, index: PartitionIndex) -> Result<(), ClientError> {
        let earliest = self
            .cluster
            .offsets(
                &self.topic,
                &[index],
                OffsetSpec::Earliest,
                Isolation::ReadUncommitted,
            )
            .await?;
        let earliest = earliest[&index].unwrap_or_default();
        let next = self.positions[&index].next;
        if earliest <= next {
            let code = ErrorCode::OffsetOutOfRange.code();
            let subject = || format!("offset {next} of partition {}-{index}", self.topic);
            return ClientError::check(code, None, subject);
        }
        let topic = &self.topic;
        tracing::warn!(%topic, partition = %index, "offset {next} is gone; reading on from {earliest}");
        self.position(index).next = earliest;
        Ok(())
    }

    fn take_partition(&mut self, data: &PartitionData) -> Result<(), ClientError> {
        let index = PartitionIndex(data.partition_index);
        let bytes = data.records.as_ref().map(|records| records.to_bytes());
        let start = self.positions[&index].next;
        let read = read(&bytes.unwrap_or_default(), start, data, &self.options);
        let (next, mut records) = read.map_err(|error| ClientError::BadBatch {
            subject: format!("partition {}-{index} from offset {start}", self.topic),
            error,
        })?;
        let position = self.position(index);
        position.next = next;
        if let Some(end) = position.end {
            records.retain(|record| record.offset < end);
        }
        if !records.is_empty() {
            self.ready.push_back(Fetched {
                partition: index,
                high_watermark: Offset(data.high_watermark),
                records,
            });
        }
        Ok(())
    }
}

impl Position {
    fn is_at_end(&self) -> bool {
        self.end.is_some_and(|end| self.next >= end)
    }
}

async fn positions(
    cluster: &Cluster,
    topic: &Str,
    partitions: &[PartitionIndex],
    options: &ConsumerOptions,
) -> Result<BTreeMap<PartitionIndex, Position>, ClientError> {
    let offsets = async |spec| {
        cluster
            .offsets(topic, partitions, spec, options.isolation)
            .await
    };
    let ends = match (options.stop_at_end, options.start) {
        (true, _) | (_, StartAt::End | StartAt::BeforeEnd(_) | StartAt::Timestamp(_)) => {
            offsets(OffsetSpec::Latest).await?
        }
        (false, StartAt::Beginning | StartAt::Offset(_)) => BTreeMap::new(),
    };
    let end = |index: &PartitionIndex| ends.get(index).copied().flatten();
    let starts = match options.start {
        StartAt::Beginning | StartAt::BeforeEnd(_) => offsets(OffsetSpec::Earliest).await?,
        StartAt::Timestamp(timestamp) => offsets(OffsetSpec::At(timestamp)).await?,
        StartAt::End | StartAt::Offset(_) => BTreeMap::new(),
    };
    let place = |index: &PartitionIndex| {
        let start = starts.get(index).copied().flatten();
        let end = end(index);
        let next = match options.start {
            StartAt::Beginning => start.unwrap_or_default(),
            StartAt::End => end.unwrap_or_default(),
            StartAt::Offset(offset) => offset,
            StartAt::Timestamp(_) => start.or(end).unwrap_or_default(),
            StartAt::BeforeEnd(count) => {
                let wanted = Offset(end.unwrap_or_default().0.saturating_sub(count));
                wanted.max(start.unwrap_or_default())
            }
        };
        Position {
            next,
            end: end.filter(|_| options.stop_at_end),
            is_asked: false,
        }
    };
    Ok(partitions
        .iter()
        .map(|index| (*index, place(index)))
        .collect())
}

async fn fetch(
    cluster: &Cluster,
    leader: BrokerId,
    request: FetchRequest,
    name: Str,
) -> Result<FetchResponse, ClientError> {
    let connection = cluster.broker(leader).await?;
    let has_id = !request.topics[0].topic_id.is_zero();
    let version = connection.version_up_to::<FetchRequest>(match has_id {
        true => FetchRequest::MAX_VERSION,
        false => LAST_VERSION_BY_NAME,
    })?;
    let limit = cluster.options().connection.request_timeout
        + Duration::from_millis(request.max_wait_ms.max(0) as u64);
    let mut response = connection.submit_within(&request, version, limit)?.await?;
    for topic in &mut response.responses {
        topic.topic = name.clone();
    }
    Ok(response)
}

/// The records to be seen in what a fetch brought, and the offset after all of it.
fn read(
    bytes: &Bytes,
    start: Offset,
    data: &PartitionData,
    options: &ConsumerOptions,
) -> Result<(Offset, Vec<Record>), BatchError> {
    let mut next = start;
    let mut seen = Vec::new();
    let mut aborted = Aborted::new(match options.isolation {
        Isolation::ReadCommitted => data.aborted_transactions.as_deref().unwrap_or_default(),
        Isolation::ReadUncommitted => &[],
    });
    for batch in batches(bytes) {
        let batch = match batch {
            Ok(batch) => batch,
            // The broker cuts where its limit is; the rest comes with the next fetch.
            Err(BatchError::Incomplete { .. }) if next > start => break,
            Err(error) => return Err(error),
        };
        if options.check_crcs {
            batch.verify_crc()?;
        }
        if batch.next_offset() <= start {
            continue;
        }
        if !aborted.hides(&batch) && !batch.is_control() {
            for record in records(&batch, BATCH_BYTES_MAX)? {
                let record = record?;
                if record.offset >= start {
                    seen.push(record);
                }
            }
        }
        next = batch.next_offset();
    }
    Ok((next, seen))
}

/// Which transactions of a fetch's range were aborted.
struct Aborted {
    /// By first offset, the last first.
    to_come: Vec<(Offset, ProducerId)>,
    current: Vec<ProducerId>,
}

impl Aborted {
    fn new(transactions: &[AbortedTransaction]) -> Aborted {
        let mut to_come: Vec<_> = transactions
            .iter()
            .map(|t| (Offset(t.first_offset), ProducerId(t.producer_id)))
            .collect();
        to_come.sort_by(|a, b| b.cmp(a));
        Aborted {
            to_come,
            current: Vec::new(),
        }
    }

    /// Call for each batch in order.
    fn hides(&mut self, batch: &Batch) -> bool {
        while let Some((first, producer)) = self.to_come.last().copied()
            && first <= batch.last_offset()
        {
            self.current.push(producer);
            self.to_come.pop();
        }
        if !batch.is_transactional() {
            return false;
        }
        let producer = batch.producer_id();
        if batch.is_control() {
            // The marker that ends its producer's transaction.
            self.current.retain(|current| *current != producer);
            return true;
        }
        self.current.contains(&producer)
    }
}
