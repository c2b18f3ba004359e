//! What a client has to know of a cluster: nodes, topics, leaders.

use super::{Client, ClientResult};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{MetadataRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use uuid::Uuid;

/// A broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its node id.
    pub id: i32,
    /// `host:port` as advertised.
    pub address: String,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its id (nil from brokers before KIP-516).
    pub id: Uuid,
    /// The error code of the topic, 0 for none.
    pub error_code: i16,
    /// The leader's node id by partition, -1 for none.
    pub leaders: Vec<i32>,
}

/// A picture of the cluster at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cluster {
    /// The brokers.
    pub nodes: Vec<Node>,
    /// The topics that were asked for, by name.
    pub topics: BTreeMap<String, Topic>,
}

impl Cluster {
    /// The address of a node.
    #[must_use]
    pub fn address_of(&self, node: i32) -> Option<&str> {
        self.nodes.iter().find(|n| n.id == node).map(|n| n.address.as_str())
    }
}

impl Client {
    /// Asks for some topics, or for all of them. Never creates one.
    ///
    /// # Errors
    /// See [`super::ClientError`].
    pub fn metadata(&mut self, topics: Option<&[&str]>) -> ClientResult<Cluster> {
        self.metadata_with(topics, false)
    }

    pub(super) fn metadata_with(&mut self, topics: Option<&[&str]>, create: bool) -> ClientResult<Cluster> {
        let wanted = topics.map(|names| {
            let name = |n: &&str| TopicName(StrBytes::from_string((*n).to_owned()));
            names.iter().map(|n| MetadataRequestTopic::default().with_name(Some(name(n)))).collect()
        });
        let ask = MetadataRequest::default().with_topics(wanted).with_allow_auto_topic_creation(create);
        let answer = self.call(&ask)?;
        let address = |host: &str, port: i32| {
            if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
        };
        let nodes = answer
            .brokers
            .iter()
            .map(|b| Node { id: b.node_id.0, address: address(b.host.as_str(), b.port) })
            .collect();
        let topics = answer
            .topics
            .iter()
            .map(|t| {
                let mut leaders = vec![-1; t.partitions.len()];
                for p in &t.partitions {
                    if let Some(slot) = usize::try_from(p.partition_index).ok().and_then(|i| leaders.get_mut(i)) {
                        *slot = p.leader_id.0;
                    }
                }
                let name = t.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
                (name, Topic { id: t.topic_id, error_code: t.error_code, leaders })
            })
            .collect();
        Ok(Cluster { nodes, topics })
    }
}
