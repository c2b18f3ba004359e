//! Loads group coordinators: members that only send heartbeats, one large group that rebalances, commits of offsets.
//!
//! Members share connections once their group is made: `lanes` groups are made at a time, each member of them on a
//! connection of its own, because a Join waits for the others. A broker that shall make groups of the classic protocol
//! needs a `group.initial.rebalance.delay.ms` (1000, say) in which all members of a group can come: else the first ones are a
//! generation by themselves.

use super::connection::Connection;
use super::group_members::{Members, Protocol};
use super::process::{Sample, sample};
use super::{LoadError, TIMEOUT};
use crate::client::Client;
use hdrhistogram::Histogram;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::offset_commit_request::{OffsetCommitRequestPartition, OffsetCommitRequestTopic};
use kafka_protocol::messages::{
    CreateTopicsRequest, FindCoordinatorRequest, GroupId, ListGroupsRequest, OffsetCommitRequest, OffsetCommitResponse,
    TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

const TOPIC_ALREADY_EXISTS: i16 = 36;
const COMMIT: i16 = 8;

/// What is done to the coordinators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum GroupsMode {
    /// Makes the groups, then sends heartbeats of all members in turn.
    Heartbeats,
    /// Makes one group of `members`, then lets all of them join anew.
    Rebalance,
    /// Commits of offsets under the groups' names, as fast as the connections allow.
    Commits,
}

/// A workload of groups.
#[derive(Clone, Debug, clap::Args)]
pub struct GroupsWorkload {
    /// What to do.
    #[arg(value_enum)]
    pub mode: GroupsMode,
    /// The broker, as host:port: one node, coordinator of all groups.
    #[arg(long, default_value = "127.0.0.1:9092", value_name = "HOST:PORT")]
    pub bootstrap_server: String,
    /// Groups.
    #[arg(long, default_value_t = 1000)]
    pub groups: usize,
    /// Members of each group.
    #[arg(long, default_value_t = 5)]
    pub members: usize,
    /// The protocol of the members.
    #[arg(long, value_enum, default_value = "classic")]
    pub protocol: Protocol,
    /// The topic that all groups share; created if it is missing.
    #[arg(long, default_value = "bench-groups")]
    pub topic: String,
    /// Its partitions, when it is created.
    #[arg(long, default_value_t = 10)]
    pub partitions: i32,
    /// Groups that are made at a time: so many connections for each member of a group.
    #[arg(long, default_value_t = 100)]
    pub lanes: usize,
    /// Heartbeats a second over all members.
    #[arg(long, default_value_t = 3000)]
    pub rate: u64,
    /// Connections that commit.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Commits under way on one connection.
    #[arg(long, default_value_t = 4)]
    pub in_flight: usize,
    /// Partitions of one commit.
    #[arg(long, default_value_t = 1)]
    pub offsets: i32,
    /// Seconds that are measured.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// The broker's process, for its CPU and memory.
    #[arg(long)]
    pub broker_pid: Option<u32>,
}

/// Runs a workload; what it found, for a person.
///
/// # Errors
/// See [`LoadError`]; one answer with an error ends the run.
pub fn run(workload: &GroupsWorkload) -> Result<String, LoadError> {
    if [workload.groups, workload.members, workload.lanes, workload.connections, workload.in_flight].contains(&0) {
        return Err(LoadError::Workload("groups, members, lanes, connections and in-flight must be at least 1".into()));
    }
    prepare(workload)?;
    match workload.mode {
        GroupsMode::Heartbeats => heartbeats(workload),
        GroupsMode::Rebalance => rebalance(workload),
        GroupsMode::Commits => commits(workload),
    }
}

/// The topic is there, and the coordinators answer.
fn prepare(workload: &GroupsWorkload) -> Result<(), LoadError> {
    let mut client = Client::connect(&workload.bootstrap_server, TIMEOUT)?;
    let name = || TopicName(StrBytes::from_string(workload.topic.clone()));
    let topic = CreatableTopic::default().with_name(name()).with_num_partitions(workload.partitions);
    let request = CreateTopicsRequest::default().with_timeout_ms(60_000);
    let made = client.call(&request.with_topics(vec![topic.with_replication_factor(1)]))?;
    if let Some(topic) = made.topics.first().filter(|t| ![0, TOPIC_ALREADY_EXISTS].contains(&t.error_code)) {
        return Err(LoadError::Refused { what: format!("CreateTopics {}", workload.topic), code: topic.error_code });
    }
    let deadline = Instant::now() + TIMEOUT;
    let find = FindCoordinatorRequest::default().with_coordinator_keys(vec![StrBytes::from_static_str("bench")]);
    let mut code = -1;
    while Instant::now() < deadline {
        code = client.call(&find)?.coordinators.first().map_or(-1, |c| c.error_code);
        if code == 0 {
            code = client.call(&ListGroupsRequest::default())?.error_code;
        }
        if code == 0 {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Err(LoadError::Refused { what: "no coordinator after a minute".to_owned(), code })
}

fn look(workload: &GroupsWorkload) -> Option<Sample> {
    workload.broker_pid.and_then(sample)
}

/// CPU of the broker between two looks, as a share of a core.
fn cpu(before: Option<Sample>, after: Option<Sample>) -> Option<f64> {
    Some(after?.cpu_seconds - before?.cpu_seconds)
}

/// Of nanoseconds, up to a minute.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds")
}

fn percentiles(text: &mut String, histogram: &Histogram<u64>) {
    let us = |percent| histogram.value_at_percentile(percent) / 1000;
    let max = histogram.max() / 1000;
    let _ = writeln!(text, "latency µs: p50 {}, p99 {}, p99.9 {}, longest {max}", us(50.0), us(99.0), us(99.9));
}

fn heartbeats(workload: &GroupsWorkload) -> Result<String, LoadError> {
    let start = look(workload);
    let began = Instant::now();
    let mut members = Members::make(workload)?;
    let made = began.elapsed().as_secs_f64();
    let (all, before) = (members.count(), look(workload));
    let mut histogram = histogram();
    // Bursts of a millisecond's worth, one heartbeat a connection at most.
    let burst = (workload.rate / 1000).max(1);
    let (began, mut sent) = (Instant::now(), 0u64);
    while began.elapsed().as_secs_f64() < workload.seconds {
        let due = began + Duration::from_secs_f64(sent as f64 / workload.rate as f64);
        if let Some(wait) = due.checked_duration_since(Instant::now()) {
            std::thread::sleep(wait);
        }
        members.heartbeats(usize::try_from(burst).unwrap_or(1), &mut histogram)?;
        sent += burst;
    }
    let seconds = began.elapsed().as_secs_f64();
    let after = look(workload);
    let mut text = format!(
        "{all} members in {} groups ({:?} protocol), made in {made:.1} s; {:.0} heartbeats/s for {seconds:.1} s\n",
        workload.groups,
        workload.protocol,
        sent as f64 / seconds
    );
    percentiles(&mut text, &histogram);
    if let Some(cpu) = cpu(before, after) {
        let share = cpu / seconds * 100.0;
        let each = share / (sent as f64 / seconds / 1000.0);
        let _ = writeln!(text, "broker: {share:.2} % of a core, {each:.2} % for each 1,000 heartbeats/s");
    }
    if let (Some(start), Some(before)) = (start, before) {
        let grown = before.rss_bytes.saturating_sub(start.rss_bytes);
        let _ = writeln!(
            text,
            "broker: {} MiB resident, {} bytes more for each member made",
            before.rss_bytes >> 20,
            grown / all as u64
        );
    }
    let moved = members.moved();
    let _ = writeln!(text, "members that were told to join again: {moved}");
    Ok(text)
}

fn rebalance(workload: &GroupsWorkload) -> Result<String, LoadError> {
    let one = GroupsWorkload { groups: 1, lanes: 1, ..workload.clone() };
    let mut members = Members::make(&one)?;
    let before = look(workload);
    let took = members.rebalance()?;
    let after = look(workload);
    let mut text = format!(
        "{} members, {} partitions ({:?} protocol): {:.3} s from the last join to the last member's assignment\n",
        workload.members,
        workload.partitions,
        workload.protocol,
        took.as_secs_f64()
    );
    if let Some(cpu) = cpu(before, after) {
        let _ = writeln!(text, "broker: {cpu:.2} CPU seconds");
    }
    Ok(text)
}

fn commit_of(workload: &GroupsWorkload, group: usize, offset: i64) -> OffsetCommitRequest {
    let partition = |index: i32| {
        let partition = OffsetCommitRequestPartition::default().with_partition_index(index % workload.partitions);
        partition.with_committed_offset(offset).with_committed_metadata(Some(StrBytes::default()))
    };
    let topic = OffsetCommitRequestTopic::default().with_name(TopicName(StrBytes::from_string(workload.topic.clone())));
    let group = GroupId(StrBytes::from_string(format!("bench-commits-{group}")));
    let request = OffsetCommitRequest::default().with_group_id(group).with_generation_id_or_member_epoch(-1);
    request.with_topics(vec![topic.with_partitions((0..workload.offsets).map(partition).collect())])
}

/// One connection's commits until `end`: how many, and how long each took.
fn commit_until(workload: &GroupsWorkload, number: usize, end: Instant) -> Result<(u64, Histogram<u64>), LoadError> {
    let connection = Connection::open(&workload.bootstrap_server)?;
    let (mut histogram, mut answers, mut frames) = (histogram(), connection.answers(), Vec::new());
    let (mut count, mut sent, mut times) = (0u64, 0i32, std::collections::VecDeque::new());
    loop {
        // What is here already makes room for more commits, which go out with one write.
        while !answers.has_more() && times.len() < workload.in_flight && Instant::now() < end {
            let group = (number + sent as usize * workload.connections) % workload.groups;
            connection.frame(&mut frames, &commit_of(workload, group, i64::from(sent)), COMMIT, sent)?;
            times.push_back((sent, Instant::now()));
            sent = sent.wrapping_add(1) & i32::MAX;
        }
        if !frames.is_empty() {
            connection.send_frames(&frames)?;
            frames.clear();
        }
        let Some((id, at)) = times.pop_front() else { return Ok((count, histogram)) };
        let answer: OffsetCommitResponse = answers.receive(COMMIT, id)?;
        let codes = answer.topics.iter().flat_map(|t| &t.partitions).map(|p| p.error_code);
        if let Some(code) = codes.into_iter().find(|code| *code != 0) {
            return Err(LoadError::Refused { what: "OffsetCommit".to_owned(), code });
        }
        count += 1;
        histogram.saturating_record(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
}

fn commits(workload: &GroupsWorkload) -> Result<String, LoadError> {
    let (began, before) = (Instant::now(), look(workload));
    let end = began + Duration::from_secs_f64(workload.seconds);
    let done: Vec<Result<_, LoadError>> = std::thread::scope(|scope| {
        let one = |number| scope.spawn(move || commit_until(workload, number, end));
        let threads: Vec<_> = (0..workload.connections).map(one).collect();
        threads.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let (seconds, after) = (began.elapsed().as_secs_f64(), look(workload));
    let mut histogram = histogram();
    let mut count = 0;
    for one in done {
        let (commits, latencies) = one?;
        count += commits;
        let _ = histogram.add(latencies);
    }
    let rate = count as f64 / seconds;
    let offsets = f64::from(workload.offsets);
    let mut text = format!(
        "{} groups, {} connections with {} commits under way each: {rate:.0} commits/s, {:.0} offsets/s, for {seconds:.1} s\n",
        workload.groups,
        workload.connections,
        workload.in_flight,
        rate * offsets
    );
    percentiles(&mut text, &histogram);
    if let Some(cpu) = cpu(before, after) {
        let each = cpu * 1e6 / count as f64;
        let _ = writeln!(text, "broker: {:.0} % of a core, {each:.1} CPU µs for each commit", cpu / seconds * 100.0);
    }
    Ok(text)
}
