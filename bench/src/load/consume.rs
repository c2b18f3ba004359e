//! Consumers: one connection a share, partitions assigned, no group.

use super::batch;
use super::connection::Connection;
use super::latencies::Latencies;
use super::produce::{self, Phases};
use super::report::{Measured, RunResult};
use super::topics::Share;
use super::{LoadError, TIMEOUT, Workload, process};
use crate::client::Client;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{BrokerId, FetchRequest, FetchResponse, ListOffsetsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// By name, flexible; the last version before topic ids.
const VERSION: i16 = 12;
pub(super) const LATEST: i64 = -1;
const EARLIEST: i64 = -2;

fn topic_name(workload: &Workload) -> TopicName {
    TopicName(StrBytes::from_string(workload.topic.clone()))
}

/// Where partitions begin (`EARLIEST`) or end (`LATEST`).
pub(super) fn offsets(workload: &Workload, share: &Share, which: i64) -> Result<BTreeMap<i32, i64>, LoadError> {
    let mut client = Client::connect(&share.address, TIMEOUT)?;
    let partition = |p: &i32| ListOffsetsPartition::default().with_partition_index(*p).with_timestamp(which);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(workload))
        .with_partitions(share.partitions.iter().map(partition).collect());
    let ask = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]);
    let answer = client.call(&ask)?;
    let mut found = BTreeMap::new();
    for partition in answer.topics.iter().flat_map(|t| &t.partitions) {
        if partition.error_code != 0 {
            let what = format!("list offsets of {}-{}", workload.topic, partition.partition_index);
            return Err(LoadError::Refused { what, code: partition.error_code });
        }
        found.insert(partition.partition_index, partition.offset);
    }
    Ok(found)
}

/// One fetch of everything in `positions`.
pub(super) fn fetch_request(workload: &Workload, positions: &BTreeMap<i32, i64>, max_wait_ms: i32) -> FetchRequest {
    let partition = |(p, offset): (&i32, &i64)| {
        FetchPartition::default()
            .with_partition(*p)
            .with_current_leader_epoch(-1)
            .with_fetch_offset(*offset)
            .with_last_fetched_epoch(-1)
            .with_log_start_offset(-1)
            .with_partition_max_bytes(1 << 20)
    };
    let topic = FetchTopic::default()
        .with_topic(topic_name(workload))
        .with_partitions(positions.iter().map(partition).collect());
    FetchRequest::default()
        .with_replica_id(BrokerId(-1))
        .with_max_wait_ms(max_wait_ms)
        .with_min_bytes(1)
        .with_max_bytes(50 << 20)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_topics(vec![topic])
}

struct Consumer<'a> {
    workload: &'a Workload,
    connection: Connection,
    positions: BTreeMap<i32, i64>,
    correlation_id: i32,
    records: u64,
    latencies: Latencies,
}

impl<'a> Consumer<'a> {
    fn open(workload: &'a Workload, share: &Share, which: i64) -> Result<Self, LoadError> {
        let positions = offsets(workload, share, which)?;
        let connection = Connection::open(&share.address)?;
        Ok(Self { workload, connection, positions, correlation_id: 0, records: 0, latencies: Latencies::new() })
    }

    /// Fetches once and moves on. With `phases`, end-to-end latencies are taken from the records' stamps.
    fn poll(&mut self, phases: Option<&Phases>) -> Result<(), LoadError> {
        self.correlation_id += 1;
        self.connection.send(&fetch_request(self.workload, &self.positions, 500), VERSION, self.correlation_id)?;
        let answer: FetchResponse = self.connection.receive(VERSION, self.correlation_id)?;
        let now = phases.map_or(0, Phases::now);
        for partition in answer.responses.iter().flat_map(|t| &t.partitions) {
            if partition.error_code != 0 {
                let what = format!("fetch of {}-{}", self.workload.topic, partition.partition_index);
                return Err(LoadError::Refused { what, code: partition.error_code });
            }
            let Some(bytes) = &partition.records else { continue };
            let latencies = &mut self.latencies;
            let contents = batch::walk(bytes, phases.is_some(), |stamp| {
                if phases.is_some_and(|p| stamp >= p.measure_from && stamp < p.end) {
                    latencies.record(stamp, now.saturating_sub(stamp));
                }
            });
            self.records += contents.records;
            if let Some(next) = contents.next_offset {
                self.positions.insert(partition.partition_index, next);
            }
        }
        Ok(())
    }
}

/// Reads everything that is in the topic now.
pub(super) fn run(workload: &Workload, shares: &[Share]) -> Result<RunResult, LoadError> {
    let mut consumers = Vec::new();
    for share in shares {
        let end = offsets(workload, share, LATEST)?;
        let mut consumer = Consumer::open(workload, share, EARLIEST)?;
        consumer.positions.retain(|p, offset| end.get(p).is_some_and(|e| e > offset));
        consumers.push((consumer, end));
    }
    let sample = || workload.broker_pid.and_then(process::sample);
    let before = sample();
    let phases = Phases::new(workload);
    let records: Result<Vec<u64>, LoadError> = std::thread::scope(|scope| {
        let drain = |mut consumer: Consumer<'_>, end: BTreeMap<i32, i64>| {
            while !consumer.positions.is_empty() {
                consumer.poll(None)?;
                consumer.positions.retain(|p, offset| end.get(p).is_some_and(|e| e > offset));
            }
            Ok(consumer.records)
        };
        let threads: Vec<_> = consumers.into_iter().map(|(c, end)| scope.spawn(move || drain(c, end))).collect();
        threads.into_iter().map(|t| t.join().expect("a consumer thread")).collect()
    });
    let seconds = phases.now() as f64 / 1e9;
    let broker = before.zip(sample());
    let records = records?.iter().sum();
    Ok(RunResult::new(workload, Measured { seconds, records, latency: None, broker }))
}

/// Producers at a rate, consumers beside them; the latency is end to end.
pub(super) fn run_with_producers(workload: &Workload, shares: &[Share]) -> Result<RunResult, LoadError> {
    let mut consumers = Vec::new();
    for share in shares {
        consumers.push(Consumer::open(workload, share, LATEST)?);
    }
    let stop = AtomicBool::new(false);
    let phases = Phases::new(workload);
    let (produced, consumed) = std::thread::scope(|scope| {
        let follow = |mut consumer: Consumer<'_>| {
            while !stop.load(Ordering::SeqCst) {
                consumer.poll(Some(&phases))?;
            }
            // What was acknowledged last is still on its way.
            consumer.poll(Some(&phases))?;
            Ok::<_, LoadError>(consumer.latencies)
        };
        let threads: Vec<_> = consumers.into_iter().map(|c| scope.spawn(move || follow(c))).collect();
        let produced = produce::run(workload, shares, Some((&stop, phases)));
        let consumed: Result<Vec<_>, _> = threads.into_iter().map(|t| t.join().expect("a consumer thread")).collect();
        (produced, consumed)
    });
    let mut result = produced?;
    let mut latencies = Latencies::new();
    for part in consumed? {
        latencies.add(part);
    }
    result.latency = Some(latencies.report("from intended send to receipt"));
    Ok(result)
}
