//! What a proxy does to the head of a message on its way through (RFC 9110, sections 7.2 and 7.6). No I/O here.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode, Uri, Version};

use super::request_head::encode_awkward;
use crate::proto::HEAD_LENGTH_FIELD;

/// Fields that concern one connection only, `Expect`, which the proxy answers itself, and what only links speak of
/// (R-proxy-hop-by-hop).
static HOP_BY_HOP: [HeaderName; 9] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
    header::CONNECTION,
    HeaderName::from_static(HEAD_LENGTH_FIELD),
];

/// Removes the fields that concern one connection only: the well-known ones and those that `Connection` names.
///
/// `Host` and `Content-Length` stay even when they are named: the next hop needs them, and a caller must not be able to
/// take them from the message of another.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // To look through the few fields that are there costs less than to look for each that could be.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name)) {
        return;
    }
    if headers.contains_key(header::CONNECTION) {
        let nominated: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(|name| *name != header::HOST && *name != header::CONTENT_LENGTH)
            .collect();
        for name in nominated {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Brings the target into origin-form (or `*`) and leaves exactly one `Host`, the one that counts: that of an
/// absolute-form target before the field, and for HTTP/1.0 without either `default_host`.
///
/// # Errors
///
/// What is wrong with the request, for the body of a 400.
pub(crate) fn settle_target(parts: &mut Parts, default_host: &HeaderValue) -> Result<(), &'static str> {
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err("the request has more than one Host field");
    }
    if host.is_some_and(|host| !is_host(host)) {
        return Err("the Host field is no host and port");
    }
    if parts.uri.authority().is_some() && parts.uri.scheme().is_none() {
        return Err("the target is an authority alone, which only CONNECT may ask for");
    }
    if let Some(authority) = parts.uri.authority() {
        let host_port = authority.as_str().rsplit('@').next().unwrap_or_default();
        if !is_host_and_port(host_port) {
            return Err("the target's authority is no host and port");
        }
        let value = HeaderValue::from_str(host_port).map_err(|_| "the target's authority is malformed")?;
        parts.headers.insert(header::HOST, value);
    } else if host.is_none() {
        if parts.version == Version::HTTP_11 {
            return Err("the request has no Host field, which HTTP/1.1 requires");
        }
        parts.headers.insert(header::HOST, default_host.clone());
    }
    if parts.version == Version::HTTP_2 {
        parts.uri = Uri::from(settle_path(parts)?);
    } else if parts.uri.authority().is_some() || parts.uri.scheme().is_some() {
        // RFC 9112, section 3.2.4: OPTIONS on an authority without a path asks about the server as a whole.
        let whole_server = parts.method == Method::OPTIONS && has_no_path(&parts.uri);
        let path = match parts.uri.path_and_query() {
            _ if whole_server => PathAndQuery::from_static("*"),
            // Behind an authority and a fragment, it says this and holds nothing.
            Some(path) if path.as_str() == "/" => PathAndQuery::from_static("/"),
            Some(path) if path.as_str().starts_with('/') => path.clone(),
            Some(path) => format!("/{}", path.as_str()).parse().map_err(|_| "the target is malformed")?,
            None => PathAndQuery::from_static("/"),
        };
        parts.uri = Uri::from(path);
    }
    Ok(())
}

/// The `:path` of a request of HTTP/2, which is there and says all (RFC 9113, section 8.3.1), percent-encoded where callers
/// leave that to others (R-proxy-target).
fn settle_path(parts: &Parts) -> Result<PathAndQuery, &'static str> {
    let path = parts.uri.path_and_query().filter(|_| !parts.uri.path().is_empty()).ok_or("the request has no :path")?;
    match path.as_str() {
        "*" if parts.method == Method::OPTIONS => Ok(path.clone()),
        text if !text.starts_with('/') => Err("the :path of the request begins with no /"),
        text => match encode_awkward(text.as_bytes()) {
            None => Ok(path.clone()),
            Some(encoded) => encoded.as_slice().try_into().map_err(|_| "the target is malformed"),
        },
    }
}

/// Whether an absolute-form target ends with its authority. `http::Uri` reports the path of such a one as `/`, so that
/// it has to be told by what was written.
fn has_no_path(uri: &Uri) -> bool {
    uri.path_and_query().is_none_or(|path| path.as_str().is_empty() || path.as_str() == "/") && uri.query().is_none()
}

/// Whether a request of this method cannot have a body on a link.
pub(crate) fn is_bodiless(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether a request may be sent again when it is unknown whether it arrived (RFC 9110, section 9.2.2).
pub(crate) fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE)
}

/// Whether a response has no body whatever its `Content-Length` says, so that the field speaks of the representation
/// and passes through. Everywhere else the length is that of the body at hand.
pub(crate) fn length_speaks_of_representation(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD && status != StatusCode::NO_CONTENT || status == StatusCode::NOT_MODIFIED
}

/// Removes `Content-Length`, or everything but the one valid field where it speaks of the representation.
pub(crate) fn settle_response_length(method: &Method, status: StatusCode, headers: &mut HeaderMap) {
    let kept = length_speaks_of_representation(method, status).then(|| single_length(headers)).flatten();
    headers.remove(header::CONTENT_LENGTH);
    if let Some(length) = kept {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// The value of the only `Content-Length`, if it is a decimal number.
fn single_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(header::CONTENT_LENGTH).iter();
    let value = values.next()?.to_str().ok()?;
    let is_number = !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit());
    (is_number && values.next().is_none()).then(|| value.parse().ok()).flatten()
}

/// Whether a Host field holds what it may: nothing, or a host and perhaps a port, without user information.
fn is_host(host: &HeaderValue) -> bool {
    host.is_empty() || Authority::try_from(host.as_bytes()).is_ok() && host.to_str().is_ok_and(is_host_and_port)
}

/// Whether what can be an authority is a host, not empty, and perhaps a port, which is a number. A comma is refused though
/// RFC 3986 allows it in a name, which no resolver does: whoever takes Host for a list would see two hosts.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((literal, "")) => (literal, ""),
        Some((literal, rest)) => match rest.strip_prefix(':') {
            Some(port) => (literal, port),
            None => return false,
        },
        None => text.split_once(':').unwrap_or((text, "")),
    };
    let in_brackets = text.starts_with('[');
    let is_of_host = |b: u8| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(&b) || in_brackets && b == b':';
    !host.is_empty() && host.bytes().all(is_of_host) && port.bytes().all(|b| b.is_ascii_digit())
}

/// Whether the body has a transfer coding other than `chunked`. Nobody here takes such a coding off, and without its
/// field, which ends with this connection, nobody behind could.
pub(crate) fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let first = codings.next();
    codings.next().is_some() || first.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
}

/// Whether another reader could take another length for the body than hyper does, which shows all that came of a
/// response (R-proxy-strict).
pub(crate) fn has_doubtful_length(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return false };
    let is_decimal = !length.is_empty() && length.as_bytes().iter().all(u8::is_ascii_digit);
    !is_decimal || lengths.next().is_some() || headers.contains_key(header::TRANSFER_ENCODING)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_chunked_coding_is_known() {
        let headers = |values: &[&'static str]| {
            values.iter().map(|v| (header::TRANSFER_ENCODING, HeaderValue::from_static(v))).collect()
        };
        assert!(!has_unknown_coding(&HeaderMap::new()));
        assert!(!has_unknown_coding(&headers(&["Chunked"])));
        for bad in [&["gzip, chunked"][..], &["gzip", "chunked"], &["chunked", "chunked"], &["identity"]] {
            assert!(has_unknown_coding(&headers(bad)), "{bad:?}");
        }
    }
    use http::Request;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        map
    }

    fn settled(
        method: &str,
        target: &str,
        version: Version,
        fields: &[(&str, &str)],
    ) -> Result<(String, String), &'static str> {
        let (mut parts, ()) =
            Request::builder().method(method).uri(target).version(version).body(()).unwrap().into_parts();
        parts.headers = headers(fields);
        settle_target(&mut parts, &HeaderValue::from_static("here:1"))?;
        assert_eq!(parts.headers.get_all("host").iter().count(), 1);
        Ok((parts.uri.to_string(), parts.headers["host"].to_str().unwrap().to_owned()))
    }

    #[test]
    fn well_known_hop_by_hop_fields_go() {
        let mut map = headers(&[
            ("Connection", "keep-alive"),
            ("Keep-Alive", "timeout=5"),
            ("Proxy-Connection", "keep-alive"),
            ("TE", "trailers"),
            ("Trailer", "X-Sum"),
            ("Transfer-Encoding", "chunked"),
            ("Upgrade", "websocket"),
            ("Expect", "100-continue"),
            ("Teleport-Head-Length", "5"),
            ("Accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("Accept", "*/*")]));
    }

    #[test]
    fn nominated_fields_go_from_every_connection_field() {
        let mut map = headers(
            &[
                ("Connection", "close, X-One ,,"),
                ("Connection", "x-two, \u{1}"),
                ("X-One", "1"),
                ("X-One", "1b"),
                ("X-Two", "2"),
                ("X-Three", "3"),
            ]
            .map(|(n, v)| (n, if v.contains('\u{1}') { "x-two, ?(" } else { v })),
        );
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("X-Three", "3")]));
    }

    #[test]
    fn host_and_length_cannot_be_nominated_away() {
        let mut map = headers(&[("Connection", "host, content-length"), ("Host", "a"), ("Content-Length", "3")]);
        strip_hop_by_hop(&mut map);
        assert_eq!(map, headers(&[("Host", "a"), ("Content-Length", "3")]));
    }

    #[test]
    fn a_path_of_http_2_says_all() {
        let settled = |method: &str, path: Option<&str>, authority: Option<&str>| {
            let mut target = http::uri::Parts::default();
            target.scheme = authority.and(Some(http::uri::Scheme::HTTPS));
            target.authority = authority.map(|authority| authority.parse().unwrap());
            target.path_and_query = path.map(|path| PathAndQuery::try_from(path.as_bytes()).unwrap());
            let (mut parts, ()) =
                Request::builder().method(method).version(Version::HTTP_2).body(()).unwrap().into_parts();
            parts.uri = match (path, authority) {
                // As h2 has it that reads neither.
                (None, None) => Uri::from_parts(Default::default()).unwrap(),
                _ => Uri::from_parts(target).unwrap(),
            };
            settle_target(&mut parts, &HeaderValue::from_static("here:1")).map(|()| parts.uri.to_string())
        };
        for authority in [None, Some("x")] {
            assert_eq!(settled("OPTIONS", Some("/"), authority).unwrap(), "/");
            assert_eq!(settled("OPTIONS", Some("*"), authority).unwrap(), "*");
            assert!(settled("GET", Some("*"), authority).is_err());
            assert_eq!(settled("GET", Some("/a?b"), authority).unwrap(), "/a?b");
            assert_eq!(settled("GET", Some("/\u{e4}\"?b"), authority).unwrap(), "/%C3%A4%22?b");
        }
        assert!(settled("POST", None, None).is_err());
    }

    #[test]
    fn targets_become_origin_form() {
        let v = Version::HTTP_11;
        let ok = |uri: &str, host: &str| Ok((uri.to_owned(), host.to_owned()));
        assert_eq!(settled("GET", "/a?b=c", v, &[("Host", "h")]), ok("/a?b=c", "h"));
        assert_eq!(settled("GET", "http://x:81/a?b", v, &[("Host", "h")]), ok("/a?b", "x:81"));
        assert_eq!(settled("GET", "http://x", v, &[]), ok("/", "x"));
        assert_eq!(settled("GET", "http://x?q=1", v, &[]), ok("/?q=1", "x"));
        assert_eq!(settled("GET", "http://x#f", v, &[]), ok("/", "x"));
        assert_eq!(settled("GET", "http://user:pass@x:81/", v, &[]), ok("/", "x:81"));
        assert_eq!(settled("OPTIONS", "http://x", v, &[]), ok("*", "x"));
        assert_eq!(settled("OPTIONS", "*", v, &[("Host", "h")]), ok("*", "h"));
        assert!(settled("GET", "other:80", v, &[("Host", "h")]).is_err());
        assert!(settled("GET", "http://a,b/", v, &[("Host", "h")]).is_err());
        assert!(settled("GET", "http://u@a,b:80/", v, &[("Host", "h")]).is_err());
    }

    #[test]
    fn host_is_required_once() {
        assert!(settled("GET", "/", Version::HTTP_11, &[]).is_err());
        assert!(settled("GET", "/", Version::HTTP_11, &[("Host", "a"), ("Host", "a")]).is_err());
        for bad in
            ["a b", "a/c", "u@a", "a:b:c", "http://a", "a,b", ",g", "a:b", ":80", "[]", "[::1", "[::1]a", "[a,b]"]
        {
            assert!(settled("GET", "/", Version::HTTP_11, &[("Host", bad)]).is_err(), "{bad}");
        }
        for good in ["", "a", "a_b.example:8080", "a:", "[::1]:80", "[::1]", "127.0.0.1"] {
            assert!(settled("GET", "/", Version::HTTP_11, &[("Host", good)]).is_ok(), "{good}");
        }
        let old = settled("GET", "/", Version::HTTP_10, &[]).unwrap();
        assert_eq!(old, ("/".to_owned(), "here:1".to_owned()));
    }

    #[test]
    fn length_survives_only_where_it_speaks_of_the_representation() {
        let settle = |method: &str, status: u16, fields: &[(&str, &str)]| {
            let mut map = headers(fields);
            let status = StatusCode::from_u16(status).unwrap();
            settle_response_length(&method.parse().unwrap(), status, &mut map);
            map.get("content-length").map(|v| v.to_str().unwrap().to_owned())
        };
        let length = [("Content-Length", "77")];
        assert_eq!(settle("HEAD", 200, &length), Some("77".into()));
        assert_eq!(settle("GET", 304, &length), Some("77".into()));
        assert_eq!(settle("GET", 200, &length), None);
        assert_eq!(settle("HEAD", 204, &length), None);
        assert_eq!(settle("HEAD", 200, &[("Content-Length", "7, 7")]), None);
        assert_eq!(settle("HEAD", 200, &[("Content-Length", "7"), ("Content-Length", "7")]), None);
        assert_eq!(settle("HEAD", 200, &[("Content-Length", "+7")]), None);
    }
}
