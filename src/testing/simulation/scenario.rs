//! What one seed is: the broker's size, the topics, the clients, the faults.

use crate::cleanup::Cleanup;
use crate::groups::GroupPlan;
use crate::records::Codec;
use crate::topics::Intent;
use crate::transactions::LONG_MS;
use coreline_io::sim::SimRng;
use std::time::Duration;

/// Something that happens to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Power loss or `kill -9`; again while it recovers, so many times, each of either kind; with a disk that takes its
    /// time to write meanwhile.
    Crash { power: bool, again: u32, slow: bool },
    /// A clean stop and start.
    Restart,
    /// Dies while it stops.
    CrashWhileStopping { power: bool },
    /// No packet passes.
    Partition { one_way: bool },
    /// Operations of the disk take longer, all or those of one kind of file.
    SlowDisk { files: &'static str },
    /// The device is full.
    FullDisk,
    /// The device is full but for a little, which is given in pieces: so that each step of what is done meets its end.
    AlmostFullDisk,
    /// A flush or a write fails, of any file or of one kind.
    FailingDisk { write: bool, files: &'static str },
    /// All reads of one partition's files fail for a while; the others live.
    SickPartition,
    /// Reads fail for a while, all or some.
    FailingReads { all: bool },
    /// The wall clock jumps.
    ClockJump,
}

impl Fault {
    /// What needs the disk may be refused, whatever it is about.
    pub(crate) fn is_of_whole_disk(self) -> bool {
        matches!(self, Self::FullDisk | Self::AlmostFullDisk | Self::FailingDisk { .. } | Self::FailingReads { .. })
    }
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// By a Metadata request instead of CreateTopics.
    pub(crate) auto: bool,
    pub(crate) configs: Vec<(&'static str, String)>,
    /// Made so often; deleted in between.
    pub(crate) lives: u32,
    /// Gets more partitions now and then.
    pub(crate) grows: bool,
    pub(crate) cleanup: Cleanup,
    /// Its logs' starts are moved now and then.
    pub(crate) is_cut: bool,
    /// Time between such changes.
    pub(crate) change_ms_max: u64,
}

impl TopicPlan {
    /// Something happens to it.
    pub(crate) fn changes(&self) -> bool {
        self.lives > 1 || self.grows || self.is_cut
    }

    pub(crate) fn intent(&self) -> Intent {
        // Auto-creation takes no settings.
        let log_append_time = !self.auto && self.configs.iter().any(|(_, value)| value == "LogAppendTime");
        // As `num.partitions` says, where the topic makes itself.
        let partitions_max = if self.auto { NUM_PARTITIONS_MAX } else { self.partitions } as usize;
        let cleanup = if self.auto { Cleanup::default() } else { self.cleanup };
        Intent { lives: self.lives, log_append_time, cleanup, partitions_max }
    }
}

/// How a producer behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducerPlan {
    pub(crate) idempotent: bool,
    /// Sends again what failed, until it succeeds.
    pub(crate) retries: bool,
    pub(crate) acks: i16,
    pub(crate) in_flight_max: usize,
    pub(crate) records_max: u64,
    pub(crate) record_bytes_max: u64,
    pub(crate) pause_ms_max: u64,
    pub(crate) codec: Codec,
    /// All its batches are of this size, with one record.
    pub(crate) batch_bytes: Option<usize>,
    /// It breaks its own connection once in so many requests; 0 is never.
    pub(crate) breaks_one_in: u64,
}

/// What faults a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    /// Anything.
    None,
    /// Ends of processes in the recovery from the end before, several in a row, then a clean stop.
    Recovery,
    /// Full and failing disks.
    Disk,
}

/// How logs are cleaned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CleanerPlan {
    pub(crate) backoff_ms: u64,
    pub(crate) retention_check_ms: u64,
    pub(crate) dedupe_buffer_bytes: u64,
    pub(crate) io_buffer_bytes: u64,
}

/// Transactional producers and their topic.
#[derive(Clone, Debug)]
pub(crate) struct TransactionPlan {
    pub(crate) producers: u32,
    pub(crate) configs: Vec<(&'static str, String)>,
    /// After so long the broker aborts a transaction.
    pub(crate) timeout_ms: i32,
    /// Between transactions.
    pub(crate) pause_ms_max: u64,
    /// Markers come once more after so many microseconds.
    pub(crate) markers_again_us: Option<u64>,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) shards: usize,
    pub(crate) journal_file_bytes: u64,
    pub(crate) unflushed_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) flush_bytes: usize,
    /// Such a backlog goes straight to its segment.
    pub(crate) direct_bytes_min: usize,
    pub(crate) dsync: bool,
    pub(crate) open_files: usize,
    pub(crate) cleaner: CleanerPlan,
    /// Acknowledge after the write: then only processes die, not machines.
    pub(crate) written: bool,
    pub(crate) topics: Vec<TopicPlan>,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) consumers: usize,
    /// Members of the group, if there is one.
    pub(crate) group_members: usize,
    pub(crate) group_plan: GroupPlan,
    pub(crate) faults: Vec<(Duration, Fault)>,
    pub(crate) quiet_after: Duration,
    pub(crate) last_crash: bool,
    pub(crate) net_delay_us_max: u64,
    pub(crate) transactions: TransactionPlan,
    /// Partitions move between cores, with such pauses at most.
    pub(crate) moves_us_max: Option<u64>,
    /// Connections move to the core that has what they use.
    pub(crate) steering: bool,
}

fn pick<T: Copy>(rng: &SimRng, of: &[T]) -> T {
    of[rng.index(of.len())]
}

impl Scenario {
    /// A scenario, with this bias or one of its own.
    pub(crate) fn new(rng: &SimRng, bias: Option<Bias>) -> Self {
        let own = pick(rng, &[Bias::None, Bias::None, Bias::None, Bias::None, Bias::Recovery, Bias::Disk]);
        let bias = bias.unwrap_or(own);
        let written = rng.one_in(8);
        let journal_file_bytes = pick(rng, &[64 << 10, 64 << 10, 128 << 10, 256 << 10]);
        let unflushed_bytes = pick(rng, &[16 << 10, 64 << 10, 256 << 10]);
        Self {
            shards: pick(rng, &[1, 1, 2, 2, 3, 4]),
            journal_file_bytes,
            unflushed_bytes,
            cache_bytes: pick(rng, &[0, 8 << 10, 64 << 10, 1 << 20]),
            flush_bytes: pick(rng, &[4 << 10, 16 << 10, 64 << 10]),
            direct_bytes_min: pick(rng, &[usize::MAX, usize::MAX, usize::MAX, 6000, 1]),
            dsync: rng.one_in(2),
            open_files: pick(rng, &[16, 16, 256]),
            cleaner: CleanerPlan {
                backoff_ms: pick(rng, &[0, 5, 20, 50]),
                retention_check_ms: pick(rng, &[3, 10, 50]),
                dedupe_buffer_bytes: pick(rng, &[60, 1000, 128 << 20]),
                io_buffer_bytes: pick(rng, &[64, 4000, 512 << 10]),
            },
            written,
            topics: (0..1 + rng.below(4)).map(|i| topic(rng, i)).collect(),
            producers: producers(rng),
            consumers: rng.below(3) as usize,
            group_members: pick(rng, &[0, 0, 1, 2, 3]),
            group_plan: pick(rng, &[GroupPlan::Classic, GroupPlan::Consumer, GroupPlan::Mixed]),
            faults: faults(rng, bias, written),
            quiet_after: Duration::from_millis(20 + rng.below(150)),
            last_crash: rng.one_in(2),
            net_delay_us_max: pick(rng, &[100, 300, 300, 5000]),
            transactions: transactions(rng),
            moves_us_max: pick(rng, &[None, Some(500), Some(5000), Some(50_000)]),
            steering: !rng.one_in(4),
        }
    }
}

impl Scenario {
    /// Partitions move to where there is less to do; only where nobody else moves any.
    pub(crate) fn balances(&self) -> bool {
        self.moves_us_max.is_none() && self.dsync
    }
}

fn transactions(rng: &SimRng) -> TransactionPlan {
    let mut configs = Vec::new();
    if rng.one_in(2) {
        configs.push(("segment.ms", (5 + rng.below(200)).to_string()));
    }
    if rng.one_in(2) {
        configs.push(("index.interval.bytes", rng.below(1000).to_string()));
        configs.push(("segment.index.bytes", (8 * (1 + rng.below(20))).to_string()));
    }
    TransactionPlan {
        producers: pick(rng, &[0, 0, 1, 2, 3]),
        configs,
        timeout_ms: pick(rng, &[LONG_MS, LONG_MS, 30]),
        pause_ms_max: pick(rng, &[1, 5, 20]),
        markers_again_us: pick(rng, &[None, Some(100), Some(1000), Some(5000), Some(30_000)]),
    }
}

/// The largest `num.partitions`.
pub(crate) const NUM_PARTITIONS_MAX: i32 = 3;

fn topic(rng: &SimRng, index: u64) -> TopicPlan {
    let mut configs = Vec::new();
    if rng.one_in(2) {
        configs.push(("segment.ms", (10 + rng.below(200)).to_string()));
    }
    match rng.below(6) {
        0 => configs.push(("index.interval.bytes", rng.below(2000).to_string())),
        // A full index ends a segment: that is a roll by size, below the smallest `segment.bytes`.
        1 | 2 => {
            configs.push(("index.interval.bytes", (500 + rng.below(4000)).to_string()));
            configs.push(("segment.index.bytes", (8 * (1 + rng.below(20))).to_string()));
        }
        _ => {}
    }
    if rng.one_in(6) {
        configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    let cleanup = cleanup(rng, &mut configs);
    TopicPlan {
        name: format!("topic-{index}"),
        partitions: 1 + rng.below(pick(rng, &[1, 3, 8])) as i32,
        auto: rng.one_in(5),
        configs,
        lives: pick(rng, &[1, 1, 1, 2, 4]),
        grows: rng.one_in(5),
        // Kafka cuts no log that is only compacted.
        is_cut: rng.one_in(4) && (!cleanup.compacted || cleanup.moves_start()),
        cleanup,
        change_ms_max: pick(rng, &[30, 150, 400]),
    }
}

/// Retention, compaction, both, or nothing of it; with segments that fill.
fn cleanup(rng: &SimRng, configs: &mut Vec<(&'static str, String)>) -> Cleanup {
    let mut cleanup = Cleanup::default();
    let what = rng.below(10);
    if what < 5 {
        return cleanup;
    }
    if !configs.iter().any(|(key, _)| key.starts_with("segment.")) {
        configs.push(("segment.ms", (5 + rng.below(100)).to_string()));
    }
    configs.push(("file.delete.delay.ms", pick(rng, &[0, 1, 100, 60_000]).to_string()));
    if matches!(what, 5 | 6 | 9) {
        if rng.one_in(2) {
            let ms = rng.below(400) as i64;
            configs.push(("retention.ms", ms.to_string()));
            cleanup.retention_ms = Some(ms);
        } else {
            let bytes = rng.below(40_000);
            configs.push(("retention.bytes", bytes.to_string()));
            cleanup.retention_bytes = Some(bytes);
        }
    }
    if what >= 7 {
        cleanup.compacted = true;
        let policy = if what == 9 { "compact,delete" } else { "compact" };
        configs.push(("cleanup.policy", policy.to_owned()));
        configs.push(("min.cleanable.dirty.ratio", pick(rng, &["0", "0.2", "0.5"]).to_owned()));
        configs.push(("delete.retention.ms", rng.below(300).to_string()));
        if rng.one_in(4) {
            configs.push(("min.compaction.lag.ms", rng.below(100).to_string()));
        }
    }
    cleanup
}

fn producers(rng: &SimRng) -> Vec<ProducerPlan> {
    // Batches of one size that fill blocks: what is behind a torn one then fits behind another, too.
    let batch_bytes = pick(rng, &[None, None, None, Some(4096), Some(2048)]);
    (0..1 + rng.below(4)).map(|_| ProducerPlan { batch_bytes, ..producer(rng) }).collect()
}

fn producer(rng: &SimRng) -> ProducerPlan {
    let idempotent = !rng.one_in(3);
    ProducerPlan {
        idempotent,
        retries: idempotent || rng.one_in(2),
        acks: if idempotent { -1 } else { pick(rng, &[-1, 1, 1, 0]) },
        in_flight_max: pick(rng, &[1, 2, 5, 5]),
        records_max: pick(rng, &[1, 4, 20]),
        record_bytes_max: pick(rng, &[10, 200, 2000, 8000]),
        pause_ms_max: pick(rng, &[2, 10, 30]),
        batch_bytes: None,
        codec: pick(rng, &[Codec::None, Codec::None, Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd]),
        breaks_one_in: pick(rng, &[0, 20, 100]),
    }
}

fn faults(rng: &SimRng, bias: Bias, written: bool) -> Vec<(Duration, Fault)> {
    match bias {
        Bias::None => (0..rng.below(6)).map(|_| fault(rng, written)).collect(),
        Bias::Recovery => (0..2 + rng.below(4)).flat_map(|_| interrupted_recovery(rng, written)).collect(),
        Bias::Disk => (0..2 + rng.below(4)).map(|_| sick_disk(rng, written)).collect(),
    }
}

/// What the paths of the files hold that a fault is about: all, the journal, segments, indexes of either kind, producers'
/// snapshots, what the cleaner writes, metadata.
const FILES: [&str; 9] = ["", "", "", "/journal/", ".log", "index", ".snapshot", "clean", "cluster_metadata"];

/// Ends while it recovers, then a clean stop, often at once.
fn interrupted_recovery(rng: &SimRng, written: bool) -> Vec<(Duration, Fault)> {
    let power = !written && rng.one_in(2);
    let ends = Fault::Crash { power, again: 1 + rng.below(4) as u32, slow: rng.one_in(2) };
    let soon = Duration::from_micros(pick(rng, &[0, 300, 3000, 30_000]));
    let mut faults = vec![(Duration::from_millis(rng.below(100)), ends)];
    if !rng.one_in(4) {
        faults.push((soon, Fault::Restart));
    }
    faults
}

fn sick_disk(rng: &SimRng, written: bool) -> (Duration, Fault) {
    let fault = match rng.below(11) {
        0 | 1 => Fault::FullDisk,
        2 | 3 => Fault::AlmostFullDisk,
        4 | 5 => Fault::FailingDisk { write: rng.one_in(2), files: pick(rng, &FILES) },
        6 => Fault::FailingReads { all: rng.one_in(2) },
        7 => Fault::SlowDisk { files: pick(rng, &FILES) },
        8 => Fault::SickPartition,
        9 => Fault::Crash { power: !written, again: 0, slow: false },
        _ => Fault::Restart,
    };
    (Duration::from_millis(rng.below(100)), fault)
}

fn fault(rng: &SimRng, written: bool) -> (Duration, Fault) {
    let power = !written && !rng.one_in(3);
    let fault = match rng.below(18) {
        17 => Fault::SickPartition,
        16 => Fault::FailingReads { all: rng.one_in(2) },
        0..=4 => Fault::Crash { power, again: rng.below(3) as u32 * rng.below(2) as u32, slow: rng.one_in(4) },
        5 | 6 => Fault::Restart,
        7 => Fault::CrashWhileStopping { power },
        8 | 9 => Fault::Partition { one_way: rng.one_in(3) },
        10 => Fault::SlowDisk { files: pick(rng, &FILES) },
        11 => Fault::FullDisk,
        12 => Fault::AlmostFullDisk,
        13 | 14 => Fault::FailingDisk { write: rng.one_in(3), files: pick(rng, &FILES) },
        _ => Fault::ClockJump,
    };
    (Duration::from_millis(5 + rng.below(200)), fault)
}
