//! What a proxy is told: where requests come in, where they go, and how much it takes.

use std::fmt;
use std::time::Duration;

use http::HeaderName;
use ipnet::IpNet;

use super::access::{Forwarded, ForwardedProto};
use super::fields;
use super::listen::Opened;
use super::recompress::Recompress;
use super::record::Recording;
use super::tls::{InboundTls, OutboundTls};
use super::upstream::{HealthCheck, resolve};
use crate::driver::{ClientOptions, ServerOptions};
use crate::proto::{Compression, Config, Dictionary, Limits};

/// How long a write on a link may make no progress. A slow network empties the buffers on the way by leaps, and what
/// waits meanwhile is limited in bytes.
const LINK_WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// A far proxy that owes answers and says nothing for three times as long as they may take, and at least for so long, is
/// taken for dead: something on the way may answer for it, so that TCP does not find out.
const LEAST_SILENCE: Duration = Duration::from_secs(10);

/// A far proxy closes a link that carries nothing for so long. The near proxy, which knows whether it is about to send
/// something, has closed it before ([`Outbound::idle_timeout`]).
const LINK_IDLE_TIMEOUT: Duration = Duration::from_secs(150);

/// How many bytes of responses may wait for one link, if there is memory for them.
const WAITING_BYTES: usize = 256 * 1024 * 1024;

/// Most fields in a head, on both sides (R-limit-fields).
pub(crate) const MAX_HEADER_COUNT: usize = 128;

/// As an address to listen on: the socket that a service manager hands over.
pub(crate) const HANDED_OVER: &str = "systemd";

/// All that a [`Proxy`](crate::proxy::Proxy) is told.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// Where requests come in.
    pub inbound: Inbound,
    /// Where they go.
    pub outbound: Outbound,
    /// Most requests at once; above it the answer is 429. Default 100,000.
    pub concurrency: usize,
    /// Most bytes of memory for messages, over all connections; above it the answer is 503 (R-limit-memory). Default
    /// `None`: no limit but those of each connection and message.
    pub memory_budget: Option<usize>,
    /// How long it goes on as before when it is told to stop, while it says that it is not ready: so long balancers may
    /// take to notice. Default 0.
    pub stop_delay: Duration,
    /// How long requests in hand may take to end after that. For the first second of it, or the first half if that is less,
    /// links go on after a goodbye (R-goodbye), so that what is on its way by them is not lost. Default 5 s.
    pub drain_timeout: Duration,
    /// Log each request that gets no answer from an upstream as a warning; else outages when they begin, and other kinds once
    /// a minute. Default off.
    pub log_all_errors: bool,
    /// Compressed bodies go decoded over the link and are restored behind it (R-proxy-recompress), where the proxy at the
    /// other end does the same. Default off.
    pub recompress: Recompress,
    /// What it shows of itself.
    pub seeing: Seeing,
}

impl Default for ProxyConfig {
    fn default() -> Self {
        Self {
            inbound: Inbound::default(),
            outbound: Outbound::default(),
            concurrency: 100_000,
            memory_budget: None,
            stop_delay: Duration::ZERO,
            drain_timeout: Duration::from_secs(5),
            log_all_errors: false,
            recompress: Recompress::Off,
            seeing: Seeing::default(),
        }
    }
}

/// What a proxy shows of itself. The default is nothing but its log.
#[derive(Clone, Debug, Default)]
pub struct Seeing {
    /// `HOST:PORT` of the page with live figures, and of `/metrics`, `/prometheus`, `/expvar` and `/status`; `:PORT` is
    /// every IPv4 address. Whoever can reach it sees the addresses of upstreams and how much they do.
    pub metrics_addr: Option<String>,
    /// Go on without when that address is in use.
    pub metrics_optional: bool,
    /// Log one line for each request, with the address of who sent it: at a link, of the near proxy.
    pub access_log: bool,
    /// Give each request that has no `traceparent` field one. A field that is there is passed on as it is.
    pub make_traceparent: bool,
    /// Record what is carried, heads and bodies, secrets included.
    pub record: Option<Recording>,
}

/// What is spoken on one side of a proxy, and over what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// HTTP/1 over TCP.
    Http,
    /// HTTP inside TLS.
    Https,
    /// HTTP/1 over a unix socket.
    Unix,
    /// The teleport protocol over TCP.
    Teleport,
    /// The teleport protocol with TLS, which both ends agree on in their hellos.
    Teleports,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Http, Self::Https, Self::Unix, Self::Teleport, Self::Teleports];

    /// Whether teleport is spoken, not HTTP.
    pub const fn is_link(self) -> bool {
        matches!(self, Self::Teleport | Self::Teleports)
    }

    /// Whether it is spoken inside TLS.
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Teleports)
    }

    /// Whether addresses are paths of unix sockets.
    pub const fn is_unix(self) -> bool {
        matches!(self, Self::Unix)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Unix => "unix",
            Self::Teleport => "teleport",
            Self::Teleports => "teleports",
        })
    }
}

/// Where requests come in. The defaults are those of the original, but for the longest head.
#[derive(Clone, Debug)]
pub struct Inbound {
    /// `HOST:PORT` to listen on; port 0 lets the system pick. For [`Kind::Unix`] a path. Default `127.0.0.1:8080`.
    pub addr: String,
    /// What is spoken there. Default HTTP.
    pub kind: Kind,
    /// Teleport: how responses are compressed. Default DEFLATE.
    pub compression: Compression,
    /// Teleport: zstd instead for near proxies that know it. Default off.
    pub prefer_zstd: bool,
    /// Teleport: dictionaries for zstd. Near proxies may send with any of these, and are answered with the same. Default
    /// none.
    pub dictionaries: Vec<Dictionary>,
    /// Teleport: how hard to compress, 1 to 9. Default: as is usual for the compression.
    pub level: Option<u8>,
    /// Teleport: how much of the time compressing may take on a link, each counted alone, above which the level falls.
    /// Default none.
    pub max_compress_share: Option<f64>,
    /// Teleport: how long a response may wait for others to share its batch. Default 0.
    pub batch_delay: Duration,
    /// Longest request head, in bytes. Default 64 KiB.
    pub max_head_bytes: usize,
    /// Longest request body, in bytes. Default 4 MiB, which suits HTTP; see [`Inbound::max_body_bytes_of`].
    pub max_body_bytes: usize,
    /// HTTP: a connection that does nothing for so long, or for twice as long at most, is closed. Default 60 s.
    pub idle_timeout: Duration,
    /// HTTP: how long a caller may take for the body of a request. Default 120 s.
    pub body_timeout: Duration,
    /// Refuse methods other than GET and HEAD. Default off.
    pub get_only: bool,
    /// A socket that listens already, in place of [`addr`](Self::addr). Default none.
    pub opened: Option<Opened>,
    /// TCP: several processes listen on the same port, and the system spreads connections over them. Default off.
    pub reuse_port: bool,
    /// TLS, for the kinds that speak it.
    pub tls: InboundTls,
    /// The networks that may connect; of everybody else connections are closed at once. It is the other end of the
    /// connection that counts, also with [`proxy_protocol`](Self::proxy_protocol). Not for unix sockets, where files
    /// have permissions. Default none, which is everybody.
    pub allow_ip: Vec<IpNet>,
    /// Most connections at once; above it further ones are closed at once. Default 0: any number.
    pub max_conns: usize,
    /// Each connection begins with a header of the PROXY protocol, version 2, that tells who it comes from; one that
    /// does not is closed. Default off.
    pub proxy_protocol: bool,
    /// HTTP: the field that tells upstream the address of the caller. What the caller has written there goes. Default
    /// none.
    pub client_ip_header: Option<HeaderName>,
    /// HTTP: the list that the address of the caller is appended to. Default off.
    pub forwarded: Forwarded,
    /// HTTP: whether upstream is told what the caller has spoken. Default off.
    pub forwarded_proto: ForwardedProto,
}

impl Inbound {
    /// What suits a listener of this kind: 4 MiB from HTTP callers; 64 MiB by links, since the near proxy has its own
    /// limit for each caller.
    pub const fn max_body_bytes_of(kind: Kind) -> usize {
        match kind {
            Kind::Http | Kind::Https | Kind::Unix => 4 * 1024 * 1024,
            Kind::Teleport | Kind::Teleports => 64 * 1024 * 1024,
        }
    }
}

impl Default for Inbound {
    fn default() -> Self {
        Self {
            addr: "127.0.0.1:8080".to_owned(),
            kind: Kind::Http,
            compression: Compression::default(),
            prefer_zstd: false,
            dictionaries: Vec::new(),
            level: None,
            max_compress_share: None,
            batch_delay: Duration::ZERO,
            max_head_bytes: 64 * 1024,
            max_body_bytes: Self::max_body_bytes_of(Kind::Http),
            idle_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(120),
            get_only: false,
            opened: None,
            reuse_port: false,
            tls: InboundTls::default(),
            allow_ip: Vec::new(),
            max_conns: 0,
            proxy_protocol: false,
            client_ip_header: None,
            forwarded: Forwarded::Off,
            forwarded_proto: ForwardedProto::Off,
        }
    }
}

/// Where requests go. The defaults are those of the original, but for the longest head.
#[derive(Clone, Debug)]
pub struct Outbound {
    /// `HOST:PORT`, or for [`Kind::Unix`] a path; or several of them with commas between. Each request goes to the least
    /// loaded one. Default `127.0.0.1:8043`.
    pub addr: String,
    /// What is spoken there. Default teleport.
    pub kind: Kind,
    /// How often names in `addr` are looked up: each address of a name is an upstream of its own, which comes and goes
    /// with it. Zero: a name is one upstream, and looked up at each connect. Default 10 s.
    pub resolve_interval: Duration,
    /// How long connecting may take, so that there is time left for another upstream. `None` is as long as the request
    /// if there is only one upstream, and otherwise a third of that. Default `None`.
    pub connect_timeout: Option<Duration>,
    /// Which requests are sent to another upstream when one has failed. Default [`Retry::Idempotent`].
    pub retry: Retry,
    /// How long an upstream that comes back, or is new beside others, gets less than its share. Default 10 s.
    pub slow_start: Duration,
    /// Teleport: tell the far proxy how long the caller still waits (R-proxy-time-left), so that it does not wait longer
    /// either. For far proxies that know of it: the original passes the field on to its origin. Default off.
    pub pass_time_left: bool,
    /// Whether and how upstreams are asked for their health. Default not: only requests tell.
    pub health_check: Option<HealthCheck>,
    /// Teleport: how requests are compressed. Default DEFLATE.
    pub compression: Compression,
    /// Teleport: zstd instead if the far proxy knows it, which is found out. Default off.
    pub prefer_zstd: bool,
    /// Teleport: dictionaries for zstd. Requests are sent with the first, which the far proxy must have. Default none.
    pub dictionaries: Vec<Dictionary>,
    /// Teleport: how hard to compress, 1 to 9. Default: as is usual for the compression.
    pub level: Option<u8>,
    /// Teleport: how much of the time compressing may take on a link, each counted alone, above which the level falls.
    /// Default none.
    pub max_compress_share: Option<f64>,
    /// Teleport: how long a request may wait for others to share its batch. Default 0.
    pub batch_delay: Duration,
    /// Longest response head, in bytes. Default 64 KiB.
    pub max_head_bytes: usize,
    /// Longest response body, in bytes. Default 64 MiB.
    pub max_body_bytes: usize,
    /// How long a response may take, connecting included; `None` is for ever. Default 3 s.
    pub timeout: Option<Duration>,
    /// Teleport: how many links to each upstream. Default 1.
    pub links: usize,
    /// Teleport: a link that carries nothing for so long is closed; the next request opens a new one. Default 120 s.
    pub idle_timeout: Duration,
    /// TLS, for the kinds that speak it.
    pub tls: OutboundTls,
}

impl Outbound {
    /// The default of `max_body_bytes`.
    pub const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
    /// The default of `timeout`.
    pub const TIMEOUT: Duration = Duration::from_secs(3);

    /// Each address.
    pub(crate) fn addrs(&self) -> impl Iterator<Item = &str> {
        self.addr.split(',').map(str::trim)
    }

    /// How long connecting may take, if there is a limit.
    pub(crate) fn connect_timeout(&self) -> Option<Duration> {
        let is_name = !self.kind.is_unix() && resolve::is_name(&self.addr);
        let is_alone = self.addrs().count() == 1 && !is_name;
        self.connect_timeout.or(self.timeout.map(|timeout| if is_alone { timeout } else { timeout / 3 }))
    }
}

/// Which requests may be sent to another upstream when one has failed. Those that surely did not reach it always are; one
/// whose response had begun never is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Retry {
    /// No others.
    Unsent,
    /// Those whose method says that repeating does no harm: GET, HEAD, OPTIONS, TRACE, PUT and DELETE.
    #[default]
    Idempotent,
    /// Each: whoever configures this says that none of them does harm when it runs twice.
    All,
}

impl Default for Outbound {
    fn default() -> Self {
        Self {
            addr: "127.0.0.1:8043".to_owned(),
            kind: Kind::Teleport,
            resolve_interval: Duration::from_secs(10),
            connect_timeout: None,
            retry: Retry::default(),
            slow_start: Duration::from_secs(10),
            pass_time_left: false,
            health_check: None,
            compression: Compression::default(),
            prefer_zstd: false,
            dictionaries: Vec::new(),
            level: None,
            max_compress_share: None,
            batch_delay: Duration::ZERO,
            max_head_bytes: 64 * 1024,
            max_body_bytes: Self::MAX_BODY_BYTES,
            timeout: Some(Self::TIMEOUT),
            links: 1,
            idle_timeout: Duration::from_secs(120),
            tls: OutboundTls::default(),
        }
    }
}

impl ProxyConfig {
    /// The options of the driver's client for a teleport upstream.
    pub(crate) fn client_options(&self) -> ClientOptions {
        let out = &self.outbound;
        let limits = self.link_limits(out.max_head_bytes, self.concurrency);
        let defaults = Config::default();
        // A little before the requests that wait for it, which then learn why.
        let connect_timeout = out.connect_timeout();
        let hello_timeout = connect_timeout.map_or(defaults.hello_timeout, |timeout| timeout.mul_f64(0.8));
        let options = ClientOptions::default()
            .compression(out.compression)
            .prefer_zstd(out.prefer_zstd)
            .dictionaries(out.dictionaries.iter().cloned())
            .level(out.level)
            .max_compress_share(out.max_compress_share)
            .max_batch_delay(out.batch_delay)
            .hello_timeout(hello_timeout.min(defaults.hello_timeout))
            .idle_timeout(out.idle_timeout)
            .limits(limits)
            .connect_timeout(connect_timeout.unwrap_or(Outbound::TIMEOUT))
            .read_timeout(out.timeout.map(|timeout| (timeout * 3).max(LEAST_SILENCE)))
            .write_timeout(LINK_WRITE_TIMEOUT);
        // A link that ended is dialled anew before another upstream is tried.
        match out.retry {
            Retry::Unsent => options,
            Retry::Idempotent => options.retry_if(|request| fields::is_idempotent(request.method())),
            Retry::All => options.retry_if(|_| true),
        }
    }

    /// The options of the driver's server for a teleport listener.
    pub(crate) fn server_options(&self) -> ServerOptions {
        let inbound = &self.inbound;
        // More than `concurrency`, so that a link over the limit is answered 429 rather than not read.
        let pending = self.concurrency.saturating_add(1_000);
        ServerOptions::default()
            .compression(inbound.compression)
            .prefer_zstd(inbound.prefer_zstd)
            .dictionaries(inbound.dictionaries.iter().cloned())
            .level(inbound.level)
            .max_compress_share(inbound.max_compress_share)
            .max_batch_delay(inbound.batch_delay)
            .limits(self.link_limits(inbound.max_head_bytes, pending))
            .waiting_bytes(self.share_of_one_link(WAITING_BYTES))
            .idle_timeout(LINK_IDLE_TIMEOUT)
            .write_timeout(LINK_WRITE_TIMEOUT)
            .concurrency(self.concurrency)
            // The listener counts connections, of whatever kind.
            .links(usize::MAX)
    }

    /// What one link may hold: not so much of the budget that the others have none.
    fn share_of_one_link(&self, bytes: usize) -> usize {
        self.memory_budget.map_or(bytes, |budget| bytes.min(budget / 4))
    }

    /// One `Limits` serves both directions of a link: the larger body counts, and the handler checks each direction's
    /// own limit. The buffer has room for at least one message of the largest size beside the usual traffic.
    fn link_limits(&self, head_bytes: usize, pending_requests: usize) -> Limits {
        let defaults = Limits::default();
        let body_bytes = self.inbound.max_body_bytes.max(self.outbound.max_body_bytes);
        let message_bytes = (body_bytes as u64).saturating_mul(2).saturating_add(head_bytes as u64);
        Limits {
            head_bytes,
            // A field or two may be added on the way: Content-Length, Host, the length of a response to HEAD.
            header_count: MAX_HEADER_COUNT + 4,
            body_bytes,
            message_bytes: message_bytes.max(defaults.message_bytes),
            pending_requests,
            // As many as can be pending can be given up, all at once (R-limit-minimum).
            abandoned_requests: defaults.abandoned_requests.max(pending_requests),
            held_bytes: self.share_of_one_link(defaults.held_bytes).max(head_bytes.saturating_add(body_bytes)),
            output_bytes: defaults.output_bytes.saturating_add(body_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_sends_requests_closes_idle_links_first() {
        let config = ProxyConfig::default();
        let near = config.client_options().connection().config.idle_timeout;
        let far = config.server_options().connection().config.idle_timeout;
        assert!(near.is_some() && near < far);
    }

    #[test]
    fn the_limits_of_links_keep_the_minimums() {
        // R-limit-minimum, in the table of spec/07-limits-and-security.md
        let small = Inbound { max_body_bytes: 1, max_head_bytes: 1, ..Inbound::default() };
        let large = Inbound { max_body_bytes: 1 << 40, ..Inbound::default() };
        for inbound in [Inbound::default(), small, large] {
            for concurrency in [1, 100_000, usize::MAX] {
                let config = ProxyConfig { inbound: inbound.clone(), concurrency, ..ProxyConfig::default() };
                let client = config.client_options().connection().config.limits;
                let server = config.server_options().connection().config.limits;
                for limits in [client, server] {
                    assert!(limits.abandoned_requests >= limits.pending_requests);
                    assert!(limits.message_bytes >= (limits.head_bytes + limits.body_bytes) as u64);
                    assert!(limits.held_bytes >= limits.head_bytes + limits.body_bytes);
                    assert!(limits.output_bytes >= 65_536 && limits.header_count >= 64 && limits.body_bytes >= 65_536);
                }
            }
        }
    }
}
