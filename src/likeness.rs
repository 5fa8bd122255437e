//! How alike what was written is to what exists, for messages that offer what was meant.

/// Characters that are compared. The distance takes time of the product of both lengths, and to
/// what is longer no name here is near.
const COMPARED: usize = 100;

/// From 0 (nothing in common) to 1 (the same), by the edits that lead from one to the other.
pub(crate) fn likeness(written: &str, existing: &str) -> f64 {
    let end = written.char_indices().nth(COMPARED).map_or(written.len(), |(end, _)| end);
    strsim::normalized_damerau_levenshtein(&written[..end], existing)
}
