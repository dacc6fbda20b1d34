//! `--recompress`: bodies that come compressed go decoded over the link, and are coded again at its other end.
//!
//! A compressed body has nothing in common with the next one, so the link's compression finds nothing in it. Here it is
//! decoded where it leaves plain HTTP and restored where it enters it again (spec/08-conformance.md, "Coded bodies"). Two
//! fields carry that: what an end restores, and the mark of a body that was decoded ([`field`]).
//!
//! ```text
//! headers, body -> rules::look -> coding::decode -> exact::find -> mark, decoded body ══ link ══> exact::make | coding::encode
//! ```
//!
//! All that takes long happens on the threads for blocking work, for a few bodies at once for each core: what comes beyond
//! that passes as it is. Whatever is in doubt passes as it is.

mod coding;
mod exact;
mod field;
mod rules;
mod tally;
mod wrap;

use std::num::NonZero;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};

use super::config::ProxyConfig;
use crate::proto::Compression;
use coding::Undecodable;
use field::{Exact, Mark};
use rules::{Coded, Reason};
use tally::{Tally, add};

pub(crate) use field::{Peer, strip};
pub use tally::RecompressStats;

/// Longest decoded body, whatever the limits of messages are.
const MAX_DECODED_BYTES: usize = 16 * 1024 * 1024;
/// Shorter bodies are no longer than what is said of them.
const MIN_CODED_BYTES: usize = 100;
/// Work on bodies up to this size is done where it is met.
const QUICK_BYTES: usize = 16 * 1024;
/// How many bodies are looked at, at once, for each core: some wait a few milliseconds for others, and the rest passes.
const BUSY_PER_CORE: usize = 4;
/// What a head may have beside the fields that were counted.
const HEAD_MARGIN_BYTES: usize = 512;

/// Whether coded bodies (Content-Encoding gzip, deflate, br and zstd) are decoded for the link and coded again behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recompress {
    /// They pass as they are.
    #[default]
    Off,
    /// Only those that can be restored to the very same bytes.
    Exact,
    /// Where nothing in the head depends on the very bytes, the other end may code them in a way of its own, which is much
    /// cheaper. Where something does, as `Exact`.
    Content,
}

/// Decodes on the way into the link, and restores on the way out of it.
#[derive(Debug)]
pub(crate) struct Recompressor {
    mode: Recompress,
    /// What goes into the link is compressed there.
    decodes: bool,
    /// Longest decoded body that this side takes, and that it sends.
    limit: usize,
    /// Longest head that this side takes by the link.
    max_head_bytes: usize,
    /// To an end that is trusted, and to others.
    announcement: HeaderValue,
    cautious_announcement: HeaderValue,
    tally: Tally,
    busy: Arc<AtomicUsize>,
    most_busy: usize,
}

/// In the extensions of a request: it came by a link whose other end has said compression 3 in its hello, which an original
/// does not know, so that no outsider has written what is in the fields of proxies (R-proxy-recompress-bound).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trusted;

/// A message whose body was decoded.
#[derive(Debug)]
pub(crate) struct Lowered {
    body: Bytes,
    mark: Mark,
}

impl Recompressor {
    /// None unless it is wanted, and one side is a link and the other HTTP.
    pub(crate) fn new(config: &ProxyConfig) -> Option<Arc<Self>> {
        let (inbound, out) = (&config.inbound, &config.outbound);
        if config.recompress == Recompress::Off || inbound.kind.is_link() == out.kind.is_link() {
            return None;
        }
        let (compression, prefers_zstd, max_head_bytes) = match out.kind.is_link() {
            true => (out.compression, out.prefer_zstd, out.max_head_bytes),
            false => (inbound.compression, inbound.prefer_zstd, inbound.max_head_bytes),
        };
        let limit = inbound.max_body_bytes.max(out.max_body_bytes).min(MAX_DECODED_BYTES);
        Some(Arc::new(Self {
            mode: config.recompress,
            decodes: prefers_zstd || compression != Compression::None,
            limit,
            max_head_bytes,
            announcement: Peer::own(limit, max_head_bytes, true).announcement(),
            cautious_announcement: Peer::own(limit, max_head_bytes, false).announcement(),
            tally: Tally::default(),
            busy: Arc::default(),
            most_busy: BUSY_PER_CORE * std::thread::available_parallelism().map_or(1, NonZero::get),
        }))
    }

    pub(crate) fn stats(&self) -> RecompressStats {
        self.tally.read()
    }

    /// Says in a message what this side restores of an end that it `trusts` or does not.
    pub(crate) fn announce(&self, headers: &mut HeaderMap, trusts: bool) {
        field::announce(headers, if trusts { &self.announcement } else { &self.cautious_announcement });
    }

    /// Decodes a body for a link whose other end restores as `peer` says. None if it is to pass as it is.
    pub(crate) async fn lower(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: &Bytes,
        peer: Option<Peer>,
    ) -> Option<Lowered> {
        if body.is_empty() || !self.decodes {
            return None;
        }
        let lowered = match rules::look(headers)? {
            Ok(coded) => self.lower_coded(headers, body, coded, peer).await,
            Err(reason) => Err(reason),
        };
        match &lowered {
            Ok(lowered) => self.note_lowered(body.len(), lowered),
            Err(reason) => self.tally.pass(*reason),
        }
        lowered.ok()
    }

    async fn lower_coded(
        self: &Arc<Self>,
        headers: &HeaderMap,
        body: &Bytes,
        coded: Coded,
        peer: Option<Peer>,
    ) -> Result<Lowered, Reason> {
        let peer = peer.filter(|peer| peer.restores(coded.coding)).ok_or(Reason::Unasked)?;
        if body.len() < MIN_CODED_BYTES {
            return Err(Reason::NoGain);
        }
        let exactly = coded.bytes_matter || self.mode == Recompress::Exact;
        let limit = self.limit.min(peer.limit);
        let lowered = if !exactly && body.len() <= QUICK_BYTES {
            decode(coded, body, limit, None)?
        } else {
            let turn = Turn::take(&self.busy, self.most_busy).ok_or(Reason::Busy)?;
            let body = body.clone();
            smol::unblock(move || {
                let _turn = turn;
                decode(coded, &body, limit, exactly.then_some(peer))
            })
            .await?
        };
        let recipe = lowered.mark.exact.as_ref().map_or(0, |exact| exact.recipe.len());
        if recipe * 2 > body.len() {
            return Err(Reason::NoGain);
        }
        let head: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum();
        let data = recipe.div_ceil(3) * 4;
        let most = peer.head.map_or(self.max_head_bytes, |head| head.min(self.max_head_bytes));
        if head + data + HEAD_MARGIN_BYTES > most {
            return Err(Reason::TooLarge);
        }
        Ok(lowered)
    }

    fn note_lowered(&self, coded_bytes: usize, lowered: &Lowered) {
        let tally = &self.tally;
        add(if lowered.mark.exact.is_some() { &tally.decoded_exactly } else { &tally.decoded_freely }, 1);
        add(&tally.coded_bytes, coded_bytes);
        add(&tally.decoded_bytes, lowered.body.len());
    }

    /// Takes the mark off a message from a link and codes its body as it says. Where that cannot be done, the body goes on
    /// without a coding, which says the same (R-proxy-recompress-valid). Of an end that is not trusted, a recipe that could
    /// cost without bound is none.
    pub(crate) async fn restore(&self, headers: &mut HeaderMap, body: Bytes, trusts: bool) -> Bytes {
        if !Mark::is_on(headers) {
            return body;
        }
        let is_bounded = |mark: &Mark| mark.exact.as_ref().is_none_or(|exact| exact.encoder.is_bounded());
        let mark = Mark::take(headers).filter(|mark| trusts || is_bounded(mark));
        let mark = mark.filter(|_| !headers.contains_key(header::CONTENT_ENCODING));
        let restored = match mark {
            None => None,
            Some(mark) if body.len() <= QUICK_BYTES => code(&mark, &body).map(|coded| (mark, coded)),
            Some(mark) => {
                let body = body.clone();
                smol::unblock(move || code(&mark, &body).map(|coded| (mark, coded))).await
            }
        };
        let Some((mark, coded)) = restored else {
            add(&self.tally.not_restored, 1);
            return body;
        };
        add(if mark.exact.is_some() { &self.tally.restored_exactly } else { &self.tally.restored_freely }, 1);
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(mark.coding.name()));
        if mark.strong_etag {
            strengthen(headers);
        }
        settle_length(headers, coded.len());
        coded.into()
    }
}

impl Lowered {
    /// Makes the message the one that goes into the link. Returns its body.
    pub(crate) fn apply_to(self, headers: &mut HeaderMap) -> Bytes {
        headers.remove(header::CONTENT_ENCODING);
        if self.mark.strong_etag {
            weaken(headers);
        }
        settle_length(headers, self.body.len());
        self.mark.put(headers);
        self.body
    }
}

/// What becomes of a message with `Recompress::Content`, where nothing depends on the bytes: its head and body on the link.
/// Its body is coded again, too, for whoever asks what that costs.
pub(crate) fn there_and_back(mut headers: HeaderMap, body: &Bytes) -> Option<(HeaderMap, Bytes)> {
    let coded = rules::look(&headers)?.ok().filter(|_| body.len() >= MIN_CODED_BYTES)?;
    let lowered = decode(coded, body, MAX_DECODED_BYTES, None).ok()?;
    code(&lowered.mark, &lowered.body)?;
    let body = lowered.apply_to(&mut headers);
    Some((headers, body))
}

/// The body without its coding, with the way back; to the very bytes, by what `exactly` says is there for it.
fn decode(coded: Coded, body: &Bytes, limit: usize, exactly: Option<Peer>) -> Result<Lowered, Reason> {
    let Coded { coding, has_strong_etag, .. } = coded;
    let limit = if exactly.is_some() { limit.min(exact::MAX_PLAIN_BYTES) } else { limit };
    let decoded = coding::decode(coding, body, limit).map_err(|why| match why {
        Undecodable::TooLarge => Reason::TooLarge,
        Undecodable::Malformed => Reason::Malformed,
    })?;
    let exact = match exactly {
        None => None,
        Some(peer) => {
            let found = exact::find(coding, body, &decoded, peer.max_recipe_bytes(), |encoder| peer.has(encoder));
            let (encoder, recipe) = found.ok_or(Reason::NotReproducible)?;
            Some(Exact { encoder, length: body.len(), crc: crc32c::crc32c(body), recipe })
        }
    };
    Ok(Lowered { body: decoded.plain.into(), mark: Mark { coding, exact, strong_etag: has_strong_etag } })
}

/// The body coded as its mark says.
fn code(mark: &Mark, plain: &[u8]) -> Option<Vec<u8>> {
    match &mark.exact {
        None => coding::encode(mark.coding, plain),
        Some(Exact { encoder, length, crc, recipe }) => exact::make(mark.coding, *encoder, recipe, plain)
            .filter(|coded| coded.len() == *length && crc32c::crc32c(coded) == *crc),
    }
}

fn settle_length(headers: &mut HeaderMap, length: usize) {
    if headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

fn weaken(headers: &mut HeaderMap) {
    let weak = headers.get(header::ETAG).map(|etag| HeaderValue::from_bytes(&[b"W/", etag.as_bytes()].concat()));
    if let Some(Ok(weak)) = weak {
        headers.insert(header::ETAG, weak);
    }
}

fn strengthen(headers: &mut HeaderMap) {
    let strong = headers.get(header::ETAG).and_then(|etag| etag.as_bytes().strip_prefix(b"W/"));
    if let Some(Ok(strong)) = strong.map(HeaderValue::from_bytes) {
        headers.insert(header::ETAG, strong);
    }
}

/// One of the bodies that are looked at, at once, until dropped.
struct Turn(Arc<AtomicUsize>);

impl Turn {
    fn take(busy: &Arc<AtomicUsize>, most: usize) -> Option<Self> {
        let turn = Self(busy.clone());
        (busy.fetch_add(1, Ordering::Relaxed) < most).then_some(turn)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
