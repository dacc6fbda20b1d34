//! From what passed on a link to a scenario: one end is the subject, and must do again what it did.

use std::fmt::Write;
use std::path::Path;

use super::{Link, Passed};
use crate::http1::{FRAMING, Field, Message};
use crate::literal::quote_all;
use crate::scenario::{AREAS, Compression, Role, is_id};
use crate::wire::{HELLO_BYTES, Reader, Sent, SentFrame, hello};
use crate::writing::{fields, line, literal, method_and_target};

/// The header of a recorded scenario.
#[derive(Clone, Debug)]
pub struct Head {
    id: String,
    area: String,
    title: String,
    role: Role,
}

impl Head {
    /// Of a file AREA/ID.scn.
    ///
    /// # Errors
    ///
    /// The path has another form.
    pub fn new(path: &Path, title: &str, role: Role) -> Result<Self, String> {
        let wrong = |what: String| Err(format!("{}: {what}", path.display()));
        let part = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
        let (id, area) = (part(path.file_stem()), part(path.parent().and_then(Path::file_name)));
        if !is_id(&id) || path.extension().is_none_or(|extension| extension != "scn") {
            return wrong("the file is ID.scn; an id is lower-case words and digits joined by `-`".into());
        }
        if !AREAS.contains(&area.as_str()) {
            return wrong(format!("the file's folder is an area: one of {}", AREAS.join(", ")));
        }
        Ok(Self { id, area, title: title.replace(['\r', '\n'], " "), role })
    }
}

/// The scenario of a link, for profile core, at one moment: the order is that of the recording.
///
/// # Errors
///
/// The subject's hello has not come, one side has broken a rule for senders, or the link went on in TLS.
pub fn write(head: &Head, link: &Link) -> Result<String, String> {
    let mut writer = Writer::new(head.role);
    for (from, passed) in &link.passed {
        match passed {
            Passed::Bytes(bytes) if *from == head.role => writer.sent(bytes)?,
            Passed::Bytes(bytes) => writer.fed(bytes)?,
            Passed::End => writer.ended(*from == head.role),
        }
    }
    let compression = writer.compression.ok_or("the end that is to be tested has sent no hello")?;
    let (steps, Head { id, area, title, .. }) = (writer.finish(), head);
    let (role, compression) = (head.role.name(), compression.name());
    let rules = match head.role {
        Role::Server => "R-cut-any R-read-deliver R-id-opaque",
        Role::Client => "R-cut-any R-read-deliver R-response-any-order",
    };
    Ok(format!(
        "# Recorded from a live link by `teleport-conformance record`.\nid: {id}\ntitle: {title}\narea: {area}\nrole: \
         {role}\nlevel: must\nrules: {rules}\nconfig: compression={compression}\n\n{steps}"
    ))
}

struct Writer {
    role: Role,
    text: String,
    /// Takes apart what the subject sent, and what it was fed.
    sent: Reader,
    fed: Reader,
    /// What the subject sends with.
    compression: Option<Compression>,
    fed_bytes: usize,
    asked_for_tls: bool,
    /// Frames that a client sent before it had the server's hello; it may also wait for it.
    early: String,
    /// Requests without a response.
    open: Vec<u32>,
    peer_has_ended: bool,
    has_ended: bool,
}

impl Writer {
    fn new(role: Role) -> Self {
        let peer = if role == Role::Client { Role::Server } else { Role::Client };
        Self {
            role,
            text: String::new(),
            sent: Reader::new(role),
            fed: Reader::new(peer),
            compression: None,
            fed_bytes: 0,
            asked_for_tls: false,
            early: String::new(),
            open: Vec::new(),
            peer_has_ended: false,
            has_ended: false,
        }
    }

    /// What came to the subject: the bytes, and what its program was told.
    fn fed(&mut self, bytes: &[u8]) -> Result<(), String> {
        let is_whole_hello = self.fed_bytes == 0 && bytes.len() >= HELLO_BYTES;
        let (first, rest) = bytes.split_at(if is_whole_hello { HELLO_BYTES } else { 0 });
        self.fed_bytes += bytes.len();
        if is_whole_hello {
            let known = Compression::from_code(first[13]).filter(|c| first == hello(0, c.code(), first[14]));
            match known {
                Some(known) if first[14] == 0 => {
                    let _ = writeln!(self.text, "@0 feed hello compression={}", known.name());
                }
                _ => line(&mut self.text, "@0 feed wire", &[literal(first)]),
            }
        }
        if !rest.is_empty() {
            line(&mut self.text, "@0 feed wire", &[literal(rest)]);
        }
        if self.fed_bytes >= HELLO_BYTES {
            self.text.push_str(&std::mem::take(&mut self.early));
        }
        for sent in self.fed.take(bytes) {
            match sent {
                Sent::Hello(hello) => self.tls(&hello)?,
                Sent::Frame(frame) => self.told(&frame)?,
                Sent::Fault(fault) => return Err(format!("what was fed breaks {}: {}", fault.rule, fault.what)),
            }
        }
        Ok(())
    }

    /// What the subject sent: what its program did, and what it led to.
    fn sent(&mut self, bytes: &[u8]) -> Result<(), String> {
        for sent in self.sent.take(bytes) {
            match sent {
                Sent::Hello(hello) => {
                    self.compression = Compression::from_code(hello[13]);
                    let _ = writeln!(self.text, "@0 send hello tls={}", hello[14]);
                    self.tls(&hello)?;
                }
                Sent::Frame(frame) => self.did(&frame)?,
                Sent::Fault(fault) => return Err(format!("what was sent breaks {}: {}", fault.rule, fault.what)),
            }
        }
        Ok(())
    }

    fn tls(&mut self, hello: &[u8]) -> Result<(), String> {
        let asks = hello.get(14).is_some_and(|tls| *tls != 0);
        if std::mem::replace(&mut self.asked_for_tls, asks) && asks {
            return Err("the link went on in TLS, where nothing can be read".into());
        }
        Ok(())
    }

    fn told(&mut self, frame: &SentFrame) -> Result<(), String> {
        let SentFrame { id, message, .. } = frame;
        let words = if self.role == Role::Server {
            let (method, target) = method_and_target(message)?;
            let (method, target) = (quote_all(method), quote_all(target));
            if *id == 0 {
                format!("@0 event oneway {method} {target}")
            } else {
                self.open.push(*id);
                format!("@0 event request {id} {method} {target}")
            }
        } else {
            // One that nobody waits for is no event.
            let Some(at) = self.open.iter().position(|open| open == id) else { return Ok(()) };
            self.open.remove(at);
            format!("@0 event response {id} {}", status(message))
        };
        line(&mut self.text, &words, &parts(message, &[], true));
        Ok(())
    }

    fn did(&mut self, frame: &SentFrame) -> Result<(), String> {
        let SentFrame { id, message, .. } = frame;
        let (words, parts) = if self.role == Role::Client {
            let (method, target) = method_and_target(message)?;
            let action = if *id == 0 { "oneway".into() } else { format!("request {id}") };
            let host = message.values("host").first().copied().unwrap_or_default();
            self.open.extend((*id != 0).then_some(*id));
            let words = format!("@0 do {action} {} {} host {}", quote_all(method), quote_all(target), quote_all(host));
            (words, parts(message, &["host"], false))
        } else {
            self.open.iter().position(|open| open == id).map(|at| self.open.remove(at));
            let words = format!("@0 do respond {id} {}", status(message));
            (words, parts(message, &[], false))
        };
        line(&mut self.text, &words, &parts);
        let head = Message { body: Vec::new(), ..message.clone() };
        let mut parts = vec![quote_all(&head.to_bytes())];
        parts.extend((!message.body.is_empty()).then(|| literal(&message.body)));
        let is_early = self.role == Role::Client && self.fed_bytes < HELLO_BYTES;
        line(if is_early { &mut self.early } else { &mut self.text }, &format!("@0 send frame {id}"), &parts);
        Ok(())
    }

    fn ended(&mut self, is_subject: bool) {
        if !is_subject {
            self.peer_has_ended = true;
            if !self.has_ended {
                self.text.push_str("@0 feed eof\n");
            }
            return;
        }
        self.has_ended = true;
        if !self.peer_has_ended && self.role == Role::Server {
            let discarded: String = self.open.drain(..).map(|id| format!("@0 do discard {id}\n")).collect();
            self.text.push_str(&discarded);
        }
        // A client that went away with requests in flight closed at once, which is its driver's affair.
        self.has_ended = self.peer_has_ended || self.open.is_empty();
        if !self.peer_has_ended && self.has_ended {
            self.text.push_str("@0 do close\n");
        }
    }

    /// The steps, with what is known about the end.
    fn finish(mut self) -> String {
        if !self.has_ended {
            self.text.push_str("@0 still open\n");
            return self.text;
        }
        let code = match (self.role, self.fed.unfinished().is_empty()) {
            (_, false) if self.peer_has_ended => "truncated",
            (Role::Client, true) if !self.open.is_empty() => "closed",
            _ => "clean",
        };
        if self.role == Role::Client {
            for id in &self.open {
                let _ = writeln!(self.text, "@0 event failed {id} {code} delivered maybe");
            }
        }
        let _ = writeln!(self.text, "@0 closed {code}");
        self.text
    }
}

fn status(message: &Message) -> String {
    String::from_utf8_lossy(message.start.get(9..12).unwrap_or_default()).into_owned()
}

/// Fields and body of a step. What delimits a message is no field of it, but to HEAD the length that GET would have.
fn parts(message: &Message, without: &[&str], is_told: bool) -> Vec<String> {
    let is_named = |names: &[&str], name: &str| names.iter().any(|other| name.eq_ignore_ascii_case(other));
    let given = |(name, _): &&Field| !is_named(&FRAMING, name) && !is_named(without, name);
    let mut all = fields(message.fields.iter().filter(given));
    for length in message.values("teleport-head-length").into_iter().filter(|length| *length != b"none") {
        all.extend([b"Content-Length: ", length, b"\r\n"].concat());
    }
    let mut parts = Vec::new();
    if !all.is_empty() {
        parts.push(format!("fields {}", quote_all(&all)));
    }
    if is_told || !message.body.is_empty() {
        parts.push(format!("body {}", literal(&message.body)));
    }
    parts
}
