//! Members of the classic protocol in a consumer group that has members: refused, as by Kafka where
//! `group.consumer.migration.policy` does not let a group have members of both.

use super::super::coordinator::{Client, Context};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use kafka_protocol::messages as codec;

/// What a member that speaks the classic protocol asks of a consumer group that has members (online migration).
impl ConsumerGroup {
    /// JoinGroup.
    pub fn classic_join(
        &mut self,
        _cx: &mut Context<'_>,
        _client: &Client,
        request: &codec::JoinGroupRequest,
    ) -> codec::JoinGroupResponse {
        codec::JoinGroupResponse::default()
            .with_error_code(ErrorCode::InconsistentGroupProtocol as i16)
            .with_member_id(request.member_id.clone())
    }

    /// SyncGroup.
    pub fn classic_sync(
        &mut self,
        _cx: &mut Context<'_>,
        _client: &Client,
        _request: &codec::SyncGroupRequest,
    ) -> codec::SyncGroupResponse {
        codec::SyncGroupResponse::default().with_error_code(ErrorCode::UnknownMemberId as i16)
    }

    /// Heartbeat.
    pub fn classic_heartbeat(&mut self, _cx: &mut Context<'_>, _request: &codec::HeartbeatRequest) -> ErrorCode {
        ErrorCode::UnknownMemberId
    }

    /// LeaveGroup.
    pub fn classic_leave(
        &mut self,
        _cx: &mut Context<'_>,
        _request: &codec::LeaveGroupRequest,
    ) -> codec::LeaveGroupResponse {
        codec::LeaveGroupResponse::default().with_error_code(ErrorCode::UnknownMemberId as i16)
    }
}
