//! Transactions through connections, over the shards of a node: with clients that add partitions themselves, and with those
//! whose epoch grows with each transaction.

use super::harness::*;
use super::producing::{produce, topic_data};
use crate::broker::transactions::state_topic::STATE_TOPIC;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::BatchBuilder;
use crate::protocol::codec::text;
use bytes::Bytes;
use coreline_io::Clock;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, DescribeTransactionsRequest, EndTxnRequest, FetchRequest,
    FindCoordinatorRequest, GroupId, InitProducerIdRequest, ListGroupsRequest, ListTransactionsRequest,
    OffsetFetchRequest, TransactionalId, TxnOffsetCommitRequest, WriteTxnMarkersRequest,
};
use std::time::Duration;
use uuid::Uuid;

/// A version of every API of a producer, and whether its epoch grows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Adds what it writes to itself.
    Old,
    /// KIP-890.
    New,
}

struct Producer {
    client: Client,
    node_kind: Kind,
    id: i64,
    epoch: i16,
    sequences: [i32; 6],
}

fn txn_id(id: &str) -> TransactionalId {
    TransactionalId(text(id))
}

/// Topics and coordinators are there.
async fn ready(node: &Node) -> Client {
    node.create("t", 6, &[]).await;
    let mut client = node.connect().await;
    for key_type in [0, 1] {
        let request = FindCoordinatorRequest::default().with_key(text("x")).with_key_type(key_type);
        assert_eq!(client.ask(2, &request).await.error_code, 0);
    }
    let loading = ErrorCode::CoordinatorLoadInProgress.code();
    while client.ask(0, &ListGroupsRequest::default()).await.error_code == loading
        || client.ask(0, &ListTransactionsRequest::default()).await.error_code == loading
    {
        node.runtime().sleep(Duration::from_millis(1)).await;
    }
    client
}

impl Producer {
    async fn init(node: &Node, kind: Kind, id: &str) -> Self {
        let mut client = node.connect().await;
        let request = InitProducerIdRequest::default()
            .with_transactional_id(Some(txn_id(id)))
            .with_transaction_timeout_ms(60_000);
        let response = client.ask(4, &request).await;
        assert_eq!(response.error_code, 0);
        let (id, epoch) = (response.producer_id.0, response.producer_epoch);
        Self { client, node_kind: kind, id, epoch, sequences: [0; 6] }
    }

    fn batch(&self, sequence: i32, value: &str) -> Bytes {
        let producer = (ProducerId(self.id), ProducerEpoch(self.epoch));
        let mut builder = BatchBuilder::default().producer(producer.0, producer.1, sequence).attributes(0x10);
        builder.push(1, None, Some(value.as_bytes()));
        Bytes::from(builder.build(Offset(0), LeaderEpoch(0)))
    }

    /// Produces a record to each of the first partitions of `wide`, in one request.
    async fn produce_wide(&mut self, id: &str, partitions: i32, sequence: i32) {
        let version = if self.node_kind == Kind::New { 12 } else { 9 };
        let data = (0..partitions).map(|index| (index, Some(self.batch(sequence, "v")))).collect();
        let topics = vec![topic_data(version, "wide", Uuid::nil(), data)];
        let request = produce(-1, topics).with_transactional_id(Some(txn_id(id)));
        let response = self.client.ask(version, &request).await;
        let mut codes = response.responses[0].partition_responses.iter().map(|p| p.error_code);
        assert!(codes.all(|code| code == 0));
    }

    /// Produces a record to a partition of `t`; the code.
    async fn produce(&mut self, id: &str, index: i32, value: &str) -> i16 {
        let batch = self.batch(self.sequences[index as usize], value);
        let version = if self.node_kind == Kind::New { 12 } else { 9 };
        let topics = vec![topic_data(version, "t", Uuid::nil(), vec![(index, Some(batch))])];
        let request = produce(-1, topics).with_transactional_id(Some(txn_id(id)));
        let response = self.client.ask(version, &request).await;
        let code = response.responses[0].partition_responses[0].error_code;
        self.sequences[index as usize] += i32::from(code == 0);
        code
    }

    async fn add(&mut self, id: &str, indexes: Vec<i32>) -> Vec<i16> {
        self.add_of("t", id, indexes).await
    }

    async fn add_of(&mut self, topic: &str, id: &str, indexes: Vec<i32>) -> Vec<i16> {
        let topic = AddPartitionsToTxnTopic::default().with_name(text(topic).into()).with_partitions(indexes);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(txn_id(id))
            .with_v3_and_below_producer_id(self.id.into())
            .with_v3_and_below_producer_epoch(self.epoch)
            .with_v3_and_below_topics(vec![topic]);
        let response = self.client.ask(3, &request).await;
        let results = response.results_by_topic_v3_and_below.iter().flat_map(|t| &t.results_by_partition);
        results.map(|p| p.partition_error_code).collect()
    }

    async fn commit_offset(&mut self, id: &str, group: &str, offset: i64) -> i16 {
        let group = GroupId(text(group));
        if self.node_kind == Kind::Old {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(txn_id(id))
                .with_producer_id(self.id.into())
                .with_producer_epoch(self.epoch)
                .with_group_id(group.clone());
            assert_eq!(self.client.ask(3, &request).await.error_code, 0);
        }
        let partition = TxnOffsetCommitRequestPartition::default().with_committed_offset(offset);
        let topic = TxnOffsetCommitRequestTopic::default().with_name(text("t").into()).with_partitions(vec![partition]);
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(txn_id(id))
            .with_group_id(group)
            .with_producer_id(self.id.into())
            .with_producer_epoch(self.epoch)
            .with_generation_id(-1)
            .with_topics(vec![topic]);
        let version = if self.node_kind == Kind::New { 5 } else { 3 };
        self.client.ask(version, &request).await.topics[0].partitions[0].error_code
    }

    async fn end(&mut self, id: &str, commit: bool) -> i16 {
        let request = EndTxnRequest::default()
            .with_transactional_id(txn_id(id))
            .with_producer_id(self.id.into())
            .with_producer_epoch(self.epoch)
            .with_committed(commit);
        if self.node_kind == Kind::Old {
            return self.client.ask(3, &request).await.error_code;
        }
        let response = self.client.ask(5, &request).await;
        if response.error_code == 0 {
            assert_eq!(response.producer_epoch, self.epoch + 1);
            (self.id, self.epoch) = (response.producer_id.0, response.producer_epoch);
            self.sequences = [0; 6];
        }
        response.error_code
    }
}

/// What readers of committed records see of a partition, aborted records included, and from where on nobody does.
async fn read(client: &mut Client, index: i32) -> (i64, i64, usize) {
    let partition = FetchPartition::default().with_partition(index).with_partition_max_bytes(1 << 20);
    let topic = FetchTopic::default().with_topic(text("t").into()).with_partitions(vec![partition]);
    let request = FetchRequest::default()
        .with_max_bytes(1 << 20)
        .with_isolation_level(1)
        .with_session_epoch(-1)
        .with_topics(vec![topic]);
    let response = client.ask(11, &request).await;
    let partition = &response.responses[0].partitions[0];
    let aborted = partition.aborted_transactions.as_ref().map_or(0, Vec::len);
    (partition.last_stable_offset, partition.high_watermark, aborted)
}

/// The offset of partition 0 of `t`, and the code, as one who wants stable offsets is told.
async fn stable_offset(client: &mut Client, group: &str) -> (i64, i16) {
    let topic = OffsetFetchRequestTopics::default().with_name(text("t").into()).with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default().with_group_id(GroupId(text(group))).with_topics(Some(vec![topic]));
    let request =
        OffsetFetchRequest::default().with_groups(vec![group.with_member_epoch(-1)]).with_require_stable(true);
    let response = client.ask(9, &request).await;
    let partition = &response.groups[0].topics[0].partitions[0];
    (partition.committed_offset, partition.error_code)
}

/// Waits for the end of a transaction that was decided.
async fn complete(node: &Node, client: &mut Client, id: &str, state: &str) {
    loop {
        let request = DescribeTransactionsRequest::default().with_transactional_ids(vec![txn_id(id)]);
        let described = client.ask(0, &request).await.transaction_states.remove(0);
        assert_eq!(described.error_code, 0);
        if *described.transaction_state == *state {
            assert!(described.topics.is_empty());
            return;
        }
        assert!(described.transaction_state.starts_with("Prepare"), "{}", described.transaction_state);
        node.runtime().sleep(Duration::from_millis(1)).await;
    }
}

#[test]
fn a_transaction_over_all_shards_with_offsets() {
    for kind in [Kind::Old, Kind::New] {
        let node = Node::start(1, &[]);
        node.world.block_on(async {
            let mut client = ready(&node).await;
            let mut me = Producer::init(&node, kind, "x").await;
            for (round, commit) in (0..).zip([true, false, true]) {
                if kind == Kind::Old {
                    assert_eq!(me.produce("x", 0, "early").await, ErrorCode::InvalidTxnState.code(), "not added");
                    assert_eq!(me.add("x", (0..6).collect()).await, [0; 6]);
                }
                for index in 0..6 {
                    assert_eq!(me.produce("x", index, "v").await, 0, "{kind:?} {round}: partition {index}");
                }
                assert_eq!(me.commit_offset("x", "g", 10 + round).await, 0);
                assert_eq!(read(&mut client, 3).await, (2 * round, 2 * round + 1, round.min(2) as usize / 2));
                assert_eq!(stable_offset(&mut client, "g").await, (-1, ErrorCode::UnstableOffsetCommit.code()));
                assert_eq!(me.end("x", commit).await, 0);
                complete(&node, &mut client, "x", if commit { "CompleteCommit" } else { "CompleteAbort" }).await;
                let aborted = usize::from(round > 0);
                for index in 0..6 {
                    assert_eq!(read(&mut client, index).await, (2 * round + 2, 2 * round + 2, aborted));
                }
                let visible = if commit { 10 + round } else { 10 };
                assert_eq!(stable_offset(&mut client, "g").await, (visible, 0));
            }
        });
    }
}

#[test]
fn who_was_fenced_gets_nothing_in() {
    for kind in [Kind::Old, Kind::New] {
        let node = Node::start(1, &[]);
        node.world.block_on(async {
            let mut client = ready(&node).await;
            let mut old = Producer::init(&node, kind, "x").await;
            if kind == Kind::Old {
                old.add("x", vec![0]).await;
            }
            assert_eq!(old.produce("x", 0, "lost").await, 0);
            // Answered once the transaction that went on is aborted.
            let mut new = Producer::init(&node, kind, "x").await;
            assert_eq!(read(&mut client, 0).await, (2, 2, 1));
            let fenced = ErrorCode::InvalidProducerEpoch.code();
            assert_eq!(old.produce("x", 0, "late").await, fenced);
            assert_eq!(old.produce("x", 1, "late").await, fenced);
            assert_eq!(old.end("x", true).await, ErrorCode::ProducerFenced.code());
            if kind == Kind::Old {
                new.add("x", vec![0]).await;
            }
            assert_eq!(new.produce("x", 0, "kept").await, 0);
            assert_eq!(new.end("x", true).await, 0);
            complete(&node, &mut client, "x", "CompleteCommit").await;
        });
    }
}

#[test]
fn unknown_partitions_take_the_others_with_them() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        let mut client = ready(&node).await;
        let mut me = Producer::init(&node, Kind::Old, "x").await;
        let (unknown, other) = (ErrorCode::UnknownTopicOrPartition.code(), ErrorCode::OperationNotAttempted.code());
        assert_eq!(me.add("x", vec![0, 9, 1]).await, [other, unknown, other]);
        let listed = client.ask(1, &ListTransactionsRequest::default().with_duration_filter(-1)).await;
        assert_eq!(listed.transaction_states.len(), 1);
        assert_eq!(*listed.transaction_states[0].transaction_state, *"Empty");
        let request = ListTransactionsRequest::default().with_state_filters(vec![text("Empty"), text("Gone")]);
        assert_eq!(client.ask(0, &request).await.unknown_state_filters, [text("Gone")]);
        let bad = ListTransactionsRequest::default().with_transactional_id_pattern(Some(text("(")));
        assert_eq!(client.ask(2, &bad).await.error_code, ErrorCode::InvalidRegularExpression.code());
        assert!(node.image().topic(STATE_TOPIC).is_some_and(|topic| topic.internal && topic.partitions.len() == 50));
    });
}

#[test]
fn a_transaction_that_hangs_is_ended_by_its_marker() {
    let node = Node::start(1, &[("transaction.partition.verification.enable", "false")]);
    node.world.block_on(async {
        let mut client = ready(&node).await;
        let mut me = Producer::init(&node, Kind::Old, "x").await;
        // It never says that partition 2 is to be in its transaction, and nobody asks.
        assert_eq!(me.add("x", vec![1]).await, [0]);
        assert_eq!((me.produce("x", 1, "v").await, me.produce("x", 2, "v").await), (0, 0));
        assert_eq!(me.end("x", true).await, 0);
        complete(&node, &mut client, "x", "CompleteCommit").await;
        assert_eq!((read(&mut client, 1).await, read(&mut client, 2).await), ((2, 2, 0), (0, 1, 0)));
        let topic = WritableTxnMarkerTopic::default().with_name(text("t").into()).with_partition_indexes(vec![2]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(me.id.into())
            .with_producer_epoch(me.epoch)
            .with_topics(vec![topic]);
        let written = client.ask(1, &WriteTxnMarkersRequest::default().with_markers(vec![marker])).await;
        assert_eq!(written.markers[0].topics[0].partitions[0].error_code, 0);
        assert_eq!(read(&mut client, 2).await, (2, 2, 1));
    });
}

/// Group commits of each shard so far.
fn group_commits(node: &Node) -> Vec<u64> {
    node.handlers.borrow().iter().map(|handlers| handlers.shard().store.stats().groups).collect()
}

/// Group commits of each shard since then, the coordinator's shard first.
fn since(node: &Node, before: &[u64], coordinator: usize) -> (u64, Vec<u64>) {
    let mut more: Vec<u64> = group_commits(node).iter().zip(before).map(|(now, then)| now - then).collect();
    (more.remove(coordinator), more)
}

#[test]
fn a_transaction_over_a_hundred_partitions_is_one_group_commit_a_shard_and_phase() {
    for kind in [Kind::Old, Kind::New] {
        let node = Node::start(1, &[]);
        node.world.block_on(async {
            let mut client = ready(&node).await;
            node.create("wide", 100, &[]).await;
            let before = group_commits(&node);
            let mut me = Producer::init(&node, kind, "x").await;
            let coordinator =
                group_commits(&node).iter().zip(before).position(|(now, then)| *now > then).expect("written");
            for round in 0..2 {
                let before = group_commits(&node);
                if kind == Kind::Old {
                    assert_eq!(me.add_of("wide", "x", (0..100).collect()).await, [0; 100]);
                    assert_eq!(since(&node, &before, coordinator), (1, vec![0, 0]), "{kind:?} {round}: adding");
                }
                let before = group_commits(&node);
                me.produce_wide("x", 100, if kind == Kind::New { 0 } else { round }).await;
                let adds = u64::from(kind == Kind::New);
                assert_eq!(since(&node, &before, coordinator), (1 + adds, vec![1, 1]), "{kind:?} {round}: records");
                let before = group_commits(&node);
                assert_eq!(me.end("x", true).await, 0);
                complete(&node, &mut client, "x", "CompleteCommit").await;
                assert_eq!(
                    since(&node, &before, coordinator),
                    (3, vec![1, 1]),
                    "{kind:?} {round}: decided, markers, done"
                );
            }
        });
    }
}

#[test]
fn a_transaction_of_the_coordinators_shard_is_two_group_commits() {
    let node = Node::start(1, &[]);
    node.world.block_on(async {
        let mut client = ready(&node).await;
        let before = group_commits(&node);
        let mut me = Producer::init(&node, Kind::New, "x").await;
        let coordinator = group_commits(&node).iter().zip(before).position(|(now, then)| *now > then).expect("written");
        let owner = node.handlers.borrow()[coordinator].shard().id;
        let topic = node.image().topic("t").cloned().expect("it was made");
        let (mut here, mut there) = (0, 0);
        for round in 0..2 {
            for (index, partition) in (0..).zip(&topic.partitions) {
                let before = group_commits(&node);
                assert_eq!(me.produce("x", index, "v").await, 0);
                let produced = since(&node, &before, coordinator);
                let before = group_commits(&node);
                assert_eq!(me.end("x", round == 0).await, 0);
                complete(&node, &mut client, "x", if round == 0 { "CompleteCommit" } else { "CompleteAbort" }).await;
                let ended = since(&node, &before, coordinator);
                if partition.shard == owner.0 {
                    here += 1;
                    assert_eq!((produced, ended), ((1, vec![0, 0]), (1, vec![0, 0])), "{round}: begun with its record");
                } else {
                    there += 1;
                    let elsewhere = [produced.1.iter().sum::<u64>(), ended.1.iter().sum()];
                    assert_eq!((produced.0, ended.0, elsewhere), (1, 2, [1, 1]), "{round}: one after the other");
                }
                let aborted = if round == 0 { 0 } else { 1 };
                assert_eq!(read(&mut client, index).await, (2 * (round + 1), 2 * (round + 1), aborted));
            }
        }
        assert!(here > 0 && there > 0, "{here} and {there}");
    });
}
