//! What a peer can do wrong on an open WebSocket, and the code that closes it.

use std::fmt;

use tungstenite::protocol::frame::coding::CloseCode;

/// A breach of RFC 6455 (or of the message limit) by the peer. The connection cannot be read
/// any further: send a Close frame with [`close_code`](Self::close_code) and end it (section
/// 7.1.7, "Fail the WebSocket Connection").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Violation {
    /// RSV2 or RSV3 set; or RSV1 where no compression was negotiated, or on a frame that does not
    /// begin a data message (5.2; RFC 7692 6.1).
    ReservedBits,
    /// An opcode that RFC 6455 reserves (5.2).
    ReservedOpcode,
    /// A control frame with FIN clear (5.5).
    FragmentedControl,
    /// A control frame of more than 125 bytes (5.5).
    LongControl,
    /// A length written in more bytes than it needs (5.2).
    NonMinimalLength,
    /// A 64-bit length with its top bit set (5.2).
    LengthTopBit,
    /// A frame from a client without a mask (5.1).
    UnmaskedFrame,
    /// A frame from a server with a mask (5.1).
    MaskedFrame,
    /// A continuation frame with no message to continue (5.4).
    NothingToContinue,
    /// A text or binary frame before the message in progress has ended (5.4).
    MessageInProgress,
    /// The message would be larger than the limit, or is made of too many empty fragments.
    MessageTooBig,
    /// Text that is not UTF-8 (8.1).
    InvalidUtf8,
    /// A compressed message that is not DEFLATE (RFC 7692 7.2.2).
    InvalidDeflate,
    /// A Close frame with a payload of one byte (5.5.1).
    CloseLength,
    /// A close code that must not be sent (7.4).
    CloseCode,
    /// A close reason that is not UTF-8 (5.5.1, 8.1).
    CloseReasonUtf8,
}

impl Violation {
    /// The code for the Close frame: 1009 for size, 1007 for what does not decode, 1002 for everything else
    /// (section 7.4.1).
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::MessageTooBig => CloseCode::Size,
            Self::InvalidUtf8 | Self::InvalidDeflate | Self::CloseReasonUtf8 => CloseCode::Invalid,
            _ => CloseCode::Protocol,
        }
    }

    /// The reason for the Close frame and the log: ASCII, at most 123 bytes, the same for every
    /// peer, never containing what the peer sent.
    pub fn reason(self) -> &'static str {
        match self {
            Self::ReservedBits => "reserved bit set where no extension allows it",
            Self::ReservedOpcode => "reserved opcode",
            Self::FragmentedControl => "fragmented control frame",
            Self::LongControl => "control frame longer than 125 bytes",
            Self::NonMinimalLength => "length not in its shortest form",
            Self::LengthTopBit => "top bit of a 64-bit length set",
            Self::UnmaskedFrame => "client frame without a mask",
            Self::MaskedFrame => "server frame with a mask",
            Self::NothingToContinue => "continuation without a message",
            Self::MessageInProgress => "new message before the last one ended",
            Self::MessageTooBig => "message too big",
            Self::InvalidUtf8 => "text is not UTF-8",
            Self::InvalidDeflate => "compressed message is not DEFLATE",
            Self::CloseLength => "close payload of one byte",
            Self::CloseCode => "close code not allowed",
            Self::CloseReasonUtf8 => "close reason is not UTF-8",
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

impl std::error::Error for Violation {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_violation_has_its_code() {
        assert_eq!(u16::from(Violation::MessageTooBig.close_code()), 1009);
        assert_eq!(u16::from(Violation::InvalidUtf8.close_code()), 1007);
        assert_eq!(u16::from(Violation::CloseReasonUtf8.close_code()), 1007);
        assert_eq!(u16::from(Violation::InvalidDeflate.close_code()), 1007);
        assert_eq!(u16::from(Violation::CloseCode.close_code()), 1002);
        assert_eq!(u16::from(Violation::LengthTopBit.close_code()), 1002);
    }
}
