//! One end of a link, fed with arbitrary bytes in arbitrary cuts, by a caller that does all that a caller must.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Connection, Dictionary, Limits, RequestId,
    ServerConfig, ServerConnection, ServerEvent, ServerTls, Timer,
};

use crate::narrow;

/// How the input is cut.
#[derive(Clone, Copy, Debug)]
pub enum Cuts {
    /// The hello, and all the rest.
    Whole,
    /// Byte by byte.
    Bytes,
    /// By chance, of this seed.
    Random(u8),
}

/// The length of a hello: always a cut, since what a client has transmitted depends on it.
pub const HELLO_BYTES: usize = 15;

impl Cuts {
    fn ends(self, length: usize) -> Vec<usize> {
        let mut ends: Vec<usize> = match self {
            Self::Whole => vec![length],
            Self::Bytes => (1..=length).collect(),
            Self::Random(seed) => {
                let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
                let mut at = 0;
                let mut ends = Vec::new();
                while at < length {
                    state ^= state << 13;
                    state ^= state >> 17;
                    state ^= state << 5;
                    at = (at + 1 + state as usize % 61).min(length);
                    ends.push(at);
                }
                ends
            }
        };
        if length > HELLO_BYTES && !ends.contains(&HELLO_BYTES) {
            ends.push(HELLO_BYTES);
            ends.sort_unstable();
        }
        ends
    }
}

/// The bytes of a hello with this compression.
pub fn hello(compression: u8) -> [u8; HELLO_BYTES] {
    let mut hello = *b"httpteleport\0\0\0";
    hello[13] = compression;
    hello
}

/// Limits so small that short inputs reach them.
pub fn small_limits(pending_requests: usize) -> Limits {
    Limits {
        head_bytes: 4096,
        header_count: 64,
        body_bytes: 65_536,
        message_bytes: 4096 + 65_536,
        pending_requests,
        abandoned_requests: 16,
        held_bytes: 128 * 1024,
        output_bytes: 64 * 1024,
    }
}

/// What a connection with [`small_limits`] may hold at most, harness included: two windows of zstd, or a deflate state;
/// input, head, body and output at their limits, each of which a buffer that grows by doubling may hold twice; events.
pub const MOST_MEMORY: usize = 8 << 20;

fn config(limits: Limits) -> Config {
    Config {
        compression: Compression::None,
        dictionaries: vec![dictionary()],
        limits,
        idle_timeout: Some(Duration::from_secs(60)),
        ..Config::default()
    }
}

/// What `httptp train` has made of made-up bids; its id is in the dictionary of the fuzzer, too.
pub fn dictionary() -> Dictionary {
    static ONE: OnceLock<Dictionary> = OnceLock::new();
    ONE.get_or_init(|| Dictionary::new(&include_bytes!("../zstd.dict")[..]).expect("a dictionary")).clone()
}

/// What happened on a link: must not depend on the cuts.
#[derive(Debug, Default, PartialEq)]
pub struct Trace {
    /// The events, in order.
    pub events: Vec<String>,
    /// What a server has answered, in the order of ids: handlers and refusals come in between one another as input does.
    pub answers: Vec<(u32, Vec<u8>)>,
}

/// A caller of one of the two roles.
trait Caller {
    type End: Connection;
    fn end(&mut self) -> &mut Self::End;
    /// Acts on an event.
    fn take(&mut self, now: Instant, event: <Self::End as Connection>::Event);
    /// The output so far.
    fn sent(&mut self) -> &mut Vec<u8>;
    /// The hello has been fed.
    fn after_hello(&mut self, _now: Instant) {}
}

fn drain<C: Caller>(caller: &mut C, now: Instant) {
    loop {
        let mut out = Vec::new();
        let made = caller.end().poll_transmit(now, &mut out);
        assert_eq!(made, out.len(), "poll_transmit says what it appends");
        caller.sent().extend_from_slice(&out);
        let mut events = 0;
        while let Some(event) = caller.end().poll_event() {
            events += 1;
            caller.take(now, event);
        }
        if made == 0 && events == 0 {
            // Input that waited for its caller.
            match caller.end().next_timer() {
                Some((Timer::Input, _)) => caller.end().handle_timeout(now),
                _ => return,
            }
        }
    }
}

fn feed<C: Caller>(caller: &mut C, mut now: Instant, input: &[u8], cuts: Cuts, eof: bool) {
    drain(caller, now);
    let mut at = 0;
    for end in cuts.ends(input.len()) {
        while at < end {
            let taken = caller.end().handle_input(now, &input[at..end]);
            assert!(taken <= end - at, "no more is taken than was offered");
            assert!(taken == end - at || !caller.end().wants_read(), "input is left only when none is wanted");
            at += taken;
            drain(caller, now);
            // It may take nothing once, while what it took before waits for its caller, and may end by that.
            let moves = taken > 0 || caller.end().wants_read() || caller.end().is_closed();
            assert!(moves, "a caller that has done its part is never stuck: {:?}", caller.end().stats());
        }
        if at == HELLO_BYTES {
            caller.after_hello(now);
            drain(caller, now);
        }
    }
    if eof {
        caller.end().handle_eof(now);
        drain(caller, now);
    }
    // Each timer fires, and none that fires is left.
    for _ in 0..64 {
        let Some(at) = caller.end().poll_timeout() else { break };
        now = now.max(at);
        caller.end().handle_timeout(now);
        let next = caller.end().next_timer();
        assert!(next.is_none_or(|(timer, at)| at > now || timer == Timer::Input), "{next:?} is left over at {now:?}");
        drain(caller, now);
    }
    assert!(caller.end().poll_timeout().is_none(), "timers come to an end");
    assert!(caller.end().is_closed(), "an idle link is closed in the end");
}

struct ServerCaller {
    end: ServerConnection,
    sent: Vec<u8>,
    trace: Option<Trace>,
    closed: bool,
    to_answer: Vec<u32>,
}

impl Caller for ServerCaller {
    type End = ServerConnection;

    fn end(&mut self) -> &mut ServerConnection {
        &mut self.end
    }

    fn sent(&mut self) -> &mut Vec<u8> {
        if self.trace.is_none() {
            self.sent.clear();
        }
        &mut self.sent
    }

    fn take(&mut self, now: Instant, event: ServerEvent) {
        assert!(!self.closed, "no event follows `Closed`");
        if let Some(trace) = &mut self.trace {
            trace.events.push(format!("{event:?}"));
        }
        match event {
            ServerEvent::Request { token, request } => {
                assert_ne!(token.id(), 0, "a request with id 0 has no token");
                self.to_answer.push(token.id());
                let body = format!("answer to {} {}", request.method(), request.uri());
                let mut token = token;
                while let Err(rejected) = self.end.send_response(now, token, &Response::new(Bytes::from(body.clone())))
                {
                    assert_eq!(rejected.error.code(), "output-full", "an answer is taken while the link is open");
                    let mut out = Vec::new();
                    assert!(self.end.poll_transmit(now, &mut out) > 0, "output that is full can be taken");
                    self.sent().extend_from_slice(&out);
                    token = rejected.token;
                }
            }
            ServerEvent::Refused { id, .. } if id != 0 => self.to_answer.push(id),
            ServerEvent::StartTls => self.end.handle_tls_established(now),
            ServerEvent::Closed { .. } => self.closed = true,
            _ => {}
        }
    }
}

/// Feeds a server and returns what happened; `None` if it is not to be kept.
fn run_server(input: &[u8], cuts: Cuts, eof: bool, keep: bool) -> Option<Trace> {
    let now = Instant::now();
    let config = ServerConfig { config: config(small_limits(4)), tls: ServerTls::Optional };
    let mut caller = ServerCaller {
        end: ServerConnection::new(config, now),
        sent: Vec::new(),
        trace: keep.then(Trace::default),
        closed: false,
        to_answer: Vec::new(),
    };
    feed(&mut caller, now, input, cuts, eof);
    let mut trace = caller.trace?;
    if let Some(frames) = caller.sent.get(HELLO_BYTES..) {
        trace.answers = narrow::responses(frames);
        trace.answers.sort();
        let mut answered: Vec<u32> = trace.answers.iter().map(|(id, _)| *id).collect();
        answered.sort_unstable();
        caller.to_answer.sort_unstable();
        assert_eq!(answered, caller.to_answer, "each request is answered once, and nothing else is");
    }
    Some(trace)
}

struct ClientCaller {
    end: ClientConnection,
    sent: Vec<u8>,
    trace: Option<Trace>,
    closed: bool,
    open: Vec<u32>,
    requests: Vec<RequestId>,
}

impl Caller for ClientCaller {
    type End = ClientConnection;

    fn end(&mut self) -> &mut ClientConnection {
        &mut self.end
    }

    fn sent(&mut self) -> &mut Vec<u8> {
        &mut self.sent
    }

    fn take(&mut self, now: Instant, event: ClientEvent) {
        assert!(!self.closed, "no event follows `Closed`");
        if let Some(trace) = &mut self.trace {
            trace.events.push(format!("{event:?}"));
        }
        match event {
            ClientEvent::Response { id, .. } | ClientEvent::Failed { id, .. } => {
                let at = self.open.iter().position(|open| *open == id.get());
                self.open.swap_remove(at.expect("an outcome is of a request that has none yet"));
            }
            ClientEvent::StartTls => self.end.handle_tls_established(now),
            ClientEvent::Closed { .. } => self.closed = true,
            _ => {}
        }
    }

    fn after_hello(&mut self, now: Instant) {
        // The third and the fifth are abandoned: a GET and a HEAD.
        for id in [3, 5] {
            if let Some(request) = self.requests.get(id - 1).copied()
                && self.end.cancel(now, request)
            {
                self.open.retain(|open| *open != request.get());
            }
        }
    }
}

/// Feeds a client that has sent eight requests, two of them abandoned.
fn run_client(input: &[u8], cuts: Cuts, eof: bool, keep: bool) -> Option<Trace> {
    let now = Instant::now();
    let mut end = ClientConnection::new(ClientConfig { config: config(small_limits(8)), tls: false }, now);
    let mut requests = Vec::new();
    for method in ["GET", "HEAD", "GET", "POST", "HEAD", "GET", "PUT", "HEAD"] {
        let request = Request::builder().method(method).uri("http://h/").body(Bytes::new()).expect("well-formed");
        requests.push(end.send_request(now, &request, None).expect("there is room"));
    }
    let open = requests.iter().map(|id| id.get()).collect();
    let trace = keep.then(Trace::default);
    let mut caller = ClientCaller { end, sent: Vec::new(), trace, closed: false, open, requests };
    feed(&mut caller, now, input, cuts, eof);
    assert!(caller.open.is_empty(), "each request has its outcome");
    assert_eq!(caller.end.pending_requests(), 0);
    caller.trace
}

/// Checks a role with an input: the same whole, byte by byte and cut by chance, and within its memory.
fn check(run: impl Fn(&[u8], Cuts, bool, bool) -> Option<Trace>, input: &[u8], seed: u8, eof: bool) {
    let whole = run(input, Cuts::Whole, eof, true);
    for cuts in [Cuts::Bytes, Cuts::Random(seed)] {
        let cut = run(input, cuts, eof, true);
        assert_eq!(whole, cut, "events depend on how the input is cut: {cuts:?}");
    }
    let held = crate::memory::peak_of(|| drop(run(input, Cuts::Whole, eof, false)));
    assert!(held <= MOST_MEMORY, "{held} bytes are held for {} bytes of input", input.len());
}

/// See [`check`].
pub fn check_server(input: &[u8], seed: u8, eof: bool) {
    check(run_server, input, seed, eof);
}

/// See [`check`].
pub fn check_client(input: &[u8], seed: u8, eof: bool) {
    check(run_client, input, seed, eof);
}

/// Takes the byte that says how to run off an input: whether it ends with the end of file (bit 7), whether a hello comes
/// before it (bit 6) and of which compression (bits 4 and 5), and how it is cut.
pub fn settings(input: &[u8]) -> Option<(Vec<u8>, u8, bool)> {
    let (flags, rest) = input.split_first()?;
    let mut wire = Vec::new();
    if flags & 0x40 != 0 {
        wire.extend_from_slice(&hello(flags >> 4 & 3));
    }
    wire.extend_from_slice(rest);
    Some((wire, flags & 15, flags & 0x80 != 0))
}
