//! TLS of the proxy: which certificate is shown and to whom, who is believed, sessions resumed elsewhere, HTTP/2.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::certs::{Authority, Dir, Pair, SelfSigned};
use common::{Caller, Message, Origin, Running, http_config};
use futures_rustls::TlsConnector;
use http::{Request, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use httpteleport::driver::tls::rustls::pki_types::pem::PemObject;
use httpteleport::driver::tls::rustls::pki_types::{CertificateDer, ServerName};
use httpteleport::driver::tls::rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, version,
};
use httpteleport::proxy::{Kind, OutboundTls, ProxyConfig};
use hyper::client::conn::http2::SendRequest;
use smol_hyper::rt::FuturesIo;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn https(origin: &Origin, authority: &Authority, pairs: &[Pair]) -> ProxyConfig {
    let mut config = http_config(origin.addr());
    config.inbound.kind = Kind::Https;
    config.inbound.tls = authority.inbound(pairs);
    config
}

fn client(authority: &Authority) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&authority.file).unwrap()).unwrap();
    ClientConfig::builder().with_root_certificates(roots).with_no_client_auth()
}

/// One exchange over HTTPS, by a client that is not of this project.
fn exchange(proxy: &Running, config: &Arc<ClientConfig>, name: &str) -> (ClientConnection, String) {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut stream = StreamOwned::new(connection, TcpStream::connect(proxy.addr()).unwrap());
    stream.write_all(GET.as_bytes()).unwrap();
    let mut answer = vec![0; 1024];
    let n = stream.read(&mut answer).unwrap();
    (stream.conn, String::from_utf8_lossy(&answer[..n]).into_owned())
}

fn shown(proxy: &Running, config: &Arc<ClientConfig>, name: &str) -> CertificateDer<'static> {
    let (connection, answer) = exchange(proxy, config, name);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    connection.peer_certificates().unwrap()[0].clone()
}

fn certificate(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(&pair.cert).unwrap()
}

#[test]
fn the_name_that_is_asked_for_picks_the_certificate() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let pairs = [&["127.0.0.1", "a.example"][..], &["b.example"], &["*.c.example", "b.example"]]
        .map(|names| authority.issue_as(&names[0].replace('*', "star"), names));
    let proxy = Running::start(https(&origin, &authority, &pairs));
    let config = Arc::new(client(&authority));
    for (name, pair) in [("a.example", 0), ("b.example", 1), ("x.c.example", 2), ("B.Example", 1), ("127.0.0.1", 0)] {
        assert_eq!(shown(&proxy, &config, name), certificate(&pairs[pair]), "{name}");
    }
}

#[test]
fn certificates_are_read_again_and_bad_ones_change_nothing() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let old = authority.issue(&["a.example"]);
    let first = certificate(&old);
    let proxy = Running::start(https(&origin, &authority, std::slice::from_ref(&old)));
    let config = Arc::new(client(&authority));
    // Sessions that are resumed show no certificate.
    let shown = || shown(&proxy, &Arc::new(ClientConfig::clone(&client(&authority))), "a.example");
    assert_eq!(shown(), first);

    let good_key = fs::read(&old.key).unwrap();
    fs::write(&old.key, "no key").unwrap();
    assert!(!proxy.reload());
    assert_eq!(shown(), first);
    fs::write(&old.key, fs::read(authority.issue(&["other.example"]).key).unwrap()).unwrap();
    assert!(!proxy.reload(), "the key of another");
    fs::write(&old.key, good_key).unwrap();
    fs::remove_file(&old.cert).unwrap();
    assert!(!proxy.reload());
    assert_eq!(shown(), first);

    let renewed = authority.issue(&["a.example"]);
    assert!(proxy.reload());
    assert_eq!(shown(), certificate(&renewed));
    assert_ne!(certificate(&renewed), first);
    drop(config);
}

#[test]
fn whom_to_believe_is_read_again_on_both_sides() {
    for kind in SECURE {
        let origin = Origin::answering(|_| OK.into());
        let (old, new) = (Authority::new(), Authority::new());
        let dir = Dir::new();
        let copy = |name: &str, from: &std::path::Path| dir.write(name, &fs::read_to_string(from).unwrap());
        let mut far = https(&origin, &old, &[old.issue(&["127.0.0.1"])]);
        far.inbound.kind = kind;
        far.inbound.tls.client_ca = Some(copy("callers.pem", old.path()));
        let far = Running::start(far);
        let mut near = http_config(far.addr());
        near.outbound.kind = kind;
        let own = old.issue(&["near.example"]);
        near.outbound.tls = OutboundTls {
            ca: Some(copy("servers.pem", old.path())),
            cert: Some(copy("near.pem", &own.cert)),
            key: Some(copy("near.key", &own.key)),
            ..OutboundTls::default()
        };
        // Each exchange has a connection of its own: links that are there stay as they were.
        let exchange = |near: &ProxyConfig| {
            let near = Running::start(near.clone());
            let status = Caller::of(&near).exchange(GET).status;
            (near, status)
        };
        let (first, status) = exchange(&near);
        assert_eq!(status, 200, "{kind}");

        // The far one asks for certificates by another authority.
        fs::write(dir.path("callers.pem"), "nothing").unwrap();
        assert!(!far.reload());
        assert_eq!(exchange(&near).1, 200, "{kind}: what was there stays");
        copy("callers.pem", new.path());
        assert!(far.reload());
        assert_eq!(exchange(&near).1, 502, "{kind}: nor is a session of before resumed");

        // The near one gets such a certificate, while it runs.
        let renewed = new.issue(&["near.example"]);
        let waiting = Running::start(near.clone());
        assert_eq!(Caller::of(&waiting).exchange(GET).status, 502);
        copy("near.pem", &renewed.cert);
        assert!(!waiting.reload(), "with the key of the old one");
        copy("near.key", &renewed.key);
        assert!(waiting.reload());
        assert_eq!(Caller::of(&waiting).exchange(GET).status, 200, "{kind}");

        // And it stops to believe the far one's.
        let waiting = Running::start(near.clone());
        copy("servers.pem", new.path());
        assert!(waiting.reload());
        assert_eq!(Caller::of(&waiting).exchange(GET).status, 502, "{kind}");
        drop(first);
    }
}

#[test]
fn secrets_of_tickets_are_read_again() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let pair = authority.issue(&["a.example"]);
    let dir = Dir::new();
    let start = |file: &str, secrets: &str| {
        let mut config = https(&origin, &authority, std::slice::from_ref(&pair));
        config.inbound.tls.ticket_secrets_file = Some(dir.write(file, secrets));
        Running::start(config)
    };
    let (first, second) = (start("1", "old\n"), start("2", "\nnew\n"));
    let handshake = |from: &Running, to: &Running| {
        let config = Arc::new(client(&authority));
        exchange(from, &config, "a.example");
        exchange(to, &config, "a.example").0.handshake_kind().unwrap()
    };
    assert_eq!(handshake(&first, &second), HandshakeKind::Full);
    dir.write("2", "new\nold\n");
    assert!(second.reload());
    assert_eq!(handshake(&first, &second), HandshakeKind::Resumed);
    dir.write("2", "\n");
    assert!(!second.reload());
    assert_eq!(handshake(&first, &second), HandshakeKind::Resumed, "the old ones stay");
    // Where nothing has changed, sessions live on.
    let config = Arc::new(client(&authority));
    exchange(&first, &config, "a.example");
    assert!(first.reload());
    assert_eq!(exchange(&first, &config, "a.example").0.handshake_kind(), Some(HandshakeKind::Resumed));
    let mut both = https(&origin, &authority, std::slice::from_ref(&pair));
    both.inbound.tls.ticket_secrets_file = Some(dir.path("1"));
    both.inbound.tls.ticket_secrets = vec!["x".into()];
    let Err(error) = Running::try_start(both) else { panic!("which one counts?") };
    assert!(error.to_string().contains("one of them"), "{error}");
}

/// A near proxy that sends `kind` to a far one, and the answer to a request.
fn near_and_far(kind: Kind, configure: impl FnOnce(&mut ProxyConfig, &mut ProxyConfig, &Authority)) -> Message {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let mut far = https(&origin, &authority, &[authority.issue(&["127.0.0.1"])]);
    far.inbound.kind = kind;
    let mut near = http_config(origin.addr());
    near.outbound.kind = kind;
    near.outbound.tls = authority.outbound();
    configure(&mut near, &mut far, &authority);
    let far = Running::start(far);
    near.outbound.addr = far.addr().to_string();
    Caller::of(&Running::start(near)).exchange(GET)
}

const SECURE: [Kind; 2] = [Kind::Https, Kind::Teleports];

#[test]
fn upstreams_are_verified() {
    for kind in SECURE {
        assert_eq!(near_and_far(kind, |_, _, _| {}).status, 200);
        let stranger = Authority::new();
        let answer = near_and_far(kind, |near, _, _| near.outbound.tls = stranger.outbound());
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("certificate") && answer.body.contains("--out-tls-ca"), "{}", answer.body);
        let answer = near_and_far(kind, |near, _, _| near.outbound.tls.server_name = Some("far.example".into()));
        assert_eq!(answer.status, 502, "a certificate for another name");
        assert!(answer.body.contains("--out-tls-server-name"), "{}", answer.body);
        let answer = near_and_far(kind, |near, far, authority| {
            far.inbound.tls = authority.inbound(&[authority.issue(&["far.example"])]);
            near.outbound.tls.server_name = Some("far.example".into());
        });
        assert_eq!(answer.status, 200);
        let answer = near_and_far(kind, |near, _, _| {
            near.outbound.tls = stranger.outbound();
            near.outbound.tls.insecure = true;
        });
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn a_certificate_that_signs_itself_is_believed_if_it_is_listed() {
    let dir = Dir::new();
    let exchange = |own: SelfSigned, listed: &SelfSigned, kind| {
        near_and_far(kind, |near, far, _| {
            let (cert, key) = (dir.write("own.pem", &own.cert), dir.write("own.key", &own.key));
            far.inbound.tls.certs = vec![cert];
            far.inbound.tls.keys = vec![key];
            near.outbound.tls.ca = Some(dir.write("listed.pem", &listed.cert));
        })
    };
    for kind in SECURE {
        for is_authority in [false, true] {
            let own = SelfSigned::new(&["127.0.0.1"], is_authority, false);
            assert_eq!(exchange(own.clone(), &own, kind).status, 200, "marked as an authority's: {is_authority}");
            let other = SelfSigned::new(&["127.0.0.1"], is_authority, false);
            assert_eq!(exchange(own, &other, kind).status, 502, "another is listed");
            let elsewhere = SelfSigned::new(&["far.example"], is_authority, false);
            assert_eq!(exchange(elsewhere.clone(), &elsewhere, kind).status, 502, "for another name");
            let expired = SelfSigned::new(&["127.0.0.1"], is_authority, true);
            assert_eq!(exchange(expired.clone(), &expired, kind).status, 502, "expired");
        }
    }
}

#[test]
fn clients_can_be_made_to_show_a_certificate() {
    for kind in SECURE {
        let asks = |far: &mut ProxyConfig, authority: &Authority| {
            far.inbound.tls.client_ca = Some(authority.file.clone());
        };
        let shows = |near: &mut ProxyConfig, pair: Pair| {
            near.outbound.tls.cert = Some(pair.cert);
            near.outbound.tls.key = Some(pair.key);
        };
        let answer = near_and_far(kind, |near, far, authority| {
            asks(far, authority);
            shows(near, authority.issue(&["near.example"]));
        });
        assert_eq!(answer.status, 200, "{kind}: {}", answer.body);
        assert_eq!(near_and_far(kind, |_, far, authority| asks(far, authority)).status, 502, "{kind}: none");
        let stranger = Authority::new();
        let answer = near_and_far(kind, |near, far, authority| {
            asks(far, authority);
            shows(near, stranger.issue(&["near.example"]));
        });
        assert_eq!(answer.status, 502, "{kind}: one by somebody else");
    }
}

#[test]
fn a_listener_of_teleports_turns_away_clients_in_clear() {
    let answer = near_and_far(Kind::Teleports, |near, _, _| {
        near.outbound.kind = Kind::Teleport;
        near.outbound.tls = OutboundTls::default();
    });
    assert_eq!(answer.status, 502);
    let answer = near_and_far(Kind::Teleports, |near, far, _| {
        near.outbound.kind = Kind::Teleports;
        far.inbound.kind = Kind::Teleport;
    });
    assert_eq!(answer.status, 502, "and a client of teleports never sends in clear");
}

#[test]
fn instances_with_one_ticket_key_resume_each_others_sessions() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let pair = authority.issue(&["a.example"]);
    let start = |secrets: &[&str]| {
        let mut config = https(&origin, &authority, std::slice::from_ref(&pair));
        config.inbound.tls.ticket_secrets = secrets.iter().map(|secret| (*secret).to_owned()).collect();
        Running::start(config)
    };
    let (first, second, rotated, stranger) = (start(&["k"]), start(&["k"]), start(&["new", "k"]), start(&["other"]));
    let random = [start(&[]), start(&[])];
    for version in [&version::TLS13, &version::TLS12] {
        let handshake = |from: &Running, to: &Running| {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(&authority.file).unwrap()).unwrap();
            let builder = ClientConfig::builder_with_protocol_versions(&[version]);
            let config = Arc::new(builder.with_root_certificates(roots).with_no_client_auth());
            let (connection, _) = exchange(from, &config, "a.example");
            assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
            exchange(to, &config, "a.example").0.handshake_kind().unwrap()
        };
        assert_eq!(handshake(&first, &second), HandshakeKind::Resumed, "{version:?}");
        assert_eq!(handshake(&second, &first), HandshakeKind::Resumed);
        assert_eq!(handshake(&first, &rotated), HandshakeKind::Resumed, "sealed with the secret before");
        assert_ne!(handshake(&rotated, &first), HandshakeKind::Resumed, "which does not know the new one yet");
        assert_ne!(handshake(&first, &stranger), HandshakeKind::Resumed);
        assert_eq!(handshake(&random[0], &random[0]), HandshakeKind::Resumed);
        assert_ne!(handshake(&random[0], &random[1]), HandshakeKind::Resumed);
    }
}

/// Spawns what hyper's client does beside the connection.
#[derive(Clone)]
struct Tasks(Arc<smol::Executor<'static>>);

impl<F: Future<Output: Send> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task).detach();
    }
}

/// A connection over HTTP/2: who sends requests by it, and what carries it.
async fn http2(
    proxy: &Running,
    authority: &Authority,
    executor: &Arc<smol::Executor<'static>>,
) -> (SendRequest<Full<Bytes>>, impl Future<Output = hyper::Result<()>> + Send + 'static) {
    let mut tls = client(authority);
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let socket = smol::net::TcpStream::connect(proxy.addr()).await.unwrap();
    let name = ServerName::try_from("a.example").unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, socket).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    hyper::client::conn::http2::handshake(Tasks(executor.clone()), FuturesIo::new(stream)).await.unwrap()
}

#[test]
fn http2_inside_tls() {
    let origin = Origin::answering(|request| {
        let cookie = request.field("cookie").unwrap_or_default();
        let text = format!("{} {:?} {cookie} {}", request.start_line, request.field("host"), request.body);
        format!("HTTP/1.1 201 Odd\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: {}\r\n\r\n{text}", text.len())
    });
    let authority = Authority::new();
    let mut config = https(&origin, &authority, &[authority.issue(&["a.example"])]);
    config.inbound.get_only = false;
    config.inbound.max_body_bytes = 1024 * 1024;
    let proxy = Running::start(config);
    let executor = Arc::new(smol::Executor::new());
    smol::block_on(executor.run(async {
        let (sender, connection) = http2(&proxy, &authority, &executor).await;
        let carried = executor.spawn(connection);
        let exchanges = (0..50).map(|i| {
            let mut sender = sender.clone();
            executor.spawn(async move {
                let body = format!("{i}").repeat(10_000);
                let request = Request::post(format!("https://a.example/{i}?q"))
                    .header("cookie", "a=1")
                    .header("cookie", "b=2")
                    .body(Full::new(Bytes::from(body.clone())))
                    .unwrap();
                let response = sender.send_request(request).await.unwrap();
                assert_eq!((response.status(), response.version()), (StatusCode::CREATED, Version::HTTP_2));
                assert!(!response.headers().contains_key("x-hop"));
                let answer = response.into_body().collect().await.unwrap().to_bytes();
                let wanted = format!("POST /{i}?q HTTP/1.1 Some(\"a.example\") a=1; b=2 {body}");
                assert!(answer == wanted.as_bytes(), "{i}: another answer");
            })
        });
        for exchange in exchanges.collect::<Vec<_>>() {
            exchange.await;
        }
        // One that is refused does no harm to the others.
        let mut sender = sender;
        let too_long = Full::new(Bytes::from(vec![0; 2 * 1024 * 1024]));
        let request = Request::post("https://a.example/").body(too_long).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::PAYLOAD_TOO_LARGE);
        let long = "x".repeat(100_000);
        let request = Request::get("https://a.example/").header("x-long", long).body(Full::default()).unwrap();
        let status = sender.send_request(request).await.unwrap().status();
        assert_eq!(status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        let request = Request::head("https://a.example/").body(Full::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::CREATED);
        drop((sender, carried));
    }));
    assert_eq!(proxy.stats().connections, 1);
    proxy.wait_for(|stats| stats.in_flight == 0);
}

#[test]
fn http2_connections_end_in_order_when_the_proxy_stops() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let proxy = Running::start(https(&origin, &authority, &[authority.issue(&["a.example"])]));
    let executor = Arc::new(smol::Executor::new());
    smol::block_on(executor.run(async {
        let (mut sender, connection) = http2(&proxy, &authority, &executor).await;
        let carried = executor.spawn(connection);
        let request = Request::get("https://a.example/").body(Full::<Bytes>::default()).unwrap();
        assert_eq!(sender.send_request(request).await.unwrap().status(), StatusCode::OK);
        smol::unblock(move || proxy.stop()).await;
        // GOAWAY, and then the end: no error.
        carried.await.unwrap();
    }));
}

#[test]
fn an_idle_http2_connection_is_told_before_it_is_closed() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let mut config = https(&origin, &authority, &[authority.issue(&["a.example"])]);
    config.inbound.idle_timeout = Duration::from_millis(300);
    let proxy = Running::start(config);
    let executor = Arc::new(smol::Executor::new());
    smol::block_on(executor.run(async {
        let (sender, connection) = http2(&proxy, &authority, &executor).await;
        // GOAWAY, and then the end: no error.
        connection.await.unwrap();
        assert!(sender.is_closed());
    }));
}

#[test]
fn who_gives_up_request_after_request_over_http2_gets_another_connection() {
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_millis(500));
        OK.into()
    });
    let authority = Authority::new();
    let proxy = Running::start(https(&origin, &authority, &[authority.issue(&["a.example"])]));
    let executor = Arc::new(smol::Executor::new());
    smol::block_on(executor.run(async {
        let (mut sender, connection) = http2(&proxy, &authority, &executor).await;
        let carried = executor.spawn(connection);
        for batch in 1..=10 {
            assert!(!sender.is_closed(), "{batch}");
            let request = || Request::get("https://a.example/").body(Full::default()).unwrap();
            let given_up: Vec<_> = (0..100).map(|_| sender.send_request(request())).collect();
            while proxy.stats().in_flight < 100 {
                smol::Timer::after(Duration::from_millis(1)).await;
            }
            drop(given_up);
            while proxy.stats().in_flight > 0 {
                smol::Timer::after(Duration::from_millis(1)).await;
            }
        }
        // GOAWAY, and then the end: no error.
        carried.await.unwrap();
    }));
}

#[test]
fn no_handshake_begins_when_memory_is_used_up() {
    let authority = Authority::new();
    let origin = Origin::answering(|_| OK.into());
    let mut config = https(&origin, &authority, &[authority.issue(&["a.example"])]);
    // As much as a connection counts for.
    config.memory_budget = Some(20 * 1024);
    let proxy = Running::start(config);
    let client = Arc::new(client(&authority));
    let name = ServerName::try_from("a.example").unwrap();
    let mut first =
        StreamOwned::new(ClientConnection::new(client, name).unwrap(), TcpStream::connect(proxy.addr()).unwrap());
    first.write_all(b"GET / HTTP/1.1\r\n").unwrap();
    proxy.wait_for(|stats| stats.memory_held >= 20 * 1024);
    let mut second = TcpStream::connect(proxy.addr()).unwrap();
    assert!(matches!(second.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(proxy.stats().shed_connections, 1);
    drop(first);
    proxy.wait_for(|stats| stats.memory_held == 0);
}

#[test]
fn what_is_wrong_with_the_files_is_said() {
    let origin = Origin::answering(|_| OK.into());
    let authority = Authority::new();
    let pair = authority.issue(&["a.example"]);
    let other = authority.issue(&["b.example"]);
    let error = |configure: &dyn Fn(&mut ProxyConfig)| {
        let mut config = https(&origin, &authority, std::slice::from_ref(&pair));
        configure(&mut config);
        match Running::try_start(config) {
            Ok(_) => panic!("it started"),
            Err(error) => error.to_string(),
        }
    };
    let nowhere = authority.dir.path("nowhere.pem");
    let missing = error(&|config| config.inbound.tls.keys[0] = nowhere.clone());
    assert!(missing.contains("nowhere.pem (--in-tls-key)") && missing.contains("No such file"), "{missing}");
    let missing = error(&|config| config.inbound.tls.certs[0] = nowhere.clone());
    assert!(missing.contains("nowhere.pem (--in-tls-cert)"), "{missing}");
    let mismatch = error(&|config| config.inbound.tls.keys[0] = other.key.clone());
    assert!(mismatch.contains("b.example.key is not the key of"), "{mismatch}");
    let swapped = error(&|config| config.inbound.tls.certs[0] = pair.key.clone());
    assert!(swapped.contains("no certificate in this file"), "{swapped}");
    let swapped = error(&|config| config.inbound.tls.keys[0] = pair.cert.clone());
    assert!(swapped.contains("no private key in this file"), "{swapped}");
    let uneven = error(&|config| config.inbound.tls.certs.push(other.cert.clone()));
    assert!(uneven.contains("--in-tls-cert lists 2 files and --in-tls-key 1 file"), "{uneven}");
    let half = error(&|config| {
        config.outbound.kind = Kind::Https;
        config.outbound.tls.cert = Some(pair.cert.clone());
    });
    assert!(half.contains("go together"), "{half}");
    let authority = error(&|config| config.inbound.tls.client_ca = Some(nowhere.clone()));
    assert!(authority.contains("nowhere.pem (--in-tls-client-ca)"), "{authority}");
}
