//! The table of requirements says of every row what stands for it, and says the truth: the rows
//! are all there, and the tests beside a row are those whose comments name it.
//!
//! `REQUIREMENTS=write cargo test --test repository` puts the names of tests into the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::rules::{collect, is_path, root};

const TABLE: &str = "docs/requirements.md";

/// How many rows each of the five systems has, S0 first, and how many rules join them.
const ROWS: [u32; 5] = [76, 70, 42, 39, 96];
const RULES: u32 = 14;

/// What stands beside a row that nothing shows.
const NOT_YET: &str = "not there yet";

/// The rules and then all rows, in order.
fn every_row() -> Vec<String> {
    let rules = (1..=RULES).map(|rule| format!("rule {rule}"));
    let rows = ROWS.iter().enumerate();
    let rows =
        rows.flat_map(|(system, count)| (1..=*count).map(move |row| format!("S{system}.{row}")));
    rules.chain(rows).collect()
}

/// The rows that a comment names: `S2.3`, `S0.39 to S0.45`, `rule 7`.
fn rows_named(comment: &str) -> Vec<String> {
    let plain = |c: char| c.is_alphanumeric() || c == '.';
    let words: Vec<&str> = comment.split(|c| !plain(c)).filter(|word| !word.is_empty()).collect();
    let words: Vec<&str> = words.iter().map(|word| word.trim_end_matches('.')).collect();
    let mut rows = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let before = |back: usize| index.checked_sub(back).map_or("", |at| words[at]);
        if let Some((system, row)) = numbers(word) {
            let first = match numbers(before(2)) {
                Some((from, first)) if before(1) == "to" && from == system => first + 1,
                _ => row,
            };
            rows.extend((first..=row).map(|row| format!("S{system}.{row}")));
        } else if before(1).eq_ignore_ascii_case("rule") && word.parse::<u32>().is_ok() {
            rows.push(format!("rule {word}"));
        }
    }
    rows
}

/// 2 and 3 of `S2.3`.
fn numbers(word: &str) -> Option<(u32, u32)> {
    let (system, row) = word.strip_prefix('S')?.split_once('.')?;
    Some((system.parse().ok()?, row.parse().ok()?))
}

/// The tests that name each row, as `file::name`.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let mut files = Vec::new();
    for directory in ["src", "tests", "benches", "examples"] {
        collect(&root().join(directory), &mut files);
    }
    let mut shown: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (file, text) in files {
        for (name, comment) in tests_of(&text) {
            for row in rows_named(&comment) {
                shown.entry(row).or_default().insert(format!("`{file}::{name}`"));
            }
        }
    }
    shown
}

/// The tests of a file, each with its comment.
fn tests_of(text: &str) -> Vec<(String, String)> {
    let (mut comment, mut is_test, mut tests) = (String::new(), false, Vec::new());
    for line in text.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            comment.push_str(more);
        } else if line.starts_with("#[") {
            is_test |= line == "#[test]";
        } else {
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next());
            if let Some(name) = name.filter(|_| is_test) {
                tests.push((name.to_owned(), std::mem::take(&mut comment)));
            }
            comment.clear();
            is_test = false;
        }
    }
    tests
}

/// A row of the table: what it asks for, which tests show it, and what else stands for it.
#[derive(Debug)]
struct Row {
    id: String,
    asks: String,
    tests: String,
    otherwise: String,
}

impl Row {
    fn parse(line: &str) -> Option<Self> {
        let cells: Vec<&str> = line.strip_prefix('|')?.strip_suffix('|')?.split('|').collect();
        let [id, asks, tests, otherwise] = cells.as_slice() else { return None };
        let cell = |text: &str| text.trim().to_owned();
        let id = cell(id);
        let is_row = id.starts_with("rule ") || numbers(&id).is_some();
        is_row.then(|| Row { id, asks: cell(asks), tests: cell(tests), otherwise: cell(otherwise) })
    }

    fn line(&self) -> String {
        let cell = |text: &str| if text.is_empty() { " ".to_owned() } else { format!(" {text} ") };
        let cells = [&self.id, &self.asks, &self.tests, &self.otherwise].map(|text| cell(text));
        format!("|{}|", cells.join("|"))
    }
}

fn listed(tests: Option<&BTreeSet<String>>) -> String {
    tests.into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
}

fn table() -> String {
    fs::read_to_string(root().join(TABLE)).unwrap()
}

#[test]
fn every_requirement_is_in_the_table_once_and_in_order() {
    let rows: Vec<String> = table().lines().filter_map(Row::parse).map(|row| row.id).collect();
    let expected = every_row();
    for (found, expected) in rows.iter().zip(&expected) {
        assert_eq!(found, expected, "{TABLE}");
    }
    assert_eq!(rows.len(), expected.len(), "{TABLE}");
}

#[test]
fn the_tests_beside_a_requirement_are_those_that_name_it() {
    let shown = shown();
    if std::env::var("REQUIREMENTS").is_ok_and(|what| what == "write") {
        write_tests(&shown);
    }
    let rows: Vec<Row> = table().lines().filter_map(Row::parse).collect();
    let known: BTreeSet<&String> = rows.iter().map(|row| &row.id).collect();
    let unknown: Vec<_> = shown.iter().filter(|(id, _)| !known.contains(id)).collect();
    assert!(unknown.is_empty(), "rows that do not exist: {unknown:?}");
    let wrong: Vec<String> = rows
        .iter()
        .filter(|row| row.tests != listed(shown.get(&row.id)))
        .map(|row| format!("{}: {}", row.id, listed(shown.get(&row.id))))
        .collect();
    assert!(
        wrong.is_empty(),
        "{TABLE} is not what the comments of tests say; REQUIREMENTS=write puts this right:\n{}",
        wrong.join("\n")
    );
}

fn write_tests(shown: &BTreeMap<String, BTreeSet<String>>) {
    let line = |line: &str| match Row::parse(line) {
        Some(mut row) => {
            row.tests = listed(shown.get(&row.id));
            if !row.tests.is_empty() && row.otherwise == NOT_YET {
                row.otherwise.clear();
            }
            row.line()
        }
        None => line.to_owned(),
    };
    let text: Vec<String> = table().lines().map(line).collect();
    fs::write(root().join(TABLE), text.join("\n") + "\n").unwrap();
}

#[test]
fn every_requirement_has_a_test_or_an_answer_whose_files_exist() {
    for row in table().lines().filter_map(Row::parse) {
        assert!(!row.asks.is_empty(), "{}: what does it ask for?", row.id);
        assert!(!(row.tests.is_empty() && row.otherwise.is_empty()), "{}: nothing", row.id);
        let both = !row.tests.is_empty() && row.otherwise == NOT_YET;
        assert!(!both, "{}: {NOT_YET}, and yet shown; REQUIREMENTS=write", row.id);
        for name in row.otherwise.split('`').skip(1).step_by(2).filter(|name| is_path(name)) {
            assert!(root().join(name).exists(), "{}: {name} does not exist", row.id);
        }
    }
}

#[test]
fn rows_are_found_in_comments() {
    let comment = "Rows S0.9, S0.39 to S0.41 (S4.1) and S2.3. Rule 1, by rule 7 and RFC 6455 S5.";
    let rows = ["S0.9", "S0.39", "S0.40", "S0.41", "S4.1", "S2.3", "rule 1", "rule 7"];
    assert_eq!(rows_named(comment), rows);
    let file = "/// S1.2.\n/// More.\n#[test]\n#[ignore]\nfn one() {\n/// S1.3\nfn not_a_test() {";
    assert_eq!(tests_of(file), [("one".to_owned(), " S1.2. More.".to_owned())]);
}
