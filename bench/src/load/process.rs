//! CPU and memory of the broker's process, from /proc.

use std::fs;

/// One look at a process.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sample {
    /// User and system time of all its threads, in seconds.
    pub(super) cpu_seconds: f64,
    /// Resident memory, in bytes.
    pub(super) rss_bytes: u64,
}

/// Ticks a second of /proc's times: fixed at 100 on Linux for user space.
const TICKS: f64 = 100.0;

/// The first core that `pid` may run on; none if it is gone.
pub(super) fn first_core(pid: u32) -> Option<usize> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("Cpus_allowed_list:"))?;
    line.trim().split([',', '-']).next()?.parse().ok()
}

/// Looks at `pid`; none if it is gone.
pub(super) fn sample(pid: u32) -> Option<Sample> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold blanks and brackets; the fields begin after the last bracket.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks: f64 = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(Sample { cpu_seconds: ticks / TICKS, rss_bytes: kib * 1024 })
}
