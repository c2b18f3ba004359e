//! From the log to a coordinator: the partition is read in chunks, record by record, while others are served.

use super::Coordinators;
use super::hosted::Hosted;
use super::kind::{Kind, Replayed};
use crate::broker::store::{Isolation, ReadRequest};
use crate::coordinator::Effects;
use crate::ids::Offset;
use crate::log::batch;
use crate::log::compression::DECOMPRESSED_BYTES_MAX;
use crate::log::txn_marker;
use bytes::{Bytes, BytesMut};
use coreline_io::Runtime;
use std::rc::Rc;
use std::time::Duration;

/// How long to wait before a load that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

impl<R: Runtime, K: Kind> Coordinators<R, K> {
    /// Loads a coordinator, however often it takes.
    pub(super) async fn load(self: Rc<Self>, hosted: Rc<Hosted<K>>) {
        let runtime = &self.shard.runtime;
        while !hosted.is_closed() && !self.stopped.get() {
            let turn = self.loads.acquire(1).await;
            let loaded = self.replay(&hosted).await;
            drop(turn);
            match loaded {
                Ok((mut machine, records)) => {
                    let (now, mut effects) = (self.now(), Effects::default());
                    self.kind.loaded(&mut machine, now, &mut effects);
                    if records > 0 {
                        tracing::info!(index = hosted.id.index.0, records, "{} coordinator loaded", K::NAME);
                    }
                    if let Some((stepped, missed)) = hosted.activate(machine, now.wall_ms, effects) {
                        self.send_on(&hosted, stepped);
                        missed.into_iter().for_each(|event| self.step(&hosted, event));
                    }
                    return;
                }
                Err(error) if hosted.is_closed() => tracing::debug!("a coordinator that is gone: {error}"),
                Err(error) => {
                    tracing::error!(index = hosted.id.index.0, "{} coordinator does not load: {error}", K::NAME);
                    runtime.sleep(RETRY).await;
                }
            }
        }
    }

    /// The coordinator as the log has it, and how many records that took.
    async fn replay(&self, hosted: &Hosted<K>) -> Result<(K::Machine, u64), String> {
        let (store, id) = (&self.shard.store, hosted.id);
        let mut machine = self.kind.machine(self.shard.runtime.next_u64(), hosted.leader_epoch);
        let ends = store.load_end_offsets(id).await.map_err(|e| e.to_string())?;
        let (mut next, end, mut records) = (ends.log_start, ends.high_watermark, 0);
        let max_bytes = K::load_bytes(&self.shard.config);
        while next < end && !hosted.is_closed() {
            let request = ReadRequest {
                offset: next,
                max_bytes,
                at_least_one: true,
                isolation: Isolation::ReadUncommitted,
                current_leader_epoch: None,
            };
            let read = store.read(id, request).await.map_err(|e| e.to_string())?;
            let chunk = joined(read.records);
            let mut rest = &chunk[..];
            let before = next;
            while !rest.is_empty() {
                records += replay_batch::<K>(&mut machine, rest, &mut next)?;
                let header = batch::parse_header(rest).map_err(|e| e.to_string())?;
                rest = &rest[header.size_in_bytes()..];
                if self.shard.runtime.should_yield() {
                    self.shard.runtime.yield_now().await;
                }
            }
            if next == before {
                return Err(format!("the log ends at offset {next}, expected {end}"));
            }
        }
        Ok((machine, records))
    }
}

/// One piece: batches may lie across the pieces of a read.
fn joined(mut pieces: Vec<Bytes>) -> Bytes {
    if pieces.len() == 1 {
        return pieces.swap_remove(0);
    }
    let mut all = BytesMut::with_capacity(pieces.iter().map(Bytes::len).sum());
    pieces.iter().for_each(|piece| all.extend_from_slice(piece));
    all.freeze()
}

/// Gives the machine the records of the first batch of `bytes` from offset `next` on, which moves behind them.
/// How many there were.
fn replay_batch<K: Kind>(machine: &mut K::Machine, bytes: &[u8], next: &mut Offset) -> Result<u64, String> {
    let text = |error: batch::BatchError| error.to_string();
    let header = batch::parse_header(bytes).map_err(text)?;
    batch::check_crc(&header, bytes).map_err(text)?;
    let from = std::mem::replace(next, header.next_offset());
    if let Some(marker) = txn_marker::read_marker(&header, bytes) {
        let ended = Replayed::Marker { producer_id: header.producer_id, commit: marker.commit };
        K::replay(machine, ended)?;
    }
    if header.is_control() {
        return Ok(0);
    }
    let producer_id = header.is_transactional().then_some(header.producer_id);
    let mut count = 0;
    batch::for_each_record(&header, bytes, DECOMPRESSED_BYTES_MAX, |record| {
        let Some(key) = record.key.filter(|_| record.offset >= from) else { return };
        count += 1;
        if let Err(error) = K::replay(machine, Replayed::Record { key, value: record.value, producer_id }) {
            // One record that means nothing must not keep all others of the partition away.
            tracing::error!(offset = record.offset.0, "a record of {} is passed over: {error}", K::TOPIC);
        }
    })
    .map_err(text)?;
    Ok(count)
}
