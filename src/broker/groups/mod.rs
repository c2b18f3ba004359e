//! The driver of group coordinators: what stands between handlers, the log, and the pure logic of `crate::groups`.
//!
//! ```text
//! handler ── ask ──┬─ this shard's ──────────────┐
//!                  └─ another's: event Ask ──────┤
//!                                          submit: step(now, topics, event)
//!                                             │ records            │ answers
//!                                    gathered in a batch      wait for the records before them
//!                                    LogStore::append ─ committed ─┘
//!                  ┌─ this shard's asker ◀───────┤
//!                  └─ another's: event Told ◀────┘
//! ```
//!
//! One [`Coordinator`](crate::groups::coordinator::Coordinator) a partition of `__consumer_offsets`, on the shard that
//! owns the partition. While one batch is on its way to the disk, the records of further steps gather in the next. The
//! state in memory runs ahead of the log, answers do not: each waits until every record that was made before it is
//! committed. When the log refuses a batch, the coordinator is thrown away and loaded again.
//!
//! | file | concept |
//! | --- | --- |
//! | `placement`, `offsets_topic` | where a group is; the topic |
//! | `hosted` | one coordinator, its askers, its batches: no I/O |
//! | `load` | from the log to a coordinator |
//! | `ask` | how questions and answers travel |
//! | `topics`, `settings` | what the logic is told of topics and configuration |

mod ask;
mod hosted;
mod load;
pub mod offsets_topic;
pub mod placement;
mod settings;
mod topics;

pub use ask::GroupEvent;

use super::Shard;
use super::handlers::resolve::led_partition;
use super::shard::topic_config;
use super::store::{Acks, AppendOrigin};
use crate::error_code::ErrorCode;
use crate::groups::config::GroupsConfig;
use crate::groups::{Event, Now, Token};
use crate::ids::PartitionId;
use ask::Asker;
use coreline_io::sync::{Notify, OneshotSender, Semaphore};
use coreline_io::{Runtime, TaskGroup};
use coreline_shards::ShardId;
use futures_util::future::{Either, select};
use hosted::Hosted;
use offsets_topic::OFFSETS_TOPIC;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use topics::TopicsView;

/// Coordinators of a shard that load at a time.
const LOADS_MAX: usize = 4;

/// What a coordinator says: an answer, or why there is none.
pub(crate) type Told = Result<crate::groups::Response, ErrorCode>;

/// The coordinators of one shard, and the questions of this shard to others. Lives as long as the shard.
pub struct Groups<R: Runtime> {
    shard: Rc<Shard<R>>,
    config: GroupsConfig,
    view: RefCell<TopicsView>,
    /// By partition: those of `__consumer_offsets` that this shard owns in the view's image.
    hosted: RefCell<BTreeMap<PartitionId, Rc<Hosted>>>,
    /// Who waits on this shard for the answer of another one.
    waiting: RefCell<HashMap<Token, OneshotSender<Told>>>,
    next_token: Cell<u64>,
    loads: Rc<Semaphore>,
    /// The deadline that the timer sleeps towards, in monotonic milliseconds.
    armed: Cell<Option<i64>>,
    /// There is an earlier deadline than `armed`.
    rearmed: Notify,
    stopped: Cell<bool>,
}

impl<R: Runtime> std::fmt::Debug for Groups<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Groups").field("hosted", &self.hosted.borrow().len()).finish_non_exhaustive()
    }
}

impl<R: Runtime> Groups<R> {
    /// The coordinators of a shard; those it owns begin to load.
    #[must_use]
    pub fn new(shard: Rc<Shard<R>>) -> Rc<Self> {
        let groups = Rc::new(Self {
            config: settings::groups_config(&shard.config),
            // Of nothing, so that the first image is news.
            view: RefCell::new(TopicsView::new(Arc::default())),
            hosted: RefCell::default(),
            waiting: RefCell::default(),
            next_token: Cell::new(0),
            loads: Semaphore::new(LOADS_MAX),
            armed: Cell::new(None),
            rearmed: Notify::default(),
            stopped: Cell::new(false),
            shard,
        });
        let spawn = |name, task: futures_util::future::LocalBoxFuture<'static, ()>| {
            drop(groups.shard.runtime.spawn(TaskGroup::Requests, name, task));
        };
        spawn("group topics", Box::pin(Rc::clone(&groups).follow_images()));
        spawn("group timer", Box::pin(Rc::clone(&groups).keep_time()));
        spawn("group stop", Box::pin(Rc::clone(&groups).stop()));
        groups
    }

    fn now(&self) -> Now {
        let runtime = &self.shard.runtime;
        Now { monotonic_ms: (runtime.now().nanos / 1_000_000) as i64, wall_ms: runtime.wall_ms() }
    }

    /// The partition that holds a group, and the shard of this node that owns it.
    pub(crate) fn find(&self, group: &str) -> Result<(PartitionId, ShardId), ErrorCode> {
        let image = self.shard.image();
        let topic = image.topic(OFFSETS_TOPIC).filter(|t| !t.partitions.is_empty()).ok_or(ErrorCode::NotCoordinator)?;
        let count = i32::try_from(topic.partitions.len()).expect("indexes are 31 bits");
        let led = led_partition(&self.shard, topic, placement::partition_of(group, count));
        led.map(|(resolved, _)| (resolved.id, resolved.shard)).map_err(|_| ErrorCode::NotCoordinator)
    }

    /// Every partition of the topic that this node leads.
    pub(crate) fn partitions(&self) -> Vec<(PartitionId, ShardId)> {
        let image = self.shard.image();
        let Some(topic) = image.topic(OFFSETS_TOPIC) else { return Vec::new() };
        let led = (0..).zip(&topic.partitions).filter_map(|(index, _)| led_partition(&self.shard, topic, index).ok());
        led.map(|(resolved, _)| (resolved.id, resolved.shard)).collect()
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
        if image.index == self.view.borrow().image().index || self.stopped.get() {
            return;
        }
        let followed = self.view.borrow_mut().follow(Arc::clone(&image));
        let Some(gone) = followed else { return };
        let owned: BTreeMap<PartitionId, ()> = match image.topic(OFFSETS_TOPIC) {
            None => BTreeMap::new(),
            Some(topic) => {
                let numbered = topic.partitions.iter().enumerate();
                let here = numbered.filter(|(_, p)| self.shard.owns(p.shard) && p.leader == self.shard.node_id());
                here.map(|(index, _)| (topic.partition_id(index), ())).collect()
            }
        };
        let known: Vec<Rc<Hosted>> = self.hosted.borrow().values().cloned().collect();
        let max_message_bytes =
            image.topic(OFFSETS_TOPIC).map(|topic| topic_config(&self.shard.config, &image, topic).0.max_message_bytes);
        for hosted in known {
            if owned.contains_key(&hosted.id) {
                max_message_bytes.into_iter().for_each(|max| hosted.limit_batches(max));
                self.step(&hosted, Event::TopicsChanged);
                if !gone.is_empty() {
                    self.step(&hosted, Event::TopicsDeleted(gone.clone()));
                }
            } else {
                self.hosted.borrow_mut().remove(&hosted.id);
                self.refuse(hosted.close(), ErrorCode::NotCoordinator);
            }
        }
        for id in owned.into_keys() {
            if self.hosted.borrow().contains_key(&id) {
                continue;
            }
            let hosted = Rc::new(Hosted::new(id));
            max_message_bytes.into_iter().for_each(|max| hosted.limit_batches(max));
            self.hosted.borrow_mut().insert(id, Rc::clone(&hosted));
            self.spawn_load(hosted);
        }
    }

    fn spawn_load(self: &Rc<Self>, hosted: Rc<Hosted>) {
        let load = Rc::clone(self).load(hosted);
        drop(self.shard.runtime.spawn(TaskGroup::Background, "group load", load));
    }

    /// Lets a coordinator take a step; sends on what comes of it. Nothing, while it is not loaded.
    fn step(self: &Rc<Self>, hosted: &Rc<Hosted>, event: Event) {
        let now = self.now();
        let Some(stepped) = hosted.step(now, &*self.view.borrow(), event) else { return };
        self.send_on(hosted, stepped);
    }

    fn send_on(self: &Rc<Self>, hosted: &Rc<Hosted>, stepped: hosted::Stepped) {
        for (token, asker, response) in stepped.ready {
            self.answer(token, asker, Ok(response));
        }
        if stepped.write {
            let write = Rc::clone(self).write(Rc::clone(hosted));
            drop(self.shard.runtime.spawn(TaskGroup::Requests, "group records", write));
        }
        self.arm(hosted.deadline());
    }

    /// Gives the log one batch after another, until nothing is left.
    async fn write(self: Rc<Self>, hosted: Rc<Hosted>) {
        // What else is ready now goes into the same batch.
        self.shard.runtime.yield_now().await;
        while let Some(records) = hosted.next_batch() {
            let origin = AppendOrigin { acks: Acks::Local, now_ms: self.shard.runtime.wall_ms() };
            match self.shard.store.append(hosted.id, records, origin).await {
                Ok(_) => {
                    for (token, asker, response) in hosted.committed() {
                        self.answer(token, asker, Ok(response));
                    }
                }
                Err(error) => {
                    if let Some(askers) = hosted.unload() {
                        tracing::warn!(
                            index = hosted.id.index.0,
                            "the coordinator loads again, its records were refused: {error}"
                        );
                        self.refuse(askers, refusal(error.code));
                        self.spawn_load(Rc::clone(&hosted));
                    }
                    return;
                }
            }
        }
    }

    fn refuse(&self, askers: Vec<(Token, Asker)>, code: ErrorCode) {
        for (token, asker) in askers {
            self.answer(token, asker, Err(code));
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
            let due: Vec<Rc<Hosted>> = {
                let hosted = self.hosted.borrow();
                hosted.values().filter(|h| h.deadline().is_some_and(|at| at <= now)).cloned().collect()
            };
            for hosted in due {
                self.step(&hosted, Event::Tick);
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
        for sender in waiting.into_values() {
            sender.send(Err(ErrorCode::NotCoordinator));
        }
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
