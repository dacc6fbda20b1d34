//! The server: accepts links and runs a handler for each request.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response, StatusCode};
use smol::channel::{Receiver, Sender, bounded, unbounded};
use smol::future::FutureExt;
use smol::net::{TcpListener, TcpStream};
use smol::stream::Stream;
use smol::{Executor, Timer};

use super::add_stats;
use super::link::{Endpoint, drive};
use super::socket::set_up;
use crate::proto::{
    Compression, ConnectionError, Limits, ResponseRejected, ResponseToken, SendError, ServerConfig, ServerConnection,
    ServerEvent, ServerTls, Stats,
};

/// The pause after a failed accept: usually the process has no file descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Options of a [`Server`].
#[derive(Clone, Debug)]
pub struct ServerOptions {
    /// Of each link. `tls` must stay off: this driver has none yet.
    pub connection: ServerConfig,
    /// How long the socket may take nothing of what is to be written. It may take less than 4 KiB/s of it for four times
    /// as long. Default 5 s.
    pub write_timeout: Duration,
    /// Most links at once: a further one is closed when it is accepted. Default 10,000.
    pub links: usize,
    /// Most requests in handlers at once, over all links; above it the answer is 429 (R-overload). Default 10,000.
    pub concurrency: usize,
    /// Most bytes of responses that wait for one link to take them, beside its `output_bytes`; instead of a further
    /// one its client gets a short 503. Default 256 MiB.
    pub waiting_bytes: usize,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            connection: ServerConfig::default(),
            write_timeout: Duration::from_secs(5),
            links: 10_000,
            concurrency: 10_000,
            waiting_bytes: 256 * 1024 * 1024,
        }
    }
}

/// Who sent a request.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// The address of the other end of the link.
    pub addr: SocketAddr,
}

/// A server of teleport links. Cheap to clone: clones share links, figures and shutdown.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

type LinkStart = Box<dyn Fn(SocketAddr, Compression) + Send + Sync>;
type LinkEnd = Box<dyn Fn(SocketAddr, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync>;

struct Shared {
    executor: Arc<Executor<'static>>,
    options: ServerOptions,
    /// Requests in handlers.
    running: AtomicUsize,
    stats: Mutex<Stats>,
    on_link_start: OnceLock<LinkStart>,
    on_link_end: OnceLock<LinkEnd>,
    links: Mutex<Links>,
    /// Closed when the server shuts down.
    stop: Receiver<()>,
    /// Ends when all links have.
    links_ended: Receiver<()>,
}

/// The links that are up.
struct Links {
    next: u64,
    commands: BTreeMap<u64, Sender<Command>>,
    /// Every link holds a clone. Gone once the server shuts down.
    alive: Option<Sender<()>>,
    /// Only here so that `stop` stays open.
    _go: Sender<()>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let links = lock(&self.shared.links).commands.len();
        let running = self.shared.running.load(Ordering::Relaxed);
        f.debug_struct("Server").field("links", &links).field("running", &running).finish_non_exhaustive()
    }
}

impl Server {
    /// A server whose links and handlers run on `executor`.
    pub fn new(executor: Arc<Executor<'static>>, options: ServerOptions) -> Self {
        let (alive, links_ended) = bounded(1);
        let (go, stop) = bounded(1);
        let links = Links { next: 0, commands: BTreeMap::new(), alive: Some(alive), _go: go };
        let shared = Shared {
            executor,
            options,
            running: AtomicUsize::new(0),
            stats: Mutex::default(),
            on_link_start: OnceLock::new(),
            on_link_end: OnceLock::new(),
            links: Mutex::new(links),
            stop,
            links_ended,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Accepts links until [`Server::shutdown`]. Each request is given to `handler` on a task of its own; a handler
    /// that panics is answered for with 500. The response to an oneway request is dropped.
    ///
    /// # Errors
    ///
    /// The options ask for TLS, which this driver does not have yet. A failed accept is no error: it is tried again.
    pub async fn serve<H, F>(&self, listener: TcpListener, handler: H) -> io::Result<()>
    where
        H: Fn(Request<Bytes>, Peer) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        if self.shared.options.connection.tls != ServerTls::Off {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this driver has no TLS yet"));
        }
        loop {
            let accept = async { Some(listener.accept().await) };
            let stopped = async {
                let _ = self.shared.stop.recv().await;
                None
            };
            match accept.or(stopped).await {
                None => return Ok(()),
                Some(Ok((stream, addr))) => self.start_link(stream, addr, handler.clone()),
                Some(Err(_)) => drop(Timer::after(ACCEPT_PAUSE).await),
            }
        }
    }

    /// Sets what is called when a link is up, for logs: with how the client compresses. Only the first call counts.
    pub fn on_link_start(&self, f: impl Fn(SocketAddr, Compression) + Send + Sync + 'static) {
        let _ = self.shared.on_link_start.set(Box::new(f));
    }

    /// Sets what is called with each link's end, for logs: why it ended, `None` if in order, and what the transport
    /// failed with, if it did. Only the first call counts.
    pub fn on_link_end(
        &self,
        f: impl Fn(SocketAddr, Option<&ConnectionError>, Option<&io::Error>) + Send + Sync + 'static,
    ) {
        let _ = self.shared.on_link_end.set(Box::new(f));
    }

    /// What all links have carried, ended ones included.
    pub fn stats(&self) -> Stats {
        *lock(&self.shared.stats)
    }

    /// Stops accepting and drains: requests already read are answered, then each link closes. Returns when all have,
    /// at `deadline` at the latest.
    pub async fn shutdown(&self, deadline: Instant) {
        self.shared.stop.close();
        {
            let mut links = lock(&self.shared.links);
            links.alive = None;
            for commands in links.commands.values() {
                // A link that has ended needs no telling.
                let _ = commands.try_send(Command::Close);
            }
        }
        let ended = async {
            let _ = self.shared.links_ended.recv().await;
        };
        let limit = async {
            Timer::at(deadline).await;
        };
        ended.or(limit).await;
    }

    fn start_link<H, F>(&self, stream: TcpStream, addr: SocketAddr, handler: H)
    where
        H: Fn(Request<Bytes>, Peer) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Bytes>> + Send + 'static,
    {
        let (commands, inbox) = unbounded();
        let (key, alive) = {
            let mut links = lock(&self.shared.links);
            let Some(alive) = links.alive.clone() else {
                return;
            };
            if links.commands.len() >= self.shared.options.links {
                return;
            }
            links.next += 1;
            let key = links.next;
            links.commands.insert(key, commands.clone());
            (key, alive)
        };
        let shared = self.shared.clone();
        let run = async move {
            set_up(&stream);
            let mut link = Link {
                connection: ServerConnection::new(shared.options.connection.clone(), Instant::now()),
                shared: &shared,
                handler,
                peer: Peer { addr },
                commands,
                inbox: Box::pin(inbox),
                queue: Vec::new(),
                waiting: Waiting::default(),
                oneway_bytes: 0,
                counted: Stats::default(),
                end: None,
            };
            let transport = drive(&mut link, stream, shared.options.write_timeout).await;
            lock(&shared.links).commands.remove(&key);
            if let (Some(on_end), Some(end)) = (shared.on_link_end.get(), &link.end) {
                on_end(addr, end.as_ref(), transport.as_ref());
            }
            drop(alive);
        };
        self.shared.executor.spawn(run).detach();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

enum Command {
    Respond(ResponseToken, Response<Bytes>),
    /// The handler of a oneway of so many bytes has ended.
    OnewayEnded(usize),
    Close,
}

/// One link of a server.
struct Link<'a, H> {
    connection: ServerConnection,
    shared: &'a Arc<Shared>,
    handler: H,
    peer: Peer,
    /// What handlers answer through.
    commands: Sender<Command>,
    inbox: Pin<Box<Receiver<Command>>>,
    queue: Vec<Command>,
    waiting: Waiting,
    /// Bytes of oneways in handlers: the connection, which gives out no tokens for them, does not count them.
    oneway_bytes: usize,
    /// What of the connection's figures `shared.stats` already has.
    counted: Stats,
    /// The last event, when it has come.
    end: Option<Option<ConnectionError>>,
}

impl<H, F> Link<'_, H>
where
    H: Fn(Request<Bytes>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    /// Starts the handler of a request, unless too many run; without a token its response is dropped.
    fn handle(&mut self, token: Option<ResponseToken>, request: Request<Bytes>) {
        let running = Running::enter(self.shared);
        if running.number > self.shared.options.concurrency {
            if let Some(token) = token {
                self.queue.push(Command::Respond(token, overloaded(self.shared.options.concurrency)));
            }
            return;
        }
        let handler = self.handler.clone();
        let (peer, commands) = (self.peer, self.commands.clone());
        let size = weight(request.headers(), request.body());
        if token.is_none() {
            self.oneway_bytes += size;
        }
        let run = async move {
            let response = AssertUnwindSafe(async { handler(request, peer).await }).catch_unwind().await;
            drop(running);
            let command = match token {
                Some(token) => {
                    let panicked = |_| text(StatusCode::INTERNAL_SERVER_ERROR, "handler panicked\n");
                    Command::Respond(token, response.unwrap_or_else(panicked))
                }
                None => Command::OnewayEnded(size),
            };
            // A link that has ended needs none.
            let _ = commands.try_send(command);
        };
        self.shared.executor.spawn(run).detach();
    }

    /// Takes a response from its handler; if too many bytes wait already, a short one takes its place.
    fn respond(&mut self, now: Instant, token: ResponseToken, mut response: Response<Bytes>) {
        let Waiting { responses, bytes } = &mut self.waiting;
        let mut weight = weight(response.headers(), response.body());
        if !responses.is_empty() && bytes.saturating_add(weight) > self.shared.options.waiting_bytes {
            (response, weight) = (too_slow(), 0);
        }
        *bytes += weight;
        responses.push_back(WaitingResponse { token, response, weight });
        self.send_waiting(now);
    }

    /// Hands responses to the connection while it has room (R-limit-output).
    fn send_waiting(&mut self, now: Instant) {
        while let Some(WaitingResponse { token, response, weight }) = self.waiting.responses.pop_front() {
            match self.connection.send_response(now, token, &response) {
                Err(ResponseRejected { token, error: SendError::OutputFull(_) }) => {
                    self.waiting.responses.push_front(WaitingResponse { token, response, weight });
                    return;
                }
                Err(rejected) => self.send_reason(now, rejected),
                Ok(()) => {}
            }
            self.waiting.bytes -= weight;
        }
    }

    /// Answers in place of a response that cannot be sent.
    fn send_reason(&mut self, now: Instant, rejected: ResponseRejected) {
        let reason = format!("the response cannot be sent: {}\n", rejected.error);
        let instead = text(StatusCode::BAD_GATEWAY, &reason);
        if let Err(rejected) = self.connection.send_response(now, rejected.token, &instead) {
            self.connection.discard(rejected.token);
        }
    }

    fn count(&mut self) {
        let now = self.connection.stats();
        if now != self.counted {
            add_stats(&mut lock(&self.shared.stats), now, self.counted);
            self.counted = now;
        }
    }
}

impl<H, F> Endpoint for Link<'_, H>
where
    H: Fn(Request<Bytes>, Peer) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Bytes>> + Send + 'static,
{
    const LINGERS: bool = true;

    fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
        self.connection.handle_input(now, data)
    }

    fn handle_eof(&mut self, now: Instant) {
        self.connection.handle_eof(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
    }

    fn handle_transport_error(&mut self, now: Instant) {
        self.connection.handle_transport_error(now);
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        self.connection.poll_transmit(now, out)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.connection.poll_timeout()
    }

    fn wants_read(&self) -> bool {
        self.connection.wants_read() && self.oneway_bytes < self.shared.options.connection.config.limits.held_bytes
    }

    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let before = self.queue.len();
        while let Poll::Ready(Some(command)) = self.inbox.as_mut().poll_next(context) {
            self.queue.push(command);
        }
        if self.queue.len() > before { Poll::Ready(()) } else { Poll::Pending }
    }

    fn take_commands(&mut self, now: Instant) {
        self.send_waiting(now);
        for command in std::mem::take(&mut self.queue) {
            match command {
                Command::Respond(token, response) => self.respond(now, token, response),
                Command::OnewayEnded(size) => self.oneway_bytes -= size,
                Command::Close => self.connection.close(now),
            }
        }
    }

    fn deliver_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.connection.poll_event() {
            any = true;
            // Before the event, so that whoever acts on it sees figures that include it.
            self.count();
            match event {
                ServerEvent::Request { token, request } => self.handle(Some(token), request),
                ServerEvent::Oneway { request } => self.handle(None, request),
                ServerEvent::Connected { compression } => {
                    if let Some(on_start) = self.shared.on_link_start.get() {
                        on_start(self.peer.addr, compression);
                    }
                }
                ServerEvent::Refused { .. } => {}
                // This driver offers no TLS.
                ServerEvent::StartTls => self.connection.handle_transport_error(Instant::now()),
                ServerEvent::Closed { error } => self.end = Some(error),
            }
        }
        self.count();
        any
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }
}

/// Responses for which a connection has no room yet, in order.
#[derive(Default)]
struct Waiting {
    responses: VecDeque<WaitingResponse>,
    /// Their weights.
    bytes: usize,
}

struct WaitingResponse {
    token: ResponseToken,
    response: Response<Bytes>,
    weight: usize,
}

/// A request in a handler, for as long as it runs.
struct Running {
    shared: Arc<Shared>,
    /// How many there were, this one included.
    number: usize,
}

impl Running {
    fn enter(shared: &Arc<Shared>) -> Self {
        let number = shared.running.fetch_add(1, Ordering::Relaxed) + 1;
        Self { shared: shared.clone(), number }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.running.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a message counts for in limits of bytes, as in [`Limits::held_bytes`].
fn weight(fields: &HeaderMap, body: &Bytes) -> usize {
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + Limits::FIELD_BYTES;
    fields.iter().map(field).sum::<usize>() + body.len()
}

fn overloaded(concurrency: usize) -> Response<Bytes> {
    text(StatusCode::TOO_MANY_REQUESTS, &format!("{concurrency} requests are being handled, which is the limit\n"))
}

fn too_slow() -> Response<Bytes> {
    text(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many bytes of responses wait for this link, which is too slow for them\n",
    )
}

fn text(status: StatusCode, body: &str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::copy_from_slice(body.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}
