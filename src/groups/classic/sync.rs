//! SyncGroup.

use super::rebalance::sync_error;
use super::{ClassicGroup, State};
use crate::error_code::ErrorCode;
use crate::groups::coordinator::Context;
use crate::groups::{Client, Response, Token};
use bytes::Bytes;
use kafka_protocol::messages::SyncGroupRequest;
use std::collections::BTreeMap;

impl ClassicGroup {
    /// A member asks for its assignment, a leader brings everyone's. The answer may wait for the leader.
    pub fn sync(&mut self, cx: &mut Context<'_>, token: Token, _client: &Client, request: &SyncGroupRequest) {
        let refuse = |cx: &mut Context<'_>, code| cx.answer(token, Response::SyncGroup(sync_error(code)));
        if let Err(code) = self.validate_sync(request) {
            return refuse(cx, code);
        }
        let id = request.member_id.as_str();
        match self.state {
            State::Empty => refuse(cx, ErrorCode::UnknownMemberId),
            State::PreparingRebalance => refuse(cx, ErrorCode::RebalanceInProgress),
            State::CompletingRebalance => {
                self.pending_sync.remove(id);
                if let Some(old) = self.members.get_mut(id).and_then(|member| member.awaiting_sync.replace(token)) {
                    // Whoever waited there has asked again: this is not its answer.
                    cx.answer(old, Response::SyncGroup(sync_error(ErrorCode::RebalanceInProgress)));
                }
                if self.is_leader(id) {
                    self.assign(cx, request);
                }
            }
            State::Stable => {
                self.pending_sync.remove(id);
                let response = self.sync_response(id);
                cx.answer(token, Response::SyncGroup(response));
            }
        }
        if self.pending_sync.is_empty() {
            self.sync_deadline.clear();
        }
    }

    fn validate_sync(&self, request: &SyncGroupRequest) -> Result<(), ErrorCode> {
        self.validate(&request.member_id, request.group_instance_id.as_deref())?;
        if request.generation_id != self.generation {
            return Err(ErrorCode::IllegalGeneration);
        }
        let differs =
            |theirs: Option<&str>, ours: Option<&str>| theirs.zip(ours).is_some_and(|(theirs, ours)| theirs != ours);
        if differs(request.protocol_type.as_deref(), self.protocol_type())
            || differs(request.protocol_name.as_deref(), self.protocol.as_deref())
        {
            return Err(ErrorCode::InconsistentGroupProtocol);
        }
        Ok(())
    }

    /// The leader's assignment: written down, and then everyone's answer.
    fn assign(&mut self, cx: &mut Context<'_>, request: &SyncGroupRequest) {
        let assignments: BTreeMap<&str, &Bytes> =
            request.assignments.iter().map(|one| (one.member_id.as_str(), &one.assignment)).collect();
        for (id, member) in &mut self.members {
            member.assignment = assignments.get(&**id).map(|bytes| Bytes::copy_from_slice(bytes)).unwrap_or_default();
        }
        self.write(cx);
        self.answer_syncs(cx, ErrorCode::None);
        self.go(cx, State::Stable);
    }
}
