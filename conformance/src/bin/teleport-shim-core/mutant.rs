//! Wilful faults around the core: what goes in and what comes out is changed, the core itself is not. A suite that
//! does not notice one of them has a hole.

use std::collections::BTreeMap;

use teleport_conformance::http1;
use teleport_conformance::scenario::Role;

use crate::core::{Answer, Command, Core, Event, Setup, hex, unhex};
use crate::rewrite;

/// Every fault, and what it does.
#[rustfmt::skip]
pub(crate) const MUTANTS: [(&str, &str); 72] = [
    ("id-big-endian", "writes request ids most significant byte first"),
    ("no-sync-flush", "leaves 00 00 ff ff away at the end of a deflate flush"),
    ("second-hello", "sends its hello twice"),
    ("hello-before-client", "a server sends its hello before it has read the client's"),
    ("hello-to-bad-magic", "a server sends its hello to a client whose hello is bad"),
    ("magic-half-checked", "compares only 8 bytes of the magic"),
    ("version-unchecked", "takes any version of a hello for 0"),
    ("compression-unchecked", "takes an unknown compression for none"),
    ("tls-byte-2", "writes 2 where the TLS byte is 1"),
    ("tls-bytes-kept", "reads bytes of the TLS handshake as frames"),
    ("tls-bytes-eaten", "takes what comes behind a hello that agrees on TLS"),
    ("get-length-accepted", "ignores the Content-Length of a GET"),
    ("last-length-wins", "takes the last of two Content-Length"),
    ("chunked-beats-length", "ignores Content-Length beside Transfer-Encoding"),
    ("expect-answered", "answers Expect with a 100"),
    ("http-1-2-accepted", "takes HTTP/1.2 for HTTP/1.1"),
    ("connection-close-obeyed", "closes after Connection: close"),
    ("head-body-delivered", "delivers a body with a response to HEAD"),
    ("head-length-shown", "shows Teleport-Head-Length"),
    ("continue-is-final", "delivers a 100 as the final response"),
    ("early-hints-accepted", "delivers a 103 as the final response"),
    ("deadline-extended", "moves request deadlines whenever bytes arrive"),
    ("batch-deadline-moved", "moves the batch deadline with each frame"),
    ("batch-delay-ignored", "never waits for a batch"),
    ("id-zero-delivered", "delivers a response with id 0"),
    ("goodbye-ignored", "goes on sending on a link on which the server has said goodbye"),
    ("goodbye-by-its-field-alone", "takes any response with id 0 and Connection: close for a goodbye"),
    ("goodbye-is-a-close", "reads nothing any more once it has said goodbye"),
    ("id-reused-after-timeout", "uses the id of a timed-out request again"),
    ("id-wrap-unchecked", "uses reserved ids when the counter comes to them again"),
    ("id-zero-at-wrap", "goes from the last id to 0"),
    ("late-to-new-caller", "gives a late response to another caller"),
    ("duplicate-delivered", "delivers the second response to an id, too"),
    ("unmatched-closes", "ends the link at a response that nobody waits for"),
    ("oneway-answered", "answers a oneway"),
    ("response-id-off", "answers a request under the next id"),
    ("eof-in-the-middle-is-clean", "takes EOF inside a frame for a clean close"),
    ("error-before-good", "reports the end before the frames that came first"),
    ("reason-replaced", "replaces the first reason by drain-timeout"),
    ("drain-skipped", "leaves accepted requests unanswered at EOF"),
    ("close-at-once", "an orderly close does not wait"),
    ("snappy-checksum-unchecked", "does not check snappy checksums"),
    ("snappy-stream-id-missing", "sends no snappy stream identifier"),
    ("snappy-padding-is-an-error", "does not skip snappy padding"),
    ("zstd-auto-is-always", "sends zstd to every peer, and does not wait whether a server closes"),
    ("zstd-auto-is-never", "does not try zstd"),
    ("zstd-dictionary-ignored", "ignores the dictionary id of a zstd frame"),
    ("zstd-skippable-is-an-error", "does not skip skippable frames"),
    ("zstd-window-unchecked", "takes a window that is too large for the largest"),
    ("zstd-window-of-4-mib", "writes a larger window than it may"),
    ("never-maybe-delivered", "says that no failed request was delivered"),
    ("always-maybe-delivered", "says that every failed request may have been delivered"),
    ("cancel-answered", "tells the caller about its own cancellation"),
    ("refusal-closes", "ends the link at a message that is only refused"),
    ("head-limit-off-by-one", "takes a head one byte over the limit"),
    ("fields-limit-off-by-one", "takes one field over the limit"),
    ("body-limit-off-by-one", "takes a body one byte over the limit"),
    ("message-limit-off-by-one", "takes a message one byte over the limit"),
    ("pending-limit-off-by-one", "takes one request over the limit"),
    ("abandoned-limit-off-by-one", "abandons one request over the limit"),
    ("output-unlimited", "takes in work while its output cannot leave"),
    ("output-stuck-client-stops", "a client reads nothing while its output cannot leave"),
    ("hello-timeout-4s", "waits a second too long for the hello"),
    ("idle-from-the-connection", "counts the idle time from the connection, not from the hello"),
    ("close-drops-held-output", "an orderly close does not wait for output that cannot leave"),
    ("refusal-not-delivered", "says of a refused request that waits in the batch that it was not delivered"),
    ("target-of-8192", "refuses targets of more than 8,192 bytes"),
    ("fold-with-colon-accepted", "takes a folded line with a colon for a field of its own"),
    ("status-line-lower-case", "takes a status line with the version in lower case"),
    ("slash-in-a-token", "takes a slash as part of a token"),
    ("chunk-end-unchecked", "takes any byte for the LF behind chunk data"),
    ("idle-not-reset", "counts the idle time from the hello, whatever arrives"),
];

/// One fault at work on one connection.
pub(crate) struct Mutant {
    name: &'static str,
    role: Role,
    setup: Setup,
    /// How many bytes of the transport have come and gone.
    fed: usize,
    gone: usize,
    /// The link has ended, or pretends to have.
    is_over: bool,
    /// Requests without an outcome: their tags, in the order of sending.
    pending: Vec<u64>,
    /// Of requests that have left, the id by tag; of those that have not, the tags.
    ids: BTreeMap<u64, u32>,
    unsent: Vec<u64>,
    /// Requests that have been answered, by id.
    answered: BTreeMap<u32, u64>,
    heads: Vec<u64>,
    reuse: Option<u32>,
    has_wrapped: bool,
    /// The next id, once the counter was moved.
    next: Option<u32>,
    is_held: bool,
    /// Deadlines that the fault keeps itself, by tag; 0 is the batch's or the link's.
    deadlines: BTreeMap<u64, u64>,
    /// Bytes that belong to TLS.
    kept: Vec<u8>,
    is_in_tls: bool,
    has_head_length: bool,
}

impl Mutant {
    /// The fault of this name, before a connection.
    pub(crate) fn find(name: &str) -> Option<&'static str> {
        MUTANTS.iter().map(|(known, _)| *known).find(|known| *known == name)
    }

    /// A fault on a new connection.
    pub(crate) fn new(name: &'static str, role: &str, setup: &Setup) -> Self {
        Self {
            name,
            role: if role == "client" { Role::Client } else { Role::Server },
            setup: setup.clone(),
            fed: 0,
            gone: 0,
            is_over: false,
            pending: Vec::new(),
            ids: BTreeMap::new(),
            unsent: Vec::new(),
            answered: BTreeMap::new(),
            heads: Vec::new(),
            reuse: None,
            has_wrapped: false,
            next: None,
            is_held: false,
            deadlines: BTreeMap::new(),
            kept: Vec::new(),
            is_in_tls: false,
            has_head_length: false,
        }
    }

    /// How the core is set up instead.
    pub(crate) fn setup(&self) -> Setup {
        const FAR: u64 = 3_600_000_000;
        let mut setup = self.setup.clone();
        let limits = &mut setup.limits;
        match self.name {
            "head-limit-off-by-one" => limits.head += 1,
            "fields-limit-off-by-one" => limits.fields += 1,
            "body-limit-off-by-one" => limits.body += 1,
            "message-limit-off-by-one" => limits.message += 1,
            "pending-limit-off-by-one" => limits.pending += 1,
            "abandoned-limit-off-by-one" => limits.abandoned += 1,
            "output-unlimited" => limits.output = 1 << 40,
            "hello-timeout-4s" => setup.hello_timeout += 1_000_000,
            "idle-not-reset" | "idle-from-the-connection" => setup.idle_timeout = None,
            "zstd-auto-is-always" if setup.compression == "auto" => setup.compression = "zstd".into(),
            "zstd-auto-is-never" if setup.compression == "auto" => setup.compression = "deflate".into(),
            "batch-delay-ignored" => setup.max_batch_delay = 0,
            "batch-deadline-moved" if setup.max_batch_delay > 0 => setup.max_batch_delay = FAR,
            _ => {}
        }
        setup
    }

    /// Carries a command out, wrongly.
    pub(crate) fn carry_out(&mut self, core: &mut Core, command: &Command) -> Result<Answer, String> {
        if self.is_over {
            let consumed = if let Command::Input { hex, .. } = command { hex.len() / 2 } else { 0 };
            return Ok(Answer { consumed, ..Answer::default() });
        }
        let mut command = command.clone();
        let now = now(&command);
        match &command {
            Command::NextId { id, .. } => self.next = Some(*id),
            Command::HoldOutput { .. } => self.is_held = true,
            Command::ReleaseOutput { .. } => self.is_held = false,
            _ => {}
        }
        let is_stuck = self.name == "output-stuck-client-stops" && self.is_held && self.role == Role::Client;
        if is_stuck && matches!(command, Command::Input { .. }) {
            return Ok(Answer::default());
        }
        self.before(&mut command)?;
        let mut answer = core.carry_out(&command)?;
        if answer.error.is_none() {
            self.note(&command);
        }
        self.deadlines_after(core, &command, now, &mut answer)?;
        self.tls(core, &command, now, &mut answer)?;
        answer.reads &= !is_stuck;
        self.output(&mut answer);
        let says_goodbye = matches!(command, Command::Goodbye { .. });
        if self.name == "goodbye-is-a-close" && says_goodbye {
            answer.reads = core.carry_out(&Command::Close { now })?.reads;
        }
        if self.name == "connection-close-obeyed" && answer.events.iter().any(|event| has_field(event, "connection")) {
            let mut more = core.carry_out(&Command::Close { now })?;
            answer.events.append(&mut more.events);
            answer.reads = more.reads;
        }
        self.events(&command, &mut answer);
        self.gone += answer.out.len();
        Ok(answer)
    }

    /// Changes what goes in.
    fn before(&mut self, command: &mut Command) -> Result<(), String> {
        match command {
            Command::Input { hex: digits, .. } => {
                let mut data = unhex(digits)?;
                self.has_head_length |= rewrite::find(&data, b"Teleport-Head-Length").is_some();
                rewrite::input(self.name, &mut data, self.fed);
                self.fed += data.len();
                *digits = hex(&data);
            }
            Command::Request { now, tag, deadline, .. } if self.name == "deadline-extended" => {
                if let Some(at) = deadline.take() {
                    self.deadlines.insert(*tag, at.max(*now));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Remembers what the program did.
    fn note(&mut self, command: &Command) {
        if let Command::Request { tag, message, .. } = command {
            self.pending.push(*tag);
            self.unsent.push(*tag);
            if message.method == "HEAD" {
                self.heads.push(*tag);
            }
        }
    }

    /// The deadlines that the fault keeps itself.
    fn deadlines_after(
        &mut self,
        core: &mut Core,
        command: &Command,
        now: u64,
        answer: &mut Answer,
    ) -> Result<(), String> {
        let is_frame = matches!(command, Command::Request { .. } | Command::Oneway { .. } | Command::Respond { .. });
        let delay = self.setup.max_batch_delay;
        match (self.name, command) {
            ("deadline-extended", Command::Input { .. }) => {
                self.deadlines.values_mut().for_each(|at| *at = (*at).max(now + 1_000_000));
            }
            ("batch-deadline-moved", _) if is_frame && delay > 0 => drop(self.deadlines.insert(0, now + delay)),
            ("idle-not-reset", _) if answer.events.iter().any(|event| matches!(event, Event::Connected {})) => {
                self.deadlines.extend(self.setup.idle_timeout.map(|idle| (0, now + idle)));
            }
            ("idle-from-the-connection", _)
                if answer.events.iter().any(|event| matches!(event, Event::Connected {})) =>
            {
                self.deadlines.extend(self.setup.idle_timeout.map(|idle| (0, idle)));
            }
            _ => {}
        }
        let due: Vec<u64> = self.deadlines.iter().filter(|(_, at)| **at <= now).map(|(tag, _)| *tag).collect();
        for tag in due {
            self.deadlines.remove(&tag);
            let mut more = match self.name {
                "deadline-extended" => {
                    answer.events.push(Event::Failed { tag, code: "timeout".into(), maybe_delivered: true });
                    core.carry_out(&Command::Cancel { now, tag })?
                }
                "batch-deadline-moved" => core.carry_out(&Command::Flush { now })?,
                _ => {
                    answer.events.push(Event::Closed { code: Some("idle-timeout".into()) });
                    self.is_over = true;
                    continue;
                }
            };
            answer.out.append(&mut more.out);
            answer.events.append(&mut more.events);
            answer.timer = more.timer;
        }
        answer.timer = answer.timer.into_iter().chain(self.deadlines.values().copied()).min();
        Ok(())
    }

    /// Keeps what comes between the hello and TLS.
    fn tls(&mut self, core: &mut Core, command: &Command, now: u64, answer: &mut Answer) -> Result<(), String> {
        let begins = answer.events.iter().any(|event| matches!(event, Event::StartTls {}));
        if let ("tls-bytes-eaten", true, Command::Input { hex, .. }) = (self.name, begins, command) {
            answer.consumed = hex.len() / 2;
        }
        if self.name != "tls-bytes-kept" {
            return Ok(());
        }
        self.is_in_tls |= begins;
        match command {
            Command::Input { hex, .. } if self.is_in_tls => {
                let data = unhex(hex)?;
                self.kept.extend_from_slice(&data[answer.consumed..]);
                answer.consumed = data.len();
            }
            Command::TlsEstablished { .. } => {
                self.is_in_tls = false;
                let mut more = core.carry_out(&Command::Input { now, hex: hex(&self.kept) })?;
                answer.out.append(&mut more.out);
                answer.events.append(&mut more.events);
                answer.reads = more.reads;
            }
            _ => {}
        }
        Ok(())
    }

    /// Changes what comes out.
    fn output(&mut self, answer: &mut Answer) {
        let is_first = self.gone == 0 && answer.out.starts_with(b"httpteleport");
        rewrite::output(self.name, &mut answer.out, is_first);
        if self.name == "hello-before-client" && self.role == Role::Server {
            // Sent with the first answer, the hello is not sent again.
            if self.fed == 0 && self.gone == 0 {
                let code = match self.setup.compression.as_str() {
                    "deflate" | "auto" => 0,
                    "snappy" => 2,
                    "zstd" => 3,
                    _ => 1,
                };
                answer.out = [b"httpteleport\0".as_slice(), &[code, 0]].concat();
            } else if answer.out.starts_with(b"httpteleport") {
                answer.out.drain(..15);
            }
        }
        if self.setup.compression != "none" {
            return;
        }
        let hello = if is_first { 15 } else { 0 };
        let (mut out, mut rest) = (answer.out[..hello].to_vec(), &answer.out[hello..]);
        while let Some((id, message)) = rest.split_first_chunk::<4>() {
            let id = u32::from_le_bytes(*id);
            let Ok(Some((_, length))) = http1::read(self.role, id, message) else { break };
            let id = self.id_out(id);
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&message[..length]);
            rest = &message[length..];
        }
        out.extend_from_slice(rest);
        answer.out = out;
    }

    /// The id that is written instead.
    fn id_out(&mut self, id: u32) -> u32 {
        if id != 0 && !self.unsent.is_empty() {
            self.ids.insert(self.unsent.remove(0), id);
        }
        let has_wrapped = self.has_wrapped;
        self.has_wrapped |= id == u32::MAX;
        match self.name {
            "id-big-endian" => id.swap_bytes(),
            "response-id-off" if self.role == Role::Server => id.wrapping_add(1),
            "id-wrap-unchecked" if id != 0 && self.role == Role::Client => match self.next {
                Some(next) => {
                    self.next = Some(next.wrapping_add(1));
                    next
                }
                None => id,
            },
            "id-zero-at-wrap" if has_wrapped && id != 0 => id - 1,
            "id-reused-after-timeout" if id != 0 => self.reuse.take().unwrap_or(id),
            _ => id,
        }
    }

    /// Changes what is told.
    fn events(&mut self, command: &Command, answer: &mut Answer) {
        let mut told = Vec::new();
        for event in std::mem::take(&mut answer.events) {
            told.push(self.event(event, command, &mut answer.out));
        }
        let mut told: Vec<Event> = told.into_iter().flatten().collect();
        let is_end = |event: &Event| matches!(event, Event::Closed { .. });
        match (self.name, command) {
            ("error-before-good", _) => {
                if let Some(at) = told.iter().position(is_end) {
                    told[..=at].rotate_right(1);
                }
            }
            ("cancel-answered", Command::Cancel { tag, .. }) => {
                told.push(Event::Failed { tag: *tag, code: "cancelled".into(), maybe_delivered: true });
            }
            ("drain-skipped", Command::Eof { .. }) if !told.iter().any(is_end) => {
                told.push(Event::Closed { code: None })
            }
            ("close-drops-held-output", Command::Close { .. }) if self.is_held && !told.iter().any(is_end) => {
                told.push(Event::Closed { code: None });
            }
            ("close-at-once", Command::Close { .. }) if !told.iter().any(is_end) => {
                told.push(Event::Closed { code: None });
            }
            _ => {}
        }
        if let Some(end) = told.iter().position(is_end) {
            self.is_over = true;
            if self.name != "error-before-good" {
                told.truncate(end + 1);
            }
            answer.timer = None;
            answer.reads = false;
        }
        answer.events = told;
    }

    fn event(&mut self, event: Event, command: &Command, out: &mut Vec<u8>) -> Vec<Event> {
        let frame = |id: u32, message: &[u8]| [&id.to_le_bytes()[..], message].concat();
        let empty = |tag: u64| Event::Response { tag, status: 200, fields: Vec::new(), body: String::new() };
        let end = |code: &str| vec![Event::Closed { code: Some(code.into()) }];
        match (self.name, event) {
            ("id-zero-delivered", Event::Unmatched { id: 0 }) if !self.pending.is_empty() => {
                vec![empty(self.pending.remove(0))]
            }
            ("late-to-new-caller", Event::Unmatched { .. }) if !self.pending.is_empty() => {
                vec![empty(self.pending.remove(0))]
            }
            ("duplicate-delivered", Event::Unmatched { id }) => match self.answered.get(&id) {
                Some(tag) => vec![empty(*tag)],
                None => vec![Event::Unmatched { id }],
            },
            ("unmatched-closes", Event::Unmatched { .. }) => end("start-line"),
            ("refusal-closes", Event::Refused { code, .. }) => end(&code),
            ("refusal-closes", Event::Failed { code, maybe_delivered: true, .. })
                if matches!(code.as_str(), "version" | "status" | "field" | "interim-response" | "body-too-large") =>
            {
                end(&code)
            }
            ("eof-in-the-middle-is-clean", Event::Closed { code: Some(code) }) if code == "truncated" => {
                vec![Event::Closed { code: None }]
            }
            ("reason-replaced", Event::Closed { code: Some(code) })
                if matches!(command, Command::Timeout { .. }) && !code.ends_with("-timeout") =>
            {
                end("drain-timeout")
            }
            ("oneway-answered", event @ Event::Oneway { .. }) => {
                out.extend(frame(0, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
                vec![event]
            }
            ("expect-answered", event @ Event::Request { id: Some(id), .. }) if has_field(&event, "expect") => {
                out.extend(frame(id, b"HTTP/1.1 100 Continue\r\n\r\n"));
                vec![event]
            }
            ("hello-to-bad-magic", event @ Event::Closed { .. }) if self.role == Role::Server && self.gone == 0 => {
                if out.is_empty() {
                    out.extend_from_slice(b"httpteleport\0\x01\0");
                }
                vec![event]
            }
            ("target-of-8192", Event::Request { id: Some(id), target, .. }) if target.len() > 8192 => {
                vec![Event::Refused { id, code: "target".into() }]
            }
            (name, Event::Failed { tag, code, mut maybe_delivered }) => {
                // The link lives: it is a refusal.
                if name == "refusal-not-delivered" && code == "version" {
                    maybe_delivered &= !self.unsent.contains(&tag);
                }
                self.pending.retain(|known| *known != tag);
                self.unsent.retain(|known| *known != tag);
                if code == "timeout" && maybe_delivered {
                    self.reuse = self.ids.get(&tag).copied();
                }
                match name {
                    "never-maybe-delivered" => maybe_delivered = false,
                    "always-maybe-delivered" => maybe_delivered = true,
                    _ => {}
                }
                vec![Event::Failed { tag, code, maybe_delivered }]
            }
            (name, Event::Response { tag, status, mut fields, mut body }) => {
                self.pending.retain(|known| *known != tag);
                self.answered.extend(self.ids.get(&tag).map(|id| (*id, tag)));
                let is_head = self.heads.contains(&tag);
                if name == "head-body-delivered" && is_head {
                    body = hex(b"body");
                }
                if name == "head-length-shown" && self.has_head_length {
                    fields.push(("Teleport-Head-Length".into(), "13".into()));
                }
                vec![Event::Response { tag, status, fields, body }]
            }
            ("head-length-shown", Event::Request { ticket, id, method, target, mut fields, body }) => {
                if self.has_head_length {
                    fields.push(("Teleport-Head-Length".into(), "13".into()));
                }
                vec![Event::Request { ticket, id, method, target, fields, body }]
            }
            (_, event) => vec![event],
        }
    }
}

fn has_field(event: &Event, name: &str) -> bool {
    let (Event::Request { fields, .. } | Event::Oneway { fields, .. } | Event::Response { fields, .. }) = event else {
        return false;
    };
    fields.iter().any(|(known, _)| known == name)
}

fn now(command: &Command) -> u64 {
    match command {
        Command::Describe {} | Command::New { .. } => 0,
        Command::Input { now, .. }
        | Command::Eof { now }
        | Command::Timeout { now }
        | Command::TlsEstablished { now }
        | Command::Request { now, .. }
        | Command::Oneway { now, .. }
        | Command::Cancel { now, .. }
        | Command::Respond { now, .. }
        | Command::Discard { now, .. }
        | Command::NextId { now, .. }
        | Command::HoldOutput { now }
        | Command::ReleaseOutput { now }
        | Command::Flush { now }
        | Command::Goodbye { now }
        | Command::Close { now } => *now,
    }
}
