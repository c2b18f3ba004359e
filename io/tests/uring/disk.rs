//! Files on a real disk.

use super::{directory, on_executor, on_executor_with, pattern};
use bytes::Bytes;
use coreline_io::uring::{UringOptions, UringRuntime, check_directory, check_host};
use coreline_io::{BLOCK, Disk, File, IoErrorKind, OpenOptions};
use std::path::Path;

const MAKE: OpenOptions =
    OpenOptions { create: true, create_new: false, truncate: true, read_only: false, dsync: false };

async fn written(runtime: &UringRuntime, path: &Path, contents: &[u8]) -> <UringRuntime as Disk>::File {
    let file = runtime.open(path, MAKE).await.expect("open");
    file.write_at(0, &[Bytes::copy_from_slice(contents)]).await.expect("write");
    file
}

#[test]
fn this_host_will_do() {
    check_host().expect("io_uring");
    check_directory(directory().path()).expect("direct I/O");
}

#[test]
fn reads_of_any_alignment_give_what_was_written() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = pattern(5 * BLOCK, 1);
        let file = written(&runtime, &dir.path().join("a"), &contents).await;
        let end = contents.len();
        for (offset, len) in
            [(0, end), (0, 1), (1, 1), (BLOCK - 1, 2), (BLOCK, BLOCK), (4095, 8194), (end - 1, 1), (17, 0), (511, 513)]
        {
            let read = file.read_at(offset as u64, len).await.expect("read");
            assert!(read == contents[offset..offset + len], "{len} bytes at {offset}");
        }
        assert_eq!(runtime.counters().read_copied_bytes, 0);
        file.close().await.expect("close");
    });
}

#[test]
fn reads_stop_at_the_end_of_the_file() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = pattern(2 * BLOCK, 2);
        let file = written(&runtime, &dir.path().join("a"), &contents).await;
        file.truncate(5000).await.expect("truncate");
        assert_eq!(file.size().await.expect("size"), 5000);
        for (offset, len) in [(0, 8192), (4999, 2), (4096, 4096), (4990, 100_000), (100, 5000)] {
            let read = file.read_at(offset as u64, len).await.expect("read");
            assert!(read == contents[offset..5000], "{len} bytes at {offset}: {} came", read.len());
        }
        for offset in [5000, 5001, 8192, 1 << 40] {
            assert!(file.read_at(offset, 10).await.expect("read").is_empty(), "past the end at {offset}");
        }
        assert_eq!(runtime.counters().read_copied_bytes, 0);
    });
}

#[test]
fn a_file_that_grows_by_truncate_reads_zeros() {
    let dir = directory();
    on_executor(async |runtime| {
        let file = written(&runtime, &dir.path().join("a"), &pattern(BLOCK, 3)).await;
        file.truncate(100).await.expect("shorter");
        file.truncate(3 * BLOCK as u64).await.expect("longer");
        let read = file.read_at(0, 4 * BLOCK).await.expect("read");
        assert_eq!(read.len(), 3 * BLOCK);
        assert_eq!(&read[..100], &pattern(BLOCK, 3)[..100]);
        assert!(read[100..].iter().all(|byte| *byte == 0));
    });
}

#[test]
fn many_parts_of_odd_sizes_are_one_write() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = pattern(64 * BLOCK, 4);
        let whole = Bytes::from(contents.clone());
        let mut parts = vec![Bytes::new()];
        let (mut at, mut step) = (0, 1);
        while at < whole.len() {
            let len = step.min(whole.len() - at);
            parts.push(whole.slice(at..at + len));
            (at, step) = (at + len, step % 1000 + 7);
        }
        parts.push(Bytes::new());
        let file = runtime.open(&dir.path().join("a"), MAKE).await.expect("open");
        file.write_at(BLOCK as u64, &parts).await.expect("write");
        file.sync_data().await.expect("sync");
        assert!(file.read_at(BLOCK as u64, contents.len()).await.expect("read") == contents);
        let counters = runtime.counters();
        assert_eq!((counters.writes, counters.write_bytes, counters.syncs), (1, contents.len() as u64, 1));
    });
}

#[test]
fn large_writes_and_reads() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = pattern(20 << 20, 5);
        let file = written(&runtime, &dir.path().join("a"), &contents).await;
        let read = file.read_at(1, 4 << 20).await.expect("read");
        assert!(read == contents[1..=4 << 20]);
        assert_eq!(runtime.counters().read_copied_bytes, 0, "4 MiB is one read");
        assert!(file.read_at(3, contents.len()).await.expect("read") == contents[3..], "to the end, in pieces");
        assert!(file.read_at(0, contents.len()).await.expect("read") == contents);
    });
}

#[test]
fn a_read_may_be_dropped_on_another_thread() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = pattern(256 * BLOCK, 6);
        let file = written(&runtime, &dir.path().join("a"), &contents).await;
        for _ in 0..20 {
            let read = file.read_at(0, contents.len()).await.expect("read");
            let (slice, expected) = (read.slice(4000..5000), contents[4000..5000].to_vec());
            assert!(runtime.buffer_bytes() >= contents.len());
            std::thread::spawn(move || {
                drop(read);
                assert!(slice == expected);
            })
            .join()
            .expect("reader");
        }
        assert_eq!(runtime.buffer_bytes(), 0);
    });
}

#[test]
fn a_read_outlives_its_executor() {
    let dir = directory();
    let contents = pattern(8 * BLOCK, 7);
    let read = std::thread::scope(|scope| {
        let executor = scope.spawn(|| {
            on_executor(async |runtime| {
                let file = written(&runtime, &dir.path().join("a"), &contents).await;
                file.read_at(10, 20_000).await.expect("read")
            })
        });
        executor.join().expect("executor")
    });
    assert!(read == contents[10..20_010]);
}

#[test]
fn writes_in_flight_together_all_land() {
    let dir = directory();
    on_executor(async |runtime| {
        let contents = Bytes::from(pattern(32 * BLOCK, 8));
        let file = runtime.open(&dir.path().join("a"), OpenOptions { dsync: true, ..MAKE }).await.expect("open");
        let writes = (0..32).map(|block| {
            let (file, part) = (&file, [contents.slice(block * BLOCK..(block + 1) * BLOCK)]);
            async move { file.write_at((block * BLOCK) as u64, &part).await }
        });
        futures_util::future::try_join_all(writes).await.expect("writes");
        assert!(file.read_at(0, contents.len()).await.expect("read") == contents);
    });
}

#[test]
fn errors_name_operation_path_and_kind() {
    let dir = directory();
    on_executor(async |runtime| {
        let path = dir.path().join("none");
        let error = runtime.open(&path, OpenOptions::default()).await.expect_err("missing");
        assert_eq!((error.kind, error.operation), (IoErrorKind::NotFound, "open"));
        assert_eq!(error.path.as_deref(), Some(path.as_path()));
        assert_eq!(error.cause.raw_os_error(), Some(2));

        let file = written(&runtime, &path, &pattern(BLOCK, 9)).await;
        file.close().await.expect("close");
        let again = OpenOptions { create_new: true, ..OpenOptions::default() };
        assert_eq!(runtime.open(&path, again).await.expect_err("there").kind, IoErrorKind::AlreadyExists);

        let file = runtime.open(&path, OpenOptions { read_only: true, ..OpenOptions::default() }).await.expect("open");
        let error = file.write_at(0, &[Bytes::from(vec![0; BLOCK])]).await.expect_err("read only");
        assert_eq!((error.operation, error.offset), ("write", Some(0)));
        assert_eq!(runtime.read_file(&dir.path().join("x")).await.expect_err("missing").kind, IoErrorKind::NotFound);
    });
}

#[test]
fn small_files_and_directories() {
    let dir = directory();
    on_executor(async |runtime| {
        let (sub, other) = (dir.path().join("a/b"), dir.path().join("a/c"));
        runtime.create_dir_all(&sub).await.expect("create");
        runtime.create_dir_all(&sub).await.expect("create again");
        for contents in [&b"one"[..], b"another"] {
            runtime.write_file_atomic(&sub.join("f"), contents).await.expect("write");
            assert_eq!(runtime.read_file(&sub.join("f")).await.expect("read"), contents);
        }
        let entries = runtime.list_dir(&sub).await.expect("list");
        assert_eq!(entries.len(), 1, "no temporary file stays: {entries:?}");
        assert_eq!((entries[0].name.as_str(), entries[0].is_dir, entries[0].len), ("f", false, 7));
        runtime.rename(&sub, &other).await.expect("rename");
        runtime.sync_dir(&dir.path().join("a")).await.expect("sync");
        runtime.remove_file(&other.join("f")).await.expect("remove");
        assert_eq!(runtime.list_dir(&other).await.expect("list"), vec![]);
        runtime.remove_dir_all(&dir.path().join("a")).await.expect("remove all");
        assert_eq!(runtime.list_dir(&sub).await.expect_err("gone").kind, IoErrorKind::NotFound);
        assert!(runtime.free_bytes(dir.path()).await.expect("statvfs") > 0);
    });
}

#[test]
fn a_lock_is_held_once() {
    let dir = directory();
    on_executor(async |runtime| {
        let path = dir.path().join(".lock");
        let lock = runtime.try_lock(&path).expect("free");
        let error = runtime.try_lock(&path).expect_err("held");
        assert_eq!(error.kind, IoErrorKind::Locked);
        let holder = format!("held by process {}", std::process::id());
        assert!(error.to_string().contains(&holder), "{error}");
        drop(lock);
        runtime.try_lock(&path).expect("free again");
    });
}

#[test]
fn without_direct_io_a_file_is_refused_or_buffered() {
    let Ok(dir) = tempfile::tempdir_in("/dev/shm") else { return };
    let path = dir.path().join("a");
    on_executor(async |runtime| {
        let error = runtime.open(&path, MAKE).await.expect_err("tmpfs");
        assert_eq!(error.kind, IoErrorKind::Unsupported);
        assert!(error.to_string().contains("O_DIRECT"), "{error}");
    });
    let options = UringOptions { allow_buffered: true, ..UringOptions::default() };
    on_executor_with(options, async |runtime| {
        let contents = pattern(3 * BLOCK, 10);
        let file = written(&runtime, &path, &contents).await;
        file.sync_data().await.expect("sync");
        file.truncate(5000).await.expect("truncate");
        assert!(file.read_at(4000, 4096).await.expect("read") == contents[4000..5000]);
        assert!(file.read_at(5000, 1).await.expect("read").is_empty());
    });
}
