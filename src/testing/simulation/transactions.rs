//! Transactional producers: each transaction appends to several logs, reads from all of them, commits an offset, and is
//! committed or aborted, while the broker is killed at any time. What must be true is in `book`.
//!
//! A producer speaks either version of the transaction protocol, and may come back with the other one. It asks again on
//! another connection when one is lost, or begins anew; it dies in the middle, or lets its transaction time out. With the
//! second version copies of its requests arrive late: in its next transaction, or after its successor began. With the
//! first one only the latter, as nothing could tell the former from what it is not.

use crate::book::{Book, RECORDS_MAX};
use crate::client::{Connection, Lost};
use crate::committed::{self, Positions, TRANSACTIONAL};
use crate::groups::text;
use crate::history::Name;
use crate::producer::REQUEST_TIMEOUT;
use crate::records::{self, Codec, RecordId, Sequence};
use crate::scenario::TransactionPlan;
use crate::world::{World, fail};
use bytes::{Bytes, BytesMut};
use coreline::error_code::ErrorCode;
use coreline_io::sim::SimRng;
use coreline_io::{Clock, TaskGroup, Tasks};
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::add_partitions_to_txn_request::AddPartitionsToTxnTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::offset_fetch_request::{OffsetFetchRequestGroup, OffsetFetchRequestTopics};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::txn_offset_commit_request::{
    TxnOffsetCommitRequestPartition, TxnOffsetCommitRequestTopic,
};
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    AddOffsetsToTxnRequest, AddPartitionsToTxnRequest, CreateTopicsRequest, EndTxnRequest, FindCoordinatorRequest,
    GroupId, InitProducerIdRequest, OffsetFetchRequest, ProduceRequest, ProducerId, TopicName, TransactionalId,
    TxnOffsetCommitRequest, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::Request;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::rc::Rc;
use std::time::Duration;

/// Its partitions are the logs.
pub(crate) const TOPIC: &str = "appended-to";
pub(crate) const LOGS: i32 = 4;
/// Longer than all clock jumps of a run.
pub(crate) const LONG_MS: i32 = 600_000;
/// Transactions of each producer once the faults are over: then it stops.
const LAST_TRANSACTIONS: u32 = 3;

/// How a step of a transaction ends, if not well.
enum Setback {
    /// The connection is gone, or nobody knows an answer now.
    Lost,
    /// Another one of this name, or the broker, put an end to this one: it begins anew.
    Anew,
    /// Once more in a while.
    Again,
}

impl From<Lost> for Setback {
    fn from(Lost: Lost) -> Self {
        Self::Lost
    }
}

/// What the broker gave to a producer; it changes with each transaction, or with each life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    id: i64,
    epoch: i16,
    /// The second version of the protocol.
    second: bool,
}

impl Identity {
    /// That one was another life's, or, with the second version, the one before the last transaction's: even who asks again
    /// what it was not told is of an epoch after it.
    fn is_past(self, then: Self) -> bool {
        self.id == then.id && self.epoch > then.epoch + i16::from(then.second)
    }

    /// No partition of a transaction that ended as `then` is without its markers, or those of a later one.
    fn knows_markers_of(self, then: Self) -> bool {
        self.id == then.id && self.epoch > then.epoch + 2 * i16::from(then.second)
    }
}

struct Producer {
    world: Rc<World>,
    book: Rc<RefCell<Book>>,
    name: String,
    number: u32,
    rng: SimRng,
    connection: Option<Connection>,
    identity: Rc<Cell<Identity>>,
    sequences: BTreeMap<i32, i32>,
    /// Its partitions that the coordinator knows, with the first version.
    added: BTreeSet<i32>,
    positions: Positions,
    next: u32,
    left: u32,
    copies: Rc<Cell<u32>>,
}

/// Starts the producers and a reader; `spawn` runs their tasks.
pub(crate) fn start(world: &Rc<World>, book: &Rc<RefCell<Book>>, mut spawn: impl FnMut(LocalBoxFuture<'static, ()>)) {
    let count = world.scenario.transactions.producers;
    for number in 0..count {
        let name = format!("transactional-{number}");
        world.doing(&name, "starting");
        let producer = Producer {
            world: world.clone(),
            book: book.clone(),
            name,
            number,
            rng: world.rng(),
            connection: None,
            identity: Rc::new(Cell::new(Identity { id: -1, epoch: -1, second: false })),
            sequences: BTreeMap::new(),
            added: BTreeSet::new(),
            positions: [0; LOGS as usize],
            next: 0,
            left: LAST_TRANSACTIONS,
            copies: Rc::default(),
        };
        spawn(Box::pin(producer.run()));
    }
    if count > 0 {
        spawn(Box::pin(committed::keep_reading(world.clone(), book.clone())));
    }
}

/// What an error code means.
fn judge(world: &World, who: &str, what: &str, code: i16) -> Result<(), Setback> {
    use ErrorCode as E;
    let code = E::from_code(code);
    world.trace(|| format!("{who}: {what}: {code:?}"));
    match code {
        Some(E::None) => Ok(()),
        Some(
            E::ConcurrentTransactions
            | E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            | E::NotCoordinator
            | E::UnstableOffsetCommit,
        ) => Err(Setback::Again),
        Some(
            E::KafkaStorageError
            | E::NotController
            | E::NotLeaderOrFollower
            | E::NotEnoughReplicas
            | E::RequestTimedOut
            | E::UnknownTopicOrPartition,
        ) => Err(Setback::Lost),
        // A transaction that takes its time is aborted by the broker. Nobody else fences.
        Some(E::InvalidProducerEpoch | E::ProducerFenced | E::TransactionAbortable | E::InvalidTxnState)
            if world.scenario.transactions.timeout_ms < LONG_MS =>
        {
            Err(Setback::Anew)
        }
        _ => fail(format!("{who}: {what}: {code:?}")),
    }
}

impl Producer {
    async fn run(mut self) {
        while let Err(Setback::Lost | Setback::Anew | Setback::Again) = self.live().await {
            self.pause(20).await;
        }
        self.connection = None;
        while self.copies.get() > 0 {
            self.pause(5).await;
        }
        self.world.done(&self.name);
    }

    async fn pause(&self, ms_max: u64) {
        let micros = self.rng.below(ms_max * 1000);
        self.world.client.sleep(Duration::from_micros(micros)).await;
    }

    fn transactional_id(&self) -> TransactionalId {
        TransactionalId(text(&self.name))
    }

    async fn connected(&mut self) -> Result<&Connection, Lost> {
        if self.connection.as_ref().is_none_or(Connection::is_closed) {
            self.connection = Some(Connection::open(&self.world, &self.name).await?);
        }
        Ok(self.connection.as_ref().expect("it is open"))
    }

    /// Asks once.
    async fn once<Q: Request + Debug>(&mut self, version: i16, request: &Q) -> Result<Q::Response, Lost>
    where
        Q::Response: Debug,
    {
        let answer = self.connected().await?.call(version, request, REQUEST_TIMEOUT);
        answer.await
    }

    /// Asks; if the answer is lost perhaps once more, of a broker that may have done it.
    async fn ask<Q: Request + Debug>(&mut self, version: i16, request: &Q) -> Result<Q::Response, Lost>
    where
        Q::Response: Debug,
    {
        loop {
            match self.once(version, request).await {
                Err(Lost) if !self.rng.one_in(3) => self.pause(10).await,
                answer => return answer,
            }
        }
    }

    /// A copy of a request arrives some time later. Of a life of the past nothing may be taken that `taken` sees in the
    /// answer; nobody else looks at that.
    fn copy<Q: Request + Debug + Clone + 'static>(&self, version: i16, request: &Q, taken: fn(&Q::Response) -> bool)
    where
        Q::Response: Debug,
    {
        if !self.rng.one_in(6) || self.copies.get() > 3 {
            return;
        }
        let (world, request, name) = (self.world.clone(), request.clone(), format!("{}-late", self.name));
        let wait = Duration::from_micros(self.rng.below([3000, 30_000, 200_000][self.rng.index(3)]));
        let (then, identity, copies) = (self.identity.get(), self.identity.clone(), self.copies.clone());
        copies.set(copies.get() + 1);
        drop(self.world.client.clone().spawn(TaskGroup::Requests, "workload", async move {
            world.client.sleep(wait).await;
            if let Ok(connection) = Connection::open(&world, &name).await
                && (then.second || identity.get() != then)
            {
                let past = identity.get().is_past(then);
                let answer = connection.call(version, &request, REQUEST_TIMEOUT).await;
                world.trace(|| format!("{name}: API {} as {then:?}: {answer:?}", Q::KEY));
                if past && answer.as_ref().is_ok_and(taken) {
                    fail(format!("{name}: API {} of the past is taken: {then:?}: {answer:?}", Q::KEY));
                }
            }
            copies.set(copies.get() - 1);
        }));
    }

    /// The markers of a transaction that has ended arrive once more, as from a coordinator that is not up to date: in a
    /// later transaction, when its producer has an epoch that is greater than theirs.
    fn markers_late(&self, commit: bool) {
        if !self.rng.one_in(4) || self.copies.get() > 1 {
            return;
        }
        let (world, name) = (self.world.clone(), format!("{}-markers", self.name));
        let (then, identity, copies) = (self.identity.get(), self.identity.clone(), self.copies.clone());
        let topic = WritableTxnMarkerTopic::default().with_name(TopicName(text(TOPIC)));
        let marker = WritableTxnMarker::default()
            .with_producer_id(ProducerId(then.id))
            .with_producer_epoch(then.epoch + i16::from(then.second))
            .with_transaction_result(commit)
            .with_topics(vec![topic.with_partition_indexes((0..LOGS).collect())]);
        let request = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let pause = Duration::from_micros(100 + self.rng.below(5000));
        copies.set(copies.get() + 1);
        drop(self.world.client.clone().spawn(TaskGroup::Requests, "workload", async move {
            while !world.finishing.get() && !identity.get().knows_markers_of(then) {
                world.client.sleep(pause).await;
            }
            world.client.sleep(pause).await;
            if identity.get().knows_markers_of(then)
                && let Ok(connection) = Connection::open(&world, &name).await
            {
                let answer = connection.call(1, &request, REQUEST_TIMEOUT).await;
                world.trace(|| format!("{name}: markers of {then:?}: {answer:?}"));
            }
            copies.set(copies.get() - 1);
        }));
    }

    async fn live(&mut self) -> Result<(), Setback> {
        self.world.doing(&self.name, "making the topic, looking for the coordinator");
        let plan = self.world.scenario.transactions.clone();
        let config = |(name, value): &(&str, String)| {
            CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
        };
        let topic = CreatableTopic::default().with_name(TopicName(text(TOPIC))).with_num_partitions(LOGS);
        let topic = topic.with_replication_factor(1).with_configs(plan.configs.iter().map(config).collect());
        let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(1000);
        let created = self.once(5, &request).await?;
        if ErrorCode::from_code(created.topics[0].error_code) != Some(ErrorCode::TopicAlreadyExists) {
            judge(&self.world, &self.name, "create", created.topics[0].error_code)?;
        }
        let request = FindCoordinatorRequest::default().with_key(text(&self.name)).with_key_type(1);
        let found = self.once(2, &request).await?;
        judge(&self.world, &self.name, "find coordinator", found.error_code)?;
        self.begin(&plan).await?;
        loop {
            self.transaction().await?;
            if self.world.finishing.get() {
                self.left = self.left.saturating_sub(1);
                if self.left == 0 {
                    return Ok(());
                }
            }
            self.pause(plan.pause_ms_max).await;
        }
    }

    async fn begin(&mut self, plan: &TransactionPlan) -> Result<(), Setback> {
        loop {
            self.world.doing(&self.name, "beginning");
            // One that is to time out does so while its producer waits.
            let timeout = if self.world.finishing.get() { LONG_MS } else { plan.timeout_ms };
            let request = InitProducerIdRequest::default()
                .with_transactional_id(Some(self.transactional_id()))
                .with_transaction_timeout_ms(timeout)
                .with_producer_id(ProducerId(-1))
                .with_producer_epoch(-1);
            let answer = self.once(4, &request).await?;
            match judge(&self.world, &self.name, "begin", answer.error_code) {
                Err(Setback::Again) => self.pause(5).await,
                Err(setback) => return Err(setback),
                Ok(()) => {
                    let second = self.rng.one_in(2);
                    self.is_now(answer.producer_id.0, answer.producer_epoch, second);
                    self.book.borrow_mut().begins_anew(self.number);
                    break;
                }
            }
        }
        let (world, book, number) = (self.world.clone(), self.book.clone(), self.number);
        Ok(fetch_offset(&world, &book, self.connected().await?, number).await?)
    }

    fn is_now(&mut self, id: i64, epoch: i16, second: bool) {
        let before = self.identity.replace(Identity { id, epoch, second });
        self.sequences.clear();
        self.added.clear();
        self.world.trace(|| format!("{} is {:?}", self.name, self.identity.get()));
        if before.id == id && before.epoch >= epoch {
            fail(format!("{}: was {before:?}, is {:?}", self.name, self.identity.get()));
        }
        if before.id != id {
            self.world.producer_id(id);
        }
    }

    /// Some records to some logs, an offset, some reading; then its end.
    async fn transaction(&mut self) -> Result<(), Setback> {
        let name: Name = (self.number, self.next);
        self.next += 1;
        self.book.borrow_mut().begins(name);
        self.world.doing(&self.name, format!("in transaction {}", name.1));
        self.added.clear();
        let first = self.rng.below(LOGS as u64) as i32;
        let logs = 2 + self.rng.below(LOGS as u64 - 1) as i32;
        let mut record = 0;
        for _ in 0..1 + self.rng.below(2) {
            for log in (first..first + logs).map(|log| log % LOGS) {
                let number = name.1 * RECORDS_MAX + record;
                self.write(log, RecordId { producer: self.number, number }).await?;
                record += 1;
            }
            if self.rng.one_in(3) {
                self.read(name).await?;
            }
        }
        if self.rng.one_in(2) {
            self.offset(name).await?;
        }
        if !self.world.finishing.get() && self.rng.one_in(20) {
            // Dies in the middle, or is away for a while: its next life, or the broker, puts an end to it.
            self.pause(100).await;
            if self.rng.one_in(2) {
                return Err(Setback::Anew);
            }
        }
        self.end(name, !self.rng.one_in(3)).await
    }

    async fn read(&mut self, name: Name) -> Result<(), Setback> {
        let (world, book, mut positions) = (self.world.clone(), self.book.clone(), self.positions);
        let rng = self.rng.fork();
        let connection = self.connected().await?;
        let mut seen = |_, _, _| {};
        let read = committed::read_on(&world, &book, connection, &rng, Some(name), &mut positions, &mut seen).await;
        self.positions = positions;
        read?;
        Ok(())
    }

    /// With the first version of the protocol.
    async fn add(&mut self, log: i32) -> Result<(), Setback> {
        let identity = self.identity.get();
        let topic = AddPartitionsToTxnTopic::default().with_name(TopicName(text(TOPIC))).with_partitions(vec![log]);
        let request = AddPartitionsToTxnRequest::default()
            .with_v3_and_below_transactional_id(self.transactional_id())
            .with_v3_and_below_producer_id(ProducerId(identity.id))
            .with_v3_and_below_producer_epoch(identity.epoch)
            .with_v3_and_below_topics(vec![topic]);
        loop {
            self.copy(3, &request, |answer| {
                let codes = answer.results_by_topic_v3_and_below.iter().flat_map(|t| &t.results_by_partition);
                codes.map(|p| p.partition_error_code).any(|code| code == 0)
            });
            // Never twice: a copy could land in the next transaction, as with Kafka.
            let answer = self.once(3, &request).await?;
            let found = answer.results_by_topic_v3_and_below.first().and_then(|t| t.results_by_partition.first());
            let Some(found) = found else { fail(format!("asked to add one partition: {answer:?}")) };
            match judge(&self.world, &self.name, "add", found.partition_error_code) {
                Err(Setback::Again) => self.pause(5).await,
                other => return other,
            }
        }
    }

    async fn write(&mut self, log: i32, id: RecordId) -> Result<(), Setback> {
        let identity = self.identity.get();
        if !identity.second && self.added.insert(log) {
            self.add(log).await?;
        }
        let next = self.sequences.entry(log).or_default();
        let sequence = Sequence { producer_id: identity.id, epoch: identity.epoch, base: *next };
        *next += 1;
        self.book.borrow_mut().sends(log, id);
        let size = self.rng.below(300) as usize;
        let now = self.world.client.wall_ms();
        let batch = records::encode(log as u32, id, &[size], false, now, Codec::None, Some(sequence));
        let data = PartitionProduceData::default().with_index(log).with_records(Some(with_flag(&batch)));
        let topic = TopicProduceData::default().with_name(TopicName(text(TOPIC))).with_partition_data(vec![data]);
        let request = ProduceRequest::default()
            .with_transactional_id(Some(self.transactional_id()))
            .with_acks(-1)
            .with_timeout_ms(10_000)
            .with_topic_data(vec![topic]);
        let version = if identity.second { 12 } else { 9 + self.rng.below(3) as i16 };
        // One that is there already is answered as such.
        self.copy(version, &request, |_| false);
        loop {
            let answer = self.ask(version, &request).await?;
            let found = answer.responses.first().and_then(|t| t.partition_responses.first());
            let Some(found) = found else { fail(format!("produced to one partition: {answer:?}")) };
            self.world.trace(|| format!("{}: {id:?} to log {log}: {found:?}", self.name));
            match judge(&self.world, &self.name, "write", found.error_code) {
                Err(Setback::Again) => self.pause(5).await,
                Err(setback) => return Err(setback),
                Ok(()) => {
                    let acked = self.book.borrow_mut().acked(log, id, found.base_offset);
                    self.world.check(acked);
                    return Ok(());
                }
            }
        }
    }

    /// Commits the transaction's number as the offset of the producer's group.
    async fn offset(&mut self, name: Name) -> Result<(), Setback> {
        let identity = self.identity.get();
        self.book.borrow_mut().sends_offset(name);
        let group = group(self.number);
        if !identity.second {
            let request = AddOffsetsToTxnRequest::default()
                .with_transactional_id(self.transactional_id())
                .with_producer_id(ProducerId(identity.id))
                .with_producer_epoch(identity.epoch)
                .with_group_id(group.clone());
            self.copy(3, &request, |answer| answer.error_code == 0);
            loop {
                let answer = self.once(3, &request).await?;
                match judge(&self.world, &self.name, "add offsets", answer.error_code) {
                    Err(Setback::Again) => self.pause(5).await,
                    Err(setback) => return Err(setback),
                    Ok(()) => break,
                }
            }
        }
        let partition = TxnOffsetCommitRequestPartition::default().with_partition_index(0);
        let partition = partition.with_committed_offset(i64::from(name.1)).with_committed_metadata(Some(text("")));
        let topic = TxnOffsetCommitRequestTopic::default().with_name(TopicName(text(TOPIC)));
        let request = TxnOffsetCommitRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_group_id(group)
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_topics(vec![topic.with_partitions(vec![partition])]);
        let version = if identity.second { 5 } else { 3 };
        self.copy(version, &request, |answer| {
            answer.topics.iter().flat_map(|t| &t.partitions).any(|partition| partition.error_code == 0)
        });
        loop {
            let answer =
                if identity.second { self.ask(version, &request).await } else { self.once(version, &request).await };
            let answer = answer?;
            let found = answer.topics.first().and_then(|t| t.partitions.first());
            let Some(found) = found else { fail(format!("committed one offset: {answer:?}")) };
            match judge(&self.world, &self.name, "commit an offset", found.error_code) {
                Err(Setback::Again) => self.pause(5).await,
                other => return other,
            }
        }
    }

    async fn end(&mut self, name: Name, commit: bool) -> Result<(), Setback> {
        let identity = self.identity.get();
        let request = EndTxnRequest::default()
            .with_transactional_id(self.transactional_id())
            .with_producer_id(ProducerId(identity.id))
            .with_producer_epoch(identity.epoch)
            .with_committed(commit);
        let version = if identity.second { 5 } else { 3 };
        self.book.borrow_mut().ends(name, commit);
        self.copy(version, &request, |answer| answer.error_code == 0);
        loop {
            self.world.doing(&self.name, format!("ending transaction {}: {commit}", name.1));
            let answer =
                if identity.second { self.ask(version, &request).await } else { self.once(version, &request).await };
            let answer = answer?;
            match judge(&self.world, &self.name, "end", answer.error_code) {
                Err(Setback::Again) => self.pause(5).await,
                Err(Setback::Anew) => {
                    // Whoever asks again for what was done is told that it is.
                    self.book.borrow_mut().refused(name);
                    return Err(Setback::Anew);
                }
                Err(setback) => return Err(setback),
                Ok(()) => {
                    self.world.trace(|| format!("{}: {name:?} is over, committed: {commit}", self.name));
                    // Whoever aborts what the broker has aborted is told that it is done.
                    let was_open = self.world.scenario.transactions.timeout_ms >= LONG_MS;
                    let ended = self.book.borrow_mut().ended(name, commit, was_open);
                    self.world.check(ended);
                    self.markers_late(commit);
                    if identity.second {
                        self.is_now(answer.producer_id.0, answer.producer_epoch, true);
                    }
                    return Ok(());
                }
            }
        }
    }
}

fn group(producer: u32) -> GroupId {
    GroupId(text(&format!("offsets-of-{producer}")))
}

/// Asks for what the producer's group has committed, when nothing of it is under way.
pub(crate) async fn fetch_offset(
    world: &World,
    book: &RefCell<Book>,
    connection: &Connection,
    producer: u32,
) -> Result<(), Lost> {
    let topic = OffsetFetchRequestTopics::default().with_name(TopicName(text(TOPIC))).with_partition_indexes(vec![0]);
    let group = OffsetFetchRequestGroup::default().with_group_id(group(producer)).with_topics(Some(vec![topic]));
    let request = OffsetFetchRequest::default().with_groups(vec![group]).with_topics(Some(Vec::new()));
    let find = FindCoordinatorRequest::default().with_key(self::group(producer).0).with_key_type(0);
    loop {
        // Whoever asks is the reason that the topic of all offsets is there.
        connection.call(2, &find, REQUEST_TIMEOUT).await?;
        let answer = connection.call(8, &request.clone().with_require_stable(true), REQUEST_TIMEOUT).await?;
        let group = answer.groups.first().unwrap_or_else(|| fail("an OffsetFetch without its group"));
        let partition = group.topics.first().and_then(|t| t.partitions.first());
        let code = if group.error_code == 0 { partition.map_or(0, |p| p.error_code) } else { group.error_code };
        match judge(world, &format!("offsets of {producer}"), "fetch", code) {
            Err(Setback::Again) => world.client.sleep(Duration::from_millis(3)).await,
            Err(Setback::Lost | Setback::Anew) => return Err(Lost),
            Ok(()) => {
                let offset = partition.map_or(-1, |p| p.committed_offset);
                world.trace(|| format!("the offset of {producer} is {offset}"));
                let verdict = book.borrow_mut().offset_fetched(producer, offset);
                world.check(verdict);
                return Ok(());
            }
        }
    }
}

/// The batch as one of a transaction.
fn with_flag(batch: &[u8]) -> Bytes {
    let mut batch = BytesMut::from(batch);
    batch[22] |= TRANSACTIONAL;
    committed::set_crc(&mut batch);
    batch.freeze()
}
