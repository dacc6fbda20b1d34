//! Heads in. A head is parsed strictly by `httparse`. Where that fails, a lenient second look decides only one thing:
//! whether the message's end is certain all the same, so that the message alone is refused (R-read-refuse), or not, so
//! that the link must end.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

use super::framing::{FramingFields, Length, decimal, plain_decimal};
use super::{HEAD_LENGTH_FIELD, HEAD_LENGTH_UNKNOWN};
use crate::proto::config::Limits;
use crate::proto::error::{ErrorKind, MessageError};

/// What a head says of its message, whose end is known. The head itself is made where its caller wants it: it is long to be
/// handed from one to the other.
#[derive(Debug)]
pub(crate) struct Outline {
    /// Why the message is refused once it has been passed over, if it is. What was made of the head is of no use then.
    pub(crate) refused: Option<MessageError>,
    /// What delimits the body: here `Unstated` means that there is none.
    pub(crate) length: Length,
    /// A request to which a response must not have a body, though the request be refused.
    pub(crate) is_head: bool,
    /// A response whose sender has shown that it keeps R-head-response.
    pub(crate) keeps_head_rule: bool,
    pub(crate) then: Then,
}

/// What follows a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// The next frame.
    NextFrame,
    /// Another head of the same frame: this one was an interim `100` (R-read-continue).
    NextHead,
    /// Nobody knows: the link must end (R-read-head-response).
    Ambiguous,
}

/// Parses the head of a request, from its start line to its empty line.
pub(crate) fn parse_request(head: &Bytes, limits: &Limits, request: &mut Request<Bytes>) -> Result<Outline, ErrorKind> {
    let mut room = [const { MaybeUninit::uninit() }; Limits::MAX_HEADER_COUNT];
    let room = &mut room[..limits.header_count.min(Limits::MAX_HEADER_COUNT)];
    let mut parsed = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(_)) = parsed.parse_with_uninit_headers(head, room) else {
        return refuse_request(head, limits);
    };
    let http11 = parsed.version == Some(1);
    let (method, target) = (parsed.method.unwrap_or_default(), parsed.path.unwrap_or_default());
    let mut fields = Fields::default();
    *request.headers_mut() = fields.read(head, parsed.headers);
    let bodiless = is_bodiless(method.as_bytes());
    let length = fields.framing.resolve(http11, bodiless)?;
    if bodiless && matches!(length, Length::Fixed(_)) {
        request.headers_mut().remove(CONTENT_LENGTH);
    }
    *request.version_mut() = version(http11);
    let refused = match start_request(head, method, target, request) {
        Err(error) => Some(error),
        Ok(()) => (fields.is_refused || fields.hosts > 1).then_some(MessageError::Field),
    };
    Ok(request_outline(refused, length, method.as_bytes()))
}

/// Reads method and target.
fn start_request(head: &Bytes, method: &str, target: &str, request: &mut Request<Bytes>) -> Result<(), MessageError> {
    *request.method_mut() = Method::from_bytes(method.as_bytes()).map_err(|_| MessageError::Method)?;
    if request.method() == Method::CONNECT {
        return Err(MessageError::MethodConnect);
    }
    *request.uri_mut() = uri(head, target)?;
    Ok(())
}

fn request_outline(refused: Option<MessageError>, length: Length, method: &[u8]) -> Outline {
    let length = if is_bodiless(method) { Length::Unstated } else { length };
    Outline { refused, length, is_head: method == b"HEAD", keeps_head_rule: false, then: Then::NextFrame }
}

/// Methods whose requests have no body, compared byte for byte.
fn is_bodiless(method: &[u8]) -> bool {
    method == b"GET" || method == b"HEAD"
}

/// Parses the head of a response. `to_head`: the request was a HEAD.
pub(crate) fn parse_response(
    head: &Bytes,
    to_head: bool,
    limits: &Limits,
    response: &mut Response<Bytes>,
) -> Result<Outline, ErrorKind> {
    let mut room = [const { MaybeUninit::uninit() }; Limits::MAX_HEADER_COUNT];
    let room = &mut room[..limits.header_count.min(Limits::MAX_HEADER_COUNT)];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    let parsing = config.parse_response_with_uninit_headers(&mut parsed, head, room);
    let Ok(httparse::Status::Complete(_)) = parsing else {
        return refuse_response(head, to_head, limits);
    };
    let http11 = parsed.version == Some(1);
    let code = parsed.code.unwrap_or_default();
    let mut fields = Fields::default();
    *response.headers_mut() = fields.read(head, parsed.headers);
    let stated = fields.framing.resolve(http11, false)?;
    let keeps_head_rule = fields.tell_length(response.headers_mut(), code, stated, to_head);
    *response.version_mut() = version(http11);
    let refused = match StatusCode::from_u16(code) {
        Err(_) => Some(MessageError::Status),
        Ok(_) if fields.is_refused => Some(MessageError::Field),
        Ok(_) if matches!(code, 101..=199) => Some(MessageError::InterimResponse),
        Ok(status) => {
            *response.status_mut() = status;
            None
        }
    };
    response_outline(refused, code, stated, to_head, keeps_head_rule)
}

/// Decides what delimits a response and what follows it (spec/05-messages.md, 5.4).
fn response_outline(
    refused: Option<MessageError>,
    code: u16,
    stated: Length,
    to_head: bool,
    keeps_head_rule: bool,
) -> Result<Outline, ErrorKind> {
    let (length, then) = match (code, stated) {
        (100, _) => (Length::Unstated, Then::NextHead),
        (101..=199 | 204 | 304, _) => (Length::Unstated, Then::NextFrame),
        (_, Length::Fixed(0)) => (Length::Unstated, Then::NextFrame),
        _ if to_head => (Length::Unstated, Then::Ambiguous),
        (_, Length::Unstated) => return Err(ErrorKind::LengthRequired),
        (_, stated) => (stated, Then::NextFrame),
    };
    Ok(Outline { refused, length, is_head: false, keeps_head_rule, then })
}

/// What the fields of a head say that mean something here.
#[derive(Default)]
struct Fields<'a> {
    framing: FramingFields<'a>,
    hosts: usize,
    head_lengths: usize,
    head_length: &'a [u8],
    /// Some cannot be kept.
    is_refused: bool,
}

impl<'a> Fields<'a> {
    /// Reads the fields of a head that `httparse` took, which has no malformed line. Returns all but those that concern
    /// this hop alone, as a map whose values share the head's memory.
    fn read(&mut self, head: &'a Bytes, fields: &[httparse::Header<'a>]) -> HeaderMap {
        let mut map = HeaderMap::with_capacity(fields.len());
        for field in fields {
            // As it stands here it is as a rule, and quick to compare.
            let is = |name: &str| field.name == name || field.name.eq_ignore_ascii_case(name);
            let name = if is("host") {
                self.hosts += 1;
                Ok(HOST)
            } else if is("content-length") {
                self.framing.see_length(whole_value(head, field));
                Ok(CONTENT_LENGTH)
            } else if is("transfer-encoding") {
                self.framing.see_coding(whole_value(head, field));
                continue;
            } else if is(HEAD_LENGTH_FIELD) {
                self.head_lengths += 1;
                self.head_length = field.value;
                continue;
            } else {
                HeaderName::from_bytes(field.name.as_bytes())
            };
            let value = match field.value {
                [] => Ok(HeaderValue::from_static("")),
                value => HeaderValue::from_maybe_shared(head.slice_ref(value)),
            };
            match (name, value) {
                (Ok(name), Ok(value)) => drop(map.append(name, value)),
                _ => self.is_refused = true,
            }
        }
        map
    }

    /// Leaves in a response the length that its reader should see: of the body that came or, where none may come, of the
    /// one that a GET would have had. Returns whether a response to HEAD carried that (R-head-response).
    fn tell_length(&self, headers: &mut HeaderMap, code: u16, stated: Length, to_head: bool) -> bool {
        if code == 204 {
            headers.remove(CONTENT_LENGTH);
        }
        // One that came twice tells nothing. In 204 and 304 the rule has no place, and with a length of its own a response
        // does not keep it.
        let is_told = self.head_lengths == 1 && to_head && stated == Length::Fixed(0);
        if !is_told || matches!(code, 204 | 304) {
            return false;
        }
        if self.head_length.eq_ignore_ascii_case(HEAD_LENGTH_UNKNOWN.as_bytes()) {
            headers.remove(CONTENT_LENGTH);
            return true;
        }
        let Some(length) = plain_decimal(self.head_length) else { return false };
        headers.insert(CONTENT_LENGTH, length.into());
        true
    }
}

/// All that stands between a field's colon and its line end: the parser takes off tabs, which count in a framing field.
fn whole_value<'a>(head: &'a [u8], field: &httparse::Header<'a>) -> &'a [u8] {
    let begin = field.name.as_ptr() as usize - head.as_ptr() as usize + field.name.len() + 1;
    let rest = &head[begin..];
    let line_end = rest.iter().position(|b| matches!(b, b'\r' | b'\n')).unwrap_or(rest.len());
    &rest[..line_end]
}

/// The target as a URI. The bytes that a [`Uri`] does not take, though HTTP does, are percent-encoded (R-read-target).
fn uri(head: &Bytes, target: &str) -> Result<Uri, MessageError> {
    if !is_target(target.as_bytes()) {
        return Err(MessageError::Target);
    }
    let awkward = |b: u8| matches!(b, b'"' | b'<' | b'>' | b'`');
    let target = if target.bytes().any(awkward) {
        let encode = |b: u8| {
            if awkward(b) { format!("%{b:02X}") } else { char::from(b).to_string() }
        };
        target.bytes().map(encode).collect::<String>().into()
    } else {
        head.slice_ref(target.as_bytes())
    };
    Uri::from_maybe_shared(target).map_err(|_| MessageError::Target)
}

fn version(http11: bool) -> Version {
    if http11 { Version::HTTP_11 } else { Version::HTTP_10 }
}

/// The second look at a request that `httparse` did not take.
fn refuse_request(head: &[u8], limits: &Limits) -> Result<Outline, ErrorKind> {
    let (line, fields) = split_start_line(head);
    let method_end = line.iter().position(|b| *b == b' ').ok_or(ErrorKind::StartLine)?;
    let target_end = line.iter().rposition(|b| *b == b' ').ok_or(ErrorKind::StartLine)?;
    let minor = http_minor(&line[target_end + 1..]).ok_or(ErrorKind::StartLine)?;
    if method_end == 0 || method_end == target_end {
        return Err(ErrorKind::StartLine);
    }
    let (method, target) = (&line[..method_end], &line[method_end + 1..target_end]);
    let scan = FieldScan::new(fields)?;
    let length = scan.framing.resolve(minor == b'1', is_bodiless(method))?;
    let reason = match () {
        _ if minor > b'1' => MessageError::Version,
        _ if !method.iter().copied().all(is_token) => MessageError::Method,
        _ if method == b"CONNECT" => MessageError::MethodConnect,
        _ if !is_target(target) => MessageError::Target,
        _ if scan.hosts > 1 => MessageError::Field,
        _ => scan.reason(limits),
    };
    Ok(request_outline(Some(reason), length, method))
}

/// The second look at a response that `httparse` did not take.
fn refuse_response(head: &[u8], to_head: bool, limits: &Limits) -> Result<Outline, ErrorKind> {
    let (line, fields) = split_start_line(head);
    let minor = line.get(..8).and_then(http_minor).ok_or(ErrorKind::StartLine)?;
    let (code, reason) = match line.get(8..) {
        Some([b' ', code @ ..]) if code.len() == 3 => (code, &[][..]),
        Some([b' ', code @ ..]) if code.get(3) == Some(&b' ') => (&code[..3], &code[4..]),
        _ => return Err(ErrorKind::StartLine),
    };
    let code = decimal(code).ok_or(ErrorKind::StartLine)? as u16;
    let scan = FieldScan::new(fields)?;
    let stated = scan.framing.resolve(minor == b'1', false)?;
    let reason = match () {
        _ if minor > b'1' => MessageError::Version,
        _ if code < 100 || !reason.iter().copied().all(is_value) => MessageError::Status,
        _ => scan.reason(limits),
    };
    response_outline(Some(reason), code, stated, to_head, false)
}

/// The field lines of a head, looked at one by one.
struct FieldScan<'a> {
    framing: FramingFields<'a>,
    lines: usize,
    hosts: usize,
    malformed: bool,
}

impl<'a> FieldScan<'a> {
    /// Fails if a malformed line may be meant, or be taken by somebody, as a framing field (R-read-field-framing).
    fn new(fields: &'a [u8]) -> Result<Self, ErrorKind> {
        let lines: Vec<&[u8]> = lines(fields).collect();
        let mut scan = Self { framing: FramingFields::default(), lines: lines.len(), hosts: 0, malformed: false };
        for (at, line) in lines.iter().enumerate() {
            // A fold changes the line before it, and some readers look for a colon past the line end.
            let folded = lines.get(at + 1).is_some_and(|next| matches!(next.first(), Some(b' ' | b'\t')));
            let swallowed = at > 0 && !lines[at - 1].contains(&b':');
            match split_field(line) {
                Some((name, value)) if !folded && !swallowed => {
                    scan.hosts += usize::from(name.eq_ignore_ascii_case(b"host"));
                    scan.framing.see(name, value);
                }
                _ if concerns_framing(line) => return Err(ErrorKind::FieldLine),
                _ => scan.malformed = true,
            }
        }
        Ok(scan)
    }

    /// Why a head with a good start line was not taken.
    fn reason(&self, limits: &Limits) -> MessageError {
        if !self.malformed && self.lines > limits.header_count {
            MessageError::TooManyFields
        } else {
            MessageError::Field
        }
    }
}

/// The minor version of `HTTP/1.` and a digit.
fn http_minor(version: &[u8]) -> Option<u8> {
    match version {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit() => Some(*minor),
        _ => None,
    }
}

fn concerns_framing(line: &[u8]) -> bool {
    let holds = |name: &[u8]| line.windows(name.len()).any(|part| part.eq_ignore_ascii_case(name));
    holds(b"content-length") || holds(b"transfer-encoding")
}

/// A well-formed field line as its name and all that stands after its colon.
fn split_field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|b| *b == b':')?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let well_formed = !name.is_empty() && name.iter().copied().all(is_token) && value.iter().copied().all(is_value);
    well_formed.then_some((name, value))
}

fn split_start_line(head: &[u8]) -> (&[u8], &[u8]) {
    let end = head.iter().position(|b| *b == b'\n').map_or(head.len(), |lf| lf + 1);
    let (line, rest) = head.split_at(end);
    (strip_line_end(line), rest)
}

/// The lines of a head, without their ends, up to the empty one.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    head.split_inclusive(|b| *b == b'\n').map(strip_line_end).take_while(|line| !line.is_empty())
}

fn strip_line_end(line: &[u8]) -> &[u8] {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    line.strip_suffix(b"\r").unwrap_or(line)
}

fn is_target(target: &[u8]) -> bool {
    (target == b"*" || target.first() == Some(&b'/')) && target.iter().all(|b| matches!(b, 0x21..=0x7e))
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn is_value(byte: u8) -> bool {
    matches!(byte, b'\t' | 0x20..=0x7e | 0x80..)
}
