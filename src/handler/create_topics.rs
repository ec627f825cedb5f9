//! CreateTopics (key 19, versions 2 to 7). KIP-4, KIP-195, KIP-464, KIP-516.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::Str;
use crate::protocol::messages::CreateTopicsRequest;
use crate::protocol::messages::create_topics_request::CreatableTopic;
use crate::protocol::messages::create_topics_response::CreateTopicsResponse;

pub async fn handle(
    context: Rc<Context>,
    request: CreateTopicsRequest,
    _version: i16,
) -> CreateTopicsResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, entropy| machine.create_topics(&request, entropy))
                .await
        })
        .await
}

/// Creates topics that a client asked about, with the broker's defaults.
pub async fn automatically(context: &Context, names: Vec<Str>) {
    let topics = names.into_iter().map(|name| CreatableTopic {
        name,
        num_partitions: -1,
        replication_factor: -1,
        ..Default::default()
    });
    let request = CreateTopicsRequest {
        topics: topics.collect(),
        ..Default::default()
    };
    context
        .shard
        .on_controller(move |_, driver| async move {
            // What could not be created is told to the client as a topic that is not there.
            let _response = driver
                .submit(|machine, entropy| machine.create_topics(&request, entropy))
                .await;
        })
        .await;
}
