//! One coordinator, those who wait for it, and the batches that its records gather in. No I/O, no clock.

use super::ask::Asker;
use super::kind::{EffectsOf, Kind};
use crate::coordinator::{Effects, InTransaction, Now, Record, Token};
use crate::error_code::ErrorCode;
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
/// The attribute of a batch that is of a transaction.
const TRANSACTIONAL: i16 = 0x10;

/// What may go out.
pub(super) enum Ready<K: Kind> {
    /// An answer.
    Answer(Token, Asker<K::Response>, K::Response),
    /// What is to be done.
    Order(K::Order),
}

/// What came of a step.
pub(super) struct Stepped<K: Kind> {
    /// What waits for nothing.
    pub(super) ready: Vec<Ready<K>>,
    /// There is a batch to write, and nobody writes.
    pub(super) write: bool,
}

/// A partition of the topic that this shard owns.
pub(super) struct Hosted<K: Kind> {
    pub(super) id: PartitionId,
    pub(super) leader_epoch: i32,
    state: RefCell<State<K>>,
    /// The coordinator's next deadline, in monotonic milliseconds.
    deadline: Cell<Option<i64>>,
    /// Record bytes that the steps of several may take together in one batch.
    batch_bytes: Cell<usize>,
}

enum State<K: Kind> {
    /// With what happened meanwhile and must not be missed.
    Loading(Vec<K::Event>),
    Active(Box<Active<K>>),
    /// Not of this shard any more.
    Closed,
}

struct Active<K: Kind> {
    machine: K::Machine,
    /// Questions that the machine has not answered yet. A token is here, or its answer is in a batch, or it is gone.
    waiting: HashMap<Token, Asker<K::Response>>,
    /// Batches that wait for their turn. Only the last takes more records.
    batches: VecDeque<Batch<K>>,
    /// What waits for the batches on their way to the disk, one after the other.
    in_flight: VecDeque<Vec<Ready<K>>>,
    /// Somebody writes, or is about to.
    writing: bool,
}

struct Batch<K: Kind> {
    builder: BatchBuilder,
    transaction: Option<InTransaction>,
    bytes: usize,
    after: Vec<Ready<K>>,
}

/// A batch for the log.
pub(super) struct Write {
    pub(super) records: BytesMut,
    /// Whose transaction it is of.
    pub(super) transaction: Option<InTransaction>,
}

impl<K: Kind> Hosted<K> {
    /// A partition whose machine is not loaded.
    pub(super) fn new(id: PartitionId, leader_epoch: i32) -> Self {
        let (state, deadline) = (RefCell::new(State::Loading(Vec::new())), Cell::new(None));
        Self { id, leader_epoch, state, deadline, batch_bytes: Cell::new(BATCH_BYTES) }
    }

    /// The topic takes batches up to `max_message_bytes`.
    pub(super) fn limit_batches(&self, max_message_bytes: usize) {
        self.batch_bytes.set(BATCH_BYTES.min(max_message_bytes.saturating_sub(HEADER_LEN)));
    }

    /// Shows the machine, if it is loaded.
    pub(super) fn look(&self, look: impl FnOnce(&K::Machine)) {
        if let State::Active(active) = &*self.state.borrow() {
            look(&active.machine);
        }
    }

    pub(super) fn deadline(&self) -> Option<i64> {
        self.deadline.get()
    }

    pub(super) fn is_closed(&self) -> bool {
        matches!(*self.state.borrow(), State::Closed)
    }

    /// The machine is loaded, and had these effects. With them, what happened while it was loaded; none if it is not
    /// wanted any more.
    pub(super) fn activate(
        &self,
        machine: K::Machine,
        wall_ms: i64,
        effects: EffectsOf<K>,
    ) -> Option<(Stepped<K>, Vec<K::Event>)> {
        let mut state = self.state.borrow_mut();
        let State::Loading(missed) = &mut *state else { return None };
        let missed = std::mem::take(missed);
        self.deadline.set(K::next_deadline(&machine));
        let mut active = Box::new(Active {
            machine,
            waiting: HashMap::new(),
            batches: VecDeque::new(),
            in_flight: VecDeque::new(),
            writing: false,
        });
        let stepped = active.take(wall_ms, effects, self.batch_bytes.get());
        *state = State::Active(active);
        Some((stepped, missed))
    }

    /// Notes who asks, before the step that takes the question.
    pub(super) fn wait(&self, token: Token, asker: Asker<K::Response>) -> Result<(), (Asker<K::Response>, ErrorCode)> {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => {
                let before = active.waiting.insert(token, asker);
                assert!(before.is_none(), "a token is given once");
                Ok(())
            }
            State::Loading(_) => Err((asker, ErrorCode::CoordinatorLoadInProgress)),
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

    /// A step of the machine; none if it is not loaded.
    pub(super) fn step(&self, kind: &K, now: Now, event: K::Event) -> Option<Stepped<K>> {
        let mut state = self.state.borrow_mut();
        let State::Active(active) = &mut *state else { return None };
        let mut effects = Effects::default();
        kind.step(&mut active.machine, now, event, &mut effects);
        self.deadline.set(K::next_deadline(&active.machine));
        Some(active.take(now.wall_ms, effects, self.batch_bytes.get()))
    }

    /// Keeps an event for when the machine is loaded; gives it back if it is not being loaded.
    pub(super) fn keep(&self, event: K::Event) -> Option<K::Event> {
        match &mut *self.state.borrow_mut() {
            State::Loading(missed) => {
                missed.push(event);
                None
            }
            _ => Some(event),
        }
    }

    /// The next batches, which the caller writes, one after the other without waiting in between; none when there are
    /// none, or the machine is gone: the caller is done.
    ///
    /// Several only of transactions: the log may refuse one of them, and what the others say stands nevertheless. And of what
    /// came of batches that the log has taken ([`Self::last_given`]).
    pub(super) fn next_batches(&self) -> Vec<Write> {
        let mut state = self.state.borrow_mut();
        let State::Active(active) = &mut *state else { return Vec::new() };
        let mut writes: Vec<Write> = Vec::new();
        while let Some(batch) = active.batches.front() {
            if writes.last().is_some_and(|before| before.transaction.is_none() || batch.transaction.is_none()) {
                break;
            }
            let batch = active.batches.pop_front().expect("just seen");
            active.in_flight.push_back(batch.after);
            let bytes = batch.builder.build(Offset(0), LeaderEpoch(0));
            let records = BytesMut::from(bytes::Bytes::from(bytes));
            writes.push(Write { records, transaction: batch.transaction });
        }
        active.writing = !active.in_flight.is_empty();
        writes
    }

    /// What waits for the batch that the log was given last; to be [put back](Self::put_back) as far as it has to wait on.
    pub(super) fn last_given(&self) -> Vec<Ready<K>> {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => active.in_flight.back_mut().map(std::mem::take).unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// See [`Self::last_given`].
    pub(super) fn put_back(&self, mut ready: Vec<Ready<K>>) {
        if let State::Active(active) = &mut *self.state.borrow_mut()
            && let Some(last) = active.in_flight.back_mut()
        {
            ready.append(last);
            *last = ready;
        }
    }

    /// The first batch on its way is committed: what waited for it.
    pub(super) fn committed(&self) -> Vec<Ready<K>> {
        match &mut *self.state.borrow_mut() {
            State::Active(active) => active.in_flight.pop_front().expect("a batch was on its way"),
            _ => Vec::new(),
        }
    }

    /// The log refused records: forgets everything. Those who wait; none if it was not loaded.
    pub(super) fn unload(&self) -> Option<Vec<(Token, Asker<K::Response>)>> {
        let mut state = self.state.borrow_mut();
        if !matches!(*state, State::Active(_)) {
            return None;
        }
        let State::Active(active) = std::mem::replace(&mut *state, State::Loading(Vec::new())) else {
            unreachable!("just seen")
        };
        self.deadline.set(None);
        Some(active.askers())
    }

    /// The partition is of this shard no more. Those who wait.
    pub(super) fn close(&self) -> Vec<(Token, Asker<K::Response>)> {
        self.deadline.set(None);
        match std::mem::replace(&mut *self.state.borrow_mut(), State::Closed) {
            State::Active(active) => active.askers(),
            _ => Vec::new(),
        }
    }
}

impl<K: Kind> Active<K> {
    fn take(&mut self, wall_ms: i64, effects: EffectsOf<K>, batch_bytes: usize) -> Stepped<K> {
        let Effects { records, transaction, answers, orders } = effects;
        if !records.is_empty() {
            self.gather(wall_ms, &records, transaction, batch_bytes);
        }
        let mut ready: Vec<Ready<K>> = Vec::with_capacity(answers.len() + orders.len());
        for (token, response) in answers {
            // Those whose askers are gone are nobody's.
            ready.extend(self.waiting.remove(&token).map(|asker| Ready::Answer(token, asker, response)));
        }
        ready.extend(orders.into_iter().map(Ready::Order));
        // Nothing goes out before the records made before it are committed.
        let after = match (self.batches.back_mut(), &mut self.in_flight) {
            (Some(batch), _) => Some(&mut batch.after),
            (None, in_flight) => in_flight.back_mut(),
        };
        if let Some(after) = after {
            after.append(&mut ready);
        }
        let write = !self.batches.is_empty() && !std::mem::replace(&mut self.writing, true);
        Stepped { ready, write }
    }

    /// Puts the records of one step into one batch: of a transaction, into one of their own.
    fn gather(&mut self, wall_ms: i64, records: &[Record], transaction: Option<InTransaction>, batch_bytes: usize) {
        let bytes: usize =
            records.iter().map(|r| r.key.len() + r.value.as_ref().map_or(0, |v| v.len()) + RECORD_OVERHEAD).sum();
        let joins = |batch: &Batch<K>| {
            transaction.is_none() && batch.transaction.is_none() && batch.bytes + bytes <= batch_bytes
        };
        if !self.batches.back().is_some_and(joins) {
            let builder = BatchBuilder::default();
            let builder = match &transaction {
                Some(of) => builder.producer(of.producer_id, of.producer_epoch, -1).attributes(TRANSACTIONAL),
                None => builder,
            };
            self.batches.push_back(Batch { builder, transaction, bytes: 0, after: Vec::new() });
        }
        let batch = self.batches.back_mut().expect("just seen to");
        batch.bytes += bytes;
        for record in records {
            batch.builder.push(wall_ms, Some(&record.key), record.value.as_deref());
        }
    }

    fn askers(self) -> Vec<(Token, Asker<K::Response>)> {
        let in_batches = self.batches.into_iter().flat_map(|batch| batch.after);
        let answered = self.in_flight.into_iter().flatten().chain(in_batches).filter_map(|ready| match ready {
            Ready::Answer(token, asker, _) => Some((token, asker)),
            Ready::Order(_) => None,
        });
        let mut askers: Vec<_> = answered.chain(self.waiting).collect();
        askers.sort_by_key(|(token, _)| *token);
        askers
    }
}
