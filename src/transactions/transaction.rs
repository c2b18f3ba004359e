//! One transactional id: who produces under it, and how far its transaction is.

use super::{Order, Producer, TopicPartition};
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// No producer.
pub const NO_ID: ProducerId = ProducerId(-1);
/// No epoch.
pub const NO_EPOCH: ProducerEpoch = ProducerEpoch(-1);
/// The last epoch that a client is given: one is left to fence it with.
pub const LAST_EPOCH: ProducerEpoch = ProducerEpoch(i16::MAX - 1);

/// How far a transaction is. Numbers and names are Kafka's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// There was none since the producer came.
    Empty,
    /// Partitions have been added.
    Ongoing,
    /// It will be committed; markers are written.
    PrepareCommit,
    /// It will be aborted; markers are written.
    PrepareAbort,
    /// It was committed.
    CompleteCommit,
    /// It was aborted.
    CompleteAbort,
    /// The id has expired: never in memory, where it goes at once.
    Dead,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Empty,
        Self::Ongoing,
        Self::PrepareCommit,
        Self::PrepareAbort,
        Self::CompleteCommit,
        Self::CompleteAbort,
        Self::Dead,
    ];

    /// As in a record.
    #[must_use]
    pub const fn status(self) -> i8 {
        self as i8
    }

    /// From a record.
    #[must_use]
    pub fn from_status(status: i8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.status() == status)
    }

    /// Kafka's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "Empty",
            Self::Ongoing => "Ongoing",
            Self::PrepareCommit => "PrepareCommit",
            Self::PrepareAbort => "PrepareAbort",
            Self::CompleteCommit => "CompleteCommit",
            Self::CompleteAbort => "CompleteAbort",
            Self::Dead => "Dead",
        }
    }

    /// The end is decided, and not everybody knows.
    #[must_use]
    pub const fn is_prepared(self) -> bool {
        matches!(self, Self::PrepareCommit | Self::PrepareAbort)
    }

    /// Nothing is under way.
    #[must_use]
    pub const fn is_idle(self) -> bool {
        matches!(self, Self::Empty | Self::CompleteCommit | Self::CompleteAbort)
    }

    const fn prepared(commit: bool) -> Self {
        if commit { Self::PrepareCommit } else { Self::PrepareAbort }
    }
}

/// What an EndTxn comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The transaction, with or without partitions, is to end so.
    Prepare,
    /// It has ended so: the answer was lost.
    Done,
    /// It ends so, and has not ended yet.
    Wait,
}

/// See the [module](self).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Who produces; an epoch of -1 before the first InitProducerId is through.
    pub producer: Producer,
    /// The id before the last change of anything, or [`NO_ID`].
    pub previous_id: ProducerId,
    /// While a transaction ends that used up the epochs: the id that comes next.
    pub next_id: ProducerId,
    /// The epoch before, if its owner may still ask again for what it was not told. Not written down.
    pub last_epoch: ProducerEpoch,
    /// How long a transaction may last.
    pub timeout_ms: i32,
    /// How far it is.
    pub state: State,
    /// Its partitions; none unless it is ongoing or prepared.
    pub partitions: BTreeMap<Arc<str>, BTreeSet<i32>>,
    /// When it began, in wall milliseconds; -1 if none did.
    pub start_ms: i64,
    /// When anything changed, in wall milliseconds.
    pub last_update_ms: i64,
    /// `transaction.version` of the client that it was begun or ended by: 0 or 2.
    pub client_version: i16,
}

impl Transaction {
    /// Of an id that nobody has used.
    #[must_use]
    pub fn new(id: ProducerId, timeout_ms: i32, now_ms: i64) -> Self {
        Self {
            producer: Producer { id, epoch: NO_EPOCH },
            previous_id: NO_ID,
            next_id: NO_ID,
            last_epoch: NO_EPOCH,
            timeout_ms,
            state: State::Empty,
            partitions: BTreeMap::new(),
            start_ms: -1,
            last_update_ms: now_ms,
            client_version: 0,
        }
    }

    /// No client is given a higher epoch of this id.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.producer.epoch >= LAST_EPOCH
    }

    /// What the producer is from now on, when it begins (anew); `fresh` is for when its epochs are used up.
    ///
    /// # Errors
    /// `PRODUCER_FENCED`. `Ok(None)`: a fresh id is needed.
    pub fn init(
        &mut self,
        expected: Option<Producer>,
        fresh: Option<ProducerId>,
        timeout_ms: i32,
        now_ms: i64,
    ) -> Result<Option<Producer>, ErrorCode> {
        assert!(self.state.is_idle(), "the transaction before has ended");
        let before = self.producer;
        let (next, last_epoch) = match expected {
            Some(expected) if self.is_exhausted() && expected.epoch != before.epoch => {
                return Err(ErrorCode::ProducerFenced);
            }
            _ if self.is_exhausted() => {
                let Some(id) = fresh else { return Ok(None) };
                let last = if expected.is_some() { before.epoch } else { NO_EPOCH };
                (Producer { id, epoch: ProducerEpoch(0) }, last)
            }
            None => (self.bumped(), NO_EPOCH),
            Some(expected) if before.epoch == NO_EPOCH || expected.epoch == before.epoch => {
                (self.bumped(), before.epoch)
            }
            // Asked again: the answer was lost.
            Some(expected) if expected.epoch == self.last_epoch => (before, self.last_epoch),
            Some(_) => return Err(ErrorCode::ProducerFenced),
        };
        self.enter(State::Empty, now_ms);
        self.producer = next;
        self.last_epoch = last_epoch;
        self.timeout_ms = timeout_ms;
        self.start_ms = -1;
        Ok(Some(next))
    }

    /// Whether a producer that says who it was may go on as such.
    #[must_use]
    pub fn knows(&self, expected: Producer) -> bool {
        self.producer.epoch == NO_EPOCH
            || expected.id == self.producer.id
            || (expected.id == self.previous_id && expected.epoch >= LAST_EPOCH)
    }

    /// Adds partitions, and begins with the first.
    pub fn add(&mut self, partitions: &[TopicPartition], v2: bool, now_ms: i64) {
        assert!(self.state.is_idle() || self.state == State::Ongoing, "nothing is added to what ends");
        if self.state.is_idle() {
            self.start_ms = now_ms;
        }
        self.enter(State::Ongoing, now_ms);
        self.client_version = version(v2);
        for (topic, index) in partitions {
            match self.partitions.get_mut(topic) {
                Some(indexes) => {
                    indexes.insert(*index);
                }
                None => {
                    self.partitions.insert(topic.clone(), BTreeSet::from([*index]));
                }
            }
        }
    }

    /// Whether a partition is in the transaction that is going on.
    #[must_use]
    pub fn has(&self, (topic, index): &TopicPartition) -> bool {
        self.state == State::Ongoing && self.partitions.get(topic).is_some_and(|indexes| indexes.contains(index))
    }

    /// What EndTxn of a client whose epoch stays over transactions comes to.
    ///
    /// # Errors
    /// `INVALID_PRODUCER_ID_MAPPING`, `PRODUCER_FENCED`, `INVALID_TXN_STATE`.
    pub fn ending(&self, producer: Producer, commit: bool) -> Result<Ending, ErrorCode> {
        if producer.id != self.producer.id {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        if producer.epoch != self.producer.epoch {
            return Err(ErrorCode::ProducerFenced);
        }
        match (self.state, commit) {
            (State::Ongoing, _) => Ok(Ending::Prepare),
            (State::CompleteCommit, true) | (State::CompleteAbort, false) => Ok(Ending::Done),
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => Ok(Ending::Wait),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// As [`Transaction::ending`], of a client whose epoch grows with every transaction: an epoch less than the current one
    /// tells that it asks again (KIP-890).
    ///
    /// # Errors
    /// As [`Transaction::ending`].
    pub fn ending_v2(&self, producer: Producer, commit: bool) -> Result<Ending, ErrorCode> {
        let current = self.producer;
        // An epoch beyond the last one that clients are given, and no id after it: somebody was fenced by it.
        let fenced = current.epoch.0 == i16::MAX && self.next_id == NO_ID;
        let bumped = producer.epoch.0.checked_add(1) == Some(current.epoch.0) && !fenced;
        let rotated = producer.id == self.previous_id && producer.epoch == LAST_EPOCH && current.epoch.0 == 0;
        if producer.id != current.id && !rotated {
            return Err(ErrorCode::InvalidProducerIdMapping);
        }
        let again = bumped || rotated;
        let valid = match self.state {
            State::Ongoing | State::Empty | State::Dead => producer == current,
            State::PrepareCommit | State::PrepareAbort => bumped,
            State::CompleteCommit | State::CompleteAbort => again || producer == current,
        };
        if !valid {
            return Err(ErrorCode::ProducerFenced);
        }
        match (self.state, commit) {
            (State::Ongoing, _) | (State::Empty, false) => Ok(Ending::Prepare),
            (State::CompleteCommit, true) | (State::CompleteAbort, false) if again => Ok(Ending::Done),
            // An abort before anything was added.
            (State::CompleteCommit | State::CompleteAbort, false) if !again => Ok(Ending::Prepare),
            (State::PrepareCommit, true) | (State::PrepareAbort, false) => Ok(Ending::Wait),
            _ => Err(ErrorCode::InvalidTxnState),
        }
    }

    /// Decides the end. `fresh` is the id that comes next where the epochs are used up.
    pub fn prepare(&mut self, commit: bool, v2: bool, fresh: Option<ProducerId>, now_ms: i64) {
        if v2 {
            self.last_epoch = self.producer.epoch;
            self.next_id = fresh.filter(|_| self.is_exhausted()).unwrap_or(NO_ID);
            self.producer = self.bumped();
        }
        if self.state != State::Ongoing {
            self.start_ms = now_ms;
        }
        self.client_version = version(v2);
        self.enter(State::prepared(commit), now_ms);
    }

    /// Decides to abort without the producer, whose epoch is of the past from now on.
    pub fn fence(&mut self, now_ms: i64) {
        assert_eq!(self.state, State::Ongoing, "there is something to abort");
        // By one, as Kafka: a producer of version 2 whose transaction took too long may abort it and go on; whoever was
        // followed by another finds the epoch after that.
        self.producer = self.bumped();
        self.last_epoch = NO_EPOCH;
        self.enter(State::PrepareAbort, now_ms);
    }

    /// Everybody knows the end.
    pub fn complete(&mut self, now_ms: i64) {
        let next = match self.state {
            State::PrepareCommit => State::CompleteCommit,
            State::PrepareAbort => State::CompleteAbort,
            other => unreachable!("the end of a transaction in state {} was not decided", other.name()),
        };
        self.enter(next, now_ms);
        self.partitions.clear();
        if self.next_id != NO_ID {
            self.producer = Producer { id: self.next_id, epoch: ProducerEpoch(0) };
            self.next_id = NO_ID;
        }
    }

    /// Who the producer is once the end that is decided has come.
    #[must_use]
    pub fn after_end(&self) -> Producer {
        match self.next_id {
            NO_ID => self.producer,
            id => Producer { id, epoch: ProducerEpoch(0) },
        }
    }

    /// The markers to write.
    #[must_use]
    pub fn order(&self, id: &Arc<str>, coordinator_epoch: i32) -> Order {
        assert!(self.state.is_prepared(), "the end is decided");
        let partitions = self.partitions.iter();
        Order {
            id: Arc::clone(id),
            producer: self.producer,
            v2: self.client_version >= 2,
            coordinator_epoch,
            commit: self.state == State::PrepareCommit,
            partitions: partitions
                .flat_map(|(topic, all)| all.iter().map(|index| (Arc::clone(topic), *index)))
                .collect(),
        }
    }

    fn enter(&mut self, state: State, now_ms: i64) {
        // As Kafka writes it: who it was before this change.
        self.previous_id = self.producer.id;
        self.state = state;
        // The wall clock may go back.
        self.last_update_ms = self.last_update_ms.max(now_ms);
        if state == State::Empty {
            self.partitions.clear();
        }
    }

    fn bumped(&self) -> Producer {
        Producer { id: self.producer.id, epoch: ProducerEpoch(self.producer.epoch.0.saturating_add(1)) }
    }
}

/// `transaction.version` as records have it.
const fn version(v2: bool) -> i16 {
    if v2 { 2 } else { 0 }
}
