//! DeleteGroups (key 42, versions 0 to 3). KIP-229.

use std::rc::Rc;

use futures::future::join_all;

use crate::coordinator::Request;
use crate::handler::Context;
use crate::handler::groups::{self, answered};
use crate::protocol::Str;
use crate::protocol::messages::DeleteGroupsRequest;
use crate::protocol::messages::delete_groups_response::{
    DeletableGroupResult, DeleteGroupsResponse,
};

pub async fn handle(
    context: Rc<Context>,
    request: DeleteGroupsRequest,
    _version: i16,
) -> DeleteGroupsResponse {
    let mut names = request.groups_names;
    names.sort();
    names.dedup();
    let deleted = names.into_iter().map(|group| one(&context, group));
    DeleteGroupsResponse {
        results: join_all(deleted).await,
        ..Default::default()
    }
}

async fn one(context: &Context, group: Str) -> DeletableGroupResult {
    let request = Request::Delete {
        group: group.clone(),
    };
    let answer = groups::ask(context, &group, request).await;
    let error = answered!(answer, Deleted).unwrap_or_else(|error| error);
    DeletableGroupResult {
        group_id: group,
        error_code: error.code(),
        error_message: None,
    }
}
