//! How clients and servers are set up: the same for every driver.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response, StatusCode};

use super::memory::MemoryBudget;
#[cfg(feature = "tls")]
use super::tls::{TlsClient, TlsServer};
#[cfg(feature = "zstd")]
use crate::proto::Dictionary;
use crate::proto::{ClientConfig, Compression, Config, Limits, ServerConfig, ServerTls};

/// What both roles are told about their links.
macro_rules! link_options {
    () => {
        /// How this side compresses what it sends; the peer chooses for itself. Default [`Compression::Deflate`].
        #[must_use]
        pub fn compression(mut self, compression: Compression) -> Self {
            self.config.compression = compression;
            self
        }

        /// Sends zstd to peers that know it, and what [`compression`](Self::compression) says to the others. A server sees
        /// which is which; a client tries, at the cost of a connection to a peer that does not know it, such as the
        /// original, and of 250 ms at one that knows it and compresses otherwise (spec/03-compression.md, 3.8). Default no.
        #[cfg(feature = "zstd")]
        #[must_use]
        pub fn prefer_zstd(mut self, prefer: bool) -> Self {
            self.config.prefer_zstd = prefer;
            self
        }

        /// Dictionaries for zstd, trained by `httptp train` on traffic that is like what is to come. A client sends with the
        /// first, which its server must have, too; a server answers with that of its client, and understands all that it
        /// has. So servers get a new one first, and then clients. Default none.
        #[cfg(feature = "zstd")]
        #[must_use]
        pub fn dictionaries(mut self, dictionaries: impl IntoIterator<Item = Dictionary>) -> Self {
            self.config.dictionaries = dictionaries.into_iter().collect();
            self
        }

        /// How hard to compress, from 1, least CPU, to 9, fewest bytes. Default 6 for DEFLATE and 3 for zstd; the others
        /// have no levels.
        #[must_use]
        pub fn level(mut self, level: impl Into<Option<u8>>) -> Self {
            self.config.level = level.into();
            self
        }

        /// How much of the time compressing may take on a link, such as 0.1: the rest of a core is for all else. The time is
        /// that of the clock, in which others may have had the core. Each link counts alone, and only what this side sends:
        /// if several share a core, divide.
        ///
        /// When that much of a quarter of a second is used up, the level is halved, and so on down to 1. If the share is
        /// below what compressing takes when all is busy, that is before requests have to queue for it, as long as the load
        /// rises by and by; if it is there at once, the level is 1 in less than a second. After 5 s at less than half of
        /// the share the level rises by one, up to the one that was chosen; a step that is too much is taken back, and
        /// tried again after twice as long, at most after 80 s. Default none, as is 1 or more: the level stays.
        #[must_use]
        pub fn max_compress_share(mut self, share: impl Into<Option<f64>>) -> Self {
            self.max_compress_share = share.into();
            self
        }

        /// How long a message may wait for others that leave with it. More share a batch, which makes fewer bytes and
        /// fewer packets, and each waits longer. Default 0: a batch is what came while the one before was written.
        #[must_use]
        pub fn max_batch_delay(mut self, delay: Duration) -> Self {
            self.config.max_batch_delay = delay;
            self
        }

        /// How many bytes of messages make a batch leave before its delay is over: the write buffer of the original.
        /// Default 64 KiB.
        #[must_use]
        pub fn write_buffer(mut self, bytes: usize) -> Self {
            self.config.batch_bytes = bytes;
            self
        }

        /// How long the hellos, with the TLS handshake, may take. Default 3 s.
        #[must_use]
        pub fn hello_timeout(mut self, timeout: Duration) -> Self {
            self.config.hello_timeout = timeout;
            self
        }

        /// Closes a link on which nothing was sent or received for so long. Default none: idle links stay open.
        #[must_use]
        pub fn idle_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
            self.config.idle_timeout = timeout.into();
            self
        }

        /// How long a link that closes waits for requests in flight, unless it closes by a deadline. Default 5 s.
        #[must_use]
        pub fn drain_timeout(mut self, timeout: Duration) -> Self {
            self.config.drain_timeout = timeout;
            self
        }

        /// How long the socket may take nothing of what is to be written. It may take less than 4 KiB/s of it for four
        /// times as long. Then the link ends. Default 5 s.
        #[must_use]
        pub fn write_timeout(mut self, timeout: Duration) -> Self {
            self.write_timeout = timeout;
            self
        }

        /// How many bytes are read from a socket at once, at least 256. Default 64 KiB.
        #[must_use]
        pub fn read_buffer(mut self, bytes: usize) -> Self {
            self.read_buffer = bytes.max(256);
            self
        }

        /// How much each link takes from its peer and holds for it. For some of them, begin with those of the role:
        /// `Limits { body_bytes: 1 << 20, ..Limits::default() }`, and [`Limits::server`] for a server. Those are the
        /// defaults.
        #[must_use]
        pub fn limits(mut self, limits: Limits) -> Self {
            self.config.limits = limits;
            self
        }

        /// The budget that what links hold of messages is counted in, and that limits it over all of them: see
        /// [`MemoryBudget`]. Default none: each link has its own limits.
        #[must_use]
        pub fn memory_budget(mut self, budget: MemoryBudget) -> Self {
            self.memory = Some(budget);
            self
        }

        /// All that the core is told about each link, in one: in place of what `compression`, `level`, the batches, the
        /// hello, idle and drain time-outs and `limits` were before. Default `Config::default()`, for a server with
        /// [`Limits::server`].
        #[must_use]
        pub fn config(mut self, config: Config) -> Self {
            self.config = config;
            self
        }
    };
}

/// Told how the server of a link compresses.
pub(super) type OnLinkStart = Arc<dyn Fn(Compression) + Send + Sync>;
pub(super) type OnGoodbye = Arc<dyn Fn() + Send + Sync>;

/// Which requests a caller allows to be sent, or to be sent again.
pub(super) type RetryIf = Arc<dyn Fn(&Request<Bytes>) -> bool + Send + Sync>;

/// Options of a client, of any driver. Each method sets one.
///
/// ```
/// use std::time::Duration;
///
/// use httpteleport::driver::ClientOptions;
/// use httpteleport::proto::Compression;
///
/// let options = ClientOptions::default()
///     .compression(Compression::Snappy)
///     .max_batch_delay(Duration::from_millis(1))
///     .timeout(Duration::from_secs(3))
///     .links(2);
/// ```
#[derive(Clone)]
pub struct ClientOptions {
    pub(super) config: Config,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsClient>,
    pub(super) timeout: Option<Duration>,
    pub(super) connect_timeout: Duration,
    pub(super) read_timeout: Option<Duration>,
    pub(super) write_timeout: Duration,
    pub(super) read_buffer: usize,
    pub(super) max_compress_share: Option<f64>,
    pub(super) memory: Option<MemoryBudget>,
    #[cfg(feature = "zstd")]
    pub(super) zstd_retry: Duration,
    pub(super) links: usize,
    pub(super) overflow: Overflow,
    pub(super) retry_if: Option<RetryIf>,
    pub(super) send_if: Option<RetryIf>,
    pub(super) on_link_start: Option<OnLinkStart>,
    pub(super) on_goodbye: Option<OnGoodbye>,
    pub(super) reconnect_pause: (Duration, Duration),
    pub(super) wait_for_link: bool,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            config: Config::default(),
            #[cfg(feature = "tls")]
            tls: None,
            timeout: None,
            connect_timeout: Duration::from_secs(3),
            read_timeout: None,
            write_timeout: Duration::from_secs(5),
            read_buffer: 64 * 1024,
            max_compress_share: None,
            memory: None,
            #[cfg(feature = "zstd")]
            zstd_retry: Duration::from_secs(10 * 60),
            links: 1,
            overflow: Overflow::default(),
            retry_if: None,
            send_if: None,
            on_link_start: None,
            on_goodbye: None,
            reconnect_pause: (Duration::from_millis(100), Duration::from_secs(1)),
            wait_for_link: false,
        }
    }
}

impl ClientOptions {
    link_options!();

    /// Asks the server for TLS. If the server has none, requests fail: they never go in clear (R-tls-refused).
    /// Default: no TLS.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsClient) -> Self {
        self.tls = Some(tls);
        self
    }

    /// How long a request may take that is given no deadline of its own. Default none: it waits for the link.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }

    /// How long a dial may take, at least 1 ms. Default 3 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Ends a link on which responses are due, also to requests that timed out, and nothing has come for so long: its
    /// server is taken for dead. Default none.
    #[must_use]
    pub fn read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.read_timeout = timeout.into();
        self
    }

    /// How long a server that does not know zstd is remembered, with [`prefer_zstd`](Self::prefer_zstd): the first link
    /// after that tries zstd again. At least 1 s; default 10 minutes.
    #[cfg(feature = "zstd")]
    #[must_use]
    pub fn zstd_retry(mut self, after: Duration) -> Self {
        self.zstd_retry = after.max(Duration::from_secs(1));
        self
    }

    /// How many links to the address share the requests, at least 1. Default 1. A request goes to the least busy one that
    /// is not in a [pause](Self::reconnect_pause), and from a link that cannot be had to one that is up. One more may be
    /// opened for HEAD requests (R-head-alone).
    #[must_use]
    pub fn links(mut self, links: usize) -> Self {
        self.links = links.max(1);
        self
    }

    /// How many requests can wait on one link. Default 1,000. [`overflow`](Self::overflow) says what becomes of more.
    #[must_use]
    pub fn max_pending_requests(mut self, requests: usize) -> Self {
        self.config.limits.pending_requests = requests;
        self
    }

    /// Which request loses when too many are pending. Default [`Overflow::Newest`].
    #[must_use]
    pub fn overflow(mut self, overflow: Overflow) -> Self {
        self.overflow = overflow;
        self
    }

    /// Which requests may be sent again when their link has ended and they may have reached the server. Whoever says
    /// yes says that running the request twice does no harm. Default none (R-no-blind-retry). Requests that surely did
    /// not reach it are always sent again, to another connection, three times at most.
    ///
    /// ```
    /// # use httpteleport::driver::ClientOptions;
    /// let options = ClientOptions::default().retry_if(|request| request.method().is_idempotent());
    /// ```
    #[must_use]
    pub fn retry_if(mut self, may: impl Fn(&Request<Bytes>) -> bool + Send + Sync + 'static) -> Self {
        self.retry_if = Some(Arc::new(may));
        self
    }

    /// Asked of each request at the moment at which it is to enter a link, be it the first or, for one that is sent again,
    /// another: whether it still may. If not, it ends with [`SendError::Closing`](crate::proto::SendError::Closing), as on
    /// a link that takes no more, and has surely not been sent on this one. Default: each may.
    #[must_use]
    pub fn send_if(mut self, may: impl Fn(&Request<Bytes>) -> bool + Send + Sync + 'static) -> Self {
        self.send_if = Some(Arc::new(may));
        self
    }

    /// Called when a link is up, before any of its answers: with how the server compresses.
    #[must_use]
    pub fn on_link_start(mut self, tell: impl Fn(Compression) + Send + Sync + 'static) -> Self {
        self.on_link_start = Some(Arc::new(tell));
        self
    }

    /// The pause after a dial or a hello that failed, in which requests fail at once: the first, and the longest that
    /// it grows to by doubling. Each is shortened by up to a half, at random, so that clients do not return together.
    /// Default 100 ms and 1 s. After a link that was up there is none: the first retry is immediate. The pauses begin
    /// anew once a response has come, or a link was up for a second; before the second link in a row that said hello and
    /// ended without either there is a pause, too, in which requests wait.
    #[must_use]
    pub fn reconnect_pause(mut self, first: Duration, longest: Duration) -> Self {
        self.reconnect_pause = (first, longest);
        self
    }

    /// Has requests wait while there is no link to be had, until their deadlines, instead of failing them at once: for
    /// callers that would only try again. Give them deadlines, or a [`timeout`](Self::timeout): without, they wait for
    /// ever. Default no.
    #[must_use]
    pub fn wait_for_link(mut self, wait: bool) -> Self {
        self.wait_for_link = wait;
        self
    }

    /// Called when the server has said on a link that it is about to close (R-goodbye): new requests to it should go to
    /// another server, if there is one. They need not: those that come to this client go by a new link, while the old one
    /// ends what is under way on it.
    #[must_use]
    pub fn on_goodbye(mut self, tell: impl Fn() + Send + Sync + 'static) -> Self {
        self.on_goodbye = Some(Arc::new(tell));
        self
    }

    pub(crate) fn connection(&self) -> ClientConfig {
        #[cfg(feature = "tls")]
        let tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let tls = false;
        let mut config = self.config.clone();
        // As many as can be pending can be given up, all at once (R-limit-minimum).
        let limits = &mut config.limits;
        limits.abandoned_requests = limits.abandoned_requests.max(limits.pending_requests);
        ClientConfig { config, tls }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("config", &self.config)
            .field("timeout", &self.timeout)
            .field("links", &self.links)
            .field("overflow", &self.overflow)
            .finish_non_exhaustive()
    }
}

/// Which request loses when as many are pending as may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// The one that came last.
    #[default]
    Newest,
    /// The one that has waited longest of those that have not left yet; if all have left, the one that came last.
    /// For callers to whom an old answer is worth little.
    Oldest,
}

/// Options of a server, of any driver. Each method sets one.
#[derive(Clone)]
pub struct ServerOptions {
    pub(super) config: Config,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<TlsServer>,
    pub(super) require_tls: bool,
    pub(super) read_timeout: Option<Duration>,
    pub(super) write_timeout: Duration,
    pub(super) read_buffer: usize,
    pub(super) max_compress_share: Option<f64>,
    pub(super) memory: Option<MemoryBudget>,
    pub(super) links: usize,
    pub(super) concurrency: usize,
    pub(super) waiting_bytes: usize,
    pub(super) goodbye: Duration,
    pub(super) pipeline: bool,
    pub(super) handler_timeout: Option<(Duration, Arc<Response<Bytes>>)>,
    #[cfg(feature = "thread")]
    pub(super) workers: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let ServerConfig { config, .. } = ServerConfig::default();
        Self {
            config,
            #[cfg(feature = "tls")]
            tls: None,
            require_tls: false,
            read_timeout: None,
            write_timeout: Duration::from_secs(5),
            read_buffer: 64 * 1024,
            max_compress_share: None,
            memory: None,
            links: 10_000,
            concurrency: 10_000,
            waiting_bytes: 256 * 1024 * 1024,
            goodbye: Duration::from_secs(1),
            pipeline: false,
            handler_timeout: None,
            #[cfg(feature = "thread")]
            workers: 256,
        }
    }
}

impl ServerOptions {
    link_options!();

    /// Speaks TLS to clients that ask for it. Default: no TLS, and clients that ask are turned away.
    #[cfg(feature = "tls")]
    #[must_use]
    pub fn tls(mut self, tls: TlsServer) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Turns away clients that do not ask for TLS (R-tls-required). Default no: the original's servers take both.
    #[must_use]
    pub fn require_tls(mut self, require: bool) -> Self {
        self.require_tls = require;
        self
    }

    /// Closes a link that owes nothing and from which nothing has come for so long. Default none.
    #[must_use]
    pub fn read_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.read_timeout = timeout.into();
        self
    }

    /// Most links at once: a further one is closed when it is accepted, which `on_link_refused` of the server tells.
    /// Default 10,000.
    #[must_use]
    pub fn links(mut self, links: usize) -> Self {
        self.links = links;
        self
    }

    /// Most requests in handlers at once, over all links; above it the answer is 429 (R-overload). Default 10,000.
    #[must_use]
    pub fn concurrency(mut self, requests: usize) -> Self {
        self.concurrency = requests;
        self
    }

    /// How many bytes of responses may wait for one link to take them, beside its `output_bytes`: above that no request
    /// is read from it and no handler started, until its client has read some. What was in handlers by then can make it
    /// more (see [`concurrency`](Self::concurrency)); a client that has read nothing for 3 s gets a short 503
    /// instead. Default 256 MiB.
    #[must_use]
    pub fn waiting_bytes(mut self, bytes: usize) -> Self {
        self.waiting_bytes = bytes;
        self
    }

    /// How long links go on at a shutdown after each has been told goodbye (R-goodbye): their
    /// clients send what comes by other links from then on, and lose nothing of what was on its way. A client that heeds
    /// it and has nothing in flight ends its link at once; the original does not, and is waited for. At most half of the
    /// time there is. Zero: no goodbye is said. Default 1 s.
    #[must_use]
    pub fn goodbye(mut self, grace: Duration) -> Self {
        self.goodbye = grace;
        self
    }

    /// Handles the requests of one link one after another, in their order, instead of all at once. A worker, or a task, goes
    /// along them for a millisecond, and then others have their turn. Default no.
    #[must_use]
    pub fn pipeline(mut self, pipeline: bool) -> Self {
        self.pipeline = pipeline;
        self
    }

    /// Answers with `response` when a handler has not ended within `timeout`. The handler goes on, and what it answers
    /// then is dropped (R-handler-late). Default none. [`request_timeout`] makes the response of the original.
    #[must_use]
    pub fn handler_timeout(mut self, timeout: Duration, response: Response<Bytes>) -> Self {
        self.handler_timeout = Some((timeout, Arc::new(response)));
        self
    }

    /// Most threads of the std-thread driver that run handlers. They are started as requests come, and end when there
    /// has been nothing to do for a while; requests beyond wait for one of them. Default 256.
    #[cfg(feature = "thread")]
    #[must_use]
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = threads.max(1);
        self
    }

    pub(crate) fn connection(&self) -> ServerConfig {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        let tls = match (self.require_tls, has_tls) {
            // Without a certificate it can turn away both kinds of client, and does.
            (true, _) => ServerTls::Required,
            (false, true) => ServerTls::Optional,
            (false, false) => ServerTls::Off,
        };
        ServerConfig { config: self.config.clone(), tls }
    }

    /// What cannot be served like this, in words.
    pub(super) fn check(&self) -> std::io::Result<()> {
        #[cfg(feature = "tls")]
        let has_tls = self.tls.is_some();
        #[cfg(not(feature = "tls"))]
        let has_tls = false;
        if self.require_tls && !has_tls {
            let message = "TLS is required and not set up: give the options `tls`, too";
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, message));
        }
        Ok(())
    }
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("config", &self.config)
            .field("require_tls", &self.require_tls)
            .field("concurrency", &self.concurrency)
            .field("pipeline", &self.pipeline)
            .finish_non_exhaustive()
    }
}

/// 408 with a text: what [`ServerOptions::handler_timeout`] can answer with.
pub fn request_timeout(message: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(message.into());
    *response.status_mut() = StatusCode::REQUEST_TIMEOUT;
    response
}

/// Until when a request may take: an [`Instant`], a [`Duration`] from now, or `None` for what the client's options say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline(Until);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    Default,
    At(Instant),
    After(Duration),
}

impl Deadline {
    pub(super) fn resolve(self, now: Instant, default: Option<Duration>) -> Option<Instant> {
        match self.0 {
            Until::Default => default.and_then(|after| now.checked_add(after)),
            Until::At(at) => Some(at),
            // One that no clock reaches is none.
            Until::After(after) => now.checked_add(after),
        }
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Self(Until::At(at))
    }
}

impl From<Duration> for Deadline {
    fn from(after: Duration) -> Self {
        Self(Until::After(after))
    }
}

impl From<Option<Instant>> for Deadline {
    fn from(at: Option<Instant>) -> Self {
        Self(at.map_or(Until::Default, Until::At))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_requests_can_be_given_up_as_can_be_pending() {
        // R-limit-minimum, in the table of spec/07-limits-and-security.md
        let limits = |options: ClientOptions| options.connection().config.limits;
        let many = Limits { pending_requests: 30_000, ..Limits::default() };
        for options in [
            ClientOptions::default().max_pending_requests(30_000),
            ClientOptions::default().limits(many.clone()),
            ClientOptions::default().config(Config { limits: many, ..Config::default() }),
        ] {
            let Limits { pending_requests, abandoned_requests, .. } = limits(options);
            assert_eq!((pending_requests, abandoned_requests), (30_000, 30_000));
        }
        assert_eq!(limits(ClientOptions::default().max_pending_requests(1)).abandoned_requests, 10_000);
    }
}
