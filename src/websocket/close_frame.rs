//! The payload of a Close frame (RFC 6455 sections 5.5.1 and 7.4).

use tungstenite::protocol::frame::coding::{Control, OpCode};

use super::frame::{self, CONTROL_PAYLOAD_MAX};
use super::violation::Violation;

/// The longest reason, in bytes: a control frame carries 125, two of them are the code.
pub const REASON_MAX: usize = CONTROL_PAYLOAD_MAX - 2;

/// Whether a peer may send `code` (section 7.4 and the IANA registry of close codes): 1000 to
/// 1003, 1007 to 1014, and 3000 to 4999. 1004 is reserved; 1005, 1006 and 1015 are for use
/// inside an endpoint and never on the wire.
pub fn is_valid_code(code: u16) -> bool {
    matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
}

/// Reads the payload of a received Close frame: no code when it is empty.
///
/// # Errors
/// A payload of one byte or a code that must not be sent (1002), a reason that is not UTF-8
/// (1007).
pub fn parse(payload: &[u8]) -> Result<(Option<u16>, &str), Violation> {
    match payload {
        [] => Ok((None, "")),
        [_] => Err(Violation::CloseLength),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !is_valid_code(code) {
                return Err(Violation::CloseCode);
            }
            let reason =
                simdutf8::basic::from_utf8(reason).map_err(|_| Violation::CloseReasonUtf8)?;
            Ok((Some(code), reason))
        }
    }
}

/// Appends a server's Close frame to `out`. `reason` is cut at a character boundary to
/// [`REASON_MAX`] bytes.
///
/// `code` is ours to choose, so one that must not be sent is a bug of the caller.
pub fn encode(code: u16, reason: &str, out: &mut Vec<u8>) {
    let (payload, len) = payload(code, reason);
    frame::encode(OpCode::Control(Control::Close), &payload[..len], out);
}

/// As [`encode`], for the client side: masked with `key`.
pub fn encode_masked(code: u16, reason: &str, key: [u8; 4], out: &mut Vec<u8>) {
    let (payload, len) = payload(code, reason);
    frame::encode_masked(OpCode::Control(Control::Close), &payload[..len], key, out);
}

fn payload(code: u16, reason: &str) -> ([u8; CONTROL_PAYLOAD_MAX], usize) {
    debug_assert!(is_valid_code(code), "close code {code} must not be sent");
    let reason = &reason.as_bytes()[..reason.floor_char_boundary(REASON_MAX)];
    let mut payload = [0; CONTROL_PAYLOAD_MAX];
    payload[..2].copy_from_slice(&code.to_be_bytes());
    payload[2..2 + reason.len()].copy_from_slice(reason);
    (payload, 2 + reason.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_judged() {
        for code in 0..=u16::MAX {
            let valid = (1000..=1003).contains(&code)
                || (1007..=1014).contains(&code)
                || (3000..=4999).contains(&code);
            let payload = code.to_be_bytes();
            match parse(&payload) {
                Ok(parsed) => assert!(valid && parsed == (Some(code), ""), "{code}"),
                Err(violation) => assert!(!valid && violation == Violation::CloseCode, "{code}"),
            }
        }
    }

    #[test]
    fn payloads_that_are_no_code_and_reason() {
        assert_eq!(parse(b""), Ok((None, "")));
        assert_eq!(parse(b"\x03"), Err(Violation::CloseLength));
        assert_eq!(parse(b"\x03\xe8bye"), Ok((Some(1000), "bye")));
        assert_eq!(parse(b"\x03\xe8\xff"), Err(Violation::CloseReasonUtf8));
        assert_eq!(parse(b"\x03\xed\xff"), Err(Violation::CloseCode), "the code is read first");
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut out = Vec::new();
        encode(1001, &"€".repeat(50), &mut out);
        assert_eq!(out[..4], [0x88, 125, 0x03, 0xe9]);
        assert_eq!(&out[4..], "€".repeat(41).as_bytes());

        out.clear();
        encode(1001, &format!("a{}", "€".repeat(50)), &mut out);
        assert_eq!(usize::from(out[1]), 2 + 1 + 40 * 3);
        assert!(parse(&out[2..]).is_ok());
    }
}
