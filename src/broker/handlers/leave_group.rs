//! LeaveGroup: members go, one by one before version 3, many at a time since (KIP-345).

use super::group_client::{client, not_empty, of_kind};
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::groups::Request;
use coreline_io::Runtime;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::{LeaveGroupRequest, LeaveGroupResponse};
use std::rc::Rc;

/// The first version that names several members.
const MANY: i16 = 3;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    context: &RequestContext,
    mut request: LeaveGroupRequest,
) -> LeaveGroupResponse {
    let version = context.request.header.api_version;
    if version < MANY {
        request.members = vec![MemberIdentity::default().with_member_id(request.member_id.clone())];
    }
    let group = request.group_id.clone();
    let told = match not_empty(&group) {
        Ok(()) => of_kind!(groups.ask(&group, &client(context), Request::LeaveGroup(request)).await, LeaveGroup),
        Err(code) => Err(code),
    };
    let mut response = told.unwrap_or_else(|code| LeaveGroupResponse::default().with_error_code(code.code()));
    if version < MANY {
        // The one member's outcome is the request's.
        let of_member = std::mem::take(&mut response.members).first().map(|m| m.error_code);
        if response.error_code == 0 {
            response.error_code = of_member.unwrap_or(0);
        }
    }
    response
}
