//! Log compaction, pure: which partition, which segments, which records stay.
//!
//! A cleaning reads the dirty part of a log (what came since the last cleaning, without the active segment) into an
//! [`OffsetMap`], then copies all segments up to there, without the records that have a later one with the same key:
//!
//! ```text
//!  clean (one record a key)      dirty: read into the map     uncleanable: active, too young, not stable
//! ├──────────────────────────┼──────────────────────────────┼──────────────────────────────
//! log start              first dirty                  first uncleanable               log end
//! └──────────── copied, in groups of segments ──────────────┘
//! ```
//!
//! If the map is full before the dirty part ends, the rest is for the next cleaning: the map covers a prefix, and what
//! lies behind it is copied as it is. Offsets never change, and a batch keeps its base offset, last offset, producer,
//! epoch and sequence, so what is known of a producer by its batches is the same after a cleaning.
//!
//! | file | concept |
//! | --- | --- |
//! | `plan` | dirty ratio, cleanable range, which partition next, groups of segments |
//! | `offset_map` | key → last offset, in fixed memory |
//! | `filter` | one batch: which records stay, the batch rewritten |
//! | `transactions` | which batches are aborted, which markers may go |
//! | `swap` | the file that says which segments are being replaced |

mod filter;
mod offset_map;
mod plan;
mod swap;
mod transactions;

pub use filter::{BatchCleaner, Cleaned, Counts, KeyReader, KeyStep, LastRecord, Retention, Step};
pub use offset_map::{ENTRY_BYTES, OffsetMap};
pub use plan::{Assessment, CleaningRules, LogView, SegmentView, assess, choose, group};
pub use swap::Swap;
pub use transactions::Transactions;

#[cfg(test)]
mod tests;
