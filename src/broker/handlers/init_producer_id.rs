//! InitProducerId: ids for idempotent producers, from blocks that the controller hands out.

use crate::broker::Shard;
use crate::controller::commands::PRODUCER_ID_BLOCK;
use crate::controller::{Command, CommandError, Outcome};
use crate::error_code::ErrorCode;
use coreline_io::Runtime;
use coreline_io::sync::Semaphore;
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use std::cell::Cell;
use std::ops::Range;
use std::rc::Rc;

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
}

pub(super) async fn handle<R: Runtime>(
    shard: &Shard<R>,
    ids: &ProducerIds,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |error: ErrorCode| {
        let response = InitProducerIdResponse::default().with_error_code(error.code());
        response.with_producer_id((-1).into()).with_producer_epoch(-1)
    };
    match &request.transactional_id {
        Some(id) if id.is_empty() => return refused(ErrorCode::InvalidRequest),
        // Not to be tried again: there are no transactions, now or in a minute.
        Some(_) => return refused(ErrorCode::UnsupportedVersion),
        None => {}
    }
    // An id without an epoch, or the other way round, is no id.
    if (request.producer_id.0 == -1) != (request.producer_epoch == -1) {
        return refused(ErrorCode::InvalidRequest);
    }
    match ids.next(shard).await {
        Ok(id) => InitProducerIdResponse::default().with_producer_id(id.into()).with_producer_epoch(0),
        Err(error) => {
            tracing::warn!("no block of producer ids: {}", error.message);
            // Kafka's word for "not yet": clients try again.
            refused(ErrorCode::CoordinatorLoadInProgress)
        }
    }
}
