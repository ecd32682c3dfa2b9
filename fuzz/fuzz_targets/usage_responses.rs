#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nullspend_fuzz::usage_responses(bytes));
