//! Producers of one partition: last batches, epochs, sequence checks, open transactions, Kafka's `.snapshot` format.

use crate::error_code::ErrorCode;
use crate::ids::{Offset, ProducerEpoch, ProducerId};
use crate::log::batch::RecordBatchHeader;
use crate::log::txn_index::AbortedTxn;
use crate::log::txn_marker::{EndTxnMarker, read_marker};
use bytes::{Buf, BufMut};
use std::collections::{BTreeMap, HashMap, VecDeque};

/// Batches that are remembered of a producer: a client has at most this many requests in flight.
pub const BATCHES_REMEMBERED: usize = 5;
const SNAPSHOT_VERSION: i16 = 1;
const SNAPSHOT_ENTRY_LEN: usize = 8 + 2 + 4 + 8 + 4 + 8 + 4 + 8;

/// A batch of a producer, as far as duplicates need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchMetadata {
    /// The last record's sequence number.
    pub last_sequence: i32,
    /// The last record's offset.
    pub last_offset: Offset,
    /// Records less one.
    pub offset_delta: i32,
    /// The largest timestamp.
    pub timestamp: i64,
}

impl BatchMetadata {
    /// The first record's sequence number.
    #[must_use]
    pub const fn first_sequence(&self) -> i32 {
        let first = self.last_sequence as i64 - self.offset_delta as i64;
        if first < 0 { (first + i32::MAX as i64 + 1) as i32 } else { first as i32 }
    }

    /// The first record's offset.
    #[must_use]
    pub const fn first_offset(&self) -> Offset {
        Offset(self.last_offset.0 - self.offset_delta as i64)
    }
}

/// What is known of a producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerEntry {
    /// Its newest epoch; -1 none.
    pub epoch: ProducerEpoch,
    /// Its last batches of that epoch, oldest first, at most [`BATCHES_REMEMBERED`].
    pub batches: VecDeque<BatchMetadata>,
    /// Time of its last batch, in milliseconds.
    pub last_timestamp: i64,
    /// The coordinator's epoch of its last marker, or -1.
    pub coordinator_epoch: i32,
    /// The first offset of its open transaction.
    pub current_txn_first_offset: Option<Offset>,
}

impl ProducerEntry {
    fn check_epoch(&self, id: ProducerId, epoch: ProducerEpoch) -> Result<(), ProducerError> {
        if epoch >= self.epoch {
            return Ok(());
        }
        let message = format!("producer {id} has epoch {}, the batch says {epoch}", self.epoch);
        Err(ProducerError { code: ErrorCode::InvalidProducerEpoch, message })
    }

    fn check_sequence(&self, batch: &RecordBatchHeader) -> Result<Check, ProducerError> {
        if batch.base_sequence < 0 {
            return Ok(Check::Append);
        }
        let out_of_order = |expected: i64| ProducerError {
            code: ErrorCode::OutOfOrderSequenceNumber,
            message: format!(
                "producer {} epoch {}: expected sequence {expected}, received {}",
                batch.producer_id, batch.producer_epoch, batch.base_sequence
            ),
        };
        if batch.producer_epoch > self.epoch {
            let first = self.epoch.0 < 0 || batch.base_sequence == 0;
            return if first { Ok(Check::Append) } else { Err(out_of_order(0)) };
        }
        let same =
            |b: &&BatchMetadata| b.first_sequence() == batch.base_sequence && b.last_sequence == batch.last_sequence();
        if let Some(original) = self.batches.iter().find(same) {
            return Ok(Check::Duplicate(*original));
        }
        // Known by a marker alone: the epoch is new.
        let expected = self.batches.back().map_or(0, |last| match last.last_sequence {
            i32::MAX => 0,
            sequence => sequence + 1,
        });
        if batch.base_sequence == expected { Ok(Check::Append) } else { Err(out_of_order(i64::from(expected))) }
    }
}

/// What to do with a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Append it.
    Append,
    /// It is in the log already.
    Duplicate(BatchMetadata),
}

/// Why a producer's batch is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct ProducerError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// Expected and received.
    pub message: String,
}

/// The producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    producers: HashMap<ProducerId, ProducerEntry>,
    /// Producers whose first batch failed after it was noted, with its epoch and sequence: what they sent behind it
    /// must not be taken for a first batch.
    failed: BTreeMap<ProducerId, (ProducerEpoch, i32)>,
    /// Open transactions by their first offset: exactly those of `producers`.
    open: BTreeMap<Offset, ProducerId>,
    /// Transactions that have ended, first offset → marker, as long as the marker may not be committed.
    ended: BTreeMap<Offset, Offset>,
}

/// Failed first batches that are remembered: they matter for as long as requests of their connection are on their way.
const FAILED_MAX: usize = 1000;

/// What undoes one [`ProducerStates::update`] or [`ProducerStates::end`]: the producer and what was known of it before.
#[derive(Clone, Debug)]
pub struct Undo {
    id: ProducerId,
    before: Option<ProducerEntry>,
    /// The first offset of the transaction that it ended.
    ended: Option<Offset>,
}

/// What a batch changed.
#[derive(Clone, Debug, Default)]
pub struct Noted {
    /// How to take it back; none if it changed nothing.
    pub undo: Option<Undo>,
    /// The transaction that it aborted.
    pub aborted: Option<AbortedTxn>,
}

impl ProducerStates {
    /// Number of producers known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// True if none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// One producer.
    #[must_use]
    pub fn get(&self, id: ProducerId) -> Option<&ProducerEntry> {
        self.producers.get(&id)
    }

    /// All producers, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (ProducerId, &ProducerEntry)> {
        self.producers.iter().map(|(id, entry)| (*id, entry))
    }

    /// Decides on a client's batch (KIP-98): a new one, a duplicate, or an error.
    ///
    /// ```text
    /// last batch 5..=9: next 10 → append; 5..=9 → duplicate; 11 → OUT_OF_ORDER_SEQUENCE_NUMBER
    /// newer epoch: must begin at 0;  older epoch → INVALID_PRODUCER_EPOCH;  unknown producer: any sequence
    /// ```
    ///
    /// # Errors
    /// `INVALID_PRODUCER_EPOCH`, `OUT_OF_ORDER_SEQUENCE_NUMBER`.
    pub fn check(&self, batch: &RecordBatchHeader) -> Result<Check, ProducerError> {
        if !batch.is_idempotent() {
            return Ok(Check::Append);
        }
        let Some(known) = self.producers.get(&batch.producer_id) else { return self.check_unknown(batch) };
        known.check_epoch(batch.producer_id, batch.producer_epoch)?;
        let check = known.check_sequence(batch)?;
        if check == Check::Append && known.current_txn_first_offset.is_some() && !batch.is_transactional() {
            let message =
                format!("producer {} has an open transaction, expected a transactional batch", batch.producer_id);
            return Err(ProducerError { code: ErrorCode::InvalidTxnState, message });
        }
        Ok(check)
    }

    /// Decides on a marker. As in Kafka one for a producer without an open transaction may be appended, too: it is what a
    /// coordinator writes that does not know whether it had written it before.
    ///
    /// `v2`: the marker's epoch is that of the next transaction (transaction version 2). If that one is open already, the
    /// marker is a late copy of the one before, and must not end it.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_EPOCH`, `TRANSACTION_COORDINATOR_FENCED`.
    pub fn check_marker(
        &self,
        id: ProducerId,
        epoch: ProducerEpoch,
        marker: EndTxnMarker,
        v2: bool,
    ) -> Result<(), ProducerError> {
        let Some(known) = self.producers.get(&id) else { return Ok(()) };
        known.check_epoch(id, epoch)?;
        if v2 && known.epoch == epoch && known.current_txn_first_offset.is_some() {
            let message = format!("producer {id}: a marker of epoch {epoch} came late, the next transaction is open");
            return Err(ProducerError { code: ErrorCode::InvalidProducerEpoch, message });
        }
        if known.coordinator_epoch > marker.coordinator_epoch {
            let message = format!(
                "producer {id}: the last marker is of coordinator epoch {}, received {}",
                known.coordinator_epoch, marker.coordinator_epoch
            );
            return Err(ProducerError { code: ErrorCode::TransactionCoordinatorFenced, message });
        }
        Ok(())
    }

    /// True if a transaction of this producer and epoch is open.
    #[must_use]
    pub fn is_ongoing(&self, id: ProducerId, epoch: ProducerEpoch) -> bool {
        self.producers.get(&id).is_some_and(|p| p.epoch == epoch && p.current_txn_first_offset.is_some())
    }

    /// Nothing from here on is stable: the first offset of a transaction that is open, or whose end may not be committed.
    #[must_use]
    pub fn first_unstable(&self) -> Option<Offset> {
        let first = |offsets: Option<&Offset>| offsets.copied();
        let (open, ended) = (first(self.open.keys().next()), first(self.ended.keys().next()));
        open.into_iter().chain(ended).min()
    }

    /// Everything below `end` is committed, markers included.
    pub fn committed(&mut self, end: Offset) {
        if !self.ended.is_empty() {
            self.ended.retain(|_, marker| *marker >= end);
        }
    }

    /// The open transactions: first offset and producer, in order.
    pub fn open_transactions(&self) -> impl Iterator<Item = (Offset, ProducerId)> + '_ {
        self.open.iter().map(|(first, id)| (*first, *id))
    }

    fn check_unknown(&self, batch: &RecordBatchHeader) -> Result<Check, ProducerError> {
        match self.failed.get(&batch.producer_id) {
            Some(&(epoch, expected)) if epoch == batch.producer_epoch && expected != batch.base_sequence => {
                Err(ProducerError {
                    code: ErrorCode::OutOfOrderSequenceNumber,
                    message: format!(
                        "producer {} epoch {epoch}: expected sequence {expected}, which failed before, received {}",
                        batch.producer_id, batch.base_sequence
                    ),
                })
            }
            _ => Ok(Check::Append),
        }
    }

    /// Notes a batch that is appended (or replayed); its offsets are the log's. Gives what undoes it.
    pub fn update(&mut self, batch: &RecordBatchHeader) -> Option<Undo> {
        if !batch.is_idempotent() || batch.is_control() {
            return None;
        }
        let before = self.producers.get(&batch.producer_id).cloned();
        let entry = self.entry(batch);
        // A coordinator's batches have no sequence.
        if batch.base_sequence >= 0 {
            if entry.batches.len() == BATCHES_REMEMBERED {
                entry.batches.pop_front();
            }
            entry.batches.push_back(BatchMetadata {
                last_sequence: batch.last_sequence(),
                last_offset: batch.last_offset(),
                offset_delta: batch.last_offset_delta,
                timestamp: batch.max_timestamp,
            });
        }
        entry.last_timestamp = batch.max_timestamp;
        if batch.is_transactional() && entry.current_txn_first_offset.is_none() {
            entry.current_txn_first_offset = Some(batch.base_offset);
            self.open.insert(batch.base_offset, batch.producer_id);
        }
        Some(Undo { id: batch.producer_id, before, ended: None })
    }

    /// Notes a marker that is appended (or replayed). Gives what undoes it, and what the transaction index is to hold of it.
    pub fn end(&mut self, batch: &RecordBatchHeader, marker: EndTxnMarker) -> Noted {
        let before = self.producers.get(&batch.producer_id).cloned();
        let entry = self.entry(batch);
        entry.coordinator_epoch = marker.coordinator_epoch;
        entry.last_timestamp = batch.max_timestamp;
        let first = entry.current_txn_first_offset.take();
        let mut aborted = None;
        if let Some(first) = first {
            self.open.remove(&first);
            self.ended.insert(first, batch.base_offset);
            let next_open = self.open.keys().next().copied();
            aborted = (!marker.commit).then_some(AbortedTxn {
                producer_id: batch.producer_id,
                first_offset: first,
                last_offset: batch.base_offset,
                last_stable_offset: next_open.unwrap_or(batch.next_offset()),
            });
        }
        Noted { undo: Some(Undo { id: batch.producer_id, before, ended: first }), aborted }
    }

    /// Notes a batch of either kind.
    pub fn note(&mut self, header: &RecordBatchHeader, bytes: &[u8]) -> Noted {
        match read_marker(header, bytes).filter(|_| header.is_idempotent()) {
            Some(marker) => self.end(header, marker),
            None => Noted { undo: self.update(header), aborted: None },
        }
    }

    /// The producer of a batch, in the batch's epoch.
    fn entry(&mut self, batch: &RecordBatchHeader) -> &mut ProducerEntry {
        let entry = self.producers.entry(batch.producer_id).or_insert_with(|| ProducerEntry {
            epoch: batch.producer_epoch,
            batches: VecDeque::with_capacity(1),
            last_timestamp: batch.max_timestamp,
            coordinator_epoch: -1,
            current_txn_first_offset: None,
        });
        if entry.epoch != batch.producer_epoch {
            entry.epoch = batch.producer_epoch;
            entry.batches.clear();
        }
        entry
    }

    /// Notes that the broker heard of the producer at `now_ms`: records may carry times of long ago.
    pub fn touch(&mut self, id: ProducerId, now_ms: i64) {
        self.failed.remove(&id);
        if let Some(entry) = self.producers.get_mut(&id) {
            entry.last_timestamp = entry.last_timestamp.max(now_ms);
        }
    }

    /// Takes back an update; undo in the reverse order of updates.
    pub fn undo(&mut self, undo: Undo) {
        let open = |entry: Option<&ProducerEntry>| entry.and_then(|e| e.current_txn_first_offset);
        if let Some(first) = open(self.producers.get(&undo.id)) {
            self.open.remove(&first);
        }
        if let Some(first) = open(undo.before.as_ref()) {
            self.open.insert(first, undo.id);
        }
        if let Some(first) = undo.ended {
            self.ended.remove(&first);
        }
        match undo.before {
            Some(before) => self.producers.insert(undo.id, before),
            None => self.producers.remove(&undo.id),
        };
    }

    /// As [`Self::undo`], of a batch that could not be written: batches behind it are on their way, and a producer that
    /// is unknown by this must come back with that batch first.
    pub fn undo_failed(&mut self, undo: Undo) {
        let Undo { id, before, .. } = &undo;
        let first = self.producers.get(id).and_then(|p| Some((p.epoch, p.batches.front()?.first_sequence())));
        if let (None, Some(first)) = (before, first) {
            if self.failed.len() >= FAILED_MAX {
                self.failed.pop_first();
            }
            self.failed.insert(*id, first);
        }
        self.undo(undo);
    }

    /// Forgets producers whose last batch is older than `expiration_ms` and that have no open transaction.
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, p| {
            p.current_txn_first_offset.is_some() || now_ms.saturating_sub(p.last_timestamp) < expiration_ms
        });
        self.producers.shrink_to_fit();
    }

    /// Kafka's snapshot file. Kafka keeps the last batch of each producer; here each remembered batch is an entry of its
    /// own, oldest first, so that all of them are recognised after a restart. Kafka's reader takes the last one.
    #[must_use]
    pub fn encode_snapshot(&self) -> Vec<u8> {
        let mut entries: Vec<_> = self.producers.iter().collect();
        entries.sort_by_key(|(id, _)| id.0);
        let mut body = Vec::with_capacity(4 + entries.len() * SNAPSHOT_ENTRY_LEN);
        body.put_i32(entries.iter().map(|(_, p)| p.batches.len().max(1)).sum::<usize>() as i32);
        for (id, p) in entries {
            let none = BatchMetadata { last_sequence: -1, last_offset: Offset(-1), offset_delta: 0, timestamp: -1 };
            let batches = if p.batches.is_empty() { vec![none] } else { p.batches.iter().copied().collect() };
            for batch in batches {
                body.put_i64(id.0);
                body.put_i16(p.epoch.0);
                body.put_i32(batch.last_sequence);
                body.put_i64(batch.last_offset.0);
                body.put_i32(batch.offset_delta);
                body.put_i64(p.last_timestamp);
                body.put_i32(p.coordinator_epoch);
                body.put_i64(p.current_txn_first_offset.map_or(-1, |o| o.0));
            }
        }
        let mut out = Vec::with_capacity(6 + body.len());
        out.put_i16(SNAPSHOT_VERSION);
        out.put_u32(crc32c::crc32c(&body));
        out.extend_from_slice(&body);
        out
    }

    /// Reads a snapshot file; `None` if it is damaged.
    #[must_use]
    pub fn decode_snapshot(bytes: &[u8]) -> Option<Self> {
        let mut states = Self::default();
        for read in snapshot_entries(bytes)? {
            let SnapshotEntry { id, epoch, batch, last_timestamp, coordinator_epoch, current_txn_first_offset } = read;
            let fresh = ProducerEntry {
                epoch,
                batches: VecDeque::new(),
                last_timestamp,
                coordinator_epoch,
                current_txn_first_offset,
            };
            let entry = states.producers.entry(id).or_insert_with(|| fresh.clone());
            if entry.epoch != epoch {
                *entry = fresh;
            } else {
                // The last entry of a producer counts, as for Kafka's reader; ours differ in the batch alone.
                entry.last_timestamp = last_timestamp;
                entry.coordinator_epoch = coordinator_epoch;
                entry.current_txn_first_offset = current_txn_first_offset;
            }
            if batch.last_sequence >= 0 {
                entry.batches.push_back(batch);
            }
            if entry.batches.len() > BATCHES_REMEMBERED {
                entry.batches.pop_front();
            }
        }
        let open = |(id, p): (&ProducerId, &ProducerEntry)| Some((p.current_txn_first_offset?, *id));
        states.open = states.producers.iter().filter_map(open).collect();
        Some(states)
    }
}

/// An entry of a snapshot file, as it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// The producer.
    pub id: ProducerId,
    /// Its newest epoch.
    pub epoch: ProducerEpoch,
    /// A batch of that epoch; its last sequence is -1 if there is none.
    pub batch: BatchMetadata,
    /// Time of its last batch, in milliseconds.
    pub last_timestamp: i64,
    /// The coordinator's epoch of its last marker, or -1.
    pub coordinator_epoch: i32,
    /// The first offset of its open transaction.
    pub current_txn_first_offset: Option<Offset>,
}

/// The entries of a snapshot file in their order; `None` if it is damaged.
#[must_use]
pub fn snapshot_entries(mut bytes: &[u8]) -> Option<Vec<SnapshotEntry>> {
    if bytes.len() < 10 || bytes.get_i16() != SNAPSHOT_VERSION || bytes.get_u32() != crc32c::crc32c(bytes) {
        return None;
    }
    let count = usize::try_from(bytes.get_i32()).ok()?;
    if bytes.len() != count.checked_mul(SNAPSHOT_ENTRY_LEN)? {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let (id, epoch) = (ProducerId(bytes.get_i64()), ProducerEpoch(bytes.get_i16()));
        let last_sequence = bytes.get_i32();
        let last_offset = Offset(bytes.get_i64());
        let offset_delta = bytes.get_i32();
        let last_timestamp = bytes.get_i64();
        let coordinator_epoch = bytes.get_i32();
        let txn = bytes.get_i64();
        entries.push(SnapshotEntry {
            id,
            epoch,
            batch: BatchMetadata { last_sequence, last_offset, offset_delta, timestamp: last_timestamp },
            last_timestamp,
            coordinator_epoch,
            current_txn_first_offset: (txn >= 0).then_some(Offset(txn)),
        });
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaderEpoch;
    use crate::log::batch::{BatchBuilder, parse_header};
    use crate::log::txn_marker::build_marker;
    use proptest::prelude::*;

    fn batch(epoch: i16, sequence: i32, records: usize, offset: i64) -> RecordBatchHeader {
        let mut builder = BatchBuilder::default().producer(ProducerId(7), ProducerEpoch(epoch), sequence);
        for _ in 0..records {
            builder.push(1000, None, Some(b"v"));
        }
        parse_header(&builder.build(Offset(offset), LeaderEpoch(0))).expect("well formed")
    }

    #[test]
    fn what_follows_a_failed_first_batch_is_no_first_batch() {
        let mut states = ProducerStates::default();
        let undo: Vec<_> = [batch(0, 0, 9, 0), batch(0, 9, 13, 9)].iter().filter_map(|b| states.update(b)).collect();
        undo.into_iter().rev().for_each(|u| states.undo_failed(u));
        let code = |states: &ProducerStates, b: &RecordBatchHeader| states.check(b).map_err(|e| e.code);
        assert_eq!(code(&states, &batch(0, 9, 13, 0)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(code(&states, &batch(0, 0, 9, 0)), Ok(Check::Append));
        assert_eq!(code(&states, &batch(1, 5, 1, 0)), Ok(Check::Append), "another epoch: another life");
        states.update(&batch(0, 0, 9, 0));
        states.touch(ProducerId(7), 1);
        assert_eq!(code(&states, &batch(0, 9, 13, 0)), Ok(Check::Append));
    }

    #[test]
    fn sequences_table() {
        let mut states = ProducerStates::default();
        assert_eq!(states.check(&batch(3, 17, 1, 0)), Ok(Check::Append), "unknown producer: any sequence");
        states.update(&batch(3, 0, 5, 100));
        states.update(&batch(3, 5, 5, 105));
        let code = |b: &RecordBatchHeader| states.check(b).map_err(|e| e.code);
        assert_eq!(code(&batch(3, 10, 2, 0)), Ok(Check::Append));
        assert!(matches!(code(&batch(3, 0, 5, 0)), Ok(Check::Duplicate(b)) if b.first_offset() == Offset(100)));
        assert_eq!(
            code(&batch(3, 0, 4, 0)),
            Err(ErrorCode::OutOfOrderSequenceNumber),
            "another length is no duplicate"
        );
        assert_eq!(code(&batch(3, 11, 1, 0)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(code(&batch(2, 10, 1, 0)), Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(code(&batch(4, 10, 1, 0)), Err(ErrorCode::OutOfOrderSequenceNumber));
        assert_eq!(code(&batch(4, 0, 1, 0)), Ok(Check::Append));
    }

    #[test]
    fn sequences_wrap() {
        let mut states = ProducerStates::default();
        states.update(&batch(0, i32::MAX - 1, 4, 0));
        assert_eq!(states.get(ProducerId(7)).and_then(|p| p.batches.back()).map(|b| b.last_sequence), Some(1));
        assert_eq!(states.check(&batch(0, 2, 1, 4)), Ok(Check::Append));
        assert!(matches!(states.check(&batch(0, i32::MAX - 1, 4, 4)), Ok(Check::Duplicate(_))));
    }

    #[test]
    fn five_batches_are_remembered_and_undone() {
        let mut states = ProducerStates::default();
        for i in 0..6 {
            states.update(&batch(0, i, 1, i64::from(i)));
        }
        assert!(states.check(&batch(0, 0, 1, 9)).is_err());
        assert!(matches!(states.check(&batch(0, 1, 1, 9)), Ok(Check::Duplicate(_))));
        let before = states.clone();
        let undo = states.update(&batch(1, 0, 1, 9)).expect("idempotent");
        states.undo(undo);
        assert_eq!(states, before);
    }

    #[test]
    fn snapshots_come_back() {
        let mut states = ProducerStates::default();
        states.update(&batch(2, 4, 3, 40));
        states.update(&batch(2, 7, 1, 43));
        let read = ProducerStates::decode_snapshot(&states.encode_snapshot()).expect("whole");
        assert_eq!(read, states);
        states.expire(1000 + 50, 50);
        assert!(states.is_empty());
    }

    /// A step of a random history: producer, kind (0 plain, 1 transactional, 2 abort, 3 commit), how many to take back.
    type Step = (i64, u8, usize);
    /// Producer, first offset, marker and whether it committed.
    type Txns = Vec<(i64, i64, Option<(i64, bool)>)>;

    fn one_batch(step: &Step, offset: i64) -> (RecordBatchHeader, Vec<u8>) {
        let (id, epoch) = (ProducerId(step.0), ProducerEpoch(0));
        let bytes = if step.1 >= 2 {
            let marker = EndTxnMarker { commit: step.1 == 3, coordinator_epoch: 1 };
            build_marker((id, epoch), marker, Offset(offset), LeaderEpoch(0), 1000)
        } else {
            let mut builder = BatchBuilder::default().attributes(i16::from(step.1) << 4).producer(id, epoch, 0);
            builder.push(1000, None, Some(b"v"));
            builder.build(Offset(offset), LeaderEpoch(0))
        };
        (parse_header(&bytes).expect("well formed"), bytes)
    }

    proptest! {
        #[test]
        fn transactions_are_what_the_batches_say(
            steps in proptest::collection::vec((0i64..4, 0u8..4, 0usize..4), 1..60),
            committed in 0usize..60,
        ) {
            let mut states = ProducerStates::default();
            let mut model = Txns::new();
            let mut history: Vec<(ProducerStates, Txns, Undo)> = Vec::new();
            let mut offset = 0;
            for step in &steps {
                if step.2 == 3 {
                    // A group commit that failed.
                    for _ in 0..step.2.min(history.len()) {
                        let (before, model_before, undo) = history.pop().expect("counted");
                        states.undo(undo);
                        prop_assert_eq!(&states, &before);
                        (model, offset) = (model_before, offset - 1);
                    }
                }
                let (header, bytes) = one_batch(step, offset);
                let (before, model_before) = (states.clone(), model.clone());
                let noted = states.note(&header, &bytes);
                history.push((before, model_before, noted.undo.expect("of a producer")));
                let open = model.iter_mut().find(|t| t.0 == step.0 && t.2.is_none());
                match (step.1, open) {
                    (1, None) => model.push((step.0, offset, None)),
                    (2 | 3, Some(open)) => {
                        open.2 = Some((offset, step.1 == 3));
                        let first = open.1;
                        let next = model.iter().filter(|t| t.2.is_none()).map(|t| t.1).min().unwrap_or(offset + 1);
                        let aborted = noted.aborted.map(|a| (a.first_offset.0, a.last_offset.0, a.last_stable_offset.0));
                        prop_assert_eq!(aborted, (step.1 == 2).then_some((first, offset, next)));
                    }
                    _ => prop_assert_eq!(noted.aborted, None),
                }
                // Nothing is committed yet.
                prop_assert_eq!(states.first_unstable().map(|o| o.0), model.iter().map(|t| t.1).min());
                offset += 1;
            }
            let end = (committed as i64).min(offset);
            states.committed(Offset(end));
            let unstable = model.iter().filter(|t| t.2.is_none_or(|(marker, _)| marker >= end)).map(|t| t.1).min();
            prop_assert_eq!(states.first_unstable().map(|o| o.0), unstable);
            states.committed(Offset(i64::MAX));
            let read = ProducerStates::decode_snapshot(&states.encode_snapshot()).expect("whole");
            prop_assert_eq!(read.open_transactions().collect::<Vec<_>>(), states.open_transactions().collect::<Vec<_>>());
            prop_assert_eq!(read.first_unstable(), states.first_unstable());
        }

        #[test]
        fn damaged_snapshots_are_refused(at in 0usize..60, flip in 1u8..) {
            let mut states = ProducerStates::default();
            states.update(&batch(2, 4, 3, 40));
            let mut bytes = states.encode_snapshot();
            let at = at % bytes.len();
            bytes[at] ^= flip;
            prop_assert!(ProducerStates::decode_snapshot(&bytes).is_none());
        }
    }
}
