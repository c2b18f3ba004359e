//! Readers of what is committed: as Kafka's consumers do it, with the list of aborted transactions that comes along.

use crate::book::{Book, RECORDS_MAX};
use crate::client::{Connection, Lost};
use crate::groups::text;
use crate::history::Name;
use crate::producer::REQUEST_TIMEOUT;
use crate::records::{self, RecordId};
use crate::transactions::{self, LOGS, TOPIC};
use crate::world::{World, fail};
use bytes::{Buf, BytesMut};
use coreline::error_code::ErrorCode;
use coreline_io::Clock;
use coreline_io::sim::SimRng;
use kafka_protocol::messages::fetch_request::{FetchPartition, FetchTopic};
use kafka_protocol::messages::fetch_response::PartitionData;
use kafka_protocol::messages::{FetchRequest, ListTransactionsRequest, TopicName};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

pub(crate) const TRANSACTIONAL: u8 = 1 << 4;
const CONTROL: u8 = 1 << 5;

/// A place in each of the logs.
pub(crate) type Positions = [i64; LOGS as usize];

/// Reads on and on, by itself, until the faults are over.
pub(crate) async fn keep_reading(world: Rc<World>, book: Rc<RefCell<Book>>) {
    let (rng, mut positions) = (world.rng(), [0; LOGS as usize]);
    while !world.finishing.get() {
        if let Ok(connection) = Connection::open(&world, "log-reader").await {
            while !world.finishing.get() {
                if rng.one_in(20) {
                    positions = [0; LOGS as usize];
                }
                if read_on(&world, &book, &connection, &rng, None, &mut positions, &mut |_, _, _| {}).await.is_err() {
                    break;
                }
                world.client.sleep(Duration::from_micros(rng.below(20_000))).await;
            }
        }
        world.client.sleep(Duration::from_millis(5)).await;
    }
}

/// Reads all logs from their beginnings to their ends when nothing is under way any more, and lets the book judge.
pub(crate) async fn last_reading(world: Rc<World>, book: Rc<RefCell<Book>>, producers: u32) {
    let (rng, mut positions, mut read) = (world.rng(), [0; LOGS as usize], BTreeMap::new());
    loop {
        if let Ok(connection) = Connection::open(&world, "log-reader").await {
            let mut offsets = Ok(());
            for producer in 0..producers {
                offsets = transactions::fetch_offset(&world, &book, &connection, producer).await;
                if offsets.is_err() {
                    break;
                }
            }
            let mut at_end = match offsets {
                Ok(()) => none_is_open(&world, &connection).await.map(|()| false),
                Err(Lost) => Err(Lost),
            };
            while at_end == Ok(false) {
                let mut seen = |log, offset, id| {
                    read.insert((log, offset), id);
                };
                at_end = read_on(&world, &book, &connection, &rng, None, &mut positions, &mut seen).await;
            }
            if at_end == Ok(true) {
                break;
            }
        }
        world.client.sleep(Duration::from_millis(5)).await;
    }
    let verdict = book.borrow().finish(&read);
    world.check(verdict);
}

/// Nothing is under way: a transaction that goes on was begun by somebody whose time was over.
async fn none_is_open(world: &World, connection: &Connection) -> Result<(), Lost> {
    loop {
        let answer = connection.call(0, &ListTransactionsRequest::default(), REQUEST_TIMEOUT).await?;
        let states = answer.transaction_states.iter().map(|t| &*t.transaction_state);
        if states.clone().any(|state| state == "Ongoing") {
            fail(format!("all producers are done: {:?}", answer.transaction_states));
        }
        if answer.error_code == 0 && !states.clone().any(|state| state.starts_with("Prepare")) {
            return Ok(());
        }
        world.client.sleep(Duration::from_millis(3)).await;
    }
}

/// One fetch of all logs, for `by`. True: all are at their ends.
pub(crate) async fn read_on(
    world: &World,
    book: &RefCell<Book>,
    connection: &Connection,
    rng: &SimRng,
    by: Option<Name>,
    positions: &mut Positions,
    seen: &mut impl FnMut(i32, i64, RecordId),
) -> Result<bool, Lost> {
    let bytes_max = [1, 700, 3000, 1 << 20][rng.index(4)];
    let partitions = positions.iter().enumerate().map(|(log, position)| {
        let partition = FetchPartition::default().with_partition(log as i32).with_fetch_offset(*position);
        partition.with_current_leader_epoch(-1).with_partition_max_bytes(bytes_max)
    });
    let topic = FetchTopic::default().with_topic(TopicName(text(TOPIC))).with_partitions(partitions.collect());
    let request = FetchRequest::default()
        .with_max_wait_ms(if by.is_some() { 0 } else { 20 })
        .with_min_bytes(1)
        .with_max_bytes(1 << 20)
        .with_session_id(0)
        .with_session_epoch(-1)
        .with_isolation_level(1)
        .with_topics(vec![topic]);
    let answer = connection.call(12, &request, REQUEST_TIMEOUT).await?;
    let mut at_end = true;
    for found in answer.responses.iter().flat_map(|t| &t.partitions) {
        at_end &= one_log(world, book, by, positions, found, seen)?;
    }
    Ok(at_end)
}

fn one_log(
    world: &World,
    book: &RefCell<Book>,
    by: Option<Name>,
    positions: &mut Positions,
    found: &PartitionData,
    seen: &mut impl FnMut(i32, i64, RecordId),
) -> Result<bool, Lost> {
    let (log, stable, high_watermark) = (found.partition_index, found.last_stable_offset, found.high_watermark);
    match ErrorCode::from_code(found.error_code) {
        Some(ErrorCode::None) => {}
        Some(ErrorCode::KafkaStorageError | ErrorCode::NotLeaderOrFollower | ErrorCode::UnknownTopicOrPartition) => {
            return Err(Lost);
        }
        code => fail(format!("log {log}: a reader of what is committed: {code:?}")),
    }
    let position = &mut positions[log as usize];
    let aborted = found.aborted_transactions.iter().flatten().map(|a| (a.first_offset, a.producer_id.0));
    let mut aborted: Vec<(i64, i64)> = aborted.collect();
    aborted.sort_unstable();
    let read = committed(log, &found.records.clone().unwrap_or_default(), aborted, *position);
    let (records, next) = read.unwrap_or_else(|e| fail(format!("log {log}: {e}")));
    world.trace(|| {
        let who = by.map_or_else(|| "a reader".to_owned(), |by| format!("{by:?}"));
        format!("{who}: log {log}: {position}..{next} of {stable} and {high_watermark}: {records:?}")
    });
    let mut book = book.borrow_mut();
    world.check(book.stable(log, stable, high_watermark));
    world.check(book.read(by, log, (*position, next, stable), &records));
    records.iter().for_each(|(offset, id)| seen(log, *offset, *id));
    *position = next;
    Ok(next == high_watermark)
}

/// What a client that reads what is committed takes of an answer, as Kafka's does; and where it goes on.
fn committed(
    log: i32,
    mut bytes: &[u8],
    aborted: Vec<(i64, i64)>,
    position: i64,
) -> Result<(Vec<(i64, RecordId)>, i64), String> {
    let (mut all, mut next, mut aborted) = (Vec::new(), position, aborted.into_iter().peekable());
    let mut dropping = BTreeSet::new();
    while !bytes.is_empty() {
        let size = bytes.get(8..12).map_or(0, |mut len| len.get_i32() as usize + 12);
        let Some((batch, rest)) = bytes.split_at_checked(size).filter(|_| size > records::HEADER) else {
            return Err(format!("a batch of {size} bytes in {}", bytes.len()));
        };
        bytes = rest;
        let (base, last_delta) = ((&batch[..8]).get_i64(), (&batch[23..27]).get_i32());
        let (last, producer) = (base + i64::from(last_delta), (&batch[43..51]).get_i64());
        let stored = (&batch[17..21]).get_u32();
        if stored != crc32c::crc32c(&batch[21..]) || last < position {
            return Err(format!("a batch at {base}..={last} with CRC {stored:#x}, asked from {position}"));
        }
        next = last + 1;
        while let Some((_, id)) = aborted.next_if(|(first, _)| *first <= last) {
            dropping.insert(id);
        }
        if batch[22] & CONTROL != 0 {
            // The key is the version and the type: 0 is an abort.
            if marker(batch)? == 0 {
                dropping.remove(&producer);
            }
        } else if !dropping.contains(&producer) {
            let mut plain = BytesMut::from(batch);
            plain[22] &= !TRANSACTIONAL;
            set_crc(&mut plain);
            let batches = records::decode(log as u32, &plain)?;
            let wanted = batches.iter().flat_map(|b| &b.records).filter(|r| r.offset >= position);
            all.extend(wanted.map(|r| (r.offset, r.id)));
        }
    }
    Ok((all, next))
}

pub(crate) fn set_crc(batch: &mut [u8]) {
    let crc = crc32c::crc32c(&batch[21..]);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
}

fn marker(batch: &[u8]) -> Result<i16, String> {
    let mut record = &batch[records::HEADER..];
    let _length = records::get_varint(&mut record)?;
    let Some((_attributes, rest)) = record.split_first() else { return Err("a marker without a byte".to_owned()) };
    record = rest;
    let (_time, _offset) = (records::get_varint(&mut record)?, records::get_varint(&mut record)?);
    let key = records::get_varint(&mut record)?;
    if key != 4 || record.len() < 4 {
        return Err(format!("a marker with a key of {key} bytes"));
    }
    Ok((&record[2..4]).get_i16())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Codec, Sequence};

    #[test]
    fn what_is_aborted_is_left_out() {
        let id = |number| RecordId { producer: 1, number: number * RECORDS_MAX };
        let batch = |number: u32, base: i64, producer_id: i64| {
            let sequence = Sequence { producer_id, epoch: 0, base: 0 };
            let bytes = records::encode(0, id(number), &[3], false, 9, Codec::None, Some(sequence));
            let mut bytes = BytesMut::from(&bytes[..]);
            bytes[22] |= TRANSACTIONAL;
            set_crc(&mut bytes);
            bytes[..8].copy_from_slice(&base.to_be_bytes());
            bytes.freeze()
        };
        let bytes = [batch(0, 0, 7), batch(1, 1, 8)].concat();
        assert_eq!(committed(0, &bytes, vec![(0, 7)], 0), Ok((vec![(1, id(1))], 2)));
        assert_eq!(committed(0, &bytes, vec![], 0), Ok((vec![(0, id(0)), (1, id(1))], 2)));
    }
}
