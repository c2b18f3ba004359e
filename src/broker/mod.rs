//! The drivers: what one core runs, on any runtime of the io seam.

mod balancing;
pub mod connection;
pub mod controller;
pub mod coordinator;
pub mod core_nodes;
pub mod fatal;
pub mod frames;
pub mod groups;
pub mod handlers;
pub mod latency;
pub mod listener;
pub mod messages;
pub mod metadata;
pub mod metrics;
pub mod moving;
pub mod passage;
pub mod pipeline;
pub mod relocation;
pub mod server;
pub mod shard;
pub mod steering;
pub mod store;
pub mod transactions;

pub use shard::Shard;
