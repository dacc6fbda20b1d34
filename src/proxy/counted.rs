//! A stream that counts what goes through it: hyper tells neither whether a response has begun nor whether one is
//! still leaving.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use smol::io::{AsyncRead, AsyncWrite};

use super::stream::Stream;

/// How many bytes a stream has carried each way.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    received: AtomicU64,
    sent: AtomicU64,
    /// Something was to be written, or flushed, that the stream has not taken.
    is_blocked: AtomicBool,
}

impl Counts {
    pub(crate) fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Whether something waits to be written.
    pub(crate) fn is_blocked(&self) -> bool {
        self.is_blocked.load(Ordering::Relaxed)
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
        self.counts.is_blocked.store(written.is_pending(), Ordering::Relaxed);
        if let Poll::Ready(Ok(n)) = written {
            self.counts.sent.fetch_add(n as u64, Ordering::Relaxed);
        }
        written
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Ok(n)) = read {
            self.counts.received.fetch_add(n as u64, Ordering::Relaxed);
        }
        read
    }
}

impl AsyncWrite for Counted {
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        self.counts.is_blocked.store(flushed.is_pending(), Ordering::Relaxed);
        flushed
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let closed = Pin::new(&mut self.stream).poll_close(cx);
        self.counts.is_blocked.store(closed.is_pending(), Ordering::Relaxed);
        closed
    }
}
