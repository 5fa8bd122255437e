//! Did every connection get every numbered message exactly once and in order?

/// What one connection has seen of a numbered stream. 24 bytes, because there may be a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    first: u64,
    next: u64,
    received: u32,
    missing: u32,
    repeated: u32,
}

impl Seen {
    /// Notes message number `number`.
    pub(crate) fn note(&mut self, number: u64) {
        if self.received == 0 {
            self.first = number;
            self.next = number;
        }
        self.received += 1;
        if number < self.next {
            self.repeated += 1;
            return;
        }
        self.missing =
            self.missing.saturating_add((number - self.next).min(u32::MAX.into()) as u32);
        self.next = number.saturating_add(1);
    }
}

/// The same over all connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Order {
    /// Connections that saw at least one number.
    pub(crate) connections: u64,
    /// Connections that saw none.
    pub(crate) silent: u64,
    /// Numbers that were skipped.
    pub(crate) missing: u64,
    /// Numbers that came again, or after a higher one.
    pub(crate) repeated: u64,
    /// Lowest and highest number that a connection saw first.
    pub(crate) first: Option<(u64, u64)>,
    /// Lowest and highest number that a connection saw last.
    pub(crate) last: Option<(u64, u64)>,
}

impl Order {
    /// Adds one connection.
    pub(crate) fn add(&mut self, seen: &Seen) {
        if seen.received == 0 {
            self.silent += 1;
            return;
        }
        let last = seen.next.saturating_sub(1);
        self.merge(&Self {
            connections: 1,
            silent: 0,
            missing: u64::from(seen.missing),
            repeated: u64::from(seen.repeated),
            first: Some((seen.first, seen.first)),
            last: Some((last, last)),
        });
    }

    /// Adds another ring's connections.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.connections += other.connections;
        self.silent += other.silent;
        self.missing += other.missing;
        self.repeated += other.repeated;
        self.first = widest(self.first, other.first);
        self.last = widest(self.last, other.last);
    }

    /// True if every connection saw the same numbers, each once, in order.
    pub(crate) fn is_perfect(&self) -> bool {
        let same = |range: Option<(u64, u64)>| range.is_some_and(|(low, high)| low == high);
        self.silent == 0
            && self.missing == 0
            && self.repeated == 0
            && same(self.first)
            && same(self.last)
    }
}

fn widest(one: Option<(u64, u64)>, other: Option<(u64, u64)>) -> Option<(u64, u64)> {
    match (one, other) {
        (Some((low, high)), Some((other_low, other_high))) => {
            Some((low.min(other_low), high.max(other_high)))
        }
        (range, None) | (None, range) => range,
    }
}

/// Finds the number in a message: the value of `key` in JSON text, or the whole text if it is
/// a number.
pub(crate) fn number_in(text: &str, key: &str) -> Option<u64> {
    if let Ok(number) = text.trim().parse() {
        return Some(number);
    }
    let mut rest = text;
    while let Some(at) = rest.find(key) {
        let quoted = rest[..at].ends_with('"');
        rest = &rest[at + key.len()..];
        let Some(value) = rest.strip_prefix('"').map(str::trim_start) else { continue };
        let Some(value) = value.strip_prefix(':').map(str::trim_start) else { continue };
        let digits = value.bytes().take_while(u8::is_ascii_digit).count();
        if let (true, Ok(number)) = (quoted, value[..digits].parse()) {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(numbers: &[u64]) -> Seen {
        let mut seen = Seen::default();
        numbers.iter().for_each(|number| seen.note(*number));
        seen
    }

    fn order(connections: &[&[u64]]) -> Order {
        let mut order = Order::default();
        connections.iter().for_each(|numbers| order.add(&seen(numbers)));
        order
    }

    #[test]
    fn every_number_once_and_in_order_is_perfect() {
        assert!(order(&[&[5, 6, 7], &[5, 6, 7]]).is_perfect());
    }

    #[test]
    fn what_is_not_perfect_is_counted() {
        let gap = order(&[&[1, 2, 5]]);
        assert_eq!((gap.missing, gap.repeated, gap.is_perfect()), (2, 0, false));
        let twice = order(&[&[1, 2, 2, 3]]);
        assert_eq!((twice.missing, twice.repeated, twice.is_perfect()), (0, 1, false));
        let swapped = order(&[&[1, 3, 2]]);
        assert_eq!((swapped.missing, swapped.repeated, swapped.is_perfect()), (1, 1, false));
    }

    #[test]
    fn a_stream_cut_at_either_end_shows_against_the_others() {
        assert!(!order(&[&[1, 2, 3], &[2, 3]]).is_perfect());
        assert!(!order(&[&[1, 2, 3], &[1, 2]]).is_perfect());
        let silent = order(&[&[1], &[]]);
        assert_eq!((silent.silent, silent.is_perfect()), (1, false));
    }

    #[test]
    fn numbers_are_found_in_json_and_in_plain_text() {
        assert_eq!(number_in("17", "seq"), Some(17));
        assert_eq!(number_in(r#"{"a":1,"seq":42}"#, "seq"), Some(42));
        assert_eq!(number_in(r#"{"seq" : 7 }"#, "seq"), Some(7));
        assert_eq!(number_in(r#"{"x":"seq","seq":8}"#, "seq"), Some(8));
        assert_eq!(number_in(r#"{"subseq":8}"#, "seq"), None);
        assert_eq!(number_in(r#"{"seq":"8"}"#, "seq"), None);
        assert_eq!(number_in("hello", "seq"), None);
    }
}
