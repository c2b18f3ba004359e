//! The drivers: what one core runs, on any runtime of the io seam.

pub mod fatal;
pub mod messages;
pub mod metadata;
pub mod shard;
pub mod store;

pub use shard::Shard;
