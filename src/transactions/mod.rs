//! Transactions: who produces under which transactional id, and how each transaction ends, as a pure state machine.
//!
//! A [`Coordinator`] is everything that one partition of `__transaction_state` decides: a [coordinator](crate::coordinator)
//! that takes an [`Event`] and gives records, answers, and [orders](Order) to write markers into the partitions of a
//! transaction whose end is decided.
//!
//! ```text
//!               InitProducerId            add partitions              EndTxn                  markers written
//! (nothing) ───────────────────▶ Empty ──────────────────▶ Ongoing ───────────▶ Prepare{Commit,Abort} ────▶ Complete{Commit,Abort}
//!                                  ▲                          │ timeout, or InitProducerId: abort             │        │
//!                                  └── InitProducerId ────────┴───────────────────────────────────────────────┘        │
//!                                                             ▲─────────────────── add partitions ─────────────────────┘
//! ```
//!
//! From `Prepare…` on there is one way only: once its record is committed, the transaction ends so, whatever crashes. The
//! order to write markers goes out after that record, and again after every load that finds it.
//!
//! | file | concept |
//! | --- | --- |
//! | `records` | the topic's records |
//! | `transaction` | one transactional id, and how it may change |
//! | `coordinator` | events; requests; deadlines |
//! | `queries` | what DescribeTransactions and ListTransactions show |

pub mod coordinator;
pub mod queries;
pub mod records;
pub mod transaction;

#[cfg(test)]
mod tests;

pub use crate::coordinator::{Client, Now, Record, Token};
pub use coordinator::{Coordinator, TransactionsConfig};

use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use queries::{Described, Filters, Listed};
use std::sync::Arc;

/// A partition, as the topic of transactions names it.
pub type TopicPartition = (Arc<str>, i32);

/// A producer as it calls itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Its id.
    pub id: ProducerId,
    /// Its epoch.
    pub epoch: ProducerEpoch,
}

/// What is asked of a coordinator, always about an id that its partition holds.
#[derive(Clone, Debug)]
pub enum Request {
    /// InitProducerId.
    InitProducerId {
        /// The transactional id.
        id: Arc<str>,
        /// How long its transactions may last.
        timeout_ms: i32,
        /// Who it was before, if it says so (KIP-360).
        expected: Option<Producer>,
        /// An id that no producer has; none until [`Response::NeedsProducerId`] asks for it.
        fresh: Option<ProducerId>,
    },
    /// AddPartitionsToTxn and AddOffsetsToTxn, or what a Produce or TxnOffsetCommit adds or verifies.
    AddPartitions {
        /// The transactional id.
        id: Arc<str>,
        /// Who asks.
        producer: Producer,
        /// The partitions.
        partitions: Vec<TopicPartition>,
        /// Nothing is added.
        verify_only: bool,
        /// The client's epoch grows with every transaction (`transaction.version` 2, KIP-890).
        v2: bool,
    },
    /// EndTxn.
    EndTxn {
        /// The transactional id.
        id: Arc<str>,
        /// Who asks.
        producer: Producer,
        /// Commit, or abort.
        commit: bool,
        /// As in `AddPartitions`.
        v2: bool,
        /// As in `InitProducerId`.
        fresh: Option<ProducerId>,
    },
    /// One id of DescribeTransactions.
    Describe(Arc<str>),
    /// ListTransactions, of this partition.
    List(Box<Filters>),
}

/// The answer to the [`Request`] of the same name. Codes are those of the newest versions.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "as the requests")]
pub enum Response {
    InitProducerId(Result<Producer, ErrorCode>),
    /// One code for all, or, of a verification, one for each.
    AddPartitions(Result<Vec<ErrorCode>, ErrorCode>),
    /// Who the producer is in its next transaction.
    EndTxn(Result<Producer, ErrorCode>),
    /// To be asked again with a fresh id.
    NeedsProducerId,
    Describe(Result<Described, ErrorCode>),
    List(Vec<Listed>),
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A client asks.
    Request {
        /// The driver's name for it.
        token: Token,
        /// What.
        request: Request,
    },
    /// The client of a request is gone.
    Gone(Token),
    /// The markers that were ordered are committed in every partition that is still there.
    MarkersWritten {
        /// The transactional id.
        id: Arc<str>,
        /// As in the order.
        producer: Producer,
    },
    /// Nothing but the time: due at the coordinator's next deadline.
    Tick,
}

/// Write these markers, however often it takes; then say [`Event::MarkersWritten`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The transactional id.
    pub id: Arc<str>,
    /// What the markers name: with `transaction.version` 2 the epoch is the transaction's and one.
    pub producer: Producer,
    /// The epoch is that of what comes next, not of the transaction that ends (`transaction.version` 2).
    pub v2: bool,
    /// The epoch of the coordinator's partition.
    pub coordinator_epoch: i32,
    /// Commit, or abort.
    pub commit: bool,
    /// Where.
    pub partitions: Vec<TopicPartition>,
}

/// What a step gives.
pub type Effects = crate::coordinator::Effects<Response, Order>;
