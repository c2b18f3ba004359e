//! The load generator by itself; `coreline bench` is the same.

use clap::Parser;
use coreline_bench::load::{self, Workload};
use std::path::PathBuf;
use std::process::ExitCode;

/// Loads any Kafka-protocol broker and says what it found.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    /// Run one workload.
    Run(Box<Workload>),
    /// Load group coordinators: heartbeats, one large rebalance, commits.
    Groups(Box<load::GroupsWorkload>),
    /// A Markdown table of results that `run --json` wrote.
    Table {
        /// Files of JSON lines.
        files: Vec<PathBuf>,
    },
    /// One HTML page of results that `run --json` wrote, to standard output.
    Page {
        /// Files of JSON lines.
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Run(workload) => load::run(&workload).map(|r| r.text()).map_err(|e| e.to_string()),
        Arguments::Groups(workload) => load::run_groups(&workload).map_err(|e| e.to_string()),
        Arguments::Table { files } => load::read_results(&files).map(|results| load::print_table(&results)),
        Arguments::Page { files } => load::read_results(&files).map(|results| load::html_page(&results, &[])),
    };
    match done {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::FAILURE
        }
    }
}
