//! SyncGroup (key 14, versions 0 to 5). KIP-345 (static members), KIP-559 (protocol type and name).

use std::rc::Rc;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::protocol::ErrorCode;
use crate::protocol::messages::{SyncGroupRequest, SyncGroupResponse};

/// The version that must tell which protocol it means.
const PROTOCOL_SINCE: i16 = 5;

pub async fn handle(
    context: Rc<Context>,
    request: SyncGroupRequest,
    version: i16,
) -> SyncGroupResponse {
    let tells_protocol = request.protocol_type.is_some() && request.protocol_name.is_some();
    let answer = match version < PROTOCOL_SINCE || tells_protocol {
        true => {
            let group = request.group_id.clone();
            let answer = groups::ask(&context, &group, Request::Sync(request)).await;
            answered!(answer, Sync)
        }
        false => Err(ErrorCode::InconsistentGroupProtocol),
    };
    answer.unwrap_or_else(|error| SyncGroupResponse {
        error_code: error.code(),
        ..Default::default()
    })
}
