//! The topics of the cluster as group logic sees them: a view of one image.

use crate::controller::{ClusterImage, TopicImage};
use crate::groups::{Topic, Topics};
use crate::ids::{BrokerId, TopicId};
use std::sync::Arc;

/// A view of one image. Cheap to make and to clone.
#[derive(Clone, Debug)]
pub(super) struct TopicsView {
    image: Arc<ClusterImage>,
    /// Grows when topics or racks differ from the view before, and only then: images change for other reasons, too.
    epoch: u64,
}

impl TopicsView {
    /// The first view.
    pub(super) fn new(image: Arc<ClusterImage>) -> Self {
        Self { image, epoch: 0 }
    }

    /// The image.
    pub(super) fn image(&self) -> &Arc<ClusterImage> {
        &self.image
    }

    /// Follows a newer image: the topics that are gone, with their ids. None if no topic came, went or changed.
    pub(super) fn follow(&mut self, image: Arc<ClusterImage>) -> Option<Vec<(Arc<str>, TopicId)>> {
        let racks =
            |image: &ClusterImage| -> Vec<_> { image.brokers.iter().map(|(b, r)| (*b, r.rack.clone())).collect() };
        let changed = image.changed_topics(&self.image);
        let is_news = !changed.is_empty() || racks(&image) != racks(&self.image);
        let gone = changed.into_iter().filter_map(|(before, after)| {
            // Of the same name, another topic is there perhaps.
            let before = before.filter(|b| after.is_none_or(|a| a.id != b.id))?;
            Some((Arc::clone(&before.name), before.id))
        });
        let gone: Vec<_> = gone.collect();
        self.image = image;
        self.epoch += u64::from(is_news);
        is_news.then_some(gone)
    }

    fn describe(&self, topic: &TopicImage) -> Topic {
        let rack = |broker: &BrokerId| self.image.brokers.get(broker)?.rack.as_deref().map(Arc::from);
        let racked = self.image.brokers.values().any(|r| r.rack.is_some());
        let racks = topic.partitions.iter().map(|p| p.replicas.iter().filter_map(rack).collect());
        Topic {
            id: topic.id,
            name: Arc::clone(&topic.name),
            partitions: i32::try_from(topic.partitions.len()).expect("indexes are 31 bits"),
            racks: if racked { racks.collect() } else { Vec::new() },
        }
    }
}

impl Topics for TopicsView {
    fn by_name(&self, name: &str) -> Option<Topic> {
        self.image.topic(name).map(|topic| self.describe(topic))
    }

    fn id_of(&self, name: &str) -> Option<TopicId> {
        self.image.topic(name).map(|topic| topic.id)
    }

    fn by_id(&self, id: TopicId) -> Option<Topic> {
        self.image.topic_by_id(id).map(|topic| self.describe(topic))
    }

    fn names(&self) -> Vec<Arc<str>> {
        self.image.topics().map(|topic| Arc::clone(&topic.name)).collect()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::{MetadataRecord, PartitionImage};
    use crate::ids::PartitionIndex;
    use uuid::Uuid;

    fn with(image: &Arc<ClusterImage>, records: &[MetadataRecord]) -> Arc<ClusterImage> {
        let mut image = (**image).clone();
        records.iter().for_each(|record| image.apply(record));
        Arc::new(image)
    }

    #[test]
    fn the_epoch_moves_with_topics_and_racks_alone() {
        let id = TopicId(Uuid::from_u128(5));
        let mut view = TopicsView::new(Arc::default());
        let created = MetadataRecord::TopicCreated { id, name: "t".into() };
        let replicas = vec![BrokerId(1)];
        let partitions = vec![PartitionImage { replicas, ..PartitionImage::default() }; 3];
        let more = MetadataRecord::PartitionsCreated { topic: id, first: PartitionIndex(0), partitions };
        assert_eq!(view.follow(with(view.image(), &[created, more])), Some(vec![]));
        assert_eq!(view.follow(with(view.image(), &[MetadataRecord::ProducerIdsAllocated { next: 5 }])), None);
        assert_eq!(view.epoch(), 1);
        let topic = view.by_name("t").expect("it is there");
        assert_eq!((topic.partitions, topic.racks.len()), (3, 0));
        assert_eq!(view.by_id(id), Some(topic));
        assert_eq!((view.id_of("t"), view.id_of("u")), (Some(id), None));
        let registered = MetadataRecord::BrokerRegistered {
            id: BrokerId(1),
            host: "h".into(),
            port: 1,
            rack: Some("r".into()),
            epoch: 0,
        };
        assert_eq!(view.follow(with(view.image(), &[registered])), Some(vec![]));
        assert_eq!(view.by_id(id).expect("it is there").racks, vec![vec![Arc::from("r")]; 3]);
        let deleted = MetadataRecord::TopicDeleted { id };
        let again = MetadataRecord::TopicCreated { id: TopicId(Uuid::from_u128(6)), name: "t".into() };
        assert_eq!(view.follow(with(view.image(), &[deleted, again])), Some(vec![("t".into(), id)]));
        let deleted = MetadataRecord::TopicDeleted { id: TopicId(Uuid::from_u128(6)) };
        assert_eq!(view.follow(with(view.image(), &[deleted])).map(|gone| gone.len()), Some(1));
        assert_eq!((view.by_name("t"), view.names().len(), view.epoch()), (None, 0, 4));
    }
}
