//! The header in which a trusted proxy says who the client is: whatever it holds, somebody who can be
//! a client is named, or nobody; and whatever a client sends beside what the proxy adds, the client
//! is the one that the proxy has seen, or the request is refused.

use std::net::SocketAddr;

use tidegate::client_address::TrustedProxies;
use tidegate::client_address::forwarded::{Ambiguous, ForwardedHeader, client};

/// The header lines of a request.
pub fn run(input: &[u8]) {
    let head = [b"GET / HTTP/1.1\r\n", input, b"\r\n\r\n"].concat();
    let seen = "192.0.2.77".parse().expect("an address");
    let by_proxy = [&head[..head.len() - 2], b"X-Forwarded-For: 192.0.2.77\r\n\r\n"].concat();
    let peer = SocketAddr::from(([10, 0, 0, 1], 1234));
    let nobody = TrustedProxies::default();
    let block = "10.0.0.0/8".parse().expect("a network");
    for trusted in [nobody, TrustedProxies::new(&[block])] {
        for name in ["", "x-forwarded-for", "forwarded", "x-real-ip"] {
            let header = ForwardedHeader::named(name);
            if let Ok(found) = client(&head, peer, &trusted, &header) {
                assert!(!found.ip.is_unspecified() && !found.ip.is_multicast(), "{}", found.ip);
            }
            let added = client(&by_proxy, peer, &trusted, &header).map(|found| found.ip);
            match name {
                "x-forwarded-for" => assert_eq!(added, Ok(seen)),
                "" => assert!(matches!(added, Err(Ambiguous::BothLists)) || added == Ok(seen)),
                // The proxy has written something else, which is not looked at.
                _ => {
                    assert_eq!(added, client(&head, peer, &trusted, &header).map(|found| found.ip))
                }
            }
        }
    }
}
