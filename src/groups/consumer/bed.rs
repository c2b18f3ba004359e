//! What tests drive: a coordinator, topics, a clock and a log.

use super::super::assignor::Assignment;
use super::super::config::GroupsConfig;
use super::super::coordinator::{Coordinator, Group};
use super::super::{Client, Effects, Event, Now, Record, Request, Response, Token, Topic, Topics};
use super::state::ConsumerGroup;
use crate::error_code::ErrorCode;
use crate::ids::TopicId;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::consumer_group_heartbeat_request as request;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use uuid::Uuid;

/// Topics of a test, whose ids come from their names and how often they were made.
#[derive(Clone, Debug, Default)]
pub(super) struct TestTopics {
    pub(super) by_name: BTreeMap<Arc<str>, Topic>,
    pub(super) epoch: u64,
}

impl TestTopics {
    pub(super) fn set(&mut self, name: &str, partitions: i32) -> TopicId {
        self.epoch += 1;
        let id = TopicId(Uuid::from_u128((u128::from(self.epoch) << 64) | 7));
        let name: Arc<str> = Arc::from(name);
        let topic = self.by_name.entry(name.clone()).or_insert(Topic { id, name, partitions, racks: Vec::new() });
        topic.partitions = partitions;
        topic.id
    }

    pub(super) fn delete(&mut self, name: &str) {
        self.epoch += 1;
        self.by_name.remove(name);
    }
}

impl Topics for TestTopics {
    fn by_name(&self, name: &str) -> Option<Topic> {
        self.by_name.get(name).cloned()
    }

    fn by_id(&self, id: TopicId) -> Option<Topic> {
        self.by_name.values().find(|t| t.id == id).cloned()
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.by_name.keys().cloned().collect()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

pub(super) const GROUP: &str = "group";

/// A heartbeat to build on.
pub(super) fn heartbeat(member: &str, epoch: i32) -> codec::ConsumerGroupHeartbeatRequest {
    codec::ConsumerGroupHeartbeatRequest::default()
        .with_group_id(codec::GroupId(StrBytes::from_static_str(GROUP)))
        .with_member_id(StrBytes::from_string(member.to_owned()))
        .with_member_epoch(epoch)
        .with_rebalance_timeout_ms(-1)
}

pub(super) fn join(member: &str, topics: &[&str]) -> codec::ConsumerGroupHeartbeatRequest {
    heartbeat(member, 0)
        .with_rebalance_timeout_ms(30_000)
        .with_subscribed_topic_names(Some(topic_names(topics)))
        .with_topic_partitions(Some(Vec::new()))
}

pub(super) fn topic_names(topics: &[&str]) -> Vec<codec::TopicName> {
    topics.iter().map(|t| codec::TopicName(StrBytes::from_string((*t).to_owned()))).collect()
}

pub(super) fn join_regex(member: &str, regex: &str) -> codec::ConsumerGroupHeartbeatRequest {
    join(member, &[])
        .with_subscribed_topic_names(None)
        .with_subscribed_topic_regex(Some(StrBytes::from_string(regex.to_owned())))
}

pub(super) fn static_join(member: &str, instance: &str, topics: &[&str]) -> codec::ConsumerGroupHeartbeatRequest {
    join(member, topics).with_instance_id(Some(StrBytes::from_string(instance.to_owned())))
}

pub(super) fn owned(partitions: &Assignment) -> Option<Vec<request::TopicPartitions>> {
    let topics = partitions.topics();
    let owned = topics.map(|(id, partitions)| {
        request::TopicPartitions::default().with_topic_id(id.0).with_partitions(partitions.to_vec())
    });
    Some(owned.collect())
}

pub(super) fn code(response: &codec::ConsumerGroupHeartbeatResponse) -> ErrorCode {
    ErrorCode::from_code(response.error_code).expect("a code of Kafka")
}

/// What a response assigns, if it says.
pub(super) fn assigned(response: &codec::ConsumerGroupHeartbeatResponse) -> Option<Assignment> {
    let topics = &response.assignment.as_ref()?.topic_partitions;
    Some(Assignment::from_parts(topics.iter().map(|t| (TopicId(t.topic_id), t.partitions.clone()))))
}

pub(super) struct Bed {
    pub(super) coordinator: Coordinator,
    config: GroupsConfig,
    pub(super) topics: TestTopics,
    pub(super) now: Now,
    /// Every record, in order.
    pub(super) log: Vec<Record>,
    /// Answers, until they are looked at.
    answers: Vec<(Token, Response)>,
    tokens: u64,
}

impl Bed {
    pub(super) fn new() -> Self {
        Self::with_config(GroupsConfig::default())
    }

    pub(super) fn with_config(config: GroupsConfig) -> Self {
        Self {
            coordinator: Coordinator::new(config.clone(), 1),
            config,
            topics: TestTopics::default(),
            now: Now { monotonic_ms: 1_000, wall_ms: 1_000_000 },
            log: Vec::new(),
            answers: Vec::new(),
            tokens: 0,
        }
    }

    fn step(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.coordinator.step(self.now, &self.topics, event, &mut effects);
        self.log.extend(effects.records.iter().cloned());
        self.answers.append(&mut effects.answers);
        if let Some(group) = self.try_group() {
            group.assert_invariants();
        }
    }

    /// Asks what may be answered later.
    pub(super) fn post(&mut self, api_version: i16, request: Request) -> Token {
        self.tokens += 1;
        let token = Token(self.tokens);
        let client = Client { id: Arc::from("client"), host: Arc::from("/127.0.0.1"), api_version };
        self.step(Event::Request { token, client, request });
        token
    }

    /// The answer, if it has come.
    pub(super) fn answer(&mut self, token: Token) -> Option<Response> {
        let at = self.answers.iter().position(|(answered, _)| *answered == token)?;
        Some(self.answers.remove(at).1)
    }

    pub(super) fn ask(&mut self, api_version: i16, request: Request) -> Response {
        let token = self.post(api_version, request);
        let response = self.answer(token).expect("an answer at once");
        assert!(self.answer(token).is_none(), "one answer");
        response
    }

    pub(super) fn send(
        &mut self,
        request: codec::ConsumerGroupHeartbeatRequest,
    ) -> codec::ConsumerGroupHeartbeatResponse {
        match self.ask(1, Request::ConsumerGroupHeartbeat(request)) {
            Response::ConsumerGroupHeartbeat(response) => response,
            other => panic!("{other:?}"),
        }
    }

    /// As `send`, for what is not refused.
    pub(super) fn ok(
        &mut self,
        request: codec::ConsumerGroupHeartbeatRequest,
    ) -> codec::ConsumerGroupHeartbeatResponse {
        let response = self.send(request);
        assert_eq!(code(&response), ErrorCode::None, "{:?}", response.error_message);
        response
    }

    pub(super) fn refused(&mut self, request: codec::ConsumerGroupHeartbeatRequest) -> ErrorCode {
        let before = self.log.len();
        let response = self.send(request);
        assert_eq!(self.log.len(), before, "what is refused leaves no records");
        assert!(response.error_code == 0 || response.error_message.is_some());
        code(&response)
    }

    pub(super) fn refused_or_not(&mut self, request: codec::ConsumerGroupHeartbeatRequest) -> ErrorCode {
        code(&self.send(request))
    }

    pub(super) fn wait(&mut self, ms: i64) {
        self.now.monotonic_ms += ms;
        self.now.wall_ms += ms;
        self.step(Event::Tick);
    }

    pub(super) fn try_group(&self) -> Option<&ConsumerGroup> {
        match &self.coordinator.groups.get(GROUP)?.group {
            Group::Consumer(group) => Some(group),
            Group::Classic(_) => None,
        }
    }

    pub(super) fn group(&self) -> &ConsumerGroup {
        self.try_group().expect("a consumer group")
    }

    /// Reads the log into a new coordinator, which must know what this one knows.
    pub(super) fn reload(&mut self) {
        let mut fresh = Coordinator::new(self.config.clone(), 2);
        for record in &self.log {
            fresh.replay(&record.key, record.value.as_deref()).expect("our own records");
        }
        let before = self.try_group().map(ConsumerGroup::hard_state);
        self.coordinator = fresh;
        assert_eq!(self.try_group().map(ConsumerGroup::hard_state), before);
        let mut effects = Effects::default();
        self.coordinator.loaded(self.now, &self.topics, &mut effects);
        assert!(effects.records.is_empty());
    }
}
