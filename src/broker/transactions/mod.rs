//! Transactions under the driver of coordinators: one [`Coordinator`] of transactional ids a partition of
//! `__transaction_state`.
//!
//! ```text
//! EndTxn ─▶ coordinator: Prepare… ─ committed ─▶ answer
//!                                      └─▶ order ─▶ completion ─ one message a shard ─▶ markers, durable ─┐
//!           coordinator: Complete… ◀─ MarkersWritten ─────────────────────────────────────────────────────┘
//! ```
//!
//! | file | concept |
//! | --- | --- |
//! | `state_topic` | the topic |
//! | `completion` | markers on their way to the partitions of transactions that end |
//! | `verify` | what Produce and TxnOffsetCommit ask before the first batch of a transaction |

mod completion;
pub mod state_topic;
mod verify;

pub(crate) use verify::{AddEarly, VerifyPartitions, add_or_verify};

use super::Shard;
use super::coordinator::kind::{EffectsOf, Kind, Question, Replayed};
use super::coordinator::{CoordinatorEvent, Coordinators};
use super::messages::Event as MeshEvent;
use crate::config::BrokerConfig;
use crate::controller::ClusterImage;
use crate::coordinator::{Client, Now, Token};
use crate::transactions::{Coordinator, Event, Order, Request, Response, TransactionsConfig};
use completion::Completion;
use coreline_io::Runtime;
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;

/// The coordinators of transactions of a shard.
pub(crate) type Transactions<R> = Coordinators<R, TransactionKind>;

/// What shards say to each other about transactions.
pub type TransactionEvent = CoordinatorEvent<(Client, Request), Response>;

/// The coordinators of a shard, with those who carry out what they order.
pub(crate) fn start<R: Runtime>(shard: &Rc<Shard<R>>) -> Rc<Transactions<R>> {
    let transactions = Coordinators::new(Rc::clone(shard), TransactionKind::new(&shard.config));
    let completion = Rc::new(Completion::new(Rc::downgrade(&transactions)));
    let joins = Rc::clone(&completion);
    transactions.on_order(Box::new(move |partition, order| completion.order(partition, order)));
    transactions.on_join(Box::new(move |partition, order| joins.join(partition, order)));
    transactions
}

/// What coordinators of transactions know of the cluster.
pub(crate) struct TransactionKind {
    config: TransactionsConfig,
    seen: Cell<u64>,
}

impl TransactionKind {
    fn new(config: &BrokerConfig) -> Self {
        let config = TransactionsConfig {
            max_timeout_ms: config.integer("transaction.max.timeout.ms") as i32,
            id_expiration_ms: config.integer("transactional.id.expiration.ms"),
            sweep_interval_ms: config.integer("transaction.remove.expired.transaction.cleanup.interval.ms"),
            ..TransactionsConfig::default()
        };
        Self { config, seen: Cell::new(0) }
    }
}

impl Kind for TransactionKind {
    type Machine = Coordinator;
    type Request = Request;
    type Response = Response;
    type Order = Order;
    type Event = Event;

    const TOPIC: &'static str = state_topic::STATE_TOPIC;
    const NAME: &'static str = "transaction";

    fn load_bytes(config: &BrokerConfig) -> usize {
        usize::try_from(config.integer("transaction.state.log.load.buffer.size")).unwrap_or(usize::MAX)
    }

    fn machine(&self, _seed: u64, leader_epoch: i32) -> Coordinator {
        Coordinator::new(self.config, leader_epoch)
    }

    fn seen(&self) -> u64 {
        self.seen.get()
    }

    fn follow(&self, image: &Arc<ClusterImage>) -> Option<Vec<Event>> {
        self.seen.set(image.index);
        Some(Vec::new())
    }

    fn again(event: &Event) -> Event {
        event.clone()
    }

    fn replay(machine: &mut Coordinator, record: Replayed<'_>) -> Result<(), String> {
        match record {
            Replayed::Record { key, value, .. } => machine.replay(key, value).map_err(|error| error.to_string()),
            Replayed::Marker { .. } => Ok(()),
        }
    }

    fn loaded(&self, machine: &mut Coordinator, now: Now, effects: &mut EffectsOf<Self>) {
        machine.loaded(now, effects);
    }

    fn step(&self, machine: &mut Coordinator, now: Now, event: Event, effects: &mut EffectsOf<Self>) {
        machine.step(now, event, effects);
    }

    fn next_deadline(machine: &Coordinator) -> Option<i64> {
        machine.next_deadline()
    }

    fn request(token: Token, (_, request): Question<Self>) -> Event {
        Event::Request { token, request }
    }

    fn gone(token: Token) -> Event {
        Event::Gone(token)
    }

    fn tick() -> Event {
        Event::Tick
    }

    fn mesh(event: TransactionEvent) -> MeshEvent {
        MeshEvent::Transaction(event)
    }
}
