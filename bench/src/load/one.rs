//! One record at a time: sent, acknowledged, received, and only then the next.

use super::batch::{self, BatchBuilder};
use super::connection::Connection;
use super::consume::{LATEST, fetch_request, offsets};
use super::latencies::Latencies;
use super::produce::Phases;
use super::report::{Measured, RunResult};
use super::topics::Share;
use super::{LoadError, Workload, process};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{FetchResponse, ProduceRequest, ProduceResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;

const PRODUCE: i16 = 9;
const FETCH: i16 = 12;

/// Runs on the first partition, with a connection for each side. The fetch waits at the broker before the record is sent.
pub(super) fn run(workload: &Workload, shares: &[Share]) -> Result<RunResult, LoadError> {
    let share = Share { address: shares[0].address.clone(), partitions: vec![shares[0].partitions[0]] };
    let mut positions: BTreeMap<i32, i64> = offsets(workload, &share, LATEST)?;
    let partition = share.partitions[0];
    let (producer, consumer) = (Connection::open(&share.address)?, Connection::open(&share.address)?);
    let builder = BatchBuilder::new(workload.record_size, 0);
    let phases = Phases::new(workload);
    let mut latencies = Latencies::new();
    let (mut correlation_id, mut records, mut before) = (0_i32, 0_u64, None);
    let sample = || workload.broker_pid.and_then(process::sample);
    while phases.now() < phases.end {
        correlation_id += 1;
        consumer.send(&fetch_request(workload, &positions, 30_000), FETCH, correlation_id)?;
        let sent = phases.now();
        if sent >= phases.measure_from && before.is_none() {
            before = Some(sample());
        }
        let data =
            PartitionProduceData::default().with_index(partition).with_records(Some(builder.build([sent].into_iter())));
        let name = TopicName(StrBytes::from_string(workload.topic.clone()));
        let topic = TopicProduceData::default().with_name(name).with_partition_data(vec![data]);
        let request = ProduceRequest::default().with_acks(workload.acks).with_timeout_ms(30_000);
        producer.send(&request.with_topic_data(vec![topic]), PRODUCE, correlation_id)?;
        let answer: FetchResponse = consumer.receive(FETCH, correlation_id)?;
        let received = phases.now();
        let acked: ProduceResponse = producer.receive(PRODUCE, correlation_id)?;
        let code = acked.responses.iter().flat_map(|t| &t.partition_responses).map(|p| p.error_code).find(|c| *c != 0);
        if let Some(code) = code {
            return Err(LoadError::Refused { what: format!("produce to {}-{partition}", workload.topic), code });
        }
        let found = answer.responses.iter().flat_map(|t| &t.partitions).filter_map(|p| p.records.as_ref());
        let next = found.filter_map(|bytes| batch::walk(bytes, false, |_| {}).next_offset).max();
        let Some(next) = next else { continue };
        positions.insert(partition, next);
        if sent >= phases.measure_from {
            latencies.record(sent, received - sent);
            records += 1;
        }
    }
    let measured = Measured {
        seconds: (phases.now() - phases.measure_from) as f64 / 1e9,
        records,
        latency: Some(latencies.report("from send to receipt, one at a time")),
        broker: before.flatten().zip(sample()),
    };
    Ok(RunResult::new(workload, measured))
}
