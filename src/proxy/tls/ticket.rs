//! Session tickets that every instance with the same secret can open.
//!
//! Each span of six hours has a key of its own, derived from the secret. An instance seals with the key of the present
//! span and opens with those of the spans in which a ticket that is still good can have been sealed, also by a clock
//! that is ahead or behind. The secret itself changes by being listed first: those after it only open.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::digest::{SHA256, digest};
use ring::hkdf::{HKDF_SHA256, Prk, Salt};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::server::ProducesTickets;

/// How long one key seals.
const SPAN_SECONDS: u64 = 6 * 60 * 60;
/// For how many spans after its own a ticket is opened.
const SPANS: u64 = 2;
/// What sets these keys apart from others that somebody could derive from the same secret.
const PURPOSE: &[u8] = b"httptp TLS session ticket 1";

/// Seals and opens tickets.
pub(super) struct SharedTickets {
    /// At least one, the one that seals first.
    secrets: Vec<Prk>,
    clock: fn() -> u64,
    random: SystemRandom,
}

impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedTickets")
    }
}

impl SharedTickets {
    /// `context` is what instances must have in common, besides the secret, to believe each other's tickets: a session
    /// that is resumed is not asked for its certificate again.
    pub(super) fn new(secrets: &[String], context: &[u8]) -> Self {
        let salt = Salt::new(HKDF_SHA256, digest(&SHA256, context).as_ref());
        // Of any length, as the original takes it.
        let extract = |secret: &String| salt.extract(digest(&SHA256, secret.as_bytes()).as_ref());
        Self { secrets: secrets.iter().map(extract).collect(), clock: seconds, random: SystemRandom::new() }
    }

    fn span(&self) -> u64 {
        (self.clock)() / SPAN_SECONDS
    }
}

fn seconds() -> u64 {
    // Before 1970 there were no tickets.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

fn key(secret: &Prk, span: u64) -> Option<LessSafeKey> {
    let span = span.to_be_bytes();
    let info = [PURPOSE, &span];
    let key = secret.expand(&info, &AES_256_GCM).ok()?;
    Some(LessSafeKey::new(UnboundKey::from(key)))
}

/// `span, 8 bytes | nonce | sealed | tag`. The span is authenticated by the key that it leads to.
impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        // So that a ticket sealed at the end of its span can be opened as long as one sealed at its beginning.
        (SPAN_SECONDS * SPANS) as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let span = self.span();
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let mut sealed = plain.to_vec();
        key(self.secrets.first()?, span)?
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::empty(), &mut sealed)
            .ok()?;
        Some([&span.to_be_bytes()[..], &nonce, &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (span, rest) = ticket.split_first_chunk()?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_LEN>()?;
        let (span, now) = (u64::from_be_bytes(*span), self.span());
        if span > now + 1 || now > span.checked_add(SPANS)? {
            return None;
        }
        self.secrets.iter().find_map(|secret| {
            let mut plain = sealed.to_vec();
            let nonce = Nonce::assume_unique_for_key(*nonce);
            let opened = key(secret, span)?.open_in_place(nonce, Aad::empty(), &mut plain).ok()?.len();
            plain.truncate(opened);
            Some(plain)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(clock: fn() -> u64, secrets: &[&str]) -> SharedTickets {
        let secrets: Vec<String> = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        SharedTickets { clock, ..SharedTickets::new(&secrets, b"") }
    }

    const NOON: u64 = 1_000 * SPAN_SECONDS;

    #[test]
    fn who_has_the_secret_opens() {
        let ticket = at(|| NOON, &["a"]).encrypt(b"session").unwrap();
        assert_eq!(at(|| NOON, &["a"]).decrypt(&ticket).unwrap(), b"session");
        assert_eq!(at(|| NOON, &["b"]).decrypt(&ticket), None);
        assert_eq!(SharedTickets::new(&["a".into()], b"another authority").decrypt(&ticket), None);
        for at_byte in 0..ticket.len() {
            let mut forged = ticket.clone();
            forged[at_byte] ^= 1;
            assert_eq!(at(|| NOON, &["a"]).decrypt(&forged), None, "{at_byte}");
        }
        assert_eq!(at(|| NOON, &["a"]).decrypt(&ticket[..19]), None);
        assert_eq!(at(|| NOON, &["a"]).decrypt(&[]), None);
    }

    #[test]
    fn a_secret_can_change() {
        let old = at(|| NOON, &["old"]).encrypt(b"session").unwrap();
        assert!(at(|| NOON, &["new", "old"]).decrypt(&old).is_some());
        let new = at(|| NOON, &["new", "old"]).encrypt(b"session").unwrap();
        assert!(at(|| NOON, &["old"]).decrypt(&new).is_none(), "the first one seals");
        assert!(at(|| NOON, &["old", "new"]).decrypt(&new).is_some(), "and an instance that has both opens");
    }

    #[test]
    fn tickets_grow_old() {
        let ticket = at(|| NOON, &["a"]).encrypt(b"session").unwrap();
        assert!(at(|| NOON + 3 * SPAN_SECONDS - 1, &["a"]).decrypt(&ticket).is_some());
        assert!(at(|| NOON + 3 * SPAN_SECONDS, &["a"]).decrypt(&ticket).is_none());
        assert!(at(|| NOON - 1, &["a"]).decrypt(&ticket).is_some(), "a clock that is behind");
        assert!(at(|| NOON - SPAN_SECONDS - 1, &["a"]).decrypt(&ticket).is_none());
    }
}
