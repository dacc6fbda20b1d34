//! `httptp demo`: the main job on a world of its own. Callers, near proxy, link, far proxy and origin in one process,
//! on real sockets.

mod bids;
mod load;
mod origin;
mod view;

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use smol::channel::Sender;
use smol::future::FutureExt;
use smol::{Executor, Task};
use tracing::Level;

use super::process::{Log, LogFormat};
use super::reactor::Timer;
use super::{Inbound, Kind, Outbound, Proxy, ProxyConfig, StatsReader, name, process};
use crate::proto::Compression;
use load::{Figures, Load};
use view::View;

/// How long the load lasts when nothing else is said.
const DEFAULT_SECONDS: u64 = 10;

/// What the demo is told.
#[derive(Debug)]
pub(crate) struct Options {
    /// How long to send load; without it for [`DEFAULT_SECONDS`], and then the proxies stay up.
    pub(crate) seconds: Option<u64>,
    /// One JSON object at the end and nothing else.
    pub(crate) json: bool,
    /// Of both directions of the link.
    pub(crate) compression: Compression,
    /// Of both directions of the link.
    pub(crate) delay: Duration,
    /// How many callers at once.
    pub(crate) callers: usize,
    /// Of the generated requests.
    pub(crate) seed: u64,
    /// Of the near proxy; 0 lets the system pick.
    pub(crate) port: u16,
    /// Worker threads; one for each core unless said.
    pub(crate) threads: Option<usize>,
}

/// Runs the demo. The exit code says whether every request was answered rightly.
pub(crate) fn main(args: Options) -> Result<ExitCode, String> {
    process::log_to_stderr(Log { level: Level::WARN, format: LogFormat::Human });
    let signal = process::until_signal()?;
    let executor = Arc::new(Executor::new());
    let threads = args.threads;
    let demo = {
        let executor = executor.clone();
        async move { run(args, &executor, signal).await }
    };
    process::run(&executor, threads, demo)?
}

async fn run(
    args: Options,
    executor: &Arc<Executor<'static>>,
    signal: impl Future<Output = ()>,
) -> Result<ExitCode, String> {
    let world = World::start(&args, executor).await?;
    let compression = args.compression;
    if !args.json {
        view::print(&format!(
            "{} callers -> near {} -> link, {} -> far {} -> origin {}\n\n",
            args.callers,
            world.near,
            name(compression),
            world.far,
            world.origin,
        ));
    }
    let planned = Duration::from_secs(args.seconds.unwrap_or(DEFAULT_SECONDS));
    let load = Load::start(executor, world.near, args.callers, args.seed)?;
    let start = Instant::now();
    let mut signal = std::pin::pin!(signal);
    let watching = async {
        watch(&load, &world, start, planned, !args.json).await;
        false
    };
    let interrupted = async {
        signal.as_mut().await;
        true
    };
    let is_interrupted = interrupted.or(watching).await;
    let elapsed = start.elapsed();
    let figures = load.finish().await;
    let sample = Sample::of_all(&figures, elapsed, &world.stats);
    if args.json {
        view::print(&format!("{}\n", sample.to_json(compression, args.callers)));
    } else {
        view::print(&view::summary(&sample, figures.last_error.as_deref()));
        if args.seconds.is_none() && !is_interrupted {
            view::print(&format!("\nstill up; try it, and end it with Ctrl-C:\n\n    curl http://{}/\n\n", world.near));
            signal.await;
            view::print("\n");
        }
    }
    world.stop().await;
    let all_went_well = figures.errors == 0 && figures.done > 0;
    Ok(if all_went_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Draws the figures until the planned time is over.
async fn watch(load: &Load, world: &World, start: Instant, planned: Duration, draws: bool) {
    let mut view = View::new();
    let (mut then, mut before) = (start, load.figures(Figures::clone));
    let mut next = start + view.interval();
    while next <= start + planned {
        Timer::at(next).await;
        next += view.interval();
        if draws {
            let (now, figures) = (Instant::now(), load.figures(Figures::clone));
            let sample = Sample::between(&before, &figures, now - then, now - start, &world.stats);
            view.draw(&sample, Some(planned));
            (then, before) = (now, figures);
        }
    }
    Timer::at(start + planned).await;
}

/// The figures at one moment.
#[derive(Debug)]
struct Sample {
    elapsed: Duration,
    done: u64,
    errors: u64,
    rate: f64,
    p50_micros: u64,
    p99_micros: u64,
    /// What the near proxy's link carried in both directions, before compression and after.
    plain_bytes: u64,
    wire_bytes: u64,
}

impl Sample {
    /// Sums so far; rate and latency of the time between.
    fn between(before: &Figures, figures: &Figures, lasted: Duration, elapsed: Duration, stats: &StatsReader) -> Self {
        let mut latency = figures.latency.clone();
        // What was there before is part of what is there now, so this cannot fail; and if so, the sum is shown.
        let _ = latency.subtract(&before.latency);
        let link = stats.read().out_links.unwrap_or_default();
        Self {
            elapsed,
            done: figures.done,
            errors: figures.errors,
            rate: (figures.done - before.done) as f64 / lasted.as_secs_f64().max(1e-3),
            p50_micros: latency.value_at_quantile(0.5),
            p99_micros: latency.value_at_quantile(0.99),
            plain_bytes: link.plain_in + link.plain_out,
            wire_bytes: link.wire_in + link.wire_out,
        }
    }

    fn of_all(figures: &Figures, elapsed: Duration, stats: &StatsReader) -> Self {
        let mut nothing = figures.clone();
        nothing.done = 0;
        nothing.latency.reset();
        Self::between(&nothing, figures, elapsed, elapsed, stats)
    }

    /// How many times smaller the traffic was on the wire.
    fn ratio(&self) -> Option<f64> {
        (self.wire_bytes > 0).then(|| self.plain_bytes as f64 / self.wire_bytes as f64)
    }

    fn to_json(&self, compression: Compression, callers: usize) -> serde_json::Value {
        let round = |value: f64| (value * 1_000.0).round() / 1_000.0;
        json!({
            "requests": self.done + self.errors,
            "errors": self.errors,
            "req_per_s": round(self.rate),
            "p50_ms": self.p50_micros as f64 / 1_000.0,
            "p99_ms": self.p99_micros as f64 / 1_000.0,
            "plain_bytes": self.plain_bytes,
            "wire_bytes": self.wire_bytes,
            "ratio": round(self.ratio().unwrap_or(0.0)),
            "compression": name(compression),
            "seconds": round(self.elapsed.as_secs_f64()),
            "callers": callers,
        })
    }
}

/// Everything but the callers.
struct World {
    near: SocketAddr,
    far: SocketAddr,
    origin: SocketAddr,
    /// Of the near proxy.
    stats: StatsReader,
    /// In the order in which they are stopped.
    proxies: Vec<(Sender<()>, Task<()>)>,
}

impl World {
    async fn start(args: &Options, executor: &Arc<Executor<'static>>) -> Result<Self, String> {
        let origin = origin::start(executor).await.map_err(|error| format!("cannot start the origin: {error}"))?;
        let compression = args.compression;
        let loopback = |port: u16| format!("127.0.0.1:{port}");
        let far = ProxyConfig {
            inbound: Inbound {
                addr: loopback(0),
                kind: Kind::Teleport,
                compression,
                prefer_zstd: false,
                batch_delay: args.delay,
                ..Inbound::default()
            },
            outbound: Outbound { addr: origin.to_string(), kind: Kind::Http, ..Outbound::default() },
            ..ProxyConfig::default()
        };
        let far = Proxy::bind(far, executor.clone()).await.map_err(|error| error.to_string())?;
        let near = ProxyConfig {
            inbound: Inbound { addr: loopback(args.port), ..Inbound::default() },
            outbound: Outbound {
                addr: far.local_addr().to_string(),
                compression,
                prefer_zstd: false,
                batch_delay: args.delay,
                ..Outbound::default()
            },
            ..ProxyConfig::default()
        };
        let near = Proxy::bind(near, executor.clone()).await.map_err(|error| error.to_string())?;
        let (Some(near_addr), Some(far_addr)) = (near.local_addr().tcp(), far.local_addr().tcp()) else {
            return Err("the proxies have no addresses".to_owned());
        };
        let stats = near.stats();
        let proxies = [near, far].map(|proxy| {
            let (stop, stopped) = smol::channel::bounded::<()>(1);
            let serving = async move {
                let until_dropped = async {
                    let _ = stopped.recv().await;
                };
                if let Err(error) = proxy.run(until_dropped).await {
                    tracing::error!("a proxy of the demo failed: {error}");
                }
            };
            (stop, executor.spawn(serving))
        });
        Ok(Self { near: near_addr, far: far_addr, origin, stats, proxies: proxies.into() })
    }

    async fn stop(self) {
        for (stop, proxy) in self.proxies {
            drop(stop);
            proxy.await;
        }
    }
}
