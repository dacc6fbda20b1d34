//! The loop that carries a link over a stream: one task, one stream, one timer.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use smol::Timer;
use smol::future::FutureExt;
use smol::io::{AsyncReadExt, AsyncWriteExt};

use super::super::carrier::{Carrier, Endpoint, Patience};
use super::stream::Stream;

/// How long a closed link goes on reading, so that what it wrote is not destroyed by a reset (R-server-linger).
const LINGER: Duration = Duration::from_secs(1);

/// Runs a link until it is over; then lingers, if it should. Whoever waits for its end to try another has no time for
/// that. Returns the endpoint, and what the stream failed with, if it did.
pub(super) async fn carry<E: Endpoint, S: Stream>(
    endpoint: E,
    mut stream: S,
    patience: Patience,
    lingers: bool,
) -> (E, Option<io::Error>) {
    let mut carrier = Carrier::new(endpoint, patience);
    let mut clock = Clock::default();
    loop {
        while carrier.turn(Instant::now()) {
            if carrier.has_input() {
                smol::future::yield_now().await;
            }
        }
        if carrier.is_over() {
            break;
        }
        poll_fn(|context| poll(&mut carrier, &mut stream, &mut clock, context)).await;
    }
    let has_eof = carrier.has_eof();
    let (endpoint, error) = carrier.into_parts();
    if lingers && !has_eof && error.is_none() {
        let end = Instant::now() + LINGER;
        linger(&mut stream, endpoint.end_at().map_or(end, |at| at.min(end))).await;
    }
    (endpoint, error)
}

/// Ready when anything has happened.
fn poll<E: Endpoint>(
    carrier: &mut Carrier<E>,
    stream: &mut impl Stream,
    clock: &mut Clock,
    context: &mut Context<'_>,
) -> Poll<()> {
    let mut ready = carrier.endpoint.poll_commands(context).is_ready();
    while !carrier.output().is_empty() {
        let Poll::Ready(written) = Pin::new(&mut *stream).poll_write(context, carrier.output()) else { break };
        ready = true;
        match written {
            Ok(0) => carrier.fail(Instant::now(), io::ErrorKind::WriteZero.into()),
            Ok(n) => carrier.note_written(Instant::now(), n),
            Err(error) => carrier.fail(Instant::now(), error),
        }
    }
    if carrier.wants_read()
        && let Poll::Ready(read) = Pin::new(stream).poll_read(context, carrier.input_room())
    {
        ready = true;
        match read {
            Ok(n) => carrier.note_read(Instant::now(), n),
            Err(error) => carrier.fail(Instant::now(), error),
        }
    }
    if clock.poll(carrier.poll_timeout(), context) {
        ready = true;
        carrier.handle_timeout(Instant::now());
    }
    if ready { Poll::Ready(()) } else { Poll::Pending }
}

/// A timer that is set anew only if its time has changed.
pub(super) struct Clock {
    timer: Timer,
    at: Option<Instant>,
}

impl Default for Clock {
    fn default() -> Self {
        Self { timer: Timer::never(), at: None }
    }
}

impl Clock {
    /// Whether it is time.
    pub(super) fn poll(&mut self, at: Option<Instant>, context: &mut Context<'_>) -> bool {
        let Some(at) = at else { return false };
        if self.at != Some(at) {
            self.at = Some(at);
            self.timer.set_at(at);
        }
        let fired = Pin::new(&mut self.timer).poll(context).is_ready();
        if fired {
            self.at = None;
        }
        fired
    }
}

/// Closes the sending side and drops what still comes, until then.
async fn linger(stream: &mut impl Stream, end: Instant) {
    if stream.close().await.is_err() {
        return;
    }
    let mut discarded = vec![0; 16 * 1024];
    let discard = async { while matches!(stream.read(&mut discarded).await, Ok(n) if n > 0) {} };
    let limit = async {
        Timer::at(end).await;
    };
    discard.or(limit).await;
}
