//! `recovery_max`: the journal is as long as a start within it allows.

use super::harness::*;
use crate::broker::store::*;
use coreline_io::Clock;
use std::time::Duration;

const FILES: usize = 8;
const FILE_BYTES: u64 = 128 << 10;

/// Appends, a block of the journal each, until the ring has gone round some times. Gives the most that a start would have read.
fn longest_journal(recovery_max: Duration) -> u64 {
    let (world, node) = world(41);
    let mut longest = 0;
    world.block_on(async {
        let mut options = dying_options(0, &Fatals::default());
        (options.journal_files, options.journal_file_bytes) = (FILES, FILE_BYTES);
        // Neither size nor memory asks for a flush.
        (options.flush_bytes, options.unflushed_bytes_max) = (1 << 20, 16 << 20);
        options.recovery_max = recovery_max;
        let store = LogStore::open(node.runtime(), options).await.expect("opens");
        for n in 0..2 {
            store.assign(spec(n, 0, small_config()));
        }
        store.assignments_complete();
        for n in 0..900 {
            store.append(id(n as u32 % 2), batch_of(&[n], 100), LOCAL).await.expect("acked");
            node.runtime().sleep(Duration::from_millis(1)).await;
            longest = longest.max(store.remains().journal_bytes);
        }
        for n in 0..2 {
            let found = read_all(&store, id(n), 0, 100_000).await;
            assert_eq!(found, (0..450).map(|i| (i, i as u64 * 2 + u64::from(n))).collect::<Vec<_>>());
        }
    });
    longest
}

#[test]
fn the_journal_is_as_long_as_a_start_may_take() {
    // 60 ms are the process's, and 256 KiB of journal 0.4 ms.
    let short = longest_journal(Duration::from_micros(60_460));
    let long = longest_journal(Duration::from_secs(1));
    assert!(short <= 256 * 1024 + 2 * FILE_BYTES, "{short} bytes");
    assert!(long > FILE_BYTES * (FILES as u64 - 3), "{long} bytes");
}
