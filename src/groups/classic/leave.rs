//! LeaveGroup.

use super::{ClassicGroup, State};
use crate::error_code::ErrorCode;
use crate::groups::coordinator::Context;
use kafka_protocol::messages::LeaveGroupResponse;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;

impl ClassicGroup {
    /// Members leave; each is told for itself, and all together cause one rebalance. Requests before version 3 name one
    /// member outside the list: the handler puts it in, and takes the one code out.
    pub fn leave(&mut self, cx: &mut Context<'_>, members: &[MemberIdentity]) -> LeaveGroupResponse {
        let mut responses = Vec::with_capacity(members.len());
        for member in members {
            let code = self.leave_one(cx, member).err().unwrap_or(ErrorCode::None);
            responses.push(
                MemberResponse::default()
                    .with_member_id(member.member_id.clone())
                    .with_group_instance_id(member.group_instance_id.clone())
                    .with_error_code(code as i16),
            );
        }
        if responses.iter().any(|response| response.error_code == ErrorCode::None as i16) {
            match self.state {
                State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx),
                State::PreparingRebalance => self.maybe_complete_join(cx),
                State::Empty => {}
            }
        }
        LeaveGroupResponse::default().with_members(responses)
    }

    fn leave_one(&mut self, cx: &mut Context<'_>, member: &MemberIdentity) -> Result<(), ErrorCode> {
        let instance = member.group_instance_id.as_deref();
        if member.member_id.is_empty() {
            // An admin client removes a static member by its instance id alone.
            let id = instance.and_then(|instance| self.static_members.get(instance)).cloned();
            let id = id.ok_or(ErrorCode::UnknownMemberId)?;
            self.remove_member(cx, &id);
        } else if self.pending_members.contains_key(member.member_id.as_str()) {
            self.remove(&member.member_id);
        } else {
            self.validate(&member.member_id, instance)?;
            self.remove_member(cx, &member.member_id);
        }
        Ok(())
    }
}
