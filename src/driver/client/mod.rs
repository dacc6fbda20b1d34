//! The client of every driver: callers, the links that they share, and what becomes of each request. Only sockets,
//! tasks and threads are the drivers' own.

mod lane;
mod queue;
mod reply;
mod session;
#[cfg(all(test, feature = "smol"))]
mod simulation;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{Method, Request, Response};

use lane::{Condition, NoZstd};
pub(super) use lane::{Lane, Step};
pub(super) use queue::dial_panicked;
use queue::{Command, Job};
use reply::{Reply, Waiting};

use super::crowd::Crowd;
use super::error::ClientError;
use super::mailbox::{Mailbox, lock};
use super::options::{ClientOptions, Deadline};
use super::timed::Timed;
use crate::proto::Stats;

/// Starts to carry a lane: on a task or on threads.
type Start = Box<dyn Fn(Lane) -> io::Result<()> + Send + Sync>;

/// What the clones of a client share.
pub(super) struct Callers {
    start: Start,
    common: Arc<Common>,
    next_lane: AtomicUsize,
    next_ticket: AtomicU64,
    pending: AtomicUsize,
    closed: AtomicBool,
    /// The lanes that were started.
    running: Crowd,
}

/// What the lanes of a client share with it.
struct Common {
    options: ClientOptions,
    /// The address, in words.
    name: String,
    /// Two for each place: one in front, and its twin, which has what the link before said goodbye to. There are as many
    /// places as there are to be links, and one more that carries only HEAD requests: their answers may end a link
    /// (R-head-alone).
    lanes: Vec<Entrance>,
    /// The number of the lane in front at each place.
    fronts: Vec<AtomicUsize>,
    callers: Weak<Callers>,
    stats: Mutex<Stats>,
    no_zstd: NoZstd,
}

/// Where requests go into a lane.
#[derive(Default)]
struct Entrance {
    mailbox: Mailbox<Command>,
    /// Requests that are in it and have no outcome.
    load: AtomicUsize,
    condition: Condition,
    /// Lanes are started by their first request.
    was_started: Mutex<bool>,
}

impl Common {
    /// The place for HEAD requests.
    fn head_place(&self) -> usize {
        self.fronts.len() - 1
    }

    /// The lane to which requests at this place go.
    fn front(&self, place: usize) -> usize {
        self.fronts[place].load(Ordering::Acquire)
    }

    /// The place of a lane.
    fn place_of(&self, lane: usize) -> usize {
        lane % self.fronts.len()
    }

    /// The other lane at the same place.
    fn twin_of(&self, lane: usize) -> usize {
        (lane + self.fronts.len()) % self.lanes.len()
    }
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("addr", &self.common.name)
            .field("pending_requests", &self.pending_requests())
            .finish_non_exhaustive()
    }
}

impl Callers {
    pub(super) fn new(
        name: String,
        options: ClientOptions,
        start: impl Fn(Lane) -> io::Result<()> + Send + Sync + 'static,
    ) -> Arc<Self> {
        let fronts: Vec<_> = (0..=options.links).map(AtomicUsize::new).collect();
        let lanes = std::iter::repeat_with(Entrance::default).take(2 * fronts.len()).collect();
        let (stats, no_zstd) = (Mutex::default(), NoZstd::default());
        Arc::new_cyclic(|callers| Self {
            start: Box::new(start),
            common: Arc::new(Common { options, name, lanes, fronts, callers: callers.clone(), stats, no_zstd }),
            next_lane: AtomicUsize::new(0),
            next_ticket: AtomicU64::new(0),
            pending: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            running: Crowd::default(),
        })
    }

    /// Sends a request; its outcome is to be waited for. For a oneway that is an empty response, when it has left.
    pub(super) fn send(self: &Arc<Self>, request: Request<Bytes>, deadline: Deadline, is_oneway: bool) -> Outcome {
        self.send_at(Instant::now(), request, deadline, is_oneway)
    }

    fn send_at(
        self: &Arc<Self>,
        sent_at: Instant,
        request: Request<Bytes>,
        deadline: Deadline,
        is_oneway: bool,
    ) -> Outcome {
        let is_head = request.method() == Method::HEAD && !is_oneway;
        let lane = self.begin_lane(is_head);
        let number = *lane.as_ref().unwrap_or(&0);
        let deadline = deadline.resolve(sent_at, self.common.options.timeout);
        let ticket = self.next_ticket.fetch_add(1, Ordering::Relaxed);
        let (reply, waiting) = Reply::new(self.common.clone(), number);
        self.pending.fetch_add(1, Ordering::Relaxed);
        let outcome = Outcome { callers: self.clone(), ticket, waiting, is_known: false };
        let job = Box::new(Job { ticket, request, is_oneway, sent_at, deadline, reply, tries: 0, earlier: None });
        if self.closed.load(Ordering::Acquire) {
            job.end(Err(ClientError::Closed));
        } else if let Err(error) = lane {
            job.end(Err(error));
        } else if let Err(Command::Send(job)) = self.common.lanes[number].mailbox.send(Command::Send(job)) {
            job.end(Err(ClientError::Closed));
        }
        outcome
    }

    /// The lane in front with the fewest requests under way, of those that do not pause: in turn where they are equal, and
    /// those with a link before those without.
    fn next_lane(&self) -> usize {
        let links = self.common.head_place();
        if links == 1 {
            return self.common.front(0);
        }
        let now = Instant::now();
        let turn = self.next_lane.fetch_add(1, Ordering::Relaxed) % links;
        let fronts = (turn..links).chain(0..turn).map(|place| self.common.front(place));
        let best = fronts.min_by_key(|number| {
            let lane = &self.common.lanes[*number];
            let (is_paused, is_up) = lane.condition.look(now);
            (is_paused, lane.load.load(Ordering::Relaxed), !is_up)
        });
        best.unwrap_or_else(|| self.common.front(turn))
    }

    /// Whether the first lane pauses, or its link is leaving; and whether it has a link that takes requests.
    #[cfg(feature = "httptp")]
    pub(super) fn condition(&self, now: Instant) -> (bool, bool) {
        self.common.lanes[self.common.front(0)].condition.look(now)
    }

    /// The number of the lane for a request, which was started; or of another one if it cannot be.
    fn begin_lane(&self, is_head: bool) -> Result<usize, ClientError> {
        let head_place = self.common.head_place();
        let number = if is_head { self.common.front(head_place) } else { self.next_lane() };
        self.start(number).map(|()| number).or_else(|error| {
            let was_started = |number: &usize| *lock(&self.common.lanes[*number].was_started);
            let others = (0..self.common.lanes.len()).filter(|number| self.common.place_of(*number) != head_place);
            others.filter(|_| !is_head).find(was_started).ok_or(error)
        })
    }

    /// Starts a lane that was not yet.
    fn start(&self, number: usize) -> Result<(), ClientError> {
        let entrance = &self.common.lanes[number];
        let mut was_started = lock(&entrance.was_started);
        if *was_started {
            return Ok(());
        }
        let lane = Lane::new(self.common.clone(), number, self.running.enter());
        if let Err(error) = (self.start)(lane) {
            // There may be a thread for it later. The lane has closed what it was dropped with.
            entrance.mailbox.reopen();
            if self.closed.load(Ordering::Acquire) {
                entrance.mailbox.close();
            }
            entrance.condition.pause(Instant::now(), self.common.options.reconnect_pause.0);
            return Err(ClientError::Connect { addr: self.common.name.clone(), error: error.into() });
        }
        *was_started = true;
        Ok(())
    }

    pub(super) fn pending_requests(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(super) fn stats(&self) -> Stats {
        *lock(&self.common.stats)
    }

    /// Closes in order: no new requests; ends when those in flight have, by `deadline`.
    pub(super) async fn close(&self, deadline: Instant) {
        self.tell_to_close(Some(deadline));
        self.running.gone().await;
    }

    fn tell_to_close(&self, deadline: Option<Instant>) {
        self.closed.store(true, Ordering::Release);
        for entrance in &self.common.lanes {
            // A lane that has ended needs no telling, and one that was never started hears it if it is.
            let _ = entrance.mailbox.send(Command::Close(deadline));
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
    ticket: u64,
    waiting: Waiting,
    is_known: bool,
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outcome").finish_non_exhaustive()
    }
}

impl Future for Outcome {
    type Output = Result<Response<Bytes>, ClientError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.waiting.poll(context);
        self.is_known |= outcome.is_ready();
        outcome
    }
}

/// For who waits for it, and for nothing else.
impl Timed for Outcome {
    type Output = Result<Response<Bytes>, ClientError>;

    fn poll_at(&mut self, _: Instant, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(self).poll(context)
    }

    fn next_at(&self) -> Option<Instant> {
        None
    }
}

impl Drop for Outcome {
    fn drop(&mut self) {
        self.callers.pending.fetch_sub(1, Ordering::Relaxed);
        if let Some(lane) = self.waiting.give_up().filter(|_| !self.is_known) {
            let _ = self.callers.common.lanes[lane].mailbox.send(Command::Cancel(self.ticket));
        }
    }
}
