//! DeleteTopics (key 20, versions 1 to 6). KIP-4, KIP-516 (by id).

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::messages::{DeleteTopicsRequest, DeleteTopicsResponse};

pub async fn handle(
    context: Rc<Context>,
    request: DeleteTopicsRequest,
    version: i16,
) -> DeleteTopicsResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, _| machine.delete_topics(&request, version))
                .await
        })
        .await
}
