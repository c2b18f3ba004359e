//! One coordinator, those who wait for it, and the batches that its records gather in. No I/O, no clock.

use super::ask::Asker;
use crate::error_code::ErrorCode;
use crate::groups::coordinator::Coordinator;
use crate::groups::{Effects, Event, Now, Record, Response, Token, Topics};
use crate::ids::{LeaderEpoch, Offset, PartitionId};
use crate::log::batch::{BatchBuilder, HEADER_LEN};
use bytes::BytesMut;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};

/// Record bytes after which a batch is closed, and the next step's records go into another; fewer where the topic's
/// `max.message.bytes` is less. A single step may make more: its batch is what it is, and the topic judges it.
const BATCH_BYTES: usize = 512 << 10;
/// What a record takes in a batch besides key and value, at most.
const RECORD_OVERHEAD: usize = 32;

/// An answer that may go out.
pub(super) type Ready = (Token, Asker, Response);

/// What came of a step.
pub(super) struct Stepped {
    /// Answers that wait for nothing.
    pub(super) ready: Vec<Ready>,
    /// There is a batch to write, and nobody writes.
    pub(super) write: bool,
}

/// A partition of `__consumer_offsets` that this shard owns.
pub(super) struct Hosted {
    pub(super) id: PartitionId,
    state: RefCell<State>,
    /// The coordinator's next deadline, in monotonic milliseconds.
    deadline: Cell<Option<i64>>,
    /// Record bytes that the steps of several may take together in one batch.
    batch_bytes: Cell<usize>,
}

enum State {
    Loading,
    Active(Box<Active>),
    /// Not of this shard any more.
    Closed,
}

struct Active {
    coordinator: Coordinator,
    /// Questions that the coordinator has not answered yet. A token is here, or its answer is in a batch, or it is gone.
    waiting: HashMap<Token, Asker>,
    /// Batches that wait for their turn. Only the last takes more records.
    batches: VecDeque<Batch>,
    /// Answers that wait for the batch on its way to the disk; none when there is none on its way.
    in_flight: Option<Vec<Ready>>,
    /// Somebody writes, or is about to.
    writing: bool,
}

struct Batch {
    builder: BatchBuilder,
    bytes: usize,
    answers: Vec<Ready>,
}

impl Hosted {
    /// A partition whose coordinator is not loaded.
    pub(super) fn new(id: PartitionId) -> Self {
        let batch_bytes = Cell::new(BATCH_BYTES);
        Self { id, state: RefCell::new(State::Loading), deadline: Cell::new(None), batch_bytes }
    }

    /// The topic takes batches up to `max_message_bytes`.
    pub(super) fn limit_batches(&self, max_message_bytes: usize) {
        self.batch_bytes.set(BATCH_BYTES.min(max_message_bytes.saturating_sub(HEADER_LEN)));
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        self.deadline.get()
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed)
    }

    /// The coordinator is loaded, and had these effects. None if it is not wanted any more.
    pub(super) fn activate(&self, coordinator: Coordinator, wall_ms: i64, effects: Effects) -> Option<Stepped> {
        let mut state = self.state.borrow_mut();
        if !matches!(*state, State::Loading) {
            return None;
        }
        self.deadline.set(coordinator.next_deadline());
        let mut active = Box::new(Active {
            coordinator,
            waiting: HashMap::new(),
            batches: VecDeque::new(),
            in_flight: None,
            writing: false,
        });
        let stepped = active.take(wall_ms, effects, self.batch_bytes.get());
        *state = State::Active(active);
        Some(stepped)
    }

    /// Notes who asks, before the step that takes the question.
    pub(super) fn wait(&self, token: Token, asker: Asker) -> Result<(), (Asker, ErrorCode)> {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => {
                let before = active.waiting.insert(token, asker);
                assert!(before.is_none(), "a token is given once");
                Ok(())
            }
            State::Loading => Err((asker, ErrorCode::CoordinatorLoadInProgress)),
            State::Closed => Err((asker, ErrorCode::NotCoordinator)),
        }
    }

    /// The asker is gone. True if the coordinator has not answered yet.
    pub(super) fn forget(&self, token: Token) -> bool {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => active.waiting.remove(&token).is_some(),
            _ => false,
        }
    }

    /// A step of the coordinator; none if it is not loaded.
    pub(super) fn step(&self, now: Now, topics: &dyn Topics, event: Event) -> Option<Stepped> {
        let mut state = self.state.borrow_mut();
        let State::Active(active) = &mut *state else { return None };
        let mut effects = Effects::default();
        active.coordinator.step(now, topics, event, &mut effects);
        self.deadline.set(active.coordinator.next_deadline());
        Some(active.take(now.wall_ms, effects, self.batch_bytes.get()))
    }

    /// The next batch, which the caller writes; none when there is none, or the coordinator is gone: the caller is done.
    pub(super) fn next_batch(&self) -> Option<BytesMut> {
        let mut state = self.state.borrow_mut();
        let State::Active(active) = &mut *state else { return None };
        assert!(active.in_flight.is_none(), "one batch is on its way at a time");
        match active.batches.pop_front() {
            Some(batch) => {
                active.in_flight = Some(batch.answers);
                let bytes = batch.builder.build(Offset(0), LeaderEpoch(0));
                Some(BytesMut::from(bytes::Bytes::from(bytes)))
            }
            None => {
                active.writing = false;
                None
            }
        }
    }

    /// The batch on its way is committed: the answers that waited for it.
    pub(super) fn committed(&self) -> Vec<Ready> {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => active.in_flight.take().expect("a batch was on its way"),
            _ => Vec::new(),
        }
    }

    /// The log refused records: forgets everything. Those who wait; none if it was not loaded.
    pub(super) fn unload(&self) -> Option<Vec<(Token, Asker)>> {
        let mut state = self.state.borrow_mut();
        if !matches!(*state, State::Active(_)) {
            return None;
        }
        let State::Active(active) = std::mem::replace(&mut *state, State::Loading) else { unreachable!("just seen") };
        self.deadline.set(None);
        Some(active.askers())
    }

    /// The partition is of this shard no more. Those who wait.
    pub(super) fn close(&self) -> Vec<(Token, Asker)> {
        self.deadline.set(None);
        match std::mem::replace(&mut *self.state.borrow_mut(), State::Closed) {
            State::Active(active) => active.askers(),
            _ => Vec::new(),
        }
    }
}

impl Active {
    fn take(&mut self, wall_ms: i64, effects: Effects, batch_bytes: usize) -> Stepped {
        let Effects { records, answers } = effects;
        if !records.is_empty() {
            self.gather(wall_ms, &records, batch_bytes);
        }
        let mut ready: Vec<Ready> = Vec::with_capacity(answers.len());
        for (token, response) in answers {
            // Those whose askers are gone are nobody's.
            ready.extend(self.waiting.remove(&token).map(|asker| (token, asker, response)));
        }
        // Nothing is answered before the records made before it are committed.
        let after = match (self.batches.back_mut(), &mut self.in_flight) {
            (Some(batch), _) => Some(&mut batch.answers),
            (None, in_flight) => in_flight.as_mut(),
        };
        if let Some(after) = after {
            after.append(&mut ready);
        }
        let write = !self.batches.is_empty() && !std::mem::replace(&mut self.writing, true);
        Stepped { ready, write }
    }

    /// Puts the records of one step into one batch.
    fn gather(&mut self, wall_ms: i64, records: &[Record], batch_bytes: usize) {
        let bytes: usize =
            records.iter().map(|r| r.key.len() + r.value.as_ref().map_or(0, |v| v.len()) + RECORD_OVERHEAD).sum();
        if self.batches.back().is_none_or(|batch| batch.bytes + bytes > batch_bytes) {
            self.batches.push_back(Batch { builder: BatchBuilder::default(), bytes: 0, answers: Vec::new() });
        }
        let batch = self.batches.back_mut().expect("just seen to");
        batch.bytes += bytes;
        for record in records {
            batch.builder.push(wall_ms, Some(&record.key), record.value.as_deref());
        }
    }

    fn askers(self) -> Vec<(Token, Asker)> {
        let in_batches = self.batches.into_iter().flat_map(|batch| batch.answers);
        let answered = self.in_flight.into_iter().flatten().chain(in_batches);
        let mut askers: Vec<_> = answered.map(|(token, asker, _)| (token, asker)).collect();
        askers.extend(self.waiting);
        // In an order that does not depend on the hash's seed.
        askers.sort_by_key(|(token, _)| *token);
        askers
    }
}
