//! Owns how much memory the requests and responses of one core's connections may hold together. A core whose
//! request memory is full stops reading from its sockets; one whose response memory is full sends records from
//! files instead of from memory. Nothing is dropped for it. It touches no socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::limits::{RESPONSE_MEMORY_LEAST, RESPONSE_MEMORY_SHARES};

/// Memory of requests: received bytes until their request is answered.
///
/// It is full at its limit and stays so until a quarter is free again. While it is full, one connection that is inside
/// a frame may read on, if it is frames like its own, and not requests in progress, that fill it: else
/// none of them would ever be whole. So the limit is passed by one request at most.
#[derive(Debug)]
pub struct RequestBudget {
    limit: usize,
    used: Cell<usize>,
    in_progress: Cell<usize>,
    full: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    /// Who may read on while it is full.
    turn: Cell<Option<u64>>,
    next_account: Cell<u64>,
}

impl RequestBudget {
    pub fn new(limit: usize) -> Rc<RequestBudget> {
        Rc::new(RequestBudget {
            limit,
            used: Cell::new(0),
            in_progress: Cell::new(0),
            full: Cell::new(false),
            waiting: RefCell::default(),
            turn: Cell::new(None),
            next_account: Cell::new(0),
        })
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A connection's part in it.
    pub fn account(self: &Rc<Self>) -> RequestAccount {
        RequestAccount {
            id: self.next_account.replace(self.next_account.get() + 1),
            budget: self.clone(),
            received: Cell::new(0),
            in_progress: Cell::new(0),
        }
    }

    fn turn_is_free(&self) -> bool {
        self.turn.get().is_none() && self.in_progress.get() < self.limit / 2
    }

    fn wake(&self) {
        for waker in self.waiting.take() {
            waker.wake();
        }
    }

    /// Something was given back.
    fn on_less(&self) {
        if !self.full.get() {
            return;
        }
        if self.used.get() <= self.limit / 4 * 3 {
            self.full.set(false);
            self.turn.set(None);
            self.wake();
        } else if self.turn_is_free() {
            self.wake();
        }
    }
}

/// What one connection holds of its core's request memory; given back at the latest when it is dropped.
#[derive(Debug)]
pub struct RequestAccount {
    id: u64,
    budget: Rc<RequestBudget>,
    received: Cell<usize>,
    in_progress: Cell<usize>,
}

impl RequestAccount {
    /// Bytes of requests that have begun and are not answered.
    pub fn in_progress(&self) -> usize {
        self.in_progress.get()
    }

    /// Ready when the connection may receive more. `inside_frame`: it holds a part of a frame.
    pub fn poll_room(&self, inside_frame: bool, context: &Context<'_>) -> Poll<()> {
        let budget = &self.budget;
        if !budget.full.get() || self.has_turn() {
            return Poll::Ready(());
        }
        if inside_frame && budget.turn_is_free() {
            budget.turn.set(Some(self.id));
            return Poll::Ready(());
        }
        budget.waiting.borrow_mut().push(context.waker().clone());
        Poll::Pending
    }

    /// Others wait, and not for requests in progress but for frames to become whole, as this connection's.
    pub fn holds_others_up(&self) -> bool {
        self.budget.full.get() && self.budget.in_progress.get() < self.budget.limit / 2
    }

    fn has_turn(&self) -> bool {
        self.budget.turn.get() == Some(self.id)
    }

    /// The connection has received so many bytes.
    pub fn on_received(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes);
        let budget = &self.budget;
        budget.used.set(budget.used.get() + bytes);
        if budget.used.get() >= budget.limit {
            budget.full.set(true);
        }
    }

    /// A frame is whole: its turn, if it had one, is over.
    pub fn on_frame(&self) {
        if self.has_turn() {
            self.budget.turn.set(None);
            self.budget.on_less();
        }
    }

    /// So many received bytes are a request that begins.
    pub fn on_begun(&self, bytes: usize) {
        self.received.set(self.received.get() - bytes);
        self.in_progress.set(self.in_progress.get() + bytes);
        let budget = &self.budget;
        budget.in_progress.set(budget.in_progress.get() + bytes);
    }

    /// A request of so many bytes is answered.
    pub fn on_done(&self, bytes: usize) {
        self.in_progress.set(self.in_progress.get() - bytes);
        let budget = &self.budget;
        budget.in_progress.set(budget.in_progress.get() - bytes);
        budget.used.set(budget.used.get() - bytes);
        budget.on_less();
    }
}

impl Drop for RequestAccount {
    fn drop(&mut self) {
        let budget = &self.budget;
        let in_progress = self.in_progress.get();
        budget
            .in_progress
            .set(budget.in_progress.get() - in_progress);
        budget
            .used
            .set(budget.used.get() - in_progress - self.received.get());
        if self.has_turn() {
            budget.turn.set(None);
        }
        budget.on_less();
    }
}

/// Memory of responses that are ready and not sent. It is never refused to what must be said;
/// fetches ask first how many of their records may come from memory.
#[derive(Debug)]
pub struct ResponseBudget {
    limit: usize,
    used: Cell<usize>,
}

impl ResponseBudget {
    pub fn new(limit: usize) -> Rc<ResponseBudget> {
        Rc::new(ResponseBudget {
            limit,
            used: Cell::new(0),
        })
    }

    pub fn used(&self) -> usize {
        self.used.get()
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn is_full(&self) -> bool {
        self.used.get() >= self.limit
    }

    pub fn account(self: &Rc<Self>) -> ResponseAccount {
        ResponseAccount {
            budget: self.clone(),
            held: Cell::new(0),
        }
    }

    /// What one connection may hold: a fraction of what is free, so that many who do not
    /// take their responses leave something to those who do.
    fn share(&self) -> usize {
        self.limit.saturating_sub(self.used.get()) / RESPONSE_MEMORY_SHARES
    }
}

/// What one connection holds of its core's response memory; given back at the latest when it is dropped.
#[derive(Debug)]
pub struct ResponseAccount {
    budget: Rc<ResponseBudget>,
    held: Cell<usize>,
}

impl ResponseAccount {
    /// Bytes that the connection's next response may take from memory. One that holds nothing always gets a little.
    pub fn allowance(&self) -> usize {
        match self.held.get() {
            0 => self.budget.share().max(RESPONSE_MEMORY_LEAST),
            held => self.budget.share().saturating_sub(held),
        }
    }

    /// The connection has not taken what is ready, and the core has no memory for more.
    pub fn must_wait(&self) -> bool {
        self.held.get() > 0 && self.budget.is_full()
    }

    /// Whether memory that a response shares with a larger buffer should be copied out of it.
    pub fn is_scarce(&self) -> bool {
        self.budget.is_full()
    }

    pub fn take(&self, bytes: usize) {
        self.held.set(self.held.get() + bytes);
        self.budget.used.set(self.budget.used.get() + bytes);
    }

    pub fn give_back(&self, bytes: usize) {
        self.held.set(self.held.get() - bytes);
        self.budget.used.set(self.budget.used.get() - bytes);
    }
}

impl Drop for ResponseAccount {
    fn drop(&mut self) {
        self.give_back(self.held.get());
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl futures::task::ArcWake for Wakes {
        fn wake_by_ref(wakes: &Arc<Wakes>) {
            wakes.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn may_read(account: &RequestAccount, inside_frame: bool, wakes: &Arc<Wakes>) -> bool {
        let waker = futures::task::waker(wakes.clone());
        let context = Context::from_waker(&waker);
        account.poll_room(inside_frame, &context).is_ready()
    }

    #[test]
    fn a_full_budget_stops_reading_until_a_quarter_is_free() {
        let budget = RequestBudget::new(100);
        let (busy, other) = (budget.account(), budget.account());
        let wakes = Arc::new(Wakes::default());
        for _ in 0..10 {
            assert!(may_read(&busy, false, &wakes));
            busy.on_received(10);
            busy.on_begun(10);
        }
        assert!(!may_read(&other, false, &wakes));
        assert!(!may_read(&other, true, &wakes), "requests in progress end");
        busy.on_done(10);
        busy.on_done(10);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        busy.on_done(10);
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert!(may_read(&other, false, &wakes));
    }

    #[test]
    fn one_of_many_halves_of_frames_becomes_whole() {
        let budget = RequestBudget::new(100);
        let halves = [(); 10].map(|()| budget.account());
        let wakes = Arc::new(Wakes::default());
        for half in &halves {
            half.on_received(10);
        }
        assert!(may_read(&halves[3], true, &wakes));
        assert!(!may_read(&halves[4], true, &wakes));
        assert!(!may_read(&budget.account(), false, &wakes));
        halves[3].on_received(10);
        assert!(may_read(&halves[3], true, &wakes));
        halves[3].on_frame();
        assert_eq!(wakes.0.load(Ordering::Relaxed), 2);
        assert!(may_read(&halves[4], true, &wakes));
        drop(halves);
        assert_eq!(budget.used(), 0);
        assert!(may_read(&budget.account(), false, &wakes));
    }

    #[test]
    fn who_takes_no_responses_leaves_some_memory_to_those_who_do() {
        let limit = 64 << 20;
        let budget = ResponseBudget::new(limit);
        let deaf: Vec<ResponseAccount> = (0..200).map(|_| budget.account()).collect();
        for account in deaf.iter().chain(&deaf) {
            account.take(account.allowance());
        }
        assert!(budget.used() <= limit + 200 * RESPONSE_MEMORY_LEAST);
        assert!(deaf.iter().all(|account| account.allowance() == 0));
        assert!(budget.account().allowance() >= RESPONSE_MEMORY_LEAST);
        drop(deaf);
        assert_eq!(budget.used(), 0);
    }
}
