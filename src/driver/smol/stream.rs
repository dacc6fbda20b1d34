//! What links are carried over: TCP, unix sockets, and whatever a caller dials or accepts.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use smol::io::{AsyncRead, AsyncWrite};
#[cfg(unix)]
use smol::net::unix::{UnixListener, UnixStream};
use smol::net::{TcpListener, TcpStream};

use super::super::address::Address;
use super::super::server::PeerAddr;
use super::super::socket::set_up;

/// A stream of bytes both ways. `poll_close` ends the sending side only.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// How a client comes to a stream: called for each connection.
pub(super) type Dial = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = io::Result<Box<dyn Stream>>> + Send>> + Send + Sync>;

/// Dials an address.
pub(super) fn dial_to(address: Address) -> Dial {
    Arc::new(move || {
        let address = address.clone();
        Box::pin(async move {
            match address {
                Address::Tcp(addr) => {
                    let stream = TcpStream::connect(addr).await?;
                    set_up(&stream);
                    Ok(Box::new(stream) as Box<dyn Stream>)
                }
                #[cfg(unix)]
                Address::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?) as Box<dyn Stream>),
            }
        })
    })
}

/// Where links come in.
pub trait Listener: Send + Sync + 'static {
    /// What it accepts.
    type Stream: Stream;

    /// Waits for the next stream. Dropping the future loses none.
    ///
    /// # Errors
    ///
    /// Nothing could be accepted this time; the server tries again a little later.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, PeerAddr)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, PeerAddr)> {
        let (stream, addr) = TcpListener::accept(self).await?;
        set_up(&stream);
        Ok((stream, addr.into()))
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, PeerAddr)> {
        let (stream, _) = UnixListener::accept(self).await?;
        Ok((stream, PeerAddr::Unix))
    }
}
