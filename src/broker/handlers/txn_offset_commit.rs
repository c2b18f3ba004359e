//! TxnOffsetCommit: how far a group has read, as part of a transaction. That the group's partition is in the transaction is
//! verified first, or it is added (from version 5 on, KIP-890).

use super::group_client::{self, client, of_kind};
use super::remote::{Ask, Told, scatter, stopping};
use super::transaction_client;
use crate::broker::connection::RequestContext;
use crate::broker::groups::Groups;
use crate::broker::store::{TxnProducer, TxnState, VerificationGuard};
use crate::broker::transactions::{Transactions, VerifyPartitions, add_or_verify};
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::groups::Request;
use crate::ids::{ProducerEpoch, ProducerId};
use coreline_io::Runtime;
use kafka_protocol::messages::txn_offset_commit_request::TxnOffsetCommitRequestTopic;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use kafka_protocol::messages::{TopicName, TxnOffsetCommitRequest, TxnOffsetCommitResponse};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The first version whose clients know `TRANSACTION_ABORTABLE`.
const ABORTABLE: i16 = 4;
/// The first version whose clients add nothing to transactions themselves.
const V2: i16 = 5;

pub(super) async fn handle<R: Runtime>(
    groups: &Rc<Groups<R>>,
    transactions: &Rc<Transactions<R>>,
    context: &RequestContext,
    mut request: TxnOffsetCommitRequest,
) -> TxnOffsetCommitResponse {
    let order: Vec<(TopicName, Vec<i32>)> = request
        .topics
        .iter()
        .map(|topic| (topic.name.clone(), topic.partitions.iter().map(|p| p.partition_index).collect()))
        .collect();
    let image = groups.shard().image();
    request.topics.retain_mut(|topic| keep_known(&image, topic));
    let asked: Vec<(TopicName, i32)> = request
        .topics
        .iter()
        .flat_map(|topic| topic.partitions.iter().map(|p| (topic.name.clone(), p.partition_index)))
        .collect();
    let mut codes: BTreeMap<(TopicName, i32), i16> = BTreeMap::new();
    if !asked.is_empty() {
        match commit(groups, transactions, context, request).await {
            Ok(response) => codes.extend(response.topics.iter().flat_map(|topic| {
                topic.partitions.iter().map(|p| ((topic.name.clone(), p.partition_index), p.error_code))
            })),
            Err(code) => codes.extend(asked.into_iter().map(|partition| (partition, code.code()))),
        }
    }
    let topics = order.into_iter().map(|(name, partitions)| {
        let partitions = partitions.into_iter().map(|index| {
            let code = codes.get(&(name.clone(), index)).copied();
            let code = code.unwrap_or(ErrorCode::UnknownTopicOrPartition.code());
            TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code)
        });
        let partitions = partitions.collect();
        TxnOffsetCommitResponseTopic::default().with_name(name).with_partitions(partitions)
    });
    TxnOffsetCommitResponse::default().with_topics(topics.collect())
}

/// Leaves only what exists; false if that is nothing.
fn keep_known(image: &ClusterImage, topic: &mut TxnOffsetCommitRequestTopic) -> bool {
    let Some(known) = image.topic(&topic.name) else { return false };
    topic.partitions.retain(|p| known.partition(p.partition_index).is_some());
    !topic.partitions.is_empty()
}

async fn commit<R: Runtime>(
    groups: &Rc<Groups<R>>,
    transactions: &Rc<Transactions<R>>,
    context: &RequestContext,
    request: TxnOffsetCommitRequest,
) -> Result<TxnOffsetCommitResponse, ErrorCode> {
    group_client::not_empty(&request.group_id)?;
    transaction_client::not_empty(&request.transactional_id)?;
    let (group, client) = (request.group_id.clone(), client(context));
    let guard = verify(groups, transactions, client.api_version, &request).await?;
    of_kind!(groups.ask(&group, &client, Request::TxnOffsetCommit { request, guard }).await, TxnOffsetCommit)
}

/// Sees to it that the group's partition is in the transaction.
async fn verify<R: Runtime>(
    groups: &Rc<Groups<R>>,
    transactions: &Rc<Transactions<R>>,
    version: i16,
    request: &TxnOffsetCommitRequest,
) -> Result<Option<VerificationGuard>, ErrorCode> {
    let (partition, shard) = groups.find(&request.group_id)?;
    let producer = TxnProducer {
        producer_id: ProducerId(request.producer_id.0),
        producer_epoch: ProducerEpoch(request.producer_epoch),
        base_sequence: -1,
        v2: version >= V2,
    };
    let unwrap = |told| match told {
        Told::TxnStates(states) => states,
        other => unreachable!("a question for states of transactions is answered with such, not {other:?}"),
    };
    let asked = vec![(shard, (partition, producer))];
    let states = scatter(groups.shard(), asked, Ask::TxnStates, unwrap, || Err(stopping())).await;
    let guard = match states.into_iter().next() {
        Some(Ok(TxnState::Ongoing)) => return Ok(None),
        Some(Ok(TxnState::Unverified(guard))) => guard,
        Some(Err(error)) => {
            tracing::debug!("the state of a transaction in {partition:?}: {}", error.message);
            return Err(ErrorCode::NotCoordinator);
        }
        None => unreachable!("one question, one answer"),
    };
    let ask = VerifyPartitions {
        transactional_id: request.transactional_id.to_string(),
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch,
        partitions: vec![partition],
        verify_only: version < V2,
    };
    match add_or_verify(transactions, ask).await.first().copied().unwrap_or(ErrorCode::UnknownServerError) {
        ErrorCode::None => Ok(Some(guard)),
        ErrorCode::TransactionAbortable if version < ABORTABLE => Err(ErrorCode::InvalidTxnState),
        // As Kafka says it where records are refused.
        ErrorCode::ProducerFenced => Err(ErrorCode::InvalidProducerEpoch),
        code => Err(code),
    }
}
