//! What delimits a message: the one strict reading of Content-Length and Transfer-Encoding (R-read-length,
//! R-read-transfer-encoding), shared by well-formed heads and by heads that will be refused.

use crate::proto::error::ErrorKind;

/// How a message's body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// No field speaks of a body.
    Unstated,
    /// That many bytes.
    Fixed(u64),
    /// The chunked coding.
    Chunked,
}

/// The framing fields seen so far in a head.
#[derive(Default)]
pub(crate) struct FramingFields<'a> {
    lengths: usize,
    length: &'a [u8],
    codings: usize,
    coding: &'a [u8],
}

impl<'a> FramingFields<'a> {
    /// Notes one field, with all that stands between its colon and its line end.
    pub(crate) fn see(&mut self, name: &[u8], value: &'a [u8]) {
        if name.eq_ignore_ascii_case(b"content-length") {
            self.see_length(value);
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.see_coding(value);
        }
    }

    /// Notes a Content-Length.
    pub(crate) fn see_length(&mut self, value: &'a [u8]) {
        self.lengths += 1;
        self.length = trim_spaces(value);
    }

    /// Notes a Transfer-Encoding.
    pub(crate) fn see_coding(&mut self, value: &'a [u8]) {
        self.codings += 1;
        self.coding = trim_spaces(value);
    }

    /// The one reading of the fields seen, or the first error in the order of R-read-judge-order. `bodiless`: the
    /// message is a request that must not have a body.
    pub(crate) fn resolve(&self, http11: bool, bodiless: bool) -> Result<Length, ErrorKind> {
        let length = match self.lengths {
            0 => None,
            1 => Some(decimal(self.length).ok_or(ErrorKind::ContentLength)?),
            _ => return Err(ErrorKind::ContentLength),
        };
        if bodiless && (self.codings > 0 || length.is_some_and(|length| length > 0)) {
            return Err(ErrorKind::BodyNotAllowed);
        }
        let chunked = http11 && self.codings == 1 && self.coding.eq_ignore_ascii_case(b"chunked");
        match (length, self.codings) {
            (None, 0) => Ok(Length::Unstated),
            (Some(length), 0) => Ok(Length::Fixed(length)),
            _ if !chunked => Err(ErrorKind::TransferEncoding),
            (None, _) => Ok(Length::Chunked),
            (Some(_), _) => Err(ErrorKind::LengthAndChunked),
        }
    }
}

/// Takes off spaces, but not tabs: deployed originals take a length after a tab for none (R-read-length).
fn trim_spaces(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

/// A decimal number of digits only, at most 2^63 - 1.
pub(crate) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |n, digit| {
        let digit = digit.is_ascii_digit().then(|| u64::from(digit - b'0'))?;
        n.checked_mul(10)?.checked_add(digit).filter(|n| *n <= i64::MAX as u64)
    })
}

/// A decimal number as senders write it: without leading zeros.
pub(crate) fn plain_decimal(digits: &[u8]) -> Option<u64> {
    decimal(digits).filter(|_| digits == b"0" || !digits.starts_with(b"0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(fields: &[(&str, &str)], http11: bool) -> Result<Length, ErrorKind> {
        let mut seen = FramingFields::default();
        for (name, value) in fields {
            seen.see(name.as_bytes(), value.as_bytes());
        }
        seen.resolve(http11, false)
    }

    #[test]
    fn a_length_is_digits_only() {
        assert_eq!(decimal(b"0"), Some(0));
        assert_eq!(decimal(b"007"), Some(7));
        assert_eq!(decimal(b"9223372036854775807"), Some(i64::MAX as u64));
        for bad in ["", " 1", "1 ", "+1", "-1", "0x1", "1,1", "4x", "9223372036854775808", "99999999999999999999999"] {
            assert_eq!(decimal(bad.as_bytes()), None, "{bad:?}");
        }
    }

    #[test]
    fn one_reading_or_none() {
        let cl = "Content-Length";
        let te = "transfer-encoding";
        assert_eq!(resolve(&[("Host", "h")], true), Ok(Length::Unstated));
        assert_eq!(resolve(&[(cl, "4")], true), Ok(Length::Fixed(4)));
        assert_eq!(resolve(&[(te, "Chunked")], true), Ok(Length::Chunked));
        assert_eq!(resolve(&[(cl, "4"), (cl, "4")], true), Err(ErrorKind::ContentLength));
        assert_eq!(resolve(&[(cl, "4x")], true), Err(ErrorKind::ContentLength));
        assert_eq!(resolve(&[(cl, "4"), (te, "chunked")], true), Err(ErrorKind::LengthAndChunked));
        for bad in ["identity", "gzip, chunked", "chunked, chunked", "xchunked", ""] {
            assert_eq!(resolve(&[(te, bad)], true), Err(ErrorKind::TransferEncoding), "{bad:?}");
        }
        assert_eq!(resolve(&[(te, "chunked"), (te, "chunked")], true), Err(ErrorKind::TransferEncoding));
        assert_eq!(resolve(&[(te, "chunked")], false), Err(ErrorKind::TransferEncoding));
        assert_eq!(resolve(&[(cl, "  4 ")], true), Ok(Length::Fixed(4)));
        assert_eq!(resolve(&[(cl, "\t4")], true), Err(ErrorKind::ContentLength));
        assert_eq!(resolve(&[(te, " chunked ")], true), Ok(Length::Chunked));
        assert_eq!(resolve(&[(te, "chunked\t")], true), Err(ErrorKind::TransferEncoding));
    }
}
