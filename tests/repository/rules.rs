//! The repository's own rules, checked so that nobody has to remember them: where unsafe code may
//! be, how long a file may be, that nothing is left unfinished, and that the documents speak of
//! files that exist.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest file under src, in lines.
const LINES_MAX: usize = 600;

/// Where unsafe code may be: the kernel's interfaces, and the three places outside the server that
/// need a system call which no safe crate offers.
const UNSAFE: [&str; 5] = [
    "src/ring/",
    "src/sys/",
    "tests/support/seccomp.rs",
    "benches/floor/",
    "benches/load/tun/device.rs",
];

/// Where files may be opened without `src/files`: the wrappers of the kernel, and what reads nothing
/// but fixed paths of the kernel's.
const OPENS_FILES: [&str; 5] = [
    "src/files/",
    "src/sys/",
    "benches/load/cpu.rs",
    "benches/load/server/memory.rs",
    "benches/load/tun/device.rs",
];

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file, by its path in the repository.
pub(crate) fn rust_files() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for directory in ["src", "tests", "benches"] {
        collect(&root().join(directory), &mut files);
    }
    assert!(files.len() > 50, "the sources were not found");
    files
}

pub(crate) fn collect(directory: &Path, files: &mut Vec<(String, String)>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
}

/// The code of a line: without its comment, and without what is in quotation marks.
fn code(line: &str) -> String {
    let line = line.split("//").next().unwrap_or_default();
    line.split('"').step_by(2).collect()
}

/// Whether `word` stands in `code` by itself.
fn has_word(code: &str, word: &str) -> bool {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|found| found == word)
}

#[test]
fn unsafe_code_is_where_it_may_be_and_says_why() {
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if !has_word(&code(line), "unsafe") {
                continue;
            }
            let place = format!("{name}:{}", index + 1);
            if !UNSAFE.iter().any(|allowed| name.starts_with(allowed)) {
                wrong.push(format!("{place}: unsafe code here"));
            }
            let reasoned = lines[index.saturating_sub(8)..=index]
                .iter()
                .any(|line| line.contains("SAFETY:") || line.contains("# Safety"));
            if !reasoned {
                wrong.push(format!("{place}: no SAFETY comment"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A path can lead to a FIFO, a device or a link: what opens one goes through the module that
/// bounds it.
#[test]
fn files_are_opened_in_one_place() {
    let calls = [
        "fs::read(",
        "fs::read_to_string(",
        "fs::write(",
        "fs::rename(",
        "File::open(",
        "File::create(",
        "OpenOptions",
    ];
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        let is_program = name.starts_with("src/") || name.starts_with("benches/load/");
        let is_test = name.ends_with("tests.rs") || name.contains("/tests/");
        if !is_program || is_test || OPENS_FILES.iter().any(|allowed| name.starts_with(allowed)) {
            continue;
        }
        let program = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
        for (index, line) in program.enumerate() {
            if calls.iter().any(|call| code(line).contains(call)) {
                wrong.push(format!("{name}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "not through src/files:\n{}", wrong.join("\n"));
}

#[test]
fn nothing_is_left_unfinished() {
    let macros = ["todo", "unimplemented"].map(|name| format!("{name}!"));
    let marks = ["FIX", "XX"].map(|half| half.to_owned() + if half == "FIX" { "ME" } else { "X" });
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        for (index, line) in text.lines().enumerate() {
            let unfinished = macros.iter().any(|name| code(line).contains(name))
                || marks.iter().any(|mark| has_word(line, mark));
            if unfinished {
                wrong.push(format!("{name}:{}: {line}", index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What `src/environment.rs` is for: a simulation controls a shard and the coordinator wholly.
#[test]
fn shards_and_the_coordinator_take_time_and_chance_from_their_environment() {
    const REACHES_OUT: [&str; 8] = [
        "Instant",
        "SystemTime",
        "Clock",
        "Timestamp",
        "sleep",
        "random",
        "thread_time",
        "EventFd",
    ];
    let mut wrong = Vec::new();
    for (name, text) in rust_files() {
        if !name.starts_with("src/shard/") && !name.starts_with("src/coordinator/") {
            continue;
        }
        // Tests behind it may use the real ones.
        let tests = text.find("#[cfg(test)]").unwrap_or(text.len());
        for (index, line) in text[..tests].lines().enumerate() {
            let code = code(line);
            let found = REACHES_OUT.iter().find(|word| has_word(&code, word));
            // The state that other threads read has their clock.
            if let Some(word) = found.filter(|_| name != "src/coordinator/state.rs") {
                wrong.push(format!("{name}:{}: {word}", index + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "not through the environment: {}", wrong.join("\n"));
}

#[test]
fn no_source_file_owns_everything() {
    let long: Vec<_> = rust_files()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(name, lines)| name.starts_with("src/") && *lines > LINES_MAX)
        .collect();
    assert!(long.is_empty(), "more than {LINES_MAX} lines: {long:?}");
}

#[test]
fn every_source_file_opens_with_what_it_is() {
    let silent: Vec<_> =
        rust_files().into_iter().filter(|(_, text)| !text.starts_with("//!")).collect();
    let names: Vec<_> = silent.iter().map(|(name, _)| name).collect();
    assert!(names.is_empty(), "no doc comment at the top: {names:?}");
}

#[test]
fn the_documents_name_files_that_exist() {
    let mut missing = Vec::new();
    for document in ["docs/architecture.md", "README.md"] {
        let Ok(text) = fs::read_to_string(root().join(document)) else { continue };
        for name in paths_in(&text) {
            let path: PathBuf = root().join(&name);
            if !path.exists() && !root().join("src").join(&name).exists() {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}

/// What stands in backticks and looks like a path of this repository.
fn paths_in(text: &str) -> Vec<String> {
    let mut inside = false;
    let mut paths = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            inside = !inside;
        } else if !inside {
            let quoted = line.split('`').skip(1).step_by(2);
            paths.extend(quoted.filter(|name| is_path(name)).map(str::to_owned));
        }
    }
    paths
}

pub(crate) fn is_path(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    let top = [
        "src/",
        "tests/",
        "benches/",
        "scripts/",
        "docs/",
        "deploy/",
        "tuning/",
        "examples/",
        ".ci/",
    ];
    let source = name.ends_with(".rs") && name.contains('/');
    name.chars().all(plain) && (source || top.iter().any(|top| name.starts_with(top)))
}

#[test]
fn paths_are_told_from_other_words() {
    let text = "`src/ring`, `shard/on_accept.rs` and `docs/x.md`; not `tidegate_x`, `GET /a`\n\
                ```\n`src/in/a/block`\n```\n";
    assert_eq!(paths_in(text), ["src/ring", "shard/on_accept.rs", "docs/x.md"]);
}
