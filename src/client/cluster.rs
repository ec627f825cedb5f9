//! Owns what a client knows of its cluster: brokers, topics, leaders, and one connection to each broker in use.
//! It never sends records; those who do tell it when what it knows has proved old.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::time::Duration;

use super::notify::Notify;
use super::time::Attempts;
use super::{ClientError, Connection, ConnectionOptions};
use crate::ids::{BrokerId, LeaderEpoch, PartitionIndex};
use crate::protocol::messages::metadata_request::MetadataRequestTopic;
use crate::protocol::messages::metadata_response::{
    MetadataResponsePartition, MetadataResponseTopic,
};
use crate::protocol::messages::{MetadataRequest, MetadataResponse};
use crate::protocol::{ErrorCode, Str, Uuid};

/// How long a topic that must exist may take to become known: its creation may just have been answered.
const KNOWN_WITHIN: Duration = Duration::from_millis(500);

/// How long a broker may take to create a topic on its own.
const CREATED_WITHIN: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub struct ClusterOptions {
    pub connection: ConnectionOptions,
    /// How long an operation is tried again before its error is the answer.
    pub retry_for: Duration,
}

impl Default for ClusterOptions {
    fn default() -> ClusterOptions {
        ClusterOptions {
            connection: ConnectionOptions::default(),
            retry_for: Duration::from_secs(30),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Topic {
    pub name: Str,
    /// Zero from brokers that have no topic ids.
    pub id: Uuid,
    pub is_internal: bool,
    /// In order of their index.
    pub partitions: Vec<Partition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Partition {
    pub index: PartitionIndex,
    pub leader: Option<BrokerId>,
    pub leader_epoch: LeaderEpoch,
    pub replicas: Vec<BrokerId>,
    pub isr: Vec<BrokerId>,
}

impl Topic {
    pub fn partition(&self, index: PartitionIndex) -> Option<&Partition> {
        let found = self.partitions.binary_search_by_key(&index, |p| p.index);
        Some(&self.partitions[found.ok()?])
    }
}

/// What to do about a topic that does not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Missing {
    Fail,
    /// Let the broker create it, if its settings allow that.
    Create,
}

/// Clones share connections and what is known.
#[derive(Clone, Debug)]
pub struct Cluster {
    shared: Rc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bootstrap: Vec<String>,
    options: ClusterOptions,
    /// The connection that metadata is asked on, while no broker's own is open.
    first: RefCell<Option<Connection>>,
    known: RefCell<Known>,
    links: RefCell<HashMap<BrokerId, Link>>,
    linked: Notify,
    /// Goes round, so that a request that any broker can answer meets a different one after a failure.
    turn: Cell<usize>,
}

#[derive(Debug, Default)]
struct Known {
    cluster_id: Option<Str>,
    controller: Option<BrokerId>,
    brokers: BTreeMap<BrokerId, Str>,
    topics: HashMap<Str, Rc<Topic>>,
}

#[derive(Debug)]
enum Link {
    Connecting,
    Open(Connection),
}

impl Cluster {
    /// Connects to the first of `bootstrap` (a list of host:port) that answers, and learns the brokers from it.
    pub async fn connect(
        bootstrap: &[String],
        options: ClusterOptions,
    ) -> Result<Cluster, ClientError> {
        let cluster = Cluster {
            shared: Rc::new(Shared {
                bootstrap: bootstrap.to_vec(),
                options,
                first: RefCell::default(),
                known: RefCell::default(),
                links: RefCell::default(),
                linked: Notify::default(),
                turn: Cell::new(0),
            }),
        };
        cluster.refresh(Some(&[]), Missing::Fail).await?;
        Ok(cluster)
    }

    pub fn options(&self) -> &ClusterOptions {
        &self.shared.options
    }

    /// The attempts that one operation gets.
    pub fn attempts(&self) -> Attempts {
        Attempts::within(self.shared.options.retry_for)
    }

    pub fn cluster_id(&self) -> Option<Str> {
        self.shared.known.borrow().cluster_id.clone()
    }

    pub fn brokers(&self) -> Vec<BrokerId> {
        self.shared.known.borrow().brokers.keys().copied().collect()
    }

    /// Asks for the metadata of `topics`, or of all with `None`, and remembers it. Errors of single topics are
    /// in the answer.
    pub async fn refresh(
        &self,
        topics: Option<&[Str]>,
        missing: Missing,
    ) -> Result<MetadataResponse, ClientError> {
        let request = MetadataRequest {
            topics: topics.map(|names| names.iter().map(by_name).collect()),
            allow_auto_topic_creation: missing == Missing::Create,
            ..MetadataRequest::default()
        };
        let response = self.any().await?.call(&request).await?;
        ClientError::check(response.error_code, None, || "metadata".into())?;
        self.remember(&response);
        Ok(response)
    }

    /// What is known of a topic, asking for it when nothing is.
    pub async fn topic(&self, name: &Str, missing: Missing) -> Result<Rc<Topic>, ClientError> {
        if let Some(topic) = self.known_topic(name) {
            return Ok(topic);
        }
        let mut attempts = self.attempts();
        let mut until_known = Attempts::within(match missing {
            Missing::Fail => KNOWN_WITHIN,
            Missing::Create => CREATED_WITHIN,
        });
        loop {
            match self.ask_for(name, missing).await {
                Ok(topic) => return Ok(topic),
                Err(error) if error.code() == Some(ErrorCode::UnknownTopicOrPartition) => {
                    until_known.again(error).await?;
                }
                Err(error) => attempts.again(error).await?,
            }
        }
    }

    pub fn known_topic(&self, name: &Str) -> Option<Rc<Topic>> {
        self.shared.known.borrow().topics.get(name).cloned()
    }

    /// Asks anew for a topic that proved to have changed. Failing is no harm: the next one may succeed.
    pub async fn renew(&self, name: &Str) {
        if let Err(error) = self.ask_for(name, Missing::Fail).await {
            tracing::debug!(topic = %name, %error, "metadata not renewed");
        }
    }

    async fn ask_for(&self, name: &Str, missing: Missing) -> Result<Rc<Topic>, ClientError> {
        let response = self
            .refresh(Some(std::slice::from_ref(name)), missing)
            .await?;
        let mut topics = response.topics.iter();
        let found = topics.find(|topic| topic.name.as_ref() == Some(name));
        let code = found.map_or(ErrorCode::UnknownTopicOrPartition.code(), |t| t.error_code);
        ClientError::check(code, None, || format!("topic '{name}'"))?;
        Ok(self.known_topic(name).expect("just remembered"))
    }

    /// A connection to any broker: an open one if there is one.
    pub async fn any(&self) -> Result<Connection, ClientError> {
        let open = self.shared.links.borrow().values().find_map(Link::open);
        let first = self.shared.first.borrow().clone();
        if let Some(connection) = open.or(first.filter(|connection| !connection.is_closed())) {
            return Ok(connection);
        }
        let mut addresses = self.shared.bootstrap.clone();
        let known = self.shared.known.borrow().brokers.clone();
        let learnt = known.values().map(|address| address.to_string());
        addresses.extend(learnt.filter(|address| !self.shared.bootstrap.contains(address)));
        let start = self.shared.turn.get() % addresses.len().max(1);
        let mut errors = Vec::new();
        for turn in 0..addresses.len() {
            let address = &addresses[(start + turn) % addresses.len()];
            match Connection::connect(address, &self.shared.options.connection).await {
                Ok(connection) => {
                    *self.shared.first.borrow_mut() = Some(connection.clone());
                    return Ok(connection);
                }
                Err(error) => errors.push(error),
            }
            self.shared.turn.set(start + turn + 1);
        }
        Err(match errors.len() {
            1 => errors.remove(0),
            _ => ClientError::Bootstrap(errors),
        })
    }

    /// The connection to one broker; those who ask at the same time get the same one.
    pub async fn broker(&self, id: BrokerId) -> Result<Connection, ClientError> {
        let shared = &self.shared;
        loop {
            match shared.links.borrow().get(&id) {
                Some(Link::Open(connection)) if !connection.is_closed() => {
                    return Ok(connection.clone());
                }
                Some(Link::Connecting) => {}
                Some(Link::Open(_)) | None => break,
            }
            let settled = || !matches!(shared.links.borrow().get(&id), Some(Link::Connecting));
            shared.linked.wait_until(settled).await;
        }
        let address = shared.known.borrow().brokers.get(&id).cloned();
        let address = address.ok_or_else(|| ClientError::Broker {
            code: ErrorCode::LeaderNotAvailable,
            subject: format!("broker {id}"),
            message: "The cluster's metadata has no address for it.".into(),
        })?;
        let connecting = Connecting { cluster: self, id };
        shared.links.borrow_mut().insert(id, Link::Connecting);
        let connected = Connection::connect(&address, &shared.options.connection).await;
        connecting.done(connected.as_ref().ok());
        connected
    }

    /// The broker that administers the cluster, or one that passes requests on to it.
    pub async fn controller(&self) -> Result<Connection, ClientError> {
        let controller = self.shared.known.borrow().controller;
        match controller {
            Some(id) => self.broker(id).await,
            None => self.any().await,
        }
    }

    /// The leader of a partition as far as known; asks when nothing is known.
    pub async fn leader(
        &self,
        topic: &Str,
        partition: PartitionIndex,
    ) -> Result<BrokerId, ClientError> {
        let subject = || format!("partition {topic}-{partition}");
        let found = self.topic(topic, Missing::Fail).await?;
        let error =
            |code: ErrorCode| ClientError::from_code(code.code(), None, subject).expect("an error");
        let partition = found
            .partition(partition)
            .ok_or_else(|| error(ErrorCode::UnknownTopicOrPartition))?;
        partition
            .leader
            .ok_or_else(|| error(ErrorCode::LeaderNotAvailable))
    }

    fn remember(&self, response: &MetadataResponse) {
        let mut known = self.shared.known.borrow_mut();
        // Names are slices of the response, which as a whole is not worth keeping.
        known.cluster_id = response.cluster_id.as_ref().map(Str::detach);
        known.controller =
            (response.controller_id >= 0).then_some(BrokerId(response.controller_id));
        known.brokers = response
            .brokers
            .iter()
            .map(|broker| {
                let host = match broker.host.contains(':') {
                    true => format!("[{}]", broker.host),
                    false => broker.host.to_string(),
                };
                let address = Str::from(format!("{host}:{}", broker.port));
                (BrokerId(broker.node_id), address)
            })
            .collect();
        for topic in &response.topics {
            let Some(name) = topic.name.as_ref().map(Str::detach) else {
                continue;
            };
            if topic.error_code == 0 {
                let topic = Rc::new(topic_of(&name, topic));
                known.topics.insert(name, topic);
            } else {
                known.topics.remove(&name);
            }
        }
    }
}

/// Takes the mark of a connection being made away again, also when its maker is dropped half-way.
struct Connecting<'a> {
    cluster: &'a Cluster,
    id: BrokerId,
}

impl Connecting<'_> {
    fn done(self, connection: Option<&Connection>) {
        if let Some(connection) = connection {
            let link = Link::Open(connection.clone());
            self.cluster.shared.links.borrow_mut().insert(self.id, link);
        }
    }
}

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        let shared = &self.cluster.shared;
        let mut links = shared.links.borrow_mut();
        if matches!(links.get(&self.id), Some(Link::Connecting)) {
            links.remove(&self.id);
        }
        drop(links);
        shared.linked.notify();
    }
}

impl Link {
    fn open(&self) -> Option<Connection> {
        match self {
            Link::Open(connection) if !connection.is_closed() => Some(connection.clone()),
            Link::Open(_) | Link::Connecting => None,
        }
    }
}

fn by_name(name: &Str) -> MetadataRequestTopic {
    MetadataRequestTopic {
        name: Some(name.clone()),
        ..MetadataRequestTopic::default()
    }
}

fn topic_of(name: &Str, topic: &MetadataResponseTopic) -> Topic {
    let mut partitions: Vec<Partition> = topic.partitions.iter().map(partition_of).collect();
    partitions.sort_by_key(|partition| partition.index);
    Topic {
        name: name.clone(),
        id: topic.topic_id,
        is_internal: topic.is_internal,
        partitions,
    }
}

fn partition_of(partition: &MetadataResponsePartition) -> Partition {
    let ids = |ids: &[i32]| ids.iter().copied().map(BrokerId).collect();
    Partition {
        index: PartitionIndex(partition.partition_index),
        leader: (partition.leader_id >= 0).then_some(BrokerId(partition.leader_id)),
        leader_epoch: LeaderEpoch(partition.leader_epoch),
        replicas: ids(&partition.replica_nodes),
        isr: ids(&partition.isr_nodes),
    }
}
