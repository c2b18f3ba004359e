//! From what a request names to the partition and the shard that owns it.

use crate::broker::Shard;
use crate::broker::passage::Pass;
use crate::controller::{ClusterImage, PartitionImage, TopicImage};
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, PartitionId, PartitionIndex};
use coreline_io::Runtime;
use coreline_shards::ShardId;

/// A partition that this node leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) id: PartitionId,
    /// The shard that owns it.
    pub(crate) shard: ShardId,
}

/// The partition of `topic`, if this node leads it.
pub(crate) fn led_partition<'a, R: Runtime>(
    shard: &Shard<R>,
    topic: &'a TopicImage,
    index: i32,
) -> Result<(Resolved, &'a PartitionImage), ErrorCode> {
    let partition = topic.partition(index).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    if partition.leader != shard.node_id() {
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let id = PartitionId { topic: topic.id, index: PartitionIndex(index) };
    Ok((Resolved { id, shard: ShardId(partition.shard) }, partition))
}

/// As [`led_partition`], by name.
pub(crate) fn led_by_name<R: Runtime>(
    shard: &Shard<R>,
    image: &ClusterImage,
    name: &str,
    index: i32,
) -> Result<Resolved, ErrorCode> {
    let topic = image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    led_partition(shard, topic, index).map(|(resolved, _)| resolved)
}

/// A pass for a request that `names` partitions by topic and index: waits while one of those moves. They are to be found in the
/// image of that moment.
pub(crate) async fn enter_named<R: Runtime>(shard: &Shard<R>, names: impl Fn(&str, i32) -> bool) -> Pass {
    let wants = |moving: PartitionId| {
        // A topic that was deleted meanwhile has no name: nobody finds its partitions.
        shard.image().topic_by_id(moving.topic).is_some_and(|topic| names(&topic.name, moving.index.0))
    };
    shard.passage.enter_but_for(wants).await
}

/// The epoch a client believes in; -1 is none.
pub(crate) fn believed_epoch(epoch: i32) -> Option<LeaderEpoch> {
    (epoch >= 0).then_some(LeaderEpoch(epoch))
}
