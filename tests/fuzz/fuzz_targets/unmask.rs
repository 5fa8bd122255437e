//! See `tidegate_fuzz::unmask`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::unmask::run(input));
