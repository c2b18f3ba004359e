//! The whole broker in one thread, with real Kafka requests, by seed: power losses, `kill -9`, full and failing disks,
//! cut networks, other numbers of cores; and an oracle that knows what must be true all the same.
//!
//! `scripts/sim [SEEDS]` runs many seeds; `CORELINE_SEED=n scripts/sim` replays one with a trace, and the broker's own log
//! with `CORELINE_LOG=debug`.
//!
//! | file | concept |
//! | --- | --- |
//! | `scenario` | what a seed is |
//! | `oracle`, `topics`, `cleanup`, `ledger` | what must be true, pure |
//! | `book`, `history` | what must be true of transactions, pure |
//! | `broker`, `nemesis` | the broker's machine, and what happens to it |
//! | `client`, `producer`, `consumer`, `groups`, `consumer_member`, `admin`, `auditor` | who talks to it |
//! | `transactions`, `committed` | transactional producers, and who reads what they commit |
//! | `records` | batches, written and read apart from the broker's code |
//! | `world` | what they share |

mod admin;
mod auditor;
mod book;
mod broker;
mod cleanup;
mod client;
mod committed;
mod consumer;
mod consumer_member;
mod groups;
mod history;
mod ledger;
mod mover;
mod nemesis;
mod oracle;
mod producer;
mod records;
mod run;
mod scenario;
mod topics;
mod transactions;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A seed of so many is run twice, to see that both runs are one.
const TWICE_ONE_IN: u64 = 50;
/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 60;

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: expected a number")))
}

fn seed(seed: u64, trace: bool) -> Result<run::Summary, String> {
    let run = || catch_unwind(AssertUnwindSafe(|| run::run(seed, trace))).map_err(|e| text(&*e));
    let first = run()?;
    if seed.is_multiple_of(TWICE_ONE_IN) {
        let second = run()?;
        if first != second {
            return Err(format!("BROKEN: the second run took another way: {first:?}, {second:?}"));
        }
    }
    Ok(first)
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let known = panic.downcast_ref::<String>().cloned();
    known.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

#[test]
fn a_seed_is_one_way_and_no_other() {
    let run = |number| seed(number, false).expect("passes");
    // The last one, thrice more: two members wait for another shard when the node stops, and are told so in some order.
    for (number, again) in [(1, 1), (7, 1), (2000, 3)] {
        let first = run(number);
        for _ in 0..again {
            assert_eq!(first, run(number), "seed {number}");
        }
    }
    assert_ne!(run(1), run(7));
}

#[test]
fn seeds() {
    if let Some(one) = variable("CORELINE_SEED") {
        let filter = std::env::var("CORELINE_LOG").unwrap_or_else(|_| "warn".to_owned());
        tracing_subscriber::fmt().without_time().with_ansi(false).with_env_filter(filter).init();
        println!("{:#?}", run::scenario(one));
        println!("{:?}", run::run(one, true));
        return;
    }
    let (first, count) = (variable("CORELINE_FIRST_SEED").unwrap_or(0), variable("CORELINE_SEEDS").unwrap_or(SEEDS));
    let next = AtomicU64::new(first);
    let failed: Mutex<Vec<(u64, String)>> = Mutex::default();
    let total = Mutex::new(run::Summary::default());
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= first + count || failed.lock().expect("no panic inside").len() >= 5 {
                        return;
                    }
                    match seed(number, false) {
                        Ok(summary) => total.lock().expect("no panic inside").add(&summary),
                        Err(what) => failed.lock().expect("no panic inside").push((number, what)),
                    }
                }
            });
        }
    });
    println!("{}", total.into_inner().expect("no panic inside"));
    let mut failed = failed.into_inner().expect("no panic inside");
    failed.sort();
    for (seed, what) in &failed {
        println!("\nseed {seed}: {what}\nreplay: CORELINE_SEED={seed} scripts/sim");
    }
    assert!(failed.is_empty(), "{} of the seeds failed", failed.len());
}
