//! Streams whose writes are counted.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use httpteleport::driver::{PeerAddr, smol as tasks, thread};
use smol::io::{AsyncRead, AsyncWrite};

/// How many bytes each call wrote that wrote any.
#[derive(Clone, Default)]
pub struct Writes(Arc<Mutex<Vec<usize>>>);

impl Writes {
    /// Nobody asks before the write is noted: what it brings about can come earlier than its own end.
    fn note(&self, write: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        let mut sizes = self.0.lock().unwrap();
        write().inspect(|size| sizes.push(*size))
    }

    pub fn count(&self) -> u64 {
        self.0.lock().unwrap().len() as u64
    }

    pub fn largest(&self) -> usize {
        self.0.lock().unwrap().iter().copied().max().unwrap_or(0)
    }
}

/// A stream whose writes are counted.
pub struct Counted<S>(pub S, pub Writes);

impl thread::Stream for Counted<TcpStream> {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.1.note(|| self.0.write(bytes))
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.0.set_write_timeout(Some(timeout))
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.0.shutdown(how)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self(stream, writes) = self.get_mut();
        let written = writes.note(|| match Pin::new(stream).poll_write(context, bytes) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        });
        match written {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            written => Poll::Ready(written),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(context)
    }
}

/// A listener whose streams are.
pub struct Counting<L>(pub L, pub Writes);

impl thread::Listener for Counting<TcpListener> {
    type Stream = Counted<TcpStream>;

    fn accept(&self) -> io::Result<(Self::Stream, PeerAddr)> {
        let (stream, peer) = thread::Listener::accept(&self.0)?;
        Ok((Counted(stream, self.1.clone()), peer))
    }

    fn wake(&self) {
        thread::Listener::wake(&self.0);
    }
}

impl<L: tasks::Listener> tasks::Listener for Counting<L> {
    type Stream = Counted<L::Stream>;

    async fn accept(&self) -> io::Result<(Self::Stream, PeerAddr)> {
        let (stream, peer) = self.0.accept().await?;
        Ok((Counted(stream, self.1.clone()), peer))
    }
}
