//! What callers send to an HTTP listener of the proxy: what its gate (`src/proxy/gate.rs`, compiled in as it stands) lets
//! through must not depend on how the bytes are cut, must be what the reader of [`crate::requests`] says, and hyper, which
//! stands behind the gate, must come to the same requests as that reader.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use arbitrary::Unstructured;
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};

use crate::requests::{self, Asked, BodyEnd, End, Limits, Reading};
use crate::script;
use activity::{Activity, Busy};
use gate::Gate;
use request_head::Refused;

#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/activity.rs"]
mod activity;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/gate.rs"]
mod gate;
#[allow(dead_code, unreachable_pub)]
#[path = "../../src/proxy/request_head.rs"]
pub(crate) mod request_head;

/// What these modules know of the proxy's configuration.
mod config {
    pub(crate) const MAX_HEADER_COUNT: usize = 128;
}

/// What the gate puts where a body is in doubt.
const POISON: &[u8] = b"\r\0";
/// The longest heads: short inputs reach the first, and the second has room for targets and names that are too long.
const MAX_HEAD_BYTES: [usize; 2] = [1024, 160 * 1024];
/// More is not tried.
const MOST_BYTES: usize = 400 * 1024;

/// How to run.
#[derive(Clone, Copy, Debug)]
struct Way {
    limits: Limits,
    /// Requests are answered before their bodies are read.
    answers_early: bool,
    seed: u8,
}

/// The first byte says how: whether the rest is a script (bit 0; see [`crate::script`]) or what comes by the wire, which
/// limit heads have (bit 1), and whether answers come early (bit 2). The second is the seed of the cuts.
pub fn check(input: &[u8]) {
    let Some((&[flags, seed], rest)) = input.split_first_chunk() else { return };
    let limits = Limits {
        head: MAX_HEAD_BYTES[usize::from(flags >> 1 & 1)],
        fields: config::MAX_HEADER_COUNT,
        target: 65_534,
        name: 65_535,
        chunk_line: 128,
    };
    let way = Way { limits, answers_early: flags & 4 != 0, seed };
    if flags & 1 == 0 {
        examine(rest, way);
    } else if let Some(wire) = script::write(Unstructured::new(rest)).filter(|wire| wire.len() <= MOST_BYTES) {
        examine(&wire, way);
    }
}

fn examine(wire: &[u8], way: Way) {
    let judged = requests::read(wire, way.limits);
    let whole = pass(wire, way.limits.head, Cuts::whole());
    check_passed(&whole, &judged);
    let cut = pass(wire, way.limits.head, Cuts::random(way.seed, wire.len()));
    assert_eq!(whole, cut, "what passes depends on the cuts");
    // Long ones are of repetitions.
    if wire.len() <= 4096 {
        let cut = pass(wire, way.limits.head, Cuts::bytes());
        assert_eq!(whole, cut, "what passes depends on the cuts");
    }
    check_served(wire, way, &judged, whole.refusal.map(|refusal| refusal.1));
}

// The gate.

/// What a gate lets through.
#[derive(Debug, PartialEq)]
struct Passed {
    bytes: Vec<u8>,
    /// The number of the request that is refused, the status and the reason.
    refusal: Option<(u64, u16, String)>,
    /// Nothing is read any more.
    is_over: bool,
}

fn pass(wire: &[u8], max_head_bytes: usize, mut cuts: Cuts) -> Passed {
    let mut gate = Gate::new(max_head_bytes);
    let mut passed = Passed { bytes: Vec::new(), refusal: None, is_over: false };
    let mut rest = wire;
    let mut room = vec![0; 64 * 1024];
    loop {
        while let Some(n) = gate.read(&mut room[..cuts.next(usize::MAX)]) {
            passed.bytes.extend_from_slice(&room[..n]);
            if n == 0 {
                passed.is_over = true;
                return passed;
            }
        }
        if rest.is_empty() {
            return passed;
        }
        let (piece, behind) = rest.split_at(cuts.next(rest.len()));
        rest = behind;
        let (n, refusal) = gate.take(piece);
        passed.bytes.extend_from_slice(&piece[..n]);
        assert!(gate.held_bytes() <= max_head_bytes, "no more is held than a head may be long");
        if let Some((number, refused)) = refusal {
            let told = (number, refused.status.as_u16(), refused.reason.into_owned());
            assert!(passed.refusal.replace(told).is_none(), "there is one refusal");
        }
    }
}

fn check_passed(passed: &Passed, judged: &Reading) {
    let rest = passed.bytes.strip_prefix(&judged.passed[..]);
    let rest = rest.unwrap_or_else(|| panic!("{judged:?} is not what passes: {}", passed.bytes.escape_ascii()));
    match (&judged.end, &passed.refusal) {
        (End::Open, None) => assert!(rest.is_empty() && !passed.is_over, "no more passes: {}", rest.escape_ascii()),
        (End::Doubt, None) => {
            assert_eq!(rest, POISON);
            assert!(passed.is_over);
        }
        (End::Refused(faults), Some((number, status, reason))) => {
            assert!(faults.contains(status), "{status} {reason} is none of {faults:?}");
            assert_eq!(*number, judged.asked.len() as u64 + 1);
            assert!(passed.is_over);
            check_stand_in(rest);
        }
        (end, refusal) => panic!("{refusal:?} is not {end:?}"),
    }
}

/// A request without a body, after which nothing comes.
fn check_stand_in(bytes: &[u8]) {
    let limits = Limits { head: usize::MAX, fields: 2, target: 65_534, name: 65_535, chunk_line: 0 };
    let reading = requests::read(bytes, limits);
    assert_eq!((&reading.end, &reading.passed[..]), (&End::Open, bytes));
    let [asked] = &reading.asked[..] else { panic!("one request stands for another: {reading:?}") };
    let values: Vec<_> = asked.fields.iter().map(|(name, value)| (name.as_str(), &value[..])).collect();
    assert_eq!(values, [("connection", &b"close"[..]), ("host", b"-")]);
    assert_ne!(asked.method, b"CONNECT");
}

/// How bytes are cut.
struct Cuts {
    most: usize,
    state: u32,
}

impl Cuts {
    fn whole() -> Self {
        Self { most: usize::MAX, state: 0 }
    }

    fn bytes() -> Self {
        Self { most: 1, state: 0 }
    }

    fn random(seed: u8, length: usize) -> Self {
        // Some seeds cut into small pieces, but nothing into very many.
        let most = [7, 61, 700, 5000][usize::from(seed % 4)].max(length / 128);
        Self { most, state: u32::from(seed).wrapping_mul(2_654_435_761) | 1 }
    }

    /// How long the next piece is, of so many bytes.
    fn next(&mut self, length: usize) -> usize {
        let mut most = self.most.min(64 * 1024);
        if self.state != 0 {
            most = 1 + self.draw() % self.most;
        }
        most.min(length)
    }

    fn draw(&mut self) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 17;
        self.state ^= self.state << 5;
        self.state as usize
    }
}

// hyper behind the gate.

/// A request as hyper delivers it.
#[derive(Debug)]
struct Served {
    asked: Asked,
    /// Its target cannot be told from what it came as.
    target: http::Uri,
    /// Status, and whether the answer has no body.
    answer: (u16, bool),
    is_stand_in: bool,
}

/// A transport of which one end has sent all.
struct Wire<'a> {
    gate: Gate,
    activity: Arc<Activity>,
    cuts: Cuts,
    rest: &'a [u8],
    sent: Vec<u8>,
}

impl Read for &mut Wire<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let wire = &mut **self.get_mut();
        if wire.cuts.draw() % 8 == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let most = wire.cuts.next(buf.remaining());
            let mut room = vec![0; most];
            if let Some(n) = wire.gate.read(&mut room) {
                buf.put_slice(&room[..n]);
                return Poll::Ready(Ok(()));
            }
            let (piece, behind) = wire.rest.split_at(most.min(wire.rest.len()));
            wire.rest = behind;
            if piece.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let (n, refusal) = wire.gate.take(piece);
            if let Some((number, refused)) = refusal {
                wire.activity.refuse(number, refused);
            }
            if n > 0 {
                buf.put_slice(&piece[..n]);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl Write for &mut Wire<'_> {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().sent.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Serves what comes as `src/proxy/http_in.rs` does, and compares.
fn check_served(wire: &[u8], way: Way, judged: &Reading, refused: Option<u16>) {
    let activity = Arc::new(Activity::default());
    let served = Arc::new(Mutex::new(Vec::<Served>::new()));
    let service = service_fn(|request: Request<Incoming>| {
        let (busy, served) = (Busy::begin(&activity), served.clone());
        let refusal = activity.refusal().map(|refused: &Refused| refused.status);
        async move {
            let response = answer(request, way.answers_early, refusal, &served).await;
            drop(busy.answered());
            Ok::<_, io::Error>(response)
        }
    });
    let mut transport = Wire {
        gate: Gate::new(way.limits.head),
        activity: activity.clone(),
        cuts: Cuts::random(way.seed, wire.len()),
        rest: wire,
        sent: Vec::new(),
    };
    let mut http1 = http1::Builder::new();
    http1
        .half_close(true)
        .max_buf_size(way.limits.head.max(8192))
        .max_header_size(way.limits.head)
        .max_headers(config::MAX_HEADER_COUNT)
        .auto_date_header(false);
    let result = {
        let mut connection = pin!(http1.serve_connection(&mut transport, service));
        let mut cx = Context::from_waker(Waker::noop());
        let mut polls = 0;
        loop {
            if let Poll::Ready(result) = connection.as_mut().poll(&mut cx) {
                break result;
            }
            polls += 1;
            assert!(polls < 64 + 8 * wire.len(), "a connection of which all has come is never stuck");
        }
    };
    let served = std::mem::take(&mut *served.lock().expect("nobody panics"));
    compare(&served, judged, way, refused);
    let answers: Vec<_> = served.iter().map(|served| served.answer).collect();
    check_answers(&transport.sent, &answers, &result);
}

/// Answers a request, and notes what it was.
async fn answer(
    request: Request<Incoming>,
    answers_early: bool,
    refusal: Option<StatusCode>,
    served: &Mutex<Vec<Served>>,
) -> Response<String> {
    let (parts, body) = request.into_parts();
    let (mut bytes, mut body_end) = (Vec::new(), BodyEnd::Inside);
    if !answers_early {
        let mut body = pin!(body);
        body_end = loop {
            match poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
                None => break BodyEnd::Whole,
                Some(Err(_)) => break BodyEnd::Doubt,
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| data)),
            }
        };
    }
    let mut fields: Vec<_> =
        parts.headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    let status = match refusal {
        Some(status) => status,
        // A success would end HTTP.
        None if parts.method == http::Method::CONNECT => StatusCode::NOT_IMPLEMENTED,
        None if body_end == BodyEnd::Doubt => StatusCode::BAD_REQUEST,
        None => StatusCode::OK,
    };
    let asked = Asked {
        method: parts.method.as_str().as_bytes().to_vec(),
        target: parts.uri.to_string().into_bytes(),
        is_http_10: parts.version == http::Version::HTTP_10,
        fields,
        body: bytes,
        body_end,
        is_odd: false,
    };
    let answer = (status.as_u16(), parts.method == http::Method::HEAD);
    let is_stand_in = refusal.is_some();
    served.lock().expect("nobody panics").push(Served { asked, target: parts.uri, answer, is_stand_in });
    let mut response = Response::new("answer".to_owned());
    *response.status_mut() = status;
    response
}

fn compare(served: &[Served], judged: &Reading, way: Way, refused: Option<u16>) {
    let (stand_ins, served): (Vec<_>, Vec<_>) = served.iter().partition(|served| served.is_stand_in);
    assert!(served.len() <= judged.asked.len(), "hyper reads {served:?} from {judged:?}");
    for (seen, asked) in served.iter().zip(&judged.asked) {
        assert_eq!(seen.asked.method, asked.method);
        let target = http::Uri::try_from(&asked.target[..]).expect("what passes is a target");
        assert_eq!(seen.target, target, "{}", asked.target.escape_ascii());
        assert_eq!(seen.asked.is_http_10, asked.is_http_10);
        assert_eq!(seen.asked.fields, asked.fields);
        if way.answers_early {
            continue;
        }
        assert!(asked.body.starts_with(&seen.asked.body), "a body is that of its request: {seen:?}, {asked:?}");
        match (seen.asked.body_end, asked.body_end) {
            (BodyEnd::Whole, BodyEnd::Whole) => assert_eq!(seen.asked.body, asked.body),
            (BodyEnd::Doubt, BodyEnd::Inside | BodyEnd::Doubt) => {}
            (BodyEnd::Doubt, BodyEnd::Whole) if asked.is_odd => {}
            _ => panic!("{seen:?} is not {asked:?}"),
        }
    }
    // After some of them hyper reads no more.
    let is_last = |asked: &Asked, seen: &Served| {
        seen.asked.body_end != BodyEnd::Whole || asked.is_http_10 || has_close(asked) || asked.method == b"CONNECT"
    };
    let ends = served.last().is_some_and(|seen| is_last(&judged.asked[served.len() - 1], seen));
    let is_all = served.len() == judged.asked.len();
    assert!(ends || is_all, "hyper reads only {served:?} of {judged:?}");
    match (&stand_ins[..], refused) {
        ([], Some(_)) => assert!(ends, "what is refused is answered"),
        ([], None) => {}
        ([stand_in], Some(status)) => {
            assert!(is_all);
            assert_eq!(stand_in.answer.0, status);
        }
        _ => panic!("{stand_ins:?} stand for one that is refused with {refused:?}"),
    }
}

fn has_close(asked: &Asked) -> bool {
    let mut values = asked.fields.iter().filter(|(name, _)| name == "connection").map(|(_, value)| value);
    values.any(|value| value.split(|byte| *byte == b',').any(|it| it.trim_ascii().eq_ignore_ascii_case(b"close")))
}

/// Each request has one answer, and there is no other: hyper would refuse by itself what it should not have got to see.
fn check_answers(mut sent: &[u8], answers: &[(u16, bool)], result: &hyper::Result<()>) {
    for (status, is_bodiless) in answers {
        loop {
            let mut room = [httparse::EMPTY_HEADER; 8];
            let mut response = httparse::Response::new(&mut room);
            let Ok(httparse::Status::Complete(head)) = response.parse(sent) else {
                panic!("there is no answer {status} at {}, {result:?}", sent.escape_ascii())
            };
            if response.code == Some(100) {
                sent = &sent[head..];
                continue;
            }
            assert_eq!(response.code, Some(*status));
            let body = if *is_bodiless { 0 } else { "answer".len() };
            sent = &sent[head + body..];
            break;
        }
    }
    assert!(sent.is_empty(), "hyper answers by itself: {}, {result:?}", sent.escape_ascii());
}
