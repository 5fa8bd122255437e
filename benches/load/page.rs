//! The report as a page that needs nothing but a browser: no network, no library.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tidegate::files::read::small_text;
use tidegate::files::write;

use crate::plan::Refused;
use crate::report::Report;

const PAGE: &str = include_str!("page.html");

/// Where the data goes in the page.
const PLACE: &str = "/*DATA*/null";

/// How long a pipe that the page is written to may take nothing.
const WRITE_PATIENCE: Duration = Duration::from_secs(10);

/// Writes the page of a run of `command`.
///
/// # Errors
/// The file cannot be written.
pub(crate) fn write(file: &Path, command: &str, report: &Report) -> Result<(), Refused> {
    let name =
        |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", file.display()));
    let give_up = Instant::now() + WRITE_PATIENCE;
    write::write(file, page(command, report).as_bytes(), 0o644, give_up)
        .map(drop)
        .map_err(|error| Refused::Kernel(name(error)))
}

fn page(command: &str, report: &Report) -> String {
    let line: Vec<String> = std::env::args().skip(1).collect();
    let kernel = small_text("/proc/sys/kernel/osrelease").unwrap_or_default();
    let data = json!({
        "command": command,
        "line": line.join(" "),
        "version": env!("CARGO_PKG_VERSION"),
        "at": jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string(),
        "kernel": kernel.trim(),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "series": report.series(),
        "sections": report.sections_json(),
        "ok": report.is_good(),
        "report": report.json(),
    });
    PAGE.replacen(PLACE, &embedded(&data), 1)
}

/// JSON that cannot end the script element that it stands in.
fn embedded(data: &Value) -> String {
    data.to_string().replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_data_and_asks_nobody_for_anything() {
        let mut report = Report::default();
        report.section("ledger").put("attempts", 17).put("text", "</script><b>");
        let page = page("hold", &report);
        assert!(page.contains(r#""attempts":17"#) && !page.contains("</script><b>"));
        assert!(!page.contains(PLACE), "the data is in");
        for outside in ["http://", "https://", "//cdn", "@import", "src="] {
            assert!(!PAGE.replace("http://www.w3.org/", "").contains(outside), "{outside}");
        }
    }
}
