//! DescribeLatency, our own: how long requests took and where, of all shards together and of each.

use crate::broker::Shard;
use crate::broker::messages::{Reply, Request};
use crate::latency::{Row, Slow, Snapshot, Span, Stage};
use crate::protocol::describe_latency::{
    DescribeLatencyRequest, DescribeLatencyResponse, FlushRow, LatencyRow, SlowRow,
};
use coreline_io::{Monotonic, Runtime};
use coreline_shards::ShardId;

/// In a row: all shards.
const ALL: i32 = -1;

pub(super) async fn handle<R: Runtime>(shard: &Shard<R>, request: DescribeLatencyRequest) -> DescribeLatencyResponse {
    let span = if request.since_start { Span::All } else { Span::Recent };
    let slowest = usize::try_from(request.slowest).unwrap_or(0);
    let (mut rows, mut sum) = (Vec::new(), Snapshot::default());
    for id in ShardId::all(shard.shards) {
        // A shard that does not answer stops, and with it the node.
        let Some(found) = ask(shard, id, span, slowest).await else { continue };
        if request.by_shard {
            rows.extend(found.rows.iter().map(|row| of_row(i32::from(id.0), row)));
        }
        sum.merge(found, slowest);
    }
    let now = shard.runtime.now();
    let all = sum.rows.iter().map(|row| of_row(ALL, row));
    DescribeLatencyResponse {
        shards: i32::try_from(shard.shards).unwrap_or(i32::MAX),
        rows: all.chain(rows).collect(),
        slowest: sum.slowest.into_iter().map(|slow| of_slow(slow, now)).collect(),
    }
}

async fn ask<R: Runtime>(shard: &Shard<R>, of: ShardId, span: Span, slowest: usize) -> Option<Snapshot> {
    if of == shard.id {
        return Some(shard.latencies.snapshot(span, slowest, shard.runtime.now()));
    }
    match shard.mesh.call(of, Request::Latencies { span, slowest }).await {
        Ok(Reply::Latencies(snapshot)) => Some(snapshot),
        Ok(other) => unreachable!("a question for latencies is answered with them, not {other:?}"),
        Err(_) => None,
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn of_row(shard: i32, row: &Row) -> LatencyRow {
    let summary = row.summary();
    let nanos = [summary.mean, summary.p50, summary.p90, summary.p99, summary.p999, summary.max].map(signed);
    let stage = row.stage.map_or(-1, |stage| stage as i8);
    LatencyRow { shard, api: row.api, stage, count: signed(summary.count), nanos }
}

fn of_slow(slow: Slow, now: Monotonic) -> SlowRow {
    let Slow { shard, request, timeline, stall } = slow;
    let stages = Stage::ALL.into_iter().map(|stage| (stage as i8, signed(timeline.spent(stage))));
    SlowRow {
        shard: i32::from(shard),
        api: request.api,
        version: request.version,
        correlation_id: request.correlation_id,
        client_id: request.client_id,
        peer: request.peer,
        ended_ago: signed(now.nanos.saturating_sub(timeline.ended())),
        stages: stages.filter(|(_, nanos)| *nanos > 0).collect(),
        flush: timeline.flush().map(|flush| FlushRow {
            shard: i32::from(flush.shard),
            group: flush.group.map_or(-1, signed),
            partitions: i32::try_from(flush.partitions).unwrap_or(i32::MAX),
            bytes: signed(flush.bytes),
            nanos: signed(flush.nanos),
        }),
        stall: stall.map(|stall| (stall.task, signed(stall.nanos))),
    }
}
