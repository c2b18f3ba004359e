//! `coreline log verify`: finds the files of a directory, checks them on all cores, says what is damaged.

use super::verify_files::{self, Checked, Finding};
use super::{Kind, VerifyArgs, kind_of};
use crate::log::segment::FileKind;
use serde_json::json;
use std::fs;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// One piece of work: a file, a segment with its indexes.
pub(super) struct Unit {
    pub(super) path: PathBuf,
    pub(super) kind: Kind,
    /// The last segment of its partition: its end may be padded.
    pub(super) last: bool,
    /// The node ended in good order: nothing may be torn.
    pub(super) clean: bool,
    bytes: u64,
}

/// What was found, over all files.
#[derive(Default)]
pub(super) struct Report {
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) batches: u64,
    pub(super) records: u64,
    /// In the order of the files.
    pub(super) findings: Vec<Finding>,
}

impl Report {
    pub(super) fn is_whole(&self) -> bool {
        !self.findings.iter().any(|f| f.damage)
    }
}

pub(super) fn run(args: &VerifyArgs) -> Result<bool, String> {
    let _lock = not_in_use(&args.directory)?;
    let threads = args.threads.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let show = std::io::stderr().is_terminal() && !args.json;
    let report = verify(&args.directory, threads.max(1), show)?;
    let text = if args.json { in_json(&args.directory, &report) } else { in_words(&report) };
    // Whoever closed the pipe has read enough.
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(report.is_whole())
}

/// The lock of the directory, shared, so that no node begins meanwhile; none if the directory has no lock file.
fn not_in_use(directory: &Path) -> Result<Option<fs::File>, String> {
    let Ok(lock) = fs::File::open(directory.join(".lock")) else { return Ok(None) };
    match lock.try_lock_shared() {
        Ok(()) => Ok(Some(lock)),
        Err(_) => Err(format!("{}: a node runs on it; stop it, or verify a copy", directory.display())),
    }
}

/// Checks everything below `directory`.
pub(super) fn verify(directory: &Path, threads: usize, show: bool) -> Result<Report, String> {
    let units = units(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    if units.is_empty() {
        return Err(format!("{}: no file of a log in it", directory.display()));
    }
    let total: u64 = units.iter().map(|u| u.bytes).sum();
    let (next, done, ended) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let results: Mutex<Vec<(usize, Checked)>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads.min(units.len()))
            .map(|_| {
                scope.spawn(|| {
                    loop {
                        let unit = next.fetch_add(1, Ordering::Relaxed);
                        let Some(work) = units.get(unit) else { break };
                        let checked = verify_files::check(work, &done);
                        results.lock().expect("no worker panics with the lock").push((unit, checked));
                    }
                })
            })
            .collect();
        let progress = show.then(|| scope.spawn(|| show_progress(&done, total, &ended)));
        for worker in workers {
            worker.join().expect("a worker does not panic");
        }
        ended.store(true, Ordering::Relaxed);
        if let Some(progress) = progress {
            progress.thread().unpark();
        }
    });
    let mut results = results.into_inner().expect("no worker panics with the lock");
    results.sort_by_key(|(unit, _)| *unit);
    Ok(join(&units, results))
}

fn show_progress(done: &AtomicU64, total: u64, ended: &AtomicBool) {
    while !ended.load(Ordering::Relaxed) {
        let read = done.load(Ordering::Relaxed).min(total);
        let percent = read * 100 / total.max(1);
        eprint!("\r{percent:3} %  {} of {} MiB", read >> 20, total >> 20);
        std::thread::park_timeout(PROGRESS_EVERY);
    }
    eprint!("\r{:40}\r", "");
}

/// Puts the results together, and looks from segment to segment.
fn join(units: &[Unit], results: Vec<(usize, Checked)>) -> Report {
    let mut report = Report { files: units.len(), ..Report::default() };
    let mut before: Option<(&Path, i64)> = None;
    for (unit, checked) in results {
        let unit = &units[unit];
        report.bytes += unit.bytes;
        report.batches += checked.batches;
        report.records += checked.records;
        report.findings.extend(checked.findings);
        let Kind::Partition(base, FileKind::Log) = unit.kind else { continue };
        let directory = unit.path.parent().unwrap_or(Path::new(""));
        if let Some((_, end)) = before.filter(|(other, end)| *other == directory && *end > base) {
            let what = format!("the segment begins at offset {base}, the one before it goes on to offset {}", end - 1);
            report.findings.push(Finding { file: unit.path.clone(), byte: 0, damage: true, what });
        }
        before = Some((directory, checked.next_offset.unwrap_or(base)));
    }
    report
}

/// The files below `directory`, partition by partition, segments by offset. Indexes are checked with their segment.
fn units(directory: &Path) -> std::io::Result<Vec<Unit>> {
    let clean = ended_cleanly(directory);
    let mut found = Vec::new();
    let mut directories = vec![(directory.to_path_buf(), 0)];
    while let Some((dir, depth)) = directories.pop() {
        let mut files: Vec<Unit> = Vec::new();
        for entry in fs::read_dir(&dir)? {
            let (entry, name) = entry.map(|e| (e.path(), e.file_name()))?;
            let deleted = name.to_string_lossy().ends_with("-delete");
            let metadata = fs::symlink_metadata(&entry)?;
            if metadata.is_dir() && depth < 2 && !deleted {
                directories.push((entry, depth + 1));
            } else if let Some(kind) = kind_of(&entry).filter(|_| metadata.is_file()) {
                files.push(Unit { path: entry, kind, last: false, clean, bytes: metadata.len() });
            }
        }
        // An index without its segment is left over from a deletion: nobody reads it.
        files.retain(|u| !matches!(u.kind, Kind::Partition(_, FileKind::OffsetIndex | FileKind::TimeIndex)));
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if let Some(last) = files.iter_mut().rfind(|u| matches!(u.kind, Kind::Partition(_, FileKind::Log))) {
            last.last = true;
        }
        found.extend(files);
        directories.sort_by(|a, b| b.cmp(a));
    }
    Ok(found)
}

/// Every shard's journal has the mark of an orderly end.
fn ended_cleanly(directory: &Path) -> bool {
    let Ok(shards) = fs::read_dir(directory.join("journal")) else { return false };
    let marks: Vec<bool> = shards.flatten().map(|shard| shard.path().join("clean").exists()).collect();
    !marks.is_empty() && marks.iter().all(|mark| *mark)
}

fn in_words(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let grade = if finding.damage { "damaged" } else { "note" };
        text += &format!("{grade}: {}: byte {}: {}\n", finding.file.display(), finding.byte, finding.what);
    }
    let damaged = report.findings.iter().filter(|f| f.damage).count();
    let verdict = if damaged == 0 { "nothing is damaged".to_owned() } else { format!("{damaged} places are damaged") };
    let Report { files, bytes, batches, records, .. } = report;
    text + &format!(
        "{files} files, {} MiB, {batches} batches and {records} records in segments: {verdict}\n",
        bytes >> 20
    )
}

fn in_json(directory: &Path, report: &Report) -> String {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|f| json!({ "file": f.file, "byte": f.byte, "damage": f.damage, "what": f.what }))
        .collect();
    let all = json!({
        "directory": directory,
        "files": report.files,
        "bytes": report.bytes,
        "batches": report.batches,
        "records": report.records,
        "whole": report.is_whole(),
        "findings": findings,
    });
    format!("{all}\n")
}
