//! TLS of a listener.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, SignatureScheme};

use super::super::acme::Acme;
use super::ticket::SharedTickets;
use super::{InboundTls, files, provider};

/// TLS of a listener. Its files can be read again.
#[derive(Clone, Debug)]
pub(crate) struct ServerTls {
    files: Arc<InboundTls>,
    protocols: Arc<[Vec<u8>]>,
    current: Arc<RwLock<Built>>,
    /// Makes certificates on demand, if none are given.
    pub(crate) acme: Option<Arc<Acme>>,
}

/// What was made of the files.
#[derive(Clone, Debug)]
struct Built {
    config: Arc<ServerConfig>,
    basis: Basis,
}

/// What sessions that are resumed rest on: the secrets that seal tickets, and who checked the client's certificate.
#[derive(Clone, Default, PartialEq, Eq)]
struct Basis {
    secrets: Vec<String>,
    checked_by: Vec<u8>,
}

impl fmt::Debug for Basis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Basis")
    }
}

impl ServerTls {
    /// Reads all files. Without any for certificates, `acme` makes them. `protocols` is what can be spoken inside (ALPN),
    /// the preferred one first.
    pub(crate) fn load(files: &InboundTls, acme: Option<Acme>, protocols: &[&[u8]]) -> Result<Self, String> {
        let acme = acme.map(Arc::new);
        let protocols: Arc<[Vec<u8>]> = protocols.iter().map(|name| name.to_vec()).collect();
        let current = Arc::new(RwLock::new(build(files, acme.as_ref(), &protocols, None)?));
        Ok(Self { files: Arc::new(files.clone()), protocols, current, acme })
    }

    /// What counts for a new connection.
    pub(crate) fn config(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).config.clone()
    }

    /// Whether there are files to read again.
    pub(crate) fn has_files(&self) -> bool {
        let InboundTls { certs, client_ca, ticket_secrets_file, .. } = &*self.files;
        !certs.is_empty() || client_ca.is_some() || ticket_secrets_file.is_some()
    }

    /// Reads all files again, for connections to come. If anything is wrong with them, what was there stays.
    pub(crate) fn reload(&self) -> Result<(), String> {
        let before = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let fresh = build(&self.files, self.acme.as_ref(), &self.protocols, Some(&before))?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

fn build(
    files: &InboundTls,
    acme: Option<&Arc<Acme>>,
    protocols: &[Vec<u8>],
    before: Option<&Built>,
) -> Result<Built, String> {
    let resolver: Arc<dyn ResolvesServerCert> = match acme {
        Some(acme) => acme.clone(),
        None => Arc::new(Certificates(read(files).map_err(|wrong| wrong.join("; "))?)),
    };
    let builder = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let mut basis = Basis { secrets: secrets(files)?, checked_by: Vec::new() };
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            basis.checked_by =
                files::certificates(path, "--in-tls-client-ca")?.iter().flat_map(|der| der.to_vec()).collect();
            builder.with_client_cert_verifier(verifier(path)?)
        }
    };
    let mut config = builder.with_cert_resolver(resolver);
    match before.filter(|before| before.basis == basis) {
        // New certificates are no reason to shake hands anew.
        Some(Built { config: before, .. }) => {
            config.ticketer = before.ticketer.clone();
            config.session_storage = before.session_storage.clone();
        }
        None if basis.secrets.is_empty() => {
            config.ticketer = Ticketer::new().map_err(|error| format!("no key for session tickets: {error}"))?;
        }
        None => config.ticketer = Arc::new(SharedTickets::new(&basis.secrets, &basis.checked_by)),
    }
    config.alpn_protocols = protocols.to_vec();
    Ok(Built { config: Arc::new(config), basis })
}

/// The secrets that seal tickets; none if one is to be made at random.
fn secrets(files: &InboundTls) -> Result<Vec<String>, String> {
    match &files.ticket_secrets_file {
        None => Ok(files.ticket_secrets.clone()),
        Some(_) if !files.ticket_secrets.is_empty() => {
            Err("--in-tls-session-ticket-key and --in-tls-session-ticket-key-file say the same: give one of them"
                .to_owned())
        }
        Some(path) => files::secrets(path, "--in-tls-session-ticket-key-file"),
    }
}

const NO_CERTIFICATE: &str = "TLS needs a certificate: give --in-tls-cert and --in-tls-key";

/// The certificates, the default first.
type Chain = Arc<[Arc<CertifiedKey>]>;

/// All that is wrong with the files, of those with certificates unless they are made on demand.
pub(crate) fn problems(files: &InboundTls, is_on_demand: bool) -> Vec<String> {
    let certificates = if is_on_demand { Vec::new() } else { read(files).err().unwrap_or_default() };
    let authorities = files.client_ca.iter().filter_map(|path| verifier(path).err());
    certificates.into_iter().chain(authorities).chain(secrets(files).err()).collect()
}

/// Each certificate with its key, or all that is wrong with them.
fn read(files: &InboundTls) -> Result<Chain, Vec<String>> {
    let InboundTls { certs, keys, .. } = files;
    let (cert_flag, key_flag) = ("--in-tls-cert", "--in-tls-key");
    if certs.len() != keys.len() {
        let unequal = format!(
            "{cert_flag} lists {} and {key_flag} {}: each certificate needs its key, both lists in the same order",
            count(certs.len(), "file"),
            count(keys.len(), "file")
        );
        let unreadable = files::unreadable_files((certs, cert_flag), (keys, key_flag));
        return Err([vec![unequal], unreadable].concat());
    }
    if certs.is_empty() {
        return Err(vec![NO_CERTIFICATE.to_owned()]);
    }
    let pairs = certs.iter().zip(keys);
    let (mut chain, mut wrong) = (Vec::new(), Vec::new());
    for read in pairs.map(|(cert, key)| files::certified_key((cert, cert_flag), (key, key_flag))) {
        match read {
            Ok(key) => chain.push(Arc::new(key)),
            Err(problems) => wrong.extend(problems),
        }
    }
    if wrong.is_empty() { Ok(chain.into()) } else { Err(wrong) }
}

/// Checks clients' certificates by the authorities of this file.
fn verifier(path: &Path) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let roots = files::authorities(path, "--in-tls-client-ca")?;
    WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| format!("--in-tls-client-ca {}: {error}", path.display()))
}

fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

/// Chooses a certificate by the name that the client asks for.
struct Certificates(Chain);

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

impl Certificates {
    /// The first that is for this name, of those with a key that the client can check; else the first of those.
    fn choose(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let usable = || self.0.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
        let name = name.and_then(|name| ServerName::try_from(name).ok());
        let named = name.and_then(|name| usable().find(|key| is_for(key, &name)));
        named.or_else(|| usable().next()).cloned()
    }
}

/// Whether a certificate is for the host of this name.
pub(crate) fn is_for_host(key: &CertifiedKey, name: &str) -> bool {
    ServerName::try_from(name).is_ok_and(|name| is_for(key, &name))
}

fn is_for(key: &CertifiedKey, name: &ServerName<'_>) -> bool {
    let parsed = key.cert.first().and_then(|certificate| ParsedCertificate::try_from(certificate).ok());
    parsed.is_some_and(|parsed| verify_server_name(&parsed, name).is_ok())
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name(), hello.signature_schemes())
    }
}
