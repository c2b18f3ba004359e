//! From one generation to the next: the join phase begins, waits and ends, and what deadlines do.

use super::{ClassicGroup, InitialDelay, State};
use crate::error_code::ErrorCode;
use crate::groups::Response;
use crate::groups::coordinator::Context;
use crate::groups::timers::{Timer, TimerKind};
use bytes::Bytes;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::join_group_response::JoinGroupResponseMember;
use kafka_protocol::protocol::StrBytes;
use std::sync::Arc;

pub(super) fn string(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// A join that is refused.
#[must_use]
pub fn join_error(code: ErrorCode, member: StrBytes) -> codec::JoinGroupResponse {
    codec::JoinGroupResponse::default()
        .with_error_code(code as i16)
        .with_generation_id(-1)
        .with_protocol_name(None)
        .with_member_id(member)
}

/// A sync that is refused.
#[must_use]
pub(super) fn sync_error(code: ErrorCode) -> codec::SyncGroupResponse {
    codec::SyncGroupResponse::default().with_error_code(code as i16)
}

impl ClassicGroup {
    /// A deadline of the group came up.
    pub fn expire(&mut self, cx: &mut Context<'_>, timer: &Timer, number: u64) {
        let now = cx.now.monotonic_ms;
        match &timer.kind {
            TimerKind::Session(id) => self.session_came_up(cx, timer, number, &id.clone()),
            TimerKind::Join if self.join_deadline.came_up(cx.timers, now, timer, number) => self.join_due(cx),
            TimerKind::Sync if self.sync_deadline.came_up(cx.timers, now, timer, number) => self.sync_due(cx),
            _ => {}
        }
    }

    fn session_came_up(&mut self, cx: &mut Context<'_>, timer: &Timer, number: u64, id: &str) {
        let now = cx.now.monotonic_ms;
        if let Some(alarm) = self.pending_members.get_mut(id) {
            if alarm.came_up(cx.timers, now, timer, number) {
                self.remove(id);
                self.maybe_complete_join_after_removal(cx);
            }
            return;
        }
        let Some(member) = self.members.get_mut(id) else { return };
        // One that waits for us is not expected to say anything; its session begins anew with our answer.
        if member.session.came_up(cx.timers, now, timer, number) && !member.is_waiting() {
            self.remove_member(cx, id);
            match self.state {
                State::Stable | State::CompletingRebalance => self.rebalance_or_complete_join(cx),
                State::PreparingRebalance => self.maybe_complete_join_after_removal(cx),
                State::Empty => {}
            }
        }
    }

    /// A consumer group has become this one: sessions begin, and everyone is asked to join.
    pub(in crate::groups) fn begin_downgraded(&mut self, cx: &mut Context<'_>) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.touch(cx, &id);
        }
        self.prepare_rebalance(cx);
    }

    /// A consumer group takes the place of this one: whoever waits is asked to join again.
    pub(in crate::groups) fn end_upgraded(&mut self, cx: &mut Context<'_>) {
        self.answer_syncs(cx, ErrorCode::RebalanceInProgress);
        for member in self.members.values_mut() {
            if let Some(token) = member.awaiting_join.take() {
                let response = join_error(ErrorCode::RebalanceInProgress, string(&member.id));
                cx.answer(token, Response::JoinGroup(response));
            }
        }
    }

    fn maybe_complete_join_after_removal(&mut self, cx: &mut Context<'_>) {
        if self.state == State::PreparingRebalance && self.all_joined() {
            self.complete_join(cx);
        }
    }

    /// Takes a member out, and answers what it waits for.
    pub(super) fn remove_member(&mut self, cx: &mut Context<'_>, id: &str) {
        let Some(member) = self.members.get_mut(id) else { return };
        if let Some(token) = member.awaiting_join.take() {
            self.awaiting_join -= 1;
            let response = join_error(ErrorCode::UnknownMemberId, StrBytes::default());
            cx.answer(token, Response::JoinGroup(response));
        }
        if let Some(token) = member.awaiting_sync.take() {
            cx.answer(token, Response::SyncGroup(sync_error(ErrorCode::UnknownMemberId)));
        }
        self.remove(id);
    }

    pub(super) fn all_joined(&self) -> bool {
        self.members.len() == self.awaiting_join && self.pending_members.is_empty()
    }

    /// Something changed: a rebalance begins, or one that goes on may have all it waits for.
    pub(super) fn rebalance_or_complete_join(&mut self, cx: &mut Context<'_>) {
        if self.state == State::PreparingRebalance {
            self.maybe_complete_join(cx);
        } else {
            self.prepare_rebalance(cx);
        }
    }

    /// Ends the join phase if everyone is there; the first of a group lasts for its delay all the same.
    pub(super) fn maybe_complete_join(&mut self, cx: &mut Context<'_>) {
        if self.state == State::PreparingRebalance && self.previous != State::Empty && self.all_joined() {
            self.complete_join(cx);
        }
    }

    /// Begins a join phase.
    pub(super) fn prepare_rebalance(&mut self, cx: &mut Context<'_>) {
        if self.state == State::CompletingRebalance {
            for member in self.members.values_mut() {
                member.assignment = Bytes::new();
            }
            self.answer_syncs(cx, ErrorCode::RebalanceInProgress);
        }
        self.pending_sync.clear();
        self.sync_deadline.clear();
        let is_initial = self.state == State::Empty;
        self.go(cx, State::PreparingRebalance);
        if is_initial {
            let delay_ms = cx.config.initial_rebalance_delay_ms;
            let remaining_ms = self.rebalance_timeout_ms().saturating_sub(delay_ms).max(0);
            self.new_member_added = false;
            self.wait_for_joins(cx, delay_ms);
            self.initial_delay = Some(InitialDelay { delay_ms, remaining_ms });
        } else if self.all_joined() {
            self.complete_join(cx);
        } else {
            let timeout_ms = self.rebalance_timeout_ms();
            self.wait_for_joins(cx, timeout_ms);
        }
    }

    fn wait_for_joins(&mut self, cx: &mut Context<'_>, timeout_ms: i32) {
        let group = &self.id;
        self.initial_delay = None;
        self.join_deadline.set(cx.timers, cx.now.monotonic_ms + i64::from(timeout_ms), || Timer {
            group: group.clone(),
            kind: TimerKind::Join,
        });
    }

    /// The join phase has lasted long enough, unless it is the first of the group and members still come.
    fn join_due(&mut self, cx: &mut Context<'_>) {
        if self.state != State::PreparingRebalance {
            return;
        }
        match self.initial_delay {
            Some(InitialDelay { delay_ms, remaining_ms }) if self.new_member_added && remaining_ms != 0 => {
                self.new_member_added = false;
                let next_ms = cx.config.initial_rebalance_delay_ms.min(remaining_ms);
                self.wait_for_joins(cx, next_ms);
                self.initial_delay =
                    Some(InitialDelay { delay_ms: next_ms, remaining_ms: (remaining_ms - delay_ms).max(0) });
            }
            _ => self.complete_join(cx),
        }
    }

    /// Ends the join phase: who has not come is out (static members stay), and the next generation begins.
    fn complete_join(&mut self, cx: &mut Context<'_>) {
        self.join_deadline.clear();
        self.initial_delay = None;
        let absent: Vec<Arc<str>> = self
            .members
            .values()
            .filter(|member| member.awaiting_join.is_none() && member.instance_id.is_none())
            .map(|member| member.id.clone())
            .collect();
        for id in absent {
            self.remove_member(cx, &id);
        }
        if self.members.is_empty() {
            return self.become_empty(cx);
        }
        if !self.elect_leader() {
            // Only static members that have not come back: they have until their sessions end.
            let timeout_ms = self.rebalance_timeout_ms();
            return self.wait_for_joins(cx, timeout_ms);
        }
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = self.select_protocol();
        self.subscribed = self.compute_subscribed();
        self.go(cx, State::CompletingRebalance);
        self.answer_joins(cx);
        let (group, deadline) = (&self.id, cx.now.monotonic_ms + i64::from(self.rebalance_timeout_ms()));
        self.sync_deadline.set(cx.timers, deadline, || Timer { group: group.clone(), kind: TimerKind::Sync });
    }

    fn become_empty(&mut self, cx: &mut Context<'_>) {
        self.generation = self.generation.wrapping_add(1).max(0);
        self.protocol = None;
        self.subscribed = self.compute_subscribed();
        self.pending_sync.clear();
        self.go(cx, State::Empty);
        self.write(cx);
    }

    /// The leader is one who has come; true if there is one.
    fn elect_leader(&mut self) -> bool {
        let has_come = |group: &Self, id: &Arc<str>| group.members.get(id).is_some_and(|m| m.awaiting_join.is_some());
        if self.leader.as_ref().is_some_and(|leader| has_come(self, leader)) {
            return true;
        }
        match self.members.values().find(|member| member.awaiting_join.is_some()) {
            Some(member) => {
                self.leader = Some(member.id.clone());
                true
            }
            None => false,
        }
    }

    fn answer_joins(&mut self, cx: &mut Context<'_>) {
        self.pending_sync = self.members.keys().cloned().collect();
        for id in self.pending_sync.clone() {
            self.answer_join(cx, &id);
            self.touch(cx, &id);
            if let Some(member) = self.members.get_mut(&id) {
                member.is_new = false;
            }
        }
    }

    /// Tells a member that waits which generation it is in.
    fn answer_join(&mut self, cx: &mut Context<'_>, id: &str) {
        let Some(token) = self.members.get_mut(id).and_then(|member| member.awaiting_join.take()) else { return };
        self.awaiting_join -= 1;
        let members = if self.is_leader(id) { self.join_members() } else { Vec::new() };
        let response = self.join_response(id).with_members(members);
        cx.answer(token, Response::JoinGroup(response));
    }

    /// The generation as a join is told of it, without members.
    pub(super) fn join_response(&self, id: &str) -> codec::JoinGroupResponse {
        codec::JoinGroupResponse::default()
            .with_generation_id(self.generation)
            .with_protocol_type(self.protocol_type().map(string))
            .with_protocol_name(self.protocol.as_deref().map(string))
            .with_leader(self.leader.as_deref().map(string).unwrap_or_default())
            .with_member_id(string(id))
    }

    /// The members as the leader sees them.
    pub(super) fn join_members(&self) -> Vec<JoinGroupResponseMember> {
        let protocol = self.protocol.as_deref().unwrap_or_default();
        let members = self.members.values().map(|member| {
            JoinGroupResponseMember::default()
                .with_member_id(string(&member.id))
                .with_group_instance_id(member.instance_id.as_deref().map(string))
                .with_metadata(member.metadata(protocol))
        });
        members.collect()
    }

    /// Answers every sync that waits, with the member's assignment or an error.
    pub(super) fn answer_syncs(&mut self, cx: &mut Context<'_>, code: ErrorCode) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            let Some(member) = self.members.get_mut(&id) else { continue };
            let Some(token) = member.awaiting_sync.take() else { continue };
            let response = match code {
                ErrorCode::None => self.sync_response(&id),
                code => sync_error(code),
            };
            cx.answer(token, Response::SyncGroup(response));
            self.touch(cx, &id);
        }
    }

    pub(super) fn sync_response(&self, id: &str) -> codec::SyncGroupResponse {
        codec::SyncGroupResponse::default()
            .with_protocol_type(self.protocol_type().map(string))
            .with_protocol_name(self.protocol.as_deref().map(string))
            .with_assignment(self.members.get(id).map(|member| member.assignment.clone()).unwrap_or_default())
    }

    /// Members that joined and never synced are out, and the others begin again.
    fn sync_due(&mut self, cx: &mut Context<'_>) {
        if !matches!(self.state, State::CompletingRebalance | State::Stable) || self.pending_sync.is_empty() {
            return;
        }
        for id in std::mem::take(&mut self.pending_sync) {
            self.remove_member(cx, &id);
        }
        self.prepare_rebalance(cx);
    }
}
