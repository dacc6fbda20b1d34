//! Messages that say whose they are, and how long their frames are.

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use httpteleport::proto::{HEAD_LENGTH_FIELD, MessageError};

use super::random::Random;

pub const METHODS: [&str; 6] = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"];
pub const STATUSES: [u16; 8] = [200, 200, 200, 201, 204, 304, 404, 599];

/// A body that no other message has, unless it is too short to tell.
pub fn body(tag: usize, length: usize, compressible: bool) -> Bytes {
    let mut bytes = Vec::with_capacity(length + 8);
    if compressible {
        let word = format!("{tag}, and again ");
        while bytes.len() < length {
            bytes.extend_from_slice(word.as_bytes());
        }
    } else {
        let mut random = Random::new(tag as u64);
        while bytes.len() < length {
            bytes.extend_from_slice(&random.next().to_le_bytes());
        }
    }
    bytes.truncate(length);
    bytes.into()
}

pub fn is_bodiless(method: &str) -> bool {
    matches!(method, "GET" | "HEAD")
}

/// R-no-blind-retry.
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "PUT" | "DELETE")
}

pub fn request(tag: usize, method: &str, body: Bytes) -> Request<Bytes> {
    let uri = format!("http://h.example/{tag}");
    Request::builder().method(method).uri(uri).header("x-digest", digest(&body)).body(body).unwrap()
}

/// Which request it is.
pub fn tag_of(request: &Request<Bytes>) -> usize {
    request.uri().path()[1..].parse().expect("the target is a tag")
}

/// What a handler makes of a request: its tag, its method and its body's digest come back.
pub fn response(request: &Request<Bytes>, status: u16, body: Bytes) -> Response<Bytes> {
    let echo = echo(tag_of(request), request.method().as_str(), request.body());
    Response::builder().status(status).header("x-echo", echo).body(body).unwrap()
}

/// What a server answers by itself.
pub fn refusal(error: &MessageError) -> Response<Bytes> {
    let body = format!("{error} [{}]\n", error.code());
    let response = Response::builder().status(error.status()).header("content-type", "text/plain; charset=utf-8");
    response.body(body.into()).unwrap()
}

/// What the response to a request says in `x-echo`.
pub fn echo(tag: usize, method: &str, body: &[u8]) -> String {
    format!("{tag} {method} {}", digest(body))
}

/// Only to tell bodies apart.
fn digest(body: &[u8]) -> u32 {
    crc32c::crc32c(body)
}

/// The plain bytes that a request takes on the link.
pub fn request_frame(request: &Request<Bytes>) -> usize {
    let (method, target) = (request.method().as_str(), request.uri().path());
    let mut head = format!("{method} {target} HTTP/1.1\r\nhost: h.example\r\n");
    head += &fields(request.headers());
    if !is_bodiless(method) {
        head += &format!("content-length: {}\r\n", request.body().len());
    }
    4 + head.len() + 2 + request.body().len()
}

/// The same of a response.
pub fn response_frame(response: &Response<Bytes>, method: &Method) -> usize {
    let status = response.status();
    let body = response.body().len();
    let (to_head, bodiless) = (method == Method::HEAD, has_no_body(status));
    let mut head = format!("HTTP/1.1 {} {}\r\n", status.as_str(), status.canonical_reason().unwrap_or_default());
    head += &fields(response.headers());
    let carried = if to_head || bodiless { 0 } else { body };
    if !bodiless {
        head += &format!("content-length: {carried}\r\n");
        if to_head {
            let told = if body > 0 { body.to_string() } else { "none".to_owned() };
            head += &format!("{HEAD_LENGTH_FIELD}: {told}\r\n");
        }
    }
    4 + head.len() + 2 + carried
}

pub fn has_no_body(status: StatusCode) -> bool {
    matches!(status.as_u16(), 204 | 304)
}

fn fields(fields: &http::HeaderMap) -> String {
    fields.iter().map(|(name, value)| format!("{name}: {}\r\n", value.to_str().unwrap())).collect()
}
