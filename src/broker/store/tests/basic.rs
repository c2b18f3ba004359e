//! Single behaviours, each in one simulated world.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset};
use crate::log::batch;
use crate::log::log_config::{Durability, LogConfig, TimestampType};
use bytes::BytesMut;
use coreline_io::Clock;
use coreline_io::sim::SimNode;
use futures_util::FutureExt;
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

#[test]
fn append_ack_read() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        for n in 0..2 {
            store.load_end_offsets(id(n)).await.expect("loads");
        }
        let first = store.append(id(0), batch_of(&[1, 2, 3], 100), LOCAL);
        let second = store.append(id(0), batch_of(&[4], 100), LOCAL);
        let other = store.append(id(1), batch_of(&[5], 100), LOCAL);
        assert_eq!(second.await.expect("acked").base_offset, Offset(3), "in the order of calls");
        assert_eq!(first.await.expect("acked").base_offset, Offset(0));
        assert_eq!(other.await.expect("acked").base_offset, Offset(0));
        assert_eq!(store.stats().groups, 1, "one group commit for what came together");
        assert_eq!(read_all(&store, id(0), 0, 1000).await, [(0, 1), (1, 2), (2, 3), (3, 4)]);
        assert_eq!(read_all(&store, id(1), 0, 1000).await, [(0, 5)]);
        let error = store.read(id(0), request(5, 100)).await.expect_err("past the end");
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
        assert_eq!(error.offsets.map(|e| e.high_watermark), Some(Offset(4)));
    });
}

#[test]
fn what_was_acked_is_there_after_a_crash() {
    let (world, node) = world(2);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        for n in 0..50 {
            store.append(id(0), batch_of(&[n], 1000), LOCAL).await.expect("acked");
        }
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        let expected: Vec<(i64, u64)> = (0..50).map(|n| (n as i64, n)).collect();
        assert_eq!(read_all(&store, id(0), 0, 5000).await, expected);
        store.shutdown().await.expect("a clean end");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        assert_eq!(store.append(id(0), batch_of(&[50], 10), LOCAL).await.expect("acked").base_offset, Offset(50));
        assert_eq!(read_all(&store, id(0), 40, 100).await.len(), 11);
    });
    assert!(fatals.borrow().is_empty());
}

async fn loaded(node: &SimNode, fatals: &Fatals) -> Store {
    let store = open(node, fatals, 1, 5).await;
    store.load_end_offsets(id(0)).await.expect("loads");
    store
}

#[test]
fn acks_none_is_answered_at_once() {
    let (world, node) = world(3);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let before = node.runtime().now();
        let origin = AppendOrigin { acks: Acks::None, ..LOCAL };
        let appended = store.append(id(0), batch_of(&[1], 10), origin).await.expect("taken");
        assert_eq!((appended.base_offset, node.runtime().now()), (Offset(0), before));
        store.append(id(0), batch_of(&[2], 10), LOCAL).await.expect("acked");
        assert_eq!(read_all(&store, id(0), 0, 100).await.len(), 2);
    });
}

#[test]
fn a_bad_batch_refuses_the_whole_request() {
    let (world, node) = world(4);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let mut bytes = batch_of(&[1], 10);
        let good = bytes.len();
        bytes.extend_from_slice(&batch_of(&[2], 10));
        let mut damaged = bytes.clone();
        damaged[good + 70] ^= 1;
        let table = [
            (damaged, ErrorCode::CorruptMessage),
            (BytesMut::from(&bytes[..good + 20]), ErrorCode::CorruptMessage),
            (BytesMut::new(), ErrorCode::InvalidRecord),
            (batch_of(&[3], 70_000), ErrorCode::MessageTooLarge),
            (with_producer(&[4], 10, Some((1, 0, -1))), ErrorCode::InvalidRecord),
        ];
        for (records, code) in table {
            let error = store.append(id(0), records, LOCAL).await.expect_err("refused");
            assert_eq!(error.code, code, "{error}");
        }
        assert_eq!(store.append(id(0), bytes, LOCAL).await.expect("both are good").base_offset, Offset(0));
        assert_eq!(read_all(&store, id(0), 0, 100).await, [(0, 1), (1, 2)]);
        let unknown = store.append(id(9), batch_of(&[1], 10), LOCAL).await.expect_err("unknown");
        assert_eq!(unknown.code, ErrorCode::UnknownTopicOrPartition);
    });
}

#[test]
fn a_duplicate_of_a_batch_under_way_is_answered_when_that_is_durable() {
    let (world, node) = world(5);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let first = store.append(id(0), with_producer(&[1, 2], 10, Some((9, 0, 0))), LOCAL);
        let mut again = std::pin::pin!(store.append(id(0), with_producer(&[1, 2], 10, Some((9, 0, 0))), LOCAL));
        assert!((&mut again).now_or_never().is_none(), "not before it is durable");
        assert_eq!(first.await.expect("acked").base_offset, Offset(0));
        assert_eq!(again.await.expect("acked").base_offset, Offset(0));
        let gap = store.append(id(0), with_producer(&[4], 10, Some((9, 0, 3))), LOCAL).await.expect_err("a gap");
        assert_eq!(gap.code, ErrorCode::OutOfOrderSequenceNumber);
        store.append(id(0), with_producer(&[5], 10, Some((9, 1, 0))), LOCAL).await.expect("a new epoch");
        let old = store.append(id(0), with_producer(&[6], 10, Some((9, 0, 2))), LOCAL).await.expect_err("fenced");
        assert_eq!(old.code, ErrorCode::InvalidProducerEpoch);
        let producers = store.producers(id(0)).await.expect("loaded");
        assert_eq!(producers.iter().map(|p| (p.producer_epoch.0, p.last_sequence)).collect::<Vec<_>>(), [(1, 0)]);
        assert_eq!(read_all(&store, id(0), 0, 100).await.len(), 3);
    });
}

#[test]
fn watchers_are_told_once_a_group() {
    let (world, node) = world(6);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let seen = Rc::new(RefCell::new(Vec::new()));
        let told = seen.clone();
        store.on_high_watermark(Rc::new(move |id, ends| told.borrow_mut().push((id, ends.high_watermark.0))));
        let answers: Vec<_> = (0..5).map(|n| store.append(id(0), batch_of(&[n], 10), LOCAL)).collect();
        for answer in answers {
            answer.await.expect("acked");
        }
        assert_eq!(*seen.borrow(), [(id(0), 5)]);
    });
}

#[test]
fn offsets_by_time_and_epoch() {
    let (world, node) = world(7);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        for n in 0..60 {
            store.append(id(0), batch_of(&[n * 10, n * 10 + 5], 3000), LOCAL).await.expect("acked");
        }
        store.assign(spec(0, 7, small_config()));
        store.append(id(0), batch_of(&[600], 10), LOCAL).await.expect("acked");
        let ask = async |query| store.list_offset(id(0), query, None).await.expect("loaded");
        // Record `number` has the time NOW + number; the records of a batch are 10n and 10n + 5.
        for (time, offset) in [(0, 0), (3, 1), (5, 1), (6, 2), (10, 2), (111, 23), (595, 119), (600, 120)] {
            let found = ask(OffsetQuery::Timestamp(NOW + time)).await.expect("a record");
            assert_eq!((found.offset, time), (Offset(offset), time));
            assert!(found.timestamp >= NOW + time);
        }
        assert_eq!(ask(OffsetQuery::Timestamp(NOW + 601)).await, None);
        let max = ask(OffsetQuery::MaxTimestamp).await.expect("a record");
        assert_eq!((max.offset, max.timestamp), (Offset(120), NOW + 600));
        assert_eq!(ask(OffsetQuery::Earliest).await.map(|f| (f.offset.0, f.leader_epoch.0)), Some((0, 5)));
        let latest = OffsetQuery::Latest(Isolation::ReadCommitted);
        assert_eq!(ask(latest).await.map(|f| (f.offset.0, f.leader_epoch.0)), Some((121, 7)));
        for (epoch, end) in [(4, 0), (5, 120), (6, 120), (7, 121), (8, -1)] {
            let found = store.offset_for_leader_epoch(id(0), LeaderEpoch(epoch), None).await.expect("loaded");
            assert_eq!((epoch, found.end_offset.0), (epoch, end));
        }
        for (epoch, code) in [(6, ErrorCode::FencedLeaderEpoch), (8, ErrorCode::UnknownLeaderEpoch)] {
            let asked = ReadRequest { current_leader_epoch: Some(LeaderEpoch(epoch)), ..request(0, 10) };
            assert_eq!(store.read(id(0), asked).await.expect_err("another epoch").code, code);
        }
        assert!(store.delete_records(id(0), Offset(100)).await.is_ok());
        assert_eq!(ask(OffsetQuery::Timestamp(NOW)).await.map(|f| f.offset.0), Some(100));
        assert_eq!(ask(OffsetQuery::Earliest).await.map(|f| f.offset.0), Some(100));
        assert_eq!(store.read(id(0), request(99, 10)).await.expect_err("deleted").code, ErrorCode::OffsetOutOfRange);
        assert_eq!(read_all(&store, id(0), 100, 10_000).await.len(), 21);
    });
}

#[test]
fn times_before_a_start_within_a_batch_are_not_found() {
    let (world, node) = world(8);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        store.append(id(0), batch_of(&[10, 500, 20], 10), LOCAL).await.expect("acked");
        store.append(id(0), batch_of(&[40], 10), LOCAL).await.expect("acked");
        store.delete_records(id(0), Offset(2)).await.expect("moved");
        let ask = async |query| {
            let found = store.list_offset(id(0), query, None).await.expect("loaded");
            found.map(|f| (f.offset.0, f.timestamp - NOW))
        };
        assert_eq!(ask(OffsetQuery::Timestamp(NOW + 5)).await, Some((2, 20)));
        assert_eq!(ask(OffsetQuery::Timestamp(NOW + 30)).await, Some((3, 40)));
        assert_eq!(ask(OffsetQuery::Timestamp(NOW + 50)).await, None);
        assert_eq!(ask(OffsetQuery::MaxTimestamp).await, Some((3, 40)));
        store.delete_records(id(0), Offset(4)).await.expect("moved");
        assert_eq!(ask(OffsetQuery::MaxTimestamp).await, None);
    });
}

#[test]
fn log_append_time_is_stamped_and_the_batch_stays_valid() {
    let (world, node) = world(8);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let config = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..small_config() };
        store.reconfigure(id(0), Arc::new(config));
        let origin = AppendOrigin { now_ms: NOW + 999, ..LOCAL };
        let appended = store.append(id(0), batch_of(&[1], 10), origin).await.expect("acked");
        assert_eq!(appended.log_append_time_ms, NOW + 999);
        assert_eq!(read_all(&store, id(0), 0, 100).await, [(0, 1)]);
        let found = store.list_offset(id(0), OffsetQuery::Timestamp(NOW + 5), None).await.expect("loaded");
        assert_eq!(found.map(|f| f.timestamp), Some(NOW + 999));
    });
}

#[test]
fn segments_roll_by_record_time() {
    let (world, node) = world(9);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        store.reconfigure(id(0), Arc::new(LogConfig { segment_ms: 100, ..small_config() }));
        for n in [0, 50, 150, 151, 300] {
            store.append(id(0), batch_of(&[n], 10), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
    });
    let logs = node.files().into_iter().filter(|(p, _)| p.to_string_lossy().ends_with(".log"));
    let names: Vec<_> = logs.map(|(p, _)| p.file_name().map(|n| n.to_string_lossy().into_owned())).collect();
    assert_eq!(names.into_iter().flatten().collect::<Vec<_>>(), [0, 2, 4].map(|base| format!("{base:020}.log")));
}

#[test]
fn a_stop_without_time_leaves_the_rest_to_the_journal() {
    let (mut some, mut all) = (false, false);
    for (seed, ms) in (30..).zip([0, 1, 3, 10, 30, 100, 1000]) {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        world.block_on(async {
            let store = open(&node, &fatals, 40, 0).await;
            for n in 0..40 {
                for number in 0..3 {
                    store.append(id(n), batch_of(&[number], 1000), LOCAL).await.expect("acked");
                }
            }
            store.shutdown_within(Duration::from_millis(ms)).await.expect("stops");
        });
        let flushed = node.files().iter().filter(|(p, _)| p.to_string_lossy().ends_with(".snapshot")).count();
        (some, all) = (some || (1..40).contains(&flushed), all || flushed == 40);
        assert!(ms > 0 || flushed == 0, "no time, no flush: {flushed}");
        assert_eq!(node.file_contents("/data/journal/shard-0000/clean").is_some(), flushed == 40, "{ms} ms");
        node.crash();
        node.restart();
        world.block_on(async {
            let store = open(&node, &fatals, 40, 0).await;
            for n in 0..40 {
                assert_eq!(
                    read_all(&store, id(n), 0, 10_000).await,
                    [(0, 0), (1, 1), (2, 2)],
                    "{ms} ms, partition {n}"
                );
            }
        });
        assert!(fatals.borrow().is_empty());
    }
    assert!(some && all, "the times must part some partitions from others, and be enough for all: {some} {all}");
}

#[test]
fn a_clean_end_leaves_exact_files_and_a_short_start() {
    let (world, node) = world(10);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        for n in 0..30 {
            store.append(id(0), with_producer(&[n], 1000, Some((9, 0, n as i32))), LOCAL).await.expect("acked");
        }
        store.shutdown().await.expect("closes");
        let late = store.append(id(0), batch_of(&[1], 10), LOCAL).await.expect_err("closed");
        assert_eq!(late.code, ErrorCode::KafkaStorageError);
    });
    let log = node.file_contents("/data/topic0-0/00000000000000000000.log").expect("flushed");
    let mut end = 0;
    for item in batch::batches(&log) {
        end = item.expect("nothing but batches").1.end;
    }
    assert_eq!(end, log.len(), "no padding is left");
    assert!(node.file_contents("/data/topic0-0/00000000000000000030.snapshot").is_some());
    assert_eq!(node.file_contents("/data/topic0-0/leader-epoch-checkpoint").expect("written"), b"0\n1\n5 0\n");
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 5).await;
        let again = store.append(id(0), with_producer(&[26], 1000, Some((9, 0, 26))), LOCAL).await;
        assert_eq!(again.expect("one of the last five").base_offset, Offset(26));
        assert_eq!(store.stats().unflushed_bytes, 0, "nothing came from the journal");
    });
}

#[test]
fn a_deleted_partition_stays_deleted() {
    let (world, node) = world(11);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        store.append(id(0), batch_of(&[1], 30_000), LOCAL).await.expect("acked");
        store.append(id(0), batch_of(&[2], 10), LOCAL).await.expect("acked");
        let under_way = store.append(id(0), batch_of(&[3], 10), LOCAL);
        store.delete(id(0)).await.expect("deleted");
        let _ = under_way.await;
        let error = store.append(id(0), batch_of(&[4], 10), LOCAL).await.expect_err("gone");
        assert_eq!(error.code, ErrorCode::UnknownTopicOrPartition);
        store.append(id(1), batch_of(&[5], 10), LOCAL).await.expect("the others go on");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        assert_eq!(store.load_end_offsets(id(0)).await.expect("a new one").log_end, Offset(0));
        assert_eq!(read_all(&store, id(1), 0, 100).await, [(0, 5)]);
    });
}

#[test]
fn truncation_cuts_whole_batches_and_survives_crashes() {
    for seed in 0..30 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        let mut expected: Vec<(i64, u64)> = (0..90).map(|n| (n as i64, n)).collect();
        world.block_on(async {
            let store = loaded(&node, &fatals).await;
            for n in (0..90).step_by(3) {
                store
                    .append(id(0), with_producer(&[n, n + 1, n + 2], 2000, Some((9, 0, n as i32))), LOCAL)
                    .await
                    .expect("acked");
            }
            let to = world.rng().below(95) as i64;
            let ends = store.truncate(id(0), Offset(to)).await.expect("cut");
            let end = (to / 3 * 3).min(90);
            let end = if to >= 90 { 90 } else { end };
            assert_eq!((ends.log_end.0, ends.high_watermark.0), (end, end), "cut at {to}");
            expected.truncate(end as usize);
            assert_eq!(read_all(&store, id(0), 0, 9000).await, expected);
            // The producer's state went back with it.
            let next = store.append(id(0), with_producer(&[1000], 10, Some((9, 0, end as i32))), LOCAL).await;
            assert_eq!(next.expect("in sequence").base_offset, Offset(end));
            expected.push((end, 1000));
        });
        node.crash();
        node.restart();
        world.block_on(async {
            let store = loaded(&node, &fatals).await;
            assert_eq!(read_all(&store, id(0), 0, 9000).await, expected, "seed {seed}");
        });
        assert!(fatals.borrow().is_empty());
    }
}

#[test]
fn written_durability_counts_what_is_at_risk() {
    let (world, node) = world(12);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = loaded(&node, &fatals).await;
        let written = LogConfig { durability: Durability::Written, flush_ms: 50, ..small_config() };
        store.reconfigure(id(0), Arc::new(written));
        store.append(id(0), batch_of(&[1], 100), LOCAL).await.expect("acked");
        assert!(store.stats().not_durable_bytes > 0);
        node.runtime().sleep(Duration::from_millis(60)).await;
        assert_eq!(store.stats().not_durable_bytes, 0, "flush.ms");
        store.append(id(0), batch_of(&[2], 30_000), LOCAL).await.expect("acked, straight to the segment");
        assert!(store.stats().not_durable_bytes > 30_000);
        store.append(id(0), batch_of(&[3], 10), LOCAL).await.expect("acked");
        node.runtime().sleep(Duration::from_millis(60)).await;
        assert_eq!(store.stats().not_durable_bytes, 0, "flush.ms of a segment");
        assert!(store.stats().direct_writes >= 2, "the journal must not get ahead of the segment");
        assert_eq!(read_all(&store, id(0), 0, 100).await.len(), 3);
    });
}

#[test]
fn the_journal_is_a_ring_of_recycled_files() {
    let (world, node) = world(13);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 3, 0).await;
        for n in 0..600 {
            store.append(id(n as u32 % 3), batch_of(&[n], 2000), LOCAL).await.expect("acked");
        }
        let stats = store.stats();
        assert!(stats.journal_bytes > 4 * 3 * (128 << 10), "it went round: {stats:?}");
        assert!(stats.open_files <= 3);
        assert!(stats.cache_bytes <= 32 << 10);
        for n in 0..3 {
            assert_eq!(read_all(&store, id(n), 0, 30_000).await.len(), 200);
        }
    });
    let files: Vec<_> = node.files().into_iter().filter(|(p, _)| p.to_string_lossy().ends_with(".journal")).collect();
    assert!(files.len() <= 3 && files.iter().all(|(_, len)| *len <= 128 << 10), "{files:?}");
    assert!(fatals.borrow().is_empty());
}

#[test]
fn an_idle_partition_is_small() {
    let sizes = [size_of::<partition::Partition>(), size_of::<partition::Log>(), size_of::<partition::Segment>()];
    let index = size_of::<index_builder::IndexBuilder>();
    assert!(sizes.iter().sum::<usize>() + index < 1200, "{sizes:?} {index}");
}
