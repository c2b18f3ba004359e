//! Members of the classic protocol in a consumer group: while clients are exchanged one by one, both kinds are in one group, and the
//! coordinator assigns for all of them. To a classic member its epoch is a generation: it joins to be led one step
//! towards its target, and syncs to be told what it has. Nobody leads.

use super::super::classic::CONSUMER_PROTOCOL_TYPE;
use super::super::coordinator::{Client, Context, Refused};
use super::super::records_consumer::ClassicMemberMetadata;
use super::super::timers::{Timer, TimerKind};
use super::blobs::{Subscription, by_id, encode_assignment};
use super::heartbeat::Update;
use super::member::{Current, Declared, Member, MemberState, names};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use bytes::Bytes;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::leave_group_response::MemberResponse;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

/// From this version on a member that comes without an id is given one, and asked to come again (KIP-394).
const MEMBER_ID_REQUIRED: i16 = 4;

impl ConsumerGroup {
    /// JoinGroup.
    pub fn classic_join(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        request: &codec::JoinGroupRequest,
    ) -> codec::JoinGroupResponse {
        match self.try_classic_join(cx, client, request) {
            Ok(response) => response,
            Err((code, member)) => codec::JoinGroupResponse::default()
                .with_error_code(code as i16)
                .with_generation_id(-1)
                .with_member_id(StrBytes::from_string(member.to_string())),
        }
    }

    fn try_classic_join(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        request: &codec::JoinGroupRequest,
    ) -> Result<codec::JoinGroupResponse, (ErrorCode, Arc<str>)> {
        let is_unknown = request.member_id.is_empty();
        let id: Arc<str> = match request.member_id.as_str() {
            "" => Arc::from(cx.ids.uuid().to_string()),
            id => Arc::from(id),
        };
        let refuse = |code: ErrorCode| (code, Arc::from(request.member_id.as_str()));
        let refused = |refused: Refused| refuse(refused.code);
        self.check_size(cx.config, &id).map_err(refused)?;
        let subscription = self.classic_subscription(request).ok_or(refuse(ErrorCode::InconsistentGroupProtocol))?;
        let instance = request.group_instance_id.as_deref();
        if is_unknown && instance.is_none() && client.api_version >= MEMBER_ID_REQUIRED {
            return Err((ErrorCode::MemberIdRequired, id));
        }
        let (before, replaces) = match instance {
            Some(instance) if is_unknown => {
                let holder = self.static_members.get(instance).cloned();
                (holder.clone(), holder)
            }
            Some(instance) => (Some(self.check_instance(&id, instance).map_err(refused)?.clone()), None),
            None => (Some(id.clone()), None),
        };
        let declared = before.and_then(|id| self.members.get(&id)).map(|m| m.declared.clone()).unwrap_or_default();
        let owned = by_id(&subscription.owned, cx.topics);
        let declared = declare(declared, client, request, subscription);
        let protocol = request.protocols[0].name.clone();

        let changed = self.take_update(cx, &id, Update { declared, replaces, new_regex: None });
        self.reconcile(cx, &id, Some(&owned), changed);
        self.start_session(cx, &id);
        // It has this long to sync.
        self.set_classic_deadline(cx, &id, true);
        Ok(codec::JoinGroupResponse::default()
            .with_member_id(StrBytes::from_string(id.to_string()))
            .with_generation_id(self.members[&id].current.epoch)
            .with_protocol_type(Some(StrBytes::from_static_str(CONSUMER_PROTOCOL_TYPE)))
            .with_protocol_name(Some(protocol)))
    }

    /// What a joining member is subscribed to; none if it cannot be in this group.
    fn classic_subscription(&self, request: &codec::JoinGroupRequest) -> Option<Subscription> {
        if request.protocol_type.as_str() != CONSUMER_PROTOCOL_TYPE {
            return None;
        }
        let classic: Vec<_> = self.members.values().filter_map(|m| m.declared.classic.as_ref()).collect();
        let is_common =
            |name: &str| classic.iter().all(|c| c.supported_protocols.iter().any(|(other, _)| **other == *name));
        let first = request.protocols.first()?;
        if !request.protocols.iter().any(|p| is_common(&p.name)) {
            return None;
        }
        Subscription::decode(&first.metadata).ok()
    }

    /// Heartbeat. It also is what makes the group look at its topics, as there may be no other members.
    pub fn classic_heartbeat(&mut self, cx: &mut Context<'_>, request: &codec::HeartbeatRequest) -> ErrorCode {
        let id: Arc<str> = Arc::from(request.member_id.as_str());
        let checked = self.classic_member(&id, request.group_instance_id.as_deref(), request.generation_id);
        if let Err(code) = checked {
            return code;
        }
        self.refresh(cx, false);
        self.start_session(cx, &id);
        let Current { epoch, state, .. } = &self.members[&id].current;
        let must_join = *epoch < self.epoch
            || *state == MemberState::UnrevokedPartitions
            || (*state == MemberState::UnreleasedPartitions && !self.waits_for_others(&id));
        if must_join {
            self.set_classic_deadline(cx, &id, false);
            return ErrorCode::RebalanceInProgress;
        }
        ErrorCode::None
    }

    /// SyncGroup.
    pub fn classic_sync(
        &mut self,
        cx: &mut Context<'_>,
        _client: &Client,
        request: &codec::SyncGroupRequest,
    ) -> codec::SyncGroupResponse {
        match self.try_classic_sync(cx, request) {
            Ok(assignment) => codec::SyncGroupResponse::default()
                .with_protocol_type(request.protocol_type.clone())
                .with_protocol_name(request.protocol_name.clone())
                .with_assignment(assignment),
            Err(code) => codec::SyncGroupResponse::default().with_error_code(code as i16),
        }
    }

    fn try_classic_sync(
        &mut self,
        cx: &mut Context<'_>,
        request: &codec::SyncGroupRequest,
    ) -> Result<Bytes, ErrorCode> {
        let id: Arc<str> = Arc::from(request.member_id.as_str());
        let member = self.classic_member(&id, request.group_instance_id.as_deref(), request.generation_id)?;
        let protocols = member.declared.classic.as_ref().map_or(&[][..], |classic| &classic.supported_protocols);
        let first = protocols.first().map(|(name, metadata)| (name.clone(), metadata.clone())).unwrap_or_default();
        let other_type = request.protocol_type.as_ref().is_some_and(|t| t.as_str() != CONSUMER_PROTOCOL_TYPE);
        let other_name = request.protocol_name.as_ref().is_some_and(|name| *name.as_str() != *first.0);
        if other_type || other_name {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        // One that has to give something up is told so first.
        if self.epoch > member.current.epoch && member.current.state != MemberState::UnrevokedPartitions {
            self.set_classic_deadline(cx, &id, false);
            return Err(ErrorCode::RebalanceInProgress);
        }
        let version = Subscription::decode(&first.1).map_or(0, |subscription| subscription.version);
        let assignment = encode_assignment(&member.current.assigned, version, cx.topics);
        if let Some(member) = self.members.get_mut(&id) {
            member.rebalance.clear();
        }
        self.start_session(cx, &id);
        Ok(assignment)
    }

    /// LeaveGroup. Members of both kinds may be named, by an admin client too.
    pub fn classic_leave(
        &mut self,
        cx: &mut Context<'_>,
        request: &codec::LeaveGroupRequest,
    ) -> codec::LeaveGroupResponse {
        let mut leaving: Vec<Arc<str>> = Vec::new();
        let mut responses = Vec::with_capacity(request.members.len());
        for member in &request.members {
            let code = match self.leaving_member(member) {
                Ok(id) if leaving.contains(&id) => ErrorCode::None,
                Ok(id) => {
                    leaving.push(id);
                    ErrorCode::None
                }
                Err(code) => code,
            };
            responses.push(
                MemberResponse::default()
                    .with_member_id(member.member_id.clone())
                    .with_group_instance_id(member.group_instance_id.clone())
                    .with_error_code(code as i16),
            );
        }
        self.fence(cx, &leaving);
        codec::LeaveGroupResponse::default().with_members(responses)
    }

    fn leaving_member(&self, member: &MemberIdentity) -> Result<Arc<str>, ErrorCode> {
        let id = member.member_id.as_str();
        match member.group_instance_id.as_deref() {
            None => self.members.get_key_value(id).map(|(id, _)| id.clone()).ok_or(ErrorCode::UnknownMemberId),
            // By an admin client.
            Some(instance) if id.is_empty() => {
                self.static_members.get(instance).cloned().ok_or(ErrorCode::UnknownMemberId)
            }
            Some(instance) => self.check_instance(id, instance).cloned().map_err(|refused| refused.code),
        }
    }

    /// The classic member that a request is of, if it is in its generation.
    fn classic_member(&self, id: &str, instance: Option<&str>, generation: i32) -> Result<&Member, ErrorCode> {
        if let Some(instance) = instance {
            self.check_instance(id, instance).map_err(|refused| refused.code)?;
        }
        let member = self.member(id).map_err(|refused| refused.code)?;
        match (member.speaks_classic(), member.current.epoch == generation) {
            (false, _) => Err(ErrorCode::UnknownMemberId),
            (true, false) => Err(ErrorCode::IllegalGeneration),
            (true, true) => Ok(member),
        }
    }

    /// Whether something that the member shall have is still another's.
    fn waits_for_others(&self, id: &Arc<str>) -> bool {
        self.members[id].target.pairs().any(|(topic, partition)| !self.is_free_for(id, topic, partition))
    }

    /// The rebalance timeout of a classic member begins: for its sync (`anew`), or for its join if it has not begun yet.
    fn set_classic_deadline(&mut self, cx: &mut Context<'_>, id: &Arc<str>, anew: bool) {
        let Some(member) = self.members.get_mut(id) else { return };
        if anew || !member.rebalance.is_set() {
            let deadline = cx.now.monotonic_ms + i64::from(member.declared.rebalance_timeout_ms);
            let timer = || Timer { group: self.id.clone(), kind: TimerKind::Rebalance(id.clone()) };
            member.rebalance.set(cx.timers, deadline, timer);
        }
    }
}

/// What a member says of itself with a join.
fn declare(
    before: Declared,
    client: &Client,
    request: &codec::JoinGroupRequest,
    subscription: Subscription,
) -> Declared {
    let protocols = request.protocols.iter();
    let supported_protocols =
        protocols.map(|p| (Arc::from(p.name.as_str()), Bytes::copy_from_slice(&p.metadata))).collect();
    Declared {
        instance: request.group_instance_id.as_deref().map(Arc::from).or(before.instance),
        rack: subscription.rack.or(before.rack),
        client_id: client.id.clone(),
        client_host: client.host.clone(),
        topics: names(subscription.topics),
        regex: Some(Arc::from("")),
        // Version 0 has none.
        rebalance_timeout_ms: match request.rebalance_timeout_ms {
            -1 => request.session_timeout_ms,
            timeout => timeout,
        },
        assignor: before.assignor,
        classic: Some(Arc::new(ClassicMemberMetadata {
            session_timeout_ms: request.session_timeout_ms,
            supported_protocols,
        })),
    }
}
