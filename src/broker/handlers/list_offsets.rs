//! ListOffsets: first, last, by time, of the largest time.

use super::remote::{Ask, OffsetOne, Told, scatter, stopping};
use super::resolve::{believed_epoch, enter_named, led_by_name};
use crate::broker::Shard;
use crate::broker::connection::RequestContext;
use crate::broker::store::{Isolation, OffsetFound, OffsetQuery};
use crate::error_code::ErrorCode;
use coreline_io::Runtime;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::list_offsets_response::{ListOffsetsPartitionResponse, ListOffsetsTopicResponse};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse};
use std::collections::HashSet;

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const MAX_TIMESTAMP: i64 = -3;
const EARLIEST_LOCAL: i64 = -4;
const LATEST_TIERED: i64 = -5;

/// What a timestamp of this version asks for; none: of tiered storage, of which there is none.
fn query(version: i16, timestamp: i64, isolation: Isolation) -> Result<Option<OffsetQuery>, ErrorCode> {
    match timestamp {
        LATEST => Ok(Some(OffsetQuery::Latest(isolation))),
        EARLIEST => Ok(Some(OffsetQuery::Earliest)),
        MAX_TIMESTAMP if version >= 7 => Ok(Some(OffsetQuery::MaxTimestamp)),
        EARLIEST_LOCAL if version >= 8 => Ok(Some(OffsetQuery::Earliest)),
        LATEST_TIERED if version >= 9 => Ok(None),
        time if time >= 0 => Ok(Some(OffsetQuery::Timestamp(time))),
        _ => Err(ErrorCode::UnsupportedVersion),
    }
}

type Found = Result<Option<OffsetFound>, ErrorCode>;

pub(super) async fn handle<R: Runtime>(
    shard: &Shard<R>,
    context: &RequestContext,
    request: ListOffsetsRequest,
) -> ListOffsetsResponse {
    let version = context.request.header.api_version;
    let isolation = if request.isolation_level == 1 { Isolation::ReadCommitted } else { Isolation::ReadUncommitted };
    let twice = twice(&request.topics);
    let named = |topic: &str, index: i32| {
        let mut topics = request.topics.iter().filter(|t| t.name.as_str() == topic);
        topics.any(|t| t.partitions.iter().any(|p| p.partition_index == index))
    };
    let _pass = enter_named(shard, named).await;
    let image = shard.image();
    let mut found: Vec<Found> = Vec::new();
    let (mut places, mut asks) = (Vec::new(), Vec::new());
    for topic in &request.topics {
        for partition in &topic.partitions {
            let place = found.len();
            found.push(Ok(None));
            if twice.contains(&(topic.name.as_str(), partition.partition_index)) {
                found[place] = Err(ErrorCode::InvalidRequest);
                continue;
            }
            let target = led_by_name(shard, &image, &topic.name, partition.partition_index)
                .and_then(|resolved| Ok((resolved, query(version, partition.timestamp, isolation)?)));
            match target {
                Ok((_, None)) => {}
                Ok((resolved, Some(query))) => {
                    let current_leader_epoch = believed_epoch(partition.current_leader_epoch);
                    places.push(place);
                    asks.push((resolved.shard, OffsetOne { id: resolved.id, query, current_leader_epoch, isolation }));
                }
                Err(error) => found[place] = Err(error),
            }
        }
    }
    for (shard, _) in &asks {
        context.session.borrow_mut().touched.add(*shard, 1);
    }
    let unwrap = |told| match told {
        Told::Offsets(offsets) => offsets,
        other => unreachable!("a question for offsets is answered with offsets, not {other:?}"),
    };
    let answers = scatter(shard, asks, Ask::Offsets, unwrap, || Err(stopping())).await;
    for (place, answer) in places.into_iter().zip(answers) {
        found[place] = answer.map_err(|error| error.code);
    }
    respond(version, request.topics, found)
}

/// Partitions that are named more than once.
fn twice(topics: &[ListOffsetsTopic]) -> HashSet<(&str, i32)> {
    let mut once = HashSet::new();
    let names = topics.iter().flat_map(|t| t.partitions.iter().map(|p| (t.name.as_str(), p.partition_index)));
    names.filter(|name| !once.insert(*name)).collect()
}

fn respond(version: i16, topics: Vec<ListOffsetsTopic>, found: Vec<Found>) -> ListOffsetsResponse {
    let mut found = found.into_iter();
    let mut partition = |asked: &ListOffsetsPartition| {
        let found = found.next().expect("an answer for each partition");
        let response = ListOffsetsPartitionResponse::default().with_partition_index(asked.partition_index);
        match found {
            Ok(Some(found)) => {
                let response = response.with_timestamp(found.timestamp).with_offset(found.offset.0);
                if version >= 4 { response.with_leader_epoch(found.leader_epoch.0) } else { response }
            }
            Ok(None) => response,
            Err(error) => response.with_error_code(error.code()),
        }
    };
    let topics = topics.into_iter().map(|topic| {
        let partitions = topic.partitions.iter().map(&mut partition).collect();
        ListOffsetsTopicResponse::default().with_name(topic.name).with_partitions(partitions)
    });
    ListOffsetsResponse::default().with_topics(topics.collect())
}
