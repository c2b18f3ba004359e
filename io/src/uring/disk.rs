//! The file system: opening files so that glommio treats their device right, and the small-file helpers.

use super::UringRuntime;
use super::blocking::{self, UringLock, parent_of};
use super::file::{Handle, UringFile, cause_of};
use crate::counters::add;
use crate::disk::{DirContents, DirEntry, Disk, OpenOptions, PickFiles};
use crate::error::{IoError, IoResult};
use glommio::io::DmaFile;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// How files below a directory are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// O_DIRECT.
    Direct,
    /// The page cache, where the options allow it.
    Buffered,
}

impl UringRuntime {
    /// Makes files below `path` ready to be opened; the first open below a directory does it otherwise.
    ///
    /// glommio asks, at the first file it opens on a device (per executor), whether the device can be polled, by a
    /// *read*; some kernels say yes of a device that cannot, after which the executor never sleeps. So the first file
    /// is one that cannot be read: the question fails, and polling is off. The same file tells whether the file
    /// system has direct I/O.
    pub async fn prepare_data_dir(&self, path: &Path) -> IoResult<()> {
        let _under_way = self.0.nap.in_ring();
        self.mode_of(path).await.map(drop)
    }

    /// How files in `directory` are opened.
    async fn mode_of(&self, directory: &Path) -> IoResult<Mode> {
        let known = |prepared: &[(PathBuf, Mode)]| {
            prepared.iter().find(|(path, _)| directory.starts_with(path)).map(|(_, mode)| *mode)
        };
        if let Some(mode) = known(&self.0.prepared.borrow()) {
            return Ok(mode);
        }
        // The data directory stands for all below it.
        let root = match &self.0.options.data_dir {
            Some(data_dir) if directory.starts_with(data_dir) => data_dir.clone(),
            _ => directory.to_path_buf(),
        };
        let mode = match probe(&root).await.map_err(|cause| IoError::new("open", cause).on(&root))? {
            Ok(()) => Mode::Direct,
            Err(_) if self.0.options.allow_buffered => {
                let directory = root.display();
                tracing::warn!(%directory, "no direct I/O on this file system: going through the page cache");
                Mode::Buffered
            }
            Err(cause) => {
                let cause = io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("this file system has no direct I/O (O_DIRECT): {cause}; use ext4 or xfs"),
                );
                return Err(IoError::new("open", cause).on(&root));
            }
        };
        self.0.prepared.borrow_mut().push((root, mode));
        Ok(mode)
    }
}

/// Opens a write-only file without a name and writes a block. `Ok(Err(_))`: the file system has no direct I/O.
async fn probe(directory: &Path) -> io::Result<Result<(), io::Error>> {
    let unnamed = glommio::io::OpenOptions::new().write(true).tmpfile(true).dma_open(directory).await;
    let file = match unnamed.map_err(cause_of) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR)) => {
            let name = format!(".coreline-probe-{}-{}", std::process::id(), glommio::executor().id());
            let path = directory.join(name);
            let mut options = glommio::io::OpenOptions::new();
            let file = options.write(true).create(true).dma_open(&path).await.map_err(cause_of);
            let _ = std::fs::remove_file(&path);
            file
        }
        other => other,
    };
    let file = match file {
        Ok(file) => file,
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(Err(error)),
        Err(error) => return Err(error),
    };
    let direct = write_block(&file).await;
    let _ = file.close().await;
    match direct {
        Err(error) if error.kind() == io::ErrorKind::Unsupported || error.raw_os_error() == Some(libc::EINVAL) => {
            Ok(Err(error))
        }
        Err(error) => Err(error),
        Ok(()) => Ok(Ok(())),
    }
}

async fn write_block(file: &DmaFile) -> io::Result<()> {
    // SAFETY: a call with the descriptor of a live file.
    #[allow(unsafe_code)]
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    if flags & libc::O_DIRECT == 0 || file.alignment() > crate::BLOCK as u64 {
        return Err(io::Error::from(io::ErrorKind::Unsupported));
    }
    let mut block = glommio::allocate_dma_buffer(crate::BLOCK);
    block.as_bytes_mut().fill(0);
    file.write_at(block, 0).await.map(drop).map_err(cause_of)
}

/// The same options in glommio's words.
fn translate(options: OpenOptions) -> glommio::io::OpenOptions {
    let mut translated = glommio::io::OpenOptions::new();
    translated.read(true).write(!options.read_only);
    translated.create(options.create).create_new(options.create_new).truncate(options.truncate);
    if options.dsync {
        translated.custom_flags(libc::O_DSYNC);
    }
    translated
}

impl Disk for UringRuntime {
    type File = UringFile;
    type Lock = UringLock;

    async fn open(&self, path: &Path, options: OpenOptions) -> IoResult<UringFile> {
        let _under_way = self.0.nap.in_ring();
        let makes = options.create || options.create_new || options.truncate;
        assert!(!(options.read_only && makes), "a file opened for reading cannot be made or cut");
        self.0.home.empty_returns();
        let mode = self.mode_of(parent_of(path)).await?;
        let wanted = translate(options);
        let handle = match mode {
            Mode::Direct => wanted.dma_open(path).await.map(Handle::Direct),
            Mode::Buffered => wanted.buffered_open(path).await.map(Handle::Buffered),
        };
        match handle.map_err(cause_of) {
            Ok(handle) => Ok(UringFile::new(self.clone(), handle, path)),
            Err(cause) => Err(IoError::new("open", cause).on(path)),
        }
    }

    async fn read_file(&self, path: &Path) -> IoResult<Vec<u8>> {
        self.blocking("read", path, |path| std::fs::read(path)).await
    }

    async fn write_file_atomic(&self, path: &Path, contents: &[u8]) -> IoResult<()> {
        let contents = contents.to_vec();
        self.blocking("write", path, move |path| blocking::write_file_atomic(path, &contents)).await
    }

    async fn create_dir_all(&self, path: &Path) -> IoResult<()> {
        self.blocking("create directory", path, |path| std::fs::create_dir_all(path)).await
    }

    async fn list_dir(&self, path: &Path) -> IoResult<Vec<DirEntry>> {
        self.blocking("list", path, blocking::list_dir).await
    }

    async fn read_dirs(&self, dirs: Vec<PathBuf>, pick: PickFiles) -> Vec<IoResult<DirContents>> {
        add(&self.0.counters.blocking_jobs, 1);
        let _under_way = self.0.nap.in_ring();
        glommio::executor().spawn_blocking(move || blocking::read_dirs(&dirs, pick)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> IoResult<()> {
        let to = to.to_path_buf();
        self.blocking("rename", from, move |from| std::fs::rename(from, &to)).await
    }

    async fn remove_file(&self, path: &Path) -> IoResult<()> {
        self.blocking("remove", path, |path| std::fs::remove_file(path)).await
    }

    async fn remove_dir_all(&self, path: &Path) -> IoResult<()> {
        self.blocking("remove", path, |path| std::fs::remove_dir_all(path)).await
    }

    async fn sync_dir(&self, path: &Path) -> IoResult<()> {
        self.blocking("fsync", path, blocking::sync_dir).await
    }

    async fn write_new_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> IoResult<()> {
        let Some(first) = files.first().map(|(path, _)| path.clone()) else { return Ok(()) };
        self.blocking("create files", &first, move |_| blocking::write_new_files(&files)).await
    }

    async fn sync_file_system(&self, path: &Path) -> IoResult<()> {
        add(&self.0.counters.syncs, 1);
        self.blocking("syncfs", path, blocking::sync_file_system).await
    }

    fn try_lock(&self, path: &Path) -> IoResult<UringLock> {
        blocking::try_lock(path)
    }

    async fn free_bytes(&self, path: &Path) -> IoResult<u64> {
        self.blocking("statvfs", path, blocking::free_bytes).await
    }

    async fn total_bytes(&self, path: &Path) -> IoResult<u64> {
        self.blocking("statvfs", path, blocking::total_bytes).await
    }

    fn buffer_bytes(&self) -> usize {
        self.0.home.empty_returns();
        self.0.home.held()
    }
}
