//! Ends of transactions on their way to the shards that own the partitions.

use super::remote::{Ask, Told, scatter};
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
    let mut written: Vec<Result<Offset, AppendError>> = Vec::with_capacity(markers.len());
    let (mut places, mut asks) = (Vec::new(), Vec::new());
    for marker in markers {
        let topic = image.topic_by_id(marker.partition.topic).ok_or(ErrorCode::UnknownTopicOrPartition);
        match topic.and_then(|topic| led_partition(shard, topic, marker.partition.index.0)) {
            Ok((resolved, _)) => {
                places.push(written.len());
                asks.push((resolved.shard, marker));
                written.push(Ok(Offset(-1)));
            }
            Err(code) => written.push(Err(AppendError::new(code, code.text()))),
        }
    }
    let unwrap = |told| match told {
        Told::MarkersWritten(results) => results,
        other => unreachable!("markers are answered with their offsets, not {other:?}"),
    };
    let stopping = || Err(AppendError::new(ErrorCode::NotLeaderOrFollower, "the node is stopping"));
    let answers = scatter(shard, asks, Ask::WriteMarkers, unwrap, stopping).await;
    for (place, answer) in places.into_iter().zip(answers) {
        written[place] = answer;
    }
    written
}
