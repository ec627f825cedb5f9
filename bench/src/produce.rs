//! Owns one producer: records become batches, batches become requests, acknowledgements become latencies. With a rate
//! it is an open loop: record n is meant to leave at its time, whatever became of those before.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use futures::future::{Either, select, try_join_all};

use crate::client::{Batch, Client, Connection, Outcome, Sequence, Target};
use crate::clock;
use crate::keys::KeyChoice;
use crate::payload::{Head, Payload};
use crate::random::Random;
use crate::recorder::{Stage, Volume};
use crate::run::Run;
use crate::schedule::Schedule;
use crate::workload::{Acks, Keys};

/// Prepared batches, at least, when records are not all of one size.
const SIZED_BATCHES: usize = 64;

pub struct Producer<C: Client> {
    run: Rc<Run>,
    client: C,
    topic: usize,
    writer: u32,
    /// For each partition, which of the links leads to it.
    routes: Vec<usize>,
    links: Vec<Rc<Link<C>>>,
    /// Per partition: how many records it was sent.
    sequences: Vec<u64>,
    identity: Option<(i64, i16)>,
}

/// A connection to one leader, and what is in flight there.
struct Link<C: Client> {
    connection: C::Connection,
    in_flight: RefCell<InFlight>,
}

/// Requests that are on their way, the first sent first.
#[derive(Default)]
struct InFlight {
    requests: VecDeque<Volume>,
    /// When each of their records was meant to leave.
    intended: VecDeque<Instant>,
}

/// Records of one partition that wait to leave together.
struct Pending<B> {
    batch: B,
    intended: Vec<Instant>,
}

/// What a request has for one partition.
struct Part<I> {
    partition: usize,
    batch: Bytes,
    /// When each of its records was meant to leave.
    intended: I,
}

impl<C: Client> Producer<C> {
    /// Connects to the leaders.
    pub async fn connect(
        run: Rc<Run>,
        client: C,
        topic: usize,
        writer: u32,
    ) -> Outcome<Producer<C>> {
        let leaders = run.topics[topic].leaders.clone();
        let identity = if run.workload.idempotent {
            Some(client.producer_id().await?)
        } else {
            None
        };
        let mut known = BTreeMap::new();
        let (mut links, mut routes) = (Vec::new(), Vec::new());
        for leader in &leaders {
            if !known.contains_key(leader) {
                known.insert(leader.clone(), links.len());
                links.push(Rc::new(Link {
                    connection: client.connect(leader).await?,
                    in_flight: RefCell::default(),
                }));
            }
            routes.push(known[leader]);
        }
        Ok(Producer {
            run,
            client,
            topic,
            writer,
            sequences: vec![0; routes.len()],
            routes,
            links,
            identity,
        })
    }

    /// Produces until the run ends, and waits until all is acknowledged. `schedule` is `None` for as fast as
    /// acknowledgements come.
    pub async fn produce(mut self, schedule: Option<Schedule>) -> Outcome<()> {
        let run = Rc::clone(&self.run);
        let links = self.links.clone();
        let acknowledging = links.iter().map(|link| acknowledge(&run, link));
        // Acknowledgements come first, each time that either can go on: a place that gets free is seen at once.
        let acknowledging = pin!(try_join_all(acknowledging));
        let produced = match select(acknowledging, pin!(self.send_all(schedule))).await {
            Either::Left((failed, _)) => failed.map(|_| ()),
            Either::Right((sent, _)) => sent,
        };
        let topic = self.topic;
        for (partition, count) in self.sequences.iter().enumerate() {
            self.run
                .note_written(topic, partition as i32, self.writer, *count);
        }
        produced
    }

    async fn send_all(&mut self, schedule: Option<Schedule>) -> Outcome<()> {
        let workload = &self.run.workload;
        let bare = workload.readers() == 0
            && !workload.idempotent
            && workload.key_distributor == Keys::NoKey;
        match schedule {
            None if bare => self.repeat_prepared().await?,
            schedule => self.compose(schedule).await?,
        }
        if self.run.workload.acks == Acks::None {
            self.see_all_arrive().await?;
        }
        for link in &self.links {
            in_flight_below(1, link).await;
        }
        Ok(())
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
        loop {
            let partition = turn * run.workload.partitions_per_request % self.routes.len();
            self.place(partition).await;
            let now = clock::now();
            if now >= run.end() {
                return Ok(());
            }
            let part = |(nth, partition): (usize, usize)| {
                let number = turn * run.workload.partitions_per_request + nth;
                let (batch, count) = &batches[number % batches.len()];
                Part {
                    partition,
                    batch: batch.clone(),
                    intended: std::iter::repeat_n(now, *count),
                }
            };
            let parts = self.together(partition).enumerate().map(part).collect();
            turn += 1;
            self.send(parts, now)?;
            glommio::yield_if_needed().await;
        }
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
        let together = run.workload.partitions_per_request as u64;
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
                    None => (next_unkeyed + (number % together) as usize) % self.routes.len(),
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
                    self.flush(partition, &mut pending).await?;
                    next_unkeyed = (partition + 1) % self.routes.len();
                    glommio::yield_if_needed().await;
                }
            }
            let now = clock::now();
            let mut wake = schedule.map_or(now, |schedule| schedule.intended(number));
            for partition in 0..pending.len() {
                let waiting = pending[partition].as_ref();
                let Some(first) = waiting.map(|pending| pending.intended[0]) else {
                    continue;
                };
                if first + linger <= now {
                    self.flush(partition, &mut pending).await?;
                    next_unkeyed = (partition + 1) % self.routes.len();
                } else {
                    wake = wake.min(first + linger);
                }
            }
            C::sleep_until(wake.min(run.end())).await;
        }
        for partition in 0..pending.len() {
            self.flush(partition, &mut pending).await?;
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

    /// Sends what waits for a partition, and what waits for others that may go with it.
    async fn flush(
        &mut self,
        partition: usize,
        pending: &mut [Option<Pending<C::Batch>>],
    ) -> Outcome<()> {
        if pending[partition].is_none() {
            return Ok(());
        }
        self.place(partition).await;
        let part = |partition: usize| {
            let pending = pending[partition].take()?;
            let sequence = self.identity.map(|(producer_id, producer_epoch)| Sequence {
                producer_id,
                producer_epoch,
                // Sequence numbers go on from 0 behind i32::MAX.
                first: (self.sequences[partition] & i32::MAX as u64) as i32,
            });
            Some(Part {
                partition,
                batch: pending.batch.build(sequence),
                intended: pending.intended,
            })
        };
        let parts = self.together(partition).filter_map(part).collect();
        self.send(parts, clock::now())
    }

    /// The partitions that a request may have beginning with this one: it and the next of the same leader.
    fn together(&self, first: usize) -> impl Iterator<Item = usize> + '_ {
        let count = self.routes.len();
        (first..first + count)
            .map(move |partition| partition % count)
            .filter(move |partition| self.routes[*partition] == self.routes[first])
            .take(self.run.workload.partitions_per_request)
    }

    /// Waits until one more request may be in flight.
    async fn place(&self, partition: usize) {
        let link = &self.links[self.routes[partition]];
        in_flight_below(self.run.workload.in_flight, link).await;
        link.connection.room().await;
    }

    /// Sends one request, of parts that go the same way.
    fn send(
        &mut self,
        parts: Vec<Part<impl IntoIterator<Item = Instant>>>,
        now: Instant,
    ) -> Outcome<()> {
        let run = &self.run;
        let link = &self.links[self.routes[parts[0].partition]];
        let acks = run.workload.acks;
        let batches = parts
            .iter()
            .map(|part| (part.partition as i32, part.batch.clone()))
            .collect();
        link.connection
            .produce(&run.topics[self.topic], batches, acks.number())?;
        let mut in_flight = link.in_flight.borrow_mut();
        let mut sent = Volume {
            requests: 1,
            ..Volume::default()
        };
        for part in parts {
            let before = in_flight.intended.len();
            in_flight.intended.extend(part.intended);
            let intended = in_flight.intended.range(before..);
            let records = intended.len() as u64;
            run.recorder.reached(Stage::Publish, now, intended.copied());
            self.sequences[part.partition] += records;
            sent.records += records;
            sent.bytes += part.batch.len() as u64;
        }
        in_flight.requests.push_back(sent);
        run.note_sent(sent.records);
        if acks == Acks::None {
            in_flight.end(1, run);
        }
        Ok(())
    }
}

impl InFlight {
    /// The first `count` requests have arrived.
    fn end(&mut self, count: usize, run: &Run) {
        let mut volume = Volume::default();
        for request in self.requests.drain(..count) {
            volume.add(request);
        }
        let intended = self.intended.drain(..volume.records as usize);
        run.recorder
            .reached(Stage::Acknowledge, clock::now(), intended);
        run.recorder.acknowledged(volume);
    }
}

/// Notes what is acknowledged, until that fails.
async fn acknowledge<C: Client>(run: &Run, link: &Link<C>) -> Outcome<Infallible> {
    loop {
        let count = link.connection.acknowledged().await?;
        link.in_flight.borrow_mut().end(count, run);
    }
}

/// Waits until less is in flight, for somebody who is looked at after each acknowledgement.
async fn in_flight_below<C: Client>(limit: usize, link: &Link<C>) {
    poll_fn(|_| match link.in_flight.borrow().requests.len() < limit {
        true => Poll::Ready(()),
        false => Poll::Pending,
    })
    .await;
}
