//! Owns the log's side of its core's journal: which way appended batches take to their acknowledgement, and what an entry
//! in the journal is worth. The two ways never overtake each other: nothing goes into the journal before what is below it
//! is written in the segment, and a sync of the journal promises nothing above what the segment has not synced yet.

use std::rc::Rc;

use super::Journal;
use super::frame::{FrameBuilder, JournalKey};
use super::zones::Slot;
use crate::ids::Offset;
use crate::log::settings::Durability;
use crate::log::{Log, LogEvent, State};

/// How one log stands with the journal.
pub(in crate::log) struct Journaling {
    /// None: this log never uses it.
    key: Option<JournalKey>,
    queued: bool,
    /// All below has been given to the journal, or goes straight into its segment.
    sent_end: Offset,
    /// Bytes of batches from there on.
    unsent_bytes: usize,
    /// Behind the last entry that is written, and the last that is synced.
    written: Offset,
    synced: Offset,
    /// Among those whose entries wait for the next sync.
    listed: bool,
    slot: Slot,
}

impl Journaling {
    pub(in crate::log) fn new(end: Offset) -> Journaling {
        Journaling {
            key: None,
            queued: false,
            sent_end: end,
            unsent_bytes: 0,
            written: end,
            synced: end,
            listed: false,
            slot: None,
        }
    }
}

enum Way {
    Journal,
    /// The journal, once what went straight before is written.
    JournalLater,
    Segment,
}

impl Log {
    /// From now on small appends go through the core's journal, if it has one, under this name.
    pub fn use_journal(&self, key: JournalKey) {
        self.state.borrow_mut().journaling.key = Some(key);
    }

    /// Sends off `bytes` that were just appended. Where durability comes from is decided here and nowhere else.
    pub(in crate::log) fn send_off(self: &Rc<Self>, bytes: usize) {
        self.state.borrow_mut().journaling.unsent_bytes += bytes;
        match self.choose_way(bytes) {
            Way::Segment => self.go_straight(),
            Way::JournalLater => self.begin_writes(),
            Way::Journal => {
                self.join_queue(bytes);
                self.begin_writes();
            }
        }
    }

    /// Has so many more bytes to send.
    fn join_queue(self: &Rc<Self>, bytes: usize) {
        let is_queued = std::mem::replace(&mut self.state.borrow_mut().journaling.queued, true);
        if let Some(journal) = &self.context.journal {
            journal.note_append(bytes);
            if !is_queued {
                journal.enqueue(self);
            }
        }
    }

    /// What waited until all below was written is sent off.
    pub(in crate::log) fn send_waiting(self: &Rc<Self>) {
        let unsent = self.unsent_bytes();
        if unsent == 0 || self.state.borrow().journaling.queued {
            return;
        }
        match self.context.journal.as_ref().is_some_and(Journal::is_ready) {
            true => self.join_queue(unsent),
            false => self.go_straight(),
        }
    }

    fn choose_way(&self, bytes: usize) -> Way {
        let Some(journal) = &self.context.journal else {
            return Way::Segment;
        };
        let (is_small, is_free) = {
            let state = self.state.borrow();
            let journaling = &state.journaling;
            let is_small = journaling.key.is_some()
                && bytes <= journal.0.limits.append_bytes_max
                && journaling.unsent_bytes <= journal.0.limits.entry_bytes_max;
            (is_small, state.is_free_for_journal())
        };
        match (is_small && journal.is_ready(), is_free) {
            (false, _) => Way::Segment,
            (true, false) => Way::JournalLater,
            (true, true) => Way::Journal,
        }
    }

    /// What has not been sent yet goes into the segment, whose writing and syncing is what its acknowledgements wait for.
    pub(super) fn go_straight(self: &Rc<Self>) {
        {
            let state = &mut *self.state.borrow_mut();
            state.journaling.sent_end = state.end;
            state.journaling.unsent_bytes = 0;
            state.straight_end = state.end;
            state.store_target = state.end;
        }
        self.begin_writes();
        // It may have been written behind already, and only be synced yet.
        self.kick_syncer();
    }

    /// Bytes that may go into the journal now.
    pub(super) fn unsent_bytes(&self) -> usize {
        let state = self.state.borrow();
        match self.failure.borrow().is_none() && state.is_free_for_journal() {
            true => state.journaling.unsent_bytes,
            false => 0,
        }
    }

    /// The journal's queue has it no longer. It has it once at most.
    pub(super) fn leave_queue(&self) {
        self.state.borrow_mut().journaling.queued = false;
    }

    /// Whether all that is to be sent is in memory: what has been written behind meanwhile may be gone.
    pub(super) fn holds_unsent(&self) -> bool {
        let state = self.state.borrow();
        let from = state.journaling.sent_end;
        state.tail.find(from).is_some_and(|(chunk, batch)| {
            let chunk = state.tail.chunk(chunk).expect("just found");
            chunk.batches[batch].base_offset == from
        })
    }

    /// Puts what has not been sent into a frame; answers the offset behind it.
    pub(super) fn send_into(&self, frame: &mut FrameBuilder) -> Offset {
        let state = &mut *self.state.borrow_mut();
        let (from, to) = (state.journaling.sent_end, state.end);
        let length = std::mem::take(&mut state.journaling.unsent_bytes);
        let key = state.journaling.key.expect("it uses the journal");
        frame.entry(key, from..to, state.start, length);
        let mut copied = 0;
        let (mut index, mut batch) = state.tail.find(from).expect("it holds what is unsent");
        while let Some(chunk) = state.tail.chunk(index) {
            let bytes = chunk.bytes_from(batch);
            frame.append(bytes);
            copied += bytes.len();
            (index, batch) = (index + 1, 0);
        }
        assert_eq!(copied, length, "an entry has what was counted");
        state.journaling.sent_end = to;
        to
    }

    pub(super) fn journal_slot(&self) -> Slot {
        self.state.borrow().journaling.slot
    }

    pub(super) fn set_journal_slot(&self, slot: Slot) {
        self.state.borrow_mut().journaling.slot = slot;
    }

    /// An entry up to here is written. True if the log is to be told of the next sync, and did not wait for it before.
    pub(super) fn note_journaled(&self, upto: Offset) -> bool {
        let journaling = &mut self.state.borrow_mut().journaling;
        journaling.written = upto;
        !std::mem::replace(&mut journaling.listed, true)
    }

    /// How far the sync that begins now reaches.
    pub(super) fn unlist_journaled(&self) -> Offset {
        let journaling = &mut self.state.borrow_mut().journaling;
        journaling.listed = false;
        journaling.written
    }

    /// The device has taken an entry up to here; whatever is below was sent before it.
    pub(super) fn on_journaled(self: &Rc<Self>, upto: Offset) {
        if self.failure.borrow().is_some() {
            return;
        }
        let counts_as_durable = self.settings().durability() != Durability::Synced
            || self.context.acknowledges_before_sync();
        self.advance_promises(upto, if counts_as_durable { upto } else { Offset(0) });
        self.flush_by_count();
    }

    /// `flush.messages` counts what only the journal has as well.
    fn flush_by_count(self: &Rc<Self>) {
        let Durability::Written { messages, .. } = self.settings().durability() else {
            return;
        };
        let is_due = {
            let state = &mut *self.state.borrow_mut();
            let unsynced = (state.written_end.0 - state.synced_end.0) as u64;
            let is_due = unsynced >= messages;
            if is_due {
                state.flush_target = state.written_end;
            }
            is_due
        };
        if is_due {
            self.store_now();
            self.kick_syncer();
        }
    }

    pub(super) fn on_journal_synced(&self, upto: Offset) {
        if self.failure.borrow().is_none() {
            self.state.borrow_mut().journaling.synced = upto;
            self.promise_synced();
        }
    }

    /// Promises what is on stable storage without a hole, in the segments or above them in the journal.
    pub(in crate::log) fn promise_synced(&self) {
        let durable = {
            let state = self.state.borrow();
            let straight_synced = state.synced_end.max(state.durable_end) >= state.straight_end;
            match straight_synced || self.context.promises_over_a_hole() {
                true => state.synced_end.max(state.journaling.synced),
                false => state.synced_end,
            }
        };
        self.advance_promises(Offset(0), durable);
    }

    /// Moves the ends that are promised up to these, if they are below, and tells.
    pub(in crate::log) fn advance_promises(&self, written: Offset, durable: Offset) {
        let (more_written, more_durable) = {
            let state = &mut *self.state.borrow_mut();
            let more = (state.written_end < written, state.durable_end < durable);
            state.written_end = state.written_end.max(written);
            state.durable_end = state.durable_end.max(durable);
            assert!(state.durable_end <= state.written_end && state.written_end <= state.end);
            more
        };
        if more_written || more_durable {
            self.wake_waiters();
        }
        if more_written {
            self.notify(LogEvent::Written);
        }
        if more_durable {
            self.notify(LogEvent::Durable);
        }
    }

    /// Whether the journal may forget what it has of this log below an offset.
    pub(super) fn is_stored_below(&self, offset: Offset) -> bool {
        self.deleted.get() || self.state.borrow().synced_end >= offset
    }

    /// Has the segments written up to what is appended now, without waiting for more or for time to pass.
    pub(in crate::log) fn store_now(self: &Rc<Self>) {
        {
            let state = &mut *self.state.borrow_mut();
            state.store_target = state.end;
        }
        self.begin_writes();
    }
}

impl State {
    /// All that went straight into the segments is written there.
    fn is_free_for_journal(&self) -> bool {
        self.written_end >= self.straight_end
    }

    /// A sync of the segments is what acknowledgements wait for.
    pub(in crate::log) fn awaits_sync(&self) -> bool {
        self.durable_end < self.straight_end
    }
}
