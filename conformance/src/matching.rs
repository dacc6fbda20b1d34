//! Whether what a subject has sent and told is what a step expects.

use std::collections::VecDeque;

use crate::alike::Alike;
use crate::http1::{FRAMING, Field, Message, values};
use crate::literal::{quote, show_time};
use crate::scenario::{Compression, Config};
use crate::shim::Event;
pub use crate::show::layer_of;
use crate::show::{layer_of_event, show, show_pattern, show_sent};
use crate::step::{ANY_CODE, Content, EventPattern, Expect, Step, StepKind};
use crate::wire::{Reader, Sent, hello};

/// What has come and has not been mentioned by a step.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Hellos and frames, in their order.
    pub sent: VecDeque<Sent>,
    /// Events, in their order, each with the number of the step during which it came.
    pub events: VecDeque<(usize, Event)>,
    /// Ids and tickets of requests whose event did not tell the id: it is that of the step that mentioned it.
    pub bound: Vec<(u32, u64)>,
    /// Ids of the scenario, and those that a client of which nothing is known has for them.
    pub(crate) renamed: Vec<(u32, u32)>,
    /// The program's ids under which something was fed: a response makes an id free.
    pub(crate) fed: Vec<u32>,
    /// Those among them that could be each other.
    pub(crate) alike: Alike,
}

/// How the subject stands besides.
pub struct State<'s> {
    /// How it was set up.
    pub config: &'s Config,
    /// The number of the step.
    pub step: usize,
    /// Whether input is taken.
    pub reads: bool,
    /// The next deadline.
    pub timer: Option<u64>,
    /// The reader of what it sends.
    pub reader: &'s Reader,
    /// How its socket stands, in profile tcp.
    pub socket: Option<Socket>,
}

/// How the socket of a subject stands.
#[derive(Clone, Copy, Debug)]
pub struct Socket {
    /// The subject has ended the connection.
    pub has_ended: bool,
    /// The subject says with which code.
    pub has_codes: bool,
    /// Nothing is known of the subject but its address: it may compress as it likes.
    pub is_black_box: bool,
    /// It is a client of which nothing is known, and sends what its program likes.
    pub has_own_mind: bool,
}

impl State<'_> {
    fn is_black_box(&self) -> bool {
        self.socket.is_some_and(|socket| socket.is_black_box)
    }
}

/// What differs.
#[derive(Clone, Debug)]
pub struct Mismatch {
    /// Which layer is at fault.
    pub layer: &'static str,
    /// What was expected.
    pub expected: String,
    /// What came.
    pub actual: String,
    /// The bytes that were expected and those that came.
    pub bytes: Option<Box<(Vec<u8>, Vec<u8>)>>,
    /// A rule that is broken for certain, whatever the scenario is about.
    pub rule: Option<&'static str>,
}

impl Mismatch {
    /// Without bytes.
    pub fn new(layer: &'static str, expected: impl Into<String>, actual: impl Into<String>) -> Self {
        Self { layer, expected: expected.into(), actual: actual.into(), bytes: None, rule: None }
    }
}

type Matched = Result<(), Mismatch>;

impl Seen {
    /// Takes what a step expects out of what has come.
    ///
    /// # Errors
    ///
    /// The first difference. What has been taken out by then is lost.
    pub fn take(&mut self, step: &Step, state: &State<'_>) -> Matched {
        match &step.kind {
            StepKind::Expect(expect) => self.expect(expect, state),
            StepKind::Unordered(steps) => {
                let mut left: Vec<&Step> = steps.iter().collect();
                while !left.is_empty() {
                    let mut first = None;
                    let found = left.iter().position(|step| {
                        let mut ahead = self.clone();
                        match ahead.take(step, state) {
                            Ok(()) => {
                                *self = ahead;
                                true
                            }
                            Err(mismatch) => {
                                first.get_or_insert(mismatch);
                                false
                            }
                        }
                    });
                    match (found, first) {
                        (Some(found), _) => drop(left.remove(found)),
                        (None, Some(mut mismatch)) => {
                            let sources: Vec<_> = left.iter().map(|step| step.source.as_str()).collect();
                            mismatch.expected = format!("in any order:\n{}", sources.join("\n"));
                            return Err(mismatch);
                        }
                        (None, None) => break,
                    }
                }
                Ok(())
            }
            // The run chooses the branch; feeds and commands are carried out there.
            StepKind::Either(_) | StepKind::Feed(_) | StepKind::Do { .. } => Ok(()),
        }
    }

    fn expect(&mut self, expect: &Expect, state: &State<'_>) -> Matched {
        match expect {
            // A driver does not tell its program; the handshake shows it.
            Expect::Event(EventPattern::StartTls) if state.socket.is_some() => Ok(()),
            Expect::SendHello { compression, tls } => {
                let bytes = hello(0, compression.unwrap_or(state.config.compression.code()), *tls);
                let wanted = format!("hello {}", crate::literal::hex(&bytes));
                match self.sent.pop_front() {
                    Some(Sent::Hello(sent)) if sent == bytes => Ok(()),
                    Some(Sent::Hello(sent)) if state.is_black_box() && is_but_for_compression(&sent, &bytes) => Ok(()),
                    Some(Sent::Hello(sent)) => {
                        let mut mismatch = Mismatch::new("hello", wanted, "another hello");
                        mismatch.bytes = Some(Box::new((bytes.to_vec(), sent)));
                        Err(mismatch)
                    }
                    other => Err(not_sent("hello", wanted, other, state)),
                }
            }
            Expect::SendFrame { id, message, no_fields } => {
                let wanted = format!("frame {id} {}", quote(&message.to_bytes()));
                let fits = |sent: &Message| compare(message, sent, no_fields).is_none();
                if let Some(frame) = self.alike.take(*id, &mut self.sent, fits) {
                    return sealed(frame.output, state);
                }
                let frame = match self.next_sent(*id, state) {
                    Some(Sent::Frame(frame)) => frame,
                    other => return Err(not_sent("frame", wanted, other, state)),
                };
                let mut rule = None;
                let difference = if frame.id.swap_bytes() == *id && frame.id != *id {
                    rule = Some("R-frame-id-le");
                    Some(("frame", format!("its id is {}, which is {id} with the bytes in the other order", frame.id)))
                } else if frame.id == *id && self.alike.is_answered(*id) {
                    rule = Some("R-id-copy");
                    Some(("frame", format!("a second response has the id {id}")))
                } else if frame.id != *id {
                    Some(("frame", format!("its id is {}, not {id}", frame.id)))
                } else {
                    compare(message, &frame.message, no_fields).map(|what| ("message", what))
                };
                if let Some((layer, what)) = difference {
                    let actual = format!("{what}: frame {} {}", frame.id, quote(&frame.plain[4..]));
                    // Fields may come in any order and case: only their names are said.
                    let bytes = if layer == "frame" {
                        Some((id.to_le_bytes().to_vec(), frame.plain))
                    } else {
                        Some((message.body.clone(), frame.message.body)).filter(|(wanted, body)| wanted != body)
                    };
                    let mismatch = Mismatch::new(layer, wanted, actual);
                    return Err(Mismatch { bytes: bytes.map(Box::new), rule, ..mismatch });
                }
                sealed(frame.output, state)
            }
            Expect::SendRefusal { id, status, head } => {
                let wanted = format!("frame {id}: a refusal with status {status}");
                let frame = match self.next_sent(*id, state) {
                    Some(Sent::Frame(frame)) => frame,
                    other => return Err(not_sent("frame", wanted, other, state)),
                };
                let start = format!("HTTP/1.1 {status}");
                let is_head = !frame.message.values("teleport-head-length").is_empty();
                if frame.id != *id || frame.message.start_compared() != start.as_bytes() || is_head != *head {
                    let actual = format!("frame {} {}", frame.id, quote(&frame.plain[4..]));
                    return Err(Mismatch::new("message", wanted, actual));
                }
                sealed(frame.output, state)
            }
            Expect::Answer { id, head } => {
                let wanted = format!("frame {id}: a final response");
                let frame = match self.next_sent(*id, state) {
                    Some(Sent::Frame(frame)) if frame.id == *id => frame,
                    Some(Sent::Frame(frame)) => {
                        let came = format!("frame {} {}", frame.id, quote(&frame.plain[4..]));
                        let actual =
                            format!("{came}, and none with id {id} in time: a slow program needs more --slack");
                        return Err(Mismatch::new("frame", wanted, actual));
                    }
                    other => return Err(not_sent("frame", wanted, other, state)),
                };
                if *head && !frame.message.body.is_empty() {
                    let actual = format!("frame {} {}", frame.id, quote(&frame.plain[4..]));
                    let mismatch = Mismatch::new("message", "a response to HEAD has no body", actual);
                    return Err(Mismatch { rule: Some("R-head-response"), ..mismatch });
                }
                sealed(frame.output, state)
            }
            Expect::AnyRequest { id } => self.any_request(*id, state),
            Expect::SendBatch(count) => self.batch(*count, state),
            Expect::Event(pattern) => {
                // The callers and handlers of a whole driver are tasks: which is told first is not its affair.
                let told = self.events.iter().position(|(_, event)| differs(pattern, event).is_none());
                if let Some(event) = told.filter(|_| state.socket.is_some()).and_then(|at| self.events.remove(at)) {
                    self.events.push_front(event);
                }
                self.event(pattern)
            }
            Expect::Quiet => self.quiet(state.step),
            Expect::Reads(reads) if *reads == state.reads => Ok(()),
            Expect::Reads(reads) => {
                let say = |reads: bool| if reads { "input is taken" } else { "no input is taken" };
                Err(Mismatch::new("closing", say(*reads), say(state.reads)))
            }
            Expect::Timer(at) if *at == state.timer => Ok(()),
            Expect::Timer(at) => {
                let say =
                    |at: Option<u64>| at.map_or("no deadline".into(), |at| format!("a deadline at {}", show_time(at)));
                Err(Mismatch::new("timer", say(*at), say(state.timer)))
            }
            Expect::Closed(code) => {
                let wanted = format!("the link ends: {}", code.as_deref().unwrap_or("in order"));
                if state.socket.is_some_and(|socket| !socket.has_ended) {
                    return Err(Mismatch::new(layer_of(code.as_deref()), wanted, "the connection is open"));
                }
                let told = self.next_event(|event| matches!(event, Event::Closed { .. }));
                match told {
                    Some(Event::Closed { code: told }) if told == *code => Ok(()),
                    Some(Event::Closed { code: told }) => {
                        let actual = format!("it ends: {}", told.as_deref().unwrap_or("in order"));
                        Err(Mismatch::new(layer_of(code.as_deref().or(told.as_deref())), wanted, actual))
                    }
                    None if state.socket.is_some_and(|socket| !socket.has_codes) => Ok(()),
                    other => Err(Mismatch::new(layer_of(code.as_deref()), wanted, show(other.as_ref()))),
                }
            }
            Expect::StillOpen if state.socket.is_some_and(|socket| socket.has_ended) => {
                Err(Mismatch::new("closing", "the link is open", "the connection has ended"))
            }
            Expect::StillOpen => match self.events.iter().find(|(_, event)| matches!(event, Event::Closed { .. })) {
                None => Ok(()),
                Some((_, event)) => Err(Mismatch::new(layer_of_event(event), "the link is open", show(Some(event)))),
            },
        }
    }

    /// Oneways are passed over: nothing answers them.
    fn any_request(&mut self, id: u32, state: &State<'_>) -> Matched {
        let wanted = "some request of the program, which is no HEAD";
        let frame = loop {
            match self.sent.pop_front() {
                Some(Sent::Frame(frame)) if frame.id == 0 => sealed(frame.output, state)?,
                Some(Sent::Frame(frame)) => break frame,
                other => return Err(not_sent("frame", wanted.into(), other, state)),
            }
        };
        let actual = format!("frame {} {}", frame.id, quote(&frame.plain[4..]));
        if frame.message.start.starts_with(b"HEAD ") {
            return Err(Mismatch::new("suite", wanted, actual));
        }
        if self.renamed.iter().any(|(_, known)| *known == frame.id && !self.fed.contains(known)) {
            let mismatch = Mismatch::new("frame", "an id that is not in use", actual);
            return Err(Mismatch { rule: Some("R-id-unique"), ..mismatch });
        }
        self.renamed.push((id, frame.id));
        sealed(frame.output, state)
    }

    fn batch(&self, count: usize, state: &State<'_>) -> Matched {
        let wanted = format!("{count} frames in one flush");
        let mut outputs = Vec::new();
        for sent in &self.sent {
            match sent {
                Sent::Frame(frame) => outputs.push(frame.output),
                other => return Err(not_sent("frame", wanted, Some(other.clone()), state)),
            }
        }
        let Some(first) = outputs.first() else { return Err(not_sent("frame", wanted, None, state)) };
        let together = outputs.iter().filter(|output| *output == first).count();
        if together != count {
            let actual = format!("{together} frames in the next flush, {} in all", outputs.len());
            return Err(Mismatch::new("frame", wanted, actual));
        }
        sealed(*first, state)
    }

    fn quiet(&self, step: usize) -> Matched {
        let is_new = |came: usize| came + 1 >= step;
        let event = self.events.iter().find(|(came, event)| !is_passed_over(event) || is_new(*came));
        let (layer, actual) = match (self.sent.front(), event) {
            (Some(sent), _) => ("frame", show_sent(sent)),
            (None, Some((_, event))) => (layer_of_event(event), show(Some(event))),
            (None, None) => return Ok(()),
        };
        Err(Mismatch::new(layer, "nothing is sent and nothing happens", actual))
    }

    /// At the end everything must have been mentioned.
    ///
    /// # Errors
    ///
    /// Something has not been.
    pub fn end(&self, reader: &Reader, socket: Option<Socket>) -> Matched {
        if socket.is_some_and(|socket| socket.has_own_mind) {
            // What else the program asks for is its own affair, as long as it keeps the rules.
            let fault =
                self.sent.iter().find_map(|sent| if let Sent::Fault(fault) = sent { Some(fault) } else { None });
            return fault.map_or(Ok(()), |fault| Err(faulty(fault, "nothing that breaks the rules for senders")));
        }
        let event = self.events.iter().map(|(_, event)| event).find(|event| !is_passed_over(event));
        match (self.sent.front(), event) {
            (Some(Sent::Fault(fault)), _) => Err(faulty(fault, "nothing more")),
            (Some(sent), _) => Err(Mismatch::new("frame", "nothing more is sent", show_sent(sent))),
            (None, Some(event)) => Err(Mismatch::new(layer_of_event(event), "nothing more happens", show(Some(event)))),
            (None, None) if !reader.unfinished().is_empty() => {
                let actual = format!("bytes that are no whole frame: {}", quote(reader.unfinished()));
                Err(Mismatch::new("frame", "nothing more is sent", actual))
            }
            (None, None) => Ok(()),
        }
    }

    /// The next that was sent; over a socket the next response with this id, because a whole driver, whose handlers
    /// are tasks, may send them in any order (R-response-any-order).
    fn next_sent(&mut self, id: u32, state: &State<'_>) -> Option<Sent> {
        let is_it = |sent: &Sent| match sent {
            Sent::Frame(frame) => frame.id == id && frame.message.start.starts_with(b"HTTP/"),
            _ => false,
        };
        let at = self.sent.iter().position(is_it).filter(|_| state.socket.is_some());
        self.sent.remove(at.unwrap_or(0))
    }

    /// The next event that counts: those that need not be mentioned are passed over, if they are not the wanted one.
    fn next_event(&mut self, is_wanted: impl Fn(&Event) -> bool) -> Option<Event> {
        while let Some((_, event)) = self.events.pop_front() {
            if is_wanted(&event) || !is_passed_over(&event) {
                return Some(event);
            }
        }
        None
    }

    fn event(&mut self, pattern: &EventPattern) -> Matched {
        let mut passed = None;
        while let Some((_, event)) = self.events.pop_front() {
            match differs(pattern, &event) {
                None => {
                    if let (EventPattern::Request { id: Some(id), .. }, Event::Request { id: None, ticket, .. }) =
                        (pattern, &event)
                    {
                        self.bound.push((*id, *ticket));
                        self.alike.add(*id, pattern, &event);
                    }
                    if let (EventPattern::Request { id: None, .. }, Event::Request { ticket, .. }) = (pattern, &event) {
                        self.alike.add_oneway(pattern, &event, *ticket);
                    }
                    return Ok(());
                }
                Some(_) if is_passed_over(&event) => passed = Some(event),
                Some(what) => {
                    let actual = format!("{what}: {}", show(Some(&event)));
                    let mut mismatch = Mismatch::new(layer_of_event(&event), show_pattern(pattern), actual);
                    mismatch.bytes = bodies(pattern, &event).map(Box::new);
                    return Err(mismatch);
                }
            }
        }
        let layer = match pattern {
            EventPattern::Connected => "hello",
            EventPattern::StartTls => "tls",
            EventPattern::Failed { code, .. } => layer_of(Some(code)),
            _ => "message",
        };
        let actual = passed.map_or("nothing".into(), |event| format!("nothing after {}", show(Some(&event))));
        Err(Mismatch::new(layer, show_pattern(pattern), actual))
    }
}

/// Whether an event need not be mentioned.
fn is_passed_over(event: &Event) -> bool {
    matches!(event, Event::Connected {} | Event::Unmatched { .. } | Event::Refused { .. })
}

/// Whether a hello is as it should be, whatever compression it names, of those that exist.
fn is_but_for_compression(sent: &[u8], wanted: &[u8]) -> bool {
    sent.len() == wanted.len()
        && Compression::from_code(sent[13]).is_some()
        && sent[..13] == wanted[..13]
        && sent[14..] == wanted[14..]
}

fn sealed(output: u64, state: &State<'_>) -> Matched {
    if state.reader.is_sealed(output) {
        return Ok(());
    }
    let (tail, rule) = state.reader.flush_end();
    let actual = format!("the last wire bytes are {}", crate::literal::hex(tail));
    let mismatch = Mismatch::new("decompression", "the flush ends as the compression asks for", actual);
    Err(Mismatch { rule: Some(rule), ..mismatch })
}

fn faulty(fault: &crate::wire::Fault, wanted: impl Into<String>) -> Mismatch {
    let actual = format!("{} [{}]", fault.what, fault.rule);
    let bytes = Some(Box::new((Vec::new(), fault.bytes.clone())));
    Mismatch { bytes, rule: Some(fault.rule), ..Mismatch::new(fault.layer, wanted, actual) }
}

fn not_sent(layer: &'static str, wanted: String, sent: Option<Sent>, state: &State<'_>) -> Mismatch {
    match sent {
        Some(Sent::Fault(fault)) => faulty(&fault, wanted),
        Some(sent) => Mismatch::new(layer, wanted, show_sent(&sent)),
        None if !state.reader.unfinished().is_empty() => {
            Mismatch::new(layer, wanted, format!("only a part: {}", quote(state.reader.unfinished())))
        }
        None => Mismatch::new(layer, wanted, "nothing was sent"),
    }
}

/// What differs between a message that was expected and one that came.
fn compare(expected: &Message, actual: &Message, no_fields: &[String]) -> Option<String> {
    if expected.start_compared() != actual.start_compared() {
        return Some("the start line differs".into());
    }
    if let Some(what) = compare_fields(&expected.fields, &actual.fields, no_fields) {
        return Some(what);
    }
    let unnamed = |name: &&&str| values(&expected.fields, name).is_empty() && !actual.values(name).is_empty();
    if let Some(name) = FRAMING.iter().find(unnamed) {
        return Some(format!("it has {name}"));
    }
    (expected.body != actual.body).then(|| "the body differs".into())
}

fn compare_fields(expected: &[Field], actual: &[Field], no_fields: &[String]) -> Option<String> {
    for (name, _) in expected {
        // What a receiver shows, and what a sender writes, has no white space at its ends (R-read-deliver).
        let mut wanted: Vec<&[u8]> = values(expected, name).into_iter().map(<[u8]>::trim_ascii).collect();
        let mut there = values(actual, name);
        wanted.sort_unstable();
        there.sort_unstable();
        if wanted != there {
            let there: Vec<_> = there.into_iter().map(quote).collect();
            return Some(format!("the values of {name} are [{}]", there.join(", ")));
        }
    }
    no_fields.iter().find(|name| !values(actual, name).is_empty()).map(|name| format!("it has {name}"))
}

fn compare_content(content: &Content, fields: &[Field], body: &[u8]) -> Option<String> {
    compare_fields(&content.fields, fields, &content.no_fields)
        .or_else(|| content.body.as_ref().filter(|wanted| *wanted != body).map(|_| "the body differs".into()))
}

/// What differs between an event and what it should be.
pub(crate) fn differs(pattern: &EventPattern, event: &Event) -> Option<String> {
    let is_same = match (pattern, event) {
        (EventPattern::Connected, Event::Connected {}) | (EventPattern::StartTls, Event::StartTls {}) => true,
        (EventPattern::Request { id: Some(id), .. }, Event::Request { id: told, .. }) => {
            if told.is_some_and(|told| *id != told) {
                return Some("another id".into());
            }
            return request_differs(pattern, event);
        }
        // A driver that does not tell ids does not tell its program either that a request wants no response.
        (EventPattern::Request { id: None, .. }, Event::Request { id: None, .. }) => {
            return request_differs(pattern, event);
        }
        (EventPattern::Request { id: None, .. }, Event::Oneway { .. }) => return request_differs(pattern, event),
        (EventPattern::Refused { id, code }, Event::Refused { id: told, code: because }) => {
            id == told && code == because
        }
        (EventPattern::Response { tag, status, content }, Event::Response { tag: told, status: s, fields, body }) => {
            if (tag, status) != (told, s) {
                return Some("another tag or status".into());
            }
            return compare_content(content, fields, body);
        }
        // Who does not tell codes may also be more careful than need be.
        (
            EventPattern::Failed { tag, code, maybe_delivered },
            Event::Failed { tag: told, maybe_delivered: maybe, .. },
        ) if code == ANY_CODE => tag == told && (*maybe || !maybe_delivered),
        (
            EventPattern::Failed { tag, code, maybe_delivered },
            Event::Failed { tag: told, code: because, maybe_delivered: maybe },
        ) => (tag, code, maybe_delivered) == (told, because, maybe),
        (EventPattern::Unmatched { id }, Event::Unmatched { id: told }) => id == told,
        _ => false,
    };
    (!is_same).then(|| "another event".into())
}

fn request_differs(pattern: &EventPattern, event: &Event) -> Option<String> {
    let EventPattern::Request { method, target, content, .. } = pattern else { return None };
    let (Event::Request { method: m, target: t, fields, body, .. }
    | Event::Oneway { method: m, target: t, fields, body }) = event
    else {
        return None;
    };
    if m != method {
        return Some("another method".into());
    }
    if !is_same_target(target, t) {
        return Some("another target".into());
    }
    compare_content(content, fields, body)
}

/// A server may show some bytes percent-encoded, and leave out a fragment (R-read-target).
fn is_same_target(sent: &[u8], shown: &[u8]) -> bool {
    let encoded = |bytes: &[u8]| -> Vec<u8> {
        let encode = |byte: &u8| match byte {
            b'"' | b'<' | b'>' | b'`' => format!("%{byte:02X}").into_bytes(),
            byte => vec![*byte],
        };
        bytes.iter().flat_map(encode).collect()
    };
    let whole = encoded(sent);
    let without = sent.iter().position(|b| *b == b'#').map(|at| encoded(&sent[..at]));
    let shown = encoded(shown);
    shown == whole || without.is_some_and(|without| shown == without)
}

/// The bodies that differ, for a dump.
fn bodies(pattern: &EventPattern, event: &Event) -> Option<(Vec<u8>, Vec<u8>)> {
    let (EventPattern::Request { content, .. } | EventPattern::Response { content, .. }) = pattern else { return None };
    let (Event::Request { body, .. } | Event::Oneway { body, .. } | Event::Response { body, .. }) = event else {
        return None;
    };
    content.body.clone().filter(|wanted| wanted != body).map(|wanted| (wanted, body.clone()))
}
