//! A report as text for a person, as JSON, and in one line for the log.

use std::fmt::Write;

use super::{Finding, Report, Verdict};

/// Longest column before the text of its line goes on the next one.
const FOUND_WIDTH_MAX: usize = 48;

/// The table, then what to do about each line that is not fine, then the answer.
pub fn text(report: &Report) -> String {
    let mut text = String::new();
    let column = |of: fn(&Finding) -> &str, most: usize| {
        let widths = report.findings.iter().map(|finding| of(finding).chars().count());
        widths.filter(|width| *width <= most).max().unwrap_or(0)
    };
    let subject = column(|finding| &finding.subject, 40);
    let found = column(|finding| &finding.found, FOUND_WIDTH_MAX);
    for finding in &report.findings {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:7}  {:subject$}  {:found$}  needed: {}",
            finding.verdict.word(),
            finding.subject,
            finding.found,
            finding.needed,
        );
    }
    for finding in report.findings.iter().filter(|finding| finding.verdict >= Verdict::Advice) {
        let _ = write!(
            text,
            "\n{} {}: {}\n  why:  {}\n  do:   {}\n  undo: {}\n",
            finding.verdict.word(),
            finding.subject,
            finding.found,
            finding.why,
            finding.command,
            finding.undo,
        );
    }
    text.push('\n');
    text.push_str(&answer(report));
    text
}

fn answer(report: &Report) -> String {
    let mut text = String::new();
    let bounding = report.findings.iter().filter_map(|finding| {
        let reachable = finding.reachable?;
        Some((reachable, finding.subject.as_str()))
    });
    let mut bounding: Vec<_> = bounding.collect();
    bounding.sort_unstable();
    for (reachable, subject) in bounding {
        let _ = writeln!(text, "{reachable:>12} connections by {subject}");
    }
    let _ = match &report.binds {
        _ if report.worst() == Verdict::Refuses => {
            writeln!(text, "The server does not start here: see REFUSES above.")
        }
        None => writeln!(text, "{} connections can be held here.", report.connections),
        Some(subject) => writeln!(
            text,
            "{} of {} connections can be held here; {subject} binds first.",
            report.reachable, report.connections
        ),
    };
    text
}

/// The report as one JSON object.
pub fn json(report: &Report) -> String {
    // Strings, numbers and lists of them always have a JSON form.
    serde_json::to_string_pretty(report).unwrap_or_default() + "\n"
}

/// One line for the log of a server that starts: the subjects that are not fine. `None` if all
/// are.
pub fn short(report: &Report) -> Option<String> {
    let subjects: Vec<&str> = report
        .findings
        .iter()
        .filter(|finding| finding.verdict >= Verdict::Advice)
        .map(|finding| finding.subject.as_str())
        .collect();
    (!subjects.is_empty()).then(|| {
        format!(
            "for {} connections this machine could be better at: {}; what to do: tidegate doctor \
             --connections {}",
            report.connections,
            subjects.join(", "),
            report.connections
        )
    })
}
