//! Kafka's wire protocol, pure: frames, the table of APIs and versions, and the bodies.
//!
//! Bodies go through the codec crate behind [`codec`], but for what carries records: Produce requests ([`produce`])
//! and Fetch responses ([`fetch`]) are read and written by hand, around the records.

pub mod api;
pub mod by_topic_id;
pub mod codec;
pub mod compact_topic;
pub mod describe_latency;
pub mod fetch;
pub mod fetch_session;
pub mod frame;
mod fuzz;
pub mod move_partition;
mod own;
pub mod produce;
pub mod schema;
pub mod topic_name;
pub mod wire;

pub use api::{Api, ApiKey};
pub use frame::{Request, RequestHeader, ResponseFrame};
pub use fuzz::fuzz_request_frame;
