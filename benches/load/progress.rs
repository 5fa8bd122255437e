//! One line on standard error while a run goes on, if that is a terminal.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use crate::crew::Shared;
use crate::plan::ENDLESS;

const EVERY: Duration = Duration::from_millis(250);

/// The line.
pub(crate) struct Progress {
    visible: bool,
    began: Instant,
    shown: Instant,
    messages: u64,
}

impl Progress {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        Self { visible: std::io::stderr().is_terminal(), began: now, shown: now, messages: 0 }
    }

    /// Writes the line if it is time.
    pub(crate) fn show(&mut self, shared: &Shared, total: u64) {
        let since = self.shown.elapsed();
        if !self.visible || since < EVERY {
            return;
        }
        let (admitted, ended) = (shared.sum(|c| &c.admitted), shared.sum(|c| &c.ended));
        let messages = shared.sum(|c| &c.messages);
        let per_second = (messages - self.messages) as f64 / since.as_secs_f64();
        let total = if total < ENDLESS { format!("/{total}") } else { String::new() };
        let line = format!(
            "{:>5.1} s  attempts {}{total}  open {}  refused {}  failed {}  ended {ended}  \
             messages {messages} ({per_second:.0}/s)",
            self.began.elapsed().as_secs_f64(),
            shared.sum(|c| &c.attempts),
            admitted.saturating_sub(ended),
            shared.sum(|c| &c.refused),
            shared.sum(|c| &c.failed),
        );
        // A closed terminal is no reason to stop a measurement.
        let _ = write!(std::io::stderr(), "\r\x1b[K{line}");
        self.messages = messages;
        self.shown = Instant::now();
    }

    /// Removes the line.
    pub(crate) fn clear(&self) {
        if self.visible {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
