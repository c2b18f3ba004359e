//! What keeps requests from a partition while it moves to another shard, and knows when those that came before are through.
//!
//! ```text
//! request                        a move, on every shard
//! finds its shards by the image  close(p): whoever wants p waits from now on
//! enter(): in the same breath    drained(): all passes that were given before are back
//! asks them                      …p moves, every shard has the new image…
//! drops its pass                 open(): those who waited find p's shard anew
//! ```
//! Between finding the shards and `enter` nothing may wait: a pass says that what was found holds until it is dropped.

use crate::ids::PartitionId;
use coreline_io::sync::Notify;
use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

/// A request is on its way to partitions whose shards it knows.
#[derive(Clone, Debug)]
pub struct Pass(#[expect(dead_code, reason = "it is counted")] Rc<Generation>);

/// The passes between one `drained` and the next.
#[derive(Debug)]
struct Generation(Rc<Notify>);

impl Drop for Generation {
    fn drop(&mut self) {
        self.0.notify_all();
    }
}

/// Passes that are counted together.
#[derive(Debug)]
struct Turns {
    current: RefCell<Rc<Generation>>,
    before: RefCell<Vec<Weak<Generation>>>,
    ended: Rc<Notify>,
}

impl Default for Turns {
    fn default() -> Self {
        let ended = Rc::<Notify>::default();
        let current = RefCell::new(Rc::new(Generation(Rc::clone(&ended))));
        Self { current, before: RefCell::default(), ended }
    }
}

impl Turns {
    fn pass(&self) -> Pass {
        Pass(Rc::clone(&self.current.borrow()))
    }

    /// Waits until every pass that was given so far is back, those of calls before that were given up included.
    async fn drained(&self) {
        let old = self.current.replace(Rc::new(Generation(Rc::clone(&self.ended))));
        self.before.borrow_mut().push(Rc::downgrade(&old));
        drop(old);
        loop {
            let ended = self.ended.notified();
            self.before.borrow_mut().retain(|generation| generation.strong_count() > 0);
            if self.before.borrow().is_empty() {
                return;
            }
            ended.await;
        }
    }
}

/// One shard's part of a move. A node moves one partition at a time.
#[derive(Debug, Default)]
pub struct Passage {
    closed: Cell<Option<PartitionId>>,
    opened: Notify,
    /// Of requests on this shard's connections.
    requests: Turns,
    /// Of what other shards have asked this one. Apart, because a request may wait for a coordinator, which may wait for the move.
    answers: Turns,
}

impl Passage {
    /// A pass for a request that wants nothing of the [closed](Self::is_closed) partition.
    #[must_use]
    pub fn enter(&self) -> Pass {
        self.requests.pass()
    }

    /// A pass for a request that has not found its partitions yet: waits while one moves that it `wants`, which is asked anew
    /// each time, since names may have changed.
    pub async fn enter_but_for(&self, wants: impl Fn(PartitionId) -> bool) -> Pass {
        while let Some(moving) = self.closed.get().filter(|id| wants(*id)) {
            self.opened(moving).await;
        }
        self.enter()
    }

    /// A pass for what another shard asks; it finds the partition, or does not.
    #[must_use]
    pub fn answer(&self) -> Pass {
        self.answers.pass()
    }

    /// The partition moves.
    #[must_use]
    pub fn is_closed(&self, id: PartitionId) -> bool {
        self.closed.get() == Some(id)
    }

    /// Waits until no partition moves, or another does.
    pub async fn opened(&self, id: PartitionId) {
        while self.is_closed(id) {
            self.opened.notified().await;
        }
    }

    /// From now on nobody may ask for the partition.
    pub fn close(&self, id: PartitionId) {
        self.closed.set(Some(id));
    }

    /// The move is over, one way or the other. False: it was another's.
    pub fn open(&self, id: PartitionId) -> bool {
        let ours = self.is_closed(id);
        if ours {
            self.closed.set(None);
            self.opened.notify_all();
        }
        ours
    }

    /// Waits until every request that was given a pass so far has given it back.
    pub async fn drained(&self) {
        self.requests.drained().await;
    }

    /// Waits until everything that other shards have asked so far is answered.
    pub async fn answered(&self) {
        self.answers.drained().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{PartitionIndex, TopicId};
    use futures_util::FutureExt;
    use std::pin::pin;

    fn partition(index: i32) -> PartitionId {
        PartitionId { topic: TopicId::default(), index: PartitionIndex(index) }
    }

    #[test]
    fn every_pass_that_was_given_before_is_waited_for_and_none_that_came_later() {
        let passage = Passage::default();
        let first = passage.enter();
        let mut given_up = pin!(passage.drained());
        assert!(given_up.as_mut().now_or_never().is_none());
        let second = passage.enter();
        let mut drained = pin!(passage.drained());
        assert!(drained.as_mut().now_or_never().is_none());
        let _third = passage.enter();
        drop(second);
        assert!(drained.as_mut().now_or_never().is_none(), "the first is of an earlier generation");
        drop(first);
        assert!(drained.as_mut().now_or_never().is_some());
    }

    #[test]
    fn who_wants_the_partition_waits_until_it_is_open() {
        let passage = Passage::default();
        passage.close(partition(1));
        assert!(passage.is_closed(partition(1)) && !passage.is_closed(partition(2)));
        let (mut one, mut all) = (pin!(passage.opened(partition(1))), pin!(passage.enter_but_for(|_| true)));
        assert!(one.as_mut().now_or_never().is_none() && all.as_mut().now_or_never().is_none());
        assert!(passage.enter_but_for(|id| id == partition(2)).now_or_never().is_some(), "its partition does not move");
        assert!(!passage.open(partition(2)));
        assert!(one.as_mut().now_or_never().is_none());
        assert!(passage.open(partition(1)));
        // Before anybody has looked.
        passage.close(partition(2));
        assert!(one.as_mut().now_or_never().is_some());
        assert!(all.as_mut().now_or_never().is_none(), "it wants the second, too");
        assert!(passage.open(partition(2)));
        assert!(all.as_mut().now_or_never().is_some());
    }
}
