//! What the tests against the original share: its recordings, an HTTP reader that shares no code with the crate, and
//! a way to feed a connection cut anywhere.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::path::PathBuf;
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use httpteleport::proto::{
    ClientConfig, ClientConnection, ClientEvent, Compression, Config, Limits, RequestError, ServerConfig,
    ServerConnection, ServerEvent, Timer,
};
use serde_json::Value;

/// One recorded connection of the original.
pub struct Recording {
    pub name: String,
    pub client_compression: Compression,
    pub server_compression: Compression,
    /// All bytes of each direction, hello included.
    pub client_bytes: Vec<u8>,
    pub server_bytes: Vec<u8>,
    pub requests: Vec<(u32, Message)>,
    pub responses: Vec<(u32, Message)>,
}

pub fn recordings() -> Vec<Recording> {
    let dir = data("recordings");
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let recordings: Vec<_> = files.iter().map(|file| recording(&json(file))).collect();
    assert_eq!(recordings.len(), 36);
    recordings
}

fn recording(value: &Value) -> Recording {
    let bytes_from = |who: &str| {
        let steps = value["steps"].as_array().unwrap().iter();
        steps.filter(|step| step["from"] == who).flat_map(|step| unhex(&step["hex"])).collect::<Vec<_>>()
    };
    let frames = |key: &str| {
        let frames = value[key].as_array().unwrap().iter();
        frames.map(|frame| (frame["id"].as_u64().unwrap() as u32, message(&frame_bytes(frame)))).collect()
    };
    let (client_bytes, server_bytes) = (bytes_from("client"), bytes_from("server"));
    Recording {
        name: value["name"].as_str().unwrap().to_owned(),
        client_compression: Compression::from_code(client_bytes[13]).unwrap(),
        server_compression: Compression::from_code(server_bytes[13]).unwrap(),
        client_bytes,
        server_bytes,
        requests: frames("requests"),
        responses: frames("responses"),
    }
}

fn frame_bytes(frame: &Value) -> Vec<u8> {
    let fields = frame.as_object().unwrap();
    unhex(fields.iter().find(|(key, _)| key.contains("hex")).unwrap().1)
}

pub fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("conformance/original").join(name)
}

pub fn json(file: &std::path::Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

pub fn unhex(value: &Value) -> Vec<u8> {
    hex::decode(value.as_str().unwrap()).unwrap()
}

/// An HTTP/1 message, read in the simplest way.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub start: String,
    /// Names in lower case, in order of names (fields of one name in order of coming).
    pub fields: Vec<(String, Vec<u8>)>,
    pub body: Bytes,
}

/// Reads one message that fills `bytes`.
pub fn message(bytes: &[u8]) -> Message {
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n").expect("a head ends");
    let mut lines = bytes[..end].split(|b| *b == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let start = String::from_utf8(lines.next().unwrap().to_vec()).unwrap();
    let fields = lines.map(|line| {
        let colon = line.iter().position(|b| *b == b':').unwrap();
        let name = std::str::from_utf8(&line[..colon]).unwrap().to_ascii_lowercase();
        (name, line[colon + 1..].trim_ascii().to_vec())
    });
    sorted(Message { start, fields: fields.collect(), body: Bytes::copy_from_slice(&bytes[end + 4..]) })
}

/// Cuts a plain stream of frames, all of whose bodies are delimited by Content-Length, into messages.
pub fn frames(mut plain: &[u8]) -> Vec<(u32, Message)> {
    let mut frames = Vec::new();
    while !plain.is_empty() {
        let id = u32::from_le_bytes(plain[..4].try_into().unwrap());
        let head = 4 + plain[4..].windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
        let length: usize = message(&plain[4..head])
            .field("content-length")
            .map_or(0, |value| std::str::from_utf8(value).unwrap().parse().unwrap());
        frames.push((id, message(&plain[4..head + length])));
        plain = &plain[head + length..];
    }
    frames
}

impl Message {
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        self.fields.iter().find(|(n, _)| n == name).map(|(_, value)| &value[..])
    }

    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(n, _)| n != name);
        self
    }

    pub fn request(&self) -> Request<Bytes> {
        let mut parts = self.start.split(' ');
        let mut request = Request::builder().method(parts.next().unwrap()).uri(parts.next().unwrap());
        for (name, value) in &self.fields {
            request = request.header(name, &value[..]);
        }
        request.body(self.body.clone()).unwrap()
    }

    pub fn response(&self) -> Response<Bytes> {
        let mut response = Response::builder().status(&self.start[9..12]);
        for (name, value) in &self.fields {
            response = response.header(name, &value[..]);
        }
        response.body(self.body.clone()).unwrap()
    }
}

pub fn request_message(request: &Request<Bytes>) -> Message {
    let start = format!("{} {} HTTP/1.1", request.method(), request.uri());
    sorted(Message { start, fields: fields(request.headers()), body: request.body().clone() })
}

/// The start line without its reason, which is no part of a [`Response`].
pub fn response_message(response: &Response<Bytes>) -> Message {
    let start = format!("HTTP/1.1 {}", response.status().as_str());
    sorted(Message { start, fields: fields(response.headers()), body: response.body().clone() })
}

pub fn without_reason(mut message: Message) -> Message {
    message.start.truncate(12);
    message
}

fn fields(headers: &HeaderMap) -> Vec<(String, Vec<u8>)> {
    headers.iter().map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect()
}

fn sorted(mut message: Message) -> Message {
    message.fields.sort_by(|a, b| a.0.cmp(&b.0));
    message
}

pub fn config(compression: Compression) -> Config {
    Config { compression, ..Config::default() }
}

pub fn client(compression: Compression, now: Instant) -> ClientConnection {
    ClientConnection::new(ClientConfig { config: config(compression), tls: false }, now)
}

pub fn server(compression: Compression, now: Instant) -> ServerConnection {
    let config = ServerConfig::default();
    ServerConnection::new(ServerConfig { config: Config { compression, ..config.config }, ..config }, now)
}

/// A client and a server whose hellos are through and told, with the same settings.
pub fn open(config: &Config, now: Instant) -> (ClientConnection, ServerConnection) {
    let mut client = ClientConnection::new(ClientConfig { config: config.clone(), tls: false }, now);
    let mut server = ServerConnection::new(ServerConfig { config: config.clone(), ..ServerConfig::default() }, now);
    server.handle_input(now, &transmit(|out| client.poll_transmit(now, out)));
    client.handle_input(now, &transmit(|out| server.poll_transmit(now, out)));
    assert!(matches!(client.poll_event(), Some(ClientEvent::Connected { .. })));
    assert!(matches!(server.poll_event(), Some(ServerEvent::Connected { .. })));
    (client, server)
}

pub fn plain() -> Config {
    config(Compression::None)
}

/// Feeds `bytes` to a server in pieces of the given sizes and then whole, and returns its events.
pub fn feed_server(
    server: &mut ServerConnection,
    now: Instant,
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
) -> Vec<ServerEvent> {
    let mut events = Vec::new();
    for mut piece in pieces(bytes, cuts) {
        loop {
            let taken = server.handle_input(now, piece);
            piece = &piece[taken..];
            events.extend(std::iter::from_fn(|| server.poll_event()));
            if matches!(server.next_timer(), Some((Timer::Input, _))) {
                server.handle_timeout(now);
            } else if piece.is_empty() || !server.wants_read() {
                break;
            }
        }
    }
    events
}

/// The same for a client.
pub fn feed_client(
    client: &mut ClientConnection,
    now: Instant,
    bytes: &[u8],
    cuts: impl Iterator<Item = usize>,
) -> Vec<ClientEvent> {
    let mut events = Vec::new();
    for mut piece in pieces(bytes, cuts) {
        loop {
            let taken = client.handle_input(now, piece);
            piece = &piece[taken..];
            events.extend(std::iter::from_fn(|| client.poll_event()));
            if matches!(client.next_timer(), Some((Timer::Input, _))) {
                client.handle_timeout(now);
            } else if piece.is_empty() || !client.wants_read() {
                break;
            }
        }
    }
    events
}

fn pieces(bytes: &[u8], cuts: impl Iterator<Item = usize>) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    cuts.chain(std::iter::once(usize::MAX)).map_while(move |cut| {
        let (piece, after) = rest.split_at(cut.min(rest.len()));
        rest = after;
        (!piece.is_empty()).then_some(piece)
    })
}

pub fn transmit(mut poll: impl FnMut(&mut Vec<u8>) -> usize) -> Vec<u8> {
    let mut out = Vec::new();
    while poll(&mut out) > 0 {}
    out
}

/// A hello without compression and without TLS.
pub const HELLO: &[u8; 15] = b"httpteleport\x00\x01\x00";

/// Reads a compressed stream, as far as it goes, with decoders that the core does not use.
pub fn decompressed(compression: Compression, wire: &[u8]) -> Vec<u8> {
    match compression {
        Compression::None => wire.to_vec(),
        Compression::Snappy => {
            let mut plain = Vec::new();
            let mut decoder = snap::read::FrameDecoder::new(wire);
            std::io::Read::read_to_end(&mut decoder, &mut plain).expect("a snappy stream");
            plain
        }
        Compression::Deflate => {
            use miniz_oxide::inflate::stream::{InflateState, inflate};
            let mut state = InflateState::new_boxed(miniz_oxide::DataFormat::Raw);
            let (mut plain, mut rest, mut step) = (Vec::new(), wire, vec![0; 1 << 16]);
            loop {
                let result = inflate(&mut state, rest, &mut step, miniz_oxide::MZFlush::None);
                rest = &rest[result.bytes_consumed..];
                plain.extend_from_slice(&step[..result.bytes_written]);
                // The stream has no end: it is read until nothing comes out any more.
                if result.bytes_consumed == 0 && result.bytes_written == 0 {
                    assert!(rest.is_empty(), "the deflate stream is read to its end");
                    return plain;
                }
                result.status.expect("a deflate stream");
            }
        }
        #[cfg(feature = "zstd")]
        Compression::Zstd => {
            let mut plain = Vec::with_capacity(64 << 20);
            let whole = with_last_block(wire);
            ruzstd::decoding::FrameDecoder::new().decode_all_to_vec(&whole, &mut plain).expect("a zstd stream");
            plain
        }
        other => panic!("no independent decoder for {other:?}"),
    }
}

/// A zstd stream that ends between two blocks, as streams do, with an empty last block: the decoder gives out nothing
/// before the window is full or a frame has ended.
#[cfg(feature = "zstd")]
fn with_last_block(wire: &[u8]) -> Vec<u8> {
    let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | usize::from(*byte));
    let mut rest = wire;
    let (mut is_open, mut checksum) = (false, 0);
    while !rest.is_empty() {
        let length = if is_open {
            let header = little(&rest[..3]);
            is_open = header & 1 == 0;
            let content = if header >> 1 & 3 == 1 { 1 } else { header >> 3 };
            3 + content + if is_open { 0 } else { checksum }
        } else if rest.starts_with(b"\x28\xb5\x2f\xfd") {
            is_open = true;
            let descriptor = rest[4];
            checksum = if descriptor & 4 == 0 { 0 } else { 4 };
            // One byte of window, or of the size of a single segment: no larger sizes are in use here.
            assert!(descriptor & 0xc3 == 0);
            6
        } else {
            8 + little(&rest[4..8])
        };
        rest = &rest[length..];
    }
    [wire, if is_open { b"\x01\0\0" } else { b"" }].concat()
}

/// What a direction carried after its hello, as frames.
pub fn frames_after_hello(bytes: &[u8]) -> Vec<(u32, Message)> {
    if bytes.len() <= 15 {
        return Vec::new();
    }
    let compression = Compression::from_code(bytes[13]).unwrap();
    frames(&decompressed(compression, &bytes[15..]))
}

/// A frame: id and message.
pub fn frame(id: u32, message: impl AsRef<[u8]>) -> Vec<u8> {
    [&id.to_le_bytes()[..], message.as_ref()].concat()
}

/// A server's event in one line.
pub fn server_line(event: &ServerEvent) -> String {
    match event {
        ServerEvent::Connected { .. } => "connected".into(),
        ServerEvent::StartTls => "start-tls".into(),
        ServerEvent::Request { token, request } => {
            format!("request {} {}", token.id(), request_line(request))
        }
        ServerEvent::Oneway { request } => format!("oneway {}", request_line(request)),
        ServerEvent::Refused { id, error } => format!("refused {id} {}", error.code()),
        ServerEvent::Closed { error } => {
            format!("closed {}", error.as_ref().map_or("-", |error| error.code()))
        }
    }
}

/// `METHOD TARGET "BODY"`: also what the handler of the original's edge scripts answered.
pub fn request_line(request: &Request<Bytes>) -> String {
    let body = String::from_utf8_lossy(request.body());
    format!("{} {} {body:?}", request.method(), request.uri())
}

/// A client's event in one line.
pub fn client_line(event: &ClientEvent) -> String {
    match event {
        ClientEvent::Connected { .. } => "connected".into(),
        ClientEvent::StartTls => "start-tls".into(),
        ClientEvent::Response { id, response } => {
            let body = String::from_utf8_lossy(response.body());
            format!("response {} {} {body:?}", id.get(), response.status().as_u16())
        }
        ClientEvent::Failed { id, error } => format!("failed {} {}", id.get(), failure(error)),
        ClientEvent::Unmatched { id } => format!("unmatched {id}"),
        ClientEvent::Goodbye => "goodbye".into(),
        ClientEvent::Closed { error } => {
            format!("closed {}", error.as_ref().map_or("-", |error| error.code()))
        }
    }
}

/// Why a request failed: `refused CODE`, or `timeout` or `CODE` and whether it was `maybe` delivered or is `unsent`.
pub fn failure(error: &RequestError) -> String {
    let delivered = |maybe: &bool| if *maybe { "maybe" } else { "unsent" };
    match error {
        RequestError::Timeout { maybe_delivered } => {
            format!("timeout {}", delivered(maybe_delivered))
        }
        RequestError::Refused(error) => format!("refused {}", error.code()),
        RequestError::Link { error, maybe_delivered } => {
            format!("{} {}", error.code(), delivered(maybe_delivered))
        }
        other => panic!("{other:?}"),
    }
}

/// A GET, or whatever method, for `http://h.example` and the path.
pub fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Bytes> {
    let uri = format!("http://h.example{path}");
    Request::builder().method(method).uri(uri).body(body.into()).unwrap()
}

/// A response with a body and no fields.
pub fn response(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
    Response::builder().status(status).body(body.into()).unwrap()
}

/// The text of one file of the specification.
pub fn spec(file: &str) -> String {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("spec");
    std::fs::read_to_string(dir.join(file)).unwrap()
}

/// The files of the specification, by name.
pub fn spec_files() -> Vec<(String, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("spec");
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".md"));
    names.sort();
    names.into_iter().map(|name| (name.clone(), spec(&name))).collect()
}

/// Asserts that every requirement (`R-...`) and hazard (`H1`) that a table names is in the specification.
pub fn assert_cited(citation: &str) {
    let text: String = spec_files().into_iter().map(|(_, text)| text).collect();
    for word in citation.split([' ', ',', '(', ')']).filter(|word| !word.is_empty()) {
        let there = if word.starts_with("R-") {
            text.contains(&format!("- **{word}** ("))
        } else {
            text.contains(&format!("| {word} |"))
        };
        assert!(there, "{word} is not in the specification");
    }
}

/// What becomes of one message.
#[derive(Clone, Copy, Debug)]
pub enum Out {
    /// Delivered, and the next byte starts the next frame: `METHOD TARGET "BODY"`, or `STATUS "BODY"` of a response.
    Del(&'static str),
    /// Refused with this code (a server answers with the status), next.
    Ref(&'static str, u16),
    /// The link ends with this code.
    Err(&'static str),
    /// A response to HEAD is delivered, and the link ends with `head-ambiguous`.
    Amb(&'static str),
}

const FIRST: &str = "GET /first HTTP/1.1\r\nHost: h\r\n\r\n";
const NEXT: &str = "GET /next HTTP/1.1\r\nHost: h\r\n\r\n";

pub fn limited_server(limits: &Limits, now: Instant) -> ServerConnection {
    let limits = limits.clone();
    let config = Config { compression: Compression::None, limits, ..Config::default() };
    ServerConnection::new(ServerConfig { config, ..ServerConfig::default() }, now)
}

pub fn limited_client(limits: &Limits, now: Instant) -> ClientConnection {
    let limits = limits.clone();
    let config = Config { compression: Compression::None, limits, ..Config::default() };
    ClientConnection::new(ClientConfig { config, tls: false }, now)
}

/// Feeds a server a hello and `plain` in pieces of `cut`, then EOF, answers what it asks, and returns its events and
/// what it wrote.
pub fn serve(limits: &Limits, plain: &[u8], cut: usize) -> (Vec<String>, Vec<(u32, Message)>) {
    let now = Instant::now();
    let mut server = limited_server(limits, now);
    let bytes = [&HELLO[..], plain].concat();
    let mut events = feed_server(&mut server, now, &bytes, std::iter::repeat(cut));
    server.handle_eof(now);
    events.extend(std::iter::from_fn(|| server.poll_event()));
    let mut lines: Vec<_> = events.iter().map(server_line).collect();
    for event in events {
        if let ServerEvent::Request { token, .. } = event {
            server.send_response(now, token, &response(200, "")).unwrap();
        }
    }
    let written = frames_after_hello(&transmit(|out| server.poll_transmit(now, out)));
    lines.extend(std::iter::from_fn(|| server.poll_event()).map(|event| server_line(&event)));
    assert_eq!(lines.remove(0), "connected");
    (lines, written)
}

/// What a server makes of the message, between two good frames (R-error-after-good, R-error-stop).
pub fn check_server(limits: &Limits, message: &[u8], out: Out) {
    let shown = String::from_utf8_lossy(&message[..message.len().min(200)]).into_owned();
    let first = ["request 7 GET /first \"\""].map(str::to_owned);
    let then = |lines: &[&str]| -> Vec<String> {
        first.iter().cloned().chain(lines.iter().map(|line| (*line).to_owned())).collect()
    };
    let next = "request 9 GET /next \"\"";
    for id in [1, 0] {
        let plain = [frame(7, FIRST), frame(id, message), frame(9, NEXT)].concat();
        let cuts = [usize::MAX, 1, 7];
        // Byte by byte is dear for large heads, and told by the small ones.
        for cut in &cuts[..if plain.len() > 10_000 { 1 } else { 3 }] {
            let (lines, written) = serve(limits, &plain, *cut);
            let mut answered: Vec<_> = written.iter().map(|(id, m)| (*id, m.start[9..12].parse().unwrap())).collect();
            answered.sort_unstable();
            let (expected, mut answers) = match out {
                Out::Del(line) if id == 0 => (then(&[&format!("oneway {line}"), next, "closed -"]), vec![(9, 200)]),
                Out::Del(line) => (then(&[&format!("request 1 {line}"), next, "closed -"]), vec![(1, 200), (9, 200)]),
                Out::Ref(code, status) => {
                    let refused = format!("refused {id} {code}");
                    let answer = (id != 0).then_some((1, status));
                    let answers = answer.into_iter().chain([(9, 200)]).collect();
                    (then(&[&refused, next, "closed -"]), answers)
                }
                Out::Err(code) => (then(&[&format!("closed {code}")]), vec![]),
                Out::Amb(_) => unreachable!(),
            };
            answers.push((7, 200));
            answers.sort_unstable();
            assert_eq!(lines, expected, "{shown:?} cut {cut}");
            assert_eq!(answered, answers, "{shown:?} cut {cut}");
        }
    }
}

/// What a client makes of the message as the response to `method`, between two good responses.
pub fn check_client(limits: &Limits, method: &str, message: &[u8], out: Out) -> Vec<Response<Bytes>> {
    let shown = String::from_utf8_lossy(&message[..message.len().min(200)]).into_owned();
    let now = Instant::now();
    let good = |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{body}");
    let plain = [&HELLO[..], &frame(7, good("f")), &frame(1, message), &frame(9, good("n"))].concat();
    let mut responses = Vec::new();
    let cuts = [usize::MAX, 1, 7];
    for cut in &cuts[..if plain.len() > 10_000 { 1 } else { 3 }] {
        let mut client = limited_client(limits, now);
        for (id, method) in [(7, "GET"), (1, method), (9, "GET")] {
            client.set_next_id(id);
            client.send_request(now, &request(method, "/", ""), None).unwrap();
        }
        transmit(|out| client.poll_transmit(now, out));
        client.handle_input(now, HELLO);
        transmit(|out| client.poll_transmit(now, out));
        let mut events = feed_client(&mut client, now, &plain[15..], std::iter::repeat(*cut));
        client.handle_eof(now);
        events.extend(std::iter::from_fn(|| client.poll_event()));
        let lines: Vec<_> = events.iter().map(client_line).collect();
        let next = |line: String| vec![line, "response 9 200 \"n\"".into(), "closed -".into()];
        let expected = match out {
            Out::Del(line) => next(format!("response 1 {line}")),
            Out::Ref(code, _) => next(format!("failed 1 refused {code}")),
            Out::Err(code) => [1, 9]
                .map(|id| format!("failed {id} {code} maybe"))
                .into_iter()
                .chain([format!("closed {code}")])
                .collect(),
            Out::Amb(line) => vec![
                format!("response 1 {line}"),
                "failed 9 head-ambiguous maybe".into(),
                "closed head-ambiguous".into(),
            ],
        };
        assert_eq!(lines[..2], ["connected", "response 7 200 \"f\""]);
        assert_eq!(lines[2..], expected, "{method} {shown:?} cut {cut}");
        responses = events
            .into_iter()
            .filter_map(|event| match event {
                ClientEvent::Response { id, response } if id.get() == 1 => Some(response),
                _ => None,
            })
            .collect();
    }
    responses
}
