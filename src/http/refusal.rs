//! Why a request is not upgraded, as a value that [`response::refuse`](super::response::refuse)
//! can write.

/// The statuses this listener answers with, 101 aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Status {
    /// The request breaks RFC 9112 or RFC 6455 section 4.2.1.
    BadRequest = 400,
    /// The origin, or the source, is not allowed.
    Forbidden = 403,
    /// No such path.
    NotFound = 404,
    /// Not a GET; the response carries `Allow` (RFC 9110 section 15.5.6).
    MethodNotAllowed = 405,
    /// The request has begun and did not arrive in time (RFC 9110 section 15.5.9).
    RequestTimeout = 408,
    /// Not a WebSocket request, or of another version; the response carries `Upgrade` (RFC 9110
    /// section 15.5.22) and `Sec-WebSocket-Version` (RFC 6455 section 4.4).
    UpgradeRequired = 426,
    /// Over a rate or a limit of this source, or over the global rate (RFC 6585 section 4).
    TooManyRequests = 429,
    /// The head is too long or has too many headers (RFC 6585 section 5).
    HeaderFieldsTooLarge = 431,
    /// Something failed. The server itself never says so; a handler of a program may.
    InternalServerError = 500,
    /// Full, draining or overloaded.
    ServiceUnavailable = 503,
}

impl Status {
    /// The number in the status line.
    pub fn code(self) -> u16 {
        self as u16
    }

    /// The words in the status line.
    pub fn phrase(self) -> &'static str {
        match self {
            Self::BadRequest => "Bad Request",
            Self::Forbidden => "Forbidden",
            Self::NotFound => "Not Found",
            Self::MethodNotAllowed => "Method Not Allowed",
            Self::RequestTimeout => "Request Timeout",
            Self::UpgradeRequired => "Upgrade Required",
            Self::TooManyRequests => "Too Many Requests",
            Self::HeaderFieldsTooLarge => "Request Header Fields Too Large",
            Self::InternalServerError => "Internal Server Error",
            Self::ServiceUnavailable => "Service Unavailable",
        }
    }
}

/// What the response to a refused request carries as its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Body {
    /// One line of JSON with the detail, the status, the reason and the key, for programs.
    Json,
    /// The detail as plain text, for a person who opened the address in a browser.
    Text,
    /// None: the answer to a HEAD request (RFC 9110 section 9.3.2).
    Empty,
}

/// A request that is not upgraded: answer it, close the connection, read nothing further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    /// The status of the response.
    pub status: Status,
    /// What was wrong, for the response and the log. Ours, never a part of the request.
    pub detail: &'static str,
    /// One word for it, for programs.
    pub reason: Option<&'static str>,
    /// The configuration key of the limit that was met, for whoever operates the server or asks its
    /// operator. The limit itself is not told: it would say how much an attacker can have.
    pub key: Option<&'static str>,
    /// When trying again makes sense, in seconds from now.
    pub retry_after_s: Option<u32>,
    /// The form of the body.
    pub body: Body,
}

impl Refusal {
    /// A refusal with a JSON body and no `Retry-After`.
    pub const fn new(status: Status, detail: &'static str) -> Self {
        let body = Body::Json;
        Self { status, detail, reason: None, key: None, retry_after_s: None, body }
    }

    /// A request that breaks a rule (400).
    pub const fn bad_request(detail: &'static str) -> Self {
        Self::new(Status::BadRequest, detail)
    }

    /// The same with one word for the reason, and the key of the limit if there is one.
    pub const fn because(self, reason: &'static str, key: Option<&'static str>) -> Self {
        Self { reason: Some(reason), key, ..self }
    }

    /// The same with `Retry-After`.
    pub const fn retry_after(self, seconds: u32) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// The same with another form of body.
    pub const fn with_body(self, body: Body) -> Self {
        Self { body, ..self }
    }
}
