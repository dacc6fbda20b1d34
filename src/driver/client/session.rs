//! One connection of a lane: requests in, outcomes out.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::super::carrier::Endpoint;
use super::super::channel::{Channel, no_tls};
use super::super::error::ClientError;
use super::super::mailbox::{lock, unharmed};
use super::super::memory::MemoryBudget;
use super::super::options::Overflow;
use super::lane::Lane;
use super::queue::Job;
use crate::proto::{
    ClientConnection, ClientEvent, ConnectionError, ErrorKind, IdMap, MessageError, RequestError, RequestId, SendError,
    Stats,
};

/// How often a request that was not delivered, or may be repeated, is given to another connection.
const MAX_TRIES: u32 = 3;

/// How long a link is up that does something else than say hello.
const PROVEN: Duration = Duration::from_secs(1);

/// One connection of a lane.
pub(in super::super) struct Session<'a> {
    connection: ClientConnection,
    lane: &'a mut Lane,
    waiting: IdMap<RequestId, Box<Job>>,
    tickets: IdMap<u64, RequestId>,
    /// What of the connection's figures the client's already have.
    counted: Stats,
    /// When its hello was complete.
    connected_at: Option<Instant>,
    /// A response has come.
    was_answered: bool,
    /// This side closes it.
    is_closing: bool,
    /// Jobs for the next connection.
    again: VecDeque<Box<Job>>,
    /// Jobs that may have been delivered and must not be repeated.
    broken: Vec<(Box<Job>, ConnectionError)>,
    /// The last event, when it has come.
    end: Option<Option<ConnectionError>>,
}

impl<'a> Session<'a> {
    pub(super) fn new(lane: &'a mut Lane, now: Instant) -> Self {
        Self {
            connection: ClientConnection::new(lane.connection(now), now),
            lane,
            waiting: IdMap::default(),
            tickets: IdMap::default(),
            counted: Stats::default(),
            connected_at: None,
            was_answered: false,
            is_closing: false,
            again: VecDeque::new(),
            broken: Vec::new(),
            end: None,
        }
    }

    /// The connection is over; `transport` is what its transport failed with, if it did.
    pub(in super::super) fn finish(self, now: Instant, transport: Option<io::Error>) {
        // A peer that hangs up in order, and took nothing, is no better than one that fails.
        let nothing = !self.is_closing && self.did_nothing(now);
        let Self { lane, again, broken, connected_at, is_closing, end, .. } = self;
        let transport = transport.map(Arc::new);
        for (job, error) in broken {
            job.end(Err(ClientError::Link { error, transport: transport.clone(), maybe_delivered: true }));
        }
        let error = match end.flatten() {
            Some(error) => error,
            // In order, and yet before it could take what waits.
            None if !is_closing && !again.is_empty() => ConnectionError::nowhere(ErrorKind::Closed),
            None => {
                again.into_iter().for_each(|job| lane.queue.put_back(job));
                lane.note_ended(now, nothing);
                return;
            }
        };
        if *error.kind() == ErrorKind::ZstdRefused {
            // No failure, but an answer: the next connection does without.
            lane.note_zstd_refused(now);
            again.into_iter().for_each(|job| lane.queue.put_back(job));
            return;
        }
        let error = ClientError::Link { error, transport, maybe_delivered: false };
        let most = if lane.options().wait_for_link { u32::MAX } else { MAX_TRIES };
        for job in again {
            match job.tries < most {
                true => lane.queue.put_back(job),
                false => job.end(Err(error.clone())),
            }
        }
        match connected_at {
            None => lane.back_off(now, error),
            Some(_) => lane.note_ended(now, nothing),
        }
    }

    fn take(&mut self, id: RequestId) -> Option<Box<Job>> {
        let job = self.waiting.remove(&id)?;
        self.tickets.remove(&job.ticket);
        Some(job)
    }

    /// Whether the next request must wait: a HEAD travels alone until the server has shown that it may not.
    fn must_wait(&self) -> bool {
        self.lane.is_for_head()
            && !self.connection.peer_keeps_head_rule()
            && self.connection.pending_requests() + self.connection.abandoned_requests() > 0
    }

    /// Whether the next job is a oneway before the hello: it would be on its way to a peer that may turn out to be none.
    fn is_too_early(&self) -> bool {
        self.connection.is_handshaking() && self.lane.queue.front().is_some_and(|job| job.is_oneway)
    }

    /// Keeps what waits in the queue for room in the output within the limit: with what is under way, it is pending.
    fn limit_waiting(&mut self, now: Instant) {
        let limit = self.lane.options().config.limits.pending_requests;
        while self.connection.pending_requests() + self.lane.queue.len() > limit
            && (self.make_room(now) || self.lane.queue.shed())
        {}
    }

    fn send(&mut self, job: Box<Job>, now: Instant) {
        if let Some(may) = &self.lane.options().send_if
            && !unharmed(|| may(&job.request)).unwrap_or(false)
        {
            return job.end(Err(ClientError::Send(SendError::Closing)));
        }
        if job.is_oneway {
            match self.connection.send_oneway(job.sent_at, &job.request) {
                Ok(()) => job.end(Ok(http::Response::default())),
                Err(error) => self.refuse(job, error),
            }
            return;
        }
        let mut sent = self.connection.send_request(job.sent_at, &job.request, job.deadline);
        if matches!(sent, Err(SendError::PendingOverflow(_))) && self.make_room(now) {
            sent = self.connection.send_request(job.sent_at, &job.request, job.deadline);
        }
        match sent {
            Ok(id) => {
                self.tickets.insert(job.ticket, id);
                self.waiting.insert(id, job);
            }
            Err(error) => self.refuse(job, error),
        }
    }

    fn refuse(&mut self, job: Box<Job>, error: SendError) {
        match error {
            SendError::Closing => self.try_again(job),
            error => job.end(Err(ClientError::Send(error))),
        }
    }

    /// Gives the oldest request up that has not left, if that is the policy.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.lane.options().overflow != Overflow::Oldest {
            return false;
        }
        let Some(loser) = self.connection.oldest_unsent() else { return false };
        self.connection.cancel(now, loser);
        if let Some(job) = self.take(loser) {
            let limit = self.lane.options().config.limits.pending_requests;
            job.end(Err(ClientError::Send(SendError::PendingOverflow(limit))));
        }
        true
    }

    fn try_again(&mut self, mut job: Box<Job>) {
        job.tries += 1;
        self.again.push_back(job);
    }

    fn fail(&mut self, id: RequestId, error: RequestError) {
        let Some(mut job) = self.take(id) else { return };
        match error {
            RequestError::Timeout { maybe_delivered } => job.end(Err(ClientError::Timeout { maybe_delivered })),
            RequestError::Refused(error) => {
                if let Some(memory) = self.lane.options().memory.as_ref().filter(|_| error == MessageError::Overload) {
                    memory.note_shed();
                }
                job.end(Err(ClientError::Response(error)));
            }
            RequestError::Link { error, .. } if *error.kind() == ErrorKind::ZstdRefused => self.again.push_back(job),
            RequestError::Link { maybe_delivered: false, .. } => self.try_again(job),
            RequestError::Link { error, maybe_delivered: true } => {
                let may_repeat = match &self.lane.options().retry_if {
                    Some(may) => unharmed(|| may(&job.request)).unwrap_or(false),
                    None => false,
                };
                if may_repeat && job.tries + 1 < MAX_TRIES {
                    job.earlier = Some(ClientError::Link { error, transport: None, maybe_delivered: true });
                    self.try_again(job)
                } else {
                    self.broken.push((job, error))
                }
            }
        }
    }

    fn close(&mut self, now: Instant) {
        match self.lane.end_at {
            Some(deadline) if self.lane.is_done() => self.connection.close_by(now, deadline),
            _ => self.connection.close(now),
        }
    }

    /// Whether it has been of no use yet: no answer has come, and it is new.
    fn did_nothing(&self, now: Instant) -> bool {
        let is_new = self.connected_at.is_none_or(|at| now.saturating_duration_since(at) < PROVEN);
        !self.was_answered && is_new
    }

    fn count(&mut self) {
        let now = self.connection.stats();
        if now != self.counted {
            lock(self.lane.stats()).add(now, self.counted);
            self.counted = now;
        }
    }
}

impl Endpoint for Session<'_> {
    type Connection = ClientConnection;

    fn connection(&self) -> &ClientConnection {
        &self.connection
    }

    fn connection_mut(&mut self) -> &mut ClientConnection {
        &mut self.connection
    }

    fn handle_timeout(&mut self, now: Instant) {
        self.lane.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        // Jobs wait here on a lane for HEAD, and oneways for the hello.
        self.lane.poll_timeout()
    }

    fn wants_read(&self) -> bool {
        true
    }

    fn handle_tls_established(&mut self, now: Instant, _: &Channel) {
        self.connection.handle_tls_established(now);
    }

    fn poll_commands(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut cancelled = Vec::new();
        let ready = self.lane.poll_with(context, |ticket| cancelled.push(ticket));
        for ticket in cancelled {
            if let Some(id) = self.tickets.get(&ticket).copied() {
                self.take(id);
                self.connection.cancel(Instant::now(), id);
            }
        }
        ready
    }

    fn take_commands(&mut self, now: Instant) {
        if self.connection.is_closing() {
            self.lane.pass_on();
            if self.lane.is_done() {
                self.close(now);
            }
            return;
        }
        while !self.must_wait()
            && !self.is_too_early()
            // What waits here leaves no less soon, and can be given up meanwhile (R-limit-output).
            && !self.connection.is_output_full()
            && let Some(job) = self.lane.queue.pop()
        {
            self.send(job, now);
        }
        if self.connection.is_output_full() {
            self.limit_waiting(now);
        }
        // An unanswered HEAD that nobody waits for blocks its link: a new one serves the next.
        let is_idle = self.connection.pending_requests() == 0;
        let blocked = self.must_wait() && is_idle && !self.lane.queue.is_empty();
        self.is_closing = blocked || self.lane.is_done();
        if self.is_closing {
            self.close(now);
        }
    }

    fn deliver_events(&mut self, now: Instant, channel: &mut Channel) -> io::Result<bool> {
        let mut any = false;
        // Before the events, so that whoever acts on one sees figures that include it.
        self.count();
        while let Some(event) = self.connection.poll_event() {
            any = true;
            match event {
                ClientEvent::Connected { compression } => {
                    self.connected_at = Some(now);
                    if let Some(tell) = &self.lane.options().on_link_start {
                        unharmed(|| tell(compression));
                    }
                    self.lane.note_connected();
                }
                ClientEvent::Response { id, response } => {
                    self.was_answered = true;
                    if let Some(job) = self.take(id) {
                        job.end(Ok(response));
                    }
                }
                ClientEvent::Failed { id, error } => self.fail(id, error),
                ClientEvent::Unmatched { .. } => {}
                ClientEvent::Goodbye => {
                    if let Some(tell) = &self.lane.options().on_goodbye {
                        unharmed(|| tell());
                    }
                    self.lane.heed_goodbye(now, self.did_nothing(now));
                }
                ClientEvent::StartTls => self.start_tls(channel)?,
                ClientEvent::Closed { error } => self.end = Some(error),
            }
        }
        Ok(any)
    }

    fn awaits_peer(&self) -> bool {
        // It owes an answer also to those who wait no longer: else requests that time out one after another would hide
        // that nothing comes any more.
        self.connection.pending_requests() + self.connection.abandoned_requests() > 0
    }

    fn end_at(&self) -> Option<Instant> {
        self.lane.end_at
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn drops_output(&self) -> bool {
        matches!(self.end, Some(Some(_)))
    }

    fn memory(&self) -> Option<&MemoryBudget> {
        self.lane.options().memory.as_ref()
    }

    fn held_bytes(&self) -> usize {
        // Requests and responses are their callers'.
        0
    }
}

impl Session<'_> {
    #[cfg(feature = "tls")]
    fn start_tls(&self, channel: &mut Channel) -> io::Result<()> {
        match &self.lane.options().tls {
            Some(tls) => channel.start_client(tls),
            None => Err(no_tls()),
        }
    }

    #[cfg(not(feature = "tls"))]
    fn start_tls(&self, _: &mut Channel) -> io::Result<()> {
        Err(no_tls())
    }
}
