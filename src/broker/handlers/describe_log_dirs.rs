//! DescribeLogDirs: the data directory, its space, and the sizes of partitions, asked of the shards that own them.

use crate::broker::Shard;
use crate::broker::connection::RequestContext;
use crate::broker::messages::{Reply, Request};
use crate::ids::{PartitionId, PartitionIndex};
use crate::protocol::codec::text;
use coreline_io::Runtime;
use coreline_shards::ShardId;
use kafka_protocol::messages::describe_log_dirs_response::{
    DescribeLogDirsPartition, DescribeLogDirsResult, DescribeLogDirsTopic,
};
use kafka_protocol::messages::{DescribeLogDirsRequest, DescribeLogDirsResponse, TopicName};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Answers one request.
pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    context: &RequestContext,
    request: DescribeLogDirsRequest,
) -> DescribeLogDirsResponse {
    let image = shard.image();
    let wanted = |topic: &str, index: i32| match &request.topics {
        None => true,
        Some(topics) => topics.iter().any(|t| t.topic.0.as_str() == topic && t.partitions.contains(&index)),
    };
    let mut by_shard: BTreeMap<u16, Vec<PartitionId>> = BTreeMap::new();
    for topic in image.topics() {
        for (index, partition) in topic.partitions.iter().enumerate() {
            let id = topic.partition_id(index);
            if wanted(&topic.name, id.index.0) && context.concerns(ShardId(partition.shard)) {
                by_shard.entry(partition.shard).or_default().push(id);
            }
        }
    }
    let mut topics: BTreeMap<&str, Vec<DescribeLogDirsPartition>> = BTreeMap::new();
    for (owner, ids) in by_shard {
        for (id, size) in sizes(shard, ShardId(owner), ids).await {
            if let Some(topic) = image.topic_by_id(id.topic) {
                topics.entry(&topic.name).or_default().push(partition(id.index, size));
            }
        }
    }
    let topic = |(name, partitions): (&str, Vec<DescribeLogDirsPartition>)| {
        DescribeLogDirsTopic::default().with_name(TopicName(text(name))).with_partitions(partitions)
    };
    let directory = &shard.config.data_dir;
    let bytes = |b: coreline_io::IoResult<u64>| b.map_or(-1, |b| i64::try_from(b).unwrap_or(i64::MAX));
    let free = bytes(shard.runtime.free_bytes(directory).await);
    let total = bytes(shard.runtime.total_bytes(directory).await);
    let result = DescribeLogDirsResult::default()
        .with_log_dir(text(&directory.to_string_lossy()))
        .with_topics(topics.into_iter().map(topic).collect())
        .with_usable_bytes(free)
        .with_total_bytes(total);
    DescribeLogDirsResponse::default().with_results(vec![result])
}

fn partition(index: PartitionIndex, size: u64) -> DescribeLogDirsPartition {
    DescribeLogDirsPartition::default()
        .with_partition_index(index.0)
        .with_partition_size(i64::try_from(size).unwrap_or(i64::MAX))
}

/// The sizes of partitions of one shard, in bytes; those that cannot be read are left out.
async fn sizes<R: Runtime>(shard: &Rc<Shard<R>>, owner: ShardId, ids: Vec<PartitionId>) -> Vec<(PartitionId, u64)> {
    if owner == shard.id {
        return shard.log_sizes(ids).await;
    }
    match shard.mesh.call(owner, Request::LogSizes(ids)).await {
        Ok(Reply::LogSizes(sizes)) => sizes,
        _ => Vec::new(),
    }
}
