//! Everything that can be spoken on one side with everything that can be spoken on the other.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};

use common::certs::{Authority, Dir};
use common::{Caller, Message, Origin, Running, http_config};
use httpteleport::proxy::{Kind, ProxyConfig};

fn echo(request: &Message) -> String {
    let text = format!("{} {}", request.start_line, request.body);
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nX-End: 1\r\n\r\n{text}", text.len())
}

/// Proxies one behind the other, each speaking what the next one hears.
struct Chain<'a> {
    authority: &'a Authority,
    dir: Dir,
}

impl Chain<'_> {
    /// One that hears `kind` and passes on as `config` says.
    fn hearing(&self, kind: Kind, config: ProxyConfig) -> Running {
        let mut config = config;
        config.inbound.kind = kind;
        if kind.is_unix() {
            config.inbound.addr = self.dir.path(&format!("{}.sock", config.outbound.kind)).display().to_string();
        }
        config.inbound.tls = self.authority.inbound(&[self.authority.issue(&["localhost", "127.0.0.1"])]);
        Running::start(config)
    }

    /// What sends to `next`, speaking `kind`.
    fn sending_to(&self, next: &Running, kind: Kind) -> ProxyConfig {
        let mut config = http_config(([127, 0, 0, 1], 1).into());
        config.outbound.kind = kind;
        config.outbound.addr = next.listen_addr().to_string().trim_start_matches("unix:").to_owned();
        if kind.is_tls() {
            config.outbound.tls = self.authority.outbound();
        }
        config
    }
}

#[test]
fn all_twenty_five_combinations() {
    let origin = Origin::answering(echo);
    let authority = Authority::new();
    let large = "0123456789abcdef".repeat(20_000);
    for heard in Kind::ALL {
        for spoken in Kind::ALL {
            let chain = Chain { authority: &authority, dir: Dir::new() };
            let last = chain.hearing(spoken, http_config(origin.addr()));
            let middle = chain.hearing(heard, chain.sending_to(&last, spoken));
            let first = Running::start(chain.sending_to(&middle, heard));
            let mut caller = Caller::of(&first);
            for body in ["", "a short one", &large, "another"] {
                let length = body.len();
                let request = format!("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: {length}\r\n\r\n{body}");
                let answer = caller.exchange(&request);
                assert_eq!(answer.status, 200, "{heard} to {spoken}: {}", answer.body);
                assert!(answer.body == format!("POST /x HTTP/1.1 {body}"), "{heard} to {spoken}: another body");
                assert_eq!(answer.field("x-end").as_deref(), Some("1"));
                let answer = caller.exchange("GET /y?z HTTP/1.1\r\nHost: h\r\n\r\n");
                assert_eq!(answer.body, "GET /y?z HTTP/1.1 ", "{heard} to {spoken}");
            }
            for proxy in [&first, &middle, &last] {
                assert_eq!(proxy.stats().responses, 8, "{heard} to {spoken}");
            }
        }
    }
}

#[test]
fn a_socket_file_goes_with_its_listener_and_a_stale_one_is_replaced() {
    let origin = Origin::answering(echo);
    let dir = Dir::new();
    let path = dir.path("in.sock");
    let config = || {
        let mut config = http_config(origin.addr());
        config.inbound.kind = Kind::Unix;
        config.inbound.addr = path.display().to_string();
        config
    };
    // A listener that was dropped leaves its file, as a process that was killed does.
    drop(UnixListener::bind(&path).unwrap());
    assert!(UnixStream::connect(&path).is_err());
    let proxy = Running::start(config());
    assert!(UnixStream::connect(&path).is_ok());

    let Err(error) = Running::try_start(config()) else { panic!("two listen on one path") };
    assert!(error.to_string().contains("in use"), "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "the first one still has it");

    proxy.stop();
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let Err(error) = Running::try_start(config()) else { panic!("it took a file for a socket") };
    assert!(error.to_string().contains("no socket"), "{error}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn several_can_listen_on_one_port() {
    let origin = Origin::answering(echo);
    let mut config = http_config(origin.addr());
    config.inbound.reuse_port = true;
    let first = Running::start(config.clone());
    config.inbound.addr = first.addr().to_string();
    let second = Running::start(config.clone());
    assert_eq!(first.addr(), second.addr());
    config.inbound.reuse_port = false;
    let Err(error) = Running::try_start(config) else { panic!("it did not ask for that") };
    assert!(error.to_string().contains("in use"), "{error}");
}
