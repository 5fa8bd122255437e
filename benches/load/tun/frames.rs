//! What a server sends, cut at any byte: the answer to the upgrade, then frames. Of the contents
//! only control frames are looked at; messages are counted and thrown away.

use std::io::Cursor;

use tidegate::http::response;
use tidegate::websocket::{Control, Data, OpCode, close_frame};
use tungstenite::protocol::frame::FrameHeader;

/// Bytes that a control frame may carry (RFC 6455 section 5.5).
const CONTROL_MAX: u64 = 125;
/// Bytes of an answer to the upgrade that are looked at.
const ANSWER_MAX: usize = 16 << 10;

/// Something complete that a server has said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    /// 101 that fits the request.
    Admitted,
    /// Another status.
    Refused(u16),
    /// The last frame of a message begins here; the rest of it is skipped.
    Message,
    Ping(Vec<u8>),
    Close(Option<u16>),
    /// Not HTTP, or not WebSocket, or a 101 for another request.
    Nonsense,
}

/// What is kept between two pieces of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unread {
    /// Payload of the present frame that is still to come and of no interest.
    pub(crate) skip: u64,
    /// The beginning of what is not complete yet.
    pub(crate) kept: Vec<u8>,
}

/// Reads the answer to the request with `key`; what is behind it stays in `unread`. `None` if it
/// is not complete.
pub(crate) fn answer(unread: &mut Unread, bytes: &[u8], key: &str) -> Option<Said> {
    unread.kept.extend_from_slice(bytes);
    let (said, len) = match response::parse_client(&unread.kept) {
        Ok(None) if unread.kept.len() < ANSWER_MAX => return None,
        Ok(Some(response)) if response.accepts(key) => (Said::Admitted, response.head_len),
        Ok(Some(response)) if response.status != 101 => {
            (Said::Refused(response.status), unread.kept.len())
        }
        Ok(_) | Err(_) => (Said::Nonsense, unread.kept.len()),
    };
    unread.kept.drain(..len);
    Some(said)
}

/// Reads frames, and calls `say` for each thing that is complete.
pub(crate) fn frames(unread: &mut Unread, bytes: &[u8], mut say: impl FnMut(Said)) {
    let joined;
    let mut rest = if unread.kept.is_empty() {
        bytes
    } else {
        unread.kept.extend_from_slice(bytes);
        joined = std::mem::take(&mut unread.kept);
        &joined[..]
    };
    loop {
        let skipped = unread.skip.min(rest.len() as u64);
        unread.skip -= skipped;
        rest = &rest[skipped as usize..];
        if rest.is_empty() {
            return;
        }
        let mut cursor = Cursor::new(rest);
        let (header, length) = match FrameHeader::parse(&mut cursor) {
            Ok(Some(found)) => found,
            Ok(None) => {
                unread.kept = rest.to_vec();
                return;
            }
            Err(_) => return say(Said::Nonsense),
        };
        let payload = &rest[cursor.position() as usize..];
        match header.opcode {
            _ if header.mask.is_some() => return say(Said::Nonsense),
            OpCode::Data(Data::Text | Data::Binary | Data::Continue) => {
                if header.is_final {
                    say(Said::Message);
                }
                unread.skip = length;
                rest = payload;
            }
            OpCode::Control(_) if length > CONTROL_MAX => return say(Said::Nonsense),
            OpCode::Control(_) if (payload.len() as u64) < length => {
                unread.kept = rest.to_vec();
                return;
            }
            OpCode::Control(control) => {
                let (body, behind) = payload.split_at(length as usize);
                rest = behind;
                match control {
                    Control::Ping => say(Said::Ping(body.to_vec())),
                    Control::Close => match close_frame::parse(body) {
                        Ok((code, _)) => return say(Said::Close(code)),
                        Err(_) => return say(Said::Nonsense),
                    },
                    _ => {}
                }
            }
            OpCode::Data(_) => return say(Said::Nonsense),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tidegate::websocket::frame::encode;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn stream() -> (Vec<u8>, Vec<Said>) {
        let mut bytes = Vec::new();
        response::switching_protocols(KEY, None, None, &mut bytes);
        encode(OpCode::Data(Data::Text), b"hello", &mut bytes);
        encode(OpCode::Control(Control::Ping), b"are you there", &mut bytes);
        encode(OpCode::Data(Data::Binary), &[7; 70_000], &mut bytes);
        encode(OpCode::Control(Control::Pong), b"", &mut bytes);
        encode(OpCode::Data(Data::Text), b"", &mut bytes);
        close_frame::encode(1001, "bye", &mut bytes);
        let ping = Said::Ping(b"are you there".to_vec());
        let said = [Said::Admitted, Said::Message, ping, Said::Message, Said::Message];
        (bytes, said.into_iter().chain([Said::Close(Some(1001))]).collect())
    }

    fn read(pieces: &[&[u8]]) -> Vec<Said> {
        let (mut unread, mut all) = (Unread::default(), Vec::new());
        for piece in pieces {
            if all.is_empty() {
                all.extend(answer(&mut unread, piece, KEY));
                let behind = std::mem::take(&mut unread.kept);
                if all.is_empty() {
                    unread.kept = behind;
                } else {
                    frames(&mut unread, &behind, |said| all.push(said));
                }
            } else {
                frames(&mut unread, piece, |said| all.push(said));
            }
        }
        all
    }

    proptest! {
        #[test]
        fn a_stream_says_the_same_wherever_it_is_cut(
            mut cuts in proptest::collection::vec(0..70_300_usize, 0..40),
        ) {
            let (bytes, said) = stream();
            cuts.push(bytes.len());
            cuts.sort_unstable();
            let (mut pieces, mut at) = (Vec::new(), 0);
            for cut in cuts {
                let cut = cut.min(bytes.len());
                pieces.push(&bytes[at..cut]);
                at = cut;
            }
            prop_assert_eq!(read(&pieces), said);
        }
    }

    #[test]
    fn what_is_not_an_answer_is_said() {
        let mut unread = Unread::default();
        let busy = b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\n\r\n";
        assert_eq!(answer(&mut unread, busy, KEY), Some(Said::Refused(503)));
        assert_eq!(answer(&mut Unread::default(), b"SSH-2.0\r\n\r\n", KEY), Some(Said::Nonsense));
        let (bytes, _) = stream();
        assert_eq!(answer(&mut Unread::default(), &bytes, "other"), Some(Said::Nonsense));
    }

    #[test]
    fn a_masked_frame_is_nonsense_from_a_server() {
        let mut bytes = Vec::new();
        tidegate::websocket::frame::encode_masked(
            OpCode::Data(Data::Text),
            b"x",
            [1; 4],
            &mut bytes,
        );
        let mut all = Vec::new();
        frames(&mut Unread::default(), &bytes, |said| all.push(said));
        assert_eq!(all, [Said::Nonsense]);
    }
}
