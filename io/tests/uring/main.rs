//! The glommio backend on a real kernel, a real disk and real sockets.
#![cfg(feature = "uring")]

#[macro_use]
#[path = "../suite/mod.rs"]
mod suite;

mod disk;
mod naps;
mod net;
mod tasks;

use coreline_io::uring::{UringOptions, UringRuntime};
use std::path::PathBuf;

/// Runs `test` on an executor of its own, on this thread.
fn on_executor<T>(test: impl AsyncFnOnce(UringRuntime) -> T) -> T {
    on_executor_with(UringOptions::default(), test)
}

fn on_executor_with<T>(options: UringOptions, test: impl AsyncFnOnce(UringRuntime) -> T) -> T {
    let builder = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound).io_memory(1 << 20);
    builder.make().expect("io_uring").run(async {
        let runtime = UringRuntime::new(options);
        let result = runtime.attend(test(runtime.clone())).await;
        runtime.finish().await;
        result
    })
}

/// An empty directory on a disk: `CORELINE_TEST_DIR`, or the target directory.
fn directory() -> tempfile::TempDir {
    let root = std::env::var_os("CORELINE_TEST_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&root).expect("test directory");
    tempfile::tempdir_in(root).expect("test directory")
}

/// Bytes that differ at every place.
fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// The cases that every backend passes.
mod common {
    use coreline_io::uring::UringRuntime;

    fn run<F: Future<Output = ()>>(case: impl Fn(UringRuntime, crate::suite::Env) -> F) {
        let dir = crate::directory();
        let env = crate::suite::Env { dir: dir.path().to_path_buf(), ip: [127, 0, 0, 1].into() };
        crate::on_executor(async |runtime| case(runtime, env).await);
    }

    macro_rules! tests {
        ($($module:ident: [$($case:ident),* $(,)?])*) => {
            $(mod $module {
                $(#[test]
                fn $case() {
                    super::run(crate::suite::$module::$case);
                })*
            })*
        };
    }

    for_each_case!(tests);
}
