//! Owns asking coordinators about groups: finding them, listing, describing, deleting, and their offsets.

use std::collections::BTreeMap;

use super::{ClientError, Cluster, Connection, Missing};
use crate::ids::{BrokerId, Offset, PartitionIndex};
use crate::protocol::messages::describe_groups_response::{DescribedGroup, DescribedGroupMember};
use crate::protocol::messages::list_groups_response::ListedGroup;
use crate::protocol::messages::offset_commit_request::{
    OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use crate::protocol::messages::offset_delete_request::{
    OffsetDeleteRequestPartition, OffsetDeleteRequestTopic,
};
use crate::protocol::messages::{
    ConsumerGroupDescribeRequest, DeleteGroupsRequest, DescribeGroupsRequest,
    FindCoordinatorRequest, ListGroupsRequest, OffsetCommitRequest, OffsetDeleteRequest,
    OffsetFetchRequest,
};
use crate::protocol::{ErrorCode, Request, Str};

/// The last version of FindCoordinator that asks for one group.
const LAST_SINGLE_FIND: i16 = 3;
/// The last version of OffsetFetch that asks for one group.
const LAST_SINGLE_FETCH: i16 = 7;
/// The last version of OffsetCommit that tells topics by name.
const LAST_COMMIT_BY_NAME: i16 = 9;

/// Committed offsets by topic and partition.
pub type GroupOffsets = BTreeMap<(Str, PartitionIndex), Offset>;

/// Who commits: a member of a generation, or nobody in particular.
#[derive(Clone, Debug)]
pub struct Committer {
    pub member: Str,
    pub generation: i32,
}

impl Committer {
    pub fn nobody() -> Committer {
        Committer {
            member: Str::EMPTY,
            generation: -1,
        }
    }
}

fn subject(group: &Str) -> impl FnOnce() -> String {
    let group = group.clone();
    move || format!("group '{group}'")
}

impl Cluster {
    /// A connection to the coordinator of a group.
    pub async fn coordinator(&self, group: &Str) -> Result<Connection, ClientError> {
        let request = FindCoordinatorRequest {
            key: group.clone(),
            ..FindCoordinatorRequest::default()
        };
        let any = self.any().await?;
        let version = any.version_up_to::<FindCoordinatorRequest>(LAST_SINGLE_FIND)?;
        let found = any.call_at(&request, version).await?;
        let message = found.error_message.as_deref();
        ClientError::check(found.error_code, message, subject(group))?;
        let id = BrokerId(found.node_id);
        if !self.brokers().contains(&id) {
            self.refresh(Some(&[]), Missing::Fail).await?;
        }
        self.broker(id).await
    }

    /// Asks a group's coordinator, again while it loads or has moved.
    pub(super) async fn ask_coordinator<R: Request>(
        &self,
        group: &Str,
        request: &R,
        version_max: i16,
        error_of: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, ClientError> {
        let mut attempts = self.attempts();
        loop {
            let asked = async {
                let coordinator = self.coordinator(group).await?;
                let version = coordinator.version_up_to::<R>(version_max)?;
                coordinator.call_at(request, version).await
            };
            let error = match asked.await {
                Ok(response) => {
                    let code = error_of(&response);
                    let moved = matches!(
                        code,
                        ErrorCode::NotCoordinator
                            | ErrorCode::CoordinatorLoadInProgress
                            | ErrorCode::CoordinatorNotAvailable
                    );
                    if !moved {
                        return Ok(response);
                    }
                    ClientError::from_code(code.code(), None, subject(group)).expect("an error")
                }
                Err(error) => error,
            };
            attempts.again(error).await?;
        }
    }

    /// The groups of all brokers, by name. Empty lists of states mean any.
    pub async fn list_groups(&self, states: &[Str]) -> Result<Vec<ListedGroup>, ClientError> {
        let request = ListGroupsRequest {
            states_filter: states.to_vec(),
            ..ListGroupsRequest::default()
        };
        let mut groups = Vec::new();
        for broker in self.brokers() {
            let mut attempts = self.attempts();
            loop {
                let response = self.broker(broker).await?.call(&request).await?;
                let subject = || format!("groups of broker {broker}");
                match ClientError::check(response.error_code, None, subject) {
                    Ok(()) => {
                        groups.extend(response.groups);
                        break;
                    }
                    Err(error) => attempts.again(error).await?,
                }
            }
        }
        groups.sort_by(|a, b| a.group_id.cmp(&b.group_id));
        Ok(groups)
    }

    /// A group of either protocol; of one of the consumer protocol the assignor is told as the protocol.
    pub async fn describe_group(&self, group: &Str) -> Result<DescribedGroup, ClientError> {
        match self.describe_consumer_group(group).await {
            Ok(Some(described)) => return Ok(described),
            // A classic group, or a broker that knows no others.
            Ok(None) | Err(ClientError::Unsupported { .. }) => {}
            Err(error) => return Err(error),
        }
        let request = DescribeGroupsRequest {
            groups: vec![group.clone()],
            ..DescribeGroupsRequest::default()
        };
        let code = |answer: &DescribedGroup| ErrorCode::from_code(answer.error_code);
        let mut response = self
            .ask_coordinator(group, &request, i16::MAX, |response| {
                response.groups.first().map_or(ErrorCode::None, code)
            })
            .await?;
        let described = response.groups.pop().unwrap_or_default();
        let message = described.error_message.as_deref();
        ClientError::check(described.error_code, message, subject(group))?;
        Ok(described)
    }

    /// `None`: it is no consumer group.
    async fn describe_consumer_group(
        &self,
        group: &Str,
    ) -> Result<Option<DescribedGroup>, ClientError> {
        let request = ConsumerGroupDescribeRequest {
            group_ids: vec![group.clone()],
            ..ConsumerGroupDescribeRequest::default()
        };
        let asked = self.ask_coordinator(group, &request, i16::MAX, |response| {
            let first = response.groups.first();
            first.map_or(ErrorCode::None, |one| ErrorCode::from_code(one.error_code))
        });
        let described = asked.await?.groups.pop().unwrap_or_default();
        let message = described.error_message.as_deref();
        match ErrorCode::from_code(described.error_code) {
            ErrorCode::GroupIdNotFound | ErrorCode::UnsupportedVersion => return Ok(None),
            _ => ClientError::check(described.error_code, message, subject(group))?,
        }
        let members = described.members.into_iter();
        let members = members.map(|member| DescribedGroupMember {
            member_id: member.member_id,
            group_instance_id: member.instance_id,
            client_id: member.client_id,
            client_host: member.client_host,
            ..DescribedGroupMember::default()
        });
        Ok(Some(DescribedGroup {
            group_id: described.group_id,
            group_state: described.group_state,
            protocol_type: Str::from("consumer"),
            protocol_data: described.assignor_name,
            members: members.collect(),
            ..DescribedGroup::default()
        }))
    }

    /// What a group has committed.
    pub async fn committed(&self, group: &Str) -> Result<GroupOffsets, ClientError> {
        let request = OffsetFetchRequest {
            group_id: group.clone(),
            topics: None,
            ..OffsetFetchRequest::default()
        };
        let response = self
            .ask_coordinator(group, &request, LAST_SINGLE_FETCH, |response| {
                ErrorCode::from_code(response.error_code)
            })
            .await?;
        ClientError::check(response.error_code, None, subject(group))?;
        let mut offsets = GroupOffsets::new();
        for topic in &response.topics {
            for partition in &topic.partitions {
                if partition.committed_offset >= 0 {
                    let place = (
                        topic.name.clone(),
                        PartitionIndex(partition.partition_index),
                    );
                    offsets.insert(place, Offset(partition.committed_offset));
                }
            }
        }
        Ok(offsets)
    }

    pub async fn commit(
        &self,
        group: &Str,
        committer: &Committer,
        offsets: &GroupOffsets,
    ) -> Result<(), ClientError> {
        let mut topics: BTreeMap<&Str, Vec<OffsetCommitRequestPartition>> = BTreeMap::new();
        for ((topic, partition), offset) in offsets {
            let partition = OffsetCommitRequestPartition {
                partition_index: partition.0,
                committed_offset: offset.0,
                ..OffsetCommitRequestPartition::default()
            };
            topics.entry(topic).or_default().push(partition);
        }
        let topics = topics
            .into_iter()
            .map(|(name, partitions)| OffsetCommitRequestTopic {
                name: name.clone(),
                partitions,
                ..OffsetCommitRequestTopic::default()
            });
        let request = OffsetCommitRequest {
            group_id: group.clone(),
            generation_id_or_member_epoch: committer.generation,
            member_id: committer.member.clone(),
            group_instance_id: None,
            topics: topics.collect(),
            ..OffsetCommitRequest::default()
        };
        let first_error = |response: &<OffsetCommitRequest as Request>::Response| {
            let partitions = response.topics.iter().flat_map(|topic| &topic.partitions);
            let mut codes = partitions.map(|partition| partition.error_code);
            ErrorCode::from_code(codes.find(|code| *code != 0).unwrap_or(0))
        };
        let response = self
            .ask_coordinator(group, &request, LAST_COMMIT_BY_NAME, first_error)
            .await?;
        ClientError::check(first_error(&response).code(), None, subject(group))
    }

    pub async fn delete_group(&self, group: &Str) -> Result<(), ClientError> {
        let request = DeleteGroupsRequest {
            groups_names: vec![group.clone()],
        };
        let code = |response: &<DeleteGroupsRequest as Request>::Response| {
            let result = response.results.first();
            result.map_or(ErrorCode::None, |r| ErrorCode::from_code(r.error_code))
        };
        let response = self
            .ask_coordinator(group, &request, i16::MAX, code)
            .await?;
        ClientError::check(code(&response).code(), None, subject(group))
    }

    /// Deletes what a group has committed for these partitions of a topic.
    pub async fn delete_group_offsets(
        &self,
        group: &Str,
        topic: &Str,
        partitions: &[PartitionIndex],
    ) -> Result<(), ClientError> {
        let partitions = partitions.iter().map(|index| OffsetDeleteRequestPartition {
            partition_index: index.0,
        });
        let request = OffsetDeleteRequest {
            group_id: group.clone(),
            topics: vec![OffsetDeleteRequestTopic {
                name: topic.clone(),
                partitions: partitions.collect(),
            }],
        };
        let response = self
            .ask_coordinator(group, &request, i16::MAX, |response| {
                ErrorCode::from_code(response.error_code)
            })
            .await?;
        ClientError::check(response.error_code, None, subject(group))?;
        for partition in response.topics.iter().flat_map(|topic| &topic.partitions) {
            let index = partition.partition_index;
            ClientError::check(partition.error_code, None, || {
                format!("group '{group}', partition {topic}-{index}")
            })?;
        }
        Ok(())
    }
}
