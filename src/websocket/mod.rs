//! The WebSocket protocol (RFC 6455), as values: bytes in, events or bytes out.
//!
//! Nothing here reads a socket, a clock or a source of randomness, and nothing knows what a
//! connection is. [`message::Incoming`] turns one received chunk into events, [`frame`] and
//! [`close_frame`] write what is sent, [`violation::Violation`] says what a peer did wrong and
//! with which code the connection has to be closed.
//!
//! Not here: when to answer a ping, what follows a Close, and deadlines (`connection`). The only
//! extension is permessage-deflate ([`deflate`]).

pub mod close_frame;
pub mod deflate;
pub mod frame;
pub mod mask;
pub mod message;
pub mod partial;
pub mod utf8;
pub mod violation;

pub use message::{Event, Incoming, Rules};
pub use partial::Partial;
pub use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
pub use violation::Violation;
