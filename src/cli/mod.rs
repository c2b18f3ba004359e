//! The command line: one binary `coreline`, a subcommand a file.

mod cluster;
pub mod consume;
pub mod produce;
