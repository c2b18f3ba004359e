//! Producers: one connection a share, one thread that sends and one that receives on each.

use super::batch::BatchBuilder;
use super::connection::Connection;
use super::latencies::Latencies;
use super::report::{Measured, RunResult};
use super::topics::Share;
use super::{LoadError, TIMEOUT, Workload, process};
use bytes::Bytes;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant, SystemTime};

/// By name, flexible; every broker since 2.4 has it.
const VERSION: i16 = 9;
const RECORDS_PER_REQUEST_MAX: usize = 20_000;

/// The phases of a run, in nanoseconds since its start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Phases {
    pub(super) start: Instant,
    pub(super) measure_from: u64,
    pub(super) end: u64,
}

impl Phases {
    pub(super) fn new(workload: &Workload) -> Self {
        let nanos = |seconds: f64| (seconds * 1e9) as u64;
        // By volume there is no warm-up and no end by time.
        let (from, end) = match workload.bytes {
            0 => (nanos(workload.warmup), nanos(workload.warmup + workload.seconds)),
            _ => (0, u64::MAX),
        };
        Self { start: Instant::now(), measure_from: from, end }
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    pub(super) fn sleep_until(&self, nanos: u64) {
        let now = self.now();
        if nanos > now {
            std::thread::sleep(Duration::from_nanos(nanos - now));
        }
    }
}

/// A request under way.
#[derive(Clone, Copy, Debug)]
struct Sent {
    correlation_id: i32,
    /// The first record's number on this connection.
    first: u64,
    count: u64,
    /// When the request went out.
    at: u64,
}

#[derive(Debug, Default)]
struct Flight {
    queue: Mutex<(VecDeque<Sent>, bool)>,
    changed: Condvar,
}

/// The records of one connection: which number is meant for when, and for which partition.
struct Schedule<'a> {
    workload: &'a Workload,
    share: &'a Share,
    index: u64,
    connections: u64,
    phases: Phases,
}

impl Schedule<'_> {
    /// When record `number` of this connection was meant to go, at a fixed rate.
    fn intended(&self, number: u64) -> u64 {
        let global = number * self.connections + self.index;
        (u128::from(global) * 1_000_000_000 / u128::from(self.workload.rate)) as u64
    }

    fn request(&self, parts: Vec<(i32, Bytes)>) -> ProduceRequest {
        let data = parts
            .into_iter()
            .map(|(index, records)| PartitionProduceData::default().with_index(index).with_records(Some(records)))
            .collect();
        let name = TopicName(StrBytes::from_string(self.workload.topic.clone()));
        let topic = TopicProduceData::default().with_name(name).with_partition_data(data);
        ProduceRequest::default().with_acks(self.workload.acks).with_timeout_ms(30_000).with_topic_data(vec![topic])
    }
}

#[derive(Debug)]
struct Outcome {
    latencies: Latencies,
    records: u64,
    last_ack: u64,
}

/// Runs the producers. With `stop`, it is raised at the end, for consumers that run beside.
pub(super) fn run(
    workload: &Workload,
    shares: &[Share],
    beside: Option<(&AtomicBool, Phases)>,
) -> Result<RunResult, LoadError> {
    let phases = beside.map_or_else(|| Phases::new(workload), |(_, phases)| phases);
    let (outcomes, broker) = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .enumerate()
            .map(|(index, share)| {
                let connections = shares.len() as u64;
                let schedule = Schedule { workload, share, index: index as u64, connections, phases };
                scope.spawn(move || connection(&schedule))
            })
            .collect();
        let sample = || workload.broker_pid.and_then(process::sample);
        phases.sleep_until(phases.measure_from);
        let before = sample();
        if workload.bytes == 0 {
            phases.sleep_until(phases.end);
        }
        let at_end = if workload.bytes == 0 { sample() } else { None };
        let outcomes: Result<Vec<_>, _> = threads.into_iter().map(|t| t.join().expect("a producer thread")).collect();
        let after = at_end.or_else(sample);
        (outcomes, before.zip(after))
    });
    if let Some((stop, _)) = beside {
        stop.store(true, Ordering::SeqCst);
    }
    let outcomes = outcomes?;
    let mut latencies = Latencies::new();
    let mut records = 0;
    let mut last_ack = 0;
    for outcome in outcomes {
        latencies.add(outcome.latencies);
        records += outcome.records;
        last_ack = last_ack.max(outcome.last_ack);
    }
    let of = if workload.rate > 0 { "from intended send to ack" } else { "from send to ack, closed loop" };
    let end = if workload.bytes > 0 { last_ack } else { phases.end };
    let measured = Measured {
        seconds: end.saturating_sub(phases.measure_from) as f64 / 1e9,
        records,
        latency: Some(latencies.report(of)),
        broker,
    };
    Ok(RunResult::new(workload, measured))
}

fn connection(schedule: &Schedule<'_>) -> Result<Outcome, LoadError> {
    let connection = Connection::open(&schedule.share.address)?;
    let flight = Flight::default();
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive_all(schedule, &connection, &flight));
        let sent = if schedule.workload.rate > 0 {
            send_at_rate(schedule, &connection, &flight)
        } else {
            send_at_full_speed(schedule, &connection, &flight)
        };
        flight.queue.lock().expect("no thread panics with it").1 = true;
        flight.changed.notify_all();
        if sent.is_err() {
            connection.shutdown();
        }
        let received = receiver.join().expect("a receiver thread");
        sent.and(received)
    })
}

/// Waits for room and puts a request into the flight; false when the receiver has ended.
fn depart(flight: &Flight, limit: usize, sent: Sent) -> bool {
    let mut queue = flight.queue.lock().expect("no thread panics with it");
    while queue.0.len() >= limit && !queue.1 {
        queue = flight.changed.wait(queue).expect("no thread panics with it");
    }
    if queue.1 {
        return false;
    }
    queue.0.push_back(sent);
    flight.changed.notify_all();
    true
}

fn wait_for_room(flight: &Flight, limit: usize) -> bool {
    let mut queue = flight.queue.lock().expect("no thread panics with it");
    while queue.0.len() >= limit && !queue.1 {
        queue = flight.changed.wait(queue).expect("no thread panics with it");
    }
    !queue.1
}

fn builder(workload: &Workload) -> BatchBuilder {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
    BatchBuilder::new(workload.record_size, now)
}

fn send_at_rate(schedule: &Schedule<'_>, connection: &Connection, flight: &Flight) -> Result<(), LoadError> {
    let workload = schedule.workload;
    let builder = builder(workload);
    let partitions = &schedule.share.partitions;
    let (mut next, mut correlation_id) = (0_u64, 0_i32);
    loop {
        let due = schedule.intended(next);
        if due >= schedule.phases.end {
            return Ok(());
        }
        schedule.phases.sleep_until(due);
        if !wait_for_room(flight, workload.in_flight) {
            return Ok(());
        }
        let now = schedule.phases.now();
        let first = next;
        let mut stamps: Vec<Vec<u64>> = vec![Vec::new(); partitions.len()];
        while schedule.intended(next) <= now.min(schedule.phases.end - 1)
            && (next - first) < RECORDS_PER_REQUEST_MAX as u64
        {
            stamps[(next % partitions.len() as u64) as usize].push(schedule.intended(next));
            next += 1;
        }
        let parts = partitions.iter().zip(stamps).filter(|(_, s)| !s.is_empty());
        let parts = parts.map(|(p, s)| (*p, builder.build(s.into_iter()))).collect();
        correlation_id += 1;
        let sent = Sent { correlation_id, first, count: next - first, at: now };
        if !depart(flight, workload.in_flight, sent) {
            return Ok(());
        }
        connection.send(&schedule.request(parts), VERSION, correlation_id)?;
    }
}

fn send_at_full_speed(schedule: &Schedule<'_>, connection: &Connection, flight: &Flight) -> Result<(), LoadError> {
    let workload = schedule.workload;
    let builder = builder(workload);
    let per_batch = builder.count_for(workload.batch_bytes);
    // One batch for all: the broker writes the offsets, everything else may repeat.
    let batch = builder.build(vec![0; per_batch].into_iter());
    let partitions = &schedule.share.partitions;
    let per_request = (workload.request_bytes / batch.len()).clamp(1, partitions.len());
    let records_max = match workload.bytes {
        0 => u64::MAX,
        bytes => bytes / workload.record_size as u64 / schedule.connections,
    };
    let (mut next, mut correlation_id, mut turn) = (0_u64, 0_i32, 0_usize);
    while next < records_max && schedule.phases.now() < schedule.phases.end {
        let chosen = (0..per_request).map(|i| partitions[(turn + i) % partitions.len()]);
        let parts: Vec<_> = chosen.map(|p| (p, batch.clone())).collect();
        turn = (turn + per_request) % partitions.len();
        let count = (per_batch * parts.len()) as u64;
        correlation_id += 1;
        if !wait_for_room(flight, workload.in_flight) {
            return Ok(());
        }
        let sent = Sent { correlation_id, first: next, count, at: schedule.phases.now() };
        if !depart(flight, workload.in_flight, sent) {
            return Ok(());
        }
        connection.send(&schedule.request(parts), VERSION, correlation_id)?;
        next += count;
    }
    Ok(())
}

fn receive_all(schedule: &Schedule<'_>, connection: &Connection, flight: &Flight) -> Result<Outcome, LoadError> {
    let received = receive_until_done(schedule, connection, flight);
    // The sender must not wait for a receiver that is gone.
    flight.queue.lock().expect("no thread panics with it").1 = true;
    flight.changed.notify_all();
    received
}

fn receive_until_done(schedule: &Schedule<'_>, connection: &Connection, flight: &Flight) -> Result<Outcome, LoadError> {
    let mut outcome = Outcome { latencies: Latencies::new(), records: 0, last_ack: 0 };
    loop {
        let sent = {
            let mut queue = flight.queue.lock().expect("no thread panics with it");
            loop {
                if let Some(sent) = queue.0.front() {
                    break *sent;
                }
                if queue.1 {
                    return Ok(outcome);
                }
                queue = flight.changed.wait_timeout(queue, TIMEOUT).expect("no thread panics with it").0;
            }
        };
        let answer: ProduceResponse = connection.receive(VERSION, sent.correlation_id)?;
        let now = schedule.phases.now();
        check(schedule.workload, &answer)?;
        outcome.last_ack = now;
        let measured = now >= schedule.phases.measure_from && now < schedule.phases.end;
        if schedule.workload.rate > 0 {
            for number in sent.first..sent.first + sent.count {
                let intended = schedule.intended(number);
                if intended >= schedule.phases.measure_from {
                    outcome.latencies.record(intended, now.saturating_sub(intended));
                }
            }
        } else if measured {
            outcome.latencies.record(sent.at, now.saturating_sub(sent.at));
        }
        if measured {
            outcome.records += sent.count;
        }
        flight.queue.lock().expect("no thread panics with it").0.pop_front();
        flight.changed.notify_all();
    }
}

fn check(workload: &Workload, answer: &ProduceResponse) -> Result<(), LoadError> {
    for partition in answer.responses.iter().flat_map(|t| &t.partition_responses) {
        if partition.error_code != 0 {
            let what = format!("produce to {}-{}", workload.topic, partition.index);
            return Err(LoadError::Refused { what, code: partition.error_code });
        }
    }
    Ok(())
}
