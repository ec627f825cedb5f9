//! AlterConfigs (key 33, versions 0 to 2). KIP-133; replaces all that a resource has, KIP-339 came after.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::messages::{AlterConfigsRequest, AlterConfigsResponse};

pub async fn handle(
    context: Rc<Context>,
    request: AlterConfigsRequest,
    _version: i16,
) -> AlterConfigsResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, _| machine.alter_configs(&request))
                .await
        })
        .await
}
