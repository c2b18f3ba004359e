//! When a broker answers: for start-up and recovery times, the same for every broker.
//!
//! 1. *first answer*: a connection, ApiVersions and Metadata;
//! 2. *in service*, with a topic that exists: every one of its (first `active`) partitions has a leader, answers
//!    ListOffsets, and has acknowledged one record.

use super::batch::BatchBuilder;
use super::report::{Measured, RunResult};
use super::{LoadError, TIMEOUT, Workload, process};
use crate::client::Client;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{BrokerId, ListOffsetsRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

const PAUSE: Duration = Duration::from_millis(2);
/// Partitions asked in one request.
const REQUEST_PARTITIONS: usize = 500;
const LATEST: i64 = -1;

/// When the clock began: `since_ms` of the wall clock, or now.
struct Since {
    start: Instant,
    before: Duration,
}

impl Since {
    fn new(since_ms: u64) -> Self {
        let start = Instant::now();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = if since_ms == 0 { Duration::ZERO } else { wall.saturating_sub(Duration::from_millis(since_ms)) };
        Self { start, before }
    }

    fn seconds(&self) -> f64 {
        (self.before + self.start.elapsed()).as_secs_f64()
    }
}

/// Asks until everything answers, or `probe_timeout` is over.
pub(super) fn run(workload: &Workload) -> Result<RunResult, LoadError> {
    let since = Since::new(workload.since_ms);
    let deadline = Instant::now() + Duration::from_secs(workload.probe_timeout);
    let mut client = patiently(deadline, || {
        let mut client = Client::connect(&workload.bootstrap_server, TIMEOUT)?;
        client.metadata(Some(&[]))?;
        Ok(client)
    })?;
    let first_answer = since.seconds();
    let mut partitions = 0;
    if workload.active >= 0 {
        let mut leaders = patiently(deadline, || leaders(&mut client, workload))?;
        if workload.active > 0 {
            leaders.truncate(workload.active as usize);
        }
        partitions = leaders.len();
        let mut by_address: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        for (partition, address) in leaders.into_iter().enumerate() {
            by_address.entry(address).or_default().push(partition as i32);
        }
        for (address, partitions) in by_address {
            let mut client = patiently(deadline, || Ok(Client::connect(&address, TIMEOUT)?))?;
            until_all(deadline, &partitions, |part| list_offsets(&mut client, workload, part))?;
            until_all(deadline, &partitions, |part| produce(&mut client, workload, part))?;
        }
    }
    let measured = Measured {
        seconds: since.seconds(),
        records: partitions as u64,
        latency: None,
        broker: workload.broker_pid.and_then(process::sample).map(|now| (process::Sample::default(), now)),
    };
    let mut result = RunResult::new(workload, measured);
    result.first_answer_seconds = Some(first_answer);
    Ok(result)
}

/// Tries again until it works; the last error when the time is over.
fn patiently<T>(deadline: Instant, mut attempt: impl FnMut() -> Result<T, LoadError>) -> Result<T, LoadError> {
    loop {
        match attempt() {
            Err(_) if Instant::now() < deadline => std::thread::sleep(PAUSE),
            other => return other,
        }
    }
}

/// The address of each partition's leader, once all have one.
fn leaders(client: &mut Client, workload: &Workload) -> Result<Vec<String>, LoadError> {
    let refused = |code| LoadError::Refused { what: format!("metadata of {}", workload.topic), code };
    let cluster = client.metadata(Some(&[&workload.topic]))?;
    let topic = cluster.topics.get(&workload.topic).ok_or_else(|| refused(-1))?;
    if topic.error_code != 0 || topic.leaders.is_empty() {
        return Err(refused(topic.error_code));
    }
    let address = |node: &i32| cluster.address_of(*node).map(str::to_owned).ok_or_else(|| refused(5));
    topic.leaders.iter().map(address).collect()
}

/// Asks about all `partitions`, then again about those that were refused. `ask` gives (partition, error code).
fn until_all(
    deadline: Instant,
    partitions: &[i32],
    mut ask: impl FnMut(&[i32]) -> Result<Vec<(i32, i16)>, LoadError>,
) -> Result<(), LoadError> {
    let mut waiting = partitions.to_vec();
    loop {
        let mut refused = Vec::new();
        for part in waiting.chunks(REQUEST_PARTITIONS) {
            refused.extend(ask(part)?.into_iter().filter(|(_, code)| *code != 0));
        }
        let Some((partition, code)) = refused.first().copied() else { return Ok(()) };
        if Instant::now() > deadline {
            return Err(LoadError::Refused { what: format!("partition {partition}"), code });
        }
        waiting = refused.into_iter().map(|(partition, _)| partition).collect();
        std::thread::sleep(PAUSE);
    }
}

fn topic_name(workload: &Workload) -> TopicName {
    TopicName(StrBytes::from_string(workload.topic.clone()))
}

fn list_offsets(client: &mut Client, workload: &Workload, partitions: &[i32]) -> Result<Vec<(i32, i16)>, LoadError> {
    let partition = |p: &i32| ListOffsetsPartition::default().with_partition_index(*p).with_timestamp(LATEST);
    let topic = ListOffsetsTopic::default()
        .with_name(topic_name(workload))
        .with_partitions(partitions.iter().map(partition).collect());
    let answer = client.call(&ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(vec![topic]))?;
    let answered: Vec<_> =
        answer.topics.iter().flat_map(|t| &t.partitions).map(|p| (p.partition_index, p.error_code)).collect();
    complete(answered, partitions)
}

fn produce(client: &mut Client, workload: &Workload, partitions: &[i32]) -> Result<Vec<(i32, i16)>, LoadError> {
    // By name: the version before topic ids.
    const VERSION: i16 = 9;
    let batch = BatchBuilder::new(8, 0).build([0].into_iter());
    let partition = |p: &i32| PartitionProduceData::default().with_index(*p).with_records(Some(batch.clone()));
    let topic = TopicProduceData::default()
        .with_name(topic_name(workload))
        .with_partition_data(partitions.iter().map(partition).collect());
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000).with_topic_data(vec![topic]);
    let answer = client.call_version(&request, VERSION)?;
    let answered: Vec<_> =
        answer.responses.iter().flat_map(|t| &t.partition_responses).map(|p| (p.index, p.error_code)).collect();
    complete(answered, partitions)
}

/// A partition that is missing in an answer has not answered.
fn complete(answered: Vec<(i32, i16)>, asked: &[i32]) -> Result<Vec<(i32, i16)>, LoadError> {
    if answered.len() != asked.len() {
        let what = format!("{} partitions answered, {} were asked", answered.len(), asked.len());
        return Err(LoadError::Workload(what));
    }
    Ok(answered)
}
