//! What `--recompress` gains and costs: gzipped JSON through a near and a far proxy, on loopback.
//!
//! Each request is a POST with a body gzipped on its own, and the origin sends the same back, so that both directions count.
//! `--requests N`, `--corpus FILE` (one body a line, may be xz) or bid requests from a seed.
//!
//! With `--programs` it tells instead of which programs that are installed here, and of how large bodies, `--recompress=exact`
//! gets the very bytes again.

// Callers and the origin are plain sockets on plain threads.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use flate2::Crc;
use httpteleport::proxy::{Inbound, Kind, Outbound, Proxy, ProxyConfig, ProxyStats, Recompress};
use smol::Executor;
use support::args::Args;
use support::corpus::Corpus;

/// Callers at once, each with a connection of its own.
const CALLERS: usize = 8;

/// Programs that compress what they read, and the coding that they make.
const PROGRAMS: [(&str, &[&str]); 17] = [
    ("gzip", &["gzip", "-1"]),
    ("gzip", &["gzip", "-6"]),
    ("gzip", &["gzip", "-9"]),
    ("gzip", &["pigz", "-6"]),
    ("gzip", &["python3", "-c", "import gzip,sys; sys.stdout.buffer.write(gzip.compress(sys.stdin.buffer.read(), 6))"]),
    ("gzip", &["node", "-e", "process.stdout.write(require('zlib').gzipSync(require('fs').readFileSync(0)))"]),
    (
        "deflate",
        &["python3", "-c", "import zlib,sys; sys.stdout.buffer.write(zlib.compress(sys.stdin.buffer.read(), 6))"],
    ),
    ("deflate", &["node", "-e", "process.stdout.write(require('zlib').deflateSync(require('fs').readFileSync(0)))"]),
    ("zstd", &["zstd", "-1"]),
    ("zstd", &["zstd", "-3"]),
    ("zstd", &["zstd", "-3", "--single-thread"]),
    ("zstd", &["zstd", "-9"]),
    (
        "zstd",
        &[
            "python3",
            "-c",
            "import zstandard,sys; sys.stdout.buffer.write(zstandard.compress(sys.stdin.buffer.read()))",
        ],
    ),
    ("br", &["brotli", "-c", "-q", "4"]),
    ("br", &["brotli", "-c", "-q", "5"]),
    ("br", &["brotli", "-c", "-q", "11"]),
    ("br", &["node", "-e", "process.stdout.write(require('zlib').brotliCompressSync(require('fs').readFileSync(0)))"]),
];
/// The sizes of the bodies that they get, decoded.
const SIZES: [usize; 8] = [1_500, 10_000, 30_000, 60_000, 100_000, 180_000, 500_000, 1_000_000];

fn main() {
    let args = Args::of_process();
    if args.has("programs") {
        return try_programs();
    }
    let requests = args.number("requests", 2_000) as usize;
    let corpus = Corpus::of(&args, requests);
    let plain: Vec<Bytes> = corpus.requests.iter().map(|request| request.body().clone()).collect();
    println!("{}", support::provenance());
    println!("{} of {}, zstd on the link, {CALLERS} callers, no batch delay", plain.len(), corpus.name);
    println!();
    println!(
        "| gzipped by | --recompress | bytes a request on the link | times smaller than HTTP | restored exactly | freely | passed | CPU, us a request |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (encoder, encode) in [("zlib-rs, level 6", zlib_rs as fn(&[u8]) -> Vec<u8>), ("miniz, level 6", miniz)] {
        let bodies: Vec<Vec<u8>> = plain.iter().map(|body| encode(body)).collect();
        for (name, mode) in [("off", Recompress::Off), ("exact", Recompress::Exact), ("content", Recompress::Content)] {
            measure(encoder, name, mode, &bodies);
        }
    }
}

/// For each program and size: by how much the body got smaller on the link, both ways, if it came back to the byte.
fn try_programs() {
    println!("{}", support::provenance());
    for (name, make) in
        [("JSON with random numbers", numbers as fn(usize) -> Vec<u8>), ("bid requests in a list", bids)]
    {
        println!(
            "\n{name}, --recompress=exact, zstd on the link: times smaller than the coded body, or - if it passed as it was\n"
        );
        println!("| program | coding | {} |", SIZES.map(|size| format!("{:.1} KB", size as f64 / 1e3)).join(" | "));
        println!("|---|---|{}", "---|".repeat(SIZES.len()));
        for (coding, command) in PROGRAMS {
            let shown = match command {
                ["python3", _, script] => {
                    format!("python3 {}", &script["import ".len()..script.find(',').unwrap_or(7)])
                }
                [program, "-e", _] => (*program).to_owned(),
                command => command.join(" "),
            };
            let cells = SIZES.map(|size| match run(command, &make(size)) {
                None => "not installed".to_owned(),
                Some(body) => try_one(coding, body).map_or("-".to_owned(), |times| format!("{times:.1}")),
            });
            println!("| {shown} | {coding} | {} |", cells.join(" | "));
        }
    }
}

fn try_one(coding: &str, body: Vec<u8>) -> Option<f64> {
    let (near, _far) = pair(Recompress::Exact);
    let bodies = [body];
    for _ in 0..2 {
        send(near.0, coding, &[b"x".to_vec()]);
    }
    let before = near.1();
    send(near.0, coding, &bodies);
    let after = near.1();
    let wire = |stats: &ProxyStats| stats.out_links.map_or(0, |link| link.wire_in + link.wire_out);
    let done = after.recompress.unwrap_or_default();
    // Decoded there, and restored of what the far proxy has decoded.
    let is_exact = (done.decoded_exactly, done.restored_exactly) == (1, 1);
    is_exact.then(|| (2 * bodies[0].len()) as f64 / (wire(&after) - wire(&before)) as f64)
}

/// What a program makes of `plain`. None if there is no such program.
fn run(command: &[&str], plain: &[u8]) -> Option<Vec<u8>> {
    let mut child = Command::new(command[0])
        .args(&command[1..])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take().expect("it is piped");
    let output = thread::scope(|scope| {
        scope.spawn(move || input.write_all(plain));
        child.wait_with_output().expect("the program ends")
    });
    // A program without the library that its script is about.
    output.status.success().then_some(output.stdout)
}

fn numbers(size: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let items =
        (0..).flat_map(|n| format!("{{\"id\": {n}, \"name\": \"user {n}\", \"x\": {}}}, ", random.f64()).into_bytes());
    items.take(size).collect()
}

fn bids(size: usize) -> Vec<u8> {
    let requests = Corpus::made_up(size / 1_000 + 1).requests;
    requests.iter().flat_map(|request| [request.body(), &b",\n"[..]].concat()).take(size).collect()
}

fn measure(encoder: &str, name: &str, mode: Recompress, bodies: &[Vec<u8>]) {
    let (near, _far) = pair(mode);
    // So that each end knows the other.
    for _ in 0..2 {
        send(near.0, "gzip", &bodies[..1]);
    }
    let (before, began) = (near.1(), support::cpu_time());
    let http: u64 = thread::scope(|scope| {
        let callers: Vec<_> = bodies
            .chunks(bodies.len().div_ceil(CALLERS))
            .map(|bodies| scope.spawn(|| send(near.0, "gzip", bodies)))
            .collect();
        callers.into_iter().map(|caller| caller.join().expect("a caller ends")).sum()
    });
    let cpu = (support::cpu_time() - began).as_secs_f64() * 1e6 / bodies.len() as f64;
    let after = near.1();
    let wire = |stats: &ProxyStats| stats.out_links.map_or(0, |link| link.wire_in + link.wire_out);
    let wire = wire(&after) - wire(&before);
    let done = after.recompress.unwrap_or_default();
    let passed: u64 = done.passed().map(|(_, count)| count).sum();
    println!(
        "| {encoder} | {name} | {:.0} | {:.1} | {} | {} | {passed} | {cpu:.0} |",
        wire as f64 / bodies.len() as f64,
        http as f64 / wire as f64,
        done.restored_exactly,
        done.restored_freely,
    );
}

/// A near proxy, a far one, and an origin that sends back what it gets.
fn pair(mode: Recompress) -> (Started<impl Fn() -> ProxyStats>, Started<impl Fn() -> ProxyStats>) {
    let origin = origin();
    let far = start(ProxyConfig {
        inbound: Inbound { addr: "127.0.0.1:0".into(), kind: Kind::Teleport, prefer_zstd: true, ..Inbound::default() },
        outbound: Outbound { addr: origin.to_string(), kind: Kind::Http, timeout: None, ..Outbound::default() },
        recompress: mode,
        ..ProxyConfig::default()
    });
    let near = start(ProxyConfig {
        inbound: Inbound { addr: "127.0.0.1:0".into(), ..Inbound::default() },
        outbound: Outbound { addr: far.0.to_string(), prefer_zstd: true, timeout: None, ..Outbound::default() },
        recompress: mode,
        ..ProxyConfig::default()
    });
    (near, far)
}

/// Sends each body and checks its answer. Returns how many bytes of HTTP that was.
fn send(proxy: SocketAddr, coding: &str, bodies: &[Vec<u8>]) -> u64 {
    let mut stream = TcpStream::connect(proxy).expect("the proxy listens");
    stream.set_nodelay(true).expect("TCP");
    let mut bytes = 0;
    for body in bodies {
        let head = format!(
            "POST /bid?src=partner HTTP/1.1\r\nHost: rtb.example.com\r\nContent-Type: application/json\r\n\
             X-OpenRTB-Version: 2.5\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let request = [head.as_bytes(), body].concat();
        stream.write_all(&request).expect("the proxy reads");
        let (head, answer) = read(&mut stream).expect("the proxy answers");
        assert!(head.starts_with("HTTP/1.1 200") && head.contains(coding), "{head}");
        bytes += request.len() + head.len() + answer.len();
    }
    bytes as u64
}

/// A message: its head, and the body of its Content-Length.
fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&chunk[..n]);
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).ok()?;
    let length: usize = field(&head, "content-length")?.parse().ok()?;
    while body.len() < length {
        let n = stream.read(&mut chunk).ok().filter(|n| *n > 0)?;
        body.extend_from_slice(&chunk[..n]);
    }
    Some((head, body))
}

fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

/// An origin that sends back what it gets.
fn origin() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
    let addr = listener.local_addr().expect("it has an address");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                while let Some((head, body)) = read(&mut stream) {
                    let coding = field(&head, "content-encoding").unwrap_or_default();
                    let head = format!(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: {coding}\r\nContent-Length: {}\r\n\r\n",
                        body.len()
                    );
                    if stream.write_all(&[head.as_bytes(), &body].concat()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    addr
}

/// A proxy that runs until the process ends: where it listens, and what reads its figures.
type Started<F> = (SocketAddr, F);

fn start(config: ProxyConfig) -> Started<impl Fn() -> ProxyStats> {
    let executor = Arc::new(Executor::new());
    let proxy = smol::block_on(Proxy::bind(config, executor.clone())).expect("it can listen");
    let (addr, stats) = (proxy.local_addr().tcp().expect("a TCP listener"), proxy.stats());
    thread::spawn(move || smol::block_on(executor.run(proxy.run(std::future::pending()))));
    (addr, move || stats.read())
}

fn zlib_rs(plain: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
    encoder.write_all(plain).and_then(|()| encoder.finish()).expect("memory takes it")
}

/// By an encoder that the proxies do not have.
fn miniz(plain: &[u8]) -> Vec<u8> {
    let mut crc = Crc::new();
    crc.update(plain);
    let stream = miniz_oxide::deflate::compress_to_vec(plain, 6);
    let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    [&header[..], &stream, &crc.sum().to_le_bytes(), &(plain.len() as u32).to_le_bytes()].concat()
}
