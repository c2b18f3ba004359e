//! DescribeProducers: the idempotent producers that a partition knows (KIP-664).

use super::remote::{Ask, Told, refused, scatter_resolved, stopping};
use super::resolve::{enter_named, led_by_name};
use crate::broker::Shard;
use crate::broker::store::{ProducerInfo, ReadError};
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use crate::protocol::topic_name;
use coreline_io::Runtime;
use kafka_protocol::messages::describe_producers_response::{PartitionResponse, ProducerState, TopicResponse};
use kafka_protocol::messages::{DescribeProducersRequest, DescribeProducersResponse};

pub(super) async fn handle<R: Runtime>(
    shard: &Shard<R>,
    request: DescribeProducersRequest,
) -> DescribeProducersResponse {
    let named = |topic: &str, index: i32| {
        let mut topics = request.topics.iter().filter(|t| t.name.as_str() == topic);
        topics.any(|t| t.partition_indexes.contains(&index))
    };
    let _pass = enter_named(shard, named).await;
    let image = shard.image();
    let partitions =
        request.topics.iter().flat_map(|topic| topic.partition_indexes.iter().map(move |i| (&topic.name, i)));
    let asks = partitions.map(|(name, index)| {
        topic_name::check(name).map_err(|error| ReadError::new(ErrorCode::InvalidTopicException, error.to_string()))?;
        let resolved = led_by_name(shard, &image, name, *index).map_err(refused)?;
        Ok((resolved.shard, resolved.id))
    });
    let unwrap = |told| match told {
        Told::Producers(producers) => producers,
        other => unreachable!("a question for producers is answered with producers, not {other:?}"),
    };
    let mut found = scatter_resolved(shard, asks, Ask::Producers, unwrap, stopping).await.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let response = PartitionResponse::default().with_partition_index(*index);
            match found.next().expect("an answer for each partition") {
                Ok(producers) => response.with_active_producers(producers.iter().map(state).collect()),
                Err(error) => {
                    response.with_error_code(error.code.code()).with_error_message(Some(text(&error.message)))
                }
            }
        });
        let partitions = partitions.collect();
        TopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    DescribeProducersResponse::default().with_topics(topics.collect())
}

fn state(producer: &ProducerInfo) -> ProducerState {
    ProducerState::default()
        .with_producer_id(producer.producer_id.0.into())
        .with_producer_epoch(i32::from(producer.producer_epoch.0))
        .with_last_sequence(producer.last_sequence)
        .with_last_timestamp(producer.last_timestamp)
        .with_coordinator_epoch(producer.coordinator_epoch)
        .with_current_txn_start_offset(producer.current_txn_start_offset.0)
}
