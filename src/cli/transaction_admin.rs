//! What tools ask about transactions, of their coordinators and of the partitions: what `coreline transaction` and
//! `kafka-transactions` share.

use super::cluster::error_name;
use super::coordinators::{Coordinators, Kind, refused};
use super::group_admin::TopicPartition;
use crate::error_code::ErrorCode;
use coreline_bench::client::Client;
use kafka_protocol::messages::describe_producers_request::TopicRequest;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::write_txn_markers_request::{WritableTxnMarker, WritableTxnMarkerTopic};
use kafka_protocol::messages::{
    DescribeProducersRequest, DescribeTransactionsRequest, InitProducerIdRequest, ListTransactionsRequest,
    MetadataRequest, TopicName, TransactionalId, WriteTxnMarkersRequest,
};
use kafka_protocol::protocol::StrBytes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

/// A transaction in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    pub id: String,
    pub coordinator: i32,
    pub producer_id: i64,
    pub state: String,
}

/// Which transactions to list; all of them by default.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub states: Vec<String>,
    pub producer_ids: Vec<i64>,
    /// Only those that run for longer than so many milliseconds.
    pub longer_than_ms: Option<i64>,
    /// Only ids that match this regular expression.
    pub pattern: Option<String>,
}

/// A transactional id as its coordinator describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Description {
    pub id: String,
    pub coordinator: i32,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub state: String,
    pub timeout_ms: i32,
    pub started_ms: Option<i64>,
    pub partitions: BTreeSet<TopicPartition>,
}

/// A producer that a partition knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Producer {
    pub id: i64,
    pub epoch: i32,
    pub coordinator_epoch: i32,
    pub last_sequence: i32,
    pub last_timestamp: i64,
    /// Where its open transaction begins.
    pub open_since: Option<i64>,
}

/// A transaction to abort in one partition, whatever its coordinator says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Abort {
    pub partition: TopicPartition,
    pub producer_id: i64,
    pub producer_epoch: i16,
    pub coordinator_epoch: i32,
}

impl fmt::Display for Abort {
    /// As Kafka names it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (topic, index) = &self.partition;
        let Self { producer_id, producer_epoch, coordinator_epoch, .. } = self;
        write!(
            f,
            "AbortTransactionSpec(topicPartition={topic}-{index}, producerId={producer_id}, producerEpoch={producer_epoch}, coordinatorEpoch={coordinator_epoch})"
        )
    }
}

/// An open transaction in a partition.
pub(super) type Open = (TopicPartition, Producer);

/// Of open transactions those that nobody will end: no transactional id has the producer, or its transaction does not
/// hold the partition.
pub(super) fn hanging(open: Vec<Open>, known: &BTreeMap<i64, Description>) -> Vec<Open> {
    let ends = |(partition, producer): &Open| known.get(&producer.id).is_some_and(|t| t.partitions.contains(partition));
    open.into_iter().filter(|one| !ends(one)).collect()
}

fn text(s: &str) -> StrBytes {
    StrBytes::from_string(s.to_owned())
}

fn topic_name(s: &str) -> TopicName {
    TopicName(text(s))
}

fn said(error: coreline_bench::client::ClientError) -> String {
    error.to_string()
}

/// The brokers that coordinate transactions, and what they are asked.
pub(super) struct Transactions {
    cluster: Coordinators,
    timeout: Duration,
}

impl Transactions {
    /// Connects to the cluster. `timeout` is for connections, answers, and coordinators that are loading.
    pub(super) fn connect(server: &str, timeout: Duration) -> Result<Self, String> {
        Ok(Self { cluster: Coordinators::connect(server, Kind::Transaction, timeout)?, timeout })
    }

    /// Transactional ids of all coordinators, by name.
    pub(super) fn list(&mut self, filter: &Filter) -> Result<Vec<Listed>, String> {
        let mut ask = ListTransactionsRequest::default()
            .with_state_filters(filter.states.iter().map(|s| text(s)).collect())
            .with_producer_id_filters(filter.producer_ids.iter().map(|id| (*id).into()).collect());
        if let Some(longer) = filter.longer_than_ms {
            ask = ask.with_duration_filter(longer);
        }
        if let Some(pattern) = &filter.pattern {
            ask = ask.with_transactional_id_pattern(Some(text(pattern)));
        }
        let mut found = Vec::new();
        for (coordinator, address) in self.cluster.brokers()? {
            let answer = self.cluster.client(&address)?.call(&ask).map_err(said)?;
            if answer.error_code != 0 {
                return Err(error_name(answer.error_code));
            }
            if let Some(unknown) = answer.unknown_state_filters.first() {
                return Err(format!("{unknown} is not a state of transactions"));
            }
            found.extend(answer.transaction_states.iter().map(|t| Listed {
                id: t.transactional_id.0.to_string(),
                coordinator,
                producer_id: t.producer_id.0,
                state: t.transaction_state.to_string(),
            }));
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// What the coordinator knows about an id; none if it does not know it.
    pub(super) fn describe(&mut self, id: &str) -> Result<Option<Description>, String> {
        let (_, coordinator) = self.cluster.coordinator(id)?;
        let ask = DescribeTransactionsRequest::default().with_transactional_ids(vec![TransactionalId(text(id))]);
        let call = |client: &mut Client| {
            let answer = client.call(&ask).map_err(said)?;
            let first = answer.transaction_states.into_iter().next();
            first.ok_or_else(|| "DescribeTransactions was answered without the id".to_owned())
        };
        let found = self.cluster.ask(id, call, |t| t.error_code)?;
        match found.error_code {
            0 => {}
            code if code == ErrorCode::TransactionalIdNotFound.code() => return Ok(None),
            code => return Err(error_name(code)),
        }
        let partitions =
            found.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.topic.0.to_string(), *p))).collect();
        Ok(Some(Description {
            id: id.to_owned(),
            coordinator,
            producer_id: found.producer_id.0,
            producer_epoch: found.producer_epoch,
            state: found.transaction_state.to_string(),
            timeout_ms: found.transaction_timeout_ms,
            started_ms: (found.transaction_start_time_ms >= 0).then_some(found.transaction_start_time_ms),
            partitions,
        }))
    }

    /// Ends what a transactional id has open, and fences its producer.
    pub(super) fn fence(&mut self, id: &str) -> Result<(), String> {
        let ask = InitProducerIdRequest::default()
            .with_transactional_id(Some(TransactionalId(text(id))))
            .with_transaction_timeout_ms(i32::try_from(self.timeout.as_millis()).unwrap_or(i32::MAX))
            .with_producer_id((-1).into())
            .with_producer_epoch(-1);
        let concurrent = ErrorCode::ConcurrentTransactions.code();
        let deadline = std::time::Instant::now() + self.timeout;
        loop {
            let call = |client: &mut Client| client.call(&ask).map_err(said);
            match self.cluster.ask(id, call, |a| a.error_code)?.error_code {
                0 => return Ok(()),
                code if code == concurrent && std::time::Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                code => return Err(error_name(code)),
            }
        }
    }

    /// The topics with this name, or all that are not internal: leader and replicas of each partition.
    ///
    /// # Errors
    /// Kafka's name of the code for a topic that is not there.
    fn replicas(&mut self, topic: Option<&str>) -> Result<BTreeMap<TopicPartition, (i32, Vec<i32>)>, String> {
        let wanted = topic.map(|t| vec![MetadataRequestTopic::default().with_name(Some(topic_name(t)))]);
        let ask = MetadataRequest::default().with_topics(wanted).with_allow_auto_topic_creation(false);
        let answer = self.cluster.any().call(&ask).map_err(said)?;
        let mut found = BTreeMap::new();
        for t in answer.topics.iter().filter(|t| topic.is_some() || !t.is_internal) {
            if t.error_code != 0 {
                return Err(error_name(t.error_code));
            }
            let name = t.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
            for p in &t.partitions {
                let replicas = p.replica_nodes.iter().map(|n| n.0).collect();
                found.insert((name.clone(), p.partition_index), (p.leader_id.0, replicas));
            }
        }
        Ok(found)
    }

    /// The partitions of a topic (of all that are not internal) that have a replica on a broker (anywhere).
    pub(super) fn partitions(
        &mut self,
        topic: Option<&str>,
        broker: Option<i32>,
    ) -> Result<Vec<TopicPartition>, String> {
        let mut found = self.replicas(topic)?;
        found.retain(|_, (_, replicas)| broker.is_none_or(|b| replicas.contains(&b)));
        Ok(found.into_keys().collect())
    }

    /// The address to ask about a partition: of its leader, or of the broker that is named.
    fn address(&mut self, (topic, index): &TopicPartition, broker: Option<i32>) -> Result<String, String> {
        let node = match broker {
            Some(broker) => broker,
            None => {
                let unknown = || ErrorCode::UnknownTopicOrPartition.name().to_owned();
                let found = self.replicas(Some(topic))?;
                found.get(&(topic.clone(), *index)).ok_or_else(unknown)?.0
            }
        };
        self.cluster.brokers()?.remove(&node).ok_or_else(|| format!("there is no broker {node}"))
    }

    /// The producers that a partition's leader (or the named broker's replica) knows.
    pub(super) fn producers(
        &mut self,
        partition: &TopicPartition,
        broker: Option<i32>,
    ) -> Result<Vec<Producer>, String> {
        let address = self.address(partition, broker)?;
        let (topic, index) = partition;
        let wanted = TopicRequest::default().with_name(topic_name(topic)).with_partition_indexes(vec![*index]);
        let ask = DescribeProducersRequest::default().with_topics(vec![wanted]);
        let answer = self.cluster.client(&address)?.call(&ask).map_err(said)?;
        let found = answer.topics.iter().flat_map(|t| &t.partitions).next();
        let found = found.ok_or("DescribeProducers was answered without the partition")?;
        if found.error_code != 0 {
            return Err(refused(found.error_code, found.error_message.as_ref()));
        }
        let producer = |p: &kafka_protocol::messages::describe_producers_response::ProducerState| Producer {
            id: p.producer_id.0,
            epoch: p.producer_epoch,
            coordinator_epoch: p.coordinator_epoch,
            last_sequence: p.last_sequence,
            last_timestamp: p.last_timestamp,
            open_since: (p.current_txn_start_offset >= 0).then_some(p.current_txn_start_offset),
        };
        Ok(found.active_producers.iter().map(producer).collect())
    }

    /// The transaction that begins at an offset of a partition.
    pub(super) fn open_at(&mut self, partition: &TopicPartition, offset: i64) -> Result<Option<Abort>, String> {
        let found = self.producers(partition, None)?.into_iter().find(|p| p.open_since == Some(offset));
        Ok(found.map(|p| Abort {
            partition: partition.clone(),
            producer_id: p.id,
            producer_epoch: i16::try_from(p.epoch).unwrap_or(i16::MAX),
            coordinator_epoch: p.coordinator_epoch.max(0),
        }))
    }

    /// Writes the marker that aborts a transaction in its partition.
    pub(super) fn abort(&mut self, abort: &Abort) -> Result<(), String> {
        let address = self.address(&abort.partition, None)?;
        let (topic, index) = &abort.partition;
        let topic = WritableTxnMarkerTopic::default().with_name(topic_name(topic)).with_partition_indexes(vec![*index]);
        let marker = WritableTxnMarker::default()
            .with_producer_id(abort.producer_id.into())
            .with_producer_epoch(abort.producer_epoch)
            .with_coordinator_epoch(abort.coordinator_epoch)
            .with_transaction_result(false)
            .with_topics(vec![topic]);
        let ask = WriteTxnMarkersRequest::default().with_markers(vec![marker]);
        let answer = self.cluster.client(&address)?.call(&ask).map_err(said)?;
        let code = answer.markers.iter().flat_map(|m| &m.topics).flat_map(|t| &t.partitions).map(|p| p.error_code);
        match code.max() {
            Some(0) => Ok(()),
            Some(code) => Err(error_name(code)),
            None => Err("WriteTxnMarkers was answered without the partition".to_owned()),
        }
    }

    /// Open transactions of partitions whose last record is older than `age_ms`, and that nobody will end.
    pub(super) fn find_hanging(
        &mut self,
        partitions: Vec<TopicPartition>,
        broker: Option<i32>,
        (now_ms, age_ms): (i64, i64),
    ) -> Result<Vec<Open>, String> {
        let mut open = Vec::new();
        for partition in partitions {
            let producers = self.producers(&partition, broker)?.into_iter();
            let old = producers.filter(|p| p.open_since.is_some() && now_ms.saturating_sub(p.last_timestamp) > age_ms);
            open.extend(old.map(|p| (partition.clone(), p)));
        }
        if open.is_empty() {
            return Ok(open);
        }
        let producer_ids = open.iter().map(|(_, p)| p.id).collect::<BTreeSet<_>>().into_iter().collect();
        let mut known = BTreeMap::new();
        for listed in self.list(&Filter { producer_ids, ..Filter::default() })? {
            if let Some(found) = self.describe(&listed.id)? {
                known.insert(listed.producer_id, found);
            }
        }
        Ok(hanging(open, &known))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_hangs_when_no_coordinator_will_end_it_there() {
        let partition = |i| ("t".to_owned(), i);
        let producer = |id| Producer {
            id,
            epoch: 0,
            coordinator_epoch: -1,
            last_sequence: 0,
            last_timestamp: 0,
            open_since: Some(7),
        };
        let known = Description {
            id: "x".to_owned(),
            coordinator: 1,
            producer_id: 1,
            producer_epoch: 0,
            state: "Ongoing".to_owned(),
            timeout_ms: 1,
            started_ms: None,
            partitions: BTreeSet::from([partition(0)]),
        };
        let open = vec![(partition(0), producer(1)), (partition(1), producer(1)), (partition(0), producer(2))];
        let expected = open[1..].to_vec();
        assert_eq!(hanging(open, &BTreeMap::from([(1, known)])), expected);
    }
}
