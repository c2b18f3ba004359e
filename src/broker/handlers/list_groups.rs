//! ListGroups: every group of this node, of every coordinator.

use super::group_client::{client, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::{ListGroupsRequest, ListGroupsResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: ListGroupsRequest,
) -> ListGroupsResponse {
    let client = client(context);
    let own = groups.partitions().into_iter().filter(|(_, shard)| context.concerns(*shard));
    let all = own.map(async |(partition, shard)| {
        of_kind!(groups.ask_at(partition, shard, &client, Request::ListGroups(request.clone())).await, ListGroups)
    });
    let mut found = Vec::new();
    for told in join_all(all).await {
        match told {
            Ok(listed) => found.extend(listed),
            // Gone from here while we asked: somebody else lists it.
            Err(ErrorCode::NotCoordinator) => {}
            // A part of the list would pass for all of it.
            Err(code) => return ListGroupsResponse::default().with_error_code(code.code()),
        }
    }
    ListGroupsResponse::default().with_groups(found)
}
