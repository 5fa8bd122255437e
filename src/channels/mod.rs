//! Channels: who is subscribed, and the frames that go to them.

pub mod publish;
pub mod registry;
