//! The suite on the simulated backend, each case for many seeds.

#[macro_use]
mod suite;

use coreline_io::sim::{SimNode, SimOptions, SimRuntime, SimWorld};
use coreline_io::{Disk, TaskGroup, Tasks};
use std::path::PathBuf;
use suite::Env;

const SEEDS: u64 = 50;

/// Runs a case in a fresh world, twice, to see that both runs are one.
fn run<F: Future<Output = ()> + 'static>(case: impl Fn(SimRuntime, Env) -> F) {
    for seed in 0..SEEDS {
        let trace = |_| {
            let world = SimWorld::new(seed, SimOptions::default());
            let node = world.node("a");
            let (rt, dir) = (node.runtime(), PathBuf::from(SimNode::DATA_DIR).join("case"));
            world.block_on(async {
                rt.create_dir_all(&dir).await.expect("the data directory is there");
                let env = Env { dir: dir.clone(), ip: if seed % 2 == 0 { node.ip() } else { [127, 0, 0, 1].into() } };
                rt.spawn(TaskGroup::Requests, "case", case(rt.clone(), env)).await;
            });
            world.trace_hash()
        };
        let [first, second] = [0, 1].map(trace);
        assert_eq!(first, second, "seed {seed} took another way the second time");
    }
}

macro_rules! tests {
    ($($module:ident: [$($case:ident),* $(,)?])*) => {
        $(mod $module {
            $(#[test]
            fn $case() {
                super::run(super::suite::$module::$case);
            })*
        })*
    };
}

for_each_case!(tests);
