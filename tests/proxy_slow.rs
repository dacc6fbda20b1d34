//! Callers and origins that are slow or stop in the middle: who is waited for, and who is not.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use common::{Caller, Origin, Running, http_config, http_proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn an_idle_caller_is_closed_and_a_slow_reader_is_not() {
    const SIZE: usize = 24 << 20;
    let origin =
        Origin::answering(|_| format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n{}", "x".repeat(SIZE)));
    let mut config = http_config(origin.addr());
    config.inbound.idle_timeout = Duration::from_millis(300);
    let proxy = Running::start(config);
    let mut idle = Caller::of(&proxy);
    assert!(idle.is_closed());

    let mut stream = std::net::TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    let (mut received, mut part) = (0, vec![0; SIZE / 60]);
    while received < SIZE {
        // More than two seconds in all, and what the sockets hold is much less than what is to come.
        std::thread::sleep(Duration::from_millis(40));
        let n = stream.read(&mut part).unwrap();
        assert!(n > 0, "cut after {received} bytes");
        received += n;
    }
}

#[test]
fn a_caller_that_stops_reading_is_closed() {
    let origin = Origin::answering(|_| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}", 24 << 20, "x".repeat(24 << 20))
    });
    let mut config = http_config(origin.addr());
    config.inbound.idle_timeout = Duration::from_millis(100);
    let proxy = Running::start(config);
    let mut stream = std::net::TcpStream::connect(proxy.addr()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
    proxy.wait_for(|stats| stats.responses == 1);
    std::thread::sleep(Duration::from_millis(1500));
    let mut received = Vec::new();
    let _ = stream.read_to_end(&mut received);
    assert!(received.len() < 24 << 20, "the rest was not kept for it");
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.body_timeout = Duration::from_millis(100);
    let proxy = Running::start(config);
    let answer = Caller::of(&proxy).exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhi");
    assert_eq!(answer.status, 408);
    assert_eq!(origin.requests(), 0);
}

#[test]
fn an_upload_that_timed_out_ends_its_connection() {
    const SIZE: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = http_config(listener.local_addr().unwrap());
    config.inbound.max_body_bytes = SIZE;
    config.outbound.timeout = Some(Duration::from_millis(300));
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    let body = "x".repeat(SIZE);
    let answer = caller.exchange(&format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n{body}"));
    assert_eq!(answer.status, 504);
    let (mut origin, _) = listener.accept().unwrap();
    origin.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let mut received = Vec::new();
    // The end or a reset, but not the rest of the body.
    if let Err(error) = origin.read_to_end(&mut received) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }
    assert!(received.len() < SIZE);
}

#[test]
fn a_connection_whose_request_has_not_left_is_not_used_again() {
    const SIZE: usize = 32 << 20;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = http_config(listener.local_addr().unwrap());
    config.inbound.max_body_bytes = SIZE;
    let proxy = Running::start(config);
    // The first connection is answered early and then no more read, any other one at once.
    let answers = std::thread::spawn(move || {
        let (mut first, _) = listener.accept().unwrap();
        first.read_exact(&mut [0; 100]).unwrap();
        first.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
        let (mut second, _) = listener.accept().unwrap();
        second.read_exact(&mut [0; 20]).unwrap();
        second.write_all(OK.as_bytes()).unwrap();
        (first, second)
    });
    let body = "x".repeat(SIZE);
    let answer =
        Caller::of(&proxy).exchange(&format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {SIZE}\r\n\r\n{body}"));
    assert_eq!(answer.status, 401);
    assert_eq!(Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    answers.join().unwrap();
}

#[test]
fn uploads_keep_their_connection_too() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    for request in [
        "POST /?a=b HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nX-One: 1\r\n\r\nhi",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nConnection: x-one\r\nX-One: 1\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n",
        "DELETE http://h.example?x HTTP/1.1\r\nHost: h\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nX-Empty:\r\n\r\n",
    ] {
        assert_eq!(caller.exchange(request).status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_answer_that_has_not_left_keeps_its_place() {
    let origin = Origin::answering(|_| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {0}\r\n\r\n{1}", 24 << 20, "x".repeat(24 << 20))
    });
    let mut config = http_config(origin.addr());
    config.concurrency = 1;
    let proxy = Running::start(config);
    let mut first = Caller::of(&proxy);
    first.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    proxy.wait_for(|stats| stats.responses == 1);
    assert_eq!(Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 429);
    assert_eq!(first.read("GET").body.len(), 24 << 20);
    proxy.wait_for(|stats| stats.in_flight == 0);
}
