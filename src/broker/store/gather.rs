//! What many loads need at the same time is done together: directories are read some at a time, and one sync of the
//! file system covers what all have written.
//!
//! Nobody lingers for company: the first who asks is served at once, and who asks meanwhile makes the next group.

use super::LogStore;
use super::types::StoreError;
use coreline_io::sync::{OneshotSender, oneshot};
use coreline_io::{DirContents, File, IoError, IoResult, PickFiles, Runtime, TaskGroup};
use futures_util::StreamExt;
use futures_util::stream;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;

/// Directories read in one call: others who need the disk's helpers do not wait long.
const DIRS_AT_A_TIME: usize = 32;
/// Calls that read directories, under way at a time: one is read while what another found is looked at.
const DIR_READERS: usize = 2;
/// Syncs under way at a time, when each has its own.
const SYNCS_IN_FLIGHT: usize = 16;

/// Questions in line, each with whom to tell, and how many tasks serve them.
#[derive(Debug)]
pub(super) struct Line<Q, A> {
    waiting: RefCell<VecDeque<(Q, OneshotSender<A>)>>,
    serving: Cell<usize>,
}

impl<Q, A> Default for Line<Q, A> {
    fn default() -> Self {
        Self { waiting: RefCell::default(), serving: Cell::new(0) }
    }
}

impl<Q, A> Line<Q, A> {
    pub(super) fn push(&self, question: Q, sender: OneshotSender<A>) {
        self.waiting.borrow_mut().push_back((question, sender));
    }

    /// Up to `max` of those who wait, first come first served. None: nobody, the task that asks may end.
    pub(super) fn next_group(&self, max: usize) -> Option<(Vec<Q>, Vec<OneshotSender<A>>)> {
        let mut waiting = self.waiting.borrow_mut();
        let count = waiting.len().min(max);
        if count == 0 {
            self.serving.set(self.serving.get() - 1);
            return None;
        }
        Some(waiting.drain(..count).unzip())
    }

    /// One more task is needed, and may be.
    pub(super) fn may_serve(&self, tasks_max: usize) -> bool {
        let serves = self.serving.get() < tasks_max;
        self.serving.set(self.serving.get() + usize::from(serves));
        serves
    }
}

/// What a load has written, and nothing covers yet.
#[derive(Debug)]
pub(super) struct Unsynced<F> {
    pub(super) files: Vec<Rc<F>>,
    /// The directory of the files: their names are to be durable, too.
    pub(super) dir: PathBuf,
}

/// The lines of a store.
#[derive(Debug)]
pub(super) struct Gather<R: Runtime> {
    dirs: Line<PathBuf, IoResult<DirContents>>,
    syncs: Line<Unsynced<R::File>, Result<(), StoreError>>,
    /// Names in the data directory.
    names: Line<(), IoResult<()>>,
}

impl<R: Runtime> Default for Gather<R> {
    fn default() -> Self {
        Self { dirs: Line::default(), syncs: Line::default(), names: Line::default() }
    }
}

impl<R: Runtime> LogStore<R> {
    /// A directory's entries and the files in it that `pick` chooses. All who ask have the same `pick`.
    pub(super) async fn read_dir_together(
        self: &Rc<Self>,
        dir: PathBuf,
        pick: PickFiles,
    ) -> Result<IoResult<DirContents>, StoreError> {
        let (sender, receiver) = oneshot();
        self.gather.dirs.waiting.borrow_mut().push_back((dir, sender));
        if self.gather.dirs.may_serve(DIR_READERS) {
            let store = self.clone();
            drop(self.rt.spawn(TaskGroup::Requests, "read directories", async move {
                while let Some((dirs, senders)) = store.gather.dirs.next_group(DIRS_AT_A_TIME) {
                    let found = store.rt.read_dirs(dirs, pick).await;
                    senders.into_iter().zip(found).for_each(|(sender, found)| sender.send(found));
                }
            }));
        }
        receiver.await.ok_or(StoreError::Stopped)
    }

    /// Makes durable what was written before the call. A failure has stopped the store.
    pub(super) async fn sync_settled(self: &Rc<Self>, unsynced: Unsynced<R::File>) -> Result<(), StoreError> {
        let (sender, receiver) = oneshot();
        self.gather.syncs.waiting.borrow_mut().push_back((unsynced, sender));
        if self.gather.syncs.may_serve(1) {
            let store = self.clone();
            drop(self.rt.spawn(TaskGroup::Requests, "sync what was settled", async move {
                while let Some((group, senders)) = store.gather.syncs.next_group(usize::MAX) {
                    store.sync_group(group, senders).await;
                }
            }));
        }
        receiver.await.unwrap_or(Err(StoreError::Stopped))
    }

    /// Makes names in the data directory durable that were changed before the call: a topic that goes renames thousands.
    pub(super) async fn sync_names(self: &Rc<Self>) -> Result<(), StoreError> {
        let (sender, receiver) = oneshot();
        self.gather.names.waiting.borrow_mut().push_back(((), sender));
        if self.gather.names.may_serve(1) {
            let store = self.clone();
            drop(self.rt.spawn(TaskGroup::Requests, "sync names", async move {
                while let Some((_, senders)) = store.gather.names.next_group(usize::MAX) {
                    let synced = store.rt.sync_dir(&store.options.data_dir).await;
                    let told =
                        |error: &IoError| IoError::new("sync the data directory", io::Error::other(error.to_string()));
                    for sender in senders {
                        sender.send(synced.as_ref().copied().map_err(told));
                    }
                }
            }));
        }
        let synced = receiver.await.ok_or(StoreError::Stopped)?;
        synced.map_err(StoreError::io("make names in the data directory durable"))
    }

    async fn sync_group(&self, group: Vec<Unsynced<R::File>>, senders: Vec<OneshotSender<Result<(), StoreError>>>) {
        if group.len() < self.options.shared_sync_partitions {
            let syncs = stream::iter(group).map(|unsynced| self.sync_alone(unsynced));
            let results: Vec<_> = syncs.buffered(SYNCS_IN_FLIGHT).collect().await;
            senders.into_iter().zip(results).for_each(|(sender, result)| sender.send(result));
            return;
        }
        let synced = self.rt.sync_file_system(&group[0].dir).await;
        let mut result = synced.map_err(|e| StoreError::io("sync what was settled")(self.sync_failed(e)));
        for sender in senders {
            let ok = result.is_ok();
            sender.send(std::mem::replace(&mut result, if ok { Ok(()) } else { Err(StoreError::Stopped) }));
        }
    }

    async fn sync_alone(&self, unsynced: Unsynced<R::File>) -> Result<(), StoreError> {
        let failed = |e| StoreError::io("sync what was settled")(self.sync_failed(e));
        for file in unsynced.files {
            file.sync_data().await.map_err(failed)?;
        }
        self.rt.sync_dir(&unsynced.dir).await.map_err(failed)
    }
}
