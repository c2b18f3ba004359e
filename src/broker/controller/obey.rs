//! How a shard's log follows the image: partitions come, go, and get other settings.

use crate::broker::shard::topic_config;
use crate::broker::store::{LogStore, PartitionSpec};
use crate::config::BrokerConfig;
use crate::controller::{ClusterImage, TopicImage};
use crate::ids::BrokerId;
use coreline_io::Runtime;
use coreline_shards::ShardId;
use std::rc::Rc;
use std::sync::Arc;

/// Makes a shard's log obey `new`, when it obeyed `old` so far.
pub async fn apply_image<R: Runtime>(
    store: &Rc<LogStore<R>>,
    config: &BrokerConfig,
    shard: ShardId,
    old: &ClusterImage,
    new: &ClusterImage,
) {
    let difference = difference(config, old, new);
    // A name that comes back is another topic with the same directory: the old one goes first.
    for topic in difference.gone {
        delete_topic(store, shard, topic).await;
    }
    for (before, topic) in difference.changed {
        let (log, _) = topic_config(config, new, topic);
        let log = Arc::new(log);
        for (index, partition) in topic.partitions.iter().enumerate().filter(|(_, p)| ShardId(p.shard) == shard) {
            let id = topic.partition_id(index);
            let known = before.and_then(|b| b.partitions.get(index));
            if known.is_some_and(|k| (k.shard, k.leader_epoch) == (partition.shard, partition.leader_epoch)) {
                store.reconfigure(id, log.clone());
            } else {
                let leader_epoch = partition.leader_epoch;
                store.assign(PartitionSpec { id, topic: topic.name.clone(), leader_epoch, config: log.clone() });
            }
        }
    }
}

struct Difference<'a> {
    gone: Vec<&'a TopicImage>,
    /// As they were, if they were; as they are.
    changed: Vec<(Option<&'a TopicImage>, &'a TopicImage)>,
}

/// Walks both images side by side, by name: a topic that nobody touched is one comparison of pointers.
fn difference<'a>(config: &BrokerConfig, old: &'a ClusterImage, new: &'a ClusterImage) -> Difference<'a> {
    let node = BrokerId(config.node_id);
    let all = [None, Some(node)].iter().any(|k| old.broker_configs.get(k) != new.broker_configs.get(k));
    let mut difference = Difference { gone: Vec::new(), changed: Vec::new() };
    let (mut before, mut after) = (old.topics().peekable(), new.topics().peekable());
    loop {
        match (before.peek().copied(), after.peek().copied()) {
            (None, None) => return difference,
            (Some(b), Some(a)) if b.id == a.id => {
                if all || !Arc::ptr_eq(b, a) {
                    difference.changed.push((Some(&**b), &**a));
                }
                before.next();
                after.next();
            }
            (Some(b), a) if a.is_none_or(|a| b.name <= a.name) => {
                difference.gone.push(b);
                before.next();
            }
            (_, Some(a)) => {
                difference.changed.push((None, &**a));
                after.next();
            }
            (Some(_), None) => unreachable!("the arm above takes what is left of the old image"),
        }
    }
}

async fn delete_topic<R: Runtime>(store: &Rc<LogStore<R>>, shard: ShardId, topic: &TopicImage) {
    for (index, partition) in topic.partitions.iter().enumerate() {
        if ShardId(partition.shard) == shard {
            let id = topic.partition_id(index);
            if let Err(error) = store.delete(id).await {
                tracing::error!(topic = &*topic.name, index, "the partition's files are not gone yet: {error}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::MetadataRecord;
    use crate::ids::TopicId;
    use uuid::Uuid;

    fn create(image: &mut ClusterImage, id: u128, name: &str) {
        image.apply(&MetadataRecord::TopicCreated { id: TopicId(Uuid::from_u128(id)), name: name.into() });
    }

    #[test]
    fn the_difference_is_what_came_went_and_changed() {
        let mut old = ClusterImage::default();
        for (id, name) in [(1, "b"), (2, "d"), (3, "f"), (4, "h")] {
            create(&mut old, id, name);
        }
        let mut new = old.clone();
        new.apply(&MetadataRecord::TopicDeleted { id: TopicId(Uuid::from_u128(2)) });
        new.apply(&MetadataRecord::TopicDeleted { id: TopicId(Uuid::from_u128(4)) });
        new.apply(&MetadataRecord::TopicDeleted { id: TopicId(Uuid::from_u128(3)) });
        for (id, name) in [(5, "a"), (6, "f"), (7, "z")] {
            create(&mut new, id, name);
        }
        let config = BrokerConfig::default();
        let found = difference(&config, &old, &new);
        assert_eq!(found.gone.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["d", "f", "h"]);
        let changed: Vec<_> = found.changed.iter().map(|(b, a)| (b.is_some(), &*a.name)).collect();
        assert_eq!(changed, [(false, "a"), (false, "f"), (false, "z")]);
        let same = new.clone();
        let nothing = difference(&config, &new, &same);
        assert!(nothing.gone.is_empty() && nothing.changed.is_empty());
        let setting = MetadataRecord::ConfigChanged {
            resource: crate::controller::ConfigResource::Broker(None),
            name: "message.max.bytes".into(),
            value: Some("5".into()),
        };
        let mut reset = new.clone();
        reset.apply(&setting);
        assert_eq!(difference(&config, &new, &reset).changed.len(), new.topic_count());
    }
}
