//! What bytes travel on: a TCP connection or a unix socket, in clear or inside TLS.

use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{self, Shutdown};
use std::os::unix;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_rustls::TlsStream;
use smol::Async;
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::TcpStream;
use smol::net::unix::UnixStream;

use super::access::Place;
use super::metrics::Counted;
use crate::driver::set_up;

/// A connection as the system gives it. `poll_close` ends the sending side only.
#[derive(Debug)]
pub(crate) struct Socket {
    io: Io,
    /// Its place among the connections at once, if it came in.
    _place: Option<Place>,
    /// Counts what it carries.
    counted: Option<Counted>,
    /// The last read took all that was there: before the next one the system has to say that there is more.
    is_drained: bool,
}

#[derive(Debug)]
enum Io {
    Tcp(Arc<Async<net::TcpStream>>),
    Unix(Arc<Async<unix::net::UnixStream>>),
}

impl Socket {
    fn new(io: Io) -> Self {
        Self { io, _place: None, counted: None, is_drained: false }
    }

    pub(crate) fn with_place(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }

    pub(crate) fn counted(self, counted: Counted) -> Self {
        Self { counted: Some(counted), ..self }
    }
}

impl From<TcpStream> for Socket {
    fn from(stream: TcpStream) -> Self {
        set_up(&stream);
        Self::new(Io::Tcp(stream.into()))
    }
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self::new(Io::Unix(stream.into()))
    }
}

/// A connection that HTTP is spoken on.
#[derive(Debug)]
pub(crate) enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Stream {
    /// What both ends have agreed to speak inside TLS.
    pub(crate) fn protocol(&self) -> Option<&[u8]> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol(),
        }
    }
}

/// Calls the same method on whatever it is.
macro_rules! each {
    ($stream:expr, $type:ident::{$($kind:ident),+}, $inner:ident => $call:expr) => {
        match $stream {
            $($type::$kind($inner) => $call,)+
        }
    };
}

impl AsyncRead for Socket {
    /// Asks the system for what a read that came back short has not found only once there is more: HTTP is polled several
    /// times for each request, and each time would be a call that finds nothing.
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            if this.is_drained {
                ready!(each!(&this.io, Io::{Tcp, Unix}, io => io.poll_readable(cx)))?;
                this.is_drained = false;
            }
            let read = each!(&this.io, Io::{Tcp, Unix}, io => io.get_ref().read(buf));
            match &read {
                Ok(n) => this.is_drained = (1..buf.len()).contains(n),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    this.is_drained = true;
                    continue;
                }
                Err(_) => {}
            }
            let done = Poll::Ready(read);
            this.counted.iter().for_each(|counted| counted.note_read(&done));
            return done;
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = each!(&this.io, Io::{Tcp, Unix}, io => Pin::new(&mut &**io).poll_write(cx, buf));
        this.counted.iter().for_each(|counted| counted.note_written(&done));
        done
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = each!(&this.io, Io::{Tcp, Unix}, io => Pin::new(&mut &**io).poll_write_vectored(cx, bufs));
        this.counted.iter().for_each(|counted| counted.note_written(&done));
        done
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(each!(&self.io, Io::{Tcp, Unix}, io => io.get_ref().shutdown(Shutdown::Write)))
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), Stream::{Plain, Tls}, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), Stream::{Plain, Tls}, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self.get_mut(), Stream::{Plain, Tls}, stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), Stream::{Plain, Tls}, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self.get_mut(), Stream::{Plain, Tls}, stream => Pin::new(stream).poll_close(cx))
    }
}
