//! CreatePartitions (key 37, versions 0 to 3). KIP-195.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::messages::{CreatePartitionsRequest, CreatePartitionsResponse};

pub async fn handle(
    context: Rc<Context>,
    request: CreatePartitionsRequest,
    _version: i16,
) -> CreatePartitionsResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, entropy| machine.create_partitions(&request, entropy))
                .await
        })
        .await
}
