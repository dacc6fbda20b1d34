//! Messages (spec/05-messages.md): its tables of inputs and outcomes row by row, in both roles, and what a sender
//! writes or will not write.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderValue, Request};
use httpteleport::proto::{ClientConnection, Compression, Limits, ServerConnection, ServerEvent};
use support::Out::{Amb, Del, Err, Ref};
use support::*;

const POST: &str = "POST /a \"abcd\"";
const GET: &str = "GET /a \"\"";

#[rustfmt::skip]
const SERVER: &[(&[u8], Out)] = &[
    // 5.6, in its order
    (b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\nHost: h\n\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\nHost: h\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\nHost: h\r\n\n", Del(GET)),
    (b"GET /a HTTP/1.0\r\nHost: h\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\n\r\n", Del(GET)),
    (b"\r\n\n\r\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd", Err("body-not-allowed")),
    (b"HEAD /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", Err("body-not-allowed")),
    (b"POST /a HTTP/1.1\r\nHost: h\r\n\r\n", Del("POST /a \"\"")),
    (b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nabcd", Del(POST)),
    (b"POST /a HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nabcd", Del(POST)),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", Del(POST)),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4;x=y\r\nabcd\r\n0\r\n\r\n", Err("chunked-body")),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nA: b\r\n\r\n", Err("chunked-body")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Err("length-and-chunked")),
    (b"POST /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4\r\nContent-Length: 4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4x\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: -4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: +4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4, 4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length:\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: \r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length:\t4\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4\t\r\n\r\nabcd", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length : 4\r\n\r\nabcd", Err("field-line")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4\r\n 5\r\n\r\nabcd", Err("field-line")),
    (b"POST /a HTTP/1.1\r\nX\r\nContent-Length: 4\r\n\r\nabcd", Err("field-line")),
    (b"POST /a HTTP/1.1\r\nX-A: b\r\n c\r\nContent-Length: 4\r\n\r\nabcd", Err("field-line")),
    (b"HEAD /a HTTP/1.1\r\nContent-Length: 4\r\n\r\n", Err("body-not-allowed")),
    (b"GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", Err("body-not-allowed")),
    (b"GET /a HTTP/1.1\r\nX-A: b\r\n c\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nHost : h\r\n\r\n", Ref("field", 400)),
    (b"G(T /a HTTP/1.1\r\n\r\n", Ref("method", 400)),
    (b"G(T /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", Ref("method", 400)),
    (b"CONNECT h:1 HTTP/1.1\r\n\r\n", Ref("method-connect", 501)),
    (b"CONNECT /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", Ref("method-connect", 501)),
    (b"GET /a b HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET http://h/ HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET  HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET /a HTTP/1.2\r\n\r\n", Ref("version", 400)),
    (b"GET /a HTTP/2.0\r\n\r\n", Err("start-line")),
    (b"GET /a\r\n\r\n", Err("start-line")),
    (b"\x00\x01\x02\x03\r\n\r\n", Err("start-line")),
    // R-read-lenient, R-read-length, R-read-transfer-encoding
    (b"POST /a HTTP/1.1\r\ncOnTeNt-LeNgTh:   0004  \r\nX-Empty:\r\nX-Tab:\t v \t\r\n\r\nabcd", Del(POST)),
    (b"POST /a HTTP/1.1\r\ntransfer-ENCODING:  Chunked  \r\n\r\n4\r\nabcd\r\n0\r\n\r\n", Del(POST)),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding:\tchunked\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding:\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n", Err("transfer-encoding")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 9223372036854775808\r\n\r\n", Err("content-length")),
    (b"POST /a HTTP/1.1\r\nContent-Length: 9223372036854775807\r\n\r\n", Err("message-too-large")),
    (b"GET /a HTTP/1.1\r\nContent-Length: 4x\r\n\r\n", Err("content-length")),
    (b"get /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", Del("get /a \"abcd\"")),
    (b"HEAD /a HTTP/1.1\r\nContent-Length: 1\r\n\r\n", Err("body-not-allowed")),
    (b"GET /a HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", Err("body-not-allowed")),
    // R-read-field-framing: anywhere in the line, in any case
    (b"GET /a HTTP/1.1\r\nX: y\r\n transfer-Encoding: x\r\n\r\n", Err("field-line")),
    (b"GET /a HTTP/1.1\r\nnot-a-CONTENT-LENGTH-at-all\r\n\r\n", Err("field-line")),
    (b"GET /a HTTP/1.1\r\nX-Content-Length\x00: 1\r\n\r\n", Err("field-line")),
    (b"GET /a HTTP/1.1\r\nX-A: content-length\x01\r\n\r\n", Err("field-line")),
    (b"GET /a HTTP/1.1\r\nX-A: content-length\r\n\r\n", Del(GET)),
    (b"GET /a HTTP/1.1\r\nX-Content-Length: 1, 2\r\n\r\n", Del(GET)),
    (b"POST /a HTTP/1.1\r\nContent-Length: 4\r\r\n\r\nabcd", Err("field-line")),
    // 5.3, further ways to be refused, each framed all the same
    (b"GET /a HTTP/1.9\r\n\r\n", Ref("version", 400)),
    (b"POST /a HTTP/1.2\r\nContent-Length: 4\r\n\r\nabcd", Ref("version", 400)),
    (b"POST /a HTTP/1.2\r\nTransfer-Encoding: chunked\r\n\r\n", Err("transfer-encoding")),
    (b"G\x80T /a HTTP/1.1\r\n\r\n", Ref("method", 400)),
    (b"GET a HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET ** HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET /\x7f HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET /\x01 HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET /\xc3\xa4 HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"GET /\r HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"OPTIONS * HTTP/1.1\r\n\r\n", Del("OPTIONS * \"\"")),
    (b"GET //x?y=%zz&[]{}|\\^ HTTP/1.1\r\n\r\n", Del("GET //x?y=%zz&[]{}|\\^ \"\"")),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\n folded: first\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nno colon\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\n: no name\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nX-A: 0123456789abcdef0123456789abcdef\x7f\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nX-A: b\rc\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nX-A: b\x00\r\n\r\n", Ref("field", 400)),
    (b"GET /a HTTP/1.1\r\nX-A: \x80\xff\r\n\r\n", Del(GET)),
    (b"POST /a HTTP/1.1\r\nX A: b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n", Ref("field", 400)),
    (b"POST /a HTTP/1.1\r\nX A: b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\nX", Err("chunked-body")),
    // Start lines that can or cannot be split (R-read-unparsable)
    (b"GET /a HTTP/1.10\r\n\r\n", Err("start-line")),
    (b"GET /a http/1.1\r\n\r\n", Err("start-line")),
    (b"GET /a HTTP/1.1 \r\n\r\n", Err("start-line")),
    (b" GET /a HTTP/1.1\r\n\r\n", Err("start-line")),
    (b"GET HTTP/1.1\r\n\r\n", Err("start-line")),
    (b"GET  /a HTTP/1.1\r\n\r\n", Ref("target", 400)),
    (b"\rGET /a HTTP/1.1\r\n\r\n", Ref("method", 400)),
    // R-read-judge-order, R-read-link-first: the first of several faults
    (b"G(T /a b HTTP/1.2\r\nHost : h\r\n\r\n", Ref("version", 400)),
    (b"G(T x HTTP/1.1\r\nHost : h\r\n\r\n", Ref("method", 400)),
    (b"CONNECT x HTTP/1.1\r\nHost : h\r\n\r\n", Ref("method-connect", 501)),
    (b"GET x HTTP/1.1\r\nHost : h\r\n\r\n", Ref("target", 400)),
    (b"GET /a HTTP/1.2\r\nContent-Length: 4\r\n\r\n", Err("body-not-allowed")),
    (b"GET /a HTTP/3\r\nContent-Length : 4\r\n\r\n", Err("start-line")),
    (b"GET /a HTTP/1.1\r\nContent-Length : 4\r\nContent-Length: x\r\n\r\n", Err("field-line")),
    (b"GET /a HTTP/1.1\r\nContent-Length: x\r\nTransfer-Encoding: x\r\n\r\n", Err("content-length")),
    (b"POST /a HTTP/1.0\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n", Err("transfer-encoding")),
];

#[test]
fn requests_end_as_the_tables_say() {
    for (message, out) in SERVER {
        check_server(&Limits::default(), message, *out);
    }
}

#[rustfmt::skip]
const CLIENT: &[(&str, &[u8], Out)] = &[
    // 5.6, in its order
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    ("GET", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Del("200 \"abc\"")),
    ("GET", b"HTTP/1.1 200 OK\r\n\r\n", Err("length-required")),
    ("GET", b"HTTP/1.1 204 No Content\r\n\r\n", Del("204 \"\"")),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Del("304 \"\"")),
    ("GET", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    ("GET", b"HTTP/1.1 103 Early Hints\r\n\r\n", Ref("interim-response", 0)),
    ("GET", b"HTTP/1.1 099 Odd\r\nContent-Length: 1\r\n\r\na", Ref("status", 0)),
    ("GET", b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", Del("600 \"\"")),
    ("GET", b"garbage\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 20 OK\r\n\r\n", Err("start-line")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTeleport-Head-Length: 13\r\n\r\n", Del("200 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", Del("200 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody", Amb("200 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Amb("200 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\n\r\n", Amb("200 \"\"")),
    ("HEAD", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", Del("304 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 4x\r\n\r\n", Err("content-length")),
    // 5.4 and 5.5, the rest of their tables
    ("HEAD", b"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", Del("204 \"\"")),
    ("HEAD", b"HTTP/1.1 103 Early Hints\r\n\r\n", Ref("interim-response", 0)),
    ("HEAD", b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", Del("404 \"\"")),
    ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n", Err("length-and-chunked")),
    ("GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n", Del("204 \"\"")),
    ("GET", b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", Del("304 \"\"")),
    ("GET", b"HTTP/1.1 204 No Content\r\nContent-Length: x\r\n\r\n", Err("content-length")),
    ("GET", b"HTTP/1.1 199 Odd\r\nContent-Length: 7\r\n\r\n", Ref("interim-response", 0)),
    ("GET", b"HTTP/1.1 101 Switching\r\nTransfer-Encoding: gzip\r\n\r\n", Err("transfer-encoding")),
    // R-read-continue: any number, no body whatever they state, each looked at like any other head
    ("GET", b"HTTP/1.1 100 C\r\nContent-Length: 5\r\n\r\nHTTP/1.1 100\r\n\r\nHTTP/1.1 204 N\r\n\r\n", Del("204 \"\"")),
    ("GET", b"HTTP/1.1 100 C\r\nContent-Length: x\r\n\r\nHTTP/1.1 204 N\r\n\r\n", Err("content-length")),
    ("GET", b"HTTP/1.1 100 C\r\n\r\ngarbage\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 100 C\r\n\r\nHTTP/1.1 103 E\r\n\r\n", Ref("interim-response", 0)),
    // R-read-status, R-read-lenient, R-read-version
    ("GET", b"HTTP/1.1 999 Odd\r\nContent-Length: 1\r\n\r\na", Del("999 \"a\"")),
    ("GET", b"HTTP/1.1 000 Odd\r\nContent-Length: 1\r\n\r\na", Ref("status", 0)),
    ("GET", b"HTTP/1.1 099 Odd\r\n\r\n", Err("length-required")),
    ("GET", b"HTTP/1.1 200 O\x01K\r\nContent-Length: 1\r\n\r\na", Ref("status", 0)),
    ("GET", b"HTTP/1.1 200 O\x7fK\r\nContent-Length: 1\r\n\r\na", Ref("status", 0)),
    ("GET", b"HTTP/1.1 200 \xc3\xa4\t.\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    ("GET", b"HTTP/1.1 200\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    ("GET", b"HTTP/1.1 200 \nContent-Length: 1\n\na", Del("200 \"a\"")),
    ("GET", b"\r\n\nHTTP/1.0 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    ("GET", b"HTTP/1.2 200 OK\r\nContent-Length: 1\r\n\r\na", Ref("version", 0)),
    ("GET", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Err("transfer-encoding")),
    ("GET", b"HTTP/2 200 OK\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 2000 OK\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 2x0 OK\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1  200 OK\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 200\tOK\r\n\r\n", Err("start-line")),
    ("GET", b"HTTP/1.1 200 OK\r\nX A: b\r\nContent-Length: 1\r\n\r\na", Ref("field", 0)),
    ("GET", b"HTTP/1.1 200 OK\r\nX: b\r\n c: d\r\nContent-Length: 1\r\n\r\na", Ref("field", 0)),
    ("GET", b"HTTP/1.1 200 OK\r\nX: b\r\n c\r\nContent-Length: 1\r\n\r\na", Err("field-line")),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\tc\r\n\r\na", Err("field-line")),
    ("GET", b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", Err("content-length")),
    ("GET", b"HTTP/1.1 200 OK\r\nHost: a\r\nHost: b\r\nContent-Length: 1\r\n\r\na", Del("200 \"a\"")),
    // R-read-judge-order, R-read-link-first
    ("GET", b"HTTP/1.2 099 O\x01\r\nX A: b\r\nContent-Length: 0\r\n\r\n", Ref("version", 0)),
    ("GET", b"HTTP/1.1 099 O\r\nX A: b\r\nContent-Length: 0\r\n\r\n", Ref("status", 0)),
    ("GET", b"HTTP/1.1 103 O\r\nX A: b\r\n\r\n", Ref("field", 0)),
    ("GET", b"HTTP/1.2 200 OK\r\n\r\n", Err("length-required")),
];

#[test]
fn responses_end_as_the_tables_say() {
    for (method, message, out) in CLIENT {
        check_client(&Limits::default(), method, message, *out);
    }
}

#[test]
fn what_would_be_refused_does_not_matter_in_a_skipped_head() {
    // R-read-continue: "What would only be a refusal (5.3) does not matter in a skipped head"
    for head in ["HTTP/1.1 100 C\r\nX A: b\r\n\r\n", "HTTP/1.2 100 C\r\n\r\n", "HTTP/1.1 100 C\x01\r\n\r\n"] {
        let message = format!("{head}\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na");
        check_client(&Limits::default(), "GET", message.as_bytes(), Del("200 \"a\""));
    }
}

#[test]
fn two_hosts_are_reported_before_too_many_fields() {
    // R-read-judge-order: refusals in the order of the table of 5.3
    let many = "X: y\r\n".repeat(129);
    let message = format!("GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n{many}\r\n");
    check_server(&Limits::default(), message.as_bytes(), Ref("field", 400));
}

#[test]
fn responses_that_answer_nobody_are_discarded_with_the_framing_of_a_get() {
    // R-response-unmatched, R-id-zero-response, R-refuse-client: the next frame is read
    let now = Instant::now();
    let ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nzz";
    let refused = "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nzz";
    for text in [ok, refused, "HTTP/1.1 103 E\r\n\r\n", "HTTP/1.1 204 N\r\n\r\n"] {
        for id in [0, 77, u32::MAX] {
            let mut client = client(Compression::None, now);
            client.send_request(now, &request("HEAD", "/", ""), None).unwrap();
            let head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
            // The second answer to id 1 is read as that to a GET, though the request was HEAD.
            let bytes = [&HELLO[..], &frame(id, text), &frame(1, head), &frame(1, ok)].concat();
            for cut in [1, usize::MAX] {
                // The request leaves between the hellos and the answers: those before it would be answers to none.
                let mut events = feed_client(&mut client, now, &bytes[..HELLO.len()], std::iter::repeat(cut));
                transmit(|out| client.poll_transmit(now, out));
                events.extend(feed_client(&mut client, now, &bytes[HELLO.len()..], std::iter::repeat(cut)));
                let lines: Vec<_> = events.iter().map(client_line).collect();
                let expected = ["connected", &format!("unmatched {id}"), "response 1 200 \"\"", "unmatched 1"];
                assert_eq!(lines, expected);
                client = support::client(Compression::None, now);
                client.send_request(now, &request("HEAD", "/", ""), None).unwrap();
            }
        }
    }
}

#[test]
fn the_length_that_a_response_to_head_tells() {
    // R-read-head-response, R-read-head-length: (fields, Content-Length that the caller sees, keeps the rule)
    let limits = Limits::default();
    for (fields, told) in [
        ("Content-Length: 0\r\nTeleport-Head-Length: 13\r\n", Some("13")),
        ("teleport-HEAD-length: 0\r\ncontent-length: 00\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length:  9223372036854775807 \r\n", Some("9223372036854775807")),
        ("Content-Length: 0\r\nTeleport-Head-Length: none\r\n", None),
        ("Content-Length: 0\r\nTeleport-Head-Length: NoNe\r\n", None),
        ("Content-Length: 0\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length: 1\r\nTeleport-Head-Length: 1\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length: 9223372036854775808\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length: x\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length: +1\r\n", Some("0")),
        ("Content-Length: 0\r\nTeleport-Head-Length:\r\n", Some("0")),
    ] {
        let message = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
        let responses = check_client(&limits, "HEAD", message.as_bytes(), Del("200 \"\""));
        let headers = responses[0].headers();
        assert_eq!(headers.get("content-length").map(|v| v.to_str().unwrap()), told, "{fields:?}");
        assert!(!headers.contains_key("teleport-head-length"), "R-read-head-length");
    }
    // The field is removed from every other message too, and changes nothing there.
    let other = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTeleport-Head-Length: 13\r\n\r\na";
    let responses = check_client(&limits, "GET", other, Del("200 \"a\""));
    assert_eq!(responses[0].headers()["content-length"], "1");
    assert!(!responses[0].headers().contains_key("teleport-head-length"));
    let other = b"HTTP/1.1 304 N\r\nContent-Length: 0\r\nTeleport-Head-Length: 13\r\n\r\n";
    let responses = check_client(&limits, "HEAD", other, Del("304 \"\""));
    assert_eq!(responses[0].headers()["content-length"], "0");
    assert!(!responses[0].headers().contains_key("teleport-head-length"));
}

#[test]
fn a_head_length_with_a_leading_zero_is_malformed_and_changes_nothing() {
    // R-read-head-response: "a value as in the grammar"; 5.1: content-length = "0" / ( %x31-39 *18DIGIT )
    let message = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nTeleport-Head-Length: 013\r\n\r\n";
    let responses = check_client(&Limits::default(), "HEAD", message, Del("200 \"\""));
    assert_eq!(responses[0].headers()["content-length"], "0");
}

#[test]
fn a_target_may_be_handed_over_percent_encoded_but_not_refused() {
    // R-read-target
    let target = |target: &str, seen: &'static str| {
        let message = format!("GET {target} HTTP/1.1\r\n\r\n");
        check_server(&Limits::default(), message.as_bytes(), Del(seen));
    };
    target("/a\"<>`", "GET /a%22%3C%3E%60 \"\"");
    target("/a?b#c", "GET /a?b \"\"");
    // Every byte of the grammar
    for byte in 0x21..=0x7eu8 {
        let message = [b"GET /", &[byte][..], b"?", &[byte], b" HTTP/1.1\r\n\r\n"].concat();
        let (lines, _) = serve(&Limits::default(), &frame(1, message), usize::MAX);
        assert!(lines[0].starts_with("request 1 GET /"), "{:?}: {lines:?}", char::from(byte));
    }
}

#[test]
fn a_target_is_refused_only_beyond_65534_bytes_after_encoding() {
    // R-read-target: three bytes for each `<`
    for (length, over) in [(65_534, false), (65_535, true)] {
        let angles = (length - 3) / 3;
        let target = format!("/{}{}", "a".repeat(length - 1 - 3 * angles), "<".repeat(angles));
        let (lines, _) = serve(&Limits::default(), &frame(1, format!("GET {target} HTTP/1.1\r\n\r\n")), usize::MAX);
        let expected = if over { "refused 1 target" } else { "request 1 GET /a" };
        assert!(lines[0].starts_with(expected), "{length}: {}", &lines[0][..30.min(lines[0].len())]);
    }
}

/// A head of exactly `length` bytes, which ends with `end` (its last fields and the empty line).
fn head_of(length: usize, start: &str, end: &str) -> String {
    let pad = length - start.len() - end.len() - "X: \r\n".len();
    format!("{start}X: {}\r\n{end}", "x".repeat(pad))
}

#[test]
fn a_head_may_be_as_long_as_its_limit() {
    // R-limit-head: from the start line to the empty line, without the empty lines before it
    for limit in [4096, 65_536] {
        let limits = Limits { head_bytes: limit, ..Limits::default() };
        for (length, over) in [(limit - 1, false), (limit, false), (limit + 1, true)] {
            let out = |out| if over { Err("head-too-large") } else { out };
            let get = head_of(length, "GET /a HTTP/1.1\r\n", "\r\n");
            check_server(&limits, get.as_bytes(), out(Del(GET)));
            check_server(&limits, format!("\r\n\n{get}").as_bytes(), out(Del(GET)));
            let ok = head_of(length, "HTTP/1.1 200 OK\r\n", "Content-Length: 0\r\n\r\n");
            check_client(&limits, "GET", ok.as_bytes(), out(Del("200 \"\"")));
            // Each skipped head has the limit for itself.
            let skipped = head_of(length, "HTTP/1.1 100 C\r\n", "\r\n");
            check_client(&limits, "GET", format!("{skipped}{skipped}{ok}").as_bytes(), out(Del("200 \"\"")));
            // "as soon as that many bytes have arrived without the end of the head"
            let now = Instant::now();
            let mut server = limited_server(&limits, now);
            server.handle_input(now, HELLO);
            server.handle_input(now, &frame(1, &get.as_bytes()[..limit - 1]));
            assert!(!server.is_closed());
            server.handle_input(now, &get.as_bytes()[limit - 1..get.len().min(limit)]);
            transmit(|out| server.poll_transmit(now, out));
            assert_eq!(server.is_closed(), over, "limit {limit}, head {length}");
        }
    }
}

#[test]
fn a_head_may_have_as_many_fields_as_its_limit() {
    // R-limit-fields; R-read-field-scan: a refused message is framed by all its lines
    for limit in [64, 128, 256] {
        let limits = Limits { header_count: limit, ..Limits::default() };
        for (count, over) in [(limit, false), (limit + 1, true), (2 * limit, true)] {
            let (many, one_more) = ("X: y\r\n".repeat(count - 1), "Content-Length: 4\r\n\r\nabcd");
            let request = format!("POST /a HTTP/1.1\r\n{many}{one_more}");
            let refused = Ref("too-many-fields", 431);
            check_server(&limits, request.as_bytes(), if over { refused } else { Del(POST) });
            let response = format!("HTTP/1.1 200 OK\r\n{many}{one_more}");
            check_client(&limits, "GET", response.as_bytes(), if over { refused } else { Del("200 \"abcd\"") });
            // Host is of requests: in a response it may occur as often as any field.
            let hosts = format!("HTTP/1.1 200 OK\r\n{}{one_more}", "Host: y\r\n".repeat(count - 1));
            check_client(&limits, "GET", hosts.as_bytes(), if over { refused } else { Del("200 \"abcd\"") });
            let bad = format!("POST /a HTTP/1.1\r\n{many}Content-Length: 4x\r\n\r\nabcd");
            check_server(&limits, bad.as_bytes(), Err("content-length"));
        }
    }
}

#[test]
fn a_body_may_be_as_long_as_its_limit() {
    // R-limit-body, R-read-discard-body: bytes after the chunked coding is undone
    let limits = Limits { body_bytes: 4, ..Limits::default() };
    let refused = Ref("body-too-large", 413);
    for (coded, over) in [
        ("Content-Length: 4\r\n\r\nabcd", false),
        ("Content-Length: 5\r\n\r\nabcde", true),
        ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n3\r\nbcd\r\n0\r\n\r\n", false),
        ("Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n4\r\nbcde\r\n0\r\n\r\n", true),
        ("Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n9\r\n012345678\r\n0\r\n\r\n", true),
    ] {
        let request = format!("POST /a HTTP/1.1\r\n{coded}");
        check_server(&limits, request.as_bytes(), if over { refused } else { Del(POST) });
        let response = format!("HTTP/1.1 200 OK\r\n{coded}");
        check_client(&limits, "GET", response.as_bytes(), if over { refused } else { Del("200 \"abcd\"") });
    }
    // What announces a body that does not come has none to be too large.
    check_client(&limits, "GET", b"HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", Del("304 \"\""));
}

/// Messages to measure: all plain bytes after the id count (7.1).
const MEASURED: [&str; 5] = [
    "\r\n\r\n\nGET /a HTTP/1.1\r\nHost: h\r\n\r\n",
    "POST /a HTTP/1.1\r\nContent-Length: 40\r\n\r\n0123456789012345678901234567890123456789",
    "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n00002\r\nab\r\n2\r\ncd\r\n000\r\n\r\n",
    "POST /a HTTP/1.9\r\nContent-Length: 4\r\n\r\nabcd",
    "POST /a HTTP/1.1\r\nX A: b\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n",
];

/// The number of bytes after the id with which a server of this limit closes, if it does.
fn closes_after(limit: usize, message: &str) -> Option<usize> {
    let now = Instant::now();
    let mut server = limited_server(&Limits { message_bytes: limit as u64, ..Limits::default() }, now);
    server.handle_input(now, &[&HELLO[..], &frame(1, "")].concat());
    message.bytes().position(|byte| {
        server.handle_input(now, &[byte]);
        transmit(|out| server.poll_transmit(now, out));
        server.is_closed()
    })
}

#[test]
fn a_message_may_be_as_long_as_its_limit() {
    // R-limit-message
    for message in MEASURED {
        let len = message.len();
        assert_eq!(closes_after(len, message), None, "{message:?}");
        assert!(closes_after(len - 1, message).is_some(), "{message:?}");
    }
    // What is announced counts at once: by a length, by a chunk size.
    let end_of_head = MEASURED[1].find("\r\n\r\n").unwrap() + 3;
    assert_eq!(closes_after(MEASURED[1].len() - 1, MEASURED[1]), Some(end_of_head));
    let chunk = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n100\r\nab";
    assert_eq!(closes_after(chunk.len() - 2 + 0xff, chunk), Some(chunk.len() - 3));
    // A response: skipped heads count too; a length that delimits nothing does not.
    let skipped = "HTTP/1.1 100 C\r\n\r\nHTTP/1.1 304 N\r\nContent-Length: 999\r\n\r\n";
    for (limit, out) in [(skipped.len(), Del("304 \"\"")), (skipped.len() - 1, Err("message-too-large"))] {
        let limits = Limits { message_bytes: limit as u64, ..Limits::default() };
        check_client(&limits, "GET", skipped.as_bytes(), out);
    }
}

#[test]
fn a_message_is_too_large_with_the_first_byte_beyond_its_limit() {
    // R-limit-message: "as soon as the bytes that have arrived ... are more", wherever in the message that is
    for message in MEASURED {
        for limit in 0..message.len() {
            let closed = closes_after(limit, message);
            assert!(closed.is_some_and(|at| at <= limit), "{message:?}: limit {limit}, closed at {closed:?}");
        }
    }
}

#[test]
fn chunked_bodies_have_one_form() {
    // R-read-chunked: (body, what is delivered or how many bytes it takes to see that it is wrong)
    for (body, expected) in [
        ("0\r\n\r\n", Ok("")),
        ("4\r\nabcd\r\n0\r\n\r\n", Ok("abcd")),
        ("1\r\na\r\n2\r\nbc\r\n1\r\nd\r\n00\r\n\r\n", Ok("abcd")),
        ("b\r\n0123456789a\r\n0\r\n\r\n", Ok("0123456789a")),
        ("B\r\n0\r\n\r\n56789a\r\n0\r\n\r\n", Ok("0\r\n\r\n56789a")),
        ("000000000000000A\r\n0123456789\r\n0000000000000000\r\n\r\n", Ok("0123456789")),
        ("00000000000000001\r\na\r\n0\r\n\r\n", Result::Err(17)),
        ("4;a=b\r\nabcd\r\n0\r\n\r\n", Result::Err(2)),
        ("4 \r\nabcd\r\n0\r\n\r\n", Result::Err(2)),
        (" 4\r\nabcd\r\n0\r\n\r\n", Result::Err(1)),
        ("4\nabcd\r\n0\r\n\r\n", Result::Err(2)),
        ("4\r\rabcd\r\n0\r\n\r\n", Result::Err(3)),
        ("\r\n\r\n", Result::Err(1)),
        ("x\r\n", Result::Err(1)),
        ("0x4\r\n", Result::Err(2)),
        ("-1\r\n", Result::Err(1)),
        ("4\r\nabcd\n0\r\n\r\n", Result::Err(8)),
        ("4\r\nabcde\r\n", Result::Err(8)),
        ("3\r\nabcd\r\n", Result::Err(7)),
        ("0\r\nA: b\r\n\r\n", Result::Err(4)),
        ("0\r\n\n", Result::Err(4)),
        ("0\r\n0\r\n\r\n", Result::Err(4)),
        ("8000000000000000\r\n", Result::Err(18)),
    ] {
        let head = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        match expected {
            Ok(joined) => {
                let (lines, _) = serve(&Limits::default(), &frame(1, format!("{head}{body}")), 1);
                assert_eq!(lines, [format!("request 1 POST /a {joined:?}"), "closed -".into()]);
                let text = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
                let responses = check_client(&Limits::default(), "GET", text.as_bytes(), Del(leak(joined)));
                assert!(!responses[0].headers().contains_key("transfer-encoding"));
            }
            Result::Err(at) => {
                check_server(&Limits::default(), format!("{head}{body}").as_bytes(), Err("chunked-body"));
                let closed = closes_after(1 << 30, &format!("{head}{body}")).map(|at| at + 1 - head.len());
                assert_eq!(closed, Some(at), "{body:?}: at the first byte that does not fit");
            }
        }
    }
    // 2^63 - 1 is a size; that it is more than a message may have is another matter.
    let largest = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\n";
    check_server(&Limits::default(), largest.as_bytes(), Err("message-too-large"));
}

fn leak(body: &str) -> &'static str {
    Box::leak(format!("200 {body:?}").into_boxed_str())
}

/// An open pair and what a client writes for a request, as plain bytes.
fn open(limits: &Limits, now: Instant) -> (ClientConnection, ServerConnection) {
    let (mut client, mut server) = (limited_client(limits, now), limited_server(limits, now));
    server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    while client.poll_event().is_some() || server.poll_event().is_some() {}
    (client, server)
}

#[test]
fn bad_requests_are_not_taken_and_harm_nothing() {
    // R-write-*: the code of the SendError; nothing is written, and the next request is
    let now = Instant::now();
    let limits = Limits { body_bytes: 8, head_bytes: 4096, ..Limits::default() };
    let with = |fields: &[(&'static str, &[u8])], uri: &str| {
        let mut request = Request::builder().method("POST").uri(uri).body(Bytes::new()).unwrap();
        for (name, value) in fields {
            request.headers_mut().append(*name, HeaderValue::from_bytes(value).unwrap());
        }
        request
    };
    let mut connect = request("CONNECT", "/", "");
    *connect.uri_mut() = "h.example:1".parse().unwrap();
    // "POST /a HTTP/1.1\r\nhost: h.example\r\nx: ...\r\ncontent-length: 0\r\n\r\n" of 4,097 bytes
    let long = vec![b'x'; 4097 - 18 - 17 - 5 - 19 - 2];
    let (client, server) = &mut open(&limits, now);
    for (request, code) in [
        (connect, "method-connect"),
        (request("GET", "/a", "b"), "body-not-allowed"),
        (request("HEAD", "/a", "b"), "body-not-allowed"),
        (request("POST", "/a", "123456789"), "body-too-large"),
        (with(&[("x", &long)], "http://h.example/a"), "head-too-large"),
        (with(&[], "/a"), "missing-host"),
        (with(&[("host", b"a"), ("host", b"a")], "/a"), "host"),
        (with(&[("host", b"\xe4")], "/a"), "host"),
    ] {
        let error = client.send_request(now, &request, None).unwrap_err();
        assert_eq!(error.code(), code);
        assert_eq!(client.send_oneway(now, &request).unwrap_err(), error);
        assert_eq!(transmit(|out| client.poll_transmit(now, out)), b"", "{code}: nothing is written");
    }
    assert_eq!((client.pending_requests(), client.stats().frames_out), (0, 0));
    // One byte less, and the same connection takes them.
    client.send_request(now, &request("POST", "/a", "12345678"), None).unwrap();
    let fits = with(&[("x", &long[1..])], "http://h.example/a");
    client.send_request(now, &fits, None).unwrap();
    server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
    assert!(matches!(server.poll_event(), Some(ServerEvent::Request { .. })));
    assert!(matches!(server.poll_event(), Some(ServerEvent::Request { .. })));
}

#[test]
fn bad_responses_are_not_taken_and_give_the_token_back() {
    // R-write-no-interim and the limits
    let now = Instant::now();
    let limits = Limits { body_bytes: 8, head_bytes: 4096, ..Limits::default() };
    let (client, server) = &mut open(&limits, now);
    client.send_request(now, &request("GET", "/a", ""), None).unwrap();
    server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
    let Some(ServerEvent::Request { mut token, .. }) = server.poll_event() else { panic!() };
    let mut long = response(200, "");
    long.headers_mut().insert("x", HeaderValue::from_bytes(&[b'x'; 4096]).unwrap());
    let statuses = [100, 101, 103, 199, 600, 999].map(|status| (response(status, ""), "status"));
    let others = [(response(200, "123456789"), "body-too-large"), (long, "head-too-large")];
    for (response, code) in statuses.into_iter().chain(others) {
        let rejected = server.send_response(now, token, &response).unwrap_err();
        assert_eq!(rejected.error.code(), code);
        assert_eq!(transmit(|out| server.poll_transmit(now, out)), b"", "{code}: nothing is written");
        token = rejected.token;
    }
    server.send_response(now, token, &response(599, "12345678")).unwrap();
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    assert_eq!(client.poll_event().map(|e| client_line(&e)).unwrap(), "response 1 599 \"12345678\"");
}

#[test]
fn a_request_that_is_not_taken_spends_no_id() {
    // R-id-order (SHOULD): each next request has the id plus 1
    let now = Instant::now();
    let mut client = client(Compression::None, now);
    assert!(client.send_request(now, &request("GET", "/a", "body"), None).is_err());
    assert_eq!(client.send_request(now, &request("GET", "/a", ""), None).unwrap().get(), 1);
}
