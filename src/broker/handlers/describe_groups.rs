//! DescribeGroups: classic groups with their members; each group is asked of its coordinator, all at a time.

use super::group_client::{GROUP_OPERATIONS, client, of_kind};
use super::metadata::NO_OPERATIONS;
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::describe_groups_response::DescribedGroup;
use kafka_protocol::messages::{DescribeGroupsRequest, DescribeGroupsResponse};
use std::rc::Rc;

/// The first version whose answer has an error's sentence.
const ERROR_MESSAGE: i16 = 6;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: DescribeGroupsRequest,
) -> DescribeGroupsResponse {
    let client = client(context);
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
    let all = request.groups.into_iter().map(async |id| {
        let told = groups.ask(&id, &client, Request::DescribeGroup(id.clone())).await;
        let mut group = of_kind!(told, DescribeGroup)
            .unwrap_or_else(|code| DescribedGroup::default().with_group_id(id.clone()).with_error_code(code.code()));
        group.authorized_operations =
            if group.error_code == ErrorCode::None.code() { operations } else { NO_OPERATIONS };
        if client.api_version < ERROR_MESSAGE {
            group.error_message = None;
        }
        group
    });
    DescribeGroupsResponse::default().with_groups(join_all(all).await)
}
