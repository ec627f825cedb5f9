//! Owns what this thread's ring knows of descriptors that it watches: whether there may be something to take, and
//! whether there may be room to give. One request to the kernel serves a descriptor for all its life: one that
//! nothing happens on costs nothing. Where there are many, those that nobody is in a hurry about are put with the
//! `seldom` ones meanwhile, under another number.

use std::cell::Cell;
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::ring::{self, Ring};

const INPUT: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const OUTPUT: u32 = libc::POLLOUT as u32;

/// Nothing will ever come in, or go out, any more: looking tells so, and tells it at once.
const INPUT_OVER: u32 = libc::POLLRDHUP as u32 | BROKEN;
const OUTPUT_OVER: u32 = BROKEN;
const BROKEN: u32 = (libc::POLLHUP | libc::POLLERR | libc::POLLNVAL) as u32;

/// Which way the bytes go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    In,
    Out,
}

/// With fewer of them each may wake the thread.
const MANY: usize = 512;

/// The watches of a ring, by number.
#[derive(Default)]
pub(super) struct Watches {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

enum Slot {
    Free,
    Watched(State),
    /// Nobody is interested any more; the kernel has not yet said its last word.
    Ending,
}

struct State {
    descriptor: RawFd,
    events: u32,
    input: Direction,
    output: Direction,
    /// The ring has it, in the kernel.
    is_armed: bool,
    is_seldom: bool,
}

#[derive(Default)]
struct Direction {
    is_ready: bool,
    is_over: bool,
    waker: Option<Waker>,
}

/// What an event brings about.
#[derive(Default)]
pub(super) struct Told {
    pub wakers: [Option<Waker>; 2],
    /// The kernel has given up the watch, and nothing has ended.
    pub begin_again: Option<(RawFd, u32)>,
}

impl Watches {
    fn add(&mut self, state: State) -> usize {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::Free);
            self.slots.len() - 1
        });
        self.slots[index] = Slot::Watched(state);
        index
    }

    fn are_many(&self) -> bool {
        self.slots.len() - self.free.len() > MANY
    }

    fn state(&mut self, index: usize) -> &mut State {
        match &mut self.slots[index] {
            Slot::Watched(state) => state,
            Slot::Free | Slot::Ending => unreachable!("a watch keeps its place"),
        }
    }

    fn end(&mut self, index: usize) -> State {
        let Slot::Watched(state) = std::mem::replace(&mut self.slots[index], Slot::Ending) else {
            unreachable!("a watch keeps its place")
        };
        if !state.is_armed {
            self.free(index);
        }
        state
    }

    fn free(&mut self, index: usize) {
        self.slots[index] = Slot::Free;
        self.free.push(index);
    }

    /// `result` is an event mask or, below 0, an error; the kernel tells more if it `goes_on`.
    pub(super) fn on_event(&mut self, index: usize, result: i32, goes_on: bool) -> Told {
        let state = match &mut self.slots[index] {
            Slot::Watched(state) => state,
            Slot::Ending => {
                if !goes_on {
                    self.free(index);
                }
                return Told::default();
            }
            Slot::Free => unreachable!("an event without a watch"),
        };
        let events = u32::try_from(result).unwrap_or(BROKEN);
        state.is_armed = goes_on || events & BROKEN == 0;
        Told {
            begin_again: (state.is_armed && !goes_on).then_some((state.descriptor, state.events)),
            wakers: state.on_events(events),
        }
    }

    /// The events of one that is looked after seldom.
    pub(super) fn on_seldom(&mut self, index: usize, events: u32) -> [Option<Waker>; 2] {
        self.state(index).on_events(events)
    }
}

impl State {
    fn on_events(&mut self, events: u32) -> [Option<Waker>; 2] {
        let (input, output) = (events & INPUT, events & OUTPUT);
        [
            self.input.on_events(input, events & INPUT_OVER),
            self.output.on_events(output, events & OUTPUT_OVER),
        ]
    }
}

impl Direction {
    fn on_events(&mut self, ready: u32, over: u32) -> Option<Waker> {
        self.is_ready |= ready != 0;
        self.is_over |= over != 0;
        (ready | over != 0).then(|| self.waker.take()).flatten()
    }

    fn wait(&mut self, context: &Context<'_>) -> Poll<()> {
        match &mut self.waker {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    fn tells(&self) -> bool {
        self.is_ready || self.is_over
    }
}

/// A descriptor that is watched; the watch must end before the descriptor does.
pub(super) struct Watch {
    ring: Rc<Ring>,
    index: Cell<usize>,
}

impl Watch {
    /// Of the ways a connection has.
    pub(super) fn both_ways(descriptor: &impl AsRawFd) -> Watch {
        Watch::new(descriptor, INPUT | OUTPUT)
    }

    pub(super) fn input(descriptor: &impl AsRawFd) -> Watch {
        Watch::new(descriptor, INPUT)
    }

    fn new(descriptor: &impl AsRawFd, events: u32) -> Watch {
        let ring = ring::current();
        let descriptor = descriptor.as_raw_fd();
        let index = ring.watches.borrow_mut().add(State {
            descriptor,
            events,
            input: Direction::default(),
            output: Direction::default(),
            is_armed: true,
            is_seldom: false,
        });
        ring.begin_watch(index, descriptor, events);
        Watch {
            ring,
            index: index.into(),
        }
    }

    /// Whether what happens next may be seen some milliseconds later. Only where there are many is it.
    pub(super) fn set_unhurried(&self, unhurried: bool) {
        let (is_seldom, is_armed, many) = {
            let mut watches = self.ring.watches.borrow_mut();
            let many = watches.are_many();
            let state = watches.state(self.index.get());
            (state.is_seldom, state.is_armed, many)
        };
        match (is_seldom, unhurried) {
            (false, true) if many && is_armed => self.move_to_seldom(),
            (true, false) => self.move_to_ring(),
            _ => {}
        }
    }

    fn move_to_seldom(&self) {
        let mut watches = self.ring.watches.borrow_mut();
        let before = self.index.get();
        let mut state = watches.end(before);
        (state.is_armed, state.is_seldom) = (false, true);
        let (descriptor, events) = (state.descriptor, state.events);
        let index = watches.add(state);
        self.index.set(index);
        self.ring.end_watch(before);
        let mut seldom = self.ring.seldom.borrow_mut();
        if seldom.add(descriptor, index, events).is_err() {
            // The kernel is short of something: it stays with the ring.
            watches.state(index).is_seldom = false;
            watches.state(index).is_armed = true;
            self.ring.begin_watch(index, descriptor, events);
        }
    }

    fn move_to_ring(&self) {
        let mut watches = self.ring.watches.borrow_mut();
        let state = watches.state(self.index.get());
        (state.is_armed, state.is_seldom) = (true, false);
        self.ring.seldom.borrow_mut().remove(state.descriptor);
        self.ring
            .begin_watch(self.index.get(), state.descriptor, state.events);
    }

    /// Resolves when looking may find something, or the end.
    pub(super) async fn ready(&self, way: Way) {
        std::future::poll_fn(|context| self.poll_ready(way, context)).await;
    }

    /// Resolves when nothing more will ever come in, or go out.
    pub(super) async fn over(&self, way: Way) {
        std::future::poll_fn(|context| {
            self.with(way, |direction| match direction.is_over {
                true => Poll::Ready(()),
                false => direction.wait(context),
            })
        })
        .await;
    }

    fn poll_ready(&self, way: Way, context: &mut Context<'_>) -> Poll<()> {
        self.with(way, |direction| {
            if direction.tells() {
                return Poll::Ready(());
            }
            direction.wait(context)
        })
    }

    pub(super) fn is_ready(&self, way: Way) -> bool {
        self.with(way, |direction| direction.tells())
    }

    /// Call *before* looking and not after: what comes after the look is told again.
    pub(super) fn begin_to_look(&self, way: Way) {
        self.with(way, |direction| direction.is_ready = false);
    }

    /// The look did not find all there is.
    pub(super) fn leave_rest(&self, way: Way) {
        self.with(way, |direction| direction.is_ready = true);
    }

    fn with<T>(&self, way: Way, act: impl FnOnce(&mut Direction) -> T) -> T {
        let mut watches = self.ring.watches.borrow_mut();
        let state = watches.state(self.index.get());
        let direction = match way {
            Way::In => &mut state.input,
            Way::Out => &mut state.output,
        };
        act(direction)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let index = self.index.get();
        let ended = self.ring.watches.borrow_mut().end(index);
        if ended.is_armed {
            self.ring.end_watch(index);
        }
        if ended.is_seldom {
            self.ring.seldom.borrow_mut().remove(ended.descriptor);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Watch({})", self.index.get())
    }
}
