//! CreateTopics: each topic for itself, judged and committed by the controller.

use crate::broker::Shard;
use crate::broker::shard::dynamic_values;
use crate::config::describe_topic;
use crate::controller::{Command, NewTopic, Outcome, TopicOutcome};
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(shard: &Rc<Shard<R>>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    let topics: Vec<NewTopic> = request.topics.iter().map(new_topic).collect();
    let validate_only = request.validate_only;
    let names: Vec<String> = topics.iter().map(|t| t.name.clone()).collect();
    let results = match shard.controller.submit(Command::CreateTopics { topics: topics.clone(), validate_only }).await {
        Ok(Outcome::Topics(outcomes)) => {
            outcomes.iter().zip(&topics).map(|(outcome, topic)| result(shard, outcome, topic)).collect()
        }
        Ok(other) => unreachable!("topics have outcomes of topics, not {other:?}"),
        Err(e) => names.iter().map(|name| refused(name, e.code, &e.message)).collect(),
    };
    CreateTopicsResponse::default().with_topics(results)
}

fn new_topic(asked: &CreatableTopic) -> NewTopic {
    NewTopic {
        name: asked.name.0.to_string(),
        partitions: asked.num_partitions,
        replication_factor: asked.replication_factor,
        assignments: asked
            .assignments
            .iter()
            .map(|a| (a.partition_index, a.broker_ids.iter().map(|b| b.0).collect()))
            .collect(),
        // A null value is Kafka's way to say the default.
        configs: asked
            .configs
            .iter()
            .filter_map(|c| Some((c.name.to_string(), c.value.as_ref()?.to_string())))
            .collect(),
    }
}

fn refused(name: &str, code: ErrorCode, message: &str) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(TopicName(text(name)))
        .with_error_code(code.code())
        .with_error_message(Some(text(message)))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(None)
}

fn result<R: Runtime>(shard: &Rc<Shard<R>>, outcome: &TopicOutcome, topic: &NewTopic) -> CreatableTopicResult {
    let (partitions, replicas) = match &outcome.result {
        Ok(shape) => *shape,
        Err(e) => return refused(&topic.name, e.code, &e.message),
    };
    let image = shard.image();
    let entries = describe_topic(&shard.config, dynamic_values(&image, shard.node_id()), &topic.configs);
    let entry = |d: &crate::config::Described| {
        CreatableTopicConfigs::default()
            .with_name(text(d.name))
            .with_value(d.value.as_deref().map(text))
            .with_read_only(d.read_only)
            .with_config_source(d.source.wire())
    };
    CreatableTopicResult::default()
        .with_name(TopicName(text(&topic.name)))
        .with_topic_id(outcome.id.0)
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(Some(entries.iter().map(entry).collect()))
}
