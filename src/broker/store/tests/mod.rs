//! Tests of the store under the simulator. `harness` opens stores and makes batches, `basic` names single behaviours,
//! `faults` breaks the disk, `budget` bounds the journal, `marks` are loads that do without reading, `states` those that do without looking, `guards` are crashes that seeds hardly ever find, `retention` lets segments grow old,
//! `compression` sends batches through helpers, `simulation` is the oracle over many seeds, `compaction` the one of
//! compacted topics, `compaction_on_demand` what somebody who asks for one is told, `txn` transactions, `txn_simulation` and
//! `txn_compaction` those over crashes and cleanings, `sealed_indexes` what is wrong with indexes of complete segments.

mod basic;
mod budget;
mod compaction;
mod compaction_on_demand;
mod compression;
mod faults;
mod guards;
mod harness;
mod indexes;
mod joined;
mod marks;
mod moves;
mod reading;
mod retention;
mod sealed_indexes;
mod simulation;
mod states;
mod txn;
mod txn_compaction;
mod txn_simulation;
#[cfg(feature = "uring")]
mod uring;
