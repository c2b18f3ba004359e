//! A segment as recovery reads it, with the checksum of its first batch put right, and the small files beside it.
#![no_main]

use coreline::log::leader_epochs::LeaderEpochs;
use coreline::log::producer_state::ProducerStates;
use coreline::log::{partition_metadata, segment};
use std::ops::ControlFlow;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut bytes = data.to_vec();
    if bytes.len() >= 61 {
        let length = u32::from_be_bytes(bytes[8..12].try_into().expect("4 bytes")) as usize;
        if let Some(end) = length.checked_add(12).filter(|end| *end <= bytes.len() && *end > 21) {
            let crc = crc32c::crc32c(&bytes[21..end]);
            bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        }
    }
    let (valid, _) = segment::scan(&bytes, 0, |_, _| ControlFlow::Continue(()));
    assert!(valid <= bytes.len());
    if let Some(states) = ProducerStates::decode_snapshot(data) {
        let again = ProducerStates::decode_snapshot(&states.encode_snapshot()).expect("our own snapshot");
        assert_eq!(again.len(), states.len());
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = LeaderEpochs::decode(text);
        let _ = partition_metadata::decode(text);
        let _ = segment::parse_file_name(text);
        let _ = coreline::config::parse_properties(text);
    }
});
