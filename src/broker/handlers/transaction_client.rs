//! What the handlers of transactions have in common.

use crate::error_code::ErrorCode;
use crate::transactions::{Response, TopicPartition};
use kafka_protocol::messages::TopicName;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use std::sync::Arc;

/// A transactional id that must be there.
pub(super) fn not_empty(id: &str) -> Result<(), ErrorCode> {
    if id.is_empty() { Err(ErrorCode::InvalidRequest) } else { Ok(()) }
}

/// The code for a client's version: those before `first` know `PRODUCER_FENCED` by its older name.
pub(super) fn fenced_since(first: i16, version: i16, code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::ProducerFenced if version < first => ErrorCode::InvalidProducerEpoch,
        code => code,
    }
}

/// Every partition that topics of a request name.
pub(super) fn partitions_of(topics: &[AddPartitionsToTxnTopic]) -> Vec<TopicPartition> {
    let all = topics.iter().flat_map(|topic| {
        let name: Arc<str> = Arc::from(&**topic.name);
        topic.partitions.iter().map(move |index| (Arc::clone(&name), *index))
    });
    all.collect()
}

/// Partitions by topic, in their order.
pub(super) fn by_topic(partitions: &[TopicPartition]) -> Vec<(TopicName, Vec<i32>)> {
    let mut topics: Vec<(TopicName, Vec<i32>)> = Vec::new();
    for (name, index) in partitions {
        match topics.last_mut() {
            Some((last, indexes)) if ***last == **name => indexes.push(*index),
            _ => topics.push((TopicName(crate::protocol::codec::text(name)), vec![*index])),
        }
    }
    topics
}

/// The answer of the request's own kind, or why there is none.
macro_rules! of_kind {
    ($told:expr, $kind:ident) => {
        match $told {
            Ok(crate::transactions::Response::$kind(answer)) => Ok(answer),
            Ok(other) => super::transaction_client::unexpected(stringify!($kind), &other),
            Err(code) => Err(code),
        }
    };
}
pub(super) use of_kind;

/// A coordinator that answers with another kind is wrong.
pub(super) fn unexpected(kind: &str, other: &Response) -> ! {
    unreachable!("{kind} is answered in kind, not with {other:?}")
}
