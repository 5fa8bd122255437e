//! Headers that must be taken, headers that must not, and bytes of every other kind.

#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// A header of version 2: command and family as one byte each, then the body.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [V2_START, &[command, family], &len, body].concat()
}

const V4_BODY: [u8; 12] = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

fn v6_body() -> Vec<u8> {
    let source: Ipv6Addr = "2001:db8::1".parse().unwrap();
    let destination: Ipv6Addr = "fd00::1".parse().unwrap();
    [&source.octets()[..], &destination.octets(), &[0x12, 0x34, 0, 80]].concat()
}

fn read(bytes: &[u8]) -> Result<Header, Malformed> {
    HeaderReader::default().read(bytes)
}

fn client(ip: &str, port: u16, provenance: Provenance) -> Option<ClientAddress> {
    Some(ClientAddress { ip: ip.parse().unwrap(), port, provenance })
}

/// Every header that is taken, with whom it names.
fn good() -> Vec<(Vec<u8>, Option<ClientAddress>)> {
    let v1 = |line: &str| format!("PROXY {line}\r\n").into_bytes();
    let one = Provenance::ProxyProtocolV1;
    let two = Provenance::ProxyProtocolV2;
    let full = "2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("UNKNOWN {}", "x".repeat(V1_BYTES_MAX - 16));
    assert_eq!(v1(&longest).len(), V1_BYTES_MAX);
    vec![
        (v1("TCP4 192.0.2.1 10.0.0.1 4660 80"), client("192.0.2.1", 4660, one)),
        (v1("TCP4 192.0.2.1 10.0.0.1 0 65535"), client("192.0.2.1", 0, one)),
        (v1("TCP6 2001:db8::1 fd00::1 4660 80"), client("2001:db8::1", 4660, one)),
        (v1(&format!("TCP6 {full} {full} 65535 65535")), client(full, 65535, one)),
        (v1("TCP6 ::ffff:192.0.2.1 ::1 1 1"), client("::ffff:192.0.2.1", 1, one)),
        (v1("UNKNOWN"), None),
        (v1("UNKNOWN ff:: what ever\0 else"), None),
        (v1(&longest), None),
        (v2(0x21, 0x11, &V4_BODY), client("192.0.2.1", 0x1234, two)),
        (v2(0x21, 0x21, &v6_body()), client("2001:db8::1", 0x1234, two)),
        // TLVs: one of three bytes, and as many as fit.
        (v2(0x21, 0x11, &[&V4_BODY[..], &[4, 0, 0]].concat()), client("192.0.2.1", 0x1234, two)),
        (
            v2(0x21, 0x21, &[v6_body(), vec![0xff; V2_BYTES_MAX - V2_FIXED - 36]].concat()),
            client("2001:db8::1", 0x1234, two),
        ),
        (v2(0x20, 0x00, &[]), None),
        (v2(0x20, 0x11, &V4_BODY), None),
        (v2(0x20, 0x31, &[1, 2, 3]), None),
        (v2(0x21, 0x00, &[]), None),
        (v2(0x21, 0x00, &[7; 100]), None),
    ]
}

#[test]
fn good_headers_are_taken_however_they_are_cut() {
    for (bytes, client) in good() {
        let complete = Ok(Header::Complete { len: bytes.len(), client });
        assert_eq!(read(&bytes), complete, "{}", bytes.escape_ascii());
        for more in [&b"GET / HTTP/1.1\r\n"[..], &b"PROXY UNKNOWN\r\n"[..], V2_START, b"\n"] {
            assert_eq!(read(&[&bytes[..], more].concat()), complete, "{}", bytes.escape_ascii());
        }
        let mut reader = HeaderReader::default();
        for end in 0..bytes.len() {
            assert_eq!(reader.read(&bytes[..end]), Ok(Header::Incomplete), "{end}");
        }
        assert_eq!(reader.read(&bytes), complete);
    }
}

#[test]
fn malformed_lines_are_refused() {
    let lines = [
        "PROXY \r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4660\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4660 80 \r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4660 80 1\r\n",
        "PROXY TCP4  192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY  TCP4 192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY TCP4\t192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 4660 80\r\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 65536 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 +1 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 01 80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 080\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1 1 -80\r\n",
        "PROXY TCP4 192.0.2.1 10.0.0.1  80\r\n",
        "PROXY TCP4 192.0.2.01 10.0.0.1 4660 80\r\n",
        "PROXY TCP4 192.0.2 10.0.0.1 4660 80\r\n",
        "PROXY TCP4 192.0.2.1 nowhere 4660 80\r\n",
        "PROXY TCP4 2001:db8::1 fd00::1 4660 80\r\n",
        "PROXY TCP6 192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY TCP6 2001:db8::1 10.0.0.1 4660 80\r\n",
        "PROXY TCP6 [2001:db8::1] [fd00::1] 4660 80\r\n",
        "PROXY TCP6 fe80::1%1 fe80::2 4660 80\r\n",
        "PROXY TCP4 0.0.0.0 10.0.0.1 4660 80\r\n",
        "PROXY TCP4 224.0.0.1 10.0.0.1 4660 80\r\n",
        "PROXY TCP6 ffff:ffff:c000:201:: ::1 4660 80\r\n",
        "PROXY tcp4 192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY UDP4 192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY TCP5 192.0.2.1 10.0.0.1 4660 80\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY UNKNOWN a\rb\r\n",
        "PROXY UNIX_STREAM /a /b\r\n",
        "PROXY /path HTTP/1.1\r\n",
    ];
    for line in lines {
        assert_eq!(read(line.as_bytes()), Err(Malformed), "{}", line.escape_debug());
    }
    assert_eq!(read(b"PROXY TCP4 \xff\xff 10.0.0.1 1 1\r\n"), Err(Malformed));
    // Too long, whether or not an end is in sight.
    let mut endless = b"PROXY UNKNOWN ".to_vec();
    endless.resize(V1_BYTES_MAX - 1, b'x');
    assert_eq!(read(&endless), Ok(Header::Incomplete));
    endless.push(b'x');
    assert_eq!(read(&endless), Err(Malformed));
    assert_eq!(read(&[&endless[..], b"\r\n"].concat()), Err(Malformed));
}

#[test]
fn malformed_binary_headers_are_refused() {
    let short = v6_body();
    let cases = [
        ("version 1", v2(0x11, 0x11, &V4_BODY)),
        ("version 3", v2(0x31, 0x11, &V4_BODY)),
        ("another command", v2(0x22, 0x11, &V4_BODY)),
        ("datagrams over IPv4", v2(0x21, 0x12, &V4_BODY)),
        ("datagrams over IPv6", v2(0x21, 0x22, &v6_body())),
        ("a Unix socket", v2(0x21, 0x31, &[0; 216])),
        ("another family", v2(0x21, 0x41, &[0; 216])),
        ("no protocol", v2(0x21, 0x10, &V4_BODY)),
        ("IPv4 cut short", v2(0x21, 0x11, &V4_BODY[..11])),
        ("IPv6 cut short", v2(0x21, 0x21, &short[..35])),
        ("IPv6 with room for IPv4", v2(0x21, 0x21, &V4_BODY)),
        ("nobody's address", v2(0x21, 0x11, &[0; 12])),
        ("too long", v2(0x21, 0x11, &[0; V2_BYTES_MAX - V2_FIXED + 1])),
        ("LOCAL, too long", v2(0x20, 0x00, &[0; V2_BYTES_MAX - V2_FIXED + 1])),
        ("the longest there is", v2(0x21, 0x11, &[0; 65_535])),
    ];
    for (name, bytes) in cases {
        assert_eq!(read(&bytes), Err(Malformed), "{name}");
    }
    // The declared length alone decides, before anything of it has arrived.
    let declared = v2(0x21, 0x11, &[0; 65_535]);
    assert_eq!(read(&declared[..V2_FIXED - 1]), Ok(Header::Incomplete));
    assert_eq!(read(&declared[..V2_FIXED]), Err(Malformed));
}

#[test]
fn other_bytes_are_not_a_header() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"POST",
        b"PRI * HTTP/2.0",
        b"PROXX",
        b"PROXY\t",
        b"PROXY\r\n",
        b"proxy ",
        b"\r\n\r\nGET",
        b"\r\n\r\n\0\r\nQUIT\r",
        b"\x16\x03\x01",
        b" PROXY TCP4",
    ] {
        assert_eq!(read(bytes), Ok(Header::Absent), "{}", bytes.escape_ascii());
    }
    assert_eq!(read(b""), Ok(Header::Incomplete));
}

/// Bytes that are often almost a header.
fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let damaged = (0..good().len(), 0usize..600, any::<u8>()).prop_map(|(which, at, byte)| {
        let mut bytes = good().swap_remove(which).0;
        let at = at % bytes.len();
        bytes[at] = byte;
        bytes.extend(b"GET / HTTP/1.1\r\n\r\n");
        bytes
    });
    let started = prop::collection::vec(any::<u8>(), 0..600)
        .prop_map(|bytes| [V2_START, &[0x21], &bytes].concat());
    let line =
        "PROXY (TCP4|TCP6|UNKNOWN|[A-Z]{4}) [0-9a-f:. ]{0,100}\r\n".prop_map(String::into_bytes);
    prop_oneof![damaged, started, line, prop::collection::vec(any::<u8>(), 0..600)]
}

proptest! {
    #[test]
    fn any_bytes_are_judged_alike_however_they_are_cut(
        bytes in bytes(),
        mut cuts in prop::collection::vec(0usize..700, 0..8),
    ) {
        let whole = read(&bytes);
        if let Ok(Header::Complete { len, .. }) = whole {
            prop_assert!(len <= bytes.len().min(V2_BYTES_MAX));
        }
        cuts.iter_mut().for_each(|cut| *cut = (*cut).min(bytes.len()));
        cuts.push(bytes.len());
        cuts.sort_unstable();
        let mut reader = HeaderReader::default();
        let cut = cuts.iter().map(|&end| reader.read(&bytes[..end]))
            .find(|outcome| *outcome != Ok(Header::Incomplete))
            .unwrap_or(Ok(Header::Incomplete));
        prop_assert_eq!(whole, cut);
    }
}
