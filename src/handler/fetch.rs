//! Fetch (key 1, versions 4 to 18). KIP-74 (byte bounds), KIP-98 (isolation), KIP-227 (sessions), KIP-320 (epochs), KIP-516 (topic ids).
//!
//! All partitions are read at once, each on its core. With too few bytes the fetch waits on every core for the
//! bytes that were missing, counted from what the read had seen, and reads again. How much of a response lies in
//! memory is bounded by what its connection may hold (`net/budget.rs`).

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{Either, join_all, select, select_all};

use crate::handler::fetch_session::{Opened, Wanted};
use crate::handler::{Context, Header, Malformed, errors, leader_hints};
use crate::ids::{LeaderEpoch, Offset, PartitionIndex, ShardId};
use crate::io::clock;
use crate::io::timer;
use crate::net::responses::Frame;
use crate::partition::waiting::FetchWaiter;
use crate::partition::{FetchedRecords, PartitionError, ReadBounds};
use crate::protocol::messages::FetchRequest;
use crate::protocol::messages::fetch_response::{
    AbortedTransaction, FetchResponse, FetchableTopicResponse, PartitionData,
};
use crate::protocol::{ErrorCode, Records, Uuid};
use crate::shard::Shard;
use crate::stages::Stage;
use crate::stages::timing::{Spent, Stopwatch};

/// Isolation level that hides what transactions have not committed.
const READ_COMMITTED: i8 = 1;

/// One partition to read, and where its answer belongs.
#[derive(Clone, Debug)]
struct Read {
    place: usize,
    topic_id: Uuid,
    index: PartitionIndex,
    leader_epoch: i32,
    bounds: ReadBounds,
}

/// What one partition answered.
type Answer = Result<FetchedRecords, PartitionError>;

/// Until when and for how much a fetch waits.
#[derive(Clone, Copy, Debug)]
struct Patience {
    min_bytes: u64,
    deadline: Instant,
}

pub async fn serve(
    context: Rc<Context>,
    mut header: Header,
    request: FetchRequest,
) -> Result<Option<Frame>, Malformed> {
    let shard = &context.shard;
    let by_id = header.version() >= 13;
    if !(0..=READ_COMMITTED).contains(&request.isolation_level) {
        return header.respond(&refuse_all(request, by_id)).map(Some);
    }
    let now = clock::now();
    let memory_max = context.response_memory.allowance();
    let min_bytes = match request.min_bytes.max(0) as usize {
        bytes if memory_max > 0 => bytes.min(memory_max),
        bytes => bytes,
    };
    let patience = Patience {
        min_bytes: min_bytes as u64,
        deadline: now + Duration::from_millis(request.max_wait_ms.max(0) as u64),
    };
    let opened = shard.fetch_sessions.borrow_mut().open(&request, by_id, now);
    let session = match opened {
        Opened::Refused(error) => {
            let refusal = FetchResponse {
                error_code: error.code(),
                ..Default::default()
            };
            return header.respond(&refusal).map(Some);
        }
        Opened::Session(session) => session,
    };
    let (reads, unknown) = plan(shard, &request, &session.wanted, by_id, memory_max);
    let cores = reads.iter().map(|read| target(shard, read));
    context.home.on_records(cores);
    let mut answers = if unknown.is_empty() {
        let timed = header.timing.is_on();
        let (answers, spent) = read_where_it_is_near(shard, reads, patience, timed).await;
        let stages = [Stage::Fetch, Stage::Wait];
        header.timing.pass_spent(stages, spent);
        answers
    } else {
        read_all(shard, &reads).await
    };
    // Others may have taken the memory meanwhile. What is not taken by many at once is given with some latitude.
    let memory_max = 2 * context.response_memory.allowance();
    if first_in_memory(&answers) > memory_max {
        let (reads, _) = plan(shard, &request, &session.wanted, by_id, 0);
        answers = read_all(shard, &reads).await;
    }
    let mut partitions = partition_data(&request, &session.wanted, answers, unknown);
    let failed = partitions.iter().any(|partition| partition.error_code != 0);
    let max_bytes = max_bytes(shard, &request);
    bound_bytes(&mut partitions, &session.wanted, max_bytes, memory_max);
    count(shard, &partitions, &session.wanted, by_id);
    let mut response = shard
        .fetch_sessions
        .borrow_mut()
        .respond(session, partitions, by_id);
    header.timing.pass(Stage::Fetch);
    if failed {
        let (image, version) = (shard.image(), header.version());
        leader_hints::add_to_fetch(&image, &context.listener, version, &mut response);
        if is_follower(&request) {
            // It has the addresses from the controller.
            response.node_endpoints.clear();
        }
    }
    header.respond(&response).map(Some)
}

/// A request that makes no sense as a whole: told for each partition too where versions name topics.
fn refuse_all(request: FetchRequest, by_id: bool) -> FetchResponse {
    let error_code = ErrorCode::InvalidRequest.code();
    let topics = request.topics.into_iter().filter(|_| !by_id);
    let responses = topics.map(|topic| FetchableTopicResponse {
        topic: topic.topic,
        partitions: topic
            .partitions
            .into_iter()
            .map(|partition| PartitionData {
                partition_index: partition.partition,
                error_code,
                high_watermark: -1,
                records: Some(Records::EMPTY),
                ..Default::default()
            })
            .collect(),
        ..Default::default()
    });
    FetchResponse {
        error_code,
        responses: responses.collect(),
        ..Default::default()
    }
}

/// Before version 15 the replica's id was a field of its own (KIP-903).
fn is_follower(request: &FetchRequest) -> bool {
    request.replica_id.max(request.replica_state.replica_id) >= 0
}

fn max_bytes(shard: &Shard, request: &FetchRequest) -> usize {
    let allowed = shard.broker.config.fetch_max_bytes;
    (request.max_bytes.max(0) as usize).min(allowed)
}

/// Where each wanted partition is to be read; those that nobody knows with their errors.
fn plan(
    shard: &Rc<Shard>,
    request: &FetchRequest,
    wanted: &[Wanted],
    by_id: bool,
    memory_max: usize,
) -> (Vec<Read>, Vec<(usize, ErrorCode)>) {
    let image = shard.image();
    let max_bytes = max_bytes(shard, request);
    let mut reads = Vec::with_capacity(wanted.len());
    let mut unknown = Vec::new();
    for (place, wanted) in wanted.iter().enumerate() {
        let topic = if by_id {
            image
                .topic_by_id(wanted.topic_id)
                .ok_or(ErrorCode::UnknownTopicId)
        } else {
            image
                .topic(&wanted.topic)
                .ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        let index = PartitionIndex(wanted.index);
        let known = topic.and_then(|topic| match topic.partition(index) {
            None => Err(ErrorCode::UnknownTopicOrPartition),
            // No partition has a follower as yet.
            Some(_) if is_follower(request) => Err(ErrorCode::NotLeaderOrFollower),
            Some(_) => Ok(topic.id),
        });
        match known {
            Ok(topic_id) => reads.push(Read {
                place,
                topic_id,
                index,
                leader_epoch: wanted.leader_epoch,
                bounds: ReadBounds {
                    offset: Offset(wanted.fetch_offset),
                    max_bytes: (wanted.max_bytes.max(0) as usize).min(max_bytes),
                    memory_max,
                    at_least_one: true,
                    read_committed: request.isolation_level == READ_COMMITTED,
                    last_fetched_epoch: LeaderEpoch(wanted.last_fetched_epoch),
                },
            }),
            Err(error) => unknown.push((place, error)),
        }
    }
    (reads, unknown)
}

/// With all partitions on one core, the whole wait happens there and crosses once.
async fn read_where_it_is_near(
    shard: &Rc<Shard>,
    reads: Vec<Read>,
    patience: Patience,
    timed: bool,
) -> (Vec<(usize, Answer)>, Spent) {
    let mut targets = reads.iter().map(|read| target(shard, read));
    let first = targets.next();
    match first {
        Some(target) if target != shard.id && targets.all(|other| other == target) => {
            shard
                .mesh
                .call_while_held(shard, target, move |shard| {
                    read_until_enough(shard, reads, patience, Stopwatch::begin(timed, true))
                })
                .await
        }
        _ => {
            let stopwatch = Stopwatch::begin(timed, false);
            read_until_enough(shard.clone(), reads, patience, stopwatch).await
        }
    }
}

async fn read_until_enough(
    shard: Rc<Shard>,
    reads: Vec<Read>,
    patience: Patience,
    mut stopwatch: Stopwatch,
) -> (Vec<(usize, Answer)>, Spent) {
    loop {
        let answers = read_all(&shard, &reads).await;
        stopwatch.pass(0);
        let bytes: usize = answers
            .iter()
            .flat_map(|(_, answer)| answer)
            .map(|fetched| fetched.records.len())
            .sum();
        let missing = patience.min_bytes.saturating_sub(bytes as u64);
        let failed = answers.iter().any(|(_, answer)| match answer {
            Ok(fetched) => fetched.diverging.is_some(),
            Err(_) => true,
        });
        let left = patience.deadline.saturating_duration_since(clock::now());
        if missing == 0 || failed || reads.is_empty() || left.is_zero() || shard.stopping() {
            return (answers, stopwatch.spent());
        }
        let timed_out = {
            let more = std::pin::pin!(wait_for_bytes(&shard, &reads, &answers, missing));
            let timer = std::pin::pin!(timer::sleep(left));
            matches!(select(more, timer).await, Either::Right(_))
        };
        stopwatch.pass(1);
        if timed_out {
            return (answers, stopwatch.spent());
        }
    }
}

/// Reads every partition once, all cores at the same time.
async fn read_all(shard: &Rc<Shard>, reads: &[Read]) -> Vec<(usize, Answer)> {
    let calls =
        by_target(reads.iter().cloned(), |read| target(shard, read)).map(|(target, reads)| {
            shard.mesh.call(shard, target, move |shard| async move {
                join_all(reads.into_iter().map(|read| read_one(&shard, read))).await
            })
        });
    join_all(calls).await.into_iter().flatten().collect()
}

async fn read_one(shard: &Shard, read: Read) -> (usize, Answer) {
    let answer = match shard.partition(read.topic_id, read.index) {
        Err(error) => Err(error),
        Ok(partition) => match partition.check_epoch(read.leader_epoch) {
            Ok(()) => partition.fetch(read.bounds).await,
            Err(error) => Err(error),
        },
    };
    (read.place, answer)
}

/// Resolves when any core has `missing` more bytes for these reads than they saw.
async fn wait_for_bytes(
    shard: &Rc<Shard>,
    reads: &[Read],
    answers: &[(usize, Answer)],
    missing: u64,
) {
    let seen = |place: usize| {
        let answer = answers.iter().find(|(of, _)| *of == place);
        answer
            .and_then(|(_, answer)| answer.as_ref().ok())
            .map_or(0, |fetched| fetched.seen)
    };
    let watched = reads.iter().map(|read| (read.clone(), seen(read.place)));
    let waits: Vec<_> = by_target(watched, |(read, _)| target(shard, read))
        .map(|(target, watched)| {
            shard
                .mesh
                .call_while_held(shard, target, move |shard| async move {
                    if shard.stopping() {
                        return;
                    }
                    let waiter = FetchWaiter::new(missing);
                    for (read, seen) in &watched {
                        match shard.partition(read.topic_id, read.index) {
                            Ok(partition) => partition.watch(&waiter, *seen),
                            Err(_) => waiter.on_change(),
                        }
                    }
                    waiter.satisfied().await;
                })
                .boxed_local()
        })
        .collect();
    select_all(waits).await;
}

fn target(shard: &Shard, read: &Read) -> ShardId {
    shard.broker.shard_of(read.topic_id, read.index)
}

/// Deals the items out by their core.
fn by_target<T>(
    items: impl Iterator<Item = T>,
    target: impl Fn(&T) -> ShardId,
) -> impl Iterator<Item = (ShardId, Vec<T>)> {
    let mut groups: BTreeMap<ShardId, Vec<T>> = BTreeMap::new();
    for item in items {
        groups.entry(target(&item)).or_default().push(item);
    }
    groups.into_iter()
}

/// The response of each wanted partition, in order.
fn partition_data(
    request: &FetchRequest,
    wanted: &[Wanted],
    answers: Vec<(usize, Answer)>,
    unknown: Vec<(usize, ErrorCode)>,
) -> Vec<PartitionData> {
    let mut partitions: Vec<PartitionData> = wanted
        .iter()
        .map(|wanted| PartitionData {
            partition_index: wanted.index,
            high_watermark: -1,
            records: Some(Records::EMPTY),
            ..Default::default()
        })
        .collect();
    for (place, error) in unknown {
        partitions[place].error_code = error.code();
        if error == ErrorCode::NotLeaderOrFollower {
            partitions[place].aborted_transactions = None;
        }
    }
    for (place, answer) in answers {
        let partition = &mut partitions[place];
        match answer {
            Ok(fetched) => {
                partition.high_watermark = fetched.marks.high_watermark.0;
                partition.last_stable_offset = fetched.marks.last_stable.0;
                partition.log_start_offset = fetched.marks.log_start.0;
                partition.records = Some(fetched.records);
                let aborted = fetched.aborted.iter().map(|aborted| AbortedTransaction {
                    producer_id: aborted.producer_id.0,
                    first_offset: aborted.first_offset.0,
                });
                partition.aborted_transactions =
                    (request.isolation_level == READ_COMMITTED).then(|| aborted.collect());
                if let Some((epoch, end)) = fetched.diverging {
                    partition.diverging_epoch.epoch = epoch.0;
                    partition.diverging_epoch.end_offset = end.0;
                }
            }
            Err(error) => {
                partition.error_code = errors::of_partition(&error).code();
                partition.aborted_transactions = None;
            }
        }
    }
    partitions
}

/// Bytes in memory of the first partition that has records.
fn first_in_memory(answers: &[(usize, Answer)]) -> usize {
    let read = answers
        .iter()
        .filter_map(|(place, answer)| Some((place, &answer.as_ref().ok()?.records)));
    let first = read
        .filter(|(_, records)| !records.is_empty())
        .min_by_key(|(place, _)| **place);
    first.map_or(0, |(_, records)| records.memory_len())
}

/// Keeps the response within `max_bytes`, `memory_max` of them in memory, but for its first batch (KIP-74).
/// What is left out comes with the next fetch.
fn bound_bytes(
    partitions: &mut [PartitionData],
    wanted: &[Wanted],
    max_bytes: usize,
    memory_max: usize,
) {
    let mut left = max_bytes;
    let mut memory_left = memory_max;
    let mut first = true;
    for (partition, wanted) in partitions.iter_mut().zip(wanted) {
        let length = partition.records.as_ref().map_or(0, Records::len);
        let memory = partition.records.as_ref().map_or(0, Records::memory_len);
        if length == 0 {
            continue;
        }
        let allowed = left.min(wanted.max_bytes.max(0) as usize);
        if (length > allowed || memory > memory_left) && !first {
            partition.records = Some(Records::EMPTY);
        } else {
            left = left.saturating_sub(length);
            memory_left = memory_left.saturating_sub(memory);
            first = false;
        }
    }
}

/// Tells the metrics what the response holds.
fn count(shard: &Shard, partitions: &[PartitionData], wanted: &[Wanted], by_id: bool) {
    for (partition, wanted) in partitions.iter().zip(wanted) {
        if partition.error_code != ErrorCode::None.code() {
            shard.traffic.on_failed_fetch();
        }
        let bytes = partition.records.as_ref().map_or(0, Records::len);
        if bytes == 0 {
            continue;
        }
        let topic_id = if by_id {
            Some(wanted.topic_id)
        } else {
            shard.image().topic(&wanted.topic).map(|topic| topic.id)
        };
        if let Some(topic_id) = topic_id {
            shard.traffic.on_fetched(topic_id, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Str;

    fn bounded(sizes: &[usize], partition_max: i32, max_bytes: usize) -> Vec<usize> {
        bounded_twice(sizes, partition_max, max_bytes, usize::MAX)
    }

    fn bounded_twice(
        sizes: &[usize],
        partition_max: i32,
        max_bytes: usize,
        memory_max: usize,
    ) -> Vec<usize> {
        let mut partitions: Vec<PartitionData> = sizes
            .iter()
            .map(|size| PartitionData {
                records: Some(Records::from(bytes::Bytes::from(vec![0; *size]))),
                ..Default::default()
            })
            .collect();
        let wanted: Vec<Wanted> = sizes
            .iter()
            .map(|_| Wanted {
                topic: Str::EMPTY,
                topic_id: Uuid::ZERO,
                index: 0,
                fetch_offset: 0,
                leader_epoch: -1,
                last_fetched_epoch: -1,
                max_bytes: partition_max,
            })
            .collect();
        bound_bytes(&mut partitions, &wanted, max_bytes, memory_max);
        let lengths = partitions
            .iter()
            .map(|partition| partition.records.as_ref().map_or(0, Records::len));
        lengths.collect()
    }

    #[test]
    fn a_response_keeps_its_bound_but_for_its_first_batch() {
        assert_eq!(bounded(&[10, 10, 10], 100, 25), [10, 10, 0]);
        assert_eq!(bounded(&[50, 10, 0], 100, 25), [50, 0, 0]);
        assert_eq!(bounded(&[0, 50, 10], 20, 100), [0, 50, 10]);
        assert_eq!(bounded(&[10, 50, 10], 20, 100), [10, 0, 10]);
        assert_eq!(bounded_twice(&[10, 10, 10], 20, 100, 20), [10, 10, 0]);
    }
}
