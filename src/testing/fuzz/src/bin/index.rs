//! Offset and time indexes as they lie on the disk.
#![no_main]

use coreline::log::index::{OffsetEntry, TimeEntry, valid_offset_index, valid_time_index};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((head, index)) = data.split_first_chunk::<8>() else { return };
    let wanted = i64::from_be_bytes(*head);
    for base in [0, 1 << 40] {
        let valid = valid_offset_index(index, base, u64::from(u32::MAX));
        assert!(valid <= index.len());
        let _ = OffsetEntry::lookup(&index[..valid], base, wanted);
        let _ = OffsetEntry::lookup(index, base, wanted);
        let valid = valid_time_index(index, base);
        assert!(valid <= index.len());
        let _ = TimeEntry::lookup(&index[..valid], base, wanted);
        let _ = TimeEntry::get(index, base, head[0] as usize);
    }
});
