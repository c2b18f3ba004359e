//! AddOffsetsToTxn: the group's partition of `__consumer_offsets` becomes part of a transaction.

use super::group_client;
use super::transaction_client::{fenced_since, not_empty};
use crate::broker::groups::{Groups, offsets_topic};
use crate::broker::transactions::Transactions;
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::transactions::{Producer, Request};
use coreline_io::Runtime;
use kafka_protocol::messages::{AddOffsetsToTxnRequest, AddOffsetsToTxnResponse};
use std::rc::Rc;
use std::sync::Arc;

/// The first version whose clients know `PRODUCER_FENCED`.
const PRODUCER_FENCED: i16 = 2;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: AddOffsetsToTxnRequest,
) -> AddOffsetsToTxnResponse {
    let code = add(groups, transactions, &request).await.err().unwrap_or(ErrorCode::None);
    AddOffsetsToTxnResponse::default().with_error_code(fenced_since(PRODUCER_FENCED, version, code).code())
}

async fn add<R: Runtime>(
    groups: &Rc<Groups<R>>,
    transactions: &Rc<Transactions<R>>,
    request: &AddOffsetsToTxnRequest,
) -> Result<(), ErrorCode> {
    not_empty(&request.transactional_id)?;
    group_client::not_empty(&request.group_id)?;
    offsets_topic::OFFSETS.ensure(transactions.shard()).await?;
    let (partition, _) = groups.find(&request.group_id).map_err(|_| ErrorCode::CoordinatorNotAvailable)?;
    let id: Arc<str> = Arc::from(&**request.transactional_id);
    let ask = Request::AddPartitions {
        id: Arc::clone(&id),
        producer: Producer { id: ProducerId(request.producer_id.0), epoch: ProducerEpoch(request.producer_epoch) },
        partitions: vec![(Arc::from(offsets_topic::OFFSETS_TOPIC), partition.index.0)],
        verify_only: false,
        v2: false,
    };
    super::transaction_client::of_kind!(transactions.ask(&id, &Client::default(), ask).await, AddPartitions)?.map(drop)
}
