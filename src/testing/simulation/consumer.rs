//! A consumer: long polls, with and without fetch sessions, at the end and far behind it.

use crate::client::{Connection, Lost};
use crate::oracle::PartitionNumber;
use crate::producer::REQUEST_TIMEOUT;
use crate::records;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, FetchResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;
use std::time::Duration;

#[derive(Debug)]
struct Position {
    topic: String,
    index: i32,
    partition: PartitionNumber,
    next: i64,
    /// The offset that the session has, if it has the partition.
    told: Option<i64>,
    /// The high watermark of the last answer.
    end: Option<i64>,
    /// Committed before the request that is under way.
    floor: i64,
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
    by_id: bool,
    sessions: bool,
    session: (i32, i32),
}

impl Consumer {
    /// A consumer of some partitions that the oracle knows, or of all of them to their ends.
    pub(crate) fn new(world: &Rc<World>, name: &str, until: Until) -> Self {
        let rng = world.rng();
        let mut positions = Vec::new();
        let oracle = world.oracle.borrow();
        for topic in oracle.topic_names() {
            for (index, &partition) in oracle.partitions(&topic).iter().enumerate() {
                if until == Until::End || positions.is_empty() || rng.one_in(2) {
                    let (topic, index) = (topic.clone(), index as i32);
                    positions.push(Position {
                        topic,
                        index,
                        partition,
                        next: 0,
                        told: None,
                        end: None,
                        floor: 0,
                        asked: false,
                    });
                }
            }
        }
        drop(oracle);
        world.doing(name, "starting");
        let (by_id, sessions) = (rng.one_in(2), rng.one_in(2));
        Self { world: world.clone(), name: name.to_owned(), rng, positions, until, by_id, sessions, session: (0, 0) }
    }

    /// Reads until the end that was asked for; the offsets of the ends.
    pub(crate) async fn run(mut self) -> Vec<(PartitionNumber, i64)> {
        loop {
            if let Ok(connection) = Connection::open(&self.world, &self.name).await {
                self.new_session();
                if self.read(&connection).await == Ok(()) {
                    break;
                }
            }
            self.world.doing(&self.name, "connecting again");
            self.world.client.sleep(Duration::from_micros(self.rng.below(20_000))).await;
        }
        self.world.done(&self.name);
        self.positions.iter().map(|p| (p.partition, p.next)).collect()
    }

    fn new_session(&mut self) {
        self.session = (0, 0);
        self.positions.iter_mut().for_each(|p| p.told = None);
        (self.by_id, self.sessions) = (self.rng.one_in(2), self.rng.one_in(2));
    }

    fn at_the_end(&self) -> bool {
        let finished = self.until == Until::End || self.world.finishing.get();
        finished
            && self
                .positions
                .iter()
                .all(|p| p.end == Some(p.next) && p.next >= self.world.oracle.borrow().committed_end(p.partition))
    }

    async fn read(&mut self, connection: &Connection) -> Result<(), Lost> {
        while !self.at_the_end() {
            let behind: Vec<_> = self.positions.iter().filter(|p| p.end != Some(p.next)).collect();
            self.world.doing(&self.name, format!("fetching; not at the end: {behind:?}"));
            let request = self.request();
            let version = if self.by_id { 13 + self.rng.below(5) as i16 } else { 7 + self.rng.below(6) as i16 };
            let answer = connection.call(version, &request, REQUEST_TIMEOUT).await?;
            self.answered(&answer)?;
            if self.rng.one_in(4) {
                self.world.client.sleep(Duration::from_micros(self.rng.below(5000))).await;
            }
            if self.until == Until::Finished && !self.world.finishing.get() && self.rng.one_in(20) {
                self.seek_back();
            }
        }
        Ok(())
    }

    /// As somebody who replays: what was read must still be there.
    fn seek_back(&mut self) {
        let at = self.rng.index(self.positions.len());
        let position = &mut self.positions[at];
        position.next = self.rng.below(position.next as u64 + 1) as i64;
    }

    fn request(&mut self) -> FetchRequest {
        let mut topics: Vec<FetchTopic> = Vec::new();
        let oracle = self.world.oracle.borrow();
        let incremental = self.session.0 != 0;
        for position in &mut self.positions {
            position.floor = oracle.committed_end(position.partition);
            position.asked = true;
            if incremental && position.told == Some(position.next) {
                continue;
            }
            position.told = Some(position.next);
            let wanted = FetchPartition::default()
                .with_partition(position.index)
                .with_fetch_offset(position.next)
                .with_current_leader_epoch(-1)
                .with_partition_max_bytes(1 + self.rng.below(40_000) as i32);
            let name = TopicName(StrBytes::from_string(position.topic.clone()));
            let id = oracle.topic_id(&position.topic).expect("a topic that was made");
            match topics.last_mut().filter(|t| t.topic_id == id || t.topic == name) {
                Some(topic) => topic.partitions.push(wanted),
                None if self.by_id => {
                    topics.push(FetchTopic::default().with_topic_id(id).with_partitions(vec![wanted]));
                }
                None => topics.push(FetchTopic::default().with_topic(name).with_partitions(vec![wanted])),
            }
        }
        let (id, epoch) = if self.sessions { self.session } else { (0, -1) };
        FetchRequest::default()
            .with_max_wait_ms(self.rng.below(100) as i32)
            .with_min_bytes(self.rng.below(3) as i32)
            .with_max_bytes(1 + self.rng.below(100_000) as i32)
            .with_session_id(id)
            .with_session_epoch(epoch)
            .with_topics(topics)
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
            let by_id = self.world.oracle.borrow().topic_name(topic.topic_id).map(str::to_owned);
            let name = by_id.unwrap_or_else(|| topic.topic.0.to_string());
            for found in &topic.partitions {
                self.partition_answered(&name, found)?;
            }
        }
        match self.positions.iter().find(|p| p.asked && !incremental) {
            Some(p) => fail(format!("{}: no answer for {}-{}", self.name, p.topic, p.index)),
            None => Ok(()),
        }
    }

    fn partition_answered(&mut self, topic: &str, found: &PartitionData) -> Result<(), Lost> {
        let place = self.positions.iter_mut().find(|p| p.asked && p.topic == topic && p.index == found.partition_index);
        let Some(position) = place else {
            fail(format!("{}: an answer for {topic} {}: not asked", self.name, found.partition_index))
        };
        position.asked = false;
        let code = ErrorCode::from_code(found.error_code);
        match code {
            Some(ErrorCode::None) => {}
            Some(ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower) => {
                self.world.trace(|| format!("{}: {topic}-{}: {code:?}", self.name, found.partition_index));
                return Err(Lost);
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
        let ends = oracle.end_seen(partition, position.floor, end, "the high watermark");
        let read = ends.and_then(|()| oracle.read(partition, asked, end, &batches));
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
