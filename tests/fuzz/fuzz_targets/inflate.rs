//! See `tidegate_fuzz::inflate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::inflate::run(input));
