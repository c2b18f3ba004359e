//! What the metrics endpoint shows: families of samples, their text, and the head of the request that asks for them. Pure.
//!
//! A shard gathers [`Sample`]s (`broker/metrics/`); [`encode`] writes those of all shards as OpenMetrics text, by the
//! official library. [`families`] is the one table of names: a sample of a family that is not in it does not compile.

pub mod families;
pub mod http;

pub use families::Family;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

/// The media type of what [`encode`] gives.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What a family's samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only grows, until the process ends.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Times, by how long.
    Histogram,
}

impl Kind {
    /// As in the text.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }

    const fn metric_type(self) -> MetricType {
        match self {
            Self::Counter => MetricType::Counter,
            Self::Gauge => MetricType::Gauge,
            Self::Histogram => MetricType::Histogram,
        }
    }
}

/// A sample's value.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a counter or a gauge.
    Whole(u64),
    /// Of a counter or a gauge.
    Real(f64),
    /// Of a histogram.
    Times(Times),
}

/// How long something took, by upper bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times {
    /// All together, in seconds.
    pub sum: f64,
    /// Up to each bound of [`BOUNDS_NANOS`], and above the last: not cumulative.
    pub buckets: [u64; BOUNDS_NANOS.len() + 1],
}

/// Upper bounds of histograms' buckets, in nanoseconds: from what a device takes at best to what a client gives up at.
pub const BOUNDS_NANOS: [u64; 18] = [
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
];

impl Times {
    /// Adds `count` that took `nanos` each.
    pub fn add(&mut self, nanos: u64, count: u64) {
        self.sum += nanos as f64 * 1e-9 * count as f64;
        self.buckets[BOUNDS_NANOS.partition_point(|bound| *bound < nanos)] += count;
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    fn bounded(&self) -> Vec<(f64, u64)> {
        let bounds = BOUNDS_NANOS.iter().map(|nanos| *nanos as f64 / 1e9).chain([f64::INFINITY]);
        bounds.zip(self.buckets).collect()
    }
}

/// Names and values that tell the samples of a family apart.
pub type Labels = Vec<(&'static str, String)>;

/// One value of one family.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Of what.
    pub family: Family,
    /// Of which one.
    pub labels: Labels,
    /// How much.
    pub value: Value,
}

/// Samples on their way to the text.
#[derive(Clone, Debug, Default)]
pub struct Samples {
    all: Vec<Sample>,
    /// In front of every sample's own.
    labels: Labels,
}

impl Samples {
    /// None yet; each gets these labels.
    #[must_use]
    pub fn labelled(labels: Labels) -> Self {
        Self { all: Vec::new(), labels }
    }

    /// Adds one.
    pub fn put(&mut self, family: Family, labels: &[(&'static str, &str)], value: Value) {
        let own = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
        let labels = self.labels.iter().cloned().chain(own).collect();
        self.all.push(Sample { family, labels, value });
    }

    /// Adds one without labels of its own.
    pub fn whole(&mut self, family: Family, value: u64) {
        self.put(family, &[], Value::Whole(value));
    }

    /// Adds one without labels of its own.
    pub fn real(&mut self, family: Family, value: f64) {
        self.put(family, &[], Value::Real(value));
    }

    /// Takes in those of others.
    pub fn extend(&mut self, other: Self) {
        self.all.extend(other.all);
    }

    /// All of them.
    #[must_use]
    pub fn into_inner(self) -> Vec<Sample> {
        self.all
    }
}

/// OpenMetrics text of samples: families in the order of the table, samples in the order in which they came.
#[must_use]
pub fn encode(samples: Samples) -> String {
    let mut samples = samples.all;
    samples.sort_by_key(|sample| sample.family);
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Sorted(samples)));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).expect("a String takes all that is written");
    text
}

#[derive(Debug)]
struct Sorted(Vec<Sample>);

impl Collector for Sorted {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        for samples in self.0.chunk_by(|a, b| a.family == b.family) {
            let family = samples[0].family;
            let kind = family.kind();
            let mut metric = encoder.encode_descriptor(family.name(), family.help(), None, kind.metric_type())?;
            for sample in samples {
                if sample.labels.is_empty() {
                    encode_value(&mut metric, kind, &sample.value)?;
                } else {
                    encode_value(&mut metric.encode_family(&sample.labels)?, kind, &sample.value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(metric: &mut MetricEncoder<'_>, kind: Kind, value: &Value) -> Result<(), std::fmt::Error> {
    match (kind, value) {
        (Kind::Counter, Value::Whole(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Counter, Value::Real(value)) => metric.encode_counter::<NoLabelSet, _, u64>(value, None),
        (Kind::Gauge, Value::Whole(value)) => metric.encode_gauge(value),
        (Kind::Gauge, Value::Real(value)) => metric.encode_gauge(value),
        (Kind::Histogram, Value::Times(times)) => {
            metric.encode_histogram::<NoLabelSet>(times.sum, times.count(), &times.bounded(), None)
        }
        (kind, value) => unreachable!("{value:?} in a family of kind {kind:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus_parse::{Scrape, Value as Parsed};
    use std::collections::BTreeSet;

    fn parse(text: &str) -> Scrape {
        Scrape::parse(text.lines().map(|line| Ok(line.to_owned()))).expect("what Prometheus reads")
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let mut samples = Samples::labelled(vec![("shard", "3".to_owned())]);
        let mut times = Times::default();
        times.add(60_000, 2);
        times.add(50_000, 1);
        times.add(u64::from(u32::MAX) * 1_000, 1);
        samples.put(Family::FlushSeconds, &[], Value::Times(times));
        samples.whole(Family::GroupCommits, 7);
        samples.real(Family::LongestStall, 0.25);
        let mut node = Samples::default();
        node.put(Family::TopicBytesIn, &[("topic", "a.b")], Value::Whole(u64::MAX));
        samples.extend(node);
        let text = encode(samples);
        assert!(text.ends_with("# EOF\n"), "{text}");
        assert!(text.contains("# TYPE coreline_group_commits counter\ncoreline_group_commits_total{shard=\"3\"} 7\n"));
        let bytes = "kafka_server_brokertopicmetrics_bytesin_total{topic=\"a.b\"} 18446744073709551615\n";
        assert!(text.contains(bytes), "{text}");
        let scrape = parse(&text);
        let value = |name: &str| &scrape.samples.iter().find(|s| s.metric == name).expect(name).value;
        assert_eq!(*value("coreline_longest_stall_seconds"), Parsed::Gauge(0.25));
        let Parsed::Histogram(buckets) = value("coreline_flush_seconds") else { panic!("{text}") };
        let counts: Vec<(f64, f64)> = buckets.iter().map(|b| (b.less_than, b.count)).collect();
        assert_eq!(counts[..2], [(0.000_05, 1.0), (0.000_1, 3.0)], "an upper bound is within its bucket");
        assert_eq!(counts[18], (f64::INFINITY, 4.0));
    }

    #[test]
    fn names_are_legal_and_told_apart() {
        let mut names = BTreeSet::new();
        for family in Family::ALL {
            let name = family.name();
            assert!(names.insert(name), "{name} twice");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{name}");
            let own = ["coreline_", "kafka_", "process_"].iter().any(|prefix| name.starts_with(prefix));
            assert!(own, "{name}");
            for suffix in ["_total", "_bucket", "_sum", "_created", "_info"] {
                assert!(!name.ends_with(suffix), "{name}: {suffix} is the format's own");
            }
            assert!(!family.help().contains(['\n', '\\', '"']), "{name}: its help would need escapes");
        }
    }
}
