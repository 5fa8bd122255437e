//! A result as a table for people and as JSON for programs, from one list.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::crew::{Measured, Run};
use crate::fates::Fates;
use crate::ledger::Ledger;
use crate::server::ServerBooks;
use crate::server::books::Counted;

/// Memory of fewer connections is lost in what else goes on.
const ENOUGH_FOR_MEMORY: u64 = 1_000;

/// Percent of its time that a generator thread may wait for a processor before it is said.
const MUCH_WAITED: f64 = 20.0;

/// Sections of names and values, in order.
#[derive(Debug, Default)]
pub(crate) struct Report {
    sections: Vec<(String, Vec<(String, Value)>)>,
    /// What went wrong, and remedies.
    findings: Vec<String>,
    /// Remarks that do not make the run a failure.
    remarks: Vec<String>,
    /// The run over time, for the page.
    series: Value,
}

impl Report {
    /// Starts a section.
    pub(crate) fn section(&mut self, name: &str) -> &mut Self {
        self.sections.push((String::from(name), Vec::new()));
        self
    }

    /// Adds a value to the last section.
    pub(crate) fn put(&mut self, name: &str, value: impl Into<Value>) -> &mut Self {
        if self.sections.is_empty() {
            self.section("result");
        }
        if let Some((_, values)) = self.sections.last_mut() {
            values.push((String::from(name), value.into()));
        }
        self
    }

    /// Adds several.
    pub(crate) fn put_all(&mut self, values: Vec<(&str, Value)>) -> &mut Self {
        for (name, value) in values {
            self.put(name, value);
        }
        self
    }

    /// Notes something that makes the run a failure.
    pub(crate) fn fault(&mut self, finding: impl Into<String>) {
        self.findings.push(finding.into());
    }

    /// Notes something worth knowing.
    pub(crate) fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// Keeps how the run went over time.
    pub(crate) fn keep_series(&mut self, measured: &Measured) {
        self.series = measured.series.columns();
    }

    /// The run over time, one array for each quantity.
    pub(crate) fn series(&self) -> &Value {
        &self.series
    }

    /// True if nothing was found wrong.
    pub(crate) fn is_good(&self) -> bool {
        self.findings.is_empty()
    }

    /// The books, how the opening went, and what is wrong with them.
    pub(crate) fn common<S>(&mut self, run: &Run<S>, ledger: &Ledger) {
        self.ledger("ledger", ledger);
        self.check(run, ledger);
        let seconds = run.measured.opening.as_secs_f64().max(1e-9);
        self.section("opening")
            .put("seconds", rounded(seconds))
            .put("connections_per_second", (ledger.admitted as f64 / seconds).round());
        self.opening_generator(&run.measured);
        self.section("time_to_101_us").put_all(run.admissions().summary_us());
    }

    /// A section of books.
    pub(crate) fn ledger(&mut self, name: &str, ledger: &Ledger) -> &mut Self {
        self.section(name)
            .put("attempts", ledger.attempts)
            .put("admitted", ledger.admitted)
            .put("refused", ledger.refused_total())
            .put("failed", ledger.failed_total())
            .put("open", ledger.open)
            .put("ended", ledger.ended_total())
            .put("refused_by_status", counts(&ledger.refused))
            .put("failed_by_cause", counts(&ledger.failed))
            .put("ended_by_reason", counts(&ledger.ended))
            .put("balanced", ledger.balance().is_ok())
    }

    /// What is wrong with the books, and what can be done about attempts that failed.
    pub(crate) fn check<S>(&mut self, run: &Run<S>, ledger: &Ledger) {
        if let Err(imbalance) = ledger.balance() {
            self.fault(format!("the ledger does not balance: {imbalance}"));
        }
        for (failure, count) in &ledger.failed {
            if let Some(remedy) = failure.remedy() {
                self.remark(format!("{count} x {failure}: {remedy}"));
            }
        }
        if run.measured.interrupted {
            self.remark("interrupted before its time");
        }
    }

    /// What the server has counted, beside what was seen here.
    pub(crate) fn compare(&mut self, fates: &Fates, counted: &Counted) {
        let reasons = counted.refused_by_reason.iter();
        let differences = fates.differences(counted);
        self.put("opened", counted.opened)
            .put("closed", counted.closed)
            .put("refused", counted.refused)
            .put(
                "refused_by_reason",
                Value::Object(
                    reasons.map(|(reason, count)| (reason.clone(), json!(count))).collect(),
                ),
            )
            .put("messages_sent", counted.messages_sent)
            .put("most_at_once", counted.most)
            .put("samples", counted.samples)
            .put("peak_since_start", counted.peak)
            .put("has_ended", counted.ended)
            .put("agrees", differences.is_empty());
        differences.into_iter().for_each(|difference| self.fault(difference));
    }

    /// Closes the server's books, where they were opened, and compares them with `ledger`.
    /// Returns what was counted.
    pub(crate) fn server(&mut self, books: ServerBooks, ledger: &Ledger) -> Option<Counted> {
        let fates = Fates::of(ledger, 0);
        match books.close(&fates) {
            Ok(None) => None,
            Ok(Some(counted)) => {
                self.section("server_counted");
                self.compare(&fates, &counted);
                Some(counted)
            }
            Err(why) => {
                self.fault(format!("the server's counters cannot be compared: {why}"));
                None
            }
        }
    }

    /// What the generator used of its cores while it opened connections.
    fn opening_generator(&mut self, measured: &Measured) {
        let window = measured.opening_window.as_secs_f64();
        let busiest = measured.opening_cpu.iter().max().map_or(0.0, Duration::as_secs_f64);
        if window <= 0.0 {
            return;
        }
        let percent = rounded(100.0 * busiest / window);
        self.put("generator_cpu_percent_busiest_thread", percent);
        if percent > 95.0 {
            self.remark(format!(
                "the generator was the bottleneck while connections were opened: a thread was \
                 {percent} % busy"
            ));
        }
    }

    /// Memory per open connection, by part, where so many were opened that it says something.
    pub(crate) fn memory(&mut self, measured: &Measured) {
        let (before, after) = &measured.memory;
        let connections = measured.memory_at;
        if connections < ENOUGH_FOR_MEMORY {
            return;
        }
        let per = |bytes: i64| rounded(bytes as f64 / connections as f64);
        self.section("memory_bytes_per_connection").put("connections", connections);
        for (name, bytes) in after.growth(before).into_iter().filter(|(_, bytes)| *bytes > 0) {
            self.put(&name, per(bytes));
        }
        self.put("kernel, all slabs", per(after.slab_total() as i64 - before.slab_total() as i64));
        self.put("whole machine", per(after.used as i64 - before.used as i64));
    }

    /// The window and what the generator used of its cores.
    pub(crate) fn generator(&mut self, measured: &Measured) {
        let window = measured.window.as_secs_f64().max(1e-9);
        let busy: Vec<f64> = measured
            .threads_cpu
            .iter()
            .map(|cpu| rounded(100.0 * cpu.as_secs_f64() / window))
            .collect();
        let busiest = busy.iter().copied().fold(0.0, f64::max);
        let waited = measured.threads_waited.iter().max().map_or(0.0, Duration::as_secs_f64);
        let waited = rounded(100.0 * waited / window);
        self.section("generator")
            .put("threads", busy.len())
            .put("cpu_percent_busiest_thread", busiest)
            .put("cpu_percent_all_threads", rounded(busy.iter().sum()))
            .put("waited_percent_busiest_thread", waited)
            .put("was_bottleneck", busiest + waited > 95.0);
        if busiest <= 95.0 && waited > MUCH_WAITED {
            self.remark(format!(
                "the generator waited for a processor {waited} % of the time: this machine has \
                 other work, and latencies have that in them"
            ));
        }
        if busiest > 95.0 {
            self.remark(format!(
                "the generator was the bottleneck: a thread was {busiest} % busy; rates are the \
                 generator's, not the server's (more --threads on other cores)"
            ));
        }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for (name, values) in &self.sections {
            text.push_str(&format!("{name}\n"));
            for (name, value) in values.iter().filter(|(_, value)| !is_empty(value)) {
                text.push_str(&format!("  {name:<32} {}\n", shown(value)));
            }
        }
        for remark in &self.remarks {
            text.push_str(&format!("note: {remark}\n"));
        }
        for finding in &self.findings {
            text.push_str(&format!("FAILED: {finding}\n"));
        }
        if self.is_good() {
            text.push_str("ok\n");
        }
        text
    }

    /// Sections in their order, as `[name, [[name, value]]]`.
    pub(crate) fn sections_json(&self) -> Value {
        json!(self.sections)
    }

    /// For programs: one object.
    pub(crate) fn json(&self) -> Value {
        let mut object = Map::new();
        for (name, values) in &self.sections {
            object.insert(name.clone(), Value::Object(values.iter().cloned().collect()));
        }
        object.insert("ok".into(), json!(self.is_good()));
        object.insert("faults".into(), json!(self.findings));
        object.insert("notes".into(), json!(self.remarks));
        Value::Object(object)
    }
}

/// A map of counts, with its keys as text.
pub(crate) fn counts<'a, K: ToString + 'a>(
    counts: impl IntoIterator<Item = (&'a K, &'a u64)>,
) -> Value {
    Value::Object(counts.into_iter().map(|(key, count)| (key.to_string(), json!(count))).collect())
}

/// Three digits after the point.
pub(crate) fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Null => true,
        _ => false,
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let pairs: Vec<_> =
                map.iter().map(|(key, value)| format!("{key}: {}", shown(value))).collect();
            pairs.join(", ")
        }
        Value::Array(list) => {
            let parts: Vec<_> = list.iter().map(shown).collect();
            format!("[{}]", parts.join(" "))
        }
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if float.fract() == 0.0 && float.abs() < 1e15 => format!("{float:.0}"),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fate::Fate;

    #[test]
    fn one_list_makes_both_forms() {
        let mut report = Report::default();
        report.section("ledger").put("attempts", 3).put("refused_by_status", json!({"503": 1}));
        report.section("rate").put("per_second", 2.0).put("nothing", json!({}));
        report.remark("slow");
        assert!(report.table().contains("attempts                         3\n"));
        assert!(report.table().contains("503: 1"));
        assert!(!report.table().contains("nothing"), "empty values only fill the screen");
        assert!(report.table().ends_with("note: slow\nok\n"));
        assert_eq!(report.json()["ledger"]["attempts"], 3);
        assert_eq!(report.json()["ok"], true);
        report.fault("broken");
        assert!(report.table().ends_with("FAILED: broken\n"));
        assert_eq!(report.json()["faults"][0], "broken");
    }

    #[test]
    fn the_books_are_printed_and_checked() {
        let mut report = Report::default();
        let mut ledger = Ledger { attempts: 1, ..Ledger::default() };
        let run = Run::<()> { rings: Vec::new(), measured: Measured::default() };
        report.common(&run, &ledger);
        assert!(!report.is_good(), "an attempt without a fate");
        ledger.settle(Fate::Refused(429));
        let mut report = Report::default();
        report.common(&run, &ledger);
        assert!(report.is_good());
        assert_eq!(report.json()["ledger"]["refused_by_status"]["429"], 1);
    }
}
