//! What links are carried over: TCP, unix sockets, and whatever a caller dials or accepts.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use super::super::address::Address;
use super::super::server::PeerAddr;
use super::super::socket::{from_here, set_up};

/// A stream of bytes both ways, which one thread reads while another writes.
pub trait Stream: Send + Sync + 'static {
    /// Waits for bytes and reads some; 0 at the end.
    ///
    /// # Errors
    ///
    /// The stream has failed.
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize>;

    /// Writes some of the bytes. Waits for room not much longer than the write timeout, and fails then with
    /// [`WouldBlock`](io::ErrorKind::WouldBlock) or [`TimedOut`](io::ErrorKind::TimedOut), having written nothing.
    ///
    /// # Errors
    ///
    /// That, or the stream has failed.
    fn write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Sets how long a write may wait.
    ///
    /// # Errors
    ///
    /// The stream has failed.
    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()>;

    /// Ends one side or both. A `read` under way must return after `Both`.
    ///
    /// # Errors
    ///
    /// The stream has failed.
    fn shutdown(&self, how: Shutdown) -> io::Result<()>;
}

macro_rules! socket_stream {
    ($type:ty) => {
        impl Stream for $type {
            fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
                Read::read(&mut &*self, buffer)
            }

            fn write(&self, bytes: &[u8]) -> io::Result<usize> {
                Write::write(&mut &*self, bytes)
            }

            fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
                <$type>::set_write_timeout(self, Some(timeout))
            }

            fn shutdown(&self, how: Shutdown) -> io::Result<()> {
                <$type>::shutdown(self, how)
            }
        }
    };
}

socket_stream!(TcpStream);
#[cfg(unix)]
socket_stream!(UnixStream);

/// How a client comes to a stream: called for each connection.
pub(super) type Dial = Arc<dyn Fn() -> io::Result<Box<dyn Stream>> + Send + Sync>;

/// Dials an address.
pub(super) fn dial_to(address: Address, timeout: Duration) -> Dial {
    Arc::new(move || match &address {
        Address::Tcp(addr) => Ok(Box::new(dial_tcp(addr, timeout)?)),
        #[cfg(unix)]
        Address::Unix(path) => Ok(Box::new(UnixStream::connect(path)?)),
    })
}

/// Dials the addresses of a name, one after another.
fn dial_tcp(addr: &str, timeout: Duration) -> io::Result<TcpStream> {
    let mut dialled = Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    for addr in addr.to_socket_addrs()? {
        dialled = TcpStream::connect_timeout(&addr, timeout);
        if dialled.is_ok() {
            break;
        }
    }
    dialled.inspect(|stream| set_up(stream))
}

/// How long an accept waits: then it looks whether the server has shut down, if it could not be woken.
const ACCEPT_WAIT: Duration = Duration::from_millis(250);

/// Where links come in.
pub trait Listener: Send + Sync {
    /// What it accepts.
    type Stream: Stream;

    /// Waits for the next stream.
    ///
    /// # Errors
    ///
    /// Nothing could be accepted this time, or nothing came; the server tries again, if it has not shut down.
    fn accept(&self) -> io::Result<(Self::Stream, PeerAddr)>;

    /// Has an `accept` under way return, with an error or with any stream, which is dropped: the server shuts down.
    fn wake(&self);
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<(TcpStream, PeerAddr)> {
        SockRef::from(self).set_read_timeout(Some(ACCEPT_WAIT))?;
        let (stream, addr) = TcpListener::accept(self)?;
        // It has that of its listener.
        stream.set_read_timeout(None)?;
        set_up(&stream);
        Ok((stream, addr.into()))
    }

    fn wake(&self) {
        // It may reach somebody else, or fail: then the accept has to end by itself.
        if let Ok(addr) = self.local_addr() {
            let _ = TcpStream::connect_timeout(&from_here(addr), Duration::from_secs(1));
        }
    }
}

#[cfg(unix)]
impl Listener for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<(UnixStream, PeerAddr)> {
        SockRef::from(self).set_read_timeout(Some(ACCEPT_WAIT))?;
        let (stream, _) = UnixListener::accept(self)?;
        stream.set_read_timeout(None)?;
        Ok((stream, PeerAddr::Unix))
    }

    fn wake(&self) {
        if let Ok(addr) = self.local_addr() {
            let _ = UnixStream::connect_addr(&addr);
        }
    }
}
