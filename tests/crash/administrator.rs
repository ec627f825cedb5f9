//! Owns a client that deletes records, and creates and deletes a topic of the same name again and again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use coati::client::{
    ClientError, Cluster, ClusterOptions, Isolation, Missing, OffsetSpec, Producer,
    ProducerOptions, ProducerRecord,
};
use coati::ids::{Offset, PartitionIndex};
use coati::protocol::messages::create_topics_request::CreatableTopic;
use coati::protocol::{ErrorCode, Str};

use crate::writer::{connect, on_executor};

const TRIMMED: &str = "trimmed";
const SHORT_LIVED: &str = "short-lived";
const PARTITION: PartitionIndex = PartitionIndex(0);

/// Works until `stop`; tells how often something was answered.
pub fn work(address: &str, stop: &AtomicBool) -> usize {
    on_executor(async {
        let mut work = Work {
            deleted_before: Offset(0),
            answers: 0,
        };
        while !stop.load(Ordering::Relaxed) {
            let cluster = quick(address).await;
            let Ok(cluster) = cluster else { continue };
            // Errors are the broker's death; what was answered before it counts.
            while work.once(&cluster).await.is_ok() && !stop.load(Ordering::Relaxed) {}
            coati::io::timer::sleep(Duration::from_millis(20)).await;
        }
        let cluster = connect(address).await;
        work.trim(&cluster).await.expect("a living broker answers");
        work.answers
    })
}

async fn quick(address: &str) -> Result<Cluster, ClientError> {
    let options = ClusterOptions {
        retry_for: Duration::from_secs(1),
        ..ClusterOptions::default()
    };
    Cluster::connect(&[address.to_owned()], options).await
}

struct Work {
    /// Answered: all records before this are gone for good.
    deleted_before: Offset,
    answers: usize,
}

impl Work {
    async fn once(&mut self, cluster: &Cluster) -> Result<(), ClientError> {
        self.trim(cluster).await?;
        self.come_and_go(cluster).await
    }

    async fn trim(&mut self, cluster: &Cluster) -> Result<(), ClientError> {
        create(cluster, TRIMMED).await?;
        let earliest = offset(cluster, TRIMMED, OffsetSpec::Earliest).await?;
        assert!(
            earliest >= self.deleted_before,
            "deleted records are back: the first is at {earliest}, all before {} were deleted",
            self.deleted_before
        );
        produce(cluster, TRIMMED).await?;
        let end = offset(cluster, TRIMMED, OffsetSpec::Latest).await?;
        assert!(end > self.deleted_before, "the log ends at {end}");
        let name = TRIMMED.into();
        let low = cluster.delete_records(&name, PARTITION, end.plus(-1));
        self.deleted_before = low.await?;
        self.answers += 1;
        Ok(())
    }

    async fn come_and_go(&mut self, cluster: &Cluster) -> Result<(), ClientError> {
        let is_new = create(cluster, SHORT_LIVED).await?;
        if is_new {
            let (first, end) = (
                offset(cluster, SHORT_LIVED, OffsetSpec::Earliest).await?,
                offset(cluster, SHORT_LIVED, OffsetSpec::Latest).await?,
            );
            assert_eq!((first, end), (Offset(0), Offset(0)), "a new topic is empty");
        }
        produce(cluster, SHORT_LIVED).await?;
        let name = SHORT_LIVED.into();
        let end = offset(cluster, SHORT_LIVED, OffsetSpec::Latest).await?;
        cluster.delete_records(&name, PARTITION, end).await?;
        cluster.delete_topic(&name).await?;
        self.answers += 1;
        Ok(())
    }
}

/// Tells whether it was created now.
async fn create(cluster: &Cluster, name: &'static str) -> Result<bool, ClientError> {
    let topic = CreatableTopic {
        name: name.into(),
        num_partitions: 2,
        replication_factor: 1,
        ..CreatableTopic::default()
    };
    match cluster.create_topic(topic, false).await {
        Ok(_) => Ok(true),
        Err(error) if error.code() == Some(ErrorCode::TopicAlreadyExists) => Ok(false),
        Err(error) => Err(error),
    }
}

async fn offset(
    cluster: &Cluster,
    name: &'static str,
    spec: OffsetSpec,
) -> Result<Offset, ClientError> {
    let topic: Str = name.into();
    let isolation = Isolation::ReadUncommitted;
    let found = cluster
        .offsets(&topic, &[PARTITION], spec, isolation)
        .await?;
    Ok(found[&PARTITION].expect("these are always there"))
}

async fn produce(cluster: &Cluster, name: &'static str) -> Result<(), ClientError> {
    let options = ProducerOptions {
        delivery_timeout: Duration::from_secs(1),
        missing: Missing::Fail,
        ..ProducerOptions::default()
    };
    let producer = Producer::new(cluster.clone(), options).await?;
    let mut last = None;
    for _ in 0..3 {
        let record = ProducerRecord {
            topic: name.into(),
            partition: Some(PARTITION),
            value: Some("v".into()),
            ..ProducerRecord::default()
        };
        last = Some(producer.send(record).await?);
    }
    last.expect("three were sent").wait().await.map(drop)
}
