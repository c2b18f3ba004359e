//! ListTransactions: every transactional id of this node that the filters let through, of every coordinator (KIP-664).

use super::transaction_client::of_kind;
use crate::broker::connection::RequestContext;
use crate::broker::transactions::Transactions;
use crate::coordinator::Client;
use crate::error_code::ErrorCode;
use crate::ids::ProducerId;
use crate::protocol::codec::text;
use crate::transactions::Request;
use crate::transactions::queries::{Filters, Listed};
use crate::transactions::transaction::State;
use coreline_io::Runtime;
use futures_util::future::join_all;
use kafka_protocol::messages::list_transactions_response::TransactionState;
use kafka_protocol::messages::{ListTransactionsRequest, ListTransactionsResponse, TransactionalId};
use kafka_protocol::protocol::StrBytes;
use regex::Regex;
use std::rc::Rc;

/// The first version with a duration.
const DURATION: i16 = 1;
/// A state of Kafka's that nothing is ever seen in.
const EPOCH_FENCE: &str = "PrepareEpochFence";

pub(super) async fn handle<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    context: &RequestContext,
    request: ListTransactionsRequest,
) -> ListTransactionsResponse {
    let version = context.request.header.api_version;
    let (states, unknown) = states(&request.state_filters);
    let response = ListTransactionsResponse::default();
    let pattern = match request.transactional_id_pattern.as_deref().filter(|pattern| !pattern.is_empty()) {
        None => None,
        // The whole id, as Kafka matches it.
        Some(pattern) => match Regex::new(&format!("^(?:{pattern})$")) {
            Ok(regex) => Some(regex),
            Err(_) => return response.with_error_code(ErrorCode::InvalidRegularExpression.code()),
        },
    };
    let filters = Filters {
        states,
        producer_ids: request.producer_id_filters.iter().map(|id| ProducerId(id.0)).collect(),
        longer_than_ms: if version >= DURATION { request.duration_filter } else { -1 },
        pattern,
    };
    let own = transactions.partitions().into_iter().filter(|(_, shard)| context.concerns(*shard));
    let all = own.map(async |(partition, shard)| {
        let ask = Request::List(Box::new(filters.clone()));
        of_kind!(transactions.ask_at(partition, shard, &Client::default(), ask).await, List)
    });
    let mut found = Vec::new();
    for told in join_all(all).await {
        match told {
            Ok(listed) => found.extend(listed),
            // Gone from here while we asked: somebody else lists it.
            Err(ErrorCode::NotCoordinator) => {}
            // A part of the list would pass for all of it.
            Err(code) => return response.with_error_code(code.code()),
        }
    }
    let shown = found.iter().map(shown).collect();
    response.with_unknown_state_filters(unknown).with_transaction_states(shown)
}

/// The states by their names, and the names that are of none.
fn states(names: &[StrBytes]) -> (Vec<State>, Vec<StrBytes>) {
    let mut states = Vec::new();
    let mut unknown = Vec::new();
    for name in names {
        match State::ALL.into_iter().find(|state| state.name() == &**name) {
            Some(state) => states.push(state),
            // No id is ever in it, nor in `Dead`, which stands for it.
            None if &**name == EPOCH_FENCE => states.push(State::Dead),
            None => unknown.push(name.clone()),
        }
    }
    (states, unknown)
}

fn shown(listed: &Listed) -> TransactionState {
    TransactionState::default()
        .with_transactional_id(TransactionalId(text(&listed.id)))
        .with_producer_id(listed.producer_id.0.into())
        .with_transaction_state(text(listed.state.name()))
}
