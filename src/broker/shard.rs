//! What one core has: everything a handler may need, in one place, shared as `Rc<Shard<R>>`.

use super::core_nodes::{self, CoreNodes, Told};
use super::latency::Latencies;
use super::messages::BrokerMesh;
use super::metadata::ControllerHandle;
use super::metrics::Meters;
use super::passage::Passage;
use super::store::LogStore;
use crate::config::{BrokerConfig, DynamicValues, resolve_topic};
use crate::controller::{ClusterImage, PartitionImage, TopicImage};
use crate::ids::{BrokerId, PartitionId};
use crate::log::log_config::LogConfig;
use coreline_io::Runtime;
use coreline_io::sync::Semaphore;
use coreline_shards::{Mesh, ShardId, Shutdown};
use std::rc::Rc;
use std::sync::Arc;

/// One core's part of the broker. It lives as long as the shard's main.
#[derive(Debug)]
pub struct Shard<R: Runtime> {
    /// Disk, network, clock, tasks.
    pub runtime: R,
    /// Which shard this is.
    pub id: ShardId,
    /// How many there are.
    pub shards: usize,
    /// What the node was started with.
    pub config: Arc<BrokerConfig>,
    /// The log of the partitions that this shard owns.
    pub store: Rc<LogStore<R>>,
    /// The other shards.
    pub mesh: Mesh<BrokerMesh>,
    /// The metadata.
    pub controller: ControllerHandle,
    /// Cores as brokers of their own, if clients are told so.
    pub cores: Option<CoreNodes>,
    /// When to stop.
    pub shutdown: Shutdown,
    /// How long requests took.
    pub latencies: Rc<Latencies>,
    /// What is counted nowhere else.
    pub meters: Rc<Meters>,
    /// Keeps requests from a partition that moves to another shard.
    pub passage: Passage,
    /// Whose turn it is to move a partition; on the controller's shard.
    pub moves: Rc<Semaphore>,
}

impl<R: Runtime> Shard<R> {
    /// This node's id.
    #[must_use]
    pub fn node_id(&self) -> BrokerId {
        BrokerId(self.config.node_id)
    }

    /// The brokers, as clients are told.
    #[must_use]
    pub fn brokers_told(&self, image: &ClusterImage) -> Vec<Told> {
        core_nodes::brokers(self.cores.as_ref(), image)
    }

    /// One of a partition's brokers, as clients are told.
    #[must_use]
    pub fn broker_told(&self, partition: &PartitionImage, id: BrokerId) -> BrokerId {
        core_nodes::broker_of(self.cores.as_ref(), partition, id)
    }

    /// The broker that a client means.
    #[must_use]
    pub fn broker_meant(&self, id: BrokerId) -> BrokerId {
        self.cores.as_ref().map_or(id, |cores| cores.real(id))
    }

    /// The newest image on this shard.
    #[must_use]
    pub fn image(&self) -> Arc<ClusterImage> {
        self.controller.image()
    }

    /// The sizes of some of this shard's partitions, in bytes; those that cannot be read are left out.
    pub async fn log_sizes(&self, ids: Vec<PartitionId>) -> Vec<(PartitionId, u64)> {
        let mut sizes = Vec::with_capacity(ids.len());
        for id in ids {
            if let Ok(size) = self.store.log_size(id).await {
                sizes.push((id, size));
            }
        }
        sizes
    }

    /// True if this shard owns what is placed on `shard`.
    #[must_use]
    pub fn owns(&self, shard: u16) -> bool {
        self.id == ShardId(shard)
    }
}

/// The settings made at run time that hold for this node.
#[must_use]
pub fn dynamic_values(image: &ClusterImage, node: BrokerId) -> DynamicValues<'_> {
    DynamicValues { broker: image.broker_configs.get(&Some(node)), default: image.broker_configs.get(&None) }
}

/// What a topic's log obeys on this node, and its `min.insync.replicas`.
#[must_use]
pub fn topic_config(config: &BrokerConfig, image: &ClusterImage, topic: &TopicImage) -> (LogConfig, i32) {
    let (mut log, min_in_sync) = resolve_topic(config, dynamic_values(image, BrokerId(config.node_id)), &topic.configs);
    // What a coordinator has written does not grow old, whatever the broker's default for topics is.
    log.deletes &= !topic.internal || topic.configs.contains_key("cleanup.policy");
    if topic.internal {
        // Coordinators compress what they write, or do not.
        log.compression = None;
    }
    (log, min_in_sync)
}
