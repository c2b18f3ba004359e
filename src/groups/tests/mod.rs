//! Classic groups and offsets, asked as a driver asks.

mod admin;
mod classic;
mod harness;
mod model;
mod offsets;
mod records;
mod static_members;
