//! Unmasking equals its definition, whole and in two pieces.

use tidegate::websocket::mask::apply_mask;

/// Key, offset, place of the cut, and the payload.
pub fn run(input: &[u8]) {
    let [a, b, c, d, offset, cut, payload @ ..] = input else { return };
    let (key, offset) = ([*a, *b, *c, *d], usize::from(*offset));
    let expected: Vec<u8> =
        payload.iter().enumerate().map(|(at, byte)| byte ^ key[(offset + at) % 4]).collect();
    let mut whole = payload.to_vec();
    apply_mask(&mut whole, key, offset);
    assert_eq!(whole, expected);
    let cut = usize::from(*cut).min(payload.len());
    let mut pieces = payload.to_vec();
    apply_mask(&mut pieces[..cut], key, offset);
    apply_mask(&mut pieces[cut..], key, offset + cut);
    assert_eq!(pieces, expected);
}
