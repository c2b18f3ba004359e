//! DeleteRecords: moves the start of logs (KIP-107). Answered once the new starts are durable.

use super::remote::{Ask, Told, refused, scatter_resolved, stopping};
use super::resolve::{enter_named, led_partition};
use crate::broker::Shard;
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use coreline_io::Runtime;
use kafka_protocol::messages::delete_records_response::{DeleteRecordsPartitionResult, DeleteRecordsTopicResult};
use kafka_protocol::messages::{DeleteRecordsRequest, DeleteRecordsResponse};

/// The low watermark of a partition that has an error.
const NO_LOW_WATERMARK: i64 = -1;

pub(super) async fn handle<R: Runtime>(shard: &Shard<R>, request: DeleteRecordsRequest) -> DeleteRecordsResponse {
    let named = |topic: &str, index: i32| {
        let mut topics = request.topics.iter().filter(|t| t.name.as_str() == topic);
        topics.any(|t| t.partitions.iter().any(|p| p.partition_index == index))
    };
    let _pass = enter_named(shard, named).await;
    let image = shard.image();
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (&topic.name, p)));
    let asks = partitions.map(|(name, partition)| {
        let resolved = resolve(shard, &image, name, partition.partition_index).map_err(refused)?;
        Ok((resolved.shard, (resolved.id, Offset(partition.offset))))
    });
    let unwrap = |told| match told {
        Told::RecordsDeleted(starts) => starts,
        other => unreachable!("a request to delete records is answered with starts, not {other:?}"),
    };
    let mut found = scatter_resolved(shard, asks, Ask::DeleteRecords, unwrap, stopping).await.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let found = found.next().expect("an answer for each partition");
            let (error, start) =
                found.map_or_else(|e| (e.code, Offset(NO_LOW_WATERMARK)), |start| (ErrorCode::None, start));
            DeleteRecordsPartitionResult::default()
                .with_partition_index(partition.partition_index)
                .with_low_watermark(start.0)
                .with_error_code(error.code())
        });
        let partitions = partitions.collect();
        DeleteRecordsTopicResult::default().with_name(topic.name).with_partitions(partitions)
    });
    DeleteRecordsResponse::default().with_topics(topics.collect())
}

fn resolve<R: Runtime>(
    shard: &Shard<R>,
    image: &ClusterImage,
    name: &str,
    index: i32,
) -> Result<super::resolve::Resolved, ErrorCode> {
    let topic = image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?;
    let (resolved, _) = led_partition(shard, topic, index)?;
    // What a coordinator has written is not for clients to delete.
    if topic.internal { Err(ErrorCode::InvalidTopicException) } else { Ok(resolved) }
}
