//! One thread that owns phase, epoch, signals and the report. Never on the path of a message:
//! with the coordinator stopped, established connections notice nothing.

pub mod command;
pub mod phase;
pub mod report;
pub mod state;
