//! The metrics endpoint: what shards count ([`Meters`]), what each reports ([`ShardReport`]), the page made of all reports
//! ([`NodeReport`]), and the listener that answers a scrape with it ([`endpoint`]).
//!
//! A shard is asked through the mesh and gathers in slices; what grows with the number of topics, and the text, is made by
//! a helper thread.

pub mod endpoint;
mod meters;
mod node_report;
mod shard_report;

pub use meters::Meters;
pub use node_report::{NodeReport, ProcessUsage};
pub use shard_report::{Kept, ShardReport, gather};
