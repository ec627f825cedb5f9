//! Owns what a log is told from outside: its topic's settings and the shard it lives on.

use std::cell::Cell;
use std::rc::Rc;

use futures::future::LocalBoxFuture;

use super::compaction::Compaction;
use super::journal::Journal;
use super::{TailBudget, WriteLimits};
use crate::io::Disk;

/// What "durable" means where `flush.messages` and `flush.ms` say nothing (`log.flush.policy`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FlushPolicy {
    /// Stable storage: an fdatasync for all that was written meanwhile.
    #[default]
    Durable,
    /// The device has taken the write; the operating system syncs when it likes.
    Os,
}

/// Topic settings under Kafka's names (`segment.bytes`, …), resolved. -1 is no limit.
#[derive(Clone, PartialEq, Debug)]
pub struct LogSettings {
    pub segment_bytes: u32,
    pub segment_ms: i64,
    pub segment_jitter_ms: i64,
    pub retention_ms: i64,
    pub retention_bytes: i64,
    pub index_interval_bytes: u32,
    pub segment_index_bytes: u32,
    pub file_delete_delay_ms: i64,
    /// From [`FLUSH_UNSET`] on: not set.
    pub flush_messages: u64,
    /// From [`FLUSH_UNSET`] on: not set.
    pub flush_ms: u64,
    pub flush_policy: FlushPolicy,
    pub preallocate: bool,
    /// Cleaning has taken batches out: offsets need not follow each other.
    pub may_have_gaps: bool,
    /// None: it is not cleaned.
    pub compaction: Option<Compaction>,
}

/// `flush.messages` and `flush.ms` as Kafka says that they are not set: the largest number of its type.
pub const FLUSH_UNSET: u64 = i64::MAX as u64;

impl Default for LogSettings {
    fn default() -> LogSettings {
        LogSettings {
            segment_bytes: 1 << 30,
            segment_ms: 7 * 24 * 3_600_000,
            segment_jitter_ms: 0,
            retention_ms: 7 * 24 * 3_600_000,
            retention_bytes: -1,
            index_interval_bytes: 4096,
            segment_index_bytes: 10 << 20,
            file_delete_delay_ms: 60_000,
            flush_messages: FLUSH_UNSET,
            flush_ms: FLUSH_UNSET,
            flush_policy: FlushPolicy::Durable,
            preallocate: false,
            may_have_gaps: false,
            compaction: None,
        }
    }
}

/// When a log's written bytes count as durable, and when they are synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Durability {
    /// Durable once synced; each sync covers all that was written before it.
    Synced,
    /// Durable once written. Synced behind that, after so many records or milliseconds.
    Written { messages: u64, interval_ms: u64 },
}

impl LogSettings {
    /// The one place where durability comes from: a topic's own `flush.*` before the broker's policy.
    pub(super) fn durability(&self) -> Durability {
        let unset = self.flush_messages.min(self.flush_ms) >= FLUSH_UNSET;
        let synced = if unset {
            self.flush_policy == FlushPolicy::Durable
        } else {
            self.flush_messages <= 1 || self.flush_ms == 0
        };
        if synced {
            return Durability::Synced;
        }
        Durability::Written {
            messages: self.flush_messages,
            interval_ms: self.flush_ms,
        }
    }
}

/// Spawns a task on the log's own thread.
pub type Spawn = Rc<dyn Fn(LocalBoxFuture<'static, ()>)>;

/// What all logs of a shard share. Cheap to clone.
#[derive(Clone)]
pub struct LogContext {
    pub disk: Disk,
    pub spawn: Spawn,
    pub budget: TailBudget,
    pub writes: WriteLimits,
    /// Of the core that the log lives on.
    pub journal: Option<Journal>,
    /// `producer.id.expiration.ms`
    pub producer_id_expiration_ms: Rc<Cell<i64>>,
    #[cfg(feature = "simulation")]
    pub sabotage: Sabotage,
}

/// Faults that the crash tests plant to see that they are found.
#[cfg(feature = "simulation")]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Sabotage {
    #[default]
    None,
    /// `durable_end` moves with `written_end` although nothing was synced.
    AcknowledgeBeforeSync,
    /// Recovery believes any batch whose header fits.
    SkipChecksums,
    /// The journal uses its space again before the segments behind it are synced.
    RecycleBeforeSync,
    /// A sync of the journal promises what its entries continue, although the segment below is not synced.
    PromiseOverAHole,
    /// A start takes torn and stale frames of the journals for whole ones.
    TrustJournal,
    /// A start gives logs what the journals hold for others.
    MixTopics,
    /// A cleaned segment takes the place of others before it is on stable storage.
    SwapBeforeSync,
    /// To a cleaning what was aborted is as good as what was committed.
    CountAborted,
}

impl LogContext {
    pub fn new(disk: Disk, spawn: Spawn, budget: TailBudget) -> LogContext {
        LogContext {
            disk,
            spawn,
            budget,
            writes: WriteLimits::default(),
            journal: None,
            producer_id_expiration_ms: Rc::new(Cell::new(24 * 3_600_000)),
            #[cfg(feature = "simulation")]
            sabotage: Sabotage::None,
        }
    }

    /// A context on the glommio executor it is called on; spawns into the current task queue.
    pub fn on_this_thread(disk: Disk, budget: TailBudget) -> LogContext {
        let spawn: Spawn = Rc::new(|task| {
            glommio::spawn_local(task).detach();
        });
        LogContext::new(disk, spawn, budget)
    }

    pub(super) fn acknowledges_before_sync(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage == Sabotage::AcknowledgeBeforeSync;
        #[cfg(not(feature = "simulation"))]
        false
    }

    pub(super) fn promises_over_a_hole(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage == Sabotage::PromiseOverAHole;
        #[cfg(not(feature = "simulation"))]
        false
    }

    pub(super) fn syncs_before_swap(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage != Sabotage::SwapBeforeSync;
        #[cfg(not(feature = "simulation"))]
        true
    }

    pub(super) fn counts_aborted(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage == Sabotage::CountAborted;
        #[cfg(not(feature = "simulation"))]
        false
    }

    pub(super) fn trusts_journal(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage == Sabotage::TrustJournal;
        #[cfg(not(feature = "simulation"))]
        false
    }

    pub(super) fn skips_checksums(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.sabotage == Sabotage::SkipChecksums;
        #[cfg(not(feature = "simulation"))]
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Acks=all was once never synced, as Kafka's word for "not set" was taken for a setting.
    #[test]
    fn without_settings_of_its_own_a_log_is_synced() {
        let kafkas = LogSettings {
            flush_messages: i64::MAX as u64,
            flush_ms: i64::MAX as u64,
            ..LogSettings::default()
        };
        assert_eq!(kafkas.durability(), Durability::Synced);
        assert_eq!(LogSettings::default().durability(), Durability::Synced);
        let relaxed = LogSettings {
            flush_messages: 1000,
            ..kafkas.clone()
        };
        assert_ne!(relaxed.durability(), Durability::Synced);
        let each = LogSettings {
            flush_messages: 1,
            flush_policy: FlushPolicy::Os,
            ..kafkas
        };
        assert_eq!(each.durability(), Durability::Synced);
    }
}
