//! AddPartitionsToTxn: one transaction of a client, or several of another broker, which may only want to verify (KIP-890).

use super::transaction_client::{fenced_since, not_empty, of_kind, partitions_of};
use crate::broker::Shard;
use crate::broker::transactions::Transactions;
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::{Producer, Request};
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::add_partitions_to_txn_request::{AddPartitionsToTxnTopic, AddPartitionsToTxnTransaction};
use kafka_protocol::messages::add_partitions_to_txn_response::{
    AddPartitionsToTxnPartitionResult, AddPartitionsToTxnResult, AddPartitionsToTxnTopicResult,
};
use kafka_protocol::messages::{AddPartitionsToTxnRequest, AddPartitionsToTxnResponse};
use std::rc::Rc;
use std::sync::Arc;

/// The first version whose clients know `PRODUCER_FENCED`.
const PRODUCER_FENCED: i16 = 2;
/// The first version with several transactions.
const MANY: i16 = 4;
/// The first version whose clients know `TRANSACTION_ABORTABLE`.
const ABORTABLE: i16 = 5;

pub(super) async fn handle<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: AddPartitionsToTxnRequest,
) -> AddPartitionsToTxnResponse {
    let response = AddPartitionsToTxnResponse::default();
    if version < MANY {
        let one = AddPartitionsToTxnTransaction::default()
            .with_transactional_id(request.v3_and_below_transactional_id)
            .with_producer_id(request.v3_and_below_producer_id)
            .with_producer_epoch(request.v3_and_below_producer_epoch)
            .with_topics(request.v3_and_below_topics);
        let codes = add(transactions, version, &one).await;
        return response.with_results_by_topic_v3_and_below(results(&one.topics, &codes));
    }
    let all = request.transactions.into_iter().map(async |one| {
        let codes = add(transactions, version, &one).await;
        let topics = results(&one.topics, &codes);
        AddPartitionsToTxnResult::default().with_transactional_id(one.transactional_id).with_topic_results(topics)
    });
    response.with_results_by_transaction(join_all(all).await)
}

/// A code for each partition of a transaction.
async fn add<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    version: i16,
    one: &AddPartitionsToTxnTransaction,
) -> Vec<ErrorCode> {
    let partitions = partitions_of(&one.topics);
    let count = partitions.len();
    if let Err(code) = not_empty(&one.transactional_id) {
        return vec![code; count];
    }
    // All or none: where one is not there, the others are left alone.
    let known: Vec<bool> =
        partitions.iter().map(|(topic, index)| is_there(transactions.shard(), topic, *index)).collect();
    if known.contains(&false) {
        let code = |known| if known { ErrorCode::OperationNotAttempted } else { ErrorCode::UnknownTopicOrPartition };
        return known.into_iter().map(code).collect();
    }
    let id: Arc<str> = Arc::from(&**one.transactional_id);
    let producer = Producer { id: ProducerId(one.producer_id.0), epoch: ProducerEpoch(one.producer_epoch) };
    let (verify_only, v2) = (one.verify_only, version >= MANY);
    let ask = Request::AddPartitions { id: Arc::clone(&id), producer, partitions, verify_only, v2 };
    let told = of_kind!(transactions.ask(&id, &Client::default(), ask).await, AddPartitions).flatten();
    let codes = told.unwrap_or_else(|code| vec![code; count]);
    let by_version = |code| match fenced_since(PRODUCER_FENCED, version, code) {
        ErrorCode::TransactionAbortable if version < ABORTABLE => ErrorCode::InvalidTxnState,
        code => code,
    };
    codes.into_iter().map(by_version).collect()
}

fn is_there<R: Runtime>(shard: &Shard<R>, topic: &str, index: i32) -> bool {
    shard.image().topic(topic).is_some_and(|topic| topic.partition(index).is_some())
}

fn results(topics: &[AddPartitionsToTxnTopic], codes: &[ErrorCode]) -> Vec<AddPartitionsToTxnTopicResult> {
    let mut codes = codes.iter();
    let topic = |topic: &AddPartitionsToTxnTopic| {
        let partitions = topic.partitions.iter().map(|index| {
            let code = codes.next().expect("a code for each partition");
            let result = AddPartitionsToTxnPartitionResult::default().with_partition_index(*index);
            result.with_partition_error_code(code.code())
        });
        let partitions = partitions.collect();
        AddPartitionsToTxnTopicResult::default().with_name(topic.name.clone()).with_results_by_partition(partitions)
    };
    topics.iter().map(topic).collect()
}
