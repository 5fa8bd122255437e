//! A command as a resource: a process in a group of its own, so that what it has started can be
//! ended with it.
//!
//! Its environment is made from a list of names: the environment of the server holds secrets,
//! which programs print, log and hand on.

use std::io::Read;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::Statistics;
use super::in_progress::Outcome;
use crate::limits::HOOK_LAST_WORDS_BYTES;
use crate::sys::{inherited, process_group};

/// Variables that every command is given as far as the server has them: where programs and files
/// are, who runs it, and in which language and time zone.
const ENVIRONMENT: [&str; 9] =
    ["PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "TZ", "TMPDIR"];

/// How often the process is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// How long its last words are waited for once it has ended; what it left running may keep the
/// pipe open for ever.
const LAST_WORDS: Duration = Duration::from_millis(20);

/// Runs the command to its end, or kills it and its group when it is given up. `environment` are
/// the names of variables that it is given besides [`ENVIRONMENT`].
pub(super) fn run(argv: &[String], environment: &[String], given_up: &AtomicBool) -> Outcome {
    let mut child = match spawn(argv, environment) {
        Ok(child) => child,
        Err(error) => return Outcome::Failed(format!("it cannot be started: {error}")),
    };
    let words = Arc::new(Mutex::new(Vec::new()));
    if let Some(stderr) = child.stderr.take() {
        let words = Arc::clone(&words);
        let listen = move || listen(stderr, &words);
        // Without a thread it has no last words.
        let _ = thread::Builder::new().name("tidegate-hook".to_owned()).spawn(listen);
    }
    let ended = wait(&mut child, given_up);
    thread::sleep(LAST_WORDS);
    let last_word = last_line(&words.lock().unwrap_or_else(PoisonError::into_inner));
    match ended {
        Ok(Some(status)) if status.success() => Outcome::Closed(Statistics::none()),
        Ok(Some(status)) if last_word.is_empty() => Outcome::Failed(status.to_string()),
        Ok(Some(status)) => Outcome::Failed(format!("{status}: {last_word}")),
        Ok(None) => Outcome::TimedOut(last_word),
        Err(error) => Outcome::Failed(not_learnt(&error)),
    }
}

/// How a process ended cannot be learnt in a program that lets the kernel reap its children.
fn not_learnt(error: &std::io::Error) -> String {
    if error.raw_os_error() == Some(libc::ECHILD) {
        return "how it ended cannot be learnt: the program ignores SIGCHLD, or waits for every \
                child itself"
            .to_owned();
    }
    error.to_string()
}

fn spawn(argv: &[String], environment: &[String]) -> std::io::Result<Child> {
    let (program, arguments) = argv.split_first().ok_or(std::io::ErrorKind::InvalidInput)?;
    let names = ENVIRONMENT.into_iter().chain(environment.iter().map(String::as_str));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(names.filter_map(|name| Some((name, std::env::var_os(name)?))))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0);
    inherited::reset_in_child(&mut command);
    command.spawn()
}

/// Waits for the end; nothing if it had to be killed.
fn wait(child: &mut Child, given_up: &AtomicBool) -> std::io::Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if given_up.load(Ordering::Acquire) {
            // It has not been waited for, so its number is still its own.
            process_group::kill(child.id());
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(LOOK);
    }
}

/// Keeps the end of what it writes, and reads everything, so that it never waits for us.
fn listen(mut stderr: ChildStderr, words: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 1024];
    while let Ok(count @ 1..) = stderr.read(&mut buffer) {
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        words.extend_from_slice(&buffer[..count]);
        let too_many = words.len().saturating_sub(HOOK_LAST_WORDS_BYTES);
        words.drain(..too_many);
    }
}

/// The last line that says something.
fn last_line(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_says_something() {
        assert_eq!(last_line(b"one\ntwo  \n\n"), "two");
        assert_eq!(last_line(b"\xff\xfe"), "\u{fffd}\u{fffd}");
        assert_eq!(last_line(b""), "");
    }
}
