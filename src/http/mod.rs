//! The HTTP/1.1 that a WebSocket connection begins with (RFC 9112, RFC 6455 section 4), as
//! values: bytes in, an accepted [`Upgrade`] or a [`Refusal`] out.
//!
//! 1. [`HeadScanner`] finds the end of the head as bytes arrive, each byte looked at once.
//! 2. [`upgrade::parse`] reads the complete head and checks every rule for an upgrade request.
//! 3. [`response`] writes the 101, or the refusal as one complete response.
//!
//! This listener speaks nothing but upgrades: there are no bodies, no keep-alive and no second
//! request. After a refusal the connection is closed and nothing that follows is read, so no
//! bytes can be smuggled past it. Bytes behind the head are frames only once the 101 is decided;
//! nothing here touches them.
//!
//! Not here: which paths exist (404), deadlines, admission (429, 503), and who the client is
//! behind a proxy (`client_address`).

mod fields;
pub mod origin;
pub mod query;
pub mod refusal;
pub mod request;
pub mod response;
mod target;
pub mod upgrade;

pub use origin::AllowedOrigins;
pub use refusal::{Refusal, Status};
pub use request::{Head, HeadScanner};
pub use upgrade::{Upgrade, UpgradeRules};
