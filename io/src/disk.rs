//! Files and directories: direct I/O, aligned, gathered.

use crate::error::{IoResult, WriteSyncError};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// How to open a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// Make the file if it is missing.
    pub create: bool,
    /// Fail with `AlreadyExists` if it is there.
    pub create_new: bool,
    /// Cut the file to nothing.
    pub truncate: bool,
    /// Open for reading only; a write is then an error.
    pub read_only: bool,
    /// `O_DSYNC`: each write is durable when it completes (no `sync_data` needed for bytes inside the file's size).
    pub dsync: bool,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The last component of the path.
    pub name: String,
    /// True for a directory.
    pub is_dir: bool,
    /// Length in bytes (0 for a directory).
    pub len: u64,
}

/// A directory, and some of its files whole.
#[derive(Clone, Debug, Default)]
pub struct DirContents {
    /// Its names, in no order.
    pub entries: Vec<DirEntry>,
    /// The contents of the files that were asked for, by name. One that was removed meanwhile is not here.
    pub files: BTreeMap<String, Bytes>,
}

/// Which of a directory's entries are to be read, as places in the list.
pub type PickFiles = fn(&[DirEntry]) -> Vec<usize>;

/// A direct-I/O file. Cheap to clone is not promised: share it in an `Rc`.
///
/// Two operations in flight may complete in any order. Dropping the future of a write does not cancel
/// the write: never use that range again as if it had not landed.
pub trait File: 'static {
    /// Reads `len` bytes from `offset`, any alignment; shorter only at the end of the file.
    ///
    /// The bytes may be sent to another core. A small slice pins its whole buffer: copy what you keep.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = IoResult<Bytes>>;

    /// Writes `parts` back to back at `offset`. Offset and total length must be multiples of [`crate::BLOCK`] (asserted).
    ///
    /// Not atomic and not durable: a crash may leave any subset of its 512-byte sectors until
    /// [`File::sync_data`] returns (or the file was opened with `dsync`).
    fn write_at(&self, offset: u64, parts: &[Bytes]) -> impl Future<Output = IoResult<()>>;

    /// [`File::write_at`], then [`File::sync_data`]: durable when it returns, with all that was written before. For a file
    /// of which each write waits for the one before it. The error tells which of the two failed. One part that begins on a
    /// block in memory is written from where it is.
    fn write_and_sync(&self, offset: u64, parts: &[Bytes]) -> impl Future<Output = Result<(), WriteSyncError>> {
        async move {
            self.write_at(offset, parts).await.map_err(WriteSyncError::Write)?;
            self.sync_data().await.map_err(WriteSyncError::Sync)
        }
    }

    /// `fdatasync`: all writes that completed before the call, and the size needed to read them, are durable.
    ///
    /// After an error nothing is known of any of them: do not retry, stop the process.
    fn sync_data(&self) -> impl Future<Output = IoResult<()>>;

    /// Sets the length in bytes; bytes past the old end read as zero. Not durable before [`File::sync_data`].
    fn truncate(&self, len: u64) -> impl Future<Output = IoResult<()>>;

    /// Takes the room that the file needs to become `len` bytes long, so that writes below it do not meet a full disk. Its
    /// length stays. [`File::truncate`] gives back what is past the new length. Not durable before [`File::sync_data`].
    fn reserve(&self, len: u64) -> impl Future<Output = IoResult<()>>;

    /// The length of the file in bytes.
    fn size(&self) -> impl Future<Output = IoResult<u64>>;

    /// Closes the file and reports what the drop could not.
    fn close(self) -> impl Future<Output = IoResult<()>>;
}

/// The file system under the data directory.
pub trait Disk {
    /// The backend's file.
    type File: File;
    /// Held while it lives; dropping it, or the death of the process, releases it.
    type Lock: 'static;

    /// Opens a direct-I/O file. `Unsupported` when the file system has no O_DIRECT and no substitute was allowed.
    fn open(&self, path: &Path, options: OpenOptions) -> impl Future<Output = IoResult<Self::File>>;
    /// Reads a small file whole.
    fn read_file(&self, path: &Path) -> impl Future<Output = IoResult<Vec<u8>>>;
    /// Replaces a small file: temporary file, fsync, rename, fsync of the directory. After a crash it is the old one or the new one.
    fn write_file_atomic(&self, path: &Path, contents: &[u8]) -> impl Future<Output = IoResult<()>>;
    /// Makes a directory and its parents; fine if it is there. Durable after [`Disk::sync_dir`] of the parent.
    fn create_dir_all(&self, path: &Path) -> impl Future<Output = IoResult<()>>;
    /// The entries of a directory, in no order.
    fn list_dir(&self, path: &Path) -> impl Future<Output = IoResult<Vec<DirEntry>>>;
    /// Lists directories and reads the (small) files in them that `pick` chooses: many in one call cost little more
    /// than the first. The answers in the order of `dirs`; each as [`Disk::list_dir`] and [`Disk::read_file`] would fail.
    fn read_dirs(&self, dirs: Vec<PathBuf>, pick: PickFiles) -> impl Future<Output = Vec<IoResult<DirContents>>>;
    /// Renames within the file system, replacing the target. Durable after [`Disk::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> impl Future<Output = IoResult<()>>;
    /// Removes a file. Durable after [`Disk::sync_dir`].
    fn remove_file(&self, path: &Path) -> impl Future<Output = IoResult<()>>;
    /// Removes a directory and all below it.
    fn remove_dir_all(&self, path: &Path) -> impl Future<Output = IoResult<()>>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &Path) -> impl Future<Output = IoResult<()>>;
    /// Makes small new files, and their directories, without making anything of it durable: follow it with
    /// [`Disk::sync_file_system`]. Until then a crash may leave any of the names, and any part of the contents.
    fn write_new_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> impl Future<Output = IoResult<()>>;
    /// Makes durable what completed before the call on the whole file system that holds `path`: data, sizes, names.
    /// `path`, a file or a directory that can be read. One such call is worth it instead of many syncs; it also waits
    /// for what other processes wrote there. After an error: as [`File::sync_data`].
    fn sync_file_system(&self, path: &Path) -> impl Future<Output = IoResult<()>>;
    /// Takes an exclusive lock file, or `Locked`.
    fn try_lock(&self, path: &Path) -> IoResult<Self::Lock>;
    /// Bytes free for this process on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> impl Future<Output = IoResult<u64>>;
    /// Bytes of the file system of `path`, used and free.
    fn total_bytes(&self, path: &Path) -> impl Future<Output = IoResult<u64>>;
    /// Bytes that the pool of this shard holds in buffers, in flight or idle: a metric.
    fn buffer_bytes(&self) -> usize;
}

/// `dir/name`, for callers that build many.
#[must_use]
pub fn join(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}
