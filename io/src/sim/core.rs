//! The world's inside: clock, timers, tasks, and the loop that drives them. Disk and network hang on it.
//!
//! No `RefCell` here is borrowed while a task is polled or dropped, or while a timer's action runs: all of these
//! call back into the world.

use super::net::NetState;
use super::node::NodeState;
use super::rng::{SimRng, mix};
use super::{NodeExit, SimOptions};
use crate::sync::oneshot;
use crate::{JoinHandle, Monotonic};
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::ThreadId;

/// Tasks that a deadlock report names at most.
const REPORTED_TASKS: usize = 100;

/// Polls at one instant after which the clock moves although tasks are ready: whoever spins until a time or a
/// completion must get there, as on a real CPU.
const POLLS_AT_ONE_INSTANT: u64 = 10_000;

/// What a poll costs past [`POLLS_AT_ONE_INSTANT`].
const SPIN_NANOS: u64 = 1_000;

/// The part of the world that wakers and parcels reach: both must be `Send`, though nothing leaves this thread.
#[derive(Debug)]
pub(super) struct Shared {
    thread: ThreadId,
    ready: Mutex<Vec<u64>>,
    abandoned: Mutex<Vec<u64>>,
}

impl Shared {
    /// A parcel was dropped unopened.
    pub(super) fn abandon(&self, parcel: u64) {
        self.abandoned.lock().unwrap_or_else(PoisonError::into_inner).push(parcel);
    }

    fn push(&self, task: u64) {
        self.ready.lock().unwrap_or_else(PoisonError::into_inner).push(task);
    }
}

#[derive(Debug)]
struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    shared: Arc<Shared>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        assert_eq!(
            std::thread::current().id(),
            self.shared.thread,
            "a simulated task was woken by another thread: the run could not be replayed"
        );
        if !self.queued.swap(true, Ordering::Relaxed) {
            self.shared.push(self.task);
        }
    }
}

struct Task {
    name: &'static str,
    node: Option<usize>,
    /// Taken out while it is polled.
    future: Option<LocalBoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
}

/// What happens at a point of time.
enum Timer {
    Wake(Rc<SleepSlot>),
    Run(Box<dyn FnOnce()>),
}

#[derive(Default)]
struct SleepSlot {
    fired: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

pub(super) struct Core {
    pub(super) seed: u64,
    pub(super) options: SimOptions,
    pub(super) nodes: RefCell<Vec<Rc<NodeState>>>,
    pub(super) net: NetState,
    /// Decides the order of tasks, the slack of timers, and who yields.
    pub(super) rng: SimRng,
    pub(super) shared: Arc<Shared>,
    now: Cell<u64>,
    trace: Cell<u64>,
    steps: Cell<u64>,
    polls_at_instant: Cell<u64>,
    next_id: Cell<u64>,
    /// By id, hence in the order they were spawned.
    tasks: RefCell<BTreeMap<u64, Task>>,
    /// By time, then by the order they were set.
    timers: RefCell<BTreeMap<(u64, u64), Timer>>,
    driving: Cell<bool>,
    closed: Cell<bool>,
}

impl Core {
    pub(super) fn new(seed: u64, options: SimOptions) -> Rc<Self> {
        let rng = SimRng::new(seed);
        Rc::new(Self {
            seed,
            options,
            nodes: RefCell::default(),
            net: NetState::new(rng.fork()),
            rng,
            shared: Arc::new(Shared {
                thread: std::thread::current().id(),
                ready: Mutex::default(),
                abandoned: Mutex::default(),
            }),
            now: Cell::new(0),
            trace: Cell::new(seed),
            steps: Cell::new(0),
            polls_at_instant: Cell::new(0),
            next_id: Cell::new(0),
            tasks: RefCell::default(),
            timers: RefCell::default(),
            driving: Cell::new(false),
            closed: Cell::new(false),
        })
    }

    pub(super) fn now(&self) -> Monotonic {
        Monotonic { nanos: self.now.get() }
    }

    pub(super) fn steps(&self) -> u64 {
        self.steps.get()
    }

    /// Numbers for tasks, timers, files, connections: never used twice.
    pub(super) fn next_id(&self) -> u64 {
        let id = self.next_id.get() + 1;
        self.next_id.set(id);
        id
    }

    /// Adds an event to the running hash of all that happened.
    pub(super) fn trace(&self, what: u64, detail: u64) {
        self.trace.set(mix(self.trace.get() ^ mix(what ^ self.now.get().rotate_left(20)) ^ detail.rotate_left(40)));
    }

    pub(super) fn trace_hash(&self) -> u64 {
        self.trace.get()
    }

    /// Starts a task; on a world that is being taken down the future is dropped instead.
    pub(super) fn spawn<T: 'static>(
        &self,
        node: Option<usize>,
        name: &'static str,
        task: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T> {
        let (sender, receiver) = oneshot();
        if !self.closed.get() {
            let id = self.next_id();
            let waker = self.waker(id);
            let future: LocalBoxFuture<'static, ()> = Box::pin(async move { sender.send(task.await) });
            self.trace(1, id);
            self.tasks.borrow_mut().insert(id, Task { name, node, future: Some(future), waker });
        }
        JoinHandle::new(async move {
            match receiver.await {
                Some(output) => output,
                // The task died with its node: as in a process that is no more, nothing follows.
                None => std::future::pending().await,
            }
        })
    }

    fn waker(&self, task: u64) -> Arc<TaskWaker> {
        self.shared.push(task);
        Arc::new(TaskWaker { task, queued: AtomicBool::new(true), shared: self.shared.clone() })
    }

    /// Runs `action` after `nanos`, outside any task.
    pub(super) fn after(&self, nanos: u64, action: impl FnOnce() + 'static) {
        if !self.closed.get() {
            self.set_timer(nanos, Timer::Run(Box::new(action)));
        }
    }

    fn set_timer(&self, nanos: u64, timer: Timer) -> (u64, u64) {
        let key = (self.now.get().saturating_add(nanos), self.next_id());
        self.timers.borrow_mut().insert(key, timer);
        key
    }

    /// Waits at least `nanos` from now (the call, not the first poll).
    pub(super) fn sleep(self: &Rc<Self>, nanos: u64) -> Sleep {
        let slot = Rc::new(SleepSlot::default());
        let key = self.set_timer(nanos, Timer::Wake(slot.clone()));
        Sleep { core: Rc::downgrade(self), key, slot }
    }

    /// Drives the world until `future` is done.
    pub(super) fn block_on<T>(self: &Rc<Self>, future: impl Future<Output = T>) -> T {
        assert!(!self.driving.replace(true), "block_on inside block_on: await the future instead");
        let guard = Driving { core: self };
        let mut future = pin!(future);
        let id = self.next_id();
        let main = self.waker(id);
        let waker = Waker::from(main.clone());
        loop {
            self.net.drop_abandoned(self.take_abandoned());
            let Some(task) = self.pick() else {
                assert!(self.advance(), "{}", self.deadlock_report());
                continue;
            };
            self.count_step();
            if task != id {
                self.poll_task(task);
                continue;
            }
            main.queued.store(false, Ordering::Relaxed);
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                drop(guard);
                return output;
            }
        }
    }

    fn take_abandoned(&self) -> Vec<u64> {
        std::mem::take(&mut *self.shared.abandoned.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// One of the ready tasks, by the seed.
    fn pick(&self) -> Option<u64> {
        let mut ready = self.shared.ready.lock().unwrap_or_else(PoisonError::into_inner);
        if ready.is_empty() {
            return None;
        }
        let at = self.rng.index(ready.len());
        Some(ready.swap_remove(at))
    }

    fn count_step(&self) {
        let steps = self.steps.get() + 1;
        self.steps.set(steps);
        if let Some(max) = self.options.steps_max {
            assert!(steps <= max, "seed {}: {max} steps and not done\n{}", self.seed, self.living_tasks());
        }
        let polls = self.polls_at_instant.get() + 1;
        self.polls_at_instant.set(polls);
        if polls > POLLS_AT_ONE_INSTANT {
            self.now.set(self.now.get() + SPIN_NANOS);
            self.fire_due();
        }
    }

    fn poll_task(self: &Rc<Self>, id: u64) {
        let (mut future, waker, node) = {
            let mut tasks = self.tasks.borrow_mut();
            let Some(task) = tasks.get_mut(&id) else { return };
            let Some(future) = task.future.take() else { return };
            (future, task.waker.clone(), task.node)
        };
        self.trace(2, id);
        waker.queued.store(false, Ordering::Relaxed);
        let waker = Waker::from(waker);
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut Context::from_waker(&waker))));
        match polled {
            Ok(Poll::Pending) => {
                // If the task's node crashed meanwhile, the task is gone from the table and dies here.
                if let Some(task) = self.tasks.borrow_mut().get_mut(&id) {
                    task.future = Some(future);
                    return;
                }
            }
            Ok(Poll::Ready(())) => {
                let done = self.tasks.borrow_mut().remove(&id);
                drop(done);
            }
            Err(payload) => self.on_panic(id, node, payload),
        }
        drop(future);
    }

    /// A task that ends its process takes its node down; any other panic fails the run.
    fn on_panic(self: &Rc<Self>, id: u64, node: Option<usize>, payload: Box<dyn std::any::Any + Send>) {
        let dead = self.tasks.borrow_mut().remove(&id);
        let name = dead.as_ref().map_or("?", |t| t.name);
        match (payload.downcast::<NodeExit>(), node) {
            (Ok(exit), Some(node)) => {
                let node = self.nodes.borrow()[node].clone();
                node.exit(self, *exit);
            }
            (Ok(exit), None) => panic!("task {name} of no node ended its process: {exit:?}"),
            (Err(payload), _) => {
                eprintln!("simulation: task {name} panicked");
                std::panic::resume_unwind(payload);
            }
        }
    }

    /// Moves the clock to the next timer; false if there is none.
    fn advance(&self) -> bool {
        let Some(next) = self.timers.borrow().keys().next().copied() else { return false };
        self.now.set(self.now.get().max(next.0));
        self.polls_at_instant.set(0);
        self.fire_due();
        true
    }

    fn fire_due(&self) {
        loop {
            let timer = {
                let mut timers = self.timers.borrow_mut();
                match timers.first_entry() {
                    Some(first) if first.key().0 <= self.now.get() => first.remove(),
                    _ => return,
                }
            };
            match timer {
                Timer::Run(action) => action(),
                Timer::Wake(slot) => {
                    slot.fired.set(true);
                    let waker = slot.waker.borrow_mut().take();
                    if let Some(waker) = waker {
                        waker.wake();
                    }
                }
            }
        }
    }

    /// Drops every task of `node`. Their drops may call into the world: the node must be marked down already.
    pub(super) fn drop_tasks(&self, node: usize) {
        let dead: Vec<Task> = {
            let mut tasks = self.tasks.borrow_mut();
            let ids: Vec<u64> = tasks.iter().filter(|(_, t)| t.node == Some(node)).map(|(id, _)| *id).collect();
            ids.iter().filter_map(|id| tasks.remove(id)).collect()
        };
        drop(dead);
    }

    fn deadlock_report(&self) -> String {
        format!(
            "seed {}: deadlock at {}: no task is ready and no timer is set\n{}",
            self.seed,
            self,
            self.living_tasks()
        )
    }

    fn living_tasks(&self) -> String {
        let tasks = self.tasks.borrow();
        let nodes = self.nodes.borrow();
        let mut text = format!("{} living tasks besides the main one:", tasks.len());
        for (id, task) in tasks.iter().take(REPORTED_TASKS) {
            let node = task.node.map_or("-", |n| nodes[n].name.as_str());
            let _ = write!(text, "\n  #{id} {} on node {node}", task.name);
        }
        text
    }

    /// Breaks the cycles of the world: tasks and timers hold it, it holds them.
    pub(super) fn close(&self) {
        self.closed.set(true);
        for node in self.nodes.borrow().iter() {
            node.mark_down();
        }
        let (tasks, timers) = (self.tasks.take(), self.timers.take());
        if std::thread::panicking() {
            // A second panic in a drop would abort the process and eat the report of the first.
            std::mem::forget((tasks, timers));
            return;
        }
        drop(tasks);
        drop(timers);
        self.net.close();
        for node in self.nodes.borrow().iter() {
            node.disk.release();
        }
    }
}

impl std::fmt::Display for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} after {} steps", std::time::Duration::from_nanos(self.now.get()), self.steps.get())
    }
}

/// While the world is driven; says the seed when a panic passes.
struct Driving<'a> {
    core: &'a Core,
}

impl Drop for Driving<'_> {
    fn drop(&mut self) {
        self.core.driving.set(false);
        if std::thread::panicking() {
            eprintln!("simulation: seed {} failed at {}", self.core.seed, self.core);
        }
    }
}

/// A set timer; dropping it takes the timer back.
pub(super) struct Sleep {
    core: Weak<Core>,
    key: (u64, u64),
    slot: Rc<SleepSlot>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.slot.fired.get() {
            return Poll::Ready(());
        }
        *self.slot.waker.borrow_mut() = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.slot.fired.get() {
            return;
        }
        if let Some(core) = self.core.upgrade() {
            let timer = core.timers.borrow_mut().remove(&self.key);
            drop(timer);
        }
    }
}
