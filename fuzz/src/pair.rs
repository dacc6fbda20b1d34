//! A client and a server on a wire that loses nothing, driven by any sequence of commands, cuts and times, against a model:
//! each request has one outcome, each answer is to its question, no request runs twice, no timer that has fired is left; a
//! goodbye costs no request its answer, and a close is over by its deadline.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use arbitrary::{Arbitrary, Unstructured};
use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, ConnectionError, Limits, RequestError, RequestId,
    ResponseToken, ServerConfig, ServerConnection, ServerEvent, ServerTls, Timer,
};

use crate::links::dictionary;

#[derive(Arbitrary, Debug)]
struct Setup {
    /// Two bits each: the compressions of client and server; one: whether the client has a dictionary.
    compressions: u8,
    prefer_zstd: (bool, bool),
    tls: (bool, u8),
    batch_delay: u8,
    idle: Option<u8>,
    client_pending: u8,
    server_pending: u8,
    abandoned: u8,
    first_id: Option<u32>,
}

#[derive(Arbitrary, Debug)]
enum Step {
    Send {
        method: u8,
        body: u16,
        deadline: Option<u8>,
    },
    Oneway {
        body: u16,
    },
    Cancel {
        which: u8,
    },
    Respond {
        which: u8,
        body: u16,
    },
    Discard {
        which: u8,
    },
    /// So many bytes arrive at the server or the client, counted round the number of those that are under way.
    Carry {
        up: bool,
        bytes: u16,
    },
    CarryAll,
    Advance {
        millis: u16,
    },
    Flush {
        client: bool,
    },
    Level {
        client: bool,
        level: u8,
    },
    Close {
        client: bool,
    },
    CloseBy {
        client: bool,
        millis: u16,
    },
    Goodbye,
    /// Has no memory for bodies that are not there yet, or has.
    Shed {
        client: bool,
        shed: bool,
    },
    Eof {
        up: bool,
    },
    Fail {
        client: bool,
    },
}

/// A request in the model.
#[derive(Default)]
struct Asked {
    head: bool,
    id: Option<RequestId>,
    /// Has no outcome yet.
    open: bool,
    /// It never was and never will be delivered.
    undelivered: bool,
    seen: bool,
    discarded: bool,
    /// The server had no memory for it.
    refused: bool,
    body: Vec<u8>,
}

struct World {
    now: Instant,
    client: ClientConnection,
    server: ServerConnection,
    up: Vec<u8>,
    down: Vec<u8>,
    eof: (bool, bool),
    /// By the number that its target names.
    asked: BTreeMap<u32, Asked>,
    open: BTreeMap<RequestId, u32>,
    tokens: Vec<(ResponseToken, u32)>,
    closed: (bool, bool),
    /// By when client and server are closed at the latest, if they were told to.
    due: (Option<Instant>, Option<Instant>),
    /// The server has said goodbye, and the client has read it.
    said: bool,
    heeded: bool,
    /// Nothing has happened by which a request could lose its answer.
    calm: bool,
    /// Client and server have ever been without memory.
    shed: (bool, bool),
}

/// How long a close may take unless told otherwise.
const DRAIN: Duration = Duration::from_secs(5);

/// The input is an arbitrary setup and steps.
pub fn check(input: &[u8]) {
    let mut bytes = Unstructured::new(input);
    let Ok(setup) = Setup::arbitrary(&mut bytes) else { return };
    let mut world = World::new(&setup);
    world.settle();
    for _ in 0..300 {
        if bytes.is_empty() {
            break;
        }
        let Ok(step) = Step::arbitrary(&mut bytes) else { break };
        world.step(&step);
        world.settle();
    }
    world.end();
}

fn body(number: u32, length: u16) -> Vec<u8> {
    let name = format!("<{number}>");
    name.bytes().cycle().take(usize::from(length) % 20_000).collect()
}

impl World {
    fn new(setup: &Setup) -> Self {
        let now = Instant::now();
        let compression = |code: u8| Compression::from_code(code & 3).expect("there are four");
        let config = |code, prefer_zstd, has_dictionary: bool, pending: u8| Config {
            compression: compression(code),
            prefer_zstd,
            dictionaries: has_dictionary.then(dictionary).into_iter().collect(),
            max_batch_delay: Duration::from_millis(u64::from(setup.batch_delay)),
            drain_timeout: DRAIN,
            idle_timeout: setup.idle.map(|idle| Duration::from_millis(u64::from(idle) * 50 + 1)),
            limits: Limits {
                pending_requests: usize::from(pending) + 1,
                abandoned_requests: usize::from(setup.abandoned),
                output_bytes: 65_536,
                held_bytes: 70_000,
                ..Limits::default()
            },
            ..Config::default()
        };
        let uses_dictionary = setup.compressions & 16 != 0;
        let client = config(setup.compressions, setup.prefer_zstd.0, uses_dictionary, setup.client_pending);
        let server = config(setup.compressions >> 2, setup.prefer_zstd.1, true, setup.server_pending);
        let tls = [ServerTls::Off, ServerTls::Optional, ServerTls::Required][usize::from(setup.tls.1 % 3)];
        let mut client = ClientConnection::new(ClientConfig { config: client, tls: setup.tls.0 }, now);
        if let Some(id) = setup.first_id {
            client.set_next_id(id);
        }
        Self {
            now,
            client,
            server: ServerConnection::new(ServerConfig { config: server, tls }, now),
            up: Vec::new(),
            down: Vec::new(),
            eof: (false, false),
            asked: BTreeMap::new(),
            open: BTreeMap::new(),
            tokens: Vec::new(),
            closed: (false, false),
            due: (None, None),
            said: false,
            heeded: false,
            calm: setup.idle.is_none(),
            shed: (false, false),
        }
    }

    fn step(&mut self, step: &Step) {
        self.calm &= !matches!(
            step,
            Step::Send { deadline: Some(_), .. }
                | Step::Cancel { .. }
                | Step::Discard { .. }
                | Step::Close { .. }
                | Step::CloseBy { .. }
                | Step::Eof { .. }
                | Step::Fail { .. }
        );
        match *step {
            Step::Send { method, body, deadline } => {
                let method = ["GET", "POST", "HEAD", "PUT"][usize::from(method % 4)];
                self.send(method, body, deadline.map(|millis| self.now + Duration::from_millis(millis.into())));
            }
            Step::Oneway { body } => self.oneway(body),
            Step::Cancel { which } => self.cancel(which.into()),
            Step::Respond { which, body } => self.respond(which.into(), body),
            Step::Discard { which } => {
                if !self.tokens.is_empty() {
                    let (token, number) = self.tokens.swap_remove(usize::from(which) % self.tokens.len());
                    self.asked.get_mut(&number).expect("it was asked").discarded = true;
                    self.server.discard(token);
                }
            }
            Step::Carry { up, bytes } => {
                // Mostly not all.
                let there = if up { self.up.len() } else { self.down.len() };
                self.carry(up, usize::from(bytes) % (there + 1));
            }
            Step::CarryAll => self.carry_all(),
            Step::Advance { millis } => self.advance(Duration::from_millis(millis.into())),
            Step::Flush { client: true } => self.client.flush(),
            Step::Flush { client: false } => self.server.flush(),
            Step::Level { client: true, level } => self.client.set_level(level % 9 + 1),
            Step::Level { client: false, level } => self.server.set_level(level % 9 + 1),
            Step::Close { client } => self.close(client, None),
            Step::CloseBy { client, millis } => {
                self.close(client, Some(self.now + Duration::from_millis(millis.into())));
            }
            Step::Goodbye => self.say_goodbye(),
            Step::Shed { client: true, shed } => {
                self.shed.0 |= shed;
                self.client.shed(shed);
            }
            Step::Shed { client: false, shed } => {
                self.shed.1 |= shed;
                self.server.shed(shed);
            }
            Step::Eof { up } => self.end_of_file(up),
            Step::Fail { client: true } => self.client.handle_transport_error(self.now),
            Step::Fail { client: false } => self.server.handle_transport_error(self.now),
        }
    }

    fn request(&self, method: &str, length: u16) -> (u32, Vec<u8>, Request<Bytes>) {
        let number = self.asked.len() as u32;
        let body = if matches!(method, "GET" | "HEAD") { Vec::new() } else { body(number, length) };
        let uri = format!("http://h/{number}");
        let request = Request::builder().method(method).uri(uri).body(Bytes::from(body.clone())).expect("well-formed");
        (number, body, request)
    }

    fn send(&mut self, method: &str, length: u16, deadline: Option<Instant>) {
        let (number, body, request) = self.request(method, length);
        let before = self.client.pending_requests();
        match self.client.send_request(self.now, &request, deadline) {
            Ok(id) => {
                assert!(!self.heeded, "no request is sent after a goodbye");
                assert!(self.open.insert(id, number).is_none(), "an id is of one request at a time");
                let asked = Asked { head: method == "HEAD", id: Some(id), open: true, body, ..Asked::default() };
                self.asked.insert(number, asked);
            }
            Err(error) => {
                assert!(["closing", "output-full", "pending-overflow"].contains(&error.code()), "{error}");
                assert_eq!(before, self.client.pending_requests());
            }
        }
    }

    fn oneway(&mut self, length: u16) {
        let (number, body, request) = self.request("POST", length);
        if self.client.send_oneway(self.now, &request).is_ok() {
            assert!(!self.heeded, "nothing is sent after a goodbye");
            self.asked.insert(number, Asked { body, ..Asked::default() });
        }
    }

    fn cancel(&mut self, which: usize) {
        let Some((id, number)) = self.open.iter().nth(which % self.open.len().max(1)).map(|(id, n)| (*id, *n)) else {
            return;
        };
        let abandoned = self.client.abandoned_requests();
        let was_closed = self.client.is_closed();
        assert!(self.client.cancel(self.now, id) || was_closed, "what is pending can be cancelled");
        if !was_closed {
            self.open.remove(&id);
            let undelivered = self.client.abandoned_requests() == abandoned && !self.client.is_closed();
            let asked = self.asked.get_mut(&number).expect("it was asked");
            (asked.open, asked.undelivered) = (false, undelivered);
        }
    }

    fn respond(&mut self, which: usize, length: u16) {
        if self.tokens.is_empty() {
            return;
        }
        let (token, number) = self.tokens.swap_remove(which % self.tokens.len());
        let response = Response::builder().header("x-number", number).body(Bytes::from(body(number, length)));
        match self.server.send_response(self.now, token, &response.expect("well-formed")) {
            Ok(()) => {}
            Err(rejected) => match rejected.error.code() {
                "output-full" => self.tokens.push((rejected.token, number)),
                code => {
                    assert!(code == "closing" && self.server.is_closed(), "{code}");
                    self.server.discard(rejected.token);
                }
            },
        }
    }

    fn close(&mut self, client: bool, deadline: Option<Instant>) {
        match (client, deadline) {
            (true, None) => self.client.close(self.now),
            (true, Some(deadline)) => self.client.close_by(self.now, deadline),
            (false, None) => self.server.close(self.now),
            (false, Some(deadline)) => self.server.close_by(self.now, deadline),
        }
        let due = if client { &mut self.due.0 } else { &mut self.due.1 };
        // Once begun it is only made shorter, and that by a deadline.
        *due = match (*due, deadline) {
            (Some(due), deadline) => Some(deadline.map_or(due, |deadline| due.min(deadline))),
            (None, deadline) => Some(deadline.unwrap_or(self.now + DRAIN)),
        };
    }

    /// Harmless at any time (R-goodbye).
    fn say_goodbye(&mut self) {
        self.said |= !self.server.is_handshaking() && !self.server.is_closed();
        self.server.say_goodbye(self.now);
    }

    fn carry(&mut self, up: bool, bytes: usize) -> bool {
        let wire = if up { &mut self.up } else { &mut self.down };
        let bytes = bytes.min(wire.len());
        let (taken, wants) = if up {
            (self.server.handle_input(self.now, &wire[..bytes]), self.server.wants_read())
        } else {
            (self.client.handle_input(self.now, &wire[..bytes]), self.client.wants_read())
        };
        assert!(taken == bytes || !wants, "input is left only when none is wanted");
        wire.drain(..taken);
        taken > 0
    }

    fn carry_all(&mut self) {
        for _ in 0..10_000 {
            let (up, down) = (self.carry(true, usize::MAX), self.carry(false, usize::MAX));
            self.settle();
            if !up && !down {
                return;
            }
        }
        panic!("bytes without end");
    }

    /// The sender has ended its direction, and all that it sent has come.
    fn end_of_file(&mut self, up: bool) {
        let (is_over, wire) = if up { (self.eof.0, &self.up) } else { (self.eof.1, &self.down) };
        if is_over || !wire.is_empty() {
            return;
        }
        if up {
            self.eof.0 = true;
            self.server.handle_eof(self.now);
        } else {
            self.eof.1 = true;
            self.client.handle_eof(self.now);
        }
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
        for next in [self.client.next_timer(), self.server.next_timer()].into_iter().flatten() {
            assert!(next.1 > self.now || next.0 == Timer::Input, "{next:?} is left over at {:?}", self.now);
        }
        assert!(self.due.0.is_none_or(|due| self.now < due) || self.client.is_closed(), "a client is closed by then");
        assert!(self.due.1.is_none_or(|due| self.now < due) || self.server.is_closed(), "a server is closed by then");
        if self.heeded && self.due.0.is_none() {
            let next = self.client.next_timer();
            assert!(!matches!(next, Some((Timer::Drain, _))), "the server has a drain time-out, its client has none");
        }
    }

    /// Takes what there is to take: bytes onto the wire, events into the model.
    fn settle(&mut self) {
        loop {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            let made = self.client.poll_transmit(self.now, &mut up) + self.server.poll_transmit(self.now, &mut down);
            // Behind an end of file there is nothing.
            if !self.eof.0 {
                self.up.append(&mut up);
            }
            if !self.eof.1 {
                self.down.append(&mut down);
            }
            let mut events = 0;
            while let Some(event) = self.client.poll_event() {
                events += 1;
                self.at_client(event);
            }
            while let Some(event) = self.server.poll_event() {
                events += 1;
                self.at_server(event);
            }
            assert_eq!(self.client.pending_requests(), self.open.len(), "pending are those without an outcome");
            assert_eq!(self.server.pending_requests(), self.tokens.len(), "pending are those with a token");
            if made == 0 && events == 0 {
                return;
            }
        }
    }

    fn at_client(&mut self, event: ClientEvent) {
        assert!(!self.closed.0, "no event follows `Closed`: {event:?}");
        match event {
            ClientEvent::Response { id, response } => {
                let number = self.open.remove(&id).expect("an answer is to what has none");
                let asked = self.asked.get_mut(&number).expect("it was asked");
                assert!(asked.open && asked.seen && !asked.discarded);
                asked.open = false;
                if asked.refused {
                    assert_eq!(response.status(), 503, "there was no memory");
                    return;
                }
                assert_eq!(response.headers()["x-number"], number.to_string(), "an answer is to its question");
                let got = response.body();
                assert!(!asked.head || got.is_empty());
                assert_eq!(*got, body(number, got.len() as u16));
            }
            ClientEvent::Failed { id, error } => {
                let number = self.open.remove(&id).expect("a failure is of what has no outcome");
                let asked = self.asked.get_mut(&number).expect("it was asked");
                asked.open = false;
                if let RequestError::Refused(error) = &error {
                    assert!(self.shed.0 && error.code() == "overload" && asked.seen, "{error}");
                    return;
                }
                let maybe_delivered = match error {
                    RequestError::Timeout { maybe_delivered } => maybe_delivered,
                    RequestError::Link { maybe_delivered, .. } => maybe_delivered,
                    error => panic!("{error:?} on a wire that loses nothing"),
                };
                assert!(maybe_delivered || !asked.seen, "what was delivered may have been");
                asked.undelivered = !maybe_delivered;
            }
            ClientEvent::StartTls => self.client.handle_tls_established(self.now),
            ClientEvent::Goodbye => {
                assert!(self.said && !self.heeded, "one goodbye is read if one was said");
                assert!(self.client.is_closing(), "it is heeded");
                self.heeded = true;
            }
            ClientEvent::Unmatched { id } => assert_ne!(id, 0, "a goodbye is known"),
            ClientEvent::Closed { error } => {
                self.closed.0 = true;
                self.calm &= !is_of_a_hello(error.as_ref());
                assert!(!self.calm || self.heeded && error.is_none(), "nothing ends it but a goodbye: {error:?}");
                assert!(error.as_ref().is_none_or(|error| is_of_a_clean_wire(error.code())), "{error:?}");
            }
            _ => {}
        }
    }

    fn seen(&mut self, request: &Request<Bytes>) -> u32 {
        let number = request.uri().path()[1..].parse().expect("a target names a number");
        let asked = self.asked.get_mut(&number).expect("what comes was sent");
        assert!(!std::mem::replace(&mut asked.seen, true), "a request runs once");
        assert!(!asked.undelivered, "what was not delivered does not come");
        assert_eq!(*request.body(), asked.body, "a body is that of its request");
        number
    }

    /// A request with this id was refused: of all that have had the id the one that was sent last.
    fn refused(&mut self, id: u32) {
        if id == 0 {
            // Which of the oneways nobody is told.
            self.calm = false;
            return;
        }
        let mut with_id = self.asked.values_mut().filter(|asked| asked.id.map(RequestId::get) == Some(id));
        let asked = with_id.next_back().expect("what comes was sent");
        assert!(!std::mem::replace(&mut asked.seen, true), "a request runs once, or is refused");
        assert!(!asked.undelivered, "what was not delivered does not come");
        asked.refused = true;
    }

    fn at_server(&mut self, event: ServerEvent) {
        assert!(!self.closed.1, "no event follows `Closed`: {event:?}");
        match event {
            ServerEvent::Request { token, request } => {
                let number = self.seen(&request);
                assert_eq!(self.asked[&number].id.map(RequestId::get), Some(token.id()));
                self.tokens.push((token, number));
            }
            ServerEvent::Oneway { request } => {
                let number = self.seen(&request);
                assert!(self.asked[&number].id.is_none());
            }
            ServerEvent::Refused { id, error } => {
                assert!(self.shed.1 && error.code() == "overload", "{error} of what a client sent");
                self.refused(id);
            }
            ServerEvent::StartTls => self.server.handle_tls_established(self.now),
            ServerEvent::Closed { error } => {
                self.closed.1 = true;
                self.calm &= !is_of_a_hello(error.as_ref());
                assert!(!self.calm || error.is_none(), "its client has all answers: {error:?}");
                assert!(error.as_ref().is_none_or(|error| is_of_a_clean_wire(error.code())), "{error:?}");
            }
            _ => {}
        }
    }

    /// All that waits comes to its end, whatever happened before.
    fn end(mut self) {
        let mut quiet = 0;
        for _ in 0..20_000 {
            self.carry_all();
            let before = self.tokens.len();
            self.respond(0, 10);
            self.settle();
            let is_quiet = before == 0 && self.up.is_empty() && self.down.is_empty();
            quiet = if is_quiet { quiet + 1 } else { 0 };
            // A batch may wait for its time.
            if quiet > 3 {
                break;
            }
            if self.tokens.len() >= before {
                self.advance(Duration::from_millis(300));
            }
        }
        self.end_in_calm();
        self.calm = false;
        self.client.close(self.now);
        self.server.close(self.now);
        self.settle();
        self.advance(Duration::from_secs(6));
        self.settle();
        self.client.handle_transport_error(self.now);
        self.server.handle_transport_error(self.now);
        self.settle();
        assert!(self.closed.0 && self.closed.1, "both ends are closed");
        assert!(self.open.is_empty(), "each request has an outcome");
        assert!(self.asked.values().all(|asked| !asked.open));
    }

    /// Where nothing was in the way all has been answered, also behind a goodbye, by which the link ends in order.
    fn end_in_calm(&mut self) {
        if !self.calm || self.client.is_handshaking() || self.server.is_handshaking() {
            return;
        }
        assert!(
            self.asked.values().all(|asked| asked.seen && !asked.open),
            "each request is answered, each oneway seen"
        );
        assert_eq!(self.said, self.heeded, "a goodbye is read");
        assert_eq!(self.said, self.closed.0, "its reader is done, and closes");
        if self.said {
            self.end_of_file(true);
            self.settle();
            assert!(self.closed.1, "so does the server then");
        }
    }
}

/// Whether a link ended before it began.
fn is_of_a_hello(error: Option<&ConnectionError>) -> bool {
    error.is_some_and(|error| {
        let code = error.code();
        code.starts_with("hello-") || code.starts_with("tls-") || code == "zstd-refused" || code == "transport"
    })
}

/// The codes with which a link may end on which no byte is changed.
fn is_of_a_clean_wire(code: &str) -> bool {
    [
        "abandoned-limit",
        "closed",
        "drain-timeout",
        "hello-timeout",
        "hello-truncated",
        "idle-timeout",
        "tls-refused",
        "tls-required",
        "tls-unavailable",
        "transport",
        "truncated",
        "zstd-refused",
    ]
    .contains(&code)
}
