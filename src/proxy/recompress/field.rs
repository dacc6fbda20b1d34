//! The two fields on the wire: what a proxy restores, and the mark of a body that was decoded (R-proxy-recompress).

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use http::header::{HeaderMap, HeaderName, HeaderValue};

use super::coding::Coding;
use super::exact::{Encoder, fingerprint};

const TELEPORT_RECOMPRESS: HeaderName = HeaderName::from_static("teleport-recompress");
const TELEPORT_CODING: HeaderName = HeaderName::from_static("teleport-coding");
/// The longest recipe there is, as 32 KiB of text: what is left of usual heads is for other fields.
pub(super) const MAX_RECIPE_BYTES: usize = 24 * 1024;
/// The longest for an end that does not say what heads it takes.
const UNASKED_RECIPE_BYTES: usize = 1024;

/// Removes both fields, whatever they say (R-proxy-recompress-door).
pub(crate) fn strip(headers: &mut HeaderMap) {
    headers.remove(TELEPORT_RECOMPRESS);
    headers.remove(TELEPORT_CODING);
}

/// What the other end restores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// Longest decoded body that it takes.
    pub(super) limit: usize,
    /// Longest head that it takes by the link, if it says so.
    pub(super) head: Option<usize>,
    codings: u8,
    /// Of those encoders that are the very same here.
    encoders: u8,
}

impl Peer {
    /// What this program restores, of an end that it `trusts` or does not.
    pub(super) fn own(limit: usize, head: usize, trusts: bool) -> Self {
        let taken = Encoder::ALL.into_iter().filter(|encoder| encoder.is_built() && (trusts || encoder.is_bounded()));
        let encoders = taken.fold(0, |taken, encoder| taken | 1 << encoder as u8);
        Self { limit, head: Some(head), codings: u8::MAX, encoders }
    }

    /// The longest recipe for it: the text of that is no more than half of a head.
    pub(super) fn max_recipe_bytes(&self) -> usize {
        self.head.map_or(UNASKED_RECIPE_BYTES, |head| (head / 8 * 3).min(MAX_RECIPE_BYTES))
    }

    pub(super) fn restores(&self, coding: Coding) -> bool {
        self.codings & (1 << coding as u8) != 0
    }

    pub(super) fn has(&self, encoder: Encoder) -> bool {
        self.encoders & (1 << encoder as u8) != 0
    }

    /// Whether a message says so. Of a field that is repeated or malformed nothing counts.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        Self::parse(single(headers, &TELEPORT_RECOMPRESS)?)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut items = text.split(", ");
        let limit = number(items.next()?.strip_prefix("limit=")?)?;
        let mut peer = Self { limit, head: None, codings: 0, encoders: 0 };
        for item in items {
            if let Some(head) = item.strip_prefix("head=") {
                peer.head = Some(number(head)?);
                continue;
            }
            match item.split_once('.') {
                None => {
                    if let Some(coding) = Coding::named(item) {
                        peer.codings |= 1 << coding as u8;
                    }
                }
                Some((name, digits)) => {
                    let print = hex(digits)?;
                    if let Some(encoder) =
                        Encoder::named(name).filter(|own| own.is_built() && fingerprint(*own) == print)
                    {
                        peer.encoders |= 1 << encoder as u8;
                    }
                }
            }
        }
        Some(peer)
    }

    /// The value of the field that says it.
    pub(super) fn announcement(&self) -> HeaderValue {
        let mut text = format!("limit={}", self.limit);
        if let Some(head) = self.head {
            text.push_str(&format!(", head={head}"));
        }
        for coding in Coding::ALL.into_iter().filter(|coding| self.restores(*coding)) {
            text.push_str(", ");
            text.push_str(coding.name());
        }
        for encoder in Encoder::ALL.into_iter().filter(|encoder| self.has(*encoder)) {
            text.push_str(&format!(", {}.{:08x}", encoder.name(), fingerprint(encoder)));
        }
        value(&text)
    }
}

/// Says what this side restores.
pub(super) fn announce(headers: &mut HeaderMap, announcement: &HeaderValue) {
    headers.insert(TELEPORT_RECOMPRESS, announcement.clone());
}

/// What was done to a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) coding: Coding,
    /// How to get the very bytes again; without, any bytes of that content will do.
    pub(super) exact: Option<Exact>,
    /// The ETag was a strong one.
    pub(super) strong_etag: bool,
}

/// How the very bytes come about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exact {
    pub(super) encoder: Encoder,
    /// Of the coded body.
    pub(super) length: usize,
    pub(super) crc: u32,
    pub(super) recipe: Vec<u8>,
}

impl Mark {
    /// Whether a message has a mark at all.
    pub(super) fn is_on(headers: &HeaderMap) -> bool {
        headers.contains_key(TELEPORT_CODING)
    }

    pub(super) fn put(&self, headers: &mut HeaderMap) {
        headers.insert(TELEPORT_CODING, value(&self.text()));
    }

    /// Removes the mark. What it says, if it is the only one and well-formed.
    pub(super) fn take(headers: &mut HeaderMap) -> Option<Self> {
        let mark = single(headers, &TELEPORT_CODING).and_then(Self::parse);
        headers.remove(TELEPORT_CODING);
        mark
    }

    fn text(&self) -> String {
        let mut text = self.coding.name().to_owned();
        if let Some(Exact { encoder, length, crc, recipe }) = &self.exact {
            let (name, print) = (encoder.name(), fingerprint(*encoder));
            let recipe = BASE64.encode(recipe);
            text.push_str(&format!("; by={name}.{print:08x}; length={length}; crc={crc:08x}; data={recipe}"));
        }
        if self.strong_etag {
            text.push_str("; etag=strong");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (text, strong_etag) = match text.strip_suffix("; etag=strong") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let mut parts = text.split("; ");
        let coding = Coding::named(parts.next()?)?;
        let exact = match parts.next() {
            None => None,
            Some(by) => {
                let (name, print) = by.strip_prefix("by=")?.split_once('.')?;
                let encoder = Encoder::named(name).filter(|encoder| encoder.is_built())?;
                (hex(print)? == fingerprint(encoder)).then_some(())?;
                let length = number(parts.next()?.strip_prefix("length=")?)?;
                let crc = hex(parts.next()?.strip_prefix("crc=")?)?;
                let data = parts.next()?.strip_prefix("data=")?;
                let recipe = BASE64.decode(data).ok().filter(|recipe| recipe.len() <= MAX_RECIPE_BYTES)?;
                Some(Exact { encoder, length, crc, recipe })
            }
        };
        parts.next().is_none().then_some(Self { coding, exact, strong_etag })
    }
}

/// The value of a field that stands once.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    values.next().is_none().then(|| first.to_str().ok()).flatten()
}

fn number(digits: &str) -> Option<usize> {
    let is_number = (1..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().ok()).flatten()
}

fn hex(digits: &str) -> Option<u32> {
    let is_hex = digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_hex.then(|| u32::from_str_radix(digits, 16).ok()).flatten()
}

/// Of text that is made of letters, digits and punctuation here.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(encoder: Encoder) -> Mark {
        let exact = Exact { encoder, length: 633, crc: 0xab, recipe: vec![0, 255, 7] };
        Mark { coding: Coding::Gzip, exact: Some(exact), strong_etag: true }
    }

    #[test]
    fn marks_come_back_as_they_went() {
        for encoder in Encoder::ALL.into_iter().filter(|encoder| encoder.is_built()) {
            for mark in [exact(encoder), Mark { strong_etag: false, ..exact(encoder) }] {
                let mut headers = HeaderMap::new();
                mark.put(&mut headers);
                assert_eq!(Mark::take(&mut headers), Some(mark));
                assert!(headers.is_empty());
            }
        }
        let plain = Mark { coding: Coding::Brotli, exact: None, strong_etag: false };
        assert_eq!(plain.text(), "br");
        assert_eq!(Mark::parse("br"), Some(plain));
    }

    #[test]
    fn what_is_no_mark_is_taken_out_all_the_same() {
        let good = exact(Encoder::ZlibRs).text();
        let print = format!("{:08x}", fingerprint(Encoder::ZlibRs));
        let bad = [
            String::new(),
            "lzma".into(),
            "GZIP".into(),
            "gzip;etag=strong".into(),
            "gzip; by=zlib-rs".into(),
            good.replace(&print, "00000000"),
            good.replace("633", "+633"),
            good.replace("000000ab", "AB"),
            good.replace("000000ab", "000000AB"),
            good.replace("AP8H", "?"),
            good.replace("AP8H", &BASE64.encode([0; MAX_RECIPE_BYTES + 1])),
            good.replace("zlib-rs", "zlib"),
            format!("{good}; more=1"),
        ];
        for bad in bad {
            let mut headers = HeaderMap::from_iter([(TELEPORT_CODING, value(&bad))]);
            assert_eq!(Mark::take(&mut headers), None, "{bad}");
            assert!(headers.is_empty());
        }
        let mut twice = HeaderMap::new();
        twice.append(TELEPORT_CODING, value("gzip"));
        twice.append(TELEPORT_CODING, value("gzip"));
        assert_eq!(Mark::take(&mut twice), None);
    }

    #[test]
    fn recipes_are_as_long_as_heads_have_room_for() {
        let longest = |text| Peer::parse(text).unwrap().max_recipe_bytes();
        assert_eq!(longest("limit=5, gzip"), UNASKED_RECIPE_BYTES);
        assert_eq!(longest("limit=5, head=65536, gzip"), MAX_RECIPE_BYTES);
        assert_eq!(longest("limit=5, head=999999999, gzip"), MAX_RECIPE_BYTES);
        assert_eq!(longest("limit=5, head=4096, gzip"), 1536);
        assert!(BASE64.encode([0; MAX_RECIPE_BYTES]).len() == 32 * 1024);
    }

    #[test]
    fn an_announcement_tells_what_is_the_same_at_both_ends() {
        let untrusted = Peer::own(1, 1, false);
        assert!(untrusted.has(Encoder::Zstd) && !untrusted.has(Encoder::Preflate));
        let own = Peer::own(1 << 20, 1 << 16, true);
        let mut headers = HeaderMap::new();
        announce(&mut headers, &own.announcement());
        let read = Peer::of(&headers).unwrap();
        assert!(Coding::ALL.into_iter().all(|coding| read.restores(coding)));
        assert!(Encoder::ALL.into_iter().all(|encoder| read.has(encoder) == encoder.is_built()));
        assert_eq!((read.limit, read.head), (1 << 20, Some(1 << 16)));
        // Another version of an encoder, and things of times to come.
        let other = Peer::parse("limit=5, gzip, lzma, zstd.00000000, xz.12345678").unwrap();
        assert!(other.restores(Coding::Gzip) && !other.restores(Coding::Zstd) && !other.has(Encoder::Zstd));
        for bad in
            ["", "gzip", "limit=", "limit=x, gzip", "limit=1, zstd.xyz", "limit=1, head=x", "limit=1234567890123456"]
        {
            assert_eq!(Peer::parse(bad), None, "{bad}");
        }
    }
}
