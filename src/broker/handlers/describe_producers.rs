//! DescribeProducers: the idempotent producers that a partition knows (KIP-664).

use super::remote::{Ask, Told, scatter, stopping};
use super::resolve::led_by_name;
use crate::broker::Shard;
use crate::broker::store::ProducerInfo;
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
    let image = shard.image();
    let mut found: Vec<Result<Vec<ProducerInfo>, (ErrorCode, String)>> = Vec::new();
    let (mut places, mut asks) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        for index in &topic.partition_indexes {
            let resolved = match topic_name::check(&topic.name) {
                Ok(()) => {
                    led_by_name(shard, &image, &topic.name, *index).map_err(|error| (error, error.text().to_owned()))
                }
                Err(error) => Err((ErrorCode::InvalidTopicException, error.to_string())),
            };
            match resolved {
                Ok(resolved) => {
                    places.push(found.len());
                    asks.push((resolved.shard, resolved.id));
                    found.push(Ok(Vec::new()));
                }
                Err(error) => found.push(Err(error)),
            }
        }
    }
    let unwrap = |told| match told {
        Told::Producers(producers) => producers,
        other => unreachable!("a question for producers is answered with producers, not {other:?}"),
    };
    let answers = scatter(shard, asks, Ask::Producers, unwrap, || Err(stopping())).await;
    for (place, answer) in places.into_iter().zip(answers) {
        found[place] = answer.map_err(|error| (error.code, error.message));
    }
    let mut found = found.into_iter();
    let topics = request.topics.into_iter().map(|topic| {
        let partitions = topic.partition_indexes.iter().map(|index| {
            let response = PartitionResponse::default().with_partition_index(*index);
            match found.next().expect("an answer for each partition") {
                Ok(producers) => response.with_active_producers(producers.iter().map(state).collect()),
                Err((error, message)) => {
                    response.with_error_code(error.code()).with_error_message(Some(text(&message)))
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
