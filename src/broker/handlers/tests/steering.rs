//! Clients that are moved between the shards of a node, and notice nothing.

use super::fetching::{fetch, put, told, wanted};
use super::harness::*;
use super::producing::{produce, topic_data};
use coreline_io::Clock as _;
use futures_util::future::{Either, select};
use kafka_protocol::messages::{FetchRequest, ProduceRequest};
use std::pin::pin;
use std::time::Duration;
use uuid::Uuid;

/// A partition of "t" on each shard.
fn by_shard(node: &Node) -> Vec<i32> {
    let image = node.image();
    let partitions = &image.topic("t").unwrap().partitions;
    let on = |shard| partitions.iter().position(|p| usize::from(p.shard) == shard).expect("a partition on each shard");
    (0..SHARDS).map(|shard| on(shard) as i32).collect()
}

/// Runs a test of less than ten virtual minutes.
fn run(node: &Node, test: impl Future<Output = ()>) {
    node.world.block_on(async {
        let (test, late) = (pin!(test), pin!(node.runtime().sleep(Duration::from_secs(600))));
        assert!(matches!(select(test, late).await, Either::Left(_)), "an answer does not come");
    });
}

/// Everything in a partition.
async fn read_all(node: &Node, index: i32) -> Vec<String> {
    let mut reader = node.connect().await;
    let (mut found, mut offset) = (Vec::new(), 0);
    loop {
        let response = reader.ask(12, &fetch(0, vec![wanted(index, offset)])).await;
        let values: Vec<String> = told(&response).remove(0).2;
        if values.is_empty() {
            return found;
        }
        offset += values.len() as i64;
        found.extend(values);
    }
}

#[test]
fn a_producer_that_pipelines_is_moved_and_its_records_are_in_order() {
    for seed in 0..10 {
        let node = Node::start(seed, &[]);
        run(&node, async {
            node.create("t", 6, &[]).await;
            let partitions = by_shard(&node);
            let mut client = node.connect().await;
            let mut sent: Vec<Vec<String>> = vec![Vec::new(); SHARDS];
            // Of each shard in turn for a while, in windows of ten requests under way.
            for round in 0..60 {
                let shard = round / 20;
                let mut ids = Vec::new();
                for i in 0..10 {
                    let value = format!("{round}-{i}");
                    let parts = vec![(partitions[shard], Some(batch(&[&value])))];
                    ids.push(client.send(9, &produce(-1, vec![topic_data(9, "t", Uuid::nil(), parts)])).await);
                    sent[shard].push(value);
                }
                for id in ids {
                    let (answered, response) = client.receive::<ProduceRequest>(9).await.expect("an answer");
                    let partition = &response.responses[0].partition_responses[0];
                    assert_eq!((answered, partition.error_code), (id, 0), "seed {seed}");
                }
            }
            for (shard, sent) in sent.iter().enumerate() {
                assert_eq!(read_all(&node, partitions[shard]).await, *sent, "seed {seed}");
            }
            let steered = node.steered();
            assert!(steered.left >= 1 && steered.came == steered.left, "seed {seed}: {steered:?}");
        });
    }
}

#[test]
fn a_consumer_that_waits_is_moved_with_its_fetch_session() {
    for seed in 0..10 {
        let node = Node::start(seed, &[]);
        run(&node, async {
            node.create("t", 6, &[]).await;
            let (mut reader, mut writer) = (node.connect().await, node.connect().await);
            for index in by_shard(&node) {
                let response = reader.ask(12, &fetch(0, vec![wanted(index, 0)]).with_session_epoch(0)).await;
                let session = response.session_id;
                assert!(session > 0);
                for epoch in 1..40 {
                    // Each fetch waits for its record.
                    let request = fetch(60_000, Vec::new()).with_session_id(session).with_session_epoch(epoch);
                    let partition = vec![wanted(index, i64::from(epoch) - 1)];
                    let topics = fetch(0, partition).topics;
                    reader.send(12, &request.with_topics(topics)).await;
                    let value = format!("{index}-{epoch}");
                    put(&mut writer, index, &value).await;
                    let (_, response) = reader.receive::<FetchRequest>(12).await.expect("an answer");
                    assert_eq!((response.error_code, response.session_id), (0, session), "seed {seed}");
                    assert_eq!(told(&response), [(index, 0, vec![value])], "seed {seed}");
                }
            }
            assert!(node.steered().came >= 2, "seed {seed}: {:?}", node.steered());
        });
    }
}

#[test]
fn a_client_of_all_cores_stays() {
    let node = Node::start(1, &[]);
    run(&node, async {
        node.create("t", 6, &[]).await;
        let mut client = node.connect().await;
        for round in 0..50 {
            for index in by_shard(&node) {
                put(&mut client, index, &format!("{round}")).await;
            }
            let all = by_shard(&node).into_iter().map(|index| wanted(index, round)).collect();
            assert_eq!(told(&client.ask(12, &fetch(0, all)).await).len(), SHARDS);
        }
        let steered = node.steered();
        assert_eq!((steered.left, steered.came), (0, 0));
        assert_eq!((steered.local, steered.crossed), (50, 150), "a third of the single ones is at home");
    });
}
