//! What a load would find out by looking at a partition's directory: written down after each flush, so that a start after a
//! crash looks at none.
//!
//! ```text
//! state  0 version u8   1 log start i64   9 newest .index entry: offset i64, position u32   21 newest .timeindex entry: timestamp i64, offset i64
//!        37 counts u16: sealed segments, epochs, snapshots   43 lengths u32: producers, mark   51 …
//!        sealed: base i64, size u64   epoch: epoch i32, start i64   snapshot: offset i64   producers: Kafka's snapshot   mark: see `segment_mark`
//! ```
//! Integers are big-endian; an offset of -1 says that there is no such entry.

use super::index::{OffsetEntry, TimeEntry};
use super::leader_epochs::LeaderEpochs;
use super::segment_mark::SegmentMark;
use crate::ids::{LeaderEpoch, Offset};
use bytes::{Buf, BufMut};

/// Segments, epochs and snapshots in a state, at most, each. A load of a log that has more looks for itself.
pub const PARTS_MAX: usize = 64;
/// Bytes of the producers, at most.
pub const PRODUCERS_BYTES_MAX: usize = 16 << 10;
const VERSION: u8 = 1;
const FIXED_LEN: usize = 51;

/// A log up to an offset that is flushed, in files that hold no transaction that was aborted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartitionState {
    /// Where the log begins, by its files.
    pub log_start: i64,
    /// The active segment.
    pub mark: SegmentMark,
    /// The newest entry of its offset index, in the file or in the mark.
    pub last_offset: Option<OffsetEntry>,
    /// The newest entry of its time index.
    pub last_time: Option<TimeEntry>,
    /// The segments before it: base and size of each, oldest first.
    pub sealed: Vec<(i64, u64)>,
    /// The leader epochs.
    pub epochs: LeaderEpochs,
    /// Offsets of the snapshot files, oldest first.
    pub snapshots: Vec<i64>,
    /// What producers have sent below the offset, as a snapshot file has it; empty: nothing.
    pub producers: Vec<u8>,
}

impl PartitionState {
    /// The state's bytes; `None`: it is too large to be worth it.
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let epochs = self.epochs.entries();
        let parts = [self.sealed.len(), epochs.len(), self.snapshots.len()];
        if parts.into_iter().any(|n| n > PARTS_MAX) || self.producers.len() > PRODUCERS_BYTES_MAX {
            return None;
        }
        let mark = self.mark.encode();
        let mut out = Vec::with_capacity(FIXED_LEN + 64 + self.producers.len() + mark.len());
        out.put_u8(VERSION);
        out.put_i64(self.log_start);
        out.put_i64(self.last_offset.map_or(-1, |e| e.offset));
        out.put_u32(self.last_offset.map_or(0, |e| e.position));
        out.put_i64(self.last_time.map_or(-1, |e| e.timestamp));
        out.put_i64(self.last_time.map_or(-1, |e| e.offset));
        parts.into_iter().for_each(|n| out.put_u16(n as u16));
        out.put_u32(self.producers.len() as u32);
        out.put_u32(mark.len() as u32);
        for (base, size) in &self.sealed {
            out.put_i64(*base);
            out.put_u64(*size);
        }
        for epoch in epochs {
            out.put_i32(epoch.epoch.0);
            out.put_i64(epoch.start.0);
        }
        self.snapshots.iter().for_each(|offset| out.put_i64(*offset));
        out.extend_from_slice(&self.producers);
        out.extend_from_slice(&mark);
        Some(out)
    }

    /// Reads what [`PartitionState::encode`] wrote; `None`: it did not.
    #[must_use]
    pub fn decode(mut bytes: &[u8]) -> Option<Self> {
        if bytes.len() < FIXED_LEN || bytes.get_u8() != VERSION {
            return None;
        }
        let log_start = bytes.get_i64();
        let last_offset = OffsetEntry { offset: bytes.get_i64(), position: bytes.get_u32() };
        let last_time = TimeEntry { timestamp: bytes.get_i64(), offset: bytes.get_i64() };
        let [sealed, epochs, snapshots] = [(); 3].map(|()| usize::from(bytes.get_u16()));
        let [producers, mark] = [(); 2].map(|()| bytes.get_u32() as usize);
        let fits = sealed.max(epochs).max(snapshots) <= PARTS_MAX
            && producers <= PRODUCERS_BYTES_MAX
            && bytes.len() == sealed * 16 + epochs * 12 + snapshots * 8 + producers + mark;
        if !fits {
            return None;
        }
        let sealed: Vec<_> = (0..sealed).map(|_| (bytes.get_i64(), bytes.get_u64())).collect();
        let mut known = LeaderEpochs::default();
        for _ in 0..epochs {
            let (epoch, start) = (LeaderEpoch(bytes.get_i32()), Offset(bytes.get_i64()));
            if !known.note(epoch, start) {
                return None;
            }
        }
        let snapshots: Vec<_> = (0..snapshots).map(|_| bytes.get_i64()).collect();
        let (producers, mark) = bytes.split_at(producers);
        let mark = SegmentMark::decode(mark)?;
        let bases = sealed.iter().map(|s| s.0).chain([mark.base]);
        let in_order = bases.is_sorted_by(|a, b| a < b) && log_start >= 0;
        in_order.then(|| Self {
            log_start,
            mark,
            last_offset: (last_offset.offset >= 0).then_some(last_offset),
            last_time: (last_time.offset >= 0).then_some(last_time),
            sealed,
            epochs: known,
            snapshots,
            producers: producers.to_vec(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(sealed: usize, epochs: usize, snapshots: usize, producers: usize, log_start: i64) -> PartitionState {
        let mut known = LeaderEpochs::default();
        for n in 0..epochs {
            known.note(LeaderEpoch(n as i32 * 2), Offset(n as i64 * 5));
        }
        PartitionState {
            log_start,
            mark: SegmentMark::example(sealed as i64 * 10),
            last_offset: (sealed > 1).then_some(OffsetEntry { offset: 7, position: 9 }),
            last_time: (epochs > 1).then_some(TimeEntry { timestamp: 3, offset: 4 }),
            sealed: (0..sealed).map(|n| (n as i64 * 10, 100 + n as u64)).collect(),
            epochs: known,
            snapshots: (0..snapshots).map(|n| n as i64 * 3).collect(),
            producers: vec![7; producers],
        }
    }

    #[test]
    fn what_is_too_large_is_not_written() {
        assert!(state(PARTS_MAX, PARTS_MAX, PARTS_MAX, PRODUCERS_BYTES_MAX, 0).encode().is_some());
        for large in [state(PARTS_MAX + 1, 0, 0, 0, 0), state(0, 0, 0, PRODUCERS_BYTES_MAX + 1, 0)] {
            assert_eq!(large.encode(), None);
        }
    }

    proptest! {
        #[test]
        fn states_come_back(
            parts in (0_usize..9, 0_usize..9, 0_usize..9), producers in 0_usize..300, start in 0_i64.., cut in 0_usize..60,
        ) {
            let state = state(parts.0, parts.1, parts.2, producers, start);
            let bytes = state.encode().expect("small");
            prop_assert_eq!(PartitionState::decode(&bytes[..bytes.len() - 1 - cut]), None);
            prop_assert_eq!(PartitionState::decode(&bytes), Some(state));
        }

        #[test]
        fn garbage_is_read_without_panic(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400), parts in (0_usize..9, 0_usize..9), at in any::<usize>(),
        ) {
            let _ = PartitionState::decode(&bytes);
            let mut near = state(parts.0, parts.1, 1, 9, 4).encode().expect("small");
            let at = at % near.len();
            near[at] ^= bytes.pop().unwrap_or(1);
            if let Some(state) = PartitionState::decode(&near) {
                prop_assert!(state.encode().is_some());
            }
        }
    }
}
