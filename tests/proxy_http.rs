//! The proxy with HTTP on both sides, against an origin that is a plain socket in the hands of each test.

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

use common::{Caller, Origin, Running, http_config, http_proxy};
use httpteleport::proxy::{Inbound, Kind, ProxyConfig};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_get_comes_through() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let answer = caller.exchange("GET /a?b=c HTTP/1.1\r\nHost: example.com\r\nX-Own: 1\r\n\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert!(answer.field("date").is_some());
    assert_eq!(answer.field("server"), None);
    assert_eq!(answer.field("via"), None);
    let seen = origin.next_request();
    assert_eq!(seen.start_line, "GET /a?b=c HTTP/1.1");
    assert_eq!(seen.field("host").as_deref(), Some("example.com"));
    assert_eq!(seen.field("x-own").as_deref(), Some("1"));
    assert_eq!(seen.field("content-length"), None);
    assert_eq!(seen.field("via"), None);
}

#[test]
fn connections_are_kept_alive_on_both_sides() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    for _ in 0..5 {
        assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(proxy.stats().connections, 1);
    assert_eq!(proxy.stats().responses, 5);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::answering(|request| {
        let target = request.start_line.split(' ').nth(1).unwrap().to_owned();
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{target}", target.len())
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let requests: String = (0..20).map(|i| format!("GET /{i} HTTP/1.1\r\nHost: h\r\n\r\n")).collect();
    caller.send(&requests);
    for i in 0..20 {
        assert_eq!(caller.read("GET").body, format!("/{i}"));
    }
}

#[test]
fn a_chunked_request_gets_a_length() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange(
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         3\r\nabc\r\n4;x=y\r\ndefg\r\n0\r\nX-Sum: 1\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let seen = origin.next_request();
    assert_eq!(seen.body, "abcdefg");
    assert_eq!(seen.field("content-length").as_deref(), Some("7"));
    assert_eq!(seen.field("transfer-encoding"), None);
    assert_eq!(seen.field("trailer"), None);
}

#[test]
fn an_empty_chunked_post_has_length_zero() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let request = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(Caller::of(&proxy).exchange(request).status, 200);
    assert_eq!(origin.next_request().field("content-length").as_deref(), Some("0"));
}

#[test]
fn a_chunked_response_gets_a_length() {
    let origin = Origin::answering(|_| {
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n".into()
    });
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.body.as_str(), answer.field("content-length").as_deref()), ("abcde", Some("5")));
    assert_eq!(answer.field("transfer-encoding"), None);
}

#[test]
fn a_response_that_ends_with_the_connection_gets_a_length() {
    let origin = Origin::answering(|_| "HTTP/1.0 200 OK\r\n\r\nold style".into()).closing();
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    for _ in 0..2 {
        let answer = caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!((answer.status, answer.body.as_str()), (200, "old style"));
    }
}

#[test]
fn expect_100_continue_is_answered_here_and_not_forwarded() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n");
    assert_eq!(caller.read_head().status, 100);
    assert_eq!(origin.requests(), 0);
    caller.send("hello");
    assert_eq!(caller.read("POST").status, 200);
    let seen = origin.next_request();
    assert_eq!((seen.body.as_str(), seen.field("expect")), ("hello", None));
}

#[test]
fn a_refused_body_is_not_asked_for() {
    let proxy = http_proxy(nowhere());
    let mut caller = Caller::of(&proxy);
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n");
    assert_eq!(caller.read("POST").status, 413);
}

#[test]
fn interim_responses_of_the_origin_are_swallowed() {
    let origin = Origin::answering(|_| {
        format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n{OK}")
    });
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.status, answer.body.as_str(), answer.field("link")), (200, "ok", None));
}

#[test]
fn responses_without_a_body_keep_their_length_and_the_connection() {
    let origin = Origin::answering(|request| match request.start_line.split(' ').nth(1).unwrap() {
        "/204" => "HTTP/1.1 204 No Content\r\n\r\n".into(),
        "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"a\"\r\nContent-Length: 1234\r\n\r\n".into(),
        "/304-bare" => "HTTP/1.1 304 Not Modified\r\n\r\n".into(),
        "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(),
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n".into(),
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let mut ask = |method: &str, target: &str| {
        caller.send(&format!("{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let answer = caller.read("HEAD");
        (answer.status, answer.field("content-length"), answer.field("transfer-encoding"))
    };
    assert_eq!(ask("HEAD", "/"), (200, Some("77".into()), None));
    assert_eq!(ask("HEAD", "/chunked"), (200, None, None));
    assert_eq!(ask("GET", "/204"), (204, None, None));
    assert_eq!(ask("GET", "/304"), (304, Some("1234".into()), None));
    assert_eq!(ask("HEAD", "/304"), (304, Some("1234".into()), None));
    assert_eq!(ask("GET", "/304-bare"), (304, None, None));
    assert_eq!(ask("HEAD", "/"), (200, Some("77".into()), None));
    assert_eq!(proxy.stats().connections, 1);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn fields_of_one_connection_are_removed_in_both_directions() {
    let origin = Origin::answering(|_| {
        "HTTP/1.1 200 OK\r\nConnection: X-Hop, keep-alive\r\nKeep-Alive: timeout=9\r\nX-Hop: 1\r\n\
         Proxy-Connection: keep-alive\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nok"
            .into()
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let answer = caller.exchange(
        "POST / HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, X-Mine, content-length\r\nX-Mine: 1\r\nTE: trailers\r\n\
         Keep-Alive: 1\r\nProxy-Connection: keep-alive\r\nUpgrade: h2c\r\nX-End: 1\r\nContent-Length: 2\r\n\r\nhi",
    );
    for gone in ["x-hop", "keep-alive", "proxy-connection"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    assert_eq!(answer.field("x-end").as_deref(), Some("1"));
    let seen = origin.next_request();
    for gone in ["connection", "x-mine", "te", "keep-alive", "proxy-connection", "upgrade"] {
        assert_eq!(seen.field(gone), None, "{gone}");
    }
    assert_eq!(seen.field("x-end").as_deref(), Some("1"));
    assert_eq!((seen.body.as_str(), seen.field("content-length").as_deref()), ("hi", Some("2")));
    // The wish to upgrade does not end the connection.
    assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
}

#[test]
fn a_websocket_wish_goes_on_as_plain_http() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let wish = "GET / HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(caller.exchange(wish).status, 200);
    assert_eq!(origin.next_request().field("upgrade"), None);
    assert_eq!(caller.exchange(wish).status, 200);
}

#[test]
fn an_absolute_target_becomes_origin_form() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let request = "GET http://other.example:81/x?y HTTP/1.1\r\nHost: h\r\n\r\n";
    assert_eq!(Caller::of(&proxy).exchange(request).status, 200);
    let seen = origin.next_request();
    assert_eq!(seen.start_line, "GET /x?y HTTP/1.1");
    assert_eq!(seen.field("host").as_deref(), Some("other.example:81"));
}

#[test]
fn http_1_0_callers_are_served() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let answer = caller.exchange("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((answer.status, answer.body.as_str()), (200, "ok"));
    assert!(caller.is_closed());
    assert_eq!(origin.next_request().field("host"), Some(proxy.addr().to_string()));
}

#[test]
fn a_half_closed_caller_gets_its_answer() {
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_millis(100));
        OK.into()
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    caller.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    caller.half_close();
    assert_eq!(caller.read("GET").status, 200);
}

#[test]
fn a_body_over_the_limit_is_413_without_being_read() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.max_body_bytes = 10;
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 11\r\n\r\n");
    let answer = caller.read("POST");
    assert_eq!(answer.status, 413);
    assert!(answer.body.contains("10 bytes") && answer.body.contains("--in-max-body-size"), "{}", answer.body);
    assert!(caller.is_closed());
    let chunked = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nabcdef\r\n";
    assert_eq!(Caller::of(&proxy).exchange(chunked).status, 413);
    let full = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n0123456789";
    assert_eq!(Caller::of(&proxy).exchange(full).status, 200);
    assert_eq!(origin.requests(), 1);
    assert_eq!(proxy.stats().refused, 2);
}

#[test]
fn a_refusal_reaches_a_caller_that_is_still_sending() {
    let proxy = http_proxy(nowhere());
    let mut caller = Caller::of(&proxy);
    caller.send("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n");
    let rest = "x".repeat(500_000);
    caller.send(&rest);
    assert_eq!(caller.read("POST").status, 413);
}

#[test]
fn get_and_head_with_a_body_are_refused_with_the_reason_where_there_is_a_link() {
    let origin = Origin::answering(|_| OK.into());
    let far = Running::start(ProxyConfig {
        inbound: Inbound { kind: Kind::Teleport, ..http_config(origin.addr()).inbound },
        ..http_config(origin.addr())
    });
    let mut config = http_config(far.addr());
    config.outbound.kind = Kind::Teleport;
    let proxy = Running::start(config);
    for request in [
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        let answer = Caller::of(&proxy).exchange(request);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("GET request with a body"), "{}", answer.body);
        assert!(answer.field("content-type").unwrap().starts_with("text/plain"));
    }
    let mut caller = Caller::of(&proxy);
    caller.send("HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(caller.read("HEAD").status, 400);
    assert_eq!(origin.requests(), 0);
    for request in [
        "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        assert_eq!(Caller::of(&proxy).exchange(request).status, 200);
        let seen = origin.next_request();
        assert_eq!((seen.field("content-length"), seen.field("transfer-encoding")), (None, None));
    }
}

#[test]
fn get_and_head_with_a_body_pass_from_http_to_http() {
    let origin = Origin::answering(|request| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.body.len(), request.body)
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nok").body, "ok");
    for request in [
        "GET /_search HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi",
        "GET /_search HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        assert_eq!(caller.exchange(request).body, "hi");
    }
    // Whoever does not read it takes it for a request, so nobody else's follows it.
    for _ in 0..3 {
        let seen = origin.next_request();
        let is_get = seen.start_line.starts_with("GET");
        assert_eq!(seen.field("connection").as_deref(), is_get.then_some("close"));
        assert_eq!(seen.field("content-length").as_deref(), Some("2"));
    }
    caller.send("HEAD / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(caller.read("HEAD").status, 200);
    assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    assert_eq!(origin.connections(), 4, "the first one is used for the first GET, too");
    // The limit is that of every body.
    let answer = caller.exchange("GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n");
    assert_eq!(answer.status, 413);
}

#[test]
fn connect_is_501() {
    let proxy = http_proxy(nowhere());
    let answer = Caller::of(&proxy).exchange("CONNECT h:443 HTTP/1.1\r\nHost: h:443\r\n\r\n");
    assert_eq!(answer.status, 501);
    assert!(answer.body.contains("CONNECT"));
}

#[test]
fn a_transfer_coding_that_nobody_takes_off_is_not_lost_in_silence() {
    let gzip = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(Caller::of(&http_proxy(nowhere())).exchange(gzip).status, 501);
    let origin = Origin::answering(|_| "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".into());
    let answer = Caller::of(&http_proxy(origin.addr())).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("transfer coding"), "{}", answer.body);
}

#[test]
fn host_must_be_there_once() {
    let proxy = http_proxy(nowhere());
    for request in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
        let answer = Caller::of(&proxy).exchange(request);
        assert_eq!(answer.status, 400);
        assert!(answer.body.contains("Host"), "{}", answer.body);
    }
}

#[test]
fn get_only() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.get_only = true;
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    let answer = caller.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((answer.status, answer.field("allow").as_deref()), (405, Some("GET, HEAD")));
    assert_eq!(caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
}

#[test]
fn a_head_over_the_limit_is_431() {
    let origin = Origin::answering(|_| OK.into());
    let mut config = http_config(origin.addr());
    config.inbound.max_head_bytes = 4096;
    let proxy = Running::start(config);
    let ask = |size: usize| {
        let filler = "x".repeat(size);
        Caller::of(&proxy).exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-Filler: {filler}\r\n\r\n")).status
    };
    assert_eq!(ask(3_000), 200);
    assert_eq!(ask(5_000), 431);
    assert_eq!(ask(50_000), 431);
}

#[test]
fn heads_of_60_kib_pass_by_default() {
    let origin =
        Origin::answering(|_| format!("HTTP/1.1 200 OK\r\nX-Big: {}\r\nContent-Length: 0\r\n\r\n", "y".repeat(60_000)));
    let proxy = http_proxy(origin.addr());
    let filler = "x".repeat(60_000);
    let answer = Caller::of(&proxy).exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\nX-Filler: {filler}\r\n\r\n"));
    assert_eq!((answer.status, answer.field("x-big").map(|v| v.len())), (200, Some(60_000)));
    assert_eq!(origin.next_request().field("x-filler").map(|v| v.len()), Some(60_000));
}

#[test]
fn an_unreachable_upstream_is_502_and_says_so() {
    let upstream = nowhere();
    let proxy = http_proxy(upstream);
    let mut caller = Caller::of(&proxy);
    for _ in 0..2 {
        let answer = caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(answer.status, 502);
        assert!(answer.body.starts_with(&format!("httptp: upstream {upstream}: cannot connect: ")), "{}", answer.body);
        assert_eq!(answer.body.lines().count(), 1);
    }
    assert_eq!(proxy.stats().upstream_errors, 2);
}

#[test]
fn a_slow_upstream_is_504() {
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_secs(10));
        OK.into()
    });
    let mut config = http_config(origin.addr());
    config.outbound.timeout = Some(Duration::from_millis(50));
    let proxy = Running::start(config);
    let start = Instant::now();
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 504);
    assert!(answer.body.contains(&origin.addr().to_string()), "{}", answer.body);
    assert!(start.elapsed() < Duration::from_secs(8));
    assert_eq!(proxy.stats().timeouts, 1);
}

#[test]
fn a_response_over_the_limit_is_502() {
    let origin = Origin::answering(|request| match request.start_line.contains("chunked") {
        false => "HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n01234567890".into(),
        true => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n01234567890\r\n0\r\n\r\n".into(),
    });
    let mut config = http_config(origin.addr());
    config.outbound.max_body_bytes = 10;
    let proxy = Running::start(config);
    let mut caller = Caller::of(&proxy);
    for target in ["/", "/chunked"] {
        let answer = caller.exchange(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        assert_eq!(answer.status, 502);
        assert!(answer.body.contains("--out-max-body-size"), "{}", answer.body);
    }
}

#[test]
fn an_upstream_that_speaks_no_http_is_502() {
    let origin = Origin::answering(|_| "SSH-2.0-OpenSSH_9.6\r\n\r\n".into());
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("no HTTP/1"), "{}", answer.body);
}

#[test]
fn a_cut_response_is_502() {
    let origin = Origin::answering(|_| "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".into()).closing();
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("broke off"), "{}", answer.body);
}

#[test]
fn too_many_requests_at_once_are_429() {
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_millis(300));
        OK.into()
    });
    let mut config = http_config(origin.addr());
    config.concurrency = 2;
    let proxy = Running::start(config);
    let mut first: Vec<Caller> = (0..2).map(|_| Caller::of(&proxy)).collect();
    for caller in &mut first {
        caller.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    }
    proxy.wait_for(|stats| stats.in_flight == 2);
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 429);
    assert!(answer.body.contains("--concurrency"), "{}", answer.body);
    for caller in &mut first {
        assert_eq!(caller.read("GET").status, 200);
    }
    assert_eq!(Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
}

#[test]
fn a_stale_connection_is_replaced() {
    // Each connection is good for one request and is closed without a word afterwards.
    let origin = Origin::answering(|_| OK.into()).closing();
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    for round in 0..20 {
        let answer = caller.exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(answer.status, 200, "round {round}: {}", answer.body);
    }
    // Once the close was seen, a POST has nothing to fear either.
    std::thread::sleep(Duration::from_millis(50));
    let answer = caller.exchange("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(origin.connections(), 21);
    assert_eq!(origin.requests(), 21);
}

#[test]
fn a_sent_post_is_not_repeated_and_a_sent_get_once() {
    // The first request of a connection is answered, the second read and dropped.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let tell = tell.clone();
            std::thread::spawn(move || {
                for number in 1..=2 {
                    let mut buffer = [0; 4096];
                    let Ok(n) = stream.read(&mut buffer) else { return };
                    if n == 0 {
                        return;
                    }
                    let _ = tell.send(());
                    if number == 1 {
                        stream.write_all(OK.as_bytes()).unwrap();
                    }
                }
            });
        }
    });
    let proxy = http_proxy(addr);
    let mut caller = Caller::of(&proxy);
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
    assert_eq!(caller.exchange(get).status, 200);
    assert_eq!(told.try_iter().count(), 1);
    assert_eq!(caller.exchange(post).status, 502);
    assert_eq!(told.try_iter().count(), 1);
    assert_eq!(caller.exchange(post).status, 200);
    assert_eq!(told.try_iter().count(), 1);
    assert_eq!(caller.exchange(get).status, 200);
    assert_eq!(told.try_iter().count(), 2);
}

#[test]
fn garbage_harms_nobody_else() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let hostile: [&[u8]; 7] = [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"httpteleport\0\0\0",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"\0\0\0\0\0\0\0\0",
        b"GET",
    ];
    for bytes in hostile {
        let mut stream = std::net::TcpStream::connect(proxy.addr()).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
    assert_eq!(origin.requests(), 1);
}

#[test]
fn requests_in_hand_end_when_the_proxy_stops() {
    let origin = Origin::answering(|_| {
        std::thread::sleep(Duration::from_millis(300));
        OK.into()
    });
    let proxy = http_proxy(origin.addr());
    let addr = proxy.addr();
    let mut busy = Caller::of(&proxy);
    let mut idle = Caller::of(&proxy);
    busy.send("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    proxy.wait_for(|stats| stats.in_flight == 1);
    let start = Instant::now();
    proxy.stop();
    assert!(start.elapsed() < Duration::from_secs(3));
    assert_eq!(busy.read("GET").status, 200);
    assert!(busy.is_closed());
    assert!(idle.is_closed());
    assert!(std::net::TcpStream::connect(addr).is_err());
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = http_config(nowhere());
    config.inbound.addr = taken.local_addr().unwrap().to_string();
    let error = Running::try_start(config).err().unwrap().to_string();
    assert!(error.contains("the port is in use") && error.contains("choose another"), "{error}");
}

/// An address where nobody listens.
fn nowhere() -> std::net::SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn heads_of_128_fields_pass_both_ways_and_longer_ones_are_named() {
    // R-limit-fields; Host or Content-Length is one of them
    let fields = |n: usize| (1..n).map(|i| format!("X-{i}: {i}\r\n")).collect::<String>();
    let origin = Origin::answering(move |request| {
        let n = if request.start_line.contains("/more") { 129 } else { 128 };
        format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", fields(n))
    });
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    assert_eq!(caller.exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(128))).status, 200);
    assert_eq!(origin.next_request().fields.len(), 128);
    let answer = caller.exchange("GET /more HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!(answer.status, 502);
    assert!(answer.body.contains("128 fields"), "{}", answer.body);
    let answer = Caller::of(&proxy).exchange(&format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", fields(129)));
    assert_eq!(answer.status, 431);
}

#[test]
fn a_status_without_a_name_gets_none() {
    let origin = Origin::answering(|_| "HTTP/1.1 299 Whatever\r\nContent-Length: 2\r\n\r\nok".into());
    let proxy = http_proxy(origin.addr());
    let answer = Caller::of(&proxy).exchange("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
    assert_eq!((answer.start_line.trim_end(), answer.body.as_str()), ("HTTP/1.1 299", "ok"));
}

#[test]
fn a_connection_that_has_rested_goes_on_where_it_was() {
    // Twice the time after which hyper's part of it goes; here that is the idle time-out.
    let origin = Origin::answering(|request| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{}", request.body.len(), request.body)
    });
    let mut config = http_config(origin.addr());
    config.inbound.idle_timeout = Duration::from_secs(12);
    let proxy = Running::start(config);
    let post = |body: &str| format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let (mut used, mut fresh, mut begun) = (Caller::of(&proxy), Caller::of(&proxy), Caller::of(&proxy));
    assert_eq!(used.exchange(&post("before")).body, "before");
    begun.send("POST / HTTP/1.1\r\nHost: ");
    proxy.wait_for(|stats| stats.memory_held > 3 * 16 * 1024);
    proxy.wait_for(|stats| stats.memory_held < 2 * 8 * 1024 + 24 * 1024);
    // Pipelined, in pieces, and with what was sent before.
    used.send(&format!("{}{}", post("first"), &post("second")[..9]));
    assert_eq!(used.read("POST").body, "first");
    used.send(&post("second")[9..]);
    assert_eq!(used.read("POST").body, "second");
    assert_eq!(fresh.exchange(&post("fresh")).body, "fresh");
    begun.send("h\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(begun.read("POST").body, "hi");
    // What is doubtful stays so.
    assert_eq!(used.exchange("GET / HTTP/1.1\nHost: h\r\n\r\n").status, 400);
    assert!(used.is_closed());
    // And they end in their time.
    assert!(fresh.is_closed());
}
