//! Heads out: what a sender writes is checked before the first byte of it is (R-write-*), so that no message that
//! would be refused, or read differently, gets onto a link.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};

use super::framing::decimal;
use super::{HEAD_LENGTH_FIELD, HEAD_LENGTH_UNKNOWN};
use crate::proto::config::Limits;
use crate::proto::error::SendError;

/// Appends the frame of a request to `out`, or nothing.
pub(crate) fn write_request(
    out: &mut Vec<u8>,
    id: u32,
    request: &Request<Bytes>,
    limits: &Limits,
) -> Result<(), SendError> {
    let method = request.method();
    let bodiless = method == Method::GET || method == Method::HEAD;
    if method == Method::CONNECT {
        return Err(SendError::MethodConnect);
    }
    if bodiless && !request.body().is_empty() {
        return Err(SendError::BodyNotAllowed);
    }
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    // `http://host?query` has a target without its slash.
    let slash = if target.starts_with('?') { "/" } else { "" };
    let is_target = target.starts_with(['/', '?']) || target == "*";
    if !is_target || target.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        return Err(SendError::Target);
    }
    let host = host(request)?;
    check_count(request.headers(), limits)?;
    write_frame(out, id, request.body(), limits, |head| {
        head.extend_from_slice(method.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(slash.as_bytes());
        head.extend_from_slice(target.as_bytes());
        head.extend_from_slice(b" HTTP/1.1\r\n");
        field(head, "host", host);
        fields(head, request.headers(), |name| name == HOST || name == EXPECT);
        if !bodiless {
            length(head, request.body().len() as u64);
        }
    })
}

/// Appends the frame of a response to `out`, or nothing. `to_head`: the request was a HEAD.
pub(crate) fn write_response(
    out: &mut Vec<u8>,
    id: u32,
    to_head: bool,
    response: &Response<Bytes>,
    limits: &Limits,
) -> Result<(), SendError> {
    let status = response.status();
    if !(200..600).contains(&status.as_u16()) {
        return Err(SendError::Status);
    }
    check_count(response.headers(), limits)?;
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless || to_head { &Bytes::new() } else { response.body() };
    write_frame(out, id, body, limits, |head| {
        head.extend_from_slice(b"HTTP/1.1 ");
        head.extend_from_slice(status.as_str().as_bytes());
        head.push(b' ');
        head.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        head.extend_from_slice(b"\r\n");
        fields(head, response.headers(), |_| false);
        let stated = response.headers().get(CONTENT_LENGTH).and_then(|v| decimal(v.as_bytes()));
        match status {
            StatusCode::NO_CONTENT => {}
            StatusCode::NOT_MODIFIED => {
                if let Some(stated) = stated {
                    length(head, stated);
                }
            }
            _ => length(head, body.len() as u64),
        }
        if to_head && !bodiless {
            // A body that was given and may not be sent still tells its length.
            let body = Some(response.body().len() as u64).filter(|length| *length > 0);
            let told = stated.or(body).map_or_else(|| HEAD_LENGTH_UNKNOWN.to_owned(), |length| length.to_string());
            field(head, HEAD_LENGTH_FIELD, told.as_bytes());
        }
    })
}

/// Appends id, head and body; takes all back if the head or the body is too large for the peer.
fn write_frame(
    out: &mut Vec<u8>,
    id: u32,
    body: &[u8],
    limits: &Limits,
    write_head: impl FnOnce(&mut Vec<u8>),
) -> Result<(), SendError> {
    if body.len() > limits.body_bytes {
        return Err(SendError::BodyTooLarge(limits.body_bytes));
    }
    let start = out.len();
    out.extend_from_slice(&id.to_le_bytes());
    let head = out.len();
    write_head(out);
    out.extend_from_slice(b"\r\n");
    if out.len() - head > limits.head_bytes {
        out.truncate(start);
        return Err(SendError::HeadTooLarge(limits.head_bytes));
    }
    out.extend_from_slice(body);
    Ok(())
}

/// The value of the one Host field: what the URI says comes before what the field says (R-write-host).
fn host(request: &Request<Bytes>) -> Result<&[u8], SendError> {
    if let Some(authority) = request.uri().authority() {
        let authority = authority.as_str();
        return Ok(authority.rsplit_once('@').map_or(authority, |(_, host)| host).as_bytes());
    }
    let mut fields = request.headers().get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) if host.to_str().is_ok() => Ok(host.as_bytes()),
        (None, _) => Err(SendError::MissingHost),
        _ => Err(SendError::Host),
    }
}

/// A receiver with the limits of this side would refuse more (R-limit-fields). Counted with room for the fields that
/// are written besides: Host, Content-Length, Teleport-Head-Length.
fn check_count(fields: &HeaderMap, limits: &Limits) -> Result<(), SendError> {
    let limit = limits.header_count.min(Limits::MAX_HEADER_COUNT);
    if fields.len() + 3 > limit { Err(SendError::TooManyFields(limit)) } else { Ok(()) }
}

/// Writes all fields but those that belong to one hop or to framing, those that Connection names
/// (R-write-no-hop-by-hop), and those `left_out`.
fn fields(head: &mut Vec<u8>, fields: &HeaderMap, left_out: impl Fn(&HeaderName) -> bool) {
    let is_named = |name: &HeaderName| {
        let values = fields.get_all(CONNECTION).iter();
        values
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
    };
    let names_some = fields.contains_key(CONNECTION);
    for (name, value) in fields {
        let stays_behind = is_of_one_hop(name) || left_out(name) || (names_some && is_named(name));
        if !stays_behind {
            field(head, name.as_str(), value.as_bytes().trim_ascii());
        }
    }
}

fn is_of_one_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | CONTENT_LENGTH | TE | TRAILER | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | HEAD_LENGTH_FIELD)
}

fn length(head: &mut Vec<u8>, length: u64) {
    field(head, "content-length", length.to_string().as_bytes());
}

fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}
