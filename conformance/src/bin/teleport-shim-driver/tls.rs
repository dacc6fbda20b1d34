//! TLS with the certificates that the suite hands out (SHIM.md).

use std::path::PathBuf;
use std::sync::Arc;

use httpteleport::driver::tls::{TlsClient, TlsServer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name in the suite's certificate.
const NAME: &str = "localhost";

/// Whether there are certificates.
pub(crate) fn is_there() -> bool {
    ["CA", "CERT", "KEY"].into_iter().all(|name| path(name).is_ok())
}

fn path(name: &str) -> Result<PathBuf, String> {
    let variable = format!("TELEPORT_TLS_{name}");
    std::env::var_os(&variable).map(PathBuf::from).ok_or_else(|| format!("{variable} is not set"))
}

fn certificates(name: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates = CertificateDer::pem_file_iter(path(name)?).map_err(|error| error.to_string())?;
    certificates.collect::<Result<_, _>>().map_err(|error| error.to_string())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn client() -> Result<TlsClient, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("CA")? {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let config = builder.map_err(|error| error.to_string())?.with_root_certificates(roots).with_no_client_auth();
    TlsClient::new(config, NAME).map_err(|error| error.to_string())
}

pub(crate) fn server() -> Result<TlsServer, String> {
    let key = PrivateKeyDer::from_pem_file(path("KEY")?).map_err(|error| error.to_string())?;
    let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| error.to_string())?.with_no_client_auth();
    let config = builder.with_single_cert(certificates("CERT")?, key).map_err(|error| error.to_string())?;
    Ok(TlsServer::new(config))
}
