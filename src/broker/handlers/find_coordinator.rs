//! FindCoordinator: this node, for every group whose partition of `__consumer_offsets` it leads, and every transactional id
//! whose partition of `__transaction_state` it leads. There are no share groups yet, and that is what it says.

use crate::broker::Shard;
use crate::broker::connection::RequestContext;
use crate::broker::groups::{Groups, offsets_topic};
use crate::broker::transactions::{Transactions, state_topic};
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use coreline_io::Runtime;
use coreline_shards::ShardId;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
/// The first version with several keys.
const MANY: i16 = 4;

/// Where a key's coordinator is, or why nowhere.
type Found = Result<Node, (ErrorCode, &'static str)>;

#[derive(Clone)]
struct Node {
    id: i32,
    host: StrBytes,
    port: i32,
}

pub(super) async fn handle<R: Runtime>(
    shard: &Rc<Shard<R>>,
    (groups, transactions): (&Groups<R>, &Transactions<R>),
    context: &RequestContext,
    request: FindCoordinatorRequest,
) -> FindCoordinatorResponse {
    let ready = match request.key_type {
        GROUP => offsets_topic::OFFSETS
            .ensure(shard)
            .await
            .map_err(|code| (code, "The topic of the groups could not be made yet.")),
        TRANSACTION => state_topic::STATE
            .ensure(shard)
            .await
            .map_err(|code| (code, "The topic of the transactions could not be made yet.")),
        2 => Err((ErrorCode::CoordinatorNotAvailable, "This version of Coreline has no share groups.")),
        _ => Err((ErrorCode::InvalidRequest, "The key's type is 0 (group), 1 (transaction) or 2 (share group).")),
    };
    let found = |key: &str| {
        ready?;
        let partition = if request.key_type == TRANSACTION { transactions.find(key) } else { groups.find(key) };
        find(shard, partition.ok().map(|(_, owner)| owner))
    };
    match context.request.header.api_version {
        version if version < MANY => single(version, found(&request.key)),
        _ => {
            let all = request.coordinator_keys.into_iter().map(|key| {
                let found = found(&key);
                one(Coordinator::default().with_key(key), found)
            });
            FindCoordinatorResponse::default().with_coordinators(all.collect())
        }
    }
}

fn find<R: Runtime>(shard: &Shard<R>, owner: Option<ShardId>) -> Found {
    let missing = (ErrorCode::CoordinatorNotAvailable, "The coordinator's partition has no leader now.");
    let owner = owner.ok_or(missing)?;
    // One node: whoever leads it is this one, or its core.
    let id = shard.cores.as_ref().map_or(shard.node_id(), |cores| cores.id(owner.0));
    let brokers = shard.brokers_told(&shard.image());
    let node = brokers.into_iter().find(|broker| broker.id == id).ok_or(missing)?;
    Ok(Node { id: node.id.0, host: text(&node.host), port: i32::from(node.port) })
}

fn single(version: i16, found: Found) -> FindCoordinatorResponse {
    let response = FindCoordinatorResponse::default();
    let (response, message) = match found {
        Ok(node) => (response.with_node_id(node.id.into()).with_host(node.host).with_port(node.port), "NONE"),
        Err((code, message)) => {
            (response.with_node_id((-1).into()).with_port(-1).with_error_code(code.code()), message)
        }
    };
    if version >= 1 { response.with_error_message(Some(text(message))) } else { response }
}

fn one(coordinator: Coordinator, found: Found) -> Coordinator {
    match found {
        Ok(node) => coordinator.with_node_id(node.id.into()).with_host(node.host).with_port(node.port),
        Err((code, message)) => {
            let coordinator = coordinator.with_node_id((-1).into()).with_port(-1).with_error_code(code.code());
            coordinator.with_error_message(Some(text(message)))
        }
    }
}
