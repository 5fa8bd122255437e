//! See `tidegate_fuzz::redis_reply`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::redis_reply::run(input));
