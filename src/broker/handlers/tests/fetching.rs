use super::harness::*;
use super::producing::{produce, topic_data};
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::{Clock, TaskGroup, Tasks};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::{FetchRequest, FetchResponse};
use std::time::Duration;
use uuid::Uuid;

pub(super) fn wanted(index: i32, offset: i64) -> FetchPartition {
    FetchPartition::default().with_partition(index).with_fetch_offset(offset).with_partition_max_bytes(1 << 20)
}

pub(super) fn fetch(wait_ms: i32, partitions: Vec<FetchPartition>) -> FetchRequest {
    let topics = if partitions.is_empty() {
        Vec::new()
    } else {
        vec![FetchTopic::default().with_topic(text("t").into()).with_partitions(partitions)]
    };
    FetchRequest::default()
        .with_max_wait_ms(wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_epoch(-1)
        .with_topics(topics)
}

pub(super) async fn put(client: &mut Client, index: i32, value: &str) {
    let topics = vec![topic_data(9, "t", Uuid::nil(), vec![(index, Some(batch(&[value])))])];
    let response = client.ask(9, &produce(1, topics)).await;
    assert_eq!(response.responses[0].partition_responses[0].error_code, 0);
}

/// (partition, error, values)
pub(super) fn told(response: &FetchResponse) -> Vec<(i32, i16, Vec<String>)> {
    let partitions = response.responses.iter().flat_map(|t| &t.partitions);
    partitions.map(|p| (p.partition_index, p.error_code, values(p.records.as_ref().unwrap()))).collect()
}

#[test]
fn a_fetch_waits_for_records_on_any_shard_and_no_longer() {
    for seed in 0..12 {
        let node = Node::start(seed, &[]);
        node.world.block_on(async {
            node.create("t", 3, &[]).await;
            let (mut reader, mut writer) = (node.connect().await, node.connect().await);
            for index in 0..3 {
                let runtime = node.runtime();
                let start = runtime.now();
                reader.send(12, &fetch(60_000, (0..3).map(|p| wanted(p, 0)).skip(index as usize).collect())).await;
                runtime.sleep(Duration::from_millis(700)).await;
                put(&mut writer, index, "news").await;
                let (_, response) = reader.receive::<FetchRequest>(12).await.unwrap();
                let waited = runtime.now().since(start);
                assert!(waited >= Duration::from_millis(700) && waited < Duration::from_secs(2), "{waited:?}");
                let news: Vec<_> = told(&response).into_iter().filter(|(.., values)| !values.is_empty()).collect();
                assert_eq!(news, [(index, 0, vec!["news".to_owned()])], "seed {seed}");
            }
        });
    }
}

#[test]
fn an_empty_wait_ends_at_its_time() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        let start = node.runtime().now();
        let response = client.ask(12, &fetch(5000, (0..3).map(|p| wanted(p, 0)).collect())).await;
        let waited = node.runtime().now().since(start);
        assert!(waited >= Duration::from_secs(5) && waited < Duration::from_millis(5100), "{waited:?}");
        assert_eq!(told(&response).len(), 3);
        // What is wrong with a log is told at once.
        let start = node.runtime().now();
        let response = client.ask(12, &fetch(5000, vec![wanted(0, 0), wanted(1, 77)])).await;
        assert!(node.runtime().now().since(start) < Duration::from_secs(1));
        let errors: Vec<i16> = told(&response).iter().map(|(_, error, _)| *error).collect();
        assert_eq!(errors, [0, ErrorCode::OffsetOutOfRange.code()]);
    });
}

#[test]
fn min_bytes_gathers_several_commits() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let (mut reader, mut writer) = (node.connect().await, node.connect().await);
        let runtime = node.runtime();
        let request = fetch(60_000, (0..3).map(|p| wanted(p, 0)).collect()).with_min_bytes(600);
        reader.send(12, &request).await;
        let clock = runtime.clone();
        let writing = runtime.spawn(TaskGroup::Requests, "writer", async move {
            for i in 0..8 {
                clock.sleep(Duration::from_millis(100)).await;
                put(&mut writer, i % 3, &"v".repeat(40)).await;
            }
        });
        let (_, response) = reader.receive::<FetchRequest>(12).await.unwrap();
        let bytes: usize =
            response.responses[0].partitions.iter().map(|p| p.records.as_ref().map_or(0, |r| r.len())).sum();
        assert!((600..800).contains(&bytes), "{bytes}");
        writing.await;
    });
}

#[test]
fn budgets_hold_across_shards_but_for_the_first_batch() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let mut client = node.connect().await;
        for _ in 0..3 {
            for p in 0..3 {
                put(&mut client, p, &"v".repeat(1000)).await;
            }
        }
        let sizes = |response: &FetchResponse| -> Vec<usize> {
            told(response).iter().map(|(.., values)| values.len()).collect()
        };
        let all = || (0..3).map(|p| wanted(p, 0)).collect::<Vec<_>>();
        assert_eq!(sizes(&client.ask(12, &fetch(0, all())).await), [3, 3, 3]);
        assert_eq!(sizes(&client.ask(12, &fetch(0, all()).with_max_bytes(1)).await), [1, 0, 0]);
        assert_eq!(sizes(&client.ask(12, &fetch(0, all()).with_max_bytes(3600)).await), [3, 0, 0]);
        let small = all().into_iter().map(|p| p.with_partition_max_bytes(1200)).collect();
        assert_eq!(sizes(&client.ask(12, &fetch(0, small)).await), [1, 1, 1]);
        let tiny = all().into_iter().map(|p| p.with_partition_max_bytes(10)).collect();
        assert_eq!(sizes(&client.ask(12, &fetch(0, tiny)).await), [1, 0, 0]);
    });
}

#[test]
fn names_and_epochs_that_are_wrong() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 3, &[]).await;
        let id = node.image().topic("t").unwrap().id.0;
        let mut client = node.connect().await;
        let error = |response: &FetchResponse| response.responses[0].partitions[0].error_code;
        let unknown = client.ask(12, &fetch(0, vec![wanted(9, 0)])).await;
        assert_eq!(error(&unknown), ErrorCode::UnknownTopicOrPartition.code());
        let future = client.ask(12, &fetch(0, vec![wanted(2, 0).with_current_leader_epoch(50)])).await;
        assert_eq!(error(&future), ErrorCode::UnknownLeaderEpoch.code());
        let by_id = |id| {
            let topic = FetchTopic::default().with_topic_id(id).with_partitions(vec![wanted(0, 0)]);
            fetch(0, Vec::new()).with_topics(vec![topic])
        };
        assert_eq!(error(&client.ask(13, &by_id(id)).await), 0);
        let unknown = client.ask(17, &by_id(Uuid::from_u128(5))).await;
        assert_eq!((error(&unknown), unknown.error_code), (ErrorCode::UnknownTopicId.code(), 0));
        // Another broker: replication is not served.
        let follower = client.ask(12, &fetch(0, vec![wanted(0, 0)]).with_replica_id(2.into())).await;
        assert_eq!(error(&follower), ErrorCode::NotLeaderOrFollower.code());
    });
}

#[test]
fn a_session_tells_news_from_all_shards() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        node.create("t", 4, &[]).await;
        let (mut reader, mut writer) = (node.connect().await, node.connect().await);
        let partitions = (0..3).map(|p| wanted(p, 0)).collect();
        let response = reader.ask(12, &fetch(0, partitions).with_session_epoch(0)).await;
        let session = response.session_id;
        assert!(session > 0);
        assert_eq!(told(&response).len(), 3);
        let next = |epoch, wait| fetch(wait, Vec::new()).with_session_id(session).with_session_epoch(epoch);
        let response = reader.ask(12, &next(1, 0)).await;
        assert_eq!((response.session_id, told(&response)), (session, vec![]));
        reader.send(12, &next(2, 60_000)).await;
        put(&mut writer, 1, "a").await;
        let (_, response) = reader.receive::<FetchRequest>(12).await.unwrap();
        assert_eq!(told(&response), [(1, 0, vec!["a".to_owned()])]);
        // One moves on, one comes, one goes.
        put(&mut writer, 0, "b").await;
        put(&mut writer, 3, "c").await;
        let forgotten = ForgottenTopic::default().with_topic(text("t").into()).with_partitions(vec![2]);
        let request = fetch(0, vec![wanted(1, 1), wanted(3, 0)]).with_session_id(session).with_session_epoch(3);
        let response = reader.ask(12, &request.with_forgotten_topics_data(vec![forgotten])).await;
        assert_eq!(told(&response), [(0, 0, vec!["b".to_owned()]), (3, 0, vec!["c".to_owned()])]);
        let response = reader.ask(12, &next(3, 0)).await;
        assert_eq!(response.error_code, ErrorCode::InvalidFetchSessionEpoch.code());
        let response = reader.ask(12, &next(7, 0).with_session_id(session ^ 1)).await;
        assert_eq!(response.error_code, ErrorCode::FetchSessionIdNotFound.code());
    });
}
