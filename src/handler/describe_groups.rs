//! DescribeGroups (key 15, versions 0 to 6). KIP-345 (instance ids), KIP-430 (authorized operations), KIP-1043 (GROUP_ID_NOT_FOUND).

use std::rc::Rc;

use futures::future::join_all;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, GROUP_OPERATIONS, answered};
use crate::protocol::messages::DescribeGroupsRequest;
use crate::protocol::messages::describe_groups_response::{DescribeGroupsResponse, DescribedGroup};
use crate::protocol::{ErrorCode, Str};

pub async fn handle(
    context: Rc<Context>,
    request: DescribeGroupsRequest,
    version: i16,
) -> DescribeGroupsResponse {
    let tells_operations = request.include_authorized_operations;
    let described = request.groups.into_iter().map(|group| {
        let context = &context;
        async move {
            let mut described = one(context, group, version).await;
            if tells_operations && described.error_code == ErrorCode::None.code() {
                described.authorized_operations = GROUP_OPERATIONS;
            }
            described
        }
    });
    DescribeGroupsResponse {
        groups: join_all(described).await,
        ..Default::default()
    }
}

async fn one(context: &Context, group: Str, version: i16) -> DescribedGroup {
    let request = Request::Describe {
        group: group.clone(),
        version,
    };
    let answer = groups::ask(context, &group, request).await;
    answered!(answer, Described).unwrap_or_else(|error| DescribedGroup {
        error_code: error.code(),
        group_id: group,
        ..Default::default()
    })
}
