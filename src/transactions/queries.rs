//! What DescribeTransactions and ListTransactions show.

use super::transaction::{State, Transaction};
use super::{Producer, TopicPartition};
use crate::ids::ProducerId;
use regex::Regex;
use std::sync::Arc;

/// A transactional id as DescribeTransactions shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Transaction`")]
pub struct Described {
    pub state: State,
    pub producer: Producer,
    pub timeout_ms: i32,
    pub start_ms: i64,
    pub partitions: Vec<TopicPartition>,
}

impl From<&Transaction> for Described {
    fn from(txn: &Transaction) -> Self {
        let all = txn.partitions.iter();
        Self {
            state: txn.state,
            producer: txn.producer,
            timeout_ms: txn.timeout_ms,
            start_ms: txn.start_ms,
            partitions: all.flat_map(|(topic, all)| all.iter().map(|index| (Arc::clone(topic), *index))).collect(),
        }
    }
}

/// A transactional id as ListTransactions shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "as in `Transaction`")]
pub struct Listed {
    pub id: Arc<str>,
    pub producer_id: ProducerId,
    pub state: State,
}

/// What ListTransactions asks for.
#[derive(Clone, Debug, Default)]
pub struct Filters {
    /// Only these, unless there are none.
    pub states: Vec<State>,
    /// Only these, unless there are none.
    pub producer_ids: Vec<ProducerId>,
    /// Only what began longer ago than this; any age if it is negative.
    pub longer_than_ms: i64,
    /// Only ids that this matches.
    pub pattern: Option<Regex>,
}

impl Filters {
    pub(super) fn let_through(&self, id: &str, txn: &Transaction, now_ms: i64) -> bool {
        let age_ms = now_ms.saturating_sub(txn.start_ms);
        (self.states.is_empty() || self.states.contains(&txn.state))
            && (self.producer_ids.is_empty() || self.producer_ids.contains(&txn.producer.id))
            && (self.longer_than_ms < 0 || age_ms > self.longer_than_ms)
            && self.pattern.as_ref().is_none_or(|pattern| pattern.is_match(id))
    }
}
