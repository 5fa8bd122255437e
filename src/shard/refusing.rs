//! What a shard knows of those it does not let in.

use crate::admission::HeavyHitters;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Refusing {
    /// The sources that were refused most.
    pub(super) most_refused: HeavyHitters,
}
