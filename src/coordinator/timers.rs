//! Owns what a coordinator waits for by time: ordered, cancellable, without a clock of its own.

use std::collections::BTreeMap;

use crate::protocol::Str;

/// What happens when its time comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A member has been silent for its session time-out.
    Session { group: Str, member: Str },
    /// The first members of an empty group have been waited for; so long it may still be.
    InitialJoin { group: Str, remaining_ms: i64 },
    /// The members of a group had the rebalance time-out to join.
    Join { group: Str },
    /// They had it once more to sync.
    Sync { group: Str },
    /// A member of a consumer group was waited for.
    Member {
        group: Str,
        member: Str,
        timer: MemberTimer,
    },
    /// The topics of a consumer group's patterns are to be looked up.
    Patterns { group: Str },
    /// Offsets that nobody needs any more are looked for.
    Retention,
}

/// What a member of a consumer group had time for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum MemberTimer {
    /// To show up.
    Session,
    /// To give up what it was told to at this epoch.
    Rebalance {
        epoch: i32,
    },
    /// A classic member: to join, to sync.
    Join,
    Sync,
}

impl Timer {
    /// Whose time it is; `None`: everybody's.
    pub fn group(&self) -> Option<&Str> {
        match self {
            Timer::Session { group, .. }
            | Timer::InitialJoin { group, .. }
            | Timer::Join { group }
            | Timer::Sync { group }
            | Timer::Member { group, .. }
            | Timer::Patterns { group } => Some(group),
            Timer::Retention => None,
        }
    }

    pub fn member(group: &Str, member: &Str, timer: MemberTimer) -> Timer {
        Timer::Member {
            group: group.clone(),
            member: member.clone(),
            timer,
        }
    }
}

/// When, and which of those of that moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerId {
    pub due_ms: i64,
    number: u64,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<TimerId, Timer>,
    next: u64,
}

impl Timers {
    pub fn schedule(&mut self, due_ms: i64, timer: Timer) -> TimerId {
        let id = TimerId {
            due_ms,
            number: self.next,
        };
        self.next += 1;
        self.queue.insert(id, timer);
        id
    }

    /// One that has fired, or never was, is cancelled already.
    pub fn cancel(&mut self, id: Option<TimerId>) {
        if let Some(id) = id {
            self.queue.remove(&id);
        }
    }

    pub fn next_due(&self) -> Option<i64> {
        Some(self.queue.first_key_value()?.0.due_ms)
    }

    /// The next that is due, in the order of time and of scheduling.
    pub fn pop_due(&mut self, now_ms: i64) -> Option<Timer> {
        let first = self.queue.first_entry()?;
        (first.key().due_ms <= now_ms).then(|| first.remove())
    }
}
