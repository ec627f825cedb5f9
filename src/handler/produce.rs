//! Produce (key 0, versions 3 to 13; 0 to 2 are advertised for old clients and refused). KIP-98, KIP-467, KIP-516.
//!
//! [`begin`] validates the batches and hands them to their cores before it returns, so that a connection's
//! requests are ordered as they were read; the future it returns waits for the acknowledgements.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{self, Either, join_all};

use crate::handler::{Context, Header, Malformed, Response, errors, leader_hints};
use crate::ids::{Offset, PartitionIndex, ShardId};
use crate::io::clock;
use crate::io::timer;
use crate::log::LogError;
use crate::net::responses::Frame;
use crate::partition::validate::{self, CompressedRecords, RecordError, validate};
use crate::partition::{Acks, PartitionError};
use crate::protocol::batch::{Batch, BatchHeader};
use crate::protocol::messages::ProduceRequest;
use crate::protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse, ProduceResponse, TopicProduceResponse,
};
use crate::protocol::{ErrorCode, Str, Uuid};
use crate::shard::Shard;
use crate::stages::Stage;
use crate::stages::timing::{Spent, Stopwatch};

/// Where a partition's answer belongs: position of its topic and of itself in the request.
type Place = (usize, usize);

/// The client id of Kafka's own administration: it alone may write to topics that are the brokers' own.
const ADMIN_CLIENT: &str = "__admin_client";

/// What crosses to the core of some partitions.
struct Append {
    place: Place,
    topic_id: Uuid,
    index: PartitionIndex,
    /// What to append; of a refused batch, the answer that wants only the log's start offset.
    batch: Result<Batch, Rejection>,
}

/// Orders the request's batches, and answers when they are acknowledged.
pub fn begin(context: &Rc<Context>, mut header: Header, request: ProduceRequest) -> Response {
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
    let mut response = outline(&request);
    let mut appends: BTreeMap<ShardId, Vec<Append>> = BTreeMap::new();
    let image = shard.image();
    let is_admin = header.client_id() == ADMIN_CLIENT;
    for (topic_place, topic) in request.topic_data.into_iter().enumerate() {
        let found = if header.version() >= 13 {
            image
                .topic_by_id(topic.topic_id)
                .ok_or(ErrorCode::UnknownTopicId)
        } else {
            image
                .topic(&topic.name)
                .ok_or(ErrorCode::UnknownTopicOrPartition)
        };
        for (place, partition) in topic.partition_data.into_iter().enumerate() {
            let place = (topic_place, place);
            let index = PartitionIndex(partition.index);
            let checked = found.map_err(Rejection::from).and_then(|topic| {
                if topic.is_internal() && !is_admin {
                    return Err(ErrorCode::InvalidTopicException.into());
                }
                if topic.partition(index).is_none() {
                    return Err(ErrorCode::UnknownTopicOrPartition.into());
                }
                let records = partition.records.unwrap_or_default().to_bytes();
                let config = shard.topic_config(topic.id);
                let trust = CompressedRecords::Trust;
                let name = format_args!("{}-{index}", topic.name);
                match validate(&records, header.version(), &name, &config, trust, now) {
                    Ok(valid) => {
                        let batch = Batch::parse(&valid.batch);
                        let batch = batch.expect("a valid batch has a valid header");
                        Ok((topic.id, Ok(batch)))
                    }
                    Err(refused) if refused.tells_log_start => Ok((topic.id, Err(refused.into()))),
                    Err(refused) => Err(refused.into()),
                }
            });
            match checked {
                Ok((topic_id, batch)) => appends
                    .entry(shard.broker.shard_of(topic_id, index))
                    .or_default()
                    .push(Append {
                        place,
                        topic_id,
                        index,
                        batch,
                    }),
                Err(rejection) => rejection.write(slot(&mut response, place)),
            }
        }
    }
    context.home.on_records(appends.keys().copied());
    header.timing.pass(Stage::Decode);
    let (origin, timed) = (shard.id, header.timing.is_on());
    let ordered: Vec<_> = appends
        .into_iter()
        .map(|(target, appends)| {
            shard.mesh.call(shard, target, move |shard| {
                let stopwatch = Stopwatch::begin(timed, shard.id != origin);
                append_all(shard, appends, acks, stopwatch)
            })
        })
        .collect();
    let timeout = Duration::from_millis(request.timeout_ms.max(0) as u64);
    finish(context.clone(), header, response, ordered, acks, timeout).boxed_local()
}

/// What one core answers, and what it spent on appending and acknowledging.
type Appended = (Vec<(Place, PartitionProduceResponse)>, Spent);

/// Appends at once; the future waits for the acknowledgements of all together.
fn append_all(
    shard: Rc<Shard>,
    appends: Vec<Append>,
    acks: Acks,
    mut stopwatch: Stopwatch,
) -> impl Future<Output = Appended> {
    let now = clock::wall_ms();
    let mut waiting = Vec::with_capacity(appends.len());
    for append in appends {
        let index = append.index.0;
        let produced = match shard.partition(append.topic_id, append.index) {
            Err(error) => Err(error.into()),
            Ok(partition) => append
                .batch
                .and_then(|batch| Ok(partition.produce(&batch, acks, now)?))
                .map_err(|refused| refused.with_log_start(partition.log().start_offset())),
        };
        waiting.push((append.place, index, produced));
    }
    stopwatch.pass(0);
    async move {
        let mut answers = Vec::with_capacity(waiting.len());
        for (place, index, produced) in waiting {
            let mut answer = PartitionProduceResponse {
                index,
                base_offset: -1,
                ..Default::default()
            };
            match produced {
                Ok(produced) => {
                    answer.base_offset = produced.base_offset.0;
                    answer.log_append_time_ms = produced.log_append_time_ms;
                    answer.log_start_offset = produced.log_start_offset.0;
                    let outcome = match produced.acknowledged {
                        Some(acknowledged) => acknowledged.await.unwrap_or(Err(LogError::Closed)),
                        None => Ok(()),
                    };
                    if let Err(error) = outcome {
                        Rejection::from(PartitionError::from(error)).write(&mut answer);
                    }
                }
                Err(rejection) => rejection.write(&mut answer),
            }
            if answer.error_code != ErrorCode::None.code() {
                shard.traffic.on_failed_produce();
            }
            answers.push((place, answer));
        }
        stopwatch.pass(1);
        (answers, stopwatch.spent())
    }
}

async fn finish(
    context: Rc<Context>,
    mut header: Header,
    mut response: ProduceResponse,
    ordered: Vec<impl Future<Output = Appended> + 'static>,
    acks: Acks,
    timeout: Duration,
) -> Result<Option<Frame>, Malformed> {
    let appended = join_all(ordered);
    let answers = if acks == Acks::All {
        let timer = std::pin::pin!(timer::sleep(timeout));
        match future::select(appended, timer).await {
            Either::Left((answers, _)) => Some(answers),
            Either::Right(_) => None,
        }
    } else {
        Some(appended.await)
    };
    match answers {
        Some(answers) => {
            let spent = answers.iter().map(|(_, spent)| *spent);
            let stages = [Stage::Append, Stage::Commit];
            header.timing.pass_spent(stages, spent);
            for (place, answer) in answers.into_iter().flat_map(|(answers, _)| answers) {
                *slot(&mut response, place) = answer;
            }
        }
        None => {
            header.timing.pass(Stage::Commit);
            for topic in &mut response.responses {
                for partition in &mut topic.partition_responses {
                    if partition.error_code == ErrorCode::None.code() {
                        partition.error_code = ErrorCode::RequestTimedOut.code();
                        partition.base_offset = -1;
                    }
                }
            }
        }
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

/// The response with every partition in its place, as yet without errors or offsets.
fn outline(request: &ProduceRequest) -> ProduceResponse {
    ProduceResponse {
        responses: request
            .topic_data
            .iter()
            .map(|topic| TopicProduceResponse {
                name: topic.name.clone(),
                topic_id: topic.topic_id,
                partition_responses: topic
                    .partition_data
                    .iter()
                    .map(|partition| PartitionProduceResponse {
                        index: partition.index,
                        base_offset: -1,
                        ..Default::default()
                    })
                    .collect(),
            })
            .collect(),
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
        BatchHeader::peek(&records.to_bytes()).is_some_and(BatchHeader::is_transactional)
    });
    transactional.then_some(match request.transactional_id {
        None => ErrorCode::TransactionalIdAuthorizationFailed,
        Some(_) => ErrorCode::InvalidTxnState,
    })
}

fn refuse_all(mut header: Header, request: ProduceRequest, error: ErrorCode) -> Response {
    let mut response = outline(&request);
    for topic in &mut response.responses {
        for partition in &mut topic.partition_responses {
            partition.error_code = error.code();
        }
    }
    async move { header.respond(&response).map(Some) }.boxed_local()
}

/// Why a partition's records were not stored.
struct Rejection {
    error: ErrorCode,
    message: Option<String>,
    records: Vec<RecordError>,
    /// Kafka tells where the log starts along with what it found in the batch itself.
    tells_log_start: bool,
    log_start: Offset,
}

impl From<ErrorCode> for Rejection {
    fn from(error: ErrorCode) -> Rejection {
        Rejection {
            error,
            message: None,
            records: Vec::new(),
            tells_log_start: false,
            log_start: Offset(-1),
        }
    }
}

impl From<PartitionError> for Rejection {
    fn from(error: PartitionError) -> Rejection {
        let of_producer = matches!(error, PartitionError::Producer(_));
        Rejection {
            message: (!of_producer).then(|| error.to_string()),
            tells_log_start: of_producer,
            ..errors::of_partition(&error).into()
        }
    }
}

impl From<validate::Rejection> for Rejection {
    fn from(rejection: validate::Rejection) -> Rejection {
        Rejection {
            message: rejection.message,
            records: rejection.record_errors,
            tells_log_start: rejection.tells_log_start,
            ..rejection.error.into()
        }
    }
}

impl Rejection {
    fn with_log_start(mut self, start: Offset) -> Rejection {
        if self.tells_log_start {
            self.log_start = start;
        }
        self
    }

    fn write(self, answer: &mut PartitionProduceResponse) {
        answer.error_code = self.error.code();
        answer.base_offset = -1;
        answer.log_start_offset = self.log_start.0;
        answer.error_message = self.message.map(Str::from);
        answer.record_errors = self
            .records
            .into_iter()
            .map(|record| BatchIndexAndErrorMessage {
                batch_index: record.batch_index,
                batch_index_error_message: Some(Str::from(record.message)),
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Records;
    use crate::protocol::batch::BatchBuilder;
    use crate::protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};

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
    fn a_transactional_batch_is_refused_while_nobody_can_begin_a_transaction() {
        assert_eq!(refused(None, false), None);
        assert_eq!(refused(Some("t"), false), None);
        let unauthorized = ErrorCode::TransactionalIdAuthorizationFailed;
        assert_eq!(refused(None, true), Some(unauthorized));
        assert_eq!(refused(Some("t"), true), Some(ErrorCode::InvalidTxnState));
    }
}
