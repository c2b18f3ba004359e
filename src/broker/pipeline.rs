//! Answers on their way out, in the order of their requests: those that wait for a group commit do not keep the next
//! request from being read.

use super::latency::Particulars;
use crate::latency::{Stage, Timeline};
use crate::protocol::ResponseFrame;
use bytes::Bytes;
use coreline_io::sync::{Notify, Permit};
use coreline_io::{Monotonic, Stream};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

/// Answers of one connection that may wait at a time.
pub const PIPELINE_MAX: usize = 256;
/// Bytes gathered for one write.
const WRITE_GATHER: usize = 1 << 20;

/// The connection must be closed, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Close(pub String);

impl Close {
    /// A connection to be closed because of `reason`.
    pub fn because(reason: impl std::fmt::Display) -> Self {
        Self(reason.to_string())
    }
}

/// An answer, and where its time went until it was there.
#[derive(Debug)]
pub struct Answered {
    /// What is sent; nothing, if it has no parts.
    pub frame: ResponseFrame,
    /// Its stages so far.
    pub timeline: Timeline,
}

/// An answer that is not there yet.
pub type PendingAnswer = LocalBoxFuture<'static, Result<Answered, Close>>;

/// An answer that was written.
#[derive(Debug)]
pub struct Sent {
    /// To which request.
    pub what: Particulars,
    /// Its stages, to the end.
    pub timeline: Timeline,
    /// The request's memory.
    _permit: Permit,
}

struct Pending {
    answer: PendingAnswer,
    what: Particulars,
    /// The request's memory, until it is answered.
    permit: Permit,
}

/// The answers of one connection that wait. One task pushes, one task writes.
#[derive(Default)]
pub struct Pipeline {
    queue: RefCell<VecDeque<Pending>>,
    /// Those in the queue and those the writer has taken off it.
    unfinished: Cell<usize>,
    closed: Cell<bool>,
    pushed: Notify,
    finished: Notify,
}

impl std::fmt::Debug for Pipeline {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pipeline").field("unfinished", &self.unfinished).field("closed", &self.closed).finish()
    }
}

impl Pipeline {
    /// Waits for room and takes an answer in. False if the connection is closed.
    pub async fn push(&self, answer: PendingAnswer, what: Particulars, permit: Permit) -> bool {
        while self.unfinished.get() >= PIPELINE_MAX && !self.closed.get() {
            self.finished.notified().await;
        }
        if self.closed.get() {
            return false;
        }
        self.unfinished.set(self.unfinished.get() + 1);
        self.queue.borrow_mut().push_back(Pending { answer, what, permit });
        self.pushed.notify_all();
        true
    }

    /// Waits until every answer is out. False if the connection is closed.
    pub async fn drained(&self) -> bool {
        while self.unfinished.get() > 0 && !self.closed.get() {
            self.finished.notified().await;
        }
        !self.closed.get()
    }

    /// Answers that are not out yet.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.unfinished.get()
    }

    /// Takes no more answers; the writer ends.
    pub fn close(&self) {
        self.closed.set(true);
        self.pushed.notify_all();
        self.finished.notify_all();
    }

    /// Writes answers until the pipeline is closed, or one of them says that the connection must be. What was before it
    /// is written first. `wrote` is called after each write, with the answers that went out.
    ///
    /// # Errors
    /// Why the connection is of no more use.
    pub async fn write<S: Stream>(
        &self,
        stream: &S,
        now: impl Fn() -> Monotonic,
        wrote: impl Fn(Monotonic, Vec<Sent>),
    ) -> Result<(), Close> {
        while let Some(first) = self.next().await {
            let mut ready = Ready::default();
            let result = match first.answer.await {
                Ok(answered) => {
                    ready.take(answered, first.what, first.permit);
                    self.gather(&mut ready)
                }
                Err(close) => Err(close),
            };
            let answers = ready.sent.len();
            if answers > 0 {
                let mut at = now();
                ready.mark(Stage::Ready, at);
                if !ready.parts.is_empty() {
                    stream.write_all(&mut ready.parts).await.map_err(Close::because)?;
                    at = now();
                    ready.mark(Stage::Send, at);
                }
                wrote(at, ready.sent);
            }
            self.unfinished.set(self.unfinished.get() - answers);
            self.finished.notify_all();
            result?;
        }
        Ok(())
    }

    async fn next(&self) -> Option<Pending> {
        loop {
            if self.closed.get() {
                return None;
            }
            if let Some(pending) = self.queue.borrow_mut().pop_front() {
                return Some(pending);
            }
            self.pushed.notified().await;
        }
    }

    /// Takes the answers that need no more waiting, up to the first that does.
    fn gather(&self, ready: &mut Ready) -> Result<(), Close> {
        while ready.bytes < WRITE_GATHER {
            let Some(mut next) = self.queue.borrow_mut().pop_front() else { break };
            match (&mut next.answer).now_or_never() {
                Some(Ok(answered)) => ready.take(answered, next.what, next.permit),
                Some(Err(close)) => return Err(close),
                None => {
                    self.queue.borrow_mut().push_front(next);
                    break;
                }
            }
        }
        Ok(())
    }
}

/// Answers that go out with one write.
#[derive(Default)]
struct Ready {
    parts: VecDeque<Bytes>,
    bytes: usize,
    sent: Vec<Sent>,
}

impl Ready {
    fn take(&mut self, answered: Answered, what: Particulars, permit: Permit) {
        let Answered { frame, timeline } = answered;
        self.bytes += frame.len();
        self.parts.extend(frame.parts);
        self.sent.push(Sent { what, timeline, _permit: permit });
    }

    fn mark(&mut self, stage: Stage, now: Monotonic) {
        self.sent.iter_mut().for_each(|sent| sent.timeline.mark(stage, now.nanos));
    }
}
