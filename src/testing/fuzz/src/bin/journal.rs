//! A frame of the journal, and of the metadata log: as it comes, and with its checksum put right.
#![no_main]

use bytes::Bytes;
use coreline::controller::raft_log::{decode_snapshot, replay};
use coreline::controller::raft_wire::decode_message;
use coreline::controller::records::decode_records;
use coreline::log::journal::decode_frame;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    let _ = decode_frame(&bytes);
    let _ = replay(&bytes);
    let _ = decode_snapshot(bytes.clone());
    let _ = decode_message(bytes.clone());
    let _ = decode_records(bytes);
    // Magic, CRC of all that follows it, lap, sequence, length, entries.
    if data.len() > 32 {
        let mut frame = data.to_vec();
        frame[..4].copy_from_slice(&coreline::log::journal::MAGIC.to_be_bytes());
        let length = u32::try_from(frame.len() - 32).expect("an input is small");
        frame[24..28].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&crc.to_be_bytes());
        let _ = decode_frame(&frame.into());
    }
});
