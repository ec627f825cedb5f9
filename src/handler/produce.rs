//! Produce (key 0, versions 3 to 13; 0 to 2 are advertised for old clients and refused). KIP-98, KIP-467, KIP-516.
//!
//! [`begin`] validates the batches and hands them to their cores before it returns, so that a connection's
//! requests are ordered as they were read; the future it returns waits for the acknowledgements.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{self, Poll};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{MaybeDone, maybe_done};
use smallvec::SmallVec;

use crate::handler::append::{Append, Appends, Place, Rejection, append_all};
use crate::handler::{Context, Header, Malformed, Response, leader_hints};
use crate::ids::{PartitionIndex, ShardId};
use crate::io::clock;
use crate::io::timer;
use crate::net::responses::Frame;
use crate::partition::Acks;
use crate::partition::validate::{CompressedRecords, validate};
use crate::protocol::ErrorCode;
use crate::protocol::batch::{Batch, BatchHeader};
use crate::protocol::messages::ProduceRequest;
use crate::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use crate::protocol::messages::produce_response::{
    PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use crate::stages::Stage;
use crate::stages::timing::{Spent, Stopwatch};

/// The client id of Kafka's own administration: it alone may write to topics that are the brokers' own.
const ADMIN_CLIENT: &str = "__admin_client";

/// Orders the request's batches, and answers when they are acknowledged.
pub fn begin(context: &Rc<Context>, mut header: Header, mut request: ProduceRequest) -> Response {
    let acks = match request.acks {
        0 => Acks::None,
        1 => Acks::Leader,
        -1 => Acks::All,
        _ => return refuse_all(header, request, ErrorCode::InvalidRequiredAcks),
    };
    if let Some(error) = refused_transaction(&request) {
        return refuse_all(header, request, error);
    }
    let shard = &context.shard;
    let now = clock::wall_ms();
    let partitions = request.topic_data.iter();
    let mut left: usize = partitions.map(|topic| topic.partition_data.len()).sum();
    let mut appends: SmallVec<[(ShardId, Appends); 1]> = SmallVec::new();
    let mut refused = Vec::new();
    let cores = shard.broker.layout.partitions().len();
    let image = shard.image();
    let is_admin = header.client_id() == ADMIN_CLIENT;
    for (topic_place, topic) in request.topic_data.iter_mut().enumerate() {
        let found = if header.version() >= 13 {
            image
                .topic_by_id(topic.topic_id)
                .ok_or(ErrorCode::UnknownTopicId)
        } else {
            image
                .topic(&topic.name)
                .ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        let found = found.map(|topic| (topic, shard.topic_config(topic.id)));
        for (place, partition) in topic.partition_data.iter_mut().enumerate() {
            let place = (topic_place, place);
            let index = PartitionIndex(partition.index);
            let found = found.as_ref().map_err(|error| Rejection::from(*error));
            let checked = found.and_then(|(topic, config)| {
                if topic.is_internal() && !is_admin {
                    return Err(ErrorCode::InvalidTopicException.into());
                }
                if topic.partition(index).is_none() {
                    return Err(ErrorCode::UnknownTopicOrPartition.into());
                }
                let records = partition.records.take().unwrap_or_default().into_bytes();
                let trust = CompressedRecords::Trust;
                let name = format_args!("{}-{index}", topic.name);
                match validate(&records, header.version(), &name, config, trust, now) {
                    Ok(valid) => {
                        let batch = Batch::of(valid.batch);
                        let batch = batch.expect("a valid batch has a valid header");
                        Ok(Append::new(place, topic.id, index, batch))
                    }
                    Err(refused) if refused.tells_log_start => {
                        Ok(Append::refused(place, topic.id, index, refused))
                    }
                    Err(refused) => Err(refused.into()),
                }
            });
            match checked {
                Ok(append) => {
                    let target = append.core(&shard.broker);
                    match appends.iter_mut().find(|(core, _)| *core == target) {
                        Some((_, appends)) => appends.push(append),
                        None => {
                            let mut first = Appends::with_capacity(left.div_ceil(cores));
                            first.push(append);
                            appends.push((target, first));
                        }
                    }
                }
                Err(rejection) => refused.push((place, rejection)),
            }
            left -= 1;
        }
    }
    context
        .home
        .on_records(appends.iter().map(|(core, _)| *core));
    header.timing.pass(Stage::Decode);
    let (origin, timed) = (shard.id, header.timing.is_on());
    let calls = appends.into_iter().map(|(target, appends)| {
        let call = shard.mesh.call(shard, target, move |shard| {
            let stopwatch = Stopwatch::begin(timed, shard.id != origin);
            append_all(shard, appends, acks, stopwatch)
        });
        maybe_done(call)
    });
    let asked = Asked {
        topics: request.topic_data,
        refused,
        calls: calls.collect(),
        acks,
        timeout: Duration::from_millis(request.timeout_ms.max(0) as u64),
    };
    finish(context.clone(), header, asked).boxed_local()
}

/// A request whose batches are on their way.
struct Asked<F: Future> {
    topics: Vec<TopicProduceData>,
    refused: Vec<(Place, Rejection)>,
    /// By core.
    calls: SmallVec<[MaybeDone<F>; 1]>,
    acks: Acks,
    timeout: Duration,
}

impl<F: Future<Output = (Appends, Spent)> + Unpin> Asked<F> {
    /// Ready when all are acknowledged. Each is looked at, so that its time is its own.
    fn poll_calls(&mut self, task: &mut task::Context<'_>) -> Poll<()> {
        let mut all = Poll::Ready(());
        for call in &mut self.calls {
            if call.poll_unpin(task).is_pending() {
                all = Poll::Pending;
            }
        }
        all
    }

    /// What has become of each partition's batch until now, and what the slowest core spent on that.
    fn answers(&mut self) -> (ProduceResponse, Spent) {
        let mut response = outline(&self.topics, ErrorCode::RequestTimedOut);
        let mut slowest = Spent::default();
        for call in &mut self.calls {
            let Some((appends, spent)) = Pin::new(call).take_output() else {
                continue;
            };
            slowest = slowest.slower(spent);
            for append in appends {
                let answer = slot(&mut response, append.place());
                append.write(answer);
            }
        }
        for (place, rejection) in self.refused.drain(..) {
            rejection.write(slot(&mut response, place));
        }
        (response, slowest)
    }
}

/// Waits for the acknowledgements and answers. Not an `async fn`, which would keep all it is given twice, and there is
/// one for each request in progress.
fn finish(
    context: Rc<Context>,
    mut header: Header,
    mut asked: Asked<impl Future<Output = (Appends, Spent)> + Unpin + 'static>,
) -> impl Future<Output = Result<Option<Frame>, Malformed>> {
    let acks = asked.acks;
    let mut timer = (acks == Acks::All).then(|| timer::sleep(asked.timeout));
    async move {
        let in_time = poll_fn(|task| {
            if asked.poll_calls(task).is_ready() {
                return Poll::Ready(true);
            }
            let late = timer.as_mut().map(|timer| timer.poll_unpin(task));
            late.map_or(Poll::Pending, |late| late.map(|()| false))
        })
        .await;
        let (mut response, slowest) = asked.answers();
        if in_time {
            let stages = [Stage::Append, Stage::Commit];
            header.timing.pass_spent(stages, slowest);
        } else {
            header.timing.pass(Stage::Commit);
        }
        let failed = response
            .responses
            .iter()
            .flat_map(|topic| &topic.partition_responses)
            .find(|partition| partition.error_code != ErrorCode::None.code())
            .map(|partition| ErrorCode::from_code(partition.error_code));
        match (failed, acks) {
            (None, Acks::None) => {
                header.timing.finish();
                Ok(None)
            }
            (Some(error), Acks::None) => Err(Malformed::Unacknowledged(error.name())),
            (None, _) => header.respond(&response).map(Some),
            (Some(_), _) => {
                let (image, version) = (context.shard.image(), header.version());
                leader_hints::add_to_produce(&image, &context.listener, version, &mut response);
                header.respond(&response).map(Some)
            }
        }
    }
}

/// The response with every partition in its place, as if all had ended so.
fn outline(topics: &[TopicProduceData], error: ErrorCode) -> ProduceResponse {
    let outline = |partition: &PartitionProduceData| PartitionProduceResponse {
        index: partition.index,
        error_code: error.code(),
        base_offset: -1,
        ..Default::default()
    };
    let topics = topics.iter().map(|topic| TopicProduceResponse {
        name: topic.name.clone(),
        topic_id: topic.topic_id,
        partition_responses: topic.partition_data.iter().map(outline).collect(),
    });
    ProduceResponse {
        responses: topics.collect(),
        ..Default::default()
    }
}

fn slot(response: &mut ProduceResponse, place: Place) -> &mut PartitionProduceResponse {
    &mut response.responses[place.0].partition_responses[place.1]
}

/// Transactional batches need a transactional id, and a transaction, which nobody can begin here as yet (KIP-98).
fn refused_transaction(request: &ProduceRequest) -> Option<ErrorCode> {
    let partitions = request
        .topic_data
        .iter()
        .flat_map(|topic| &topic.partition_data);
    let mut records = partitions.filter_map(|partition| partition.records.as_ref());
    let transactional = records.any(|records| {
        BatchHeader::peek(records.as_slice()).is_some_and(BatchHeader::is_transactional)
    });
    transactional.then_some(match request.transactional_id {
        None => ErrorCode::TransactionalIdAuthorizationFailed,
        Some(_) => ErrorCode::InvalidTxnState,
    })
}

fn refuse_all(mut header: Header, request: ProduceRequest, error: ErrorCode) -> Response {
    let response = outline(&request.topic_data, error);
    async move { header.respond(&response).map(Some) }.boxed_local()
}

#[cfg(test)]
mod tests {
    use futures::future;

    use super::*;
    use crate::protocol::batch::BatchBuilder;
    use crate::protocol::{Records, Str, Uuid};

    fn refused(transactional_id: Option<&'static str>, transactional: bool) -> Option<ErrorCode> {
        let plain = BatchBuilder::new().build();
        let last = match transactional {
            true => BatchBuilder::new().transactional().build(),
            false => plain.clone(),
        };
        let partitions = [plain, last].into_iter().map(|batch| PartitionProduceData {
            records: Some(Records::from(batch)),
            ..Default::default()
        });
        refused_transaction(&ProduceRequest {
            transactional_id: transactional_id.map(Str::from),
            topic_data: vec![TopicProduceData {
                partition_data: partitions.collect(),
                ..Default::default()
            }],
            ..Default::default()
        })
    }

    #[test]
    fn a_late_request_tells_what_was_stored_what_refused_and_what_is_not_known() {
        let (answered, late, refused) = ((0, 0), (0, 1), (0, 2));
        let partitions = [answered, late, refused].map(|(_, place)| PartitionProduceData {
            index: 10 + place as i32,
            ..Default::default()
        });
        let append = |place: Place| {
            let batch = Batch::of(BatchBuilder::new().build()).unwrap();
            let index = PartitionIndex(10 + place.1 as i32);
            Append::new(place, Uuid([1; 16]), index, batch)
        };
        let appended: Appends = [append(answered)].into_iter().collect();
        let mut asked = Asked {
            topics: vec![TopicProduceData {
                partition_data: partitions.into(),
                ..Default::default()
            }],
            refused: vec![(refused, ErrorCode::CorruptMessage.into())],
            calls: [
                maybe_done(future::ready((appended, Spent::default())).left_future()),
                maybe_done(future::pending().right_future()),
            ]
            .into_iter()
            .collect(),
            acks: Acks::All,
            timeout: Duration::ZERO,
        };
        let mut task = task::Context::from_waker(task::Waker::noop());
        assert!(asked.poll_calls(&mut task).is_pending());
        let (response, _) = asked.answers();
        let answers = response.responses[0].partition_responses.iter();
        let told: Vec<_> = answers.map(|told| (told.index, told.error_code)).collect();
        let [none, timed_out, corrupt] = [
            ErrorCode::None,
            ErrorCode::RequestTimedOut,
            ErrorCode::CorruptMessage,
        ]
        .map(ErrorCode::code);
        assert_eq!(told, [(10, none), (11, timed_out), (12, corrupt)]);
    }

    #[test]
    fn a_transactional_batch_is_refused_while_nobody_can_begin_a_transaction() {
        assert_eq!(refused(None, false), None);
        assert_eq!(refused(Some("t"), false), None);
        let unauthorized = ErrorCode::TransactionalIdAuthorizationFailed;
        assert_eq!(refused(None, true), Some(unauthorized));
        assert_eq!(refused(Some("t"), true), Some(ErrorCode::InvalidTxnState));
    }
}
