//! A broker in memory, for tests: it keeps what it is given, or spoils one record of it.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::client::{
    Batch, Client, Codec, Connection, FetchBounds, Header, Outcome, Position, Sequence, Target,
    Topic,
};
use crate::clock;

/// What becomes of one record among those that come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoil {
    Nothing,
    Lose,
    Double,
    SwapWithNext,
    Alter,
    /// None, but readers get one at a time.
    Slow,
}

/// Which record of each partition is spoilt.
const SPOILT: usize = 100;

type Records = Vec<Vec<u8>>;

#[derive(Clone)]
pub struct FakeBroker {
    spoil: Spoil,
    partitions: Rc<RefCell<BTreeMap<(String, i32), Partition>>>,
    /// Requests of this connection.
    unacknowledged: Rc<Cell<usize>>,
    /// How many partitions each request so far had, without repetition.
    pub widths: Rc<RefCell<Vec<usize>>>,
    /// Of each partition.
    pub leaders: Vec<String>,
}

#[derive(Default)]
struct Partition {
    records: Records,
    /// Its record has been spoilt, and readers may have what is there.
    ripe: bool,
}

impl FakeBroker {
    pub fn new(spoil: Spoil) -> FakeBroker {
        FakeBroker {
            spoil,
            partitions: Rc::default(),
            unacknowledged: Rc::default(),
            widths: Rc::default(),
            leaders: vec!["one".into(), "two".into()],
        }
    }

    fn store(&self, target: Target<'_>, values: Records) {
        let key = (target.topic.name.clone(), target.partition);
        let mut partitions = self.partitions.borrow_mut();
        let partition = partitions.entry(key).or_default();
        let records = &mut partition.records;
        records.extend(values);
        // Only when the one behind it has come as well, so that each kind of damage is possible.
        if partition.ripe || records.len() <= SPOILT + 1 {
            return;
        }
        partition.ripe = true;
        match self.spoil {
            Spoil::Nothing | Spoil::Slow => {}
            Spoil::Lose => drop(records.remove(SPOILT)),
            Spoil::Double => records.insert(SPOILT, records[SPOILT].clone()),
            Spoil::SwapWithNext => records.swap(SPOILT, SPOILT + 1),
            Spoil::Alter => *records[SPOILT].last_mut().expect("a value") ^= 1,
        }
    }
}

/// Values with their lengths before them.
fn decode(mut bytes: &[u8]) -> Records {
    let mut values = Records::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let (value, rest) = rest.split_at(u32::from_be_bytes(*length) as usize);
        values.push(value.to_vec());
        bytes = rest;
    }
    values
}

fn encode<'a>(values: impl IntoIterator<Item = &'a Vec<u8>>) -> Bytes {
    let mut bytes = Vec::new();
    for value in values {
        bytes.extend((value.len() as u32).to_be_bytes());
        bytes.extend(value);
    }
    bytes.into()
}

impl Client for FakeBroker {
    type Connection = FakeBroker;
    type Batch = FakeBatch;

    async fn sleep_until(due: Instant) {
        glommio::timer::sleep(due.saturating_duration_since(clock::now())).await;
    }

    fn stay_awake() {}

    fn idled() -> Duration {
        Duration::ZERO
    }

    async fn create_topic(&self, _: &str, _: i32, _: &[String]) -> Outcome<bool> {
        Ok(true)
    }

    async fn delete_topic(&self, _: &str) -> Outcome<()> {
        Ok(())
    }

    async fn topic(&self, name: &str) -> Outcome<Topic> {
        Ok(Topic {
            name: name.to_owned(),
            id: [0; 16],
            leaders: self.leaders.clone(),
        })
    }

    async fn flush_mode(&self, _: &str) -> Outcome<String> {
        Ok("memory".into())
    }

    async fn connect(&self, _: &str) -> Outcome<FakeBroker> {
        Ok(FakeBroker {
            unacknowledged: Rc::default(),
            ..self.clone()
        })
    }

    async fn producer_id(&self) -> Outcome<(i64, i16)> {
        Ok((1, 0))
    }

    fn batch(&self, _: Codec, _: &[Header]) -> FakeBatch {
        FakeBatch::default()
    }

    fn values(&self, records: &Bytes, from: i64, mut each: impl FnMut(i64, &[u8])) -> Outcome<i64> {
        let mut next = from;
        for value in decode(records) {
            each(next, &value);
            next += 1;
        }
        Ok(next)
    }

    fn next_offset(&self, records: &Bytes, from: i64) -> Outcome<i64> {
        Ok(from + decode(records).len() as i64)
    }
}

#[derive(Default)]
pub struct FakeBatch(Records, usize);

impl Batch for FakeBatch {
    fn append(&mut self, _: i64, _: Option<&[u8]>, value: &[u8]) {
        self.1 += value.len();
        self.0.push(value.to_vec());
    }

    fn size_in_bytes(&self) -> usize {
        self.1
    }

    fn build(self, _: Option<Sequence>) -> Bytes {
        encode(&self.0)
    }
}

impl Connection for FakeBroker {
    fn produce(&self, topic: &Topic, batches: Vec<(i32, Bytes)>, _: i16) -> Outcome<()> {
        let partitions: BTreeSet<i32> = batches.iter().map(|batch| batch.0).collect();
        self.widths.borrow_mut().push(partitions.len());
        for (partition, batch) in batches {
            self.store(Target { topic, partition }, decode(&batch));
        }
        self.unacknowledged.set(self.unacknowledged.get() + 1);
        Ok(())
    }

    async fn acknowledged(&self) -> Outcome<usize> {
        while self.unacknowledged.get() == 0 {
            glommio::timer::sleep(Duration::from_millis(1)).await;
        }
        Ok(self.unacknowledged.take())
    }

    async fn fetch(&self, positions: &[Position<'_>], bounds: FetchBounds) -> Outcome<Vec<Bytes>> {
        let (wait_ms, count) = match self.spoil {
            Spoil::Slow => (5, 1),
            _ => (1, usize::MAX),
        };
        glommio::timer::sleep(bounds.max_wait.min(Duration::from_millis(wait_ms))).await;
        let partitions = self.partitions.borrow();
        let of = |position: &Position<'_>| {
            let target = position.target;
            let key = (target.topic.name.clone(), target.partition);
            let ripe = partitions.get(&key).filter(|partition| partition.ripe);
            let records = ripe.map_or(&[][..], |partition| &partition.records);
            encode(records.iter().skip(position.offset as usize).take(count))
        };
        Ok(positions.iter().map(of).collect())
    }

    async fn offsets(&self, target: Target<'_>) -> Outcome<(i64, i64)> {
        let key = (target.topic.name.clone(), target.partition);
        let partitions = self.partitions.borrow();
        Ok((
            0,
            partitions
                .get(&key)
                .map_or(0, |partition| partition.records.len()) as i64,
        ))
    }

    async fn room(&self) {}
}

/// Runs a test on an executor of its own.
pub fn on_executor<T>(test: impl Future<Output = T>) -> T {
    glommio::LocalExecutorBuilder::default()
        .make()
        .expect("io_uring")
        .run(test)
}
