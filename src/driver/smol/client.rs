//! The client: lazily connected, reconnecting, shared by any number of callers.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Method, Request, Response};
use smol::channel::{Receiver, Sender, unbounded};
use smol::future::FutureExt;
use smol::net::TcpStream;
use smol::{Executor, Timer};

use super::add_stats;
use super::error::ClientError;
use super::inbox::{Command, Inbox, Job};
use super::link::{Endpoint, drive};
use super::socket::set_up;
use crate::proto::{
    ClientConfig, ClientConnection, ClientEvent, ConnectionError, RequestError, RequestId, SendError, Stats,
};

/// The pause after a dial or hello that failed: the first, and the longest it grows to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How often a request that was surely not delivered is given to another connection.
const MAX_TRIES: u32 = 3;

/// Options of a [`Client`].
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// Of each link. `tls` must stay off: this driver has none yet, and requests fail rather than go in clear.
    ///
    /// `config.limits.pending_requests` (1,000 unless set) bounds how many requests can wait on a link at once: more
    /// fail with [`SendError::PendingOverflow`].
    pub connection: ClientConfig,
    /// How long a TCP connect may take. Default 3 s.
    pub connect_timeout: Duration,
    /// How long the socket may take nothing of what is to be written. It may take less than 4 KiB/s of it for four times
    /// as long. Default 5 s.
    pub write_timeout: Duration,
    /// How many links to the address share the requests. Default 1. One more may be opened for HEAD requests
    /// (R-head-alone).
    pub links: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connection: ClientConfig::default(),
            connect_timeout: Duration::from_secs(3),
            write_timeout: Duration::from_secs(5),
            links: 1,
        }
    }
}

/// A client of one server. Cheap to clone; clones share the links.
///
/// It connects with the first request, and again with the first request after a link has ended. Where a dial or a
/// hello fails, the requests that waited for it fail, and so do those of the next moments (100 ms, growing to 1 s),
/// after which it tries again (R-reconnect-pause). A request that a broken link has surely not delivered goes to the
/// next link; one that it may have delivered fails (R-no-blind-retry).
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    links: Vec<Sender<Command>>,
    /// A link that carries only HEAD requests: their answers may end it (R-head-alone).
    head: Sender<Command>,
    next_link: AtomicUsize,
    next_ticket: AtomicU64,
    pending: AtomicUsize,
    closed: AtomicBool,
    stats: Arc<Mutex<Stats>>,
    /// Ends when all link tasks have.
    tasks: Receiver<()>,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pending_requests", &self.pending_requests()).finish_non_exhaustive()
    }
}

impl Client {
    /// A client of the server at `addr`, as `HOST:PORT`. Its link tasks run on `executor`.
    pub fn new(executor: Arc<Executor<'static>>, addr: impl Into<String>, options: ClientOptions) -> Self {
        let addr: Arc<str> = addr.into().into();
        let stats = Arc::new(Mutex::new(Stats::default()));
        let (alive, tasks) = smol::channel::bounded(1);
        let spawn = |for_head| {
            let (commands, inbox) = unbounded();
            let link = Link {
                addr: addr.clone(),
                options: options.clone(),
                stats: stats.clone(),
                inbox: Inbox::new(inbox),
                for_head,
                _alive: alive.clone(),
            };
            executor.spawn(link.run()).detach();
            commands
        };
        let links = (0..options.links.max(1)).map(|_| spawn(false)).collect();
        let head = spawn(true);
        let shared = Shared {
            links,
            head,
            next_link: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            stats,
            tasks,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Sends a request and waits for its response, until `deadline` if there is one. Dropping the future gives the
    /// request up.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`]: each says whether the request can have reached the server.
    pub async fn request(
        &self,
        request: Request<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<Response<Bytes>, ClientError> {
        let link = if request.method() == Method::HEAD { &self.shared.head } else { self.next_link() };
        self.hand_over(link, request, deadline, false).await
    }

    /// Sends a request that wants no response (R-id-oneway). Returns when it is on its way on a link that is up, and
    /// no one learns what becomes of it then. Dropping the future before gives it up.
    ///
    /// # Errors
    ///
    /// Any [`ClientError`] but those about a response; it was not sent then.
    pub async fn oneway(&self, request: Request<Bytes>, deadline: Option<Instant>) -> Result<(), ClientError> {
        self.hand_over(self.next_link(), request, deadline, true).await.map(drop)
    }

    fn next_link(&self) -> &Sender<Command> {
        let links = &self.shared.links;
        &links[self.shared.next_link.fetch_add(1, Ordering::Relaxed) % links.len()]
    }

    /// Gives a request to a link and waits for its outcome, which for a oneway is an empty response.
    async fn hand_over(
        &self,
        link: &Sender<Command>,
        request: Request<Bytes>,
        deadline: Option<Instant>,
        is_oneway: bool,
    ) -> Result<Response<Bytes>, ClientError> {
        let shared = &*self.shared;
        if shared.closed.load(Ordering::Acquire) {
            return Err(ClientError::Closed);
        }
        let ticket = shared.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (reply, response) = oneshot::channel();
        let job = Job { ticket, request, is_oneway, deadline, reply, tries: 0 };
        let mut pending = Pending { link, ticket, count: &shared.pending, done: false };
        shared.pending.fetch_add(1, Ordering::Relaxed);
        link.try_send(Command::Send(Box::new(job))).map_err(|_| ClientError::Closed)?;
        let outcome = response.await.unwrap_or(Err(ClientError::Closed));
        pending.done = true;
        outcome
    }

    /// How many requests wait for their outcome.
    pub fn pending_requests(&self) -> usize {
        self.shared.pending.load(Ordering::Relaxed)
    }

    /// What all links have carried, ended ones included.
    pub fn stats(&self) -> Stats {
        *self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes in order: no new requests; returns when those in flight have ended, at `deadline` at the latest.
    pub async fn close(&self, deadline: Instant) {
        self.shared.closed.store(true, Ordering::Release);
        for link in self.shared.links.iter().chain([&self.shared.head]) {
            // A task that has ended needs no telling.
            let _ = link.try_send(Command::Close);
        }
        let ended = async {
            let _ = self.shared.tasks.recv().await;
        };
        let limit = async {
            Timer::at(deadline).await;
        };
        ended.or(limit).await;
    }
}

/// Counts a caller that waits; tells the link if it stops waiting.
struct Pending<'a> {
    link: &'a Sender<Command>,
    ticket: u64,
    count: &'a AtomicUsize,
    done: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
        if !self.done {
            let _ = self.link.try_send(Command::Cancel(self.ticket));
        }
    }
}

/// One link of a client: a task that lives as long as the client, through many connections.
struct Link {
    addr: Arc<str>,
    options: ClientOptions,
    stats: Arc<Mutex<Stats>>,
    inbox: Inbox,
    /// Carries HEAD requests only.
    for_head: bool,
    _alive: Sender<()>,
}

impl Link {
    async fn run(mut self) {
        let mut pause = PAUSE.0;
        loop {
            while self.inbox.queue.is_empty() && !self.inbox.closing {
                self.inbox.wait().await;
            }
            if self.inbox.queue.is_empty() {
                return;
            }
            match self.connect_and_run().await {
                Ok(()) => pause = PAUSE.0,
                Err(error) => {
                    self.fail_for(pause, &error).await;
                    pause = (pause * 2).min(PAUSE.1);
                }
            }
        }
    }

    /// Fails what is asked for as long as the pause lasts.
    async fn fail_for(&mut self, pause: Duration, error: &ClientError) {
        let end = Instant::now() + pause;
        self.inbox.fail(error);
        while Instant::now() < end && !self.inbox.closing {
            let asked = self.inbox.wait();
            let over = async {
                Timer::at(end).await;
            };
            asked.or(over).await;
            self.inbox.fail(error);
        }
    }

    /// Dials and runs one connection to its end. Fails if it did not come to a complete hello.
    async fn connect_and_run(&mut self) -> Result<(), ClientError> {
        let dial = dial(&self.addr, &self.options);
        let stream = self
            .inbox
            .during(dial)
            .await
            .map_err(|error| ClientError::Connect { addr: self.addr.to_string(), error: Arc::new(error) })?;
        let mut link = LiveLink {
            connection: ClientConnection::new(self.options.connection.clone(), Instant::now()),
            inbox: &mut self.inbox,
            for_head: self.for_head,
            waiting: HashMap::new(),
            tickets: HashMap::new(),
            stats: &self.stats,
            counted: Stats::default(),
            was_connected: false,
            unsent: Vec::new(),
            broken: Vec::new(),
            end: None,
        };
        let transport = drive(&mut link, stream, self.options.write_timeout).await.map(Arc::new);
        let LiveLink { unsent, broken, was_connected, end, .. } = link;
        for (job, error) in broken {
            job.end(Err(ClientError::Link { error, transport: transport.clone(), maybe_delivered: true }));
        }
        let error = end.flatten().map(|error| ClientError::Link { error, transport, maybe_delivered: false });
        for mut job in unsent.into_iter().rev() {
            job.tries += 1;
            match &error {
                Some(error) if job.tries >= MAX_TRIES => job.end(Err(error.clone())),
                _ => self.inbox.queue.push_front(job),
            }
        }
        match error {
            Some(error) if !was_connected => Err(error),
            _ => Ok(()),
        }
    }
}

async fn dial(addr: &str, options: &ClientOptions) -> io::Result<TcpStream> {
    if options.connection.tls {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "this driver has no TLS yet"));
    }
    let connect = async {
        let stream = TcpStream::connect(addr).await?;
        set_up(&stream);
        Ok(stream)
    };
    let limit = async {
        Timer::after(options.connect_timeout).await;
        Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the connect"))
    };
    connect.or(limit).await
}

/// One connection of a link.
struct LiveLink<'a> {
    connection: ClientConnection,
    inbox: &'a mut Inbox,
    for_head: bool,
    waiting: HashMap<RequestId, Job>,
    tickets: HashMap<u64, RequestId>,
    stats: &'a Mutex<Stats>,
    /// What of the connection's figures `stats` already has.
    counted: Stats,
    was_connected: bool,
    /// Jobs that this connection has surely not delivered, in order.
    unsent: Vec<Job>,
    /// Jobs that it may have delivered.
    broken: Vec<(Job, ConnectionError)>,
    /// The last event, when it has come.
    end: Option<Option<ConnectionError>>,
}

impl LiveLink<'_> {
    fn take(&mut self, id: RequestId) -> Option<Job> {
        let job = self.waiting.remove(&id)?;
        self.tickets.remove(&job.ticket);
        Some(job)
    }

    /// Whether the next request must wait: a HEAD travels alone until the server has shown that it may not.
    fn must_wait(&self) -> bool {
        self.for_head
            && !self.connection.peer_keeps_head_rule()
            && self.connection.pending_requests() + self.connection.abandoned_requests() > 0
    }

    /// Whether the next job is a oneway before the hello: it would be on its way to a peer that may turn out to be none.
    fn is_too_early(&self) -> bool {
        self.connection.is_handshaking() && self.inbox.queue.front().is_some_and(|job| job.is_oneway)
    }

    fn send(&mut self, job: Job, now: Instant) {
        let sent = if job.is_oneway {
            self.connection.send_oneway(now, &job.request).map(|()| None)
        } else {
            self.connection.send_request(now, &job.request, job.deadline).map(Some)
        };
        match sent {
            Ok(None) => job.end(Ok(Response::default())),
            Ok(Some(id)) => {
                self.tickets.insert(job.ticket, id);
                self.waiting.insert(id, job);
            }
            Err(SendError::Closing) => self.unsent.push(job),
            Err(error) => job.end(Err(ClientError::Send(error))),
        }
    }

    fn fail(&mut self, id: RequestId, error: RequestError) {
        let Some(job) = self.take(id) else { return };
        match error {
            RequestError::Timeout { maybe_delivered } => job.end(Err(ClientError::Timeout { maybe_delivered })),
            RequestError::Refused(error) => job.end(Err(ClientError::Response(error))),
            RequestError::Link { maybe_delivered: false, .. } => self.unsent.push(job),
            RequestError::Link { error, maybe_delivered: true } => self.broken.push((job, error)),
        }
    }

    fn count(&mut self) {
        let now = self.connection.stats();
        if now != self.counted {
            add_stats(&mut self.stats.lock().unwrap_or_else(PoisonError::into_inner), now, self.counted);
            self.counted = now;
        }
    }
}

impl Endpoint for LiveLink<'_> {
    const LINGERS: bool = false;

    fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
        self.connection.handle_input(now, data)
    }

    fn handle_eof(&mut self, now: Instant) {
        self.connection.handle_eof(now);
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
        self.inbox.expire(now);
    }

    fn handle_transport_error(&mut self, now: Instant) {
        self.connection.handle_transport_error(now);
    }

    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        self.connection.poll_transmit(now, out)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // Jobs wait here on a link for HEAD, and oneways for the hello.
        let queued = if self.inbox.queue.is_empty() { None } else { self.inbox.sweep_at };
        queued.into_iter().chain(self.connection.poll_timeout()).min()
    }

    fn wants_read(&self) -> bool {
        self.connection.wants_read()
    }

    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let (waiting, tickets, connection) = (&mut self.waiting, &mut self.tickets, &mut self.connection);
        self.inbox.poll(context, |ticket| {
            if let Some(id) = tickets.remove(&ticket) {
                waiting.remove(&id);
                connection.cancel(Instant::now(), id);
            }
        })
    }

    fn take_commands(&mut self, now: Instant) {
        if self.connection.is_closing() {
            return;
        }
        while !self.must_wait()
            && !self.is_too_early()
            && let Some(job) = self.inbox.queue.pop_front()
        {
            self.send(job, now);
        }
        // An unanswered HEAD that nobody waits for blocks its link: a new one serves the next.
        let blocked = self.must_wait() && self.connection.pending_requests() == 0 && !self.inbox.queue.is_empty();
        if blocked || (self.inbox.closing && self.inbox.queue.is_empty()) {
            self.connection.close(now);
        }
    }

    fn deliver_events(&mut self) -> bool {
        let mut any = false;
        while let Some(event) = self.connection.poll_event() {
            any = true;
            // Before the event, so that whoever acts on it sees figures that include it.
            self.count();
            match event {
                ClientEvent::Connected { .. } => self.was_connected = true,
                ClientEvent::Response { id, response } => {
                    if let Some(job) = self.take(id) {
                        job.end(Ok(response));
                    }
                }
                ClientEvent::Failed { id, error } => self.fail(id, error),
                ClientEvent::Unmatched { .. } => {}
                // This driver asks for no TLS.
                ClientEvent::StartTls => self.connection.handle_transport_error(Instant::now()),
                ClientEvent::Closed { error } => self.end = Some(error),
            }
        }
        self.count();
        any
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }
}
