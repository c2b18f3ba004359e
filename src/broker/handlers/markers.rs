//! Ends of transactions on their way to the shards that own the partitions.

use super::remote::{Ask, Told, scatter_resolved};
use super::resolve::led_partition;
use crate::broker::Shard;
use crate::broker::store::{AppendError, TxnMarker};
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use coreline_io::Runtime;

/// Writes each marker into its partition: one message a shard, all shards at a time, one group commit each. Durable when it
/// returns; the offsets in the order of the markers.
///
/// Of a partition that is gone the answer is `UNKNOWN_TOPIC_OR_PARTITION`; `NOT_LEADER_OR_FOLLOWER` when the node stops.
pub(crate) async fn write_markers<R: Runtime>(
    shard: &Shard<R>,
    markers: Vec<TxnMarker>,
) -> Vec<Result<Offset, AppendError>> {
    let image = shard.image();
    let asks = markers.into_iter().map(|marker| {
        let topic = image.topic_by_id(marker.partition.topic).ok_or(ErrorCode::UnknownTopicOrPartition);
        let resolved = topic.and_then(|topic| led_partition(shard, topic, marker.partition.index.0));
        let (resolved, _) = resolved.map_err(|code| AppendError::new(code, code.text()))?;
        Ok((resolved.shard, marker))
    });
    let unwrap = |told| match told {
        Told::MarkersWritten(results) => results,
        other => unreachable!("markers are answered with their offsets, not {other:?}"),
    };
    let stopping = || AppendError::new(ErrorCode::NotLeaderOrFollower, "the node is stopping");
    scatter_resolved(shard, asks, Ask::WriteMarkers, unwrap, stopping).await
}
