//! What a caller gives, as arbitrary as the types allow, is refused locally or arrives as it was given.

use std::time::Instant;

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, ServerConfig, ServerConnection, ServerEvent,
};

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    compressions: u8,
    method: Word<'a>,
    target: &'a [u8],
    fields: Vec<(Name<'a>, &'a [u8])>,
    status: u16,
    answer_fields: Vec<(Name<'a>, &'a [u8])>,
    answer: Vec<u8>,
    body: Vec<u8>,
}

#[derive(Arbitrary, Debug)]
enum Word<'a> {
    Get,
    Head,
    Post,
    Other(&'a [u8]),
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    HeadLength,
    Expect,
    Other(&'a [u8]),
}

fn headers(fields: &[(Name<'_>, &[u8])]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let name: &[u8] = match name {
            Name::Host => b"host",
            Name::ContentLength => b"content-length",
            Name::TransferEncoding => b"transfer-encoding",
            Name::Connection => b"connection",
            Name::HeadLength => b"teleport-head-length",
            Name::Expect => b"expect",
            Name::Other(name) => name,
        };
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// The fields that no rule rewrites, with their values trimmed: those of one hop go, and so do those that Connection names.
fn plain(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    const RULED: [&str; 11] = [
        "host",
        "content-length",
        "transfer-encoding",
        "connection",
        "teleport-head-length",
        "expect",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "upgrade",
    ];
    let mut plain: Vec<_> = headers
        .iter()
        .filter(|(name, _)| !RULED.contains(&name.as_str()))
        .map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().trim_ascii().to_vec()))
        .collect();
    plain.sort_by(|a, b| a.0.cmp(&b.0));
    plain
}

/// A target with the four bytes percent-encoded that a server may encode (R-read-target).
fn encoded(target: &str) -> String {
    target.replace('"', "%22").replace('<', "%3C").replace('>', "%3E").replace('`', "%60")
}

/// The input is a request and its response.
pub fn check(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let now = Instant::now();
    let config = |code: u8| Config {
        compression: Compression::from_code(code & 3).expect("there are four"),
        ..Config::default()
    };
    let mut client = ClientConnection::new(ClientConfig { config: config(input.compressions), tls: false }, now);
    let server = ServerConfig { config: config(input.compressions >> 2), ..ServerConfig::default() };
    let mut server = ServerConnection::new(server, now);
    let method = match input.method {
        Word::Get => Ok(Method::GET),
        Word::Head => Ok(Method::HEAD),
        Word::Post => Ok(Method::POST),
        Word::Other(other) => Method::from_bytes(other),
    };
    let Ok(method) = method else { return };
    let Ok(mut request) = Request::builder().method(method).uri(input.target).body(Bytes::from(input.body)) else {
        return;
    };
    *request.headers_mut() = headers(&input.fields);
    let Ok(sent) = client.send_request(now, &request, None) else { return };
    let mut wire = Vec::new();
    client.poll_transmit(now, &mut wire);
    server.handle_input(now, &wire);
    let mut back = Vec::new();
    server.poll_transmit(now, &mut back);
    client.handle_input(now, &back);
    wire.clear();
    client.poll_transmit(now, &mut wire);
    assert_eq!(server.handle_input(now, &wire), wire.len());
    assert!(matches!(server.poll_event(), Some(ServerEvent::Connected { .. })));
    let event = server.poll_event();
    let Some(ServerEvent::Request { token, request: got }) = event else { panic!("{event:?}, not the request") };
    assert!(server.poll_event().is_none());
    assert_eq!(got.method(), request.method());
    assert_eq!(got.body(), request.body());
    assert_eq!(got.uri().query().map(encoded), request.uri().query().map(encoded));
    if !request.headers().contains_key("connection") {
        assert_eq!(plain(got.headers()), plain(request.headers()));
    }
    assert_eq!(got.headers().get_all("host").iter().count(), 1);

    let Ok(status) = StatusCode::from_u16(input.status) else { return };
    let mut response = Response::new(Bytes::from(input.answer));
    *response.status_mut() = status;
    *response.headers_mut() = headers(&input.answer_fields);
    if server.send_response(now, token, &response).is_err() {
        return;
    }
    back.clear();
    server.poll_transmit(now, &mut back);
    assert_eq!(client.handle_input(now, &back), back.len());
    assert!(matches!(client.poll_event(), Some(ClientEvent::Connected { .. })));
    let event = client.poll_event();
    let Some(ClientEvent::Response { id, response: got }) = event else { panic!("{event:?}, not the response") };
    assert!(client.poll_event().is_none(), "one frame is one event");
    assert_eq!(id, sent);
    assert_eq!(got.status(), status);
    let has_body = *request.method() != Method::HEAD && status != 204 && status != 304;
    assert_eq!(&got.body()[..], if has_body { &response.body()[..] } else { &[] });
    if !response.headers().contains_key("connection") {
        assert_eq!(plain(got.headers()), plain(response.headers()));
    }
}
