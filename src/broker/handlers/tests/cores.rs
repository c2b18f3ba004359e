//! Cores as brokers of their own: what clients are told, and what each of them answers.

use super::fetching::{put, told, wanted};
use super::harness::*;
use crate::error_code::ErrorCode;
use crate::protocol::codec::text;
use kafka_protocol::messages::create_topics_request::{CreatableReplicaAssignment, CreatableTopic};
use kafka_protocol::messages::describe_configs_request::DescribeConfigsResource;
use kafka_protocol::messages::{
    CreateTopicsRequest, DescribeClusterRequest, DescribeConfigsRequest, DescribeLogDirsRequest,
    DescribeTopicPartitionsRequest, FindCoordinatorRequest, ListConfigResourcesRequest, ListGroupsRequest,
    MetadataRequest,
};
use std::collections::{BTreeMap, BTreeSet};

const SETTINGS: &[(&str, &str)] = &[("coreline.core.port", "9100")];
/// (id, port) of the cores.
const CORES: [(i32, i32); SHARDS] = [(1, 9100), (1001, 9101), (2001, 9102)];

#[test]
fn every_api_names_the_core_that_has_the_partition() {
    let node = Node::start(1, SETTINGS);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let owner: Vec<i32> =
            node.image().topic("t").unwrap().partitions.iter().map(|p| CORES[usize::from(p.shard)].0).collect();
        let mut client = node.connect().await;
        let metadata = client.ask(12, &MetadataRequest::default().with_topics(None)).await;
        let brokers: Vec<_> = metadata.brokers.iter().map(|b| (b.node_id.0, b.port)).collect();
        assert_eq!((brokers.as_slice(), metadata.controller_id.0), (&CORES[..], 1));
        for (partition, owner) in metadata.topics[0].partitions.iter().zip(&owner) {
            let ids = [partition.leader_id, partition.replica_nodes[0], partition.isr_nodes[0]].map(|id| id.0);
            assert_eq!((ids, partition.replica_nodes.len()), ([*owner; 3], 1));
        }
        let cluster = client.ask(1, &DescribeClusterRequest::default().with_endpoint_type(1)).await;
        let brokers: Vec<_> = cluster.brokers.iter().map(|b| (b.broker_id.0, b.port)).collect();
        assert_eq!((brokers.as_slice(), cluster.controller_id.0), (&CORES[..], 1));
        let pages = DescribeTopicPartitionsRequest::default().with_response_partition_limit(100);
        let pages = client.ask(0, &pages).await;
        let leaders: Vec<i32> = pages.topics[0].partitions.iter().map(|p| p.leader_id.0).collect();
        assert_eq!(leaders, owner);
        let resources = ListConfigResourcesRequest::default().with_resource_types(vec![4]);
        let resources = client.ask(1, &resources).await.config_resources;
        assert_eq!(resources.iter().map(|r| r.resource_name.to_string()).collect::<Vec<_>>(), ["1", "1001", "2001"]);
        let keys = (0..20).map(|i| text(&format!("group {i}"))).collect();
        let found = client.ask(4, &FindCoordinatorRequest::default().with_coordinator_keys(keys)).await;
        let nodes: BTreeSet<_> = found.coordinators.iter().map(|c| (c.node_id.0, c.port)).collect();
        assert_eq!(nodes.into_iter().collect::<Vec<_>>(), CORES, "groups are on every core");
    });
}

#[test]
fn a_core_is_meant_by_its_id_and_answers_for_itself() {
    let node = Node::start(2, SETTINGS);
    node.world.block_on(async {
        node.create("t", 6, &[]).await;
        let shards: Vec<usize> =
            node.image().topic("t").unwrap().partitions.iter().map(|p| usize::from(p.shard)).collect();
        let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
        for (shard, (id, port)) in CORES.into_iter().enumerate() {
            let mut client = node.connect_to(port as u16).await;
            // Every partition may be written and read anywhere; the own one crosses no core.
            for index in 0..6 {
                put(&mut client, index, &format!("{shard}")).await;
            }
            let resource = |name: &str| {
                let resource = DescribeConfigsResource::default().with_resource_type(4).with_resource_name(text(name));
                DescribeConfigsRequest::default().with_resources(vec![resource])
            };
            let described = client.ask(4, &resource(&id.to_string())).await.results.remove(0);
            assert!(described.error_code == 0 && !described.configs.is_empty());
            let other = client.ask(4, &resource("3001")).await.results.remove(0);
            assert_eq!(other.error_code, ErrorCode::InvalidRequest.code());
            let dirs = client.ask(1, &DescribeLogDirsRequest::default().with_topics(None)).await;
            for topic in &dirs.results[0].topics {
                for partition in topic.partitions.iter().filter(|_| topic.name.as_str() == "t") {
                    assert_eq!(seen.insert(partition.partition_index, shard), None, "listed by one core");
                    assert_eq!(shards[partition.partition_index as usize], shard);
                }
            }
            assert_eq!(client.ask(4, &ListGroupsRequest::default()).await.error_code, 0);
            // Replicas on this node, by the name that clients have for it.
            let ids = vec![id.into()];
            let assignment = CreatableReplicaAssignment::default().with_partition_index(0).with_broker_ids(ids);
            let topic = CreatableTopic::default().with_name(text(&format!("at-{id}")).into()).with_num_partitions(-1);
            let topic = topic.with_replication_factor(-1).with_assignments(vec![assignment]);
            let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
            assert_eq!(client.ask(5, &request).await.topics[0].error_code, 0);
        }
        assert_eq!(seen.len(), 6);
        // All of it at the port that all share, where connections still move; none moved at a core's own.
        assert_eq!(node.steered().left, 0);
        let mut client = node.connect().await;
        let dirs = client.ask(1, &DescribeLogDirsRequest::default().with_topics(None)).await;
        let all = dirs.results[0].topics.iter().find(|t| t.name.as_str() == "t").map(|t| t.partitions.len());
        assert_eq!(all, Some(6));
        let response = client.ask(12, &super::fetching::fetch(0, vec![wanted(0, 0)])).await;
        assert_eq!(told(&response)[0].2, ["0", "1", "2"]);
    });
}
