//! A coordinator with a clock, a log and what it let out.

use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::transaction::State;
use crate::transactions::*;

pub(super) const PATIENCE_MS: i64 = 100;
pub(super) const TIMEOUT_MS: i32 = 5_000;

pub(super) struct Bed {
    pub(super) coordinator: Coordinator,
    pub(super) config: TransactionsConfig,
    /// Batches of the log, committed.
    pub(super) log: Vec<Vec<Record>>,
    pub(super) now: Now,
    /// Orders that nobody has carried out.
    pub(super) orders: Vec<Order>,
    pub(super) answers: Vec<(Token, Response)>,
    next_token: u64,
    next_id: i64,
}

pub(super) fn producer(id: i64, epoch: i16) -> Producer {
    Producer { id: ProducerId(id), epoch: ProducerEpoch(epoch) }
}

pub(super) fn tp(topic: &str, index: i32) -> TopicPartition {
    (Arc::from(topic), index)
}

impl Bed {
    pub(super) fn new() -> Self {
        let config = TransactionsConfig {
            patience_ms: PATIENCE_MS,
            id_expiration_ms: 60_000,
            sweep_interval_ms: 10_000,
            ..TransactionsConfig::default()
        };
        let mut bed = Self {
            coordinator: Coordinator::new(config, 3),
            config,
            log: Vec::new(),
            now: Now { monotonic_ms: 0, wall_ms: 1_000_000 },
            orders: Vec::new(),
            answers: Vec::new(),
            next_token: 0,
            next_id: 1000,
        };
        bed.crash();
        bed
    }

    /// The process ends and another one loads what is in the log.
    pub(super) fn crash(&mut self) {
        self.orders.clear();
        self.answers.clear();
        self.coordinator = self.loaded();
        let mut effects = Effects::default();
        self.coordinator.loaded(self.now, &mut effects);
        assert!(effects.records.is_empty() && effects.answers.is_empty());
        self.orders = effects.orders;
    }

    /// A coordinator from the log.
    pub(super) fn loaded(&self) -> Coordinator {
        let mut coordinator = Coordinator::new(self.config, 3);
        for record in self.log.iter().flatten() {
            coordinator.replay(&record.key, record.value.as_deref()).expect("our own records");
        }
        coordinator
    }

    pub(super) fn event(&mut self, event: Event) {
        let mut effects = Effects::default();
        self.coordinator.step(self.now, event, &mut effects);
        self.coordinator.assert_invariants();
        if !effects.records.is_empty() {
            self.log.push(effects.records);
        }
        self.answers.extend(effects.answers);
        self.orders.extend(effects.orders);
    }

    pub(super) fn send(&mut self, request: Request) -> Token {
        self.next_token += 1;
        let token = Token(self.next_token);
        self.event(Event::Request { token, request });
        token
    }

    /// The answer to a request, if it has come.
    pub(super) fn answer(&mut self, token: Token) -> Option<Response> {
        let at = self.answers.iter().position(|(of, _)| *of == token)?;
        Some(self.answers.remove(at).1)
    }

    /// Asks, with a fresh id when it is wanted.
    pub(super) fn ask(&mut self, request: Request) -> Option<Response> {
        let token = self.send(request.clone());
        let answer = self.answer(token);
        if answer != Some(Response::NeedsProducerId) {
            return answer;
        }
        self.next_id += 1;
        let id = Some(ProducerId(self.next_id));
        let token = self.send(match request {
            Request::InitProducerId { id: txn, timeout_ms, expected, .. } => {
                Request::InitProducerId { id: txn, timeout_ms, expected, fresh: id }
            }
            Request::EndTxn { id: txn, producer, commit, v2, .. } => {
                Request::EndTxn { id: txn, producer, commit, v2, fresh: id }
            }
            other => unreachable!("{other:?} needs no id"),
        });
        self.answer(token)
    }

    pub(super) fn init(&mut self, id: &str, expected: Option<Producer>) -> Option<Result<Producer, ErrorCode>> {
        let request = Request::InitProducerId { id: Arc::from(id), timeout_ms: TIMEOUT_MS, expected, fresh: None };
        self.ask(request).map(|answer| match answer {
            Response::InitProducerId(outcome) => outcome,
            other => unreachable!("{other:?}"),
        })
    }

    pub(super) fn add(
        &mut self,
        id: &str,
        producer: Producer,
        partition: TopicPartition,
        v2: bool,
    ) -> Option<ErrorCode> {
        let request =
            Request::AddPartitions { id: Arc::from(id), producer, partitions: vec![partition], verify_only: false, v2 };
        self.ask(request).map(|answer| match answer {
            Response::AddPartitions(Ok(codes)) => codes[0],
            Response::AddPartitions(Err(code)) => code,
            other => unreachable!("{other:?}"),
        })
    }

    pub(super) fn end(
        &mut self,
        id: &str,
        producer: Producer,
        commit: bool,
        v2: bool,
    ) -> Option<Result<Producer, ErrorCode>> {
        self.ask(Request::EndTxn { id: Arc::from(id), producer, commit, v2, fresh: None }).map(|answer| match answer {
            Response::EndTxn(outcome) => outcome,
            other => unreachable!("{other:?}"),
        })
    }

    /// Carries out the first order.
    pub(super) fn write_markers(&mut self) -> Order {
        let order = self.orders.remove(0);
        self.event(Event::MarkersWritten { id: Arc::clone(&order.id), producer: order.producer });
        order
    }

    pub(super) fn pass(&mut self, ms: i64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(at) = self.coordinator.next_deadline().filter(|at| *at <= end) {
            let by = at - self.now.monotonic_ms;
            self.now = Now { monotonic_ms: at, wall_ms: self.now.wall_ms + by };
            self.event(Event::Tick);
        }
        self.now = Now { monotonic_ms: end, wall_ms: self.now.wall_ms + end - self.now.monotonic_ms };
    }

    pub(super) fn state(&mut self, id: &str) -> Option<(State, Producer)> {
        match self.ask(Request::Describe(Arc::from(id))) {
            Some(Response::Describe(found)) => found.ok().map(|d| (d.state, d.producer)),
            other => unreachable!("{other:?}"),
        }
    }
}
