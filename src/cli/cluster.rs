//! What several commands ask of a cluster.

use crate::error_code::ErrorCode;
use coreline_bench::client::Client;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A topic that was just created has its leaders within this time or not at all.
const LEADER_WAIT: Duration = Duration::from_secs(10);

/// Kafka's name of an error code.
pub(super) fn error_name(code: i16) -> String {
    ErrorCode::from_code(code).map_or_else(|| format!("error code {code}"), |c| c.name().to_owned())
}

/// The leader of each partition of a topic and the brokers' addresses; the broker may create the topic on the way.
pub(super) fn wait_for_leaders(client: &mut Client, topic: &str) -> Result<(Vec<i32>, BTreeMap<i32, String>), String> {
    let deadline = Instant::now() + LEADER_WAIT;
    loop {
        let cluster = client.metadata_or_create(topic).map_err(|e| e.to_string())?;
        let addresses = cluster.nodes.iter().map(|n| (n.id, n.address.clone())).collect();
        let code = match cluster.topics.get(topic) {
            Some(t) if t.error_code == 0 && !t.leaders.is_empty() && !t.leaders.contains(&-1) => {
                return Ok((t.leaders.clone(), addresses));
            }
            Some(t) => t.error_code,
            None => ErrorCode::UnknownTopicOrPartition.code(),
        };
        let passing =
            [ErrorCode::None.code(), ErrorCode::LeaderNotAvailable.code(), ErrorCode::UnknownTopicOrPartition.code()];
        if !passing.contains(&code) || Instant::now() > deadline {
            return Err(format!("{topic}: {}", error_name(code)));
        }
    }
}
