//! Classic groups: members elect a leader, the leader assigns, the coordinator keeps generations apart.
//!
//! `mod.rs` is the group's state, `join`, `sync` and `leave` what requests and deadlines do to it.

mod describe;
mod join;
mod leave;
mod member;
mod rebalance;
mod sync;

pub use member::Member;
pub use rebalance::join_error;

use super::coordinator::Context;
use super::records::{GroupMetadataValue, Key, MemberMetadata};
use super::timers::{Alarm, Timer, TimerKind};
use crate::error_code::ErrorCode;
use crate::protocol::wire::Reader;
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The protocol type of consumers.
pub const CONSUMER_PROTOCOL_TYPE: &str = "consumer";

/// Where a group is between two generations. Kafka's fifth, `Dead`, is a group that is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// No members; there may be offsets.
    #[default]
    Empty,
    /// Members join.
    PreparingRebalance,
    /// The leader has been told who is there, and everyone waits for its assignment.
    CompletingRebalance,
    /// Every member may have its assignment.
    Stable,
}

impl State {
    /// Kafka's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::PreparingRebalance => "PreparingRebalance",
            Self::CompletingRebalance => "CompletingRebalance",
            Self::Stable => "Stable",
        }
    }
}

/// How much of the initial delay is left when it ends with new members having come.
#[derive(Clone, Copy, Debug)]
struct InitialDelay {
    delay_ms: i32,
    remaining_ms: i32,
}

/// A group. Invariants: `leader` is a member if there are members; `static_members` names members; a member waits for
/// at most one of join and sync; without members it is `Empty`, or waits for more to come; every member
/// has a session, or waits for us.
#[derive(Debug)]
pub struct ClassicGroup {
    id: Arc<str>,
    state: State,
    previous: State,
    /// Wall milliseconds of the last change of state; none if the record that was read did not say.
    state_since_ms: Option<i64>,
    generation: i32,
    protocol_type: Option<Arc<str>>,
    protocol: Option<Arc<str>>,
    leader: Option<Arc<str>>,
    members: BTreeMap<Arc<str>, Member>,
    /// Member id by instance id (KIP-345).
    static_members: BTreeMap<Arc<str>, Arc<str>>,
    /// Ids that were given out and not used yet (KIP-394), each with its deadline.
    pending_members: BTreeMap<Arc<str>, Alarm>,
    /// Members of this generation that have not synced yet.
    pending_sync: BTreeSet<Arc<str>>,
    /// Members by protocol that they support.
    votes: BTreeMap<Arc<str>, usize>,
    /// Members that wait for the answer to their join.
    awaiting_join: usize,
    /// Someone new came while the group waited for more: waits on.
    new_member_added: bool,
    initial_delay: Option<InitialDelay>,
    /// Topics that members are subscribed to; none if that cannot be known.
    subscribed: Option<BTreeSet<Arc<str>>>,
    join_deadline: Alarm,
    sync_deadline: Alarm,
}

impl ClassicGroup {
    /// An empty group. Without members and protocol type it is what Kafka calls a simple group: offsets under a name.
    #[must_use]
    pub fn new(id: Arc<str>, wall_ms: i64) -> Self {
        Self {
            id,
            state: State::Empty,
            previous: State::Empty,
            state_since_ms: Some(wall_ms),
            generation: 0,
            protocol_type: None,
            protocol: None,
            leader: None,
            members: BTreeMap::new(),
            static_members: BTreeMap::new(),
            pending_members: BTreeMap::new(),
            pending_sync: BTreeSet::new(),
            votes: BTreeMap::new(),
            awaiting_join: 0,
            new_member_added: false,
            initial_delay: None,
            subscribed: None,
            join_deadline: Alarm::default(),
            sync_deadline: Alarm::default(),
        }
    }

    /// The group that a record says.
    #[must_use]
    pub fn from_record(id: Arc<str>, value: GroupMetadataValue) -> Self {
        let mut group = Self::new(id, 0);
        group.state = if value.members.is_empty() { State::Empty } else { State::Stable };
        group.state_since_ms = (value.current_state_timestamp_ms != -1).then_some(value.current_state_timestamp_ms);
        group.generation = value.generation;
        group.protocol_type = Some(value.protocol_type).filter(|protocol_type| !protocol_type.is_empty());
        group.protocol = value.protocol;
        let protocol = group.protocol.clone().unwrap_or_default();
        for member in value.members {
            group.remove(&member.member_id);
            group.add(Member::from_record(member, protocol.clone()));
        }
        group.leader = value.leader.filter(|leader| group.members.contains_key(leader)).or(group.leader);
        group.subscribed = group.compute_subscribed();
        group
    }

    /// The group as it is now, for the log.
    #[must_use]
    pub fn to_record(&self) -> GroupMetadataValue {
        GroupMetadataValue {
            protocol_type: self.protocol_type.clone().unwrap_or_default(),
            generation: self.generation,
            protocol: self.protocol.clone(),
            leader: self.leader.clone(),
            current_state_timestamp_ms: self.state_since_ms.unwrap_or(-1),
            members: self.members.values().map(|member| self.member_record(member)).collect(),
        }
    }

    fn member_record(&self, member: &Member) -> MemberMetadata {
        MemberMetadata {
            member_id: member.id.clone(),
            group_instance_id: member.instance_id.clone(),
            client_id: member.client_id.clone(),
            client_host: member.client_host.clone(),
            rebalance_timeout_ms: member.rebalance_timeout_ms,
            session_timeout_ms: member.session_timeout_ms,
            subscription: member.metadata(self.protocol.as_deref().unwrap_or_default()),
            assignment: member.assignment.clone(),
        }
    }

    pub(super) fn write(&self, cx: &mut Context<'_>) {
        cx.effects.records.push(self.key().with(self.to_record().encode()));
    }

    fn key(&self) -> Key {
        Key::GroupMetadata { group: self.id.clone() }
    }

    /// The record that takes the group away.
    pub fn tombstone(&self, cx: &mut Context<'_>) {
        cx.effects.records.push(self.key().tombstone());
    }

    /// The partition is read: starts the sessions of the members that were read.
    pub fn loaded(&mut self, cx: &mut Context<'_>) {
        for id in self.members.keys().cloned().collect::<Vec<_>>() {
            self.touch(cx, &id);
        }
        if self.members.len() > cx.max_size() {
            self.prepare_rebalance(cx);
        }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// No members.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state == State::Empty
    }

    /// Its members.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }

    /// The current generation.
    #[must_use]
    pub fn generation(&self) -> i32 {
        self.generation
    }

    /// What kind of group it is: `consumer`, `connect`…; none if nobody has joined it yet.
    #[must_use]
    pub fn protocol_type(&self) -> Option<&str> {
        self.protocol_type.as_deref()
    }

    /// The protocol that its members agreed on.
    #[must_use]
    pub fn protocol(&self) -> Option<&Arc<str>> {
        self.protocol.as_ref()
    }

    /// Panics if the group is not what its comment says.
    #[cfg(test)]
    pub(in crate::groups) fn assert_invariants(&self) {
        let id = &self.id;
        assert!(!self.is_empty() || self.members.is_empty(), "{id}: members, and empty");
        let waits_for_someone = !self.all_joined() || self.previous == State::Empty;
        assert!(!self.members.is_empty() || self.is_empty() || waits_for_someone, "{id}: {:?}", self.state);
        assert!(
            self.members.is_empty() || self.leader.as_ref().is_some_and(|leader| self.members.contains_key(leader))
        );
        let awaiting = self.members.values().filter(|member| member.awaiting_join.is_some()).count();
        assert_eq!(awaiting, self.awaiting_join, "{id}");
        assert!(awaiting == 0 || self.state == State::PreparingRebalance, "{id}: {:?}", self.state);
        for member in self.members.values() {
            assert!(member.awaiting_sync.is_none() || self.state == State::CompletingRebalance, "{id}: {member:?}");
            assert!(member.awaiting_join.is_none() || member.awaiting_sync.is_none(), "{id}: {member:?}");
            assert!(member.session.is_set() || member.is_waiting(), "{id}: {member:?} never ends");
            let held = member.instance_id.as_ref().is_none_or(|i| self.static_members.get(i) == Some(&member.id));
            assert!(held, "{id}: {member:?}");
            for (protocol, _) in &member.protocols {
                let votes = self.members.values().filter(|m| m.protocols.iter().any(|(name, _)| name == protocol));
                assert_eq!(self.votes.get(protocol), Some(&votes.count()), "{id}");
            }
        }
        assert!(self.static_members.values().all(|member| self.members.contains_key(member)), "{id}");
        assert!(self.pending_sync.iter().all(|member| self.members.contains_key(member)), "{id}");
        assert_eq!(self.join_deadline.is_set(), self.state == State::PreparingRebalance, "{id}");
    }

    fn is_consumers(&self) -> bool {
        self.protocol_type() == Some(CONSUMER_PROTOCOL_TYPE)
    }

    fn is_leader(&self, member: &str) -> bool {
        self.leader.as_deref() == Some(member)
    }

    fn go(&mut self, cx: &Context<'_>, state: State) {
        let allowed = match state {
            State::Empty | State::CompletingRebalance => self.state == State::PreparingRebalance,
            State::PreparingRebalance => self.state != State::PreparingRebalance,
            State::Stable => self.state == State::CompletingRebalance,
        };
        assert!(allowed, "group {}: from {} to {}", self.id, self.state.name(), state.name());
        self.previous = self.state;
        self.state = state;
        self.state_since_ms = Some(cx.now.wall_ms);
    }

    /// Takes a member in. The first is the leader.
    fn add(&mut self, member: Member) {
        if let Some(instance) = &member.instance_id {
            self.static_members.insert(instance.clone(), member.id.clone());
        }
        if self.leader.is_none() {
            self.leader = Some(member.id.clone());
        }
        self.pending_members.remove(&member.id);
        self.count_votes(&member, true);
        self.awaiting_join += usize::from(member.awaiting_join.is_some());
        self.members.insert(member.id.clone(), member);
    }

    /// Takes a member out, or an id that was given out.
    fn remove(&mut self, id: &str) {
        if let Some(member) = self.members.remove(id) {
            self.count_votes(&member, false);
            self.awaiting_join -= usize::from(member.awaiting_join.is_some());
            if let Some(instance) = &member.instance_id {
                self.static_members.remove(instance);
            }
        }
        if self.is_leader(id) {
            self.leader = self.members.keys().next().cloned();
        }
        self.pending_members.remove(id);
        self.pending_sync.remove(id);
    }

    fn count_votes(&mut self, member: &Member, add: bool) {
        for (protocol, _) in &member.protocols {
            if add {
                *self.votes.entry(protocol.clone()).or_default() += 1;
            } else if let Some(count) = self.votes.get_mut(protocol) {
                *count -= 1;
                if *count == 0 {
                    self.votes.remove(protocol);
                }
            }
        }
    }

    /// The protocol that all support and most like best. The alphabet decides between equals.
    fn select_protocol(&self) -> Option<Arc<str>> {
        let all = self.members.len();
        let mut likes: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
        for member in self.members.values() {
            let best =
                member.protocols.iter().map(|(name, _)| name).find(|name| self.votes.get(*name) == Some(&all))?;
            *likes.entry(best).or_default() += 1;
        }
        let most = *likes.values().max()?;
        likes.into_iter().find(|(_, count)| *count == most).map(|(name, _)| name.clone())
    }

    /// Whether someone with these protocols may be in the group.
    fn supports(&self, protocol_type: &str, mut protocols: impl ExactSizeIterator<Item = impl AsRef<str>>) -> bool {
        if self.is_empty() {
            return !protocol_type.is_empty() && protocols.len() > 0;
        }
        self.protocol_type() == Some(protocol_type)
            && protocols.any(|name| self.votes.get(name.as_ref()).copied().unwrap_or(0) == self.members.len())
    }

    /// The longest that a member asks for.
    fn rebalance_timeout_ms(&self) -> i32 {
        self.members.values().map(|member| member.rebalance_timeout_ms).max().unwrap_or(0).max(0)
    }

    /// Checks who asks (KIP-345): a newer member of the same instance id fences the older.
    fn validate(&self, member: &str, instance: Option<&str>) -> Result<(), ErrorCode> {
        if let Some(instance) = instance {
            match self.static_members.get(instance) {
                None => return Err(ErrorCode::UnknownMemberId),
                Some(current) if **current != *member => return Err(ErrorCode::FencedInstanceId),
                Some(_) => {}
            }
        }
        if self.members.contains_key(member) { Ok(()) } else { Err(ErrorCode::UnknownMemberId) }
    }

    /// Begins the member's session anew.
    fn touch(&mut self, cx: &mut Context<'_>, id: &str) {
        if let Some(member) = self.members.get(id) {
            let timeout = member.session_timeout_ms;
            self.touch_for(cx, id, timeout);
        }
    }

    fn touch_for(&mut self, cx: &mut Context<'_>, id: &str, timeout_ms: i32) {
        let deadline = cx.now.monotonic_ms + i64::from(timeout_ms);
        let group = &self.id;
        if let Some(member) = self.members.get_mut(id) {
            let id = &member.id;
            member
                .session
                .set(cx.timers, deadline, || Timer { group: group.clone(), kind: TimerKind::Session(id.clone()) });
        }
    }

    /// A commit or a heartbeat of a member.
    pub fn heard_of(&mut self, cx: &mut Context<'_>, member: &str) {
        if matches!(self.state, State::Stable | State::PreparingRebalance) {
            self.touch(cx, member);
        }
    }

    /// Heartbeat.
    pub fn heartbeat(
        &mut self,
        cx: &mut Context<'_>,
        member: &str,
        instance: Option<&str>,
        generation: i32,
    ) -> ErrorCode {
        if let Err(code) = self.validate(member, instance) {
            return code;
        }
        if generation != self.generation {
            return ErrorCode::IllegalGeneration;
        }
        match self.state {
            State::Empty => return ErrorCode::UnknownMemberId,
            State::PreparingRebalance | State::CompletingRebalance | State::Stable => self.touch(cx, member),
        }
        if self.state == State::PreparingRebalance { ErrorCode::RebalanceInProgress } else { ErrorCode::None }
    }

    /// Whether a commit may be taken. A negative generation is a consumer that assigns for itself, or an admin client,
    /// and may commit while there are no members.
    pub fn validate_offset_commit(
        &self,
        member: &str,
        instance: Option<&str>,
        generation: i32,
        transactional: bool,
    ) -> Result<(), ErrorCode> {
        if generation < 0 && self.is_empty() {
            return Ok(());
        }
        if generation >= 0 || !member.is_empty() || instance.is_some() {
            self.validate(member, instance)?;
            if generation != self.generation {
                return Err(ErrorCode::IllegalGeneration);
            }
        } else if !transactional && !self.is_empty() {
            // A consumer that assigns for itself uses the id of a group that has members.
            return Err(ErrorCode::UnknownMemberId);
        }
        if !transactional && self.state == State::CompletingRebalance {
            return Err(ErrorCode::RebalanceInProgress);
        }
        Ok(())
    }

    /// Whether offsets may be deleted: of consumers those of topics that nobody is subscribed to, else none while there
    /// are members.
    pub fn validate_offset_delete(&self) -> Result<(), ErrorCode> {
        if self.is_empty() || self.is_consumers() { Ok(()) } else { Err(ErrorCode::NonEmptyGroup) }
    }

    /// Whether a member may be subscribed to the topic.
    #[must_use]
    pub fn is_subscribed(&self, topic: &str) -> bool {
        self.subscribed.as_ref().map_or(self.is_consumers(), |topics| topics.contains(topic))
    }

    /// The time from which an offset's retention counts; the inner none stands for the time of its commit. None while
    /// nothing may expire.
    #[must_use]
    pub fn expires_from(&self) -> Option<Option<i64>> {
        if self.protocol_type.is_none() {
            return Some(None);
        }
        if self.is_empty() {
            return Some(self.state_since_ms);
        }
        (self.is_consumers() && self.subscribed.is_some() && self.state == State::Stable).then_some(None)
    }

    fn compute_subscribed(&self) -> Option<BTreeSet<Arc<str>>> {
        if !self.is_consumers() {
            return None;
        }
        if self.members.is_empty() {
            return Some(BTreeSet::new());
        }
        let protocol = self.protocol.as_deref()?;
        let mut topics = BTreeSet::new();
        for member in self.members.values() {
            subscription_topics(&member.metadata(protocol), &mut topics)?;
        }
        Some(topics)
    }
}

/// Reads the topics of a ConsumerProtocolSubscription, whose later versions only add to the end.
fn subscription_topics(metadata: &Bytes, topics: &mut BTreeSet<Arc<str>>) -> Option<()> {
    let mut reader = Reader::new(metadata);
    reader.i16("version").ok().filter(|version| *version >= 0)?;
    for _ in 0..reader.array(false, "topics").ok()? {
        topics.insert(Arc::from(reader.string(false, "topic").ok()?));
    }
    Some(())
}
