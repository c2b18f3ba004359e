//! What a run found: for a person, and as one JSON object.

use super::process::Sample;
use super::{Mode, Workload};
use hdrhistogram::Histogram;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Latency {
    /// What is measured: from intended send (open loop) or from send (closed loop), to ack or to receipt.
    pub of: String,
    /// Values measured.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_us: f64,
    /// Percentiles: (percent, microseconds).
    pub percentiles_us: Vec<(f64, u64)>,
    /// The longest.
    pub max_us: u64,
}

const PERCENTILES: &[f64] = &[50.0, 90.0, 95.0, 99.0, 99.9, 99.99, 99.999];

impl Latency {
    pub(super) fn from_nanos(of: &str, histogram: &Histogram<u64>) -> Self {
        let us = |nanos: u64| nanos / 1000;
        Self {
            of: of.to_owned(),
            count: histogram.len(),
            mean_us: histogram.mean() / 1000.0,
            percentiles_us: PERCENTILES.iter().map(|p| (*p, us(histogram.value_at_percentile(*p)))).collect(),
            max_us: us(histogram.max()),
        }
    }

    /// The value at a percentile that is in the table.
    #[must_use]
    pub fn at(&self, percent: f64) -> Option<u64> {
        self.percentiles_us.iter().find(|(p, _)| (p - percent).abs() < 1e-9).map(|(_, us)| *us)
    }
}

/// What a run found.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RunResult {
    /// The run's name.
    pub label: String,
    /// `produce`, `consume`, `both` or `one`.
    pub mode: String,
    /// The workload as it was asked for.
    pub workload: serde_json::Value,
    /// Seconds measured.
    pub seconds: f64,
    /// Records acknowledged or received in that time.
    pub records: u64,
    /// Bytes of their values.
    pub bytes: u64,
    /// Latencies, where the mode has any.
    pub latency: Option<Latency>,
    /// CPU seconds of the broker in that time.
    pub broker_cpu_seconds: Option<f64>,
    /// Resident memory of the broker at the end, in bytes.
    pub broker_rss_bytes: Option<u64>,
}

pub(super) struct Measured {
    pub(super) seconds: f64,
    pub(super) records: u64,
    pub(super) latency: Option<Latency>,
    pub(super) broker: Option<(Sample, Sample)>,
}

impl RunResult {
    pub(super) fn new(workload: &Workload, measured: Measured) -> Self {
        let Measured { seconds, records, latency, broker } = measured;
        let mode = match workload.mode {
            Mode::Produce => "produce",
            Mode::Consume => "consume",
            Mode::Both => "both",
            Mode::One => "one",
        };
        Self {
            label: workload.label.clone(),
            mode: mode.to_owned(),
            workload: serde_json::to_value(workload).unwrap_or_default(),
            seconds,
            records,
            bytes: records * workload.record_size as u64,
            latency,
            broker_cpu_seconds: broker.map(|(before, after)| after.cpu_seconds - before.cpu_seconds),
            broker_rss_bytes: broker.map(|(_, after)| after.rss_bytes),
        }
    }

    /// Megabytes (10^6) of values a second.
    #[must_use]
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds.max(1e-9)
    }

    /// CPU seconds of the broker per GiB (2^30) of values.
    #[must_use]
    pub fn cpu_seconds_per_gib(&self) -> Option<f64> {
        self.broker_cpu_seconds.filter(|_| self.bytes > 0).map(|s| s / (self.bytes as f64 / f64::from(1 << 30)))
    }

    /// Some lines for a person.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let rate = self.records as f64 / self.seconds.max(1e-9);
        let name = if self.label.is_empty() { &self.mode } else { &self.label };
        let _ = writeln!(
            text,
            "{name}: {:.1} MB/s, {rate:.0} records/s over {:.1} s",
            self.megabytes_per_second(),
            self.seconds
        );
        if let Some(latency) = &self.latency {
            let _ = write!(text, "  latency {}: mean {:.0} µs", latency.of, latency.mean_us);
            for (percent, us) in &latency.percentiles_us {
                let _ = write!(text, ", p{percent} {us}");
            }
            let _ = writeln!(text, ", max {} ({} values)", latency.max_us, latency.count);
        }
        if let (Some(cpu), Some(rss)) = (self.broker_cpu_seconds, self.broker_rss_bytes) {
            let core = 100.0 * cpu / self.seconds.max(1e-9);
            let _ = write!(text, "  broker: {cpu:.2} CPU s ({core:.0} % of a core)");
            if let Some(per_gib) = self.cpu_seconds_per_gib() {
                let _ = write!(text, ", {per_gib:.2} CPU s/GiB");
            }
            let _ = writeln!(text, ", RSS {} MiB", rss >> 20);
        }
        text
    }
}

/// Adds a result to a file, one JSON object a line.
pub(super) fn append_json(path: &Path, result: &RunResult) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    let mut line = serde_json::to_vec(result)?;
    line.push(b'\n');
    file.write_all(&line)
}

/// Reads what runs with `--json` wrote.
///
/// # Errors
/// The file, and what is wrong with it.
pub fn read_results(files: &[PathBuf]) -> Result<Vec<RunResult>, String> {
    let mut results = Vec::new();
    for file in files {
        let named = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
        let text = std::fs::read_to_string(file).map_err(|e| named(&e))?;
        for line in text.lines() {
            results.push(serde_json::from_str(line).map_err(|e| named(&e))?);
        }
    }
    Ok(results)
}

/// A Markdown table of results, one row a run, in the order given.
#[must_use]
pub fn print_table(results: &[RunResult]) -> String {
    let mut text = String::from(
        "| run | MB/s | records/s | p50 µs | p99 µs | p99.9 µs | p99.99 µs | max µs | CPU s/GiB | CPU % | RSS MiB |\n\
         | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for r in results {
        let at = |p: f64| r.latency.as_ref().and_then(|l| l.at(p)).map_or("–".to_owned(), |v| v.to_string());
        let max = r.latency.as_ref().map_or("–".to_owned(), |l| l.max_us.to_string());
        let cpu = r.cpu_seconds_per_gib().map_or("–".to_owned(), |v| format!("{v:.2}"));
        let share =
            r.broker_cpu_seconds.map_or("–".to_owned(), |c| format!("{:.0}", 100.0 * c / r.seconds.max(1e-9)));
        let rss = r.broker_rss_bytes.map_or("–".to_owned(), |b| (b >> 20).to_string());
        let rate = r.records as f64 / r.seconds.max(1e-9);
        let _ = writeln!(
            text,
            "| {} | {:.1} | {rate:.0} | {} | {} | {} | {} | {max} | {cpu} | {share} | {rss} |",
            r.label,
            r.megabytes_per_second(),
            at(50.0),
            at(99.0),
            at(99.9),
            at(99.99),
        );
    }
    text
}
