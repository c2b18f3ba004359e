//! A producer, as real clients are: several partitions a request, requests in flight, and after a failure everything
//! that was not acknowledged again, in order.

use crate::client::{Connection, Lost};
use crate::oracle::PartitionNumber;
use crate::records::{self, RecordId, Sequence};
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

/// Longer than any fault lasts but a partition.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug)]
struct Batch {
    first: RecordId,
    sizes: Vec<usize>,
    timestamp_ms: i64,
}

/// What is on its way to one partition.
#[derive(Debug)]
struct Lane {
    topic: String,
    index: i32,
    partition: PartitionNumber,
    next_number: u32,
    /// Not acknowledged, in order.
    queue: VecDeque<Batch>,
    /// So many of the queue's first are sent on this connection.
    sent: usize,
    /// A batch failed since the last new start: those behind it may fail for that.
    failed: bool,
}

/// One batch of a request: where it goes, and its first record.
type Part = (usize, RecordId, usize);
type InFlight = (Vec<Part>, LocalBoxFuture<'static, Result<ProduceResponse, Lost>>);

pub(crate) struct Producer {
    world: Rc<World>,
    name: String,
    number: u32,
    plan: ProducerPlan,
    rng: SimRng,
    lanes: Vec<Lane>,
    id: Option<(i64, i16)>,
}

impl Producer {
    /// A producer to some of the partitions that the oracle knows.
    pub(crate) fn new(world: &Rc<World>, number: u32, plan: ProducerPlan) -> Self {
        let rng = world.rng();
        let mut lanes = Vec::new();
        let oracle = world.oracle.borrow();
        for topic in oracle.topic_names() {
            for (index, partition) in oracle.partitions(&topic).iter().enumerate() {
                if lanes.is_empty() || rng.one_in(2) {
                    let (queue, index) = (VecDeque::new(), index as i32);
                    let (topic, partition) = (topic.clone(), *partition);
                    lanes.push(Lane { topic, index, partition, next_number: 0, queue, sent: 0, failed: false });
                }
            }
        }
        drop(oracle);
        let name = format!("producer-{number}");
        world.doing(&name, "starting");
        Self { world: world.clone(), name, number, plan, rng, lanes, id: None }
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
                Some((parts, answer)) => self.answered(&parts, &answer.await?),
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
            Some(ErrorCode::KafkaStorageError | ErrorCode::NotController | ErrorCode::RequestTimedOut) => Err(Lost),
            _ => fail(format!("{}: InitProducerId: {code:?}", self.name)),
        }
    }

    /// The next batch of some lanes; none if there is nothing to send.
    fn request(&mut self) -> Option<Vec<Part>> {
        let mut parts = Vec::new();
        for at in 0..self.lanes.len() {
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
        let bytes_max = if rng.one_in(100) { plan.record_bytes_max * 10 } else { plan.record_bytes_max };
        let sizes = (0..count).map(|_| rng.below(bytes_max) as usize).collect();
        let lane = &mut self.lanes[at];
        let first = RecordId { producer: self.number, number: lane.next_number };
        lane.next_number += count as u32;
        Batch { first, sizes, timestamp_ms: self.world.client.wall_ms() }
    }

    fn send(&mut self, connection: &Connection, parts: Vec<Part>) -> Option<InFlight> {
        let by_id = self.rng.one_in(3);
        let mut topics: Vec<TopicProduceData> = Vec::new();
        for &(at, first, count) in &parts {
            let lane = &self.lanes[at];
            self.world.oracle.borrow_mut().sending(lane.partition, first, count, self.plan.idempotent);
            let batch = lane.queue.iter().find(|b| b.first == first).expect("what is sent waits for its answer");
            let sequence =
                self.id.map(|(producer_id, epoch)| Sequence { producer_id, epoch, base: first.number as i32 });
            let bytes = records::encode(lane.partition, first, &batch.sizes, batch.timestamp_ms, sequence);
            let data = PartitionProduceData::default().with_index(lane.index).with_records(Some(bytes));
            let name = TopicName(StrBytes::from_string(lane.topic.clone()));
            let id = self.world.oracle.borrow().topic_id(&lane.topic).expect("a topic that was made");
            match topics.last_mut().filter(|t| t.topic_id == id || t.name == name) {
                Some(topic) => topic.partition_data.push(data),
                None if by_id => {
                    topics.push(TopicProduceData::default().with_topic_id(id).with_partition_data(vec![data]));
                }
                None => topics.push(TopicProduceData::default().with_name(name).with_partition_data(vec![data])),
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
        Some((parts, Box::pin(connection.call(version, &request, REQUEST_TIMEOUT))))
    }

    fn named(&self, parts: &[Part]) -> Vec<(String, u32, usize)> {
        let name = |at: usize| format!("{}-{}", self.lanes[at].topic, self.lanes[at].index);
        parts.iter().map(|(at, first, count)| (name(*at), first.number, *count)).collect()
    }

    fn forget(&mut self, at: usize, first: RecordId) {
        let lane = &mut self.lanes[at];
        if let Some(place) = lane.queue.iter().position(|b| b.first == first) {
            lane.queue.remove(place);
            lane.sent -= usize::from(place < lane.sent);
        }
    }

    fn answered(&mut self, parts: &[Part], answer: &ProduceResponse) {
        let mut left = parts.to_vec();
        for topic in &answer.responses {
            for found in &topic.partition_responses {
                let oracle = self.world.oracle.borrow();
                let place = left.iter().position(|(at, ..)| {
                    let lane = &self.lanes[*at];
                    let same =
                        oracle.topic_id(&lane.topic) == Some(topic.topic_id) || lane.topic == topic.name.0.as_str();
                    same && lane.index == found.index
                });
                drop(oracle);
                let Some(place) = place else {
                    fail(format!("{}: an answer for {:?} {}: not asked", self.name, topic.name, found.index))
                };
                let part = left.remove(place);
                self.partition_answered(part, found);
            }
        }
        if !left.is_empty() {
            fail(format!("{}: no answer for {:?}", self.name, self.named(&left)));
        }
    }

    fn partition_answered(&mut self, (at, first, count): Part, found: &PartitionProduceResponse) {
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
                self.lanes[at].failed = true;
            }
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
