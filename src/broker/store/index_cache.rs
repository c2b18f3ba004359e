//! Indexes of sealed segments, kept whole for the next cold reader. Bounded in bytes, least recently used goes first.

use super::files::is_below;
use bytes::Bytes;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// See the file's comment.
#[derive(Debug)]
pub(super) struct IndexCache {
    files: HashMap<PathBuf, (Bytes, u64)>,
    bytes: usize,
    bytes_max: usize,
    tick: u64,
}

impl IndexCache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { files: HashMap::new(), bytes: 0, bytes_max, tick: 0 }
    }

    pub(super) fn get(&mut self, path: &Path) -> Option<Bytes> {
        self.tick += 1;
        let (bytes, used) = self.files.get_mut(path)?;
        *used = self.tick;
        Some(bytes.clone())
    }

    pub(super) fn put(&mut self, path: PathBuf, bytes: Bytes) {
        if bytes.len() > self.bytes_max / 2 {
            return;
        }
        self.tick += 1;
        self.bytes += bytes.len();
        if let Some((old, _)) = self.files.insert(path, (bytes, self.tick)) {
            self.bytes -= old.len();
        }
        while self.bytes > self.bytes_max {
            let oldest = self.files.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            let Some(oldest) = oldest else { return };
            self.forget(&oldest);
        }
    }

    pub(super) fn forget(&mut self, path: &Path) {
        if let Some((bytes, _)) = self.files.remove(path) {
            self.bytes -= bytes.len();
        }
    }

    /// Forgets what is below `dir`.
    pub(super) fn forget_dir(&mut self, dir: &Path) {
        self.files.retain(|path, _| !is_below(path, dir));
        self.bytes = self.files.values().map(|(bytes, _)| bytes.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_goes() {
        let mut cache = IndexCache::new(30);
        for name in ["a", "b", "c"] {
            cache.put(name.into(), Bytes::from(vec![0; 10]));
        }
        assert!(cache.get(Path::new("a")).is_some());
        cache.put("d".into(), Bytes::from(vec![0; 10]));
        assert!(cache.get(Path::new("b")).is_none());
        assert!(cache.get(Path::new("a")).is_some());
        cache.forget_dir(Path::new("a"));
        assert_eq!(cache.bytes, 20);
        cache.put("huge".into(), Bytes::from(vec![0; 16]));
        assert!(cache.get(Path::new("huge")).is_none());
    }
}
