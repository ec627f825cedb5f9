//! FindCoordinator (key 10, versions 0 to 6), for groups. KIP-699 (several at once).

use std::rc::Rc;

use crate::coordinator::{OFFSETS_TOPIC, partition_of};
use crate::handler::{Context, groups};
use crate::protocol::messages::FindCoordinatorRequest;
use crate::protocol::messages::find_coordinator_response::{Coordinator, FindCoordinatorResponse};
use crate::protocol::{ErrorCode, Str};

/// From this version on a request names several keys.
const BATCHED_SINCE: i16 = 4;

const GROUP: i8 = 0;

pub async fn handle(
    context: Rc<Context>,
    request: FindCoordinatorRequest,
    version: i16,
) -> FindCoordinatorResponse {
    if version >= BATCHED_SINCE {
        let mut coordinators = Vec::with_capacity(request.coordinator_keys.len());
        for key in &request.coordinator_keys {
            coordinators.push(find(&context, request.key_type, key).await);
        }
        return FindCoordinatorResponse {
            coordinators,
            ..Default::default()
        };
    }
    let found = find(&context, request.key_type, &request.key).await;
    FindCoordinatorResponse {
        error_code: found.error_code,
        // Older versions say in words, too, that all is well.
        error_message: found
            .error_message
            .or(Some(Str::from(ErrorCode::None.name()))),
        node_id: found.node_id,
        host: found.host,
        port: found.port,
        ..Default::default()
    }
}

async fn find(context: &Context, kind: i8, key: &Str) -> Coordinator {
    let found = match kind {
        GROUP => of_group(context, key).await,
        // Clients take others for something that passes, and wait for it until they time out.
        _ => Err((
            ErrorCode::InvalidRequest,
            "only groups have coordinators in this version of Coati: no transactions, no share groups",
        )),
    };
    match found {
        Ok(mut found) => {
            found.key = key.clone();
            found
        }
        Err((error, message)) => Coordinator {
            key: key.clone(),
            node_id: -1,
            port: -1,
            error_code: error.code(),
            error_message: Some(Str::from(message)),
            ..Default::default()
        },
    }
}

async fn of_group(
    context: &Context,
    group: &Str,
) -> Result<Coordinator, (ErrorCode, &'static str)> {
    let told = |error: ErrorCode| (error, error.default_message());
    groups::have_offsets_topic(context).await.map_err(told)?;
    let image = context.shard.image();
    let unavailable = told(ErrorCode::CoordinatorNotAvailable);
    let topic = image.topic(OFFSETS_TOPIC).ok_or(unavailable)?;
    let partition = topic.partition(partition_of(group, topic.partitions.len()));
    let leader = partition.and_then(|partition| partition.leader);
    let leader = leader.ok_or(unavailable)?;
    let endpoint = image.endpoint_of(leader, &context.listener);
    let endpoint = endpoint.ok_or(unavailable)?;
    Ok(Coordinator {
        node_id: leader.0,
        host: endpoint.host.clone(),
        port: i32::from(endpoint.port),
        error_message: None,
        ..Default::default()
    })
}
