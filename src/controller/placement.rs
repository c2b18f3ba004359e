//! Which shard owns which partition: deterministic, even, recorded.
//!
//! A topic's partitions go round the shards, the first to the shard that its id says: so the partitions of one topic
//! are within one of each other on every shard, and topics with one partition spread by their ids.

use super::image::ClusterImage;
use super::records::MetadataRecord;
use crate::ids::{PartitionIndex, TopicId};

/// The shard of a new partition on a node with `shards` shards.
#[must_use]
pub fn shard_of(topic: TopicId, index: PartitionIndex, shards: u16) -> u16 {
    assert!(shards > 0, "a node has a shard");
    let start = spread(topic) % u64::from(shards);
    let step = u64::try_from(index.0).expect("an index is not negative");
    ((start + step) % u64::from(shards)) as u16
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
    for topic in image.topics() {
        for (i, partition) in topic.partitions.iter().enumerate() {
            let index = PartitionIndex(i32::try_from(i).expect("indexes are 31 bits"));
            let shard = shard_of(topic.id, index, shards);
            if shard != partition.shard {
                records.push(MetadataRecord::PartitionPlaced { topic: topic.id, index, shard });
            }
        }
    }
    records
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    proptest! {
        #[test]
        fn a_topic_is_within_one_on_every_shard(id in any::<u128>(), shards in 1_u16..70, partitions in 1_i32..300) {
            let mut counts = vec![0; usize::from(shards)];
            for i in 0..partitions {
                counts[usize::from(shard_of(TopicId(Uuid::from_u128(id)), PartitionIndex(i), shards))] += 1;
            }
            let (least, most) = (counts.iter().min().expect("some"), counts.iter().max().expect("some"));
            prop_assert!(most - least <= 1, "{counts:?}");
        }
    }

    #[test]
    fn topics_of_one_partition_spread() {
        let mut counts = [0; 4];
        for n in 0..4000_u128 {
            counts[usize::from(shard_of(TopicId(Uuid::from_u128(n)), PartitionIndex(0), 4))] += 1;
        }
        assert!(counts.iter().all(|c| (900..1100).contains(c)), "{counts:?}");
    }
}
