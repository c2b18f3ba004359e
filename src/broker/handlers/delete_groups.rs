//! DeleteGroups: empty groups go, with their offsets; each group is asked of its coordinator, all at a time.

use super::group_client::{client, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::delete_groups_response::DeletableGroupResult;
use kafka_protocol::messages::{DeleteGroupsRequest, DeleteGroupsResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let client = client(context);
    // What comes twice is answered once.
    let mut ids = request.groups_names;
    let mut seen = std::collections::BTreeSet::new();
    ids.retain(|id| seen.insert(id.clone()));
    let all = ids.into_iter().map(async |id| {
        let told = groups.ask(&id, &client, Request::DeleteGroup(id.clone())).await;
        of_kind!(told, DeleteGroup).unwrap_or_else(|code| {
            DeletableGroupResult::default().with_group_id(id.clone()).with_error_code(code.code())
        })
    });
    DeleteGroupsResponse::default().with_results(join_all(all).await)
}
