//! A process that is not allowed io_uring, as in a container with Docker's default profile; and one
//! under a profile in the form that container engines read.

#![allow(unsafe_code, reason = "installing a filter takes two system calls before exec")]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use seccompiler::{BpfProgram, TargetArch};
use serde_json::{Value, json};

/// `io_uring_setup` has this number on every architecture.
const IO_URING_SETUP: u32 = 425;

/// Lets `command` run under a filter that answers `errno` to io_uring_setup and allows
/// everything else.
pub(crate) fn forbid_io_uring(command: &mut Command, errno: i32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let program = [
        // The number of the system call is the first word of what a filter sees.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, IO_URING_SETUP),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let install = move || {
        let filter =
            libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
        // SAFETY: takes integers only.
        if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `filter` points to `program`, whose length it holds; the kernel copies both.
        if unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &filter) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls and allocates nothing:
    // `program` was moved into it before.
    unsafe { command.pre_exec(install) };
}

/// Lets `command` run under a profile as container engines read it, without the system calls
/// `without`.
pub(crate) fn confine(command: &mut Command, profile: &Value, without: &[&str]) {
    let mut allowed = Vec::new();
    // An answer other than the profile's own needs a filter of its own; the strictest one counts.
    let mut filters = Vec::new();
    for entry in profile["syscalls"].as_array().expect("entries") {
        let names = entry["names"].as_array().expect("names").iter();
        let names: Vec<_> = names.filter_map(Value::as_str).filter(|name| is_known(name)).collect();
        let rules =
            names.iter().filter(|name| !without.contains(name)).map(|name| rule(name, entry));
        if let Some(errno) = entry["errnoRet"].as_u64() {
            allowed.extend(names.iter().map(|name| json!({ "syscall": name })));
            filters.push(compile(&json!({
                "mismatch_action": "allow", "match_action": { "errno": errno },
                "filter": rules.collect::<Vec<_>>(),
            })));
        } else {
            allowed.extend(rules);
        }
    }
    filters.push(compile(&json!({
        "mismatch_action": { "errno": profile["defaultErrnoRet"] }, "match_action": "allow",
        "filter": allowed,
    })));
    // The last one must not keep the next from being installed.
    let install = move || {
        for filter in &filters {
            seccompiler::apply_filter(filter)
                .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes system calls and, unless one of them fails,
    // allocates nothing: the filters were compiled before.
    unsafe { command.pre_exec(install) };
}

fn rule(name: &str, entry: &Value) -> Value {
    let Some(arguments) = entry["args"].as_array() else { return json!({ "syscall": name }) };
    let conditions = arguments.iter().map(|argument| {
        assert_eq!(argument["op"], "SCMP_CMP_MASKED_EQ", "the only one in use");
        json!({
            "index": argument["index"], "type": "qword",
            "op": { "masked_eq": argument["value"] }, "val": argument["valueTwo"],
        })
    });
    json!({ "syscall": name, "args": conditions.collect::<Vec<_>>() })
}

/// Engines leave out names that the architecture does not have.
fn is_known(name: &str) -> bool {
    let filter = json!({
        "mismatch_action": "allow", "match_action": "kill_process", "filter": [{ "syscall": name }],
    });
    try_compile(&filter).is_some()
}

fn compile(filter: &Value) -> BpfProgram {
    try_compile(filter).unwrap_or_else(|| panic!("no filter: {filter}"))
}

fn try_compile(filter: &Value) -> Option<BpfProgram> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("an architecture");
    let text = json!({ "main": filter }).to_string();
    seccompiler::compile_from_json(text.as_bytes(), architecture).ok()?.remove("main")
}
