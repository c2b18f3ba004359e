//! Coreline: a Kafka-protocol broker, thread-per-core, shared-nothing, durable on every acknowledgement.

pub mod ids;
