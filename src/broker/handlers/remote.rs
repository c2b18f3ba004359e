//! What data handlers ask of the shard that owns a partition: the same words for this shard and for others, which are
//! asked through the mesh.

use super::Handlers;
use crate::broker::Shard;
use crate::broker::messages::{BrokerMesh, Reply, Request};
use crate::broker::store::{
    Acks, AppendError, AppendOrigin, Appended, CommitTimes, CompactionState, EpochEnd, Isolation, LogStore,
    OffsetFound, OffsetQuery, ProducerInfo, ReadError, ReadRequest, ReadResult, TxnAppend, TxnMarker, TxnProducer,
    TxnState, VerificationGuard,
};
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, PartitionId};
use crate::latency::{Flush, Stage, Timeline};
use bytes::BytesMut;
use coreline_io::{Monotonic, Runtime, TaskGroup};
use coreline_shards::{ReplyTo, ShardId};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

/// Partitions that one question is answered for at a time.
const TOGETHER_MAX: usize = 512;

/// Records for partitions of one shard.
#[derive(Debug)]
pub struct Appends {
    /// When to answer.
    pub acks: Acks,
    /// The wall clock where they came in.
    pub now_ms: i64,
    /// One batch each, in the order in which they go into the log; of a transaction's first one with its guard.
    pub records: Vec<(PartitionId, BytesMut, Option<VerificationGuard>)>,
}

/// A read of one partition.
#[derive(Clone, Copy, Debug)]
pub struct ReadOne {
    /// Of which.
    pub id: PartitionId,
    /// `max_bytes` is the partition's bound; the budget of all is in [`Ask::Read`].
    pub request: ReadRequest,
}

/// ListOffsets for one partition.
#[derive(Clone, Copy, Debug)]
pub struct OffsetOne {
    /// Of which.
    pub id: PartitionId,
    /// What is asked.
    pub query: OffsetQuery,
    /// The epoch the client believes in.
    pub current_leader_epoch: Option<LeaderEpoch>,
    /// What is not readable for it is not found.
    pub isolation: Isolation,
}

/// OffsetForLeaderEpoch for one partition.
#[derive(Clone, Copy, Debug)]
pub struct EpochOne {
    /// Of which.
    pub id: PartitionId,
    /// What is asked.
    pub epoch: LeaderEpoch,
    /// The epoch the client believes in.
    pub current_leader_epoch: Option<LeaderEpoch>,
}

/// What is asked of the shard that owns the partitions.
#[derive(Debug)]
pub enum Ask {
    /// Append.
    Append(Appends),
    /// Read, in this order, until the budget is used up; the first that has records gives at least a batch.
    Read {
        /// The partitions.
        reads: Vec<ReadOne>,
        /// Bytes for all of them.
        max_bytes: usize,
    },
    /// Find offsets.
    Offsets(Vec<OffsetOne>),
    /// Find ends of epochs.
    EpochEnds(Vec<EpochOne>),
    /// List producers.
    Producers(Vec<PartitionId>),
    /// Delete records before an offset; -1 is the high watermark.
    DeleteRecords(Vec<(PartitionId, Offset)>),
    /// Compact now, or only say how far that is.
    Compact(Vec<(PartitionId, bool)>),
    /// End transactions.
    WriteMarkers(Vec<TxnMarker>),
    /// Is the producer's transaction open in the partition?
    TxnStates(Vec<(PartitionId, TxnProducer)>),
}

/// The answer, item by item in the order of the question.
#[derive(Debug)]
pub enum Told {
    /// To [`Ask::Append`].
    Appended(Appending),
    /// To [`Ask::Read`].
    Read {
        /// What was read.
        results: Vec<Result<ReadResult, ReadError>>,
        /// How long that took here.
        took: Duration,
    },
    /// To [`Ask::Offsets`].
    Offsets(Vec<Result<Option<OffsetFound>, ReadError>>),
    /// To [`Ask::EpochEnds`].
    EpochEnds(Vec<Result<EpochEnd, ReadError>>),
    /// To [`Ask::Producers`].
    Producers(Vec<Result<Vec<ProducerInfo>, ReadError>>),
    /// To [`Ask::DeleteRecords`]: the first offsets.
    RecordsDeleted(Vec<Result<Offset, ReadError>>),
    /// To [`Ask::Compact`].
    Compacting(Vec<Result<CompactionState, ReadError>>),
    /// To [`Ask::WriteMarkers`]: their offsets.
    MarkersWritten(Vec<Result<Offset, AppendError>>),
    /// To [`Ask::TxnStates`].
    TxnStates(Vec<Result<TxnState, ReadError>>),
}

/// What became of [`Appends`], and when they were where.
#[derive(Debug)]
pub struct Appending {
    /// One for each.
    pub results: Vec<Result<Appended, AppendError>>,
    /// The shard that did it.
    pub shard: ShardId,
    /// When they came to it.
    pub arrived: Monotonic,
    /// Of the one that was done last.
    pub times: CommitTimes,
}

impl Appending {
    /// Writes the stages into a request's timeline. `back`: when the answer came, if from another shard.
    pub(super) fn mark(&self, timeline: &mut Timeline, back: Option<Monotonic>) {
        let CommitTimes { entered, began, done, group, partitions, bytes } = self.times;
        // Of a transaction's first batches the coordinator may have been asked before.
        timeline.mark(if back.is_some() { Stage::Hop } else { Stage::Handle }, self.arrived.nanos);
        timeline.mark(Stage::Intake, entered.nanos);
        timeline.mark(Stage::Journal, began.nanos);
        timeline.mark(Stage::Device, done.nanos);
        if done > began {
            let nanos = done.nanos - began.nanos;
            timeline.waited_on(Flush { shard: self.shard.0, group, partitions, bytes, nanos });
        }
        timeline.mark(Stage::Hop, back.unwrap_or_default().nanos);
    }
}

/// Enqueues appends now, in order; the future waits for them.
pub(super) fn append<R: Runtime>(
    shard: &Shard<R>,
    appends: Appends,
    arrived: Monotonic,
) -> impl Future<Output = Appending> + 'static {
    let (store, shard) = (&shard.store, shard.id);
    let origin = AppendOrigin { acks: appends.acks, now_ms: appends.now_ms };
    let one = |(id, records, guard)| (id, records, TxnAppend { guard, by_coordinator: false });
    let outcomes = store.append_each(appends.records.into_iter().map(one).collect(), origin);
    async move {
        let outcomes = outcomes.await;
        let mut last = CommitTimes::default();
        let mut results = Vec::with_capacity(outcomes.len());
        results.extend(outcomes.into_iter().map(|outcome| {
            outcome.map(|(appended, times)| {
                if times.done >= last.done {
                    last = times;
                }
                appended
            })
        }));
        Appending { results, shard, arrived, times: last }
    }
}

/// Asks for many partitions at a time, because what must be loaded first is loaded together; but not for all of a hundred
/// thousand.
async fn together<Q, A, F: Future<Output = A>>(items: Vec<Q>, ask: impl FnMut(Q) -> F) -> Vec<A> {
    stream::iter(items).map(ask).buffered(TOGETHER_MAX).collect().await
}

/// Answers for partitions of this shard.
async fn answer<R: Runtime>(shard: &Shard<R>, ask: Ask) -> Told {
    let (store, now_ms) = (&shard.store, shard.runtime.wall_ms());
    match ask {
        Ask::Append(appends) => Told::Appended(append(shard, appends, shard.runtime.now()).await),
        Ask::Read { reads, max_bytes } => {
            let began = shard.runtime.now();
            let results = read(store, reads, max_bytes).await;
            Told::Read { results, took: shard.runtime.now().since(began) }
        }
        Ask::Offsets(items) => Told::Offsets(together(items, |item| list_offset(store, item)).await),
        Ask::EpochEnds(items) => {
            let find = |item: EpochOne| store.offset_for_leader_epoch(item.id, item.epoch, item.current_leader_epoch);
            Told::EpochEnds(together(items, find).await)
        }
        Ask::Producers(ids) => Told::Producers(together(ids, |id| store.producers(id)).await),
        Ask::Compact(items) => {
            let mut found = Vec::with_capacity(items.len());
            for (id, begin) in items {
                found.push(if begin { store.compact_now(id).await } else { store.compaction_state(id).await });
            }
            Told::Compacting(found)
        }
        // At a time: they share group commits.
        Ask::DeleteRecords(items) => {
            Told::RecordsDeleted(together(items, |(id, to)| store.delete_records(id, to)).await)
        }
        Ask::WriteMarkers(markers) => Told::MarkersWritten(store.write_txn_markers(markers, now_ms).await),
        Ask::TxnStates(items) => {
            let mut found = Vec::with_capacity(items.len());
            for (id, producer) in items {
                found.push(store.txn_state(id, producer, now_ms).await);
            }
            Told::TxnStates(found)
        }
    }
}

async fn list_offset<R: Runtime>(store: &Rc<LogStore<R>>, asked: OffsetOne) -> Result<Option<OffsetFound>, ReadError> {
    let found = store.list_offset(asked.id, asked.query, asked.current_leader_epoch).await?;
    if matches!(asked.query, OffsetQuery::Earliest | OffsetQuery::Latest(_)) {
        return Ok(found);
    }
    let end = store.load_end_offsets(asked.id).await?.readable(asked.isolation);
    Ok(found.filter(|found| found.offset < end))
}

async fn read<R: Runtime>(
    store: &Rc<LogStore<R>>,
    reads: Vec<ReadOne>,
    max_bytes: usize,
) -> Vec<Result<ReadResult, ReadError>> {
    let mut results = Vec::with_capacity(reads.len());
    let (mut left, mut none_yet) = (max_bytes, true);
    // One after the other, but those that must be loaded first are loaded together.
    if reads.len() > 1 {
        reads.iter().for_each(|read| store.start_load(read.id));
    }
    for ReadOne { id, request } in reads {
        let request = ReadRequest { max_bytes: request.max_bytes.min(left), at_least_one: none_yet, ..request };
        let result = store.read(id, request).await;
        if let Ok(found) = &result {
            let len: usize = found.records.iter().map(bytes::Bytes::len).sum();
            left = left.saturating_sub(len);
            none_yet &= len == 0;
        }
        results.push(result);
    }
    results
}

/// The error of a partition whose shard does not answer: the node stops.
pub(super) fn stopping() -> ReadError {
    ReadError::new(ErrorCode::NotLeaderOrFollower, "the node is stopping")
}

/// The error of a partition that is not asked.
pub(super) fn refused(code: ErrorCode) -> ReadError {
    ReadError::new(code, code.text())
}

/// Asks each item's shard, all at a time; the answers in the order of the items.
pub(super) async fn scatter<R: Runtime, Q, A>(
    shard: &Shard<R>,
    items: Vec<(ShardId, Q)>,
    wrap: impl Fn(Vec<Q>) -> Ask,
    unwrap: impl Fn(Told) -> Vec<A>,
    stopping: impl Fn() -> A,
) -> Vec<A> {
    let count = items.len();
    let mut by_shard: BTreeMap<ShardId, (Vec<usize>, Vec<Q>)> = BTreeMap::new();
    for (place, (to, item)) in items.into_iter().enumerate() {
        let (places, items) = by_shard.entry(to).or_default();
        places.push(place);
        items.push(item);
    }
    let mut gathered: Vec<Option<A>> = std::iter::repeat_with(|| None).take(count).collect();
    let mut place_all = |places: Vec<usize>, answers: Option<Vec<A>>| {
        let answers = answers.unwrap_or_else(|| places.iter().map(|_| stopping()).collect());
        assert_eq!(answers.len(), places.len(), "an answer for each item");
        for (place, answer) in places.into_iter().zip(answers) {
            gathered[place] = Some(answer);
        }
    };
    if by_shard.len() == 1 && by_shard.contains_key(&shard.id) {
        // The usual case, once connections are where their partitions are.
        let (places, items) = by_shard.remove(&shard.id).expect("just seen");
        place_all(places, Some(unwrap(answer(shard, wrap(items)).await)));
    } else {
        let calls = by_shard.into_iter().map(|(to, (places, items))| {
            let ask = wrap(items);
            async move { (places, ask_shard(shard, to, ask).await) }
        });
        for (places, told) in join_all(calls).await {
            place_all(places, told.map(&unwrap));
        }
    }
    gathered.into_iter().map(|answer| answer.expect("every place was filled")).collect()
}

/// [`scatter`] for items of which some are refused before anybody is asked: each error stays in its place.
pub(super) async fn scatter_resolved<R: Runtime, Q, T, E>(
    shard: &Shard<R>,
    items: impl IntoIterator<Item = Result<(ShardId, Q), E>>,
    wrap: impl Fn(Vec<Q>) -> Ask,
    unwrap: impl Fn(Told) -> Vec<Result<T, E>>,
    stopping: impl Fn() -> E,
) -> Vec<Result<T, E>> {
    let mut asks = Vec::new();
    let refused: Vec<Option<E>> = items
        .into_iter()
        .map(|item| {
            item.map_or_else(Some, |ask| {
                asks.push(ask);
                None
            })
        })
        .collect();
    let mut answers = scatter(shard, asks, wrap, unwrap, || Err(stopping())).await.into_iter();
    let answer = |refused| match refused {
        Some(error) => Err(error),
        None => answers.next().expect("an answer for each item that was asked"),
    };
    refused.into_iter().map(answer).collect()
}

async fn ask_shard<R: Runtime>(shard: &Shard<R>, to: ShardId, ask: Ask) -> Option<Told> {
    if to == shard.id {
        return Some(answer(shard, ask).await);
    }
    let (way, asked) = (shard.meters.way(), shard.runtime.now());
    match shard.mesh.call(to, Request::Data(ask)).await {
        Ok(Reply::Data(told)) => Some(told),
        Ok(Reply::Answered { told, took }) => {
            way.iter().for_each(|way| way.hopped(asked, took, shard.runtime.now()));
            Some(told)
        }
        Ok(other) => unreachable!("a question about data is answered with data, not {other:?}"),
        Err(_) => None,
    }
}

impl<R: Runtime> Handlers<R> {
    /// Another shard asks. Records are in the log, in order, when this returns.
    pub fn on_ask(&self, ask: Ask, reply: ReplyTo<BrokerMesh>) {
        let runtime = &self.shard.runtime;
        // A partition does not leave in the middle, also where whoever asked has gone.
        let pass = self.shard.passage.answer();
        let _detached = match ask {
            Ask::Append(appends) => {
                let wait = append(&self.shard, appends, runtime.now());
                runtime.spawn(TaskGroup::Requests, "remote-append", async move {
                    reply.send(Reply::Data(Told::Appended(wait.await)));
                    drop(pass);
                })
            }
            ask => {
                let shard = Rc::clone(&self.shard);
                runtime.spawn(TaskGroup::Requests, "remote-ask", async move {
                    let began = shard.runtime.now();
                    let told = answer(&shard, ask).await;
                    reply.send(Reply::Answered { told, took: shard.runtime.now().since(began) });
                    drop(pass);
                })
            }
        };
    }
}
