//! What is between a connection of the core and the bytes of a socket: nothing, or TLS.

use std::io;

#[cfg(feature = "tls")]
use super::tls::{Secured, TlsClient, TlsServer};

/// The way from a connection of the core to the bytes of a socket and back: first in clear, then in TLS if both ends
/// have agreed on it. It does no I/O.
///
/// A driver hands it what it would hand to the connection, together with the connection's own method:
///
/// 1. Bytes from the socket go to [`handle_input`](Self::handle_input), those for the socket come from
///    [`poll_transmit`](Self::poll_transmit).
/// 2. At the event `StartTls`: `start_client` or `start_server`. Whatever
///    comes after the hello is TLS's: no byte that was there before the upgrade is believed (R-tls-boundary).
/// 3. After each of the two: when [`poll_established`](Self::poll_established) says true, the connection's
///    `handle_tls_established`.
/// 4. It reads while [`wants_read`](Self::wants_read) says so. When [`has_ended`](Self::has_ended), TLS was ended in
///    order: the connection's `handle_eof`. An end of file before that is a failure, `handle_transport_error`: somebody
///    may have cut the stream.
/// 5. After the connection's last event: [`close`](Self::close), and write what it gave.
#[derive(Default)]
pub struct Channel {
    #[cfg(feature = "tls")]
    tls: Option<Box<Secured>>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("is_tls", &self.is_tls()).finish()
    }
}

#[cfg(feature = "tls")]
impl Channel {
    /// From here on the bytes are those of TLS, as its client.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used.
    pub fn start_client(&mut self, tls: &TlsClient) -> io::Result<()> {
        self.tls = Some(Box::new(Secured::client(tls)?));
        Ok(())
    }

    /// From here on the bytes are those of TLS, as its server.
    ///
    /// # Errors
    ///
    /// The configuration cannot be used.
    pub fn start_server(&mut self, tls: &TlsServer) -> io::Result<()> {
        self.tls = Some(Box::new(Secured::server(tls)?));
        Ok(())
    }

    /// Who the peer is, once TLS is established.
    pub fn identity(&self) -> Option<super::tls::TlsIdentity> {
        self.tls.as_ref().map(|tls| tls.identity())
    }

    fn secured(&mut self) -> Option<&mut Secured> {
        self.tls.as_deref_mut()
    }

    fn seen(&self) -> Option<&Secured> {
        self.tls.as_deref()
    }
}

/// Without TLS there is nothing in between; these say so to the code that both have in common.
#[cfg(not(feature = "tls"))]
impl Channel {
    fn secured(&mut self) -> Option<&mut Never> {
        None
    }

    fn seen(&self) -> Option<&Never> {
        None
    }
}

impl Channel {
    /// Gives `take` the connection's input that is in `data`, piece by piece; `take` says how much of a piece the
    /// connection took. Returns how much of `data` need not be offered again. Call it with no data when the connection
    /// wants to read again: some of what it did not take may be here.
    ///
    /// # Errors
    ///
    /// TLS has failed. Tell the connection that its transport has; an alert for the peer may be there to transmit.
    pub fn handle_input(&mut self, data: &[u8], mut take: impl FnMut(&[u8]) -> usize) -> io::Result<usize> {
        match self.secured() {
            Some(tls) => tls.handle_input(data, take),
            None if data.is_empty() => Ok(0),
            None => Ok(take(data)),
        }
    }

    /// Appends to `out` what the socket should carry now; `make` is the connection's `poll_transmit`. Returns how many
    /// bytes that are.
    pub fn poll_transmit(&mut self, out: &mut Vec<u8>, make: impl FnOnce(&mut Vec<u8>) -> usize) -> usize {
        match self.secured() {
            Some(tls) => tls.poll_transmit(out, make),
            None => make(out),
        }
    }

    /// True once, when TLS has been established.
    pub fn poll_established(&mut self) -> bool {
        self.secured().is_some_and(|tls| tls.poll_established())
    }

    /// Whether the socket should be read; `connection` says whether the connection wants to.
    pub fn wants_read(&self, connection: bool) -> bool {
        self.seen().map_or(connection, |tls| tls.wants_read(connection))
    }

    /// Whether there is input here that the connection has not taken.
    pub fn has_input(&self) -> bool {
        self.seen().is_some_and(|tls| tls.has_input())
    }

    /// Whether the peer has ended TLS in order, and all that came before was taken.
    pub fn has_ended(&self) -> bool {
        self.seen().is_some_and(|tls| tls.has_ended())
    }

    /// Whether the bytes are those of TLS.
    pub fn is_tls(&self) -> bool {
        self.seen().is_some()
    }

    /// How many bytes of messages are here, in clear.
    #[cfg(any(feature = "smol", feature = "thread"))]
    pub(super) fn buffered_bytes(&self) -> usize {
        self.seen().map_or(0, |tls| tls.buffered_bytes())
    }

    /// Ends TLS in order: appends the last bytes to `out`.
    pub fn close(&mut self, out: &mut Vec<u8>) {
        if let Some(tls) = self.secured() {
            tls.close(out);
        }
    }
}

/// The core speaks of TLS only if it was told to.
pub(super) fn no_tls() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "TLS is not set up")
}

/// What there is none of without the feature `tls`.
#[cfg(not(feature = "tls"))]
enum Never {}

#[cfg(not(feature = "tls"))]
impl Never {
    fn handle_input(&mut self, _: &[u8], _: impl FnMut(&[u8]) -> usize) -> io::Result<usize> {
        match *self {}
    }

    fn poll_transmit(&mut self, _: &mut Vec<u8>, _: impl FnOnce(&mut Vec<u8>) -> usize) -> usize {
        match *self {}
    }

    fn poll_established(&mut self) -> bool {
        match *self {}
    }

    fn wants_read(&self, _: bool) -> bool {
        match *self {}
    }

    fn has_input(&self) -> bool {
        match *self {}
    }

    fn has_ended(&self) -> bool {
        match *self {}
    }

    #[cfg(any(feature = "smol", feature = "thread"))]
    fn buffered_bytes(&self) -> usize {
        match *self {}
    }

    fn close(&mut self, _: &mut Vec<u8>) {
        match *self {}
    }
}
