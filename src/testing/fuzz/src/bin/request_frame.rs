//! A frame as a connection reads it: header, body, every API and version.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    coreline::protocol::fuzz_request_frame(data);
});
