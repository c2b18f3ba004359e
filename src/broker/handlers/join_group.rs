//! JoinGroup: a member of a classic group comes, or comes back; answered when the generation is complete.

use super::group_client::{client, not_empty, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::{JoinGroupRequest, JoinGroupResponse};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

/// The first version whose answer says that the leader need not assign.
const SKIP_ASSIGNMENT: i16 = 9;
/// The first version whose answer may have no protocol.
const NULL_PROTOCOL: i16 = 7;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    request: JoinGroupRequest,
) -> JoinGroupResponse {
    let (group, member) = (request.group_id.clone(), request.member_id.clone());
    let told = match not_empty(&group) {
        Ok(()) => of_kind!(groups.ask(&group, &client(context), Request::JoinGroup(request)).await, JoinGroup),
        Err(code) => Err(code),
    };
    let mut response = told.unwrap_or_else(|code| {
        let response = JoinGroupResponse::default().with_error_code(code.code()).with_generation_id(-1);
        response.with_protocol_name(None).with_member_id(member)
    });
    let version = context.request.header.api_version;
    response.skip_assignment &= version >= SKIP_ASSIGNMENT;
    if version < NULL_PROTOCOL && response.protocol_name.is_none() {
        response.protocol_name = Some(StrBytes::default());
    }
    response
}
