//! A server and a client that know each other by certificates: `cargo run --example tls`.
//!
//! The certificates are made here, where yours come from files: `CertificateDer::pem_file_iter` and
//! `PrivateKeyDer::from_pem_file` read those.

#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a program owns its sockets, threads and time")]

use std::error::Error;
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::thread::{Client, Server};
use httpteleport::driver::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use httpteleport::driver::tls::rustls::server::WebPkiClientVerifier;
use httpteleport::driver::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use httpteleport::driver::tls::{TlsClient, TlsServer};
use httpteleport::driver::{ClientOptions, Peer, ServerOptions};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

/// An authority that both ends trust.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// A certificate for `name`, and its key.
    fn certify(
        &self,
        name: &str,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Box<dyn Error + Send + Sync>> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![name.to_owned()])?.signed_by(&key, &self.0)?;
        Ok((vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der())?))
    }

    fn roots(&self) -> Result<Arc<RootCertStore>, Box<dyn Error + Send + Sync>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone())?;
        Ok(roots.into())
    }
}

fn greet(request: Request<Bytes>, peer: Peer) -> Response<Bytes> {
    let certificates = peer.tls.map_or(0, |tls| tls.certificates.len());
    Response::new(format!("hello, {}: you showed {certificates} certificate\n", request.uri().path()).into())
}

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let authority = Authority::new()?;

    // The server: takes only clients that the authority knows, and none that does not ask for TLS.
    let (chain, key) = authority.certify("far.example")?;
    let clients = WebPkiClientVerifier::builder(authority.roots()?).build()?;
    let config = ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(chain, key)?;
    let server = Server::new(ServerOptions::default().tls(TlsServer::new(config)).require_tls(true));
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let addr = listener.local_addr()?;
    let serving = server.clone();
    let thread = std::thread::spawn(move || serving.serve(listener, greet));

    // The client: takes only the server of this name, whatever address it dials.
    let (chain, key) = authority.certify("near.example")?;
    let config =
        ClientConfig::builder().with_root_certificates(authority.roots()?).with_client_auth_cert(chain, key)?;
    let client = Client::new(addr, ClientOptions::default().tls(TlsClient::new(config, "far.example")?));
    let request = Request::get("http://far.example/world").body(Bytes::new())?;
    let response = client.request(request, Duration::from_secs(3))?;
    print!("{}", String::from_utf8_lossy(response.body()));

    let soon = Instant::now() + Duration::from_secs(3);
    client.close(soon);
    server.shutdown(soon);
    thread.join().map_err(|_| "the server has panicked")??;
    Ok(())
}
