//! Owns the simulated disk: a file system in memory where a power cut keeps any subset of unsynced
//! 512-byte sectors, any prefix of a file's unsynced lengths and of a folder's unsynced names; where
//! kill -9 keeps what completed; and where operations complete in an order a seed decides, or fail
//! where the test says so. Feature "simulation" only. It never reads a clock.

mod executor;
mod inode;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::ids::TimestampMs;

use super::disk::Entry;
use super::entropy::Random;
use super::file::Mode;
pub use executor::Executor;
use inode::Inode;

/// A simulated disk; clones are handles on the same one.
#[derive(Clone)]
pub struct SimulatedDisk(Rc<RefCell<State>>);

struct State {
    random: Random,
    inodes: Vec<Inode>,
    folders: Vec<Folder>,
    pending: BTreeMap<u64, Pending>,
    done: BTreeMap<u64, io::Result<Bytes>>,
    next_operation: u64,
    /// Counts crashes: operations of before one never complete after it.
    generation: u64,
    /// Error number, and how many more operations succeed before it strikes (once).
    fault: Option<(u64, i32)>,
    failed_sync: bool,
}

/// Names as the running system sees them, as stable storage has them, and the way between.
#[derive(Default)]
struct Folder {
    names: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
    changes: Vec<NameChange>,
    /// Changes ever made durable or dropped, so that a sync can say how far it reaches.
    settled: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Node {
    File(usize),
    Folder(usize),
}

enum NameChange {
    Put(String, Node),
    Rename(String, String),
    Remove(String),
}

struct Pending {
    work: Work,
    waker: Option<Waker>,
}

enum Work {
    Write {
        inode: usize,
        position: u64,
        bytes: Vec<u8>,
    },
    Read {
        inode: usize,
        position: u64,
        length: usize,
    },
    Sync {
        inode: usize,
        upto: usize,
    },
    SyncFolder {
        folder: usize,
        upto: usize,
    },
    SetLength {
        inode: usize,
        length: u64,
    },
    Allocate {
        inode: usize,
        end: u64,
    },
}

/// One open file of a simulated disk.
#[derive(Clone)]
pub struct SimulatedFile {
    disk: SimulatedDisk,
    inode: usize,
}

impl SimulatedDisk {
    /// An empty disk. Equal seeds and equal calls give equal behaviour.
    pub fn new(seed: u64) -> SimulatedDisk {
        SimulatedDisk(Rc::new(RefCell::new(State {
            random: Random::new(seed),
            inodes: Vec::new(),
            folders: vec![Folder::default()],
            pending: BTreeMap::new(),
            done: BTreeMap::new(),
            next_operation: 0,
            generation: 0,
            fault: None,
            failed_sync: false,
        })))
    }

    /// The operation after the next `after` that change anything fails with `error_number`.
    pub fn fail_after(&self, after: u64, error_number: i32) {
        self.0.borrow_mut().fault = Some((after, error_number));
    }

    /// Whether a sync failed since this was asked before: what had been written may be lost then.
    pub fn has_failed_sync(&self) -> bool {
        self.0.borrow().failed_sync
    }

    /// As `has_failed_sync`, and forgets it.
    pub fn take_failed_sync(&self) -> bool {
        std::mem::take(&mut self.0.borrow_mut().failed_sync)
    }

    /// Operations begun and not completed.
    pub fn pending(&self) -> usize {
        self.0.borrow().pending.len()
    }

    /// Completes one pending operation, chosen by the seed; false if there is none.
    pub fn complete_one(&self) -> bool {
        let waker = {
            let mut state = self.0.borrow_mut();
            let count = state.pending.len() as u64;
            if count == 0 {
                return false;
            }
            let choice = state.random.below(count) as usize;
            let id = *state.pending.keys().nth(choice).expect("below the count");
            let Pending { work, waker } = state.pending.remove(&id).expect("just seen");
            let result = state.perform(work);
            state.done.insert(id, result);
            waker
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// kill -9: completed operations stay, those in flight may have happened in part. Futures of
    /// before never complete.
    pub fn kill(&self) {
        self.0.borrow_mut().abandon_pending();
    }

    /// The power fails: of what was not synced, anything may survive.
    pub fn power_cut(&self) {
        let state = &mut *self.0.borrow_mut();
        state.abandon_pending();
        for inode in &mut state.inodes {
            inode.power_cut(&mut state.random);
        }
        for folder in &mut state.folders {
            let kept = prefix(&mut state.random, folder.changes.len());
            folder.settle(kept);
            folder.settled += folder.changes.len();
            folder.changes.clear();
            folder.names = folder.durable.clone();
        }
    }

    pub(super) fn open(&self, path: &Path, mode: Mode) -> io::Result<SimulatedFile> {
        let mut state = self.0.borrow_mut();
        let (folder, name) = state.parent(path)?;
        let inode = match state.folders[folder].names.get(&name) {
            Some(Node::File(inode)) => *inode,
            Some(Node::Folder(_)) => return Err(io::ErrorKind::IsADirectory.into()),
            None if mode == Mode::Create => {
                state.strike()?;
                state.create(folder, name)
            }
            None => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(SimulatedFile {
            disk: self.clone(),
            inode,
        })
    }

    pub(super) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let mut current = 0;
        for name in names_of(path)? {
            current = match state.folders[current].names.get(&name) {
                Some(Node::Folder(folder)) => *folder,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => {
                    state.strike()?;
                    state.folders.push(Folder::default());
                    let folder = state.folders.len() - 1;
                    state.folders[current].change(NameChange::Put(name, Node::Folder(folder)));
                    folder
                }
            };
        }
        Ok(())
    }

    /// Within one folder only, as all renames of ours are.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (folder, old) = state.parent(from)?;
        let (target, new) = state.parent(to)?;
        assert_eq!(folder, target, "renames stay in their folder");
        if !state.folders[folder].names.contains_key(&old) {
            return Err(io::ErrorKind::NotFound.into());
        }
        state.strike()?;
        state.folders[folder].change(NameChange::Rename(old, new));
        Ok(())
    }

    pub(super) fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.0.borrow_mut();
        let (folder, name) = state.parent(path)?;
        match state.folders[folder].names.get(&name) {
            None => return Err(io::ErrorKind::NotFound.into()),
            Some(Node::Folder(inner)) if !state.folders[*inner].names.is_empty() => {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            Some(_) => {}
        }
        state.strike()?;
        state.folders[folder].change(NameChange::Remove(name));
        Ok(())
    }

    pub(super) fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let state = self.0.borrow();
        let folder = state.folder(path)?;
        let entries = state.folders[folder].names.iter().map(|(name, node)| {
            let (length, is_dir) = match node {
                Node::File(inode) => (state.inodes[*inode].len(), false),
                Node::Folder(_) => (0, true),
            };
            Entry {
                name: name.clone(),
                length,
                is_dir,
                modified_ms: TimestampMs::MAX, // Without a clock, nothing ages.
            }
        });
        Ok(entries.collect())
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        let state = self.0.borrow();
        state
            .parent(path)
            .is_ok_and(|(folder, name)| state.folders[folder].names.contains_key(&name))
    }

    pub(super) async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let work = {
            let state = self.0.borrow();
            let folder = state.folder(path)?;
            let upto = state.folders[folder].settled + state.folders[folder].changes.len();
            Work::SyncFolder { folder, upto }
        };
        self.begin(work).await.map(drop)
    }

    pub(super) fn read_file(&self, path: &Path) -> io::Result<Bytes> {
        let file = self.open(path, Mode::Read)?;
        let state = self.0.borrow();
        let inode = &state.inodes[file.inode];
        Ok(inode.read(0, inode.len() as usize))
    }

    pub(super) fn write_file(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.open(path, Mode::Create)?;
        let mut state = self.0.borrow_mut();
        state.strike()?;
        let inode = &mut state.inodes[file.inode];
        inode.set_length(0);
        inode.write(0, bytes.to_vec());
        Ok(())
    }

    fn begin(&self, work: Work) -> Operation {
        let mut state = self.0.borrow_mut();
        let id = state.next_operation;
        state.next_operation += 1;
        state.pending.insert(id, Pending { work, waker: None });
        Operation {
            disk: self.clone(),
            id,
            generation: state.generation,
        }
    }
}

impl SimulatedFile {
    pub(super) async fn write_at(&self, parts: Vec<Bytes>, position: u64) -> io::Result<()> {
        let work = Work::Write {
            inode: self.inode,
            position,
            bytes: parts.concat(),
        };
        self.disk.begin(work).await.map(drop)
    }

    pub(super) async fn read_at(&self, position: u64, length: usize) -> io::Result<Bytes> {
        let work = Work::Read {
            inode: self.inode,
            position,
            length,
        };
        self.disk.begin(work).await
    }

    pub(super) async fn sync_data(&self) -> io::Result<()> {
        let upto = self.disk.0.borrow().inodes[self.inode].change_count();
        let work = Work::Sync {
            inode: self.inode,
            upto,
        };
        self.disk.begin(work).await.map(drop)
    }

    pub(super) async fn truncate(&self, length: u64) -> io::Result<()> {
        let work = Work::SetLength {
            inode: self.inode,
            length,
        };
        self.disk.begin(work).await.map(drop)
    }

    pub(super) async fn allocate(&self, from: u64, length: u64) -> io::Result<()> {
        let work = Work::Allocate {
            inode: self.inode,
            end: from + length,
        };
        self.disk.begin(work).await.map(drop)
    }

    pub(super) fn len(&self) -> u64 {
        self.disk.0.borrow().inodes[self.inode].len()
    }
}

impl State {
    fn perform(&mut self, work: Work) -> io::Result<Bytes> {
        if let Work::Read {
            inode,
            position,
            length,
        } = work
        {
            return Ok(self.inodes[inode].read(position, length));
        }
        if let Err(error) = self.strike() {
            self.perform_in_part(work);
            return Err(error);
        }
        match work {
            Work::Read { .. } => unreachable!("handled above"),
            Work::Write {
                inode,
                position,
                bytes,
            } => self.inodes[inode].write(position, bytes),
            Work::Sync { inode, upto } => self.inodes[inode].sync(upto),
            Work::SyncFolder { folder, upto } => self.folders[folder].sync(upto),
            Work::SetLength { inode, length } => self.inodes[inode].set_length(length),
            Work::Allocate { inode, end } => {
                let length = self.inodes[inode].len().max(end);
                self.inodes[inode].set_length(length);
            }
        }
        Ok(Bytes::new())
    }

    /// What an operation leaves that failed, or that a crash overtook.
    fn perform_in_part(&mut self, work: Work) {
        match work {
            Work::Read { .. } | Work::SyncFolder { .. } => {}
            Work::Write {
                inode,
                position,
                bytes,
            } => self.inodes[inode].write_in_part(position, &bytes, &mut self.random),
            Work::Sync { inode, upto } => {
                self.failed_sync = true;
                self.inodes[inode].sync_in_part(upto, &mut self.random);
            }
            Work::SetLength { inode, length } => {
                if self.random.chance(1, 2) {
                    self.inodes[inode].set_length(length);
                }
            }
            Work::Allocate { inode, end } => {
                if self.random.chance(1, 2) && end > self.inodes[inode].len() {
                    self.inodes[inode].set_length(end);
                }
            }
        }
    }

    fn abandon_pending(&mut self) {
        self.generation += 1;
        self.done.clear();
        self.fault = None;
        for (_, pending) in std::mem::take(&mut self.pending) {
            if !matches!(pending.work, Work::Sync { .. }) {
                self.perform_in_part(pending.work);
            }
        }
    }

    fn strike(&mut self) -> io::Result<()> {
        match &mut self.fault {
            None => Ok(()),
            Some((0, number)) => {
                let error = io::Error::from_raw_os_error(*number);
                self.fault = None;
                Err(error)
            }
            Some((after, _)) => {
                *after -= 1;
                Ok(())
            }
        }
    }

    fn create(&mut self, folder: usize, name: String) -> usize {
        self.inodes.push(Inode::default());
        let inode = self.inodes.len() - 1;
        self.folders[folder].change(NameChange::Put(name, Node::File(inode)));
        inode
    }

    fn folder(&self, path: &Path) -> io::Result<usize> {
        let mut current = 0;
        for name in names_of(path)? {
            current = match self.folders[current].names.get(&name) {
                Some(Node::Folder(folder)) => *folder,
                Some(Node::File(_)) => return Err(io::ErrorKind::NotADirectory.into()),
                None => return Err(io::ErrorKind::NotFound.into()),
            };
        }
        Ok(current)
    }

    fn parent(&self, path: &Path) -> io::Result<(usize, String)> {
        let folder = self.folder(path.parent().unwrap_or(Path::new("")))?;
        let name = names_of(path)?.pop().ok_or(io::ErrorKind::InvalidInput)?;
        Ok((folder, name))
    }
}

impl Folder {
    fn change(&mut self, change: NameChange) {
        apply(&mut self.names, &change);
        self.changes.push(change);
    }

    /// Makes the first `count` unsynced changes durable.
    fn settle(&mut self, count: usize) {
        for change in self.changes.drain(..count) {
            apply(&mut self.durable, &change);
        }
        self.settled += count;
    }

    fn sync(&mut self, upto: usize) {
        self.settle(upto.saturating_sub(self.settled));
    }
}

fn apply(names: &mut BTreeMap<String, Node>, change: &NameChange) {
    match change {
        NameChange::Put(name, node) => {
            names.insert(name.clone(), *node);
        }
        NameChange::Rename(from, to) => {
            let node = names.remove(from).expect("changes apply in order");
            names.insert(to.clone(), node);
        }
        NameChange::Remove(name) => {
            names.remove(name);
        }
    }
}

fn names_of(path: &Path) -> io::Result<Vec<String>> {
    path.components()
        .filter(|part| !matches!(part, std::path::Component::RootDir))
        .map(|part| match part {
            std::path::Component::Normal(name) => {
                Ok(name.to_str().ok_or(io::ErrorKind::InvalidInput)?.to_owned())
            }
            _ => Err(io::Error::from(io::ErrorKind::InvalidInput)),
        })
        .collect()
}

/// How many of `count` ordered changes a crash keeps: often none or all.
fn prefix(random: &mut Random, count: usize) -> usize {
    match random.below(4) {
        0 => 0,
        1 => count,
        _ => random.below(count as u64 + 1) as usize,
    }
}

struct Operation {
    disk: SimulatedDisk,
    id: u64,
    generation: u64,
}

impl Future for Operation {
    type Output = io::Result<Bytes>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.disk.0.borrow_mut();
        if state.generation != self.generation {
            return Poll::Pending; // Its process is dead.
        }
        if let Some(result) = state.done.remove(&self.id) {
            return Poll::Ready(result);
        }
        let pending = state.pending.get_mut(&self.id);
        pending.expect("pending or done").waker = Some(context.waker().clone());
        Poll::Pending
    }
}
