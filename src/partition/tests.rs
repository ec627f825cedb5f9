//! What clients see of transactions that Apache Kafka wrote.

use std::path::Path;

use super::waiting::ProduceWaiter;
use super::*;
use crate::io::{Disk, ring};
use crate::log::{LogContext, LogSettings, Opening, TailBudget};
use crate::protocol::batch::BatchBuilder;

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/tests/fixtures/kafka-4.4/txn-0"
);

async fn partition(dir: &Path) -> Rc<Partition> {
    for file in std::fs::read_dir(FIXTURE).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), dir.join(file.file_name())).unwrap();
    }
    let context = LogContext::on_this_thread(Disk::buffered(), TailBudget::new(1 << 20));
    let opening = Opening {
        clean: true,
        ..Opening::default()
    };
    let settings = LogSettings::default();
    let opened = Log::open(
        context,
        dir.to_owned(),
        settings,
        opening,
        1_795_262_200_000,
    );
    let (log, _) = opened.await.unwrap();
    Partition::new(
        "txn".into(),
        Uuid([1; 16]),
        PartitionIndex(0),
        LeaderEpoch(0),
        log,
    )
}

#[test]
fn read_committed_ends_before_an_open_transaction_and_tells_of_aborted_ones() {
    let test = async || {
        ring::init_thread().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let partition = partition(folder.path()).await;
        let marks = partition.marks();
        assert_eq!(marks.high_watermark, Offset(19));
        assert_eq!(marks.last_stable, Offset(18));
        let fetch = async |read_committed| {
            let bounds = ReadBounds {
                offset: Offset(0),
                max_bytes: 1 << 20,
                memory_max: usize::MAX,
                at_least_one: true,
                read_committed,
                last_fetched_epoch: LeaderEpoch(-1),
            };
            partition.fetch(bounds).await.unwrap()
        };
        let all = fetch(false).await;
        assert_eq!((all.records.len(), all.aborted.len()), (1030, 0));
        let committed = fetch(true).await;
        // The last batch, at 18, is of the open transaction.
        assert_eq!(committed.records.len(), 954);
        let aborted = committed.aborted.iter();
        let aborted: Vec<_> = aborted
            .map(|aborted| (aborted.producer_id.0, aborted.first_offset.0))
            .collect();
        assert_eq!(aborted, [(6, 3), (7, 9), (7, 15)]);
    };
    glommio::LocalExecutorBuilder::default()
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}

#[test]
fn who_wants_no_acknowledgement_waits_all_the_same_when_writing_is_behind() {
    let test = async || {
        ring::init_thread().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let context = LogContext::on_this_thread(Disk::buffered(), TailBudget::new(64 << 20));
        let settings = LogSettings::default();
        let dir = folder.path().join("t-0");
        let log = Log::create(context, dir, None, settings, 0).await.unwrap();
        let (topic, id) = (Str::from("t"), Uuid([1; 16]));
        let partition = Partition::new(topic, id, PartitionIndex(0), LeaderEpoch(0), log);
        let mut builder = BatchBuilder::new();
        builder.append(1, None, Some(&vec![0; 1 << 20]), &[]);
        let batch = Batch::parse(&builder.build()).unwrap();
        let produce = || {
            let mut waiter = None;
            let ticket = || ProduceWaiter::ticket(&mut waiter, 0);
            partition.produce(&batch, Acks::None, 1, ticket).unwrap();
            waiter
        };
        // Nothing is written until this task waits.
        let produced: Vec<_> = (0..8).map(|_| produce()).collect();
        assert!(produced[0].is_none() && produced[7].is_some());
        for waiter in produced.into_iter().flatten() {
            waiter.outcome().await.unwrap();
        }
        assert_eq!(partition.log().backlog_bytes(), 0);
        assert!(produce().is_none());
    };
    glommio::LocalExecutorBuilder::default()
        .spawn(test)
        .unwrap()
        .join()
        .unwrap();
}
