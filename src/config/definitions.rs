//! The one table of every key: name, type, default, rule, doc. What is not here is refused.

pub use super::topic_keys::TOPIC_KEYS;

/// Kafka's types of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// true or false.
    Boolean,
    /// Text.
    String,
    /// 16 bits.
    Short,
    /// 32 bits.
    Int,
    /// 64 bits.
    Long,
    /// A floating-point number.
    Double,
    /// Comma-separated texts.
    List,
}

impl Kind {
    /// The name in documents, as Kafka writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Boolean => "boolean",
            Self::String => "string",
            Self::Short => "short",
            Self::Int => "int",
            Self::Long => "long",
            Self::Double => "double",
            Self::List => "list",
        }
    }

    /// The type's number in DescribeConfigs (KIP-569).
    #[must_use]
    pub const fn wire(self) -> i8 {
        match self {
            Self::Boolean => 1,
            Self::String => 2,
            Self::Int => 3,
            Self::Short => 4,
            Self::Long => 5,
            Self::Double => 6,
            Self::List => 7,
        }
    }
}

/// What a value must satisfy beyond its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing.
    Any,
    /// A number not below this.
    AtLeast(i64),
    /// A number from the first to the second.
    Between(i64, i64),
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some text, some items.
    NotEmpty,
    /// A positive number, or -1 for none.
    PositiveOrUnset,
    /// A number from 0 to 1.
    Share,
    /// A number above 0.
    Positive,
    /// A list of some of these words, at least one, none twice.
    SomeOf(&'static [&'static str]),
    /// A list of some of these words or none.
    AnyOf(&'static [&'static str]),
    /// From 1 to 9, or -1 for the codec's usual one.
    GzipLevel,
    /// `*`, or a list of partition:broker.
    Replicas,
    /// False; true needs what the text says.
    OnlyFalse(&'static str),
}

/// A broker's key.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Kafka's name, or `coreline.…` for our own.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The default as text; none where the key is unset by default.
    pub default: Option<&'static str>,
    /// What a value must satisfy.
    pub rule: Rule,
    /// May change while the broker runs (IncrementalAlterConfigs on a broker).
    pub dynamic: bool,
    /// One or two sentences.
    pub doc: &'static str,
}

/// A topic's key.
#[derive(Clone, Copy, Debug)]
pub struct TopicDefinition {
    /// Name, type, default, rule, doc; topic keys are always dynamic.
    pub key: Definition,
    /// The broker's keys that give the default, the most important first; the factor turns their unit into this key's.
    pub synonyms: &'static [(&'static str, i64)],
}

pub(super) const MAX: &str = "9223372036854775807";
pub(super) const DURABILITY: Rule = Rule::OneOf(&["durable", "written"]);
pub(super) const ON_OFF: Rule = Rule::OneOf(&["on", "off"]);
/// What `cleanup.policy` can hold.
pub(super) const CLEANUP_POLICIES: Rule = Rule::AnyOf(&["compact", "delete"]);
pub(super) const POLICIES_DOC: &str = "What becomes of old segments: delete, by age and size; compact, keep the last record of each key; empty: they stay.";
pub(super) const MIN_RATIO_DOC: &str = "The share of bytes not compacted yet from which on a compaction is worth it.";
pub(super) const MIN_LAG_DOC: &str = "A record is not compacted away before it is this old.";
pub(super) const MAX_LAG_DOC: &str =
    "A record is compacted once it is this old, whatever the share; segments close by then.";
pub(super) const DELETE_RETENTION_DOC: &str = "How long a tombstone stays after its first compaction.";
const MIGRATIONS: Rule = Rule::OneOf(&["bidirectional", "upgrade", "downgrade", "disabled"]);
const ASSIGNORS: Rule = Rule::SomeOf(&["uniform", "range"]);
pub(super) const TIMESTAMP_TYPES: Rule = Rule::OneOf(&["CreateTime", "LogAppendTime"]);

pub(super) const COMPRESSION_TYPES: Rule = Rule::OneOf(&["uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"]);
pub(super) const COMPRESSION_DOC: &str = "How batches are stored: producer, as they come; else those of another codec are compressed anew, by helper threads.";
pub(super) const GZIP_DOC: &str = "Level where compression.type is gzip; -1 is gzip's usual one.";
pub(super) const LZ4_LEVELS: Rule = Rule::Between(1, 17);
pub(super) const LZ4_DOC: &str = "Level where compression.type is lz4. As with Kafka 9, the default, is the fast encoder; from 3 on it is the thorough one.";
pub(super) const ZSTD_LEVELS: Rule = Rule::Between(-131_072, 22);
pub(super) const ZSTD_DOC: &str = "Level where compression.type is zstd.";
pub(super) const UNCLEAN_DOC: &str = "Whether a replica that is not in sync may become leader, which loses records. Kept and shown; it takes effect with more than one replica.";
pub(super) const LOCAL_MS_DOC: &str = "How long segments stay here that are in remote storage, too; -2: as retention.ms. Kept and shown; it takes effect with remote storage, which this version does not have.";
pub(super) const LOCAL_BYTES_DOC: &str = "Bytes of a partition that stay here when they are in remote storage, too; -2: as retention.bytes. Kept and shown; it takes effect with remote storage, which this version does not have.";
pub(super) const PREALLOCATE_DOC: &str =
    "Reserve a segment's bytes on the disk when it is begun; what was not needed is given back when it is closed.";

const fn key(
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    rule: Rule,
    dynamic: bool,
    doc: &'static str,
) -> Definition {
    Definition { name, kind, default, rule, dynamic, doc }
}

/// A number that is at least 1, set at start.
const fn positive(name: &'static str, default: &'static str, doc: &'static str) -> Definition {
    key(name, Kind::Int, Some(default), Rule::AtLeast(1), false, doc)
}

/// Every key of a broker, in the order of the documents.
pub const BROKER_KEYS: &[Definition] = &[
    key(
        "node.id",
        Kind::Int,
        Some("1"),
        Rule::AtLeast(0),
        false,
        "This node's id. Fixed once the data directory is formatted.",
    ),
    key(
        "broker.id",
        Kind::Int,
        None,
        Rule::AtLeast(0),
        false,
        "Older name of node.id; setting both to different values is an error.",
    ),
    key(
        "listeners",
        Kind::List,
        Some("PLAINTEXT://127.0.0.1:9092"),
        Rule::NotEmpty,
        false,
        "Where to accept connections, as PLAINTEXT://host:port. Every shard listens on it; the kernel spreads connections. An empty host is all interfaces; port 0 takes a free one.",
    ),
    key(
        "advertised.listeners",
        Kind::List,
        None,
        Rule::NotEmpty,
        false,
        "What clients are told to connect to, where that differs from listeners.",
    ),
    key(
        "log.dirs",
        Kind::List,
        Some("./data"),
        Rule::NotEmpty,
        false,
        "The data directory. Exactly one: a shard stripes over its own journal and files, not over directories.",
    ),
    key("log.dir", Kind::String, None, Rule::NotEmpty, false, "The data directory, if log.dirs is not set."),
    key(
        "num.partitions",
        Kind::Int,
        Some("1"),
        Rule::AtLeast(1),
        false,
        "Partitions of a topic whose creator names no number.",
    ),
    key(
        "default.replication.factor",
        Kind::Int,
        Some("1"),
        Rule::AtLeast(1),
        false,
        "Replicas of a topic whose creator names no number.",
    ),
    key(
        "min.insync.replicas",
        Kind::Int,
        Some("1"),
        Rule::AtLeast(1),
        true,
        "Replicas that must be in sync for a write with acks=all to be taken; no more than the partition has count.",
    ),
    key("unclean.leader.election.enable", Kind::Boolean, Some("false"), Rule::Any, true, UNCLEAN_DOC),
    key(
        "auto.create.topics.enable",
        Kind::Boolean,
        Some("true"),
        Rule::Any,
        false,
        "Make a topic when a client that allows it asks for the metadata of one that does not exist.",
    ),
    key("delete.topic.enable", Kind::Boolean, Some("true"), Rule::Any, false, "Allow topics to be deleted."),
    key(
        "message.max.bytes",
        Kind::Int,
        Some("1048588"),
        Rule::AtLeast(0),
        true,
        "Largest record batch a topic takes by default, in bytes, as compressed.",
    ),
    key("compression.type", Kind::String, Some("producer"), COMPRESSION_TYPES, true, COMPRESSION_DOC),
    key("compression.gzip.level", Kind::Int, Some("-1"), Rule::GzipLevel, true, GZIP_DOC),
    key("compression.lz4.level", Kind::Int, Some("9"), LZ4_LEVELS, true, LZ4_DOC),
    key("compression.zstd.level", Kind::Int, Some("3"), ZSTD_LEVELS, true, ZSTD_DOC),
    key(
        "socket.request.max.bytes",
        Kind::Int,
        Some("104857600"),
        Rule::AtLeast(1),
        false,
        "Largest request, in bytes; a longer one closes the connection.",
    ),
    key(
        "socket.listen.backlog.size",
        Kind::Int,
        Some("1024"),
        Rule::AtLeast(1),
        false,
        "Connections the kernel keeps before they are accepted.",
    ),
    key(
        "max.connections",
        Kind::Int,
        Some("2147483647"),
        Rule::AtLeast(0),
        false,
        "Connections of the whole broker, shared evenly between shards; one more is closed at once.",
    ),
    key(
        "connections.max.idle.ms",
        Kind::Long,
        Some("600000"),
        Rule::Any,
        false,
        "A connection without a request for so long is closed. Negative: never.",
    ),
    key(
        "queued.max.request.bytes",
        Kind::Long,
        Some("-1"),
        Rule::PositiveOrUnset,
        false,
        "Bytes of requests held in memory over all shards before sockets are read no further. -1: 64 MiB a shard.",
    ),
    key(
        "fetch.max.bytes",
        Kind::Int,
        Some("57671680"),
        Rule::AtLeast(1024),
        false,
        "Most bytes answered to one fetch; at least one batch is always sent.",
    ),
    key(
        "max.incremental.fetch.session.cache.slots",
        Kind::Int,
        Some("1000"),
        Rule::AtLeast(0),
        false,
        "Fetch sessions kept over all shards (KIP-227).",
    ),
    key(
        "producer.id.expiration.ms",
        Kind::Int,
        Some("86400000"),
        Rule::AtLeast(1),
        false,
        "A producer that has not written to a partition for so long is forgotten there (KIP-98).",
    ),
    key("log.cleanup.policy", Kind::List, Some("delete"), CLEANUP_POLICIES, true, POLICIES_DOC),
    key("log.cleaner.min.cleanable.ratio", Kind::Double, Some("0.5"), Rule::Share, true, MIN_RATIO_DOC),
    key("log.cleaner.min.compaction.lag.ms", Kind::Long, Some("0"), Rule::AtLeast(0), true, MIN_LAG_DOC),
    key("log.cleaner.max.compaction.lag.ms", Kind::Long, Some(MAX), Rule::AtLeast(1), true, MAX_LAG_DOC),
    key("log.cleaner.delete.retention.ms", Kind::Long, Some("86400000"), Rule::AtLeast(0), true, DELETE_RETENTION_DOC),
    key(
        "log.cleaner.backoff.ms",
        Kind::Long,
        Some("15000"),
        Rule::AtLeast(0),
        true,
        "From one look for partitions to compact to the next. Only partitions that may be dirty are looked at.",
    ),
    key(
        "log.cleaner.dedupe.buffer.size",
        Kind::Long,
        Some("134217728"),
        Rule::AtLeast(0),
        true,
        "Bytes of the maps of keys of all shards, 24 a key; a partition with more keys is compacted in several passes.",
    ),
    key(
        "log.cleaner.io.buffer.size",
        Kind::Int,
        Some("524288"),
        Rule::AtLeast(0),
        true,
        "Bytes of the compaction's buffers of all shards, half of them for reads, half for writes.",
    ),
    key(
        "log.cleaner.io.buffer.load.factor",
        Kind::Double,
        Some("0.9"),
        Rule::Share,
        true,
        "How full the map of keys may get.",
    ),
    key(
        "log.cleaner.io.max.bytes.per.second",
        Kind::Double,
        Some("1.7976931348623157E308"),
        Rule::Positive,
        true,
        "Bytes that the compaction of all shards reads and writes a second, at most.",
    ),
    key(
        "log.retention.ms",
        Kind::Long,
        None,
        Rule::PositiveOrUnset,
        true,
        "How long records are kept, by the newest of their segment; if unset, log.retention.minutes. -1: for ever.",
    ),
    key(
        "log.retention.minutes",
        Kind::Int,
        None,
        Rule::PositiveOrUnset,
        false,
        "How long records are kept, in minutes; if unset, log.retention.hours.",
    ),
    key(
        "log.retention.hours",
        Kind::Int,
        Some("168"),
        Rule::PositiveOrUnset,
        false,
        "How long records are kept, in hours.",
    ),
    key(
        "log.retention.bytes",
        Kind::Long,
        Some("-1"),
        Rule::Any,
        true,
        "Bytes of a partition that are kept at least when old segments are deleted. -1: no limit.",
    ),
    key("log.local.retention.ms", Kind::Long, Some("-2"), Rule::AtLeast(-2), true, LOCAL_MS_DOC),
    key("log.local.retention.bytes", Kind::Long, Some("-2"), Rule::AtLeast(-2), true, LOCAL_BYTES_DOC),
    key(
        "log.retention.check.interval.ms",
        Kind::Long,
        Some("300000"),
        Rule::AtLeast(1),
        false,
        "From one look for segments to delete to the next.",
    ),
    key(
        "log.segment.delete.delay.ms",
        Kind::Long,
        Some("60000"),
        Rule::AtLeast(0),
        true,
        "How long a deleted segment's files stay, renamed, before they are removed.",
    ),
    key(
        "log.roll.jitter.ms",
        Kind::Long,
        None,
        Rule::AtLeast(0),
        true,
        "Segments are closed up to this much before their age; if unset, log.roll.jitter.hours.",
    ),
    key(
        "log.roll.jitter.hours",
        Kind::Int,
        Some("0"),
        Rule::AtLeast(0),
        false,
        "Segments are closed up to this much before their age, in hours.",
    ),
    key(
        "log.segment.bytes",
        Kind::Int,
        Some("1073741824"),
        Rule::AtLeast(1 << 20),
        true,
        "Size at which a segment is closed and the next begun.",
    ),
    key(
        "log.roll.ms",
        Kind::Long,
        None,
        Rule::AtLeast(1),
        true,
        "Age at which a segment is closed; if unset, log.roll.hours.",
    ),
    key(
        "log.roll.hours",
        Kind::Int,
        Some("168"),
        Rule::AtLeast(1),
        false,
        "Age at which a segment is closed, in hours.",
    ),
    key(
        "log.index.interval.bytes",
        Kind::Int,
        Some("4096"),
        Rule::AtLeast(0),
        true,
        "Bytes of a segment between two entries of its offset index.",
    ),
    key(
        "log.index.size.max.bytes",
        Kind::Int,
        Some("10485760"),
        Rule::AtLeast(4),
        true,
        "Largest index of a segment; a full index closes the segment.",
    ),
    key("log.preallocate", Kind::Boolean, Some("false"), Rule::Any, true, PREALLOCATE_DOC),
    key(
        "log.message.timestamp.type",
        Kind::String,
        Some("CreateTime"),
        TIMESTAMP_TYPES,
        true,
        "Whether records keep their producer's time or get the broker's.",
    ),
    key(
        "log.message.timestamp.before.max.ms",
        Kind::Long,
        Some(MAX),
        Rule::AtLeast(0),
        true,
        "How far a record's time may lie before the broker's.",
    ),
    key(
        "log.message.timestamp.after.max.ms",
        Kind::Long,
        Some("3600000"),
        Rule::AtLeast(0),
        true,
        "How far a record's time may lie after the broker's.",
    ),
    key(
        "log.flush.interval.messages",
        Kind::Long,
        Some(MAX),
        Rule::AtLeast(1),
        true,
        "With coreline.durability=written: flush to the disk after so many records.",
    ),
    key(
        "log.flush.interval.ms",
        Kind::Long,
        None,
        Rule::AtLeast(0),
        true,
        "With coreline.durability=written: flush to the disk after so many milliseconds.",
    ),
    positive(
        "offsets.topic.num.partitions",
        "50",
        "Partitions of __consumer_offsets, when it is made: over them groups are spread.",
    ),
    key(
        "offsets.topic.replication.factor",
        Kind::Short,
        Some("3"),
        Rule::AtLeast(1),
        false,
        "Replicas of __consumer_offsets, when it is made; the number of brokers where that is less.",
    ),
    key(
        "offsets.topic.segment.bytes",
        Kind::Int,
        Some("104857600"),
        Rule::AtLeast(1 << 20),
        false,
        "Segment size of __consumer_offsets, when it is made: small, so that compaction and loading are quick.",
    ),
    positive(
        "transaction.state.log.num.partitions",
        "50",
        "Partitions of __transaction_state, when it is made: over them transactional ids are spread.",
    ),
    key(
        "transaction.state.log.replication.factor",
        Kind::Short,
        Some("3"),
        Rule::AtLeast(1),
        false,
        "Replicas of __transaction_state, when it is made; the number of brokers where that is less.",
    ),
    key(
        "transaction.state.log.segment.bytes",
        Kind::Int,
        Some("104857600"),
        Rule::AtLeast(1 << 20),
        false,
        "Segment size of __transaction_state, when it is made: small, so that compaction and loading are quick.",
    ),
    positive(
        "transaction.state.log.load.buffer.size",
        "5242880",
        "Bytes that are read at a time when a transaction coordinator loads; a larger batch is read whole.",
    ),
    key(
        "transaction.partition.verification.enable",
        Kind::Boolean,
        Some("true"),
        Rule::Any,
        true,
        "Whether the coordinator is asked before the first batch of a transaction is taken of a client that adds partitions itself (KIP-890). Without, such a batch may begin a transaction that hangs.",
    ),
    positive("transaction.max.timeout.ms", "900000", "The longest timeout that a transactional producer may ask for."),
    positive(
        "transactional.id.expiration.ms",
        "604800000",
        "A transactional id that nothing was done with for so long is forgotten.",
    ),
    positive(
        "transaction.remove.expired.transaction.cleanup.interval.ms",
        "3600000",
        "How often transactional ids are looked through for those that have expired.",
    ),
    positive(
        "offsets.load.buffer.size",
        "5242880",
        "Bytes that are read at a time when a group coordinator loads; a larger batch is read whole.",
    ),
    key(
        "offset.metadata.max.bytes",
        Kind::Int,
        Some("4096"),
        Rule::AtLeast(0),
        false,
        "Largest metadata that a client may commit with an offset.",
    ),
    positive(
        "offsets.retention.minutes",
        "10080",
        "How long offsets are kept after a group is empty, or after the commit where nobody subscribes to the topic.",
    ),
    key(
        "offsets.retention.check.interval.ms",
        Kind::Long,
        Some("600000"),
        Rule::AtLeast(1),
        false,
        "How often offsets are looked through for those to remove.",
    ),
    key(
        "group.min.session.timeout.ms",
        Kind::Int,
        Some("6000"),
        Rule::AtLeast(0),
        false,
        "Shortest session timeout that a member of a classic group may ask for.",
    ),
    key(
        "group.max.session.timeout.ms",
        Kind::Int,
        Some("1800000"),
        Rule::AtLeast(0),
        false,
        "Longest session timeout that a member of a classic group may ask for.",
    ),
    key(
        "group.initial.rebalance.delay.ms",
        Kind::Int,
        Some("3000"),
        Rule::AtLeast(0),
        false,
        "How long a new classic group waits for more members before its first generation.",
    ),
    positive("group.max.size", "2147483647", "Members of a classic group, at most."),
    positive(
        "group.consumer.session.timeout.ms",
        "45000",
        "After how long without a heartbeat a member of a consumer group is gone.",
    ),
    positive(
        "group.consumer.heartbeat.interval.ms",
        "5000",
        "How often a member of a consumer group shall send a heartbeat.",
    ),
    positive("group.consumer.min.session.timeout.ms", "45000", "Shortest session timeout of a consumer group."),
    positive("group.consumer.max.session.timeout.ms", "60000", "Longest session timeout of a consumer group."),
    positive("group.consumer.min.heartbeat.interval.ms", "5000", "Shortest heartbeat interval of a consumer group."),
    positive("group.consumer.max.heartbeat.interval.ms", "15000", "Longest heartbeat interval of a consumer group."),
    key(
        "group.consumer.migration.policy",
        Kind::String,
        Some("bidirectional"),
        MIGRATIONS,
        false,
        "Which way a group with members may change its protocol: upgrade, to the consumer protocol; downgrade, to the classic one.",
    ),
    positive("group.consumer.max.size", "2147483647", "Members of a consumer group, at most."),
    key(
        "group.consumer.assignors",
        Kind::List,
        Some("uniform,range"),
        ASSIGNORS,
        false,
        "Assignors for consumer groups, the default first: uniform, range.",
    ),
    key(
        "group.consumer.regex.refresh.interval.ms",
        Kind::Int,
        Some("600000"),
        Rule::AtLeast(10_000),
        false,
        "How often regular expressions of subscriptions are matched against new topics.",
    ),
    key(
        "coreline.cores",
        Kind::String,
        Some("all"),
        Rule::NotEmpty,
        false,
        "The cores to run on, one shard each: all, a count, or a list such as 0,2,4. One number is a count; 0, with a comma after it, is a list.",
    ),
    key(
        "coreline.core.port",
        Kind::Int,
        None,
        Rule::Between(1, 65_535),
        false,
        "The port of the first core, the next ones of the others: each core is told to clients as a broker of its own (core n of node 1 is broker 1 + 1000n), so that no request crosses cores. Not set: off. What it breaks: shards.md.",
    ),
    key(
        "coreline.steering",
        Kind::String,
        Some("on"),
        ON_OFF,
        false,
        "Whether a connection moves to the core that owns nearly all of the partitions it uses: on or off. Clients do not notice.",
    ),
    key(
        "coreline.balance",
        Kind::String,
        Some("off"),
        ON_OFF,
        false,
        "Whether partitions move from a hot core to a cool one, live and one at a time: on or off. Their clients wait some milliseconds. What moves, and when: shards.md.",
    ),
    key(
        "coreline.balance.interval.ms",
        Kind::Long,
        Some("10000"),
        Rule::Between(100, 3_600_000),
        false,
        "With coreline.balance=on: how often the load of partitions is looked at. A core must be hot six times in a row, and a partition that was moved stays for sixty.",
    ),
    key(
        "coreline.poll",
        Kind::String,
        Some("never"),
        Rule::OneOf(&["adaptive", "never", "dedicated"]),
        false,
        "What a core does that has nothing to do. never: it sleeps. adaptive: where the last waits were short it polls for up to 50 µs first. dedicated: it polls all the time, for cores that nothing else runs on. tuning.md has figures.",
    ),
    key(
        "coreline.durability",
        Kind::String,
        Some("durable"),
        DURABILITY,
        true,
        "When a write is acknowledged: durable, after it is flushed to the disk; written, after it is handed to the disk (direct I/O, no flush).",
    ),
    key(
        "coreline.journal.bytes",
        Kind::Long,
        Some("268435456"),
        Rule::AtLeast(16 << 20),
        false,
        "Size of each shard's journal. What is in it is read at start: it bounds the time of recovery.",
    ),
    key(
        "coreline.recovery.max.ms",
        Kind::Long,
        Some("1000"),
        Rule::AtLeast(100),
        false,
        "A start after a crash is to take no longer: each shard's journal is kept as short as that asks for, by what reading it took at the last start and how many partitions there are.",
    ),
    key(
        "coreline.cache.bytes",
        Kind::Long,
        Some("67108864"),
        Rule::AtLeast(1 << 20),
        false,
        "Memory of each shard for records that were written a moment ago, from which readers at the tail are served.",
    ),
    key(
        "coreline.unflushed.bytes",
        Kind::Long,
        Some("134217728"),
        Rule::AtLeast(16 << 20),
        false,
        "Memory of each shard for records that are in the journal but not yet in their segments; at the limit writes wait.",
    ),
    key(
        "coreline.open.files",
        Kind::Int,
        Some("4096"),
        Rule::AtLeast(16),
        false,
        "Files each shard keeps open; partitions are not bounded by it.",
    ),
    key(
        "coreline.latency",
        Kind::String,
        Some("on"),
        ON_OFF,
        false,
        "Whether requests are stamped at each stage, for coreline latency and the times among the metrics: on or off.",
    ),
    key(
        "coreline.metrics.listener",
        Kind::String,
        Some(""),
        Rule::Any,
        false,
        "Where metrics can be scraped (GET /metrics, OpenMetrics text), as host:port; port 0 takes a free one. Empty: nowhere. Whoever reaches it may read it.",
    ),
    key(
        "coreline.metrics.topics.max",
        Kind::Int,
        Some("1000"),
        Rule::AtLeast(0),
        false,
        "Topics with metrics of their own, the first by name; the others are summed up as topic (others).",
    ),
];

/// Keys that Kafka has and this version does not obey: for a better message than "unknown".
const KAFKA_ONLY: &[&str] = &[
    "process.roles",
    "controller.quorum.voters",
    "controller.quorum.bootstrap.servers",
    "controller.listener.names",
    "inter.broker.listener.name",
    "listener.security.protocol.map",
    "num.network.threads",
    "num.io.threads",
    "socket.send.buffer.bytes",
    "socket.receive.buffer.bytes",
    "num.recovery.threads.per.data.dir",
    "log.cleaner.enable",
    "log.cleaner.threads",
    "log.flush.scheduler.interval.ms",
    "log.flush.offset.checkpoint.interval.ms",
    "log.flush.start.offset.checkpoint.interval.ms",
    "log.initial.task.delay.ms",
    "log.dir.failure.timeout.ms",
    "transaction.state.log.min.isr",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms",
    "transaction.two.phase.commit.enable",
    "group.coordinator.rebalance.protocols",
    "group.coordinator.threads",
    "group.consumer.assignment.interval.ms",
    "group.coordinator.append.linger.ms",
    "offsets.commit.timeout.ms",
    "offsets.topic.compression.codec",
    "authorizer.class.name",
    "ssl.keystore.location",
    "sasl.enabled.mechanisms",
    "super.users",
    "broker.rack",
    "zookeeper.connect",
    "max.connections.per.ip",
    "replica.lag.time.max.ms",
    "auto.leader.rebalance.enable",
    "background.threads",
    "metric.reporters",
    "queued.max.requests",
];

/// The definition of a broker's key.
///
/// # Errors
/// `Unknown` with the nearest known key, or `Unsupported`.
pub fn broker_key(name: &str) -> Result<&'static Definition, super::ConfigError> {
    BROKER_KEYS.iter().find(|d| d.name == name).ok_or_else(|| stranger(name, BROKER_KEYS.iter().map(|d| d.name)))
}

/// The definition of a topic's key.
///
/// # Errors
/// `Unknown` with the nearest known key, or `Unsupported`.
pub fn topic_key(name: &str) -> Result<&'static TopicDefinition, super::ConfigError> {
    TOPIC_KEYS.iter().find(|d| d.key.name == name).ok_or_else(|| stranger(name, TOPIC_KEYS.iter().map(|d| d.key.name)))
}

fn stranger(name: &str, known: impl Iterator<Item = &'static str>) -> super::ConfigError {
    if KAFKA_ONLY.contains(&name) {
        return super::ConfigError::Unsupported { key: name.to_owned() };
    }
    let nearest = known.map(|k| (distance(name, k), k)).min().filter(|(d, k)| *d <= 2 + k.len() / 4);
    super::ConfigError::Unknown { key: name.to_owned(), nearest: nearest.map(|(_, k)| k.to_owned()) }
}

/// Levenshtein's distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse_value;

    #[test]
    fn defaults_are_valid_and_names_unique() {
        let topics = TOPIC_KEYS.iter().map(|t| &t.key);
        for table in [BROKER_KEYS.iter().collect::<Vec<_>>(), topics.collect()] {
            for (i, d) in table.iter().enumerate() {
                assert!(table[..i].iter().all(|other| other.name != d.name), "{} twice", d.name);
                assert!(!KAFKA_ONLY.contains(&d.name), "{} is supported", d.name);
                if let Some(default) = d.default {
                    parse_value(d.name, d.kind, d.rule, default).expect("a valid default");
                }
            }
        }
        for t in TOPIC_KEYS {
            for (synonym, _) in t.synonyms {
                broker_key(synonym).expect("a synonym is a broker's key");
            }
        }
    }

    /// All of Kafka 4.2 that begin with `log.`, and what recovery has.
    const LOG_KEYS_OF_KAFKA: &str = "log.cleaner.backoff.ms log.cleaner.dedupe.buffer.size log.cleaner.delete.retention.ms \
        log.cleaner.enable log.cleaner.io.buffer.load.factor log.cleaner.io.buffer.size log.cleaner.io.max.bytes.per.second \
        log.cleaner.max.compaction.lag.ms log.cleaner.min.cleanable.ratio log.cleaner.min.compaction.lag.ms \
        log.cleaner.threads log.cleanup.policy log.dir log.dir.failure.timeout.ms log.dirs log.flush.interval.messages \
        log.flush.interval.ms log.flush.offset.checkpoint.interval.ms log.flush.scheduler.interval.ms \
        log.flush.start.offset.checkpoint.interval.ms log.index.interval.bytes log.index.size.max.bytes \
        log.initial.task.delay.ms log.local.retention.bytes log.local.retention.ms log.message.timestamp.after.max.ms \
        log.message.timestamp.before.max.ms log.message.timestamp.type log.preallocate log.retention.bytes \
        log.retention.check.interval.ms log.retention.hours log.retention.minutes log.retention.ms log.roll.hours \
        log.roll.jitter.hours log.roll.jitter.ms log.roll.ms log.segment.bytes log.segment.delete.delay.ms \
        num.recovery.threads.per.data.dir";

    #[test]
    fn every_log_key_of_kafka_is_obeyed_or_refused_by_name() {
        for name in LOG_KEYS_OF_KAFKA.split_whitespace() {
            let unknown = matches!(broker_key(name), Err(crate::config::ConfigError::Unknown { .. }));
            assert!(!unknown, "{name} is not known");
        }
    }

    #[test]
    fn strangers_are_named() {
        let error = broker_key("log.segment.byte").expect_err("unknown").to_string();
        assert_eq!(error, "unknown configuration key \"log.segment.byte\": did you mean \"log.segment.bytes\"?");
        assert!(broker_key("zookeeper.connect").expect_err("unsupported").to_string().contains("not supported"));
        assert_eq!(broker_key("xyzzy").expect_err("unknown").to_string(), "unknown configuration key \"xyzzy\"");
        assert!(topic_key("local.retention.m").is_err());
    }
}
