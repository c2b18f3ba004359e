//! The records of `__transaction_state`, byte for byte as Kafka 4.2 writes them with `transaction.version` 2, and read in
//! every version that Kafka has written.

use super::transaction::{State, Transaction};
use crate::ids::{ProducerEpoch, ProducerId};
use crate::protocol::wire::{DecodeError, Reader, put_length, put_string};
use bytes::{BufMut, Bytes, BytesMut};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Tags of the value's optional fields, from version 1.
const PREVIOUS_PRODUCER_ID: u8 = 0;
const NEXT_PRODUCER_ID: u8 = 1;
const CLIENT_TRANSACTION_VERSION: u8 = 2;

/// Why a record cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// The bytes are not what their version says.
    #[error("{record} of __transaction_state: {source}")]
    Decode {
        /// Which part.
        record: &'static str,
        /// Where and what.
        source: DecodeError,
    },
    /// A version that this build does not know.
    #[error("value of __transaction_state: version {version} is not known, 1 is the highest; a newer broker wrote it")]
    Version {
        /// The version that came.
        version: i16,
    },
    /// A status that Kafka does not write.
    #[error("value of __transaction_state: status {status} is not known, expected 0 to 6")]
    Status {
        /// The number that came.
        status: i8,
    },
}

/// The key of a transactional id.
#[must_use]
pub fn key(id: &str) -> Bytes {
    let mut buf = BytesMut::with_capacity(4 + id.len());
    buf.put_i16(0);
    put_string(&mut buf, false, id);
    buf.freeze()
}

/// Reads a key; none for one of a version that this build has no use for, which Kafka passes over as well.
pub fn decode_key(bytes: &[u8]) -> Result<Option<Arc<str>>, ReplayError> {
    let mut reader = Reader::new(bytes);
    let error = |source| ReplayError::Decode { record: "key", source };
    match reader.i16("version").map_err(error)? {
        0 => reader.string(false, "transactional id").map(|id| Some(Arc::from(id))).map_err(error),
        _ => Ok(None),
    }
}

/// The value of a transactional id, version 1.
#[must_use]
pub fn encode(txn: &Transaction) -> Bytes {
    let mut buf = BytesMut::with_capacity(64 + 32 * txn.partitions.len());
    buf.put_i16(1);
    buf.put_i64(txn.producer.id.0);
    buf.put_i16(txn.producer.epoch.0);
    buf.put_i32(txn.timeout_ms);
    buf.put_i8(txn.state.status());
    if txn.state == State::Empty {
        // Null.
        buf.put_u8(0);
    } else {
        put_length(&mut buf, true, txn.partitions.len());
        for (topic, indexes) in &txn.partitions {
            put_string(&mut buf, true, topic);
            put_length(&mut buf, true, indexes.len());
            indexes.iter().for_each(|index| buf.put_i32(*index));
            buf.put_u8(0);
        }
    }
    buf.put_i64(txn.last_update_ms);
    buf.put_i64(txn.start_ms);
    put_tags(&mut buf, txn);
    buf.freeze()
}

fn put_tags(buf: &mut BytesMut, txn: &Transaction) {
    let ids = [(PREVIOUS_PRODUCER_ID, txn.previous_id.0), (NEXT_PRODUCER_ID, txn.next_id.0)];
    let ids = ids.into_iter().filter(|(_, id)| *id != -1);
    let v2 = txn.client_version != 0;
    buf.put_u8(ids.clone().count() as u8 + u8::from(v2));
    for (tag, id) in ids {
        buf.put_slice(&[tag, 8]);
        buf.put_i64(id);
    }
    if v2 {
        buf.put_slice(&[CLIENT_TRANSACTION_VERSION, 2]);
        buf.put_i16(txn.client_version);
    }
}

/// Reads a value of version 0 or 1.
pub fn decode(bytes: &[u8]) -> Result<Transaction, ReplayError> {
    let error = |source| ReplayError::Decode { record: "value", source };
    let mut reader = Reader::new(bytes);
    let version = reader.i16("version").map_err(error)?;
    if !(0..=1).contains(&version) {
        return Err(ReplayError::Version { version });
    }
    let (status, txn) = read(&mut reader, version >= 1).map_err(error)?;
    let state = State::from_status(status).ok_or(ReplayError::Status { status })?;
    Ok(Transaction { state, ..txn })
}

fn read(r: &mut Reader<'_>, flexible: bool) -> Result<(i8, Transaction), DecodeError> {
    let id = ProducerId(r.i64("producer id")?);
    let epoch = ProducerEpoch(r.i16("producer epoch")?);
    let timeout_ms = r.i32("timeout")?;
    let status = r.i8("status")?;
    let mut txn = Transaction::new(id, timeout_ms, 0);
    txn.producer.epoch = epoch;
    for _ in 0..r.nullable_array(flexible, "topics")?.unwrap_or(0) {
        let topic: Arc<str> = Arc::from(r.string(flexible, "topic")?);
        let mut indexes = BTreeSet::new();
        for _ in 0..r.array(flexible, "partitions")? {
            indexes.insert(r.i32("partition")?);
        }
        r.skip_tags(flexible)?;
        txn.partitions.insert(topic, indexes);
    }
    txn.last_update_ms = r.i64("last update")?;
    txn.start_ms = r.i64("start")?;
    if flexible {
        for _ in 0..r.varint("number of tagged fields")? {
            let tag = r.varint("tag")?;
            let len = r.varint("length of a tagged field")?;
            let mut field = Reader::new(r.take(len as usize, "tagged field")?);
            match u8::try_from(tag) {
                Ok(PREVIOUS_PRODUCER_ID) => txn.previous_id = ProducerId(field.i64("previous producer id")?),
                Ok(NEXT_PRODUCER_ID) => txn.next_id = ProducerId(field.i64("next producer id")?),
                Ok(CLIENT_TRANSACTION_VERSION) => txn.client_version = field.i16("client's transaction version")?,
                _ => {}
            }
        }
    }
    Ok((status, txn))
}
