//! ListConfigResources (key 74, versions 0 to 1). KIP-714 (client metrics alone), KIP-1142 (all kinds).

use std::rc::Rc;

use crate::controller::{MetadataImage, ResourceType};
use crate::handler::Context;
use crate::protocol::messages::ListConfigResourcesRequest;
use crate::protocol::messages::list_config_resources_response::{
    ConfigResource, ListConfigResourcesResponse,
};
use crate::protocol::{ErrorCode, Str};

/// In the order of an answer that lists all.
const KINDS: [ResourceType; 5] = [
    ResourceType::Group,
    ResourceType::ClientMetrics,
    ResourceType::BrokerLogger,
    ResourceType::Broker,
    ResourceType::Topic,
];

pub async fn handle(
    context: Rc<Context>,
    request: ListConfigResourcesRequest,
    version: i16,
) -> ListConfigResourcesResponse {
    let kinds: Vec<ResourceType> = match (version, request.resource_types.as_slice()) {
        (0, _) => vec![ResourceType::ClientMetrics],
        (_, []) => KINDS.to_vec(),
        (_, codes) => codes.iter().copied().map(ResourceType::from_code).collect(),
    };
    if kinds.contains(&ResourceType::Unknown) {
        return ListConfigResourcesResponse {
            error_code: ErrorCode::UnsupportedVersion.code(),
            ..Default::default()
        };
    }
    let image = context.shard.image();
    ListConfigResourcesResponse {
        config_resources: KINDS
            .into_iter()
            .filter(|kind| kinds.contains(kind))
            .flat_map(|kind| {
                names(&image, kind)
                    .into_iter()
                    .map(move |name| (kind, name))
            })
            .map(|(kind, resource_name)| ConfigResource {
                resource_name,
                resource_type: kind.code(),
            })
            .collect(),
        ..Default::default()
    }
}

/// Topics and brokers all have settings; groups and client metrics only those that were given some.
fn names(image: &MetadataImage, kind: ResourceType) -> Vec<Str> {
    match kind {
        ResourceType::Topic => image.topics().map(|topic| topic.name.clone()).collect(),
        ResourceType::Broker | ResourceType::BrokerLogger => image
            .brokers()
            .map(|broker| Str::from(broker.id.to_string()))
            .collect(),
        ResourceType::Group | ResourceType::ClientMetrics | ResourceType::Unknown => image
            .configured()
            .filter(|(configured, _, _)| *configured == kind)
            .map(|(_, name, _)| name.clone())
            .collect(),
    }
}
