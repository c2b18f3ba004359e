//! CreateTopics: each topic for itself, judged and committed by the controller.

use crate::broker::Shard;
use crate::broker::shard::dynamic_values;
use crate::config::describe_topic;
use crate::controller::{Command, NewTopic, Outcome, TopicOutcome};
use crate::error_code::ErrorCode;
use crate::ids::BrokerId;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::create_topics_response::{CreatableTopicConfigs, CreatableTopicResult};
use kafka_protocol::messages::{CreateTopicsRequest, CreateTopicsResponse, TopicName};
use std::collections::BTreeSet;
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(shard: &Rc<Shard<R>>, request: CreateTopicsRequest) -> CreateTopicsResponse {
    // A name that comes twice is answered once.
    let mut seen = BTreeSet::new();
    let (mut results, mut topics) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        match new_topic(shard, topic) {
            Ok(topic) => topics.push(topic),
            Err(null) if seen.insert(topic.name.0.to_string()) => {
                let message = format!("Null value not supported for topic configs: {null}");
                results.push(refused(&topic.name.0, ErrorCode::InvalidConfig, &message));
            }
            Err(_) => {}
        }
    }
    let command = Command::CreateTopics { topics: topics.clone(), validate_only: request.validate_only };
    let outcomes = shard.controller.submit_within(&shard.runtime, command, request.timeout_ms).await;
    for (i, topic) in topics.iter().enumerate() {
        if !seen.insert(topic.name.clone()) {
            continue;
        }
        results.push(match &outcomes {
            Ok(Outcome::Topics(outcomes)) => result(shard, &outcomes[i], topic),
            Ok(other) => unreachable!("topics have outcomes of topics, not {other:?}"),
            Err(e) => refused(&topic.name, e.code, &e.message),
        });
    }
    CreateTopicsResponse::default().with_topics(results)
}

/// What is asked, or the first key that has no value.
fn new_topic<R: Runtime>(shard: &Shard<R>, asked: &CreatableTopic) -> Result<NewTopic, String> {
    let setting = |c: &CreatableTopicConfig| match &c.value {
        Some(value) => Ok((c.name.to_string(), value.to_string())),
        None => Err(c.name.to_string()),
    };
    let meant = |id: &kafka_protocol::messages::BrokerId| shard.broker_meant(BrokerId(id.0)).0;
    Ok(NewTopic {
        name: asked.name.0.to_string(),
        partitions: asked.num_partitions,
        replication_factor: asked.replication_factor,
        assignments: asked
            .assignments
            .iter()
            .map(|a| (a.partition_index, a.broker_ids.iter().map(meant).collect()))
            .collect(),
        configs: asked.configs.iter().map(setting).collect::<Result<_, _>>()?,
    })
}

fn refused(name: &str, code: ErrorCode, message: &str) -> CreatableTopicResult {
    CreatableTopicResult::default()
        .with_name(TopicName(text(name)))
        .with_error_code(code.code())
        .with_error_message(Some(text(message)))
        .with_num_partitions(-1)
        .with_replication_factor(-1)
        .with_configs(Some(Vec::new()))
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
        .with_error_message(None)
        .with_num_partitions(partitions)
        .with_replication_factor(replicas)
        .with_configs(Some(entries.iter().map(entry).collect()))
}
