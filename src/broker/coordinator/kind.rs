//! What the driver must know of the machines it carries.

use super::CoordinatorEvent;
use crate::broker::messages::Event as MeshEvent;
use crate::config::BrokerConfig;
use crate::controller::ClusterImage;
use crate::coordinator::{Client, Effects, Now, Token};
use crate::ids::ProducerId;
use std::fmt::Debug;
use std::sync::Arc;

/// A question to a machine, with who asks it.
pub(crate) type Question<K> = (Client, <K as Kind>::Request);

/// What a step of a machine gives.
pub(crate) type EffectsOf<K> = Effects<<K as Kind>::Response, <K as Kind>::Order>;

/// Groups, or transactions: one a shard, which knows the cluster as its machines see it.
pub(crate) trait Kind: Sized + 'static {
    /// All that one partition of the topic decides.
    type Machine: 'static;
    /// What is asked.
    type Request: Debug + Send + 'static;
    /// The answer to it.
    type Response: Debug + Send + 'static;
    /// What a machine wants done once its records are committed.
    type Order: 'static;
    /// What happens to a machine.
    type Event: 'static;

    /// The internal topic.
    const TOPIC: &'static str;
    /// For the log and the names of tasks: `group`.
    const NAME: &'static str;

    /// How many bytes of the log a load reads at a time.
    fn load_bytes(config: &BrokerConfig) -> usize;
    /// A machine that has seen nothing. The seed is new for every machine; the epoch is the partition's leader's.
    fn machine(&self, seed: u64, leader_epoch: i32) -> Self::Machine;
    /// The index of the newest image that was followed.
    fn seen(&self) -> u64;
    /// Follows a newer image: what the machines must hear of it. None if nothing changed that they or where they are
    /// depend on.
    fn follow(&self, image: &Arc<ClusterImage>) -> Option<Vec<Self::Event>>;
    /// An event for one of several machines.
    fn again(event: &Self::Event) -> Self::Event;
    /// A record of the log, in its order, or why it means nothing.
    fn replay(machine: &mut Self::Machine, record: Replayed<'_>) -> Result<(), String>;
    /// The log is read to its end.
    fn loaded(&self, machine: &mut Self::Machine, now: Now, effects: &mut EffectsOf<Self>);
    /// Takes an event.
    fn step(&self, machine: &mut Self::Machine, now: Now, event: Self::Event, effects: &mut EffectsOf<Self>);
    /// When a tick is due, in monotonic milliseconds.
    fn next_deadline(machine: &Self::Machine) -> Option<i64>;

    /// The event that somebody asks.
    fn request(token: Token, question: Question<Self>) -> Self::Event;
    /// The event that an answer is not wanted any more.
    fn gone(token: Token) -> Self::Event;
    /// The event that time has passed.
    fn tick() -> Self::Event;
    /// The event as shards say it to each other.
    fn mesh(event: CoordinatorEvent<Question<Self>, Self::Response>) -> MeshEvent;
}

/// What a load finds in the log.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Replayed<'a> {
    /// A record.
    Record {
        /// Its key.
        key: &'a [u8],
        /// Its value; none is a tombstone.
        value: Option<&'a [u8]>,
        /// Whose transaction it is of, if it is of one: it stands only once that is committed.
        producer_id: Option<ProducerId>,
    },
    /// The end of a producer's transaction.
    Marker {
        /// Whose.
        producer_id: ProducerId,
        /// Committed, or aborted.
        commit: bool,
    },
}
