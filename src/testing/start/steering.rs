//! A client of one connection against two real shards: it is moved between cores in the middle of a stream.

use super::{Node, directory};
use bytes::{BufMut, Bytes, BytesMut};
use coreline::ids::{LeaderEpoch, Offset};
use coreline::log::batch::BatchBuilder;
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, ProduceRequest, ProduceResponse, RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};
use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

const VERSION: i16 = 9;
/// Requests under way at a time.
const WINDOW: usize = 5;
/// So many requests in a row say where a connection belongs, whatever it did before.
const ENOUGH: i64 = 1500;
/// And a connection that moved once moves again after so long.
const LONG_ENOUGH: Duration = Duration::from_millis(250);

pub(super) fn request(id: i32, partition: i32, value: &str) -> Bytes {
    let mut batch = BatchBuilder::default();
    batch.push(1000, None, Some(value.as_bytes()));
    let batch = batch.build(Offset(0), LeaderEpoch(-1)).into();
    let partition = PartitionProduceData::default().with_index(partition).with_records(Some(batch));
    let topic = TopicProduceData::default().with_name(StrBytes::from_static_str("t").into());
    let request = ProduceRequest::default().with_acks(-1).with_timeout_ms(30_000);
    let request = request.with_topic_data(vec![topic.with_partition_data(vec![partition])]);
    let header = RequestHeader::default().with_request_api_key(ApiKey::Produce as i16);
    let header = header.with_request_api_version(VERSION).with_correlation_id(id);
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    header.encode(&mut frame, ApiKey::Produce.request_header_version(VERSION)).expect("a header");
    request.encode(&mut frame, VERSION).expect("a request");
    let size = frame.len() as u32 - 4;
    frame[..4].copy_from_slice(&size.to_be_bytes());
    frame.freeze()
}

/// The next answer: its id, error and offset.
pub(super) fn answer(stream: &mut TcpStream) -> (i32, i16, i64) {
    let mut size = [0; 4];
    stream.read_exact(&mut size).expect("an answer");
    let mut frame = vec![0; u32::from_be_bytes(size) as usize];
    stream.read_exact(&mut frame).expect("a whole answer");
    let mut frame = Bytes::from(frame);
    let header =
        ResponseHeader::decode(&mut frame, ApiKey::Produce.response_header_version(VERSION)).expect("a header");
    let response = ProduceResponse::decode(&mut frame, VERSION).expect("a response");
    let partition = &response.responses[0].partition_responses[0];
    (header.correlation_id, partition.error_code, partition.base_offset)
}

/// How many connections the shards say have left them, by the lines they end with.
fn moves(log: &str) -> Vec<u64> {
    let after = log.split("moved to another core: ").skip(1);
    after.map(|rest| rest.split(',').next().and_then(|n| n.parse().ok()).expect("a number")).collect()
}

#[test]
fn a_connection_is_moved_between_cores_while_requests_are_under_way() {
    for steering in ["on", "off"] {
        let dir = directory();
        let node = Node::start(dir.path(), &["coreline.cores=2", &format!("coreline.steering={steering}")]);
        node.ok(&["topic", "create", "t", "--partitions", "2"], "");
        let mut stream = TcpStream::connect(&node.address).expect("the node listens");
        stream.set_nodelay(true).expect("a socket");
        let mut next_id = 0;
        // One partition is of the other core, wherever the connection was accepted.
        for partition in [0, 1] {
            let begun = Instant::now();
            let mut owed = VecDeque::new();
            let (mut sent, mut offset) = (0, 0);
            while sent < ENOUGH || begun.elapsed() < LONG_ENOUGH || !owed.is_empty() {
                let more = sent < ENOUGH || begun.elapsed() < LONG_ENOUGH;
                if more && owed.len() < WINDOW {
                    // In two pieces, so that a part of a request may have been read when the connection moves.
                    let frame = request(next_id, partition, &format!("value {next_id}"));
                    let (first, second) = frame.split_at(frame.len() / 2);
                    stream.write_all(first).expect("sent");
                    stream.write_all(second).expect("sent");
                    owed.push_back(next_id);
                    (next_id, sent) = (next_id + 1, sent + 1);
                    continue;
                }
                assert_eq!(answer(&mut stream), (owed.pop_front().expect("owed"), 0, offset), "partition {partition}");
                offset += 1;
            }
        }
        let values = node.values("t").len();
        assert_eq!(values as i32, next_id);
        let log = node.log.clone();
        node.stop();
        let log = std::fs::read_to_string(log).expect("its log");
        match steering {
            "off" => assert_eq!(moves(&log), [0u64; 0], "{log}"),
            _ => assert!(moves(&log).len() == 2 && moves(&log).iter().sum::<u64>() >= 1, "{log}"),
        }
    }
}
