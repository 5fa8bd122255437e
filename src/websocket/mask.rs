//! Masking of payloads (RFC 6455 section 5.3): an XOR with a key of four bytes, repeated.

/// XORs `bytes` with `key`, in place. `offset` is the position of `bytes[0]` in the frame's
/// payload, so that a payload can be unmasked in pieces as it arrives. Applying it twice gives
/// the original back.
///
/// Eight bytes at a time over plain arrays: the compiler makes vector instructions of it, so
/// that large payloads are unmasked at the speed of memory.
pub fn apply_mask(bytes: &mut [u8], mut key: [u8; 4], offset: usize) {
    key.rotate_left(offset % 4);
    let [a, b, c, d] = key;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (chunks, tail) = bytes.as_chunks_mut::<8>();
    for chunk in chunks {
        *chunk = (u64::from_ne_bytes(*chunk) ^ wide).to_ne_bytes();
    }
    for (byte, key_byte) in tail.iter_mut().zip(wide.to_ne_bytes()) {
        *byte ^= key_byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &mut [u8], key: [u8; 4], offset: usize) {
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte ^= key[(offset + i) % 4];
        }
    }

    #[test]
    fn the_example_of_the_rfc() {
        let mut hello = [0x7f, 0x9f, 0x4d, 0x51, 0x58];
        apply_mask(&mut hello, [0x37, 0xfa, 0x21, 0x3d], 0);
        assert_eq!(&hello, b"Hello");
    }

    proptest! {
        #[test]
        fn equals_the_definition(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in any::<[u8; 4]>(),
            offset in 0usize..1000,
            skip in 0usize..9,
        ) {
            let skip = skip.min(bytes.len());
            let (mut fast, mut slow) = (bytes.clone(), bytes);
            apply_mask(&mut fast[skip..], key, offset);
            naive(&mut slow[skip..], key, offset);
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn pieces_equal_the_whole(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            key in any::<[u8; 4]>(),
            cut in 0usize..200,
        ) {
            let cut = cut.min(bytes.len());
            let (mut whole, mut pieces) = (bytes.clone(), bytes);
            apply_mask(&mut whole, key, 0);
            apply_mask(&mut pieces[..cut], key, 0);
            apply_mask(&mut pieces[cut..], key, cut);
            prop_assert_eq!(whole, pieces);
        }
    }
}
