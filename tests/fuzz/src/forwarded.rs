//! `X-Forwarded-For` and `Forwarded` of a trusted proxy: whatever they hold, somebody who can be a
//! client is named, and by the last entry that is not a trusted proxy's.

use std::net::SocketAddr;

use tidegate::client_address::TrustedProxies;
use tidegate::client_address::forwarded::client;

/// The header lines of a request.
pub fn run(input: &[u8]) {
    let head = [b"GET / HTTP/1.1\r\n", input, b"\r\n\r\n"].concat();
    let peer = SocketAddr::from(([10, 0, 0, 1], 1234));
    let nobody = TrustedProxies::default();
    let block = "10.0.0.0/8".parse().expect("a network");
    for trusted in [nobody, TrustedProxies::new(&[block])] {
        let found = client(&head, peer, &trusted);
        assert!(!found.ip.is_unspecified() && !found.ip.is_multicast(), "{}", found.ip);
    }
}
