//! A client and a server joined in memory, under virtual time: laws that hold for every script of operations, however
//! the bytes arrive.

#![allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]

mod support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Limits, RequestError, RequestId, ResponseToken,
    ServerConfig, ServerConnection, ServerEvent,
};
use proptest::prelude::*;
use support::*;

const MS: Duration = Duration::from_millis(1);
const METHODS: [&str; 5] = ["GET", "HEAD", "POST", "PUT", "DELETE"];
const STATUSES: [u16; 7] = [200, 204, 304, 404, 500, 599, 201];

/// One step of a script. Indices are taken modulo what there is.
#[derive(Clone, Debug)]
enum Op {
    Request {
        method: usize,
        body: usize,
        deadline: Option<u32>,
    },
    Oneway {
        body: usize,
    },
    Cancel(usize),
    Answer {
        which: usize,
        status: usize,
        body: usize,
    },
    Discard(usize),
    Pass(u32),
    Flush {
        client: bool,
    },
    Close {
        client: bool,
    },
    /// The server says that it will close.
    Goodbye,
    /// Bytes move, to the server or to the client.
    Deliver {
        up: bool,
        bytes: usize,
    },
    /// The direction ends here: what is on its way is lost.
    Cut {
        up: bool,
    },
    Broken {
        client: bool,
    },
    /// The counter of ids comes round again.
    Wrap,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let body = prop_oneof![6 => Just(0usize), 6 => 1usize..200, 1 => 1usize..100_000];
    let deadline = prop_oneof![2 => Just(None), 1 => (0u32..60).prop_map(Some)];
    let op = prop_oneof![
        24 => (0usize..5, body.clone(), deadline)
            .prop_map(|(method, body, deadline)| Op::Request { method, body, deadline }),
        6 => body.clone().prop_map(|body| Op::Oneway { body }),
        6 => (0usize..50).prop_map(Op::Cancel),
        24 => (0usize..50, 0usize..7, body).prop_map(|(which, status, body)| Op::Answer { which, status, body }),
        2 => (0usize..50).prop_map(Op::Discard),
        16 => (0u32..40).prop_map(Op::Pass),
        6 => any::<bool>().prop_map(|client| Op::Flush { client }),
        48 => (any::<bool>(), prop_oneof![1usize..60, 1usize..200_000])
            .prop_map(|(up, bytes)| Op::Deliver { up, bytes }),
        3 => Just(Op::Wrap),
        1 => any::<bool>().prop_map(|client| Op::Close { client }),
        1 => Just(Op::Goodbye),
        1 => prop_oneof![
            any::<bool>().prop_map(|up| Op::Cut { up }),
            any::<bool>().prop_map(|client| Op::Broken { client })
        ],
    ];
    proptest::collection::vec(op, 1..120)
}

#[derive(Clone, Debug)]
struct Setting {
    compressions: [usize; 2],
    delays: [u32; 2],
    pending: [usize; 2],
    first_id: u32,
}

fn settings() -> impl Strategy<Value = Setting> {
    let delay = || prop_oneof![Just(0u32), 1u32..30];
    let first_id = prop_oneof![Just(1u32), Just(u32::MAX - 3)];
    ([0usize..3, 0usize..3], [delay(), delay()], [1usize..20, 1usize..6], first_id)
        .prop_map(|(compressions, delays, pending, first_id)| Setting { compressions, delays, pending, first_id })
}

impl Setting {
    fn config(&self, side: usize) -> Config {
        Config {
            compression: Compression::ALL[self.compressions[side]],
            max_batch_delay: self.delays[side] * MS,
            limits: Limits { pending_requests: self.pending[side], ..Limits::default() },
            ..Config::default()
        }
    }

    fn client(&self, now: Instant) -> ClientConnection {
        let mut client = ClientConnection::new(ClientConfig { config: self.config(0), tls: false }, now);
        client.set_next_id(self.first_id);
        client
    }
}

/// What was done to the client, to do it again with other cuts.
enum Done {
    Request(Request<Bytes>, Option<Instant>),
    Oneway(Request<Bytes>),
    Cancel(RequestId),
    Flush,
    Close,
    Feed(Vec<u8>),
    Eof,
    Timeout,
    Broken,
    Wrap,
    Poll,
}

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
    eof_told: bool,
}

struct Sent {
    id: RequestId,
    method: &'static str,
    outcomes: usize,
    /// How much the client had written when it took the request: more means that the request has left.
    written: usize,
}

struct Sim {
    now: Instant,
    setting: Setting,
    client: ClientConnection,
    server: ServerConnection,
    up: Pipe,
    down: Pipe,
    /// By number, which the target and the response's `x-tag` echo.
    sent: BTreeMap<usize, Sent>,
    /// Requests that hold an id: pending or abandoned.
    by_id: BTreeMap<u32, usize>,
    abandoned: BTreeSet<u32>,
    tags: usize,
    seen: BTreeSet<usize>,
    last_oneway: usize,
    tokens: Vec<(ResponseToken, usize)>,
    answers: BTreeMap<usize, (u16, Bytes)>,
    unsent: BTreeSet<usize>,
    closed: [bool; 2],
    done: Vec<(Instant, Done)>,
    /// What the client said and wrote.
    lines: Vec<String>,
    written: Vec<u8>,
    /// How much it had written when this step began: events are judged by that, not by what leaves with them.
    mark: usize,
}

impl Sim {
    fn new(setting: &Setting) -> Self {
        let now = Instant::now();
        let mut sim = Self {
            now,
            client: setting.client(now),
            server: ServerConnection::new(ServerConfig { config: setting.config(1), ..ServerConfig::default() }, now),
            setting: setting.clone(),
            up: Pipe::default(),
            down: Pipe::default(),
            sent: BTreeMap::new(),
            by_id: BTreeMap::new(),
            abandoned: BTreeSet::new(),
            tags: 0,
            seen: BTreeSet::new(),
            last_oneway: 0,
            tokens: Vec::new(),
            answers: BTreeMap::new(),
            unsent: BTreeSet::new(),
            closed: [false; 2],
            done: Vec::new(),
            lines: Vec::new(),
            written: Vec::new(),
            mark: 0,
        };
        sim.drain();
        sim
    }

    fn body(tag: usize, length: usize) -> Bytes {
        format!("{tag}.").bytes().cycle().take(length).collect::<Vec<_>>().into()
    }

    fn step(&mut self, op: Op) {
        self.mark = self.written.len();
        match op {
            Op::Request { method, body, deadline } => self.request(METHODS[method], body, deadline),
            Op::Oneway { body } => {
                self.tags += 1;
                let request = request("POST", &format!("/{}", self.tags), Self::body(self.tags, body));
                let sent = self.client.send_oneway(self.now, &request);
                assert!(sent.is_ok() || sent.unwrap_err().code() == "closing");
                self.done.push((self.now, Done::Oneway(request)));
            }
            Op::Cancel(which) => {
                let Some(id) = self.sent.values().nth(which).map(|sent| sent.id) else { return };
                // The number may belong to a later request by now (`RequestId`): then that one is given up.
                let pending = self.by_id.contains_key(&id.get()) && !self.abandoned.contains(&id.get());
                assert_eq!(self.client.cancel(self.now, id), pending);
                self.done.push((self.now, Done::Cancel(id)));
                if pending {
                    let tag = self.outcome(id).0;
                    self.give_up(id, tag);
                }
            }
            Op::Answer { which, status, body } if !self.tokens.is_empty() => {
                let (token, tag) = self.tokens.swap_remove(which % self.tokens.len());
                let mut response = response(STATUSES[status], Self::body(tag, body));
                response.headers_mut().insert("x-tag", tag.into());
                match self.server.send_response(self.now, token, &response) {
                    Ok(()) => {
                        let answer = (STATUSES[status], response.into_body());
                        assert!(self.answers.insert(tag, answer).is_none(), "answered twice");
                    }
                    Err(rejected) => assert!(self.server.is_closed() && rejected.error.code() == "closing"),
                }
            }
            Op::Discard(which) if !self.tokens.is_empty() => {
                let (token, _) = self.tokens.swap_remove(which % self.tokens.len());
                self.server.discard(token);
            }
            Op::Answer { .. } | Op::Discard(_) => {}
            Op::Pass(ms) => self.pass(ms * MS),
            Op::Flush { client: true } => {
                self.client.flush();
                self.done.push((self.now, Done::Flush));
            }
            Op::Flush { client: false } => self.server.flush(),
            Op::Close { client: true } => {
                self.client.close(self.now);
                self.done.push((self.now, Done::Close));
            }
            Op::Close { client: false } => self.server.close(self.now),
            Op::Goodbye => self.server.say_goodbye(self.now),
            Op::Deliver { up, bytes } => self.deliver(up, bytes),
            Op::Cut { up } => {
                let pipe = if up { &mut self.up } else { &mut self.down };
                pipe.bytes.clear();
                pipe.ended = true;
            }
            Op::Broken { client: true } => {
                self.client.handle_transport_error(self.now);
                self.done.push((self.now, Done::Broken));
            }
            Op::Wrap => {
                self.client.set_next_id(self.setting.first_id);
                self.done.push((self.now, Done::Wrap));
            }
            Op::Broken { client: false } => self.server.handle_transport_error(self.now),
        }
        self.drain();
    }

    fn request(&mut self, method: &'static str, body: usize, deadline: Option<u32>) {
        self.tags += 1;
        let length = if matches!(method, "GET" | "HEAD") { 0 } else { body };
        let request = request(method, &format!("/{}", self.tags), Self::body(self.tags, length));
        let deadline = deadline.map(|ms| self.now + ms * MS);
        let pending = self.client.pending_requests();
        match self.client.send_request(self.now, &request, deadline) {
            Ok(id) => {
                assert!(pending < self.setting.pending[0], "R-limit-pending");
                let holder = self.by_id.insert(id.get(), self.tags);
                assert_eq!(holder, None, "id {} is reserved (R-id-unique)", id.get());
                self.sent.insert(self.tags, Sent { id, method, outcomes: 0, written: self.written.len() });
            }
            Err(error) if error.code() == "pending-overflow" => assert_eq!(pending, self.setting.pending[0]),
            Err(error) => assert_eq!(error.code(), "closing"),
        }
        self.done.push((self.now, Done::Request(request, deadline)));
    }

    /// Time goes by, and the timers are told.
    fn pass(&mut self, by: Duration) {
        self.now += by;
        self.client.handle_timeout(self.now);
        self.server.handle_timeout(self.now);
        self.done.push((self.now, Done::Timeout));
        for at in [self.client.poll_timeout(), self.server.poll_timeout()].into_iter().flatten() {
            assert!(at > self.now, "no timer at or before the time told");
        }
    }

    fn deliver(&mut self, up: bool, bytes: usize) {
        let pipe = if up { &mut self.up } else { &mut self.down };
        let piece: Vec<u8> = pipe.bytes.drain(..bytes.min(pipe.bytes.len())).collect();
        let wants_read = if up { self.server.wants_read() } else { self.client.wants_read() };
        let taken = match (up, wants_read) {
            _ if piece.is_empty() => 0,
            (_, false) => 0,
            (true, _) => self.server.handle_input(self.now, &piece),
            (false, _) => self.client.handle_input(self.now, &piece),
        };
        let still = if up { self.server.wants_read() } else { self.client.wants_read() };
        assert!(taken == piece.len() || !still, "R-backpressure: all is taken, or no more is wanted");
        if !up && taken > 0 {
            self.done.push((self.now, Done::Feed(piece[..taken].to_vec())));
        }
        let over = if up { self.server.is_closed() } else { self.client.is_closed() };
        let pipe = if up { &mut self.up } else { &mut self.down };
        if !over {
            piece[taken..].iter().rev().for_each(|byte| pipe.bytes.push_front(*byte));
        }
        if pipe.bytes.is_empty() && pipe.ended && !pipe.eof_told {
            pipe.eof_told = true;
            if up {
                self.server.handle_eof(self.now);
            } else {
                self.client.handle_eof(self.now);
                self.done.push((self.now, Done::Eof));
            }
        }
    }

    /// Takes all outputs, in the order of the contract, until no timer is due any more.
    fn drain(&mut self) {
        self.poll();
        loop {
            let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= self.now);
            let due = [is_due(self.client.poll_timeout()), is_due(self.server.poll_timeout())];
            if due == [false; 2] {
                return;
            }
            self.mark = self.written.len();
            if due[0] {
                self.client.handle_timeout(self.now);
                self.done.push((self.now, Done::Timeout));
            }
            if due[1] {
                self.server.handle_timeout(self.now);
            }
            self.poll();
        }
    }

    fn poll(&mut self) {
        let start = self.written.len();
        self.client.poll_transmit(self.now, &mut self.written);
        self.done.push((self.now, Done::Poll));
        if !self.up.ended {
            self.up.bytes.extend(&self.written[start..]);
        }
        while let Some(event) = self.client.poll_event() {
            self.client_says(event);
        }
        let out = transmit(|out| self.server.poll_transmit(self.now, out));
        if !self.down.ended {
            self.down.bytes.extend(out);
        }
        while let Some(event) = self.server.poll_event() {
            self.server_says(event);
        }
        self.up.ended |= self.client.is_closed();
        self.down.ended |= self.server.is_closed();
        assert_eq!(self.client.poll_timeout(), self.client.next_timer().map(|(_, at)| at));
        assert_eq!(self.server.poll_timeout(), self.server.next_timer().map(|(_, at)| at));
    }

    /// A request's outcome has come: R-outcome-once.
    fn outcome(&mut self, id: RequestId) -> (usize, &'static str) {
        let tag = *self.by_id.get(&id.get()).expect("an outcome of a request that was made");
        assert!(!self.abandoned.contains(&id.get()), "an outcome after time-out or cancellation");
        let sent = self.sent.get_mut(&tag).unwrap();
        sent.outcomes += 1;
        assert_eq!((sent.outcomes, sent.id), (1, id), "exactly one outcome");
        (tag, sent.method)
    }

    fn has_left(&self, tag: usize) -> bool {
        self.mark > self.sent[&tag].written
    }

    /// R-deadline: what has left holds its id until its response; what has not never used it (4.2).
    fn give_up(&mut self, id: RequestId, tag: usize) {
        if self.has_left(tag) {
            self.abandoned.insert(id.get());
        } else {
            self.by_id.remove(&id.get());
            self.unsent.insert(tag);
        }
    }

    fn client_says(&mut self, event: ClientEvent) {
        self.lines.push(client_line(&event));
        assert!(!self.closed[0], "nothing is delivered after Closed");
        match event {
            ClientEvent::Connected { .. } => {}
            ClientEvent::Response { id, response } => {
                let (tag, method) = self.outcome(id);
                self.by_id.remove(&id.get());
                self.check_answer(tag, method, &response);
            }
            ClientEvent::Failed { id, error } => {
                let (tag, _) = self.outcome(id);
                let (timeout, maybe) = match error {
                    RequestError::Timeout { maybe_delivered } => (true, maybe_delivered),
                    RequestError::Link { maybe_delivered, .. } => (false, maybe_delivered),
                    other => panic!("our own server's response was refused: {other:?}"),
                };
                assert_eq!(maybe, self.has_left(tag), "R-fail-in-flight");
                self.give_up(id, tag);
                if !timeout {
                    self.abandoned.remove(&id.get());
                    self.by_id.remove(&id.get());
                }
            }
            ClientEvent::Unmatched { id } => {
                // R-response-abandoned: only now is the id free.
                assert!(self.abandoned.remove(&id), "a response that answers nothing");
                let tag = self.by_id.remove(&id).unwrap();
                assert!(self.answers.contains_key(&tag));
            }
            // R-goodbye-heed
            ClientEvent::Goodbye => assert!(self.client.is_closing()),
            ClientEvent::Closed { .. } => self.closed[0] = true,
            other => panic!("{other:?}"),
        }
    }

    fn check_answer(&self, tag: usize, method: &str, response: &Response<Bytes>) {
        let (status, body) = &self.answers[&tag];
        assert_eq!(response.headers()["x-tag"], tag.to_string(), "the response of another request");
        assert_eq!(response.status().as_u16(), *status);
        let length = response.headers().get("content-length").map(|v| v.to_str().unwrap().to_owned());
        let empty = method == "HEAD" || matches!(status, 204 | 304);
        assert!(if empty { response.body().is_empty() } else { response.body() == body });
        // R-head-response: of a body that is not there, a HEAD is told `none`.
        let untold = matches!(status, 204 | 304) || (method == "HEAD" && body.is_empty());
        assert_eq!(length, (!untold).then(|| body.len().to_string()), "{method} {status}");
    }

    fn server_says(&mut self, event: ServerEvent) {
        assert!(!self.closed[1], "nothing is delivered after Closed");
        let tag_of = |request: &Request<Bytes>| request.uri().path()[1..].parse::<usize>().unwrap();
        match event {
            ServerEvent::Connected { .. } => {}
            ServerEvent::Request { token, request } => {
                let tag = tag_of(&request);
                assert!(self.seen.insert(tag), "a request is seen at most once");
                assert_eq!((token.id(), request.method().as_str()), {
                    let sent = &self.sent[&tag];
                    (sent.id.get(), sent.method)
                });
                assert!(*request.body() == Self::body(tag, request.body().len()));
                self.tokens.push((token, tag));
                assert!(self.server.pending_requests() <= self.setting.pending[1], "R-backpressure");
            }
            ServerEvent::Oneway { request } => {
                assert!(tag_of(&request) > self.last_oneway, "oneways come once and in order");
                self.last_oneway = tag_of(&request);
            }
            ServerEvent::Closed { .. } => self.closed[1] = true,
            other => panic!("our own client's request was refused: {other:?}"),
        }
    }

    /// Lets everything end, and checks that it does.
    fn finish(&mut self) {
        for round in 0..40 {
            // A server that is full takes one request for each that it answers, so a round is over when nothing moves.
            loop {
                let before = (self.up.bytes.len(), self.down.bytes.len(), self.tokens.len());
                self.step(Op::Deliver { up: true, bytes: usize::MAX });
                self.step(Op::Deliver { up: false, bytes: usize::MAX });
                // Some are left without an answer.
                while self.tokens.len() > usize::from(round < 20) {
                    self.step(Op::Answer { which: 0, status: 0, body: 5 });
                }
                if before == (self.up.bytes.len(), self.down.bytes.len(), self.tokens.len()) {
                    break;
                }
            }
            if round == 30 {
                self.step(Op::Close { client: true });
            }
            self.step(Op::Pass(1000));
        }
        assert_eq!(self.closed, [true, true], "both sides come to an end");
        assert_eq!((self.client.poll_timeout(), self.server.poll_timeout()), (None, None));
        for (tag, sent) in &self.sent {
            assert_eq!(sent.outcomes, 1, "request {tag} has exactly one outcome");
        }
    }

    /// Does to a new client what was done to this one, with the input cut in pieces of `cut`.
    fn replay(&self, cut: usize) -> (Vec<String>, Vec<u8>) {
        let mut client = self.setting.client(self.done[0].0);
        let (mut lines, mut written) = (Vec::new(), Vec::new());
        for (now, done) in &self.done {
            match done {
                Done::Request(request, deadline) => drop(client.send_request(*now, request, *deadline)),
                Done::Oneway(request) => drop(client.send_oneway(*now, request)),
                Done::Cancel(id) => _ = client.cancel(*now, *id),
                Done::Flush => client.flush(),
                Done::Close => client.close(*now),
                Done::Feed(bytes) => {
                    bytes.chunks(cut).for_each(|piece| assert!(client.handle_input(*now, piece) <= piece.len()))
                }
                Done::Eof => client.handle_eof(*now),
                Done::Timeout => client.handle_timeout(*now),
                Done::Wrap => client.set_next_id(self.setting.first_id),
                Done::Broken => client.handle_transport_error(*now),
                Done::Poll => _ = client.poll_transmit(*now, &mut written),
            }
            if matches!(done, Done::Poll) {
                lines.extend(std::iter::from_fn(|| client.poll_event()).map(|event| client_line(&event)));
            }
        }
        (lines, written)
    }
}

fn run(setting: &Setting, ops: Vec<Op>) -> Sim {
    let mut sim = Sim::new(setting);
    ops.into_iter().for_each(|op| sim.step(op));
    sim.finish();
    sim
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_request_has_exactly_one_outcome_which_is_its_own(setting in settings(), ops in ops()) {
        // R-outcome-once, R-fail-in-flight, R-id-copy, R-id-unique, R-response-abandoned, R-deadline, and the contract
        let sim = run(&setting, ops);
        // R-cut-any
        for cut in [1, 13] {
            if sim.written.len() < 50_000 || cut > 1 {
                let (lines, written) = sim.replay(cut);
                prop_assert_eq!(&lines, &sim.lines);
                prop_assert!(written == sim.written);
            }
        }
    }

    #[test]
    fn a_request_that_was_reported_unsent_never_reaches_the_server(setting in settings(), ops in ops()) {
        // R-fail-in-flight, 6.4: "no, if no byte of its frame was handed to the transport". R-no-blind-retry allows its
        // caller to send it again.
        let sim = run(&setting, ops);
        let both: Vec<_> = sim.unsent.intersection(&sim.seen).collect();
        prop_assert!(both.is_empty(), "reported as unsent, and seen by the server: {:?}", both);
    }
}

/// A server that takes one request at a time still ends, whatever its backlog.
#[test]
fn a_backlog_before_a_full_server_comes_to_an_end() {
    let setting = Setting { compressions: [2, 0], delays: [0, 0], pending: [30, 1], first_id: 1 };
    let hellos = [true, false].map(|up| Op::Deliver { up, bytes: 15 });
    run(&setting, hellos.into_iter().chain(vec![Op::Request { method: 0, body: 0, deadline: None }; 30]).collect());
}
