//! See `tidegate_fuzz::admin`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::admin::run(input));
