//! Who may begin a transaction in a partition (KIP-890): the first batch is appended only when the coordinator has said that the
//! partition is part of the transaction, and nothing has ended it since it was asked.
//!
//! ```text
//! batch of an open transaction                  → append
//! otherwise  begin() → guard → ask coordinator → append with the guard, if it is still the one that waits
//!            a marker meanwhile clears the guard: what the coordinator said may be of the transaction before
//! ```
//! Where each transaction has an epoch of its own (transaction version 2) the marker of the one before may come while the
//! coordinator is asked, and waits for that itself: it leaves the guard alone. A zombie's guard is its own, as its epoch is.
//! A guard is kept while its transaction is open: the first batch may be taken back, by a full disk, and come again.

use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::log::batch::RecordBatchHeader;
use crate::log::producer_state::{ProducerError, ProducerStates};
use std::collections::BTreeMap;

/// Stands for one question to the coordinator; void once the transaction has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard(u64);

/// A producer of transactions, and the batch that it wants to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnProducer {
    /// Its id.
    pub producer_id: ProducerId,
    /// Its epoch.
    pub producer_epoch: ProducerEpoch,
    /// The batch's first sequence number, or -1.
    pub base_sequence: i32,
    /// Its epoch is raised with each transaction (transaction version 2).
    pub v2: bool,
}

#[derive(Clone, Copy, Debug)]
struct Waiting {
    guard: VerificationGuard,
    epoch: ProducerEpoch,
    /// A batch with a higher sequence must wait for the one with this: it will come again.
    lowest_sequence: i32,
    v2: bool,
    since_ms: i64,
}

/// The producers of a partition whose transaction the coordinator is asked about.
#[derive(Clone, Debug, Default)]
pub struct Verifications {
    last: u64,
    waiting: BTreeMap<ProducerId, Waiting>,
}

impl Verifications {
    /// Begins to verify, or goes on with it.
    pub fn begin(&mut self, producer: TxnProducer, now_ms: i64) -> VerificationGuard {
        let known = self.waiting.get_mut(&producer.producer_id);
        if let Some(waiting) = known.filter(|waiting| producer.producer_epoch <= waiting.epoch) {
            if producer.producer_epoch == waiting.epoch {
                waiting.lowest_sequence = waiting.lowest_sequence.min(producer.base_sequence);
                waiting.v2 = producer.v2;
            }
            return waiting.guard;
        }
        self.last += 1;
        let guard = VerificationGuard(self.last);
        let waiting = Waiting {
            guard,
            epoch: producer.producer_epoch,
            lowest_sequence: producer.base_sequence,
            v2: producer.v2,
            since_ms: now_ms,
        };
        self.waiting.insert(producer.producer_id, waiting);
        guard
    }

    /// Decides on a transactional batch.
    ///
    /// # Errors
    /// `INVALID_TXN_STATE`: no transaction is open, and none was verified. `OUT_OF_ORDER_SEQUENCE_NUMBER`: a batch before
    /// it failed to be verified and will come again.
    pub fn check(
        &self,
        batch: &RecordBatchHeader,
        guard: Option<VerificationGuard>,
        producers: &ProducerStates,
    ) -> Result<(), ProducerError> {
        if !batch.is_transactional() || batch.is_control() {
            return Ok(());
        }
        let id = batch.producer_id;
        // What another epoch waits for says nothing about this one.
        let waiting = self.waiting.get(&id).filter(|waiting| waiting.epoch == batch.producer_epoch);
        let verified = guard.is_some() && guard == waiting.map(|w| w.guard);
        if producers.is_ongoing(id, batch.producer_epoch) {
            return Ok(());
        }
        if !verified {
            let message = format!(
                "producer {id} epoch {}: its batch is not part of a transaction that goes on here",
                batch.producer_epoch
            );
            return Err(ProducerError { code: ErrorCode::InvalidTxnState, message });
        }
        let Some(waiting) = waiting.filter(|_| batch.base_sequence >= 0) else { return Ok(()) };
        let lowest = if waiting.v2 && producers.get(id).is_none() { 0 } else { waiting.lowest_sequence };
        if batch.base_sequence > lowest {
            let message =
                format!("producer {id}: expected sequence {lowest} at first, received {}", batch.base_sequence);
            return Err(ProducerError { code: ErrorCode::OutOfOrderSequenceNumber, message });
        }
        Ok(())
    }

    /// A marker is in the log: guards for the transaction that it ends are void. `v2`: its epoch is the next one's.
    pub fn ended(&mut self, id: ProducerId, epoch: ProducerEpoch, v2: bool) {
        let is_of = |waiting: &Waiting| waiting.epoch < epoch || waiting.epoch == epoch && !v2;
        if self.waiting.get(&id).is_some_and(is_of) {
            self.waiting.remove(&id);
        }
    }

    /// Forgets those of which nothing was heard for `expiration_ms`.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.waiting.retain(|_, w| now_ms.saturating_sub(w.since_ms) < expiration_ms);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset};
    use crate::log::batch::{BatchBuilder, parse_header};

    fn batch(epoch: i16, sequence: i32) -> RecordBatchHeader {
        let builder = BatchBuilder::default().attributes(0x10);
        let mut builder = builder.producer(ProducerId(7), ProducerEpoch(epoch), sequence);
        builder.push(1000, None, Some(b"v"));
        parse_header(&builder.build(Offset(0), LeaderEpoch(0))).expect("well formed")
    }

    fn producer(epoch: i16, sequence: i32, v2: bool) -> TxnProducer {
        TxnProducer { producer_id: ProducerId(7), producer_epoch: ProducerEpoch(epoch), base_sequence: sequence, v2 }
    }

    #[test]
    fn a_guard_is_good_until_the_transaction_ends() {
        let (mut verifications, mut states) = (Verifications::default(), ProducerStates::default());
        let code =
            |v: &Verifications, s: &ProducerStates, b: &RecordBatchHeader, g| v.check(b, g, s).map_err(|e| e.code);
        let refused = Err(ErrorCode::InvalidTxnState);
        assert_eq!(code(&verifications, &states, &batch(0, 0), None), refused);
        let guard = verifications.begin(producer(0, 0, false), 1);
        assert_eq!(verifications.begin(producer(0, 1, false), 1), guard, "one question at a time");
        assert_eq!(code(&verifications, &states, &batch(0, 0), None), refused);
        assert_eq!(code(&verifications, &states, &batch(0, 0), Some(guard)), Ok(()));
        verifications.ended(ProducerId(7), ProducerEpoch(0), false);
        assert_eq!(code(&verifications, &states, &batch(0, 0), Some(guard)), refused, "the transaction before");
        let second = verifications.begin(producer(0, 0, false), 1);
        assert_ne!(second, guard);
        assert_eq!(code(&verifications, &states, &batch(0, 0), Some(guard)), refused);
        states.update(&batch(0, 0));
        assert_eq!(code(&verifications, &states, &batch(0, 1), None), Ok(()), "it goes on");
        assert_eq!(code(&verifications, &states, &batch(1, 0), None), refused, "of another epoch");
        let taken_back = ProducerStates::default();
        assert_eq!(code(&verifications, &taken_back, &batch(0, 0), Some(second)), Ok(()), "it comes again");
    }

    #[test]
    fn a_batch_does_not_overtake_one_that_could_not_be_verified() {
        let (mut verifications, states) = (Verifications::default(), ProducerStates::default());
        verifications.begin(producer(0, 4, false), 1);
        let guard = verifications.begin(producer(0, 5, false), 1);
        let code = |v: &Verifications, b: &RecordBatchHeader, g| v.check(b, Some(g), &states).map_err(|e| e.code);
        assert_eq!(code(&verifications, &batch(0, 5), guard), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(code(&verifications, &batch(0, 4), guard), Ok(()));
        let guard = verifications.begin(producer(1, 9, false), 1);
        assert_eq!(code(&verifications, &batch(1, 9), guard), Ok(()), "a new epoch counts anew");
        let guard = verifications.begin(producer(2, 9, true), 1);
        assert_eq!(
            code(&verifications, &batch(2, 9), guard),
            Err(ErrorCode::OutOfOrderSequenceNumber),
            "version 2 begins at 0"
        );
        verifications.expire(1001, 1000);
        assert_eq!(code(&verifications, &batch(2, 0), guard), Err(ErrorCode::InvalidTxnState));
    }

    #[test]
    fn the_marker_of_the_transaction_before_leaves_the_next_ones_guard() {
        let (id, states) = (ProducerId(7), ProducerStates::default());
        let code = |v: &Verifications, b: &RecordBatchHeader, g| v.check(b, Some(g), &states).map_err(|e| e.code);
        let mut verifications = Verifications::default();
        let guard = verifications.begin(producer(5, 0, true), 1);
        verifications.ended(id, ProducerEpoch(5), true);
        assert_eq!(code(&verifications, &batch(5, 0), guard), Ok(()), "that of epoch 4 has ended");
        verifications.ended(id, ProducerEpoch(6), true);
        assert_eq!(code(&verifications, &batch(5, 0), guard), Err(ErrorCode::InvalidTxnState), "now its own has");
        let guard = verifications.begin(producer(6, 0, false), 1);
        verifications.ended(id, ProducerEpoch(6), false);
        assert_eq!(code(&verifications, &batch(6, 0), guard), Err(ErrorCode::InvalidTxnState), "epochs stay the same");
    }

    #[test]
    fn a_zombie_is_not_in_the_way() {
        let (mut verifications, mut states) = (Verifications::default(), ProducerStates::default());
        let old = verifications.begin(producer(1, 0, true), 1);
        let new = verifications.begin(producer(2, 0, true), 1);
        assert_ne!(old, new);
        assert_eq!(verifications.begin(producer(1, 0, true), 1), new, "which is void for it");
        let refused = verifications.check(&batch(1, 0), Some(new), &states).map_err(|e| e.code);
        assert_eq!(refused, Err(ErrorCode::InvalidTxnState));
        assert!(verifications.check(&batch(2, 0), Some(new), &states).is_ok());
        states.update(&batch(2, 0));
        // It asks when the transaction has begun: that goes on.
        verifications.begin(producer(1, 0, true), 1);
        assert!(verifications.check(&batch(2, 1), None, &states).is_ok());
    }
}
