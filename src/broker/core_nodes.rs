//! Core-addressed listeners: each core is told to clients as a broker of its own, with a port of its own, so that their
//! connections are local from the start. Only what clients are told changes: metadata, logs and coordinators know one
//! node. What that breaks is in `src/docs/shards.md`.

use crate::config::BrokerConfig;
use crate::controller::{ClusterImage, PartitionImage};
use crate::ids::BrokerId;

/// Between the ids of a node's cores: core 2 of node 1 is broker 2001. Core 0 is the node's own id.
pub const CORE_ID_STEP: i32 = 1000;

/// The cores of this node, as brokers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreNodes {
    node: BrokerId,
    host: String,
    first_port: u16,
    shards: u16,
}

/// A broker as clients see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its id.
    pub id: BrokerId,
    /// Where to connect.
    pub host: String,
    /// Where to connect.
    pub port: u16,
    /// Its rack.
    pub rack: Option<String>,
}

impl CoreNodes {
    /// As the settings say; none if cores are not brokers.
    ///
    /// # Errors
    /// What does not fit: ports or ids.
    pub fn of(config: &BrokerConfig, shards: usize) -> Result<Option<Self>, String> {
        let Some(first_port) = config.core_port else { return Ok(None) };
        let shards = u16::try_from(shards).expect("at most 65,536 shards");
        if first_port.checked_add(shards - 1).is_none() {
            return Err(format!("coreline.core.port={first_port}: {shards} cores need as many ports up to 65535"));
        }
        let shared = config.listener.port;
        if (first_port..=first_port + (shards - 1)).contains(&shared) {
            let last = first_port + (shards - 1);
            return Err(format!(
                "coreline.core.port={first_port}: the cores' ports {first_port} to {last} take in {shared}, the port of \
                 listeners, which all cores share; choose another range"
            ));
        }
        if config.node_id >= CORE_ID_STEP {
            let (id, step) = (config.node_id, CORE_ID_STEP);
            return Err(format!(
                "node.id={id}: with coreline.core.port it must be below {step}, cores are {id} + {step}n"
            ));
        }
        // Only the host: ports are those of the cores.
        let host = config.advertised(first_port).host;
        Ok(Some(Self { node: BrokerId(config.node_id), host, first_port, shards }))
    }

    /// The broker that a core is.
    #[must_use]
    pub fn id(&self, shard: u16) -> BrokerId {
        BrokerId(self.node.0 + CORE_ID_STEP * i32::from(shard))
    }

    /// The port of a core.
    #[must_use]
    pub fn port(&self, shard: u16) -> u16 {
        self.first_port + shard
    }

    /// The node that a broker is, as the metadata knows it.
    #[must_use]
    pub fn real(&self, id: BrokerId) -> BrokerId {
        if (0..self.shards).any(|shard| self.id(shard) == id) { self.node } else { id }
    }

    fn told(&self, shard: u16, rack: Option<&str>) -> Told {
        Told { id: self.id(shard), host: self.host.clone(), port: self.port(shard), rack: rack.map(str::to_owned) }
    }
}

/// The brokers of the cluster, as clients are told.
#[must_use]
pub fn brokers(cores: Option<&CoreNodes>, image: &ClusterImage) -> Vec<Told> {
    let mut told = Vec::with_capacity(image.brokers.len());
    for (id, broker) in &image.brokers {
        match cores.filter(|cores| cores.node == *id) {
            Some(cores) => told.extend((0..cores.shards).map(|shard| cores.told(shard, broker.rack.as_deref()))),
            None => {
                let (host, port) = (broker.host.clone(), broker.port);
                told.push(Told { id: *id, host, port, rack: broker.rack.clone() });
            }
        }
    }
    told
}

/// How one of a partition's brokers is told: this node as the core that has the partition.
#[must_use]
pub fn broker_of(cores: Option<&CoreNodes>, partition: &PartitionImage, id: BrokerId) -> BrokerId {
    cores.filter(|cores| cores.node == id).map_or(id, |cores| cores.id(partition.shard))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(settings: &[(&str, &str)]) -> BrokerConfig {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        BrokerConfig::from_settings(settings).expect("valid settings")
    }

    #[test]
    fn cores_have_ids_and_ports_in_a_row() {
        assert_eq!(CoreNodes::of(&config(&[]), 4), Ok(None));
        let of = |settings, shards| CoreNodes::of(&config(settings), shards);
        let cores = of(&[("coreline.core.port", "9100"), ("node.id", "7")], 4).unwrap().unwrap();
        assert_eq!((cores.id(0), cores.id(3)), (BrokerId(7), BrokerId(3007)));
        assert_eq!((cores.port(0), cores.port(3)), (9100, 9103));
        let real = [7, 3007, 4007, 8].map(|id| cores.real(BrokerId(id)).0);
        assert_eq!(real, [7, 7, 4007, 8]);
        let error = of(&[("coreline.core.port", "65534")], 3).unwrap_err();
        assert!(error.contains("65534") && error.contains("3 cores"), "{error}");
        let error = of(&[("coreline.core.port", "9091")], 2).unwrap_err();
        assert!(error.contains("9091 to 9092 take in 9092"), "{error}");
        assert!(of(&[("coreline.core.port", "9093")], 2).is_ok() && of(&[("coreline.core.port", "9090")], 2).is_ok());
        let error = of(&[("coreline.core.port", "9100"), ("node.id", "1000")], 1).unwrap_err();
        assert!(error.contains("node.id=1000"), "{error}");
    }
}
