//! See `tidegate_fuzz::extensions`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::extensions::run(input));
