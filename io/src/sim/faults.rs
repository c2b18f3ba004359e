//! What goes wrong with a simulated disk, and when.

use std::path::Path;
use std::time::Duration;

/// The disk operations that faults tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskOp {
    /// Opening and creating.
    Open,
    /// Reading a range or a whole file.
    Read,
    /// Writing and truncating.
    Write,
    /// `sync_data`, `sync_dir`, and the syncs inside `write_file_atomic`.
    Sync,
    /// Listing, renaming, removing, making directories.
    Meta,
}

#[derive(Clone, Copy, Debug)]
enum Effect {
    Fail,
    Full,
    Slow(Duration),
    Stuck,
}

#[derive(Debug)]
struct Rule {
    op: DiskOp,
    /// The path must contain this.
    path: String,
    effect: Effect,
    /// Operations that pass before the rule takes hold.
    skip: u64,
    /// Operations it takes hold of; `None` is all.
    times: Option<u64>,
}

/// The faults of one node's disk: rules by operation and by a part of the path (`""` is every path).
#[derive(Debug, Default)]
pub struct DiskFaults {
    rules: Vec<Rule>,
    capacity: Option<u64>,
    hits: u64,
}

/// What the rules say of one operation.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) fail: bool,
    pub(super) full: bool,
    pub(super) stuck: bool,
    pub(super) extra: Duration,
}

impl DiskFaults {
    fn add(&mut self, op: DiskOp, path: &str, effect: Effect, skip: u64, times: Option<u64>) {
        self.rules.push(Rule { op, path: path.to_owned(), effect, skip, times });
    }

    /// The next such operation fails with EIO.
    pub fn fail_next(&mut self, op: DiskOp, path: &str) {
        self.add(op, path, Effect::Fail, 0, Some(1));
    }

    /// After `passing` more such operations one fails with EIO.
    pub fn fail_after(&mut self, op: DiskOp, path: &str, passing: u64) {
        self.add(op, path, Effect::Fail, passing, Some(1));
    }

    /// Every such operation fails with EIO.
    pub fn fail_every(&mut self, op: DiskOp, path: &str) {
        self.add(op, path, Effect::Fail, 0, None);
    }

    /// Every such operation fails with ENOSPC, and nothing of it happens: the disk is full just there.
    pub fn no_room(&mut self, op: DiskOp, path: &str) {
        self.add(op, path, Effect::Full, 0, None);
    }

    /// The same, for all but the first `passing`.
    pub fn no_room_after(&mut self, op: DiskOp, path: &str, passing: u64) {
        self.add(op, path, Effect::Full, passing, None);
    }

    /// Every such operation takes `extra` longer.
    pub fn slow(&mut self, op: DiskOp, path: &str, extra: Duration) {
        self.add(op, path, Effect::Slow(extra), 0, None);
    }

    /// Every such operation hangs, until [`DiskFaults::clear`].
    pub fn stuck(&mut self, op: DiskOp, path: &str) {
        self.add(op, path, Effect::Stuck, 0, None);
    }

    /// The device holds `bytes`: a write that would grow the files beyond fails with ENOSPC. `None`: no limit.
    pub fn set_capacity(&mut self, bytes: Option<u64>) {
        self.capacity = bytes;
    }

    /// Takes all rules back (not the capacity); what hangs goes on.
    pub fn clear(&mut self) {
        self.rules.clear();
    }

    /// How many operations a rule took hold of.
    #[must_use]
    pub fn hits(&self) -> u64 {
        self.hits
    }

    pub(super) fn capacity(&self) -> Option<u64> {
        self.capacity
    }

    pub(super) fn has_stuck(&self) -> bool {
        self.rules.iter().any(|r| matches!(r.effect, Effect::Stuck))
    }

    pub(super) fn judge(&mut self, op: DiskOp, path: &Path) -> Verdict {
        let mut verdict = Verdict::default();
        if self.rules.is_empty() {
            return verdict;
        }
        let path = path.to_string_lossy();
        for rule in self.rules.iter_mut().filter(|r| r.op == op && path.contains(&r.path)) {
            if rule.skip > 0 {
                rule.skip -= 1;
                continue;
            }
            match &mut rule.times {
                Some(0) => continue,
                Some(times) => *times -= 1,
                None => {}
            }
            self.hits += 1;
            match rule.effect {
                Effect::Fail => verdict.fail = true,
                Effect::Full => verdict.full = true,
                Effect::Stuck => verdict.stuck = true,
                Effect::Slow(extra) => verdict.extra += extra,
            }
        }
        self.rules.retain(|r| r.times != Some(0));
        verdict
    }
}
