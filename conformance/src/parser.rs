//! From the lines of a scenario to its steps (FORMAT.md, "Literals" and "Steps").

use crate::http1;
use crate::literal::{Cursor, Resolve, time};
use crate::scenario::{Compression, Role, is_last};
use crate::step::{Action, Content, EventPattern, Expect, Feed, Outgoing, Step, StepKind};

type Wrong = (usize, String);

/// Parses the lines after the header.
pub(crate) fn parse_steps(role: Role, lines: &[(usize, &str)], resolve: Resolve<'_>) -> Result<Vec<Step>, Wrong> {
    let mut joined: Vec<(usize, String)> = Vec::new();
    for (number, line) in lines.iter().filter(|(_, line)| !line.trim().is_empty()) {
        match joined.last_mut() {
            Some((_, last)) if line.starts_with("  ") && !line.trim_start().starts_with('@') => {
                last.push('\n');
                last.push_str(line.trim());
            }
            _ if line.starts_with(char::is_whitespace) && !line.trim_start().starts_with('@') => {
                return Err((*number, "a line that goes on starts with two spaces".into()));
            }
            // The steps of a block may be indented: no literal starts with `@`.
            _ => joined.push((*number, line.trim().to_owned())),
        }
    }
    let mut parser = Parser { role, resolve, lines: joined.into_iter().peekable(), now: 0 };
    let mut steps = Vec::new();
    while let Some(step) = parser.step(&mut steps, Block::None)? {
        steps.push(step);
    }
    if steps.is_empty() {
        return Err((0, "the scenario has no steps".into()));
    }
    for step in &steps[..steps.len() - 1] {
        if matches!(&step.kind, StepKind::Expect(expect) if is_last(expect)) {
            return Err((step.line, "`closed` and `still open` are last steps".into()));
        }
    }
    let mut eof_in = steps.iter().filter(|step| matches!(step.kind, StepKind::Feed(Feed::EofIn(_))));
    if let (Some(_), Some(second)) = (eof_in.next(), eof_in.next()) {
        return Err((second.line, "there is a `feed eof-in` before".into()));
    }
    let in_branches = steps.iter().filter_map(|step| match &step.kind {
        StepKind::Either(branches) => Some(branches.iter().flatten()),
        _ => None,
    });
    if let Some(step) = in_branches.flatten().find(|step| matches!(step.kind, StepKind::Feed(Feed::EofIn(_)))) {
        return Err((step.line, "`feed eof-in` stands in no block".into()));
    }
    Ok(steps)
}

/// In which block a step stands.
#[derive(Clone, Copy, PartialEq)]
enum Block {
    None,
    Unordered,
    Either,
}

struct Parser<'r> {
    role: Role,
    resolve: Resolve<'r>,
    lines: std::iter::Peekable<std::vec::IntoIter<(usize, String)>>,
    now: u64,
}

impl Parser<'_> {
    /// The next step; `None` at the end, of a block before its `or` or `end`.
    fn step(&mut self, before: &mut [Step], block: Block) -> Result<Option<Step>, Wrong> {
        loop {
            let Some((line, source)) = self.lines.peek().cloned() else {
                return Ok(None);
            };
            let wrong = |message: String| (line, message);
            let (at, text) = timed(&source).map_err(wrong)?;
            let mut cursor = Cursor::new(text, self.resolve).map_err(wrong)?;
            let mut word = cursor.need_word("a step").map_err(wrong)?;
            let late = word == "late";
            if late {
                word = cursor.need_word("feed or do").map_err(wrong)?;
                if !["feed", "do"].contains(&word.as_str()) {
                    return Err(wrong("only `feed` and `do` can be late".into()));
                }
            }
            if block != Block::None && (word == "or" || word == "end") {
                return Ok(None);
            }
            if let Some(at) = at {
                if at < self.now {
                    return Err(wrong("time goes backwards".into()));
                }
                if block == Block::Unordered && at != self.now {
                    return Err(wrong("the steps of `unordered` have one time".into()));
                }
                self.now = at;
            }
            self.lines.next();
            let kind = match word.as_str() {
                "refused-locally" => {
                    let code =
                        cursor.need_word("a code").and_then(|code| cursor.end().map(|()| code)).map_err(wrong)?;
                    let Some(Step { kind: StepKind::Do { refused, .. }, at, .. }) = before.last_mut() else {
                        return Err(wrong("`refused-locally` stands right after a `do`".into()));
                    };
                    if *at != self.now {
                        return Err(wrong("`refused-locally` has the time of its `do`".into()));
                    }
                    *refused = Some(code);
                    continue;
                }
                "unordered" => StepKind::Unordered(self.block(line, Block::Unordered)?.pop().unwrap_or_default()),
                "either" if block != Block::Unordered => StepKind::Either(self.block(line, Block::Either)?),
                "or" | "end" => return Err(wrong(format!("`{word}` without a block"))),
                _ if at.is_none() && block == Block::None => {
                    return Err(wrong("a step starts with `@` and its time".into()));
                }
                _ => {
                    let kind = parse_step(self.role, &word, &mut cursor).map_err(wrong)?;
                    if block == Block::Unordered && !matches!(kind, StepKind::Expect(_)) {
                        return Err(wrong("`unordered` holds only what is expected".into()));
                    }
                    kind
                }
            };
            cursor.end().map_err(wrong)?;
            return Ok(Some(Step { at: at.unwrap_or(self.now), late, line, source, kind }));
        }
    }

    /// The branches of a block, up to and with its `end`.
    fn block(&mut self, begin: usize, block: Block) -> Result<Vec<Vec<Step>>, Wrong> {
        // The block's first step may say its time, when the word that opens the block does not.
        if let Some((line, next)) = self.lines.peek()
            && let Some(at) = timed(next).map_err(|message| (*line, message))?.0
        {
            self.now = self.now.max(at);
        }
        let (start, mut end) = (self.now, self.now);
        let mut branches = Vec::new();
        loop {
            let mut branch: Vec<Step> = Vec::new();
            self.now = start;
            while let Some(step) = self.step(&mut branch, block)? {
                branch.push(step);
            }
            end = end.max(self.now);
            let Some((line, source)) = self.lines.next() else {
                return Err((begin, "the block has no `end`".into()));
            };
            if branch.is_empty() {
                return Err((line, "a block or branch is empty".into()));
            }
            branches.push(branch);
            if source.split_whitespace().last() == Some("end") {
                self.now = end;
                return Ok(branches);
            }
            if block == Block::Unordered {
                return Err((line, "`unordered` has no branches".into()));
            }
        }
    }
}

/// The time of a line, if it says one, and the rest.
fn timed(source: &str) -> Result<(Option<u64>, &str), String> {
    let Some(text) = source.strip_prefix('@') else { return Ok((None, source)) };
    let (at, rest) = text.split_once(char::is_whitespace).ok_or("a time without a step")?;
    Ok((Some(time(at)?), rest))
}

fn parse_step(role: Role, word: &str, cursor: &mut Cursor) -> Result<StepKind, String> {
    match word {
        "feed" => parse_feed(cursor).map(StepKind::Feed),
        "do" => Ok(StepKind::Do { action: parse_action(role, cursor)?, refused: None }),
        _ => parse_expect(role, word, cursor).map(StepKind::Expect),
    }
}

fn parse_feed(cursor: &mut Cursor) -> Result<Feed, String> {
    let word = cursor.need_word("wire, hello, plain, frame, eof or eof-in")?;
    Ok(match word.as_str() {
        "wire" => Feed::Wire(cursor.bytes("bytes")?),
        "plain" => Feed::Plain(cursor.bytes("bytes")?),
        "frame" => {
            let id: u32 = cursor.number("an id")?;
            Feed::Plain([&id.to_le_bytes()[..], &cursor.bytes("a message")?].concat())
        }
        "eof" => Feed::Eof,
        "eof-in" => Feed::EofIn(
            // Of fewer there would be no run, and the scenario would check nothing.
            Some(cursor.bytes("bytes")?).filter(|bytes| bytes.len() > 1).ok_or("two bytes or more expected")?,
        ),
        "hello" => {
            let keys = hello_keys(cursor, &["compression", "tls", "version"])?;
            let [compression, tls, version] = [keys[0], keys[1], keys[2]];
            Feed::Hello {
                compression: compression.unwrap_or(Compression::None.code()),
                tls: tls.unwrap_or(0),
                version: version.unwrap_or(0),
            }
        }
        other => return Err(format!("nothing is called `feed {other}`")),
    })
}

/// The values of `key=value` words, in the order of the known keys.
fn hello_keys(cursor: &mut Cursor, known: &[&str]) -> Result<[Option<u8>; 3], String> {
    let mut values = [None; 3];
    while let Some(word) = cursor.word() {
        let (key, value) = word.split_once('=').ok_or_else(|| format!("{word:?} is no key=value"))?;
        let at = known.iter().position(|name| *name == key).ok_or_else(|| format!("a hello has no {key:?}"))?;
        let named = Compression::from_name(value).filter(|_| key == "compression").map(Compression::code);
        let value = named.or_else(|| value.parse().ok()).ok_or_else(|| format!("{value:?} is no value of {key}"))?;
        values[at] = Some(value);
    }
    Ok(values)
}

fn parse_action(role: Role, cursor: &mut Cursor) -> Result<Action, String> {
    let word = cursor.need_word("what to do")?;
    let (side, action) = match word.as_str() {
        "request" => {
            let tag = cursor.number("a tag")?;
            let (request, deadline) = parse_request(cursor)?;
            (Some(Role::Client), Action::Request { tag, request, deadline })
        }
        "oneway" => match parse_request(cursor)? {
            (request, None) => (Some(Role::Client), Action::Oneway(request)),
            _ => return Err("a oneway has no deadline".into()),
        },
        "cancel" => (Some(Role::Client), Action::Cancel { tag: cursor.number("a tag")? }),
        "respond" => {
            let (id, status) = (cursor.number("an id")?, cursor.number("a status")?);
            let content = parse_content(cursor, false)?;
            let body = content.body.unwrap_or_default();
            (Some(Role::Server), Action::Respond { id, status, fields: content.fields, body })
        }
        "discard" => (Some(Role::Server), Action::Discard { id: cursor.number("an id")? }),
        "next-id" => (Some(Role::Client), Action::NextId { id: cursor.number("an id")? }),
        "hold-output" => (None, Action::Hold(true)),
        "release-output" => (None, Action::Hold(false)),
        "flush" => (None, Action::Flush),
        "goodbye" => (Some(Role::Server), Action::Goodbye),
        "close" => (None, Action::Close),
        "tls-established" => (None, Action::TlsEstablished),
        other => return Err(format!("nothing is called `do {other}`")),
    };
    match side {
        Some(side) if side != role => Err(format!("only a {} does that", side.name())),
        _ => Ok(action),
    }
}

fn parse_request(cursor: &mut Cursor) -> Result<(Outgoing, Option<u64>), String> {
    let method = cursor.text("a method")?;
    let target = cursor.bytes("a target")?;
    let mut host = Some(b"h".to_vec());
    let (mut fields, mut body, mut deadline) = (Vec::new(), Vec::new(), None);
    while let Some(word) = cursor.word() {
        match word.as_str() {
            "fields" => fields = http1::given_fields(&cursor.bytes("fields")?)?,
            "body" => body = cursor.bytes("a body")?,
            "deadline" => deadline = Some(time(&cursor.need_word("a time")?)?),
            "host" => host = Some(cursor.bytes("a host")?),
            "no-host" => host = None,
            other => return Err(format!("a request has no {other:?}")),
        }
    }
    fields.splice(..0, host.map(|host| ("Host".to_owned(), host)));
    Ok((Outgoing { method, target, fields, body }, deadline))
}

fn parse_content(cursor: &mut Cursor, is_pattern: bool) -> Result<Content, String> {
    let mut content = Content::default();
    while let Some(word) = cursor.word() {
        match word.as_str() {
            "fields" => content.fields = http1::given_fields(&cursor.bytes("fields")?)?,
            "body" => content.body = Some(cursor.bytes("a body")?),
            "no-field" if is_pattern => content.no_fields.push(name(cursor)?),
            other => return Err(format!("{other:?} was not expected here")),
        }
    }
    Ok(content)
}

fn name(cursor: &mut Cursor) -> Result<String, String> {
    String::from_utf8(cursor.text("a field name")?).map_err(|_| "a field name is ASCII".into())
}

fn parse_expect(role: Role, word: &str, cursor: &mut Cursor) -> Result<Expect, String> {
    Ok(match word {
        "send" => parse_send(role, cursor)?,
        "event" => Expect::Event(parse_event(role, cursor)?),
        "quiet" => Expect::Quiet,
        "reads" => match cursor.need_word("yes or no")?.as_str() {
            "yes" => Expect::Reads(true),
            "no" => Expect::Reads(false),
            _ => return Err("yes or no expected".into()),
        },
        "timer" => match cursor.need_word("a time or none")?.as_str() {
            "none" => Expect::Timer(None),
            at => Expect::Timer(Some(time(at)?)),
        },
        "closed" => match cursor.need_word("a code or clean")?.as_str() {
            "clean" => Expect::Closed(None),
            code => Expect::Closed(Some(code.to_owned())),
        },
        "still" if cursor.word().as_deref() == Some("open") => Expect::StillOpen,
        other => return Err(format!("there is no step {other:?}")),
    })
}

fn parse_send(role: Role, cursor: &mut Cursor) -> Result<Expect, String> {
    let word = cursor.need_word("hello, frame, refusal or batch")?;
    Ok(match word.as_str() {
        "hello" => {
            let [compression, tls, _] = hello_keys(cursor, &["compression", "tls"])?;
            Expect::SendHello { compression, tls: tls.unwrap_or(0) }
        }
        "frame" => {
            let id = cursor.number("an id")?;
            let message = http1::given_message(&cursor.bytes("a message")?)?;
            let mut no_fields = Vec::new();
            while let Some(word) = cursor.word() {
                match word.as_str() {
                    "no-field" => no_fields.push(name(cursor)?),
                    other => return Err(format!("{other:?} was not expected here")),
                }
            }
            Expect::SendFrame { id, message, no_fields }
        }
        "refusal" if role == Role::Client => return Err("only a server sends refusals".into()),
        "refusal" => {
            let (id, status) = (cursor.number("an id")?, cursor.number("a status")?);
            let head = match cursor.word().as_deref() {
                None => false,
                Some("head") => true,
                Some(other) => return Err(format!("{other:?} was not expected here")),
            };
            Expect::SendRefusal { id, status, head }
        }
        "batch" => Expect::SendBatch(cursor.number("a number of frames")?),
        other => return Err(format!("nothing is called `send {other}`")),
    })
}

fn parse_event(role: Role, cursor: &mut Cursor) -> Result<EventPattern, String> {
    let word = cursor.need_word("an event")?;
    let (side, event) = match word.as_str() {
        "connected" => (None, EventPattern::Connected),
        "start-tls" => (None, EventPattern::StartTls),
        "request" | "oneway" => {
            let id = if word == "request" { Some(cursor.number("an id")?) } else { None };
            let (method, target) = (cursor.text("a method")?, cursor.bytes("a target")?);
            let content = parse_content(cursor, true)?;
            (Some(Role::Server), EventPattern::Request { id, method, target, content })
        }
        "refused" => {
            let (id, code) = (cursor.number("an id")?, cursor.need_word("a code")?);
            (Some(Role::Server), EventPattern::Refused { id, code })
        }
        "response" => {
            let (tag, status) = (cursor.number("a tag")?, cursor.number("a status")?);
            (Some(Role::Client), EventPattern::Response { tag, status, content: parse_content(cursor, true)? })
        }
        "failed" => {
            let (tag, code) = (cursor.number("a tag")?, cursor.need_word("a code")?);
            let maybe_delivered = match (cursor.word().as_deref(), cursor.word().as_deref()) {
                (Some("delivered"), Some("maybe")) => true,
                (Some("delivered"), Some("no")) => false,
                _ => return Err("`delivered maybe` or `delivered no` expected".into()),
            };
            (Some(Role::Client), EventPattern::Failed { tag, code, maybe_delivered })
        }
        "unmatched" => (Some(Role::Client), EventPattern::Unmatched { id: cursor.number("an id")? }),
        other => return Err(format!("there is no event {other:?}")),
    };
    match side {
        Some(side) if side != role => Err(format!("only a {} tells that", side.name())),
        _ => Ok(event),
    }
}
