//! The topic of a run: made if it is missing, its partitions dealt out to connections.

use super::{LoadError, TIMEOUT, Workload};
use crate::client::Client;
use kafka_protocol::messages::create_topics_request::CreatableTopic;
use kafka_protocol::messages::{CreateTopicsRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::time::Instant;

const TOPIC_ALREADY_EXISTS: i16 = 36;

/// The partitions of one connection, all led by the broker it goes to.
#[derive(Clone, Debug)]
pub(super) struct Share {
    pub(super) address: String,
    pub(super) partitions: Vec<i32>,
}

/// Makes sure of the topic and deals its partitions to `workload.connections` connections, by leader.
pub(super) fn prepare(client: &mut Client, workload: &Workload) -> Result<Vec<Share>, LoadError> {
    create(client, workload)?;
    let deadline = Instant::now() + TIMEOUT;
    let cluster = loop {
        let cluster = client.metadata(Some(&[&workload.topic]))?;
        let led = |t: &crate::client::Topic| t.error_code == 0 && !t.leaders.is_empty() && !t.leaders.contains(&-1);
        if cluster.topics.get(&workload.topic).is_some_and(led) {
            break cluster;
        }
        if Instant::now() > deadline {
            return Err(LoadError::Workload(format!("topic {} has no leaders after a minute", workload.topic)));
        }
    };
    let leaders = &cluster.topics[&workload.topic].leaders;
    let active = if workload.active > 0 { workload.active as usize } else { leaders.len() };
    let mut shares: Vec<Share> = Vec::new();
    for (partition, leader) in leaders.iter().enumerate().take(active) {
        let address = cluster.address_of(*leader).unwrap_or(&workload.bootstrap_server);
        let mine = |s: &&mut Share| s.address == address;
        let of_leader = shares.iter().filter(|s| s.address == address).count();
        if of_leader < workload.connections {
            shares.push(Share { address: address.to_owned(), partitions: vec![partition as i32] });
        } else {
            let smallest = shares.iter_mut().filter(mine).min_by_key(|s| s.partitions.len()).expect("one is there");
            smallest.partitions.push(partition as i32);
        }
    }
    // More connections than partitions: they share partitions.
    let dealt = shares.len();
    for i in dealt..workload.connections {
        shares.push(shares[i % dealt].clone());
    }
    shares.iter().try_for_each(|share| wait_until_served(workload, share))?;
    Ok(shares)
}

/// Metadata may name a leader that has not taken over yet: asks for offsets until all partitions answer.
fn wait_until_served(workload: &Workload, share: &Share) -> Result<(), LoadError> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        match super::consume::offsets(workload, share, super::consume::LATEST) {
            Err(LoadError::Refused { .. }) if Instant::now() < deadline => {}
            other => return other.map(drop),
        }
    }
}

fn create(client: &mut Client, workload: &Workload) -> Result<(), LoadError> {
    let topic = CreatableTopic::default()
        .with_name(TopicName(StrBytes::from_string(workload.topic.clone())))
        .with_num_partitions(workload.partitions)
        .with_replication_factor(-1);
    let answer = client.call(&CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(60_000))?;
    match answer.topics.first().map_or(0, |t| t.error_code) {
        0 | TOPIC_ALREADY_EXISTS => Ok(()),
        code => Err(LoadError::Refused { what: format!("create topic {}", workload.topic), code }),
    }
}
