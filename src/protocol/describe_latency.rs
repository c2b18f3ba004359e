//! DescribeLatency: an API of our own, by which `coreline latency` asks where the time of requests goes.
//!
//! ```text
//! request  v0:  since start bool, by shard bool, slowest int32
//! response v0:  shards int32,
//!               rows [shard int32 (-1: all), api int16, stage int8 (-1: the whole), count int64, then in nanoseconds
//!                     mean, p50, p90, p99, p99.9, max: int64],
//!               slowest [shard int32, api int16, version int16, correlation id int32, client id string, peer string,
//!                     ended: nanoseconds before the answer int64, stages [stage int8, nanoseconds int64],
//!                     flush bool [shard int32, group int64 (-1: straight to the segment), partitions int32, bytes int64,
//!                     nanoseconds int64], stall: task nullable string, nanoseconds int64]
//! ```
//! Stages have the numbers of [`Stage`](crate::latency::Stage). It is not in ApiVersions: Kafka's clients would print a key that they do not know.

use super::api::ApiKey;
use super::own::{Result, enough, get_all, get_text, put_text, version_zero};
use kafka_protocol::protocol::buf::{ByteBuf, ByteBufMut};
use kafka_protocol::protocol::{Decodable, Encodable, Request};

/// What is asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeLatencyRequest {
    /// Of all requests since the start; else of the last seconds.
    pub since_start: bool,
    /// Each shard by itself, too.
    pub by_shard: bool,
    /// So many of the slowest.
    pub slowest: i32,
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeLatencyResponse {
    /// How many shards there are.
    pub shards: i32,
    /// By shard, API, stage.
    pub rows: Vec<LatencyRow>,
    /// Slowest first.
    pub slowest: Vec<SlowRow>,
}

/// How long one stage of one API takes, in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LatencyRow {
    /// Which shard's connections; -1 for all.
    pub shard: i32,
    /// The API's number.
    pub api: i16,
    /// The stage's number; -1 for the whole.
    pub stage: i8,
    /// How many requests had it.
    pub count: i64,
    /// Mean, median, p90, p99, p99.9, longest.
    pub nanos: [i64; 6],
}

/// A slow request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlowRow {
    /// Its connection's shard.
    pub shard: i32,
    /// Its API's number.
    pub api: i16,
    /// Its version.
    pub version: i16,
    /// Its correlation id.
    pub correlation_id: i32,
    /// What the client calls itself.
    pub client_id: String,
    /// Where it came from.
    pub peer: String,
    /// How long before the answer it ended, in nanoseconds.
    pub ended_ago: i64,
    /// Stages by number, in the order of its way, and their nanoseconds.
    pub stages: Vec<(i8, i64)>,
    /// What it waited on.
    pub flush: Option<FlushRow>,
    /// A task that held its core meanwhile, and for how many nanoseconds.
    pub stall: Option<(String, i64)>,
}

/// A flush that a request waited on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlushRow {
    /// Whose.
    pub shard: i32,
    /// Which group commit of the shard; -1 for a write straight to the segment.
    pub group: i64,
    /// Partitions in it.
    pub partitions: i32,
    /// Bytes written.
    pub bytes: i64,
    /// How long it took, in nanoseconds.
    pub nanos: i64,
}

version_zero!(DescribeLatencyRequest => 1, DescribeLatencyResponse => 0);

impl Request for DescribeLatencyRequest {
    const KEY: i16 = ApiKey::DescribeLatency as i16;
    type Response = DescribeLatencyResponse;
}

impl Encodable for DescribeLatencyRequest {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        buf.put_u8(u8::from(self.since_start));
        buf.put_u8(u8::from(self.by_shard));
        buf.put_i32(self.slowest);
        Ok(())
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        Ok(6)
    }
}

impl Decodable for DescribeLatencyRequest {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        enough(buf, 6)?;
        let (since_start, by_shard) = (buf.get_u8() != 0, buf.get_u8() != 0);
        Ok(Self { since_start, by_shard, slowest: buf.get_i32() })
    }
}

/// Bytes of a row.
const ROW: usize = 4 + 2 + 1 + 8 + 6 * 8;
/// Bytes of a slow request, at least.
const SLOW: usize = 4 + 2 + 2 + 4 + 2 + 2 + 8 + 4 + 1 + 2 + 8;
/// Bytes of a flush.
const FLUSH: usize = 4 + 8 + 4 + 8 + 8;

impl Encodable for DescribeLatencyResponse {
    fn encode<B: ByteBufMut>(&self, buf: &mut B, _version: i16) -> Result<()> {
        buf.put_i32(self.shards);
        buf.put_i32(i32::try_from(self.rows.len())?);
        for row in &self.rows {
            buf.put_i32(row.shard);
            buf.put_i16(row.api);
            buf.put_i8(row.stage);
            buf.put_i64(row.count);
            row.nanos.iter().for_each(|nanos| buf.put_i64(*nanos));
        }
        buf.put_i32(i32::try_from(self.slowest.len())?);
        self.slowest.iter().try_for_each(|slow| slow.encode(buf))
    }

    fn compute_size(&self, _version: i16) -> Result<usize> {
        let slow = |slow: &SlowRow| {
            let texts = slow.client_id.len() + slow.peer.len() + slow.stall.as_ref().map_or(0, |(task, _)| task.len());
            SLOW + texts + 9 * slow.stages.len() + slow.flush.as_ref().map_or(0, |_| FLUSH)
        };
        Ok(4 + 4 + ROW * self.rows.len() + 4 + self.slowest.iter().map(slow).sum::<usize>())
    }
}

impl Decodable for DescribeLatencyResponse {
    fn decode<B: ByteBuf>(buf: &mut B, _version: i16) -> Result<Self> {
        enough(buf, 4)?;
        let shards = buf.get_i32();
        let rows = get_all(buf, ROW, |buf| {
            enough(buf, ROW)?;
            let (shard, api, stage, count) = (buf.get_i32(), buf.get_i16(), buf.get_i8(), buf.get_i64());
            Ok(LatencyRow { shard, api, stage, count, nanos: std::array::from_fn(|_| buf.get_i64()) })
        })?;
        Ok(Self { shards, rows, slowest: get_all(buf, SLOW, SlowRow::decode)? })
    }
}

impl SlowRow {
    fn encode<B: ByteBufMut>(&self, buf: &mut B) -> Result<()> {
        buf.put_i32(self.shard);
        buf.put_i16(self.api);
        buf.put_i16(self.version);
        buf.put_i32(self.correlation_id);
        put_text(buf, Some(&self.client_id))?;
        put_text(buf, Some(&self.peer))?;
        buf.put_i64(self.ended_ago);
        buf.put_i32(i32::try_from(self.stages.len())?);
        for (stage, nanos) in &self.stages {
            buf.put_i8(*stage);
            buf.put_i64(*nanos);
        }
        buf.put_u8(u8::from(self.flush.is_some()));
        if let Some(flush) = &self.flush {
            buf.put_i32(flush.shard);
            buf.put_i64(flush.group);
            buf.put_i32(flush.partitions);
            buf.put_i64(flush.bytes);
            buf.put_i64(flush.nanos);
        }
        put_text(buf, self.stall.as_ref().map(|(task, _)| task.as_str()))?;
        buf.put_i64(self.stall.as_ref().map_or(0, |(_, nanos)| *nanos));
        Ok(())
    }

    fn decode<B: ByteBuf>(buf: &mut B) -> Result<Self> {
        enough(buf, 12)?;
        let (shard, api, version, correlation_id) = (buf.get_i32(), buf.get_i16(), buf.get_i16(), buf.get_i32());
        let (client_id, peer) = (get_text(buf)?.unwrap_or_default(), get_text(buf)?.unwrap_or_default());
        enough(buf, 8)?;
        let ended_ago = buf.get_i64();
        let stages = get_all(buf, 9, |buf| {
            enough(buf, 9)?;
            Ok((buf.get_i8(), buf.get_i64()))
        })?;
        enough(buf, 1)?;
        let flush = if buf.get_u8() == 0 {
            None
        } else {
            enough(buf, FLUSH)?;
            let (shard, group, partitions) = (buf.get_i32(), buf.get_i64(), buf.get_i32());
            Some(FlushRow { shard, group, partitions, bytes: buf.get_i64(), nanos: buf.get_i64() })
        };
        let task = get_text(buf)?;
        enough(buf, 8)?;
        let nanos = buf.get_i64();
        let stall = task.map(|task| (task, nanos));
        Ok(Self { shard, api, version, correlation_id, client_id, peer, ended_ago, stages, flush, stall })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{Bytes, BytesMut};
    use proptest::prelude::*;

    fn back<T: Encodable + Decodable>(message: &T) -> T {
        let mut bytes = BytesMut::new();
        message.encode(&mut bytes, 0).expect("encodes");
        assert_eq!(bytes.len(), message.compute_size(0).expect("a size"));
        T::decode(&mut bytes.freeze(), 0).expect("decodes")
    }

    proptest! {
        #[test]
        fn what_was_said_is_heard(
            since_start: bool, by_shard: bool, slowest: i32, nanos: [i64; 6], text in ".{0,20}",
            stages in prop::collection::vec(any::<(i8, i64)>(), 0..9), number: i64,
        ) {
            let request = DescribeLatencyRequest { since_start, by_shard, slowest };
            prop_assert_eq!(back(&request), request);
            let row = LatencyRow { shard: slowest, api: 1, stage: -1, count: number, nanos };
            let flush = FlushRow { shard: 1, group: number, partitions: slowest, bytes: number, nanos: number };
            let slow = SlowRow {
                shard: 1, api: 2, version: 3, correlation_id: slowest, client_id: text.clone(), peer: text.clone(),
                ended_ago: number, stages, flush: by_shard.then_some(flush),
                stall: since_start.then(|| (text.clone(), number)),
            };
            let response = DescribeLatencyResponse { shards: slowest, rows: vec![row; 2], slowest: vec![slow; 3] };
            prop_assert_eq!(back(&response), response);
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = DescribeLatencyRequest::decode(&mut Bytes::from(bytes.clone()), 0);
            let _ = DescribeLatencyResponse::decode(&mut Bytes::from(bytes), 0);
        }
    }
}
