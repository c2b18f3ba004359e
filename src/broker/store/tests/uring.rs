//! The same store on a real kernel and a real disk.

use super::harness::*;
use crate::broker::store::*;
use crate::ids::Offset;
use coreline_io::Runtime;
use coreline_io::uring::UringRuntime;
use coreline_shards::glommio_backend::{ShardsOptions, run};
use coreline_shards::{CoreSelection, MeshProtocol};
use std::path::PathBuf;
use std::rc::Rc;

struct Silence;

impl MeshProtocol for Silence {
    type Request = ();
    type Reply = ();
    type Event = ();
}

/// Runs `test` on one shard.
fn on_shard<Fut: Future<Output = ()> + 'static>(test: impl Fn(UringRuntime) -> Fut + Send + Clone + 'static) {
    let options = ShardsOptions { cores: CoreSelection::Count(1), ..ShardsOptions::default() };
    let done = run::<Silence, _, _, String>(options, move |ctx| {
        let test = test(ctx.runtime.clone());
        async move {
            test.await;
            Ok(())
        }
    });
    done.expect("the shard runs");
}

fn directory() -> tempfile::TempDir {
    let root = std::env::var_os("CORELINE_TEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    std::fs::create_dir_all(&root).expect("test directory");
    tempfile::tempdir_in(root).expect("test directory")
}

async fn open_in<R: Runtime>(rt: R, dir: PathBuf) -> Rc<LogStore<R>> {
    let mut options = StoreOptions::new(dir, 0, Rc::new(|reason, message| panic!("{reason:?}: {message}")));
    options.cache_bytes_max = 1 << 20;
    options.journal_file_bytes = 8 << 20;
    let store = LogStore::open(rt, options).await.expect("opens");
    for n in 0..4 {
        let config = LogConfig { segment_bytes: 4 << 20, ..LogConfig::default() };
        store.assign(spec(n, 3, config));
    }
    store.assignments_complete();
    store
}

#[test]
fn appends_reads_and_restarts_on_a_real_disk() {
    let dir = directory();
    let path = dir.path().to_path_buf();
    on_shard(move |rt| {
        let path = path.clone();
        async move {
            let store = open_in(rt.clone(), path.clone()).await;
            let mut answers = Vec::new();
            for n in 0..2000_u64 {
                let size = [100, 1000, 20_000][n as usize % 3];
                answers.push(store.append(id(n as u32 % 4), batch_of(&[n], size), LOCAL));
                if answers.len() == 50 {
                    for answer in answers.drain(..) {
                        answer.await.expect("acked");
                    }
                }
            }
            store.shutdown().await.expect("closes");
            let again = open_in(rt.clone(), path.clone()).await;
            for n in 0..4 {
                let found = read_all(&again, id(n), 0, 300_000).await;
                let expected: Vec<_> = (0..500).map(|i| (i as i64, i * 4 + u64::from(n))).collect();
                assert!(found == expected, "partition {n}: {} records", found.len());
            }
            assert!(again.stats().cold_bytes > 0);
            again.shutdown().await.expect("closes");
            let last = open_in(rt, path).await;
            let appended = last.append(id(0), batch_of(&[9], 10), LOCAL).await.expect("acked");
            assert_eq!(appended.base_offset, Offset(500));
            assert_eq!(read_all(&last, id(0), 0, 100_000).await.len(), 501);
            last.shutdown().await.expect("closes");
        }
    });
    if std::env::var_os("CORELINE_KEEP").is_some() {
        println!("kept: {}", dir.keep().display());
    }
}

#[test]
fn preallocate_takes_a_segments_room_and_gives_back_what_is_left() {
    let dir = directory();
    let path = dir.path().to_path_buf();
    on_shard(move |rt| {
        let path = path.clone();
        async move {
            let store = open_in(rt, path.clone()).await;
            let config = LogConfig { segment_bytes: 8 << 20, preallocate: true, ..LogConfig::default() };
            store.reconfigure(id(0), std::sync::Arc::new(config));
            // More than goes through the journal: it is in the segment when it is acknowledged.
            store.append(id(0), batch_of(&[1], 500_000), LOCAL).await.expect("acked");
            let segment = path.join("topic0-0/00000000000000000000.log");
            let on_disk = || {
                use std::os::unix::fs::MetadataExt;
                let found = std::fs::metadata(&segment).expect("the segment");
                (found.len(), found.blocks() * 512)
            };
            let (len, reserved) = on_disk();
            assert!(len < 1 << 20, "its length is what is in it, not {len}");
            assert!(reserved >= 8 << 20, "{reserved} bytes are reserved");
            store.shutdown().await.expect("closes");
            let (len, reserved) = on_disk();
            assert!(reserved < len + (64 << 10), "{reserved} bytes are still reserved for {len}");
        }
    });
}
