//! Owns one consumer: it fetches its partitions over one connection a leader, and notes when it has each record.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use crate::client::{Client, Connection, FetchBounds, Outcome, Position, Target};
use crate::clock;
use crate::recorder::{Stage, Volume};
use crate::run::Run;
use crate::verify::Stream;

/// How long one fetch may wait for records.
const FETCH_WAIT: Duration = Duration::from_millis(100);

/// One partition that a consumer reads.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    pub topic: usize,
    pub partition: i32,
    pub offset: i64,
    /// Where the topic ended when reading began.
    pub end: i64,
}

/// Reads until the run has had all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// The records of this run have all come.
    RunIsRead,
    /// The end that each partition had when reading began.
    TopicEnd,
}

pub struct Consumer<C: Client> {
    run: Rc<Run>,
    client: C,
    subscription: u32,
    until: Until,
    /// A connection, and what is read over it.
    readers: Vec<(C::Connection, Vec<Share>)>,
}

impl<C: Client> Consumer<C> {
    /// Connects to the leaders of `partitions` (topic and partition), from the topics' ends or their beginnings.
    pub async fn connect(
        run: Rc<Run>,
        client: C,
        subscription: u32,
        partitions: &[(usize, i32)],
        from_beginning: bool,
        until: Until,
    ) -> Outcome<Consumer<C>> {
        let mut by_leader = BTreeMap::<String, Vec<(usize, i32)>>::new();
        for &(topic, partition) in partitions {
            let leader = run.topics[topic].leaders[partition as usize].clone();
            by_leader
                .entry(leader)
                .or_default()
                .push((topic, partition));
        }
        let mut readers = Vec::new();
        for (leader, partitions) in by_leader {
            let connection = client.connect(&leader).await?;
            let mut shares = Vec::new();
            for (topic, partition) in partitions {
                let target = Target {
                    topic: &run.topics[topic],
                    partition,
                };
                let (first, end) = connection.offsets(target).await?;
                shares.push(Share {
                    topic,
                    partition,
                    offset: if from_beginning { first } else { end },
                    end,
                });
            }
            readers.push((connection, shares));
        }
        Ok(Consumer {
            run,
            client,
            subscription,
            until,
            readers,
        })
    }

    pub async fn consume(mut self) -> Outcome<()> {
        let readers = std::mem::take(&mut self.readers);
        let reading = readers
            .into_iter()
            .map(|(connection, shares)| self.read(connection, shares));
        futures::future::try_join_all(reading).await.map(|_| ())
    }

    async fn read(&self, connection: C::Connection, mut shares: Vec<Share>) -> Outcome<()> {
        let run = &self.run;
        let bounds = FetchBounds {
            max_bytes: run.workload.fetch_bytes,
            min_bytes: 1,
            max_wait: FETCH_WAIT,
        };
        loop {
            let more = match self.until {
                Until::RunIsRead => !run.is_read(),
                Until::TopicEnd => {
                    shares.retain(|share| share.offset < share.end);
                    !shares.is_empty() && !run.is_stopped()
                }
            };
            if !more {
                return Ok(());
            }
            let positions: Vec<Position<'_>> = shares
                .iter()
                .map(|share| Position {
                    target: Target {
                        topic: &run.topics[share.topic],
                        partition: share.partition,
                    },
                    offset: share.offset,
                })
                .collect();
            let fetched = connection.fetch(&positions, bounds).await?;
            for (share, records) in shares.iter_mut().zip(fetched) {
                let next = self.take(share, &records)?;
                run.recorder.received(Volume {
                    records: (next - share.offset) as u64,
                    bytes: records.len() as u64,
                    requests: u64::from(!records.is_empty()),
                });
                share.offset = next;
            }
            glommio::yield_if_needed().await;
        }
    }

    /// Looks at what came of one partition; the next offset to fetch.
    fn take(&self, share: &Share, records: &bytes::Bytes) -> Outcome<i64> {
        let run = &self.run;
        if self.until == Until::TopicEnd {
            return self.client.next_offset(records, share.offset);
        }
        let now = clock::now();
        let mut intended = Vec::new();
        let mut verifier = run.verifier.borrow_mut();
        let stream = Stream {
            subscription: self.subscription,
            topic: share.topic as u32,
            partition: share.partition,
            writer: 0,
        };
        let mut came = 0;
        let next = self.client.values(records, share.offset, |offset, value| {
            let Some(read) = run.read(value) else {
                return;
            };
            came += 1;
            intended.extend(read.ok().map(|head| head.intended));
            if let Some(verifier) = &mut *verifier {
                verifier.on_record(stream, offset, read);
            }
        })?;
        run.recorder.reached(Stage::EndToEnd, now, intended);
        run.note_read(came);
        Ok(next)
    }
}
