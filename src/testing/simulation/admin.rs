//! Who makes topics, and asks now and then whether they and their ends are as they must be.

use crate::client::{Connection, Lost};
use crate::producer::REQUEST_TIMEOUT;
use crate::scenario::TopicPlan;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, BrokerId, CreateTopicsRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;
use std::time::Duration;

/// The default of `node.id`.
const NODE_ID: i32 = 1;

fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

/// Makes the topics, whatever happens meanwhile.
pub(crate) async fn make_topics(world: Rc<World>) {
    for plan in world.scenario.topics.clone() {
        world.doing("admin", format!("making {}", plan.name));
        loop {
            if let Ok(connection) = Connection::open(&world, "admin").await
                && make(&world, &connection, &plan).await == Ok(())
            {
                break;
            }
            world.client.sleep(Duration::from_millis(5)).await;
        }
    }
    world.done("admin");
}

async fn make(world: &World, connection: &Connection, plan: &TopicPlan) -> Result<(), Lost> {
    if !plan.auto {
        create(world, connection, plan).await?;
    }
    let topic = MetadataRequestTopic::default().with_name(Some(TopicName(text(&plan.name))));
    let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(plan.auto);
    let answer = connection.call(12, &request, REQUEST_TIMEOUT).await?;
    let [topic] = answer.topics.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(topic.error_code) {
        Some(ErrorCode::None) => {
            let seen = world.oracle.borrow_mut().topic_seen(&plan.name, topic.topic_id, topic.partitions.len() as i32);
            world.check(seen);
            Ok(())
        }
        Some(ErrorCode::LeaderNotAvailable | ErrorCode::KafkaStorageError | ErrorCode::NotController) => Err(Lost),
        Some(ErrorCode::UnknownTopicOrPartition) if plan.auto => Err(Lost),
        code => fail(format!("Metadata of {}: {code:?}", plan.name)),
    }
}

async fn create(world: &World, connection: &Connection, plan: &TopicPlan) -> Result<(), Lost> {
    let config = |(name, value): &(&str, String)| {
        CreatableTopicConfig::default().with_name(text(name)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(TopicName(text(&plan.name)))
        .with_num_partitions(plan.partitions)
        .with_replication_factor(1)
        .with_configs(plan.configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let answer = connection.call(7, &request, REQUEST_TIMEOUT).await?;
    let [topic] = answer.topics.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(topic.error_code) {
        Some(ErrorCode::None) => {
            world.trace(|| format!("{} is made", plan.name));
            let seen = world.oracle.borrow_mut().topic_seen(&plan.name, topic.topic_id, topic.num_partitions);
            world.check(seen);
            Ok(())
        }
        Some(ErrorCode::TopicAlreadyExists) => Ok(()),
        Some(ErrorCode::KafkaStorageError | ErrorCode::NotController | ErrorCode::RequestTimedOut) => Err(Lost),
        code => fail(format!("CreateTopics of {}: {code:?} {:?}", plan.name, topic.error_message)),
    }
}

/// Asks again and again, until the faults are over and once more after that.
pub(crate) async fn audit(world: Rc<World>) {
    let rng = world.rng();
    loop {
        world.doing("auditor", "connecting");
        let last = world.finishing.get();
        if let Ok(connection) = Connection::open(&world, "auditor").await {
            let asked = ask(&world, &connection).await;
            if asked == Ok(()) && last {
                break;
            }
        }
        world.client.sleep(Duration::from_millis(5 + rng.below(60))).await;
    }
    world.done("auditor");
}

async fn ask(world: &World, connection: &Connection) -> Result<(), Lost> {
    world.doing("auditor", "asking");
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("simulation"))
        .with_client_software_version(text("1"));
    let answer = connection.call(3, &request, REQUEST_TIMEOUT).await?;
    if answer.error_code != 0 || answer.api_keys.is_empty() {
        fail(format!("ApiVersions: {answer:?}"));
    }
    let known = world.oracle.borrow().topic_names();
    let request = MetadataRequest::default().with_topics(None).with_allow_auto_topic_creation(false);
    let answer = connection.call(12, &request, REQUEST_TIMEOUT).await?;
    let mut listed = Vec::new();
    for topic in &answer.topics {
        let name = topic.name.as_ref().map(|n| n.0.to_string()).unwrap_or_default();
        if topic.error_code != 0
            || topic.partitions.iter().any(|p| p.error_code != 0 || p.leader_id != BrokerId(NODE_ID))
        {
            fail(format!("Metadata of {name}: {topic:?}"));
        }
        // Made by a request that was never answered: from now on it must stay all the same.
        let seen = world.oracle.borrow_mut().topic_seen(&name, topic.topic_id, topic.partitions.len() as i32);
        world.check(seen);
        listed.push(name);
    }
    let gone = world.oracle.borrow_mut().topics_listed(&known, &listed);
    world.check(gone);
    for time in [-2, -1] {
        ends(world, connection, &known, time).await?;
    }
    Ok(())
}

async fn ends(world: &World, connection: &Connection, topics: &[String], time: i64) -> Result<(), Lost> {
    let mut floors = Vec::new();
    let mut asked = Vec::new();
    for name in topics {
        let oracle = world.oracle.borrow();
        let partitions = oracle.partitions(name);
        floors.extend(partitions.iter().map(|p| (*p, oracle.committed_end(*p))));
        let wanted = |index| ListOffsetsPartition::default().with_partition_index(index).with_timestamp(time);
        let wanted = (0..partitions.len() as i32).map(|i| wanted(i).with_current_leader_epoch(-1)).collect();
        asked.push(ListOffsetsTopic::default().with_name(TopicName(text(name))).with_partitions(wanted));
    }
    let request = ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_topics(asked);
    let answer = connection.call(7, &request, REQUEST_TIMEOUT).await?;
    let found: Vec<_> = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (&t.name, p))).collect();
    if found.len() != floors.len() {
        fail(format!("ListOffsets: {} partitions asked, {} answered", floors.len(), found.len()));
    }
    for (name, answer) in found {
        let partition = world.oracle.borrow().partitions(&name.0)[answer.partition_index as usize];
        let floor = floors.iter().find(|(p, _)| *p == partition).map_or(0, |(_, floor)| *floor);
        match ErrorCode::from_code(answer.error_code) {
            Some(ErrorCode::None) if time == -1 => {
                let seen = world.oracle.borrow_mut().end_seen(partition, floor, answer.offset, "the latest offset");
                world.check(seen);
            }
            Some(ErrorCode::None) if answer.offset == 0 => {}
            Some(ErrorCode::KafkaStorageError) => return Err(Lost),
            code => fail(format!("ListOffsets {time} of {}-{}: {code:?} {answer:?}", name.0, answer.partition_index)),
        }
    }
    Ok(())
}
