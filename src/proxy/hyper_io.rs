//! What hyper reads and writes, over any stream of bytes.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use smol::io::{AsyncRead, AsyncWrite};

/// The most that one read takes.
const READ_BYTES: usize = 64 * 1024;
/// So much may come in a row before other tasks have their turn. Else a peer that sends frames, or interim responses, as fast
/// as they are read, and which ask for nothing, keeps a thread for itself.
const TURN_BYTES: usize = 16 * 1024;

thread_local! {
    /// Where bytes are read to. hyper's own buffers are not initialized, and to initialize one costs more than to copy the
    /// few bytes of a head.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A stream for hyper.
#[derive(Debug)]
pub(crate) struct HyperIo<S> {
    stream: S,
    is_vectored: bool,
    /// Bytes that have come in this turn.
    taken: usize,
}

impl<S> HyperIo<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self { stream, is_vectored: false, taken: 0 }
    }

    /// Has head and body of a message written from where they are, if the stream does that in one call; else they are
    /// joined first.
    pub(crate) fn vectored(self, is_vectored: bool) -> Self {
        Self { is_vectored, ..self }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> Read for HyperIo<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let turn = std::mem::take(&mut self.taken);
        if turn >= TURN_BYTES {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        SCRATCH.with_borrow_mut(|scratch| {
            if scratch.is_empty() {
                scratch.resize(READ_BYTES, 0);
            }
            let room = buf.remaining().min(READ_BYTES);
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut scratch[..room]))?;
            buf.put_slice(&scratch[..n]);
            self.taken = turn + n;
            Poll::Ready(Ok(()))
        })
    }
}

impl<S: AsyncWrite + Unpin> Write for HyperIo<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.is_vectored
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use hyper::rt::ReadBuf;

    use super::*;

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn who_has_always_more_to_read_lets_others_have_their_turn() {
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut endless = HyperIo::new(smol::io::repeat(b'x'));
        let mut room = [0; 1024];
        let mut reads = 0;
        for turn in 1..=2 {
            while let Poll::Ready(read) =
                Pin::new(&mut endless).poll_read(&mut Context::from_waker(&waker), ReadBuf::new(&mut room).unfilled())
            {
                read.unwrap();
                reads += 1;
            }
            assert_eq!((reads * room.len(), woken.0.load(Ordering::SeqCst)), (turn * TURN_BYTES, turn));
        }
    }
}
