//! Who makes topics, lets them grow, deletes them and makes them again, and cuts logs.

use crate::client::{Connection, Lost};
use crate::producer::REQUEST_TIMEOUT;
use crate::scenario::{Fault, TopicPlan};
use crate::topics::{Asked, LifeNumber, Listed};
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use futures_util::future::join;
use kafka_protocol::messages::create_partitions_request::CreatePartitionsTopic;
use kafka_protocol::messages::create_topics_request::{CreatableTopic, CreatableTopicConfig};
use kafka_protocol::messages::delete_records_request::{DeleteRecordsPartition, DeleteRecordsTopic};
use kafka_protocol::messages::delete_topics_request::DeleteTopicState;
use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    CreatePartitionsRequest, CreateTopicsRequest, DeleteRecordsRequest, DeleteTopicsRequest, MetadataRequest, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use std::rc::Rc;
use std::time::Duration;

pub(crate) fn text(text: &str) -> StrBytes {
    StrBytes::from_string(text.to_owned())
}

fn name(name: &str) -> TopicName {
    TopicName(text(name))
}

/// What an answer says that may be otherwise when it is asked again.
fn later(code: Option<ErrorCode>) -> bool {
    matches!(
        code,
        Some(
            ErrorCode::KafkaStorageError
                | ErrorCode::NotController
                | ErrorCode::RequestTimedOut
                | ErrorCode::LeaderNotAvailable
        )
    )
}

/// Does `attempt` until it succeeds, whatever happens meanwhile.
async fn until_done(world: &World, who: &str, mut attempt: impl AsyncFnMut(&Connection) -> Result<(), Lost>) {
    loop {
        if let Ok(connection) = Connection::open(world, who).await
            && attempt(&connection).await == Ok(())
        {
            return;
        }
        world.client.sleep(Duration::from_millis(5)).await;
    }
}

/// Makes the topics.
pub(crate) async fn make_topics(world: &World) {
    for plan in &world.scenario.topics {
        world.doing("admin", format!("making {}", plan.name));
        until_done(world, "admin", async |connection| make(world, connection, plan).await).await;
    }
    world.done("admin");
}

async fn make(world: &World, connection: &Connection, plan: &TopicPlan) -> Result<(), Lost> {
    // Only who made it knows that every core has heard of it.
    let settled = !plan.auto && create(world, connection, plan).await?;
    let asked = world.oracle.borrow().topics.asking();
    let topic = MetadataRequestTopic::default().with_name(Some(name(&plan.name)));
    let request = MetadataRequest::default().with_topics(Some(vec![topic])).with_allow_auto_topic_creation(plan.auto);
    let answer = connection.call(12, &request, REQUEST_TIMEOUT).await?;
    let [topic] = answer.topics.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(topic.error_code) {
        Some(ErrorCode::None) => {
            seen(world, &asked, plan, topic.topic_id, topic.partitions.len());
            let mut oracle = world.oracle.borrow_mut();
            let now = oracle.checks();
            let life = oracle.topics.by_id(topic.topic_id).map(|(life, _)| life).filter(|_| settled);
            life.into_iter().for_each(|life| oracle.topics.settled(life, plan.partitions as usize, now));
            Ok(())
        }
        // Deleted since it was there.
        Some(ErrorCode::UnknownTopicOrPartition) if plan.auto || plan.lives > 1 => Err(Lost),
        code if later(code) => Err(Lost),
        code => fail(format!("Metadata of {}: {code:?}", plan.name)),
    }
}

fn seen(world: &World, asked: &Asked, plan: &TopicPlan, id: uuid::Uuid, partitions: usize) {
    let listed = Listed { name: plan.name.clone(), id, partitions };
    let verdict = world.oracle.borrow_mut().topic_seen(asked, &listed);
    world.check(verdict);
}

/// False: it was there.
async fn create(world: &World, connection: &Connection, plan: &TopicPlan) -> Result<bool, Lost> {
    let config = |(key, value): &(&str, String)| {
        CreatableTopicConfig::default().with_name(text(key)).with_value(Some(text(value)))
    };
    let topic = CreatableTopic::default()
        .with_name(name(&plan.name))
        .with_num_partitions(plan.partitions)
        .with_replication_factor(1)
        .with_configs(plan.configs.iter().map(config).collect());
    let request = CreateTopicsRequest::default().with_topics(vec![topic]).with_timeout_ms(10_000);
    let asked = world.oracle.borrow().topics.asking();
    let answer = connection.call(7, &request, REQUEST_TIMEOUT).await?;
    let [topic] = answer.topics.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(topic.error_code) {
        Some(ErrorCode::None) => {
            world.trace(|| format!("{} is made, {}", plan.name, topic.topic_id));
            seen(world, &asked, plan, topic.topic_id, usize::try_from(topic.num_partitions).unwrap_or(0));
            Ok(true)
        }
        Some(ErrorCode::TopicAlreadyExists) => Ok(false),
        code if later(code) => Err(Lost),
        code => fail(format!("CreateTopics of {}: {code:?} {:?}", plan.name, topic.error_message)),
    }
}

/// The topic lives: it grows, is cut, is deleted and made again, until the faults are over.
pub(crate) async fn live(world: Rc<World>, plan: TopicPlan) {
    let (rng, who) = (world.rng(), format!("admin-of-{}", plan.name));
    while !world.finishing.get() {
        world.doing(&who, "waiting");
        let micros = rng.below(plan.change_ms_max * 1000);
        world.client.sleep(Duration::from_micros(micros)).await;
        let Some((life, state)) = world.oracle.borrow().topics.by_name(&plan.name).map(|(n, l)| (n, l.clone())) else {
            continue;
        };
        if !state.is_there() {
            world.doing(&who, "making it again");
            until_done(&world, &who, async |connection| make(&world, connection, &plan).await).await;
        } else if plan.grows && rng.one_in(2) {
            let to = state.partitions.len() + 1 + rng.index(3);
            world.doing(&who, format!("growing to {to}"));
            world.oracle.borrow_mut().topics.growing(life, to);
            until_done(&world, &who, async |connection| grow(&world, connection, life, to).await).await;
        } else if state.mortal && rng.one_in(2) {
            world.doing(&who, "deleting");
            // A request by name that comes late may meet the next life.
            let late = world.scenario.faults.iter().any(|(_, f)| matches!(f, Fault::Partition { .. }));
            let by_id = late || rng.one_in(2);
            // Now and then somebody else makes a topic of that name in the same instant.
            let delay = by_id.then(|| Duration::from_micros(rng.below(300))).filter(|_| rng.one_in(2));
            let again = async {
                let Some(delay) = delay else { return };
                world.client.sleep(delay).await;
                until_done(&world, "another", async |connection| make(&world, connection, &plan).await).await;
            };
            join(delete_life(&world, &who, life, by_id), again).await;
            world.trace(|| format!("{} is deleted, {}", plan.name, state.id));
        } else if plan.is_cut {
            world.doing(&who, "cutting");
            let index = rng.index(state.partitions.len());
            // Once: what was lost may have been done, and need not have been.
            if let Ok(connection) = Connection::open(&world, &who).await {
                let _ = cut(&world, &connection, life, index, rng.below(1000)).await;
            }
        }
    }
    world.done(&who);
}

async fn delete_life(world: &World, who: &str, life: LifeNumber, by_id: bool) {
    world.oracle.borrow_mut().topics.leaving(life);
    let mut first = true;
    until_done(world, who, async |connection| delete(world, connection, life, by_id, std::mem::take(&mut first)).await)
        .await;
    world.oracle.borrow_mut().topics.gone(life);
}

async fn grow(world: &World, connection: &Connection, life: LifeNumber, to: usize) -> Result<(), Lost> {
    let (topic, id) = {
        let oracle = world.oracle.borrow();
        let life = oracle.topics.get(life);
        (life.name.clone(), life.id)
    };
    let wanted = CreatePartitionsTopic::default().with_name(name(&topic)).with_count(to as i32).with_assignments(None);
    let request = CreatePartitionsRequest::default().with_topics(vec![wanted]).with_timeout_ms(10_000);
    let answer = connection.call(3, &request, REQUEST_TIMEOUT).await?;
    let [result] = answer.results.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(result.error_code) {
        // The second: done before, by a request whose answer was lost, and perhaps not known everywhere.
        code @ Some(ErrorCode::None | ErrorCode::InvalidPartitions) => {
            world.trace(|| format!("{topic} has {to} partitions"));
            let listed = Listed { name: topic, id, partitions: to };
            let verdict = world.oracle.borrow_mut().topic_seen(&Asked::default(), &listed);
            world.check(verdict);
            if code == Some(ErrorCode::None) {
                let mut oracle = world.oracle.borrow_mut();
                let now = oracle.checks();
                oracle.topics.settled(life, to, now);
            }
            Ok(())
        }
        code if later(code) => Err(Lost),
        code => fail(format!("CreatePartitions of {topic} to {to}: {code:?} {:?}", result.error_message)),
    }
}

async fn delete(
    world: &World,
    connection: &Connection,
    life: LifeNumber,
    by_id: bool,
    first: bool,
) -> Result<(), Lost> {
    let (topic, id) = {
        let oracle = world.oracle.borrow();
        let life = oracle.topics.get(life);
        (life.name.clone(), life.id)
    };
    let state = DeleteTopicState::default();
    let state = if by_id { state.with_name(None).with_topic_id(id) } else { state.with_name(Some(name(&topic))) };
    let request = DeleteTopicsRequest::default().with_topics(vec![state]).with_timeout_ms(10_000);
    let answer = connection.call(6, &request, REQUEST_TIMEOUT).await?;
    let [result] = answer.responses.as_slice() else { fail(format!("asked for one topic: {answer:?}")) };
    match ErrorCode::from_code(result.error_code) {
        Some(ErrorCode::None) => Ok(()),
        Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::UnknownTopicId) if !first => Ok(()),
        code if later(code) => Err(Lost),
        code => fail(format!("DeleteTopics of {topic} {id}: {code:?} {:?}", result.error_message)),
    }
}

/// Moves the start of a log to somewhere in it.
async fn cut(
    world: &World,
    connection: &Connection,
    life: LifeNumber,
    index: usize,
    thousandth: u64,
) -> Result<(), Lost> {
    let (topic, partition, floor, to, asked_at) = {
        let mut oracle = world.oracle.borrow_mut();
        let (topic, partition) = (oracle.topics.get(life).name.clone(), oracle.topics.get(life).partitions[index]);
        let (start, end) = (oracle.start(partition), oracle.committed_end(partition));
        let to = start.1 + (end - start.1).max(0) * thousandth as i64 / 1000;
        oracle.cutting(partition, to);
        (topic, partition, start.0, to, oracle.checks())
    };
    let wanted = DeleteRecordsPartition::default().with_partition_index(index as i32).with_offset(to);
    let wanted = DeleteRecordsTopic::default().with_name(name(&topic)).with_partitions(vec![wanted]);
    let request = DeleteRecordsRequest::default().with_topics(vec![wanted]).with_timeout_ms(10_000);
    let answer = connection.call(2, &request, REQUEST_TIMEOUT).await?;
    let found = answer.topics.first().and_then(|t| t.partitions.first());
    let Some(found) = found else { fail(format!("asked for one partition: {answer:?}")) };
    match ErrorCode::from_code(found.error_code) {
        Some(ErrorCode::None) => {
            world.trace(|| format!("{topic}-{index} is cut to {to}"));
            let now_ms = world.broker_ms_max();
            let seen = world.oracle.borrow_mut().start_seen(partition, floor.max(to), found.low_watermark, now_ms);
            world.check(seen);
            Ok(())
        }
        code if later(code) || code == Some(ErrorCode::NotLeaderOrFollower) => Err(Lost),
        // Its topic may be gone, or not be known to every core; another of its name may be shorter.
        Some(ErrorCode::UnknownTopicOrPartition | ErrorCode::OffsetOutOfRange)
            if !world.oracle.borrow().topics.get(life).has(index as i32, asked_at) =>
        {
            Err(Lost)
        }
        // Something was cut further already, or went by itself: the question's lower bound says how far at least.
        code => fail(format!("DeleteRecords of {topic}-{index} to {to}: {code:?}")),
    }
}
