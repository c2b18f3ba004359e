use super::harness::*;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use bytes::Bytes;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use uuid::Uuid;

pub(super) fn topic_data(version: i16, name: &str, id: Uuid, parts: Vec<(i32, Option<Bytes>)>) -> TopicProduceData {
    let data = parts
        .into_iter()
        .map(|(index, records)| PartitionProduceData::default().with_index(index).with_records(records))
        .collect();
    let topic = TopicProduceData::default().with_partition_data(data);
    if version >= 13 { topic.with_topic_id(id) } else { topic.with_name(text(name).into()) }
}

pub(super) fn produce(acks: i16, topics: Vec<TopicProduceData>) -> ProduceRequest {
    ProduceRequest::default().with_acks(acks).with_timeout_ms(1000).with_topic_data(topics)
}

async fn produce_one(
    client: &mut Client,
    acks: i16,
    name: &str,
    index: i32,
    records: Option<Bytes>,
) -> PartitionProduceResponse {
    let request = produce(acks, vec![topic_data(9, name, Uuid::nil(), vec![(index, records)])]);
    let mut response = client.ask(9, &request).await;
    response.responses.remove(0).partition_responses.remove(0)
}

#[test]
fn every_version_goes_to_every_shard_and_comes_back_in_every_version() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let id = node.image().topic("t").unwrap().id.0;
        let shards: std::collections::BTreeSet<u16> =
            node.image().topic("t").unwrap().partitions.iter().map(|p| p.shard).collect();
        assert_eq!(shards.len(), SHARDS);
        let mut client = node.connect().await;
        for version in 3..=13 {
            let value = format!("v{version}");
            let parts = (0..6).map(|p| (p, Some(batch(&[&value, "more"])))).collect();
            let response = client.ask(version, &produce(-1, vec![topic_data(version, "t", id, parts)])).await;
            assert_eq!(response.responses.len(), 1);
            let expected = i64::from(version - 3) * 2;
            for (p, partition) in response.responses[0].partition_responses.iter().enumerate() {
                assert_eq!((partition.index, partition.error_code), (p as i32, 0));
                assert_eq!((partition.base_offset, partition.log_append_time_ms), (expected, -1));
            }
        }
        let all: Vec<String> = (3..=13).flat_map(|v| [format!("v{v}"), "more".into()]).collect();
        for version in 4..=17 {
            let partition = |p| FetchPartition::default().with_partition(p).with_partition_max_bytes(1 << 20);
            let topic = FetchTopic::default().with_partitions((0..6).map(partition).collect());
            let topic = if version >= 13 { topic.with_topic_id(id) } else { topic.with_topic(text("t").into()) };
            let request = FetchRequest::default().with_max_bytes(1 << 24).with_min_bytes(1).with_topics(vec![topic]);
            let response = client.ask(version, &request).await;
            let topic = &response.responses[0];
            assert_eq!((response.error_code, topic.partitions.len()), (0, 6), "version {version}");
            for partition in &topic.partitions {
                assert_eq!((partition.error_code, partition.high_watermark), (0, 22));
                assert_eq!(values(partition.records.as_ref().unwrap()), all);
            }
        }
    });
}

#[test]
fn one_connection_stays_in_order_on_all_shards() {
    for seed in 0..10 {
        let node = Node::start(seed, &[]);
        node.world.block_on(async {
            node.create("t", 3, &[]).await;
            let mut client = node.connect().await;
            for i in 0..60 {
                let value = i.to_string();
                let parts = vec![(i % 3, Some(batch(&[&value])))];
                client.send(9, &produce(1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
            }
            for i in 0..60 {
                let (id, response) = client.receive::<ProduceRequest>(9).await.unwrap();
                let partition = &response.responses[0].partition_responses[0];
                assert_eq!((id, partition.error_code), (i + 1, 0));
                assert_eq!((partition.index, partition.base_offset), (i % 3, i64::from(i / 3)), "seed {seed}");
            }
        });
    }
}

#[test]
fn large_and_small_batches_come_back_as_they_went() {
    let node = Node::start(3, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        let large = "x".repeat(300_000);
        for round in 0..4 {
            let parts = (0..3).map(|p| (p, Some(batch(&[if (p + round) % 2 == 0 { "small" } else { &large }]))));
            let request = produce(-1, vec![topic_data(9, "t", Uuid::nil(), parts.collect())]);
            let response = client.ask(9, &request).await;
            for partition in &response.responses[0].partition_responses {
                assert_eq!((partition.error_code, partition.base_offset), (0, i64::from(round)));
            }
        }
        let partition = |p| FetchPartition::default().with_partition(p).with_partition_max_bytes(1 << 20);
        let topic = FetchTopic::default().with_topic(text("t").into());
        let topics = vec![topic.with_partitions((0..3).map(partition).collect())];
        let request = FetchRequest::default().with_max_bytes(1 << 24).with_min_bytes(1).with_topics(topics);
        let response = client.ask(12, &request).await;
        for partition in &response.responses[0].partitions {
            let lens: Vec<usize> = values(partition.records.as_ref().unwrap()).iter().map(String::len).collect();
            let odd = if partition.partition_index % 2 == 0 { 0 } else { 1 };
            let expected = (0..4).map(|round| if (round + odd) % 2 == 0 { 5 } else { 300_000 });
            assert_eq!(lens, expected.collect::<Vec<_>>());
        }
    });
}

#[test]
fn refusals() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        // More than there are replicas: as Kafka, all that there are.
        node.create("strict", 1, &[("min.insync.replicas", "2")]).await;
        let mut client = node.connect().await;
        let good = || Some(batch(&["v"]));
        let two = [batch(&["v"]), batch(&["w"])].concat();
        let mut bad_crc = batch(&["v"]).to_vec();
        bad_crc[20] ^= 1;
        let mut transactional = batch(&["v"]).to_vec();
        transactional[22] |= 0x10;
        let cut = batch(&["v"]);
        let cases: Vec<(i16, &str, i32, Option<Bytes>, ErrorCode)> = vec![
            (7, "t", 0, good(), ErrorCode::InvalidRequiredAcks),
            (1, "t", 0, None, ErrorCode::InvalidRecord),
            (1, "t", 0, Some(Bytes::new()), ErrorCode::InvalidRecord),
            (1, "t", 0, Some(two.into()), ErrorCode::InvalidRecord),
            (1, "t", 0, Some(cut.slice(..cut.len() - 1)), ErrorCode::InvalidRecord),
            (1, "t", 1, Some(bad_crc.clone().into()), ErrorCode::CorruptMessage),
            (1, "t", 2, Some(transactional.into()), ErrorCode::TransactionalIdAuthorizationFailed),
            (1, "t", 3, good(), ErrorCode::UnknownTopicOrPartition),
            (1, "t", -1, good(), ErrorCode::UnknownTopicOrPartition),
            (1, "none", 0, good(), ErrorCode::UnknownTopicOrPartition),
            (-1, "strict", 0, good(), ErrorCode::None),
            (1, "t", 0, good(), ErrorCode::None),
        ];
        for (acks, name, index, records, expected) in cases {
            let partition = produce_one(&mut client, acks, name, index, records).await;
            assert_eq!(partition.error_code, expected.code(), "{name}-{index}: {partition:?}");
            let offset = if expected.is_error() { -1 } else { 0 };
            assert_eq!((partition.index, partition.base_offset), (index, offset));
        }
        let by_id = topic_data(13, "", Uuid::from_u128(77), vec![(0, good())]);
        let response = client.ask(13, &produce(1, vec![by_id])).await;
        assert_eq!(response.responses[0].topic_id, Uuid::from_u128(77));
        assert_eq!(response.responses[0].partition_responses[0].error_code, ErrorCode::UnknownTopicId.code());
        let topics = vec![topic_data(9, "t", Uuid::nil(), vec![(0, good())])];
        let request = produce(1, topics).with_transactional_id(Some(text("tx").into()));
        let response = client.ask(9, &request).await;
        assert_eq!(
            response.responses[0].partition_responses[0].error_code,
            ErrorCode::None.code(),
            "of no transaction"
        );
        // acks=0: silence is consent, a closed connection is not.
        let zero = |records: Bytes| produce(0, vec![topic_data(9, "t", Uuid::nil(), vec![(0, Some(records))])]);
        client.send(9, &zero(batch(&["silent"]))).await;
        assert_eq!(produce_one(&mut client, 1, "t", 0, good()).await.base_offset, 3);
        client.send(9, &zero(bad_crc.into())).await;
        assert!(client.receive_frame().await.is_none());
    });
}

#[test]
fn duplicates_are_answered_with_their_offset_and_gaps_refused() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        for p in 0..3 {
            let send = |sequence| Some(produced_batch(&["a", "b"], 9, 0, sequence));
            for (sequence, error, offset) in [(0, 0, 0), (2, 0, 2), (0, 0, 0), (2, 0, 2), (9, 45, -1), (4, 0, 4)] {
                let partition = produce_one(&mut client, -1, "t", p, send(sequence)).await;
                assert_eq!((partition.error_code, partition.base_offset), (error, offset), "sequence {sequence}");
            }
        }
    });
}
