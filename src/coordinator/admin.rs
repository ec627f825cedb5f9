//! Owns what administrators ask of groups: list, describe, delete, and reading and deleting offsets.

use crate::protocol::messages::consumer_group_describe_response;
use crate::protocol::messages::describe_groups_response::DescribedGroup;
use crate::protocol::messages::list_groups_response::ListedGroup;
use crate::protocol::messages::offset_delete_response::{
    OffsetDeleteResponsePartition, OffsetDeleteResponseTopic,
};
use crate::protocol::messages::offset_fetch_request::OffsetFetchRequestTopics;
use crate::protocol::messages::offset_fetch_response::OffsetFetchResponseGroup;
use crate::protocol::messages::{OffsetDeleteRequest, OffsetDeleteResponse};
use crate::protocol::{ErrorCode, Str};

use super::machine::{Coordinator, Group};
use super::records::Record;

/// A DescribeGroups from this version on is told that a group is not there (KIP-1043).
const NOT_FOUND_SINCE: i16 = 6;
/// What older ones are told.
const DEAD: &str = "Dead";

impl Coordinator {
    pub(super) fn fetch_offsets(
        &self,
        group: Str,
        member: Option<&Str>,
        member_epoch: i32,
        topics: Option<&[OffsetFetchRequestTopics]>,
    ) -> OffsetFetchResponseGroup {
        if let Some(Group::Consumer(consumer)) = self.groups.get(&group)
            && let Err(error) = consumer.check_fetch(member, member_epoch)
        {
            return OffsetFetchResponseGroup {
                group_id: group,
                error_code: error.code(),
                ..OffsetFetchResponseGroup::default()
            };
        }
        OffsetFetchResponseGroup {
            topics: self.offsets.fetch(&group, topics),
            group_id: group,
            error_code: ErrorCode::None.code(),
        }
    }

    pub(super) fn delete_offsets(
        &mut self,
        records: &mut Vec<Record>,
        request: &OffsetDeleteRequest,
    ) -> OffsetDeleteResponse {
        let checked = match self.groups.get(&request.group_id) {
            _ if request.group_id.is_empty() => Err(ErrorCode::InvalidGroupId),
            None => Err(ErrorCode::GroupIdNotFound),
            Some(group @ Group::Classic(classic)) => classic.check_offset_delete().map(|()| group),
            Some(group @ Group::Consumer(_)) => Ok(group),
        };
        let group = match checked {
            Ok(group) => group,
            Err(error) => {
                return OffsetDeleteResponse {
                    error_code: error.code(),
                    ..OffsetDeleteResponse::default()
                };
            }
        };
        let offsets = &mut self.offsets;
        let topics = request.topics.iter().map(|topic| {
            let subscribed = group.is_subscribed_to(&topic.name);
            let partitions = topic.partitions.iter().map(|partition| {
                let index = partition.partition_index;
                if !subscribed {
                    records.extend(offsets.delete(&request.group_id, &topic.name, index));
                }
                let error = match subscribed {
                    true => ErrorCode::GroupSubscribedToTopic,
                    false => ErrorCode::None,
                };
                OffsetDeleteResponsePartition {
                    partition_index: index,
                    error_code: error.code(),
                }
            });
            OffsetDeleteResponseTopic {
                name: topic.name.clone(),
                partitions: partitions.collect(),
            }
        });
        OffsetDeleteResponse {
            topics: topics.collect(),
            ..OffsetDeleteResponse::default()
        }
    }

    pub(super) fn describe(&self, id: &Str, version: i16) -> DescribedGroup {
        let error = match self.groups.get(id) {
            Some(Group::Classic(group)) => return group.describe(),
            Some(Group::Consumer(_)) | None if version >= NOT_FOUND_SINCE => {
                ErrorCode::GroupIdNotFound
            }
            Some(Group::Consumer(_)) | None => ErrorCode::None,
        };
        DescribedGroup {
            error_code: error.code(),
            error_message: (error == ErrorCode::GroupIdNotFound)
                .then(|| self.no_group_of_type(id, "classic")),
            group_id: id.clone(),
            group_state: Str::from(DEAD),
            ..DescribedGroup::default()
        }
    }

    pub(super) fn describe_consumer(
        &self,
        id: &Str,
    ) -> consumer_group_describe_response::DescribedGroup {
        let (error, message) = match self.groups.get(id) {
            _ if id.is_empty() => (ErrorCode::InvalidGroupId, None),
            Some(Group::Consumer(group)) => {
                return group.describe(&self.image, &self.settings.consumer);
            }
            Some(Group::Classic(_)) | None => {
                let message = self.no_group_of_type(id, "consumer");
                (ErrorCode::GroupIdNotFound, Some(message))
            }
        };
        consumer_group_describe_response::DescribedGroup {
            error_code: error.code(),
            error_message: message,
            group_id: id.clone(),
            ..Default::default()
        }
    }

    /// How Kafka says that a group is not there, or is another.
    fn no_group_of_type(&self, id: &Str, kind: &str) -> Str {
        Str::from(match self.groups.contains_key(id) {
            true => format!("Group {id} is not a {kind} group."),
            false => format!("Group {id} not found."),
        })
    }

    pub(super) fn delete_group(
        &mut self,
        id: &Str,
        records: &mut Vec<Record>,
    ) -> Result<(), ErrorCode> {
        match self.groups.get(id) {
            None => return Err(ErrorCode::GroupIdNotFound),
            Some(group) if !group.is_empty() => return Err(ErrorCode::NonEmptyGroup),
            Some(_) => {}
        }
        self.offsets.delete_group(id, records);
        self.forget_group(id, records);
        Ok(())
    }

    pub(super) fn list(&self, states: &[Str], types: &[Str]) -> Vec<ListedGroup> {
        let fits = |wanted: &[Str], name: &str| {
            wanted.is_empty() || wanted.iter().any(|one| one.eq_ignore_ascii_case(name))
        };
        let groups = self.groups.iter().filter(|(_, group)| {
            fits(states, group.state_name()) && fits(types, group.type_name())
        });
        let told = groups.map(|(id, group)| ListedGroup {
            group_id: id.clone(),
            protocol_type: group.protocol_type(),
            group_state: Str::from(group.state_name()),
            group_type: Str::from(group.type_name()),
        });
        told.collect()
    }
}
