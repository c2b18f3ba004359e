//! What is joined is committed together or not at all.

use super::harness::*;
use crate::ids::PartitionId;
use coreline_io::sim::{CrashKind, DiskOp};
use std::collections::BTreeSet;
use std::time::Duration;

/// Numbers from here on are of records that nothing is joined to.
const ALONE: u64 = 1_000;

/// Appends a record of each number to each of the partitions; nobody waits for it.
fn append_joined(store: &Store, partitions: &[PartitionId], number: u64, size: usize) -> bool {
    let bytes = partitions.len() * (size + 100);
    let can = store.can_join(partitions, bytes);
    if can {
        partitions.iter().for_each(|id| drop(store.append(*id, batch_of(&[number], size), LOCAL)));
        store.join(partitions, bytes);
    }
    can
}

/// The numbers of joined records in a partition.
async fn joined_in(store: &Store, n: u32) -> BTreeSet<u64> {
    let all = read_all(store, id(n), 0, 20_000).await;
    all.into_iter().map(|(_, number)| number).filter(|number| *number < ALONE).collect()
}

#[test]
fn a_joined_append_is_one_group() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 3, 0).await;
        for n in 0..3 {
            store.append(id(n), batch_of(&[0], 10), LOCAL).await.expect("appended");
        }
        let before = store.stats().groups;
        assert!(append_joined(&store, &[id(0), id(1)], 1, 10));
        assert!(append_joined(&store, &[id(2), id(1)], 2, 10));
        store.append(id(0), batch_of(&[3], 10), LOCAL).await.expect("appended");
        assert_eq!(store.stats().groups - before, 1);
        assert!(!store.can_join(&[id(0), id(7)], 100), "a partition that is not here");
        assert!(!store.can_join(&[id(0)], 24 << 10), "more than goes through the journal");
        let large = store.append(id(1), batch_of(&[4], 26 << 10), LOCAL);
        assert!(!store.can_join(&[id(0), id(1)], 100), "more waits than a group takes");
        large.await.expect("appended");
    });
}

#[test]
fn what_is_joined_is_there_together_or_not_at_all() {
    let (mut there, mut refused, mut direct, mut large) = (0, 0, 0, 0);
    for seed in 0..200 {
        let (world, node) = world(seed);
        let fatals = Fatals::default();
        let rng = world.rng();
        world.block_on(async {
            let store = open(&node, &fatals, 3, 0).await;
            for n in 0..3 {
                store.load_end_offsets(id(n)).await.expect("loaded");
            }
            let mut asked = 0;
            for step in 0..5 + rng.below(55) {
                match rng.below(10) {
                    0 => {
                        let used: u64 = node.files().iter().map(|f| f.1).sum();
                        let full = rng.one_in(2);
                        node.set_disk_capacity(full.then(|| used + rng.below(20_000)));
                    }
                    1 => {
                        let size = [10, 2_000, 26_000][rng.index(3)];
                        let one = id(rng.below(3) as u32);
                        drop(store.append(one, batch_of(&[ALONE + step], size), LOCAL));
                        large += u64::from(size > 20_000);
                    }
                    2 => world.handle().sleep(Duration::from_micros(1 + rng.below(500))).await,
                    3 => world.handle().sleep(Duration::from_millis(1 + rng.below(20))).await,
                    _ => {
                        let with = id(1 + (step % 2) as u32);
                        asked += u64::from(append_joined(&store, &[id(0), with], step, 10 + rng.index(890)));
                    }
                }
            }
            direct += store.stats().direct_writes;
            drop(store);
            node.crash_by(if seed % 3 == 0 { CrashKind::Kill } else { CrashKind::PowerLoss });
            node.set_disk_capacity(None);
            node.restart();
            let store = open(&node, &fatals, 3, 0).await;
            let (all, odd, even) = (joined_in(&store, 0).await, joined_in(&store, 2).await, joined_in(&store, 1).await);
            assert_eq!(all, &odd | &even, "seed {seed}");
            there += all.len() as u64;
            refused += asked - all.len() as u64;
        });
        assert!(fatals.borrow().is_empty());
    }
    assert!(
        there > 1_000 && refused > 100 && direct > 50,
        "{there} there, {refused} refused or lost, {direct} direct of {large}"
    );
}

#[test]
fn what_joins_behind_a_group_that_is_refused_is_refused_with_it() {
    let (world, node) = world(1);
    let fatals = Fatals::default();
    world.block_on(async {
        let store = open(&node, &fatals, 2, 0).await;
        for n in 0..2 {
            store.append(id(n), batch_of(&[0], 10), LOCAL).await.expect("appended");
        }
        // A group of one partition is on its way to a disk that has no room for it.
        node.disk_faults(|faults| {
            faults.slow(DiskOp::Write, "journal", Duration::from_millis(10));
            faults.no_room(DiskOp::Write, "journal");
        });
        let before = node.disk_faults(|faults| faults.hits());
        let first = store.append(id(0), batch_of(&[ALONE], 10), LOCAL);
        while node.disk_faults(|faults| faults.hits()) == before {
            world.handle().sleep(Duration::from_micros(10)).await;
        }
        // What joins now waits behind it: the other partition's part must not come without the one in this partition.
        assert!(append_joined(&store, &[id(0), id(1)], 1, 10));
        node.disk_faults(|faults| faults.clear());
        first.await.expect_err("there is no room");
        store.append(id(1), batch_of(&[ALONE], 10), LOCAL).await.expect("there is room again");
        assert_eq!(
            (joined_in(&store, 0).await, joined_in(&store, 1).await),
            (BTreeSet::from([0]), BTreeSet::from([0]))
        );
        assert!(append_joined(&store, &[id(0), id(1)], 2, 10), "and what joins next is taken");
        store.append(id(0), batch_of(&[ALONE + 1], 10), LOCAL).await.expect("appended");
        assert_eq!(joined_in(&store, 0).await, BTreeSet::from([0, 2]));
        assert_eq!(joined_in(&store, 1).await, BTreeSet::from([0, 2]));
    });
    assert!(fatals.borrow().is_empty());
}
