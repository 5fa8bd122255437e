//! Lengths of time as people write them: `20s`, `500ms`, `2m`, `1h`.

/// Milliseconds of a length of time with its unit.
///
/// # Errors
/// What was expected.
pub(super) fn milliseconds(text: &str) -> Result<u64, String> {
    let expected = || format!("{text:?} is no length of time; write it as in 500ms, 20s, 2m or 1h");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(expected()),
    };
    let number: u64 = number.parse().map_err(|_| expected())?;
    number.checked_mul(factor).filter(|ms| *ms > 0).ok_or_else(expected)
}

/// A length of time for people.
pub(super) fn shown(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..100_000 => format!("{:.1} s", ms as f64 / 1_000.0),
        _ => format!("{} min {} s", ms / 60_000, ms % 60_000 / 1_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_of_time_has_a_unit() {
        for (text, ms) in [("1ms", 1), ("20s", 20_000), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(milliseconds(text), Ok(ms));
        }
        for wrong in ["", "20", "s", "1.5s", "-1s", "0s", "1 s", "1d", "99999999999999999999h"] {
            assert!(milliseconds(wrong).is_err(), "{wrong}");
        }
        assert_eq!(shown(12_345), "12.3 s");
        assert_eq!(shown(125_000), "2 min 5 s");
    }
}
