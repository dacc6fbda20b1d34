//! A reader of HTTP/1 requests made after RFC 9112 and after what spec/07-limits-and-security.md and spec/08-conformance.md
//! say of our proxy's door, byte by byte and without any library: slow, plain, and the judge of what the proxy lets through
//! to hyper. Only what is a URI, beyond origin-form, is left to the `http` crate.

/// A request as its reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Asked {
    /// The method.
    pub method: Vec<u8>,
    /// The target, percent-encoded as R-proxy-target has it.
    pub target: Vec<u8>,
    /// HTTP/1.0, not HTTP/1.1.
    pub is_http_10: bool,
    /// Names in lower case, sorted by them; the values of one name in their order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// As much of the body as there is.
    pub body: Vec<u8>,
    /// How the body ends.
    pub body_end: BodyEnd,
    /// The body has trailers or extensions that its grammar does not know or that are long: its reader may give up there.
    pub is_odd: bool,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BodyEnd {
    /// It is whole.
    Whole,
    /// The bytes end within it.
    Inside,
    /// It could be delimited in more than one way.
    Doubt,
}

/// How reading ends.
#[derive(Clone, Debug, PartialEq)]
pub enum End {
    /// With the bytes: nothing is wrong so far.
    Open,
    /// At a head with these faults, each of which is a reason to refuse it, by its status.
    Refused(Vec<u16>),
    /// In a body.
    Doubt,
}

/// What was read.
#[derive(Debug)]
pub struct Reading {
    /// The requests whose heads are good.
    pub asked: Vec<Asked>,
    /// What the next reader may get to see: all before what is refused or in doubt, and no part of a head.
    pub passed: Vec<u8>,
    /// How it ends.
    pub end: End,
}

/// The limits that count here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest head.
    pub head: usize,
    /// Most field lines.
    pub fields: usize,
    /// Longest target.
    pub target: usize,
    /// Longest name of a field.
    pub name: usize,
    /// Longest line that begins a chunk, with its CR.
    pub chunk_line: usize,
}

/// Reads requests until the bytes end, or trust does.
pub fn read(wire: &[u8], limits: Limits) -> Reading {
    let mut reading = Reading { asked: Vec::new(), passed: Vec::new(), end: End::Open };
    let mut rest = wire;
    loop {
        if let Some(behind) = rest.strip_prefix(b"\r\n") {
            // An empty line before a request line is ignored (RFC 9112, section 2.2).
            rest = behind;
            continue;
        }
        let (length, head) = match read_head(rest, limits) {
            Ok(None) => return reading,
            Ok(Some(head)) => head,
            Err(faults) => {
                reading.end = End::Refused(faults);
                return reading;
            }
        };
        reading.passed.extend_from_slice(&head.read_as);
        rest = &rest[length..];
        let mut asked = head.asked;
        let taken = match head.framing {
            Framing::Length(length) => {
                let taken = usize::try_from(length).unwrap_or(usize::MAX).min(rest.len());
                asked.body = rest[..taken].to_vec();
                asked.body_end = if taken as u64 == length { BodyEnd::Whole } else { BodyEnd::Inside };
                taken
            }
            Framing::Chunked => read_chunks(rest, &mut asked, limits),
        };
        reading.passed.extend_from_slice(&rest[..taken]);
        rest = &rest[taken..];
        let end = asked.body_end;
        reading.asked.push(asked);
        match end {
            BodyEnd::Whole => {}
            BodyEnd::Inside => return reading,
            BodyEnd::Doubt => {
                reading.end = End::Doubt;
                return reading;
            }
        }
    }
}

enum Framing {
    Length(u64),
    Chunked,
}

struct Head {
    asked: Asked,
    framing: Framing,
    /// As the next reader gets it.
    read_as: Vec<u8>,
}

/// Reads the head at the beginning and tells its length; `None` if its end has not come; an error if it is refused, whether
/// or not its end has come: what is wrong is found at the first byte that makes it so.
fn read_head(bytes: &[u8], limits: Limits) -> Result<Option<(usize, Head)>, Vec<u16>> {
    let mut is_in_method = true;
    let mut line = 0;
    for (at, byte) in bytes.iter().copied().enumerate() {
        if at < limits.head && is_in_method {
            let is_end = byte == b' ' && at > 0;
            // The first half of an empty line, perhaps.
            let is_half = bytes == b"\r";
            if !is_tchar(byte) && !is_end && !is_half {
                return Err(vec![400]);
            }
            is_in_method = !is_end;
        }
        if byte == b'\n' && at <= limits.head {
            if at == 0 || bytes[at - 1] != b'\r' {
                return Err(vec![400]);
            }
            if at == line + 1 {
                return whole_head(&bytes[..=at], limits).map(|head| Some((at + 1, head)));
            }
            line = at + 1;
        }
        if at >= limits.head {
            return Err(vec![431]);
        }
    }
    Ok(None)
}

/// Judges a head that is whole, whose lines all end in CRLF.
fn whole_head(bytes: &[u8], limits: Limits) -> Result<Head, Vec<u16>> {
    let mut lines = crlf_lines(&bytes[..bytes.len() - 2]).into_iter();
    let start = lines.next().unwrap_or_default();
    let mut faults = Vec::new();
    let mut parts = start.split(|byte| *byte == b' ');
    let (method, target, version) =
        (parts.next().unwrap_or_default(), parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let is_http_10 = version == b"HTTP/1.0";
    if parts.next().is_some() || !(is_http_10 || version == b"HTTP/1.1") {
        faults.push(400);
    }
    if method.is_empty() || !method.iter().all(|byte| is_tchar(*byte)) {
        faults.push(400);
    }
    let target = encoded(target);
    if target.is_empty() || !target.iter().all(|byte| matches!(byte, 0x21..=0x7e | 0x80..)) {
        faults.push(400);
    }
    if target.first() != Some(&b'/') && http::Uri::try_from(&target[..]).is_err() {
        faults.push(400);
    }
    if target.len() > limits.target {
        faults.push(414);
    }
    let mut fields = Vec::new();
    for line in lines {
        match field(line) {
            Some((name, value)) => {
                if name.len() > limits.name {
                    faults.push(431);
                }
                fields.push((name, value));
            }
            None => faults.push(400),
        }
    }
    let read_as = [method, b" ", &target, &bytes[method.len() + 1 + target_length(start)..]].concat();
    if fields.len() > limits.fields || read_as.len() > limits.head {
        faults.push(431);
    }
    let values = |wanted: &str| -> Vec<Vec<u8>> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.clone()).collect()
    };
    let (lengths, codings) = (values("content-length"), values("transfer-encoding"));
    let length = lengths.first().map(|value| decimal(value));
    if lengths.len() > 1 || length == Some(None) {
        faults.push(400);
    }
    if !codings.is_empty() && (!lengths.is_empty() || is_http_10) {
        faults.push(400);
    }
    if codings.len() > 1 || codings.first().is_some_and(|coding| !coding.eq_ignore_ascii_case(b"chunked")) {
        faults.push(501);
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let framing = if codings.is_empty() { Framing::Length(length.flatten().unwrap_or(0)) } else { Framing::Chunked };
    let (body, body_end) = (Vec::new(), BodyEnd::Whole);
    let asked = Asked { method: method.to_vec(), target, is_http_10, fields, body, body_end, is_odd: false };
    Ok(Head { asked, framing, read_as })
}

/// How long a request line's target is, as it came.
fn target_length(start: &[u8]) -> usize {
    start.split(|byte| *byte == b' ').nth(1).map_or(0, <[u8]>::len)
}

/// The lines of what ends in CRLF, without it. They have no LF; a CR within one is its own.
fn crlf_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    lines.pop();
    lines.into_iter().map(|line| &line[..line.len() - 1]).collect()
}

/// Name and value of a field line (RFC 9112, section 5), which is not folded.
fn field(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let (name, mut value) = (&line[..colon], &line[colon + 1..]);
    if name.is_empty() || !name.iter().all(|byte| is_tchar(*byte)) || !value.iter().all(|byte| is_text(*byte)) {
        return None;
    }
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    Some((String::from_utf8_lossy(name).to_ascii_lowercase(), value.to_vec()))
}

/// R-proxy-target: in the path and the query, wherever they begin.
fn encoded(target: &[u8]) -> Vec<u8> {
    let mut at = 0;
    if target.first() != Some(&b'/') {
        let Some(authority) = target.windows(3).position(|window| window == b"://") else { return target.to_vec() };
        at = authority + 3;
        while at < target.len() && !b"/?#".contains(&target[at]) {
            at += 1;
        }
    }
    let mut encoded = target[..at].to_vec();
    for byte in &target[at..] {
        match byte {
            b'"' | b'<' | b'>' | b'`' | 0x80.. => encoded.extend(format!("%{byte:02X}").bytes()),
            _ => encoded.push(*byte),
        }
    }
    encoded
}

/// A decimal number, of which hyper keeps the last few to itself.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let mut number = 0u64;
    for byte in value {
        let digit = byte.is_ascii_digit().then(|| u64::from(byte - b'0'))?;
        number = number.checked_mul(10)?.checked_add(digit)?;
    }
    (number < u64::MAX - 8).then_some(number)
}

/// Reads a chunked body (RFC 9112, section 7.1) and tells how many bytes may be passed on.
fn read_chunks(bytes: &[u8], asked: &mut Asked, limits: Limits) -> usize {
    let mut at = 0;
    // Without its line end, of which the CR may be missing.
    let line = |at: usize| bytes[at..].iter().position(|byte| *byte == b'\n').map(|end| &bytes[at..at + end]);
    let mut extensions = 0;
    asked.body_end = BodyEnd::Inside;
    loop {
        let Some(size_line) = line(at) else { return bytes.len() };
        let size = size_line.strip_suffix(b"\r").and_then(chunk_size).filter(|_| size_line.len() <= limits.chunk_line);
        at += size_line.len();
        let Some((size, extension)) = size else {
            asked.body_end = BodyEnd::Doubt;
            return at;
        };
        extensions += extension;
        asked.is_odd |= extensions > 0;
        at += 1;
        if size == 0 {
            break;
        }
        let taken = usize::try_from(size).unwrap_or(usize::MAX).min(bytes.len() - at);
        asked.body.extend_from_slice(&bytes[at..at + taken]);
        at += taken;
        let Some(behind) = line(at) else { return bytes.len() };
        at += behind.len();
        if behind != b"\r" {
            asked.body_end = BodyEnd::Doubt;
            return at;
        }
        at += 1;
    }
    let trailers = at;
    loop {
        let Some(trailer) = line(at) else { return bytes.len() };
        at += trailer.len();
        let Some(trailer) = trailer.strip_suffix(b"\r") else {
            asked.body_end = BodyEnd::Doubt;
            return at;
        };
        at += 1;
        if trailer.is_empty() {
            asked.body_end = BodyEnd::Whole;
            return at;
        }
        asked.is_odd |= field(trailer).is_none() || at - trailers > 512;
    }
}

/// A chunk's size and how long what follows it is: nothing, white space, extensions.
fn chunk_size(line: &[u8]) -> Option<(u64, usize)> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let mut size = 0u64;
    for digit in &line[..digits] {
        let digit = char::from(*digit).to_digit(16)?;
        size = size.checked_mul(16)?.checked_add(digit.into())?;
    }
    let behind = &line[digits..];
    let mut extension = behind;
    while let [b' ' | b'\t', rest @ ..] = extension {
        extension = rest;
    }
    let is_good = extension.is_empty() || extension[0] == b';' && extension.iter().all(|byte| is_text(*byte));
    (digits > 0 && is_good).then_some((size, behind.len()))
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

fn is_tchar(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
