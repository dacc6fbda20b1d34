//! Whole numbers as Go writes them: `100000`, `0x100`, `0o17`, `017`, `0b11`, `1_000`, with a sign if one likes.

/// Parses a number. As in Go, a leading 0 makes it octal.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    let invalid = || format!("{text:?} is no whole number, such as 65536 or 0x10000");
    let (is_negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = radix(digits);
    // One between two digits, or between a prefix and a digit.
    let is_misplaced = digits.contains("__") || digits.ends_with('_') || (digits.starts_with('_') && radix == 10);
    let bare: String = digits.chars().filter(|c| *c != '_').collect();
    if is_misplaced || !bare.starts_with(|c: char| c.is_digit(radix)) {
        return Err(invalid());
    }
    if !bare.chars().all(|c| c.is_digit(radix)) {
        return Err(invalid());
    }
    let sign = if is_negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{bare}"), radix).map_err(|_| format!("{text:?} is too large"))
}

fn radix(digits: &str) -> (u32, &str) {
    let prefixes = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
    let prefixed = prefixes.into_iter().find_map(|(prefix, radix)| Some((radix, digits.strip_prefix(prefix)?)));
    match (prefixed, digits.strip_prefix('0')) {
        (Some(prefixed), _) => prefixed,
        (None, Some(rest)) if !rest.is_empty() => (8, rest),
        _ => (10, digits),
    }
}

/// A size or a count of the original's, for which everything below 1 means its default: 0.
pub(super) fn or_default(text: &str) -> Result<usize, String> {
    parse(text).map(|n| usize::try_from(n).unwrap_or(0))
}

/// A number from 1 to `MAX`: more threads, links or callers are a slip of the finger.
pub(super) fn up_to<const MAX: usize>(text: &str) -> Result<usize, String> {
    match usize::try_from(parse(text)?) {
        Err(_) | Ok(0) => Err("at least 1".to_owned()),
        Ok(n) if n > MAX => Err(format!("at most {MAX}")),
        Ok(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_numbers() {
        // Each of these was tried with the original.
        for (text, number) in [
            ("0", 0),
            ("100000", 100_000),
            ("+5", 5),
            ("-5", -5),
            ("0x100", 256),
            ("0X1F", 31),
            ("0o17", 15),
            ("017", 15),
            ("0b11", 3),
            ("1_000", 1_000),
            ("0x_10", 16),
            ("-0x10", -16),
            ("9223372036854775807", i64::MAX),
        ] {
            assert_eq!(parse(text), Ok(number), "{text}");
        }
        for text in ["", "-", "08", "1e3", "1.5", "0x", "_1", "1_", "1__0", "10 ", "--5", "9223372036854775808"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_below_one() {
        assert_eq!((or_default("-1"), or_default("0"), or_default("7")), (Ok(0), Ok(0), Ok(7)));
        assert_eq!(up_to::<8>("0x8"), Ok(8));
        assert!(up_to::<8>("9").is_err() && up_to::<8>("0").is_err() && up_to::<8>("-1").is_err());
    }
}
