//! Which shard owns which partition: deterministic, even, recorded.
//!
//! Each new partition goes to the shard that has fewest of its topic, among those to the one that has fewest of all,
//! among those to the first in an order that begins where the topic's id says. So the partitions of a topic are
//! within one of each other on every shard; and so are those of the node, as long as none was deleted: a topic gives
//! every shard the same number, and the rest to the shards that have least.

use super::image::ClusterImage;
use super::records::MetadataRecord;
use crate::ids::{PartitionIndex, TopicId};

/// Places partitions, one after the other.
#[derive(Clone, Debug)]
pub struct Placer {
    /// Partitions on each shard; one entry a shard, at least one.
    load: Vec<u32>,
}

impl Placer {
    /// Continues from what the image says.
    #[must_use]
    pub fn new(image: &ClusterImage) -> Self {
        let mut load = image.shard_load().to_vec();
        load.resize(usize::from(image.shards.max(1)), 0);
        Self { load }
    }

    /// `shards` shards without partitions.
    #[must_use]
    pub fn empty(shards: u16) -> Self {
        assert!(shards > 0, "a node has a shard");
        Self { load: vec![0; usize::from(shards)] }
    }

    /// The shards of `count` new partitions of a topic whose partitions so far are on the shards of `existing`.
    pub fn place(&mut self, topic: TopicId, existing: impl IntoIterator<Item = u16>, count: usize) -> Vec<u16> {
        let shards = self.load.len();
        let start = (spread(topic) % shards as u64) as usize;
        let mut own = vec![0_u32; shards];
        for shard in existing {
            if let Some(n) = own.get_mut(usize::from(shard)) {
                *n += 1;
            }
        }
        let mut places = Vec::with_capacity(count);
        for _ in 0..count {
            let rank = |shard: &usize| (own[*shard], self.load[*shard], (shard + shards - start) % shards);
            let shard = (0..shards).min_by_key(rank).expect("a node has a shard");
            own[shard] += 1;
            self.load[shard] += 1;
            places.push(u16::try_from(shard).expect("shards are counted in 16 bits"));
        }
        places
    }
}

/// A finaliser of 64 bits (SplitMix64, public domain), for ids that may differ in few bits.
fn spread(topic: TopicId) -> u64 {
    let (high, low) = topic.0.as_u64_pair();
    let mut z = (high ^ low.rotate_left(32)).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The records that place every partition anew for another number of shards; none if the number is the same.
#[must_use]
pub fn replace_all(image: &ClusterImage, shards: u16) -> Vec<MetadataRecord> {
    if image.shards == shards {
        return Vec::new();
    }
    let mut records = vec![MetadataRecord::ShardsChanged { shards }];
    let mut placer = Placer::empty(shards);
    for topic in image.topics() {
        let places = placer.place(topic.id, [], topic.partitions.len());
        for (i, (partition, shard)) in topic.partitions.iter().zip(places).enumerate() {
            if shard != partition.shard {
                let index = PartitionIndex(i32::try_from(i).expect("indexes are 31 bits"));
                records.push(MetadataRecord::PartitionPlaced { topic: topic.id, index, shard });
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::PartitionImage;
    use proptest::prelude::*;
    use uuid::Uuid;

    fn topic(id: u128) -> TopicId {
        TopicId(Uuid::from_u128(id))
    }

    fn within_one(counts: &[u32]) -> bool {
        counts.iter().max().expect("some") - counts.iter().min().expect("some") <= 1
    }

    fn count(places: impl IntoIterator<Item = u16>, shards: u16) -> Vec<u32> {
        let mut counts = vec![0; usize::from(shards)];
        for place in places {
            counts[usize::from(place)] += 1;
        }
        counts
    }

    /// An image with these topics, placed.
    fn image(shards: u16, sizes: &[usize]) -> ClusterImage {
        let mut image = ClusterImage::default();
        image.apply(&MetadataRecord::ShardsChanged { shards });
        for (i, size) in sizes.iter().enumerate() {
            let id = topic(i as u128);
            let places = Placer::new(&image).place(id, [], *size);
            let place = |shard| PartitionImage { shard, ..PartitionImage::default() };
            let partitions = places.into_iter().map(place).collect();
            image.apply(&MetadataRecord::TopicCreated { id, name: format!("t{i}") });
            image.apply(&MetadataRecord::PartitionsCreated { topic: id, first: PartitionIndex(0), partitions });
        }
        image
    }

    proptest! {
        #[test]
        fn topics_and_the_node_are_within_one(shards in 1_u16..20, sizes in prop::collection::vec(1_usize..40, 1..30)) {
            let image = image(shards, &sizes);
            for topic in image.topics() {
                prop_assert!(within_one(&count(topic.partitions.iter().map(|p| p.shard), shards)));
            }
            prop_assert!(within_one(image.shard_load()), "{:?}", image.shard_load());
        }

        #[test]
        fn a_topic_that_grows_stays_within_one(id in any::<u128>(), shards in 1_u16..20, steps in prop::collection::vec(1_usize..9, 1..9)) {
            let mut places = Vec::new();
            for step in steps {
                let mut placer = Placer::empty(shards);
                let more = placer.place(topic(id), places.clone(), step);
                places.extend(more);
                prop_assert!(within_one(&count(places.iter().copied(), shards)));
            }
        }

        #[test]
        fn another_number_of_shards_is_even_again_and_recorded(
            before in 1_u16..20, after in 1_u16..20, sizes in prop::collection::vec(1_usize..40, 1..30),
        ) {
            let mut image = image(before, &sizes);
            let records = replace_all(&image, after);
            prop_assert_eq!(records.is_empty(), before == after);
            for record in &records {
                image.apply(record);
            }
            prop_assert_eq!(image.shards, after);
            prop_assert!(image.topics().all(|t| t.partitions.iter().all(|p| p.shard < after)));
            prop_assert!(within_one(image.shard_load()));
            prop_assert!(replace_all(&image, after).is_empty());
        }
    }

    #[test]
    fn topics_of_one_partition_begin_anywhere() {
        let first = |n| Placer::empty(4).place(topic(n), [], 1)[0];
        let counts = count((0..4000).map(first), 4);
        assert!(counts.iter().all(|c| (900..1100).contains(c)), "{counts:?}");
    }
}
