//! Owns asking leaders for offsets: the first, the last, the one at a time.

use std::collections::BTreeMap;

use super::{ClientError, Cluster};
use crate::ids::{BrokerId, Offset, PartitionIndex, TimestampMs};
use crate::protocol::Str;
use crate::protocol::messages::ListOffsetsRequest;
use crate::protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};

/// Which offset of a partition is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The log start offset.
    Earliest,
    /// The high watermark, or the last stable offset for those who read committed records only.
    Latest,
    /// The first record with this timestamp or a later one.
    At(TimestampMs),
}

impl OffsetSpec {
    fn timestamp(self) -> i64 {
        match self {
            OffsetSpec::Earliest => -2,
            OffsetSpec::Latest => -1,
            OffsetSpec::At(timestamp) => timestamp,
        }
    }
}

/// Whether records of open and aborted transactions are seen (KIP-98).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    #[default]
    ReadUncommitted,
    ReadCommitted,
}

impl Isolation {
    pub fn code(self) -> i8 {
        match self {
            Isolation::ReadUncommitted => 0,
            Isolation::ReadCommitted => 1,
        }
    }
}

impl Cluster {
    /// The offsets of these partitions of a topic; `None` where no record is as late as asked for.
    pub async fn offsets(
        &self,
        topic: &Str,
        partitions: &[PartitionIndex],
        spec: OffsetSpec,
        isolation: Isolation,
    ) -> Result<BTreeMap<PartitionIndex, Option<Offset>>, ClientError> {
        let mut found = BTreeMap::new();
        let mut attempts = self.attempts();
        loop {
            let missing: Vec<PartitionIndex> = partitions
                .iter()
                .copied()
                .filter(|partition| !found.contains_key(partition))
                .collect();
            if missing.is_empty() {
                return Ok(found);
            }
            let round = self.offsets_once(topic, &missing, spec, isolation, &mut found);
            if let Err(error) = round.await {
                attempts.again(error).await?;
                self.renew(topic).await;
            } else if missing.iter().any(|asked| !found.contains_key(asked)) {
                let silent = format!("a broker left out offsets of topic '{topic}'");
                return Err(ClientError::Refused(silent));
            }
        }
    }

    /// One round: adds what was found to `found`; an error when not all was.
    async fn offsets_once(
        &self,
        topic: &Str,
        partitions: &[PartitionIndex],
        spec: OffsetSpec,
        isolation: Isolation,
        found: &mut BTreeMap<PartitionIndex, Option<Offset>>,
    ) -> Result<(), ClientError> {
        let mut by_leader = BTreeMap::<BrokerId, Vec<PartitionIndex>>::new();
        for partition in partitions {
            let leader = self.leader(topic, *partition).await?;
            by_leader.entry(leader).or_default().push(*partition);
        }
        let mut failed = Ok(());
        for (leader, partitions) in by_leader {
            let ask = |partition: &PartitionIndex| ListOffsetsPartition {
                partition_index: partition.0,
                timestamp: spec.timestamp(),
                ..ListOffsetsPartition::default()
            };
            let request = ListOffsetsRequest {
                replica_id: -1,
                isolation_level: isolation.code(),
                topics: vec![ListOffsetsTopic {
                    name: topic.clone(),
                    partitions: partitions.iter().map(ask).collect(),
                }],
                ..ListOffsetsRequest::default()
            };
            let response = self.broker(leader).await?.call(&request).await?;
            for answer in response.topics.iter().flat_map(|t| &t.partitions) {
                let index = PartitionIndex(answer.partition_index);
                let subject = || format!("offsets of partition {topic}-{index}");
                match ClientError::check(answer.error_code, None, subject) {
                    Ok(()) => {
                        let offset = (answer.offset >= 0).then_some(Offset(answer.offset));
                        found.insert(index, offset);
                    }
                    Err(error) => failed = Err(error),
                }
            }
        }
        failed
    }
}
