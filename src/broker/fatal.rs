//! How the process ends when it must: one documented exit code a reason (`src/docs/operations.md`).

use super::store::FatalReason;
use std::io::Write as _;

/// Why the process ended, by its exit code. 0 is a clean stop; a panic aborts (SIGABRT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitReason {
    /// A setting is wrong or unknown, or the command line is.
    Configuration = 2,
    /// The data directory is missing, unwritable, or belongs to another node.
    DataDirectory = 10,
    /// Another process has the data directory.
    Locked = 11,
    /// The address is in use or cannot be bound.
    Listen = 12,
    /// This host cannot run it: no io_uring, too little locked memory.
    Host = 13,
    /// What is on the disk cannot be read: damaged metadata, a newer format.
    Damaged = 14,
    /// A shard failed while it served.
    Shard = 15,
    /// A write or a flush of the journal failed: what was acknowledged before is safe, nothing more can be.
    JournalFailed = 20,
    /// A write or a flush of a segment failed.
    SegmentFailed = 21,
    /// A directory or a small file could not be made durable.
    DirectoryFailed = 22,
    /// A write or a flush of the metadata log failed.
    MetadataFailed = 23,
}

impl ExitReason {
    /// The process's exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<FatalReason> for ExitReason {
    fn from(reason: FatalReason) -> Self {
        match reason {
            FatalReason::JournalWrite | FatalReason::JournalSync => Self::JournalFailed,
            FatalReason::SegmentWrite | FatalReason::SegmentSync => Self::SegmentFailed,
            FatalReason::Directory => Self::DirectoryFailed,
        }
    }
}

/// Ends the node: the process in a server, the simulated node in a simulation. Must not return.
pub type FatalHandler = std::sync::Arc<dyn Fn(ExitReason, &str) + Send + Sync>;

/// Says why and ends the process at once: no destructor may write what is in doubt.
pub fn end_process(reason: ExitReason, message: &str) {
    tracing::error!(exit_code = reason.code(), "stopping: {message}");
    // Where standard error is on the disk that failed, this fails, too; the exit code must not.
    let _ = writeln!(std::io::stderr(), "coreline: {message} (exit code {})", reason.code());
    std::process::exit(i32::from(reason.code()));
}
