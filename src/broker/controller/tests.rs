//! The driver on a simulated disk that tears and loses: what was answered is there after any crash, a full disk is
//! said, damage is named.

use super::*;
use crate::broker::fatal::ExitReason;
use crate::controller::commands::TopicRef;
use crate::controller::raft_log::replay;
use crate::controller::{NewTopic, TopicOutcome};
use coreline_io::sim::{CrashKind, DiskOp, SimNode, SimOptions, SimRng, SimRuntime, SimWorld, exit_node};
use coreline_io::{Clock, Tasks};
use futures_util::future::join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

const LOG: &str = "/data/__cluster_metadata-0/log-00000000000000000000";
const SNAPSHOT: &str = "/data/__cluster_metadata-0/snapshot";

fn config(more: &[(&str, &str)]) -> Arc<BrokerConfig> {
    let settings = [("log.dirs", SimNode::DATA_DIR)].iter().chain(more);
    Arc::new(BrokerConfig::from_settings(settings.map(|(k, v)| ((*k).into(), (*v).into()))).expect("valid"))
}

fn fatal() -> FatalHandler {
    Arc::new(|reason: ExitReason, message: &str| exit_node(i32::from(reason.code()), message))
}

async fn open(rt: SimRuntime, log_bytes_max: u64) -> Result<(Rc<Controller>, ControllerHandle), ControllerError> {
    let (controller, handle) = Controller::open_with(rt, config(&[]), fatal(), log_bytes_max).await?;
    // A topic needs a broker to be on, and a shard.
    if handle.image().brokers.is_empty() {
        let id = crate::ids::BrokerId(1);
        handle.submit(Command::RegisterBroker { id, host: "h".into(), port: 9 }).await.expect("registers");
        handle.submit(Command::ChangeShards { shards: 2 }).await.expect("places");
    }
    Ok((controller, handle))
}

/// Runs `task` as a task of the node and gives what it returns.
fn on_node<T: 'static>(world: &SimWorld, node: &SimNode, task: impl AsyncFnOnce(SimRuntime) -> T + 'static) -> T {
    let rt = node.runtime();
    let task = rt.clone().spawn(TaskGroup::Requests, "test", async move { task(rt).await });
    world.block_on(task)
}

fn create(name: &str) -> Command {
    let topic = NewTopic { name: name.into(), partitions: 3, replication_factor: 1, ..NewTopic::default() };
    Command::CreateTopics { topics: vec![topic], validate_only: false }
}

fn only(answer: Answer) -> Result<TopicOutcome, CommandError> {
    match answer? {
        Outcome::Topics(mut outcomes) => {
            let outcome = outcomes.pop().expect("one");
            outcome.result.clone().map(|_| outcome)
        }
        other => panic!("a topic's outcome, not {other:?}"),
    }
}

/// What a client knows of one topic: its id if it is there; `None` if it is not.
type Known = Option<TopicId>;

/// What clients were told, kept outside of the node.
#[derive(Default)]
struct Oracle {
    answered: BTreeMap<String, Known>,
    /// Sent and not answered: it may have happened or not.
    in_flight: BTreeSet<String>,
    /// Of a producer id block.
    blocks: Vec<i64>,
    answers: u64,
}

impl Oracle {
    /// Checks an image after a crash, and learns from it what became of what was not answered.
    fn check(&mut self, seed: u64, image: &ClusterImage) {
        for name in std::mem::take(&mut self.in_flight) {
            self.answered.insert(name.clone(), image.topic(&name).map(|t| t.id));
        }
        for (name, known) in &self.answered {
            let there = image.topic(name);
            assert_eq!(there.map(|t| t.id), *known, "seed {seed}: topic {name} is not what was answered");
            assert!(there.is_none_or(|t| t.partitions.len() == 3), "seed {seed}: topic {name} is half there");
        }
        assert_eq!(image.topic_count(), self.answered.values().flatten().count(), "seed {seed}: a topic nobody made");
        if let Some(last) = self.blocks.last() {
            assert!(image.next_producer_id > *last, "seed {seed}: a block of ids could be given out twice");
        }
    }
}

/// One client: one command after the other on topics of its own.
async fn client(number: usize, rng: SimRng, oracle: Rc<RefCell<Oracle>>, handle: ControllerHandle) {
    loop {
        if rng.one_in(6) {
            if let Ok(Outcome::ProducerIds(first)) = handle.submit(Command::AllocateProducerIds).await {
                let mut oracle = oracle.borrow_mut();
                assert!(!oracle.blocks.contains(&first), "a block of ids was given out twice");
                oracle.blocks.push(first);
                oracle.blocks.sort_unstable();
            }
            continue;
        }
        let name = format!("client-{number}-{}", rng.below(12));
        let there = oracle.borrow().answered.get(&name).copied().flatten();
        let command = match there {
            Some(id) => Command::DeleteTopics { topics: vec![TopicRef::Id(id)] },
            None => create(&name),
        };
        oracle.borrow_mut().in_flight.insert(name.clone());
        let outcome = only(handle.submit(command).await).expect("nothing stands against it");
        let mut oracle = oracle.borrow_mut();
        oracle.in_flight.remove(&name);
        oracle.answered.insert(name, there.is_none().then_some(outcome.id));
        oracle.answers += 1;
    }
}

/// Opens the node, checks what it holds, and starts clients; the node may crash at any moment of that.
fn start(rng: &SimRng, seed: u64, node: &SimNode, oracle: &Rc<RefCell<Oracle>>, opened: &Rc<Cell<bool>>) {
    let (rt, rng, oracle, opened) = (node.runtime(), rng.fork(), oracle.clone(), opened.clone());
    opened.set(false);
    rt.clone().spawn(TaskGroup::Requests, "open", async move {
        let (_controller, handle) = match open(rt.clone(), 64 << 10).await {
            Ok(opened) => opened,
            Err(e) => panic!("seed {seed}: its own disk does not open: {e}"),
        };
        oracle.borrow_mut().check(seed, &handle.image());
        opened.set(true);
        for number in 0..4 {
            let task = client(number, rng.fork(), oracle.clone(), handle.clone());
            rt.spawn(TaskGroup::Requests, "client", task);
        }
    });
}

fn survives(seed: u64, kind: CrashKind) -> (u64, bool) {
    let world = SimWorld::new(seed, SimOptions::default());
    let (node, rng) = (world.node("n"), world.rng());
    let oracle = Rc::new(RefCell::new(Oracle::default()));
    let opened = Rc::new(Cell::new(false));
    for _ in 0..8 {
        start(&rng, seed, &node, &oracle, &opened);
        // Some crashes come before it is open.
        world.run_for(Duration::from_micros(rng.below(60_000)));
        node.crash_by(kind);
        node.restart();
    }
    start(&rng, seed, &node, &oracle, &opened);
    for _ in 0..1000 {
        if opened.get() {
            break;
        }
        world.run_for(Duration::from_millis(1));
    }
    assert!(opened.get(), "seed {seed}: not open after a second");
    let answers = oracle.borrow().answers;
    (answers, node.file_contents(SNAPSHOT).is_some())
}

#[test]
fn what_was_answered_survives_any_crash() {
    let (mut answers, mut snapshots) = (0, 0);
    for seed in 0..100 {
        let kind = if seed % 3 == 0 { CrashKind::Kill } else { CrashKind::PowerLoss };
        let (more, snapshot) = survives(seed, kind);
        answers += more;
        snapshots += u64::from(snapshot);
    }
    assert!(answers > 2_000 && snapshots > 30, "the run is worth something: {answers} {snapshots}");
}

#[test]
fn commands_that_wait_are_committed_together() {
    let world = SimWorld::new(1, SimOptions::default());
    let node = world.node("n");
    let image = on_node(&world, &node, async |rt| {
        let (_controller, handle) = open(rt, LOG_BYTES_MAX).await.expect("opens");
        let all = (0..3000).map(|n| {
            let handle = handle.clone();
            async move { only(handle.submit(create(&format!("t{n}"))).await).expect("made") }
        });
        join_all(all).await;
        handle.image()
    });
    assert_eq!((image.topic_count(), image.shards), (3000, 2));
    let log = replay(&node.file_contents(LOG).expect("there").into()).expect("whole");
    assert!(log.next_sequence < 16, "{} groups", log.next_sequence);
}

#[test]
fn a_full_disk_is_said_and_changes_nothing() {
    let world = SimWorld::new(2, SimOptions::default());
    let node = world.node("n");
    let before = on_node(&world, &node, async |rt| {
        let (controller, handle) = open(rt, LOG_BYTES_MAX).await.expect("opens");
        only(handle.submit(create("before")).await).expect("made");
        controller.shutdown().await;
        handle.image().topic_count()
    });
    let used: u64 = node.files().iter().map(|(_, len)| len.next_multiple_of(4096)).sum();
    node.set_disk_capacity(Some(used + 100_000));
    let made = on_node(&world, &node, async move |rt| {
        let (_controller, handle) = open(rt, LOG_BYTES_MAX).await.expect("opens");
        assert_eq!(handle.image().topic_count(), before);
        let mut made = 0;
        loop {
            match only(handle.submit(create(&format!("t{made}"))).await) {
                Ok(_) => made += 1,
                Err(e) => {
                    assert_eq!(e.code, ErrorCode::KafkaStorageError);
                    assert!(made > 10 && handle.image().topic(&format!("t{made}")).is_none());
                    return made;
                }
            }
        }
    });
    // It starts on the full disk, and changes again once there is room.
    node.crash();
    node.restart();
    let node_again = node.clone();
    on_node(&world, &node, async move |rt| {
        let (_controller, handle) = open(rt, LOG_BYTES_MAX).await.expect("opens on a full disk");
        assert_eq!(handle.image().topic_count(), made + 1);
        // What the refused growth got of the disk before it ended is room now.
        let mut more = 0;
        let refused = loop {
            match only(handle.submit(create(&format!("more{more}"))).await) {
                Ok(_) => more += 1,
                Err(refused) => break refused,
            }
        };
        assert_eq!(refused.code, ErrorCode::KafkaStorageError);
        let id = crate::ids::BrokerId(1);
        handle.submit(Command::RegisterBroker { id, host: "h".into(), port: 10 }).await.expect("a start needs it");
        assert_eq!(handle.image().brokers[&id].port, 10);
        node_again.set_disk_capacity(None);
        only(handle.submit(create("again")).await).expect("there is room");
    });
}

#[test]
fn a_failed_flush_ends_the_process() {
    let world = SimWorld::new(3, SimOptions::default());
    let node = world.node("n");
    let rt = node.runtime();
    let faulty = node.clone();
    rt.clone().spawn(TaskGroup::Requests, "test", async move {
        let (_controller, handle) = open(rt.clone(), LOG_BYTES_MAX).await.expect("opens");
        only(handle.submit(create("a")).await).expect("made");
        faulty.disk_faults(|f| f.fail_next(DiskOp::Sync, "log-"));
        let answer = handle.submit(create("b")).await;
        panic!("answered in doubt: {answer:?}");
    });
    world.run_for(Duration::from_secs(1));
    let exit = node.exited().expect("it ended itself");
    assert_eq!(exit.code, i32::from(ExitReason::MetadataFailed.code()));
}

#[test]
fn a_stop_answers_what_was_asked() {
    let world = SimWorld::new(4, SimOptions::default());
    let node = world.node("n");
    on_node(&world, &node, async |rt: SimRuntime| {
        let (controller, handle) = open(rt.clone(), LOG_BYTES_MAX).await.expect("opens");
        let asked = handle.clone();
        let early = rt.spawn(TaskGroup::Requests, "early", async move { only(asked.submit(create("a")).await) });
        rt.sleep(Duration::from_micros(1)).await;
        controller.shutdown().await;
        early.await.expect("it was taken before the stop");
        let late = only(handle.submit(create("b")).await).expect_err("stopping");
        assert_eq!(late.code, ErrorCode::NotController);
    });
}

/// Makes a data directory with a snapshot and a log of several groups, changes it, and gives the error of the start.
fn refused(change: impl Fn(&SimNode), settings: &[(&str, &str)], log_bytes_max: u64) -> String {
    let world = SimWorld::new(5, SimOptions::default());
    let node = world.node("n");
    on_node(&world, &node, async move |rt| {
        let (controller, handle) = open(rt, log_bytes_max).await.expect("opens");
        for n in 0..20 {
            only(handle.submit(create(&format!("t{n}"))).await).expect("made");
        }
        controller.shutdown().await;
    });
    change(&node);
    let config = config(settings);
    on_node(&world, &node, async move |rt| {
        let opened = Controller::open(rt, config, fatal()).await;
        opened.map(|_| "opened").expect_err("something is wrong").to_string()
    })
}

fn flip(path: &str, at: u64) -> impl Fn(&SimNode) {
    move |node| assert!(node.flip_bit(path, at..at + 1), "{path} is there")
}

#[test]
fn damage_is_named_and_never_taken_for_an_empty_log() {
    let remove = |path: &'static str| move |node: &SimNode| assert!(node.remove_path(path), "{path} is there");
    let snapshot_log = |node: &SimNode| {
        let logs = node.files().into_iter().map(|(path, _)| path).filter(|p| p.to_string_lossy().contains("/log-"));
        logs.for_each(|path| assert!(node.remove_path(path)));
    };
    let whole = LOG_BYTES_MAX;
    let small = 32 << 10;
    let cases: [(String, &[&str]); 8] = [
        (refused(flip(LOG, 3 * 4096 + 40), &[], whole), &["log-00000000000000000000", "damaged at byte 12288"]),
        (refused(flip(LOG, 10), &[], whole), &["damaged at byte 0", "byte 4096 is intact"]),
        (refused(flip(SNAPSHOT, 50), &[], small), &["snapshot", "checksum"]),
        (refused(remove(SNAPSHOT), &[], small), &["log-00000000000000000000: missing", "is there"]),
        (refused(snapshot_log, &[], small), &["missing", "snapshot is there"]),
        (
            refused(remove("/data/__cluster_metadata-0"), &[], whole),
            &["meta.properties", "metadata log beside it is empty"],
        ),
        (refused(|_| {}, &[("node.id", "7")], whole), &["node.id is 1", "node.id=7"]),
        (
            refused(|n| n.put_file("/data/meta.properties", b"version=1\nnode.id=1\ncluster.id=x\n"), &[], whole),
            &["cluster.id is x", "the metadata log says"],
        ),
    ];
    for (error, words) in cases {
        for word in words {
            assert!(error.contains(word), "{error:?} does not say {word:?}");
        }
    }
}

#[test]
fn a_lost_meta_properties_is_written_again() {
    let world = SimWorld::new(6, SimOptions::default());
    let node = world.node("n");
    let first = on_node(&world, &node, async |rt| open(rt, LOG_BYTES_MAX).await.expect("opens").1.image());
    assert_eq!(first.cluster_id.len(), 22);
    assert!(node.remove_path("/data/meta.properties"));
    node.crash();
    node.restart();
    let again = on_node(&world, &node, async |rt| open(rt, LOG_BYTES_MAX).await.expect("opens").1.image());
    assert_eq!(again.cluster_id, first.cluster_id);
    let text = String::from_utf8(node.file_contents("/data/meta.properties").expect("there")).expect("text");
    assert!(text.contains(&format!("node.id=1\ncluster.id={}\n", first.cluster_id)), "{text}");
}

#[test]
fn a_topic_does_not_come_in_the_batch_in_which_one_goes() {
    let delete = Command::DeleteTopics { topics: vec![TopicRef::Name("a".into())] };
    let more = Command::AllocateProducerIds;
    assert_eq!(batch_len([&create("a"), &delete, &more, &delete, &create("a"), &more].into_iter()), 4);
    assert_eq!(batch_len([&create("a"), &create("b")].into_iter()), 2);
    assert_eq!(batch_len(std::iter::repeat_n(&more, 2 * BATCH_MAX)), BATCH_MAX);
}
