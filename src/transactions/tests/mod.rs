//! Tests of the coordinator: tables of what each version of the protocol is answered, formats, and a model with crashes.

mod bed;
mod formats;
mod model;
mod requests;
