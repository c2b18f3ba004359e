//! What the metadata log holds: one record, one change. Own fixed encoding, a kind and a version before each.

use super::encoding::{DecodeError, Decoder, put_ints, put_option, put_string};
use super::image::PartitionImage;
use crate::ids::{BrokerId, LeaderEpoch, PartitionIndex, TopicId};
use bytes::{BufMut, Bytes, BytesMut};

/// What a configuration belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigResource {
    /// A topic.
    Topic(TopicId),
    /// A broker by id, or all of them (none).
    Broker(Option<BrokerId>),
    /// A group by id.
    Group(String),
}

/// One change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetadataRecord {
    /// The cluster got its id. The first record of all.
    ClusterFormatted {
        /// 22 characters of base64, as Kafka's.
        cluster_id: String,
    },
    /// A broker came, or came back with other addresses.
    BrokerRegistered {
        /// Its node id.
        id: BrokerId,
        /// What clients connect to.
        host: String,
        /// What clients connect to.
        port: u16,
        /// Its rack.
        rack: Option<String>,
        /// One more than at its last registration.
        epoch: i64,
    },
    /// The node runs on so many shards; placements follow in the same batch.
    ShardsChanged {
        /// The count.
        shards: u16,
    },
    /// A topic without partitions; they follow in the same batch.
    TopicCreated {
        /// Its id for ever.
        id: TopicId,
        /// Its name.
        name: String,
    },
    /// The next partitions of a topic.
    PartitionsCreated {
        /// The topic.
        topic: TopicId,
        /// The index of the first; the number of partitions there were.
        first: PartitionIndex,
        /// They.
        partitions: Vec<PartitionImage>,
    },
    /// A partition moved to another shard.
    PartitionPlaced {
        /// The topic.
        topic: TopicId,
        /// The partition.
        index: PartitionIndex,
        /// Its shard from now on.
        shard: u16,
    },
    /// A topic, its partitions and its configuration are gone.
    TopicDeleted {
        /// The topic.
        id: TopicId,
    },
    /// A setting was made, or taken back.
    ConfigChanged {
        /// Of what.
        resource: ConfigResource,
        /// The key.
        name: String,
        /// The value; none takes it back.
        value: Option<String>,
    },
    /// Producer ids below this are given out.
    ProducerIdsAllocated {
        /// The first that is free.
        next: i64,
    },
}

/// The version of every kind's layout; a record with another one is refused by name.
const VERSION: u8 = 0;

impl MetadataRecord {
    const fn kind(&self) -> u8 {
        match self {
            Self::ClusterFormatted { .. } => 1,
            Self::BrokerRegistered { .. } => 2,
            Self::ShardsChanged { .. } => 3,
            Self::TopicCreated { .. } => 4,
            Self::PartitionsCreated { .. } => 5,
            Self::PartitionPlaced { .. } => 6,
            Self::TopicDeleted { .. } => 7,
            Self::ConfigChanged { .. } => 8,
            Self::ProducerIdsAllocated { .. } => 9,
        }
    }

    fn encode(&self, b: &mut BytesMut) {
        b.put_u8(self.kind());
        b.put_u8(VERSION);
        match self {
            Self::ClusterFormatted { cluster_id } => put_string(b, cluster_id),
            Self::BrokerRegistered { id, host, port, rack, epoch } => {
                b.put_i32(id.0);
                put_string(b, host);
                b.put_u16(*port);
                put_option(b, rack.as_deref());
                b.put_i64(*epoch);
            }
            Self::ShardsChanged { shards } => b.put_u16(*shards),
            Self::TopicCreated { id, name } => {
                b.put_slice(id.0.as_bytes());
                put_string(b, name);
            }
            Self::PartitionsCreated { topic, first, partitions } => {
                b.put_slice(topic.0.as_bytes());
                b.put_i32(first.0);
                b.put_u32(u32::try_from(partitions.len()).expect("partitions are counted in 31 bits"));
                for partition in partitions {
                    encode_partition(b, partition);
                }
            }
            Self::PartitionPlaced { topic, index, shard } => {
                b.put_slice(topic.0.as_bytes());
                b.put_i32(index.0);
                b.put_u16(*shard);
            }
            Self::TopicDeleted { id } => b.put_slice(id.0.as_bytes()),
            Self::ConfigChanged { resource, name, value } => {
                match resource {
                    ConfigResource::Topic(id) => {
                        b.put_u8(0);
                        b.put_slice(id.0.as_bytes());
                    }
                    ConfigResource::Broker(Some(id)) => {
                        b.put_u8(1);
                        b.put_i32(id.0);
                    }
                    ConfigResource::Broker(None) => b.put_u8(2),
                    ConfigResource::Group(id) => {
                        b.put_u8(3);
                        put_string(b, id);
                    }
                }
                put_string(b, name);
                put_option(b, value.as_deref());
            }
            Self::ProducerIdsAllocated { next } => b.put_i64(*next),
        }
    }

    fn decode(d: &mut Decoder) -> Result<Self, DecodeError> {
        let kind = d.u8()?;
        if d.u8()? != VERSION {
            return d.fail("version 0 of a metadata record; the log was written by a newer Coreline");
        }
        Ok(match kind {
            1 => Self::ClusterFormatted { cluster_id: d.string()? },
            2 => Self::BrokerRegistered {
                id: BrokerId(d.i32()?),
                host: d.string()?,
                port: d.u16()?,
                rack: d.option()?,
                epoch: d.i64()?,
            },
            3 => Self::ShardsChanged { shards: d.u16()? },
            4 => Self::TopicCreated { id: TopicId(d.uuid()?), name: d.string()? },
            5 => {
                let (topic, first) = (TopicId(d.uuid()?), PartitionIndex(d.i32()?));
                let count = d.count(22)?;
                let partitions = (0..count).map(|_| decode_partition(d)).collect::<Result<_, _>>()?;
                Self::PartitionsCreated { topic, first, partitions }
            }
            6 => Self::PartitionPlaced { topic: TopicId(d.uuid()?), index: PartitionIndex(d.i32()?), shard: d.u16()? },
            7 => Self::TopicDeleted { id: TopicId(d.uuid()?) },
            8 => {
                let resource = match d.u8()? {
                    0 => ConfigResource::Topic(TopicId(d.uuid()?)),
                    1 => ConfigResource::Broker(Some(BrokerId(d.i32()?))),
                    2 => ConfigResource::Broker(None),
                    3 => ConfigResource::Group(d.string()?),
                    _ => return d.fail("a topic, a broker, all brokers or a group"),
                };
                Self::ConfigChanged { resource, name: d.string()?, value: d.option()? }
            }
            9 => Self::ProducerIdsAllocated { next: d.i64()? },
            _ => return d.fail("a known kind of metadata record; the log was written by a newer Coreline"),
        })
    }
}

fn encode_partition(b: &mut BytesMut, p: &PartitionImage) {
    b.put_i32(p.leader.0);
    b.put_i32(p.leader_epoch.0);
    b.put_i32(p.partition_epoch);
    b.put_u16(p.shard);
    put_ints(b, &p.replicas.iter().map(|r| r.0).collect::<Vec<_>>());
    put_ints(b, &p.isr.iter().map(|r| r.0).collect::<Vec<_>>());
}

fn decode_partition(d: &mut Decoder) -> Result<PartitionImage, DecodeError> {
    Ok(PartitionImage {
        leader: BrokerId(d.i32()?),
        leader_epoch: LeaderEpoch(d.i32()?),
        partition_epoch: d.i32()?,
        shard: d.u16()?,
        replicas: d.ints()?.into_iter().map(BrokerId).collect(),
        isr: d.ints()?.into_iter().map(BrokerId).collect(),
    })
}

/// The bytes of some records, one after the other: what one Raft entry, or a snapshot, carries.
#[must_use]
pub fn encode_records<'a>(records: impl IntoIterator<Item = &'a MetadataRecord>) -> Bytes {
    let mut b = BytesMut::new();
    for record in records {
        record.encode(&mut b);
    }
    b.freeze()
}

/// The records of an entry or a snapshot.
///
/// # Errors
/// The byte at which it is not what this version writes.
pub fn decode_records(bytes: Bytes) -> Result<Vec<MetadataRecord>, DecodeError> {
    let mut d = Decoder::new(bytes);
    let mut records = Vec::new();
    while !d.is_done() {
        records.push(MetadataRecord::decode(&mut d)?);
    }
    Ok(records)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;
    use uuid::Uuid;

    pub(in super::super) fn partition() -> impl Strategy<Value = PartitionImage> {
        let ids = prop::collection::vec(any::<i32>().prop_map(BrokerId), 0..4);
        (any::<i32>(), any::<i32>(), any::<i32>(), any::<u16>(), ids.clone(), ids).prop_map(
            |(leader, leader_epoch, partition_epoch, shard, replicas, isr)| PartitionImage {
                leader: BrokerId(leader),
                leader_epoch: LeaderEpoch(leader_epoch),
                partition_epoch,
                shard,
                replicas,
                isr,
            },
        )
    }

    fn record() -> impl Strategy<Value = MetadataRecord> {
        let id = || any::<u128>().prop_map(|n| TopicId(Uuid::from_u128(n)));
        let text = || "[a-zé]{0,12}";
        prop_oneof![
            text().prop_map(|cluster_id| MetadataRecord::ClusterFormatted { cluster_id }),
            (any::<i32>(), text(), any::<u16>(), prop::option::of(text()), any::<i64>()).prop_map(
                |(id, host, port, rack, epoch)| MetadataRecord::BrokerRegistered {
                    id: BrokerId(id),
                    host,
                    port,
                    rack,
                    epoch
                }
            ),
            any::<u16>().prop_map(|shards| MetadataRecord::ShardsChanged { shards }),
            (id(), text()).prop_map(|(id, name)| MetadataRecord::TopicCreated { id, name }),
            (id(), any::<i32>(), prop::collection::vec(partition(), 0..5)).prop_map(|(topic, first, partitions)| {
                MetadataRecord::PartitionsCreated { topic, first: PartitionIndex(first), partitions }
            }),
            (id(), any::<i32>(), any::<u16>()).prop_map(|(topic, index, shard)| MetadataRecord::PartitionPlaced {
                topic,
                index: PartitionIndex(index),
                shard
            }),
            id().prop_map(|id| MetadataRecord::TopicDeleted { id }),
            (id(), text(), prop::option::of(text())).prop_map(|(id, name, value)| MetadataRecord::ConfigChanged {
                resource: ConfigResource::Topic(id),
                name,
                value
            }),
            (prop::option::of(any::<i32>()), text()).prop_map(|(id, name)| MetadataRecord::ConfigChanged {
                resource: ConfigResource::Broker(id.map(BrokerId)),
                name,
                value: None
            }),
            (text(), text(), prop::option::of(text())).prop_map(|(group, name, value)| MetadataRecord::ConfigChanged {
                resource: ConfigResource::Group(group),
                name,
                value
            }),
            any::<i64>().prop_map(|next| MetadataRecord::ProducerIdsAllocated { next }),
        ]
    }

    proptest! {
        #[test]
        fn records_come_back(records in prop::collection::vec(record(), 0..12)) {
            prop_assert_eq!(decode_records(encode_records(&records)).expect("ours"), records);
        }

        #[test]
        fn arbitrary_bytes_are_an_error_or_records(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_records(bytes.into());
        }
    }

    #[test]
    fn a_newer_record_is_named() {
        let error = decode_records(Bytes::from_static(&[200, 0])).expect_err("unknown kind");
        assert!(error.to_string().contains("newer"), "{error}");
        assert!(decode_records(Bytes::from_static(&[7, 1])).is_err());
    }
}
