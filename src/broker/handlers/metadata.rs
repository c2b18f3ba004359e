//! Metadata: brokers, topics, partitions; makes topics that are asked for by name, where that is allowed.

use crate::broker::Shard;
use crate::broker::connection::RequestContext;
use crate::broker::groups::offsets_topic;
use crate::broker::pipeline::Close;
use crate::broker::transactions::state_topic;
use crate::controller::{ClusterImage, Command, NewTopic, Outcome, TopicImage};
use crate::error_code::ErrorCode;
use crate::ids::{BrokerId, TopicId};
use crate::protocol::codec::text;
use crate::protocol::topic_name;
use coreline_io::Runtime;
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// Everything a client may do with a topic while there is no authorizer: READ, WRITE, CREATE, DELETE, ALTER, DESCRIBE,
/// DESCRIBE_CONFIGS, ALTER_CONFIGS, by the bits of their codes.
pub(crate) const TOPIC_OPERATIONS: i32 = 0b1101_1111_1000;
/// And with the cluster: CREATE, ALTER, DESCRIBE, CLUSTER_ACTION, DESCRIBE_CONFIGS, ALTER_CONFIGS, IDEMPOTENT_WRITE.
pub(crate) const CLUSTER_OPERATIONS: i32 = 0b1_1111_1010_0000;
/// Not asked for.
pub(crate) const NO_OPERATIONS: i32 = i32::MIN;

/// The topics a request asks for.
enum Wanted {
    All,
    /// Each once.
    Some {
        names: BTreeSet<String>,
        ids: BTreeSet<TopicId>,
    },
}

fn wanted(version: i16, request: &MetadataRequest) -> Result<Wanted, Close> {
    let topics = match &request.topics {
        None if version == 0 => return Err(Close::because("null topics in version 0")),
        None => return Ok(Wanted::All),
        // Version 0 has no null: its empty list means all.
        Some(topics) if version == 0 && topics.is_empty() => return Ok(Wanted::All),
        Some(topics) => topics,
    };
    let (mut names, mut ids) = (BTreeSet::new(), BTreeSet::new());
    for topic in topics {
        match &topic.name {
            // An id goes before a name: the Java client sends both, the name empty.
            Some(name) if topic.topic_id.is_nil() => drop(names.insert(name.to_string())),
            Some(_) => drop(ids.insert(TopicId(topic.topic_id))),
            None if version < 10 => return Err(Close::because("a topic's name is null")),
            None => drop(ids.insert(TopicId(topic.topic_id))),
        }
    }
    Ok(Wanted::Some { names, ids })
}

pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    context: &RequestContext,
    request: MetadataRequest,
) -> Result<MetadataResponse, Close> {
    let version = context.request.header.api_version;
    let wanted = wanted(version, &request)?;
    let mut refused = BTreeMap::new();
    if let Wanted::Some { names, .. } = &wanted
        && request.allow_auto_topic_creation
        && shard.config.auto_create_topics
    {
        refused = create_missing(shard, names).await;
    }
    let image = shard.image();
    let operations = if request.include_topic_authorized_operations { TOPIC_OPERATIONS } else { NO_OPERATIONS };
    let found = |topic: &TopicImage| describe(shard, topic).with_topic_authorized_operations(operations);
    let topics = match &wanted {
        Wanted::All => image.topics().map(|topic| found(topic)).collect(),
        Wanted::Some { names, ids } => {
            let by_name = names.iter().map(|name| match image.topic(name) {
                Some(topic) => found(topic),
                None => missing_name(name, &refused),
            });
            let by_id = ids.iter().map(|id| match image.topic_by_id(*id) {
                Some(topic) => found(topic),
                None => missing_id(version, *id),
            });
            by_name.chain(by_id).collect()
        }
    };
    let response = cluster(shard, &image).with_topics(topics);
    let asked = request.include_cluster_authorized_operations;
    Ok(response.with_cluster_authorized_operations(if asked { CLUSTER_OPERATIONS } else { NO_OPERATIONS }))
}

/// Makes those topics that are not there; what was refused, and why.
async fn create_missing<R: Runtime>(shard: &Rc<Shard<R>>, names: &BTreeSet<String>) -> BTreeMap<String, ErrorCode> {
    let image = shard.image();
    let missing: Vec<&String> =
        names.iter().filter(|name| image.topic(name).is_none() && topic_name::check(name).is_ok()).collect();
    drop(image);
    if missing.is_empty() {
        return BTreeMap::new();
    }
    let brokers = shard.image().brokers.len();
    let topics = missing.iter().map(|name| match name.as_str() {
        offsets_topic::OFFSETS_TOPIC => offsets_topic::OFFSETS.new_topic(&shard.config, brokers),
        state_topic::STATE_TOPIC => state_topic::STATE.new_topic(&shard.config, brokers),
        _ => NewTopic {
            name: (*name).clone(),
            partitions: -1,
            replication_factor: -1,
            assignments: Vec::new(),
            configs: BTreeMap::new(),
        },
    });
    let command = Command::CreateTopics { topics: topics.collect(), validate_only: false };
    let refused = |code| missing.iter().map(|name| ((*name).clone(), code)).collect();
    match shard.controller.submit(command).await {
        Ok(Outcome::Topics(outcomes)) => {
            let errors = missing.iter().zip(outcomes).filter_map(|(name, outcome)| {
                let error = outcome.result.err()?;
                tracing::debug!(topic = %name, "not created on demand: {}", error.message);
                Some(((*name).clone(), error.code))
            });
            errors.collect()
        }
        Ok(other) => unreachable!("CreateTopics is answered topic by topic, not with {other:?}"),
        Err(error) => {
            tracing::warn!("topics were not created on demand: {}", error.message);
            refused(ErrorCode::LeaderNotAvailable)
        }
    }
}

fn missing_name(name: &str, refused: &BTreeMap<String, ErrorCode>) -> MetadataResponseTopic {
    let error = if topic_name::check(name).is_err() {
        ErrorCode::InvalidTopicException
    } else {
        // Somebody else's creation may have come between, and its deletion.
        match refused.get(name) {
            Some(ErrorCode::TopicAlreadyExists) | None => ErrorCode::UnknownTopicOrPartition,
            Some(code) => *code,
        }
    };
    let topic = MetadataResponseTopic::default().with_error_code(error.code()).with_name(Some(text(name).into()));
    topic.with_topic_authorized_operations(NO_OPERATIONS)
}

fn missing_id(version: i16, id: TopicId) -> MetadataResponseTopic {
    // A name and no id is the only other way to ask: neither is a request that means nothing.
    let error = if id.0.is_nil() { ErrorCode::InvalidRequest } else { ErrorCode::UnknownTopicId };
    MetadataResponseTopic::default()
        .with_error_code(error.code())
        .with_name((version < 12).then(|| text("").into()))
        .with_topic_id(id.0)
        .with_topic_authorized_operations(NO_OPERATIONS)
}

fn describe<R: Runtime>(shard: &Shard<R>, topic: &TopicImage) -> MetadataResponseTopic {
    let partitions = topic.partitions.iter().enumerate().map(|(index, partition)| {
        let error = if partition.leader.0 < 0 { ErrorCode::LeaderNotAvailable } else { ErrorCode::None };
        let told = |id: &BrokerId| kafka_protocol::messages::BrokerId(shard.broker_told(partition, *id).0);
        MetadataResponsePartition::default()
            .with_error_code(error.code())
            .with_partition_index(index as i32)
            .with_leader_id(told(&partition.leader))
            .with_leader_epoch(partition.leader_epoch.0)
            .with_replica_nodes(partition.replicas.iter().map(told).collect())
            .with_isr_nodes(partition.isr.iter().map(told).collect())
    });
    MetadataResponseTopic::default()
        .with_name(Some(text(&topic.name).into()))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions.collect())
}

/// The brokers and who leads the cluster.
fn cluster<R: Runtime>(shard: &Shard<R>, image: &ClusterImage) -> MetadataResponse {
    let brokers = shard.brokers_told(image).into_iter().map(|broker| {
        MetadataResponseBroker::default()
            .with_node_id(broker.id.0.into())
            .with_host(text(&broker.host))
            .with_port(i32::from(broker.port))
            .with_rack(broker.rack.as_deref().map(text))
    });
    MetadataResponse::default()
        .with_brokers(brokers.collect())
        .with_cluster_id(Some(text(&image.cluster_id)))
        .with_controller_id(shard.node_id().0.into())
}
