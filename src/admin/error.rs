//! What can be wrong with a request, and the numbers and words for it.

/// Why a request was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) kind: ErrorKind,
    /// What was wrong, where, and what would be right.
    pub(super) message: String,
    /// The methods of the path, for 405.
    pub(super) allow: Option<String>,
}

/// The kinds of errors: a status and a code each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorKind {
    BadRequest,
    /// The body cannot be decoded at all.
    Undecodable,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    Conflict,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    /// The body is compressed, or encoded in another way.
    UnsupportedEncoding,
    Internal,
    Unavailable,
}

impl ErrorKind {
    /// The HTTP status.
    pub(super) const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::Undecodable => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::MethodNotAllowed => 405,
            Self::Conflict => 409,
            Self::RequestTimeout => 408,
            Self::BodyTooLarge => 413,
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => 415,
            Self::Internal => 500,
            Self::Unavailable => 503,
        }
    }

    /// The code in words.
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Undecodable => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::Conflict => "conflict",
            Self::RequestTimeout => "request_timeout",
            Self::BodyTooLarge => "body_too_large",
            Self::UnsupportedMediaType | Self::UnsupportedEncoding => "unsupported_media_type",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
        }
    }

    /// The code in Centrifugo's numbers, which the server API answers with.
    pub(super) const fn number(self) -> u16 {
        match self {
            Self::Internal | Self::Unavailable => 100,
            Self::Unauthorized => 101,
            Self::Forbidden => 103,
            Self::NotFound | Self::MethodNotAllowed => 104,
            Self::BodyTooLarge => 106,
            Self::BadRequest
            | Self::Undecodable
            | Self::Conflict
            | Self::RequestTimeout
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding => 107,
        }
    }

    /// Whether the server API has read the command and says in its answer what became of it, as
    /// Centrifugo does: status 200 with an error object, unless statuses are asked for.
    pub(super) const fn is_outcome(self) -> bool {
        match self {
            Self::BadRequest | Self::Conflict | Self::Internal | Self::Unavailable => true,
            Self::Undecodable
            | Self::Unauthorized
            | Self::Forbidden
            | Self::NotFound
            | Self::MethodNotAllowed
            | Self::RequestTimeout
            | Self::BodyTooLarge
            | Self::UnsupportedMediaType
            | Self::UnsupportedEncoding => false,
        }
    }
}

impl ApiError {
    pub(super) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), allow: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::BadRequest, message)
    }

    pub(super) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unavailable, message)
    }
}

/// Text from a request as it may stand in an answer or a log line: short, and one line.
pub(super) fn quoted(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut shown: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    format!("`{shown}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_text_is_short_and_one_line() {
        assert_eq!(quoted("a\r\nb"), "`a\\r\\nb`");
        let long = quoted(&"é".repeat(10_000));
        assert!(long.chars().count() < 100 && long.ends_with("...`"), "{long}");
    }
}
