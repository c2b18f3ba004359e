//! What the logic is told of the configuration.

use crate::config::{BrokerConfig, resolve_group};
use crate::controller::ClusterImage;
use crate::groups::config::{GroupConfigs, GroupsConfig, MigrationPolicy};
use std::sync::Arc;

/// The settings of groups that a broker was started with.
pub(super) fn groups_config(config: &BrokerConfig) -> GroupsConfig {
    let int = |key: &str| config.integer(key) as i32;
    GroupsConfig {
        initial_rebalance_delay_ms: int("group.initial.rebalance.delay.ms"),
        min_session_timeout_ms: int("group.min.session.timeout.ms"),
        max_session_timeout_ms: int("group.max.session.timeout.ms"),
        max_size: int("group.max.size"),
        offset_metadata_max_bytes: int("offset.metadata.max.bytes"),
        offsets_retention_ms: config.integer("offsets.retention.minutes") * 60_000,
        offsets_retention_check_interval_ms: config.integer("offsets.retention.check.interval.ms"),
        consumer_session_timeout_ms: int("group.consumer.session.timeout.ms"),
        consumer_heartbeat_interval_ms: int("group.consumer.heartbeat.interval.ms"),
        consumer_max_size: int("group.consumer.max.size"),
        consumer_assignors: config.items("group.consumer.assignors").iter().map(|name| Arc::from(&**name)).collect(),
        consumer_regex_refresh_interval_ms: int("group.consumer.regex.refresh.interval.ms"),
        consumer_migration_policy: match &*config.text("group.consumer.migration.policy") {
            "upgrade" => MigrationPolicy::Upgrade,
            "downgrade" => MigrationPolicy::Downgrade,
            "disabled" => MigrationPolicy::Disabled,
            _ => MigrationPolicy::Bidirectional,
        },
    }
}

/// The settings of single groups, in the limits of the broker's.
pub(super) fn group_configs(config: &BrokerConfig, image: &ClusterImage) -> Arc<GroupConfigs> {
    let one = |(id, own): (&Arc<str>, &_)| (Arc::clone(id), resolve_group(config, own));
    Arc::new(image.group_configs.iter().map(one).collect())
}
