//! The log's formats and state, pure: bytes in, bytes and decisions out.

pub mod batch;
pub mod compaction;
pub mod compression;
mod crc;
pub mod index;
pub mod intake;
pub mod journal;
pub mod leader_epochs;
pub mod log_config;
pub mod partition_metadata;
pub mod partition_state;
pub mod producer_state;
pub mod recovery_time;
pub mod retention;
pub mod segment;
pub mod segment_mark;
pub mod txn_index;
pub mod txn_marker;
pub mod verification;

#[cfg(test)]
mod example_tests;
#[cfg(test)]
mod kafka_files_tests;
