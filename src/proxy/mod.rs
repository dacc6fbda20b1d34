//! The proxy: HTTP in one end, HTTP out of the other, and mostly a link in between.
//!
//! A [`Proxy`] is one listener and its upstreams, each side of which speaks plain HTTP or teleport. Two of them make the
//! usual pair: the near one (HTTP in, teleport out) beside the callers, the far one (teleport in, HTTP out) beside the
//! origin.
//!
//! ```text
//! listener (http_in | driver::smol::Server) -> Handler -> Upstreams (http_out | driver::smol::Client)
//! ```
//!
//! Both listeners hand whole requests to one handler, which keeps the limits and answers every request: with the
//! upstream's response or with one that says what went wrong. What is HTTP's own business (keep-alive, chunked bodies,
//! `100 Continue`, fields of one connection) ends on the side where it belongs and is never forwarded.
//!
//! [`cli`] is the program `httptp` around it, `demo` inside that its own little world to look at.

// This is the shell: it lives in real time and on real sockets.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
mod access_log;
mod acme;
mod activity;
mod body;
mod check;
pub mod cli;
mod config;
mod counted;
mod crew;
mod demo;
mod dial;
mod error;
mod estimate;
mod fields;
mod gate;
mod handler;
mod http_in;
mod http_out;
mod hyper_io;
mod listen;
mod metrics;
mod process;
mod proxy_header;
mod reactor;
mod recompress;
mod record;
mod request_head;
mod stranger;
mod stream;
mod strict;
mod time_left;
mod tls;
mod upstream;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use smol::Executor;
use smol::future::FutureExt;
use tracing::{info, warn};

pub use access::{Forwarded, ForwardedProto};
pub use acme::Autocert;
pub use config::{Inbound, Kind, Outbound, ProxyConfig, Retry, Seeing};
pub use listen::{ListenAddr, Opened};
pub use recompress::{Recompress, RecompressStats};
pub use record::Recording;
pub use tls::{InboundTls, OutboundTls};
pub use upstream::HealthCheck;

use crate::driver::smol::Server;
use crate::driver::tls::TlsServer;
use crate::driver::{MemoryBudget, Peer};
use crate::proto::{Compression, Stats};
use access::Gate;
use acme::Acme;
use check::{check, split_port};
use handler::Handler;
use http_in::HttpIn;
use listen::{Links, Listener};
use metrics::{Counters, Identity, IoCounters, MetricsListener};
use reactor::Timer;
use recompress::Trusted;
use record::Recorder;
use stranger::Strangers;
use tls::{ClientTls, ServerTls};
use upstream::{Upstream, Upstreams, View};

/// A proxy that listens. [`Proxy::run`] makes it serve.
///
/// ```no_run
/// use std::sync::Arc;
/// use httpteleport::proxy::{Proxy, ProxyConfig};
///
/// let executor = Arc::new(smol::Executor::new());
/// smol::block_on(executor.run(async {
///     let proxy = Proxy::bind(ProxyConfig::default(), executor.clone()).await?;
///     println!("listening on {}", proxy.local_addr());
///     proxy.run(std::future::pending()).await?;
///     Ok::<(), Box<dyn std::error::Error>>(())
/// }))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Proxy {
    config: ProxyConfig,
    listener: Listener,
    tls: Option<ServerTls>,
    handler: Arc<Handler>,
    server: Option<Server>,
    metrics: Option<MetricsListener>,
    executor: Arc<Executor<'static>>,
}

/// TLS of a listener that speaks it: with the certificates given, or for HTTPS with such as are made on demand.
fn load_tls(inbound: &Inbound, executor: &Arc<Executor<'static>>) -> Result<ServerTls, String> {
    let files = &inbound.tls;
    let acme = (files.is_without_certificates() && inbound.kind == Kind::Https)
        .then(|| Acme::new(&files.autocert, executor))
        .transpose()?;
    if acme.is_some() {
        info!(
            "certificates are had from {} for names that match {}, and kept in {}",
            files.autocert.directory,
            files.autocert.host_regexp,
            files.autocert.cache_dir.display()
        );
    }
    let tls = ServerTls::load(files, acme, protocols(inbound.kind))?;
    if let Some(acme) = &tls.acme {
        acme.keep_fresh();
    }
    Ok(tls)
}

/// What can be spoken inside the TLS of a listener (ALPN). An original near proxy knows of no such thing.
const fn protocols(kind: Kind) -> &'static [&'static [u8]] {
    if kind.is_link() { &[] } else { &[b"h2", b"http/1.1"] }
}

impl Proxy {
    /// Listens as `config` says; tasks will run on `executor`. The upstream is not connected before the first request.
    ///
    /// # Errors
    ///
    /// The address to listen on cannot be used, the one to send to cannot be one, or a file that TLS needs cannot be
    /// read.
    pub async fn bind(config: ProxyConfig, executor: Arc<Executor<'static>>) -> Result<Self, StartError> {
        check(&config)?;
        let inbound = &config.inbound;
        let tls = inbound.kind.is_tls().then(|| load_tls(inbound, &executor)).transpose().map_err(StartError::Tls)?;
        let (inward, outward) = (Arc::<IoCounters>::default(), Arc::<IoCounters>::default());
        let memory = config.memory_budget.map_or_else(MemoryBudget::unlimited, MemoryBudget::new);
        let upstreams = Upstreams::start(&executor, &config, outward.clone(), memory.clone()).await?;
        let listener = Listener::bind(inbound, inward.clone()).await?;
        if let Some(addr) = config.outbound.addrs().find(|addr| is_own_upstream(&config, addr, listener.addr())) {
            return Err(StartError::Loop { addr: addr.to_owned() });
        }
        let default_host = match listener.addr() {
            // An address is always a valid field value.
            ListenAddr::Tcp(addr) => HeaderValue::from_str(&addr.to_string()).ok(),
            ListenAddr::Unix(_) => None,
        };
        let default_host = default_host.unwrap_or_else(|| HeaderValue::from_static("localhost"));
        let recorder = config.seeing.record.as_ref().map(|recording| {
            Recorder::start(recording).map_err(|error| StartError::Record { path: recording.path.clone(), error })
        });
        let counters = Counters::new(inward, outward);
        let handler =
            Arc::new(Handler::new(&config, upstreams, counters, default_host, recorder.transpose()?, memory.clone()));
        let server = inbound.kind.is_link().then(|| {
            let options = config.server_options().memory_budget(memory);
            let options = match &tls {
                None => options,
                Some(tls) => {
                    let tls = tls.clone();
                    options.tls(TlsServer::with_source(move || tls.config())).require_tls(true)
                }
            };
            Server::new(executor.clone(), options)
        });
        let metrics = listen_for_metrics(&config.seeing).await?;
        Ok(Self { config, listener, tls, handler, server, metrics, executor })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> &ListenAddr {
        self.listener.addr()
    }

    /// Where its figures are, if it shows any.
    pub fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().map(MetricsListener::local_addr)
    }

    /// Reads this proxy's figures, also while it runs.
    pub fn stats(&self) -> StatsReader {
        StatsReader { handler: self.handler.clone(), server: self.server.clone(), gate: self.listener.gate().clone() }
    }

    /// Reads files again, also while it runs.
    pub fn reloader(&self) -> Reloader {
        Reloader { inward: self.tls.clone(), outward: self.handler.upstreams().tls.clone() }
    }

    /// Serves until `shutdown` ends; then says that it is not ready, goes on for the
    /// [`stop_delay`](ProxyConfig::stop_delay), stops listening, and gives requests in hand the
    /// [`drain_timeout`](ProxyConfig::drain_timeout) to end.
    ///
    /// # Errors
    ///
    /// The listener failed for good.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let reader = self.stats();
        let Self { config, listener, tls, handler, server, metrics, executor } = self;
        let line = start_line(&config, listener.addr());
        info!("{line}");
        if config.outbound.tls.insecure {
            warn!(
                "--out-tls-insecure: whoever is on the way to {} can read and change everything",
                config.outbound.addr
            );
        }
        if let Some(recording) = &config.seeing.record {
            let (path, limit) = (recording.path.display(), recording.limit);
            warn!(
                "--record: whatever is carried goes into {path}, up to {limit} bytes, passwords and cookies included"
            );
        }
        if tls.is_none() && !config.inbound.tls.certs.is_empty() {
            warn!("--in-tls-cert is not used: {} is spoken without TLS", config.inbound.kind);
        }
        let showing = metrics.map(|metrics| {
            info!("figures at http://{}/", metrics.local_addr());
            let identity = Identity { line, started: Instant::now(), started_at: SystemTime::now() };
            executor.spawn(metrics.run(reader, Arc::new(identity)))
        });
        let (stop_delay, drain) = (config.stop_delay, config.drain_timeout);
        let cutting = executor.clone();
        let mut cut = None;
        let shutdown = async {
            shutdown.await;
            handler.is_stopping.store(true, Ordering::Relaxed);
            if !stop_delay.is_zero() {
                info!("not ready any more; listening for another {stop_delay:?} (--stop-delay)");
                Timer::after(stop_delay).await;
            }
            cut = Some(cutting.spawn(note_cut(handler.clone(), drain)));
        };
        let result = match server {
            None => {
                let http = HttpIn::new(listener, tls.as_ref(), &config.inbound, handler.clone(), executor);
                http.run(shutdown, drain).await;
                Ok(())
            }
            Some(server) => serve_links(server, listener.into_links(&executor), handler.clone(), shutdown, drain).await,
        };
        handler.upstreams().close(Instant::now() + Duration::from_secs(1)).await;
        handler.finish_recording();
        if let Some(showing) = showing {
            showing.cancel().await;
        }
        result
    }
}

/// What is there so long before the end of a drain counts as cut.
const CUT_NOTICE: Duration = Duration::from_millis(5);

/// Says in the log what is cut when the time to drain is over.
async fn note_cut(handler: Arc<Handler>, drain: Duration) {
    Timer::after(drain.saturating_sub(CUT_NOTICE)).await;
    let (requests, connections) = (handler.in_flight(), handler.counters.inward.open());
    if requests > 0 {
        warn!(
            "cut after {drain:?} (--drain-timeout): requests in hand: {requests}, connections that they came by: {connections}"
        );
    }
}

/// Listens for those who want to see figures, if that is wanted.
async fn listen_for_metrics(seeing: &Seeing) -> Result<Option<MetricsListener>, StartError> {
    let Some(addr) = &seeing.metrics_addr else { return Ok(None) };
    match MetricsListener::bind(addr).await {
        Ok(listener) => Ok(Some(listener)),
        Err(error) if seeing.metrics_optional && error.kind() == io::ErrorKind::AddrInUse => {
            warn!("no figures are shown: {addr} is in use; give another address with --expvar-addr");
            Ok(None)
        }
        Err(error) => Err(StartError::Metrics { addr: addr.clone(), error }),
    }
}

async fn serve_links(
    server: Server,
    listener: Links,
    handler: Arc<Handler>,
    shutdown: impl Future<Output = ()>,
    drain: Duration,
) -> io::Result<()> {
    let strangers = Arc::new(Strangers::default());
    let links = strangers.clone();
    server.on_link_start(move |peer, compression| links.note_link(&peer.addr, name(compression)));
    let (refusals, refused) = (strangers.clone(), handler.clone());
    server.on_link_refused(move |peer, why| {
        refused.counters.shed_connections.fetch_add(1, Ordering::Relaxed);
        refusals.note_refused(peer, why);
    });
    server.on_link_end(move |peer, error, transport| strangers.note_on_teleport(&peer.addr, error, transport));
    let answer = move |mut request: Request<Bytes>, peer: Peer| {
        let handler = handler.clone();
        // Who has said zstd is no original.
        if peer.compression == Compression::Zstd {
            request.extensions_mut().insert(Trusted);
        }
        handler.note_sender(&mut request, &peer.addr);
        async move { answer_on_link(&handler, request).await }
    };
    let stopped = async {
        shutdown.await;
        server.shutdown_with_alarm::<Timer>(Instant::now() + drain).await;
        Ok(())
    };
    // An orderly end of `serve` is the beginning of draining, and that is what to wait for.
    let served = async {
        server.serve_with_alarm::<Timer, _, _, _>(listener, answer).await?;
        std::future::pending().await
    };
    stopped.or(served).await
}

async fn answer_on_link(handler: &Arc<Handler>, request: Request<Bytes>) -> Response<Bytes> {
    // Where the answer waits for the link is counted there.
    let (mut response, _slot) = handler.handle(request.map(Full::new)).await;
    // A refusal may want to close a connection to an HTTP caller; the link goes on.
    response.headers_mut().remove(header::CONNECTION);
    response
}

/// Reads the files of a [`Proxy`] again.
#[derive(Clone, Debug)]
pub struct Reloader {
    inward: Option<ServerTls>,
    outward: Option<ClientTls>,
}

impl Reloader {
    /// Reads again, for connections to come, the files with the certificates, keys and authorities of both sides and with
    /// the secrets of tickets, and says in the log how that went. If anything is wrong with those of one side, all of what
    /// was there stays in use on that side. Returns whether nothing was wrong.
    pub fn reload(&self) -> bool {
        let inward = self.inward.as_ref().filter(|tls| tls.has_files()).map(ServerTls::reload);
        let outward = self.outward.as_ref().filter(|tls| tls.has_files()).map(ClientTls::reload);
        if inward.is_none() && outward.is_none() {
            info!("there are no files of TLS to read again");
        }
        let mut is_fine = true;
        for (side, outcome) in [("where requests come in", inward), ("where requests go", outward)] {
            match outcome {
                None => {}
                Some(Ok(())) => info!("the files of TLS {side} were read again: new connections go by them"),
                Some(Err(why)) => {
                    warn!("nothing was changed about TLS {side}: {why}");
                    is_fine = false;
                }
            }
        }
        is_fine
    }
}

/// The figures of a [`Proxy`], at any time.
#[derive(Clone, Debug)]
pub struct StatsReader {
    handler: Arc<Handler>,
    server: Option<Server>,
    gate: Arc<Gate>,
}

impl StatsReader {
    /// Whether it was told to stop: then nobody new should come.
    pub fn is_stopping(&self) -> bool {
        self.handler.is_stopping()
    }

    /// The figures now.
    pub fn read(&self) -> ProxyStats {
        let counters = &self.handler.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        ProxyStats {
            connections: load(&counters.connections),
            forbidden_connections: load(&self.gate.forbidden),
            excess_connections: load(&self.gate.excess),
            headerless_connections: load(&self.gate.headerless),
            shed_connections: load(&counters.shed_connections),
            requests: load(&counters.requests),
            responses: load(&counters.responses),
            refused: load(&counters.refused),
            timeouts: load(&counters.timeouts),
            upstream_errors: load(&counters.upstream_errors),
            in_flight: self.handler.in_flight(),
            memory_held: self.handler.memory().held(),
            memory_peak: self.handler.memory().peak(),
            memory_shed: self.handler.memory().shed(),
            in_links: self.server.as_ref().map(Server::stats),
            out_links: self.handler.upstreams().link_stats(),
            recompress: self.handler.upstreams().recompressor().map(|recompressor| recompressor.stats()),
        }
    }

    /// Each upstream now.
    pub fn upstreams(&self) -> Vec<UpstreamStats> {
        let stats = |view: View<Arc<Upstream>>| UpstreamStats {
            name: view.what.name().to_owned(),
            addr: view.what.addr(),
            state: view.state.name(),
            pending: view.pending,
            requests: view.what.tally.requests.load(Ordering::Relaxed),
            failures: view.what.tally.failures.load(Ordering::Relaxed),
            latency: view.latency,
            failure_share: view.failure_share,
            ejections: view.ejections,
            links: view.what.links(),
        };
        self.handler.upstreams().view().into_iter().map(stats).collect()
    }
}

/// One upstream at one moment.
#[derive(Clone, Debug)]
pub struct UpstreamStats {
    /// As configured.
    pub name: String,
    /// `HOST:PORT`, with the address that was found for a name.
    pub addr: String,
    /// `up`, `starting` (it comes back, or is new, and gets less than its share), `ejected`, `unhealthy` (by active
    /// checks) or `leaving` (its name does not stand for it any more).
    pub state: &'static str,
    /// Requests in hand there.
    pub pending: u32,
    /// Requests sent there, repeated ones included.
    pub requests: u64,
    /// Those of them that were not answered, or with 502, 503 or 504.
    pub failures: u64,
    /// The moving mean of its latency.
    pub latency: Option<Duration>,
    /// The share of failures among its last answers, from 0 to 1.
    pub failure_share: f64,
    /// How often it was ejected.
    pub ejections: u64,
    /// What each link to it has carried; empty if requests go by HTTP.
    pub links: Vec<Stats>,
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// HTTP connections accepted.
    pub connections: u64,
    /// Connections closed because their address is not allowed.
    pub forbidden_connections: u64,
    /// Connections closed because too many were open.
    pub excess_connections: u64,
    /// Connections closed because they had to begin with a header of the PROXY protocol and did not.
    pub headerless_connections: u64,
    /// Connections closed for want of memory: links, when those that are up take what they may of the
    /// [budget](ProxyConfig::memory_budget), and those of HTTP callers, when it is used up.
    pub shed_connections: u64,
    /// Requests begun.
    pub requests: u64,
    /// Requests answered with the upstream's response.
    pub responses: u64,
    /// Requests answered by the proxy because of the request itself or the limit on requests at once.
    pub refused: u64,
    /// Requests answered 504.
    pub timeouts: u64,
    /// Requests answered 502.
    pub upstream_errors: u64,
    /// Requests not yet answered.
    pub in_flight: usize,
    /// Bytes of memory that messages take now.
    pub memory_held: usize,
    /// The most that they took.
    pub memory_peak: usize,
    /// Messages refused because the [budget](ProxyConfig::memory_budget) was used up.
    pub memory_shed: u64,
    /// What the links that requests come in by have carried, if they come by links.
    pub in_links: Option<Stats>,
    /// What the links that requests go out by have carried, if they go by links.
    pub out_links: Option<Stats>,
    /// What became of compressed bodies, if they are recompressed.
    pub recompress: Option<RecompressStats>,
}

/// Why a proxy did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The address to listen on cannot be used.
    Listen {
        /// As configured.
        addr: String,
        /// Why.
        error: io::Error,
    },
    /// An address is none.
    Address {
        /// As configured.
        addr: String,
        /// Which one, for people.
        role: &'static str,
        /// What would be one, for people.
        wanted: &'static str,
    },
    /// What it is told contradicts itself, in words.
    Contradiction(&'static str),
    /// TLS cannot be spoken as told, in words.
    Tls(String),
    /// The address for metrics cannot be used.
    Metrics {
        /// As configured.
        addr: String,
        /// Why.
        error: io::Error,
    },
    /// The file to record to cannot be used.
    Record {
        /// Which one.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// It would send requests to itself, for ever.
    Loop {
        /// Where it would send them.
        addr: String,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen { addr, error } if error.kind() == io::ErrorKind::AddrInUse => write!(
                f,
                "cannot listen on {addr}: the port is in use; stop what listens there, or choose another port"
            ),
            Self::Listen { addr, error } if error.kind() == io::ErrorKind::PermissionDenied => {
                write!(
                    f,
                    "cannot listen on {addr}: permission denied; ports below 1024 need privileges, and a unix socket a directory to write to"
                )
            }
            Self::Listen { addr, error } => write!(f, "cannot listen on {addr}: {error}"),
            Self::Address { addr, role, wanted } => write!(f, "{role} {addr:?} is not {wanted}"),
            Self::Contradiction(why) => f.write_str(why),
            Self::Tls(why) => f.write_str(why),
            Self::Metrics { addr, error } => write!(
                f,
                "cannot show figures at {addr}: {error}; give another address with --expvar-addr, or an empty one for none"
            ),
            Self::Record { path, error } => write!(f, "cannot record to {} (--record): {error}", path.display()),
            Self::Loop { addr } => write!(
                f,
                "it would send requests to itself, at {addr}: give the address of the next hop with --out and what is spoken there with --out-type"
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Listen { error, .. } | Self::Metrics { error, .. } | Self::Record { error, .. } => Some(error),
            Self::Address { .. } | Self::Contradiction(_) | Self::Tls(_) | Self::Loop { .. } => None,
        }
    }
}

/// Whether requests would come in again where they go out. A loop over other hosts is not seen here.
fn is_own_upstream(config: &ProxyConfig, out: &str, local: &ListenAddr) -> bool {
    let local = match local {
        ListenAddr::Tcp(addr) => addr,
        ListenAddr::Unix(path) => return config.outbound.kind.is_unix() && *path == Path::new(out),
    };
    let Some((host, port)) = split_port(out) else { return false };
    let ip = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return false,
    };
    let same_host = ip == local.ip() || (local.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()));
    config.inbound.kind == config.outbound.kind && port == local.port() && same_host
}

fn start_line(config: &ProxyConfig, local_addr: &ListenAddr) -> String {
    let (inbound, out) = (&config.inbound, &config.outbound);
    let how = |compression, prefers_zstd| match prefers_zstd {
        true => format!("zstd where the peer knows it, else {}", name(compression)),
        false => name(compression).to_owned(),
    };
    let sends = |kind: Kind, what, how: String, delay: Duration| match kind.is_link() {
        false => String::new(),
        true if delay.is_zero() => format!(" ({what} {how})"),
        true => format!(" ({what} {how}, batched for {delay:?})"),
    };
    let (inward, outward) = (how(inbound.compression, inbound.prefer_zstd), how(out.compression, out.prefer_zstd));
    format!(
        "listening on {local_addr} for {}{}, sending to {} at {}{}",
        inbound.kind,
        sends(inbound.kind, "responses compressed with", inward, inbound.batch_delay),
        out.kind,
        out.addrs().collect::<Vec<_>>().join(", "),
        sends(out.kind, "requests compressed with", outward, out.batch_delay),
    )
}

/// The name of a compression on the command line.
fn name(compression: Compression) -> &'static str {
    match compression {
        Compression::Deflate => "flate",
        Compression::None => "none",
        Compression::Snappy => "snappy",
        Compression::Zstd => "zstd",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_not_its_own_upstream() {
        let own = |kind, out: &str, local: &str| {
            let inbound = Inbound { kind, ..Inbound::default() };
            let local = ListenAddr::Tcp(local.parse().unwrap());
            is_own_upstream(&ProxyConfig { inbound, ..ProxyConfig::default() }, out, &local)
        };
        assert!(own(Kind::Teleport, "127.0.0.1:8043", "127.0.0.1:8043"));
        assert!(own(Kind::Teleport, "localhost:8043", "0.0.0.0:8043"));
        assert!(!own(Kind::Teleport, "127.0.0.1:8044", "127.0.0.1:8043"));
        assert!(!own(Kind::Teleport, "10.0.0.1:8043", "0.0.0.0:8043"));
        assert!(!own(Kind::Http, "127.0.0.1:8043", "127.0.0.1:8043"), "another protocol answers there, with an error");
    }

    #[test]
    fn the_start_line_says_it_all() {
        let mut config = ProxyConfig::default();
        let addr = ListenAddr::Tcp(([127, 0, 0, 1], 8080).into());
        assert_eq!(
            start_line(&config, &addr),
            "listening on 127.0.0.1:8080 for http, sending to teleport at 127.0.0.1:8043 (requests compressed with flate)"
        );
        config.inbound.kind = Kind::Teleport;
        config.inbound.compression = Compression::Snappy;
        config.inbound.batch_delay = Duration::from_millis(2);
        config.outbound.kind = Kind::Http;
        assert_eq!(
            start_line(&config, &addr),
            "listening on 127.0.0.1:8080 for teleport (responses compressed with snappy, batched for 2ms), sending to http at 127.0.0.1:8043"
        );
        config.outbound = Outbound { prefer_zstd: true, ..Outbound::default() };
        assert!(
            start_line(&config, &addr)
                .ends_with(" (requests compressed with zstd where the peer knows it, else flate)")
        );
    }
}
