//! The client's end of a connection.

use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::time::Instant;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{Method, Request, Response, StatusCode};

use super::batch::FrameNumber;
use super::config::{ClientConfig, Compression, Config, Limits, Stats, ZSTD_CODE};
use super::deadlines::Deadlines;
use super::error::{ConnectionError, ErrorKind, MessageError, SendError};
use super::frame::Frame;
use super::hello::Hello;
use super::ids::IdMap;
use super::link::{Link, Role, Timer};
use super::message::{Outline, parse_response, write_request};

/// A request on its way: what a [`ClientEvent`] speaks of.
///
/// It is the request id on the wire. Once the request's outcome was polled the number may come back for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(NonZeroU32);

impl RequestId {
    /// The id as it stands on the wire, never 0 (R-id-nonzero).
    pub fn get(self) -> u32 {
        self.0.get()
    }
}

/// How many ids there are at least before they begin anew (R-id-span), and how many for each that is reserved.
const SPAN: (u32, usize) = (256, 4);
/// How many ids become free before one that did is given again (R-id-rest). With those that are reserved they are fewer than
/// there are, whatever the span.
const REST: usize = 128;

/// What a [`ClientConnection`] tells its caller.
#[derive(Debug)]
pub enum ClientEvent {
    /// The hello is complete; the server compresses its responses with this.
    Connected {
        /// How the server compresses.
        compression: Compression,
    },
    /// Both hellos are through: start TLS as a TLS client on the same transport, then call
    /// [`ClientConnection::handle_tls_established`].
    StartTls,
    /// A request's response.
    Response {
        /// The request.
        id: RequestId,
        /// Its response; `Content-Length` is the body's, except in answers to HEAD and in 304.
        response: Response<Bytes>,
    },
    /// A request ended without a response.
    Failed {
        /// The request.
        id: RequestId,
        /// Why.
        error: RequestError,
    },
    /// A response that nobody waits for was dropped: unknown id, answered before, timed out or cancelled
    /// (R-response-unmatched).
    Unmatched {
        /// Its id on the wire.
        id: u32,
    },
    /// The server is about to close (R-goodbye). The connection takes no new requests, which are for another one, and is
    /// closed once those under way have ended (R-goodbye-heed).
    Goodbye,
    /// The connection is over; no event follows. `None`: it was closed in order.
    Closed {
        /// Why.
        error: Option<ConnectionError>,
    },
}

/// Why a request got no response.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Its deadline came first (R-deadline).
    Timeout {
        /// Whether the request can have reached the server.
        maybe_delivered: bool,
    },
    /// The response was refused (R-read-refuse). The request was delivered, or will be.
    Refused(MessageError),
    /// The connection ended first (R-fail-in-flight).
    Link {
        /// Why the connection ended.
        error: ConnectionError,
        /// Whether the request can have reached the server.
        maybe_delivered: bool,
    },
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let delivered = |maybe: &bool| {
            if *maybe { "may have reached the server" } else { "was not sent" }
        };
        match self {
            Self::Timeout { maybe_delivered } => {
                write!(f, "no response before the deadline; the request {}", delivered(maybe_delivered))
            }
            Self::Refused(error) => {
                write!(f, "the response was refused: {error} [{}]", error.code())
            }
            Self::Link { error, maybe_delivered } => {
                write!(f, "the link ended: {error}; the request {}", delivered(maybe_delivered))
            }
        }
    }
}

impl std::error::Error for RequestError {}

/// The client's end of one connection, without I/O.
///
/// The methods are of four kinds (see the [module](super)): inputs `handle_*`, commands, outputs `poll_*`, getters.
/// After any input or command, drain the outputs in this order: [`poll_transmit`](Self::poll_transmit),
/// [`poll_event`](Self::poll_event), [`poll_timeout`](Self::poll_timeout).
pub struct ClientConnection {
    link: Link<Client>,
}

impl std::fmt::Debug for ClientConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientConnection")
            .field("pending_requests", &self.pending_requests())
            .field("is_handshaking", &self.is_handshaking())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl ClientConnection {
    /// A connection on a transport that was established at `now`. Its hello is ready to transmit.
    pub fn new(config: ClientConfig, now: Instant) -> Self {
        let ClientConfig { mut config, tls } = config;
        config.try_zstd();
        let mut link = Link::new(Client { tls, ..Client::default() }, config, now);
        link.send_hello(tls);
        Self { link }
    }

    /// Takes bytes from the transport and returns how many; fewer than all only if [`wants_read`](Self::wants_read)
    /// is now false: offer the rest again once it is true. Bytes after the end of the connection are dropped.
    pub fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
        self.link.handle_input(now, data)
    }

    /// The server has closed its direction: no input follows.
    pub fn handle_eof(&mut self, now: Instant) {
        self.link.handle_eof(now);
    }

    /// Acts on all timers due at `now`. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.link.handle_timeout(now);
    }

    /// TLS is established after [`ClientEvent::StartTls`]: input and output are now its plain text.
    pub fn handle_tls_established(&mut self, now: Instant) {
        self.link.handle_tls_established(now);
    }

    /// The transport failed at `now`: ends the connection with the code `transport`.
    pub fn handle_transport_error(&mut self, now: Instant) {
        self.link.abort(now, ConnectionError::nowhere(ErrorKind::Transport));
    }

    /// Queues a request, which then ends in exactly one [`ClientEvent::Response`] or [`ClientEvent::Failed`], or by
    /// [`cancel`](Self::cancel). Allowed from the start: what is queued leaves after the hello.
    ///
    /// `now` may be earlier than what the connection has been told: the batch delay counts from it (R-batch-begin).
    ///
    /// The target is written in origin-form; Host is the URI's authority, or else the one Host field. Fields of one
    /// hop and framing fields are left out or replaced (spec/05-messages.md).
    ///
    /// # Errors
    ///
    /// Any [`SendError`]; nothing was queued then.
    pub fn send_request(
        &mut self,
        now: Instant,
        request: &Request<Bytes>,
        deadline: Option<Instant>,
    ) -> Result<RequestId, SendError> {
        self.ready(now)?;
        let limit = self.link.config.limits.pending_requests;
        if self.link.role.pending >= limit {
            return Err(SendError::PendingOverflow(limit));
        }
        let id = self.link.role.free_id();
        let frame = self.link.send(now, |batch, limits| write_request(batch, id.get(), request, limits))?;
        // The response cannot come first: nothing has been transmitted (R-register-before-write).
        let to_head = request.method() == Method::HEAD;
        Client::forget_sent(&mut self.link);
        self.link.role.register(
            id,
            Slot { is_pending: true, is_reserved: true, is_untold: false, to_head, frame },
            deadline,
        );
        Ok(RequestId(id))
    }

    /// Queues a request that wants no response (R-id-oneway). It has no outcome: if the connection ends, it may have
    /// been delivered or not.
    ///
    /// # Errors
    ///
    /// Any [`SendError`] but `PendingOverflow`; nothing was queued then.
    pub fn send_oneway(&mut self, now: Instant, request: &Request<Bytes>) -> Result<(), SendError> {
        self.ready(now)?;
        self.link.send(now, |batch, limits| write_request(batch, 0, request, limits)).map(drop)
    }

    fn ready(&mut self, now: Instant) -> Result<(), SendError> {
        self.link.tell_time(now);
        if self.link.is_closing() {
            Err(SendError::Closing)
        } else if self.link.is_output_full() {
            Err(SendError::OutputFull(self.link.config.limits.output_bytes))
        } else {
            Ok(())
        }
    }

    /// Gives a request up: no event will speak of it. Returns whether it was pending; if not, its outcome may be among the
    /// events that wait.
    ///
    /// Nothing is said to the server. A request that has not been transmitted never will be; of any other the id stays
    /// reserved until the response comes (R-id-unique).
    pub fn cancel(&mut self, now: Instant, id: RequestId) -> bool {
        self.link.tell_time(now);
        let given_up = Client::give_up(&mut self.link, id.0, true);
        Client::limit_abandoned(&mut self.link);
        self.link.settle();
        given_up.is_some()
    }

    /// Compresses at this level, 1 to 9, from the next batch on. Without effect if the compression has no levels. For
    /// zstd it ends a frame and loses the history, so it is nothing to do often.
    pub fn set_level(&mut self, level: u8) {
        self.link.set_level(level);
    }

    /// Seals the batch under way: the next [`poll_transmit`](Self::poll_transmit) yields it.
    pub fn flush(&mut self) {
        self.link.seal();
    }

    /// Closes in order: takes no further request, lets those in flight end, within the drain timeout.
    pub fn close(&mut self, now: Instant) {
        self.link.close(now);
    }

    /// The same, until `deadline` instead of the drain timeout. If it is closing already, until the earlier of both.
    pub fn close_by(&mut self, now: Instant, deadline: Instant) {
        let was_draining = self.link.is_draining();
        self.link.close(now);
        self.link.drain_by(deadline, was_draining);
    }

    /// Appends to `out` what the transport should carry now and returns how many bytes that are.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        self.link.poll_transmit(now, out)
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        let event = self.link.poll_event();
        if let Some(ClientEvent::Response { id, .. } | ClientEvent::Failed { id, .. }) = &event {
            self.link.role.note_told(id.0);
        }
        event
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.link.next_timer().map(|(_, at)| at)
    }

    /// The timer behind [`poll_timeout`](Self::poll_timeout).
    pub fn next_timer(&self) -> Option<(Timer, Instant)> {
        self.link.next_timer()
    }

    /// Whether input would be taken now.
    pub fn wants_read(&self) -> bool {
        self.link.wants_read()
    }

    /// Whether the hello, or the TLS that it asked for, is not complete.
    pub fn is_handshaking(&self) -> bool {
        self.link.is_handshaking()
    }

    /// Whether the connection takes no new requests.
    pub fn is_closing(&self) -> bool {
        self.link.is_closing()
    }

    /// Whether the connection is over. Events may still be waiting.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// The level at which this side compresses; `None` if its compression has no levels.
    pub fn level(&self) -> Option<u8> {
        self.link.level()
    }

    /// Whether so much waits to be transmitted that no request is taken for now ([`SendError::OutputFull`]).
    pub fn is_output_full(&self) -> bool {
        self.link.is_output_full()
    }

    /// How many requests wait for their outcome.
    pub fn pending_requests(&self) -> usize {
        self.link.role.pending
    }

    /// How many requests were cancelled or timed out and are still unanswered.
    pub fn abandoned_requests(&self) -> usize {
        self.link.role.reserved - self.link.role.pending
    }

    /// Of the pending requests of which nothing was transmitted, the one that was sent first: whoever prefers new
    /// requests to old ones can [`cancel`](Self::cancel) it.
    pub fn oldest_unsent(&self) -> Option<RequestId> {
        self.link.role.unsent.iter().find(|entry| Client::is_unsent(&self.link, entry)).map(|(_, id)| RequestId(*id))
    }

    /// Whether the server has shown that a response to HEAD leaves no doubt about its end, so that HEAD requests can
    /// share the connection with others (R-head-alone).
    pub fn peer_keeps_head_rule(&self) -> bool {
        self.link.role.peer_keeps_head_rule
    }

    /// What the connection has carried.
    pub fn stats(&self) -> Stats {
        self.link.stats
    }

    /// How many bytes of memory the connection's buffers take: what has come and makes no whole message yet, what waits to
    /// be transmitted, and what compression keeps, roughly. Messages that were delivered are not among it.
    pub fn buffered_bytes(&self) -> usize {
        self.link.buffered_bytes()
    }

    /// How many of those are what compression keeps: they do not become fewer when messages do, as long as the link lives.
    pub fn codec_bytes(&self) -> usize {
        self.link.codec_bytes()
    }

    /// Refuses bodies that are not here yet with the code `overload`, and drops them as they come, until told otherwise:
    /// for callers that have no memory left (R-limit-memory). Messages that come in one piece are delivered as ever.
    pub fn shed(&mut self, shed: bool) {
        self.link.shed(shed);
    }

    /// Sets the id of the next request, and no id rests any more: how tests and the conformance suite reach the wrap of the counter.
    #[doc(hidden)]
    pub fn set_next_id(&mut self, id: u32) {
        let Client { last_id, slots, resting, .. } = &mut self.link.role;
        *last_id = id.wrapping_sub(1);
        resting.drain(..).for_each(|id| _ = slots.remove(&id));
    }
}

/// The client's half of the role seam.
#[derive(Default)]
struct Client {
    tls: bool,
    last_id: u32,
    /// Every request whose response has not come, those whose outcome was not polled yet, so that no event speaks of an id
    /// that is another request's by now, and the ids that rest; by id.
    slots: IdMap<NonZeroU32, Slot>,
    /// The ids that rest, those first that have rested longest: a response that comes twice must not reach another.
    resting: VecDeque<NonZeroU32>,
    /// How many slots have an id that is reserved (R-id-unique).
    reserved: usize,
    /// Those of them that wait for their outcome; the others are abandoned.
    pending: usize,
    /// Requests of which nothing was transmitted, in the order in which they were sent, and some others: those are skipped.
    unsent: VecDeque<Sent>,
    /// Deadlines of pending requests, and of some that are no longer: those are skipped.
    deadlines: Deadlines<Sent>,
    peer_keeps_head_rule: bool,
}

/// A request among all that were sent: its id may be another's by now, its frame never.
type Sent = (FrameNumber, NonZeroU32);

struct Slot {
    /// Whether somebody still waits.
    is_pending: bool,
    /// Whether a response may still come.
    is_reserved: bool,
    /// Whether its outcome is among the events.
    is_untold: bool,
    /// The method was HEAD.
    to_head: bool,
    /// The frame that carries the request.
    frame: FrameNumber,
}

impl Slot {
    /// Nobody waits any more; returns whether somebody did, whom an event `tells` then.
    fn end_wait(&mut self, tells: bool) -> bool {
        let was_pending = std::mem::take(&mut self.is_pending);
        self.is_untold |= was_pending && tells;
        was_pending
    }
}

/// Whether somebody waits for a request.
fn is_pending(slots: &IdMap<NonZeroU32, Slot>, (frame, id): &Sent) -> bool {
    slots.get(id).is_some_and(|slot| slot.is_pending && slot.frame == *frame)
}

/// Whether a response that answers nothing is a goodbye (R-goodbye).
fn is_goodbye(response: &Response<Bytes>) -> bool {
    let mut options =
        response.headers().get_all(CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    response.status() == StatusCode::SERVICE_UNAVAILABLE
        && options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

impl Client {
    /// The next id that no request holds (R-id-order, R-id-unique). Small ones cost less bytes once compressed: they begin
    /// anew when there have been many more than are reserved (R-id-span).
    fn free_id(&self) -> NonZeroU32 {
        let mut id = self.last_id;
        loop {
            id = id.wrapping_add(1);
            if id.is_power_of_two() && id >= SPAN.0 && id as usize / SPAN.1 >= self.slots.len() - self.resting.len() {
                id = 1;
            }
            // There are far fewer slots than ids: the limits see to that.
            if let Some(id) = NonZeroU32::new(id).filter(|id| !self.slots.contains_key(id)) {
                return id;
            }
        }
    }

    /// Whether nothing of a pending request was transmitted.
    fn is_unsent(link: &Link<Self>, sent: &Sent) -> bool {
        !link.has_begun(sent.0) && is_pending(&link.role.slots, sent)
    }

    /// Drops from `unsent` what has been transmitted, and keeps it in proportion to the requests: where the first one waits
    /// for long, many can come behind it and be given up.
    fn forget_sent(link: &mut Link<Self>) {
        while let Some((before, _)) = link.role.unsent.front()
            && link.has_begun(*before)
        {
            link.role.unsent.pop_front();
        }
        let Self { unsent, slots, pending, .. } = &mut link.role;
        if unsent.len() > 2 * *pending + 64 {
            unsent.retain(|sent| is_pending(slots, sent));
        }
    }

    fn register(&mut self, id: NonZeroU32, slot: Slot, deadline: Option<Instant>) {
        self.last_id = id.get();
        self.reserved += 1;
        self.pending += 1;
        let sent = (slot.frame, id);
        if let Some(deadline) = deadline {
            self.deadlines.set(deadline, sent);
        }
        self.unsent.push_back(sent);
        self.slots.insert(id, slot);
    }

    /// A response with this id has come: ends the request if somebody waits, and frees the id. Returns whether somebody
    /// waited. A response that comes before the request has left is none to its frame, which leaves all the same: the
    /// id stays reserved for the answer to that (R-response-match).
    fn answer(link: &mut Link<Self>, id: NonZeroU32) -> bool {
        let Some(frame) = link.role.slots.get(&id).map(|slot| slot.frame) else { return false };
        let frees_id = link.has_begun(frame);
        let Some(slot) = link.role.slots.get_mut(&id).filter(|slot| slot.is_reserved) else { return false };
        let was_pending = slot.end_wait(true);
        slot.is_reserved = !frees_id;
        if !slot.is_reserved {
            link.role.reserved -= 1;
            if !slot.is_untold {
                link.role.rest(id);
            }
        }
        if was_pending {
            link.role.pending -= 1;
            link.role.forget_deadlines();
        }
        was_pending
    }

    /// The outcome of a request has been polled.
    fn note_told(&mut self, id: NonZeroU32) {
        if let Some(slot) = self.slots.get_mut(&id) {
            slot.is_untold = false;
            if !slot.is_reserved {
                self.rest(id);
            }
        }
    }

    /// Nothing speaks of the id any more; the one that has rested longest is free.
    fn rest(&mut self, id: NonZeroU32) {
        self.resting.push_back(id);
        if self.resting.len() > REST
            && let Some(free) = self.resting.pop_front()
        {
            self.slots.remove(&free);
        }
    }

    fn forget_deadlines(&mut self) {
        self.deadlines.forget(self.pending, |sent| is_pending(&self.slots, sent));
    }

    /// Ends a pending request, if it is one, with an event to come or `in_silence`; returns whether it may have been
    /// delivered. If so its id stays reserved; if not its frame is taken back, so that it never will be.
    fn give_up(link: &mut Link<Self>, id: NonZeroU32, in_silence: bool) -> Option<bool> {
        let frame = link.role.slots.get(&id).filter(|slot| slot.is_pending)?.frame;
        let maybe_delivered = link.has_begun(frame);
        if let Some(slot) = link.role.slots.get_mut(&id) {
            slot.end_wait(!in_silence);
            slot.is_reserved = maybe_delivered;
        }
        link.role.pending -= 1;
        if !maybe_delivered {
            link.role.reserved -= 1;
            if in_silence {
                link.role.slots.remove(&id);
            }
            link.withdraw(frame);
            // Where the oldest always loses, nobody is looked at twice.
            while link.role.unsent.front().is_some_and(|entry| !Self::is_unsent(link, entry)) {
                link.role.unsent.pop_front();
            }
        }
        link.role.forget_deadlines();
        Some(maybe_delivered)
    }

    fn limit_abandoned(link: &mut Link<Self>) {
        let limit = link.config.limits.abandoned_requests;
        if link.role.reserved - link.role.pending > limit {
            link.end_input(Some(ConnectionError::nowhere(ErrorKind::AbandonedLimit(limit))));
        }
    }
}

impl Role for Client {
    const ANSWERS: bool = false;
    type Message = Response<Bytes>;
    type Event = ClientEvent;

    fn connected(compression: Compression) -> ClientEvent {
        ClientEvent::Connected { compression }
    }

    fn start_tls() -> ClientEvent {
        ClientEvent::StartTls
    }

    fn closed(error: Option<ConnectionError>) -> ClientEvent {
        ClientEvent::Closed { error }
    }

    fn is_on_trial(config: &Config, hello: Hello) -> bool {
        config.prefers_zstd() && hello.compression != ZSTD_CODE
    }

    fn accept_hello(link: &mut Link<Self>, hello: Hello) -> Result<bool, ErrorKind> {
        // A server's TLS byte means nothing to a client that did not ask (R-tls-plain-ignores).
        if link.role.tls && !hello.tls { Err(ErrorKind::TlsRefused) } else { Ok(link.role.tls) }
    }

    fn parse(
        &self,
        id: u32,
        head: &Bytes,
        limits: &Limits,
        response: &mut Response<Bytes>,
    ) -> Result<Outline, ErrorKind> {
        let slot = NonZeroU32::new(id).and_then(|id| self.slots.get(&id)).filter(|slot| slot.is_reserved);
        parse_response(head, slot.is_some_and(|slot| slot.to_head), limits, response)
    }

    fn receive(link: &mut Link<Self>, frame: Frame) {
        let Frame { id, refused, body, keeps_head_rule, .. } = frame;
        let waiting = NonZeroU32::new(id).filter(|id| Self::answer(link, *id)).map(RequestId);
        let event = match (waiting, refused) {
            (Some(id), None) => {
                link.role.peer_keeps_head_rule |= keeps_head_rule;
                *link.reader.head_mut().body_mut() = body;
                ClientEvent::Response { id, response: link.reader.take_head() }
            }
            (Some(id), Some(error)) => ClientEvent::Failed { id, error: RequestError::Refused(error) },
            (None, None) if id == 0 && is_goodbye(link.reader.head_mut()) => {
                link.heed_goodbye();
                ClientEvent::Goodbye
            }
            (None, _) => ClientEvent::Unmatched { id },
        };
        link.events.push_back(event);
        Self::limit_abandoned(link);
        link.settle();
    }

    fn unfinished(&self) -> usize {
        self.pending
    }

    fn is_full(_link: &Link<Self>) -> bool {
        false
    }

    fn fail_unfinished(link: &mut Link<Self>, error: &ConnectionError) {
        (link.role.reserved, link.role.pending) = (0, 0);
        link.role.deadlines.clear();
        link.role.resting.clear();
        let slots = std::mem::take(&mut link.role.slots).into_iter();
        let mut unfinished: Vec<_> = slots.filter(|(_, slot)| slot.is_pending).collect();
        // In the order of sending: the table has none.
        unfinished.sort_unstable_by_key(|(_, slot)| slot.frame);
        for (id, slot) in unfinished {
            let error = RequestError::Link { error: error.clone(), maybe_delivered: link.has_begun(slot.frame) };
            link.events.push_back(ClientEvent::Failed { id: RequestId(id), error });
        }
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadlines.earliest()
    }

    fn expire(link: &mut Link<Self>) {
        while let Some(sent) = link.role.deadlines.pop_due(link.now) {
            let id = sent.1;
            if is_pending(&link.role.slots, &sent)
                && let Some(maybe_delivered) = Self::give_up(link, id, false)
            {
                let error = RequestError::Timeout { maybe_delivered };
                link.events.push_back(ClientEvent::Failed { id: RequestId(id), error });
            }
        }
        Self::limit_abandoned(link);
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "a test takes one real time as the base of its virtual ones")]
mod tests {
    use super::*;

    #[test]
    fn what_was_given_up_behind_one_that_waits_is_forgotten() {
        let now = Instant::now();
        let request = Request::get("http://h.example/").body(Bytes::new()).unwrap();
        let mut client = ClientConnection::new(ClientConfig::default(), now);
        let first = client.send_request(now, &request, None).unwrap();
        for _ in 0..10_000 {
            let next = client.send_request(now, &request, None).unwrap();
            assert_eq!(client.oldest_unsent(), Some(first));
            assert!(client.cancel(now, next));
        }
        assert!(client.link.role.unsent.len() < 100, "{} of 1", client.link.role.unsent.len());
        let second = client.send_request(now, &request, None).unwrap();
        assert!(client.cancel(now, first));
        assert_eq!(client.oldest_unsent(), Some(second));
    }
}
