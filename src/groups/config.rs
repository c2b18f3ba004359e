//! What the coordinator is told by configuration, with Kafka's defaults.

pub use crate::config::GroupConfig;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Which way groups may change their protocol while they have members (`group.consumer.migration.policy`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MigrationPolicy {
    /// `bidirectional`.
    #[default]
    Bidirectional,
    /// `upgrade`: from the classic protocol to the consumer protocol.
    Upgrade,
    /// `downgrade`: from the consumer protocol to the classic protocol.
    Downgrade,
    /// `disabled`.
    Disabled,
}

/// The broker's settings of groups, each under Kafka's name in its comment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupsConfig {
    /// `group.initial.rebalance.delay.ms`.
    pub initial_rebalance_delay_ms: i32,
    /// `group.min.session.timeout.ms`.
    pub min_session_timeout_ms: i32,
    /// `group.max.session.timeout.ms`.
    pub max_session_timeout_ms: i32,
    /// `group.max.size`.
    pub max_size: i32,
    /// `offset.metadata.max.bytes`.
    pub offset_metadata_max_bytes: i32,
    /// `offsets.retention.minutes`, in milliseconds.
    pub offsets_retention_ms: i64,
    /// `offsets.retention.check.interval.ms`.
    pub offsets_retention_check_interval_ms: i64,
    /// `group.consumer.session.timeout.ms`.
    pub consumer_session_timeout_ms: i32,
    /// `group.consumer.heartbeat.interval.ms`.
    pub consumer_heartbeat_interval_ms: i32,
    /// `group.consumer.max.size`.
    pub consumer_max_size: i32,
    /// `group.consumer.assignors`, the default first.
    pub consumer_assignors: Vec<Arc<str>>,
    /// `group.consumer.migration.policy`.
    pub consumer_migration_policy: MigrationPolicy,
    /// `group.consumer.regex.refresh.interval.ms`.
    pub consumer_regex_refresh_interval_ms: i32,
}

impl Default for GroupsConfig {
    fn default() -> Self {
        Self {
            initial_rebalance_delay_ms: 3000,
            min_session_timeout_ms: 6000,
            max_session_timeout_ms: 1_800_000,
            max_size: i32::MAX,
            offset_metadata_max_bytes: 4096,
            offsets_retention_ms: 10_080 * 60_000,
            offsets_retention_check_interval_ms: 600_000,
            consumer_session_timeout_ms: 45_000,
            consumer_heartbeat_interval_ms: 5000,
            consumer_max_size: i32::MAX,
            consumer_assignors: vec![Arc::from("uniform"), Arc::from("range")],
            consumer_migration_policy: MigrationPolicy::default(),
            consumer_regex_refresh_interval_ms: 600_000,
        }
    }
}

/// The settings of groups, by group: those that have some.
pub type GroupConfigs = BTreeMap<Arc<str>, GroupConfig>;
