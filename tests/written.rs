//! What one side writes, and what the other reads of it.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use httpteleport::proto::{ClientEvent, Compression, ServerEvent};
use proptest::prelude::*;
use support::*;

/// Carries a request over a link and its response back.
fn exchange(
    compressions: [Compression; 2],
    sent: &Request<Bytes>,
    answer: &Response<Bytes>,
) -> (Request<Bytes>, Response<Bytes>, Message, Message) {
    let now = Instant::now();
    let (mut client, mut server) = (client(compressions[0], now), server(compressions[1], now));
    client.send_request(now, sent, None).unwrap();
    let mut up = transmit(|out| client.poll_transmit(now, out));
    server.handle_input(now, &up);
    let mut down = transmit(|out| server.poll_transmit(now, out));
    client.handle_input(now, &down);
    let more = transmit(|out| client.poll_transmit(now, out));
    server.handle_input(now, &more);
    up.extend(more);
    let requests = std::iter::from_fn(|| server.poll_event()).collect::<Vec<_>>();
    let Some(ServerEvent::Request { token, request }) = requests.into_iter().nth(1) else { panic!("no request") };
    server.send_response(now, token, answer).unwrap();
    let more = transmit(|out| server.poll_transmit(now, out));
    client.handle_input(now, &more);
    down.extend(more);
    let events = std::iter::from_fn(|| client.poll_event()).collect::<Vec<_>>();
    let Some(ClientEvent::Response { response, .. }) = events.into_iter().nth(1) else { panic!("no response") };
    (request, response, only_frame(&up), only_frame(&down))
}

/// The one frame of a direction, whatever its length fields say.
fn only_frame(bytes: &[u8]) -> Message {
    let compression = Compression::from_code(bytes[13]).unwrap();
    message(&decompressed(compression, &bytes[15..])[4..])
}

fn with(mut headers: HeaderMap, fields: &[(&'static str, &'static str)]) -> HeaderMap {
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_static(value));
    }
    headers
}

fn fields_of(message: &Message) -> Vec<(&str, &str)> {
    message.fields.iter().map(|(name, value)| (&name[..], std::str::from_utf8(value).unwrap())).collect()
}

/// What a sender makes of fields: method and status, given, written in the request, written in the response.
type Written = (
    &'static str,
    u16,
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
    &'static [(&'static str, &'static str)],
);

#[rustfmt::skip]
const WRITTEN: &[Written] = &[
    // R-write-host, R-write-length, R-write-no-body
    ("GET", 200, &[], &[("host", "h.example")], &[("content-length", "4")]),
    ("POST", 200, &[("content-length", "99"), ("host", "other")], &[("content-length", "4"), ("host", "h.example")],
        &[("content-length", "4"), ("host", "other")]),
    ("GET", 404, &[("content-length", "0")], &[("host", "h.example")], &[("content-length", "4")]),
    // R-write-no-hop-by-hop, R-write-no-chunked, R-write-no-expect, R-head-length-only
    ("GET", 200, &[("connection", "close"), ("keep-alive", "5"), ("proxy-connection", "x"), ("te", "x"), ("trailer", "x"),
        ("transfer-encoding", "chunked"), ("upgrade", "x"), ("teleport-head-length", "9"), ("x", "y")],
        &[("host", "h.example"), ("x", "y")], &[("content-length", "4"), ("x", "y")]),
    ("PUT", 200, &[("expect", "100-continue")], &[("content-length", "4"), ("host", "h.example")],
        &[("content-length", "4"), ("expect", "100-continue")]),
    // R-write-no-content
    ("GET", 204, &[("content-length", "7")], &[("host", "h.example")], &[]),
    ("GET", 304, &[("content-length", "7")], &[("host", "h.example")], &[("content-length", "7")]),
    ("GET", 304, &[], &[("host", "h.example")], &[]),
    ("HEAD", 204, &[("content-length", "7")], &[("host", "h.example")], &[]),
    // R-head-response
    ("HEAD", 200, &[], &[("host", "h.example")], &[("content-length", "0"), ("teleport-head-length", "4")]),
    ("HEAD", 404, &[("content-length", "77")], &[("host", "h.example")],
        &[("content-length", "0"), ("teleport-head-length", "77")]),
    ("HEAD", 200, &[("content-length", "x")], &[("host", "h.example")],
        &[("content-length", "0"), ("teleport-head-length", "4")]),
];

fn check_written((method, status, given, in_request, in_response): &Written) {
    let body = if matches!(*method, "GET" | "HEAD") { "" } else { "body" };
    let (mut sent, mut answer) = (request(method, "/a", body), response(*status, "body"));
    *sent.headers_mut() = with(HeaderMap::new(), given);
    *answer.headers_mut() = with(HeaderMap::new(), given);
    let (_, _, up, down) = exchange([Compression::None; 2], &sent, &answer);
    assert_eq!(up.start, format!("{method} /a HTTP/1.1"), "R-write-start-line");
    assert_eq!(down.start[..13], format!("HTTP/1.1 {status} "), "R-write-start-line");
    assert_eq!(fields_of(&up), *in_request, "{method} {given:?}");
    assert_eq!(fields_of(&down), *in_response, "{method} {status} {given:?}");
    assert_eq!(up.body, body);
    assert_eq!(down.body.is_empty(), *method == "HEAD" || matches!(status, 204 | 304));
}

#[test]
fn a_sender_writes_its_own_framing_and_no_field_of_one_hop() {
    WRITTEN.iter().for_each(check_written);
}

#[test]
fn fields_that_connection_names_are_not_written() {
    // R-write-no-hop-by-hop: "nor any field that a Connection field of the message it passes on had named"
    check_written(&(
        "GET",
        200,
        &[("connection", "x-hop, close"), ("x-hop", "1"), ("x", "y")],
        &[("host", "h.example"), ("x", "y")],
        &[("content-length", "4"), ("x", "y")],
    ));
}

#[test]
fn a_given_length_with_leading_zeros_tells_nothing() {
    // R-head-response, R-write-no-content; 5.1: content-length = "0" / ( %x31-39 *18DIGIT )
    let host = &[("host", "h.example")];
    check_written(&(
        "HEAD",
        200,
        &[("content-length", "007")],
        host,
        &[("content-length", "0"), ("teleport-head-length", "4")],
    ));
    check_written(&("HEAD", 304, &[("content-length", "007")], host, &[]));
}

#[test]
fn a_uri_without_a_path_is_written_in_origin_form() {
    // R-write-target: the documented conversion of an absolute URI
    for (path, target) in [("", "/"), ("/", "/"), ("?x=1", "/?x=1"), ("/a?x", "/a?x")] {
        let now = Instant::now();
        let (mut client, _) = open(&plain(), now);
        assert_eq!(client.send_request(now, &request("GET", path, ""), None).map(|_| ()), Ok(()), "{path:?}");
        let sent = frames(&transmit(|out| client.poll_transmit(now, out)));
        assert_eq!(sent[0].1.start, format!("GET {target} HTTP/1.1"));
    }
}

fn any_fields() -> impl Strategy<Value = HeaderMap> {
    let name = "[a-z0-9!#$%&'*+.^_`|~-]{1,12}";
    let value = proptest::collection::vec(prop_oneof![Just(b' '), Just(b'\t'), 0x21u8..0x7f, 0x80u8..=0xff], 0..40);
    proptest::collection::vec((name, value), 0..20).prop_map(|fields| {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            let own = ["te", "host", "expect", "connection", "trailer", "upgrade", "keep-alive", "content-length"];
            if !own.contains(&&name[..]) {
                let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
                map.append(name, HeaderValue::from_bytes(value.trim_ascii()).unwrap());
            }
        }
        map
    })
}

fn any_method() -> impl Strategy<Value = String> {
    let token = "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,9}".prop_map(|token: String| token);
    prop_oneof![Just("GET".to_owned()), Just("HEAD".to_owned()), Just("POST".to_owned()), token]
}

fn any_body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![Just(Vec::new()), proptest::collection::vec(any::<u8>(), 0..3000)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_valid_message_arrives_equal(
        method in any_method(),
        target in "/[!$-;=@-Z_a-z|~]{0,30}([?][!$-;=?-Z_a-z|~]{0,20})?",
        fields in [any_fields(), any_fields()],
        bodies in [any_body(), any_body()],
        status in 200u16..600,
        compressions in [0usize..3, 0usize..3],
    ) {
        prop_assume!(method != "CONNECT");
        let [ours, theirs] = bodies.map(Bytes::from);
        let bodiless = method == "GET" || method == "HEAD";
        let mut sent = request(&method, &target, if bodiless { Bytes::new() } else { ours });
        *sent.headers_mut() = fields[0].clone();
        let mut answer = response(status, theirs);
        *answer.headers_mut() = fields[1].clone();
        let (request, response, _, _) = exchange(compressions.map(|c| Compression::ALL[c]), &sent, &answer);

        prop_assert_eq!(request.method(), sent.method());
        prop_assert_eq!(request.uri().to_string(), target);
        prop_assert!(request.body() == sent.body());
        // The documented changes: Host from the URI, Content-Length of the body.
        let mut expected = with(fields[0].clone(), &[("host", "h.example")]);
        if !bodiless {
            expected.insert("content-length", sent.body().len().into());
        }
        prop_assert_eq!(request.headers(), &expected);

        prop_assert_eq!(response.status(), answer.status());
        let empty = method == "HEAD" || matches!(status, 204 | 304);
        let body = if empty { Bytes::new() } else { answer.body().clone() };
        prop_assert!(*response.body() == body);
        let mut expected = fields[1].clone();
        let untold = matches!(status, 204 | 304) || (method == "HEAD" && answer.body().is_empty());
        if !untold {
            expected.insert("content-length", answer.body().len().into());
        }
        prop_assert_eq!(response.headers(), &expected);
    }
}
