//! Heartbeat (key 12, versions 0 to 4). KIP-345 (static members).

use std::rc::Rc;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::protocol::messages::{HeartbeatRequest, HeartbeatResponse};

pub async fn handle(
    context: Rc<Context>,
    request: HeartbeatRequest,
    _version: i16,
) -> HeartbeatResponse {
    let group = request.group_id.clone();
    let answer = groups::ask(&context, &group, Request::Heartbeat(request)).await;
    let error = answered!(answer, Heartbeat).unwrap_or_else(|error| error);
    HeartbeatResponse {
        error_code: error.code(),
        ..Default::default()
    }
}
