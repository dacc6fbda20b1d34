//! TLS to where requests go.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use super::{OutboundTls, files, provider};

/// TLS to where requests go, the same for all addresses. Its files can be read again.
#[derive(Clone, Debug)]
pub(crate) struct ClientTls {
    /// Stands for the host of the address.
    pub(crate) server_name: Option<String>,
    files: Arc<OutboundTls>,
    protocols: Arc<[Vec<u8>]>,
    current: Arc<RwLock<Arc<ClientConfig>>>,
}

impl ClientTls {
    /// Reads all files. `protocols` is what can be spoken inside (ALPN).
    pub(crate) fn load(files: &OutboundTls, protocols: &[&[u8]]) -> Result<Self, String> {
        check_name(files)?;
        let protocols: Arc<[Vec<u8>]> = protocols.iter().map(|name| name.to_vec()).collect();
        let current = Arc::new(RwLock::new(build(files, &protocols)?));
        Ok(Self { server_name: files.server_name.clone(), files: Arc::new(files.clone()), protocols, current })
    }

    /// What counts for a new connection.
    pub(crate) fn config(&self) -> Arc<ClientConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether there are files to read again.
    pub(crate) fn has_files(&self) -> bool {
        self.files.ca.is_some() || self.files.cert.is_some()
    }

    /// Reads all files again, for connections to come. If anything is wrong with them, what was there stays.
    pub(crate) fn reload(&self) -> Result<(), String> {
        // Sessions go, too: a server that is resumed is not asked for its certificate again.
        let fresh = build(&self.files, &self.protocols)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = fresh;
        Ok(())
    }
}

/// All that is wrong with the files, and what goes with them.
pub(crate) fn problems(files: &OutboundTls) -> Vec<String> {
    let verifier = if files.insecure { None } else { Verifier::new(files).err() };
    let own = own_certificate(files).err().unwrap_or_default();
    check_name(files).err().into_iter().chain(verifier).chain(own).collect()
}

fn check_name(files: &OutboundTls) -> Result<(), String> {
    let Some(name) = &files.server_name else { return Ok(()) };
    let checked = ServerName::try_from(name.as_str());
    checked.map(drop).map_err(|_| format!("--out-tls-server-name {name:?} is neither a name nor an IP address"))
}

/// What is shown to a peer that asks for a certificate, if anything is.
fn own_certificate(files: &OutboundTls) -> Result<Option<CertifiedKey>, Vec<String>> {
    let (cert_flag, key_flag) = ("--out-tls-cert", "--out-tls-key");
    let missing = match (&files.cert, &files.key) {
        (None, None) => return Ok(None),
        (Some(cert), Some(key)) => return files::certified_key((cert, cert_flag), (key, key_flag)).map(Some),
        (Some(_), None) => key_flag,
        (None, Some(_)) => cert_flag,
    };
    let alone = format!("{cert_flag} and {key_flag} go together: {missing} is missing; give both, or neither");
    let unreadable = files::unreadable_files((&files.cert, cert_flag), (&files.key, key_flag));
    Err([vec![alone], unreadable].concat())
}

fn build(files: &OutboundTls, protocols: &[Vec<u8>]) -> Result<Arc<ClientConfig>, String> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = if files.insecure {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Credulous(provider())))
    } else {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(files)?))
    };
    let mut config = match own_certificate(files).map_err(|wrong| wrong.join("; "))? {
        None => builder.with_no_client_auth(),
        Some(key) => builder.with_client_cert_resolver(Arc::new(Own(Arc::new(key)))),
    };
    config.alpn_protocols = protocols.to_vec();
    config.resumption = Resumption::in_memory_sessions(1024);
    Ok(Arc::new(config))
}

/// Believes certificates by authorities; and those that are listed beside the authorities themselves.
///
/// A server's certificate that signs itself is often marked as an authority's, which it is listed as here. No other
/// verifier minds, only that of rustls: an authority's certificate is no server's. This one lets it pass if it is listed,
/// to the byte.
#[derive(Debug)]
struct Verifier {
    by_authority: Arc<WebPkiServerVerifier>,
    listed: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(files: &OutboundTls) -> Result<Self, String> {
        let (roots, listed) = match &files.ca {
            Some(path) => {
                let flag = "--out-tls-ca";
                (files::authorities(path, flag)?, files::certificates(path, flag)?)
            }
            None => system_authorities()?,
        };
        let by_authority = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
        Ok(Self { by_authority: by_authority.map_err(|error| error.to_string())?, listed })
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let result = self.by_authority.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match result {
            // Its validity was looked at before that.
            Err(error) if is_ca_as_end_entity(&error) && self.listed.contains(end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.by_authority.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

fn is_ca_as_end_entity(error: &rustls::Error) -> bool {
    let rustls::Error::InvalidCertificate(CertificateError::Other(why)) = error else { return false };
    matches!(why.0.downcast_ref(), Some(webpki::Error::CaUsedAsEndEntity))
}

/// The authorities that the system believes, and the certificates that it lists.
fn system_authorities() -> Result<(Arc<RootCertStore>, Vec<CertificateDer<'static>>), String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs.iter().cloned());
    if usable > 0 {
        return Ok((Arc::new(roots), found.certs));
    }
    let why = found.errors.first().map(|error| format!(" ({error})")).unwrap_or_default();
    Err(format!(
        "the system knows no certificate authorities{why}: install its package of them (ca-certificates), or name a PEM file with --out-tls-ca"
    ))
}

/// The one certificate that there is to show.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesClientCert for Own {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.key.choose_scheme(schemes).map(|_| self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Believes every certificate.
struct Credulous(Arc<CryptoProvider>);

impl fmt::Debug for Credulous {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credulous")
    }
}

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
