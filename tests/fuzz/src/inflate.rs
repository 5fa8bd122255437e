//! What is inflated is what a simple reader makes of it, in bounds; and what is compressed is read
//! back in its window.

use std::cell::RefCell;

use tidegate::websocket::Violation;
use tidegate::websocket::deflate::{Compressor, Inflater, Window};

#[path = "../../../src/websocket/deflate/naive.rs"]
mod naive;

thread_local! {
    /// One of each for all inputs, as a shard has them: nothing may be left of the last message.
    static BOTH: RefCell<(Inflater, Compressor)> = RefCell::default();
}

/// The limit, in units of 16 bytes, and a payload.
pub fn run(input: &[u8]) {
    let [limit, payload @ ..] = input else { return };
    let max = 16 * usize::from(*limit);
    BOTH.with_borrow_mut(|(inflater, compressor)| {
        reads_what_it_should(inflater, payload, max);
        comes_back(inflater, compressor, payload);
    });
}

fn reads_what_it_should(inflater: &mut Inflater, payload: &[u8], max: usize) {
    match inflater.inflate(payload, max) {
        Ok(message) => {
            assert!(message.len() <= max);
            if let Some(simple) = naive::inflate(payload) {
                assert_eq!(message, &simple.bytes[..]);
            }
        }
        Err(Violation::MessageTooBig) => {
            if let Some(simple) = naive::inflate(payload) {
                assert!(simple.bytes.len() > max, "{} of {max}", simple.bytes.len());
            }
        }
        Err(violation) => assert_eq!(violation, Violation::InvalidDeflate),
    }
}

fn comes_back(inflater: &mut Inflater, compressor: &mut Compressor, payload: &[u8]) {
    for code in [1, 4, 7] {
        let Some(window) = Window::from_code(code) else { continue };
        if let Some(compressed) = compressor.compress(payload, window) {
            assert_eq!(inflater.inflate(compressed, payload.len()), Ok(payload));
            let simple = naive::inflate(compressed).expect("what was compressed");
            assert_eq!(simple.bytes, payload);
            assert!(window.bits() > 9 || simple.furthest <= 256, "{}", simple.furthest);
        }
    }
}
