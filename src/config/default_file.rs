//! The table of keys as a commented configuration file.
//!
//! Every value is commented out, so the file as printed says exactly what no file says, and
//! keeps saying it if a later version has a better default. Prose starts with `# `, a value
//! with `#` alone.

use std::fmt::Write;

use super::key::{KEYS, Key};
use super::table::{Config, SECTIONS};

const HEAD: &str = "\
# The configuration of Tidegate, with every key at its default.
#
# To change a value, remove the # in front of it. A value can also be set in the
# environment, under the name given with each key, and with --set section.key=value.
# Flags beat the environment, the environment beats this file, this file beats a profile.
# An unknown key is an error. A secret is better in a file of its own, which the key beside it
# that ends in _file names.
#
#   tidegate config check FILE            says everything that is wrong with a file
#   tidegate config show --config FILE    shows each value in force and where it was set
";

impl Config {
    /// The commented default file: every key with its reason, range and names, at its default.
    #[must_use]
    pub fn default_file() -> String {
        let mut text = HEAD.to_owned();
        for (section, about) in SECTIONS {
            text.push('\n');
            prose(&mut text, about);
            text.push_str(&format!("[{section}]\n"));
            for key in KEYS.iter().filter(|key| key.section() == *section) {
                text.push('\n');
                describe(&mut text, key);
            }
        }
        text
    }
}

fn describe(text: &mut String, key: &Key) {
    prose(text, key.about);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "# Allowed: {}.", key.allowed());
    let _ = write!(text, "# Environment: {}", key.environment_name());
    for legacy in key.legacy {
        let _ = write!(text, ", {}", legacy.name);
        if legacy.unit != key.unit {
            let _ = write!(text, " (in {})", legacy.unit);
        }
    }
    text.push('\n');
    let _ = writeln!(text, "#{} = {}", key.field(), key.preset_value().to_toml());
}

fn prose(text: &mut String, lines: &[&str]) {
    for line in lines {
        // A doc comment's line begins with the space after its slashes.
        let _ = writeln!(text, "#{line}");
    }
}
