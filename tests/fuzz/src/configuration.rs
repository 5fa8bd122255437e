//! Configurations: any file and any flag is taken or refused with a reason, and what is taken is
//! shown.

use std::cell::RefCell;
use std::fs;
use std::path::PathBuf;

use tidegate::config::{Config, FlagValue, Sources};

thread_local! {
    /// In memory, and written again and again.
    static FILE: RefCell<PathBuf> = RefCell::new(PathBuf::from(format!(
        "/dev/shm/tidegate-fuzz-{}-{:?}.toml",
        std::process::id(),
        std::thread::current().id(),
    )));
}

/// A flag as `key=value` in the first line, then a file.
pub fn run(input: &[u8]) {
    let (flag, file) = match input.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&input[..at], &input[at + 1..]),
        None => (input, &b""[..]),
    };
    let path = FILE.with_borrow(Clone::clone);
    fs::write(&path, file).expect("a file in memory");
    let flag = String::from_utf8_lossy(flag);
    let flags = flag.split_once('=').map(|(key, value)| FlagValue::new("--set", key, value));
    let sources = Sources {
        file: Some(path.clone()),
        flags: flags.into_iter().collect(),
        ..Sources::default()
    };
    let loaded = Config::load(sources);
    // Written again for the next input; nothing is left behind by the last.
    let _ = fs::remove_file(path);
    match loaded {
        Ok(config) => assert!(!config.shown().is_empty()),
        Err(errors) => assert!(!errors.to_string().is_empty()),
    }
}
