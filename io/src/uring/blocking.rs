//! File-system calls that block, on glommio's thread pool, and the lock file.

use super::UringRuntime;
use crate::counters::add;
use crate::disk::{DirContents, DirEntry, PickFiles};
use crate::error::{IoError, IoErrorKind, IoResult};
use std::ffi::{CString, OsString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

impl UringRuntime {
    /// Runs `job` on a thread of the pool while the executor goes on; an error names `operation` and `path`.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &Path,
        job: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> IoResult<T> {
        add(&self.0.counters.blocking_jobs, 1);
        let _under_way = self.0.nap.in_ring();
        let owned = path.to_path_buf();
        let result = glommio::executor().spawn_blocking(move || job(&owned)).await;
        result.map_err(|cause| IoError::new(operation, cause).on(path))
    }
}

/// Writes a temporary file beside `path`, makes it durable, and puts it in its place.
pub(super) fn write_file_atomic(path: &Path, contents: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut temporary = OsString::from(name);
    temporary.push(".tmp");
    let temporary: PathBuf = path.with_file_name(temporary);
    let mut file = fs::File::create(&temporary)?;
    file.write_all(contents)?;
    file.sync_all()?;
    drop(file);
    fs::rename(&temporary, path)?;
    sync_dir(parent_of(path))
}

/// The directory that holds `path`.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// Makes files and their directories; an error names the file that it is about.
pub(super) fn write_new_files(files: &[(PathBuf, Vec<u8>)]) -> io::Result<()> {
    let named = |path: &Path, cause: io::Error| match cause.raw_os_error() {
        // Its number tells a full disk from a broken one.
        Some(_) => cause,
        None => io::Error::new(cause.kind(), format!("{}: {cause}", path.display())),
    };
    for (path, contents) in files {
        let parent = parent_of(path);
        match fs::create_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(parent).map_err(|e| named(parent, e))?
            }
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(named(parent, e)),
            _ => {}
        }
        fs::write(path, contents).map_err(|e| named(path, e))?;
    }
    Ok(())
}

/// `syncfs`, then `fdatasync` of `path`: some file systems flush the device's cache only for the second, if nothing but
/// data was written over.
pub(super) fn sync_file_system(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    // SAFETY: a call with the descriptor of a live file.
    #[allow(unsafe_code)]
    let synced = unsafe { libc::syncfs(file.as_raw_fd()) };
    if synced != 0 {
        return Err(io::Error::last_os_error());
    }
    file.sync_data()
}

pub(super) fn list_dir(path: &Path) -> io::Result<Vec<DirEntry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let is_dir = metadata.is_dir();
        let len = if is_dir { 0 } else { metadata.len() };
        entries.push(DirEntry { name: entry.file_name().to_string_lossy().into_owned(), is_dir, len });
    }
    Ok(entries)
}

/// Lists directories and reads some of their files. All are opened, and the kernel told to read them, before the first
/// is waited for: the device works on many at a time.
pub(super) fn read_dirs(dirs: &[PathBuf], pick: PickFiles) -> Vec<IoResult<DirContents>> {
    let opened: Vec<_> = dirs.iter().map(|dir| open_picked(dir, pick)).collect();
    let read = |dir: &PathBuf, opened: io::Result<Opened>| -> IoResult<DirContents> {
        let Opened { entries, files } = opened.map_err(|cause| IoError::new("list", cause).on(dir))?;
        let mut contents = DirContents { entries, ..DirContents::default() };
        for (at, mut file) in files {
            let entry = &contents.entries[at];
            let mut bytes = Vec::with_capacity(entry.len as usize);
            file.read_to_end(&mut bytes).map_err(|cause| IoError::new("read", cause).on(&dir.join(&entry.name)))?;
            contents.files.insert(entry.name.clone(), bytes.into());
        }
        Ok(contents)
    };
    dirs.iter().zip(opened).map(|(dir, opened)| read(dir, opened)).collect()
}

/// A directory that was listed, and the files of it that will be read, by their place in the list.
struct Opened {
    entries: Vec<DirEntry>,
    files: Vec<(usize, fs::File)>,
}

fn open_picked(dir: &Path, pick: PickFiles) -> io::Result<Opened> {
    let entries = list_dir(dir)?;
    let mut files = Vec::new();
    for at in pick(&entries) {
        let file = match fs::File::open(dir.join(&entries[at].name)) {
            Ok(file) => file,
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        // SAFETY: a call with the descriptor of a live file; it only begins to read ahead.
        #[allow(unsafe_code)]
        let _advice_may_be_refused = unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_WILLNEED) };
        files.push((at, file));
    }
    Ok(Opened { entries, files })
}

pub(super) fn free_bytes(path: &Path) -> io::Result<u64> {
    statvfs(path).map(|stat| stat.f_bavail.saturating_mul(stat.f_frsize))
}

pub(super) fn total_bytes(path: &Path) -> io::Result<u64> {
    statvfs(path).map(|stat| stat.f_blocks.saturating_mul(stat.f_frsize))
}

fn statvfs(path: &Path) -> io::Result<libc::statvfs> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path is a terminated string; the kernel fills the struct if it says 0.
    #[allow(unsafe_code)]
    let stat = unsafe {
        if libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        stat.assume_init()
    };
    Ok(stat)
}

/// An exclusive lock on a file (`flock`): released when dropped, or when the process dies.
#[derive(Debug)]
pub struct UringLock {
    _file: fs::File,
}

/// Takes the lock and writes this process's id into the file, for the one who finds it held.
pub(super) fn try_lock(path: &Path) -> IoResult<UringLock> {
    let fail = |cause| IoError::new("lock", cause).on(path);
    let options = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path);
    let mut file = options.map_err(fail)?;
    // SAFETY: a call with the descriptor of a live file.
    #[allow(unsafe_code)]
    let taken = unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) };
    if taken != 0 {
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::WouldBlock {
            return Err(fail(error));
        }
        let mut holder = String::new();
        let known = file.read_to_string(&mut holder).is_ok() && !holder.trim().is_empty();
        let holder = if known { format!("process {}", holder.trim()) } else { "another process".to_string() };
        let mut error = fail(io::Error::other(format!("held by {holder}")));
        error.kind = IoErrorKind::Locked;
        return Err(error);
    }
    let pid = std::process::id();
    file.set_len(0).and_then(|()| writeln!(file, "{pid}")).map_err(fail)?;
    Ok(UringLock { _file: file })
}
