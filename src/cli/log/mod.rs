//! `coreline log`: look into files of the log, check a data directory, ask a broker to compact a topic. Nothing here writes
//! to a disk.

mod compact;
mod dump;
mod dump_ours;
mod read;
#[cfg(test)]
mod tests;
mod verify;
mod verify_files;

use crate::log::segment::{FileKind, parse_file_name};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Files of the log.
#[derive(Debug, clap::Args)]
pub struct LogArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Print what is in files: segments, indexes, snapshots and checkpoints as Kafka's dump-log does, journal and metadata.
    Dump(DumpArgs),
    /// Compact a topic now, whatever its dirty ratio, and wait until that is done: asks the broker that runs.
    Compact(CompactArgs),
    /// Check every file of a data directory, or of a partition's directory; exit code 1 if anything is damaged.
    Verify(VerifyArgs),
}

#[derive(Debug, clap::Args)]
struct DumpArgs {
    /// The files.
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The records of each batch, too.
    #[arg(long)]
    deep_iteration: bool,
    /// Keys and values of the records, too.
    #[arg(long)]
    print_data_log: bool,
    /// Without offset, time and sizes of records.
    #[arg(long)]
    skip_record_metadata: bool,
}

#[derive(Debug, clap::Args)]
struct CompactArgs {
    /// The topic; its cleanup.policy has compact.
    topic: String,
    /// The broker.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    bootstrap_server: String,
    /// A partition; may be repeated. All of them if not given.
    #[arg(long = "partition", value_name = "N")]
    partitions: Vec<i32>,
    /// Ask for it, and do not wait for its end.
    #[arg(long)]
    no_wait: bool,
    /// Write JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct VerifyArgs {
    /// The directory; no node may be running on it.
    directory: PathBuf,
    /// Write JSON.
    #[arg(long)]
    json: bool,
    /// Files that are read at a time; as many as there are cores if not given.
    #[arg(long)]
    threads: Option<usize>,
}

/// What a file is, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A file that belongs to the segment of this base offset.
    Partition(i64, FileKind),
    LeaderEpochs,
    TopicId,
    LogStart,
    Journal,
    MetadataLog,
    MetadataSnapshot,
}

fn kind_of(path: &Path) -> Option<Kind> {
    let name = path.file_name()?.to_str()?;
    if let Some((base, kind)) = parse_file_name(name) {
        return Some(Kind::Partition(base, kind));
    }
    let all_digits = |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    match name {
        "leader-epoch-checkpoint" => Some(Kind::LeaderEpochs),
        "partition.metadata" => Some(Kind::TopicId),
        "log-start-offset-checkpoint" => Some(Kind::LogStart),
        "snapshot" => Some(Kind::MetadataSnapshot),
        // Frames as the journal's.
        "states" => Some(Kind::Journal),
        _ if name.strip_suffix(".journal").is_some_and(|n| all_digits(n, 6)) => Some(Kind::Journal),
        _ if name.strip_prefix("log-").is_some_and(|n| all_digits(n, 20)) => Some(Kind::MetadataLog),
        _ => None,
    }
}

/// Runs it. 0; 1 if something is damaged; 2 if something cannot be read.
#[must_use]
pub fn run(args: &LogArgs) -> ExitCode {
    let done = match &args.action {
        Action::Compact(args) => compact::run(args),
        Action::Dump(args) => dump_all(args),
        Action::Verify(args) => verify::run(args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(problem) => {
            super::say_why(&problem);
            ExitCode::from(2)
        }
    }
}

fn dump_all(args: &DumpArgs) -> Result<bool, String> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut whole = true;
    for path in &args.files {
        let mut problems = Vec::new();
        let dumped = dump::file(path, args, &mut out, &mut problems).and_then(|()| out.flush());
        match dumped {
            // Whoever closed the pipe has read enough.
            Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => return Ok(whole),
            Err(e) => return Err(format!("{}: {e}", path.display())),
            Ok(()) => {}
        }
        for problem in &problems {
            eprintln!("{}: {problem}", path.display());
        }
        whole &= problems.is_empty();
    }
    Ok(whole)
}
