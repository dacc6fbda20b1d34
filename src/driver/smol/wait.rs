//! How a task waits.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use smol::Timer;

use super::super::timed::Timed;

/// A timer. Whoever has sockets of its own kind can have timers of the same kind.
pub(crate) trait Alarm: Future + Send + Unpin + 'static {
    /// One that does not end.
    fn never() -> Self;
    /// Has it end then.
    fn set_at(&mut self, at: Instant);
}

impl Alarm for Timer {
    fn never() -> Self {
        Self::never()
    }

    fn set_at(&mut self, at: Instant) {
        self.set_at(at);
    }
}

/// Waits for the end of `timed`.
pub(super) async fn wait<A: Alarm, T: Timed>(mut timed: T) -> T::Output {
    let (mut alarm, mut set_at) = (A::never(), None);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(output) = timed.poll_at(Instant::now(), context) {
                return Poll::Ready(output);
            }
            let Some(at) = timed.next_at() else { return Poll::Pending };
            // Only if it would end too late: times are put off with every request, and to wake up once for nothing costs less
            // than to set a timer as often.
            if set_at.is_none_or(|set_at| at < set_at) {
                alarm.set_at(at);
                set_at = Some(at);
            }
            if Pin::new(&mut alarm).poll(context).is_pending() {
                return Poll::Pending;
            }
            set_at = None;
        }
    })
    .await
}
