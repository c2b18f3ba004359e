//! What one shard knows, for a scrape.

use crate::broker::Shard;
use crate::broker::store::{Survey, TopicIntake};
use crate::ids::TopicId;
use crate::latency::{Row, Span};
use crate::metrics::{Family, Samples, Value};
use coreline_io::{Counters, Runtime};
use std::collections::BTreeMap;
use std::sync::Arc;

/// After `transaction.max.timeout.ms` a transaction has this much longer, as in Kafka.
const LATE_MS: i64 = 5 * 60_000;

/// What a shard's handlers keep.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// Incremental fetch sessions.
    pub sessions: usize,
    /// Those that had to go.
    pub session_evictions: u64,
    /// Groups.
    pub groups: u64,
    /// Their members.
    pub members: u64,
    /// Transactional ids by state.
    pub transactional_ids: BTreeMap<&'static str, u64>,
}

/// What a shard did with a topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TopicSums {
    /// Appended.
    pub intake: TopicIntake,
    /// Bytes of records sent.
    pub bytes_out: u64,
    /// Bytes in segments of loaded partitions.
    pub log_bytes: u64,
}

/// What one shard knows.
#[derive(Debug, Default)]
pub struct ShardReport {
    /// All with the shard's label.
    pub samples: Samples,
    /// How long requests took lately, by API and stage.
    pub recent: Vec<Row>,
    /// How long requests took since the start, by API.
    pub whole: Vec<Row>,
    /// By topic.
    pub topics: BTreeMap<TopicId, TopicSums>,
    /// Partitions that cannot be compacted.
    pub uncleanable: Vec<(Arc<str>, i32)>,
}

/// Gathers what a shard knows; lets others run in between.
pub async fn gather<R: Runtime>(shard: &Shard<R>, kept: Kept) -> ShardReport {
    let image = shard.image();
    let known = |id| image.topic_by_id(id).is_some();
    let late_before_ms = shard.runtime.wall_ms() - shard.config.integer("transaction.max.timeout.ms") - LATE_MS;
    let survey = shard.store.survey(late_before_ms, known).await;
    let mut report = ShardReport {
        samples: Samples::labelled(vec![("shard", shard.id.to_string())]),
        uncleanable: survey.uncleanable.clone(),
        ..ShardReport::default()
    };
    report.latencies(shard).await;
    let samples = &mut report.samples;
    connections(shard, samples);
    kept_things(&kept, samples);
    log(&survey, samples);
    runtime(&shard.runtime, samples);
    let counters = shard.runtime.counters();
    let copies = [
        ("frame", shard.meters.frame_copied_bytes.get()),
        ("chunk", survey.stats.copied_bytes),
        ("write", counters.write_bytes),
        ("read", counters.read_copied_bytes),
    ];
    for (place, bytes) in copies {
        samples.put(Family::CopiedBytes, &[("where", place)], Value::Whole(bytes));
    }
    if counters.allocations > 0 {
        samples.whole(Family::Allocations, counters.allocations);
    }
    let topics = &mut report.topics;
    survey.log_bytes.iter().for_each(|(id, bytes)| topics.entry(*id).or_default().log_bytes = *bytes);
    survey.intake.iter().for_each(|(id, intake)| topics.entry(*id).or_default().intake = *intake);
    for (id, bytes) in shard.meters.fetched(known) {
        topics.entry(id).or_default().bytes_out = bytes;
    }
    report
}

impl ShardReport {
    /// One API at a time: a histogram has three thousand cells.
    async fn latencies<R: Runtime>(&mut self, shard: &Shard<R>) {
        for api in shard.latencies.apis() {
            let now = shard.runtime.now();
            self.recent.extend(shard.latencies.rows(api, Span::Recent, false, now));
            let whole = shard.latencies.rows(api, Span::All, true, now);
            self.whole.extend(whole);
            if shard.runtime.should_yield() {
                shard.runtime.yield_now().await;
            }
        }
        for (api, count) in shard.latencies.answered() {
            self.samples.put(Family::Requests, &[("request", api.name())], Value::Whole(count));
        }
        for (api, error, count) in shard.meters.errors() {
            self.samples.put(Family::Errors, &[("request", api.name()), ("error", error)], Value::Whole(count));
        }
    }
}

fn connections<R: Runtime>(shard: &Shard<R>, samples: &mut Samples) {
    let meters = &shard.meters;
    samples.whole(Family::Connections, meters.connections.get());
    samples.whole(Family::Broken, meters.refused.get());
    if let Some(counts) = meters.steered() {
        let mut put =
            |family, label, (name, value): (&str, u64)| samples.put(family, &[(label, name)], Value::Whole(value));
        put(Family::RoutedRequests, "where", ("here", counts.local));
        put(Family::RoutedRequests, "where", ("elsewhere", counts.crossed));
        put(Family::ConnectionMoves, "direction", ("left", counts.left));
        put(Family::ConnectionMoves, "direction", ("came", counts.came));
    }
}

fn kept_things(kept: &Kept, samples: &mut Samples) {
    samples.whole(Family::FetchSessions, kept.sessions as u64);
    samples.whole(Family::FetchSessionEvictions, kept.session_evictions);
    samples.whole(Family::Groups, kept.groups);
    samples.whole(Family::Members, kept.members);
    for (state, count) in &kept.transactional_ids {
        samples.put(Family::TransactionalIds, &[("state", state)], Value::Whole(*count));
    }
}

fn log(survey: &Survey, samples: &mut Samples) {
    let stats = &survey.stats;
    samples.put(Family::FlushSeconds, &[], Value::Times(survey.flush_times.clone()));
    let all = [
        (Family::Partitions, survey.partitions),
        (Family::LoadedPartitions, survey.loaded),
        (Family::OfflinePartitions, survey.failed),
        (Family::Segments, survey.segments),
        (Family::OpenTransactions, survey.open_transactions),
        (Family::LateTransactions, survey.late),
        (Family::CompactionWaiting, survey.compaction_waiting),
        (Family::Batches, stats.batches),
        (Family::GroupCommits, stats.groups),
        (Family::JournalBytes, stats.journal_bytes),
        (Family::DirectWrites, stats.direct_writes),
        (Family::SegmentBytes, stats.segment_bytes),
        (Family::NotDurableBytes, stats.not_durable_bytes),
        (Family::UnflushedBytes, stats.unflushed_bytes),
        (Family::CacheBytes, stats.cache_bytes),
        (Family::OpenFiles, stats.open_files),
        (Family::ColdBytes, stats.cold_bytes),
        (Family::DeviceReadBytes, stats.device_read_bytes),
        (Family::SharedReadBytes, stats.shared_read_bytes),
        (Family::RetentionSegments, stats.retention_segments),
        (Family::RetentionBytes, stats.retention_bytes),
        (Family::UncleanableCount, stats.uncleanable_partitions),
        (Family::Compactions, stats.compactions),
        (Family::CompactedRecords, stats.compacted_records),
        (Family::CompactionReadBytes, stats.compaction_read_bytes),
        (Family::CompactionWrittenBytes, stats.compaction_written_bytes),
    ];
    all.into_iter().for_each(|(family, value)| samples.whole(family, value));
}

fn runtime<R: Runtime>(runtime: &R, samples: &mut Samples) {
    let Counters { recv_calls, recv_bytes, send_calls, send_bytes, accepted, .. } = runtime.counters();
    let Counters { readiness_wakeups, reads, writes, syncs, .. } = runtime.counters();
    samples.whole(Family::ReceivedBytes, recv_bytes);
    samples.whole(Family::SentBytes, send_bytes);
    samples.whole(Family::Accepted, accepted);
    let calls = [
        ("recv", recv_calls),
        ("send", send_calls),
        ("epoll_wait", readiness_wakeups),
        ("file read", reads),
        ("file write", writes),
        ("fdatasync", syncs),
    ];
    for (call, count) in calls {
        samples.put(Family::SystemCalls, &[("call", call)], Value::Whole(count));
    }
    let (stalls, longest) = runtime.stalled();
    samples.whole(Family::Stalls, stalls);
    samples.real(Family::LongestStall, longest.as_secs_f64());
}
