//! Channels: who is subscribed, and the frames that go to them.

pub mod publish;
mod refusal;
pub mod registry;

pub use refusal::ChannelRefusal;
