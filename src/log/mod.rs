//! The log's formats and state, pure: bytes in, bytes and decisions out.

pub mod log_config;
