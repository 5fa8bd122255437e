//! `tidegate-load` at work, in a process of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::PATIENCE;

/// A run of the load tool; ended whatever happens.
pub(crate) struct Load {
    child: Option<Child>,
    ready: PathBuf,
    _directory: tempfile::TempDir,
}

impl Load {
    /// Starts `tidegate-load COMMAND URL ARGUMENTS`.
    #[track_caller]
    pub(crate) fn start(command: &str, url: &str, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ready = directory.path().join("ready");
        let child = Command::new(env!("CARGO_BIN_EXE_tidegate-load"))
            .args([command, url, "--json", "--ready-file"])
            .arg(&ready)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the load tool starts");
        Self { child: Some(child), ready, _directory: directory }
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("not reported yet")
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child().id()
    }

    /// Waits until every attempt has its answer; returns how many connections are open.
    #[track_caller]
    pub(crate) fn opened(&mut self) -> u64 {
        let started = Instant::now();
        while !self.ready.exists() {
            let child = self.child.as_mut().expect("not reported yet");
            let ended = child.try_wait().expect("a child");
            assert!(ended.is_none(), "the load tool ended: {ended:?}");
            assert!(started.elapsed() < 6 * PATIENCE, "not all attempts were answered in time");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let count = std::fs::read_to_string(&self.ready).expect("a file");
        count.trim().parse().expect("a number")
    }

    /// Sends it a signal.
    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child()), signal).expect("it takes the signal");
    }

    /// Asks it to end and report.
    #[track_caller]
    pub(crate) fn stop(&self) {
        self.signal(Signal::INT);
    }

    /// Waits for its end and returns its report, which must say that all is well.
    #[track_caller]
    pub(crate) fn report(mut self) -> Value {
        let child = self.child.take().expect("not reported yet");
        let output = child.wait_with_output().expect("a child");
        let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert!(output.status.success(), "{report}");
        assert_eq!(report["ledger"]["balanced"], true, "{report}");
        report
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; either way it is gone after this.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
