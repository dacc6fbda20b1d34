//! The loop that carries a link over a stream: one task, one stream, one timer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use smol::io::{AsyncRead, AsyncWrite};

use super::super::carrier::{Carrier, Endpoint, Patience};
use super::super::timed::Timed;
use super::stream::Stream;
use super::wait::{Alarm, wait};

/// Runs a link until it is over. Returns the endpoint, and what the stream failed with, if it did.
pub(super) async fn carry<A: Alarm, E: Endpoint, S: Stream>(
    endpoint: E,
    stream: S,
    patience: Patience,
) -> (E, Option<io::Error>) {
    let mut link = Link { carrier: Carrier::new(endpoint, patience), stream };
    wait::<A, _>(&mut link).await;
    link.carrier.into_parts()
}

/// A link that one task carries.
struct Link<E, S> {
    carrier: Carrier<E>,
    stream: S,
}

impl<E: Endpoint, S: AsyncRead + AsyncWrite + Unpin> Timed for Link<E, S> {
    type Output = ();

    fn poll_at(&mut self, _: Instant, context: &mut Context<'_>) -> Poll<()> {
        let Self { carrier, stream } = self;
        loop {
            while carrier.turn(Instant::now()) {
                if carrier.has_input() {
                    // Others have their turn.
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if carrier.is_over() {
                return Poll::Ready(());
            }
            let mut is_idle = carrier.endpoint.poll_commands(context).is_pending();
            while !carrier.output().is_empty()
                && let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(context, carrier.output())
            {
                is_idle = false;
                carrier.handle_written(Instant::now(), written);
            }
            if carrier.wants_read()
                && let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(context, carrier.input_room())
            {
                is_idle = false;
                carrier.handle_read(Instant::now(), read);
                if carrier.is_lingering() && !carrier.is_over() {
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            if carrier.wants_shutdown()
                && let Poll::Ready(done) = Pin::new(&mut *stream).poll_close(context)
            {
                is_idle = false;
                carrier.handle_shutdown(done);
            }
            is_idle &= !carrier.act_if_due(Instant::now());
            if is_idle {
                return Poll::Pending;
            }
        }
    }

    fn next_at(&self) -> Option<Instant> {
        self.carrier.poll_timeout()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::super::super::carrier::tests::unasked;
    use super::super::super::options::ServerOptions;
    use super::*;

    /// Somebody who is not understood, and writes on and on.
    struct Chatter(usize);

    impl AsyncRead for Chatter {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, data: &mut [u8]) -> Poll<io::Result<usize>> {
            self.0 += 1;
            data.fill(b'x');
            Poll::Ready(Ok(data.len()))
        }
    }

    impl AsyncWrite for Chatter {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(data.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn who_writes_on_when_all_is_said_does_not_keep_others_from_their_turn() {
        // R-server-linger
        let now = Instant::now();
        let mut link = Link { carrier: unasked(ServerOptions::default(), now), stream: Chatter(0) };
        for turn in 1..10 {
            assert!(link.poll_at(now, &mut Context::from_waker(Waker::noop())).is_pending());
            assert!(link.stream.0 <= 2 * turn, "{} reads in {turn} turns", link.stream.0);
        }
    }
}
