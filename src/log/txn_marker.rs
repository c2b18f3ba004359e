//! Control batches that end a transaction: Kafka's bytes, built and read.
//!
//! ```text
//! batch   attributes 0x30 (transactional, control), the producer's id and epoch, base sequence -1, one record
//! key     version i16 = 0, type i16: 0 abort, 1 commit      other types are no ends of transactions
//! value   version i16 = 0, coordinator epoch i32
//! ```

use crate::ids::{LeaderEpoch, Offset, ProducerEpoch, ProducerId};
use crate::log::batch::{self, BatchBuilder, RecordBatchHeader};

const TRANSACTIONAL_CONTROL: i16 = 0x30;
const NO_SEQUENCE: i32 = -1;
const VERSION: i16 = 0;
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

/// The end of a transaction, as a coordinator writes it into each partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndTxnMarker {
    /// Committed, or aborted.
    pub commit: bool,
    /// The epoch of the coordinator that wrote it.
    pub coordinator_epoch: i32,
}

/// The batch of a marker.
#[must_use]
pub fn build_marker(
    producer: (ProducerId, ProducerEpoch),
    marker: EndTxnMarker,
    offset: Offset,
    leader_epoch: LeaderEpoch,
    timestamp_ms: i64,
) -> Vec<u8> {
    let kind = if marker.commit { COMMIT } else { ABORT };
    let mut key = VERSION.to_be_bytes().to_vec();
    key.extend_from_slice(&kind.to_be_bytes());
    let mut value = VERSION.to_be_bytes().to_vec();
    value.extend_from_slice(&marker.coordinator_epoch.to_be_bytes());
    let builder =
        BatchBuilder::default().attributes(TRANSACTIONAL_CONTROL).producer(producer.0, producer.1, NO_SEQUENCE);
    let mut builder = builder;
    builder.push(timestamp_ms, Some(&key), Some(&value));
    builder.build(offset, leader_epoch)
}

/// The marker of a control batch; none in other batches, in a control batch without records (a cleaned one), and for
/// types that end no transaction.
#[must_use]
pub fn read_marker(header: &RecordBatchHeader, bytes: &[u8]) -> Option<EndTxnMarker> {
    if !header.is_control() {
        return None;
    }
    let record = batch::records(header, bytes).next()?.ok()?;
    let commit = match marker_type(record.key?)? {
        ABORT => false,
        COMMIT => true,
        _ => return None,
    };
    // Later versions of the value only add to it.
    let coordinator_epoch = i32::from_be_bytes(record.value?.get(2..6)?.try_into().ok()?);
    Some(EndTxnMarker { commit, coordinator_epoch })
}

/// The type in the key of a control record.
#[must_use]
pub fn marker_type(key: &[u8]) -> Option<i16> {
    Some(i16::from_be_bytes(key.get(2..4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PRODUCER: (ProducerId, ProducerEpoch) = (ProducerId(4000), ProducerEpoch(7));

    fn built(marker: EndTxnMarker) -> (RecordBatchHeader, Vec<u8>) {
        let bytes = build_marker(PRODUCER, marker, Offset(42), LeaderEpoch(3), 1_700_000_000_000);
        let header = batch::parse_header(&bytes).expect("a header");
        batch::check_crc(&header, &bytes).expect("a checksum");
        (header, bytes)
    }

    #[test]
    fn markers_come_back() {
        for marker in
            [EndTxnMarker { commit: true, coordinator_epoch: 0 }, EndTxnMarker { commit: false, coordinator_epoch: 77 }]
        {
            let (header, bytes) = built(marker);
            assert!(header.is_control() && header.is_transactional());
            assert_eq!((header.base_sequence, header.last_sequence(), header.record_count), (-1, -1, 1));
            assert_eq!((header.producer_id, header.producer_epoch), PRODUCER);
            assert_eq!(read_marker(&header, &bytes), Some(marker));
        }
    }

    #[test]
    fn other_batches_are_no_markers() {
        let mut data = BatchBuilder::default().attributes(0x10).producer(PRODUCER.0, PRODUCER.1, 0);
        data.push(1, Some(&[0, 0, 0, 1]), Some(&[0, 0, 0, 0, 0, 9]));
        let data = data.build(Offset(0), LeaderEpoch(0));
        assert_eq!(read_marker(&batch::parse_header(&data).expect("a header"), &data), None);
        let mut leader_change = BatchBuilder::default().attributes(0x20);
        leader_change.push(1, Some(&[0, 0, 0, 2]), Some(&[0; 12]));
        let leader_change = leader_change.build(Offset(0), LeaderEpoch(0));
        assert_eq!(read_marker(&batch::parse_header(&leader_change).expect("a header"), &leader_change), None);
    }

    proptest! {
        #[test]
        fn damaged_markers_are_read_without_panic(at in 0usize..100, to in any::<u8>()) {
            let (_, mut bytes) = built(EndTxnMarker { commit: true, coordinator_epoch: 5 });
            let at = at % bytes.len();
            bytes[at] = to;
            if let Ok(header) = batch::parse_header(&bytes) {
                let _ = read_marker(&header, &bytes);
            }
        }
    }
}
