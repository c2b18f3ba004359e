//! A small Kafka client and an open-loop load generator for any Kafka-protocol broker.

pub mod client;
pub mod load;
