//! A record batch as a producer sends it: as it comes, and with its checksum put right, to get past it.
#![no_main]

use coreline::ids::{LeaderEpoch, Offset};
use coreline::log::batch::{self, ValidationRules};
use coreline::log::log_config::TimestampType;

const RULES: ValidationRules = ValidationRules {
    max_bytes: 1 << 20,
    timestamp_type: TimestampType::CreateTime,
    before_max_ms: i64::MAX,
    after_max_ms: 3_600_000,
    now_ms: 1_700_000_000_000,
};

fn look(bytes: &[u8]) {
    for found in batch::batches(bytes) {
        let Ok((header, range)) = found else { return };
        let _ = batch::record_times(&header, &bytes[range]);
    }
    let Ok(header) = batch::validate(bytes, &RULES) else { return };
    let mut stamped = bytes[..header.size_in_bytes()].to_vec();
    batch::assign(&mut stamped, Offset(77), LeaderEpoch(3), Some(5));
    let again = batch::parse_header(&stamped).expect("a stamped batch has a header");
    assert_eq!((again.base_offset, again.max_timestamp), (Offset(77), 5));
    batch::check_crc(&again, &stamped).expect("a stamped batch has its checksum");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    look(data);
    if data.len() >= batch::HEADER_LEN {
        let mut whole = data.to_vec();
        let length = u32::try_from(whole.len() - 12).expect("an input is small");
        whole[8..12].copy_from_slice(&length.to_be_bytes());
        whole[16] = 2;
        let crc = crc32c::crc32c(&whole[21..]);
        whole[17..21].copy_from_slice(&crc.to_be_bytes());
        look(&whole);
    }
});
