//! Fetch: reads every partition's shard, waits for more where there is too little, sends what is new.

use super::Handlers;
use super::remote::{Ask, ReadOne, Told, scatter, stopping};
use super::resolve::{Resolved, believed_epoch, led_partition};
use crate::broker::connection::RequestContext;
use crate::broker::passage::Pass;
use crate::broker::pipeline::Close;
use crate::broker::store::{Isolation, ReadError, ReadRequest, ReadResult};
use crate::controller::ClusterImage;
use crate::error_code::ErrorCode;
use crate::ids::{Offset, TopicId};
use crate::latency::{Stage, Timeline};
use crate::protocol::fetch::{self, FetchedPartition, FetchedTopic};
use crate::protocol::fetch_session::{FetchPlan, PartitionRef, Read, SessionRequest, TopicRef, Wanted};
use crate::protocol::{ApiKey, ResponseFrame};
use bytes::Bytes;
use coreline_io::Runtime;
use coreline_shards::ShardId;
use kafka_protocol::messages::FetchRequest;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// The bounds of one request.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    max_wait: Duration,
    min_bytes: usize,
    max_bytes: usize,
    isolation: Isolation,
    /// A broker asks, not a consumer.
    follower: bool,
}

/// One partition of a plan.
struct Item {
    /// Where it is; none if the answer is an error already.
    target: Option<(ShardId, ReadOne)>,
    result: Result<ReadResult, ErrorCode>,
    /// The error is the log's, not one of names: answered at once.
    log_error: bool,
}

impl Item {
    fn len(&self) -> usize {
        self.result.as_ref().map_or(0, |r| r.records.iter().map(Bytes::len).sum())
    }

    fn take(&mut self, result: Result<ReadResult, ReadError>) {
        self.log_error = result.is_err();
        self.result = result.map_err(|error| {
            tracing::debug!("fetch: {error}");
            error.code
        });
    }
}

impl<R: Runtime> Handlers<R> {
    pub(super) async fn fetch(
        &self,
        context: &RequestContext,
        asked: FetchRequest,
        timeline: &mut Timeline,
    ) -> Result<ResponseFrame, Close> {
        let request = &context.request;
        let bounds = self.bounds(&asked);
        let session = session_request(request.header.api_version, asked);
        context.session.borrow_mut().ends_fetch_session(session.epoch, session.session_id);
        let begun = self.sessions.borrow_mut().begin(self.monotonic_ms(), session);
        let plan = match begun {
            Ok(plan) => plan,
            Err(error) => return Ok(fetch::encode(request, error, 0, Vec::new())),
        };
        let (mut items, found_in) = self.items(&plan, bounds);
        for (shard, _) in items.iter().filter_map(|item| item.target) {
            context.session.borrow_mut().touched.add(shard, 1);
        }
        self.read_enough(&mut items, found_in, bounds, timeline).await;
        let reads: Vec<Read> = items.iter().map(summary).collect();
        let random = || self.shard.runtime.next_u64();
        let finished = self.sessions.borrow_mut().finish(self.monotonic_ms(), random, &plan, &reads);
        Ok(match finished {
            Ok(selection) => {
                context.session.borrow_mut().has_fetch_session(selection.session_id);
                self.count(&items, &selection.include);
                let topics = collect(&plan, items, &selection.include, bounds.isolation);
                fetch::encode(request, ErrorCode::None, selection.session_id, topics)
            }
            Err(error) => fetch::encode(request, error, 0, Vec::new()),
        })
    }

    /// What goes out, for metrics.
    fn count(&self, items: &[Item], include: &[bool]) {
        for (item, _) in items.iter().zip(include).filter(|(_, included)| **included) {
            match (&item.result, item.target) {
                (Ok(_), Some((_, read))) if item.len() > 0 => self.shard.meters.sent(read.id.topic, item.len()),
                (Ok(_), _) => {}
                (Err(error), _) => self.shard.meters.failed(ApiKey::Fetch, *error),
            }
        }
    }

    fn bounds(&self, asked: &FetchRequest) -> Bounds {
        let size = |n: i32| usize::try_from(n).unwrap_or(0);
        let replica = if asked.replica_id.0 >= 0 { asked.replica_id.0 } else { asked.replica_state.replica_id.0 };
        Bounds {
            max_wait: Duration::from_millis(u64::try_from(asked.max_wait_ms).unwrap_or(0)),
            min_bytes: size(asked.min_bytes),
            max_bytes: size(asked.max_bytes).min(self.shard.config.fetch_bytes_max),
            isolation: if asked.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted },
            follower: replica >= 0,
        }
    }

    /// The partitions of a plan, and the index of the image that says where they are.
    fn items(&self, plan: &FetchPlan, bounds: Bounds) -> (Vec<Item>, u64) {
        let image = self.shard.image();
        let item = |(partition, wanted): &(PartitionRef, Wanted)| {
            let resolved = self.resolve(&image, partition).and_then(|resolved| {
                // Replication between nodes is not served.
                if bounds.follower { Err(ErrorCode::NotLeaderOrFollower) } else { Ok(resolved) }
            });
            let target = resolved.map(|resolved| {
                let request = ReadRequest {
                    offset: Offset(wanted.fetch_offset),
                    max_bytes: usize::try_from(wanted.max_bytes).unwrap_or(0),
                    at_least_one: false,
                    isolation: bounds.isolation,
                    current_leader_epoch: believed_epoch(wanted.current_leader_epoch),
                };
                (resolved.shard, ReadOne { id: resolved.id, request })
            });
            match target {
                Ok(target) => Item { target: Some(target), result: Ok(ReadResult::default()), log_error: false },
                Err(code) => Item { target: None, result: Err(code), log_error: false },
            }
        };
        (plan.partitions.iter().map(item).collect(), image.index)
    }

    fn resolve(&self, image: &ClusterImage, partition: &PartitionRef) -> Result<Resolved, ErrorCode> {
        let topic = match &partition.topic {
            TopicRef::Name(name) => image.topic(name).ok_or(ErrorCode::UnknownTopicOrPartition)?,
            TopicRef::Id(id) => image.topic_by_id(*id).ok_or(ErrorCode::UnknownTopicId)?,
        };
        led_partition(&self.shard, topic, partition.index).map(|(resolved, _)| resolved)
    }

    /// Reads until there is enough, or something to tell at once, or the time is over.
    async fn read_enough(&self, items: &mut [Item], mut found_in: u64, bounds: Bounds, timeline: &mut Timeline) {
        let runtime = &self.shard.runtime;
        let mut now = runtime.now();
        timeline.mark(Stage::Parse, now.nanos);
        let deadline = now.plus(bounds.max_wait);
        let mut due: BTreeSet<ShardId> = items.iter().filter_map(|i| i.target.map(|(shard, _)| shard)).collect();
        loop {
            let pass = self.pass_reads(items, &mut found_in, &mut due).await;
            let took = self.read(items, &due, bounds.max_bytes).await;
            drop(pass);
            timeline.mark(Stage::Read, now.plus(took).nanos);
            now = runtime.now();
            timeline.mark(if due.iter().all(|id| *id == self.shard.id) { Stage::Read } else { Stage::Hop }, now.nanos);
            let len: usize = items.iter().map(Item::len).sum();
            if len >= bounds.min_bytes || due.is_empty() || items.iter().any(|i| i.log_error) {
                return;
            }
            let left = deadline.since(now);
            if left.is_zero() || self.shard.shutdown.is_requested() {
                return;
            }
            let mut seen: BTreeMap<ShardId, Vec<_>> = BTreeMap::new();
            for item in items.iter() {
                if let (Some((shard, read)), Ok(result)) = (&item.target, &item.result) {
                    let end = match bounds.isolation {
                        Isolation::ReadUncommitted => result.high_watermark,
                        Isolation::ReadCommitted => result.last_stable_offset,
                    };
                    seen.entry(*shard).or_default().push((read.id, end, bounds.isolation));
                }
            }
            due = self.watches.wait(runtime, &seen, left).await;
            now = runtime.now();
            timeline.mark(Stage::Wait, now.nanos);
            if due.is_empty() {
                return;
            }
        }
    }

    /// Waits while a partition of these moves to another shard. Whichever has moved since the image that they were found in is
    /// read at its new one.
    async fn pass_reads(&self, items: &mut [Item], found_in: &mut u64, due: &mut BTreeSet<ShardId>) -> Pass {
        let passage = &self.shard.passage;
        loop {
            let mut ids = items.iter().filter_map(|item| item.target.map(|(_, read)| read.id));
            let Some(moving) = ids.find(|id| passage.is_closed(*id)) else { break };
            passage.opened(moving).await;
        }
        let image = self.shard.image();
        if image.index == *found_in {
            return passage.enter();
        }
        *found_in = image.index;
        for (shard, read) in items.iter_mut().filter_map(|item| item.target.as_mut()) {
            let topic = image.topic_by_id(read.id.topic);
            let now = topic.and_then(|t| t.partition(read.id.index.0)).map_or(*shard, |p| ShardId(p.shard));
            if now != *shard {
                *shard = now;
                due.insert(now);
            }
        }
        passage.enter()
    }

    /// Reads the partitions of the shards in `due`, and drops what is over the budget of all. How long that took on the
    /// shard that was slowest.
    async fn read(&self, items: &mut [Item], due: &BTreeSet<ShardId>, max_bytes: usize) -> Duration {
        let (mut places, mut asks) = (Vec::new(), Vec::new());
        for (place, item) in items.iter().enumerate() {
            if let Some((shard, read)) = item.target
                && due.contains(&shard)
            {
                places.push(place);
                asks.push((shard, read));
            }
        }
        let wrap = |reads| Ask::Read { reads, max_bytes };
        let slowest = Cell::new(Duration::ZERO);
        let unwrap = |told| match told {
            Told::Read { results, took } => {
                slowest.set(slowest.get().max(took));
                results
            }
            other => unreachable!("a read is answered with records, not {other:?}"),
        };
        let results = scatter(&self.shard, asks, wrap, unwrap, || Err(stopping())).await;
        for (place, result) in places.into_iter().zip(results) {
            items[place].take(result);
        }
        keep_to_budget(items, max_bytes);
        slowest.get()
    }
}

/// Each shard kept to the budget by itself; together they may be over it. The first batches stay, whatever their size.
fn keep_to_budget(items: &mut [Item], max_bytes: usize) {
    let (mut left, mut none_yet) = (max_bytes, true);
    for item in items {
        let len = item.len();
        if len == 0 {
            continue;
        }
        let own = item.target.map_or(0, |(_, read)| read.request.max_bytes);
        if none_yet || len <= left.min(own) {
            none_yet = false;
            left = left.saturating_sub(len);
        } else if let Ok(result) = &mut item.result {
            result.records.clear();
            result.aborted.clear();
        }
    }
}

fn session_request(version: i16, asked: FetchRequest) -> SessionRequest {
    let uses_topic_ids = version >= 13;
    let topic_ref = |name: &str, id| {
        if uses_topic_ids { TopicRef::Id(TopicId(id)) } else { TopicRef::Name(Arc::from(name)) }
    };
    let mut partitions = Vec::with_capacity(asked.topics.iter().map(|t| t.partitions.len()).sum());
    for topic in &asked.topics {
        let topic_ref = topic_ref(&topic.topic, topic.topic_id);
        partitions.extend(topic.partitions.iter().map(|p| {
            let wanted = Wanted {
                fetch_offset: p.fetch_offset,
                max_bytes: p.partition_max_bytes,
                current_leader_epoch: p.current_leader_epoch,
                last_fetched_epoch: p.last_fetched_epoch,
            };
            (PartitionRef { topic: topic_ref.clone(), index: p.partition }, wanted)
        }));
    }
    let mut forgotten = Vec::new();
    for topic in &asked.forgotten_topics_data {
        let topic_ref = topic_ref(&topic.topic, topic.topic_id);
        forgotten.extend(topic.partitions.iter().map(|p| PartitionRef { topic: topic_ref.clone(), index: *p }));
    }
    // Before version 7 there are no sessions.
    let epoch = if version >= 7 { asked.session_epoch } else { -1 };
    SessionRequest { session_id: asked.session_id, epoch, uses_topic_ids, partitions, forgotten }
}

fn summary(item: &Item) -> Read {
    match &item.result {
        Ok(result) => Read {
            error: ErrorCode::None,
            high_watermark: result.high_watermark.0,
            log_start_offset: result.log_start_offset.0,
            records_len: item.len(),
        },
        Err(error) => Read { error: *error, high_watermark: -1, log_start_offset: -1, records_len: 0 },
    }
}

/// The partitions that go into the answer, neighbours of one topic together.
fn collect(plan: &FetchPlan, items: Vec<Item>, include: &[bool], isolation: Isolation) -> Vec<FetchedTopic> {
    let mut topics: Vec<FetchedTopic> = Vec::new();
    let mut last: Option<&TopicRef> = None;
    for (((partition, _), item), included) in plan.partitions.iter().zip(items).zip(include) {
        if !included {
            continue;
        }
        if last != Some(&partition.topic) {
            last = Some(&partition.topic);
            topics.push(match &partition.topic {
                TopicRef::Name(name) => FetchedTopic { name: name.to_string(), ..FetchedTopic::default() },
                TopicRef::Id(id) => FetchedTopic { id: *id, ..FetchedTopic::default() },
            });
        }
        let topic = topics.last_mut().expect("just pushed");
        topic.partitions.push(fetched(partition.index, item, isolation));
    }
    topics
}

fn fetched(index: i32, item: Item, isolation: Isolation) -> FetchedPartition {
    match item.result {
        Ok(result) => FetchedPartition {
            index,
            error: ErrorCode::None,
            high_watermark: result.high_watermark.0,
            last_stable_offset: result.last_stable_offset.0,
            log_start_offset: result.log_start_offset.0,
            aborted: (isolation == Isolation::ReadCommitted)
                .then(|| result.aborted.iter().map(|a| (a.producer_id.0, a.first_offset.0)).collect()),
            current_leader: None,
            records: result.records,
        },
        Err(error) => {
            let partition = FetchedPartition::error(index, error);
            if item.log_error { FetchedPartition { aborted: None, ..partition } } else { partition }
        }
    }
}
