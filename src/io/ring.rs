//! Owns the auxiliary io_uring of each thread: file operations that glommio lacks or that would
//! stall a core. Submissions of one turn go to the kernel together; completions wake the executor
//! through an eventfd that glommio polls. Never blocks, never retries.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::CString;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use futures::future::LocalBoxFuture;
use io_uring::{IoUring, opcode, squeue, types};

use super::AppendBuffer;

/// Operations the kernel has at one time; further ones wait in memory, which their callers bound.
const IN_FLIGHT_MAX: usize = 1024;
const SUBMISSION_ENTRIES: u32 = 256;

thread_local! {
    static RING: RefCell<Option<Rc<Ring>>> = const { RefCell::new(None) };
}

/// Sets up this thread's ring and the tasks that drive it. Call once on each glommio executor,
/// before any [`crate::io::Disk`] is used there.
pub fn init_thread() -> io::Result<()> {
    init_thread_with(|task| {
        glommio::spawn_local(task).detach();
    })
}

/// As [`init_thread`], with the tasks spawned by the caller.
pub fn init_thread_with(spawn: impl Fn(LocalBoxFuture<'static, ()>)) -> io::Result<()> {
    let ring = Rc::new(Ring::new()?);
    RING.set(Some(ring.clone()));
    super::heartbeat::begin();
    let events = glommio::io::PollableFd::new(ring.events.clone())
        .map_err(|error| io::Error::other(error.to_string()))?;
    spawn(Box::pin(reap_when_woken(ring.clone(), events)));
    spawn(Box::pin(submit_each_turn(ring)));
    Ok(())
}

async fn reap_when_woken(ring: Rc<Ring>, events: glommio::io::PollableFd<Arc<OwnedFd>>) {
    loop {
        if events.readable().await.is_err() {
            return; // The executor is going away.
        }
        let mut count = [0u8; 8];
        // SAFETY: reads 8 bytes into 8 bytes; the descriptor is open and non-blocking.
        unsafe { libc::read(ring.events.as_raw_fd(), count.as_mut_ptr().cast(), 8) };
        ring.reap();
        ring.submit();
    }
}

async fn submit_each_turn(ring: Rc<Ring>) {
    loop {
        // Runs behind the tasks that were ready when the first operation was queued, so that a
        // turn's operations share one system call.
        std::future::poll_fn(|context| {
            let room = ring.in_flight.get() < IN_FLIGHT_MAX;
            if ring.refused.take() || (room && !ring.queued.borrow().is_empty()) {
                Poll::Ready(())
            } else {
                ring.submitter.replace(Some(context.waker().clone()));
                Poll::Pending
            }
        })
        .await;
        ring.submit();
    }
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

struct Ring {
    uring: RefCell<IoUring>,
    events: Arc<OwnedFd>,
    slots: RefCell<Vec<Slot>>,
    free: RefCell<Vec<usize>>,
    queued: RefCell<VecDeque<squeue::Entry>>,
    in_flight: Cell<usize>,
    /// The kernel left entries in the submission queue.
    refused: Cell<bool>,
    submitter: RefCell<Option<Waker>>,
}

impl Ring {
    fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_cqsize(2 * IN_FLIGHT_MAX as u32)
            .build(SUBMISSION_ENTRIES)?;
        // SAFETY: a plain system call whose result is checked.
        let events = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if events < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor just made, owned by nobody else.
        let events = Arc::new(unsafe { OwnedFd::from_raw_fd(events) });
        uring.submitter().register_eventfd(events.as_raw_fd())?;
        Ok(Ring {
            uring: RefCell::new(uring),
            events,
            slots: RefCell::default(),
            free: RefCell::default(),
            queued: RefCell::default(),
            in_flight: Cell::new(0),
            refused: Cell::new(false),
            submitter: RefCell::new(None),
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
        if let Some(waker) = self.submitter.take() {
            waker.wake();
        }
        index
    }

    fn submit(&self) {
        while self.fill() {
            let result = {
                let mut uring = self.uring.borrow_mut();
                // What completes inside this call is reaped below: no need to be woken for it.
                uring.completion().disable_eventfd();
                let result = uring.submit();
                uring.completion().enable_eventfd();
                result
            };
            self.reap();
            match result {
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                    ) =>
                {
                    // Short of kernel memory, or completions overflow: again next turn.
                    self.refused.set(true);
                    if let Some(waker) = self.submitter.take() {
                        waker.wake();
                    }
                    return;
                }
                Err(error) => panic!("io_uring_enter: {error}"),
            }
        }
    }

    /// Moves queued entries to the submission queue; true if the kernel has some to take.
    fn fill(&self) -> bool {
        let mut uring = self.uring.borrow_mut();
        let mut queued = self.queued.borrow_mut();
        let mut submission = uring.submission();
        while self.in_flight.get() < IN_FLIGHT_MAX && !submission.is_full() {
            let Some(entry) = queued.pop_front() else {
                break;
            };
            // SAFETY: all that the entry points to lives in its slot until its completion.
            unsafe { submission.push(&entry) }.expect("room was checked");
            self.in_flight.set(self.in_flight.get() + 1);
        }
        !submission.is_empty()
    }

    fn reap(&self) {
        loop {
            let completion = self
                .uring
                .borrow_mut()
                .completion()
                .next()
                .map(|entry| (entry.user_data() as usize, entry.result()));
            let Some((index, result)) = completion else {
                break;
            };
            self.in_flight.set(self.in_flight.get() - 1);
            let mut slots = self.slots.borrow_mut();
            match std::mem::replace(&mut slots[index], Slot::Free) {
                Slot::Running { payload, waker } => {
                    slots[index] = Slot::Done { result, payload };
                    drop(slots);
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
                Slot::Orphaned { .. } => self.free.borrow_mut().push(index),
                Slot::Free | Slot::Done { .. } => unreachable!("a completion without operation"),
            }
        }
        if !self.queued.borrow().is_empty()
            && let Some(waker) = self.submitter.take()
        {
            waker.wake();
        }
    }
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
    let ring = RING.with_borrow(|ring| {
        ring.clone()
            .expect("io::ring::init_thread comes before any file operation of a thread")
    });
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
