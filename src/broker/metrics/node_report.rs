//! The page of a scrape: the reports of all shards, and what is of the whole node. Made by a helper thread.

use super::shard_report::{ShardReport, TopicSums};
use crate::broker::shard::topic_config;
use crate::config::BrokerConfig;
use crate::controller::ClusterImage;
use crate::latency::{Row, Snapshot};
use crate::metrics::{BOUNDS_NANOS, Family, Samples, Times, Value, encode};
use crate::protocol::api::Api;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Stands for all topics that are not shown: no topic can be called so.
const OTHERS: &str = "(others)";

/// What the process needs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessUsage {
    /// Resident memory.
    pub resident_bytes: u64,
    /// Processor time, user and system.
    pub cpu_seconds: f64,
    /// Open descriptors.
    pub open_fds: u64,
}

/// What a page is made of.
#[derive(Debug)]
pub struct NodeReport {
    /// Of each shard.
    pub shards: Vec<ShardReport>,
    /// The metadata.
    pub image: Arc<ClusterImage>,
    /// What the node was started with.
    pub config: Arc<BrokerConfig>,
    /// None in a simulation.
    pub process: Option<ProcessUsage>,
    /// Partitions with too few replicas in sync, where this image was looked at before.
    pub under_min_isr: Option<u64>,
}

impl NodeReport {
    /// The text, and how many partitions have too few replicas in sync.
    #[must_use]
    pub fn page(self) -> (String, u64) {
        let Self { shards, image, config, process, under_min_isr } = self;
        let under_min_isr = under_min_isr.unwrap_or_else(|| count_under_min_isr(&config, &image));
        let mut samples = Samples::default();
        samples.whole(Family::UnderMinIsr, under_min_isr);
        samples.whole(Family::Topics, image.topic_count() as u64);
        let (mut recent, mut whole) = (Snapshot::default(), Snapshot::default());
        let mut topics: BTreeMap<Arc<str>, TopicSums> = BTreeMap::new();
        for shard in shards {
            samples.extend(shard.samples);
            recent.merge(Snapshot { rows: shard.recent, slowest: Vec::new() }, 0);
            whole.merge(Snapshot { rows: shard.whole, slowest: Vec::new() }, 0);
            for (topic, index) in &shard.uncleanable {
                let labels = [("topic", &**topic), ("partition", &index.to_string())];
                samples.put(Family::Uncleanable, &labels, Value::Whole(1));
            }
            for (id, sums) in shard.topics {
                // One that was deleted meanwhile has no name.
                if let Some(topic) = image.topic_by_id(id) {
                    topics.entry(topic.name.clone()).or_default().add(&sums);
                }
            }
        }
        put_topics(topics, usize::try_from(config.integer("coreline.metrics.topics.max")).unwrap_or(0), &mut samples);
        recent.rows.iter().for_each(|row| put_quantiles(row, &mut samples));
        whole.rows.iter().for_each(|row| put_times(row, &mut samples));
        if let Some(process) = process {
            samples.whole(Family::ResidentBytes, process.resident_bytes);
            samples.real(Family::CpuSeconds, process.cpu_seconds);
            samples.whole(Family::OpenFds, process.open_fds);
        }
        (encode(samples), under_min_isr)
    }
}

impl TopicSums {
    fn add(&mut self, other: &Self) {
        self.intake.bytes += other.intake.bytes;
        self.intake.records += other.intake.records;
        self.bytes_out += other.bytes_out;
        self.log_bytes += other.log_bytes;
    }
}

/// The first topics by name; which they are changes only when topics come and go.
fn put_topics(topics: BTreeMap<Arc<str>, TopicSums>, most: usize, samples: &mut Samples) {
    let left_out = topics.len().saturating_sub(most);
    let (mut shown, mut others) = (Vec::new(), TopicSums::default());
    for (name, sums) in topics {
        if shown.len() < most {
            shown.push((name, sums));
        } else {
            others.add(&sums);
        }
    }
    if left_out > 0 {
        shown.push((Arc::from(OTHERS), others));
    }
    samples.whole(Family::TopicsLeftOut, left_out as u64);
    for (name, sums) in shown {
        let all = [
            (Family::TopicBytesIn, sums.intake.bytes),
            (Family::TopicMessagesIn, sums.intake.records),
            (Family::TopicBytesOut, sums.bytes_out),
            (Family::TopicLogBytes, sums.log_bytes),
        ];
        all.into_iter().for_each(|(family, value)| samples.put(family, &[("topic", &name)], Value::Whole(value)));
    }
}

fn request_name(row: &Row) -> &'static str {
    Api::find(row.api).map_or("", |api| api.key.name())
}

fn put_quantiles(row: &Row, samples: &mut Samples) {
    let summary = row.summary();
    let stage = row.stage.map_or("all", |stage| stage.name());
    for (quantile, nanos) in [("0.5", summary.p50), ("0.99", summary.p99), ("0.999", summary.p999), ("1", summary.max)]
    {
        let labels = [("request", request_name(row)), ("stage", stage), ("quantile", quantile)];
        samples.put(Family::RecentSeconds, &labels, Value::Real(nanos as f64 / 1e9));
    }
}

fn put_times(row: &Row, samples: &mut Samples) {
    let mut times = Times::default();
    row.each(|nanos, count| times.add(nanos, count));
    samples.put(Family::RequestSeconds, &[("request", request_name(row))], Value::Times(times));
}

// The histogram's last bound is what is longer than any request that is told apart.
const _: () = assert!(BOUNDS_NANOS[BOUNDS_NANOS.len() - 1] < 300_000_000_000);

fn count_under_min_isr(config: &BrokerConfig, image: &ClusterImage) -> u64 {
    let under = image.topics().map(|topic| {
        let (_, min) = topic_config(config, image, topic);
        topic.partitions.iter().filter(|p| i64::from(min) > p.isr.len() as i64).count() as u64
    });
    under.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::store::TopicIntake;
    use crate::metrics::Sample;

    fn of(samples: Vec<Sample>, family: Family) -> Vec<(String, Value)> {
        let of = samples.into_iter().filter(|s| s.family == family);
        of.map(|s| (s.labels.into_iter().map(|(_, value)| value).collect(), s.value)).collect()
    }

    #[test]
    fn a_partition_that_cannot_be_compacted_is_named() {
        let uncleanable = vec![(Arc::from("orders"), 7)];
        let report = ShardReport { uncleanable, ..ShardReport::default() };
        let (image, config) = (Arc::default(), Arc::default());
        let node = NodeReport { shards: vec![report], image, config, process: None, under_min_isr: None };
        let (text, _) = node.page();
        let line = "coreline_uncleanable_partition{topic=\"orders\",partition=\"7\"} 1\n";
        assert!(text.contains(line), "{text}");
        assert!(!text.contains("process_"), "what is not known is not shown: {text}");
    }

    #[test]
    fn topics_beyond_the_limit_are_summed_up() {
        let sums = |bytes| TopicSums { intake: TopicIntake { bytes, records: 1 }, bytes_out: 0, log_bytes: 0 };
        let topics: BTreeMap<Arc<str>, TopicSums> =
            (1..=5).map(|i: u64| (Arc::from(format!("t{i}")), sums(10 * i))).collect();
        for (most, expected) in [
            (5, vec![("t1", 10), ("t2", 20), ("t3", 30), ("t4", 40), ("t5", 50)]),
            (2, vec![("t1", 10), ("t2", 20), (OTHERS, 120)]),
            (0, vec![(OTHERS, 150)]),
        ] {
            let mut samples = Samples::default();
            put_topics(topics.clone(), most, &mut samples);
            let all = samples.into_inner();
            let bytes: Vec<_> = expected.iter().map(|(name, n)| ((*name).to_owned(), Value::Whole(*n))).collect();
            assert_eq!(of(all.clone(), Family::TopicBytesIn), bytes, "{most}");
            let left_out = Value::Whole(5 - most as u64);
            assert_eq!(of(all, Family::TopicsLeftOut), [(String::new(), left_out)]);
        }
    }
}
