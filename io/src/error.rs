//! The one error of the seam: operation, object, place, cause.

use std::fmt;
use std::path::{Path, PathBuf};

/// Result of an operation of the seam.
pub type IoResult<T> = Result<T, IoError>;

/// What went wrong, as far as a caller has to tell cases apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoErrorKind {
    /// The file or directory does not exist.
    NotFound,
    /// The file exists and must not.
    AlreadyExists,
    /// The process may not do this.
    PermissionDenied,
    /// No space left, or over quota: nothing of the write may be relied on.
    StorageFull,
    /// The device or the file system said EIO, or gave less than it must.
    Device,
    /// The peer closed or reset the connection.
    Disconnected,
    /// The address is in use.
    AddrInUse,
    /// Somebody else holds the lock.
    Locked,
    /// The host cannot do this (no io_uring, no O_DIRECT on this file system, memlock too low).
    Unsupported,
    /// Anything else; the cause says it.
    Other,
}

/// An I/O failure: what was tried, on what, where, and the system's word.
#[derive(Debug, thiserror::Error)]
pub struct IoError {
    /// The class a caller decides by.
    pub kind: IoErrorKind,
    /// The operation, as a verb: `write`, `fdatasync`, `accept`.
    pub operation: &'static str,
    /// The file, where there is one.
    pub path: Option<PathBuf>,
    /// The byte offset, where there is one.
    pub offset: Option<u64>,
    /// The system's own word.
    #[source]
    pub cause: std::io::Error,
}

/// Which half of a write that was to be durable failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteSyncError {
    /// The write: as after any failed write.
    #[error(transparent)]
    Write(IoError),
    /// The flush: nothing is known of this write, nor of those before it that no flush covers.
    #[error(transparent)]
    Sync(IoError),
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if let Some(path) = &self.path {
            write!(f, " {}", path.display())?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.cause)
    }
}

impl IoError {
    /// An error of `operation`, its kind derived from `cause`.
    #[must_use]
    pub fn new(operation: &'static str, cause: std::io::Error) -> Self {
        let kind = IoErrorKind::of(&cause);
        Self { kind, operation, path: None, offset: None, cause }
    }

    /// The same error with the file it concerns.
    #[must_use]
    pub fn on(mut self, path: &Path) -> Self {
        self.path = Some(path.to_path_buf());
        self
    }

    /// The same error with the byte offset it concerns.
    #[must_use]
    pub fn at(mut self, offset: u64) -> Self {
        self.offset = Some(offset);
        self
    }
}

impl IoErrorKind {
    /// The class of a system error.
    #[must_use]
    pub fn of(cause: &std::io::Error) -> Self {
        use std::io::ErrorKind as K;
        match cause.raw_os_error() {
            Some(libc::EIO) => return Self::Device,
            Some(libc::ENOSPC | libc::EDQUOT) => return Self::StorageFull,
            _ => {}
        }
        match cause.kind() {
            K::NotFound => Self::NotFound,
            K::AlreadyExists => Self::AlreadyExists,
            K::PermissionDenied | K::ReadOnlyFilesystem => Self::PermissionDenied,
            K::StorageFull | K::QuotaExceeded => Self::StorageFull,
            K::WriteZero | K::UnexpectedEof => Self::Device,
            K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe | K::NotConnected | K::ConnectionRefused => {
                Self::Disconnected
            }
            K::AddrInUse => Self::AddrInUse,
            K::Unsupported => Self::Unsupported,
            _ => Self::Other,
        }
    }
}
