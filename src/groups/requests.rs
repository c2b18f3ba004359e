//! What each request asks of which group, and what is refused before a group is asked.

use super::consumer::{ConsumerGroup, validate_heartbeat};
use super::coordinator::{Context, Coordinator, Group, Groups, Refused, Slot, remove_group, slot_or_new};
use super::{Client, Effects, Now, Request, Response, Token, Topics};
use crate::error_code::ErrorCode;
use kafka_protocol::messages as codec;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

impl Coordinator {
    pub(super) fn request(
        &mut self,
        now: Now,
        topics: &dyn Topics,
        effects: &mut Effects,
        token: Token,
        client: &Client,
        request: Request,
    ) {
        if let Request::TxnOffsetCommit { request, guard } = request {
            let mut open = std::mem::take(&mut self.open);
            let (mut cx, groups) = self.parts(now, topics, effects);
            super::transactional_offsets::commit(&mut cx, (groups, &mut open), token, &request, guard);
            self.open = open;
            return;
        }
        let (mut cx, groups) = self.parts(now, topics, effects);
        let cx = &mut cx;
        let response = match request {
            // These may wait, and answer for themselves.
            Request::JoinGroup(request) => return join_group(cx, groups, token, client, &request),
            Request::SyncGroup(request) => return sync_group(cx, groups, token, client, &request),
            Request::Heartbeat(request) => Response::Heartbeat(heartbeat(cx, groups, &request)),
            Request::LeaveGroup(request) => Response::LeaveGroup(leave_group(cx, groups, client, &request)),
            Request::OffsetCommit(request) => {
                Response::OffsetCommit(super::offsets::commit(cx, groups, client, &request))
            }
            Request::TxnOffsetCommit { .. } => unreachable!("taken above"),
            Request::OffsetFetch { group, require_stable } => {
                Response::OffsetFetch(super::offsets::fetch(topics, groups, client, &group, require_stable))
            }
            Request::OffsetDelete(request) => Response::OffsetDelete(super::offsets::delete(cx, groups, &request)),
            Request::DescribeGroup(id) => Response::DescribeGroup(describe_group(groups, client, id)),
            Request::DeleteGroup(id) => Response::DeleteGroup(delete_group(cx, groups, id)),
            Request::ListGroups(request) => Response::ListGroups(list_groups(groups, &request)),
            Request::ConsumerGroupHeartbeat(request) => {
                Response::ConsumerGroupHeartbeat(consumer_group_heartbeat(cx, groups, client, &request))
            }
            Request::ConsumerGroupDescribe(id) => {
                Response::ConsumerGroupDescribe(consumer_group_describe(cx, groups, id))
            }
        };
        cx.answer(token, response);
    }
}

fn join_group(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    token: Token,
    client: &Client,
    request: &codec::JoinGroupRequest,
) {
    let refused =
        |code: ErrorCode, member: &StrBytes| Response::JoinGroup(super::classic::join_error(code, member.clone()));
    if request.group_id.is_empty() {
        return cx.answer(token, refused(ErrorCode::InvalidGroupId, &request.member_id));
    }
    let timeouts = cx.config.min_session_timeout_ms..=cx.config.max_session_timeout_ms;
    if !timeouts.contains(&request.session_timeout_ms) {
        return cx.answer(token, refused(ErrorCode::InvalidSessionTimeout, &request.member_id));
    }
    if let Some(Slot { group: Group::Consumer(group), .. }) = groups.get_mut(request.group_id.as_str())
        && !group.is_empty()
    {
        let response = group.classic_join(cx, client, request);
        return cx.answer(token, Response::JoinGroup(response));
    }
    let id: Arc<str> = Arc::from(request.group_id.as_str());
    if let Some(Slot { group: Group::Consumer(group), .. }) = groups.get(&id) {
        group.tombstones(cx);
        remove_group(groups, &id);
    }
    let is_new = !groups.contains_key(&id);
    if is_new && !request.member_id.is_empty() {
        return cx.answer(token, refused(ErrorCode::UnknownMemberId, &request.member_id));
    }
    let Slot { group: Group::Classic(group), .. } = slot_or_new(groups, &id, cx.now.wall_ms) else { return };
    if is_new {
        // So that the group is there after a restart, as its member has been told.
        group.write(cx);
    }
    group.join(cx, token, client, request);
}

fn sync_group(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    token: Token,
    client: &Client,
    request: &codec::SyncGroupRequest,
) {
    let code = if request.group_id.is_empty() { ErrorCode::InvalidGroupId } else { ErrorCode::UnknownMemberId };
    match groups.get_mut(request.group_id.as_str()) {
        Some(Slot { group: Group::Classic(group), .. }) if !group.is_empty() => group.sync(cx, token, client, request),
        Some(Slot { group: Group::Consumer(group), .. }) if !group.is_empty() => {
            let response = group.classic_sync(cx, client, request);
            cx.answer(token, Response::SyncGroup(response));
        }
        _ => cx.answer(token, Response::SyncGroup(codec::SyncGroupResponse::default().with_error_code(code as i16))),
    }
}

fn heartbeat(cx: &mut Context<'_>, groups: &mut Groups, request: &codec::HeartbeatRequest) -> codec::HeartbeatResponse {
    let code = if request.group_id.is_empty() {
        ErrorCode::InvalidGroupId
    } else {
        match groups.get_mut(request.group_id.as_str()).map(|slot| &mut slot.group) {
            Some(Group::Classic(group)) => {
                group.heartbeat(cx, &request.member_id, request.group_instance_id.as_deref(), request.generation_id)
            }
            Some(Group::Consumer(group)) => group.classic_heartbeat(cx, request),
            None => ErrorCode::UnknownMemberId,
        }
    };
    codec::HeartbeatResponse::default().with_error_code(code as i16)
}

fn leave_group(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    client: &Client,
    request: &codec::LeaveGroupRequest,
) -> codec::LeaveGroupResponse {
    if request.group_id.is_empty() {
        return codec::LeaveGroupResponse::default().with_error_code(ErrorCode::InvalidGroupId as i16);
    }
    if client.api_version < 3 {
        // One member, outside the list; its code is the answer's own.
        let member = codec::leave_group_request::MemberIdentity::default().with_member_id(request.member_id.clone());
        let request = request.clone().with_members(vec![member]);
        let response = leave_members(cx, groups, &request);
        let code = response.members.first().map_or(response.error_code, |member| member.error_code);
        return codec::LeaveGroupResponse::default().with_error_code(code);
    }
    leave_members(cx, groups, request)
}

fn leave_members(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    request: &codec::LeaveGroupRequest,
) -> codec::LeaveGroupResponse {
    match groups.get_mut(request.group_id.as_str()).map(|slot| &mut slot.group) {
        Some(Group::Classic(group)) => group.leave(cx, &request.members),
        Some(Group::Consumer(group)) => {
            let response = group.classic_leave(cx, request);
            maybe_downgrade(cx, groups, request.group_id.as_str());
            response
        }
        None => codec::LeaveGroupResponse::default().with_members(
            request
                .members
                .iter()
                .map(|member| {
                    codec::leave_group_response::MemberResponse::default()
                        .with_member_id(member.member_id.clone())
                        .with_group_instance_id(member.group_instance_id.clone())
                        .with_error_code(ErrorCode::UnknownMemberId as i16)
                })
                .collect(),
        ),
    }
}

fn describe_group(
    groups: &Groups,
    client: &Client,
    id: codec::GroupId,
) -> codec::describe_groups_response::DescribedGroup {
    if let Some(Slot { group: Group::Classic(group), .. }) = groups.get(id.as_str()) {
        return group.describe().with_group_id(id);
    }
    let described =
        codec::describe_groups_response::DescribedGroup::default().with_group_state(StrBytes::from_static_str("Dead"));
    if client.api_version < 6 {
        return described.with_group_id(id);
    }
    // KIP-1043: from version 6 a group that is not there is an error.
    let message = match groups.get(id.as_str()) {
        Some(_) => format!("Group {} is not a classic group.", id.as_str()),
        None => format!("Group {} not found.", id.as_str()),
    };
    described
        .with_group_id(id)
        .with_error_code(ErrorCode::GroupIdNotFound as i16)
        .with_error_message(Some(StrBytes::from_string(message)))
}

fn delete_group(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    id: codec::GroupId,
) -> codec::delete_groups_response::DeletableGroupResult {
    let code = match groups.get_mut(id.as_str()) {
        None => ErrorCode::GroupIdNotFound,
        Some(slot) if !slot.group.is_empty() => ErrorCode::NonEmptyGroup,
        Some(slot) => {
            slot.offsets.delete_all(id.as_str(), cx);
            slot.group.tombstones(cx);
            groups.remove(id.as_str());
            ErrorCode::None
        }
    };
    codec::delete_groups_response::DeletableGroupResult::default().with_group_id(id).with_error_code(code as i16)
}

fn list_groups(groups: &Groups, request: &codec::ListGroupsRequest) -> Vec<codec::list_groups_response::ListedGroup> {
    let chosen = |filter: &[StrBytes], name: &str| {
        filter.is_empty() || filter.iter().any(|wanted| wanted.trim().eq_ignore_ascii_case(name))
    };
    groups
        .iter()
        .map(|(id, slot)| (id, &slot.group))
        .filter(|(_, group)| chosen(&request.states_filter, group.state_name()))
        .filter(|(_, group)| chosen(&request.types_filter, group.type_name()))
        .map(|(id, group)| {
            codec::list_groups_response::ListedGroup::default()
                .with_group_id(codec::GroupId(StrBytes::from_string(id.to_string())))
                .with_protocol_type(StrBytes::from_string(group.protocol_type().to_owned()))
                .with_group_state(StrBytes::from_static_str(group.state_name()))
                .with_group_type(StrBytes::from_static_str(group.type_name()))
        })
        .collect()
}

fn consumer_group_heartbeat(
    cx: &mut Context<'_>,
    groups: &mut Groups,
    client: &Client,
    request: &codec::ConsumerGroupHeartbeatRequest,
) -> codec::ConsumerGroupHeartbeatResponse {
    if let Err(refused) = validate_heartbeat(cx.config, client.api_version, request) {
        return refused_heartbeat(&refused);
    }
    let not_found = |message: String| Refused::new(ErrorCode::GroupIdNotFound, message);
    let id: Arc<str> = Arc::from(request.group_id.as_str());
    let is_new = !matches!(groups.get(&id), Some(Slot { group: Group::Consumer(_), .. }));
    if is_new {
        // A member that joins makes the group, and takes the place of a classic group without members.
        let refused = match groups.get(&id) {
            None if request.member_epoch != 0 => Some(not_found(format!("Consumer group {id} not found."))),
            Some(_) if request.member_epoch != 0 => Some(not_found(format!("Group {id} is not a consumer group."))),
            _ => None,
        };
        if let Some(refused) = refused {
            return refused_heartbeat(&refused);
        }
    }
    if let Some(Slot { group: Group::Consumer(group), .. }) = groups.get_mut(&id) {
        let response = group.heartbeat(cx, client, request).unwrap_or_else(|refused| refused_heartbeat(&refused));
        if request.member_epoch < 0 && response.error_code == 0 {
            maybe_downgrade(cx, groups, &id);
        }
        return response;
    }
    let records = cx.effects.records.len();
    let joined = begin_consumer_group(cx, groups.get(&id).map(|slot| &slot.group), &id).and_then(|mut group| {
        let response = group.heartbeat(cx, client, request)?;
        Ok((group, response))
    });
    match joined {
        Ok((group, response)) => {
            let slot = slot_or_new(groups, &id, cx.now.wall_ms);
            if let Group::Classic(classic) = &mut slot.group {
                classic.end_upgraded(cx);
            }
            slot.group = Group::Consumer(group);
            response
        }
        Err(refused) => {
            cx.effects.records.truncate(records);
            refused_heartbeat(&refused)
        }
    }
}

/// The group that the first member of the consumer protocol joins: a new one, or what a classic group becomes.
fn begin_consumer_group(cx: &mut Context<'_>, before: Option<&Group>, id: &Arc<str>) -> Result<ConsumerGroup, Refused> {
    match before {
        Some(Group::Classic(classic)) if !classic.is_empty() => ConsumerGroup::from_classic(cx, id, classic),
        Some(group) => {
            group.tombstones(cx);
            Ok(ConsumerGroup::new(id.clone()))
        }
        None => Ok(ConsumerGroup::new(id.clone())),
    }
}

/// A consumer group whose last member of the consumer protocol has gone becomes a classic group.
pub(super) fn maybe_downgrade(cx: &mut Context<'_>, groups: &mut Groups, id: &str) {
    let Some(slot) = groups.get_mut(id) else { return };
    if let Group::Consumer(group) = &slot.group
        && group.is_to_be_classic(cx.config)
    {
        slot.group = Group::Classic(group.to_classic(cx));
    }
}

fn refused_heartbeat(refused: &Refused) -> codec::ConsumerGroupHeartbeatResponse {
    codec::ConsumerGroupHeartbeatResponse::default()
        .with_error_code(refused.code as i16)
        .with_error_message(Some(StrBytes::from_string(refused.message.clone())))
}

fn consumer_group_describe(
    cx: &Context<'_>,
    groups: &Groups,
    id: codec::GroupId,
) -> codec::consumer_group_describe_response::DescribedGroup {
    let message = match groups.get(id.as_str()).map(|slot| &slot.group) {
        Some(Group::Consumer(group)) => return group.describe(cx.config, cx.topics),
        Some(Group::Classic(_)) => format!("Group {} is not a consumer group.", id.as_str()),
        None => format!("Group {} not found.", id.as_str()),
    };
    codec::consumer_group_describe_response::DescribedGroup::default()
        .with_group_id(id)
        .with_error_code(ErrorCode::GroupIdNotFound as i16)
        .with_error_message(Some(StrBytes::from_string(message)))
}
