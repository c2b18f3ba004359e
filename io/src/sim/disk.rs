//! The disk of a node: [`Disk`] and [`File`] over the file images and the tree of names.

use super::CrashKind;
use super::core::Core;
use super::faults::{DiskFaults, DiskOp};
use super::image::{FileImage, pages_of};
use super::node::SimNode;
use super::rng::{SimRng, nanos_of};
use super::runtime::SimRuntime;
use super::tree::{Dir, Node};
use crate::sync::oneshot;
use crate::{BLOCK, DirContents, DirEntry, Disk, File, IoError, IoErrorKind, IoResult, OpenOptions, PickFiles};
use bytes::Bytes;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::Error;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What `free_bytes` starts from on a device without a limit.
const UNLIMITED: u64 = 1 << 40;

/// The disk of one node. It outlives the node's processes.
pub(super) struct DiskState {
    root: Rc<Dir>,
    rng: SimRng,
    faults: RefCell<DiskFaults>,
    /// Operations that hang, each to be started by its call.
    stuck: RefCell<Vec<Box<dyn FnOnce()>>>,
    /// By path; the number tells a lock from an earlier one of the same path.
    locks: RefCell<BTreeMap<PathBuf, u64>>,
    in_flight_bytes: Cell<usize>,
}

impl DiskState {
    pub(super) fn new(rng: SimRng) -> Self {
        let disk = Self {
            root: Rc::default(),
            rng,
            faults: RefCell::default(),
            stuck: RefCell::default(),
            locks: RefCell::default(),
            in_flight_bytes: Cell::new(0),
        };
        disk.create_durably(Path::new(SimNode::DATA_DIR));
        disk
    }

    fn create_durably(&self, path: &Path) -> Rc<Dir> {
        let dir = self.root.create_all(path).expect("a path without files in it");
        for ancestor in path.ancestors().skip(1) {
            self.root.find_dir(ancestor).expect("was made above").sync();
        }
        dir
    }

    /// Lets go of what hangs: it holds the world.
    pub(super) fn release(&self) {
        let stuck = self.stuck.take();
        drop(stuck);
    }

    pub(super) fn crash(&self, kind: CrashKind) {
        self.release();
        self.locks.borrow_mut().clear();
        self.in_flight_bytes.set(0);
        match kind {
            CrashKind::PowerLoss => self.root.lose_power(&self.rng),
            CrashKind::Kill => self.root.kill(&self.rng),
        }
    }

    pub(super) fn change_faults<T>(&self, core: &Rc<Core>, change: impl FnOnce(&mut DiskFaults) -> T) -> T {
        let result = change(&mut self.faults.borrow_mut());
        if !self.faults.borrow().has_stuck() {
            for start in self.stuck.take() {
                core.after(0, start);
            }
        }
        result
    }

    pub(super) fn flip_bit(&self, path: &Path, range: Range<u64>) -> bool {
        self.root.find_file(path).is_ok_and(|file| file.flip_bit(range, &self.rng))
    }

    pub(super) fn files(&self) -> Vec<(PathBuf, u64)> {
        self.root.files().into_iter().map(|(path, file)| (path, file.size())).collect()
    }

    pub(super) fn contents(&self, path: &Path) -> Option<Vec<u8>> {
        let file = self.root.find_file(path).ok()?;
        Some(file.read(0, usize::MAX).to_vec())
    }

    pub(super) fn put(&self, core: &Rc<Core>, path: &Path, contents: &[u8]) {
        core.trace(20, contents.len() as u64);
        let parent = path.parent().unwrap_or(Path::new("/"));
        let dir = self.create_durably(parent);
        let name = path.file_name().and_then(|n| n.to_str()).expect("a file's path ends in a name");
        dir.link(name, Node::File(Rc::new(FileImage::with_contents(contents))));
        dir.sync();
    }

    pub(super) fn remove(&self, path: &Path) -> bool {
        let removed = match self.root.find(path) {
            Ok(Node::File(_)) => self.root.remove_file(path),
            Ok(Node::Dir(_)) => self.root.remove_dir_all(path),
            Err(_) => return false,
        };
        if let Ok((dir, _)) = self.root.parent(path) {
            dir.sync();
        }
        removed.is_ok()
    }

    fn used_bytes(&self) -> u64 {
        self.root.files().iter().map(|(_, file)| file.size().next_multiple_of(BLOCK as u64)).sum()
    }

    fn total_bytes(&self) -> u64 {
        let capacity = self.faults.borrow().capacity();
        capacity.unwrap_or(UNLIMITED)
    }

    fn free_bytes(&self) -> u64 {
        self.total_bytes().saturating_sub(self.used_bytes())
    }

    /// How many of the blocks that a file of `size` gains by reaching `end` are there. No limit, no walk.
    fn blocks_missing(&self, size: u64, end: u64) -> u64 {
        let block = BLOCK as u64;
        let growth = end.next_multiple_of(block).saturating_sub(size.next_multiple_of(block));
        if growth == 0 || self.faults.borrow().capacity().is_none() {
            return 0;
        }
        growth.saturating_sub(self.free_bytes()).div_ceil(block)
    }
}

fn error(operation: &'static str, path: &Path, cause: Error) -> IoError {
    IoError::new(operation, cause).on(path)
}

fn eio(operation: &'static str, path: &Path) -> IoError {
    error(operation, path, Error::from_raw_os_error(libc::EIO))
}

fn enospc(operation: &'static str, path: &Path) -> IoError {
    error(operation, path, Error::from_raw_os_error(libc::ENOSPC))
}

/// An operation as its effect sees it.
struct Effect<'a> {
    rt: &'a SimRuntime,
    operation: &'static str,
    path: &'a Path,
    /// A fault wants it to fail.
    fail: bool,
    /// A fault wants it to find no room.
    full: bool,
}

impl Effect<'_> {
    fn root(&self) -> &Rc<Dir> {
        &self.rt.node.disk.root
    }

    /// `result` with operation and path, or EIO if a fault wants it.
    fn of<T>(&self, result: impl FnOnce() -> Result<T, Error>) -> IoResult<T> {
        if self.fail {
            return Err(eio(self.operation, self.path));
        }
        if self.full {
            return Err(enospc(self.operation, self.path));
        }
        result().map_err(|cause| error(self.operation, self.path, cause))
    }
}

impl SimRuntime {
    fn disk(&self) -> &DiskState {
        &self.node.disk
    }

    /// Nanoseconds until an operation is done.
    fn latency(&self, op: DiskOp) -> u64 {
        let options = &self.core.options;
        let range = match op {
            DiskOp::Read => &options.disk_read,
            DiskOp::Write => &options.disk_write,
            DiskOp::Sync => &options.disk_sync,
            DiskOp::Open | DiskOp::Meta => &options.disk_meta,
        };
        let rng = &self.disk().rng;
        let factor = if rng.one_in(options.disk_slow_one_in) { 10 } else { 1 };
        rng.nanos(range).saturating_mul(factor)
    }

    /// Starts an operation on the device; `effect` happens even if the returned future is dropped, but not if the
    /// node dies before.
    fn submit<T: 'static>(
        &self,
        op: DiskOp,
        operation: &'static str,
        path: &Path,
        effect: impl FnOnce(&Effect<'_>) -> IoResult<T> + 'static,
    ) -> impl Future<Output = IoResult<T>> + 'static {
        let verdict = self.disk().faults.borrow_mut().judge(op, path);
        let total = self.latency(op).saturating_add(nanos_of(verdict.extra));
        // The effect and its report are one event, or two with other events between them.
        let report_after = if self.disk().rng.one_in(4) { self.disk().rng.below(total + 1) } else { 0 };
        let (sender, receiver) = oneshot();
        let (rt, path) = (self.clone(), path.to_path_buf());
        let run = move || {
            if !rt.is_alive() {
                return;
            }
            let result = effect(&Effect { rt: &rt, operation, path: &path, fail: verdict.fail, full: verdict.full });
            rt.core.trace(21 + op as u64, u64::from(result.is_ok()));
            if report_after == 0 {
                sender.send(result);
            } else {
                rt.core.clone().after(report_after, move || {
                    if rt.is_alive() {
                        sender.send(result);
                    }
                });
            }
        };
        let core = self.core.clone();
        let start: Box<dyn FnOnce()> = Box::new(move || core.after(total - report_after, run));
        if !self.is_alive() {
            drop(start);
        } else if verdict.stuck {
            self.disk().stuck.borrow_mut().push(start);
        } else {
            start();
        }
        let rt = self.clone();
        async move { receiver.await.unwrap_or_else(|| Err(rt.dead(operation))) }
    }

    fn open_now(&self, path: &Path, options: OpenOptions) -> Result<Rc<FileImage>, Error> {
        let (dir, name) = self.disk().root.parent(path)?;
        let file = match dir.get(name) {
            Some(Node::Dir(_)) => return Err(Error::from_raw_os_error(libc::EISDIR)),
            Some(Node::File(_)) if options.create_new => return Err(Error::from_raw_os_error(libc::EEXIST)),
            Some(Node::File(file)) => file,
            None if options.create || options.create_new => {
                let file = Rc::new(FileImage::default());
                dir.link(name, Node::File(file.clone()));
                file
            }
            None => return Err(Error::from_raw_os_error(libc::ENOENT)),
        };
        if options.truncate && file.size() > 0 {
            file.truncate(0);
        }
        Ok(file)
    }
}

impl Disk for SimRuntime {
    type File = SimFile;
    type Lock = SimLock;

    async fn open(&self, path: &Path, options: OpenOptions) -> IoResult<SimFile> {
        let opened = self.submit(DiskOp::Open, "open", path, move |e| e.of(|| e.rt.open_now(e.path, options)));
        let image = opened.await?;
        Ok(SimFile { rt: self.clone(), path: path.to_path_buf(), image, options })
    }

    async fn read_file(&self, path: &Path) -> IoResult<Vec<u8>> {
        self.submit(DiskOp::Read, "read", path, |e| {
            e.of(|| Ok(e.root().find_file(e.path)?.read(0, usize::MAX).to_vec()))
        })
        .await
    }

    async fn write_file_atomic(&self, path: &Path, contents: &[u8]) -> IoResult<()> {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = path.with_file_name(format!("{name}.tmp"));
        let create = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
        let opened = self.submit(DiskOp::Open, "open", &temporary, move |e| e.of(|| e.rt.open_now(e.path, create)));
        let image = opened.await?;
        self.submit_contents(&temporary, image.clone(), contents.to_vec()).await?;
        self.submit_sync(&temporary, image).await?;
        self.rename(&temporary, path).await?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/"))).await
    }

    async fn create_dir_all(&self, path: &Path) -> IoResult<()> {
        self.submit(DiskOp::Meta, "create directory", path, |e| e.of(|| e.root().create_all(e.path).map(drop))).await
    }

    async fn list_dir(&self, path: &Path) -> IoResult<Vec<DirEntry>> {
        let mut entries = self
            .submit(DiskOp::Meta, "list directory", path, |e| {
                e.of(|| {
                    let entries = e.root().find_dir(e.path)?.entries();
                    Ok(entries.into_iter().map(|(name, node)| entry(name, &node)).collect::<Vec<_>>())
                })
            })
            .await?;
        // "In no order" is a promise to break.
        for i in (1..entries.len()).rev() {
            entries.swap(i, self.disk().rng.index(i + 1));
        }
        Ok(entries)
    }

    async fn read_dirs(&self, dirs: Vec<PathBuf>, pick: PickFiles) -> Vec<IoResult<DirContents>> {
        let mut all = Vec::with_capacity(dirs.len());
        for dir in dirs {
            all.push(self.read_dir(&dir, pick).await);
        }
        all
    }

    async fn rename(&self, from: &Path, to: &Path) -> IoResult<()> {
        let to = to.to_path_buf();
        self.submit(DiskOp::Meta, "rename", from, move |e| e.of(|| e.root().rename(e.path, &to))).await
    }

    async fn remove_file(&self, path: &Path) -> IoResult<()> {
        self.submit(DiskOp::Meta, "remove", path, |e| e.of(|| e.root().remove_file(e.path))).await
    }

    async fn remove_dir_all(&self, path: &Path) -> IoResult<()> {
        self.submit(DiskOp::Meta, "remove directory", path, |e| e.of(|| e.root().remove_dir_all(e.path))).await
    }

    async fn sync_dir(&self, path: &Path) -> IoResult<()> {
        self.submit(DiskOp::Sync, "sync directory", path, |e| {
            e.of(|| {
                e.root().find_dir(e.path)?.sync();
                Ok(())
            })
        })
        .await
    }

    async fn write_new_files(&self, files: Vec<(PathBuf, Vec<u8>)>) -> IoResult<()> {
        for (path, contents) in files {
            self.create_dir_all(path.parent().unwrap_or(Path::new("/"))).await?;
            let create = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
            let image =
                self.submit(DiskOp::Open, "open", &path, move |e| e.of(|| e.rt.open_now(e.path, create))).await?;
            self.submit_contents(&path, image, contents).await?;
        }
        Ok(())
    }

    async fn sync_file_system(&self, path: &Path) -> IoResult<()> {
        // What is written after this call is not covered.
        let points: Vec<_> =
            self.disk().root.files().into_iter().map(|(_, image)| (image.sync_point(), image)).collect();
        self.submit(DiskOp::Sync, "syncfs", path, move |e| {
            if e.fail {
                points.iter().for_each(|(point, image)| image.fail_shared_sync(*point));
                return Err(eio(e.operation, e.path));
            }
            e.of(|| {
                e.root().find(e.path)?;
                points.iter().for_each(|(point, image)| image.sync(*point));
                e.root().sync_all();
                Ok(())
            })
        })
        .await
    }

    fn try_lock(&self, path: &Path) -> IoResult<SimLock> {
        if !self.is_alive() {
            return Err(self.dead("lock"));
        }
        let create = OpenOptions { create: true, ..OpenOptions::default() };
        self.open_now(path, create).map_err(|cause| error("lock", path, cause))?;
        let mut locks = self.disk().locks.borrow_mut();
        if locks.contains_key(path) {
            let mut held = error("lock", path, Error::from_raw_os_error(libc::EWOULDBLOCK));
            held.kind = IoErrorKind::Locked;
            return Err(held);
        }
        let number = self.core.next_id();
        locks.insert(path.to_path_buf(), number);
        Ok(SimLock { rt: self.clone(), path: path.to_path_buf(), number })
    }

    async fn free_bytes(&self, path: &Path) -> IoResult<u64> {
        self.submit(DiskOp::Meta, "statvfs", path, |e| {
            e.of(|| {
                e.root().find(e.path)?;
                Ok(e.rt.disk().free_bytes())
            })
        })
        .await
    }

    async fn total_bytes(&self, path: &Path) -> IoResult<u64> {
        self.submit(DiskOp::Meta, "statvfs", path, |e| {
            e.of(|| {
                e.root().find(e.path)?;
                Ok(e.rt.disk().total_bytes())
            })
        })
        .await
    }

    fn buffer_bytes(&self) -> usize {
        self.disk().in_flight_bytes.get()
    }
}

impl SimRuntime {
    async fn read_dir(&self, dir: &Path, pick: PickFiles) -> IoResult<DirContents> {
        let entries = self.list_dir(dir).await?;
        let mut files = BTreeMap::new();
        for at in pick(&entries) {
            match self.read_file(&dir.join(&entries[at].name)).await {
                Ok(bytes) => drop(files.insert(entries[at].name.clone(), bytes.into())),
                Err(error) if error.kind == IoErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(DirContents { entries, files })
    }

    fn submit_contents(
        &self,
        path: &Path,
        target: Rc<FileImage>,
        contents: Vec<u8>,
    ) -> impl Future<Output = IoResult<()>> + 'static {
        self.submit(DiskOp::Write, "write", path, move |e| {
            if e.rt.disk().blocks_missing(target.size(), contents.len() as u64) > 0 {
                return Err(enospc(e.operation, e.path));
            }
            e.of(|| {
                target.set_contents(&contents);
                Ok(())
            })
        })
    }

    fn submit_sync(&self, path: &Path, image: Rc<FileImage>) -> impl Future<Output = IoResult<()>> + 'static {
        let point = image.sync_point();
        self.submit(DiskOp::Sync, "fdatasync", path, move |e| {
            if e.fail {
                image.fail_sync(point);
                return Err(eio(e.operation, e.path));
            }
            image.sync(point);
            Ok(())
        })
    }
}

fn entry(name: String, node: &Node) -> DirEntry {
    match node {
        Node::File(file) => DirEntry { name, is_dir: false, len: file.size() },
        Node::Dir(_) => DirEntry { name, is_dir: true, len: 0 },
    }
}

/// An open file of the simulated disk.
pub struct SimFile {
    rt: SimRuntime,
    path: PathBuf,
    image: Rc<FileImage>,
    options: OpenOptions,
}

impl std::fmt::Debug for SimFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimFile({} on {})", self.path.display(), self.rt.node.name)
    }
}

impl SimFile {
    fn check_writable(&self, operation: &'static str) -> IoResult<()> {
        if !self.rt.is_alive() {
            return Err(self.rt.dead(operation));
        }
        if self.options.read_only {
            let mut refused = error(operation, &self.path, Error::from_raw_os_error(libc::EBADF));
            refused.kind = IoErrorKind::PermissionDenied;
            return Err(refused);
        }
        assert!(
            !(self.rt.core.options.assert_no_write_after_failed_sync && self.image.sync_failed()),
            "{operation} {} after a failed sync: nothing is known of the file, the process must stop",
            self.path.display()
        );
        Ok(())
    }
}

impl File for SimFile {
    async fn read_at(&self, offset: u64, len: usize) -> IoResult<Bytes> {
        let image = self.image.clone();
        self.rt
            .submit(DiskOp::Read, "read", &self.path, move |e| e.of(|| Ok(image.read(offset, len))))
            .await
            .map_err(|e| e.at(offset))
    }

    async fn write_at(&self, offset: u64, parts: &[Bytes]) -> IoResult<()> {
        let len: usize = parts.iter().map(Bytes::len).sum();
        let block = BLOCK as u64;
        assert!(
            offset.is_multiple_of(block),
            "write {} at byte {offset}: not a multiple of {BLOCK}",
            self.path.display()
        );
        assert!(len.is_multiple_of(BLOCK), "write {} of {len} bytes: not a multiple of {BLOCK}", self.path.display());
        self.check_writable("write")?;
        if len == 0 {
            return Ok(());
        }
        let (id, image, dsync) = (self.rt.core.next_id(), self.image.clone(), self.options.dsync);
        image.begin_write(id, offset / block, pages_of(parts));
        let in_flight = InFlight::new(&self.rt, len);
        self.rt
            .submit(DiskOp::Write, "write", &self.path, move |e| {
                drop(in_flight);
                let missing = e.rt.disk().blocks_missing(image.size(), offset + len as u64);
                if e.fail {
                    image.fail_write(id, usize::MAX >> 1, &e.rt.disk().rng);
                    Err(eio(e.operation, e.path))
                } else if e.full {
                    image.fail_write(id, 0, &e.rt.disk().rng);
                    Err(enospc(e.operation, e.path))
                } else if missing > 0 {
                    let (disk, room) = (e.rt.disk(), (len / BLOCK).saturating_sub(missing as usize));
                    if disk.rng.one_in(4) {
                        // The data is there, and what names it found no room.
                        image.finish_write(id, false);
                    } else {
                        image.fail_write(id, room, &disk.rng);
                    }
                    Err(enospc(e.operation, e.path))
                } else {
                    image.finish_write(id, dsync);
                    Ok(())
                }
            })
            .await
            .map_err(|e| e.at(offset))
    }

    async fn sync_data(&self) -> IoResult<()> {
        self.rt.submit_sync(&self.path, self.image.clone()).await
    }

    async fn truncate(&self, len: u64) -> IoResult<()> {
        self.check_writable("truncate")?;
        let image = self.image.clone();
        self.rt
            .submit(DiskOp::Write, "truncate", &self.path, move |e| {
                if e.rt.disk().blocks_missing(image.size(), len) > 0 {
                    return Err(enospc(e.operation, e.path));
                }
                e.of(|| {
                    image.truncate(len);
                    Ok(())
                })
            })
            .await
    }

    async fn reserve(&self, len: u64) -> IoResult<()> {
        self.check_writable("reserve")?;
        let image = self.image.clone();
        self.rt
            .submit(DiskOp::Write, "reserve", &self.path, move |e| {
                let missing = e.rt.disk().blocks_missing(image.size(), len);
                if missing > 0 { Err(enospc(e.operation, e.path)) } else { e.of(|| Ok(())) }
            })
            .await
    }

    async fn size(&self) -> IoResult<u64> {
        if self.rt.is_alive() { Ok(self.image.size()) } else { Err(self.rt.dead("size")) }
    }

    async fn close(self) -> IoResult<()> {
        if self.rt.is_alive() { Ok(()) } else { Err(self.rt.dead("close")) }
    }
}

/// Counts the bytes of a write until it takes effect.
struct InFlight {
    rt: SimRuntime,
    len: usize,
}

impl InFlight {
    fn new(rt: &SimRuntime, len: usize) -> Self {
        let bytes = &rt.disk().in_flight_bytes;
        bytes.set(bytes.get() + len);
        Self { rt: rt.clone(), len }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.rt.is_alive() {
            let bytes = &self.rt.node.disk.in_flight_bytes;
            bytes.set(bytes.get() - self.len);
        }
    }
}

/// A held lock of the simulated disk.
pub struct SimLock {
    rt: SimRuntime,
    path: PathBuf,
    number: u64,
}

impl std::fmt::Debug for SimLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimLock({} on {})", self.path.display(), self.rt.node.name)
    }
}

impl Drop for SimLock {
    fn drop(&mut self) {
        let mut locks = self.rt.node.disk.locks.borrow_mut();
        if locks.get(&self.path) == Some(&self.number) {
            locks.remove(&self.path);
        }
    }
}
