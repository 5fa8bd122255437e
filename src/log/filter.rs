//! Which events are logged: RUST_LOG, and what is wrong with it.
//!
//! A server whose log is silent by mistake cannot even say why it did not start, so only what
//! says so (`off`) silences it.

use std::ffi::OsStr;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;

/// The variable.
pub(super) const NAME: &str = "RUST_LOG";

/// What is logged without it.
const DEFAULT: &str = "info";

/// What this server's own events are called.
const OWN_TARGET: &str = "tidegate";

/// What is logged of this server if the filter names only others.
const OWN_LEAST: &str = "tidegate=warn";

/// A filter, and what is wrong with the value that it was to be made of.
pub(super) struct Chosen {
    pub(super) filter: EnvFilter,
    pub(super) complaint: Option<String>,
}

/// The filter for this value of RUST_LOG; one that is empty counts as not set.
pub(super) fn choose(value: Option<&OsStr>) -> Chosen {
    let fallback = |complaint| Chosen { filter: EnvFilter::new(DEFAULT), complaint };
    let Some(value) = value else { return fallback(None) };
    let text = match value.to_str() {
        Some(text) => text.trim(),
        None => return fallback(Some(refused(&value.to_string_lossy(), "it is not UTF-8"))),
    };
    if text.is_empty() {
        return fallback(None);
    }
    match EnvFilter::try_new(text) {
        Err(error) => fallback(Some(refused(text, &error.to_string()))),
        Ok(filter) if silences_us(text) => Chosen {
            filter: OWN_LEAST.parse().map_or(filter, |own| EnvFilter::new(text).add_directive(own)),
            complaint: Some(format!(
                "{NAME}={text} names nothing of this server; its warnings and errors are logged \
                 all the same. Write a level (error, warn, info, debug, trace), with a target as \
                 in {NAME}=info,tidegate=debug, or off for no log at all"
            )),
        },
        Ok(filter) => Chosen { filter, complaint: None },
    }
}

fn refused(text: &str, why: &str) -> String {
    format!(
        "{NAME}={text} is refused: {why}; {DEFAULT} is used. Allowed: a level (off, error, warn, \
         info, debug, trace), or levels by target as in {NAME}=info,tidegate=debug"
    )
}

/// Whether not even our errors pass, although nobody wrote `off`: a level that is misspelt is
/// taken for the name of a target.
fn silences_us(text: &str) -> bool {
    let is_off = |directive: &str| {
        let level = directive.rsplit('=').next().unwrap_or_default();
        level.trim().eq_ignore_ascii_case("off") || level.trim() == "0"
    };
    if text.split(',').any(is_off) {
        return false;
    }
    let trial = tracing_subscriber::registry().with(EnvFilter::new(text));
    let passes = || tracing::enabled!(target: OWN_TARGET, Level::ERROR);
    !tracing::subscriber::with_default(trial, passes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The filter, and whether there is a complaint.
    fn chosen(value: Option<&str>) -> (String, bool) {
        let Chosen { filter, complaint } = choose(value.map(OsStr::new));
        (filter.to_string(), complaint.is_some())
    }

    #[test]
    fn empty_is_not_set() {
        for value in [None, Some(""), Some("  "), Some("\t\n")] {
            assert_eq!(chosen(value), ("info".to_owned(), false), "{value:?}");
        }
    }

    #[test]
    fn what_names_our_events_is_taken_as_it_is() {
        for value in ["warn", "debug", "tidegate=debug", "error,tidegate::redis=trace", "off"] {
            assert!(!chosen(Some(value)).1, "{value}");
        }
        assert_eq!(chosen(Some(" warn ")), ("warn".to_owned(), false));
    }

    #[test]
    fn what_is_no_filter_is_said_and_info_is_used() {
        for value in ["tidegate=loud", "a=b=c", "info,=", "[", "tidegate=debug=info"] {
            assert_eq!(chosen(Some(value)), ("info".to_owned(), true), "{value}");
        }
        use std::os::unix::ffi::OsStrExt;
        assert!(choose(Some(OsStr::from_bytes(b"inf\xff"))).complaint.is_some());
    }

    #[test]
    fn a_misspelt_level_does_not_silence_the_server() {
        for value in ["inof", "verbose", "hyper=debug", "INFOO,rustls=warn"] {
            let (filter, is_said) = chosen(Some(value));
            assert!(is_said && filter.contains("tidegate=warn"), "{value}: {filter}");
        }
        for value in ["off", "hyper=debug,off", "tidegate=off"] {
            assert!(!chosen(Some(value)).1, "{value}");
        }
    }
}
