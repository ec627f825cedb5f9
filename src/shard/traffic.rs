//! Owns what one core counts of records that come and go, for the metrics; what came into a partition counts itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;

use crate::partition::Arrived;
use crate::protocol::Uuid;

#[derive(Debug, Default)]
pub struct Traffic {
    fetched_bytes: RefCell<HashMap<Uuid, u64>>,
    fetched_bytes_of_all: Cell<u64>,
    failed_produces: Cell<u64>,
    failed_fetches: Cell<u64>,
    /// Into partitions that are gone from this core.
    departed: Cell<Arrived>,
}

impl Traffic {
    /// A response has so many bytes of one of the topic's partitions.
    pub fn on_fetched(&self, topic_id: Uuid, bytes: usize) {
        let bytes = bytes as u64;
        *self.fetched_bytes.borrow_mut().entry(topic_id).or_default() += bytes;
        let all = &self.fetched_bytes_of_all;
        all.set(all.get() + bytes);
    }

    /// A partition of a request was refused.
    pub fn on_failed_produce(&self) {
        self.failed_produces.set(self.failed_produces.get() + 1);
    }

    /// A partition of a request was refused.
    pub fn on_failed_fetch(&self) {
        self.failed_fetches.set(self.failed_fetches.get() + 1);
    }

    pub fn on_departed(&self, arrived: Arrived) {
        self.departed.set(self.departed.get() + arrived);
    }

    /// The topic is deleted: nobody asks for its own counts any more.
    pub fn forget(&self, topic_id: Uuid) {
        self.fetched_bytes.borrow_mut().remove(&topic_id);
    }

    pub fn departed(&self) -> Arrived {
        self.departed.get()
    }

    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes_of_all.get()
    }

    pub fn fetched_bytes_by_topic(&self) -> Vec<(Uuid, u64)> {
        let fetched = self.fetched_bytes.borrow();
        fetched.iter().map(|(id, bytes)| (*id, *bytes)).collect()
    }

    pub fn failed_produces(&self) -> u64 {
        self.failed_produces.get()
    }

    pub fn failed_fetches(&self) -> u64 {
        self.failed_fetches.get()
    }
}
