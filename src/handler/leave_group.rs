//! LeaveGroup (key 13, versions 0 to 5). KIP-345 (several members, by instance id), KIP-800 (reasons, which are for logs).

use std::rc::Rc;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::protocol::messages::leave_group_request::MemberIdentity;
use crate::protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};

/// Before this version a member leaves alone, and its error is the answer's.
const BATCHED_SINCE: i16 = 3;

pub async fn handle(
    context: Rc<Context>,
    mut request: LeaveGroupRequest,
    version: i16,
) -> LeaveGroupResponse {
    if version < BATCHED_SINCE {
        request.members = vec![MemberIdentity {
            member_id: std::mem::take(&mut request.member_id),
            group_instance_id: None,
            reason: None,
        }];
    }
    let group = request.group_id.clone();
    let answer = groups::ask(&context, &group, Request::Leave(request)).await;
    let answer = answered!(answer, Leave);
    let mut response = answer.unwrap_or_else(|error| LeaveGroupResponse {
        error_code: error.code(),
        ..Default::default()
    });
    if version < BATCHED_SINCE {
        for member in std::mem::take(&mut response.members) {
            response.error_code = member.error_code;
        }
    }
    response
}
