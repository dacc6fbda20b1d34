//! A proxy that stops: whoever asks it at that moment gets an answer, and is told to go elsewhere.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use common::{Caller, Origin, Running, http_config};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// Waits until nobody listens there.
fn wait_until_closed(addr: SocketAddr) {
    let start = Instant::now();
    while TcpStream::connect(addr).is_ok() {
        assert!(start.elapsed() < Duration::from_secs(30));
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_request_that_comes_while_the_proxy_stops_is_answered() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.drain_timeout = Duration::from_secs(30);
    let proxy = Running::start(config);
    let addr = proxy.addr();
    let (mut used, mut fresh, mut begun, mut quiet) =
        (Caller::of(&proxy), Caller::of(&proxy), Caller::of(&proxy), Caller::of(&proxy));
    assert_eq!(used.exchange(GET).field("connection"), None);
    assert_eq!(quiet.exchange(GET).field("connection"), None);
    begun.send(&GET[..9]);
    proxy.wait_for(|stats| stats.connections == 4);
    let start = Instant::now();
    let stopping = thread::spawn(|| proxy.stop());
    wait_until_closed(addr);
    for caller in [&mut used, &mut fresh] {
        let answer = caller.exchange(GET);
        assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
        assert!(caller.is_closed());
    }
    // Who asks for nothing is not waited for, but who has begun to ask is.
    assert!(quiet.is_closed());
    assert_eq!(begun.exchange(&GET[9..]).status, 200);
    stopping.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_connection_that_rests_is_answered_while_the_proxy_stops() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.idle_timeout = Duration::from_secs(12);
    let proxy = Running::start(config);
    let addr = proxy.addr();
    let (mut resting, mut quiet) = (Caller::of(&proxy), Caller::of(&proxy));
    assert_eq!(resting.exchange(GET).status, 200);
    assert_eq!(quiet.exchange(GET).status, 200);
    proxy.wait_for(|stats| stats.memory_held > 16 * 1024);
    proxy.wait_for(|stats| stats.memory_held < 2 * 8 * 1024);
    let stopping = thread::spawn(|| proxy.stop());
    wait_until_closed(addr);
    let answer = resting.exchange(GET);
    assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
    assert!(quiet.is_closed());
    stopping.join().unwrap();
}

#[test]
fn callers_move_off_while_the_proxy_still_listens() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.stop_delay = Duration::from_secs(3);
    let proxy = Running::start(config);
    let addr = proxy.addr();
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.exchange(GET).field("connection"), None);
    let stopping = thread::spawn(|| proxy.stop());
    let start = Instant::now();
    while caller.exchange(GET).field("connection").is_none() {
        assert!(start.elapsed() < Duration::from_secs(2), "it does not tell");
    }
    assert!(caller.is_closed());
    let answer = Caller::at(addr).exchange(GET);
    assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
    stopping.join().unwrap();
}
