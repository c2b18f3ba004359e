//! The command line: one binary `coreline`, a subcommand a file.

mod cluster;
pub mod consume;
mod coordinators;
pub mod group;
mod group_admin;
mod group_member;
mod kafka;
pub mod latency;
pub mod log;
pub mod partition;
pub mod produce;
mod reader;
mod sender;
#[cfg(feature = "uring")]
pub mod start;
pub mod topic;
pub mod transaction;
mod transaction_admin;

use clap::{Parser, Subcommand};
use coreline_bench::load::{self, Workload};
use std::io::{IsTerminal, Write};
use std::process::ExitCode;

/// A broker that speaks Kafka's protocol: thread-per-core, durable on every acknowledgement.
#[derive(Debug, Parser)]
#[command(name = "coreline", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// What the subcommands about topics, groups and transactions have in common.
#[derive(Debug, clap::Args)]
struct CommonArgs {
    /// The broker.
    #[arg(long, global = true, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// Write JSON.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node.
    #[cfg(feature = "uring")]
    Start(start::StartArgs),
    /// Create, list, describe, alter and delete topics.
    Topic(topic::TopicArgs),
    /// See which cores have partitions, and move one to another.
    Partition(partition::PartitionArgs),
    /// See consumer groups, move their offsets, delete them.
    Group(group::GroupArgs),
    /// See transactions, find those that hang, abort them.
    Transaction(transaction::TransactionArgs),
    /// Send lines of standard input to a topic.
    Produce(produce::ProduceArgs),
    /// Write the records of a topic to standard output.
    Consume(consume::ConsumeArgs),
    /// Where the time of requests goes, and what the slowest waited on.
    Latency(latency::LatencyArgs),
    /// Print and check the files of a node's data directory.
    Log(log::LogArgs),
    /// Load any Kafka-protocol broker and say what it found.
    Bench(Box<Workload>),
    /// Load group coordinators: heartbeats, one large rebalance, commits.
    BenchGroups(Box<load::GroupsWorkload>),
    /// A Markdown table of the results that `bench --json` wrote.
    BenchTable {
        /// Files of JSON lines.
        #[arg(required = true)]
        files: Vec<std::path::PathBuf>,
    },
    /// One HTML page of the results that `bench --json` wrote: latency by percentile and over time, throughput, CPU, memory, cores.
    BenchPage {
        /// Files of JSON lines.
        #[arg(required = true)]
        files: Vec<std::path::PathBuf>,
        /// A line about the runs, at the top of the page; may be given again.
        #[arg(long)]
        note: Vec<String>,
    },
}

/// Runs the command line; the exit code is 0, or 1 for a command that failed, or one of `src/docs/operations.md`.
#[must_use]
pub fn main() -> ExitCode {
    log_to_stderr();
    let mut words = std::env::args_os().peekable();
    if let Some(tool) = words.peek().and_then(|program| kafka::tool(program.as_ref())) {
        return tool(&mut words);
    }
    let arguments = Arguments::parse();
    let done = match arguments.command {
        #[cfg(feature = "uring")]
        Command::Start(args) => return start::run(&args),
        Command::Log(args) => return log::run(&args),
        Command::Topic(args) => topic::run(&args),
        Command::Partition(args) => partition::run(&args),
        Command::Group(args) => group::run(&args),
        Command::Transaction(args) => transaction::run(&args),
        Command::Latency(args) => latency::run(&args),
        Command::Produce(args) => produce::run(&args),
        Command::Consume(args) => consume::run(&args),
        Command::BenchGroups(workload) => load::run_groups(&workload).map_err(|e| e.to_string()),
        Command::BenchTable { files } => load::read_results(&files).map(|results| load::print_table(&results)),
        Command::BenchPage { files, note } => {
            load::read_results(&files).map(|results| load::html_page(&results, &note))
        }
        Command::Bench(workload) => load::run(&workload).map(|r| r.text()).map_err(|e| e.to_string()),
    };
    match done {
        Ok(text) => {
            let mut out = std::io::stdout();
            match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
                // Whoever closed the pipe has read enough.
                Err(cause) if cause.kind() != std::io::ErrorKind::BrokenPipe => {
                    say_why(&format!("standard output cannot be written: {cause}"));
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(problem) => {
            say_why(&problem);
            ExitCode::FAILURE
        }
    }
}

/// Says on standard error why a command failed. Where that cannot be written, the exit code alone says it.
fn say_why(problem: &str) {
    let _ = writeln!(std::io::stderr(), "coreline: {problem}");
}

/// Logs go to standard error; `CORELINE_LOG` filters them as `tracing` does (`info`, `coreline=debug`, …).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("CORELINE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        // A line that cannot be written is lost; saying so on the same standard error would be a panic.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_reset_says_where_to() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' '));
        assert!(parse("coreline group reset g --topic t --shift-by -5").is_ok());
        assert!(parse("coreline group reset g --topic t").is_err());
        assert!(parse("coreline group reset g --topic t --to-latest --to-earliest").is_err());
    }
}
