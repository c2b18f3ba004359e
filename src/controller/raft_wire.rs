//! Raft's messages and entries in our own fixed encoding: the protobuf parser never sees bytes from outside
//! (RUSTSEC-2024-0437).

use super::encoding::{DecodeError, Decoder, put_bytes};
use bytes::{BufMut, Bytes, BytesMut};
use protobuf::ProtobufEnum;
use raft::eraftpb::{Entry, EntryType, Message, MessageType, Snapshot};

pub(super) fn encode_entry(b: &mut BytesMut, entry: &Entry) {
    b.put_u8(entry.entry_type as u8);
    b.put_u64(entry.term);
    b.put_u64(entry.index);
    put_bytes(b, &entry.context);
    put_bytes(b, &entry.data);
}

pub(super) fn decode_entry(d: &mut Decoder) -> Result<Entry, DecodeError> {
    let mut entry = Entry::default();
    let kind = i32::from(d.u8()?);
    entry.entry_type = match EntryType::from_i32(kind) {
        Some(kind) => kind,
        None => return d.fail("a kind of Raft entry"),
    };
    entry.term = d.u64()?;
    entry.index = d.u64()?;
    entry.context = d.bytes()?;
    entry.data = d.bytes()?;
    Ok(entry)
}

/// A message to another voter.
#[must_use]
pub fn encode_message(m: &Message) -> Bytes {
    let mut b = BytesMut::new();
    b.put_u8(m.msg_type as u8);
    for n in [m.to, m.from, m.term, m.log_term, m.index, m.commit, m.commit_term, m.request_snapshot, m.reject_hint] {
        b.put_u64(n);
    }
    b.put_i64(m.priority);
    b.put_u8(u8::from(m.reject));
    put_bytes(&mut b, &m.context);
    b.put_u32(u32::try_from(m.entries.len()).expect("a message has a bounded number of entries"));
    for entry in m.entries.iter() {
        encode_entry(&mut b, entry);
    }
    let snapshot = m.get_snapshot();
    let metadata = snapshot.get_metadata();
    b.put_u64(metadata.index);
    b.put_u64(metadata.term);
    let voters = &metadata.get_conf_state().voters;
    b.put_u32(u32::try_from(voters.len()).expect("voters are few"));
    voters.iter().for_each(|v| b.put_u64(*v));
    put_bytes(&mut b, &snapshot.data);
    b.freeze()
}

/// A message from another voter.
///
/// # Errors
/// The byte at which it is none.
pub fn decode_message(bytes: Bytes) -> Result<Message, DecodeError> {
    let mut d = Decoder::new(bytes);
    let mut m = Message::default();
    let kind = i32::from(d.u8()?);
    m.msg_type = match MessageType::from_i32(kind) {
        Some(kind) => kind,
        None => return d.fail("a kind of Raft message"),
    };
    m.to = d.u64()?;
    m.from = d.u64()?;
    m.term = d.u64()?;
    m.log_term = d.u64()?;
    m.index = d.u64()?;
    m.commit = d.u64()?;
    m.commit_term = d.u64()?;
    m.request_snapshot = d.u64()?;
    m.reject_hint = d.u64()?;
    m.priority = d.i64()?;
    m.reject = d.boolean()?;
    m.context = d.bytes()?;
    let count = d.count(25)?;
    for _ in 0..count {
        m.entries.push(decode_entry(&mut d)?);
    }
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    metadata.index = d.u64()?;
    metadata.term = d.u64()?;
    metadata.mut_conf_state();
    let voters = d.count(8)?;
    for _ in 0..voters {
        metadata.mut_conf_state().voters.push(d.u64()?);
    }
    snapshot.data = d.bytes()?;
    if snapshot.get_metadata().index > 0 {
        m.set_snapshot(snapshot);
    }
    if d.is_done() { Ok(m) } else { d.fail("the end of a Raft message") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn messages_come_back(
            numbers in prop::array::uniform9(any::<u64>()),
            kind in 0..19_i32,
            reject in any::<bool>(),
            entries in prop::collection::vec((any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..20)), 0..5),
            snapshot in prop::option::of((1..u64::MAX, any::<u64>(), prop::collection::vec(any::<u64>(), 0..4))),
        ) {
            let msg_type = MessageType::from_i32(kind).expect("in range");
            let mut m = Message { msg_type, ..Message::default() };
            [m.to, m.from, m.term, m.log_term, m.index, m.commit, m.commit_term, m.request_snapshot, m.reject_hint] = numbers;
            m.reject = reject;
            for (term, index, data) in entries {
                let mut entry = Entry::default();
                (entry.term, entry.index, entry.data) = (term, index, data.into());
                m.entries.push(entry);
            }
            if let Some((index, term, voters)) = snapshot {
                let s = m.mut_snapshot();
                s.data = Bytes::from_static(b"image");
                (s.mut_metadata().index, s.mut_metadata().term) = (index, term);
                s.mut_metadata().mut_conf_state().voters = voters;
            }
            prop_assert_eq!(decode_message(encode_message(&m)).expect("ours"), m);
        }

        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode_message(bytes.into());
        }
    }
}
