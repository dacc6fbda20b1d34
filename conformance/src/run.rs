//! Runs a scenario against a subject: replays, steps, and the first difference. How time passes and how bytes get to
//! the subject is its profile's affair ([`Subject`]).

use std::time::Duration;

use crate::literal::hex;
use crate::matching::{Mismatch, Seen, Socket, State, layer_of};
use crate::scenario::{Compression, Config, Scenario};
use crate::shim::{Answer, Event, Request, fields_out};
use crate::step::{ANY_CODE, Action, EventPattern, Expect, Feed, Step, StepKind};
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
    /// The time of the scenario at which the run stood.
    pub now: u64,
    /// The end of what had been fed by then.
    pub fed: Vec<u8>,
    /// How many bytes had been fed in all.
    pub fed_in_all: usize,
}

/// Why a run ended early.
#[derive(Debug)]
pub enum Stop {
    /// The subject does not do what it should.
    Fail(Box<Failure>),
    /// The shim is of no use any more.
    Shim(Box<Failure>),
}

/// What came of something that the suite did.
pub type Done = Result<(), Mismatch>;

/// An implementation as its profile drives it.
pub trait Subject {
    /// How the feeds of a scenario are cut here.
    fn replays(&self, scenario: &Scenario) -> Vec<Replay>;

    /// Begins a connection; what was before is dropped.
    ///
    /// # Errors
    ///
    /// As all that follow: the subject, or its shim, does what it must not.
    fn begin(&mut self, scenario: &Scenario, told: &mut Told) -> Done;

    /// Lets time pass until then.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn advance(&mut self, to: u64, told: &mut Told) -> Done;

    /// Gives it bytes of the peer.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn feed(&mut self, piece: &[u8], told: &mut Told) -> Done;

    /// Tells it that no more will come.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn feed_end(&mut self, told: &mut Told) -> Done;

    /// Has its program do something.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn call(&mut self, request: &Request, told: &mut Told) -> Result<Answer, Mismatch>;

    /// Waits until `is_there`, or until it is too late for it.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn wait(&mut self, told: &mut Told, is_there: &dyn Fn(&Told, Option<Socket>) -> bool) -> Done;

    /// Waits until nothing more comes of what was done.
    ///
    /// # Errors
    ///
    /// As [`begin`](Self::begin).
    fn settle(&mut self, told: &mut Told) -> Done;

    /// How much earlier than its time a `quiet` is looked at that must hold until something else happens.
    fn haste(&self) -> u64 {
        0
    }

    /// Whether input is taken, and the next deadline.
    fn stand(&self) -> (bool, Option<u64>) {
        (true, None)
    }

    /// How its socket stands, if it has one.
    fn socket(&self) -> Option<Socket> {
        None
    }

    /// Has it wait so many times longer for what may come late; false where time is not real, and nothing is late.
    fn be_patient(&mut self, _times: u32) -> bool {
        false
    }

    /// Whether its shim can be used no more.
    fn is_broken(&self) -> bool;
}

/// What the subject has sent and told.
pub struct Told {
    /// What no step has mentioned yet.
    pub seen: Seen,
    /// Takes apart what it sends.
    pub reader: Reader,
    /// Ids and tickets of unanswered requests, in their order.
    pub tickets: Vec<(u32, u64)>,
    /// The number of the step under way.
    pub step: usize,
    /// The time of the scenario.
    pub now: u64,
}

impl Told {
    fn new(scenario: &Scenario) -> Self {
        let reader = Reader::new(scenario.role);
        Self { seen: Seen::default(), reader, tickets: Vec::new(), step: 0, now: 0 }
    }

    /// Takes an event in, as one of this step.
    pub fn event(&mut self, event: Event, step: usize) {
        if let Event::Request { ticket, id: Some(id), .. } = &event {
            self.tickets.push((*id, *ticket));
        }
        self.seen.events.push_back((step, event));
    }
}

/// Runs a scenario in all its replays.
///
/// # Errors
///
/// The first difference; after [`Stop::Shim`] the subject cannot be used again.
pub fn run(scenario: &Scenario, subject: &mut dyn Subject) -> Result<(), Stop> {
    let eof_in = scenario.steps.iter().find_map(|step| match &step.kind {
        StepKind::Feed(Feed::EofIn(bytes)) => Some(bytes.len()),
        _ => None,
    });
    if let Some(count) = eof_in {
        return (1..count).try_for_each(|count| replay_once(scenario, subject, Replay::Prefix(count)));
    }
    for replay in subject.replays(scenario) {
        replay_once(scenario, subject, replay)?;
    }
    Ok(())
}

/// Runs a scenario once.
///
/// # Errors
///
/// As [`run`].
pub fn replay_once(scenario: &Scenario, subject: &mut dyn Subject, replay: Replay) -> Result<(), Stop> {
    let mut run = Run::new(scenario, subject, replay);
    let result = run.all();
    result.map_err(|mismatch| {
        let (line, step) = run.place.clone();
        let broken = run.subject.is_broken();
        let (now, fed, fed_in_all) = (run.told.now, std::mem::take(&mut run.fed), run.fed_in_all);
        let failure = Box::new(Failure { replay, line, step, mismatch, now, fed, fed_in_all });
        if broken { Stop::Shim(failure) } else { Stop::Fail(failure) }
    })
}

/// So many of the last bytes that were fed are shown with a failure.
const FED: usize = 64;

/// One run of a scenario.
struct Run<'s> {
    scenario: &'s Scenario,
    subject: &'s mut dyn Subject,
    replay: Replay,
    random: Random,
    /// The step under way.
    place: (usize, String),
    encoder: Encoder,
    told: Told,
    /// The end of what was fed, and how much it was.
    fed: Vec<u8>,
    fed_in_all: usize,
}

impl<'s> Run<'s> {
    fn new(scenario: &'s Scenario, subject: &'s mut dyn Subject, replay: Replay) -> Self {
        let seed = if let Replay::Cuts(seed) = replay { seed } else { 0 };
        Self {
            scenario,
            subject,
            replay,
            random: Random::new(&scenario.id, seed),
            place: (0, "(the connection begins)".into()),
            encoder: Encoder::new(Compression::None),
            told: Told::new(scenario),
            fed: Vec::new(),
            fed_in_all: 0,
        }
    }

    fn all(&mut self) -> Done {
        self.subject.begin(self.scenario, &mut self.told)?;
        self.steps(&self.scenario.steps)?;
        self.place = (0, "(the end: everything has been mentioned)".into());
        let has_closed = |step: &Step| matches!(&step.kind, StepKind::Expect(Expect::Closed(_)));
        if !self.scenario.steps.last().is_some_and(has_closed) {
            self.subject.settle(&mut self.told)?;
        }
        self.told.seen.end(&self.told.reader, self.subject.socket())
    }

    fn steps(&mut self, steps: &'s [Step]) -> Done {
        let mut at = 0;
        while let Some(step) = steps.get(at) {
            self.place = (step.line, step.source.clone());
            self.told.step += 1;
            at += 1;
            // Quiet until then is quiet a little before, where clocks are not the same.
            let is_quiet = matches!(step.kind, StepKind::Expect(Expect::Quiet));
            let ends = is_quiet && steps.get(at).is_some_and(|next| next.at > step.at);
            let haste = if ends { self.subject.haste() } else { 0 };
            let to = step.at.saturating_sub(haste).max(self.told.now);
            if !step.late {
                self.subject.advance(to, &mut self.told)?;
            }
            self.told.now = step.at;
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
                StepKind::Expect(_) | StepKind::Unordered(_) => self.expect(step)?,
            }
        }
        Ok(())
    }

    /// Waits for what a step expects, and takes it out of what has come.
    fn expect(&mut self, step: &Step) -> Done {
        let config = &self.scenario.config;
        if is_negative(step) {
            self.subject.settle(&mut self.told)?;
        } else {
            let stand = self.subject.stand();
            let is_there = |told: &Told, socket| {
                let state = state(config, told.step, &told.reader, stand, socket);
                told.seen.clone().take(step, &state).is_ok()
            };
            self.subject.wait(&mut self.told, &is_there)?;
        }
        let (stand, socket) = (self.subject.stand(), self.subject.socket());
        let state = state(config, self.told.step, &self.told.reader, stand, socket);
        self.told.seen.take(step, &state)
    }

    /// Goes on with the first branch that comes true as far as it expects something before it does something.
    fn either(&mut self, branches: &'s [Vec<Step>]) -> Done {
        let (config, now) = (&self.scenario.config, self.told.now);
        if branches.iter().flat_map(|branch| begin_of(branch, now)).any(is_negative) {
            self.subject.settle(&mut self.told)?;
        } else {
            let stand = self.subject.stand();
            let is_there = |told: &Told, socket| {
                let state = state(config, told.step, &told.reader, stand, socket);
                branches.iter().any(|branch| tries(branch, now, &told.seen, &state).is_ok())
            };
            self.subject.wait(&mut self.told, &is_there)?;
        }
        let mut first = None;
        for branch in branches {
            let (stand, socket) = (self.subject.stand(), self.subject.socket());
            let state = state(config, self.told.step, &self.told.reader, stand, socket);
            match tries(branch, now, &self.told.seen, &state) {
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

    fn feed(&mut self, steps: &[Step]) -> Done {
        let mut bytes = Vec::new();
        let mut has_ended = false;
        for step in steps {
            let StepKind::Feed(feed) = &step.kind else { continue };
            let defect = |message| Mismatch::new("suite", "the suite can compress", message);
            match feed {
                Feed::Wire(wire) => bytes.extend_from_slice(wire),
                Feed::Plain(plain) => {
                    let mut plain = plain.clone();
                    self.rename(&mut plain);
                    bytes.extend(self.encoder.encode(&plain).map_err(defect)?);
                }
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
            self.fed.extend_from_slice(piece);
            self.fed.drain(..self.fed.len().saturating_sub(FED));
            self.fed_in_all += piece.len();
            self.subject.feed(piece, &mut self.told)?;
        }
        if has_ended { self.subject.feed_end(&mut self.told) } else { Ok(()) }
    }

    /// Puts the id in front of a frame that the client has for the scenario's.
    fn rename(&mut self, frame: &mut [u8]) {
        let Some((id, _)) = frame.split_first_chunk_mut::<4>() else { return };
        let renamed = &self.told.seen.renamed;
        if let Some((_, own)) = renamed.iter().find(|(known, _)| *known == u32::from_le_bytes(*id)) {
            *id = own.to_le_bytes();
            self.told.seen.fed.push(*own);
        }
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

    fn act(&mut self, action: &Action, refused: Option<&str>) -> Done {
        let now = self.told.now;
        let ticket = match action {
            Action::Respond { id, .. } | Action::Discard { id } => {
                self.told.tickets.append(&mut self.told.seen.bound);
                let Some(at) = self.told.tickets.iter().position(|(known, _)| known == id) else {
                    let actual = "there is none: it never came to the program";
                    return Err(Mismatch::new("message", format!("an unanswered request with id {id}"), actual));
                };
                Some((at, self.told.tickets[at].1))
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
            Action::NextId { id } => Request::NextId { now, id: *id },
            Action::Hold(true) => Request::HoldOutput { now },
            Action::Hold(false) => Request::ReleaseOutput { now },
            Action::Flush => Request::Flush { now },
            Action::Goodbye => Request::Goodbye { now },
            Action::Close => Request::Close { now },
            Action::TlsEstablished => Request::TlsEstablished { now },
        };
        if let (Action::Respond { id, .. }, Request::Respond { now, status, fields, body, .. }) = (action, &request) {
            for ticket in self.told.seen.alike.take_oneways(*id) {
                let (now, status, fields, body) = (*now, *status, fields.clone(), body.clone());
                self.subject.call(&Request::Respond { now, ticket, status, fields, body }, &mut self.told)?;
            }
        }
        let answer = self.subject.call(&request, &mut self.told)?;
        if let (None, Some(code), Action::Request { tag, .. }, Some(_)) =
            (&answer.error, refused, action, self.subject.socket())
        {
            // A driver may say so in its own time, like any other outcome.
            let pattern = EventPattern::Failed { tag: *tag, code: code.to_owned(), maybe_delivered: false };
            let (line, source) = self.place.clone();
            let kind = StepKind::Expect(Expect::Event(pattern));
            return self.expect(&Step { at: now, late: false, line, source, kind });
        }
        match (&answer.error, refused) {
            (None, None) => {}
            (Some(code), Some(wanted)) if code == wanted || wanted == ANY_CODE => {
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
            self.told.tickets.remove(at);
        }
        Ok(())
    }
}

/// Whether a step is true as long as nothing comes.
fn is_negative(step: &Step) -> bool {
    matches!(step.kind, StepKind::Expect(Expect::Quiet | Expect::StillOpen))
}

/// What a branch expects before it does something.
fn begin_of(branch: &[Step], now: u64) -> impl Iterator<Item = &Step> {
    let is_expected = |step: &&Step| matches!(step.kind, StepKind::Expect(_) | StepKind::Unordered(_));
    branch.iter().take_while(is_expected).take_while(move |step| step.at <= now)
}

fn tries(branch: &[Step], now: u64, seen: &Seen, state: &State<'_>) -> Done {
    let mut ahead = seen.clone();
    begin_of(branch, now).try_for_each(|step| ahead.take(step, state))
}

fn state<'r>(
    config: &'r Config,
    step: usize,
    reader: &'r Reader,
    (reads, timer): (bool, Option<u64>),
    socket: Option<Socket>,
) -> State<'r> {
    State { config, step, reads, timer, reader, socket }
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
