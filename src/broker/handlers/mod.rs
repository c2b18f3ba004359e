//! One file an API. [`Handlers`] takes what a connection read to the handler of its API, and its answer back.
//!
//! A handler is `async fn handle(shard, context, request) -> response`, with the codec's structures on both sides; its
//! errors are Kafka's codes inside the response. Produce and Fetch, which carry records, and those that keep something
//! between requests take what they need from [`Handlers`] itself.
//!
//! To serve another API: a file here, an arm in `Handlers::by_codec`, and its key, name and versions in `protocol/api.rs`
//! (the shape of its requests is in `protocol/schema.rs`), and an arm in `protocol/fuzz.rs`.

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod alter_configs;
mod api_versions;
mod compact_topic;
mod config_resources;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod describe_latency;
mod describe_log_dirs;
mod describe_producers;
mod describe_topic_partitions;
mod describe_transactions;
mod end_txn;
mod fetch;
mod find_coordinator;
mod group_client;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_config_resources;
mod list_groups;
mod list_offsets;
mod list_transactions;
pub(crate) mod markers;
mod metadata;
mod move_partition;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod produce_txn;
pub mod remote;
mod report;
pub(crate) mod resolve;
mod sync_group;
mod transaction_client;
mod txn_offset_commit;
mod watch;
mod way;
mod write_txn_markers;

use super::Shard;
use super::connection::{Answer, RequestContext, Service, Session};
use super::groups::{self, Groups};
use super::messages::Event;
use super::pipeline::{Answered, Close};
use super::transactions::{self, Transactions};
use crate::ids::PartitionId;
use crate::latency::Stage;
use crate::protocol::api::ApiKey;
use crate::protocol::fetch_session::{FetchSessions, MovedSession};
use crate::protocol::{Request, ResponseFrame, codec};
use bytes::{Bytes, BytesMut};
use coreline_io::Runtime;
use coreline_shards::ShardId;
use init_producer_id::ProducerIds;
use kafka_protocol::protocol::{Encodable, Request as CodecRequest};
use produce::MinInSync;
use std::cell::RefCell;
use std::rc::Rc;
use watch::Watches;
pub(crate) use way::Way;

/// `min.incremental.fetch.session.eviction.ms`.
const FETCH_SESSION_EVICTION_MS: i64 = 120_000;

/// What handles the requests of one shard, and what it keeps between them. Lives as long as the shard.
#[derive(Debug)]
pub struct Handlers<R: Runtime> {
    shard: Rc<Shard<R>>,
    /// This shard's part of the broker's fetch sessions.
    sessions: RefCell<FetchSessions>,
    /// Who waits for records of this shard's partitions, and what this shard waits for.
    watches: Rc<Watches>,
    producer_ids: ProducerIds,
    groups: Rc<Groups<R>>,
    transactions: Rc<Transactions<R>>,
    min_in_sync: MinInSync,
}

impl<R: Runtime> Handlers<R> {
    /// The handlers of a shard. Call it once a shard: it listens to the store's high watermarks.
    #[must_use]
    pub fn new(shard: Rc<Shard<R>>) -> Rc<Self> {
        let slots = shard.config.fetch_session_slots.div_ceil(shard.shards.max(1));
        let watches = Watches::new(&shard);
        Rc::new(Self {
            sessions: RefCell::new(FetchSessions::new(slots, FETCH_SESSION_EVICTION_MS)),
            watches,
            producer_ids: ProducerIds::default(),
            groups: groups::start(&shard),
            transactions: transactions::start(&shard),
            min_in_sync: MinInSync::default(),
            shard,
        })
    }

    /// The shard.
    #[must_use]
    pub fn shard(&self) -> &Rc<Shard<R>> {
        &self.shard
    }

    /// A partition is not on this shard any more: who waits for its records looks again.
    pub(super) fn partition_left(&self, id: PartitionId) {
        self.watches.left(id);
    }

    /// Milliseconds of the monotonic clock: for what must not jump.
    fn monotonic_ms(&self) -> i64 {
        (self.shard.runtime.now().nanos / 1_000_000) as i64
    }

    /// News from another shard.
    pub fn on_event(&self, from: ShardId, event: Event) {
        match event {
            Event::Watch { id, partitions } => self.watches.on_watch(from, id, &partitions),
            Event::Unwatch { id } => self.watches.on_unwatch(from, id),
            Event::Fired { id } => self.watches.on_fired(from, id),
            Event::Group(event) => self.groups.on_event(from, event),
            Event::Transaction(event) => self.transactions.on_event(from, event),
            Event::Connection(_) => unreachable!("the listener takes connections"),
        }
    }

    async fn by_codec(&self, context: &RequestContext, body: Bytes, way: &Rc<Way>) -> Result<ResponseFrame, Close> {
        let (shard, request) = (&self.shard, &context.request);
        let (ids, transactions, version) = (&self.producer_ids, &self.transactions, request.header.api_version);
        let in_out = InOut { request, body, way, clock: &shard.runtime };
        match request.api.key {
            ApiKey::ApiVersions => {
                let answered = api_versions::handle(context, in_out.body)?;
                way.mark(way.work, || shard.runtime.now());
                Ok(answered)
            }
            ApiKey::Metadata => in_out.out(&metadata::handle(shard, context, in_out.decode()?).await?),
            ApiKey::ListOffsets => in_out.out(&list_offsets::handle(shard, context, in_out.decode()?).await),
            ApiKey::OffsetForLeaderEpoch => in_out.out(&offset_for_leader_epoch::handle(shard, in_out.decode()?).await),
            ApiKey::FindCoordinator => {
                let both = (&*self.groups, &*self.transactions);
                in_out.out(&find_coordinator::handle(shard, both, context, in_out.decode()?).await)
            }
            ApiKey::OffsetFetch => {
                let image = shard.image();
                in_out.out(&offset_fetch::handle(&self.groups, context, &image, in_out.decode()?).await)
            }
            ApiKey::JoinGroup => in_out.out(&join_group::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::SyncGroup => in_out.out(&sync_group::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::Heartbeat => in_out.out(&heartbeat::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::LeaveGroup => in_out.out(&leave_group::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::DescribeGroups => {
                in_out.out(&describe_groups::handle(&self.groups, context, in_out.decode()?).await)
            }
            ApiKey::ConsumerGroupHeartbeat => {
                in_out.out(&consumer_group_heartbeat::handle(&self.groups, context, in_out.decode()?).await)
            }
            ApiKey::ConsumerGroupDescribe => {
                in_out.out(&consumer_group_describe::handle(&self.groups, context, in_out.decode()?).await)
            }
            ApiKey::ListGroups => in_out.out(&list_groups::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::DeleteGroups => in_out.out(&delete_groups::handle(&self.groups, context, in_out.decode()?).await),
            ApiKey::OffsetDelete => {
                let image = shard.image();
                in_out.out(&offset_delete::handle(&self.groups, context, &image, in_out.decode()?).await)
            }
            ApiKey::InitProducerId => {
                in_out.out(&init_producer_id::handle(ids, transactions, version, in_out.decode()?).await)
            }
            ApiKey::AddPartitionsToTxn => {
                in_out.out(&add_partitions_to_txn::handle(transactions, version, in_out.decode()?).await)
            }
            ApiKey::AddOffsetsToTxn => {
                in_out.out(&add_offsets_to_txn::handle(&self.groups, transactions, version, in_out.decode()?).await)
            }
            ApiKey::EndTxn => in_out.out(&end_txn::handle(ids, transactions, version, in_out.decode()?).await),
            ApiKey::TxnOffsetCommit => {
                in_out.out(&txn_offset_commit::handle(&self.groups, transactions, context, in_out.decode()?).await)
            }
            ApiKey::DescribeTransactions => {
                in_out.out(&describe_transactions::handle(transactions, in_out.decode()?).await)
            }
            ApiKey::ListTransactions => {
                in_out.out(&list_transactions::handle(transactions, context, in_out.decode()?).await)
            }
            ApiKey::DescribeProducers => in_out.out(&describe_producers::handle(shard, in_out.decode()?).await),
            ApiKey::WriteTxnMarkers => in_out.out(&write_txn_markers::handle(shard, in_out.decode()?).await),
            ApiKey::Fetch => {
                let mut timeline = way.timeline.get();
                let answered = self.fetch(context, in_out.decode_only()?, &mut timeline).await;
                timeline.mark_now(Stage::Ready, || shard.runtime.now().nanos);
                way.timeline.set(timeline);
                answered
            }
            ApiKey::CreateTopics => in_out.out(&create_topics::handle(shard, in_out.decode()?).await),
            ApiKey::DeleteRecords => in_out.out(&delete_records::handle(shard, in_out.decode()?).await),
            ApiKey::DeleteTopics => {
                let version = request.header.api_version;
                in_out.out(&delete_topics::handle(shard, version, in_out.decode()?).await)
            }
            ApiKey::CreatePartitions => in_out.out(&create_partitions::handle(shard, in_out.decode()?).await),
            ApiKey::DescribeConfigs => in_out.out(&describe_configs::handle(shard, in_out.decode()?).await),
            ApiKey::AlterConfigs => in_out.out(&alter_configs::handle(shard, in_out.decode()?).await),
            ApiKey::IncrementalAlterConfigs => {
                in_out.out(&incremental_alter_configs::handle(shard, in_out.decode()?).await)
            }
            ApiKey::ListConfigResources => {
                let version = request.header.api_version;
                in_out.out(&list_config_resources::handle(shard, version, in_out.decode()?).await)
            }
            ApiKey::DescribeCluster => in_out.out(&describe_cluster::handle(shard, in_out.decode()?).await),
            ApiKey::DescribeTopicPartitions => {
                in_out.out(&describe_topic_partitions::handle(shard, in_out.decode()?).await)
            }
            ApiKey::CompactTopic => in_out.out(&compact_topic::handle(shard, in_out.decode()?).await),
            ApiKey::MovePartition => in_out.out(&move_partition::handle(shard, in_out.decode()?).await),
            ApiKey::DescribeLatency => in_out.out(&describe_latency::handle(shard, in_out.decode()?).await),
            ApiKey::DescribeLogDirs => in_out.out(&describe_log_dirs::handle(shard, context, in_out.decode()?).await),
            ApiKey::Produce | ApiKey::OffsetCommit => unreachable!("answered later"),
        }
    }
}

impl<R: Runtime> Service for Handlers<R> {
    type Kept = Vec<MovedSession>;

    fn give_up(&self, session: &Session) -> Self::Kept {
        let mut sessions = self.sessions.borrow_mut();
        session.fetch_sessions.iter().filter_map(|id| sessions.take(*id)).collect()
    }

    fn take_over(&self, kept: Self::Kept) {
        let now_ms = self.monotonic_ms();
        kept.into_iter().for_each(|session| self.sessions.borrow_mut().put(now_ms, session));
    }

    async fn handle(&self, context: RequestContext, body: BytesMut) -> Result<Answer, Close> {
        match context.request.api.key {
            ApiKey::Produce => return self.produce(context, body).await,
            ApiKey::OffsetCommit => return self.offset_commit(context, body).await,
            _ => {}
        }
        let stage = match context.request.api.key {
            // Until the others of the group are there.
            ApiKey::JoinGroup | ApiKey::SyncGroup => Stage::Wait,
            _ => Stage::Handle,
        };
        let way = Way::begin(context.timeline, stage);
        // Boxed: the handlers' futures are large, and most of a connection's life none of them runs.
        let handling = Box::pin(self.by_codec(&context, body.freeze(), &way));
        let frame = self.shard.meters.on_way(&way, handling).await?;
        Ok(Answer::Now(Answered { frame, timeline: way.timeline.get() }))
    }
}

/// A request's body on its way through the codec, and its answer.
struct InOut<'a, R> {
    request: &'a Request,
    body: Bytes,
    way: &'a Way,
    clock: &'a R,
}

impl<R: Runtime> InOut<'_, R> {
    fn decode<T: CodecRequest>(&self) -> Result<T, Close> {
        let decoded = self.decode_only()?;
        self.way.mark(Stage::Parse, || self.clock.now());
        Ok(decoded)
    }

    /// Of an API that stamps its stages itself.
    fn decode_only<T: CodecRequest>(&self) -> Result<T, Close> {
        codec::decode(self.request, self.body.clone()).map_err(Close::because)
    }

    fn out<T: Encodable>(&self, response: &T) -> Result<ResponseFrame, Close> {
        let made = |stage| self.way.mark(stage, || self.clock.now());
        // The making of an answer is work of the request as any other, but not what it waited for.
        if self.way.work == Stage::Wait {
            made(Stage::Wait);
        }
        let frame = codec::encode(self.request, response);
        made(if self.way.work == Stage::Wait { Stage::Ready } else { self.way.work });
        Ok(frame)
    }
}

#[cfg(test)]
mod tests;
