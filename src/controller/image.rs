//! The cluster as it is after some record of the metadata log. Immutable and shared: every shard has the newest.

use super::cow_map::CowMap;
use super::records::{ConfigResource, MetadataRecord};
use crate::ids::{BrokerId, LeaderEpoch, PartitionId, PartitionIndex, TopicId};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A partition: who leads it, who has it, which shard of this node owns it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionImage {
    /// The leader's node id; -1 for none.
    pub leader: BrokerId,
    /// Grows with every new leader.
    pub leader_epoch: LeaderEpoch,
    /// Grows with every change of this entry.
    pub partition_epoch: i32,
    /// The nodes that have it, the preferred leader first.
    pub replicas: Vec<BrokerId>,
    /// Those in sync.
    pub isr: Vec<BrokerId>,
    /// The shard that owns it on this node.
    pub shard: u16,
}

/// A topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicImage {
    /// Its id for ever.
    pub id: TopicId,
    /// Its name.
    pub name: Arc<str>,
    /// Of Kafka's own (`__consumer_offsets`, …).
    pub internal: bool,
    /// By index.
    pub partitions: Vec<PartitionImage>,
    /// Settings made on it.
    pub configs: BTreeMap<String, String>,
}

impl TopicImage {
    /// The partition at an index.
    #[must_use]
    pub fn partition(&self, index: i32) -> Option<&PartitionImage> {
        usize::try_from(index).ok().and_then(|i| self.partitions.get(i))
    }

    /// The partition's key.
    #[must_use]
    pub fn partition_id(&self, index: usize) -> PartitionId {
        PartitionId { topic: self.id, index: PartitionIndex(i32::try_from(index).expect("indexes are 31 bits")) }
    }
}

/// A broker that registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// What clients connect to.
    pub host: String,
    /// What clients connect to.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
    /// Grows with every registration.
    pub epoch: i64,
}

/// A topic as it was and as it is; none where there is none of that name.
pub type TopicChange<'a> = (Option<&'a TopicImage>, Option<&'a TopicImage>);

/// The cluster's metadata at one index of the log.
///
/// `topics` and `names` hold the same topics; `collisions` those of them with a `.` or `_` in their name; the sum of
/// `shard_load` is the number of partitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterImage {
    /// The last entry of the metadata log that is in it.
    pub index: u64,
    /// 22 characters of base64; empty before the cluster is formatted.
    pub cluster_id: String,
    /// By node id.
    pub brokers: BTreeMap<BrokerId, Registration>,
    topics: CowMap<Arc<str>, Arc<TopicImage>>,
    names: CowMap<TopicId, Arc<str>>,
    /// Names with `.` as `_` → names as they are.
    collisions: CowMap<Arc<str>, Arc<str>>,
    /// Partitions on each shard.
    shard_load: Vec<u32>,
    /// Settings made at run time, by broker (none: all of them).
    pub broker_configs: BTreeMap<Option<BrokerId>, BTreeMap<String, String>>,
    /// Settings made at run time, by group; never without settings.
    pub group_configs: Arc<BTreeMap<Arc<str>, BTreeMap<String, String>>>,
    /// The first producer id that nobody has.
    pub next_producer_id: i64,
    /// Shards that partitions are placed on.
    pub shards: u16,
}

/// What of a name two topics must not share; none if it cannot collide. Metric names cannot tell `.` from `_`.
fn collision_key(name: &str) -> Option<Arc<str>> {
    name.contains(['.', '_']).then(|| name.replace('.', "_").into())
}

const INTERNAL_TOPICS: &[&str] = &["__consumer_offsets", "__transaction_state", "__share_group_state"];

impl ClusterImage {
    /// A topic by name.
    #[must_use]
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicImage>> {
        self.topics.get(name)
    }

    /// A topic by id.
    #[must_use]
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicImage>> {
        self.topics.get(self.names.get(&id)?)
    }

    /// All topics, by name.
    pub fn topics(&self) -> impl Iterator<Item = &Arc<TopicImage>> {
        self.topics.iter().map(|(_, topic)| topic)
    }

    /// The topics that differ from `before`, by name: as they were, and as they are. What neither touched costs
    /// next to nothing.
    #[must_use]
    pub fn changed_topics<'a>(&'a self, before: &'a Self) -> Vec<TopicChange<'a>> {
        let changes = CowMap::changes(&before.topics, &self.topics, Arc::ptr_eq);
        let topic = |topic: Option<&'a Arc<TopicImage>>| topic.map(|t| &**t);
        changes.into_iter().map(|c| (topic(c.before), topic(c.after))).collect()
    }

    /// How many topics there are.
    #[must_use]
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// Partitions on each shard that has, or had, any.
    #[must_use]
    pub fn shard_load(&self) -> &[u32] {
        &self.shard_load
    }

    /// The topic whose name differs from `name` in nothing but `.` for `_`.
    #[must_use]
    pub fn colliding_topic(&self, name: &str) -> Option<&Arc<str>> {
        self.collisions.get(&collision_key(name)?).filter(|other| &***other != name)
    }

    /// Applies one committed record. A record that names what is not there changes nothing: records are made against
    /// the image they are applied to, so it cannot come from this version's own log.
    pub fn apply(&mut self, record: &MetadataRecord) {
        match record {
            MetadataRecord::ClusterFormatted { cluster_id } => self.cluster_id.clone_from(cluster_id),
            MetadataRecord::BrokerRegistered { id, host, port, rack, epoch } => {
                let registration = Registration { host: host.clone(), port: *port, rack: rack.clone(), epoch: *epoch };
                self.brokers.insert(*id, registration);
            }
            MetadataRecord::ShardsChanged { shards } => {
                self.shards = *shards;
                let length = self.shard_load.len().max(usize::from(*shards));
                self.shard_load.resize(length, 0);
                self.trim_load();
            }
            MetadataRecord::TopicCreated { id, name } => self.create_topic(*id, name),
            MetadataRecord::PartitionsCreated { topic, first, partitions } => {
                let mut added = false;
                self.change(*topic, |t| {
                    added = i32::try_from(t.partitions.len()) == Ok(first.0);
                    if added {
                        t.partitions.extend(partitions.iter().cloned());
                    }
                });
                if added {
                    partitions.iter().for_each(|p| self.count(p.shard, 1));
                }
            }
            MetadataRecord::PartitionPlaced { topic, index, shard } => self.place(*topic, *index, *shard),
            MetadataRecord::TopicDeleted { id } => {
                if let Some(name) = self.names.remove(id) {
                    if let Some(key) = collision_key(&name) {
                        self.collisions.remove(&key);
                    }
                    let topic = self.topics.remove(&name).expect("names and topics hold the same");
                    topic.partitions.iter().for_each(|p| self.count(p.shard, -1));
                    self.trim_load();
                }
            }
            MetadataRecord::ConfigChanged { resource, name, value } => self.configure(resource, name, value.as_deref()),
            MetadataRecord::ProducerIdsAllocated { next } => self.next_producer_id = *next,
        }
    }

    fn create_topic(&mut self, id: TopicId, name: &str) {
        if self.topics.contains_key(name) || self.names.contains_key(&id) {
            return;
        }
        let name: Arc<str> = name.into();
        let topic = TopicImage {
            id,
            internal: INTERNAL_TOPICS.contains(&&*name),
            name: name.clone(),
            partitions: Vec::new(),
            configs: BTreeMap::new(),
        };
        self.names.insert(id, name.clone());
        if let Some(key) = collision_key(&name) {
            self.collisions.insert(key, name.clone());
        }
        self.topics.insert(name, Arc::new(topic));
    }

    fn place(&mut self, topic: TopicId, index: PartitionIndex, shard: u16) {
        let mut from = None;
        self.change(topic, |t| {
            if let Some(partition) = usize::try_from(index.0).ok().and_then(|i| t.partitions.get_mut(i)) {
                from = Some(partition.shard);
                partition.shard = shard;
                partition.partition_epoch = partition.partition_epoch.wrapping_add(1);
            }
        });
        if let Some(from) = from {
            self.count(from, -1);
            self.count(shard, 1);
            self.trim_load();
        }
    }

    fn count(&mut self, shard: u16, change: i32) {
        let at = usize::from(shard);
        if self.shard_load.len() <= at {
            self.shard_load.resize(at + 1, 0);
        }
        self.shard_load[at] = self.shard_load[at].checked_add_signed(change).expect("as many leave as came");
    }

    /// Forgets shards past the number there is that have nothing left: equal images are equal.
    fn trim_load(&mut self) {
        while self.shard_load.len() > usize::from(self.shards) && self.shard_load.last() == Some(&0) {
            self.shard_load.pop();
        }
    }

    fn change(&mut self, id: TopicId, change: impl FnOnce(&mut TopicImage)) {
        let name = self.names.get(&id);
        if let Some(topic) = name.and_then(|n| self.topics.get_mut(n)) {
            change(Arc::make_mut(topic));
        }
    }

    fn configure(&mut self, resource: &ConfigResource, name: &str, value: Option<&str>) {
        let set = |settings: &mut BTreeMap<String, String>| match value {
            Some(value) => drop(settings.insert(name.to_owned(), value.to_owned())),
            None => drop(settings.remove(name)),
        };
        match resource {
            ConfigResource::Topic(id) => self.change(*id, |t| set(&mut t.configs)),
            ConfigResource::Broker(id) => {
                let settings = self.broker_configs.entry(*id).or_default();
                set(settings);
                if settings.is_empty() {
                    self.broker_configs.remove(id);
                }
            }
            ConfigResource::Group(id) => {
                let groups = Arc::make_mut(&mut self.group_configs);
                let settings = groups.entry(Arc::from(id.as_str())).or_default();
                set(settings);
                if settings.is_empty() {
                    groups.remove(id.as_str());
                }
            }
        }
    }

    /// The records that make this image from an empty one: a snapshot. The index is the snapshot's own.
    #[must_use]
    pub fn to_records(&self) -> Vec<MetadataRecord> {
        let mut records = vec![MetadataRecord::ClusterFormatted { cluster_id: self.cluster_id.clone() }];
        records.push(MetadataRecord::ShardsChanged { shards: self.shards });
        records.push(MetadataRecord::ProducerIdsAllocated { next: self.next_producer_id });
        for (id, r) in &self.brokers {
            let (host, port, rack, epoch) = (r.host.clone(), r.port, r.rack.clone(), r.epoch);
            records.push(MetadataRecord::BrokerRegistered { id: *id, host, port, rack, epoch });
        }
        let settings = |resource: &ConfigResource, configs: &BTreeMap<String, String>| {
            let one = |(name, value): (&String, &String)| MetadataRecord::ConfigChanged {
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            };
            configs.iter().map(one).collect::<Vec<_>>()
        };
        for (id, configs) in &self.broker_configs {
            records.extend(settings(&ConfigResource::Broker(*id), configs));
        }
        for (id, configs) in &*self.group_configs {
            records.extend(settings(&ConfigResource::Group(id.to_string()), configs));
        }
        for topic in self.topics() {
            records.push(MetadataRecord::TopicCreated { id: topic.id, name: topic.name.to_string() });
            records.push(MetadataRecord::PartitionsCreated {
                topic: topic.id,
                first: PartitionIndex(0),
                partitions: topic.partitions.clone(),
            });
            records.extend(settings(&ConfigResource::Topic(topic.id), &topic.configs));
        }
        records
    }

    /// The image that some records make.
    #[must_use]
    pub fn from_records(index: u64, records: &[MetadataRecord]) -> Self {
        let mut image = Self { index, ..Self::default() };
        for record in records {
            image.apply(record);
        }
        image
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn sample() -> Vec<MetadataRecord> {
        let id = TopicId(Uuid::from_u128(7));
        let partition = |shard| PartitionImage {
            replicas: vec![BrokerId(1)],
            isr: vec![BrokerId(1)],
            shard,
            ..PartitionImage::default()
        };
        vec![
            MetadataRecord::ClusterFormatted { cluster_id: "abc".into() },
            MetadataRecord::ShardsChanged { shards: 2 },
            MetadataRecord::BrokerRegistered { id: BrokerId(1), host: "h".into(), port: 1, rack: None, epoch: 3 },
            MetadataRecord::TopicCreated { id, name: "t".into() },
            MetadataRecord::PartitionsCreated {
                topic: id,
                first: PartitionIndex(0),
                partitions: vec![partition(0), partition(1)],
            },
            MetadataRecord::ConfigChanged {
                resource: ConfigResource::Topic(id),
                name: "k".into(),
                value: Some("v".into()),
            },
            MetadataRecord::ConfigChanged {
                resource: ConfigResource::Broker(None),
                name: "a".into(),
                value: Some("b".into()),
            },
            MetadataRecord::ConfigChanged {
                resource: ConfigResource::Group("g".into()),
                name: "a".into(),
                value: Some("b".into()),
            },
            MetadataRecord::ProducerIdsAllocated { next: 1000 },
            MetadataRecord::PartitionPlaced { topic: id, index: PartitionIndex(1), shard: 0 },
        ]
    }

    #[test]
    fn an_image_is_what_its_records_say_and_its_snapshot_makes_it_again() {
        let image = ClusterImage::from_records(9, &sample());
        let topic = image.topic("t").expect("there");
        assert_eq!(topic.partitions.iter().map(|p| p.shard).collect::<Vec<_>>(), [0, 0]);
        assert_eq!(topic.partitions[1].partition_epoch, 1);
        assert_eq!(image.topic_by_id(topic.id).map(|t| &*t.name), Some("t"));
        assert_eq!(ClusterImage::from_records(9, &image.to_records()), image);
    }

    #[test]
    fn names_that_differ_in_dots_collide() {
        let mut image = ClusterImage::default();
        let create = |image: &mut ClusterImage, n: u128, name: &str| {
            image.apply(&MetadataRecord::TopicCreated { id: TopicId(Uuid::from_u128(n)), name: name.into() });
        };
        create(&mut image, 1, "a.b_c");
        create(&mut image, 2, "plain");
        let collides = |image: &ClusterImage, name: &str| image.colliding_topic(name).map(|n| n.to_string());
        assert_eq!(collides(&image, "a_b.c").as_deref(), Some("a.b_c"));
        assert_eq!((collides(&image, "a.b_c"), collides(&image, "plain"), collides(&image, "a.b")), (None, None, None));
        image.apply(&MetadataRecord::TopicDeleted { id: TopicId(Uuid::from_u128(1)) });
        assert_eq!(collides(&image, "a_b.c"), None);
    }

    #[test]
    fn a_deleted_topic_leaves_nothing() {
        let mut image = ClusterImage::from_records(9, &sample());
        let id = image.topic("t").expect("there").id;
        image.apply(&MetadataRecord::TopicDeleted { id });
        assert!(image.topic("t").is_none() && image.topic_by_id(id).is_none() && image.topic_count() == 0);
        image.apply(&MetadataRecord::ConfigChanged {
            resource: ConfigResource::Broker(None),
            name: "a".into(),
            value: None,
        });
        assert!(image.broker_configs.is_empty());
        let resource = ConfigResource::Group("g".into());
        assert_eq!(image.group_configs["g"]["a"], "b");
        image.apply(&MetadataRecord::ConfigChanged { resource, name: "a".into(), value: None });
        assert!(image.group_configs.is_empty());
    }

    #[test]
    fn an_older_holder_keeps_its_picture() {
        let older = ClusterImage::from_records(9, &sample());
        let mut newer = older.clone();
        let id = older.topic("t").expect("there").id;
        newer.apply(&MetadataRecord::ConfigChanged {
            resource: ConfigResource::Topic(id),
            name: "k".into(),
            value: None,
        });
        assert_eq!(older.topic("t").expect("there").configs.len(), 1);
        assert!(newer.topic("t").expect("there").configs.is_empty());
    }
}
