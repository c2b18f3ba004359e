//! The one table of metrics. What Kafka has, too, has the name that its JMX metrics get from the usual rules of the JMX
//! exporter, so that dashboards find it; the rest begins with `coreline_`, and what is of the process with `process_`.
//!
//! Counters get `_total` in the text.

use super::Kind;

macro_rules! families {
    ($($variant:ident $kind:ident $name:literal [$($label:literal)*] $help:literal;)*) => {
        /// A family of samples.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[allow(missing_docs, reason = "its help says it")]
        pub enum Family { $($variant,)* }

        impl Family {
            /// All, in the order of the text.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name, for counters without `_total`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What it is.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => $help,)* }
            }

            /// What its samples are.
            #[must_use]
            pub const fn kind(self) -> Kind {
                match self { $(Self::$variant => Kind::$kind,)* }
            }

            /// The names of its labels.
            #[must_use]
            pub const fn labels(self) -> &'static [&'static str] {
                match self { $(Self::$variant => &[$($label),*],)* }
            }
        }
    };
}

families! {
    TopicBytesIn Counter "kafka_server_brokertopicmetrics_bytesin" ["topic"]
        "Bytes of records appended to a topic.";
    TopicBytesOut Counter "kafka_server_brokertopicmetrics_bytesout" ["topic"]
        "Bytes of records of a topic sent to consumers.";
    TopicMessagesIn Counter "kafka_server_brokertopicmetrics_messagesin" ["topic"]
        "Records appended to a topic.";
    TopicsLeftOut Gauge "coreline_topics_left_out" []
        "Topics beyond coreline.metrics.topics.max: their sums are in topic=(others).";
    Requests Counter "kafka_network_requestmetrics_requests" ["shard" "request"]
        "Requests answered, by API.";
    Errors Counter "kafka_network_requestmetrics_errors" ["shard" "request" "error"]
        "Errors in answers of Produce and Fetch, a partition each.";
    RequestSeconds Histogram "coreline_request_seconds" ["request"]
        "From the last byte of a request to its answer in the socket, all shards.";
    RecentSeconds Gauge "coreline_request_recent_seconds" ["request" "stage" "quantile"]
        "The same by stage, of the last 10 to 20 seconds; quantile 1 is the longest.";
    Connections Gauge "kafka_server_socketservermetrics_connection_count" ["shard"]
        "Connections of clients.";
    Accepted Counter "coreline_connections_accepted" ["shard"]
        "Connections accepted, scrapes included.";
    Broken Counter "coreline_connections_refused" ["shard"]
        "Connections closed because of what the client sent.";
    FetchSessions Gauge "kafka_server_fetchsessioncache_numincrementalfetchsessions" ["shard"]
        "Incremental fetch sessions.";
    FetchSessionEvictions Counter "kafka_server_fetchsessioncache_incrementalfetchsessionevictions" ["shard"]
        "Fetch sessions that had to make room for others.";
    RoutedRequests Counter "coreline_routed_requests" ["shard" "where"]
        "Requests for partitions of the connection's core only (here), and with others (elsewhere).";
    ConnectionMoves Counter "coreline_connection_moves" ["shard" "direction"]
        "Connections that moved to another core (left), and from another (came).";
    ReceivedBytes Counter "coreline_received_bytes" ["shard"]
        "Bytes received from sockets.";
    SentBytes Counter "coreline_sent_bytes" ["shard"]
        "Bytes sent to sockets.";
    Partitions Gauge "kafka_server_replicamanager_partitioncount" ["shard"]
        "Partitions.";
    LoadedPartitions Gauge "coreline_loaded_partitions" ["shard"]
        "Partitions that were used since the start, and are in memory.";
    OfflinePartitions Gauge "kafka_server_replicamanager_offlinereplicacount" ["shard"]
        "Partitions that could not be loaded.";
    UnderMinIsr Gauge "kafka_server_replicamanager_underminisrpartitioncount" []
        "Partitions with fewer replicas in sync than min.insync.replicas.";
    Topics Gauge "kafka_controller_kafkacontroller_globaltopiccount" []
        "Topics.";
    Segments Gauge "coreline_segments" ["shard"]
        "Segments of loaded partitions.";
    TopicLogBytes Gauge "coreline_topic_log_bytes" ["topic"]
        "Bytes in the segments of a topic's loaded partitions.";
    Batches Counter "coreline_batches" ["shard"]
        "Batches appended.";
    GroupCommits Counter "coreline_group_commits" ["shard"]
        "Group commits: one write and, where the records are to be durable, one flush of the journal each.";
    FlushSeconds Histogram "coreline_flush_seconds" ["shard"]
        "How long the write and flush of a group commit took.";
    JournalBytes Counter "coreline_journal_bytes" ["shard"]
        "Bytes written to the journal, padding included.";
    DirectWrites Counter "coreline_direct_writes" ["shard"]
        "Writes of large batches that went straight to a segment.";
    SegmentBytes Counter "coreline_segment_bytes" ["shard"]
        "Bytes written to segments, padding included.";
    NotDurableBytes Gauge "coreline_not_durable_bytes" ["shard"]
        "Acknowledged bytes that no flush to the device covers yet (coreline.durability=written).";
    UnflushedBytes Gauge "coreline_unflushed_bytes" ["shard"]
        "Acknowledged bytes in the journal that are not in a segment yet.";
    CacheBytes Gauge "coreline_cache_bytes" ["shard"]
        "Flushed bytes kept in memory for readers.";
    OpenFiles Gauge "coreline_open_files" ["shard"]
        "Segment and index files open.";
    ColdBytes Counter "coreline_cold_read_bytes" ["shard"]
        "Bytes of segments that readers looked at.";
    DeviceReadBytes Counter "coreline_device_read_bytes" ["shard"]
        "Bytes read from the device for them.";
    SharedReadBytes Counter "coreline_shared_read_bytes" ["shard"]
        "Bytes that readers were given of what others had read.";
    RetentionSegments Counter "coreline_retention_segments" ["shard"]
        "Segments removed because they lie before the log's start, which retention and DeleteRecords move.";
    RetentionBytes Counter "coreline_retention_bytes" ["shard"]
        "Bytes of them.";
    UncleanableCount Gauge "kafka_log_logcleanermanager_uncleanable_partitions_count" ["shard"]
        "Partitions that cannot be compacted.";
    Uncleanable Gauge "coreline_uncleanable_partition" ["topic" "partition"]
        "1 for each of them, 1,000 a shard at most; the log says why.";
    Compactions Counter "coreline_compactions" ["shard"]
        "Compactions of a partition that came to their end.";
    CompactedRecords Counter "coreline_compacted_records" ["shard"]
        "Records that they removed.";
    CompactionReadBytes Counter "coreline_compaction_read_bytes" ["shard"]
        "Bytes that compactions read.";
    CompactionWrittenBytes Counter "coreline_compaction_written_bytes" ["shard"]
        "Bytes that compactions wrote, padding included.";
    CompactionWaiting Gauge "coreline_compaction_waiting_partitions" ["shard"]
        "Partitions that the cleaner will look at.";
    Groups Gauge "kafka_coordinator_group_groupmetadatamanager_numgroups" ["shard"]
        "Groups, offsets without members included.";
    Members Gauge "coreline_group_members" ["shard"]
        "Members of groups.";
    TransactionalIds Gauge "coreline_transactional_ids" ["shard" "state"]
        "Transactional ids, by the state of their transaction.";
    OpenTransactions Gauge "coreline_open_transactions" ["shard"]
        "Transactions open in a partition, counted in each of its loaded partitions.";
    LateTransactions Gauge "kafka_server_replicamanager_partitionswithlatetransactionscount" ["shard"]
        "Loaded partitions with a transaction open for longer than transaction.max.timeout.ms and five minutes: it may hang.";
    Stalls Counter "coreline_stalls" ["shard"]
        "Times that a task held its core for more than 10 ms.";
    LongestStall Gauge "coreline_longest_stall_seconds" ["shard"]
        "The longest of them.";
    SystemCalls Counter "coreline_system_calls" ["shard" "call"]
        "System calls on sockets, and operations on files; what the rings need besides is not seen.";
    CopiedBytes Counter "coreline_copied_bytes" ["shard" "where"]
        "Bytes copied in user space: of requests that came in pieces (frame), of small batches into a partition's chunk (chunk), into the buffers of writes (write), of reads that came in pieces (read), which is all that is copied on the way out.";
    Allocations Counter "coreline_allocations" ["shard"]
        "Allocations of memory on the core's thread.";
    ResidentBytes Gauge "process_resident_memory_bytes" []
        "Memory of the process that is resident.";
    CpuSeconds Counter "process_cpu_seconds" []
        "Processor time of the process, user and system.";
    OpenFds Gauge "process_open_fds" []
        "Open descriptors.";
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    const BEGIN: &str = "<!-- metrics -->\n";
    const END: &str = "<!-- /metrics -->";

    fn table() -> String {
        let mut text = "\n| metric | kind | labels | |\n| --- | --- | --- | --- |\n".to_owned();
        for family in Family::ALL {
            let total = if family.kind() == Kind::Counter { "_total" } else { "" };
            let labels = family.labels().join(", ");
            let (name, kind, help) = (family.name(), family.kind().name(), family.help());
            writeln!(text, "| `{name}{total}` | {kind} | {labels} | {help} |").expect("a String takes it");
        }
        text.push('\n');
        text
    }

    /// `UPDATE_DOCS=1 cargo test --lib the_document_lists_every_metric` writes it.
    #[test]
    fn the_document_lists_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/docs/operations.md");
        let document = std::fs::read_to_string(path).expect("the document");
        let (before, rest) = document.split_once(BEGIN).expect("the mark");
        let (found, after) = rest.split_once(END).expect("the mark");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table())).expect("written");
        } else {
            assert_eq!(found, table(), "run it with UPDATE_DOCS=1");
        }
    }
}
