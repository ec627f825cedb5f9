//! Owns the embedded controller's meeting with the world: it stores what the machine decides, hands the new
//! image to every core, and only then lets the answer out. It decides nothing itself.
//!
//! A consensus engine takes the place of "durable in the local log" when there are several controllers.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use futures::StreamExt;
use futures::channel::{mpsc, oneshot};
use futures::future::LocalBoxFuture;
use tracing::error;

use crate::controller::checkpoint::Checkpoints;
use crate::controller::{
    Controller, Entropy, MetadataBatch, MetadataDelta, MetadataImage, Outcome,
};
use crate::ids::{LeaderEpoch, TimestampMs};
use crate::io::{clock, entropy};
use crate::log::{Log, LogEvent};
use crate::partition::waiting::{DelayedProduces, ProduceWaiter};
use crate::stages::tasks::{self, Task};

/// Hands an image, and what is new in it, to every core; resolves when all of them have it.
pub type Publish =
    Box<dyn Fn(Arc<MetadataImage>, Arc<MetadataDelta>) -> LocalBoxFuture<'static, ()>>;

/// Lives on one core; others reach it through the mesh.
pub struct ControllerDriver {
    machine: RefCell<Controller>,
    log: Rc<Log>,
    durable: Rc<RefCell<DelayedProduces>>,
    stored: mpsc::UnboundedSender<Work>,
    /// Batches that are stored and not applied yet.
    pending: Rc<Cell<usize>>,
}

/// What the applying task does, in the order it is asked to.
enum Work {
    Apply(Stored),
    /// Says when all before it is applied.
    Tell(oneshot::Sender<()>),
}

/// A batch on its way: in the log, to be applied when it is durable.
struct Stored {
    batch: MetadataBatch,
    bytes: usize,
    timestamp: TimestampMs,
    durable: Rc<ProduceWaiter>,
    applied: oneshot::Sender<()>,
}

impl ControllerDriver {
    /// Starts driving `machine`, whose log has been replayed into `image`.
    pub fn start(
        publish: Publish,
        machine: Controller,
        image: MetadataImage,
        log: Rc<Log>,
        checkpoints: Checkpoints,
    ) -> Rc<ControllerDriver> {
        let durable: Rc<RefCell<DelayedProduces>> = Rc::default();
        let (observed, observed_log) = (durable.clone(), Rc::downgrade(&log));
        log.set_observer(Rc::new(move |event| match event {
            LogEvent::Durable => {
                if let Some(log) = observed_log.upgrade() {
                    observed.borrow_mut().on_advance(log.durable_end());
                }
            }
            LogEvent::Offline(error) => observed.borrow_mut().on_failure(&error),
            LogEvent::Written => {}
        }));
        let (stored, incoming) = mpsc::unbounded();
        let pending: Rc<Cell<usize>> = Rc::default();
        let applying = apply_in_order(publish, image, incoming, pending.clone(), checkpoints);
        tasks::spawn(Task::CONTROLLER, applying).detach();
        Rc::new(ControllerDriver {
            machine: RefCell::new(machine),
            log,
            durable,
            stored,
            pending,
        })
    }

    pub fn log(&self) -> &Rc<Log> {
        &self.log
    }

    pub fn epoch(&self) -> i32 {
        self.machine.borrow().epoch()
    }

    /// Lets the machine decide, and answers when the decision is durable and every core knows of it.
    pub async fn submit<R>(
        &self,
        decide: impl FnOnce(&mut Controller, &mut Entropy) -> Outcome<R>,
    ) -> R {
        let outcome = decide(
            &mut self.machine.borrow_mut(),
            &mut Entropy::new([entropy::seed(), entropy::seed()]),
        );
        let applied = match outcome.batch {
            Some(batch) => self.store(batch),
            None if self.pending.get() == 0 => return outcome.response,
            // The answer may tell of a decision that is not durable yet: "exists already".
            None => self.barrier(),
        };
        if applied.await.is_err() {
            stop_the_process("the controller has lost its log");
        }
        outcome.response
    }

    fn barrier(&self) -> oneshot::Receiver<()> {
        let (reached, receiver) = oneshot::channel();
        self.enqueue(Work::Tell(reached));
        receiver
    }

    fn enqueue(&self, work: Work) {
        self.stored
            .unbounded_send(work)
            .expect("the applying task lives as long as the shard");
    }

    fn store(&self, batch: MetadataBatch) -> oneshot::Receiver<()> {
        let now = clock::wall_ms();
        let bytes = batch.encode(now);
        let appended = match self.log.append(&bytes, LeaderEpoch(batch.epoch), now) {
            Ok(appended) => appended,
            Err(error) => stop_the_process(&error.to_string()),
        };
        assert_eq!(
            appended.base_offset.0, batch.base_offset,
            "the machine and its log agree"
        );
        let (durable, ticket) = ProduceWaiter::alone();
        let end = appended.last_offset.plus(1);
        self.durable.borrow_mut().wait(end, ticket);
        let (applied, receiver) = oneshot::channel();
        let stored = Stored {
            batch,
            bytes: bytes.len(),
            timestamp: now,
            durable,
            applied,
        };
        self.pending.set(self.pending.get() + 1);
        self.enqueue(Work::Apply(stored));
        receiver
    }
}

async fn apply_in_order(
    publish: Publish,
    mut image: MetadataImage,
    mut incoming: mpsc::UnboundedReceiver<Work>,
    pending: Rc<Cell<usize>>,
    checkpoints: Checkpoints,
) {
    while let Some(work) = incoming.next().await {
        let stored = match work {
            Work::Apply(stored) => stored,
            Work::Tell(reached) => {
                let _client_gone = reached.send(());
                continue;
            }
        };
        if let Err(error) = stored.durable.outcome().await {
            stop_the_process(&error.to_string());
        }
        let delta = image
            .apply_batch(&stored.batch)
            .expect("the machine has applied the same batch");
        let image = Arc::new(image.clone());
        checkpoints.on_applied(stored.bytes, stored.timestamp, &image);
        publish(image, Arc::new(delta)).await;
        pending.set(pending.get() - 1);
        let _client_gone = stored.applied.send(());
    }
}

/// Without its log the controller can promise nothing any more. What is acknowledged is on disk; recovery does the rest.
fn stop_the_process(reason: &str) -> ! {
    error!(reason, "the metadata log failed; the broker stops");
    std::process::exit(1);
}
