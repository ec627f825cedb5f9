//! Owns one partition's log: Kafka's segment files and all that lies beside them. It orders batches,
//! writes them in groups, says when they are written and when they are durable, finds them again by
//! offset and by time, and recovers after a crash. It never checks what producers may do, never
//! answers clients, reads no clock, and belongs to one thread.
//!
//! In the order a batch meets them: `appender` (copy, sync), `tail_cache` (the buffers written),
//! `journal` (small appends of all logs of a core in one write), `writer` (group writes into segments), `segment` (one file and its indexes), `reader`, `upkeep`, `retention`, `compaction`,
//! `recovery`, `directory`.
//! The other files are pure: formats and state.

pub mod checkpoints;
pub mod compaction;
pub mod epochs;
pub mod journal;
pub mod offset_index;
pub mod producers;
pub mod time_index;
pub mod transaction_index;

pub mod directory;
pub mod settings;

mod appender;
mod header;
mod reader;
mod recovery;
mod retention;
mod segment;
mod tail_cache;
#[cfg(test)]
mod tests;
mod upkeep;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::ids::{LeaderEpoch, Offset, TimestampMs};
use crate::limits::UNWRITTEN_BYTES_MAX;
use epochs::{EpochCache, EpochStart};
use futures::lock::Mutex;
use journal::Journaling;
use producers::ProducerStates;
use segment::Segment;
use tail_cache::Tail;
use writer::Writing;

pub use appender::Appended;
pub use reader::FoundByTime;
pub use recovery::{Opening, Recovered};
#[cfg(feature = "simulation")]
pub use settings::Sabotage;
pub use settings::{FlushPolicy, LogContext, LogSettings};
pub use tail_cache::TailBudget;
pub use time_index::TimestampOffset;
pub use writer::WriteLimits;

/// Why a log cannot do what it was asked. Clones of one failure are handed to all that wait.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LogError {
    /// OFFSET_OUT_OF_RANGE
    #[error("offset {offset} is outside {start}..{end}")]
    OffsetOutOfRange {
        offset: Offset,
        start: Offset,
        end: Offset,
    },
    /// MESSAGE_TOO_LARGE, or RECORD_LIST_TOO_LARGE: a batch that fits no segment.
    #[error("a batch of {bytes} bytes is larger than a segment of {segment_bytes}")]
    BatchTooLarge { bytes: usize, segment_bytes: u32 },
    /// KAFKA_STORAGE_ERROR: reading or writing failed, and the log stays offline until restart.
    #[error("{what}: {message}")]
    Storage { what: String, message: String },
    /// KAFKA_STORAGE_ERROR: closed or deleted.
    #[error("the log is closed")]
    Closed,
}

impl LogError {
    pub(crate) fn storage(what: impl Into<String>, error: &io::Error) -> LogError {
        LogError::Storage {
            what: what.into(),
            message: error.to_string(),
        }
    }
}

/// What an observer is told, after the log's own state has changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogEvent {
    /// `written_end` moved: an acks=1 produce may be answered.
    Written,
    /// `durable_end` moved: this replica acknowledges up to there.
    Durable,
    /// Nothing will be written or read any more.
    Offline(LogError),
}

pub type Observer = Rc<dyn Fn(LogEvent)>;

/// One partition's log. All methods take `&self`; none holds a borrow while it waits or tells its
/// observer, so they may be called from anywhere on the log's thread, from the observer too.
pub struct Log {
    context: LogContext,
    dir: RefCell<PathBuf>,
    settings: RefCell<Rc<LogSettings>>,
    state: RefCell<State>,
    producers: RefCell<ProducerStates>,
    observer: RefCell<Option<Observer>>,
    failure: RefCell<Option<LogError>>,
    waiters: RefCell<Vec<Waker>>,
    /// No more appends.
    closing: Cell<bool>,
    deleted: Cell<bool>,
    /// A cleaning found what it cannot read: there will be no other in this life.
    uncleanable: Cell<bool>,
    /// Held by whoever takes segments away or puts others in their place, and by whoever ends the log.
    rearranging: Mutex<()>,
}

struct State {
    /// By base offset, never empty; the last one is active. All before it are sealed.
    segments: VecDeque<Rc<Segment>>,
    tail: Tail,
    epochs: EpochCache,
    /// `epochs` changed since its checkpoint was written.
    epochs_dirty: bool,
    start: Offset,
    end: Offset,
    /// What is promised: in the segments or in the journal.
    written_end: Offset,
    durable_end: Offset,
    /// Given to the device for the segments, taken by it, and on stable storage there. What only the journal has lies
    /// above.
    issued_end: Offset,
    stored_end: Offset,
    synced_end: Offset,
    /// Up to here the segments are written without waiting for more to come.
    store_target: Offset,
    /// Up to here it is the segments that acknowledgements wait for.
    straight_end: Offset,
    /// When the first of what the segments lack was appended.
    behind_since_ms: TimestampMs,
    journaling: Journaling,
    /// Everything below survives a crash with its indexes and producer snapshot: recovery starts here.
    recovery_point: Offset,
    /// Sealed segments whose indexes and snapshot are not on disk yet, oldest first.
    unfinished: VecDeque<appender::Unfinished>,
    writing: Writing,
    syncing: bool,
    finishing: bool,
    /// Sync up to here whatever the flush policy says.
    flush_target: Offset,
    last_flush_ms: TimestampMs,
    last_append_ms: TimestampMs,
    readers_checked_ms: TimestampMs,
    /// Something is not on disk as a clean stop leaves it.
    changed: bool,
    /// Files of removed segments, renamed, and when they go.
    doomed: Vec<retention::Doomed>,
    /// All below has been cleaned.
    first_dirty: Option<Offset>,
    /// Files are being put in the place of others, and how often that has begun: whoever looked at files meanwhile looks
    /// again.
    swapping: bool,
    swaps: u64,
    /// The folder's own entry, and what was created with it, is on stable storage.
    dir_durable: Cell<bool>,
}

impl Log {
    pub fn start_offset(&self) -> Offset {
        self.state.borrow().start
    }

    /// The offset that the next record gets (Kafka's log end offset).
    pub fn end_offset(&self) -> Offset {
        self.state.borrow().end
    }

    /// All below has been taken by the device: it survives kill -9.
    pub fn written_end(&self) -> Offset {
        self.state.borrow().written_end
    }

    /// All below is on stable storage, or as good as that by the topic's flush settings.
    pub fn durable_end(&self) -> Offset {
        self.state.borrow().durable_end
    }

    /// Where recovery after a crash would begin; goes to `recovery-point-offset-checkpoint`.
    pub fn recovery_point(&self) -> Offset {
        self.state.borrow().recovery_point
    }

    /// Bytes of all segments, as far as appended.
    pub fn size_bytes(&self) -> u64 {
        let state = self.state.borrow();
        let sizes = state.segments.iter().map(|s| u64::from(s.size.get()));
        sizes.sum()
    }

    pub fn segment_count(&self) -> usize {
        self.state.borrow().segments.len()
    }

    /// Bytes appended and not yet in the segments: above its limit a partition takes no more produces.
    pub fn backlog_bytes(&self) -> usize {
        let state = self.state.borrow();
        state.bytes_behind(|segment| segment.written.get())
    }

    /// Writing does not keep up with appending: it is time to take no more.
    pub fn is_behind(&self) -> bool {
        self.backlog_bytes() > UNWRITTEN_BYTES_MAX || self.context.budget.is_exceeded()
    }

    pub fn dir(&self) -> PathBuf {
        self.dir.borrow().clone()
    }

    pub fn settings(&self) -> Rc<LogSettings> {
        self.settings.borrow().clone()
    }

    /// New settings hold from the next append and tick on.
    pub fn set_settings(&self, settings: LogSettings) {
        self.settings.replace(Rc::new(settings));
    }

    /// One observer; it is called with no borrow of the log held.
    pub fn set_observer(&self, observer: Observer) {
        self.observer.replace(Some(observer));
    }

    pub fn producers(&self) -> &RefCell<ProducerStates> {
        &self.producers
    }

    pub fn latest_epoch(&self) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.latest_epoch()
    }

    /// The epochs in the log and where each begins.
    pub fn epochs(&self) -> Vec<EpochStart> {
        self.state.borrow().epochs.iter().collect()
    }

    pub fn epoch_for_offset(&self, offset: Offset) -> Option<LeaderEpoch> {
        self.state.borrow().epochs.epoch_for_offset(offset)
    }

    /// OffsetForLeaderEpoch: the largest epoch at or below, and the offset behind its last record.
    pub fn end_offset_for(&self, epoch: LeaderEpoch) -> Option<(LeaderEpoch, Offset)> {
        let state = self.state.borrow();
        state.epochs.end_offset_for(epoch, state.end)
    }

    /// Notes the start of a leader's epoch before its first record (KIP-101).
    pub fn begin_epoch(&self, epoch: LeaderEpoch) {
        let mut state = self.state.borrow_mut();
        let end = state.end;
        state.epochs_dirty |= state.epochs.assign(epoch, end);
    }

    /// Why the log is offline, if it is.
    pub fn failure(&self) -> Option<LogError> {
        self.failure.borrow().clone()
    }

    fn check_online(&self) -> Result<(), LogError> {
        match &*self.failure.borrow() {
            None => Ok(()),
            Some(failure) => Err(failure.clone()),
        }
    }

    /// Latches a failure: whatever it was, what is on disk is no longer known.
    fn go_offline(&self, error: LogError) {
        if self.failure.borrow().is_some() {
            return;
        }
        if error != LogError::Closed {
            tracing::error!(dir = %self.dir.borrow().display(), %error, "the log goes offline");
        }
        self.failure.replace(Some(error.clone()));
        self.wake_waiters();
        self.notify(LogEvent::Offline(error));
    }

    fn notify(&self, event: LogEvent) {
        let observer = self.observer.borrow().clone();
        if let Some(observer) = observer {
            observer(event);
        }
    }

    fn wake_waiters(&self) {
        for waker in self.waiters.take() {
            waker.wake();
        }
    }

    /// Waits until `done`, which is looked at again after each step of the log; an error if the log
    /// goes offline before.
    async fn wait_until(&self, done: impl Fn(&State) -> bool) -> Result<(), LogError> {
        poll_fn(|context| {
            if done(&self.state.borrow()) {
                return Poll::Ready(Ok(()));
            }
            if let Err(error) = self.check_online() {
                return Poll::Ready(Err(error));
            }
            self.waiters.borrow_mut().push(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    fn segment_path(&self, base: Offset, extension: &str) -> PathBuf {
        segment_path(&self.dir.borrow(), base, extension)
    }
}

impl State {
    fn active(&self) -> &Rc<Segment> {
        self.segments.back().expect("a log has a segment")
    }
}

/// `<dir>/<20 digits>.<extension>`
fn segment_path(dir: &Path, base: Offset, extension: &str) -> PathBuf {
    dir.join(format!("{:020}.{extension}", base.0))
}
