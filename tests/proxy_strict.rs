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
    assert_eq!(origin.requests(), 10, "what came before, and nothing else");
    // What is clear goes on, also pipelined.
    let mut caller = Caller::of(&proxy);
    let chunked =
        "POST /1 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\n\n\n\n\r\n0\r\nX: y\r\n\r\n";
    let plain = "POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n";
    caller.send(&format!("{chunked}{plain}{chunked}{plain}"));
    for _ in 0..4 {
        assert_eq!(caller.read("POST").status, 200);
    }
    assert_eq!(origin.requests(), 14);
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
