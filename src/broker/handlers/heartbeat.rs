//! Heartbeat: a member of a classic group is alive, and hears if it must join again.

use super::group_client::{client, not_empty, of_kind, touch};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::{HeartbeatRequest, HeartbeatResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: HeartbeatRequest,
) -> HeartbeatResponse {
    let group = request.group_id.clone();
    touch(groups, context, &group);
    let told = match not_empty(&group) {
        Ok(()) => of_kind!(groups.ask(&group, &client(context), Request::Heartbeat(request)).await, Heartbeat),
        Err(code) => Err(code),
    };
    told.unwrap_or_else(|code| HeartbeatResponse::default().with_error_code(code.code()))
}
