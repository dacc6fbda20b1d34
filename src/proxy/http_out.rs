//! Requests to an HTTP server, over a pool of keep-alive connections.
//!
//! Each request has a connection to itself while it lasts, so there are never more than there are requests at once,
//! which `--concurrency` bounds. A connection goes back into the pool when its response was read whole.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1::{Builder, SendRequest};
use smol::Task;
use smol::future::FutureExt;

use super::body::{CollectError, causes, collect};
use super::config::MAX_HEADER_COUNT;
use super::config::Outbound;
use super::counted::{Counted, Counts};
use super::dial::Dialer;
use super::error::{Delivered, UpstreamError, certified};
use super::fields;
use super::hyper_io::HyperIo;
use super::reactor::Timer;
use super::stream::Stream;

/// How long an unused connection is kept.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// How often unused connections are looked at.
const SWEEP_INTERVAL: Duration = Duration::from_secs(15);
/// A connection that is not done with its last exchange so long after the response is not worth waiting for.
const SETTLE_TIME: Duration = Duration::from_millis(5);
/// The smallest buffer that hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;

/// Connections to one HTTP server.
#[derive(Debug)]
pub(crate) struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    executor: Arc<smol::Executor<'static>>,
    http: Builder,
    connect_timeout: Option<Duration>,
    max_body_bytes: usize,
    /// The last one used is the last one here and the first one used again.
    idle: Mutex<Vec<Idle>>,
    is_swept: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
}

#[derive(Debug)]
struct Conn {
    sender: SendRequest<Full<Bytes>>,
    /// Tells whether a response had begun, and whether a request has left.
    counts: Arc<Counts>,
    /// What it has sent when its request has left.
    to_send: u64,
    /// What moves the bytes. With it ends the connection, whatever it was doing.
    _task: Task<()>,
}

impl Pool {
    pub(crate) fn new(executor: Arc<smol::Executor<'static>>, dialer: Dialer, config: &Outbound) -> Self {
        let mut http = Builder::new();
        http.max_buf_size(config.max_head_bytes.max(MIN_BUFFER))
            .max_header_size(config.max_head_bytes)
            .max_headers(MAX_HEADER_COUNT);
        Self(Arc::new(Inner {
            dialer,
            executor,
            http,
            connect_timeout: config.connect_timeout(),
            max_body_bytes: config.max_body_bytes,
            idle: Mutex::default(),
            is_swept: AtomicBool::new(false),
        }))
    }

    /// Sends `request` and collects the response. A connection whose future is dropped half-way is closed.
    pub(crate) async fn send(
        &self,
        request: Request<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, UpstreamError> {
        let is_last = has_odd_body(&request);
        let request = prepare(request);
        let (conn, response) = match self.send_on_idle(request, deadline).await {
            Attempt::Answered(answer) => answer,
            Attempt::Failed(error) => return Err(error),
            Attempt::Unsent(request) => {
                // In a box, since it is large and seldom needed: the future of every request would hold a place for it.
                let mut conn = Box::pin(self.connect_before(deadline)).await?;
                conn.to_send = conn.counts.sent() + length(&request);
                let exchange = async { Ok(conn.sender.try_send_request(request).await) };
                let response = before(deadline, exchange, no_response()).await?.map_err(|mut error| {
                    let delivered = match error.take_message() {
                        Some(_) => Delivered::No,
                        None if conn.counts.received() == 0 => Delivered::Maybe,
                        None => Delivered::Answered,
                    };
                    broken(&error.into_error(), delivered)
                })?;
                (conn, response)
            }
        };
        let cut = UpstreamError::Timeout {
            what: "the response did not end in time (--out-timeout)",
            delivered: Delivered::Answered,
        };
        let response = before(deadline, self.collect(response), cut).await?;
        if !is_last {
            self.check_in(conn);
        }
        Ok(response)
    }

    /// Closes what is idle.
    pub(crate) fn close(&self) {
        self.0.idle().clear();
    }

    /// Tries the connections at hand until one takes the request.
    ///
    /// The server may close an idle connection at any moment. A request that was not sent then is sent on another one.
    /// One that was sent, and got not one byte of a response, is only sent again if its method allows for it: once,
    /// and on a fresh connection.
    async fn send_on_idle(&self, mut request: Request<Full<Bytes>>, deadline: Option<Instant>) -> Attempt {
        while let Some(mut conn) = self.check_out().await {
            let spare = fields::is_idempotent(request.method()).then(|| request.clone());
            let received = conn.counts.received();
            conn.to_send = conn.counts.sent() + length(&request);
            let exchange = async { Ok(conn.sender.try_send_request(request).await) };
            match before(deadline, exchange, no_response()).await {
                Err(late) => return Attempt::Failed(late),
                Ok(Ok(response)) => return Attempt::Answered((conn, response)),
                Ok(Err(mut error)) => {
                    if let Some(unsent) = error.take_message() {
                        request = unsent;
                        continue;
                    }
                    let is_silent = conn.counts.received() == received;
                    return match spare {
                        Some(spare) if is_silent => Attempt::Unsent(spare),
                        None if is_silent => Attempt::Failed(broken(&error.into_error(), Delivered::Maybe)),
                        _ => Attempt::Failed(broken(&error.into_error(), Delivered::Answered)),
                    };
                }
            }
        }
        Attempt::Unsent(request)
    }

    /// An idle connection that is ready, the last used first.
    async fn check_out(&self) -> Option<Conn> {
        loop {
            let mut conn = self.0.idle().pop()?.conn;
            // Its response can be here a moment before its task has seen that the exchange is over.
            let settled = async { conn.sender.ready().await.is_ok() }
                .or(async {
                    Timer::after(SETTLE_TIME).await;
                    false
                })
                .await;
            if settled {
                return Some(conn);
            }
        }
    }

    fn check_in(&self, conn: Conn) {
        // A server can answer before it has read a request, and never read the rest: no other request may wait for that.
        if conn.sender.is_closed() || conn.counts.sent() < conn.to_send {
            return;
        }
        self.0.idle().push(Idle { conn, since: Instant::now() });
        if !self.0.is_swept.swap(true, Ordering::Relaxed) {
            self.0.executor.spawn(sweep(Arc::downgrade(&self.0))).detach();
        }
    }

    /// Connects in the time that a connection may take, which leaves some of the request's own for another upstream.
    async fn connect_before(&self, deadline: Option<Instant>) -> Result<Conn, UpstreamError> {
        let own = self.0.connect_timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let what = "cannot connect in time (--out-connect-timeout, --out-timeout)";
        let late = UpstreamError::Timeout { what, delivered: Delivered::No };
        before(deadline.into_iter().chain(own).min(), self.connect(), late).await
    }

    async fn connect(&self) -> Result<Conn, UpstreamError> {
        let unreachable = |error: io::Error| UpstreamError::Unreachable(certified(error.to_string()));
        let stream = self.0.dialer.connect().await.map_err(unreachable)?;
        let counts = Arc::new(Counts::default());
        let is_plain = matches!(stream, Stream::Plain(_));
        let io = HyperIo::new(Counted::new(stream, counts.clone())).vectored(is_plain);
        let (sender, connection) = self.0.http.handshake(io).await.map_err(|error| broken(&error, Delivered::No))?;
        let task = async move {
            // Its errors reach the request that meets them.
            let _ = connection.await;
        };
        Ok(Conn { sender, counts, to_send: 0, _task: self.0.executor.spawn(task) })
    }

    /// The whole response. What of its head concerns this connection only is still there.
    async fn collect(&self, response: Response<Incoming>) -> Result<Response<Bytes>, UpstreamError> {
        let (mut parts, body) = response.into_parts();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let why = "it switched protocols without being asked";
            return Err(UpstreamError::Response(why.to_owned()));
        }
        if fields::has_unknown_coding(&parts.headers) {
            let why = "its transfer coding is not `chunked`, the only one supported";
            return Err(UpstreamError::Response(why.to_owned()));
        }
        if fields::has_doubtful_length(&parts.headers) {
            let why =
                "it has several lengths, Content-Length and Transfer-Encoding, or a Content-Length that is no number";
            return Err(UpstreamError::Response(why.to_owned()));
        }
        // Until it is whole; then it is the caller's.
        let mut charge = self.0.dialer.memory().account();
        let body = collect(body, self.0.max_body_bytes, Some(&mut charge)).await.map_err(|error| match error {
            CollectError::NoMemory => UpstreamError::NoMemory,
            CollectError::TooLong => UpstreamError::Response(format!(
                "the response body is larger than the limit of {} bytes (--out-max-body-size)",
                self.0.max_body_bytes
            )),
            CollectError::Broken(why) => {
                UpstreamError::Broken { why: format!("the response broke off: {why}"), delivered: Delivered::Answered }
            }
        })?;
        parts.version = Version::HTTP_11;
        Ok(Response::from_parts(parts, body))
    }
}

/// How a request fared on the connections at hand.
enum Attempt {
    Answered((Conn, Response<Incoming>)),
    Failed(UpstreamError),
    Unsent(Request<Full<Bytes>>),
}

impl Inner {
    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // A list of connections is whole whatever panicked beside it.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that have been idle for long, as long as there is a pool.
async fn sweep(pool: Weak<Inner>) {
    loop {
        Timer::after(SWEEP_INTERVAL).await;
        let Some(pool) = pool.upgrade() else { return };
        let now = Instant::now();
        pool.idle().retain(|idle| !idle.conn.sender.is_closed() && now.duration_since(idle.since) < IDLE_TIMEOUT);
    }
}

/// Whether a server may take the body for the next request: some do not read the body of a GET. Then that is nobody
/// else's, for the connection ends.
fn has_odd_body(request: &Request<Bytes>) -> bool {
    fields::is_bodiless(request.method()) && !request.body().is_empty()
}

/// Gives the request the length of its body, where a length is called for.
fn prepare(request: Request<Bytes>) -> Request<Full<Bytes>> {
    let is_last = has_odd_body(&request);
    let (mut parts, body) = request.into_parts();
    if is_last {
        parts.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    let expects_body = matches!(parts.method, Method::POST | Method::PUT | Method::PATCH);
    if body.is_empty() && !expects_body {
        parts.headers.remove(header::CONTENT_LENGTH);
    } else {
        parts.headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    parts.version = Version::HTTP_11;
    Request::from_parts(parts, Full::new(body))
}

/// How many bytes hyper writes for a request that was prepared.
fn length(request: &Request<Full<Bytes>>) -> u64 {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let start = request.method().as_str().len() + target.len() + "  HTTP/1.1\r\n".len();
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    let fields: usize = request.headers().iter().map(field).sum();
    (start + fields + "\r\n".len()) as u64 + request.body().size_hint().lower()
}

/// The outcome of `work`, or `late` once the deadline is over.
async fn before<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = Result<T, UpstreamError>>,
    late: UpstreamError,
) -> Result<T, UpstreamError> {
    let Some(deadline) = deadline else { return work.await };
    work.or(async {
        Timer::at(deadline).await;
        Err(late)
    })
    .await
}

fn no_response() -> UpstreamError {
    UpstreamError::Timeout { what: "no response in time (--out-timeout)", delivered: Delivered::Maybe }
}

fn broken(error: &hyper::Error, delivered: Delivered) -> UpstreamError {
    let hint = if error.is_parse_too_large() {
        let why = format!(
            "its response has a head that is too large (--out-max-header-size) or more than {MAX_HEADER_COUNT} fields"
        );
        return UpstreamError::Broken { why, delivered };
    } else if error.is_parse() {
        "what it answers is no HTTP/1: "
    } else if error.is_incomplete_message() {
        "it closed the connection instead of answering (a teleport listener would: then use --out-type teleport): "
    } else {
        ""
    };
    UpstreamError::Broken { why: format!("{hint}{}", causes(error)), delivered }
}
