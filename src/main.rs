//! The `coreline` binary: a thin door to [`coreline::cli`].

fn main() {}
