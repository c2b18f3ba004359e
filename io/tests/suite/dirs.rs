//! Names: replacing, listing, renaming, removing, locking.

use super::{Env, kind, pattern};
use coreline_io::{BLOCK, DirEntry, File, IoErrorKind, OpenOptions, Runtime};
use std::path::Path;

async fn names<R: Runtime>(rt: &R, dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = rt.list_dir(dir).await.unwrap().into_iter().map(|e| e.name).collect();
    names.sort();
    names
}

pub(crate) async fn atomic_replace<R: Runtime>(rt: R, env: Env) {
    let path = env.path("meta");
    for contents in [&b"first"[..], b"", b"the second, which is longer", &pattern(1, 10_000), b"short again"] {
        rt.write_file_atomic(&path, contents).await.unwrap();
        assert_eq!(rt.read_file(&path).await.unwrap(), contents);
    }
}

pub(crate) async fn atomic_replace_leaves_nothing_behind<R: Runtime>(rt: R, env: Env) {
    rt.write_file_atomic(&env.path("a"), b"1").await.unwrap();
    rt.write_file_atomic(&env.path("b"), b"2").await.unwrap();
    rt.write_file_atomic(&env.path("a"), b"3").await.unwrap();
    assert_eq!(names(&rt, &env.dir).await, ["a", "b"]);
    assert_eq!(kind(rt.write_file_atomic(&env.path("no/a"), b"1").await), Some(IoErrorKind::NotFound));
}

pub(crate) async fn directories_are_made_and_listed<R: Runtime>(rt: R, env: Env) {
    assert!(rt.list_dir(&env.dir).await.unwrap().is_empty());
    let deep = env.path("x/y/z");
    rt.create_dir_all(&deep).await.unwrap();
    rt.create_dir_all(&deep).await.unwrap();
    rt.sync_dir(&env.dir).await.unwrap();
    rt.write_file_atomic(&env.path("x/file"), &pattern(2, 777)).await.unwrap();
    let mut found = rt.list_dir(&env.path("x")).await.unwrap();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert_eq!(found[0], DirEntry { name: "file".to_owned(), is_dir: false, len: 777 });
    assert_eq!((found[1].name.as_str(), found[1].is_dir, found.len()), ("y", true, 2));
    assert_eq!(names(&rt, &env.path("x/y")).await, ["z"]);
}

/// The last in the alphabet that is not a directory.
fn pick_last(entries: &[DirEntry]) -> Vec<usize> {
    let files = entries.iter().enumerate().filter(|(_, e)| !e.is_dir);
    files.max_by_key(|(_, e)| e.name.clone()).map(|(at, _)| at).into_iter().collect()
}

pub(crate) async fn directories_are_read_whole<R: Runtime>(rt: R, env: Env) {
    let dirs: Vec<_> = ["a", "missing", "b", "empty"].iter().map(|name| env.path(name)).collect();
    for n in [0, 2, 3] {
        rt.create_dir_all(&dirs[n]).await.unwrap();
    }
    rt.create_dir_all(&env.path("a/z")).await.unwrap();
    rt.write_file_atomic(&env.path("a/one"), b"1").await.unwrap();
    rt.write_file_atomic(&env.path("a/two"), b"22").await.unwrap();
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let direct = rt.open(&env.path("b/log"), options).await.unwrap();
    for round in 1..3 {
        // What was read before must not be remembered.
        direct.write_at(0, &[pattern(round, 3 * BLOCK)]).await.unwrap();
        let found = rt.read_dirs(dirs.clone(), pick_last).await;
        let [a, missing, b, empty] = <[_; 4]>::try_from(found).unwrap();
        let a = a.unwrap();
        assert_eq!((a.entries.len(), a.files.len()), (3, 1));
        assert_eq!(a.files["two"], &b"22"[..]);
        assert_eq!(kind(missing.map(drop)), Some(IoErrorKind::NotFound));
        assert_eq!(b.unwrap().files["log"], pattern(round, 3 * BLOCK));
        assert!(empty.unwrap().entries.is_empty());
    }
    assert!(rt.read_dirs(Vec::new(), pick_last).await.is_empty());
}

pub(crate) async fn new_files_are_made_with_their_directories<R: Runtime>(rt: R, env: Env) {
    let files = vec![
        (env.path("a-0/one"), b"1".to_vec()),
        (env.path("a-0/two"), pattern(4, 9_000).to_vec()),
        (env.path("b/c/three"), Vec::new()),
    ];
    rt.write_new_files(files.clone()).await.unwrap();
    rt.write_new_files(Vec::new()).await.unwrap();
    rt.sync_file_system(&env.path("a-0/one")).await.unwrap();
    for (path, contents) in files {
        assert_eq!(rt.read_file(&path).await.unwrap(), contents);
    }
    assert_eq!(kind(rt.sync_file_system(&env.path("no")).await), Some(IoErrorKind::NotFound));
}

pub(crate) async fn rename_replaces<R: Runtime>(rt: R, env: Env) {
    let (a, b) = (env.path("a"), env.path("b"));
    rt.write_file_atomic(&a, b"a").await.unwrap();
    rt.write_file_atomic(&b, b"b").await.unwrap();
    rt.rename(&a, &b).await.unwrap();
    rt.sync_dir(&env.dir).await.unwrap();
    assert_eq!(names(&rt, &env.dir).await, ["b"]);
    assert_eq!(rt.read_file(&b).await.unwrap(), b"a");
}

pub(crate) async fn directories_are_renamed<R: Runtime>(rt: R, env: Env) {
    rt.create_dir_all(&env.path("t-0")).await.unwrap();
    let options = OpenOptions { create: true, ..OpenOptions::default() };
    let file = rt.open(&env.path("t-0/log"), options).await.unwrap();
    rt.rename(&env.path("t-0"), &env.path("t-0-delete")).await.unwrap();
    file.write_at(0, &[pattern(3, BLOCK)]).await.unwrap();
    assert_eq!(rt.read_file(&env.path("t-0-delete/log")).await.unwrap(), pattern(3, BLOCK));
    assert_eq!(kind(rt.list_dir(&env.path("t-0")).await), Some(IoErrorKind::NotFound));
}

pub(crate) async fn removal<R: Runtime>(rt: R, env: Env) {
    rt.create_dir_all(&env.path("d/e")).await.unwrap();
    for name in ["f", "d/f", "d/e/f"] {
        rt.write_file_atomic(&env.path(name), name.as_bytes()).await.unwrap();
    }
    rt.remove_file(&env.path("d/f")).await.unwrap();
    assert_eq!(names(&rt, &env.path("d")).await, ["e"]);
    rt.remove_dir_all(&env.path("d")).await.unwrap();
    rt.sync_dir(&env.dir).await.unwrap();
    assert_eq!(names(&rt, &env.dir).await, ["f"]);
}

pub(crate) async fn missing_things_are_not_found<R: Runtime>(rt: R, env: Env) {
    let no = env.path("no");
    assert_eq!(kind(rt.read_file(&no).await), Some(IoErrorKind::NotFound));
    assert_eq!(kind(rt.list_dir(&no).await), Some(IoErrorKind::NotFound));
    assert_eq!(kind(rt.remove_file(&no).await), Some(IoErrorKind::NotFound));
    assert_eq!(kind(rt.rename(&no, &env.path("b")).await), Some(IoErrorKind::NotFound));
    assert_eq!(kind(rt.sync_dir(&no).await), Some(IoErrorKind::NotFound));
    let error = rt.read_file(&no).await.unwrap_err();
    assert!(error.to_string().contains(&no.display().to_string()), "an error names its object: {error}");
}

pub(crate) async fn lock_twice<R: Runtime>(rt: R, env: Env) {
    let (one, two) = (env.path("one.lock"), env.path("two.lock"));
    let held = rt.try_lock(&one).unwrap();
    let refused = rt.try_lock(&one).err().expect("the lock is held");
    assert_eq!(refused.kind, IoErrorKind::Locked, "{refused}");
    let _other = rt.try_lock(&two).unwrap();
    drop(held);
    let _again = rt.try_lock(&one).expect("dropping a lock releases it");
}

pub(crate) async fn space_is_reported<R: Runtime>(rt: R, env: Env) {
    assert!(rt.free_bytes(&env.dir).await.unwrap() > 1 << 20);
}
