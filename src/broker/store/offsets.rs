//! ListOffsets, OffsetForLeaderEpoch, DescribeProducers: questions about a log.

use super::LogStore;
use super::partition::{Log, Partition};
use super::read::{check_epoch, epoch_of};
use super::types::{EpochEnd, Isolation, OffsetFound, OffsetQuery, ProducerInfo, ReadError, ReadRequest};
use crate::ids::{LeaderEpoch, Offset, PartitionId};
use crate::log::batch::{self, RecordBatchHeader};
use crate::log::index::TimeEntry;
use crate::log::segment::FileKind;
use bytes::Bytes;
use coreline_io::Runtime;
use std::rc::Rc;

const SEARCH_BYTES: usize = 512 << 10;

/// The time index of a segment: its entries as far as they are known.
struct Times {
    segment: i64,
    /// No file to read: it grows, these are its entries that are not in the file yet.
    pending: Option<(u64, Vec<u8>, Option<TimeEntry>)>,
}

impl<R: Runtime> LogStore<R> {
    pub(super) async fn find_offset(
        self: &Rc<Self>,
        id: PartitionId,
        query: OffsetQuery,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<Option<OffsetFound>, ReadError> {
        let partition = self.loaded(id).await?;
        let ends = self.with_log(&partition, |log, epoch| {
            check_epoch(current_leader_epoch, epoch, log)?;
            let found = |offset| OffsetFound { offset, timestamp: -1, leader_epoch: epoch_of(log, offset) };
            Ok(match query {
                OffsetQuery::Earliest => Some(found(Offset(log.log_start))),
                // The epoch of the end is the leader's own.
                OffsetQuery::Latest(Isolation::ReadUncommitted) => {
                    Some(OffsetFound { leader_epoch: epoch, ..found(log.ends().high_watermark) })
                }
                OffsetQuery::Latest(Isolation::ReadCommitted) => {
                    Some(OffsetFound { leader_epoch: epoch, ..found(log.ends().last_stable) })
                }
                OffsetQuery::MaxTimestamp | OffsetQuery::Timestamp(_) => None,
            })
        })??;
        if matches!(query, OffsetQuery::MaxTimestamp | OffsetQuery::Timestamp(_)) {
            self.commits_what_is_written(&partition).await;
        }
        loop {
            let before = self.with_log(&partition, |log, _| (log.generation, log.log_start))?;
            let found = match query {
                OffsetQuery::MaxTimestamp => self.max_timestamp(&partition).await,
                OffsetQuery::Timestamp(at) => self.first_at_or_after(&partition, at).await,
                _ => return Ok(ends),
            };
            // Segments may leave the log while it is searched, to retention or to the cleaner: then once more.
            if self.with_log(&partition, |log, _| (log.generation, log.log_start))? == before {
                return found;
            }
        }
    }

    /// Indexes know batches as soon as they are written; of a direct write that is before they may be read.
    async fn commits_what_is_written(&self, partition: &Partition) {
        loop {
            let changed = partition.changed.notified();
            if partition.with(|log| log.flushed_end <= log.committed_end) != Some(false) {
                return;
            }
            changed.await;
        }
    }

    /// The first record at or after a time, exact inside batches, compressed ones too.
    async fn first_at_or_after(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        time: i64,
    ) -> Result<Option<OffsetFound>, ReadError> {
        for times in self.segment_times(partition)? {
            let Some(entry) = self.time_lookup(partition, &times, time).await? else { continue };
            let found = self.first_in_segment(partition, &times, entry, time).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The same within a segment, from where its time index says.
    async fn first_in_segment(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        times: &Times,
        entry: Option<TimeEntry>,
        time: i64,
    ) -> Result<Option<OffsetFound>, ReadError> {
        let generation = self.with_log(partition, |log, _| log.generation)?;
        let last = times.pending.is_some();
        let wanted = |h: &RecordBatchHeader| h.record_count > 0 && h.max_timestamp >= time;
        let mut wrong = false;
        let from = entry.map_or(times.segment, |entry| entry.offset);
        let found = self
            .search(partition, from, times.segment, last, |header, bytes| {
                // An entry is of its batch, or not of this segment.
                let named = entry.filter(|e| (header.base_offset.0..=header.last_offset().0).contains(&e.offset));
                wrong |= named.is_some_and(|e| e.timestamp != header.max_timestamp);
                let found = wanted(header).then(|| self.record_at(partition, header, bytes, |t| t >= time));
                found.flatten()
            })
            .await?;
        if !wrong {
            return Ok(found);
        }
        self.suspect_index(partition, times.segment, generation, "an entry is not of its batch");
        self.search(partition, times.segment, times.segment, last, |header, bytes| {
            wanted(header).then(|| self.record_at(partition, header, bytes, |t| t >= time)).flatten()
        })
        .await
    }

    /// The first record with the largest timestamp of the log.
    async fn max_timestamp(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<Option<OffsetFound>, ReadError> {
        let best = loop {
            let changed = partition.changed.notified();
            let rebuilding = || self.with_log(partition, |log, _| log.segments.iter().any(|s| s.rebuilding));
            if !rebuilding()? {
                let best = self.largest_entry(partition).await?;
                if !rebuilding()? {
                    break best;
                }
            }
            // Of a segment without an index nothing is known.
            changed.await;
        };
        let Some(best) = best.filter(|b| b.timestamp >= 0) else { return Ok(None) };
        let wanted = |h: &RecordBatchHeader| h.record_count > 0 && h.max_timestamp == best.timestamp;
        let found = self
            .search(partition, best.offset, i64::MIN, true, |header, bytes| {
                if wanted(header) { self.record_at(partition, header, bytes, |t| t == best.timestamp) } else { None }
            })
            .await?;
        match found {
            Some(found) => Ok(Some(found)),
            // It is before the log's start, in a segment that holds it still.
            None => self.max_timestamp_of_all(partition).await,
        }
    }

    /// The largest entry of all time indexes, and of what is resident.
    async fn largest_entry(self: &Rc<Self>, partition: &Rc<Partition>) -> Result<Option<TimeEntry>, ReadError> {
        // Together with what the segments know: a flush moves batches from one to the other.
        let mut best = self.with_log(partition, |log, _| resident_max(log))?;
        for times in self.segment_times(partition)? {
            let entry = match &times.pending {
                Some((_, _, max)) => *max,
                None => {
                    let index = self.sealed_index(partition, times.segment, FileKind::TimeIndex).await?;
                    TimeEntry::last(&index, times.segment)
                }
            };
            // Of one time, the first record.
            let better = |e: &TimeEntry, b: TimeEntry| (e.timestamp, b.offset) > (b.timestamp, e.offset);
            if let Some(entry) = entry.filter(|e| best.is_none_or(|b| better(e, b))) {
                best = Some(entry);
            }
        }
        Ok(best)
    }

    /// The same from every record there is: indexes know nothing of a start within a segment.
    async fn max_timestamp_of_all(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
    ) -> Result<Option<OffsetFound>, ReadError> {
        let mut best: Option<OffsetFound> = None;
        let none = self
            .search(partition, 0, i64::MIN, true, |header, bytes| {
                let than = best.as_ref().map_or(-1, |b| b.timestamp);
                if header.record_count > 0 && header.max_timestamp > than {
                    let largest = self.record_at(partition, header, bytes, |t| t == header.max_timestamp);
                    best = largest.or_else(|| self.largest_in(partition, header, bytes, than)).or(best.take());
                }
                None
            })
            .await?;
        debug_assert!(none.is_none());
        Ok(best)
    }

    fn segment_times(&self, partition: &Rc<Partition>) -> Result<Vec<Times>, ReadError> {
        self.with_log(partition, |log, _| {
            let times = |s: &super::partition::Segment| Times {
                segment: s.base,
                pending: s.index.as_ref().map(|i| (i.times.written, i.times.pending.clone(), i.max)),
            };
            log.segments.iter().filter(|s| s.size > 0).map(times).collect()
        })
    }

    /// The entry to begin at in a segment, if not at its start; `None` if all of it is earlier.
    async fn time_lookup(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        times: &Times,
        time: i64,
    ) -> Result<Option<Option<TimeEntry>>, ReadError> {
        let base = times.segment;
        let file = match &times.pending {
            Some((0, _, _)) => Bytes::new(),
            Some(_) => self.growing_index(partition, base, FileKind::TimeIndex).await?,
            None => self.sealed_index(partition, base, FileKind::TimeIndex).await?,
        };
        let Some((written, pending, _)) = &times.pending else {
            // An empty index says nothing: records without timestamps.
            let earlier = TimeEntry::last(&file, base).is_some_and(|last| last.timestamp < time);
            return Ok((!earlier).then(|| TimeEntry::before(&file, base, time)));
        };
        let mut entries = file[..(*written as usize).min(file.len())].to_vec();
        entries.extend_from_slice(pending);
        Ok(Some(TimeEntry::before(&entries, base, time)))
    }

    /// What `pick` finds first in committed batches from `from` on; within the segment at `segment`, unless `beyond`.
    async fn search(
        self: &Rc<Self>,
        partition: &Rc<Partition>,
        from: i64,
        segment: i64,
        beyond: bool,
        mut pick: impl FnMut(&RecordBatchHeader, &[u8]) -> Option<OffsetFound>,
    ) -> Result<Option<OffsetFound>, ReadError> {
        let next_segment = self.with_log(partition, |log, _| {
            log.segments.iter().map(|s| s.base).find(|b| *b > segment).filter(|_| !beyond).unwrap_or(i64::MAX)
        })?;
        let (start, end) = self.with_log(partition, |log, _| (log.log_start, log.high_watermark))?;
        let mut offset = from.max(start);
        while offset < next_segment.min(end) {
            let request = ReadRequest {
                offset: Offset(offset),
                max_bytes: SEARCH_BYTES,
                at_least_one: true,
                isolation: Isolation::ReadUncommitted,
                current_leader_epoch: None,
            };
            let result = self.read_partition(partition.id, &request).await?;
            let bytes = Bytes::from(result.records.concat());
            if bytes.is_empty() {
                return Ok(None);
            }
            for found in batch::batches(&bytes.clone()) {
                let Ok((header, range)) = found else { return Ok(None) };
                if let Some(found) = pick(&header, &bytes[range]) {
                    return Ok(Some(found));
                }
                offset = header.next_offset().0;
            }
        }
        Ok(None)
    }

    /// The first record of a batch that is not before the log's start and has a wanted time.
    fn record_at(
        &self,
        partition: &Partition,
        header: &RecordBatchHeader,
        bytes: &[u8],
        wanted: impl Fn(i64) -> bool,
    ) -> Option<OffsetFound> {
        let start = partition.with(|log| log.log_start).unwrap_or(0);
        let mut found = OffsetFound {
            offset: Offset(header.base_offset.0.max(start)),
            timestamp: header.max_timestamp,
            leader_epoch: header.partition_leader_epoch,
        };
        // Records that cannot be read were taken as they came: the batch stands for them.
        let Ok(times) = batch::record_times(header, bytes) else { return Some(found) };
        (found.offset, found.timestamp) = times.into_iter().find(|(o, t)| o.0 >= start && wanted(*t))?;
        Some(found)
    }

    /// The first record with the largest time of a batch of which records are before the log's start, if that is
    /// later than `than`.
    fn largest_in(
        &self,
        partition: &Partition,
        header: &RecordBatchHeader,
        bytes: &[u8],
        than: i64,
    ) -> Option<OffsetFound> {
        let start = partition.with(|log| log.log_start).unwrap_or(0);
        let times = batch::record_times(header, bytes).ok()?;
        let largest = times.into_iter().filter(|(o, _)| o.0 >= start).map(|(_, t)| t).max().filter(|t| *t > than)?;
        self.record_at(partition, header, bytes, |t| t == largest)
    }

    pub(super) async fn epoch_end(
        self: &Rc<Self>,
        id: PartitionId,
        epoch: LeaderEpoch,
        current_leader_epoch: Option<LeaderEpoch>,
    ) -> Result<EpochEnd, ReadError> {
        let partition = self.loaded(id).await?;
        self.with_log(&partition, |log, ours| {
            check_epoch(current_leader_epoch, ours, log)?;
            // The leader's own epoch ends at the log end, also before its first record.
            let end = if epoch == ours {
                Some((ours, Offset(log.log_end)))
            } else {
                log.epochs.end_offset_for(epoch, Offset(log.log_end))
            };
            let (leader_epoch, end_offset) = end.unwrap_or((LeaderEpoch(-1), Offset(-1)));
            Ok(EpochEnd { leader_epoch, end_offset })
        })?
    }

    pub(super) async fn active_producers(self: &Rc<Self>, id: PartitionId) -> Result<Vec<ProducerInfo>, ReadError> {
        let partition = self.loaded(id).await?;
        self.with_log(&partition, |log, _| {
            let mut found: Vec<_> = log
                .producers
                .iter()
                .map(|(producer_id, p)| ProducerInfo {
                    producer_id,
                    producer_epoch: p.epoch,
                    last_sequence: p.batches.back().map_or(-1, |b| b.last_sequence),
                    last_timestamp: p.last_timestamp,
                    coordinator_epoch: p.coordinator_epoch,
                    current_txn_start_offset: p.current_txn_first_offset.unwrap_or(Offset(-1)),
                })
                .collect();
            found.sort_by_key(|p| p.producer_id);
            found
        })
    }
}

/// The largest timestamp of committed resident batches.
fn resident_max(log: &Log) -> Option<TimeEntry> {
    let mut best: Option<TimeEntry> = None;
    for batch in (0..log.tail.len()).filter_map(|i| log.tail.get(i)).take_while(|b| b.last < log.high_watermark) {
        if best.is_none_or(|b| batch.max_timestamp > b.timestamp) {
            best = Some(TimeEntry { timestamp: batch.max_timestamp, offset: batch.last });
        }
    }
    best
}
