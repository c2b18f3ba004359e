//! Producing and fetching, for tools: one request at a time, by partition.

use super::{Client, ClientError, ClientResult, Cluster};
use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::produce_request::{PartitionProduceData, TopicProduceData};
use kafka_protocol::messages::{ApiKey, BrokerId, FetchRequest, ListOffsetsRequest, ProduceRequest, TopicName};
use kafka_protocol::protocol::StrBytes;
use kafka_protocol::records::{
    Compression, Record, RecordBatchDecoder, RecordBatchEncoder, RecordEncodeOptions, TimestampType,
};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// By name: the last versions before topic ids, which every broker of the last years serves.
const PRODUCE_VERSION: i16 = 12;
const FETCH_VERSION: i16 = 12;
const LIST_OFFSETS_VERSION: i16 = 7;

/// A record to send.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewRecord {
    /// The key.
    pub key: Option<Bytes>,
    /// The value; none is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<(String, Option<Bytes>)>,
    /// Milliseconds since the epoch.
    pub timestamp_ms: i64,
}

/// What a partition answered to a fetch.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The partition.
    pub partition: i32,
    /// Kafka's error code; 0 for none.
    pub error_code: i16,
    /// The high watermark.
    pub high_watermark: i64,
    /// Records from the offset asked for.
    pub records: Vec<Record>,
    /// The offset after the last batch that came; none if nothing came.
    pub next_offset: Option<i64>,
}

/// Where to look in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OffsetSpec {
    /// The first offset.
    Earliest,
    /// The offset after the last record.
    Latest,
    /// The first record at or after this time, in milliseconds since the epoch.
    At(i64),
}

fn topic_name(topic: &str) -> TopicName {
    TopicName(StrBytes::from_string(topic.to_owned()))
}

fn to_wire(record: &NewRecord, index: usize) -> Record {
    let header = |(k, v): &(String, Option<Bytes>)| (StrBytes::from_string(k.clone()), v.clone());
    Record {
        transactional: false,
        control: false,
        delete_horizon: false,
        partition_leader_epoch: -1,
        producer_id: -1,
        producer_epoch: -1,
        timestamp_type: TimestampType::Creation,
        offset: index as i64,
        // The encoder makes a new batch where the sequence does not go with the offset.
        sequence: index as i32 - 1,
        timestamp: record.timestamp_ms,
        key: record.key.clone(),
        value: record.value.clone(),
        headers: record.headers.iter().map(header).collect(),
    }
}

/// Aborted transactions of a fetched range: which records are theirs.
struct Aborted {
    /// First offsets and producers, the first one last.
    coming: Vec<(i64, i64)>,
    /// Producers whose transaction, aborted in the end, is open where the reader is.
    open: BTreeSet<i64>,
}

impl Aborted {
    fn new(mut aborted: Vec<(i64, i64)>) -> Self {
        aborted.sort_by_key(|(first_offset, _)| Reverse(*first_offset));
        Self { coming: aborted, open: BTreeSet::new() }
    }

    /// Asked of each record in the order of the log.
    fn holds(&mut self, record: &Record) -> bool {
        while let Some((_, producer)) = self.coming.pop_if(|(first_offset, _)| *first_offset <= record.offset) {
            self.open.insert(producer);
        }
        if record.control {
            self.open.remove(&record.producer_id);
            return false;
        }
        record.transactional && self.open.contains(&record.producer_id)
    }
}

impl Client {
    fn malformed(&self, api: ApiKey, what: impl ToString) -> ClientError {
        ClientError::Malformed { address: self.address.clone(), api, what: what.to_string() }
    }

    /// Sends records to one partition as one batch and waits for the answer: the first record's offset, or Kafka's error
    /// code and message. With `acks` 0 nothing is answered and the offset is -1.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn produce(
        &mut self,
        topic: &str,
        partition: i32,
        records: &[NewRecord],
        compression: Compression,
        acks: i16,
    ) -> ClientResult<Result<i64, (i16, String)>> {
        let records: Vec<Record> = records.iter().enumerate().map(|(i, r)| to_wire(r, i)).collect();
        let mut batch = BytesMut::new();
        RecordBatchEncoder::encode(&mut batch, records.iter(), &RecordEncodeOptions { version: 2, compression })
            .map_err(|e| self.malformed(ApiKey::Produce, e))?;
        let data = PartitionProduceData::default().with_index(partition).with_records(Some(batch.freeze()));
        let topic = TopicProduceData::default().with_name(topic_name(topic)).with_partition_data(vec![data]);
        let ask = ProduceRequest::default().with_acks(acks).with_timeout_ms(30_000).with_topic_data(vec![topic]);
        let version = self.version_of::<ProduceRequest>()?.min(PRODUCE_VERSION);
        if acks == 0 {
            self.send_only(&ask, version)?;
            return Ok(Ok(-1));
        }
        let answer = self.call_version(&ask, version)?;
        let found = answer.responses.iter().flat_map(|t| &t.partition_responses).next();
        let found = found.ok_or_else(|| self.malformed(ApiKey::Produce, "no partition in the answer"))?;
        let message = || found.error_message.as_ref().map(ToString::to_string).unwrap_or_default();
        Ok(if found.error_code == 0 { Ok(found.base_offset) } else { Err((found.error_code, message())) })
    }

    /// From now on fetches give what is of no transaction, or of one that was committed, and logs end at their last stable
    /// offset (`read_committed`); or everything again.
    pub fn read_committed(&mut self, yes: bool) {
        self.committed = yes;
    }

    /// Fetches from the given offsets; waits up to `wait` for the first byte.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn fetch(&mut self, topic: &str, offsets: &BTreeMap<i32, i64>, wait: Duration) -> ClientResult<Vec<Fetched>> {
        let partition = |(p, offset): (&i32, &i64)| {
            FetchPartition::default()
                .with_partition(*p)
                .with_current_leader_epoch(-1)
                .with_fetch_offset(*offset)
                .with_last_fetched_epoch(-1)
                .with_log_start_offset(-1)
                .with_partition_max_bytes(1 << 20)
        };
        let wanted = FetchTopic::default()
            .with_topic(topic_name(topic))
            .with_partitions(offsets.iter().map(partition).collect());
        let ask = FetchRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_max_wait_ms(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))
            .with_min_bytes(1)
            .with_max_bytes(50 << 20)
            .with_isolation_level(i8::from(self.committed))
            .with_session_epoch(-1)
            .with_topics(vec![wanted]);
        let version = self.version_of::<FetchRequest>()?.min(FETCH_VERSION);
        let answer = self.call_version(&ask, version)?;
        let mut fetched = Vec::new();
        for p in answer.responses.iter().flat_map(|t| &t.partitions) {
            let from = offsets.get(&p.partition_index).copied().unwrap_or(0);
            let aborted = p.aborted_transactions.as_deref().unwrap_or_default();
            let aborted = aborted.iter().map(|txn| (txn.first_offset, txn.producer_id.0)).collect();
            let (records, next_offset) = self.decode(p.records.clone().unwrap_or_default(), from, aborted)?;
            fetched.push(Fetched {
                partition: p.partition_index,
                error_code: p.error_code,
                high_watermark: p.high_watermark,
                records,
                next_offset,
            });
        }
        Ok(fetched)
    }

    /// Whole batches only: the last one may be cut off, and the first may begin before `from`.
    fn decode(&self, bytes: Bytes, from: i64, aborted: Vec<(i64, i64)>) -> ClientResult<(Vec<Record>, Option<i64>)> {
        let (mut whole, mut next) = (0, None);
        while let Some(header) = bytes.get(whole..whole + 27) {
            let field =
                |range: std::ops::Range<usize>| header[range].iter().fold(0_i64, |n, b| (n << 8) | i64::from(*b));
            let length = usize::try_from(field(8..12)).unwrap_or(usize::MAX).saturating_add(12);
            if bytes.len() - whole < length {
                break;
            }
            next = Some(field(0..8) + field(23..27) + 1);
            whole += length;
        }
        let mut bytes = bytes.slice(..whole);
        let sets = if bytes.is_empty() {
            Vec::new()
        } else {
            RecordBatchDecoder::decode_all(&mut bytes).map_err(|e| self.malformed(ApiKey::Fetch, e))?
        };
        let mut aborted = Aborted::new(aborted);
        let all = sets.into_iter().flat_map(|s| s.records).filter(|record| !aborted.holds(record));
        let records = all.filter(|r| r.offset >= from && !r.control).collect();
        Ok((records, next))
    }

    /// Offsets of some partitions, by partition; or Kafka's error code.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn offsets(
        &mut self,
        topic: &str,
        partitions: &[i32],
        spec: OffsetSpec,
    ) -> ClientResult<BTreeMap<i32, Result<i64, i16>>> {
        let timestamp = match spec {
            OffsetSpec::Earliest => -2,
            OffsetSpec::Latest => -1,
            OffsetSpec::At(ms) => ms,
        };
        let partition = |p: &i32| ListOffsetsPartition::default().with_partition_index(*p).with_timestamp(timestamp);
        let wanted = ListOffsetsTopic::default()
            .with_name(topic_name(topic))
            .with_partitions(partitions.iter().map(partition).collect());
        let ask = ListOffsetsRequest::default()
            .with_replica_id(BrokerId(-1))
            .with_isolation_level(i8::from(self.committed))
            .with_topics(vec![wanted]);
        let version = self.version_of::<ListOffsetsRequest>()?.min(LIST_OFFSETS_VERSION);
        let answer = self.call_version(&ask, version)?;
        let found = answer.topics.iter().flat_map(|t| &t.partitions);
        let outcome = |code: i16, offset: i64| if code == 0 { Ok(offset) } else { Err(code) };
        Ok(found.map(|p| (p.partition_index, outcome(p.error_code, p.offset))).collect())
    }

    /// Metadata of one topic, which the broker may create on the way if it is set to.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn metadata_or_create(&mut self, topic: &str) -> ClientResult<Cluster> {
        self.metadata_with(Some(&[topic]), true)
    }
}

/// The partition of a key as Kafka's own clients choose it: murmur2 of the key.
#[must_use]
pub fn partition_of_key(key: &[u8], partitions: usize) -> i32 {
    ((murmur2(key) & 0x7fff_ffff) as usize % partitions.max(1)) as i32
}

/// MurmurHash2 (Austin Appleby, public domain) with the seed of Kafka's clients.
fn murmur2(data: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    let mut h = 0x9747_b28c_u32 ^ data.len() as u32;
    let mut chunks = data.chunks_exact(4);
    for chunk in &mut chunks {
        let mut k = u32::from_le_bytes(chunk.try_into().expect("4 bytes")).wrapping_mul(M);
        k ^= k >> 24;
        h = h.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        for (i, byte) in rest.iter().enumerate() {
            h ^= u32::from(*byte) << (8 * i);
        }
        h = h.wrapping_mul(M);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(M);
    h ^ (h >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_go_where_kafkas_clients_send_them() {
        // Values of Kafka's Utils.murmur2, as its clients' own tests list them.
        for (key, hash) in
            [("21", -973_932_308_i32), ("foobar", -790_332_482), ("a-little-bit-long-string", -985_981_536)]
        {
            assert_eq!(murmur2(key.as_bytes()) as i32, hash, "{key}");
        }
    }

    #[test]
    fn a_batch_of_ours_is_one_batch() {
        let records: Vec<Record> = (0..5)
            .map(|i| to_wire(&NewRecord { value: Some(Bytes::from_static(b"x")), ..Default::default() }, i))
            .collect();
        let mut batch = BytesMut::new();
        let options = RecordEncodeOptions { version: 2, compression: Compression::None };
        RecordBatchEncoder::encode(&mut batch, records.iter(), &options).expect("encodes");
        let info = RecordBatchDecoder::decode_batch_info(&mut batch.freeze()).expect("decodes");
        assert_eq!(info.iter().map(|b| b.record_count).collect::<Vec<_>>(), [5]);
    }
}
