//! InitProducerId: ids for producers, from blocks that the controller hands out; those with a transactional id get theirs
//! from its coordinator.

use super::transaction_client::{fenced_since, not_empty, of_kind};
use crate::broker::Shard;
use crate::broker::transactions::Transactions;
use crate::controller::commands::PRODUCER_ID_BLOCK;
use crate::controller::{Command, CommandError, Outcome};
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::{Producer, Request, Response};
use coreline_io::Runtime;
use coreline_io::sync::Semaphore;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

/// The rest of this shard's block. What is left at a stop is never used.
#[derive(Debug)]
pub(super) struct ProducerIds {
    next: Cell<i64>,
    end: Cell<i64>,
    /// One asks for the next block, the others wait for it.
    asking: Rc<Semaphore>,
}

impl Default for ProducerIds {
    fn default() -> Self {
        Self { next: Cell::new(0), end: Cell::new(0), asking: Semaphore::new(1) }
    }
}

impl ProducerIds {
    fn take(&self) -> Option<i64> {
        let id = self.next.get();
        (id < self.end.get()).then(|| {
            self.next.set(id + 1);
            id
        })
    }

    fn refill(&self, block: Range<i64>) {
        assert!(block.start >= self.end.get(), "a block of producer ids comes once, and later than those before");
        self.next.set(block.start);
        self.end.set(block.end);
    }

    async fn next<R: Runtime>(&self, shard: &Shard<R>) -> Result<i64, CommandError> {
        loop {
            if let Some(id) = self.take() {
                return Ok(id);
            }
            let _one = self.asking.acquire(1).await;
            if self.next.get() < self.end.get() {
                continue;
            }
            match shard.controller.submit(Command::AllocateProducerIds).await? {
                Outcome::ProducerIds(first) => self.refill(first..first + PRODUCER_ID_BLOCK),
                other => unreachable!("AllocateProducerIds is answered with a block, not with {other:?}"),
            }
        }
    }

    /// An id that no producer has.
    async fn fresh<R: Runtime>(&self, shard: &Shard<R>) -> Result<ProducerId, ErrorCode> {
        self.next(shard).await.map(ProducerId).map_err(|error| {
            tracing::warn!("no block of producer ids: {}", error.message);
            // Kafka's word for "not yet": clients try again.
            ErrorCode::CoordinatorLoadInProgress
        })
    }
}

/// The first version whose clients know `PRODUCER_FENCED`.
const PRODUCER_FENCED: i16 = 4;

pub(super) async fn handle<R: Runtime>(
    ids: &ProducerIds,
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    match init(ids, transactions, request).await {
        Ok(producer) => InitProducerIdResponse::default()
            .with_producer_id(producer.id.0.into())
            .with_producer_epoch(producer.epoch.0),
        Err(code) => InitProducerIdResponse::default()
            .with_error_code(fenced_since(PRODUCER_FENCED, version, code).code())
            .with_producer_id((-1).into())
            .with_producer_epoch(-1),
    }
}

async fn init<R: Runtime>(
    ids: &ProducerIds,
    transactions: &Rc<Transactions<R>>,
    request: InitProducerIdRequest,
) -> Result<Producer, ErrorCode> {
    // An id without an epoch, or the other way round, is no id.
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return Err(ErrorCode::InvalidRequest);
    }
    let Some(id) = &request.transactional_id else {
        let id = ids.fresh(transactions.shard()).await?;
        return Ok(Producer { id, epoch: ProducerEpoch(0) });
    };
    not_empty(id)?;
    let id: Arc<str> = Arc::from(&***id);
    let expected = Producer { id: ProducerId(request.producer_id.0), epoch: ProducerEpoch(request.producer_epoch) };
    let ask = |fresh| Request::InitProducerId {
        id: Arc::clone(&id),
        timeout_ms: request.transaction_timeout_ms,
        expected: (expected.id.0 != -1).then_some(expected),
        fresh,
    };
    of_kind!(ask_with_fresh_id(ids, transactions, &id, ask).await, InitProducerId)?
}

/// Asks, and again with a fresh producer id where one is needed.
pub(super) async fn ask_with_fresh_id<R: Runtime>(
    ids: &ProducerIds,
    transactions: &Rc<Transactions<R>>,
    id: &str,
    ask: impl Fn(Option<ProducerId>) -> Request,
) -> Result<Response, ErrorCode> {
    match transactions.ask(id, &Client::default(), ask(None)).await {
        Ok(Response::NeedsProducerId) => {
            let fresh = ids.fresh(transactions.shard()).await?;
            transactions.ask(id, &Client::default(), ask(Some(fresh))).await
        }
        told => told,
    }
}
