//! A lane of a client: requests wait here for a link, and for the next one when that has ended.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use super::super::carrier::Patience;
use super::super::crowd::Member;
use super::super::error::ClientError;
use super::super::mailbox::lock;
use super::super::options::ClientOptions;
use super::super::timed::Timed;
use super::queue::{Command, Job, Queue, cannot_connect};
use super::session::Session;
use super::{Common, Entrance};
use crate::proto::{ClientConfig, Stats};

/// What a lane's driver is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Step {
    /// Dial, and tell how that went; [`Lane::dial`] waits for it.
    Dial,
    /// Nothing more: no request will come.
    End,
}

/// Until when the server is taken for one that does not know zstd: all lanes of a client share what one of them learned.
pub(super) type NoZstd = Mutex<Option<Instant>>;

/// How a lane is doing, for who chooses one.
#[derive(Debug, Default)]
pub(super) struct Condition {
    inner: Mutex<State>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    paused_until: Option<Instant>,
    is_up: bool,
    /// Its link ends what is under way on it, and takes nothing more.
    is_leaving: bool,
}

impl Condition {
    /// Whether it pauses, or its link is leaving; and whether it has a link that takes requests.
    pub(super) fn look(&self, now: Instant) -> (bool, bool) {
        let State { paused_until, is_up, is_leaving } = *lock(&self.inner);
        (is_leaving || paused_until.is_some_and(|until| now < until), is_up)
    }

    /// It pauses from now on.
    pub(super) fn pause(&self, now: Instant, pause: Duration) {
        self.set(now.checked_add(pause), false);
    }

    pub(super) fn set(&self, paused_until: Option<Instant>, is_up: bool) {
        *lock(&self.inner) = State { paused_until, is_up, is_leaving: false };
    }

    fn set_leaving(&self) {
        *lock(&self.inner) = State { paused_until: None, is_up: false, is_leaving: true };
    }

    fn is_leaving(&self) -> bool {
        lock(&self.inner).is_leaving
    }
}

/// A lane: lives as long as its client, through many connections, one at a time.
pub(in super::super) struct Lane {
    common: Arc<Common>,
    number: usize,
    commands: Vec<Command>,
    pub(super) queue: Queue,
    /// No more requests will come.
    pub(super) closing: bool,
    /// When it must have ended, if its client was told.
    pub(super) end_at: Option<Instant>,
    /// The next pause.
    pause: Duration,
    /// Until then there is no dial; requests fail with this, or wait if it is none.
    paused: Option<(Instant, Option<ClientError>)>,
    /// The last dial or hello has failed.
    has_failed: bool,
    /// The last link said hello, and did nothing else.
    has_stumbled: bool,
    _member: Member,
}

impl Lane {
    pub(super) fn new(common: Arc<Common>, number: usize, member: Member) -> Self {
        let options = &common.options;
        Self {
            number,
            commands: Vec::new(),
            queue: Queue::new(options.config.limits.pending_requests, options.overflow),
            closing: false,
            end_at: None,
            pause: options.reconnect_pause.0,
            paused: None,
            has_failed: false,
            has_stumbled: false,
            common,
            _member: member,
        }
    }

    pub(super) fn options(&self) -> &ClientOptions {
        &self.common.options
    }

    /// Whether it carries HEAD requests only.
    pub(super) fn is_for_head(&self) -> bool {
        self.common.place_of(self.number) == self.common.head_place()
    }

    /// What all lanes have carried.
    pub(super) fn stats(&self) -> &Mutex<Stats> {
        &self.common.stats
    }

    pub(super) fn entrance(&self) -> &Entrance {
        &self.common.lanes[self.number]
    }

    pub(in super::super) fn patience(&self) -> Patience {
        let ClientOptions { read_timeout, write_timeout, read_buffer, max_compress_share, .. } = self.common.options;
        Patience { read_timeout, write_timeout, read_buffer, max_compress_share, lingers: false }
    }

    /// Takes what callers want. Ready if there was anything.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_with(context, |_| ())
    }

    /// The same; `cancel` is given what is not in the queue.
    pub(super) fn poll_with(&mut self, context: &mut Context<'_>, mut cancel: impl FnMut(u64)) -> Poll<()> {
        let mut ready = false;
        // Again: only who finds nothing is woken.
        while self.common.lanes[self.number].mailbox.poll(context, &mut self.commands).is_ready() {
            ready = true;
            for command in self.commands.drain(..) {
                match command {
                    // Given up where it came from.
                    Command::Send(job) if job.reply.is_given_up() => {}
                    Command::Send(job) => self.queue.push(job),
                    Command::Cancel(ticket) if self.queue.give_up(ticket) => {}
                    Command::Cancel(ticket) => cancel(ticket),
                    Command::Close(deadline) => {
                        self.closing = true;
                        self.end_at = self.end_at.into_iter().chain(deadline).min();
                    }
                }
            }
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What is to be done now, if anything.
    fn step(&mut self, now: Instant) -> Option<Step> {
        self.handle_timeout(now);
        self.pass_on();
        self.paused.take_if(|(until, _)| *until <= now);
        if let Some((_, error)) = self.paused.clone() {
            self.move_out(now);
            error.inspect(|error| self.queue.fail(error));
        } else if !self.queue.is_empty() {
            if self.has_failed {
                // Nobody who can go elsewhere waits for a dial that may fail again.
                self.entrance().condition.pause(now, self.options().connect_timeout);
                self.move_out(now);
            }
            // Also where nobody waits any more: who comes next finds a link.
            return Some(Step::Dial);
        }
        self.is_done().then_some(Step::End)
    }

    /// Waits for `dial` to end, while requests come, are given up and expire.
    pub(in super::super) fn dial<F>(&mut self, now: Instant, dial: F) -> Dialling<'_, F> {
        let limit = now.checked_add(self.options().connect_timeout);
        Dialling { lane: self, dial, limit }
    }

    /// Gives what waits here, and of which nothing has left, to lanes that are up and have room for it.
    fn move_out(&mut self, now: Instant) {
        let common = self.common.clone();
        let Common { lanes, options, .. } = &*common;
        let is_up = |number: &usize| lanes[*number].condition.look(now) == (false, true);
        let fronts = (0..common.head_place()).map(|place| common.front(place));
        let up: Vec<_> = fronts.filter(|number| *number != self.number && is_up(number)).collect();
        if up.is_empty() || self.is_for_head() {
            return;
        }
        let load = |number: usize| lanes[number].load.load(Ordering::Relaxed);
        while let Some(number) = up.iter().copied().min_by_key(|number| load(*number))
            && load(number) < options.config.limits.pending_requests
            && let Some(job) = self.queue.pop()
            && self.move_one(job, number)
        {}
    }

    /// Gives a job to another lane; false if that takes none.
    fn move_one(&mut self, job: Box<Job>, number: usize) -> bool {
        job.reply.move_to(number);
        let Err(Command::Send(job)) = self.common.lanes[number].mailbox.send(Command::Send(job)) else { return true };
        // The client closes, and that lane has ended.
        job.reply.move_to(self.number);
        self.queue.put_back(job);
        false
    }

    /// The server has said goodbye on this lane's link, and takes no more by it (R-goodbye-heed). What waits here, and what
    /// comes, goes by a link of the twin, while this lane ends what is under way. Unless the twin has an old link of its
    /// own, or this one `did_nothing`: then it goes by other lanes, or waits for the end of this link, so that a server that
    /// says nothing but goodbye is dialled no faster than one that says nothing.
    pub(super) fn heed_goodbye(&mut self, now: Instant, did_nothing: bool) {
        self.entrance().condition.set_leaving();
        let twin = self.common.twin_of(self.number);
        if did_nothing || self.common.lanes[twin].condition.is_leaving() {
            self.move_out(now);
        } else {
            self.common.fronts[self.common.place_of(self.number)].store(twin, Ordering::Release);
            self.pass_on();
        }
    }

    /// Gives what waits here to the twin, if that is in front. A caller may have come to this lane just before it was.
    pub(super) fn pass_on(&mut self) {
        let front = self.common.front(self.common.place_of(self.number));
        if front == self.number || self.queue.is_empty() || self.closing {
            return;
        }
        // Without callers nobody waits.
        let Some(callers) = self.common.callers.upgrade() else { return };
        if callers.start(front).is_err() {
            // It stays, and this lane dials for it.
            return;
        }
        while let Some(job) = self.queue.pop()
            && self.move_one(job, front)
        {}
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let paused = self.paused.as_ref().map(|(until, _)| *until);
        let waiting = [self.queue.poll_timeout(), self.end_at, paused];
        waiting.into_iter().flatten().filter(|_| !self.queue.is_empty()).min()
    }

    /// Ends the requests whose deadline has come, and all when that of the lane has.
    pub(super) fn handle_timeout(&mut self, now: Instant) {
        self.queue.expire(now);
        if self.end_at.is_some_and(|at| at <= now) {
            self.queue.fail(&ClientError::Closed);
        }
    }

    /// Whether nobody wants a connection any more, nor will.
    pub(super) fn is_done(&self) -> bool {
        self.closing && self.queue.is_empty()
    }

    /// There is a connection.
    pub(in super::super) fn begin(&mut self, now: Instant) -> Session<'_> {
        Session::new(self, now)
    }

    /// There is none to be had.
    pub(in super::super) fn handle_dial_error(&mut self, now: Instant, error: io::Error) {
        let error = cannot_connect(&self.common.name, error);
        self.back_off(now, error);
    }

    /// A dial or a hello has failed: what waits, and what comes in the pause, goes to other lanes, or fails, unless it is to
    /// wait for better times.
    pub(super) fn back_off(&mut self, now: Instant, error: ClientError) {
        self.has_failed = true;
        self.move_out(now);
        let error = Some(error).filter(|_| !self.options().wait_for_link);
        if let Some(error) = &error {
            self.queue.fail(error);
        }
        self.pause(now, error);
    }

    fn pause(&mut self, now: Instant, error: Option<ClientError>) {
        let pause = self.pause.mul_f64(1.0 - fastrand::f64() / 2.0);
        self.paused = now.checked_add(pause).map(|until| (until, error));
        self.entrance().condition.set(self.paused.as_ref().map(|(until, _)| *until), false);
        let (first, longest) = self.options().reconnect_pause;
        self.pause = (self.pause * 2).min(longest.max(first));
    }

    /// What the next connection is told.
    pub(super) fn connection(&self, now: Instant) -> ClientConfig {
        let mut connection = self.options().connection();
        if lock(&self.common.no_zstd).is_some_and(|until| now < until) {
            connection.config.avoid_zstd();
        }
        connection
    }

    /// The server does not know zstd (R-zstd-fallback).
    pub(super) fn note_zstd_refused(&mut self, now: Instant) {
        #[cfg(feature = "zstd")]
        let after = self.options().zstd_retry;
        #[cfg(not(feature = "zstd"))]
        let after = Duration::MAX;
        // As long as time can tell, if it is for ever.
        *lock(&self.common.no_zstd) = now.checked_add(after).or_else(|| now.checked_add(Duration::from_secs(1 << 30)));
    }

    /// A hello was complete.
    pub(super) fn note_connected(&mut self) {
        self.has_failed = false;
        self.entrance().condition.set(None, true);
    }

    /// What carried the link has panicked.
    #[cfg(feature = "smol")]
    pub(in super::super) fn note_panicked(&mut self, now: Instant) {
        self.note_ended(now, true);
    }

    /// A link has ended that was up. The next is dialled at once, unless this one did `nothing` but say hello, and so did
    /// the one before: a peer that takes links and drops them is not dialled as fast as it does.
    pub(super) fn note_ended(&mut self, now: Instant, nothing: bool) {
        if nothing && self.has_stumbled {
            return self.pause(now, None);
        }
        self.entrance().condition.set(None, false);
        self.has_stumbled = nothing;
        if !nothing {
            self.pause = self.options().reconnect_pause.0;
        }
    }
}

/// What is to be done next.
impl Timed for Lane {
    type Output = Step;

    fn poll_at(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<Step> {
        loop {
            if let Some(step) = self.step(now) {
                return Poll::Ready(step);
            }
            ready!(self.poll(context));
        }
    }

    fn next_at(&self) -> Option<Instant> {
        self.poll_timeout()
    }
}

/// A lane while it dials.
pub(in super::super) struct Dialling<'a, F> {
    lane: &'a mut Lane,
    dial: F,
    limit: Option<Instant>,
}

impl<S, F: Future<Output = io::Result<S>> + Unpin> Timed for Dialling<'_, F> {
    type Output = io::Result<S>;

    fn poll_at(&mut self, now: Instant, context: &mut Context<'_>) -> Poll<io::Result<S>> {
        if self.lane.poll(context).is_ready() && self.lane.has_failed {
            // A caller may have come here just before this lane was known to dial again.
            self.lane.move_out(now);
        }
        self.lane.handle_timeout(now);
        if let Poll::Ready(stream) = Pin::new(&mut self.dial).poll(context) {
            return Poll::Ready(stream);
        }
        if self.lane.is_done() || self.limit.is_some_and(|at| at <= now) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no answer to the dial in time")));
        }
        Poll::Pending
    }

    fn next_at(&self) -> Option<Instant> {
        self.lane.poll_timeout().into_iter().chain(self.limit).min()
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.queue.fail(&ClientError::Closed);
        self.entrance().condition.set(None, false);
        for command in self.entrance().mailbox.close() {
            if let Command::Send(job) = command {
                job.end(Err(ClientError::Closed));
            }
        }
    }
}
