//! A producer's batches on their way into a log: checked, completed, and compressed as the topic wants it.
//!
//! All of it is a function of the bytes, the topic's settings and the time, so that where it takes long
//! ([`Intake::is_heavy`]) a helper thread can do it. Offsets, sequences and log-append times come after it.
//!
//! ```text
//! compression.type   the batch has        what is stored
//! producer           any codec            the batch as it came
//! gzip               gzip                 the batch as it came, whatever its level
//! gzip               none or another one  its records, compressed by gzip with compression.gzip.level
//! uncompressed       zstd                 its records as they are
//! ```

use super::batch::{self, BatchError, Compression, Record, RecordBatchHeader, ValidationRules};
use super::compression::{self, Compressor};
use super::log_config::{Encoding, LogConfig, TimestampType};
use crate::error_code::ErrorCode;
use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;
use std::borrow::Cow;
use std::io::Write;
use std::ops::Range;

/// One record's refusal within a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// Its place in the batch.
    pub batch_index: i32,
    /// What is wrong with it.
    pub message: String,
}

/// Batches that are not taken; nothing of them goes into the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refused {
    /// Kafka's code.
    pub code: ErrorCode,
    /// What was expected and what came.
    pub message: String,
    /// The records at fault, where they are known.
    pub record_errors: Vec<RecordError>,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), record_errors: Vec::new() }
    }
}

impl From<BatchError> for Refused {
    fn from(error: BatchError) -> Self {
        Self::new(error.error_code(), error.to_string())
    }
}

/// Batches as they are stored, but for offsets, leader epoch and log-append time.
#[derive(Debug)]
pub struct Accepted {
    /// The batches, back to back.
    pub records: BytesMut,
    /// What each is, and where.
    pub batches: SmallVec<[(RecordBatchHeader, Range<usize>); 1]>,
}

/// What batches are measured by.
#[derive(Clone, Copy, Debug)]
pub struct Intake<'a> {
    /// The topic's settings.
    pub config: &'a LogConfig,
    /// The topic's name, for messages.
    pub topic: &'a str,
    /// The partition's number, for messages.
    pub partition: i32,
    /// The broker's time in milliseconds.
    pub now_ms: i64,
    /// This node made the batches: they are stored as they are, and may be a coordinator's, without sequence numbers.
    pub own: bool,
}

impl Intake<'_> {
    /// True where [`Intake::accept`] has to compress or to decompress: not on a thread that others wait for.
    #[must_use]
    pub fn is_heavy(&self, records: &[u8]) -> bool {
        batch::batches(records).map_while(Result::ok).any(|(header, _)| {
            let compressed = header.compression().is_ok_and(|codec| codec != Compression::None);
            self.recoding(&header).is_some() || (compressed && (self.reads_records() || self.untimely(&header)))
        })
    }

    /// Checks all batches; gives them as they are to be stored.
    ///
    /// # Errors
    /// The first thing that is wrong, with the records that are at fault.
    pub fn accept(&self, mut records: BytesMut) -> Result<Accepted, Refused> {
        let rules = self.rules();
        let mut batches = SmallVec::new();
        let mut anew: Option<Vec<u8>> = None;
        let mut at = 0;
        while at < records.len() {
            let (mut header, plain) = self.check(&mut records[at..], &rules)?;
            let range = at..at + header.size_in_bytes();
            at = range.end;
            if let Some(encoding) = self.recoding(&header) {
                let start = anew.as_ref().map_or(range.start, Vec::len);
                let out = anew.get_or_insert_with(|| records[..range.start].to_vec());
                header = recode(&header, &records[range], plain.as_deref(), encoding, out)?;
                self.check_size(&header)?;
                batches.push((header, start..out.len()));
            } else {
                self.check_size(&header)?;
                let start = anew.as_ref().map_or(range.start, Vec::len);
                anew.iter_mut().for_each(|out| out.extend_from_slice(&records[range.clone()]));
                batches.push((header, start..start + range.len()));
            }
        }
        if batches.is_empty() {
            return Err(Refused::new(ErrorCode::InvalidRecord, "the request holds no batch for this partition"));
        }
        if let Some(mut anew) = anew {
            // It is kept in memory for readers: without what the encoder had to spare.
            anew.shrink_to_fit();
            records = BytesMut::from(Bytes::from(anew));
        }
        Ok(Accepted { records, batches })
    }

    fn rules(&self) -> ValidationRules {
        ValidationRules {
            max_bytes: self.config.max_message_bytes,
            timestamp_type: self.config.message_timestamp_type,
            before_max_ms: self.config.message_timestamp_before_max_ms,
            after_max_ms: self.config.message_timestamp_after_max_ms,
            now_ms: self.now_ms,
        }
    }

    /// How a batch is compressed anew, if it is. Markers are stored as they come, as in Kafka.
    fn recoding(&self, header: &RecordBatchHeader) -> Option<Encoding> {
        let wanted = self.config.compression.filter(|_| !self.own && !header.is_control())?;
        header.compression().is_ok_and(|codec| codec != wanted.codec).then_some(wanted)
    }

    /// Single records have to be looked at: for their keys, or because the header tells only the largest time.
    fn reads_records(&self) -> bool {
        self.config.compacted || (self.judges_times() && self.config.message_timestamp_before_max_ms < i64::MAX)
    }

    fn judges_times(&self) -> bool {
        !self.own && self.config.message_timestamp_type == TimestampType::CreateTime
    }

    /// The header's largest timestamp is out of bounds, or missing.
    fn untimely(&self, header: &RecordBatchHeader) -> bool {
        self.judges_times() && (!self.is_timely(header.max_timestamp) || header.max_timestamp < header.base_timestamp)
    }

    /// A time is within `message.timestamp.before.max.ms` and `message.timestamp.after.max.ms`; -1 is none.
    fn is_timely(&self, timestamp: i64) -> bool {
        let early = self.now_ms.saturating_sub(timestamp) > self.config.message_timestamp_before_max_ms;
        let late = timestamp.saturating_sub(self.now_ms) > self.config.message_timestamp_after_max_ms;
        timestamp == -1 || !(early || late)
    }

    fn check_size(&self, header: &RecordBatchHeader) -> Result<(), Refused> {
        let (size, max) = (header.size_in_bytes(), self.config.max_message_bytes);
        if size > max {
            return Err(BatchError::TooLarge { size, max }.into());
        }
        if size as u64 > self.config.segment_bytes {
            let message = format!("batch of {size} bytes, segment.bytes is {}", self.config.segment_bytes);
            return Err(Refused::new(ErrorCode::RecordListTooLarge, message));
        }
        Ok(())
    }

    /// Checks the first batch of `bytes`, and its records where that is asked for; those that had to be decompressed
    /// come along.
    fn check(
        &self,
        bytes: &mut [u8],
        rules: &ValidationRules,
    ) -> Result<(RecordBatchHeader, Option<Vec<u8>>), Refused> {
        // The header's largest timestamp is judged with the single records, which the answer names.
        let lenient = ValidationRules { before_max_ms: i64::MAX, after_max_ms: i64::MAX, ..*rules };
        let mut header =
            if self.own { batch::validate_own(bytes, &lenient) } else { batch::validate(bytes, &lenient) }?;
        let batch = &mut bytes[..header.size_in_bytes()];
        let incomplete = header.max_timestamp < header.base_timestamp;
        if !(incomplete || self.reads_records() || self.untimely(&header) || self.recoding(&header).is_some()) {
            return Ok((header, None));
        }
        let found = self.check_records(&header, batch)?;
        // Some clients (sarama) leave a batch's largest timestamp out, and it is what records are found by.
        if self.judges_times() && found.largest != header.max_timestamp {
            batch::set_max_timestamp(batch, found.largest);
            header = batch::parse_header(batch)?;
        }
        Ok((header, found.plain))
    }

    /// Looks at each record: a number and offsets as the header says, a key where the topic is compacted, a time within
    /// the topic's bounds.
    fn check_records(&self, header: &RecordBatchHeader, batch: &[u8]) -> Result<Found, Refused> {
        let body = batch::plain_body(header, batch, compression::DECOMPRESSED_BYTES_MAX)?;
        let (mut count, mut in_order, mut largest) = (0_i32, true, -1);
        let (mut errors, mut untimely) = (Vec::new(), false);
        let rest = batch::for_each_plain(header, &body, |record| {
            in_order &= record.offset.0 == header.base_offset.0 + i64::from(count);
            largest = largest.max(record.timestamp);
            if let Some((message, time)) = self.fault(record) {
                untimely |= time;
                errors.push(RecordError { batch_index: count, message });
            }
            count += 1;
        })?;
        if !in_order || count != header.record_count || !rest.is_empty() {
            let message = format!(
                "expected {} records with offsets in a row, found {count} and {} bytes after them",
                header.record_count,
                rest.len()
            );
            return Err(Refused::new(ErrorCode::InvalidRecord, message));
        }
        if !errors.is_empty() {
            let (code, message) = if untimely {
                let message = "One or more records have been rejected due to invalid timestamp".to_owned();
                (ErrorCode::InvalidTimestamp, message)
            } else {
                let count = errors.len();
                let message = format!("One or more records have been rejected due to {count} record errors in total");
                (ErrorCode::InvalidRecord, message)
            };
            return Err(Refused { code, message, record_errors: errors });
        }
        let plain = match body {
            Cow::Owned(plain) => Some(plain),
            Cow::Borrowed(_) => None,
        };
        Ok(Found { largest, plain })
    }

    /// What is wrong with a record, and whether that is its time.
    fn fault(&self, record: &Record<'_>) -> Option<(String, bool)> {
        if self.config.compacted && record.key.is_none() {
            let place = format!("{}-{}", self.topic, self.partition);
            let message = format!("Compacted topic cannot accept message without key in topic partition {place}.");
            return Some((message, false));
        }
        if self.judges_times() && !self.is_timely(record.timestamp) {
            let from = self.now_ms.saturating_sub(self.config.message_timestamp_before_max_ms);
            let to = self.now_ms.saturating_add(self.config.message_timestamp_after_max_ms);
            let (time, offset) = (record.timestamp, record.offset);
            let message = format!(
                "Timestamp {time} of message with offset {offset} is out of range. The timestamp should be within [{from}, {to}]"
            );
            return Some((message, true));
        }
        None
    }
}

/// What looking at all records of a batch gives.
struct Found {
    largest: i64,
    /// The records, where they had to be decompressed.
    plain: Option<Vec<u8>>,
}

/// Appends the batch to `out` with its records in another codec: everything else of it stays.
fn recode(
    header: &RecordBatchHeader,
    batch: &[u8],
    plain: Option<&[u8]>,
    encoding: Encoding,
    out: &mut Vec<u8>,
) -> Result<RecordBatchHeader, Refused> {
    let start = out.len();
    let body = plain.unwrap_or_else(|| &batch[batch::HEADER_LEN..]);
    let mut compressed = Vec::with_capacity(batch::HEADER_LEN + batch.len().min(body.len()));
    compressed.extend_from_slice(&batch[..batch::HEADER_LEN]);
    let failed =
        |e: std::io::Error| Refused::new(ErrorCode::UnknownServerError, format!("records do not compress: {e}"));
    let mut compressor = Compressor::with_level(encoding.codec, encoding.level, compressed).map_err(failed)?;
    compressor.write_all(body).map_err(failed)?;
    let mut compressed = compressor.finish().map_err(failed)?;
    batch::finish(&mut compressed, encoding.codec, header)?;
    let header = batch::parse_header(&compressed)?;
    if start == 0 {
        *out = compressed;
    } else {
        out.extend_from_slice(&compressed);
    }
    Ok(header)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
    use crate::log::batch::BatchBuilder;
    use crate::log::log_config::TimestampType;
    use proptest::prelude::*;

    const NOW: i64 = 1_700_000_000_000;
    const CODECS: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    fn intake(config: &LogConfig) -> Intake<'_> {
        Intake { config, topic: "t", partition: 3, now_ms: NOW, own: false }
    }

    /// A record of key, value and time before [`NOW`].
    type Sent<'a> = (Option<&'a [u8]>, &'a [u8], i64);
    /// Offset, time, key, value.
    type Stored = (i64, i64, Option<Vec<u8>>, Option<Vec<u8>>);

    fn built(codec: Compression, records: &[Sent<'_>]) -> BytesMut {
        let producer = (ProducerId(7), ProducerEpoch(1), 40);
        let mut builder = BatchBuilder::default().compression(codec).producer(producer.0, producer.1, producer.2);
        for (key, value, before) in records {
            builder.push(NOW - before, *key, Some(value));
        }
        BytesMut::from(&builder.build(Offset(0), LeaderEpoch(-1))[..])
    }

    fn read(bytes: &[u8]) -> Vec<Stored> {
        let mut found = Vec::new();
        for item in batch::batches(bytes) {
            let (header, range) = item.expect("whole");
            batch::check_crc(&header, &bytes[range.clone()]).expect("its CRC is right");
            batch::for_each_record(&header, &bytes[range], 1 << 20, |r| {
                found.push((r.offset.0, r.timestamp, r.key.map(<[u8]>::to_vec), r.value.map(<[u8]>::to_vec)));
            })
            .expect("records");
        }
        found
    }

    fn encoding(codec: Compression) -> LogConfig {
        LogConfig { compression: Some(Encoding { codec, level: None }), ..LogConfig::default() }
    }

    proptest! {
        #[test]
        fn whatever_codec_comes_in_the_topics_goes_out_and_nothing_else_changes(
            values in prop::collection::vec((prop::option::of("[a-z]{0,9}"), "[a-c]{0,200}", 0..50_000_i64), 1..30),
            from in 0..5_usize,
            to in 0..5_usize,
        ) {
            let records: Vec<_> = values.iter()
                .map(|(k, v, t)| (k.as_ref().map(String::as_bytes), v.as_bytes(), *t)).collect();
            let sent = built(CODECS[from], &records);
            let before = batch::parse_header(&sent).expect("a header");
            let config = encoding(CODECS[to]);
            prop_assert_eq!(intake(&config).is_heavy(&sent), from != to);
            let accepted = intake(&config).accept(sent.clone()).expect("taken");
            let [(header, range)] = &accepted.batches[..] else { panic!("one batch") };
            prop_assert_eq!(range.clone(), 0..accepted.records.len());
            prop_assert_eq!(header, &batch::parse_header(&accepted.records).expect("a header"));
            prop_assert_eq!(header.compression().expect("known"), CODECS[to]);
            let rest = |h: &RecordBatchHeader| RecordBatchHeader { batch_length: 0, crc: 0, attributes: 0, ..*h };
            prop_assert_eq!(rest(header), rest(&before));
            prop_assert_eq!(read(&accepted.records), read(&sent));
            if from == to {
                prop_assert_eq!(&accepted.records, &sent, "as it came");
            }
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), to in 0..5_usize) {
            let config = LogConfig { compacted: true, ..encoding(CODECS[to]) };
            let _ = intake(&config).is_heavy(&bytes);
            let _ = intake(&config).accept(BytesMut::from(&bytes[..]));
        }

        #[test]
        fn damaged_records_with_a_right_checksum_do_not_panic(
            from in 0..5_usize, to in 0..5_usize, at in 0..400_usize, bytes in prop::collection::vec(any::<u8>(), 1..9),
        ) {
            let mut sent = built(CODECS[from], &[(Some(b"k"), &[7; 300], 0), (None, b"v", 5)]);
            let at = batch::HEADER_LEN + at % (sent.len() - batch::HEADER_LEN);
            for (to, from) in sent[at..].iter_mut().zip(&bytes) {
                *to = *from;
            }
            batch::write_crc(&mut sent);
            let _ = intake(&encoding(CODECS[to])).accept(sent);
        }
    }

    #[test]
    fn several_batches_keep_their_order_whichever_are_compressed_anew() {
        let one = built(Compression::Gzip, &[(None, b"first", 1)]);
        let two = built(Compression::None, &[(None, b"second", 2), (None, b"third", 3)]);
        let three = built(Compression::Gzip, &[(None, b"fourth", 4)]);
        let sent = BytesMut::from(&[&one[..], &two, &three].concat()[..]);
        let accepted = intake(&encoding(Compression::Gzip)).accept(sent.clone()).expect("taken");
        assert_eq!(accepted.batches.len(), 3);
        let mut end = 0;
        for (header, range) in &accepted.batches {
            assert_eq!((range.start, header.size_in_bytes()), (end, range.len()));
            end = range.end;
        }
        assert_eq!(end, accepted.records.len());
        assert_eq!(read(&accepted.records), read(&sent));
        assert!(accepted.records.starts_with(&one) && accepted.records.ends_with(&three));
    }

    #[test]
    fn what_is_compressed_anew_must_fit_the_topic_too() {
        let sent = built(Compression::Zstd, &[(None, &[0; 5000], 0)]);
        let plain = LogConfig { max_message_bytes: 4000, ..encoding(Compression::None) };
        assert!(sent.len() < 4000);
        let refused = intake(&plain).accept(sent.clone()).expect_err("larger than the topic takes");
        assert_eq!(refused.code, ErrorCode::MessageTooLarge);
        let segment = LogConfig { segment_bytes: 4000, ..encoding(Compression::None) };
        assert_eq!(intake(&segment).accept(sent.clone()).expect_err("too large").code, ErrorCode::RecordListTooLarge);
        let small = LogConfig { max_message_bytes: 50, ..LogConfig::default() };
        assert_eq!(intake(&small).accept(sent).expect_err("as it came").code, ErrorCode::MessageTooLarge);
    }

    #[test]
    fn bombs_are_refused() {
        let bomb = vec![0; compression::DECOMPRESSED_BYTES_MAX];
        let sent = built(Compression::Zstd, &[(None, &bomb, 0)]);
        assert!(sent.len() < 100_000, "{}", sent.len());
        let refused = intake(&encoding(Compression::Lz4)).accept(sent).expect_err("refused");
        assert!(refused.message.contains("uncompressed"), "{refused}");
        assert_eq!(refused.code, ErrorCode::InvalidRecord);
    }

    #[test]
    fn every_record_has_its_time_judged() {
        let config = LogConfig {
            message_timestamp_before_max_ms: 1000,
            message_timestamp_after_max_ms: 50,
            ..LogConfig::default()
        };
        for codec in CODECS {
            let sent = built(codec, &[(None, b"a", 0), (None, b"b", 1001), (None, b"c", 1000), (None, b"d", -51)]);
            let refused = intake(&config).accept(sent.clone()).expect_err("two are out of bounds");
            assert_eq!(refused.code, ErrorCode::InvalidTimestamp);
            assert_eq!(refused.record_errors.iter().map(|e| e.batch_index).collect::<Vec<_>>(), [1, 3]);
            assert_eq!(intake(&config).is_heavy(&sent), codec != Compression::None);
            let good = built(codec, &[(None, b"c", 1000), (None, b"d", -50)]);
            intake(&config).accept(good).expect("at the bounds");
            let stamped = LogConfig { message_timestamp_type: TimestampType::LogAppendTime, ..config.clone() };
            intake(&stamped).accept(sent).expect("the broker's time counts");
        }
        let late = built(Compression::None, &[(None, b"late", -3_600_001), (None, b"in time", -3_600_000)]);
        let refused = intake(&LogConfig::default()).accept(late).expect_err("one is too late");
        assert_eq!(refused.record_errors.len(), 1);
        assert!(refused.record_errors[0].message.starts_with("Timestamp 1700003600001 of message with offset 0"));
    }

    #[test]
    fn records_without_a_key_are_named() {
        let config = LogConfig { compacted: true, ..LogConfig::default() };
        for codec in CODECS {
            let sent = built(codec, &[(Some(b"k"), b"a", 0), (None, b"b", 0), (None, b"c", 0)]);
            let refused = intake(&config).accept(sent).expect_err("two without a key");
            assert_eq!(refused.code, ErrorCode::InvalidRecord);
            assert_eq!(refused.record_errors.iter().map(|e| e.batch_index).collect::<Vec<_>>(), [1, 2]);
        }
    }

    #[test]
    fn a_largest_timestamp_that_was_left_out_is_found() {
        for codec in CODECS {
            let mut sent = built(codec, &[(None, b"a", 9), (None, b"b", 4)]);
            batch::set_max_timestamp(&mut sent, -1);
            let accepted = intake(&LogConfig::default()).accept(sent).expect("taken");
            assert_eq!(accepted.batches[0].0.max_timestamp, NOW - 4);
        }
    }
}
