//! Files: what was written is read, at any alignment, and nothing else.

use super::{Env, kind, pattern};
use bytes::Bytes;
use coreline_io::{BLOCK, File, IoErrorKind, OpenOptions, Runtime, WriteSyncError};
use futures_util::future::join_all;

const CREATE: OpenOptions =
    OpenOptions { create: true, create_new: false, truncate: false, read_only: false, dsync: false };

async fn created<R: Runtime>(rt: &R, env: &Env, name: &str) -> R::File {
    rt.open(&env.path(name), CREATE).await.expect("the directory takes files")
}

pub(crate) async fn write_then_read<R: Runtime>(rt: R, env: Env) {
    let data = pattern(1, 4 * BLOCK);
    let file = created(&rt, &env, "f").await;
    assert_eq!(file.size().await.unwrap(), 0);
    file.write_at(0, std::slice::from_ref(&data)).await.unwrap();
    assert_eq!(file.size().await.unwrap(), data.len() as u64);
    file.sync_data().await.unwrap();
    assert_eq!(file.read_at(0, data.len()).await.unwrap(), data);
    file.close().await.unwrap();

    let again = rt.open(&env.path("f"), OpenOptions { read_only: true, ..OpenOptions::default() }).await.unwrap();
    assert_eq!(again.read_at(0, data.len()).await.unwrap(), data);
    assert_eq!(rt.read_file(&env.path("f")).await.unwrap(), data);
}

pub(crate) async fn reads_at_any_alignment<R: Runtime>(rt: R, env: Env) {
    let data = pattern(2, 3 * BLOCK);
    let file = created(&rt, &env, "f").await;
    file.write_at(0, std::slice::from_ref(&data)).await.unwrap();
    for offset in [0, 1, 511, 512, 4095, 4096, 4097, 8191, 9000] {
        for len in [0, 1, 7, 512, 4096, 4097] {
            let end = (offset + len).min(data.len());
            let read = file.read_at(offset as u64, len).await.unwrap();
            assert_eq!(read, data[offset..end.max(offset)], "{len} bytes at {offset}");
        }
    }
}

pub(crate) async fn reads_stop_at_the_end<R: Runtime>(rt: R, env: Env) {
    let data = pattern(3, 2 * BLOCK);
    let file = created(&rt, &env, "f").await;
    assert!(file.read_at(0, 10).await.unwrap().is_empty(), "an empty file has no bytes");
    file.write_at(0, std::slice::from_ref(&data)).await.unwrap();
    let end = data.len() as u64;
    assert_eq!(file.read_at(end - 5, 100).await.unwrap(), data[data.len() - 5..]);
    assert!(file.read_at(end, 1).await.unwrap().is_empty());
    assert!(file.read_at(end + 12_345, 5000).await.unwrap().is_empty());
    file.truncate(end - 1000).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, 2 * BLOCK).await.unwrap(), data[BLOCK..data.len() - 1000]);
}

pub(crate) async fn gathers_parts_of_any_length<R: Runtime>(rt: R, env: Env) {
    let data = pattern(4, 3 * BLOCK);
    let file = created(&rt, &env, "f").await;
    let cuts = [0, 1, 1, 61, 4000, 4096, 4097, 9000, data.len()];
    let parts: Vec<Bytes> = cuts.windows(2).map(|w| data.slice(w[0]..w[1])).collect();
    file.write_at(BLOCK as u64, &parts).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, data.len()).await.unwrap(), data);
    file.write_at(0, &[]).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 4 * BLOCK as u64);
}

pub(crate) async fn truncate_cuts_and_pads<R: Runtime>(rt: R, env: Env) {
    let data = pattern(5, 2 * BLOCK);
    let file = created(&rt, &env, "f").await;
    file.write_at(0, std::slice::from_ref(&data)).await.unwrap();
    file.truncate(100).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 100);
    file.truncate(3 * BLOCK as u64).await.unwrap();
    let mut expected = data[..100].to_vec();
    expected.resize(3 * BLOCK, 0);
    assert_eq!(file.read_at(0, 4 * BLOCK).await.unwrap(), expected, "what was cut off comes back as zeros");
    file.truncate(0).await.unwrap();
    file.sync_data().await.unwrap();
    assert_eq!(rt.read_file(&env.path("f")).await.unwrap(), b"");
}

pub(crate) async fn what_is_reserved_keeps_its_length<R: Runtime>(rt: R, env: Env) {
    let file = created(&rt, &env, "f").await;
    file.reserve(64 * BLOCK as u64).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 0);
    let data = pattern(5, 2 * BLOCK);
    file.write_at(0, std::slice::from_ref(&data)).await.unwrap();
    file.reserve(BLOCK as u64).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 2 * BLOCK as u64);
    assert_eq!(file.read_at(0, 4 * BLOCK).await.unwrap(), data);
    file.truncate(100).await.unwrap();
    assert_eq!(file.read_at(0, BLOCK).await.unwrap(), data[..100]);
}

pub(crate) async fn open_options_are_obeyed<R: Runtime>(rt: R, env: Env) {
    let path = env.path("f");
    assert_eq!(kind(rt.open(&path, OpenOptions::default()).await), Some(IoErrorKind::NotFound));
    let fresh = OpenOptions { create_new: true, ..CREATE };
    let file = rt.open(&path, fresh).await.unwrap();
    file.write_at(0, &[pattern(6, BLOCK)]).await.unwrap();
    assert_eq!(kind(rt.open(&path, fresh).await), Some(IoErrorKind::AlreadyExists));

    let kept = rt.open(&path, CREATE).await.unwrap();
    assert_eq!(kept.size().await.unwrap(), BLOCK as u64);
    let read_only = rt.open(&path, OpenOptions { read_only: true, ..OpenOptions::default() }).await.unwrap();
    assert!(read_only.write_at(0, &[pattern(7, BLOCK)]).await.is_err());
    assert_eq!(kept.read_at(0, BLOCK).await.unwrap(), pattern(6, BLOCK));

    let emptied = rt.open(&path, OpenOptions { truncate: true, ..CREATE }).await.unwrap();
    assert_eq!(emptied.size().await.unwrap(), 0);
    assert_eq!(kind(rt.open(&env.path("no/f"), CREATE).await), Some(IoErrorKind::NotFound));
}

pub(crate) async fn dsync_writes_read_back<R: Runtime>(rt: R, env: Env) {
    let file = rt.open(&env.path("f"), OpenOptions { dsync: true, ..CREATE }).await.unwrap();
    file.write_at(0, &[Bytes::from(vec![0; 4 * BLOCK])]).await.unwrap();
    file.sync_data().await.unwrap();
    for n in 0..4 {
        file.write_at(n * BLOCK as u64, &[pattern(n, BLOCK)]).await.unwrap();
    }
    for n in 0..4 {
        assert_eq!(file.read_at(n * BLOCK as u64, BLOCK).await.unwrap(), pattern(n, BLOCK));
    }
}

pub(crate) async fn writes_in_flight_together<R: Runtime>(rt: R, env: Env) {
    let file = created(&rt, &env, "f").await;
    let blocks: Vec<Bytes> = (0..16).map(|n| pattern(n, BLOCK)).collect();
    let writes = blocks.iter().enumerate().rev();
    let writes = writes.map(|(n, b)| file.write_at((n * BLOCK) as u64, std::slice::from_ref(b)));
    join_all(writes).await.into_iter().for_each(Result::unwrap);
    file.sync_data().await.unwrap();
    let reads = join_all((0..16).map(|n| file.read_at(n * BLOCK as u64 + 1, BLOCK - 1))).await;
    for (read, block) in reads.into_iter().zip(&blocks) {
        assert_eq!(read.unwrap(), block[1..]);
    }
}

pub(crate) async fn a_large_write<R: Runtime>(rt: R, env: Env) {
    let data = pattern(8, 3 << 20);
    let file = created(&rt, &env, "f").await;
    file.write_at(BLOCK as u64, std::slice::from_ref(&data)).await.unwrap();
    assert_eq!(file.read_at(BLOCK as u64, data.len()).await.unwrap(), data);
    assert_eq!(file.read_at(BLOCK as u64 + 777, 2 << 20).await.unwrap(), data[777..777 + (2 << 20)]);
}

pub(crate) async fn overwriting_in_place<R: Runtime>(rt: R, env: Env) {
    let file = created(&rt, &env, "f").await;
    file.write_at(0, &[pattern(9, 3 * BLOCK)]).await.unwrap();
    let before = file.read_at(BLOCK as u64, BLOCK).await.unwrap();
    file.write_at(BLOCK as u64, &[Bytes::from(vec![0; BLOCK])]).await.unwrap();
    assert_eq!(before, pattern(9, 3 * BLOCK)[BLOCK..2 * BLOCK], "bytes that were read never change");
    assert_eq!(file.read_at(BLOCK as u64, BLOCK).await.unwrap(), vec![0; BLOCK]);
    assert_eq!(file.read_at(0, BLOCK).await.unwrap(), pattern(9, 3 * BLOCK)[..BLOCK]);
    assert_eq!(file.size().await.unwrap(), 3 * BLOCK as u64);
}

pub(crate) async fn sparse_files_read_as_zero<R: Runtime>(rt: R, env: Env) {
    let file = created(&rt, &env, "f").await;
    file.write_at(10 * BLOCK as u64, &[pattern(10, BLOCK)]).await.unwrap();
    assert_eq!(file.size().await.unwrap(), 11 * BLOCK as u64);
    assert_eq!(file.read_at(3, 10 * BLOCK - 3).await.unwrap(), vec![0; 10 * BLOCK - 3]);
}

pub(crate) async fn two_handles_see_one_file<R: Runtime>(rt: R, env: Env) {
    let (a, b) = (created(&rt, &env, "f").await, created(&rt, &env, "f").await);
    a.write_at(0, &[pattern(11, BLOCK)]).await.unwrap();
    assert_eq!(b.read_at(0, BLOCK).await.unwrap(), pattern(11, BLOCK));
    // The name goes, the open file stays.
    rt.remove_file(&env.path("f")).await.unwrap();
    assert_eq!(b.read_at(0, BLOCK).await.unwrap(), pattern(11, BLOCK));
}

pub(crate) async fn durable_writes_read_back<R: Runtime>(rt: R, env: Env) {
    let file = created(&rt, &env, "f").await;
    let data = pattern(12, 700 * BLOCK);
    let mut written = 0;
    // A buffer that is used again must hold nothing of the write before: larger, smaller, larger.
    for blocks in [1, 300, 2, 1, 350, 46] {
        let piece = data.slice(written..written + blocks * BLOCK);
        let parts = [piece.slice(..100), piece.slice(100..5 * BLOCK / 7), piece.slice(5 * BLOCK / 7..)];
        file.write_and_sync(written as u64, &parts).await.unwrap();
        written += piece.len();
    }
    let over = pattern(13, 3 * BLOCK);
    file.write_and_sync(BLOCK as u64, std::slice::from_ref(&over)).await.unwrap();
    file.close().await.unwrap();
    let again = rt.open(&env.path("f"), OpenOptions { read_only: true, ..OpenOptions::default() }).await.unwrap();
    let read = again.read_at(0, data.len()).await.unwrap();
    assert_eq!(read.len(), data.len());
    assert_eq!(read[BLOCK..4 * BLOCK], over);
    assert!(read[..BLOCK] == data[..BLOCK] && read[4 * BLOCK..] == data[4 * BLOCK..]);
    let refused = again.write_and_sync(0, &[data.slice(..BLOCK)]).await;
    assert!(matches!(refused, Err(WriteSyncError::Write(_))), "a file that is open for reading: {refused:?}");
}
