//! What bytes travel on: a TCP connection or a unix socket, in clear or inside TLS.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::{self, Shutdown, SocketAddr};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_rustls::TlsStream;
use mio::net::{TcpStream, UnixStream};
use smol::io::{AsyncRead, AsyncWrite};
use smol::net::AsyncToSocketAddrs;

use super::access::Place;
use super::metrics::Counted;
use super::reactor::{Timer, Watched, Way};
use crate::driver::set_up;

/// The pauses before a unix socket is tried again whose listener has too much to do: the first one, each longer than the one
/// before it, up to the longest. Nothing tells when there is room, and many may wait for it.
const FULL_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_FULL_PAUSE: Duration = Duration::from_millis(50);

/// A connection as the system gives it. `poll_close` ends the sending side only.
#[derive(Debug)]
pub(crate) struct Socket {
    io: Io,
    /// Its place among the connections at once, if it came in.
    _place: Option<Place>,
    /// Counts what it carries.
    counted: Option<Counted>,
}

#[derive(Debug)]
enum Io {
    Tcp(Watched<TcpStream>),
    Unix(Watched<UnixStream>),
}

impl Socket {
    fn new(io: Io) -> Self {
        Self { io, _place: None, counted: None }
    }

    /// A connection over TCP that is there already.
    pub(crate) fn tcp(stream: TcpStream) -> io::Result<Self> {
        set_up(&stream);
        Ok(Self::new(Io::Tcp(Watched::new(stream)?)))
    }

    /// A connection over a unix socket that is there already.
    pub(crate) fn unix(stream: UnixStream) -> io::Result<Self> {
        Ok(Self::new(Io::Unix(Watched::new(stream)?)))
    }

    /// Connects over TCP.
    pub(crate) async fn connect(addr: SocketAddr) -> io::Result<Self> {
        let stream = Watched::new(TcpStream::connect(addr)?)?;
        let is_connected = |stream: &TcpStream| match stream.take_error()? {
            Some(error) => Err(error),
            None => match stream.peer_addr() {
                Ok(_) => Ok(()),
                // Not yet.
                Err(error) if error.kind() == ErrorKind::NotConnected => Err(ErrorKind::WouldBlock.into()),
                Err(error) => Err(error),
            },
        };
        stream.with(Way::Out, is_connected).await?;
        set_up(stream.get_ref());
        Ok(Self::new(Io::Tcp(stream)))
    }

    /// Connects over TCP to the first address of this name, mostly `HOST:PORT`, where that goes.
    pub(crate) async fn connect_to(name: impl AsyncToSocketAddrs) -> io::Result<Self> {
        let mut last = None;
        for addr in smol::net::resolve(name).await? {
            match Self::connect(addr).await {
                Ok(socket) => return Ok(socket),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::new(ErrorKind::NotFound, "the name has no address")))
    }

    /// Connects to the unix socket of that path.
    pub(crate) async fn connect_unix(path: &Path) -> io::Result<Self> {
        let mut pause = FULL_PAUSE;
        loop {
            match UnixStream::connect(path) {
                Ok(stream) => return Self::unix(stream),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    Timer::after(pause).await;
                    pause = (pause * 2).min(LONGEST_FULL_PAUSE);
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn with_place(self, place: Place) -> Self {
        Self { _place: Some(place), ..self }
    }

    pub(crate) fn counted(self, counted: Counted) -> Self {
        Self { counted: Some(counted), ..self }
    }
}

/// Where connections come in over TCP.
#[derive(Debug)]
pub(crate) struct TcpListener(Watched<mio::net::TcpListener>);

impl TcpListener {
    /// Takes one that listens already.
    pub(crate) fn new(listener: net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Watched::new(mio::net::TcpListener::from_std(listener)).map(Self)
    }

    /// Listens on the first address of this name, mostly `HOST:PORT`, where that goes.
    pub(crate) async fn bind(name: impl AsyncToSocketAddrs) -> io::Result<Self> {
        Self::new(net::TcpListener::bind(&*smol::net::resolve(name).await?)?)
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().local_addr()
    }

    /// The next connection, and who is at its far end.
    pub(crate) async fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let (stream, addr) = self.0.with(Way::In, |listener| listener.accept()).await?;
        Ok((Socket::tcp(stream)?, addr))
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
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = each!(&this.io, Io::{Tcp, Unix}, io => io.poll_read(cx, buf));
        this.counted.iter().for_each(|counted| counted.note_read(&done));
        done
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = each!(&this.io, Io::{Tcp, Unix}, io => io.poll_with(Way::Out, cx, |mut io| io.write(buf)));
        this.counted.iter().for_each(|counted| counted.note_written(&done));
        done
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let done = each!(&this.io, Io::{Tcp, Unix}, io => io.poll_with(Way::Out, cx, |mut io| io.write_vectored(bufs)));
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
