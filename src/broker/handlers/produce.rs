//! Produce: records to the shards that own their partitions, in order; the answer when the acknowledgement is due.
//!
//! Everything is enqueued before the next request of the connection is read, so that one connection's batches are in
//! the log in the order in which they were sent, while the answers wait for their group commits together. Only the first
//! batch of a transaction waits before that, for its coordinator.

use super::Handlers;
use super::produce_txn::is_transactional;
use super::remote::{Appending, Appends, Ask, Told, append};
use super::resolve::{Resolved, led_partition};
use crate::broker::connection::{Answer, RequestContext};
use crate::broker::messages::{Reply, Request as MeshRequest};
use crate::broker::metrics::Meters;
use crate::broker::passage::Pass;
use crate::broker::pipeline::{Answered, Close};
use crate::broker::shard::topic_config;
use crate::broker::store::{Acks, AppendError, Appended, VerificationGuard};
use crate::config::BrokerConfig;
use crate::controller::{ClusterImage, TopicImage};
use crate::error_code::ErrorCode;
use crate::ids::{PartitionId, TopicId};
use crate::latency::{Stage, Timeline};
use crate::protocol::produce::{self, PartitionOutcome, ProduceRequest, ProduceTopic, TopicOutcome};
use crate::protocol::{ApiKey, Request, ResponseFrame};
use bytes::BytesMut;
use coreline_io::{Monotonic, Runtime};
use coreline_shards::ShardId;
use futures_util::future::LocalBoxFuture;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

/// The one client id that may write to internal topics, as in Kafka.
const ADMIN_CLIENT_ID: &str = "__admin_client";
/// `acks=all`.
const ACKS_ALL: i16 = -1;
/// Where a batch says how long it is after the first twelve bytes.
const BATCH_LENGTH_AT: usize = 8;
const BATCH_OVERHEAD: usize = 12;

/// `min.insync.replicas` by topic, of one image.
#[derive(Debug, Default)]
pub(super) struct MinInSync(RefCell<(u64, HashMap<TopicId, i32>)>);

impl MinInSync {
    fn get(&self, config: &BrokerConfig, image: &ClusterImage, topic: &TopicImage) -> i32 {
        let (index, by_topic) = &mut *self.0.borrow_mut();
        if *index != image.index {
            *index = image.index;
            by_topic.clear();
        }
        *by_topic.entry(topic.id).or_insert_with(|| topic_config(config, image, topic).1)
    }
}

/// A refusal before the log was asked.
pub(super) type Refusal = (ErrorCode, Option<String>);

/// Records on their way, by owning shard, and where in the answer each one's outcome goes.
#[derive(Default)]
pub(super) struct Routed {
    pub(super) by_shard: BTreeMap<ShardId, Route>,
}

#[derive(Default)]
pub(super) struct Route {
    /// (topic, partition) in the answer.
    pub(super) places: Vec<(usize, usize)>,
    pub(super) records: Vec<(PartitionId, BytesMut, Option<VerificationGuard>)>,
}

impl Routed {
    /// By the shards of a newer image. What is not in it stays where it was, and is unknown there.
    fn again(self, image: &ClusterImage) -> Self {
        let mut routed = Self::default();
        for (before, Route { places, records }) in self.by_shard {
            for (place, record) in places.into_iter().zip(records) {
                let topic = image.topic_by_id(record.0.topic);
                let partition = topic.and_then(|topic| topic.partition(record.0.index.0));
                let shard = partition.map_or(before, |partition| ShardId(partition.shard));
                let route = routed.by_shard.entry(shard).or_default();
                route.places.push(place);
                route.records.push(record);
            }
        }
        routed
    }
}

/// The outcomes of one shard's records, and when they came back from another one.
type Outcomes = Option<(Appending, Option<Monotonic>)>;
pub(super) type Waiting = (Vec<(usize, usize)>, LocalBoxFuture<'static, Outcomes>);

impl<R: Runtime> Handlers<R> {
    pub(super) async fn produce(&self, context: RequestContext, body: BytesMut) -> Result<Answer, Close> {
        let RequestContext { request, session, mut timeline } = context;
        let mut asked = produce::parse(&request, body).map_err(Close::because)?;
        let transactional_id = asked.transactional_id.take();
        let acks = asked.acks;
        let admin = request.header.client_id.as_deref() == Some(ADMIN_CLIENT_ID);
        let (mut outcomes, routed) = self.route(asked, transactional_id.is_some(), admin);
        // Until all shards have what is theirs.
        let (routed, _pass) = self.pass_records(routed).await;
        for (shard, route) in &routed.by_shard {
            session.borrow_mut().touched.add(*shard, route.places.len());
        }
        let waiting = match transactional_id {
            Some(id) => {
                timeline.mark_now(Stage::Parse, || self.shard.runtime.now().nanos);
                let asked = (request.header.api_version, acks);
                self.in_transaction(&id, asked, routed, &mut outcomes, &mut timeline).await
            }
            None => self.enqueue(acks, routed, &mut timeline).await,
        };
        Ok(Answer::Later(Box::pin(finish(Rc::clone(&self.shard.meters), request, acks, outcomes, waiting, timeline))))
    }

    /// Waits while a partition of these moves to another shard, and finds it there. No other request of the connection is
    /// read meanwhile: its order stays.
    async fn pass_records(&self, mut routed: Routed) -> (Routed, Pass) {
        let passage = &self.shard.passage;
        loop {
            let mut ids = routed.by_shard.values().flat_map(|route| route.records.iter().map(|(id, ..)| *id));
            let Some(moving) = ids.find(|id| passage.is_closed(*id)) else { return (routed, passage.enter()) };
            passage.opened(moving).await;
            routed = routed.again(&self.shard.image());
        }
    }

    /// Finds each partition's shard; what is refused has its outcome already.
    fn route(&self, asked: ProduceRequest, transactional: bool, admin: bool) -> (Vec<TopicOutcome>, Routed) {
        let image = self.shard.image();
        let judge = Judge { acks: asked.acks, transactional, admin };
        let mut routed = Routed::default();
        let mut outcomes = Vec::with_capacity(asked.topics.len());
        for (t, topic) in asked.topics.into_iter().enumerate() {
            let ProduceTopic { name, id, partitions } = topic;
            // Version 13 names topics by id only.
            let (found, missing) = if name.is_empty() && !id.0.is_nil() {
                (image.topic_by_id(id), ErrorCode::UnknownTopicId)
            } else if name.is_empty() {
                (None, ErrorCode::UnknownTopicId)
            } else {
                (image.topic(&name), ErrorCode::UnknownTopicOrPartition)
            };
            let mut outcome = TopicOutcome { name, id, partitions: Vec::with_capacity(partitions.len()) };
            let needed = found.filter(|_| judge.acks == ACKS_ALL);
            let needed = needed.map_or(0, |topic| self.min_in_sync.get(&self.shard.config, &image, topic));
            for (p, partition) in partitions.into_iter().enumerate() {
                let judged = judge.records(partition.records).and_then(|records| {
                    let topic = found.ok_or((missing, None))?;
                    Ok((self.place(&judge, needed, topic, partition.index)?, records))
                });
                let (error, message) = match judged {
                    Ok((resolved, records)) => {
                        let route = routed.by_shard.entry(resolved.shard).or_default();
                        route.places.push((t, p));
                        route.records.push((resolved.id, records, None));
                        (ErrorCode::None, None)
                    }
                    Err(refusal) => refusal,
                };
                outcome.partitions.push(PartitionOutcome::error(partition.index, error, message));
            }
            outcomes.push(outcome);
        }
        (outcomes, routed)
    }

    /// `needed`: `min.insync.replicas`, where it counts.
    fn place(&self, judge: &Judge, needed: i32, topic: &TopicImage, index: i32) -> Result<Resolved, Refusal> {
        let (resolved, partition) = led_partition(&self.shard, topic, index).map_err(|code| (code, None))?;
        if topic.internal && !judge.admin {
            return Err((ErrorCode::InvalidTopicException, Some(format!("{} is an internal topic.", topic.name))));
        }
        if judge.acks == ACKS_ALL {
            // As Kafka: never more than the partition has replicas.
            let replicas = i32::try_from(partition.replicas.len()).unwrap_or(i32::MAX);
            let (needed, in_sync) = (needed.min(replicas), partition.isr.len());
            if i64::from(needed) > in_sync as i64 {
                let message = format!("min.insync.replicas={needed}, in sync: {in_sync}");
                return Err((ErrorCode::NotEnoughReplicas, Some(message)));
            }
        }
        Ok(resolved)
    }

    /// Gives every shard its records. Waits for the mesh first, if it is crowded, and then for nothing in between.
    pub(super) async fn enqueue(&self, acks: i16, routed: Routed, timeline: &mut Timeline) -> Vec<Waiting> {
        let (mesh, runtime) = (&self.shard.mesh, &self.shard.runtime);
        let mut now = runtime.now();
        timeline.mark(Stage::Parse, now.nanos);
        let mut permits = BTreeMap::new();
        for to in routed.by_shard.keys().filter(|to| **to != self.shard.id) {
            permits.insert(*to, mesh.reserve(*to).await);
        }
        if !permits.is_empty() {
            now = runtime.now();
            timeline.mark(Stage::Hop, now.nanos);
        }
        let (acks, now_ms) = (acks_of(acks), runtime.wall_ms());
        let send = |(to, route): (ShardId, Route)| -> Waiting {
            let appends = Appends { acks, now_ms, records: route.records };
            let Some(permit) = permits.remove(&to) else {
                let wait = append(&self.shard, appends, now);
                return (route.places, Box::pin(async move { Some((wait.await, None)) }));
            };
            let clock = runtime.clone();
            let call = permit.map(|permit| permit.call(MeshRequest::Data(Ask::Append(appends))));
            let wait = async move {
                match call.ok()?.await {
                    Ok(Reply::Data(Told::Appended(told))) => Some((told, Some(clock.now()))),
                    Ok(other) => unreachable!("an append is answered with its outcome, not {other:?}"),
                    Err(_) => None,
                }
            };
            (route.places, Box::pin(wait))
        };
        routed.by_shard.into_iter().map(send).collect()
    }
}

/// When an append of a request is answered.
pub(super) const fn acks_of(acks: i16) -> Acks {
    if acks == 0 { Acks::None } else { Acks::Local }
}

/// What can be said of a partition's records without reading them.
struct Judge {
    acks: i16,
    /// The request names a transactional id.
    transactional: bool,
    /// May write to internal topics.
    admin: bool,
}

impl Judge {
    fn records(&self, records: Option<BytesMut>) -> Result<BytesMut, Refusal> {
        if !matches!(self.acks, ACKS_ALL..=1) {
            let message = format!("acks={}: expected 0, 1 or -1 (all)", self.acks);
            return Err((ErrorCode::InvalidRequiredAcks, Some(message)));
        }
        let invalid = |message: String| Err((ErrorCode::InvalidRecord, Some(message)));
        let Some(records) = records else { return invalid("expected one record batch, found null".into()) };
        let Some(length) = records.get(BATCH_LENGTH_AT..BATCH_OVERHEAD) else {
            return invalid(format!("expected one record batch, found {} bytes", records.len()));
        };
        let length = i32::from_be_bytes(length.try_into().expect("four bytes"));
        let end = usize::try_from(length).ok().and_then(|n| n.checked_add(BATCH_OVERHEAD));
        if end != Some(records.len()) {
            let found = records.len();
            return invalid(format!(
                "expected exactly one record batch, found {found} bytes of which it takes {end:?}"
            ));
        }
        if !self.transactional && is_transactional(&records) {
            let message = "The batch is of a transaction, and the request names none.".to_owned();
            return Err((ErrorCode::TransactionalIdAuthorizationFailed, Some(message)));
        }
        Ok(records)
    }
}

/// Waits for the log and builds the answer.
async fn finish(
    meters: Rc<Meters>,
    request: Request,
    acks: i16,
    mut outcomes: Vec<TopicOutcome>,
    waiting: Vec<Waiting>,
    timeline: Timeline,
) -> Result<Answered, Close> {
    // Shards work beside each other: the request took as long as the slowest.
    let mut slowest = timeline;
    for (places, wait) in waiting {
        let told = wait.await;
        for (i, (t, p)) in places.into_iter().enumerate() {
            let outcome = &mut outcomes[t].partitions[p];
            match &told {
                Some((told, _)) => settle(outcome, &told.results[i]),
                None => outcome.error = ErrorCode::NotLeaderOrFollower,
            }
        }
        if let Some((told, back)) = told {
            let mut here = timeline;
            told.mark(&mut here, back);
            if here.ended() > slowest.ended() {
                slowest = here;
            }
        }
    }
    let timeline = slowest;
    for outcome in outcomes.iter().flat_map(|topic| &topic.partitions).filter(|outcome| outcome.error.is_error()) {
        meters.failed(ApiKey::Produce, outcome.error);
    }
    if acks != 0 {
        return Ok(Answered { frame: produce::encode(&request, &outcomes), timeline });
    }
    // Nobody waits for an answer: a closed connection is the only way to tell.
    let mut failed = outcomes.iter().flat_map(|t| t.partitions.iter().map(move |p| (t, p)));
    match failed.find(|(_, p)| p.error.is_error()) {
        None => Ok(Answered { frame: ResponseFrame::default(), timeline }),
        Some((topic, p)) => {
            let name = if topic.name.is_empty() { topic.id.to_string() } else { topic.name.clone() };
            Err(Close(format!("acks=0 and {} for {name}-{}", p.error, p.index)))
        }
    }
}

fn settle(outcome: &mut PartitionOutcome, result: &Result<Appended, AppendError>) {
    match result {
        Ok(appended) => {
            outcome.base_offset = appended.base_offset.0;
            outcome.log_append_time_ms = appended.log_append_time_ms;
            outcome.log_start_offset = appended.log_start_offset.0;
        }
        Err(error) => {
            outcome.error = error.code;
            outcome.error_message = Some(error.message.clone());
            outcome.record_errors = error.record_errors.iter().map(|e| (e.batch_index, e.message.clone())).collect();
        }
    }
}
