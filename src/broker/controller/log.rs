//! The metadata log's files: `snapshot`, and the log after it, `log-<the snapshot's index>`.
//!
//! The log is zero-filled ahead of what is written, so that a full disk is met before a command is proposed, a write
//! never changes the file's size, and the flush costs half (see FINDINGS of the journal: the same reason). A part of
//! what is filled is kept for starts: a node on a full disk can.
//!
//! A snapshot replaces the log in three steps: the new log, with what follows the snapshot; the snapshot, at once;
//! the old log goes. After a crash between any two of them the pair that belongs together is there.

use super::ControllerError;
use crate::controller::ClusterImage;
use crate::controller::raft_log::{
    Replayed, SnapshotFile, decode_snapshot, encode_group, encode_snapshot, group_after, replay,
};
use crate::controller::raft_node::{Durable, Persist};
use crate::controller::records::decode_records;
use bytes::Bytes;
use coreline_io::{BLOCK, File, IoError, IoErrorKind, IoResult, OpenOptions, Runtime};
use raft::eraftpb::{Entry, HardState};
use std::path::{Path, PathBuf};

const DIRECTORY: &str = "__cluster_metadata-0";
const SNAPSHOT: &str = "snapshot";
/// The log is filled in steps of this many bytes.
const FILL_STEP: u64 = 256 << 10;
/// What only starts may use, so that a node on a full disk can: an election and a registration each.
const START_RESERVE: u64 = 64 << 10;
/// What a group needs besides its records.
const GROUP_OVERHEAD: u64 = 2 * BLOCK as u64;

const _: () = assert!(FILL_STEP.is_multiple_of(BLOCK as u64) && FILL_STEP > START_RESERVE);

/// The log on disk; one group is written at a time.
///
/// Invariant: `end ≤ filled`, both multiples of [`BLOCK`].
pub(super) struct MetadataLog<R: Runtime> {
    runtime: R,
    directory: PathBuf,
    path: PathBuf,
    file: R::File,
    /// Where the next group goes.
    end: u64,
    /// The length of the file.
    filled: u64,
    /// The next group's.
    sequence: u64,
}

impl<R: Runtime> MetadataLog<R> {
    /// Reads what is there, and makes what is not.
    pub(super) async fn load(runtime: &R, data_dir: &Path) -> Result<(Self, Durable), ControllerError> {
        let directory = data_dir.join(DIRECTORY);
        runtime.create_dir_all(&directory).await?;
        runtime.sync_dir(data_dir).await?;
        let snapshot = read_snapshot(runtime, &directory.join(SNAPSHOT)).await?;
        let path = log_path(&directory, snapshot.as_ref().map_or(0, |s| s.index));
        let others = other_logs(runtime, &directory, &path).await?;
        let (bytes, there) = match runtime.read_file(&path).await {
            Ok(bytes) => (Bytes::from(bytes), true),
            Err(e) if e.kind == IoErrorKind::NotFound => (Bytes::new(), false),
            Err(e) => return Err(e.into()),
        };
        if !there && (snapshot.is_some() || !others.is_empty()) {
            let beside = others.first().map_or_else(|| directory.join(SNAPSHOT), Clone::clone);
            let message = format!("{}: missing, though {} is there", path.display(), beside.display());
            return Err(ControllerError::Damaged(message));
        }
        let found = replay(&bytes).map_err(|e| damaged(&path, &e))?;
        if let Some(after) = group_after(&bytes, &found) {
            let message = format!("{}: damaged at byte {}: byte {after} is intact", path.display(), found.end);
            return Err(ControllerError::Damaged(message));
        }
        // Logs that a snapshot has taken the place of, or that were made for one that did not come.
        for other in others {
            runtime.remove_file(&other).await?;
        }
        let file = runtime.open(&path, OpenOptions { create: true, ..OpenOptions::default() }).await?;
        write_last_again(&file, &bytes, &found).await?;
        runtime.sync_dir(&directory).await?;
        let filled = (bytes.len() / BLOCK * BLOCK) as u64;
        let end = found.end;
        let log = Self {
            runtime: runtime.clone(),
            directory,
            path,
            file,
            end,
            filled: filled.max(end),
            sequence: found.next_sequence,
        };
        Ok((log, Durable { snapshot, log: found }))
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Bytes of the groups in the log.
    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// Makes room for a group with this many bytes of records. An error means that nothing has changed.
    ///
    /// What a start cannot do without (an election, the node's registration) is `vital`: it may use the reserve.
    pub(super) async fn reserve(&mut self, records: usize, vital: bool) -> IoResult<()> {
        let group = self.end + records as u64 + GROUP_OVERHEAD;
        if group + START_RESERVE <= self.filled {
            return Ok(());
        }
        match self.fill((group + START_RESERVE).next_multiple_of(FILL_STEP)).await {
            Err(error) if error.kind == IoErrorKind::StorageFull && vital && group <= self.filled => Ok(()),
            filled => filled,
        }
    }

    async fn fill(&mut self, to: u64) -> IoResult<()> {
        let length = usize::try_from(to - self.filled).expect("a group fits in memory");
        self.file.write_at(self.filled, &[Bytes::from(vec![0; length])]).await?;
        self.file.sync_data().await?;
        self.filled = to;
        Ok(())
    }

    /// Writes a group and flushes it.
    pub(super) async fn append(&mut self, persist: &Persist) -> IoResult<()> {
        assert!(persist.snapshot.is_none(), "a quorum of one gets no snapshot from others");
        self.write(&persist.entries, &persist.hard_state).await
    }

    async fn write(&mut self, entries: &[Entry], hard_state: &HardState) -> IoResult<()> {
        let group = encode_group(self.sequence, entries, Some(hard_state));
        let length = group.len() as u64;
        self.file.write_at(self.end, &[group]).await?;
        self.file.sync_data().await?;
        self.end += length;
        self.filled = self.filled.max(self.end);
        self.sequence += 1;
        Ok(())
    }

    /// Puts a snapshot, and what follows it, in the place of the log. After an error that a full disk gave, the old pair
    /// is still there and in use.
    pub(super) async fn replace(
        &mut self,
        snapshot: &SnapshotFile,
        entries: &[Entry],
        hard_state: &HardState,
    ) -> IoResult<()> {
        let path = log_path(&self.directory, snapshot.index);
        if path == self.path {
            return Ok(());
        }
        let options = OpenOptions { create: true, truncate: true, ..OpenOptions::default() };
        let file = self.runtime.open(&path, options).await?;
        let mut new = Self {
            runtime: self.runtime.clone(),
            directory: self.directory.clone(),
            path,
            file,
            end: 0,
            filled: 0,
            sequence: 1,
        };
        new.reserve(entries.iter().map(|e| e.data.len() + BLOCK).sum(), false).await?;
        new.write(entries, hard_state).await?;
        self.runtime.sync_dir(&self.directory).await?;
        let bytes = encode_snapshot(snapshot);
        self.runtime.write_file_atomic(&self.directory.join(SNAPSHOT), &bytes).await?;
        let old = std::mem::replace(self, new);
        // If it stays, the next start removes it.
        if let Err(error) = self.runtime.remove_file(&old.path).await {
            tracing::warn!("an old metadata log stays: {error}");
        }
        Ok(())
    }
}

/// Writes the last group again, the same bytes at the same place, and flushes. Its flush may have failed, in a process
/// that this ended: then it can be read, and no later flush would cover it. Those before it were flushed.
async fn write_last_again<F: File>(file: &F, bytes: &Bytes, found: &Replayed) -> IoResult<()> {
    let end = usize::try_from(found.end).expect("it was read").min(bytes.len());
    let group = bytes.slice(usize::try_from(found.last).expect("it was read")..end);
    if group.is_empty() {
        return Ok(());
    }
    let padding = Bytes::from(vec![0; group.len().next_multiple_of(BLOCK) - group.len()]);
    file.write_at(found.last, &[group, padding]).await?;
    file.sync_data().await
}

/// The image that a snapshot makes; and every entry after it can be read.
pub(super) fn image_of(durable: &Durable, directory: &Path) -> Result<ClusterImage, ControllerError> {
    let image = match &durable.snapshot {
        None => ClusterImage::default(),
        Some(snapshot) => {
            let records =
                decode_records(snapshot.records.clone()).map_err(|e| damaged(&directory.join(SNAPSHOT), &e))?;
            ClusterImage::from_records(snapshot.index, &records)
        }
    };
    let path = log_path(directory, image.index);
    for entry in &durable.log.entries {
        decode_records(entry.data.clone())
            .map_err(|e| ControllerError::Damaged(format!("{}: entry {}: {e}", path.display(), entry.index)))?;
    }
    Ok(image)
}

async fn read_snapshot<R: Runtime>(runtime: &R, path: &Path) -> Result<Option<SnapshotFile>, ControllerError> {
    match runtime.read_file(path).await {
        Ok(bytes) => decode_snapshot(bytes.into()).map(Some).map_err(|e| damaged(path, &e)),
        Err(e) if e.kind == IoErrorKind::NotFound => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn log_path(directory: &Path, snapshot: u64) -> PathBuf {
    directory.join(format!("log-{snapshot:020}"))
}

async fn other_logs<R: Runtime>(runtime: &R, directory: &Path, current: &Path) -> Result<Vec<PathBuf>, IoError> {
    let entries = runtime.list_dir(directory).await?;
    let logs = entries.iter().filter(|e| e.name.starts_with("log-")).map(|e| directory.join(&e.name));
    Ok(logs.filter(|path| path != current).collect())
}

fn damaged(path: &Path, error: &crate::controller::DecodeError) -> ControllerError {
    ControllerError::Damaged(format!("{}: {error}", path.display()))
}
