//! One link: two drivers, the wires between them, and what their connections should know of each request.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, ErrorKind, Limits, RequestError, RequestId,
    ResponseToken, ServerConfig, ServerConnection, ServerEvent,
};

use super::driver::Driver;
use super::ledger::{Ledger, Outcome};
use super::messages::{self, refusal, request_frame, response_frame};
use super::random::Random;
use super::scenario::Scenario;
use super::wire::Wire;

/// What the world should do because of what a connection said.
pub enum Todo {
    Tls {
        client: bool,
    },
    /// A handler has a request.
    Handle(usize),
    /// A wish may be sent again.
    Again(usize),
    ClientClosed,
}

pub struct Link {
    number: usize,
    pub client: Driver<ClientConnection>,
    pub server: Driver<ServerConnection>,
    pub up: Wire,
    pub down: Wire,
    /// How the client compresses, how the server does.
    pub compressions: (Compression, Compression),
    pub client_limits: Limits,
    pub server_limits: Limits,
    /// Tags by id: of requests that wait, that were given up without a response, of all.
    pending: BTreeMap<u32, (usize, RequestId)>,
    abandoned: BTreeMap<u32, usize>,
    ids: BTreeMap<u32, (usize, RequestId)>,
    tokens: BTreeMap<usize, Held>,
    held: usize,
    /// Tags of answers that the server has taken, and that the client has got.
    pub answered: BTreeSet<usize>,
    pub got: BTreeSet<usize>,
    /// Tags of requests that ended with the link.
    pub failed: BTreeSet<usize>,
    last_seen: Option<usize>,
    /// By tag.
    deadlines: BTreeMap<usize, Instant>,
}

struct Held {
    token: ResponseToken,
    request: Request<Bytes>,
    bytes: usize,
}

impl Link {
    pub fn new(number: usize, scenario: &Scenario, now: Instant) -> Self {
        let (client, server): (&ClientConfig, &ServerConfig) = (&scenario.client, &scenario.server);
        let mut connection = ClientConnection::new(client.clone(), now);
        connection.set_next_id(scenario.first_id);
        Self {
            number,
            client: Driver::new(connection, &client.config, &scenario.manners[0], now),
            server: Driver::new(ServerConnection::new(server.clone(), now), &server.config, &scenario.manners[1], now),
            up: Wire::new(scenario.wires[0].clone()),
            down: Wire::new(scenario.wires[1].clone()),
            compressions: (client.config.compression, server.config.compression),
            client_limits: client.config.limits.clone(),
            server_limits: server.config.limits.clone(),
            pending: BTreeMap::new(),
            abandoned: BTreeMap::new(),
            ids: BTreeMap::new(),
            tokens: BTreeMap::new(),
            held: 0,
            answered: BTreeSet::new(),
            got: BTreeSet::new(),
            failed: BTreeSet::new(),
            last_seen: None,
            deadlines: BTreeMap::new(),
        }
    }

    // The caller's commands.

    /// Whether the client takes wishes.
    pub fn is_open(&self) -> bool {
        let open = self.client.closed.is_none() && self.client.close_told.is_none();
        assert_eq!(self.client.conn.is_closing(), !open);
        open
    }

    /// Sends a request, or learns why not: exactly for the reasons that there are.
    pub fn request(&mut self, now: Instant, ledger: &mut Ledger, wish: usize, deadline: Option<Duration>) -> bool {
        let tag = ledger.next_tag();
        let request = messages::request(tag, ledger.wishes[wish].method, ledger.wishes[wish].body.clone());
        let is_full = self.pending.len() >= self.client_limits.pending_requests;
        let refusal = self.refusal().or(is_full.then_some("pending-overflow"));
        let deadline = deadline.map(|wait| now + wait);
        match self.client.conn.send_request(now, &request, deadline) {
            Ok(id) => {
                assert_eq!(refusal.or(self.too_large(&request)), None, "law 6: request {tag} is taken");
                let number = id.get();
                assert!(!self.abandoned.contains_key(&number), "law 2: the id {number} is abandoned");
                let before = self.pending.insert(number, (tag, id));
                assert_eq!(before, None, "law 2: the id {number} is in use");
                self.ids.insert(number, (tag, id));
                self.client.deadlines.extend(deadline.map(|deadline| (number, deadline)));
                self.deadlines.extend(deadline.map(|deadline| (tag, deadline)));
                self.client.outbox.push(now, number, tag, request_frame(&request));
                ledger.sent(wish, self.number, request, false);
                true
            }
            Err(error) => {
                assert_eq!(Some(error.code()), refusal.or(self.too_large(&request)), "law 6");
                false
            }
        }
    }

    pub fn oneway(&mut self, now: Instant, ledger: &mut Ledger, body: Bytes) {
        let tag = ledger.next_tag();
        let request = messages::request(tag, "POST", body);
        let refusal = self.refusal().or(self.too_large(&request));
        match self.client.conn.send_oneway(now, &request) {
            Ok(()) => {
                assert_eq!(refusal, None, "law 6: oneway {tag} is taken");
                self.client.outbox.push(now, 0, tag, request_frame(&request));
                let wish = ledger.wish("POST", request.body().clone(), false);
                ledger.end(wish, Outcome::Handed);
                ledger.sent(wish, self.number, request, true);
            }
            Err(error) => assert_eq!(Some(error.code()), refusal, "law 6"),
        }
    }

    fn refusal(&self) -> Option<&'static str> {
        if !self.is_open() { Some("closing") } else { self.client.outbox.is_full().then_some("output-full") }
    }

    fn too_large(&self, request: &Request<Bytes>) -> Option<&'static str> {
        (request.body().len() > self.client_limits.body_bytes).then_some("body-too-large")
    }

    /// Gives a request up that may have ended long ago.
    pub fn cancel(&mut self, now: Instant, ledger: &mut Ledger, random: &mut Random) {
        let from = if random.percent(90) { &self.pending } else { &self.ids };
        if from.is_empty() {
            return;
        }
        let (&number, &(_, id)) = from.iter().nth(random.within(0..from.len())).unwrap();
        let was_pending = self.pending.remove(&number);
        assert_eq!(self.client.conn.cancel(now, id), was_pending.is_some(), "law 1: the cancelled request was pending");
        let Some((tag, _)) = was_pending else { return };
        self.client.deadlines.remove(&number);
        let begun = self.client.outbox.has_begun(number);
        if begun {
            self.abandoned.insert(number, tag);
        } else {
            self.client.outbox.withdraw(number);
        }
        ledger.gave_up(tag, begun);
        ledger.end(ledger.attempts[tag].wish, Outcome::Cancelled);
    }

    // The handler's commands.

    /// Answers the request, or learns why not now; returns whether that is done with.
    pub fn answer(&mut self, now: Instant, ledger: &mut Ledger, tag: usize, status: u16, body: Bytes) -> bool {
        let Held { token, request, bytes } = self.tokens.remove(&tag).unwrap();
        let limit = self.server_limits.body_bytes;
        let response = messages::response(&request, status, body);
        let carried = if request.method() == Method::HEAD || messages::has_no_body(response.status()) {
            0
        } else {
            response.body().len()
        };
        let is_closed = self.server.conn.is_closed();
        let refusal = if is_closed {
            Some("closing")
        } else if self.server.outbox.is_full() {
            Some("output-full")
        } else {
            (carried > limit).then_some("body-too-large")
        };
        match self.server.conn.send_response(now, token, &response) {
            Ok(()) => {
                assert_eq!(refusal, None, "law 6: the answer to {tag} is taken");
                self.held -= bytes;
                self.server.outbox.push(now, 0, tag, response_frame(&response, request.method()));
                if self.server.close_told.is_some() {
                    // R-server-drain: without batch delay.
                    self.server.outbox.seal();
                }
                self.answered.insert(tag);
                ledger.answered(tag, response);
                true
            }
            Err(rejected) => {
                assert_eq!(Some(rejected.error.code()), refusal, "law 6");
                self.tokens.insert(tag, Held { token: rejected.token, request, bytes });
                if is_closed {
                    self.discard(tag);
                }
                is_closed
            }
        }
    }

    pub fn discard(&mut self, tag: usize) {
        let Held { token, bytes, .. } = self.tokens.remove(&tag).unwrap();
        self.held -= bytes;
        self.server.conn.discard(token);
    }

    // The drivers' turns.

    pub fn drive_client(&mut self, now: Instant, random: &mut Random, ledger: &mut Ledger) -> Vec<Todo> {
        let events = self.client.drive(now, random, &mut self.down, &mut self.up);
        let mut todo = Vec::new();
        for event in events {
            self.client_says(now, random, ledger, event, &mut todo);
        }
        if self.client.closed.is_none() {
            let conn = &self.client.conn;
            assert_eq!(conn.pending_requests(), self.pending.len(), "law 6: pending requests");
            assert_eq!(conn.abandoned_requests(), self.abandoned.len(), "law 6: abandoned requests");
            assert!(self.abandoned.len() <= self.client_limits.abandoned_requests, "law 6: abandoned requests");
            let reads = self.client.is_in_tls() || self.client.eof_told.is_some() || conn.wants_read();
            assert!(reads, "R-no-deadlock: the client does not read");
        }
        todo
    }

    fn client_says(
        &mut self,
        now: Instant,
        random: &mut Random,
        ledger: &mut Ledger,
        event: ClientEvent,
        todo: &mut Vec<Todo>,
    ) {
        match event {
            ClientEvent::Connected { .. } => {}
            ClientEvent::StartTls => todo.push(Todo::Tls { client: true }),
            ClientEvent::Response { id, response } => {
                let tag = self.end(id);
                self.got.insert(tag);
                ledger.responded(tag, &response);
            }
            ClientEvent::Failed { id, error } => {
                let tag = self.end(id);
                let wish = ledger.attempts[tag].wish;
                match error {
                    RequestError::Timeout { maybe_delivered } => {
                        if maybe_delivered {
                            self.abandoned.insert(id.get(), tag);
                        }
                        ledger.gave_up(tag, maybe_delivered);
                        let deadline = self.deadlines.get(&tag).expect("a deadline");
                        assert!(*deadline <= now, "law 4: request {tag} ends before its deadline");
                        ledger.end(wish, Outcome::Failed);
                    }
                    RequestError::Link { maybe_delivered, .. } => {
                        ledger.gave_up(tag, maybe_delivered);
                        self.failed.insert(tag);
                        if ledger.may_repeat(tag) && random.percent(80) {
                            todo.push(Todo::Again(wish));
                        } else {
                            ledger.end(wish, Outcome::Failed);
                        }
                    }
                    error => {
                        self.got.insert(tag);
                        ledger.refused(tag, &error, self.client_limits.body_bytes);
                    }
                }
            }
            ClientEvent::Unmatched { id } => {
                let tag = self.abandoned.remove(&id).expect("law 2: a response that answers nothing");
                assert!(self.answered.contains(&tag), "law 2: a response that nobody sent");
                self.got.insert(tag);
            }
            ClientEvent::Goodbye => panic!("law 2: a goodbye that nobody said"),
            ClientEvent::Closed { error } => {
                assert!(self.pending.is_empty(), "law 1: requests without an outcome at the end");
                if let Some(ErrorKind::AbandonedLimit(limit)) = error.as_ref().map(|error| error.kind()) {
                    assert!(self.abandoned.len() > *limit, "law 6: the limit of abandoned requests is not reached");
                }
                todo.push(Todo::ClientClosed);
            }
        }
    }

    fn end(&mut self, id: RequestId) -> usize {
        self.pending.remove(&id.get()).expect("law 1: an outcome of a request that waits").0
    }

    pub fn drive_server(&mut self, now: Instant, random: &mut Random, ledger: &mut Ledger) -> Vec<Todo> {
        let events = self.server.drive(now, random, &mut self.up, &mut self.down);
        let mut todo = Vec::new();
        for event in events {
            self.server_says(ledger, event, &mut todo);
        }
        if self.server.is_behind {
            return todo;
        }
        assert_eq!(self.server.conn.pending_requests(), self.tokens.len());
        let limits = &self.server_limits;
        assert!(self.tokens.len() <= limits.pending_requests, "law 6: requests in handlers");
        let ends = self.server.closed.is_some() || self.server.may_drain.is_some();
        if !ends && !self.server.conn.is_handshaking() {
            let is_full = self.tokens.len() >= limits.pending_requests || self.held >= limits.held_bytes;
            let reads = !is_full && !self.server.outbox.is_full();
            assert_eq!(self.server.conn.wants_read(), reads, "law 6: the server reads while there is room");
        }
        todo
    }

    fn server_says(&mut self, ledger: &mut Ledger, event: ServerEvent, todo: &mut Vec<Todo>) {
        match event {
            ServerEvent::Connected { .. } => {}
            ServerEvent::StartTls => todo.push(Todo::Tls { client: false }),
            ServerEvent::Request { token, request } => {
                let tag = ledger.seen(self.number, &request, false);
                assert_eq!(self.ids[&token.id()].0, tag, "law 2: the id of request {tag}");
                assert!(self.last_seen.replace(tag) < Some(tag), "requests arrive in order");
                assert!(self.held < self.server_limits.held_bytes, "law 6: bytes held by handlers");
                let bytes = request_frame(ledger.request(tag)) - 4 + request.headers().len() * Limits::FIELD_BYTES;
                self.held += bytes;
                self.tokens.insert(tag, Held { token, request, bytes });
                todo.push(Todo::Handle(tag));
            }
            ServerEvent::Oneway { request } => {
                let tag = ledger.seen(self.number, &request, true);
                assert!(self.last_seen.replace(tag) < Some(tag), "oneways arrive in order");
            }
            ServerEvent::Refused { id, error } => {
                assert_eq!(error.code(), "body-too-large");
                if id != 0 {
                    let tag = self.ids[&id].0;
                    assert!(ledger.request(tag).body().len() > self.server_limits.body_bytes);
                    ledger.delivered(tag);
                    ledger.answered(tag, refusal(&error));
                    self.answered.insert(tag);
                }
            }
            ServerEvent::Closed { error: None } => {
                assert!(self.tokens.is_empty(), "law 5: requests are unanswered at an orderly end");
                assert_eq!(self.server.outbox.waiting(), 0, "law 5: answers have not left at an orderly end");
            }
            ServerEvent::Closed { .. } => {}
        }
    }
}
