//! Streams in memory for both drivers, in place of sockets.

use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use httpteleport::driver::{PeerAddr, smol as tasks, thread};
use smol::channel::{Receiver, Sender, unbounded};
use smol::io::{AsyncRead, AsyncWrite};

/// What is between two ends at most: as much as a socket buffers.
const BUFFER_BYTES: usize = 256 * 1024;

/// A stream for tasks.
pub struct TaskStream {
    reader: piper::Reader,
    writer: piper::Writer,
}

impl TaskStream {
    pub fn pair() -> (Self, Self) {
        let (up, down) = (piper::pipe(BUFFER_BYTES), piper::pipe(BUFFER_BYTES));
        (Self { reader: down.0, writer: up.1 }, Self { reader: up.0, writer: down.1 })
    }
}

impl AsyncRead for TaskStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

impl AsyncWrite for TaskStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(context)
    }

    fn poll_close(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_close(context)
    }
}

/// Where links come in that are dialled in memory; `S` is the stream.
pub struct Door<S> {
    knock: Sender<S>,
    opened: Receiver<S>,
}

impl<S> Door<S> {
    pub fn new() -> Self {
        let (knock, opened) = unbounded();
        Self { knock, opened }
    }
}

impl<S> Clone for Door<S> {
    fn clone(&self) -> Self {
        Self { knock: self.knock.clone(), opened: self.opened.clone() }
    }
}

impl Door<TaskStream> {
    pub fn dial(&self) -> TaskStream {
        let (near, far) = TaskStream::pair();
        self.knock.try_send(far).expect("the door stays open");
        near
    }
}

impl tasks::Listener for Door<TaskStream> {
    type Stream = TaskStream;

    async fn accept(&self) -> io::Result<(TaskStream, PeerAddr)> {
        let stream = self.opened.recv().await.map_err(io::Error::other)?;
        Ok((stream, PeerAddr::Other("memory".into())))
    }
}

/// A stream for threads.
pub struct ThreadStream {
    reader: Arc<Pipe>,
    writer: Arc<Pipe>,
}

#[derive(Default)]
struct Pipe {
    inner: Mutex<Inner>,
    moved: Condvar,
}

#[derive(Default)]
struct Inner {
    bytes: VecDeque<u8>,
    is_closed: bool,
}

impl Pipe {
    fn close(&self) {
        self.inner.lock().expect("nobody panics").is_closed = true;
        self.moved.notify_all();
    }
}

impl ThreadStream {
    pub fn pair() -> (Self, Self) {
        let (up, down) = (Arc::<Pipe>::default(), Arc::<Pipe>::default());
        (Self { reader: down.clone(), writer: up.clone() }, Self { reader: up, writer: down })
    }
}

impl thread::Stream for ThreadStream {
    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut inner = self.reader.inner.lock().expect("nobody panics");
        while inner.bytes.is_empty() && !inner.is_closed {
            inner = self.reader.moved.wait(inner).expect("nobody panics");
        }
        let was_full = inner.bytes.len() >= BUFFER_BYTES;
        let n = io::Read::read(&mut inner.bytes, buffer)?;
        if was_full {
            self.reader.moved.notify_all();
        }
        Ok(n)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.writer.inner.lock().expect("nobody panics");
        while inner.bytes.len() >= BUFFER_BYTES && !inner.is_closed {
            inner = self.writer.moved.wait(inner).expect("nobody panics");
        }
        if inner.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let n = bytes.len().min(BUFFER_BYTES - inner.bytes.len());
        let was_empty = inner.bytes.is_empty();
        inner.bytes.extend(&bytes[..n]);
        if was_empty {
            self.writer.moved.notify_all();
        }
        Ok(n)
    }

    fn set_write_timeout(&self, _: Duration) -> io::Result<()> {
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.reader.close();
        }
        if how != Shutdown::Read {
            self.writer.close();
        }
        Ok(())
    }
}

impl Door<ThreadStream> {
    pub fn dial(&self) -> ThreadStream {
        let (near, far) = ThreadStream::pair();
        self.knock.try_send(far).expect("the door stays open");
        near
    }
}

impl thread::Listener for Door<ThreadStream> {
    type Stream = ThreadStream;

    fn accept(&self) -> io::Result<(ThreadStream, PeerAddr)> {
        let stream = self.opened.recv_blocking().map_err(io::Error::other)?;
        Ok((stream, PeerAddr::Other("memory".into())))
    }

    fn wake(&self) {
        let _ = self.knock.try_send(ThreadStream::pair().0);
    }
}
