//! One cleaning of one partition: keys into the map, then segments copied in groups, each group swapped in by itself.
//!
//! Nothing holds the core: the task yields between steps of at most some 64 KiB of records.

use super::files::{BatchReader, SegmentWriter};
use super::{CleanError, rules};
use crate::broker::store::partition::{Partition, TxnFile};
use crate::broker::store::{LogStore, StoreState};
use crate::ids::{Offset, ProducerId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::compaction::{
    Assessment, BatchCleaner, Cleaned, Counts, KeyReader, KeyStep, LastRecord, OffsetMap, Retention, SegmentView, Step,
    Swap, Transactions, group,
};
use crate::log::log_config::LogConfig;
use crate::log::segment::{FileKind, file_name};
use crate::log::txn_index::{self, AbortedTxn, FileNote};
use bytes::Bytes;
use coreline_io::{File, IoError, IoErrorKind, Runtime};
use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

/// A cleaning under way.
pub(super) struct Job {
    pub(super) partition: Rc<Partition>,
    config: Arc<LogConfig>,
    /// The log's when it began: another one says that segments went meanwhile.
    pub(super) generation: Cell<u64>,
    /// Segments that may be copied.
    segments: Vec<SegmentView>,
    first_dirty: i64,
    first_uncleanable: i64,
    /// Bytes of one read or write.
    piece: usize,
    last_records: HashMap<ProducerId, LastRecord>,
    /// The aborted transactions that touch `segments`.
    aborted: Vec<AbortedTxn>,
    now_ms: i64,
}

/// A cleaned segment, on the device, under a name of its own.
pub(super) struct Built {
    pub(super) swap: Swap,
    pub(super) size: u64,
    /// What is in its transaction index, if it has one.
    pub(super) aborted: Option<FileNote>,
    /// Something went, or a horizon was set.
    changed: bool,
    counts: Counts,
}

impl<R: Runtime> LogStore<R> {
    /// Cleans a partition as far as the map reaches.
    pub(super) async fn clean(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        found: &Assessment,
        generation: u64,
    ) -> Result<(), CleanError> {
        let job = self.begin(partition, found, generation).await?;
        match self.clean_segments(&job).await {
            // What was not to be read or written went meanwhile.
            Err(CleanError::Uncleanable(_)) if self.still_wanted(&job).is_err() => Err(CleanError::Changed),
            other => other,
        }
    }

    async fn clean_segments(self: &Rc<Self>, job: &Job) -> Result<(), CleanError> {
        let partition = &job.partition;
        let (map, mapped_end) = self.fill_map(job).await?;
        let count = job.segments.partition_point(|s| s.base < mapped_end);
        let end = job.segments.get(count).map_or(job.first_uncleanable, |s| s.base);
        let retention = Retention {
            map: &map,
            mapped_end,
            upper_bound: job.first_uncleanable,
            now_ms: job.now_ms,
            delete_retention_ms: job.config.delete_retention_ms,
            last_records: &job.last_records,
        };
        let mut transactions = Transactions::new(job.aborted.iter().copied());
        let mut counts = Counts::default();
        for range in group(&job.segments[..count], end, &rules(&job.config)) {
            let segments = &job.segments[range];
            let built = match self.copy_group(job, segments, &retention, &mut transactions).await {
                Ok(built) => built,
                Err(error) => {
                    self.remove_cleaned(job, segments[0].base).await;
                    return Err(error);
                }
            };
            counts.read += built.counts.read;
            counts.kept += built.counts.kept;
            if built.changed {
                self.swap_in(job, &built).await?;
            } else {
                self.remove_cleaned(job, segments[0].base).await;
            }
        }
        self.write_checkpoint(partition, mapped_end).await?;
        self.count(|s| {
            s.compactions += 1;
            s.compacted_records += counts.read - counts.kept;
        });
        tracing::debug!(
            partition = %partition.dir_name(), read = counts.read, kept = counts.kept, end = mapped_end, "compacted"
        );
        Ok(())
    }

    async fn begin(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        found: &Assessment,
        generation: u64,
    ) -> Result<Job, CleanError> {
        let config = partition.spec.borrow().config.clone();
        let mut segments = self.sealed_segments(partition, &config).await?;
        segments.retain(|s| s.base < found.first_uncleanable);
        let state = partition.with(|log| {
            // What is not committed may yet be taken back: the batch before it counts.
            let last = |e: &crate::log::producer_state::ProducerEntry| {
                let committed = e.batches.iter().rev().find(|b| b.last_offset.0 < log.committed_end);
                committed.map_or(LastRecord::Marker(e.epoch), |b| LastRecord::Data(b.last_offset.0))
            };
            let last_records = log.producers.iter().map(|(id, entry)| (id, last(entry))).collect();
            (log.generation == generation).then_some(last_records)
        });
        let last_records = state.flatten().ok_or(CleanError::Changed)?;
        let (from, to) = (segments.first().map_or(0, |s| s.base), found.first_uncleanable);
        let aborted = self.aborted_between(partition, Offset(from), Offset(to)).await;
        let aborted = aborted.map_err(|e| CleanError::Uncleanable(e.message))?.ok_or(CleanError::Changed)?;
        Ok(Job {
            partition: partition.clone(),
            config,
            generation: Cell::new(generation),
            segments,
            first_dirty: found.first_dirty,
            first_uncleanable: found.first_uncleanable,
            piece: self.cleaner.options.borrow().io_buffer_bytes,
            last_records,
            aborted,
            now_ms: self.rt.wall_ms(),
        })
    }

    /// Reads the keys of the dirty part. Gives the map and the end of what it covers.
    async fn fill_map(&self, job: &Job) -> Result<(OffsetMap, i64), CleanError> {
        let (bytes, load_factor) = {
            let options = self.cleaner.options.borrow();
            (options.dedupe_buffer_bytes, options.load_factor)
        };
        let records = job.first_uncleanable.saturating_sub(job.first_dirty).max(1) as u64;
        let seed = (self.rt.next_u64(), self.rt.next_u64());
        let mut map = OffsetMap::new(bytes, load_factor, records, seed);
        // A record of an aborted transaction supersedes nothing.
        let mut transactions = Transactions::new(job.aborted.iter().copied());
        let first = job.segments.partition_point(|s| s.base <= job.first_dirty).saturating_sub(1);
        for segment in &job.segments[first..] {
            let position = if segment.base < job.first_dirty {
                self.position_before(&job.partition, segment.base, job.first_dirty).await?
            } else {
                0
            };
            let mut reader = self.batch_reader(job, segment, position).await?;
            while let Some((header, bytes)) = self.next_batch(job, &mut reader).await? {
                let aborted = transactions.on_batch(&header, &bytes);
                if aborted || header.is_control() || header.last_offset().0 < job.first_dirty {
                    continue;
                }
                if let Some(end) = self.read_keys(job, &header, &bytes, &mut map).await? {
                    return Ok((map, end));
                }
            }
        }
        Ok((map, job.first_uncleanable))
    }

    /// The keys of one batch. Gives where it stopped, if the map is full.
    async fn read_keys(
        &self,
        job: &Job,
        header: &RecordBatchHeader,
        bytes: &[u8],
        map: &mut OffsetMap,
    ) -> Result<Option<i64>, CleanError> {
        let mut keys = KeyReader::new(header, bytes, job.first_dirty).map_err(|e| uncleanable(job, &e))?;
        loop {
            match keys.step(map).map_err(|e| uncleanable(job, &e))? {
                KeyStep::Done => return Ok(None),
                KeyStep::Full(offset) => return Ok(Some(offset)),
                KeyStep::More => self.breathe().await,
            }
        }
    }

    /// Copies what stays of neighbouring segments into one new one.
    async fn copy_group(
        &self,
        job: &Job,
        segments: &[SegmentView],
        retention: &Retention<'_>,
        transactions: &mut Transactions,
    ) -> Result<Built, CleanError> {
        let base = segments[0].base;
        let path = self.cleaned_path(job, base, FileKind::Log);
        let interval = job.config.index_interval_bytes;
        let writer = SegmentWriter::<R>::create(&self.rt, &path, base, job.piece, interval).await;
        let mut writer = writer.map_err(|e| self.cleaned_write_failed(job, e))?;
        let mut changed = segments.len() > 1;
        let mut counts = Counts::default();
        for segment in segments {
            let mut reader = self.batch_reader(job, segment, 0).await?;
            while let Some((header, bytes)) = self.next_batch(job, &mut reader).await? {
                let may_go = transactions.on_batch(&header, &bytes);
                let (cleaned, found) = self.clean_batch(job, &header, &bytes, retention, may_go).await?;
                counts.read += found.read;
                counts.kept += found.kept;
                changed |= cleaned != Cleaned::Same;
                let bytes: Bytes = match cleaned {
                    Cleaned::Gone => continue,
                    Cleaned::Same => bytes,
                    Cleaned::Rewritten(new) => new.into(),
                };
                let header = batch::parse_header(&bytes).expect("a batch that was made here has a header");
                if writer.size() + bytes.len() as u64 > i32::MAX as u64 {
                    return Err(CleanError::Uncleanable(format!("segment {base} would pass 2 GiB")));
                }
                let written = writer.push(&header, &bytes).await.map_err(|e| self.cleaned_write_failed(job, e))?;
                self.count(|s| s.compaction_written_bytes += written as u64);
                self.throttle(written).await;
            }
        }
        let aborted = self.write_cleaned_txn_index(job, segments, &transactions.take_kept()).await?;
        let size = self.finish_files(job, writer, base).await?;
        let swap = Swap { replaced: segments.iter().map(|s| s.base).collect() };
        Ok(Built { swap, size, aborted, changed, counts })
    }

    /// The transaction index of the new segment, if there is something to hold, or one to take the place of. Gives what is in it.
    async fn write_cleaned_txn_index(
        &self,
        job: &Job,
        segments: &[SegmentView],
        kept: &[AbortedTxn],
    ) -> Result<Option<FileNote>, CleanError> {
        let bases: Vec<i64> = segments.iter().map(|s| s.base).collect();
        let had = job.partition.with(|log| {
            let mut replaced = log.segments.iter().filter(|s| bases.contains(&s.base));
            replaced.any(|s| s.txn_file != TxnFile::Missing)
        });
        if kept.is_empty() && had != Some(true) {
            return Ok(None);
        }
        let path = self.cleaned_path(job, bases[0], FileKind::TxnIndex);
        let bytes = txn_index::encode(kept);
        let written = self.rt.write_file_atomic(&path, &bytes).await;
        written.map_err(|e| self.cleaned_write_failed(job, e))?;
        Ok(Some(FileNote::of(&bytes)))
    }

    async fn clean_batch(
        &self,
        job: &Job,
        header: &RecordBatchHeader,
        bytes: &[u8],
        retention: &Retention<'_>,
        may_go: bool,
    ) -> Result<(Cleaned, Counts), CleanError> {
        let mut cleaner = BatchCleaner::new(header, bytes, retention, may_go).map_err(|e| uncleanable(job, &e))?;
        loop {
            match cleaner.step().map_err(|e| uncleanable(job, &e))? {
                Step::Done(cleaned, counts) => return Ok((cleaned, counts)),
                Step::More => self.breathe().await,
            }
        }
    }

    /// Puts the new segment and its indexes on the device, names included. Gives its size.
    async fn finish_files(&self, job: &Job, writer: SegmentWriter<R>, base: i64) -> Result<u64, CleanError> {
        let finished = writer.finish().await.map_err(|e| self.cleaned_write_failed(job, e))?;
        let (file, size, index) = finished;
        file.sync_data().await.map_err(|e| self.cleaned_sync_failed(e))?;
        for (kind, bytes) in
            [(FileKind::TimeIndex, &index.times.pending), (FileKind::OffsetIndex, &index.offsets.pending)]
        {
            let written = self.rt.write_file_atomic(&self.cleaned_path(job, base, kind), bytes).await;
            written.map_err(|e| self.cleaned_write_failed(job, e))?;
        }
        self.still_wanted(job)?;
        self.rt.sync_dir(&self.dir(&job.partition)).await.map_err(|e| {
            // A deleted partition has no directory to sync.
            if job.partition.is_ready() { self.cleaned_sync_failed(e) } else { CleanError::Changed }
        })?;
        Ok(size)
    }

    /// `<base>.log.cleaned`
    pub(super) fn cleaned_path(&self, job: &Job, base: i64, kind: FileKind) -> PathBuf {
        self.dir(&job.partition).join(format!("{}{}", file_name(base, kind), Swap::SUFFIX))
    }

    async fn batch_reader(
        &self,
        job: &Job,
        segment: &SegmentView,
        position: u64,
    ) -> Result<BatchReader<R>, CleanError> {
        self.still_wanted(job)?;
        let path = self.segment_path(&job.partition, segment.base, FileKind::Log);
        let file = self.files.get(&self.rt, &path, false).await.map_err(|e| self.read_failed(job, &e))?;
        self.still_wanted(job)?;
        Ok(BatchReader::new(file, path, segment.base, position, segment.size, job.piece))
    }

    async fn next_batch(
        &self,
        job: &Job,
        reader: &mut BatchReader<R>,
    ) -> Result<Option<(RecordBatchHeader, Bytes)>, CleanError> {
        let mut read = 0;
        let batch = reader.next(&mut read).await;
        self.still_wanted(job)?;
        self.count(|s| s.compaction_read_bytes += read as u64);
        self.throttle(read).await;
        self.breathe().await;
        batch
    }

    /// Lets others work when the slice is over.
    async fn breathe(&self) {
        if self.rt.should_yield() {
            self.rt.yield_now().await;
        }
    }

    /// The partition is there, its segments are the same, and the store goes on.
    pub(super) fn still_wanted(&self, job: &Job) -> Result<(), CleanError> {
        let same = job.partition.with(|log| log.generation) == Some(job.generation.get());
        let stays = !job.partition.leaving.get();
        if same && stays && self.state.get() == StoreState::Open { Ok(()) } else { Err(CleanError::Changed) }
    }

    /// Removes what a cleaning that was given up left. What stays goes at the next load or the next cleaning.
    pub(super) async fn remove_cleaned(&self, job: &Job, base: i64) {
        for kind in FileKind::SEGMENT {
            let _ = self.rt.remove_file(&self.cleaned_path(job, base, kind)).await;
        }
    }

    fn read_failed(&self, job: &Job, error: &IoError) -> CleanError {
        match self.still_wanted(job) {
            Err(changed) => changed,
            Ok(()) => CleanError::Uncleanable(error.to_string()),
        }
    }

    /// A write to a file of the cleaner's own failed: nobody's data is in doubt, but the device is.
    pub(super) fn cleaned_write_failed(&self, job: &Job, error: IoError) -> CleanError {
        if error.kind == IoErrorKind::NotFound && self.still_wanted(job).is_err() {
            return CleanError::Changed;
        }
        self.clean_failed(&self.write_failed(error))
    }

    fn cleaned_sync_failed(&self, error: IoError) -> CleanError {
        self.clean_failed(&self.sync_failed(error))
    }
}

fn uncleanable(job: &Job, error: &batch::BatchError) -> CleanError {
    CleanError::Uncleanable(format!("{}: {error}", job.partition.dir_name()))
}
