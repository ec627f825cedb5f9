//! DescribeConfigs (key 32, versions 1 to 4). KIP-133, KIP-226 (synonyms), KIP-569 (types and documentation).

use std::rc::Rc;

use crate::config::describe::{self, ConfigEntry};
use crate::controller::{MetadataImage, ResourceType, validate_topic_name};
use crate::handler::Context;
use crate::protocol::messages::DescribeConfigsRequest;
use crate::protocol::messages::describe_configs_request::DescribeConfigsResource;
use crate::protocol::messages::describe_configs_response::{
    DescribeConfigsResourceResult, DescribeConfigsResponse, DescribeConfigsResult,
    DescribeConfigsSynonym,
};
use crate::protocol::{ErrorCode, Str};
use crate::shard::Broker;

/// An error code and, where Kafka has one, a text.
type Refused = (ErrorCode, Option<String>);

pub async fn handle(
    context: Rc<Context>,
    request: DescribeConfigsRequest,
    _version: i16,
) -> DescribeConfigsResponse {
    let image = context.shard.image();
    let strange = request
        .resources
        .iter()
        .find(|resource| ResourceType::from_code(resource.resource_type) == ResourceType::Unknown);
    let results = request.resources.iter().map(|resource| {
        let entries = match strange {
            // Kafka answers nothing when one kind is beyond it.
            Some(strange) => Err(invalid(format!(
                "Unexpected resource type UNKNOWN for resource {}",
                strange.resource_name
            ))),
            None => entries(&image, &context.shard.broker, resource),
        };
        result(&request, resource, entries)
    });
    DescribeConfigsResponse {
        results: results.collect(),
        ..Default::default()
    }
}

fn invalid(text: impl Into<String>) -> Refused {
    (ErrorCode::InvalidRequest, Some(text.into()))
}

fn entries(
    image: &MetadataImage,
    broker: &Broker,
    resource: &DescribeConfigsResource,
) -> Result<Vec<ConfigEntry>, Refused> {
    let name = &*resource.resource_name;
    let dynamic = image.dynamic_configs(broker.id());
    match ResourceType::from_code(resource.resource_type) {
        ResourceType::Topic => {
            validate_topic_name(name)
                .map_err(|refusal| (refusal.code, refusal.message.map(|text| text.to_string())))?;
            if image.topic(name).is_none() {
                return Err((ErrorCode::UnknownTopicOrPartition, None));
            }
            Ok(describe::topic(
                &image.topic_settings(name),
                &broker.config,
                &dynamic,
            ))
        }
        ResourceType::Broker if name.is_empty() => {
            Ok(describe::cluster_default(&broker.config, &dynamic))
        }
        ResourceType::Broker => {
            is_this(broker, name, "or empty string, ")?;
            Ok(describe::broker(&broker.config, &dynamic))
        }
        ResourceType::BrokerLogger if name.is_empty() => {
            Err(invalid("Broker id must not be empty"))
        }
        ResourceType::BrokerLogger => {
            is_this(broker, name, "")?;
            Ok(Vec::new())
        }
        ResourceType::Group if name.is_empty() => Err(invalid("Group name must not be empty")),
        ResourceType::Group => {
            let own = image
                .configs(ResourceType::Group, name)
                .cloned()
                .unwrap_or_default();
            Ok(describe::group(&own, &broker.config, &dynamic))
        }
        ResourceType::ClientMetrics if name.is_empty() => Err(invalid(
            "Client metrics subscription name must not be empty",
        )),
        ResourceType::ClientMetrics => Ok(Vec::new()),
        ResourceType::Unknown => Err(invalid("Unsupported resource type: UNKNOWN")),
    }
}

/// Clients ask each broker about itself.
fn is_this(broker: &Broker, name: &str, alternative: &str) -> Result<(), Refused> {
    let id: i32 = name
        .parse()
        .map_err(|_| invalid(format!("Broker id must be an integer, but it is: {name}")))?;
    if id != broker.id().0 {
        return Err(invalid(format!(
            "Unexpected broker id, expected {} {alternative}but received {name}",
            broker.id()
        )));
    }
    Ok(())
}

fn result(
    request: &DescribeConfigsRequest,
    resource: &DescribeConfigsResource,
    entries: Result<Vec<ConfigEntry>, Refused>,
) -> DescribeConfigsResult {
    let mut result = DescribeConfigsResult {
        resource_type: resource.resource_type,
        resource_name: resource.resource_name.clone(),
        ..Default::default()
    };
    let wanted = resource.configuration_keys.as_deref().unwrap_or_default();
    match entries {
        Ok(entries) => {
            result.configs = entries
                .into_iter()
                .filter(|entry| wanted.is_empty() || wanted.iter().any(|key| **key == *entry.name))
                .map(|entry| told(entry, request))
                .collect();
        }
        Err((error, text)) => {
            result.error_code = error.code();
            result.error_message = Some(Str::from(text.unwrap_or_default()));
        }
    }
    result
}

fn told(entry: ConfigEntry, request: &DescribeConfigsRequest) -> DescribeConfigsResourceResult {
    let synonyms = match request.include_synonyms {
        true => entry.synonyms,
        false => Vec::new(),
    };
    DescribeConfigsResourceResult {
        name: Str::copied(&entry.name),
        value: entry.value.map(Str::from),
        read_only: entry.read_only,
        config_source: entry.source as i8,
        is_sensitive: entry.sensitive,
        synonyms: synonyms
            .into_iter()
            .map(|synonym| DescribeConfigsSynonym {
                name: Str::copied(&synonym.name),
                value: synonym.value.map(Str::from),
                source: synonym.source as i8,
            })
            .collect(),
        config_type: entry.kind,
        documentation: request
            .include_documentation
            .then(|| Str::from(entry.documentation)),
    }
}
