//! The server's end of a connection.

use std::time::Instant;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{Request, Response};

use super::config::{Compression, Config, Limits, ServerConfig, ServerTls, Stats, ZSTD_CODE};
use super::error::{ConnectionError, ErrorKind, MessageError, SendError};
use super::frame::Frame;
use super::hello::Hello;
use super::link::{Link, Role, Timer};
use super::message::{Outline, parse_request, write_goodbye, write_response};

/// The right, and the duty, to answer one request, once: it is consumed by
/// [`send_response`](ServerConnection::send_response) or [`discard`](ServerConnection::discard).
///
/// It belongs to the connection that gave it out.
#[derive(Debug)]
#[must_use = "a request whose token is dropped is never answered and holds its place for ever"]
pub struct ResponseToken {
    id: u32,
    to_head: bool,
    /// What its request counts for in `Limits::held_bytes`.
    held: usize,
}

impl ResponseToken {
    /// The request's id on the wire, never 0.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// What its request counts for until it is answered.
    #[cfg(feature = "_driver")]
    pub(crate) fn held_bytes(&self) -> usize {
        self.held
    }
}

/// What a [`ServerConnection`] tells its caller.
#[derive(Debug)]
pub enum ServerEvent {
    /// The hello is complete; the client compresses its requests with this.
    Connected {
        /// How the client compresses.
        compression: Compression,
    },
    /// Both hellos are through: start TLS as a TLS server on the same transport, then call
    /// [`ServerConnection::handle_tls_established`].
    StartTls,
    /// A request that waits for a response.
    Request {
        /// What answers it.
        token: ResponseToken,
        /// The request; a chunked body has been joined.
        request: Request<Bytes>,
    },
    /// A request that wants no response (R-id-oneway).
    Oneway {
        /// The request.
        request: Request<Bytes>,
    },
    /// A request was refused, and answered with [`MessageError::status`] unless it was oneway (R-read-refuse).
    Refused {
        /// Its id on the wire.
        id: u32,
        /// Why.
        error: MessageError,
    },
    /// The connection is over; no event follows. `None`: it was closed in order.
    Closed {
        /// Why.
        error: Option<ConnectionError>,
    },
}

/// A response that was not taken, with the token to try another.
#[derive(Debug)]
pub struct ResponseRejected {
    /// Still the right to answer.
    pub token: ResponseToken,
    /// Why.
    pub error: SendError,
}

impl std::fmt::Display for ResponseRejected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "response to request {}: {} [{}]", self.token.id, self.error, self.error.code())
    }
}

impl std::error::Error for ResponseRejected {}

/// The server's end of one connection, without I/O.
///
/// The methods are of four kinds (see the [module](super)): inputs `handle_*`, commands, outputs `poll_*`, getters.
/// After any input or command, drain the outputs in this order: [`poll_transmit`](Self::poll_transmit),
/// [`poll_event`](Self::poll_event), [`poll_timeout`](Self::poll_timeout).
pub struct ServerConnection {
    link: Link<Server>,
}

impl std::fmt::Debug for ServerConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerConnection")
            .field("pending_requests", &self.pending_requests())
            .field("is_handshaking", &self.is_handshaking())
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl ServerConnection {
    /// A connection on a transport that was accepted at `now`.
    pub fn new(config: ServerConfig, now: Instant) -> Self {
        let ServerConfig { config, tls } = config;
        Self { link: Link::new(Server { tls, pending: 0, held: 0, has_said_goodbye: false }, config, now) }
    }

    /// Takes bytes from the transport and returns how many; fewer than all only if [`wants_read`](Self::wants_read)
    /// is now false: offer the rest again once it is true. Bytes after the end of the connection are dropped.
    pub fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
        self.link.handle_input(now, data)
    }

    /// The client has closed its direction: no input follows. Requests accepted before are still to be answered.
    pub fn handle_eof(&mut self, now: Instant) {
        self.link.handle_eof(now);
    }

    /// Acts on all timers due at `now`. Harmless at any time.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.link.handle_timeout(now);
    }

    /// TLS is established after [`ServerEvent::StartTls`]: input and output are now its plain text.
    pub fn handle_tls_established(&mut self, now: Instant) {
        self.link.handle_tls_established(now);
    }

    /// The transport failed at `now`: ends the connection with the code `transport`.
    pub fn handle_transport_error(&mut self, now: Instant) {
        self.link.abort(now, ConnectionError::nowhere(ErrorKind::Transport));
    }

    /// Queues the response to a request. Responses may be sent in any order.
    ///
    /// `now` may be earlier than what the connection has been told: the batch delay counts from it (R-batch-begin).
    ///
    /// To a HEAD request no body is sent; the length that the client is told is the response's `Content-Length`, or
    /// else its body's (R-head-response).
    ///
    /// # Errors
    ///
    /// The response cannot be written, or the connection is closed, or so much waits to be transmitted that nothing more
    /// is taken for now ([`SendError::OutputFull`]): the token comes back with the reason.
    pub fn send_response(
        &mut self,
        now: Instant,
        token: ResponseToken,
        response: &Response<Bytes>,
    ) -> Result<(), ResponseRejected> {
        self.link.tell_time(now);
        if self.link.is_closed() {
            return Err(ResponseRejected { token, error: SendError::Closing });
        }
        if self.link.is_output_full() {
            let error = SendError::OutputFull(self.link.config.limits.output_bytes);
            return Err(ResponseRejected { token, error });
        }
        let ResponseToken { id, to_head, .. } = token;
        let sent = self.link.send(now, |batch, limits| write_response(batch, id, to_head, response, limits));
        match sent {
            Ok(_) => {
                self.discard(token);
                Ok(())
            }
            Err(error) => Err(ResponseRejected { token, error }),
        }
    }

    /// Leaves a request without a response: its client waits until its own deadline.
    pub fn discard(&mut self, token: ResponseToken) {
        self.link.role.pending = self.link.role.pending.saturating_sub(1);
        self.link.role.held = self.link.role.held.saturating_sub(token.held);
        self.link.settle();
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

    /// Tells the client that this connection is about to be closed (R-goodbye), so that new requests go elsewhere. Those
    /// that come by it all the same are taken and answered as ever, until [`close`](Self::close) or the client's end of
    /// file, which comes soon from a client that heeds it. Without effect before the hello is complete, after it was said,
    /// and on a connection that is closing.
    pub fn say_goodbye(&mut self, now: Instant) {
        self.link.tell_time(now);
        if self.link.is_handshaking() || self.link.is_closing() || self.link.role.has_said_goodbye {
            return;
        }
        self.link.role.has_said_goodbye = true;
        let written = self.link.send(now, |batch, _| {
            write_goodbye(batch);
            Ok::<_, SendError>(())
        });
        debug_assert!(written.is_ok(), "nothing can be wrong with it");
        self.link.seal();
    }

    /// Closes in order: reads no further request, lets those accepted be answered, within the drain timeout.
    pub fn close(&mut self, now: Instant) {
        self.link.tell_time(now);
        if self.link.is_handshaking() {
            // Whoever has not been greeted has been promised nothing (R-close-graceful).
            self.link.end_in_silence();
        }
        self.link.end_input(None);
    }

    /// The same, until `deadline` instead of the drain timeout. If it is closing already, until the earlier of both.
    pub fn close_by(&mut self, now: Instant, deadline: Instant) {
        let was_draining = self.link.is_draining();
        self.close(now);
        self.link.drain_by(deadline, was_draining);
    }

    /// Appends to `out` what the transport should carry now and returns how many bytes that are.
    pub fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
        self.link.poll_transmit(now, out)
    }

    /// The next event, in order.
    pub fn poll_event(&mut self) -> Option<ServerEvent> {
        self.link.poll_event()
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

    /// Whether the connection is over. Events may still be waiting.
    pub fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    /// The level at which this side compresses; `None` if its compression has no levels. A server that
    /// [prefers zstd](super::Config) knows its compression when the client's hello is complete.
    pub fn level(&self) -> Option<u8> {
        self.link.level()
    }

    /// How many requests wait for [`send_response`](Self::send_response) or [`discard`](Self::discard).
    pub fn pending_requests(&self) -> usize {
        self.link.role.pending
    }

    /// What requests count for that wait for a response, as in [`Limits::held_bytes`].
    pub fn held_bytes(&self) -> usize {
        self.link.role.held
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
}

/// The server's half of the role seam.
struct Server {
    tls: ServerTls,
    /// Tokens that are out.
    pending: usize,
    /// The bytes of their requests.
    held: usize,
    has_said_goodbye: bool,
}

impl Server {
    /// Answers a refused request in its handler's stead.
    fn refuse(link: &mut Link<Self>, id: u32, to_head: bool, error: &MessageError) {
        let body = format!("{error} [{}]\n", error.code());
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = error.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if *error == MessageError::Overload {
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        // The caller's limits are for the caller's messages.
        let limits = Limits::default();
        let written = link.send(link.now, |batch, _| write_response(batch, id, to_head, &response, &limits));
        debug_assert!(written.is_ok(), "a small, well-formed response can be written");
    }
}

impl Role for Server {
    const ANSWERS: bool = true;
    type Message = Request<Bytes>;
    type Event = ServerEvent;

    fn connected(compression: Compression) -> ServerEvent {
        ServerEvent::Connected { compression }
    }

    fn start_tls() -> ServerEvent {
        ServerEvent::StartTls
    }

    fn closed(error: Option<ConnectionError>) -> ServerEvent {
        ServerEvent::Closed { error }
    }

    fn is_on_trial(_: &Config, _: Hello) -> bool {
        false
    }

    fn accept_hello(link: &mut Link<Self>, hello: Hello) -> Result<bool, ErrorKind> {
        if hello.compression == ZSTD_CODE {
            link.config.try_zstd();
        }
        // Whatever the verdict, a client with a proper hello is answered with one.
        let (answer, verdict) = match (link.role.tls, hello.tls) {
            (ServerTls::Off, true) => (false, Err(ErrorKind::TlsUnavailable)),
            (ServerTls::Required, false) => (true, Err(ErrorKind::TlsRequired)),
            (_, asked) => (asked, Ok(asked)),
        };
        link.send_hello(answer);
        verdict
    }

    fn parse(
        &self,
        _id: u32,
        head: &Bytes,
        limits: &Limits,
        request: &mut Request<Bytes>,
    ) -> Result<Outline, ErrorKind> {
        parse_request(head, limits, request)
    }

    fn receive(link: &mut Link<Self>, frame: Frame) {
        let Frame { id, refused, head_bytes, body, is_head: to_head, .. } = frame;
        let event = match refused {
            None => {
                let request = link.reader.head_mut();
                *request.body_mut() = body;
                let held = head_bytes + request.body().len() + request.headers().len() * Limits::FIELD_BYTES;
                let request = link.reader.take_head();
                if id == 0 {
                    ServerEvent::Oneway { request }
                } else {
                    link.role.pending += 1;
                    link.role.held += held;
                    ServerEvent::Request { token: ResponseToken { id, to_head, held }, request }
                }
            }
            Some(error) => {
                if id != 0 {
                    Self::refuse(link, id, to_head, &error);
                }
                ServerEvent::Refused { id, error }
            }
        };
        link.events.push_back(event);
    }

    fn unfinished(&self) -> usize {
        self.pending
    }

    /// A client that does not read its responses gets no more requests in either.
    fn is_full(link: &Link<Self>) -> bool {
        let (role, limits) = (&link.role, &link.config.limits);
        role.pending >= limits.pending_requests || role.held >= limits.held_bytes || link.is_output_full()
    }

    /// The tokens that are out have lost their connection; answering them tells so.
    fn fail_unfinished(_link: &mut Link<Self>, _error: &ConnectionError) {}

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expire(_link: &mut Link<Self>) {}
}
