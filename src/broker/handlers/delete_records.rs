//! DeleteRecords: moves the start of logs (KIP-107). Answered once the new starts are durable.

use super::remote::{Ask, Told, scatter, stopping};
use super::resolve::led_partition;
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
    let image = shard.image();
    let mut found: Vec<Result<Offset, ErrorCode>> = Vec::new();
    let (mut places, mut asks) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            match resolve(shard, &image, &topic.name, partition.partition_index) {
                Ok(resolved) => {
                    places.push(found.len());
                    asks.push((resolved.shard, (resolved.id, Offset(partition.offset))));
                    found.push(Ok(Offset(NO_LOW_WATERMARK)));
                }
                Err(error) => found.push(Err(error)),
            }
        }
    }
    let unwrap = |told| match told {
        Told::RecordsDeleted(starts) => starts,
        other => unreachable!("a request to delete records is answered with starts, not {other:?}"),
    };
    let answers = scatter(shard, asks, Ask::DeleteRecords, unwrap, || Err(stopping())).await;
    for (place, answer) in places.into_iter().zip(answers) {
        found[place] = answer.map_err(|error| error.code);
    }
    let mut found = found.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let found = found.next().expect("an answer for each partition");
            let (error, start) = found.map_or_else(|e| (e, Offset(NO_LOW_WATERMARK)), |start| (ErrorCode::None, start));
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
