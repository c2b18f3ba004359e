//! A machine of the simulated world: one process, one disk, one address.

use super::core::Core;
use super::disk::DiskState;
use super::faults::DiskFaults;
use super::rng::SimRng;
use super::runtime::SimRuntime;
use super::{CrashKind, NodeExit};
use std::cell::{Cell, RefCell};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// What the world knows of a node.
pub(super) struct NodeState {
    pub(super) index: usize,
    pub(super) name: String,
    /// Counts the processes that ran here: a handle of an earlier one is dead.
    incarnation: Cell<u64>,
    up: Cell<bool>,
    pub(super) wall_offset_ms: Cell<i64>,
    pub(super) rng: SimRng,
    pub(super) disk: DiskState,
    exit: RefCell<Option<NodeExit>>,
}

impl NodeState {
    pub(super) fn new(index: usize, name: &str, rng: SimRng) -> Self {
        Self {
            index,
            name: name.to_owned(),
            incarnation: Cell::new(1),
            up: Cell::new(true),
            wall_offset_ms: Cell::new(0),
            disk: DiskState::new(rng.fork()),
            rng,
            exit: RefCell::default(),
        }
    }

    pub(super) fn ip(&self) -> IpAddr {
        let number = self.index as u32 + 1;
        IpAddr::V4(Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 0)) + number))
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.get()
    }

    pub(super) fn is_alive(&self, incarnation: u64) -> bool {
        self.up.get() && self.incarnation.get() == incarnation
    }

    pub(super) fn mark_down(&self) {
        self.up.set(false);
    }

    pub(super) fn crash(&self, core: &Rc<Core>, kind: CrashKind) {
        if !self.up.get() {
            return;
        }
        core.trace(10, self.index as u64);
        // First of all: what the drops below ask of the world must find the process dead.
        self.mark_down();
        core.drop_tasks(self.index);
        core.net.crash(core, self.index);
        self.disk.crash(kind);
    }

    pub(super) fn exit(&self, core: &Rc<Core>, exit: NodeExit) {
        self.exit.replace(Some(exit));
        self.crash(core, CrashKind::Kill);
    }
}

/// A node of the world: a handle, cheap to clone.
#[derive(Clone)]
pub struct SimNode {
    pub(super) core: Rc<Core>,
    pub(super) state: Rc<NodeState>,
}

impl std::fmt::Debug for SimNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimNode({})", self.state.name)
    }
}

impl SimNode {
    /// A directory that is there, durably, on every node: where data goes.
    pub const DATA_DIR: &'static str = "/data";

    /// The node's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// The node's address, 10.0.0.n.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.state.ip()
    }

    /// A handle for the process that runs now. The node must be up.
    #[must_use]
    pub fn runtime(&self) -> SimRuntime {
        assert!(self.is_up(), "node {} is down: restart it first", self.state.name);
        SimRuntime { core: self.core.clone(), node: self.state.clone(), incarnation: self.state.incarnation.get() }
    }

    /// Whether a process runs here.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state.is_up()
    }

    /// Ends the process as [`super::SimOptions::crash`] says. Does nothing if it is down.
    ///
    /// Every task of the node is dropped (one that calls this: as soon as it returns from its poll), connections are
    /// reset, listeners and locks are gone. A `JoinHandle` of such a task never resolves.
    pub fn crash(&self) {
        self.state.crash(&self.core, self.core.options.crash);
    }

    /// Ends the process in the given way.
    pub fn crash_by(&self, kind: CrashKind) {
        self.state.crash(&self.core, kind);
    }

    /// Brings the node up again, with an empty process: take a new [`SimNode::runtime`].
    pub fn restart(&self) {
        assert!(!self.is_up(), "node {} is up: crash it first", self.state.name);
        self.state.incarnation.set(self.state.incarnation.get() + 1);
        self.state.up.set(true);
        self.state.exit.replace(None);
    }

    /// How the process ended itself by [`super::exit_node`], if it did since the last restart.
    #[must_use]
    pub fn exited(&self) -> Option<NodeExit> {
        self.state.exit.borrow().clone()
    }

    /// Sets how far the node's wall clock is from the world's, in milliseconds. The monotonic clock has no offset.
    pub fn set_clock_offset_ms(&self, offset_ms: i64) {
        self.state.wall_offset_ms.set(offset_ms);
    }

    /// Moves the node's wall clock by `by_ms`, backwards if negative.
    pub fn jump_clock_ms(&self, by_ms: i64) {
        self.state.wall_offset_ms.set(self.state.wall_offset_ms.get() + by_ms);
    }

    /// Changes what goes wrong with the node's disk. Faults stay over crashes and restarts.
    pub fn disk_faults<T>(&self, change: impl FnOnce(&mut DiskFaults) -> T) -> T {
        self.state.disk.change_faults(&self.core, change)
    }

    /// The device holds `bytes`; `None` is as much as anybody wants.
    pub fn set_disk_capacity(&self, bytes: Option<u64>) {
        self.disk_faults(|f| f.set_capacity(bytes));
    }

    /// Flips one bit, chosen by the seed, in the stored bytes of a range of a file: silent corruption. False if
    /// there is no such file or no byte of it in the range.
    pub fn flip_bit(&self, path: impl AsRef<Path>, range: Range<u64>) -> bool {
        self.state.disk.flip_bit(path.as_ref(), range)
    }

    /// Every file of the disk and its length, by path: the view of whoever looks at the machine from outside.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.state.disk.files()
    }

    /// A file's contents as a process would read them now.
    #[must_use]
    pub fn file_contents(&self, path: impl AsRef<Path>) -> Option<Vec<u8>> {
        self.state.disk.contents(path.as_ref())
    }

    /// Puts a file in place, durably, with its directories.
    pub fn put_file(&self, path: impl AsRef<Path>, contents: &[u8]) {
        self.state.disk.put(&self.core, path.as_ref(), contents);
    }

    /// Takes a file or a directory tree away, durably. False if there is none.
    pub fn remove_path(&self, path: impl AsRef<Path>) -> bool {
        self.state.disk.remove(path.as_ref())
    }
}
