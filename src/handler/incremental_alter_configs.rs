//! IncrementalAlterConfigs (key 44, versions 0 to 1). KIP-339.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::messages::{IncrementalAlterConfigsRequest, IncrementalAlterConfigsResponse};

pub async fn handle(
    context: Rc<Context>,
    request: IncrementalAlterConfigsRequest,
    _version: i16,
) -> IncrementalAlterConfigsResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, _| machine.incremental_alter_configs(&request))
                .await
        })
        .await
}
