//! What every coordinator is: a state machine over one partition of an internal topic, which takes the time and an
//! event, and gives [`Effects`]. Its state runs ahead of the log; the driver (`broker/coordinator/`) lets nothing out
//! before every record that was made before it is committed, so that nothing is answered from state that a crash could
//! take back. If the log refuses the records, the driver throws the machine away and loads it again.

use crate::ids::{ProducerEpoch, ProducerId};
use crate::log::verification::VerificationGuard;
use bytes::Bytes;
use std::sync::Arc;

/// The two clocks. Sessions and timeouts follow the first, which never jumps; what is written down follows the second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds of a clock that only goes forward.
    pub monotonic_ms: i64,
    /// Milliseconds since the epoch.
    pub wall_ms: i64,
}

/// The driver's name for a request: it comes back with the answer, once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Client {
    /// `client.id` of the request's header.
    pub id: Arc<str>,
    /// The address, as Kafka shows it: `/127.0.0.1`.
    pub host: Arc<str>,
    /// The version of the request.
    pub api_version: i16,
}

/// A record for the coordinator's partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Type and key, as Kafka writes them.
    pub key: Bytes,
    /// None is a tombstone.
    pub value: Option<Bytes>,
}

/// Whose transaction records belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InTransaction {
    /// The producer.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// What the log gave when it asked to verify the transaction; none when the transaction is open in the partition.
    pub guard: Option<VerificationGuard>,
}

/// What a step gives. Records of one step go into one record batch: all or none survive a crash. Answers and orders wait
/// until every record before them is committed, those of their own step included.
#[derive(Debug)]
pub struct Effects<A, O = std::convert::Infallible> {
    /// In order.
    pub records: Vec<Record>,
    /// The transaction that all records of the step are of, if they are of one.
    pub transaction: Option<InTransaction>,
    /// In order.
    pub answers: Vec<(Token, A)>,
    /// What the driver is to do, in order.
    pub orders: Vec<O>,
}

impl<A, O> Default for Effects<A, O> {
    fn default() -> Self {
        Self { records: Vec::new(), transaction: None, answers: Vec::new(), orders: Vec::new() }
    }
}
