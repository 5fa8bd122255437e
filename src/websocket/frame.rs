//! Frame headers (RFC 6455 section 5.2): reading them with every rule that a header alone can
//! break, and writing whole frames.
//!
//! Not here: rules that need the message a frame belongs to (`message`).

use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use super::mask::apply_mask;
use super::violation::Violation;

/// The longest payload of a control frame, in bytes (section 5.5).
pub const CONTROL_PAYLOAD_MAX: usize = 125;

/// The longest header, in bytes: two, a 64-bit length, a mask.
pub const HEADER_MAX: usize = 14;

const FIN: u8 = 0x80;
const RSV: u8 = 0x70;
const RSV1: u8 = 0x40;
const MASKED: u8 = 0x80;

/// Which end of the connection reads the frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// A server: every frame it receives must be masked (section 5.1).
    Server,
    /// A client: no frame it receives may be masked (section 5.1).
    Client,
}

/// What the payload of a data frame may have, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadMax {
    /// Without RSV1.
    pub plain: usize,
    /// With RSV1; `None` if no compression was negotiated.
    pub compressed: Option<usize>,
}

impl PayloadMax {
    /// For a connection without compression.
    pub const fn plain(plain: usize) -> Self {
        Self { plain, compressed: None }
    }
}

/// A header that broke no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// The last frame of its message.
    pub fin: bool,
    /// Never a reserved one.
    pub opcode: OpCode,
    /// RSV1: the message that begins here is compressed (RFC 7692 section 6).
    pub compressed: bool,
    /// The masking key; present exactly when the reader is a server.
    pub mask: Option<[u8; 4]>,
    /// Length of the payload in bytes; of a data frame within the limit given to
    /// [`parse_header`].
    pub payload_len: usize,
    /// Length of the header itself in bytes, 2 to [`HEADER_MAX`].
    pub header_len: usize,
}

/// Reads the header at the start of `bytes`; `None` when more bytes are needed, which is never
/// the case from [`HEADER_MAX`] bytes on. `max` is what a data frame may carry; control frames
/// have their own limit.
///
/// The rules are checked in the order of the bytes they concern, each as soon as its bytes are
/// there, so how the bytes were cut into reads cannot change which violation is reported.
///
/// # Errors
/// The first rule broken: reserved bits or opcodes, a control frame that is fragmented or long,
/// wrong masking, a length that is not minimal or has its top bit set (1002), a payload over its
/// limit (1009).
#[inline]
pub fn parse_header(
    bytes: &[u8],
    role: Role,
    max: PayloadMax,
) -> Result<Option<FrameHeader>, Violation> {
    let &[first, ref rest @ ..] = bytes else { return Ok(None) };
    let (opcode, payload_max) = parse_first(first, max)?;
    let &[second, ref rest @ ..] = rest else { return Ok(None) };
    parse_second(second, opcode, role)?;
    let Some((payload_len, length_len)) = parse_length(second & !MASKED, rest)? else {
        return Ok(None);
    };
    let payload_len = match usize::try_from(payload_len) {
        Ok(len) if len <= payload_max || matches!(opcode, OpCode::Control(_)) => len,
        _ => return Err(Violation::MessageTooBig),
    };
    let (mask, mask_len) = match role {
        Role::Client => (None, 0),
        Role::Server => match rest[length_len..].first_chunk() {
            Some(&key) => (Some(key), 4),
            None => return Ok(None),
        },
    };
    let header_len = 2 + length_len + mask_len;
    let (fin, compressed) = (first & FIN != 0, first & RSV1 != 0);
    Ok(Some(FrameHeader { fin, opcode, compressed, mask, payload_len, header_len }))
}

#[inline]
fn parse_first(first: u8, max: PayloadMax) -> Result<(OpCode, usize), Violation> {
    let opcode = OpCode::from(first & 0x0f);
    let payload_max = match (first & RSV, opcode, max.compressed) {
        (0, ..) => max.plain,
        (RSV1, OpCode::Data(Data::Text | Data::Binary), Some(compressed)) => compressed,
        _ => return Err(Violation::ReservedBits),
    };
    match opcode {
        OpCode::Data(Data::Reserved(_)) | OpCode::Control(Control::Reserved(_)) => {
            Err(Violation::ReservedOpcode)
        }
        OpCode::Control(_) if first & FIN == 0 => Err(Violation::FragmentedControl),
        _ => Ok((opcode, payload_max)),
    }
}

#[inline]
fn parse_second(second: u8, opcode: OpCode, role: Role) -> Result<(), Violation> {
    match (role, second & MASKED != 0) {
        (Role::Server, false) => return Err(Violation::UnmaskedFrame),
        (Role::Client, true) => return Err(Violation::MaskedFrame),
        _ => {}
    }
    if matches!(opcode, OpCode::Control(_)) && usize::from(second & !MASKED) > CONTROL_PAYLOAD_MAX {
        return Err(Violation::LongControl);
    }
    Ok(())
}

/// The payload length and the number of bytes after the second that it took.
#[inline]
fn parse_length(short: u8, rest: &[u8]) -> Result<Option<(u64, usize)>, Violation> {
    match short {
        126 => {
            let Some(&bytes) = rest.first_chunk() else { return Ok(None) };
            match u16::from_be_bytes(bytes) {
                0..126 => Err(Violation::NonMinimalLength),
                len => Ok(Some((u64::from(len), 2))),
            }
        }
        127 => {
            let Some(&bytes) = rest.first_chunk() else { return Ok(None) };
            match u64::from_be_bytes(bytes) {
                0..=0xffff => Err(Violation::NonMinimalLength),
                len if len >> 63 == 1 => Err(Violation::LengthTopBit),
                len => Ok(Some((len, 8))),
            }
        }
        len => Ok(Some((u64::from(len), 0))),
    }
}

/// The bytes of a header that was written here.
#[derive(Debug, Clone, Copy)]
pub struct HeaderBytes {
    bytes: [u8; HEADER_MAX],
    len: u8,
}

impl HeaderBytes {
    /// The header of a final frame with a payload of `payload_len` bytes: a server's when
    /// `mask` is `None`, a client's otherwise.
    pub fn new(opcode: OpCode, payload_len: usize, mask: Option<[u8; 4]>) -> Self {
        let mut header = Self { bytes: [0; HEADER_MAX], len: 0 };
        header.push(&[FIN | (u8::from(opcode) & 0x0f)]);
        let masked = if mask.is_some() { MASKED } else { 0 };
        match payload_len {
            0..126 => header.push(&[masked | payload_len as u8]),
            126..=0xffff => {
                header.push(&[masked | 126]);
                header.push(&(payload_len as u16).to_be_bytes());
            }
            _ => {
                header.push(&[masked | 127]);
                header.push(&(payload_len as u64).to_be_bytes());
            }
        }
        if let Some(key) = mask {
            header.push(&key);
        }
        header
    }

    /// The same with RSV1: the payload of this data message is compressed.
    pub fn compressed(mut self) -> Self {
        self.bytes[0] |= RSV1;
        self
    }

    /// The header as it goes on the wire.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    fn push(&mut self, bytes: &[u8]) {
        let start = usize::from(self.len);
        self.bytes[start..start + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len() as u8;
    }
}

/// Appends a server's frame to `out`: final, not masked.
///
/// A control frame's payload must be at most [`CONTROL_PAYLOAD_MAX`] bytes; more is a bug of the
/// caller.
pub fn encode(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    debug_assert_encodable(opcode, payload);
    let header = HeaderBytes::new(opcode, payload.len(), None);
    out.reserve(header.as_slice().len() + payload.len());
    out.extend_from_slice(header.as_slice());
    out.extend_from_slice(payload);
}

/// Appends a server's frame with a compressed data message to `out`.
pub fn encode_compressed(kind: Data, payload: &[u8], out: &mut Vec<u8>) {
    let header = HeaderBytes::new(OpCode::Data(kind), payload.len(), None).compressed();
    out.reserve(header.as_slice().len() + payload.len());
    out.extend_from_slice(header.as_slice());
    out.extend_from_slice(payload);
}

/// The kind and the message of a final frame of a server, as [`encode`] made it; `None` if it is
/// anything else.
pub fn data_of(frame: &[u8]) -> Option<(Data, &[u8])> {
    let header = parse_header(frame, Role::Client, PayloadMax::plain(usize::MAX)).ok()??;
    let OpCode::Data(kind) = header.opcode else { return None };
    let payload = &frame[header.header_len..];
    (header.fin && payload.len() == header.payload_len).then_some((kind, payload))
}

/// Appends a client's frame to `out`: final, masked with `key`, which has to be unpredictable
/// in real use (section 5.3).
pub fn encode_masked(opcode: OpCode, payload: &[u8], key: [u8; 4], out: &mut Vec<u8>) {
    debug_assert_encodable(opcode, payload);
    let header = HeaderBytes::new(opcode, payload.len(), Some(key));
    out.reserve(header.as_slice().len() + payload.len());
    out.extend_from_slice(header.as_slice());
    let start = out.len();
    out.extend_from_slice(payload);
    apply_mask(&mut out[start..], key, 0);
}

fn debug_assert_encodable(opcode: OpCode, payload: &[u8]) {
    debug_assert!(
        !matches!(opcode, OpCode::Control(_)) || payload.len() <= CONTROL_PAYLOAD_MAX,
        "control payload of {} bytes",
        payload.len()
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: OpCode = OpCode::Data(Data::Text);
    const LEN_MAX: usize = 1 << 20;
    const MAX: PayloadMax = PayloadMax::plain(LEN_MAX);

    #[test]
    fn headers_that_break_a_rule() {
        use Violation as V;
        let cases: [(&str, &[u8], Violation); 23] = [
            ("rsv1", &[0xc1], V::ReservedBits),
            ("rsv2", &[0xa1], V::ReservedBits),
            ("rsv3", &[0x91, 0x80], V::ReservedBits),
            ("rsv on a control frame", &[0xc9], V::ReservedBits),
            ("opcode 3", &[0x83], V::ReservedOpcode),
            ("opcode 7", &[0x87], V::ReservedOpcode),
            ("opcode 11", &[0x8b], V::ReservedOpcode),
            ("opcode 15", &[0x8f], V::ReservedOpcode),
            ("opcode 11 fragmented", &[0x0b], V::ReservedOpcode),
            ("fragmented close", &[0x08], V::FragmentedControl),
            ("fragmented ping", &[0x09], V::FragmentedControl),
            ("fragmented pong", &[0x0a], V::FragmentedControl),
            ("unmasked", &[0x81, 0x05], V::UnmaskedFrame),
            ("unmasked long ping", &[0x89, 0x7e], V::UnmaskedFrame),
            ("ping of 126", &[0x89, 0xfe], V::LongControl),
            ("close of 2^16", &[0x88, 0xff], V::LongControl),
            ("0 in 16 bits", &[0x81, 0xfe, 0, 0], V::NonMinimalLength),
            ("125 in 16 bits", &[0x81, 0xfe, 0, 125], V::NonMinimalLength),
            ("65535 in 64 bits", &[0x81, 0xff, 0, 0, 0, 0, 0, 0, 255, 255], V::NonMinimalLength),
            ("top bit", &[0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1], V::LengthTopBit),
            ("all ones", &[0x82, 0xff, 255, 255, 255, 255, 255, 255, 255, 255], V::LengthTopBit),
            ("2^63-1", &[0x82, 0xff, 127, 255, 255, 255, 255, 255, 255, 255], V::MessageTooBig),
            ("limit + 1", &[0x82, 0xff, 0, 0, 0, 0, 0, 16, 0, 1], V::MessageTooBig),
        ];
        for (name, bytes, violation) in cases {
            assert_eq!(parse_header(bytes, Role::Server, MAX), Err(violation), "{name}");
            let full = [bytes, &[0; HEADER_MAX]].concat();
            assert_eq!(parse_header(&full, Role::Server, MAX), Err(violation), "{name}, whole");
        }
    }

    #[test]
    fn a_client_refuses_a_mask() {
        assert_eq!(parse_header(&[0x81, 0x80], Role::Client, MAX), Err(Violation::MaskedFrame));
    }

    #[test]
    fn what_is_written_is_read_back_and_no_prefix_of_it_is() {
        let lengths = [0, 1, 124, 125, 126, 127, 65_535, 65_536, LEN_MAX];
        for len in lengths {
            for mask in [None, Some([1, 2, 3, 4])] {
                let role = if mask.is_some() { Role::Server } else { Role::Client };
                let bytes = HeaderBytes::new(TEXT, len, mask);
                let bytes = bytes.as_slice();
                let header = parse_header(bytes, role, MAX).unwrap().unwrap();
                let header_len = bytes.len();
                let expected = FrameHeader {
                    fin: true,
                    opcode: TEXT,
                    compressed: false,
                    mask,
                    payload_len: len,
                    header_len,
                };
                assert_eq!(header, expected);
                for cut in 0..header_len {
                    assert_eq!(parse_header(&bytes[..cut], role, MAX), Ok(None), "{len} at {cut}");
                }
            }
        }
    }

    #[test]
    fn the_limit_itself_is_allowed_and_does_not_concern_control_frames() {
        let parse = |header: HeaderBytes, max| {
            parse_header(header.as_slice(), Role::Client, PayloadMax::plain(max))
        };
        let text = HeaderBytes::new(TEXT, 10, None);
        assert!(parse(text, 10).is_ok());
        assert_eq!(parse(text, 9), Err(Violation::MessageTooBig));
        let ping = HeaderBytes::new(OpCode::Control(Control::Ping), 125, None);
        assert!(parse(ping, 0).unwrap().is_some());
    }

    #[test]
    fn rsv1_may_begin_a_message_where_compression_was_negotiated_and_be_nowhere_else() {
        let max = PayloadMax { plain: 10, compressed: Some(20) };
        for first in 0..=u8::MAX {
            let compressed = matches!(first & 0x7f, 0x41 | 0x42);
            let reserved = first & 0x70 != 0 && !compressed;
            let header = parse_header(&[first, 0], Role::Client, max);
            assert_eq!(header == Err(Violation::ReservedBits), reserved, "{first:#04x}");
            if compressed {
                assert!(header.unwrap().unwrap().compressed);
                assert!(parse_header(&[first, 20], Role::Client, max).is_ok());
                let plain = parse_header(&[first, 0], Role::Client, PayloadMax::plain(20));
                assert_eq!(plain, Err(Violation::ReservedBits));
            }
            let long = parse_header(&[first, 21], Role::Client, max);
            assert!(!compressed || long == Err(Violation::MessageTooBig));
        }
    }

    #[test]
    fn the_message_in_a_frame_of_ours_is_found() {
        let mut out = Vec::new();
        encode(TEXT, b"Hello", &mut out);
        assert_eq!(data_of(&out), Some((Data::Text, &b"Hello"[..])));
        assert_eq!(data_of(&out[..6]), None);
        out.clear();
        encode(OpCode::Control(Control::Ping), b"Hello", &mut out);
        assert_eq!(data_of(&out), None);
        out.clear();
        encode_compressed(Data::Text, &[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], &mut out);
        assert_eq!(out, [0xc1, 0x07, 0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], "RFC 7692 7.2.3.1");
        assert_eq!(data_of(&out), None);
    }

    #[test]
    fn the_examples_of_the_rfc() {
        let mut out = Vec::new();
        encode(TEXT, b"Hello", &mut out);
        assert_eq!(out, [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        out.clear();
        encode_masked(TEXT, b"Hello", [0x37, 0xfa, 0x21, 0x3d], &mut out);
        assert_eq!(out, [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]);
    }
}
