//! ConsumerGroupHeartbeat (key 68, versions 0 to 1). KIP-848; KIP-1082 (members choose their ids).

use std::rc::Rc;

use crate::coordinator::{Beat, Client, Request};
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::io::entropy;
use crate::protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use crate::protocol::{ErrorCode, Str, Uuid};

pub async fn handle(
    context: Rc<Context>,
    client: Client,
    request: ConsumerGroupHeartbeatRequest,
    version: i16,
) -> ConsumerGroupHeartbeatResponse {
    let refused = |error: ErrorCode| ConsumerGroupHeartbeatResponse {
        error_code: error.code(),
        error_message: Some(Str::from(error.default_message())),
        ..Default::default()
    };
    if !groups::have_consumer_protocol(&context) {
        return refused(ErrorCode::UnsupportedVersion);
    }
    let group = request.group_id.clone();
    let beat = Beat {
        request,
        version,
        client,
        unique: Str::from(Uuid(entropy::uuid()).to_string()),
    };
    let answer = groups::ask(&context, &group, Request::ConsumerHeartbeat(beat)).await;
    answered!(answer, ConsumerHeartbeat).unwrap_or_else(refused)
}
