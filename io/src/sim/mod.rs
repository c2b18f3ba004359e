//! The deterministic backend.
