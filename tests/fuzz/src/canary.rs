//! A bug that is there on purpose: a fuzzer that does not find it finds nothing else either.

/// Panics at four certain bytes, one comparison after the other.
pub fn run(input: &[u8]) {
    if let [first, second, third, fourth, ..] = input {
        let found = *first == b'T' && *second == b'I' && *third == b'D' && *fourth == b'E';
        assert!(!found, "the canary was found");
    }
}
