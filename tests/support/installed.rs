//! Programs that the tests use and nobody here wrote: installed under target/ by
//! `scripts/test --prepare`, which runs by itself if they are not there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;

/// A file of this repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A file of what is installed.
pub(crate) fn installed(path: &str) -> PathBuf {
    static PREPARED: Once = Once::new();
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("test-clients");
    PREPARED.call_once(|| {
        let prepare = Command::new("timeout")
            .arg("600")
            .arg(repository("scripts/test"))
            .arg("--prepare")
            .env("TEST_CLIENTS", &directory)
            .stdin(Stdio::null())
            .output()
            .expect("scripts/test");
        let said = String::from_utf8_lossy(&prepare.stderr);
        assert!(prepare.status.success(), "scripts/test --prepare: {said}");
    });
    directory.join(path)
}

/// A program for Node.js that finds the installed packages.
pub(crate) fn node(script: &str) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", installed("node_modules")).arg(repository(script));
    command
}

/// The output of a Python program of tests/clients, which must succeed.
#[track_caller]
pub(crate) fn python(program: &str, arguments: &[&str]) -> String {
    let mut command = Command::new(installed("venv/bin/python"));
    command.arg(repository("tests/clients").join(program)).args(arguments);
    let output = command.stdin(Stdio::null()).output().expect("Python");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("text")
}
