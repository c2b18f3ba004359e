//! All that is written goes to partitions of one core; a while later they are on both, and nothing was lost or came in another order.

use super::steering::{answer, request};
use super::{Node, directory};
use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests under way at a time: a debug build that has little of the machine is to be busy, too.
const WINDOW: usize = 64;
const VALUE_LEN: usize = 1000;
/// Values for a partition, at most: a balancer that does nothing fails the test, and does not fill the disk.
const VALUES_MOST: i32 = 500_000;

fn value(partition: i32, n: i32) -> String {
    format!("{partition} {n:0VALUE_LEN$}")
}

/// Writes to a partition until `enough`, or [`VALUES_MOST`]: how many values, each answered with the offset that is next.
fn write(address: &str, partition: i32, enough: &AtomicBool) -> i32 {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut owed, mut next_id, mut offset) = (VecDeque::new(), 0, 0);
    let more = |next_id| next_id < VALUES_MOST && !enough.load(Ordering::SeqCst);
    while more(next_id) || !owed.is_empty() {
        if more(next_id) && owed.len() < WINDOW {
            stream.write_all(&request(next_id, partition, &value(partition, next_id))).expect("sent");
            owed.push_back(next_id);
            next_id += 1;
            continue;
        }
        assert_eq!(answer(&mut stream), (owed.pop_front().expect("owed"), 0, offset), "partition {partition}");
        offset += 1;
    }
    next_id
}

#[test]
fn a_hot_core_is_relieved_while_it_is_written_to() {
    let dir = directory();
    let settings = ["coreline.cores=2", "coreline.balance=on", "coreline.balance.interval.ms=200"];
    let node = Node::start(dir.path(), &settings);
    node.ok(&["topic", "create", "t", "--partitions", "4"], "");
    let core = |partition: i32| {
        let partition = partition.to_string();
        let placed = node.json(&["partition", "describe", "--topic", "t", "--partition", &partition, "--json"]);
        placed["partitions"][0]["core"].as_u64().expect("a number")
    };
    let hot: Vec<i32> = (0..4).filter(|n| core(*n) == 0).collect();
    assert_eq!(hot.len(), 2, "new partitions are placed evenly");
    let (enough, address) = (AtomicBool::new(false), &node.address);
    let written: Vec<i32> = std::thread::scope(|scope| {
        let writing: Vec<_> = hot.iter().map(|n| scope.spawn(|| write(address, *n, &enough))).collect();
        while core(hot[0]) == core(hot[1]) && !writing.iter().any(|writer| writer.is_finished()) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        enough.store(true, Ordering::SeqCst);
        writing.into_iter().map(|writer| writer.join().expect("every answer was as it should be")).collect()
    });
    assert_ne!(core(hot[0]), core(hot[1]), "one of them went to the other core");
    let mut expected: Vec<String> =
        hot.iter().zip(&written).flat_map(|(partition, count)| (0..*count).map(|n| value(*partition, n))).collect();
    expected.sort();
    assert!(node.values("t") == expected, "{written:?} values, each once");
    node.stop();
}
