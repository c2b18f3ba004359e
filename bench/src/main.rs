//! The load generator by itself; `coreline bench` is the same.

use clap::Parser;
use coreline_bench::load::{self, RunResult, Workload};
use std::path::PathBuf;
use std::process::ExitCode;

/// Loads any Kafka-protocol broker and says what it found.
#[derive(Debug, Parser)]
#[command(version)]
enum Arguments {
    /// Run one workload.
    Run(Box<Workload>),
    /// A Markdown table of results that `run --json` wrote.
    Table {
        /// Files of JSON lines.
        files: Vec<PathBuf>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse() {
        Arguments::Run(workload) => load::run(&workload).map(|r| r.text()).map_err(|e| e.to_string()),
        Arguments::Table { files } => read(&files).map(|results| load::print_table(&results)),
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

fn read(files: &[PathBuf]) -> Result<Vec<RunResult>, String> {
    let mut results = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).map_err(|e| format!("{}: {e}", file.display()))?;
        for line in text.lines() {
            results.push(serde_json::from_str(line).map_err(|e| format!("{}: {e}", file.display()))?);
        }
    }
    Ok(results)
}
