//! The drivers: what one core runs, on any runtime of the io seam.

pub mod store;
