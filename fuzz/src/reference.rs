//! A reader of messages made after spec/05-messages.md alone, line by line and without any of the core's libraries: slow,
//! plain, and the judge of the fast one. Sections are those of the specification.

/// What becomes of one message.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is delivered.
    Delivered(Message),
    /// It is refused with this code.
    Refused(&'static str),
}

/// A message as its reader sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Method, or status.
    pub first: Vec<u8>,
    /// Target; of a response empty.
    pub target: Vec<u8>,
    /// Names in lower case, sorted by them; the values of one name in their order.
    pub fields: Vec<(String, Vec<u8>)>,
    /// The body.
    pub body: Vec<u8>,
}

/// How reading ends.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// At a frame boundary.
    Boundary,
    /// Within a message.
    Inside,
    /// Within a head whose start line can already be known to be wrong.
    InsideOf(&'static str),
    /// The link ends with this code.
    Error(&'static str),
}

/// The limits that count here.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Longest head.
    pub head: usize,
    /// Most field lines.
    pub fields: usize,
    /// Longest body.
    pub body: u64,
    /// Longest message.
    pub message: u64,
}

/// Who reads, and what is asked of responses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Role {
    /// A server: requests.
    Server,
    /// A client, whose request had this method: HEAD or another.
    Client {
        /// It was HEAD.
        to_head: bool,
    },
}

enum Stop {
    Inside,
    InsideOf(&'static str),
    Error(&'static str),
}

type Read<T> = Result<T, Stop>;

/// Reads frames until the bytes or the link end. `role` is asked with each id.
pub fn read(mut plain: &[u8], role: impl Fn(u32, usize) -> Role, limits: Limits) -> (Vec<(u32, Outcome)>, End) {
    let mut outcomes = Vec::new();
    loop {
        if plain.is_empty() {
            return (outcomes, End::Boundary);
        }
        let Some((id, rest)) = plain.split_first_chunk::<4>() else { return (outcomes, End::Inside) };
        let id = u32::from_le_bytes(*id);
        let mut reader = Reader { rest, used: 0, limits, role: role(id, outcomes.len()) };
        match reader.message() {
            Ok((outcome, is_last)) => {
                outcomes.push((id, outcome));
                if is_last {
                    return (outcomes, End::Error("head-ambiguous"));
                }
                plain = reader.rest;
            }
            Err(Stop::Inside) => return (outcomes, End::Inside),
            Err(Stop::InsideOf(code)) => return (outcomes, End::InsideOf(code)),
            Err(Stop::Error(code)) => return (outcomes, End::Error(code)),
        }
    }
}

struct Reader<'a> {
    rest: &'a [u8],
    used: u64,
    limits: Limits,
    role: Role,
}

enum Body {
    None,
    Fixed(u64),
    Chunked,
}

impl<'a> Reader<'a> {
    fn message(&mut self) -> Read<(Outcome, bool)> {
        loop {
            let head = self.head()?;
            if let Some(read) = self.after_head(head)? {
                return Ok(read);
            }
        }
    }

    /// R-limit-message.
    fn pass(&mut self, bytes: usize) -> Read<()> {
        self.used += bytes as u64;
        self.rest = &self.rest[bytes..];
        if self.used > self.limits.message { Err(Stop::Error("message-too-large")) } else { Ok(()) }
    }

    /// The lines of a head, without their ends: R-read-line-end, R-read-empty-lines.
    fn head(&mut self) -> Read<Vec<&'a [u8]>> {
        loop {
            let skip = match self.rest {
                [b'\n', ..] => 1,
                [b'\r', b'\n', ..] => 2,
                _ => break,
            };
            self.pass(skip)?;
        }
        let all = self.rest;
        let mut lines: Vec<&[u8]> = Vec::new();
        let mut at = 0;
        loop {
            let end = all[at..].iter().position(|b| *b == b'\n').map(|lf| at + lf);
            let reached = end.map_or(all.len(), |end| end + 1);
            if reached > self.limits.head || end.is_none() && reached >= self.limits.head {
                return Err(match lines.first() {
                    // It may have been seen before.
                    Some(start) if !self.can_be_split(start) => Stop::InsideOf("start-line"),
                    _ => Stop::Error("head-too-large"),
                });
            }
            let Some(end) = end else {
                return Err(match lines.first() {
                    Some(start) if !self.can_be_split(start) => Stop::InsideOf("start-line"),
                    _ => Stop::Inside,
                });
            };
            let line = all[at..end].strip_suffix(b"\r").unwrap_or(&all[at..end]);
            at = end + 1;
            if line.is_empty() {
                self.pass(at)?;
                return Ok(lines);
            }
            lines.push(line);
        }
    }

    fn can_be_split(&self, start: &[u8]) -> bool {
        match self.role {
            Role::Server => split_request(start).is_some(),
            Role::Client { .. } => split_status(start).is_some(),
        }
    }

    /// `None`: another head follows in the same frame.
    fn after_head(&mut self, lines: Vec<&[u8]>) -> Read<Option<(Outcome, bool)>> {
        let (start, lines) = lines.split_first().expect("a head has a start line");
        let error = |code| Err(Stop::Error(code));
        if !self.can_be_split(start) {
            return error("start-line");
        }
        let fields = Fields::read(lines).map_err(Stop::Error)?;
        let length = fields.length().map_err(Stop::Error)?;
        let is_chunked = fields.count("transfer-encoding") > 0;
        let coding_is_good = |minor: u8| {
            let value = fields.values("transfer-encoding").next().unwrap_or_default();
            minor == b'1'
                && fields.count("transfer-encoding") == 1
                && spaces_off(value).eq_ignore_ascii_case(b"chunked")
        };
        let both = |minor: u8| match (is_chunked, length) {
            (true, _) if !coding_is_good(minor) => Err(Stop::Error("transfer-encoding")),
            (true, Some(_)) => Err(Stop::Error("length-and-chunked")),
            _ => Ok(()),
        };
        let (body, mut refusal, message, is_last);
        match self.role {
            Role::Server => {
                let (method, target, minor) = split_request(start).expect("judged above");
                let is_bodiless = method == b"GET" || method == b"HEAD";
                if is_bodiless && (is_chunked || length.is_some_and(|length| length > 0)) {
                    return error("body-not-allowed");
                }
                both(minor)?;
                body = match length {
                    _ if is_bodiless => Body::None,
                    _ if is_chunked => Body::Chunked,
                    Some(length) => Body::Fixed(length),
                    None => Body::None,
                };
                let is_target = (target == b"*" || target.first() == Some(&b'/'))
                    && target.iter().all(|b| (0x21..=0x7e).contains(b));
                refusal = if minor > b'1' {
                    Some("version")
                } else if method.is_empty() || !method.iter().all(|b| is_tchar(*b)) {
                    Some("method")
                } else if method == b"CONNECT" {
                    Some("method-connect")
                } else if !is_target {
                    Some("target")
                } else if fields.is_malformed || fields.count("host") > 1 {
                    Some("field")
                } else if lines.len() > self.limits.fields {
                    Some("too-many-fields")
                } else {
                    None
                };
                let shown = fields.shown(|name| {
                    name != "transfer-encoding"
                        && name != "teleport-head-length"
                        && !(is_bodiless && name == "content-length")
                });
                message = Message { first: method.to_vec(), target: target.to_vec(), fields: shown, body: Vec::new() };
                is_last = false;
            }
            Role::Client { to_head } => {
                let (status, reason, minor) = split_status(start).expect("judged above");
                both(minor)?;
                if status == b"100" {
                    return Ok(None);
                }
                let has_none = status[0] == b'1' || status == b"204" || status == b"304";
                is_last = !has_none && to_head && (is_chunked || length != Some(0));
                body = match length {
                    _ if has_none || to_head => Body::None,
                    _ if is_chunked => Body::Chunked,
                    Some(length) => Body::Fixed(length),
                    None => return error("length-required"),
                };
                refusal = if minor > b'1' {
                    Some("version")
                } else if status[0] == b'0' || reason.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
                    Some("status")
                } else if fields.is_malformed {
                    Some("field")
                } else if lines.len() > self.limits.fields {
                    Some("too-many-fields")
                } else if status[0] == b'1' {
                    Some("interim-response")
                } else {
                    None
                };
                let replaces = to_head && !has_none && !is_last;
                let told = fields.values("teleport-head-length").next().filter(|_| replaces);
                let told = told.filter(|_| fields.count("teleport-head-length") == 1).and_then(told_length);
                let mut shown = fields.shown(|name| {
                    name != "transfer-encoding"
                        && name != "teleport-head-length"
                        && !(name == "content-length" && (status == b"204" || told.is_some() || is_last && is_chunked))
                });
                if let Some(Some(length)) = told {
                    shown.push(("content-length".into(), length));
                    shown.sort_by(|a, b| a.0.cmp(&b.0));
                }
                message = Message { first: status.to_vec(), target: Vec::new(), fields: shown, body: Vec::new() };
            }
        }
        let (bytes, is_too_long) = self.body(&body)?;
        if is_too_long {
            refusal = refusal.or(Some("body-too-large"));
        }
        Ok(Some((refusal.map_or(Outcome::Delivered(Message { body: bytes, ..message }), Outcome::Refused), is_last)))
    }

    fn announce(&self, bytes: u64) -> Read<()> {
        if self.used.saturating_add(bytes) > self.limits.message {
            Err(Stop::Error("message-too-large"))
        } else {
            Ok(())
        }
    }

    fn take(&mut self, bytes: u64) -> Read<&'a [u8]> {
        self.announce(bytes)?;
        let taken = usize::try_from(bytes).ok().and_then(|bytes| self.rest.get(..bytes)).ok_or(Stop::Inside)?;
        self.pass(taken.len())?;
        Ok(taken)
    }

    /// The first byte that does not fit is the error.
    fn expect(&mut self, text: &[u8]) -> Read<()> {
        for wanted in text {
            match self.rest.first() {
                None => return Err(Stop::Inside),
                Some(byte) if byte == wanted => self.pass(1)?,
                Some(_) => return Err(Stop::Error("chunked-body")),
            }
        }
        Ok(())
    }

    fn body(&mut self, body: &Body) -> Read<(Vec<u8>, bool)> {
        match body {
            Body::None => Ok((Vec::new(), false)),
            Body::Fixed(length) => Ok((self.take(*length)?.to_vec(), *length > self.limits.body)),
            Body::Chunked => {
                let mut all = Vec::new();
                loop {
                    let mut digits = Vec::new();
                    while let Some(digit) = self.rest.first().filter(|b| b.is_ascii_hexdigit()) {
                        digits.push(*digit);
                        if digits.len() > 16 {
                            return Err(Stop::Error("chunked-body"));
                        }
                        self.pass(1)?;
                    }
                    if digits.is_empty() && !self.rest.is_empty() {
                        return Err(Stop::Error("chunked-body"));
                    }
                    self.expect(b"\r\n")?;
                    let digits = String::from_utf8(digits).expect("digits are ASCII");
                    let size = u64::from_str_radix(&digits, 16).ok().filter(|size| *size <= i64::MAX as u64);
                    match size {
                        None => return Err(Stop::Error("chunked-body")),
                        Some(0) => break,
                        Some(size) => all.extend_from_slice(self.take(size)?),
                    }
                    self.expect(b"\r\n")?;
                }
                self.expect(b"\r\n")?;
                let is_too_long = all.len() as u64 > self.limits.body;
                Ok((all, is_too_long))
            }
        }
    }
}

/// Method, target and the minor version's digit.
fn split_request(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let first = line.iter().position(|b| *b == b' ')?;
    let last = line.iter().rposition(|b| *b == b' ')?;
    if first == 0 || last == first {
        return None;
    }
    Some((&line[..first], &line[first + 1..last], minor(&line[last + 1..])?))
}

/// Status, reason and the minor version's digit.
fn split_status(line: &[u8]) -> Option<(&[u8], &[u8], u8)> {
    let first = line.iter().position(|b| *b == b' ')?;
    let (minor, rest) = (minor(&line[..first])?, &line[first + 1..]);
    let status = rest.get(..3).filter(|status| status.iter().all(u8::is_ascii_digit))?;
    match &rest[3..] {
        [] => Some((status, b"", minor)),
        [b' ', reason @ ..] => Some((status, reason, minor)),
        _ => None,
    }
}

fn minor(version: &[u8]) -> Option<u8> {
    let minor = version.strip_prefix(b"HTTP/1.")?;
    (minor.len() == 1 && minor[0].is_ascii_digit()).then(|| minor[0])
}

struct Fields<'a> {
    /// The well-formed ones: names in lower case, and all that stands behind the colon.
    fields: Vec<(String, &'a [u8])>,
    is_malformed: bool,
}

impl<'a> Fields<'a> {
    fn read(lines: &[&'a [u8]]) -> Result<Self, &'static str> {
        let mut all = Self { fields: Vec::new(), is_malformed: false };
        let is_fold = |line: &[u8]| matches!(line[0], b' ' | b'\t');
        for (at, line) in lines.iter().enumerate() {
            let is_continued = lines.get(at + 1).is_some_and(|next| is_fold(next));
            let is_swallowed = at > 0 && !lines[at - 1].contains(&b':');
            let colon = line.iter().position(|b| *b == b':');
            let well_formed = colon.filter(|colon| {
                let (name, value) = (&line[..*colon], &line[colon + 1..]);
                let is_value = |b: &u8| *b == b'\t' || (0x20..=0x7e).contains(b) || *b >= 0x80;
                !name.is_empty() && name.iter().all(|b| is_tchar(*b)) && value.iter().all(is_value)
            });
            match well_formed {
                Some(colon) if !is_continued && !is_swallowed => {
                    let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
                    all.fields.push((name, &line[colon + 1..]));
                }
                _ => {
                    let text = String::from_utf8_lossy(line).to_ascii_lowercase();
                    if text.contains("content-length") || text.contains("transfer-encoding") {
                        return Err("field-line");
                    }
                    all.is_malformed = true;
                }
            }
        }
        Ok(all)
    }

    fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.fields.iter().filter(move |(n, _)| n == name).map(|(_, value)| *value)
    }

    fn count(&self, name: &str) -> usize {
        self.values(name).count()
    }

    /// R-read-length.
    fn length(&self) -> Result<Option<u64>, &'static str> {
        let mut values = self.values("content-length");
        let Some(value) = values.next() else { return Ok(None) };
        let value = spaces_off(value);
        if values.next().is_some() || value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
            return Err("content-length");
        }
        let text = String::from_utf8_lossy(value);
        text.parse::<u64>().ok().filter(|length| *length <= i64::MAX as u64).map(Some).ok_or("content-length")
    }

    /// R-read-deliver.
    fn shown(&self, is_shown: impl Fn(&str) -> bool) -> Vec<(String, Vec<u8>)> {
        let shown = self.fields.iter().filter(|(name, _)| is_shown(name));
        let mut shown: Vec<_> = shown.map(|(name, value)| (name.clone(), white_off(value).to_vec())).collect();
        shown.sort_by(|a, b| a.0.cmp(&b.0));
        shown
    }
}

/// `None`: malformed. `Some(None)`: `none`.
fn told_length(value: &[u8]) -> Option<Option<Vec<u8>>> {
    let value = white_off(value);
    if value.eq_ignore_ascii_case(b"none") {
        return Some(None);
    }
    let is_plain = !value.is_empty() && value.iter().all(u8::is_ascii_digit) && (value == b"0" || value[0] != b'0');
    let number = String::from_utf8_lossy(value).parse::<u64>().ok().filter(|n| is_plain && *n <= i64::MAX as u64);
    number.map(|_| Some(value.to_vec()))
}

fn spaces_off(mut value: &[u8]) -> &[u8] {
    while let [b' ', rest @ ..] | [rest @ .., b' '] = value {
        value = rest;
    }
    value
}

fn white_off(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn is_tchar(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}
