//! A consumer: long polls, with and without fetch sessions, at the end and far behind it.

use crate::auditor::EARLIEST;
use crate::client::{Connection, Lost};
use crate::oracle::PartitionNumber;
use crate::producer::REQUEST_TIMEOUT;
use crate::records;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic, ForgottenTopic};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

#[derive(Debug)]
struct Position {
    topic: String,
    id: Uuid,
    index: i32,
    partition: PartitionNumber,
    /// Its topic was deleted.
    dead: bool,
    next: i64,
    /// The offset that the session has, if it has the partition.
    told: Option<i64>,
    /// The high watermark of the last answer.
    end: Option<i64>,
    /// Committed before the request that is under way, and where the log began at least.
    floor: (i64, i64),
    /// Checks that were made before it.
    asked_at: u64,
    /// The log does not begin so early: where does it?
    lost: bool,
    /// It is in the request that is under way, or in its session.
    asked: bool,
}

/// Until when a consumer reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// The end, once the faults are over and all producers are done.
    Finished,
    /// The end as it is found: everything has stopped.
    End,
}

pub(crate) struct Consumer {
    world: Rc<World>,
    name: String,
    rng: SimRng,
    positions: Vec<Position>,
    until: Until,
    /// Partitions below it were looked at: they have a position, or get none.
    considered: PartitionNumber,
    by_id: bool,
    sessions: bool,
    session: (i32, i32),
}

impl Consumer {
    /// A consumer of some partitions that the oracle hears of, or of all of them to their ends.
    pub(crate) fn new(world: &Rc<World>, name: &str, until: Until) -> Self {
        let rng = world.rng();
        world.doing(name, "starting");
        Self {
            world: world.clone(),
            name: name.to_owned(),
            rng,
            positions: Vec::new(),
            until,
            considered: 0,
            by_id: false,
            sessions: false,
            session: (0, 0),
        }
    }

    /// New partitions, and those that are no more.
    fn look_around(&mut self) {
        let oracle = self.world.oracle.borrow();
        for partition in self.considered..oracle.partitions() {
            let life = oracle.life_of(partition);
            let wanted = self.until == Until::End || self.positions.is_empty() || self.rng.one_in(2);
            if !wanted || life.is_gone() {
                continue;
            }
            self.positions.push(Position {
                topic: life.name.clone(),
                id: life.id,
                index: oracle.index_of(partition),
                partition,
                dead: false,
                next: oracle.start(partition).0,
                told: None,
                end: None,
                floor: (0, 0),
                asked_at: 0,
                lost: false,
                asked: false,
            });
        }
        self.considered = oracle.partitions();
        for position in &mut self.positions {
            position.dead |= oracle.life_of(position.partition).is_gone();
        }
    }

    /// Reads until the end that was asked for; the offsets of the ends.
    pub(crate) async fn run(mut self) -> Vec<(PartitionNumber, i64)> {
        loop {
            if let Ok(connection) = Connection::open(&self.world, &self.name).await {
                self.look_around();
                self.new_session();
                if self.read(&connection).await == Ok(()) {
                    break;
                }
            }
            self.world.doing(&self.name, "connecting again");
            self.world.client.sleep(Duration::from_micros(self.rng.below(20_000))).await;
        }
        self.world.done(&self.name);
        self.positions.iter().filter(|p| !p.dead).map(|p| (p.partition, p.next)).collect()
    }

    fn new_session(&mut self) {
        self.session = (0, 0);
        self.positions.iter_mut().for_each(|p| p.told = None);
        let oracle = self.world.oracle.borrow();
        // A name that may come to mean another topic is not asked for.
        let mortal = self.positions.iter().any(|p| !p.dead && oracle.life_of(p.partition).mortal);
        (self.by_id, self.sessions) = (mortal || self.rng.one_in(2), self.rng.one_in(2));
    }

    fn at_the_end(&self) -> bool {
        let finished = self.until == Until::End || self.world.finishing.get();
        finished
            && self
                .positions
                .iter()
                .filter(|p| !p.dead)
                .all(|p| p.end == Some(p.next) && p.next >= self.world.oracle.borrow().committed_end(p.partition))
    }

    async fn read(&mut self, connection: &Connection) -> Result<(), Lost> {
        loop {
            if self.considered < self.world.oracle.borrow().partitions() {
                self.look_around();
                self.new_session();
            }
            if self.at_the_end() {
                return Ok(());
            }
            let behind: Vec<_> = self.positions.iter().filter(|p| !p.dead && p.end != Some(p.next)).collect();
            self.world.doing(&self.name, format!("fetching; not at the end: {behind:?}"));
            let request = self.request();
            let version = if self.by_id { 13 + self.rng.below(5) as i16 } else { 7 + self.rng.below(6) as i16 };
            let answer = connection.call(version, &request, REQUEST_TIMEOUT).await?;
            self.answered(&answer)?;
            for at in 0..self.positions.len() {
                if self.positions[at].lost && !self.positions[at].dead {
                    self.find_start(connection, at).await?;
                }
            }
            if self.rng.one_in(4) {
                self.world.client.sleep(Duration::from_micros(self.rng.below(5000))).await;
            }
            if self.until == Until::Finished && !self.world.finishing.get() && self.rng.one_in(20) {
                self.seek_back();
            }
        }
    }

    /// Goes to where the log begins, after it was told that it does not begin so early.
    async fn find_start(&mut self, connection: &Connection, at: usize) -> Result<(), Lost> {
        let position = &self.positions[at];
        let floor = self.world.oracle.borrow().start(position.partition).0;
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(position.index)
            .with_timestamp(EARLIEST)
            .with_current_leader_epoch(-1);
        let name = TopicName(StrBytes::from_string(position.topic.clone()));
        let topic = ListOffsetsTopic::default().with_name(name).with_partitions(vec![wanted]);
        let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
        let answer = connection.call(7, &request, REQUEST_TIMEOUT).await?;
        let found = answer.topics.first().and_then(|t| t.partitions.first());
        let Some(found) = found else { fail(format!("asked for one partition: {answer:?}")) };
        let mut oracle = self.world.oracle.borrow_mut();
        let position = &mut self.positions[at];
        if found.error_code != 0 || !oracle.life_of(position.partition).is_there() {
            return Err(Lost);
        }
        let seen = oracle.start_seen(position.partition, floor, found.offset, self.world.broker_ms_max());
        self.world.check(seen);
        if found.offset <= position.next {
            let (topic, index, next) = (&position.topic, position.index, position.next);
            fail(format!("{}: {topic}-{index}: {next} is out of range, and begins at {}", self.name, found.offset));
        }
        (position.next, position.lost) = (found.offset, false);
        Ok(())
    }

    /// As somebody who replays: what was read must still be there.
    fn seek_back(&mut self) {
        if self.positions.is_empty() {
            return;
        }
        let at = self.rng.index(self.positions.len());
        let position = &mut self.positions[at];
        let start = self.world.oracle.borrow().start(position.partition).0;
        position.next = start + self.rng.below((position.next - start).max(0) as u64 + 1) as i64;
    }

    fn request(&mut self) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        let mut forgotten: Vec<ForgottenTopic> = Vec::new();
        let oracle = self.world.oracle.borrow();
        let incremental = self.session.0 != 0;
        for position in &mut self.positions {
            position.dead |= oracle.life_of(position.partition).is_gone();
            // Somebody pauses a partition now and then; what is gone is left out for good.
            let left_out = position.dead || (incremental && self.rng.one_in(30));
            let name = TopicName(StrBytes::from_string(position.topic.clone()));
            position.asked = !left_out;
            if left_out {
                if position.told.take().is_some() && incremental {
                    let topic = ForgottenTopic::default().with_partitions(vec![position.index]);
                    forgotten.push(if self.by_id { topic.with_topic_id(position.id) } else { topic.with_topic(name) });
                }
                continue;
            }
            position.asked_at = oracle.checks();
            position.floor = (oracle.committed_end(position.partition), oracle.start(position.partition).0);
            if incremental && position.told == Some(position.next) {
                continue;
            }
            position.told = Some(position.next);
            let wanted = FetchPartition::default()
                .with_partition(position.index)
                .with_fetch_offset(position.next)
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(1 + self.rng.below(40_000) as i32);
            let topic = if self.by_id {
                FetchTopic::default().with_topic_id(position.id)
            } else {
                FetchTopic::default().with_topic(name)
            };
            match topics.iter_mut().find(|t| (t.topic_id, &t.topic) == (topic.topic_id, &topic.topic)) {
                Some(topic) => topic.partitions.push(wanted),
                None => topics.push(topic.with_partitions(vec![wanted])),
            }
        }
        let (id, epoch) = if self.sessions { self.session } else { (0, -1) };
        FetchRequest::default()
            .with_max_wait_ms(self.rng.below(100) as i32)
            .with_min_bytes(self.rng.below(3) as i32)
            .with_max_bytes(1 + self.rng.below(100_000) as i32)
            .with_session_id(id)
            .with_session_epoch(epoch)
            .with_isolation_level(self.rng.below(2) as i8)
            .with_topics(topics)
            .with_forgotten_topics_data(forgotten)
    }

    fn answered(&mut self, answer: &FetchResponse) -> Result<(), Lost> {
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::FetchSessionIdNotFound | ErrorCode::InvalidFetchSessionEpoch) if self.session.0 != 0 => {
                self.new_session();
                return Ok(());
            }
            code => fail(format!("{}: Fetch: {code:?}", self.name)),
        }
        if self.sessions {
            self.session = if answer.session_id == 0 { (0, 0) } else { (answer.session_id, self.session.1 + 1) };
            if answer.session_id == 0 {
                self.positions.iter_mut().for_each(|p| p.told = None);
            }
        } else {
            self.positions.iter_mut().for_each(|p| p.told = None);
        }
        let incremental = self.session.1 > 1;
        for topic in &answer.responses {
            for found in &topic.partitions {
                self.partition_answered(topic, found)?;
            }
        }
        match self.positions.iter().find(|p| p.asked && !incremental) {
            Some(p) => fail(format!("{}: no answer for {}-{}", self.name, p.topic, p.index)),
            None => Ok(()),
        }
    }

    fn partition_answered(&mut self, topic: &FetchableTopicResponse, found: &PartitionData) -> Result<(), Lost> {
        let place = self.positions.iter_mut().find(|p| {
            let same = p.id == topic.topic_id || (topic.topic_id.is_nil() && p.topic == topic.topic.0.as_str());
            p.asked && same && p.index == found.partition_index
        });
        let Some(position) = place else {
            fail(format!("{}: an answer for {topic:?} {}: not asked", self.name, found.partition_index))
        };
        let topic = position.topic.clone();
        position.asked = false;
        let code = ErrorCode::from_code(found.error_code);
        match code {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower) => {
                self.world.trace(|| format!("{}: {topic}-{}: {code:?}", self.name, found.partition_index));
                if code == Some(ErrorCode::KafkaStorageError) {
                    self.world.storage_error(position.partition, position.asked_at);
                }
                return Err(Lost);
            }
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId)
                if !self.world.oracle.borrow().life_of(position.partition).has(position.index, position.asked_at) =>
            {
                // Of a topic that is there not every core may know yet.
                position.dead = !self.world.oracle.borrow().life_of(position.partition).is_there();
                return if position.dead { Ok(()) } else { Err(Lost) };
            }
            // The start was moved past it.
            Some(ErrorCode::OffsetOutOfRange) if may_be_before_start(&self.world, position) => {
                position.lost = true;
                return Ok(());
            }
            _ => fail(format!("{}: Fetch of {topic}-{} from {}: {code:?}", self.name, position.index, position.next)),
        }
        let (partition, asked, end) = (position.partition, position.next, found.high_watermark);
        let bytes = found.records.clone().unwrap_or_default();
        let batches = match records::decode(partition, &bytes) {
            Ok(batches) => batches,
            Err(e) => fail(format!("{}: {topic}-{}: {e}", self.name, position.index)),
        };
        let mut oracle = self.world.oracle.borrow_mut();
        let (committed, start) = position.floor;
        let ends = oracle.end_seen(partition, committed, end, "the high watermark");
        let begins =
            ends.and_then(|()| oracle.start_seen(partition, start, found.log_start_offset, self.world.broker_ms_max()));
        let read = begins.and_then(|()| oracle.read(partition, asked, position.asked_at, end, &batches));
        drop(oracle);
        match read {
            Ok(next) => (position.next, position.end) = (next, Some(end)),
            Err(what) => fail(format!("{}: {what}", self.name)),
        }
        let next = position.next;
        self.world.trace(|| format!("{} reads {topic}-{} {asked}..{next} of {end}", self.name, found.partition_index));
        Ok(())
    }
}

fn may_be_before_start(world: &World, position: &Position) -> bool {
    let oracle = world.oracle.borrow();
    let moves = oracle.life_of(position.partition).cleanup.moves_start();
    moves || position.next < oracle.start(position.partition).1
}
