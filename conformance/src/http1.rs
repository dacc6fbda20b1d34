//! HTTP/1.1 messages as the suite reads them: its own, strict reader of what a subject has sent
//! (spec/05-messages.md, 5.1), which shares no code with the core.

use crate::scenario::Role;

/// Name and value of a field.
pub type Field = (String, Vec<u8>);

/// One message.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The start line, without its line end.
    pub start: Vec<u8>,
    /// The fields in their order, values without white space at both ends.
    pub fields: Vec<Field>,
    /// The body.
    pub body: Vec<u8>,
}

/// The fields that delimit a message: named or not, they are compared.
pub const FRAMING: [&str; 3] = ["content-length", "transfer-encoding", "teleport-head-length"];

/// The fields that no sender writes (R-write-no-hop-by-hop).
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

impl Message {
    /// The values of a field, in their order.
    pub fn values<'m>(&'m self, name: &str) -> Vec<&'m [u8]> {
        values(&self.fields, name)
    }

    /// The start line as far as it is compared: of a status line, version and status.
    pub fn start_compared(&self) -> &[u8] {
        if self.start.starts_with(b"HTTP/1.") { &self.start[..self.start.len().min(12)] } else { &self.start }
    }

    /// As it stands on the wire, in a plain form.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = [&self.start[..], b"\r\n"].concat();
        for (name, value) in &self.fields {
            bytes.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// The values of a field, in their order.
pub fn values<'f>(fields: &'f [Field], name: &str) -> Vec<&'f [u8]> {
    fields.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| &value[..]).collect()
}

/// The fields of a literal: lines with CRLF.
///
/// # Errors
///
/// A line has no colon, or does not end.
pub fn given_fields(mut text: &[u8]) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    while !text.is_empty() {
        let end = text.windows(2).position(|w| w == b"\r\n").ok_or("each field ends with \\r\\n")?;
        let colon = text[..end].iter().position(|b| *b == b':').ok_or("a field has no colon")?;
        let name = String::from_utf8(text[..colon].to_vec()).map_err(|_| "a field name is ASCII")?;
        let value = text[colon + 1..end].strip_prefix(b" ").unwrap_or(&text[colon + 1..end]);
        fields.push((name, value.to_vec()));
        text = &text[end + 2..];
    }
    Ok(fields)
}

/// The message of a literal.
///
/// # Errors
///
/// It has no head.
pub fn given_message(bytes: &[u8]) -> Result<Message, String> {
    let end =
        bytes.windows(4).position(|w| w == b"\r\n\r\n").ok_or("a message has a head that ends with \\r\\n\\r\\n")?;
    let line = bytes.windows(2).position(|w| w == b"\r\n").unwrap_or(end);
    let fields = given_fields(bytes.get(line + 2..end + 2).unwrap_or_default())?;
    Ok(Message { start: bytes[..line].to_vec(), fields, body: bytes[end + 4..].to_vec() })
}

/// A rule that a sent message breaks, and what is wrong.
#[derive(Clone, Debug, PartialEq)]
pub struct Breach {
    /// The rule.
    pub rule: &'static str,
    /// What is wrong.
    pub what: String,
}

fn breach<T>(rule: &'static str, what: impl Into<String>) -> Result<T, Breach> {
    Err(Breach { rule, what: what.into() })
}

/// Reads one message of the narrow form from the start of `plain`, of a frame with this id: the message and its length;
/// `None` while bytes are missing.
///
/// # Errors
///
/// The sender has broken a rule.
pub fn read(role: Role, id: u32, plain: &[u8]) -> Result<Option<(Message, usize)>, Breach> {
    let mut lines = Vec::new();
    let mut at = 0;
    loop {
        let Some(length) = plain[at..].iter().position(|b| *b == b'\n') else {
            return judge_part(role, lines.is_empty(), &plain[at..]).map(|()| None);
        };
        let line = &plain[at..at + length];
        at += length + 1;
        let Some(line) = line.strip_suffix(b"\r") else {
            return breach("R-write-start-line", format!("a line does not end with CRLF: {}", quote(line)));
        };
        if line.is_empty() {
            break;
        }
        if lines.is_empty() {
            judge_start(role, line)?;
        }
        lines.push(line);
    }
    let Some((start, field_lines)) = lines.split_first() else {
        return breach("R-frame-nothing-between", "an empty line stands where a start line should");
    };
    let fields = field_lines.iter().map(|line| field(line)).collect::<Result<Vec<_>, _>>()?;
    // A goodbye has the field (R-goodbye).
    let may_say = |name: &str| role == Role::Server && id == 0 && name.eq_ignore_ascii_case("connection");
    let is_hop = |name: &str| HOP_BY_HOP.iter().any(|hop| name.eq_ignore_ascii_case(hop));
    if let Some((name, _)) = fields.iter().find(|(name, _)| is_hop(name) && !may_say(name)) {
        return breach("R-write-no-hop-by-hop", format!("a field that is never sent: {name}"));
    }
    let length = body_length(role, start, &fields)?;
    let Some(body) = usize::try_from(length).ok().and_then(|length| plain.get(at..at.checked_add(length)?)) else {
        return Ok(None);
    };
    let length = at + body.len();
    Ok(Some((Message { start: start.to_vec(), fields, body: body.to_vec() }, length)))
}

/// A beginning that can become no start line is said early: it would otherwise wait for a line end for ever.
fn judge_part(role: Role, is_start: bool, part: &[u8]) -> Result<(), Breach> {
    let expected: &[u8] = b"HTTP/1.1 ";
    let length = part.len().min(expected.len());
    let is_wrong = match role {
        Role::Server => part[..length] != expected[..length],
        Role::Client => part.first().is_some_and(|b| !is_token(*b)),
    };
    if is_start && is_wrong {
        return breach("R-write-start-line", format!("no start line begins with {}", quote(part)));
    }
    Ok(())
}

fn quote(bytes: &[u8]) -> String {
    crate::literal::quote(&bytes[..bytes.len().min(120)])
}

fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

fn judge_start(role: Role, line: &[u8]) -> Result<(), Breach> {
    let wrong = |what: &str| breach("R-write-start-line", format!("{what}: {}", quote(line)));
    if role == Role::Server {
        let Some(rest) = line.strip_prefix(b"HTTP/1.1 ") else { return wrong("no `HTTP/1.1 ` at the start") };
        let (Some(status), Some(b' ')) = (rest.get(..3), rest.get(3)) else {
            return wrong("no three digits and a space after the version");
        };
        if !status.iter().all(u8::is_ascii_digit) {
            return wrong("no status");
        }
        if !(b"200"..=b"599").contains(&<&[u8; 3]>::try_from(status).unwrap_or(b"000")) {
            return breach("R-write-no-interim", format!("the status is not one of 200 to 599: {}", quote(line)));
        }
        if rest[4..].iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return wrong("a control byte in the reason");
        }
        return Ok(());
    }
    let parts: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let [method, target, version] = parts[..] else { return wrong("not three parts with single spaces") };
    if version != b"HTTP/1.1" {
        return wrong("the version is not HTTP/1.1");
    }
    if method.is_empty() || !method.iter().all(|b| is_token(*b)) || method == b"CONNECT" {
        return breach("R-write-method", format!("the method is not one to be sent: {}", quote(line)));
    }
    let is_visible = target.iter().all(|b| (0x21..=0x7e).contains(b));
    if !is_visible || !(target == b"*" || target.starts_with(b"/")) {
        return breach("R-write-target", format!("the target is neither origin form nor `*`: {}", quote(line)));
    }
    Ok(())
}

fn field(line: &[u8]) -> Result<Field, Breach> {
    let wrong = |what: &str| breach("R-write-fields", format!("{what}: {}", quote(line)));
    let Some(colon) = line.iter().position(|b| *b == b':') else { return wrong("no colon in a field line") };
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return wrong("a field name is no token");
    }
    if value.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
        return wrong("a control byte in a field value");
    }
    let Some(value) = value.strip_prefix(b" ") else { return wrong("no single space after the colon") };
    if value.trim_ascii() != value {
        return wrong("white space around a field value");
    }
    let name = String::from_utf8_lossy(name).into_owned();
    Ok((name, value.to_vec()))
}

/// How many bytes follow the head, after the sender's rules about them.
fn body_length(role: Role, start: &[u8], fields: &[Field]) -> Result<u64, Breach> {
    let lengths = values(fields, "content-length");
    let head_lengths = values(fields, "teleport-head-length");
    for value in lengths.iter().chain(head_lengths.iter().filter(|value| **value != b"none")) {
        if number(value).is_none() {
            return breach("R-write-length", format!("a length is no plain number: {}", quote(value)));
        }
    }
    let length = match lengths[..] {
        [] => None,
        [value] => number(value),
        _ => return breach("R-write-length", "more than one Content-Length"),
    };
    if head_lengths.len() > 1 {
        return breach("R-head-response", "more than one Teleport-Head-Length");
    }
    if role == Role::Client {
        let has_no_body = start.starts_with(b"GET ") || start.starts_with(b"HEAD ");
        if values(fields, "host").len() != 1 {
            return breach("R-write-host", "not exactly one Host");
        }
        if !values(fields, "expect").is_empty() {
            return breach("R-write-no-expect", "an Expect field");
        }
        if !head_lengths.is_empty() {
            return breach("R-head-length-only", "a Teleport-Head-Length in a request");
        }
        return match length {
            Some(_) if has_no_body => breach("R-write-no-body", "a GET or HEAD with a Content-Length"),
            None if !has_no_body => breach("R-write-length", "no Content-Length in a request that needs one"),
            length => Ok(length.unwrap_or(0)),
        };
    }
    let status = start.get(9..12).unwrap_or_default();
    match (status, length) {
        (b"204", Some(_)) => breach("R-write-no-content", "a 204 with a Content-Length"),
        (b"204" | b"304", _) if !head_lengths.is_empty() => {
            breach("R-head-length-only", "a Teleport-Head-Length in a 204 or 304")
        }
        (b"204" | b"304", _) => Ok(0),
        (_, None) => breach("R-write-length", "no Content-Length in a response that needs one"),
        (_, Some(length)) if length > 0 && !head_lengths.is_empty() => {
            breach("R-head-response", "a Teleport-Head-Length beside a Content-Length that is not 0")
        }
        (_, Some(length)) => Ok(length),
    }
}

/// A length as a sender writes it: no sign, no leading zero, at most 2^63 - 1.
fn number(value: &[u8]) -> Option<u64> {
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && (value[0] != b'0' || value.len() == 1);
    let text = std::str::from_utf8(value).ok().filter(|_| is_plain)?;
    text.parse().ok().filter(|length| *length <= i64::MAX as u64)
}
