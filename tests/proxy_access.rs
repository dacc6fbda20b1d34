//! Who may connect, and what upstream is told about who did.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::thread;

use common::certs::{Authority, Dir};
use common::{Caller, Message, Origin, Running, http_config};
use http::HeaderName;
use httpteleport::proxy::{Forwarded, ForwardedProto, Kind, ProxyConfig};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

const TCP: [Kind; 4] = [Kind::Http, Kind::Https, Kind::Teleport, Kind::Teleports];

/// A proxy that hears `kind`, and one that brings it the requests of plain callers.
struct Door {
    behind: Running,
    before: Running,
    _dir: Dir,
}

impl Door {
    fn of(kind: Kind, origin: &Origin, configure: impl FnOnce(&mut ProxyConfig)) -> Self {
        Self::behind(kind, origin, configure, |addr| addr)
    }

    /// With something in between, which is told where to go and says where it is.
    fn behind(
        kind: Kind,
        origin: &Origin,
        configure: impl FnOnce(&mut ProxyConfig),
        between: impl FnOnce(SocketAddr) -> SocketAddr,
    ) -> Self {
        let authority = Authority::new();
        let dir = Dir::new();
        let mut config = http_config(origin.addr());
        config.inbound.kind = kind;
        if kind.is_unix() {
            config.inbound.addr = dir.path("in.sock").display().to_string();
        }
        config.inbound.tls = authority.inbound(&[authority.issue(&["127.0.0.1"])]);
        configure(&mut config);
        let behind = Running::start(config);
        let mut config = http_config(origin.addr());
        config.outbound.kind = kind;
        config.outbound.addr = match behind.listen_addr().tcp() {
            Some(addr) => between(addr).to_string(),
            None => dir.path("in.sock").display().to_string(),
        };
        if kind.is_tls() {
            config.outbound.tls = authority.outbound();
        }
        Self { behind, before: Running::start(config), _dir: dir }
    }

    fn exchange(&self, request: &str) -> Message {
        Caller::of(&self.before).exchange(request)
    }
}

#[test]
fn networks_that_are_not_allowed_are_turned_away_at_every_kind_of_listener() {
    let origin = Origin::answering(|_| OK.into());
    for kind in TCP {
        let door = Door::of(kind, &origin, |config| config.inbound.allow_ip = vec!["127.0.0.0/8".parse().unwrap()]);
        assert_eq!(door.exchange(GET).status, 200, "{kind}");
        let foreign = ["10.0.0.0/8", "2001:db8::/32"].map(|network| network.parse().unwrap());
        let door = Door::of(kind, &origin, |config| config.inbound.allow_ip = foreign.to_vec());
        assert_eq!(door.exchange(GET).status, 502, "{kind}");
        assert!(door.behind.stats().forbidden_connections >= 1);
        assert_eq!((door.behind.stats().connections, door.behind.stats().requests), (0, 0), "nothing was read");
    }
    let mut config = http_config(origin.addr());
    config.inbound.kind = Kind::Unix;
    config.inbound.addr = Dir::new().path("in.sock").display().to_string();
    config.inbound.allow_ip = vec!["127.0.0.1/32".parse().unwrap()];
    let Err(error) = Running::try_start(config) else { panic!("nobody could come in") };
    assert!(error.to_string().contains("permissions"), "{error}");
}

#[test]
fn connections_beyond_the_limit_are_closed_and_places_come_back() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.max_conns = 2;
    let proxy = Running::start(config);
    let mut first = Caller::of(&proxy);
    let mut second = Caller::of(&proxy);
    for caller in [&mut first, &mut second] {
        assert_eq!(caller.exchange(GET).status, 200);
    }
    assert!(Caller::of(&proxy).is_closed());
    assert_eq!(proxy.stats().excess_connections, 1);
    drop(first);
    // The place comes back when the proxy has seen that the caller went.
    while proxy.stats().connections < 3 {
        let mut third = Caller::of(&proxy);
        third.half_close();
        assert!(third.is_closed());
    }
    assert_eq!(second.exchange(GET).status, 200);
}

#[test]
fn links_are_counted_as_connections_too() {
    let origin = Origin::answering(|_| OK.into());
    for kind in [Kind::Teleport, Kind::Teleports] {
        let door = Door::of(kind, &origin, |config| config.inbound.max_conns = 1);
        assert_eq!(door.exchange(GET).status, 200, "{kind}");
        let mut one_more = Caller::of(&door.behind);
        assert!(one_more.is_closed());
        assert_eq!(door.behind.stats().excess_connections, 1);
        assert_eq!(door.exchange(GET).status, 200, "{kind}");
    }
}

#[test]
fn only_get_and_head_where_only_those_are_wanted_at_every_kind_of_listener() {
    let origin = Origin::answering(|_| OK.into());
    for kind in Kind::ALL {
        let door = Door::of(kind, &origin, |config| config.inbound.get_only = true);
        assert_eq!(door.exchange(GET).status, 200, "{kind}");
        let answer = door.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!((answer.status, answer.field("allow").as_deref()), (405, Some("GET, HEAD")), "{kind}");
    }
}

/// The header that a balancer sends before the connection of this client.
fn header_of(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21".to_vec();
    match client {
        SocketAddr::V4(client) => {
            header.extend([0x11, 0, 12]);
            header.extend(client.ip().octets());
            header.extend([127, 0, 0, 1]);
        }
        SocketAddr::V6(client) => {
            header.extend([0x21, 0, 36]);
            header.extend(client.ip().octets());
            header.extend([0; 16]);
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend([0, 80]);
    header
}

/// A balancer: whatever comes in goes on to `target`, after `header`.
fn balancer(target: SocketAddr, header: Vec<u8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for near in listener.incoming() {
            let Ok(near) = near else { return };
            let mut far = TcpStream::connect(target).unwrap();
            far.write_all(&header).unwrap();
            for (mut from, mut to) in
                [(near.try_clone().unwrap(), far.try_clone().unwrap()), (far.try_clone().unwrap(), near)]
            {
                thread::spawn(move || {
                    let _ = std::io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    addr
}

#[test]
fn a_balancer_tells_who_has_connected_to_it() {
    let origin = Origin::answering(|_| OK.into());
    for kind in TCP {
        for (client, ip) in [("192.0.2.7:5", "192.0.2.7"), ("[2001:db8::7]:5", "2001:db8::7")] {
            let configure = |config: &mut ProxyConfig| {
                config.inbound.proxy_protocol = true;
                config.inbound.client_ip_header = Some(HeaderName::from_static("x-real-ip"));
            };
            let door = Door::behind(kind, &origin, configure, |target| balancer(target, header_of(client)));
            for _ in 0..3 {
                assert_eq!(door.exchange(GET).status, 200, "{kind}");
                let told = origin.next_request().field("x-real-ip");
                assert_eq!(told.as_deref(), (!kind.is_link()).then_some(ip), "{kind}");
            }
            assert_eq!(door.behind.stats().headerless_connections, 0);
        }
    }
}

#[test]
fn without_a_header_nothing_is_served() {
    let origin = Origin::answering(|_| OK.into());
    for kind in TCP {
        let door = Door::of(kind, &origin, |config| config.inbound.proxy_protocol = true);
        assert_eq!(door.exchange(GET).status, 502, "{kind}");
        assert!(door.behind.stats().headerless_connections > 0);
        assert_eq!(door.behind.stats().requests, 0);
        let version_1 = |target| balancer(target, b"PROXY TCP4 192.0.2.7 127.0.0.1 5 80\r\n".to_vec());
        let door = Door::behind(kind, &origin, |config| config.inbound.proxy_protocol = true, version_1);
        assert_eq!(door.exchange(GET).status, 502, "{kind}");
        assert!(door.behind.stats().headerless_connections > 0);
    }
}

#[test]
fn a_slow_header_holds_nobody_up() {
    let origin = Origin::answering(|_| OK.into());
    for kind in [Kind::Http, Kind::Teleport] {
        let configure = |config: &mut ProxyConfig| config.inbound.proxy_protocol = true;
        let door = Door::behind(kind, &origin, configure, |target| {
            let mut slow = TcpStream::connect(target).unwrap();
            slow.write_all(b"\r\n\r\n").unwrap();
            thread::spawn(move || {
                // Until it is closed for its slowness.
                let _ = slow.read(&mut [0]);
            });
            balancer(target, header_of("192.0.2.7:5"))
        });
        assert_eq!(door.exchange(GET).status, 200, "{kind}");
        door.behind.wait_for(|stats| stats.headerless_connections == 1);
    }
}

fn seen_by_origin(configure: impl FnOnce(&mut ProxyConfig), request: &str) -> Message {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    configure(&mut config);
    assert_eq!(Caller::of(&Running::start(config)).exchange(request).status, 200);
    origin.next_request()
}

#[test]
fn the_callers_address_in_a_field_of_its_own() {
    let name = |config: &mut ProxyConfig| config.inbound.client_ip_header = Some(HeaderName::from_static("x-real-ip"));
    let forged =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 1.1.1.1\r\nx-real-ip: 2.2.2.2\r\nConnection: X-Real-IP\r\n\r\n";
    assert_eq!(seen_by_origin(name, forged).field("x-real-ip").as_deref(), Some("127.0.0.1"));
    let passed = seen_by_origin(|_| {}, "GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 1.1.1.1\r\n\r\n");
    assert_eq!(passed.field("x-real-ip").as_deref(), Some("1.1.1.1"), "without the flag it is a field like others");
}

#[test]
fn the_callers_address_in_a_list() {
    let x = |config: &mut ProxyConfig| config.inbound.forwarded = Forwarded::XForwardedFor;
    assert_eq!(seen_by_origin(x, GET).field("x-forwarded-for").as_deref(), Some("127.0.0.1"));
    let listed =
        "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: a\r\nX-Forwarded-For: b\r\nConnection: x-forwarded-for\r\n\r\n";
    assert_eq!(seen_by_origin(x, listed).field("x-forwarded-for").as_deref(), Some("a, b, 127.0.0.1"));
    let standard = |config: &mut ProxyConfig| config.inbound.forwarded = Forwarded::Forwarded;
    let seen = seen_by_origin(standard, "GET / HTTP/1.1\r\nHost: h\r\nForwarded: for=a\r\n\r\n");
    assert_eq!(seen.field("forwarded").as_deref(), Some("for=a, for=127.0.0.1;proto=http"));
}

#[test]
fn the_callers_scheme() {
    let origin = Origin::answering(|_| OK.into());
    for kind in [Kind::Http, Kind::Https] {
        let door = Door::of(kind, &origin, |config| config.inbound.forwarded_proto = ForwardedProto::Set);
        let forged = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-Proto: gopher\r\n\r\n";
        assert_eq!(door.exchange(forged).status, 200);
        assert_eq!(origin.next_request().field("x-forwarded-proto"), Some(kind.to_string()));
    }
}

#[test]
fn a_link_says_nothing_of_its_own_about_callers() {
    let origin = Origin::answering(|_| OK.into());
    let door = Door::of(Kind::Teleport, &origin, |config| {
        config.inbound.client_ip_header = Some(HeaderName::from_static("x-real-ip"));
        config.inbound.forwarded = Forwarded::XForwardedFor;
    });
    let told = "GET / HTTP/1.1\r\nHost: h\r\nX-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.8\r\n\r\n";
    assert_eq!(door.exchange(told).status, 200);
    let seen = origin.next_request();
    assert_eq!(seen.field("x-real-ip").as_deref(), Some("192.0.2.7"), "as the near proxy has told");
    assert_eq!(seen.field("x-forwarded-for").as_deref(), Some("192.0.2.8"));
}

#[test]
fn a_caller_on_a_unix_socket_has_no_address() {
    let origin = Origin::answering(|_| OK.into());
    let dir = Dir::new();
    let mut config = http_config(origin.addr());
    config.inbound.kind = Kind::Unix;
    config.inbound.addr = dir.path("in.sock").display().to_string();
    config.inbound.client_ip_header = Some(HeaderName::from_static("x-real-ip"));
    config.inbound.forwarded = Forwarded::Forwarded;
    let _proxy = Running::start(config);
    let mut caller = UnixStream::connect(dir.path("in.sock")).unwrap();
    caller.write_all(GET.replace("\r\n\r\n", "\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
    let mut answer = String::new();
    caller.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let seen = origin.next_request();
    assert_eq!(seen.field("x-real-ip").as_deref(), Some("0.0.0.0"), "what the original says");
    assert_eq!(seen.field("forwarded").as_deref(), Some("for=unknown;proto=http"));
}
