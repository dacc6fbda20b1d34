//! Heads out: what a sender writes is checked before the first byte of it is (R-write-*), so that no message that
//! would be refused, or read differently, gets onto a link.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Request, Response, StatusCode};

use super::framing::plain_decimal;
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
    let uri = request.uri();
    if uri.authority().is_some() && uri.scheme().is_none() {
        // Only CONNECT may name an authority alone.
        return Err(SendError::Target);
    }
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    // `http://host?query` has a target without its slash.
    let slash = if target.starts_with('?') { "/" } else { "" };
    let is_target = target.starts_with(['/', '?']) || target == "*";
    if !is_target || target.bytes().any(|b| !(0x21..=0x7e).contains(&b)) {
        return Err(SendError::Target);
    }
    let host = host(request)?;
    write_frame(out, id, request.body(), limits, |head| {
        head.line(&[method.as_str(), " ", slash, target, " HTTP/1.1"]);
        head.field("host", host);
        head.fields(request.headers(), |name| name == HOST || name == EXPECT);
        if !bodiless {
            head.length(request.body().len() as u64);
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
    let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let body = if bodiless || to_head { &Bytes::new() } else { response.body() };
    write_frame(out, id, body, limits, |head| {
        head.line(&["HTTP/1.1 ", status.as_str(), " ", status.canonical_reason().unwrap_or_default()]);
        head.fields(response.headers(), |_| false);
        let stated = given_length(response.headers());
        match status {
            StatusCode::NO_CONTENT => {}
            StatusCode::NOT_MODIFIED => {
                if let Some(stated) = stated {
                    head.length(stated);
                }
            }
            _ => head.length(body.len() as u64),
        }
        if to_head && !bodiless {
            // A body that was given and may not be sent still tells its length.
            let body = Some(response.body().len() as u64).filter(|length| *length > 0);
            match stated.or(body) {
                Some(length) => head.field(HEAD_LENGTH_FIELD, Decimal::new(length).digits()),
                None => head.field(HEAD_LENGTH_FIELD, HEAD_LENGTH_UNKNOWN.as_bytes()),
            }
        }
    })
}

/// Appends the frame of a goodbye to `out` (R-goodbye).
pub(crate) fn write_goodbye(out: &mut Vec<u8>) {
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(b"HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
}

/// The length that a handler states for a body that is not sent: one, and in the form that a sender writes
/// (R-head-response, R-write-no-content).
fn given_length(fields: &HeaderMap) -> Option<u64> {
    let mut fields = fields.get_all(CONTENT_LENGTH).iter();
    let (Some(given), None) = (fields.next(), fields.next()) else { return None };
    plain_decimal(given.as_bytes().trim_ascii())
}

/// Appends id, head and body; takes all back if a receiver with the limits of this side would refuse it.
fn write_frame(
    out: &mut Vec<u8>,
    id: u32,
    body: &[u8],
    limits: &Limits,
    write_head: impl FnOnce(&mut Head<'_>),
) -> Result<(), SendError> {
    if body.len() > limits.body_bytes {
        return Err(SendError::BodyTooLarge(limits.body_bytes));
    }
    let start = out.len();
    out.extend_from_slice(&id.to_le_bytes());
    let mut head = Head { bytes: out, count: 0 };
    write_head(&mut head);
    head.line(&[]);
    let too_many = head.count > limits.header_count.min(Limits::MAX_HEADER_COUNT);
    let too_large = out.len() - start - size_of_val(&id) > limits.head_bytes;
    if too_many || too_large {
        out.truncate(start);
        let many = SendError::TooManyFields(limits.header_count);
        return Err(if too_many { many } else { SendError::HeadTooLarge(limits.head_bytes) });
    }
    out.extend_from_slice(body);
    Ok(())
}

/// The value of the one Host field: what the URI says comes before what the field says (R-write-host).
fn host(request: &Request<Bytes>) -> Result<&[u8], SendError> {
    if let Some(authority) = request.uri().authority() {
        let authority = authority.as_str();
        let user_end = authority.bytes().rposition(|b| b == b'@').map_or(0, |at| at + 1);
        return Ok(&authority.as_bytes()[user_end..]);
    }
    let mut fields = request.headers().get_all(HOST).iter();
    match (fields.next(), fields.next()) {
        (Some(host), None) => {
            let host = host.as_bytes().trim_ascii();
            if host.iter().all(u8::is_ascii_graphic) { Ok(host) } else { Err(SendError::Host) }
        }
        (None, _) => Err(SendError::MissingHost),
        _ => Err(SendError::Host),
    }
}

/// A head under way.
struct Head<'a> {
    bytes: &'a mut Vec<u8>,
    /// Field lines so far.
    count: usize,
}

impl Head<'_> {
    fn line(&mut self, parts: &[&str]) {
        for part in parts {
            self.bytes.extend_from_slice(part.as_bytes());
        }
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.extend_from_slice(b": ");
        self.bytes.extend_from_slice(value);
        self.bytes.extend_from_slice(b"\r\n");
    }

    fn length(&mut self, length: u64) {
        self.field("content-length", Decimal::new(length).digits());
    }

    /// Writes all fields but those that belong to one hop or to framing, those that Connection names
    /// (R-write-no-hop-by-hop), and those `left_out`.
    fn fields(&mut self, fields: &HeaderMap, left_out: impl Fn(&HeaderName) -> bool) {
        let is_named = |name: &HeaderName| {
            let values = fields.get_all(CONNECTION).iter();
            values
                .flat_map(|value| value.as_bytes().split(|b| *b == b','))
                .any(|option| option.trim_ascii().eq_ignore_ascii_case(name.as_str().as_bytes()))
        };
        let names_some = !fields.is_empty() && fields.contains_key(CONNECTION);
        for (name, value) in fields {
            let stays_behind = is_of_one_hop(name) || left_out(name) || (names_some && is_named(name));
            if !stays_behind {
                self.field(name.as_str(), value.as_bytes().trim_ascii());
            }
        }
    }
}

/// A number as text, without an allocation.
struct Decimal {
    digits: [u8; 20],
    begin: usize,
}

impl Decimal {
    fn new(mut number: u64) -> Self {
        let mut decimal = Self { digits: [0; 20], begin: 20 };
        loop {
            decimal.begin -= 1;
            decimal.digits[decimal.begin] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return decimal;
            }
        }
    }

    fn digits(&self) -> &[u8] {
        &self.digits[self.begin..]
    }
}

fn is_of_one_hop(name: &HeaderName) -> bool {
    matches!(*name, CONNECTION | CONTENT_LENGTH | TE | TRAILER | TRANSFER_ENCODING | UPGRADE)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | HEAD_LENGTH_FIELD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_everybody_writes_them() {
        for number in [0, 1, 9, 10, 261, 65_535, 1_000_000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(Decimal::new(number).digits(), number.to_string().as_bytes());
        }
    }
}
