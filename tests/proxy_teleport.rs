//! The usual pair in one process: callers, near proxy, link, far proxy, and an origin in the hands of each test.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::{Duration, Instant};

use common::{Caller, Message, Origin, Running, http_config};
use httpteleport::proto::{Compression, Stats};
use httpteleport::proxy::{Kind, ProxyConfig, ProxyStats};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const MIB: usize = 1024 * 1024;

/// A near and a far proxy.
struct Pair {
    near: Running,
    far: Running,
}

impl Pair {
    fn before(origin: &Origin) -> Self {
        Self::with(origin.addr(), |_near, _far| {})
    }

    fn with(origin: SocketAddr, configure: impl FnOnce(&mut ProxyConfig, &mut ProxyConfig)) -> Self {
        let mut far = http_config(origin);
        far.inbound.kind = Kind::Teleport;
        let mut near = http_config(origin);
        near.outbound.kind = Kind::Teleport;
        configure(&mut near, &mut far);
        let far = Running::start(far);
        near.outbound.addr = far.addr().to_string();
        Self { near: Running::start(near), far }
    }

    fn caller(&self) -> Caller {
        Caller::of(&self.near)
    }
}

fn echo(request: &Message) -> String {
    let text = format!("{} {}", request.start_line, request.body);
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len())
}

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")
}

#[test]
fn all_nine_pairs_of_compressions() {
    let origin = Origin::answering(echo);
    for there in Compression::ALL {
        for back in Compression::ALL {
            let pair = Pair::with(origin.addr(), |near, far| {
                near.outbound.compression = there;
                far.inbound.compression = back;
            });
            let mut caller = pair.caller();
            for round in 0..20 {
                let body = format!("{{\"round\":{round}}}").repeat(50);
                let answer = caller.exchange(&post("/x", &body));
                assert_eq!(answer.body, format!("POST /x HTTP/1.1 {body}"), "{there:?} {back:?}");
                assert_eq!(caller.exchange(&get("/y")).body, "GET /y HTTP/1.1 ", "{there:?} {back:?}");
            }
            let frames = |stats: ProxyStats| stats.out_links.map(|link| (link.frames_out, link.frames_in));
            // A response can be here a moment before the figures that count it.
            pair.near.wait_for(|stats| frames(stats) == Some((40, 40)));
            let link = pair.near.stats().out_links.unwrap();
            if there == Compression::Deflate && back == Compression::Deflate {
                assert!((link.wire_out + link.wire_in) * 3 < link.plain_out + link.plain_in, "{link:?}");
            }
        }
    }
}

#[test]
fn what_belongs_to_the_outer_connections_stays_there() {
    let origin = Origin::answering(|_| {
        "HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nX-End: 1\r\nTransfer-Encoding: chunked\r\n\r\n\
         3\r\nabc\r\n0\r\n\r\n"
            .into()
    });
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    caller.send(
        "POST /a?b HTTP/1.1\r\nHost: example.com\r\nConnection: X-Mine\r\nX-Mine: 1\r\nX-End: 1\r\n\
         Expect: 100-continue\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    assert_eq!(caller.read_head().status, 100);
    caller.send("2\r\nhi\r\n0\r\n\r\n");
    let answer = caller.read("POST");
    assert_eq!((answer.status, answer.body.as_str(), answer.field("x-hop")), (200, "abc", None));
    assert_eq!(answer.field("x-end").as_deref(), Some("1"));
    let seen = origin.next_request();
    assert_eq!(seen.start_line, "POST /a?b HTTP/1.1");
    assert_eq!(seen.field("host").as_deref(), Some("example.com"));
    assert_eq!((seen.body.as_str(), seen.field("x-mine"), seen.field("expect")), ("hi", None, None));
    assert_eq!(seen.field("x-end").as_deref(), Some("1"));
}

#[test]
fn responses_without_a_body_keep_their_length() {
    let origin = Origin::answering(|request| match request.start_line.split(' ').nth(1).unwrap() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1234\r\n\r\n".into(),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".into(),
    });
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    for _ in 0..3 {
        let mut ask = |method: &str, target: &str| {
            caller.send(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
            let answer = caller.read("HEAD");
            (answer.status, answer.field("content-length"))
        };
        assert_eq!(ask("HEAD", "/"), (200, Some("77".into())));
        assert_eq!(ask("HEAD", "/chunked"), (200, None));
        assert_eq!(ask("GET", "/204"), (204, None));
        assert_eq!(ask("GET", "/304"), (304, Some("1234".into())));
        assert_eq!(ask("HEAD", "/304"), (304, Some("1234".into())));
    }
    assert_eq!(pair.near.stats().connections, 1);
}

#[test]
fn an_internal_field_of_the_link_does_not_get_out() {
    let origin = Origin::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".into());
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    caller.send("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(caller.read("HEAD").field("teleport-head-length"), None);
}

#[test]
fn large_bodies_with_raised_limits() {
    let origin = Origin::answering(echo);
    for compression in Compression::ALL {
        let pair = Pair::with(origin.addr(), |near, far| {
            near.inbound.max_body_bytes = 8 * MIB;
            far.inbound.max_body_bytes = 8 * MIB;
            near.outbound.compression = compression;
            far.inbound.compression = compression;
            near.outbound.timeout = Some(Duration::from_secs(30));
            far.outbound.timeout = Some(Duration::from_secs(30));
        });
        let body: String = (0..5 * MIB / 8).map(|i| format!("{:08x}", i.wrapping_mul(0x9e37_79b1) as u32)).collect();
        let answer = pair.caller().exchange(&post("/big", &body));
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert!(answer.body == format!("POST /big HTTP/1.1 {body}"));
    }
}

#[test]
fn limits_hold_on_both_proxies() {
    let origin = Origin::answering(|_| OK.into());
    let pair = Pair::with(origin.addr(), |near, _far| near.inbound.max_body_bytes = 10);
    assert_eq!(pair.caller().exchange(&post("/", &"x".repeat(11))).status, 413);
    let pair = Pair::with(origin.addr(), |_near, far| far.inbound.max_body_bytes = 10);
    let mut caller = pair.caller();
    assert_eq!(caller.exchange(&post("/", &"x".repeat(11))).status, 413);
    assert_eq!(caller.exchange(&post("/", &"x".repeat(10))).status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn many_callers_get_their_own_answers() {
    let origin = Origin::answering(echo);
    let pair = Pair::before(&origin);
    thread::scope(|scope| {
        for number in 0..32 {
            let pair = &pair;
            scope.spawn(move || {
                let mut caller = pair.caller();
                for round in 0..50 {
                    let body = format!("caller {number} round {round}");
                    let answer = caller.exchange(&post("/", &body));
                    assert_eq!(answer.body, format!("POST / HTTP/1.1 {body}"));
                }
            });
        }
    });
    let count = |link: Option<Stats>| link.map(|link| (link.frames_out, link.frames_in));
    pair.near.wait_for(|stats| count(stats.out_links) == Some((1_600, 1_600)));
    pair.far.wait_for(|stats| count(stats.in_links) == Some((1_600, 1_600)));
}

#[test]
fn a_slow_answer_does_not_hold_up_the_others() {
    let origin = Origin::answering(|request| {
        if request.start_line.contains("/slow") {
            thread::sleep(Duration::from_secs(3));
        }
        OK.into()
    });
    let pair = Pair::before(&origin);
    let mut slow = pair.caller();
    slow.send(&get("/slow"));
    pair.far.wait_for(|stats| stats.in_flight == 1);
    let start = Instant::now();
    for _ in 0..10 {
        assert_eq!(pair.caller().exchange(&get("/fast")).status, 200);
    }
    assert!(start.elapsed() < Duration::from_millis(2500));
    assert_eq!(slow.read("GET").status, 200);
}

#[test]
fn batch_delays_on_both_sides() {
    let origin = Origin::answering(echo);
    let pair = Pair::with(origin.addr(), |near, far| {
        near.outbound.batch_delay = Duration::from_millis(10);
        far.inbound.batch_delay = Duration::from_millis(10);
    });
    let mut caller = pair.caller();
    for _ in 0..2 {
        let start = Instant::now();
        assert_eq!(caller.exchange(&get("/")).status, 200);
        let elapsed = start.elapsed();
        assert!(elapsed >= Duration::from_millis(20), "{elapsed:?}");
    }
}

#[test]
fn timeouts_are_504_and_harm_nobody_else() {
    let origin = Origin::answering(|request| {
        if request.start_line.contains("/slow") {
            thread::sleep(Duration::from_millis(500));
        }
        OK.into()
    });
    let pair = Pair::with(origin.addr(), |near, _far| near.outbound.timeout = Some(Duration::from_millis(100)));
    let mut caller = pair.caller();
    let answer = caller.exchange(&get("/slow"));
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains(&pair.far.addr().to_string()), "{}", answer.body);
    assert_eq!(caller.exchange(&get("/fast")).status, 200);
}

#[test]
fn an_unreachable_origin_is_told_apart_from_an_unreachable_far_proxy() {
    let nowhere = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let pair = Pair::with(nowhere, |_near, _far| {});
    let answer = pair.caller().exchange(&get("/"));
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains(&format!("upstream {nowhere}")), "{}", answer.body);

    let mut near = http_config(nowhere);
    near.outbound.kind = Kind::Teleport;
    let near = Running::start(near);
    let answer = Caller::of(&near).exchange(&get("/"));
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("cannot connect"), "{}", answer.body);
}

#[test]
fn the_near_proxy_finds_a_far_proxy_that_came_back() {
    let origin = Origin::answering(|_| OK.into());
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    assert_eq!(caller.exchange(&get("/")).status, 200);
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    far.inbound.addr = pair.far.addr().to_string();
    pair.far.stop();
    assert_eq!(caller.exchange(&get("/")).status, 502);
    let _far = Running::start(far);
    let start = Instant::now();
    while caller.exchange(&get("/")).status != 200 {
        assert!(start.elapsed() < Duration::from_secs(5));
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn too_many_requests_at_the_far_proxy_are_429() {
    let origin = Origin::answering(|_| {
        thread::sleep(Duration::from_millis(300));
        OK.into()
    });
    let pair = Pair::with(origin.addr(), |_near, far| far.concurrency = 1);
    let mut first = pair.caller();
    first.send(&get("/"));
    pair.far.wait_for(|stats| stats.in_flight == 1);
    assert_eq!(pair.caller().exchange(&get("/")).status, 429);
    assert_eq!(first.read("GET").status, 200);
}

#[test]
fn strangers_on_a_teleport_port_harm_nobody() {
    use std::io::{Read, Write};
    let origin = Origin::answering(|_| OK.into());
    let pair = Pair::before(&origin);
    for bytes in [&b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"[..], b"\x16\x03\x01\0\0", b"", b"httpteleport\x09\0\0"] {
        let mut stream = std::net::TcpStream::connect(pair.far.addr()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    assert_eq!(pair.caller().exchange(&get("/")).status, 200);
}

#[test]
fn requests_in_hand_end_when_both_proxies_stop() {
    let origin = Origin::answering(|_| {
        thread::sleep(Duration::from_millis(300));
        OK.into()
    });
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    caller.send(&get("/"));
    pair.far.wait_for(|stats| stats.in_flight == 1);
    let Pair { near, far } = pair;
    let far = thread::spawn(move || far.stop());
    near.stop();
    far.join().unwrap();
    assert_eq!(caller.read("GET").status, 200);
}

#[test]
fn teleport_to_teleport_relays() {
    let origin = Origin::answering(echo);
    let mut far = http_config(origin.addr());
    far.inbound.kind = Kind::Teleport;
    let far = Running::start(far);
    let mut relay = http_config(far.addr());
    relay.inbound.kind = Kind::Teleport;
    relay.outbound.kind = Kind::Teleport;
    let relay = Running::start(relay);
    let mut near = http_config(relay.addr());
    near.outbound.kind = Kind::Teleport;
    let near = Running::start(near);
    let mut caller = Caller::of(&near);
    assert_eq!(caller.exchange(&post("/", "hi")).body, "POST / HTTP/1.1 hi");
    assert_eq!(caller.exchange(&get("/")).status, 200);
}

#[test]
fn a_link_that_carries_nothing_is_closed() {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = http_config(listener.local_addr().unwrap());
    near.outbound.kind = Kind::Teleport;
    near.outbound.compression = Compression::None;
    near.outbound.idle_timeout = Duration::from_millis(100);
    let near = Running::start(near);
    let mut caller = Caller::of(&near);
    caller.send(&get("/"));
    let (mut link, _) = listener.accept().unwrap();
    link.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    link.write_all(b"httpteleport\x00\x01\x00").unwrap();
    let mut received = Vec::new();
    while !received.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        link.read_exact(&mut byte).unwrap();
        received.extend(byte);
    }
    link.write_all(b"\x01\0\0\0HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
    assert_eq!(caller.read("GET").body, "ok");
    link.read_to_end(&mut Vec::new()).expect("the link is closed");
}

#[test]
fn an_upstream_that_says_no_hello_is_told_from_a_slow_one() {
    let mute = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut near = http_config(mute.local_addr().unwrap());
    near.outbound.kind = Kind::Teleport;
    near.outbound.timeout = Some(Duration::from_secs(1));
    let answer = Caller::of(&Running::start(near)).exchange(&get("/"));
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("hello"), "{}", answer.body);
}

#[test]
fn a_status_that_a_link_has_no_place_for_is_502_and_says_whose_it_was() {
    let origin = Origin::answering(|request| {
        let status = if request.start_line.contains("/odd") { 600 } else { 599 };
        format!("HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n")
    });
    let pair = Pair::before(&origin);
    let mut caller = pair.caller();
    assert_eq!(caller.exchange(&get("/")).status, 599);
    let answer = caller.exchange(&get("/odd"));
    assert_eq!(answer.status, 502);
    let upstream = format!("httptp: upstream {}: ", origin.addr());
    assert!(answer.body.starts_with(&upstream) && answer.body.contains("600"), "{}", answer.body);
}
