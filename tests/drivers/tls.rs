//! Links inside TLS.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use httpteleport::driver::tls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use httpteleport::driver::tls::rustls::server::WebPkiClientVerifier;
use httpteleport::driver::tls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use httpteleport::driver::tls::{TlsClient, TlsServer};
use httpteleport::driver::{ClientError, ClientOptions, ServerOptions};
use httpteleport::proto::Compression;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use crate::harness::*;

/// An authority and what it certifies.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn identity(&self, name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    pub fn server(&self) -> ServerOptions {
        let (chain, key) = self.identity("far.example");
        let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        ServerOptions::default().tls(TlsServer::new(config))
    }

    /// A server that wants to know its clients.
    fn strict_server(&self) -> ServerOptions {
        let (chain, key) = self.identity("far.example");
        let clients = WebPkiClientVerifier::builder(Arc::new(self.roots())).build().unwrap();
        let config = ServerConfig::builder().with_client_cert_verifier(clients).with_single_cert(chain, key).unwrap();
        ServerOptions::default().tls(TlsServer::new(config))
    }

    pub fn client(&self) -> ClientOptions {
        let config = ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth();
        ClientOptions::default().tls(TlsClient::new(config, "far.example").unwrap())
    }

    fn known_client(&self) -> ClientOptions {
        let (chain, key) = self.identity("near.example");
        let config = ClientConfig::builder().with_root_certificates(self.roots());
        let config = config.with_client_auth_cert(chain, key).unwrap();
        ClientOptions::default().tls(TlsClient::new(config, "far.example").unwrap())
    }
}

/// Whether what went over the wire holds any of the words of the requests.
fn shows(seen: &Mutex<Vec<u8>>, word: &str) -> bool {
    seen.lock().unwrap().windows(word.len()).any(|window| window == word.as_bytes())
}

/// Why links of a server ended.
fn ends_of(server: &impl Server) -> Arc<Mutex<Vec<String>>> {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = ends.clone();
    server.on_link_end(move |_, error, transport| {
        let error = error.map_or("in order".to_owned(), ToString::to_string);
        told.lock().unwrap().push(format!("{error}: {}", transport.map_or(String::new(), ToString::to_string)));
    });
    ends
}

both! {
    fn requests_and_answers_are_not_seen_on_the_wire<D>() {
        let authority = Authority::new();
        let (_server, to) = D::server(authority.server().compression(Compression::None), |request, _| echo(request));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let addr = relay(&to, move |_, _, piece| {
            sink.lock().unwrap().extend_from_slice(&piece);
            Some(piece)
        });
        let client = D::client(&addr, authority.client().compression(Compression::None));
        at_once(10, |_| {
            for _ in 0..10 {
                assert_eq!(client.request(post("a secret"), LONG).unwrap().body(), "a secret");
            }
        });
        assert!(shows(&seen, "httpteleport") && !shows(&seen, "secret") && !shows(&seen, "POST"));
    }

    fn one_caller_after_another<D>() {
        let authority = Authority::new();
        let (_server, addr) = D::server(authority.server(), |request, _| {
            let host = request.headers()["host"].as_bytes().to_vec();
            if request.method() == "GET" { http::Response::new(host.into()) } else { echo(request) }
        });
        let client = D::client(&addr, authority.client());
        for n in 0..100u32 {
            let body = vec![n as u8; n as usize];
            assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
            assert_eq!(client.request(get("/host"), LONG).unwrap().body(), "h.example");
        }
    }

    fn every_compression_and_many_callers<D>() {
        let authority = Authority::new();
        for compression in Compression::ALL {
            let (server, addr) = D::server(authority.server().compression(compression), |request, _| echo(request));
            let client = D::client(&addr, authority.client().compression(compression));
            at_once(200, |caller| {
                for n in 0..3 {
                    let body = vec![caller as u8; caller * n * 10];
                    assert_eq!(client.request(post(body.clone()), LONG).unwrap().body(), &body);
                }
            });
            server.shutdown(soon());
        }
    }

    fn a_client_that_ends_an_idle_link_ends_tls_in_order<D>() {
        let authority = Authority::new();
        let (server, addr) = D::server(authority.server(), |request, _| echo(request));
        let ends = ends_of(&server);
        let client = D::client(&addr, authority.client().idle_timeout(S));
        client.request(post("x"), LONG).unwrap();
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert_eq!(ends.lock().unwrap()[..], ["in order: "]);
    }

    fn large_bodies_both_ways<D>() {
        let authority = Authority::new();
        let (_server, addr) = D::server(authority.server(), |request, _| echo(request));
        let client = D::client(&addr, authority.client());
        let body: Vec<u8> = (0..4_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 17) as u8).collect();
        at_once(2, |_| assert!(client.request(post(body.clone()), LONG).unwrap().body() == &body));
    }

    fn plain_clients_are_served_too_unless_tls_is_required<D>() {
        let authority = Authority::new();
        let (_server, addr) = D::server(authority.server(), |request, peer| {
            assert!(peer.tls.is_none());
            echo(request)
        });
        D::client(&addr, ClientOptions::default()).request(post("x"), LONG).unwrap();

        let was_handled = Arc::new(AtomicBool::new(false));
        let handled = was_handled.clone();
        let (server, addr) = D::server(authority.server().require_tls(true), move |request, peer| {
            handled.store(peer.tls.is_none(), Ordering::SeqCst);
            echo(request)
        });
        let ends = ends_of(&server);
        let error = D::client(&addr, ClientOptions::default()).request(post("x"), LONG).unwrap_err();
        assert!(matches!(error, ClientError::Link { .. }), "{error:?}");
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert!(ends.lock().unwrap()[0].contains("TLS"), "{ends:?}");
        D::client(&addr, authority.client()).request(post("x"), LONG).unwrap();
        assert!(!was_handled.load(Ordering::SeqCst));
    }

    fn tls_that_is_required_and_not_there_is_refused<D>() {
        let server = D::new_server(ServerOptions::default().require_tls(true));
        let error = server.serve_error(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        assert!(error.to_string().contains("TLS is required and not set up"), "{error}");
    }

    fn a_client_that_wants_tls_never_goes_in_clear<D>() {
        let (_server, to) = D::server(ServerOptions::default(), |request, _| echo(request));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let addr = relay(&to, move |_, _, piece| {
            sink.lock().unwrap().extend_from_slice(&piece);
            Some(piece)
        });
        let options = Authority::new().client().compression(Compression::None);
        let client = D::client(&addr, options);
        at_once(10, |_| {
            let error = client.request(post("a secret"), S).unwrap_err();
            assert!(!error.maybe_delivered() && error.to_string().contains("TLS"), "{error}");
        });
        assert!(!shows(&seen, "secret") && !shows(&seen, "POST"));
    }

    fn a_server_of_another_authority_is_not_believed<D>() {
        let (server, addr) = D::server(Authority::new().server(), |request, _| echo(request));
        let ends = ends_of(&server);
        let client = D::client(&addr, Authority::new().client());
        let error = client.request(post("x"), LONG).unwrap_err();
        assert!(!error.maybe_delivered() && error.to_string().contains("certificate"), "{error}");
        // The server is told why: the alert leaves before the end.
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert!(ends.lock().unwrap()[0].contains("alert"), "{ends:?}");
    }

    fn clients_show_certificates_and_handlers_see_them<D>() {
        let authority = Authority::new();
        let (server, addr) = D::server(authority.strict_server(), |request, peer| {
            let tls = peer.tls.expect("TLS");
            assert_eq!((tls.certificates.len(), tls.server_name.as_deref()), (1, Some("far.example")));
            let name = b"near.example";
            assert!(tls.certificates[0].windows(name.len()).any(|window| window == name));
            echo(request)
        });
        let ends = ends_of(&server);
        let known = D::client(&addr, authority.known_client());
        assert_eq!(known.request(post("x"), LONG).unwrap().body(), "x");
        let error = D::client(&addr, authority.client()).request(post("x"), LONG).unwrap_err();
        assert!(matches!(error, ClientError::Link { .. }), "{error:?}");
        eventually("the end of its link", || !ends.lock().unwrap().is_empty());
        assert_eq!(known.request(post("y"), LONG).unwrap().body(), "y", "the server goes on");
    }

    fn sessions_are_resumed_and_still_know_the_client<D>() {
        let authority = Authority::new();
        let resumed = Arc::new(Mutex::new(Vec::new()));
        let seen = resumed.clone();
        let (_server, to) = D::server(authority.strict_server(), move |request, peer| {
            let tls = peer.tls.expect("TLS");
            seen.lock().unwrap().push((tls.is_resumed, tls.certificates.len()));
            echo(request)
        });
        // Each client has a link of its own, and the sessions belong to the options.
        let options = authority.known_client();
        for _ in 0..2 {
            let client = D::client(&to, options.clone());
            client.request(post("x"), LONG).unwrap();
            client.close(soon());
        }
        assert_eq!(*resumed.lock().unwrap(), [(false, 1), (true, 1)]);
        resumed.lock().unwrap().clear();

        // One client, whose first link breaks.
        let cuts = Arc::new(AtomicBool::new(false));
        let cut = cuts.clone();
        let addr = relay(&to, move |_, up, piece| (!up || !cut.swap(false, Ordering::SeqCst)).then_some(piece));
        let client = D::client(&addr, authority.known_client());
        client.request(post("x"), LONG).unwrap();
        cuts.store(true, Ordering::SeqCst);
        client.request(post("y"), LONG).unwrap_err();
        client.request(post("z"), LONG).unwrap();
        assert_eq!(*resumed.lock().unwrap(), [(false, 1), (true, 1)]);
    }

    fn an_end_without_the_end_of_tls_is_a_failure<D>() {
        let authority = Authority::new();
        let (server, to) = D::server(authority.server(), |request, _| echo(request));
        let ends = ends_of(&server);
        // In order first.
        let client = D::client(&to, authority.client());
        client.request(post("x"), LONG).unwrap();
        client.close(soon());
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert_eq!(ends.lock().unwrap().remove(0), "in order: ");

        // Now TCP ends, and not TLS: the relay swallows what comes up after the request.
        let ups = Arc::new(AtomicUsize::new(0));
        let count = ups.clone();
        let addr = relay(&to, move |_, up, piece| {
            let number = if up { count.fetch_add(1, Ordering::SeqCst) } else { 0 };
            (piece.len() != 24 || number == 0).then_some(piece)
        });
        let client = D::client(&addr, authority.client());
        client.request(post("x"), LONG).unwrap();
        client.close(soon());
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        let end = ends.lock().unwrap().remove(0);
        assert!(end.contains("without ending TLS") || end.contains("transport failed"), "{end}");
    }

    fn what_is_slipped_in_before_tls_is_not_believed<D>() {
        let authority = Authority::new();
        let handled = Arc::new(AtomicUsize::new(0));
        let count = handled.clone();
        let (server, to) = D::server(authority.server().compression(Compression::None), move |request, _| {
            count.fetch_add(1, Ordering::SeqCst);
            echo(request)
        });
        let ends = ends_of(&server);
        for slip_up in [true, false] {
            // Behind the hello, in the same segment: a request to the server, or an answer to the client.
            let addr = relay(&to, move |_, up, mut piece| {
                if piece.starts_with(b"httpteleport") && up == slip_up {
                    let slipped: &[u8] = if up {
                        b"\x01\0\0\0GET /slipped HTTP/1.1\r\n\r\n"
                    } else {
                        b"\x01\0\0\0HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nslipped"
                    };
                    piece.extend_from_slice(slipped);
                }
                Some(piece)
            });
            let client = D::client(&addr, authority.client().compression(Compression::None));
            let error = client.request(post("x"), LONG).unwrap_err();
            assert!(matches!(error, ClientError::Link { maybe_delivered: false, .. }), "{error:?}");
            eventually("the end of the link", || !ends.lock().unwrap().is_empty());
            ends.lock().unwrap().clear();
        }
        assert_eq!(handled.load(Ordering::SeqCst), 0);
    }

    fn a_handshake_that_stalls_ends<D>() {
        let authority = Authority::new();
        let (server, to) = D::server(authority.server().hello_timeout(300 * MS), |request, _| echo(request));
        let ends = ends_of(&server);
        // Hellos pass, and nothing else does.
        let addr = relay(&to, |_, _, piece| Some(if piece.len() == 15 { piece } else { Vec::new() }));
        let client = D::client(&addr, authority.client());
        let error = client.request(post("x"), LONG).unwrap_err();
        assert!(!error.maybe_delivered(), "{error}");
        eventually("the end of the link", || !ends.lock().unwrap().is_empty());
        assert!(ends.lock().unwrap()[0].contains("hello"), "{ends:?}");
        // Nobody else minds.
        D::client(&to, authority.client()).request(post("x"), LONG).unwrap();
    }
}
