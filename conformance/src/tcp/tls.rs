//! TLS over sockets: the suite's own end of it, and the certificates that are handed to what is tested.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use crate::scenario::Role;

/// The name that the certificate is for, beside 127.0.0.1.
pub const NAME: &str = "localhost";

/// A server of which only the address is known, and which has TLS for those who ask.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// A file with the certificates, in PEM, of which one has signed the server's.
    pub ca: PathBuf,
    /// The name that its certificate is for.
    pub name: String,
}

/// Both ends of TLS: the suite is the server of a client that is tested, and the client of a server.
#[derive(Clone, Debug)]
pub struct Tls {
    client: Arc<ClientConfig>,
    name: ServerName<'static>,
    /// What the suite shows as a server, and hands to what is tested: not if that has certificates of its own.
    own: Option<(Arc<ServerConfig>, Arc<Folder>)>,
}

/// Files that are there as long as the run.
#[derive(Debug)]
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Tls {
    /// With an authority that is made for this run, and one certificate for whoever is the server.
    ///
    /// # Errors
    ///
    /// The files cannot be written.
    pub fn new() -> Result<Self, String> {
        let text = |error: rcgen::Error| error.to_string();
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(rcgen::DnType::CommonName, "teleport-conformance");
        let authority_key = KeyPair::generate().map_err(text)?;
        let ca = authority.self_signed(&authority_key).map_err(text)?;
        let issuer = Issuer::new(authority, authority_key);
        let names = vec![NAME.to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).map_err(text)?;
        params.distinguished_name.push(rcgen::DnType::CommonName, NAME);
        let key = KeyPair::generate().map_err(text)?;
        let cert = params.signed_by(&key, &issuer).map_err(text)?;

        static COUNT: AtomicU64 = AtomicU64::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("teleport-conformance-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| format!("{}: {error}", path.display()))?;
        let folder = Folder(path);
        for (name, pem) in [(CA, ca.pem()), (CERT, cert.pem()), (KEY, key.serialize_pem())] {
            let path = folder.0.join(name);
            std::fs::write(&path, pem).map_err(|error| format!("{}: {error}", path.display()))?;
        }

        let key = PrivateKeyDer::try_from(key.serialize_der())?;
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(vec![cert.der().clone()], key))
            .map_err(|error| error.to_string())?;
        let (client, name) = client(vec![ca.der().clone()], NAME)?;
        Ok(Self { client, name, own: Some((Arc::new(server), Arc::new(folder))) })
    }

    /// For a server that has its own certificate.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or the name is none.
    pub fn of_server(server: &ServerTls) -> Result<Self, String> {
        let wrong = |error: rustls::pki_types::pem::Error| format!("{}: {error}", server.ca.display());
        let certificates = CertificateDer::pem_file_iter(&server.ca).map_err(wrong)?;
        let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(wrong)?;
        let (client, name) = client(certificates, &server.name)?;
        Ok(Self { client, name, own: None })
    }

    /// What is tested finds the files by these variables of its environment.
    pub fn environment(&self) -> Vec<(&'static str, PathBuf)> {
        let Some((_, folder)) = &self.own else { return Vec::new() };
        [("TELEPORT_TLS_CA", CA), ("TELEPORT_TLS_CERT", CERT), ("TELEPORT_TLS_KEY", KEY)]
            .map(|(variable, file)| (variable, folder.0.join(file)))
            .into()
    }

    /// The file with the authority's certificate.
    pub(super) fn ca(&self) -> Option<PathBuf> {
        self.own.as_ref().map(|(_, folder)| folder.0.join(CA))
    }
}

const CA: &str = "ca.pem";
const CERT: &str = "cert.pem";
const KEY: &str = "key.pem";

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn client(
    trusted: Vec<CertificateDer<'static>>,
    name: &str,
) -> Result<(Arc<ClientConfig>, ServerName<'static>), String> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate).map_err(|error| error.to_string())?;
    }
    let config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(|error| format!("{name:?}: {error}"))?;
    Ok((Arc::new(config), name))
}

/// TLS on one connection.
pub(super) struct Session(Connection);

impl Session {
    /// The suite's end, opposite to a subject of this role.
    pub(super) fn new(tls: &Tls, subject: Role) -> Result<Self, String> {
        let mut connection = match subject {
            Role::Server => ClientConnection::new(Arc::clone(&tls.client), tls.name.clone()).map(Connection::Client),
            Role::Client => {
                let (server, _) = tls.own.as_ref().ok_or("the suite has no certificate to show")?;
                ServerConnection::new(Arc::clone(server)).map(Connection::Server)
            }
        }
        .map_err(|error| error.to_string())?;
        connection.set_buffer_limit(None);
        Ok(Self(connection))
    }

    pub(super) fn is_handshaking(&self) -> bool {
        self.0.is_handshaking()
    }

    /// Takes in what came from the subject: what was in it, and whether the subject has ended its side.
    pub(super) fn receive(&mut self, mut bytes: &[u8]) -> Result<(Vec<u8>, bool), String> {
        let (mut plain, mut has_ended) = (Vec::new(), false);
        while !bytes.is_empty() && self.0.read_tls(&mut bytes).map_err(|error| error.to_string())? > 0 {
            let state = self.0.process_new_packets().map_err(|error| error.to_string())?;
            has_ended = state.peer_has_closed();
            let before = plain.len();
            plain.resize(before + state.plaintext_bytes_to_read(), 0);
            self.0.reader().read_exact(&mut plain[before..]).map_err(|error| error.to_string())?;
        }
        Ok((plain, has_ended))
    }

    pub(super) fn send(&mut self, plain: &[u8]) {
        // Its buffer has no limit, and a fault of the session shows when it is read.
        let _ = self.0.writer().write_all(plain);
    }

    /// Tells the subject that no more will come.
    pub(super) fn end(&mut self) {
        self.0.send_close_notify();
    }

    /// What is to go to the subject.
    pub(super) fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        while self.0.wants_write() && self.0.write_tls(&mut output).is_ok_and(|count| count > 0) {}
        output
    }
}

/// A path as one word of a shell command.
pub(super) fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
