//! Produce within a transaction: before the first batch of a partition is appended, its coordinator is asked whether the
//! partition is in the transaction, or, by newer clients, to add it (KIP-890).

use super::Handlers;
use super::produce::{Refusal, Route, Routed, Waiting, acks_of};
use super::remote::{Appends, Ask, Told, append, scatter, stopping};
use crate::broker::store::{ReadError, TxnProducer, TxnState, VerificationGuard};
use crate::broker::transactions::{AddEarly, VerifyPartitions, add_or_verify};
use crate::error_code::ErrorCode;
use crate::ids::{PartitionId, ProducerEpoch, ProducerId};
use crate::latency::{Stage, Timeline};
use crate::protocol::produce::TopicOutcome;
use coreline_io::Runtime;
use coreline_shards::ShardId;
use std::rc::Rc;

/// Where a batch has its attributes, its producer's id and epoch, and its base sequence, and how long its header is.
const ATTRIBUTES_AT: usize = 21;
const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const HEADER_LEN: usize = 61;
const TRANSACTIONAL: u16 = 0x10;
/// The first version whose clients add nothing to transactions themselves.
const V2: i16 = 12;
/// The first version whose clients know `TRANSACTION_ABORTABLE`.
const ABORTABLE: i16 = 11;

/// True if the batch says that it is of a transaction.
pub(super) fn is_transactional(batch: &[u8]) -> bool {
    bytes_at(batch, ATTRIBUTES_AT).is_some_and(|attributes| u16::from_be_bytes(attributes) & TRANSACTIONAL != 0)
}

/// Who produces a batch of a transaction; none of others, and of one that ends before it says so.
fn producer_of(batch: &[u8], v2: bool) -> Option<TxnProducer> {
    if !is_transactional(batch) || batch.len() < HEADER_LEN {
        return None;
    }
    Some(TxnProducer {
        producer_id: ProducerId(i64::from_be_bytes(bytes_at(batch, PRODUCER_ID_AT)?)),
        producer_epoch: ProducerEpoch(i16::from_be_bytes(bytes_at(batch, PRODUCER_EPOCH_AT)?)),
        base_sequence: i32::from_be_bytes(bytes_at(batch, BASE_SEQUENCE_AT)?),
        v2,
    })
}

fn bytes_at<const N: usize>(batch: &[u8], at: usize) -> Option<[u8; N]> {
    batch.get(at..at + N)?.try_into().ok()
}

/// A batch of a transaction on its way: its place among those that are routed.
#[derive(Clone, Copy)]
struct InRoute {
    shard: ShardId,
    at: usize,
    id: PartitionId,
    producer: TxnProducer,
}

/// Batches that wait for their coordinator's word.
type Unverified = Vec<(InRoute, VerificationGuard)>;
/// Batches that nobody appends.
type Refused = Vec<(InRoute, Refusal)>;

/// Takes batches from their routes, and gives them their outcome.
fn take_out(routed: &mut Routed, mut refused: Refused, outcomes: &mut [TopicOutcome]) {
    // From the back, so that places before stay what they are.
    refused.sort_by_key(|(batch, _)| std::cmp::Reverse((batch.shard, batch.at)));
    for (batch, (error, message)) in refused {
        let route = routed.by_shard.get_mut(&batch.shard).expect("it was found there");
        route.records.remove(batch.at);
        let (t, p) = route.places.remove(batch.at);
        let outcome = &mut outcomes[t].partitions[p];
        (outcome.error, outcome.error_message) = (error, message);
    }
    routed.by_shard.retain(|_, route| !route.records.is_empty());
}

impl<R: Runtime> Handlers<R> {
    /// Appends what may be appended; batches that may not have their outcome.
    pub(super) async fn in_transaction(
        &self,
        transactional_id: &str,
        (version, acks): (i16, i16),
        mut routed: Routed,
        outcomes: &mut [TopicOutcome],
        timeline: &mut Timeline,
    ) -> Vec<Waiting> {
        let (unverified, mut refused) = self.find_unverified(version, &routed).await;
        let early = self.add_early(transactional_id, version, &routed, &unverified).filter(|_| refused.is_empty());
        let more = match early {
            Some(early) => match self.append_early(early, acks, routed, &unverified).await {
                Ok(waiting) => return waiting,
                Err((code, back)) => {
                    routed = back;
                    unverified.iter().filter_map(|(batch, _)| Some((*batch, refusal(code, version)?))).collect()
                }
            },
            None => self.verify(transactional_id, version, &mut routed, unverified).await,
        };
        refused.extend(more);
        take_out(&mut routed, refused, outcomes);
        timeline.mark_now(Stage::Handle, || self.shard.runtime.now().nanos);
        self.enqueue(acks, routed, timeline).await
    }

    /// Batches whose transaction is not open in their partition; and those that are refused.
    async fn find_unverified(&self, version: i16, routed: &Routed) -> (Unverified, Refused) {
        let mut batches = Vec::new();
        for (shard, route) in &routed.by_shard {
            for (at, (id, records, _)) in route.records.iter().enumerate() {
                let producer = producer_of(records, version >= V2);
                batches.extend(producer.map(|producer| InRoute { shard: *shard, at, id: *id, producer }));
            }
        }
        let states = self.states(&batches).await;
        let (mut unverified, mut refused) = (Vec::new(), Vec::new());
        for (batch, state) in batches.into_iter().zip(states) {
            match state {
                Ok(TxnState::Ongoing) => {}
                Ok(TxnState::Unverified(guard)) => unverified.push((batch, guard)),
                Err(error) => refused.push((batch, (error.code, Some(error.message)))),
            }
        }
        (unverified, refused)
    }

    /// Asks the coordinator about batches that are not verified; gives those that are refused.
    async fn verify(
        &self,
        transactional_id: &str,
        version: i16,
        routed: &mut Routed,
        unverified: Unverified,
    ) -> Refused {
        let mut refused = Vec::new();
        let codes = self.ask_coordinator(transactional_id, version, &unverified).await;
        for ((batch, guard), code) in unverified.into_iter().zip(codes) {
            match refusal(code, version) {
                None => {
                    let route = routed.by_shard.get_mut(&batch.shard).expect("it was found there");
                    route.records[batch.at].2 = Some(guard);
                }
                Some(refusal) => refused.push((batch, refusal)),
            }
        }
        refused
    }

    /// The question that adds the partitions of all these batches in the group commit that takes the batches themselves; none
    /// where that is not possible.
    fn add_early(
        &self,
        transactional_id: &str,
        version: i16,
        routed: &Routed,
        unverified: &Unverified,
    ) -> Option<AddEarly> {
        let of = |batch: &InRoute| (batch.producer.producer_id, batch.producer.producer_epoch);
        let (first, _) = unverified.first()?;
        let here = routed.by_shard.keys().all(|shard| *shard == self.shard.id);
        if version < V2 || !here || unverified.iter().any(|(batch, _)| of(batch) != of(first)) {
            return None;
        }
        let mut records = routed.by_shard.values().flat_map(|route| &route.records);
        if !records.all(|(id, records, _)| self.shard.store.takes_at_once(*id, records)) {
            return None;
        }
        let ask = VerifyPartitions {
            transactional_id: transactional_id.to_owned(),
            producer_id: first.producer.producer_id,
            producer_epoch: first.producer.producer_epoch,
            partitions: unverified.iter().map(|(batch, _)| batch.id).collect(),
            verify_only: false,
        };
        AddEarly::new(&self.transactions, &ask)
    }

    /// Appends everything once its partitions are added. The batches again, if they are not.
    async fn append_early(
        &self,
        early: AddEarly,
        acks: i16,
        mut routed: Routed,
        unverified: &Unverified,
    ) -> Result<Vec<Waiting>, (ErrorCode, Routed)> {
        for (batch, guard) in unverified {
            routed.by_shard.get_mut(&batch.shard).expect("it was found there").records[batch.at].2 = Some(*guard);
        }
        let bytes =
            routed.by_shard.values().flat_map(|route| &route.records).map(|(_, records, _)| records.len()).sum();
        let (shard, acks, now_ms) = (Rc::clone(&self.shard), acks_of(acks), self.shard.runtime.wall_ms());
        let places: Vec<_> = routed.by_shard.values().flat_map(|route| route.places.iter().copied()).collect();
        let append_all = move |added: Result<(), ErrorCode>| -> Result<Vec<Waiting>, (ErrorCode, Routed)> {
            if let Err(code) = added {
                return Err((code, routed));
            }
            let append_one = |route: Route| -> Waiting {
                let wait = append(&shard, Appends { acks, now_ms, records: route.records }, shard.runtime.now());
                (route.places, Box::pin(async move { Some((wait.await, None)) }))
            };
            Ok(routed.by_shard.into_values().map(append_one).collect())
        };
        // The node stops: nobody has appended anything.
        let stopping = || Ok(vec![(places, Box::pin(std::future::ready(None)) as _)]);
        early.then(&self.transactions, bytes, append_all).await.unwrap_or_else(stopping)
    }

    async fn states(&self, batches: &[InRoute]) -> Vec<Result<TxnState, ReadError>> {
        let unwrap = |told| match told {
            Told::TxnStates(states) => states,
            other => unreachable!("a question for states of transactions is answered with such, not {other:?}"),
        };
        let asked = batches.iter().map(|batch| (batch.shard, (batch.id, batch.producer))).collect();
        scatter(&self.shard, asked, Ask::TxnStates, unwrap, || Err(stopping())).await
    }

    /// A code for each batch. One question, as a rule: a client sends what one producer has.
    async fn ask_coordinator(
        &self,
        transactional_id: &str,
        version: i16,
        unverified: &[(InRoute, VerificationGuard)],
    ) -> Vec<ErrorCode> {
        let of =
            |(batch, _): &(InRoute, VerificationGuard)| (batch.producer.producer_id, batch.producer.producer_epoch);
        let mut codes = Vec::with_capacity(unverified.len());
        for same in unverified.chunk_by(|a, b| of(a) == of(b)) {
            let (producer_id, producer_epoch) = of(&same[0]);
            let ask = VerifyPartitions {
                transactional_id: transactional_id.to_owned(),
                producer_id,
                producer_epoch,
                partitions: same.iter().map(|(batch, _)| batch.id).collect(),
                verify_only: version < V2,
            };
            codes.extend(add_or_verify(&self.transactions, ask).await);
        }
        codes
    }
}

/// What a producer is told of the coordinator's code, if it is not yes: as Kafka tells it.
fn refusal(code: ErrorCode, version: i16) -> Option<Refusal> {
    let told = match code {
        ErrorCode::None => return None,
        ErrorCode::TransactionAbortable if version < ABORTABLE => ErrorCode::InvalidTxnState,
        ErrorCode::ProducerFenced => ErrorCode::InvalidProducerEpoch,
        ErrorCode::ConcurrentTransactions
        | ErrorCode::CoordinatorLoadInProgress
        | ErrorCode::CoordinatorNotAvailable
        | ErrorCode::NotCoordinator => ErrorCode::NotEnoughReplicas,
        code => code,
    };
    Some((told, Some(format!("The partition is not in the transaction, its coordinator says {code}."))))
}
