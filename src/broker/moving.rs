//! Connections on their way between shards.
//!
//! ```text
//! shard A: a request is done, and the rules say B      (steering.rs)
//!          wait until all answers are out, end the writer: nobody uses the stream
//!          off the table; pack stream, unread bytes, session, what the service keeps for it, its slot in max.connections
//!          post Connection to B
//! shard B: unpack, take over what A's service kept, on the table, serve: unread bytes first
//! ```
//!
//! The connection reads nothing from the moment the rules speak until B serves it: what the client sends waits in the
//! kernel. If B stops accepting meanwhile, or the node stops, it is closed, as one without a request under way is.

use super::connection::{Leaving, Service, Session};
use super::listener::ConnectionSlot;
use super::steering::{LeaveBudget, Steering, SteeringRules, Touched};
use bytes::BytesMut;
use coreline_io::sync::Notify;
use coreline_io::{IoResult, Monotonic, Runtime};
use coreline_shards::{Adopted, HandOff, ShardId};
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

/// Takes a connection to another shard. It is closed if that is not possible.
pub type Post = Box<dyn Fn(ShardId, HandOff) -> LocalBoxFuture<'static, ()>>;

/// One shard's part in moving connections.
pub struct Steer {
    here: ShardId,
    rules: SteeringRules,
    budget: RefCell<LeaveBudget>,
    post: Post,
    /// Those that other shards sent.
    pub arrivals: Rc<Arrivals>,
    counts: Cell<SteerCounts>,
}

/// What happened on one shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SteerCounts {
    /// Requests that touched partitions of this shard only.
    pub local: u64,
    /// Requests that touched partitions of other shards.
    pub crossed: u64,
    /// Connections that went to another shard.
    pub left: u64,
    /// Connections that came from another shard.
    pub came: u64,
}

impl std::fmt::Debug for Steer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steer").field("here", &self.here).field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl Steer {
    /// For the shard `here`.
    #[must_use]
    pub fn new(here: ShardId, rules: SteeringRules, now: Monotonic, arrivals: Rc<Arrivals>, post: Post) -> Rc<Self> {
        let budget = RefCell::new(LeaveBudget::new(&rules, now));
        Rc::new(Self { here, rules, budget, post, arrivals, counts: Cell::default() })
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> SteerCounts {
        self.counts.get()
    }

    fn count(&self, what: impl FnOnce(&mut SteerCounts)) {
        let mut counts = self.counts.get();
        what(&mut counts);
        self.counts.set(counts);
    }

    /// What a connection that was just accepted begins with.
    #[must_use]
    pub fn accepted(&self, now: Monotonic) -> Steering {
        Steering::new(&self.rules, now)
    }

    /// Takes note of a request, and says where the connection should go on if not here.
    pub fn after_request(&self, steering: &mut Steering, touched: &mut Touched, now: Monotonic) -> Option<ShardId> {
        if touched.is_empty() {
            return None;
        }
        steering.note(&self.rules, touched);
        let crossed = touched.elsewhere(self.here);
        touched.clear();
        self.count(|counts| if crossed { counts.crossed += 1 } else { counts.local += 1 });
        // A request of this shard alone never is a reason to go.
        if !crossed {
            return None;
        }
        let to = steering.wants(&self.rules, now, self.here)?;
        self.budget.borrow_mut().take(now).then_some(to)
    }

    /// Sends a connection to the shard where it goes on.
    pub(super) async fn send<R: Runtime, V: Service>(
        &self,
        runtime: &R,
        service: &V,
        (stream, session): (R::Stream, Session),
        leaving: Leaving,
        slot: ConnectionSlot,
    ) {
        let Leaving { to, unread, mut steering } = leaving;
        steering.moved(&self.rules, runtime.now());
        tracing::debug!(peer = %session.peer, from = %self.here, %to, unread = unread.len(), "connection moves");
        self.count(|counts| counts.left += 1);
        let kept = service.give_up(&session);
        let moving = HandOff::pack(runtime, stream, unread, Luggage { session, steering, slot, kept });
        (self.post)(to, moving).await;
    }

    /// Makes a connection from another shard one of this shard.
    pub(super) fn adopt<R: Runtime, V: Service>(
        &self,
        runtime: &R,
        service: &V,
        moving: HandOff,
    ) -> IoResult<Arrived<R::Stream>> {
        let Adopted { stream, unread, session } = moving.adopt::<R, Luggage<V::Kept>>(runtime)?;
        let Luggage { session, steering, slot, kept } = session;
        service.take_over(kept);
        self.count(|counts| counts.came += 1);
        Ok(Arrived { stream, unread, session, steering, slot })
    }
}

/// What goes with a connection besides its stream and its bytes.
struct Luggage<K> {
    session: Session,
    steering: Steering,
    slot: ConnectionSlot,
    kept: K,
}

/// A connection that has come from another shard.
#[derive(Debug)]
pub(super) struct Arrived<S> {
    pub(super) stream: S,
    pub(super) unread: BytesMut,
    pub(super) session: Session,
    pub(super) steering: Steering,
    pub(super) slot: ConnectionSlot,
}

/// Connections that have come and are not served yet: they may come before this shard accepts.
#[derive(Debug, Default)]
pub struct Arrivals {
    waiting: RefCell<VecDeque<HandOff>>,
    news: Notify,
    closed: Cell<bool>,
}

impl Arrivals {
    /// One more. It is closed if nobody serves it any more.
    pub fn push(&self, moving: HandOff) {
        if !self.closed.get() {
            self.waiting.borrow_mut().push_back(moving);
            self.news.notify_all();
        }
    }

    /// Waits for the next.
    pub(super) async fn next(&self) -> HandOff {
        loop {
            let first = self.waiting.borrow_mut().pop_front();
            match first {
                Some(moving) => return moving,
                None => self.news.notified().await,
            }
        }
    }

    /// Closes those that wait and those that come later.
    pub(super) fn close(&self) {
        self.closed.set(true);
        let waiting = self.waiting.take();
        drop(waiting);
    }
}
