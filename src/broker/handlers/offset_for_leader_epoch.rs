//! OffsetForLeaderEpoch: where an epoch ended, so that a reader can see that its records were truncated (KIP-101, KIP-320).

use super::remote::{Ask, EpochOne, Told, refused, scatter_resolved, stopping};
use super::resolve::{believed_epoch, enter_named, led_by_name};
use crate::broker::Shard;
use crate::broker::store::EpochEnd;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset};
use coreline_io::Runtime;
use kafka_protocol::messages::offset_for_leader_epoch_response::{EpochEndOffset, OffsetForLeaderTopicResult};
use kafka_protocol::messages::{OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse};

pub(super) async fn handle<R: Runtime>(
    shard: &Shard<R>,
    request: OffsetForLeaderEpochRequest,
) -> OffsetForLeaderEpochResponse {
    let named = |topic: &str, index: i32| {
        let mut topics = request.topics.iter().filter(|t| t.topic.as_str() == topic);
        topics.any(|t| t.partitions.iter().any(|p| p.partition == index))
    };
    let _pass = enter_named(shard, named).await;
    let image = shard.image();
    let unknown = EpochEnd { leader_epoch: LeaderEpoch(-1), end_offset: Offset(-1) };
    let partitions = request.topics.iter().flat_map(|topic| topic.partitions.iter().map(move |p| (&topic.topic, p)));
    let asks = partitions.map(|(name, partition)| {
        let resolved = led_by_name(shard, &image, name, partition.partition).map_err(refused)?;
        let epoch = LeaderEpoch(partition.leader_epoch);
        let current_leader_epoch = believed_epoch(partition.current_leader_epoch);
        Ok((resolved.shard, EpochOne { id: resolved.id, epoch, current_leader_epoch }))
    });
    let unwrap = |told| match told {
        Told::EpochEnds(ends) => ends,
        other => unreachable!("a question for epochs is answered with epochs, not {other:?}"),
    };
    let mut found = scatter_resolved(shard, asks, Ask::EpochEnds, unwrap, stopping).await.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(|partition| {
            let found = found.next().expect("an answer for each partition");
            let (error, end) = found.map_or_else(|error| (error.code, unknown), |end| (ErrorCode::None, end));
            EpochEndOffset::default()
                .with_error_code(error.code())
                .with_partition(partition.partition)
                .with_leader_epoch(end.leader_epoch.0)
                .with_end_offset(end.end_offset.0)
        });
        let partitions = partitions.collect();
        OffsetForLeaderTopicResult::default().with_topic(topic.topic).with_partitions(partitions)
    });
    OffsetForLeaderEpochResponse::default().with_topics(topics.collect())
}
