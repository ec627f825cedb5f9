//! Owns the channels between the cores. Work for another core crosses once and its answer crosses back once;
//! what one turn sends to one peer travels as one batch. It knows nothing of what the work is.
//!
//! Between two cores order is kept: calls run, up to their first wait, in the order they were made.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};

use futures::FutureExt;
use futures::future::{AbortHandle, Either, LocalBoxFuture, abortable};
use futures::task::AtomicWaker;
use slab::Slab;

use crate::ids::ShardId;
use crate::io::prefetch::prefetch;
use crate::io::turn::{self, Doorbell};
use crate::shard::Shard;
use crate::stages::tasks::{self, Task};

type Batch = Vec<Message>;

enum Message {
    Call {
        call: CallId,
        errand: Box<dyn Errand>,
        /// Its caller may cancel it.
        is_held: bool,
    },
    /// The caller is not interested any more.
    Cancel { call: CallId },
    /// Every call comes back once, one that was cancelled without its answer.
    Answer {
        call: CallId,
        errand: Option<Box<dyn Errand>>,
    },
}

impl Message {
    fn prefetch(&self) {
        match self {
            Message::Call { errand, .. } => prefetch(&**errand),
            Message::Answer { errand, .. } => errand.iter().for_each(|errand| prefetch(&**errand)),
            Message::Cancel { .. } => {}
        }
    }
}

/// Names a call between two cores until it has come back.
type CallId = usize;

/// A call, which goes there and comes back in the same memory: what one core takes and another one frees costs both.
trait Errand: Send {
    /// Begins the work, on the other core; resolves to itself with the answer.
    fn begin(self: Box<Self>, shard: Rc<Shard>) -> LocalBoxFuture<'static, Box<dyn Errand>>;

    /// Where the caller finds the answer: an `Option` of it.
    fn answer(&mut self) -> &mut dyn Any;
}

enum Parcel<W, T> {
    Work(W),
    /// As the caller finds it; `None` while it is worked on and once it is taken.
    Answer(Option<T>),
}

impl<W, F, T> Errand for Parcel<W, T>
where
    W: FnOnce(Rc<Shard>) -> F + Send + 'static,
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    fn begin(mut self: Box<Self>, shard: Rc<Shard>) -> LocalBoxFuture<'static, Box<dyn Errand>> {
        let Parcel::Work(work) = std::mem::replace(&mut *self, Parcel::Answer(None)) else {
            unreachable!("a call is begun once");
        };
        let work = work(shard);
        async move {
            *self = Parcel::Answer(Some(work.await));
            self as Box<dyn Errand>
        }
        .boxed_local()
    }

    fn answer(&mut self) -> &mut dyn Any {
        match self {
            Parcel::Answer(answer) => answer,
            Parcel::Work(_) => unreachable!("what has come back was begun"),
        }
    }
}

/// One core's ends of the channels to all others, made before the cores start.
pub struct MeshEnds {
    /// By peer; none to oneself.
    peers: Vec<Option<PeerEnds>>,
    /// Rung by whoever has sent something.
    doorbell: Doorbell,
}

struct PeerEnds {
    sender: mpsc::Sender<Batch>,
    doorbell: Doorbell,
    receiver: mpsc::Receiver<Batch>,
}

/// The ends for `shards` cores, in the order of their numbers.
pub fn ends(shards: u16) -> io::Result<Vec<MeshEnds>> {
    let shards = usize::from(shards);
    let doorbells = (0..shards).map(|_| Doorbell::new());
    let doorbells = doorbells.collect::<io::Result<Vec<_>>>()?;
    let mut ends: Vec<MeshEnds> = doorbells
        .iter()
        .map(|doorbell| MeshEnds {
            peers: (0..shards).map(|_| None).collect(),
            doorbell: doorbell.clone(),
        })
        .collect();
    for one in 0..shards {
        for other in 0..one {
            let (to_other, from_one) = mpsc::channel();
            let (to_one, from_other) = mpsc::channel();
            ends[one].peers[other] = Some(PeerEnds {
                sender: to_other,
                doorbell: doorbells[other].clone(),
                receiver: from_other,
            });
            ends[other].peers[one] = Some(PeerEnds {
                sender: to_one,
                doorbell: doorbells[one].clone(),
                receiver: from_one,
            });
        }
    }
    Ok(ends)
}

/// This core's way to the others.
pub struct Mesh {
    own: ShardId,
    /// By shard; none for oneself.
    outboxes: Vec<Option<Outbox>>,
    /// Calls that have not come back.
    calls: RefCell<Slab<Call>>,
    /// Work for others that may be cancelled, by caller and call.
    running: RefCell<HashMap<(ShardId, CallId), AbortHandle>>,
}

/// What the caller knows of a call.
enum Call {
    Made(Option<Waker>),
    Answered(Box<dyn Errand>),
    /// Nobody waits for it.
    Abandoned,
}

/// What this turn has for one peer. The first message wakes the task that sends all of them.
#[derive(Default)]
struct Outbox {
    batch: RefCell<Batch>,
    /// How many messages the batch before had.
    last: Cell<usize>,
    sender: AtomicWaker,
}

impl Outbox {
    fn push(&self, message: Message) {
        let mut batch = self.batch.borrow_mut();
        if batch.capacity() == 0 {
            batch.reserve(self.last.get());
        }
        batch.push(message);
        if batch.len() == 1 {
            self.sender.wake();
        }
    }

    /// What there is; waits for the first.
    async fn take(&self) -> Batch {
        poll_fn(|context| {
            self.sender.register(context.waker());
            let batch = self.batch.take();
            if batch.is_empty() {
                return Poll::Pending;
            }
            self.last.set(batch.len());
            Poll::Ready(batch)
        })
        .await
    }
}

impl Mesh {
    pub fn new(own: ShardId, ends: &MeshEnds) -> Mesh {
        let outboxes = ends.peers.iter();
        Mesh {
            own,
            outboxes: outboxes
                .map(|peer| peer.as_ref().map(|_| Outbox::default()))
                .collect(),
            calls: RefCell::default(),
            running: RefCell::default(),
        }
    }

    /// Starts the tasks that carry messages. Call once, when the shard can take calls.
    pub fn run(shard: &Rc<Shard>, ends: MeshEnds) {
        let mut receivers = Vec::new();
        for (peer, ends) in ends.peers.into_iter().enumerate() {
            let Some(ends) = ends else { continue };
            let peer = ShardId(peer as u16);
            receivers.push((peer, ends.receiver));
            let out = send(shard.clone(), peer, ends.sender, ends.doorbell);
            tasks::spawn(Task::MESH_OUT, out).detach();
        }
        let taking = receive(shard.clone(), receivers, ends.doorbell);
        tasks::spawn(Task::MESH_IN, taking).detach();
    }

    /// Runs `work` on the shard `target` and resolves to what it answers. On this shard it runs in place.
    /// `work` itself is called in order with other calls to the same shard; the future it returns may wait.
    /// The work goes on when nobody waits for its answer.
    pub fn call<W, F, T>(
        &self,
        shard: &Rc<Shard>,
        target: ShardId,
        work: W,
    ) -> impl Future<Output = T> + use<W, F, T>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.send(shard, target, work, false)
    }

    /// As [`Mesh::call`], but the work ends when the future is dropped.
    pub fn call_while_held<W, F, T>(
        &self,
        shard: &Rc<Shard>,
        target: ShardId,
        work: W,
    ) -> impl Future<Output = T> + use<W, F, T>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.send(shard, target, work, true)
    }

    fn send<W, F, T>(
        &self,
        shard: &Rc<Shard>,
        target: ShardId,
        work: W,
        is_held: bool,
    ) -> Either<F, Called<T>>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        if target == self.own {
            return Either::Left(work(shard.clone()));
        }
        let call = self.calls.borrow_mut().insert(Call::Made(None));
        let errand = Box::new(Parcel::Work(work));
        self.outbox(target).push(Message::Call {
            call,
            errand,
            is_held,
        });
        Either::Right(Called {
            shard: shard.clone(),
            target,
            call: Some(call),
            is_held,
            answer: PhantomData,
        })
    }

    fn outbox(&self, peer: ShardId) -> &Outbox {
        self.outboxes[usize::from(peer.0)]
            .as_ref()
            .expect("every other shard has an outbox")
    }

    /// Begins work for `peer`. Calls that are over at once need no task of their own.
    fn begin(
        &self,
        shard: &Rc<Shard>,
        peer: ShardId,
        call: CallId,
        errand: Box<dyn Errand>,
        is_held: bool,
    ) {
        let mut work = errand.begin(shard.clone());
        if let Some(errand) = (&mut work).now_or_never() {
            return self.answer(peer, call, Some(errand));
        }
        let shard = shard.clone();
        if is_held {
            let (work, handle) = abortable(work);
            self.running.borrow_mut().insert((peer, call), handle);
            glommio::spawn_local(async move {
                let errand = tasks::watched(Task::MESH_CALL, work).await;
                shard.mesh.running.borrow_mut().remove(&(peer, call));
                shard.mesh.answer(peer, call, errand.ok());
            })
            .detach();
        } else {
            glommio::spawn_local(async move {
                let errand = tasks::watched(Task::MESH_CALL, work).await;
                shard.mesh.answer(peer, call, Some(errand));
            })
            .detach();
        }
    }

    fn answer(&self, peer: ShardId, call: CallId, errand: Option<Box<dyn Errand>>) {
        self.outbox(peer).push(Message::Answer { call, errand });
    }

    fn on_answer(&self, call: CallId, errand: Option<Box<dyn Errand>>) {
        let mut calls = self.calls.borrow_mut();
        let Call::Made(waker) = &mut calls[call] else {
            let _caller_left = calls.remove(call);
            return;
        };
        let waker = waker.take();
        let errand = errand.expect("what nobody cancelled has its answer");
        calls[call] = Call::Answered(errand);
        drop(calls);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// The answer of a call that was made to another core.
struct Called<T> {
    shard: Rc<Shard>,
    target: ShardId,
    /// `None`: it has been answered.
    call: Option<CallId>,
    is_held: bool,
    answer: PhantomData<fn() -> T>,
}

impl<T: 'static> Future for Called<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let call = self.call.expect("it is not polled after its answer");
        let mut calls = self.shard.mesh.calls.borrow_mut();
        if let Call::Made(waker) = &mut calls[call] {
            waker
                .get_or_insert_with(|| context.waker().clone())
                .clone_from(context.waker());
            return Poll::Pending;
        }
        let Call::Answered(mut errand) = calls.remove(call) else {
            unreachable!("the caller is here");
        };
        drop(calls);
        self.call = None;
        let answer = errand.answer().downcast_mut::<Option<T>>();
        let answer = answer.expect("a call is answered with its own type");
        Poll::Ready(answer.take().expect("a call comes back with its answer"))
    }
}

impl<T> Drop for Called<T> {
    fn drop(&mut self) {
        let Some(call) = self.call else { return };
        let mesh = &self.shard.mesh;
        let mut calls = mesh.calls.borrow_mut();
        let answered = match &mut calls[call] {
            Call::Answered(_) => Some(calls.remove(call)),
            made => {
                *made = Call::Abandoned;
                None
            }
        };
        drop(calls);
        if answered.is_none() && self.is_held {
            mesh.outbox(self.target).push(Message::Cancel { call });
        }
    }
}

async fn send(shard: Rc<Shard>, peer: ShardId, sender: mpsc::Sender<Batch>, doorbell: Doorbell) {
    loop {
        let batch = shard.mesh.outbox(peer).take().await;
        if sender.send(batch).is_err() {
            return;
        }
        doorbell.ring();
    }
}

async fn receive(
    shard: Rc<Shard>,
    peers: Vec<(ShardId, mpsc::Receiver<Batch>)>,
    doorbell: Doorbell,
) {
    let mut answer = doorbell.answer();
    loop {
        answer.rung().await;
        for (peer, receiver) in &peers {
            for batch in receiver.try_iter() {
                take(&shard, *peer, batch);
                turn::yield_if_needed().await;
            }
        }
    }
}

/// So many messages ahead their errands are asked for.
const AHEAD: usize = 4;

fn take(shard: &Rc<Shard>, peer: ShardId, batch: Batch) {
    let mesh = &shard.mesh;
    batch.iter().take(AHEAD).for_each(Message::prefetch);
    let mut batch = batch.into_iter();
    while let Some(message) = batch.next() {
        if let Some(ahead) = batch.as_slice().get(AHEAD - 1) {
            ahead.prefetch();
        }
        match message {
            Message::Call {
                call,
                errand,
                is_held,
            } => mesh.begin(shard, peer, call, errand, is_held),
            Message::Cancel { call } => {
                let work = mesh.running.borrow_mut().remove(&(peer, call));
                work.iter().for_each(AbortHandle::abort);
            }
            Message::Answer { call, errand } => mesh.on_answer(call, errand),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures::channel::oneshot;
    use futures::future::join_all;

    use super::*;
    use crate::config::{self, Sources};
    use crate::io::{Disk, ring};
    use crate::log::{LogContext, TailBudget};
    use crate::net::seats::{Bounds, Connections};
    use crate::protocol::{Str, Uuid};
    use crate::shard::Broker;
    use crate::shard::layout::Layout;

    /// Runs `test` on the first of two connected shards.
    fn on_two_shards(test: impl AsyncFnOnce(Rc<Shard>) + Send + 'static) {
        let config = config::load(&Sources::default()).unwrap().config;
        let layout = Layout::new(&config, &[0, 1]);
        let broker = Arc::new(Broker {
            connections: Connections::new(&layout, Bounds::new(&config)),
            layout,
            config: Arc::new(config),
            cluster_id: Str::from("cluster"),
            directory_id: Uuid::ZERO,
            incarnation: Uuid::ZERO,
            shards: 2,
        });
        let (done, over) = oneshot::channel::<()>();
        let [first, second] = <[MeshEnds; 2]>::try_from(ends(2).unwrap()).ok().unwrap();
        let others = broker.clone();
        let shard = async |id, broker, ends| {
            ring::init_thread().unwrap();
            let logs = LogContext::on_this_thread(Disk::buffered(), TailBudget::new(1 << 20));
            let shard = Shard::new(id, broker, Mesh::new(id, &ends), logs);
            Mesh::run(&shard, ends);
            shard
        };
        let executor = || glommio::LocalExecutorBuilder::default();
        let second = executor().spawn(move || async move {
            let _shard = shard(ShardId(1), others, second).await;
            let _first_ended = over.await;
        });
        let first = executor().spawn(move || async move {
            let shard = shard(ShardId(0), broker, first).await;
            test(shard).await;
            drop(done);
        });
        first.unwrap().join().unwrap();
        second.unwrap().join().unwrap();
    }

    const OTHER: ShardId = ShardId(1);

    /// All that was sent before has been taken, and what it answered at once has come back.
    async fn settle(shard: &Rc<Shard>) {
        shard.mesh.call(shard, OTHER, |_| async {}).await;
    }

    /// Tells when it is dropped.
    struct Dropped(Option<oneshot::Sender<()>>);

    impl Drop for Dropped {
        fn drop(&mut self) {
            let _nobody_asks = self.0.take().map(|sender| sender.send(()));
        }
    }

    fn guard() -> (Dropped, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Dropped(Some(sender)), receiver)
    }

    #[test]
    fn calls_begin_in_order_and_each_has_its_own_answer() {
        on_two_shards(async |shard| {
            let begun = Arc::new(Mutex::new(Vec::new()));
            let calls = (0..3000).map(|number| {
                let begun = begun.clone();
                shard.mesh.call(&shard, OTHER, move |_| {
                    begun.lock().unwrap().push(number);
                    async move {
                        if number % 3 == 0 {
                            turn::yield_now().await;
                        }
                        number
                    }
                })
            });
            let answers = join_all(calls).await;
            assert!(answers.into_iter().eq(0..3000));
            assert!(begun.lock().unwrap().is_sorted());
            assert!(shard.mesh.calls.borrow().is_empty());
        });
    }

    #[test]
    fn a_held_call_ends_on_the_other_core_when_its_future_is_dropped() {
        on_two_shards(async |shard| {
            let (held, dropped) = guard();
            let call = shard
                .mesh
                .call_while_held(&shard, OTHER, move |_| async move {
                    let _held = held;
                    std::future::pending::<()>().await;
                });
            settle(&shard).await;
            drop(call);
            dropped.await.unwrap();
            assert!(shard.mesh.calls.borrow().is_empty());
            let left = shard.mesh.call(&shard, OTHER, |shard| async move {
                shard.mesh.running.borrow().len()
            });
            assert_eq!(left.await, 0);
        });
    }

    #[test]
    fn other_work_goes_on_when_nobody_waits_for_it() {
        on_two_shards(async |shard| {
            let (worked, done) = guard();
            drop(shard.mesh.call(&shard, OTHER, move |_| async move {
                turn::yield_now().await;
                drop(worked);
            }));
            done.await.unwrap();
            settle(&shard).await;
            assert!(shard.mesh.calls.borrow().is_empty());
        });
    }

    #[test]
    fn a_held_call_that_is_dropped_with_its_answer_on_the_way_harms_nobody() {
        on_two_shards(async |shard| {
            for _ in 0..100 {
                let call = shard.mesh.call_while_held(&shard, OTHER, |_| async {});
                turn::yield_now().await;
                drop(call);
            }
            settle(&shard).await;
            assert!(shard.mesh.calls.borrow().is_empty());
        });
    }
}
