#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| armorer::properties::answers(data));
