//! `coreline latency`: where the time of requests goes, stage by stage, and what the slowest waited on.

use crate::latency::Stage;
use crate::protocol::Api;
use crate::protocol::describe_latency::{
    DescribeLatencyRequest, DescribeLatencyResponse, FlushRow, LatencyRow, SlowRow,
};
use coreline_bench::client::Client;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Columns of a waterfall.
const WIDTH: usize = 60;
/// Clears the terminal and goes to its upper left corner.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// What to show.
#[derive(Debug, clap::Args)]
pub struct LatencyArgs {
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Write JSON, once.
    #[arg(long)]
    json: bool,
    /// The slowest requests of the last seconds, too: where their time went, and the flush or stall they waited on.
    #[arg(long, default_value_t = 0, value_name = "N")]
    slowest: u16,
    /// Of all requests since the broker's start; else of the last 10 to 20 seconds.
    #[arg(long)]
    since_start: bool,
    /// Each shard by itself, too.
    #[arg(long)]
    by_shard: bool,
    /// Once; else a terminal is written anew until it is interrupted.
    #[arg(long)]
    once: bool,
    /// How often it is written anew.
    #[arg(long, default_value_t = 1, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

/// Runs it.
pub fn run(args: &LatencyArgs) -> Result<String, String> {
    let mut client = Client::connect(&args.bootstrap_server, TIMEOUT).map_err(|e| e.to_string())?;
    if args.json {
        return Ok(format!("{}\n", in_json(&ask(&mut client, args)?)));
    }
    let mut out = std::io::stdout();
    if args.once || !out.is_terminal() {
        return Ok(in_words(&ask(&mut client, args)?, args.since_start));
    }
    loop {
        let text = in_words(&ask(&mut client, args)?, args.since_start);
        if write!(out, "{CLEAR}{text}").and_then(|()| out.flush()).is_err() {
            // Nobody looks any more.
            return Ok(String::new());
        }
        std::thread::sleep(Duration::from_secs(args.every));
    }
}

fn ask(client: &mut Client, args: &LatencyArgs) -> Result<DescribeLatencyResponse, String> {
    let LatencyArgs { since_start, by_shard, slowest, .. } = *args;
    let request = DescribeLatencyRequest { since_start, by_shard, slowest: i32::from(slowest) };
    client.call_version(&request, 0).map_err(|e| format!("{e} (only a Coreline broker knows this request)"))
}

fn api_name(api: i16) -> String {
    Api::find(api).map_or_else(|| format!("API {api}"), |api| api.key.name().to_owned())
}

fn stage_name(stage: i8) -> String {
    let known = u8::try_from(stage).ok().and_then(Stage::from_number);
    known.map_or_else(|| if stage < 0 { "total".into() } else { format!("stage {stage}") }, |s| s.name().to_owned())
}

fn micros(nanos: i64) -> Value {
    json!(nanos as f64 / 1e3)
}

fn in_json(found: &DescribeLatencyResponse) -> Value {
    let row = |row: &LatencyRow| {
        let [mean, p50, p90, p99, p999, max] = row.nanos.map(micros);
        let shard = (row.shard >= 0).then_some(row.shard);
        json!({ "api": api_name(row.api), "shard": shard, "stage": stage_name(row.stage), "count": row.count,
            "mean_us": mean, "p50_us": p50, "p90_us": p90, "p99_us": p99, "p999_us": p999, "max_us": max })
    };
    let flush = |f: &FlushRow| {
        json!({ "shard": f.shard, "group": (f.group >= 0).then_some(f.group), "partitions": f.partitions,
            "bytes": f.bytes, "us": micros(f.nanos) })
    };
    let slow = |slow: &SlowRow| {
        let stage = |(stage, nanos): &(i8, i64)| json!({ "stage": stage_name(*stage), "us": micros(*nanos) });
        json!({ "api": api_name(slow.api), "version": slow.version, "correlation_id": slow.correlation_id,
            "client_id": slow.client_id, "peer": slow.peer, "shard": slow.shard,
            "ended_ms_ago": slow.ended_ago as f64 / 1e6, "total_us": micros(total(slow)),
            "stages": slow.stages.iter().map(stage).collect::<Vec<_>>(), "flush": slow.flush.as_ref().map(flush),
            "stall": slow.stall.as_ref().map(|(task, nanos)| json!({ "task": task, "us": micros(*nanos) })) })
    };
    json!({ "shards": found.shards, "latencies": found.rows.iter().map(row).collect::<Vec<_>>(),
        "slowest": found.slowest.iter().map(slow).collect::<Vec<_>>() })
}

fn total(slow: &SlowRow) -> i64 {
    slow.stages.iter().fold(0, |sum, (_, nanos)| sum.saturating_add(*nanos))
}

/// Three digits and a unit.
fn time(nanos: i64) -> String {
    let nanos = nanos as f64;
    let (value, unit) = match nanos {
        n if n < 999.5e3 => (n / 1e3, "µs"),
        n if n < 999.5e6 => (n / 1e6, "ms"),
        n => (n / 1e9, "s"),
    };
    let digits = if value < 9.995 {
        2
    } else if value < 99.95 {
        1
    } else {
        0
    };
    format!("{value:.digits$} {unit}")
}

fn in_words(found: &DescribeLatencyResponse, since_start: bool) -> String {
    let span = if since_start { "since the start" } else { "the last 10 to 20 seconds" };
    let mut out = format!("Requests of {span}, on {} shards\n\n", found.shards);
    let headers = ["mean", "p50", "p90", "p99", "p99.9", "max"];
    let _ = write!(out, "{:<24} {:<8} {:>10}", "API", "stage", "requests");
    headers.iter().for_each(|header| _ = write!(out, " {header:>9}"));
    let mut before = None;
    for row in &found.rows {
        let group = (row.shard, row.api);
        let of = if row.shard < 0 { String::new() } else { format!(", shard {}", row.shard) };
        let name = if before == Some(group) { String::new() } else { format!("{}{of}", api_name(row.api)) };
        before = Some(group);
        let _ = write!(out, "\n{name:<24} {:<8} {:>10}", stage_name(row.stage), row.count);
        row.nanos.iter().for_each(|nanos| _ = write!(out, " {:>9}", time(*nanos)));
    }
    out.push('\n');
    for slow in &found.slowest {
        out.push('\n');
        waterfall(&mut out, slow);
    }
    out
}

/// One line a stage, each bar where the one before ends.
fn waterfall(out: &mut String, slow: &SlowRow) {
    let SlowRow { shard, api, version, correlation_id, client_id, peer, ended_ago, stages, flush, stall } = slow;
    let total = total(slow);
    let _ = writeln!(
        out,
        "{} {version} of {client_id:?} at {peer}, correlation id {correlation_id}, shard {shard}, {} ago: {}",
        api_name(*api),
        time(*ended_ago),
        time(total)
    );
    let column = |nanos: i64| (nanos as f64 / total.max(1) as f64 * WIDTH as f64).round() as usize;
    let mut from = 0;
    for (stage, nanos) in stages {
        let (begin, end) = (column(from).min(WIDTH), column(from + nanos).min(WIDTH));
        // Even the shortest is seen.
        let begin = begin.min(WIDTH - 1);
        let bar = "#".repeat(end.saturating_sub(begin).max(1));
        let _ = writeln!(out, "  {:<8} {:>9} |{:begin$}{bar}", stage_name(*stage), time(*nanos), "");
        from += nanos;
    }
    if let Some(FlushRow { shard, group, partitions, bytes, nanos }) = flush {
        let what = if *group < 0 { "a write to its segment".into() } else { format!("group commit {group}") };
        let _ = writeln!(
            out,
            "  waited on {what}, shard {shard}: {bytes} bytes of {partitions} partitions, written and flushed in {}",
            time(*nanos)
        );
    }
    if let Some((task, nanos)) = stall {
        let _ = writeln!(out, "  meanwhile the task {task:?} held the core for {}", time(*nanos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_three_digits() {
        let all = [0, 1_234, 12_345, 999_499, 999_500, 12_345_678, 123_456_789, 1_234_567_890, 99_000_000_000];
        let said = all.map(time);
        let expected = ["0.00 µs", "1.23 µs", "12.3 µs", "999 µs", "1.00 ms", "12.3 ms", "123 ms", "1.23 s", "99.0 s"];
        assert_eq!(said, expected);
    }

    #[test]
    fn a_waterfall_names_the_flush_and_the_stall() {
        let flush = FlushRow { shard: 1, group: 7, partitions: 3, bytes: 4096, nanos: 6_000_000 };
        let slow = SlowRow {
            api: 0,
            version: 11,
            client_id: "app".into(),
            peer: "127.0.0.1:5".into(),
            stages: vec![(1, 0), (4, 4_000_000), (5, 6_000_000), (11, 1_000)],
            flush: Some(flush),
            stall: Some(("hog".into(), 12_000_000)),
            ..SlowRow::default()
        };
        let mut out = String::new();
        waterfall(&mut out, &slow);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines[0], "Produce 11 of \"app\" at 127.0.0.1:5, correlation id 0, shard 0, 0.00 µs ago: 10.0 ms");
        assert_eq!(lines[2], format!("  journal    4.00 ms |{}", "#".repeat(24)));
        assert_eq!(lines[3], format!("  device     6.00 ms |{}{}", " ".repeat(24), "#".repeat(36)));
        assert_eq!(lines[4], format!("  send       1.00 µs |{}#", " ".repeat(59)));
        let waited = "  waited on group commit 7, shard 1: 4096 bytes of 3 partitions, written and flushed in 6.00 ms";
        assert_eq!(lines[5..], [waited, "  meanwhile the task \"hog\" held the core for 12.0 ms"]);
    }
}
