//! Handlers against the real log, on several shards, in the simulator, asked as clients ask: through a connection.

mod admin;
mod configs;
mod cores;
mod fetching;
mod groups;
mod harness;
mod isolation;
mod latency;
mod producing;
mod steering;
mod transactions;
