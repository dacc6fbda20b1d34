//! The proxy: HTTP in one end, HTTP out of the other, and mostly a link in between.
//!
//! A [`Proxy`] is one listener and one upstream, each of which speaks plain HTTP or teleport. Two of them make the
//! usual pair: the near one (HTTP in, teleport out) beside the callers, the far one (teleport in, HTTP out) beside the
//! origin.
//!
//! ```text
//! listener (http_in | driver::smol::Server) -> Handler -> Upstream (http_out | driver::smol::Client)
//! ```
//!
//! Both listeners hand whole requests to one handler, which keeps the limits and answers every request: with the
//! upstream's response or with one that says what went wrong. What is HTTP's own business (keep-alive, chunked bodies,
//! `100 Continue`, fields of one connection) ends on the side where it belongs and is never forwarded.
//!
//! [`cli`] is the program `httptp` around it, `demo` inside that its own little world to look at.

// This is the shell: it lives in real time and on real sockets.
#![allow(clippy::disallowed_methods, clippy::disallowed_types)]

mod activity;
mod body;
pub mod cli;
mod config;
mod counted;
mod demo;
mod error;
mod fields;
mod handler;
mod http_in;
mod http_out;
mod process;
mod stranger;
mod upstream;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::Full;
use smol::Executor;
use smol::future::FutureExt;
use smol::net::TcpListener;
use tracing::info;

pub use config::{Inbound, Kind, Outbound, ProxyConfig};

use crate::driver::Peer;
use crate::driver::smol::Server;
use crate::proto::{Compression, Stats};
use handler::Handler;
use http_in::HttpIn;
use stranger::Strangers;
use upstream::Upstream;

/// How long requests in hand may take to end once a proxy stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

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
    listener: TcpListener,
    local_addr: SocketAddr,
    handler: Arc<Handler>,
    server: Option<Server>,
    executor: Arc<Executor<'static>>,
}

impl Proxy {
    /// Listens as `config` says; tasks will run on `executor`. The upstream is not connected before the first request.
    ///
    /// # Errors
    ///
    /// The address to listen on cannot be used, or the one to send to cannot be one.
    pub async fn bind(config: ProxyConfig, executor: Arc<Executor<'static>>) -> Result<Self, StartError> {
        check_addrs(&config)?;
        let listener = listen(&config.inbound.addr).await?;
        let local_addr =
            listener.local_addr().map_err(|error| StartError::Listen { addr: config.inbound.addr.clone(), error })?;
        if is_own_upstream(&config, local_addr) {
            return Err(StartError::Loop { addr: config.outbound.addr });
        }
        let upstream = Upstream::new(&executor, &config);
        // An address is always a valid field value.
        let default_host =
            HeaderValue::from_str(&local_addr.to_string()).unwrap_or_else(|_| HeaderValue::from_static("localhost"));
        let handler = Arc::new(Handler::new(&config, upstream, default_host));
        let server =
            (config.inbound.kind == Kind::Teleport).then(|| Server::new(executor.clone(), config.server_options()));
        Ok(Self { config, listener, local_addr, handler, server, executor })
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Reads this proxy's figures, also while it runs.
    pub fn stats(&self) -> StatsReader {
        StatsReader { handler: self.handler.clone(), server: self.server.clone() }
    }

    /// Serves until `shutdown` ends; then stops listening, and gives requests in hand five seconds to end.
    ///
    /// # Errors
    ///
    /// The listener failed for good.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { config, listener, local_addr, handler, server, executor } = self;
        info!("{}", start_line(&config, local_addr));
        let result = match server {
            None => {
                let http = HttpIn::new(listener, &config.inbound, handler.clone(), executor);
                http.run(shutdown, DRAIN_TIMEOUT).await;
                Ok(())
            }
            Some(server) => serve_links(server, listener, handler.clone(), shutdown).await,
        };
        handler.upstream().close(Instant::now() + Duration::from_secs(1)).await;
        result
    }
}

async fn serve_links(
    server: Server,
    listener: TcpListener,
    handler: Arc<Handler>,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()> {
    let strangers = Arc::new(Strangers::default());
    let links = strangers.clone();
    server.on_link_start(move |peer, compression| links.note_link(&peer.addr, name(compression)));
    server.on_link_end(move |peer, error, transport| strangers.note_on_teleport(&peer.addr, error, transport));
    let answer = move |request: Request<Bytes>, _: Peer| {
        let handler = handler.clone();
        async move { answer_on_link(&handler, request).await }
    };
    let stopped = async {
        shutdown.await;
        server.shutdown(Instant::now() + DRAIN_TIMEOUT).await;
        Ok(())
    };
    // An orderly end of `serve` is the beginning of draining, and that is what to wait for.
    let served = async {
        server.serve(listener, answer).await?;
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

/// The figures of a [`Proxy`], at any time.
#[derive(Clone, Debug)]
pub struct StatsReader {
    handler: Arc<Handler>,
    server: Option<Server>,
}

impl StatsReader {
    /// The figures now.
    pub fn read(&self) -> ProxyStats {
        let counters = &self.handler.counters;
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        ProxyStats {
            connections: load(&counters.connections),
            requests: load(&counters.requests),
            responses: load(&counters.responses),
            refused: load(&counters.refused),
            timeouts: load(&counters.timeouts),
            upstream_errors: load(&counters.upstream_errors),
            in_flight: self.handler.in_flight(),
            in_links: self.server.as_ref().map(Server::stats),
            out_links: self.handler.upstream().link_stats(),
        }
    }
}

/// What a proxy has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyStats {
    /// HTTP connections accepted.
    pub connections: u64,
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
    /// What the links that requests come in by have carried, if they come by links.
    pub in_links: Option<Stats>,
    /// What the links that requests go out by have carried, if they go by links.
    pub out_links: Option<Stats>,
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
    /// An address is not `HOST:PORT`.
    Address {
        /// As configured.
        addr: String,
        /// Which one, for people.
        role: &'static str,
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
                write!(f, "cannot listen on {addr}: permission denied; ports below 1024 need privileges")
            }
            Self::Listen { addr, error } => write!(f, "cannot listen on {addr}: {error}"),
            Self::Address { addr, role } => {
                write!(f, "{role} {addr:?} is not HOST:PORT, such as 127.0.0.1:8043 or far.example:8043")
            }
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
            Self::Listen { error, .. } => Some(error),
            Self::Address { .. } | Self::Loop { .. } => None,
        }
    }
}

/// Listens on `HOST:PORT` or, as in Go, on `:PORT` for all addresses.
async fn listen(addr: &str) -> Result<TcpListener, StartError> {
    let full = match addr.strip_prefix(':') {
        Some(port) => format!("{}:{port}", Ipv4Addr::UNSPECIFIED),
        None => addr.to_owned(),
    };
    TcpListener::bind(full.as_str()).await.map_err(|error| StartError::Listen { addr: addr.to_owned(), error })
}

/// Whether the addresses can be addresses at all.
fn check_addrs(config: &ProxyConfig) -> Result<(), StartError> {
    let wrong = |addr: &str, role| Err(StartError::Address { addr: addr.to_owned(), role });
    let (inbound, out) = (&config.inbound.addr, &config.outbound.addr);
    if split_port(inbound).is_none() {
        return wrong(inbound, "the address to listen on (--in)");
    }
    match split_port(out) {
        Some((host, port)) if !host.is_empty() && port != 0 => Ok(()),
        _ => wrong(out, "the address to send to (--out)"),
    }
}

/// Host and port of `HOST:PORT`, where an IPv6 host stands in brackets.
fn split_port(addr: &str) -> Option<(&str, u16)> {
    let (host, port) = addr.rsplit_once(':')?;
    let is_plain = !host.contains([':', '/', ' ', ',']);
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    (is_plain || is_bracketed).then_some(())?;
    Some((host, port.parse().ok()?))
}

/// Whether requests would come in again where they go out. A loop over other hosts is not seen here.
fn is_own_upstream(config: &ProxyConfig, local: SocketAddr) -> bool {
    let Some((host, port)) = split_port(&config.outbound.addr) else { return false };
    let ip = match host.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(ip) => ip,
        Err(_) if host == "localhost" => Ipv4Addr::LOCALHOST.into(),
        Err(_) => return false,
    };
    let same_host = ip == local.ip() || (local.ip().is_unspecified() && (ip.is_loopback() || ip.is_unspecified()));
    config.inbound.kind == config.outbound.kind && port == local.port() && same_host
}

fn start_line(config: &ProxyConfig, local_addr: SocketAddr) -> String {
    let (inbound, out) = (&config.inbound, &config.outbound);
    let how = |compression, prefers_zstd| match prefers_zstd {
        true => format!("zstd where the peer knows it, else {}", name(compression)),
        false => name(compression).to_owned(),
    };
    let sends = |kind, what, how: String, delay: Duration| match kind {
        Kind::Http => String::new(),
        Kind::Teleport if delay.is_zero() => format!(" ({what} {how})"),
        Kind::Teleport => format!(" ({what} {how}, batched for {delay:?})"),
    };
    let (inward, outward) = (how(inbound.compression, inbound.prefer_zstd), how(out.compression, out.prefer_zstd));
    format!(
        "listening on {local_addr} for {}{}, sending to {} at {}{}",
        inbound.kind,
        sends(inbound.kind, "responses compressed with", inward, inbound.batch_delay),
        out.kind,
        out.addr,
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
    fn addresses_are_host_and_port() {
        assert_eq!(split_port("127.0.0.1:80"), Some(("127.0.0.1", 80)));
        assert_eq!(split_port("[::1]:80"), Some(("[::1]", 80)));
        assert_eq!(split_port(":80"), Some(("", 80)));
        for bad in ["", "host", "host:", "host:http", "host:70000", "::1:80", "http://h:80", "a:1,b:2"] {
            assert_eq!(split_port(bad), None, "{bad}");
        }
        let sending_to = |addr: &str| {
            let outbound = Outbound { addr: addr.to_owned(), ..Outbound::default() };
            check_addrs(&ProxyConfig { outbound, ..ProxyConfig::default() })
        };
        assert!(sending_to("h:1").is_ok());
        assert!(sending_to(":80").is_err());
        assert!(sending_to("h:0").is_err());
    }

    #[test]
    fn a_proxy_is_not_its_own_upstream() {
        let own = |kind, out: &str, local: &str| {
            let inbound = Inbound { kind, ..Inbound::default() };
            let outbound = Outbound { addr: out.to_owned(), ..Outbound::default() };
            is_own_upstream(&ProxyConfig { inbound, outbound, ..ProxyConfig::default() }, local.parse().unwrap())
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
        let addr = SocketAddr::from(([127, 0, 0, 1], 8080));
        assert_eq!(
            start_line(&config, addr),
            "listening on 127.0.0.1:8080 for http, sending to teleport at 127.0.0.1:8043 (requests compressed with flate)"
        );
        config.inbound.kind = Kind::Teleport;
        config.inbound.compression = Compression::Snappy;
        config.inbound.batch_delay = Duration::from_millis(2);
        config.outbound.kind = Kind::Http;
        assert_eq!(
            start_line(&config, addr),
            "listening on 127.0.0.1:8080 for teleport (responses compressed with snappy, batched for 2ms), sending to http at 127.0.0.1:8043"
        );
        config.outbound = Outbound { prefer_zstd: true, ..Outbound::default() };
        assert!(
            start_line(&config, addr).ends_with(" (requests compressed with zstd where the peer knows it, else flate)")
        );
    }
}
