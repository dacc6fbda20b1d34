//! How a task waits.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Instant;

use smol::Timer;

use super::super::timed::Timed;

/// Waits for the end of `timed`.
pub(super) async fn wait<T: Timed>(mut timed: T) -> T::Output {
    let (mut timer, mut set_at) = (Timer::never(), None);
    poll_fn(|context| {
        loop {
            if let Poll::Ready(output) = timed.poll_at(Instant::now(), context) {
                return Poll::Ready(output);
            }
            let Some(at) = timed.next_at() else { return Poll::Pending };
            // Set anew only if its time has changed.
            if set_at.replace(at) != Some(at) {
                timer.set_at(at);
            }
            if Pin::new(&mut timer).poll(context).is_pending() {
                return Poll::Pending;
            }
            set_at = None;
        }
    })
    .await
}
