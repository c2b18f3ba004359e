//! From the request to the log: what takes long is done by a helper thread, and the order of a partition's appends stays.
//!
//! ```text
//! appends of one partition, in the order in which they came     a: to be compressed anew   b, c: as they are
//!   a ─▶ helper thread …                 ┐
//!   b ─▶ waits, because a does           ├─ a is done ─▶ a, b, c go into the log
//!   c ─▶ waits                           ┘
//! ```
//! Where nobody waits an append is taken in the call. Back-pressure: the helpers' queue is bounded, and records of
//! requests without an answer count against the shard's memory for requests.

use super::LogStore;
use super::partition::{AppendResult, Partition, Payload, QueuedAppend};
use super::types::{AppendError, AppendOrigin, TxnAppend};
use crate::error_code::ErrorCode;
use crate::log::intake::{Accepted, Intake, Refused};
use bytes::BytesMut;
use coreline_io::sync::OneshotSender;
use coreline_io::{Monotonic, Runtime, TaskGroup};
use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

/// An append that is ready for the log, or refused.
type Outcome = Result<QueuedAppend, (AppendError, OneshotSender<AppendResult>)>;
/// Where it waits for its turn; empty as long as a helper works on it.
type Place = Rc<RefCell<Option<Outcome>>>;

/// Appends of a partition that a helper thread works on, and those that came after them.
#[derive(Debug, Default)]
pub(super) struct Intakes(RefCell<VecDeque<Place>>);

impl Intakes {
    pub(super) fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    fn push(&self, outcome: Option<Outcome>) -> Place {
        let place = Rc::new(RefCell::new(outcome));
        self.0.borrow_mut().push_back(place.clone());
        place
    }

    /// The first, if it is ready.
    fn take_ready(&self) -> Option<Outcome> {
        let mut queue = self.0.borrow_mut();
        let outcome = queue.front()?.borrow_mut().take()?;
        queue.pop_front();
        if queue.is_empty() {
            // An idle partition keeps no memory for it.
            *queue = VecDeque::new();
        }
        Some(outcome)
    }
}

impl<R: Runtime> LogStore<R> {
    /// Checks an append and brings it to the log: in this call, unless it or one before it takes long.
    pub(super) fn take_in(
        self: &Rc<Self>,
        partition: Rc<Partition>,
        payload: Payload<BytesMut>,
        origin: AppendOrigin,
        sender: OneshotSender<AppendResult>,
    ) {
        let (records, txn) = match payload {
            Payload::Batches(records, txn) => (records, txn),
            Payload::Marker(marker) => {
                let (payload, entered) = (Payload::Marker(marker), Monotonic::default());
                return self.in_turn(&partition, Ok(QueuedAppend { payload, origin, entered, sender }));
            }
        };
        let (config, topic) = {
            let spec = partition.spec.borrow();
            (spec.config.clone(), spec.topic.clone())
        };
        let (index, own, now_ms) = (partition.id.index.0, txn.by_coordinator, origin.now_ms);
        let intake = Intake { config: &config, topic: &topic, partition: index, now_ms, own };
        if !intake.is_heavy(&records) {
            return self.in_turn(&partition, outcome(intake.accept(records), txn, origin, sender));
        }
        let place = partition.intakes.push(None);
        let store = self.clone();
        let _detached = self.rt.spawn(TaskGroup::Requests, "take in", async move {
            let work = move || Intake { config: &config, topic: &topic, partition: index, now_ms, own }.accept(records);
            let failed = |_| Refused::new(ErrorCode::UnknownServerError, "the records could not be compressed anew");
            let result = store.options.helpers.run(work).await.map_err(failed).and_then(|result| result);
            *place.borrow_mut() = Some(outcome(result, txn, origin, sender));
            while let Some(mut outcome) = partition.intakes.take_ready() {
                outcome.iter_mut().for_each(|append| append.entered = store.rt.now());
                store.settle_intake(&partition, outcome);
            }
        });
    }

    /// True if these records are not taken in the call.
    pub(super) fn needs_helper(partition: &Partition, records: &[u8]) -> bool {
        let spec = partition.spec.borrow();
        let (topic, partition_index) = (&spec.topic, partition.id.index.0);
        let intake = Intake { config: &spec.config, topic, partition: partition_index, now_ms: 0, own: false };
        !partition.intakes.is_empty() || intake.is_heavy(records)
    }

    /// What needs no helper waits only for what came before it.
    fn in_turn(self: &Rc<Self>, partition: &Rc<Partition>, outcome: Outcome) {
        if partition.intakes.is_empty() {
            self.settle_intake(partition, outcome);
        } else {
            partition.intakes.push(Some(outcome));
        }
    }

    fn settle_intake(self: &Rc<Self>, partition: &Rc<Partition>, outcome: Outcome) {
        match outcome {
            Ok(append) => self.append_taken(partition.clone(), append),
            Err((error, sender)) => sender.send(Err(error)),
        }
    }
}

fn outcome(
    result: Result<Accepted, Refused>,
    txn: TxnAppend,
    origin: AppendOrigin,
    sender: OneshotSender<AppendResult>,
) -> Outcome {
    match result {
        Ok(accepted) => {
            let (payload, entered) = (Payload::Batches(accepted, txn), Monotonic::default());
            Ok(QueuedAppend { payload, origin, entered, sender })
        }
        Err(Refused { code, message, record_errors }) => Err((AppendError { code, message, record_errors }, sender)),
    }
}
