//! SyncGroup: the leader's assignment goes to the coordinator, each member's part comes back.

use super::group_client::{client, not_empty, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::{SyncGroupRequest, SyncGroupResponse};
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: SyncGroupRequest,
) -> SyncGroupResponse {
    let group = request.group_id.clone();
    let told = match not_empty(&group) {
        Ok(()) => of_kind!(groups.ask(&group, &client(context), Request::SyncGroup(request)).await, SyncGroup),
        Err(code) => Err(code),
    };
    told.unwrap_or_else(|code| SyncGroupResponse::default().with_error_code(code.code()))
}
