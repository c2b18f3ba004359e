//! JoinGroup.

use super::member::own_protocols;
use super::rebalance::join_error;
use super::{ClassicGroup, Member, State};
use crate::error_code::ErrorCode;
use crate::groups::coordinator::Context;
use crate::groups::timers::{Alarm, Timer, TimerKind};
use crate::groups::{Client, Response, Token};
use bytes::Bytes;
use kafka_protocol::messages::JoinGroupRequest;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

/// How long a member that has just come may wait for its first generation, whatever its session: Kafka's own bound.
const NEW_MEMBER_JOIN_TIMEOUT_MS: i32 = 5 * 60 * 1000;

/// Ids that are given out and not used: a client that only ever asks for new ones must not fill the memory. Whoever is
/// refused tries again.
const PENDING_MEMBERS_MAX: usize = 10_000;

impl ClassicGroup {
    /// A member joins, or joins again. The answer may wait for the end of the join phase.
    pub fn join(&mut self, cx: &mut Context<'_>, token: Token, client: &Client, request: &JoinGroupRequest) {
        if !self.has_room(cx, &request.member_id) {
            self.remove_member(cx, &request.member_id);
            self.pending_members.remove(request.member_id.as_str());
            return refuse(cx, token, ErrorCode::GroupMaxSizeReached, StrBytes::default());
        }
        if !self.supports(&request.protocol_type, request.protocols.iter().map(|protocol| protocol.name.as_str())) {
            return refuse(cx, token, ErrorCode::InconsistentGroupProtocol, request.member_id.clone());
        }
        if request.member_id.is_empty() {
            self.join_unknown(cx, token, client, request);
        } else {
            self.join_known(cx, token, client, request);
        }
    }

    fn has_room(&self, cx: &Context<'_>, id: &str) -> bool {
        let max = cx.max_size();
        match self.state {
            State::Empty => true,
            State::PreparingRebalance => {
                self.awaiting_join < max || self.members.get(id).is_some_and(|member| member.awaiting_join.is_some())
            }
            State::CompletingRebalance | State::Stable => self.members.len() < max || self.members.contains_key(id),
        }
    }

    /// Someone without an id: it is given one, and must come back with it if its version knows how (KIP-394).
    fn join_unknown(&mut self, cx: &mut Context<'_>, token: Token, client: &Client, request: &JoinGroupRequest) {
        if let Some(instance) = request.group_instance_id.as_deref() {
            let id = cx.ids.member_id(instance);
            return match self.static_members.get(instance).cloned() {
                Some(old) => self.replace_static(cx, token, client, request, &old, id),
                None => self.add_and_rebalance(cx, token, client, request, id),
            };
        }
        let id = cx.ids.member_id(&client.id);
        if client.api_version < 4 {
            return self.add_and_rebalance(cx, token, client, request, id);
        }
        if self.pending_members.len() >= PENDING_MEMBERS_MAX {
            return refuse(cx, token, ErrorCode::CoordinatorLoadInProgress, StrBytes::default());
        }
        let mut alarm = Alarm::default();
        let deadline = cx.now.monotonic_ms + i64::from(request.session_timeout_ms);
        alarm.set(cx.timers, deadline, || Timer { group: self.id.clone(), kind: TimerKind::Session(id.clone()) });
        refuse(cx, token, ErrorCode::MemberIdRequired, super::rebalance::string(&id));
        self.pending_members.insert(id, alarm);
    }

    fn join_known(&mut self, cx: &mut Context<'_>, token: Token, client: &Client, request: &JoinGroupRequest) {
        let id = request.member_id.as_str();
        if request.group_instance_id.is_none()
            && let Some((id, _)) = self.pending_members.get_key_value(id)
        {
            let id = id.clone();
            return self.add_and_rebalance(cx, token, client, request, id);
        }
        if let Err(code) = self.validate(id, request.group_instance_id.as_deref()) {
            return refuse(cx, token, code, request.member_id.clone());
        }
        let matches = self.members.get(id).is_some_and(|member| member.matches(&request.protocols));
        match self.state {
            State::PreparingRebalance => {
                self.update(cx, id, request, Some(token));
                self.maybe_complete_join(cx);
            }
            // It did not get the answer to its last join: the same again.
            State::CompletingRebalance if matches => {
                let members = if self.is_leader(id) { self.join_members() } else { Vec::new() };
                let response = self.join_response(id).with_members(members);
                cx.answer(token, Response::JoinGroup(response));
            }
            // A follower with nothing new needs no new generation; a leader joins because it wants to assign anew.
            State::Stable if matches && !self.is_leader(id) => {
                let response = self.join_response(id);
                cx.answer(token, Response::JoinGroup(response));
            }
            State::CompletingRebalance | State::Stable => {
                self.update(cx, id, request, Some(token));
                self.prepare_rebalance(cx);
            }
            State::Empty => refuse(cx, token, ErrorCode::UnknownMemberId, request.member_id.clone()),
        }
    }

    fn add_and_rebalance(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        client: &Client,
        request: &JoinGroupRequest,
        id: Arc<str>,
    ) {
        if self.members.is_empty() {
            self.protocol_type = Some(Arc::from(request.protocol_type.as_str()));
        }
        if self.state == State::PreparingRebalance && self.previous == State::Empty {
            self.new_member_added = true;
        }
        self.add(Member {
            id: id.clone(),
            instance_id: request.group_instance_id.as_deref().map(Arc::from),
            client_id: client.id.clone(),
            client_host: client.host.clone(),
            rebalance_timeout_ms: rebalance_timeout_ms(request),
            session_timeout_ms: request.session_timeout_ms,
            protocols: own_protocols(&request.protocols),
            assignment: Bytes::new(),
            awaiting_join: Some(token),
            awaiting_sync: None,
            is_new: true,
            session: Alarm::default(),
        });
        self.touch_for(cx, &id, NEW_MEMBER_JOIN_TIMEOUT_MS);
        self.rebalance_or_complete_join(cx);
    }

    /// Takes over what a join says.
    fn update(&mut self, cx: &mut Context<'_>, id: &str, request: &JoinGroupRequest, token: Option<Token>) {
        let Some(mut member) = self.members.remove(id) else { return };
        self.count_votes(&member, false);
        member.protocols = own_protocols(&request.protocols);
        member.rebalance_timeout_ms = rebalance_timeout_ms(request);
        member.session_timeout_ms = request.session_timeout_ms;
        self.count_votes(&member, true);
        if let Some(old) = member.awaiting_join.take() {
            // Whoever waited there has asked again: this is not its answer.
            self.awaiting_join -= 1;
            refuse(cx, old, ErrorCode::RebalanceInProgress, request.member_id.clone());
        }
        member.awaiting_join = token;
        self.awaiting_join += usize::from(token.is_some());
        self.members.insert(member.id.clone(), member);
    }

    /// A static member comes back without its id, as after a restart: it takes the place, and the assignment, of its
    /// older self, which is fenced. No rebalance if the group is stable and its protocol stays the same.
    fn replace_static(
        &mut self,
        cx: &mut Context<'_>,
        token: Token,
        client: &Client,
        request: &JoinGroupRequest,
        old: &Arc<str>,
        new: Arc<str>,
    ) {
        let leader_before = self.leader.clone();
        self.rename(cx, old, &new);
        self.touch(cx, &new);
        self.update(cx, &new, request, Some(token));
        match self.state {
            State::Stable if self.select_protocol() == self.protocol => {
                self.take_up_unchanged(cx, client, &new, leader_before);
            }
            State::Stable | State::CompletingRebalance => self.prepare_rebalance(cx),
            State::PreparingRebalance | State::Empty => self.maybe_complete_join(cx),
        }
    }

    /// Gives a member another id; what waits under the old one is fenced.
    fn rename(&mut self, cx: &mut Context<'_>, old: &Arc<str>, new: &Arc<str>) {
        let Some(mut member) = self.members.remove(old) else { return };
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            refuse(cx, token, ErrorCode::FencedInstanceId, super::rebalance::string(old));
        }
        if let Some(token) = member.awaiting_sync.take() {
            cx.answer(token, Response::SyncGroup(super::rebalance::sync_error(ErrorCode::FencedInstanceId)));
        }
        self.pending_sync.remove(old);
        member.id = new.clone();
        member.session = Alarm::default();
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), new.clone());
        }
        if self.is_leader(old) {
            self.leader = Some(new.clone());
        }
        self.members.insert(new.clone(), member);
    }

    /// Answers a static member that came back into the current generation, and writes its new id down.
    fn take_up_unchanged(
        &mut self,
        cx: &mut Context<'_>,
        client: &Client,
        id: &Arc<str>,
        leader_before: Option<Arc<str>>,
    ) {
        self.write(cx);
        let Some(token) = self.members.get_mut(id).and_then(|member| member.awaiting_join.take()) else { return };
        self.awaiting_join -= 1;
        let mut response = self.join_response(id);
        if client.api_version >= 9 {
            // KIP-814: a leader learns who is there, and is told not to assign.
            response.skip_assignment = self.is_leader(id);
            response.members = if response.skip_assignment { self.join_members() } else { Vec::new() };
        } else {
            // An older client would assign if it were told that it leads: it is told the leader's former id.
            response.leader = leader_before.as_deref().map(super::rebalance::string).unwrap_or_default();
        }
        cx.answer(token, Response::JoinGroup(response));
    }
}

/// Before version 1 a request has none, and its session's counts.
fn rebalance_timeout_ms(request: &JoinGroupRequest) -> i32 {
    if request.rebalance_timeout_ms < 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms }
}

fn refuse(cx: &mut Context<'_>, token: Token, code: ErrorCode, member: StrBytes) {
    cx.answer(token, Response::JoinGroup(join_error(code, member)));
}
