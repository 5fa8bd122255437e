//! Offers of extensions: whatever is offered, what is answered is an answer to an offer.

use tidegate::websocket::deflate::Agreement;

/// The values of `Sec-WebSocket-Extensions`, one in a line.
pub fn run(input: &[u8]) {
    let Some(agreement) = Agreement::from_offers(input.split(|byte| *byte == b'\n')) else {
        return;
    };
    let offered = String::from_utf8_lossy(input).to_ascii_lowercase();
    assert!(offered.contains("permessage-deflate"));
    let response = agreement.response();
    let rest = response
        .strip_prefix("permessage-deflate; server_no_context_takeover; client_no_context_takeover")
        .expect("always without context");
    if !rest.is_empty() {
        let bits = rest.strip_prefix("; server_max_window_bits=").expect("nothing else");
        assert!((8..=15).contains(&bits.parse::<u8>().expect("a number")));
        assert!(offered.contains("server_max_window_bits") && offered.contains(bits));
        assert!(agreement.window().bits() <= bits.parse::<u8>().expect("a number").max(9));
    }
}
