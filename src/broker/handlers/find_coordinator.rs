//! FindCoordinator: there are no groups and no transactions yet, and that is what it says.

use crate::broker::connection::RequestContext;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use kafka_protocol::messages::find_coordinator_response::Coordinator;
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};

/// Why there is no coordinator of a key's type.
fn refusal(key_type: i8) -> (ErrorCode, &'static str) {
    match key_type {
        0 | 2 => (ErrorCode::CoordinatorNotAvailable, "This version of Coreline has no groups: assign partitions."),
        // Not to be tried again: a producer reports it at once, and does not wait for `max.block.ms`.
        1 => (ErrorCode::UnsupportedVersion, "This version of Coreline has no transactions."),
        _ => (ErrorCode::InvalidRequest, "The key's type is 0 (group), 1 (transaction) or 2 (share group)."),
    }
}

pub(super) fn handle(context: &RequestContext, request: FindCoordinatorRequest) -> FindCoordinatorResponse {
    let (error, message) = refusal(request.key_type);
    let response = FindCoordinatorResponse::default();
    match context.request.header.api_version {
        version @ 0..=3 => {
            let response = response.with_error_code(error.code()).with_node_id((-1).into()).with_port(-1);
            if version >= 1 { response.with_error_message(Some(text(message))) } else { response }
        }
        _ => {
            let coordinators = request.coordinator_keys.into_iter().map(|key| {
                Coordinator::default()
                    .with_key(key)
                    .with_node_id((-1).into())
                    .with_port(-1)
                    .with_error_code(error.code())
                    .with_error_message(Some(text(message)))
            });
            response.with_coordinators(coordinators.collect())
        }
    }
}
