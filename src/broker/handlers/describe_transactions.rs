//! DescribeTransactions: each transactional id is asked of its coordinator, all at a time (KIP-664).

use super::transaction_client::{by_topic, not_empty, of_kind};
use crate::broker::transactions::Transactions;
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use crate::transactions::Request;
use crate::transactions::queries::Described;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::describe_transactions_response::{TopicData, TransactionState};
use kafka_protocol::messages::{DescribeTransactionsRequest, DescribeTransactionsResponse};
use std::rc::Rc;
use std::sync::Arc;

pub(super) async fn handle<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    request: DescribeTransactionsRequest,
) -> DescribeTransactionsResponse {
    let all = request.transactional_ids.into_iter().map(async |id| {
        let state = match describe(transactions, &id).await {
            Ok(described) => shown(described),
            Err(code) => TransactionState::default().with_error_code(code.code()),
        };
        state.with_transactional_id(id)
    });
    DescribeTransactionsResponse::default().with_transaction_states(join_all(all).await)
}

async fn describe<R: Runtime>(transactions: &Rc<Transactions<R>>, id: &str) -> Result<Described, ErrorCode> {
    not_empty(id)?;
    of_kind!(transactions.ask(id, &Client::default(), Request::Describe(Arc::from(id))).await, Describe)?
}

fn shown(txn: Described) -> TransactionState {
    let topics = by_topic(&txn.partitions).into_iter();
    let topics = topics.map(|(topic, partitions)| TopicData::default().with_topic(topic).with_partitions(partitions));
    TransactionState::default()
        .with_transaction_state(text(txn.state.name()))
        .with_transaction_timeout_ms(txn.timeout_ms)
        .with_transaction_start_time_ms(txn.start_ms)
        .with_producer_id(txn.producer.id.0.into())
        .with_producer_epoch(txn.producer.epoch.0)
        .with_topics(topics.collect())
}
