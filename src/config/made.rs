//! A configuration that a program has made or changed, and nobody has read: whether every value is
//! one that could have been written in a file.

use super::key::KEYS;
use super::table::Config;

impl Config {
    /// Looks at every value. Relations between values are not looked at: what depends on them is
    /// cut to fit, or refused where it is used.
    ///
    /// # Errors
    /// Everything that is out of its range. Values are not shown, one may be a secret.
    pub(crate) fn check_values(&self) -> Result<(), String> {
        let wrong = |(key, value): (&super::key::Key, _)| {
            let hint = key.rule.check(&value).err()?;
            let hint = hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            Some(format!("{} is out of range{hint}; allowed: {}", key.name, key.allowed()))
        };
        let wrong: Vec<String> = KEYS.iter().zip(self.values()).filter_map(wrong).collect();
        if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn values_that_no_file_could_have_are_named() {
        let mut config = Config::default();
        assert_eq!(config.check_values(), Ok(()));
        config.shutdown.deadline_ms = 0;
        config.shutdown.close_code = 1006;
        config.admin.token = Some(crate::config::Secret::new("short".to_owned()));
        let error = config.check_values().unwrap_err();
        for name in ["shutdown.deadline_ms is", "shutdown.close_code is", "admin.token is"] {
            assert!(error.contains(name), "{error}");
        }
        assert!(!error.contains("short;") && !error.contains("\"short"), "{error}");
    }
}
