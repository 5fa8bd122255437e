//! `docs/attacks.md` names a test for each attack, `docs/threat-model.md` a test or a place for each
//! claim, and each test that they name exists.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// Whether a file of this name, or of a module of this name, has this test.
fn exists(files: &[PathBuf], module: &str, test: &str) -> bool {
    let is_of = |path: &PathBuf| {
        let parts: Vec<_> = path.iter().filter_map(|part| part.to_str()).collect();
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        stem == Some(module) || parts.iter().rev().skip(1).take(2).any(|part| *part == module)
    };
    let definition = format!("fn {test}(");
    files.iter().filter(|path| is_of(path)).any(|path| {
        let text = fs::read_to_string(path).unwrap();
        let Some(at) = text.find(&definition) else { return false };
        // The attribute stands right above, but for others.
        let above = &text[..at];
        let block = above.rfind("\n\n").unwrap_or(0);
        above[block..].contains("#[test]")
    })
}

/// The tests that a cell names.
fn tests_in(cell: &str) -> Vec<(&str, &str)> {
    cell.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect()
}

#[test]
fn every_claim_names_what_upholds_it_and_every_such_test_exists() {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    collect(&root().join("tests"), &mut files);
    let text = fs::read_to_string(root().join("docs/threat-model.md")).unwrap();
    let mut claims = 0;
    for section in text.split("\n| claim | upheld by |\n|---|---|\n").skip(1) {
        for row in section.lines().take_while(|line| line.starts_with("| ")) {
            let cells: Vec<_> = row.trim_matches('|').split('|').collect();
            assert_eq!(cells.len(), 2, "{row}");
            assert!(cells[1].contains(['`', '[']), "nothing upholds: {row}");
            for (module, test) in tests_in(row) {
                assert!(exists(&files, module, test), "there is no {module}::{test}: {row}");
            }
            claims += 1;
        }
    }
    assert!(claims >= 30, "{claims} claims");
}

#[test]
fn every_test_that_is_named_exists_and_every_row_names_two() {
    let mut files = Vec::new();
    collect(&root().join("src"), &mut files);
    collect(&root().join("tests"), &mut files);
    let text = fs::read_to_string(root().join("docs/attacks.md")).unwrap();
    let (mut rows, mut missing) = (0, Vec::new());
    for row in text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| attack")) {
        let cells: Vec<_> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 4, "{row}");
        for cell in &cells[2..] {
            let names = tests_in(cell);
            assert!(!names.is_empty(), "no test: {row}");
            for (module, test) in names {
                if !exists(&files, module, test) {
                    missing.push(format!("{module}::{test}"));
                }
            }
        }
        rows += 1;
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
    assert!(rows >= 25, "{rows} rows");
}

#[test]
fn a_test_that_does_not_exist_is_not_found() {
    let mut files = Vec::new();
    collect(&root().join("tests"), &mut files);
    assert!(exists(&files, "attacks_table", "a_test_that_does_not_exist_is_not_found"));
    assert!(!exists(&files, "attacks_table", "collect"), "no test");
    assert!(!exists(&files, "attacks", "a_test_that_does_not_exist_is_not_found"));
}
