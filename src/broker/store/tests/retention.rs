//! What goes of a log by size, by age and by request, in memory and on disk.

use super::harness::*;
use crate::error_code::ErrorCode;
use crate::ids::Offset;
use crate::log::log_config::LogConfig;
use coreline_io::sim::{DiskOp, SimNode, SimWorld};
use coreline_io::{Clock, Disk};
use std::sync::Arc;
use std::time::Duration;

/// Segments of one batch each but the active one: `records` batches of a record, 40 KiB each, two a segment.
async fn filled(node: &SimNode, fatals: &Fatals, records: u64, config: LogConfig) -> Store {
    let store = open(node, fatals, 1, 0).await;
    store.reconfigure(id(0), Arc::new(config));
    for n in 0..records {
        store.append(id(0), batch_of(&[n], 40 << 10), LOCAL).await.expect("acked");
    }
    store
}

fn files(node: &SimNode, suffix: &str) -> Vec<i64> {
    let names = node.files().into_iter().filter_map(|(p, _)| p.file_name().map(|n| n.to_string_lossy().into_owned()));
    names.filter_map(|n| n.strip_suffix(suffix)?.parse().ok()).collect()
}

fn start(store: &Store) -> i64 {
    store.end_offsets(id(0)).expect("loaded").log_start.0
}

fn in_world(seed: u64, test: impl AsyncFnOnce(&SimWorld, &SimNode)) {
    let (world, node) = world(seed);
    world.block_on(test(&world, &node));
}

#[test]
fn by_size_the_oldest_go_and_their_files_later() {
    in_world(70, async |_, node| {
        let fatals = Fatals::default();
        let config = LogConfig { retention_bytes: 200 << 10, file_delete_delay_ms: 1000, ..small_config() };
        let store = filled(node, &fatals, 11, config).await;
        store.retain_all().await;
        // 11 × 40 KiB in segments of 2: without the first three, 5 × 40 KiB are left.
        assert_eq!(start(&store), 6);
        assert_eq!((files(node, ".log"), files(node, ".log.deleted")), (vec![6, 8, 10], vec![0, 2, 4]));
        assert_eq!(files(node, ".index.deleted"), [0, 2, 4]);
        let error = store.read(id(0), request(5, 100)).await.expect_err("it is gone");
        assert_eq!(error.code, ErrorCode::OffsetOutOfRange);
        assert_eq!(read_all(&store, id(0), 6, 100_000).await.len(), 5);
        node.runtime().sleep(Duration::from_millis(2500)).await;
        assert_eq!((files(node, ".log.deleted"), files(node, ".timeindex.deleted")), (vec![], vec![]));
        store.retain_all().await;
        assert_eq!(start(&store), 6, "nothing more is due");
    });
}

#[test]
fn by_age_all_goes_and_offsets_go_on() {
    in_world(71, async |_, node| {
        let fatals = Fatals::default();
        let age = node.runtime().wall_ms() - NOW;
        let config = LogConfig { retention_ms: age + 1_000_000_000, ..small_config() };
        let store = filled(node, &fatals, 5, config).await;
        store.retain_all().await;
        assert_eq!(start(&store), 0, "nothing is old enough");
        // The records at NOW … NOW + 2 are older than that, the one at NOW + 4 is not, nor is its segment.
        let elapsed = node.runtime().wall_ms() - NOW;
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: elapsed - 4, ..small_config() }));
        store.retain_all().await;
        assert_eq!(start(&store), 4);
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: 0, ..small_config() }));
        node.set_clock_offset_ms(1_000_000);
        store.retain_all().await;
        assert_eq!(start(&store), 5, "the active segment goes, too");
        assert!(files(node, ".log").is_empty());
        let appended = store.append(id(0), batch_of(&[50], 10), LOCAL).await.expect("acked");
        assert_eq!(appended.base_offset, Offset(5));
        assert_eq!(read_all(&store, id(0), 5, 1000).await, [(5, 50)]);
    });
}

#[test]
fn producers_are_known_when_all_they_sent_is_gone() {
    let (world, node) = world(73);
    let fatals = Fatals::default();
    let batch = |sequence| with_producer(&[9], 10, Some((7, 0, sequence)));
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        store.append(id(0), batch(0), LOCAL).await.expect("acked");
        store.append(id(0), batch(1), LOCAL).await.expect("acked");
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: 0, ..small_config() }));
        node.set_clock_offset_ms(1_000_000);
        store.retain_all().await;
        assert_eq!((start(&store), files(&node, ".snapshot")), (2, vec![2]));
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        let again = store.append(id(0), batch(1), LOCAL).await.expect("a duplicate");
        assert_eq!(again.base_offset, Offset(1));
        assert_eq!(store.append(id(0), batch(2), LOCAL).await.expect("acked").base_offset, Offset(2));
    });
}

#[test]
fn producers_do_not_go_back_to_what_the_journal_has() {
    let (world, node) = world(75);
    let fatals = Fatals::default();
    // The second one is large: it goes straight to its segment.
    let batch = |sequence| with_producer(&[9], [10, 30_000, 10][sequence as usize], Some((7, 0, sequence)));
    world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        store.append(id(0), batch(0), LOCAL).await.expect("acked");
        store.append(id(0), batch(1), LOCAL).await.expect("acked");
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: 0, ..small_config() }));
        node.set_clock_offset_ms(1_000_000);
        store.retain_all().await;
        assert_eq!((start(&store), files(&node, ".snapshot")), (2, vec![2]));
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        assert_eq!(store.append(id(0), batch(2), LOCAL).await.expect("acked").base_offset, Offset(2));
        assert_eq!(start(&store), 2);
    });
}

#[test]
fn a_deleted_segment_that_a_power_loss_brings_back_is_before_the_start() {
    let (world, node) = world(74);
    let fatals = Fatals::default();
    let batch = |sequence| with_producer(&[9], 10, Some((7, 0, sequence)));
    let at = |base: i64| format!("{}/topic0-0/{base:020}.log", SimNode::DATA_DIR);
    let old = world.block_on(async {
        let store = open(&node, &fatals, 1, 0).await;
        for sequence in 0..3 {
            store.append(id(0), batch(sequence), LOCAL).await.expect("acked");
        }
        let partition = store.partitions.borrow()[&id(0)].clone();
        store.flush_partition(&partition).await.expect("written");
        let old = node.file_contents(at(0)).expect("the first segment");
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: 0, ..small_config() }));
        node.set_clock_offset_ms(1_000_000);
        store.retain_all().await;
        assert_eq!((start(&store), files(&node, ".snapshot")), (3, vec![3]));
        old
    });
    node.crash();
    node.restart();
    // Its rename was not durable, nor was the name of the next one, and what followed its first batch.
    node.put_file(at(0), &old[..batch(0).len()]);
    node.remove_path(at(3));
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        assert_eq!(store.append(id(0), batch(2), LOCAL).await.expect("a duplicate").base_offset, Offset(2));
        assert_eq!(store.append(id(0), batch(3), LOCAL).await.expect("acked").base_offset, Offset(3));
        assert_eq!(start(&store), 3);
    });
}

#[test]
fn what_is_not_loaded_is_looked_at_and_an_empty_log_keeps_its_place() {
    let (world, node) = world(72);
    let fatals = Fatals::default();
    let config = || LogConfig { retention_ms: 1 << 50, ..small_config() };
    world.block_on(async {
        let store = filled(&node, &fatals, 5, config()).await;
        store.shutdown().await.expect("closes");
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 1).await;
        store.reconfigure(id(0), Arc::new(config()));
        store.retain_all().await;
        assert_eq!(store.end_offsets(id(0)), None, "it was not loaded to see that nothing is due");
        store.reconfigure(id(0), Arc::new(LogConfig { retention_ms: 0, ..small_config() }));
        node.set_clock_offset_ms(1_000_000);
        store.retain_all().await;
        assert_eq!(start(&store), 5);
    });
    node.crash();
    node.restart();
    world.block_on(async {
        let store = open(&node, &fatals, 1, 2).await;
        let ends = store.load_end_offsets(id(0)).await.expect("loads");
        assert_eq!((ends.log_start, ends.log_end), (Offset(5), Offset(5)));
        let rt = node.runtime();
        // In steps, with pauses.
        rt.sleep(Duration::from_secs(10)).await;
        let left = rt.list_dir(&node_dir()).await.expect("it is there");
        let left: Vec<_> = left.into_iter().map(|e| e.name).filter(|n| n.ends_with(".deleted")).collect();
        assert_eq!(left, Vec::<String>::new(), "what a crash left is removed at the next load");
    });
}

fn node_dir() -> std::path::PathBuf {
    std::path::Path::new(SimNode::DATA_DIR).join("topic0-0")
}

#[test]
fn records_are_deleted_on_request() {
    in_world(73, async |_, node| {
        let fatals = Fatals::default();
        let store = filled(node, &fatals, 9, small_config()).await;
        let delete = async |to| store.delete_records(id(0), Offset(to)).await.map(|o| o.0).map_err(|e| e.code);
        assert_eq!(delete(5).await, Ok(5));
        assert_eq!(delete(2).await, Ok(5), "an earlier offset is no error, and changes nothing");
        assert_eq!(files(node, ".log"), [4, 6, 8]);
        assert_eq!(delete(10).await, Err(ErrorCode::OffsetOutOfRange));
        assert_eq!(delete(-2).await, Err(ErrorCode::OffsetOutOfRange));
        assert_eq!(delete(-1).await, Ok(9));
        assert_eq!(files(node, ".log"), [8], "the active segment stays");
        assert_eq!(read_all(&store, id(0), 9, 1000).await, []);
        let compacted = LogConfig { compacted: true, deletes: false, ..small_config() };
        store.reconfigure(id(0), Arc::new(compacted));
        assert_eq!(delete(-1).await, Err(ErrorCode::PolicyViolation));
    });
}

#[test]
fn a_large_file_that_is_deleted_goes_in_steps() {
    let (world, node) = world(73);
    let fatals = Fatals::default();
    world.block_on(async {
        let rt = node.runtime();
        let store = open(&node, &fatals, 1, 0).await;
        for n in 0..20 {
            store.append(id(0), batch_of(&[n], 4000), LOCAL).await.expect("acked");
        }
        let partition = store.partition(id(0)).expect("assigned");
        store.flush_partition(&partition).await.expect("flushed");
        let sizes = || -> Vec<u64> {
            let files = node.files().into_iter();
            files.filter(|f| f.0.to_string_lossy().ends_with(".log")).map(|f| f.1).collect()
        };
        let whole = sizes()[0];
        assert!(whole > 80_000, "{whole}");
        store.delete(id(0)).await.expect("deleted");
        let mut seen = vec![whole];
        while let Some(size) = sizes().pop() {
            if seen.last() != Some(&size) {
                seen.push(size);
            }
            rt.sleep(Duration::from_millis(1)).await;
        }
        assert!(seen.len() > 4 && seen.windows(2).all(|pair| pair[0] - pair[1] <= 16 << 10), "{seen:?}");
    });
}

/// While a segment is completed that retention closed, a full disk refuses the batch behind it: what was begun for it stays.
#[test]
fn a_batch_that_is_refused_does_not_open_what_is_closed() {
    in_world(79, async |_, node| {
        let fatals = Fatals::default();
        let store = open(node, &fatals, 1, 0).await;
        store.append(id(0), batch_of(&[1], 1000), LOCAL).await.expect("acked");
        let partition = store.partition(id(0)).expect("it is here");
        node.disk_faults(|f| f.slow(DiskOp::Sync, ".index", Duration::from_millis(500)));
        let refused = async {
            while partition.with(|log| log.segments.len()) == Some(1) {
                node.runtime().sleep(Duration::from_micros(10)).await;
            }
            node.disk_faults(|f| f.no_room(DiskOp::Write, "journal"));
            store.append(id(0), batch_of(&[2], 1000), LOCAL).await.expect_err("there is no room");
            assert_eq!(partition.with(|log| log.segments[0].index.is_some()), Some(true), "it is being completed");
            node.disk_faults(|f| f.clear());
        };
        let (rolled, ()) = futures_util::join!(store.roll_at(&partition, 1), refused);
        assert!(rolled.expect("is closed"));
        store.append(id(0), batch_of(&[3], 1000), LOCAL).await.expect("acked");
        store.flush_partition(&partition).await.expect("is flushed");
        assert_eq!(files(node, ".log"), [0, 1]);
        assert_eq!(read_all(&store, id(0), 0, 100_000).await, [(0, 1), (1, 3)]);
        store.shutdown().await.expect("closes");
    });
}
