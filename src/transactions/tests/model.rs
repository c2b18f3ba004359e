//! Producers that produce, end, die and come back, with crashes of the coordinator at every point: between a record and
//! what was to follow it, and with records that never reached the log.

use super::bed::{Bed, TIMEOUT_MS, tp};
use crate::error_code::ErrorCode;
use crate::transactions::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug)]
enum Op {
    /// Producer `0.1` comes (back).
    Init(usize),
    Add(usize, i32),
    End(usize, bool),
    /// The partitions get their markers for one order, and the coordinator hears of it; or it does not.
    Markers(bool),
    /// The process dies.
    Crash,
    /// It dies while a step is on its way to the log.
    Lose(usize, bool),
    Pass(i64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        2 => (0usize..3).prop_map(Op::Init),
        8 => (0usize..3, 0i32..3).prop_map(|(who, index)| Op::Add(who, index)),
        6 => (0usize..3, any::<bool>()).prop_map(|(who, commit)| Op::End(who, commit)),
        6 => any::<bool>().prop_map(Op::Markers),
        1 => Just(Op::Crash),
        1 => (0usize..3, any::<bool>()).prop_map(|(who, commit)| Op::Lose(who, commit)),
        1 => (0i64..2 * i64::from(TIMEOUT_MS)).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..80)
}

/// What a partition knows: which transactions are open in it, and how those before ended.
#[derive(Default)]
struct Partitions {
    /// By producer and partition: the number of the transaction, and the epoch.
    open: BTreeMap<(i64, i32), (u64, i16)>,
    /// By transaction: how it ended, in which partitions.
    ended: BTreeMap<u64, BTreeMap<i32, bool>>,
}

struct World {
    bed: Bed,
    /// As which each client produces, and under which id; two share one id: they fence each other.
    clients: [Option<Producer>; 3],
    partitions: Partitions,
    /// By producer id and epoch, the number of its transaction.
    numbers: BTreeMap<(i64, i16), u64>,
    /// What clients were told, by transaction.
    told: BTreeMap<u64, bool>,
    v2: bool,
}

const IDS: [&str; 3] = ["a", "a", "b"];

impl World {
    fn write_markers(&mut self, order: &Order) {
        for (_, index) in &order.partitions {
            let key = (order.producer.id.0, *index);
            let open = self.partitions.open.get(&key).copied();
            let Some((number, epoch)) = open.filter(|(_, epoch)| *epoch <= order.producer.epoch.0) else { continue };
            assert!(epoch <= order.producer.epoch.0);
            self.partitions.open.remove(&key);
            let before = self.partitions.ended.entry(number).or_default().insert(*index, order.commit);
            assert_eq!(before, None, "a transaction ends once in a partition");
        }
    }

    fn op(&mut self, op: &Op, step: u64) {
        match op {
            Op::Init(who) => {
                if let Some(Ok(producer)) = self.bed.init(IDS[*who], None) {
                    self.clients[*who] = Some(producer);
                }
            }
            Op::Add(who, index) => {
                let Some(producer) = self.clients[*who] else { return };
                if self.bed.add(IDS[*who], producer, tp("t", *index), self.v2) != Some(ErrorCode::None) {
                    return;
                }
                let key = (producer.id.0, producer.epoch.0);
                let number = *self.numbers.entry(key).or_insert(step);
                let open = self.partitions.open.entry((producer.id.0, *index)).or_insert((number, producer.epoch.0));
                assert_eq!(*open, (number, producer.epoch.0), "the transaction before is still open here");
            }
            Op::End(who, commit) => {
                let Some(producer) = self.clients[*who] else { return };
                let Some(Ok(next)) = self.bed.end(IDS[*who], producer, *commit, self.v2) else { return };
                let key = (producer.id.0, producer.epoch.0);
                if let Some(number) = self.numbers.remove(&key) {
                    assert_eq!(self.told.insert(number, *commit).unwrap_or(*commit), *commit);
                }
                self.clients[*who] = Some(next);
            }
            Op::Markers(heard) => {
                if self.bed.orders.is_empty() {
                    return;
                }
                let order = self.bed.orders[0].clone();
                self.write_markers(&order);
                if *heard {
                    self.bed.write_markers();
                }
            }
            Op::Crash => self.bed.crash(),
            Op::Lose(who, commit) => {
                self.lose_a_step(*who, *commit);
                self.bed.crash();
            }
            Op::Pass(ms) => self.bed.pass(*ms),
        }
    }

    /// A step that never reached the log, and of which nothing got out.
    fn lose_a_step(&mut self, who: usize, commit: bool) {
        let batches = self.bed.log.len();
        if let Some(producer) = self.clients[who] {
            let _ = self.bed.end(IDS[who], producer, commit, self.v2);
            let _ = self.bed.init(IDS[who], None);
        }
        self.bed.log.truncate(batches);
    }

    /// What is in memory is what the log says.
    fn check_log(&mut self) {
        let loaded = format!("{:?}", states(&mut self.bed.loaded(), self.bed.now));
        assert_eq!(loaded, format!("{:?}", states(&mut self.bed.coordinator, self.bed.now)));
    }

    /// Everything that was begun ends, and every transaction ended in one way everywhere, as its client was told.
    fn settle(&mut self) {
        self.bed.crash();
        self.bed.pass(2 * i64::from(TIMEOUT_MS));
        while let Some(order) = self.bed.orders.first().cloned() {
            self.write_markers(&order);
            self.bed.write_markers();
        }
        assert_eq!(self.partitions.open, BTreeMap::new(), "no transaction hangs");
        for (number, partitions) in &self.partitions.ended {
            let ways: BTreeSet<bool> = partitions.values().copied().collect();
            assert_eq!(ways.len(), 1, "transaction {number} is torn: {partitions:?}");
            if let Some(told) = self.told.get(number) {
                assert!(ways.contains(told), "transaction {number} ended {ways:?}, its client was told {told}");
            }
        }
    }
}

fn states(coordinator: &mut Coordinator, now: Now) -> Vec<Response> {
    let mut effects = Effects::default();
    for id in ["a", "b"] {
        let request = Request::Describe(Arc::from(id));
        coordinator.step(now, Event::Request { token: Token(0), request }, &mut effects);
    }
    effects.answers.into_iter().map(|(_, answer)| answer).collect()
}

/// 400, or as many as the environment asks for.
fn cases() -> u32 {
    let asked = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(400)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), ..ProptestConfig::default() })]

    #[test]
    fn no_transaction_is_torn_or_hangs(ops in ops(), v2 in any::<bool>()) {
        let mut world = World {
            bed: Bed::new(),
            clients: [None; 3],
            partitions: Partitions::default(),
            numbers: BTreeMap::new(),
            told: BTreeMap::new(),
            v2,
        };
        for (op, step) in ops.iter().zip(1..) {
            world.op(op, step);
            world.check_log();
        }
        world.settle();
    }
}
