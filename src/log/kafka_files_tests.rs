//! Files that Apache Kafka 4.2 wrote, read here: `testdata/kafka-4.2` is a partition of `index.interval.bytes=300`, written by idempotent
//! producers (0: twelve batches; 1 to 4: one batch of each codec; after a restart of the broker, 1000: six batches), and closed by an
//! orderly end. `dump.txt` is what Kafka's own tool says of it.
//!
//! `testdata/kafka-4.2-txn`: transactions of the producers 1 and 2 side by side, aborted and committed, plain batches of producer 0
//! between them, and a transaction of producer 3 that is still open.

use super::batch::{self, Compression};
use super::index::{OFFSET_ENTRY_LEN, OffsetEntry, TIME_ENTRY_LEN, TimeEntry, valid_offset_index, valid_time_index};
use super::leader_epochs::{EpochStart, LeaderEpochs};
use super::producer_state::ProducerStates;
use super::txn_marker::{build_marker, read_marker};
use super::{partition_metadata, segment, txn_index};
use crate::ids::{LeaderEpoch, Offset, ProducerId};
use std::ops::ControlFlow;

const LOG: &[u8] = include_bytes!("testdata/kafka-4.2/00000000000000000000.log");
const INDEX: &[u8] = include_bytes!("testdata/kafka-4.2/00000000000000000000.index");
const TIME_INDEX: &[u8] = include_bytes!("testdata/kafka-4.2/00000000000000000000.timeindex");
const SNAPSHOTS: [(i64, &[u8]); 2] = [
    (24, include_bytes!("testdata/kafka-4.2/00000000000000000024.snapshot")),
    (30, include_bytes!("testdata/kafka-4.2/00000000000000000030.snapshot")),
];
const TXN_LOG: &[u8] = include_bytes!("testdata/kafka-4.2-txn/00000000000000000000.log");
const TXN_INDEX: &[u8] = include_bytes!("testdata/kafka-4.2-txn/00000000000000000000.txnindex");
const TXN_SNAPSHOT: &[u8] = include_bytes!("testdata/kafka-4.2-txn/00000000000000000020.snapshot");
const EPOCHS: &str = include_str!("testdata/kafka-4.2/leader-epoch-checkpoint");
const METADATA: &str = include_str!("testdata/kafka-4.2/partition.metadata");

/// Header and position of every batch.
fn batches() -> Vec<(batch::RecordBatchHeader, usize)> {
    let mut found = Vec::new();
    let (valid, _) = segment::scan(LOG, 0, |header, position| {
        found.push((*header, position));
        ControlFlow::Continue(())
    });
    assert_eq!(valid, LOG.len(), "every batch is valid");
    found
}

#[test]
fn a_segment_with_every_codec() {
    let mut seen = Vec::new();
    for (header, position) in batches() {
        let times = batch::record_times(&header, &LOG[position..]).expect("records");
        let offsets: Vec<i64> = times.iter().map(|(offset, _)| offset.0).collect();
        assert_eq!(offsets, (header.base_offset.0..=header.last_offset().0).collect::<Vec<_>>());
        assert_eq!(times.iter().map(|(_, time)| *time).max(), Some(header.max_timestamp));
        seen.push(header.compression().expect("a codec"));
    }
    for codec in [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd] {
        assert!(seen.contains(&codec), "{codec:?}");
    }
}

#[test]
fn indexes_name_batches() {
    let batches = batches();
    assert_eq!(valid_offset_index(INDEX, 0, LOG.len() as u64), INDEX.len());
    for n in 0..INDEX.len() / OFFSET_ENTRY_LEN {
        let entry = OffsetEntry::get(INDEX, 0, n).expect("an entry");
        let found = batches.iter().find(|(_, position)| *position as u32 == entry.position).expect("a batch");
        assert_eq!(found.0.last_offset().0, entry.offset);
        assert_eq!(OffsetEntry::lookup(INDEX, 0, entry.offset), entry.position);
    }
    assert_eq!(valid_time_index(TIME_INDEX, 0), TIME_INDEX.len());
    for n in 0..TIME_INDEX.len() / TIME_ENTRY_LEN {
        let entry = TimeEntry::get(TIME_INDEX, 0, n).expect("an entry");
        let found = batches.iter().find(|(header, _)| header.last_offset().0 == entry.offset).expect("a batch");
        assert_eq!(found.0.max_timestamp, entry.timestamp);
    }
}

#[test]
fn snapshots_are_what_the_segment_says() {
    for (end, bytes) in SNAPSHOTS {
        let snapshot = ProducerStates::decode_snapshot(bytes).expect("Kafka's snapshot");
        assert_eq!(snapshot.encode_snapshot(), bytes, "one batch a producer: the same bytes");
        let mut replayed = ProducerStates::default();
        for (header, _) in batches().iter().filter(|(header, _)| header.base_offset.0 < end) {
            replayed.update(header);
        }
        assert_eq!(replayed.len(), snapshot.len());
        for (id, entry) in snapshot.iter() {
            let ours = replayed.get(id).expect("the producer is in the segment");
            assert_eq!((ours.epoch, ours.last_timestamp), (entry.epoch, entry.last_timestamp));
            assert_eq!(ours.batches.back(), entry.batches.back());
        }
        // Ours holds all remembered batches of a producer; read again, the last one is the same.
        let again = ProducerStates::decode_snapshot(&replayed.encode_snapshot()).expect("ours");
        assert_eq!(again.get(ProducerId(0)).map(|p| p.batches.len()), Some(5));
    }
}

#[test]
fn transactions_are_what_kafka_found_them_to_be() {
    let mut states = ProducerStates::default();
    let mut aborted = Vec::new();
    let (mut markers, mut unstable) = (0, Vec::new());
    let (valid, _) = segment::scan(TXN_LOG, 0, |header, position| {
        let bytes = &TXN_LOG[position..position + header.size_in_bytes()];
        if let Some(marker) = read_marker(header, bytes) {
            let producer = (header.producer_id, header.producer_epoch);
            let epoch = header.partition_leader_epoch;
            let ours = build_marker(producer, marker, header.base_offset, epoch, header.max_timestamp);
            assert_eq!(ours, bytes, "the marker at {}", header.base_offset);
            markers += 1;
        }
        aborted.extend(states.note(header, bytes).aborted);
        states.committed(header.next_offset());
        unstable.push(states.first_unstable().map_or(header.next_offset().0, |first| first.0));
        ControlFlow::Continue(())
    });
    assert_eq!((valid, markers), (TXN_LOG.len(), 6));
    assert_eq!(unstable, [1, 1, 1, 1, 1, 1, 1, 8, 8, 10, 10, 10, 10, 10, 10, 16, 16, 18, 18, 18]);
    assert_eq!(txn_index::encode(&aborted), TXN_INDEX);
    assert_eq!(txn_index::decode(TXN_INDEX, Offset(0)), (aborted, true));
    let theirs = ProducerStates::decode_snapshot(TXN_SNAPSHOT).expect("Kafka's snapshot");
    assert_eq!(theirs.encode_snapshot(), TXN_SNAPSHOT);
    assert_eq!(theirs.open_transactions().collect::<Vec<_>>(), [(Offset(18), ProducerId(3))]);
    assert_eq!(states.len(), theirs.len());
    for (id, entry) in theirs.iter() {
        let ours = states.get(id).expect("the producer is in the segment");
        assert_eq!((ours.epoch, ours.coordinator_epoch), (entry.epoch, entry.coordinator_epoch), "{id}");
        assert_eq!(ours.last_timestamp, entry.last_timestamp, "{id}");
        assert_eq!(ours.current_txn_first_offset, entry.current_txn_first_offset, "{id}");
        assert_eq!(ours.batches.back(), entry.batches.back(), "{id}");
    }
}

#[test]
fn small_files_come_back_as_they_were() {
    let epochs = LeaderEpochs::decode(EPOCHS).expect("Kafka's epochs");
    let start = |epoch, start| EpochStart { epoch: LeaderEpoch(epoch), start: Offset(start) };
    assert_eq!(epochs.entries(), [start(0, 0), start(2, 24)]);
    assert_eq!(epochs.encode(), EPOCHS);
    let id = partition_metadata::decode(METADATA).expect("Kafka's topic id");
    assert_eq!(partition_metadata::encode(id), METADATA);
}
