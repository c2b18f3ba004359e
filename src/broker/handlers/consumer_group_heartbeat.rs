//! ConsumerGroupHeartbeat: the one request of a member of a consumer group (KIP-848): it joins, lives and leaves by it.

use super::group_client::{client, of_kind, touch};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::{ConsumerGroupHeartbeatRequest, ConsumerGroupHeartbeatResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> ConsumerGroupHeartbeatResponse {
    let group = request.group_id.clone();
    touch(groups, context, &group);
    let told = groups.ask(&group, &client(context), Request::ConsumerGroupHeartbeat(request)).await;
    of_kind!(told, ConsumerGroupHeartbeat)
        .unwrap_or_else(|code| ConsumerGroupHeartbeatResponse::default().with_error_code(code.code()))
}
