//! The HTTP listener: hyper's server on each connection, HTTP/1 or inside TLS also HTTP/2, and an orderly end.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsStream, server};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use rustls::server::Acceptor;
use smol::Executor;
use smol::channel::{Receiver, Sender};
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};
use smol::lock::{Semaphore, SemaphoreGuardArc};
use tracing::debug;

use super::access::Introduction;
use super::acme::Acme;
use super::activity::{Activity, Busy, Patience};
use super::body::Reply;
use super::config::{Inbound, MAX_HEADER_COUNT};
use super::counted::{Counted, Counts};
use super::handler::Handler;
use super::hyper_io::HyperIo;
use super::listen::{self, Arrival, Listener};
use super::reactor::Timer;
use super::request_head;
use super::stranger::Strangers;
use super::stream::{Socket, Stream};
use super::strict::Strict;
use super::tls::ServerTls;
use crate::driver::smol::Alarm;
use crate::driver::{Charge, PeerAddr};

/// How long a closed connection is read on, so that the last answer is not lost to a reset.
const LINGER: Duration = Duration::from_secs(1);
/// An HTTP/1 connection that is quiet for so long, or twice, rests: nothing is kept for it but its socket.
const REST_AFTER: Duration = Duration::from_secs(5);
/// How long a connection that nothing was asked on stays when the proxy stops: its caller may just be asking.
const GRACE: Duration = Duration::from_secs(1);
/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take if the certificate has to be made first.
const ISSUE_TIMEOUT: Duration = Duration::from_secs(60);
/// What a connection takes that does nothing, and one that rests.
const CONNECTION_BYTES: usize = 20 * 1024;
const RESTING_BYTES: usize = 4 * 1024;
/// The smallest buffer that hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;
/// Most connections at once that came when memory was used up: each has one answer, mostly that there is no memory. More
/// are closed.
const MOST_OVER_BUDGET: usize = 64;
/// How long such a one may be idle, or twice.
const OVER_BUDGET_IDLE_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2: most requests at once on one connection.
const MAX_STREAMS: u32 = 250;
/// HTTP/2: most requests that a caller may give up on one connection before they are answered; then it ends after what is in
/// hand, and at twice as many at once. Each may have cost a connection to the origin.
const MAX_CANCELLED: u64 = 1000;
/// HTTP/2: how much of request bodies may be on its way to this side, for one request and for all of a connection.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;
/// HTTP/2: how much of one answer hyper takes before its caller does.
const SEND_BUFFER: usize = 64 * 1024;

/// An HTTP listener.
pub(crate) struct HttpIn {
    listener: Listener,
    connection: Arc<Shared>,
    executor: Arc<Executor<'static>>,
}

/// What all connections share.
struct Shared {
    tls: Option<ServerTls>,
    http1: http1::Builder,
    http2: http2::Builder<Tasks>,
    idle_timeout: Duration,
    max_head_bytes: usize,
    introduction: Introduction,
    handler: Arc<Handler>,
    strangers: Strangers,
    over_budget: Arc<Semaphore>,
}

/// What a connection listens to besides its peer. Each is said by closing the channel.
#[derive(Clone)]
struct Signals {
    /// End after the request in hand, or after the grace if there is none.
    finish: Receiver<()>,
    grace: Duration,
    /// End now.
    abort: Receiver<()>,
    /// Dropped when the connection is over.
    _open: Sender<()>,
}

impl HttpIn {
    pub(crate) fn new(
        listener: Listener,
        tls: Option<&ServerTls>,
        config: &Inbound,
        handler: Arc<Handler>,
        executor: Arc<Executor<'static>>,
    ) -> Self {
        let mut http1 = http1::Builder::new();
        http1
            .half_close(true)
            .max_buf_size(config.max_head_bytes.max(MIN_BUFFER))
            .max_header_size(config.max_head_bytes)
            .max_headers(MAX_HEADER_COUNT);
        let mut http2 = http2::Builder::new(Tasks(Arc::downgrade(&executor)));
        http2
            .max_concurrent_streams(MAX_STREAMS)
            .max_send_buf_size(SEND_BUFFER)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            // What is longer hyper refuses in a way that has callers try again. So it lets pass somewhat more, for which
            // there is an answer here.
            .max_header_list_size(u32::try_from(config.max_head_bytes.saturating_mul(2)).unwrap_or(u32::MAX));
        let shared = Shared {
            tls: tls.cloned(),
            http1,
            http2,
            idle_timeout: config.idle_timeout,
            max_head_bytes: config.max_head_bytes,
            introduction: Introduction::new(config),
            handler,
            strangers: Strangers::default(),
            over_budget: Arc::new(Semaphore::new(MOST_OVER_BUDGET)),
        };
        Self { listener, connection: Arc::new(shared), executor }
    }

    /// Accepts until `stop` ends; then the requests in hand have `drain` to end, and such as come within the grace.
    pub(crate) async fn run(self, stop: impl Future<Output = ()>, drain: Duration) {
        let (finish_tx, finish) = smol::channel::bounded(1);
        let (abort_tx, abort) = smol::channel::bounded(1);
        let (open, all_closed) = smol::channel::bounded::<()>(1);
        let signals = Signals { finish, grace: GRACE.min(drain), abort, _open: open };
        self.accept(&signals).or(stop).await;
        self.accept_waiting(&signals).await;
        drop(self.listener);
        drop(signals);
        drop(finish_tx);
        let deadline = Instant::now() + drain;
        async {
            let _ = all_closed.recv().await;
        }
        .or(async {
            Timer::at(deadline).await;
        })
        .await;
        drop(abort_tx);
    }

    async fn accept(&self, signals: &Signals) {
        loop {
            match self.listener.accept().await {
                Ok(arrival) => self.begin(arrival, signals),
                Err(error) => listen::pause(&error).await,
            }
        }
    }

    /// Accepts what waits already. Their callers are connected, and many have sent a request: when the socket is closed the
    /// system resets them all. A socket that was handed over and stays open elsewhere would keep them for the next process,
    /// but whether there is either is not to be seen from here, and nothing is lost by an answer from this one.
    async fn accept_waiting(&self, signals: &Signals) {
        // Not for ever, should they come faster than they are accepted.
        for _ in 0..listen::BACKLOG {
            match smol::future::poll_once(self.listener.accept()).await {
                Some(Ok(arrival)) => self.begin(arrival, signals),
                Some(Err(_)) => {}
                None => return,
            }
        }
    }

    /// Serves a connection, in a task of its own.
    fn begin(&self, arrival: Arrival, signals: &Signals) {
        let (shared, signals) = (self.connection.clone(), signals.clone());
        let over_budget = if shared.handler.memory().is_full() {
            match shared.admit_over_budget() {
                Some(place) => Some(place),
                None => return shared.refuse_connection(&arrival),
            }
        } else {
            None
        };
        shared.handler.counters.connections.fetch_add(1, Ordering::Relaxed);
        // From now on: a header, a handshake and a head take memory before there is a request.
        let mut charge = shared.handler.memory().account();
        charge.set(CONNECTION_BYTES);
        let run = async move {
            let stopped = async {
                // Nobody has asked for anything yet.
                let _ = signals.finish.recv().await;
                Timer::after(signals.grace).await;
                None
            };
            // What comes before HTTP, and other kinds of it, must not make room in every connection's task.
            let open = Box::pin(async {
                let (socket, peer) = arrival.open().await?;
                Some((shared.secure(socket, &peer).await?, peer))
            });
            if let Some((stream, peer)) = open.or(stopped).await {
                shared.serve(stream, peer, signals, charge, over_budget).await;
            }
        };
        self.executor.spawn(run).detach();
    }
}

impl Shared {
    /// A place for a connection that comes when memory is used up, if there is one. None with TLS: a handshake would take as
    /// much as what is then refused.
    fn admit_over_budget(&self) -> Option<SemaphoreGuardArc> {
        if self.tls.is_none() { self.over_budget.try_acquire_arc() } else { None }
    }

    /// Closes a connection that there is neither memory nor a place for.
    fn refuse_connection(&self, arrival: &Arrival) {
        self.handler.counters.shed_connections.fetch_add(1, Ordering::Relaxed);
        self.strangers.note_no_memory(arrival.peer());
    }

    /// What HTTP is spoken on: the connection itself, or TLS on it.
    async fn secure(&self, socket: Socket, peer: &PeerAddr) -> Option<Stream> {
        let Some(tls) = &self.tls else { return Some(Stream::Plain(socket)) };
        let timeout = if tls.acme.is_some() { ISSUE_TIMEOUT } else { HANDSHAKE_TIMEOUT };
        let limit = async {
            Timer::after(timeout.min(self.idle_timeout)).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"))
        };
        let handshake = async {
            match &tls.acme {
                None => TlsAcceptor::from(tls.config()).accept(socket).await.map(Some),
                Some(acme) => accept_on_demand(acme, tls, socket).await,
            }
        };
        match handshake.or(limit).await {
            Ok(stream) => Some(Stream::Tls(Box::new(TlsStream::Server(stream?)))),
            Err(error) => {
                self.strangers.note_on_https(peer, &error);
                None
            }
        }
    }

    /// Serves HTTP on a connection; one that has a place over the budget for one request.
    async fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: PeerAddr,
        signals: Signals,
        charge: Charge,
        over_budget: Option<SemaphoreGuardArc>,
    ) {
        let is_for_one = over_budget.is_some();
        let idle_timeout = if is_for_one { self.idle_timeout.min(OVER_BUDGET_IDLE_TIMEOUT) } else { self.idle_timeout };
        let is_http2 = stream.protocol() == Some(b"h2");
        let counts = Arc::new(Counts::default());
        let activity = Arc::new(Activity::default());
        let is_plain = matches!(stream, Stream::Plain(_));
        let stream = Counted::new(stream, counts.clone());
        let service = {
            let (shared, activity, peer) = (self.clone(), activity.clone(), peer.clone());
            service_fn(move |request| {
                let (shared, busy) = (shared.clone(), Busy::begin(&activity));
                let (is_http1, is_head) = (request.version() < Version::HTTP_2, *request.method() == Method::HEAD);
                let refusal = match is_http1 {
                    true => activity.refusal().map(|refused| (refused.status, refused.reason.to_string())),
                    false => shared.refuse_large(&request),
                };
                let request = shared.introduce(request, &peer);
                // hyper keeps room for one in each connection, also while it is idle.
                Box::pin(async move {
                    let (mut response, slot) = match refusal {
                        Some((status, reason)) => (shared.handler.refuse(&request, status, reason), None),
                        None => shared.handler.handle(request).await,
                    };
                    if is_http1 && (is_for_one || shared.handler.is_stopping()) {
                        // The caller goes elsewhere, and is told before it asks for more.
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                    }
                    let held = (slot, busy.answered());
                    Ok::<_, Infallible>(match is_http1 {
                        true => Reply::to_http(response, held),
                        false => Reply::to_http2(response, held, is_head),
                    })
                })
            })
        };
        let mut watch = Watch {
            signals,
            idle_timeout,
            is_http2,
            activity: activity.clone(),
            counts,
            patience: Patience::new(idle_timeout),
            look_at: Instant::now() + idle_timeout,
            grace_ends: None,
        };
        if is_http2 {
            let mut connection = Box::pin(self.http2.serve_connection(HyperIo::new(stream), service));
            let finish = http2::Connection::graceful_shutdown;
            if let End::Over(Err(error)) = watch.run(connection.as_mut(), finish).await {
                debug!("caller {peer}: {error}");
            }
            return;
        }
        let (mut io, mut service) =
            (Strict::new(stream, activity.clone(), self.max_head_bytes, charge, CONNECTION_BYTES), service);
        // hyper would close at once what is idle.
        let finish = |_: Pin<&mut _>| ();
        loop {
            let mut connection = Box::new(self.http1.serve_connection(HyperIo::new(io).vectored(is_plain), service));
            let end = watch.run(Pin::new(&mut *connection), finish).await;
            if matches!(end, End::Cut) {
                return;
            }
            let parts = connection.into_parts();
            io = parts.io.into_inner();
            service = parts.service;
            match end {
                // What hyper keeps for a connection is much, and made anew in a microsecond.
                End::Idle if parts.read_buf.is_empty() => {
                    // Though empty, it is all of hyper's buffer.
                    drop(parts.read_buf);
                    io.set_base(RESTING_BYTES);
                    if !watch.wait(&mut io).await {
                        return;
                    }
                    io.set_base(CONNECTION_BYTES);
                }
                End::Idle => io.unread(parts.read_buf),
                End::Quiet => {
                    // Nothing was sent that could be lost: the proxy need not wait for it.
                    drop(watch);
                    Box::pin(linger(io.into_inner().into_inner())).await;
                    return;
                }
                End::Cut | End::Over(_) => {
                    if let End::Over(Err(error)) = end {
                        debug!("caller {peer}: {error}");
                    }
                    if let Some(refused) = activity.refusal() {
                        self.strangers.note_on_http(&peer, &refused.beginning);
                    }
                    Box::pin(linger(io.into_inner().into_inner())).await;
                    return;
                }
            }
        }
    }

    /// The answer to a head of HTTP/2 that is too large.
    fn refuse_large(&self, request: &Request<Incoming>) -> Option<(StatusCode, String)> {
        let is_large = head_bytes(request) > self.max_head_bytes || request.headers().len() > MAX_HEADER_COUNT;
        is_large.then(|| (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, request_head::large(self.max_head_bytes)))
    }

    /// Has the request say who sent it, and say in HTTP/1's way what HTTP/2 says in its own.
    fn introduce(&self, mut request: Request<Incoming>, peer: &PeerAddr) -> Request<Incoming> {
        if request.version() == Version::HTTP_2 {
            join_cookies(request.headers_mut());
        }
        self.introduction.add_to(request.headers_mut(), peer);
        self.handler.note_sender(&mut request, peer);
        request
    }
}

/// How large the head of a request is in HTTP/1.
fn head_bytes<B>(request: &Request<B>) -> usize {
    let target = request.uri().path_and_query().map_or(1, |target| target.as_str().len());
    let host = request.uri().authority().map_or(0, |host| "host: \r\n".len() + host.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + ": \r\n".len();
    let fields: usize = request.headers().iter().map(field).sum();
    request.method().as_str().len() + target + "  HTTP/1.1\r\n".len() + host + fields + "\r\n".len()
}

/// A handshake for which the certificate may have to be made. None if it was one of the authority that makes it.
async fn accept_on_demand(
    acme: &Arc<Acme>,
    tls: &ServerTls,
    socket: Socket,
) -> io::Result<Option<server::TlsStream<Socket>>> {
    let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let hello = start.client_hello();
    let name = hello.server_name().map(str::to_ascii_lowercase);
    let name =
        name.ok_or_else(|| io::Error::other("it asked for no name, and certificates are made for names only"))?;
    if Acme::is_challenge(&hello) {
        let shown = acme.challenge(&name);
        let shown =
            shown.ok_or_else(|| io::Error::other("an authority looked for a name that it was not asked about"))?;
        start.into_stream(shown).await?.close().await?;
        return Ok(None);
    }
    acme.prepare(&name).await.map_err(io::Error::other)?;
    start.into_stream(tls.config()).await.map(Some)
}

/// HTTP/2 may send a cookie field in pieces (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    // Values that were valid, joined, are valid.
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Runs what HTTP/2 does beside the connection. Those tasks must not hold the executor that holds them.
#[derive(Clone)]
struct Tasks(Weak<Executor<'static>>);

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        if let Some(executor) = self.0.upgrade() {
            executor.spawn(task).detach();
        }
    }
}

/// What a connection is ended by, besides its peer.
struct Watch {
    signals: Signals,
    idle_timeout: Duration,
    /// An idle connection is told first, and closed an idle time-out later: HTTP/2 can tell which requests still count.
    is_http2: bool,
    activity: Arc<Activity>,
    counts: Arc<Counts>,
    patience: Patience,
    /// When patience is due to look.
    look_at: Instant,
    /// When an HTTP/1 connection ends unless there is a request, since the proxy stops.
    grace_ends: Option<Instant>,
}

impl Watch {
    /// Carries a connection to its end, or until it is idle. `finish` has it end after what is in hand.
    async fn run<C>(&mut self, mut connection: Pin<&mut C>, finish: impl Fn(Pin<&mut C>)) -> End
    where
        C: Future<Output = hyper::Result<()>>,
    {
        let signals = self.signals.clone();
        let mut finish_signal = pin!(signals.finish.recv());
        let mut abort = pin!(signals.abort.recv());
        let interval = if self.is_http2 { self.idle_timeout } else { self.idle_timeout.min(REST_AFTER) };
        let mut tick = Timer::at((Instant::now() + interval).min(self.look_at));
        let mut is_finishing = false;
        let mut carried = None;
        poll_fn(|cx| {
            if !is_finishing && finish_signal.as_mut().poll(cx).is_ready() {
                is_finishing = true;
                if self.is_http2 {
                    finish(connection.as_mut());
                } else {
                    tick.set_at(self.begin_grace());
                }
            }
            if self.is_http2 && !is_finishing && self.activity.cancelled() >= MAX_CANCELLED {
                debug!("a caller over HTTP/2 has given up {MAX_CANCELLED} requests: its connection ends");
                is_finishing = true;
                finish(connection.as_mut());
            }
            if self.is_http2 && self.activity.cancelled() >= 2 * MAX_CANCELLED {
                return Poll::Ready(End::Cut);
            }
            if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Over(result));
            }
            if is_finishing && abort.as_mut().poll(cx).is_ready() {
                return Poll::Ready(End::Cut);
            }
            if Pin::new(&mut tick).poll(cx).is_ready() {
                // A new timer, not an interval: after a pause of the whole process a caller has its time again.
                let is_given_up = self.is_given_up();
                tick.set_at((Instant::now() + interval).min(self.look_at));
                let _ = Pin::new(&mut tick).poll(cx);
                if is_given_up {
                    if is_finishing || !self.is_http2 {
                        return Poll::Ready(End::Cut);
                    }
                    is_finishing = true;
                    finish(connection.as_mut());
                    // It has to be polled to be told.
                    cx.waker().wake_by_ref();
                }
                let now = Some((self.counts.received(), self.counts.sent()));
                let is_quiet = std::mem::replace(&mut carried, now) == now && self.activity.is_idle();
                if is_quiet && !is_finishing && !self.is_http2 && !self.counts.is_blocked() {
                    return Poll::Ready(End::Idle);
                }
            }
            if self.grace_ends.is_some_and(|end| Instant::now() >= end && self.is_quiet()) {
                return Poll::Ready(End::Quiet);
            }
            Poll::Pending
        })
        .await
    }

    /// Waits until there is something to read; false if there will not be.
    async fn wait(&mut self, io: &mut Strict) -> bool {
        let signals = self.signals.clone();
        let mut finish_signal = pin!(signals.finish.recv());
        let mut tick = Timer::at(self.look_at);
        poll_fn(|cx| {
            if let Poll::Ready(read) = io.poll_readable(cx) {
                return Poll::Ready(read.unwrap_or(false));
            }
            if self.grace_ends.is_none() && finish_signal.as_mut().poll(cx).is_ready() {
                tick.set_at(self.begin_grace());
            }
            if Pin::new(&mut tick).poll(cx).is_ready() {
                if self.is_given_up() || self.grace_ends.is_some_and(|end| Instant::now() >= end) {
                    return Poll::Ready(false);
                }
                tick.set_at(self.look_at);
                let _ = Pin::new(&mut tick).poll(cx);
            }
            Poll::Pending
        })
        .await
    }

    /// The proxy stops: when to look whether there is still a request.
    fn begin_grace(&mut self) -> Instant {
        let end = *self.grace_ends.get_or_insert_with(|| Instant::now() + self.signals.grace);
        end.min(self.look_at)
    }

    /// Whether nothing is in hand, and all answers have left.
    fn is_quiet(&self) -> bool {
        self.activity.is_idle() && !self.activity.is_in_head() && !self.counts.is_blocked()
    }

    /// Whether nothing has happened for too long, if it is time to look.
    fn is_given_up(&mut self) -> bool {
        let now = Instant::now();
        if now < self.look_at {
            return false;
        }
        self.look_at = now + self.idle_timeout;
        self.patience.ends(&self.activity, self.counts.sent())
    }
}

/// How a connection ended.
enum End {
    /// By itself: what hyper says.
    Over(hyper::Result<()>),
    /// It was idle for too long, or the proxy has stopped.
    Cut,
    /// The proxy stops, and nobody has asked for anything.
    Quiet,
    /// It has not: there is only nothing to do.
    Idle,
}

/// Ends a connection so that the peer gets what was sent last: closing a socket with unread input resets it, and a reset
/// can overtake the answer (RFC 9112, section 9.6).
async fn linger(mut stream: Stream) {
    let read_on = async {
        // Not in the future itself, whose size every connection pays for.
        let mut sink = vec![0; 4096];
        if stream.close().await.is_ok() {
            while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {
                // There may be always more.
                smol::future::yield_now().await;
            }
        }
    };
    read_on
        .or(async {
            Timer::after(LINGER).await;
        })
        .await;
}
