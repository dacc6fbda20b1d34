//! The budget for memory: under any load what messages take stays within it, load is shed with 503, and what was taken
//! comes back (R-limit-memory).

// Callers and origins are real sockets in real time.
#![cfg(all(feature = "httptp", feature = "thread"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::{Caller, Origin, Running, http_config};
use httpteleport::driver::ClientOptions;
use httpteleport::driver::thread::Client;
use httpteleport::proto::Compression;
use httpteleport::proxy::{Kind, ProxyConfig};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MIB: usize = 1024 * 1024;
const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

fn limited(upstream: std::net::SocketAddr, budget: usize) -> ProxyConfig {
    ProxyConfig { memory_budget: Some(budget), ..http_config(upstream) }
}

/// That it takes no more than it may, but for what is read at once, and gives all back.
fn check_end(proxy: &Running, budget: usize) {
    let stats = proxy.stats();
    assert!(stats.memory_peak > budget * 3 / 4, "the attack was one: {stats:?}");
    assert!(stats.memory_peak < budget + budget / 4, "{stats:?}");
    assert!(stats.memory_shed > 0, "{stats:?}");
    proxy.wait_for(|stats| stats.memory_held < MIB && stats.in_flight == 0);
    assert_eq!(Caller::of(proxy).exchange(GET).status, 200);
}

#[test]
fn callers_that_send_bodies_at_once_and_do_not_end_them() {
    const BUDGET: usize = 16 * MIB;
    let origin = Origin::answering(|_| OK.into());
    let mut config = limited(origin.addr(), BUDGET);
    config.inbound.body_timeout = Duration::from_secs(3);
    let proxy = Running::start(config);
    // 60 callers with 1 MiB of a body of 2 MiB each.
    let callers: Vec<_> = (0..60)
        .map(|_| {
            let addr = proxy.addr();
            thread::spawn(move || {
                let mut stream = TcpStream::connect(addr).unwrap();
                let head = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 2 * MIB);
                let _ = stream.write_all(head.as_bytes());
                let _ = stream.write_all(&vec![b'x'; MIB]);
                read_all(&mut stream)
            })
        })
        .collect();
    let answers: Vec<String> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let (shed, begun): (Vec<&String>, Vec<&String>) =
        answers.iter().partition(|answer| answer.starts_with("HTTP/1.1 503"));
    assert!(shed.len() > 20, "{answers:?}");
    for answer in shed {
        let answer = answer.to_ascii_lowercase();
        assert!(answer.contains("retry-after: 1") && answer.contains("--memory-budget"), "{answer}");
    }
    // Those that had begun had their time. Nobody goes without an answer.
    assert!(!begun.is_empty() && begun.iter().all(|answer| answer.starts_with("HTTP/1.1 408")), "{begun:?}");
    assert_eq!(origin.requests(), 0);
    check_end(&proxy, BUDGET);
}

/// Has a caller send of a body as much as there is memory for, and no more.
fn fill(proxy: &Running, budget: usize) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.addr()).unwrap();
    write!(stream, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n", 2 * budget).unwrap();
    proxy.wait_for(|stats| stats.in_flight == 1);
    let mut held = proxy.stats().memory_held;
    while held < budget {
        stream.write_all(&[b'x'; 4096]).unwrap();
        held += 4096;
        // A piece more than there is room for would end it.
        proxy.wait_for(|stats| stats.memory_held >= held);
    }
    stream
}

/// What comes on a connection until its end, be that a reset.
fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).unwrap()
}

#[test]
fn who_comes_when_memory_is_used_up_has_one_answer() {
    const BUDGET: usize = 2 * MIB;
    // As many as are answered at once.
    const MANY: usize = 64;
    let origin = Origin::answering(|_| OK.into());
    let proxy = Running::start(limited(origin.addr(), BUDGET));
    let filler = fill(&proxy, BUDGET);

    for (method, body) in [("GET", "httptp: the memory"), ("HEAD", "")] {
        let mut caller = Caller::of(&proxy);
        caller.send(&format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = caller.read(method);
        assert_eq!((answer.status, answer.field("retry-after").as_deref()), (503, Some("1")));
        assert_eq!(answer.field("connection").as_deref(), Some("close"));
        assert!(answer.body.starts_with(body) && caller.is_closed());
    }
    let stats = proxy.stats();
    assert_eq!((stats.requests, stats.refused, stats.memory_shed, stats.shed_connections), (3, 2, 2, 0));

    // Those who ask nothing are closed soon, and keep others from being answered for no longer.
    let came = || proxy.stats().connections + proxy.stats().shed_connections;
    let connect = || {
        let before = came();
        let stream = TcpStream::connect(proxy.addr()).unwrap();
        proxy.wait_for(|_| came() > before);
        stream
    };
    let mut silent = Vec::new();
    while proxy.stats().shed_connections == 0 {
        let mut stream = connect();
        // Every other one has begun to ask.
        stream.write_all(&b"GET"[..silent.len() % 2 * 3]).unwrap();
        silent.push(stream);
    }
    // The two before may have kept their places for a moment.
    assert!(silent.len() >= MANY - 1, "{} {:?}", silent.len(), proxy.stats());
    for stream in &mut silent {
        assert_eq!(read_all(stream), "");
    }
    assert_eq!(Caller::of(&proxy).exchange(GET).status, 503);

    // Whoever asks when there is memory again is served, once.
    let before = came();
    let mut caller = Caller::of(&proxy);
    proxy.wait_for(|_| came() > before);
    drop(filler);
    proxy.wait_for(|stats| stats.memory_held < BUDGET / 2);
    let answer = caller.exchange(GET);
    assert_eq!((answer.status, answer.field("connection").as_deref()), (200, Some("close")));
    assert!(caller.is_closed());
    let answer = Caller::of(&proxy).exchange(GET);
    assert_eq!((answer.status, answer.field("connection")), (200, None));
}

#[test]
fn a_head_that_there_is_no_memory_for_is_refused_and_not_kept() {
    const BUDGET: usize = 2 * MIB;
    let origin = Origin::answering(|_| OK.into());
    let proxy = Running::start(limited(origin.addr(), BUDGET));
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.exchange(GET).status, 200);
    let filler = fill(&proxy, BUDGET - 30_000);
    // Its second request. A piece that there is no memory for is not kept until another one comes.
    caller.send("GET /second HTTP/1.1\r\nHost: h\r\nX: ");
    while proxy.stats().memory_shed == 0 {
        assert!(proxy.stats().memory_held < BUDGET, "{:?}", proxy.stats());
        caller.send(&"x".repeat(5_000));
        thread::sleep(Duration::from_millis(20));
    }
    let answer = caller.read("GET");
    assert_eq!((answer.status, answer.field("retry-after").as_deref()), (503, Some("1")));
    assert!(caller.is_closed());
    assert_eq!(origin.requests(), 1);
    drop(filler);
}

#[test]
fn responses_for_callers_that_do_not_read_them() {
    const BUDGET: usize = 16 * MIB;
    let large = Arc::new(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", 4 * MIB, "x".repeat(4 * MIB)));
    let origin = Origin::answering(move |request| match request.start_line.contains("/large") {
        true => String::clone(&large),
        false => OK.into(),
    });
    let mut config = limited(origin.addr(), BUDGET);
    config.inbound.idle_timeout = Duration::from_secs(1);
    let proxy = Running::start(config);
    let callers: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.addr()).unwrap();
            stream.write_all(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
            stream
        })
        .collect();
    // Whoever comes when memory is full is turned away, without being counted as a request.
    proxy.wait_for(|stats| {
        let is_settled = stats.connections == stats.requests && stats.requests == stats.responses + stats.refused;
        is_settled && stats.responses + stats.memory_shed >= 40
    });
    assert!(proxy.stats().refused > 20, "{:?}", proxy.stats());
    // Who reads nothing is given up, and its memory comes back.
    proxy.wait_for(|stats| stats.in_flight == 0);
    drop(callers);
    check_end(&proxy, BUDGET);
}

#[test]
fn heads_that_do_not_end_are_counted_and_answered_beyond() {
    const BUDGET: usize = 4 * MIB;
    let origin = Origin::answering(|_| OK.into());
    let mut config = limited(origin.addr(), BUDGET);
    config.inbound.idle_timeout = Duration::from_secs(2);
    let proxy = Running::start(config);
    let begun = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}", "x".repeat(60_000));
    let callers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = TcpStream::connect(proxy.addr()).unwrap();
            let _ = stream.write_all(begun.as_bytes());
            thread::spawn(move || read_all(&mut stream))
        })
        .collect();
    let answers: Vec<String> = callers.into_iter().map(|caller| caller.join().unwrap()).collect();
    let (shed, begun): (Vec<&String>, Vec<&String>) =
        answers.iter().partition(|answer| answer.starts_with("HTTP/1.1 503"));
    assert!(shed.len() > 20, "{answers:?}");
    assert!(shed.iter().all(|answer| answer.contains("--memory-budget")), "{shed:?}");
    // Slow heads have their time, no more.
    assert!(!begun.is_empty() && begun.iter().all(|answer| answer.is_empty()), "{begun:?}");
    proxy.wait_for(|stats| stats.memory_held == 0);
    check_end(&proxy, BUDGET);
}

#[test]
fn requests_and_answers_on_links() {
    const BUDGET: usize = 24 * MIB;
    for compression in [Compression::None, Compression::Deflate] {
        let is_held = Arc::new(AtomicBool::new(true));
        let holds = is_held.clone();
        let origin = Origin::answering(move |_| {
            while holds.load(Ordering::SeqCst) {
                thread::sleep(Duration::from_millis(5));
            }
            OK.into()
        });
        let mut config = limited(origin.addr(), BUDGET);
        config.inbound.kind = Kind::Teleport;
        let far = Running::start(config);
        let options = || ClientOptions::default().compression(compression).max_pending_requests(1000);
        let addr = far.addr().to_string();
        // One link has no more than a quarter, so that it takes several.
        let clients: Vec<Client> = (0..6).map(|_| Client::new(addr.as_str(), options())).collect();
        let calls: Vec<_> = (0..60)
            .map(|n| {
                let client = clients[n % clients.len()].clone();
                thread::spawn(move || {
                    let request = http::Request::post("http://h/").body(vec![b'x'; MIB].into()).unwrap();
                    client.request(request, Duration::from_secs(30)).unwrap()
                })
            })
            .collect();
        far.wait_for(|stats| stats.memory_shed > 0);
        is_held.store(false, Ordering::SeqCst);
        let answers: Vec<_> = calls.into_iter().map(|call| call.join().unwrap()).collect();
        let shed: Vec<_> = answers.iter().filter(|answer| answer.status() == 503).collect();
        assert!(!shed.is_empty() && shed.len() < 60);
        for answer in shed {
            assert_eq!(answer.headers()["retry-after"], "1");
        }
        let stats = far.stats();
        assert!(stats.memory_peak > BUDGET * 3 / 4 && stats.memory_peak < BUDGET + BUDGET / 4, "{stats:?}");
        drop(clients);
        far.wait_for(|stats| stats.memory_held == 0);
        let client = Client::new(addr.as_str(), options());
        let request = http::Request::get("http://h/").body(Default::default()).unwrap();
        assert_eq!(client.request(request, Duration::from_secs(30)).unwrap().status(), 200);
    }
}

#[test]
fn a_burst_of_compressed_zeros_takes_what_the_budget_has() {
    // Some kilobytes of wire a message.
    const BUDGET: usize = 24 * MIB;
    let origin = Origin::answering(|_| OK.into());
    let mut config = limited(origin.addr(), BUDGET);
    config.inbound.kind = Kind::Teleport;
    let far = Running::start(config);
    let addr = far.addr().to_string();
    let calls: Vec<_> = (0..4)
        .map(|_| {
            let client = Client::new(addr.as_str(), ClientOptions::default());
            thread::spawn(move || {
                let request = http::Request::post("http://h/").body(vec![0; 28 * MIB].into()).unwrap();
                client.request(request, Duration::from_secs(60)).unwrap().status()
            })
        })
        .collect();
    for call in calls {
        assert_eq!(call.join().unwrap(), 503, "none of them fits");
    }
    let stats = far.stats();
    assert!(stats.memory_peak < 2 * BUDGET, "{stats:?}");
    assert_eq!(origin.requests(), 0);
    far.wait_for(|stats| stats.memory_held == 0);
}
