//! See `tidegate_fuzz::canary`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| tidegate_fuzz::canary::run(input));
