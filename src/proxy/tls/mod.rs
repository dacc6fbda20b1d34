//! TLS of both sides: certificates, whom to believe, and sessions that several instances resume.

mod client;
mod files;
mod server;
mod ticket;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use super::acme::Autocert;
pub(crate) use client::{ClientTls, problems as client_problems};
pub(crate) use files::validity_note;
pub(crate) use server::{ServerTls, is_for_host, problems as server_problems};

/// TLS of a listener.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct InboundTls {
    /// PEM files, each with a certificate and those between it and its authority. Without any, HTTPS has certificates
    /// made on demand, see [`autocert`](Self::autocert). The first that suits the name that a
    /// client asks for (SNI) is shown, the first of all if none does.
    pub certs: Vec<PathBuf>,
    /// PEM files with the private keys, in the same order.
    pub keys: Vec<PathBuf>,
    /// A PEM file with authorities: clients must show a certificate by one of them. Default: they need none.
    pub client_ca: Option<PathBuf>,
    /// Secrets of any length: instances that share the first one resume each other's sessions. Those after it only open
    /// what they have sealed before, so that the secret can change. Default: one of its own, made at random.
    pub ticket_secrets: Vec<String>,
    /// A file with such secrets in place of them, one a line. Default none.
    pub ticket_secrets_file: Option<PathBuf>,
    /// HTTPS: the authority that makes certificates, if none are given.
    pub autocert: Autocert,
}

impl InboundTls {
    /// Whether no certificate is given, nor the key of one.
    pub(crate) fn is_without_certificates(&self) -> bool {
        self.certs.is_empty() && self.keys.is_empty()
    }
}

impl fmt::Debug for InboundTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InboundTls")
            .field("certs", &self.certs)
            .field("keys", &self.keys)
            .field("client_ca", &self.client_ca)
            .field("ticket_secrets_file", &self.ticket_secrets_file)
            .field("autocert", &self.autocert)
            .finish_non_exhaustive()
    }
}

/// TLS to where requests go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboundTls {
    /// A PEM file with the authorities to believe, and no others. Default: those of the system.
    pub ca: Option<PathBuf>,
    /// The name that the certificate must be for, and that is asked for (SNI). Default: the host of the address.
    pub server_name: Option<String>,
    /// A PEM file with the certificate to show if asked for one, and those between it and its authority.
    pub cert: Option<PathBuf>,
    /// A PEM file with its private key.
    pub key: Option<PathBuf>,
    /// Believes whatever certificate is shown. Whoever is on the way can then read and change everything.
    pub insecure: bool,
}

/// The cryptography in use, whatever other crates of the process choose.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
