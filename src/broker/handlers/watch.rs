//! How fetches wait for records without asking again and again: a watch is told when a high watermark moves, or the last
//! stable offset, for readers of what is committed.
//!
//! ```text
//! shard A: a fetch of partitions on A and B finds too little
//!          registers on A                    and posts Watch{id, partitions, what it saw} to B
//! shard B: the high watermark of one of them is, or goes, beyond what was seen: posts Fired{id} to A, forgets the watch
//! shard A: reads again what B owns; when it has waited long enough, posts Unwatch{id}
//! ```
//!
//! A watch fires once. One that fires when its fetch has gone is ignored by id.

use crate::broker::Shard;
use crate::broker::messages::Event;
use crate::broker::store::{EndOffsets, Isolation};
use crate::ids::{Offset, PartitionId};
use coreline_io::sync::Notify;
use coreline_io::{Runtime, TaskGroup};
use coreline_shards::ShardId;
use futures_util::future::{Either, select};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// What a fetch saw: it wants to know when the end for readers of its isolation is beyond.
pub(crate) type Seen = (PartitionId, Offset, Isolation);

/// The ends of a partition that is not here: news for everybody.
const BEYOND: EndOffsets = EndOffsets {
    log_start: Offset(0),
    last_stable: Offset(i64::MAX),
    high_watermark: Offset(i64::MAX),
    log_end: Offset(i64::MAX),
};

/// Whose watch: ids are given by the shard that waits.
type Key = (ShardId, u64);

/// What of one partition a watch has seen.
type Watching = (Offset, Isolation, Key);

/// The watches on one shard's partitions, and the fetches of this shard that wait.
pub(super) struct Watches {
    me: ShardId,
    next_id: Cell<u64>,
    /// `by_partition` holds a key for each partition of each watch in `watched`, and no others.
    by_partition: RefCell<HashMap<PartitionId, Vec<Watching>>>,
    watched: RefCell<HashMap<Key, Vec<PartitionId>>>,
    waiting: RefCell<HashMap<u64, Rc<Waiter>>>,
    /// Sends an event, in its own time.
    post: Box<dyn Fn(ShardId, Event)>,
    /// The ends now, if they are known.
    ends: Box<dyn Fn(PartitionId) -> Option<EndOffsets>>,
}

impl std::fmt::Debug for Watches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (watched, waiting) = (self.watched.borrow().len(), self.waiting.borrow().len());
        f.debug_struct("Watches").field("watched", &watched).field("waiting", &waiting).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Waiter {
    fired: RefCell<BTreeSet<ShardId>>,
    news: Notify,
}

impl Watches {
    /// Watches on the partitions of `shard`.
    pub(super) fn new<R: Runtime>(shard: &Rc<Shard<R>>) -> Rc<Self> {
        let (runtime, mesh, store) = (shard.runtime.clone(), shard.mesh.clone(), Rc::clone(&shard.store));
        let post = move |to: ShardId, event: Event| {
            let mesh = mesh.clone();
            let _detached = runtime.spawn(TaskGroup::Requests, "watch-event", async move {
                // A closed mesh: the node stops, nobody waits any more.
                let _ = mesh.post(to, event).await;
            });
        };
        let ends = move |id: PartitionId| match store.end_offsets(id) {
            // It has left for another shard, or was deleted: whoever waits here would wait in vain.
            None if !store.has(id) => Some(BEYOND),
            ends => ends,
        };
        let watches = Rc::new(Self::with(shard.id, Box::new(post), Box::new(ends)));
        let hook = Rc::downgrade(&watches);
        shard.store.on_high_watermark(Rc::new(move |id, ends| {
            if let Some(watches) = hook.upgrade() {
                watches.moved(id, &ends);
            }
        }));
        watches
    }

    fn with(
        me: ShardId,
        post: Box<dyn Fn(ShardId, Event)>,
        ends: Box<dyn Fn(PartitionId) -> Option<EndOffsets>>,
    ) -> Self {
        Self {
            me,
            next_id: Cell::new(0),
            by_partition: RefCell::default(),
            watched: RefCell::default(),
            waiting: RefCell::default(),
            post,
            ends,
        }
    }

    /// Waits until something is new in one of `partitions`, or `wait` is over. The shards that have news.
    pub(super) async fn wait<R: Runtime>(
        self: &Rc<Self>,
        runtime: &R,
        partitions: &BTreeMap<ShardId, Vec<Seen>>,
        wait: Duration,
    ) -> BTreeSet<ShardId> {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let waiter = Rc::new(Waiter::default());
        self.waiting.borrow_mut().insert(id, Rc::clone(&waiter));
        let guard = Guard { watches: self, id, shards: partitions.keys().copied().collect() };
        for (to, seen) in partitions {
            if *to == self.me {
                self.watch((self.me, id), seen);
            } else {
                (self.post)(*to, Event::Watch { id, partitions: seen.clone() });
            }
        }
        if waiter.fired.borrow().is_empty() {
            let news = pin!(waiter.news.notified());
            if let Either::Left(_) = select(news, pin!(runtime.sleep(wait))).await {
                // Others of the same commit.
                runtime.yield_now().await;
            }
        }
        drop(guard);
        waiter.fired.take()
    }

    /// Another shard waits for partitions of this one.
    pub(super) fn on_watch(&self, from: ShardId, id: u64, partitions: &[Seen]) {
        self.watch((from, id), partitions);
    }

    /// It waits no more.
    pub(super) fn on_unwatch(&self, from: ShardId, id: u64) {
        self.forget((from, id));
    }

    /// Another shard has news for a fetch of this one.
    pub(super) fn on_fired(&self, from: ShardId, id: u64) {
        let waiter = self.waiting.borrow().get(&id).cloned();
        if let Some(waiter) = waiter {
            waiter.fired.borrow_mut().insert(from);
            waiter.news.notify_all();
        }
    }

    fn watch(&self, key: Key, partitions: &[Seen]) {
        let is_new =
            |(id, seen, isolation): &Seen| (self.ends)(*id).is_some_and(|now| now.readable(*isolation) > *seen);
        if partitions.iter().any(is_new) {
            self.fire(key);
            return;
        }
        let mut by_partition = self.by_partition.borrow_mut();
        for (id, seen, isolation) in partitions {
            by_partition.entry(*id).or_default().push((*seen, *isolation, key));
        }
        let before = self.watched.borrow_mut().insert(key, partitions.iter().map(|(id, ..)| *id).collect());
        assert!(before.is_none(), "the id of a watch is used once");
    }

    fn moved(&self, id: PartitionId, ends: &EndOffsets) {
        let due: Vec<Key> = match self.by_partition.borrow().get(&id) {
            Some(watches) => {
                let due = watches.iter().filter(|(seen, isolation, _)| ends.readable(*isolation) > *seen);
                due.map(|(.., key)| *key).collect()
            }
            None => return,
        };
        for key in due {
            self.forget(key);
            self.fire(key);
        }
    }

    /// A partition has left this shard.
    pub(super) fn left(&self, id: PartitionId) {
        self.moved(id, &BEYOND);
    }

    fn forget(&self, key: Key) {
        let Some(partitions) = self.watched.borrow_mut().remove(&key) else { return };
        let mut by_partition = self.by_partition.borrow_mut();
        for id in partitions {
            // A partition that was named twice is gone already.
            let Some(watches) = by_partition.get_mut(&id) else { continue };
            watches.retain(|(.., other)| *other != key);
            if watches.is_empty() {
                by_partition.remove(&id);
            }
        }
    }

    fn fire(&self, (shard, id): Key) {
        if shard == self.me {
            self.on_fired(self.me, id);
        } else {
            (self.post)(shard, Event::Fired { id });
        }
    }
}

/// Takes a fetch's watches back, also when the fetch is dropped while it waits.
struct Guard<'a> {
    watches: &'a Watches,
    id: u64,
    shards: Vec<ShardId>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let waiter = self.watches.waiting.borrow_mut().remove(&self.id);
        for shard in &self.shards {
            if *shard == self.watches.me {
                self.watches.forget((*shard, self.id));
            } else if waiter.as_ref().is_none_or(|w| !w.fired.borrow().contains(shard)) {
                (self.watches.post)(*shard, Event::Unwatch { id: self.id });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};
    use coreline_io::sim::{SimOptions, SimWorld};
    use coreline_io::{Clock, Tasks};

    fn partition(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index) }
    }

    type Sent = Rc<RefCell<Vec<(ShardId, String)>>>;

    const ALL: Isolation = Isolation::ReadUncommitted;

    fn ends(high_watermark: i64, last_stable: i64) -> EndOffsets {
        let (high_watermark, last_stable) = (Offset(high_watermark), Offset(last_stable));
        EndOffsets { high_watermark, last_stable, ..EndOffsets::default() }
    }

    /// Watches on a shard whose partitions all have high watermark 10 and last stable offset 8.
    fn watches() -> (Rc<Watches>, Sent) {
        let sent = Sent::default();
        let log = Rc::clone(&sent);
        let post = move |to, event| log.borrow_mut().push((to, format!("{event:?}")));
        (Rc::new(Watches::with(ShardId(0), Box::new(post), Box::new(|_| Some(ends(10, 8))))), sent)
    }

    fn assert_empty(watches: &Watches) {
        assert!(watches.by_partition.borrow().is_empty());
        assert!(watches.watched.borrow().is_empty());
        assert!(watches.waiting.borrow().is_empty());
    }

    #[test]
    fn a_watch_from_another_shard_fires_once() {
        let (watches, sent) = watches();
        let other = ShardId(3);
        watches.on_watch(other, 7, &[(partition(1), Offset(10), ALL), (partition(2), Offset(12), ALL)]);
        watches.moved(partition(2), &ends(11, 8));
        assert!(sent.borrow().is_empty());
        watches.moved(partition(1), &ends(11, 8));
        watches.moved(partition(1), &ends(12, 8));
        watches.moved(partition(2), &ends(20, 8));
        assert_eq!(*sent.borrow(), [(other, "Fired { id: 7 }".to_owned())]);
        // Moved while the event was under way.
        watches.on_watch(other, 8, &[(partition(1), Offset(9), ALL)]);
        assert_eq!(sent.borrow().len(), 2);
        watches.on_watch(other, 9, &[(partition(1), Offset(10), ALL), (partition(1), Offset(10), ALL)]);
        watches.on_unwatch(other, 9);
        watches.moved(partition(1), &ends(11, 8));
        watches.on_fired(other, 99);
        assert_eq!(sent.borrow().len(), 2);
        // What is committed only counts up to the last stable offset.
        watches.on_watch(other, 10, &[(partition(1), Offset(8), Isolation::ReadCommitted)]);
        watches.moved(partition(1), &ends(12, 8));
        assert_eq!(sent.borrow().len(), 2);
        watches.moved(partition(1), &ends(13, 13));
        assert_eq!(sent.borrow().len(), 3);
        assert_empty(&watches);
    }

    #[test]
    fn a_fetch_waits_for_this_shard_and_for_others_and_not_too_long() {
        let world = SimWorld::new(1, SimOptions::default());
        let runtime = world.node("a").runtime();
        let (watches, sent) = watches();
        let wanted = BTreeMap::from([
            (ShardId(0), vec![(partition(0), Offset(10), ALL)]),
            (ShardId(1), vec![(partition(1), Offset(4), ALL)]),
        ]);
        world.block_on(async {
            let start = runtime.now();
            let second = Duration::from_secs(1);
            assert!(watches.wait(&runtime, &wanted, second).await.is_empty());
            assert!(runtime.now().since(start) >= second);
            assert_eq!(sent.borrow().len(), 2, "{:?}", sent.borrow());
            assert_empty(&watches);
            for (local, from) in [(true, ShardId(0)), (false, ShardId(1))] {
                let (rt, w) = (runtime.clone(), Rc::clone(&watches));
                let firing = runtime.spawn(TaskGroup::Requests, "fire", async move {
                    rt.sleep(Duration::from_millis(10)).await;
                    if local {
                        w.moved(partition(0), &ends(11, 8))
                    } else {
                        w.on_fired(ShardId(1), w.next_id.get() - 1)
                    }
                });
                let start = runtime.now();
                assert_eq!(watches.wait(&runtime, &wanted, second).await, BTreeSet::from([from]));
                assert!(runtime.now().since(start) < second);
                firing.await;
                assert_empty(&watches);
            }
            let last = sent.borrow().last().cloned();
            assert!(last.is_some_and(|(to, event)| to == ShardId(1) && event.starts_with("Watch")), "no Unwatch");
        });
    }
}
