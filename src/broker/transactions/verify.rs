//! What Produce and TxnOffsetCommit ask the coordinator before the first batch of a transaction is appended to a
//! partition: whether the partition is in the transaction, or to add it (KIP-890).

use super::Transactions;
use super::completion::only_here;
use crate::broker::shard::dynamic_values;
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::ids::{PartitionId, ProducerEpoch, ProducerId};
use crate::transactions::{Producer, Request, Response, TopicPartition};
use coreline_io::Runtime;
use std::rc::Rc;
use std::sync::Arc;

/// A question about partitions of a transaction.
#[derive(Clone, Debug)]
pub(crate) struct VerifyPartitions {
    /// The transactional id.
    pub(crate) transactional_id: String,
    /// Who produces.
    pub(crate) producer_id: ProducerId,
    /// Its epoch.
    pub(crate) producer_epoch: ProducerEpoch,
    /// Where to.
    pub(crate) partitions: Vec<PartitionId>,
    /// They must be in the transaction already; else they are added, for clients whose epoch grows with each transaction.
    pub(crate) verify_only: bool,
}

/// A code for each partition, in their order. With `NONE`, that the partition is in the transaction is committed; or nobody
/// wants it verified.
pub(crate) async fn add_or_verify<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    ask: VerifyPartitions,
) -> Vec<ErrorCode> {
    let (shard, image) = (transactions.shard(), transactions.shard().image());
    let dynamic = dynamic_values(&image, shard.node_id());
    if ask.verify_only && !shard.config.flag(dynamic, "transaction.partition.verification.enable") {
        return vec![ErrorCode::None; ask.partitions.len()];
    }
    let name = |id: &PartitionId| Some((Arc::clone(&image.topic_by_id(id.topic)?.name), id.index.0));
    let named: Vec<Option<TopicPartition>> = ask.partitions.iter().map(name).collect();
    let id: Arc<str> = Arc::from(ask.transactional_id);
    let request = Request::AddPartitions {
        id: Arc::clone(&id),
        producer: Producer { id: ask.producer_id, epoch: ask.producer_epoch },
        partitions: named.iter().flatten().cloned().collect(),
        verify_only: ask.verify_only,
        v2: !ask.verify_only,
    };
    let told = match transactions.ask(&id, &Client::default(), request).await {
        Ok(Response::AddPartitions(outcome)) => outcome,
        Ok(other) => unreachable!("partitions are answered as such, not with {other:?}"),
        Err(code) => Err(code),
    };
    let mut codes = told.as_ref().map(|codes| codes.iter().copied()).into_iter().flatten();
    let code = |named: Option<TopicPartition>| match (named, &told) {
        (None, _) => ErrorCode::UnknownTopicOrPartition,
        (Some(_), Err(code)) => *code,
        (Some(_), Ok(_)) => codes.next().unwrap_or(ErrorCode::UnknownServerError),
    };
    named.into_iter().map(code).collect()
}

/// Partitions that can be added to a transaction in the same group commit as their first batches.
pub(crate) struct AddEarly {
    coordinator: PartitionId,
    partitions: Vec<PartitionId>,
    request: Request,
}

impl AddEarly {
    /// None where a partition, or the coordinator's, is of another shard, or somebody else has replicas of it.
    pub(crate) fn new<R: Runtime>(transactions: &Transactions<R>, ask: &VerifyPartitions) -> Option<Self> {
        let (shard, image) = (transactions.shard(), transactions.shard().image());
        if ask.verify_only {
            return None;
        }
        let here = |id: &PartitionId| only_here(shard, image.topic_by_id(id.topic)?, id.index.0);
        let coordinator = here(&transactions.find(&ask.transactional_id).ok()?.0)?;
        let name = |id: &PartitionId| Some((Arc::clone(&image.topic_by_id(here(id)?.topic)?.name), id.index.0));
        let request = Request::AddPartitions {
            id: Arc::from(ask.transactional_id.as_str()),
            producer: Producer { id: ask.producer_id, epoch: ask.producer_epoch },
            partitions: ask.partitions.iter().map(name).collect::<Option<_>>()?,
            verify_only: false,
            v2: true,
        };
        Some(Self { coordinator, partitions: ask.partitions.clone(), request })
    }

    /// Adds them, and calls `append` with the outcome: if it is good, it appends at most `bytes` to them, in the call, and what
    /// it appends is committed with the addition or refused with it. Gives what it gives; none when the node stops.
    pub(crate) async fn then<R: Runtime, T: 'static>(
        self,
        transactions: &Rc<Transactions<R>>,
        bytes: usize,
        append: impl FnOnce(Result<(), ErrorCode>) -> T + 'static,
    ) -> Option<T> {
        let then = |told| {
            append(match told {
                Ok(Response::AddPartitions(outcome)) => outcome.map(drop),
                Ok(other) => unreachable!("partitions are answered as such, not with {other:?}"),
                Err(code) => Err(code),
            })
        };
        transactions.ask_early(self.coordinator, self.request, (self.partitions, bytes), then).await
    }
}
