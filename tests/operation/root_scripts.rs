//! What root runs believes and writes only what nobody but root can have made: state files in
//! directories of others, links, settings and paths outside of fixed lists, and the environment of
//! the caller change nothing.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::installed::repository;
use crate::support::network::Network;
use rustix::process::getuid;
use tidegate::doctor::sysctl::{PROFILES, TABLE};

/// A user who is not root, as the service's is.
const STRANGER: u32 = 65_533;

/// The two scripts that root runs on a machine, with what each needs after its options.
const SCRIPTS: [(&str, &[&str]); 2] = [("apply", &["--scope", "network"]), ("irq", &["eth9"])];

/// A line that each script may find in its state file, with the file that it sets.
const VALID: [&str; 2] = ["net.core.somaxconn = 1234", "rx 0 3"];

/// A root of its own with a network card and a file that must stay as it is.
struct Root {
    directory: tempfile::TempDir,
}

impl Root {
    fn new() -> Self {
        let root = Self { directory: tempfile::tempdir().unwrap() };
        for (path, text) in [
            ("sys/class/net/eth9/queues/rx-0/rps_cpus", "00000000\n"),
            ("sys/class/net/eth9/device/msi_irqs/40", "msix\n"),
            ("proc/irq/40/smp_affinity", "f\n"),
            ("proc/irq/41/smp_affinity", "another device's\n"),
            ("victim", "untouched\n"),
        ] {
            root.write(path, text);
        }
        root
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap()
    }

    /// The state file of the script at its default place; its directory is made.
    fn state(&self, script: &str) -> PathBuf {
        let name = if script == "apply" { "sysctl" } else { "irq-eth9" };
        let path = self.path("var/lib/tidegate-tuning").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Output {
        let (_, rest) = SCRIPTS.iter().find(|(name, _)| *name == script).unwrap();
        let mut command = Command::new(repository("tuning").join(script));
        command.arg("--root").arg(self.directory.path()).args(arguments).args(*rest);
        command.output().expect("the script runs")
    }

    /// Runs it; it must fail with this in its message, and change nothing that is not its own.
    #[track_caller]
    fn refuses(&self, script: &str, arguments: &[&str], said: &str) {
        let before = somaxconn();
        let output = self.run(script, arguments);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{script} {arguments:?}: {output:?}");
        assert!(error.contains(said), "{script} {arguments:?}: no {said:?} in {error}");
        assert_eq!(self.read("victim"), "untouched\n", "{script} {arguments:?}");
        assert_eq!(self.read("sys/class/net/eth9/queues/rx-0/rps_cpus"), "00000000\n");
        assert_eq!(self.read("proc/irq/41/smp_affinity"), "another device's\n");
        assert_eq!(somaxconn(), before, "{script} {arguments:?}");
    }
}

fn somaxconn() -> String {
    fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Runs on a network of its own, where a setting that is set all the same harms nobody.
fn on_a_network(test: impl FnOnce() + Send) {
    if let Some(network) = Network::new("root-scripts") {
        network.run(test);
    }
}

/// Version 0.1 kept its state where the service's user can write.
#[test]
fn what_the_services_user_can_have_written_is_said_and_not_believed() {
    on_a_network(|| {
        for ((script, _), valid) in SCRIPTS.into_iter().zip(VALID) {
            let name = if script == "apply" { "tuning.before" } else { "irq-eth9.before" };
            let old = format!("var/lib/tidegate/{name}");
            let root = Root::new();
            let victim = root.path("victim");
            root.write(&old, &format!("{valid}\n{} hacked\n", victim.display()));
            root.write(&format!("{old}.files"), &format!("{}\n", victim.display()));
            let said = "it is not believed. Look at it (cat -v)";
            root.refuses(script, &["--undo"], said);
            // A link that leads nowhere is one of theirs as well.
            fs::remove_file(root.path(&old)).unwrap();
            symlink("/nonexistent", root.path(&old)).unwrap();
            root.refuses(script, &["--undo"], said);
        }
    });
}

#[test]
fn a_state_file_that_others_can_have_made_is_refused_by_undo_and_by_apply() {
    type Prepare = fn(&Path, &str);
    let variants: [(&str, Prepare); 8] = [
        ("is a symbolic link", |state, valid| {
            let elsewhere = state.with_extension("elsewhere");
            fs::write(&elsewhere, format!("{valid}\n")).unwrap();
            symlink(elsewhere, state).unwrap();
        }),
        ("is a symbolic link", |state, _| symlink("/nonexistent", state).unwrap()),
        ("is a symbolic link", |state, valid| {
            fs::write(state, format!("{valid}\n")).unwrap();
            let directory = state.parent().unwrap();
            let moved = directory.with_extension("moved");
            fs::rename(directory, &moved).unwrap();
            symlink(moved, directory).unwrap();
        }),
        ("can be written by others (mode 664)", |state, valid| {
            fs::write(state, format!("{valid}\n")).unwrap();
            set_mode(state, 0o664);
        }),
        ("can be written by others (mode 777)", |state, valid| {
            fs::write(state, format!("{valid}\n")).unwrap();
            set_mode(state.parent().unwrap(), 0o777);
        }),
        // Others cannot rename what is in it, but can have put it there first.
        ("can be written by others (mode 1777)", |state, valid| {
            fs::write(state, format!("{valid}\n")).unwrap();
            set_mode(state.parent().unwrap(), 0o1777);
        }),
        ("is not a regular file", |state, _| fs::create_dir(state).unwrap()),
        ("is not a regular file", |state, _| {
            let made = Command::new("mkfifo").arg("-m").arg("600").arg(state).status();
            assert!(made.unwrap().success());
        }),
    ];
    on_a_network(|| {
        for ((script, _), valid) in SCRIPTS.into_iter().zip(VALID) {
            for (said, prepare) in variants {
                for action in ["--undo", "--apply"] {
                    let root = Root::new();
                    prepare(&root.state(script), valid);
                    root.refuses(script, &[action], said);
                }
            }
        }
    });
}

#[test]
fn a_state_file_or_directory_of_another_user_is_refused() {
    if !getuid().is_root() {
        eprintln!("not tested: only root can give a file to another user");
        return;
    }
    on_a_network(|| {
        for ((script, _), valid) in SCRIPTS.into_iter().zip(VALID) {
            for of_the_directory in [false, true] {
                let root = Root::new();
                let state = root.state(script);
                fs::write(&state, format!("{valid}\n")).unwrap();
                let given = if of_the_directory { state.parent().unwrap() } else { &state };
                chown(given, Some(STRANGER), None).unwrap();
                let said = format!("belongs to user {STRANGER} and not to root");
                root.refuses(script, &["--undo"], &said);
                root.refuses(script, &["--apply"], &said);
            }
        }
    });
}

#[test]
fn a_state_file_with_one_line_that_is_not_ours_changes_nothing() {
    let sysctl = [
        "net.ipv4.tcp_fin_timeout = 61",
        "kernel.core_pattern = |/tmp/evil",
        "net.core.somaxconn = 4096 4096",
        "net.core.somaxconn = a[$(touch VICTIM)]",
        "net.core.somaxconn = ",
        "net.ipv4.tcp_rmem = 4096 16384",
        "net.ipv4.tcp_migrate_req = 2",
        "net/core/somaxconn = 4096",
        "../../VICTIM = 1",
        "a[$(rm VICTIM)] = 1",
        " = 1",
        "installed etc/passwd",
        "installed VICTIM",
        "net.core.somaxconn=4096",
        "",
        "\u{1b}[2J = 1",
    ];
    let irq = [
        "VICTIM 3",
        "irq ../../VICTIM 3",
        "irq 40/../41 3",
        "rx 0 a[$(touch VICTIM)]",
        "rx 0 3;3",
        "rx 0 ,",
        "rx 0",
        "tx -1 3",
        "rps 0 3",
        "",
        "\u{1b}[2J",
    ];
    on_a_network(|| {
        for ((script, lines), valid) in [("apply", &sysctl[..]), ("irq", &irq)].iter().zip(VALID) {
            for line in *lines {
                let root = Root::new();
                let line = line.replace("VICTIM", root.path("victim").to_str().unwrap());
                let text = format!("{valid}\n{line}\n{valid}\n");
                fs::write(root.state(script), &text).unwrap();
                root.refuses(script, &["--undo"], "line 2 of ");
                let output = root.run(script, &["--undo"]);
                assert!(!output.stderr.contains(&0x1b), "{output:?}");
                // Nor does it go on with such a file.
                root.refuses(script, &["--apply"], "line 2 of ");
                assert_eq!(fs::read_to_string(root.state(script)).unwrap(), text);
            }
        }
    });
}

/// After a restart of the machine a number can be another device's.
#[test]
fn only_interrupts_and_queues_of_the_interface_are_set() {
    let root = Root::new();
    fs::write(root.state("irq"), "irq 41 1\n").unwrap();
    let output = root.run("irq", &["--undo"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.contains("irq 41 is not one of eth9 now"), "{said}");
    assert_eq!(root.read("proc/irq/41/smp_affinity"), "another device's\n");
    // A queue that is a link is none.
    let elsewhere = root.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    symlink(root.path("victim"), elsewhere.join("rps_cpus")).unwrap();
    symlink(&elsewhere, root.path("sys/class/net/eth9/queues/rx-1")).unwrap();
    fs::write(root.state("irq"), "rx 1 3\n").unwrap();
    root.refuses("irq", &["--undo"], "");
    for name in ["../../../proc/irq", "..", "-x", "eth9/queues", "eth9\n", ""] {
        let mut command = Command::new(repository("tuning/irq"));
        command.arg("--root").arg(root.path("")).args(["--undo", name]);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{name:?}: {output:?}");
    }
}

#[test]
fn files_for_the_next_boot_are_written_through_no_link_and_into_no_others_directory() {
    type Prepare = fn(&Root);
    let variants: [(&str, Prepare); 4] = [
        ("is a symbolic link", |root| {
            fs::create_dir_all(root.path("etc/sysctl.d")).unwrap();
            symlink(root.path("victim"), root.path("etc/sysctl.d/90-tidegate.conf")).unwrap();
        }),
        ("is a symbolic link", |root| {
            fs::create_dir_all(root.path("etc/security")).unwrap();
            fs::create_dir_all(root.path("elsewhere")).unwrap();
            symlink(root.path("elsewhere"), root.path("etc/security/limits.d")).unwrap();
        }),
        ("can be written by others", |root| {
            fs::create_dir_all(root.path("etc/sysctl.d")).unwrap();
            set_mode(&root.path("etc/sysctl.d"), 0o777);
        }),
        ("is not a regular file", |root| {
            fs::create_dir_all(root.path("etc/sysctl.d/90-tidegate.conf")).unwrap();
        }),
    ];
    on_a_network(|| {
        for (said, prepare) in variants {
            let root = Root::new();
            prepare(&root);
            let output = root.run("apply", &["--apply", "--persist"]);
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(output.status.code(), Some(1), "{said}: {error}");
            assert!(error.contains(said), "{said}: {error}");
            assert_eq!(root.read("victim"), "untouched\n");
            assert!(!root.path("elsewhere/90-tidegate.conf").exists());
            // What it has set until then can be taken back.
            assert!(root.run("apply", &["--undo"]).status.success(), "{said}");
        }
        // And taken away through none: what --persist wrote became a link meanwhile.
        let root = Root::new();
        assert!(root.run("apply", &["--apply", "--persist"]).status.success());
        let directory = root.path("etc/sysctl.d");
        fs::rename(&directory, root.path("moved")).unwrap();
        symlink(root.path("moved"), &directory).unwrap();
        let output = root.run("apply", &["--undo"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(root.path("moved/90-tidegate.conf").exists());
    });
}

#[test]
fn the_environment_of_the_caller_decides_nothing() {
    on_a_network(|| {
        for (script, arguments) in SCRIPTS {
            let root = Root::new();
            let marker = root.path("marker");
            let touch = format!("touch '{}'", marker.display());
            let bin = root.path("bin");
            fs::create_dir(&bin).unwrap();
            for action in ["--apply", "--check", "--undo"] {
                for program in [
                    "bash", "cat", "chmod", "cp", "dirname", "find", "getconf", "grep", "mkdir",
                    "mktemp", "mv", "rm", "sed", "sort", "stat",
                ] {
                    let path = bin.join(program);
                    fs::write(&path, format!("#!/bin/sh\n{touch}\nexec /bin/{program} \"$@\"\n"))
                        .unwrap();
                    set_mode(&path, 0o755);
                }
                let hook = root.path("hook");
                fs::write(&hook, &touch).unwrap();
                let function = format!("() {{ {touch}; }}");
                let mut command = Command::new(repository("tuning").join(script));
                command
                    .arg("--root")
                    .arg(root.path(""))
                    .arg(action)
                    .args(arguments)
                    .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
                    .env("BASH_ENV", &hook)
                    .env("ENV", &hook)
                    .env("PS4", format!("$({touch})"))
                    .env("SHELLOPTS", "xtrace")
                    .env("BASH_FUNC_printf%%", &function)
                    .env("BASH_FUNC_read%%", &function)
                    .env("BASH_FUNC_cd%%", &function)
                    .env("CDPATH", root.path("bin"))
                    .env("IFS", "/tm")
                    .env("TMPDIR", "/nonexistent")
                    .env("state", root.path("victim"))
                    .env("before", "x")
                    .env("root", "/nonexistent");
                let output = command.output().unwrap();
                assert!(
                    !marker.exists(),
                    "{script} {action} ran what the caller named: {output:?}"
                );
                assert_eq!(root.read("victim"), "untouched\n");
                assert!(output.status.success(), "{script} {action}: {output:?}");
            }
        }
    });
}

#[test]
fn the_settings_that_may_be_set_are_those_of_the_profiles() {
    let text = fs::read_to_string(repository("tuning/apply")).unwrap();
    let (_, rest) = text.split_once("declare -rA kinds=(\n").unwrap();
    let (list, _) = rest.split_once("\n)").unwrap();
    let names: Vec<&str> =
        list.lines().map(|line| line.trim().split(['[', ']']).nth(1).unwrap()).collect();
    let expected: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
    assert_eq!(names, expected);
    for profile in ["../1m", "1m/../1m", "1m.conf", "", "1m\n"] {
        let output = Root::new().run("apply", &["--profile", profile, "--apply"]);
        assert_eq!(output.status.code(), Some(64), "{profile:?}: {output:?}");
    }
    assert_eq!(PROFILES.len(), 3);
}

/// What `scripts/release --deb` puts into the package to run as root touches neither files nor
/// directories, and finds its programs by dpkg's own path.
#[test]
fn the_scripts_of_the_package_only_speak_to_systemd() {
    let text = fs::read_to_string(repository("scripts/release")).unwrap();
    let scripts: Vec<&str> = text
        .split("<<'SCRIPT'\n")
        .skip(1)
        .map(|rest| rest.split("\nSCRIPT").next().unwrap())
        .collect();
    assert_eq!(scripts.len(), 2, "postinst, which is postrm as well, and prerm");
    for script in scripts {
        let lines: Vec<&str> = script.lines().collect();
        assert_eq!(lines[..2], ["#!/bin/sh", "set -e"], "{script}");
        for line in &lines[2..] {
            let condition = line.strip_prefix("if [ ").and_then(|rest| rest.split_once("; then "));
            let (condition, action) = condition.expect(line);
            let looks = condition.split(" && ").all(|part| {
                part.contains("\"$1\" = remove") || part.contains("-d /run/systemd/system")
            });
            assert!(looks && action.starts_with("systemctl "), "{line}");
        }
    }
}

/// It fills its directory and removes it at the end, so nobody else's may be meant.
#[test]
fn a_directory_that_is_there_or_anothers_is_not_taken_for_an_image() {
    if !getuid().is_root() {
        eprintln!("not tested: only root can make a root file system");
        return;
    }
    let root = Root::new();
    let link = root.path("link");
    symlink("/nonexistent", &link).unwrap();
    let others = root.path("others");
    fs::create_dir(&others).unwrap();
    chown(&others, Some(STRANGER), None).unwrap();
    // If it goes on all the same it gets no further than its first step.
    root.write("bin/debootstrap", "#!/bin/sh\nexit 1\n");
    set_mode(&root.path("bin/debootstrap"), 0o755);
    for (directory, said) in [
        (root.path("victim"), "is there already"),
        (root.path("sys"), "is there already"),
        (link, "is there already"),
        (others.join("new"), "belongs to user"),
    ] {
        let mut command = Command::new(repository("scripts/image-steps"));
        command.arg("--directory").arg(&directory).args(["--binary", "/bin/true"]);
        command.env("PATH", format!("{}:/usr/bin:/bin", root.path("bin").display()));
        let output = command.output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(said), "{directory:?}: {output:?}");
        assert!(root.path("sys/class").exists() && root.path("victim").exists(), "{error}");
    }
}
