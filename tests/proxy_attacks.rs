//! What a peer of a teleport listener can make it hold: each attack for itself, against all limits that are in force by
//! default, and counted by the proxy's own account of memory (`benches/idle.py` and `.ci/faults.py` look at processes).

// Peers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use common::{Origin, Running, http_config};
use httpteleport::proto::Compression;
use httpteleport::proxy::Kind;

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
/// Version 0, no compression, no TLS.
const HELLO: &[u8] = b"httpteleport\x00\x01\x00";

fn far(origin: &Origin, budget: usize) -> Running {
    let mut config = http_config(origin.addr());
    config.inbound.kind = Kind::Teleport;
    config.inbound.compression = Compression::None;
    // Each has a connection to the origin, which is a thread here.
    config.concurrency = 300;
    config.memory_budget = Some(budget);
    Running::start(config)
}

fn connect(far: &Running) -> TcpStream {
    let stream = TcpStream::connect(far.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    stream
}

/// A link that has said hello, and heard one.
fn link(far: &Running) -> TcpStream {
    let mut stream = connect(far);
    stream.write_all(HELLO).unwrap();
    stream.read_exact(&mut [0; 15]).unwrap();
    stream
}

fn frame(id: u32, message: &str) -> Vec<u8> {
    [&id.to_le_bytes(), message.as_bytes()].concat()
}

/// That somebody else is served.
fn check_others(far: &Running) {
    let mut stream = link(far);
    stream.write_all(&frame(1, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")).unwrap();
    let mut answer = [0; 16];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer[4..], b"HTTP/1.1 200");
}

#[test]
fn hellos_that_do_not_end_cost_little_and_are_closed_in_time() {
    let origin = Origin::answering(|_| OK.into());
    let far = far(&origin, 64 * MIB);
    let start = Instant::now();
    let mut slow: Vec<TcpStream> = (0..300).map(|_| connect(&far)).collect();
    for n in 0..10 {
        for stream in &mut slow {
            let _ = stream.write_all(&HELLO[n..=n]);
        }
        thread::sleep(Duration::from_millis(50));
    }
    check_others(&far);
    let peak = far.stats().memory_peak;
    assert!(peak < 300 * KIB + 2 * MIB, "{peak} bytes for 300 hellos that have begun");
    for mut stream in slow {
        // Closed, and not by its time-out.
        assert!(!matches!(stream.read(&mut [0; 16]), Ok(1..)));
    }
    // 3 s each, at once.
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    far.wait_for(|stats| stats.memory_held == 0);
}

#[test]
fn idle_links_cost_little() {
    let origin = Origin::answering(|_| OK.into());
    let far = far(&origin, 64 * MIB);
    let links: Vec<TcpStream> = (0..300).map(|_| link(&far)).collect();
    far.wait_for(|stats| stats.memory_held >= 300 * 256);
    let held = far.stats().memory_held;
    assert!(held < 300 * 80 * KIB, "{held} bytes for 300 links");
    check_others(&far);
    drop(links);
    far.wait_for(|stats| stats.memory_held == 0);
}

#[test]
fn a_flood_of_requests_whose_answers_nobody_reads() {
    const BUDGET: usize = 32 * MIB;
    let origin =
        Origin::answering(|_| format!("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n{}", "x".repeat(100_000)));
    let far = far(&origin, BUDGET);
    let floods: Vec<TcpStream> = (0..4)
        .map(|_| {
            let mut stream = link(&far);
            let many: Vec<u8> = (1..=200).flat_map(|id| frame(id, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
            for _ in 0..20 {
                // The ids are used again; they are this side's.
                if stream.write_all(&many).is_err() {
                    break;
                }
            }
            stream
        })
        .collect();
    far.wait_for(|stats| stats.requests > 200);
    thread::sleep(Duration::from_secs(2));
    let stats = far.stats();
    // Without a budget it would be 1.6 GB. Requests that were let in go on, and what links have begun to write comes on top:
    // up to 1.4 times the budget when it was seen.
    println!("at most {:.2} times the budget", stats.memory_peak as f64 / BUDGET as f64);
    assert!(stats.memory_peak < 5 * BUDGET / 2, "{stats:?}");
    drop(floods);
    far.wait_for(|stats| stats.memory_held == 0 && stats.in_flight == 0);
    check_others(&far);
}

#[test]
fn heads_of_many_fields_are_worth_what_they_take() {
    // R-limit-held: 120 fields of two bytes are 16 KiB, not 600 bytes.
    const BUDGET: usize = 32 * MIB;
    let origin = Origin::answering(|_| {
        thread::sleep(Duration::from_millis(200));
        OK.into()
    });
    let far = far(&origin, BUDGET);
    let head = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "a:\r\n".repeat(120));
    let mut floods: Vec<TcpStream> = (0..6).map(|_| link(&far)).collect();
    for stream in &mut floods {
        let many: Vec<u8> = (1..=1000).flat_map(|id| frame(id, &head)).collect();
        let _ = stream.write_all(&many);
    }
    far.wait_for(|stats| stats.requests > 100);
    far.wait_for(|stats| stats.memory_shed > 0 || stats.in_flight == 0);
    let stats = far.stats();
    assert!(stats.memory_peak < BUDGET + BUDGET / 4, "{stats:?}");
    drop(floods);
    far.wait_for(|stats| stats.memory_held == 0 && stats.in_flight == 0);
    check_others(&far);
}

#[test]
fn heads_and_chunks_that_do_not_end() {
    const BUDGET: usize = 32 * MIB;
    let origin = Origin::answering(|_| OK.into());
    let far = far(&origin, BUDGET);
    // 60 KiB of a head, of a chunk that was announced as large, and of a body.
    let begun = [
        format!("GET / HTTP/1.1\r\nX: {}", "x".repeat(60_000)),
        format!("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3ffffff\r\n{}", "x".repeat(60_000)),
        format!("POST / HTTP/1.1\r\nContent-Length: 60000000\r\n\r\n{}", "x".repeat(60_000)),
    ];
    let slow: Vec<TcpStream> = (0..60)
        .map(|n| {
            let mut stream = link(&far);
            let _ = stream.write_all(&frame(1, &begun[n % 3]));
            stream
        })
        .collect();
    far.wait_for(|stats| stats.memory_held > 60 * 60_000);
    let held = far.stats().memory_held;
    assert!(held < 60 * 500 * KIB, "{held} bytes for 60 links: what was announced is not held");
    drop(slow);
    far.wait_for(|stats| stats.memory_held == 0);
    check_others(&far);
}
