//! The head of an HTTP/1 request, looked at before hyper reads it: whether it leaves no doubt and can be read at all, and
//! how its body is delimited. No I/O here.

use std::borrow::Cow;

use http::{StatusCode, Uri};
use httparse::Error;

use super::config::MAX_HEADER_COUNT;

/// The longest target that a [`Uri`] can be.
const MAX_TARGET_BYTES: usize = u16::MAX as usize - 1;
/// As much of a target as is shown of a request that is refused.
const MAX_SHOWN_BYTES: usize = 1024;
/// Why a request is refused that would take memory when there is none.
pub(crate) const NO_MEMORY: &str = "the memory for messages is short (--memory-budget); try again later";
/// As much of what was refused as tells what it was instead.
const BEGINNING_BYTES: usize = 32;

/// A head that leaves no doubt.
#[derive(Debug)]
pub(crate) struct Clear {
    pub(crate) framing: Framing,
    /// The head as it is to be read, if that is not how it came.
    pub(crate) changed: Option<Vec<u8>>,
}

/// How the body behind a head is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
}

/// A head that is not read.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) status: StatusCode,
    pub(crate) reason: Cow<'static, str>,
    /// A request without a body that stands for it: with its method and target, as far as they are good.
    pub(crate) stand_in: Vec<u8>,
    /// How it began.
    pub(crate) beginning: Vec<u8>,
}

impl Refused {
    fn new(status: StatusCode, head: &[u8], reason: impl Into<Cow<'static, str>>) -> Self {
        let (method, target) = shown_line(head).unwrap_or((b"-", b"*"));
        let stand_in = [method, b" ", target, b" HTTP/1.1\r\nhost: -\r\nconnection: close\r\n\r\n"].concat();
        let beginning = head[..head.len().min(BEGINNING_BYTES)].to_vec();
        Self { status, reason: reason.into(), stand_in, beginning }
    }

    /// One that is malformed; `head` is what came of it.
    pub(crate) fn bad(head: &[u8], reason: &'static str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, head, reason)
    }

    /// One that is too large.
    pub(crate) fn large(head: &[u8], max_head_bytes: usize) -> Self {
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, head, large(max_head_bytes))
    }

    /// One that there is no memory for.
    pub(crate) fn no_memory(head: &[u8]) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, head, NO_MEMORY)
    }
}

/// Why a head is too large.
pub(crate) fn large(max_head_bytes: usize) -> String {
    format!(
        "the request has a head larger than {max_head_bytes} bytes (--in-max-header-size) or more than {MAX_HEADER_COUNT} fields"
    )
}

/// Whether what begins so is no request of HTTP/1, whatever comes.
pub(crate) fn is_none(beginning: &[u8]) -> bool {
    let method = &beginning[..memchr::memchr(b' ', beginning).unwrap_or(beginning.len())];
    // Perhaps the first half of an empty line.
    let is_half = beginning == b"\r";
    !is_half && (beginning.first() == Some(&b' ') || !may_be_method(method))
}

/// Whether it has only what a method may have.
fn may_be_method(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

/// Looks at a whole head, whose lines all end in CRLF and the last of which is empty.
pub(crate) fn check(head: &[u8], max_head_bytes: usize) -> Result<Clear, Refused> {
    let changed = encode_target(head);
    let read = changed.as_deref().unwrap_or(head);
    if read.len() > max_head_bytes {
        return Err(Refused::large(head, max_head_bytes));
    }
    match framing(read) {
        Ok(framing) => Ok(Clear { framing, changed }),
        Err(Why::Large) => Err(Refused::large(head, max_head_bytes)),
        Err(Why::Other(status, reason)) => Err(Refused::new(status, head, reason)),
    }
}

/// Why a head is refused.
enum Why {
    Large,
    Other(StatusCode, &'static str),
}

fn bad(reason: &'static str) -> Why {
    Why::Other(StatusCode::BAD_REQUEST, reason)
}

fn framing(head: &[u8]) -> Result<Framing, Why> {
    let mut room = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADER_COUNT];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(head, &mut room).map_err(|error| match error {
        Error::TooManyHeaders => Why::Large,
        Error::Token if request.method.is_none() => bad("the method of the request is malformed"),
        Error::Token => bad("the target of the request is malformed"),
        Error::Version => bad("the version of the request is neither HTTP/1.1 nor HTTP/1.0"),
        _ => bad("a line in the head of the request is malformed"),
    })?;
    let target = request.path.unwrap_or_default();
    if !parsed.is_complete() || parsed.unwrap() != head.len() {
        return Err(bad("the head of the request is malformed"));
    }
    if target.len() > MAX_TARGET_BYTES {
        let reason = "the target of the request is longer than 65,534 bytes";
        return Err(Why::Other(StatusCode::URI_TOO_LONG, reason));
    }
    // Of origin-form a Uri takes all that was not encoded.
    if !target.starts_with('/') && Uri::try_from(target).is_err() {
        return Err(bad("the target of the request is malformed"));
    }
    let (mut length, mut codings, mut is_chunked) = (None, 0, false);
    for field in &*request.headers {
        if field.name.len() > usize::from(u16::MAX) {
            return Err(Why::Large);
        }
        if field.name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(bad("the request has more than one Content-Length"));
            }
            length = Some(
                decimal(field.value).ok_or_else(|| bad("the Content-Length of the request is no decimal number"))?,
            );
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            codings += 1;
            is_chunked = field.value.eq_ignore_ascii_case(b"chunked");
        }
    }
    match (length, codings) {
        (length, 0) => Ok(Framing::Length(length.unwrap_or(0))),
        (Some(_), _) => Err(bad("the request has both Content-Length and Transfer-Encoding")),
        (None, _) if request.version == Some(0) => {
            Err(bad("the request has a Transfer-Encoding, which HTTP/1.0 does not know"))
        }
        (None, 1) if is_chunked => Ok(Framing::Chunked),
        (None, _) => Err(Why::Other(StatusCode::NOT_IMPLEMENTED, "only the transfer coding `chunked` is supported")),
    }
}

fn decimal(value: &[u8]) -> Option<u64> {
    let is_decimal = value.iter().all(u8::is_ascii_digit);
    // hyper has other uses for the last numbers.
    std::str::from_utf8(value).ok()?.parse().ok().filter(|number| is_decimal && *number < u64::MAX - 8)
}

/// Whether a [`Uri`] does not take it in a path or a query.
fn is_awkward(byte: &u8) -> bool {
    matches!(byte, b'"' | b'<' | b'>' | b'`' | 0x80..)
}

/// The head with those bytes of its target percent-encoded that a [`Uri`] does not take, though HTTP, or callers, do: those of
/// R-read-target and such as are no ASCII. None if there are none. Never a byte that ends a target, a line or a head.
fn encode_target(head: &[u8]) -> Option<Vec<u8>> {
    let line = &head[..memchr::memchr(b'\r', head)?];
    let start = memchr::memchr(b' ', line)? + 1;
    let target = &line[start..start + memchr::memchr(b' ', &line[start..])?];
    // Not in an authority, which would name another host.
    let skip = if target.starts_with(b"/") {
        0
    } else {
        let authority = memchr::memmem::find(target, b"://")? + 3;
        authority + memchr::memchr3(b'/', b'?', b'#', &target[authority..])?
    };
    let encoded = encode_awkward(&target[skip..])?;
    Some([&head[..start + skip], &encoded, &head[start + target.len()..]].concat())
}

/// A path and a query with those bytes percent-encoded that a [`Uri`] or others do not take. None if there are none.
pub(crate) fn encode_awkward(text: &[u8]) -> Option<Vec<u8>> {
    let first = text.iter().position(is_awkward)?;
    let mut encoded = text[..first].to_vec();
    for byte in &text[first..] {
        if is_awkward(byte) {
            encoded.extend_from_slice(format!("%{byte:02X}").as_bytes());
        } else {
            encoded.push(*byte);
        }
    }
    Some(encoded)
}

/// The method and the target of a head, if they can be shown.
fn shown_line(head: &[u8]) -> Option<(&[u8], &[u8])> {
    let line = head[..memchr::memchr(b'\n', head)?].trim_ascii_end();
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next()?, parts.next()?, parts.next()?);
    let is_line =
        parts.next().is_none() && version.starts_with(b"HTTP/1.") && may_be_method(method) && !method.is_empty();
    let is_shown = target.starts_with(b"/")
        && target.len() <= MAX_SHOWN_BYTES
        && target.iter().all(|byte| byte.is_ascii_graphic() && !is_awkward(byte));
    // What hyper does with it is another matter.
    let is_connect = method == b"CONNECT";
    (is_line && !is_connect).then_some((method, if is_shown { target } else { b"*" }))
}
