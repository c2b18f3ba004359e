//! One run: a world from a seed, to the end or to the first broken law.

use crate::admin;
use crate::auditor;
use crate::book::Book;
use crate::broker::{Host, PORT};
use crate::committed;
use crate::consumer::{Consumer, Until};
use crate::groups;
use crate::mover;
use crate::nemesis::Nemesis;
use crate::producer::Producer;
use crate::scenario::{Bias, Scenario};
use crate::transactions;
use crate::world::{World, fail};
use coreline_io::sim::{SimHandle, SimOptions, SimRng, SimWorld};
use coreline_io::{TaskGroup, Tasks};
use std::cell::RefCell;
use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Virtual time after the last fault in which everybody must be done: a request that a partition swallowed times out
/// after 3 s, an address through it after 5 s.
const FINISH_MAX: Duration = Duration::from_secs(60);

/// What happened in a run, or in many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    runs: u64,
    records: u64,
    transactions: u64,
    checks: u64,
    polls: u64,
    virtual_ms: u64,
    trace_hash: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.records += other.records;
        self.transactions += other.transactions;
        self.checks += other.checks;
        self.polls += other.polls;
        self.virtual_ms += other.virtual_ms;
        self.trace_hash ^= other.trace_hash;
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { runs, records, transactions, checks, polls, virtual_ms, .. } = self;
        let seconds = virtual_ms / 1000;
        write!(f, "{runs} runs: {records} records, {transactions} transactions, ")?;
        write!(f, "{checks} checks, {polls} polls, {seconds} s of virtual time")
    }
}

pub(crate) fn scenario(seed: u64) -> Scenario {
    Scenario::new(&SimRng::new(seed), bias())
}

/// `CORELINE_BIAS`: the same faults for all seeds.
fn bias() -> Option<Bias> {
    let name = std::env::var("CORELINE_BIAS").ok()?;
    let known = [("none", Bias::None), ("recovery", Bias::Recovery), ("disk", Bias::Disk)];
    let found = known.iter().find(|(n, _)| *n == name).map(|(_, bias)| *bias);
    Some(found.unwrap_or_else(|| panic!("CORELINE_BIAS={name}: expected none, recovery or disk")))
}

pub(crate) fn run(seed: u64, trace: bool) -> Summary {
    let scenario = scenario(seed);
    let options = SimOptions {
        net_delay: Duration::from_micros(30)..=Duration::from_micros(scenario.net_delay_us_max),
        // The process ends at the first failed flush; what other tasks had under way may still reach the disk.
        assert_no_write_after_failed_sync: false,
        ..SimOptions::default()
    };
    let sim = SimWorld::new(seed, options);
    let (broker, client) = (sim.node("broker"), sim.node("client"));
    let address = SocketAddr::new(broker.ip(), PORT);
    let world = World::new(sim.handle(), client.runtime(), address, scenario, sim.rng(), trace);
    let host = Host::new(&world, broker);
    let mut nemesis = Nemesis { world: world.clone(), host, client, rng: sim.rng() };
    let book: Rc<RefCell<Book>> = Rc::default();
    sim.block_on(play(&world, &book, &mut nemesis));
    let oracle = world.oracle.borrow();
    let (transactions, their_checks) = book.borrow().counts();
    Summary {
        runs: 1,
        records: oracle.records() as u64,
        transactions,
        checks: oracle.checks() + their_checks,
        polls: sim.steps(),
        virtual_ms: sim.now().nanos / 1_000_000,
        trace_hash: sim.trace_hash(),
    }
}

async fn play(world: &Rc<World>, book: &Rc<RefCell<Book>>, nemesis: &mut Nemesis) {
    for plan in &world.scenario.topics {
        world.oracle.borrow_mut().topics.intend(&plan.name, plan.intent());
    }
    if world.scenario.faults.iter().any(|(_, fault)| fault.is_of_whole_disk()) {
        world.oracle.borrow_mut().topics.cores_lag();
    }
    nemesis.host.start();
    let spawn = |task| drop(world.client.spawn(TaskGroup::Requests, "workload", task));
    let clients = {
        let (world, book) = (world.clone(), book.clone());
        async move {
            admin::make_topics(&world).await;
            let client = world.client.clone();
            let spawn = |task: futures_util::future::LocalBoxFuture<'static, ()>| {
                drop(client.spawn(TaskGroup::Requests, "workload", task));
            };
            for (number, plan) in world.scenario.producers.iter().enumerate() {
                spawn(Box::pin(Producer::new(&world, number as u32, *plan).run()));
            }
            for number in 0..world.scenario.consumers {
                let consumer = Consumer::new(&world, &format!("consumer-{number}"), Until::Finished);
                spawn(Box::pin(async move {
                    consumer.run().await;
                }));
            }
            groups::start(&world, world.scenario.group_members, spawn);
            world.doing("auditor", "starting");
            for plan in world.scenario.topics.iter().filter(|p| p.changes()) {
                spawn(Box::pin(admin::live(world.clone(), plan.clone())));
            }
            spawn(Box::pin(auditor::audit(world.clone())));
            transactions::start(&world, &book, spawn);
            if let Some(pause_us_max) = world.scenario.moves_us_max {
                world.doing("mover", "starting");
                spawn(Box::pin(mover::moves(world.clone(), pause_us_max)));
            }
        }
    };
    world.doing("admin", "starting");
    spawn(clients);
    nemesis.run().await;
    world.trace(|| "the faults are over".to_owned());
    world.finishing.set(true);
    finish(world, nemesis).await;
    if world.scenario.last_crash {
        nemesis.host.crash(!world.scenario.written, Duration::from_millis(1)).await;
        nemesis.host.start();
    } else {
        nemesis.host.stop().await;
        nemesis.host.start();
    }
    nemesis.host.wait_until_ready().await;
    let reader = Consumer::new(world, "last-reader", Until::End);
    let reading = world.client.spawn(TaskGroup::Requests, "last-reader", reader.run());
    let ends = within(&world.handle, FINISH_MAX, reading).await;
    let Some(ends) = ends else { fail(format!("stuck at the last reading: {:#?}", world.unfinished())) };
    let audit = world.client.spawn(TaskGroup::Requests, "last-audit", auditor::audit(world.clone()));
    if within(&world.handle, FINISH_MAX, audit).await.is_none() {
        fail("stuck at the last audit");
    }
    if !book.borrow().is_empty() {
        let reading = committed::last_reading(world.clone(), book.clone(), world.scenario.transactions.producers);
        let reading = world.client.spawn(TaskGroup::Requests, "last-log-reader", reading);
        if within(&world.handle, FINISH_MAX, reading).await.is_none() {
            fail("stuck at the last reading of transactions");
        }
    }
    for (partition, end) in ends {
        let verdict = world.oracle.borrow_mut().finish(partition, end);
        world.check(verdict);
    }
}

/// Until everybody is done.
async fn finish(world: &Rc<World>, nemesis: &mut Nemesis) {
    let begun = world.handle.now();
    while !world.unfinished().is_empty() {
        nemesis.host.pass(Duration::from_millis(5)).await;
        if world.handle.now().since(begun) > FINISH_MAX {
            fail(format!("stuck for {FINISH_MAX:?} after the last fault: {:#?}", world.unfinished()));
        }
    }
}

async fn within<T>(handle: &SimHandle, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    use futures_util::future::{Either, select};
    match select(std::pin::pin!(future), std::pin::pin!(handle.sleep(time))).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
