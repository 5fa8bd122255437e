//! The two text forms of the metrics, and which one a reader gets. Pure.
//!
//! OpenMetrics 1.0 goes to readers that name it in `Accept`, as Prometheus does; everything else,
//! `curl` among it, gets the text format 0.0.4, which every reader of Prometheus metrics knows.

use std::fmt::Write;

/// A form of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum Exposition {
    OpenMetrics,
    /// The Prometheus text format 0.0.4.
    Text,
}

/// The version of OpenMetrics that is written.
const VERSION: &str = "1.0.0";

impl Exposition {
    pub(in crate::admin) const fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Text => "text/plain; version=0.0.4; charset=utf-8",
        }
    }

    /// This form of a page that is in OpenMetrics.
    pub(in crate::admin) fn of(self, page: String) -> String {
        match self {
            Self::OpenMetrics => page,
            Self::Text => to_text(&page),
        }
    }
}

/// The form for a request with these `Accept` headers (RFC 9110, section 12.5.1): OpenMetrics if it
/// is named and not less wanted than text.
pub(in crate::admin) fn negotiate<'a>(accept: impl Iterator<Item = &'a [u8]>) -> Exposition {
    let (mut open_metrics, mut text) = (None, None);
    for range in
        accept.filter_map(|value| std::str::from_utf8(value).ok()).flat_map(|v| v.split(','))
    {
        let mut parts = range.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let (mut weight, mut version) = (1_000, None);
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim().to_ascii_lowercase().as_str() {
                "q" => weight = per_mille(value),
                "version" => version = Some(value.to_owned()),
                _ => {}
            }
        }
        let wanted = match name.as_str() {
            "application/openmetrics-text" if version.is_none_or(|v| v == VERSION) => {
                &mut open_metrics
            }
            // Version 1.0.0 of the text format has names that this one has not, and is asked for
            // by readers that know 0.0.4 as well.
            "text/plain" | "text/*" => &mut text,
            _ => continue,
        };
        *wanted = (*wanted).max(Some(weight));
    }
    match (open_metrics, text) {
        (Some(1..), None) => Exposition::OpenMetrics,
        (Some(weight @ 1..), Some(other)) if weight >= other => Exposition::OpenMetrics,
        _ => Exposition::Text,
    }
}

/// A weight in parts of 1000; 0 for one that is none.
fn per_mille(weight: &str) -> u32 {
    let weight: f32 = weight.parse().unwrap_or(0.0);
    (weight.clamp(0.0, 1.0) * 1_000.0) as u32
}

/// From OpenMetrics to the text format: a counter has its type by the name of its samples, types
/// that the format has not are others, units and the end are left out, quotation marks in help are
/// not escaped.
fn to_text(page: &str) -> String {
    let mut text = String::with_capacity(page.len());
    let mut help = None;
    for line in page.lines() {
        let mut words = line.splitn(4, ' ');
        let (start, keyword) = (words.next(), words.next());
        let (name, rest) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        match (start, keyword) {
            (Some("#"), Some("HELP")) => help = Some(rest.replace("\\\"", "\"")),
            (Some("#"), Some("TYPE")) => {
                let (suffix, kind) = match rest {
                    "counter" => ("_total", "counter"),
                    "info" => ("_info", "gauge"),
                    "unknown" => ("", "untyped"),
                    "stateset" => ("", "gauge"),
                    kind => ("", kind),
                };
                if let Some(help) = help.take() {
                    let _ = writeln!(text, "# HELP {name}{suffix} {help}");
                }
                let _ = writeln!(text, "# TYPE {name}{suffix} {kind}");
            }
            (Some("#"), _) => {}
            _ => {
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_what_the_reader_prefers() {
        use Exposition::{OpenMetrics, Text};
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        let protobuf_first = "application/vnd.google.protobuf;proto=io.prometheus.client.\
                              MetricFamily;encoding=delimited;q=0.7,\
                              application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.5";
        for (accept, expected) in [
            (prometheus, OpenMetrics),
            (protobuf_first, OpenMetrics),
            ("application/openmetrics-text", OpenMetrics),
            ("Application/OpenMetrics-Text; version=\"1.0.0\" , text/plain", OpenMetrics),
            ("text/plain;version=0.0.4", Text),
            ("text/plain, application/openmetrics-text;q=0.9", Text),
            ("application/openmetrics-text;version=2.0.0", Text),
            ("application/openmetrics-text;version=0.0.1,text/plain;q=0.1", Text),
            ("application/openmetrics-text;q=0", Text),
            ("application/openmetrics-text;q=0, text/plain;q=0", Text),
            ("*/*", Text),
            ("text/html,application/xhtml+xml,*/*;q=0.8", Text),
            ("application/json", Text),
            ("", Text),
            (",;=,q=;;,application/openmetrics-text;q", OpenMetrics),
        ] {
            assert_eq!(negotiate([accept.as_bytes()].into_iter()), expected, "{accept}");
        }
        assert_eq!(negotiate([].into_iter()), Text);
        let two: [&[u8]; 2] = [b"text/plain;q=0.1", b"application/openmetrics-text"];
        assert_eq!(negotiate(two.into_iter()), OpenMetrics);
        assert_eq!(negotiate([&b"\xff"[..]].into_iter()), Text);
    }

    #[test]
    fn the_text_format_names_counters_as_their_samples() {
        let page = "# HELP a_seconds Time, \\\"all\\\" of it.\n# TYPE a_seconds counter\n\
                    # UNIT a_seconds seconds\na_seconds_total{b=\"c d\"} 1.5\n\
                    # HELP u Old.\n# TYPE u unknown\nu 1\n\
                    # HELP h Long.\n# TYPE h histogram\nh_sum 1.0\nh_count 1\n\
                    h_bucket{le=\"+Inf\"} 1\n\
                    # HELP i Program.\n# TYPE i info\ni_info{v=\"1\"} 1\n# EOF\n";
        let expected = "# HELP a_seconds_total Time, \"all\" of it.\n\
                        # TYPE a_seconds_total counter\na_seconds_total{b=\"c d\"} 1.5\n\
                        # HELP u Old.\n# TYPE u untyped\nu 1\n\
                        # HELP h Long.\n# TYPE h histogram\nh_sum 1.0\nh_count 1\n\
                        h_bucket{le=\"+Inf\"} 1\n\
                        # HELP i_info Program.\n# TYPE i_info gauge\ni_info{v=\"1\"} 1\n";
        assert_eq!(Exposition::Text.of(page.to_owned()), expected);
        assert_eq!(Exposition::OpenMetrics.of(page.to_owned()), page);
    }
}
