//! Compressed bodies through a near and a far proxy: what the origin and the caller get, and what is on the link.

// Callers and origins are real sockets in real time.
#![cfg(all(feature = "preflate", feature = "thread"))]
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use common::{Running, http_config};
use flate2::Compression;
use flate2::write::GzEncoder;
use http::{HeaderMap, Request};
use httpteleport::driver::ClientOptions;
use httpteleport::driver::thread::Client;
use httpteleport::proxy::{Kind, ProxyConfig, Recompress};

const PATIENCE: Duration = Duration::from_secs(40);

/// A message with a body of any bytes.
#[derive(Clone, Debug, Default, PartialEq)]
struct Whole {
    start: String,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Whole {
    fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let value = values.next().map(|(_, value)| &**value);
        assert!(values.next().is_none(), "{name} stands once");
        value
    }

    fn bytes(&self) -> Vec<u8> {
        let fields: String = self.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = self.body.len();
        [format!("{}\r\n{fields}Content-Length: {length}\r\n\r\n", self.start).as_bytes(), &self.body].concat()
    }

    fn read(stream: &mut TcpStream) -> Option<Self> {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            if stream.read(&mut byte).unwrap_or(0) == 0 {
                return None;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let start = lines.next()?.to_owned();
        let fields =
            lines.filter_map(|line| line.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        let mut message = Self { start, fields, body: Vec::new() };
        let length = message.field("content-length").map_or(0, |length| length.parse().unwrap());
        message.body = vec![0; length];
        stream.read_exact(&mut message.body).ok()?;
        Some(message)
    }

    fn has_field_of_proxies(&self) -> bool {
        self.fields.iter().any(|(name, _)| name.to_ascii_lowercase().starts_with("teleport-"))
    }
}

fn request(fields: &[(&str, &str)], body: &[u8]) -> Whole {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let fields = [("Host", "h")].iter().chain(fields).map(owned).collect();
    Whole { start: "POST /x HTTP/1.1".into(), fields, body: body.to_vec() }
}

fn response(fields: &[(&str, &str)], body: &[u8]) -> Whole {
    let mut response = request(fields, body);
    response.fields.remove(0);
    response.start = "HTTP/1.1 200 OK".into();
    response
}

/// An origin that keeps what it was sent.
struct Origin {
    addr: SocketAddr,
    seen: Receiver<Whole>,
}

impl Origin {
    fn answering(answer: impl Fn(&Whole) -> Whole + Clone + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let (tell, seen) = mpsc::channel();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (answer, tell) = (answer.clone(), tell.clone());
                thread::spawn(move || {
                    while let Some(request) = Whole::read(&mut stream) {
                        let answer = answer(&request);
                        if tell.send(request).is_err() || stream.write_all(&answer.bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, seen }
    }

    /// Sends back what it gets, coded as it came.
    fn echo() -> Self {
        Self::answering(|request| {
            let coding = request.field("content-encoding").map(|coding| ("Content-Encoding", coding));
            let etag = request.field("x-etag").map(|etag| ("ETag", etag));
            response(&coding.into_iter().chain(etag).collect::<Vec<_>>(), &request.body)
        })
    }
}

struct Pair {
    near: Running,
    far: Running,
    caller: TcpStream,
}

impl Pair {
    fn start(origin: &Origin, near_mode: Recompress, far_mode: Recompress) -> Self {
        Self::with(origin, |near, far| (near.recompress, far.recompress) = (near_mode, far_mode))
    }

    fn with(origin: &Origin, configure: impl FnOnce(&mut ProxyConfig, &mut ProxyConfig)) -> Self {
        let mut far = http_config(origin.addr);
        far.inbound.kind = Kind::Teleport;
        let mut near = http_config(origin.addr);
        near.outbound.kind = Kind::Teleport;
        (far.inbound.prefer_zstd, near.outbound.prefer_zstd) = (true, true);
        configure(&mut near, &mut far);
        let far = Running::start(far);
        near.outbound.addr = far.addr().to_string();
        let near = Running::start(near);
        let caller = TcpStream::connect(near.addr()).unwrap();
        caller.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { near, far, caller }
    }

    fn exchange(&mut self, request: &Whole) -> Whole {
        self.caller.write_all(&request.bytes()).unwrap();
        Whole::read(&mut self.caller).unwrap()
    }

    /// Has the near proxy learn what the far one restores.
    fn greet(&mut self, origin: &Origin) {
        // The first goes out before there is a link, so that its answer says nothing of who is at the end of which one.
        for _ in 0..2 {
            assert_eq!(self.exchange(&request(&[], b"hello")).body, b"hello");
            origin.seen.recv_timeout(PATIENCE).unwrap();
        }
    }

    fn decoded(&self) -> [u64; 2] {
        [&self.near, &self.far].map(|proxy| {
            let stats = proxy.stats().recompress.unwrap_or_default();
            stats.decoded_exactly + stats.decoded_freely
        })
    }

    fn passed(&self, reason: &str) -> [u64; 2] {
        [&self.near, &self.far].map(|proxy| {
            let stats = proxy.stats().recompress.unwrap_or_default();
            stats.passed().filter(|(name, _)| *name == reason).map(|(_, count)| count).sum()
        })
    }
}

fn gzip(plain: &[u8], level: u32) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level));
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

fn brotli(plain: &[u8]) -> Vec<u8> {
    let params = brotli::enc::BrotliEncoderParams { quality: 5, ..Default::default() };
    let mut coded = Vec::new();
    brotli::BrotliCompress(&mut &*plain, &mut coded, &params).unwrap();
    coded
}

/// JSON in which one number of many digits follows the other.
fn numbers(count: u32) -> Vec<u8> {
    let digits = |n: u32| u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (0..count).flat_map(|n| format!("{{\"id\": {n}, \"x\": {}}}, ", digits(n)).into_bytes()).collect()
}

fn gunzip(coded: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::MultiGzDecoder::new(coded).read_to_end(&mut plain).unwrap();
    plain
}

fn file(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/tests/data/coded/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[test]
fn each_coding_both_ways_to_the_byte() {
    let origin = Origin::echo();
    let mut pair = Pair::start(&origin, Recompress::Exact, Recompress::Exact);
    let bodies = [
        ("gzip-1.gz", "gzip"),
        ("gzip-6.gz", "gzip"),
        ("gzip-9.gz", "gzip"),
        ("full-header.gz", "gzip"),
        ("python-zlib-6.zz", "deflate"),
        ("brotli by its crate", "br"),
        ("zstd-3.zst", "zstd"),
        ("a long recipe", "deflate"),
    ];
    pair.greet(&origin);
    for (n, (name, coding)) in bodies.into_iter().enumerate() {
        let coded = match name {
            "brotli by its crate" => brotli(&file("items.json")),
            "a long recipe" => miniz_oxide::deflate::compress_to_vec_zlib(&numbers(4_000), 6),
            _ => file(name),
        };
        let answer = pair.exchange(&request(&[("Content-Encoding", coding), ("X-ETag", "\"strong\"")], &coded));
        let seen = origin.seen.recv_timeout(PATIENCE).unwrap();
        for message in [&seen, &answer] {
            assert!(message.body == coded, "{name}");
            assert_eq!(message.field("content-encoding"), Some(coding), "{name}");
            assert!(!message.has_field_of_proxies(), "{message:?}");
        }
        assert_eq!(answer.field("etag"), Some("\"strong\""));
        assert_eq!(pair.decoded(), [n as u64 + 1; 2], "{name}");
    }
    for proxy in [&pair.near, &pair.far] {
        let stats = proxy.stats().recompress.unwrap();
        assert_eq!((stats.restored_exactly, stats.restored_freely, stats.not_restored), (bodies.len() as u64, 0, 0));
        assert!(stats.decoded_bytes > 3 * stats.coded_bytes, "{stats:?}");
    }
}

#[test]
fn the_content_alone_where_nothing_depends_on_the_bytes() {
    let origin = Origin::echo();
    let mut pair = Pair::start(&origin, Recompress::Content, Recompress::Content);
    pair.greet(&origin);
    let coded = file("gzip-9.gz");
    let answer = pair.exchange(&request(&[("Content-Encoding", "gzip"), ("X-ETag", "W/\"weak\"")], &coded));
    let seen = origin.seen.recv_timeout(PATIENCE).unwrap();
    for message in [&seen, &answer] {
        assert!(gunzip(&message.body) == file("items.json"));
        assert_eq!(message.field("content-encoding"), Some("gzip"));
    }
    assert_eq!(answer.field("etag"), Some("W/\"weak\""));
    // The origin has what the proxies made of it; with a strong ETag that comes back to the byte.
    let answer = pair.exchange(&request(&[("Content-Encoding", "gzip"), ("X-ETag", "\"strong\"")], &coded));
    assert!(answer.body == origin.seen.recv_timeout(PATIENCE).unwrap().body);
    let (near, far) = (pair.near.stats().recompress.unwrap(), pair.far.stats().recompress.unwrap());
    assert_eq!((near.restored_freely, near.restored_exactly), (1, 1), "{near:?}");
    assert_eq!((far.restored_freely, far.restored_exactly), (2, 0), "{far:?}");
}

#[test]
fn a_peer_that_does_not_restore_gets_bodies_as_they_are() {
    for (near, far) in [(Recompress::Exact, Recompress::Off), (Recompress::Off, Recompress::Exact)] {
        let origin = Origin::echo();
        let mut pair = Pair::start(&origin, near, far);
        pair.greet(&origin);
        let coded = file("gzip-6.gz");
        for _ in 0..2 {
            let answer = pair.exchange(&request(&[("Content-Encoding", "gzip")], &coded));
            let seen = origin.seen.recv_timeout(PATIENCE).unwrap();
            for message in [&seen, &answer] {
                assert!(message.body == coded && !message.has_field_of_proxies());
            }
        }
        assert_eq!(pair.decoded(), [0, 0]);
        assert_eq!(pair.passed("unasked").iter().sum::<u64>(), 2);
    }
}

#[test]
fn nothing_is_decoded_for_a_far_proxy_that_took_the_place_of_another() {
    let origin = Origin::echo();
    let mut pair = Pair::start(&origin, Recompress::Exact, Recompress::Exact);
    pair.greet(&origin);
    let coded = file("gzip-6.gz");
    let coded_request = request(&[("Content-Encoding", "gzip")], &coded);
    pair.exchange(&coded_request);
    origin.seen.recv_timeout(PATIENCE).unwrap();
    assert_eq!(pair.decoded(), [1, 1]);
    let mut config = http_config(origin.addr);
    (config.inbound.kind, config.inbound.addr) = (Kind::Teleport, pair.far.addr().to_string());
    let other = Running::start({
        let old = std::mem::replace(&mut pair.far, Running::start(http_config(origin.addr)));
        old.stop();
        config
    });
    let before = pair.near.stats().recompress.unwrap();
    let answer = pair.exchange(&coded_request);
    assert!(answer.body == coded && answer.start == "HTTP/1.1 200 OK", "{answer:?}");
    assert!(
        origin.seen.recv_timeout(PATIENCE).unwrap() == {
            let mut expected = coded_request.clone();
            expected.fields.push(("Content-Length".into(), coded.len().to_string()));
            expected.fields = expected.fields.into_iter().map(|(name, value)| (name.to_lowercase(), value)).collect();
            expected
        }
    );
    assert_eq!(other.stats().requests, 1);
    let after = pair.near.stats().recompress.unwrap();
    assert_eq!(after.restored_exactly, before.restored_exactly);
}

#[test]
fn what_outsiders_write_into_the_fields_of_proxies_goes() {
    for mode in [Recompress::Off, Recompress::Content] {
        let origin = Origin::answering(|_| {
            let fields = [("Teleport-Coding", "gzip"), ("Teleport-Recompress", "limit=1, gzip"), ("X-Own", "1")];
            response(&fields, b"plain")
        });
        let mut pair = Pair::start(&origin, mode, mode);
        for _ in 0..2 {
            let fields = [("Teleport-Coding", "gzip"), ("Teleport-Recompress", "limit=1, gzip"), ("X-Own", "1")];
            let answer = pair.exchange(&request(&fields, b"asked"));
            let seen = origin.seen.recv_timeout(PATIENCE).unwrap();
            for (message, body) in [(&seen, "asked"), (&answer, "plain")] {
                assert!(message.body == body.as_bytes() && !message.has_field_of_proxies(), "{message:?}");
                assert_eq!((message.field("content-encoding"), message.field("x-own")), (None, Some("1")));
            }
        }
    }
}

#[test]
fn bombs_and_broken_bodies_pass_as_they_are() {
    let origin = Origin::echo();
    // The far proxy takes bodies up to 256 KiB, and so does the near one.
    let mut pair = Pair::with(&origin, |near, far| {
        for config in [near, far] {
            config.recompress = Recompress::Content;
            (config.inbound.max_body_bytes, config.outbound.max_body_bytes) = (256 * 1024, 256 * 1024);
        }
    });
    pair.greet(&origin);
    let bomb = gzip(&vec![b'0'; 20_000_000], 9);
    assert!(bomb.len() < 64 * 1024);
    let good = file("gzip-6.gz");
    let cut = good[..good.len() - 3].to_vec();
    let longer = [&good[..], b"garbage"].concat();
    for body in [bomb, cut, longer, vec![b'?'; 300]] {
        let answer = pair.exchange(&request(&[("Content-Encoding", "gzip")], &body));
        assert!(answer.body == body && origin.seen.recv_timeout(PATIENCE).unwrap().body == body);
    }
    assert_eq!((pair.decoded(), pair.passed("too_large"), pair.passed("malformed")), ([0, 0], [1, 1], [3, 3]));
    // The limit of the smaller one counts for both.
    let large = gzip(&b"0123456789".repeat(30_000), 6);
    let answer = pair.exchange(&request(&[("Content-Encoding", "gzip")], &large));
    assert!(answer.body == large && pair.passed("too_large") == [2, 2]);
}

#[test]
fn what_may_not_be_transformed_is_not() {
    let origin = Origin::echo();
    let mut pair = Pair::start(&origin, Recompress::Exact, Recompress::Exact);
    pair.greet(&origin);
    let coded = file("gzip-6.gz");
    for (name, value) in [("Cache-Control", "no-transform"), ("Content-Digest", "sha-256=:AA==:"), ("Digest", "x")] {
        let answer = pair.exchange(&request(&[("Content-Encoding", "gzip"), (name, value)], &coded));
        assert!(answer.body == coded && origin.seen.recv_timeout(PATIENCE).unwrap().body == coded);
    }
    // The origin's answers had no such field.
    assert_eq!(pair.decoded(), [0, 3]);
    assert_eq!((pair.passed("no_transform"), pair.passed("digest")), ([1, 0], [2, 0]));
}

#[test]
fn a_proxy_between_links_needs_to_know_nothing() {
    let origin = Origin::echo();
    let mut far = http_config(origin.addr);
    (far.inbound.kind, far.recompress, far.inbound.prefer_zstd) = (Kind::Teleport, Recompress::Exact, true);
    let far = Running::start(far);
    let mut middle = http_config(far.addr());
    (middle.inbound.kind, middle.outbound.kind) = (Kind::Teleport, Kind::Teleport);
    (middle.inbound.prefer_zstd, middle.outbound.prefer_zstd) = (true, true);
    let middle = Running::start(middle);
    let mut near = http_config(middle.addr());
    (near.outbound.kind, near.recompress, near.outbound.prefer_zstd) = (Kind::Teleport, Recompress::Exact, true);
    let near = Running::start(near);
    let caller = TcpStream::connect(near.addr()).unwrap();
    let mut pair = Pair { near, far, caller };
    pair.greet(&origin);
    let coded = file("gzip-6.gz");
    let answer = pair.exchange(&request(&[("Content-Encoding", "gzip")], &coded));
    assert!(answer.body == coded && origin.seen.recv_timeout(PATIENCE).unwrap().body == coded);
    assert_eq!(pair.decoded(), [1, 1]);
}

#[test]
fn on_the_link_a_marked_message_is_valid_without_its_mark() {
    let origin = Origin::echo();
    let mut far = http_config(origin.addr);
    (far.inbound.kind, far.recompress) = (Kind::Teleport, Recompress::Content);
    let far = Running::start(far);
    let client = Client::new(far.addr(), ClientOptions::default());
    let coded = gzip(&file("items.json"), 6);
    let exchange = |fields: &[(&str, &str)]| {
        let mut request = Request::post("/").header("host", "h").header("content-encoding", "gzip");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let (parts, body) = client.request(request.body(coded.clone().into()).unwrap(), PATIENCE).unwrap().into_parts();
        (parts.headers, body)
    };
    let is_as_it_came = |(headers, body): &(HeaderMap, Bytes)| {
        *body == coded && headers["content-encoding"] == "gzip" && !headers.contains_key("teleport-coding")
    };
    // Who has not asked, or for something else, or not for so much, gets it as it is.
    let silent = exchange(&[]);
    assert!(is_as_it_came(&silent) && !silent.0.contains_key("teleport-recompress"));
    for asked in ["limit=99999, br", "limit=1000, gzip", "gzip"] {
        assert!(is_as_it_came(&exchange(&[("teleport-recompress", asked)])), "{asked}");
    }
    assert!(is_as_it_came(&exchange(&[("teleport-recompress", "limit=9999, gzip"), ("x-etag", "\"a\"")])));
    let (headers, body) = exchange(&[("teleport-recompress", "limit=9999, gzip"), ("x-etag", "W/\"a\"")]);
    assert!(body == file("items.json"));
    assert_eq!(
        (&headers["teleport-coding"], &headers["etag"]),
        (&"gzip".parse().unwrap(), &"W/\"a\"".parse().unwrap())
    );
    assert!(!headers.contains_key("content-encoding"));
    assert_eq!(headers["content-length"], body.len().to_string());
    assert!(
        headers["teleport-recompress"]
            .to_str()
            .unwrap()
            .starts_with("limit=16777216, head=65536, gzip, deflate, br, zstd, ")
    );
}

#[test]
fn of_an_end_that_may_be_an_original_no_costly_recipe_is_taken() {
    let origin = Origin::echo();
    let mut pair = Pair::with(&origin, |near, far| {
        (near.recompress, far.recompress) = (Recompress::Exact, Recompress::Exact);
        (far.inbound.prefer_zstd, near.outbound.prefer_zstd) = (false, false);
    });
    pair.greet(&origin);
    for (coded, decoded) in [(gzip(&file("items.json"), 6), 1), (file("gzip-6.gz"), 1)] {
        let answer = pair.exchange(&request(&[("Content-Encoding", "gzip")], &coded));
        assert!(answer.body == coded && origin.seen.recv_timeout(PATIENCE).unwrap().body == coded);
        assert_eq!(pair.decoded(), [decoded; 2]);
    }
    assert_eq!(pair.passed("not_reproducible"), [1, 1]);
}

#[test]
fn the_link_carries_less() {
    let wire = |mode| {
        let origin = Origin::echo();
        let mut pair = Pair::with(&origin, |near, far| {
            for config in [near, far] {
                config.recompress = mode;
            }
        });
        pair.greet(&origin);
        let items: Vec<serde_json::Value> = serde_json::from_slice(&file("items.json")).unwrap();
        for items in items.chunks(2) {
            let coded = gzip(&serde_json::to_vec(items).unwrap(), 6);
            assert!(pair.exchange(&request(&[("Content-Encoding", "gzip")], &coded)).body == coded);
        }
        let link = pair.near.stats().out_links.unwrap();
        link.wire_in + link.wire_out
    };
    let [off, content, exact] = [Recompress::Off, Recompress::Content, Recompress::Exact].map(wire);
    assert!(content * 4 < off * 3 && exact * 10 < off * 9, "{off} {content} {exact}");
}
