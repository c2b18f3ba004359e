//! Consumer groups (KIP-848): what a coordinator asks of one.

use super::coordinator::{Client, Context, Refused, Topics};
use super::records::{Key, ReplayError};
use super::timers::Timer;
use crate::error_code::ErrorCode;
use kafka_protocol::messages as codec;
use std::sync::Arc;

/// One consumer group.
#[derive(Debug)]
pub struct ConsumerGroup {
    id: Arc<str>,
}

impl ConsumerGroup {
    /// An empty group of epoch 0.
    #[must_use]
    pub fn new(id: Arc<str>) -> Self {
        Self { id }
    }

    /// No members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        true
    }

    /// Kafka's name of its state.
    #[must_use]
    pub fn state_name(&self) -> &'static str {
        "Empty"
    }

    /// Takes a record of types 3 to 8 or 16 while the partition is read.
    pub fn replay(&mut self, key: &Key, _value: Option<&[u8]>) -> Result<(), ReplayError> {
        debug_assert_eq!(*key.group(), self.id);
        Ok(())
    }

    /// Nothing is known of it any more: a tombstone took its metadata.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        true
    }

    /// The partition is read: starts the sessions of its members.
    pub fn loaded(&mut self, _cx: &mut Context<'_>) {}

    /// A member's heartbeat, joins and leaves included.
    pub fn heartbeat(
        &mut self,
        _cx: &mut Context<'_>,
        _client: &Client,
        _request: &codec::ConsumerGroupHeartbeatRequest,
    ) -> Result<codec::ConsumerGroupHeartbeatResponse, Refused> {
        Err(Refused::new(ErrorCode::UnsupportedVersion, "consumer groups are not served"))
    }

    /// A deadline came up.
    pub fn expire(&mut self, _cx: &mut Context<'_>, _timer: &Timer, _number: u64) {}

    /// Topics came, went or changed.
    pub fn topics_changed(&mut self, _cx: &mut Context<'_>) {}

    /// ConsumerGroupDescribe.
    #[must_use]
    pub fn describe(&self, _topics: &dyn Topics) -> codec::consumer_group_describe_response::DescribedGroup {
        codec::consumer_group_describe_response::DescribedGroup::default()
    }

    /// Whether a member may commit.
    pub fn validate_offset_commit(
        &self,
        _member: &str,
        _instance: Option<&str>,
        _epoch: i32,
        _api_version: i16,
    ) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether a member may fetch; no member and an epoch of -1 is an admin client.
    pub fn validate_offset_fetch(&self, _member: Option<&str>, _epoch: i32) -> Result<(), ErrorCode> {
        Ok(())
    }

    /// Whether a member is subscribed to the topic.
    #[must_use]
    pub fn is_subscribed(&self, _topic: &str) -> bool {
        false
    }

    /// Records that take the group away, its members included.
    pub fn tombstones(&self, _cx: &mut Context<'_>) {}
}

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
