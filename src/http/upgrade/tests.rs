//! Handshake requests by name, with the status each must get, whole and cut at every byte.
#![allow(clippy::unwrap_used)]

use super::super::request::{Head, HeadScanner, client_upgrade};
use super::*;
use crate::limits::HEAD_BYTES;
use proptest::prelude::*;

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const GOOD: [&str; 5] = [
    "Host: example.com",
    "Upgrade: websocket",
    "Connection: Upgrade",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version: 13",
];

/// The request has not ended: more is waited for.
const WAITS: u16 = 0;

/// Name, bytes, status.
type Case = (&'static str, Vec<u8>, u16);

fn head(request_line: &str, lines: &[&str]) -> Vec<u8> {
    format!(
        "{request_line}\r\n{}\r\n",
        lines.iter().map(|l| format!("{l}\r\n")).collect::<String>()
    )
    .into_bytes()
}

/// A good request with another request line.
fn line(request_line: &str) -> Vec<u8> {
    head(request_line, &GOOD)
}

/// A good request with these lines more.
fn plus(lines: &[&str]) -> Vec<u8> {
    head("GET /ws HTTP/1.1", &[&GOOD[..], lines].concat())
}

/// A good request with other lines in place of the one with this name.
fn but(name: &str, lines: &[&str]) -> Vec<u8> {
    let kept = GOOD.iter().filter(|line| !line.starts_with(&format!("{name}:")));
    head("GET /ws HTTP/1.1", &kept.chain(lines).copied().collect::<Vec<_>>())
}

fn key(value: &str) -> Vec<u8> {
    but("Sec-WebSocket-Key", &[&format!("Sec-WebSocket-Key: {value}")])
}

/// A good request with a piece of its bytes replaced.
fn edit(from: &str, to: &str) -> Vec<u8> {
    let good = String::from_utf8(plus(&[])).unwrap();
    assert!(good.contains(from));
    good.replacen(from, to, 1).into_bytes()
}

/// What a connection answers that sends these bytes in these pieces.
fn judge(bytes: &[u8], ends: impl Iterator<Item = usize>) -> Result<u16, Refusal> {
    let rules = UpgradeRules {
        allowed_origins: AllowedOrigins::new(&["https://ok.example", "https://*.sub.example"])
            .unwrap(),
        ..UpgradeRules::default()
    };
    let mut scanner = HeadScanner::default();
    for end in ends {
        if let Head::Complete { len } = scanner.scan(&bytes[..end], HEAD_BYTES)? {
            return parse(&bytes[..len], &rules).map(|_| 101);
        }
    }
    Ok(WAITS)
}

fn check(cases: &[Case]) {
    for (name, bytes, expected) in cases {
        let whole = judge(bytes, std::iter::once(bytes.len()));
        let status = whole.unwrap_or_else(|refusal| refusal.status.code());
        assert_eq!(status, *expected, "{name}: {whole:?}");
        assert_eq!(judge(bytes, 0..=bytes.len()), whole, "{name}, byte by byte");
        for cut in 0..bytes.len() {
            let split = judge(bytes, [cut, bytes.len()].into_iter());
            assert_eq!(split, whole, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn request_lines() {
    check(&[
        ("good", line("GET /ws HTTP/1.1"), 101),
        ("root", line("GET / HTTP/1.1"), 101),
        ("query", line("GET /ws?channel=a HTTP/1.1"), 101),
        ("query as browsers write it", line("GET /ws?f={a|b}'^ HTTP/1.1"), 101),
        ("absolute form", line("GET http://example.com/ws HTTP/1.1"), 101),
        ("absolute form, ws", line("GET ws://example.com HTTP/1.1"), 101),
        ("absolute form, no host", line("GET http:///ws HTTP/1.1"), 400),
        ("absolute form, user", line("GET http://u@example.com/ HTTP/1.1"), 400),
        ("absolute form, other scheme", line("GET ftp://example.com/ HTTP/1.1"), 400),
        ("authority form", line("GET example.com:80 HTTP/1.1"), 400),
        ("asterisk form", line("GET * HTTP/1.1"), 400),
        ("relative path", line("GET ws HTTP/1.1"), 400),
        ("fragment", line("GET /ws#a HTTP/1.1"), 400),
        ("quote in path", line("GET /\"ws HTTP/1.1"), 400),
        ("non-ASCII path", line("GET /\u{e9} HTTP/1.1"), 400),
        ("no target", line("GET HTTP/1.1"), 400),
        ("empty target", line("GET  HTTP/1.1"), 400),
        ("two spaces", line("GET  /ws HTTP/1.1"), 400),
        ("space in target", line("GET /w s HTTP/1.1"), 400),
        ("tab for space", line("GET\t/ws HTTP/1.1"), 400),
        ("space at the end", line("GET /ws HTTP/1.1 "), 400),
        ("space at the start", line(" GET /ws HTTP/1.1"), 400),
        ("no version", line("GET /ws"), 400),
        ("HTTP/0.9", line("GET /ws HTTP/0.9"), 400),
        ("HTTP/1.0", line("GET /ws HTTP/1.0"), 400),
        ("HTTP/1.2", line("GET /ws HTTP/1.2"), 400),
        ("HTTP/2.0", line("GET /ws HTTP/2.0"), 400),
        ("HTTP/11", line("GET /ws HTTP/11"), 400),
        ("lower-case version", line("GET /ws http/1.1"), 400),
        ("other protocol", line("GET /ws WS/1.1"), 400),
        ("http/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 400),
        ("one empty line before", [b"\r\n", &line("GET / HTTP/1.1")[..]].concat(), 101),
        ("empty request line only", b"\r\n\r\n".to_vec(), WAITS),
    ]);
}

#[test]
fn methods() {
    check(&[
        ("HEAD", line("HEAD /ws HTTP/1.1"), 405),
        ("POST", line("POST /ws HTTP/1.1"), 405),
        ("PUT", line("PUT /ws HTTP/1.1"), 405),
        ("DELETE", line("DELETE /ws HTTP/1.1"), 405),
        ("OPTIONS *", line("OPTIONS * HTTP/1.1"), 405),
        ("CONNECT", line("CONNECT example.com:443 HTTP/1.1"), 405),
        ("TRACE", line("TRACE / HTTP/1.1"), 405),
        ("lower-case get", line("get /ws HTTP/1.1"), 405),
        ("unknown method", line("BREW /pot HTTP/1.1"), 405),
        ("POST with a body", head("POST / HTTP/1.1", &["Host: a", "Content-Length: 5"]), 405),
        ("method with a slash", line("G/ET /ws HTTP/1.1"), 400),
        ("no method", line("/ws HTTP/1.1"), 400),
    ]);
}

#[test]
fn hosts() {
    let host = |value: &str| but("Host", &[&format!("Host: {value}")]);
    check(&[
        ("port", host("example.com:8080"), 101),
        ("IPv4", host("127.0.0.1:80"), 101),
        ("IPv6", host("[::1]:80"), 101),
        ("upper case", host("EXAMPLE.com"), 101),
        ("underscore", host("my_service"), 101),
        ("surrounding white space", host(" \texample.com\t "), 101),
        ("missing", but("Host", &[]), 400),
        ("missing with absolute form", head("GET http://a/ HTTP/1.1", &GOOD[1..]), 400),
        ("twice", plus(&["Host: example.com"]), 400),
        ("twice, other case", plus(&["hOST: other"]), 400),
        ("empty", host(""), 400),
        ("list", host("a, b"), 400),
        ("space", host("a b"), 400),
        ("path", host("a/b"), 400),
        ("user", host("u@a"), 400),
        ("port is no number", host("a:b"), 400),
        ("two ports", host("a:1:2"), 400),
        ("port only", host(":80"), 400),
        ("open bracket", host("[::1"), 400),
        ("non-ASCII", host("b\u{fc}cher.example"), 400),
    ]);
}

#[test]
fn upgrade_and_connection() {
    let upgrade = |value: &str| but("Upgrade", &[&format!("Upgrade: {value}")]);
    let connection = |value: &str| but("Connection", &[&format!("Connection: {value}")]);
    check(&[
        ("upgrade in capitals", upgrade("WebSocket"), 101),
        ("upgrade in a list", upgrade("h2c, websocket"), 101),
        ("upgrade in two headers", but("Upgrade", &["Upgrade: h2c", "Upgrade: websocket"]), 101),
        ("upgrade missing", but("Upgrade", &[]), 400),
        ("upgrade empty", upgrade(""), 400),
        ("upgrade h2c", upgrade("h2c"), 400),
        ("upgrade websocket/13", upgrade("websocket/13"), 400),
        ("upgrade websockets", upgrade("websockets"), 400),
        ("upgrade quoted", upgrade("\"websocket\""), 400),
        ("connection in lower case", connection("upgrade"), 101),
        ("connection as Firefox sends it", connection("keep-alive, Upgrade"), 101),
        ("connection with empty elements", connection(",, upgrade ,"), 101),
        ("connection twice", but("Connection", &["Connection: x", "Connection: Upgrade"]), 101),
        ("connection missing", but("Connection", &[]), 400),
        ("connection empty", connection(""), 400),
        ("connection keep-alive", connection("keep-alive"), 400),
        ("connection close", connection("close"), 400),
        ("connection upgraded", connection("upgraded"), 400),
        ("connection by spaces", connection("keep-alive upgrade"), 400),
        ("connection by semicolon", connection("keep-alive; upgrade"), 400),
    ]);
}

#[test]
fn plain_requests() {
    check(&[
        ("browser", head("GET / HTTP/1.1", &["Host: a", "Accept: text/html"]), 426),
        ("keep-alive", head("GET / HTTP/1.1", &["Host: a", "Connection: keep-alive"]), 426),
        ("no host", head("GET / HTTP/1.1", &["Accept: */*"]), 400),
        ("nothing", b"GET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("upgrade alone", head("GET / HTTP/1.1", &["Host: a", "Upgrade: websocket"]), 400),
        ("key alone", head("GET / HTTP/1.1", &["Host: a", GOOD[3]]), 400),
        ("version alone", head("GET / HTTP/1.1", &["Host: a", GOOD[4]]), 400),
        ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), 400),
        ("ssh", b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), WAITS),
        ("PROXY v2", b"\r\n\r\n\0\r\nQUIT\n".to_vec(), 400),
        ("PROXY v1", b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\nGET / HTTP/1.1\r\n\r\n".to_vec(), 400),
        ("cut off", b"GET /ws HTTP/1.1\r\nHost: exa".to_vec(), WAITS),
    ]);
}

#[test]
fn versions() {
    let version =
        |value: &str| but("Sec-WebSocket-Version", &[&format!("Sec-WebSocket-Version: {value}")]);
    check(&[
        ("white space", version("  13\t"), 101),
        ("missing", but("Sec-WebSocket-Version", &[]), 426),
        ("8", version("8"), 426),
        ("7", version("7"), 426),
        ("0", version("0"), 426),
        ("14", version("14"), 426),
        ("empty", version(""), 426),
        ("leading zero", version("013"), 426),
        ("list", version("13, 8"), 426),
        ("word", version("thirteen"), 426),
        ("twice", plus(&["Sec-WebSocket-Version: 13"]), 400),
        ("twice, different", plus(&["Sec-WebSocket-Version: 8"]), 400),
    ]);
}

#[test]
fn keys() {
    check(&[
        ("all characters", key("ABCabcXYZxyz0123456+/A=="), 101),
        ("zeros", key("AAAAAAAAAAAAAAAAAAAAAA=="), 101),
        ("trailing bits set", key("AQIDBAUGBwgJCgsMDQ4PEC=="), 101),
        ("all trailing bits set", key("AAAAAAAAAAAAAAAAAAAAA/=="), 101),
        ("surrounding white space", key(" \tdGhlIHNhbXBsZSBub25jZQ== "), 101),
        ("missing", but("Sec-WebSocket-Key", &[]), 400),
        ("empty", key(""), 400),
        ("twice", plus(&["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]), 400),
        ("list of two", key("dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="), 400),
        ("15 bytes", key("AAAAAAAAAAAAAAAAAAAA"), 400),
        ("17 bytes", key("AAAAAAAAAAAAAAAAAAAAAAA="), 400),
        ("18 bytes", key("AAAAAAAAAAAAAAAAAAAAAAAA"), 400),
        ("no padding", key("dGhlIHNhbXBsZSBub25jZQ"), 400),
        ("one padding", key("dGhlIHNhbXBsZSBub25jZQ="), 400),
        ("three padding", key("dGhlIHNhbXBsZSBub25jZ==="), 400),
        ("padding inside", key("dGhlIHNhbXBs=SBub25jZQ=="), 400),
        ("url alphabet", key("dGhlIHNhbXBsZSBub25j-_=="), 400),
        ("space inside", key("dGhlIHNhbX BsZSBub25jZ=="), 400),
        ("non-ASCII", key("dGhlIHNhbXBsZSBub25\u{e9}Q=="), 400),
        ("quoted", key("\"dGhlIHNhbXBsZSBub25jZQ==\""), 400),
    ]);
}

#[test]
fn bodies() {
    check(&[
        ("length 0", plus(&["Content-Length: 0"]), 101),
        ("length 00", plus(&["Content-Length: 00"]), 101),
        ("length 1", plus(&["Content-Length: 1"]), 400),
        ("length with its body", [plus(&["Content-Length: 5"]), b"hello".to_vec()].concat(), 400),
        ("length -1", plus(&["Content-Length: -1"]), 400),
        ("length +0", plus(&["Content-Length: +0"]), 400),
        ("length 0x0", plus(&["Content-Length: 0x0"]), 400),
        ("length word", plus(&["Content-Length: none"]), 400),
        ("length empty", plus(&["Content-Length:"]), 400),
        ("length list", plus(&["Content-Length: 0, 0"]), 400),
        ("length twice", plus(&["Content-Length: 0", "Content-Length: 0"]), 400),
        ("length overflows", plus(&["Content-Length: 99999999999999999999999999"]), 400),
        ("chunked", plus(&["Transfer-Encoding: chunked"]), 400),
        ("identity", plus(&["Transfer-Encoding: identity"]), 400),
        ("transfer-encoding empty", plus(&["Transfer-Encoding:"]), 400),
        ("both", plus(&["Transfer-Encoding: chunked", "Content-Length: 0"]), 400),
    ]);
}

#[test]
fn origins() {
    let origin = |value: &str| plus(&[&format!("Origin: {value}")]);
    check(&[
        ("none", plus(&[]), 101),
        ("listed", origin("https://ok.example"), 101),
        ("listed, default port", origin("https://ok.example:443"), 101),
        ("subdomain", origin("https://a.sub.example"), 101),
        ("parent of the subdomains", origin("https://sub.example"), 403),
        ("other", origin("https://evil.example"), 403),
        ("other scheme", origin("http://ok.example"), 403),
        ("other port", origin("https://ok.example:8443"), 403),
        ("listed as a prefix", origin("https://ok.example.evil"), 403),
        ("null", origin("null"), 403),
        ("empty", origin(""), 403),
        ("two in one", origin("https://ok.example https://evil.example"), 403),
        ("twice", plus(&["Origin: https://ok.example", "Origin: https://ok.example"]), 400),
        (
            "a bad body comes first",
            plus(&["Content-Length: 1", "Origin: https://evil.example"]),
            400,
        ),
        (
            "a bad version comes first",
            edit("Version: 13", "Version: 8\r\nOrigin: https://evil.example"),
            426,
        ),
    ]);
    let mut not_text = origin("https://ok.example");
    let at = not_text.windows(2).position(|pair| pair == b"ok").unwrap();
    not_text[at] = 0xff;
    check(&[("not UTF-8", not_text, 400)]);
}

#[test]
fn protocols_and_extensions() {
    check(&[
        ("protocols", plus(&["Sec-WebSocket-Protocol: chat, superchat"]), 101),
        ("protocols twice", plus(&["Sec-WebSocket-Protocol: a", "Sec-WebSocket-Protocol: b"]), 101),
        ("no protocol", plus(&["Sec-WebSocket-Protocol:"]), 101),
        ("protocol with a space", plus(&["Sec-WebSocket-Protocol: a b"]), 400),
        ("protocol with a slash", plus(&["Sec-WebSocket-Protocol: a/b"]), 400),
        ("protocol quoted", plus(&["Sec-WebSocket-Protocol: \"a\""]), 400),
        ("protocol non-ASCII", plus(&["Sec-WebSocket-Protocol: \u{e9}"]), 400),
        (
            "extension",
            plus(&["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]),
            101,
        ),
        ("extension nobody knows", plus(&["Sec-WebSocket-Extensions: x-y; z=\"1\""]), 101),
        ("extension malformed", plus(&["Sec-WebSocket-Extensions: ;;,=\""]), 101),
    ]);
}

#[test]
fn header_syntax() {
    check(&[
        ("value non-ASCII", plus(&["X: \u{e9}"]), 101),
        ("value empty", plus(&["X:"]), 101),
        ("value with tab", plus(&["X: a\tb"]), 101),
        ("no space after the colon", edit("Host: ", "Host:"), 101),
        ("names in lower case", edit("Sec-WebSocket-Key", "sec-websocket-key"), 101),
        ("space before the colon", plus(&["X : a"]), 400),
        ("tab before the colon", plus(&["X\t: a"]), 400),
        ("space before Host's colon", edit("Host:", "Host :"), 400),
        ("folded", plus(&["X: a", " b"]), 400),
        ("folded with a tab", plus(&["X: a", "\tb"]), 400),
        ("folded first line", edit("Host:", " Host:"), 400),
        ("no name", plus(&[": a"]), 400),
        ("no colon", plus(&["X"]), 400),
        ("name with a space", plus(&["X Y: a"]), 400),
        ("name with parentheses", plus(&["X(Y): a"]), 400),
        ("name non-ASCII", plus(&["\u{e9}: a"]), 400),
        ("bare LF after the request line", edit("1.1\r\n", "1.1\n"), 400),
        ("bare LF after a header", edit("example.com\r\n", "example.com\n"), 400),
        ("bare LF for the blank line", edit("13\r\n\r\n", "13\r\n\n"), 400),
        ("bare LFs at the end", edit("13\r\n\r\n", "13\n\n"), 400),
        ("bare CR in a value", edit("example.com", "exa\rmple.com"), 400),
        ("bare CR for a line end", edit("example.com\r\n", "example.com\r"), 400),
        ("two CRs", edit("example.com\r\n", "example.com\r\r\n"), 400),
        ("NUL in a value", plus(&["X: a\0b"]), 400),
        ("NUL in a name", plus(&["X\0: a"]), 400),
        ("NUL in the target", line("GET /\0 HTTP/1.1"), 400),
        ("delete in a value", plus(&["X: \x7f"]), 400),
        ("escape in a value", plus(&["X: \x1b[0m"]), 400),
    ]);
}

#[test]
fn sizes() {
    let headers = |count: usize| {
        let more: Vec<String> = (GOOD.len()..count).map(|i| format!("X-{i}: {i}")).collect();
        plus(&more.iter().map(String::as_str).collect::<Vec<_>>())
    };
    let long = |len: usize| {
        let padding = len - plus(&["X: "]).len();
        plus(&[&format!("X: {}", "a".repeat(padding))])
    };
    check(&[
        ("64 headers", headers(HEADERS_MAX), 101),
        ("65 headers", headers(HEADERS_MAX + 1), 431),
        ("longest head", long(HEAD_BYTES), 101),
        ("head one longer", long(HEAD_BYTES + 1), 431),
        ("endless target", [b"GET /", &[b'a'; HEAD_BYTES][..]].concat(), 431),
        ("endless name", [b"GET / HTTP/1.1\r\n", &[b'a'; HEAD_BYTES][..]].concat(), 431),
        ("just not too long yet", vec![b'a'; HEAD_BYTES - 1], WAITS),
        ("frames behind the head", [plus(&[]), vec![0x81, 0x80, 1, 2, 3, 4, 0, 10]].concat(), 101),
    ]);
}

#[test]
fn what_an_upgrade_says() {
    let bytes = head(
        "GET http://other:81/ws?channel=a%20b HTTP/1.1",
        &[
            &GOOD[..],
            &[
                "Origin: https://ok.example",
                "sec-websocket-PROTOCOL: a,, b",
                "Sec-WebSocket-Protocol: c",
                "X-Forwarded-For: 1.1.1.1",
                "X-Forwarded-For:\t2.2.2.2 ",
                "Sec-WebSocket-Extensions: e; f=\"g,h\"",
            ],
        ]
        .concat(),
    );
    for bytes in [bytes.clone(), [b"\r\n", &bytes[..]].concat()] {
        let upgrade = parse(&bytes, &UpgradeRules::default()).unwrap();
        assert_eq!((upgrade.path, upgrade.query), ("/ws", "channel=a%20b"));
        assert_eq!((upgrade.host, upgrade.key), ("other:81", KEY));
        assert_eq!(upgrade.origin, Some("https://ok.example"));
        assert_eq!(upgrade.protocols().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(upgrade.extensions().collect::<Vec<_>>(), [b"e; f=\"g,h\""]);
        let forwarded: Vec<_> = upgrade.header_values("x-forwarded-for").collect();
        assert_eq!(forwarded, [b"1.1.1.1", b"2.2.2.2"]);
        assert_eq!(upgrade.header_values("missing").count(), 0);
    }
}

#[test]
fn an_ordinary_get_is_told_how_to_connect() {
    let refusal =
        parse(&head("GET / HTTP/1.1", &["Host: a"]), &UpgradeRules::default()).unwrap_err();
    assert_eq!((refusal.status, refusal.body), (Status::UpgradeRequired, Body::Text));
    assert!(refusal.detail.contains("WebSocket client"));
    let head_request = parse(&line("HEAD / HTTP/1.1"), &UpgradeRules::default()).unwrap_err();
    assert_eq!(head_request.body, Body::Empty);
}

#[test]
fn the_load_tools_own_request_is_accepted() {
    let mut out = Vec::new();
    client_upgrade("127.0.0.1:8080", "/echo?x=1", KEY, &mut out);
    let upgrade = parse(&out, &UpgradeRules::default()).unwrap();
    assert_eq!((upgrade.path, upgrade.host, upgrade.key), ("/echo", "127.0.0.1:8080", KEY));
}

proptest! {
    #[test]
    fn damaged_requests_are_judged_the_same_however_they_are_cut(
        edits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<u8>(), any::<bool>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = plus(&["Origin: https://ok.example", "Content-Length: 0"]);
        for (at, byte, insert) in edits {
            let at = at.index(bytes.len());
            if insert {
                bytes.insert(at, byte);
            } else {
                bytes[at] = byte;
            }
        }
        let whole = judge(&bytes, std::iter::once(bytes.len()));
        prop_assert_eq!(judge(&bytes, [cut.index(bytes.len()), bytes.len()].into_iter()), whole);
    }

    #[test]
    fn noise_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = judge(&bytes, 0..=bytes.len());
        let _ = parse(&bytes, &UpgradeRules::default());
    }
}

#[test]
fn the_first_of_the_clients_subprotocols_that_is_spoken_is_chosen() {
    let rules = UpgradeRules {
        subprotocols: vec!["chat.v1".to_owned(), "chat.v2".to_owned()],
        ..UpgradeRules::default()
    };
    let chosen = |lines: &[&str], rules: &UpgradeRules| {
        let head = plus(lines);
        parse(&head, rules).unwrap().protocol(rules).map(str::to_owned)
    };
    let cases: [(&[&str], Option<&str>); 6] = [
        (&[], None),
        (&["Sec-WebSocket-Protocol: chat.v2, chat.v1"], Some("chat.v2")),
        (&["Sec-WebSocket-Protocol: chat.v3", "Sec-WebSocket-Protocol: chat.v1"], Some("chat.v1")),
        (&["Sec-WebSocket-Protocol: chat"], None),
        (&["Sec-WebSocket-Protocol: Chat.v1"], None),
        (&["Sec-WebSocket-Protocol: "], None),
    ];
    for (lines, expected) in cases {
        assert_eq!(chosen(lines, &rules).as_deref(), expected, "{lines:?}");
        assert_eq!(chosen(lines, &UpgradeRules::default()), None);
    }
}

#[test]
fn compression_is_agreed_on_only_where_it_is_on() {
    let head = plus(&["Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"]);
    let on = UpgradeRules { compression: true, ..UpgradeRules::default() };
    let off = UpgradeRules::default();
    assert!(parse(&head, &on).unwrap().compression(&on).is_some());
    assert!(parse(&head, &off).unwrap().compression(&off).is_none());
}
