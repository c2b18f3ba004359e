//! Internal topics: made when the first client looks for its coordinator, with the settings that Kafka gives them.

use crate::broker::Shard;
use crate::config::{self, BrokerConfig};
use crate::controller::{Command, NewTopic, Outcome};
use crate::error_code::ErrorCode;
use coreline_io::Runtime;
use std::collections::BTreeMap;
use std::rc::Rc;

/// An internal topic's name, and where its settings are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InternalTopic {
    /// Its name.
    pub name: &'static str,
    /// The broker's setting for its partitions.
    pub partitions_key: &'static str,
    /// The broker's setting for its replication factor.
    pub replication_key: &'static str,
    /// The broker's setting for the size of its segments.
    pub segment_bytes_key: &'static str,
    /// Its `compression.type`.
    pub compression: &'static str,
}

impl InternalTopic {
    /// The topic as it is made on a cluster of `brokers`.
    ///
    /// Its replication factor is the setting, or the number of brokers while that is less: Kafka refuses to make the topic
    /// then, and no client of the coordinator works until the setting or the cluster is changed.
    #[must_use]
    pub fn new_topic(&self, config: &BrokerConfig, brokers: usize) -> NewTopic {
        let wanted = config.integer(self.replication_key);
        let replicas = i64::try_from(brokers.max(1)).map_or(wanted, |brokers| wanted.min(brokers));
        let settings = [
            ("cleanup.policy", "compact".to_owned()),
            ("compression.type", self.compression.to_owned()),
            ("segment.bytes", config.integer(self.segment_bytes_key).to_string()),
        ];
        // Kafka sets all three; what this version does not obey is not set.
        let obeyed = |(key, value): &(&str, String)| {
            config::validate_topic(&BTreeMap::from([((*key).to_owned(), value.clone())])).is_ok()
        };
        let known = settings.into_iter().filter(obeyed);
        NewTopic {
            name: self.name.to_owned(),
            partitions: config.integer(self.partitions_key) as i32,
            replication_factor: i16::try_from(replicas).unwrap_or(i16::MAX),
            assignments: Vec::new(),
            configs: known.map(|(key, value)| (key.to_owned(), value)).collect::<BTreeMap<_, _>>(),
        }
    }

    /// Makes the topic if it is not there.
    ///
    /// # Errors
    /// `COORDINATOR_NOT_AVAILABLE`: clients try again.
    pub(crate) async fn ensure<R: Runtime>(&self, shard: &Rc<Shard<R>>) -> Result<(), ErrorCode> {
        let image = shard.image();
        if image.topic(self.name).is_some() {
            return Ok(());
        }
        let topic = self.new_topic(&shard.config, image.brokers.len());
        let command = Command::CreateTopics { topics: vec![topic], validate_only: false };
        let error = match shard.controller.submit(command).await {
            Ok(Outcome::Topics(outcomes)) => match outcomes.into_iter().next().map(|o| o.result) {
                // Made by somebody else meanwhile.
                Some(Err(error)) if error.code == ErrorCode::TopicAlreadyExists => return Ok(()),
                Some(Err(error)) => error,
                _ => return Ok(()),
            },
            Ok(other) => unreachable!("CreateTopics is answered topic by topic, not with {other:?}"),
            Err(error) => error,
        };
        tracing::warn!("{} could not be made: {}", self.name, error.message);
        Err(ErrorCode::CoordinatorNotAvailable)
    }
}
