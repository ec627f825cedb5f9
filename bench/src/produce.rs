//! Owns one producer: records become batches, batches become requests, acknowledgements become latencies. With a rate
//! it is an open loop: record n is meant to leave at its time, whatever became of those before.

use std::collections::BTreeMap;
use std::future::Future;
use std::rc::Rc;
use std::time::Instant;

use bytes::Bytes;
use futures::future::try_join_all;
use glommio::channels::local_channel::{self, LocalReceiver, LocalSender};
use glommio::sync::{Semaphore, StaticPermit};

use crate::client::{Batch, Client, Connection, Outcome, Sequence, Target};
use crate::clock;
use crate::keys::KeyChoice;
use crate::payload::{Head, Payload};
use crate::random::Random;
use crate::recorder::{Stage, Volume};
use crate::run::Run;
use crate::schedule::Schedule;
use crate::workload::Acks;

/// Prepared batches, at least, when records are not all of one size.
const SIZED_BATCHES: usize = 64;

pub struct Producer<C: Client> {
    run: Rc<Run>,
    client: C,
    topic: usize,
    writer: u32,
    /// For each partition, which of the links leads to it.
    routes: Vec<usize>,
    links: Vec<Link<C>>,
    /// Per partition: how many records it was sent.
    sequences: Vec<u64>,
    identity: Option<(i64, i16)>,
}

type AcknowledgementOf<C> = <<C as Client>::Connection as Connection>::Acknowledgement;

/// A connection to one leader, and what is in flight there.
struct Link<C: Client> {
    connection: C::Connection,
    places: Rc<Semaphore>,
    sent: LocalSender<Sent<AcknowledgementOf<C>>>,
}

/// A request on its way.
struct Sent<F> {
    intended: Vec<Instant>,
    bytes: u64,
    acknowledgement: F,
    _place: StaticPermit,
}

/// Records of one partition that wait to leave together.
struct Pending<B> {
    batch: B,
    intended: Vec<Instant>,
}

impl<C: Client> Producer<C> {
    /// Connects to the leaders, and returns with the producer what must run beside it.
    pub async fn connect(
        run: Rc<Run>,
        client: C,
        topic: usize,
        writer: u32,
    ) -> Outcome<(Producer<C>, impl Future<Output = Outcome<()>>)> {
        let leaders = run.topics[topic].leaders.clone();
        let identity = if run.workload.idempotent {
            Some(client.producer_id().await?)
        } else {
            None
        };
        let mut known = BTreeMap::new();
        let (mut links, mut routes, mut acknowledging) = (Vec::new(), Vec::new(), Vec::new());
        for leader in &leaders {
            if !known.contains_key(leader) {
                known.insert(leader.clone(), links.len());
                let (sent, receiver) = local_channel::new_unbounded();
                acknowledging.push(acknowledge(Rc::clone(&run), receiver));
                links.push(Link {
                    connection: client.connect(leader).await?,
                    places: Rc::new(Semaphore::new(run.workload.in_flight as u64)),
                    sent,
                });
            }
            routes.push(known[leader]);
        }
        let producer = Producer {
            run,
            client,
            topic,
            writer,
            sequences: vec![0; routes.len()],
            routes,
            links,
            identity,
        };
        let acknowledging = async move { try_join_all(acknowledging).await.map(|_| ()) };
        Ok((producer, acknowledging))
    }

    /// Produces until the run ends. `schedule` is `None` for as fast as acknowledgements come.
    pub async fn produce(mut self, schedule: Option<Schedule>) -> Outcome<()> {
        let workload = &self.run.workload;
        let bare = workload.readers() == 0 && !workload.idempotent;
        let produced = match schedule {
            None if bare => self.repeat_prepared().await,
            schedule => self.compose(schedule).await,
        };
        if self.run.workload.acks == Acks::None && produced.is_ok() {
            self.see_all_arrive().await?;
        }
        let topic = self.topic;
        for (partition, count) in self.sequences.iter().enumerate() {
            self.run
                .note_written(topic, partition as i32, self.writer, *count);
        }
        produced
    }

    /// With acks=0 nothing tells when all has left; the answer to one more request does, as they keep their order.
    async fn see_all_arrive(&self) -> Outcome<()> {
        for (partition, link) in self.routes.iter().enumerate() {
            let target = Target {
                topic: &self.run.topics[self.topic],
                partition: partition as i32,
            };
            self.links[*link].connection.offsets(target).await?;
        }
        Ok(())
    }

    /// Nobody reads what we send: the same few batches again and again cost the generator nothing.
    async fn repeat_prepared(&mut self) -> Outcome<()> {
        let run = Rc::clone(&self.run);
        let mut batches = Vec::new();
        let mut random = Random::new(u64::from(self.writer));
        let variety = if run.sizes.is_fixed() {
            0
        } else {
            SIZED_BATCHES
        };
        for first in 0..run.bodies.len().max(variety) {
            let mut batch = self.client.batch(run.workload.codec, &run.headers);
            let mut count = 0;
            while count == 0 || batch.size_in_bytes() < run.workload.batch_bytes {
                let body = &run.bodies[(first + count) % run.bodies.len()];
                let size = run.sizes.choose(&mut random);
                batch.append(clock::wall_ms(), None, &body[..size]);
                count += 1;
            }
            batches.push((batch.build(None), count));
        }
        let mut turn = self.writer as usize;
        while clock::now() < run.end() {
            let (batch, count) = &batches[turn % batches.len()];
            let partition = turn % self.routes.len();
            turn += 1;
            let link = &self.links[self.routes[partition]];
            let place = self.place(link).await?;
            let intended = vec![clock::now(); *count];
            self.send(partition, place, batch.clone(), intended)?;
            glommio::yield_if_needed().await;
        }
        Ok(())
    }

    /// Each record is written for its own time.
    async fn compose(&mut self, schedule: Option<Schedule>) -> Outcome<()> {
        let run = Rc::clone(&self.run);
        let linger = run.workload.linger();
        let mut random = Random::new(u64::from(self.writer));
        let mut keys = KeyChoice::new(run.workload.key_distributor, u64::from(self.writer));
        let mut payloads: Vec<Payload> = run.payloads();
        let mut pending: Vec<Option<Pending<C::Batch>>> = Vec::new();
        pending.resize_with(self.routes.len(), || None);
        let mut next_unkeyed = self.writer as usize % self.routes.len();
        let mut number = 0;
        'records: loop {
            loop {
                let now = clock::now();
                let intended = schedule.map_or(now, |schedule| schedule.intended(number));
                if intended >= run.end() {
                    break 'records;
                }
                if intended > now {
                    break;
                }
                let key = keys.next_key();
                let partition = match &key {
                    Some(key) => crc32c::crc32c(key) as usize % self.routes.len(),
                    None => next_unkeyed,
                };
                let count = payloads.len() as u64;
                let payload = &mut payloads[(number % count) as usize];
                let key = key.as_ref().map(|key| &key[..]);
                let value = (payload, run.sizes.choose(&mut random));
                self.append(&mut pending[partition], partition, intended, key, value);
                number += 1;
                let full = pending[partition].as_ref().is_some_and(|pending| {
                    pending.batch.size_in_bytes() >= run.workload.batch_bytes
                });
                if full {
                    self.flush(partition, &mut pending[partition]).await?;
                    next_unkeyed = (partition + 1) % self.routes.len();
                    glommio::yield_if_needed().await;
                }
            }
            let now = clock::now();
            let mut wake = schedule.map_or(now, |schedule| schedule.intended(number));
            for (partition, waiting) in pending.iter_mut().enumerate() {
                let Some(first) = waiting.as_ref().map(|pending| pending.intended[0]) else {
                    continue;
                };
                if first + linger <= now {
                    self.flush(partition, waiting).await?;
                    next_unkeyed = (partition + 1) % self.routes.len();
                } else {
                    wake = wake.min(first + linger);
                }
            }
            C::sleep_until(wake.min(run.end())).await;
        }
        for (partition, waiting) in pending.iter_mut().enumerate() {
            if waiting.is_some() {
                self.flush(partition, waiting).await?;
            }
        }
        Ok(())
    }

    fn append(
        &mut self,
        pending: &mut Option<Pending<C::Batch>>,
        partition: usize,
        intended: Instant,
        key: Option<&[u8]>,
        (payload, size): (&mut Payload, usize),
    ) {
        let pending = pending.get_or_insert_with(|| Pending {
            batch: self
                .client
                .batch(self.run.workload.codec, &self.run.headers),
            intended: Vec::new(),
        });
        let head = Head {
            intended,
            writer: self.writer,
            sequence: self.sequences[partition] + pending.intended.len() as u64,
        };
        pending.intended.push(intended);
        pending
            .batch
            .append(clock::wall_ms(), key, payload.write(head, size));
    }

    async fn flush(
        &mut self,
        partition: usize,
        pending: &mut Option<Pending<C::Batch>>,
    ) -> Outcome<()> {
        let Some(pending) = pending.take() else {
            return Ok(());
        };
        let place = self.place(&self.links[self.routes[partition]]).await?;
        let sequence = self.identity.map(|(producer_id, producer_epoch)| Sequence {
            producer_id,
            producer_epoch,
            // Sequence numbers go on from 0 behind i32::MAX.
            first: (self.sequences[partition] & i32::MAX as u64) as i32,
        });
        let batch = pending.batch.build(sequence);
        self.send(partition, place, batch, pending.intended)
    }

    /// Waits until one more request may be in flight.
    async fn place(&self, link: &Link<C>) -> Outcome<StaticPermit> {
        let place = link.places.acquire_static_permit(1).await;
        link.connection.room().await;
        place.map_err(|error| error.to_string())
    }

    fn send(
        &mut self,
        partition: usize,
        place: StaticPermit,
        batch: Bytes,
        intended: Vec<Instant>,
    ) -> Outcome<()> {
        let run = &self.run;
        let link = &self.links[self.routes[partition]];
        let target = Target {
            topic: &run.topics[self.topic],
            partition: partition as i32,
        };
        let now = clock::now();
        run.recorder
            .reached(Stage::Publish, now, intended.iter().copied());
        let bytes = batch.len() as u64;
        let acks = run.workload.acks.number();
        let acknowledgement = link.connection.produce(target, batch, acks)?;
        self.sequences[partition] += intended.len() as u64;
        run.note_sent(intended.len() as u64);
        let sent = Sent {
            intended,
            bytes,
            acknowledgement,
            _place: place,
        };
        // Where acknowledging has ended, it was with an error, which is the one to tell.
        let _ended = link.sent.try_send(sent);
        Ok(())
    }
}

/// Acknowledgements come in the order of the requests.
async fn acknowledge<F: Future<Output = Outcome<()>>>(
    run: Rc<Run>,
    sent: LocalReceiver<Sent<F>>,
) -> Outcome<()> {
    while let Some(entry) = sent.recv().await {
        entry.acknowledgement.await?;
        let records = entry.intended.len() as u64;
        run.recorder
            .reached(Stage::Acknowledge, clock::now(), entry.intended);
        run.recorder.acknowledged(Volume {
            records,
            bytes: entry.bytes,
            requests: 1,
        });
        glommio::yield_if_needed().await;
    }
    Ok(())
}
