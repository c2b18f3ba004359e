//! A member of a classic group.

use crate::groups::Token;
use crate::groups::records::MemberMetadata;
use crate::groups::timers::Alarm;
use bytes::Bytes;
use kafka_protocol::messages::join_group_request::JoinGroupRequestProtocol;
use std::sync::Arc;

/// A member. It lives from its join (with an id) to its leave, or to the end of its session.
#[derive(Clone, Debug)]
pub struct Member {
    /// Given by the coordinator.
    pub id: Arc<str>,
    /// Given by the user (KIP-345).
    pub instance_id: Option<Arc<str>>,
    /// `client.id`.
    pub client_id: Arc<str>,
    /// Where it is.
    pub client_host: Arc<str>,
    /// How long it may take to join again.
    pub rebalance_timeout_ms: i32,
    /// How long it may be silent.
    pub session_timeout_ms: i32,
    /// By name, the best first.
    pub protocols: Vec<(Arc<str>, Bytes)>,
    /// By its leader, in this generation.
    pub assignment: Bytes,
    /// The join that waits for the others.
    pub(super) awaiting_join: Option<Token>,
    /// The sync that waits for the leader.
    pub(super) awaiting_sync: Option<Token>,
    /// Not in a generation yet: waiting for one does not keep it alive for ever.
    pub(super) is_new: bool,
    pub(super) session: Alarm,
}

impl Member {
    pub(super) fn from_record(record: MemberMetadata, protocol: Arc<str>) -> Self {
        Self {
            id: record.member_id,
            instance_id: record.group_instance_id,
            client_id: record.client_id,
            client_host: record.client_host,
            rebalance_timeout_ms: match record.rebalance_timeout_ms {
                -1 => record.session_timeout_ms,
                timeout => timeout,
            },
            session_timeout_ms: record.session_timeout_ms,
            protocols: vec![(protocol, record.subscription)],
            assignment: record.assignment,
            awaiting_join: None,
            awaiting_sync: None,
            is_new: false,
            session: Alarm::default(),
        }
    }

    /// What it says under a protocol's name; nothing if it does not have it.
    #[must_use]
    pub fn metadata(&self, protocol: &str) -> Bytes {
        self.protocols
            .iter()
            .find(|(name, _)| **name == *protocol)
            .map(|(_, metadata)| metadata.clone())
            .unwrap_or_default()
    }

    /// Whether a join says the same as the last.
    pub(super) fn matches(&self, protocols: &[JoinGroupRequestProtocol]) -> bool {
        self.protocols.len() == protocols.len()
            && self
                .protocols
                .iter()
                .zip(protocols)
                .all(|((name, metadata), theirs)| **name == *theirs.name.as_str() && metadata == &theirs.metadata)
    }

    /// Whether it is excused from heartbeats: it waits for us.
    pub(super) fn is_waiting(&self) -> bool {
        !self.is_new && (self.awaiting_join.is_some() || self.awaiting_sync.is_some())
    }
}

/// The protocols of a request in memory of their own: those of the request hold its whole buffer.
pub(super) fn own_protocols(protocols: &[JoinGroupRequestProtocol]) -> Vec<(Arc<str>, Bytes)> {
    protocols.iter().map(|p| (Arc::from(p.name.as_str()), Bytes::copy_from_slice(&p.metadata))).collect()
}
