//! The coordinator of one partition of `__transaction_state`: events, requests, deadlines.
//!
//! A request that comes while the transaction before is being completed is kept until it is, for up to
//! [`TransactionsConfig::patience_ms`]: Kafka answers `CONCURRENT_TRANSACTIONS` at once, and its clients wait 20 ms or more
//! before they ask again for what takes one or two.

use super::queries::{Described, Listed};
use super::records::{self, ReplayError};
use super::transaction::{Ending, State, Transaction};
use super::{Effects, Event, Now, Producer, Record, Request, Response, Token, TopicPartition};
use crate::error_code::ErrorCode;
use crate::ids::ProducerId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ids that one step of a sweep takes away at most.
const SWEEP_MAX: usize = 500;

/// The settings of transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionsConfig {
    /// `transaction.max.timeout.ms`.
    pub max_timeout_ms: i32,
    /// `transactional.id.expiration.ms`.
    pub id_expiration_ms: i64,
    /// `transaction.remove.expired.transaction.cleanup.interval.ms`.
    pub sweep_interval_ms: i64,
    /// How long a request waits for the end of the transaction before.
    pub patience_ms: i64,
}

impl Default for TransactionsConfig {
    /// As Kafka.
    fn default() -> Self {
        Self {
            max_timeout_ms: 900_000,
            id_expiration_ms: 604_800_000,
            sweep_interval_ms: 3_600_000,
            patience_ms: 1_000,
        }
    }
}

/// What comes due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// A transaction has lasted long enough.
    Timeout,
    /// Nobody is kept waiting longer.
    Patience,
}

/// A request that waits for the end of the transaction before.
#[derive(Debug)]
struct Parked {
    token: Token,
    request: Request,
    until_ms: i64,
}

#[derive(Debug)]
struct Entry {
    txn: Transaction,
    /// When it times out. Invariant: set exactly while the transaction is ongoing, once loaded; and in `deadlines`.
    timeout_at: Option<i64>,
    /// In the order in which they came. Invariant: there are none unless the transaction is prepared.
    parked: Vec<Parked>,
}

/// What becomes of a request.
enum Verdict {
    Answer(Response),
    /// It is asked again when the transaction is complete.
    Wait,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Coordinator {
    config: TransactionsConfig,
    /// The epoch of the partition's leader, which markers name.
    coordinator_epoch: i32,
    entries: BTreeMap<Arc<str>, Entry>,
    /// In monotonic milliseconds.
    deadlines: BTreeSet<(i64, Due, Arc<str>)>,
    /// When ids are looked through for those that have expired.
    next_sweep_ms: Option<i64>,
}

impl Coordinator {
    /// Without ids.
    #[must_use]
    pub fn new(config: TransactionsConfig, coordinator_epoch: i32) -> Self {
        Self { config, coordinator_epoch, entries: BTreeMap::new(), deadlines: BTreeSet::new(), next_sweep_ms: None }
    }

    /// Takes a record of the partition, in the order of the log.
    ///
    /// # Errors
    /// The record cannot be understood.
    pub fn replay(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), ReplayError> {
        let Some(id) = records::decode_key(key)? else { return Ok(()) };
        match value {
            Some(value) => {
                let txn = records::decode(value)?;
                self.entries.insert(id, Entry { txn, timeout_at: None, parked: Vec::new() });
            }
            None => {
                self.entries.remove(&id);
            }
        }
        Ok(())
    }

    /// The partition is read to its end: what was to be ended is ended, what goes on times out when it would have.
    pub fn loaded(&mut self, now: Now, effects: &mut Effects) {
        self.entries.retain(|_, entry| entry.txn.state != State::Dead);
        for (id, entry) in &mut self.entries {
            match entry.txn.state {
                State::Ongoing => {
                    let end_ms = entry.txn.start_ms.saturating_add(i64::from(entry.txn.timeout_ms));
                    let left_ms = end_ms.saturating_sub(now.wall_ms).clamp(0, i64::from(entry.txn.timeout_ms.max(0)));
                    set_timeout(&mut self.deadlines, id, entry, Some(now.monotonic_ms + left_ms));
                }
                state if state.is_prepared() => effects.orders.push(entry.txn.order(id, self.coordinator_epoch)),
                _ => {}
            }
        }
        self.next_sweep_ms = Some(now.monotonic_ms + self.config.sweep_interval_ms);
    }

    /// The states of all transactional ids.
    pub fn states(&self) -> impl Iterator<Item = State> + '_ {
        self.entries.values().map(|entry| entry.txn.state)
    }

    /// When [`Event::Tick`] is due, in monotonic milliseconds.
    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.deadlines.first().map(|(at, ..)| *at).into_iter().chain(self.next_sweep_ms).min()
    }

    /// Takes an event.
    pub fn step(&mut self, now: Now, event: Event, effects: &mut Effects) {
        match event {
            Event::Request { token, request } => self.request(now, token, request, effects),
            Event::Gone(token) => self.gone(token),
            Event::MarkersWritten { id, producer } => self.markers_written(now, &id, producer, effects),
            Event::Tick => self.tick(now, effects),
        }
    }

    fn request(&mut self, now: Now, token: Token, request: Request, effects: &mut Effects) {
        let verdict = match &request {
            Request::InitProducerId { id, timeout_ms, expected, fresh } => {
                self.init_producer_id(now, id, *timeout_ms, (*expected, *fresh), effects)
            }
            Request::AddPartitions { id, producer, partitions, verify_only, v2 } => {
                self.add_partitions(now, id, *producer, partitions, (*verify_only, *v2), effects)
            }
            Request::EndTxn { id, producer, commit, v2, fresh } => {
                self.end_txn(now, id, *producer, (*commit, *v2, *fresh), effects)
            }
            Request::Describe(id) => {
                let found = self.entries.get(id).map(|entry| Described::from(&entry.txn));
                Verdict::Answer(Response::Describe(found.ok_or(ErrorCode::TransactionalIdNotFound)))
            }
            Request::List(filters) => {
                let all = self.entries.iter();
                let matching = all.filter(|(id, entry)| filters.let_through(id, &entry.txn, now.wall_ms));
                let listed = matching.map(|(id, Entry { txn, .. })| Listed {
                    id: Arc::clone(id),
                    producer_id: txn.producer.id,
                    state: txn.state,
                });
                Verdict::Answer(Response::List(listed.collect()))
            }
        };
        match verdict {
            Verdict::Answer(response) => effects.answers.push((token, response)),
            Verdict::Wait => self.park(now, token, request),
        }
    }

    fn init_producer_id(
        &mut self,
        now: Now,
        id: &Arc<str>,
        timeout_ms: i32,
        (expected, fresh): (Option<Producer>, Option<ProducerId>),
        effects: &mut Effects,
    ) -> Verdict {
        let refused = |code| Verdict::Answer(Response::InitProducerId(Err(code)));
        if timeout_ms <= 0 || timeout_ms > self.config.max_timeout_ms {
            return refused(ErrorCode::InvalidTransactionTimeout);
        }
        if !self.entries.contains_key(id) {
            let Some(fresh) = fresh else { return Verdict::Answer(Response::NeedsProducerId) };
            let txn = Transaction::new(fresh, timeout_ms, now.wall_ms);
            self.entries.insert(Arc::clone(id), Entry { txn, timeout_at: None, parked: Vec::new() });
        }
        let entry = self.entries.get_mut(id).expect("it was there, or has just been put there");
        if expected.is_some_and(|expected| !entry.txn.knows(expected)) {
            return refused(ErrorCode::ProducerFenced);
        }
        if entry.txn.state == State::Ongoing {
            // Whoever comes back wants nothing of it; it is asked again once that is over.
            self.abort(now, id, effects);
        }
        let entry = self.entries.get_mut(id).expect("it is there");
        if entry.txn.state.is_prepared() {
            return Verdict::Wait;
        }
        match entry.txn.init(expected, fresh, timeout_ms, now.wall_ms) {
            Ok(Some(producer)) => {
                write(id, &entry.txn, effects);
                Verdict::Answer(Response::InitProducerId(Ok(producer)))
            }
            Ok(None) => Verdict::Answer(Response::NeedsProducerId),
            Err(code) => refused(code),
        }
    }

    fn add_partitions(
        &mut self,
        now: Now,
        id: &Arc<str>,
        producer: Producer,
        partitions: &[TopicPartition],
        (verify_only, v2): (bool, bool),
        effects: &mut Effects,
    ) -> Verdict {
        let answer = |outcome| Verdict::Answer(Response::AddPartitions(outcome));
        let Some(entry) = self.entries.get_mut(id) else { return answer(Err(ErrorCode::InvalidProducerIdMapping)) };
        // While the epochs of an id run out, the client has the next one already.
        if producer.id != entry.txn.producer.id && producer != entry.txn.after_end() {
            return answer(Err(ErrorCode::InvalidProducerIdMapping));
        }
        if producer != entry.txn.after_end() {
            return answer(Err(ErrorCode::ProducerFenced));
        }
        if entry.txn.state.is_prepared() {
            return Verdict::Wait;
        }
        if verify_only {
            let code = |p| if entry.txn.has(p) { ErrorCode::None } else { ErrorCode::TransactionAbortable };
            return answer(Ok(partitions.iter().map(code).collect()));
        }
        if !partitions.iter().all(|partition| entry.txn.has(partition)) {
            let begins = entry.txn.state != State::Ongoing;
            entry.txn.add(partitions, v2, now.wall_ms);
            if begins {
                let at = now.monotonic_ms + i64::from(entry.txn.timeout_ms);
                set_timeout(&mut self.deadlines, id, entry, Some(at));
            }
            write(id, &entry.txn, effects);
        }
        answer(Ok(vec![ErrorCode::None; partitions.len()]))
    }

    fn end_txn(
        &mut self,
        now: Now,
        id: &Arc<str>,
        producer: Producer,
        (commit, v2, fresh): (bool, bool, Option<ProducerId>),
        effects: &mut Effects,
    ) -> Verdict {
        let answer = |outcome| Verdict::Answer(Response::EndTxn(outcome));
        let Some(entry) = self.entries.get_mut(id) else { return answer(Err(ErrorCode::InvalidProducerIdMapping)) };
        let ending = if v2 { entry.txn.ending_v2(producer, commit) } else { entry.txn.ending(producer, commit) };
        match ending {
            Err(code) => answer(Err(code)),
            Ok(Ending::Done) => answer(Ok(entry.txn.producer)),
            Ok(Ending::Wait) => Verdict::Wait,
            Ok(Ending::Prepare) => {
                if v2 && entry.txn.is_exhausted() && fresh.is_none() {
                    return Verdict::Answer(Response::NeedsProducerId);
                }
                entry.txn.prepare(commit, v2, fresh, now.wall_ms);
                let next = entry.txn.after_end();
                self.prepared(now, id, effects);
                answer(Ok(next))
            }
        }
    }

    /// Aborts an ongoing transaction, and fences its producer.
    fn abort(&mut self, now: Now, id: &Arc<str>, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        entry.txn.fence(now.wall_ms);
        self.prepared(now, id, effects);
    }

    /// The end is decided: writes it down, and orders the markers.
    fn prepared(&mut self, now: Now, id: &Arc<str>, effects: &mut Effects) {
        let entry = self.entries.get_mut(id).expect("its end was just decided");
        set_timeout(&mut self.deadlines, id, entry, None);
        write(id, &entry.txn, effects);
        if entry.txn.partitions.is_empty() {
            // Nobody else to tell.
            entry.txn.complete(now.wall_ms);
            write(id, &entry.txn, effects);
        } else {
            effects.orders.push(entry.txn.order(id, self.coordinator_epoch));
        }
    }

    fn markers_written(&mut self, now: Now, id: &Arc<str>, producer: Producer, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        if !entry.txn.state.is_prepared() || entry.txn.producer != producer {
            return;
        }
        entry.txn.complete(now.wall_ms);
        write(id, &entry.txn, effects);
        let parked = std::mem::take(&mut entry.parked);
        for Parked { token, request, until_ms } in parked {
            self.deadlines.remove(&(until_ms, Due::Patience, Arc::clone(id)));
            self.request(now, token, request, effects);
        }
    }

    fn park(&mut self, now: Now, token: Token, request: Request) {
        let id = request.id().expect("requests about one transaction wait for it");
        let until_ms = now.monotonic_ms + self.config.patience_ms;
        self.deadlines.insert((until_ms, Due::Patience, Arc::clone(id)));
        let entry = self.entries.get_mut(id).expect("it waits for one that is there");
        entry.parked.push(Parked { token, request, until_ms });
    }

    /// Few are parked at a time: one a producer, as a rule.
    fn gone(&mut self, token: Token) {
        for entry in self.entries.values_mut().filter(|entry| !entry.parked.is_empty()) {
            entry.parked.retain(|parked| parked.token != token);
        }
    }

    fn tick(&mut self, now: Now, effects: &mut Effects) {
        while self.deadlines.first().is_some_and(|(at, ..)| *at <= now.monotonic_ms) {
            let Some((_, due, id)) = self.deadlines.pop_first() else { break };
            match due {
                Due::Timeout => {
                    tracing::info!(id = &*id, "a transaction has timed out and is aborted");
                    self.abort(now, &id, effects);
                }
                Due::Patience => self.lose_patience(now, &id, effects),
            }
        }
        if self.next_sweep_ms.is_some_and(|at| at <= now.monotonic_ms) {
            let complete = self.sweep(now, effects);
            self.next_sweep_ms = Some(now.monotonic_ms + if complete { self.config.sweep_interval_ms } else { 1 });
        }
    }

    fn lose_patience(&mut self, now: Now, id: &Arc<str>, effects: &mut Effects) {
        let Some(entry) = self.entries.get_mut(id) else { return };
        let tired = entry.parked.extract_if(.., |parked| parked.until_ms <= now.monotonic_ms);
        effects.answers.extend(tired.map(|parked| (parked.token, parked.request.refused())));
    }

    /// Takes ids away that nobody has used for long. Whether it came to the end.
    fn sweep(&mut self, now: Now, effects: &mut Effects) -> bool {
        let oldest_ms = now.wall_ms.saturating_sub(self.config.id_expiration_ms);
        let expired = |entry: &Entry| entry.txn.state.is_idle() && entry.txn.last_update_ms <= oldest_ms;
        let all = self.entries.iter().filter(|(_, entry)| expired(entry));
        let ids: Vec<Arc<str>> = all.map(|(id, _)| Arc::clone(id)).take(SWEEP_MAX).collect();
        for id in &ids {
            self.entries.remove(id);
            effects.records.push(Record { key: records::key(id), value: None });
        }
        ids.len() < SWEEP_MAX
    }

    /// Every invariant of the fields.
    ///
    /// # Panics
    /// If one does not hold.
    pub fn assert_invariants(&self) {
        for (id, entry) in &self.entries {
            let state = entry.txn.state;
            assert!(
                state.is_prepared() || entry.parked.is_empty(),
                "{id}: nobody waits for a transaction in {state:?}"
            );
            assert_eq!(entry.timeout_at.is_some(), state == State::Ongoing, "{id}: what is ongoing times out");
            let timer = entry.timeout_at.map(|at| (at, Due::Timeout, Arc::clone(id)));
            assert!(timer.is_none_or(|timer| self.deadlines.contains(&timer)), "{id}: its deadline is known");
            assert!(!state.is_idle() || entry.txn.partitions.is_empty(), "{id}: {state:?} with partitions");
        }
    }
}

impl Request {
    /// The transactional id it is about; none of ListTransactions.
    #[must_use]
    pub const fn id(&self) -> Option<&Arc<str>> {
        match self {
            Self::InitProducerId { id, .. }
            | Self::AddPartitions { id, .. }
            | Self::EndTxn { id, .. }
            | Self::Describe(id) => Some(id),
            Self::List(_) => None,
        }
    }

    /// The answer when the transaction before does not come to its end.
    fn refused(&self) -> Response {
        let code = ErrorCode::ConcurrentTransactions;
        match self {
            Self::InitProducerId { .. } => Response::InitProducerId(Err(code)),
            Self::AddPartitions { .. } => Response::AddPartitions(Err(code)),
            Self::EndTxn { .. } => Response::EndTxn(Err(code)),
            Self::Describe(_) => Response::Describe(Err(code)),
            Self::List(_) => Response::List(Vec::new()),
        }
    }
}

fn write(id: &str, txn: &Transaction, effects: &mut Effects) {
    effects.records.push(Record { key: records::key(id), value: Some(records::encode(txn)) });
}

fn set_timeout(deadlines: &mut BTreeSet<(i64, Due, Arc<str>)>, id: &Arc<str>, entry: &mut Entry, at: Option<i64>) {
    if let Some(before) = std::mem::replace(&mut entry.timeout_at, at) {
        deadlines.remove(&(before, Due::Timeout, Arc::clone(id)));
    }
    if let Some(at) = at {
        deadlines.insert((at, Due::Timeout, Arc::clone(id)));
    }
}
