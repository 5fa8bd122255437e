//! What an echo test sends: every message differs, and each can be checked without being kept.

/// Characters of the filler; its period shares no factor with usual buffer sizes.
const FILLER: &[u8; 61] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXY";

/// Writes messages of one length. All are ASCII, so they can be text.
#[derive(Clone, Debug)]
pub(crate) struct Payloads {
    filler: Vec<u8>,
    message: Vec<u8>,
}

impl Payloads {
    pub(crate) fn new(length: usize) -> Self {
        let filler = FILLER.iter().copied().cycle().take(length + FILLER.len()).collect();
        Self { filler, message: vec![0; length] }
    }

    /// Message `number` of connection `index`: up to 16 hexadecimal digits that mix both, then
    /// filler that starts at a place which depends on them.
    pub(crate) fn message(&mut self, index: u64, number: u64) -> &[u8] {
        let mut mixed = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number;
        mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed ^= mixed >> 32;
        let length = self.message.len();
        let digits = length.min(16);
        for (place, byte) in self.message[..digits].iter_mut().enumerate() {
            *byte = b"0123456789abcdef"[(mixed >> (4 * place)) as usize & 15];
        }
        let start = mixed as usize % FILLER.len();
        self.message[digits..].copy_from_slice(&self.filler[start..start + length - digits]);
        &self.message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_differ_by_connection_and_by_number() {
        let mut payloads = Payloads::new(64);
        let mut seen = std::collections::BTreeSet::new();
        for index in 0..50 {
            for number in 0..50 {
                let message = payloads.message(index, number);
                assert!(message.len() == 64 && message.is_ascii());
                seen.insert(message.to_vec());
            }
        }
        assert_eq!(seen.len(), 2_500);
        let first = payloads.message(7, 8).to_vec();
        assert_eq!(payloads.message(7, 8), first, "the same message can be made again");
    }

    #[test]
    fn every_length_works() {
        for length in [1, 15, 16, 17, 1_000] {
            assert_eq!(Payloads::new(length).message(3, 4).len(), length);
        }
    }
}
