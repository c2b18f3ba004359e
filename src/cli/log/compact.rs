//! `coreline log compact`: asks the broker for a compaction, shows how far it is, says up to where it came.

use super::CompactArgs;
use crate::cli::cluster::error_name;
use crate::protocol::compact_topic::{CompactTopicRequest, CompactTopicResponse, CompactedPartition};
use coreline_bench::client::Client;
use serde_json::json;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);
/// From one question to the next.
const ASK_EVERY: Duration = Duration::from_millis(200);

pub(super) fn run(args: &CompactArgs) -> Result<bool, String> {
    let mut client = Client::connect(&args.bootstrap_server, TIMEOUT).map_err(|e| e.to_string())?;
    let mut found = ask(&mut client, args, true)?;
    // What comes later is not waited for.
    let ends: Vec<i64> = found.iter().map(|p| p.end).collect();
    let show = std::io::stderr().is_terminal() && !args.json;
    while !args.no_wait && found.iter().any(|p| p.pending) {
        if show {
            let done = found.iter().filter(|p| !p.pending).count();
            let (offsets, all) = (found.iter().map(|p| p.compacted_end - p.start).sum::<i64>(), total(&found, &ends));
            eprint!("\r{done} of {} partitions, {offsets} of {all} offsets compacted", found.len());
        }
        std::thread::sleep(ASK_EVERY);
        found = ask(&mut client, args, false)?;
    }
    if show {
        eprint!("\r{:78}\r", "");
    }
    let text = if args.json { in_json(&found) } else { in_words(&args.topic, &found, &ends) };
    // Whoever closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(found.iter().all(|p| p.error_code == 0))
}

fn total(found: &[CompactedPartition], ends: &[i64]) -> i64 {
    found.iter().zip(ends).map(|(p, end)| (end - p.start).max(0)).sum()
}

fn ask(client: &mut Client, args: &CompactArgs, begin: bool) -> Result<Vec<CompactedPartition>, String> {
    let request = CompactTopicRequest { topic: args.topic.clone(), partitions: args.partitions.clone(), begin };
    let answer = client.call_version(&request, 0);
    let CompactTopicResponse { error_code, error_message, partitions } =
        answer.map_err(|e| format!("{e} (only a Coreline broker knows this request)"))?;
    if error_code != 0 {
        return Err(error_message.unwrap_or_else(|| error_name(error_code)));
    }
    Ok(partitions)
}

fn in_words(topic: &str, found: &[CompactedPartition], ends: &[i64]) -> String {
    let mut out = String::new();
    for (partition, end) in found.iter().zip(ends) {
        let CompactedPartition { index, error_code, error_message, pending, compacted_end, .. } = partition;
        let _ = match (error_code, error_message) {
            (0, _) if *pending => writeln!(out, "{topic}-{index} is being compacted up to offset {end}"),
            (0, _) if compacted_end >= end => {
                writeln!(out, "{topic}-{index} is compacted up to offset {compacted_end}")
            }
            (0, _) => writeln!(
                out,
                "{topic}-{index} is compacted up to offset {compacted_end} of {end}: what follows is younger than \
                 min.compaction.lag.ms, or of an open transaction"
            ),
            (code, None) => writeln!(out, "{topic}-{index}: {}", error_name(*code)),
            (code, Some(message)) => writeln!(out, "{topic}-{index}: {}: {message}", error_name(*code)),
        };
    }
    out
}

fn in_json(found: &[CompactedPartition]) -> String {
    let row = |p: &CompactedPartition| {
        let error = (p.error_code != 0).then(|| error_name(p.error_code));
        json!({ "partition": p.index, "pending": p.pending, "start": p.start, "compacted_end": p.compacted_end,
            "end": p.end, "error": error, "message": p.error_message })
    };
    format!("{}\n", json!(found.iter().map(row).collect::<Vec<_>>()))
}
