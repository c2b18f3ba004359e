//! The timeline of a request while its handler runs: what the handler asks of other shards stamps it, too, wherever in the
//! handler that is.

use crate::broker::coordinator::AskStages;
use crate::broker::metrics::Meters;
use crate::latency::{Stage, Timeline};
use coreline_io::Monotonic;
use std::cell::Cell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

/// A request that is being handled.
#[derive(Debug)]
pub(crate) struct Way {
    /// Where its time went so far.
    pub(super) timeline: Cell<Timeline>,
    /// What its own work counts as.
    pub(super) work: Stage,
}

impl Way {
    pub(super) fn begin(timeline: Timeline, work: Stage) -> Rc<Self> {
        Rc::new(Self { timeline: Cell::new(timeline), work })
    }

    pub(super) fn mark(&self, stage: Stage, now: impl FnOnce() -> Monotonic) {
        let mut timeline = self.timeline.get();
        timeline.mark_now(stage, || now().nanos);
        self.timeline.set(timeline);
    }

    /// Another shard was asked at `asked`, worked for `took`, and its answer is here at `now`. Of several that were asked at
    /// a time the slowest counts.
    pub(super) fn hopped(&self, asked: Monotonic, took: Duration, now: Monotonic) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let mut timeline = self.timeline.get();
        timeline.mark(self.work, asked.nanos);
        timeline.mark(Stage::Hop, now.nanos.saturating_sub(took));
        timeline.mark(self.work, now.nanos);
        self.timeline.set(timeline);
    }

    /// A coordinator was asked and has answered.
    pub(crate) fn asked(&self, stages: &AskStages) {
        let mut timeline = self.timeline.get();
        stages.mark(&mut timeline, self.work);
        self.timeline.set(timeline);
    }
}

impl Meters {
    /// Runs the handler of a request, which is found by [`Meters::way`] meanwhile.
    pub(super) async fn on_way<F: Future + ?Sized>(&self, way: &Rc<Way>, mut handling: Pin<Box<F>>) -> F::Output {
        poll_fn(|cx| {
            let before = self.way.replace(Some(Rc::clone(way)));
            let polled = handling.as_mut().poll(cx);
            self.way.replace(before);
            polled
        })
        .await
    }

    /// The request whose handler runs now.
    pub(crate) fn way(&self) -> Option<Rc<Way>> {
        self.way.borrow().clone()
    }
}
