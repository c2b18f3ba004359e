//! MovePartition, our own: says which cores have partitions, and moves one to another.

use crate::broker::Shard;
use crate::broker::relocation::relocate;
use crate::controller::{ClusterImage, CommandError};
use crate::error_code::ErrorCode;
use crate::ids::{PartitionId, PartitionIndex};
use crate::protocol::move_partition::{MovePartitionRequest, MovePartitionResponse, PlacedPartition};
use coreline_io::Runtime;
use std::rc::Rc;

pub(super) async fn handle<R: Runtime>(shard: &Rc<Shard<R>>, request: MovePartitionRequest) -> MovePartitionResponse {
    let done = match u16::try_from(request.to_core) {
        Ok(to) => move_one(shard, &request, to).await,
        Err(_) if request.to_core == -1 => Ok(()),
        Err(_) => {
            let message = format!("core {} does not exist", request.to_core);
            Err(CommandError::new(ErrorCode::InvalidRequest, message))
        }
    };
    let image = shard.image();
    let found = done.and_then(|()| placed(&image, &request));
    let (code, error_message, partitions) = match found {
        Ok(partitions) => (ErrorCode::None, None, partitions),
        Err(error) => (error.code, Some(error.message), Vec::new()),
    };
    MovePartitionResponse { error_code: code.code(), error_message, cores: i32::from(image.shards), partitions }
}

async fn move_one<R: Runtime>(
    shard: &Rc<Shard<R>>,
    request: &MovePartitionRequest,
    to: u16,
) -> Result<(), CommandError> {
    let image = shard.image();
    let topic = request.topic.as_ref().and_then(|name| image.topic(name));
    let Some(topic) = topic.filter(|topic| topic.partition(request.partition).is_some()) else {
        return Err(unknown(request));
    };
    let partition = PartitionId { topic: topic.id, index: PartitionIndex(request.partition) };
    relocate(shard, partition, to).await
}

fn placed(image: &ClusterImage, request: &MovePartitionRequest) -> Result<Vec<PlacedPartition>, CommandError> {
    let mut found = Vec::new();
    for topic in image.topics().filter(|topic| request.topic.as_ref().is_none_or(|name| **name == *topic.name)) {
        for (index, partition) in (0..).zip(&topic.partitions) {
            if request.partition == -1 || request.partition == index {
                let core = i32::from(partition.shard);
                found.push(PlacedPartition { topic: topic.name.to_string(), index, core });
            }
        }
    }
    if found.is_empty() && request.topic.is_some() { Err(unknown(request)) } else { Ok(found) }
}

fn unknown(request: &MovePartitionRequest) -> CommandError {
    let message = match (&request.topic, request.partition) {
        (None, _) => "a partition to move is named by its topic and its number".to_owned(),
        (Some(topic), -1) => format!("topic {topic} does not exist, or no partition was named"),
        (Some(topic), partition) => format!("partition {topic}-{partition} does not exist"),
    };
    CommandError::new(ErrorCode::UnknownTopicOrPartition, message)
}
