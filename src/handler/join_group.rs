//! JoinGroup (key 11, versions 0 to 9). KIP-345 (static members), KIP-394 (member ids first), KIP-559 (protocol type),
//! KIP-800 (reasons, which are for logs), KIP-814 (skipped assignments).

use std::rc::Rc;

use crate::coordinator::{Client, Join, Request};
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::io::entropy;
use crate::protocol::Str;
use crate::protocol::messages::{JoinGroupRequest, JoinGroupResponse};

/// The version that can leave out the protocol's name.
const NO_PROTOCOL_SINCE: i16 = 7;

pub async fn handle(
    context: Rc<Context>,
    client: Client,
    request: JoinGroupRequest,
    version: i16,
) -> JoinGroupResponse {
    let (group, member) = (request.group_id.clone(), request.member_id.clone());
    let join = Join {
        request,
        version,
        client,
        unique: Str::from(entropy::uuid_text()),
    };
    let answer = groups::ask(&context, &group, Request::Join(join)).await;
    let mut response = answered!(answer, Join).unwrap_or_else(|error| JoinGroupResponse {
        error_code: error.code(),
        generation_id: -1,
        protocol_name: None,
        member_id: member,
        ..Default::default()
    });
    if version < NO_PROTOCOL_SINCE {
        response.protocol_name.get_or_insert_default();
    }
    response
}
