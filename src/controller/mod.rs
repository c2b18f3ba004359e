//! The controller: metadata as a replicated state machine. Pure: its driver is `broker/controller.rs`.
//!
//! A [`Command`] is evaluated against the newest [`ClusterImage`] into [`MetadataRecord`]s; the records are committed
//! through Raft, a quorum of one included; every node applies committed records in order to its image.

pub mod balance;
pub mod commands;
mod cow_map;
mod encoding;
pub mod image;
pub mod placement;
pub mod raft_log;
pub mod raft_node;
pub mod raft_wire;
pub mod records;

pub use commands::{Command, CommandError, Context, NewTopic, Outcome, TopicOutcome, evaluate};
pub use encoding::DecodeError;
pub use image::{ClusterImage, PartitionImage, Registration, TopicImage};
pub use records::{ConfigResource, MetadataRecord};
