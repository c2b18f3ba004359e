//! `meta.properties`, as Kafka has it: whose data directory this is.

use super::ControllerError;
use crate::config::BrokerConfig;
use coreline_io::{IoErrorKind, Runtime};

const NAME: &str = "meta.properties";

/// Checks the file against the node's id and the cluster's, which is empty if the metadata log has none yet. False if
/// there is no file.
pub(super) async fn read<R: Runtime>(
    runtime: &R,
    config: &BrokerConfig,
    cluster_id: &str,
) -> Result<bool, ControllerError> {
    let path = config.data_dir.join(NAME);
    let found = match runtime.read_file(&path).await {
        Ok(found) => found,
        Err(e) if e.kind == IoErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    let text = String::from_utf8_lossy(&found);
    let of = |key: &str| text.lines().find_map(|l| l.trim().strip_prefix(key)?.strip_prefix('=')).unwrap_or("missing");
    let refuse = |what: String| Err(ControllerError::Damaged(format!("{}: {what}", path.display())));
    let node_id = config.node_id;
    if of("version") != "1" {
        return refuse(format!("version is {}, expected 1", of("version")));
    }
    if of("node.id") != node_id.to_string() {
        let what = format!("node.id is {}, this node was started with node.id={node_id}", of("node.id"));
        return Err(ControllerError::Foreign(format!("{}: {what}", path.display())));
    }
    if cluster_id.is_empty() {
        let theirs = of("cluster.id");
        return refuse(format!(
            "cluster.id is {theirs}, but the metadata log beside it is empty: bring back the directory \
             __cluster_metadata-0, or remove all of the data directory to begin anew"
        ));
    }
    if of("cluster.id") != cluster_id {
        return refuse(format!("cluster.id is {}, the metadata log says {cluster_id}", of("cluster.id")));
    }
    Ok(true)
}

pub(super) async fn write<R: Runtime>(
    runtime: &R,
    config: &BrokerConfig,
    cluster_id: &str,
    directory_id: &str,
) -> Result<(), ControllerError> {
    let node_id = config.node_id;
    let text = format!("version=1\nnode.id={node_id}\ncluster.id={cluster_id}\ndirectory.id={directory_id}\n");
    runtime.write_file_atomic(&config.data_dir.join(NAME), text.as_bytes()).await?;
    Ok(())
}
