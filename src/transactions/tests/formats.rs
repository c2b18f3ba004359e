//! The records of the topic: bytes as Kafka 4.2 writes them, every version read, nothing that panics.

use super::bed::{producer, tp};
use crate::ids::ProducerId;
use crate::transactions::records::{ReplayError, decode, decode_key, encode, key};
use crate::transactions::transaction::{State, Transaction};
use proptest::prelude::*;

fn txn(state: State) -> Transaction {
    let mut txn = Transaction::new(ProducerId(5), 60_000, 17);
    txn.producer = producer(5, 2);
    txn.add(&[tp("t", 1), tp("t", 0), tp("s", 9)], true, 20);
    txn.state = state;
    txn
}

#[test]
fn bytes_of_a_value() {
    let expected: &[u8] = &[
        0, 1, // version
        0, 0, 0, 0, 0, 0, 0, 5, // producer id
        0, 2, // epoch
        0, 0, 0xea, 0x60, // timeout
        1,    // ongoing
        3, 2, b's', 2, 0, 0, 0, 9, 0, 2, b't', 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, // partitions
        0, 0, 0, 0, 0, 0, 0, 20, // last update
        0, 0, 0, 0, 0, 0, 0, 20, // start
        2, 0, 8, 0, 0, 0, 0, 0, 0, 0, 5, 2, 2, 0, 2, // tags: previous producer id, client's version
    ];
    assert_eq!(&encode(&txn(State::Ongoing))[..], expected);
    assert_eq!(&key("tx")[..], [0, 0, 0, 2, b't', b'x']);
    assert_eq!(decode_key(&key("tx")).expect("whole").as_deref(), Some("tx"));
    assert_eq!(decode_key(&[0, 1, 0]).expect("another version is passed over"), None);
}

#[test]
fn version_0_is_read() {
    let value: &[u8] = &[
        0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 2, 0, 0, 0xea, 0x60, 4, 0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1, 0, 0, 0, 1, 0, 0,
        0, 0, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 20,
    ];
    let read = decode(value).expect("whole");
    assert_eq!((read.state, read.producer, read.client_version), (State::CompleteCommit, producer(5, 2), 0));
    assert_eq!(read.partitions["t"].iter().copied().collect::<Vec<_>>(), [1]);
    assert_eq!(decode(&[0, 2]), Err(ReplayError::Version { version: 2 }));
}

proptest! {
    #[test]
    fn values_come_back(status in 1i8..7, ids in any::<(i64, i64)>(), epoch in any::<i16>(), version in 0i16..3) {
        let mut value = txn(State::from_status(status).expect("known"));
        (value.previous_id, value.next_id) = (ProducerId(ids.0), ProducerId(ids.1));
        value.producer.epoch.0 = epoch;
        value.client_version = version;
        prop_assert_eq!(decode(&encode(&value)), Ok(value));
    }

    #[test]
    fn bytes_of_others_are_errors_at_worst(bytes in prop::collection::vec(any::<u8>(), 0..80), version in 0u8..3) {
        let _ = decode_key(&bytes);
        let _ = decode(&[&[0, version], &bytes[..]].concat());
    }
}
