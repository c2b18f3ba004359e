//! `coreline partition`: which cores of a broker have partitions, and moving one to another.

use super::CommonArgs;
use super::cluster::error_name;
use crate::protocol::move_partition::{MovePartitionRequest, MovePartitionResponse};
use coreline_bench::client::Client;
use serde_json::json;
use std::fmt::Write as _;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(60);

/// What to do with partitions.
#[derive(Debug, clap::Args)]
pub struct PartitionArgs {
    #[command(flatten)]
    common: CommonArgs,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Say which core has which partition, counted from 0 among the cores that the broker runs on.
    Describe {
        /// Only this topic's.
        #[arg(long)]
        topic: Option<String>,
        /// Only this one.
        #[arg(long, requires = "topic", value_parser = clap::value_parser!(i32).range(0..))]
        partition: Option<i32>,
    },
    /// Move a partition to another core of the same broker. Its clients wait for some milliseconds, and see nothing else.
    Move {
        /// Its topic.
        #[arg(long)]
        topic: String,
        /// Its number.
        #[arg(long, value_parser = clap::value_parser!(i32).range(0..))]
        partition: i32,
        /// Where to, counted from 0 among the cores that the broker runs on.
        #[arg(long, value_name = "CORE")]
        to_core: u16,
    },
}

/// Runs it.
///
/// # Errors
/// A sentence for whoever called.
pub fn run(args: &PartitionArgs) -> Result<String, String> {
    let request = match &args.action {
        Action::Describe { topic, partition } => {
            MovePartitionRequest { topic: topic.clone(), partition: partition.unwrap_or(-1), to_core: -1 }
        }
        Action::Move { topic, partition, to_core } => {
            MovePartitionRequest { topic: Some(topic.clone()), partition: *partition, to_core: i32::from(*to_core) }
        }
    };
    let mut client = Client::connect(&args.common.bootstrap_server, TIMEOUT).map_err(|e| e.to_string())?;
    let answer = client.call_version(&request, 0);
    let found = answer.map_err(|e| format!("{e} (only a Coreline broker knows this request)"))?;
    if found.error_code != 0 {
        let name = error_name(found.error_code);
        return Err(found.error_message.map_or(name.clone(), |message| format!("{name}: {message}")));
    }
    Ok(if args.common.json { in_json(&found) } else { in_words(&found) })
}

fn in_words(found: &MovePartitionResponse) -> String {
    let mut out = String::new();
    for placed in &found.partitions {
        let _ = writeln!(out, "{}-{} is on core {} of {}", placed.topic, placed.index, placed.core, found.cores);
    }
    out
}

fn in_json(found: &MovePartitionResponse) -> String {
    let row = |p: &crate::protocol::move_partition::PlacedPartition| json!({ "topic": p.topic, "partition": p.index, "core": p.core });
    format!("{}\n", json!({ "cores": found.cores, "partitions": found.partitions.iter().map(row).collect::<Vec<_>>() }))
}
