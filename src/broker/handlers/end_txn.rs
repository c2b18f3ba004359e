//! EndTxn: commits or aborts. From version 5 on the client gets the epoch of its next transaction with the answer (KIP-890).

use super::init_producer_id::{ProducerIds, ask_with_fresh_id};
use super::transaction_client::{fenced_since, not_empty, of_kind};
use crate::broker::transactions::Transactions;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::{Producer, Request};
use coreline_io::Runtime;
use kafka_protocol::messages::{EndTxnRequest, EndTxnResponse};
use std::rc::Rc;
use std::sync::Arc;

/// The first version whose clients know `PRODUCER_FENCED`.
const PRODUCER_FENCED: i16 = 2;
/// The first version whose clients' epochs grow with each transaction.
const V2: i16 = 5;

pub(super) async fn handle<R: Runtime>(
    ids: &ProducerIds,
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: EndTxnRequest,
) -> EndTxnResponse {
    match end(ids, transactions, version, &request).await {
        Ok(next) if version >= V2 => {
            EndTxnResponse::default().with_producer_id(next.id.0.into()).with_producer_epoch(next.epoch.0)
        }
        Ok(_) => EndTxnResponse::default(),
        Err(code) => EndTxnResponse::default().with_error_code(fenced_since(PRODUCER_FENCED, version, code).code()),
    }
}

async fn end<R: Runtime>(
    ids: &ProducerIds,
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: &EndTxnRequest,
) -> Result<Producer, ErrorCode> {
    not_empty(&request.transactional_id)?;
    let id: Arc<str> = Arc::from(&**request.transactional_id);
    let ask = |fresh| Request::EndTxn {
        id: Arc::clone(&id),
        producer: Producer { id: ProducerId(request.producer_id.0), epoch: ProducerEpoch(request.producer_epoch) },
        commit: request.committed,
        v2: version >= V2,
        fresh,
    };
    of_kind!(ask_with_fresh_id(ids, transactions, &id, ask).await, EndTxn)?
}
