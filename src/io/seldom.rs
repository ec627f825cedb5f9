//! Owns the descriptors of a thread that nobody is in a hurry about. What happens on them wakes nobody: the thread looks
//! after them with each beat, all at once, so that thousands of connections that each send a heartbeat now and then do not
//! cost a wake-up each.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::Instant;

use super::{clock, turn};

/// What one system call brings.
const EVENTS: usize = 256;

/// Empty, it costs nothing: no time, no descriptor.
#[derive(Default)]
pub(super) struct Seldom {
    epoll: Option<OwnedFd>,
    count: usize,
    looked: Option<Instant>,
}

impl Seldom {
    /// Tells of `events`, once each time they come, with this number. What has come already counts.
    pub(super) fn add(&mut self, descriptor: RawFd, number: usize, events: u32) -> io::Result<()> {
        let epoll = match &self.epoll {
            Some(epoll) => epoll.as_raw_fd(),
            None => self.epoll.insert(new_epoll()?).as_raw_fd(),
        };
        let mut event = libc::epoll_event {
            events: events | libc::EPOLLET as u32,
            u64: number as u64,
        };
        // SAFETY: the event lives through the call.
        let added = unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, descriptor, &mut event) };
        if added < 0 {
            return Err(io::Error::last_os_error());
        }
        self.count += 1;
        Ok(())
    }

    pub(super) fn remove(&mut self, descriptor: RawFd) {
        let epoll = self.epoll.as_ref().expect("something was added");
        let nothing = std::ptr::null_mut();
        // SAFETY: takes numbers only. It can only fail for a descriptor that is not in there.
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, descriptor, nothing) };
        self.count -= 1;
    }

    /// When the next look is due, if anything is to be looked after.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let next = || self.looked.map_or_else(clock::now, turn::next_beat);
        (self.count > 0).then(next)
    }

    /// Tells what has happened since the last look: numbers, and the events of each.
    pub(super) fn look(&mut self, now: Instant, mut tell: impl FnMut(usize, u32)) {
        self.looked = Some(now);
        let Some(epoll) = &self.epoll else { return };
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        loop {
            // SAFETY: the kernel writes at most so many events as there is room for, and does not wait.
            let count = unsafe {
                let (room, length) = (events.as_mut_ptr(), EVENTS as libc::c_int);
                libc::epoll_wait(epoll.as_raw_fd(), room, length, 0)
            };
            let count = usize::try_from(count).unwrap_or(0);
            for event in &events[..count] {
                tell(event.u64 as usize, event.events);
            }
            if count < EVENTS {
                return;
            }
        }
    }
}

fn new_epoll() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call whose result is checked.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    if epoll < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor just made, owned by nobody else.
    Ok(unsafe { OwnedFd::from_raw_fd(epoll) })
}
