//! Why an attempt to connect was refused: one variant for the metric's label, the status and
//! the advice.

use crate::http::refusal::{Refusal, Status};

/// The reasons, as `tidegate_admission_refused_total` counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RefusalReason {
    /// The source connects too often.
    PerIpRate,
    /// The source holds too many connections.
    PerIpConcurrent,
    /// The server as a whole is asked too often.
    GlobalRate,
    /// The server is full.
    Capacity,
    /// The source is on the deny list.
    Denied,
    /// The server is shutting down.
    Draining,
    /// The server protects itself, for example because its table of sources is full.
    Overload,
}

impl RefusalReason {
    /// All of them, in the order of [`index`](Self::index).
    pub const ALL: [Self; 7] = [
        Self::PerIpRate,
        Self::PerIpConcurrent,
        Self::GlobalRate,
        Self::Capacity,
        Self::Denied,
        Self::Draining,
        Self::Overload,
    ];

    /// Position in an array of counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// The value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Self::PerIpRate => "per_ip_rate",
            Self::PerIpConcurrent => "per_ip_concurrent",
            Self::GlobalRate => "global_rate",
            Self::Capacity => "capacity",
            Self::Denied => "denied",
            Self::Draining => "draining",
            Self::Overload => "overload",
        }
    }

    /// The HTTP status: 429 where trying less often helps, 503 where the server cannot, 403
    /// where nothing helps.
    pub fn status(self) -> Status {
        match self {
            Self::PerIpRate | Self::PerIpConcurrent | Self::GlobalRate => Status::TooManyRequests,
            Self::Capacity | Self::Draining | Self::Overload => Status::ServiceUnavailable,
            Self::Denied => Status::Forbidden,
        }
    }

    fn detail(self) -> &'static str {
        match self {
            Self::PerIpRate => "too many connection attempts from this address",
            Self::PerIpConcurrent => "too many connections from this address",
            Self::GlobalRate => "too many connection attempts",
            Self::Capacity => "server is full",
            Self::Denied => "address not allowed",
            Self::Draining => "server is shutting down",
            Self::Overload => "server is overloaded",
        }
    }

    /// The key of the limit, where it is one that trying less often keeps. A rule of
    /// `admission.overrides` may stand for it.
    fn key(self) -> Option<&'static str> {
        match self {
            Self::PerIpRate => Some("admission.connections_per_ip_per_minute"),
            Self::PerIpConcurrent => Some("admission.max_connections_per_ip"),
            Self::GlobalRate => Some("admission.global_connections_per_second"),
            Self::Capacity | Self::Denied | Self::Draining | Self::Overload => None,
        }
    }

    /// The response for it, with `Retry-After` in whole seconds, rounded up and at least 1; none
    /// for [`Denied`](Self::Denied), as no time will help.
    pub fn to_refusal(self, retry_after_ms: u64) -> Refusal {
        let refusal = Refusal::new(self.status(), self.detail()).because(self.label(), self.key());
        let seconds = retry_after_ms.div_ceil(1000).clamp(1, u64::from(u32::MAX)) as u32;
        if self == Self::Denied { refusal } else { refusal.retry_after(seconds) }
    }

    /// The Close frame for it: its code and its reason, JSON of at most 123 bytes. 1013, "try
    /// again later" (IANA registry of close codes); 1008 for [`Denied`](Self::Denied), without a
    /// time, as none will help.
    pub fn to_close(self, retry_after_ms: u64) -> (u16, String) {
        let label = self.label();
        if self == Self::Denied {
            return (1008, format!("{{\"type\":\"server.refused\",\"reason\":\"{label}\"}}"));
        }
        let retry_after_ms = retry_after_ms.max(1);
        let text = format!(
            "{{\"type\":\"server.refused\",\"reason\":\"{label}\",\"retry_after_ms\":{retry_after_ms}}}"
        );
        (1013, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_index_is_the_position_in_all() {
        for (position, reason) in RefusalReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), position, "{}", reason.label());
        }
    }

    #[test]
    fn a_key_is_one_of_the_configuration_and_every_429_has_one() {
        for reason in RefusalReason::ALL {
            let limited = reason.status() == Status::TooManyRequests;
            assert_eq!(reason.key().is_some(), limited, "{}", reason.label());
            if let Some(key) = reason.key() {
                assert!(crate::config::KEYS.iter().any(|known| known.name == key), "{key}");
            }
        }
    }

    #[test]
    fn statuses() {
        let statuses = RefusalReason::ALL.map(|reason| reason.status().code());
        assert_eq!(statuses, [429, 429, 429, 503, 403, 503, 503]);
    }

    #[test]
    fn the_reason_of_a_close_is_json_that_fits_into_its_frame() {
        for reason in RefusalReason::ALL {
            for retry_after_ms in [0, 1, u64::MAX] {
                let (code, text) = reason.to_close(retry_after_ms);
                assert!(text.len() <= crate::websocket::close_frame::REASON_MAX, "{text}");
                let json: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
                assert_eq!(
                    (&json["type"], &json["reason"]),
                    (&"server.refused".into(), &reason.label().into())
                );
                let denied = reason == RefusalReason::Denied;
                assert_eq!(code, if denied { 1008 } else { 1013 });
                assert_eq!(json["retry_after_ms"].as_u64().is_none(), denied, "{text}");
            }
        }
    }

    #[test]
    fn retry_after_is_in_whole_seconds_rounded_up() {
        let seconds = |ms| RefusalReason::PerIpRate.to_refusal(ms).retry_after_s;
        assert_eq!(seconds(0), Some(1));
        assert_eq!(seconds(1), Some(1));
        assert_eq!(seconds(1000), Some(1));
        assert_eq!(seconds(1001), Some(2));
        assert_eq!(seconds(u64::MAX), Some(u32::MAX));
        assert_eq!(RefusalReason::Denied.to_refusal(5000).retry_after_s, None);
    }
}
