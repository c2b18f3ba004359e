//! What all tasks of one run share: the client's machine, the oracle, the randomness, the trace.

use crate::oracle::{Oracle, PartitionNumber, Verdict};
use crate::scenario::Scenario;
use coreline_io::Clock;
use coreline_io::sim::{SimHandle, SimRng, SimRuntime};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::rc::Rc;

/// Ends the run: a law was broken. `main` adds the seed and how to replay it.
pub(crate) fn fail(what: impl std::fmt::Display) -> ! {
    panic!("BROKEN: {what}")
}

/// What a run shares. Belongs to no node.
pub(crate) struct World {
    pub(crate) handle: SimHandle,
    pub(crate) client: SimRuntime,
    pub(crate) broker_address: SocketAddr,
    pub(crate) scenario: Scenario,
    pub(crate) oracle: RefCell<Oracle>,
    /// The faults are over: finish what is begun.
    pub(crate) finishing: Cell<bool>,
    /// Only this partition has a sick disk, since so many checks were made.
    pub(crate) only_sick: Cell<Option<(PartitionNumber, u64)>>,
    /// How far the broker's wall clock is ahead of the clients', in milliseconds: now, and at most so far.
    clock_ahead: Cell<(i64, i64)>,
    producer_ids: RefCell<BTreeSet<i64>>,
    cluster_id: RefCell<Option<String>>,
    tasks: RefCell<BTreeMap<String, String>>,
    trace: bool,
    rng: SimRng,
}

impl World {
    pub(crate) fn new(
        handle: SimHandle,
        client: SimRuntime,
        broker_address: SocketAddr,
        scenario: Scenario,
        rng: SimRng,
        trace: bool,
    ) -> Rc<Self> {
        Rc::new(Self {
            handle,
            client,
            broker_address,
            scenario,
            oracle: RefCell::default(),
            finishing: Cell::new(false),
            only_sick: Cell::default(),
            clock_ahead: Cell::default(),
            producer_ids: RefCell::default(),
            cluster_id: RefCell::default(),
            tasks: RefCell::default(),
            trace,
            rng,
        })
    }

    /// Randomness for one task.
    pub(crate) fn rng(&self) -> SimRng {
        self.rng.fork()
    }

    /// A line of the trace, where one was asked for.
    pub(crate) fn trace(&self, line: impl FnOnce() -> String) {
        if self.trace {
            println!("{:>12.6}  {}", self.handle.now().nanos as f64 / 1e9, line());
        }
    }

    /// What `task` is doing: told if the run gets stuck.
    pub(crate) fn doing(&self, task: &str, what: impl Into<String>) {
        self.tasks.borrow_mut().insert(task.to_owned(), what.into());
    }

    /// The task is done.
    pub(crate) fn done(&self, task: &str) {
        self.trace(|| format!("{task} is done"));
        self.tasks.borrow_mut().remove(task);
    }

    /// All that are not done.
    pub(crate) fn unfinished(&self) -> Vec<String> {
        self.tasks.borrow().iter().map(|(task, what)| format!("{task}: {what}")).collect()
    }

    /// The broker's wall clock jumps.
    pub(crate) fn clock_jumps(&self, by_ms: i64) {
        let (now, most) = self.clock_ahead.get();
        self.clock_ahead.set((now + by_ms, most.max(now + by_ms)));
    }

    /// The largest time that the broker's wall clock can have shown so far.
    pub(crate) fn broker_ms_max(&self) -> i64 {
        self.client.wall_ms() + self.clock_ahead.get().1
    }

    /// A partition said that its disk failed, to a request that was sent when `asked_at` checks were made.
    pub(crate) fn storage_error(&self, partition: PartitionNumber, asked_at: u64) {
        let Some((sick, _)) = self.only_sick.get().filter(|(_, since)| *since < asked_at) else { return };
        let oracle = self.oracle.borrow();
        // Others of its name have its directory, too.
        let (name, sick) = (oracle.name(partition), oracle.name(sick));
        if name != sick {
            fail(format!("{name} says its disk failed, and only {sick}'s did"));
        }
    }

    /// A producer got this id: nobody else ever does.
    pub(crate) fn producer_id(&self, id: i64) {
        if !self.producer_ids.borrow_mut().insert(id) {
            fail(format!("producer id {id} was given twice"));
        }
    }

    /// The cluster says that it has this id: always the same.
    pub(crate) fn cluster_id(&self, id: &str) {
        let mut known = self.cluster_id.borrow_mut();
        let known = known.get_or_insert_with(|| id.to_owned());
        if known != id {
            fail(format!("cluster {known} is cluster {id} now"));
        }
    }

    /// Ends the run if the oracle says so.
    pub(crate) fn check(&self, verdict: Verdict) {
        if let Err(what) = verdict {
            fail(what);
        }
    }
}
