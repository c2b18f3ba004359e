//! The real binary: what a user types, what comes out, and how the process ends.
//!
//! Nothing here waits by the clock: the tests read the ready line, answers and exit codes. `PATIENCE` only turns a hang
//! into a failure.

#[path = "start/balance.rs"]
mod balance;
#[path = "start/metrics.rs"]
mod metrics;
#[path = "start/moves.rs"]
mod moves;
#[path = "start/steering.rs"]
mod steering;

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// After this a process hangs.
const PATIENCE: Duration = Duration::from_secs(120);
/// Keeps the tests' journals small.
const SMALL_JOURNAL: &str = "coreline.journal.bytes=16777216";

fn coreline() -> Command {
    Command::new(env!("CARGO_BIN_EXE_coreline"))
}

fn directory() -> TempDir {
    let root = std::env::var_os("CORELINE_TEST_DIR").map_or_else(|| env!("CARGO_TARGET_TMPDIR").into(), PathBuf::from);
    std::fs::create_dir_all(&root).expect("the tests' directory");
    tempfile::Builder::new().prefix("start-").tempdir_in(root).expect("a directory for the test")
}

/// `coreline start` with the node's data in `dir/data`, on any free port.
fn start_command(dir: &Path, overrides: &[&str]) -> Command {
    let mut command = coreline();
    let data = format!("log.dirs={}", dir.join("data").display());
    command.args(["start", "--override", "listeners=PLAINTEXT://127.0.0.1:0", "--override", &data]);
    command.args(["--override", SMALL_JOURNAL]);
    for one in overrides {
        command.args(["--override", one]);
    }
    command.stdin(Stdio::null());
    command
}

/// A node that is ready. Killed when dropped.
struct Node {
    pid: u32,
    ready: String,
    address: String,
    lines: Receiver<String>,
    exit: Receiver<ExitStatus>,
    ended: bool,
    log: PathBuf,
}

impl Node {
    fn start(dir: &Path, overrides: &[&str]) -> Self {
        let log = dir.join("stderr");
        let stderr = std::fs::File::create(&log).expect("a file for the log");
        let mut command = start_command(dir, overrides);
        let child = command.stdout(Stdio::piped()).stderr(stderr).spawn().expect("the binary runs");
        Self::wait(child, log)
    }

    fn wait(mut child: Child, log: PathBuf) -> Self {
        let stdout = child.stdout.take().expect("piped");
        let (line, lines) = channel();
        std::thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|l| line.send(l)).ok();
        });
        let pid = child.id();
        let (exited, exit) = channel();
        std::thread::spawn(move || exited.send(child.wait().expect("our child")).ok());
        let mut node = Self { pid, ready: String::new(), address: String::new(), lines, exit, ended: false, log };
        let Ok(ready) = node.lines.recv_timeout(PATIENCE) else { panic!("no ready line\n{}", node.log()) };
        let address = ready.split_once(" ready on ").and_then(|(_, rest)| rest.split(' ').next());
        node.address = address.unwrap_or_else(|| panic!("not a ready line: {ready}")).to_owned();
        node.ready = ready;
        node
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status().expect("kill runs");
        assert!(sent.success(), "kill -s {name}");
    }

    /// Sends a signal and waits for the end: the exit code, if it was not killed.
    fn end(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        let Ok(status) = self.exit.recv_timeout(PATIENCE) else { panic!("does not end\n{}", self.log()) };
        self.ended = true;
        assert_eq!(self.lines.try_iter().collect::<Vec<_>>(), Vec::<String>::new(), "one line of output, no more");
        status.code()
    }

    fn stop(self) {
        let log = self.log.clone();
        let code = self.end("TERM");
        assert_eq!(code, Some(0), "{}", std::fs::read_to_string(log).unwrap_or_default());
    }

    fn kill(self) {
        assert_eq!(self.end("KILL"), None);
    }

    /// Runs a command of ours against the node.
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = coreline();
        command.args(arguments).args(["--bootstrap-server", &self.address]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        // A command that fails may not read it.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        child.wait_with_output().expect("it ends")
    }

    fn ok(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert!(output.status.success(), "{arguments:?}: {}\n{}", text(&output.stderr), self.log());
        text(&output.stdout)
    }

    /// The command fails with exit code 1; what it says.
    fn fails(&self, arguments: &[&str], input: &str) -> String {
        let output = self.run(arguments, input);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {}", text(&output.stdout));
        text(&output.stderr)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let out = self.ok(arguments, "");
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"))
    }

    /// Values of a topic, sorted: its partitions come in any order.
    fn values(&self, topic: &str) -> Vec<String> {
        let out = self.ok(&["consume", topic, "--exit"], "");
        let mut values: Vec<String> = out.lines().map(str::to_owned).collect();
        values.sort();
        values
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.ended {
            self.signal("KILL");
            let _ = self.exit.recv_timeout(PATIENCE);
        }
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A start that must fail: exit code and what it says.
fn refused(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().expect("the binary runs");
    assert_eq!(text(&output.stdout), "", "nothing is ready");
    (output.status.code(), text(&output.stderr))
}

fn lines(range: std::ops::Range<u32>) -> String {
    range.map(|n| format!("record-{n:04}\n")).collect()
}

fn expected(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!("record-{n:04}")).collect()
}

#[test]
fn the_ready_line_says_where_and_how() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=1", "coreline.durability=written"]);
    let data = format!(" data={} ", dir.path().join("data").display());
    for part in [concat!("coreline ", env!("CARGO_PKG_VERSION"), " ready on 127.0.0.1:"), " cores=1 ", &data] {
        assert!(node.ready.contains(part), "{part} in {}", node.ready);
    }
    assert!(node.ready.contains(" durability=written "), "{}", node.ready);
    assert_eq!(node.end("INT"), Some(0), "SIGINT stops as SIGTERM does");
}

#[test]
fn topics_by_the_command_line() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    let create = ["topic", "create", "orders", "--partitions", "3", "--config", "segment.bytes=2097152"];
    node.ok(&create, "");
    assert!(node.fails(&create, "").contains("TOPIC_ALREADY_EXISTS"));
    node.ok(&["topic", "create", "orders", "--if-not-exists"], "");
    node.ok(&["topic", "create", "a", "b"], "");
    assert_eq!(node.ok(&["topic", "list"], ""), "a\nb\norders\n");
    let listed = node.json(&["topic", "list", "--json"]);
    assert_eq!((&listed[2]["name"], &listed[2]["partitions"]), (&"orders".into(), &3.into()));

    let wrong = node.fails(&["topic", "create", "c", "--config", "segment.byte=5"], "");
    assert!(wrong.contains("INVALID_CONFIG") && wrong.contains("segment.bytes"), "{wrong}");
    let wrong = node.fails(&["topic", "create", "no blanks"], "");
    assert!(wrong.contains("INVALID_TOPIC_EXCEPTION"), "{wrong}");
    let wrong = node.fails(&["topic", "create", "c", "--replication-factor", "2"], "");
    assert!(wrong.contains("INVALID_REPLICATION_FACTOR"), "{wrong}");

    node.ok(&["topic", "alter", "orders", "--partitions", "5", "--config", "flush.ms=5000"], "");
    let described = &node.json(&["topic", "describe", "orders", "--json"])[0];
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(5), "{described}");
    assert_eq!(described["configs"]["flush.ms"], "5000");
    assert_eq!(described["partitions"][4]["leader"], 1);
    node.ok(&["topic", "alter", "orders", "--delete-config", "flush.ms"], "");
    let plain = node.ok(&["topic", "describe", "orders"], "");
    assert!(plain.contains("segment.bytes=2097152") && !plain.contains("flush.ms"), "{plain}");
    assert!(node.fails(&["topic", "alter", "orders", "--partitions", "2"], "").contains("INVALID_PARTITIONS"));

    node.ok(&["topic", "delete", "orders", "a"], "");
    assert!(node.fails(&["topic", "delete", "orders"], "").contains("UNKNOWN_TOPIC_OR_PARTITION"));
    node.ok(&["topic", "delete", "orders", "--if-exists"], "");
    assert!(node.fails(&["topic", "describe", "orders"], "").contains("UNKNOWN_TOPIC_OR_PARTITION"));
    node.stop();

    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    assert_eq!(node.ok(&["topic", "list"], ""), "b\n", "metadata outlives the process");
    node.stop();
}

#[test]
fn records_go_in_and_come_out() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    node.ok(&["topic", "create", "t", "--partitions", "2"], "");
    let said = node
        .ok(&["produce", "t", "-p", "1", "--key-separator", ":", "-H", "from=here", "-z", "zstd"], "k:v\n:no key\n");
    assert!(said.contains('2'), "{said}");
    let out = node.ok(&["consume", "t", "--exit", "--format", "json", "-p", "1"], "");
    let records: Vec<Value> = out.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    assert_eq!(records.len(), 2, "{out}");
    assert_eq!((&records[0]["key"], &records[0]["value"]), (&"k".into(), &"v".into()));
    assert_eq!((&records[0]["offset"], &records[1]["offset"]), (&0.into(), &1.into()));
    assert_eq!(records[0]["headers"]["from"], "here");
    assert_eq!(node.ok(&["consume", "t", "-p", "1", "-o", "-1", "-n", "1"], ""), "no key\n");
    assert!(node.fails(&["consume", "nothing-there", "--exit"], "").contains("UNKNOWN_TOPIC_OR_PARTITION"));
    node.ok(&["produce", "made-on-demand"], "x\n");
    assert_eq!(node.values("made-on-demand"), ["x"]);
    node.stop();
}

/// A small file system of its own, unmounted when dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// None where the machine does not allow it.
    fn mount(mib: u64) -> Option<Self> {
        let dir = directory();
        let (image, at) = (dir.path().join("image"), dir.path().join("mnt"));
        std::fs::create_dir(&at).expect("a directory");
        std::fs::File::create(&image).and_then(|f| f.set_len(mib << 20)).expect("an image");
        let run = |program: &str, arguments: &[&str], path: &[&Path]| {
            let ran =
                Command::new(program).args(arguments).args(path).stderr(Stdio::null()).stdout(Stdio::null()).status();
            ran.is_ok_and(|status| status.success())
        };
        let made = run("mkfs.ext4", &["-q"], &[&image]) && run("mount", &["-o", "loop"], &[&image, &at]);
        if !made {
            eprintln!("skipped: mkfs.ext4 and mount -o loop do not work here (they need root and loop devices)");
        }
        made.then_some(Self(dir))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("mnt")
    }

    /// The setting that puts a node's data there, and nothing else of it.
    fn data(&self) -> String {
        format!("log.dirs={}", self.path().join("data").display())
    }

    /// What the kernel does to a file system with an error: everything but reading fails from now on.
    fn becomes_read_only(&self) {
        let done = Command::new("mount").args(["-o", "remount,abort"]).arg(self.path()).output().expect("mount runs");
        assert!(done.status.success(), "{}", text(&done.stderr));
    }

    /// A test that failed may have left a process on it: then it goes when that ends.
    fn unmount(&self) {
        let unmounted = Command::new("umount").arg(self.path()).output();
        if !unmounted.is_ok_and(|done| done.status.success()) {
            drop(Command::new("umount").arg("--lazy").arg(self.path()).output());
        }
    }

    /// Unmounted, checked, mounted again.
    fn repair(&self) {
        self.unmount();
        let image = self.0.path().join("image");
        drop(Command::new("fsck.ext4").args(["-f", "-y"]).arg(&image).output());
        let done = Command::new("mount").args(["-o", "loop"]).args([image, self.path()]).output().expect("mount runs");
        assert!(done.status.success(), "{}", text(&done.stderr));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        self.unmount();
    }
}

#[test]
fn a_full_file_system_refuses_writes_serves_reads_and_takes_them_again() {
    let Some(disk) = SmallDisk::mount(120) else { return };
    let (dir, data) = (directory(), disk.data());
    let node = Node::start(dir.path(), &["coreline.cores=1", "log.segment.delete.delay.ms=0", &data]);
    node.ok(&["topic", "create", "t", "--config", "segment.bytes=2097152"], "");
    let some: String = (0..20).map(|n| format!("{n:03}-{}\n", "x".repeat(200_000))).collect();
    let mut rounds = 0;
    let refused = loop {
        let output = node.run(&["produce", "t"], &some);
        if !output.status.success() {
            break text(&output.stderr);
        }
        rounds += 1;
        assert!(rounds < 100, "the disk never fills up");
    };
    assert!(refused.contains("KAFKA_STORAGE_ERROR"), "{refused}");
    let read = node.values("t");
    let whole = |v: &String| v.len() == 200_004;
    assert!(read.len() >= rounds * 20 && read.iter().all(whole), "{} records of {rounds} rounds", read.len());
    node.ok(&["topic", "delete-records", "t", "--before", &(rounds * 20 - 5).to_string()], "");
    // Files go in the background; a producer tries again until then.
    let deadline = Instant::now() + PATIENCE;
    while !node.run(&["produce", "t"], "again\n").status.success() {
        assert!(Instant::now() < deadline, "{}", node.log());
    }
    assert!(node.values("t").contains(&"again".to_owned()));
    node.stop();
}

#[test]
fn a_file_system_that_becomes_read_only_ends_the_node_and_loses_nothing() {
    let Some(disk) = SmallDisk::mount(120) else { return };
    let (dir, data) = (directory(), disk.data());
    let settings = ["coreline.cores=1", &data];
    let mut node = Node::start(dir.path(), &settings);
    node.ok(&["topic", "create", "t"], "");
    node.ok(&["produce", "t"], &lines(0..200));
    disk.becomes_read_only();
    let output = node.run(&["produce", "t"], "never\n");
    assert!(!output.status.success(), "nothing is acknowledged that cannot be made durable");
    let status = node.exit.recv_timeout(PATIENCE).expect("it ends by itself");
    node.ended = true;
    assert!((20..=23).contains(&status.code().unwrap_or(-1)), "{status}\n{}", node.log());
    drop(node);
    disk.repair();
    let node = Node::start(dir.path(), &settings);
    assert_eq!(node.values("t")[..200], expected(0..200));
    node.stop();
}

#[test]
fn a_topic_is_compacted_when_it_is_asked_for() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2", "log.cleaner.backoff.ms=3600000"]);
    let compacted = ["--config", "cleanup.policy=compact", "--config", "compression.type=zstd"];
    node.ok(&[&["topic", "create", "t", "--partitions", "2"][..], &compacted].concat(), "");
    let records: String = (0..1000).map(|n| format!("key-{}:value-{n}\n", n % 7)).collect();
    node.ok(&["produce", "t", "-p", "1", "--key-separator", ":"], &records);
    let said = node.ok(&["log", "compact", "t"], "");
    assert_eq!(said, "t-0 is compacted up to offset 0\nt-1 is compacted up to offset 1000\n");
    assert_eq!(node.values("t"), (993..1000).map(|n| format!("value-{n}")).collect::<Vec<_>>());
    node.ok(&["produce", "t", "-p", "1", "--key-separator", ":"], "key-0:last\n");
    let again = node.json(&["log", "compact", "t", "--partition", "1", "--json"]);
    assert_eq!(
        (&again[0]["partition"], &again[0]["compacted_end"], &again[0]["end"]),
        (&1.into(), &1001.into(), &1001.into())
    );
    assert_eq!(node.values("t").len(), 7);
    assert_eq!(node.ok(&["log", "compact", "t"], "").lines().count(), 2, "with nothing to do");
    node.ok(&["topic", "create", "plain"], "");
    let refused = node.run(&["log", "compact", "plain"], "");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stdout).contains("plain-0: POLICY_VIOLATION"), "{}", text(&refused.stdout));
    let refused = node.run(&["log", "compact", "none"], "");
    assert_eq!(refused.status.code(), Some(2));
    assert!(text(&refused.stderr).contains("none does not exist"), "{}", text(&refused.stderr));
    node.stop();
}

#[test]
fn latencies_are_told_apart_by_stage() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    node.ok(&["topic", "create", "t", "--partitions", "4"], "");
    for partition in ["0", "1", "2", "3"] {
        node.ok(&["produce", "t", "-p", partition], &lines(0..10));
    }
    assert_eq!(node.values("t").len(), 40);
    let found = node.json(&["latency", "--json", "--by-shard", "--since-start"]);
    assert_eq!(found["shards"], 2);
    let rows = found["latencies"].as_array().expect("rows");
    let count = |api: &str, stage: &str, all: bool| -> u64 {
        let wanted = |row: &&Value| row["api"] == api && row["stage"] == stage && row["shard"].is_null() == all;
        rows.iter().filter(wanted).map(|row| row["count"].as_u64().expect("a number")).sum()
    };
    // How many requests the command made of its lines is its own affair. On which shards the connections were is the
    // kernel's: hops cannot be counted on.
    let produced = count("Produce", "total", true);
    assert!(produced >= 4, "{found}");
    for stage in ["parse", "journal", "device", "ready", "send", "total"] {
        let counts = (count("Produce", stage, true), count("Produce", stage, false));
        assert_eq!(counts, (produced, produced), "{stage}: {found}");
    }
    for stage in ["parse", "read", "ready", "send"] {
        assert_eq!(count("Fetch", stage, true), count("Fetch", "total", true), "{stage}: {found}");
    }
    assert!(count("Fetch", "total", true) > 0 && count("CreateTopics", "handle", true) == 1, "{found}");
    // Again if it took so long that it is forgotten.
    let slow = loop {
        node.ok(&["produce", "t", "-p", "0"], "x\n");
        let found = node.json(&["latency", "--json", "--slowest", "1000"]);
        let slowest = found["slowest"].as_array().expect("a list");
        if let Some(slow) = slowest.iter().find(|slow| slow["api"] == "Produce") {
            break slow.clone();
        }
    };
    let stages = slow["stages"].as_array().expect("a list").iter();
    let sum: f64 = stages.map(|stage| stage["us"].as_f64().expect("a number")).sum();
    assert!((sum - slow["total_us"].as_f64().expect("a number")).abs() < 0.001, "{slow}");
    assert!(slow["flush"]["bytes"].as_u64() > Some(0) && slow["flush"]["partitions"] == 1, "{slow}");
    let text = node.ok(&["latency", "--slowest", "1", "--since-start"], "");
    assert!(text.contains("\nProduce "), "{text}");
    node.stop();
}

#[test]
fn a_changed_setting_is_obeyed_at_once() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=2"]);
    node.ok(&["topic", "create", "t", "--partitions", "4"], "");
    let record = format!("{}\n", "x".repeat(10_000));
    node.ok(&["produce", "t", "-p", "3"], &record);
    node.ok(&["topic", "alter", "t", "--config", "max.message.bytes=5000"], "");
    for partition in ["0", "1", "2", "3"] {
        let said = node.fails(&["produce", "t", "-p", partition], &record);
        assert!(said.contains("MESSAGE_TOO_LARGE"), "{said}");
    }
    node.ok(&["topic", "alter", "t", "--delete-config", "max.message.bytes"], "");
    node.ok(&["produce", "t", "-p", "3"], &record);
    node.stop();
}

#[test]
fn acknowledged_records_outlive_the_process() {
    let dir = directory();
    let one = ["coreline.cores=1"];
    let two = ["coreline.cores=2"];
    let node = Node::start(dir.path(), &one);
    node.ok(&["topic", "create", "t", "--partitions", "4"], "");
    node.ok(&["produce", "t", "-p", "0"], &lines(0..10));
    node.stop();
    // After a clean stop, after a kill, and each time by another number of cores.
    let mut next = 10;
    for (cores, killed) in [(&one, true), (&two, true), (&one, true), (&two, false), (&two, true), (&one, false)] {
        let node = Node::start(dir.path(), cores);
        assert_eq!(node.values("t"), expected(0..next), "{}", node.log());
        for partition in ["0", "1", "2", "3"] {
            node.ok(&["produce", "t", "-p", partition], &lines(next..next + 3));
            next += 3;
        }
        assert_eq!(node.values("t"), expected(0..next));
        if killed { node.kill() } else { node.stop() }
    }
    let node = Node::start(dir.path(), &two);
    assert_eq!(node.values("t"), expected(0..next));
    node.stop();
}

#[test]
fn partitions_are_not_bounded_by_descriptors() {
    let dir = directory();
    let start = || {
        let node = start_command(dir.path(), &["coreline.cores=1"]);
        let mut limited = Command::new("sh");
        limited.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]).arg(node.get_program()).args(node.get_args());
        let log = dir.path().join("stderr");
        let stderr = std::fs::File::create(&log).expect("a file for the log");
        limited.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr);
        Node::wait(limited.spawn().expect("the binary runs"), log)
    };
    let node = start();
    assert!(node.log().contains("few descriptors"), "{}", node.log());
    node.ok(&["topic", "create", "t", "--partitions", "300"], "");
    let record = |n: u32| format!("{{\"partition\":{},\"value\":\"record-{n:04}\"}}\n", n % 300);
    node.ok(&["produce", "t", "--format", "json"], &(0..600).map(record).collect::<String>());
    node.stop();
    let node = start();
    assert_eq!(node.values("t"), expected(0..600));
    node.stop();
}

#[test]
fn a_second_process_is_refused() {
    let dir = directory();
    let node = Node::start(dir.path(), &["coreline.cores=1"]);
    let (code, said) = refused(start_command(dir.path(), &["coreline.cores=1"]));
    assert_eq!(code, Some(11), "{said}");
    assert!(said.contains(&dir.path().join("data").display().to_string()) && said.contains("log.dirs"), "{said}");
    node.ok(&["topic", "list"], "");
    node.kill();
    Node::start(dir.path(), &["coreline.cores=1"]).stop();
}

#[test]
fn a_used_port_is_named() {
    let dir = directory();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let listeners = format!("listeners=PLAINTEXT://{address}");
    let (code, said) = refused(start_command(dir.path(), &[&listeners, "coreline.cores=2"]));
    assert_eq!(code, Some(12), "{said}");
    assert!(said.contains(&address) && said.contains("--override listeners"), "{said}");
    // The same by another node.
    let (first, second) = (directory(), directory());
    let node = Node::start(first.path(), &["coreline.cores=1"]);
    let listeners = format!("listeners=PLAINTEXT://{}", node.address);
    let (code, said) = refused(start_command(second.path(), &[&listeners, "coreline.cores=1"]));
    assert_eq!(code, Some(12), "{said}");
    node.stop();
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let table: &[(&str, &[&str])] = &[
        ("log.segment.byte=2097152", &["\"log.segment.byte\"", "\"log.segment.bytes\""]),
        ("zookeeper.connect=x", &["\"zookeeper.connect\"", "not supported"]),
        ("log.segment.bytes=many", &["log.segment.bytes", "many"]),
        ("log.segment.bytes=5", &["log.segment.bytes", "at least"]),
        ("listeners=SSL://127.0.0.1:0", &["listeners", "PLAINTEXT"]),
        ("log.dirs=a,b", &["log.dirs", "one directory"]),
        ("coreline.cores=none", &["coreline.cores", "none"]),
        ("coreline.cores=100000", &["coreline.cores"]),
        ("nothing", &["nothing", "key=value"]),
    ];
    let dir = directory();
    for (setting, parts) in table {
        let (code, said) = refused(start_command(dir.path(), &[setting]));
        assert_eq!(code, Some(2), "{setting}: {said}");
        for part in *parts {
            assert!(said.contains(part), "{setting}: {part} in {said}");
        }
    }
    let (code, said) = refused(start_command(dir.path(), &["log.segment.byte=1", "num.partition=1"]));
    assert!(code == Some(2) && said.contains("log.segment.bytes") && said.contains("num.partitions"), "{said}");
}

#[test]
fn what_cannot_be_printed_is_not_a_success() {
    let full = || std::fs::File::options().write(true).open("/dev/full").expect("a device that is full");
    let dir = directory();
    let status = start_command(dir.path(), &["no.such.key=1"]).stderr(full()).stdout(Stdio::null()).status().unwrap();
    assert_eq!(status.code(), Some(2), "a wrong setting, where nobody can be told");
    let node = Node::start(dir.path(), &[]);
    node.ok(&["topic", "create", "orders"], "");
    let list = ["topic", "list", "--bootstrap-server", &node.address];
    let out = coreline().args(list).stdout(full()).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stderr).contains("standard output cannot be written"), "{}", text(&out.stderr));
    node.stop();
}

#[test]
fn a_file_is_read_and_overrides_go_before_it() {
    let dir = directory();
    let file = dir.path().join("server.properties");
    let data = dir.path().join("data");
    let settings = format!(
        "# a comment\nlisteners=PLAINTEXT://127.0.0.1:0\nlog.dirs = {}\nnum.partitions: 7\ncoreline.cores=2\n{SMALL_JOURNAL}\n",
        data.display()
    );
    std::fs::write(&file, settings).expect("written");
    let start = || {
        let mut command = coreline();
        command.arg("start").arg("--config").arg(&file).stdin(Stdio::null());
        command
    };
    let log = dir.path().join("stderr");
    let stderr = std::fs::File::create(&log).expect("a file for the log");
    let mut command = start();
    command.args(["--override", "coreline.cores=1"]).stdout(Stdio::piped()).stderr(stderr);
    let node = Node::wait(command.spawn().expect("the binary runs"), log);
    assert!(node.ready.contains(" cores=1 "), "{}", node.ready);
    node.ok(&["topic", "create", "t"], "");
    let described = &node.json(&["topic", "describe", "t", "--json"])[0];
    assert_eq!(described["partitions"].as_array().map(Vec::len), Some(7));
    node.stop();

    std::fs::write(&file, "num.partitions=1\nnum.partitions=2\n").expect("written");
    let (code, said) = refused(start());
    assert!(code == Some(2) && said.contains("server.properties") && said.contains("line 2"), "{said}");
    std::fs::remove_file(&file).expect("removed");
    let (code, said) = refused(start());
    assert!(code == Some(2) && said.contains("server.properties"), "{said}");
}

#[test]
fn a_data_directory_that_cannot_be_is_named() {
    let dir = directory();
    let file = dir.path().join("file");
    std::fs::write(&file, "not a directory").expect("written");
    let inside = format!("log.dirs={}", file.join("data").display());
    let (code, said) = refused(start_command(dir.path(), &[&inside]));
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains(&file.display().to_string()) && said.contains("--override log.dirs"), "{said}");
}

#[test]
fn the_data_of_another_node_is_refused() {
    let dir = directory();
    Node::start(dir.path(), &["coreline.cores=1", "node.id=1"]).stop();
    let (code, said) = refused(start_command(dir.path(), &["coreline.cores=1", "node.id=2"]));
    assert_eq!(code, Some(10), "{said}");
    assert!(said.contains("node.id=2"), "{said}");
}

#[test]
fn help_and_version() {
    let said = |arguments: &[&str]| {
        let output = coreline().args(arguments).output().expect("the binary runs");
        assert!(output.status.success(), "{arguments:?}");
        text(&output.stdout)
    };
    assert_eq!(said(&["--version"]), concat!("coreline ", env!("CARGO_PKG_VERSION"), "\n"));
    assert!(said(&["--help"]).contains("start"));
    for command in ["start", "topic", "produce", "consume", "bench"] {
        assert!(said(&[command, "--help"]).contains("Usage"), "{command}");
    }
    let output = coreline().args(["topic", "list", "--bootstrap-server", "127.0.0.1:1"]).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("127.0.0.1:1"), "{}", text(&output.stderr));
}
