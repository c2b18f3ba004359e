//! The fuzz targets without libFuzzer: their seeds, everything that was ever found, and a fixed number of mutations.
//!
//! So that a target is never found broken on the day it is needed; scripts/fuzz is what looks for something new.

#[path = "src/seeds.rs"]
mod seeds;
#[path = "src/targets.rs"]
mod targets;

use seeds::Dice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use targets::{TARGETS, Target};

/// Mutations of a target's seeds; the same ones on every run.
const MUTATIONS: usize = 4000;

/// Bytes of which lengths, counts and signs are made.
const EDGES: [u8; 8] = [0, 1, 2, 0x7f, 0x80, 0xfe, 0xff, b'0'];

fn mutate(dice: &mut Dice, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..=dice.below(3) {
        let at = dice.below(input.len() + 1);
        match dice.below(6) {
            0 if at < input.len() => input[at] ^= 1 << dice.below(8),
            1 if at < input.len() => input[at] = EDGES[dice.below(EDGES.len())],
            2 => input.truncate(at),
            3 => input.insert(at, EDGES[dice.below(EDGES.len())]),
            4 => {
                let from = dice.below(other.len() + 1);
                input.truncate(at);
                input.extend(&other[from..]);
            }
            _ => {
                let end = input.len().min(at + 4);
                input[at..end].fill(EDGES[dice.below(EDGES.len())]);
            }
        }
    }
}

fn survives(target: &Target, input: &[u8], what: &str) {
    let run = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(run.is_ok(), "{}: {what} is not survived, the bytes are {input:02x?}", target.name);
}

fn replay(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target of the table");
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for (n, seed) in seeds.iter().enumerate() {
        survives(target, seed, &format!("seed {n}"));
    }
    let found = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/testing/fuzz/regressions").join(name);
    for entry in std::fs::read_dir(found).into_iter().flatten().flatten() {
        let bytes = std::fs::read(entry.path()).expect("a file of the repository");
        survives(target, &bytes, &entry.path().display().to_string());
    }
    let mut dice = Dice(0xc0de_1234);
    for n in 0..MUTATIONS {
        let mut input = seeds[dice.below(seeds.len())].clone();
        let other = &seeds[dice.below(seeds.len())];
        mutate(&mut dice, &mut input, other);
        survives(target, &input, &format!("mutation {n}"));
    }
}

macro_rules! replayed {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<&str> = TARGETS.iter().map(|t| t.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replayed!(request_frame record_batch journal segment index checkpoints metadata properties txn_index compaction group_records group_values);
