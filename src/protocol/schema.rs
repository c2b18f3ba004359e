//! The shapes of requests, to check a body before the codec sees it.
//!
//! The codec reserves room for as many array elements as the wire says: four bytes could ask for 200 GB and end the
//! process. So every body is walked first: an array has no more elements than the body has bytes, all of them are
//! there, and there are no more than [`ELEMENTS_MAX`] in one request. Tagged fields that the codec knows must have
//! exactly the length of their contents, because it does not look at that length.

use super::wire::{DecodeError, Reader};

/// Array elements and tagged fields in one request: bounds the memory of its decoded form to some 100 MB.
pub const ELEMENTS_MAX: usize = 1 << 20;

/// The fields of a structure, in order.
pub type Schema = &'static [Field];

/// A field and the versions that have it.
#[derive(Debug, PartialEq, Eq)]
pub struct Field {
    name: &'static str,
    from: i16,
    to: i16,
    kind: Kind,
}

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    /// This many bytes.
    Fixed(usize),
    /// A string that may be null, as far as the shape goes.
    Text,
    /// Bytes that may be null.
    Blob,
    /// An array of structures, that may be null.
    Structs(Schema),
    /// An array of strings.
    Texts,
    /// An array of numbers.
    Numbers(usize),
    /// A structure behind a byte that says if it is there.
    Optional(Schema),
    /// A tagged field with these fields in it; `true`: a structure, that ends with tagged fields of its own.
    Tag(u32, Schema, bool),
}

const fn field(name: &'static str, kind: Kind) -> Field {
    Field { name, from: 0, to: i16::MAX, kind }
}

const fn int8(name: &'static str) -> Field {
    field(name, Kind::Fixed(1))
}

const fn int16(name: &'static str) -> Field {
    field(name, Kind::Fixed(2))
}

const fn int32(name: &'static str) -> Field {
    field(name, Kind::Fixed(4))
}

const fn int64(name: &'static str) -> Field {
    field(name, Kind::Fixed(8))
}

const fn uuid(name: &'static str) -> Field {
    field(name, Kind::Fixed(16))
}

const fn text(name: &'static str) -> Field {
    field(name, Kind::Text)
}

const fn structs(name: &'static str, schema: Schema) -> Field {
    field(name, Kind::Structs(schema))
}

const fn int32s(name: &'static str) -> Field {
    field(name, Kind::Numbers(4))
}

impl Field {
    const fn from(self, from: i16) -> Self {
        Self { from, ..self }
    }

    const fn to(self, to: i16) -> Self {
        Self { to, ..self }
    }

    const fn has(&self, version: i16) -> bool {
        self.from <= version && version <= self.to
    }
}

struct Walk<'a> {
    reader: Reader<'a>,
    version: i16,
    flexible: bool,
    elements_left: usize,
}

/// Checks that `body` has the shape of `schema` in this version.
///
/// # Errors
/// The field that does not fit. Bytes after the last field are not looked at, as Kafka does.
pub fn check(schema: Schema, version: i16, flexible: bool, body: &[u8]) -> Result<(), DecodeError> {
    let mut walk = Walk { reader: Reader::new(body), version, flexible, elements_left: ELEMENTS_MAX };
    walk.structure(schema)
}

impl Walk<'_> {
    fn spend(&mut self, elements: usize) -> Result<(), DecodeError> {
        match self.elements_left.checked_sub(elements) {
            Some(left) => {
                self.elements_left = left;
                Ok(())
            }
            None => Err(DecodeError::Elements { max: ELEMENTS_MAX }),
        }
    }

    fn fields(&mut self, schema: Schema) -> Result<(), DecodeError> {
        let version = self.version;
        for field in schema.iter().filter(|f| f.has(version)) {
            self.field(field)?;
        }
        Ok(())
    }

    fn structure(&mut self, schema: Schema) -> Result<(), DecodeError> {
        self.fields(schema)?;
        if self.flexible { self.tags(schema) } else { Ok(()) }
    }

    fn field(&mut self, field: &Field) -> Result<(), DecodeError> {
        let name = field.name;
        match field.kind {
            Kind::Fixed(len) => {
                self.reader.take(len, name)?;
            }
            Kind::Text => self.text(name)?,
            Kind::Blob => {
                self.reader.nullable_bytes(self.flexible, name)?;
            }
            Kind::Structs(schema) => {
                for _ in 0..self.count(name)? {
                    self.structure(schema)?;
                }
            }
            Kind::Texts => {
                for _ in 0..self.count(name)? {
                    self.text(name)?;
                }
            }
            Kind::Numbers(len) => {
                let count = self.count(name)?;
                self.reader.take(count * len, name)?;
            }
            Kind::Optional(schema) => {
                if self.reader.i8(name)? == 1 {
                    self.structure(schema)?;
                }
            }
            Kind::Tag(..) => {}
        }
        Ok(())
    }

    fn text(&mut self, name: &'static str) -> Result<(), DecodeError> {
        if let Some(len) = self.reader.string_length(self.flexible, name)? {
            self.reader.take(len, name)?;
        }
        Ok(())
    }

    fn count(&mut self, name: &'static str) -> Result<usize, DecodeError> {
        let count = self.reader.nullable_array(self.flexible, name)?.unwrap_or(0);
        self.spend(count)?;
        Ok(count)
    }

    fn tags(&mut self, schema: Schema) -> Result<(), DecodeError> {
        for _ in 0..self.reader.varint("number of tagged fields")? {
            self.spend(1)?;
            let tag = self.reader.varint("tag")?;
            let len = self.reader.varint("length of a tagged field")? as usize;
            let known = schema.iter().find_map(|field| match field.kind {
                Kind::Tag(number, schema, structure) if number == tag && field.has(self.version) => {
                    Some((field.name, schema, structure))
                }
                _ => None,
            });
            let Some((name, schema, structure)) = known else {
                self.reader.take(len, "tagged field")?;
                continue;
            };
            let at = self.reader.position();
            if structure {
                self.structure(schema)?
            } else {
                self.fields(schema)?
            }
            if self.reader.position() - at != len {
                return Err(DecodeError::Length { what: name, at, value: len as i64, left: self.reader.left() });
            }
        }
        Ok(())
    }
}

pub(super) const PRODUCE: Schema = &[
    text("transactional_id"),
    int16("acks"),
    int32("timeout_ms"),
    structs(
        "topic_data",
        &[
            text("name").to(12),
            uuid("topic_id").from(13),
            structs("partition_data", &[int32("index"), field("records", Kind::Blob)]),
        ],
    ),
];

pub(super) const FETCH: Schema = &[
    int32("replica_id").to(14),
    int32("max_wait_ms"),
    int32("min_bytes"),
    int32("max_bytes"),
    int8("isolation_level"),
    int32("session_id").from(7),
    int32("session_epoch").from(7),
    structs(
        "topics",
        &[
            text("topic").to(12),
            uuid("topic_id").from(13),
            structs(
                "partitions",
                &[
                    int32("partition"),
                    int32("current_leader_epoch").from(9),
                    int64("fetch_offset"),
                    int32("last_fetched_epoch").from(12),
                    int64("log_start_offset").from(5),
                    int32("partition_max_bytes"),
                    field("replica_directory_id", Kind::Tag(0, &[uuid("id")], false)).from(17),
                    field("high_watermark", Kind::Tag(1, &[int64("offset")], false)).from(18),
                ],
            ),
        ],
    ),
    structs("forgotten_topics_data", &[text("topic").to(12), uuid("topic_id").from(13), int32s("partitions")]).from(7),
    text("rack_id").from(11),
    field("cluster_id", Kind::Tag(0, &[text("id")], false)).from(12),
    field("replica_state", Kind::Tag(1, &[int32("replica_id"), int64("replica_epoch")], true)).from(15),
];

pub(super) const LIST_OFFSETS: Schema = &[
    int32("replica_id"),
    int8("isolation_level").from(2),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[int32("partition_index"), int32("current_leader_epoch").from(4), int64("timestamp")],
            ),
        ],
    ),
    int32("timeout_ms").from(10),
];

pub(super) const METADATA: Schema = &[
    structs("topics", &[uuid("topic_id").from(10), text("name")]),
    int8("allow_auto_topic_creation").from(4),
    int8("include_cluster_authorized_operations").from(8).to(10),
    int8("include_topic_authorized_operations").from(8),
];

pub(super) const FIND_COORDINATOR: Schema =
    &[text("key").to(3), int8("key_type").from(1), field("coordinator_keys", Kind::Texts).from(4)];

pub(super) const OFFSET_COMMIT: Schema = &[
    text("group_id"),
    int32("generation_id_or_member_epoch"),
    text("member_id"),
    text("group_instance_id").from(7),
    int64("retention_time_ms").to(4),
    structs(
        "topics",
        &[
            text("name").to(9),
            uuid("topic_id").from(10),
            structs(
                "partitions",
                &[
                    int32("partition_index"),
                    int64("committed_offset"),
                    int32("committed_leader_epoch").from(6),
                    text("committed_metadata"),
                ],
            ),
        ],
    ),
];

pub(super) const OFFSET_FETCH: Schema = &[
    text("group_id").to(7),
    structs("topics", &[text("name"), int32s("partition_indexes")]).to(7),
    structs(
        "groups",
        &[
            text("group_id"),
            text("member_id").from(9),
            int32("member_epoch").from(9),
            structs("topics", &[text("name").to(9), uuid("topic_id").from(10), int32s("partition_indexes")]),
        ],
    )
    .from(8),
    int8("require_stable").from(7),
];

pub(super) const JOIN_GROUP: Schema = &[
    text("group_id"),
    int32("session_timeout_ms"),
    int32("rebalance_timeout_ms").from(1),
    text("member_id"),
    text("group_instance_id").from(5),
    text("protocol_type"),
    structs("protocols", &[text("name"), field("metadata", Kind::Blob)]),
    text("reason").from(8),
];

pub(super) const HEARTBEAT: Schema =
    &[text("group_id"), int32("generation_id"), text("member_id"), text("group_instance_id").from(3)];

pub(super) const LEAVE_GROUP: Schema = &[
    text("group_id"),
    text("member_id").to(2),
    structs("members", &[text("member_id"), text("group_instance_id"), text("reason").from(5)]).from(3),
];

pub(super) const SYNC_GROUP: Schema = &[
    text("group_id"),
    int32("generation_id"),
    text("member_id"),
    text("group_instance_id").from(3),
    text("protocol_type").from(5),
    text("protocol_name").from(5),
    structs("assignments", &[text("member_id"), field("assignment", Kind::Blob)]),
];

pub(super) const DESCRIBE_GROUPS: Schema =
    &[field("groups", Kind::Texts), int8("include_authorized_operations").from(3)];

pub(super) const LIST_GROUPS: Schema =
    &[field("states_filter", Kind::Texts).from(4), field("types_filter", Kind::Texts).from(5)];

pub(super) const DELETE_GROUPS: Schema = &[field("groups_names", Kind::Texts)];

pub(super) const OFFSET_DELETE: Schema =
    &[text("group_id"), structs("topics", &[text("name"), structs("partitions", &[int32("partition_index")])])];

pub(super) const CONSUMER_GROUP_HEARTBEAT: Schema = &[
    text("group_id"),
    text("member_id"),
    int32("member_epoch"),
    text("instance_id"),
    text("rack_id"),
    int32("rebalance_timeout_ms"),
    field("subscribed_topic_names", Kind::Texts),
    text("subscribed_topic_regex").from(1),
    text("server_assignor"),
    structs("topic_partitions", &[uuid("topic_id"), int32s("partitions")]),
];

pub(super) const CONSUMER_GROUP_DESCRIBE: Schema =
    &[field("group_ids", Kind::Texts), int8("include_authorized_operations")];

pub(super) const API_VERSIONS: Schema =
    &[text("client_software_name").from(3), text("client_software_version").from(3)];

pub(super) const CREATE_TOPICS: Schema = &[
    structs(
        "topics",
        &[
            text("name"),
            int32("num_partitions"),
            int16("replication_factor"),
            structs("assignments", &[int32("partition_index"), int32s("broker_ids")]),
            structs("configs", &[text("name"), text("value")]),
        ],
    ),
    int32("timeout_ms"),
    int8("validate_only"),
];

pub(super) const DELETE_TOPICS: Schema = &[
    structs("topics", &[text("name"), uuid("topic_id")]).from(6),
    field("topic_names", Kind::Texts).to(5),
    int32("timeout_ms"),
];

pub(super) const INIT_PRODUCER_ID: Schema = &[
    text("transactional_id"),
    int32("transaction_timeout_ms"),
    int64("producer_id").from(3),
    int16("producer_epoch").from(3),
];

pub(super) const WRITE_TXN_MARKERS: Schema = &[structs(
    "markers",
    &[
        int64("producer_id"),
        int16("producer_epoch"),
        int8("transaction_result"),
        structs("topics", &[text("name"), int32s("partition_indexes")]),
        int32("coordinator_epoch"),
    ],
)];

const TXN_TOPICS: Schema = &[text("name"), int32s("partitions")];

pub(super) const ADD_PARTITIONS_TO_TXN: Schema = &[
    structs(
        "transactions",
        &[
            text("transactional_id"),
            int64("producer_id"),
            int16("producer_epoch"),
            int8("verify_only"),
            structs("topics", TXN_TOPICS),
        ],
    )
    .from(4),
    text("v3_and_below_transactional_id").to(3),
    int64("v3_and_below_producer_id").to(3),
    int16("v3_and_below_producer_epoch").to(3),
    structs("v3_and_below_topics", TXN_TOPICS).to(3),
];

pub(super) const ADD_OFFSETS_TO_TXN: Schema =
    &[text("transactional_id"), int64("producer_id"), int16("producer_epoch"), text("group_id")];

pub(super) const END_TXN: Schema =
    &[text("transactional_id"), int64("producer_id"), int16("producer_epoch"), int8("committed")];

pub(super) const TXN_OFFSET_COMMIT: Schema = &[
    text("transactional_id"),
    text("group_id"),
    int64("producer_id"),
    int16("producer_epoch"),
    int32("generation_id").from(3),
    text("member_id").from(3),
    text("group_instance_id").from(3),
    structs(
        "topics",
        &[
            text("name"),
            structs(
                "partitions",
                &[
                    int32("partition_index"),
                    int64("committed_offset"),
                    int32("committed_leader_epoch").from(2),
                    text("committed_metadata"),
                ],
            ),
        ],
    ),
];

pub(super) const DESCRIBE_TRANSACTIONS: Schema = &[field("transactional_ids", Kind::Texts)];

pub(super) const LIST_TRANSACTIONS: Schema = &[
    field("state_filters", Kind::Texts),
    field("producer_id_filters", Kind::Numbers(8)),
    int64("duration_filter").from(1),
    text("transactional_id_pattern").from(2),
];

pub(super) const DELETE_RECORDS: Schema = &[
    structs("topics", &[text("name"), structs("partitions", &[int32("partition_index"), int64("offset")])]),
    int32("timeout_ms"),
];

pub(super) const COMPACT_TOPIC: Schema = &[text("topic"), int32s("partitions"), int8("begin")];

pub(super) const MOVE_PARTITION: Schema = &[text("topic"), int32("partition"), int32("to_core")];

pub(super) const DESCRIBE_LATENCY: Schema = &[int8("since_start"), int8("by_shard"), int32("slowest")];

pub(super) const OFFSET_FOR_LEADER_EPOCH: Schema = &[
    int32("replica_id").from(3),
    structs(
        "topics",
        &[
            text("topic"),
            structs("partitions", &[int32("partition"), int32("current_leader_epoch"), int32("leader_epoch")]),
        ],
    ),
];

pub(super) const DESCRIBE_CONFIGS: Schema = &[
    structs("resources", &[int8("resource_type"), text("resource_name"), field("configuration_keys", Kind::Texts)]),
    int8("include_synonyms"),
    int8("include_documentation").from(3),
];

pub(super) const ALTER_CONFIGS: Schema = &[
    structs(
        "resources",
        &[int8("resource_type"), text("resource_name"), structs("configs", &[text("name"), text("value")])],
    ),
    int8("validate_only"),
];

pub(super) const INCREMENTAL_ALTER_CONFIGS: Schema = &[
    structs(
        "resources",
        &[
            int8("resource_type"),
            text("resource_name"),
            structs("configs", &[text("name"), int8("config_operation"), text("value")]),
        ],
    ),
    int8("validate_only"),
];

pub(super) const DESCRIBE_LOG_DIRS: Schema = &[structs("topics", &[text("topic"), int32s("partitions")])];

pub(super) const CREATE_PARTITIONS: Schema = &[
    structs("topics", &[text("name"), int32("count"), structs("assignments", &[int32s("broker_ids")])]),
    int32("timeout_ms"),
    int8("validate_only"),
];

pub(super) const DESCRIBE_CLUSTER: Schema = &[
    int8("include_cluster_authorized_operations"),
    int8("endpoint_type").from(1),
    int8("include_fenced_brokers").from(2),
];

pub(super) const DESCRIBE_PRODUCERS: Schema = &[structs("topics", &[text("name"), int32s("partition_indexes")])];

pub(super) const LIST_CONFIG_RESOURCES: Schema = &[field("resource_types", Kind::Numbers(1)).from(1)];

pub(super) const DESCRIBE_TOPIC_PARTITIONS: Schema = &[
    structs("topics", &[text("name")]),
    int32("response_partition_limit"),
    field("cursor", Kind::Optional(&[text("topic_name"), int32("partition_index")])),
];
