//! Peers that speak something else than the port they came to: one line that says what to do about it.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use rustls::InvalidMessage;
use tracing::{debug, info, warn};

use super::request_head::NO_MEMORY;
use crate::driver::{LinkRefused, PeerAddr};
use crate::proto::{ConnectionError, ErrorKind};

/// Between two warnings of one kind: a health check that knocks each second is to be seen, not to fill the log.
pub(crate) const QUIET: Duration = Duration::from_secs(60);

/// Warns about strangers, broken links and whatever else a peer could repeat, not too often.
#[derive(Debug, Default)]
pub(crate) struct Strangers {
    /// When each kind of stranger was last warned about. There are few: no kind holds anything that a peer has chosen.
    last: Mutex<Vec<(&'static str, Instant)>>,
}

impl Strangers {
    /// A connection to an HTTP port ended with an error; `unread` is what of its bytes was not understood.
    pub(crate) fn note_on_http(&self, peer: &PeerAddr, unread: &[u8]) {
        let Some(advice) = on_http(unread) else { return };
        self.warn(advice, format_args!("caller {peer}: {advice}"));
    }

    /// The TLS handshake of a connection to an HTTPS port has failed.
    pub(crate) fn note_on_https(&self, peer: &PeerAddr, error: &io::Error) {
        // Whoever only looks whether the port is open is no stranger.
        if error.kind() == io::ErrorKind::UnexpectedEof {
            debug!("caller {peer}: closed before TLS was there");
            return;
        }
        let is_clear = error.get_ref().and_then(|why| why.downcast_ref()).is_some_and(|why: &rustls::Error| {
            matches!(why, rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType))
        });
        let advice = if is_clear { "; does it speak in clear? then have it use https://" } else { "" };
        self.warn("https", format_args!("caller {peer}: no TLS: {error}{advice}"));
    }

    /// A link to a teleport port is up.
    pub(crate) fn note_link(&self, peer: &PeerAddr, compression: &str) {
        let line = format_args!("link from {peer}: up, requests compressed with {compression}");
        if self.is_news("up", Instant::now()) { info!("{line}") } else { debug!("{line}") }
    }

    /// There was no room for another link.
    pub(crate) fn note_refused(&self, peer: &PeerAddr, why: LinkRefused) {
        self.warn("refused", format_args!("link from {peer} refused: {why}; give the proxy more (--memory-budget)"));
    }

    /// There was no memory for a connection to an HTTP port.
    pub(crate) fn note_no_memory(&self, peer: &PeerAddr) {
        self.warn("memory", format_args!("caller {peer}: closed, {NO_MEMORY}; or give the proxy more"));
    }

    /// A link to a teleport port ended.
    pub(crate) fn note_on_teleport(
        &self,
        peer: &PeerAddr,
        error: Option<&ConnectionError>,
        transport: Option<&io::Error>,
    ) {
        match error {
            None => debug!("link from {peer}: closed"),
            // Whoever only looks whether the port is open is no stranger.
            Some(error) if *error.kind() == ErrorKind::HelloTruncated && error.offset() == Some(0) => {
                debug!("link from {peer}: {error}");
            }
            Some(error) => {
                let advice = teleport_advice(error.kind());
                let why = why(advice, transport);
                let kind = if advice.is_empty() { error.kind().code() } else { advice };
                self.warn(kind, format_args!("link from {peer}: {error}{why}"));
            }
        }
    }

    /// A warning, unless there was one of this kind a short while ago.
    pub(crate) fn warn(&self, kind: &'static str, line: fmt::Arguments<'_>) {
        if self.is_news(kind, Instant::now()) { warn!("{line}") } else { debug!("{line}") }
    }

    /// A warning of what is answered with this status, unless there was one a short while ago.
    pub(crate) fn warn_of(&self, status: StatusCode, line: fmt::Arguments<'_>) {
        self.warn(status.canonical_reason().unwrap_or_default(), format_args!("{line} (said once a minute)"));
    }

    /// Whether a line of this kind is to be told, and not one of those that come in between.
    pub(crate) fn is_news(&self, kind: &'static str, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match last.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, then)) if now.duration_since(*then) < QUIET => false,
            Some((_, then)) => {
                *then = now;
                true
            }
            None => {
                last.push((kind, now));
                true
            }
        }
    }
}

/// What stands behind an error: advice, or else what the transport says. Who needs advice may well reset the connection, too.
fn why(advice: &str, transport: Option<&io::Error>) -> String {
    match transport {
        Some(transport) if advice.is_empty() => format!(": {transport}"),
        _ => advice.to_owned(),
    }
}

/// What to do about a peer of an HTTP port that began with these bytes.
fn on_http(unread: &[u8]) -> Option<&'static str> {
    if unread.starts_with(b"httpteleport") {
        return Some(
            "a teleport peer connected to this HTTP port: give this proxy --in-type teleport, or the peer --out-type http",
        );
    }
    if unread.starts_with(&[0x16, 0x03]) {
        return Some("TLS was sent to this plain HTTP port: have the caller use http:// instead of https://");
    }
    if unread.starts_with(b"PRI * HTTP/2") {
        return Some("HTTP/2 was sent to this HTTP/1 port: have the caller speak HTTP/1.1");
    }
    None
}

fn teleport_advice(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::HelloMagic(crate::proto::Stranger::Http) => {
            "; give this proxy --in-type http, or send HTTP to the near proxy instead"
        }
        ErrorKind::HelloMagic(crate::proto::Stranger::Tls) => "; have the peer connect without TLS",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_are_told_apart() {
        assert!(on_http(b"httpteleport\0\0\0").is_some_and(|a| a.contains("--in-type teleport")));
        assert!(on_http(b"\x16\x03\x01\x02\0").is_some_and(|a| a.contains("TLS")));
        assert!(on_http(b"PRI * HTTP/2.0\r\n").is_some_and(|a| a.contains("HTTP/2")));
        assert_eq!(on_http(b"GET / HTTP/9.1\r\n"), None);
    }

    #[test]
    fn advice_is_given_also_to_who_resets_the_connection() {
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let tls = teleport_advice(&ErrorKind::HelloMagic(crate::proto::Stranger::Tls));
        assert_eq!(why(tls, Some(&reset)), tls);
        assert_eq!(why("", Some(&reset)), format!(": {reset}"));
        assert_eq!(why("", None), "");
    }

    #[test]
    fn each_kind_is_news_once_a_minute() {
        let strangers = Strangers::default();
        let start = Instant::now();
        assert!(strangers.is_news("a", start));
        assert!(strangers.is_news("b", start));
        assert!(!strangers.is_news("a", start + QUIET / 2));
        assert!(strangers.is_news("a", start + QUIET));
        assert!(!strangers.is_news("a", start + QUIET));
    }

    #[test]
    fn a_peer_cannot_make_kinds_of_its_own() {
        let strangers = Strangers::default();
        let peer = PeerAddr::Unix;
        for number in 0..1_000 {
            for kind in [ErrorKind::SnappyChunkLength(number), ErrorKind::HelloCompression(number as u8)] {
                strangers.note_on_teleport(&peer, Some(&ConnectionError::nowhere(kind)), None);
            }
            let error = io::Error::other(format!("alert {number}"));
            strangers.note_on_https(&peer, &error);
        }
        assert_eq!(strangers.last.lock().unwrap().len(), 3);
    }
}
