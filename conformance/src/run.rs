//! Runs a scenario against a shim: virtual time, replays, and the first difference.

use std::time::Duration;

use crate::literal::hex;
use crate::matching::{Mismatch, Seen, State, layer_of};
use crate::scenario::{Compression, Scenario};
use crate::shim::{Answer, Event, Request, Shim, fields_out, new_command};
use crate::step::{Action, Feed, Step, StepKind};
use crate::wire::{Encoder, Reader, hello};

/// How the feeds of a scenario are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// Each feed whole.
    Whole,
    /// Byte by byte.
    Bytes,
    /// In random pieces, by this seed.
    Cuts(u64),
    /// Feeds that follow each other at one time, joined.
    Joined,
    /// Each feed whole, and so many bytes of the `feed eof-in`.
    Prefix(usize),
}

impl Replay {
    /// All of a scenario that is replayed.
    pub const ALL: [Self; 6] = [Self::Whole, Self::Bytes, Self::Cuts(1), Self::Cuts(2), Self::Cuts(3), Self::Joined];

    /// In words.
    pub fn name(self) -> String {
        match self {
            Self::Whole => "each feed whole".into(),
            Self::Bytes => "byte by byte".into(),
            Self::Cuts(seed) => format!("random cuts, seed {seed}"),
            Self::Joined => "feeds joined".into(),
            Self::Prefix(count) => format!("end of file after byte {count} of the `feed eof-in`"),
        }
    }
}

/// The first difference.
#[derive(Clone, Debug)]
pub struct Failure {
    /// How the feeds were cut.
    pub replay: Replay,
    /// The line of the step, 0 if there is none.
    pub line: usize,
    /// The step as it is written.
    pub step: String,
    /// What differs.
    pub mismatch: Mismatch,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// The subject does not do what it should.
    Fail(Box<Failure>),
    /// The shim is of no use any more.
    Shim(Box<Failure>),
}

/// Runs a scenario in all its replays.
///
/// # Errors
///
/// The first difference; after [`Stop::Shim`] the shim cannot be used again.
pub fn run(scenario: &Scenario, shim: &mut Shim) -> Result<(), Stop> {
    let eof_in = scenario.steps.iter().find_map(|step| match &step.kind {
        StepKind::Feed(Feed::EofIn(bytes)) => Some(bytes.len()),
        _ => None,
    });
    if let Some(count) = eof_in {
        return (1..count).try_for_each(|count| replay_once(scenario, shim, Replay::Prefix(count)));
    }
    let replays = if scenario.replays { &Replay::ALL[..] } else { &Replay::ALL[..1] };
    for replay in replays {
        // A replay that would be as another one is left out.
        let mut feeds = scenario.steps.windows(2);
        let joins = |steps: &[Step]| {
            let is_feed = |step: &Step| !matches!(step.kind, StepKind::Expect(_) | StepKind::Do { .. });
            is_feed(&steps[0]) && is_feed(&steps[1]) && steps[0].at == steps[1].at
        };
        if *replay == Replay::Joined && !feeds.any(joins) {
            continue;
        }
        replay_once(scenario, shim, *replay)?;
    }
    Ok(())
}

/// Runs a scenario once.
///
/// # Errors
///
/// As [`run`].
pub fn replay_once(scenario: &Scenario, shim: &mut Shim, replay: Replay) -> Result<(), Stop> {
    let mut run = Run::new(scenario, shim, replay);
    let result = run.all();
    result.map_err(|mismatch| {
        let (line, step) = run.place.clone();
        let broken = run.is_broken;
        let failure = Box::new(Failure { replay, line, step, mismatch });
        if broken { Stop::Shim(failure) } else { Stop::Fail(failure) }
    })
}

/// One run of a scenario.
struct Run<'s> {
    scenario: &'s Scenario,
    shim: &'s mut Shim,
    replay: Replay,
    random: Random,
    now: u64,
    /// The step under way.
    place: (usize, String),
    step: usize,
    encoder: Encoder,
    reader: Reader,
    seen: Seen,
    reads: bool,
    timer: Option<u64>,
    /// Fed, and not yet taken.
    unread: Vec<u8>,
    eof_due: bool,
    is_in_tls: bool,
    is_closed: bool,
    is_broken: bool,
    /// Ids and tickets of unanswered requests, in their order.
    tickets: Vec<(u32, u64)>,
}

type Done = Result<(), Mismatch>;

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, shim: &'s mut Shim, replay: Replay) -> Self {
        let seed = if let Replay::Cuts(seed) = replay { seed } else { 0 };
        Self {
            scenario,
            shim,
            replay,
            random: Random::new(&scenario.id, seed),
            now: 0,
            place: (0, "(the connection begins)".into()),
            step: 0,
            encoder: Encoder::new(Compression::None),
            reader: Reader::new(scenario.role),
            seen: Seen::default(),
            reads: true,
            timer: None,
            unread: Vec::new(),
            eof_due: false,
            is_in_tls: false,
            is_closed: false,
            is_broken: false,
            tickets: Vec::new(),
        }
    }

    fn all(&mut self) -> Done {
        self.tell(&new_command(self.scenario))?;
        self.steps(&self.scenario.steps)?;
        self.place = (0, "(the end: everything has been mentioned)".into());
        self.seen.end(&self.reader)
    }

    fn steps(&mut self, steps: &'s [Step]) -> Done {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            self.place = (step.line, step.source.clone());
            self.step += 1;
            if step.late {
                self.now = step.at;
            } else {
                self.advance(step.at)?;
            }
            at += 1;
            match &step.kind {
                StepKind::Feed(_) => {
                    let joins = matches!(self.replay, Replay::Joined | Replay::Cuts(_));
                    let is_joined = |next: &&Step| matches!(next.kind, StepKind::Feed(_)) && next.at == step.at;
                    let more = steps[at..].iter().take_while(is_joined).count();
                    // Between a late feed and the next one timers fire.
                    let count = if joins && !step.late { more } else { 0 };
                    self.feed(&steps[at - 1..at + count])?;
                    at += count;
                }
                StepKind::Do { action, refused } => self.act(action, refused.as_deref())?,
                StepKind::Either(branches) => self.either(branches)?,
                StepKind::Expect(_) | StepKind::Unordered(_) => {
                    let state = state(self.scenario, self.step, self.reads, self.timer, &self.reader);
                    self.seen.take(step, &state)?;
                }
            }
        }
        Ok(())
    }

    /// Goes on with the first branch that comes true as far as it expects something before it does something.
    fn either(&mut self, branches: &'s [Vec<Step>]) -> Done {
        let mut first = None;
        for branch in branches {
            let is_expected = |step: &&Step| matches!(step.kind, StepKind::Expect(_) | StepKind::Unordered(_));
            let expected = branch.iter().take_while(is_expected);
            let now = self.now;
            let mut ahead = self.seen.clone();
            let state = state(self.scenario, self.step, self.reads, self.timer, &self.reader);
            let tried = expected.take_while(|step| step.at <= now).try_for_each(|step| ahead.take(step, &state));
            match tried {
                Ok(()) => return self.steps(branch),
                Err(mismatch) => {
                    let mismatch: &mut Mismatch = first.get_or_insert(Mismatch { expected: String::new(), ..mismatch });
                    let sources: Vec<_> = branch.iter().map(|step| step.source.as_str()).collect();
                    let or = if mismatch.expected.is_empty() { "either" } else { "\nor" };
                    mismatch.expected.push_str(&format!("{or} {}", sources.join("; ")));
                }
            }
        }
        first.map_or(Ok(()), Err)
    }

    /// Lets time pass: timers that are due by then fire, each at its own time.
    fn advance(&mut self, to: u64) -> Done {
        let mut stuck = 0;
        while let Some(at) = self.timer.filter(|at| *at <= to && !self.is_closed) {
            self.now = self.now.max(at);
            self.tell(&Request::Timeout { now: self.now })?;
            self.offer()?;
            stuck = if self.timer == Some(at) { stuck + 1 } else { 0 };
            if stuck > 3 {
                return Err(Mismatch::new(
                    "timer",
                    "a timer that fires moves on or ends",
                    format!("it stays at {at} us"),
                ));
            }
        }
        self.now = to;
        Ok(())
    }

    fn feed(&mut self, steps: &[Step]) -> Done {
        let mut bytes = Vec::new();
        let mut has_ended = false;
        for step in steps {
            let StepKind::Feed(feed) = &step.kind else { continue };
            let defect = |message| Mismatch::new("suite", "the suite can compress", message);
            match feed {
                Feed::Wire(wire) => bytes.extend_from_slice(wire),
                Feed::Plain(plain) => bytes.extend(self.encoder.encode(plain).map_err(defect)?),
                Feed::Hello { compression, tls, version } => {
                    bytes.extend_from_slice(&hello(*version, *compression, *tls));
                    let known = Compression::from_code(*compression).unwrap_or(Compression::None);
                    self.encoder = Encoder::new(known);
                }
                Feed::Eof => has_ended = true,
                Feed::EofIn(wire) => {
                    let count = if let Replay::Prefix(count) = self.replay { count } else { wire.len() };
                    bytes.extend_from_slice(&wire[..count.min(wire.len())]);
                    has_ended = true;
                }
            }
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(self.cut(bytes.len() - rest.len(), rest.len()));
            rest = after;
            self.unread.extend_from_slice(piece);
            self.offer()?;
        }
        self.eof_due |= has_ended;
        self.offer()
    }

    /// The length of the next piece of a feed.
    fn cut(&mut self, before: usize, left: usize) -> usize {
        // So much at either end of a feed is fed byte by byte; the middle of a long body would only take time.
        const EDGE: usize = 2_048;
        match self.replay {
            Replay::Whole | Replay::Joined | Replay::Prefix(_) => left,
            Replay::Bytes if before < EDGE || left <= EDGE => 1,
            Replay::Bytes => 1_021.min(left - EDGE),
            Replay::Cuts(_) => {
                let most = [8, 40, 300, 5_000][self.random.below(4)].max(left / 50);
                (1 + self.random.below(most)).min(left)
            }
        }
    }

    /// Offers what was fed and is not yet taken, as far as the subject reads; then the end of file.
    fn offer(&mut self) -> Done {
        while !self.unread.is_empty() && self.reads && !self.is_closed && !self.is_in_tls {
            let answer = self.tell(&Request::Input { now: self.now, hex: hex(&self.unread) })?;
            if answer.consumed > self.unread.len() {
                let actual = format!("{} of {} bytes", answer.consumed, self.unread.len());
                return Err(Mismatch::new("suite", "no more is taken than was offered", actual));
            }
            if answer.consumed == 0 && answer.reads {
                return Err(Mismatch::new("suite", "a subject that reads takes input", "0 bytes were taken"));
            }
            self.unread.drain(..answer.consumed);
        }
        if self.is_closed || self.is_in_tls {
            // After the close nobody reads it; between hello and TLS it is the TLS layer's.
            self.unread.clear();
        }
        if self.eof_due && self.unread.is_empty() && !self.is_closed {
            self.eof_due = false;
            self.tell(&Request::Eof { now: self.now })?;
        }
        Ok(())
    }

    fn act(&mut self, action: &Action, refused: Option<&str>) -> Done {
        let now = self.now;
        let ticket = match action {
            Action::Respond { id, .. } | Action::Discard { id } => {
                let Some(at) = self.tickets.iter().position(|(known, _)| known == id) else {
                    let actual = "there is none: it never came to the program";
                    return Err(Mismatch::new("message", format!("an unanswered request with id {id}"), actual));
                };
                Some((at, self.tickets[at].1))
            }
            _ => None,
        };
        let ticket_number = ticket.map_or(0, |(_, ticket)| ticket);
        let request = match action {
            Action::Request { tag, request, deadline } => Request::Request {
                now,
                tag: *tag,
                message: request.into(),
                deadline: deadline.map(|after| now.saturating_add(after)),
            },
            Action::Oneway(request) => Request::Oneway { now, message: request.into() },
            Action::Cancel { tag } => Request::Cancel { now, tag: *tag },
            Action::Respond { status, fields, body, .. } => {
                let (fields, body) = (fields_out(fields), hex(body));
                Request::Respond { now, ticket: ticket_number, status: *status, fields, body }
            }
            Action::Discard { .. } => Request::Discard { now, ticket: ticket_number },
            Action::Flush => Request::Flush { now },
            Action::Close => Request::Close { now },
            Action::TlsEstablished => {
                self.is_in_tls = false;
                Request::TlsEstablished { now }
            }
        };
        let answer = self.tell(&request)?;
        match (&answer.error, refused) {
            (None, None) => {}
            (Some(code), Some(wanted)) if code == wanted => {
                if !answer.out.is_empty() || !answer.events.is_empty() {
                    let actual = format!("{} bytes and {} events", answer.out.len(), answer.events.len());
                    return Err(Mismatch::new("message", "a command that failed does nothing", actual));
                }
            }
            (error, wanted) => {
                let say =
                    |code: Option<&str>| code.map_or("it succeeds".into(), |code| format!("it fails with {code}"));
                let layer = layer_of(error.as_deref().or(wanted));
                return Err(Mismatch::new(layer, say(wanted), say(error.as_deref())));
            }
        }
        if let (Some((at, _)), None) = (ticket, &answer.error) {
            self.tickets.remove(at);
        }
        self.offer()
    }

    /// Sends a command and takes in what came of it.
    fn tell(&mut self, request: &Request) -> Result<Answer, Mismatch> {
        let mut answer = self.shim.call(request).map_err(|message| {
            self.is_broken = true;
            Mismatch::new("shim", "an answer", message)
        })?;
        if let Some(why) = &answer.nack {
            return Err(Mismatch::new("shim", "the shim has the command", format!("nack: {why}")));
        }
        self.seen.sent.extend(self.reader.take(&answer.out));
        for event in &answer.events {
            match event {
                Event::Request { ticket, id, .. } => self.tickets.push((*id, *ticket)),
                Event::StartTls {} => self.is_in_tls = true,
                Event::Closed { .. } => self.is_closed = true,
                _ => {}
            }
        }
        self.seen.events.extend(answer.events.iter().cloned().map(|event| (self.step, event)));
        self.reads = answer.reads;
        self.timer = answer.timer.take();
        Ok(answer)
    }
}

fn state<'r>(scenario: &'r Scenario, step: usize, reads: bool, timer: Option<u64>, reader: &'r Reader) -> State<'r> {
    State { config: &scenario.config, step, reads, timer, reader }
}

/// A small generator whose numbers depend on a scenario's id and a seed, and on nothing else.
struct Random(u64);

impl Random {
    fn new(id: &str, seed: u64) -> Self {
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(id.bytes().fold(0xcbf2_9ce4_8422_2325 ^ seed, hash))
    }

    /// A number from 0 to `end` - 1.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % end.max(1) as u64) as usize
    }
}

/// How long a shim may take for one answer, if nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(10);
