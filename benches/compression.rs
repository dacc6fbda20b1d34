//! Every compression and level on a corpus: how small, how fast, how much memory, at 1, 10 and 100 messages a flush; each
//! beside its bare codec, so that the overhead of the core shows.
//!
//! `cargo bench -p httpteleport --features zstd --bench compression -- --corpus FILE`; without a file the requests are made
//! up. `--messages N` is how many are read, `--only deflate` chooses, `--rounds N` is how often each is measured, `--svg
//! FILE` draws bytes against CPU. `--dump FILE` writes the bodies, one a line, and that is all.

#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

mod support;

use std::process::Command;
use std::time::Instant;

use bytes::Bytes;
use http::Request;
use httpteleport::proto::{
    ClientConfig, ClientConnection, Compression, Config, ServerConfig, ServerConnection, ServerEvent,
};
use support::args::Args;
use support::codec::Codec;
use support::corpus::Corpus;
use support::pair::config;
use support::plot::{Point, plot};
use support::{cpu_time, provenance};

/// Messages a flush.
const BATCHES: [usize; 3] = [1, 10, 100];
/// The batch that the plot shows, and with which memory is measured.
const PLOTTED: usize = 10;
/// Links made to see how much memory one takes.
const LINKS: usize = 16;
/// Plain bytes that have passed a link when its memory counts: a half more than the largest window, which is zstd's.
const PASSED: u64 = 3 << 20;

fn main() {
    let args = Args::of_process();
    let corpus = Corpus::of(&args, args.number("messages", 4_000) as usize);
    if let Some(case) = args.value("memory") {
        let codec = Codec::all().into_iter().find(|codec| codec.to_string() == case).expect("there is such a codec");
        return print_memory(codec, &corpus);
    }
    if let Some(file) = args.value("dump") {
        // For other programs: the bodies, one a line.
        let bodies = corpus.requests.iter().flat_map(|request| request.body().iter().copied().chain([b'\n']));
        return std::fs::write(file, bodies.collect::<Vec<u8>>()).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let rounds = args.number("rounds", 3);
    println!("{}", provenance());
    println!("{} messages of {}, mean {:.0} bytes", corpus.requests.len(), corpus.name, mean(&corpus));
    println!("MB/s of plain bytes, CPU; out: compress, in: decompress; core / bare: of both together\n");
    println!(
        "| codec | messages a flush | times smaller | bytes a message | bare out | bare in | core out | core in | core / bare | us a message, both ends | KB near | KB far |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut points = Vec::new();
    for codec in
        Codec::all().into_iter().filter(|codec| codec.to_string().starts_with(args.value("only").unwrap_or_default()))
    {
        let memory = memory(codec, &args);
        for batch in BATCHES {
            let figures = (0..rounds.max(1)).map(|_| Figures::measure(codec, batch, &corpus)).reduce(Figures::least);
            let figures = figures.expect("there is a round");
            let messages = corpus.requests.len() as f64;
            let (bytes, us) = (figures.wire / messages, 1e6 * (figures.core.0 + figures.core.1) / messages);
            let speed = |seconds: f64| format!("{:.0}", figures.plain / seconds / 1e6);
            println!(
                "| {codec} | {batch} | {:.1} | {bytes:.0} | {} | {} | {} | {} | {:.0} % | {us:.2} | {} | {} |",
                figures.plain / figures.wire,
                speed(figures.bare.0),
                speed(figures.bare.1),
                speed(figures.core.0),
                speed(figures.core.1),
                100.0 * (figures.bare.0 + figures.bare.1) / (figures.core.0 + figures.core.1),
                memory.0,
                memory.1,
            );
            if batch == PLOTTED {
                points.push(Point { label: codec.to_string(), x: us, y: bytes });
            }
        }
    }
    if let Some(file) = args.value("svg") {
        let title = format!("{}, {PLOTTED} messages a flush", corpus.name);
        let svg = plot(&title, "CPU of both ends, us a message", "bytes a message on the wire", &points);
        std::fs::write(file, svg).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
}

fn mean(corpus: &Corpus) -> f64 {
    corpus.requests.iter().map(|request| request.body().len()).sum::<usize>() as f64 / corpus.requests.len() as f64
}

/// What all messages cost: bytes, and seconds of CPU out and in.
struct Figures {
    plain: f64,
    wire: f64,
    bare: (f64, f64),
    core: (f64, f64),
}

impl Figures {
    fn measure(codec: Codec, batch: usize, corpus: &Corpus) -> Self {
        let plain = batches(&Codec::None, batch, &corpus.requests).0;
        let (wire, out) = batches(&codec, batch, &corpus.requests);
        let into = receive(&codec, &wire, corpus.requests.len());
        let sum = |batches: &[Vec<u8>]| batches.iter().map(Vec::len).sum::<usize>() as f64;
        Self { plain: sum(&plain), wire: sum(&wire), bare: codec.bare(&plain), core: (out, into) }
    }

    fn least(self, other: Self) -> Self {
        let least = |a: (f64, f64), b: (f64, f64)| (a.0.min(b.0), a.1.min(b.1));
        Self { bare: least(self.bare, other.bare), core: least(self.core, other.core), ..self }
    }
}

/// Writes all requests with the core, so many to a flush; returns the wire of each flush and the CPU seconds.
fn batches(codec: &Codec, batch: usize, requests: &[Request<Bytes>]) -> (Vec<Vec<u8>>, f64) {
    let mut client = client(codec);
    let now = Instant::now();
    let begin = cpu_time();
    let wire = requests.chunks(batch).map(|requests| {
        for request in requests {
            client.send_request(now, request, None).expect("the request can be sent");
        }
        let mut wire = Vec::new();
        while client.poll_transmit(now, &mut wire) > 0 {}
        wire
    });
    (wire.collect(), (cpu_time() - begin).as_secs_f64())
}

/// A client whose hellos are through.
fn client(codec: &Codec) -> ClientConnection {
    let now = Instant::now();
    let mut client = ClientConnection::new(ClientConfig { config: configured(codec), tls: false }, now);
    let mut server = server();
    let (mut hello, mut answer) = (Vec::new(), Vec::new());
    client.poll_transmit(now, &mut hello);
    server.handle_input(now, &hello);
    server.poll_transmit(now, &mut answer);
    client.handle_input(now, &answer);
    client
}

fn server() -> ServerConnection {
    ServerConnection::new(ServerConfig { config: config(Compression::None), ..ServerConfig::default() }, Instant::now())
}

fn configured(codec: &Codec) -> Config {
    Config { level: codec.level(), ..config(codec.compression()) }
}

/// A server that has had the hello of a client of `codec`.
fn server_of(codec: &Codec) -> ServerConnection {
    let (mut server, now) = (server(), Instant::now());
    let mut hello = Vec::new();
    ClientConnection::new(ClientConfig { config: configured(codec), tls: false }, now).poll_transmit(now, &mut hello);
    server.handle_input(now, &hello);
    server.poll_transmit(now, &mut Vec::new());
    server
}

/// Reads with the core what a client of `codec` has sent; returns the CPU seconds.
fn receive(codec: &Codec, wire: &[Vec<u8>], requests: usize) -> f64 {
    let mut server = server_of(codec);
    let begin = cpu_time();
    let mut received = 0;
    for flush in wire {
        take(&mut server, flush, |event| match event {
            ServerEvent::Request { request, .. } => received += usize::from(!request.body().is_empty()),
            ServerEvent::Connected { .. } => {}
            event => panic!("{event:?}"),
        });
    }
    let cpu = cpu_time() - begin;
    assert_eq!(received, requests);
    cpu.as_secs_f64()
}

/// All of a flush goes in, and all events come out.
fn take(server: &mut ServerConnection, flush: &[u8], mut take: impl FnMut(ServerEvent)) {
    let (mut rest, now) = (flush, Instant::now());
    while !rest.is_empty() || server.poll_timeout().is_some_and(|at| at <= now) {
        rest = &rest[server.handle_input(now, rest)..];
        server.handle_timeout(now);
        while let Some(event) = server.poll_event() {
            take(event);
        }
    }
}

/// KB that a near and a far end take, measured in a process of its own: what another codec has left would be used again.
fn memory(codec: Codec, args: &Args) -> (String, String) {
    let program = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(program);
    command.args(["--memory", &codec.to_string()]);
    for name in ["corpus", "messages"] {
        command.args(args.value(name).map(|value| format!("--{name}={value}")));
    }
    // With a threshold that stays where it is, large blocks come from the system and go back to it: none that was freed, by
    // the reading of a file perhaps, serves a link unseen.
    let output = command.env("MALLOC_MMAP_THRESHOLD_", "131072").output().expect("this program can be run");
    let text = String::from_utf8_lossy(&output.stdout);
    let kb = text.trim().split_once(' ').filter(|_| output.status.success());
    let (near, far) = kb.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    (near.to_owned(), far.to_owned())
}

fn print_memory(codec: Codec, corpus: &Corpus) {
    let mut wire = Vec::new();
    // The first client is not counted: what a process needs once is there then.
    let first = passed(&codec, corpus, |flush| wire.push(flush.to_vec()));
    let begin = resident();
    let near: Vec<_> = (0..LINKS).map(|_| passed(&codec, corpus, |_| {})).collect();
    let middle = resident();
    let far: Vec<_> = (0..LINKS)
        .map(|_| {
            let mut server = server_of(&codec);
            for flush in &wire {
                take(&mut server, flush, drop);
            }
            server
        })
        .collect();
    let end = resident();
    let sent = first.stats().plain_out;
    assert!(near.iter().all(|client| client.stats().plain_out == sent));
    assert!(far.iter().all(|server| server.stats().plain_in == sent));
    println!("{} {}", (middle - begin) / LINKS as i64, (end - middle) / LINKS as i64);
}

/// A client that has sent the corpus, over and over, until its window is full, and keeps nothing of it: `flush` is given
/// all that it has for the wire.
fn passed(codec: &Codec, corpus: &Corpus, mut flush: impl FnMut(&[u8])) -> ClientConnection {
    let (mut client, now) = (client(codec), Instant::now());
    let mut wire = Vec::new();
    let mut batches = corpus.requests.chunks(PLOTTED).cycle();
    while client.stats().plain_out < PASSED {
        // Of oneways a server has nothing to remember.
        for request in batches.next().expect("it never ends") {
            client.send_oneway(now, request).expect("the request can be sent");
        }
        wire.clear();
        while client.poll_transmit(now, &mut wire) > 0 {}
        flush(&wire);
    }
    client
}

/// KB of this process that are in memory.
fn resident() -> i64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
