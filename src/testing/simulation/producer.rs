//! A producer, as real clients are: several partitions a request, requests in flight, and after a failure everything
//! that was not acknowledged again, in order.

use crate::client::{Connection, Lost};
use crate::oracle::PartitionNumber;
use crate::records::{self, Codec, RecordId, Sequence};
use crate::scenario::ProducerPlan;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use futures_util::future::LocalBoxFuture;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::produce_response::PartitionProduceResponse;
use kafka_protocol::messages::{InitProducerIdRequest, ProduceRequest, ProduceResponse, ProducerId, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;
use uuid::Uuid;

/// Longer than any fault lasts but a partition.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Batch {
    first: RecordId,
    sizes: Vec<usize>,
    timestamp_ms: i64,
    codec: Codec,
}

/// What is on its way to one partition.
#[derive(Debug)]
struct Lane {
    topic: String,
    id: Uuid,
    index: i32,
    partition: PartitionNumber,
    /// Its topic was deleted.
    dead: bool,
    /// Something of it was acknowledged: the partition knows the producer.
    known: bool,
    next_number: u32,
    /// Not acknowledged, in order.
    queue: VecDeque<Batch>,
    /// So many of the queue's first are sent on this connection.
    sent: usize,
    /// A batch failed since the last new start: those behind it may fail for that.
    failed: bool,
    /// The queue's first batch failed and one behind it was acknowledged, since the broker had it from an earlier try: how
    /// many may follow before its number is no longer known is open, so nothing does.
    overtaken: bool,
}

impl Lane {
    fn die(&mut self) {
        self.queue.clear();
        (self.dead, self.failed, self.sent) = (true, false, 0);
    }
}

/// One batch of a request: where it goes, and its first record.
type Part = (usize, RecordId, usize);

struct InFlight {
    parts: Vec<Part>,
    /// Checks that were made before it.
    asked_at: u64,
    answer: LocalBoxFuture<'static, Result<ProduceResponse, Lost>>,
}

pub(crate) struct Producer {
    world: Rc<World>,
    name: String,
    number: u32,
    plan: ProducerPlan,
    rng: SimRng,
    lanes: Vec<Lane>,
    /// Partitions below it were looked at: they have a lane, or get none.
    considered: PartitionNumber,
    id: Option<(i64, i16)>,
}

impl Producer {
    /// A producer to some of the partitions that the oracle hears of.
    pub(crate) fn new(world: &Rc<World>, number: u32, plan: ProducerPlan) -> Self {
        let (rng, name) = (world.rng(), format!("producer-{number}"));
        world.doing(&name, "starting");
        Self { world: world.clone(), name, number, plan, rng, lanes: Vec::new(), considered: 0, id: None }
    }

    /// New partitions, and those that are no more.
    fn look_around(&mut self) {
        let oracle = self.world.oracle.borrow();
        for partition in self.considered..oracle.partitions() {
            if self.lanes.is_empty() || self.rng.one_in(2) {
                let (life, index) = (oracle.life_of(partition), oracle.index_of(partition));
                self.lanes.push(Lane {
                    topic: life.name.clone(),
                    id: life.id,
                    index,
                    partition,
                    dead: false,
                    known: false,
                    next_number: 0,
                    queue: VecDeque::new(),
                    sent: 0,
                    failed: false,
                    overtaken: false,
                });
            }
        }
        self.considered = oracle.partitions();
        let gone = |lane: &&mut Lane| oracle.life_of(lane.partition).is_gone();
        self.lanes.iter_mut().filter(gone).for_each(Lane::die);
    }

    pub(crate) async fn run(mut self) {
        let mut connection = None;
        loop {
            let outcome = match connection.take().filter(|c: &Connection| !c.is_closed()) {
                Some(open) => Ok(open),
                None => Connection::open(&self.world, &self.name).await,
            };
            if let Ok(open) = outcome {
                match self.session(&open).await {
                    Ok(true) => break,
                    Ok(false) => connection = Some(open),
                    Err(Lost) => {}
                }
            }
            self.start_over();
            self.world.doing(&self.name, format!("trying again; {} batches wait", self.waiting()));
            self.pause(20).await;
        }
        self.world.done(&self.name);
    }

    fn waiting(&self) -> usize {
        self.lanes.iter().map(|l| l.queue.len()).sum()
    }

    async fn pause(&self, ms_max: u64) {
        let micros = self.rng.below(ms_max * 1000);
        self.world.client.sleep(Duration::from_micros(micros)).await;
    }

    /// What was sent and not acknowledged is to be sent again, or given up.
    fn start_over(&mut self) {
        for lane in &mut self.lanes {
            lane.failed = false;
            if !self.plan.retries {
                lane.queue.drain(..lane.sent);
            }
            lane.sent = 0;
        }
    }

    /// Sends on one connection until all is done (true) or something failed and everything in flight is answered.
    async fn session(&mut self, connection: &Connection) -> Result<bool, Lost> {
        if self.plan.idempotent && self.id.is_none() {
            self.init(connection).await?;
        }
        let mut in_flight: VecDeque<InFlight> = VecDeque::new();
        loop {
            let failing = self.lanes.iter().any(|l| l.failed);
            while !failing && in_flight.len() < self.plan.in_flight_max {
                let Some(request) = self.request() else { break };
                if self.rng.one_in(self.plan.breaks_one_in) {
                    // The last request may be on its way, or not.
                    let _lost = self.send(connection, request);
                    self.pause(3).await;
                    return Err(Lost);
                }
                if let Some(sent) = self.send(connection, request) {
                    in_flight.push_back(sent);
                }
                if self.rng.one_in(2) {
                    self.pause(self.plan.pause_ms_max).await;
                }
            }
            self.world.doing(&self.name, format!("{} in flight, {} batches wait", in_flight.len(), self.waiting()));
            match in_flight.pop_front() {
                Some(InFlight { parts, asked_at, answer }) => self.answered(&parts, asked_at, &answer.await?),
                None if failing => return Ok(false),
                None if self.world.finishing.get() && self.waiting() == 0 => return Ok(true),
                None => self.pause(self.plan.pause_ms_max).await,
            }
        }
    }

    async fn init(&mut self, connection: &Connection) -> Result<(), Lost> {
        let request = InitProducerIdRequest::default()
            .with_transactional_id(None)
            .with_transaction_timeout_ms(60_000)
            .with_producer_id(ProducerId(-1))
            .with_producer_epoch(-1);
        let answer = connection.call(4, &request, REQUEST_TIMEOUT).await?;
        let code = ErrorCode::from_code(answer.error_code);
        match code {
            Some(ErrorCode::None) => {
                self.id = Some((answer.producer_id.0, answer.producer_epoch));
                self.world.producer_id(answer.producer_id.0);
                Ok(())
            }
            Some(
                ErrorCode::KafkaStorageError
                | ErrorCode::NotController
                | ErrorCode::RequestTimedOut
                | ErrorCode::CoordinatorLoadInProgress,
            ) => Err(Lost),
            _ => fail(format!("{}: InitProducerId: {code:?}", self.name)),
        }
    }

    /// The next batch of some lanes; none if there is nothing to send.
    fn request(&mut self) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        self.look_around();
        for at in 0..self.lanes.len() {
            // To a partition that does not know a producer any first number is right, as with Kafka: also that of a batch
            // behind one that was refused.
            let unknown = self.plan.idempotent && !self.lanes[at].known && self.lanes[at].sent > 0;
            let waits = self.lanes[at].overtaken && self.lanes[at].sent > 0;
            if self.lanes[at].dead || unknown || waits {
                continue;
            }
            let again = self.lanes[at].sent < self.lanes[at].queue.len();
            let new = !again && !self.world.finishing.get() && self.rng.one_in(1 + self.lanes.len() as u64 / 2);
            if new {
                let batch = self.batch(at);
                self.lanes[at].queue.push_back(batch);
            }
            if again || new {
                let lane = &mut self.lanes[at];
                let batch = &lane.queue[lane.sent];
                parts.push((at, batch.first, batch.sizes.len()));
                lane.sent += 1;
            }
        }
        (!parts.is_empty()).then_some(parts)
    }

    fn batch(&mut self, at: usize) -> Batch {
        let (rng, plan) = (&self.rng, &self.plan);
        let count = 1 + rng.below(plan.records_max) as usize;
        let large = rng.one_in(100);
        let bytes_max = if large { plan.record_bytes_max * 10 } else { plan.record_bytes_max };
        // Twenty of the largest would be more than `max.message.bytes`.
        let count = if large { count.min(10) } else { count };
        let lane = &mut self.lanes[at];
        let first = RecordId { producer: self.number, number: lane.next_number };
        let (count, sizes, codec) = match plan.batch_bytes {
            Some(bytes) => (1, vec![records::size_in(bytes, first)], Codec::None),
            None => (count, (0..count).map(|_| rng.below(bytes_max) as usize).collect(), plan.codec),
        };
        lane.next_number += count as u32;
        Batch { first, sizes, timestamp_ms: self.world.client.wall_ms(), codec }
    }

    fn send(&mut self, connection: &Connection, parts: Vec<Part>) -> Option<InFlight> {
        let mortal = |at: usize| self.world.oracle.borrow().life_of(self.lanes[at].partition).mortal;
        let by_id = self.rng.one_in(3) || parts.iter().any(|(at, ..)| mortal(*at));
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for &(at, first, count) in &parts {
            let lane = &self.lanes[at];
            let batch = lane.queue.iter().find(|b| b.first == first).expect("what is sent waits for its answer");
            let times = records::times(first, count, batch.timestamp_ms);
            self.world.oracle.borrow_mut().sending(lane.partition, first, &times, self.plan.idempotent);
            let sequence =
                self.id.map(|(producer_id, epoch)| Sequence { producer_id, epoch, base: first.number as i32 });
            let keyed = self.world.oracle.borrow().life_of(lane.partition).cleanup.compacted;
            let Batch { sizes, timestamp_ms, codec, .. } = batch;
            let bytes = records::encode(lane.partition, first, sizes, keyed, *timestamp_ms, *codec, sequence);
            let data = PartitionProduceData::default().with_index(lane.index).with_records(Some(bytes));
            let topic = if by_id {
                TopicProduceData::default().with_topic_id(lane.id)
            } else {
                TopicProduceData::default().with_name(TopicName(StrBytes::from_string(lane.topic.clone())))
            };
            match topics.iter_mut().find(|t| (t.topic_id, &t.name) == (topic.topic_id, &topic.name)) {
                Some(topic) => topic.partition_data.push(data),
                None => topics.push(topic.with_partition_data(vec![data])),
            }
        }
        let version = if by_id { 13 } else { 3 + self.rng.below(10) as i16 };
        let request =
            ProduceRequest::default().with_acks(self.plan.acks).with_timeout_ms(10_000).with_topic_data(topics);
        self.world.trace(|| format!("{} sends {:?}", self.name, self.named(&parts)));
        if self.plan.acks == 0 {
            connection.send_only(version, &request);
            for (at, first, _) in parts {
                self.forget(at, first);
            }
            return None;
        }
        let asked_at = self.world.oracle.borrow().checks();
        Some(InFlight { parts, asked_at, answer: Box::pin(connection.call(version, &request, REQUEST_TIMEOUT)) })
    }

    fn named(&self, parts: &[Part]) -> Vec<(String, u32, usize)> {
        let name = |at: usize| format!("{}-{}", self.lanes[at].topic, self.lanes[at].index);
        parts.iter().map(|(at, first, count)| (name(*at), first.number, *count)).collect()
    }

    fn forget(&mut self, at: usize, first: RecordId) {
        let lane = &mut self.lanes[at];
        lane.known = true;
        if let Some(place) = lane.queue.iter().position(|b| b.first == first) {
            lane.queue.remove(place);
            lane.overtaken = place > 0;
            lane.sent -= usize::from(place < lane.sent);
        }
    }

    fn answered(&mut self, parts: &[Part], asked_at: u64, answer: &ProduceResponse) {
        let mut left = parts.to_vec();
        for topic in &answer.responses {
            for found in &topic.partition_responses {
                let place = left.iter().position(|(at, ..)| {
                    let lane = &self.lanes[*at];
                    let same = lane.id == topic.topic_id || lane.topic == topic.name.0.as_str();
                    same && lane.index == found.index
                });
                let Some(place) = place else {
                    fail(format!("{}: an answer for {:?} {}: not asked", self.name, topic.name, found.index))
                };
                let part = left.remove(place);
                self.partition_answered(part, asked_at, found);
            }
        }
        if !left.is_empty() {
            fail(format!("{}: no answer for {:?}", self.name, self.named(&left)));
        }
    }

    fn may_be_gone(&self, at: usize) -> bool {
        !self.world.oracle.borrow().life_of(self.lanes[at].partition).is_there()
    }

    fn partition_answered(&mut self, (at, first, count): Part, asked_at: u64, found: &PartitionProduceResponse) {
        let code = ErrorCode::from_code(found.error_code);
        let lane = &self.lanes[at];
        self.world.trace(|| {
            let name = format!("{}-{}", lane.topic, lane.index);
            format!(
                "{}: {name} from {}: {code:?} {} {:?}",
                self.name, first.number, found.base_offset, found.error_message
            )
        });
        let acked = |base| self.world.oracle.borrow_mut().acked(lane.partition, first, count, base);
        match code {
            Some(ErrorCode::None) => {
                self.world.check(acked(Some(found.base_offset)));
                self.forget(at, first);
            }
            Some(ErrorCode::DuplicateSequenceNumber) if self.plan.idempotent => {
                self.world.check(acked(None));
                self.forget(at, first);
            }
            Some(ErrorCode::KafkaStorageError | ErrorCode::RequestTimedOut | ErrorCode::NotLeaderOrFollower) => {
                if code == Some(ErrorCode::KafkaStorageError) {
                    self.world.storage_error(lane.partition, asked_at);
                }
                self.lanes[at].failed = true;
            }
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) if self.may_be_gone(at) => {
                self.lanes[at].die();
            }
            // Not every core may know it yet.
            Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId)
                if !self.world.oracle.borrow().life_of(lane.partition).has(lane.index, asked_at) =>
            {
                self.lanes[at].failed = true;
            }
            _ if lane.dead => {}
            Some(ErrorCode::OutOfOrderSequenceNumber) if lane.failed && self.plan.idempotent => {}
            _ => fail(format!(
                "{}: {} from {first:?}: {code:?} {:?}",
                self.name,
                self.world.oracle.borrow().name(lane.partition),
                found.error_message
            )),
        }
    }
}
