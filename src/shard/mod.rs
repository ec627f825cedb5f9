//! Owns one core: its partitions, its copy of the metadata, its way to the other cores.
//! It is the state that handlers work on; it decides nothing of Kafka's itself.

pub mod checkpoints;
pub mod cleaner;
pub mod coordinators;
pub mod held;
pub mod layout;
pub mod mesh;
pub mod producer_ids;
pub mod routes;
pub mod start;
pub mod strays;
pub mod sync;
pub mod traffic;
pub mod walk;

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use futures::future::join_all;
use tracing::warn;

use crate::config::{BrokerConfig, DynamicConfigs, TopicConfig};
use crate::controller::driver::ControllerDriver;
use crate::controller::{MetadataDelta, MetadataImage, ResourceType, TopicImage};
use crate::handler::fetch_session::FetchSessions;
use crate::ids::{BrokerId, PartitionIndex, ShardId};
use crate::io::clock;
use crate::io::timer;
use crate::io::turn;
use crate::log::LogContext;
use crate::net::budget::{RequestBudget, ResponseBudget};
use crate::net::complaints::Complaints;
use crate::net::seats::{Bounds, Connections};
use crate::partition::{Partition, PartitionError};
use crate::protocol::{Str, Uuid};
use checkpoints::Checkpoints;
use coordinators::Coordinators;
use layout::{Layout, Plan};
use mesh::Mesh;
use producer_ids::ProducerIds;
use traffic::Traffic;
use walk::{Walk, WalkKey};

/// How often a shard looks at its partitions for what time alone brings about.
const TICK: Duration = Duration::from_millis(500);

/// The core on which the embedded controller runs.
pub const CONTROLLER_SHARD: ShardId = ShardId(0);

/// What all cores of the process share, unchanging.
#[derive(Debug)]
pub struct Broker {
    pub config: Arc<BrokerConfig>,
    pub cluster_id: Str,
    /// Of the data folder (KIP-858).
    pub directory_id: Uuid,
    /// Of this run of the process.
    pub incarnation: Uuid,
    pub shards: u16,
    pub layout: Layout,
    pub connections: Arc<Connections>,
}

impl Broker {
    pub fn id(&self) -> BrokerId {
        self.config.node_id
    }

    /// The core of a partition.
    pub fn shard_of(&self, topic_id: Uuid, index: PartitionIndex) -> ShardId {
        routes::shard_of(topic_id, index, self.layout.partitions())
    }
}

/// The image of all cores, as one of them holds it: who uses it is not counted where the others count.
#[allow(
    clippy::redundant_allocation,
    reason = "a counter that all cores write to for each request takes each of them a tenth of a microsecond"
)]
type CountedHere = Rc<Arc<MetadataImage>>;

type PartitionKey = (Uuid, PartitionIndex);

pub struct Shard {
    pub id: ShardId,
    pub broker: Arc<Broker>,
    pub mesh: Mesh,
    pub logs: LogContext,
    pub fetch_sessions: RefCell<FetchSessions>,
    pub producer_ids: ProducerIds,
    pub coordinators: Coordinators,
    pub complaints: Complaints,
    /// For the next connection that receives and has none.
    pub spare_buffer: Cell<BytesMut>,
    pub traffic: Traffic,
    /// Of the data folder; on the core alone whose duty they are.
    pub checkpoints: Checkpoints,
    pub request_memory: Rc<RequestBudget>,
    pub response_memory: Rc<ResponseBudget>,
    /// On the core that runs the embedded controller alone.
    controller: RefCell<Option<Rc<ControllerDriver>>>,
    image: RefCell<CountedHere>,
    /// Settings of topics that have their own, resolved; all others share `default_config`.
    topic_configs: RefCell<HashMap<Uuid, Arc<TopicConfig>>>,
    default_config: RefCell<Arc<TopicConfig>>,
    /// `None`: its log could not be opened.
    partitions: RefCell<HashMap<PartitionKey, Option<Rc<Partition>>>>,
    /// Those of them that are open.
    in_order: RefCell<BTreeMap<WalkKey, Rc<Partition>>>,
    /// Clients are accepted.
    serving: Cell<bool>,
    stopping: Cell<bool>,
}

impl Shard {
    pub fn new(id: ShardId, broker: Arc<Broker>, mesh: Mesh, logs: LogContext) -> Rc<Shard> {
        let sessions = broker.config.fetch_session_slots / broker.layout.network().len();
        let sessions = FetchSessions::new(id, sessions, crate::io::entropy::seed());
        Rc::new(Shard {
            id,
            mesh,
            logs,
            fetch_sessions: RefCell::new(sessions),
            producer_ids: ProducerIds::default(),
            coordinators: Coordinators::new(clock::now()),
            complaints: Complaints::new(clock::now()),
            spare_buffer: Cell::default(),
            traffic: Traffic::default(),
            checkpoints: Checkpoints::default(),
            request_memory: RequestBudget::new(broker.layout.plan(id).request_bytes),
            response_memory: ResponseBudget::new(broker.layout.plan(id).response_bytes),
            controller: RefCell::default(),
            image: RefCell::new(Rc::new(Arc::new(MetadataImage::new(
                broker.cluster_id.clone(),
            )))),
            topic_configs: RefCell::default(),
            default_config: RefCell::new(Arc::new(broker.config.static_topic_config())),
            partitions: RefCell::default(),
            in_order: RefCell::default(),
            serving: Cell::new(false),
            stopping: Cell::new(false),
            broker,
        })
    }

    /// What this core is for.
    pub fn plan(&self) -> &Plan {
        self.broker.layout.plan(self.id)
    }

    pub fn image(&self) -> CountedHere {
        self.image.borrow().clone()
    }

    pub fn set_image(&self, image: Arc<MetadataImage>) {
        *self.image.borrow_mut() = Rc::new(image);
    }

    /// Its settings over the broker's over the defaults.
    pub fn topic_config(&self, topic_id: Uuid) -> Arc<TopicConfig> {
        let own = self.topic_configs.borrow().get(&topic_id).cloned();
        own.unwrap_or_else(|| self.default_config.borrow().clone())
    }

    /// Resolves the settings anew that `delta` may have changed, and tells the partitions here.
    pub fn retune(&self, image: &MetadataImage, delta: &MetadataDelta) {
        if delta.broker_configs_changed {
            return self.retune_all(image);
        }
        for topic in delta.deleted_topics.values() {
            self.topic_configs.borrow_mut().remove(&topic.id);
            self.traffic.forget(topic.id);
        }
        for name in &delta.changed_topic_configs {
            if let Some(topic) = image.topic(name) {
                self.retune_topic(image, topic);
            }
        }
    }

    pub fn retune_all(&self, image: &MetadataImage) {
        let dynamic = image.dynamic_configs(self.broker.id());
        let default = self
            .broker
            .config
            .topic_config(&Default::default(), &dynamic);
        *self.default_config.borrow_mut() = Arc::new(default);
        self.reconfigure(&dynamic);
        for topic in image.topics() {
            self.retune_topic(image, topic);
        }
    }

    /// Those of the broker's own settings that may change while it runs.
    fn reconfigure(&self, dynamic: &DynamicConfigs) {
        match self.broker.config.reconfigured(dynamic) {
            Ok(config) => {
                let expiration_ms = config.producer_id_expiration_ms;
                self.logs.producer_id_expiration_ms.set(expiration_ms);
                self.broker.connections.set_bounds(Bounds::new(&config));
            }
            Err(error) => warn!(%error, "the broker's dynamic settings contradict its own"),
        }
    }

    fn retune_topic(&self, image: &MetadataImage, topic: &TopicImage) {
        let own = image.configs(ResourceType::Topic, &topic.name);
        match own.filter(|own| !own.is_empty()) {
            Some(own) => {
                let dynamic = image.dynamic_configs(self.broker.id());
                let config = Arc::new(self.broker.config.topic_config(own, &dynamic));
                self.topic_configs.borrow_mut().insert(topic.id, config);
            }
            None => {
                self.topic_configs.borrow_mut().remove(&topic.id);
            }
        }
        let config = self.topic_config(topic.id);
        for index in 0..topic.partitions.len() {
            if let Ok(partition) = self.partition(topic.id, PartitionIndex(index as i32)) {
                partition.log().set_settings(sync::log_settings(&config));
            }
        }
    }

    /// A partition of this core.
    pub fn partition(
        &self,
        topic_id: Uuid,
        index: PartitionIndex,
    ) -> Result<Rc<Partition>, PartitionError> {
        match self.partitions.borrow().get(&(topic_id, index)) {
            None => Err(PartitionError::NotHere),
            Some(None) => Err(PartitionError::Offline),
            Some(Some(partition)) => Ok(partition.clone()),
        }
    }

    pub fn add(&self, partition: Rc<Partition>) {
        let key = (partition.topic_id, partition.index);
        let mut in_order = self.in_order.borrow_mut();
        in_order.insert(walk::key_of(&partition), partition.clone());
        self.partitions.borrow_mut().insert(key, Some(partition));
    }

    pub fn add_offline(&self, topic_id: Uuid, index: PartitionIndex) {
        self.partitions.borrow_mut().insert((topic_id, index), None);
    }

    pub fn take(&self, topic_id: Uuid, index: PartitionIndex) -> Option<Rc<Partition>> {
        let taken = self.partitions.borrow_mut().remove(&(topic_id, index));
        let taken = taken.flatten();
        if let Some(partition) = &taken {
            self.in_order.borrow_mut().remove(&walk::key_of(partition));
            self.traffic.on_departed(partition.arrived());
        }
        taken
    }

    /// Partitions of this core whose log could not be opened.
    pub fn unopened_count(&self) -> usize {
        let partitions = self.partitions.borrow();
        partitions
            .values()
            .filter(|opened| opened.is_none())
            .count()
    }

    /// Whether a log of this core could not be opened.
    pub fn has_offline(&self) -> bool {
        self.partitions.borrow().values().any(Option::is_none)
    }

    /// The open partitions of this core, by topic name and number.
    pub fn partitions(&self) -> Vec<Rc<Partition>> {
        self.in_order.borrow().values().cloned().collect()
    }

    /// The open partitions of this core some at a time, by topic name and number.
    pub fn walk(&self) -> Walk<'_> {
        Walk::new(self)
    }

    /// Runs `work` on the core of a partition.
    pub async fn on_partition<W, F, T>(
        self: &Rc<Self>,
        topic_id: Uuid,
        index: PartitionIndex,
        work: W,
    ) -> Result<T, PartitionError>
    where
        W: FnOnce(Rc<Partition>) -> F + Send + 'static,
        F: Future<Output = Result<T, PartitionError>> + 'static,
        T: Send + 'static,
    {
        let target = self.broker.shard_of(topic_id, index);
        let call = self.mesh.call(self, target, move |shard| async move {
            let partition = shard.partition(topic_id, index)?;
            work(partition).await
        });
        call.await
    }

    /// Runs `work` where the embedded controller is.
    pub async fn on_controller<W, F, T>(self: &Rc<Self>, work: W) -> T
    where
        W: FnOnce(Rc<Shard>, Rc<ControllerDriver>) -> F + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let call = self.mesh.call(self, CONTROLLER_SHARD, move |shard| {
            let driver = shard.controller.borrow().clone();
            work(
                shard,
                driver.expect("the controller runs before anyone is served"),
            )
        });
        call.await
    }

    /// Runs `work` on every core at the same time.
    pub async fn everywhere<W, F, T>(self: &Rc<Self>, work: W) -> Vec<T>
    where
        W: Fn(Rc<Shard>) -> F + Clone + Send + 'static,
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let calls = (0..self.broker.shards).map(|target| {
            let work = work.clone();
            self.mesh.call(self, ShardId(target), work)
        });
        join_all(calls).await
    }

    /// The embedded controller, on its core.
    pub fn controller(&self) -> Option<Rc<ControllerDriver>> {
        self.controller.borrow().clone()
    }

    pub fn set_controller(&self, driver: Rc<ControllerDriver>) {
        *self.controller.borrow_mut() = Some(driver);
    }

    /// From now on clients are accepted.
    pub fn begin_to_serve(&self) {
        self.serving.set(true);
    }

    /// Whether clients are accepted and served.
    pub fn is_serving(&self) -> bool {
        self.serving.get() && !self.stopping.get()
    }

    pub fn stopping(&self) -> bool {
        self.stopping.get()
    }

    /// From now on nobody is accepted, and who waits for bytes to fetch gets what there is.
    pub fn begin_to_stop(&self) {
        self.stopping.set(true);
        for partition in self.partitions() {
            partition.on_stopping();
        }
        self.coordinators.stop();
    }

    /// Does what time brings about, until the shard stops.
    pub async fn tick(self: Rc<Self>) {
        let config = &self.broker.config;
        let retention_interval = Duration::from_millis(config.retention_check_interval_ms);
        let mut retention_due = clock::now() + Duration::from_millis(config.initial_task_delay_ms);
        while !self.stopping.get() {
            timer::sleep(TICK).await;
            let now = clock::now();
            self.fetch_sessions.borrow_mut().evict_idle(now);
            // Of the metadata log `controller::checkpoint` alone removes segments.
            if let Some(controller) = self.controller() {
                let _told = controller.log().tick(clock::wall_ms()).await;
            }
            let retention = now >= retention_due;
            if retention {
                retention_due = now + retention_interval;
            }
            let mut walk = self.walk();
            while let Some(some) = walk.next().await {
                for partition in some {
                    partition.on_tick(clock::ticks());
                    let wall = clock::wall_ms();
                    let log = partition.log();
                    // A log that fails goes offline and says so itself; the others live on.
                    let _told = log.tick(wall).await;
                    if retention {
                        let _told = log
                            .enforce_retention(wall, partition.marks().high_watermark)
                            .await;
                    }
                    turn::yield_if_needed().await;
                }
            }
        }
    }
}
