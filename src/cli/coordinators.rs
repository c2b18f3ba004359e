//! The brokers of a cluster for tools, and the coordinators among them: of groups, or of transactions.

use super::cluster::error_name;
use crate::error_code::ErrorCode;
use coreline_bench::client::{Client, Cluster};
use kafka_protocol::messages::FindCoordinatorRequest;
use kafka_protocol::protocol::StrBytes;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A coordinator that is loading is asked again so often and so long.
const RETRY: Duration = Duration::from_millis(100);

/// What is coordinated; the number is that of FindCoordinator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Group = 0,
    Transaction = 1,
}

/// Connections to brokers, and who coordinates what.
pub(super) struct Coordinators {
    kind: Kind,
    bootstrap: Client,
    timeout: Duration,
    clients: BTreeMap<String, Client>,
    found: BTreeMap<String, (String, i32)>,
}

fn passing(code: i16) -> bool {
    use ErrorCode::{CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator};
    [CoordinatorLoadInProgress, CoordinatorNotAvailable, NotCoordinator].iter().any(|c| c.code() == code)
}

/// The broker's sentence, or the code's name.
pub(super) fn refused(code: i16, message: Option<&StrBytes>) -> String {
    match message {
        Some(message) if !message.is_empty() => message.to_string(),
        _ => error_name(code),
    }
}

impl Coordinators {
    /// Connects to the cluster. `timeout` is for connections, answers, and coordinators that are loading.
    pub(super) fn connect(server: &str, kind: Kind, timeout: Duration) -> Result<Self, String> {
        let bootstrap = Client::connect(server, timeout).map_err(|e| e.to_string())?;
        Ok(Self { kind, bootstrap, timeout, clients: BTreeMap::new(), found: BTreeMap::new() })
    }

    /// The connection to a broker.
    pub(super) fn client(&mut self, address: &str) -> Result<&mut Client, String> {
        if !self.clients.contains_key(address) {
            let client = Client::connect(address, self.timeout).map_err(|e| e.to_string())?;
            self.clients.insert(address.to_owned(), client);
        }
        Ok(self.clients.get_mut(address).expect("just put there"))
    }

    /// The connection to any broker.
    pub(super) fn any(&mut self) -> &mut Client {
        &mut self.bootstrap
    }

    /// Some topics, or all of them.
    pub(super) fn metadata(&mut self, topics: Option<&[&str]>) -> Result<Cluster, String> {
        self.bootstrap.metadata(topics).map_err(|e| e.to_string())
    }

    /// The brokers: node id and `host:port`.
    pub(super) fn brokers(&mut self) -> Result<BTreeMap<i32, String>, String> {
        Ok(self.metadata(Some(&[]))?.nodes.into_iter().map(|n| (n.id, n.address)).collect())
    }

    /// Who coordinates: `host:port` and node id.
    pub(super) fn coordinator(&mut self, key: &str) -> Result<(String, i32), String> {
        if let Some(found) = self.found.get(key) {
            return Ok(found.clone());
        }
        let ask = FindCoordinatorRequest::default()
            .with_key_type(self.kind as i8)
            .with_coordinator_keys(vec![StrBytes::from_string(key.to_owned())]);
        let deadline = Instant::now() + self.timeout;
        loop {
            let answer = self.bootstrap.call(&ask).map_err(|e| e.to_string())?;
            let found = answer.coordinators.first().ok_or("FindCoordinator was answered without a coordinator")?;
            if found.error_code == 0 {
                let place = (format!("{}:{}", found.host.as_str(), found.port), found.node_id.0);
                self.found.insert(key.to_owned(), place.clone());
                return Ok(place);
            }
            if !passing(found.error_code) || Instant::now() > deadline {
                return Err(refused(found.error_code, found.error_message.as_ref()));
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Asks the coordinator; again while `code` of the answer says that it is on its way.
    pub(super) fn ask<T>(
        &mut self,
        key: &str,
        mut call: impl FnMut(&mut Client) -> Result<T, String>,
        code: impl Fn(&T) -> i16,
    ) -> Result<T, String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let (address, _) = self.coordinator(key)?;
            let answer = call(self.client(&address)?)?;
            if !passing(code(&answer)) || Instant::now() > deadline {
                return Ok(answer);
            }
            self.found.remove(key);
            std::thread::sleep(RETRY);
        }
    }
}
