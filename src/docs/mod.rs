//! The pages of `src/docs`, as documentation of the crate: a link of theirs to a page or an item that is not there is
//! an error of rustdoc.
//!
//! A page links to another by reference, `[durability][durability.md]`, and defines it at its own end,
//! `[durability.md]: durability.md`: that works wherever the file is read. Here the same reference means the module,
//! because the definitions below come first. `src/testing/tidy/links.rs` checks the links of the files themselves.

/// One module a page; `$links` are the definitions that every page sees before its own.
macro_rules! pages {
    ($links:literal $($page:ident)*) => {
        $(
            #[doc = $links]
            #[doc = include_str!(concat!(stringify!($page), ".md"))]
            pub mod $page {}
        )*
    };
}

pages! {
    "[architecture.md]: crate::docs::architecture
[benchmarks.md]: crate::docs::benchmarks
[compaction.md]: crate::docs::compaction
[configuration.md]: crate::docs::configuration
[durability.md]: crate::docs::durability
[groups.md]: crate::docs::groups
[log.md]: crate::docs::log
[metadata.md]: crate::docs::metadata
[operations.md]: crate::docs::operations
[performance.md]: crate::docs::performance
[shards.md]: crate::docs::shards
[simulation.md]: crate::docs::simulation
[testing.md]: crate::docs::testing
[transactions.md]: crate::docs::transactions
[tuning.md]: crate::docs::tuning
"
    architecture
    benchmarks
    compaction
    configuration
    durability
    groups
    log
    metadata
    operations
    performance
    shards
    simulation
    testing
    transactions
    tuning
}
