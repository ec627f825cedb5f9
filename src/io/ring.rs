//! Owns the io_uring of each thread, through which all of its I/O goes: operations on files, which sockets are
//! ready, time that passes, other threads that ring. Submissions of a turn go to the kernel together, and the same
//! system call brings back what is done, or sleeps until something is (`turn` says when). Never retries.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use io_uring::{IoUring, cqueue, opcode, squeue, types};

use super::AppendBuffer;
use super::seldom::Seldom;
use super::timer::Timers;
use super::turn::{self, Answering};
use super::watch::Watches;

/// Operations the kernel has at one time; further ones wait in memory, which their callers bound.
const IN_FLIGHT_MAX: usize = 1024;
const SUBMISSION_ENTRIES: u32 = 256;

/// Completions that the kernel keeps at hand; it keeps further ones elsewhere, which takes longer.
const COMPLETION_ENTRIES: u32 = 4096;

/// What a completion is of: the number of an operation, or with this bit that of a watch, or nobody's.
const OF_WATCH: u64 = 1 << 63;
const OF_NOBODY: u64 = u64::MAX;

thread_local! {
    /// With the executor that drives it: a thread may have several, one after another.
    static RING: RefCell<Option<(usize, Rc<Ring>)>> = const { RefCell::new(None) };
}

/// Sets up the ring of the executor that runs, and the task that drives it. Whoever uses the ring of an executor
/// that has none sets it up, too, but cannot be told that the kernel refuses.
pub fn init_thread() -> io::Result<()> {
    if present().is_none() {
        let ring = Rc::new(Ring::new()?);
        let executors_before = RING.replace(Some((glommio::executor().id(), ring.clone())));
        drop(executors_before);
        turn::drive(ring);
    }
    Ok(())
}

/// That of the executor that runs.
pub(super) fn current() -> Rc<Ring> {
    present().unwrap_or_else(|| {
        init_thread().expect("io_uring as Linux has it since 6.1");
        present().expect("it was just set up")
    })
}

fn present() -> Option<Rc<Ring>> {
    let executor = glommio::executor().id();
    RING.with_borrow(|ring| {
        let (driver, ring) = ring.as_ref()?;
        (*driver == executor).then(|| ring.clone())
    })
}

/// What an operation needs alive until the kernel is done with it, handed back at its end.
pub(crate) enum Payload {
    Write {
        _file: Arc<OwnedFd>,
        parts: Vec<Bytes>,
        iovecs: Vec<libc::iovec>,
    },
    Read {
        _file: Arc<OwnedFd>,
        buffer: Vec<u8>,
    },
    ReadDirect {
        _file: Arc<OwnedFd>,
        buffer: AppendBuffer,
    },
    File {
        _file: Arc<OwnedFd>,
    },
    Files {
        _from: Arc<OwnedFd>,
        _to: Arc<OwnedFd>,
    },
    Path(CString),
}

enum Slot {
    Free,
    Running {
        payload: Payload,
        waker: Option<Waker>,
    },
    /// Its future was dropped: the buffers stay here until the kernel lets go of them.
    Orphaned {
        _payload: Payload,
    },
    Done {
        result: i32,
        payload: Payload,
    },
}

pub(super) struct Ring {
    uring: RefCell<IoUring>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    queued: RefCell<VecDeque<squeue::Entry>>,
    /// Operations that the kernel has.
    in_flight: Cell<usize>,
    pub(super) watches: RefCell<Watches>,
    pub(super) seldom: RefCell<Seldom>,
    pub(super) timers: RefCell<Timers>,
    pub(super) answering: RefCell<Option<Answering>>,
}

impl Ring {
    fn new() -> io::Result<Ring> {
        // A thread that sleeps for 100 µs is to sleep for that, not for 50 µs more.
        // SAFETY: takes numbers only.
        unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETION_ENTRIES)
            .build(SUBMISSION_ENTRIES)?;
        Ok(Ring {
            uring: RefCell::new(uring),
            slots: RefCell::default(),
            free: RefCell::default(),
            queued: RefCell::default(),
            in_flight: Cell::new(0),
            watches: RefCell::default(),
            seldom: RefCell::default(),
            timers: RefCell::default(),
            answering: RefCell::default(),
        })
    }

    /// Waits for what is in flight: the kernel must not find its buffers gone.
    fn drain(&mut self) {
        self.queued.get_mut().clear();
        while self.in_flight.get() > 0 {
            let waited = self.uring.get_mut().submit_and_wait(1);
            if waited.is_err_and(|error| error.raw_os_error() != Some(libc::EINTR)) {
                // Leaked rather than freed under the kernel's hands.
                std::mem::forget(self.slots.take());
                return;
            }
            self.reap();
        }
    }

    fn begin(&self, build: impl FnOnce(&mut Payload) -> squeue::Entry, payload: Payload) -> usize {
        let mut slots = self.slots.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            slots.push(Slot::Free);
            slots.len() - 1
        });
        let mut payload = payload;
        let entry = build(&mut payload).user_data(index as u64);
        slots[index] = Slot::Running {
            payload,
            waker: None,
        };
        self.queued.borrow_mut().push_back(entry);
        index
    }

    /// From the next turn on the kernel tells what becomes of the descriptor, until [`Ring::end_watch`].
    pub(super) fn begin_watch(&self, index: usize, descriptor: i32, events: u32) {
        let entry = opcode::PollAdd::new(types::Fd(descriptor), events)
            .multi(true)
            .build()
            .user_data(OF_WATCH | index as u64);
        self.queued.borrow_mut().push_back(entry);
    }

    pub(super) fn end_watch(&self, index: usize) {
        let entry = opcode::AsyncCancel::new(OF_WATCH | index as u64)
            .build()
            .user_data(OF_NOBODY);
        self.queued.borrow_mut().push_back(entry);
    }

    /// Hands over what is queued and takes back what is done, in one system call if any is needed. Sleeps for at most
    /// `patience`, if there is any, until something is done. Whether a task was woken.
    pub(super) fn enter(&self, patience: Option<Duration>) -> bool {
        let mut woken = self.reap();
        loop {
            self.fill();
            let entered = self.enter_kernel(patience.filter(|_| !woken));
            woken |= self.reap();
            match entered {
                Ok(true) if self.has_more() => {}
                Ok(_) => return woken,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR | libc::ETIME) => return woken,
                    // Short of kernel memory, or completions overflow: again next turn.
                    Some(libc::EAGAIN | libc::EBUSY) => return woken,
                    _ => panic!("io_uring_enter: {error}"),
                },
            }
        }
    }

    /// Whether there was a reason for the system call.
    fn enter_kernel(&self, patience: Option<Duration>) -> io::Result<bool> {
        let mut uring = self.uring.borrow_mut();
        let submission = uring.submission();
        let needed = !submission.is_empty() || submission.taskrun() || submission.cq_overflow();
        drop(submission);
        match patience {
            Some(patience) => {
                let limit = types::Timespec::from(patience);
                let arguments = types::SubmitArgs::new().timespec(&limit);
                uring.submitter().submit_with_args(1, &arguments)?;
            }
            None if needed => {
                uring.submit()?;
            }
            None => {}
        }
        Ok(needed || patience.is_some())
    }

    /// What is queued goes to the submission queue, as far as there is room.
    fn fill(&self) {
        let mut uring = self.uring.borrow_mut();
        let mut queued = self.queued.borrow_mut();
        let mut submission = uring.submission();
        while !submission.is_full() && self.has_room_for(queued.front()) {
            let entry = queued.pop_front().expect("it was looked at");
            if is_of_operation(entry.get_user_data()) {
                self.in_flight.set(self.in_flight.get() + 1);
            }
            // SAFETY: all that the entry points to lives in its slot until its completion.
            unsafe { submission.push(&entry) }.expect("room was checked");
        }
    }

    fn has_room_for(&self, entry: Option<&squeue::Entry>) -> bool {
        entry.is_some_and(|entry| {
            self.in_flight.get() < IN_FLIGHT_MAX || !is_of_operation(entry.get_user_data())
        })
    }

    fn has_more(&self) -> bool {
        self.has_room_for(self.queued.borrow().front())
    }

    /// Takes what is done; whether that woke a task.
    fn reap(&self) -> bool {
        let mut woken = false;
        while let Some(entry) = { self.uring.borrow_mut().completion().next() } {
            let of = entry.user_data();
            let wakers = if is_of_operation(of) {
                [self.on_done(of as usize, entry.result()), None]
            } else if of == OF_NOBODY {
                [None, None]
            } else {
                self.on_watched((of & !OF_WATCH) as usize, &entry)
            };
            for waker in wakers.into_iter().flatten() {
                woken = true;
                waker.wake();
            }
        }
        woken
    }

    fn on_done(&self, index: usize, result: i32) -> Option<Waker> {
        self.in_flight.set(self.in_flight.get() - 1);
        let mut slots = self.slots.borrow_mut();
        match std::mem::replace(&mut slots[index], Slot::Free) {
            Slot::Running { payload, waker } => {
                slots[index] = Slot::Done { result, payload };
                waker
            }
            Slot::Orphaned { .. } => {
                self.free.borrow_mut().push(index);
                None
            }
            Slot::Free | Slot::Done { .. } => unreachable!("a completion without operation"),
        }
    }

    /// Looks after what is looked after seldom. Whether that woke a task.
    pub(super) fn look_seldom(&self, now: Instant) -> bool {
        let mut wakers = Vec::new();
        self.seldom.borrow_mut().look(now, |index, events| {
            let woken = self.watches.borrow_mut().on_seldom(index, events);
            wakers.extend(woken.into_iter().flatten());
        });
        let woken = !wakers.is_empty();
        wakers.into_iter().for_each(Waker::wake);
        woken
    }

    fn on_watched(&self, index: usize, entry: &cqueue::Entry) -> [Option<Waker>; 2] {
        let goes_on = cqueue::more(entry.flags());
        let mut watches = self.watches.borrow_mut();
        let told = watches.on_event(index, entry.result(), goes_on);
        if let Some((descriptor, events)) = told.begin_again {
            self.begin_watch(index, descriptor, events);
        }
        told.wakers
    }
}

fn is_of_operation(user_data: u64) -> bool {
    user_data & OF_WATCH == 0
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.drain();
    }
}

/// One operation: its result as the kernel gives it (negative: an error number), and its payload.
/// Dropped early, it leaves its buffers to the ring until the kernel is done.
pub(crate) struct Operation {
    ring: Rc<Ring>,
    index: usize,
    finished: bool,
}

impl Future for Operation {
    type Output = (io::Result<u32>, Payload);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        assert!(!self.finished, "polled after its end");
        let ring = self.ring.clone();
        let mut slots = ring.slots.borrow_mut();
        if let Slot::Running { waker, .. } = &mut slots[self.index] {
            *waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        let Slot::Done { result, payload } = std::mem::replace(&mut slots[self.index], Slot::Free)
        else {
            unreachable!("only its future frees a slot")
        };
        ring.free.borrow_mut().push(self.index);
        self.finished = true;
        let result = if result < 0 {
            Err(io::Error::from_raw_os_error(-result))
        } else {
            Ok(result as u32)
        };
        Poll::Ready((result, payload))
    }
}

impl Drop for Operation {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let mut slots = self.ring.slots.borrow_mut();
        match std::mem::replace(&mut slots[self.index], Slot::Free) {
            Slot::Running { payload, .. } => {
                slots[self.index] = Slot::Orphaned { _payload: payload };
            }
            Slot::Done { .. } => self.ring.free.borrow_mut().push(self.index),
            Slot::Free | Slot::Orphaned { .. } => unreachable!("only its future frees a slot"),
        }
    }
}

fn begin(payload: Payload, build: impl FnOnce(&mut Payload) -> squeue::Entry) -> Operation {
    let ring = current();
    let index = ring.begin(build, payload);
    Operation {
        ring,
        index,
        finished: false,
    }
}

/// Writes `parts` one after another at `position`; may write less, as pwritev does.
pub(crate) fn write(file: &Arc<OwnedFd>, parts: Vec<Bytes>, position: u64) -> Operation {
    let descriptor = types::Fd(file.as_raw_fd());
    let iovecs = parts
        .iter()
        .map(|part| libc::iovec {
            iov_base: part.as_ptr().cast_mut().cast(),
            iov_len: part.len(),
        })
        .collect();
    let payload = Payload::Write {
        _file: file.clone(),
        parts,
        iovecs,
    };
    begin(payload, |payload| {
        let Payload::Write { iovecs, .. } = payload else {
            unreachable!()
        };
        opcode::Writev::new(descriptor, iovecs.as_ptr(), iovecs.len() as u32)
            .offset(position)
            .build()
    })
}

/// Reads at most `length` bytes at `position`, as pread does.
pub(crate) fn read(file: &Arc<OwnedFd>, position: u64, length: usize) -> Operation {
    let descriptor = types::Fd(file.as_raw_fd());
    let payload = Payload::Read {
        _file: file.clone(),
        buffer: Vec::with_capacity(length),
    };
    begin(payload, |payload| {
        let Payload::Read { buffer, .. } = payload else {
            unreachable!()
        };
        opcode::Read::new(descriptor, buffer.as_mut_ptr(), length as u32)
            .offset(position)
            .build()
    })
}

/// As [`read`] of a file opened for direct I/O: position and length are multiples of [`super::BLOCK`].
pub(crate) fn read_direct(file: &Arc<OwnedFd>, position: u64, length: usize) -> Operation {
    let descriptor = types::Fd(file.as_raw_fd());
    let payload = Payload::ReadDirect {
        _file: file.clone(),
        buffer: AppendBuffer::with_capacity(length),
    };
    begin(payload, |payload| {
        let Payload::ReadDirect { buffer, .. } = payload else {
            unreachable!()
        };
        opcode::Read::new(descriptor, buffer.start(), length as u32)
            .offset(position)
            .build()
    })
}

/// The bytes a finished [`read`] or [`read_direct`] brought.
pub(crate) fn bytes_read(payload: Payload, count: u32) -> Bytes {
    let count = count as usize;
    match payload {
        Payload::Read { mut buffer, .. } => {
            assert!(count <= buffer.capacity());
            // SAFETY: the kernel wrote `count` bytes from the buffer's start.
            unsafe { buffer.set_len(count) };
            Bytes::from(buffer)
        }
        Payload::ReadDirect { mut buffer, .. } => {
            // SAFETY: as above.
            unsafe { buffer.set_len(count) };
            buffer.slice(0..count)
        }
        _ => unreachable!("the payload of a read"),
    }
}

/// `fdatasync`, or `fsync` with `metadata`.
pub(crate) fn sync(file: &Arc<OwnedFd>, metadata: bool) -> Operation {
    let flags = if metadata {
        types::FsyncFlags::empty()
    } else {
        types::FsyncFlags::DATASYNC
    };
    let entry = opcode::Fsync::new(types::Fd(file.as_raw_fd()))
        .flags(flags)
        .build();
    begin(
        Payload::File {
            _file: file.clone(),
        },
        |_| entry,
    )
}

/// Reserves space, and extends the file over it.
pub(crate) fn allocate(file: &Arc<OwnedFd>, from: u64, length: u64) -> Operation {
    let entry = opcode::Fallocate::new(types::Fd(file.as_raw_fd()), length)
        .offset(from)
        .build();
    begin(
        Payload::File {
            _file: file.clone(),
        },
        |_| entry,
    )
}

pub(crate) fn truncate(file: &Arc<OwnedFd>, length: u64) -> Operation {
    let entry = opcode::Ftruncate::new(types::Fd(file.as_raw_fd()), length).build();
    begin(
        Payload::File {
            _file: file.clone(),
        },
        |_| entry,
    )
}

pub(crate) fn unlink(path: CString) -> Operation {
    begin(Payload::Path(path), |payload| {
        let Payload::Path(path) = payload else {
            unreachable!()
        };
        // The string's bytes stay where they are when the CString itself moves.
        opcode::UnlinkAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr()).build()
    })
}

/// Moves at most `length` bytes between a pipe and a file or socket; `position` is for the file at
/// the source, None for a pipe or socket.
pub async fn splice(
    from: &Arc<OwnedFd>,
    position: Option<u64>,
    to: &Arc<OwnedFd>,
    length: u32,
    more: bool,
) -> io::Result<u32> {
    let offset = position.map_or(-1, |position| position as i64);
    let flags = libc::SPLICE_F_MOVE | if more { libc::SPLICE_F_MORE } else { 0 };
    let entry = opcode::Splice::new(
        types::Fd(from.as_raw_fd()),
        offset,
        types::Fd(to.as_raw_fd()),
        -1,
        length,
    )
    .flags(flags)
    .build();
    let payload = Payload::Files {
        _from: from.clone(),
        _to: to.clone(),
    };
    begin(payload, |_| entry).await.0
}
