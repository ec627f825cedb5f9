//! UpdateFeatures (key 57, versions 0 to 2). KIP-584, KIP-1022.

use std::rc::Rc;

use crate::handler::Context;
use crate::protocol::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

pub async fn handle(
    context: Rc<Context>,
    request: UpdateFeaturesRequest,
    version: i16,
) -> UpdateFeaturesResponse {
    context
        .shard
        .on_controller(move |_, driver| async move {
            driver
                .submit(|machine, _| machine.update_features(&request, version))
                .await
        })
        .await
}
