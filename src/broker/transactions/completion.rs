//! Markers on their way to the partitions of transactions whose end is decided. While some are being written, orders
//! gather: the next round takes all of them, in one message a shard, and costs each shard one group commit.
//!
//! Where all partitions are on the coordinator's shard, and nobody else has replicas of them or of the coordinator's, the
//! markers go into the group commit of the decision itself, and that the transaction is complete as well.

use super::Transactions;
use crate::broker::handlers::markers::write_markers;
use crate::broker::handlers::resolve::led_partition;
use crate::broker::shard::Shard;
use crate::broker::store::TxnMarker;
use crate::controller::TopicImage;
use crate::error_code::ErrorCode;
use crate::ids::PartitionId;
use crate::transactions::{Event, Order, TopicPartition};
use coreline_io::{Runtime, TaskGroup};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait before markers that a partition did not take are written again.
const RETRY: Duration = Duration::from_millis(100);

/// What a marker takes in a log, at most.
const MARKER_BYTES: usize = 128;

/// An order on its way.
struct Ordered {
    /// The coordinator's partition that gave it.
    coordinator: PartitionId,
    /// Larger than that of every order before.
    number: u64,
    order: Order,
}

impl Ordered {
    fn of(&self) -> (PartitionId, Arc<str>) {
        (self.coordinator, Arc::clone(&self.order.id))
    }
}

/// Carries out the orders of a shard's coordinators.
pub(super) struct Completion<R: Runtime> {
    transactions: Weak<Transactions<R>>,
    gathered: RefCell<Vec<Ordered>>,
    /// The newest order of each transactional id, until it is carried out. An older one, of before its coordinator was
    /// loaded again, must not be: by then the markers might end the next transaction.
    wanted: RefCell<HashMap<(PartitionId, Arc<str>), u64>>,
    last_number: Cell<u64>,
    writing: Cell<bool>,
}

impl<R: Runtime> Completion<R> {
    pub(super) fn new(transactions: Weak<Transactions<R>>) -> Self {
        Self {
            transactions,
            gathered: RefCell::default(),
            wanted: RefCell::default(),
            last_number: Cell::new(0),
            writing: Cell::new(false),
        }
    }

    /// Takes an order; it is carried out however often it takes, as long as the node runs.
    pub(super) fn order(self: &Rc<Self>, coordinator: PartitionId, order: Order) {
        let number = self.last_number.get() + 1;
        self.last_number.set(number);
        let ordered = Ordered { coordinator, number, order };
        self.wanted.borrow_mut().insert(ordered.of(), number);
        self.gather(ordered);
    }

    /// Appends the markers of an order whose decision was appended in this very call, joins them to it, and gives the event
    /// that they are written; none, and they are ordered, where that is not possible.
    pub(super) fn join(&self, coordinator: PartitionId, order: &Order) -> Option<Event> {
        let transactions = self.transactions.upgrade()?;
        let shard = transactions.shard();
        let image = shard.image();
        let mut partitions = vec![coordinator];
        only_here(shard, image.topic_by_id(coordinator.topic)?, coordinator.index.0)?;
        for (topic, index) in &order.partitions {
            // A topic that is gone needs no marker.
            let Some(topic) = image.topic(topic).filter(|topic| topic.partition(*index).is_some()) else { continue };
            partitions.push(only_here(shard, topic, *index)?);
        }
        let bytes = (partitions.len() - 1) * MARKER_BYTES;
        if !shard.store.can_join(&partitions, bytes) {
            return None;
        }
        let markers = partitions[1..].iter().map(|partition| marker(order, *partition)).collect();
        let taken = shard.store.append_markers(markers, shard.runtime.wall_ms());
        shard.store.join(&partitions, bytes);
        if !taken {
            return None;
        }
        self.wanted.borrow_mut().remove(&(coordinator, Arc::clone(&order.id)));
        Some(Event::MarkersWritten { id: Arc::clone(&order.id), producer: order.producer })
    }

    fn gather(self: &Rc<Self>, ordered: Ordered) {
        self.gathered.borrow_mut().push(ordered);
        if self.writing.replace(true) {
            return;
        }
        match self.transactions.upgrade() {
            Some(transactions) => {
                let write = Rc::clone(self).write(Rc::clone(&transactions));
                drop(transactions.shard().runtime.spawn(TaskGroup::Requests, "transaction markers", write));
            }
            None => self.writing.set(false),
        }
    }

    fn is_wanted(&self, ordered: &Ordered) -> bool {
        self.wanted.borrow().get(&ordered.of()) == Some(&ordered.number)
    }

    async fn write(self: Rc<Self>, transactions: Rc<Transactions<R>>) {
        // What else is ordered now goes along.
        transactions.shard().runtime.yield_now().await;
        loop {
            let mut round = std::mem::take(&mut *self.gathered.borrow_mut());
            if round.is_empty() || transactions.is_stopped() {
                break;
            }
            round.retain(|ordered| self.is_wanted(ordered));
            let (done, left) = write_round(&transactions, round).await;
            for ordered in done.into_iter().filter(|ordered| self.is_wanted(ordered)) {
                self.wanted.borrow_mut().remove(&ordered.of());
                let Ordered { coordinator, order: Order { id, producer, .. }, .. } = ordered;
                transactions.tell(coordinator, Event::MarkersWritten { id, producer });
            }
            if !left.is_empty() {
                self.later(&transactions, left);
            }
        }
        self.writing.set(false);
    }

    /// Gives back what has to be tried again, after a while.
    fn later(self: &Rc<Self>, transactions: &Rc<Transactions<R>>, left: Vec<Ordered>) {
        let (this, runtime) = (Rc::clone(self), transactions.shard().runtime.clone());
        let again = async move {
            runtime.sleep(RETRY).await;
            left.into_iter().for_each(|ordered| this.gather(ordered));
        };
        drop(transactions.shard().runtime.spawn(TaskGroup::Requests, "markers again", again));
    }
}

/// Writes the markers of all orders. Those that are carried out, and what is left of the others.
async fn write_round<R: Runtime>(
    transactions: &Rc<Transactions<R>>,
    round: Vec<Ordered>,
) -> (Vec<Ordered>, Vec<Ordered>) {
    let shard = transactions.shard();
    let image = shard.image();
    let mut markers = Vec::new();
    let mut place = |order: &Order, partition: &TopicPartition| {
        // A topic that is gone needs no marker.
        let topic = image.topic(&partition.0)?;
        topic.partition(partition.1)?;
        markers.push(marker(order, topic.partition_id(usize::try_from(partition.1).ok()?)));
        Some((partition.clone(), markers.len() - 1))
    };
    let places: Vec<Vec<(TopicPartition, usize)>> = round
        .iter()
        .map(|Ordered { order, .. }| order.partitions.iter().filter_map(|p| place(order, p)).collect())
        .collect();
    let written = write_markers(shard, markers).await;
    let (mut done, mut left) = (Vec::new(), Vec::new());
    for (mut ordered, places) in round.into_iter().zip(places) {
        let failed = places.into_iter().filter(|(partition, at)| match &written[*at] {
            Ok(_) => false,
            // One that moved to another shard meanwhile is unknown where it was, and there still.
            Err(error) if error.code == ErrorCode::UnknownTopicOrPartition => {
                shard.image().topic(&partition.0).is_some_and(|topic| topic.partition(partition.1).is_some())
            }
            Err(error) => must_try_again(&ordered.order, partition, error.code),
        });
        ordered.order.partitions = failed.map(|(partition, _)| partition).collect();
        if ordered.order.partitions.is_empty() { &mut done } else { &mut left }.push(ordered);
    }
    (done, left)
}

/// A partition that this shard owns and nobody else has replicas of: what its journal says is all there is to say.
pub(super) fn only_here<R: Runtime>(shard: &Shard<R>, topic: &TopicImage, index: i32) -> Option<PartitionId> {
    let (resolved, partition) = led_partition(shard, topic, index).ok()?;
    (resolved.shard == shard.id && partition.replicas.len() == 1).then_some(resolved.id)
}

fn marker(order: &Order, partition: PartitionId) -> TxnMarker {
    TxnMarker {
        partition,
        producer_id: order.producer.id,
        producer_epoch: order.producer.epoch,
        coordinator_epoch: order.coordinator_epoch,
        commit: order.commit,
        v2: order.v2,
    }
}

fn must_try_again(order: &Order, (topic, index): &TopicPartition, code: ErrorCode) -> bool {
    match code {
        // The partition has seen a later epoch of the producer or coordinator: whoever that was has ended the transaction.
        ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced => {
            tracing::warn!(id = &*order.id, "{topic}-{index} took no marker: {code}");
            false
        }
        _ => true,
    }
}
