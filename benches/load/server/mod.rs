//! What the server itself says: its counters, its memory, its processor time.
//!
//! Only asked where the command line names an admin listener or a process; any other WebSocket
//! server is measured by what its clients see.

pub(crate) mod books;
mod figures;
pub(crate) mod memory;

pub(crate) use self::books::ServerBooks;
pub(crate) use self::figures::{Admin, AdminUrl};
