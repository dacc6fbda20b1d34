//! How cost grows: one to two cores, one to 64 links, one to 10,000 callers, bodies of 100 B to 1 MB.
//!
//! `cargo bench -p httpteleport --bench scaling`; `--seconds N` is how long a row takes (default 1, some thirty rows),
//! `--compress flate|none|snappy`. Driver on tasks, client and server in one process, links in memory. From one middle
//! case, one thing is changed at a time.

#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{ClientOptions, ServerOptions, smol as tasks};
use httpteleport::proto::Compression;
use smol::Executor;
use support::args::Args;
use support::corpus::Corpus;
use support::memory::Door;
use support::pair::config;
use support::{cpu_time, provenance};

#[derive(Clone, Copy)]
struct Row {
    cores: usize,
    links: usize,
    callers: usize,
    body: usize,
}

/// What has changed from the middle, and all of it.
fn rows() -> Vec<(&'static str, Row)> {
    let middle = Row { cores: 2, links: 2, callers: 100, body: 1_000 };
    let mut rows = Vec::new();
    for cores in [1, 2] {
        rows.push(("cores", Row { cores, ..middle }));
    }
    for callers in [1, 10, 100, 1_000, 10_000] {
        rows.push(("callers", Row { callers, ..middle }));
    }
    for body in [100, 1_000, 10_000, 100_000, 1_000_000] {
        rows.extend([1, 16].map(|callers| ("body", Row { callers, body, ..middle })));
    }
    // Last: the memory of many links is not given back.
    for links in [1, 2, 4, 16, 64] {
        rows.extend([1, 2].map(|cores| ("links", Row { cores, links, callers: 640, ..middle })));
    }
    rows
}

fn main() {
    let args = Args::of_process();
    let time = Duration::from_secs(args.number("seconds", 1));
    let compression = match args.value("compress").unwrap_or("flate") {
        "none" => Compression::None,
        "snappy" => Compression::Snappy,
        _ => Compression::Deflate,
    };
    let bodies = Corpus::made_up(1_500).requests.into_iter().flat_map(|request| request.into_body());
    let text: Bytes = bodies.collect::<Vec<u8>>().into();
    println!("{}", provenance());
    println!("{compression:?}; each request and its answer carry the body; CPU of client and server together\n");
    println!(
        "| changed | cores | links | callers | body | req/s | MB/s of bodies | CPU us a request | cores busy | peak MB | limited by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|");
    for (changed, row) in rows() {
        let Figures { requests, wall, cpu, peak_mb } = run(row, compression, time, &text);
        let busy = cpu.as_secs_f64() / wall.as_secs_f64();
        let rate = requests as f64 / wall.as_secs_f64();
        println!(
            "| {changed} | {} | {} | {} | {} | {rate:.0} | {:.0} | {:.2} | {busy:.2} | {peak_mb} | {} |",
            row.cores,
            row.links,
            row.callers,
            row.body,
            rate * row.body as f64 * 2.0 / 1e6,
            cpu.as_secs_f64() / requests as f64 * 1e6,
            limit(row, busy),
        );
    }
}

/// What keeps a row from being faster, judged by how busy the cores were.
fn limit(row: Row, busy: f64) -> &'static str {
    let share = busy / row.cores as f64;
    match () {
        _ if share > 0.9 => "CPU",
        _ if row.callers <= 2 * row.links => "the way there and back: too few callers to fill it",
        _ if row.links < row.cores => "one link is one stream, which one core compresses",
        _ if share > 0.6 => "CPU, and one core waiting for the other",
        _ => "waiting; or the machine had other work",
    }
}

struct Figures {
    requests: u64,
    wall: Duration,
    cpu: Duration,
    peak_mb: u64,
}

fn run(row: Row, compression: Compression, time: Duration, text: &Bytes) -> Figures {
    let executor = Arc::new(Executor::new());
    let mut config = config(compression);
    config.limits.output_bytes = 256 << 20;
    let server_options = ServerOptions::default().config(config.clone());
    let client_options = ClientOptions::default().config(config).links(row.links);
    let door = Door::new();
    let server = tasks::Server::new(executor.clone(), server_options);
    let (serving, accepting) = (server.clone(), door.clone());
    let echo = async |request: Request<Bytes>, _| Response::new(request.into_body());
    executor.spawn(async move { serving.serve(accepting, echo).await }).detach();
    let dial = move || {
        let stream = door.dial();
        async move { Ok(stream) }
    };
    let client = tasks::Client::with_dial(executor.clone(), "memory", dial, client_options);
    let (done, is_over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let callers: Vec<_> = (0..row.callers)
        .map(|number| {
            let (client, text, done, is_over) = (client.clone(), text.clone(), done.clone(), is_over.clone());
            executor.spawn(async move {
                let mut at = number * 7_919;
                while !is_over.load(Ordering::Relaxed) {
                    at = (at + 104_729) % (text.len() - row.body);
                    let body = text.slice(at..at + row.body);
                    let request = Request::post("http://foobar/foo/bar").body(body).expect("it is well formed");
                    let response = client.request(request, None).await.expect("an answer");
                    assert_eq!(response.body().len(), row.body);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    // Peaks are counted from here.
    let _ = std::fs::write("/proc/self/clear_refs", "5");
    let watch = async {
        smol::Timer::after(time / 5).await;
        let begin = (Instant::now(), cpu_time(), done.load(Ordering::Relaxed));
        smol::Timer::after(time).await;
        let figures = Figures {
            requests: (done.load(Ordering::Relaxed) - begin.2).max(1),
            wall: begin.0.elapsed(),
            cpu: cpu_time() - begin.1,
            peak_mb: peak_mb(),
        };
        is_over.store(true, Ordering::Relaxed);
        for caller in callers {
            caller.await;
        }
        let deadline = Instant::now() + Duration::from_secs(2);
        client.close(deadline).await;
        server.shutdown(deadline).await;
        figures
    };
    std::thread::scope(|scope| {
        let (stop, stopped) = smol::channel::bounded::<()>(1);
        for _ in 1..row.cores {
            let (executor, stopped) = (executor.clone(), stopped.clone());
            scope.spawn(move || smol::block_on(executor.run(stopped.recv())));
        }
        let figures = smol::block_on(executor.run(watch));
        drop(stop);
        figures
    })
}

fn peak_mb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) / 1024
}
