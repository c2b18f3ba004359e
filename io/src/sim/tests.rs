//! The simulator's own laws, each shown to bite: what may happen does for some seed, what must not does for none.

use super::*;
use crate::{
    BLOCK, Clock, Disk, Entropy, File, IoErrorKind, IoResult, ListenOptions, Listener, Net, OpenOptions, Stream,
    TaskGroup, Tasks,
};
use bytes::{Bytes, BytesMut};
use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

const GROUP: TaskGroup = TaskGroup::Requests;
const FILE: &str = "/data/f";
const CREATE: OpenOptions =
    OpenOptions { create: true, create_new: false, truncate: false, read_only: false, dsync: false };

fn world(seed: u64) -> (SimWorld, SimNode) {
    let world = SimWorld::new(seed, SimOptions::default());
    let node = world.node("a");
    (world, node)
}

fn block(byte: u8) -> Bytes {
    vec![byte; BLOCK].into()
}

async fn durable_file(rt: &SimRuntime, blocks: usize, byte: u8) -> SimFile {
    let file = rt.open(Path::new(FILE), CREATE).await.unwrap();
    rt.sync_dir(Path::new(SimNode::DATA_DIR)).await.unwrap();
    file.write_at(0, &vec![block(byte); blocks]).await.unwrap();
    file.sync_data().await.unwrap();
    file
}

/// The different bytes of a file's sectors; panics if a sector is mixed.
fn sectors(contents: &[u8]) -> BTreeSet<u8> {
    contents
        .chunks(512)
        .map(|s| {
            assert!(s.iter().all(|b| *b == s[0]), "a sector is the unit of tearing");
            s[0]
        })
        .collect()
}

/// What `outcome` gives over many seeds.
fn outcomes<T: Ord>(outcome: impl Fn(u64) -> T) -> BTreeSet<T> {
    (0..200).map(outcome).collect()
}

fn server_address(node: &SimNode) -> SocketAddr {
    SocketAddr::new(node.ip(), 9092)
}

async fn read_some(stream: &SimStream) -> IoResult<Bytes> {
    let mut buf = BytesMut::with_capacity(4096);
    stream.read(&mut buf).await?;
    Ok(buf.freeze())
}

async fn write(stream: &SimStream, bytes: &'static [u8]) -> IoResult<()> {
    stream.write_all(&mut [Bytes::from_static(bytes)].into()).await
}

/// A connection from `a` to `b`.
fn connection(world: &SimWorld, a: &SimNode, b: &SimNode) -> (SimStream, SimStream) {
    let (from, to) = (a.runtime(), b.runtime());
    world.block_on(async {
        let listener = to.listen(server_address(b), ListenOptions::default()).await.unwrap();
        let (client, server) = futures_util::join!(from.connect(server_address(b)), listener.accept());
        (client.unwrap(), server.unwrap())
    })
}

#[test]
fn the_same_seed_runs_the_same_way() {
    let trace = |seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        let order = Rc::new(RefCell::new(Vec::new()));
        for n in 0..20 {
            let (task, order) = (rt.clone(), order.clone());
            rt.spawn(GROUP, "worker", async move {
                let file = task.open(Path::new(&format!("/data/{n}")), CREATE).await.unwrap();
                for i in 0..5 {
                    file.write_at(i * BLOCK as u64, &[block(n)]).await.unwrap();
                    if task.should_yield() {
                        task.sleep(Duration::from_nanos(task.next_u64() % 1000)).await;
                    }
                }
                order.borrow_mut().push(n);
            });
        }
        world.run_for(Duration::from_secs(1));
        node.crash();
        let sizes = node.files();
        (world.trace_hash(), world.steps(), order.take(), sizes)
    };
    for seed in 0..20 {
        assert_eq!(trace(seed), trace(seed), "seed {seed}");
    }
    let orders = outcomes(|seed| trace(seed).2);
    assert!(orders.len() > 150, "{} orders of 200 seeds", orders.len());
}

#[test]
fn power_loss_tears_what_was_not_synced_and_nothing_else() {
    let all = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 4, 1).await;
            file.write_at(0, &[block(2), block(2)]).await.unwrap();
        });
        node.crash();
        let contents = node.file_contents(FILE).unwrap();
        assert_eq!(contents.len(), 4 * BLOCK);
        assert_eq!(sectors(&contents[2 * BLOCK..]), [1].into(), "seed {seed}: synced and not written since");
        sectors(&contents[..2 * BLOCK])
    });
    assert_eq!(all, [[1].into(), [2].into(), [1, 2].into()].into(), "lost, kept and torn all happen");
}

#[test]
fn any_subset_of_the_sectors_of_a_page_may_be_kept() {
    let kept = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 1, 1).await;
            file.write_at(0, &[block(2)]).await.unwrap();
        });
        node.crash();
        node.file_contents(FILE).unwrap().chunks(512).map(|sector| sector[0]).collect::<Vec<_>>()
    });
    assert!(kept.len() > 30, "{} subsets in 200 seeds", kept.len());
    let beginning = |sectors: &Vec<u8>| sectors.is_sorted_by(|a, b| a >= b);
    assert!(kept.iter().filter(|s| beginning(s)).count() > 4 && !kept.iter().all(beginning), "{kept:?}");
}

#[test]
fn what_a_dead_process_asked_for_does_not_happen_to_the_next() {
    for seed in 0..50 {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(durable_file(&rt, 1, 1));
        rt.clone().spawn(GROUP, "renamer", async move {
            let rename = rt.rename(Path::new(FILE), Path::new("/data/g"));
            let _ = futures_util::join!(rename, rt.remove_file(Path::new("/data/g")));
        });
        world.run_for(Duration::ZERO);
        node.crash();
        node.restart();
        let before = node.files();
        world.run_for(Duration::from_secs(1));
        assert_eq!(node.files(), before, "seed {seed}");
    }
}

#[test]
fn ready_tasks_run_in_the_seeds_order() {
    let orders = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        let order = Rc::new(RefCell::new(Vec::new()));
        let tasks = [0, 1, 2].map(|n| {
            let order = order.clone();
            rt.spawn(GROUP, "member", async move { order.borrow_mut().push(n) })
        });
        world.block_on(futures_util::future::join_all(tasks));
        order.take()
    });
    assert_eq!(orders.len(), 6, "{orders:?}");
}

#[test]
fn power_loss_takes_no_synced_write_and_no_dsync_write() {
    for seed in 0..200 {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 2, 1).await;
            file.write_at(BLOCK as u64, &[block(2)]).await.unwrap();
            let dsync = rt.open(Path::new(FILE), OpenOptions { dsync: true, ..CREATE }).await.unwrap();
            dsync.write_at(BLOCK as u64, &[block(3)]).await.unwrap();
            file.write_at(2 * BLOCK as u64, &[block(4)]).await.unwrap();
            file.sync_data().await.unwrap();
        });
        node.crash();
        let contents = node.file_contents(FILE).unwrap();
        assert_eq!(contents, [block(1), block(3), block(4)].concat(), "seed {seed}");
    }
}

#[test]
fn power_loss_takes_nothing_that_a_sync_of_the_file_system_covers() {
    let after = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            rt.write_new_files(vec![("/data/d/e/new".into(), vec![7; 100])]).await.unwrap();
            let file = rt.open(Path::new("/data/d/log"), CREATE).await.unwrap();
            file.write_at(0, &[block(2)]).await.unwrap();
            rt.sync_file_system(Path::new("/data/d/e/new")).await.unwrap();
            file.write_at(BLOCK as u64, &[block(3)]).await.unwrap();
        });
        node.crash();
        assert_eq!(node.file_contents(Path::new("/data/d/e/new")).unwrap(), [7; 100], "seed {seed}");
        let log = node.file_contents(Path::new("/data/d/log")).unwrap();
        assert_eq!(log[..BLOCK], block(2), "seed {seed}");
        log.len() / BLOCK
    });
    assert_eq!(after, [1, 2].into(), "what is written after it may go");
}

#[test]
fn a_size_grown_by_dsync_is_durable_only_after_a_sync() {
    let sizes = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            durable_file(&rt, 1, 1).await;
            let file = rt.open(Path::new(FILE), OpenOptions { dsync: true, ..CREATE }).await.unwrap();
            file.write_at(BLOCK as u64, &[block(2)]).await.unwrap();
        });
        node.crash();
        let contents = node.file_contents(FILE).unwrap();
        assert!(contents[BLOCK..].iter().all(|b| *b == 2), "seed {seed}: the bytes were durable");
        contents.len() / BLOCK
    });
    assert_eq!(sizes, [1, 2].into());
}

#[test]
fn writes_in_flight_at_a_crash_are_torn_too() {
    for kind in [CrashKind::PowerLoss, CrashKind::Kill] {
        let all = outcomes(|seed| {
            let (world, node) = world(seed);
            let rt = node.runtime();
            let file = Rc::new(world.block_on(durable_file(&rt, 4, 1)));
            rt.spawn(GROUP, "writer", async move { file.write_at(0, &[block(2), block(2)]).await });
            world.run_for(Duration::from_micros(10));
            node.crash_by(kind);
            sectors(&node.file_contents(FILE).unwrap())
        });
        assert!(all.contains(&[1].into()) || kind == CrashKind::Kill, "{kind:?}: {all:?}");
        assert!(all.contains(&[1, 2].into()), "{kind:?}: {all:?}");
    }
}

#[test]
fn a_kill_keeps_what_was_written_and_a_later_power_loss_may_not() {
    let all = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 1, 1).await;
            file.write_at(0, &[block(2)]).await.unwrap();
            rt.open(Path::new("/data/new"), CREATE).await.unwrap();
        });
        node.crash_by(CrashKind::Kill);
        assert_eq!(node.file_contents(FILE).unwrap(), block(2));
        assert_eq!(node.files().len(), 2);
        node.restart();
        node.crash_by(CrashKind::PowerLoss);
        (node.file_contents(FILE).unwrap() == block(2), node.files().len())
    });
    assert_eq!(all, [(false, 1), (false, 2), (true, 1), (true, 2)].into());
}

#[test]
fn sizes_are_kept_in_order() {
    let sizes = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 1, 1).await;
            file.write_at(BLOCK as u64, &[block(2)]).await.unwrap();
            file.truncate(100).await.unwrap();
            file.write_at(2 * BLOCK as u64, &[block(3)]).await.unwrap();
        });
        node.crash();
        let contents = node.file_contents(FILE).unwrap();
        assert_eq!(contents[..100], [1; 100]);
        if contents.len() > 2 * BLOCK {
            assert!(contents[100..2 * BLOCK].iter().all(|b| *b == 0), "seed {seed}: cut off, then a hole");
        }
        contents.len()
    });
    assert_eq!(sizes, [100, BLOCK, 2 * BLOCK, 3 * BLOCK].into());
}

#[test]
fn names_are_kept_in_order_and_for_good_once_synced() {
    let all = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        let dir = Path::new(SimNode::DATA_DIR);
        world.block_on(async {
            rt.open(&dir.join("synced"), CREATE).await.unwrap();
            rt.sync_dir(dir).await.unwrap();
            rt.open(&dir.join("one"), CREATE).await.unwrap();
            rt.rename(&dir.join("one"), &dir.join("two")).await.unwrap();
            rt.remove_file(&dir.join("synced")).await.unwrap();
        });
        node.crash();
        node.files().into_iter().map(|(p, _)| p.file_name().unwrap().to_str().unwrap().to_owned()).collect::<Vec<_>>()
    });
    let expected = [vec!["one", "synced"], vec!["synced"], vec!["synced", "two"], vec!["two"]];
    assert_eq!(all, expected.map(|v| v.into_iter().map(str::to_owned).collect()).into());
}

#[test]
fn an_atomic_replace_is_old_or_new_at_any_instant() {
    let all = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        let path = Path::new("/data/meta");
        world.block_on(rt.write_file_atomic(path, b"old")).unwrap();
        let done = Rc::new(Cell::new(false));
        let set = done.clone();
        rt.clone().spawn(GROUP, "replace", async move {
            rt.write_file_atomic(path, &[7; 5000]).await.unwrap();
            set.set(true);
        });
        world.run_for(Duration::from_micros(seed * 5));
        node.crash();
        let contents = node.file_contents(path).expect("the name is never lost");
        assert!(contents == b"old" || contents == [7; 5000], "seed {seed}: {} bytes", contents.len());
        assert!(!done.get() || contents != b"old", "seed {seed}: done and not durable");
        contents.len()
    });
    assert_eq!(all, [3, 5000].into());
}

#[test]
fn a_failed_sync_leaves_doubt_for_ever() {
    let all = outcomes(|seed| {
        let (world, node) = world(seed);
        let rt = node.runtime();
        world.block_on(async {
            let file = durable_file(&rt, 2, 1).await;
            file.write_at(0, &[block(2)]).await.unwrap();
            node.disk_faults(|f| f.fail_next(DiskOp::Sync, "f"));
            assert_eq!(file.sync_data().await.unwrap_err().kind, IoErrorKind::Device);
            file.write_at(BLOCK as u64, &[block(3)]).await.unwrap();
            file.sync_data().await.unwrap();
        });
        node.crash();
        let contents = node.file_contents(FILE).unwrap();
        assert_eq!(contents[BLOCK..], block(3));
        sectors(&contents[..BLOCK])
    });
    assert_eq!(all.len(), 3, "lost, kept and torn: {all:?}");
}

#[test]
#[should_panic(expected = "after a failed sync")]
fn a_write_after_a_failed_sync_can_be_forbidden() {
    let options = SimOptions { assert_no_write_after_failed_sync: true, ..SimOptions::default() };
    let world = SimWorld::new(1, options);
    let node = world.node("a");
    let rt = node.runtime();
    world.block_on(async {
        let file = durable_file(&rt, 1, 1).await;
        node.disk_faults(|f| f.fail_next(DiskOp::Sync, ""));
        file.sync_data().await.unwrap_err();
        let _ = file.write_at(0, &[block(2)]).await;
    });
}

#[test]
#[should_panic(expected = "not a multiple of 4096")]
fn unaligned_writes_are_refused() {
    let (world, node) = world(1);
    let rt = node.runtime();
    world.block_on(async {
        let file = durable_file(&rt, 1, 1).await;
        let _ = file.write_at(512, &[block(2)]).await;
    });
}

#[test]
fn faults_hit_what_they_name() {
    let (world, node) = world(3);
    let rt = node.runtime();
    world.block_on(async {
        let file = durable_file(&rt, 1, 1).await;
        node.disk_faults(|f| {
            f.fail_every(DiskOp::Write, "other");
            f.fail_after(DiskOp::Write, "/f", 1);
            f.slow(DiskOp::Read, "/f", Duration::from_secs(1));
        });
        file.write_at(0, &[block(2)]).await.unwrap();
        let failed = file.write_at(0, &[block(3)]).await.unwrap_err();
        assert_eq!((failed.kind, failed.offset), (IoErrorKind::Device, Some(0)), "{failed}");
        file.write_at(0, &[block(4)]).await.unwrap();
        let before = rt.now();
        assert_eq!(file.read_at(0, BLOCK).await.unwrap(), block(4));
        assert!(rt.now().since(before) >= Duration::from_secs(1));
        assert_eq!(node.disk_faults(|f| f.hits()), 2);
    });
}

#[test]
fn a_stuck_operation_goes_on_when_the_fault_is_cleared() {
    let (world, node) = world(4);
    let rt = node.runtime();
    let file = world.block_on(durable_file(&rt, 1, 1));
    node.disk_faults(|f| f.stuck(DiskOp::Sync, ""));
    let synced = rt.spawn(GROUP, "sync", async move { file.sync_data().await });
    world.run_for(Duration::from_secs(60));
    node.disk_faults(|f| f.clear());
    world.block_on(synced).unwrap();
}

#[test]
fn a_full_disk_refuses_growth_and_resumes() {
    let (world, node) = world(5);
    let rt = node.runtime();
    world.block_on(async {
        let file = durable_file(&rt, 2, 1).await;
        let root = Path::new(SimNode::DATA_DIR);
        node.set_disk_capacity(Some(3 * BLOCK as u64));
        assert_eq!(rt.free_bytes(root).await.unwrap(), BLOCK as u64);
        let full = file.write_at(BLOCK as u64, &vec![block(2); 4]).await.unwrap_err();
        assert_eq!(full.kind, IoErrorKind::StorageFull, "{full}");
        file.write_at(0, &[block(3)]).await.expect("what is there can be overwritten");
        let full = rt.write_file_atomic(Path::new("/data/meta"), &[1; 10_000]).await.unwrap_err();
        assert_eq!(full.kind, IoErrorKind::StorageFull, "{full}");
        rt.remove_file(Path::new(FILE)).await.unwrap();
        rt.write_file_atomic(Path::new("/data/meta"), &[1; 10_000]).await.expect("there is room again");
    });
}

#[test]
fn a_flipped_bit_is_one_bit() {
    let (world, node) = world(6);
    let rt = node.runtime();
    let file = world.block_on(durable_file(&rt, 3, 0));
    assert!(node.flip_bit(FILE, BLOCK as u64..2 * BLOCK as u64));
    assert!(!node.flip_bit(FILE, 1 << 30..1 << 31) && !node.flip_bit("/data/no", 0..1));
    let read = world.block_on(file.read_at(0, 3 * BLOCK)).unwrap();
    assert_eq!(read.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    assert!(read[BLOCK..2 * BLOCK].iter().any(|b| *b != 0));
    node.crash();
    assert_eq!(node.file_contents(FILE).unwrap(), read);
}

#[test]
fn locks_end_with_their_process() {
    let (world, node) = world(7);
    let (rt, path) = (node.runtime(), Path::new("/data/lock"));
    let old = rt.try_lock(path).unwrap();
    node.crash_by(CrashKind::Kill);
    assert!(rt.try_lock(path).is_err(), "a dead process locks nothing");
    node.restart();
    let _new = node.runtime().try_lock(path).unwrap();
    drop(old);
    let held = node.runtime().try_lock(path).unwrap_err();
    assert_eq!(held.kind, IoErrorKind::Locked, "the old lock's drop does not release the new one");
    drop(world);
}

#[test]
fn a_crash_resets_connections_and_refuses_new_ones() {
    let (world, a) = world(8);
    let b = world.node("b");
    let (client, server) = connection(&world, &a, &b);
    let rt = a.runtime();
    world.block_on(async {
        write(&server, b"hello").await.unwrap();
        rt.sleep(Duration::from_millis(10)).await;
        b.crash();
        rt.sleep(Duration::from_millis(10)).await;
        assert_eq!(read_some(&client).await.unwrap(), "hello", "what has arrived can be read");
        assert_eq!(read_some(&client).await.unwrap_err().kind, IoErrorKind::Disconnected);
        assert_eq!(write(&client, b"x").await.unwrap_err().kind, IoErrorKind::Disconnected);
        assert_eq!(rt.connect(server_address(&b)).await.unwrap_err().kind, IoErrorKind::Disconnected);
        assert!(read_some(&server).await.is_err(), "a handle of a dead process");
    });
    b.restart();
    drop(server);
    connection(&world, &a, &b);
}

#[test]
fn a_partition_holds_and_a_heal_delivers() {
    for seed in 0..50 {
        let (world, a) = world(seed);
        let b = world.node("b");
        let (client, server) = connection(&world, &a, &b);
        let rt = a.runtime();
        world.partition(&a, &b);
        world.block_on(async {
            write(&client, b"held ").await.unwrap();
            write(&client, b"back").await.unwrap();
            let silence = Box::pin(read_some(&server));
            let timeout = Box::pin(rt.sleep(Duration::from_secs(60)));
            let first = futures_util::future::select(silence, timeout).await;
            assert!(matches!(first, futures_util::future::Either::Right(_)), "seed {seed}: through a partition");
            let refused = rt.connect(server_address(&b)).await.unwrap_err();
            assert_eq!(refused.cause.kind(), std::io::ErrorKind::TimedOut);
            world.heal(&a, &b);
            let mut received = BytesMut::with_capacity(64);
            while received.len() < 9 {
                assert_ne!(server.read(&mut received).await.unwrap(), 0);
            }
            assert_eq!(received, "held back");
        });
    }
}

#[test]
fn a_crash_behind_a_partition_leaves_the_peer_half_open() {
    let (world, a) = world(9);
    let b = world.node("b");
    let (client, _server) = connection(&world, &a, &b);
    let rt = a.runtime();
    world.partition(&a, &b);
    b.crash();
    b.restart();
    world.heal(&a, &b);
    world.block_on(async {
        {
            let silence = Box::pin(read_some(&client));
            let timeout = Box::pin(rt.sleep(Duration::from_secs(60)));
            let first = futures_util::future::select(silence, timeout).await;
            assert!(matches!(first, futures_util::future::Either::Right(_)), "nobody has told the client");
        }
        write(&client, b"anybody?").await.unwrap();
        assert_eq!(read_some(&client).await.unwrap_err().kind, IoErrorKind::Disconnected);
    });
}

#[test]
fn a_full_buffer_holds_the_sender() {
    let (world, a) = world(10);
    let b = world.node("b");
    let (client, server) = connection(&world, &a, &b);
    let rt = a.runtime();
    let buffer = SimOptions::default().socket_buffer_bytes;
    world.block_on(async {
        let mut parts = [Bytes::from(vec![1; 3 * buffer])].into();
        {
            let flood = Box::pin(client.write_all(&mut parts));
            let timeout = Box::pin(rt.sleep(Duration::from_secs(1)));
            let first = futures_util::future::select(flood, timeout).await;
            assert!(matches!(first, futures_util::future::Either::Right(_)), "nobody reads");
        }
        assert_eq!(parts.iter().map(Bytes::len).sum::<usize>(), 2 * buffer);
        let mut received = BytesMut::with_capacity(3 * buffer);
        let (sent, ()) = futures_util::join!(client.write_all(&mut parts), async {
            while received.len() < 3 * buffer {
                server.read(&mut received).await.unwrap();
            }
        });
        sent.unwrap();
    });
}

#[test]
fn connections_spread_over_the_listeners_of_one_port() {
    let (world, node) = world(11);
    let rt = node.runtime();
    let accepted: Rc<[Cell<u32>; 3]> = Rc::default();
    world.block_on(async {
        for shard in 0..3 {
            let accepted = accepted.clone();
            let listener = rt.listen(server_address(&node), ListenOptions::default()).await.unwrap();
            rt.spawn(GROUP, "accept", async move {
                while listener.accept().await.is_ok() {
                    accepted[shard].set(accepted[shard].get() + 1);
                }
            });
        }
        for _ in 0..60 {
            rt.connect(server_address(&node)).await.unwrap();
        }
        rt.sleep(Duration::from_secs(1)).await;
    });
    assert_eq!(accepted.iter().map(Cell::get).sum::<u32>(), 60);
    assert!(accepted.iter().all(|n| n.get() > 5), "{accepted:?}");
}

/// Does with its runtime, when dropped, all that a careless destructor might.
struct Careless {
    rt: SimRuntime,
    node: SimNode,
    dropped: Rc<Cell<u32>>,
}

impl Drop for Careless {
    fn drop(&mut self) {
        let (rt, dropped) = (self.rt.clone(), self.dropped.clone());
        self.rt.spawn(GROUP, "farewell", async move {
            rt.sleep(Duration::from_secs(1)).await;
            dropped.set(1000);
        });
        drop(self.rt.try_lock(Path::new("/data/lock")));
        drop(self.rt.sleep(Duration::from_secs(1)));
        self.node.crash();
        self.dropped.set(self.dropped.get() + 1);
    }
}

#[test]
fn a_crash_drops_tasks_that_hold_everything() {
    for seed in 0..50 {
        let (world, node) = world(seed);
        let (other, dropped) = (world.node("b"), Rc::new(Cell::new(0)));
        let rt = node.runtime();
        let semaphore = crate::sync::Semaphore::new(1);
        for _ in 0..8 {
            let careless = Careless { rt: rt.clone(), node: node.clone(), dropped: dropped.clone() };
            let (rt, semaphore, address) = (rt.clone(), semaphore.clone(), server_address(&node));
            rt.clone().spawn(GROUP, "holder", async move {
                let _careless = careless;
                let listener = rt.listen(address, ListenOptions::default()).await.unwrap();
                let (stream, accepted) = futures_util::join!(rt.connect(address), listener.accept());
                let file = rt.open(Path::new(FILE), CREATE).await.unwrap();
                let _parcel = rt.pack(accepted.unwrap());
                let parts = [block(1)];
                let _held = futures_util::join!(file.write_at(0, &parts), semaphore.acquire(1));
                read_some(&stream.unwrap()).await.unwrap();
            });
        }
        other.runtime().spawn(GROUP, "survivor", async {});
        world.run_for(Duration::from_micros(seed * 20));
        node.crash();
        assert_eq!(dropped.get(), 8, "seed {seed}");
        world.run_for(Duration::from_secs(5));
        assert_eq!(dropped.get(), 8, "seed {seed}: a task of a dead process ran");
        node.restart();
        world.block_on(node.runtime().spawn(GROUP, "after", async {}));
    }
}

#[test]
fn a_task_may_crash_its_own_node() {
    let (world, node) = world(12);
    let (rt, killer, reached) = (node.runtime(), node.clone(), Rc::new(Cell::new(false)));
    let set = reached.clone();
    rt.clone().spawn(GROUP, "suicide", async move {
        killer.crash();
        rt.yield_now().await;
        set.set(true);
    });
    world.run_for(Duration::from_secs(1));
    assert!(!node.is_up() && !reached.get());
}

#[test]
fn a_process_that_exits_is_a_crash_that_can_be_asked_for() {
    let (world, node) = world(13);
    let rt = node.runtime();
    rt.spawn(GROUP, "fatal", async { exit_node(74, "fdatasync failed") });
    world.run_for(Duration::from_secs(1));
    assert!(!node.is_up());
    assert_eq!(node.exited(), Some(NodeExit { code: 74, message: "fdatasync failed".to_owned() }));
    node.restart();
    assert_eq!(node.exited(), None);
}

fn panic_message(run: impl FnOnce()) -> String {
    let payload = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).expect_err("it panics");
    *payload.downcast::<String>().expect("a formatted message")
}

#[test]
fn a_deadlock_names_seed_and_tasks() {
    let message = panic_message(|| {
        let (world, node) = world(14);
        let semaphore = crate::sync::Semaphore::new(0);
        node.runtime().spawn(GROUP, "group commit", std::future::pending::<()>());
        world.spawn("driver", std::future::pending::<()>());
        assert_eq!(world.block_on(crate::sync::oneshot::<()>().1), None);
        world.block_on(async { drop(semaphore.acquire(0).await) });
        world.block_on(std::future::pending::<()>());
    });
    for part in ["seed 14", "deadlock", "group commit on node a", "driver on node -"] {
        assert!(message.contains(part), "{message}");
    }
}

#[test]
fn a_run_without_end_is_ended() {
    let message = panic_message(|| {
        let world = SimWorld::new(15, SimOptions { steps_max: Some(1000), ..SimOptions::default() });
        let rt = world.node("a").runtime();
        world.block_on(async {
            loop {
                rt.sleep(Duration::from_millis(1)).await;
            }
        });
    });
    assert!(message.contains("seed 15: 1000 steps"), "{message}");
}

#[test]
fn who_spins_until_a_time_gets_there() {
    let (world, node) = world(16);
    let rt = node.runtime();
    world.block_on(async {
        let until = rt.now().plus(Duration::from_micros(50));
        while rt.now() < until {
            rt.yield_now().await;
        }
    });
}

#[test]
fn wall_clocks_jump_and_the_monotonic_clock_does_not() {
    let (world, a) = world(17);
    let b = world.node("b");
    world.run_for(Duration::from_secs(2));
    let (start, now) = (SimOptions::default().wall_ms_start, world.now());
    a.set_clock_offset_ms(-500);
    b.jump_clock_ms(100);
    b.jump_clock_ms(100);
    assert_eq!(a.runtime().wall_ms(), start + 1500);
    assert_eq!(b.runtime().wall_ms(), start + 2200);
    assert_eq!(a.runtime().now(), now);
}

#[test]
fn a_dropped_world_frees_its_tasks() {
    let held = Rc::new(());
    {
        let (world, node) = world(18);
        let rt = node.runtime();
        node.disk_faults(|f| f.stuck(DiskOp::Read, ""));
        for _ in 0..3 {
            let (held, rt) = (held.clone(), rt.clone());
            rt.clone().spawn(GROUP, "holder", async move {
                let _held = held;
                let _ = rt.read_file(Path::new(FILE)).await;
            });
        }
        world.run_for(Duration::from_millis(1));
        assert_eq!(Rc::strong_count(&held), 4);
    }
    assert_eq!(Rc::strong_count(&held), 1);
}

#[test]
fn an_outsider_may_change_the_disk() {
    let (world, node) = world(19);
    node.put_file("/data/x/y/f", b"contents");
    node.crash();
    assert_eq!(node.file_contents("/data/x/y/f").unwrap(), b"contents");
    assert!(node.remove_path("/data/x") && !node.remove_path("/data/x"));
    assert_eq!(node.files(), []);
    drop(world);
}
