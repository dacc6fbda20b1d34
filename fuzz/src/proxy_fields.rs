//! What the proxy does to heads (`src/proxy/fields.rs`), which is pure and is compiled in here as it stands: its doors, hyper
//! before it and the core behind it, have fuzz targets of their own.

use arbitrary::{Arbitrary, Unstructured};
use http::header::{HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode, Version};

// Where that looks for them.
use crate::http_in::request_head;

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/fields.rs"]
mod fields;

#[derive(Arbitrary, Debug)]
struct Input<'a> {
    method: &'a [u8],
    target: &'a [u8],
    is_http_10: bool,
    status: u16,
    fields: Vec<(Name<'a>, &'a [u8])>,
}

#[derive(Arbitrary, Debug)]
enum Name<'a> {
    Host,
    Connection,
    ContentLength,
    TransferEncoding,
    Te,
    Expect,
    Other(&'a [u8]),
}

impl Name<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Host => b"host",
            Self::Connection => b"connection",
            Self::ContentLength => b"content-length",
            Self::TransferEncoding => b"transfer-encoding",
            Self::Te => b"te",
            Self::Expect => b"expect",
            Self::Other(name) => name,
        }
    }
}

/// The input is an arbitrary head.
pub fn check(input: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(input)) else { return };
    let mut headers = HeaderMap::new();
    for (name, value) in &input.fields {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.bytes()), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    let version = if input.is_http_10 { Version::HTTP_10 } else { Version::HTTP_11 };
    let Ok(method) = Method::from_bytes(input.method) else { return };
    check_response(&method, input.status, headers.clone());
    let Ok(request) = Request::builder().method(method).uri(input.target).version(version).body(()) else { return };
    let (mut parts, ()) = request.into_parts();
    parts.headers = headers;
    let had_two_hosts = parts.headers.get_all("host").iter().count() > 1;
    let asked = parts.uri.clone();
    match fields::settle_target(&mut parts, &HeaderValue::from_static("default")) {
        Err(why) => assert!(!why.is_empty()),
        Ok(()) => {
            assert!(!had_two_hosts, "two Host fields are refused");
            let mut hosts = parts.headers.get_all("host").iter();
            let host = hosts.next().expect("there is a Host");
            assert!(hosts.next().is_none(), "there is one Host");
            assert!(!host.as_bytes().iter().any(|b| b"@ /\t,".contains(b)), "{host:?} is a host and a port");
            if let Some(authority) = asked.authority() {
                assert!(authority.as_str().ends_with(host.to_str().expect("ASCII")), "the target's authority counts");
            }
            let target = parts.uri.to_string();
            assert!(target == "*" || target.starts_with('/'), "{target:?} is in origin form");
            assert!(parts.uri.authority().is_none() && parts.uri.scheme().is_none());
        }
    }
    let unknown = fields::has_unknown_coding(&parts.headers);
    let codings = parts.headers.get_all("transfer-encoding").iter().collect::<Vec<_>>();
    assert_eq!(unknown, !matches!(codings[..], [] | [_]) || codings.iter().any(|c| !is_chunked(c)));
    check_strip(parts.headers);
}

fn is_chunked(coding: &HeaderValue) -> bool {
    coding.as_bytes().eq_ignore_ascii_case(b"chunked")
}

fn check_strip(mut headers: HeaderMap) {
    let before = headers.clone();
    fields::strip_hop_by_hop(&mut headers);
    for gone in
        ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "expect", "proxy-connection"]
    {
        assert!(!headers.contains_key(gone), "{gone} is of one hop");
    }
    for kept in ["host", "content-length"] {
        let values = |map: &HeaderMap| map.get_all(kept).iter().cloned().collect::<Vec<_>>();
        assert_eq!(values(&headers), values(&before), "{kept} cannot be nominated away");
    }
    let once = headers.clone();
    fields::strip_hop_by_hop(&mut headers);
    assert_eq!(once, headers, "once is enough");
}

fn check_response(method: &Method, status: u16, mut headers: HeaderMap) {
    let Ok(status) = StatusCode::from_u16(status % 1000) else { return };
    fields::settle_response_length(method, status, &mut headers);
    let mut lengths = headers.get_all("content-length").iter();
    if let Some(length) = lengths.next() {
        assert!(fields::length_speaks_of_representation(method, status));
        assert!(length.as_bytes().iter().all(u8::is_ascii_digit) && !length.is_empty(), "{length:?} is a number");
    }
    assert!(lengths.next().is_none(), "at most one length is left");
}
