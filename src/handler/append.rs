//! Owns what of a produce request goes to the core of its partitions: it is appended there at once, and comes back with
//! what has become of it when that is acknowledged.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;

use crate::handler::errors;
use crate::ids::{Offset, PartitionIndex, ShardId, TimestampMs};
use crate::io::clock;
use crate::io::prefetch::prefetch;
use crate::partition::validate::{self, RecordError};
use crate::partition::waiting::{ProduceWaiter, Ticket};
use crate::partition::{Acks, PartitionError};
use crate::protocol::batch::Batch;
use crate::protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse,
};
use crate::protocol::{ErrorCode, Str, Uuid};
use crate::shard::{Broker, Shard};
use crate::stages::timing::{Spent, Stopwatch};

/// Where a partition's answer belongs: position of its topic and of itself in the request.
pub type Place = (usize, usize);

/// What one partition appends.
pub struct Append {
    place: Place,
    topic_id: Uuid,
    index: PartitionIndex,
    /// `None` if it has been refused, and the answer wants only the log's start offset. It comes back, so that nobody else
    /// counts who holds the request.
    batch: Option<Batch>,
    outcome: Result<Stored, Box<Rejection>>,
}

/// Those of one core. Mostly one, which needs no memory of its own to cross.
pub type Appends = SmallVec<[Append; 1]>;

/// How a batch was stored.
#[derive(Default)]
struct Stored {
    base_offset: Offset,
    log_append_time_ms: TimestampMs,
    log_start_offset: Offset,
}

impl Append {
    pub fn new(place: Place, topic_id: Uuid, index: PartitionIndex, batch: Batch) -> Append {
        Append {
            place,
            topic_id,
            index,
            batch: Some(batch),
            outcome: Ok(Stored::default()),
        }
    }

    /// Of a batch that is refused already.
    pub fn refused(
        place: Place,
        topic_id: Uuid,
        index: PartitionIndex,
        refused: impl Into<Rejection>,
    ) -> Append {
        Append {
            place,
            topic_id,
            index,
            batch: None,
            outcome: Err(Box::new(refused.into())),
        }
    }

    pub fn core(&self, broker: &Broker) -> ShardId {
        broker.shard_of(self.topic_id, self.index)
    }

    pub fn place(&self) -> Place {
        self.place
    }

    fn begin(
        &mut self,
        shard: &Shard,
        acks: Acks,
        now: TimestampMs,
        ticket: impl FnOnce() -> Ticket,
    ) {
        let partition = match shard.partition(self.topic_id, self.index) {
            Ok(partition) => partition,
            Err(error) => return self.fail(error),
        };
        if let Some(batch) = &self.batch {
            match partition.produce(batch, acks, now, ticket) {
                Ok(produced) => {
                    self.outcome = Ok(Stored {
                        base_offset: produced.base_offset,
                        log_append_time_ms: produced.log_append_time_ms,
                        log_start_offset: produced.log_start_offset,
                    });
                }
                Err(error) => self.fail(error),
            }
        }
        if let Err(refused) = &mut self.outcome
            && refused.tells_log_start
        {
            refused.log_start = partition.log().start_offset();
        }
    }

    fn fail(&mut self, error: impl Into<Rejection>) {
        self.outcome = Err(Box::new(error.into()));
    }

    pub fn write(self, answer: &mut PartitionProduceResponse) {
        match self.outcome {
            Ok(stored) => {
                answer.error_code = ErrorCode::None.code();
                answer.base_offset = stored.base_offset.0;
                answer.log_append_time_ms = stored.log_append_time_ms;
                answer.log_start_offset = stored.log_start_offset.0;
            }
            Err(rejection) => rejection.write(answer),
        }
    }
}

/// Appends at once; the future waits for the acknowledgements of all together. On the core of the partitions.
pub fn append_all(
    shard: Rc<Shard>,
    mut appends: Appends,
    acks: Acks,
    mut stopwatch: Stopwatch,
) -> Appending {
    let now = clock::wall_ms();
    let batches = appends.iter().filter_map(|append| append.batch.as_ref());
    batches.for_each(|batch| prefetch(&batch.bytes()[..]));
    let mut waiter = None;
    for (place, append) in appends.iter_mut().enumerate() {
        let ticket = || ProduceWaiter::ticket(&mut waiter, place);
        append.begin(&shard, acks, now, ticket);
    }
    stopwatch.pass(0);
    Appending {
        shard,
        appends,
        waiter,
        stopwatch,
    }
}

/// Appends that wait for their acknowledgements; resolves to them, and what was spent here on both. Written out, as a
/// request has one for each core for as long as it waits: what an `async` block keeps is twice this.
pub struct Appending {
    shard: Rc<Shard>,
    appends: Appends,
    /// `None`: nothing need be waited for.
    waiter: Option<Rc<ProduceWaiter>>,
    stopwatch: Stopwatch,
}

impl Future for Appending {
    type Output = (Appends, Spent);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(waiter) = &self.waiter {
            for (place, error) in ready!(waiter.poll_all(context)) {
                self.appends[place].fail(PartitionError::from(error));
            }
        }
        let failed = self.appends.iter().filter(|append| append.outcome.is_err());
        failed.for_each(|_| self.shard.traffic.on_failed_produce());
        self.stopwatch.pass(1);
        let appends = std::mem::take(&mut self.appends);
        Poll::Ready((appends, self.stopwatch.spent()))
    }
}

/// Why a partition's records were not stored.
pub struct Rejection {
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
    pub fn write(self, answer: &mut PartitionProduceResponse) {
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
