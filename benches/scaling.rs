//! How cost grows: one to two cores, one to 64 links, one to 10,000 callers, bodies of 100 B to 1 MB.
//!
//! `cargo bench -p httpteleport --features zstd --bench scaling`; `--seconds N` is how long a row runs (default 1; some thirty
//! rows, each once more without compression), `--compress flate|none|snappy|zstd`. Driver on tasks, client and server in one
//! process, another for each row, links in memory. From one middle case, one thing is changed at a time.
//!
//! What the codec takes of the CPU is what a request costs less without it. Why it takes so much is asked of the codec alone,
//! which compresses bodies in flushes as long as the row's, and in long ones.

#![allow(clippy::disallowed_methods, reason = "a bench is where the time comes from")]

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use httpteleport::driver::{ClientOptions, ServerOptions, smol as tasks};
use httpteleport::proto::{Compression, Stats};
use smol::Executor;
use support::args::Args;
use support::codec::Codec;
use support::corpus::Corpus;
use support::memory::Door;
use support::pair::config;
use support::{cpu_time, provenance};

/// Bytes of a long flush.
const LONG: usize = 128 * 1024;
/// From here on a cause is named: a quarter more.
const SLOW: f64 = 1.25;

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
    for links in [1, 2, 4, 16, 64] {
        rows.extend([1, 2].map(|cores| ("links", Row { cores, links, callers: 640, ..middle })));
    }
    rows
}

fn main() {
    let args = Args::of_process();
    let time = Duration::from_secs(args.number("seconds", 1));
    let name = args.value("compress").unwrap_or("flate");
    let codec = codec(name);
    if args.has("row") {
        // How this program calls itself, for one row.
        let row = rows()[args.number("row", 0) as usize].1;
        let bodies = Corpus::made_up(1_500).requests.into_iter().flat_map(|request| request.into_body());
        let text: Bytes = bodies.collect::<Vec<u8>>().into();
        let figures = run(row, codec.compression(), time, &text);
        let (alone, alone_long) = alone(codec, &figures, &text);
        return Figures { alone, alone_long, ..figures }.print();
    }
    println!("{}", provenance());
    println!("{codec}; each request and its answer carry the body; CPU of client and server together\n");
    println!(
        "| changed | cores | links | callers | body | req/s | MB/s of bodies | CPU us a request | of it the codec's | messages a flush | cores busy | peak MB | limited by |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    for (at, (changed, row)) in rows().into_iter().enumerate() {
        let figures = Figures::of_process(at, name, time);
        let cost = figures.cpu_us();
        let bare = if name == "none" { cost } else { Figures::of_process(at, "none", time).cpu_us() };
        let codec_share = (1.0 - bare / cost).max(0.0);
        let rate = figures.requests / figures.wall;
        println!(
            "| {changed} | {} | {} | {} | {} | {rate:.0} | {:.0} | {cost:.2} | {:.0} % | {:.1} | {:.2} | {:.0} | {} |",
            row.cores,
            row.links,
            row.callers,
            row.body,
            rate * row.body as f64 * 2.0 / 1e6,
            100.0 * codec_share,
            figures.batch(),
            figures.busy(),
            figures.peak_mb,
            limit(row, codec, &figures, codec_share),
        );
    }
}

/// What is called so, at its usual level.
fn codec(name: &str) -> Codec {
    let compression = match name {
        "flate" => Compression::Deflate,
        "none" => Compression::None,
        "snappy" => Compression::Snappy,
        #[cfg(feature = "zstd")]
        "zstd" => Compression::Zstd,
        #[cfg(not(feature = "zstd"))]
        "zstd" => panic!("--compress zstd takes a build that has it: `cargo bench --features zstd`"),
        _ => panic!("--compress takes flate, none, snappy or zstd, not {name:?}"),
    };
    let is_meant = |codec: &Codec| codec.compression() == compression && codec.level() == compression.default_level();
    Codec::all().into_iter().find(is_meant).expect("each is among them")
}

/// What keeps a row from being faster, judged by how busy the cores were, and with what.
fn limit(row: Row, codec: Codec, figures: &Figures, codec_share: f64) -> String {
    let share = figures.busy() / row.cores as f64;
    let is_busy = figures.machine > 0.9 * figures.cores;
    let (flushes, beside) = (figures.alone / figures.alone_long, codec_share * figures.cpu_us() / figures.alone);
    let with = match (flushes > SLOW, beside > SLOW) {
        _ if codec_share < 0.5 => "messages rather than the codec".to_owned(),
        (false, false) => codec.to_string(),
        (true, false) => format!("{codec}, {flushes:.1} times slower by flushes so short"),
        (false, true) => format!("{codec}, {beside:.1} times slower than alone"),
        (true, true) => {
            format!("{codec}, {flushes:.1} times slower by flushes so short, then {beside:.1} times slower than alone")
        }
    };
    match () {
        _ if share > 0.9 => format!("CPU: {with}"),
        _ if row.callers <= 2 * row.links => "the way there and back: too few callers to fill it".to_owned(),
        _ if is_busy => format!("CPU, of which other work had some: {with}"),
        _ if row.links < row.cores => "one link is one stream, which one core compresses".to_owned(),
        _ if share > 0.6 => format!("CPU, and one core waiting for the other: {with}"),
        _ => "waiting".to_owned(),
    }
}

/// What a row has shown.
struct Figures {
    requests: f64,
    /// Seconds, as the CPU is.
    wall: f64,
    cpu: f64,
    /// Cores that the machine has, and how many of them anybody kept busy.
    cores: f64,
    machine: f64,
    peak_mb: f64,
    messages: f64,
    flushes: f64,
    /// Plain bytes, frames and all.
    plain: f64,
    /// Microseconds that the codec alone takes for the bytes of a request and its answer, in flushes so long and in long ones.
    alone: f64,
    alone_long: f64,
}

impl Figures {
    /// Those of a row that runs in a process of its own, so that the memory is its own, too.
    fn of_process(row: usize, name: &str, time: Duration) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let arguments = ["--row", &row.to_string(), "--compress", name, "--seconds", &time.as_secs().to_string()];
        let output = Command::new(program).args(arguments).output().expect("this program can be run");
        let figures = Self::read(&String::from_utf8_lossy(&output.stdout));
        figures.unwrap_or_else(|| panic!("row {row}: {}", String::from_utf8_lossy(&output.stderr)))
    }

    fn print(&self) {
        let Self { requests, wall, cpu, cores, machine, peak_mb, messages, flushes, plain, alone, alone_long } = self;
        println!(
            "{requests} {wall} {cpu} {cores} {machine} {peak_mb} {messages} {flushes} {plain} {alone} {alone_long}"
        );
    }

    fn read(text: &str) -> Option<Self> {
        let figures: Vec<f64> = text.split_whitespace().filter_map(|figure| figure.parse().ok()).collect();
        let [requests, wall, cpu, cores, machine, peak_mb, messages, flushes, plain, alone, alone_long] = figures[..]
        else {
            return None;
        };
        Some(Self { requests, wall, cpu, cores, machine, peak_mb, messages, flushes, plain, alone, alone_long })
    }

    fn cpu_us(&self) -> f64 {
        1e6 * self.cpu / self.requests
    }

    fn busy(&self) -> f64 {
        self.cpu / self.wall
    }

    /// Messages a flush, both directions.
    fn batch(&self) -> f64 {
        self.messages / self.flushes
    }
}

/// What [`Figures::alone`] and [`Figures::alone_long`] are.
fn alone(codec: Codec, figures: &Figures, text: &[u8]) -> (f64, f64) {
    let least = |flush: usize| {
        let flushes: Vec<_> = text.chunks(flush).map(<[u8]>::to_vec).collect();
        let times = (0..3).map(|_| codec.bare(&flushes)).map(|(out, into)| out + into);
        1e6 * times.fold(f64::MAX, f64::min) / text.len() as f64 * figures.plain / figures.requests
    };
    (least((figures.plain / figures.flushes) as usize), least(LONG))
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
    let sent = || [client.stats(), server.stats()];
    let total = |stats: [Stats; 2], count: fn(&Stats) -> u64| stats.iter().map(count).sum::<u64>() as f64;
    let watch = async {
        smol::Timer::after(time / 5).await;
        let (begin, cpu, done_before, sent_before) = (Instant::now(), cpu_time(), done.load(Ordering::Relaxed), sent());
        let (_, used_before, idle_before) = machine();
        smol::Timer::after(time).await;
        let passed = |count: fn(&Stats) -> u64| (total(sent(), count) - total(sent_before, count)).max(1.0);
        let (cores, used, idle) = machine();
        let (used, idle) = (used - used_before, idle - idle_before);
        let figures = Figures {
            requests: (done.load(Ordering::Relaxed) - done_before).max(1) as f64,
            wall: begin.elapsed().as_secs_f64(),
            cpu: (cpu_time() - cpu).as_secs_f64(),
            cores,
            machine: cores * used / (used + idle).max(1.0),
            peak_mb: peak_mb(),
            messages: passed(|stats| stats.frames_out),
            flushes: passed(|stats| stats.batches_out),
            plain: passed(|stats| stats.plain_out),
            alone: 0.0,
            alone_long: 0.0,
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

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// How many cores the machine has, and the ticks that they were used and idle so far.
fn machine() -> (f64, f64, f64) {
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let cores = stat.lines().filter(|line| line.starts_with("cpu") && !line.starts_with("cpu ")).count();
    let all = stat.lines().find_map(|line| line.strip_prefix("cpu ")).unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; the rest is counted in user.
    let ticks: Vec<f64> = all.split_whitespace().take(8).filter_map(|ticks| ticks.parse().ok()).collect();
    let idle = ticks.iter().skip(3).take(2).sum::<f64>();
    (cores as f64, ticks.iter().sum::<f64>() - idle, idle)
}
