//! Who moves partitions between cores, while everybody uses them.

use crate::client::{Connection, Lost};
use crate::producer::REQUEST_TIMEOUT;
use crate::world::{World, fail};
use coreline::error_code::ErrorCode;
use coreline::protocol::move_partition::{MovePartitionRequest, PlacedPartition};
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use std::rc::Rc;
use std::time::Duration;

const WHO: &str = "mover";

/// Moves any partition to any core, until the faults are over.
pub(crate) async fn moves(world: Rc<World>, pause_us_max: u64) {
    let rng = world.rng();
    while !world.finishing.get() {
        world.doing(WHO, "waiting");
        world.client.sleep(Duration::from_micros(rng.below(pause_us_max))).await;
        let Ok(connection) = Connection::open(&world, WHO).await else { continue };
        for _ in 0..1 + rng.below(20) {
            if world.finishing.get() || one(&world, &connection, &rng).await.is_err() {
                break;
            }
            world.client.sleep(Duration::from_micros(rng.below(pause_us_max))).await;
        }
    }
    world.done(WHO);
}

async fn one(world: &World, connection: &Connection, rng: &SimRng) -> Result<(), Lost> {
    world.doing(WHO, "looking");
    let all = MovePartitionRequest { topic: None, partition: -1, to_core: -1 };
    let found = connection.call(0, &all, REQUEST_TIMEOUT).await?;
    if found.error_code != 0 {
        fail(format!("the broker does not say where partitions are: {found:?}"));
    }
    if found.partitions.is_empty() {
        return Ok(());
    }
    let PlacedPartition { topic, index, core } = found.partitions[rng.index(found.partitions.len())].clone();
    let to_core = rng.below(found.cores.unsigned_abs().into()) as i32;
    world.doing(WHO, format!("moving {topic}-{index} from core {core} to {to_core}"));
    let request = MovePartitionRequest { topic: Some(topic.clone()), partition: index, to_core };
    let answer = connection.call(0, &request, REQUEST_TIMEOUT).await?;
    world.trace(|| format!("{topic}-{index} from core {core} to {to_core}: {answer:?}"));
    match ErrorCode::from_code(answer.error_code) {
        Some(ErrorCode::None) => {
            let there = PlacedPartition { topic, index, core: to_core };
            // Another of its name may be there already, and nobody else moves any.
            if answer.partitions != [there] && world.scenario.topics.iter().all(|plan| plan.lives == 1) {
                fail(format!("moved to core {to_core}, and it is elsewhere: {answer:?}"));
            }
            Ok(())
        }
        // It is there, the other one has been started on other cores, it was deleted, or must stay.
        Some(ErrorCode::InvalidRequest | ErrorCode::UnknownTopicOrPartition | ErrorCode::InvalidTopicException) => {
            Ok(())
        }
        Some(ErrorCode::KafkaStorageError | ErrorCode::NotController | ErrorCode::RequestTimedOut) => Ok(()),
        code => fail(format!("a move of {topic}-{index}: {code:?}")),
    }
}
