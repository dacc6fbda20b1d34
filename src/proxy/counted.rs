//! A stream for hyper that counts what goes through it: hyper tells neither whether a response has begun nor whether one
//! is still leaving.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use smol::io::{AsyncRead, AsyncWrite};

use super::stream::Stream;

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;

thread_local! {
    /// Where bytes are read to. hyper's own buffers are not initialized, and to initialize one costs more than to copy the
    /// few bytes of a head.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How many bytes a stream has carried each way.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
}

impl Counts {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

/// A stream that counts.
#[derive(Debug)]
pub(crate) struct Counted {
    stream: Stream,
    counts: Arc<Counts>,
}

impl Counted {
    pub(crate) fn new(stream: Stream, counts: Arc<Counts>) -> Self {
        Self { stream, counts }
    }

    pub(crate) fn into_inner(self) -> Stream {
        self.stream
    }

    fn count_sent(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = written {
            self.counts.sent.fetch_add(n as u64, Ordering::Relaxed);
        }
        written
    }
}

impl Read for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(READ_BYTES, 0);
            }
            let room = buf.remaining().min(READ_BYTES);
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch[..room]))?;
            buf.put_slice(&scratch[..n]);
            self.counts.received.fetch_add(n as u64, Ordering::Relaxed);
            Poll::Ready(Ok(()))
        })
    }
}

impl Write for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.count_sent(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count_sent(written)
    }

    fn is_write_vectored(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
