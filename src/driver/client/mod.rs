//! The client of every driver: callers, the links that they share, and what becomes of each request. Only sockets,
//! tasks and threads are the drivers' own.

mod lane;
mod queue;
mod session;
#[cfg(all(test, feature = "smol"))]
mod simulation;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_channel::oneshot;
use http::{Method, Request, Response};

use lane::Condition;
pub(super) use lane::{Lane, Step};

use super::crowd::Crowd;
use super::error::ClientError;
use super::mailbox::{Mailbox, lock};
use super::options::{ClientOptions, Deadline};
use crate::proto::Stats;
use lane::NoZstd;
pub(super) use queue::dial_panicked;
use queue::{Command, Job};

/// Starts to carry a lane: on a task or on threads.
type Start = Box<dyn Fn(Lane) -> io::Result<()> + Send + Sync>;

/// What the clones of a client share.
pub(super) struct Callers {
    options: Arc<ClientOptions>,
    /// The address, in words.
    name: Arc<str>,
    start: Start,
    lanes: Vec<Entrance>,
    /// A lane that carries only HEAD requests: their answers may end a link (R-head-alone).
    head: Entrance,
    next_lane: AtomicUsize,
    next_ticket: AtomicU64,
    pending: AtomicUsize,
    closed: AtomicBool,
    stats: Arc<Mutex<Stats>>,
    no_zstd: NoZstd,
    /// The lanes that were started.
    running: Crowd,
}

/// Where requests go into a lane.
struct Entrance {
    mailbox: Arc<Mailbox<Command>>,
    /// Requests that were sent into it and have no outcome.
    load: Arc<AtomicUsize>,
    condition: Arc<Condition>,
    /// Lanes are started by their first request.
    was_started: Mutex<bool>,
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("addr", &self.name)
            .field("pending_requests", &self.pending_requests())
            .finish_non_exhaustive()
    }
}

impl Callers {
    pub(super) fn new(
        name: Arc<str>,
        options: ClientOptions,
        start: impl Fn(Lane) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let entrance = || Entrance {
            mailbox: Arc::new(Mailbox::new()),
            load: Arc::default(),
            condition: Arc::default(),
            was_started: Mutex::new(false),
        };
        Self {
            name,
            start: Box::new(start),
            lanes: (0..options.links).map(|_| entrance()).collect(),
            head: entrance(),
            next_lane: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            stats: Arc::default(),
            no_zstd: Arc::default(),
            running: Crowd::default(),
            options: Arc::new(options),
        }
    }

    /// Sends a request; its outcome is to be waited for. For a oneway that is an empty response, when it has left.
    pub(super) fn send(
        self: &Arc<Self>,
        request: Request<Bytes>,
        deadline: Deadline,
        is_oneway: bool,
    ) -> Result<Outcome, ClientError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(ClientError::Closed);
        }
        let for_head = request.method() == Method::HEAD && !is_oneway;
        let entrance = if for_head { &self.head } else { self.next_lane() };
        self.start(entrance, for_head)?;
        let deadline = deadline.resolve(Instant::now(), self.options.timeout);
        let (reply, response) = oneshot::channel();
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let job = Job { ticket, request, is_oneway, deadline, reply, tries: 0, earlier: None };
        if !entrance.mailbox.send(Command::Send(Box::new(job))) {
            return Err(ClientError::Closed);
        }
        self.pending.fetch_add(1, Ordering::Relaxed);
        let (mailbox, load) = (entrance.mailbox.clone(), entrance.load.clone());
        load.fetch_add(1, Ordering::Relaxed);
        Ok(Outcome { callers: self.clone(), mailbox, load, ticket, response, is_known: false })
    }

    /// The lane with the fewest requests under way, of those that do not pause: in turn where they are equal, and those
    /// with a link before those without.
    fn next_lane(&self) -> &Entrance {
        let [only] = &self.lanes[..] else {
            let now = Instant::now();
            let turn = self.next_lane.fetch_add(1, Ordering::Relaxed) % self.lanes.len();
            let in_turn = self.lanes[turn..].iter().chain(&self.lanes[..turn]);
            let best = in_turn.min_by_key(|lane| {
                let (is_paused, is_up) = lane.condition.look(now);
                (is_paused, lane.load.load(Ordering::Relaxed), !is_up)
            });
            return best.unwrap_or(&self.lanes[turn]);
        };
        only
    }

    /// Starts a lane that was not yet.
    fn start(&self, entrance: &Entrance, for_head: bool) -> Result<(), ClientError> {
        let mut was_started = lock(&entrance.was_started);
        if *was_started {
            return Ok(());
        }
        let lane = Lane::new(
            self.name.clone(),
            self.options.clone(),
            entrance.mailbox.clone(),
            entrance.condition.clone(),
            (self.stats.clone(), self.no_zstd.clone()),
            for_head,
            self.running.enter(),
        );
        (self.start)(lane)
            .map_err(|error| ClientError::Connect { addr: self.name.to_string(), error: error.into() })?;
        *was_started = true;
        Ok(())
    }

    pub(super) fn pending_requests(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self) -> Stats {
        *lock(&self.stats)
    }

    /// Closes in order: no new requests; ends when those in flight have, by `deadline`.
    pub(super) async fn close(&self, deadline: Instant) {
        self.tell_to_close(Some(deadline));
        self.running.gone().await;
    }

    fn tell_to_close(&self, deadline: Option<Instant>) {
        self.closed.store(true, Ordering::Release);
        for entrance in self.lanes.iter().chain([&self.head]) {
            // A lane that has ended needs no telling, and one that was never started hears it if it is.
            entrance.mailbox.send(Command::Close(deadline));
        }
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.tell_to_close(None);
    }
}

/// The outcome of a request, to come. Dropping it before gives the request up.
pub(super) struct Outcome {
    callers: Arc<Callers>,
    mailbox: Arc<Mailbox<Command>>,
    load: Arc<AtomicUsize>,
    ticket: u64,
    response: oneshot::Receiver<Result<Response<Bytes>, ClientError>>,
    is_known: bool,
}

impl Future for Outcome {
    type Output = Result<Response<Bytes>, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = ready!(Pin::new(&mut self.response).poll(context));
        self.is_known = true;
        Poll::Ready(outcome.unwrap_or_else(|_| Err(ClientError::lost())))
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.callers.pending.fetch_sub(1, Ordering::Relaxed);
        self.load.fetch_sub(1, Ordering::Relaxed);
        if !self.is_known {
            self.mailbox.send(Command::Cancel(self.ticket));
        }
    }
}
