//! Commands: what clients ask of the metadata, judged against an image and turned into records.

use super::image::{ClusterImage, PartitionImage, TopicImage};
use super::placement::{self, Placer};
use super::records::{ConfigResource, MetadataRecord};
use crate::config;
use crate::error_code::ErrorCode;
use crate::ids::{BrokerId, LeaderEpoch, PartitionId, PartitionIndex, TopicId};
use crate::protocol::topic_name;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Partitions that one request may make, as in Kafka.
pub const PARTITIONS_PER_COMMAND_MAX: i64 = 10_000;

/// Producer ids in a block, as in Kafka.
pub const PRODUCER_ID_BLOCK: i64 = 1000;

/// Why a command, or one topic of it, is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.name())]
pub struct CommandError {
    /// Kafka's code.
    pub code: ErrorCode,
    /// A sentence for the client.
    pub message: String,
}

impl CommandError {
    /// An error with its sentence.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// A topic to make. `partitions` or `replication_factor` of -1 is the broker's default; `assignments` name replicas by
/// partition instead.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewTopic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// How many replicas.
    pub replication_factor: i16,
    /// Replicas by partition; empty to let the controller choose.
    pub assignments: Vec<(i32, Vec<i32>)>,
    /// Settings.
    pub configs: BTreeMap<String, String>,
}

/// A topic by name or by id.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TopicRef {
    /// By name.
    Name(String),
    /// By id.
    Id(TopicId),
}

/// More partitions for a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MorePartitions {
    /// The topic.
    pub name: String,
    /// How many there shall be.
    pub count: i32,
    /// Replicas of the new ones, if the client chose.
    pub assignments: Option<Vec<Vec<i32>>>,
}

/// The resource of a change of settings, as clients name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ResourceRef {
    /// A topic by name.
    Topic(String),
    /// A broker, or all brokers (none).
    Broker(Option<BrokerId>),
    /// A group, whether it is there or not.
    Group(String),
}

/// New values of some keys; none takes a value back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// Of what.
    pub resource: ResourceRef,
    /// Key and value.
    pub values: Vec<(String, Option<String>)>,
    /// All other settings are taken back (AlterConfigs, the old call).
    pub replace: bool,
}

/// Something to change, with the answer by item: one bad topic does not hold up the others of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Make topics.
    CreateTopics {
        /// They.
        topics: Vec<NewTopic>,
        /// Only judge.
        validate_only: bool,
    },
    /// Delete topics.
    DeleteTopics {
        /// They.
        topics: Vec<TopicRef>,
    },
    /// Add partitions.
    CreatePartitions {
        /// To which.
        topics: Vec<MorePartitions>,
        /// Only judge.
        validate_only: bool,
    },
    /// Change settings. The values were judged by the handler, which knows the broker's own.
    AlterConfigs {
        /// The changes.
        changes: Vec<ConfigChange>,
        /// Only judge.
        validate_only: bool,
    },
    /// Hand out a block of producer ids.
    AllocateProducerIds,
    /// A broker comes.
    RegisterBroker {
        /// Its node id.
        id: BrokerId,
        /// What clients connect to.
        host: String,
        /// What clients connect to.
        port: u16,
    },
    /// Give a fresh cluster its id.
    Format {
        /// 22 characters of base64.
        cluster_id: String,
    },
    /// A partition goes to another shard. Whoever submits it has seen to it that the one before has let go of it.
    MovePartition {
        /// Which.
        partition: PartitionId,
        /// Where to.
        to: u16,
    },
    /// Place partitions on so many shards.
    ChangeShards {
        /// The count.
        shards: u16,
    },
}

/// What became of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicOutcome {
    /// Its name, where it is known.
    pub name: Option<String>,
    /// Its id, where it is known.
    pub id: TopicId,
    /// Partitions and replicas of each, or why not.
    pub result: Result<(i32, i16), CommandError>,
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Topic by topic, in the order of the command.
    Topics(Vec<TopicOutcome>),
    /// Change by change, in the order of the command.
    Configs(Vec<Result<(), CommandError>>),
    /// The partition is on its shard, or why not.
    Moved(Result<(), CommandError>),
    /// The first id of a block of [`PRODUCER_ID_BLOCK`].
    ProducerIds(i64),
    /// Done.
    Done,
}

/// What judging needs besides the image.
pub struct Context<'a> {
    /// `num.partitions`.
    pub num_partitions: i32,
    /// `default.replication.factor`.
    pub replication_factor: i16,
    /// `delete.topic.enable`.
    pub delete_topics: bool,
    /// Random numbers for new ids.
    pub random: &'a mut dyn FnMut() -> u64,
}

impl std::fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("num_partitions", &self.num_partitions).finish_non_exhaustive()
    }
}

/// Judges a command against an image: the records to commit, and the answer once they are.
pub fn evaluate(image: &ClusterImage, command: &Command, context: &mut Context<'_>) -> (Vec<MetadataRecord>, Outcome) {
    match command {
        Command::CreateTopics { topics, validate_only } => create_topics(image, topics, *validate_only, context),
        Command::DeleteTopics { topics } => delete_topics(image, topics, context),
        Command::CreatePartitions { topics, validate_only } => create_partitions(image, topics, *validate_only),
        Command::AlterConfigs { changes, validate_only } => alter_configs(image, changes, *validate_only),
        Command::AllocateProducerIds => {
            let first = image.next_producer_id;
            let next = first + PRODUCER_ID_BLOCK;
            (vec![MetadataRecord::ProducerIdsAllocated { next }], Outcome::ProducerIds(first))
        }
        Command::RegisterBroker { id, host, port } => register(image, *id, host, *port),
        Command::Format { cluster_id } => {
            (vec![MetadataRecord::ClusterFormatted { cluster_id: cluster_id.clone() }], Outcome::Done)
        }
        Command::MovePartition { partition, to } => match may_move(image, *partition, *to) {
            Ok(_) => {
                let PartitionId { topic, index } = *partition;
                (vec![MetadataRecord::PartitionPlaced { topic, index, shard: *to }], Outcome::Moved(Ok(())))
            }
            Err(error) => (Vec::new(), Outcome::Moved(Err(error))),
        },
        Command::ChangeShards { shards } => (placement::replace_all(image, *shards), Outcome::Done),
    }
}

/// The shard that a partition would leave for `to`, if it may.
///
/// Partitions of internal topics stay: their coordinators would have to be loaded anew.
///
/// # Errors
/// `UNKNOWN_TOPIC_OR_PARTITION`, `INVALID_TOPIC_EXCEPTION` (an internal topic), `INVALID_REQUEST` (no such shard, or it is there).
pub fn may_move(image: &ClusterImage, partition: PartitionId, to: u16) -> Result<u16, CommandError> {
    let topic = image.topic_by_id(partition.topic);
    let Some((topic, found)) = topic.and_then(|topic| Some((topic, topic.partition(partition.index.0)?))) else {
        let message = format!("partition {partition} does not exist");
        return Err(CommandError::new(ErrorCode::UnknownTopicOrPartition, message));
    };
    if topic.internal {
        let message = format!("{} is an internal topic: its partitions stay where their coordinators are", topic.name);
        return Err(CommandError::new(ErrorCode::InvalidTopicException, message));
    }
    if to >= image.shards {
        let message = format!("core {to} does not exist: expected 0 to {}", image.shards.saturating_sub(1));
        return Err(CommandError::new(ErrorCode::InvalidRequest, message));
    }
    if found.shard == to {
        let message = format!("{}-{} is on core {to} already", topic.name, partition.index);
        return Err(CommandError::new(ErrorCode::InvalidRequest, message));
    }
    Ok(found.shard)
}

fn register(image: &ClusterImage, id: BrokerId, host: &str, port: u16) -> (Vec<MetadataRecord>, Outcome) {
    let epoch = image.brokers.get(&id).map_or(0, |r| r.epoch + 1);
    let record = MetadataRecord::BrokerRegistered { id, host: host.to_owned(), port, rack: None, epoch };
    (vec![record], Outcome::Done)
}

fn create_topics(
    image: &ClusterImage,
    topics: &[NewTopic],
    validate_only: bool,
    context: &mut Context<'_>,
) -> (Vec<MetadataRecord>, Outcome) {
    let mut working = image.clone();
    let (mut all, mut outcomes) = (Vec::new(), Vec::new());
    let wanted = |topic: &NewTopic| match topic.partitions {
        _ if !topic.assignments.is_empty() => topic.assignments.len() as i64,
        -1 => i64::from(context.num_partitions),
        n => i64::from(n.max(0)),
    };
    let excessive = excessive(topics.iter().map(wanted));
    let times = times(topics.iter().map(|t| t.name.as_str()));
    for topic in topics {
        let judged = if let Err(e) = &excessive {
            Err(e.clone())
        } else if times[topic.name.as_str()] > 1 {
            Err(CommandError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
        } else {
            create_topic(&working, topic, context)
        };
        let mut outcome = TopicOutcome { name: Some(topic.name.clone()), id: TopicId::default(), result: Ok((-1, -1)) };
        match judged {
            Err(e) => outcome.result = Err(e),
            Ok((id, partitions, records)) => {
                let replicas = partitions.first().map_or(1, |p| p.replicas.len());
                let replicas = i16::try_from(replicas).unwrap_or(i16::MAX);
                outcome.result = Ok((i32::try_from(partitions.len()).unwrap_or(i32::MAX), replicas));
                // As Kafka: what is only validated has an id, too.
                outcome.id = id;
                if !validate_only {
                    records.iter().for_each(|r| working.apply(r));
                    all.extend(records);
                }
            }
        }
        outcomes.push(outcome);
    }
    (all, Outcome::Topics(outcomes))
}

/// Kafka's bound on what one request may make, in all.
fn excessive(partitions: impl Iterator<Item = i64>) -> Result<(), CommandError> {
    if partitions.sum::<i64>() > PARTITIONS_PER_COMMAND_MAX {
        let message = "Excessively large number of partitions per request.";
        return Err(CommandError::new(ErrorCode::PolicyViolation, message));
    }
    Ok(())
}

/// How often each name is there.
fn times<'a>(names: impl Iterator<Item = &'a str>) -> BTreeMap<&'a str, usize> {
    let mut times = BTreeMap::new();
    names.for_each(|name| *times.entry(name).or_default() += 1);
    times
}

type NewPartitions = (TopicId, Vec<PartitionImage>, Vec<MetadataRecord>);

fn create_topic(
    image: &ClusterImage,
    topic: &NewTopic,
    context: &mut Context<'_>,
) -> Result<NewPartitions, CommandError> {
    let refuse = |code, message: String| Err(CommandError::new(code, message));
    topic_name::check(&topic.name)
        .map_err(|e| CommandError::new(ErrorCode::InvalidTopicException, format!("Topic name is invalid: {e}")))?;
    if image.topic(&topic.name).is_some() {
        return refuse(ErrorCode::TopicAlreadyExists, format!("Topic '{}' already exists.", topic.name));
    }
    if let Some(other) = image.colliding_topic(&topic.name) {
        let message = format!("Topic '{}' collides with existing topic: {other}", topic.name);
        return refuse(ErrorCode::InvalidTopicException, message);
    }
    config::validate_topic(&topic.configs).map_err(|e| CommandError::new(ErrorCode::InvalidConfig, e.to_string()))?;
    let replicas = replicas_of_new_topic(image, topic, context)?;
    let id = new_topic_id(image, context);
    let partitions = placed(&mut Placer::new(image), id, [], replicas);
    let mut records = vec![
        MetadataRecord::TopicCreated { id, name: topic.name.clone() },
        MetadataRecord::PartitionsCreated { topic: id, first: PartitionIndex(0), partitions: partitions.clone() },
    ];
    records.extend(topic.configs.iter().map(|(name, value)| MetadataRecord::ConfigChanged {
        resource: ConfigResource::Topic(id),
        name: name.clone(),
        value: Some(value.clone()),
    }));
    Ok((id, partitions, records))
}

fn replicas_of_new_topic(
    image: &ClusterImage,
    topic: &NewTopic,
    context: &Context<'_>,
) -> Result<Vec<Vec<BrokerId>>, CommandError> {
    let refuse = |code, message: &str| Err(CommandError::new(code, message));
    if !topic.assignments.is_empty() {
        if topic.replication_factor != -1 {
            let message = "A manual partition assignment was specified, but replication factor was not set to -1.";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        if topic.partitions != -1 {
            let message = "A manual partition assignment was specified, but numPartitions was not set to -1.";
            return refuse(ErrorCode::InvalidRequest, message);
        }
        let mut sorted = topic.assignments.clone();
        sorted.sort();
        if let Some(twice) = sorted.windows(2).find(|w| w[0].0 == w[1].0) {
            let message = format!("Found multiple manual partition assignments for partition {}", twice[0].0);
            return refuse(ErrorCode::InvalidReplicaAssignment, &message);
        }
        if sorted.iter().enumerate().any(|(i, (index, _))| i32::try_from(i) != Ok(*index)) {
            let message = "partitions should be a consecutive 0-based integer sequence";
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        return check_assignments(image, None, sorted.into_iter().map(|(_, replicas)| replicas).collect());
    }
    let partitions = if topic.partitions == -1 { context.num_partitions } else { topic.partitions };
    if partitions <= 0 {
        return refuse(ErrorCode::InvalidPartitions, "Number of partitions was set to an invalid non-positive value.");
    }
    let factor = if topic.replication_factor == -1 { context.replication_factor } else { topic.replication_factor };
    if factor <= 0 {
        let message = "Replication factor must be larger than 0, or -1 to use the default value.";
        return refuse(ErrorCode::InvalidReplicationFactor, message);
    }
    let brokers: Vec<BrokerId> = image.brokers.keys().copied().collect();
    if factor as usize > brokers.len() {
        let message = format!(
            "Unable to replicate the partition {factor} time(s): The target replication factor of {factor} cannot be \
             reached because only {} broker(s) are registered.",
            brokers.len()
        );
        return refuse(ErrorCode::InvalidReplicationFactor, &message);
    }
    let chosen = |p: i32| (0..factor as usize).map(|r| brokers[(p as usize + r) % brokers.len()]).collect();
    Ok((0..partitions).map(chosen).collect())
}

/// `factor` is how many replicas each must have, where it is known.
fn check_assignments(
    image: &ClusterImage,
    mut factor: Option<usize>,
    assignments: Vec<Vec<i32>>,
) -> Result<Vec<Vec<BrokerId>>, CommandError> {
    let refuse = |message: String| Err(CommandError::new(ErrorCode::InvalidReplicaAssignment, message));
    for replicas in &assignments {
        if replicas.is_empty() {
            return refuse("The manual partition assignment includes an empty replica list.".to_owned());
        }
        if let Some(stranger) = replicas.iter().find(|r| !image.brokers.contains_key(&BrokerId(**r))) {
            return refuse(format!(
                "The manual partition assignment includes broker {stranger}, but no such broker is registered."
            ));
        }
        if let Some((_, twice)) = replicas.iter().enumerate().find(|(i, r)| replicas[..*i].contains(r)) {
            return refuse(format!("The manual partition assignment includes the broker {twice} more than once."));
        }
        let before = *factor.get_or_insert(replicas.len());
        if replicas.len() != before {
            let message = format!(
                "The manual partition assignment includes a partition with {} replica(s), but this is not consistent \
                 with previous partitions, which have {before} replica(s).",
                replicas.len()
            );
            return refuse(message);
        }
    }
    Ok(assignments.into_iter().map(|replicas| replicas.into_iter().map(BrokerId).collect()).collect())
}

/// New partitions of a topic whose others are on the shards of `existing`.
fn placed(
    placer: &mut Placer,
    topic: TopicId,
    existing: impl IntoIterator<Item = u16>,
    replicas: Vec<Vec<BrokerId>>,
) -> Vec<PartitionImage> {
    let places = placer.place(topic, existing, replicas.len());
    let place = |(replicas, shard): (Vec<BrokerId>, u16)| PartitionImage {
        leader: replicas[0],
        leader_epoch: LeaderEpoch(0),
        partition_epoch: 0,
        isr: replicas.clone(),
        replicas,
        shard,
    };
    replicas.into_iter().zip(places).map(place).collect()
}

fn new_topic_id(image: &ClusterImage, context: &mut Context<'_>) -> TopicId {
    loop {
        let (high, low) = ((context.random)(), (context.random)());
        let id = TopicId(uuid::Builder::from_random_bytes(Uuid::from_u64_pair(high, low).into_bytes()).into_uuid());
        // As Kafka: no id that looks like an option on a command line, and no id twice.
        let looks_like_option = id.0.as_bytes()[0] >> 2 == 62;
        if !looks_like_option && image.topic_by_id(id).is_none() {
            return id;
        }
    }
}

fn find<'a>(image: &'a ClusterImage, topic: &TopicRef) -> Result<&'a TopicImage, CommandError> {
    match topic {
        TopicRef::Name(name) => image.topic(name).map(|t| &**t).ok_or_else(|| unknown_topic(name)),
        TopicRef::Id(id) => image
            .topic_by_id(*id)
            .map(|t| &**t)
            .ok_or_else(|| CommandError::new(ErrorCode::UnknownTopicId, "This server does not host this topic ID.")),
    }
}

fn unknown_topic(name: &str) -> CommandError {
    CommandError::new(ErrorCode::UnknownTopicOrPartition, format!("The topic '{name}' does not exist."))
}

fn delete_topics(image: &ClusterImage, topics: &[TopicRef], context: &Context<'_>) -> (Vec<MetadataRecord>, Outcome) {
    let mut records = Vec::new();
    let mut outcomes = Vec::new();
    let (mut seen, mut gone) = (BTreeSet::new(), BTreeSet::new());
    let twice: BTreeSet<&TopicRef> = topics.iter().filter(|t| !seen.insert(*t)).collect();
    for topic in topics {
        let found = find(image, topic);
        let (mut name, mut id) = match topic {
            TopicRef::Name(name) => (Some(name.clone()), TopicId::default()),
            TopicRef::Id(id) => (None, *id),
        };
        if let (Ok(t), false) = (&found, twice.contains(topic)) {
            (name, id) = (Some(t.name.to_string()), t.id);
        }
        let result = match found {
            _ if twice.contains(topic) => Err(CommandError::new(ErrorCode::InvalidRequest, "Duplicate topic name.")),
            _ if !context.delete_topics => {
                Err(CommandError::new(ErrorCode::TopicDeletionDisabled, "Topic deletion is disabled."))
            }
            Err(e) => Err(e),
            Ok(t) => {
                if gone.insert(t.id) {
                    records.push(MetadataRecord::TopicDeleted { id: t.id });
                }
                Ok((-1, -1))
            }
        };
        outcomes.push(TopicOutcome { name, id, result });
    }
    (records, Outcome::Topics(outcomes))
}

fn create_partitions(
    image: &ClusterImage,
    topics: &[MorePartitions],
    validate_only: bool,
) -> (Vec<MetadataRecord>, Outcome) {
    let mut records = Vec::new();
    let mut outcomes = Vec::new();
    let added = |more: &MorePartitions| {
        let there = image.topic(&more.name).map_or(0, |t| t.partitions.len() as i64);
        (i64::from(more.count) - there).max(0)
    };
    let excessive = excessive(topics.iter().map(added));
    let times = times(topics.iter().map(|t| t.name.as_str()));
    let mut placer = Placer::new(image);
    for more in topics {
        let judged = if let Err(e) = &excessive {
            Err(e.clone())
        } else if times[more.name.as_str()] > 1 {
            Err(CommandError::new(ErrorCode::InvalidRequest, "Duplicate topic name."))
        } else {
            more_partitions(image, more, &mut placer)
        };
        let result = judged.map(|record| {
            if !validate_only {
                records.push(record);
            }
            (more.count, -1)
        });
        outcomes.push(TopicOutcome { name: Some(more.name.clone()), id: TopicId::default(), result });
    }
    (records, Outcome::Topics(outcomes))
}

fn more_partitions(
    image: &ClusterImage,
    more: &MorePartitions,
    placer: &mut Placer,
) -> Result<MetadataRecord, CommandError> {
    let topic = image.topic(&more.name).ok_or_else(|| unknown_topic(&more.name))?;
    let there = topic.partitions.len();
    let refuse = |code, message: String| Err(CommandError::new(code, message));
    let wanted = usize::try_from(more.count).unwrap_or(0);
    if wanted <= there {
        let message = if wanted == there {
            format!("Topic already has {there} partition(s).")
        } else {
            let (name, count) = (&more.name, more.count);
            format!("The topic {name} currently has {there} partition(s); {count} would not be an increase.")
        };
        return refuse(ErrorCode::InvalidPartitions, message);
    }
    let added = wanted - there;
    let factor = topic.partitions.first().map_or(1, |p| p.replicas.len());
    let replicas = match &more.assignments {
        Some(chosen) if chosen.len() != added => {
            let message = format!(
                "Attempted to add {added} additional partition(s), but only {} assignment(s) were specified.",
                chosen.len()
            );
            return refuse(ErrorCode::InvalidReplicaAssignment, message);
        }
        Some(chosen) => check_assignments(image, Some(factor), chosen.clone())?,
        None => {
            let brokers: Vec<BrokerId> = image.brokers.keys().copied().collect();
            let replicas = |p: usize| (0..factor).map(|r| brokers[(there + p + r) % brokers.len()]).collect();
            (0..added).map(replicas).collect()
        }
    };
    let first = PartitionIndex(i32::try_from(there).expect("partitions are counted in 31 bits"));
    Ok(MetadataRecord::PartitionsCreated {
        topic: topic.id,
        first,
        partitions: placed(placer, topic.id, topic.partitions.iter().map(|p| p.shard), replicas),
    })
}

fn alter_configs(
    image: &ClusterImage,
    changes: &[ConfigChange],
    validate_only: bool,
) -> (Vec<MetadataRecord>, Outcome) {
    let mut records = Vec::new();
    let mut results = Vec::new();
    for change in changes {
        let found = match &change.resource {
            ResourceRef::Topic(name) => image
                .topic(name)
                .map(|t| (ConfigResource::Topic(t.id), Some(&t.configs)))
                .ok_or_else(|| unknown_topic(name)),
            ResourceRef::Broker(id) => Ok((ConfigResource::Broker(*id), image.broker_configs.get(id))),
            ResourceRef::Group(id) => Ok((ConfigResource::Group(id.clone()), image.group_configs.get(id.as_str()))),
        };
        results.push(found.map(|(resource, now)| {
            if validate_only {
                return;
            }
            let set = |(name, value): (String, Option<String>)| MetadataRecord::ConfigChanged {
                resource: resource.clone(),
                name,
                value,
            };
            if change.replace {
                let stays = |name: &String| change.values.iter().any(|(n, _)| n == name);
                let gone = now.into_iter().flat_map(|c| c.keys()).filter(|n| !stays(n));
                records.extend(gone.map(|name| set((name.clone(), None))));
            }
            records.extend(change.values.iter().cloned().map(set));
        }));
    }
    (records, Outcome::Configs(results))
}

#[cfg(test)]
#[path = "commands_tests.rs"]
mod tests;
