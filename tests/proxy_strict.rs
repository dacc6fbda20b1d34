//! What is read of HTTP/1 that two readers could delimit differently: nothing (R-proxy-strict).

// Callers and origins are real sockets in real time.
#![cfg(feature = "httptp")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use common::{Caller, Origin, http_proxy};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn a_request_in_doubt_is_400_and_ends_its_connection() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    for bad in [
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\nhi",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2, 2\r\n\r\nhi",
        "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +2\r\n\r\nhi",
        "POST / HTTP/1.1\r\nHost: h\nContent-Length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\nHost: h\n\n",
        "\nGET / HTTP/1.1\r\nHost: h\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0;a=b\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\nhi\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0;a\rb\r\n\r\n",
    ] {
        let mut caller = Caller::of(&proxy);
        let next = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
        let answer = caller.exchange(&format!("{bad}{next}"));
        assert_eq!(answer.status, 400, "{bad:?}");
        assert!(caller.is_closed(), "{bad:?}");
        // The same, when the beginning is read before the rest, and behind a request that is clear.
        let mut caller = Caller::of(&proxy);
        caller.send("POST /clear HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\n");
        caller.send(&format!("x{}", &bad[..9]));
        assert_eq!(caller.read("POST").status, 200);
        caller.send(&bad[9..]);
        assert_eq!(caller.read("GET").status, 400, "{bad:?}");
        assert!(caller.is_closed(), "{bad:?}");
    }
    assert_eq!(origin.requests(), 13, "what came before, and nothing else");
    // What is clear goes on, also pipelined.
    let mut caller = Caller::of(&proxy);
    let chunked =
        "POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n0\r\nX: y\r\n\r\n";
    let plain = "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
    caller.send(&format!("{chunked}{plain}{chunked}{plain}"));
    for _ in 0..4 {
        assert_eq!(caller.read("POST").status, 200);
    }
    assert_eq!(origin.requests(), 17);
}

#[test]
fn a_refusal_says_why_and_is_counted() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(64 * 1024));
    let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "A: b\r\n".repeat(128));
    let long = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "x".repeat(70_000));
    let cases = [
        (large.as_str(), 431, "--in-max-header-size"),
        // It need not be whole.
        (&large[..large.len() - 9], 431, "65536 bytes"),
        (&many, 431, "128 fields"),
        (&long, 431, "larger than"),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
            400,
            "more than one Content-Length",
        ),
        ("GET /\x01 HTTP/1.1\r\nHost: h\r\n\r\n", 400, "target"),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", 400, "bare LF"),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n", 400, "line in the head"),
        ("G(T / HTTP/1.1\r\nHost: h\r\n\r\n", 400, "method"),
        ("GET / HTTP/1.2\r\nHost: h\r\n\r\n", 400, "version"),
        ("\x16\x03\x01\x02\0\x01", 400, "no request"),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "version"),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501, "`chunked`"),
    ];
    let before = "GET /clear HTTP/1.1\r\nHost: h\r\n\r\n";
    for (bad, status, why) in cases {
        let mut caller = Caller::of(&proxy);
        let answer = caller.exchange(bad);
        assert_eq!(answer.status, status, "{bad:.99?}");
        assert!(answer.body.starts_with("httptp: ") && answer.body.contains(why), "{bad:.99?}: {}", answer.body);
        assert_eq!(answer.field("connection").as_deref(), Some("close"));
        assert!(caller.is_closed(), "{bad:.99?}");
        // Behind what is clear it takes its turn.
        let mut caller = Caller::of(&proxy);
        caller.send(&format!("{before}{before}{bad}"));
        assert_eq!(
            (caller.read("GET").status, caller.read("GET").status, caller.read("GET").status),
            (200, 200, status)
        );
        assert!(caller.is_closed(), "{bad:.99?}");
    }
    let mut caller = Caller::of(&proxy);
    caller.send("HEAD / HTTP/1.1\nHost: h\r\n\r\n");
    assert_eq!(caller.read_head().status, 400);
    assert!(caller.is_closed(), "an answer to HEAD has no body");
    let stats = proxy.stats();
    assert_eq!((stats.refused, stats.responses), (2 * cases.len() as u64 + 1, 2 * cases.len() as u64));
    assert_eq!(stats.requests, stats.refused + stats.responses);
}

#[test]
fn empty_lines_before_a_request_are_no_part_of_it() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    let mut caller = Caller::of(&proxy);
    let request = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let lines = "\r\n".repeat(40_000);
    // As long as a head may be, without them.
    let large = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {}\r\n\r\n", "x".repeat(65_536 - 32));
    assert_eq!(large.len(), 65_536);
    for request in [format!("{lines}{request}"), format!("\r\n{large}"), format!("{lines}{lines}{large}")] {
        caller.send(&request);
        assert_eq!(caller.read("GET").status, 200);
    }
    let answer = caller.exchange(&format!("\r\n{}", large.replace("X: ", "X: x")));
    assert_eq!(answer.status, 431);
    assert!(answer.body.contains("--in-max-header-size"), "{}", answer.body);
}

#[test]
fn targets_as_advertisers_write_them_get_through() {
    let origin = Origin::answering(|_| OK.into());
    let proxy = http_proxy(origin.addr());
    for (target, read) in [
        (&b"/p?q=<x>"[..], "/p?q=%3Cx%3E"),
        (b"/p?q=\"x\"&b=`", "/p?q=%22x%22&b=%60"),
        (b"/p`<", "/p%60%3C"),
        (b"/\xff?\xc3\xa4", "/%FF?%C3%A4"),
        (b"/{\"a\":[1|2^3]}\\", "/{%22a%22:[1|2^3]}\\"),
        (b"http://h/p?q=<x>", "/p?q=%3Cx%3E"),
        (b"/%3c%", "/%3c%"),
    ] {
        let mut caller = Caller::of(&proxy);
        caller.send_bytes(&[&b"GET "[..], target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat());
        assert_eq!(caller.read("GET").status, 200, "{read}");
        assert_eq!(origin.next_request().start_line, format!("GET {read} HTTP/1.1"));
        // The same in pieces.
        for byte in [&b"GET "[..], target, b" HTTP/1.1\r\nHost: h\r\n\r\n"].concat() {
            caller.send_bytes(&[byte]);
        }
        assert_eq!(caller.read("GET").status, 200, "{read}");
        assert_eq!(origin.next_request().start_line, format!("GET {read} HTTP/1.1"));
    }
}

#[test]
fn a_response_in_doubt_is_502_and_ends_its_connection() {
    for bad in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
    ] {
        let origin =
            Origin::answering(move |request| if request.start_line.contains("/bad") { bad } else { OK }.into());
        let proxy = http_proxy(origin.addr());
        let mut caller = Caller::of(&proxy);
        assert_eq!(caller.exchange("GET /good HTTP/1.1\r\nHost: h\r\n\r\n").status, 200);
        let answer = caller.exchange("POST /bad HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(answer.status, 502, "{bad:?}");
        assert_eq!(caller.exchange("GET /good HTTP/1.1\r\nHost: h\r\n\r\n").body, "ok");
        assert_eq!(origin.connections(), 2, "{bad:?}");
    }
}
