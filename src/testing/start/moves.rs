//! A partition goes from core to core and back while a client of one connection produces to it, several requests under way.

use super::steering::{answer, request};
use super::{Node, directory};
use std::collections::VecDeque;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};

/// Requests under way at a time.
const WINDOW: usize = 5;
/// So many times the partition moves.
const MOVES: usize = 20;

#[test]
fn a_partition_is_moved_between_cores_while_it_is_written() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    node.ok(&["topic", "create", "t", "--partitions", "1"], "");
    let core = || node.json(&["partition", "describe", "--topic", "t", "--json"])["partitions"][0]["core"].clone();
    let mut here = core().as_u64().expect("a number");
    let moved = AtomicBool::new(false);
    let sent = std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut stream = TcpStream::connect(&node.address).expect("the node listens");
            stream.set_nodelay(true).expect("a socket");
            let (mut owed, mut next_id, mut offset) = (VecDeque::new(), 0, 0);
            while !moved.load(Ordering::SeqCst) || !owed.is_empty() {
                if !moved.load(Ordering::SeqCst) && owed.len() < WINDOW {
                    stream.write_all(&request(next_id, 0, &format!("value {next_id:06}"))).expect("sent");
                    owed.push_back(next_id);
                    next_id += 1;
                    continue;
                }
                assert_eq!(answer(&mut stream), (owed.pop_front().expect("owed"), 0, offset));
                offset += 1;
            }
            next_id
        });
        for _ in 0..MOVES {
            here = 1 - here;
            let said =
                node.ok(&["partition", "move", "--topic", "t", "--partition", "0", "--to-core", &here.to_string()], "");
            assert_eq!(said, format!("t-0 is on core {here} of 2\n"));
            assert_eq!(core(), here);
        }
        moved.store(true, Ordering::SeqCst);
        writing.join().expect("every answer was as it should be")
    });
    let values = (0..sent).map(|n| format!("value {n:06}"));
    assert!(node.values("t").into_iter().eq(values), "{sent} values, each once and in order");
    for (arguments, why) in [
        (["--topic", "t", "--partition", "0", "--to-core", "2"], "core 2 does not exist"),
        (["--topic", "t", "--partition", "1", "--to-core", "0"], "partition t-1 does not exist"),
        (["--topic", "x", "--partition", "0", "--to-core", "0"], "partition x-0 does not exist"),
    ] {
        let said = node.fails(&[&["partition", "move"], &arguments[..]].concat(), "");
        assert!(said.contains(why), "{said}");
    }
    node.kill();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    assert_eq!(node.values("t").len() as i32, sent);
    assert_eq!(node.json(&["partition", "describe", "--topic", "t", "--json"])["partitions"][0]["core"], here);
    node.stop();
}
