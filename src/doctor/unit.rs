//! The installed systemd unit: whether its limits are those that the connections need.
//!
//! Read as text and not asked of systemd, which may not run here; a later line counts, and
//! drop-ins count after the unit, as systemd.unit(5) has it.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Finding, Machine, Question, Verdict};
use crate::files::read::small_text;
use crate::ring::MAX_SLOTS;

/// The name of the unit in `deploy/systemd`.
const NAME: &str = "tidegate.service";

/// Where the administrator adds to it.
const DROP_INS: &str = "/etc/systemd/system/tidegate.service.d";

/// Where units are, the first one wins.
const DIRECTORIES: [&str; 3] =
    ["etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system"];

/// What a unit sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Where it is.
    pub path: PathBuf,
    /// The soft value of LimitNOFILE=, `u64::MAX` for infinity; `None` if it is not set.
    pub open_files: Option<u64>,
}

impl Unit {
    pub(super) fn read(root: &Path) -> Option<Self> {
        let path = DIRECTORIES
            .iter()
            .map(|directory| root.join(directory).join(NAME))
            .find(|path| path.exists())?;
        let mut files = vec![path.clone()];
        for directory in DIRECTORIES.iter().rev() {
            let drop_ins = fs::read_dir(root.join(directory).join(format!("{NAME}.d")));
            let mut drop_ins: Vec<_> =
                drop_ins.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
            drop_ins.sort();
            files.extend(drop_ins);
        }
        let mut texts = files.iter().rev().filter_map(|file| small_text(file).ok());
        let open_files = texts.find_map(|text| limit(&text));
        Some(Self { path, open_files })
    }
}

/// The hard value of the last `LimitNOFILE=SOFT:HARD` or `LimitNOFILE=BOTH`.
fn limit(unit: &str) -> Option<u64> {
    let mut values = unit.lines().rev().filter_map(|line| line.trim().strip_prefix("LimitNOFILE="));
    let value = values.next()?.trim();
    match value.rsplit(':').next()? {
        "infinity" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

pub(super) fn check(machine: &Machine, question: Question<'_>) -> Vec<Finding> {
    let Some(unit) = &machine.unit else { return Vec::new() };
    let needed = super::reach::files_needed(machine, question);
    // systemd's own default is 524,288 as the hard value.
    let limit = unit.open_files.unwrap_or(524_288);
    let verdict = if limit >= needed { Verdict::Fine } else { Verdict::Advice };
    let found = unit.open_files.map_or("not set (524288)".to_owned(), |limit| limit.to_string());
    vec![
        Finding::new("unit", verdict)
            .found(format!("LimitNOFILE {found} in {}", unit.path.display()))
            .needed(format!("LimitNOFILE={needed}"))
            .why("the service has the limits of its unit, not those of this shell")
            .fix(
                format!(
                    "mkdir -p {DROP_INS} && printf '[Service]\\nLimitNOFILE={MAX_SLOTS}\\n' \
                     >{DROP_INS}/limits.conf && systemctl daemon-reload && systemctl restart {NAME}"
                ),
                format!(
                    "rm {DROP_INS}/limits.conf && systemctl daemon-reload && systemctl restart \
                     {NAME}"
                ),
            ),
    ]
}

#[cfg(test)]
mod tests {
    use super::limit;

    #[test]
    fn the_last_line_counts_and_its_hard_value() {
        assert_eq!(limit("[Service]\nLimitNOFILE=1024\nLimitNOFILE=10:20\n"), Some(20));
        assert_eq!(limit("LimitNOFILE=infinity"), Some(u64::MAX));
        assert_eq!((limit("[Service]\n"), limit("LimitNOFILE=x")), (None, None));
    }
}
