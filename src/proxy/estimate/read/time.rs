//! Dates of HAR files: ISO 8601 as RFC 3339 has it.

/// `2026-11-27T03:04:05.678Z`, or with `+01:00` in place of `Z`, as microseconds since 1970.
pub(super) fn micros_since_1970(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let [hour, minute, second] = numbers(clock, ':', [2, 2, 2])?;
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign, ..] => {
            let [hours, minutes, _] = numbers(&format!("{}:00", zone.get(1..)?), ':', [2, 2, 2])?;
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        [] => return None,
    };
    let is_date = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    let is_fraction = fraction.len() <= 18 && fraction.bytes().all(|b| b.is_ascii_digit());
    (is_date && is_fraction).then_some(())?;
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset * 60;
    u64::try_from(seconds * 1_000_000 + micros.parse::<i64>().ok()?).ok()
}

/// Three numbers of so many digits.
fn numbers(text: &str, separator: char, digits: [usize; 3]) -> Option<[i64; 3]> {
    let mut parts = text.split(separator);
    let mut numbers = [0; 3];
    for (number, digits) in numbers.iter_mut().zip(digits) {
        let part = parts.next().filter(|part| part.len() == digits && part.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(numbers)
}

/// Days since 1970 of a date of the Gregorian calendar.
fn days(year: i64, month: i64, day: i64) -> i64 {
    // Years that begin in March have the odd day at their end.
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (text, micros) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T12:00:00.5Z", 951_825_600_500_000),
            ("2026-11-27T03:04:05.678901Z", 1_795_748_645_678_901),
            ("2026-11-27T04:04:05.678+01:00", 1_795_748_645_678_000),
            ("2026-11-26T22:34:05.678-04:30", 1_795_748_645_678_000),
            ("2024-12-31T23:59:60Z", 1_735_689_600_000_000),
        ] {
            assert_eq!(micros_since_1970(text), Some(micros), "{text}");
        }
        for bad in [
            "",
            "2026-11-27",
            "2026-11-27T03:04Z",
            "2026-13-01T00:00:00Z",
            "2026-11-27T03:04:05",
            "1969-01-01T00:00:00Z",
            "x-11-27T03:04:05Z",
            "2026-11-27T03:04:05+1:00",
            "2026-11-27T03:04:05.x9Z",
        ] {
            assert_eq!(micros_since_1970(bad), None, "{bad}");
        }
    }
}
