//! What a run found: for a person, and as one JSON object.

use super::counters::Costs;
use super::process::Sample;
use super::watch::Moment;
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
    /// As `percentiles_us`, close enough to each other for a curve.
    #[serde(default)]
    pub curve_us: Vec<(f64, u64)>,
    /// By when they began (in an open loop: were meant to begin).
    #[serde(default)]
    pub over_time: Vec<Span>,
}

/// The latencies that began in a part of a run.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct Span {
    /// Begin of the part, in seconds since the load began; warm-up counts.
    pub at_seconds: f64,
    /// How long it is.
    pub seconds: f64,
    /// Values measured.
    pub count: u64,
    /// Median.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
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
            // Four points each time that what is beyond halves, to 99.999 %.
            curve_us: (0..=66)
                .map(|step| 100.0 * (1.0 - 0.5f64.powf(f64::from(step) / 4.0)))
                .map(|percent| (percent, us(histogram.value_at_percentile(percent))))
                .collect(),
            over_time: Vec::new(),
        }
    }

    /// The value at a percentile that is in the table.
    #[must_use]
    pub fn at(&self, percent: f64) -> Option<u64> {
        self.percentiles_us.iter().find(|(p, _)| (p - percent).abs() < 1e-9).map(|(_, us)| *us)
    }
}

/// What a durable record and its ack cannot do without.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Floor {
    /// One write of the block and its `fdatasync`, on the broker's core where that is known.
    pub flush: Latency,
    /// One message of the same size there and back.
    pub echo: Latency,
    /// As `flush`, from the core of the load.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_from_load: Option<Latency>,
}

impl Floor {
    /// How many times the sum of both medians a latency is.
    fn times(&self, latency: &Latency) -> Option<f64> {
        let sum = self.flush.at(50.0)? + self.echo.at(50.0)?;
        Some(latency.at(50.0)? as f64 / sum.max(1) as f64)
    }
}

/// What a run found.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct RunResult {
    /// The run's name.
    pub label: String,
    /// `produce`, `consume`, `both`, `one`, `floor` or `probe`.
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
    /// What no broker can be quicker than, measured in the same run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub floor: Option<Floor>,
    /// Of a probe: when the broker first answered.
    #[serde(default)]
    pub first_answer_seconds: Option<f64>,
    /// CPU seconds of the broker in that time.
    pub broker_cpu_seconds: Option<f64>,
    /// Resident memory of the broker at the end, in bytes.
    pub broker_rss_bytes: Option<u64>,
    /// What cores and broker did meanwhile.
    #[serde(default)]
    pub watched: Vec<Moment>,
    /// What a request cost, by the broker's own counters, warm-up included.
    #[serde(default)]
    pub costs: Option<Costs>,
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
            Mode::Floor => "floor",
            Mode::Probe => "probe",
        };
        Self {
            label: workload.label.clone(),
            mode: mode.to_owned(),
            workload: serde_json::to_value(workload).unwrap_or_default(),
            seconds,
            records,
            bytes: records * workload.record_size as u64,
            latency,
            floor: None,
            first_answer_seconds: None,
            broker_cpu_seconds: broker.map(|(before, after)| after.cpu_seconds - before.cpu_seconds),
            broker_rss_bytes: broker.map(|(_, after)| after.rss_bytes),
            watched: Vec::new(),
            costs: None,
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
        if let Some(first) = self.first_answer_seconds {
            let _ = write!(text, "{name}: first answer after {first:.3} s");
            if self.records > 0 {
                let _ = write!(text, ", all {} partitions have acknowledged after {:.3} s", self.records, self.seconds);
            }
            text.push('\n');
            return text;
        }
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
        if let (Some(floor), Some(latency)) = (&self.floor, &self.latency) {
            for part in [Some(&floor.flush), Some(&floor.echo), floor.flush_from_load.as_ref()].into_iter().flatten() {
                let at = |percent| part.at(percent).unwrap_or_default();
                let (p50, p99) = (at(50.0), at(99.0));
                let _ = writeln!(text, "  {}: mean {:.0} µs, p50 {p50}, p99 {p99}", part.of, part.mean_us);
            }
            let times = floor.times(latency).unwrap_or_default();
            let _ = writeln!(text, "  p50 to ack is {times:.2} × the sum of the first two");
        }
        if let (Some(cpu), Some(rss)) = (self.broker_cpu_seconds, self.broker_rss_bytes) {
            let core = 100.0 * cpu / self.seconds.max(1e-9);
            let _ = write!(text, "  broker: {cpu:.2} CPU s ({core:.0} % of a core)");
            if let Some(per_gib) = self.cpu_seconds_per_gib() {
                let _ = write!(text, ", {per_gib:.2} CPU s/GiB");
            }
            let _ = writeln!(text, ", RSS {} MiB", rss >> 20);
        }
        text.extend(self.costs.map(|costs| costs.text()));
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

/// A column of the table: its title, decimals, and its value of a run.
type Column = (&'static str, usize, fn(&RunResult) -> Option<f64>);

fn latency_at(r: &RunResult, percent: f64) -> Option<f64> {
    r.latency.as_ref()?.at(percent).map(|us| us as f64)
}

const LOAD_COLUMNS: &[Column] = &[
    ("MB/s", 1, |r| Some(r.megabytes_per_second())),
    ("records/s", 0, |r| Some(r.records as f64 / r.seconds.max(1e-9))),
    ("mean µs", 0, |r| r.latency.as_ref().map(|l| l.mean_us)),
    ("p50 µs", 0, |r| latency_at(r, 50.0)),
    ("p99 µs", 0, |r| latency_at(r, 99.0)),
    ("p99.9 µs", 0, |r| latency_at(r, 99.9)),
    ("p99.99 µs", 0, |r| latency_at(r, 99.99)),
    ("max µs", 0, |r| r.latency.as_ref().map(|l| l.max_us as f64)),
    ("CPU s/GiB", 2, RunResult::cpu_seconds_per_gib),
    ("CPU %", 0, |r| r.broker_cpu_seconds.map(|c| 100.0 * c / r.seconds.max(1e-9))),
    ("RSS MiB", 0, |r| r.broker_rss_bytes.map(|b| b as f64 / f64::from(1 << 20))),
    ("copied/received", 2, |r| r.costs.map(|c| c.copied_per_received_byte)),
    ("copied/sent", 2, |r| r.costs.map(|c| c.copied_per_sent_byte)),
    ("allocations/request", 1, |r| r.costs.map(|c| c.allocations_per_request)),
    ("calls/request", 2, |r| r.costs.map(|c| c.system_calls_per_request)),
];

const PROBE_COLUMNS: &[Column] = &[
    ("first answer, s", 3, |r| r.first_answer_seconds),
    ("partitions", 0, |r| Some(r.records as f64)),
    ("all of them acknowledge, s", 3, |r| (r.records > 0).then_some(r.seconds)),
    ("CPU s", 2, |r| r.broker_cpu_seconds),
    ("RSS MiB", 0, |r| r.broker_rss_bytes.map(|b| b as f64 / f64::from(1 << 20))),
];

/// Markdown tables of results, loads and probes: of each label its runs and, of several, the median of each column.
#[must_use]
pub fn print_table(results: &[RunResult]) -> String {
    let is_probe = |r: &&RunResult| r.first_answer_seconds.is_some();
    let loads: Vec<&RunResult> = results.iter().filter(|r| !is_probe(r)).collect();
    let probes: Vec<&RunResult> = results.iter().filter(is_probe).collect();
    let mut text = String::new();
    for (title, columns, rows) in [("load", LOAD_COLUMNS, loads), ("probe", PROBE_COLUMNS, probes)] {
        if !rows.is_empty() {
            text.push_str(if text.is_empty() { "" } else { "\n" });
            table(&mut text, title, columns, &rows);
        }
    }
    text
}

fn table(text: &mut String, title: &str, columns: &[Column], rows: &[&RunResult]) {
    let titles: Vec<&str> = columns.iter().map(|c| c.0).collect();
    let _ = writeln!(text, "| {title} | {} |\n| ---{} |", titles.join(" | "), " | ---".repeat(columns.len()));
    let mut labels: Vec<&str> = Vec::new();
    for row in rows {
        if !labels.contains(&row.label.as_str()) {
            labels.push(&row.label);
        }
    }
    for label in labels {
        let runs: Vec<&RunResult> = rows.iter().copied().filter(|r| r.label == label).collect();
        if runs.len() > 1 {
            let cells: Vec<String> =
                columns.iter().map(|(_, decimals, of)| cell(median(runs.iter().map(|r| of(r))), *decimals)).collect();
            let _ = writeln!(text, "| **{label}, median of {}** | {} |", runs.len(), cells.join(" | "));
        }
        for run in runs {
            let cells: Vec<String> = columns.iter().map(|(_, decimals, of)| cell(of(run), *decimals)).collect();
            let _ = writeln!(text, "| {label} | {} |", cells.join(" | "));
        }
    }
}

fn cell(value: Option<f64>, decimals: usize) -> String {
    value.map_or("–".to_owned(), |v| format!("{v:.decimals$}"))
}

/// Of an even number of values the larger of the two in the middle.
fn median(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let mut values: Vec<f64> = values.flatten().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(label: &str, records: u64) -> RunResult {
        RunResult {
            label: label.to_owned(),
            mode: "produce".to_owned(),
            workload: serde_json::Value::Null,
            seconds: 1.0,
            records,
            bytes: records,
            latency: None,
            floor: None,
            first_answer_seconds: None,
            broker_cpu_seconds: None,
            broker_rss_bytes: None,
            watched: Vec::new(),
            costs: None,
        }
    }

    #[test]
    fn the_median_is_of_one_label_and_stands_before_its_runs() {
        let text = print_table(&[run("a", 30), run("b", 7), run("a", 10), run("a", 20)]);
        let cells = |line: &str| line.split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
        let rows: Vec<_> = text.lines().skip(2).map(cells).map(|c| (c[1].clone(), c[3].clone())).collect();
        let row = |label: &str, rate: &str| (label.to_owned(), rate.to_owned());
        let expected = [row("**a, median of 3**", "20"), row("a", "30"), row("a", "10"), row("a", "20"), row("b", "7")];
        assert_eq!(rows, expected);
    }

    #[test]
    fn a_floor_says_how_far_above_it_the_broker_is() {
        let at = |of: &str, p50| Latency { of: of.to_owned(), percentiles_us: vec![(50.0, p50)], ..Latency::default() };
        let floor =
            Floor { flush: at("one flush", 80), echo: at("one echo", 20), flush_from_load: Some(at("from afar", 900)) };
        let result = RunResult { latency: Some(at("to ack", 145)), floor: Some(floor), ..run("one", 1) };
        assert!(result.text().contains("p50 to ack is 1.45 × the sum"), "{}", result.text());
    }

    #[test]
    fn probes_have_their_own_table() {
        let probe = RunResult { first_answer_seconds: Some(0.25), ..run("start", 0) };
        let text = print_table(&[run("a", 1), probe]);
        assert!(text.contains("\n\n| probe | first answer, s |"), "{text}");
        assert!(text.contains("| start | 0.250 | 0 | – |"), "{text}");
    }
}
