//! Groups under the driver of coordinators: one [`Coordinator`] of groups a partition of `__consumer_offsets`.
//!
//! | file | concept |
//! | --- | --- |
//! | `offsets_topic` | the topic |
//! | `topics`, `settings` | what the logic is told of topics and configuration |

pub mod offsets_topic;
mod settings;
mod topics;

use super::Shard;
use super::coordinator::kind::{EffectsOf, Kind, Question, Replayed};
use super::coordinator::{CoordinatorEvent, Coordinators};
use super::messages::Event as MeshEvent;
use crate::config::BrokerConfig;
use crate::controller::ClusterImage;
use crate::coordinator::{Client, Now, Token};
use crate::groups::config::{GroupConfigs, GroupsConfig};
use crate::groups::{Coordinator, Ended, Event, Request, Response};
use coreline_io::Runtime;
use std::cell::RefCell;
use std::convert::Infallible;
use std::rc::Rc;
use std::sync::Arc;
use topics::TopicsView;

/// The coordinators of groups of a shard.
pub(crate) type Groups<R> = Coordinators<R, GroupKind>;

/// What shards say to each other about groups.
pub type GroupEvent = CoordinatorEvent<(Client, Request), Response>;

/// The coordinators of a shard; they hear of the ends of transactions that have offsets in their partitions.
pub(crate) fn start<R: Runtime>(shard: &Rc<Shard<R>>) -> Rc<Groups<R>> {
    let groups = Coordinators::new(Rc::clone(shard), GroupKind::new(&shard.config));
    let told = Rc::downgrade(&groups);
    shard.store.on_marker(Rc::new(move |marker| {
        if let Some(groups) = told.upgrade() {
            let ended = Ended::by_marker(marker.producer_epoch, marker.v2, marker.commit);
            let ended = Event::TransactionEnded { producer: marker.producer_id, ended };
            groups.tell(marker.partition, ended);
        }
    }));
    groups
}

/// What coordinators of groups know of the cluster.
pub(crate) struct GroupKind {
    config: GroupsConfig,
    broker: BrokerConfig,
    view: RefCell<TopicsView>,
    /// The settings of single groups in the view's image.
    group_configs: RefCell<Arc<GroupConfigs>>,
}

impl GroupKind {
    /// As a broker with this configuration has it, before it has seen any image.
    fn new(config: &BrokerConfig) -> Self {
        // A view of nothing, so that the first image is news.
        let view = RefCell::new(TopicsView::new(Arc::default()));
        let broker = config.clone();
        Self { config: settings::groups_config(config), broker, view, group_configs: RefCell::default() }
    }
}

impl Kind for GroupKind {
    type Machine = Coordinator;
    type Request = Request;
    type Response = Response;
    type Order = Infallible;
    type Event = Event;

    const TOPIC: &'static str = offsets_topic::OFFSETS_TOPIC;
    const NAME: &'static str = "group";

    fn load_bytes(config: &BrokerConfig) -> usize {
        usize::try_from(config.integer("offsets.load.buffer.size")).unwrap_or(usize::MAX)
    }

    fn machine(&self, seed: u64, _leader_epoch: i32) -> Coordinator {
        Coordinator::new(self.config.clone(), seed)
    }

    fn seen(&self) -> u64 {
        self.view.borrow().image().index
    }

    fn follow(&self, image: &Arc<ClusterImage>) -> Option<Vec<Event>> {
        let mut news = Vec::new();
        if !Arc::ptr_eq(&image.group_configs, &self.view.borrow().image().group_configs) {
            let configs = settings::group_configs(&self.broker, image);
            self.group_configs.replace(Arc::clone(&configs));
            news.push(Event::Configured(configs));
        }
        if let Some(gone) = self.view.borrow_mut().follow(Arc::clone(image)) {
            news.push(Event::TopicsChanged);
            news.extend((!gone.is_empty()).then_some(Event::TopicsDeleted(gone)));
        }
        (!news.is_empty()).then_some(news)
    }

    fn again(event: &Event) -> Event {
        event.clone()
    }

    fn replay(machine: &mut Coordinator, record: Replayed<'_>) -> Result<(), String> {
        let replayed = match record {
            Replayed::Record { key, value, producer_id: None } => machine.replay(key, value),
            Replayed::Record { key, value, producer_id: Some(producer) } => {
                machine.replay_in_transaction(producer, key, value)
            }
            Replayed::Marker { producer_id, commit } => {
                machine.end_transaction(producer_id, Ended::in_order(commit));
                Ok(())
            }
        };
        replayed.map_err(|error| error.to_string())
    }

    fn loaded(&self, machine: &mut Coordinator, now: Now, effects: &mut EffectsOf<Self>) {
        machine.set_group_configs(Arc::clone(&self.group_configs.borrow()));
        machine.loaded(now, &*self.view.borrow(), effects);
    }

    fn step(&self, machine: &mut Coordinator, now: Now, event: Event, effects: &mut EffectsOf<Self>) {
        machine.step(now, &*self.view.borrow(), event, effects);
    }

    fn next_deadline(machine: &Coordinator) -> Option<i64> {
        machine.next_deadline()
    }

    fn request(token: Token, (client, request): Question<Self>) -> Event {
        Event::Request { token, client, request }
    }

    fn gone(token: Token) -> Event {
        Event::Gone(token)
    }

    fn tick() -> Event {
        Event::Tick
    }

    fn mesh(event: GroupEvent) -> MeshEvent {
        MeshEvent::Group(event)
    }
}
