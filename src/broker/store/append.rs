//! Appends: idempotence, offsets, the tail. Everything here happens in the call, in the order of calls.

use super::partition::{AppendResult, Log, Partition, Payload, Phase, QueuedAppend, Segment};
use super::tail::OWNED_BYTES_MIN;
use super::txn::append_marker;
use super::types::{Acks, AppendError, AppendOrigin, Appended, CommitTimes, PartitionSpec, TxnAppend};
use super::{LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::intake::Accepted;
use crate::log::log_config::{LogConfig, TimestampType};
use crate::log::producer_state::Check;
use crate::log::retention::roll_jitter_ms;
use crate::log::txn_marker::read_marker;
use bytes::{Bytes, BytesMut};
use coreline_io::sync::{OneshotReceiver, OneshotSender, oneshot};
use coreline_io::{Monotonic, Runtime};
use std::ops::Range;
use std::rc::Rc;

/// Record bytes after which a snapshot of producer state is due: what a load after a crash may have to scan.
const SNAPSHOT_INTERVAL_BYTES: u64 = 64 << 20;

impl<R: Runtime> LogStore<R> {
    /// See [`LogStore::append`].
    pub(super) fn enqueue(
        self: &Rc<Self>,
        id: PartitionId,
        payload: Payload<BytesMut>,
        origin: AppendOrigin,
    ) -> OneshotReceiver<AppendResult> {
        let (sender, receiver) = oneshot();
        self.enqueue_for(sender, id, payload, origin);
        receiver
    }

    /// As [`Self::enqueue`]; the outcome is sent by `sender`.
    pub(super) fn enqueue_for(
        self: &Rc<Self>,
        sender: OneshotSender<AppendResult>,
        id: PartitionId,
        payload: Payload<BytesMut>,
        origin: AppendOrigin,
    ) {
        let Some(partition) = self.partition(id) else {
            sender.send(Err(unknown_partition(id)));
            return;
        };
        if self.state.get() != StoreState::Open {
            sender.send(Err(AppendError::new(ErrorCode::KafkaStorageError, "the store is stopping")));
            return;
        }
        self.take_in(partition, payload, origin, sender);
    }

    /// Appends what was taken in, once the partition is loaded.
    pub(super) fn append_taken(self: &Rc<Self>, partition: Rc<Partition>, append: QueuedAppend) {
        let mut append = Some(append);
        let load = partition.with_phase(|phase| match phase {
            Phase::Unloaded => {
                *phase = Phase::Loading(append.take().into_iter().collect());
                true
            }
            Phase::Loading(queue) => {
                queue.extend(append.take());
                false
            }
            Phase::Ready(_) | Phase::Deleted => false,
        });
        if load {
            self.spawn_load(partition);
        } else if let Some(append) = append {
            self.append_now(&partition, append);
        }
    }

    /// Appends to a partition that is loaded (or deleted).
    pub(super) fn append_now(self: &Rc<Self>, partition: &Rc<Partition>, append: QueuedAppend) {
        let QueuedAppend { payload, origin, entered, sender } = append;
        if self.state.get() != StoreState::Open {
            sender.send(Err(AppendError::new(ErrorCode::KafkaStorageError, "the store is stopping")));
            return;
        }
        let spec = partition.spec.borrow().clone();
        let mut sender = Some(sender);
        let expiration_ms = self.options.producer_id_expiration_ms;
        let result = partition.with(|log| {
            let done = match payload {
                Payload::Batches(accepted, txn) => append_to_log(log, &spec, accepted, &origin, txn, expiration_ms)?,
                Payload::Marker(marker) => append_marker(log, &spec, &marker, &origin, expiration_ms)?,
            };
            let sender = sender.take().expect("not answered yet");
            answer(log, &done, &origin, entered, sender);
            Ok(done)
        });
        match result {
            None => answer_error(sender, unknown_partition(partition.id)),
            Some(Err(error)) => answer_error(sender, error),
            Some(Ok(done)) => {
                self.count(|s| {
                    s.batches += done.batches;
                    s.bytes += done.bytes as u64;
                    s.copied_bytes += done.copied as u64;
                });
                if done.batches > 0 {
                    self.took_in(partition.id.topic, done.bytes, done.end - done.appended.base_offset.0);
                }
                self.was_used(partition.id, done.bytes, 0);
                self.queue_commit(partition);
            }
        }
    }
}

fn answer_error(sender: Option<OneshotSender<AppendResult>>, error: AppendError) {
    if let Some(sender) = sender {
        sender.send(Err(error));
    }
}

fn answer(log: &mut Log, done: &Done, origin: &AppendOrigin, entered: Monotonic, sender: OneshotSender<AppendResult>) {
    match origin.acks {
        Acks::None => sender.send(Ok((done.appended, CommitTimes { entered, ..CommitTimes::default() }))),
        Acks::Local => log.wait_for(done.end, done.appended, entered, sender),
    }
}

pub(super) fn unknown_partition(id: PartitionId) -> AppendError {
    AppendError::new(ErrorCode::UnknownTopicOrPartition, format!("partition {id} is not on this shard"))
}

/// What an append did.
pub(super) struct Done {
    pub(super) appended: Appended,
    /// The offset after its last record (of a duplicate: the original's).
    pub(super) end: i64,
    /// Batches added: 0 for a duplicate.
    pub(super) batches: u64,
    pub(super) bytes: usize,
    /// Of them copied.
    pub(super) copied: usize,
}

/// Adds all batches, or none.
fn append_to_log(
    log: &mut Log,
    spec: &PartitionSpec,
    accepted: Accepted,
    origin: &AppendOrigin,
    txn: TxnAppend,
    expiration_ms: i64,
) -> Result<Done, AppendError> {
    let Accepted { records, mut batches } = accepted;
    let bytes = records.len();
    let stamp = stamp_of(&spec.config, origin);
    let appended = |base: i64, start| Appended {
        base_offset: Offset(base),
        log_append_time_ms: stamp.unwrap_or(-1),
        log_start_offset: Offset(start),
    };
    if let [(header, _)] = batches.as_slice()
        && let Ok(Check::Duplicate(original)) = log.producers.check(header)
    {
        let done = appended(original.first_offset().0, log.log_start);
        return Ok(Done { appended: done, end: original.last_offset.0 + 1, batches: 0, bytes: 0, copied: 0 });
    }
    let first = log.log_end;
    check_producers(log, &mut batches, stamp, txn)?;
    add_all(log, spec, records, batches.iter().map(|(header, _)| header), stamp, origin, expiration_ms);
    log.assert_invariants();
    let copied = batches.iter().map(|(_, range)| range.len()).filter(|len| *len < OWNED_BYTES_MIN).sum();
    let (appended, end, batches) = (appended(first, log.log_start), log.log_end, batches.len() as u64);
    Ok(Done { appended, end, batches, bytes, copied })
}

/// The broker's time, if it stands for the records' own.
pub(super) fn stamp_of(config: &LogConfig, origin: &AppendOrigin) -> Option<i64> {
    match config.message_timestamp_type {
        TimestampType::CreateTime => None,
        TimestampType::LogAppendTime => Some(origin.now_ms),
    }
}

/// Checks each batch with its producer, the ones before it in the request included, and gives each its offset.
fn check_producers(
    log: &mut Log,
    batches: &mut [(RecordBatchHeader, Range<usize>)],
    stamp: Option<i64>,
    txn: TxnAppend,
) -> Result<(), AppendError> {
    let mut next = log.log_end;
    let mut undo = Vec::new();
    let mut checked = Ok(());
    for (header, _) in batches {
        header.base_offset = Offset(next);
        header.max_timestamp = stamp.unwrap_or(header.max_timestamp);
        next = header.next_offset().0;
        let refused = match log.producers.check(header) {
            Ok(Check::Append) => {
                let verified = log.verifications.check(header, txn.guard, &log.producers);
                verified.err().map(|error| AppendError::new(error.code, error.message))
            }
            Ok(Check::Duplicate(_)) => {
                let message = format!("producer {}: a duplicate among several batches", header.producer_id);
                Some(AppendError::new(ErrorCode::DuplicateSequenceNumber, message))
            }
            Err(error) => Some(AppendError::new(error.code, error.message)),
        };
        if let Some(error) = refused {
            checked = Err(error);
            break;
        }
        undo.extend(log.producers.update(header));
    }
    // Noted for good batch by batch, so that a snapshot at a roll holds exactly what is before it.
    undo.into_iter().rev().for_each(|u| log.producers.undo(u));
    checked
}

pub(super) fn add_all<'a>(
    log: &mut Log,
    spec: &PartitionSpec,
    mut records: BytesMut,
    headers: impl IntoIterator<Item = &'a RecordBatchHeader>,
    stamp: Option<i64>,
    origin: &AppendOrigin,
    expiration_ms: i64,
) {
    for header in headers {
        let len = header.size_in_bytes();
        let mut bytes = records.split_to(len);
        batch::assign(&mut bytes, header.base_offset, spec.leader_epoch, stamp);
        if log.epochs.note(spec.leader_epoch, header.base_offset) {
            log.epochs_dirty = true;
        }
        if wants_roll(log, &spec.config, header, len as u64) || log.bytes_since_snapshot >= SNAPSHOT_INTERVAL_BYTES {
            log.producers.expire(origin.now_ms, expiration_ms);
            log.verifications.expire(origin.now_ms, expiration_ms);
        }
        let marker = read_marker(header, &bytes);
        add_batch(log, &spec.config, header, bytes.freeze());
        let undo = log.note_producer(header, marker);
        log.producers.touch(header.producer_id, origin.now_ms);
        log.remember_undo(header.base_offset.0, undo);
        log.touched = true;
        log.waiting_bytes += len;
    }
}

/// Adds a batch that has its offset: at the end of the tail, in the active segment or a new one.
pub(super) fn add_batch(log: &mut Log, config: &LogConfig, header: &RecordBatchHeader, bytes: Bytes) {
    let (base, last, len) = (header.base_offset.0, header.last_offset().0, bytes.len() as u64);
    assert_eq!(base, log.log_end, "offsets are contiguous");
    let roll = wants_roll(log, config, header, len);
    if roll || log.bytes_since_snapshot >= SNAPSHOT_INTERVAL_BYTES {
        log.pending_snapshots.push_back((base, log.producers.encode_snapshot()));
        log.bytes_since_snapshot = 0;
    }
    if roll {
        log.segments.push(Segment::new(base));
        log.close_active = false;
    }
    let segment = log.active();
    let position = segment.size;
    segment.size += len;
    segment.first_timestamp.get_or_insert(header.max_timestamp);
    segment.max_timestamp = segment.max_timestamp.map(|max| max.max(header.max_timestamp));
    log.tail.push(base, last, header.max_timestamp, position, bytes);
    log.log_end = last + 1;
    log.bytes_since_snapshot += len;
}

/// `segment.bytes`, `segment.ms` (by record time, as Kafka does it), a full index, or offsets too far for one.
fn wants_roll(log: &Log, config: &LogConfig, header: &RecordBatchHeader, len: u64) -> bool {
    let active = log.segments.last().expect("a log has a segment");
    if active.size == 0 {
        return false;
    }
    let waited = active.first_timestamp.map_or(0, |first| header.max_timestamp.saturating_sub(first));
    let entries_max = config.segment_index_bytes / 8;
    log.close_active
        || active.size + len > config.segment_bytes.min(i32::MAX as u64)
        || waited
            > config.roll_ms()
                - roll_jitter_ms(u64::from(log.jitter_salt), active.base, config.segment_jitter_ms, config.roll_ms())
        || active.size / config.index_interval_bytes.max(1) >= entries_max
        || header.last_offset().0 - active.base > i64::from(i32::MAX)
}
