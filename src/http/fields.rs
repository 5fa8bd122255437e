//! The headers of an upgrade request that anything depends on, gathered in one pass.

use httparse::Header;

/// A header that may be given once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Once<'a> {
    #[default]
    Absent,
    Given(&'a [u8]),
    Repeated,
}

impl<'a> Once<'a> {
    fn add(&mut self, value: &'a [u8]) {
        *self = match self {
            Self::Absent => Self::Given(value),
            _ => Self::Repeated,
        };
    }
}

/// What an upgrade request says, before any of it is judged.
#[derive(Debug, Default)]
pub(super) struct Fields<'a> {
    pub(super) host: Once<'a>,
    pub(super) origin: Once<'a>,
    pub(super) key: Once<'a>,
    pub(super) version: Once<'a>,
    pub(super) content_length: Once<'a>,
    pub(super) has_transfer_encoding: bool,
    /// `Connection` lists `upgrade`.
    pub(super) wants_upgrade: bool,
    pub(super) has_upgrade: bool,
    /// `Upgrade` lists `websocket`.
    pub(super) names_websocket: bool,
    /// Every subprotocol offered is a token.
    pub(super) protocols_are_tokens: bool,
    /// There is a `Sec-WebSocket-Extensions`.
    pub(super) has_extensions: bool,
}

impl<'a> Fields<'a> {
    pub(super) fn gather(headers: &[Header<'a>]) -> Self {
        let mut fields = Self { protocols_are_tokens: true, ..Self::default() };
        headers.iter().for_each(|header| fields.add(header));
        fields
    }

    fn add(&mut self, header: &Header<'a>) {
        let value = header.value;
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        if is("host") {
            self.host.add(value);
        } else if is("origin") {
            self.origin.add(value);
        } else if is("sec-websocket-key") {
            self.key.add(value);
        } else if is("sec-websocket-version") {
            self.version.add(value);
        } else if is("content-length") {
            self.content_length.add(value);
        } else if is("transfer-encoding") {
            self.has_transfer_encoding = true;
        } else if is("connection") {
            self.wants_upgrade |= lists(value, b"upgrade");
        } else if is("upgrade") {
            self.has_upgrade = true;
            self.names_websocket |= lists(value, b"websocket");
        } else if is("sec-websocket-protocol") {
            self.protocols_are_tokens &=
                elements(value).all(|element| element.iter().all(is_token));
        } else if is("sec-websocket-extensions") {
            self.has_extensions = true;
        }
    }

    /// Nothing in the request asks for a WebSocket: an ordinary GET.
    pub(super) fn is_plain(&self) -> bool {
        !self.has_upgrade
            && !self.wants_upgrade
            && self.key == Once::Absent
            && self.version == Once::Absent
    }
}

/// The elements of a comma-separated list that are not empty (RFC 9110 section 5.6.1).
pub(super) fn elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).filter(|element| !element.is_empty())
}

/// Whether a list has this element, whatever its case.
pub(super) fn lists(value: &[u8], wanted: &[u8]) -> bool {
    elements(value).any(|element| element.eq_ignore_ascii_case(wanted))
}

/// `tchar` (RFC 9110 section 5.6.2).
fn is_token(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)
}
