//! A subject on the other end of a real connection, with a shim that stands for its program or without one.

use std::io::BufRead;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;

use super::RealTime;
use super::adapt::{agrees_on_tls, requests};
use super::program::Program;
use super::socket::Socket;
use super::tls::{Session, Tls};
use crate::matching::{self, Mismatch};
use crate::process::Process;
use crate::run::{Done, Replay, Subject, Told};
use crate::scenario::{Role, Scenario};
use crate::shim::{Answer, Event, Request, Shim, Transcript, new_command, parsed};
use crate::step::{Feed, Step, StepKind};
use crate::wire::HELLO_BYTES;

/// Feeds of so many bytes in all are also sent byte by byte.
const SHORT: usize = 200;
/// So many pieces of a run are sent with a pause behind them, so that they arrive as pieces.
const PAUSES: u32 = 200;

/// What comes from the subject.
pub(super) enum Incoming {
    /// A line of the shim.
    Line(String),
    /// The shim has ended.
    ShimEnd,
    /// Bytes of the connection of a run.
    Wire(u64, Vec<u8>),
    /// The end of that connection.
    End(u64),
}

/// A line of a shim that is no event.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reply {
    error: Option<String>,
    nack: Option<String>,
    listen: Option<String>,
}

/// A driver or program on the other end of a TCP connection.
pub struct Tcp {
    /// Stands for the program; a black box has none.
    shim: Option<Process>,
    /// Where a black box listens.
    server: Option<SocketAddr>,
    /// How a black box that is a client is started, and the one that runs.
    client: Option<String>,
    program: Option<Program>,
    /// Keeps what the shim is told and tells.
    transcript: Option<Transcript>,
    /// What the shim claims.
    can: Vec<String>,
    time: RealTime,
    timeout: Duration,
    incoming: Receiver<Incoming>,
    sender: Sender<Incoming>,
    socket: Option<Socket>,
    /// TLS, if the subject has it, and how far it is on this connection.
    tls: Option<Tls>,
    session: Option<Session>,
    /// The scenario agrees on TLS: what comes behind the hello is the TLS layer's.
    agrees: bool,
    /// Bytes of the subject's hello so far, and what came behind it before the suite began TLS.
    heard: usize,
    held: Vec<u8>,
    /// Why TLS has failed.
    tls_error: Option<String>,
    /// Which connection is under way: what comes of earlier ones is dropped.
    run: u64,
    begin: Instant,
    role: Role,
    pauses: u32,
    patience: u32,
    /// Something was fed, and nothing has come of it yet.
    is_ahead: bool,
    /// The program was told to do something, and nothing has come of it yet.
    is_behind: bool,
    has_ended: bool,
    is_broken: bool,
}

impl Tcp {
    /// Behind a shim.
    ///
    /// # Errors
    ///
    /// The shim cannot be read.
    pub fn behind_shim(shim: Shim, can: &[String], time: &RealTime) -> Result<Self, String> {
        let (mut process, transcript) = shim.into_process();
        let stdout = process.take_stdout().ok_or("somebody else reads the shim's answers")?;
        let mut tcp = Self::new(process.timeout(), time);
        let sender = tcp.sender.clone();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(Incoming::Line(line)).is_err() {
                    return;
                }
            }
            let _ = sender.send(Incoming::ShimEnd);
        });
        (tcp.shim, tcp.can, tcp.transcript) = (Some(process), can.to_vec(), transcript);
        Ok(tcp)
    }

    /// A server of which nothing is known but its address.
    pub fn black_box(server: SocketAddr, timeout: Duration, time: &RealTime) -> Self {
        Self { server: Some(server), ..Self::new(timeout, time) }
    }

    /// A client of which nothing is known but the shell command that starts it; `{addr}` in it is where it connects to.
    pub fn black_box_client(command: &str, timeout: Duration, time: &RealTime) -> Self {
        Self { client: Some(command.to_owned()), ..Self::new(timeout, time) }
    }

    fn new(timeout: Duration, time: &RealTime) -> Self {
        let (sender, incoming) = channel();
        Self {
            shim: None,
            server: None,
            client: None,
            program: None,
            transcript: None,
            can: Vec::new(),
            time: time.clone(),
            timeout,
            incoming,
            sender,
            socket: None,
            tls: None,
            session: None,
            agrees: false,
            heard: 0,
            held: Vec::new(),
            tls_error: None,
            run: 0,
            begin: Instant::now(),
            role: Role::Server,
            pauses: 0,
            patience: 1,
            is_ahead: false,
            is_behind: false,
            has_ended: false,
            is_broken: false,
        }
    }

    /// With TLS, for the scenarios that need it.
    #[must_use]
    pub fn with_tls(self, tls: &Tls) -> Self {
        Self { tls: Some(tls.clone()), ..self }
    }

    fn broken(&mut self, message: impl Into<String>) -> Mismatch {
        self.is_broken = true;
        Mismatch::new("shim", "an answer", message)
    }

    /// Takes in what comes until then, but no more than one thing. Returns whether something came.
    fn take_one(&mut self, until: Instant, told: &mut Told) -> Result<bool, Mismatch> {
        match self.incoming.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(incoming) => match self.take(incoming, told)? {
                None => Ok(true),
                Some(_) => Err(self.broken("an answer that nobody waits for")),
            },
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Ok(false),
        }
    }

    fn take(&mut self, incoming: Incoming, told: &mut Told) -> Result<Option<Reply>, Mismatch> {
        match incoming {
            Incoming::Wire(run, bytes) if run == self.run => {
                self.take_wire(&bytes, told);
            }
            Incoming::End(run) if run == self.run => {
                self.has_ended = true;
                // A subject that ends its side has ended the link: it may wait for this end to do the same.
                self.end();
            }
            Incoming::Wire(..) | Incoming::End(_) => {}
            Incoming::ShimEnd => return Err(self.broken("the shim has ended")),
            Incoming::Line(line) => {
                let kept = self.transcript.as_ref().map_or(Ok(()), |transcript| transcript.write("from", &line));
                kept.map_err(|message| self.broken(message))?;
                let value: Value = parsed(&line).map_err(|message| self.broken(message))?;
                if value.get("event").is_none() {
                    return parsed(&line).map(Some).map_err(|message| self.broken(message));
                }
                let event: Event = parsed(&line).map_err(|message| self.broken(message))?;
                // When it came says little here: no step is the one that it belongs to.
                told.event(event, 0);
            }
        }
        Ok(None)
    }

    /// What comes on the connection: bytes of the link, but for what is in TLS.
    fn take_wire(&mut self, bytes: &[u8], told: &mut Told) {
        let clear = if self.agrees { (HELLO_BYTES - self.heard).min(bytes.len()) } else { bytes.len() };
        let (clear, inside) = bytes.split_at(clear);
        self.heard += if self.agrees { clear.len() } else { 0 };
        told.seen.sent.extend(told.reader.take(clear));
        let Some(session) = &mut self.session else { return self.held.extend_from_slice(inside) };
        match session.receive(inside) {
            Ok((plain, has_ended)) => {
                told.seen.sent.extend(told.reader.take(&plain));
                self.flush();
                if has_ended {
                    self.has_ended = true;
                    self.end();
                }
            }
            Err(message) => {
                self.tls_error.get_or_insert(message);
                self.flush();
                self.has_ended = true;
                self.end();
            }
        }
    }

    /// Sends what the TLS layer has to send.
    fn flush(&mut self) {
        if let (Some(session), Some(socket)) = (&mut self.session, &mut self.socket) {
            socket.send(&session.output());
        }
    }

    /// Tells the subject that no more will come.
    fn end(&mut self) {
        if let Some(session) = &mut self.session {
            session.end();
            self.flush();
        }
        if let Some(socket) = &self.socket {
            socket.end();
        }
    }

    /// Does the TLS handshake.
    fn establish(&mut self, told: &mut Told) -> Done {
        let expected = "the TLS handshake is done";
        let wrong =
            |message: String| Mismatch { rule: Some("R-tls-boundary"), ..Mismatch::new("tls", expected, message) };
        if self.role == Role::Server && !self.held.is_empty() {
            let count = self.held.len();
            return Err(wrong(format!("{count} bytes behind its hello, before the client began with TLS")));
        }
        let tls = self.tls.as_ref().ok_or_else(|| Mismatch::new("suite", expected, "the suite has no TLS here"))?;
        let session = Session::new(tls, self.role).map_err(|message| Mismatch::new("suite", expected, message))?;
        self.session = Some(session);
        let held = std::mem::take(&mut self.held);
        self.take_wire(&held, told);
        self.flush();
        let until = Instant::now() + self.time.slack * self.patience;
        while self.session.as_ref().is_some_and(Session::is_handshaking) && !self.has_ended {
            if !self.take_one(until, told)? {
                return Err(wrong("it takes too long".into()));
            }
        }
        match &self.tls_error {
            Some(message) => Err(wrong(format!("the suite's TLS says: {message}"))),
            None if self.session.as_ref().is_some_and(Session::is_handshaking) => {
                Err(wrong("the connection has ended within it".into()))
            }
            None => Ok(()),
        }
    }

    /// Sends a command and waits for its answer.
    fn ask(&mut self, request: &Request, told: &mut Told) -> Result<Reply, Mismatch> {
        let Some(shim) = &mut self.shim else {
            return Ok(Reply { error: None, nack: None, listen: None });
        };
        let transcript = self.transcript.as_ref();
        let written = request.to_line().and_then(|line| {
            transcript.map_or(Ok(()), |kept| kept.write("to", &String::from_utf8_lossy(&line)))?;
            shim.write(&line)
        });
        written.map_err(|message| self.broken(message))?;
        let end = Instant::now() + self.timeout;
        loop {
            let reply = match self.incoming.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(incoming) => self.take(incoming, told)?,
                Err(_) => {
                    let millis = self.timeout.as_millis();
                    return Err(self.broken(format!("the shim did not answer within {millis} ms")));
                }
            };
            if let Some(reply) = reply {
                return match reply.nack {
                    Some(why) => Err(Mismatch::new("shim", "the shim has the command", format!("nack: {why}"))),
                    None => Ok(reply),
                };
            }
        }
    }

    fn ask_for_new(
        &mut self,
        scenario: &Scenario,
        connect: Option<String>,
        told: &mut Told,
    ) -> Result<Reply, Mismatch> {
        let reply = self.ask(&new_command(scenario, connect), told)?;
        // What the shim said before was about another connection.
        told.seen.events.clear();
        told.tickets.clear();
        Ok(reply)
    }

    fn connect(&mut self, scenario: &Scenario, told: &mut Told) -> Result<Socket, Mismatch> {
        let wrong = |message: String| Mismatch::new("shim", "a connection", message);
        if let Some(command) = &self.client {
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| wrong(error.to_string()))?;
            let addr = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
            let program = self
                .program
                .insert(Program::start(command, addr, requests(scenario).max(1), self.tls.as_ref()).map_err(wrong)?);
            let is_there = || program.is_there();
            return Socket::accept(&listener, self.timeout, self.run, &self.sender, is_there).map_err(wrong);
        }
        if self.server.is_none() && scenario.role == Role::Client {
            let listener = TcpListener::bind(("127.0.0.1", 0)).map_err(|error| wrong(error.to_string()))?;
            let addr = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
            self.ask_for_new(scenario, Some(addr.to_string()), told)?;
            return Socket::accept(&listener, self.timeout, self.run, &self.sender, || true).map_err(wrong);
        }
        let addr = match self.server {
            Some(addr) => addr,
            None => {
                let reply = self.ask_for_new(scenario, None, told)?;
                let listen = reply.listen.and_then(|listen| listen.parse().ok());
                listen.ok_or_else(|| self.broken("no address in `listen`"))?
            }
        };
        Socket::connect(addr, self.timeout, self.run, &self.sender).map_err(wrong)
    }
}

impl Subject for Tcp {
    fn replays(&self, scenario: &Scenario) -> Vec<Replay> {
        if self.client.is_some() {
            // A program is started for each.
            return [Replay::Whole, Replay::Cuts(1)].into_iter().take(1 + usize::from(scenario.replays)).collect();
        }
        let mut replays = vec![Replay::Whole];
        if scenario.replays {
            replays.extend([Replay::Cuts(1), Replay::Cuts(2)]);
            // What is long in bytes or in time is not run so often.
            if fed_bytes(&scenario.steps) <= SHORT && scenario.steps.last().is_none_or(|step| step.at == 0) {
                replays.push(Replay::Bytes);
            }
        }
        replays
    }

    fn begin(&mut self, scenario: &Scenario, told: &mut Told) -> Done {
        (self.socket, self.program) = (None, None);
        self.run += 1;
        (self.has_ended, self.pauses, self.role) = (false, 0, scenario.role);
        (self.is_ahead, self.is_behind) = (false, false);
        (self.session, self.heard, self.tls_error, self.agrees) = (None, 0, None, agrees_on_tls(scenario));
        self.held.clear();
        self.socket = Some(self.connect(scenario, told)?);
        self.begin = Instant::now();
        Ok(())
    }

    fn advance(&mut self, to: u64, told: &mut Told) -> Done {
        let until = self.begin + Duration::from_micros(to);
        while Instant::now() < until {
            self.take_one(until, told)?;
        }
        Ok(())
    }

    fn feed(&mut self, piece: &[u8], told: &mut Told) -> Done {
        if self.is_behind {
            // A command is answered when the driver has it, which may be before the connection has it.
            self.settle(told)?;
        }
        self.is_ahead = true;
        if let Some(session) = &mut self.session {
            session.send(piece);
        }
        if let Some(socket) = &mut self.socket {
            match &mut self.session {
                Some(session) => socket.send(&session.output()),
                None => socket.send(piece),
            }
            if self.pauses < PAUSES {
                self.pauses += 1;
                std::thread::sleep(Duration::from_micros(50));
            }
        }
        Ok(())
    }

    fn feed_end(&mut self, told: &mut Told) -> Done {
        if self.is_behind {
            self.settle(told)?;
        }
        self.is_ahead = true;
        self.end();
        Ok(())
    }

    fn call(&mut self, request: &Request, told: &mut Told) -> Result<Answer, Mismatch> {
        if self.is_ahead {
            // What was fed comes by another way than the command, which must not overtake it.
            self.settle(told)?;
        }
        if let Request::TlsEstablished { .. } = request {
            // Time is real: it is established when it is, and no shim is told so.
            self.establish(told)?;
            return Ok(Answer::default());
        }
        let reply = self.ask(request, told)?;
        self.is_behind = true;
        Ok(Answer { error: reply.error, ..Answer::default() })
    }

    fn wait(&mut self, told: &mut Told, is_there: &dyn Fn(&Told, Option<matching::Socket>) -> bool) -> Done {
        let until = Instant::now().max(self.begin + Duration::from_micros(told.now)) + self.time.slack * self.patience;
        while !is_there(told, self.socket()) {
            if !self.take_one(until, told)? {
                return Ok(());
            }
        }
        (self.is_ahead, self.is_behind) = (false, false);
        Ok(())
    }

    fn settle(&mut self, told: &mut Told) -> Done {
        (self.is_ahead, self.is_behind) = (false, false);
        let until = Instant::now() + self.time.settle * self.patience;
        while self.take_one(until, told)? {}
        Ok(())
    }

    fn haste(&self) -> u64 {
        2 * self.time.settle.as_micros() as u64
    }

    fn socket(&self) -> Option<matching::Socket> {
        let codes = format!("{}-close-codes", self.role.name());
        Some(matching::Socket {
            has_ended: self.has_ended,
            has_codes: self.can.contains(&codes),
            is_black_box: self.server.is_some() || self.client.is_some(),
            has_own_mind: self.client.is_some(),
        })
    }

    fn be_patient(&mut self, times: u32) -> bool {
        self.patience = times;
        true
    }

    fn is_broken(&self) -> bool {
        self.is_broken
    }
}

/// How many bytes the steps feed, before compression.
fn fed_bytes(steps: &[Step]) -> usize {
    let of_step = |step: &Step| match &step.kind {
        StepKind::Feed(Feed::Wire(bytes) | Feed::Plain(bytes)) => bytes.len(),
        StepKind::Feed(Feed::Hello { .. }) => HELLO_BYTES,
        StepKind::Either(branches) => branches.iter().map(|branch| fed_bytes(branch)).max().unwrap_or(0),
        _ => 0,
    };
    steps.iter().map(of_step).sum()
}
