//! What the core costs: nanoseconds, allocations and instructions of encoding, decoding, exchanging and polling.
//!
//! `cargo bench -p httpteleport --features zstd --bench core`: times, on this machine; with `--allocations` these, too, by
//! valgrind. After `--`:
//!
//! - `--instructions`: instructions, counted by valgrind: the same on any machine with the same compiler, however busy it is.
//! - `--check`: counts them and fails if a case has moved by more than 5 % from `benches/instructions.txt` (`--tolerance
//!   PERCENT`), or if one that stands there is not counted. `--write` makes that file anew.
//! - `--only NAME`: the cases whose names begin so.

#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

mod support;

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::proto::{ClientConfig, ClientConnection, Compression, ServerConfig, ServerConnection, ServerEvent};
use support::args::Args;
use support::corpus::Corpus;
use support::pair::{Pair, config};
use support::valgrind::{allocations, instructions};
use support::{ORIGINAL_BODY, measure, provenance};

const BASELINE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/instructions.txt");
/// What counts every case, but for its last argument.
const WHOLE: &str = "cargo bench -p httpteleport --features zstd --bench core --";
/// Operations that valgrind sees: it is some fifty times slower than the machine.
const COUNTED: u64 = 2_000;

/// A case: what it is called, and what does it `n` times.
struct Case {
    name: &'static str,
    make: fn() -> Box<dyn FnMut(u64)>,
}

const CASES: &[Case] = &[
    Case { name: "connect", make: connect },
    Case { name: "request-out", make: || request_out(get()) },
    Case { name: "request-in", make: || request_in(get(), usize::MAX) },
    Case { name: "request-in-bytewise", make: || request_in(get(), 1) },
    Case { name: "bid-out", make: || request_out(bid()) },
    Case { name: "bid-in", make: || request_in(bid(), usize::MAX) },
    Case { name: "exchange-1", make: || exchange(1, Compression::None, false, 0) },
    Case { name: "exchange-10", make: || exchange(10, Compression::None, false, 0) },
    Case { name: "exchange-100", make: || exchange(100, Compression::None, false, 0) },
    Case { name: "exchange-1000", make: || exchange(1000, Compression::None, false, 0) },
    Case { name: "exchange-10-deadlines", make: || exchange(10, Compression::None, true, 0) },
    Case { name: "exchange-10-deflate", make: || exchange(10, Compression::Deflate, false, 0) },
    Case { name: "exchange-10-snappy", make: || exchange(10, Compression::Snappy, false, 0) },
    #[cfg(feature = "zstd")]
    Case { name: "exchange-10-zstd", make: || exchange(10, Compression::Zstd, false, 0) },
    Case { name: "exchange-1-of-10001", make: || exchange(1, Compression::None, true, 10_000) },
    Case { name: "poll-1-pending", make: || poll(1) },
    Case { name: "poll-10000-pending", make: || poll(10_000) },
    Case { name: "poll-server-1-pending", make: || poll_server(1) },
    Case { name: "poll-server-10000-pending", make: || poll_server(10_000) },
];

fn main() -> ExitCode {
    let args = Args::of_process();
    if let Some(name) = args.value("case") {
        // How this program calls itself, under valgrind.
        let case = CASES.iter().find(|case| case.name == name).expect("the case exists");
        (case.make)()(args.number("times", 0));
        return ExitCode::SUCCESS;
    }
    if args.has("write") && (args.value("only").is_some() || !cfg!(feature = "zstd")) {
        eprintln!("the baseline is written whole or not at all: `{WHOLE} --write`, without --only");
        return ExitCode::FAILURE;
    }
    let chosen = |case: &&Case| args.value("only").is_none_or(|only| case.name.starts_with(only));
    if args.has("check") || args.has("write") || args.has("instructions") {
        let count = |case: &Case| (case.name, instructions(COUNTED, under_valgrind(case.name)).round() as u64);
        let counts: Vec<_> = CASES.iter().filter(chosen).map(count).collect();
        return judge(&counts, &args);
    }
    println!("{}\n", provenance());
    let counts_allocations = args.has("allocations");
    println!("| case | CPU ns | allocations |\n|---|---|---|");
    for case in CASES.iter().filter(chosen) {
        let mut run = (case.make)();
        let times = fit(&mut run);
        let cost = measure(5, || run(times));
        let count = || format!("{:.2}", allocations(COUNTED, under_valgrind(case.name)));
        let allocations = if counts_allocations { count() } else { "-".to_owned() };
        println!("| {} | {:.0} | {allocations} |", case.name, cost.cpu_ns(times));
    }
    ExitCode::SUCCESS
}

/// How often a case is to be run to take about a fifth of a second.
fn fit(run: &mut impl FnMut(u64)) -> u64 {
    let mut times = 100;
    loop {
        let begin = Instant::now();
        run(times);
        if begin.elapsed() > Duration::from_millis(100) {
            return times * 2;
        }
        times *= 2;
    }
}

fn under_valgrind(case: &str) -> impl Fn(u64) -> Vec<String> {
    move |times| vec!["--case".to_owned(), case.to_owned(), "--times".to_owned(), times.to_string()]
}

/// Prints the counts beside the baseline, and judges or replaces that.
fn judge(counts: &[(&str, u64)], args: &Args) -> ExitCode {
    let tolerance = args.number("tolerance", 5) as f64;
    let text = std::fs::read_to_string(BASELINE).unwrap_or_default();
    let line = |line: &str| line.split_once('=').and_then(|(name, n)| Some((name.to_owned(), n.parse::<u64>().ok()?)));
    let baseline: BTreeMap<String, u64> = text.lines().filter_map(line).collect();
    let mut moved = Vec::new();
    println!("{:<26}{:>12}{:>12}{:>9}", "case", "instructions", "baseline", "change");
    for (name, count) in counts {
        let before = baseline.get(*name).copied();
        let change = before.map(|before| 100.0 * (*count as f64 / before as f64 - 1.0));
        let shown = change.map_or("new".to_owned(), |change| format!("{change:+.1} %"));
        println!("{name:<26}{count:>12}{:>12}{shown:>9}", before.map_or("-".to_owned(), |n| n.to_string()));
        if change.is_none_or(|change| change.abs() > tolerance) {
            moved.push(*name);
        }
    }
    let is_missing = |name: &&String| args.value("only").is_none() && counts.iter().all(|(counted, _)| counted != name);
    let missing: Vec<_> = baseline.keys().filter(is_missing).map(String::as_str).collect();
    if args.has("write") {
        let lines: String = counts.iter().map(|(name, count)| format!("{name}={count}\n")).collect();
        std::fs::write(BASELINE, lines).expect("the baseline can be written");
    } else if args.has("check") {
        if !moved.is_empty() {
            eprintln!(
                "\nmoved by more than {tolerance} %: {}\nIf that is meant, or the compiler or a dependency has changed, write \
                 the baseline anew with `{WHOLE} --write` and commit it with the reason. If not, find what has become slower: \
                 `valgrind --tool=callgrind` on the bench with `--case NAME --times 5000` tells.",
                moved.join(", ")
            );
        }
        if !missing.is_empty() {
            eprintln!(
                "\nin the baseline, but not counted: {}\nCount all cases with `{WHOLE} --check`, or take from the baseline \
                 what is no case any more.",
                missing.join(", ")
            );
        }
        if !moved.is_empty() || !missing.is_empty() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn get() -> Request<Bytes> {
    Request::get("http://foobar/foo/bar").body(Bytes::new()).expect("it is well formed")
}

fn bid() -> Request<Bytes> {
    Corpus::made_up(1).requests.remove(0)
}

/// A link is made: both hellos.
fn connect() -> Box<dyn FnMut(u64)> {
    Box::new(|times| (0..times).for_each(|_| drop(Pair::new(Compression::None, None))))
}

/// Requests are written, ten to a batch, and nobody reads them.
fn request_out(request: Request<Bytes>) -> Box<dyn FnMut(u64)> {
    let mut client = Pair::new(Compression::None, None).client;
    let now = Instant::now();
    let mut wire = Vec::new();
    Box::new(move |times| {
        for n in 1..=times {
            client.send_oneway(now, &request).expect("the request can be sent");
            if n % 10 == 0 {
                wire.clear();
                client.poll_transmit(now, &mut wire);
            }
        }
    })
}

/// Requests are read, ten to a batch, in pieces of so many bytes at most.
fn request_in(request: Request<Bytes>, cut: usize) -> Box<dyn FnMut(u64)> {
    let now = Instant::now();
    let client = ClientConfig { config: config(Compression::None), tls: false };
    let server = ServerConfig { config: config(Compression::None), ..ServerConfig::default() };
    let (mut client, mut server) = (ClientConnection::new(client, now), ServerConnection::new(server, now));
    let (mut hello, mut answer, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    client.poll_transmit(now, &mut hello);
    server.handle_input(now, &hello);
    server.poll_transmit(now, &mut answer);
    client.handle_input(now, &answer);
    for _ in 0..10 {
        client.send_oneway(now, &request).expect("the request can be sent");
    }
    client.poll_transmit(now, &mut batch);
    Box::new(move |times| {
        for _ in 0..times / 10 {
            for piece in batch.chunks(cut.min(batch.len())) {
                server.handle_input(now, piece);
                while let Some(event) = server.poll_event() {
                    assert!(matches!(event, ServerEvent::Oneway { .. } | ServerEvent::Connected { .. }));
                }
            }
        }
    })
}

/// Requests and answers, so many to a batch, while others wait on the same link.
fn exchange(batch: u64, compression: Compression, deadlines: bool, others: usize) -> Box<dyn FnMut(u64)> {
    let mut pair = Pair::new(compression, None);
    let deadline = deadlines.then(|| pair.now + Duration::from_secs(60));
    let request = get();
    let _unanswered = pair.leave(&request, others, deadline);
    Box::new(move |times| {
        // The last batch may be shorter.
        for begin in (0..times).step_by(batch as usize) {
            let requests = std::iter::repeat_n(&request, batch.min(times - begin) as usize);
            let handler = |_| Response::new(Bytes::from_static(ORIGINAL_BODY.as_bytes()));
            pair.exchange_until(deadline, requests, handler, |response| assert!(response.status() == 200));
        }
    })
}

/// All outputs of the client are asked for, in vain, while so many requests wait for their answers.
fn poll(pending: usize) -> Box<dyn FnMut(u64)> {
    let mut pair = Pair::new(Compression::None, None);
    let deadline = Some(pair.now + Duration::from_secs(60));
    let _unanswered = pair.leave(&get(), pending, deadline);
    let mut wire = Vec::new();
    Box::new(move |times| {
        for _ in 0..times {
            pair.client.handle_timeout(pair.now);
            assert!(pair.client.poll_transmit(pair.now, &mut wire) == 0);
            assert!(pair.client.poll_event().is_none());
            assert!(pair.client.poll_timeout() == deadline);
        }
    })
}

/// The same of the server, while so many requests are with its handlers.
fn poll_server(pending: usize) -> Box<dyn FnMut(u64)> {
    let mut pair = Pair::new(Compression::None, None);
    let unanswered = pair.leave(&get(), pending, None);
    let mut wire = Vec::new();
    Box::new(move |times| {
        assert!(pair.server.pending_requests() == unanswered.len());
        for _ in 0..times {
            pair.server.handle_timeout(pair.now);
            assert!(pair.server.poll_transmit(pair.now, &mut wire) == 0);
            assert!(pair.server.poll_event().is_none());
            assert!(pair.server.poll_timeout().is_none());
        }
    })
}
