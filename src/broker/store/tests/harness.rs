//! Opening stores in a simulated world, making batches, reading logs whole.

use crate::broker::store::*;
use crate::ids::{LeaderEpoch, Offset, PartitionId, PartitionIndex, ProducerEpoch, ProducerId, TopicId};
use crate::log::batch::{self, BatchBuilder};
use crate::log::log_config::LogConfig;
use bytes::BytesMut;
use coreline_io::Runtime;
use coreline_io::sim::{CrashKind, SimNode, SimOptions, SimRuntime, SimWorld, exit_node};
use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use uuid::Uuid;

pub(super) type Store = Rc<LogStore<SimRuntime>>;
pub(super) const NOW: i64 = 1_767_225_600_000;

/// What the fatal hook was told.
pub(super) type Fatals = Rc<RefCell<Vec<FatalReason>>>;

pub(super) fn world(seed: u64) -> (SimWorld, SimNode) {
    world_with(seed, CrashKind::PowerLoss)
}

pub(super) fn world_with(seed: u64, crash: CrashKind) -> (SimWorld, SimNode) {
    let options = SimOptions {
        crash,
        assert_no_write_after_failed_sync: true,
        steps_max: Some(3_000_000),
        ..SimOptions::default()
    };
    let world = SimWorld::new(seed, options);
    let node = world.node("a");
    (world, node)
}

/// Small in every way, so that a short run rolls, wraps, evicts and waits.
pub(super) fn small_options(shard: u16, fatals: &Fatals) -> StoreOptions {
    let fatals = fatals.clone();
    let mut options =
        StoreOptions::new(SimNode::DATA_DIR, shard, Rc::new(move |reason, _| fatals.borrow_mut().push(reason)));
    options.journal_files = 3;
    options.journal_file_bytes = 128 << 10;
    // Several slices a file, so that frames are written between them.
    options.journal_fill_bytes = 8 << 10;
    options.group_bytes_max = 12 << 10;
    options.direct_bytes_min = 24 << 10;
    options.flush_bytes = 8 << 10;
    options.shared_sync_partitions = 2;
    options.journal_sync = if shard == 0 { JournalSync::Dsync } else { JournalSync::WriteThenSync };
    options.unflushed_bytes_max = 128 << 10;
    options.cache_bytes_max = 32 << 10;
    options.open_files_max = 3;
    options
}

/// The same, in a process that ends itself when durability is in doubt.
pub(super) fn dying_options(shard: u16, fatals: &Fatals) -> StoreOptions {
    let told = fatals.clone();
    let fatal = Rc::new(move |reason, message: String| {
        told.borrow_mut().push(reason);
        exit_node(1, message)
    });
    StoreOptions { fatal, ..small_options(shard, fatals) }
}

pub(super) fn id(n: u32) -> PartitionId {
    PartitionId { topic: TopicId(Uuid::from_u128(u128::from(n) + 1)), index: PartitionIndex(0) }
}

pub(super) fn small_config() -> LogConfig {
    LogConfig {
        segment_bytes: 96 << 10,
        index_interval_bytes: 512,
        max_message_bytes: 64 << 10,
        ..LogConfig::default()
    }
}

pub(super) fn spec(n: u32, epoch: i32, config: LogConfig) -> PartitionSpec {
    PartitionSpec {
        id: id(n),
        topic: format!("topic{n}").into(),
        leader_epoch: LeaderEpoch(epoch),
        config: Arc::new(config),
    }
}

/// Opens with partitions `0..partitions` at `epoch`.
pub(super) async fn open(node: &SimNode, fatals: &Fatals, partitions: u32, epoch: i32) -> Store {
    let store = LogStore::open(node.runtime(), dying_options(0, fatals)).await.expect("the store opens");
    for n in 0..partitions {
        store.assign(spec(n, epoch, small_config()));
    }
    store.assignments_complete();
    store
}

/// What is known of partitions' files goes: a load looks at them.
pub(super) fn remove_states(node: &SimNode) {
    for (path, _) in node.files().into_iter().filter(|f| f.0.ends_with(states::STATES_FILE)) {
        node.remove_path(path);
    }
}

/// One batch; each record's value begins with its number, and is `size` bytes long.
pub(super) fn batch_of(numbers: &[u64], size: usize) -> BytesMut {
    with_producer(numbers, size, None)
}

/// The same, of an idempotent producer: id, epoch, first sequence number.
pub(super) fn with_producer(numbers: &[u64], size: usize, producer: Option<(i64, i16, i32)>) -> BytesMut {
    let mut builder = BatchBuilder::default();
    if let Some((id, epoch, sequence)) = producer {
        builder = builder.producer(ProducerId(id), ProducerEpoch(epoch), sequence);
    }
    for number in numbers {
        let mut value = vec![(*number % 251) as u8; size.max(8)];
        value[..8].copy_from_slice(&number.to_be_bytes());
        builder.push(NOW + *number as i64, None, Some(&value));
    }
    BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
}

pub(super) const LOCAL: AppendOrigin = AppendOrigin { acks: Acks::Local, now_ms: NOW };

pub(super) fn request(offset: i64, max_bytes: usize) -> ReadRequest {
    ReadRequest {
        offset: Offset(offset),
        max_bytes,
        at_least_one: true,
        isolation: Isolation::ReadUncommitted,
        current_leader_epoch: None,
    }
}

/// The records of an answer: offset and number. Checks every byte of them.
pub(super) fn decode(result: &ReadResult) -> Vec<(i64, u64)> {
    let bytes = result.records.concat();
    let mut found = Vec::new();
    for item in batch::batches(&bytes) {
        let (header, range) = item.expect("whole batches");
        batch::check_crc(&header, &bytes[range.clone()]).expect("a good batch");
        batch::for_each_record(&header, &bytes[range], 1 << 20, |record| {
            let value = record.value.expect("a value");
            let number = u64::from_be_bytes(value[..8].try_into().expect("8 bytes"));
            assert!(value[8..].iter().all(|b| *b == (number % 251) as u8), "value of record {number}");
            found.push((record.offset.0, number));
        })
        .expect("good records");
    }
    found
}

/// All records from `from` to the high watermark, read `max_bytes` at a time. Checks that offsets are contiguous.
pub(super) async fn read_all<R: Runtime>(
    store: &Rc<LogStore<R>>,
    partition: PartitionId,
    from: i64,
    max_bytes: usize,
) -> Vec<(i64, u64)> {
    let mut found: Vec<(i64, u64)> = Vec::new();
    let mut next = from;
    loop {
        let result = store.read(partition, request(next, max_bytes)).await.expect("a read inside the log");
        if next >= result.high_watermark.0 {
            return found;
        }
        let records = decode(&result);
        assert!(!records.is_empty(), "nothing at {next}, the high watermark is {}", result.high_watermark);
        assert!(records[0].0 <= next, "first record {} after the offset asked for, {next}", records[0].0);
        for record in records.into_iter().filter(|r| r.0 >= next) {
            assert_eq!(record.0, found.last().map_or(from, |l| l.0 + 1), "offsets are contiguous");
            assert!(record.0 < result.high_watermark.0, "a record past the high watermark");
            found.push(record);
        }
        next = found.last().expect("records were found").0 + 1;
    }
}
