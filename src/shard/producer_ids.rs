//! Owns this core's block of producer ids: the controller hands out blocks (AllocateProducerIds' records), and a
//! block serves until it is used up.

use std::cell::RefCell;
use std::ops::Range;
use std::rc::Rc;

use futures::lock::Mutex;

use crate::controller::{PRODUCER_ID_BLOCK, Refusal};
use crate::ids::ProducerId;
use crate::shard::Shard;

#[derive(Debug)]

pub struct ProducerIds {
    left: RefCell<Range<i64>>,
    /// Held by the one who fetches the next block, so that the others do not fetch one each.
    fetching: Mutex<()>,
}

impl Default for ProducerIds {
    fn default() -> Self {
        ProducerIds {
            left: RefCell::new(0..0),
            fetching: Mutex::new(()),
        }
    }
}

impl ProducerIds {
    /// An id that nobody has had before, in this cluster.
    pub async fn next(&self, shard: &Rc<Shard>) -> Result<ProducerId, Refusal> {
        if let Some(id) = self.take() {
            return Ok(ProducerId(id));
        }
        let _fetching = self.fetching.lock().await;
        loop {
            if let Some(id) = self.take() {
                return Ok(ProducerId(id));
            }
            let first = shard
                .on_controller(|_, driver| async move {
                    driver
                        .submit(|machine, _| machine.allocate_producer_ids())
                        .await
                })
                .await?;
            self.left.replace(first..first + PRODUCER_ID_BLOCK);
        }
    }

    fn take(&self) -> Option<i64> {
        self.left.borrow_mut().next()
    }
}
