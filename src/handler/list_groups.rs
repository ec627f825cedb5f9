//! ListGroups (key 16, versions 0 to 5). KIP-518 (states), KIP-848 (types).

use std::rc::Rc;

use crate::coordinator::{Answer, Request};
use crate::handler::{Context, groups};
use crate::protocol::Str;
use crate::protocol::messages::{ListGroupsRequest, ListGroupsResponse};

pub async fn handle(
    context: Rc<Context>,
    request: ListGroupsRequest,
    _version: i16,
) -> ListGroupsResponse {
    let detached = |names: &[Str]| names.iter().map(Str::detach).collect::<Vec<_>>();
    let states = detached(&request.states_filter);
    let types = detached(&request.types_filter);
    let listed = groups::ask_all(&context, move || Request::List {
        states: states.clone(),
        types: types.clone(),
    });
    let mut response = ListGroupsResponse::default();
    match listed.await {
        Ok(answers) => {
            for answer in answers {
                let Answer::Listed(groups) = answer else {
                    unreachable!("a coordinator answered {answer:?}");
                };
                response.groups.extend(groups);
            }
        }
        Err(error) => response.error_code = error.code(),
    }
    response
}
