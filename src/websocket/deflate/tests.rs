//! What is compressed can be read by anybody, in the window that was asked for; what is read is
//! what a simple reader makes of it; and what is not DEFLATE, or too much, ends at once.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::websocket::Violation;
use proptest::prelude::*;

const MAX: usize = 1 << 20;

fn windows() -> impl Iterator<Item = Window> {
    (1..8).filter_map(Window::from_code)
}

/// Text with repetitions near and far, and bytes without any.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        "[a-d]{0,300}".prop_map(String::into_bytes),
        (any::<u8>(), 0usize..2_000).prop_map(|(byte, len)| vec![byte; len]),
    ];
    prop::collection::vec((piece, 1usize..4), 0..8).prop_map(|pieces| {
        let mut whole: Vec<u8> = Vec::new();
        for (piece, times) in &pieces {
            whole.extend(piece.repeat(*times));
        }
        // Everything once more, far behind itself.
        let again = whole.clone();
        whole.extend(again);
        whole
    })
}

#[test]
fn the_codes_of_windows_fit_in_three_bits_and_zero_is_none() {
    let bits: Vec<_> = windows().map(Window::bits).collect();
    assert_eq!(bits, [9, 10, 11, 12, 13, 14, 15]);
    for window in windows() {
        assert_eq!(Window::from_code(window.code()), Some(window));
    }
    assert_eq!((Window::from_code(0), Window::from_code(8)), (None, None));
    assert_eq!((Window::of_bits(7), Window::of_bits(16)), (None, None));
    assert_eq!(Window::of_bits(8), Some(Window::SMALLEST));
    assert!(Window::SMALLEST.holds(256) && !Window::SMALLEST.holds(257));
    assert!(Window::FULL.holds(1 << 20));
    assert_eq!(
        Window::from_code(4).map(|window| (window.holds(4096), window.holds(4097))),
        Some((true, false))
    );
}

#[test]
fn the_examples_of_the_rfc() {
    // Sections 7.2.3.1 to 7.2.3.5: one block, no compression, a final block, two blocks.
    let examples: [&[u8]; 4] = [
        &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00],
        &[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00],
        &[0xf3, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00, 0x00],
        &[0xf2, 0x48, 0x05, 0x00, 0x00, 0x00, 0xff, 0xff, 0xca, 0xc9, 0xc9, 0x07, 0x00],
    ];
    let mut inflater = Inflater::default();
    for example in examples {
        assert_eq!(inflater.inflate(example, 5), Ok(&b"Hello"[..]), "{example:02x?}");
        assert_eq!(inflater.inflate(example, 4), Err(Violation::MessageTooBig), "{example:02x?}");
    }
    assert_eq!(inflater.inflate(&[0x00], 0), Ok(&b""[..]), "an empty message");
    assert_eq!(inflater.inflate(&[0x02, 0x00], 0), Ok(&b""[..]), "an empty fixed block");
    assert_eq!(inflater.inflate(&[], 0), Ok(&b""[..]), "no payload at all");
}

#[test]
fn an_inflater_is_the_same_after_an_error() {
    let mut inflater = Inflater::default();
    for bad in [&[0x07][..], &[0xff; 40], &[0xf2, 0x48, 0xcd, 0xff, 0xff, 0xff, 0xff, 0xff]] {
        assert_eq!(inflater.inflate(bad, MAX), Err(Violation::InvalidDeflate), "{bad:02x?}");
        let hello = [0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00];
        assert_eq!(inflater.inflate(&hello, MAX), Ok(&b"Hello"[..]));
    }
}

#[test]
fn a_bomb_costs_no_more_than_the_largest_message() {
    // A thousand to one, the most that DEFLATE does.
    let mut bomb = flate2::Compress::new(flate2::Compression::best(), false);
    let mut bytes = Vec::with_capacity(1 << 20);
    let zeros = vec![0; 64 << 20];
    bomb.compress_vec(&zeros, &mut bytes, flate2::FlushCompress::Sync).unwrap();
    assert!(bytes.len() < zeros.len() / 900);
    let mut inflater = Inflater::default();
    for max in [0, 1, 1000, MAX] {
        assert_eq!(inflater.inflate(&bytes, max), Err(Violation::MessageTooBig));
        assert!(inflater.output.len() <= (max + 1).max(16 << 10), "{}", inflater.output.len());
    }
    assert_eq!(inflater.inflate(&[0x00], MAX), Ok(&b""[..]));
    assert!(inflater.output.len() <= 16 << 10, "what was long is given back");
}

#[test]
fn streams_without_end_are_refused() {
    let mut inflater = Inflater::default();
    assert_eq!(inflater.inflate(&[0x03, 0x00].repeat(1000), MAX), Ok(&b""[..]));
    let many = [0x03, 0x00].repeat(500_000);
    assert_eq!(inflater.inflate(&many, MAX), Err(Violation::InvalidDeflate));
}

#[test]
fn the_longest_message_that_cannot_be_compressed_is_read() {
    let mut random = 1_u64;
    let noise = std::iter::repeat_with(|| {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (random >> 56) as u8
    });
    let noise: Vec<u8> = noise.take(MAX).collect();
    for level in 0..10 {
        let mut compress = flate2::Compress::new(flate2::Compression::new(level), false);
        let mut bytes = Vec::with_capacity(2 * MAX);
        compress.compress_vec(&noise, &mut bytes, flate2::FlushCompress::Sync).unwrap();
        bytes.truncate(bytes.len() - 4);
        assert!(bytes.len() <= longest_compressed(MAX), "level {level}: {}", bytes.len());
        assert!(Inflater::default().inflate(&bytes, MAX) == Ok(&noise[..]), "level {level}");
    }
}

#[test]
fn what_is_not_shorter_or_takes_too_long_is_not_compressed() {
    let mut compressor = Compressor::default();
    assert_eq!(compressor.compress(b"", Window::FULL), None);
    assert_eq!(compressor.compress(b"short", Window::FULL), None);
    assert!(compressor.compress(&[b'x'; 100], Window::FULL).is_some());
    let long = vec![0; compress::LONGEST + 1];
    assert!(compressor.compress(&long[1..], Window::FULL).is_some());
    assert_eq!(compressor.compress(&long, Window::FULL), None);
}

proptest! {
    #[test]
    fn what_is_compressed_is_read_in_its_window_by_a_simple_reader_and_by_ours(
        message in message(),
    ) {
        let (mut compressor, mut inflater) = (Compressor::default(), Inflater::default());
        for window in windows() {
            let Some(payload) = compressor.compress(&message, window) else { continue };
            prop_assert!(payload.len() < message.len());
            let read = naive::inflate(payload);
            let reach = if window == Window::SMALLEST { 256 } else { 1 << window.bits() };
            prop_assert!(read.as_ref().is_some_and(|read| read.furthest <= reach), "{window:?}");
            prop_assert_eq!(read.map(|read| read.bytes), Some(message.clone()));
            prop_assert_eq!(inflater.inflate(payload, message.len()), Ok(&message[..]));
            let shorter = message.len() - 1;
            prop_assert_eq!(inflater.inflate(payload, shorter), Err(Violation::MessageTooBig));
        }
    }

    #[test]
    fn a_message_that_a_window_holds_is_read_in_it_however_it_was_compressed(
        message in message(),
    ) {
        let mut compressor = Compressor::default();
        for window in windows().filter(|window| window.holds(message.len())) {
            let Some(payload) = compressor.compress(&message, Window::FULL) else { break };
            let reach = if window == Window::SMALLEST { 256 } else { 1 << window.bits() };
            prop_assert!(naive::inflate(payload).is_some_and(|read| read.furthest <= reach));
        }
    }

    #[test]
    fn any_bytes_are_read_as_a_simple_reader_reads_them(
        payload in prop::collection::vec(any::<u8>(), 0..60),
        level in 0u32..10,
        message in message(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut compress = flate2::Compress::new(flate2::Compression::new(level), false);
        let mut damaged = Vec::with_capacity(2 * message.len() + 100);
        compress.compress_vec(&message, &mut damaged, flate2::FlushCompress::Sync).unwrap();
        damaged.truncate(damaged.len() - 4);
        for (at, byte) in damage {
            let at = at.index(damaged.len());
            damaged[at] = byte;
        }
        let mut inflater = Inflater::default();
        for payload in [payload, damaged] {
            // Where the simple reader finds an end, ours finds the same; ours is stricter about
            // codes that are not complete, and does not refuse what ends too early.
            let (ours, simple) = (inflater.inflate(&payload, MAX), naive::inflate(&payload));
            if let (Ok(ours), Some(simple)) = (ours, simple) {
                prop_assert_eq!(ours, &simple.bytes[..]);
            }
        }
    }
}
