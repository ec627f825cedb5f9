//! Owns the administrative calls: topics, their partitions and settings, records to be deleted. Thin: one call, one
//! request, its errors made into ours.

use std::time::Duration;

use super::{ClientError, Cluster, Missing};
use crate::ids::{Offset, PartitionIndex};
use crate::protocol::messages::create_partitions_request::CreatePartitionsTopic;
use crate::protocol::messages::create_topics_request::CreatableTopic;
use crate::protocol::messages::create_topics_response::CreatableTopicResult;
use crate::protocol::messages::delete_records_request::{
    DeleteRecordsPartition, DeleteRecordsTopic,
};
use crate::protocol::messages::delete_topics_request::DeleteTopicState;
use crate::protocol::messages::describe_configs_request::DescribeConfigsResource;
use crate::protocol::messages::describe_configs_response::DescribeConfigsResult;
use crate::protocol::messages::incremental_alter_configs_request::{
    AlterConfigsResource, AlterableConfig,
};
use crate::protocol::messages::metadata_response::MetadataResponseTopic;
use crate::protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest,
    DescribeConfigsRequest, IncrementalAlterConfigsRequest,
};
use crate::protocol::{ErrorCode, Request, Str};

/// How long a broker may take to carry out a change before it answers that it did not.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(20);

/// `ConfigResource` type of topics.
pub const TOPIC_RESOURCE: i8 = 2;

fn timeout_ms() -> i32 {
    CHANGE_TIMEOUT.as_millis() as i32
}

fn subject(topic: &Str) -> impl FnOnce() -> String {
    let topic = topic.clone();
    move || format!("topic '{topic}'")
}

fn unanswered(topic: &Str) -> ClientError {
    ClientError::Refused(format!(
        "the broker's answer says nothing of topic '{topic}'"
    ))
}

/// What a change of one setting does.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigChange {
    Set(Str),
    /// Back to what the broker's own settings say.
    Delete,
}

impl Cluster {
    /// Sends a change to the controller, finding out who that is when it has moved.
    async fn change<R: Request>(
        &self,
        request: &R,
        error_of: impl Fn(&R::Response) -> ErrorCode,
    ) -> Result<R::Response, ClientError> {
        let mut attempts = self.attempts();
        loop {
            let answer = match self.controller().await {
                Ok(connection) => connection.call(request).await,
                // Nothing was sent, so trying again can't do it twice.
                Err(error) => {
                    attempts.again(error).await?;
                    continue;
                }
            };
            let response = answer?;
            if error_of(&response) != ErrorCode::NotController {
                return Ok(response);
            }
            let moved = ClientError::from_code(ErrorCode::NotController.code(), None, || {
                "the cluster's controller".into()
            });
            attempts.again(moved.expect("an error")).await?;
            self.refresh(Some(&[]), Missing::Fail).await?;
        }
    }

    /// Creates one topic. The answer's partition count and settings are there from Kafka 2.4 on.
    pub async fn create_topic(
        &self,
        topic: CreatableTopic,
        validate_only: bool,
    ) -> Result<CreatableTopicResult, ClientError> {
        let name = topic.name.clone();
        let request = CreateTopicsRequest {
            topics: vec![topic],
            timeout_ms: timeout_ms(),
            validate_only,
        };
        let mut response = self
            .change(&request, |response| {
                first_error(response.topics.iter().map(|topic| topic.error_code))
            })
            .await?;
        let result = response.topics.pop().ok_or_else(|| unanswered(&name))?;
        let message = result.error_message.as_deref();
        ClientError::check(result.error_code, message, subject(&name))?;
        Ok(result)
    }

    pub async fn delete_topic(&self, name: &Str) -> Result<(), ClientError> {
        // From version 6 on topics are told in another field (KIP-516); the encoder wants only the right one set.
        let by_state = self.controller().await?.version::<DeleteTopicsRequest>()? >= 6;
        let mut request = DeleteTopicsRequest {
            timeout_ms: timeout_ms(),
            ..DeleteTopicsRequest::default()
        };
        if by_state {
            request.topics.push(DeleteTopicState {
                name: Some(name.clone()),
                ..DeleteTopicState::default()
            });
        } else {
            request.topic_names.push(name.clone());
        }
        let mut response = self
            .change(&request, |response| {
                first_error(response.responses.iter().map(|topic| topic.error_code))
            })
            .await?;
        let result = response.responses.pop().ok_or_else(|| unanswered(name))?;
        let message = result.error_message.as_deref();
        ClientError::check(result.error_code, message, subject(name))
    }

    /// Raises a topic's partition count to `count`.
    pub async fn create_partitions(&self, name: &Str, count: i32) -> Result<(), ClientError> {
        let request = CreatePartitionsRequest {
            topics: vec![CreatePartitionsTopic {
                name: name.clone(),
                count,
                assignments: None,
            }],
            timeout_ms: timeout_ms(),
            validate_only: false,
        };
        let mut response = self
            .change(&request, |response| {
                first_error(response.results.iter().map(|topic| topic.error_code))
            })
            .await?;
        let result = response.results.pop().ok_or_else(|| unanswered(name))?;
        let message = result.error_message.as_deref();
        ClientError::check(result.error_code, message, subject(name))
    }

    /// Changes a topic's settings; those not named stay.
    pub async fn alter_topic_configs(
        &self,
        name: &Str,
        changes: &[(Str, ConfigChange)],
    ) -> Result<(), ClientError> {
        let configs = changes.iter().map(|(setting, change)| AlterableConfig {
            name: setting.clone(),
            config_operation: match change {
                ConfigChange::Set(_) => 0,
                ConfigChange::Delete => 1,
            },
            value: match change {
                ConfigChange::Set(value) => Some(value.clone()),
                ConfigChange::Delete => None,
            },
        });
        let request = IncrementalAlterConfigsRequest {
            resources: vec![AlterConfigsResource {
                resource_type: TOPIC_RESOURCE,
                resource_name: name.clone(),
                configs: configs.collect(),
            }],
            validate_only: false,
        };
        let mut response = self
            .change(&request, |response| {
                first_error(response.responses.iter().map(|r| r.error_code))
            })
            .await?;
        let result = response.responses.pop().ok_or_else(|| unanswered(name))?;
        let message = result.error_message.as_deref();
        ClientError::check(result.error_code, message, subject(name))
    }

    /// The settings of topics, each with where its value comes from.
    pub async fn describe_topic_configs(
        &self,
        names: &[Str],
    ) -> Result<Vec<DescribeConfigsResult>, ClientError> {
        let resources = names.iter().map(|name| DescribeConfigsResource {
            resource_type: TOPIC_RESOURCE,
            resource_name: name.clone(),
            configuration_keys: None,
        });
        let request = DescribeConfigsRequest {
            resources: resources.collect(),
            ..DescribeConfigsRequest::default()
        };
        let response = self.any().await?.call(&request).await?;
        for result in &response.results {
            let message = result.error_message.as_deref();
            ClientError::check(result.error_code, message, subject(&result.resource_name))?;
        }
        Ok(response.results)
    }

    /// Every topic of the cluster, by name.
    pub async fn list_topics(&self) -> Result<Vec<MetadataResponseTopic>, ClientError> {
        let mut topics = self.refresh(None, Missing::Fail).await?.topics;
        topics.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(topics)
    }

    /// Deletes a partition's records before `offset`; -1 is the high watermark. Answers its new log start offset.
    pub async fn delete_records(
        &self,
        topic: &Str,
        partition: PartitionIndex,
        offset: Offset,
    ) -> Result<Offset, ClientError> {
        let subject = || format!("partition {topic}-{partition}");
        let request = DeleteRecordsRequest {
            topics: vec![DeleteRecordsTopic {
                name: topic.clone(),
                partitions: vec![DeleteRecordsPartition {
                    partition_index: partition.0,
                    offset: offset.0,
                }],
            }],
            timeout_ms: timeout_ms(),
        };
        let mut attempts = self.attempts();
        loop {
            let leader = self.leader(topic, partition).await?;
            let response = self.broker(leader).await?.call(&request).await?;
            let result = response.topics.first().and_then(|t| t.partitions.first());
            let result = result.ok_or_else(|| unanswered(topic))?;
            match ClientError::check(result.error_code, None, subject) {
                Ok(()) => return Ok(Offset(result.low_watermark)),
                Err(error) => attempts.again(error).await?,
            }
            self.renew(topic).await;
        }
    }
}

fn first_error(mut codes: impl Iterator<Item = i16>) -> ErrorCode {
    ErrorCode::from_code(codes.find(|code| *code != 0).unwrap_or(0))
}
