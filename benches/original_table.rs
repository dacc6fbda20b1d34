//! The table of the original's benchmark: the same work, in memory, on one core.
//!
//! `taskset -c 0 cargo bench -p httpteleport --bench original_table`; `--original FILE` puts the original's figures beside
//! ours, `--by-cpu` says that they are CPU time and compares that, `--allocations` has valgrind count those of all threads,
//! `--only core,smol,thread` and `--row PREFIX` choose, and `--seconds N` is how long a row may take.

#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

mod support;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{ClientOptions, ServerOptions, smol as tasks, thread};
use httpteleport::proto::Compression;
use smol::Executor;
use support::args::Args;
use support::memory::Door;
use support::pair::{Pair, config, tls};
use support::valgrind::allocations;
use support::{Cost, ORIGINAL_BODY, measure, provenance};

/// One row of the original's table.
struct Row {
    name: &'static str,
    callers: usize,
    /// Of the client; the server's is 100 us wherever there is one.
    delay: Duration,
    compression: Compression,
    is_tls: bool,
    pipeline: bool,
}

fn rows() -> Vec<Row> {
    let row = |name, callers, millis| Row {
        name,
        callers,
        delay: Duration::from_millis(millis),
        compression: Compression::None,
        is_tls: false,
        pipeline: false,
    };
    let compressed = |name, compression, is_tls| Row { compression, is_tls, ..row(name, 1000, 1) };
    let pipeline = |name, callers| Row { pipeline: true, ..row(name, callers, 0) };
    vec![
        row("NoDelay1", 1, 0),
        row("NoDelay10", 10, 0),
        row("NoDelay100", 100, 0),
        row("NoDelay1000", 1000, 0),
        row("NoDelay10K", 10_000, 0),
        row("Delay1ms", 1000, 1),
        row("Delay2ms", 1000, 2),
        row("Delay4ms", 1000, 4),
        row("Delay8ms", 1000, 8),
        row("Delay16ms", 1000, 16),
        compressed("CompressNone", Compression::None, false),
        compressed("CompressFlate", Compression::Deflate, false),
        compressed("CompressSnappy", Compression::Snappy, false),
        compressed("TLSCompressNone", Compression::None, true),
        compressed("TLSCompressFlate", Compression::Deflate, true),
        compressed("TLSCompressSnappy", Compression::Snappy, true),
        pipeline("Pipeline1", 1),
        pipeline("Pipeline10", 10),
        pipeline("Pipeline100", 100),
        pipeline("Pipeline1000", 1000),
    ]
}

/// How long a row is to run.
#[derive(Clone, Copy)]
enum Span {
    For(Duration),
    /// Once, with so many requests of each caller: under valgrind.
    Requests(u64),
}

/// Runs a row; returns what it cost and how many requests that were.
type Run = fn(&Row, Span) -> Option<(Cost, u64)>;

const RUNS: [(&str, Run); 3] = [("core", core), ("smol", smol), ("thread", threads)];

fn main() {
    let args = Args::of_process();
    let rows = rows();
    if let Some((name, row)) = args.value("case").and_then(|case| case.split_once(':')) {
        // How this program calls itself, under valgrind.
        let (_, run) = RUNS.iter().find(|(other, _)| *other == name).expect("there is such a run");
        let row = rows.iter().find(|other| other.name == row).expect("there is such a row");
        run(row, Span::Requests(args.number("times", 1)));
        return;
    }
    let original = args.value("original").map(read_original).unwrap_or_default();
    let only = args.value("only").unwrap_or("core,smol,thread").to_owned();
    let chosen = args.value("row").unwrap_or_default().to_owned();
    let span = Span::For(Duration::from_millis(250 * args.number("seconds", 1)));
    println!("{}", provenance());
    println!(
        "ns a request (and CPU ns, where it waits); thousands of requests a second; allocations a request; times faster than"
    );
    println!("the original\n");
    println!("| row | original | core | k/s | | | smol | k/s | | | thread | k/s | | |");
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for row in rows.iter().filter(|row| row.name.starts_with(&chosen)) {
        let original = original.get(row.name).copied();
        let mut line = format!("| {} | {}", row.name, original.map_or("-".to_owned(), |ns| format!("{ns:.0}")));
        for (name, run) in RUNS {
            let cost = only.contains(name).then(|| run(row, span)).flatten();
            line += &cost.map_or(" | - | | | ".to_owned(), |(cost, requests)| {
                let allocations = args.has("allocations").then(|| count(name, row));
                cells(cost, requests, allocations, original, args.has("by-cpu"))
            });
        }
        println!("{line} |");
    }
}

fn cells(cost: Cost, requests: u64, allocations: Option<f64>, original: Option<f64>, by_cpu: bool) -> String {
    let (wall, cpu) = (cost.wall_ns(requests), cost.cpu_ns(requests));
    let waits = if cpu < wall * 0.9 { format!(" ({cpu:.0} CPU)") } else { String::new() };
    let times =
        original.map_or(String::new(), |original| format!("{:.1}x", original / if by_cpu { cpu } else { wall }));
    let allocations = allocations.map_or("-".to_owned(), |n| format!("{n:.1}"));
    let thousands = 1e6 / wall;
    format!(" | {wall:.0}{waits} | {thousands:.0} | {allocations} | {times}")
}

/// Has valgrind count the allocations of a request.
fn count(name: &str, row: &Row) -> f64 {
    let each = 10_000u64.div_ceil(row.callers as u64);
    let args = |times: u64| vec![format!("--case={name}:{}", row.name), format!("--times={times}")];
    allocations(each, args) / row.callers as f64
}

/// `row=ns` a line, or what `go test -bench` prints.
fn read_original(file: &str) -> HashMap<String, f64> {
    let text = std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
    let row = |line: &str| match line.split_once('=') {
        Some((name, ns)) => Some((name.trim().to_owned(), ns.trim().parse().ok()?)),
        None => {
            let mut words = line.strip_prefix("BenchmarkEndToEndGet")?.split_whitespace();
            let name = words.next()?.split('-').next()?.to_owned();
            Some((name, words.nth(1)?.parse().ok()?))
        }
    };
    text.lines().filter_map(row).collect()
}

fn request() -> Request<Bytes> {
    Request::get("http://foobar/foo/bar").body(Bytes::new()).expect("it is well formed")
}

fn response() -> Response<Bytes> {
    Response::new(Bytes::from_static(ORIGINAL_BODY.as_bytes()))
}

fn check(response: &Response<Bytes>) {
    assert!(response.status() == 200 && response.body() == ORIGINAL_BODY);
}

/// Measures `round`, which makes so many requests with each caller.
fn rounds(callers: usize, span: Span, mut round: impl FnMut(u64)) -> (Cost, u64) {
    let (each, times) = match span {
        Span::Requests(each) => (each, 1),
        Span::For(budget) => {
            round(3);
            let begin = Instant::now();
            round(10);
            let one = begin.elapsed() / 10;
            ((budget.as_nanos() / one.as_nanos().max(1)).clamp(3, 1_000_000) as u64, 4)
        }
    };
    (measure(times, || round(each)), callers as u64 * each)
}

/// Two state machines: what all callers want goes over as one batch, and so do the answers.
fn core(row: &Row, span: Span) -> Option<(Cost, u64)> {
    // Without a clock a delay is no different from none.
    if !row.delay.is_zero() && row.name.starts_with("Delay") {
        return None;
    }
    let mut pair = Pair::new(row.compression, row.is_tls.then(tls));
    let request = request();
    Some(rounds(row.callers, span, |requests| {
        for _ in 0..requests {
            pair.exchange(std::iter::repeat_n(&request, row.callers), |_| response(), |response| check(&response));
        }
    }))
}

fn options(row: &Row) -> (ClientOptions, ServerOptions) {
    let config = config(row.compression);
    let server_delay = if row.delay.is_zero() { Duration::ZERO } else { Duration::from_micros(100) };
    let client = ClientOptions::default().config(config.clone()).max_batch_delay(row.delay);
    let server = ServerOptions::default().config(config).max_batch_delay(server_delay).pipeline(row.pipeline);
    match row.is_tls.then(tls) {
        Some((client_tls, server_tls)) => (client.tls(client_tls), server.tls(server_tls)),
        None => (client, server),
    }
}

/// The driver on tasks, and each caller a task.
fn smol(row: &Row, span: Span) -> Option<(Cost, u64)> {
    let executor = Arc::new(Executor::new());
    let (client_options, server_options) = options(row);
    let door = Door::new();
    let server = tasks::Server::new(executor.clone(), server_options);
    let (serving, accepting) = (server.clone(), door.clone());
    let accept = executor.spawn(async move { serving.serve(accepting, async |_, _| response()).await });
    let dial = door.clone();
    let dial = move || {
        let stream = dial.dial();
        async move { Ok(stream) }
    };
    let client = tasks::Client::with_dial(executor.clone(), "memory", dial, client_options);

    // Callers run from one measurement to the next: they begin a round together and tell when it is over.
    let callers: Vec<_> = (0..row.callers)
        .map(|_| {
            let (go, begin) = smol::channel::bounded::<u64>(1);
            let (done, over) = smol::channel::bounded::<()>(1);
            let client = client.clone();
            let run = async move {
                while let Ok(requests) = begin.recv().await {
                    for _ in 0..requests {
                        let response = client.request(request(), Duration::from_secs(3600)).await;
                        check(&response.expect("an answer"));
                    }
                    if done.send(()).await.is_err() {
                        return;
                    }
                }
            };
            executor.spawn(run).detach();
            (go, over)
        })
        .collect();
    let round = |requests: u64| {
        smol::block_on(executor.run(async {
            for (go, _) in &callers {
                go.send(requests).await.expect("callers live");
            }
            for (_, over) in &callers {
                over.recv().await.expect("callers live");
            }
        }));
    };
    let cost = rounds(row.callers, span, round);
    drop(callers);
    let deadline = Instant::now() + Duration::from_secs(1);
    smol::block_on(executor.run(async {
        client.close(deadline).await;
        server.shutdown(deadline).await;
        accept.await.expect("the options are good");
    }));
    Some(cost)
}

/// The driver on threads. One thread keeps as many requests under way as there are callers: a thread for each would
/// measure the scheduler.
fn threads(row: &Row, span: Span) -> Option<(Cost, u64)> {
    let (client_options, server_options) = options(row);
    let door = Door::new();
    let server = thread::Server::new(server_options);
    let (serving, accepting) = (server.clone(), door.clone());
    let accept = std::thread::spawn(move || serving.serve(accepting, |_, _| response()));
    let dial = door.clone();
    let client = thread::Client::with_dial("memory", move || Ok(dial.dial()), client_options);
    let round = |requests: u64| {
        let mut calls = VecDeque::new();
        for _ in 0..requests * row.callers as u64 {
            if calls.len() >= row.callers {
                let call: thread::Call = calls.pop_front().expect("there are some");
                check(&call.wait().expect("an answer"));
            }
            calls.push_back(client.start(request(), Duration::from_secs(3600)));
        }
        for call in calls {
            check(&call.wait().expect("an answer"));
        }
    };
    let cost = rounds(row.callers, span, round);
    let deadline = Instant::now() + Duration::from_secs(1);
    client.close(deadline);
    server.shutdown(deadline);
    accept.join().expect("no panic").expect("the options are good");
    Some(cost)
}
