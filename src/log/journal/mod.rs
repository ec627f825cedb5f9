//! Owns a core's journal: the one place that the small appends of all the core's logs go into, in one write, before
//! their acknowledgements leave. Their segments are written behind it, so that the writes an acknowledgement waits for
//! do not grow with the partitions. It never decides which appends come here (`dispatch`), and never reads what it wrote:
//! `replay` does, at the next start, if there was no clean stop.
//!
//! It lies in zones, zeroed before they are used, so that a write changes no metadata of the file system. It grows by
//! files, each as large as all before it: a sync of a file that grows waits for the file system's own journal, and
//! acknowledgements with it. A zone is used again when all that lies in it is in synced segments. No block is written
//! twice in one use: a torn write harms nothing that was acknowledged.

mod dispatch;
mod frame;
mod pace;
pub mod replay;
mod zones;

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use bytes::Bytes;
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::FuturesUnordered;

use super::settings::{Durability, Spawn};
use super::{Log, LogError};
use crate::ids::Offset;
use crate::io::timer::Time;
use crate::io::{AppendBuffer, BLOCK, Disk, File, Mode};
use crate::limits;
use crate::stages::{self, Stage};
use frame::{ENTRY_HEADER_BYTES, FRAME_HEADER_BYTES, FileHeader, FrameBuilder};
use pace::Pace;
use zones::Zones;

pub(super) use dispatch::Journaling;
pub use frame::{JournalKey, JournaledRun};

/// Zeroes written at a time.
const ZEROES_BYTES: usize = 256 << 10;

/// Logs whose segments are brought up to date at the same time, when room runs out: the more at once, the longer the
/// journal's own writes and syncs take beside theirs.
const SETTLING_MAX: usize = 8;

/// Parts of the room by which it is told how many.
const ROOM_PARTS: usize = 8;

/// What a journal keeps to.
#[derive(Clone, Copy, Debug)]
pub struct JournalLimits {
    /// Bytes of one append that goes through the journal.
    pub append_bytes_max: usize,
    /// Bytes of one log that go through the journal at once.
    pub entry_bytes_max: usize,
    /// Bytes of one write.
    pub frame_bytes_max: usize,
    pub zone_bytes: u32,
    /// With few logs, and with however many.
    pub zones_few: usize,
    pub zones_max: usize,
    /// From `zones_few` on there is a zone for so many logs.
    pub logs_per_zone: usize,
    /// Appends by which it is told whether they come slower when writes are kept apart.
    pub pace_appends: u64,
}

impl Default for JournalLimits {
    fn default() -> JournalLimits {
        JournalLimits {
            append_bytes_max: limits::JOURNAL_APPEND_BYTES_MAX,
            entry_bytes_max: limits::JOURNAL_ENTRY_BYTES_MAX,
            frame_bytes_max: limits::JOURNAL_FRAME_BYTES_MAX,
            zone_bytes: limits::JOURNAL_ZONE_BYTES,
            zones_few: limits::JOURNAL_ZONES_FEW,
            zones_max: limits::JOURNAL_ZONES_MAX,
            logs_per_zone: limits::JOURNAL_LOGS_PER_ZONE,
            pace_appends: limits::JOURNAL_PACE_APPENDS,
        }
    }
}

impl JournalLimits {
    /// What is in the journal alone stays in the tail cache, and should leave room there.
    pub fn within(tail_cache_bytes: usize) -> JournalLimits {
        let limits = JournalLimits::default();
        let zones = tail_cache_bytes / 2 / limits.zone_bytes as usize;
        JournalLimits {
            zones_max: zones.clamp(limits.zones_few, limits.zones_max),
            ..limits
        }
    }

    /// To settle a log takes a write and a sync, whatever it has: many logs want more room.
    fn zones_for(&self, logs: usize) -> usize {
        let wanted = logs / self.logs_per_zone;
        wanted.max(self.zones_few).min(self.zones_max)
    }
}

/// The journal of one core. Clones are handles on the same one.
#[derive(Clone)]
pub struct Journal(Rc<Inner>);

struct Inner {
    disk: Disk,
    spawn: Spawn,
    time: Rc<dyn Time>,
    path: PathBuf,
    limits: JournalLimits,
    /// Zones are used again although segments still need them.
    #[cfg(feature = "simulation")]
    forgets: std::cell::Cell<bool>,
    state: RefCell<State>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// The journals of the last life may still be needed.
    NotBegun,
    /// It is made when it is first wanted: a broker that stores nothing needs none.
    Unmade,
    BeingMade,
    Ready,
    /// Could not be made, has failed, or was stopped: all logs go their own way.
    Off,
}

struct State {
    condition: Condition,
    files: Vec<File>,
    /// Numbers of the files that were written since their last sync.
    written: BTreeSet<usize>,
    zones: Zones,
    zones_max: usize,
    /// Logs with something to write.
    queue: VecDeque<Weak<Log>>,
    writing: bool,
    pace: Pace,
    /// The writer waits for more to write.
    waiting: Option<Waker>,
    syncing: bool,
    /// A log waits for a sync.
    sync_wanted: bool,
    /// Logs with entries that are written and not synced.
    unsynced: Vec<Weak<Log>>,
    growing: bool,
    settling: bool,
}

/// One frame, and what it holds of whom.
struct Gathered {
    bytes: Bytes,
    file: usize,
    position: u64,
    runs: Vec<(Rc<Log>, Offset)>,
}

impl Journal {
    /// The journal whose first file has this name. `generation` is a random number, told by every frame.
    pub fn new(
        disk: Disk,
        spawn: Spawn,
        time: Rc<dyn Time>,
        path: PathBuf,
        generation: u64,
        limits: JournalLimits,
    ) -> Journal {
        let least = FRAME_HEADER_BYTES + ENTRY_HEADER_BYTES + limits.entry_bytes_max;
        assert!(least <= limits.frame_bytes_max && limits.frame_bytes_max.is_multiple_of(BLOCK));
        assert!(limits.frame_bytes_max <= limits.zone_bytes as usize);
        assert!((limits.zone_bytes as usize).is_multiple_of(BLOCK));
        Journal(Rc::new(Inner {
            disk,
            spawn,
            time,
            path,
            limits,
            #[cfg(feature = "simulation")]
            forgets: std::cell::Cell::new(false),
            state: RefCell::new(State {
                condition: Condition::NotBegun,
                files: Vec::new(),
                written: BTreeSet::new(),
                zones: Zones::new(generation, limits.zone_bytes),
                zones_max: limits.zones_max,
                queue: VecDeque::new(),
                writing: false,
                pace: Pace::new(limits.pace_appends),
                waiting: None,
                syncing: false,
                sync_wanted: false,
                unsynced: Vec::new(),
                growing: false,
                settling: false,
            }),
        }))
    }

    /// From now on zones are used again too early, which the crash tests must find out.
    #[cfg(feature = "simulation")]
    pub fn forget_too_early(&self) {
        self.0.forgets.set(true);
    }

    fn forgets(&self) -> bool {
        #[cfg(feature = "simulation")]
        return self.0.forgets.get();
        #[cfg(not(feature = "simulation"))]
        false
    }

    /// The journals of the last life are removed: from now on it is made when it is first wanted.
    pub fn begin(&self) {
        let mut state = self.0.state.borrow_mut();
        if state.condition == Condition::NotBegun {
            state.condition = Condition::Unmade;
        }
    }

    /// From now on nothing goes through it, and no file of it comes to be. What is in it stays.
    pub fn stop(&self) {
        self.0.state.borrow_mut().condition = Condition::Off;
    }

    /// Whether appends may come; being asked first makes it.
    fn is_ready(&self) -> bool {
        let condition = self.0.state.borrow().condition;
        if condition == Condition::Unmade {
            self.0.state.borrow_mut().condition = Condition::BeingMade;
            let journal = self.clone();
            (self.0.spawn)(Box::pin(async move { journal.make().await }));
        }
        condition == Condition::Ready
    }

    /// Writes what `log` has not sent yet, with what the other logs of this turn have.
    fn enqueue(&self, log: &Rc<Log>) {
        {
            let state = &mut *self.0.state.borrow_mut();
            state.queue.push_back(Rc::downgrade(log));
            if std::mem::replace(&mut state.writing, true) {
                return;
            }
        }
        let journal = self.clone();
        (self.0.spawn)(Box::pin(async move { journal.write_queued().await }));
    }

    /// So many bytes wait for the next frame, in a log that is in the queue.
    fn note_append(&self, bytes: usize) {
        let state = &mut *self.0.state.borrow_mut();
        if state.pace.on_append(bytes)
            && let Some(writer) = state.waiting.take()
        {
            writer.wake();
        }
    }

    async fn write_queued(&self) {
        loop {
            // What else comes in this turn goes along.
            yield_once().await;
            self.keep_pace().await;
            let Some(gathered) = self.gather() else {
                return;
            };
            let file = self.0.state.borrow().files[gathered.file].clone();
            let began = stages::begin();
            let written = file.write_at(vec![gathered.bytes], gathered.position).await;
            stages::end(Stage::Journal, began);
            if let Err(error) = written {
                let lost = gathered.runs.into_iter().map(|(log, _)| log).collect();
                return self.fail("writing the journal", &error, lost);
            }
            if self.0.state.borrow().condition != Condition::Ready {
                // It failed meanwhile, and will not be synced any more.
                return gathered.runs.iter().for_each(|(log, _)| log.go_straight());
            }
            self.on_written(gathered.file, gathered.runs);
        }
    }

    /// Waits for more to write, if that is worth it.
    async fn keep_pace(&self) {
        let wait = {
            let state = &mut *self.0.state.borrow_mut();
            let wants = state.first_bytes().is_some();
            wants
                .then(|| state.pace.wait(self.0.time.passed()))
                .flatten()
        };
        let Some(wait) = wait else {
            return;
        };
        let mut sleep = self.0.time.sleep(wait);
        poll_fn(|context| {
            let state = &mut *self.0.state.borrow_mut();
            if state.pace.is_enough() || sleep.as_mut().poll(context).is_ready() {
                return Poll::Ready(());
            }
            state.waiting = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        self.0.state.borrow_mut().waiting = None;
    }

    /// The next frame. None: nothing waits any more, or nothing may be written; `writing` is over.
    fn gather(&self) -> Option<Gathered> {
        let (gathered, refused) = {
            let state = &mut *self.0.state.borrow_mut();
            let (gathered, refused) = state.gather(&self.0.limits);
            state.writing = gathered.is_some();
            match gathered {
                Some(_) => {
                    let is_all = state.queue.is_empty();
                    state.pace.on_frame(self.0.time.passed(), is_all);
                }
                None => state.pace.on_none(),
            }
            (gathered, refused)
        };
        for log in &refused {
            log.go_straight();
        }
        self.keep_room(!refused.is_empty());
        gathered
    }

    fn on_written(&self, file: usize, runs: Vec<(Rc<Log>, Offset)>) {
        {
            let state = &mut *self.0.state.borrow_mut();
            state.written.insert(file);
            for (log, upto) in &runs {
                if log.note_journaled(*upto) {
                    state.unsynced.push(Rc::downgrade(log));
                }
                state.sync_wanted |= log.settings().durability() == Durability::Synced;
            }
        }
        self.kick_syncer();
        for (log, upto) in runs {
            log.on_journaled(upto);
        }
    }

    fn kick_syncer(&self) {
        {
            let state = &mut *self.0.state.borrow_mut();
            if !state.sync_wanted || std::mem::replace(&mut state.syncing, true) {
                return;
            }
        }
        let journal = self.clone();
        (self.0.spawn)(Box::pin(async move { journal.sync_while_wanted().await }));
    }

    /// The one place that syncs files that are written to: of two syncs at once only one is told of an error.
    async fn sync_while_wanted(&self) {
        loop {
            let (files, waiting) = {
                let state = &mut *self.0.state.borrow_mut();
                if !std::mem::take(&mut state.sync_wanted) || state.files.is_empty() {
                    state.syncing = false;
                    return;
                }
                let waiting = std::mem::take(&mut state.unsynced);
                let waiting = waiting.iter().filter_map(Weak::upgrade);
                let waiting: Vec<_> = waiting.map(|log| (log.unlist_journaled(), log)).collect();
                let written = std::mem::take(&mut state.written);
                let files = written.iter().map(|number| state.files[*number].clone());
                (files.collect::<Vec<_>>(), waiting)
            };
            let began = stages::begin();
            // Two, when one was full.
            let synced = try_join_all(files.iter().map(File::sync_data)).await;
            stages::end(Stage::Sync, began);
            if let Err(error) = synced {
                let mut lost: Vec<_> = waiting.into_iter().map(|(_, log)| log).collect();
                let written = std::mem::take(&mut self.0.state.borrow_mut().unsynced);
                lost.extend(written.iter().filter_map(Weak::upgrade));
                return self.fail("syncing the journal", &error, lost);
            }
            for (upto, log) in waiting {
                log.on_journal_synced(upto);
            }
        }
    }

    /// Nothing is tried again: the `lost` logs, of which nobody knows what the device has, go offline; all others go
    /// their own way from now on.
    fn fail(&self, what: &str, error: &io::Error, lost: Vec<Rc<Log>>) {
        let others = {
            let state = &mut *self.0.state.borrow_mut();
            state.condition = Condition::Off;
            state.files.clear();
            state.written.clear();
            state.writing = false;
            let unsynced = std::mem::take(&mut state.unsynced);
            let mut others: Vec<_> = unsynced.iter().filter_map(Weak::upgrade).collect();
            others.extend(state.take_queue());
            others
        };
        tracing::error!(path = %self.0.path.display(), %error, "{what} failed: from now on every log is synced by itself");
        let failure = LogError::storage(what, error);
        for log in lost {
            log.go_offline(failure.clone());
        }
        for log in others {
            log.go_straight();
        }
    }

    /// Adds zones before the last is full, and frees zones before all are used.
    fn keep_room(&self, is_full: bool) {
        let (grow, settle) = {
            let state = &mut *self.0.state.borrow_mut();
            let ready = state.condition == Condition::Ready;
            let zones_max = self.0.limits.zones_for(state.zones.log_count());
            let may_grow = state.zones.count() < zones_max.min(state.zones_max);
            let grow = ready && may_grow && state.zones.runs_short() && !state.growing;
            let many = state.zones.live_count() > zones_max.div_ceil(2);
            let settle = ready && (many || is_full) && !state.settling;
            state.growing |= grow;
            state.settling |= settle;
            (grow, settle)
        };
        if grow {
            let journal = self.clone();
            (self.0.spawn)(Box::pin(async move { journal.grow().await }));
        }
        if settle {
            let journal = self.clone();
            (self.0.spawn)(Box::pin(async move { journal.settle().await }));
        }
    }

    /// Has the logs' segments written and synced up to what the journal has of them, and frees the zones filled so far.
    /// The first takes the time: whatever a log has is settled with it.
    async fn settle(&self) {
        let below = self.0.state.borrow().zones.current_sequence();
        // Those that logs keep which have failed: for the next start.
        let mut kept = 0;
        while let Some(keepers) = self.keepers(kept, below) {
            let mut settling = FuturesUnordered::new();
            for log in keepers {
                while settling.len() >= self.settling_max() {
                    settling.next().await;
                }
                settling.push(async move {
                    let _told = log.flush().await;
                });
            }
            settling.collect::<()>().await;
            yield_once().await;
            let state = &mut *self.0.state.borrow_mut();
            if !state.zones.recycle(kept, self.forgets()) {
                kept += 1;
            }
        }
        self.0.state.borrow_mut().settling = false;
    }

    fn keepers(&self, live: usize, below: Option<u64>) -> Option<Vec<Rc<Log>>> {
        let keepers = self.0.state.borrow().zones.keepers(live, below?)?;
        Some(if self.forgets() { Vec::new() } else { keepers })
    }

    /// One log at a time, as long as there is room.
    fn settling_max(&self) -> usize {
        let state = self.0.state.borrow();
        let parts_free = ROOM_PARTS * state.zones.free_count() / state.zones.count().max(1);
        (SETTLING_MAX >> parts_free).max(1)
    }

    async fn make(&self) {
        let made = self.add_file(1).await;
        let state = &mut *self.0.state.borrow_mut();
        if state.condition == Condition::BeingMade {
            state.condition = match made {
                Ok(()) => Condition::Ready,
                Err(error) => {
                    tracing::warn!(path = %self.0.path.display(), %error, "there will be no journal: every log is synced by itself");
                    Condition::Off
                }
            };
        }
    }

    async fn grow(&self) {
        let count = {
            let state = self.0.state.borrow();
            let count = state.zones.count();
            count.min(state.zones_max - count)
        };
        let added = self.add_file(count).await;
        let state = &mut *self.0.state.borrow_mut();
        if let Err(error) = added {
            tracing::warn!(path = %self.0.path.display(), %error, "the journal does not grow any more");
            state.zones_max = state.zones.count();
        }
        state.growing = false;
    }

    /// Adds a file of so many zones once all of it and its name are on stable storage.
    async fn add_file(&self, zones: usize) -> io::Result<()> {
        let (number, generation) = self.0.state.borrow().zones.next_file();
        let path = replay::file_of(&self.0.path, number);
        let made = self.make_file(&path, generation, zones).await;
        if let Ok(file) = &made {
            let state = &mut *self.0.state.borrow_mut();
            if state.condition != Condition::Off {
                state.files.push(file.clone());
                state.zones.add_file(zones);
                return Ok(());
            }
        }
        // It takes space that others may need, and says nothing.
        let _there_is_none = self.0.disk.remove(&path).await;
        made.map(drop)
    }

    async fn make_file(&self, path: &Path, generation: u64, zones: usize) -> io::Result<File> {
        let file = self.0.disk.open(path, Mode::Create).await?;
        let zone_bytes = self.0.limits.zone_bytes;
        let header = FileHeader {
            generation,
            zone_bytes,
        };
        let block = header.encode();
        file.write_at(vec![block.slice(0..BLOCK)], 0).await?;
        self.zero(&file, zones as u64 * u64::from(zone_bytes))
            .await?;
        file.sync_data().await?;
        let folder = path.parent().expect("a journal lies in a data folder");
        self.0.disk.sync_dir(folder).await?;
        Ok(file)
    }

    /// Writes `length` zeroes behind the file's header.
    async fn zero(&self, file: &File, length: u64) -> io::Result<()> {
        let start = BLOCK as u64;
        match file.allocate(start, length).await {
            Err(error) if error.kind() != io::ErrorKind::Unsupported => return Err(error),
            _ => {}
        }
        let piece = ZEROES_BYTES.min(length as usize);
        let mut zeroes = AppendBuffer::with_capacity(piece);
        zeroes.append(&vec![0; piece]);
        let mut done = 0;
        while done < length {
            let next = piece.min((length - done) as usize);
            file.write_at(vec![zeroes.slice(0..next)], start + done)
                .await?;
            done += next as u64;
        }
        Ok(())
    }
}

impl State {
    /// Also the logs for which there is no room.
    fn gather(&mut self, limits: &JournalLimits) -> (Option<Gathered>, Vec<Rc<Log>>) {
        let Some(first) = self.first_bytes() else {
            return (None, Vec::new());
        };
        let room = match self.condition {
            Condition::Ready => self.zones.room_for(FRAME_HEADER_BYTES + first),
            _ => None,
        };
        let Some(room) = room else {
            return (None, self.take_queue());
        };
        let room = room.min(limits.frame_bytes_max);
        let (mut chosen, mut refused) = (Vec::new(), Vec::new());
        let mut length = FRAME_HEADER_BYTES;
        while let Some(first) = self.first_bytes()
            && length + first <= room
        {
            let log = self.next_queued().expect("just seen");
            match log.holds_unsent() {
                true => {
                    length += first;
                    chosen.push(log);
                }
                false => refused.push(log),
            }
        }
        if chosen.is_empty() {
            refused.extend(self.take_queue());
            return (None, refused);
        }
        let mut builder = FrameBuilder::new(length);
        let mut runs = Vec::new();
        for log in chosen {
            let upto = log.send_into(&mut builder);
            runs.push((log, upto));
        }
        let (file, place) = self.zones.place(length);
        for (log, upto) in &runs {
            self.zones.hold(log, *upto);
        }
        let gathered = Gathered {
            bytes: builder.finish(place),
            file,
            position: place.position,
            runs,
        };
        (Some(gathered), refused)
    }

    /// What the entry of the first log that has something takes; those that have nothing any more leave.
    fn first_bytes(&mut self) -> Option<usize> {
        loop {
            let first = self.queue.front()?.upgrade();
            let unsent = first.map_or(0, |log| log.unsent_bytes());
            if unsent > 0 {
                return Some(ENTRY_HEADER_BYTES + unsent);
            }
            self.next_queued();
        }
    }

    fn next_queued(&mut self) -> Option<Rc<Log>> {
        let log = self.queue.pop_front()?.upgrade();
        log.inspect(|log| log.leave_queue())
    }

    fn take_queue(&mut self) -> Vec<Rc<Log>> {
        let queue = std::mem::take(&mut self.queue);
        let logs: Vec<_> = queue.iter().filter_map(Weak::upgrade).collect();
        logs.iter().for_each(|log| log.leave_queue());
        logs
    }
}

/// Lets all run that is ready now.
async fn yield_once() {
    let mut yielded = false;
    poll_fn(|context| {
        if std::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
