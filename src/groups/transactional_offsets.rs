//! Offsets that are committed in transactions (TxnOffsetCommit, KIP-98, KIP-447): pending until the marker of their
//! transaction is in the partition, then visible or forgotten.
//!
//! Of several commits of one partition the last one in the log counts, as long as its transaction is committed: a pending
//! offset that anything was committed after stays pending, so that nobody takes what may still change for stable, but has
//! nothing to say when its transaction ends.

use super::coordinator::{Context, Coordinator, Group, Groups, slot_or_new};
use super::offsets::{GroupOffsets, commit_value, slot_for_commit};
use super::records::{Key, OffsetCommitValue, ReplayError, offset_commit_key};
use super::{Record, Token};
use crate::coordinator::InTransaction;
use crate::error_code::ErrorCode;
use crate::ids::{ProducerEpoch, ProducerId};
use crate::log::verification::VerificationGuard;
use kafka_protocol::messages as codec;
use kafka_protocol::messages::txn_offset_commit_response::{
    TxnOffsetCommitResponsePartition, TxnOffsetCommitResponseTopic,
};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The pending offsets of a group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Pending {
    /// By producer, topic and partition. Invariant: a producer that is here has offsets.
    producers: BTreeMap<ProducerId, BTreeMap<(Arc<str>, i32), Waiting>>,
    /// Larger for what came later.
    last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Waiting {
    number: u64,
    /// Of its producer; -1 of what was loaded, which is before any marker that comes.
    epoch: ProducerEpoch,
    /// None when something was committed after it.
    value: Option<OffsetCommitValue>,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// Whether the offset of a partition is in the balance.
    pub(super) fn has(&self, topic: &str, partition: i32) -> bool {
        self.producers.values().any(|all| all.keys().any(|(name, index)| **name == *topic && *index == partition))
    }

    /// Something was committed to the partition: what was pending before a number has nothing to say any more.
    pub(super) fn outdate(&mut self, topic: &str, partition: i32, before: u64) {
        for all in self.producers.values_mut() {
            let of_it = all.iter_mut().filter(|((name, index), _)| **name == *topic && *index == partition);
            of_it.filter(|(_, waiting)| waiting.number < before).for_each(|(_, waiting)| waiting.value = None);
        }
    }
}

impl GroupOffsets {
    fn add_pending(
        &mut self,
        (producer, epoch): (ProducerId, ProducerEpoch),
        topic: Arc<str>,
        partition: i32,
        value: OffsetCommitValue,
    ) {
        self.pending.last += 1;
        let waiting = Waiting { number: self.pending.last, epoch, value: Some(value) };
        self.pending.producers.entry(producer).or_default().insert((topic, partition), waiting);
    }

    /// The producer's transaction has ended. True: it has a later one here.
    fn end(&mut self, producer: ProducerId, ended: Ended) -> bool {
        let Some(all) = self.pending.producers.get_mut(&producer) else { return false };
        let all: Vec<_> = all.extract_if(.., |_, waiting| i32::from(waiting.epoch.0) < ended.before).collect();
        for ((topic, partition), waiting) in all {
            if let Some(value) = waiting.value.filter(|_| ended.commit) {
                self.put(&topic, partition, value);
                self.pending.outdate(&topic, partition, waiting.number);
            }
        }
        let goes_on = self.pending.producers.get(&producer).is_some_and(|all| !all.is_empty());
        if !goes_on {
            self.pending.producers.remove(&producer);
        }
        goes_on
    }
}

/// The end of a producer's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Of transactions with smaller epochs. A marker may come once more, and be told when the next transaction's offsets
    /// are pending already although they lie behind it in the log.
    before: i32,
    /// It was committed.
    commit: bool,
}

impl Ended {
    /// By a marker that is told when it is committed; `v2`: its epoch is the next transaction's.
    #[must_use]
    pub fn by_marker(epoch: ProducerEpoch, v2: bool, commit: bool) -> Self {
        Self { before: i32::from(epoch.0) + i32::from(!v2), commit }
    }

    /// By a marker that is read in the order of the log: of all that was before it.
    #[must_use]
    pub const fn in_order(commit: bool) -> Self {
        Self { before: i32::MAX, commit }
    }
}

/// Which groups a producer has pending offsets in.
pub(super) type OpenTransactions = BTreeMap<ProducerId, BTreeSet<Arc<str>>>;

impl Coordinator {
    /// As [`Coordinator::replay`], of a record of a producer's transaction, which has not ended yet.
    ///
    /// # Errors
    /// The record cannot be understood.
    pub fn replay_in_transaction(
        &mut self,
        producer: ProducerId,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), ReplayError> {
        // Nothing else is written in transactions.
        let Some(Key::OffsetCommit { group, topic, partition }) = Key::decode(key)? else { return Ok(()) };
        let Some(value) = value.map(OffsetCommitValue::decode).transpose()? else { return Ok(()) };
        slot_or_new(&mut self.groups, &group, 0).offsets.add_pending(
            (producer, ProducerEpoch(-1)),
            topic,
            partition,
            value,
        );
        self.open.entry(producer).or_default().insert(group);
        Ok(())
    }

    /// The marker of a producer's transaction is in the log.
    pub fn end_transaction(&mut self, producer: ProducerId, ended: Ended) {
        let mut of_groups = self.open.remove(&producer).unwrap_or_default();
        of_groups.retain(|group| self.groups.get_mut(group).is_some_and(|slot| slot.offsets.end(producer, ended)));
        if !of_groups.is_empty() {
            self.open.insert(producer, of_groups);
        }
    }
}

/// TxnOffsetCommit. Either all is refused with one code, or each partition is judged by its metadata's length. Whether the
/// topics are there, and whether the transaction is going on, is for the handler to judge.
pub(super) fn commit(
    cx: &mut Context<'_>,
    (groups, open): (&mut Groups, &mut OpenTransactions),
    token: Token,
    request: &codec::TxnOffsetCommitRequest,
    guard: Option<VerificationGuard>,
) {
    let refused = validate(groups, request).err();
    let (producer, epoch) = (ProducerId(request.producer_id.0), ProducerEpoch(request.producer_epoch));
    let mut response = codec::TxnOffsetCommitResponse::default();
    let before = cx.effects.records.len();
    for topic in &request.topics {
        let name: Arc<str> = Arc::from(&**topic.name);
        let topic_id = cx.topics.id_of(&name).unwrap_or_default();
        let partitions = topic.partitions.iter().map(|partition| {
            let index = partition.partition_index;
            let committed = (partition.committed_offset, partition.committed_leader_epoch);
            let value = match refused {
                Some(code) => Err(code),
                None => commit_value(cx, topic_id, committed, partition.committed_metadata.as_deref(), -1),
            };
            let code = match value {
                Err(code) => code,
                Ok(value) => {
                    let key = offset_commit_key(&request.group_id, &name, index);
                    cx.effects.records.push(Record { key, value: Some(value.encode()) });
                    let slot = slot_for_commit(cx, groups, &request.group_id);
                    slot.offsets.add_pending((producer, epoch), Arc::clone(&name), index, value);
                    ErrorCode::None
                }
            };
            TxnOffsetCommitResponsePartition::default().with_partition_index(index).with_error_code(code.code())
        });
        let partitions = partitions.collect();
        response
            .topics
            .push(TxnOffsetCommitResponseTopic::default().with_name(topic.name.clone()).with_partitions(partitions));
    }
    if cx.effects.records.len() > before {
        assert_eq!(before, 0, "records of a transaction are a step of their own");
        cx.effects.transaction = Some(InTransaction { producer_id: producer, producer_epoch: epoch, guard });
        open.entry(producer).or_default().insert(Arc::from(&**request.group_id));
    }
    cx.answer(token, super::Response::TxnOffsetCommit(response));
}

fn validate(groups: &Groups, request: &codec::TxnOffsetCommitRequest) -> Result<(), ErrorCode> {
    let (member, instance) = (&request.member_id, request.group_instance_id.as_deref());
    let generation = request.generation_id;
    match groups.get(request.group_id.as_str()).map(|slot| &slot.group) {
        Some(Group::Classic(group)) => group.validate_offset_commit(member, instance, generation, true),
        // Clients before KIP-447 say nothing of their membership.
        Some(Group::Consumer(_)) if generation < 0 && member.is_empty() && instance.is_none() => Ok(()),
        Some(Group::Consumer(group)) => {
            group.validate_offset_commit(member, instance, generation, i16::MAX).map_err(|code| match code {
                // Not a word of this API.
                ErrorCode::StaleMemberEpoch => ErrorCode::IllegalGeneration,
                code => code,
            })
        }
        None if generation < 0 => Ok(()),
        None => Err(ErrorCode::IllegalGeneration),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_that_comes_late_leaves_the_next_transaction_alone() {
        let (producer, epoch) = (ProducerId(7), ProducerEpoch);
        let mut offsets = GroupOffsets::default();
        let value = OffsetCommitValue { offset: 10, ..OffsetCommitValue::default() };
        offsets.add_pending((producer, epoch(4)), Arc::from("t"), 0, value.clone());
        assert!(offsets.end(producer, Ended::by_marker(epoch(4), true, false)), "of the transaction before");
        assert!(offsets.end(producer, Ended::by_marker(epoch(3), false, false)), "of the life before");
        assert!(offsets.get("t", 0).is_none() && offsets.pending.has("t", 0));
        assert!(!offsets.end(producer, Ended::by_marker(epoch(5), true, true)));
        assert_eq!((offsets.get("t", 0), offsets.pending.is_empty()), (Some(&value), true));
        offsets.add_pending((producer, epoch(4)), Arc::from("t"), 0, value);
        assert!(!offsets.end(producer, Ended::by_marker(epoch(4), false, false)), "its epoch stays");
        offsets.add_pending((producer, epoch(-1)), Arc::from("t"), 0, OffsetCommitValue::default());
        assert!(!offsets.end(producer, Ended::in_order(false)) && offsets.pending.is_empty());
    }
}
