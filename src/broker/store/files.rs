//! Open segment and index files: a bounded LRU, so that partitions are not bounded by `ulimit -n`.

use coreline_io::{Disk, IoResult, OpenOptions};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Handles by path. One that is in use outlives its eviction: it closes when the last user drops it.
#[derive(Debug)]
pub(super) struct FileCache<D: Disk> {
    inner: RefCell<Inner<D::File>>,
    max: usize,
}

#[derive(Debug)]
struct Inner<F> {
    open: HashMap<Rc<Path>, (Rc<F>, u64)>,
    /// Last use → path: the first one is the least recently used.
    order: BTreeMap<u64, Rc<Path>>,
    tick: u64,
    /// Counts removals, so that an open that was under way meanwhile is not remembered.
    forgotten: u64,
}

impl<D: Disk> FileCache<D> {
    pub(super) fn new(max: usize) -> Self {
        let inner = Inner { open: HashMap::new(), order: BTreeMap::new(), tick: 0, forgotten: 0 };
        Self { inner: RefCell::new(inner), max: max.max(1) }
    }

    /// The file at `path`, opened if need be; made if it is missing and `create`.
    pub(super) async fn get(&self, disk: &D, path: &Path, create: bool) -> IoResult<Rc<D::File>> {
        if let Some(file) = self.inner.borrow_mut().hit(path) {
            return Ok(file);
        }
        let forgotten = self.inner.borrow().forgotten;
        let file = Rc::new(disk.open(path, OpenOptions { create, ..OpenOptions::default() }).await?);
        let mut inner = self.inner.borrow_mut();
        if let Some(first) = inner.hit(path) {
            return Ok(first);
        }
        if inner.forgotten != forgotten {
            return Ok(file);
        }
        let evicted = inner.insert(path, file.clone(), self.max);
        drop(inner);
        drop(evicted);
        Ok(file)
    }

    /// Forgets the file at `path`: before it is renamed or removed.
    pub(super) fn forget(&self, path: &Path) {
        let mut inner = self.inner.borrow_mut();
        inner.forgotten += 1;
        if let Some((_, tick)) = inner.open.remove(path) {
            inner.order.remove(&tick);
        }
    }

    /// Forgets all files below `dir`.
    pub(super) fn forget_dir(&self, dir: &Path) {
        let below: Vec<PathBuf> = {
            let inner = self.inner.borrow();
            inner.open.keys().filter(|p| is_below(p, dir)).map(|p| p.to_path_buf()).collect()
        };
        self.inner.borrow_mut().forgotten += 1;
        for path in below {
            self.forget(&path);
        }
    }

    /// Handles held.
    pub(super) fn len(&self) -> usize {
        self.inner.borrow().open.len()
    }
}

/// As `path.starts_with(dir)`, but bytes are compared first: a deletion asks this of thousands of open files.
pub(super) fn is_below(path: &Path, dir: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().starts_with(dir.as_os_str().as_encoded_bytes()) && path.starts_with(dir)
}

impl<F> Inner<F> {
    fn hit(&mut self, path: &Path) -> Option<Rc<F>> {
        self.tick += 1;
        let tick = self.tick;
        let (file, used) = self.open.get_mut(path)?;
        let name = self.order.remove(used).expect("each open file has its place in the order");
        *used = tick;
        let file = file.clone();
        self.order.insert(tick, name);
        Some(file)
    }

    fn insert(&mut self, path: &Path, file: Rc<F>, max: usize) -> Vec<Rc<F>> {
        self.tick += 1;
        let path: Rc<Path> = Rc::from(path);
        self.open.insert(path.clone(), (file, self.tick));
        self.order.insert(self.tick, path);
        let mut evicted = Vec::new();
        while self.open.len() > max {
            let (_, oldest) = self.order.pop_first().expect("as many as open files");
            evicted.extend(self.open.remove(&oldest).map(|(file, _)| file));
        }
        assert_eq!(self.open.len(), self.order.len());
        evicted
    }
}
