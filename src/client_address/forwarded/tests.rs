//! Which entry of which list is the client.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

const PEER: &str = "10.0.0.1";

fn trusted() -> TrustedProxies {
    TrustedProxies::new(&["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()))
}

fn client_by(header: &str, lines: &[&str]) -> Result<ClientAddress, Ambiguous> {
    let mut head = "GET / HTTP/1.1\r\nHost: a\r\n".to_owned();
    lines.iter().for_each(|line| head.extend([line, "\r\n"]));
    head.push_str("\r\n");
    let peer = SocketAddr::new(PEER.parse().unwrap(), 7);
    client(head.as_bytes(), peer, &trusted(), &ForwardedHeader::named(header))
}

/// Address and port in the notation of a socket address; the peer's stands for "nobody else".
fn shown_by(header: &str, lines: &[&str]) -> Result<String, Ambiguous> {
    let shown = |ClientAddress { ip, port, .. }| SocketAddr::new(ip, port).to_string();
    client_by(header, lines).map(shown)
}

/// By default.
fn shown(lines: &[&str]) -> String {
    shown_by("", lines).unwrap()
}

const NOBODY: &str = "10.0.0.1:7";

#[test]
fn x_forwarded_for_is_read_from_the_right() {
    for (value, expected) in [
        ("192.0.2.1", "192.0.2.1:0"),
        ("6.6.6.6, 192.0.2.1", "192.0.2.1:0"),
        ("6.6.6.6, 192.0.2.1, 10.0.0.2,10.0.0.3", "192.0.2.1:0"),
        ("192.0.2.1:4660", "192.0.2.1:4660"),
        ("2001:db8::1", "[2001:db8::1]:0"),
        ("[2001:db8::1]", "[2001:db8::1]:0"),
        ("6.6.6.6,\t[2001:db8::1]:4660 , fd00::2", "[2001:db8::1]:4660"),
        ("::ffff:192.0.2.1, ::ffff:10.0.0.9", "[::ffff:192.0.2.1]:0"),
        // Empty elements are none.
        ("192.0.2.1,, ,10.0.0.2,", "192.0.2.1:0"),
        // Only proxies: the leftmost of them began it.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3:0"),
        // What cannot be read ends the search.
        ("192.0.2.1, unknown, 10.0.0.2", "10.0.0.2:0"),
        ("192.0.2.1, unknown", NOBODY),
        ("192.0.2.1, 10.0.0.2x", NOBODY),
        ("192.0.2.1, 1.2.3.4:99999", NOBODY),
        ("192.0.2.1, 1.2.3.4:", NOBODY),
        ("192.0.2.1, 1.2.3.4:+5", NOBODY),
        ("192.0.2.1, 01.2.3.4", NOBODY),
        ("192.0.2.1, [2001:db8::1", NOBODY),
        ("192.0.2.1, [2001:db8::1]4660", NOBODY),
        ("192.0.2.1, fe80::1%eth0", "[fe80::1]:0"),
        ("192.0.2.1, [fe80::1%25]:4660", "[fe80::1]:4660"),
        // Only an address of a link has a zone, and a zone has a name.
        ("192.0.2.1, 2001:db8::1%eth0", NOBODY),
        ("192.0.2.1, fe80::1%", NOBODY),
        ("192.0.2.1, fe80::1%a%b", NOBODY),
        ("192.0.2.1, fe80::1%sixteen-letters.", NOBODY),
        ("192.0.2.1, 169.254.0.1%eth0", NOBODY),
        ("192.0.2.1, _hidden", NOBODY),
        ("192.0.2.1, \"1.2.3.4\"", NOBODY),
        ("192.0.2.1, 0.0.0.0", NOBODY),
        ("192.0.2.1, ffff:ffff:c000:201::", NOBODY),
        ("192.0.2.1, \u{fc}", NOBODY),
        ("192.0.2.1; 10.0.0.2", NOBODY),
        ("", NOBODY),
        (",", NOBODY),
    ] {
        assert_eq!(shown(&[&format!("X-Forwarded-For: {value}")]), expected, "{value}");
    }
}

#[test]
fn repeated_headers_are_one_list() {
    let two = ["X-Forwarded-For: 6.6.6.6", "x-forwarded-for: 192.0.2.1, 10.0.0.2"];
    assert_eq!(shown(&two), "192.0.2.1:0");
    assert_eq!(shown(&["X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.2"]), "192.0.2.1:0");
    assert_eq!(shown(&["X-Forwarded-For: 192.0.2.1", "X-FORWARDED-FOR:"]), "192.0.2.1:0");
    assert_eq!(shown(&["Forwarded: for=6.6.6.6", "Forwarded: for=192.0.2.1"]), "192.0.2.1:0");
    // A quotation mark in one line does not reach into another.
    assert_eq!(shown(&["Forwarded: for=\"6.6.6.6", "Forwarded: for=192.0.2.1"]), "192.0.2.1:0");
    assert_eq!(shown(&[]), NOBODY);
    assert_eq!(shown(&["X-Forwarded-Fo: 192.0.2.1", "X-Real-IP: 192.0.2.1"]), NOBODY);
}

#[test]
fn forwarded_is_read_from_the_right() {
    for (value, expected) in [
        ("for=192.0.2.1", "192.0.2.1:0"),
        ("FOR=192.0.2.1;proto=http;by=203.0.113.43", "192.0.2.1:0"),
        ("proto=http; for=192.0.2.1 ;host=\"a;b,c\"", "192.0.2.1:0"),
        ("for=6.6.6.6, for=192.0.2.1;by=10.0.0.1,for=10.0.0.2", "192.0.2.1:0"),
        ("for=\"192.0.2.1\"", "192.0.2.1:0"),
        ("for=\"192.0.2.1:4660\"", "192.0.2.1:4660"),
        ("for=\"192.0.2.1:_hidden\"", "192.0.2.1:0"),
        ("For=\"[2001:db8::1]:4660\"", "[2001:db8::1]:4660"),
        ("for=\"[2001:db8::1]\"", "[2001:db8::1]:0"),
        ("for=\"[2001:db8::1]:_x\"", "[2001:db8::1]:0"),
        ("for=192.0.2.1,, for=10.0.0.2;", "192.0.2.1:0"),
        ("for=10.0.0.3, for=10.0.0.2", "10.0.0.3:0"),
        // Whatever a client has sent before what the proxy adds.
        ("for=\"6.6.6.6, for=\"[2001:db8::1]:4660\"", "[2001:db8::1]:4660"),
        ("\\\", for=192.0.2.1", "192.0.2.1:0"),
        ("for=\"a\\\", for=192.0.2.1", "192.0.2.1:0"),
        ("\", for=\"192.0.2.1\", for=10.0.0.2", "192.0.2.1:0"),
        // What cannot be read ends the search.
        ("for=192.0.2.1, for=unknown, for=10.0.0.2", "10.0.0.2:0"),
        ("for=192.0.2.1, for=unknown", NOBODY),
        ("for=192.0.2.1, for=_hidden", NOBODY),
        ("for=192.0.2.1, by=10.0.0.1", NOBODY),
        ("for=192.0.2.1, 10.0.0.2", NOBODY),
        ("for=192.0.2.1, for", NOBODY),
        ("for=192.0.2.1, for=", NOBODY),
        ("for=192.0.2.1, for=\"", NOBODY),
        ("for=192.0.2.1, for=\"\"", NOBODY),
        ("for=192.0.2.1, for =6.6.6.6", NOBODY),
        ("for=192.0.2.1, for= 6.6.6.6", NOBODY),
        ("for=192.0.2.1, for=6.6.6.6;for=7.7.7.7", NOBODY),
        ("for=192.0.2.1, for=6.6.6.6:4660", NOBODY),
        ("for=192.0.2.1, for=2001:db8::1", NOBODY),
        ("for=192.0.2.1, for=[2001:db8::1]", NOBODY),
        ("for=192.0.2.1, for=\"2001:db8::1\"", NOBODY),
        ("for=192.0.2.1, for=\"[2001:db8::1]:_\"", NOBODY),
        ("for=192.0.2.1, for=\"6.6.6.6:_x:_y\"", NOBODY),
        ("for=192.0.2.1, for=\"6.6.6.6\"x", NOBODY),
        ("for=192.0.2.1, for=\"6.6\\.6.6\"", NOBODY),
        ("for=192.0.2.1, for=255.255.255.255", NOBODY),
        ("", NOBODY),
    ] {
        assert_eq!(shown(&[&format!("Forwarded: {value}")]), expected, "{value}");
    }
}

#[test]
fn two_kinds_of_headers_are_unclear_also_if_they_agree_or_say_nothing() {
    let x = "X-Forwarded-For: 192.0.2.1";
    for other in [
        "Forwarded: for=192.0.2.1",
        "Forwarded: for=6.6.6.6",
        "Forwarded: for=unknown",
        "Forwarded: x",
        "forwarded:",
    ] {
        for lines in [[x, other], [other, x], ["X-Forwarded-For:", other]] {
            assert_eq!(shown_by("", &lines), Err(Ambiguous::BothLists), "{lines:?}");
            let named = |header| shown_by(header, &lines);
            let by_x = if lines.contains(&x) { "192.0.2.1:0" } else { NOBODY };
            assert_eq!(named("x-forwarded-for").unwrap(), by_x, "{lines:?}");
            assert_eq!(named("X-Real-IP").unwrap(), NOBODY, "{lines:?}");
        }
    }
    let both = [x, "Forwarded: for=\"[2001:db8::1]:5\""];
    assert_eq!(shown_by("Forwarded", &both).unwrap(), "[2001:db8::1]:5");
    // Other headers are nobody's business.
    assert_eq!(shown(&[x, "X-Real-IP: 6.6.6.6", "Via: 1.1 proxy"]), "192.0.2.1:0");
}

#[test]
fn a_header_that_is_named_is_the_only_one_that_is_looked_at() {
    let lines = [
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=192.0.2.2",
        "X-Real-IP: 192.0.2.3",
        "CF-Connecting-IP: 2001:db8::4",
    ];
    for (header, expected) in [
        ("x-forwarded-for", "192.0.2.1:0"),
        ("FORWARDED", "192.0.2.2:0"),
        ("x-real-ip", "192.0.2.3:0"),
        ("CF-Connecting-IP", "[2001:db8::4]:0"),
        ("true-client-ip", NOBODY),
        ("none", NOBODY),
    ] {
        assert_eq!(shown_by(header, &lines).unwrap(), expected, "{header}");
    }
}

#[test]
fn a_header_for_one_address_has_one() {
    for (value, expected) in [
        ("192.0.2.1", "192.0.2.1:0"),
        ("\t192.0.2.1:4660 ", "192.0.2.1:4660"),
        ("2001:db8::1", "[2001:db8::1]:0"),
        ("[2001:db8::1]:4660", "[2001:db8::1]:4660"),
        ("fe80::1%eth0", "[fe80::1]:0"),
        // Whom the proxy names is the client, also if it is a proxy.
        ("10.0.0.2", "10.0.0.2:0"),
    ] {
        let line = format!("X-Real-IP: {value}");
        assert_eq!(shown_by("x-real-ip", &[&line]).unwrap(), expected, "{value}");
    }
    for value in [
        "",
        " ",
        "192.0.2.1, 192.0.2.1",
        "192.0.2.1,",
        "192.0.2.1 10.0.0.2",
        "unknown",
        "_hidden",
        "unix:",
        "for=192.0.2.1",
        "\"192.0.2.1\"",
        "192.0.2.1:99999",
        "0.0.0.0",
        "\u{fc}",
    ] {
        let line = format!("X-Real-IP: {value}");
        assert_eq!(shown_by("x-real-ip", &[&line]), Err(Ambiguous::NotOneAddress), "{value}");
    }
    let twice = ["X-Real-IP: 192.0.2.1", "x-real-ip: 192.0.2.1"];
    assert_eq!(shown_by("x-real-ip", &twice), Err(Ambiguous::NotOneAddress));
    assert_eq!(shown_by("x-real-ip", &["X-Real-I: 192.0.2.1"]).unwrap(), NOBODY);
}

#[test]
fn it_is_known_who_said_so() {
    let provenance = |header, lines: &[&str]| client_by(header, lines).unwrap().provenance;
    assert_eq!(provenance("", &["X-Forwarded-For: 192.0.2.1"]), Provenance::XForwardedFor);
    assert_eq!(provenance("", &["Forwarded: for=192.0.2.1"]), Provenance::Forwarded);
    assert_eq!(provenance("", &["Forwarded: for=unknown"]), Provenance::Peer);
    assert_eq!(provenance("x-real-ip", &["X-Real-IP: 192.0.2.1"]), Provenance::SingleHeader);
    for header in ["", "x-forwarded-for", "forwarded", "x-real-ip"] {
        assert_eq!(provenance(header, &[]), Provenance::Peer, "{header}");
    }
}

#[test]
fn so_many_entries_are_looked_at_and_no_more() {
    let chain = |proxies| format!("X-Forwarded-For: 192.0.2.1{}", ", 10.0.0.9".repeat(proxies));
    assert_eq!(shown(&[&chain(limits::FORWARDED_ENTRIES - 1)]), "192.0.2.1:0");
    assert_eq!(shown(&[&chain(limits::FORWARDED_ENTRIES)]), "10.0.0.9:0");
    assert_eq!(shown(&[&chain(500)]), "10.0.0.9:0");
}

const PIECES: [&str; 17] = [
    "X-Forwarded-For: ",
    "Forwarded: ",
    "X-Real-IP: ",
    "for=",
    "\"",
    "\\",
    ",",
    ";",
    ":",
    "[",
    "]",
    "_x",
    "192.0.2.1",
    "10.0.0.2",
    "2001:db8::1",
    "\r\n",
    " ",
];

proptest! {
    #[test]
    fn any_bytes_name_somebody(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[..]), 0..40),
        noise in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let peer = SocketAddr::new(PEER.parse().unwrap(), 7);
        for head in [["GET / HTTP/1.1\r\n", &pieces.concat()].concat().into_bytes(), noise] {
            for header in ["", "x-forwarded-for", "forwarded", "x-real-ip"] {
                let header = ForwardedHeader::named(header);
                if let Ok(client) = client(&head, peer, &trusted(), &header) {
                    prop_assert!(is_possible(client.ip));
                }
            }
        }
    }

    /// What a client sends never counts: the proxy adds whom it saw, and that is the answer.
    #[test]
    fn the_left_end_changes_nothing(
        pieces in prop::collection::vec(prop::sample::select(&PIECES[3..15]), 0..40),
        noise in "[ -~]{0,60}",
    ) {
        for sent in [pieces.concat(), noise] {
            let x = format!("X-Forwarded-For: {sent}, 192.0.2.1");
            prop_assert_eq!(shown(&[&x]), "192.0.2.1:0");
            let forwarded = format!("Forwarded: {sent}, for=\"192.0.2.1:5\"");
            prop_assert_eq!(shown(&[&forwarded]), "192.0.2.1:5");
        }
    }
}
