//! What the two roles have in common, as one trait, so that one driver drives both.

use std::time::Instant;

use http::Method;
use httpteleport::proto::{
    ClientConnection, ClientEvent, Compression, ConnectionError, RequestError, ServerConnection, ServerEvent, Stats,
    Timer,
};

use super::messages::{refusal, response_frame};

/// The contract of the core (`httpteleport::proto`), without the commands of one role.
pub trait Connection {
    type Event;
    const NAME: &'static str;

    fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize;
    fn handle_eof(&mut self, now: Instant);
    fn handle_timeout(&mut self, now: Instant);
    fn handle_tls_established(&mut self, now: Instant);
    fn handle_transport_error(&mut self, now: Instant);
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;
    fn poll_event(&mut self) -> Option<Self::Event>;
    fn poll_timeout(&self) -> Option<Instant>;
    fn next_timer(&self) -> Option<(Timer, Instant)>;
    fn wants_read(&self) -> bool;
    fn is_handshaking(&self) -> bool;
    fn is_closed(&self) -> bool;
    fn stats(&self) -> Stats;
    fn flush(&mut self);
    fn close(&mut self, now: Instant);

    /// What an event means to the driver.
    fn news(event: &Self::Event) -> News<'_>;
}

pub enum News<'a> {
    Connected(Compression),
    StartTls,
    Closed(Option<&'a ConnectionError>),
    /// A request ended without an answer.
    Failed {
        id: u32,
        maybe_delivered: bool,
    },
    /// A request's response has come.
    Answered {
        id: u32,
    },
    /// A request was refused and answered with a frame of that length.
    Refused {
        answer: usize,
    },
    Other,
}

macro_rules! connection {
    ($connection:ident, $event:ident, $name:literal, $news:expr) => {
        impl Connection for $connection {
            type Event = $event;
            const NAME: &'static str = $name;

            fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
                self.handle_input(now, data)
            }
            fn handle_eof(&mut self, now: Instant) {
                self.handle_eof(now)
            }
            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now)
            }
            fn handle_tls_established(&mut self, now: Instant) {
                self.handle_tls_established(now)
            }
            fn handle_transport_error(&mut self, now: Instant) {
                self.handle_transport_error(now)
            }
            fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize {
                self.poll_transmit(now, out)
            }
            fn poll_event(&mut self) -> Option<$event> {
                self.poll_event()
            }
            fn poll_timeout(&self) -> Option<Instant> {
                self.poll_timeout()
            }
            fn next_timer(&self) -> Option<(Timer, Instant)> {
                self.next_timer()
            }
            fn wants_read(&self) -> bool {
                self.wants_read()
            }
            fn is_handshaking(&self) -> bool {
                self.is_handshaking()
            }
            fn is_closed(&self) -> bool {
                self.is_closed()
            }
            fn stats(&self) -> Stats {
                self.stats()
            }
            fn flush(&mut self) {
                self.flush()
            }
            fn close(&mut self, now: Instant) {
                self.close(now)
            }
            fn news(event: &$event) -> News<'_> {
                $news(event)
            }
        }
    };
}

connection!(ClientConnection, ClientEvent, "client", client_news);
connection!(ServerConnection, ServerEvent, "server", server_news);

fn client_news(event: &ClientEvent) -> News<'_> {
    match event {
        ClientEvent::Connected { compression } => News::Connected(*compression),
        ClientEvent::StartTls => News::StartTls,
        ClientEvent::Closed { error } => News::Closed(error.as_ref()),
        ClientEvent::Failed {
            id,
            error: RequestError::Timeout { maybe_delivered } | RequestError::Link { maybe_delivered, .. },
        } => News::Failed { id: id.get(), maybe_delivered: *maybe_delivered },
        ClientEvent::Response { id, .. } | ClientEvent::Failed { id, .. } => News::Answered { id: id.get() },
        _ => News::Other,
    }
}

fn server_news(event: &ServerEvent) -> News<'_> {
    match event {
        ServerEvent::Connected { compression } => News::Connected(*compression),
        ServerEvent::StartTls => News::StartTls,
        ServerEvent::Closed { error } => News::Closed(error.as_ref()),
        // Only a body can be too large here: the request was none for a HEAD.
        ServerEvent::Refused { id, error } if *id != 0 => {
            News::Refused { answer: response_frame(&refusal(error), &Method::POST) }
        }
        _ => News::Other,
    }
}
