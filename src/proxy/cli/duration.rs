//! Durations as Go writes them: `10ms`, `1.5s`, `1m30s`, `0`.

use std::time::Duration;

/// The units, longest spelling first where one starts with another, in nanoseconds.
const UNITS: [(&str, u64); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("μs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// Parses a duration: numbers with units, one after another, or `0`. Less than that is 0, too, as in the original.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    let invalid = || format!("{text:?} is no duration; write it like 10ms, 1.5s, 2m or 0");
    let is_negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['+', '-']).unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total = 0.0_f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let (_, nanos) = UNITS.iter().find(|(name, _)| *name == &rest[..letters]).ok_or_else(invalid)?;
        total += number * *nanos as f64;
        rest = &rest[letters..];
    }
    // Rounded to the nanosecond: 1.1 is not exactly 1.1 in binary.
    let nanos = total.round();
    if nanos > i64::MAX as f64 {
        return Err(format!("{text:?} is too long"));
    }
    Ok(if is_negative { Duration::ZERO } else { Duration::from_nanos(nanos as u64) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        let ok = |text: &str, nanos: u64| assert_eq!(parse(text), Ok(Duration::from_nanos(nanos)), "{text}");
        ok("0", 0);
        ok("0s", 0);
        ok("+5ns", 5);
        ok("10ms", 10_000_000);
        ok("1.5s", 1_500_000_000);
        ok("1.1s", 1_100_000_000);
        ok(".5s", 500_000_000);
        ok("500us", 500_000);
        ok("500µs", 500_000);
        ok("2m", 120_000_000_000);
        ok("1m30s", 90_000_000_000);
        ok("1h0.5m", 3_630_000_000_000);
        ok("-1s", 0);
    }

    #[test]
    fn not_durations() {
        for text in
            ["", "10", "ms", "1 s", "-1", "--1s", "1.5h-1s", "1.2.3s", "1d", "s1", "1sms", ".s", "+", "999999999h"]
        {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
