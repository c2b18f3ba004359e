//! DescribeTopicPartitions (KIP-966): topics page by page, in the order of their names.

use super::metadata::TOPIC_OPERATIONS;
use crate::broker::Shard;
use crate::controller::{PartitionImage, TopicImage};
use crate::error_code::ErrorCode;
use crate::ids::BrokerId;
use crate::protocol::codec::text;
use crate::protocol::topic_name;
use coreline_io::Runtime;
use kafka_protocol::messages::describe_topic_partitions_request::TopicRequest;
use kafka_protocol::messages::describe_topic_partitions_response::{
    Cursor, DescribeTopicPartitionsResponsePartition, DescribeTopicPartitionsResponseTopic,
};
use kafka_protocol::messages::{DescribeTopicPartitionsRequest, DescribeTopicPartitionsResponse, TopicName};
use std::collections::BTreeSet;
use std::rc::Rc;

/// `max.request.partition.size.limit` of Kafka.
const PARTITIONS_MAX: usize = 2000;
const NO_OPERATIONS: i32 = i32::MIN;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: DescribeTopicPartitionsRequest,
) -> DescribeTopicPartitionsResponse {
    let image = shard.image();
    if !cursor_is_valid(&request) {
        let refused = |t: &TopicRequest| failed(&t.name.0, ErrorCode::InvalidRequest);
        return DescribeTopicPartitionsResponse::default().with_topics(request.topics.iter().map(refused).collect());
    }
    let (from, first) = request
        .cursor
        .as_ref()
        .map_or((String::new(), 0), |c| (c.topic_name.0.to_string(), usize::try_from(c.partition_index).unwrap_or(0)));
    let asked: BTreeSet<String> = if request.topics.is_empty() {
        image.topics().map(|t| t.name.to_string()).collect()
    } else {
        request.topics.iter().map(|t| t.name.0.to_string()).collect()
    };
    let mut left = usize::try_from(request.response_partition_limit).unwrap_or(0).clamp(1, PARTITIONS_MAX);
    let mut answer = DescribeTopicPartitionsResponse::default();
    for name in asked.into_iter().filter(|name| *name >= from) {
        if left == 0 {
            return answer.with_next_cursor(Some(cursor(&name, 0)));
        }
        let Some(topic) = image.topic(&name) else {
            answer.topics.push(unknown(&name));
            continue;
        };
        let start = if name == from { first } else { 0 };
        let (described, next) = describe(shard, topic, start, left);
        left -= described.partitions.len();
        answer.topics.push(described);
        if let Some(next) = next {
            return answer.with_next_cursor(Some(cursor(&name, next)));
        }
    }
    answer
}

fn cursor(name: &str, partition: usize) -> Cursor {
    let index = i32::try_from(partition).expect("indexes are 31 bits");
    Cursor::default().with_topic_name(TopicName(text(name))).with_partition_index(index)
}

/// A page begins at a partition of a topic that was asked for.
fn cursor_is_valid(request: &DescribeTopicPartitionsRequest) -> bool {
    let Some(cursor) = &request.cursor else { return true };
    let asked = request.topics.is_empty() || request.topics.iter().any(|t| t.name == cursor.topic_name);
    cursor.partition_index >= 0 && asked
}

fn unknown(name: &str) -> DescribeTopicPartitionsResponseTopic {
    let valid = topic_name::check(name).is_ok();
    let code = if valid { ErrorCode::UnknownTopicOrPartition } else { ErrorCode::InvalidTopicException };
    failed(name, code).with_topic_authorized_operations(TOPIC_OPERATIONS)
}

fn failed(name: &str, code: ErrorCode) -> DescribeTopicPartitionsResponseTopic {
    DescribeTopicPartitionsResponseTopic::default()
        .with_error_code(code.code())
        .with_name(Some(TopicName(text(name))))
        .with_topic_authorized_operations(NO_OPERATIONS)
}

/// Up to `limit` partitions from `start`, and the index of the next one, if there is one.
fn describe<R: Runtime>(
    shard: &Shard<R>,
    topic: &TopicImage,
    start: usize,
    limit: usize,
) -> (DescribeTopicPartitionsResponseTopic, Option<usize>) {
    let end = topic.partitions.len().min(start.saturating_add(limit));
    let partitions = (start..end).map(|i| partition(shard, i, &topic.partitions[i])).collect();
    let described = DescribeTopicPartitionsResponseTopic::default()
        .with_name(Some(TopicName(text(&topic.name))))
        .with_topic_id(topic.id.0)
        .with_is_internal(topic.internal)
        .with_partitions(partitions)
        .with_topic_authorized_operations(TOPIC_OPERATIONS);
    (described, (end < topic.partitions.len()).then_some(end))
}

fn partition<R: Runtime>(
    shard: &Shard<R>,
    index: usize,
    p: &PartitionImage,
) -> DescribeTopicPartitionsResponsePartition {
    let told = |id: &BrokerId| kafka_protocol::messages::BrokerId(shard.broker_told(p, *id).0);
    let ids = |list: &[BrokerId]| list.iter().map(told).collect();
    DescribeTopicPartitionsResponsePartition::default()
        .with_partition_index(i32::try_from(index).expect("indexes are 31 bits"))
        .with_leader_id(told(&p.leader))
        .with_leader_epoch(p.leader_epoch.0)
        .with_replica_nodes(ids(&p.replicas))
        .with_isr_nodes(ids(&p.isr))
        .with_eligible_leader_replicas(Some(Vec::new()))
        .with_last_known_elr(Some(Vec::new()))
}
