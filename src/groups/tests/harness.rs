//! A coordinator with a clock, a log and the answers that it gave.

use crate::groups::config::GroupsConfig;
use crate::groups::*;
use crate::ids::TopicId;
use bytes::Bytes;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use kafka_protocol::messages::leave_group_request::MemberIdentity;
use kafka_protocol::messages::sync_group_request::SyncGroupRequestAssignment;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

pub(super) const GROUP: &str = "group";

pub(super) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

pub(super) fn group_id(id: &str) -> codec::GroupId {
    codec::GroupId(text(id))
}

/// Every topic that begins with `t` is there, with four partitions.
pub(super) struct SomeTopics;

impl Topics for SomeTopics {
    fn by_name(&self, name: &str) -> Option<Topic> {
        let id = TopicId(Uuid::from_u128(u128::from_be_bytes(*b"topic           ") + name.len() as u128));
        name.starts_with('t').then(|| Topic { id, name: Arc::from(name), partitions: 4, racks: Vec::new() })
    }

    fn by_id(&self, _id: TopicId) -> Option<Topic> {
        None
    }

    fn names(&self) -> Vec<Arc<str>> {
        vec![Arc::from("t")]
    }

    fn epoch(&self) -> u64 {
        1
    }
}

/// A ConsumerProtocolSubscription of version 0.
pub(super) fn subscription(topics: &[&str]) -> Bytes {
    let mut bytes = vec![0, 0];
    bytes.extend((topics.len() as u32).to_be_bytes());
    for topic in topics {
        bytes.extend((topic.len() as u16).to_be_bytes());
        bytes.extend(topic.as_bytes());
    }
    bytes.extend((-1i32).to_be_bytes());
    Bytes::from(bytes)
}

pub(super) struct World {
    pub(super) coordinator: Coordinator,
    pub(super) now: Now,
    pub(super) log: Vec<Record>,
    /// That one step made.
    pub(super) most_records: usize,
    answers: BTreeMap<Token, Response>,
    config: GroupsConfig,
    tokens: u64,
}

/// What a join says; all else is the default of a consumer.
#[derive(Clone, Debug)]
pub(super) struct Join {
    pub(super) member: String,
    pub(super) instance: Option<String>,
    pub(super) version: i16,
    pub(super) protocols: Vec<(&'static str, Bytes)>,
    pub(super) protocol_type: &'static str,
    pub(super) session_ms: i32,
    pub(super) rebalance_ms: i32,
}

pub(super) fn join(member: &str) -> Join {
    Join {
        member: member.to_owned(),
        instance: None,
        version: 9,
        protocols: vec![("range", subscription(&["t"]))],
        protocol_type: "consumer",
        session_ms: 10_000,
        rebalance_ms: 60_000,
    }
}

impl Join {
    pub(super) fn instance(mut self, instance: &str) -> Self {
        self.instance = Some(instance.to_owned());
        self
    }

    pub(super) fn version(mut self, version: i16) -> Self {
        self.version = version;
        self
    }

    pub(super) fn protocols(mut self, names: &[&'static str]) -> Self {
        self.protocols = names.iter().map(|name| (*name, subscription(&["t"]))).collect();
        self
    }

    pub(super) fn request(&self) -> codec::JoinGroupRequest {
        let protocols = self.protocols.iter().map(|(name, metadata)| {
            JoinGroupRequestProtocol::default().with_name(text(name)).with_metadata(metadata.clone())
        });
        codec::JoinGroupRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(&self.member))
            .with_group_instance_id(self.instance.as_deref().map(text))
            .with_session_timeout_ms(self.session_ms)
            .with_rebalance_timeout_ms(self.rebalance_ms)
            .with_protocol_type(text(self.protocol_type))
            .with_protocols(protocols.collect())
    }
}

pub(super) fn sync(member: &str, generation: i32, assignments: &[(&str, &[u8])]) -> codec::SyncGroupRequest {
    let assignments = assignments.iter().map(|(member, bytes)| {
        SyncGroupRequestAssignment::default()
            .with_member_id(text(member))
            .with_assignment(Bytes::copy_from_slice(bytes))
    });
    codec::SyncGroupRequest::default()
        .with_group_id(group_id(GROUP))
        .with_member_id(text(member))
        .with_generation_id(generation)
        .with_protocol_type(Some(text("consumer")))
        .with_assignments(assignments.collect())
}

pub(super) fn commit(member: &str, generation: i32, offsets: &[(&str, i32, i64)]) -> codec::OffsetCommitRequest {
    let topics = offsets.iter().map(|(topic, partition, offset)| {
        codec::offset_commit_request::OffsetCommitRequestTopic::default()
            .with_name(codec::TopicName(text(topic)))
            .with_partitions(vec![
                codec::offset_commit_request::OffsetCommitRequestPartition::default()
                    .with_partition_index(*partition)
                    .with_committed_offset(*offset)
                    .with_committed_leader_epoch(-1)
                    .with_committed_metadata(Some(text("m"))),
            ])
    });
    codec::OffsetCommitRequest::default()
        .with_group_id(group_id(GROUP))
        .with_member_id(text(member))
        .with_generation_id_or_member_epoch(generation)
        .with_retention_time_ms(-1)
        .with_topics(topics.collect())
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(GroupsConfig::default())
    }

    pub(super) fn with(config: GroupsConfig) -> Self {
        let now = Now { monotonic_ms: 1_000, wall_ms: 1_700_000_000_000 };
        let mut world = Self {
            coordinator: Coordinator::new(config.clone(), 1),
            now,
            log: Vec::new(),
            most_records: 0,
            answers: BTreeMap::new(),
            config,
            tokens: 0,
        };
        world.coordinator.loaded(now, &SomeTopics, &mut Effects::default());
        world
    }

    fn event(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.coordinator.step(self.now, &SomeTopics, event, &mut effects);
        self.most_records = self.most_records.max(effects.records.len());
        self.log.extend(effects.records);
        for (token, response) in effects.answers {
            assert!(self.answers.insert(token, response).is_none(), "{token:?} is answered twice");
        }
    }

    pub(super) fn deleted(&mut self, topic: &str, id: TopicId) {
        self.event(Event::TopicsDeleted(vec![(Arc::from(topic), id)]));
    }

    pub(super) fn ask(&mut self, version: i16, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let client = Client { id: Arc::from("client"), host: Arc::from("/127.0.0.1"), api_version: version };
        self.event(Event::Request { token, client, request });
        token
    }

    /// The answer, if it has come; once.
    pub(super) fn take(&mut self, token: Token) -> Option<Response> {
        self.answers.remove(&token)
    }

    fn answered(&mut self, version: i16, request: Request) -> Response {
        let token = self.ask(version, request);
        self.take(token).expect("an answer that does not wait")
    }

    /// Time passes, and every deadline on the way is kept.
    pub(super) fn pass(&mut self, ms: i64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            let step = (at - self.now.monotonic_ms).max(0);
            self.now.monotonic_ms += step;
            self.now.wall_ms += step;
            self.event(Event::Tick);
        }
        self.now.wall_ms += end - self.now.monotonic_ms;
        self.now.monotonic_ms = end;
    }

    /// The coordinator dies, and another reads what it wrote.
    pub(super) fn crash(&mut self) {
        self.coordinator = Coordinator::new(self.config.clone(), self.coordinator_seed());
        for record in &self.log {
            self.coordinator.replay(&record.key, record.value.as_deref()).expect("our own record");
        }
        self.coordinator.loaded(self.now, &SomeTopics, &mut Effects::default());
    }

    fn coordinator_seed(&self) -> u64 {
        1_000_000 + self.tokens
    }

    pub(super) fn join(&mut self, join: &Join) -> Token {
        self.ask(join.version, Request::JoinGroup(join.request()))
    }

    #[track_caller]
    pub(super) fn joined(&mut self, token: Token) -> codec::JoinGroupResponse {
        match self.take(token) {
            Some(Response::JoinGroup(response)) => response,
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub(super) fn waits(&self, token: Token) -> bool {
        !self.answers.contains_key(&token)
    }

    /// Joins as a client does: asks for an id first.
    #[track_caller]
    pub(super) fn join_with_id(&mut self, join: Join) -> (String, Token) {
        let token = self.join(&join);
        let response = self.joined(token);
        assert_eq!(response.error_code, 79, "MEMBER_ID_REQUIRED");
        let id = response.member_id.to_string();
        let token = self.join(&Join { member: id.clone(), ..join });
        (id, token)
    }

    pub(super) fn sync(&mut self, request: codec::SyncGroupRequest) -> Token {
        self.ask(5, Request::SyncGroup(request))
    }

    /// The code and the assignment.
    #[track_caller]
    pub(super) fn synced(&mut self, token: Token) -> (i16, Bytes) {
        match self.take(token) {
            Some(Response::SyncGroup(response)) => (response.error_code, response.assignment),
            other => panic!("{token:?}: {other:?}"),
        }
    }

    pub(super) fn heartbeat(&mut self, member: &str, instance: Option<&str>, generation: i32) -> i16 {
        let request = codec::HeartbeatRequest::default()
            .with_group_id(group_id(GROUP))
            .with_member_id(text(member))
            .with_group_instance_id(instance.map(text))
            .with_generation_id(generation);
        match self.answered(4, Request::Heartbeat(request)) {
            Response::Heartbeat(response) => response.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// The codes of the members.
    pub(super) fn leave(&mut self, members: &[(&str, Option<&str>)]) -> Vec<i16> {
        let members = members.iter().map(|(member, instance)| {
            MemberIdentity::default().with_member_id(text(member)).with_group_instance_id(instance.map(text))
        });
        let request =
            codec::LeaveGroupRequest::default().with_group_id(group_id(GROUP)).with_members(members.collect());
        match self.answered(5, Request::LeaveGroup(request)) {
            Response::LeaveGroup(response) => {
                assert_eq!(response.error_code, 0);
                response.members.iter().map(|member| member.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// The codes of the partitions.
    pub(super) fn commit(&mut self, version: i16, request: codec::OffsetCommitRequest) -> Vec<i16> {
        match self.answered(version, Request::OffsetCommit(request)) {
            Response::OffsetCommit(response) => {
                response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code).collect()
            }
            other => panic!("{other:?}"),
        }
    }

    /// All offsets of the group.
    pub(super) fn offsets(&mut self) -> Vec<(String, i32, i64)> {
        let response = self.fetch(codec::offset_fetch_request::OffsetFetchRequestGroup::default().with_topics(None));
        let topics = response.topics.iter();
        topics
            .flat_map(|topic| {
                topic.partitions.iter().map(|one| (topic.name.to_string(), one.partition_index, one.committed_offset))
            })
            .collect()
    }

    pub(super) fn fetch(
        &mut self,
        group: codec::offset_fetch_request::OffsetFetchRequestGroup,
    ) -> codec::offset_fetch_response::OffsetFetchResponseGroup {
        let group = group.with_group_id(group_id(GROUP));
        match self.answered(9, Request::OffsetFetch { group, require_stable: true }) {
            Response::OffsetFetch(response) => response,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn describe(&mut self) -> codec::describe_groups_response::DescribedGroup {
        match self.answered(6, Request::DescribeGroup(group_id(GROUP))) {
            Response::DescribeGroup(described) => described,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&mut self) -> String {
        self.describe().group_state.to_string()
    }

    pub(super) fn delete_group(&mut self) -> i16 {
        match self.answered(2, Request::DeleteGroup(group_id(GROUP))) {
            Response::DeleteGroup(result) => result.error_code,
            other => panic!("{other:?}"),
        }
    }

    /// The code of the whole, and those of the partitions.
    pub(super) fn delete_offsets(&mut self, topic: &str, partitions: &[i32]) -> (i16, Vec<i16>) {
        use codec::offset_delete_request::{OffsetDeleteRequestPartition, OffsetDeleteRequestTopic};
        let partitions =
            partitions.iter().map(|index| OffsetDeleteRequestPartition::default().with_partition_index(*index));
        let topic = OffsetDeleteRequestTopic::default()
            .with_name(codec::TopicName(text(topic)))
            .with_partitions(partitions.collect());
        let request = codec::OffsetDeleteRequest::default().with_group_id(group_id(GROUP)).with_topics(vec![topic]);
        match self.answered(0, Request::OffsetDelete(request)) {
            Response::OffsetDelete(response) => {
                let codes = response.topics.iter().flat_map(|topic| &topic.partitions).map(|one| one.error_code);
                (response.error_code, codes.collect())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Id, state, type and protocol type of the groups.
    pub(super) fn list(&mut self, states: &[&str], types: &[&str]) -> Vec<[String; 4]> {
        let request = codec::ListGroupsRequest::default()
            .with_states_filter(states.iter().map(|state| text(state)).collect())
            .with_types_filter(types.iter().map(|kind| text(kind)).collect());
        match self.answered(5, Request::ListGroups(request)) {
            Response::ListGroups(groups) => groups
                .iter()
                .map(|group| {
                    let [id, state, kind, protocol] =
                        [&group.group_id.0, &group.group_state, &group.group_type, &group.protocol_type];
                    [id.to_string(), state.to_string(), kind.to_string(), protocol.to_string()]
                })
                .collect(),
            other => panic!("{other:?}"),
        }
    }

    /// Any other request that does not wait.
    pub(super) fn other(&mut self, version: i16, request: Request) -> Response {
        self.answered(version, request)
    }

    /// Members join one after the other and are a stable group; the first leads, and gives everyone its own id.
    #[track_caller]
    pub(super) fn stable(&mut self, joins: Vec<Join>) -> (Vec<String>, i32) {
        let mut waiting = Vec::new();
        for join in joins {
            waiting.push(if join.instance.is_some() || join.version < 4 {
                (String::new(), self.join(&join))
            } else {
                self.join_with_id(join)
            });
        }
        while waiting.iter().any(|(_, token)| self.waits(*token)) {
            self.pass(3000);
        }
        let mut ids = Vec::new();
        let mut leader = None;
        for (_, token) in waiting {
            let response = self.joined(token);
            assert_eq!(response.error_code, 0);
            if response.leader == response.member_id {
                leader = Some(response.clone());
            }
            ids.push(response.member_id.to_string());
        }
        let leader = leader.expect("someone leads");
        let generation = leader.generation_id;
        let followers: Vec<&String> = ids.iter().filter(|id| **id != *leader.leader).collect();
        let mut tokens: Vec<Token> = Vec::new();
        for id in followers {
            let token = self.sync(sync(id, generation, &[]));
            assert!(self.waits(token));
            tokens.push(token);
        }
        let assignments: Vec<(&str, &[u8])> = ids.iter().map(|id| (id.as_str(), id.as_bytes())).collect();
        tokens.push(self.sync(sync(&leader.leader, generation, &assignments)));
        for token in tokens {
            assert_eq!(self.synced(token).0, 0);
        }
        assert_eq!(self.state(), "Stable");
        (ids, generation)
    }
}
