//! CompactTopic, our own: asks the shards of a topic's partitions to compact them now, and says how far they are.

use super::remote::{Ask, Told, refused, scatter_resolved, stopping};
use super::resolve::{enter_named, led_partition};
use crate::broker::Shard;
use crate::broker::store::{CompactionState, ReadError};
use crate::error_code::ErrorCode;
use crate::protocol::compact_topic::{CompactTopicRequest, CompactTopicResponse, CompactedPartition};
use coreline_io::Runtime;

pub(super) async fn handle<R: Runtime>(shard: &Shard<R>, request: CompactTopicRequest) -> CompactTopicResponse {
    let named = |topic: &str, index: i32| {
        topic == request.topic && (request.partitions.is_empty() || request.partitions.contains(&index))
    };
    let _pass = enter_named(shard, named).await;
    let image = shard.image();
    let Some(topic) = image.topic(&request.topic) else {
        let message = format!("topic {} does not exist", request.topic);
        return CompactTopicResponse {
            error_code: ErrorCode::UnknownTopicOrPartition.code(),
            error_message: Some(message),
            partitions: Vec::new(),
        };
    };
    let indexes: Vec<i32> = if request.partitions.is_empty() {
        (0..i32::try_from(topic.partitions.len()).unwrap_or(i32::MAX)).collect()
    } else {
        request.partitions
    };
    let asks = indexes.iter().map(|index| {
        let (resolved, _) = led_partition(shard, topic, *index).map_err(refused)?;
        Ok((resolved.shard, (resolved.id, request.begin)))
    });
    let unwrap = |told| match told {
        Told::Compacting(states) => states,
        other => unreachable!("a request to compact is answered with states, not {other:?}"),
    };
    let answers = scatter_resolved(shard, asks, Ask::Compact, unwrap, stopping).await;
    let partition = |(&index, answer): (&i32, Result<CompactionState, ReadError>)| {
        let mut partition = CompactedPartition { index, ..CompactedPartition::default() };
        match answer {
            Ok(state) => {
                partition.pending = state.pending;
                (partition.start, partition.compacted_end, partition.end) =
                    (state.log_start.0, state.compacted_end.0, state.high_watermark.0);
                partition.error_message = state.failure;
                if partition.error_message.is_some() {
                    partition.error_code = ErrorCode::KafkaStorageError.code();
                }
            }
            Err(error) => {
                partition.error_code = error.code.code();
                partition.error_message = Some(error.message);
            }
        }
        partition
    };
    let partitions = indexes.iter().zip(answers).map(partition).collect();
    CompactTopicResponse { error_code: 0, error_message: None, partitions }
}
