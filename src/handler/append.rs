//! Owns what of a produce request goes to the core of its partitions: it is appended there at once, and comes back with
//! what has become of it when that is acknowledged.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;

use crate::handler::errors;
use crate::ids::{Offset, PartitionIndex, TimestampMs};
use crate::io::clock;
use crate::io::prefetch::prefetch;
use crate::log::LogError;
use crate::partition::validate::{self, RecordError};
use crate::partition::waiting::Acknowledgement;
use crate::partition::{Acks, PartitionError};
use crate::protocol::batch::Batch;
use crate::protocol::messages::produce_response::{
    BatchIndexAndErrorMessage, PartitionProduceResponse,
};
use crate::protocol::{ErrorCode, Str, Uuid};
use crate::shard::Shard;
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
        refused: Rejection,
    ) -> Append {
        Append {
            place,
            topic_id,
            index,
            batch: None,
            outcome: Err(Box::new(refused)),
        }
    }

    pub fn topic_id(&self) -> Uuid {
        self.topic_id
    }

    pub fn place(&self) -> Place {
        self.place
    }

    /// What there is to wait for after it, if anything.
    fn begin(
        &mut self,
        shard: &Shard,
        acks: Acks,
        now: TimestampMs,
    ) -> Option<Acknowledgement<LogError>> {
        let partition = match shard.partition(self.topic_id, self.index) {
            Ok(partition) => partition,
            Err(error) => {
                self.fail(error);
                return None;
            }
        };
        let mut acknowledged = None;
        if let Some(batch) = &self.batch {
            match partition.produce(batch, acks, now) {
                Ok(produced) => {
                    acknowledged = produced.acknowledged;
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
        acknowledged
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
    let begun = appends.iter_mut().enumerate().filter_map(|(at, append)| {
        let acknowledged = append.begin(&shard, acks, now)?;
        Some((at, acknowledged))
    });
    let waiting = begun.collect();
    stopwatch.pass(0);
    Appending {
        shard,
        appends,
        waiting,
        stopwatch,
    }
}

/// Appends that wait for their acknowledgements; resolves to them, and what was spent here on both. Written out, as a
/// request has one for each core for as long as it waits: what an `async` block keeps is twice this.
pub struct Appending {
    shard: Rc<Shard>,
    appends: Appends,
    /// By place among `appends`; looked at from the last, as most are acknowledged in their order.
    waiting: SmallVec<[(usize, Acknowledgement<LogError>); 1]>,
    stopwatch: Stopwatch,
}

impl Future for Appending {
    type Output = (Appends, Spent);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        while let Some((at, acknowledged)) = this.waiting.last_mut() {
            let acknowledged = ready!(Pin::new(acknowledged).poll(context));
            if let Err(error) = acknowledged.unwrap_or(Err(LogError::Closed)) {
                this.appends[*at].fail(PartitionError::from(error));
            }
            this.waiting.pop();
        }
        let failed = this.appends.iter().filter(|append| append.outcome.is_err());
        failed.for_each(|_| this.shard.traffic.on_failed_produce());
        this.stopwatch.pass(1);
        let appends = std::mem::take(&mut this.appends);
        Poll::Ready((appends, this.stopwatch.spent()))
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
