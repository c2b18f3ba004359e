//! Transactions of a partition: their ends, and who may append to one.

use super::append::{Done, add_all, stamp_of, unknown_partition};
use super::partition::{Log, Partition, Payload, TxnFile};
use super::types::{
    Acks, AppendError, AppendOrigin, Appended, PartitionSpec, ReadError, StoreError, TxnMarker, TxnProducer, TxnState,
};
use super::{LogStore, StoreState};
use crate::error_code::ErrorCode;
use crate::ids::{Offset, PartitionId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::producer_state::{ProducerStates, Undo};
use crate::log::segment::FileKind;
use crate::log::txn_index::{self, AbortedTxn, Entries, FileNote};
use crate::log::txn_marker::{EndTxnMarker, build_marker, read_marker};
use bytes::{Bytes, BytesMut};
use coreline_io::{IoErrorKind, IoResult, Runtime, TaskGroup};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Which segments have a transaction index, and what is in it; in the partition's directory, where there are any.
pub(super) const TXN_INDEXES_FILE: &str = "transaction-index-checkpoint";

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
        self.repeat_markers(&markers, origin);
        let waits: Vec<_> =
            markers.into_iter().map(|m| self.enqueue(m.partition, Payload::Marker(m), origin)).collect();
        async move {
            let mut results = Vec::with_capacity(waits.len());
            for wait in waits {
                let result = wait.await.unwrap_or_else(|| Err(stopped()));
                results.push(result.map(|(appended, _)| appended.base_offset));
            }
            results
        }
    }

    /// See [`StoreOptions::markers_again`](super::types::StoreOptions::markers_again).
    pub(super) fn repeat_markers(self: &Rc<Self>, markers: &[TxnMarker], origin: AppendOrigin) {
        let Some(after) = self.options.markers_again else { return };
        let again: Vec<TxnMarker> = markers.iter().copied().filter(|marker| marker.v2).collect();
        let (store, rt) = (Rc::downgrade(self), self.rt.clone());
        drop(self.rt.spawn(TaskGroup::Requests, "markers again", async move {
            rt.sleep(after).await;
            if let Some(store) = store.upgrade() {
                // Nobody waits for their answers.
                again
                    .into_iter()
                    .for_each(|marker| drop(store.enqueue(marker.partition, Payload::Marker(marker), origin)));
            }
        }));
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

impl<R: Runtime> LogStore<R> {
    /// The aborted transactions that concern a reader of `from..to`. None: segments changed meanwhile.
    pub(super) async fn aborted_between(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        from: Offset,
        to: Offset,
    ) -> Result<Option<Vec<AbortedTxn>>, ReadError> {
        let changed = partition.changed.notified();
        let sources = self.with_log(partition, |log, _| {
            let (mut files, mut resident) = (Vec::new(), Vec::new());
            let mut complete = false;
            for segment in &log.segments[log.segment_of(from.0)..] {
                if segment.index.is_some() {
                    complete = complete || txn_index::collect(&segment.aborted[..], from, to, &mut resident);
                } else if segment.txn_file == TxnFile::Unknown {
                    return None;
                } else if segment.txn_file != TxnFile::Missing {
                    files.push(segment.base);
                }
            }
            // Names of files are changing. Or it is not known yet what was aborted: that reader waits.
            if log.renaming && !files.is_empty() { None } else { Some((log.generation, files, resident)) }
        })?;
        let Some((generation, files, mut resident)) = sources else {
            changed.await;
            return Ok(None);
        };
        let mut found = Vec::new();
        for base in files {
            let bytes = self.txn_index_bytes(partition, base).await;
            if partition.with(|log| log.generation) != Some(generation) {
                return Ok(None);
            }
            let bytes = match bytes {
                Ok(bytes) => bytes,
                Err(why) => {
                    self.suspect_txn_index(partition, base, generation, &why);
                    return Ok(None);
                }
            };
            if txn_index::collect(&Entries(&bytes), from, to, &mut found) {
                return Ok(Some(found));
            }
        }
        found.append(&mut resident);
        Ok(Some(found))
    }

    /// The transaction index of a sealed segment, which has one; or what is wrong with it.
    async fn txn_index_bytes(&self, partition: &Partition, base: i64) -> Result<Bytes, String> {
        let path = self.segment_path(partition, base, FileKind::TxnIndex);
        if let Some(bytes) = self.indexes.borrow_mut().get(&path) {
            return Ok(bytes);
        }
        let note = |log: &mut Log| log.segments.iter().find(|s| s.base == base).and_then(|s| s.txn_file.note());
        let (generation, note) = partition.with(|log| (log.generation, note(log))).unzip();
        let bytes = Bytes::from(self.rt.read_file(&path).await.map_err(|e| e.to_string())?);
        if !txn_index::decode(&bytes, Offset(base)).1 {
            return Err("its entries do not grow, or are not of this segment".to_owned());
        }
        if note.flatten().is_some_and(|note| !note.fits(&bytes)) {
            return Err(format!("it is not what {TXN_INDEXES_FILE} says"));
        }
        if generation == partition.with(|log| log.generation) {
            self.indexes.borrow_mut().put(path, bytes.clone());
        }
        Ok(bytes)
    }

    /// Writes what a growing segment knows of aborted transactions whose markers are before `end`, if its file has not got it.
    pub(super) async fn write_txn_index(&self, partition: &Partition, base: i64, end: i64) -> IoResult<()> {
        let due = partition.with(|log| {
            let segment = log.segments.iter().find(|s| s.base == base && s.index.is_some())?;
            let count = segment.aborted.partition_point(|txn| txn.last_offset.0 < end);
            let known = match segment.txn_file {
                TxnFile::Missing => Some(0),
                TxnFile::Holds(note) => Some(note.entries()),
                TxnFile::Stale(_) | TxnFile::Unknown => None,
            };
            (known != Some(count)).then(|| txn_index::encode(&segment.aborted[..count]))
        });
        let Some(bytes) = due.flatten() else { return Ok(()) };
        let path = self.segment_path(partition, base, FileKind::TxnIndex);
        self.indexes.borrow_mut().forget(&path);
        let written = self.rt.write_file_atomic(&path, &bytes).await;
        self.indexes.borrow_mut().forget(&path);
        written.map_err(|e| self.directory_failed(e))?;
        let noted = partition.with(|log| {
            let segment = log.segments.iter_mut().find(|s| s.base == base)?;
            segment.txn_file = TxnFile::Holds(FileNote::of(&bytes));
            Some(())
        });
        if noted.flatten().is_some() {
            self.note_txn_indexes(partition).await.map_err(|e| self.directory_failed(e))?;
        }
        Ok(())
    }

    /// Notes which segments have a transaction index and what is in it, so that one that is removed is missed, and one that
    /// lost entries is not believed. The files are written first: a note of less fits, one of more has the file made anew.
    pub(super) async fn note_txn_indexes(&self, partition: &Partition) -> IoResult<()> {
        let notes = partition.with(|log| {
            let with_file = log.segments.iter().filter(|s| matches!(s.txn_file, TxnFile::Holds(_) | TxnFile::Stale(_)));
            with_file.map(|s| (s.base, s.txn_file.note())).collect::<BTreeMap<_, _>>()
        });
        let Some(notes) = notes else { return Ok(()) };
        self.write_txn_notes(partition, &notes).await
    }

    pub(super) async fn write_txn_notes(
        &self,
        partition: &Partition,
        notes: &BTreeMap<i64, Option<FileNote>>,
    ) -> IoResult<()> {
        let text = txn_index::encode_notes(notes);
        self.rt.write_file_atomic(&self.dir(partition).join(TXN_INDEXES_FILE), text.as_bytes()).await
    }

    /// The entries of a growing segment's file, if there is one. None: it is damaged.
    pub(super) async fn read_txn_index(
        &self,
        partition: &Partition,
        base: i64,
        note: Option<FileNote>,
    ) -> Result<Option<Vec<AbortedTxn>>, StoreError> {
        let bytes = match self.rt.read_file(&self.segment_path(partition, base, FileKind::TxnIndex)).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind == IoErrorKind::NotFound => return Ok(Some(Vec::new())),
            Err(error) => return Err(StoreError::io("read a transaction index")(error)),
        };
        let (entries, whole) = txn_index::decode(&bytes, Offset(base));
        let whole = whole && note.is_none_or(|note| note.fits(&bytes));
        if !whole {
            tracing::warn!(partition = %partition.dir_name(), segment = base, "transaction index is damaged");
        }
        Ok(whole.then_some(entries))
    }

    /// What is in the file of a sealed segment; none if it is not what was noted, or not whole as far as it can be seen.
    pub(super) async fn sound_txn_index(
        &self,
        partition: &Partition,
        base: i64,
        end: i64,
        note: Option<FileNote>,
    ) -> Option<FileNote> {
        let path = self.segment_path(partition, base, FileKind::TxnIndex);
        let bytes = match self.rt.read_file(&path).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(partition = %partition.dir_name(), segment = base, %error, "transaction index cannot be read");
                return None;
            }
        };
        let (entries, whole) = txn_index::decode(&bytes, Offset(base));
        let sound = whole && entries.last().is_none_or(|last| last.last_offset.0 < end);
        let fits = note.is_none_or(|note| note.fits(&bytes));
        if sound && !fits {
            tracing::warn!(partition = %partition.dir_name(), segment = base, "transaction index is not what {TXN_INDEXES_FILE} says");
        }
        (sound && fits).then(|| FileNote::of(&bytes))
    }

    /// Makes the transaction indexes of these segments anew, from all batches of the log. Gives what is in them now.
    pub(super) async fn rebuild_txn_indexes(
        &self,
        partition: &Rc<Partition>,
        bases: &[i64],
        wanted: &[i64],
    ) -> Result<Vec<(i64, FileNote)>, StoreError> {
        let mut producers = ProducerStates::default();
        let mut found: BTreeMap<i64, Vec<AbortedTxn>> = BTreeMap::new();
        for base in bases.iter().filter(|base| wanted.last().is_some_and(|last| *base <= last)) {
            let scanned = self.scan_segment(partition, *base, 0, |header, bytes, _| {
                let aborted = producers.note(header, bytes).aborted;
                producers.committed(header.next_offset());
                found.entry(*base).or_default().extend(aborted);
            });
            scanned.await?;
        }
        let mut made = Vec::new();
        for base in wanted {
            let entries = found.remove(base).unwrap_or_default();
            tracing::info!(
                partition = %partition.dir_name(), segment = base, entries = entries.len(), "transaction index is rebuilt"
            );
            let path = self.segment_path(partition, *base, FileKind::TxnIndex);
            let bytes = txn_index::encode(&entries);
            let written = self.rt.write_file_atomic(&path, &bytes).await;
            written.map_err(StoreError::io("write a rebuilt transaction index"))?;
            made.push((*base, FileNote::of(&bytes)));
        }
        Ok(made)
    }
}

/// True if a batch ends a transaction by aborting it.
pub(super) fn is_abort(header: &RecordBatchHeader, bytes: &[u8]) -> bool {
    read_marker(header, bytes).is_some_and(|marker| !marker.commit)
}

impl Log {
    /// Notes a batch that was just added with its producer. `marker`: what it says, if it ends a transaction.
    pub(super) fn note_producer(&mut self, header: &RecordBatchHeader, marker: Option<EndTxnMarker>) -> Option<Undo> {
        let Some(marker) = marker else {
            return self.producers.update(header);
        };
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
    // What the coordinator was asked about the transaction that ends counts no more.
    log.verifications.ended(marker.producer_id, marker.producer_epoch, marker.v2);
    add_all(log, spec, BytesMut::from(&bytes[..]), &[header], stamp, origin, expiration_ms);
    log.assert_invariants();
    let appended = Appended {
        base_offset: Offset(first),
        log_append_time_ms: stamp.unwrap_or(-1),
        log_start_offset: Offset(log.log_start),
    };
    Ok(Done { appended, end: log.log_end, batches: 1, bytes: len, copied: len })
}
