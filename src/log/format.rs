//! How a log event becomes text: every value is escaped, whatever it came from, so that a line of the
//! log is a line that this server wrote.
//!
//! For people the message comes first, then `name=value`; a value that could be taken for more than
//! one is in quotation marks. A backtrace keeps its lines, each indented. In JSON the formatter
//! escapes what JSON demands, and [`EscapedJson`] the rest. Neither knows where the text goes.

use std::fmt::{self, Debug, Write};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::registry::LookupSpan;

use crate::escape::{Escaper, printable};

/// The field whose line breaks are kept.
const BACKTRACE: &str = "backtrace";

/// Fields for people.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HumanFields;

impl<'w> FormatFields<'w> for HumanFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter { writer, is_first: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct FieldWriter<'w> {
    writer: Writer<'w>,
    is_first: bool,
    result: fmt::Result,
}

impl Visit for FieldWriter<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        let is_message = field.name() == "message";
        self.result = self.result.and_then(|()| {
            self.name(field)?;
            match is_message {
                true => write!(self.writer, "{}", printable(value)),
                false => write!(self.writer, "{}", printable(format_args!("{value:?}"))),
            }
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.result = self.result.and_then(|()| {
            self.name(field)?;
            match field.name() {
                "message" => write!(Escaper::text(&mut self.writer), "{value:?}"),
                BACKTRACE => self.indented(&format!("{value:?}")),
                _ => self.value(&format!("{value:?}")),
            }
        });
    }
}

impl FieldWriter<'_> {
    fn name(&mut self, field: &Field) -> fmt::Result {
        if !std::mem::take(&mut self.is_first) {
            self.writer.write_char(' ')?;
        }
        match field.name() {
            "message" => Ok(()),
            name if self.writer.has_ansi_escapes() => {
                write!(self.writer, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")
            }
            name => write!(self.writer, "{name}="),
        }
    }

    /// In quotation marks if it could be taken for more than one value.
    fn value(&mut self, text: &str) -> fmt::Result {
        let is_word = !text.is_empty() && !text.contains([' ', '"', '=']);
        match is_word {
            true => write!(self.writer, "{}", printable(text)),
            false => write!(self.writer, "{}", printable(format_args!("{text:?}"))),
        }
    }

    fn indented(&mut self, text: &str) -> fmt::Result {
        text.lines().try_for_each(|line| write!(self.writer, "\n    {}", printable(line)))
    }
}

/// Events in JSON, formatted by `F`.
#[derive(Clone, Copy, Debug)]
pub(super) struct EscapedJson<F>(pub(super) F);

impl<S, N, F> FormatEvent<S, N> for EscapedJson<F>
where
    S: Subscriber + for<'lookup> LookupSpan<'lookup>,
    N: for<'writer> FormatFields<'writer> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut escaper = Escaper::json(&mut writer);
        self.0.format_event(context, Writer::new(&mut escaper), event)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::io;
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::Value;
    use tracing::{info, subscriber::with_default};
    use tracing_subscriber::fmt;

    use super::*;
    use crate::escape::is_unsafe;
    use crate::escape::tests::any_text;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Written {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn human(log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let logs = fmt().with_target(false).with_ansi(false).without_time();
        let logs = logs.fmt_fields(HumanFields).with_writer(move || writer.clone());
        with_default(logs.finish(), log);
        written.text()
    }

    fn json(log: impl FnOnce()) -> String {
        let written = Written::default();
        let writer = written.clone();
        let logs = fmt().json().flatten_event(true).map_event_format(EscapedJson);
        with_default(logs.with_writer(move || writer.clone()).finish(), log);
        written.text()
    }

    #[test]
    fn values_are_told_apart() {
        let line = human(|| info!(a = 1, b = "x y", c = %"plain", d = %"x e=\"2\"", "said"));
        assert_eq!(line, " INFO said a=1 b=\"x y\" c=plain d=\"x e=\\\"2\\\"\"\n");
    }

    #[test]
    fn a_backtrace_keeps_its_lines_and_begins_none_at_the_margin() {
        let backtrace = "0: main\n1: start\x1b[2J\n";
        let line = human(|| info!(%backtrace, "panic: {}", "x\ny"));
        assert_eq!(line, " INFO panic: x\\ny backtrace=\n    0: main\n    1: start\\x1b[2J\n");
    }

    proptest! {
        #[test]
        fn an_event_is_one_line_whatever_is_in_it(text in any_text()) {
            let text = text.as_str();
            let log = || info!(text, shown = %text, debug = ?Some(text), "said {text}");
            let line = human(log);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(!body.contains(is_unsafe), "{:?}", body);
            let line = json(log);
            let body = line.strip_suffix('\n').unwrap();
            prop_assert!(!body.contains(is_unsafe), "{:?}", body);
            let event: Value = serde_json::from_str(body).unwrap();
            prop_assert_eq!(event["text"].as_str().unwrap(), text);
            prop_assert_eq!(event["shown"].as_str().unwrap(), text);
            prop_assert_eq!(event["message"].as_str().unwrap(), format!("said {text}"));
        }
    }
}
