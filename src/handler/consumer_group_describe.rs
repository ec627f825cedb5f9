//! ConsumerGroupDescribe (key 69, versions 0 to 1). KIP-848; KIP-1099 (members' types).

use std::rc::Rc;

use futures::future::join_all;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, GROUP_OPERATIONS, answered};
use crate::protocol::messages::ConsumerGroupDescribeRequest;
use crate::protocol::messages::consumer_group_describe_response::{
    ConsumerGroupDescribeResponse, DescribedGroup,
};
use crate::protocol::{ErrorCode, Str};

pub async fn handle(
    context: Rc<Context>,
    request: ConsumerGroupDescribeRequest,
    _version: i16,
) -> ConsumerGroupDescribeResponse {
    let tells_operations = request.include_authorized_operations;
    let described = request.group_ids.into_iter().map(|group| {
        let context = &context;
        async move {
            let mut described = one(context, group).await;
            if tells_operations && described.error_code == ErrorCode::None.code() {
                described.authorized_operations = GROUP_OPERATIONS;
            }
            described
        }
    });
    ConsumerGroupDescribeResponse {
        groups: join_all(described).await,
        ..Default::default()
    }
}

async fn one(context: &Context, group: Str) -> DescribedGroup {
    let refused = |error: ErrorCode| DescribedGroup {
        error_code: error.code(),
        error_message: None,
        group_id: group.clone(),
        ..Default::default()
    };
    if !groups::have_consumer_protocol(context) {
        return refused(ErrorCode::UnsupportedVersion);
    }
    let request = Request::DescribeConsumer {
        group: group.clone(),
    };
    let answer = groups::ask(context, &group, request).await;
    answered!(answer, DescribedConsumer).unwrap_or_else(refused)
}
