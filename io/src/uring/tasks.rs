//! Tasks: one glommio queue per scheduling group, and the stall detector.

use super::nap::Counted;
use super::{UringRuntime, start_of_process};
use crate::runtime::{JoinHandle, Monotonic, TaskGroup, Tasks};
use crate::sync::oneshot;
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A poll longer than this is a stall: every other task of the core waited for it.
pub const STALL: Duration = Duration::from_millis(10);

/// At most one log line a shard in this time; the counter counts all.
const STALL_LOG_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Queues {
    groups: [TaskQueueHandle; TaskGroup::ALL.len()],
    bells: TaskQueueHandle,
    naps: TaskQueueHandle,
}

impl Queues {
    /// Makes the queues in the executor of the calling task.
    pub(super) fn create() -> Self {
        let create = |shares: usize, name: &str| {
            glommio::executor().create_task_queue(Shares::Static(shares), Latency::NotImportant, name)
        };
        Self {
            groups: TaskGroup::ALL.map(|group| create(group.shares(), &format!("{group:?}"))),
            bells: create(TaskGroup::Requests.shares(), "bells"),
            naps: create(1, "naps"),
        }
    }

    fn of(&self, group: TaskGroup) -> TaskQueueHandle {
        self.groups[group as usize]
    }

    /// The queue of the task that sleeps when no other has anything to do: with the fewest shares it comes last.
    pub(super) fn naps(&self) -> TaskQueueHandle {
        self.naps
    }

    /// The queue of the preemption bells: it runs next to nothing, and so comes first.
    pub(super) fn bells(&self) -> TaskQueueHandle {
        self.bells
    }
}

/// The newest stalls that are remembered.
const STALLS_KEPT: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Stalls {
    count: Cell<u64>,
    longest: Cell<Duration>,
    logged: Cell<Option<Instant>>,
    newest: RefCell<VecDeque<Stalled>>,
}

/// A poll that was a stall.
#[derive(Clone, Copy, Debug)]
struct Stalled {
    task: &'static str,
    took: Duration,
    ended: Instant,
}

impl Stalls {
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn longest(&self) -> Duration {
        self.longest.get()
    }

    /// The longest that was remembered and in part between two times.
    fn longest_between(&self, from: Instant, to: Instant) -> Option<Stalled> {
        let newest = self.newest.borrow();
        let within = newest.iter().filter(|s| s.ended > from && s.ended - s.took < to);
        within.max_by_key(|s| s.took).copied()
    }

    #[cold]
    fn record(&self, task: &'static str, took: Duration, now: Instant) {
        self.count.set(self.count.get() + 1);
        self.longest.set(self.longest.get().max(took));
        let mut newest = self.newest.borrow_mut();
        if newest.len() == STALLS_KEPT {
            newest.pop_front();
        }
        newest.push_back(Stalled { task, took, ended: now });
        drop(newest);
        if self.logged.get().is_none_or(|last| now.duration_since(last) >= STALL_LOG_EVERY) {
            self.logged.set(Some(now));
            let (count, took) = (self.count.get(), took.as_secs_f64() * 1e3);
            tracing::warn!(task, took_ms = took, count, "a task held its core too long");
        }
    }
}

/// The tasks that are not done. glommio keeps no such list: a task that waits when its executor ends is never dropped,
/// and neither are its sockets.
#[derive(Default)]
pub(super) struct Registry {
    entries: RefCell<Vec<Option<Rc<dyn Cancel>>>>,
    free: RefCell<Vec<usize>>,
    /// Tasks of the runtime itself, which never end.
    own: Cell<usize>,
}

trait Cancel {
    /// Drops the task's future, unless it is being polled: that one asked for it.
    fn cancel(&self);
}

struct TaskCell<F>(RefCell<Option<(Pin<Box<F>>, Counted)>>);

impl<F> Cancel for TaskCell<F> {
    fn cancel(&self) {
        let future = self.0.try_borrow_mut().ok().and_then(|mut future| future.take());
        // Destructors run with nothing borrowed: they may wake and spawn.
        drop(future);
    }
}

impl Registry {
    fn add(&self, task: Rc<dyn Cancel>) -> usize {
        let mut entries = self.entries.borrow_mut();
        match self.free.borrow_mut().pop() {
            Some(index) => {
                entries[index] = Some(task);
                index
            }
            None => {
                entries.push(Some(task));
                entries.len() - 1
            }
        }
    }

    fn remove(&self, index: usize) {
        let task = self.entries.borrow_mut()[index].take();
        assert!(task.is_some(), "task {index} is removed once");
        self.free.borrow_mut().push(index);
    }

    /// Tasks that are not done, but for the runtime's own.
    pub(super) fn len(&self) -> usize {
        self.entries.borrow().len() - self.free.borrow().len() - self.own.get()
    }

    /// Drops the futures of all tasks but the one that is being polled.
    pub(super) fn cancel_all(&self) {
        let mut index = 0;
        loop {
            let task = match self.entries.borrow().get(index) {
                Some(task) => task.clone(),
                None => return,
            };
            if let Some(task) = task {
                task.cancel();
            }
            index += 1;
        }
    }
}

/// What glommio runs: a task whose polls are timed. Two reads of the time-stamp counter a poll.
struct Timed<F> {
    runtime: UringRuntime,
    name: &'static str,
    task: Rc<TaskCell<F>>,
    index: usize,
}

impl<F: Future<Output = ()> + 'static> Timed<F> {
    fn new(runtime: UringRuntime, name: &'static str, task: F) -> Self {
        let task = Rc::new(TaskCell(RefCell::new(Some((Box::pin(task), runtime.0.nap.counted())))));
        let index = runtime.0.tasks.add(task.clone());
        Self { runtime, name, task, index }
    }
}

impl<F> Drop for Timed<F> {
    fn drop(&mut self) {
        self.runtime.0.tasks.remove(self.index);
    }
}

impl<F: Future<Output = ()>> Future for Timed<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut task = self.task.0.borrow_mut();
        // Cancelled: nothing is left to do.
        let Some((future, counted)) = task.as_mut() else { return Poll::Ready(()) };
        let (slice, nap) = (&self.runtime.0.slice, &self.runtime.0.nap);
        nap.polled();
        let before = Instant::now();
        slice.poll_begins(before);
        let polled = counted.poll(future.as_mut(), cx);
        let after = Instant::now();
        slice.poll_ended(after);
        let took = after.duration_since(before.max(slice.slept_until()));
        if took > STALL {
            self.runtime.0.stalls.record(self.name, took, after);
        }
        polled
    }
}

impl UringRuntime {
    /// Starts a task of the runtime itself, which runs as long as the executor.
    pub(super) fn spawn_own(&self, group: TaskGroup, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.spawn_own_into(self.0.queues.of(group), name, task);
    }

    pub(super) fn spawn_napper(&self, name: &'static str, task: impl Future<Output = ()> + 'static) {
        self.spawn_own_into(self.0.queues.naps(), name, task);
    }

    pub(super) fn spawn_own_into(
        &self,
        queue: TaskQueueHandle,
        name: &'static str,
        task: impl Future<Output = ()> + 'static,
    ) {
        self.0.tasks.own.set(self.0.tasks.own.get() + 1);
        self.spawn_into(queue, name, task);
    }

    fn spawn_into(&self, queue: TaskQueueHandle, name: &'static str, task: impl Future<Output = ()> + 'static) {
        let timed = Timed::new(self.clone(), name, task);
        glommio::spawn_local_into(timed, queue).expect("the queues live as long as the executor").detach();
    }
}

impl Tasks for UringRuntime {
    fn spawn<T: 'static>(
        &self,
        group: TaskGroup,
        name: &'static str,
        task: impl Future<Output = T> + 'static,
    ) -> JoinHandle<T> {
        let (sender, receiver) = oneshot();
        self.spawn_into(self.0.queues.of(group), name, async move { sender.send(task.await) });
        JoinHandle::new(async move {
            match receiver.await {
                Some(output) => output,
                // Cancelled, so the executor is at its end: nobody will ever answer.
                None => std::future::pending().await,
            }
        })
    }

    async fn yield_now(&self) {
        // Other groups too, by their shares: a yield within the queue would go on until glommio's timer ends.
        glommio::executor().yield_task_queue_now().await;
    }

    fn should_yield(&self) -> bool {
        glommio::executor().need_preempt() || self.0.slice.is_over()
    }

    fn longest_stall_between(&self, from: Monotonic, to: Monotonic) -> Option<(&'static str, Duration)> {
        let at = |time: Monotonic| start_of_process() + Duration::from_nanos(time.nanos);
        self.0.stalls.longest_between(at(from), at(to)).map(|stall| (stall.task, stall.took))
    }
}
