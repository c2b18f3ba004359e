//! Transactions of a partition: their ends, and who may append to one.

use super::append::{Done, add_all, stamp_of, unknown_partition};
use super::partition::{Log, Payload};
use super::types::{
    Acks, AppendError, AppendOrigin, Appended, PartitionSpec, ReadError, TxnMarker, TxnProducer, TxnState,
};
use super::{LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::producer_state::Undo;
use crate::log::txn_marker::{EndTxnMarker, build_marker};
use bytes::BytesMut;
use coreline_io::Runtime;
use std::rc::Rc;

pub(super) fn stopped() -> AppendError {
    AppendError::new(ErrorCode::KafkaStorageError, "the store has stopped")
}

impl<R: Runtime> LogStore<R> {
    /// See [`LogStore::write_txn_markers`].
    pub(super) fn enqueue_markers(
        self: &Rc<Self>,
        markers: Vec<TxnMarker>,
        now_ms: i64,
    ) -> impl Future<Output = Vec<Result<Offset, AppendError>>> + 'static {
        let origin = AppendOrigin { acks: Acks::Local, now_ms };
        let waits: Vec<_> =
            markers.into_iter().map(|m| self.enqueue(m.partition, Payload::Marker(m), origin)).collect();
        async move {
            let mut results = Vec::with_capacity(waits.len());
            for wait in waits {
                let result = wait.await.unwrap_or_else(|| Err(stopped()));
                results.push(result.map(|appended| appended.base_offset));
            }
            results
        }
    }

    /// See [`LogStore::txn_state`].
    pub(super) async fn find_txn_state(
        self: &Rc<Self>,
        id: PartitionId,
        producer: TxnProducer,
        now_ms: i64,
    ) -> Result<TxnState, ReadError> {
        if self.state.get() != StoreState::Open {
            let error = stopped();
            return Err(ReadError::new(error.code, error.message));
        }
        let partition = self.loaded(id).await?;
        let state = partition.with(|log| {
            if log.producers.is_ongoing(producer.producer_id, producer.producer_epoch) {
                return TxnState::Ongoing;
            }
            TxnState::Unverified(log.verifications.begin(producer, now_ms))
        });
        state.ok_or_else(|| {
            let error = unknown_partition(id);
            ReadError::new(error.code, error.message)
        })
    }
}

impl Log {
    /// Notes a batch that was just added with its producer. `marker`: what it says, if it ends a transaction.
    pub(super) fn note_producer(&mut self, header: &RecordBatchHeader, marker: Option<EndTxnMarker>) -> Option<Undo> {
        if header.is_transactional() {
            // The transaction has begun, or ended: what the coordinator was asked before counts no more.
            self.verifications.clear(header.producer_id);
        }
        let Some(marker) = marker else { return self.producers.update(header) };
        let noted = self.producers.end(header, marker);
        self.active().aborted.extend(noted.aborted);
        noted.undo
    }
}

/// Appends the end of a transaction. As in Kafka, one that ends nothing is appended, too.
pub(super) fn append_marker(
    log: &mut Log,
    spec: &PartitionSpec,
    marker: &TxnMarker,
    origin: &AppendOrigin,
    expiration_ms: i64,
) -> Result<Done, AppendError> {
    let end = EndTxnMarker { commit: marker.commit, coordinator_epoch: marker.coordinator_epoch };
    let producer = (marker.producer_id, marker.producer_epoch);
    let checked = log.producers.check_marker(producer.0, producer.1, end, marker.v2);
    checked.map_err(|error| AppendError::new(error.code, error.message))?;
    let first = log.log_end;
    let bytes = build_marker(producer, end, Offset(first), spec.leader_epoch, origin.now_ms);
    let header = batch::parse_header(&bytes).expect("a batch that was made here has a header");
    let (stamp, len) = (stamp_of(&spec.config, origin), bytes.len());
    log.markers.push_back((first, *marker));
    add_all(log, spec, BytesMut::from(&bytes[..]), &[header], stamp, origin, expiration_ms);
    log.assert_invariants();
    let appended = Appended {
        base_offset: Offset(first),
        log_append_time_ms: stamp.unwrap_or(-1),
        log_start_offset: Offset(log.log_start),
    };
    Ok(Done { appended, end: log.log_end, batches: 1, bytes: len })
}
