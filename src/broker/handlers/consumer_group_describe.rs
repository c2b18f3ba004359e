//! ConsumerGroupDescribe: consumer groups with their members; each group is asked of its coordinator, all at a time.

use super::group_client::{GROUP_OPERATIONS, client, not_empty, of_kind};
use super::metadata::NO_OPERATIONS;
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::consumer_group_describe_response::DescribedGroup;
use kafka_protocol::messages::{ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> ConsumerGroupDescribeResponse {
    let client = client(context);
    let operations = if request.include_authorized_operations { GROUP_OPERATIONS } else { NO_OPERATIONS };
    let all = request.group_ids.into_iter().map(async |id| {
        let told = match not_empty(&id) {
            Ok(()) => groups.ask(&id, &client, Request::ConsumerGroupDescribe(id.clone())).await,
            Err(code) => Err(code),
        };
        let mut group = of_kind!(told, ConsumerGroupDescribe)
            .unwrap_or_else(|code| DescribedGroup::default().with_group_id(id.clone()).with_error_code(code.code()));
        let good = group.error_code == ErrorCode::None.code();
        group.authorized_operations = if good { operations } else { NO_OPERATIONS };
        group
    });
    ConsumerGroupDescribeResponse::default().with_groups(join_all(all).await)
}
