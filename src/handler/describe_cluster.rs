//! DescribeCluster (key 60, versions 0 to 2). KIP-700, KIP-919 (endpoint types), KIP-1073 (fenced brokers).

use std::rc::Rc;

use crate::handler::Context;
use crate::handler::metadata::CLUSTER_OPERATIONS;
use crate::protocol::messages::DescribeClusterRequest;
use crate::protocol::messages::describe_cluster_response::{
    DescribeClusterBroker, DescribeClusterResponse,
};
use crate::protocol::{ErrorCode, Str};

/// `EndpointType` of brokers; controllers are 2.
const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

pub async fn handle(
    context: Rc<Context>,
    request: DescribeClusterRequest,
    _version: i16,
) -> DescribeClusterResponse {
    let refused = match request.endpoint_type {
        BROKERS => None,
        CONTROLLERS => Some((
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER".into(),
        )),
        other => Some((
            ErrorCode::UnsupportedEndpointType,
            format!("Unsupported endpoint type {other}"),
        )),
    };
    if let Some((error, message)) = refused {
        return DescribeClusterResponse {
            error_code: error.code(),
            error_message: Some(Str::from(message)),
            ..Default::default()
        };
    }
    let image = context.shard.image();
    let brokers = image
        .brokers()
        .filter(|broker| request.include_fenced_brokers || !broker.fenced)
        .filter_map(|broker| {
            let endpoint = broker.endpoint(&context.listener)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host: endpoint.host.clone(),
                port: i32::from(endpoint.port),
                rack: broker.rack.clone(),
                is_fenced: broker.fenced,
            })
        })
        .collect();
    let mut response = DescribeClusterResponse {
        error_message: None,
        cluster_id: image.cluster_id.clone(),
        controller_id: context.shard.broker.id().0,
        brokers,
        ..Default::default()
    };
    if request.include_cluster_authorized_operations {
        response.cluster_authorized_operations = CLUSTER_OPERATIONS;
    }
    response
}
