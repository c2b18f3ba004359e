//! The metrics endpoint of a real node, read as Prometheus reads it.

use super::{Node, directory, expected, lines, refused, start_command};
use prometheus_parse::{Sample, Scrape, Value};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const ANY_PORT: &str = "coreline.metrics.listener=127.0.0.1:0";

fn endpoint(node: &Node) -> &str {
    let (_, address) = node.ready.rsplit_once(" metrics=").expect("the ready line names the endpoint");
    address
}

/// Sends bytes, gives all that comes back.
fn ask(address: &str, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connects");
    // It may have been refused before all of it was sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

fn scrape(address: &str) -> Scrape {
    let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: node\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("application/openmetrics-text; version=1.0.0"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{head}");
    assert!(body.ends_with("\n# EOF\n"), "{body}");
    Scrape::parse(body.lines().map(|line| Ok(line.to_owned()))).expect("what Prometheus reads")
}

/// The sum of a metric's samples with these labels.
fn sum(scrape: &Scrape, metric: &str, labels: &[(&str, &str)]) -> f64 {
    let fits = |s: &&Sample| s.metric == metric && labels.iter().all(|(name, value)| s.labels.get(name) == Some(value));
    let value = |s: &Sample| match &s.value {
        Value::Counter(value) | Value::Gauge(value) | Value::Untyped(value) => *value,
        Value::Histogram(buckets) => buckets.last().expect("the last bound is infinite").count,
        Value::Summary(_) => panic!("{metric}: no summaries are written"),
    };
    scrape.samples.iter().filter(fits).map(value).sum()
}

#[test]
fn a_scrape_shows_what_was_done() {
    let dir = directory();
    let node = Node::start(dir.path(), &[ANY_PORT, "coreline.cores=2"]);
    let address = endpoint(&node).to_owned();
    let before = scrape(&address);
    assert_eq!(sum(&before, "kafka_server_brokertopicmetrics_messagesin_total", &[]), 0.0);
    node.ok(&["topic", "create", "orders", "--partitions", "3"], "");
    node.ok(&["topic", "create", "quiet"], "");
    node.ok(&["produce", "orders"], &lines(0..100));
    let mut values = node.values("orders");
    values.sort();
    let mut all = expected(0..100);
    all.sort();
    assert_eq!(values, all);

    let after = scrape(&address);
    let orders = [("topic", "orders")];
    assert_eq!(sum(&after, "kafka_server_brokertopicmetrics_messagesin_total", &orders), 100.0);
    let bytes_in = sum(&after, "kafka_server_brokertopicmetrics_bytesin_total", &orders);
    let bytes_out = sum(&after, "kafka_server_brokertopicmetrics_bytesout_total", &orders);
    assert!(bytes_in > 100.0 && bytes_out >= bytes_in, "{bytes_in} in, {bytes_out} out");
    assert_eq!(sum(&after, "coreline_topic_log_bytes", &orders), bytes_in);
    assert_eq!(sum(&after, "kafka_server_brokertopicmetrics_messagesin_total", &[("topic", "quiet")]), 0.0);
    assert_eq!(sum(&after, "kafka_controller_kafkacontroller_globaltopiccount", &[]), 2.0);
    assert_eq!(sum(&after, "kafka_server_replicamanager_partitioncount", &[]), 4.0);
    assert_eq!(sum(&after, "kafka_server_replicamanager_underminisrpartitioncount", &[]), 0.0);
    let produced = sum(&after, "kafka_network_requestmetrics_requests_total", &[("request", "Produce")]);
    assert!(produced >= 1.0);
    assert_eq!(sum(&after, "coreline_request_seconds", &[("request", "Produce")]), produced, "as many times");
    let commits = sum(&after, "coreline_group_commits_total", &[]);
    assert!(commits >= 1.0);
    assert_eq!(sum(&after, "coreline_flush_seconds", &[]), commits);
    let stages = [("request", "Produce"), ("stage", "device"), ("quantile", "0.99")];
    assert!(sum(&after, "coreline_request_recent_seconds", &stages) > 0.0);
    for growing in ["coreline_received_bytes_total", "coreline_sent_bytes_total", "coreline_system_calls_total"] {
        assert!(sum(&after, growing, &[]) > sum(&before, growing, &[]), "{growing}");
    }
    for positive in ["process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"] {
        assert!(sum(&after, positive, &[]) > 0.0, "{positive}");
    }
    assert_eq!(sum(&after, "coreline_uncleanable_partition", &[]), 0.0);
    let copied = |place| sum(&after, "coreline_copied_bytes_total", &[("where", place)]);
    assert_eq!(copied("chunk"), bytes_in, "small batches are copied once");
    assert!(copied("write") >= bytes_in, "and once more on their way to the disk");
    assert_eq!(copied("read"), 0.0, "nothing on the way out");
    let requests = sum(&after, "kafka_network_requestmetrics_requests_total", &[]);
    assert!(sum(&after, "coreline_allocations_total", &[]) > requests);
    node.stop();
}

#[test]
fn topics_beyond_the_limit_are_one() {
    let dir = directory();
    let node = Node::start(dir.path(), &[ANY_PORT, "coreline.metrics.topics.max=1"]);
    for topic in ["a", "b", "c"] {
        node.ok(&["topic", "create", topic], "");
        node.ok(&["produce", topic], "x\n");
    }
    let scrape = scrape(endpoint(&node));
    let messages = |topic| sum(&scrape, "kafka_server_brokertopicmetrics_messagesin_total", &[("topic", topic)]);
    assert_eq!([messages("a"), messages("b"), messages("(others)")], [1.0, 0.0, 2.0]);
    assert_eq!(sum(&scrape, "coreline_topics_left_out", &[]), 2.0);
    node.stop();
}

#[test]
fn nothing_but_get_metrics_is_answered() {
    let dir = directory();
    let node = Node::start(dir.path(), &[ANY_PORT]);
    let address = endpoint(&node).to_owned();
    let long = [b"GET /metrics HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 64 << 10]].concat();
    let table: [(&[u8], &str); 5] = [
        (b"GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 404 Not Found\r\n"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", "HTTP/1.1 405 Method Not Allowed\r\n"),
        (b"\x00\x00\x00\x1f\x00\x12", "HTTP/1.1 400 Bad Request\r\n"),
        (b"GET /metrics\r\n\r\n", "HTTP/1.1 400 Bad Request\r\n"),
        (&long, "HTTP/1.1 431 Request Header Fields Too Large\r\n"),
    ];
    for (request, expected) in table {
        let answer = ask(&address, request);
        assert!(answer.starts_with(expected), "{answer:?}");
    }
    // One that says nothing keeps nobody else from being answered.
    let silent: Vec<TcpStream> = (0..4).map(|_| TcpStream::connect(&address).expect("connects")).collect();
    scrape(&address);
    drop(silent);
    node.stop();
}

#[test]
fn without_the_setting_there_is_no_endpoint_and_an_address_in_use_is_named() {
    let dir = directory();
    let node = Node::start(dir.path(), &[]);
    assert!(!node.ready.contains("metrics="), "{}", node.ready);
    node.stop();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("bound").to_string();
    let (code, error) = refused(start_command(dir.path(), &[&format!("coreline.metrics.listener={address}")]));
    assert_eq!(code, Some(12), "{error}");
    assert!(error.contains("coreline.metrics.listener") && error.contains(&address), "{error}");
    let (code, error) = refused(start_command(dir.path(), &["coreline.metrics.listener=nowhere"]));
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("coreline.metrics.listener") && error.contains("host:port"), "{error}");
}
