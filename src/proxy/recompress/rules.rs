//! Which bodies may be decoded (R-proxy-recompress-untouched). No I/O, and nothing is decoded here.

use http::header::{self, HeaderMap, HeaderName};

use super::coding::Coding;
use super::field::Mark;

/// Fields over the bytes of the message at hand.
const OVER_THE_BYTES: [HeaderName; 7] = [
    header::CONTENT_RANGE,
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
    HeaderName::from_static("signature"),
    HeaderName::from_static("signature-input"),
];

/// Why a coded body passes as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// Nobody at the other end has said to restore such a coding.
    Unasked,
    /// A coding that is not known, or several.
    Coding,
    /// `Cache-Control: no-transform`.
    NoTransform,
    /// A part of something.
    Partial,
    /// A digest or a signature is over it.
    Digest,
    /// It would be too large.
    TooLarge,
    /// It is not what it is said to be.
    Malformed,
    /// The very bytes matter, and how to get them again was not found.
    NotReproducible,
    /// It would not get smaller by being decoded.
    NoGain,
    /// Others are being looked at.
    Busy,
}

impl Reason {
    pub(crate) const ALL: [Self; 10] = [
        Self::Unasked,
        Self::Coding,
        Self::NoTransform,
        Self::Partial,
        Self::Digest,
        Self::TooLarge,
        Self::Malformed,
        Self::NotReproducible,
        Self::NoGain,
        Self::Busy,
    ];

    /// The label in metrics.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unasked => "unasked",
            Self::Coding => "coding",
            Self::NoTransform => "no_transform",
            Self::Partial => "partial",
            Self::Digest => "digest",
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::NotReproducible => "not_reproducible",
            Self::NoGain => "no_gain",
            Self::Busy => "busy",
        }
    }
}

/// What the head of a message says about its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Coded {
    pub(super) coding: Coding,
    /// Somebody may depend on the very bytes.
    pub(super) bytes_matter: bool,
    pub(super) has_strong_etag: bool,
}

/// Whether the body of a message with this head may be decoded; none if it is not coded at all.
pub(super) fn look(headers: &HeaderMap) -> Option<Result<Coded, Reason>> {
    headers.contains_key(header::CONTENT_ENCODING).then(|| look_at_coded(headers))
}

fn look_at_coded(headers: &HeaderMap) -> Result<Coded, Reason> {
    let mut codings = headers.get_all(header::CONTENT_ENCODING).iter();
    let first = codings.next().and_then(|value| value.to_str().ok()).and_then(Coding::named);
    let coding = first.filter(|_| codings.next().is_none()).ok_or(Reason::Coding)?;
    if has_word(headers, header::CACHE_CONTROL, "no-transform") {
        return Err(Reason::NoTransform);
    }
    let of_parts = |kind: &str| kind.trim_start().to_ascii_lowercase().starts_with("multipart/byteranges");
    let kinds = headers.get_all(header::CONTENT_TYPE).iter();
    if headers.contains_key(header::CONTENT_RANGE) || kinds.filter_map(|kind| kind.to_str().ok()).any(of_parts) {
        return Err(Reason::Partial);
    }
    if OVER_THE_BYTES.iter().any(|name| headers.contains_key(name)) || Mark::is_on(headers) {
        return Err(Reason::Digest);
    }
    let mut etags = headers.get_all(header::ETAG).iter();
    let etag = etags.next();
    if etags.next().is_some() {
        return Err(Reason::Digest);
    }
    let has_strong_etag = etag.is_some_and(|etag| !etag.as_bytes().starts_with(b"W/"));
    let takes_ranges = headers.get_all(header::ACCEPT_RANGES).iter().any(|value| value != "none");
    let bytes_matter =
        has_strong_etag || takes_ranges || headers.contains_key(header::LAST_MODIFIED) || may_be_signed(headers);
    Ok(Coded { coding, bytes_matter, has_strong_etag })
}

/// Whether a field of nobody knows what sounds as if it were over the bytes, such as X-Hub-Signature-256.
fn may_be_signed(headers: &HeaderMap) -> bool {
    const SOUNDS: [&str; 7] = ["signature", "digest", "checksum", "hmac", "sha1", "sha256", "md5"];
    headers.keys().any(|name| SOUNDS.iter().any(|sound| name.as_str().contains(sound)))
}

/// Whether a list has this word as an item.
fn has_word(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    let items = headers.get_all(name).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    items.into_iter().any(|item| {
        let item = item.trim_ascii();
        // `no-transform` has no argument, but who gives it one means it.
        let end = item.iter().position(|b| matches!(b, b'=' | b' ' | b'\t')).unwrap_or(item.len());
        item[..end].eq_ignore_ascii_case(word.as_bytes())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looked(fields: &[(&'static str, &'static str)]) -> Option<Result<Coded, Reason>> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, value.parse().unwrap());
        }
        look(&headers)
    }

    #[test]
    fn what_is_coded_in_a_known_way_alone() {
        assert_eq!(looked(&[]), None);
        for coding in Coding::ALL {
            let plain = Coded { coding, bytes_matter: false, has_strong_etag: false };
            assert_eq!(looked(&[("content-encoding", coding.name())]), Some(Ok(plain)));
        }
        for other in ["x-gzip", "GZIP", "gzip, br", "identity", "", "compress", "gzip "] {
            assert_eq!(looked(&[("content-encoding", other)]), Some(Err(Reason::Coding)), "{other:?}");
        }
        let twice = [("content-encoding", "gzip"), ("content-encoding", "gzip")];
        assert_eq!(looked(&twice), Some(Err(Reason::Coding)));
    }

    #[test]
    fn what_may_not_be_touched() {
        let with = |name, value| looked(&[("content-encoding", "gzip"), (name, value)]).unwrap();
        assert_eq!(with("cache-control", "max-age=1,No-Transform"), Err(Reason::NoTransform));
        assert_eq!(with("cache-control", "private, no-transform=1"), Err(Reason::NoTransform));
        assert_eq!(with("content-range", "bytes 0-5/10"), Err(Reason::Partial));
        assert_eq!(with("content-type", "Multipart/ByteRanges; boundary=x"), Err(Reason::Partial));
        for over in ["content-md5", "digest", "content-digest", "repr-digest", "signature", "signature-input"] {
            assert_eq!(with(over, "x"), Err(Reason::Digest), "{over}");
        }
        assert_eq!(with("teleport-coding", "gzip"), Err(Reason::Digest));
        assert!(with("cache-control", "no-store, x-no-transform").is_ok());
        assert!(with("content-type", "multipart/form-data; boundary=x").is_ok());
        let etags = [("content-encoding", "gzip"), ("etag", "W/\"a\""), ("etag", "\"b\"")];
        assert_eq!(looked(&etags), Some(Err(Reason::Digest)));
    }

    #[test]
    fn where_the_very_bytes_matter() {
        let with = |name, value| looked(&[("content-encoding", "gzip"), (name, value)]).unwrap().unwrap();
        for (name, value, expected) in [
            ("etag", "\"a\"", (true, true)),
            ("etag", "W/\"a\"", (false, false)),
            ("last-modified", "Tue, 15 Nov 1994 12:45:26 GMT", (true, false)),
            ("accept-ranges", "bytes", (true, false)),
            ("accept-ranges", "none", (false, false)),
            ("content-type", "text/html", (false, false)),
            ("x-hub-signature-256", "sha256=0", (true, false)),
            ("x-amz-content-sha256", "0", (true, false)),
        ] {
            let coded = with(name, value);
            assert_eq!((coded.bytes_matter, coded.has_strong_etag), expected, "{name}: {value}");
        }
    }
}
