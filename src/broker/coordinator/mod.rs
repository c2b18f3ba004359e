//! The driver of coordinators: what stands between handlers, the log, and a pure machine, of groups or transactions.
//!
//! ```text
//! handler ── ask ──┬─ this shard's ──────────────┐
//!                  └─ another's: event Ask ──────┤
//!                                          submit: step(now, event)
//!                                             │ records            │ answers, orders
//!                                    gathered in a batch      wait for the records before them
//!                                    LogStore::append ─ committed ─┘
//!                  ┌─ this shard's asker ◀───────┤
//!                  └─ another's: event Told ◀────┘
//! ```
//!
//! One [machine](crate::coordinator) a partition of the internal topic, on the shard that owns the partition. While one
//! batch is on its way to the disk, the records of further steps gather in the next. The state in memory runs ahead of
//! the log, answers do not: each waits until every record that was made before it is committed. When the log refuses a
//! batch, the machine is thrown away and loaded again.
//!
//! What follows from a batch in other partitions of this shard need not wait for the disk: it is appended right behind the
//! batch, and goes into the same group commit or is refused with it (`store::joined`). That is so where nobody else has
//! replicas of them: there the order of this shard's journal says nothing.
//!
//! | file | concept |
//! | --- | --- |
//! | `kind` | what the driver must know of a machine |
//! | `placement`, `internal_topic` | where an id is; the topic |
//! | `hosted` | one machine, its askers, its batches: no I/O |
//! | `load` | from the log to a machine |
//! | `ask` | how questions and answers travel |

mod ask;
mod hosted;
pub mod internal_topic;
pub(crate) mod kind;
mod load;
pub mod placement;

pub(crate) use ask::{AskStages, Asked};
pub use ask::{CoordinatorEvent, Given};

use super::Shard;
use super::handlers::resolve::led_partition;
use super::shard::topic_config;
use super::store::{Acks, AppendError, AppendOrigin, CommitTimes, TxnAppend};
use crate::coordinator::{Now, Token};
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use ask::{Asker, Early};
use coreline_io::sync::{Notify, OneshotSender, Semaphore};
use coreline_io::{Runtime, TaskGroup};
use coreline_shards::ShardId;
use futures_util::future::{Either, select};
use hosted::{Hosted, Ready, Stepped};
use kind::Kind;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

/// Coordinators of a shard that load at a time.
const LOADS_MAX: usize = 4;

/// What a coordinator says: an answer, or why there is none.
pub(crate) type Told<K> = Result<<K as Kind>::Response, ErrorCode>;

/// Does what a machine of a partition ordered.
type OnOrder<K> = Box<dyn Fn(PartitionId, <K as Kind>::Order)>;
/// Does it in the call, as far as the log has to be told, and joins it to the machine's partition; what the machine hears
/// then. None: it has to wait for the commit.
type JoinOrder<K> = Box<dyn Fn(PartitionId, &<K as Kind>::Order) -> Option<<K as Kind>::Event>>;

/// The coordinators of one kind on one shard, and the questions of this shard to others. Lives as long as the shard.
pub(crate) struct Coordinators<R: Runtime, K: Kind> {
    shard: Rc<Shard<R>>,
    kind: K,
    /// By partition: those of the topic that this shard owns in the image that the kind has seen.
    hosted: RefCell<BTreeMap<PartitionId, Rc<Hosted<K>>>>,
    /// Who waits on this shard for the answer of another one, in the order that they asked.
    waiting: RefCell<BTreeMap<Token, OneshotSender<Given<K::Response>>>>,
    next_token: Cell<u64>,
    loads: Rc<Semaphore>,
    on_order: RefCell<Option<OnOrder<K>>>,
    join_order: RefCell<Option<JoinOrder<K>>>,
    /// The deadline that the timer sleeps towards, in monotonic milliseconds.
    armed: Cell<Option<i64>>,
    /// There is an earlier deadline than `armed`.
    rearmed: Notify,
    stopped: Cell<bool>,
}

impl<R: Runtime, K: Kind> std::fmt::Debug for Coordinators<R, K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hosted = self.hosted.borrow().len();
        f.debug_struct("Coordinators").field("of", &K::NAME).field("hosted", &hosted).finish_non_exhaustive()
    }
}

impl<R: Runtime, K: Kind> Coordinators<R, K> {
    /// The coordinators of a shard; those it owns begin to load.
    #[must_use]
    pub(crate) fn new(shard: Rc<Shard<R>>, kind: K) -> Rc<Self> {
        let coordinators = Rc::new(Self {
            kind,
            hosted: RefCell::default(),
            waiting: RefCell::default(),
            next_token: Cell::new(0),
            loads: Semaphore::new(LOADS_MAX),
            on_order: RefCell::new(None),
            join_order: RefCell::new(None),
            armed: Cell::new(None),
            rearmed: Notify::default(),
            stopped: Cell::new(false),
            shard,
        });
        let spawn = |name, task: futures_util::future::LocalBoxFuture<'static, ()>| {
            drop(coordinators.shard.runtime.spawn(TaskGroup::Requests, name, task));
        };
        spawn("coordinator topics", Box::pin(Rc::clone(&coordinators).follow_images()));
        spawn("coordinator timer", Box::pin(Rc::clone(&coordinators).keep_time()));
        spawn("coordinator stop", Box::pin(Rc::clone(&coordinators).stop()));
        coordinators
    }

    /// The shard.
    pub(crate) fn shard(&self) -> &Rc<Shard<R>> {
        &self.shard
    }

    /// The node stops: nothing is asked or told any more.
    pub(crate) fn is_stopped(&self) -> bool {
        self.stopped.get()
    }

    /// Who does what the machines order.
    pub(crate) fn on_order(&self, on_order: OnOrder<K>) {
        *self.on_order.borrow_mut() = Some(on_order);
    }

    /// Who does it at once, where that is possible.
    pub(crate) fn on_join(&self, join_order: JoinOrder<K>) {
        *self.join_order.borrow_mut() = Some(join_order);
    }

    fn now(&self) -> Now {
        let runtime = &self.shard.runtime;
        Now { monotonic_ms: (runtime.now().nanos / 1_000_000) as i64, wall_ms: runtime.wall_ms() }
    }

    /// The partition that holds an id, and the shard of this node that owns it.
    pub(crate) fn find(&self, id: &str) -> Result<(PartitionId, ShardId), ErrorCode> {
        let image = self.shard.image();
        let topic = image.topic(K::TOPIC).filter(|t| !t.partitions.is_empty()).ok_or(ErrorCode::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).expect("indexes are 31 bits");
        let led = led_partition(&self.shard, topic, placement::partition_of(id, count));
        led.map(|(resolved, _)| (resolved.id, resolved.shard)).map_err(|_| ErrorCode::NotCoordinator)
    }

    /// Every partition of the topic that this node leads.
    pub(crate) fn partitions(&self) -> Vec<(PartitionId, ShardId)> {
        let image = self.shard.image();
        let Some(topic) = image.topic(K::TOPIC) else { return Vec::new() };
        let led = (0..).zip(&topic.partitions).filter_map(|(index, _)| led_partition(&self.shard, topic, index).ok());
        led.map(|(resolved, _)| (resolved.id, resolved.shard)).collect()
    }

    /// Shows the machines that are loaded.
    pub(crate) fn each(&self, mut look: impl FnMut(&K::Machine)) {
        self.hosted.borrow().values().for_each(|hosted| hosted.look(&mut look));
    }

    async fn follow_images(self: Rc<Self>) {
        loop {
            self.catch_up();
            self.shard.controller.changed().await;
        }
    }

    /// Sees what the newest image brought: partitions that came or went, topics that changed.
    fn catch_up(self: &Rc<Self>) {
        let image = self.shard.image();
        if image.index == self.kind.seen() || self.stopped.get() {
            return;
        }
        let Some(news) = self.kind.follow(&image) else { return };
        let topic = image.topic(K::TOPIC);
        let owned: BTreeMap<PartitionId, i32> = topic.map_or_else(BTreeMap::new, |topic| {
            let numbered = topic.partitions.iter().enumerate();
            let here = numbered.filter(|(_, p)| self.shard.owns(p.shard) && p.leader == self.shard.node_id());
            here.map(|(index, p)| (topic.partition_id(index), p.leader_epoch.0)).collect()
        });
        let known: Vec<Rc<Hosted<K>>> = self.hosted.borrow().values().cloned().collect();
        let max_message_bytes = topic.map(|t| topic_config(&self.shard.config, &image, t).0.max_message_bytes);
        for hosted in known {
            if owned.contains_key(&hosted.id) {
                max_message_bytes.into_iter().for_each(|max| hosted.limit_batches(max));
                news.iter().for_each(|event| self.step(&hosted, K::again(event)));
            } else {
                self.hosted.borrow_mut().remove(&hosted.id);
                self.refuse(hosted.close(), ErrorCode::NotCoordinator);
            }
        }
        for (id, leader_epoch) in owned {
            if self.hosted.borrow().contains_key(&id) {
                continue;
            }
            let hosted = Rc::new(Hosted::new(id, leader_epoch));
            max_message_bytes.into_iter().for_each(|max| hosted.limit_batches(max));
            self.hosted.borrow_mut().insert(id, Rc::clone(&hosted));
            self.spawn_load(hosted);
        }
    }

    /// Something happened to a partition's machine that it must not miss, also if it is only being loaded.
    pub(crate) fn tell(self: &Rc<Self>, partition: PartitionId, event: K::Event) {
        let hosted = self.hosted.borrow().get(&partition).cloned();
        if let Some(hosted) = hosted
            && let Some(event) = hosted.keep(event)
        {
            self.step(&hosted, event);
        }
    }

    fn spawn_load(self: &Rc<Self>, hosted: Rc<Hosted<K>>) {
        let load = Rc::clone(self).load(hosted);
        drop(self.shard.runtime.spawn(TaskGroup::Background, "coordinator load", load));
    }

    /// Lets a coordinator take a step; sends on what comes of it. Nothing, while it is not loaded.
    fn step(self: &Rc<Self>, hosted: &Rc<Hosted<K>>, event: K::Event) {
        let now = self.now();
        let Some(stepped) = hosted.step(&self.kind, now, event) else { return };
        self.send_on(hosted, stepped);
    }

    fn send_on(self: &Rc<Self>, hosted: &Rc<Hosted<K>>, stepped: Stepped<K>) {
        self.let_out(hosted, stepped.ready, CommitTimes::default());
        if stepped.write {
            let write = Rc::clone(self).write(Rc::clone(hosted));
            drop(self.shard.runtime.spawn(TaskGroup::Requests, "coordinator records", write));
        }
        self.arm(hosted.deadline());
    }

    /// `commit`: what all this has waited for.
    fn let_out(&self, hosted: &Hosted<K>, ready: Vec<Ready<K>>, commit: CommitTimes) {
        for ready in ready {
            match ready {
                Ready::Answer(token, asker, response) => self.answer(token, asker, Ok(response), commit),
                Ready::Order(order) => {
                    if let Some(on_order) = &*self.on_order.borrow() {
                        on_order(hosted.id, order);
                    }
                }
            }
        }
    }

    /// Gives the log one batch after another, until nothing is left.
    async fn write(self: Rc<Self>, hosted: Rc<Hosted<K>>) {
        // What else is ready now goes into the same batch.
        self.shard.runtime.yield_now().await;
        loop {
            let waits = self.give(&hosted);
            if waits.is_empty() {
                return;
            }
            let mut refused = None;
            for wait in waits {
                match wait.await {
                    Ok(commit) => self.let_out(&hosted, hosted.committed(), commit),
                    Err(error) => {
                        let askers = hosted.unload();
                        self.refuse(askers.unwrap_or_default(), refusal(error.code));
                        refused = Some(error);
                    }
                }
            }
            if let Some(error) = refused {
                let index = hosted.id.index.0;
                tracing::warn!(index, "the {} coordinator loads again, its records were refused: {error}", K::NAME);
                self.spawn_load(Rc::clone(&hosted));
                return;
            }
        }
    }

    /// Gives the log the next batches, and in the same call what may follow them without waiting for their commit. Each
    /// says when it was where.
    fn give(
        self: &Rc<Self>,
        hosted: &Rc<Hosted<K>>,
    ) -> Vec<impl Future<Output = Result<CommitTimes, AppendError>> + 'static> {
        let store = &self.shard.store;
        let origin = AppendOrigin { acks: Acks::Local, now_ms: self.shard.runtime.wall_ms() };
        let mut waits = Vec::new();
        loop {
            let writes = hosted.next_batches();
            let (before, count) = (store.appended_end(hosted.id), writes.len());
            for write in writes {
                let guard = write.transaction.and_then(|of| of.guard);
                let txn = TxnAppend { guard, by_coordinator: true };
                let (given, wait) =
                    (self.shard.runtime.now(), store.append_timed(hosted.id, write.records, origin, txn));
                waits.push(async move {
                    wait.await.map(|(_, times)| CommitTimes { entered: times.entered.max(given), ..times })
                });
            }
            let taken = before.is_some() && store.appended_end(hosted.id) > before;
            if count != 1 || !taken || !self.join_behind(hosted) {
                return waits;
            }
        }
    }

    /// Does what waits for the batch that was just given, as far as it can be joined to it. True if the machine heard of it.
    fn join_behind(self: &Rc<Self>, hosted: &Rc<Hosted<K>>) -> bool {
        let (store, mut left, mut events) = (&self.shard.store, Vec::new(), Vec::new());
        for ready in hosted.last_given() {
            match ready {
                Ready::Answer(token, Asker::Early(early), response) => {
                    let Early { mut partitions, bytes, then } = early;
                    partitions.push(hosted.id);
                    if store.can_join(&partitions, bytes) {
                        then(Ok(response));
                        store.join(&partitions, bytes);
                    } else {
                        partitions.pop();
                        left.push(Ready::Answer(token, Asker::Early(Early { partitions, bytes, then }), response));
                    }
                }
                Ready::Order(order) => match self.join_order.borrow().as_ref().and_then(|join| join(hosted.id, &order))
                {
                    Some(event) => events.push(event),
                    None => left.push(Ready::Order(order)),
                },
                answer @ Ready::Answer(..) => left.push(answer),
            }
        }
        hosted.put_back(left);
        let heard = !events.is_empty();
        events.into_iter().for_each(|event| self.step(hosted, event));
        heard
    }

    fn refuse(&self, askers: Vec<(Token, Asker<K::Response>)>, code: ErrorCode) {
        for (token, asker) in askers {
            self.refuse_one(token, asker, code);
        }
    }

    /// Tells the timer of a deadline.
    fn arm(&self, deadline: Option<i64>) {
        if let Some(deadline) = deadline
            && self.armed.get().is_none_or(|armed| deadline < armed)
        {
            self.rearmed.notify_all();
        }
    }

    /// One sleep for all coordinators of the shard: towards the earliest deadline, or none. A deadline that was put off
    /// is noticed when it would have been due.
    async fn keep_time(self: Rc<Self>) {
        let mut not_before = i64::MIN;
        loop {
            let earliest = self.hosted.borrow().values().filter_map(|h| h.deadline()).min();
            let now = self.now().monotonic_ms;
            let Some(at) = earliest else {
                self.armed.set(None);
                self.rearmed.notified().await;
                continue;
            };
            let at = at.max(not_before);
            if at > now {
                self.armed.set(Some(at));
                let wait = Duration::from_millis(at.abs_diff(now));
                if let Either::Left(_) =
                    select(pin!(self.rearmed.notified()), pin!(self.shard.runtime.sleep(wait))).await
                {
                    continue;
                }
            }
            let now = self.now().monotonic_ms;
            // A deadline that stays where it is must not hold the core.
            not_before = now + 1;
            let due: Vec<Rc<Hosted<K>>> = {
                let hosted = self.hosted.borrow();
                hosted.values().filter(|h| h.deadline().is_some_and(|at| at <= now)).cloned().collect()
            };
            for hosted in due {
                self.step(&hosted, K::tick());
                if self.shard.runtime.should_yield() {
                    self.shard.runtime.yield_now().await;
                }
            }
        }
    }

    /// When the node stops, whoever waits is sent to look for another coordinator.
    async fn stop(self: Rc<Self>) {
        self.shard.shutdown.requested().await;
        self.stopped.set(true);
        let all = std::mem::take(&mut *self.hosted.borrow_mut());
        for hosted in all.into_values() {
            self.refuse(hosted.close(), ErrorCode::NotCoordinator);
        }
        // Those who wait for other shards.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        // Nothing is sent: they know what that means.
        drop(waiting);
    }
}

/// What clients are told when the log refuses records, as Kafka's coordinator puts it.
const fn refusal(code: ErrorCode) -> ErrorCode {
    match code {
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidFetchSize => {
            ErrorCode::UnknownServerError
        }
        ErrorCode::NotLeaderOrFollower | ErrorCode::KafkaStorageError => ErrorCode::NotCoordinator,
        _ => ErrorCode::CoordinatorNotAvailable,
    }
}
