//! Transactions of one partition: ends, the last stable offset, who may append.

use super::harness::*;
use crate::broker::store::*;
use crate::error_code::ErrorCode;
use crate::ids::{LeaderEpoch, Offset, PartitionId, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder};
use crate::log::txn_marker::read_marker;
use bytes::BytesMut;
use coreline_io::Runtime;
use std::cell::RefCell;
use std::rc::Rc;

/// One transactional batch of `producer` (id, epoch, first sequence number).
pub(super) fn txn_batch(numbers: &[u64], size: usize, producer: (i64, i16, i32)) -> BytesMut {
    let builder = BatchBuilder::default().attributes(0x10);
    let mut builder = builder.producer(ProducerId(producer.0), ProducerEpoch(producer.1), producer.2);
    for number in numbers {
        let mut value = vec![(*number % 251) as u8; size.max(8)];
        value[..8].copy_from_slice(&number.to_be_bytes());
        builder.push(NOW + *number as i64, None, Some(&value));
    }
    BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
}

/// Appends as a client does once its coordinator agreed.
async fn produce<R: Runtime>(
    store: &Rc<LogStore<R>>,
    partition: PartitionId,
    records: BytesMut,
) -> Result<Appended, AppendError> {
    produce_v(store, partition, records, false).await
}

pub(super) async fn produce_v<R: Runtime>(
    store: &Rc<LogStore<R>>,
    partition: PartitionId,
    records: BytesMut,
    v2: bool,
) -> Result<Appended, AppendError> {
    let header = batch::parse_header(&records).expect("a header");
    let producer = TxnProducer {
        producer_id: header.producer_id,
        producer_epoch: header.producer_epoch,
        base_sequence: header.base_sequence,
        v2,
    };
    let guard = match store.txn_state(partition, producer, NOW).await {
        Ok(TxnState::Ongoing) => None,
        Ok(TxnState::Unverified(guard)) => Some(guard),
        Err(error) => return Err(AppendError { code: error.code, message: error.message, record_errors: Vec::new() }),
    };
    store.append_transactional(partition, records, LOCAL, TxnAppend { guard, by_coordinator: false }).await
}

pub(super) fn marker(n: u32, producer: (i64, i16), coordinator_epoch: i32, commit: bool) -> TxnMarker {
    TxnMarker {
        partition: id(n),
        producer_id: ProducerId(producer.0),
        producer_epoch: ProducerEpoch(producer.1),
        coordinator_epoch,
        commit,
        v2: false,
    }
}

async fn end<R: Runtime>(store: &Rc<LogStore<R>>, marker: TxnMarker) -> Result<i64, ErrorCode> {
    let mut results = store.write_txn_markers(vec![marker], NOW).await;
    results.pop().expect("an answer").map(|offset| offset.0).map_err(|error| error.code)
}

fn stable<R: Runtime>(store: &LogStore<R>, n: u32) -> (i64, i64) {
    let ends = store.end_offsets(id(n)).expect("loaded");
    (ends.last_stable.0, ends.high_watermark.0)
}

#[test]
fn only_who_was_verified_begins_a_transaction() {
    let (world, node) = world(3);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        let code = |result: Result<Appended, AppendError>| result.map(|a| a.base_offset.0).map_err(|e| e.code);
        let plain = store.append(id(0), txn_batch(&[1], 10, (7, 0, 0)), LOCAL).await;
        assert_eq!(code(plain), Err(ErrorCode::InvalidTxnState));
        assert_eq!(code(produce(&store, id(0), txn_batch(&[1], 10, (7, 0, 0))).await), Ok(0));
        let plain = store.append(id(0), txn_batch(&[2], 10, (7, 0, 1)), LOCAL).await;
        assert_eq!(code(plain), Ok(1), "it goes on");
        let plain = store.append(id(0), with_producer(&[3], 10, Some((7, 0, 2))), LOCAL).await;
        assert_eq!(code(plain), Err(ErrorCode::InvalidTxnState), "not outside of its transaction");
        let producer =
            TxnProducer { producer_id: ProducerId(8), producer_epoch: ProducerEpoch(0), base_sequence: 0, v2: false };
        let Ok(TxnState::Unverified(guard)) = store.txn_state(id(0), producer, NOW).await else { panic!("not open") };
        assert_eq!(end(&store, marker(0, (8, 0), 1, false)).await, Ok(2));
        let txn = TxnAppend { guard: Some(guard), by_coordinator: false };
        let late = store.append_transactional(id(0), txn_batch(&[3], 10, (8, 0, 0)), LOCAL, txn).await;
        assert_eq!(code(late), Err(ErrorCode::InvalidTxnState), "verified before the marker");
        let duplicate = store.append(id(0), txn_batch(&[2], 10, (7, 0, 1)), LOCAL).await;
        assert_eq!(code(duplicate), Ok(1));
    });
}

#[test]
fn a_coordinators_batch_needs_no_sequence() {
    let (world, node) = world(4);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        let producer =
            TxnProducer { producer_id: ProducerId(8), producer_epoch: ProducerEpoch(0), base_sequence: -1, v2: false };
        let Ok(TxnState::Unverified(guard)) = store.txn_state(id(0), producer, NOW).await else { panic!("not open") };
        let client = TxnAppend { guard: Some(guard), by_coordinator: false };
        let refused = store.append_transactional(id(0), txn_batch(&[1], 10, (8, 0, -1)), LOCAL, client).await;
        assert_eq!(refused.expect_err("a client's needs one").code, ErrorCode::InvalidRecord);
        let own = TxnAppend { guard: Some(guard), by_coordinator: true };
        for n in 0..2 {
            let appended = store.append_transactional(id(0), txn_batch(&[n], 10, (8, 0, -1)), LOCAL, own).await;
            assert_eq!(appended.expect("appended").base_offset.0, n as i64);
        }
        assert_eq!(stable(&store, 0), (0, 2));
        assert_eq!(end(&store, marker(0, (8, 0), 1, true)).await, Ok(2));
        assert_eq!(stable(&store, 0), (3, 3));
    });
}

#[test]
fn the_last_stable_offset_follows_the_oldest_open_transaction() {
    let (world, node) = world(5);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        let told = Rc::new(RefCell::new(Vec::new()));
        let hook = Rc::clone(&told);
        store.on_marker(Rc::new(move |m| hook.borrow_mut().push((m.producer_id.0, m.commit))));
        store.append(id(0), batch_of(&[0], 10), LOCAL).await.expect("appended");
        produce(&store, id(0), txn_batch(&[1], 10, (1, 0, 0))).await.expect("appended");
        produce(&store, id(0), txn_batch(&[2], 10, (2, 0, 0))).await.expect("appended");
        store.append(id(0), batch_of(&[3], 10), LOCAL).await.expect("appended");
        assert_eq!(stable(&store, 0), (1, 4));
        assert_eq!(end(&store, marker(0, (2, 0), 1, true)).await, Ok(4));
        assert_eq!(stable(&store, 0), (1, 5), "the first is still open");
        // Not before its end is committed.
        let ending = store.write_txn_markers(vec![marker(0, (1, 0), 1, false)], NOW);
        assert_eq!(stable(&store, 0), (1, 5));
        assert_eq!(ending.await.len(), 1);
        assert_eq!(stable(&store, 0), (6, 6));
        assert_eq!(*told.borrow(), [(2, true), (1, false)]);
        // Again: as Kafka, a marker that ends nothing is written.
        assert_eq!(end(&store, marker(0, (1, 0), 1, false)).await, Ok(6));
        assert_eq!(stable(&store, 0), (7, 7));
    });
}

#[test]
fn markers_are_checked_by_epochs() {
    let (world, node) = world(6);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        produce(&store, id(0), txn_batch(&[1], 10, (1, 5, 0))).await.expect("appended");
        assert_eq!(end(&store, marker(0, (1, 4), 9, true)).await, Err(ErrorCode::InvalidProducerEpoch));
        assert_eq!(end(&store, marker(0, (1, 6), 9, true)).await, Ok(1), "raised by its coordinator");
        let old = produce(&store, id(0), txn_batch(&[2], 10, (1, 5, 1))).await;
        assert_eq!(old.expect_err("fenced").code, ErrorCode::InvalidProducerEpoch);
        let gap = produce(&store, id(0), txn_batch(&[2], 10, (1, 6, 1))).await;
        assert_eq!(gap.expect_err("a new epoch begins at 0").code, ErrorCode::OutOfOrderSequenceNumber);
        produce(&store, id(0), txn_batch(&[2], 10, (1, 6, 0))).await.expect("appended");
        assert_eq!(end(&store, marker(0, (1, 6), 8, true)).await, Err(ErrorCode::TransactionCoordinatorFenced));
        let late = TxnMarker { v2: true, ..marker(0, (1, 6), 9, true) };
        assert_eq!(end(&store, late).await, Err(ErrorCode::InvalidProducerEpoch), "of the transaction before");
        assert_eq!(end(&store, TxnMarker { v2: true, ..marker(0, (1, 7), 9, false) }).await, Ok(3));
        let unknown = TxnMarker { partition: id(9), ..late };
        assert_eq!(end(&store, unknown).await, Err(ErrorCode::UnknownTopicOrPartition));
        let result = store.read(id(0), request(3, 1000)).await.expect("a read");
        let bytes = result.records.concat();
        let header = batch::parse_header(&bytes).expect("a header");
        assert_eq!((header.base_offset.0, header.producer_epoch.0, header.base_sequence), (3, 7, -1));
        let read = read_marker(&header, &bytes).expect("a marker");
        assert_eq!((read.commit, read.coordinator_epoch), (false, 9));
    });
}

#[test]
fn ends_of_many_partitions_share_a_group_commit() {
    let (world, node) = world(7);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 20, 1).await;
        for n in 0..20 {
            produce(&store, id(n), txn_batch(&[1], 10, (1, 0, 0))).await.expect("appended");
        }
        let before = store.stats().groups;
        let markers = (0..20).map(|n| marker(n, (1, 0), 1, true)).collect();
        let written = store.write_txn_markers(markers, NOW).await;
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(store.stats().groups - before, 1);
    });
}
