//! What the log should hold: all batches ever appended and kept, and what was promised of them.

use bytes::Bytes;
use coati::ids::{LeaderEpoch, Offset, ProducerId, TimestampMs};
use coati::io::entropy::Random;
use coati::log::producers::{ProducerBatch, ProducerStates};
use coati::protocol::batch::{BatchBuilder, BatchView};

#[derive(Clone)]
pub struct ModelBatch {
    pub base: Offset,
    pub next: Offset,
    pub epoch: LeaderEpoch,
    /// As they lie in the log.
    pub bytes: Bytes,
    pub timestamps: Vec<TimestampMs>,
}

/// The history and the promises.
#[derive(Default)]
pub struct Model {
    pub batches: Vec<ModelBatch>,
    /// Promised to survive a power cut.
    pub durable: Offset,
    /// Promised to survive kill -9.
    pub written: Offset,
    /// The highest log start offset ever shown.
    pub start: Offset,
    /// All below was answered as deleted: it must not come back.
    pub gone: Offset,
    /// It was not open in the last life.
    pub slept: bool,
    pub epoch: LeaderEpoch,
    pub problems: Vec<String>,
    sequences: [i32; 3],
    /// The log has no batch behind its last one and below this.
    pub begins: Offset,
}

impl Model {
    pub fn end(&self) -> Offset {
        let last = self.batches.last().map(|batch| batch.next);
        last.map_or(self.begins, |next| next.max(self.begins))
    }

    /// A new batch for the log's end, as a producer would send it.
    pub fn make_batch(
        &self,
        random: &mut Random,
        now_ms: TimestampMs,
    ) -> (Bytes, Vec<TimestampMs>) {
        let mut builder = BatchBuilder::new();
        let choice = random.below(6) as usize;
        if choice < 3 {
            let id = ProducerId(choice as i64 + 100);
            builder = builder.producer(id, 0, self.sequences[choice]);
        }
        let body = match random.below(10) {
            0..6 => random.below(300),
            6..9 => random.below(3_000),
            _ => random.below(9_000),
        };
        let count = 1 + random.below(4);
        let mut timestamps = Vec::new();
        for _ in 0..count {
            let timestamp = now_ms + random.below(50) as i64;
            timestamps.push(timestamp);
            let value: Vec<u8> = (0..body / count).map(|_| random.next_u64() as u8).collect();
            builder.append(timestamp, None, Some(&value), &[]);
        }
        (builder.build(), timestamps)
    }

    pub fn on_appended(&mut self, sent: &Bytes, timestamps: Vec<TimestampMs>) {
        let view = BatchView::parse(sent).expect("well made");
        let (base, epoch) = (self.end(), self.epoch);
        let mut bytes = sent.to_vec();
        bytes[..8].copy_from_slice(&base.0.to_be_bytes());
        bytes[12..16].copy_from_slice(&epoch.0.to_be_bytes());
        if view.has_producer_id() {
            let producer = (view.producer_id().0 - 100) as usize;
            self.sequences[producer] += view.records_count();
        }
        self.batches.push(ModelBatch {
            base,
            next: base.plus(i64::from(view.records_count())),
            epoch,
            bytes: bytes.into(),
            timestamps,
        });
    }

    /// The log came back with this end: what is behind it never was.
    pub fn truncate(&mut self, end: Offset) {
        self.batches.retain(|batch| batch.next <= end);
        self.begins = self.begins.min(end);
        assert_eq!(self.end(), end, "recovery keeps whole batches");
        self.sequences = [0; 3];
        for batch in &self.batches {
            let view = BatchView::parse(&batch.bytes).expect("well made");
            if view.has_producer_id() {
                let producer = (view.producer_id().0 - 100) as usize;
                self.sequences[producer] = view.base_sequence() + view.records_count();
            }
        }
    }

    /// What lay below `start` never was.
    pub fn forget_below(&mut self, start: Offset) {
        self.batches.retain(|batch| batch.next > start);
    }

    /// Everything is gone, the log begins anew at `offset`.
    pub fn begin_at(&mut self, offset: Offset) {
        self.batches.clear();
        self.sequences = [0; 3];
        self.begins = offset;
    }

    /// Bytes from the batch that holds `from` up to `upto`.
    pub fn expected(&self, from: Offset, upto: Offset) -> Vec<u8> {
        let batches = self.batches.iter();
        batches
            .filter(|batch| batch.next > from && batch.next <= upto)
            .flat_map(|batch| batch.bytes.iter().copied())
            .collect()
    }

    /// The producers' state that a replay of the whole history gives.
    pub fn producers(&self) -> ProducerStates {
        self.producers_below(Offset(i64::MAX))
    }

    /// As [`Model::producers`], of what lies below `end`.
    pub fn producers_below(&self, end: Offset) -> ProducerStates {
        let mut states = ProducerStates::new(self.begins);
        for batch in self.batches.iter().take_while(|batch| batch.next <= end) {
            let view = BatchView::parse(&batch.bytes).expect("well made");
            if view.has_producer_id() {
                states.append(&ProducerBatch {
                    producer_id: view.producer_id(),
                    producer_epoch: view.producer_epoch(),
                    base_sequence: view.base_sequence(),
                    base_offset: batch.base,
                    last_offset: batch.next.plus(-1),
                    max_timestamp: view.max_timestamp(),
                    transactional: false,
                });
            }
            states.advance_to(batch.next);
        }
        states
    }

    /// The first record at or after `timestamp`, from `start` on.
    pub fn first_at(&self, timestamp: TimestampMs, start: Offset) -> Option<(TimestampMs, Offset)> {
        self.batches.iter().find_map(|batch| {
            let mut records = batch.timestamps.iter().enumerate();
            records.find_map(|(index, seen)| {
                let offset = batch.base.plus(index as i64);
                (*seen >= timestamp && offset >= start).then_some((*seen, offset))
            })
        })
    }
}
