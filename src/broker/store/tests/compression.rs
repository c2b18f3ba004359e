//! Batches that are compressed anew on their way in: their order, their bytes, what a crash leaves of them.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder, Compression};
use crate::log::log_config::{Encoding, LogConfig, TimestampType};
use bytes::BytesMut;
use coreline_io::sim::SimRuntime;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

const SEEDS: u64 = 60;
const CODECS: [Compression; 5] =
    [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

/// One record of an idempotent producer; its number is its sequence, too: another order is an error.
fn numbered(number: u64, codec: Compression, size: usize) -> BytesMut {
    let producer = (ProducerId(5), ProducerEpoch(0), number as i32);
    let mut builder = BatchBuilder::default().compression(codec).producer(producer.0, producer.1, producer.2);
    let mut value = vec![(number % 251) as u8; size.max(8)];
    value[..8].copy_from_slice(&number.to_be_bytes());
    builder.push(NOW, None, Some(&value));
    BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
}

fn stored_as(codec: Option<Compression>) -> Arc<LogConfig> {
    let compression = codec.map(|codec| Encoding { codec, level: None });
    Arc::new(LogConfig { compression, ..small_config() })
}

async fn codecs_of(store: &Rc<LogStore<SimRuntime>>) -> BTreeSet<String> {
    let result = store.read(id(0), request(0, 1 << 20)).await.expect("readable");
    let bytes = result.records.concat();
    let codec = |(header, _): (batch::RecordBatchHeader, _)| format!("{:?}", header.compression().expect("known"));
    batch::batches(&bytes).map(|item| codec(item.expect("whole"))).collect()
}

#[test]
fn whatever_takes_long_appends_keep_their_order() {
    for seed in 0..SEEDS {
        let (world, node) = world(seed);
        let rng = world.rng();
        let fatals = Fatals::default();
        let acked = world.block_on(async {
            let store = open(&node, &fatals, 1, 0).await;
            let mut answers = Vec::new();
            for number in 0..60 {
                if rng.one_in(8) {
                    let codec = (!rng.one_in(3)).then(|| CODECS[rng.index(5)]);
                    store.reconfigure(id(0), stored_as(codec));
                }
                let sent = numbered(number, CODECS[rng.index(5)], 8 + rng.index(3000));
                answers.push(store.append(id(0), sent, LOCAL));
                if rng.one_in(4) {
                    coreline_io::Tasks::yield_now(&node.runtime()).await;
                }
            }
            for (number, answer) in answers.into_iter().enumerate() {
                assert_eq!(answer.await.expect("acked").base_offset, Offset(number as i64), "seed {seed}");
            }
            read_all(&store, id(0), 0, 10_000).await
        });
        assert_eq!(acked, (0..60).map(|n| (n as i64, n)).collect::<Vec<_>>(), "seed {seed}");
        node.crash();
        node.restart();
        world.block_on(async {
            let store = open(&node, &fatals, 1, 1).await;
            assert_eq!(read_all(&store, id(0), 0, 10_000).await, acked, "seed {seed}: after a power loss");
        });
    }
}

#[test]
fn a_topics_codec_holds_from_the_next_append_on() {
    let (world, node) = world(1);
    world.block_on(async {
        let fatals = Fatals::default();
        let store = open(&node, &fatals, 1, 0).await;
        store.append(id(0), numbered(0, Compression::Snappy, 100), LOCAL).await.expect("acked");
        assert_eq!(codecs_of(&store).await, BTreeSet::from(["Snappy".to_owned()]), "producer: as it came");
        store.reconfigure(id(0), stored_as(Some(Compression::Zstd)));
        store.append(id(0), numbered(1, Compression::Gzip, 100), LOCAL).await.expect("acked");
        let appended = store.append(id(0), numbered(2, Compression::None, 100), LOCAL).await.expect("acked");
        assert_eq!((appended.base_offset, appended.log_append_time_ms), (Offset(2), -1));
        assert_eq!(codecs_of(&store).await, BTreeSet::from(["Snappy".to_owned(), "Zstd".to_owned()]));
        // A duplicate is one, however it is compressed.
        let again = store.append(id(0), numbered(2, Compression::Lz4, 100), LOCAL).await.expect("known");
        assert_eq!(again.base_offset, Offset(2));
        let stamped = LogConfig {
            message_timestamp_type: TimestampType::LogAppendTime,
            ..(*stored_as(Some(Compression::Lz4))).clone()
        };
        store.reconfigure(id(0), Arc::new(stamped));
        let appended = store.append(id(0), numbered(3, Compression::Zstd, 100), LOCAL).await.expect("acked");
        assert_eq!(appended.log_append_time_ms, NOW);
        assert_eq!(read_all(&store, id(0), 0, 10_000).await.len(), 4);
    });
}

#[test]
fn what_is_refused_leaves_the_others_alone() {
    let (world, node) = world(2);
    world.block_on(async {
        let fatals = Fatals::default();
        let store = open(&node, &fatals, 1, 0).await;
        store.reconfigure(id(0), stored_as(Some(Compression::None)));
        let mut damaged = numbered(1, Compression::Zstd, 1000);
        let at = batch::HEADER_LEN + 2;
        damaged[at] ^= 0xff;
        let crc = crc32c::crc32c(&damaged[21..]);
        damaged[17..21].copy_from_slice(&crc.to_be_bytes());
        let large = numbered(1, Compression::Zstd, 70 << 10);
        let answers = [
            store.append(id(0), numbered(0, Compression::Gzip, 100), LOCAL),
            store.append(id(0), damaged, LOCAL),
            store.append(id(0), large, LOCAL),
            store.append(id(0), numbered(1, Compression::None, 100), LOCAL),
        ];
        let codes = futures_util::future::join_all(answers).await;
        let codes: Vec<_> = codes.into_iter().map(|a| a.map(|a| a.base_offset.0).map_err(|e| e.code)).collect();
        let refused = [Err(ErrorCode::InvalidRecord), Err(ErrorCode::MessageTooLarge)];
        assert_eq!(codes, [&[Ok(0)][..], &refused, &[Ok(1)]].concat());
        // What waits for a helper when the partition goes is answered, too.
        let answer = store.append(id(0), numbered(2, Compression::Gzip, 100), LOCAL);
        store.delete(id(0)).await.expect("deleted");
        assert!(answer.await.is_err_and(|e| e.code == ErrorCode::UnknownTopicOrPartition));
    });
}
