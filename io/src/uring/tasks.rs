//! Tasks: one glommio queue per scheduling group, and the stall detector.

use super::UringRuntime;
use crate::runtime::{JoinHandle, TaskGroup, Tasks};
use crate::sync::oneshot;
use glommio::{Latency, Shares, TaskQueueHandle};
use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A poll longer than this is a stall: every other task of the core waited for it.
pub const STALL: Duration = Duration::from_millis(10);

/// At most one log line a shard in this time; the counter counts all.
const STALL_LOG_EVERY: Duration = Duration::from_secs(1);

/// How soon a group wants the core when it has work: bounds how long others run before it.
const fn latency(group: TaskGroup) -> Latency {
    match group {
        TaskGroup::Requests | TaskGroup::Replication => Latency::Matters(Duration::from_millis(1)),
        TaskGroup::Flush => Latency::Matters(Duration::from_millis(10)),
        TaskGroup::Background => Latency::NotImportant,
    }
}

pub(super) struct Queues([TaskQueueHandle; TaskGroup::ALL.len()]);

impl Queues {
    /// Makes the queues in the executor of the calling task.
    pub(super) fn create() -> Self {
        Self(TaskGroup::ALL.map(|group| {
            let shares = Shares::Static(group.shares());
            glommio::executor().create_task_queue(shares, latency(group), &format!("{group:?}"))
        }))
    }

    fn of(&self, group: TaskGroup) -> TaskQueueHandle {
        self.0[group as usize]
    }
}

#[derive(Debug, Default)]
pub(super) struct Stalls {
    count: Cell<u64>,
    longest: Cell<Duration>,
    logged: Cell<Option<Instant>>,
}

impl Stalls {
    pub(super) fn count(&self) -> u64 {
        self.count.get()
    }

    pub(super) fn longest(&self) -> Duration {
        self.longest.get()
    }

    #[cold]
    fn record(&self, task: &'static str, took: Duration, now: Instant) {
        self.count.set(self.count.get() + 1);
        self.longest.set(self.longest.get().max(took));
        if self.logged.get().is_none_or(|last| now.duration_since(last) >= STALL_LOG_EVERY) {
            self.logged.set(Some(now));
            let (count, took) = (self.count.get(), took.as_secs_f64() * 1e3);
            tracing::warn!(task, took_ms = took, count, "a task held its core too long");
        }
    }
}

/// A future whose polls are timed. Two reads of the time-stamp counter a poll.
struct Timed<F> {
    runtime: UringRuntime,
    name: &'static str,
    task: Pin<Box<F>>,
}

impl<F: Future> Future for Timed<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let before = Instant::now();
        let polled = self.task.as_mut().poll(cx);
        let after = Instant::now();
        let took = after.duration_since(before);
        if took > STALL {
            self.runtime.0.stalls.record(self.name, took, after);
        }
        polled
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
        let runtime = Self(Rc::clone(&self.0));
        let timed = Timed { runtime, name, task: Box::pin(async move { sender.send(task.await) }) };
        glommio::spawn_local_into(timed, self.0.queues.of(group))
            .expect("the queues live as long as the executor")
            .detach();
        JoinHandle::new(async move {
            match receiver.await {
                Some(output) => output,
                // The executor went down with the task: nobody will ever answer.
                None => std::future::pending().await,
            }
        })
    }

    async fn yield_now(&self) {
        if glommio::executor().need_preempt() {
            glommio::executor().yield_task_queue_now().await;
        } else {
            glommio::executor().yield_now().await;
        }
    }

    fn should_yield(&self) -> bool {
        glommio::executor().need_preempt()
    }
}
