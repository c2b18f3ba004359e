//! What goes wrong, one thing after another.

use crate::broker::Host;
use crate::scenario::Fault;
use crate::world::World;
use coreline::broker::fatal::ExitReason;
use coreline_io::sim::{DiskOp, SimNode, SimRng};
use std::rc::Rc;
use std::time::Duration;

/// A process that a failed disk ends: the documented codes.
const DISK_EXITS: [ExitReason; 6] = [
    ExitReason::JournalFailed,
    ExitReason::SegmentFailed,
    ExitReason::DirectoryFailed,
    ExitReason::MetadataFailed,
    ExitReason::DataDirectory,
    ExitReason::Damaged,
];

pub(crate) struct Nemesis {
    pub(crate) world: Rc<World>,
    pub(crate) host: Host,
    pub(crate) client: SimNode,
    pub(crate) rng: SimRng,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

impl Nemesis {
    /// All faults of the scenario; afterwards the broker serves and nothing is wrong.
    pub(crate) async fn run(&mut self) {
        for (after, fault) in self.world.scenario.faults.clone() {
            self.host.pass(after).await;
            self.world.trace(|| format!("fault: {fault:?}"));
            self.one(fault).await;
        }
        self.host.pass(self.world.scenario.quiet_after).await;
        self.host.wait_until_ready().await;
    }

    async fn one(&mut self, fault: Fault) {
        match fault {
            Fault::Crash { power, again, slow } => {
                if slow {
                    let extra = Duration::from_micros(self.rng.below(20_000));
                    self.host.node().disk_faults(|f| [DiskOp::Write, DiskOp::Sync].map(|op| f.slow(op, "", extra)));
                }
                for _ in 0..again {
                    let other = !self.world.scenario.written && self.rng.one_in(2);
                    self.crash(power != other).await;
                    // Even the move to other cores may not be finished.
                    if self.rng.one_in(4) {
                        self.host.shards = 1 + self.rng.below(4) as usize;
                    }
                    // Somewhere in its recovery.
                    self.host.start();
                    // Some clients are back by then, some are not.
                    let most = [2000, 10_000, 50_000, 150_000][self.rng.index(4)];
                    let micros = self.rng.below(most);
                    self.host.pass(Duration::from_micros(micros)).await;
                }
                self.crash(power).await;
                self.host.node().disk_faults(|f| f.clear());
                self.come_back().await;
            }
            Fault::Restart => {
                self.host.stop().await;
                self.come_back().await;
            }
            Fault::CrashWhileStopping { power } => {
                self.host.ask_to_stop();
                let micros = self.rng.below(3000);
                self.world.handle.sleep(Duration::from_micros(micros)).await;
                self.host.look();
                self.crash(power).await;
                self.come_back().await;
            }
            Fault::Partition { one_way } => self.partition(one_way).await,
            Fault::SlowDisk { files } => {
                let extra = Duration::from_micros(200 + self.rng.below(20_000));
                self.host
                    .node()
                    .disk_faults(|f| [DiskOp::Read, DiskOp::Write, DiskOp::Sync].map(|op| f.slow(op, files, extra)));
                self.host.pass(ms(20 + self.rng.below(300))).await;
                self.host.node().disk_faults(|f| f.clear());
            }
            Fault::FullDisk => self.full_disk().await,
            Fault::AlmostFullDisk => self.almost_full_disk().await,
            Fault::FailingDisk { write, files } => self.failing_disk(write, files).await,
            Fault::SickPartition => self.sick_partition().await,
            Fault::FailingReads { all } => self.failing_reads(all).await,
            Fault::ClockJump => {
                let by = self.rng.below(120_000) as i64 - 60_000;
                self.host.node().jump_clock_ms(by);
                self.world.clock_jumps(by);
            }
        }
    }

    async fn crash(&mut self, power: bool) {
        let down = ms(self.rng.below(60));
        self.host.crash(power, down).await;
    }

    /// Starts the broker, sometimes on other cores than before.
    async fn come_back(&mut self) {
        if self.rng.one_in(3) {
            self.host.shards = 1 + self.rng.below(4) as usize;
        }
        self.host.start();
        self.host.wait_until_ready().await;
    }

    async fn partition(&mut self, one_way: bool) {
        let (broker, client) = (self.host.node().clone(), self.client.clone());
        match (one_way, self.rng.one_in(2)) {
            (false, _) => self.world.handle.partition(&broker, &client),
            (true, true) => self.world.handle.partition_one_way(&broker, &client),
            (true, false) => self.world.handle.partition_one_way(&client, &broker),
        }
        let lasts = if self.rng.one_in(4) { 6000 } else { 200 };
        self.host.pass(ms(1 + self.rng.below(lasts))).await;
        self.world.handle.heal(&broker, &client);
    }

    async fn full_disk(&mut self) {
        let used: u64 = self.host.node().files().iter().map(|(_, len)| *len).sum();
        self.host.node().set_disk_capacity(Some(used + self.rng.below(100_000)));
        self.host.may_exit_with = DISK_EXITS.to_vec();
        self.host.pass(ms(20 + self.rng.below(300))).await;
        if self.rng.one_in(3) {
            let power = !self.world.scenario.written && self.rng.one_in(2);
            self.crash(power).await;
            self.host.pass(ms(50)).await;
        }
        self.host.node().set_disk_capacity(None);
        self.host.pass(ms(1)).await;
        self.host.look();
        self.host.may_exit_with.clear();
    }

    async fn almost_full_disk(&mut self) {
        let used = |host: &Host| host.node().files().iter().map(|(_, len)| *len).sum::<u64>();
        self.host.may_exit_with = DISK_EXITS.to_vec();
        for _ in 0..1 + self.rng.below(8) {
            let left = self.rng.below(5000);
            self.host.node().set_disk_capacity(Some(used(&self.host) + left));
            let millis = self.rng.below(30);
            self.host.pass(ms(millis)).await;
        }
        self.host.node().set_disk_capacity(None);
        self.host.pass(ms(1)).await;
        self.host.look();
        self.host.may_exit_with.clear();
    }

    /// Only who must read the last block of a segment to write on may be ended by that.
    async fn sick_partition(&mut self) {
        let partitions = self.world.oracle.borrow().partitions();
        if partitions == 0 {
            return;
        }
        let sick = self.rng.below(u64::from(partitions)) as u32;
        let name = self.world.oracle.borrow().name(sick).to_owned();
        self.world.trace(|| format!("{name} cannot be read"));
        self.host.may_exit_with = vec![ExitReason::SegmentFailed];
        self.host.node().disk_faults(|f| f.fail_every(DiskOp::Read, &format!("/{name}/")));
        // After another fault of the disk what was refused may be refused once more.
        let first = !self.world.scenario.faults.iter().any(|(_, fault)| fault.is_of_whole_disk());
        let alone = first && self.host.is_ready();
        self.world.only_sick.set(alone.then_some((sick, self.world.oracle.borrow().checks())));
        let until = self.world.handle.now().plus(ms(10 + self.rng.below(200)));
        while self.world.handle.now() < until {
            self.host.look();
            if !self.host.is_ready() {
                // Who begins anew may be slow to answer, and must read more.
                self.world.only_sick.set(None);
            }
            self.host.pass(ms(1)).await;
        }
        self.world.only_sick.set(None);
        self.host.node().disk_faults(|f| f.clear());
        self.host.pass(ms(20)).await;
        self.host.may_exit_with.clear();
    }

    /// Such a disk ends a process that starts, or that must read the last block of a segment to write on.
    async fn failing_reads(&mut self, all: bool) {
        let skip = self.rng.below(20);
        self.host.may_exit_with = vec![ExitReason::SegmentFailed];
        self.host.may_not_start = DISK_EXITS.to_vec();
        self.host
            .node()
            .disk_faults(|f| if all { f.fail_every(DiskOp::Read, "") } else { f.fail_after(DiskOp::Read, "", skip) });
        let millis = self.rng.below(100);
        self.host.pass(ms(millis)).await;
        self.host.node().disk_faults(|f| f.clear());
        self.host.pass(ms(20)).await;
        self.host.may_exit_with.clear();
        self.host.may_not_start.clear();
    }

    async fn failing_disk(&mut self, write: bool, files: &str) {
        let op = if write { DiskOp::Write } else { DiskOp::Sync };
        let skip = self.rng.below(20);
        self.host.may_exit_with = DISK_EXITS.to_vec();
        self.host.node().disk_faults(|f| f.fail_after(op, files, skip));
        self.host.pass(ms(100)).await;
        self.host.node().disk_faults(|f| f.clear());
        // After a failed flush what it covered is in doubt: the machine dies too, now and then.
        if !self.world.scenario.written && self.rng.one_in(2) {
            self.crash(true).await;
        }
        self.host.pass(ms(20)).await;
        self.host.may_exit_with.clear();
    }
}
