//! What one seed is: the broker's size, the topics, the clients, the faults.

use coreline_io::sim::SimRng;
use std::time::Duration;

/// Something that happens to the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Power loss or `kill -9`; again while it recovers, so many times.
    Crash { power: bool, again: u32 },
    /// A clean stop and start.
    Restart,
    /// Dies while it stops.
    CrashWhileStopping { power: bool },
    /// No packet passes.
    Partition { one_way: bool },
    /// Operations of the disk take longer.
    SlowDisk,
    /// The device is full.
    FullDisk,
    /// A flush or a write fails.
    FailingDisk { write: bool },
    /// The wall clock jumps.
    ClockJump,
}

/// A topic to be made.
#[derive(Clone, Debug)]
pub(crate) struct TopicPlan {
    pub(crate) name: String,
    pub(crate) partitions: i32,
    /// By a Metadata request instead of CreateTopics.
    pub(crate) auto: bool,
    pub(crate) configs: Vec<(&'static str, String)>,
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
    /// It breaks its own connection once in so many requests; 0 is never.
    pub(crate) breaks_one_in: u64,
}

/// See the [module](self).
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    pub(crate) shards: usize,
    pub(crate) journal_file_bytes: u64,
    pub(crate) unflushed_bytes: usize,
    pub(crate) cache_bytes: usize,
    pub(crate) flush_bytes: usize,
    pub(crate) dsync: bool,
    pub(crate) open_files: usize,
    /// Acknowledge after the write: then only processes die, not machines.
    pub(crate) written: bool,
    pub(crate) topics: Vec<TopicPlan>,
    pub(crate) producers: Vec<ProducerPlan>,
    pub(crate) consumers: usize,
    pub(crate) faults: Vec<(Duration, Fault)>,
    pub(crate) quiet_after: Duration,
    pub(crate) last_crash: bool,
    pub(crate) net_delay_us_max: u64,
}

fn pick<T: Copy>(rng: &SimRng, of: &[T]) -> T {
    of[rng.index(of.len())]
}

impl Scenario {
    pub(crate) fn new(rng: &SimRng) -> Self {
        let written = rng.one_in(8);
        let journal_file_bytes = pick(rng, &[64 << 10, 64 << 10, 128 << 10, 256 << 10]);
        let unflushed_bytes = pick(rng, &[16 << 10, 64 << 10, 256 << 10]);
        Self {
            shards: pick(rng, &[1, 1, 2, 2, 3, 4]),
            journal_file_bytes,
            unflushed_bytes,
            cache_bytes: pick(rng, &[0, 8 << 10, 64 << 10, 1 << 20]),
            flush_bytes: pick(rng, &[4 << 10, 16 << 10, 64 << 10]),
            dsync: rng.one_in(2),
            open_files: pick(rng, &[16, 16, 256]),
            written,
            topics: (0..1 + rng.below(4)).map(|i| topic(rng, i)).collect(),
            producers: (0..1 + rng.below(4)).map(|_| producer(rng)).collect(),
            consumers: rng.below(3) as usize,
            faults: (0..rng.below(6)).map(|_| fault(rng, written)).collect(),
            quiet_after: Duration::from_millis(20 + rng.below(150)),
            last_crash: rng.one_in(2),
            net_delay_us_max: pick(rng, &[100, 300, 300, 5000]),
        }
    }
}

fn topic(rng: &SimRng, index: u64) -> TopicPlan {
    let mut configs = Vec::new();
    if rng.one_in(2) {
        configs.push(("segment.ms", (10 + rng.below(200)).to_string()));
    }
    if rng.one_in(4) {
        configs.push(("index.interval.bytes", rng.below(2000).to_string()));
    }
    if rng.one_in(6) {
        configs.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    }
    TopicPlan {
        name: format!("topic-{index}"),
        partitions: 1 + rng.below(pick(rng, &[1, 3, 8])) as i32,
        auto: rng.one_in(5),
        configs,
    }
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
        breaks_one_in: pick(rng, &[0, 20, 100]),
    }
}

fn fault(rng: &SimRng, written: bool) -> (Duration, Fault) {
    let power = !written && !rng.one_in(3);
    let fault = match rng.below(16) {
        0..=4 => Fault::Crash { power, again: rng.below(3) as u32 * rng.below(2) as u32 },
        5 | 6 => Fault::Restart,
        7 => Fault::CrashWhileStopping { power },
        8 | 9 => Fault::Partition { one_way: rng.one_in(3) },
        10 => Fault::SlowDisk,
        11 | 12 => Fault::FullDisk,
        13 | 14 => Fault::FailingDisk { write: rng.one_in(3) },
        _ => Fault::ClockJump,
    };
    (Duration::from_millis(5 + rng.below(200)), fault)
}
