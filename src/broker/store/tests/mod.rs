//! Tests of the store under the simulator. `harness` opens stores and makes batches, `basic` names single behaviours,
//! `faults` breaks the disk, `simulation` is the oracle over many seeds.

mod basic;
mod faults;
mod harness;
mod simulation;
#[cfg(feature = "uring")]
mod uring;
