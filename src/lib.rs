//! Coreline: a Kafka-protocol broker, thread-per-core, shared-nothing, durable on every acknowledgement.

pub mod broker;
pub mod cli;
pub mod config;
pub mod controller;
pub mod coordinator;
#[cfg(doc)]
pub mod docs;
pub mod error_code;
pub mod groups;
pub mod ids;
pub mod latency;
pub mod log;
pub mod metrics;
pub mod protocol;
pub mod transactions;
