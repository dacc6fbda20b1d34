//! How long a caller still waits, told from one proxy to the next (R-proxy-time-left).

use std::time::Duration;

use http::header::{HeaderMap, HeaderName, HeaderValue};

const TELEPORT_TIME_LEFT: HeaderName = HeaderName::from_static("teleport-time-left");

/// Removes the field. What it says, if there is one and it is what it should be: milliseconds.
pub(crate) fn take(headers: &mut HeaderMap) -> Option<Duration> {
    let mut values = headers.get_all(TELEPORT_TIME_LEFT).iter();
    let first = values.next()?;
    let time_left = values.next().is_none().then(|| parse(first)).flatten();
    headers.remove(TELEPORT_TIME_LEFT);
    time_left
}

/// Says how long the caller still waits.
pub(crate) fn put(headers: &mut HeaderMap, time_left: Duration) {
    headers.insert(TELEPORT_TIME_LEFT, rounded(time_left).into());
}

fn parse(value: &HeaderValue) -> Option<Duration> {
    let digits = value.to_str().ok().filter(|text| (1..=10).contains(&text.len()))?;
    let is_number = digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten().map(Duration::from_millis)
}

/// Milliseconds, rounded up to two digits: what is the same in each request costs nothing on the link.
fn rounded(time_left: Duration) -> u64 {
    let millis = time_left.as_nanos().div_ceil(1_000_000).clamp(1, 9_900_000_000) as u64;
    let unit = 10_u64.pow(millis.ilog10().saturating_sub(1));
    millis.div_ceil(unit) * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_taken_out_whatever_it_says() {
        let take = |values: &[&'static str]| {
            let fields = values.iter().map(|value| (TELEPORT_TIME_LEFT, HeaderValue::from_static(value)));
            let mut headers: HeaderMap = fields.collect();
            let time_left = take(&mut headers);
            assert!(headers.is_empty());
            time_left.map(|time| time.as_millis())
        };
        assert_eq!(take(&["3000"]), Some(3000));
        assert_eq!(take(&["0"]), Some(0));
        for bad in [&[][..], &[""], &["-1"], &["+1"], &["1.5"], &["12345678901"], &["1", "1"], &["1, 1"]] {
            assert_eq!(take(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn it_is_rounded_up_to_two_digits() {
        let rounded = |micros| rounded(Duration::from_micros(micros));
        assert_eq!([0, 1, 1_000, 9_900, 99_000, 2_999_700, 2_901_000].map(rounded), [1, 1, 1, 10, 99, 3_000, 3_000]);
        let mut headers = HeaderMap::new();
        put(&mut headers, Duration::MAX);
        assert_eq!(take(&mut headers), Some(Duration::from_millis(9_900_000_000)));
    }
}
