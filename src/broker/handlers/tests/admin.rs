use super::harness::*;
use super::producing::{produce, topic_data};
use crate::error_code::ErrorCode;
use crate::protocol::Api;
use crate::protocol::codec::text;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::offset_for_leader_epoch_request::{OffsetForLeaderPartition, OffsetForLeaderTopic};
use kafka_protocol::messages::{
    ApiVersionsRequest, ApiVersionsResponse, DeleteRecordsRequest, DescribeProducersRequest, InitProducerIdRequest,
    ListOffsetsRequest, MetadataRequest, OffsetForLeaderEpochRequest,
};
use kafka_protocol::protocol::Decodable;
use std::collections::BTreeSet;
use uuid::Uuid;

fn named(name: &str) -> MetadataRequestTopic {
    MetadataRequestTopic::default().with_name(Some(text(name).into()))
}

#[test]
fn metadata_in_every_version() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("b", 3, &[]).await;
        node.create("a", 1, &[]).await;
        let mut client = node.connect().await;
        for version in 0..=13 {
            let all = if version == 0 { Some(Vec::new()) } else { None };
            let response = client.ask(version, &MetadataRequest::default().with_topics(all)).await;
            let names: Vec<_> = response.topics.iter().map(|t| t.name.as_ref().unwrap().to_string()).collect();
            assert_eq!(names, ["a", "b"], "version {version}");
            assert_eq!((response.brokers.len(), response.brokers[0].port), (1, 9092));
            let partitions = &response.topics[1].partitions;
            assert_eq!(partitions.iter().map(|p| p.partition_index).collect::<Vec<_>>(), [0, 1, 2]);
            assert!(partitions.iter().all(|p| p.leader_id.0 == 1 && p.replica_nodes[0].0 == 1));
            if version >= 2 {
                assert_eq!(response.cluster_id.unwrap().as_str(), "cluster");
            }
            let some = MetadataRequest::default().with_topics(Some(vec![named("a"), named("a"), named("no such")]));
            let response = client.ask(version, &some).await;
            let errors: Vec<i16> = response.topics.iter().map(|t| t.error_code).collect();
            assert_eq!(errors, [0, ErrorCode::InvalidTopicException.code()]);
        }
        for (version, operations) in [(8, 3576), (10, 3576), (13, 3576)] {
            let request = MetadataRequest::default().with_topics(Some(vec![named("a")]));
            let request = request.with_include_topic_authorized_operations(true);
            let request = request.with_include_cluster_authorized_operations(version <= 10);
            let response = client.ask(version, &request).await;
            assert_eq!(response.topics[0].topic_authorized_operations, operations);
            assert_eq!(response.cluster_authorized_operations, if version <= 10 { 8096 } else { i32::MIN });
        }
    });
}

#[test]
fn metadata_by_id() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("a", 1, &[]).await;
        let id = node.image().topic("a").unwrap().id.0;
        let mut client = node.connect().await;
        for version in 10..=13 {
            let by_id = |id| MetadataRequestTopic::default().with_topic_id(id).with_name(None);
            let request = MetadataRequest::default().with_topics(Some(vec![
                by_id(id),
                by_id(Uuid::from_u128(1)),
                by_id(Uuid::nil()),
            ]));
            let mut found = Vec::new();
            for topic in client.ask(version, &request).await.topics {
                found.push((topic.error_code, topic.topic_id));
            }
            found.sort();
            let mut expected = vec![
                (0, id),
                (ErrorCode::UnknownTopicId.code(), Uuid::from_u128(1)),
                (ErrorCode::InvalidRequest.code(), Uuid::nil()),
            ];
            expected.sort();
            assert_eq!(found, expected);
        }
    });
}

#[test]
fn topics_are_made_on_demand_where_that_is_allowed() {
    for (settings, allowed) in [(&[][..], true), (&[("auto.create.topics.enable", "false")][..], false)] {
        let node = Node::start(1, settings);
        node.world.block_on(async {
            // Clients on all shards ask for the same at a time.
            let mut clients = Vec::new();
            for _ in 0..6 {
                clients.push(node.connect().await);
            }
            let request = MetadataRequest::default().with_topics(Some(vec![named("new")]));
            for client in &mut clients {
                client.send(12, &request).await;
            }
            for client in &mut clients {
                let (_, response) = client.receive::<MetadataRequest>(12).await.unwrap();
                let topic = &response.topics[0];
                if allowed {
                    assert_eq!((topic.error_code, topic.partitions.len()), (0, 1));
                } else {
                    assert_eq!(topic.error_code, ErrorCode::UnknownTopicOrPartition.code());
                }
            }
            let quiet = MetadataRequest::default().with_topics(Some(vec![named("quiet")]));
            let quiet = quiet.with_allow_auto_topic_creation(false);
            let response = clients[0].ask(4, &quiet).await;
            assert_eq!(response.topics[0].error_code, ErrorCode::UnknownTopicOrPartition.code());
            assert_eq!(node.image().topic_count(), usize::from(allowed));
        });
    }
}

#[test]
fn offsets_in_every_version() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        for _ in 0..2 {
            let parts = (0..3).map(|p| (p, Some(batch(&["a", "b"])))).collect();
            client.ask(9, &produce(1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        }
        for version in 1..=10 {
            // (timestamp, error, offset)
            let unsupported = ErrorCode::UnsupportedVersion.code();
            let since = |first: i16, offset: i64| if version >= first { (0, offset) } else { (unsupported, -1) };
            let cases = [
                (-1, (0, 4)),
                (-2, (0, 0)),
                (-3, since(7, 1)),
                (-4, since(8, 0)),
                (-5, since(9, -1)),
                (-6, (unsupported, -1)),
                (1001, (0, 1)),
                (99_999, (0, -1)),
            ];
            for (timestamp, expected) in cases {
                let partition = |p| ListOffsetsPartition::default().with_partition_index(p).with_timestamp(timestamp);
                let topic = ListOffsetsTopic::default().with_name(text("t").into());
                let topic = topic.with_partitions((0..4).map(partition).collect());
                let request = ListOffsetsRequest::default().with_replica_id((-1).into()).with_topics(vec![topic]);
                let response = client.ask(version, &request).await;
                let found: Vec<_> = response.topics[0].partitions.iter().map(|p| (p.error_code, p.offset)).collect();
                let unknown = (ErrorCode::UnknownTopicOrPartition.code(), -1);
                assert_eq!(found, [expected, expected, expected, unknown], "version {version}, {timestamp}");
            }
        }
        let partition = ListOffsetsPartition::default().with_timestamp(-1);
        let topic =
            ListOffsetsTopic::default().with_name(text("t").into()).with_partitions(vec![partition.clone(), partition]);
        let response = client.ask(5, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
        assert!(response.topics[0].partitions.iter().all(|p| p.error_code == ErrorCode::InvalidRequest.code()));
    });
}

#[test]
fn ends_of_epochs() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        let parts = (0..3).map(|p| (p, Some(batch(&["a"])))).collect();
        client.ask(9, &produce(1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        for version in 2..=4 {
            for (index, current, epoch, expected) in
                [(1, -1, 0, (0, 0, 1)), (2, -1, 7, (0, -1, -1)), (0, 9, 0, (75, -1, -1)), (9, -1, 0, (3, -1, -1))]
            {
                let partition = OffsetForLeaderPartition::default().with_partition(index);
                let partition = partition.with_current_leader_epoch(current).with_leader_epoch(epoch);
                let topic =
                    OffsetForLeaderTopic::default().with_topic(text("t").into()).with_partitions(vec![partition]);
                let response =
                    client.ask(version, &OffsetForLeaderEpochRequest::default().with_topics(vec![topic])).await;
                let found = &response.topics[0].partitions[0];
                assert_eq!((found.error_code, found.leader_epoch, found.end_offset), expected, "partition {index}");
            }
        }
    });
}

#[test]
fn records_are_deleted_on_every_shard() {
    let node = Node::start(2, &[]);
    node.world.block_on(async {
        node.create("t", 4, &[]).await;
        let mut client = node.connect().await;
        for _ in 0..3 {
            let parts = (0..4).map(|p| (p, Some(batch(&["a"])))).collect();
            client.ask(9, &produce(1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        }
        let mut starts = [0; 4];
        for version in 0..=2 {
            let asked = [(0, -1), (1, 1 + i64::from(version)), (2, 4), (3, -2), (9, 0)];
            let partition =
                |(n, to): (i32, i64)| DeleteRecordsPartition::default().with_partition_index(n).with_offset(to);
            let topic = DeleteRecordsTopic::default()
                .with_name(text("t").into())
                .with_partitions(asked.into_iter().map(partition).collect());
            let stranger =
                DeleteRecordsTopic::default().with_name(text("u").into()).with_partitions(vec![partition((0, -1))]);
            let request = DeleteRecordsRequest::default().with_topics(vec![topic, stranger]);
            let response = client.ask(version, &request).await;
            let found: Vec<_> = response
                .topics
                .iter()
                .flat_map(|t| &t.partitions)
                .map(|p| (p.partition_index, p.error_code, p.low_watermark))
                .collect();
            let (unknown, outside) = (ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::OffsetOutOfRange.code());
            let moved = 1 + i64::from(version);
            assert_eq!(
                found,
                [(0, 0, 3), (1, 0, moved), (2, outside, -1), (3, outside, -1), (9, unknown, -1), (0, unknown, -1)]
            );
            starts = [3, moved, 0, 0];
        }
        for (index, start) in (0..).zip(starts) {
            let partition = ListOffsetsPartition::default().with_partition_index(index).with_timestamp(-2);
            let topic = ListOffsetsTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
            let response = client.ask(7, &ListOffsetsRequest::default().with_topics(vec![topic])).await;
            assert_eq!(response.topics[0].partitions[0].offset, start, "partition {index}");
        }
    });
}

fn idempotent() -> InitProducerIdRequest {
    InitProducerIdRequest::default().with_transactional_id(None)
}

#[test]
fn producer_ids_are_given_once() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        let mut clients = Vec::new();
        for _ in 0..9 {
            clients.push(node.connect().await);
        }
        let mut given = BTreeSet::new();
        for round in 0..300i16 {
            let version = round % 6;
            for client in &mut clients {
                client.send(version, &idempotent()).await;
            }
            for client in &mut clients {
                let (_, response) = client.receive::<InitProducerIdRequest>(version).await.unwrap();
                assert_eq!((response.error_code, response.producer_epoch), (0, 0));
                assert!(given.insert(response.producer_id.0), "{} was given before", response.producer_id.0);
            }
        }
        assert_eq!(given.len(), 2700);
        let refused = [
            (InitProducerIdRequest::default().with_transactional_id(Some(text("").into())), ErrorCode::InvalidRequest),
            (InitProducerIdRequest::default().with_transactional_id(Some(text("x").into())), ErrorCode::NotCoordinator),
            (idempotent().with_producer_epoch(3), ErrorCode::InvalidRequest),
        ];
        for (request, error) in refused {
            let response = clients[0].ask(4, &request).await;
            assert_eq!((response.error_code, response.producer_id.0), (error.code(), -1));
        }
    });
}

#[test]
fn producers_are_described() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        let parts = (0..3).map(|p| (p, Some(produced_batch(&["a", "b"], 40 + i64::from(p), 2, 0)))).collect();
        client.ask(9, &produce(1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await;
        let topic =
            |name: &str| TopicRequest::default().with_name(text(name).into()).with_partition_indexes(vec![0, 1, 2, 3]);
        let request = DescribeProducersRequest::default().with_topics(vec![topic("t"), topic("a b")]);
        let response = client.ask(0, &request).await;
        let found: Vec<_> = response.topics[0]
            .partitions
            .iter()
            .map(|p| {
                let states = p.active_producers.iter().map(|s| (s.producer_id.0, s.producer_epoch, s.last_sequence));
                (p.error_code, states.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(found, [(0, vec![(40, 2, 1)]), (0, vec![(41, 2, 1)]), (0, vec![(42, 2, 1)]), (3, vec![])]);
        assert!(response.topics[1].partitions.iter().all(|p| p.error_code == ErrorCode::InvalidTopicException.code()));
    });
}

#[test]
fn versions_are_those_of_the_table() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        let mut client = node.connect().await;
        for version in 0..=4 {
            let request = ApiVersionsRequest::default();
            let request = if version < 3 {
                request
            } else {
                request.with_client_software_name(text("test")).with_client_software_version(text("1"))
            };
            let response = client.ask(version, &request).await;
            let listed: Vec<_> = response.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
            let kafkas = Api::all().iter().filter(|a| a.key.is_kafkas());
            let table: Vec<_> = kafkas.map(|a| (a.key as i16, a.listed_min, a.max)).collect();
            assert_eq!(listed, table);
            assert_eq!(listed[0], (0, 0, 13));
            // As Kafka: a feature that may be 0 cannot be told before version 4.
            let told = (response.finalized_features.len(), response.supported_features.len());
            assert_eq!(told, (2 * usize::from(version >= 3), 2 * usize::from(version >= 4)), "version {version}");
        }
        let nameless = client.ask(3, &ApiVersionsRequest::default().with_client_software_name(text("a b"))).await;
        assert_eq!(nameless.error_code, ErrorCode::InvalidRequest.code());
        // A version from the future, with a body nobody knows: version 0 says which there are (KIP-511).
        let mut future = BytesMut::new();
        future.put_i32(13);
        future.put_i16(18);
        future.put_i16(99);
        future.put_i32(1234);
        future.put_slice(b"?!...");
        client.raw(future.freeze()).await;
        let mut answer: Bytes = client.receive_frame().await.unwrap();
        assert_eq!(bytes::Buf::get_i32(&mut answer), 1234);
        let response = ApiVersionsResponse::decode(&mut answer, 0).unwrap();
        assert_eq!(response.error_code, ErrorCode::UnsupportedVersion.code());
        let listed: Vec<_> = response.api_keys.iter().map(|k| (k.api_key, k.min_version, k.max_version)).collect();
        assert_eq!(listed, [(18, 0, 4)]);
    });
}
