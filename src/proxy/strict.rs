//! A stream of HTTP/1 requests that ends where two readers could delimit them differently (R-proxy-strict): what [`Gate`]
//! makes of what comes, with what it takes in memory.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use smol::io::{AsyncRead, AsyncWrite};

use super::activity::Activity;
use super::counted::Counted;
use super::gate::Gate;
use crate::driver::Charge;

/// So much of a head may come though memory is used up: most requests are whole by then, and refused by name.
const FREE_HEAD_BYTES: usize = 4 * 1024;
/// How often it reads on that nothing of what came is for hyper, such as empty lines, before other tasks have their turn.
const READS_IN_A_TURN: usize = 4;
/// How much is read to see whether there is anything.
const AHEAD_BYTES: usize = 1024;

/// A stream that hyper reads requests from.
#[derive(Debug)]
pub(crate) struct Strict {
    stream: Counted,
    activity: Arc<Activity>,
    gate: Gate,
    /// What the connection takes, and the head that is under way.
    charge: Charge,
    base: usize,
}

impl Strict {
    /// Heads are no larger than `max_head_bytes`. What is refused is said in `activity`. `base` is what the connection takes
    /// in any case.
    pub(crate) fn new(
        stream: Counted,
        activity: Arc<Activity>,
        max_head_bytes: usize,
        mut charge: Charge,
        base: usize,
    ) -> Self {
        charge.set(base);
        Self { stream, activity, gate: Gate::new(max_head_bytes), charge, base }
    }

    pub(crate) fn into_inner(self) -> Counted {
        self.stream
    }

    /// What it takes in any case, from now on.
    pub(crate) fn set_base(&mut self, bytes: usize) {
        self.base = bytes;
        self.count();
    }

    /// Has the budget know what it takes.
    fn count(&mut self) {
        self.charge.set(self.base + self.gate.held_bytes());
    }

    /// Gives back what was read from it.
    pub(crate) fn unread(&mut self, bytes: Bytes) {
        self.gate.unread(bytes);
    }

    /// Ready when there is something to read, or an end, or an error.
    pub(crate) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.gate.is_ahead() {
            return Poll::Ready(Ok(true));
        }
        let mut buf = [0; AHEAD_BYTES];
        let n = ready!(Pin::new(&mut *self).poll_read(cx, &mut buf))?;
        self.unread(Bytes::copy_from_slice(&buf[..n]));
        Poll::Ready(Ok(n > 0))
    }
}

impl AsyncRead for Strict {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        for _ in 0..READS_IN_A_TURN {
            if let Some(n) = self.gate.read(buf) {
                return Poll::Ready(Ok(n));
            }
            let n = ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
            if n == 0 {
                return Poll::Ready(Ok(0));
            }
            let (good, mut refusal) = self.gate.take(&buf[..n]);
            self.count();
            if self.gate.held_bytes() > FREE_HEAD_BYTES && self.charge.budget().is_full() {
                self.charge.budget().note_shed();
                refusal = Some(self.gate.give_up());
                self.count();
            }
            if let Some((number, refused)) = refusal {
                self.activity.refuse(number, refused);
            }
            self.activity.set_in_head(self.gate.held_bytes() > 0);
            if good > 0 {
                return Poll::Ready(Ok(good));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl AsyncWrite for Strict {
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

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
