//! Who asks now and then whether topics, ends and times are as they must be.

use crate::admin::text;
use crate::client::{Connection, Lost};
use crate::groups;
use crate::oracle::{PartitionNumber, Time};
use crate::producer::REQUEST_TIMEOUT;
use crate::topics::{LifeNumber, Listed};
use crate::transactions;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::ListOffsetsPartitionResponse;
use kafka_protocol::messages::{
    ApiVersionsRequest, BrokerId, DescribeClusterRequest, ListOffsetsRequest, MetadataRequest, TopicName,
};
use std::rc::Rc;
use std::time::Duration;

/// The default of `node.id`.
const NODE_ID: i32 = 1;
const LATEST: i64 = -1;
pub(crate) const EARLIEST: i64 = -2;
const LARGEST: i64 = -3;

/// Asks again and again, until the faults are over and once more after that.
pub(crate) async fn audit(world: Rc<World>) {
    let rng = world.rng();
    loop {
        world.doing("auditor", "connecting");
        let last = world.finishing.get();
        if let Ok(connection) = Connection::open(&world, "auditor").await
            && ask(&world, &connection, &rng).await == Ok(())
            && last
        {
            break;
        }
        world.client.sleep(Duration::from_millis(5 + rng.below(60))).await;
    }
    world.done("auditor");
}

async fn ask(world: &World, connection: &Connection, rng: &SimRng) -> Result<(), Lost> {
    world.doing("auditor", "asking");
    let request = ApiVersionsRequest::default()
        .with_client_software_name(text("simulation"))
        .with_client_software_version(text("1"));
    let answer = connection.call(3, &request, REQUEST_TIMEOUT).await?;
    if answer.error_code != 0 || answer.api_keys.is_empty() {
        fail(format!("ApiVersions: {answer:?}"));
    }
    topics(world, connection).await?;
    let some = rng.below(1000);
    for time in [EARLIEST, LATEST, LARGEST, rng.below(i64::MAX as u64) as i64] {
        offsets(world, connection, |_| time).await?;
    }
    let near = |partition| (world.oracle.borrow().some_time(partition, some).unwrap_or(0) + some as i64 % 3 - 1).max(0);
    offsets(world, connection, near).await?;
    cluster(world, connection).await
}

/// The id of a cluster never changes.
async fn cluster(world: &World, connection: &Connection) -> Result<(), Lost> {
    let answer = connection.call(1, &DescribeClusterRequest::default(), REQUEST_TIMEOUT).await?;
    if answer.error_code != 0 {
        fail(format!("DescribeCluster: {answer:?}"));
    }
    world.cluster_id(&answer.cluster_id);
    Ok(())
}

async fn topics(world: &World, connection: &Connection) -> Result<(), Lost> {
    let asked = world.oracle.borrow().topics.asking();
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
        if topic.is_internal || name == groups::TOPIC || name == transactions::TOPIC {
            // Nobody's records are in it: the members of the group look after it, or the readers of what is committed.
            continue;
        }
        let one = Listed { name, id: topic.topic_id, partitions: topic.partitions.len() };
        // Made by a request that was never answered: from now on it must stay all the same.
        let seen = world.oracle.borrow_mut().topic_seen(&asked, &one);
        world.check(seen);
        listed.push(one);
    }
    let gone = world.oracle.borrow_mut().topics_listed(&asked, &listed);
    world.check(gone);
    Ok(())
}

/// A partition that is asked for, and what was true of it then.
struct Question {
    life: LifeNumber,
    topic: String,
    index: i32,
    partition: PartitionNumber,
    /// Checks that were made before it.
    asked_at: u64,
    committed: i64,
    start: i64,
    time: i64,
}

fn questions(world: &World, time: impl Fn(PartitionNumber) -> i64) -> Vec<Question> {
    let oracle = world.oracle.borrow();
    let mut all = Vec::new();
    for (life, topic) in oracle.topics.all().filter(|(_, l)| l.is_there()) {
        for (index, &partition) in topic.partitions.iter().enumerate() {
            all.push(Question {
                life,
                topic: topic.name.clone(),
                index: index as i32,
                partition,
                asked_at: oracle.checks(),
                committed: oracle.committed_end(partition),
                start: oracle.start(partition).0,
                time: time(partition),
            });
        }
    }
    all
}

/// Asks all partitions for the offset of a time.
async fn offsets(world: &World, connection: &Connection, time: impl Fn(PartitionNumber) -> i64) -> Result<(), Lost> {
    let questions = questions(world, time);
    let mut asked: Vec<ListOffsetsTopic> = Vec::new();
    for q in &questions {
        let wanted = ListOffsetsPartition::default()
            .with_partition_index(q.index)
            .with_timestamp(q.time)
            .with_current_leader_epoch(-1);
        match asked.last_mut().filter(|t| t.name.0.as_str() == q.topic) {
            Some(topic) => topic.partitions.push(wanted),
            None => {
                let name = TopicName(text(&q.topic));
                asked.push(ListOffsetsTopic::default().with_name(name).with_partitions(vec![wanted]));
            }
        }
    }
    let isolation = (questions.len() % 2) as i8;
    let request =
        ListOffsetsRequest::default().with_replica_id(BrokerId(-1)).with_isolation_level(isolation).with_topics(asked);
    let answer = connection.call(7, &request, REQUEST_TIMEOUT).await?;
    let found: Vec<_> = answer.topics.iter().flat_map(|t| t.partitions.iter().map(|p| (&t.name, p))).collect();
    if found.len() != questions.len() {
        fail(format!("ListOffsets: {} partitions asked, {} answered", questions.len(), found.len()));
    }
    for (name, answer) in found {
        let wanted = (name.0.as_str(), answer.partition_index);
        let Some(q) = questions.iter().find(|q| (q.topic.as_str(), q.index) == wanted) else {
            fail(format!("ListOffsets: {wanted:?} was not asked for"))
        };
        offset(world, q, answer)?;
    }
    Ok(())
}

fn offset(world: &World, q: &Question, answer: &ListOffsetsPartitionResponse) -> Result<(), Lost> {
    let mut oracle = world.oracle.borrow_mut();
    if !oracle.topics.get(q.life).is_there() {
        // The name may be another topic's by now.
        return Ok(());
    }
    let now_ms = world.broker_ms_max();
    let (partition, found) = (q.partition, (answer.offset, answer.timestamp));
    let found = (found.0 >= 0).then_some(found);
    let verdict = match (ErrorCode::from_code(answer.error_code), q.time, found) {
        (Some(ErrorCode::None), LATEST, Some((end, _))) => {
            oracle.end_seen(partition, q.committed, end, "the latest offset")
        }
        (Some(ErrorCode::None), EARLIEST, Some((start, _))) => oracle.start_seen(partition, q.start, start, now_ms),
        (Some(ErrorCode::None), LARGEST, found) => oracle.by_time(partition, q.committed, Time::Largest, found, now_ms),
        (Some(ErrorCode::None), time, found) if time >= 0 => {
            oracle.by_time(partition, q.committed, Time::From(time), found, now_ms)
        }
        (Some(ErrorCode::KafkaStorageError), ..) => {
            drop(oracle);
            world.storage_error(partition, q.asked_at);
            return Err(Lost);
        }
        (Some(ErrorCode::UnknownTopicOrPartition), ..) if !oracle.topics.get(q.life).has(q.index, q.asked_at) => {
            return Err(Lost);
        }
        (code, ..) => fail(format!("ListOffsets {} of {}-{}: {code:?} {answer:?}", q.time, q.topic, q.index)),
    };
    world.check(verdict);
    Ok(())
}
