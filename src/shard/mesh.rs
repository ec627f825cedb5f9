//! Owns the channels between the cores. Work for another core crosses once and its answer crosses back once;
//! what one turn sends to one peer travels as one batch. It knows nothing of what the work is.
//!
//! Between two cores order is kept: calls run, up to their first wait, in the order they were made.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::io;
use std::rc::Rc;
use std::sync::mpsc;
use std::task::Poll;

use futures::FutureExt;
use futures::channel::oneshot;
use futures::future::{AbortHandle, LocalBoxFuture, abortable};
use futures::task::AtomicWaker;

use crate::ids::ShardId;
use crate::io::turn::{self, Doorbell};
use crate::shard::Shard;
use crate::stages::tasks::{self, Task};

type Value = Box<dyn Any + Send>;
type Job = Box<dyn FnOnce(Rc<Shard>) -> LocalBoxFuture<'static, Value> + Send>;
type Batch = Vec<Message>;

enum Message {
    Call {
        id: u64,
        job: Job,
    },
    /// The caller is not interested any more.
    Cancel {
        id: u64,
    },
    Answer {
        id: u64,
        value: Value,
    },
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
    waiting: RefCell<HashMap<u64, oneshot::Sender<Value>>>,
    next_call: Cell<u64>,
    /// Work for others that may be cancelled, by caller and call.
    running: RefCell<HashMap<(ShardId, u64), AbortHandle>>,
}

/// What this turn has for one peer. The first message wakes the task that sends all of them.
#[derive(Default)]
struct Outbox {
    batch: RefCell<Batch>,
    sender: AtomicWaker,
}

impl Outbox {
    fn push(&self, message: Message) {
        let mut batch = self.batch.borrow_mut();
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
                Poll::Pending
            } else {
                Poll::Ready(batch)
            }
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
            waiting: RefCell::default(),
            next_call: Cell::new(0),
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
    ) -> LocalBoxFuture<'static, T>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        if target == self.own {
            return work(shard.clone()).boxed_local();
        }
        let (_, answer) = self.send(target, work);
        answer.map(unpacked).boxed_local()
    }

    /// As [`Mesh::call`], but the work ends when the future is dropped.
    pub fn call_while_held<W, F, T>(
        &self,
        shard: &Rc<Shard>,
        target: ShardId,
        work: W,
    ) -> LocalBoxFuture<'static, T>
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        if target == self.own {
            return work(shard.clone()).boxed_local();
        }
        let (id, answer) = self.send(target, work);
        let held = Held {
            shard: shard.clone(),
            target,
            id,
        };
        async move {
            let value = answer.await;
            drop(held);
            unpacked(value)
        }
        .boxed_local()
    }

    fn send<W, F, T>(&self, target: ShardId, work: W) -> (u64, oneshot::Receiver<Value>)
    where
        W: FnOnce(Rc<Shard>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let id = self.next_call.replace(self.next_call.get() + 1);
        let (sender, receiver) = oneshot::channel();
        self.waiting.borrow_mut().insert(id, sender);
        let job: Job = Box::new(move |shard| {
            work(shard)
                .map(|value| Box::new(value) as Value)
                .boxed_local()
        });
        self.outbox(target).push(Message::Call { id, job });
        (id, receiver)
    }

    fn outbox(&self, peer: ShardId) -> &Outbox {
        self.outboxes[usize::from(peer.0)]
            .as_ref()
            .expect("every other shard has an outbox")
    }

    fn answered(&self, id: u64, value: Value) {
        // Whoever cancelled the call has given up its place.
        if let Some(waiting) = self.waiting.borrow_mut().remove(&id) {
            let _not_interested = waiting.send(value);
        }
    }

    /// Begins work for `peer`. Most calls are over at once: they need no task of their own.
    fn begin(&self, shard: &Rc<Shard>, peer: ShardId, id: u64, job: Job) {
        let mut work = job(shard.clone());
        if let Some(value) = (&mut work).now_or_never() {
            self.outbox(peer).push(Message::Answer { id, value });
            return;
        }
        let (work, handle) = abortable(work);
        self.running.borrow_mut().insert((peer, id), handle);
        let shard = shard.clone();
        glommio::spawn_local(async move {
            let value = tasks::watched(Task::MESH_CALL, work).await;
            shard.mesh.running.borrow_mut().remove(&(peer, id));
            if let Ok(value) = value {
                shard.mesh.outbox(peer).push(Message::Answer { id, value });
            }
        })
        .detach();
    }
}

/// Cancels its call when it is dropped before the answer.
struct Held {
    shard: Rc<Shard>,
    target: ShardId,
    id: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        let mesh = &self.shard.mesh;
        if mesh.waiting.borrow_mut().remove(&self.id).is_some() {
            mesh.outbox(self.target)
                .push(Message::Cancel { id: self.id });
        }
    }
}

fn unpacked<T: 'static>(value: Result<Value, oneshot::Canceled>) -> T {
    let value = value.expect("a call is answered while both shards live");
    *value
        .downcast()
        .expect("a call is answered with its own type")
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

fn take(shard: &Rc<Shard>, peer: ShardId, batch: Batch) {
    for message in batch {
        match message {
            Message::Call { id, job } => shard.mesh.begin(shard, peer, id, job),
            Message::Cancel { id } => {
                if let Some(work) = shard.mesh.running.borrow_mut().remove(&(peer, id)) {
                    work.abort();
                }
            }
            Message::Answer { id, value } => shard.mesh.answered(id, value),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

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
            assert!(shard.mesh.waiting.borrow().is_empty());
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
            assert!(shard.mesh.waiting.borrow().is_empty());
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
            assert!(shard.mesh.waiting.borrow().is_empty());
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
            assert!(shard.mesh.waiting.borrow().is_empty());
        });
    }
}
