//! What both roles have in common, for code that drives either.

use std::time::Instant;

use super::link::Timer;
use super::{ClientConnection, ClientEvent, ServerConnection, ServerEvent, Stats};

/// What [`ClientConnection`] and [`ServerConnection`] have in common: all that the loop of a driver needs. The methods are theirs of the same names, where they are told in full.
pub trait Connection: sealed::Sealed {
    /// What it tells its caller.
    type Event;

    /// Takes bytes from the transport and returns how many.
    fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize;
    /// No input follows.
    fn handle_eof(&mut self, now: Instant);
    /// Acts on all timers due at `now`.
    fn handle_timeout(&mut self, now: Instant);
    /// Input and output are now the plain text of TLS.
    fn handle_tls_established(&mut self, now: Instant);
    /// The transport failed.
    fn handle_transport_error(&mut self, now: Instant);
    /// Appends to `out` what the transport should carry now and returns how many bytes that are.
    fn poll_transmit(&mut self, now: Instant, out: &mut Vec<u8>) -> usize;
    /// The next event, in order.
    fn poll_event(&mut self) -> Option<Self::Event>;
    /// When `handle_timeout` is to be called at the latest.
    fn poll_timeout(&self) -> Option<Instant>;
    /// The timer behind `poll_timeout`.
    fn next_timer(&self) -> Option<(Timer, Instant)>;
    /// Whether input would be taken now.
    fn wants_read(&self) -> bool;
    /// Compresses at this level from the next batch on.
    fn set_level(&mut self, level: u8);
    /// The level at which this side compresses; `None` if its compression has no levels.
    fn level(&self) -> Option<u8>;
    /// Seals the batch under way.
    fn flush(&mut self);
    /// Closes in order.
    fn close(&mut self, now: Instant);
    /// Whether the hello, or the TLS that was asked for, is not complete.
    fn is_handshaking(&self) -> bool;
    /// Whether the connection is over. Events may still be waiting.
    fn is_closed(&self) -> bool;
    /// What the connection has carried.
    fn stats(&self) -> Stats;
    /// How many bytes of memory its buffers take.
    fn buffered_bytes(&self) -> usize;
    /// How many of those are what compression keeps as long as the link lives.
    fn codec_bytes(&self) -> usize;
    /// Whether bodies that are not here yet are refused for want of memory.
    fn shed(&mut self, shed: bool);
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for super::ClientConnection {}
    impl Sealed for super::ServerConnection {}
}

macro_rules! connection {
    ($type:ty, $event:ty) => {
        // The calls below are of the type's own methods, which go before the trait's.
        impl Connection for $type {
            type Event = $event;

            fn handle_input(&mut self, now: Instant, data: &[u8]) -> usize {
                self.handle_input(now, data)
            }

            fn handle_eof(&mut self, now: Instant) {
                self.handle_eof(now);
            }

            fn handle_timeout(&mut self, now: Instant) {
                self.handle_timeout(now);
            }

            fn handle_tls_established(&mut self, now: Instant) {
                self.handle_tls_established(now);
            }

            fn handle_transport_error(&mut self, now: Instant) {
                self.handle_transport_error(now);
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

            fn set_level(&mut self, level: u8) {
                self.set_level(level);
            }

            fn level(&self) -> Option<u8> {
                self.level()
            }

            fn flush(&mut self) {
                self.flush();
            }

            fn close(&mut self, now: Instant) {
                self.close(now);
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

            fn buffered_bytes(&self) -> usize {
                self.buffered_bytes()
            }

            fn codec_bytes(&self) -> usize {
                self.codec_bytes()
            }

            fn shed(&mut self, shed: bool) {
                self.shed(shed);
            }
        }
    };
}

connection!(ClientConnection, ClientEvent);
connection!(ServerConnection, ServerEvent);
