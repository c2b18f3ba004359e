//! The load generator: open loop, intended send times, any Kafka-protocol broker.
//!
//! * `produce`: at a rate (open loop: a record's latency runs from the moment it was *meant* to be sent, so a stalled
//!   broker cannot hide by slowing its load), or as fast as `in_flight` requests a connection allow (closed loop).
//! * `consume`: everything that is in the topic, as fast as it comes.
//! * `both`: producers at a rate and consumers, latency end to end.
//! * `one`: one record at a time, from send to receive, the next one after it.
//! * `floor`: one durable record at a time, to its ack, in turn with a flush of a block and an echo: what no broker can beat.
//! * `probe`: how long until the broker, and each partition of a topic that exists, answers.

mod batch;
mod chart;
mod connection;
mod consume;
mod counters;
mod floor;
mod group_members;
mod groups;
mod latencies;
mod one;
mod page;
mod probe;
mod process;
mod produce;
mod report;
mod topics;
mod watch;

pub use batch::BatchBuilder;
pub use counters::Costs;
pub use group_members::Protocol;
pub use groups::{GroupsMode, GroupsWorkload, run as run_groups};
pub use page::html_page;
pub use report::{Floor, Latency, RunResult, Span, print_table, read_results};
pub use watch::Moment;

use crate::client::{Client, ClientError};
use std::io;
use std::path::PathBuf;
use std::time::Duration;
use topics::Share;

/// What a run does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Producers only.
    Produce,
    /// Consumers only, from the first offset to the end as it was at the start.
    Consume,
    /// Producers at a rate, consumers beside them, latency end to end.
    Both,
    /// One record at a time, from send to receive.
    One,
    /// One record at a time, from send to ack, beside one write with its flush and one echo.
    Floor,
    /// Waits until the broker answers, and until each partition of a topic that exists has acknowledged a record.
    Probe,
}

/// A workload; the defaults are one partition, 1 KiB records, as fast as it goes.
#[derive(Clone, Debug, clap::Args, serde::Serialize)]
pub struct Workload {
    /// What to do.
    #[arg(value_enum)]
    pub mode: Mode,
    /// The broker, as host:port.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub bootstrap_server: String,
    /// Name of the topic; created if it is missing.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Partitions of the topic, when it is created.
    #[arg(long, default_value_t = 1)]
    pub partitions: i32,
    /// Only the first so many partitions are used (0: all; a probe: -1 for none).
    #[arg(long, default_value_t = 0, allow_hyphen_values = true)]
    pub active: i32,
    /// Bytes of a record's value.
    #[arg(long, default_value_t = 1024)]
    pub record_size: usize,
    /// Records a second over all connections; 0 is as fast as it goes.
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// Bytes of a batch, when as fast as it goes.
    #[arg(long, default_value_t = 128 << 10)]
    pub batch_bytes: usize,
    /// Bytes of a produce request over all its partitions, when as fast as it goes.
    #[arg(long, default_value_t = 1 << 20)]
    pub request_bytes: usize,
    /// Connections that produce, and as many that consume.
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Requests under way on one connection.
    #[arg(long, default_value_t = 5)]
    pub in_flight: usize,
    /// 0, 1 or all (-1).
    #[arg(long, default_value_t = -1, value_parser = parse_acks, allow_hyphen_values = true)]
    pub acks: i16,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 20.0)]
    pub seconds: f64,
    /// Seconds before that, not measured.
    #[arg(long, default_value_t = 5.0)]
    pub warmup: f64,
    /// Stop after so many bytes of values instead (0: by time).
    #[arg(long, default_value_t = 0)]
    pub bytes: u64,
    /// Where `floor` writes and flushes: a directory on the file system of the broker's data.
    #[arg(long, value_name = "DIR")]
    #[serde(skip)]
    pub floor_dir: Option<PathBuf>,
    /// A probe's clock began then, in milliseconds since 1970 (0: now).
    #[arg(long, default_value_t = 0)]
    pub since_ms: u64,
    /// Seconds after which a probe gives up.
    #[arg(long, default_value_t = 600)]
    pub probe_timeout: u64,
    /// The broker's process, for its CPU and memory.
    #[arg(long)]
    pub broker_pid: Option<u32>,
    /// Coreline's metrics endpoint: what a request cost of copies, allocations and system calls goes into the report, which
    /// fails if anything was copied in user space on the way out.
    #[arg(long, value_name = "HOST:PORT")]
    pub metrics: Option<String>,
    /// A name for the report.
    #[arg(long, default_value = "")]
    pub label: String,
    /// Add the result to this file, one JSON object a line.
    #[arg(long)]
    #[serde(skip)]
    pub json: Option<PathBuf>,
}

fn parse_acks(text: &str) -> Result<i16, String> {
    match text {
        "all" | "-1" => Ok(-1),
        "0" => Ok(0),
        "1" => Ok(1),
        other => Err(format!("acks is 0, 1 or all, not {other}")),
    }
}

/// Why a run ended early.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The client's.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A connection's.
    #[error("connection to {address}: {cause}")]
    Connection {
        /// The broker.
        address: String,
        /// The system's word.
        cause: io::Error,
    },
    /// The broker refused.
    #[error("{what}: error code {code}")]
    Refused {
        /// The request and its object.
        what: String,
        /// Kafka's error code.
        code: i16,
    },
    /// The workload makes no sense.
    #[error("{0}")]
    Workload(String),
}

const TIMEOUT: Duration = Duration::from_secs(60);

impl Workload {
    fn check(&self) -> Result<(), LoadError> {
        let wrong = |what: &str| Err(LoadError::Workload(what.to_owned()));
        if self.connections == 0 || self.in_flight == 0 || self.partitions <= 0 {
            return wrong("connections, in-flight and partitions must be at least 1");
        }
        if self.mode == Mode::Both && self.rate == 0 {
            return wrong("mode both needs --rate: end-to-end latency at full speed only measures queues");
        }
        if self.record_size < batch::STAMP_BYTES {
            return wrong("record-size must be at least 8: a record carries its intended send time");
        }
        if self.acks == 0 && self.mode == Mode::Produce {
            return wrong("acks 0 has no answers to measure");
        }
        Ok(())
    }
}

/// Runs a workload and returns what was measured.
///
/// # Errors
/// See [`LoadError`]; a single failed record ends the run, since a broker under measure must not fail.
pub fn run(workload: &Workload) -> Result<RunResult, LoadError> {
    workload.check()?;
    let load = |run: &dyn Fn(&[Share]) -> Result<RunResult, LoadError>| {
        let shares = topics::prepare(&mut Client::connect(&workload.bootstrap_server, TIMEOUT)?, workload)?;
        let scrape = || workload.metrics.as_deref().map(counters::Counted::scrape).transpose();
        let before = scrape()?;
        let watch = watch::Watch::start(workload.broker_pid);
        let result = run(&shares);
        let watched = watch.stop();
        let result = result?;
        let costs = before.zip(scrape()?).map(|(before, after)| before.until(&after));
        Ok(RunResult { watched, costs, ..result })
    };
    let result = match workload.mode {
        Mode::Produce => load(&|shares| produce::run(workload, shares, None)),
        Mode::Consume => load(&|shares| consume::run(workload, shares)),
        Mode::Both => load(&|shares| consume::run_with_producers(workload, shares)),
        Mode::One => load(&|shares| one::run(workload, shares)),
        Mode::Floor => load(&|shares| floor::run(workload, shares)),
        Mode::Probe => probe::run(workload),
    }?;
    if let Some(path) = &workload.json {
        report::append_json(path, &result).map_err(|e| LoadError::Workload(format!("{}: {e}", path.display())))?;
    }
    if let Some(Err(why)) = result.costs.map(|costs| costs.check()) {
        return Err(LoadError::Workload(format!("{}{why}", result.text())));
    }
    Ok(result)
}
