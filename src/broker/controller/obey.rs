//! How a shard's log follows the image: partitions come, go, and get other settings.

use crate::broker::shard::{dynamic_values, topic_config};
use crate::broker::store::{CleanerOptions, LogStore, PartitionSpec};
use crate::config::{BrokerConfig, resolve_cleaner};
use crate::controller::{ClusterImage, PartitionImage, TopicImage};
use crate::ids::{BrokerId, PartitionId};
use coreline_io::{BLOCK, Runtime};
use coreline_shards::ShardId;
use futures_util::stream::{self, StreamExt};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Deletions under way at a time.
const DELETIONS_AT_ONCE: usize = 256;

/// Makes a shard's log obey `new`, when it obeyed `old` so far.
pub async fn apply_image<R: Runtime>(
    runtime: &R,
    store: &Rc<LogStore<R>>,
    config: &BrokerConfig,
    shard: ShardId,
    old: &ClusterImage,
    new: &ClusterImage,
) {
    let cleaner = cleaner_options(config, new);
    if old.shards != new.shards || cleaner != cleaner_options(config, old) {
        store.configure_cleaner(cleaner);
    }
    let difference = difference(config, old, new);
    // A name that comes back is another topic with the same directory: the old one goes first.
    let gone = difference.gone.iter().flat_map(|topic| placed_on(topic, shard).map(|(id, _)| (&*topic.name, id)));
    delete(store, gone).await;
    for (before, topic) in difference.changed {
        let (log, _) = topic_config(config, new, topic);
        let log = Arc::new(log);
        for (id, partition) in placed_on(topic, shard) {
            let known = before.and_then(|b| b.partition(id.index.0));
            if known.is_some_and(|k| (k.shard, k.leader_epoch) == (partition.shard, partition.leader_epoch)) {
                store.reconfigure(id, log.clone());
            } else {
                let leader_epoch = partition.leader_epoch;
                store.assign(PartitionSpec { id, topic: topic.name.clone(), leader_epoch, config: log.clone() });
            }
            // A topic may have ten thousand partitions; connections of this core wait meanwhile.
            if runtime.should_yield() {
                runtime.yield_now().await;
            }
        }
    }
}

/// A shard's part of what the node's compaction obeys.
fn cleaner_options(config: &BrokerConfig, image: &ClusterImage) -> CleanerOptions {
    let node = resolve_cleaner(config, dynamic_values(image, BrokerId(config.node_id)));
    let shards = u64::from(image.shards.max(1));
    let part = |bytes: u64| usize::try_from(bytes / shards).unwrap_or(usize::MAX);
    CleanerOptions {
        backoff: Duration::from_millis(node.backoff_ms),
        dedupe_buffer_bytes: part(node.dedupe_buffer_bytes),
        io_buffer_bytes: part(node.io_buffer_bytes / 2).max(BLOCK),
        load_factor: node.load_factor,
        bytes_per_second: node.bytes_per_second / shards as f64,
    }
}

struct Difference<'a> {
    gone: Vec<&'a TopicImage>,
    /// As they were, if they were; as they are.
    changed: Vec<(Option<&'a TopicImage>, &'a TopicImage)>,
}

fn difference<'a>(config: &BrokerConfig, old: &'a ClusterImage, new: &'a ClusterImage) -> Difference<'a> {
    let node = BrokerId(config.node_id);
    let all = [None, Some(node)].iter().any(|k| old.broker_configs.get(k) != new.broker_configs.get(k));
    let mut difference = Difference { gone: Vec::new(), changed: Vec::new() };
    for (before, after) in new.changed_topics(old) {
        match (before, after) {
            (Some(b), Some(a)) if b.id == a.id => difference.changed.push((Some(b), a)),
            (before, after) => {
                difference.gone.extend(before);
                difference.changed.extend(after.map(|a| (None, a)));
            }
        }
    }
    if all {
        // What a topic obeys may come from the broker's settings.
        let before = |topic: &TopicImage| old.topic_by_id(topic.id).map(|b| &**b);
        difference.changed = new.topics().map(|topic| (before(topic), &**topic)).collect();
    }
    difference
}

/// A topic's partitions that a shard owns.
fn placed_on(topic: &TopicImage, shard: ShardId) -> impl Iterator<Item = (PartitionId, &PartitionImage)> {
    let numbered = topic.partitions.iter().enumerate().map(|(index, p)| (topic.partition_id(index), p));
    numbered.filter(move |(_, p)| ShardId(p.shard) == shard)
}

/// Deletes many at a time: each is a line in the journal, and those that wait share a flush.
async fn delete<R: Runtime>(store: &Rc<LogStore<R>>, partitions: impl Iterator<Item = (&str, PartitionId)>) {
    let one = async |(topic, id): (&str, PartitionId)| {
        if let Err(error) = store.delete(id).await {
            tracing::error!(topic, index = id.index.0, "the partition's files are not gone yet: {error}");
        }
    };
    stream::iter(partitions).map(one).buffer_unordered(DELETIONS_AT_ONCE).collect::<()>().await;
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
