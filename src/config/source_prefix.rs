//! What a source is (`admission.ipv4_prefix_bits`, `admission.ipv6_prefix_bits`), and rules that do
//! not go together with it.
//!
//! A rule for a part of a source would meet the whole of it or nothing, and neither is what it
//! says; so every block is of whole sources.

use std::fmt;

use ipnet::IpNet;

use super::error::ConfigError;
use super::source::Source;
use super::table::{Admission, Config};
use crate::admission::Prefixes;

impl Admission {
    /// What makes a source.
    #[must_use]
    pub fn prefixes(&self) -> Prefixes {
        // The table keeps both in range.
        Prefixes::new(self.ipv4_prefix_bits, self.ipv6_prefix_bits).unwrap_or_default()
    }
}

/// A block that is only a part of a source.
pub(super) struct WithinSource<'c> {
    /// The key that names the block, and the key that says what a source is.
    keys: &'static [&'static str; 2],
    block: IpNet,
    /// How many bits make a source.
    bits: u8,
    /// Where the two keys are written.
    sources: [&'c Source; 2],
}

impl Config {
    /// Every block of the rules that is only a part of a source.
    pub(super) fn blocks_within_a_source(&self) -> Vec<WithinSource<'_>> {
        const DENY: [[&str; 2]; 2] = keys("admission.deny");
        const ALLOW: [[&str; 2]; 2] = keys("admission.allow");
        const OVERRIDES: [[&str; 2]; 2] = keys("admission.overrides");
        let Admission { deny, allow, overrides, .. } = &self.admission;
        let blocks = (deny.iter().map(|block| (&DENY, block)))
            .chain(allow.iter().map(|block| (&ALLOW, block)))
            .chain(overrides.keys().map(|block| (&OVERRIDES, block)));
        blocks.filter_map(|(keys, block)| self.within_a_source(keys, *block)).collect()
    }

    fn within_a_source(
        &self,
        [v4, v6]: &'static [[&'static str; 2]; 2],
        block: IpNet,
    ) -> Option<WithinSource<'_>> {
        let (keys, bits) = match block {
            IpNet::V4(_) => (v4, self.admission.ipv4_prefix_bits),
            IpNet::V6(_) => (v6, self.admission.ipv6_prefix_bits),
        };
        let source = |key| self.source(key).unwrap_or(&Source::Default);
        let sources = keys.map(source);
        (block.prefix_len() > bits).then_some(WithinSource { keys, block, bits, sources })
    }
}

/// The pairs of keys for a list of blocks: with IPv4 blocks, with IPv6 blocks.
const fn keys(list: &'static str) -> [[&'static str; 2]; 2] {
    [[list, "admission.ipv4_prefix_bits"], [list, "admission.ipv6_prefix_bits"]]
}

impl fmt::Display for WithinSource<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { keys: [list, bits_key], block, bits, sources: [list_source, bits_source] } =
            self;
        let whole = IpNet::new(block.network(), *bits).map_or(*block, |whole| whole.trunc());
        write!(
            f,
            "{block} in {list} ({list_source}) is part of one source, which {bits_key} = {bits} \
             ({bits_source}) makes of {whole}; write that, or set more bits"
        )
    }
}

impl From<WithinSource<'_>> for ConfigError {
    fn from(within: WithinSource<'_>) -> Self {
        Self::Contradiction { keys: within.keys, message: within.to_string() }
    }
}
